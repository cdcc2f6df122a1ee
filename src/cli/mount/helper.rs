//! `mount.pohmelfs SOURCE DIR [-sfnvN] [-o OPTIONS]`: the way in which mount(8) calls the program of a filesystem type.
//!
//! The same binary under another name. SOURCE is `HOST:PORT,HOST:PORT` and may end in `:/PATH`, the directory of the cluster
//! that becomes the root of the mount. A host without a port has the usual one.

use std::ffi::OsString;

/// The name by which mount(8) calls us.
const NAME: &str = "mount.pohmelfs";
/// The usual port of a metadata server.
const PORT: &str = "7000";

/// The arguments of this process as those of `pohmelfs mount`, if it was called by the helper's name.
pub(in super::super) fn args_of_helper() -> Option<std::vec::IntoIter<OsString>> {
    let mut args = std::env::args_os();
    let program = args.next()?;
    let name = std::path::Path::new(&program).file_name()?;
    (name == NAME).then(|| translate(args.collect()).into_iter())
}

fn translate(args: Vec<OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = vec!["mount".into()];
    let mut plain = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("-o") => out.extend([arg, args.next().unwrap_or_default()]),
            // The type, and the namespace: mount(8) has seen to both.
            Some("-t" | "-N") => drop(args.next()),
            // Sloppy, fake, no mtab, verbose.
            Some("-s" | "-n" | "-v") => {}
            _ => plain.push(arg),
        }
    }
    let mut plain = plain.into_iter();
    if let Some(source) = plain.next() {
        let source = source.to_string_lossy().into_owned();
        let (servers, subdir) = split(&source);
        out.extend(["--cluster".into(), servers.into()]);
        if let Some(subdir) = subdir {
            out.extend(["-o".into(), format!("subdir={subdir}").into()]);
        }
    }
    out.extend(plain);
    out
}

/// Servers, each with a port, and the path.
fn split(source: &str) -> (String, Option<&str>) {
    let (servers, path) = match source.find(":/") {
        Some(at) => (&source[..at], Some(&source[at + 1..])),
        None => (source, None),
    };
    let with_port = |server: &str| match server.rsplit_once(':') {
        Some((_, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => server.to_owned(),
        _ => format!("{}:{PORT}", server.trim_end_matches(':')),
    };
    let servers: Vec<String> = servers.split(',').filter(|s| !s.is_empty()).map(with_port).collect();
    (servers.join(","), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_servers_and_a_path() {
        assert_eq!(split("a,b:7001:/x/y"), ("a:7000,b:7001".into(), Some("/x/y")));
        assert_eq!(split("a:7001,b:7001"), ("a:7001,b:7001".into(), None));
        assert_eq!(split("a:/"), ("a:7000".into(), Some("/")));
    }

    #[test]
    fn arguments_of_mount_are_translated() {
        let args = ["h:7001:/sub", "/mnt", "-n", "-t", "pohmelfs", "-o", "rw,ro"].map(OsString::from);
        let wanted = ["mount", "-o", "rw,ro", "--cluster", "h:7001", "-o", "subdir=/sub", "/mnt"];
        assert_eq!(translate(args.to_vec()), wanted.map(OsString::from));
    }
}
