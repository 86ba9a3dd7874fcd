//! A frame: header, payload, padding. The unit that is checksummed, counted and replicated.
//!
//! Little-endian. Each frame starts on an 8-byte boundary.
//! ```text
//! at  size  field
//!  0     4  length      of the payload, with bit 31 set: a frame's first word is never zero
//!  4     4  crc32       of payload and padding, begun with log, epoch, lsn, kind and length (F5)
//!  8     8  lsn         of the frame's first byte
//! 16     8  mark lsn    this node's synced LSN when the frame was written   \ the mark: this
//! 24     6  mark check  48 bits over (mark lsn, place, epoch, node id)      / node's own, not in
//! 30     2  kind        1 data, 2 control, 3 void                             crc32, not replicated
//! 32     n  payload, then zeros up to the boundary
//! ```
//! - F1: the first eight bytes (length and crc32) are stored last, as one word with release: that
//!   publishes the frame. Before the tail moves past a frame, the word behind it is zeroed, so
//!   neither a recycled file's old bytes nor a client's payload ever reads as published.
//! - F2: the checksum is seeded with (log identity, epoch) and covers the LSN, so a frame of
//!   another log, another epoch or another place does not pass (W4).
//! - F3: a mark's check covers its place, so it is recognised at any 8-byte boundary, with its
//!   frame's other bytes destroyed, and nowhere else (W3).
//! - F4: on the wire the 14 mark bytes are zero (R1: all other bytes are the same on every node).
//! - F5: the header's fields go into the value that the crc32 of the payload begins with: length (28 bits), kind (2) and bit
//!   31 side by side, exclusive-ored with the LSN times 0x9e3779b97f4a7c15, shifted right by 32, and with the seed. A crc32 of the same
//!   bytes from another beginning is another one for certain, so a flipped bit there is seen as surely as one in the
//!   payload (one in the LSN by comparing it with the place, too). Hashing 14 bytes took as long as 100 of payload.
//!
//! A frame of length L takes `32 + L` bytes, rounded up to 8.

use crate::ids::{ChainHash, Epoch, LogId, Lsn, NodeId};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Frames start on multiples of this, in the log and in a segment.
pub const FRAME_ALIGN: usize = 8;

pub(crate) const LENGTH_AT: usize = 0;
pub(crate) const CRC_AT: usize = LENGTH_AT + size_of::<u32>();
pub(crate) const LSN_AT: usize = CRC_AT + size_of::<u32>();
pub(crate) const MARK_AT: usize = LSN_AT + size_of::<u64>();
pub(crate) const MARK_CHECK_AT: usize = MARK_AT + size_of::<u64>();
pub(crate) const KIND_AT: usize = MARK_CHECK_AT + 6;
/// Bytes of a frame before its payload.
pub const HEADER_LEN: usize = KIND_AT + size_of::<u16>();
const _: () = assert!(HEADER_LEN == 32 && HEADER_LEN.is_multiple_of(FRAME_ALIGN));

/// Bytes of a mark: position and check.
pub const MARK_LEN: usize = 14;

const PRESENT: u32 = 1 << 31;
/// No payload is longer than this, whatever the configuration: 256 MiB.
pub const PAYLOAD_MAX: usize = 1 << 28;

/// What a frame is. Numbers reach the disk: add, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// A batch of the log's user.
    Data = 1,
    /// The log's own: the beginning of an epoch.
    Control = 2,
    /// A reservation that was given up; its payload is zeros. Skipped by readers of data.
    Void = 3,
}

impl Kind {
    /// The kind of a number from disk or wire.
    #[must_use]
    pub fn from_u16(n: u16) -> Option<Kind> {
        match n {
            1 => Some(Kind::Data),
            2 => Some(Kind::Control),
            3 => Some(Kind::Void),
            _ => None,
        }
    }
}

/// Bytes that a frame with a payload of `payload_len` takes.
#[must_use]
pub const fn frame_len(payload_len: usize) -> usize {
    (HEADER_LEN + payload_len).next_multiple_of(FRAME_ALIGN)
}

/// Seed of the checksums of one epoch of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u32);

impl Seed {
    /// The seed for frames of `epoch` in the log `log`.
    #[must_use]
    pub fn new(log: LogId, epoch: Epoch) -> Seed {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&log.to_bytes());
        bytes[16..24].copy_from_slice(&epoch.number.to_le_bytes());
        bytes[24..].copy_from_slice(&epoch.id.to_le_bytes());
        Seed(crc32fast::hash(&bytes))
    }

    /// Where the checksum of one frame's payload begins (F5).
    fn of(self, lsn: Lsn, kind: Kind, payload_len: usize) -> u32 {
        let place = lsn.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.0 ^ place as u32 ^ (payload_len as u32 | (kind as u32) << 29 | PRESENT)
    }
}

/// A frame's header without its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of payload.
    pub payload_len: u32,
    /// Checksum as stored.
    pub crc: u32,
    /// Position of the frame's first byte.
    pub lsn: Lsn,
    /// What it is.
    pub kind: Kind,
}

impl Header {
    /// Bytes of the whole frame.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        frame_len(self.payload_len as usize)
    }

    /// LSN of the frame behind this one.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.lsn.advance(self.frame_len() as u64)
    }

    /// The word that publishes the frame: length and checksum.
    #[must_use]
    pub fn word(&self) -> u64 {
        u64::from(self.payload_len | PRESENT) | u64::from(self.crc) << 32
    }

    /// Whether `word` publishes a frame. Written by a call it may be seen half-written; then its last byte
    /// of the length, which holds the bit, is not there yet.
    #[must_use]
    pub fn publishes(word: u64) -> bool {
        word as u32 & PRESENT != 0
    }

    /// Bytes of the frame that `word` publishes.
    #[must_use]
    pub fn span(word: u64) -> u64 {
        frame_len((word as u32 & !PRESENT) as usize) as u64
    }

    /// Reads a header; `None` when the bytes can't be one. The checksum is not looked at.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Option<Header> {
        let length = u32::from_le_bytes(bytes[LENGTH_AT..CRC_AT].try_into().expect("4 bytes"));
        let payload_len = length & !PRESENT;
        if length & PRESENT == 0 || payload_len as usize > PAYLOAD_MAX {
            return None;
        }
        Some(Header {
            payload_len,
            crc: u32::from_le_bytes(bytes[CRC_AT..LSN_AT].try_into().expect("4 bytes")),
            lsn: Lsn(u64::from_le_bytes(
                bytes[LSN_AT..MARK_AT].try_into().expect("8 bytes"),
            )),
            kind: Kind::from_u16(u16::from_le_bytes(
                bytes[KIND_AT..HEADER_LEN].try_into().expect("2 bytes"),
            ))?,
        })
    }

    /// Writes the header, with its mark, into `out`. `mark` is [`Mark::encode`]'s, or zeros.
    pub fn encode(&self, mark: &[u8; MARK_LEN], out: &mut [u8; HEADER_LEN]) {
        out[LENGTH_AT..LSN_AT].copy_from_slice(&self.word().to_le_bytes());
        out[LSN_AT..MARK_AT].copy_from_slice(&self.lsn.0.to_le_bytes());
        out[MARK_AT..KIND_AT].copy_from_slice(mark);
        out[KIND_AT..HEADER_LEN].copy_from_slice(&(self.kind as u16).to_le_bytes());
    }
}

/// Checksum of a frame whose payload is the concatenation of `parts`, padding included.
#[must_use]
pub fn checksum(seed: Seed, lsn: Lsn, kind: Kind, parts: &[&[u8]]) -> u32 {
    let payload_len: usize = parts.iter().map(|p| p.len()).sum();
    let mut hasher = crc32fast::Hasher::new_with_initial(seed.of(lsn, kind, payload_len));
    for part in parts {
        hasher.update(part);
    }
    let padding = frame_len(payload_len) - HEADER_LEN - payload_len;
    if padding > 0 {
        hasher.update(&[0; FRAME_ALIGN][..padding]);
    }
    hasher.finalize()
}

/// The same for a frame as it is stored: `padded` is its payload and what follows up to the boundary, which must be zeros.
pub(crate) fn checksum_stored(seed: Seed, header: &Header, padded: &[u8]) -> u32 {
    let begin = seed.of(header.lsn, header.kind, header.payload_len as usize);
    let mut hasher = crc32fast::Hasher::new_with_initial(begin);
    hasher.update(padded);
    hasher.finalize()
}

/// A node's record, within a frame's header, of how far its log was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Everything below was on stable storage when the mark was written.
    pub synced: Lsn,
}

impl Mark {
    /// The mark's bytes, for the frame at `place`.
    #[must_use]
    pub fn encode(self, node: NodeId, epoch: Epoch, place: Lsn) -> [u8; MARK_LEN] {
        let mut out = [0; MARK_LEN];
        out[..8].copy_from_slice(&self.synced.0.to_le_bytes());
        out[8..].copy_from_slice(&mark_check(self.synced, node, epoch, place));
        out
    }

    /// The mark in `bytes`, if it is one of `node`, in `epoch`, for the frame at `place`.
    #[must_use]
    pub fn decode(bytes: &[u8; MARK_LEN], node: NodeId, epoch: Epoch, place: Lsn) -> Option<Mark> {
        let synced = Lsn(u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")));
        // A mark never speaks of what comes after its own place; this also spares most hashes.
        if synced > place || !synced.0.is_multiple_of(FRAME_ALIGN as u64) {
            return None;
        }
        (bytes[8..] == mark_check(synced, node, epoch, place)).then_some(Mark { synced })
    }
}

fn mark_check(synced: Lsn, node: NodeId, epoch: Epoch, place: Lsn) -> [u8; 6] {
    let mut bytes = [0; 48];
    bytes[..8].copy_from_slice(&synced.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&place.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&epoch.number.to_le_bytes());
    bytes[24..32].copy_from_slice(&epoch.id.to_le_bytes());
    bytes[32..].copy_from_slice(&node.to_bytes());
    let hash = xxh3_64(&bytes).to_le_bytes();
    hash[..6].try_into().expect("6 bytes")
}

/// The chain hash behind a frame, from the one before it.
#[must_use]
pub fn fold(before: ChainHash, epoch: Epoch, header: &Header) -> ChainHash {
    let mut bytes = [0; 50];
    bytes[..16].copy_from_slice(&before.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&header.lsn.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&epoch.number.to_le_bytes());
    bytes[32..40].copy_from_slice(&epoch.id.to_le_bytes());
    bytes[40..42].copy_from_slice(&(header.kind as u16).to_le_bytes());
    bytes[42..46].copy_from_slice(&header.payload_len.to_le_bytes());
    bytes[46..].copy_from_slice(&header.crc.to_le_bytes());
    ChainHash(xxh3_128(&bytes))
}
