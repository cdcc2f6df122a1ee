//! Requests as the kernel sends them, taken apart and validated.
//!
//! Called by both transports. Holds: no bytes make it panic; what is unknown becomes ENOSYS, what is malformed EINVAL.
//! Not here: INIT (`init`), FORGET and INTERRUPT (`control`), which never reach a handler.

use bytes::{Buf, Bytes};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::abi::{self, flag, opcode, set};
use super::encode::rdev_in;
use super::filesystem::Errno;
use super::op::{Caller, Lock, LockCall, LockKind, Op, Request, Seek, SetAttr, XattrMode};
use crate::types::{SetTime, Timestamp};

/// Longest name: `NAME_MAX` of POSIX, but the kernel allows filesystems up to 1024 and refuses by itself.
const NAME_LEN_MAX: usize = 1024;

/// `RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT`.
const RENAME_FLAGS: u32 = 1 | 2 | 4;

/// Which kind of answer a request expects, and how much room there is for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the answer of the same name")]
pub enum Expected {
    Done,
    Entry,
    Attr,
    Statx,
    Open,
    Create,
    Data { len_max: u32 },
    Written { len: u32 },
    Statfs,
    Xattr { room: u32 },
    Lock,
    Position,
    Copied,
    Copied64,
    Directory { room: u32, plus: bool },
}

/// Limits that were negotiated, against which lengths are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest read and write in bytes.
    pub io_len_max: u32,
    /// Setxattr has its longer form.
    pub setxattr_ext: bool,
}

/// Takes a request apart: its header, and all bytes behind it.
///
/// # Errors
/// ENOSYS for an operation that is not served, ENOTTY for an ioctl, EINVAL for one that makes no sense, ENAMETOOLONG.
pub fn parse(header: &abi::InHeader, body: Bytes, limits: Limits) -> Result<(Request, Expected), Errno> {
    let extensions_len = usize::from(header.extensions_len) * 8;
    let mut body = Body(body);
    let args_len = body.0.len().checked_sub(extensions_len).ok_or(Errno::INVAL)?;
    let extensions = body.0.split_off(args_len);
    let (op, expected) = op(header, &mut body, limits)?;
    let caller =
        Caller { uid: header.uid, gid: header.gid, pid: header.pid, groups: groups(Body(extensions))? };
    Ok((Request { unique: header.unique, inode: header.inode, caller, op }, expected))
}

fn op(header: &abi::InHeader, body: &mut Body, limits: Limits) -> Result<(Op, Expected), Errno> {
    Ok(match header.opcode {
        opcode::LOOKUP => (Op::Lookup { name: body.name()? }, Expected::Entry),
        opcode::GETATTR => {
            // Shorter forms than this one are older than what INIT accepts.
            let args: abi::GetattrIn = body.take()?;
            let handle = (args.flags & flag::GETATTR_HANDLE != 0).then_some(args.handle);
            (Op::Getattr { handle }, Expected::Attr)
        }
        opcode::STATX => {
            let args: abi::StatxIn = body.take()?;
            let handle = (args.flags & flag::GETATTR_HANDLE != 0).then_some(args.handle);
            (Op::Getattr { handle }, Expected::Statx)
        }
        opcode::SETATTR => (Op::Setattr(setattr(&body.take()?)), Expected::Attr),
        opcode::READLINK => (Op::Readlink, Expected::Data { len_max: LINK_LEN_MAX }),
        opcode::SYMLINK => {
            let name = body.name()?;
            let target = body.text()?;
            if target.is_empty() {
                return Err(Errno::INVAL);
            }
            (Op::Symlink { name, target }, Expected::Entry)
        }
        opcode::MKNOD => {
            let abi::MknodIn { mode, rdev, umask, .. } = body.take()?;
            (Op::Mknod { name: body.name()?, mode, umask, rdev: rdev_in(rdev) }, Expected::Entry)
        }
        opcode::MKDIR => {
            let abi::MkdirIn { mode, umask } = body.take()?;
            (Op::Mkdir { name: body.name()?, mode, umask }, Expected::Entry)
        }
        opcode::UNLINK => (Op::Unlink { name: body.name()? }, Expected::Done),
        opcode::RMDIR => (Op::Rmdir { name: body.name()? }, Expected::Done),
        opcode::RENAME => {
            let abi::RenameIn { new_parent } = body.take()?;
            (rename(body, new_parent, 0)?, Expected::Done)
        }
        opcode::RENAME2 => {
            let abi::Rename2In { new_parent, flags, .. } = body.take()?;
            (rename(body, new_parent, flags)?, Expected::Done)
        }
        opcode::LINK => {
            let abi::LinkIn { target } = body.take()?;
            (Op::Link { target, name: body.name()? }, Expected::Entry)
        }
        opcode::OPEN => {
            let abi::OpenIn { flags, open_flags } = body.take()?;
            let kill_suid_sgid = open_flags & flag::OPEN_KILL_SUIDGID != 0;
            (Op::Open { flags, kill_suid_sgid }, Expected::Open)
        }
        opcode::OPENDIR => {
            let abi::OpenIn { flags, .. } = body.take()?;
            (Op::Opendir { flags }, Expected::Open)
        }
        opcode::CREATE => {
            let abi::CreateIn { flags, mode, umask, open_flags } = body.take()?;
            let kill_suid_sgid = open_flags & flag::OPEN_KILL_SUIDGID != 0;
            (Op::Create { name: body.name()?, mode, umask, flags, kill_suid_sgid }, Expected::Create)
        }
        opcode::TMPFILE => {
            // A name follows that means nothing.
            let abi::CreateIn { flags, mode, umask, .. } = body.take()?;
            (Op::Tmpfile { mode, umask, flags }, Expected::Create)
        }
        opcode::READ => {
            let args: abi::ReadIn = body.take()?;
            let len = within(args.size, limits.io_len_max)?;
            let op = Op::Read {
                handle: args.handle,
                offset: position(args.offset)?,
                len,
                flags: args.flags,
                lock_owner: (args.read_flags & flag::READ_LOCK_OWNER != 0).then_some(args.lock_owner),
            };
            (op, Expected::Data { len_max: len })
        }
        opcode::WRITE => {
            let args: abi::WriteIn = body.take()?;
            let len = within(args.size, limits.io_len_max)?;
            let op = Op::Write {
                handle: args.handle,
                offset: position(args.offset)?,
                data: body.bytes(len as usize)?,
                flags: args.flags,
                from_cache: args.write_flags & flag::WRITE_CACHE != 0,
                kill_suid_sgid: args.write_flags & flag::WRITE_KILL_SUIDGID != 0,
                lock_owner: (args.write_flags & flag::WRITE_LOCK_OWNER != 0).then_some(args.lock_owner),
            };
            (op, Expected::Written { len })
        }
        opcode::READDIR | opcode::READDIRPLUS => {
            let args: abi::ReadIn = body.take()?;
            let room = within(args.size, limits.io_len_max)?;
            let plus = header.opcode == opcode::READDIRPLUS;
            let op = Op::Readdir { handle: args.handle, offset: args.offset, room, plus };
            (op, Expected::Directory { room, plus })
        }
        opcode::STATFS => (Op::Statfs, Expected::Statfs),
        opcode::RELEASE => {
            let args: abi::ReleaseIn = body.take()?;
            let unlock = args.release_flags & flag::RELEASE_FLOCK_UNLOCK != 0;
            let op = Op::Release {
                handle: args.handle,
                flags: args.flags,
                flock_owner: unlock.then_some(args.lock_owner),
                lock_owner: args.lock_owner,
            };
            (op, Expected::Done)
        }
        opcode::RELEASEDIR => {
            let abi::ReleaseIn { handle, .. } = body.take()?;
            (Op::Releasedir { handle }, Expected::Done)
        }
        opcode::FLUSH => {
            let abi::FlushIn { handle, lock_owner, .. } = body.take()?;
            (Op::Flush { handle, lock_owner }, Expected::Done)
        }
        opcode::FSYNC | opcode::FSYNCDIR => {
            let abi::FsyncIn { handle, flags, .. } = body.take()?;
            let data_only = flags & flag::FSYNC_DATA_ONLY != 0;
            let op = if header.opcode == opcode::FSYNC {
                Op::Fsync { handle, data_only }
            } else {
                Op::Fsyncdir { handle, data_only }
            };
            (op, Expected::Done)
        }
        opcode::SETXATTR => (setxattr(body, limits)?, Expected::Done),
        opcode::GETXATTR => {
            let abi::GetxattrIn { size: room, .. } = body.take()?;
            (Op::GetXattr { name: body.text_of_some_length()?, room }, Expected::Xattr { room })
        }
        opcode::LISTXATTR => {
            let abi::GetxattrIn { size: room, .. } = body.take()?;
            (Op::ListXattr { room }, Expected::Xattr { room })
        }
        opcode::REMOVEXATTR => (Op::RemoveXattr { name: body.text_of_some_length()? }, Expected::Done),
        opcode::GETLK => (Op::Getlk(lock_call(&body.take()?)?), Expected::Lock),
        opcode::SETLK => (Op::Setlk(lock_call(&body.take()?)?), Expected::Done),
        opcode::SETLKW => {
            let call = lock_call(&body.take()?)?;
            // Nobody waits to give back.
            let unlock = call.lock.kind == LockKind::Unlock;
            (if unlock { Op::Setlk(call) } else { Op::SetlkWait(call) }, Expected::Done)
        }
        opcode::ACCESS => {
            let abi::AccessIn { mask, .. } = body.take()?;
            (Op::Access { mask }, Expected::Done)
        }
        opcode::FALLOCATE => {
            let abi::FallocateIn { handle, offset, len, mode, .. } = body.take()?;
            position(offset)?;
            position(offset.checked_add(len).ok_or(Errno::FBIG)?).map_err(|_| Errno::FBIG)?;
            if len == 0 {
                return Err(Errno::INVAL);
            }
            (Op::Fallocate { handle, offset, len, mode }, Expected::Done)
        }
        opcode::LSEEK => {
            /// `SEEK_DATA` and `SEEK_HOLE`; the others the kernel answers itself.
            const DATA: u32 = 3;
            const HOLE: u32 = 4;
            let abi::LseekIn { handle, offset, whence, .. } = body.take()?;
            let seek = match whence {
                DATA => Seek::Data,
                HOLE => Seek::Hole,
                _ => return Err(Errno::INVAL),
            };
            (Op::Lseek { handle, offset: position(offset)?, seek }, Expected::Position)
        }
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => {
            let args: abi::CopyIn = body.take()?;
            if args.flags != 0 {
                return Err(Errno::INVAL);
            }
            let short = header.opcode == opcode::COPY_FILE_RANGE;
            // The answer of the short form has 32 bits; a shorter copy than asked for is right at any time.
            let len = if short { args.len.min(COPY_SHORT_MAX) } else { args.len };
            let op = Op::CopyFileRange {
                handle: args.handle,
                offset: position(args.offset)?,
                to_inode: args.to_inode,
                to_handle: args.to_handle,
                to_offset: position(args.to_offset)?,
                len,
            };
            (op, if short { Expected::Copied } else { Expected::Copied64 })
        }
        opcode::SYNCFS => (Op::Syncfs, Expected::Done),
        opcode::DESTROY => (Op::Destroy, Expected::Done),
        // "No such ioctl": programs that probe for one expect this of a file.
        opcode::IOCTL => return Err(Errno::NOTTY),
        _ => return Err(Errno::NOSYS),
    })
}

/// Longest target of a symlink: a memory page, which is what the kernel has room for.
const LINK_LEN_MAX: u32 = 4096;

/// What a short answer to a copy can tell, at a multiple of every block size.
const COPY_SHORT_MAX: u64 = 1 << 31;

fn within(len: u32, max: u32) -> Result<u32, Errno> {
    if len <= max { Ok(len) } else { Err(Errno::INVAL) }
}

/// A position in a file is a signed number that is not negative.
fn position(offset: u64) -> Result<u64, Errno> {
    if i64::try_from(offset).is_ok() { Ok(offset) } else { Err(Errno::INVAL) }
}

fn rename(body: &mut Body, new_parent: u64, flags: u32) -> Result<Op, Errno> {
    if flags & !RENAME_FLAGS != 0 {
        return Err(Errno::INVAL);
    }
    let (name, new_name) = (body.name()?, body.name()?);
    Ok(Op::Rename { name, new_parent, new_name, flags })
}

fn setattr(args: &abi::SetattrIn) -> SetAttr {
    let has = |bit: u32| args.valid & bit != 0;
    // The kernel puts nanoseconds here; more than a second of them would be a mistake that is clamped.
    let moment = |secs: u64, nanos: u32| Timestamp::from_parts(secs.cast_signed(), nanos.min(999_999_999));
    let time = |at: u32, now: u32, secs: u64, nanos: u32| {
        if has(now) { Some(SetTime::Now) } else { has(at).then(|| SetTime::At(moment(secs, nanos))) }
    };
    SetAttr {
        handle: has(set::HANDLE).then_some(args.handle),
        mode: has(set::MODE).then_some(args.mode),
        uid: has(set::UID).then_some(args.uid),
        gid: has(set::GID).then_some(args.gid),
        size: has(set::SIZE).then_some(args.size),
        atime: time(set::ATIME, set::ATIME_NOW, args.atime, args.atime_nanos),
        mtime: time(set::MTIME, set::MTIME_NOW, args.mtime, args.mtime_nanos),
        ctime: has(set::CTIME).then(|| moment(args.ctime, args.ctime_nanos)),
        kill_suid_sgid: has(set::KILL_SUID_SGID),
        lock_owner: has(set::LOCK_OWNER).then_some(args.lock_owner),
    }
}

fn setxattr(body: &mut Body, limits: Limits) -> Result<Op, Errno> {
    /// `XATTR_CREATE` and `XATTR_REPLACE`.
    const CREATE: u32 = 1;
    const REPLACE: u32 = 2;
    let (size, flags, more) = if limits.setxattr_ext {
        let args: abi::SetxattrIn = body.take()?;
        (args.size, args.flags, args.setxattr_flags)
    } else {
        let args: abi::SetxattrShortIn = body.take()?;
        (args.size, args.flags, 0)
    };
    let mode = match flags {
        0 => XattrMode::Any,
        CREATE => XattrMode::Create,
        REPLACE => XattrMode::Replace,
        _ => return Err(Errno::INVAL),
    };
    let name = body.text_of_some_length()?;
    let value = body.bytes(size as usize)?;
    Ok(Op::SetXattr { name, value, mode, acl_kill_sgid: more & flag::SETXATTR_ACL_KILL_SGID != 0 })
}

fn lock_call(args: &abi::LockIn) -> Result<LockCall, Errno> {
    let kind = match args.lock.kind {
        0 => LockKind::Shared,
        1 => LockKind::Exclusive,
        2 => LockKind::Unlock,
        _ => return Err(Errno::INVAL),
    };
    let abi::FileLock { start, end, pid, .. } = args.lock;
    if start > end || end > Lock::END {
        return Err(Errno::INVAL);
    }
    let flock = args.flags & flag::LOCK_FLOCK != 0;
    Ok(LockCall { handle: args.handle, owner: args.owner, flock, lock: Lock { start, end, kind, pid } })
}

/// The supplementary groups among the extensions; others are passed over.
fn groups(mut extensions: Body) -> Result<Vec<u32>, Errno> {
    let mut groups = Vec::new();
    while !extensions.0.is_empty() {
        let head: abi::ExtensionHeader = extensions.take()?;
        let len = (head.size as usize).checked_sub(size_of_val(&head)).ok_or(Errno::INVAL)?;
        let mut extension = Body(extensions.bytes(len)?);
        if head.kind == flag::EXTENSION_GROUPS {
            let count: u32 = extension.take()?;
            for _ in 0..count {
                groups.push(extension.take()?);
            }
        }
    }
    Ok(groups)
}

/// What is left of a request.
struct Body(Bytes);

impl Body {
    fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, Errno> {
        let (value, _) = T::read_from_prefix(&self.0).map_err(|_| Errno::INVAL)?;
        self.0.advance(size_of::<T>());
        Ok(value)
    }

    fn bytes(&mut self, len: usize) -> Result<Bytes, Errno> {
        if len > self.0.len() {
            return Err(Errno::INVAL);
        }
        Ok(self.0.split_to(len))
    }

    /// Up to the next NUL, which is dropped.
    fn text(&mut self) -> Result<Bytes, Errno> {
        let len = self.0.iter().position(|b| *b == 0).ok_or(Errno::INVAL)?;
        let text = self.0.split_to(len);
        self.0.advance(1);
        Ok(text)
    }

    fn text_of_some_length(&mut self) -> Result<Bytes, Errno> {
        let text = self.text()?;
        if text.is_empty() { Err(Errno::INVAL) } else { Ok(text) }
    }

    /// One component of a path.
    fn name(&mut self) -> Result<Bytes, Errno> {
        let name = self.text_of_some_length()?;
        if name.len() > NAME_LEN_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        if name.contains(&b'/') { Err(Errno::INVAL) } else { Ok(name) }
    }
}

#[cfg(test)]
mod tests;
