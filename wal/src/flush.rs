//! Syncs, in groups; marks when the log falls idle; the flusher thread.
//!
//! - FL1: only the group's leader syncs, so syncs do not overlap and `synced` moves in order.
//! - FL2: `synced` moves only after the sync of everything below it has returned well.
//! - FL3: a failed sync poisons the log (W6): no later sync can be trusted to have written the same pages.
//! - FL4: a lone writer syncs in its own thread, at once. The flusher serves those who can't block
//!   ([`Shared::request_sync`]), the interval, half of the bound of unsynced bytes, and idle marks.
//! - FL5: a sync takes [`SYNC_MAX`] bytes or one frame more: who waits at the bound is let on after as much, not when
//!   everything before it is written. It ends at a *step*, the end of a frame noted at its reservation.
//! - FL6: while it waits for the device, the device is given what follows ([`Shared::write_back_beyond`]). That is no sync and proves
//!   nothing; an error of it is the next sync's, since it is the same open file's (W6).

use crate::error::{LogError, Poison};
use crate::ids::Lsn;
use crate::options::SyncPolicy;
use crate::sabotage::{self, Sabotage};
use crate::segment::{SectorMark, Segment};
use crate::shared::{Append, Shared};
use esker_sync::deadline;
use esker_sync::group::Entered;
use esker_sync::stop::StopToken;
use esker_sync::watermark::WaitEnd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Bytes of one sync where more is unsynced: 10 ms on a slow disk.
const SYNC_MAX: u64 = 4 << 20;
/// Written back ahead of a sync's end, and the least that is worth a call.
const WRITE_BACK: u64 = 16 << 20;
const WRITE_BACK_MIN: u64 = 1 << 20;
/// At most so much between two steps.
const STEP: u64 = 1 << 20;
/// While a sync is put off, a stop or a stall is noticed after this at the latest.
const PAUSE: Duration = Duration::from_millis(1);

/// Mean frames per sync, in sixteenths, from which a leader waits for more.
const GATHER_FROM: u64 = 20;
/// Up to so many, in sixteenths, who waits for a sync looks for its end before it sleeps; more would keep each other from the cores.
const SPIN_UP_TO: u64 = 8 * 16;
/// It never waits longer, and ends when nothing came in a part of its time.
const GATHER_MAX: Duration = Duration::from_micros(50);
const GATHER_QUIET: u32 = 3;
/// Frames per sync up to which they are written by calls.
const CALLS_UP_TO: u64 = 12;

impl Shared {
    /// Blocks until everything below `end` is synced.
    pub(crate) fn sync_up_to(&self, end: Lsn, deadline: Option<Instant>) -> Result<(), LogError> {
        if self.synced() >= end {
            return Ok(());
        }
        let begun = Instant::now();
        let done = self.sync_for(end, deadline);
        let waited = begun.elapsed().as_nanos() as u64;
        self.counters.waits.record(waited);
        done
    }

    fn sync_for(&self, end: Lsn, deadline: Option<Instant>) -> Result<(), LogError> {
        loop {
            let lead = match self.group.enter(end.0, deadline, self.spin()) {
                Entered::Reached => return Ok(()),
                Entered::Stopped => return Err(self.ended()),
                Entered::TimedOut => {
                    return Err(LogError::TimedOut {
                        target: end,
                        now: self.synced(),
                    });
                }
                Entered::Lead(lead) => lead,
            };
            self.put_off(deadline);
            self.gather();
            let synced = self.synced();
            let mut published = self.published();
            if published == synced {
                // A frame before `end` is still being filled. Leadership is kept: nobody else could sync
                // anything either.
                if self.stepped() {
                    return Err(LogError::TimedOut {
                        target: end,
                        now: synced,
                    });
                }
                let look = || {
                    self.published();
                };
                match self.tail.position().wait(synced.0 + 1, deadline, look) {
                    WaitEnd::Reached => published = self.published(),
                    WaitEnd::Stopped => return Err(self.ended()),
                    WaitEnd::TimedOut => {
                        return Err(LogError::TimedOut {
                            target: end,
                            now: synced,
                        });
                    }
                }
            }
            let to = self.sync_end(synced, published);
            self.write_back_beyond(to, published);
            match self.sync_range(synced, to) {
                Ok(()) => {
                    lead.finish(to.0);
                    self.after_sync();
                }
                Err(poison) => {
                    drop(lead);
                    return Err(LogError::Poisoned(poison));
                }
            }
        }
    }

    /// For how long a wait looks for its end before it sleeps: as long as the sync under way and the next leader's moment may take,
    /// where several wait.
    pub(crate) fn spin(&self) -> Duration {
        let longest = self.options.sync_spin_max;
        let frames = self.frames_per_sync.load(Ordering::Relaxed);
        if self.stepped() || !(GATHER_FROM..=SPIN_UP_TO).contains(&frames) {
            return Duration::ZERO;
        }
        let mean = self.sync_nanos.load(Ordering::Relaxed) / 16;
        Duration::from_nanos(mean * 2).min(longest)
    }

    /// Notes the end of a frame as a place where a sync may end, and has the flusher begin when half of the bound is
    /// unsynced. Called with `append` locked, once per step.
    pub(crate) fn step(&self, append: &mut Append, end: Lsn) {
        let bound = self.options.unsynced_bytes_max;
        append.step_at = end.advance(STEP.min(bound / 8));
        let synced = self.synced();
        let mut steps = self.steps.lock();
        while steps.front().is_some_and(|step| *step <= synced) {
            steps.pop_front();
        }
        steps.push_back(end);
        drop(steps);
        if end.since(synced) >= bound / 2 {
            self.counters.early_flushes.fetch_add(1, Ordering::Relaxed);
            self.request_sync(end);
        }
    }

    /// Where the sync of what is unsynced ends (FL5).
    fn sync_end(&self, synced: Lsn, published: Lsn) -> Lsn {
        let most = synced.advance(SYNC_MAX);
        if published <= most {
            return published;
        }
        let steps = self.steps.lock();
        let above = steps.iter().skip_while(|step| **step <= synced);
        let mut to = None;
        for step in above {
            if to.is_some() && *step > most {
                break;
            }
            to = Some(*step);
        }
        to.map_or(published, |to| to.min(published))
    }

    /// Waits until [`crate::LogOptions::min_sync_interval`] has passed since the last sync. Leader only.
    fn put_off(&self, deadline: Option<Instant>) {
        let interval = self.options.min_sync_interval;
        if interval.is_zero() || self.stepped() {
            return;
        }
        loop {
            let left = interval.saturating_sub(self.idle_for());
            let late = deadline.is_some_and(|at| at <= Instant::now());
            let wanted = self.room_wanted.load(Ordering::Acquire)
                || self.at_bound.load(Ordering::Acquire) > 0;
            if left.is_zero() || late || wanted || self.group.position().is_stopped() {
                return;
            }
            std::thread::sleep(left.min(PAUSE));
        }
    }

    /// Has what is published beyond `to`, where the sync about to begin ends, written back beside it, so that the device has
    /// work while the processor collects the next pages. Leader only.
    fn write_back_beyond(&self, to: Lsn, published: Lsn) {
        // Relaxed: leaders only, one after the other.
        let begun = Lsn(self.written_back.load(Ordering::Relaxed)).max(to);
        let end = published.min(to.advance(WRITE_BACK));
        if end.0 < begun.0 + WRITE_BACK_MIN || self.stepped() {
            return;
        }
        self.written_back.store(end.0, Ordering::Relaxed);
        for segment in self.segments_of(begun, end) {
            let map = segment
                .map()
                .expect("a segment keeps its mapping until it is synced");
            let from = segment.offset(begun.max(segment.base()));
            let len = segment.offset(end.min(segment.end())) - from;
            map.write_back(from as usize, len as usize);
        }
    }

    /// The segments that hold `from..to`.
    fn segments_of(&self, from: Lsn, to: Lsn) -> Vec<Arc<Segment>> {
        let table = self.table.read();
        let first = table.partition_point(|s| s.end() <= from);
        let rest = table[first..].iter();
        rest.take_while(|s| s.base() < to).cloned().collect()
    }

    /// Makes `from..to` durable. Leader only.
    fn sync_range(&self, from: Lsn, to: Lsn) -> Result<(), Poison> {
        if let Some(poison) = self.poison.get() {
            return Err(poison.clone());
        }
        let begun = Instant::now();
        for segment in self.segments_of(from, to) {
            let map = segment
                .map()
                .expect("a segment keeps its mapping until it is synced");
            let start = from.max(segment.base());
            // The first sync takes the header's page along (S3).
            let at = if start == segment.base() {
                0
            } else {
                segment.offset(start)
            };
            let end = segment.offset(to.min(segment.end()));
            let mut done = match sabotage::on(Sabotage::NoMsync) {
                true => Ok(()),
                false => map.sync(at as usize, (end - at) as usize),
            };
            if sabotage::on(Sabotage::FailedSyncRetried) && done.is_err() {
                done = map.sync(at as usize, (end - at) as usize);
            }
            done.map_err(|source| self.poison("syncing", &segment.path, source))?;
        }
        let took = begun.elapsed().as_nanos() as u64;
        self.counters.syncs.record(took);
        // Relaxed: statistics, written by one leader after the other.
        let mean = self.sync_nanos.load(Ordering::Relaxed);
        let took = if mean == 0 {
            took * 16
        } else {
            mean - mean / 16 + took
        };
        self.sync_nanos.store(took, Ordering::Relaxed);
        self.counters.group_bytes.record(to.since(from));
        // Before leadership is handed on: the next leader looks at it.
        self.synced_at.store(
            self.options.clock.now().as_nanos() as u64,
            Ordering::Relaxed,
        );
        self.choose_way();
        Ok(())
    }

    /// Gives those who were woken by the last sync a moment to append again, so that they come along with this one.
    ///
    /// Without it, of several who append one after the other half sync while half append, and each sync carries half
    /// of what it could. Who appends alone waits for nobody; the others wait while frames keep coming, and
    /// never longer than a fraction of what a sync takes.
    fn gather(&self) {
        if self.frames_per_sync.load(Ordering::Relaxed) < GATHER_FROM || self.stepped() {
            return;
        }
        let mean = self.sync_nanos.load(Ordering::Relaxed) / 16;
        let longest = Duration::from_nanos(mean / 4).min(GATHER_MAX);
        let begun = Instant::now();
        let mut grown = begun;
        let mut appends = self.tail.frames();
        // Those who came during the last sync are here; those whom it woke may come back.
        let expected = appends + self.last_group.load(Ordering::Relaxed);
        while appends < expected {
            std::thread::yield_now();
            let now = Instant::now();
            let more = self.tail.frames();
            if more != appends {
                (appends, grown) = (more, now);
            }
            if now - begun >= longest || now - grown >= longest / GATHER_QUIET {
                return;
            }
        }
    }

    /// Counts what the sync carried, for those who wait for the next; under [`SyncPolicy::Always`] few frames per sync are written by calls,
    /// many by stores (see [`crate::append`]). Leader only.
    fn choose_way(&self) {
        let appends = self.tail.frames();
        let group = appends - self.appends_synced.swap(appends, Ordering::Relaxed);
        self.counters.group_frames.record(group);
        if self.stepped() {
            return;
        }
        self.last_group.store(group, Ordering::Relaxed);
        let mean = self.frames_per_sync.load(Ordering::Relaxed);
        let mean = mean - mean / 16 + group;
        self.frames_per_sync.store(mean, Ordering::Relaxed);
        if self.options.sync_policy != SyncPolicy::Always {
            return;
        }
        let by_calls = self.by_calls.load(Ordering::Relaxed);
        let bound = if by_calls {
            CALLS_UP_TO + CALLS_UP_TO / 4
        } else {
            CALLS_UP_TO
        };
        let wanted = mean <= bound * 16;
        if wanted != by_calls {
            self.by_calls.store(wanted, Ordering::Relaxed);
        }
    }

    fn after_sync(&self) {
        if !self.unmarked.swap(true, Ordering::AcqRel) && !self.stepped() {
            self.flush_bell.ring();
        }
        if self.closing.load(Ordering::Acquire) {
            self.prepare_bell.ring();
        }
        self.room_came();
        self.watchers.call();
    }

    /// Asks the flusher.
    pub(crate) fn request_sync(&self, end: Lsn) {
        if self.synced() < end && self.requested.fetch_max(end.0, Ordering::AcqRel) < end.0 {
            self.flush_bell.ring();
        }
    }

    /// Writes a mark sector into the active segment, durably. The mark says at most what is synced.
    pub(crate) fn write_mark(&self, clean: bool) -> Result<(), LogError> {
        let Some((segment, writer)) = ({
            let append = self.append.lock();
            append.active.clone().map(|active| (active, append.writer))
        }) else {
            return Ok(());
        };
        let mut marks = self.marks.lock();
        if let Some(poison) = self.poison.get() {
            return Err(LogError::Poisoned(poison.clone()));
        }
        let synced = self.synced();
        if !clean && marks.synced == synced {
            return Ok(());
        }
        marks.sequence += 1;
        let mark = SectorMark {
            sequence: marks.sequence,
            synced,
            clean,
            writer,
        };
        segment.write(
            mark.place() as usize,
            &mark.encode(segment.identity.id, self.meta.node),
        );
        let map = segment.map().expect("the active segment is mapped");
        map.sync(0, 4096)
            .map_err(|source| LogError::Poisoned(self.poison("marking", &segment.path, source)))?;
        marks.synced = synced;
        Ok(())
    }

    fn idle_for(&self) -> Duration {
        let then = Duration::from_nanos(self.synced_at.load(Ordering::Relaxed));
        self.options.clock.now().saturating_sub(then)
    }

    /// One piece of the flusher's work, if there is one that is due.
    pub(crate) fn flush_step(&self) -> bool {
        if self.poison.get().is_some() {
            return false;
        }
        let mut requested = Lsn(self.requested.load(Ordering::Acquire));
        if self.stepped() && self.idle_for() < self.options.min_sync_interval {
            requested = Lsn::ZERO;
        }
        let interval_due = match self.options.sync_policy {
            SyncPolicy::Interval(interval) => self.idle_for() >= interval,
            SyncPolicy::Always | SyncPolicy::Manual => false,
        };
        let synced = self.synced();
        let target = if requested > synced {
            requested.min(self.reserved())
        } else if interval_due {
            self.published()
        } else {
            synced
        };
        if target > synced {
            // In stepped mode a frame in the making may stand before the target: then there is nothing to do.
            let reachable = if self.stepped() {
                target.min(self.published())
            } else {
                target
            };
            if reachable > synced {
                // The error is the log's poison: who waits gets it from there.
                return self.sync_up_to(reachable, None).is_ok();
            }
        }
        if self.unmarked.load(Ordering::Acquire) && self.idle_for() >= self.options.idle_mark_after
        {
            self.unmarked.store(false, Ordering::Release);
            return self.write_mark(false).is_ok();
        }
        false
    }

    /// When the flusher has something to do by itself.
    fn flush_deadline(&self) -> Option<Instant> {
        if self.poison.get().is_some() {
            return None;
        }
        let idle = self.idle_for();
        let mut after = None;
        if self.unmarked.load(Ordering::Acquire) {
            after = Some(self.options.idle_mark_after.saturating_sub(idle));
        }
        if let SyncPolicy::Interval(interval) = self.options.sync_policy {
            let left = interval.saturating_sub(idle);
            // With nothing to sync the interval simply passes again.
            let left = if left.is_zero() { interval } else { left };
            after = Some(after.map_or(left, |a| a.min(left)));
        }
        after.map(|d| deadline::after(d.max(Duration::from_millis(1))))
    }

    /// The flusher thread.
    pub(crate) fn run_flusher(&self, stop: &StopToken) {
        while !stop.is_stopped() {
            if !self.flush_step() {
                self.flush_bell.wait(self.flush_deadline());
            }
        }
    }
}
