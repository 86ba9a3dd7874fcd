//! Tables: immutable, sorted files of versions.
//!
//! [`TableBuilder`] writes one, [`Table`] reads one, [`TableCursor`] walks one, [`BlockCache`] keeps blocks
//! of all of them. Bytes are in `format` and `block`, and in docs/formats.md.
//!
//! - T1: entries stand in the order of [`KeyRef`]: user key ascending, then SeqNo descending. No two entries of a
//!   table are equal in both.
//! - T2: every byte of a file is under a checksum seeded with (log id, file number, offset), verified when
//!   it is read from disk and before it is decoded (L4). A table under another's name, or a block in
//!   another's place, does not pass.
//! - T3: no allocation is sized by unchecked bytes: a handle must lie inside the file, a decompressed length within what
//!   the compressed bytes can hold (E2).
//! - T4: a table never changes once [`TableBuilder::finish`] returned; its file number is never used again (L3).
//! - T5: an error is never "not found" and never "end": every call that can read returns a `Result`.

mod block;
mod builder;
mod cache;
mod coding;
mod cursor;
mod error;
mod filter;
mod format;
mod index;
mod reader;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;

pub use builder::{TableBuilder, TableOptions};
pub use cache::{BlockCache, CacheStats};
pub use cursor::TableCursor;
pub use error::TableError;
pub use format::{FORMAT_VERSION, Properties};
pub use reader::{ReadMode, Table, TableContext};

use crate::SeqNo;
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::Bound;

/// What a version is. Numbers reach the disk: add, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum VersionKind {
    /// A value.
    Put = 1,
    /// A point tombstone.
    Delete = 2,
}

impl VersionKind {
    /// The kind of a number from disk.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<VersionKind> {
        match n {
            1 => Some(VersionKind::Put),
            2 => Some(VersionKind::Delete),
            _ => None,
        }
    }
}

/// A position in the order of all versions: user key ascending, then SeqNo descending, so the newest version of a
/// key comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRef<'a> {
    /// The user's key.
    pub user: &'a [u8],
    /// The version.
    pub seqno: SeqNo,
}

impl<'a> KeyRef<'a> {
    /// The version `seqno` of `user`: a seek to it finds the newest at or below `seqno`.
    #[must_use]
    pub fn new(user: &'a [u8], seqno: SeqNo) -> Self {
        Self { user, seqno }
    }
    /// Before every version of `user`.
    #[must_use]
    pub fn before(user: &'a [u8]) -> Self {
        Self::new(user, SeqNo(u64::MAX))
    }
    /// At or behind every version of `user`.
    #[must_use]
    pub fn after(user: &'a [u8]) -> Self {
        Self::new(user, SeqNo(0))
    }
}

impl Ord for KeyRef<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.user
            .cmp(other.user)
            .then_with(|| other.seqno.cmp(&self.seqno))
    }
}
impl PartialOrd for KeyRef<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One version of a key, as found by a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// When.
    pub seqno: SeqNo,
    /// What.
    pub kind: VersionKind,
    /// The value, empty for a tombstone. Shares the memory of its block.
    pub value: Bytes,
}

/// The user keys that a table speaks about, range tombstones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyBounds {
    /// Smallest user key, inclusive.
    pub smallest: Bytes,
    /// Largest: inclusive when it is a point's, exclusive when it is the end of a range tombstone, unbounded
    /// when one has no end.
    pub largest: Bound<Bytes>,
}

impl KeyBounds {
    /// Whether `key` lies within.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.smallest.as_ref() <= key && !self.ends_before(key)
    }
    /// Whether everything within is smaller than `key`.
    #[must_use]
    pub fn ends_before(&self, key: &[u8]) -> bool {
        match &self.largest {
            Bound::Included(end) => end.as_ref() < key,
            Bound::Excluded(end) => end.as_ref() <= key,
            Bound::Unbounded => false,
        }
    }
    /// Whether the two have a key in common.
    #[must_use]
    pub fn overlaps(&self, other: &KeyBounds) -> bool {
        !self.ends_before(&other.smallest) && !other.ends_before(&self.smallest)
    }
    /// The smallest bounds that hold both.
    #[must_use]
    pub fn union(&self, other: &KeyBounds) -> KeyBounds {
        use Bound::{Excluded, Included, Unbounded};
        let smallest = self.smallest.clone().min(other.smallest.clone());
        let largest = match (&self.largest, &other.largest) {
            (Unbounded, _) | (_, Unbounded) => Unbounded,
            (Included(a), Included(b)) => Included(a.max(b).clone()),
            (Excluded(a), Excluded(b)) => Excluded(a.max(b).clone()),
            (Included(i), Excluded(e)) | (Excluded(e), Included(i)) => {
                if i >= e {
                    Included(i.clone())
                } else {
                    Excluded(e.clone())
                }
            }
        };
        KeyBounds { smallest, largest }
    }
}
