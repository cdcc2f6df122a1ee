//! The name of a dentry: bytes, as POSIX has it, checked once at the edge and trusted from there on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name of a dentry, in bytes (`NAME_MAX` of Linux).
pub const NAME_LEN_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes (`PATH_MAX` less the final NUL).
pub const SYMLINK_LEN_MAX: usize = 4095;
/// Longest name of an extended attribute, in bytes (`XATTR_NAME_MAX`).
pub const XATTR_NAME_LEN_MAX: usize = 255;
/// Longest value of an extended attribute, in bytes. Linux permits 64 KiB; a view record stays at 4 KiB or less,
/// as ext4 does with its default block size.
pub const XATTR_VALUE_LEN_MAX: usize = 3840;

/// Name of a dentry: 1 to 255 bytes, neither `/` nor NUL in it, not `.` or `..`. Need not be UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(Box<[u8]>);

/// Why some bytes are no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No byte at all.
    #[error("a name needs at least one byte")]
    Empty,
    /// Longer than [`NAME_LEN_MAX`].
    #[error("a name has at most 255 bytes, this one has {0}")]
    TooLong(usize),
    /// Holds `/` or NUL.
    #[error("a name holds neither '/' nor NUL")]
    BadByte,
    /// `.` or `..`, which every directory has by itself.
    #[error("'.' and '..' cannot be created, removed or renamed")]
    Dots,
}

impl Name {
    /// Checks `bytes` and keeps them as they are.
    ///
    /// # Errors
    /// [`NameError`] says which rule they break.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, NameError> {
        let bytes = bytes.as_ref();
        match bytes {
            [] => Err(NameError::Empty),
            [b'.'] | [b'.', b'.'] => Err(NameError::Dots),
            _ if bytes.len() > NAME_LEN_MAX => Err(NameError::TooLong(bytes.len())),
            _ if bytes.iter().any(|&b| b == b'/' || b == 0) => Err(NameError::BadByte),
            _ => Ok(Self(bytes.into())),
        }
    }

    /// The bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

// A name that arrives from a socket or a disk passes the same check as one from a caller.
impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes = Box::<[u8]>::deserialize(d)?;
        Self::new(&bytes).map_err(serde::de::Error::custom)
    }
}

/// For people: bytes that are not UTF-8 are escaped as `\xNN`.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_obeys_posix() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new("."), Err(NameError::Dots));
        assert_eq!(Name::new(".."), Err(NameError::Dots));
        assert_eq!(Name::new("a/b"), Err(NameError::BadByte));
        assert_eq!(Name::new("a\0b"), Err(NameError::BadByte));
        assert_eq!(Name::new([b'x'; 256]), Err(NameError::TooLong(256)));
        assert!(Name::new([b'x'; 255]).is_ok());
        assert!(Name::new("...").is_ok());
        assert_eq!(Name::new([b'a', 0xff]).unwrap().to_string(), "a\\xff");
    }

    #[test]
    fn a_decoded_name_is_checked_too() {
        let bytes = bincode::serialize(&b"a/b"[..]).unwrap();
        assert!(bincode::deserialize::<Name>(&bytes).is_err());
    }
}
