//! The append path: reserve, fill, publish.
//!
//! - AP1: a reservation is checked against everything that could fail (end, bounds, room) before it has an
//!   LSN. From then on it can only be published, as what it was meant to be or as a void frame (W8).
//! - AP2: a frame never crosses segments; a segment that has no room for the next is closed at its end, and
//!   the next prepared one is activated at that LSN.
//! - AP3: each frame carries the mark of its reservation's moment: the position that was synced then.
//! - AP4: a frame is filled either by stores into the mapping or by calls; both are the same bytes of the page cache. Each
//!   sync write-protects the pages it wrote, for which every core that runs this process is interrupted, and the next
//!   store faults: 10 to 20 us per sync where the pages were stored to. A call costs 2 us per frame and nothing of
//!   that. So few frames per sync go by calls, many by stores ([`Shared::by_calls`]).
//! - AP5: nothing is reserved while an epoch begins; its control frame and the history are durable before
//!   anything follows (W5).

use crate::error::LogError;
use crate::frame::{HEADER_LEN, Header, Kind, MARK_LEN, Mark, checksum, frame_len};
use crate::ids::{Epoch, EpochStart, Lsn};
use crate::log::{Appended, WireFrame};
use crate::meta;
use crate::sabotage::{self, Sabotage};
use crate::segment::{Activation, Segment};
use crate::shared::{Append, Shared};
use esker_sync::histogram::Histogram;
use parking_lot::MutexGuard;
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Bytes of a control frame's payload: epoch number, epoch id, LSN where it begins.
pub(crate) const CONTROL_LEN: usize = 24;
pub(crate) const CONTROL_FRAME_LEN: usize = frame_len(CONTROL_LEN);

pub(crate) fn control_payload(start: EpochStart) -> [u8; CONTROL_LEN] {
    let mut out = [0; CONTROL_LEN];
    out[..8].copy_from_slice(&start.epoch.number.to_le_bytes());
    out[8..16].copy_from_slice(&start.epoch.id.to_le_bytes());
    out[16..].copy_from_slice(&start.begin.0.to_le_bytes());
    out
}

/// The epoch that a control frame's payload begins.
#[must_use]
pub fn epoch_of_control(payload: &[u8]) -> Option<EpochStart> {
    let word = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(
            payload.get(at..at + 8)?.try_into().ok()?,
        ))
    };
    (payload.len() == CONTROL_LEN).then_some(EpochStart {
        epoch: Epoch {
            number: word(0)?,
            id: word(8)?,
        },
        begin: Lsn(word(16)?),
    })
}

/// Header of a frame with this payload, and the header's bytes, mark included.
fn head(
    segment: &Segment,
    lsn: Lsn,
    kind: Kind,
    parts: &[&[u8]],
    mark: &[u8; MARK_LEN],
) -> (Header, [u8; HEADER_LEN]) {
    let payload_len: usize = parts.iter().map(|p| p.len()).sum();
    let header = Header {
        payload_len: payload_len as u32,
        crc: checksum(segment.seed, lsn, kind, parts),
        lsn,
        kind,
    };
    let mut bytes = [0; HEADER_LEN];
    header.encode(mark, &mut bytes);
    (header, bytes)
}

/// Writes a frame but for its first word, which is returned.
pub(crate) fn write_frame(
    segment: &Segment,
    lsn: Lsn,
    kind: Kind,
    parts: &[&[u8]],
    mark: &[u8; MARK_LEN],
) -> u64 {
    let (header, bytes) = head(segment, lsn, kind, parts, mark);
    let offset = segment.offset(lsn) as usize;
    segment.write(offset + 8, &bytes[8..]);
    let mut at = offset + HEADER_LEN;
    for part in parts {
        segment.write(at, part);
        at += part.len();
    }
    segment.zero(at, offset + header.frame_len() - at);
    header.word()
}

/// Writes a frame by two calls: everything but its first word, then that.
fn call_frame(
    segment: &Segment,
    lsn: Lsn,
    kind: Kind,
    parts: &[&[u8]],
    mark: &[u8; MARK_LEN],
) -> io::Result<()> {
    thread_local! {
        static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let (header, bytes) = head(segment, lsn, kind, parts, mark);
    FRAME.with_borrow_mut(|frame| {
        frame.clear();
        frame.extend_from_slice(&bytes[8..]);
        for part in parts {
            frame.extend_from_slice(part);
        }
        frame.resize(header.frame_len() - 8, 0);
        let offset = segment.offset(lsn);
        segment.file.write_all_at(frame, offset + 8)?;
        segment.file.write_all_at(&bytes[..8], offset)
    })
}

/// A stretch of the log that belongs to its holder.
#[derive(Debug)]
pub(crate) struct Stretch {
    pub(crate) segment: Arc<Segment>,
    pub(crate) lsn: Lsn,
    pub(crate) payload_len: usize,
    /// The position synced at its reservation.
    synced: Lsn,
}

impl Stretch {
    pub(crate) fn end(&self) -> Lsn {
        self.lsn.advance(frame_len(self.payload_len) as u64)
    }

    fn payload_at(&self) -> usize {
        self.segment.offset(self.lsn) as usize + HEADER_LEN
    }

    /// Writes `bytes` at `at` of the payload.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.payload_len);
        self.segment.write(self.payload_at() + at, bytes);
    }

    /// Hands out the payload's place.
    pub(crate) fn fill<R>(&self, f: impl FnOnce(&mut [u8]) -> R) -> R {
        self.segment.lend(self.payload_at(), self.payload_len, f)
    }
}

/// Largest payload that is written by calls.
const CALL_BYTES_MAX: usize = 16 << 10;

/// Whether to wait at a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtBound {
    Wait,
    Refuse,
}

/// Counts how long an append waited at a bound.
struct Stall<'a> {
    histogram: &'a Histogram,
    begun: Instant,
}

impl Drop for Stall<'_> {
    fn drop(&mut self) {
        let waited = self.begun.elapsed();
        self.histogram.record(waited.as_nanos() as u64);
    }
}

impl Shared {
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.options
            .payload_bytes_max
            .min(crate::frame::PAYLOAD_MAX)
    }

    fn check_payload(&self, len: usize) -> Result<(), LogError> {
        let max = self.payload_bytes_max();
        if len > max {
            return Err(LogError::TooLarge { len, max });
        }
        Ok(())
    }

    /// Reserves a frame with a payload of `len` bytes.
    ///
    /// The usual case is inlined into the caller: to hand a stretch on through calls cost more than to take it.
    #[inline(always)]
    pub(crate) fn reserve(&self, len: usize, at_bound: AtBound) -> Result<Stretch, LogError> {
        let bytes = frame_len(len) as u64;
        let mut append = self.append.lock();
        let end = self.reserved().advance(bytes);
        let open = !append.closed && !append.held && append.writer && self.poison.get().is_none();
        let fits = len <= self.payload_bytes_max()
            && self.within_unsynced_bound(bytes)
            && append
                .active
                .as_ref()
                .is_some_and(|s| end <= s.capacity_end());
        if open && fits && !sabotage::on(Sabotage::PublishedBeforeCopy) {
            return Ok(self.take(&mut append, len));
        }
        drop(append);
        self.reserve_slowly(len, at_bound)
    }

    #[inline(never)]
    fn reserve_slowly(&self, len: usize, at_bound: AtBound) -> Result<Stretch, LogError> {
        self.check_payload(len)?;
        let admit = |append: &Append| {
            self.check_open(append)?;
            match append.writer {
                true => Ok(()),
                false => Err(LogError::NotWriter),
            }
        };
        if self.is_large(len) {
            return self.reserve_large(len, at_bound, admit);
        }
        let mut append = self.append.lock();
        loop {
            admit(&append)?;
            if !append.held && self.room(&mut append, len)? {
                let stretch = self.take(&mut append, len);
                if sabotage::on(Sabotage::PublishedBeforeCopy) {
                    self.publish_void(&stretch);
                }
                return Ok(stretch);
            }
            append = self.wait_for_room(append, len, at_bound)?;
        }
    }

    fn check_open(&self, append: &Append) -> Result<(), LogError> {
        if append.closed || self.poison.get().is_some() {
            return Err(self.ended());
        }
        Ok(())
    }

    pub(crate) fn no_space(&self, source: &Arc<io::Error>) -> LogError {
        LogError::NoSpace {
            dir: self.dir.clone(),
            source: source.clone(),
        }
    }

    pub(crate) fn within_unsynced_bound(&self, frame_bytes: u64) -> bool {
        let unsynced = self.reserved().0.saturating_sub(self.synced().0);
        // A lone frame larger than the bound must pass when there is nothing else.
        unsynced == 0 || unsynced + frame_bytes <= self.options.unsynced_bytes_max
    }

    /// Whether a frame has room now; rotates where that makes some.
    fn room(&self, append: &mut Append, len: usize) -> Result<bool, LogError> {
        let bytes = frame_len(len) as u64;
        if !self.within_unsynced_bound(bytes) {
            return Ok(false);
        }
        let Some(active) = &append.active else {
            // Opened without room for a segment (W8); the preparer goes on with it as soon as there is some.
            self.prepare_bell.ring();
            return match &append.no_space {
                Some(source) => Err(self.no_space(source)),
                None => Ok(false),
            };
        };
        if self.reserved().advance(bytes) <= active.capacity_end() {
            return Ok(true);
        }
        let epoch = active.active.epoch;
        // On a full disk the last prepared segment is the reserve: the next open needs one for its epoch (W8).
        let reserve = append.no_space.is_some() && append.prepared.len() <= 1;
        if !reserve && self.rotate(append, epoch) {
            return Ok(true);
        }
        match &append.no_space {
            Some(source) => {
                self.prepare_bell.ring();
                Err(self.no_space(source))
            }
            None => Ok(false),
        }
    }

    /// Closes the active segment at the reserved end and activates the next; false without a prepared one.
    pub(crate) fn rotate(&self, append: &mut Append, epoch: EpochStart) -> bool {
        let Some(prepared) = append.prepared.pop_front() else {
            return false;
        };
        let base = self.reserved();
        let now = self.options.clock.now();
        let warm = now < prepared.warm_until;
        let next = Arc::new(Segment::activate(prepared, Activation { base, epoch }));
        {
            let mut table = self.table.write();
            let active = append.active.take();
            if let Some(active) = &active {
                active.close_at(base);
                self.closing.store(true, Ordering::Release);
            }
            // A log that was opened without room has its last one closed.
            let last = active.or_else(|| table.last().cloned());
            if let Some(empty) = last.filter(|last| last.base() == base) {
                // Without frames: `next` outranks it, and has to know by itself what its header knew, for it may be the oldest. Its file
                // goes once `next` is synced.
                table.retain(|s| !Arc::ptr_eq(s, &empty));
                if let Some(chain) = empty.chain.get() {
                    next.write_chain(*chain);
                    let _ = next.chain.set(*chain);
                }
                self.outranked.lock().push((base, empty.path.clone()));
            }
            table.push(next.clone());
        }
        append.active = Some(next);
        append.rotations += 1;
        if append.rotations > 1 {
            append.rotated_after = now.saturating_sub(append.rotated_at);
        }
        append.rotated_at = now;
        self.populate_from(base, warm);
        self.prepare_bell.ring();
        true
    }

    /// Takes the room that was found.
    #[inline(always)]
    pub(crate) fn take(&self, append: &mut Append, len: usize) -> Stretch {
        let bytes = frame_len(len) as u64;
        let segment = append.active.as_ref().expect("room was found").clone();
        let synced = self.synced();
        let end = self.reserved().advance(bytes);
        // In a file that was all zeros the word behind is zero already; not to touch it spares a fault.
        let mut word_behind = match segment.zeroed {
            true => None,
            false => segment.frame_word(end),
        };
        if sabotage::on(Sabotage::StaleWordKept) {
            word_behind = None;
        }
        let lsn = Lsn(self.tail.reserve(&mut append.turn, bytes, word_behind));
        self.keep_ahead_of(end);
        if end > append.step_at {
            self.step(append, end);
        }
        Stretch {
            segment,
            lsn,
            payload_len: len,
            synced,
        }
    }

    /// Waits at a bound, or does the work that moves it.
    pub(crate) fn wait_for_room<'a>(
        &'a self,
        mut append: MutexGuard<'a, Append>,
        len: usize,
        at_bound: AtBound,
    ) -> Result<MutexGuard<'a, Append>, LogError> {
        let bytes = frame_len(len) as u64;
        self.room_wanted.store(true, Ordering::Release);
        self.prepare_bell.ring();
        if at_bound == AtBound::Refuse {
            if !self.within_unsynced_bound(bytes) {
                self.request_sync(self.reserved());
            }
            return Err(LogError::Busy);
        }
        let _stall = Stall {
            histogram: &self.counters.stalls,
            begun: Instant::now(),
        };
        if !append.held && !self.within_unsynced_bound(bytes) {
            // The bound moves with a sync: do it here, for everybody.
            let target = self.synced().advance(8);
            drop(append);
            // Not `room_wanted`: any room that comes takes that back, a new segment too.
            self.at_bound.fetch_add(1, Ordering::AcqRel);
            let synced = self.sync_up_to(target, None);
            self.at_bound.fetch_sub(1, Ordering::AcqRel);
            synced?;
            return Ok(self.append.lock());
        }
        if self.stepped() {
            let held = append.held;
            drop(append);
            if held || !self.prepare_one() {
                let append = self.append.lock();
                return match &append.no_space {
                    Some(source) => Err(self.no_space(source)),
                    None => Err(LogError::Busy),
                };
            }
            return Ok(self.append.lock());
        }
        self.room.wait(&mut append);
        Ok(append)
    }

    /// Fills and publishes a reserved stretch.
    ///
    /// By stores into the mapping, or by two calls (see [`Shared::by_calls`]). Fails only by poison.
    pub(crate) fn publish(
        &self,
        stretch: &Stretch,
        kind: Kind,
        parts: &[&[u8]],
    ) -> Result<Appended, LogError> {
        let segment = &*stretch.segment;
        let mark = self.mark_of(stretch);
        let awaited = if segment.zeroed
            && stretch.payload_len <= CALL_BYTES_MAX
            && self.by_calls.load(Ordering::Relaxed)
        {
            call_frame(segment, stretch.lsn, kind, parts, &mark).map_err(|source| {
                LogError::Poisoned(self.poison("writing", &segment.path, source))
            })?;
            self.tail.is_awaited()
        } else {
            let word = write_frame(segment, stretch.lsn, kind, parts, &mark);
            let slot = segment.word(segment.offset(stretch.lsn) as usize);
            self.tail.publish(slot, word)
        };
        Ok(self.announce(stretch, awaited))
    }

    /// The mark that the frame carries (AP3).
    fn mark_of(&self, stretch: &Stretch) -> [u8; MARK_LEN] {
        let mut mark = Mark {
            synced: stretch.synced,
        };
        if sabotage::on(Sabotage::MarkTooHigh) {
            mark.synced = stretch.lsn;
        }
        let epoch = stretch.segment.active.epoch.epoch;
        mark.encode(self.meta.node, epoch, stretch.lsn)
    }

    fn announce(&self, stretch: &Stretch, awaited: bool) -> Appended {
        if awaited {
            self.published();
        }
        Appended {
            lsn: stretch.lsn,
            end: stretch.end(),
        }
    }

    /// Publishes a reserved stretch whose payload its owner has written in place, as data.
    pub(crate) fn publish_filled(&self, stretch: &Stretch) -> Appended {
        let (segment, lsn) = (&*stretch.segment, stretch.lsn);
        let mark = self.mark_of(stretch);
        let (header, bytes) = stretch.fill(|payload| {
            let payload: &[u8] = payload;
            head(segment, lsn, Kind::Data, &[payload], &mark)
        });
        let offset = segment.offset(lsn) as usize;
        segment.write(offset + 8, &bytes[8..]);
        let padded = stretch.payload_at() + stretch.payload_len;
        segment.zero(padded, offset + header.frame_len() - padded);
        let awaited = self.tail.publish(segment.word(offset), header.word());
        self.announce(stretch, awaited)
    }

    /// Publishes a reserved stretch as a void frame.
    pub(crate) fn publish_void(&self, stretch: &Stretch) {
        self.counters.voids.fetch_add(1, Ordering::Relaxed);
        // A few static zeros at a time: a void frame needs no buffer of its length.
        static ZEROS: [u8; 4096] = [0; 4096];
        let len = stretch.payload_len;
        let parts: Vec<&[u8]> = (0..len)
            .step_by(ZEROS.len())
            .map(|at| &ZEROS[..(len - at).min(ZEROS.len())])
            .collect();
        if let Err(error) = self.publish(stretch, Kind::Void, &parts) {
            tracing::debug!(%error, "a void frame");
        }
    }

    /// Appends a primary's frame.
    pub(crate) fn append_replicated(&self, frame: WireFrame<'_>) -> Result<Appended, LogError> {
        let WireFrame { header, payload } = frame;
        self.check_payload(payload.len())?;
        let not_next = |expected, why| LogError::NotNext {
            lsn: header.lsn,
            expected,
            why,
        };
        if header.payload_len as usize != payload.len() {
            return Err(not_next(
                self.reserved(),
                "its payload has another length than its header says",
            ));
        }
        let begins = match header.kind {
            Kind::Control => {
                let start = epoch_of_control(payload)
                    .filter(|s| s.begin == header.lsn)
                    .ok_or_else(|| {
                        not_next(self.reserved(), "it is no control frame of that place")
                    })?;
                Some(start)
            }
            Kind::Data | Kind::Void => None,
        };
        let current = self.current_epoch();
        let epoch = match (begins, current) {
            (Some(start), Some(current)) => {
                if start.epoch.number < current.epoch.number || start.epoch == current.epoch {
                    return Err(not_next(
                        self.reserved(),
                        "it begins an epoch that is not newer",
                    ));
                }
                start.epoch
            }
            (Some(start), None) => start.epoch,
            (None, Some(current)) => current.epoch,
            (None, None) => {
                return Err(not_next(
                    self.reserved(),
                    "a log begins with a control frame",
                ));
            }
        };
        let seed = crate::frame::Seed::new(self.meta.log, epoch);
        if checksum(seed, header.lsn, header.kind, &[payload]) != header.crc {
            return Err(not_next(
                self.reserved(),
                "its checksum is wrong for this log and epoch",
            ));
        }
        if let Some(start) = begins {
            return self.begin(Some(start), |_| start);
        }
        let admit = |append: &Append| {
            self.check_open(append)?;
            if append.writer {
                return Err(not_next(self.reserved(), "this node writes by itself"));
            }
            if header.lsn != self.reserved() {
                return Err(not_next(self.reserved(), "it is not the next"));
            }
            Ok(())
        };
        if self.is_large(payload.len()) {
            let stretch = self.reserve_large(payload.len(), AtBound::Wait, admit)?;
            return self.publish(&stretch, header.kind, &[payload]);
        }
        let mut append = self.append.lock();
        let stretch = loop {
            admit(&append)?;
            if !append.held && self.room(&mut append, payload.len())? {
                break self.take(&mut append, payload.len());
            }
            append = self.wait_for_room(append, payload.len(), AtBound::Wait)?;
        };
        drop(append);
        self.publish(&stretch, header.kind, &[payload])
    }

    /// Promotion: begins an epoch with this number.
    pub(crate) fn begin_epoch(&self, number: u64) -> Result<EpochStart, LogError> {
        let expected = self.reserved();
        if self
            .current_epoch()
            .is_some_and(|current| number <= current.epoch.number)
        {
            let why = "a promotion needs a higher epoch number";
            return Err(LogError::NotNext {
                lsn: expected,
                expected,
                why,
            });
        }
        self.begin_own(number)
    }

    /// Begins an epoch of this node's own.
    fn begin_own(&self, number: u64) -> Result<EpochStart, LogError> {
        let id = crate::recovery::random_id();
        let epoch = Epoch { number, id };
        let appended = self.begin(None, |begin| EpochStart { epoch, begin })?;
        Ok(EpochStart {
            epoch,
            begin: appended.lsn,
        })
    }

    /// Finishes an open that had no room for a segment, now that one is prepared.
    pub(crate) fn resume(&self) -> Result<(), LogError> {
        let current = self.current_epoch();
        {
            let mut append = self.append.lock();
            if append.active.is_some() || append.prepared.is_empty() || append.held || append.closed
            {
                return Ok(());
            }
            if !append.writer {
                // A follower goes on in its primary's epoch, or has not begun.
                if let Some(current) = current {
                    self.rotate(&mut append, current);
                }
                drop(append);
                self.room.notify_all();
                self.room_came();
                return Ok(());
            }
        }
        self.begin_own(current.map_or(1, |start| start.epoch.number))?;
        self.room_came();
        Ok(())
    }

    /// Begins an epoch: everything before is synced, then a segment is begun with the control frame, synced,
    /// then the history (AP5). `expected` is a primary's; without one, this node becomes the writer.
    fn begin(
        &self,
        expected: Option<EpochStart>,
        start_at: impl FnOnce(Lsn) -> EpochStart,
    ) -> Result<Appended, LogError> {
        let mut append = self.append.lock();
        loop {
            self.check_open(&append)?;
            if let Some(start) = expected.filter(|_| append.writer) {
                return Err(LogError::NotNext {
                    lsn: start.begin,
                    expected: self.reserved(),
                    why: "this node writes by itself",
                });
            }
            if !append.held {
                break;
            }
            if self.stepped() {
                return Err(LogError::Busy);
            }
            self.room.wait(&mut append);
        }
        append.held = true;
        drop(append);
        let begun = self.begin_held(expected, start_at);
        let mut append = self.append.lock();
        append.held = false;
        if begun.is_ok() {
            append.writer = expected.is_none();
        }
        drop(append);
        self.room.notify_all();
        self.room_watchers.call();
        begun
    }

    /// Writes the history if it changed. Of a log that was rewound it is not this one's to write.
    pub(crate) fn write_epochs(&self) -> std::io::Result<()> {
        let _file = self.epochs_file.lock();
        if self.rewound.get().is_some() {
            return Err(std::io::Error::other("the log was rewound meanwhile"));
        }
        // Before it is read: who adds an epoch meanwhile says so again.
        if !self.epochs_dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let epochs = self.epochs.lock().clone();
        let stored = meta::store_epochs(&*self.options.media, &self.dir, &epochs);
        if stored.is_err() {
            self.epochs_dirty.store(true, Ordering::Release);
        }
        stored
    }

    fn begin_held(
        &self,
        expected: Option<EpochStart>,
        start_at: impl FnOnce(Lsn) -> EpochStart,
    ) -> Result<Appended, LogError> {
        let base = self.reserved();
        if let Some(start) = expected.filter(|start| start.begin != base) {
            return Err(LogError::NotNext {
                lsn: start.begin,
                expected: base,
                why: "it is not the next",
            });
        }
        let start = start_at(base);
        self.sync_up_to(base, None)?;
        let mut append = self.append.lock();
        loop {
            self.check_open(&append)?;
            if self.rotate(&mut append, start) {
                break;
            }
            if let Some(source) = &append.no_space {
                return Err(self.no_space(source));
            }
            self.room_wanted.store(true, Ordering::Release);
            self.prepare_bell.ring();
            if self.stepped() {
                drop(append);
                self.prepare_one();
                append = self.append.lock();
                if append.prepared.is_empty() && append.no_space.is_none() {
                    return Err(LogError::Busy);
                }
            } else {
                self.room.wait(&mut append);
            }
        }
        let stretch = self.take(&mut append, CONTROL_LEN);
        drop(append);
        let appended = self.publish(&stretch, Kind::Control, &[&control_payload(start)])?;
        if !sabotage::on(Sabotage::ControlNotSynced) {
            self.sync_up_to(appended.end, None)?;
        }
        self.epochs.lock().push(start);
        self.epochs_dirty.store(true, Ordering::Release);
        if let Err(error) = self.write_epochs() {
            // On a full disk the segment itself carries the epoch until there is room: none is removed before.
            if error.kind() != std::io::ErrorKind::StorageFull {
                let poison = self.poison("writing the history in", &self.dir, error);
                return Err(LogError::Poisoned(poison));
            }
        }
        // It may have outranked one without frames.
        self.prepare_bell.ring();
        Ok(appended)
    }
}
