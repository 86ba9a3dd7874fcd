//! What a reader sees.
use super::{Cursor, RangeTombstones};
use crate::SeqNo;
use crate::table::TableError;
use bytes::Bytes;
use std::ops::Bound;
use std::sync::Arc;

/// User entries at a SeqNo within bounds, both ways: the newest version of each key at or below it, without
/// tombstones and without what range tombstones cover. Owned.
pub struct Visible {}
impl Visible {
    /// `sources` newest first (each of them knows points only); `ranges`: the range tombstones of all sources that have
    /// some. Stands on no entry.
    pub fn new(
        sources: Vec<Box<dyn Cursor>>,
        ranges: Vec<Arc<RangeTombstones>>,
        at: SeqNo,
        lower: Bound<Bytes>,
        upper: Bound<Bytes>,
    ) -> Self {
        todo!()
    }
    /// On an entry?
    pub fn valid(&self) -> bool {
        todo!()
    }
    /// Its key. Panics when on none, as do the next two.
    pub fn key(&self) -> &[u8] {
        todo!()
    }
    /// Its value.
    pub fn value(&self) -> &Bytes {
        todo!()
    }
    /// Its version.
    pub fn seqno(&self) -> SeqNo {
        todo!()
    }
    /// To the first entry within the bounds.
    pub fn seek_to_first(&mut self) -> Result<(), TableError> {
        todo!()
    }
    /// To the last entry within the bounds.
    pub fn seek_to_last(&mut self) -> Result<(), TableError> {
        todo!()
    }
    /// To the first entry at or behind `key`.
    pub fn seek(&mut self, key: &[u8]) -> Result<(), TableError> {
        todo!()
    }
    /// To the last entry at or before `key`.
    pub fn seek_for_prev(&mut self, key: &[u8]) -> Result<(), TableError> {
        todo!()
    }
    /// To the following entry.
    pub fn next(&mut self) -> Result<(), TableError> {
        todo!()
    }
    /// To the preceding entry.
    pub fn prev(&mut self) -> Result<(), TableError> {
        todo!()
    }
}
