//! The storage thread: owns the log, writes and syncs it.
//!
//! - DK1 (C4): whatever has gathered while a sync ran is written and synced together, with one sync.
//! - DK2: a full disk is waited out; what is to be written stays in line. Any other error ends the log (W6), and with it the node.
//! - DK3: a snapshot's write waits until the state machine has installed it: after a crash between the two the machine is ahead of the
//!   log, never behind it.
//! - DK4: a log that never waits is written by the driver where it stands, unless writes are in this thread's queue: then behind them, by it.

use super::shared::{Event, Shared};
use crate::core::{SnapshotMeta, Write};
use crate::log::{LogError, LogStore};
use crossbeam_channel::{Receiver, Sender};
use esker_sync::stop::StopToken;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pause before a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(50);
/// Writes taken together at most.
const GROUP_MAX: usize = 4096;

pub(super) enum Job {
    Write {
        seq: u64,
        writes: Vec<Write>,
        /// DK3.
        after: Option<Receiver<()>>,
    },
    Compact(SnapshotMeta),
}

/// The log. The storage thread's alone, unless it never waits (DK4).
pub(super) type Held = Arc<Mutex<Box<dyn LogStore>>>;

/// The driver's way to it.
pub(super) struct Storage {
    jobs: Sender<Job>,
    /// DK4.
    here: Option<Held>,
}

impl Storage {
    pub(super) fn new(log: &Held, jobs: Sender<Job>) -> Storage {
        let here = log.lock().never_waits().then(|| log.clone());
        Storage { jobs, here }
    }

    pub(super) fn never_waits(&self) -> bool {
        self.here.is_some()
    }

    /// Writes and syncs. What came of it, where it was done here; `queued`: the thread has writes that it has not reported.
    pub(super) fn write(
        &self,
        seq: u64,
        writes: Vec<Write>,
        after: Option<Receiver<()>>,
        queued: bool,
    ) -> Option<Event> {
        match &self.here {
            Some(log) if after.is_none() && !queued => {
                let mut log = log.lock();
                let done = log.write(&writes).and_then(|()| log.sync());
                Some(done.map_or_else(|e| Event::Failed(e.to_string()), |()| Event::Synced(seq)))
            }
            _ => {
                // Not taken where the thread has ended, which it reports.
                let _ = self.jobs.send(Job::Write { seq, writes, after });
                None
            }
        }
    }

    pub(super) fn compact(&self, to: SnapshotMeta) {
        let _ = self.jobs.send(Job::Compact(to));
    }
}

/// Retries while there is no room.
fn with_room(
    shared: &Shared,
    stop: &StopToken,
    mut write: impl FnMut() -> Result<(), LogError>,
) -> Result<(), LogError> {
    loop {
        match write() {
            Err(LogError::Full(why)) => {
                if !shared.disk_full.swap(true, Ordering::Relaxed) {
                    tracing::warn!(why, "no room for the Raft log; writes wait");
                }
                if stop.sleep(FULL_RETRY) {
                    return Err(LogError::Closed);
                }
            }
            result => {
                shared.disk_full.store(false, Ordering::Relaxed);
                return result;
            }
        }
    }
}

pub(super) fn run(held: &Held, jobs: &Receiver<Job>, shared: &Arc<Shared>, stop: &StopToken) {
    while let Ok(first) = jobs.recv() {
        let mut last = 0;
        let group = std::iter::once(first).chain(jobs.try_iter().take(GROUP_MAX));
        let done = || -> Result<(), LogError> {
            let mut log = held.lock();
            for job in group {
                match job {
                    Job::Write { seq, writes, after } => {
                        // The sender is dropped unsent where the install failed, which ends the node.
                        if after.is_some_and(|after| after.recv().is_err()) {
                            return Err(LogError::Closed);
                        }
                        with_room(shared, stop, || log.write(&writes))?;
                        last = seq;
                    }
                    Job::Compact(meta) => with_room(shared, stop, || log.compact(&meta))?,
                }
            }
            match last {
                0 => Ok(()),
                _ => with_room(shared, stop, || log.sync()),
            }
        };
        match done() {
            Ok(()) if last > 0 => {
                // Relaxed: a count.
                shared.groups.fetch_add(1, Ordering::Relaxed);
                shared.report(Event::Synced(last));
            }
            Ok(()) => {}
            Err(LogError::Closed) if stop.is_stopped() => break,
            Err(error) => {
                shared.report(Event::Failed(error.to_string()));
                break;
            }
        }
    }
    if let Err(error) = held.lock().close() {
        tracing::warn!(%error, "closing the Raft log");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Entry, EntryKind, Index, LogId, Term};
    use crate::log::{MemoryDisk, VolatileLog};
    use crossbeam_channel::{bounded, unbounded};

    fn entry(index: u64) -> Vec<Write> {
        let id = LogId {
            term: Term(1),
            index: Index(index),
        };
        let kind = EntryKind::Noop;
        vec![Write::Append(vec![Entry { id, kind }])]
    }

    #[test]
    fn dk4_what_never_waits_is_written_here_unless_something_is_queued_before_it() {
        let (log, _) = VolatileLog::new(0);
        let reader = log.reader();
        let held = |index| {
            let found = reader.entries(Index(index), Index(index), 1);
            found.expect("memory is read").len() == 1
        };
        let (jobs, queue) = unbounded();
        let log: Held = Arc::new(Mutex::new(Box::new(log)));
        let storage = Storage::new(&log, jobs);
        let done = storage.write(1, entry(1), None, false);
        assert!(matches!(done, Some(Event::Synced(1))) && held(1));
        // The installation of a snapshot, and what is behind it.
        let (_installed, after) = bounded(1);
        assert!(storage.write(2, entry(2), Some(after), false).is_none());
        assert!(storage.write(3, entry(3), None, true).is_none());
        let queued: Vec<u64> = (queue.try_iter())
            .map(|job| match job {
                Job::Write { seq, .. } => seq,
                Job::Compact(_) => 0,
            })
            .collect();
        assert_eq!(queued, [2, 3]);
        assert!(!held(2) && !held(3), "nothing goes before them");
    }

    #[test]
    fn dr1_a_log_that_may_wait_is_the_threads() {
        let (log, _) = MemoryDisk::new().open(0);
        let (jobs, queue) = unbounded();
        let log: Held = Arc::new(Mutex::new(Box::new(log)));
        let storage = Storage::new(&log, jobs);
        assert!(!storage.never_waits());
        assert!(storage.write(1, entry(1), None, false).is_none());
        assert_eq!(queue.len(), 1);
    }
}
