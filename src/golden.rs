//! Frozen bytes: one sample of everything that is stored or sent, beside what it was when a release first knew it.
//!
//! Each module that lays bytes out has a test that calls [`check`] with its samples; what is public is sampled in `golden/`. The files are
//! `tests/golden/bytes/*.txt`: a name, and below it the bytes in hexadecimal. Holds: a variant or record without a line there fails
//! its test ([`covers`] reads the variants from the source), and so does a line that no sample has any more.
//!
//! `POHMELFS_GOLDEN=add cargo test --lib golden` writes lines that are missing, and changes none. `POHMELFS_GOLDEN=write` writes them
//! all anew: only for what was never released, or together with a new format level or protocol version.

mod messages;
mod samples;

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::types::codec;

/// A name and the bytes that it stands for.
pub(crate) type Sample = (String, Vec<u8>);

const HEAD: &str = "# What servers, clients and disks understand: src/golden.rs. A line that changes is one that they do not.\n";
/// Hexadecimal digits in a line.
const WIDTH: usize = 96;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bytes").join(format!("{name}.txt"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Names and digits, in order.
fn parse(text: &str) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match (line.strip_prefix("    "), lines.last_mut()) {
            (Some(digits), Some((_, all))) => all.push_str(digits.trim()),
            _ => lines.push((line.to_owned(), String::new())),
        }
    }
    lines
}

fn print(lines: &[(String, String)]) -> String {
    let mut out = HEAD.to_owned();
    for (name, digits) in lines {
        let _ = writeln!(out, "{name}"); // writing to a String cannot fail
        for at in (0..digits.len()).step_by(WIDTH) {
            let _ = writeln!(out, "    {}", &digits[at..digits.len().min(at + WIDTH)]);
        }
    }
    out
}

/// Compares samples with their file.
pub(crate) fn check(name: &str, samples: Vec<Sample>) {
    let path = file(name);
    let frozen = parse(&std::fs::read_to_string(&path).unwrap_or_default());
    let now: Vec<(String, String)> = samples.into_iter().map(|(name, bytes)| (name, hex(&bytes))).collect();
    let names: BTreeMap<&str, &str> = now.iter().map(|(name, digits)| (&**name, &**digits)).collect();
    assert_eq!(names.len(), now.len(), "{name}: two samples of one name");
    let mut wrong = Vec::new();
    for (name, digits) in &frozen {
        match names.get(&**name) {
            None => wrong.push(format!("{name} is frozen, and no sample has it any more")),
            Some(now) if now != digits => wrong.push(format!("{name}\n  was {digits}\n  is  {now}")),
            Some(_) => {}
        }
    }
    let missing: Vec<&str> = now
        .iter()
        .filter(|(name, _)| !frozen.iter().any(|(f, _)| f == name))
        .map(|(name, _)| &**name)
        .collect();
    let how = std::env::var("POHMELFS_GOLDEN").unwrap_or_default();
    if how == "write" || (how == "add" && wrong.is_empty()) {
        std::fs::write(&path, print(&now)).unwrap();
        return;
    }
    assert!(
        wrong.is_empty(),
        "the bytes of {name} changed:\n{}\n\nServers, clients and disks of before would not understand them. What is stored needs a new \
         version of its record and a new format level, what is sent a new protocol version (docs/protocol.md, \"Versions\"), and the \
         old bytes must still be read. If this was never released: POHMELFS_GOLDEN=write.",
        wrong.join("\n")
    );
    assert!(
        missing.is_empty(),
        "{}: no frozen bytes of {}. If they are new: POHMELFS_GOLDEN=add cargo test --lib, and look at the difference.",
        path.display(),
        missing.join(", ")
    );
}

/// The leading word of what is printed for debugging: the name of a variant.
fn variant(value: &impl Debug) -> String {
    format!("{value:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
}

/// Samples of an enum in the codec's encoding: named by their variants, and by a number where a variant has several. Each is read back.
pub(crate) fn of<T>(name: &str, values: impl IntoIterator<Item = T>) -> Vec<Sample>
where
    T: Serialize + DeserializeOwned + Debug + PartialEq,
{
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let sample = |value: T| {
        let bytes = codec::encode(&value).unwrap();
        assert_eq!(codec::decode::<T>(&bytes).unwrap(), value);
        let variant = variant(&value);
        let count = seen.entry(variant.clone()).or_default();
        *count += 1;
        let label = if variant == name { name.to_owned() } else { format!("{name}::{variant}") };
        (if *count == 1 { label } else { format!("{label} ({count})") }, bytes)
    };
    values.into_iter().map(sample).collect()
}

/// Fails unless there is a sample of every variant of the enum `name`, whose source is the file `source`.
pub(crate) fn covers(name: &str, source: &str, samples: &[Sample]) {
    let text = std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(source)).unwrap();
    let from = text.find(&format!("enum {name} {{")).unwrap_or_else(|| panic!("no enum {name} in {source}"));
    let body = text[from..].lines().skip(1).take_while(|line| *line != "}");
    let variants =
        body.filter_map(|line| line.strip_prefix("    ").filter(|l| l.starts_with(char::is_uppercase)));
    let variants: Vec<String> =
        variants.map(|l| l.chars().take_while(|c| c.is_alphanumeric()).collect()).collect();
    assert!(!variants.is_empty(), "{source}: enum {name} was not read");
    for variant in variants {
        let wanted = format!("{name}::{variant}");
        assert!(
            samples.iter().any(|(name, _)| *name == wanted),
            "{wanted} has no frozen bytes: add a sample of it"
        );
    }
}

#[test]
fn golden_files_are_read_as_they_are_written() {
    let lines = vec![("a b".to_owned(), "00".repeat(100)), ("empty".to_owned(), String::new())];
    assert_eq!(parse(&print(&lines)), lines);
}
