//! Writes a table, streaming.
use super::{KeyRef, Properties, TableContext, TableError, VersionKind};
use crate::iter::RangeTombstone;
use std::path::Path;

/// How tables are written.
#[derive(Clone, Debug)]
pub struct TableOptions {
    /// Uncompressed bytes of a data block. Smaller: less to read and decode per lookup; larger: better
    /// compression, smaller index. Default 4 KiB.
    pub block_bytes: usize,
    /// Bits of Bloom filter per key; 0 writes none. Default 10 (one lookup of a missing key in a hundred reads a block).
    pub bloom_bits_per_key: u32,
    /// Compress blocks with LZ4 where it saves an eighth at least. Default true.
    pub compress: bool,
}

/// Writes a table: entries in order, range tombstones at any time, then [`TableBuilder::finish`].
#[derive(Debug)]
pub struct TableBuilder {}
impl TableBuilder {
    /// Creates the file `path`, which must not exist, as table number `file`.
    pub fn create(
        context: &TableContext,
        path: &Path,
        file: u64,
        options: TableOptions,
    ) -> Result<Self, TableError> {
        todo!()
    }
    /// Adds a version behind all before it (T1). `value` is empty for a delete.
    pub fn add(
        &mut self,
        key: KeyRef<'_>,
        kind: VersionKind,
        value: &[u8],
    ) -> Result<(), TableError> {
        todo!()
    }
    /// Adds a range tombstone, in any order, before or after points. Fragments as given by
    /// [`crate::iter::RangeTombstones`], clipped to this table, serve best.
    pub fn add_range(&mut self, tombstone: RangeTombstone) -> Result<(), TableError> {
        todo!()
    }
    /// Nothing added yet?
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    /// Bytes that the file would have if finished now, nearly: to decide where to split.
    pub fn estimated_bytes(&self) -> u64 {
        todo!()
    }
    /// Writes what is left and syncs the file (not its directory). Gives its properties and its bytes.
    /// The table must not be empty.
    pub fn finish(self) -> Result<(Properties, u64), TableError> {
        todo!()
    }
    /// Gives up: closes and removes the file.
    pub fn abandon(self) {
        todo!()
    }
}
