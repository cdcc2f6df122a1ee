//! `pohmelfs stats DIR`: what a mount does, live, as JSON or for Prometheus.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use comfy_table::{CellAlignment, Table};

use super::super::Failure;
use super::super::text::Out;
use crate::mount::status::{self, MountStatus};
use crate::mount::table;
use crate::runtime;

/// Between two looks of `--watch`.
const WATCH_PERIOD: Duration = Duration::from_secs(2);

/// Show what a mount does: operations, latencies, caches, transport.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  pohmelfs stats /mnt/pohmelfs\n  pohmelfs stats --watch /mnt/pohmelfs")]
pub(crate) struct StatsArgs {
    /// Where it is mounted, or anything in it
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// As one JSON document
    #[arg(long, conflicts_with_all = ["prometheus", "watch"])]
    json: bool,
    /// As Prometheus metrics
    #[arg(long, conflicts_with = "watch")]
    prometheus: bool,
    /// Again every two seconds, with rates
    #[arg(long)]
    watch: bool,
}

/// Runs it.
pub(crate) async fn run(args: &StatsArgs) -> Result<ExitCode, Failure> {
    let Some(mounted) = table::find(&args.dir) else {
        return Err(Failure::new(format!(
            "{} is not in a mount of pohmelfs: `mount -t fuse.pohmelfs` lists them",
            args.dir.display()
        )));
    };
    let mut before: Option<MountStatus> = None;
    loop {
        let now = status::ask(&mounted).await.map_err(Failure::new)?;
        let text = match args {
            StatsArgs { json: true, .. } => serde_json::to_string_pretty(&now).map_err(Failure::new)? + "\n",
            StatsArgs { prometheus: true, .. } => prometheus(&now),
            _ => people(&now, before.as_ref()),
        };
        if args.watch {
            print!("\x1b[H\x1b[2J");
        }
        let mut out = Out::new();
        out.write_all(text.as_bytes())?;
        out.end()?;
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        before = Some(now);
        runtime::sleep(WATCH_PERIOD).await;
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn people(s: &MountStatus, before: Option<&MountStatus>) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "{} of {}, mounted {} s ago by process {}",
        s.dir,
        s.cluster.join(","),
        s.uptime_s,
        s.pid
    );
    let _ = writeln!(
        out,
        "transport {}, requests up to {} KiB, {} in flight, {} interrupted, session {}",
        s.transport,
        s.io_len_max >> 10,
        s.in_flight,
        s.interrupts,
        s.session
    );
    let _ = writeln!(
        out,
        "open: {} files, {} directories; dirty {}, cached {} ({} hits, {} misses); bound {}, resident {}",
        s.open_files,
        s.open_dirs,
        mib(s.dirty_bytes),
        mib(s.cache_bytes),
        s.cache_hits,
        s.cache_misses,
        mib(s.memory_max),
        mib(s.resident_bytes)
    );
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["operation", "count", "1/s", "errors", "mean us", "p50 us <", "p99 us <"]);
    for op in &s.ops {
        let old = before.and_then(|b| b.ops.iter().find(|o| o.name == op.name));
        let rate = match before {
            Some(_) => (op.count - old.map_or(0, |o| o.count.min(op.count))) / WATCH_PERIOD.as_secs().max(1),
            None => op.count / s.uptime_s.max(1),
        };
        table.add_row([
            op.name.clone(),
            op.count.to_string(),
            rate.to_string(),
            op.errors.to_string(),
            (op.total_us / op.count.max(1)).to_string(),
            op.p50_us.to_string(),
            op.p99_us.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let _ = writeln!(out, "{table}");
    out
}

fn prometheus(s: &MountStatus) -> String {
    let mut out = String::new();
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let dir = escape(&s.dir);
    let mut family = |name: &str, kind: &str, help: &str, rows: Vec<(String, String)>| {
        let _ = writeln!(out, "# HELP pohmelfs_mount_{name} {help}\n# TYPE pohmelfs_mount_{name} {kind}");
        for (labels, value) in rows {
            let _ = writeln!(out, "pohmelfs_mount_{name}{{dir=\"{dir}\"{labels}}} {value}");
        }
    };
    let op_rows = |value: &dyn Fn(&status::OpStatus) -> String| {
        s.ops.iter().map(|op| (format!(",op=\"{}\"", escape(&op.name)), value(op))).collect::<Vec<_>>()
    };
    family("ops_total", "counter", "Answered operations.", op_rows(&|op| op.count.to_string()));
    family(
        "op_errors_total",
        "counter",
        "Operations answered with an errno.",
        op_rows(&|op| op.errors.to_string()),
    );
    let seconds = |us: u64| format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    family(
        "op_seconds_total",
        "counter",
        "Time from request to answer.",
        op_rows(&|op| seconds(op.total_us)),
    );
    let quantiles = s.ops.iter().flat_map(|op| {
        let label = |q: &str| format!(",op=\"{}\",quantile=\"{q}\"", escape(&op.name));
        [(label("0.5"), seconds(op.p50_us)), (label("0.99"), seconds(op.p99_us))]
    });
    family(
        "op_latency_seconds",
        "gauge",
        "Upper bound of a quantile, to a power of two.",
        quantiles.collect(),
    );
    let transport = format!(",transport=\"{}\",version=\"{}\"", escape(&s.transport), escape(&s.version));
    family("info", "gauge", "Transport and version.", vec![(transport, "1".to_owned())]);
    for (name, kind, help, value) in [
        ("uptime_seconds", "gauge", "Since it was mounted.", s.uptime_s),
        ("in_flight", "gauge", "Requests that are being answered.", s.in_flight),
        ("interrupts_total", "counter", "Signals to callers.", s.interrupts),
        (
            "lock_waits_refused_total",
            "counter",
            "Waits for locks refused for lack of room.",
            s.lock_waits_refused,
        ),
        ("open_files", "gauge", "Open files.", s.open_files),
        ("open_dirs", "gauge", "Open directories.", s.open_dirs),
        ("dirty_bytes", "gauge", "Written and not on their way.", s.dirty_bytes),
        ("cache_bytes", "gauge", "Kept for who reads again.", s.cache_bytes),
        ("cache_hits_total", "counter", "Sectors read from the cache.", s.cache_hits),
        ("cache_misses_total", "counter", "Sectors not in the cache.", s.cache_misses),
        ("memory_max_bytes", "gauge", "Bound of all buffers.", s.memory_max),
        ("resident_bytes", "gauge", "Memory of the process.", s.resident_bytes),
    ] {
        family(name, kind, help, vec![(String::new(), value.to_string())]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_labels_and_values() {
        let op =
            status::OpStatus { name: "read".into(), count: 3, total_us: 1_500_000, ..Default::default() };
        let s = MountStatus { dir: "/a\"b".into(), ops: vec![op], ..MountStatus::default() };
        let text = prometheus(&s);
        assert!(text.contains("pohmelfs_mount_ops_total{dir=\"/a\\\"b\",op=\"read\"} 3\n"), "{text}");
        assert!(text.contains("pohmelfs_mount_op_seconds_total{dir=\"/a\\\"b\",op=\"read\"} 1.500000\n"));
        assert!(people(&s, None).contains("read"));
    }
}
