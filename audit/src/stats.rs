//! What a trail counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that several threads add to.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    // Relaxed everywhere: numbers for people.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) records: Counter,
    pub(crate) bytes: Counter,
    pub(crate) dropped: Counter,
    pub(crate) gaps: Counter,
    pub(crate) refused: Counter,
    pub(crate) failures: Counter,
    pub(crate) reopened: Counter,
    pub(crate) head_failures: Counter,
    pub(crate) rotations: Counter,
    pub(crate) rotation_failures: Counter,
    pub(crate) removed: Counter,
    pub(crate) checkpoints: Counter,
    pub(crate) checkpoint_failures: Counter,
    last_written: Counter,
}

impl Counters {
    pub(crate) fn wrote(&self, nanos: u64) {
        self.last_written.set(nanos);
    }

    pub(crate) fn last_written(&self) -> u64 {
        self.last_written.get()
    }
}

/// What a trail did since it was opened, and how it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrailStats {
    /// Entries written, the trail's own among them.
    pub records: u64,
    /// Their bytes in the live log.
    pub bytes: u64,
    /// Records dropped.
    pub dropped: u64,
    /// Gaps' entries written.
    pub gaps: u64,
    /// Records refused.
    pub refused: u64,
    /// Tries that failed.
    pub failures: u64,
    /// Times that the live log was opened anew.
    pub reopened: u64,
    /// Failed writes of `HEAD`.
    pub head_failures: u64,
    /// Files closed.
    pub rotations: u64,
    /// Tries to close one that failed.
    pub rotation_failures: u64,
    /// Closed files removed.
    pub removed: u64,
    /// Checkpoints made.
    pub checkpoints: u64,
    /// Checkpoints that could not be written or sent.
    pub checkpoint_failures: u64,
    /// Records in the queue.
    pub queued: u64,
    /// When the last record was written, nanoseconds since 1970; 0 before the first.
    pub last_written: u64,
    /// Sequence of the newest checkpoint.
    pub last_checkpoint: u64,
    /// Sequence of the last entry known synced.
    pub synced: u64,
    /// Bytes of the live log that are not in a closed file.
    pub live_bytes: u64,
    /// Closed files.
    pub closed_files: u64,
    /// Their bytes.
    pub closed_bytes: u64,
    /// Seconds by which the time that retention by age goes by is behind the wall clock: after a leap, or a time that the trail was not open, until
    /// [`crate::Options::clock_settles`] has passed.
    pub retention_behind: u64,
    /// Free bytes on the disk.
    pub free_bytes: u64,
    /// Whether the disk is full but for the reserve.
    pub short: bool,
    /// Whether the live log is not open: nothing can be written.
    pub down: bool,
}
