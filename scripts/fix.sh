#!/usr/bin/env bash
# Puts right what a program can put right: formatting and the lints with a known fix. Only writes; check.sh reads.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    echo "usage: scripts/fix.sh    formats the sources and applies the fixes that clippy knows"
    exit 0
fi

cargo clippy --fix --allow-dirty --allow-staged --all-targets
cargo fmt
