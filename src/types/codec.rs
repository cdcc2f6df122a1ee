//! One place that turns values into bytes and back: bincode 1.3 with varints, bounded, no trailing bytes.
//!
//! Called for every stored record and every message. Holds: a decode never allocates more than the input is
//! long times a small factor, and never panics. Enum variants are appended only; a change of a struct takes a
//! new version of its record. Checksums and frames belong to the callers, each of which knows its medium.

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest encoded value: a frame's metadata or a stored record. 16 MiB holds a page of any listing, with room.
pub const ENCODED_LEN_MAX: u64 = 16 << 20;

/// Bytes that are no value of the type asked for, or a value too large to encode.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {type_name}: {reason}")]
pub struct CodecError {
    what: &'static str,
    type_name: &'static str,
    reason: String,
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(ENCODED_LEN_MAX).with_varint_encoding().reject_trailing_bytes()
}

fn error<T>(what: &'static str) -> impl FnOnce(bincode::Error) -> CodecError {
    move |e| CodecError { what, type_name: std::any::type_name::<T>(), reason: e.to_string() }
}

/// The bytes of `value`.
///
/// # Errors
/// When it is longer than [`ENCODED_LEN_MAX`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    options().serialize(value).map_err(error::<T>("encode"))
}

/// Appends the bytes of `value` to `out`.
///
/// # Errors
/// When it is longer than [`ENCODED_LEN_MAX`].
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    options().serialize_into(out, value).map_err(error::<T>("encode"))
}

/// The value whose bytes these are, all of them.
///
/// # Errors
/// When they are short, long, or no value of `T`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    options().deserialize(bytes).map_err(error::<T>("decode"))
}
