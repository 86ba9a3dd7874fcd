//! What commands have done since the last commit, over the store: the next command sees it, readers do not.
//!
//! - EF1: a key that was written stands in `keys`, with its value or without; it outranks `ranges`. A key in one of `ranges` and not in
//!   `keys` is gone; any other is as in the store.

use super::{LOCKS, OPS_MAX, USER, index_of, key_of};
use crate::core::Index;
use crate::runtime::MachineError;
use bytes::Bytes;
use esker_lsm::{Store, WriteBatch};
use std::collections::BTreeMap;
use std::ops::Bound;

/// What is to be written at one index.
#[derive(Debug)]
pub(super) struct At {
    pub index: Index,
    pub batch: WriteBatch,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// With the entry that set it.
    keys: BTreeMap<Vec<u8>, Option<(Bytes, Index)>>,
    /// `start..end`; no end when it is empty.
    ranges: Vec<(Vec<u8>, Vec<u8>)>,
    pub entries: Vec<At>,
    /// Bytes of all batches.
    pub bytes: usize,
    /// Empty batches, with memory for the next entries.
    spare: Vec<WriteBatch>,
}

/// Batches that are kept for their memory, and what each may have of it.
const SPARE_MAX: usize = 1024;
const SPARE_BYTES: usize = 1 << 10;

impl Overlay {
    fn covered(&self, key: &[u8]) -> bool {
        let over = |(start, end): &(Vec<u8>, Vec<u8>)| {
            start.as_slice() <= key && (end.is_empty() || key < end.as_slice())
        };
        self.ranges.iter().any(over)
    }

    /// Everything is in the store now, or nowhere.
    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.ranges.clear();
        self.bytes = 0;
        for mut at in self.entries.drain(..) {
            if self.spare.len() < SPARE_MAX && at.batch.encoded_len() <= SPARE_BYTES {
                at.batch.clear();
                self.spare.push(at.batch);
            }
        }
    }

    /// The batch at `index`, which is the last so far or a new one.
    pub(super) fn batch(&mut self, index: Index) -> &mut WriteBatch {
        if self.entries.last().is_none_or(|at| at.index != index) {
            let batch = self.spare.pop().unwrap_or_default();
            self.entries.push(At { index, batch });
        }
        &mut self.entries.last_mut().expect("just pushed").batch
    }

    fn write(&mut self, index: Index, write: impl FnOnce(&mut WriteBatch)) {
        let batch = self.batch(index);
        let before = batch.encoded_len();
        write(batch);
        let added = batch.encoded_len() - before;
        self.bytes += added;
    }
}

/// The state as a command sees it, and what it does to it. Keys are the application's own.
#[derive(Debug)]
pub struct Effects<'a> {
    pub(super) store: &'a Store,
    pub(super) overlay: &'a mut Overlay,
    pub(super) index: Index,
}

/// End of the application's keys.
pub(super) const USER_END: &[u8] = &[USER + 1];

impl Effects<'_> {
    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MachineError> {
        let key = key_of(USER, key);
        Ok(self.find(&key)?.map(|(value, _)| value))
    }

    /// The entry that set a key last; `None` where the key is not there. The same on all nodes, also behind snapshots and restarts, as it is part of
    /// the state (LM1).
    pub fn written(&self, key: &[u8]) -> Result<Option<Index>, MachineError> {
        Ok(self.find(&key_of(USER, key))?.map(|(_, index)| index))
    }

    fn find(&self, key: &[u8]) -> Result<Option<(Bytes, Index)>, MachineError> {
        if let Some(value) = self.overlay.keys.get(key) {
            return Ok(value.clone());
        }
        if self.overlay.covered(key) {
            return Ok(None);
        }
        let found = (self.store.get(key)).map_err(|e| MachineError::new("reading a key", e))?;
        Ok(found.value.map(|value| (value, index_of(found.seqno))))
    }

    /// The first `limit` keys from `start` on and below `end` (none: to the last), with their values.
    pub fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
        self.scan_in(USER, start, end, limit)
    }

    fn scan_in(
        &self,
        space: u8,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
        let failed = |e| MachineError::new("scanning keys", e);
        let start = key_of(space, start);
        let end = end.map_or(vec![space + 1], |end| key_of(space, end));
        let mut out = Vec::new();
        if start >= end {
            return Ok(out);
        }
        let bounds = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
        let snapshot = self.store.snapshot();
        let mut stored = (self.store.scan(&snapshot, bounds.0, bounds.1))
            .map_err(failed)?
            .peekable();
        let mut written = self.overlay.keys.range::<[u8], _>(bounds).peekable();
        while out.len() < limit {
            let below = match (stored.peek(), written.peek()) {
                (None, None) => break,
                (Some(Err(_)), _) => true,
                (Some(Ok(entry)), Some((key, _))) => entry.key[..] < key[..],
                (Some(_), None) => true,
                (None, Some(_)) => false,
            };
            if below {
                let entry = stored.next().expect("just seen").map_err(failed)?;
                if !self.overlay.covered(&entry.key) {
                    out.push((entry.key.slice(1..), entry.value));
                }
                continue;
            }
            let (key, value) = written.next().expect("just seen");
            stored.next_if(|e| e.as_ref().is_ok_and(|e| e.key[..] == key[..]));
            if let Some((value, _)) = value {
                out.push((Bytes::copy_from_slice(&key[1..]), value.clone()));
            }
        }
        Ok(out)
    }

    /// Sets a key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_owned(key, Bytes::copy_from_slice(value));
    }

    /// Sets a key. `value` is kept until the commit, not copied.
    pub fn put_owned(&mut self, key: &[u8], value: Bytes) {
        self.put_in(USER, key, value);
    }

    fn put_in(&mut self, space: u8, key: &[u8], value: Bytes) {
        let key = key_of(space, key);
        (self.overlay).write(self.index, |batch| batch.put(&key, &value));
        self.overlay.keys.insert(key, Some((value, self.index)));
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: &[u8]) {
        self.delete_in(USER, key);
    }

    fn delete_in(&mut self, space: u8, key: &[u8]) {
        let key = key_of(space, key);
        (self.overlay).write(self.index, |batch| batch.delete(&key));
        self.overlay.keys.insert(key, None);
    }

    /// Deletes every key from `start` on and below `end` (none: to the last).
    pub fn delete_range(&mut self, start: &[u8], end: Option<&[u8]>) {
        let start = key_of(USER, start);
        let end = end.map_or(USER_END.to_vec(), |end| key_of(USER, end));
        if start >= end {
            return;
        }
        (self.overlay).write(self.index, |batch| {
            batch.delete_range(&start, Bound::Excluded(&end));
        });
        let keys = &mut self.overlay.keys;
        let mut behind = keys.split_off(&start);
        keys.append(&mut behind.split_off(&end));
        self.overlay.ranges.push((start, end));
    }

    /// The first `limit` keys of the locks from `start` on.
    pub(crate) fn scan_locks(
        &self,
        start: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
        self.scan_in(LOCKS, start, None, limit)
    }

    pub(crate) fn put_lock(&mut self, key: &[u8], value: &[u8]) {
        self.put_in(LOCKS, key, Bytes::copy_from_slice(value));
    }

    pub(crate) fn delete_lock(&mut self, key: &[u8]) {
        self.delete_in(LOCKS, key);
    }

    /// How many operations this command may still do. One that does more stops the node: refuse it before.
    #[must_use]
    pub fn room(&self) -> usize {
        let last = self.overlay.entries.last();
        let done = last.filter(|at| at.index == self.index);
        OPS_MAX.saturating_sub(done.map_or(0, |at| at.batch.len()))
    }
}
