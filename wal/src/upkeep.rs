//! The preparer's work: segments ahead of need, footers, mappings given back, released segments
//! recycled, slots written.
//!
//! - U1: footers are written in order, each from the chain hash of the one before; no append or sync waits
//!   for them, and recovery writes those that are missing (by leaving them to this worker).
//! - U2: a segment is removed only when it is closed, synced, below every position that holds it, and the
//!   next has the chain hash at its base in its header, synced (W4).
//! - U3: the file of a segment that is no more is gone, durably, before another segment goes. Else a crash
//!   could leave it with a gap behind it, which recovery has to take for damage.
//! - U4: a file that a reader still has open is removed, not recycled.
//! - U5: with a segment ready, what releases segments goes before the making of new ones: a released file is ready after a few
//!   small writes, a new one after all its zeros.
//! - U6: of many prepared segments those that a burst used are replaced once it is over, or when a quarter is left: to make one
//!   takes the memory's and the disk's time from the appends that they were prepared for.
//! - U7: zeros of a segment, new or recycled, that nobody waits for go to the disk at [`ZEROS_PER_SECOND`], or so fast that a segment of them is written while a
//!   quarter of one is appended: at the disk's full speed a new log would keep it from everybody else's syncs, and a log that grows from its own at
//!   each rotation. Once somebody waits for room or for the preparer, the rest is written at once.

use crate::cursor::{Cursor, Step};
use crate::error::LogError;
use crate::event::LogEvent;
use crate::frame::fold;
use crate::ids::{ChainHash, Lsn, SegmentId};
use crate::media::WRITE_BACK_BYTES;
use crate::meta::{self, SlotRecord};
use crate::options::SyncPolicy;
use crate::prepare::{self, AT_ONCE, Pace};
use crate::sabotage::{self, Sabotage};
use crate::segment::{FOOTER_LEN, Footer, Prepared, SECTOR, Segment, stamp};
use crate::shared::{Chores, Shared};
use esker_sync::stop::StopToken;
use parking_lot::MutexGuard;
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Recycled files kept beyond the segments prepared ahead.
pub(crate) const RECYCLED_AHEAD: usize = 4;
/// Slack from which giving it back is worth a call, in segments of any size that holds so much four times.
const PUNCH_MIN: u64 = 1 << 20;
/// Between two tries to prepare a segment on a full disk.
const RETRY: Duration = Duration::from_millis(200);
/// Without a rotation for so long, a burst is over.
const BURST_OVER: Duration = Duration::from_millis(100);
/// U7, for each segment that is to be ready: who wants many of them counts on bursts.
const ZEROS_PER_SECOND: u64 = 8 << 20;
/// A slot that moved is on disk after this at the latest.
const SLOTS_EVERY: Duration = Duration::from_millis(500);

/// The preparer's time for one file (U7).
struct Leisure<'a> {
    shared: &'a Shared,
    /// Reserved up to here when it began.
    from: Lsn,
    /// All its zeros are due once so much more is reserved.
    within: u64,
    /// Bytes of them that are written.
    written: Cell<u64>,
    /// Slots are looked at then.
    slots_at: Cell<Instant>,
    over: Cell<bool>,
}

impl Leisure<'_> {
    fn of(shared: &Shared) -> Leisure<'_> {
        Leisure {
            shared,
            from: shared.reserved(),
            within: shared.quarter(),
            written: Cell::new(0),
            slots_at: Cell::new(Instant::now() + SLOTS_EVERY),
            over: Cell::new(shared.stepped() || shared.lacks_room()),
        }
    }

    /// Behind each [`WRITE_BACK_BYTES`].
    fn pass(&self) {
        self.written.set(self.written.get() + WRITE_BACK_BYTES);
        if self.is_late() {
            return;
        }
        let wanted = self.shared.options.segments_ahead.max(1) as u64;
        let turn = WRITE_BACK_BYTES * 1_000_000_000 / (ZEROS_PER_SECOND * wanted);
        let end = Instant::now() + Duration::from_nanos(turn);
        while !self.over.get() && !self.is_over() {
            // Somebody may want something that can wait. A ring that is taken here is not lost: behind the file the preparer looks for all there is.
            let rung = self.shared.prepare_bell.wait(Some(end));
            let now = Instant::now();
            if now >= self.slots_at.get() {
                self.slots_at.set(now + SLOTS_EVERY);
                if let Err(error) = self.shared.write_slots() {
                    tracing::warn!(%error, "log slots");
                }
            }
            if !rung || now >= end {
                return;
            }
        }
        self.over.set(true);
    }

    /// More of a quarter was appended than was written of the segment.
    fn is_late(&self) -> bool {
        let appended = self.shared.reserved().0.saturating_sub(self.from.0);
        let whole = u128::from(self.shared.options.segment_bytes);
        u128::from(appended) * whole
            >= u128::from(self.within) * u128::from(self.written.get()).min(whole)
    }

    fn is_over(&self) -> bool {
        let shared = self.shared;
        let free = shared.free_bytes.load(Ordering::Relaxed);
        free < shared.options.free_bytes_min
            || shared.room_wanted.load(Ordering::Acquire)
            || shared.hurried.load(Ordering::Acquire) > 0
    }
}

impl Shared {
    /// Appends fail, or can't begin, for want of the segment that is made.
    fn lacks_room(&self) -> bool {
        let append = self.append.lock();
        append.no_space.is_some() || append.active.is_none()
    }

    /// Of a segment, or of the one that open made, which may be smaller.
    fn quarter(&self) -> u64 {
        let append = self.append.lock();
        let active = append.active.as_ref().map(|s| s.identity.bytes);
        let bytes = self.options.segment_bytes;
        active.map_or(bytes, |active| active.min(bytes)) / 4
    }

    /// The preparer's lock, for who can't wait until it has the time (U7).
    pub(crate) fn chores_at_once(&self) -> MutexGuard<'_, Chores> {
        self.hurried.fetch_add(1, Ordering::Release);
        self.prepare_bell.ring();
        let chores = self.chores.lock();
        self.hurried.fetch_sub(1, Ordering::Release);
        chores
    }

    /// Prepares one segment if fewer are ready than wanted; false when there was nothing to do or it failed.
    pub(crate) fn prepare_one(&self) -> bool {
        let mut chores = self.chores.lock();
        let now = self.options.clock.now();
        if self.making_due().is_none_or(|due| due > now) {
            return false;
        }
        if !self.stepped() && chores.retry_at.is_some_and(|at| now < at) {
            return false;
        }
        let identity = self.identity(SegmentId(chores.next_id));
        chores.next_id += 1;
        let media = &*self.options.media;
        let leisure = Leisure::of(self);
        let pace = || leisure.pass();
        let wipe = self.by_calls.load(Ordering::Relaxed);
        let wipe: Option<Pace<'_>> = wipe.then_some(&pace);
        let spares = &mut chores.spares;
        match prepare::from_spares(media, &self.dir, spares, identity, wipe, &pace) {
            Ok(mut prepared) => {
                self.warm(&mut prepared);
                chores.retry_at = None;
                self.offer(prepared);
                true
            }
            Err(error) => {
                chores.retry_at = Some(now + RETRY);
                let error = Arc::new(error);
                let before = self.append.lock().no_space.replace(error.clone());
                if before.is_none() {
                    self.event(LogEvent::NoSpace {
                        dir: self.dir.clone(),
                        source: error,
                    });
                }
                // Those who wait get the error instead.
                self.room.notify_all();
                false
            }
        }
    }

    /// When the next segment is to be made, if fewer are ready than wanted (U6).
    fn making_due(&self) -> Option<Duration> {
        let append = self.append.lock();
        let (ready, wanted) = (append.prepared.len(), self.options.segments_ahead.max(1));
        if ready >= wanted {
            return None;
        }
        let soon = self.stepped() || ready <= wanted.div_ceil(4);
        Some(match soon {
            true => Duration::ZERO,
            false => append.rotated_at + BURST_OVER,
        })
    }

    /// Puts a prepared segment into the queue.
    fn offer(&self, prepared: Prepared) {
        let mut append = self.append.lock();
        append.prepared.push_back(prepared);
        let lacked = append.no_space.take();
        drop(append);
        if lacked.is_some() {
            self.event(LogEvent::RoomAgain {
                dir: self.dir.clone(),
            });
        }
        self.room.notify_all();
        self.room_came();
    }

    /// The chain hash at the base of `segment`.
    pub(crate) fn chain_base(&self, segment: &Arc<Segment>) -> Result<ChainHash, LogError> {
        if let Some(chain) = segment.chain.get() {
            return Ok(*chain);
        }
        if segment.base() == self.meta.birth {
            return Ok(*segment.chain.get_or_init(|| self.meta.chain));
        }
        let before = {
            let table = self.table.read();
            // By its id: before a large frame's segment an empty one may stand at the same base.
            let id = segment.identity.id;
            let at = table.iter().position(|s| s.identity.id == id);
            at.and_then(|at| at.checked_sub(1))
                .map(|at| table[at].clone())
        };
        let before = before.ok_or_else(|| LogError::Released {
            lsn: segment.base(),
            oldest: self.oldest(),
        })?;
        let footer = self.footer_of(&before)?;
        Ok(*segment.chain.get_or_init(|| footer.chain))
    }

    /// The footer of a closed segment whose frames are all published, computed where it is not known.
    fn footer_of(&self, segment: &Arc<Segment>) -> Result<Footer, LogError> {
        if let Some(footer) = segment.footer.get() {
            return Ok(*footer);
        }
        let chain = self.chain_base(segment)?;
        let footer = self.fold_to(segment, chain, segment.end())?;
        Ok(*segment.footer.get_or_init(|| footer))
    }

    /// Folds the frames of `segment` that begin below `end`, which is published. They end beyond it where it is no boundary.
    pub(crate) fn fold_to(
        &self,
        segment: &Segment,
        chain: ChainHash,
        end: Lsn,
    ) -> Result<Footer, LogError> {
        let base = segment.base();
        let mut footer = Footer {
            base,
            end: base,
            chain,
            frames: 0,
            punched: false,
        };
        // A call may fail after a part of its bytes, a store can't.
        let stored = !(segment.zeroed && self.options.sync_policy == SyncPolicy::Always);
        let mut cursor = Cursor::new(segment);
        let limit = end.max(segment.end().min(self.published()));
        while footer.end < end {
            // What this process stored is not read back and summed again: its headers are in the mapping.
            let appended = match stored && footer.end >= self.opened_at {
                true => segment.published_header(footer.end),
                false => None,
            };
            if let Some(header) = appended {
                footer.chain = fold(footer.chain, segment.active.epoch.epoch, &header);
                footer.end = header.end();
                footer.frames += 1;
                continue;
            }
            let step = cursor
                .read(footer.end, limit)
                .map_err(Shared::io_error("reading", &segment.path))?;
            match step {
                Step::Frame { header, .. } => {
                    footer.chain = fold(footer.chain, segment.active.epoch.epoch, &header);
                    footer.end = header.end();
                    footer.frames += 1;
                }
                Step::Broken(broken) => {
                    return Err(LogError::Corrupt {
                        path: segment.path.clone(),
                        at: footer.end,
                        what: broken.what.to_owned(),
                    });
                }
            }
        }
        Ok(footer)
    }

    /// Writes the footer of the oldest closed segment that lacks one; false when there is none.
    fn write_a_footer(&self) -> Result<bool, LogError> {
        // Without a closed segment to see to, nobody looks how far the log is published on this account.
        if !self.closing.load(Ordering::Acquire) {
            return Ok(false);
        }
        let published = self.published();
        let Some(segment) = self
            .table
            .read()
            .iter()
            .find(|s| s.end() <= published && !s.footer_written.load(Ordering::Acquire))
            .cloned()
        else {
            return Ok(false);
        };
        let mut footer = match self.footer_of(&segment) {
            Ok(footer) => footer,
            // Damage hides the chain hash: the repair asks for the footer again.
            Err(LogError::Corrupt { .. }) if self.is_damaged() => {
                segment.footer_written.store(true, Ordering::Release);
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        let slack = segment.capacity_end().since(footer.end);
        let worth = slack >= PUNCH_MIN.min(segment.identity.bytes / 4);
        let punched = segment.punched.load(Ordering::Acquire);
        footer.punched = punched || worth && segment.end() <= self.synced();
        let at = segment.identity.bytes - FOOTER_LEN;
        let id = segment.identity.id;
        let mut sector = footer.encode(id);
        let mut closed = segment.closed_millis.load(Ordering::Acquire);
        if closed == 0 {
            closed = (self.options.clock.wall().as_millis() as u64).max(1);
            segment.closed_millis.store(closed, Ordering::Release);
        }
        stamp(&mut sector, id, closed);
        segment
            .file
            .write_all_at(&sector, at)
            .map_err(Shared::io_error("writing the footer of", &segment.path))?;
        if footer.punched && !punched {
            if !sabotage::on(Sabotage::HoleForgotten) {
                segment.punched.store(true, Ordering::Release);
            }
            // A file with a hole must never be taken for a whole one: the flag first.
            segment
                .file
                .sync()
                .map_err(|e| LogError::Poisoned(self.poison("syncing", &segment.path, e)))?;
            // Best effort: slack that stays is not wrong, only wasted.
            let from = segment.offset(footer.end).next_multiple_of(4096);
            let until = at / 4096 * 4096;
            if until > from {
                let _ = segment.file.punch(from, until - from);
            }
        }
        segment.footer_written.store(true, Ordering::Release);
        self.event(LogEvent::Rotated {
            segment: id,
            base: footer.base,
            end: footer.end,
        });
        Ok(true)
    }

    /// Gives the mapping of the oldest segment back that needs it no more.
    fn unmap_one(&self) -> bool {
        let synced = self.synced();
        let mut table = self.table.write();
        let place = table.iter_mut().find(|s| {
            s.map().is_some() && s.end() <= synced && s.footer_written.load(Ordering::Acquire)
        });
        let Some(place) = place else {
            let open = |s: &Arc<Segment>| {
                s.is_closed() && (s.map().is_some() || !s.footer_written.load(Ordering::Acquire))
            };
            if !table.iter().any(open) {
                self.closing.store(false, Ordering::Release);
            }
            return false;
        };
        let closed = Arc::new(place.unmapped());
        let mapped = std::mem::replace(place, closed);
        drop(table);
        // Unmapping takes a while: not under the lock.
        drop(mapped);
        true
    }

    /// Removes a file that should be gone already (U3); false when there is none.
    pub(crate) fn remove_a_leftover(&self) -> Result<bool, LogError> {
        let synced = self.synced();
        let outranked: Vec<(Lsn, PathBuf)> = (self.outranked.lock())
            .extract_if(.., |(at, _)| *at < synced)
            .collect();
        let paths = outranked.into_iter().map(|(_, path)| path);
        self.leftovers.lock().extend(paths);
        let Some(path) = self.leftovers.lock().last().cloned() else {
            return Ok(false);
        };
        let media = &*self.options.media;
        match media.remove(&path) {
            // Renamed or removed, perhaps not yet durably.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(Shared::io_error("removing", &path))?,
        }
        meta::sync_dir(media, &self.dir).map_err(Shared::io_error("syncing", &self.dir))?;
        self.leftovers.lock().retain(|other| *other != path);
        Ok(true)
    }

    /// Removes the oldest segment if nothing holds it; recycles its file where another is wanted.
    fn release_one(&self, chores: &mut Chores) -> Result<bool, LogError> {
        if self.options.free_bytes_min > 0 {
            let free = self.options.media.free_bytes(&self.dir);
            // Where it can't be told, nothing is taken for it.
            self.free_bytes
                .store(free.unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        let floor = self.floor_now();
        let (oldest, next) = {
            let table = self.table.read();
            let [oldest, next, ..] = &table[..] else {
                return Ok(false);
            };
            let done = oldest.end() <= floor
                && oldest.map().is_none()
                && oldest.footer_written.load(Ordering::Acquire);
            if !done {
                return Ok(false);
            }
            (oldest.clone(), next.clone())
        };
        // The history must not depend on what goes.
        self.write_epochs()
            .map_err(Shared::io_error("writing the history in", &self.dir))?;
        // A slot found lost, or moved on, is so on disk before the log goes (SL3).
        if !sabotage::on(Sabotage::SlotsNotWritten) {
            self.write_slots()?;
        }
        let chain = match self.chain_base(&next) {
            Err(LogError::Corrupt { .. }) if self.is_damaged() => return Ok(false),
            chain => chain?,
        };
        if !sabotage::on(Sabotage::ChainNotKept) {
            next.file
                .write_all_at(&next.header(chain).encode(), 0)
                .map_err(Shared::io_error("writing the header of", &next.path))?;
        }
        // The header alone, where frames are still being synced: they are the flusher's.
        match next.map() {
            Some(map) => map.sync(0, SECTOR),
            None => next.file.sync(),
        }
        .map_err(|e| LogError::Poisoned(self.poison("syncing", &next.path, e)))?;
        // Policy may have changed its mind; a reader or a slot may have come.
        if self.floor_now() < oldest.end() {
            return Ok(false);
        }
        {
            let mut table = self.table.write();
            // One without frames may have been outranked since, by one that has not its chain hash.
            let still = table[1].identity.id == next.identity.id;
            if !still || !self.positions.raise(next.base().0) {
                return Ok(false);
            }
            table.remove(0);
        }
        let ready = self.append.lock().prepared.len();
        let whole = oldest.identity.bytes == self.options.segment_bytes
            && !oldest.punched.load(Ordering::Acquire);
        let short = self.free_bytes.load(Ordering::Relaxed) < self.options.free_bytes_min;
        let ahead = if short { 0 } else { RECYCLED_AHEAD };
        let wanted = ready < self.options.segments_ahead + ahead;
        let path = oldest.path.clone();
        // Nobody can get at it any more; who had it (a reader, or a reservation through the mapped segment that
        // this one replaced in the table) still shares the file.
        let alone = Arc::strong_count(&oldest.file) == 1 && Arc::strong_count(&oldest) == 1;
        let recycled = whole && wanted && alone;
        self.event(LogEvent::Released {
            segment: oldest.identity.id,
            oldest: next.base(),
            recycled,
        });
        drop(oldest);
        self.leftovers.lock().push(path.clone());
        if !recycled {
            return self.remove_a_leftover();
        }
        let identity = self.identity(SegmentId(chores.next_id));
        chores.next_id += 1;
        let leisure = Leisure::of(self);
        let pace = || leisure.pass();
        let pace: Pace<'_> = match ready {
            0 => AT_ONCE,
            _ => &pace,
        };
        let wipe = self.by_calls.load(Ordering::Relaxed).then_some(pace);
        let mut prepared = prepare::recycle(&*self.options.media, &self.dir, &path, identity, wipe)
            .map_err(Shared::io_error("recycling", &path))?;
        self.leftovers.lock().retain(|other| *other != path);
        self.warm(&mut prepared);
        self.counters.recycled.fetch_add(1, Ordering::Relaxed);
        self.offer(prepared);
        Ok(true)
    }

    /// The slots as they go to disk.
    pub(crate) fn slot_records(&self) -> Vec<SlotRecord> {
        let retention = self.retention.lock();
        let slots = retention.slots.iter();
        slots.map(|(name, entry)| entry.record(name)).collect()
    }

    /// The LSN below which nothing is needed any more; tells of slots that are lost or near it.
    fn floor_now(&self) -> Lsn {
        let mut events = Vec::new();
        let floor = self.floor(&mut self.retention.lock(), &mut events);
        events.into_iter().for_each(|event| self.event(event));
        floor
    }

    /// Writes the slots if they changed.
    pub(crate) fn write_slots(&self) -> Result<(), LogError> {
        let _file = self.slots_file.lock();
        if self.rewound.get().is_some() {
            return Err(self.ended());
        }
        let slots: Vec<_> = {
            if !std::mem::take(&mut self.retention.lock().slots_dirty) {
                return Ok(());
            }
            self.slot_records()
        };
        let stored = meta::store_slots(&*self.options.media, &self.dir, slots.iter());
        let mut retention = self.retention.lock();
        retention.slots_failed = stored.is_err();
        retention.slots_dirty |= stored.is_err();
        stored.map_err(Shared::io_error("writing the slots in", &self.dir))
    }

    /// One piece of the preparer's work. False when there is none, or the one there is fails for now.
    pub(crate) fn upkeep_step(&self) -> bool {
        if self.poison.get().is_some() {
            return false;
        }
        let bare = self.append.lock().prepared.is_empty();
        if bare && self.prepare_and_resume() {
            return true;
        }
        if self.stepped() {
            self.populate_ahead();
        }
        let done = {
            let mut chores = self.chores.lock();
            (|| {
                Ok(self.write_a_footer()?
                    || self.unmap_one()
                    || self.remove_a_leftover()?
                    || self.release_one(&mut chores)?)
            })()
        };
        let done = done.unwrap_or_else(|error: LogError| {
            tracing::warn!(%error, "log upkeep");
            false
        });
        done || self.prepare_and_resume()
    }

    fn prepare_and_resume(&self) -> bool {
        let prepared = self.prepare_one();
        if prepared && let Err(error) = self.resume() {
            tracing::warn!(%error, "log opened for reading only");
        }
        prepared
    }

    /// The preparer thread.
    pub(crate) fn run_preparer(&self, stop: &StopToken) {
        let mut slots_at = Instant::now() + SLOTS_EVERY;
        while !stop.is_stopped() {
            if self.upkeep_step() {
                continue;
            }
            let dirty = self.retention.lock().slots_dirty;
            if dirty && Instant::now() >= slots_at {
                if let Err(error) = self.write_slots() {
                    tracing::warn!(%error, "log slots");
                }
                slots_at = Instant::now() + SLOTS_EVERY;
                continue;
            }
            let retry = self.chores.lock().retry_at.unwrap_or_default();
            let wanted = self.making_due().filter(|_| self.poison.get().is_none());
            let making = wanted.map(|due| {
                let left = due.max(retry).saturating_sub(self.options.clock.now());
                Instant::now() + left + Duration::from_millis(1)
            });
            let slots = dirty.then_some(slots_at);
            let deadline = [making, slots].into_iter().flatten().min();
            self.prepare_bell.wait(deadline);
        }
    }
}

const _: () = assert!(FOOTER_LEN == SECTOR as u64);
