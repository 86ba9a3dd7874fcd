//! Blocks in memory, of all tables of a store.

/// Blocks in memory, keyed by (file number, offset), weighted by bytes.
#[derive(Debug)]
pub struct BlockCache {}
impl BlockCache {
    /// A cache of `capacity_bytes`.
    pub fn new(capacity_bytes: u64) -> Self {
        todo!()
    }
    /// Numbers.
    pub fn stats(&self) -> CacheStats {
        todo!()
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
}
