//! The namespace by path, for tools: walking with symlinks, and each call of `namespace` with a path in front.
//!
//! Paths are bytes with `/` between names and begin at the root, with or without a leading `/`. Holds: symlinks are followed
//! as the kernel does: every one but the last always, the last one where the call says so, at most [`SYMLINKS_MAX`]
//! in one path; `..` is the parent of the directory reached, not of the text. Errors name the path.

use std::collections::VecDeque;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;

use crate::types::{
    Attr, FileKind, Found, FsError, InodeId, Name, Query, ROOT_INODE, Rename, RenameMode, SetAttr, XattrMode,
};

use super::error::At;
use super::{Client, ClientError};

/// Symlinks followed in one path, as in Linux.
pub const SYMLINKS_MAX: u32 = 40;
/// Longest path with everything that its symlinks brought in: a loop of long targets ends here at the latest.
const STEPS_MAX: usize = 64 << 10;

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What is there.
    pub found: Found,
    /// The directory in which its last name stands; of the root and behind `..`, the directory itself.
    pub parent: InodeId,
}

/// The directory that holds (or will hold) the last name of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The directory.
    pub parent: InodeId,
    /// The name in it.
    pub name: Name,
    /// The path ended in `/`: only a directory can be meant.
    pub must_be_dir: bool,
}

#[derive(Debug)]
enum Step {
    Name(Name),
    Up,
}

/// The steps of a path, and whether it says by its end that a directory is meant.
fn steps(path: &[u8]) -> Result<(Vec<Step>, bool), ClientError> {
    let mut steps = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => steps.push(Step::Up),
            name => steps.push(Step::Name(Name::new(name)?)),
        }
    }
    let last = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    Ok((steps, matches!(last, b"" | b"." | b"..")))
}

impl Client {
    /// Where `path` leads; a symlink at its end is followed if `follow`.
    ///
    /// # Errors
    /// [`ClientError::Fs`] as `stat(2)` has it, with the path.
    pub async fn resolve(&self, path: impl AsRef<Path>, follow: bool) -> Result<Resolved, ClientError> {
        let path = path.as_ref();
        self.resolve_from(ROOT_INODE, path.as_os_str().as_bytes(), follow).await.at(path)
    }

    async fn resolve_from(&self, start: InodeId, path: &[u8], follow: bool) -> Result<Resolved, ClientError> {
        let (first, mut must_be_dir) = steps(path)?;
        let mut left: VecDeque<Step> = first.into();
        let mut at = start;
        let mut here: Option<Resolved> = None;
        let mut symlinks = 0;
        while let Some(step) = left.pop_front() {
            if matches!(step, Step::Up) {
                let found = self.parent_of(at).await?;
                at = found.attr.inode;
                here = Some(Resolved { found, parent: at });
                continue;
            }
            let mut names = Vec::new();
            let mut next = Some(step);
            while let Some(Step::Name(name)) = next {
                names.push(name);
                let more = names.len() < Query::WALK_MAX && matches!(left.front(), Some(Step::Name(_)));
                next = if more { left.pop_front() } else { None };
            }
            let count = names.len();
            let walked = self.walk_query(at, names.clone()).await?;
            let rest = usize::try_from(walked.rest).unwrap_or(usize::MAX).min(count);
            for name in names.drain(count - rest..).rev() {
                left.push_front(Step::Name(name));
            }
            let attr = &walked.found.attr;
            let last = left.is_empty();
            if attr.kind == FileKind::Symlink && (!last || follow || must_be_dir) {
                symlinks += 1;
                if symlinks > SYMLINKS_MAX {
                    return Err(FsError::Loop.into());
                }
                let target = self.readlink_at(attr.inode).await?;
                let (more, dir_meant) = steps(&target)?;
                must_be_dir |= last && dir_meant;
                at = if target.first() == Some(&b'/') { ROOT_INODE } else { walked.parent };
                more.into_iter().rev().for_each(|step| left.push_front(step));
                if left.len() > STEPS_MAX {
                    return Err(FsError::NameTooLong.into());
                }
                here = None;
                continue;
            }
            if rest > 0 {
                return Err(FsError::NotDir.into());
            }
            at = attr.inode;
            here = Some(Resolved { parent: walked.parent, found: walked.found });
        }
        let resolved = match here {
            Some(resolved) => resolved,
            None => {
                let found = self.getattr_found(at).await?;
                Resolved { found, parent: at }
            }
        };
        if must_be_dir && resolved.found.attr.kind != FileKind::Dir {
            return Err(FsError::NotDir.into());
        }
        Ok(resolved)
    }

    async fn getattr_found(&self, inode: InodeId) -> Result<Found, ClientError> {
        Ok(Found { attr: self.getattr(inode).await?, servers: Vec::new() })
    }

    /// The directory and name that `path` ends in, whether or not anything is there.
    ///
    /// # Errors
    /// [`ClientError::Fs`] for what is in front of the name; EEXIST or EBUSY has no place here, so a path without a last name
    /// (`/`, `a/..`) is EINVAL.
    pub async fn spot(&self, path: impl AsRef<Path>) -> Result<Spot, ClientError> {
        let path = path.as_ref();
        self.spot_of(path.as_os_str().as_bytes()).await.at(path)
    }

    async fn spot_of(&self, path: &[u8]) -> Result<Spot, ClientError> {
        let end = path.iter().rposition(|&b| b != b'/').map_or(0, |i| i + 1);
        let (trimmed, must_be_dir) = (&path[..end], end < path.len());
        let cut = trimmed.iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1);
        let name = match &trimmed[cut..] {
            b"" | b"." | b".." => return Err(FsError::Invalid.into()),
            name => Name::new(name)?,
        };
        // The slash stays: what is in front of the name has to be a directory.
        let parent = if trimmed[..cut].iter().all(|&b| b == b'/') {
            ROOT_INODE
        } else {
            self.resolve_from(ROOT_INODE, &trimmed[..cut], true).await?.found.attr.inode
        };
        Ok(Spot { parent, name, must_be_dir })
    }

    /// Attributes at the end of `path`, symlinks followed.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn stat(&self, path: impl AsRef<Path>) -> Result<Attr, ClientError> {
        Ok(self.resolve(path, true).await?.found.attr)
    }

    /// Attributes at the end of `path`, of the symlink itself if it is one.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn lstat(&self, path: impl AsRef<Path>) -> Result<Attr, ClientError> {
        Ok(self.resolve(path, false).await?.found.attr)
    }

    /// Changes attributes; a symlink at the end is followed if `follow`.
    ///
    /// # Errors
    /// As [`Client::setattr_at`].
    pub async fn setattr(
        &self,
        path: impl AsRef<Path>,
        set: SetAttr,
        follow: bool,
    ) -> Result<Attr, ClientError> {
        let path = path.as_ref();
        let inode = self.resolve(path, follow).await?.found.attr.inode;
        self.setattr_at(inode, set, false).await.at(path)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As `mkdir(2)`.
    pub async fn mkdir(&self, path: impl AsRef<Path>, mode: u32) -> Result<Attr, ClientError> {
        let path = path.as_ref();
        let spot = self.spot(path).await?;
        self.mkdir_at(spot.parent, spot.name, mode).await.at(path)
    }

    /// Makes a directory and all above it that are missing; existing ones are fine.
    ///
    /// # Errors
    /// As `mkdir(2)`, ENOTDIR where something else is in the way.
    pub async fn mkdir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<Attr, ClientError> {
        let path = path.as_ref();
        // From the end: most often all but the last exist.
        let mut missing: Vec<&Path> = Vec::new();
        let mut at = path;
        let mut attr = loop {
            match self.stat(at).await {
                Ok(attr) if attr.kind == FileKind::Dir => break attr,
                Ok(_) => return Err(ClientError::from(FsError::NotDir).at(at)),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
            missing.push(at);
            at = at.parent().unwrap_or(Path::new("/"));
        };
        while let Some(next) = missing.pop() {
            attr = match self.mkdir(next, mode).await {
                // Somebody else made it meanwhile.
                Err(e) if e.is_exists() => self.stat(next).await?,
                made => made?,
            };
        }
        Ok(attr)
    }

    /// Makes a special file.
    ///
    /// # Errors
    /// As `mknod(2)`.
    pub async fn mknod(
        &self,
        path: impl AsRef<Path>,
        kind: FileKind,
        mode: u32,
        rdev: u64,
    ) -> Result<Attr, ClientError> {
        let path = path.as_ref();
        let spot = self.spot(path).await?;
        self.mknod_at(spot.parent, spot.name, kind, mode, rdev).await.at(path)
    }

    /// Makes a symlink at `path`.
    ///
    /// # Errors
    /// As `symlink(2)`.
    pub async fn symlink(
        &self,
        target: impl AsRef<Path>,
        path: impl AsRef<Path>,
    ) -> Result<Attr, ClientError> {
        let path = path.as_ref();
        let spot = self.spot(path).await?;
        let target = Bytes::copy_from_slice(target.as_ref().as_os_str().as_bytes());
        self.symlink_at(spot.parent, spot.name, target).await.at(path)
    }

    /// Target of the symlink at `path`.
    ///
    /// # Errors
    /// As `readlink(2)`.
    pub async fn readlink(&self, path: impl AsRef<Path>) -> Result<Bytes, ClientError> {
        let path = path.as_ref();
        let inode = self.resolve(path, false).await?.found.attr.inode;
        self.readlink_at(inode).await.at(path)
    }

    /// Gives what is at `existing` (a symlink itself, as `link(2)`) one more name at `path`.
    ///
    /// # Errors
    /// As `link(2)`.
    pub async fn link(
        &self,
        existing: impl AsRef<Path>,
        path: impl AsRef<Path>,
    ) -> Result<Attr, ClientError> {
        let path = path.as_ref();
        let inode = self.resolve(existing, false).await?.found.attr.inode;
        let spot = self.spot(path).await?;
        self.link_at(inode, spot.parent, spot.name).await.at(path)
    }

    /// Removes anything but a directory.
    ///
    /// # Errors
    /// As `unlink(2)`.
    pub async fn unlink(&self, path: impl AsRef<Path>) -> Result<Option<Attr>, ClientError> {
        let path = path.as_ref();
        let spot = self.spot(path).await?;
        if spot.must_be_dir {
            return Err(ClientError::from(FsError::NotDir).at(path));
        }
        self.unlink_at(spot.parent, spot.name).await.at(path)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As `rmdir(2)`.
    pub async fn rmdir(&self, path: impl AsRef<Path>) -> Result<(), ClientError> {
        let path = path.as_ref();
        let spot = self.spot(path).await?;
        self.rmdir_at(spot.parent, spot.name).await.at(path)
    }

    /// Moves `from` to `to`.
    ///
    /// # Errors
    /// As `renameat2(2)`; the error names `from`.
    pub async fn rename(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        mode: RenameMode,
    ) -> Result<Option<Attr>, ClientError> {
        let from = from.as_ref();
        let (source, target) = (self.spot(from).await?, self.spot(to).await?);
        let rename = Rename {
            from_parent: source.parent,
            from_name: source.name,
            to_parent: target.parent,
            to_name: target.name,
            mode,
        };
        self.rename_at(rename).await.at(from)
    }

    /// Value of an extended attribute, symlinks followed.
    ///
    /// # Errors
    /// As `getxattr(2)`.
    pub async fn getxattr(
        &self,
        path: impl AsRef<Path>,
        name: impl Into<Bytes>,
    ) -> Result<Bytes, ClientError> {
        let path = path.as_ref();
        let inode = self.resolve(path, true).await?.found.attr.inode;
        self.getxattr_at(inode, name).await.at(path)
    }

    /// Sets an extended attribute, symlinks followed.
    ///
    /// # Errors
    /// As `setxattr(2)`.
    pub async fn setxattr(
        &self,
        path: impl AsRef<Path>,
        name: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<(), ClientError> {
        let path = path.as_ref();
        let inode = self.resolve(path, true).await?.found.attr.inode;
        self.setxattr_at(inode, name, value, XattrMode::Any).await.at(path)
    }

    /// Names of the extended attributes, symlinks followed.
    ///
    /// # Errors
    /// As `listxattr(2)`.
    pub async fn listxattr(&self, path: impl AsRef<Path>) -> Result<Vec<Bytes>, ClientError> {
        let path = path.as_ref();
        let inode = self.resolve(path, true).await?.found.attr.inode;
        self.listxattr_at(inode).await.at(path)
    }

    /// Removes an extended attribute, symlinks followed.
    ///
    /// # Errors
    /// As `removexattr(2)`.
    pub async fn removexattr(
        &self,
        path: impl AsRef<Path>,
        name: impl Into<Bytes>,
    ) -> Result<(), ClientError> {
        let path = path.as_ref();
        let inode = self.resolve(path, true).await?.found.attr.inode;
        self.removexattr_at(inode, name).await.at(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_apart_as_the_kernel_does() {
        let shape = |path: &str| {
            let (steps, dir) = steps(path.as_bytes()).unwrap();
            let text: Vec<String> = steps
                .iter()
                .map(|s| match s {
                    Step::Name(n) => n.to_string(),
                    Step::Up => "^".into(),
                })
                .collect();
            (text.join(" "), dir)
        };
        assert_eq!(shape("/"), (String::new(), true));
        assert_eq!(shape("//a/./b"), ("a b".into(), false));
        assert_eq!(shape("a/../b/"), ("a ^ b".into(), true));
        assert_eq!(shape("a/.."), ("a ^".into(), true));
        assert!(steps(&[b'x'; 256]).is_err());
    }
}
