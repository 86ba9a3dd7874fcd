//! Reads a table.
use super::{BlockCache, Properties, TableCursor, TableError, Version};
use crate::SeqNo;
use crate::iter::RangeTombstones;
use esker_wal::LogId;
use esker_wal::media::Media;
use std::path::Path;
use std::sync::Arc;

/// What the tables of one store have in common. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TableContext {
    /// Where files live.
    pub media: Arc<dyn Media>,
    /// The store's log, which seeds the checksums.
    pub log: LogId,
    /// Blocks in memory.
    pub cache: Arc<BlockCache>,
}

/// How a cursor reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// Through the cache, which keeps what was read.
    #[default]
    Cached,
    /// Once through, as compaction does: reads ahead, leaves the cache as it is.
    Once,
}

/// An open table. Holds its file open; cursors hold the table.
#[derive(Debug)]
pub struct Table {}
impl Table {
    /// Opens table number `file` at `path`: verifies footer, properties, index, filter and range tombstones.
    pub fn open(context: &TableContext, path: &Path, file: u64) -> Result<Arc<Table>, TableError> {
        todo!()
    }
    /// Number of its file.
    pub fn file(&self) -> u64 {
        todo!()
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        todo!()
    }
    /// Bytes of its file.
    pub fn file_bytes(&self) -> u64 {
        todo!()
    }
    /// Bytes of memory that it holds while open (index, filter, range tombstones), besides the cache.
    pub fn memory_bytes(&self) -> u64 {
        todo!()
    }
    /// What it says about itself.
    pub fn properties(&self) -> &Properties {
        todo!()
    }
    /// Its range tombstones, fragmented. The point lookups and cursors of a table do not apply them.
    pub fn ranges(&self) -> &Arc<RangeTombstones> {
        todo!()
    }
    /// The newest point version of `key` at or below `at`. Range tombstones are the caller's to apply.
    pub fn get(&self, key: &[u8], at: SeqNo) -> Result<Option<Version>, TableError> {
        todo!()
    }
    /// A cursor over its point versions, on no entry yet.
    pub fn cursor(self: &Arc<Self>, mode: ReadMode) -> TableCursor {
        todo!()
    }
    /// Reads and verifies every block, and that entries are in order and as many as the properties say.
    pub fn verify(self: &Arc<Self>) -> Result<(), TableError> {
        todo!()
    }
}
