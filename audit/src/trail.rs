//! The trail, open for writing: the handle, its threads, its end.
//!
//! Threads, with [`Workers::Threads`]: `esker-audit-q` writes the queue, `esker-audit-rot` closes files, `esker-audit-cln` removes old ones,
//! keeps `HEAD` synced, makes checkpoints and looks after the live file. They are joined on close, after the queue was written (E1).

use crate::closed::ClosedFile;
use crate::entry::Kind;
use crate::error::Error;
use crate::finding::Finding;
use crate::head::HeadFile;
use crate::key::Key;
use crate::note::Checkpoint;
use crate::policy::Options;
use crate::record::{Record, Severity};
use crate::shared::{Message, Shared};
use crate::stats::TrailStats;
use crossbeam_channel::{RecvTimeoutError, bounded};
use esker_sync::stop::StopToken;
use esker_sync::workers::Workers as Threads;
use esker_wal::Workers;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(50);
/// How often a queue that was in use is looked at before its thread waits for a message again, and the pause between.
const GATHERS_FOR: u32 = 50;
const GATHERS_EVERY: Duration = Duration::from_millis(2);
/// Longest that [`Trail::flush`] waits for the queue.
const DRAINS_FOR: Duration = Duration::from_secs(10);

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// On stable storage.
    Synced,
    /// In the live log: survives the process.
    Logged,
    /// In the queue.
    Queued,
    /// Dropped, as the policy says, and counted.
    Dropped,
}

/// What became of a record, and its sequence where it has one by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its place in the trail.
    pub sequence: Option<u64>,
    /// What became of it.
    pub written: Written,
}

/// What was found at [`Trail::open`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Opened {
    /// Sequence of the last entry found; 0 of a new trail.
    pub last: u64,
    /// Closed files.
    pub closed: usize,
    /// What was not as it was written, where that was let pass.
    pub findings: Vec<Finding>,
}

/// An audit trail, open for writing. Shared by reference; dropped, it is closed.
#[derive(Debug)]
pub struct Trail {
    shared: Arc<Shared>,
    /// Not stopped before the queue is written.
    writer: Threads,
    upkeep: Threads,
    stepped: Mutex<Due>,
}

/// What the upkeep remembers between two looks.
#[derive(Debug, Default)]
struct Due {
    looked: Duration,
}

impl Due {
    /// Does what is due but for the closing of files.
    fn look(&mut self, shared: &Shared) {
        let now = shared.options.clock.now();
        if now.saturating_sub(self.looked) < shared.options.interval {
            return;
        }
        self.looked = now;
        // What fails is counted and tried again at the next look.
        let _ = shared.sync_all();
        shared.look_after_live();
        let _ = shared.begin_key();
        if let Err(e) = shared.clean() {
            tracing::warn!(dir = %shared.dir.display(), error = %e, "old files of the audit trail were not removed");
        }
        if shared.checkpoint_due() {
            let _ = shared.checkpoint();
        }
    }
}

impl Trail {
    /// Opens the trail in `dir`, or makes one, to write with the newest key of `keys`. Its parts: [`Options`].
    pub fn open(
        dir: &Path,
        keys: crate::Keyring,
        options: Options,
    ) -> Result<(Trail, Opened), Error> {
        let (shared, opened) = crate::open::open(dir, keys, options)?;
        let trail = Trail {
            shared: Arc::new(shared),
            writer: Threads::new(StopToken::new()),
            upkeep: Threads::new(StopToken::new()),
            stepped: Mutex::default(),
        };
        if trail.shared.options.workers == Workers::Threads {
            let started = trail.start();
            started.map_err(crate::error::io_error("starting threads for", dir))?;
        }
        Ok((trail, opened))
    }

    fn start(&self) -> std::io::Result<()> {
        let shared = self.shared.clone();
        self.writer.spawn("esker-audit-q", move |stop| {
            loop {
                match shared.queue.1.recv_timeout(TICK) {
                    Ok(message) => shared.take(message),
                    Err(RecvTimeoutError::Timeout) if !stop.is_stopped() => continue,
                    Err(_) => return,
                }
                // While records come they are gathered: to wake this thread for each costs who sends it more than the record does.
                let mut empty = 0;
                while empty < GATHERS_FOR {
                    match shared.queue.1.try_recv() {
                        Ok(message) => {
                            shared.take(message);
                            empty = 0;
                        }
                        Err(_) if stop.sleep(GATHERS_EVERY) => break,
                        Err(_) => empty += 1,
                    }
                }
            }
        })?;
        let shared = self.shared.clone();
        self.upkeep.spawn("esker-audit-rot", move |stop| {
            while !stop.sleep(TICK) {
                if shared.rotation_due() && shared.rotate().is_err() {
                    // What is in the way does not go in a tick.
                    stop.sleep(20 * TICK);
                }
            }
        })?;
        let shared = self.shared.clone();
        self.upkeep.spawn("esker-audit-cln", move |stop| {
            let mut due = Due::default();
            while !stop.sleep(TICK) {
                due.look(&shared);
            }
        })
    }

    /// Writes a record, as the policy of its severity says; see [`crate::Policies`].
    ///
    /// # Errors
    /// [`Error::Refused`] where the policy refuses or its wait ran out: the record is not in the trail, and what it is about must not happen;
    /// [`Error::Unknown`] where the disk failed while it was synced; [`Error::Closed`].
    pub fn record(&self, record: Record) -> Result<Receipt, Error> {
        self.shared.record(record)
    }

    /// As [`Trail::record`], of several, in this order: those that are to be synced wait for one sync of all. The first error ends it; those before are in the
    /// trail, or it is not known.
    ///
    /// # Errors
    /// As [`Trail::record`].
    pub fn record_all(&self, records: Vec<Record>) -> Result<(), Error> {
        self.shared.record_all(records)
    }

    /// Everything written before is on stable storage when it returns; what is in the queue is written first, for at most ten seconds.
    pub fn flush(&self) -> Result<(), Error> {
        self.still_open()?;
        self.drain();
        self.shared.sync_all()
    }

    /// Fails where it is closed.
    fn still_open(&self) -> Result<(), Error> {
        match self.shared.closed.load(Ordering::Acquire) {
            true => Err(Error::Closed),
            false => Ok(()),
        }
    }

    /// What was queued before is written when it returns, unless that takes longer than ten seconds.
    fn drain(&self) {
        if self.shared.options.workers == Workers::Stepped {
            while self.step_queue() {}
            return;
        }
        let (done, written) = bounded(1);
        let marker = Message::Flush(done);
        if self.shared.queue.0.send_timeout(marker, DRAINS_FOR).is_ok() {
            let _ = written.recv_timeout(DRAINS_FOR);
        }
    }

    /// Closes a file with all that was written so far, compressed; `None` where there is nothing.
    pub fn rotate(&self) -> Result<Option<ClosedFile>, Error> {
        self.still_open()?;
        self.shared.rotate()
    }

    /// Removes closed files beyond the retention; how many.
    pub fn clean(&self) -> Result<usize, Error> {
        self.still_open()?;
        self.shared.clean()
    }

    /// Makes a checkpoint of all that was written so far, and sends it where checkpoints go ([`crate::Anchor`]).
    pub fn checkpoint(&self) -> Result<Checkpoint, Error> {
        self.still_open()?;
        self.shared.checkpoint()
    }

    /// Writes with `key` from now on. It must be in the key file before: without it nothing that follows verifies.
    pub fn rotate_key(&self, key: Key) -> Result<(), Error> {
        self.still_open()?;
        self.shared.rotate_key(key)
    }

    /// That somebody read the trail: who, and what was asked for. The only record of a reading; it makes no other.
    pub fn read_by(&self, record: Record) -> Result<Receipt, Error> {
        self.record(record.severity(Severity::Notice))
    }

    /// Identity of the trail.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// Closed files, oldest first.
    #[must_use]
    pub fn closed_files(&self) -> Vec<ClosedFile> {
        self.shared.files.read().clone()
    }

    /// What it did, and how it stands.
    #[must_use]
    pub fn stats(&self) -> TrailStats {
        let (shared, counters) = (&self.shared, &self.shared.counters);
        let free = shared.options.media.free_bytes(&shared.dir);
        // Not held while other locks are waited for.
        let (closed_files, closed_bytes) = {
            let files = shared.files.read();
            (files.len() as u64, files.iter().map(|f| f.bytes).sum())
        };
        let last_checkpoint = shared.anchored.lock().as_ref().map_or(0, |c| c.sequence);
        let synced = shared.head_now().sequence;
        let (wall, _) = shared.times();
        let behind = shared.aging.lock().behind(wall, shared.options.clock.now());
        let state = shared.state.lock();
        TrailStats {
            records: counters.records.get(),
            bytes: counters.bytes.get(),
            dropped: counters.dropped.get(),
            gaps: counters.gaps.get(),
            refused: counters.refused.get(),
            failures: counters.failures.get(),
            reopened: counters.reopened.get(),
            head_failures: counters.head_failures.get(),
            rotations: counters.rotations.get(),
            rotation_failures: counters.rotation_failures.get(),
            removed: counters.removed.get(),
            checkpoints: counters.checkpoints.get(),
            checkpoint_failures: counters.checkpoint_failures.get(),
            queued: shared.queue.1.len() as u64,
            last_written: counters.last_written(),
            last_checkpoint,
            synced,
            live_bytes: state.end.since(state.from),
            closed_files,
            closed_bytes,
            retention_behind: behind.as_secs(),
            free_bytes: free.unwrap_or(0),
            short: state.short,
            down: state.log.is_none(),
        }
    }

    fn step_queue(&self) -> bool {
        match self.shared.queue.1.try_recv() {
            Ok(message) => {
                self.shared.take(message);
                true
            }
            Err(_) => false,
        }
    }

    /// Stepped workers: does what is due; false where there was nothing but the look itself.
    pub fn step(&self) -> bool {
        if self.step_queue() {
            return true;
        }
        let log = self.shared.state.lock().log.clone();
        if log.is_some_and(|log| log.step()) {
            return true;
        }
        if self.shared.rotation_due() {
            return self.shared.rotate().is_ok();
        }
        self.stepped.lock().look(&self.shared);
        false
    }

    /// Writes what is queued and that it is closed, syncs all, joins every thread. May be called twice; the first error is returned.
    pub fn close(&self) -> Result<(), Error> {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // Who is recording comes to an end while the queue is still written.
        drop(self.shared.gate.write());
        self.writer.stop_token().stop();
        let _ = self.shared.queue.0.try_send(Message::Wake);
        let panicked = self.writer.join().and(self.upkeep.join());
        // What came while the thread ended.
        while self.step_queue() {}
        self.shared.look_after_live();
        let (kind, severity) = (Kind::Trail, Severity::Notice);
        let said = self
            .shared
            .own(kind, severity, "esker.audit.closed", |_| {})
            .map(|_| ());
        let synced = self.shared.sync_all();
        let options = &self.shared.options;
        let anchors = options.checkpoint_entries > 0 || !options.checkpoint_after.is_zero();
        if anchors && synced.is_ok() {
            // A failed one is counted and told of; all is synced without it.
            let _ = self.shared.checkpoint();
        }
        let log = {
            let mut state = self.shared.state.lock();
            state.ended = true;
            state.log.take()
        };
        let closed = log.map_or(Ok(()), |log| log.close().map_err(Error::from));
        self.shared.with_head(HeadFile::close);
        *self.shared.lock.lock() = None;
        if let Err(panic) = panicked {
            return Err(Error::Io {
                doing: "closing",
                path: self.shared.dir.clone(),
                source: std::io::Error::other(panic.to_string()),
            });
        }
        said.and(synced).and(closed)
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if let Err(e) = self.close() {
            tracing::warn!(dir = %self.shared.dir.display(), error = %e, "the audit trail was not closed cleanly");
        }
    }
}
