//! Access control lists (POSIX 1003.1e, as Linux has them): their bytes, what they grant, what something new inherits.
//!
//! `access` asks them, `ops/acl` sets them, `ops/make` inherits them. Owner, mask and others of an access list stand in the
//! mode of the inode, so that a chmod changes them by itself; [`Extended`] holds the rest, and an inode whose mode says
//! all has none. A default list is kept as it is set, an extended attribute of its directory.
//!
//! Not here: who may set a list.

use std::iter::once;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{Cred, FsError, FsResult};

/// Name of the attribute that shows the access list.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the attribute that is the default list of a directory.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// First field of the attribute's value, and the only version there is.
const VERSION: u32 = 2;
/// The id of entries that have none.
const NO_ID: u32 = u32::MAX;
const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP: u16 = 0x04;
const NAMED_GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// What a list grants to one named user or group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) id: u32,
    /// Three bits, as in a mode.
    pub(super) perm: u8,
}

/// What an access list says beyond the mode, whose group bits are its mask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extended {
    pub(super) users: Vec<Named>,
    /// Of the owning group.
    pub(super) group: u8,
    pub(super) groups: Vec<Named>,
}

impl Extended {
    /// True if it lets `cred`, who is not the owner, do all that `wanted` has bits for.
    pub(super) fn permits(&self, mode: u32, gid: u32, cred: &Cred, wanted: u8) -> bool {
        let (mask, other) = (class(mode, 3), class(mode, 0));
        if let Some(user) = self.users.iter().find(|user| user.id == cred.uid) {
            return wanted & !(user.perm & mask) == 0;
        }
        // Of the groups that fit any one may grant, but one alone must grant all that is wanted.
        let mut is_member = false;
        for group in once(Named { id: gid, perm: self.group }).chain(self.groups.iter().copied()) {
            if cred.in_group(group.id) {
                is_member = true;
                if wanted & !(group.perm & mask) == 0 {
                    return true;
                }
            }
        }
        !is_member && wanted & !other == 0
    }

    /// True if it could have been set.
    pub(super) fn is_possible(&self) -> bool {
        let good = |named: &Named| named.perm <= 7 && named.id != NO_ID;
        self.group <= 7 && self.users.iter().all(good) && self.groups.iter().all(good)
    }
}

/// Three bits of a mode.
fn class(mode: u32, shift: u32) -> u8 {
    u8::try_from((mode >> shift) & 7).expect("three bits")
}

/// A whole list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl {
    owner: u8,
    users: Vec<Named>,
    group: u8,
    groups: Vec<Named>,
    mask: Option<u8>,
    other: u8,
}

impl Acl {
    /// The access list of an inode.
    pub(super) fn of(mode: u32, extended: &Extended) -> Self {
        Self {
            owner: class(mode, 6),
            users: extended.users.clone(),
            group: extended.group,
            groups: extended.groups.clone(),
            mask: Some(class(mode, 3)),
            other: class(mode, 0),
        }
    }

    /// The list of an attribute's value; none if it has no entry, which removes a list.
    pub(super) fn parse(value: &[u8]) -> FsResult<Option<Self>> {
        if value.is_empty() {
            return Ok(None);
        }
        let (version, entries) = value.split_first_chunk().ok_or(FsError::Invalid)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(FsError::Unsupported);
        }
        let (entries, []) = entries.as_chunks::<8>() else { return Err(FsError::Invalid) };
        if entries.is_empty() {
            return Ok(None);
        }
        Self::of_entries(entries).map(Some)
    }

    /// Owner, users, owning group, groups, mask, others, in this order; a mask wherever someone is named.
    fn of_entries(entries: &[[u8; 8]]) -> FsResult<Self> {
        let mut acl = Self { owner: 0, users: vec![], group: 0, groups: vec![], mask: None, other: 0 };
        let mut before = 0;
        for [t0, t1, p0, p1, id @ ..] in entries {
            let (tag, id) = (u16::from_le_bytes([*t0, *t1]), u32::from_le_bytes(*id));
            let perm = u8::try_from(u16::from_le_bytes([*p0, *p1])).unwrap_or(u8::MAX);
            // The tags are in the order of their numbers, and only those of named ones may come again.
            let in_order = tag > before || (tag == before && matches!(tag, USER | NAMED_GROUP));
            let is_named = matches!(tag, USER | NAMED_GROUP);
            if perm > 7 || !in_order || (is_named && id == NO_ID) {
                return Err(FsError::Invalid);
            }
            match tag {
                OWNER => acl.owner = perm,
                USER if before >= OWNER => acl.users.push(Named { id, perm }),
                GROUP if before >= OWNER => acl.group = perm,
                NAMED_GROUP if before >= GROUP => acl.groups.push(Named { id, perm }),
                MASK if before >= GROUP => acl.mask = Some(perm),
                OTHER if before >= GROUP => acl.other = perm,
                _ => return Err(FsError::Invalid),
            }
            before = tag;
        }
        let names = !acl.users.is_empty() || !acl.groups.is_empty();
        if before != OTHER || (names && acl.mask.is_none()) { Err(FsError::Invalid) } else { Ok(acl) }
    }

    /// The value of the attribute.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = VERSION.to_le_bytes().to_vec();
        let mut entry = |tag: u16, perm: u8, id: u32| {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&u16::from(perm).to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        };
        entry(OWNER, self.owner, NO_ID);
        for user in &self.users {
            entry(USER, user.perm, user.id);
        }
        entry(GROUP, self.group, NO_ID);
        for group in &self.groups {
            entry(NAMED_GROUP, group.perm, group.id);
        }
        if let Some(mask) = self.mask {
            entry(MASK, mask, NO_ID);
        }
        entry(OTHER, self.other, NO_ID);
        out.into()
    }

    /// The permission bits of a mode, and what they cannot say.
    pub(super) fn into_mode(self) -> (u32, Option<Box<Extended>>) {
        let middle = self.mask.unwrap_or(self.group);
        let mode = u32::from(self.owner) << 6 | u32::from(middle) << 3 | u32::from(self.other);
        let Self { users, group, groups, mask, .. } = self;
        (mode, mask.map(|_| Box::new(Extended { users, group, groups })))
    }

    /// What something new gets of this default list, when it is made with `mode`: no more than both grant.
    pub(super) fn inherited(mut self, mode: u32) -> (u32, Option<Box<Extended>>) {
        self.owner &= class(mode, 6);
        *self.mask.as_mut().unwrap_or(&mut self.group) &= class(mode, 3);
        self.other &= class(mode, 0);
        self.into_mode()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A value from entries (tag, permissions, id).
    pub(in crate::namespace) fn value(entries: &[(u16, u16, u32)]) -> Bytes {
        let mut out = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&perm.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out.into()
    }

    const ALL: [(u16, u16, u32); 8] = [
        (OWNER, 7, NO_ID),
        (USER, 6, 10),
        (USER, 4, 11),
        (GROUP, 5, NO_ID),
        (NAMED_GROUP, 2, 30),
        (NAMED_GROUP, 4, 31),
        (MASK, 6, NO_ID),
        (OTHER, 1, NO_ID),
    ];

    #[test]
    fn values_come_back_as_they_were_set() {
        let minimal = [(OWNER, 6, NO_ID), (GROUP, 4, NO_ID), (OTHER, 0, NO_ID)];
        for entries in [&ALL[..], &minimal] {
            let value = value(entries);
            assert_eq!(Acl::parse(&value).unwrap().unwrap().encode(), value);
        }
        let (mode, extended) = Acl::parse(&value(&ALL)).unwrap().unwrap().into_mode();
        assert_eq!(mode, 0o761, "the group bits are the mask");
        assert_eq!(Acl::of(mode, &extended.unwrap()).encode(), value(&ALL));
        assert_eq!(Acl::parse(&value(&minimal)).unwrap().unwrap().into_mode(), (0o640, None));
        assert_eq!((Acl::parse(&[]), Acl::parse(&value(&[]))), (Ok(None), Ok(None)));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let full = value(&ALL);
        for len in (1..full.len()).filter(|len| *len != 4) {
            assert!(Acl::parse(&full[..len]).is_err(), "{len} bytes of it");
        }
        let mut other_version = full.to_vec();
        other_version[0] = 3;
        assert_eq!(Acl::parse(&other_version), Err(FsError::Unsupported));
        let without = |index: usize| {
            let mut entries = ALL.to_vec();
            entries.remove(index);
            Acl::parse(&value(&entries))
        };
        for needed in [0, 3, 6, 7] {
            assert_eq!(without(needed), Err(FsError::Invalid), "entry {needed} must be there");
        }
        let with = |index: usize, entry| {
            let mut entries = ALL.to_vec();
            entries[index] = entry;
            Acl::parse(&value(&entries))
        };
        for (index, entry) in [
            (0, (OWNER, 8, NO_ID)),
            (0, (OWNER, 0x107, NO_ID)),
            (1, (USER, 4, NO_ID)),
            (2, (GROUP, 4, NO_ID)),
            (4, (USER, 4, 5)),
            (5, (0x40, 4, 5)),
            (7, (OTHER | OWNER, 4, 5)),
        ] {
            assert_eq!(with(index, entry), Err(FsError::Invalid), "{entry:?} as entry {index}");
        }
    }

    #[test]
    fn something_new_gets_what_both_the_list_and_the_mode_grant() {
        let acl = Acl::parse(&value(&ALL)).unwrap().unwrap();
        let (mode, extended) = acl.inherited(0o650);
        assert_eq!(mode, 0o640);
        assert_eq!(extended.unwrap().users.len(), 2);
        let minimal = [(OWNER, 7, NO_ID), (GROUP, 7, NO_ID), (OTHER, 5, NO_ID)];
        assert_eq!(Acl::parse(&value(&minimal)).unwrap().unwrap().inherited(0o666), (0o664, None));
    }
}
