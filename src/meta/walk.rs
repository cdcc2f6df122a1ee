//! A path, followed from the root through symlinks, within one state. For status pages; clients walk for themselves.

use crate::namespace::{self, View, ViewError};
use crate::types::{
    Cred, FileKind, Found, FsError, FsResult, InodeId, Name, NameError, Query, QueryReply, ROOT_INODE,
};

/// Most symlinks on a path (`SYMLOOP_MAX` of Linux).
const SYMLINKS_MAX: usize = 40;

/// What stands at the end of `path`, symlinks followed but for the last name.
///
/// # Errors
/// The state cannot be read.
pub fn walk(view: &dyn View, path: &[u8]) -> Result<FsResult<Found>, ViewError> {
    let root = Cred::root();
    // Names still to go, the next one last.
    let mut todo: Vec<Vec<u8>> = Vec::new();
    push(&mut todo, path);
    let mut links = 0;
    let mut here = match namespace::query(view, &root, &Query::GetAttr { inode: ROOT_INODE })? {
        Ok(QueryReply::Found(found)) => found,
        Ok(_) => return Ok(Err(FsError::Stale)),
        Err(e) => return Ok(Err(e)),
    };
    while let Some(part) = todo.pop() {
        let inode = here.attr.inode;
        let query = match Name::new(&part) {
            Ok(name) => Query::Lookup { parent: inode, name },
            Err(NameError::Dots) if part == b".." => Query::Parent { inode },
            Err(NameError::Dots) => Query::GetAttr { inode },
            Err(NameError::TooLong(_)) => return Ok(Err(FsError::NameTooLong)),
            Err(_) => return Ok(Err(FsError::Invalid)),
        };
        let found = match namespace::query(view, &root, &query)? {
            Ok(QueryReply::Found(found)) => found,
            Ok(_) => return Ok(Err(FsError::Stale)),
            Err(e) => return Ok(Err(e)),
        };
        if found.attr.kind != FileKind::Symlink || todo.is_empty() {
            here = found;
            continue;
        }
        links += 1;
        if links > SYMLINKS_MAX {
            return Ok(Err(FsError::Loop));
        }
        let target = match target(view, &root, found.attr.inode)? {
            Ok(target) => target,
            Err(e) => return Ok(Err(e)),
        };
        if target.first() == Some(&b'/') {
            let query = Query::GetAttr { inode: ROOT_INODE };
            if let Ok(QueryReply::Found(top)) = namespace::query(view, &root, &query)? {
                here = top;
            }
        }
        push(&mut todo, &target);
    }
    Ok(Ok(here))
}

fn push(todo: &mut Vec<Vec<u8>>, path: &[u8]) {
    todo.extend(path.split(|b| *b == b'/').rev().filter(|p| !p.is_empty()).map(<[u8]>::to_vec));
}

fn target(view: &dyn View, cred: &Cred, inode: InodeId) -> Result<FsResult<bytes::Bytes>, ViewError> {
    Ok(match namespace::query(view, cred, &Query::ReadLink { inode })? {
        Ok(QueryReply::Target(target)) => Ok(target),
        Ok(_) => Err(FsError::Stale),
        Err(e) => Err(e),
    })
}
