//! The storage thread: owns the log, writes and syncs it.
//!
//! - DK1 (C4): whatever has gathered while a sync ran is written and synced together, with one sync.
//! - DK2: a full disk is waited out; what is to be written stays in line. Any other error ends the log (W6), and with it the node.
//! - DK3: a snapshot's write waits until the state machine has installed it: after a crash between the two the machine is ahead of the
//!   log, never behind it.
//! - DK4: a log that never waits is written by the driver where it stands, unless writes are in this thread's queue: then behind them, by it.
//! - DK5: before room is waited for, or an installation, what is whole is synced and told: others may wait for it, and only a sync lets go of what was
//!   compacted, which may be the room.

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

/// DK5. Not under the log's mutex: who reports may take a turn of the driver's.
fn sync_whole(shared: &Shared, held: &Held, last: u64) -> Result<(), LogError> {
    let synced = held.lock().sync();
    match synced {
        Ok(()) if last > 0 => shared.report(Event::Synced(last)),
        Ok(()) | Err(LogError::Full(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Does one job, behind those up to `last`.
fn carry_out(
    shared: &Shared,
    stop: &StopToken,
    held: &Held,
    last: u64,
    job: impl Fn(&mut dyn LogStore) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let once = || job(&mut **held.lock());
    match once() {
        Err(LogError::Full(_)) => {
            sync_whole(shared, held, last)?;
            with_room(shared, stop, once)
        }
        result => result,
    }
}

pub(super) fn run(held: &Held, jobs: &Receiver<Job>, shared: &Arc<Shared>, stop: &StopToken) {
    while let Ok(first) = jobs.recv() {
        let mut last = 0;
        let group = std::iter::once(first).chain(jobs.try_iter().take(GROUP_MAX));
        let done = || -> Result<(), LogError> {
            for job in group {
                match job {
                    Job::Write { seq, writes, after } => {
                        if let Some(after) = after {
                            sync_whole(shared, held, last)?;
                            // The sender is dropped unsent where the install failed, which ends the node.
                            after.recv().map_err(|_| LogError::Closed)?;
                        }
                        carry_out(shared, stop, held, last, |log| log.write(&writes))?;
                        last = seq;
                    }
                    Job::Compact(meta) => {
                        carry_out(shared, stop, held, last, |log| log.compact(&meta))?;
                    }
                }
            }
            match last {
                0 => Ok(()),
                _ => with_room(shared, stop, || held.lock().sync()),
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

    const LONG: Duration = Duration::from_secs(20);

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

    /// A log that has no room for the second entry before a sync, and notes what it is asked for.
    struct Narrow(Arc<Mutex<Vec<String>>>, Box<dyn LogStore>);

    impl LogStore for Narrow {
        fn write(&mut self, writes: &[Write]) -> Result<(), LogError> {
            let Write::Append(entries) = &writes[0] else {
                return Ok(());
            };
            let index = entries[0].id.index.0;
            let full = index > 1 && !self.0.lock().iter().any(|did| did == "sync");
            let did = if full { "full" } else { "write" };
            self.0.lock().push(format!("{did} {index}"));
            match full {
                true => Err(LogError::Full("no room".into())),
                false => Ok(()),
            }
        }
        fn sync(&mut self) -> Result<(), LogError> {
            self.0.lock().push("sync".into());
            Ok(())
        }
        fn compact(&mut self, _: &SnapshotMeta) -> Result<(), LogError> {
            self.0.lock().push("compact".into());
            Ok(())
        }
        fn reader(&self) -> Arc<dyn crate::log::LogReader> {
            self.1.reader()
        }
        fn close(&mut self) -> Result<(), LogError> {
            Ok(())
        }
    }

    #[test]
    fn dk5_what_is_whole_is_synced_before_room_is_waited_for() {
        let did: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Narrow(did.clone(), Box::new(MemoryDisk::new().open(0).0));
        let (events, told) = unbounded();
        let (requests, _requests) = bounded(1);
        let me = crate::transport::Sender::default();
        let shared = Arc::new(Shared::new(me, events, requests, log.reader()));
        let (jobs, queue) = unbounded();
        let write = |seq| Job::Write {
            seq,
            writes: entry(seq),
            after: None,
        };
        jobs.send(write(1)).unwrap();
        jobs.send(Job::Compact(SnapshotMeta::default())).unwrap();
        jobs.send(write(2)).unwrap();
        let (_installed, after) = bounded(1);
        let writes = entry(3);
        let after = Some(after);
        jobs.send(Job::Write {
            seq: 3,
            writes,
            after,
        })
        .unwrap();
        let stop = StopToken::new();
        let held: Held = Arc::new(Mutex::new(Box::new(log)));
        std::thread::scope(|scope| {
            scope.spawn(|| run(&held, &queue, &shared, &stop));
            let synced = |told: &Receiver<Event>| match told.recv_timeout(LONG) {
                Ok(Event::Synced(seq)) => seq,
                _ => panic!("nothing was told"),
            };
            assert_eq!((synced(&told), synced(&told)), (1, 2));
            let done = ["write 1", "compact", "full 2", "sync", "write 2", "sync"];
            assert_eq!(*did.lock(), done);
            drop((_installed, jobs));
        });
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
