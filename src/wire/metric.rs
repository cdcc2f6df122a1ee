//! The names of all metrics, each with its kind and its help. Part of what the outside relies on, like the wire.
//!
//! Recorded anywhere through the `metrics` crate with these constants; described and shown by `http`.
//! Holds: no other name is ever recorded; a counter ends in `_total`, a duration is in seconds, a size in bytes.

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Distribution of durations in seconds.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name as Prometheus sees it.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What it counts, for people.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($konst:ident = $name:literal, $kind:ident, $help:literal;)*) => {
        $(#[doc = $help] pub const $konst: &str = $name;)*

        /// Every metric there is.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, kind: Kind::$kind, help: $help }),*];
    };
}

metrics! {
    INFO = "pohmelfs_info", Gauge, "Always 1; labels: version, role, node, name, cluster.";
    READY = "pohmelfs_ready", Gauge, "1 if the server can do its work now, else 0.";
    UPTIME = "pohmelfs_uptime_seconds", Gauge, "Seconds since the server started.";
    RESIDENT = "pohmelfs_resident_bytes", Gauge, "Resident memory of the process.";
    WORKER_ERRORS = "pohmelfs_worker_errors_total", Counter, "Errors of a background task; label: worker.";
    HTTP_REQUESTS = "pohmelfs_http_requests_total", Counter, "HTTP requests answered; labels: path, status.";
    REQUEST_SECONDS = "pohmelfs_request_seconds", Histogram, "Time to answer a request; label: kind.";
    META_REQUESTS = "pohmelfs_meta_requests_total", Counter, "Requests that a metadata server answered.";
    META_LEADER = "pohmelfs_meta_is_leader", Gauge, "1 on the metadata server that leads, else 0.";
    META_TERM = "pohmelfs_meta_term", Gauge, "Raft term.";
    META_LAST_LOG = "pohmelfs_meta_last_log_index", Gauge, "Index of the last entry in the raft log.";
    META_COMMITTED = "pohmelfs_meta_committed_index", Gauge, "Index up to which entries are committed.";
    META_APPLIED = "pohmelfs_meta_applied_index", Gauge, "Index up to which the state has applied entries.";
    META_SNAPSHOT = "pohmelfs_meta_snapshot_index", Gauge, "Index that the newest snapshot ends at.";
    META_MATCHED = "pohmelfs_meta_matched_index", Gauge, "On the leader: index up to which a member's log matches; label: member.";
    META_OVERLAY = "pohmelfs_meta_overlay_bytes", Gauge, "Changes in memory that the database does not hold yet.";
    META_CACHE = "pohmelfs_meta_cache_bytes", Gauge, "Cache in front of the database.";
    META_SLED = "pohmelfs_meta_sled_bytes", Gauge, "The database on disk.";
    META_SESSIONS = "pohmelfs_meta_sessions", Gauge, "Live sessions.";
    META_INODES = "pohmelfs_meta_inodes", Gauge, "Inodes in the namespace.";
    META_EPOCH = "pohmelfs_meta_map_epoch", Gauge, "Epoch of the cluster map.";
    DATA_TOTAL = "pohmelfs_data_directory_total_bytes", Gauge, "Size of a directory's filesystem; label: directory.";
    DATA_FREE = "pohmelfs_data_directory_free_bytes", Gauge, "What new blocks may still take; label: directory.";
    DATA_DIRECTORY_OK = "pohmelfs_data_directory_ok", Gauge, "1 if a directory works, else 0; label: directory.";
    DATA_BLOCKS = "pohmelfs_data_blocks", Gauge, "Blocks stored, each counted once.";
    DATA_READS = "pohmelfs_data_reads_total", Counter, "Read requests answered.";
    DATA_READ_BYTES = "pohmelfs_data_read_bytes_total", Counter, "Bytes read.";
    DATA_WRITES = "pohmelfs_data_writes_total", Counter, "Blocks written.";
    DATA_WRITE_BYTES = "pohmelfs_data_write_bytes_total", Counter, "Bytes written.";
    DATA_CORRUPT = "pohmelfs_data_corrupt_total", Counter, "Bad copies of blocks found.";
    DATA_MENDED = "pohmelfs_data_mended_total", Counter, "Bad copies replaced by good ones.";
    DATA_RECLAIMED = "pohmelfs_data_reclaimed_total", Counter, "Blocks deleted because nothing refers to them.";
    DATA_IN_FLIGHT = "pohmelfs_data_in_flight", Gauge, "Requests in flight.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_rules() {
        let names: BTreeSet<_> = ALL.iter().map(|m| m.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert!(metric.name.starts_with("pohmelfs_"), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }
}
