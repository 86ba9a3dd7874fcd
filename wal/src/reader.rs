//! Readers: frames in order, verified, from any position held.
//!
//! - RD1: a reader hands out only frames below its limit, each verified, none twice, none left out.
//! - RD2: what a reader has still to read is pinned: release does not pass its position.
//! - RD3: frames are read through the file, or at the tail copied out of the mapping, into the reader's one buffer: nothing of a mapping is lent out. A payload
//!   that is kept ([`Frame`]) outlives the log, and keeps the buffer that it was read into; the reader then takes another.
//! - RD4: the limit is looked up when the reader has come to the one it knows, not for each frame; who polls at the tail loads the
//!   word of the next frame, and nothing else, until that is there.

use crate::cursor::{Cursor, Step};
use crate::error::LogError;
use crate::frame;
use crate::ids::{Epoch, Lsn};
use crate::sabotage::Sabotage;
use crate::segment::Segment;
use crate::shared::Shared;
use crate::slots;
use crate::spin::Spin;
use bytes::Bytes;
use esker_sync::interrupt::Interrupt;
use esker_sync::positions::Hold;
use esker_sync::watermark::WaitEnd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Bytes that a reader at the tail copies out of the mapping, rather than by a call.
const NEAR: u64 = 64 << 10;
/// Frames that a reader at the tail finds by itself; for more it asks how far the log is published.
const FEW: usize = 8;
/// See [`Reader::set_spin_max`].
const SPIN_MAX: Duration = Duration::from_micros(50);

/// How far a reader goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLimit {
    /// To what is published.
    Published,
    /// To what is synced.
    Synced,
}

/// A frame read back and verified.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Header.
    pub header: frame::Header,
    /// Epoch it was written in.
    pub epoch: Epoch,
    /// Payload without padding.
    pub payload: Bytes,
}

/// A frame read back and verified, lent by its reader until the next is read.
#[derive(Clone, Copy, Debug)]
pub struct FrameRef<'a> {
    /// Header.
    pub header: frame::Header,
    /// Epoch it was written in.
    pub epoch: Epoch,
    /// Payload without padding.
    pub payload: &'a [u8],
}

/// Reads frames in order, verified. Pins what it still has to read.
#[derive(Debug)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
    pub(crate) limit: ReadLimit,
    /// What may be read, as far as is known.
    known: Lsn,
    /// The same within the segment that the cursor is in.
    here: Lsn,
    position: Lsn,
    /// There until it is dropped (RD2).
    hold: Option<Hold>,
    at: Option<(Arc<Segment>, Cursor)>,
    interrupt: Arc<Interrupt>,
    spin: Spin,
}

impl Reader {
    pub(crate) fn new(
        shared: Arc<Shared>,
        from: Lsn,
        limit: ReadLimit,
    ) -> Result<Reader, LogError> {
        let published = shared.published();
        if from > published {
            return Err(LogError::NotNext {
                lsn: from,
                expected: published,
                why: "a reader can't begin beyond what is published",
            });
        }
        let hold = slots::hold(&shared.positions, from, Sabotage::PinIgnored)?;
        Ok(Reader {
            shared,
            limit,
            known: from,
            here: from,
            position: from,
            hold: Some(hold),
            at: None,
            interrupt: Arc::default(),
            spin: Spin::new(SPIN_MAX),
        })
    }

    fn limit(&self) -> Lsn {
        match self.limit {
            ReadLimit::Published => self.shared.published(),
            ReadLimit::Synced => self.shared.synced(),
        }
    }

    /// The next frame below the limit, or `None` when there is none yet.
    #[expect(
        clippy::should_implement_trait,
        reason = "not an iterator: `None` is not the end"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, LogError> {
        let Some((header, segment, cursor)) = self.step()? else {
            return Ok(None);
        };
        Ok(Some(Frame {
            header,
            epoch: segment.active.epoch.epoch,
            payload: cursor.payload_bytes(&header),
        }))
    }

    /// As `next`, without a share in the buffer: the cheapest way through a log.
    #[inline]
    pub fn next_ref(&mut self) -> Result<Option<FrameRef<'_>>, LogError> {
        let Some((header, segment, cursor)) = self.step()? else {
            return Ok(None);
        };
        Ok(Some(FrameRef {
            header,
            epoch: segment.active.epoch.epoch,
            payload: cursor.payload(&header),
        }))
    }

    /// Moves past the next frame, if there is one; where its bytes are.
    #[inline]
    fn step(&mut self) -> Result<Option<(frame::Header, &Segment, &Cursor)>, LogError> {
        let header = match self.at_hand() {
            Some(header) => header,
            None => match self.advance()? {
                Some(header) => header,
                None => return Ok(None),
            },
        };
        let (segment, cursor) = self.at.as_ref().expect("a frame was read");
        Ok(Some((header, segment, cursor)))
    }

    /// The next frame, if it is in the buffer already; moves past it.
    #[inline]
    fn at_hand(&mut self) -> Option<frame::Header> {
        let (_, cursor) = self.at.as_ref()?;
        let header = cursor.in_buffer(self.position, self.here)?;
        if self.shared.rewound.get().is_some() {
            return None;
        }
        self.position = header.end();
        Some(header)
    }

    /// Reads the next frame into the cursor's buffer and moves past it.
    fn advance(&mut self) -> Result<Option<frame::Header>, LogError> {
        if self.shared.rewound.get().is_some() {
            return Err(self.shared.ended());
        }
        if self.position >= self.known {
            self.known = match self.next_few() {
                Some(known) if known == self.position => return Ok(None),
                Some(known) => known,
                None => self.limit(),
            };
            // It holds what is in its buffer too, until it is through with it.
            if let Some(hold) = &mut self.hold {
                hold.advance(self.position.0);
            }
            if self.position >= self.known {
                return Ok(None);
            }
        }
        let here = (self.at.as_ref()).is_some_and(|(s, _)| self.position < s.end());
        if !here {
            let segment = self
                .shared
                .segment_of(self.position)
                .ok_or_else(|| self.shared.ended())?;
            let cursor = Cursor::new(&segment);
            self.at = Some((segment, cursor));
        }
        let (segment, cursor) = self.at.as_mut().expect("just set");
        let limit = self.known.min(segment.end()).min(segment.capacity_end());
        self.here = limit;
        if let Some(hold) = &mut self.hold {
            hold.advance(self.position.0);
        }
        // At the tail, and written in this life: in memory, so that the copy does not have to wait for the disk.
        let little = limit.since(self.position) <= NEAR && self.position >= self.shared.opened_at;
        if little && segment.map().is_some() {
            cursor.take_mapped(segment, self.position, limit);
        }
        let step = cursor
            .read(self.position, limit)
            .map_err(Shared::io_error("reading", &segment.path))?;
        match step {
            Step::Frame { header } => {
                self.position = header.end();
                Ok(Some(header))
            }
            Step::Broken(broken) => {
                cursor.forget();
                self.shared.note_damage(segment, self.position);
                Err(LogError::Corrupt {
                    path: segment.path.clone(),
                    at: self.position,
                    what: format!(
                        "{} (stored {:08x}, computed {:08x})",
                        broken.what, broken.stored, broken.computed
                    ),
                })
            }
        }
    }

    /// The end of the few frames published at its position, which it is at where there are none, by their words: no lock, no
    /// count, no call. `None` where that is not the way to know: there are many, or the segment is not being written.
    fn next_few(&self) -> Option<Lsn> {
        let (segment, _) = self.at.as_ref()?;
        // Where the segment has ended, its next frame begins in another.
        if self.limit != ReadLimit::Published
            || self.position < self.shared.opened_at
            || segment.map().is_none()
            || segment.is_closed()
        {
            return None;
        }
        // All before the position was published (RD1): so what is published from there on is the unbroken row, and the
        // zero behind that is seen (T3 of `esker_sync::tail`).
        let mut end = self.position;
        for _ in 0..FEW {
            let word = segment.frame_word(end)?.load(Ordering::Acquire);
            if !frame::Header::publishes(word) {
                return Some(end);
            }
            end = end.advance(frame::Header::span(word));
        }
        None
    }

    /// As `next`, but waits for one; `Ok(None)` at the timeout, `Closed` when the log closes, `Interrupted` when
    /// [`Reader::interrupt`] is raised.
    pub fn next_wait(&mut self, timeout: Option<Duration>) -> Result<Option<Frame>, LogError> {
        if let Some(frame) = self.next()? {
            return Ok(Some(frame));
        }
        let began = Instant::now();
        let deadline = timeout.map(|t| began + t);
        let mut spin = self.spin;
        let spun = spin.until(began, deadline, || {
            if self.interrupt.is_raised() {
                return Some(Err(self.interrupted()));
            }
            self.next().transpose()
        });
        let found = match spun {
            Some(found) => found.map(Some),
            None => self.sleep(deadline),
        };
        spin.waited(began.elapsed());
        self.spin = spin;
        found
    }

    fn sleep(&mut self, deadline: Option<Instant>) -> Result<Option<Frame>, LogError> {
        loop {
            let (shared, of) = (&self.shared, self.limit);
            let target = self.position.0 + 1;
            let end = shared
                .position(of)
                .wait_unless(&self.interrupt, target, deadline, || shared.look(of));
            match end {
                Some(WaitEnd::Reached) => {}
                Some(WaitEnd::Stopped) => return Err(shared.ended()),
                Some(WaitEnd::TimedOut) => return Ok(None),
                None => return Err(self.interrupted()),
            }
            if let Some(frame) = self.next()? {
                return Ok(Some(frame));
            }
        }
    }

    fn interrupted(&self) -> LogError {
        LogError::Interrupted {
            target: self.position.advance(1),
        }
    }

    /// Ends this reader's waits from another thread.
    #[must_use]
    pub fn interrupt(&self) -> ReaderInterrupt {
        ReaderInterrupt(self.interrupt.clone())
    }

    /// How long `next_wait` looks again, yielding its processor between two looks, before it sleeps. It does so only while its recent
    /// waits took no longer than that on average, and not where others want the processor.
    ///
    /// More saves the wake-up (tens of microseconds for the reader, and about ten for each append that wakes it; docs/benchmarks.md)
    /// where frames come up to so far apart, and costs a processor's time as long as they do. Zero never spins. Default: 50 us.
    pub fn set_spin_max(&mut self, max: Duration) {
        self.spin = Spin::new(max);
    }

    /// LSN of the next frame.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }
}

/// Ends a [`Reader`]'s waits from another thread; clones are one.
#[derive(Clone, Debug)]
pub struct ReaderInterrupt(Arc<Interrupt>);

impl ReaderInterrupt {
    /// The wait under way ends with [`LogError::Interrupted`], and so does each later one that finds no frame at hand. What is
    /// there can still be read.
    pub fn raise(&self) {
        self.0.raise();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.hold = None;
        self.shared.prepare_bell.ring();
    }
}
