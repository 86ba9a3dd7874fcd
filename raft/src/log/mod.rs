//! Storage of the Raft log: what the runtime asks of it, and two in memory.
//!
//! One thread owns a [`LogStore`] and writes; any number of threads read through its [`LogReader`] meanwhile, also while a sync is
//! under way.
//!
//! - LS1 (C2): what was written before a [`LogStore::sync`] that returned `Ok` is found again at every later open, in the order in which
//!   it was written. Hard state and entries are one ordered stream.
//! - LS2: an appended entry supersedes every entry at or above its index that was written before; those never come back, whatever
//!   is cut, compacted or damaged later.
//! - LS3: nothing above what [`LogStore::compact`] named is dropped. Compaction to the very end leaves a log that goes on behind it.
//! - LS4 (W3): damage to what was synced is never cut like a torn tail. What can still be read is recovered up to the damage, and
//!   [`Recovered::abstain`] says up to which index entries may have been acknowledged, or that the vote may be lost. It is said again at
//!   each open until entries up to that index have been appended and synced again (or a snapshot behind it was).
//! - LS5: after an error other than [`LogError::Full`] the store takes nothing more until it is opened anew (W6).
//! - LS6 (W8): of what found no room a beginning may be in, and is after a crash. It comes again, the same and before anything else is written; what is
//!   in is not written twice.

mod memory;
mod volatile;
mod wal;

pub use memory::{MemoryDisk, MemoryLog};
pub use volatile::VolatileLog;
pub use wal::{ENTRY_BYTES_MAX, OpenError, WalLog, WalLogOptions};

use crate::core::{Abstain, Entry, HardState, Index, LogView, NodeId, SnapshotMeta, Write};
use std::sync::Arc;

/// Whose log it is. A real store is opened with it (`WalLog::open(media, dir, identity, options) -> (WalLog, Recovered)`), writes it before
/// anything else on an empty disk, and refuses a directory that carries another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's, chosen when it is made.
    pub cluster: u64,
    /// The group within it; 1 for now.
    pub group: u64,
    /// The node.
    pub node: NodeId,
}

/// What was found at open. Bounded memory whatever the log's length: the view holds the newest entries alone.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Term and vote; the default on an empty disk.
    pub hard: HardState,
    /// The log, behind the newest snapshot that was written or compacted to.
    pub log: LogView,
    /// Whether something was lost (LS4).
    pub abstain: Abstain,
    /// Nothing was there: a new disk.
    pub empty: bool,
    /// A random number that is made with the disk and stays with it: a wiped node that comes back under its old id has another.
    pub disk: u64,
}

/// Why the log can't go on.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// There is no room. The same is to be tried again (LS6).
    #[error("no room for the Raft log: {0}; free some, writing goes on by itself")]
    Full(String),
    /// A write or a sync failed. The store has to be opened anew, which finds what is really on the disk (W6).
    #[error("the Raft log failed: {0}; restart the node, which recovers what was synced")]
    Failed(String),
    /// Bytes that were synced do not read back.
    #[error(
        "the Raft log is damaged: {0}; the node fetches what is missing from its peers when it is restarted"
    )]
    Damaged(String),
    /// It is closed.
    #[error("the Raft log is closed")]
    Closed,
}

/// Storage of one group's log. See the module.
pub trait LogStore: Send {
    /// Writes, in this order, after everything written before. Not synced, and may be lost as a suffix until it is. After
    /// [`LogError::Full`] the same writes come again before any other (LS6). [`Write::Snapshot`] begins the log anew behind the snapshot, and supersedes
    /// every entry.
    fn write(&mut self, writes: &[Write]) -> Result<(), LogError>;

    /// Returns once everything written so far is on stable storage. One sync for all of it.
    fn sync(&mut self) -> Result<(), LogError>;

    /// The state machine holds everything up to `to.last` durably: entries up to there may go. The membership as of there is kept.
    /// Durable before an entry is gone; otherwise when convenient. Below what was compacted already it does nothing.
    fn compact(&mut self, to: &SnapshotMeta) -> Result<(), LogError>;

    /// For other threads.
    fn reader(&self) -> Arc<dyn LogReader>;

    /// Syncs what is written and closes. A second time it does nothing. Dropping does the same, errors aside.
    fn close(&mut self) -> Result<(), LogError>;

    /// Whether neither `write`, `sync` nor `compact` ever waits for anything, a disk least of all: the node then calls them from whatever
    /// thread it is in. False by default.
    fn never_waits(&self) -> bool {
        false
    }
}

/// Reads entries that are written, synced or not.
pub trait LogReader: Send + Sync {
    /// Entries from `from` to `to`, both inclusive, in order and without a gap: as many as have a [weight](Entry::weight) of `bytes_max`
    /// together, but at least one. None when the log does not hold `from` (any more); fewer where it ends before `to`.
    ///
    /// What is read while a conflicting suffix is replaced may be of either: callers compare the names.
    fn entries(&self, from: Index, to: Index, bytes_max: usize) -> Result<Vec<Entry>, LogError>;

    /// Syncs since the log was opened: one for each [`LogStore::sync`] (C4), and those that the log needed for itself.
    fn syncs(&self) -> u64;
}
