//! The `pohmelfs` binary: everything is in the library, so that tests call what users run.

/// Servers allocate small records from several threads all the time; the system's allocator took a fifth of their
/// processor time (creates at 256 callers). Without huge pages (`no_thp`): docs/decisions/0005-view.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    pohmelfs::cli::main()
}
