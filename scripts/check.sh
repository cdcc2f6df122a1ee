#!/usr/bin/env bash
# The gate: formatting, lints, scripts, dependencies, the rules of the sources. Only reads; scripts/fix.sh writes.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    echo "usage: scripts/check.sh    fails with the first rule that is broken; changes no file of the sources"
    exit 0
fi

step() { printf '\n== %s\n' "$*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }
[ -x "$HOME/.cargo/bin/cargo" ] && PATH=$PATH:$HOME/.cargo/bin

step formatting
cargo fmt --check

step lints
cargo clippy --all-targets --all-features --locked -- -D warnings
# What ships has no simulation in it.
cargo clippy --lib --bins --locked -- -D warnings

step scripts
if has shellcheck; then
    shellcheck scripts/* .ci/run
else
    echo "skipped: no shellcheck" >&2
fi

step "broken builds"
for patch in tests/simulation/broken/*.patch; do
    git apply --check "$patch" || { echo "$patch does not fit the sources any more" >&2; exit 1; }
done

step dependencies
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --locked check bans licenses sources
    # The list of advisories is fetched: without a network the rest of the gate still counts.
    if ! cargo deny --locked fetch db >/dev/null 2>&1; then
        echo "advisories skipped: the list cannot be fetched" >&2
    else
        cargo deny --locked check advisories
    fi
else
    echo "skipped: no cargo-deny" >&2
fi

step "rules of the sources"
cargo test --locked --quiet --test tidy
