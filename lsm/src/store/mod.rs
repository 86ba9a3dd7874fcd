//! The store: one log, memtables, tables, and the workers between them.
//!
//! - `write`: book room, reserve, publish, insert, visible in order.
//! - `read`: get, get_at, scan, on a [`View`] that is swapped whole.
//! - `flush`: a frozen memtable becomes a table of L0.
//! - `compact`: tables move down the levels.
//! - `open`: reads the manifest, replays the log.
//! - `journal`: the store's own log, or one that its caller keeps; `external`: applies the entries of such a one.
//! - `condition`: writes that depend on values; `checkpoint`: the tables under a second name.
//! - `room`: when writers go slower, and when they stop.
//! - `workers`: the threads, or `step`.
//!
//! Locks, in the order in which they are taken:
//!
//! | rank | lock | guards | while held |
//! |---|---|---|---|
//! | 1 | `compacting` | one compaction at a time | everything a compaction does: reads, writes, syncs |
//! | 2 | `flushing` | one flush at a time, oldest first | syncs the log, writes a table |
//! | 3 | `manifest` | the manifest, file numbers, and that edits take effect in its order | appends to and syncs the manifest; links tables |
//! | 4 | `install` | that views are swapped one after the other | `Journal::at_boundary`; nothing blocking |
//! | 5 | `applying` | that entries of an external log are applied one after the other | reads for conditions, inserts |
//! | 6 | sequencer, snapshots, failure, room, doubtful | their own | nothing |
//!
//! Writers and readers take none of 1-3; 5 is there with an external log alone. A writer that finds its memtable full takes 4, before it has an LSN.

mod checkpoint;
mod compact;
mod condition;
mod external;
mod flush;
mod journal;
mod leisure;
mod open;
mod output;
mod read;
mod remains;
mod room;
mod scan;
mod workers;
mod write;

pub use checkpoint::{Checkpoint, remove_checkpoint};
pub use condition::{Condition, Conditional};
pub use external::EntryBatch;
pub use journal::ExternalLog;
pub use read::Found;
pub use room::RoomGuard;
pub use scan::{Entry, Scan};
pub use write::Written;

use crate::levels::Levels;
use crate::manifest::Manifest;
use crate::memtable::MemTable;
use crate::sequencer::Sequencer;
use crate::snapshot::{Snapshot, Snapshots};
use crate::table::{TableContext, TableOptions};
use crate::{OpenError, SeqNo, StoreError, StoreOptions, WriteBatch};
use arc_swap::ArcSwap;
use bytes::Bytes;
use esker_sync::skiplist::Chunks;
use esker_wal::{EpochStart, Log, Lsn, Watcher};
use journal::Journal;
use parking_lot::Mutex;
use room::Room;
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use workers::Workers;

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

/// Numbers about a store, since open where they count events.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoreStats {
    /// Bytes of all memtables.
    pub memtable_bytes: u64,
    /// Bytes kept from flushed memtables for the next ones.
    pub memtable_spare_bytes: u64,
    /// Frozen memtables not yet in tables.
    pub immutable_memtables: u64,
    /// Tables, L0 first.
    pub tables_per_level: Vec<u64>,
    /// Bytes of tables, L0 first.
    pub bytes_per_level: Vec<u64>,
    /// Bytes of memory that open tables hold (indexes, filters), besides the cache.
    pub table_memory_bytes: u64,
    /// Block cache: found.
    pub cache_hits: u64,
    /// Block cache: read from disk.
    pub cache_misses: u64,
    /// Block cache: bytes held.
    pub cache_bytes: u64,
    /// Flushes done.
    pub flushes: u64,
    /// Compactions done.
    pub compactions: u64,
    /// Bytes of tables written by flushes.
    pub bytes_flushed: u64,
    /// Bytes of tables written by compactions.
    pub bytes_compacted: u64,
    /// Writes that were slowed down, stopped, or answered `Busy`.
    pub write_stalls: u64,
    /// Keys, about: versions that are no tombstones.
    pub estimated_keys: u64,
    /// Live snapshots.
    pub snapshots: u64,
    /// Why a worker failed (L6).
    pub background_error: Option<String>,
}

/// What readers read: the memtables, newest first, and the tables. Swapped whole.
#[derive(Debug)]
pub(crate) struct View {
    /// The first takes new writes; the others are frozen.
    pub mems: Vec<Arc<MemTable>>,
    pub levels: Arc<Levels>,
    /// Set in the empty view that stands in after close.
    pub closed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    flushes: AtomicU64,
    compactions: AtomicU64,
    bytes_flushed: AtomicU64,
    bytes_compacted: AtomicU64,
}

/// Why background work failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    doing: &'static str,
    cause: String,
    /// The disk is full: tried again, and forgotten when it works.
    heals: bool,
}

impl Failure {
    fn error(&self) -> StoreError {
        StoreError::Background {
            doing: self.doing,
            cause: self.cause.clone(),
            heals: self.heals,
        }
    }
}

pub(crate) struct Inner {
    dir: PathBuf,
    tables: PathBuf,
    options: StoreOptions,
    stepped: bool,
    journal: Journal,
    context: TableContext,
    table_options: TableOptions,

    view: ArcSwap<View>,
    /// Memtables in `view`, for the check that each write makes.
    mem_count: AtomicUsize,
    /// Tables of L0 in `view`, likewise.
    l0_count: AtomicUsize,
    /// Memory of flushed memtables, for the next.
    chunks: Arc<Chunks>,
    sequencer: Sequencer,
    /// Everything below is in tables that the manifest names, durably.
    durable: AtomicU64,
    snapshots: Arc<Snapshots>,
    room: Arc<Room>,
    counters: Counters,

    /// Wakes the flush and compaction workers; the room worker; who frees what is in `remains`.
    bell: workers::Bell,
    room_bell: workers::Bell,
    remains_bell: workers::Bell,
    remains: Mutex<remains::Remains>,

    /// So many wait for what is done in the background (LE2).
    hurried: AtomicUsize,
    compacting: Mutex<compact::Compacting>,
    flushing: Mutex<()>,
    manifest: Mutex<Manifest>,
    install: Mutex<()>,
    /// Tables of edits that may be durable or not (A4): removed once a new manifest stands.
    doubtful: Mutex<Vec<u64>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// A store; clones are handles, `close` or the last drop ends it.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
    workers: Arc<Workers>,
}

impl Store {
    /// Opens or creates (when `options.log.create` is set) the store in `dir`: its log in `dir/log`, its tables in
    /// `dir/tables`.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<(Store, StoreRecovered), OpenError> {
        let (inner, recovered) = Inner::open(dir, options)?;
        Ok((Store::start(dir, inner)?, recovered))
    }

    /// Opens or creates a store without a log of its own: its caller keeps one, and applies its entries from [`Store::durable`] on with
    /// [`Store::apply_entry`]. Of `options.log` it uses media, clock and workers.
    ///
    /// ```
    /// use esker_lsm::{ExternalLog, SeqNo, Store, StoreOptions, WriteBatch};
    /// use esker_wal::LogId;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let tmp = tempfile::tempdir()?;
    /// # let dir = tmp.path();
    /// // SeqNos of the entry at an index: the same on all nodes.
    /// let place = |index: u64| (SeqNo(index << 20), SeqNo((index + 1) << 20));
    /// let external = ExternalLog { id: LogId(1), base: place(1).0 };
    /// let store = Store::open_external(dir, StoreOptions::default(), external)?;
    /// let mut effects = WriteBatch::new();
    /// effects.put(b"apple", b"red");
    /// effects.put(b"applied", b"1");
    /// let (first, end) = place(1);
    /// store.apply_entry(first, end, &[], &effects)?;
    /// store.note_log_synced(end); // now it may go into tables
    /// store.flush()?;
    /// assert_eq!(store.durable(), end); // and now the caller's log may forget it
    /// # Ok(())
    /// # }
    /// ```
    pub fn open_external(
        dir: &Path,
        options: StoreOptions,
        external: ExternalLog,
    ) -> Result<Store, OpenError> {
        Store::start(dir, Inner::open_external(dir, options, external)?)
    }

    fn start(dir: &Path, inner: Inner) -> Result<Store, OpenError> {
        let inner = Arc::new(inner);
        let workers = Workers::start(&inner).map_err(|source| OpenError::Io {
            doing: "starting the workers of",
            path: dir.to_owned(),
            source,
        })?;
        Ok(Store {
            inner,
            workers: Arc::new(workers),
        })
    }

    /// External log: applies an entry, whose operations have the SeqNos from `first` on and below `end`, if all conditions hold. In
    /// order; what [`Store::visible`] has passed is refused. Whether they hold or not, `end` is visible then. Blocks for room.
    pub fn apply_entry(
        &self,
        first: SeqNo,
        end: SeqNo,
        conditions: &[Condition<'_>],
        batch: &WriteBatch,
    ) -> Result<Conditional, StoreError> {
        let entry = EntryBatch { first, end, batch };
        Ok(match self.inner.apply_entry(conditions, entry)? {
            condition::Verdict::Holds => Conditional::Written(Written {
                first,
                last: SeqNo((first.0 + batch.len() as u64).max(first.0 + 1) - 1),
                end: Lsn(end.0),
            }),
            condition::Verdict::Fails { condition, found } => {
                Conditional::Refused { condition, found }
            }
        })
    }

    /// External log: applies entries that follow each other as one: they become visible together, and what is found after a restart
    /// is the state before or behind all of them.
    pub fn apply_entries(&self, entries: &[EntryBatch<'_>]) -> Result<(), StoreError> {
        self.inner.apply(entries, &[]).map(drop)
    }

    /// External log: it is on stable storage up to here. Nothing above goes into tables (L3), so a caller that does not say so runs out of
    /// room. Moves forward only; ignored with a log of its own.
    pub fn note_log_synced(&self, upto: SeqNo) {
        if let Ok(external) = self.inner.journal.external() {
            external.note_synced(Lsn(upto.0));
            // Else nobody waits for it.
            if self.inner.mem_count.load(Ordering::Relaxed) > 1 {
                self.inner.wake_workers();
            }
        }
    }

    /// Everything below is in tables, durably: an external log is needed from here on. After an open that had no room for a manifest it is where
    /// the store began, until a flush or a compaction has found room.
    #[must_use]
    pub fn durable(&self) -> SeqNo {
        SeqNo(self.inner.durable.load(Ordering::Acquire))
    }

    /// Makes a consistent checkpoint of all that is visible in the directory `to`, on the same file system: it opens as a store, of the same kind and
    /// identity (one with a log of its own begins a new log at the checkpoint's end). Costs a flush, which takes its time
    /// ([`StoreOptions::background_rate`]), and a link per table. An incomplete one there is replaced, a complete one refused ([`remove_checkpoint`] removes it).
    pub fn checkpoint(&self, to: &Path) -> Result<Checkpoint, StoreError> {
        Ok(self.inner.checkpoint_and_read(to, None)?.0)
    }

    /// As [`Store::checkpoint`], and what the checkpoint holds under a key: while others write, what a lookup finds before or behind it may be
    /// older or newer.
    pub fn checkpoint_and_read(
        &self,
        to: &Path,
        key: &[u8],
    ) -> Result<(Checkpoint, Option<Bytes>), StoreError> {
        self.inner.checkpoint_and_read(to, Some(key))
    }

    /// Writes a batch: on return it is published and visible; wait with `log().sync_up_to(written.end)`.
    /// Blocks for room.
    pub fn write(&self, batch: &WriteBatch) -> Result<Written, StoreError> {
        self.inner.write(batch, true)
    }

    /// As `write`, but `Busy` where it would block for room.
    pub fn try_write(&self, batch: &WriteBatch) -> Result<Written, StoreError> {
        self.inner.write(batch, false)
    }

    /// Whether a `try_write` of `bytes` would find room now in the store (not a promise when several threads write, and the
    /// log has bounds of its own).
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.inner.has_room(bytes)
    }

    /// Calls `watcher` when room came back after `Busy`, in the store or in its log, and when the store fails or closes. It
    /// must not block.
    #[must_use = "dropped, the guard unregisters the watcher"]
    pub fn watch_room(&self, watcher: Watcher) -> RoomGuard {
        let of_log = match &self.inner.journal {
            Journal::Own(log) => Some(log.watch_room(watcher.clone())),
            Journal::External(_) => None,
        };
        self.inner.room.watch(watcher, of_log)
    }

    /// Replica: applies a frame already appended to the log. Frames in LSN order, each once; void and control frames
    /// too (they only move `visible`). Blocks for room.
    pub fn apply_replicated(
        &self,
        header: &esker_wal::frame::Header,
        payload: &[u8],
    ) -> Result<(), StoreError> {
        self.inner.apply_replicated(header, payload)
    }

    /// Begins an epoch with a higher `number` in the log, and lets its control frame be visible.
    pub fn begin_epoch(&self, number: u64) -> Result<EpochStart, StoreError> {
        let start = self.inner.journal.own()?.begin_epoch(number)?;
        self.inner.note_log_frames();
        Ok(start)
    }

    /// Everything below is inserted and readable.
    #[must_use]
    pub fn visible(&self) -> Lsn {
        self.inner.sequencer.visible()
    }

    /// A hint: `soon` is a key that will be read or written within the next microsecond or two, `now` one that is about to be, and
    /// was `soon` before. Their memory is asked for while the caller does other work. Changes nothing but the time that
    /// it takes.
    #[inline]
    pub fn prefetch(&self, soon: Option<&[u8]>, now: Option<&[u8]>) {
        self.inner.prefetch(soon, now);
    }

    /// Newest version of a key, latest applied state (may be newer than `visible`: it sees inserts as they are made).
    pub fn get(&self, key: &[u8]) -> Result<Found, StoreError> {
        self.inner.get(key)
    }

    /// A key at a snapshot.
    pub fn get_at(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Found, StoreError> {
        self.inner.get_at(snapshot, key)
    }

    /// A snapshot of what is visible now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.inner.snapshots.take(&self.inner.sequencer)
    }

    /// A snapshot at an older position (at what is visible, if that is lower). `None` when versions below the position were
    /// dropped that it would need; [`Store::keep_from`] holds them back.
    #[must_use]
    pub fn snapshot_at(&self, below: Lsn) -> Option<Snapshot> {
        self.inner.snapshots.take_at(below, &self.inner.sequencer)
    }

    /// Keeps versions readable at `below` and later from compaction (the safe position). Moves forward only.
    pub fn keep_from(&self, below: Lsn) {
        self.inner.snapshots.keep_from(below);
    }

    /// Iterates a range at a snapshot.
    pub fn scan(
        &self,
        snapshot: &Snapshot,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> Result<Scan, StoreError> {
        self.inner.scan(snapshot, start, end)
    }

    /// The log under the store.
    ///
    /// # Panics
    /// Where it has none of its own ([`Store::open_external`]).
    #[must_use]
    pub fn log(&self) -> &Log {
        match &self.inner.journal {
            Journal::Own(log) => log,
            Journal::External(_) => panic!("a store with an external log has none of its own"),
        }
    }

    /// Rotates the memtable and waits until everything before the call is in tables.
    pub fn flush(&self) -> Result<(), StoreError> {
        let _hurry = self.inner.hurry();
        self.inner.flush_all()
    }

    /// Flushes, then merges every level into the lowest that holds something.
    pub fn compact_all(&self) -> Result<(), StoreError> {
        let _hurry = self.inner.hurry();
        self.inner.flush_all()?;
        self.inner.compact_all()
    }

    /// Numbers.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.inner.stats()
    }

    /// Stepped workers: one piece of background work, the log's included; false when there is none, or it failed.
    pub fn step(&self) -> bool {
        self.inner.step()
    }

    /// Closes: stops workers, syncs and closes the log; memtables are rebuilt from it at the next open. Reads and
    /// writes fail from here on. Returns the first error, a background failure included; may be called twice.
    pub fn close(&self) -> Result<(), StoreError> {
        self.workers.close()
    }
}

impl Inner {
    fn stats(&self) -> StoreStats {
        let view = self.view.load();
        let cache = self.context.cache.stats();
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let mut stats = StoreStats {
            memtable_bytes: view.mems.iter().map(|m| m.bytes() as u64).sum(),
            memtable_spare_bytes: self.chunks.bytes() as u64,
            immutable_memtables: view.mems.len().saturating_sub(1) as u64,
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            cache_bytes: cache.bytes,
            flushes: count(&self.counters.flushes),
            compactions: count(&self.counters.compactions),
            bytes_flushed: count(&self.counters.bytes_flushed),
            bytes_compacted: count(&self.counters.bytes_compacted),
            write_stalls: self.room.stalls(),
            estimated_keys: view.mems.iter().map(|m| m.keys()).sum(),
            snapshots: self.snapshots.live(),
            background_error: self.room.failure().map(|f| f.error().to_string()),
            ..StoreStats::default()
        };
        for level in 0..crate::levels::LEVELS {
            stats
                .tables_per_level
                .push(view.levels.level(level).len() as u64);
            stats.bytes_per_level.push(view.levels.bytes(level));
        }
        for (_, table) in view.levels.iter() {
            stats.estimated_keys += table.meta.entries.saturating_sub(2 * table.meta.deletes);
            if let Ok(open) = table.table() {
                stats.table_memory_bytes += open.memory_bytes();
            }
        }
        stats
    }

    /// Puts `next` in place of the view. `install` is held.
    fn swap_view(&self, next: View) {
        self.mem_count.store(next.mems.len(), Ordering::Relaxed);
        self.l0_count
            .store(next.levels.level(0).len(), Ordering::Relaxed);
        self.view.store(Arc::new(next));
    }

    /// Records that background work failed, and tells who waits.
    fn fail(&self, doing: &'static str, error: &StoreError) {
        let heals = error.is_no_space();
        if heals {
            tracing::warn!(dir = %self.dir.display(), %error, "{doing}: no space; will try again");
        } else {
            tracing::error!(dir = %self.dir.display(), %error, "{doing} failed; writes are refused until the store is reopened");
        }
        self.room.fail(Failure {
            doing,
            cause: error.to_string(),
            heals,
        });
    }
}
