//! Every decoder with valid, mutated and random input, on any machine and in bounded time; `scripts/fuzz` goes on from there.
//!
//! `POHMELFS_FUZZ_SEED` repeats a run, `POHMELFS_FUZZ_ROUNDS` makes it longer, `POHMELFS_FUZZ_CORPUS` names a directory that gets the
//! valid inputs.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{env, fs};

use pohmelfs::fuzz::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// Numbers on which arithmetic breaks, as the codec writes them and as fixed fields hold them.
const EDGES: &[&[u8]] = &[
    &[0],
    &[0xff],
    &[250],
    &[251, 0xff, 0xff],
    &[252, 0xff, 0xff, 0xff, 0xff],
    &[253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[253, 0, 0, 0, 0, 0, 0, 0, 0x80],
    &[253, 0, 0, 0x40, 0, 0, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
];

fn mutated(seeds: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut input = seeds[rng.random_range(0..seeds.len())].clone();
    for _ in 0..rng.random_range(1..5) {
        let at = rng.random_range(0..=input.len());
        let end = rng.random_range(at..=input.len().min(at + 9));
        match rng.random_range(0..6) {
            0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            1 if at < input.len() => input[at] = rng.random(),
            2 => {
                let edge = EDGES[rng.random_range(0..EDGES.len())];
                input.splice(at..end, edge.iter().copied());
            }
            3 => drop(input.drain(at..end)),
            4 => input.truncate(at),
            _ => {
                let other = &seeds[rng.random_range(0..seeds.len())];
                let from = rng.random_range(0..=other.len());
                let to = rng.random_range(from..=other.len().min(from + 64));
                input.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
    input
}

/// The longest round is a namespace that is copied and checked: this many take a second or two without optimisation.
fn rounds(target: &Target) -> u64 {
    let usual =
        if matches!(target.name, "updates" | "namespace_records" | "meta_request") { 600 } else { 4000 };
    number("POHMELFS_FUZZ_ROUNDS").unwrap_or(usual)
}

fn feed(target: &Target, input: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let hex: String = input.iter().map(|b| format!("{b:02x}")).collect();
        panic!("decoder {} failed ({what}); the input is, in hexadecimal, {hex}", target.name);
    }
}

fn torture(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name).unwrap();
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{name} has no valid input");
    for (i, seed) in seeds.iter().enumerate() {
        feed(target, seed, &format!("valid input {i}"));
    }
    let seed = number("POHMELFS_FUZZ_SEED").unwrap_or_else(rand::random);
    println!("{name}: POHMELFS_FUZZ_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..rounds(target) {
        let input = if round % 16 == 0 {
            let mut noise = vec![0; rng.random_range(0..300)];
            rng.fill(&mut noise[..]);
            noise
        } else {
            mutated(&seeds, &mut rng)
        };
        feed(target, &input, &format!("POHMELFS_FUZZ_SEED={seed}, round {round}"));
    }
}

macro_rules! decoders {
    ($($name:ident)*) => {
        $(#[test] fn $name() { torture(stringify!($name)); })*
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

decoders! {
    frame hello rpc_error meta_request meta_reply data_message consensus commands updates namespace_records
    log_record log_segment snapshot dump view_record block_file identity config
}

#[test]
fn every_decoder_is_here_and_has_a_target_under_libfuzzer() {
    let all: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
    assert_eq!(all, NAMES);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for name in all {
        let file = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(file.contains(&format!("fuzz::run(\"{name}\"")), "{name}.rs runs another decoder");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
    }
}

#[test]
fn valid_inputs_are_written_where_asked() {
    let asked = env::var_os("POHMELFS_FUZZ_CORPUS").map(PathBuf::from);
    let temporary = tempfile::tempdir().unwrap();
    let corpus = asked.unwrap_or_else(|| temporary.path().to_owned());
    for target in TARGETS {
        let folder = corpus.join(target.name);
        fs::create_dir_all(&folder).unwrap();
        for (i, seed) in (target.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("valid-{i:03}")), seed).unwrap();
        }
    }
}
