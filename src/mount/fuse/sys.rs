//! The one system call of `/dev/fuse` that has no safe wrapper.
#![allow(unsafe_code, reason = "an ioctl is whatever its number says")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use super::filesystem::Errno;

/// `FUSE_DEV_IOC_CLONE`: reads the number of a descriptor.
const CLONE: Opcode = opcode::read::<u32>(229, 0);

/// Ties `new`, a fresh descriptor of `/dev/fuse`, to the mount of `old`.
pub fn clone_device(new: &OwnedFd, old: &OwnedFd) -> Result<(), Errno> {
    let old = u32::try_from(old.as_raw_fd()).map_err(|_| Errno::BADF)?;
    // SAFETY: the number belongs to an ioctl that reads a `u32` behind the pointer and keeps nothing of it.
    unsafe { ioctl(new.as_fd(), Setter::<CLONE, u32>::new(old)) }
}
