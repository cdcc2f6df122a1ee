//! The directory: checks, `mount(2)` and `umount2(2)`, or `fusermount3` where the user is not root.
//!
//! Called by `session`. Holds: an error leaves nothing mounted; unmounting works while files are open, while requests
//! wait, and when somebody else unmounted before.

use std::ffi::CString;
use std::fs;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};

use super::device::{DEVICE, Device};
use super::filesystem::Errno;
use super::options::Options;

/// Type of the filesystem as `/proc/mounts` shows it.
pub const FS_TYPE: &str = "fuse.pohmelfs";
const SUBTYPE: &str = "pohmelfs";

/// Mounts for users who are not root; part of every distribution's fuse3.
const HELPER: &str = "fusermount3";

/// Why it cannot be mounted, and what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum MountError {
    #[error("{} does not exist: make it with mkdir", .0.display())]
    Missing(PathBuf),
    #[error("{} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    #[error("{dir} is still mounted, but its program is gone: run `umount -l {dir}` and try again", dir = .0.display())]
    Stale(PathBuf),
    #[error("{dir} is already mounted: run `umount {dir}` first, or take another directory", dir = .0.display())]
    AlreadyMounted(PathBuf),
    #[error("{} cannot be used: {errno}", dir.display())]
    Directory { dir: PathBuf, errno: Errno },
    #[error("{DEVICE} is missing: run `modprobe fuse`, or give the container the device ({DEVICE})")]
    NoDevice,
    #[error("no rights to {what}: {remedy}")]
    NoRights { what: &'static str, remedy: &'static str },
    #[error("{HELPER} is missing: install the package fuse3, or mount as root")]
    NoHelper,
    #[error("{HELPER} refused: {0}")]
    Helper(String),
    #[error("{0}")]
    Protocol(String),
    #[error("io_uring cannot be used: {0}; mount with the transport auto or dev")]
    Uring(String),
    #[error("cannot {what}: {errno}")]
    System { what: &'static str, errno: Errno },
}

impl MountError {
    /// A system call failed.
    pub fn system(what: &'static str, error: impl Into<std::io::Error>) -> Self {
        let errno = Errno::from_io_error(&error.into()).unwrap_or(Errno::IO);
        Self::System { what, errno }
    }
}

/// A mounted directory. Unmounted when dropped.
#[derive(Debug)]
pub struct Mountpoint {
    dir: PathBuf,
    /// Number of the kernel's connection, and of its device.
    minor: u32,
    mounted: bool,
}

impl Mountpoint {
    /// Mounts `dir`, whose requests then come from the device.
    pub fn mount(dir: &Path, options: &Options) -> Result<(Self, Device), MountError> {
        let dir = check(dir)?;
        let device = if rustix::process::geteuid().is_root() {
            let device = Device::open().map_err(device_error)?;
            mount_as_root(&dir, &device, options)?;
            device
        } else {
            mount_by_helper(&dir, options)?
        };
        let mut mountpoint = Self { dir, minor: 0, mounted: true };
        let entry = find(&mountpoint.dir).filter(|entry| entry.fs_type == FS_TYPE);
        mountpoint.minor = entry.map_or(0, |entry| entry.minor);
        Ok((mountpoint, device))
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lets the kernel read ahead as far as `kb` KiB. Works for root; for others the kernel's default stays.
    pub fn set_read_ahead(&self, kb: u32) {
        let file = format!("/sys/class/bdi/0:{}/read_ahead_kb", self.minor);
        if let Err(e) = fs::write(&file, kb.to_string()) {
            tracing::debug!(file, error = %e, "read-ahead stays at the kernel's default");
        }
    }

    /// True while the directory shows this mount (and not none, or another one).
    pub fn is_mounted(&self) -> bool {
        // Without /proc nobody can tell: it may be.
        self.minor == 0
            || find(&self.dir).is_some_and(|entry| entry.fs_type == FS_TYPE && entry.minor == self.minor)
    }

    /// Unmounts, when nothing uses it any more: [`Errno::BUSY`] otherwise. No error if it is not mounted any more.
    pub fn unmount(&mut self) -> Result<(), Errno> {
        self.unmount_with(UnmountFlags::empty())
    }

    /// Takes it away from whoever uses it: their calls fail.
    pub fn unmount_by_force(&mut self) -> Result<(), Errno> {
        let unmounted = self.unmount_with(UnmountFlags::FORCE | UnmountFlags::DETACH);
        abort(self.minor);
        unmounted
    }

    fn unmount_with(&mut self, flags: UnmountFlags) -> Result<(), Errno> {
        if self.mounted && self.is_mounted() {
            if rustix::process::geteuid().is_root() {
                match rustix::mount::unmount(&self.dir, flags | UnmountFlags::NOFOLLOW) {
                    // Somebody was faster.
                    Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                    Err(e) => return Err(e),
                }
            } else {
                let mut helper = Command::new(HELPER);
                helper.arg("-u").arg("-q");
                if flags.contains(UnmountFlags::DETACH) {
                    helper.arg("-z");
                }
                let status = helper.arg("--").arg(&self.dir).stdin(Stdio::null()).status();
                if !status.is_ok_and(|status| status.success()) && self.is_mounted() {
                    return Err(Errno::BUSY);
                }
            }
        }
        self.mounted = false;
        Ok(())
    }

    /// Number of the kernel's connection, for [`abort`].
    pub fn minor(&self) -> u32 {
        self.minor
    }
}

/// Ends the kernel's connection number `minor`, which somebody may have detached from its directory while files were
/// open, or which waits for an answer.
pub fn abort(minor: u32) {
    const CONNECTIONS: &str = "/sys/fs/fuse/connections";
    let file = Path::new(CONNECTIONS).join(minor.to_string()).join("abort");
    if !file.exists() && rustix::process::geteuid().is_root() && is_empty(CONNECTIONS) {
        // Where every distribution mounts it, and containers do not. Refused: the next line says so.
        let _ = rustix::mount::mount("fusectl", CONNECTIONS, "fusectl", MountFlags::empty(), None);
    }
    let written = fs::OpenOptions::new().write(true).open(file).and_then(|mut f| f.write_all(b"1"));
    if let Err(e) = written {
        tracing::debug!(minor, error = %e, "connection not aborted: it is gone already, or there is no fusectl");
    }
}

fn is_empty(dir: &str) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

impl Drop for Mountpoint {
    fn drop(&mut self) {
        if self.mounted
            && self.unmount().is_err()
            && let Err(e) = self.unmount_by_force()
        {
            tracing::error!(dir = %self.dir.display(), error = %e, "cannot be unmounted");
        }
    }
}

/// The directory by its full name, if it can be mounted on.
fn check(dir: &Path) -> Result<PathBuf, MountError> {
    let failed = |e: std::io::Error| match Errno::from_io_error(&e) {
        Some(Errno::NOENT) => MountError::Missing(dir.to_owned()),
        Some(Errno::NOTDIR) => MountError::NotDirectory(dir.to_owned()),
        Some(Errno::NOTCONN | Errno::CONNABORTED) => MountError::Stale(dir.to_owned()),
        errno => MountError::Directory { dir: dir.to_owned(), errno: errno.unwrap_or(Errno::IO) },
    };
    let full = fs::canonicalize(dir).map_err(failed)?;
    if !fs::metadata(&full).map_err(failed)?.is_dir() {
        return Err(MountError::NotDirectory(dir.to_owned()));
    }
    if find(&full).is_some_and(|entry| entry.fs_type == FS_TYPE) {
        return Err(MountError::AlreadyMounted(dir.to_owned()));
    }
    Ok(full)
}

fn device_error(errno: Errno) -> MountError {
    match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => MountError::NoDevice,
        Errno::ACCESS | Errno::PERM => MountError::NoRights {
            what: "open /dev/fuse",
            remedy: "mount as root (in a container: with the device and CAP_SYS_ADMIN)",
        },
        errno => MountError::System { what: "open /dev/fuse", errno },
    }
}

fn mount_as_root(dir: &Path, device: &Device, options: &Options) -> Result<(), MountError> {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::NODEV, !options.dev);
    flags.set(MountFlags::NOEXEC, !options.exec);
    let mut data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.fd().as_raw_fd());
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(|_| MountError::Protocol("mount options with NUL".to_owned()))?;
    rustix::mount::mount(options.source.as_str(), dir, FS_TYPE, flags, data.as_c_str()).map_err(|errno| {
        match errno {
            Errno::PERM | Errno::ACCESS => MountError::NoRights {
                what: "mount",
                remedy: "mount(2) needs CAP_SYS_ADMIN (in a container: --cap-add SYS_ADMIN)",
            },
            Errno::NODEV => MountError::NoDevice,
            Errno::BUSY => MountError::AlreadyMounted(dir.to_owned()),
            errno => MountError::System { what: "mount", errno },
        }
    })
}

/// The helper mounts and passes the device through a socket, which it finds as its standard input.
fn mount_by_helper(dir: &Path, options: &Options) -> Result<Device, MountError> {
    if !Path::new(DEVICE).exists() {
        return Err(MountError::NoDevice);
    }
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| MountError::system("make a socket pair", e))?;
    // A comma would end the option.
    let source = options.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut words = vec![format!("fsname={source}"), format!("subtype={SUBTYPE}")];
    let switches = [
        (options.read_only, "ro"),
        (options.allow_other, "allow_other"),
        (!options.suid, "nosuid"),
        (!options.dev, "nodev"),
        (!options.exec, "noexec"),
    ];
    words.extend(switches.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_owned()));
    let output = Command::new(HELPER)
        .arg("-o")
        .arg(words.join(","))
        .arg("--")
        .arg(dir)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    let output = output.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => MountError::NoHelper,
        _ => MountError::system("run fusermount3", e),
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(MountError::Helper(said.trim().to_owned()));
    }
    receive(&ours).map(Device::of)
}

fn receive(socket: &OwnedFd) -> Result<OwnedFd, MountError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .map_err(|e| MountError::system("receive the device", e))?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(MountError::Helper("it sent no device".to_owned()))
}

/// What `/proc/self/mountinfo` says of a mount.
#[derive(Debug, PartialEq, Eq)]
struct MountEntry {
    minor: u32,
    fs_type: String,
}

/// The topmost mount on `dir`, a full name.
fn find(dir: &Path) -> Option<MountEntry> {
    // A path need not be UTF-8.
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    find_in(&mounts, dir)
}

fn find_in(mounts: &[u8], dir: &Path) -> Option<MountEntry> {
    let entry = |line: &[u8]| {
        let mut words = line.split(|b| *b == b' ');
        let device = std::str::from_utf8(words.nth(2)?).ok()?;
        let minor = device.split_once(':')?.1.parse().ok()?;
        let at = unescape(words.nth(1)?);
        let fs_type = words.skip_while(|word| *word != b"-").nth(1)?;
        (at == dir.as_os_str().as_bytes())
            .then(|| MountEntry { minor, fs_type: String::from_utf8_lossy(fs_type).into_owned() })
    };
    mounts.split(|b| *b == b'\n').filter_map(entry).next_back()
}

/// Space, tab, newline and backslash stand there as `\ooo`.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, more)) = rest.split_first() {
        let octal = more.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(u8::is_ascii_digit));
        if let Some(digits) = octal {
            let value = digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            out.push(u8::try_from(value & 0xff).unwrap_or(b'?'));
            rest = &more[3..];
        } else {
            out.push(*first);
            rest = more;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_directory() {
        let mounts = b"22 1 0:20 / /mnt/a\\040b rw,relatime shared:5 - fuse.pohmelfs x rw\n\
            23 1 0:21 / /mnt/c rw - ext4 /dev/sda1 rw\n24 23 0:22 / /mnt/c rw - fuse.pohmelfs y rw\nbroken\n";
        let found = |dir: &str| find_in(mounts, Path::new(dir)).map(|entry| entry.minor);
        assert_eq!(found("/mnt/a b"), Some(20));
        assert_eq!(found("/mnt/c"), Some(22), "the last one is on top");
        assert_eq!(found("/mnt"), None);
    }

    #[test]
    fn what_cannot_be_mounted_on_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let missing = check(&dir.path().join("missing")).unwrap_err().to_string();
        assert!(missing.contains("mkdir"), "{missing}");
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(matches!(check(&dir.path().join("file")), Err(MountError::NotDirectory(_))));
        assert!(matches!(check(&dir.path().join("file/x")), Err(MountError::NotDirectory(_))));
        assert!(check(dir.path()).is_ok());
    }
}
