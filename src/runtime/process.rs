//! What the system says of this process.

/// Resident memory of this process, in bytes; 0 if the system does not tell, or in a simulation, where it would differ from run to run.
#[must_use]
pub fn resident_bytes() -> u64 {
    #[cfg(feature = "simulation")]
    if super::simulated::is_simulated() {
        return 0;
    }
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(rustix::param::page_size() as u64)
}

/// Processors that this process may use, at least 1.
#[must_use]
pub fn processor_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Lets memory have huge pages that asks for them (`madvise(2)`, `MADV_HUGEPAGE`), and no other.
///
/// The allocator has forbidden them to the whole process (decision 0005). Where the system gives them to all memory
/// (`/sys/kernel/mm/transparent_hugepage/enabled` says `always`), that stays as it is.
pub fn allow_advised_huge_pages() {
    let mode = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if mode.contains("[madvise]")
        && let Err(error) = rustix::thread::disable_transparent_huge_pages(false)
    {
        tracing::debug!(%error, "no huge pages");
    }
}
