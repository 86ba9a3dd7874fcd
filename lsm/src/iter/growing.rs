//! Range tombstones of a memtable: a set that grows, read without a lock.
//!
//! Runs of tombstones, each ready for lookups; a new one is a run of its own, and two runs of like length are made one. So a push costs log n
//! squared on average, a lookup asks log n runs, and neither a reader after each push nor many readers cost more.

use super::{RangeTombstone, RangeTombstones};
use crate::SeqNo;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Range tombstones that writers add to while readers look.
#[derive(Debug, Default)]
pub struct GrowingRanges {
    /// Set, with release, after the first push: an empty set costs a lookup one load.
    some: AtomicBool,
    /// Longest first.
    runs: ArcSwap<Vec<Arc<RangeTombstones>>>,
    /// One push at a time.
    pushing: Mutex<()>,
}

impl GrowingRanges {
    /// Adds one. Who sees the push done sees the tombstone.
    pub fn push(&self, tombstone: RangeTombstone) {
        let _pushing = self.pushing.lock();
        let mut runs = Vec::clone(&self.runs.load());
        let mut run = RangeTombstones::new(vec![tombstone]);
        if run.is_empty() {
            return;
        }
        while let Some(last) = runs.last()
            && last.len() <= run.len()
        {
            run = RangeTombstones::new(last.iter().chain(run.iter()).collect());
            runs.pop();
        }
        runs.push(Arc::new(run));
        self.runs.store(Arc::new(runs));
        self.some.store(true, Ordering::Release);
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Acquire pairs with the release in `push`: the runs that are loaded next hold what was pushed.
        !self.some.load(Ordering::Acquire)
    }

    /// The highest SeqNo at or below `at` that covers `key`.
    #[must_use]
    #[inline]
    pub fn covering(&self, key: &[u8], at: SeqNo) -> Option<SeqNo> {
        if self.is_empty() {
            return None;
        }
        let runs = self.runs.load();
        runs.iter().filter_map(|run| run.covering(key, at)).max()
    }

    /// All that was pushed before, as runs to look up in.
    #[must_use]
    pub fn runs(&self) -> Vec<Arc<RangeTombstones>> {
        if self.is_empty() {
            return Vec::new();
        }
        Vec::clone(&self.runs.load())
    }

    /// All that was pushed before.
    #[must_use]
    pub fn list(&self) -> Vec<RangeTombstone> {
        self.runs.load().iter().flat_map(|run| run.iter()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn every_push_is_seen_at_once_and_runs_stay_few() {
        let ranges = GrowingRanges::default();
        assert!(ranges.is_empty() && ranges.runs().is_empty());
        let key = |n: u32| Bytes::copy_from_slice(&n.to_be_bytes());
        for n in 0..3000_u32 {
            ranges.push(RangeTombstone {
                start: key(0),
                end: key(n + 1),
                seqno: SeqNo(u64::from(n) + 1),
            });
            assert_eq!(
                ranges.covering(&key(n), SeqNo(9999)),
                Some(SeqNo(u64::from(n) + 1))
            );
            assert_eq!(
                ranges.covering(&key(0), SeqNo(5)),
                Some(SeqNo(5.min(u64::from(n) + 1)))
            );
            assert_eq!(ranges.covering(&key(n + 1), SeqNo(9999)), None);
        }
        assert!(ranges.runs().len() <= 12);
        assert_eq!(ranges.list().len(), 3000);
    }
}
