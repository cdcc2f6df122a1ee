//! `pohmelfs bench meta`: creates and lookups a second at several numbers of callers.
//!
//! Calls go to all metadata servers in turn, so most creates enter by a server that does not lead and most lookups are
//! answered by one. Each caller works in a directory of its own, as programs do; `--shared` puts all into one. Lookups come first, of
//! 10,000 names in all: after the creates the servers write behind for as long again, which would be measured with them.

use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets};
use futures::future::try_join_all;
use futures::stream::{self, TryStreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};

use super::super::{Failure, Global};
use super::samples::{Line, Samples};
use crate::client::{Client, ClientError};
use crate::runtime::{self, Instant};
use crate::types::{InodeId, Name};

/// Before each measurement, so that connections stand and caches are what they are in the long run.
const WARM_UP: Duration = Duration::from_millis(500);

/// Before the lookups: the servers write to their databases what the names left in memory.
const REST: Duration = Duration::from_secs(4);

/// Names that lookups choose from, of all measurements together.
const NAMES: u64 = 10_000;

/// Of them that are made at a time.
const FILLERS: usize = 64;

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs bench meta
  pohmelfs bench meta --callers 1,64 --seconds 10 --json")]
pub(super) struct MetaArgs {
    /// Callers at a time, one measurement for each number
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256", value_name = "COUNTS")]
    callers: Vec<usize>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Sessions that the callers share
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    clients: u8,
    /// All callers in one directory
    #[arg(long)]
    shared: bool,
    /// As JSON: a list of measurements
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &Global, args: &MetaArgs) -> Result<(), Failure> {
    if let Some(bad) = args.callers.iter().find(|c| !(1..=4096).contains(*c)) {
        return Err(Failure::usage(format!("--callers {bad}: wanted numbers from 1 to 4096")));
    }
    let mut clients = Vec::new();
    for _ in 0..args.clients {
        clients.push(super::connect(global, "pohmelfs bench meta").await?);
    }
    let lines = super::in_own_directory(&clients[0], async |dir| measure(&clients, &dir, args).await).await;
    for client in clients {
        client.close().await;
    }
    show(&lines?, args.json)
}

async fn measure(clients: &[Client], dir: &str, args: &MetaArgs) -> Result<Vec<Line>, ClientError> {
    let time = Duration::from_secs(args.seconds);
    let progress = progress(args.callers.len() * 2, args.json);
    let mut lines = Vec::new();
    progress.set_message("names to look up");
    let names = NAMES / args.callers.len() as u64;
    let mut trees = Vec::new();
    for &callers in &args.callers {
        let tree = places(clients, &format!("{dir}/names-{callers}"), callers, args.shared).await?;
        let each = names.div_ceil(callers as u64);
        fill(&tree, each).await?;
        trees.push((tree, each));
    }
    progress.set_message("rest");
    runtime::sleep(REST).await;
    for (tree, each) in trees {
        let callers = tree.len();
        progress.set_message(format!("lookup, {callers} callers"));
        let samples = together(tree.into_iter().map(|place| lookups(place, each, time))).await?;
        lines.push(samples.line("lookup", callers, time));
        progress.inc(1);
    }
    for &callers in &args.callers {
        let places = places(clients, &format!("{dir}/{callers}"), callers, args.shared).await?;
        progress.set_message(format!("create, {callers} callers"));
        let samples = together(places.into_iter().map(|place| creates(place, time))).await?;
        lines.push(samples.line("create", callers, time));
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(lines)
}

#[derive(Clone)]
struct Place {
    client: Client,
    caller: usize,
    parent: InodeId,
}

/// One for each caller: a directory below `dir`, or `dir` itself when it is shared.
async fn places(
    clients: &[Client],
    dir: &str,
    callers: usize,
    shared: bool,
) -> Result<Vec<Place>, ClientError> {
    let mut places = Vec::new();
    for caller in 0..callers {
        let path = if shared { dir.to_owned() } else { format!("{dir}/{caller}") };
        let parent = clients[0].mkdir_all(&path, 0o700).await?.inode;
        places.push(Place { client: clients[caller % clients.len()].clone(), caller, parent });
    }
    Ok(places)
}

/// Runs all callers, each a task, and joins what they measured.
async fn together<F>(callers: impl Iterator<Item = F>) -> Result<Samples, ClientError>
where
    F: Future<Output = Result<Samples, ClientError>> + Send + 'static,
{
    let tasks: Vec<_> = callers.map(|caller| runtime::spawn("bench-caller", caller)).collect();
    let results = try_join_all(tasks.into_iter().map(|task| async {
        // A caller that panicked measured nothing; its panic is in the log.
        task.await.unwrap_or_else(|| Ok(Samples::default()))
    }))
    .await?;
    let mut samples = Samples::default();
    for one in results {
        samples.extend(one);
    }
    Ok(samples)
}

/// Counts what begins after the warm-up and ends before `end`.
struct Window {
    begin: Instant,
    end: Instant,
}

impl Window {
    fn of(time: Duration) -> Self {
        let begin = runtime::now() + WARM_UP;
        Self { begin, end: begin + time }
    }

    fn counts(&self, from: Instant, to: Instant) -> bool {
        from >= self.begin && to <= self.end
    }
}

/// Makes `each` names in every place.
async fn fill(places: &[Place], each: u64) -> Result<(), ClientError> {
    let names = (0..each).flat_map(|number| places.iter().map(move |place| Ok((place, number))));
    stream::iter(names)
        .try_for_each_concurrent(FILLERS, async |(place, number)| {
            place.client.create_at(place.parent, name(place.caller, number), 0o600, true).await.map(drop)
        })
        .await
}

async fn creates(place: Place, time: Duration) -> Result<Samples, ClientError> {
    let (window, mut samples, mut number) = (Window::of(time), Samples::default(), 0);
    loop {
        let from = runtime::now();
        if from >= window.end {
            return Ok(samples);
        }
        place.client.create_at(place.parent, name(place.caller, number), 0o600, true).await?;
        number += 1;
        let to = runtime::now();
        if window.counts(from, to) {
            samples.push(to - from);
        }
    }
}

/// Of `each` names that are there.
async fn lookups(place: Place, each: u64, time: Duration) -> Result<Samples, ClientError> {
    let (window, mut samples) = (Window::of(time), Samples::default());
    loop {
        let from = runtime::now();
        if from >= window.end {
            return Ok(samples);
        }
        let number = runtime::random_below(each);
        place.client.lookup(place.parent, &name(place.caller, number)).await?;
        let to = runtime::now();
        if window.counts(from, to) {
            samples.push(to - from);
        }
    }
}

fn name(caller: usize, number: u64) -> Name {
    // Digits and a letter are a name in any case.
    Name::new(format!("f{caller}-{number}")).unwrap_or_else(|e| unreachable!("digits are no name: {e}"))
}

fn progress(steps: usize, hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn show(lines: &[Line], json: bool) -> Result<(), Failure> {
    if json {
        println!("{}", serde_json::to_string_pretty(lines).map_err(Failure::new)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["WHAT", "CALLERS", "OPS/S", "P50 MS", "P99 MS", "OPS"]);
    for line in lines {
        table.add_row(
            [
                line.what.to_owned(),
                line.callers.to_string(),
                format!("{:.0}", line.rate),
                format!("{:.2}", line.p50_ms),
                format!("{:.2}", line.p99_ms),
                line.count.to_string(),
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
