//! The log.
use crate::*;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A log. Clones are handles to one log; the last one dropped closes it.
#[derive(Clone, Debug)]
pub struct Log {}

/// Where an append stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// LSN of the frame.
    pub lsn: Lsn,
    /// LSN behind it: the append is published or synced when that position has reached this.
    pub end: Lsn,
}

/// What open found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Whether it was made now.
    pub created: bool,
    /// Whether it was closed cleanly.
    pub clean: bool,
    /// Oldest LSN held.
    pub oldest: Lsn,
    /// End of the log as recovered (before an epoch's control frame of this open).
    pub end: Lsn,
    /// Highest intact mark.
    pub marked: Lsn,
    /// Bytes of a torn tail that were cut.
    pub cut_bytes: u64,
}

/// Room for one frame: fill it, then publish. Dropped unpublished it becomes a void frame (W8).
#[derive(Debug)]
pub struct Reservation {
    lsn: Lsn,
}
impl Reservation {
    /// LSN of the frame to be.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }
    /// LSN behind the frame to be.
    pub fn end(&self) -> Lsn {
        todo!()
    }
    /// Payload bytes reserved.
    pub fn payload_len(&self) -> usize {
        todo!()
    }
    /// Copies `parts` (their lengths must add up to `payload_len`, else the frame becomes void and an error
    /// is returned) and publishes.
    pub fn publish(self, parts: &[&[u8]]) -> Result<Appended, LogError> {
        let _ = parts;
        todo!()
    }
}

/// A frame of another node's log as it came over the wire, checked by the log before it is appended.
#[derive(Clone, Copy, Debug)]
pub struct WireFrame<'a> {
    /// Header.
    pub header: frame::Header,
    /// Payload without padding.
    pub payload: &'a [u8],
}

/// A slot: a named consumer's position that holds back deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Name.
    pub name: String,
    /// Log from here on is held.
    pub position: Lsn,
    /// True once the log was released beyond it because of its cap.
    pub lost: bool,
}

/// Numbers about a log, all since open.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "skeleton")]
pub struct LogStats {
    pub appends: u64,
    pub appended_bytes: u64,
    pub voids: u64,
    pub syncs: u64,
    pub sync_nanos: u64,
    pub synced_frames: u64,
    pub stalls: u64,
    pub rotations: u64,
    pub segments: u64,
    pub segments_ready: u64,
    pub recycled: u64,
    pub bytes_held: u64,
}

/// What is called when a position moves; see [`Log::watch`].
pub type Watcher = Arc<dyn Fn() + Send + Sync>;

/// Keeps a watcher registered; dropped, it is called no more.
#[derive(Debug)]
pub struct WatchGuard {}

impl Log {
    /// Opens or creates the log in `dir`, recovers it, and starts its workers.
    pub fn open(dir: &Path, options: LogOptions) -> Result<(Log, Recovered), OpenError> {
        let _ = (dir, options);
        todo!()
    }
    /// Reserves room for a payload of `len` bytes; blocks at a bound.
    pub fn reserve(&self, len: usize) -> Result<Reservation, LogError> {
        let _ = len;
        todo!()
    }
    /// As `reserve`, but `Busy` at a bound.
    pub fn try_reserve(&self, len: usize) -> Result<Reservation, LogError> {
        let _ = len;
        todo!()
    }
    /// `reserve` + `publish`. Does not sync.
    pub fn append(&self, parts: &[&[u8]]) -> Result<Appended, LogError> {
        let _ = parts;
        todo!()
    }
    /// Follower: appends a frame of the primary at its LSN, after checking LSN, epoch and checksum. A control
    /// frame that begins an epoch begins a segment, goes to the history, and is synced before this returns.
    pub fn append_replicated(&self, frame: WireFrame<'_>) -> Result<Appended, LogError> {
        let _ = frame;
        todo!()
    }
    /// Begins an epoch with a higher `number` (promotion) and makes this node the writer. Durable on return.
    pub fn begin_epoch(&self, number: u64) -> Result<EpochStart, LogError> {
        let _ = number;
        todo!()
    }
    /// Runs `f` at a moment when no LSN is being reserved, with the reserved end: frames below it were
    /// reserved before, those at or above it will be reserved after. `f` must be short and must not call the log.
    pub fn at_boundary<R>(&self, f: impl FnOnce(Lsn) -> R) -> R {
        let _ = f;
        todo!()
    }
    /// Blocks until everything below `end` is synced; may itself do the sync for the group.
    pub fn sync_up_to(&self, end: Lsn) -> Result<(), LogError> {
        let _ = end;
        todo!()
    }
    /// As `sync_up_to`, giving up after `timeout`.
    pub fn sync_up_to_timeout(&self, end: Lsn, timeout: Duration) -> Result<(), LogError> {
        let _ = (end, timeout);
        todo!()
    }
    /// Asks the flusher to sync up to `end` and returns at once; [`Log::watch`] tells when.
    pub fn request_sync(&self, end: Lsn) {
        let _ = end;
        todo!()
    }
    /// Blocks until everything below `end` is published.
    pub fn wait_published(&self, end: Lsn, timeout: Option<Duration>) -> Result<(), LogError> {
        let _ = (end, timeout);
        todo!()
    }
    /// Calls `watcher` whenever `synced` has moved, and when the log is poisoned or closed. It runs on a log thread:
    /// it must not block (ring an eventfd).
    pub fn watch(&self, watcher: Watcher) -> WatchGuard {
        let _ = watcher;
        todo!()
    }
    /// Calls `watcher` whenever room came back (after `Busy` or `NoSpace`).
    pub fn watch_room(&self, watcher: Watcher) -> WatchGuard {
        let _ = watcher;
        todo!()
    }
    /// End of what was reserved.
    pub fn reserved(&self) -> Lsn {
        todo!()
    }
    /// Everything below is copied into the log.
    pub fn published(&self) -> Lsn {
        todo!()
    }
    /// Everything below is on stable storage.
    pub fn synced(&self) -> Lsn {
        todo!()
    }
    /// Oldest LSN that can be read.
    pub fn oldest(&self) -> Lsn {
        todo!()
    }
    /// The poison, if any.
    pub fn poison(&self) -> Option<Poison> {
        todo!()
    }
    /// Identity.
    pub fn log_id(&self) -> LogId {
        todo!()
    }
    /// This node.
    pub fn node_id(&self) -> NodeId {
        todo!()
    }
    /// The epoch being written or followed.
    pub fn epoch(&self) -> Epoch {
        todo!()
    }
    /// History of epochs, oldest first.
    pub fn epochs(&self) -> Vec<EpochStart> {
        todo!()
    }
    /// Chain hash of everything below `lsn`, a frame boundary at or below `published`; reads from the nearest base known.
    pub fn chain_at(&self, lsn: Lsn) -> Result<ChainHash, LogError> {
        let _ = lsn;
        todo!()
    }
    /// A reader of frames from `from` (a frame boundary), up to what is published or synced at each call.
    pub fn reader(&self, from: Lsn, limit: ReadLimit) -> Result<Reader, LogError> {
        let _ = (from, limit);
        todo!()
    }
    /// Sets the release point: the log's user needs nothing below. Never moves back.
    pub fn release(&self, below: Lsn) {
        let _ = below;
        todo!()
    }
    /// Creates or moves a slot. Persistent; a position that moved reaches the disk within a second, a new slot before return.
    pub fn set_slot(&self, name: &str, position: Lsn) -> Result<(), LogError> {
        let _ = (name, position);
        todo!()
    }
    /// Removes a slot, durably.
    pub fn drop_slot(&self, name: &str) -> Result<bool, LogError> {
        let _ = name;
        todo!()
    }
    /// All slots.
    pub fn slots(&self) -> Vec<Slot> {
        todo!()
    }
    /// Numbers.
    pub fn stats(&self) -> LogStats {
        todo!()
    }
    /// Stepped workers: does one piece of background work; false when there is none.
    pub fn step(&self) -> bool {
        todo!()
    }
    /// Flushes, marks clean, wakes every waiter, joins every worker; returns the first error. May be called twice.
    pub fn close(&self) -> Result<(), LogError> {
        todo!()
    }
}
