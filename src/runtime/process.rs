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
