//! The storage thread: owns the log, writes and syncs it.
//!
//! - DK1 (C4): whatever has gathered while a sync ran is written and synced together, with one sync.
//! - DK2: a full disk is waited out; what is to be written stays in line. Any other error ends the log (W6), and with it the node.
//! - DK3: a snapshot's write waits until the state machine has installed it: after a crash between the two the machine is ahead of the
//!   log, never behind it.
//! - DK4: a log that never waits is written by the driver where it stands, unless writes are in this thread's queue: then behind them, by it.
//! - DK5: before room is waited for, or an installation, what is whole is synced and told: others may wait for it, and only a sync lets go of what was
//!   compacted, which may be the room. While room is waited for, what is to be compacted by now goes first, unless the state machine is to install a
//!   snapshot before.

use super::shared::{Event, Shared};
use crate::core::{SnapshotMeta, Write};
use crate::log::{LogError, LogStore};
use crossbeam_channel::{Receiver, Sender};
use esker_sync::stop::StopToken;
use parking_lot::Mutex;
use std::collections::VecDeque;
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

fn is_snapshot(write: &Write) -> bool {
    matches!(write, Write::Snapshot(_))
}

/// What is to be done, in order.
struct Line<'a> {
    jobs: &'a Receiver<Job>,
    /// Taken out to look behind it.
    seen: VecDeque<Job>,
}

impl Line<'_> {
    /// Waits for one; none at the end.
    fn first(&mut self) -> Option<Job> {
        self.seen.pop_front().or_else(|| self.jobs.recv().ok())
    }

    fn next(&mut self) -> Option<Job> {
        self.seen.pop_front().or_else(|| self.jobs.try_recv().ok())
    }

    /// DK5: a compaction that may go before what stands in front of it. What is compacted was synced long before.
    fn compaction(&mut self) -> Option<SnapshotMeta> {
        self.seen.extend(self.jobs.try_iter());
        let ends = |job: &Job| match job {
            Job::Write { writes, .. } => writes.iter().any(is_snapshot),
            Job::Compact(_) => true,
        };
        let at = self.seen.iter().position(ends)?;
        match self.seen.remove(at)? {
            Job::Compact(meta) => Some(meta),
            snapshot => {
                self.seen.insert(at, snapshot);
                None
            }
        }
    }
}

/// What the thread works with.
struct Worker<'a> {
    held: &'a Held,
    shared: &'a Shared,
    stop: &'a StopToken,
    line: Line<'a>,
    /// Whole up to this number.
    last: u64,
}

impl Worker<'_> {
    /// Retries while there is no room. Unless it `stays` in its place, with a snapshot in it, a compaction in line may go before it.
    fn with_room(
        &mut self,
        stays: bool,
        job: &dyn Fn(&mut dyn LogStore) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let mut compaction = None;
        loop {
            // Not under the log's mutex: the rest.
            let done = job(&mut **self.held.lock());
            let Err(LogError::Full(why)) = done else {
                self.shared.disk_full.store(false, Ordering::Relaxed);
                // For later, then.
                if let Some(meta) = compaction {
                    self.line.seen.push_front(Job::Compact(meta));
                }
                return done;
            };
            if !self.shared.disk_full.swap(true, Ordering::Relaxed) {
                tracing::warn!(why, "no room for the Raft log; writes wait");
            }
            if !stays && compaction.is_none() {
                compaction = self.line.compaction();
            }
            if let Some(meta) = &compaction {
                let compacted = self.held.lock().compact(meta);
                match compacted {
                    Ok(()) => {
                        compaction = None;
                        self.sync_whole()?;
                        continue;
                    }
                    Err(LogError::Full(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            if self.stop.sleep(FULL_RETRY) {
                return Err(LogError::Closed);
            }
        }
    }

    /// DK5. Not under the log's mutex: who reports may take a turn of the driver's.
    fn sync_whole(&self) -> Result<(), LogError> {
        let synced = self.held.lock().sync();
        match synced {
            Ok(()) if self.last > 0 => self.shared.report(Event::Synced(self.last)),
            Ok(()) | Err(LogError::Full(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn carry_out(
        &mut self,
        stays: bool,
        job: &dyn Fn(&mut dyn LogStore) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let done = job(&mut **self.held.lock());
        match done {
            Err(LogError::Full(_)) => {
                self.sync_whole()?;
                self.with_room(stays, job)
            }
            result => result,
        }
    }

    /// One group (DK1).
    fn group(&mut self, first: Job) -> Result<(), LogError> {
        self.last = 0;
        let mut job = Some(first);
        let mut left = GROUP_MAX;
        while let Some(one) = job.take() {
            match one {
                Job::Write { seq, writes, after } => {
                    if let Some(after) = after {
                        self.sync_whole()?;
                        // The sender is dropped unsent where the install failed, which ends the node.
                        after.recv().map_err(|_| LogError::Closed)?;
                    }
                    let stays = writes.iter().any(is_snapshot);
                    self.carry_out(stays, &|log| log.write(&writes))?;
                    self.last = seq;
                }
                Job::Compact(meta) => self.carry_out(true, &|log| log.compact(&meta))?,
            }
            if left > 0 {
                left -= 1;
                job = self.line.next();
            }
        }
        match self.last {
            0 => Ok(()),
            _ => self.with_room(false, &|log| log.sync()),
        }
    }
}

pub(super) fn run(held: &Held, jobs: &Receiver<Job>, shared: &Arc<Shared>, stop: &StopToken) {
    let mut worker = Worker {
        held,
        shared,
        stop,
        line: Line {
            jobs,
            seen: VecDeque::new(),
        },
        last: 0,
    };
    while let Some(first) = worker.line.first() {
        match worker.group(first) {
            Ok(()) if worker.last > 0 => {
                // Relaxed: a count.
                shared.groups.fetch_add(1, Ordering::Relaxed);
                shared.report(Event::Synced(worker.last));
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

    /// A log that has no room for the second entry before it was asked for something else, and notes what it is asked for.
    struct Narrow(
        Arc<Mutex<Vec<&'static str>>>,
        Box<dyn LogStore>,
        &'static str,
    );

    impl LogStore for Narrow {
        fn write(&mut self, writes: &[Write]) -> Result<(), LogError> {
            let Write::Append(entries) = &writes[0] else {
                return Ok(());
            };
            let index = entries[0].id.index.0;
            let mut did = self.0.lock();
            let full = index > 1 && !did.contains(&self.2);
            let now = if full { "full" } else { "write" };
            if !full || did.last() != Some(&now) {
                did.push(now);
            }
            match full {
                true => Err(LogError::Full("no room".into())),
                false => Ok(()),
            }
        }
        fn sync(&mut self) -> Result<(), LogError> {
            self.0.lock().push("sync");
            Ok(())
        }
        fn compact(&mut self, _: &SnapshotMeta) -> Result<(), LogError> {
            self.0.lock().push("compact");
            Ok(())
        }
        fn reader(&self) -> Arc<dyn crate::log::LogReader> {
            self.1.reader()
        }
        fn close(&mut self) -> Result<(), LogError> {
            Ok(())
        }
    }

    /// Runs the thread on a log that has no room before it did `until`, on these jobs: what the log was asked for until all of them are told. What
    /// `lines` gives back is dropped then.
    fn narrow<T>(
        until: &'static str,
        lines: impl FnOnce(&Sender<Job>) -> T,
        tells: &[u64],
    ) -> Vec<String> {
        let did: Arc<Mutex<Vec<&'static str>>> = Arc::default();
        let log = Narrow(did.clone(), Box::new(MemoryDisk::new().open(0).0), until);
        let (events, told) = unbounded();
        let (requests, _requests) = bounded(1);
        let me = crate::transport::Sender::default();
        let shared = Arc::new(Shared::new(me, events, requests, log.reader()));
        let (jobs, queue) = unbounded();
        let kept = lines(&jobs);
        let stop = StopToken::new();
        let held: Held = Arc::new(Mutex::new(Box::new(log)));
        std::thread::scope(|scope| {
            scope.spawn(|| run(&held, &queue, &shared, &stop));
            let ends = (jobs, kept);
            for tell in tells {
                let Ok(Event::Synced(seq)) = told.recv_timeout(LONG) else {
                    stop.stop();
                    panic!("{tell} was not told: {:?}", did.lock());
                };
                assert_eq!(seq, *tell);
            }
            drop(ends);
        });
        let did = did.lock();
        did.iter().map(ToString::to_string).collect()
    }

    fn write(seq: u64) -> Job {
        let (writes, after) = (entry(seq), None);
        Job::Write { seq, writes, after }
    }

    fn install(seq: u64, after: Receiver<()>) -> Job {
        let writes = vec![Write::Snapshot(SnapshotMeta::default())];
        let after = Some(after);
        Job::Write { seq, writes, after }
    }

    #[test]
    fn dk5_what_is_whole_is_synced_before_room_is_waited_for() {
        let lines = |jobs: &Sender<Job>| {
            let (installed, after) = bounded::<()>(1);
            let compact = Job::Compact(SnapshotMeta::default());
            for job in [write(1), compact, write(2), install(3, after)] {
                jobs.send(job).unwrap();
            }
            installed
        };
        let did = narrow("sync", lines, &[1, 2]);
        let done = ["write", "compact", "full", "sync", "write", "sync"];
        assert_eq!(did[..done.len()], done);
    }

    /// The room may be that of a compaction that came later; one behind a snapshot speaks of that.
    #[test]
    fn dk5_a_compaction_goes_before_the_write_that_waits_for_room() {
        let did = narrow(
            "compact",
            |jobs| {
                let compact = Job::Compact(SnapshotMeta::default());
                for job in [write(1), write(2), write(3), compact] {
                    jobs.send(job).unwrap();
                }
            },
            &[1, 1, 3],
        );
        let done = [
            "write", "full", "sync", "full", "compact", "sync", "write", "write", "sync",
        ];
        assert_eq!(did, done);
        let (_installed, after) = bounded(1);
        let (jobs, queue) = unbounded();
        for job in [
            write(3),
            install(4, after),
            Job::Compact(SnapshotMeta::default()),
        ] {
            jobs.send(job).unwrap();
        }
        let (jobs, seen) = (&queue, VecDeque::new());
        let mut line = Line { jobs, seen };
        assert!(line.compaction().is_none());
        let order = std::iter::from_fn(|| line.next()).map(|job| match job {
            Job::Write { seq, .. } => seq,
            Job::Compact(_) => 0,
        });
        assert_eq!(order.collect::<Vec<_>>(), [3, 4, 0]);
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
