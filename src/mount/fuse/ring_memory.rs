//! Memory that a ring shares with the kernel: for each entry a header and room for a payload.
//!
//! ```text
//! Region: | header 0 | header 1 | ... (288 bytes each, up to a page) | payload 0 | payload 1 | ...
//! ```
//!
//! Mapped lazily: a payload takes memory once it has been used, and the kernel uses the entry again that came back
//! last. `ring` makes a [`Slot`] of each entry that the kernel hands over.
//! Holds: while a `Slot` exists, the kernel does not touch its entry, and there is no other one of it.
#![allow(unsafe_code, reason = "memory that is shared with the kernel")]

use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::{FromBytes, IntoBytes};

use super::abi;
use super::encode::Encoded;
use super::filesystem::Errno;

const PAGE: usize = 4096;
const HEADER_LEN: usize = size_of::<abi::RingHeader>();
/// Where the parts of a header begin.
const OP_AT: usize = 128;
const ENTRY_AT: usize = 256;

/// Memory of some entries.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    count: usize,
    payload_len: usize,
    /// Of each entry, where its header and its payload are: what the kernel reads when it is registered.
    vectors: Box<[[IoVec; 2]]>,
}

/// `struct iovec`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct IoVec {
    base: usize,
    len: usize,
}

// SAFETY: the memory belongs to no thread, and is only reached through a `Slot`, of which there is one an entry.
unsafe impl Send for Region {}
// SAFETY: as above; a shared `Region` gives out addresses and numbers only.
unsafe impl Sync for Region {}

impl Region {
    /// Maps memory for `count` entries with payloads of up to `payload_len` bytes.
    pub fn map(count: usize, payload_len: usize) -> Result<Arc<Self>, Errno> {
        let payload_len = payload_len.next_multiple_of(PAGE);
        let headers_len = (count * HEADER_LEN).next_multiple_of(PAGE);
        let len = headers_len + count * payload_len;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        let address = base.as_ptr().expose_provenance();
        let vector = |index: usize| {
            [
                IoVec { base: address + index * HEADER_LEN, len: HEADER_LEN },
                IoVec { base: address + headers_len + index * payload_len, len: payload_len },
            ]
        };
        let vectors = (0..count).map(vector).collect();
        Ok(Arc::new(Self { base, len, count, payload_len, vectors }))
    }

    /// Number of entries.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Address of the two vectors of an entry; valid as long as the region.
    pub fn vectors(&self, index: usize) -> u64 {
        self.vectors[index].as_ptr().expose_provenance() as u64
    }

    fn header(&self, index: usize) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.vectors[index][0].base)
    }

    fn payload(&self, index: usize) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.vectors[index][1].base)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length; no `Slot` is left, each holds the region. The kernel writes only
        // within calls of the ring's own thread, which holds the region as well.
        if let Err(e) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) } {
            tracing::error!(error = %e, "memory of a ring cannot be unmapped");
        }
    }
}

/// An entry that holds a request, until it is given back with the answer.
#[derive(Debug)]
pub struct Slot {
    region: Arc<Region>,
    index: usize,
    number: usize,
}

impl Slot {
    /// Takes over an entry, which the ring knows as `number`.
    ///
    /// # Safety
    /// The kernel has handed over entry `index` of `region` (a completion), and no `Slot` was made of it since.
    pub unsafe fn take(region: Arc<Region>, index: usize, number: usize) -> Self {
        assert!(index < region.count);
        Self { region, index, number }
    }

    /// Gives the entry up, to the kernel: its number.
    pub fn give_back(self) -> usize {
        self.number
    }

    /// Header and bytes of the request. `None`: they make no sense.
    pub fn request(&self) -> Option<(abi::InHeader, Bytes)> {
        // SAFETY: the header is `HEADER_LEN` mapped bytes, which only this slot uses now.
        let bytes = unsafe { std::slice::from_raw_parts(self.region.header(self.index), HEADER_LEN) };
        let (header, _) = abi::InHeader::read_from_prefix(bytes).ok()?;
        let (entry, _) = abi::RingEntry::read_from_prefix(&bytes[ENTRY_AT..]).ok()?;
        let payload_len = entry.payload_len as usize;
        let op_len = (header.len as usize).checked_sub(size_of_val(&header) + payload_len)?;
        if payload_len > self.region.payload_len {
            return None;
        }
        let op = bytes[OP_AT..ENTRY_AT].get(..op_len)?;
        // SAFETY: within the payload, whose length was checked, and which only this slot uses now.
        let payload = unsafe { std::slice::from_raw_parts(self.region.payload(self.index), payload_len) };
        // Copied: a handler may keep it longer than the entry.
        let mut body = Vec::with_capacity(op_len + payload_len);
        body.extend_from_slice(op);
        body.extend_from_slice(payload);
        Some((header, body.into()))
    }

    /// Puts the answer where the request was.
    pub fn answer(&mut self, unique: u64, answer: Result<Encoded, Errno>) {
        let answer = answer.and_then(|encoded| {
            if encoded.len() > self.region.payload_len { Err(Errno::IO) } else { Ok(encoded) }
        });
        let mut payload_len = 0;
        let error = match &answer {
            Ok(encoded) => {
                // SAFETY: the payload is that many mapped bytes, which only this slot uses now.
                let payload = unsafe {
                    std::slice::from_raw_parts_mut(self.region.payload(self.index), self.region.payload_len)
                };
                for piece in encoded.pieces() {
                    payload[payload_len..payload_len + piece.len()].copy_from_slice(piece);
                    payload_len += piece.len();
                }
                0
            }
            Err(errno) => -errno.raw_os_error(),
        };
        // A payload is a few MiB at most.
        let payload_len = u32::try_from(payload_len).unwrap_or(0);
        let len = u32::try_from(size_of::<abi::OutHeader>()).unwrap_or(0) + payload_len;
        let out = abi::OutHeader { len, error, unique };
        let entry = abi::RingEntry { payload_len, ..Default::default() };
        // SAFETY: the header is `HEADER_LEN` mapped bytes, which only this slot uses now.
        let header = unsafe { std::slice::from_raw_parts_mut(self.region.header(self.index), HEADER_LEN) };
        header[..size_of_val(&out)].copy_from_slice(out.as_bytes());
        header[ENTRY_AT..].copy_from_slice(entry.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::fuse::answer::Answer;
    use crate::mount::fuse::encode::encode;
    use crate::mount::fuse::parse::Expected;

    #[test]
    fn what_makes_no_sense_is_no_request_and_an_answer_that_does_not_fit_is_an_error() {
        let region = Region::map(2, 5000).unwrap();
        // SAFETY: no kernel knows this memory.
        let mut slot = unsafe { Slot::take(region.clone(), 1, 1) };
        assert!(slot.request().is_none(), "a length of zero");
        let header = |slot: &Slot| {
            // SAFETY: as above; read only.
            unsafe { std::slice::from_raw_parts(slot.region.header(1), HEADER_LEN) }.to_vec()
        };
        let answer = |len| {
            let data = Answer::data(vec![7; len].into());
            encode(data, Expected::Data { len_max: 1 << 20 })
        };
        slot.answer(9, answer(8192));
        let (out, _) = abi::OutHeader::read_from_prefix(&header(&slot)).unwrap();
        assert_eq!((out.len, out.error, out.unique), (16 + 8192, 0, 9));
        slot.answer(10, answer(8193));
        let (out, _) = abi::OutHeader::read_from_prefix(&header(&slot)).unwrap();
        assert_eq!((out.len, out.error, out.unique), (16, -5, 10));
    }
}
