//! `pohmelfs dump`: the whole metadata as of one log index, in a file that stands for itself.
//!
//! One metadata server makes a copy of its state and gives it block by block; if it dies, the next one is asked and the file begun anew. Holds:
//! the file has its name only once it is whole and durable; what is written adds up to the state hash of the server.
//! Not here: what a file looks like (`file`), and the way back (`cli/restore`).

pub(super) mod contents;
pub(crate) mod file;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use self::contents::Contents;
use self::file::{DumpWriter, Header};
use super::status::channels;
use super::text;
use super::{Failure, Global};
use crate::config;
use crate::net::Channel;
use crate::types::{NodeAddress, codec};
use crate::wire::RpcError;
use crate::wire::dump::{DumpReply, DumpRequest};
use crate::wire::message::{MetaReply, MetaRequest, kind};

/// Longest time for the copy: a server writes its whole state.
const COPY_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest time for a block of it.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// Blocks asked for at a time: 2 MiB on their way.
const IN_FLIGHT: usize = 8;
/// Times that each server is tried.
const ROUNDS: usize = 2;

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  pohmelfs dump /backup/pohmelfs-$(date +%F).dump
  pohmelfs dump --from host2:7001 metadata.dump     asks that server, whoever leads
  pohmelfs dump - | ssh vault 'cat > metadata.dump'
  pohmelfs dump --verify metadata.dump              reads it and says what it holds; needs no cluster

A dump has names, attributes, small files and where the blocks of the others are; the blocks themselves stay on the data
servers. `pohmelfs restore` makes a new metadata cluster of it. Exit codes: 0 it is whole, 1 it is not, 2 wrong arguments.")]
pub(super) struct DumpArgs {
    /// Where it goes; replaced once the new one is whole. `-` for standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The metadata server to ask, HOST:PORT, instead of any
    #[arg(long, value_name = "ADDRESS", conflicts_with = "verify")]
    from: Option<String>,
    /// Read a dump, compare everything with its checksums, and say what it holds
    #[arg(long)]
    verify: bool,
    /// What it holds as JSON
    #[arg(long)]
    json: bool,
}

/// Why an attempt failed.
enum Failed {
    /// Another server, or the same one once more, may do better.
    Here(String),
    /// Nobody would.
    Everywhere(Failure),
}

impl From<io::Error> for Failed {
    fn from(e: io::Error) -> Self {
        Self::Everywhere(e.into())
    }
}

pub(super) async fn run(global: &Global, args: &DumpArgs) -> Result<ExitCode, Failure> {
    if args.verify {
        if args.file == Path::new("-") {
            return Err(Failure::usage("--verify reads a file, not standard input: give its name"));
        }
        Contents::verify(&args.file)?.show(args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let servers = match &args.from {
        Some(address) => {
            config::check_address("--from", address, false).map_err(Failure::usage)?;
            vec![NodeAddress(address.clone())]
        }
        None => global.servers()?,
    };
    let mut target = Target::new(&args.file)?;
    let channels = channels(&servers);
    let mut last = String::new();
    for (address, channel) in channels.iter().cycle().take(ROUNDS * channels.len()) {
        match attempt(channel, &mut target).await {
            Ok(contents) => {
                let path = args.file.display().to_string();
                if target.temporary.is_none() {
                    // Standard output is the dump.
                    let line = if args.json { contents.json().to_string() + "\n" } else { contents.words() };
                    io::stderr().write_all(line.as_bytes())?;
                    return Ok(ExitCode::SUCCESS);
                }
                target.keep()?;
                if args.json {
                    let mut value = contents.json();
                    value["file"] = json!(path);
                    let mut out = text::Out::new();
                    out.json(&value)?;
                    out.end()?;
                } else {
                    contents.show(false)?;
                }
                return Ok(ExitCode::SUCCESS);
            }
            Err(Failed::Here(reason)) if target.may_begin_anew() => last = format!("{address}: {reason}"),
            Err(Failed::Here(reason)) => {
                return Err(Failure::new(format!(
                    "{address}: {reason}; half of a dump has left on standard output, and nothing of it is of use: run the command again"
                )));
            }
            Err(Failed::Everywhere(failure)) => return Err(failure),
        }
    }
    Err(Failure::new(format!("no metadata server gives a whole dump; nothing was written. Last: {last}")))
}

/// Where a dump goes.
struct Target<'a> {
    file: &'a Path,
    /// None: standard output.
    temporary: Option<PathBuf>,
    begun: bool,
}

impl<'a> Target<'a> {
    fn new(file: &'a Path) -> Result<Self, Failure> {
        if file == Path::new("-") {
            return Ok(Self { file, temporary: None, begun: false });
        }
        let name = file.file_name().filter(|_| !file.is_dir());
        let name = name.ok_or_else(|| {
            Failure::usage(format!("{} is not the name of a file: give one", file.display()))
        })?;
        let mut temporary = name.to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        Ok(Self { file, temporary: Some(file.with_file_name(temporary)), begun: false })
    }

    fn may_begin_anew(&self) -> bool {
        self.temporary.is_some() || !self.begun
    }

    /// An empty file, or standard output.
    fn open(&mut self) -> io::Result<Output> {
        self.begun = true;
        let Some(path) = &self.temporary else { return Ok(Output::Stdout(io::stdout())) };
        // It has names and the contents of small files: for its owner alone, until somebody decides otherwise.
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        Ok(Output::File(file.map_err(named)?))
    }

    /// Gives the file its name, durably.
    fn keep(mut self) -> Result<(), Failure> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        let failed = |e: io::Error| Failure::new(format!("{}: {e}", self.file.display()));
        std::fs::rename(temporary, self.file).map_err(failed)?;
        let parent = self.file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all());
        parent.map_err(failed)?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take()
            && self.begun
            && let Err(e) = std::fs::remove_file(&temporary)
            && e.kind() != io::ErrorKind::NotFound
        {
            text::complain(&format!("{} is left over and can be removed: {e}", temporary.display()));
        }
    }
}

enum Output {
    File(File),
    Stdout(io::Stdout),
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Stdout(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync_all(),
            Self::Stdout(out) => out.flush(),
        }
    }
}

/// Writes the dump of one server.
async fn attempt(channel: &Channel, target: &mut Target<'_>) -> Result<Contents, Failed> {
    let (dump, stamp, block_count) = match ask(channel, DumpRequest::Begin, COPY_TIMEOUT).await? {
        DumpReply::Begun { dump, stamp, block_count } => (dump, stamp, block_count),
        DumpReply::TooMany => {
            return Err(Failed::Here("it gives as many dumps as it can already: wait for them".into()));
        }
        other => return Err(unexpected(&other)),
    };
    let header = Header { stamp, program: env!("CARGO_PKG_VERSION").to_owned() };
    let written = copy(channel, dump, block_count, header, target.open()?).await;
    // Else the server forgets it by itself.
    drop(ask(channel, DumpRequest::End { dump }, BLOCK_TIMEOUT).await);
    written
}

async fn copy(
    channel: &Channel,
    dump: u64,
    block_count: u32,
    header: Header,
    out: Output,
) -> Result<Contents, Failed> {
    let mut writer = DumpWriter::new(BufWriter::with_capacity(1 << 20, out), &header)?;
    let mut contents = Contents::new(header);
    let bar = text::progress(block_count.into(), false);
    let asked = (0..block_count).map(|number| async move {
        match ask(channel, DumpRequest::Block { dump, number }, BLOCK_TIMEOUT).await? {
            DumpReply::Block(packed) => Ok::<Bytes, Failed>(packed),
            DumpReply::Unknown => {
                Err(Failed::Here("it has forgotten the dump: was it started again meanwhile?".into()))
            }
            other => Err(unexpected(&other)),
        }
    });
    let mut blocks = stream::iter(asked).buffered(IN_FLIGHT);
    while let Some(packed) = blocks.try_next().await? {
        for (key, value) in &writer.block(&packed)? {
            contents.add(key, value).map_err(|e| Failed::Everywhere(Failure::new(e)))?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    contents.len = writer.finish()?.1;
    Ok(contents)
}

async fn ask(channel: &Channel, request: DumpRequest, timeout: Duration) -> Result<DumpReply, Failed> {
    let meta = codec::encode(&MetaRequest::Dump(request)).map_err(|e| Failed::Everywhere(Failure::new(e)))?;
    let reply = channel.call(kind::META, meta, Bytes::new(), timeout).await;
    let reply = reply.map_err(|e: RpcError| Failed::Here(e.to_string()))?;
    match codec::decode(&reply.meta) {
        Ok(MetaReply::Dump(reply)) => Ok(reply),
        Ok(other) => Err(unexpected(&other)),
        Err(e) => Err(Failed::Here(e.to_string())),
    }
}

fn unexpected(reply: &impl std::fmt::Debug) -> Failed {
    let mut text = format!("unexpected answer {reply:?}");
    text.truncate(text.floor_char_boundary(200));
    Failed::Here(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("metadata.dump");
        std::fs::write(&file, "yesterday's").unwrap();
        let names = || std::fs::read_dir(dir.path()).unwrap().count();
        let mut target = Target::new(&file).unwrap();
        target.open().unwrap().write_all(b"half").unwrap();
        assert_eq!(names(), 2);
        drop(target);
        assert_eq!((names(), std::fs::read(&file).unwrap()), (1, b"yesterday's".to_vec()));
        let mut target = Target::new(&file).unwrap();
        let mut out = target.open().unwrap();
        out.write_all(b"today's").unwrap();
        out.flush().unwrap();
        target.keep().unwrap();
        assert_eq!((names(), std::fs::read(&file).unwrap()), (1, b"today's".to_vec()));
        assert!(Target::new(dir.path()).is_err());
    }
}
