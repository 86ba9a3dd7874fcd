//! Blocks in memory, of all tables of a store.
//!
//! - CA1: a block in the cache was verified when it was read (L4).
//! - CA2: the bytes held stay at or below the capacity; a block larger than a shard's share is not kept.
//!
//! File numbers are never used again (L3), so a block never has to be taken out for being wrong.

use super::block::Block;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    file: u64,
    offset: u64,
}

#[derive(Clone, Debug)]
struct ByBytes;

/// What an entry costs beside its block: place, links, a slot of the hash table.
const ENTRY_BYTES: u64 = 64;

impl Weighter<Place, Block> for ByBytes {
    fn weight(&self, _: &Place, block: &Block) -> u64 {
        block.memory_bytes() as u64 + ENTRY_BYTES
    }
}

/// Blocks in memory, keyed by (file number, offset), weighted by bytes.
pub struct BlockCache {
    blocks: Cache<Place, Block, ByBytes>,
    // Counts for people; they order nothing, so Relaxed will do.
    hits: AtomicU64,
    misses: AtomicU64,
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockCache")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Numbers about a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Lookups that found their block.
    pub hits: u64,
    /// Lookups that read it from disk.
    pub misses: u64,
    /// Bytes held.
    pub bytes: u64,
    /// Bytes that may be held.
    pub capacity_bytes: u64,
}

impl BlockCache {
    /// A cache of `capacity_bytes`; 0 keeps nothing.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        // A guess at how many blocks will fit, to size the tables; wrong guesses only cost a little.
        let blocks = (capacity_bytes / 4096).clamp(16, 1 << 22) as usize;
        Self {
            blocks: Cache::with_weighter(blocks, capacity_bytes, ByBytes),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Numbers.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes: self.blocks.weight(),
            capacity_bytes: self.blocks.capacity(),
        }
    }

    #[inline]
    pub(crate) fn get(&self, file: u64, offset: u64) -> Option<Block> {
        let found = self.blocks.get(&Place { file, offset });
        let counter = if found.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// As `get`, without counting or keeping it longer: for readers that pass through once.
    pub(crate) fn peek(&self, file: u64, offset: u64) -> Option<Block> {
        self.blocks.peek(&Place { file, offset })
    }

    pub(crate) fn insert(&self, file: u64, offset: u64, block: Block) {
        self.blocks.insert(Place { file, offset }, block);
    }
}
