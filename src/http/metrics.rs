//! Metrics for Prometheus: what the process recorded, and what the status tells at this moment.

use std::fmt::Write as _;
use std::io;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::wire::metric::{self, Kind};
use crate::wire::status::ServerStatus;

/// Bounds of the buckets of durations, in seconds: from a cached answer to the longest deadline.
const BUCKETS: &[f64] = &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

/// Makes this process record metrics, and gives what reads them. To be called once, before anything records.
///
/// # Errors
/// When the process records metrics already.
pub fn install() -> io::Result<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), BUCKETS)
        .map_err(io::Error::other)?;
    let handle = builder.install_recorder().map_err(io::Error::other)?;
    for m in metric::ALL {
        match m.kind {
            Kind::Counter => ::metrics::describe_counter!(m.name, m.help),
            Kind::Gauge => ::metrics::describe_gauge!(m.name, m.help),
            Kind::Histogram => ::metrics::describe_histogram!(m.name, m.help),
        }
    }
    Ok(handle)
}

/// Everything recorded, then what the status tells.
pub(super) fn render(handle: &PrometheusHandle, server: &ServerStatus) -> String {
    handle.run_upkeep();
    let mut out = handle.render();
    out.push_str(&render_alone(server));
    out
}

/// What the status tells.
pub(super) fn render_alone(server: &ServerStatus) -> String {
    let mut out = Out::default();
    let node = server.node.to_string();
    let info: &[(&str, &str)] = &[
        ("version", &server.version),
        ("role", &server.role.to_string()),
        ("node", &node),
        ("name", &server.name),
        ("cluster", server.cluster.as_deref().unwrap_or("")),
    ];
    out.value(metric::INFO, info, 1_u64);
    out.value(metric::READY, &[], u64::from(server.ready));
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds for people: 285 years of milliseconds are exact"
    )]
    out.value(metric::UPTIME, &[], server.uptime_ms as f64 / 1000.0);
    out.value(metric::RESIDENT, &[], server.resident_bytes);
    for worker in &server.workers {
        out.value(metric::WORKER_ERRORS, &[("worker", &worker.name)], worker.error_count);
    }
    if let Some(meta) = &server.meta {
        out.value(metric::META_LEADER, &[], u64::from(meta.raft_state == "leader"));
        out.value(metric::META_REQUESTS, &[], meta.request_count);
        out.value(metric::META_TERM, &[], meta.term);
        out.value(metric::META_LAST_LOG, &[], meta.last_log);
        out.value(metric::META_COMMITTED, &[], meta.committed);
        out.value(metric::META_APPLIED, &[], meta.applied);
        out.value(metric::META_SNAPSHOT, &[], meta.snapshot);
        for member in &meta.members {
            if let Some(matched) = member.matched {
                out.value(metric::META_MATCHED, &[("member", &member.name)], matched);
            }
        }
        out.value(metric::META_OVERLAY, &[], meta.overlay_bytes);
        out.value(metric::META_CACHE, &[], meta.cache_bytes);
        out.value(metric::META_SLED, &[], meta.sled_bytes);
        out.value(metric::META_SESSIONS, &[], meta.session_count);
        out.value(metric::META_INODES, &[], meta.inode_count);
        out.value(metric::META_EPOCH, &[], meta.epoch);
    }
    if let Some(data) = &server.data {
        for directory in &data.directories {
            out.value(metric::DATA_TOTAL, &[("directory", &directory.path)], directory.total);
        }
        for directory in &data.directories {
            out.value(metric::DATA_FREE, &[("directory", &directory.path)], directory.free);
        }
        for directory in &data.directories {
            let ok = u64::from(directory.state.starts_with("ok"));
            out.value(metric::DATA_DIRECTORY_OK, &[("directory", &directory.path)], ok);
        }
        out.value(metric::DATA_BLOCKS, &[], data.block_count);
        out.value(metric::DATA_READS, &[], data.counters.reads);
        out.value(metric::DATA_READ_BYTES, &[], data.counters.read_bytes);
        out.value(metric::DATA_WRITES, &[], data.counters.writes);
        out.value(metric::DATA_WRITE_BYTES, &[], data.counters.write_bytes);
        out.value(metric::DATA_CORRUPT, &[], data.counters.corrupt);
        out.value(metric::DATA_MENDED, &[], data.counters.mended);
        out.value(metric::DATA_RECLAIMED, &[], data.counters.reclaimed);
        out.value(metric::DATA_IN_FLIGHT, &[], data.in_flight);
    }
    out.text
}

/// Prometheus's text format, one help and type line before the first value of each name.
#[derive(Default)]
struct Out {
    text: String,
    last: &'static str,
}

impl Out {
    fn value(&mut self, name: &'static str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        if self.last != name {
            self.last = name;
            if let Some(m) = metric::ALL.iter().find(|m| m.name == name) {
                let kind = if m.kind == Kind::Counter { "counter" } else { "gauge" };
                let _ = writeln!(self.text, "# HELP {name} {}\n# TYPE {name} {kind}", m.help);
            }
        }
        self.text.push_str(name);
        for (i, (key, label)) in labels.iter().enumerate() {
            let label = label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{key}=\"{label}\"", if i == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::status::{DataStatus, DirectoryStatus};

    #[test]
    fn values_have_help_once_and_labels_are_escaped() {
        let directory =
            |path: &str| DirectoryStatus { path: path.into(), state: "ok".into(), ..Default::default() };
        let data =
            DataStatus { directories: vec![directory("/a\"b"), directory("/c")], ..Default::default() };
        let text = render_alone(&ServerStatus { data: Some(data), ready: true, ..Default::default() });
        assert!(text.contains("pohmelfs_ready 1\n"), "{text}");
        assert!(text.contains("pohmelfs_data_directory_ok{directory=\"/a\\\"b\"} 1\n"), "{text}");
        let help =
            text.lines().filter(|l| l.starts_with("# HELP pohmelfs_data_directory_free_bytes")).count();
        assert_eq!(help, 1);
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(metric::ALL.iter().any(|m| m.name == name), "{name} is not in the list");
        }
    }
}
