//! How things look on a terminal: sizes, modes, times, names; and a standard output that may be closed early.
//!
//! Used by all tools. Holds: names leave as the bytes they are, except to a terminal, where bytes that could steer it are
//! escaped. `pohmelfs fs ls / | head` ends quietly.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::os::fd::AsFd;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::Failure;
use crate::client::ClientError;
use crate::types::{FileKind, Timestamp};

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        match e {
            ClientError::Io(e) => e.into(),
            e @ ClientError::NoServers => Self::usage(e),
            e => Self::new(e),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::BrokenPipe { Self::quiet() } else { Self::new(e) }
    }
}

/// Standard output, buffered.
pub(super) struct Out {
    inner: BufWriter<Stdout>,
    terminal: bool,
}

impl Out {
    pub(super) fn new() -> Self {
        let stdout = io::stdout();
        Self { terminal: stdout.is_terminal(), inner: BufWriter::new(stdout) }
    }

    /// A name or path, as it is meant for the reader behind it.
    pub(super) fn name(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.terminal {
            self.inner.write_all(shown(bytes).as_bytes())
        } else {
            self.inner.write_all(bytes)
        }
    }

    /// A value as JSON on a line.
    pub(super) fn json(&mut self, value: &serde_json::Value) -> io::Result<()> {
        writeln!(self.inner, "{value}")
    }

    /// Sends what is left.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        Ok(self.inner.flush()?)
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// For people and JSON: bytes that are not UTF-8, and control characters, escaped.
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// One complaint on standard error. Names in it may hold anything: what could steer a terminal is escaped. A message of
/// several lines (a mistake in a configuration, with the place marked) keeps them.
pub(super) fn complain(message: &str) {
    let lines: Vec<String> = message.trim_end().split('\n').map(|line| shown(line.as_bytes())).collect();
    eprintln!("pohmelfs: {}", lines.join("\n"));
}

/// A path for programs: as it is if it is UTF-8; else escaped for the eye, and exactly as `path_encoded`, in the form that
/// `/lookup?path=` takes.
pub(super) fn put_path(object: &mut serde_json::Value, path: &[u8]) {
    if let Ok(text) = std::str::from_utf8(path) {
        object["path"] = text.into();
        return;
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b);
    let encode = |b: &u8| if plain(*b) { char::from(*b).to_string() } else { format!("%{b:02X}") };
    object["path"] = shown(path).into();
    object["path_encoded"] = path.iter().map(encode).collect::<String>().into();
}

/// A size: for people, or exact.
pub(super) fn size(bytes: u64, exact: bool) -> String {
    if exact { bytes.to_string() } else { HumanBytes(bytes).to_string() }
}

/// As `ls -l` has it.
pub(super) fn mode(kind: FileKind, mode: u32) -> String {
    let bit = |mask: u32, letter: char| if mode & mask == 0 { '-' } else { letter };
    let exec = |mask: u32, special: u32, both: char, only: char| match (mode & mask != 0, mode & special != 0)
    {
        (true, true) => both,
        (false, true) => only,
        (true, false) => 'x',
        (false, false) => '-',
    };
    [
        kind.letter(),
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        exec(0o100, 0o4000, 's', 'S'),
        bit(0o040, 'r'),
        bit(0o020, 'w'),
        exec(0o010, 0o2000, 's', 'S'),
        bit(0o004, 'r'),
        bit(0o002, 'w'),
        exec(0o001, 0o1000, 't', 'T'),
    ]
    .iter()
    .collect()
}

/// UTC, to the second.
pub(super) fn time(at: Timestamp) -> String {
    let secs = at.secs();
    let (days, rest) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Years begin in March here, so that the
/// leap day is the last of a year; 400 years have 146,097 days.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year_of_era + era * 400 + carry, month, day)
}

/// A bar on standard error, if that is a terminal; invisible otherwise. Counts bytes or things.
pub(super) fn progress(len: u64, bytes: bool) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = if bytes {
        "{bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {wide_msg}"
    } else {
        "{bar:40} {human_pos}/{human_len} {eta} {wide_msg}"
    };
    let bar = ProgressBar::new(len);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Standard input, read by threads for blocking work.
pub(super) fn stdin() -> io::Result<tokio::fs::File> {
    Ok(tokio::fs::File::from_std(std::fs::File::from(io::stdin().as_fd().try_clone_to_owned()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_its_date() {
        assert_eq!(time(Timestamp(0)), "1970-01-01 00:00:00");
        assert_eq!(time(Timestamp::from_parts(951_782_400, 0)), "2000-02-29 00:00:00");
        assert_eq!(time(Timestamp::from_parts(1_795_392_000 + 3661, 5)), "2026-11-23 01:01:01");
        assert_eq!(time(Timestamp::from_parts(-1, 0)), "1969-12-31 23:59:59");
    }

    #[test]
    fn a_path_reaches_a_program_whole() {
        let of = |path: &[u8]| {
            let mut object = serde_json::json!({});
            put_path(&mut object, path);
            object
        };
        assert_eq!(of(b"/a\\xff\n"), serde_json::json!({"path": "/a\\xff\n"}));
        assert_eq!(of(b"/a\xff %"), serde_json::json!({"path": "/a\\xff %", "path_encoded": "/a%FF%20%25"}));
    }

    #[test]
    fn modes_and_names_look_as_ls_has_them() {
        assert_eq!(mode(FileKind::Dir, 0o1755), "drwxr-xr-t");
        assert_eq!(mode(FileKind::File, 0o6644), "-rwSr-Sr--");
        assert_eq!(shown(b"a\xffb\x1b[m"), "a\\xffb\\u{1b}[m");
    }
}
