//! Commands of access control lists, in words.
//!
//! `u::rw-,u:10:r--,g::r--,g:30:-w-,m::rw-,o::---`: owner, user 10, owning group, group 30, mask, others, in this order. `-` alone
//! is no list.

use std::fmt::Write;

use bytes::Bytes;
use pohmelfs::types::*;

use super::{Script, Told};

/// The extended attribute's first field.
const VERSION: u32 = 2;
/// Letters of entries with a name and of those without one, and their tags.
const TAGS: [(char, bool, u16); 6] = [
    ('u', false, 0x01),
    ('u', true, 0x02),
    ('g', false, 0x04),
    ('g', true, 0x08),
    ('m', false, 0x10),
    ('o', false, 0x20),
];

fn attribute(which: &str) -> Bytes {
    Bytes::from(format!("system.posix_acl_{which}"))
}

fn value_of(text: &str) -> Bytes {
    if text == "-" {
        return Bytes::new();
    }
    let mut value = VERSION.to_le_bytes().to_vec();
    for entry in text.split(',') {
        let [kind, id, perm] = *entry.split(':').collect::<Vec<_>>() else { panic!("{entry:?} is no entry") };
        let named = !id.is_empty();
        let is_it =
            |(letter, with_id, _): &&(char, bool, u16)| kind.starts_with(*letter) && *with_id == named;
        let tag = TAGS.iter().find(is_it).expect("an entry is of u, g, m or o").2;
        let bit = |letter: char, bit: u16| if perm.contains(letter) { bit } else { 0 };
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&(bit('r', 4) | bit('w', 2) | bit('x', 1)).to_le_bytes());
        value.extend_from_slice(&id.parse().unwrap_or(u32::MAX).to_le_bytes());
    }
    value.into()
}

fn text_of(value: &[u8]) -> String {
    let (version, entries) = value.split_first_chunk().expect("a version");
    assert_eq!(u32::from_le_bytes(*version), VERSION);
    let mut out = String::new();
    for [t0, t1, p0, p1, id @ ..] in entries.as_chunks::<8>().0 {
        let (tag, perm) = (u16::from_le_bytes([*t0, *t1]), u16::from_le_bytes([*p0, *p1]));
        let (letter, named, _) = TAGS.iter().find(|t| t.2 == tag).expect("a known tag");
        let id = if *named { u32::from_le_bytes(*id).to_string() } else { String::new() };
        let perm: String = [('r', 4), ('w', 2), ('x', 1)]
            .iter()
            .map(|(l, bit)| if perm & bit == 0 { '-' } else { *l })
            .collect();
        write!(out, "{}{letter}:{id}:{perm}", if out.is_empty() { "" } else { "," }).unwrap();
    }
    out
}

impl Script {
    pub(super) fn list_command(&mut self, words: &[&str]) -> Option<Told> {
        Some(match *words {
            ["setfacl", path, which, list] => self.inode(path).and_then(|inode| {
                let (name, value) = (attribute(which), value_of(list));
                self.update(Update::SetXattr(SetXattr { inode, name, value, mode: XattrMode::Any }))
            }),
            ["getfacl", path, which] => self.inode(path).and_then(|inode| {
                match self.ask(&Query::GetXattr { inode, name: attribute(which) })? {
                    QueryReply::Xattr(value) => Ok(text_of(&value)),
                    other => panic!("{other:?}"),
                }
            }),
            _ => return None,
        })
    }
}
