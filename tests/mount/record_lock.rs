//! Record locks of `fcntl(2)` on ranges, for a process or for an open file.

use std::fs::File;
use std::io::{Error, Result};
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Whose lock it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Of the process: `F_SETLK`.
    Process,
    /// Of the open file: `F_OFD_SETLK`.
    OpenFile,
}

/// What is wanted of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Read,
    Write,
    Unlock,
}

fn lock_of(want: Want, bytes: &Range<u64>) -> libc::flock {
    let kind = match want {
        Want::Read => libc::F_RDLCK,
        Want::Write => libc::F_WRLCK,
        Want::Unlock => libc::F_UNLCK,
    };
    libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
        l_start: i64::try_from(bytes.start).unwrap(),
        l_len: i64::try_from(bytes.end - bytes.start).unwrap(),
        l_pid: 0,
    }
}

#[allow(unsafe_code, reason = "no safe call has ranges or open files")]
fn call(file: &File, command: i32, lock: &mut libc::flock) -> Result<()> {
    // SAFETY: the descriptor is open, and these commands read and write one `flock`, which lives.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, lock) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Takes, changes or gives up a lock: EAGAIN if another is in the way.
pub fn set(file: &File, family: Family, want: Want, bytes: &Range<u64>) -> Result<()> {
    let command = match family {
        Family::Process => libc::F_SETLK,
        Family::OpenFile => libc::F_OFD_SETLK,
    };
    call(file, command, &mut lock_of(want, bytes))
}

/// As [`set`], and waits as long as another is in the way.
pub fn set_waiting(file: &File, family: Family, want: Want, bytes: &Range<u64>) -> Result<()> {
    let command = match family {
        Family::Process => libc::F_SETLKW,
        Family::OpenFile => libc::F_OFD_SETLKW,
    };
    call(file, command, &mut lock_of(want, bytes))
}

/// True if the lock could be had.
pub fn is_free(file: &File, family: Family, want: Want, bytes: &Range<u64>) -> Result<bool> {
    let command = match family {
        Family::Process => libc::F_GETLK,
        Family::OpenFile => libc::F_OFD_GETLK,
    };
    let mut lock = lock_of(want, bytes);
    call(file, command, &mut lock)?;
    Ok(i32::from(lock.l_type) == libc::F_UNLCK)
}
