//! Rewinding: a node follows another history from a fork on, below its own end (W5, R4).
//!
//! - RW1: what is cut is copied aside first, as a log of its own in `cut-<fork>-<epoch>/`, synced; it is complete once its `LOG`
//!   is there. The bytes in the log's own segments are never written again.
//! - RW2: then, each durable before the next: the history loses the epochs that begin at or above the fork; a segment whose
//!   base is the fork, with a clean mark at the fork, outranks all above. Before the last step an open finds the log as it was (the history is repaired from the segments),
//!   after it the log that ends at the fork.
//! - RW3: the log ends with it. Every append, wait, sync and reader of it gets [`LogError::Rewound`], so no ticket, position or reader of
//!   the history that was cut is ever taken for one of the history that goes on. [`Log::rewind`] returns the log anew,
//!   opened as a follower.
//!
//! | error                 | the log                        |
//! |-----------------------|--------------------------------|
//! | before the last step  | goes on as it was              |
//! | of the last step      | poisoned: which it is, is seen by reopening |
//! | of the opening        | is closed; open it again       |

use crate::error::LogError;
use crate::event::LogEvent;
use crate::ids::{ChainHash, Epoch, EpochStart, Lsn};
use crate::log::{Handle, Log};
use crate::media::LockGuard;
use crate::meta::{self, Meta};
use crate::options::{LogOptions, OpenRole};
use crate::prepare::{self, AT_ONCE};
use crate::sabotage::{self, Sabotage};
use crate::segment::{
    Activation, FOOTER_LEN, FRAMES_AT, Identity, SECTOR, SectorMark, Segment, SegmentHeader,
    file_name,
};
use crate::shared::{Chores, Shared};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a rewind waits for reservations that were not published or dropped yet.
const PATIENCE: Duration = Duration::from_secs(10);
const STRIDE: u64 = 1 << 20;

/// What a rewind came to.
#[derive(Clone, Debug)]
pub struct Rewound {
    /// Where the log ends now.
    pub fork: Lsn,
    /// Where it ended before.
    pub end: Lsn,
    /// The log of what was cut, from the fork on; none where nothing was. It is the operator's to look at and to remove.
    pub cut: Option<PathBuf>,
    /// Epochs that are not in the history any more.
    pub epochs: Vec<EpochStart>,
    /// Slots that stood above the fork and stand at it now: their consumers saw frames that are no more.
    pub slots: Vec<String>,
}

impl Log {
    /// Cuts everything at and above `fork`, a frame boundary, to follow another node's history from there on; this node becomes
    /// a follower, whatever it was. `epoch` is the one in force below `fork`, which both histories have in common: what comes
    /// next is a frame of it, or the control frame of another.
    ///
    /// The tail is copied aside first (see [`Rewound::cut`]). Slots above the fork are moved back to it, so that the log is held
    /// from there on for consumers that have to rewind themselves.
    ///
    /// This log ends: all its handles, readers and waits get [`LogError::Rewound`]. Go on with the log returned.
    /// On another error nothing was cut, unless the log is poisoned or closed now; then reopen it.
    pub fn rewind(&self, fork: Lsn, epoch: Epoch) -> Result<(Log, Rewound), LogError> {
        let handle = &*self.handle;
        let mut closing = handle.closing.lock();
        let shared = &handle.shared;
        if closing.is_some() {
            return Err(shared.ended());
        }
        shared.hold()?;
        let cut = self.cut(fork, epoch);
        let rewound = match cut {
            Ok(rewound) => rewound,
            Err(error) => {
                shared.append.lock().held = false;
                shared.room.notify_all();
                shared.room_watchers.call();
                return Err(error);
            }
        };
        shared.event(LogEvent::Rewound {
            fork,
            end: rewound.end,
        });
        let lock = handle.end_rewound(fork);
        *closing = Some(Ok(()));
        drop(closing);
        let options = LogOptions {
            role: OpenRole::Follower,
            create: None,
            ..shared.options.clone()
        };
        let lock = lock.ok_or_else(|| shared.ended())?;
        let (log, _) = Log::open_locked(&shared.dir, options, lock).map_err(|source| {
            LogError::NotReopened {
                dir: shared.dir.clone(),
                source: Arc::new(source),
            }
        })?;
        Ok((log, rewound))
    }

    /// The steps on disk (RW1, RW2). Nobody reserves.
    fn cut(&self, fork: Lsn, epoch: Epoch) -> Result<Rewound, LogError> {
        let shared = &*self.handle.shared;
        let refused = |why| LogError::NotRewound { fork, why };
        let end = shared.reserved();
        // Frames under way are finished, and those below the fork must be durable before anything outranks their tail.
        shared.sync_up_to(end, Some(Instant::now() + PATIENCE))?;
        // No segment goes, no footer is written meanwhile.
        let mut chores = shared.chores_at_once();
        if fork > end {
            return Err(refused("it is beyond the end"));
        }
        let history = shared.epochs.lock().clone();
        let in_force = history
            .iter()
            .rev()
            .find(|start| start.begin < fork)
            .copied();
        let in_force = in_force.ok_or_else(|| {
            refused("nothing would be left; make an empty log, or rebuild it from a checkpoint")
        })?;
        if in_force.epoch != epoch {
            return Err(refused("another epoch is in force below it"));
        }
        let chain = self.chain_at(fork)?;
        let cut = match fork < end {
            true if sabotage::on(Sabotage::CutNotCopied) => Some(shared.dir.join("cut")),
            true => Some(shared.copy_aside(fork, end, chain, &history)?),
            false => None,
        };
        let slots = shared.retention.lock().slots_above(fork);
        let (kept, dropped): (Vec<_>, Vec<_>) = history.iter().partition(|e| e.begin < fork);
        let steps = shared
            .cut_history(&kept, !dropped.is_empty())
            .and_then(|()| shared.outrank(&mut chores, fork, in_force, chain));
        if let Err(error) = steps {
            // The disk has to be told again what this log holds.
            shared.epochs_dirty.store(true, Ordering::Release);
            return Err(error);
        }
        // From here on nobody writes the slots for this log.
        let slots_file = shared.slots_file.lock();
        let _ = shared.rewound.set(fork);
        let slots_now = shared.slot_records();
        if let Err(error) = meta::store_slots(&*shared.options.media, &shared.dir, slots_now.iter())
        {
            // Those on disk hold more.
            tracing::warn!(%error, "slots of a log that was rewound");
        }
        drop(slots_file);
        Ok(Rewound {
            fork,
            end,
            cut,
            epochs: dropped,
            slots,
        })
    }
}

impl Handle {
    /// Ends a log that was rewound, and returns the lock of its directory.
    fn end_rewound(&self, fork: Lsn) -> Option<Box<dyn LockGuard>> {
        let shared = &self.shared;
        debug_assert_eq!(shared.rewound.get(), Some(&fork));
        shared.append.lock().closed = true;
        shared.closed.store(true, Ordering::Release);
        shared.end_waits();
        if let Err(panic) = self.workers.join() {
            tracing::error!(%panic, "a worker of a log that was rewound");
        }
        {
            let mut append = shared.append.lock();
            append.active = None;
            append.prepared.clear();
        }
        shared.table.write().clear();
        shared.events.close();
        shared.dir_lock.lock().take()
    }
}

impl Shared {
    /// Keeps everybody else from reserving.
    fn hold(&self) -> Result<(), LogError> {
        let mut append = self.append.lock();
        loop {
            if append.closed || self.poison.get().is_some() {
                return Err(self.ended());
            }
            if !append.held {
                append.held = true;
                return Ok(());
            }
            if self.stepped() {
                return Err(LogError::Busy);
            }
            self.room.wait(&mut append);
        }
    }

    /// RW1. Everything up to `end` is synced.
    fn copy_aside(
        &self,
        fork: Lsn,
        end: Lsn,
        chain: ChainHash,
        history: &[EpochStart],
    ) -> Result<PathBuf, LogError> {
        let media = &*self.options.media;
        let epoch = history
            .last()
            .map_or(Epoch { number: 0, id: 0 }, |e| e.epoch);
        let name = format!("cut-{fork}-{epoch}");
        let mut to = self.dir.join(&name);
        let mut n = 1;
        let doing = "copying what is cut to";
        while (media.exists(&to.join(meta::LOG))).map_err(Shared::io_error(doing, &to))? {
            n += 1;
            to = self.dir.join(format!("{name}-{n}"));
        }
        let copied = (|| {
            if media.exists(&to)? {
                // A copy that was cut short.
                for entry in media.list(&to)? {
                    media.remove(&to.join(&entry.name))?;
                }
            }
            media.create_dir_all(&to)?;
            let segments: Vec<Arc<Segment>> = {
                let table = self.table.read();
                let first = table.partition_point(|s| s.end().min(end) <= fork);
                table[first..]
                    .iter()
                    .filter(|s| s.base() < end)
                    .cloned()
                    .collect()
            };
            for segment in &segments {
                self.copy_segment(&to, segment, fork, end)?;
            }
            meta::store_epochs_once(media, &to, history)?;
            meta::sync_dir(media, &to)?;
            let meta = Meta {
                birth: fork,
                chain,
                ..self.meta
            };
            meta.store(media, &to)
        })();
        copied.map_err(Shared::io_error(doing, &to))?;
        Ok(to)
    }

    /// Copies the frames of `segment` that lie in `fork..end` to a segment of their own.
    fn copy_segment(&self, to: &Path, segment: &Segment, fork: Lsn, end: Lsn) -> io::Result<()> {
        let (base, until) = (segment.base().max(fork), segment.end().min(end));
        let len = until.since(base);
        let identity = Identity {
            bytes: (FRAMES_AT + len + FOOTER_LEN).next_multiple_of(4096),
            ..segment.identity
        };
        let path = to.join(file_name(identity.id));
        let file = self.options.media.create(&path, identity.bytes)?;
        let header = SegmentHeader {
            identity,
            active: Some(Activation {
                base,
                epoch: segment.active.epoch,
            }),
            chain: None,
        };
        file.write_all_at(&header.encode(), 0)?;
        let mark = SectorMark {
            sequence: 1,
            synced: until,
            clean: true,
            writer: false,
        };
        file.write_all_at(&mark.encode(identity.id, self.meta.node), mark.place())?;
        let mut buf = Vec::new();
        for at in (0..len).step_by(STRIDE as usize) {
            buf.resize(STRIDE.min(len - at) as usize, 0);
            segment
                .file
                .read_exact_at(&mut buf, segment.offset(base) + at)?;
            file.write_all_at(&buf, FRAMES_AT + at)?;
        }
        match sabotage::on(Sabotage::CutNotSynced) {
            true => Ok(()),
            false => file.sync(),
        }
    }

    fn cut_history(&self, kept: &[EpochStart], changed: bool) -> Result<(), LogError> {
        let _file = self.epochs_file.lock();
        if !changed && !self.epochs_dirty.load(Ordering::Acquire)
            || sabotage::on(Sabotage::HistoryNotCut)
        {
            return Ok(());
        }
        meta::store_epochs(&*self.options.media, &self.dir, kept)
            .map_err(Shared::io_error("writing the history in", &self.dir))?;
        // What is written is what is to be there.
        self.epochs_dirty.store(false, Ordering::Release);
        Ok(())
    }

    /// Begins a segment at the fork, with everything below it marked as synced.
    fn outrank(
        &self,
        chores: &mut Chores,
        fork: Lsn,
        epoch: EpochStart,
        chain: ChainHash,
    ) -> Result<(), LogError> {
        let media = &*self.options.media;
        let ready = self.append.lock().prepared.pop_front();
        let prepared = match ready {
            Some(prepared) => prepared,
            None => {
                let identity = self.identity(crate::ids::SegmentId(chores.next_id));
                chores.next_id += 1;
                let spares = &mut chores.spares;
                prepare::from_spares(media, &self.dir, spares, identity, None, AT_ONCE)
                    .map_err(Shared::io_error("preparing a segment in", &self.dir))?
            }
        };
        let segment = Segment::activate(prepared, Activation { base: fork, epoch });
        segment.write_chain(chain);
        let mark = SectorMark {
            sequence: self.marks.lock().sequence + 1,
            synced: match sabotage::on(Sabotage::RewindMarkTooHigh) {
                true => self.synced(),
                false => fork,
            },
            clean: true,
            writer: false,
        };
        segment.write(
            mark.place() as usize,
            &mark.encode(segment.identity.id, self.meta.node),
        );
        let map = segment.map().expect("just activated");
        if sabotage::on(Sabotage::RewindNotSynced) {
            return Ok(());
        }
        // The header, the marks, and the first word of the frames, which is zero.
        map.sync(0, FRAMES_AT as usize + SECTOR).map_err(|source| {
            LogError::Poisoned(self.poison("rewinding to", &segment.path, source))
        })
    }
}
