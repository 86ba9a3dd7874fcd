//! Skeleton of the public API.
use bytes::Bytes;
use esker_wal::{Log, LogError, LogOptions, Lsn, OpenError as LogOpenError, WatchGuard, Watcher};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Order of visibility: the frame's LSN plus the operation's ordinal in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqNo(pub u64);

/// Operations that take effect together: one frame.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {}
impl WriteBatch {
    /// Empty.
    pub fn new() -> Self {
        todo!()
    }
    /// Sets a key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let _ = (key, value);
        todo!()
    }
    /// Sets a key to the concatenation of `parts`, without an intermediate copy by the caller.
    pub fn put_parts(&mut self, key: &[u8], parts: &[&[u8]]) {
        let _ = (key, parts);
        todo!()
    }
    /// Deletes a key.
    pub fn delete(&mut self, key: &[u8]) {
        let _ = key;
        todo!()
    }
    /// Deletes `start..end`.
    pub fn delete_range(&mut self, start: &[u8], end: Bound<&[u8]>) {
        let _ = (start, end);
        todo!()
    }
    /// Operations.
    pub fn len(&self) -> usize {
        todo!()
    }
    /// None?
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    /// Bytes of the frame's payload.
    pub fn encoded_len(&self) -> usize {
        todo!()
    }
    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        todo!()
    }
}

/// What a write got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// SeqNo of its first operation, the frame's LSN.
    pub first: SeqNo,
    /// SeqNo of its last operation.
    pub last: SeqNo,
    /// End of its frame: durable when the log's `synced` has reached it.
    pub end: Lsn,
}

/// What a lookup found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The value, if the key is there.
    pub value: Option<Bytes>,
    /// SeqNo of what decided: the version, or the tombstone (point or range) behind a miss; zero for nothing at all.
    pub seqno: SeqNo,
}

/// Options of a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The log's options; its directory is `DIR/log`.
    pub log: LogOptions,
    /// Bytes of one memtable. Default 64 MiB.
    pub memtable_bytes: usize,
    /// Immutable memtables before writers stop. Default 4.
    pub memtables_max: usize,
    /// Uncompressed bytes of a data block. Default 4 KiB.
    pub block_bytes: usize,
    /// Bytes of block cache. Default 256 MiB.
    pub cache_bytes: u64,
    /// Bits of Bloom filter per key. Default 10.
    pub bloom_bits_per_key: u32,
    /// Target bytes of a table. Default 64 MiB.
    pub table_bytes: u64,
    /// L0 tables that start a compaction, slow writers down, stop them. Default 4, 12, 20.
    pub l0_tables: (usize, usize, usize),
    /// Bytes of L1; each further level ten times. Default 256 MiB.
    pub level_base_bytes: u64,
}
impl Default for StoreOptions {
    fn default() -> Self {
        todo!()
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "skeleton")]
pub enum OpenError {
    #[error(transparent)]
    Log(#[from] LogOpenError),
    #[error("{path}: {what}")]
    Corrupt { path: PathBuf, what: String },
    #[error("{doing} {path}: {source}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
}

/// Why an operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "skeleton")]
pub enum StoreError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("no room: writers are held until memtables are flushed; try again")]
    Busy,
    #[error("the store is closed")]
    Closed,
    #[error("{path}: damaged at offset {offset}: {what}")]
    Corrupt {
        path: PathBuf,
        offset: u64,
        what: String,
    },
    /// A worker failed; writes are refused, reads go on (L6).
    #[error("writes are refused since {doing} failed: {cause}")]
    Background { doing: &'static str, cause: String },
    #[error("{doing} {path}: {source}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: Arc<std::io::Error>,
    },
}

/// What open found.
#[derive(Clone, Debug)]
pub struct StoreRecovered {
    /// The log's part.
    pub log: esker_wal::Recovered,
    /// Live tables.
    pub tables: usize,
    /// Frames replayed from the log into memory.
    pub replayed_frames: u64,
    /// LSN from which the log was replayed.
    pub replayed_from: Lsn,
}

/// A store; clones are handles, `close` or the last drop ends it.
#[derive(Clone, Debug)]
pub struct Store {}

/// A view at one SeqNo; holds back compaction while it lives. Owned.
#[derive(Clone, Debug)]
pub struct Snapshot {}
impl Snapshot {
    /// Sees operations below this.
    pub fn seqno(&self) -> SeqNo {
        todo!()
    }
}

/// An owned iterator over a range at a snapshot; walks from both ends (not past each other).
#[derive(Debug)]
pub struct Scan {}
/// A key, its value, and the SeqNo of the version.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Key.
    pub key: Bytes,
    /// Value.
    pub value: Bytes,
    /// SeqNo of the version.
    pub seqno: SeqNo,
}
impl Iterator for Scan {
    type Item = Result<Entry, StoreError>;
    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
impl DoubleEndedIterator for Scan {
    fn next_back(&mut self) -> Option<Self::Item> {
        todo!()
    }
}

/// Numbers about a store.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "skeleton")]
pub struct StoreStats {
    pub memtable_bytes: u64,
    pub immutable_memtables: u64,
    pub tables_per_level: Vec<u64>,
    pub bytes_per_level: Vec<u64>,
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub cache_bytes: u64,
    pub flushes: u64,
    pub compactions: u64,
    pub bytes_flushed: u64,
    pub bytes_compacted: u64,
    pub write_stalls: u64,
    pub estimated_keys: u64,
    pub background_error: Option<String>,
}

impl Store {
    /// Opens or creates (when `options.log.create` is set) the store in `dir`.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<(Store, StoreRecovered), OpenError> {
        let _ = (dir, options);
        todo!()
    }
    /// Writes a batch: on return it is published and visible; wait with `log().sync_up_to(written.end)`.
    /// Blocks for room.
    pub fn write(&self, batch: &WriteBatch) -> Result<Written, StoreError> {
        let _ = batch;
        todo!()
    }
    /// As `write`, but `Busy` where it would block.
    pub fn try_write(&self, batch: &WriteBatch) -> Result<Written, StoreError> {
        let _ = batch;
        todo!()
    }
    /// Whether a `try_write` of `bytes` would find room now (not a promise when several threads write).
    pub fn has_room(&self, bytes: usize) -> bool {
        let _ = bytes;
        todo!()
    }
    /// Calls `watcher` when room came back after `Busy`. Must not block.
    pub fn watch_room(&self, watcher: Watcher) -> WatchGuard {
        let _ = watcher;
        todo!()
    }
    /// Replica: applies a data frame already appended to the log. Frames in LSN order, each once; void and
    /// control frames too (they only move `visible`).
    pub fn apply_replicated(
        &self,
        header: &esker_wal::frame::Header,
        payload: &[u8],
    ) -> Result<(), StoreError> {
        let _ = (header, payload);
        todo!()
    }
    /// Everything below is inserted and readable.
    pub fn visible(&self) -> Lsn {
        todo!()
    }
    /// Newest version of a key, latest applied state (may be newer than `visible`: it sees inserts as they are made).
    pub fn get(&self, key: &[u8]) -> Result<Found, StoreError> {
        let _ = key;
        todo!()
    }
    /// A key at a snapshot.
    pub fn get_at(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Found, StoreError> {
        let _ = (snapshot, key);
        todo!()
    }
    /// A snapshot of what is visible now.
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }
    /// A snapshot at an older position, which must not be below what compaction keeps: `None` then.
    pub fn snapshot_at(&self, below: Lsn) -> Option<Snapshot> {
        let _ = below;
        todo!()
    }
    /// Keeps versions readable at `below` and later from compaction (the safe position). Moves forward only.
    pub fn keep_from(&self, below: Lsn) {
        let _ = below;
        todo!()
    }
    /// Iterates a range at a snapshot.
    pub fn scan(
        &self,
        snapshot: &Snapshot,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> Result<Scan, StoreError> {
        let _ = (snapshot, start, end);
        todo!()
    }
    /// The log under the store.
    pub fn log(&self) -> &Log {
        todo!()
    }
    /// Rotates the memtable and waits until it is in tables.
    pub fn flush(&self) -> Result<(), StoreError> {
        todo!()
    }
    /// Compacts everything, waits.
    pub fn compact_all(&self) -> Result<(), StoreError> {
        todo!()
    }
    /// Numbers.
    pub fn stats(&self) -> StoreStats {
        todo!()
    }
    /// Stepped workers: one piece of background work; false when there is none.
    pub fn step(&self) -> bool {
        todo!()
    }
    /// Closes: stops workers, syncs and closes the log; memtables are rebuilt from it at the next open.
    pub fn close(&self) -> Result<(), StoreError> {
        todo!()
    }
}
