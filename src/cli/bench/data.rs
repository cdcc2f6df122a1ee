//! `pohmelfs bench data`: how fast files are stored durably, and read back.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets};
use futures::future::try_join_all;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::{Failure, Global};
use super::samples::{Line, Samples};
use crate::client::{Client, ClientError, PutOptions};
use crate::runtime;

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs bench data --size 1G
  pohmelfs bench data --size 64M --file-count 16")]
pub(super) struct DataArgs {
    /// Size of each file: a number with K, M or G behind it
    #[arg(long, default_value = "1G", value_parser = size)]
    size: u64,
    /// Files stored and read at a time
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    file_count: u16,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints, a list of two.
#[derive(Debug, Serialize)]
struct DataLine {
    #[serde(flatten)]
    line: Line,
    bytes: u64,
    bytes_per_second: f64,
}

fn size(text: &str) -> Result<u64, String> {
    let wanted = || "wanted a number above 0 with K, M or G behind it, for instance 64M".to_owned();
    let (digits, shift) = match text.to_ascii_uppercase().strip_suffix(['K', 'M', 'G']) {
        Some(digits) => {
            let shift = if text.ends_with(['K', 'k']) {
                10
            } else if text.ends_with(['M', 'm']) {
                20
            } else {
                30
            };
            (digits.to_owned(), shift)
        }
        None => (text.to_owned(), 0),
    };
    let number: u64 = digits.parse().map_err(|_| wanted())?;
    number.checked_mul(1 << shift).filter(|size| *size > 0 && *size <= 1 << 44).ok_or_else(wanted)
}

pub(super) async fn run(global: &Global, args: &DataArgs) -> Result<(), Failure> {
    let client = super::connect(global, "pohmelfs bench data").await?;
    let lines = super::in_own_directory(&client, async |dir| measure(&client, &dir, args).await).await;
    client.close().await;
    show(&lines?, args.json)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn measure(client: &Client, dir: &str, args: &DataArgs) -> Result<Vec<DataLine>, ClientError> {
    let files: Vec<String> = (0..args.file_count).map(|i| format!("{dir}/{i}")).collect();
    let bytes = args.size * u64::from(args.file_count);
    let line = |what, samples: Samples, took: Duration| {
        let line = samples.line(what, files.len(), took);
        DataLine { line, bytes, bytes_per_second: bytes as f64 / took.as_secs_f64() }
    };

    let begin = runtime::now();
    let put = files.iter().enumerate().map(|(i, path)| async move {
        let from = runtime::now();
        client.put(Noise::new(i as u64, args.size), path, PutOptions::default()).await?;
        Ok::<_, ClientError>(runtime::now() - from)
    });
    let mut puts = Samples::default();
    try_join_all(put).await?.into_iter().for_each(|took| puts.push(took));
    let put = line("put", puts, runtime::now() - begin);

    let begin = runtime::now();
    let get = files.iter().map(|path| async move {
        let from = runtime::now();
        client.get(path, Nowhere).await?;
        Ok::<_, ClientError>(runtime::now() - from)
    });
    let mut gets = Samples::default();
    try_join_all(get).await?.into_iter().for_each(|took| gets.push(took));
    let get = line("get", gets, runtime::now() - begin);
    Ok(vec![put, get])
}

/// Bytes that no compression makes smaller, cheaper to make than to send: xorshift64, eight at a time.
struct Noise {
    state: u64,
    left: u64,
}

impl Noise {
    fn new(seed: u64, len: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, left: len }
    }
}

impl AsyncRead for Noise {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        while buf.remaining() > 0 && this.left > 0 {
            this.state ^= this.state << 13;
            this.state ^= this.state >> 7;
            this.state ^= this.state << 17;
            let word = this.state.to_le_bytes();
            let len = word.len().min(buf.remaining()).min(usize::try_from(this.left).unwrap_or(usize::MAX));
            buf.put_slice(&word[..len]);
            this.left -= len as u64;
        }
        Poll::Ready(Ok(()))
    }
}

/// Takes everything and keeps nothing.
struct Nowhere;

impl AsyncWrite for Nowhere {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn show(lines: &[DataLine], json: bool) -> Result<(), Failure> {
    if json {
        println!("{}", serde_json::to_string_pretty(lines).map_err(Failure::new)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["WHAT", "FILES", "MB/S", "SECONDS", "P50 MS", "P99 MS"]);
    for DataLine { line, bytes_per_second, .. } in lines {
        table.add_row(
            [
                line.what.to_owned(),
                line.callers.to_string(),
                format!("{:.0}", bytes_per_second / 1e6),
                format!("{:.2}", line.seconds),
                format!("{:.1}", line.p50_ms),
                format!("{:.1}", line.p99_ms),
            ]
            .map(Cell::new),
        );
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("2g"), Ok(2 << 30));
        assert_eq!(size("17"), Ok(17));
        for bad in ["", "M", "0", "-1", "1T", "99999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
