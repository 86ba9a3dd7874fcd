//! Many cursors as one: a heap of those that stand on an entry, the next one on top.
//!
//! - MC1: walking forward, every source in the heap stands on its first entry at or behind the current one; walking
//!   backward, on its last at or before. A change of direction puts the others there again.
//! - MC2: of equal entries, the earlier source's comes first forward, last backward.

use super::Cursor;
use crate::SeqNo;
use crate::table::{KeyRef, TableError, VersionKind};
use bytes::Bytes;
use std::cmp::Ordering;
use std::fmt;

/// Merges cursors, both ways. Of equal entries the earlier source's comes first.
pub struct MergeCursor {
    sources: Vec<Box<dyn Cursor>>,
    /// Sources on an entry; the current one on top.
    heap: Vec<usize>,
    forward: bool,
    /// For keys that must outlive a move.
    scratch: Vec<u8>,
}

impl fmt::Debug for MergeCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MergeCursor")
            .field("sources", &self.sources.len())
            .field("heap", &self.heap)
            .field("forward", &self.forward)
            .finish_non_exhaustive()
    }
}

impl MergeCursor {
    /// Merges `sources`, newest first.
    #[must_use]
    pub fn new(sources: Vec<Box<dyn Cursor>>) -> Self {
        Self {
            heap: Vec::with_capacity(sources.len()),
            sources,
            forward: true,
            scratch: Vec::new(),
        }
    }

    fn current(&self) -> &dyn Cursor {
        let top = self.heap.first().expect("the cursor stands on an entry");
        &*self.sources[*top]
    }

    /// Whether source `a` comes before source `b`, the way we walk.
    #[inline]
    fn before(&self, a: usize, b: usize) -> bool {
        let order = self.sources[a].key().cmp(&self.sources[b].key());
        let order = order.then(a.cmp(&b));
        order
            == if self.forward {
                Ordering::Less
            } else {
                Ordering::Greater
            }
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let mut child = 2 * at + 1;
            if child >= self.heap.len() {
                return;
            }
            if child + 1 < self.heap.len() && self.before(self.heap[child + 1], self.heap[child]) {
                child += 1;
            }
            if !self.before(self.heap[child], self.heap[at]) {
                return;
            }
            self.heap.swap(at, child);
            at = child;
        }
    }

    fn rebuild(&mut self) {
        self.heap.clear();
        let sources = &self.sources;
        self.heap
            .extend((0..sources.len()).filter(|n| sources[*n].valid()));
        for at in (0..self.heap.len() / 2).rev() {
            self.sift_down(at);
        }
    }

    /// Moves every source, then builds the heap. After an error no source counts.
    fn move_all(
        &mut self,
        forward: bool,
        mut go: impl FnMut(usize, &mut dyn Cursor) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        self.heap.clear();
        self.forward = forward;
        for (n, source) in self.sources.iter_mut().enumerate() {
            go(n, &mut **source)?;
        }
        self.rebuild();
        Ok(())
    }

    /// Moves the current source on and puts it in its place.
    #[inline]
    fn step(
        &mut self,
        go: impl FnOnce(&mut dyn Cursor) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        let top = self.heap[0];
        let source = &mut self.sources[top];
        if let Err(error) = go(&mut **source) {
            self.heap.clear();
            return Err(error);
        }
        if !source.valid() {
            self.heap.swap_remove(0);
        }
        self.sift_down(0);
        Ok(())
    }

    /// As [`Cursor::pass_covered`], backward: keys from the current one down to `start`.
    pub(crate) fn pass_covered_back(
        &mut self,
        start: &[u8],
        seqno: SeqNo,
    ) -> Result<bool, TableError> {
        debug_assert!(!self.valid() || !self.forward);
        self.skip(|source| {
            if source.newest() >= seqno || source.key().user < start {
                return Ok(false);
            }
            source.seek_for_prev(KeyRef::before(start))?;
            Ok(true)
        })
    }

    fn skip(
        &mut self,
        mut go: impl FnMut(&mut dyn Cursor) -> Result<bool, TableError>,
    ) -> Result<bool, TableError> {
        let (mut moved, mut top_moved) = (false, false);
        for (place, n) in self.heap.iter().enumerate() {
            match go(&mut *self.sources[*n]) {
                Ok(this) => {
                    moved |= this;
                    top_moved |= this && place == 0;
                }
                Err(error) => {
                    self.heap.clear();
                    return Err(error);
                }
            }
        }
        if moved {
            self.rebuild();
        }
        Ok(top_moved)
    }

    /// Puts all sources but the current one to where they belong in the other direction (MC1).
    fn turn(&mut self) -> Result<(), TableError> {
        let current = self.heap[0];
        let mut user = std::mem::take(&mut self.scratch);
        let key = self.sources[current].key();
        user.clear();
        user.extend_from_slice(key.user);
        let key = KeyRef::new(&user, key.seqno);
        let forward = !self.forward;
        let result = self.move_all(forward, |n, source| {
            if n == current {
                return Ok(());
            }
            if forward {
                source.seek(key)?;
                if n < current && source.valid() && source.key() == key {
                    source.next()?;
                }
            } else {
                source.seek_for_prev(key)?;
                if n > current && source.valid() && source.key() == key {
                    source.prev()?;
                }
            }
            Ok(())
        });
        self.scratch = user;
        result?;
        debug_assert!(self.heap[0] == current);
        Ok(())
    }
}

impl Cursor for MergeCursor {
    fn valid(&self) -> bool {
        !self.heap.is_empty()
    }

    fn key(&self) -> KeyRef<'_> {
        self.current().key()
    }

    fn kind(&self) -> VersionKind {
        self.current().kind()
    }

    fn value(&self) -> Bytes {
        self.current().value()
    }

    fn value_ref(&self) -> &[u8] {
        self.current().value_ref()
    }

    fn newest(&self) -> SeqNo {
        let newest = self.sources.iter().map(|s| s.newest()).max();
        newest.unwrap_or(SeqNo(0))
    }

    fn reset(&mut self) {
        self.heap.clear();
        self.sources.iter_mut().for_each(|s| s.reset());
    }

    fn seek_to_first(&mut self) -> Result<(), TableError> {
        self.move_all(true, |_, source| source.seek_to_first())
    }

    fn seek_to_last(&mut self) -> Result<(), TableError> {
        self.move_all(false, |_, source| source.seek_to_last())
    }

    fn seek(&mut self, target: KeyRef<'_>) -> Result<(), TableError> {
        self.move_all(true, |_, source| source.seek(target))
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<(), TableError> {
        self.move_all(false, |_, source| source.seek_for_prev(target))
    }

    fn next(&mut self) -> Result<(), TableError> {
        if !self.forward {
            self.turn()?;
        }
        self.step(|source| source.next())
    }

    fn prev(&mut self) -> Result<(), TableError> {
        if self.forward {
            self.turn()?;
        }
        self.step(|source| source.prev())
    }

    /// Moves the sources that hold nothing newer than the tombstone.
    fn pass_covered(&mut self, end: &[u8], seqno: SeqNo) -> Result<bool, TableError> {
        debug_assert!(!self.valid() || self.forward);
        self.skip(|source| {
            if source.newest() >= seqno || (!end.is_empty() && source.key().user >= end) {
                return Ok(false);
            }
            if end.is_empty() {
                source.reset();
            } else {
                source.seek(KeyRef::before(end))?;
            }
            Ok(true)
        })
    }
}
