//! The key of a record, as maps of records hold it.
//!
//! Views are asked with slices; whoever keeps records in order keeps them under a [`Key`]. All tables but one have keys of at most 17
//! bytes: such a key lies within the map itself and is compared as three numbers, so that a search follows no pointer for each of
//! the twenty keys it looks at. Holds: keys are equal, ordered and hashed as their bytes are.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A short key: its bytes, zeros, and in the last byte how many they are. So these are in the order of their keys, and can be compared
/// as numbers.
type Short = [[u8; 8]; 3];
/// Bytes that a short key can have.
const SHORT_LEN_MAX: usize = 23;

/// The key of a record: any bytes. Cheap to clone.
#[derive(Clone)]
pub struct Key(Form);

#[derive(Clone)]
enum Form {
    Short(Short),
    Long(Arc<[u8]>),
}

impl Key {
    /// Bytes that it takes beside itself.
    #[must_use]
    pub fn heap_len(&self) -> usize {
        match &self.0 {
            Form::Short(_) => 0,
            Form::Long(bytes) => bytes.len(),
        }
    }
}

#[inline]
fn compare(a: &Short, b: &Short) -> Ordering {
    let word = |short: &Short, i: usize| u64::from_be_bytes(short[i]);
    for i in 0..2 {
        let (a, b) = (word(a, i), word(b, i));
        if a != b {
            return a.cmp(&b);
        }
    }
    word(a, 2).cmp(&word(b, 2))
}

impl Deref for Key {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Form::Short(short) => &short.as_flattened()[..usize::from(short[2][7]).min(SHORT_LEN_MAX)],
            Form::Long(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        match u8::try_from(key.len()) {
            Ok(len) if key.len() <= SHORT_LEN_MAX => {
                let mut short = Short::default();
                short.as_flattened_mut()[..key.len()].copy_from_slice(key);
                short[2][7] = len;
                Self(Form::Short(short))
            }
            _ => Self(Form::Long(key.into())),
        }
    }
}

impl<const N: usize> From<[u8; N]> for Key {
    fn from(key: [u8; N]) -> Self {
        Self::from(&key[..])
    }
}

impl From<&str> for Key {
    fn from(key: &str) -> Self {
        Self::from(key.as_bytes())
    }
}

impl Default for Key {
    /// The empty key, which no record has.
    fn default() -> Self {
        Self::from(&[][..])
    }
}

impl Ord for Key {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Form::Short(a), Form::Short(b)) => compare(a, b),
            _ => self[..].cmp(&other[..]),
        }
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Form::Short(a), Form::Short(b)) => a == b,
            _ => self[..] == other[..],
        }
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self[..].hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Short and long ones, zeros at the end, prefixes of each other, both sides of the bound.
    #[test]
    fn keys_are_what_their_bytes_are() {
        let mut all: Vec<Vec<u8>> = vec![vec![], vec![0], vec![0, 0], vec![1], vec![1, 0], vec![255; 17]];
        for len in [7, 8, 9, 16, 17, 22, 23, 24, 25, 264] {
            all.extend([vec![0; len], vec![3; len], vec![255; len]]);
            all.push([&vec![3; len - 1][..], &[4]].concat());
            all.push([&vec![3; len - 1][..], &[0]].concat());
        }
        for a in &all {
            let key = Key::from(&a[..]);
            assert_eq!((&key[..], key.clone()), (&a[..], key.clone()));
            for b in &all {
                let other = Key::from(&b[..]);
                assert_eq!(key.cmp(&other), a.cmp(b), "{key:?} and {other:?}");
                assert_eq!(key == other, a == b, "{key:?} and {other:?}");
            }
        }
    }

    #[test]
    fn a_map_of_keys_is_asked_with_slices() {
        let map: std::collections::HashMap<Key, u8> = [(Key::from(*b"a"), 1), (Key::from([7; 40]), 2)].into();
        assert_eq!((map.get(&b"a"[..]), map.get(&[7; 40][..])), (Some(&1), Some(&2)));
    }
}
