//! See `pohmelfs::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pohmelfs::fuzz::run("dump", input));
