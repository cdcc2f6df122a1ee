//! The bytes of a file as a value that is cheap to copy, to append to and to compare.
//!
//! `history` carries it in calls and outcomes, `model` keeps it in files: a search copies states many thousand times.
//! Holds: two contents are equal if length and hash are; the hash of a whole follows from those of its pieces.
//! Not here: which bytes a file may have.

use std::fmt;
use std::sync::Arc;

/// A prime, so that a polynomial of the bytes is a good hash: 2^61 - 1.
const PRIME: u64 = (1 << 61) - 1;

/// Where the polynomial is taken. Any large number; the same in every run, so that printed hashes can be compared.
const BASE: u64 = 0x0b5e_ed1e_55c0_ffee;

/// More is not printed: a reader looks at the beginning and at the hash.
const SHOWN_LEN_MAX: usize = 24;

/// Bytes in pieces that are shared with other contents.
#[derive(Clone, Default)]
pub struct Content {
    pieces: Vec<Piece>,
    len: u64,
    hash: u64,
}

#[derive(Clone)]
struct Piece {
    bytes: Bytes,
    hash: u64,
}

#[derive(Clone)]
enum Bytes {
    Some(Arc<[u8]>),
    /// A hole of this length: a truncate may make a long one.
    Zeros(u64),
}

impl Content {
    /// The bytes given.
    pub fn new(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.put(Piece::new(bytes));
        content
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The same for the same bytes, however they were put together.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Puts all of `other` behind the last byte.
    pub fn append(&mut self, other: &Self) {
        for piece in &other.pieces {
            self.put(piece.clone());
        }
    }

    /// Cuts what is too long, fills what is too short with zeros.
    pub fn resize(&mut self, len: u64) {
        if len > self.len {
            self.put(Piece::zeros(len - self.len));
        }
        if len == self.len {
            return;
        }
        let whole = std::mem::take(self);
        for piece in whole.pieces {
            let room = len - self.len;
            if room == 0 {
                break;
            }
            let piece = if piece.len() <= room { piece } else { piece.front(room) };
            self.put(piece);
        }
    }

    fn put(&mut self, piece: Piece) {
        if piece.len() > 0 {
            self.hash = joined(self.hash, piece.hash, piece.len());
            self.len += piece.len();
            self.pieces.push(piece);
        }
    }

    /// The first bytes, at most `len`.
    fn front(&self, len: usize) -> Vec<u8> {
        let mut front = Vec::new();
        for piece in &self.pieces {
            let room = len - front.len();
            match &piece.bytes {
                Bytes::Some(bytes) => front.extend(bytes.iter().take(room)),
                Bytes::Zeros(len) => {
                    front.extend(std::iter::repeat_n(0, usize::try_from(*len).map_or(room, |l| l.min(room))));
                }
            }
        }
        front
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        (self.len, self.hash) == (other.len, other.hash)
    }
}

impl Eq for Content {}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes())
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let front = self.front(SHOWN_LEN_MAX);
        write!(f, "\"{}\"", front.escape_ascii())?;
        if front.len() as u64 == self.len {
            return Ok(());
        }
        write!(f, ".. of {} bytes, hash {:016x}", self.len, self.hash)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Piece {
    fn new(bytes: &[u8]) -> Self {
        Self { bytes: Bytes::Some(bytes.into()), hash: bytes.iter().fold(0, |hash, byte| step(hash, *byte)) }
    }

    fn zeros(len: u64) -> Self {
        Self { bytes: Bytes::Zeros(len), hash: hash_of_zeros(len) }
    }

    fn len(&self) -> u64 {
        match &self.bytes {
            Bytes::Some(bytes) => bytes.len() as u64,
            Bytes::Zeros(len) => *len,
        }
    }

    fn front(&self, len: u64) -> Self {
        match &self.bytes {
            Bytes::Zeros(_) => Self::zeros(len),
            Bytes::Some(bytes) => Self::new(&bytes[..usize::try_from(len).map_or(bytes.len(), |l| l)]),
        }
    }
}

fn times(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let folded = (product & u128::from(PRIME)) + (product >> 61);
    u64::try_from(folded % u128::from(PRIME)).unwrap_or_default()
}

/// One byte more; plus one, so that zeros count.
fn step(hash: u64, byte: u8) -> u64 {
    (times(hash, BASE) + u64::from(byte) + 1) % PRIME
}

fn power(mut exponent: u64) -> u64 {
    let (mut result, mut square) = (1, BASE);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = times(result, square);
        }
        square = times(square, square);
        exponent >>= 1;
    }
    result
}

/// The hash of two strings one behind the other, the second one `len` long.
fn joined(first: u64, second: u64, len: u64) -> u64 {
    (times(first, power(len)) + second) % PRIME
}

fn hash_of_zeros(len: u64) -> u64 {
    if len == 0 {
        return 0;
    }
    let half = hash_of_zeros(len / 2);
    let even = joined(half, half, len / 2);
    if len % 2 == 1 { step(even, 0) } else { even }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_matter() {
        let mut content = Content::from("abc");
        content.append(&"defg".into());
        assert_eq!(content, "abcdefg".into());
        content.resize(5);
        assert_eq!(content, "abcde".into());
        content.resize(8);
        assert_eq!(content, "abcde\0\0\0".into());
        content.resize(6);
        content.append(&"x".into());
        assert_eq!(content, "abcde\0x".into());
        assert_ne!(content, "abcde\0y".into());
        content.resize(0);
        assert_eq!(content, Content::default());
    }

    #[test]
    fn a_long_hole_costs_nothing() {
        let mut content = Content::from("a");
        content.resize(1 << 50);
        assert_eq!(content.len(), 1 << 50);
        content.resize(1);
        assert_eq!(content, "a".into());
        assert_eq!(Content::new(&[0; 1000]).hash(), hash_of_zeros(1000));
    }

    #[test]
    fn a_person_can_read_it() {
        assert_eq!(Content::from("a\nb").to_string(), r#""a\nb""#);
        assert!(Content::new(&[b'x'; 5000]).to_string().contains(".. of 5000 bytes"));
    }
}
