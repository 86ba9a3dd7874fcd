//! What all handles, workers and reservations of a log share.
//!
//! | rank | lock               | guards                              | while held                        |
//! |------|--------------------|-------------------------------------|-----------------------------------|
//! |    1 | `Shared::append`   | the order of LSNs, the active segment, prepared ones | nothing that blocks; may wait on `room` |
//! |    2 | `Shared::retention`| release point, slots                | nothing that blocks               |
//! |    - | inside `positions` | who holds which position            | nothing; taken with `retention` held or not |
//! |    3 | `Shared::table`    | the list of segments                | nothing that blocks               |
//! |    4 | `Shared::epochs`   | the history                         | nothing that blocks               |
//! |    5 | `Shared::steps`    | where a sync may end               | nothing                           |
//! |    - | `Shared::ahead`    | the populated window                | calls of the populator            |
//! |    - | `Shared::chores`   | who does the preparer's work        | taken first of all; file calls    |
//! |    - | `Shared::damaged`  | damaged ranges                      | file calls of a repair; `table` for a moment |
//! |    - | `Shared::leftovers`, `outranked` | files to be removed                | nothing                           |
//! |    - | `Shared::slots_file`, `epochs_file`, `marks` | the writing of those | file calls; taken with none but `chores` held |
//!
//! The group's leadership is like a lock too: the leader syncs, takes `table` for a moment, and calls the watchers
//! after it has handed over.

use crate::error::{LogError, Poison};
use crate::event::LogEvent;
use crate::frame::Header;
use crate::ids::{EpochStart, Lsn, SegmentId};
use crate::log::Watcher;
use crate::media::LockGuard;
use crate::meta::Meta;
use crate::options::{LogOptions, Workers as WorkerMode};
use crate::populate::Ahead;
use crate::segment::{Identity, Prepared, Segment};
use crate::slots;
use crate::stats::Counters;
use esker_sync::bell::Bell;
use esker_sync::events::EventBus;
use esker_sync::group::CommitGroup;
use esker_sync::line::Line;
use esker_sync::positions::Positions;
use esker_sync::tail::{Tail, Turn, Words};
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Rank 1.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) turn: Turn,
    pub(crate) active: Option<Arc<Segment>>,
    pub(crate) prepared: VecDeque<Prepared>,
    /// Why no segment could be prepared; healed by the next that can.
    pub(crate) no_space: Option<Arc<io::Error>>,
    pub(crate) closed: bool,
    /// An epoch is being begun: nobody else reserves.
    pub(crate) held: bool,
    /// Whether this node opens epochs and appends by itself.
    pub(crate) writer: bool,
    pub(crate) rotations: u64,
    /// When the last one was, by the log's clock; how long after the one before it.
    pub(crate) rotated_at: Duration,
    pub(crate) rotated_after: Duration,
    /// Reserved beyond this LSN, a step is noted; see [`crate::flush`].
    pub(crate) step_at: Lsn,
}

/// Rank 2.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    pub(crate) release: Lsn,
    pub(crate) slots: BTreeMap<String, slots::Entry>,
    /// The slots changed since they were written.
    pub(crate) slots_dirty: bool,
    /// Their last writing failed: what was promised to be durable may not be.
    pub(crate) slots_failed: bool,
}

/// Functions to be called when something moves.
#[derive(Default)]
pub(crate) struct Watchers {
    count: AtomicUsize,
    list: Mutex<Vec<(u64, Watcher)>>,
    next: AtomicU64,
}

impl std::fmt::Debug for Watchers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watchers")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Watchers {
    pub(crate) fn add(&self, watcher: Watcher) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut list = self.list.lock();
        list.push((id, watcher));
        self.count.store(list.len(), Ordering::Release);
        id
    }

    pub(crate) fn remove(&self, id: u64) {
        let mut list = self.list.lock();
        list.retain(|(other, _)| *other != id);
        self.count.store(list.len(), Ordering::Release);
    }

    /// Calls them, outside of the lock.
    pub(crate) fn call(&self) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let list: Vec<Watcher> = self.list.lock().iter().map(|(_, w)| w.clone()).collect();
        for watcher in list {
            watcher();
        }
    }
}

/// The last mark that reached the disk outside of a frame.
#[derive(Debug)]
pub(crate) struct Marks {
    pub(crate) sequence: u64,
    pub(crate) synced: Lsn,
}

#[derive(Debug)]
pub(crate) struct Shared {
    // Fixed.
    pub(crate) dir: PathBuf,
    pub(crate) options: LogOptions,
    pub(crate) meta: Meta,
    /// Where appends began in this life.
    pub(crate) opened_at: Lsn,
    // How frames are written.
    /// Of them, at the last sync; written by the leader.
    pub(crate) appends_synced: AtomicU64,
    /// Frames of the last sync; written by the leader.
    pub(crate) last_group: AtomicU64,
    /// Sliding mean, in sixteenths; written by the leader.
    pub(crate) frames_per_sync: AtomicU64,
    /// Sliding mean of a sync's time, in sixteenths; written by the leader.
    pub(crate) sync_nanos: AtomicU64,
    /// Whether frames are written by calls now, rather than by stores into the mapping.
    pub(crate) by_calls: AtomicBool,
    // Positions.
    pub(crate) tail: Tail,
    /// Its position is `synced`.
    pub(crate) group: CommitGroup,
    /// Its low position is the oldest LSN; readers and slots hold theirs.
    pub(crate) positions: Positions,
    // Locks; see the module for their order.
    pub(crate) append: Line<Mutex<Append>>,
    /// Ends of frames above `synced`, some MiB apart.
    pub(crate) steps: Mutex<VecDeque<Lsn>>,
    /// With `append`: room came back, or the end came.
    pub(crate) room: Condvar,
    pub(crate) room_wanted: AtomicBool,
    /// Appends that wait for a sync at the bound of unsynced bytes.
    pub(crate) at_bound: AtomicUsize,
    pub(crate) retention: Mutex<Retention>,
    pub(crate) table: RwLock<Vec<Arc<Segment>>>,
    pub(crate) epochs: Mutex<Vec<EpochStart>>,
    pub(crate) chores: Mutex<Chores>,
    pub(crate) slots_file: Mutex<()>,
    /// Files of segments that are no more, still to be removed.
    pub(crate) leftovers: Mutex<Vec<PathBuf>>,
    /// Files of segments without frames that became leftovers when their base was passed by a sync.
    pub(crate) outranked: Mutex<Vec<(Lsn, PathBuf)>>,
    pub(crate) epochs_file: Mutex<()>,
    /// The history on disk lacks an epoch; its segments are not removed before it is written.
    pub(crate) epochs_dirty: AtomicBool,
    pub(crate) marks: Mutex<Marks>,
    /// Free once closed (W9).
    pub(crate) dir_lock: Mutex<Option<Box<dyn LockGuard>>>,
    // Ends.
    pub(crate) poison: OnceLock<Poison>,
    pub(crate) closed: AtomicBool,
    /// By LSN; a leaf: file calls are made under it.
    pub(crate) damaged: Mutex<Vec<crate::repair::Damaged>>,
    /// The log was rewound to there and has ended (RW3).
    pub(crate) rewound: OnceLock<Lsn>,
    // Flusher.
    pub(crate) flush_bell: Bell,
    pub(crate) requested: AtomicU64,
    /// Synced since the last idle mark.
    pub(crate) unmarked: AtomicBool,
    pub(crate) synced_at: AtomicU64,
    /// Up to where writing back was begun; leaders only.
    pub(crate) written_back: AtomicU64,
    // Preparer.
    pub(crate) prepare_bell: Bell,
    /// So many wait for the preparer's lock, or its end: it does nothing at leisure (U7).
    pub(crate) hurried: AtomicUsize,
    // Populator.
    pub(crate) populate_bell: Bell,
    /// Reserved beyond this LSN, the window ahead is to be populated; MAX when that was asked for.
    pub(crate) populated: Line<AtomicU64>,
    pub(crate) ahead: Mutex<Ahead>,
    /// Some closed segment still has its mapping, or no footer; changed under `table`.
    pub(crate) closing: AtomicBool,
    // Watchers.
    pub(crate) events: EventBus<LogEvent>,
    /// Bytes that could be allocated when that was last asked; MAX where it is not.
    pub(crate) free_bytes: AtomicU64,
    pub(crate) watchers: Watchers,
    pub(crate) room_watchers: Watchers,
    pub(crate) counters: Counters,
}

/// What the preparer has to do; whoever holds it does it.
#[derive(Debug, Default)]
pub(crate) struct Chores {
    /// Prepared files found at open, not yet under a new id.
    pub(crate) spares: Vec<PathBuf>,
    pub(crate) next_id: u64,
    /// When preparing may be tried again after a failure, by the log's clock.
    pub(crate) retry_at: Option<Duration>,
}

impl Shared {
    pub(crate) fn stepped(&self) -> bool {
        self.options.workers == WorkerMode::Stepped
    }

    pub(crate) fn synced(&self) -> Lsn {
        Lsn(self.group.position().get())
    }

    /// Looks how far the log is published.
    pub(crate) fn published(&self) -> Lsn {
        Lsn(self.tail.advance(&mut TableWords {
            table: &self.table,
            at: None,
        }))
    }

    pub(crate) fn reserved(&self) -> Lsn {
        Lsn(self.tail.reserved())
    }

    pub(crate) fn identity(&self, id: SegmentId) -> Identity {
        Identity {
            log: self.meta.log,
            node: self.meta.node,
            id,
            bytes: self.options.segment_bytes,
        }
    }

    pub(crate) fn current_epoch(&self) -> Option<EpochStart> {
        self.epochs.lock().last().copied()
    }

    /// The error of one who comes or waits after the end.
    pub(crate) fn ended(&self) -> LogError {
        match (self.rewound.get(), self.poison.get()) {
            (Some(fork), _) => LogError::Rewound { fork: *fork },
            (None, Some(poison)) => LogError::Poisoned(poison.clone()),
            (None, None) => LogError::Closed,
        }
    }

    /// Tells those who watch.
    pub(crate) fn event(&self, event: LogEvent) {
        event.trace();
        self.events.publish(&event);
    }

    /// The oldest LSN held, for certain only to who holds it.
    pub(crate) fn oldest(&self) -> Lsn {
        Lsn(self.positions.low())
    }

    /// Poisons the log (W6): nothing is acknowledged from here on.
    pub(crate) fn poison(&self, doing: &'static str, path: &Path, source: io::Error) -> Poison {
        let poison = Poison {
            doing,
            path: path.to_owned(),
            source: Arc::new(source),
        };
        if self.poison.set(poison.clone()).is_ok() {
            self.event(LogEvent::Poisoned(poison));
        }
        self.end_waits();
        self.poison.get().expect("set above").clone()
    }

    /// Wakes everybody who waits for something that will not come any more.
    pub(crate) fn end_waits(&self) {
        self.tail.position().stop();
        self.group.stop();
        // Under the lock: who tests for the end before sleeping on `room` does so under it.
        drop(self.append.lock());
        self.room.notify_all();
        self.watchers.call();
        self.room_watchers.call();
    }

    /// Room may have come back.
    pub(crate) fn room_came(&self) {
        if self.room_wanted.swap(false, Ordering::AcqRel) {
            drop(self.append.lock());
            self.room.notify_all();
            self.room_watchers.call();
        }
    }

    /// The segment that holds `lsn`, or will.
    pub(crate) fn segment_of(&self, lsn: Lsn) -> Option<Arc<Segment>> {
        find(&self.table.read(), lsn).cloned()
    }

    pub(crate) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::Io {
            doing,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }
}

/// The last segment whose base is at or below `lsn`.
pub(crate) fn find(table: &[Arc<Segment>], lsn: Lsn) -> Option<&Arc<Segment>> {
    table[..table.partition_point(|s| s.base() <= lsn)].last()
}

/// The words of frames, wherever their segments are.
pub(crate) struct TableWords<'a> {
    pub(crate) table: &'a RwLock<Vec<Arc<Segment>>>,
    pub(crate) at: Option<Arc<Segment>>,
}

impl Words for TableWords<'_> {
    fn load(&mut self, at: u64, f: impl Fn(&AtomicU64) -> u64) -> Option<u64> {
        let at = Lsn(at);
        if self
            .at
            .as_ref()
            .is_none_or(|s| s.end() <= at || s.base() > at)
        {
            self.at = find(&self.table.read(), at).cloned();
        }
        let segment = self.at.as_ref()?;
        // A segment without a mapping was published and synced to its end.
        if segment.end() <= at || segment.map().is_none() {
            return None;
        }
        segment
            .frame_word(at)
            .map(f)
            .filter(|word| Header::publishes(*word))
    }

    fn span(word: u64) -> u64 {
        Header::span(word)
    }
}
