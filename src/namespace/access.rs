//! Who may do what: permission bits, access lists, ownership, the sticky bit, the loss of setuid and setgid.
//!
//! The rules are those of Linux (`generic_permission`, `check_sticky`, `setattr_should_drop_suidgid`), for a superuser
//! with all capabilities and everyone else with none.

use super::records::Inode;
use crate::types::{Access, Cred, FsError, FsResult};

const S_ISUID: u32 = 0o4000;
/// Setgid bit of a mode.
pub(super) const S_ISGID: u32 = 0o2000;
const S_ISVTX: u32 = 0o1000;
const S_IXGRP: u32 = 0o010;
const ANY_EXEC: u32 = 0o111;

/// True if the permission bits, or the access list in their place, let `cred` do all of `access`.
pub(super) fn may(inode: &Inode, cred: &Cred, access: Access) -> bool {
    if cred.is_root() {
        // Root needs one execute bit to run a file; it searches any directory.
        return access.0 & Access::EXEC.0 == 0 || inode.is_dir() || inode.mode & ANY_EXEC != 0;
    }
    // The first class that fits decides, even if a later one would grant more.
    let shift = match &inode.acl {
        _ if cred.uid == inode.uid => 6,
        Some(acl) => return acl.permits(inode.mode, inode.gid, cred, access.0 & 7),
        None if cred.in_group(inode.gid) => 3,
        None => 0,
    };
    let granted = (inode.mode >> shift) & 7;
    u32::from(access.0) & !granted & 7 == 0
}

/// EACCES unless the permission bits or the access list let `cred` do all of `access`.
pub(super) fn require(inode: &Inode, cred: &Cred, access: Access) -> FsResult<()> {
    if may(inode, cred, access) { Ok(()) } else { Err(FsError::Denied) }
}

/// EACCES unless `cred` may add and remove names in a directory.
pub(super) fn require_change(dir: &Inode, cred: &Cred) -> FsResult<()> {
    require(dir, cred, Access::WRITE.and(Access::EXEC))
}

/// True for the owner and root.
pub(super) fn owns(inode: &Inode, cred: &Cred) -> bool {
    cred.is_root() || cred.uid == inode.uid
}

/// EPERM for all but the owner and root.
pub(super) fn require_owner(inode: &Inode, cred: &Cred) -> FsResult<()> {
    if owns(inode, cred) { Ok(()) } else { Err(FsError::NotOwner) }
}

/// EACCES or EPERM unless `cred` may take the dentry of `child` out of `dir`: in a sticky directory only the owner of
/// either of them may.
pub(super) fn require_remove(dir: &Inode, child: &Inode, cred: &Cred) -> FsResult<()> {
    require_change(dir, cred)?;
    if dir.mode & S_ISVTX != 0 && !owns(child, cred) && !owns(dir, cred) {
        return Err(FsError::NotOwner);
    }
    Ok(())
}

/// True for a directory with the sticky bit.
pub(super) fn is_sticky_dir(inode: &Inode) -> bool {
    inode.is_dir() && inode.mode & S_ISVTX != 0
}

/// True if `cred` may keep a setgid bit on something of this group.
fn keeps_setgid(gid: u32, cred: &Cred) -> bool {
    cred.is_root() || cred.in_group(gid)
}

/// The mode after a write or truncate by `cred`: written programs do not keep the rights of their owner.
pub(super) fn mode_after_write(inode: &Inode, cred: &Cred) -> u32 {
    if cred.is_root() { inode.mode } else { mode_without_privileges(inode, cred) }
}

/// The mode after a change of owner or group by `cred` (root too).
pub(super) fn mode_after_chown(inode: &Inode, cred: &Cred) -> u32 {
    if inode.is_dir() { inode.mode } else { mode_without_privileges(inode, cred) }
}

fn mode_without_privileges(inode: &Inode, cred: &Cred) -> u32 {
    let mut mode = inode.mode & !S_ISUID;
    // Setgid without group execute once meant mandatory locking, and stays for members of the group.
    if mode & S_IXGRP != 0 || !keeps_setgid(inode.gid, cred) {
        mode &= !S_ISGID;
    }
    mode
}

/// The mode that a chmod by `cred` leaves on something of group `gid`.
pub(super) fn mode_after_chmod(mode: u32, gid: u32, cred: &Cred) -> u32 {
    if keeps_setgid(gid, cred) { mode } else { mode & !S_ISGID }
}

/// Group and mode of something new in `dir`.
pub(super) fn group_and_mode_of_new(dir: &Inode, cred: &Cred, mode: u32, is_dir: bool) -> (u32, u32) {
    if is_dir {
        // mkdir ignores setuid and setgid in its mode; setgid comes from the parent alone.
        let mode = mode & (0o777 | S_ISVTX);
        return match dir.mode & S_ISGID {
            0 => (cred.gid, mode),
            _ => (dir.gid, mode | S_ISGID),
        };
    }
    if dir.mode & S_ISGID == 0 {
        return (cred.gid, mode);
    }
    let both = S_ISGID | S_IXGRP;
    let strip = mode & both == both && !keeps_setgid(dir.gid, cred);
    (dir.gid, if strip { mode & !S_ISGID } else { mode })
}

#[cfg(test)]
mod tests {
    use super::super::acl::{Extended, Named};
    use super::super::records::tests::sample_inode;
    use super::*;
    use crate::types::FileKind;

    fn file(mode: u32) -> Inode {
        Inode { mode, uid: 10, gid: 20, ..sample_inode(FileKind::File) }
    }

    fn cred(uid: u32, gid: u32, groups: &[u32]) -> Cred {
        Cred { uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let f = file(0o077);
        assert!(!may(&f, &cred(10, 99, &[]), Access::READ), "the owner's own bits are empty");
        assert!(may(&f, &cred(11, 20, &[]), Access::READ.and(Access::WRITE)));
        let f = file(0o707);
        assert!(!may(&f, &cred(11, 1, &[3, 20]), Access::READ), "a supplementary group counts");
        assert!(may(&f, &cred(11, 1, &[3]), Access::READ));
    }

    /// POSIX 1003.1e, 23.1.5: owner; named users; the owning and the named groups, of which one must grant all; others. The
    /// mask bounds all but the first and the last.
    #[test]
    fn an_access_list_decides_in_the_order_of_posix() {
        let named = |list: &[(u32, u8)]| list.iter().map(|&(id, perm)| Named { id, perm }).collect();
        let acl =
            Extended { users: named(&[(11, 7), (12, 0)]), group: 4, groups: named(&[(30, 2), (31, 6)]) };
        let with = |mode| Inode { acl: Some(Box::new(acl.clone())), ..file(mode) };
        let (r, w, x) = (Access::READ, Access::WRITE, Access::EXEC);
        let all = |f: &Inode, c: Cred| [r, w, x].map(|access| may(f, &c, access));
        let f = with(0o467);
        assert_eq!(all(&f, cred(10, 20, &[30])), [true, false, false], "the owner, without the mask");
        assert_eq!(all(&f, cred(11, 20, &[])), [true, true, false], "a named user under the mask");
        assert_eq!(all(&f, cred(12, 20, &[31])), [false; 3], "a named user gets no more from a group");
        assert_eq!(all(&f, cred(13, 20, &[])), [true, false, false], "the owning group");
        assert_eq!(all(&f, cred(13, 1, &[30])), [false, true, false], "a named group");
        let both = cred(13, 20, &[30]);
        assert_eq!(all(&f, both.clone()), [true, true, false], "each from another group");
        assert!(!may(&f, &both, r.and(w)), "no group alone grants both");
        assert!(may(&f, &cred(13, 31, &[20]), r.and(w)));
        assert_eq!(all(&f, cred(13, 1, &[])), [true; 3], "others, without the mask");
        let masked = with(0o407);
        assert_eq!(all(&masked, cred(11, 1, &[])), [false; 3], "an empty mask takes all");
        assert_eq!(all(&masked, cred(13, 31, &[])), [false; 3]);
        assert_eq!(all(&masked, Cred::root()), [true; 3]);
    }

    #[test]
    fn root_reads_all_and_executes_what_anyone_may() {
        assert!(may(&file(0), &Cred::root(), Access::READ.and(Access::WRITE)));
        assert!(!may(&file(0o666), &Cred::root(), Access::EXEC));
        assert!(may(&file(0o001), &Cred::root(), Access::EXEC));
        assert!(may(&sample_inode(FileKind::Dir), &Cred::root(), Access::EXEC));
    }

    #[test]
    fn a_write_takes_setuid_and_an_executable_setgid() {
        let stranger = cred(11, 1, &[]);
        assert_eq!(mode_after_write(&file(0o6775), &stranger), 0o775);
        assert_eq!(mode_after_write(&file(0o2765), &cred(11, 20, &[])), 0o2765);
        assert_eq!(mode_after_write(&file(0o2765), &stranger), 0o765);
        assert_eq!(mode_after_write(&file(0o6775), &Cred::root()), 0o6775);
        assert_eq!(mode_after_chown(&file(0o6775), &Cred::root()), 0o775);
    }
}
