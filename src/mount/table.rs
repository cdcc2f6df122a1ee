//! What is mounted, as the kernel's table of mounts has it: nothing here touches a mount, which may be stale.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use super::fuse::FS_TYPE;

/// One of our mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The directory.
    pub dir: PathBuf,
    /// Device number, `MAJOR:MINOR`.
    pub device: String,
}

/// The mount of ours that holds `path`, if it is in one.
#[must_use]
pub fn find(path: &Path) -> Option<Mounted> {
    let table = std::fs::read("/proc/self/mountinfo").ok()?;
    find_in(&table, &absolute(path)?)
}

/// Absolute and without `.` and `..`, symlinks resolved in front of the last name only.
fn absolute(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    let (Some(parent), Some(name)) = (plain.parent(), plain.file_name()) else { return Some(plain) };
    Some(parent.canonicalize().map_or_else(|_| plain.clone(), |parent| parent.join(name)))
}

fn find_in(table: &[u8], path: &Path) -> Option<Mounted> {
    let mut best: Option<(Mounted, bool)> = None;
    for line in table.split(|b| *b == b'\n') {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let [_, _, device, _, dir, ..] = fields.as_slice() else { continue };
        let Some(dash) = fields.iter().position(|f| *f == b"-") else { continue };
        let ours = fields.get(dash + 1).is_some_and(|kind| *kind == FS_TYPE.as_bytes());
        let dir = PathBuf::from(OsString::from_vec(unescape(dir)));
        if !path.starts_with(&dir) {
            continue;
        }
        // Of two on the same directory the later one hides the other.
        if best.as_ref().is_none_or(|(b, _)| dir.as_os_str().len() >= b.dir.as_os_str().len()) {
            let device = String::from_utf8_lossy(device).into_owned();
            best = Some((Mounted { dir, device }, ours));
        }
    }
    best.filter(|(_, ours)| *ours).map(|(mounted, _)| mounted)
}

/// Spaces, tabs, newlines and backslashes come as `\ooo`.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| *first == b'\\');
        let byte = octal.and_then(|o| u8::from_str_radix(std::str::from_utf8(o).ok()?, 8).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = &behind[3..];
            }
            None => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"21 1 8:1 / / rw - ext4 /dev/sda rw\n\
        22 21 0:50 / /mnt/a\\040b rw,relatime shared:5 - fuse.pohmelfs x rw\n\
        23 22 0:51 / /mnt/a\\040b/tmp rw - tmpfs x rw\n";

    #[test]
    fn the_innermost_mount_decides() {
        let found = |path: &str| find_in(TABLE, Path::new(path)).map(|m| m.device);
        assert_eq!(found("/mnt/a b"), Some("0:50".into()));
        assert_eq!(found("/mnt/a b/c/d"), Some("0:50".into()));
        assert_eq!(found("/mnt/a b/tmp/x"), None);
        assert_eq!(found("/mnt"), None);
        assert_eq!(found("/mnt/a bc"), None);
    }
}
