//! Places in a table file.
use super::{KeyBounds, TableError};
use crate::SeqNo;

/// Format written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 1;

/// What a table says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// User keys it speaks about.
    pub bounds: KeyBounds,
    /// Point versions, tombstones included.
    pub entries: u64,
    /// Distinct user keys with a point version.
    pub keys: u64,
    /// Point tombstones.
    pub deletes: u64,
    /// Range tombstones (fragments).
    pub range_deletes: u64,
    /// Oldest SeqNo in it, points and ranges.
    pub oldest: SeqNo,
    /// Newest SeqNo in it, points and ranges.
    pub newest: SeqNo,
    /// Bytes of user keys, uncompressed.
    pub key_bytes: u64,
    /// Bytes of values, uncompressed.
    pub value_bytes: u64,
    /// Data blocks.
    pub data_blocks: u64,
}
