//! Cursors over versions, merged and filtered into what a reader sees.
//!
//! Sources ([`Cursor`]: memtables, tables, levels) are merged ([`MergeCursor`]) into one order of versions; [`Visible`]
//! shows of them what a reader at a SeqNo sees: the newest version of each key at or below it, without tombstones
//! and without what a range tombstone covers ([`RangeTombstones`]). [`ReadPoints`] says which versions some reader
//! can still ask for, for flush and compaction.

mod growing;
mod level;
mod merge;
mod points;
mod ranges;
#[cfg(test)]
mod tests;
mod visible;

pub use growing::GrowingRanges;
pub use level::LevelCursor;
pub use merge::MergeCursor;
pub use points::ReadPoints;
pub use ranges::{RangeTombstone, RangeTombstones};
pub use visible::Visible;

use crate::SeqNo;
use crate::table::{KeyRef, TableError, VersionKind};
use bytes::Bytes;

/// Walks versions in the order of [`KeyRef`], both ways.
///
/// A cursor stands on an entry (`valid`) or on none. It is made standing on none, comes to stand on none by walking
/// past either end, by `reset`, and by an error; from there only the seeks lead on. `next` and `prev` must only be called on an
/// entry. An error is returned by the call that met it and never looks like an end (T5).
pub trait Cursor: Send {
    /// On an entry?
    fn valid(&self) -> bool;
    /// The entry's key and SeqNo. Panics when on none.
    fn key(&self) -> KeyRef<'_>;
    /// What the entry is. Panics when on none.
    fn kind(&self) -> VersionKind;
    /// The value, sharing memory with its source. Panics when on none.
    fn value(&self) -> Bytes;
    /// The value, borrowed: cheaper where it is only looked at or copied. Panics when on none.
    fn value_ref(&self) -> &[u8];
    /// No entry of this cursor is newer. `SeqNo(u64::MAX)` where unknown (a memtable that still grows).
    fn newest(&self) -> SeqNo;
    /// Lets go of what is held; stands on no entry.
    fn reset(&mut self);
    /// To the first entry.
    fn seek_to_first(&mut self) -> Result<(), TableError>;
    /// To the last entry.
    fn seek_to_last(&mut self) -> Result<(), TableError>;
    /// To the first entry at or behind `target`: for [`KeyRef::new`] the newest version at or below its SeqNo, or the
    /// next key.
    fn seek(&mut self, target: KeyRef<'_>) -> Result<(), TableError>;
    /// To the last entry at or before `target`.
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<(), TableError>;
    /// To the following entry.
    fn next(&mut self) -> Result<(), TableError>;
    /// To the following entry, but for older versions of the current key, which nobody wants: those may be passed over.
    fn next_wanting_no_older(&mut self) -> Result<(), TableError> {
        self.next()
    }
    /// To the preceding entry.
    fn prev(&mut self) -> Result<(), TableError>;
    /// A range tombstone `seqno` covers the keys from the current one up to `end` (empty: all), and nobody wants what it covers:
    /// passes over as much of it as is cheap, forward. Gives whether the current entry was passed too; if not,
    /// it is still the current one. Allowed after forward moves only.
    fn pass_covered(&mut self, end: &[u8], seqno: SeqNo) -> Result<bool, TableError> {
        let _ = (end, seqno);
        Ok(false)
    }
}
