//! Lookups.
//!
//! A lookup takes no lock: it loads the view, asks the memtables from the newest to the oldest, then the tables.
//! The first that says something about the key decides (V3), because each holds newer writes than the next.

use super::{Inner, View};
use crate::memtable::{Hit, KeyHash};
use crate::snapshot::Snapshot;
use crate::{SeqNo, StoreError};
use bytes::Bytes;

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The value, if the key is there.
    pub value: Option<Bytes>,
    /// SeqNo of what decided: the version, or the tombstone (point or range) behind a miss; zero for nothing at all.
    pub seqno: SeqNo,
}

const NOTHING: Found = Found {
    value: None,
    seqno: SeqNo(0),
};

impl View {
    pub(super) fn get(&self, key: &[u8], at: SeqNo) -> Result<Found, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        let found = |hit: Hit| Found {
            value: hit.value,
            seqno: hit.seqno,
        };
        let hash = KeyHash::of(key);
        for mem in &self.mems {
            if let Some(hit) = mem.get(key, hash, at) {
                return Ok(found(hit));
            }
        }
        Ok(self.levels.get(key, at)?.map_or(NOTHING, found))
    }
}

impl Inner {
    #[inline]
    pub(super) fn prefetch(&self, soon: Option<&[u8]>, now: Option<&[u8]>) {
        let view = self.view.load();
        // Older memtables are not asked for: most keys that are found are in the newest.
        let Some(mem) = view.mems.first() else {
            return;
        };
        if let Some(key) = soon {
            mem.prefetch(KeyHash::of(key));
        }
        if let Some(key) = now {
            mem.prefetch_more(KeyHash::of(key));
        }
    }

    #[inline]
    pub(super) fn get(&self, key: &[u8]) -> Result<Found, StoreError> {
        self.view.load().get(key, SeqNo::MAX)
    }

    pub(super) fn get_at(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Found, StoreError> {
        debug_assert!(
            snapshot.is_of(&self.snapshots),
            "a snapshot of another store"
        );
        match snapshot.at() {
            // The view is loaded after the snapshot was taken: whatever was dropped before that was not needed.
            Some(at) => self.view.load().get(key, at),
            None if self.view.load().closed => Err(StoreError::Closed),
            None => Ok(NOTHING),
        }
    }
}
