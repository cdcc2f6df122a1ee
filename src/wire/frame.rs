//! Frames: the unit that crosses a socket, one request, reply, error or cancel each.
//!
//! `net` encodes and decodes them. All numbers are little endian:
//!
//! ```text
//!    0       4         6      8       10         12           20            24         28            32
//!    | magic | version | kind | flags | 0        | request id | deadline ms | meta len | payload len |
//!    | PHMF  | u16     | u16  | u16   | u16      | u64        | u32         | u32      | u32         |
//!    32         36            40           44
//!    | meta crc | payload crc | header crc |  meta ...  |  payload ...  |
//!    | u32      | u32         | of 0..40   |
//! ```
//!
//! Holds: a length is compared with its bound before anything is allocated for it; bytes are handed out only after
//! their checksum (crc32c) is right; a payload is sliced from the buffer it was read into, never copied.
//! The header is the same in every protocol version, so that two versions can tell each other that they differ.

use bytes::{Buf, Bytes, BytesMut};

use crate::types::codec;

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"PHMF";
/// Length of a header, in bytes.
pub const HEADER_LEN: usize = 44;
/// Largest meta, in bytes: what the codec encodes at most.
#[allow(clippy::cast_possible_truncation, reason = "checked below")]
pub const META_LEN_MAX: u32 = codec::ENCODED_LEN_MAX as u32;
const _: () = assert!(META_LEN_MAX as u64 == codec::ENCODED_LEN_MAX);
/// Largest payload, in bytes: a block and room for what may travel in front of it.
pub const PAYLOAD_LEN_MAX: u32 = crate::types::BLOCK_LEN_MAX + (64 << 10);
/// Requests with [`Flags::WAITS`] on one connection at a time. A mount whose programs wait for more locks than this asks for the rest
/// again and again instead.
pub const WAITS_MAX: u32 = 4096;
/// Kind of the first frame each way. Kinds of messages start at 0x100.
pub const KIND_HELLO: u16 = 1;

/// What a frame is, beside its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// A request: no flag at all.
    pub const REQUEST: Self = Self(0);
    /// Answers the request with the same id.
    pub const RESPONSE: Self = Self(1);
    /// With `RESPONSE`: meta is an encoded [`super::RpcError`]. Request id 0 speaks of the connection as a whole.
    pub const ERROR: Self = Self(2);
    /// The request with this id is no longer wanted. Is not answered.
    pub const CANCEL: Self = Self(4);
    /// A request that is not answered.
    pub const ONE_WAY: Self = Self(8);
    /// A request that waits for something to happen (since protocol version 2): it takes no credit, and is bounded apart.
    pub const WAITS: Self = Self(16);

    const KNOWN: u16 = 1 | 2 | 4 | 8 | 16;

    /// True if all flags of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The header of a frame, less what is computed from its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Protocol version of the sender; in a hello the newest it speaks.
    pub version: u16,
    /// Which message meta is.
    pub kind: u16,
    /// What the frame is.
    pub flags: Flags,
    /// Chosen by the caller, repeated in the answer; unique among what is in flight on the connection.
    pub id: u64,
    /// Milliseconds until the caller stops waiting, counted from the sending.
    pub deadline_ms: u32,
    /// Length of meta, in bytes.
    pub meta_len: u32,
    /// Length of the payload, in bytes.
    pub payload_len: u32,
    /// crc32c of meta.
    pub meta_crc: u32,
    /// crc32c of the payload.
    pub payload_crc: u32,
}

/// Bytes that are no frame. The connection they came from cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Does not begin with [`MAGIC`]: the peer speaks another protocol.
    #[error("it does not begin with PHMF: the peer speaks another protocol")]
    Magic,
    /// The header was changed on its way.
    #[error("the checksum of its header is wrong")]
    HeaderChecksum,
    /// Flags that do not exist, or do not go together.
    #[error("its flags {0:#x} make no sense")]
    Flags(u16),
    /// Meta is longer than allowed.
    #[error("its meta of {len} bytes is longer than the {max} allowed for kind {kind:#x}")]
    MetaTooLong {
        /// Which kind of frame.
        kind: u16,
        /// Found.
        len: u32,
        /// Allowed.
        max: u32,
    },
    /// The payload is longer than allowed.
    #[error("its payload of {len} bytes is longer than the {max} allowed for kind {kind:#x}")]
    PayloadTooLong {
        /// Which kind of frame.
        kind: u16,
        /// Found.
        len: u32,
        /// Allowed.
        max: u32,
    },
    /// Meta was changed on its way.
    #[error("the checksum of its meta is wrong")]
    MetaChecksum,
    /// The payload was changed on its way.
    #[error("the checksum of its payload is wrong")]
    PayloadChecksum,
    /// A frame that has no place here: a second hello, a reply to a server, a request id used twice.
    #[error("it is out of place: {0}")]
    OutOfPlace(&'static str),
}

/// Largest meta and payload of a kind, in bytes; the protocol's own bounds hold besides.
pub type FrameLimit = fn(kind: u16) -> (u32, u32);

/// No limits but the protocol's own.
#[must_use]
pub fn widest(_kind: u16) -> (u32, u32) {
    (META_LEN_MAX, PAYLOAD_LEN_MAX)
}

impl Header {
    /// A header over these parts; None when one of them is longer than the protocol allows.
    #[must_use]
    pub fn over(version: u16, kind: u16, flags: Flags, id: u64, meta: &[u8], payload: &[u8]) -> Option<Self> {
        Self::knowing(version, kind, flags, id, meta, payload, None)
    }

    /// As [`Header::over`]; with a checksum of the payload that is known already, the bytes are not passed over again.
    #[must_use]
    pub fn knowing(
        version: u16,
        kind: u16,
        flags: Flags,
        id: u64,
        meta: &[u8],
        payload: &[u8],
        payload_crc: Option<u32>,
    ) -> Option<Self> {
        let meta_len = u32::try_from(meta.len()).ok().filter(|&len| len <= META_LEN_MAX)?;
        let payload_len = u32::try_from(payload.len()).ok().filter(|&len| len <= PAYLOAD_LEN_MAX)?;
        Some(Self {
            version,
            kind,
            flags,
            id,
            deadline_ms: 0,
            meta_len,
            payload_len,
            meta_crc: crc32c::crc32c(meta),
            payload_crc: payload_crc.unwrap_or_else(|| crc32c::crc32c(payload)),
        })
    }

    /// The bytes of the header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&self.version.to_le_bytes());
        out[6..8].copy_from_slice(&self.kind.to_le_bytes());
        out[8..10].copy_from_slice(&self.flags.0.to_le_bytes());
        out[12..20].copy_from_slice(&self.id.to_le_bytes());
        out[20..24].copy_from_slice(&self.deadline_ms.to_le_bytes());
        out[24..28].copy_from_slice(&self.meta_len.to_le_bytes());
        out[28..32].copy_from_slice(&self.payload_len.to_le_bytes());
        out[32..36].copy_from_slice(&self.meta_crc.to_le_bytes());
        out[36..40].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..40]);
        out[40..44].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header in these bytes, its lengths within their bounds.
    ///
    /// # Errors
    /// Which rule it breaks.
    pub fn decode(bytes: &[u8; HEADER_LEN], limit: FrameLimit) -> Result<Self, FrameError> {
        let mut rest = &bytes[..];
        if rest[..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        if crc32c::crc32c(&rest[..40]).to_le_bytes() != rest[40..44] {
            return Err(FrameError::HeaderChecksum);
        }
        rest.advance(4);
        let version = rest.get_u16_le();
        let kind = rest.get_u16_le();
        let flags = Flags(rest.get_u16_le());
        rest.advance(2);
        let header = Self {
            version,
            kind,
            flags,
            id: rest.get_u64_le(),
            deadline_ms: rest.get_u32_le(),
            meta_len: rest.get_u32_le(),
            payload_len: rest.get_u32_le(),
            meta_crc: rest.get_u32_le(),
            payload_crc: rest.get_u32_le(),
        };
        let lonely_error = flags.has(Flags::ERROR) && !flags.has(Flags::RESPONSE);
        if flags.0 & !Flags::KNOWN != 0 || lonely_error {
            return Err(FrameError::Flags(flags.0));
        }
        let (meta_max, payload_max) = limit(kind);
        let (meta_max, payload_max) = (meta_max.min(META_LEN_MAX), payload_max.min(PAYLOAD_LEN_MAX));
        if header.meta_len > meta_max {
            return Err(FrameError::MetaTooLong { kind, len: header.meta_len, max: meta_max });
        }
        if header.payload_len > payload_max {
            return Err(FrameError::PayloadTooLong { kind, len: header.payload_len, max: payload_max });
        }
        Ok(header)
    }

    /// Bytes of meta and payload together.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.meta_len as usize + self.payload_len as usize
    }
}

/// A whole frame, its checksums verified (that of the payload unless [`Decoder::leave_payloads`]). Both parts are slices of the buffer it was read into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Encoded message.
    pub meta: Bytes,
    /// Raw bytes beside it.
    pub payload: Bytes,
}

/// Takes frames off a buffer as bytes arrive.
#[derive(Clone, Debug)]
pub struct Decoder {
    limit: FrameLimit,
    leaves_payloads: bool,
    header: Option<Header>,
}

impl Decoder {
    /// A decoder at the start of a frame.
    #[must_use]
    pub fn new(limit: FrameLimit) -> Self {
        Self { limit, leaves_payloads: false, header: None }
    }

    /// Changes the limits, from the next header on.
    pub fn set_limit(&mut self, limit: FrameLimit) {
        self.limit = limit;
    }

    /// From now on payloads are not compared with their checksums: whoever gets them does that by another one.
    pub fn leave_payloads(&mut self) {
        self.leaves_payloads = true;
    }

    /// The next frame off the front of `buffer`; None when it is not all there yet.
    ///
    /// # Errors
    /// Which rule the bytes break; the decoder is of no use after that. [`Decoder::id`] tells of which request,
    /// when the header was right.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(bytes) = buffer.first_chunk::<HEADER_LEN>() else {
                    // Of another protocol (or of noise) there may never come as much as a header.
                    let seen = buffer.len().min(MAGIC.len());
                    return if buffer[..seen] == MAGIC[..seen] { Ok(None) } else { Err(FrameError::Magic) };
                };
                let header = Header::decode(bytes, self.limit)?;
                buffer.advance(HEADER_LEN);
                self.header = Some(header);
                header
            }
        };
        if buffer.len() < header.body_len() {
            return Ok(None);
        }
        let body = buffer.split_to(header.body_len()).freeze();
        self.whole(header, body).map(Some)
    }

    /// The frame being read, given all of its body, which was not read into the buffer of [`Decoder::next`] but apart.
    ///
    /// # Errors
    /// As there; [`FrameError::OutOfPlace`] when no such body is lacking.
    pub fn finish(&mut self, body: Bytes) -> Result<Frame, FrameError> {
        match self.header {
            Some(header) if header.body_len() == body.len() => self.whole(header, body),
            _ => Err(FrameError::OutOfPlace("a body without its header")),
        }
    }

    fn whole(&mut self, header: Header, mut body: Bytes) -> Result<Frame, FrameError> {
        let meta = body.split_to(header.meta_len as usize);
        if crc32c::crc32c(&meta) != header.meta_crc {
            return Err(FrameError::MetaChecksum);
        }
        if !self.leaves_payloads && crc32c::crc32c(&body) != header.payload_crc {
            return Err(FrameError::PayloadChecksum);
        }
        self.header = None;
        Ok(Frame { header, meta, payload: body })
    }

    /// Bytes that `buffer` still lacks before [`Decoder::next`] can get on.
    #[must_use]
    pub fn lacking(&self, buffer: &BytesMut) -> usize {
        self.header.map_or(HEADER_LEN, |h| h.body_len()).saturating_sub(buffer.len())
    }

    /// The header of the frame being read, once it is in.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// The request id of the frame being read, once its header is in.
    #[must_use]
    pub fn id(&self) -> Option<u64> {
        self.header.map(|header| header.id)
    }

    /// True in the middle of a frame: its peer owes bytes.
    #[must_use]
    pub fn is_amid(&self, buffer: &BytesMut) -> bool {
        self.header.is_some() || !buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> (Header, &'static [u8], &'static [u8]) {
        let (meta, payload) = (&b"meta"[..], &b"payload"[..]);
        let mut header =
            Header::over(1, 0x300, Flags::REQUEST, 0x0102_0304_0506_0708, meta, payload).unwrap();
        header.deadline_ms = 1500;
        (header, meta, payload)
    }

    fn bytes_of(header: &Header, meta: &[u8], payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::from(&header.encode()[..]);
        out.extend_from_slice(meta);
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn the_bytes_of_a_frame_never_change() {
        let (header, meta, payload) = sample();
        let hex: String = bytes_of(&header, meta, payload).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "50484d46",
                "0100",
                "0003",
                "0000",
                "0000",
                "0807060504030201",
                "dc050000",
                "04000000",
                "07000000",
                "9510071b",
                "7069e3f4",
                "bf68cc8c",
                "6d657461",
                "7061796c6f6164",
            )
        );
    }

    #[test]
    fn a_frame_is_taken_off_byte_by_byte_and_only_when_whole() {
        let (header, meta, payload) = sample();
        let bytes = bytes_of(&header, meta, payload);
        let mut decoder = Decoder::new(widest);
        let mut buffer = BytesMut::new();
        for (i, &byte) in bytes.iter().enumerate() {
            assert_eq!(decoder.next(&mut buffer), Ok(None), "after {i} bytes");
            assert!(decoder.lacking(&buffer) > 0);
            buffer.extend_from_slice(&[byte]);
        }
        let frame = decoder.next(&mut buffer).unwrap().unwrap();
        assert_eq!(frame.header, header);
        assert_eq!((&frame.meta[..], &frame.payload[..]), (meta, payload));
        assert!(!decoder.is_amid(&buffer));
    }

    #[test]
    fn a_body_that_was_read_apart_makes_the_same_frame() {
        let (header, meta, payload) = sample();
        let body = Bytes::from([meta, payload].concat());
        let mut decoder = Decoder::new(widest);
        let early = decoder.finish(body.clone());
        assert!(matches!(early, Err(FrameError::OutOfPlace(_))), "{early:?}");
        assert_eq!(decoder.next(&mut BytesMut::from(&header.encode()[..])), Ok(None));
        assert_eq!(decoder.header(), Some(&header));
        assert!(matches!(decoder.finish(body.slice(1..)), Err(FrameError::OutOfPlace(_))));
        let frame = decoder.finish(body).unwrap();
        assert_eq!((&frame.meta[..], &frame.payload[..]), (meta, payload));
        assert!(!decoder.is_amid(&BytesMut::new()));
        let mut decoder = Decoder::new(widest);
        assert_eq!(decoder.next(&mut BytesMut::from(&header.encode()[..])), Ok(None));
        let damaged = Bytes::from([meta, b"pAyload"].concat());
        assert_eq!(decoder.finish(damaged), Err(FrameError::PayloadChecksum));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (header, meta, payload) = sample();
        let good = bytes_of(&header, meta, payload);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let error = Decoder::new(widest).next(&mut bytes).unwrap_err();
            let expected = match bit / 8 {
                0..4 => FrameError::Magic,
                4..44 => FrameError::HeaderChecksum,
                44..48 => FrameError::MetaChecksum,
                _ => FrameError::PayloadChecksum,
            };
            assert_eq!(error, expected, "bit {bit}");
        }
    }

    #[test]
    fn a_payload_that_is_left_to_its_receiver_arrives_as_it_is() {
        let (header, meta, payload) = sample();
        let mut bytes = bytes_of(&header, meta, payload);
        let end = bytes.len() - 1;
        bytes[end] ^= 1;
        let mut decoder = Decoder::new(widest);
        decoder.leave_payloads();
        let frame = decoder.next(&mut bytes.clone()).unwrap().unwrap();
        assert_eq!(frame.payload[..], bytes[end + 1 - payload.len()..]);
        // Meta is verified all the same.
        bytes[HEADER_LEN] ^= 1;
        let mut decoder = Decoder::new(widest);
        decoder.leave_payloads();
        assert_eq!(decoder.next(&mut bytes), Err(FrameError::MetaChecksum));
    }

    #[test]
    fn lengths_are_bounded_before_their_bytes_are_awaited() {
        let (header, ..) = sample();
        let decode = |header: Header, limit| Header::decode(&header.encode(), limit);
        let long_meta = Header { meta_len: META_LEN_MAX + 1, ..header };
        assert!(matches!(decode(long_meta, widest), Err(FrameError::MetaTooLong { .. })));
        let long_payload = Header { payload_len: PAYLOAD_LEN_MAX + 1, ..header };
        assert!(matches!(decode(long_payload, widest), Err(FrameError::PayloadTooLong { .. })));
        let edge = Header { meta_len: META_LEN_MAX, payload_len: PAYLOAD_LEN_MAX, ..header };
        assert!(decode(edge, widest).is_ok());
        assert!(decode(edge, |_| (u32::MAX, u32::MAX)).is_ok());
        assert!(matches!(decode(header, |_| (3, 7)), Err(FrameError::MetaTooLong { .. })));
        assert!(matches!(decode(header, |_| (4, 6)), Err(FrameError::PayloadTooLong { .. })));
        assert!(matches!(decode(Header { flags: Flags(32), ..header }, widest), Err(FrameError::Flags(32))));
        assert!(matches!(
            decode(Header { flags: Flags::ERROR, ..header }, widest),
            Err(FrameError::Flags(2))
        ));
        assert!(Header::over(1, 1, Flags::REQUEST, 1, &[], &vec![0; PAYLOAD_LEN_MAX as usize + 1]).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_give_frames_or_an_error(bytes: Vec<u8>, magic: bool) {
            let mut buffer = BytesMut::new();
            if magic {
                buffer.extend_from_slice(&MAGIC);
            }
            buffer.extend_from_slice(&bytes);
            let mut decoder = Decoder::new(widest);
            while let Ok(Some(_)) = decoder.next(&mut buffer) {}
        }

        #[test]
        fn any_frame_comes_back_whatever_the_cuts(
            meta: Vec<u8>, payload: Vec<u8>, kind: u16, id: u64, cut in 1usize..64,
        ) {
            let header = Header::over(1, kind, Flags::RESPONSE, id, &meta, &payload).unwrap();
            let bytes = bytes_of(&header, &meta, &payload);
            let (mut decoder, mut buffer, mut found) = (Decoder::new(widest), BytesMut::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decoder.next(&mut buffer).unwrap() {
                    found.push(frame);
                }
            }
            prop_assert_eq!(found, vec![Frame { header, meta: meta.into(), payload: payload.into() }]);
        }
    }
}
