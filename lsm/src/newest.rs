//! The newest version of each key of a memtable, by hash: a lookup of the latest state needs no walk down the skip
//! list, whose two cache misses per step are most of what it costs.
//!
//! - I1: a key is here before its write is complete; so a key that is not here has no completed write in the memtable.
//! - I2: the slot of a key only moves to higher SeqNos, in whichever order writers come.
//! - I3: a reader at an older SeqNo than the slot's is sent to the skip list.
//!
//! Shards with a lock each, a leaf, held for a probe or an insert; readers of one shard do not exclude each other.

use crate::SeqNo;
use crate::table::VersionKind;
use bytes::Bytes;
use hashbrown::HashTable;
use parking_lot::RwLock;
use xxhash_rust::xxh3::xxh3_64;

const SHARDS: usize = 64;

/// Hash of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHash(u64);

impl KeyHash {
    #[inline]
    pub(crate) fn of(key: &[u8]) -> KeyHash {
        KeyHash(xxh3_64(key))
    }

    /// Neither the lowest nor the highest bits: the table within the shard goes by those.
    fn shard(self) -> usize {
        (self.0 >> 32) as usize % SHARDS
    }
}

/// A version: what it is, and its key with the value behind it.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    hash: u64,
    pub seqno: SeqNo,
    pub key_len: u32,
    pub kind: VersionKind,
    pub data: Bytes,
}

impl Slot {
    fn key(&self) -> &[u8] {
        &self.data[..self.key_len as usize]
    }
}

/// On a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Shard(RwLock<HashTable<Slot>>);

/// See the module.
pub(crate) struct Newest {
    shards: [Shard; SHARDS],
}

/// What the index knows about a key at a SeqNo.
pub(crate) enum Known {
    /// No version in the memtable.
    Nothing,
    /// This is the newest there, and visible.
    Version(SeqNo, VersionKind, Bytes),
    /// The newest is too new: ask the skip list.
    Newer,
}

impl Newest {
    pub(crate) fn new() -> Newest {
        Newest {
            shards: std::array::from_fn(|_| Shard::default()),
        }
    }

    /// Takes note of a version.
    pub(crate) fn put(
        &self,
        hash: KeyHash,
        seqno: SeqNo,
        kind: VersionKind,
        key_len: u32,
        data: Bytes,
    ) {
        let slot = Slot {
            hash: hash.0,
            seqno,
            key_len,
            kind,
            data,
        };
        let mut shard = self.shards[hash.shard()].0.write();
        match shard.find_mut(hash.0, |s| s.key() == slot.key()) {
            Some(found) if found.seqno < seqno => *found = slot,
            Some(_) => {}
            None => {
                shard.insert_unique(hash.0, slot, |s| s.hash);
            }
        }
    }

    /// Looks a key up for a reader at `at` (inclusive).
    #[inline]
    pub(crate) fn get(&self, hash: KeyHash, key: &[u8], at: SeqNo) -> Known {
        let shard = self.shards[hash.shard()].0.read();
        match shard.find(hash.0, |s| s.key() == key) {
            None => Known::Nothing,
            Some(slot) if slot.seqno <= at => Known::Version(
                slot.seqno,
                slot.kind,
                slot.data.slice(slot.key_len as usize..),
            ),
            Some(_) => Known::Newer,
        }
    }
}
