//! The log's public face.

use crate::append::AtBound;
use crate::damage::Damage;
use crate::error::{LogError, OpenError, Poison};
use crate::event::LogEvent;
use crate::frame;
use crate::frame::Kind;
use crate::ids::{ChainHash, Epoch, EpochStart, LogId, Lsn, NodeId};
use crate::media::LockGuard;
use crate::meta::{self, SlotRecord};
use crate::options::{LogOptions, OnDamage, OpenRole, SyncPolicy, Workers as WorkerMode};
use crate::reader::{ReadLimit, Reader};
use crate::recovery::{self, Recovery};
use crate::repair::{self, Damaged};
use crate::sabotage::Sabotage;
use crate::segment::Segment;
use crate::shared::{Append, Chores, Marks, Retention, Shared, Watchers};
use crate::slots;
use crate::stats::{Counters, Sample};
use esker_sync::bell::Bell;
use esker_sync::deadline::after;
use esker_sync::events::{EventBus, Subscription};
use esker_sync::group::CommitGroup;
use esker_sync::line::Line;
use esker_sync::positions::Positions;
use esker_sync::stop::StopToken;
use esker_sync::tail::Tail;
use esker_sync::workers::Workers;
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long `close` waits for reservations that were not published or dropped yet.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// A log. Clones are handles to one log; the last one dropped closes it.
#[derive(Clone, Debug)]
pub struct Log {
    pub(crate) handle: Arc<Handle>,
}

/// Owns the threads `esker-flush`, `esker-prepare` and `esker-populate`. Dropped, it closes the log; whoever wants the error
/// calls [`Log::close`].
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Workers,
    /// Held while closing; what it came to.
    pub(crate) closing: Mutex<Option<Result<(), LogError>>>,
}

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
    /// What was found wrong; always empty unless opened with [`crate::OnDamage::Repair`]. The ranges lost by it are
    /// [`Log::damaged`].
    pub damaged: Vec<Damage>,
    /// Why the log can only be read for now: there was no room for a segment to go on in. It goes on by itself once
    /// there is some; [`Log::watch_room`] tells when.
    pub reading_only: Option<String>,
}

/// A frame of another node's log as it came over the wire, checked by the log before it is appended.
#[derive(Clone, Copy, Debug)]
pub struct WireFrame<'a> {
    /// Header.
    pub header: frame::Header,
    /// Payload without padding.
    pub payload: &'a [u8],
}

/// What is called when a position moves; see [`Log::watch`].
pub type Watcher = Arc<dyn Fn() + Send + Sync>;

/// Keeps a watcher registered; dropped, no further call of it begins.
#[derive(Debug)]
pub struct WatchGuard {
    shared: Arc<Shared>,
    of_room: bool,
    id: u64,
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        let watchers = if self.of_room {
            &self.shared.room_watchers
        } else {
            &self.shared.watchers
        };
        watchers.remove(self.id);
    }
}

impl Log {
    /// Opens or creates the log in `dir`, recovers it, and starts its workers.
    pub fn open(dir: &Path, options: LogOptions) -> Result<(Log, Recovered), OpenError> {
        options.check()?;
        let media = &*options.media;
        let io = open_error(dir);
        if options.create.is_some() {
            media.create_dir_all(dir).map_err(|e| io("creating", e))?;
        } else if !media.exists(dir).map_err(|e| io("looking for", e))? {
            return Err(OpenError::NotFound {
                dir: dir.to_owned(),
            });
        }
        let lock = media
            .lock(&dir.join(meta::LOCK))
            .map_err(|e| match e.kind() {
                io::ErrorKind::WouldBlock => OpenError::Locked {
                    dir: dir.to_owned(),
                },
                _ => io("locking", e),
            })?;
        Log::open_locked(dir, options, lock)
    }

    /// As `open`, with the lock taken.
    pub(crate) fn open_locked(
        dir: &Path,
        options: LogOptions,
        lock: Box<dyn LockGuard>,
    ) -> Result<(Log, Recovered), OpenError> {
        let media = &*options.media;
        let io = open_error(dir);
        // What is found is built on, and a rename of before a crash, or one whose sync failed, may not be on the disk yet.
        meta::sync_dir(media, dir).map_err(|e| io("syncing", e))?;
        for entry in media.list(dir).map_err(|e| io("listing", e))? {
            if entry.name.ends_with(meta::TMP) {
                media
                    .remove(&dir.join(&entry.name))
                    .map_err(|e| io("removing a leftover in", e))?;
            }
        }
        // Before recovery: what is refused has changed nothing.
        let slots = meta::load_slots(media, dir);
        let mut damage = Vec::new();
        let mut slots = match options.on_damage {
            OnDamage::Refuse => slots?,
            OnDamage::Repair => {
                repair::load_or_put_aside(media, dir, meta::SLOTS, slots, &mut damage, Vec::new())?
            }
        };
        let mut recovery = recovery::recover(dir, &options)?;
        recovery.report.damaged.extend(damage);
        let report = recovery.report.clone();
        if slots::clamp(&mut slots, report.end) {
            meta::store_slots(media, dir, slots.iter())
                .map_err(|e| io("writing the slots in", e))?;
        }
        meta::provide_spare(
            media,
            dir,
            meta::EPOCHS,
            meta::epochs_len(recovery.epochs.len()),
        );
        if report.created {
            // Best effort: with the file there, replacing it gives back what the next spare takes.
            let _ = meta::store_slots(media, dir, [].iter());
        }
        meta::provide_spare(media, dir, meta::SLOTS, 0);
        let mode = options.workers;
        let shared = Arc::new(share(dir, options, recovery, slots, lock));
        let workers = Workers::new(StopToken::new());
        if mode == WorkerMode::Threads {
            let stop = workers.stop_token();
            let ring = shared.clone();
            stop.on_stop(move || {
                ring.flush_bell.ring();
                ring.hurried.fetch_add(1, Ordering::Release);
                ring.prepare_bell.ring();
                ring.populate_bell.ring();
            });
            let (flusher, preparer, populator) = (shared.clone(), shared.clone(), shared.clone());
            workers
                .spawn("esker-flush", move |stop| flusher.run_flusher(&stop))
                .and_then(|()| {
                    workers.spawn("esker-prepare", move |stop| preparer.run_preparer(&stop))
                })
                .and_then(|()| {
                    workers.spawn("esker-populate", move |stop| populator.run_populator(&stop))
                })
                .map_err(|e| io("starting the workers of", e))?;
        }
        let handle = Arc::new(Handle {
            shared,
            workers,
            closing: Mutex::new(None),
        });
        Ok((Log { handle }, report))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// `reserve` + `publish`. Does not sync.
    pub fn append(&self, parts: &[&[u8]]) -> Result<Appended, LogError> {
        let sample = Sample::begin();
        let len = parts.iter().map(|p| p.len()).sum();
        let stretch = self.shared().reserve(len, AtBound::Wait)?;
        // Nothing from here on panics or fails: no guard is needed to void the frame.
        let appended = self.shared().publish(&stretch, Kind::Data, parts);
        sample.end(&self.shared().counters.appends);
        appended
    }

    /// Follower: appends a frame of the primary at its LSN, after checking LSN, epoch and checksum. A control
    /// frame that begins an epoch begins a segment, goes to the history, and is synced before this returns.
    pub fn append_replicated(&self, frame: WireFrame<'_>) -> Result<Appended, LogError> {
        self.shared().append_replicated(frame)
    }

    /// Begins an epoch with a higher `number` (promotion) and makes this node the writer. Durable on return.
    pub fn begin_epoch(&self, number: u64) -> Result<EpochStart, LogError> {
        self.shared().begin_epoch(number)
    }

    /// Runs `f` at a moment when no LSN is being reserved, with the reserved end: frames below it were
    /// reserved before, those at or above it will be reserved after. `f` must be short and must not call the log.
    pub fn at_boundary<R>(&self, f: impl FnOnce(Lsn) -> R) -> R {
        let _append = self.shared().append.lock();
        f(self.shared().reserved())
    }

    /// Blocks until everything below `end` is synced; may itself do the sync for the group.
    pub fn sync_up_to(&self, end: Lsn) -> Result<(), LogError> {
        self.shared().sync_up_to(end, None)
    }

    /// As `sync_up_to`, giving up after `timeout`.
    pub fn sync_up_to_timeout(&self, end: Lsn, timeout: Duration) -> Result<(), LogError> {
        self.shared().sync_up_to(end, Some(after(timeout)))
    }

    /// For how long who waits for a sync, by a wait of his own, does well to look for its end before he sleeps: see
    /// [`crate::LogOptions::sync_spin_max`].
    #[must_use]
    pub fn sync_spin(&self) -> Duration {
        self.shared().spin()
    }

    /// Asks the flusher to sync up to `end` and returns at once; [`Log::watch`] tells when.
    pub fn request_sync(&self, end: Lsn) {
        self.shared().request_sync(end);
    }

    /// Blocks until everything below `end` is published.
    pub fn wait_published(&self, end: Lsn, timeout: Option<Duration>) -> Result<(), LogError> {
        self.shared().wait_published(end, timeout)
    }

    /// Calls `watcher` whenever `synced` has moved, and when the log is poisoned or closed. It runs on a log thread,
    /// or on one that synced: it must not block (ring an eventfd).
    #[must_use]
    pub fn watch(&self, watcher: Watcher) -> WatchGuard {
        let id = self.shared().watchers.add(watcher);
        WatchGuard {
            shared: self.shared().clone(),
            of_room: false,
            id,
        }
    }

    /// Calls `watcher` whenever room came back (after `Busy` or `NoSpace`).
    #[must_use]
    pub fn watch_room(&self, watcher: Watcher) -> WatchGuard {
        let id = self.shared().room_watchers.add(watcher);
        WatchGuard {
            shared: self.shared().clone(),
            of_room: true,
            id,
        }
    }

    /// What happens to this log from now on, as far as `filter` lets it through, in a queue of `capacity`; see [`EventBus`].
    /// `filter` may run under a lock of the log: it must not call it.
    #[must_use]
    pub fn events(
        &self,
        capacity: usize,
        filter: impl Fn(&LogEvent) -> bool + Send + Sync + 'static,
    ) -> Subscription<LogEvent> {
        self.shared().events.subscribe(capacity, filter)
    }

    /// End of what was reserved.
    #[must_use]
    pub fn reserved(&self) -> Lsn {
        self.shared().reserved()
    }

    /// Everything below is copied into the log.
    #[must_use]
    pub fn published(&self) -> Lsn {
        self.shared().published()
    }

    /// Everything below is on stable storage.
    #[must_use]
    pub fn synced(&self) -> Lsn {
        self.shared().synced()
    }

    /// Oldest LSN that can be read.
    #[must_use]
    pub fn oldest(&self) -> Lsn {
        self.shared().oldest()
    }

    /// The poison, if any.
    #[must_use]
    pub fn poison(&self) -> Option<Poison> {
        self.shared().poison.get().cloned()
    }

    /// The first of its segments' files that is not where it was made, if any: somebody removed, renamed or replaced it. What is in it can be
    /// read as long as this log is open, and is gone afterwards.
    pub fn missing_file(&self) -> io::Result<Option<PathBuf>> {
        let shared = self.shared();
        let segments = shared.table.read().clone();
        for segment in segments {
            if segment.file.is_at(&segment.path)? {
                continue;
            }
            // Not one that was released meanwhile.
            let held = |s: &Arc<Segment>| Arc::ptr_eq(s, &segment);
            if shared.table.read().iter().any(held) {
                return Ok(Some(segment.path.clone()));
            }
        }
        Ok(None)
    }

    /// Identity.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.shared().meta.log
    }

    /// This node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.shared().meta.node
    }

    /// The epoch being written or followed; number 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared()
            .current_epoch()
            .map_or(Epoch { number: 0, id: 0 }, |start| start.epoch)
    }

    /// History of epochs, oldest first.
    #[must_use]
    pub fn epochs(&self) -> Vec<EpochStart> {
        self.shared().epochs.lock().clone()
    }

    /// Chain hash of everything below `lsn`, a frame boundary at or below `published`; reads from the nearest base known.
    pub fn chain_at(&self, lsn: Lsn) -> Result<ChainHash, LogError> {
        let shared = self.shared();
        let published = shared.published();
        let not_there = |why| LogError::NotNext {
            lsn,
            expected: published,
            why,
        };
        if lsn > published {
            return Err(not_there("it is beyond what is published"));
        }
        let _hold = slots::hold(&shared.positions, lsn, Sabotage::PinIgnored)?;
        let Some(segment) = shared.segment_of(lsn) else {
            return Ok(shared.meta.chain);
        };
        let chain = shared.chain_base(&segment)?;
        let footer = shared.fold_to(&segment, chain, lsn)?;
        if footer.end != lsn {
            return Err(not_there("it is inside of a frame"));
        }
        Ok(footer.chain)
    }

    /// A reader of frames from `from` (a frame boundary), up to what is published or synced at each call.
    pub fn reader(&self, from: Lsn, limit: ReadLimit) -> Result<Reader, LogError> {
        Reader::new(self.shared().clone(), from, limit)
    }

    /// Sets the release point: the log's user needs nothing below. Never moves back.
    pub fn release(&self, below: Lsn) {
        let shared = self.shared();
        let mut retention = shared.retention.lock();
        if below > retention.release {
            retention.release = below;
            drop(retention);
            shared.prepare_bell.ring();
        }
    }

    /// Stepped workers: does one piece of background work; false when there is none.
    pub fn step(&self) -> bool {
        let shared = self.shared();
        if shared.closed.load(Ordering::Acquire) {
            return false;
        }
        if shared.flush_step() || shared.upkeep_step() {
            return true;
        }
        let dirty = shared.retention.lock().slots_dirty;
        dirty && shared.write_slots().is_ok()
    }

    /// Flushes, marks clean, wakes every waiter, joins every worker; returns the first error. May be called twice.
    pub fn close(&self) -> Result<(), LogError> {
        self.handle.close()
    }
}

fn open_error(dir: &Path) -> impl Fn(&'static str, io::Error) -> OpenError {
    move |doing, source| OpenError::Io {
        doing,
        path: dir.to_owned(),
        source,
    }
}

impl Handle {
    fn close(&self) -> Result<(), LogError> {
        let mut closing = self.closing.lock();
        if let Some(done) = &*closing {
            return done.clone();
        }
        let shared = &self.shared;
        {
            let mut append = shared.append.lock();
            append.closed = true;
        }
        shared.room.notify_all();
        let flushed = self.flush_for_close();
        // A worker that waits for a frame nobody will publish must not wait on.
        shared.tail.position().stop();
        let joined = self.workers.join().map_err(|panic| LogError::Io {
            doing: "joining the workers of",
            path: shared.dir.clone(),
            source: Arc::new(io::Error::other(panic)),
        });
        let slots = if shared.poison.get().is_none() {
            shared.write_slots()
        } else {
            Ok(())
        };
        // Best effort: the next open removes what is outranked.
        while shared.poison.get().is_none() && shared.remove_a_leftover().unwrap_or(false) {}
        let marked = match (&flushed, &joined) {
            (Ok(()), Ok(())) => shared.write_mark(true),
            _ => Ok(()),
        };
        shared.closed.store(true, Ordering::Release);
        shared.end_waits();
        // Mappings and descriptors go with these, but for what reservations and readers still hold.
        {
            let mut append = shared.append.lock();
            append.active = None;
            append.prepared.clear();
        }
        shared.table.write().clear();
        *shared.dir_lock.lock() = None;
        shared.events.close();
        let done = flushed.and(joined).and(slots).and(marked);
        *closing = Some(done.clone());
        done
    }

    /// Waits for reservations under way, then syncs everything.
    fn flush_for_close(&self) -> Result<(), LogError> {
        let shared = &self.shared;
        let end = shared.reserved();
        if shared.published() < end && !shared.stepped() {
            let deadline = Some(Instant::now() + CLOSE_PATIENCE);
            shared.tail.position().wait(end.0, deadline, || {
                shared.published();
            });
        }
        let published = shared.published();
        shared.sync_up_to(published, None)?;
        if let Some(poison) = shared.poison.get() {
            return Err(LogError::Poisoned(poison.clone()));
        }
        if published < end {
            return Err(LogError::TimedOut {
                target: end,
                now: published,
            });
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::debug!(%error, "closing a dropped log");
        }
    }
}

fn share(
    dir: &Path,
    options: LogOptions,
    recovery: Recovery,
    slots: Vec<SlotRecord>,
    lock: Box<dyn crate::media::LockGuard>,
) -> Shared {
    let end = recovery.end;
    let (tail, turn) = Tail::new(end.0);
    let oldest = recovery.segments.first().map_or(end, |s| s.base());
    let positions = Positions::new(oldest.0);
    let clock = options.clock.now();
    Shared {
        dir: dir.to_owned(),
        meta: recovery.meta,
        opened_at: end,
        last_group: AtomicU64::new(0),
        frames_per_sync: AtomicU64::new(0),
        appends_synced: AtomicU64::new(0),
        sync_nanos: AtomicU64::new(0),
        by_calls: AtomicBool::new(options.sync_policy == SyncPolicy::Always),
        tail,
        group: CommitGroup::new(end.0),
        append: Line(Mutex::new(Append {
            turn,
            active: recovery.active,
            prepared: VecDeque::new(),
            no_space: recovery.no_space.map(Arc::new),
            closed: false,
            held: false,
            writer: options.role == OpenRole::Writer,
            rotations: 0,
            rotated_at: Duration::ZERO,
            rotated_after: Duration::MAX,
            step_at: end,
        })),
        steps: Mutex::default(),
        room: Condvar::new(),
        room_wanted: AtomicBool::new(false),
        at_bound: AtomicUsize::new(0),
        retention: Mutex::new(Retention {
            slots: slots::load(&positions, slots),
            ..Retention::default()
        }),
        positions,
        table: RwLock::new(recovery.segments),
        epochs: Mutex::new(recovery.epochs),
        chores: Mutex::new(Chores {
            spares: recovery.spares,
            next_id: recovery.next_id,
            retry_at: None,
        }),
        slots_file: Mutex::new(()),
        leftovers: Mutex::new(Vec::new()),
        outranked: Mutex::new(Vec::new()),
        epochs_file: Mutex::new(()),
        epochs_dirty: AtomicBool::new(recovery.epochs_dirty),
        marks: Mutex::new(Marks {
            sequence: recovery.mark_sequence,
            synced: Lsn::ZERO,
        }),
        dir_lock: Mutex::new(Some(lock)),
        poison: OnceLock::new(),
        closed: AtomicBool::new(false),
        damaged: Mutex::new(
            (recovery.report.damaged.iter())
                .filter_map(|d| d.lost.map(Damaged::new))
                .collect(),
        ),
        rewound: OnceLock::new(),
        flush_bell: Bell::default(),
        requested: AtomicU64::new(0),
        unmarked: AtomicBool::new(true),
        written_back: AtomicU64::new(0),
        synced_at: AtomicU64::new(clock.as_nanos() as u64),
        prepare_bell: Bell::default(),
        hurried: AtomicUsize::new(0),
        populate_bell: Bell::default(),
        populated: Line(AtomicU64::new(0)),
        ahead: Mutex::default(),
        closing: AtomicBool::new(true),
        events: EventBus::new(),
        free_bytes: AtomicU64::new(u64::MAX),
        watchers: Watchers::default(),
        room_watchers: Watchers::default(),
        counters: Counters::default(),
        options,
    }
}
