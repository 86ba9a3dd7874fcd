//! Range tombstones, fragmented.
use super::ReadPoints;
use crate::SeqNo;
use bytes::Bytes;

/// Deletes what is older than `seqno` in `start..end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeTombstone {
    /// First key, inclusive.
    pub start: Bytes,
    /// Behind the last key; empty: no end.
    pub end: Bytes,
    /// When.
    pub seqno: SeqNo,
}

/// Range tombstones as a sorted list of disjoint fragments, each with its SeqNos, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeTombstones {}

impl RangeTombstones {
    /// All of `tombstones`, in any order, overlapping as they like. Empty ranges are left out.
    pub fn new(tombstones: Vec<RangeTombstone>) -> Self {
        todo!()
    }
    /// As `new`, with only what `points` can tell apart: of the SeqNos over a fragment, one per gap between read points. For
    /// flush and compaction; bounds the memory by fragments times points.
    pub fn needed_by(tombstones: Vec<RangeTombstone>, points: &ReadPoints) -> Self {
        todo!()
    }
    /// As a reader at `at` sees them: one SeqNo per fragment. For a memtable's list.
    pub fn seen_at(tombstones: Vec<RangeTombstone>, at: SeqNo) -> Self {
        todo!()
    }
    /// None?
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    /// Fragments.
    pub fn len(&self) -> usize {
        todo!()
    }
    /// The highest SeqNo at or below `at` that covers `key`. A version of `key` with a lower SeqNo is deleted.
    pub fn covering(&self, key: &[u8], at: SeqNo) -> Option<SeqNo> {
        todo!()
    }
    /// As `covering`, with the end of the fragment (empty: none): keys up to there are covered alike.
    pub fn covering_until(&self, key: &[u8], at: SeqNo) -> Option<(SeqNo, &Bytes)> {
        todo!()
    }
    /// One tombstone per fragment and SeqNo, sorted by start, then newest first.
    pub fn iter(&self) -> impl Iterator<Item = RangeTombstone> + '_ {
        std::iter::empty()
    }
    /// What lies within `start..end` (empty end: none), cut there: for an output file of a compaction.
    pub fn clip(&self, start: &[u8], end: &[u8]) -> RangeTombstones {
        todo!()
    }
    /// Without what lies at or below `at` and may go because nothing older lies below it (`droppable` is asked per
    /// fragment `start..end`).
    pub fn without(
        &self,
        at: SeqNo,
        droppable: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> RangeTombstones {
        todo!()
    }
    /// Bytes of memory, about.
    pub fn memory_bytes(&self) -> usize {
        todo!()
    }
}
