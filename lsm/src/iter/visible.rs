//! What a reader sees.
//!
//! Forward, the merge stands on the version shown. Backward, a key's newest visible version is known only once all
//! its older ones were walked over, so there the merge stands before the key shown.

use super::{Cursor, MergeCursor, RangeTombstone, RangeTombstones};
use crate::SeqNo;
use crate::table::{KeyRef, TableError, VersionKind};
use bytes::Bytes;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// Versions of one key that are stepped over before a seek is taken for cheaper.
const STEPS_MAX: usize = 8;

/// User entries at a SeqNo within bounds, both ways: the newest version of each key at or below it, without
/// tombstones and without what range tombstones cover. Owned.
pub struct Visible {
    merge: MergeCursor,
    ranges: Vec<Arc<RangeTombstones>>,
    at: SeqNo,
    /// First key within the bounds.
    lower: Bytes,
    /// Behind the last; `None`: no end.
    upper: Option<Bytes>,
    forward: bool,
    key: Vec<u8>,
    entry: Option<(Bytes, SeqNo)>,
}

impl fmt::Debug for Visible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visible")
            .field("at", &self.at)
            .field("lower", &self.lower)
            .field("upper", &self.upper)
            .field("valid", &self.valid())
            .finish_non_exhaustive()
    }
}

/// The smallest key behind `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    Bytes::from(next)
}

impl Visible {
    /// `sources` newest first (each of them knows points only); `ranges`: the range tombstones of all sources that have
    /// some. `at` is inclusive. Stands on no entry.
    #[must_use]
    pub fn new(
        sources: Vec<Box<dyn Cursor>>,
        mut ranges: Vec<Arc<RangeTombstones>>,
        at: SeqNo,
        lower: Bound<Bytes>,
        upper: Bound<Bytes>,
    ) -> Self {
        ranges.retain(|list| !list.is_empty());
        Self {
            merge: MergeCursor::new(sources),
            ranges,
            at,
            lower: match lower {
                Bound::Included(key) => key,
                Bound::Excluded(key) => successor(&key),
                Bound::Unbounded => Bytes::new(),
            },
            upper: match upper {
                Bound::Included(key) => Some(successor(&key)),
                Bound::Excluded(key) => Some(key),
                Bound::Unbounded => None,
            },
            forward: true,
            key: Vec::new(),
            entry: None,
        }
    }

    /// On an entry?
    #[must_use]
    pub fn valid(&self) -> bool {
        self.entry.is_some()
    }

    fn entry(&self) -> &(Bytes, SeqNo) {
        self.entry.as_ref().expect("stands on an entry")
    }

    /// Its key. Panics when on none, as do the next two.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.entry();
        &self.key
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> &Bytes {
        &self.entry().0
    }

    /// Its version.
    #[must_use]
    pub fn seqno(&self) -> SeqNo {
        self.entry().1
    }

    /// To the first entry within the bounds.
    pub fn seek_to_first(&mut self) -> Result<(), TableError> {
        self.entry = None;
        self.merge.seek(KeyRef::before(&self.lower))?;
        self.find_forward()
    }

    /// To the last entry within the bounds.
    pub fn seek_to_last(&mut self) -> Result<(), TableError> {
        self.entry = None;
        match &self.upper {
            Some(upper) => self.merge.seek_for_prev(KeyRef::before(upper))?,
            None => self.merge.seek_to_last()?,
        }
        self.find_backward()
    }

    /// To the first entry at or behind `key`.
    pub fn seek(&mut self, key: &[u8]) -> Result<(), TableError> {
        self.entry = None;
        self.merge.seek(KeyRef::before(key.max(&self.lower)))?;
        self.find_forward()
    }

    /// To the last entry at or before `key`.
    pub fn seek_for_prev(&mut self, key: &[u8]) -> Result<(), TableError> {
        if self.is_behind(key) {
            return self.seek_to_last();
        }
        self.entry = None;
        self.merge.seek_for_prev(KeyRef::after(key))?;
        self.find_backward()
    }

    /// To the following entry.
    #[expect(
        clippy::should_implement_trait,
        reason = "a cursor's next, the counterpart of prev; it lends, where an iterator gives"
    )]
    pub fn next(&mut self) -> Result<(), TableError> {
        assert!(self.entry.take().is_some(), "stands on an entry");
        if !self.forward {
            self.merge.seek(KeyRef::after(&self.key))?;
        }
        self.skip_key()?;
        self.find_forward()
    }

    /// To the preceding entry.
    pub fn prev(&mut self) -> Result<(), TableError> {
        assert!(self.entry.take().is_some(), "stands on an entry");
        if self.forward {
            self.merge.seek_for_prev(KeyRef::before(&self.key))?;
        }
        self.find_backward()
    }

    fn is_behind(&self, key: &[u8]) -> bool {
        self.upper
            .as_ref()
            .is_some_and(|upper| key >= upper.as_ref())
    }

    /// Whether the merge stands on a version of `self.key`.
    fn on_key(&self) -> bool {
        self.merge.valid() && self.merge.key().user == self.key
    }

    /// Forward past the versions of `self.key`.
    fn skip_key(&mut self) -> Result<(), TableError> {
        let mut steps = 0;
        while self.on_key() {
            if steps == STEPS_MAX {
                self.merge.seek(KeyRef::after(&self.key))?;
            } else {
                self.merge.next()?;
            }
            steps += 1;
        }
        Ok(())
    }

    /// Backward past the versions of `self.key`.
    fn skip_key_back(&mut self) -> Result<(), TableError> {
        let mut steps = 0;
        while self.on_key() {
            if steps == STEPS_MAX {
                self.merge.seek_for_prev(KeyRef::before(&self.key))?;
            } else {
                self.merge.prev()?;
            }
            steps += 1;
        }
        Ok(())
    }

    /// What covers `self.key`, newest.
    fn covering<'a>(
        ranges: &'a [Arc<RangeTombstones>],
        key: &[u8],
        at: SeqNo,
    ) -> Option<&'a RangeTombstone> {
        let all = ranges.iter();
        all.filter_map(|list| list.covering_tombstone(key, at))
            .max_by_key(|covering| covering.seqno)
    }

    /// From where the merge stands, forward to the first visible entry.
    fn find_forward(&mut self) -> Result<(), TableError> {
        self.forward = true;
        let mut too_new = 0;
        while self.merge.valid() {
            let key = self.merge.key();
            if self.is_behind(key.user) {
                return Ok(());
            }
            let seqno = key.seqno;
            if seqno > self.at {
                // Versions that this reader does not see; its own comes behind them.
                if too_new == STEPS_MAX {
                    too_new = 0;
                    self.key.clear();
                    self.key.extend_from_slice(key.user);
                    self.merge.seek(KeyRef::new(&self.key, self.at))?;
                } else {
                    too_new += 1;
                    self.merge.next()?;
                }
                continue;
            }
            too_new = 0;
            self.key.clear();
            self.key.extend_from_slice(key.user);
            let covering = Self::covering(&self.ranges, &self.key, self.at)
                .filter(|covering| covering.seqno > seqno);
            match covering {
                None if self.merge.kind() == VersionKind::Put => {
                    self.entry = Some((self.merge.value(), seqno));
                    return Ok(());
                }
                None => {}
                Some(covering) => {
                    self.merge.pass_covered(&covering.end, covering.seqno)?;
                }
            }
            self.skip_key()?;
        }
        Ok(())
    }

    /// From where the merge stands, backward to the first visible entry.
    fn find_backward(&mut self) -> Result<(), TableError> {
        self.forward = false;
        while self.merge.valid() {
            let key = self.merge.key();
            if key.user < self.lower.as_ref() {
                return Ok(());
            }
            self.key.clear();
            self.key.extend_from_slice(key.user);
            let newest = self.newest_visible_back()?;
            self.skip_key_back()?;
            let Some((kind, value, seqno)) = newest else {
                continue;
            };
            let covering = Self::covering(&self.ranges, &self.key, self.at)
                .filter(|covering| covering.seqno > seqno);
            match covering {
                None if kind == VersionKind::Put => {
                    self.entry = Some((value, seqno));
                    return Ok(());
                }
                None => {}
                Some(covering) => {
                    let start = &covering.start;
                    self.merge.pass_covered_back(start, covering.seqno)?;
                }
            }
        }
        Ok(())
    }

    /// The newest visible version of `self.key`, on whose oldest version the merge stands. Leaves the merge on a
    /// version newer than that, or before the key.
    fn newest_visible_back(&mut self) -> Result<Option<(VersionKind, Bytes, SeqNo)>, TableError> {
        let mut newest = None;
        let mut steps = 0;
        while self.on_key() && self.merge.key().seqno <= self.at {
            if steps == STEPS_MAX {
                self.merge.seek(KeyRef::new(&self.key, self.at))?;
            }
            let seqno = self.merge.key().seqno;
            newest = Some((self.merge.kind(), self.merge.value(), seqno));
            if steps == STEPS_MAX {
                self.merge.seek_for_prev(KeyRef::before(&self.key))?;
                break;
            }
            self.merge.prev()?;
            steps += 1;
        }
        Ok(newest)
    }
}
