//! Rules of the sources that a compiler does not know, kept by reading them.
//!
//! Each rule is a function from one source file to the lines that break it, and has a self-test with a bad snippet.
//! Code in `#[cfg(test)]` modules, `tests.rs` and `testing.rs` is held to fewer rules: tests may take short cuts.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which folders of `src` each folder may use: those above it in the order of dependency.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("namespace", &["types"]),
    ("placement", &["types"]),
    ("wire", &["types"]),
    ("runtime", &["types", "wire"]),
    ("net", &["types", "wire", "runtime"]),
    ("config", &["types", "wire"]),
    ("meta", &["types", "namespace", "placement", "wire", "runtime", "net", "config"]),
    ("data", &["types", "placement", "wire", "runtime", "net", "config"]),
    ("client", &["types", "placement", "wire", "runtime", "net"]),
    ("mount", &["types", "placement", "wire", "runtime", "net", "config", "client"]),
    ("http", &["types", "wire", "runtime", "config"]),
    (
        "cli",
        &[
            "types",
            "namespace",
            "placement",
            "wire",
            "runtime",
            "net",
            "config",
            "meta",
            "data",
            "client",
            "mount",
            "http",
        ],
    ),
    ("fuzz", &["types", "namespace", "wire", "config", "meta", "data", "cli"]),
];

/// Folders whose functions take everything they need and return everything that follows.
const PURE: &[&str] = &["namespace", "placement"];

/// What is not to be seen in them. Hash maps: their order differs from voter to voter.
const IMPURE: &[&str] = &[
    "tokio",
    "async",
    "await",
    "std::time",
    "rand",
    "std::net",
    "std::fs",
    "std::io",
    "std::thread",
    "std::env",
    "parking_lot",
    "Mutex",
    "RwLock",
    "Condvar",
    "OnceLock",
    "LazyLock",
    "thread_local",
    "AtomicU64",
    "AtomicUsize",
    "AtomicBool",
    "HashMap",
    "HashSet",
    "tracing",
    "metrics",
];

/// What is used only in some places, and why there.
const CONFINED: &[(&str, &[&str], &str)] = &[
    ("tokio::spawn", &["src/runtime/"], "tasks have names and owners"),
    ("tokio::task", &["src/runtime/"], "tasks have names and owners"),
    ("tokio::time", &["src/runtime/"], "a simulation owns the clock"),
    ("Instant::now", &["src/runtime/"], "a simulation owns the clock"),
    ("SystemTime", &["src/runtime/"], "a simulation owns the clock"),
    ("rand", &["src/runtime/"], "a simulation owns the dice"),
    // http: read by people and Prometheus, never part of a simulation; the socket of a mount likewise.
    ("tokio::net", &["src/net/", "src/http/", "src/mount/status.rs"], "a simulation owns the network"),
    ("std::net::TcpStream", &["src/net/"], "a simulation owns the network"),
    ("std::net::TcpListener", &["src/net/"], "a simulation owns the network"),
    (
        "std::thread",
        &["src/runtime/", "src/meta/state/", "src/meta/raft/log/", "src/data/store/", "src/mount/fuse/"],
        "threads belong to storage on disks that have them, and to the kernel's queues",
    ),
    (
        "std::fs",
        &[
            "src/runtime/",
            // sled opens its files by itself.
            "src/meta/state/engine.rs",
            // What belongs to a person or the kernel, not to a server.
            "src/cli/",
            "src/config/",
            "src/mount/",
            "src/fuzz/",
        ],
        "a simulation owns the disks of the servers",
    ),
    ("openraft", &["src/meta/raft/"], "its traits move: one folder follows them"),
    ("raft_log", &["src/meta/raft/"], "its format is the log's business"),
    ("sled", &["src/meta/state/"], "a view that can be rebuilt, behind a small trait"),
    ("bincode", &["src/types/codec.rs"], "one encoding, bounded in one place"),
    ("io_uring", &["src/mount/fuse/"], "unsafe, in one place"),
    ("zerocopy", &["src/mount/fuse/"], "the kernel's layouts are its business"),
    ("axum", &["src/http/"], "one folder speaks HTTP"),
    ("maud", &["src/http/"], "one folder makes pages"),
];

/// Exceptions: (file, word, reason). Each is looked at in review.
const ALLOWED: &[(&str, &str, &str)] = &[];

/// A file that is longer has more than one idea in it.
const LINES_MAX: usize = 700;

/// One file.
struct Source {
    /// From the root of the package, with `/`.
    path: String,
    text: String,
    /// The text without comments, strings and, unless all of it is tests, test modules; the same lines.
    code: String,
    /// It is compiled for tests only.
    test: bool,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = blank(text);
        let code = if is_test(path) { code } else { without_tests(&code) };
        Self { path: path.to_owned(), text: text.to_owned(), code, test: is_test(path) }
    }

    /// The folder of `src` it belongs to; the root's own files have none.
    fn folder(&self) -> Option<&str> {
        self.path.strip_prefix("src/")?.split_once('/').map(|(folder, _)| folder)
    }

    fn breach(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{}: {what}", self.path, line + 1)
    }
}

/// Files and folders that a file takes in for tests only: `#[cfg(test)] mod fake;`.
fn test_modules(path: &str, text: &str) -> Vec<String> {
    let folder = match path.rsplit_once('/') {
        Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder.to_owned(),
        _ => path.trim_end_matches(".rs").to_owned(),
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let named = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]").filter_map(|pair| {
        let declared = pair[1].strip_suffix(';')?;
        let at = declared.find("mod ").filter(|at| *at == 0 || declared.starts_with("pub"))?;
        Some(&declared[at + "mod ".len()..])
    });
    named.flat_map(|name| [format!("{folder}/{name}.rs"), format!("{folder}/{name}/")]).collect()
}

fn is_test(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    !path.starts_with("src/") || path.contains("/tests/") || file == "tests.rs" || file == "testing.rs"
}

/// Replaces comments and the insides of strings and characters with spaces.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let keep = |out: &mut String, range: std::ops::Range<usize>, visible: bool| {
        for c in String::from_utf8_lossy(&bytes[range]).chars() {
            out.push(if c == '\n' || visible { c } else { ' ' });
        }
    };
    while i < bytes.len() {
        let rest = &bytes[i..];
        let word_before = i > 0 && (bytes[i - 1].is_ascii_alphanumeric() || bytes[i - 1] == b'_');
        let len = if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            rest.windows(2).position(|w| w == b"*/").map_or(rest.len(), |p| p + 2)
        } else if rest[0] == b'"' {
            string_len(rest)
        } else if !word_before && (rest.starts_with(b"r\"") || rest.starts_with(b"r#")) && raw_len(rest) > 0 {
            raw_len(rest)
        } else if rest[0] == b'\'' && rest.get(1) == Some(&b'\\') {
            rest[2..].iter().skip(1).position(|&b| b == b'\'').map_or(1, |p| p + 4)
        } else if rest[0] == b'\'' && rest.get(2) == Some(&b'\'') {
            3
        } else {
            keep(&mut out, i..i + utf8_len(rest[0]), true);
            i += utf8_len(rest[0]);
            continue;
        };
        keep(&mut out, i..i + len, false);
        i += len;
    }
    out
}

fn utf8_len(first: u8) -> usize {
    match first {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    }
}

fn string_len(rest: &[u8]) -> usize {
    let mut i = 1;
    while i < rest.len() {
        match rest[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    rest.len()
}

/// Length of a raw string at the start of `rest`; 0 if none is there (a raw identifier, for instance).
fn raw_len(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let from = 2 + hashes;
    rest[from..].windows(end.len()).position(|w| w == end).map_or(rest.len(), |p| from + p + end.len())
}

/// Blanks inline `#[cfg(test)]` modules, which stand at the end of their file.
fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut lines = code.lines().peekable();
    while let Some(line) = lines.next() {
        let inline = line.trim() == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.contains("mod ") && next.trim_end().ends_with('{'));
        if inline {
            break;
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// Lines (from 0) in which `word` stands as a word, or begins a path.
fn lines_with<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.lines().enumerate().filter_map(move |(number, line)| {
        let found = line.match_indices(word).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + word.len()..]);
            // `x.rand` and `self::sled` are names of our own; `crate::x::rand` as well.
            let after_a_path = before.ends_with("::") || before.ends_with('.');
            let own = after_a_path && !word.contains("::") && !is_type(word);
            let longer = before.ends_with(part) || after.starts_with(part);
            !own && !longer
        });
        found.then_some(number)
    })
}

/// A word such as `Mutex` counts wherever it comes from.
fn is_type(word: &str) -> bool {
    word.starts_with(char::is_uppercase) || word == "await"
}

/// Folders named after `crate::`, also in braces, with their lines.
fn folders_used(code: &str) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count();
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut first = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => used.push((line, std::mem::take(&mut first))),
                    _ if depth == 0 => first.push(c),
                    _ => {}
                }
            }
            used.push((line, first));
        } else {
            used.push((line, rest.to_owned()));
        }
    }
    for (_, path) in &mut used {
        *path = path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    }
    used.retain(|(_, path)| !path.is_empty());
    used
}

fn rule_order(source: &Source) -> Vec<String> {
    let Some(folder) = source.folder() else { return Vec::new() };
    if source.test {
        return Vec::new();
    }
    let Some((_, allowed)) = MAY_USE.iter().find(|(f, _)| *f == folder) else {
        return vec![source.breach(0, format!("folder {folder} is not in the order of dependency"))];
    };
    folders_used(&source.code)
        .into_iter()
        .filter(|(_, used)| used != folder && MAY_USE.iter().any(|(f, _)| f == used))
        .filter(|(_, used)| !allowed.contains(&used.as_str()))
        .map(|(line, used)| source.breach(line, format!("{folder} must not know {used}")))
        .collect()
}

fn rule_purity(source: &Source) -> Vec<String> {
    if source.test || !source.folder().is_some_and(|f| PURE.contains(&f)) {
        return Vec::new();
    }
    let mut breaches = Vec::new();
    for word in IMPURE {
        breaches
            .extend(lines_with(&source.code, word).map(|l| source.breach(l, format!("{word} is not pure"))));
    }
    breaches
}

fn rule_confined(source: &Source) -> Vec<String> {
    if source.test {
        return Vec::new();
    }
    let mut breaches = Vec::new();
    for (word, places, why) in CONFINED {
        let fine = places.iter().any(|p| source.path.starts_with(p))
            || ALLOWED.iter().any(|(path, allowed, _)| *path == source.path && allowed == word);
        if !fine {
            let what = format!("{word} only in {}: {why}", places.join(", "));
            breaches.extend(lines_with(&source.code, word).map(|l| source.breach(l, &what)));
        }
    }
    breaches
}

fn rule_header(source: &Source) -> Vec<String> {
    if source.text.starts_with("//! ") {
        Vec::new()
    } else {
        vec![source.breach(0, "begins with a `//!` header")]
    }
}

fn rule_unfinished(source: &Source) -> Vec<String> {
    // Written apart, or this file would break its own rule.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("to", "do!")];
    let mut breaches = Vec::new();
    for word in words {
        let lines = source.text.lines().enumerate().filter(|(_, line)| line.contains(word));
        breaches.extend(lines.map(|(l, _)| source.breach(l, format!("{word}: do it or drop it"))));
    }
    breaches
}

fn rule_length(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines < LINES_MAX {
        Vec::new()
    } else {
        vec![source.breach(lines, format!("{lines} lines, {LINES_MAX} are too many"))]
    }
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches"] {
        walk(&root.join(folder), &mut files);
    }
    files.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    let texts: Vec<(String, String)> = files.iter().map(read).collect();
    let for_tests: Vec<String> = texts.iter().flat_map(|(name, text)| test_modules(name, text)).collect();
    let source = |(name, text): &(String, String)| {
        let test = for_tests.iter().any(|t| name == t || (t.ends_with('/') && name.starts_with(t.as_str())));
        Source { test: test || is_test(name), ..Source::new(name, text) }
    };
    texts.iter().map(source).collect()
}

fn hold(rule: fn(&Source) -> Vec<String>) {
    let sources = sources();
    assert!(sources.len() > 30, "the sources were not found");
    let breaches: Vec<String> = sources.iter().flat_map(rule).collect();
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

fn breaks(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> bool {
    !rule(&Source::new(path, text)).is_empty()
}

#[test]
fn folders_know_only_those_above_them() {
    assert!(breaks(rule_order, "src/meta/x.rs", "use crate::data::Store;"));
    assert!(breaks(rule_order, "src/data/x.rs", "fn f() { crate::meta::g() }"));
    assert!(breaks(rule_order, "src/wire/x.rs", "use crate::{types::Attr, namespace::View};"));
    assert!(breaks(rule_order, "src/placement/x.rs", "use crate::namespace::View;"));
    assert!(breaks(
        rule_order,
        "src/client/x.rs",
        "use crate::{\n    net::Channel,\n    meta::MetaServer,\n};"
    ));
    assert!(breaks(rule_order, "src/unheard_of/x.rs", ""));
    assert!(!breaks(rule_order, "src/meta/x.rs", "use crate::namespace::{View, data::X}; // crate::data"));
    assert!(!breaks(rule_order, "src/meta/x.rs", "#[cfg(test)]\nmod tests {\n    use crate::data::X;\n}"));
    hold(rule_order);
}

#[test]
fn namespace_and_placement_are_pure() {
    for bad in [
        "use tokio::sync::Notify;",
        "async fn f() {}",
        "use std::time::Duration;",
        "rand::random();",
        "let m: HashMap<u8, u8>;",
        "use std::sync::Mutex;",
        "x.await",
        "std::fs::read(p)",
    ] {
        assert!(breaks(rule_purity, "src/namespace/x.rs", bad), "{bad}");
        assert!(!breaks(rule_purity, "src/meta/x.rs", bad), "{bad}");
    }
    assert!(!breaks(rule_purity, "src/placement/x.rs", "let brand = \"tokio\"; // rand"));
    hold(rule_purity);
}

#[test]
fn time_dice_tasks_and_parts_stay_in_their_places() {
    for bad in [
        "tokio::spawn(f)",
        "let now = std::time::Instant::now();",
        "SystemTime::now()",
        "rand::rng()",
        "use openraft::Raft;",
        "sled::open(p)",
        "bincode::serialize(x)",
        "tokio::net::TcpStream::connect(a)",
        "std::thread::spawn(f)",
        "use std::fs::File;",
        "use tokio::time::sleep;",
    ] {
        assert!(breaks(rule_confined, "src/client/x.rs", bad), "{bad}");
    }
    assert!(breaks(rule_confined, "src/meta/state/x.rs", "std::fs::read(p)"));
    assert!(!breaks(rule_confined, "src/runtime/x.rs", "tokio::spawn(f); rand::rng()"));
    assert!(!breaks(rule_confined, "src/client/x.rs", "let sled_bytes = self.sled; runtime::spawn(f)"));
    assert!(!breaks(
        rule_confined,
        "src/client/x.rs",
        "/// bincode::serialize\nfn f() { g(\"sled::open\") }"
    ));
    hold(rule_confined);
}

#[test]
fn every_file_says_what_it_is() {
    assert!(breaks(rule_header, "src/x.rs", "use std::fmt;\n//! late"));
    hold(rule_header);
}

#[test]
fn nothing_is_left_for_later() {
    assert!(breaks(rule_unfinished, "src/x.rs", concat!("// TO", "DO: later")));
    assert!(breaks(rule_unfinished, "src/x.rs", concat!("fn f() { to", "do!() }")));
    hold(rule_unfinished);
}

#[test]
fn files_have_one_idea_each() {
    assert!(breaks(rule_length, "src/x.rs", &"//! x\n".repeat(LINES_MAX)));
    hold(rule_length);
}

#[test]
fn the_order_of_dependency_has_no_cycle_and_names_real_folders() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = BTreeSet::new();
    for (folder, uses) in MAY_USE {
        assert!(root.join(folder).is_dir(), "{folder} is no folder");
        assert!(uses.iter().all(|u| seen.contains(u)), "{folder} uses one that comes later");
        seen.insert(*folder);
    }
}

#[test]
fn modules_for_tests_are_known() {
    let text =
        "#[cfg(test)]\nmod fake;\n#[cfg(test)]\npub(crate) mod x;\nmod real;\n#[cfg(test)]\nuse a::b;\n";
    let known = test_modules("src/client/mod.rs", text);
    assert_eq!(known, ["src/client/fake.rs", "src/client/fake/", "src/client/x.rs", "src/client/x/"]);
    assert_eq!(test_modules("src/a/b.rs", "    #[cfg(test)]\n    mod tests;")[0], "src/a/b/tests.rs");
}

#[test]
fn comments_and_strings_are_no_code() {
    let code = blank(
        "let a = \"x \\\" sled\"; // sled\nlet b = r#\"sled \" \"#; /* sled\n */ let c = 'x'; fn f<'a>() {}",
    );
    assert!(!code.contains("sled"), "{code}");
    assert_eq!(code.lines().count(), 3);
    assert!(code.contains("let c =") && code.contains("fn f<'a>() {}"), "{code}");
    assert!(blank("let q = '\"'; let r = '\\''; code").contains("code"));
}
