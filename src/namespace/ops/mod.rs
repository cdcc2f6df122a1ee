//! One operation per file. Each decides first and writes afterwards: behind its first write it cannot answer an error.

pub(super) mod acl;
pub(super) mod clone;
pub(super) mod found;
pub(super) mod label;
pub(super) mod level;
pub(super) mod link;
pub(super) mod lock;
pub(super) mod make;
pub(super) mod nodes;
pub(super) mod orphans;
pub(super) mod publish;
pub(super) mod range;
pub(super) mod rename;
pub(super) mod restore;
pub(super) mod session;
pub(super) mod set_attrs;
pub(super) mod unlink;
pub(super) mod unnamed;
pub(super) mod xattr;

#[cfg(test)]
pub(super) mod fixture;
