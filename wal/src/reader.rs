//! Readers: frames in order, verified, from any position held.
//!
//! - RD1: a reader hands out only frames below its limit, each verified, none twice, none left out.
//! - RD2: what a reader has still to read is pinned: release does not pass its position.
//! - RD3: frames are read through the file, into the reader's one buffer: nothing of a mapping is lent out. A payload
//!   that is kept ([`Frame`]) outlives the log, and keeps the buffer that it was read into; the reader then takes another.
//! - RD4: the limit is looked up when the reader has come to the one it knows, not for each frame.

use crate::cursor::{Cursor, Step};
use crate::error::LogError;
use crate::frame;
use crate::ids::{Epoch, Lsn};
use crate::sabotage::Sabotage;
use crate::segment::Segment;
use crate::shared::Shared;
use crate::slots;
use bytes::Bytes;
use esker_sync::positions::Hold;
use esker_sync::watermark::WaitEnd;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
        let header = match self.at_hand() {
            Some(header) => header,
            None => match self.advance()? {
                Some(header) => header,
                None => return Ok(None),
            },
        };
        let (segment, cursor) = self.at.as_ref().expect("a frame was read");
        Ok(Some(Frame {
            header,
            epoch: segment.active.epoch.epoch,
            payload: cursor.payload_bytes(&header),
        }))
    }

    /// As `next`, without a share in the buffer: the cheapest way through a log.
    #[inline]
    pub fn next_ref(&mut self) -> Result<Option<FrameRef<'_>>, LogError> {
        let header = match self.at_hand() {
            Some(header) => header,
            None => match self.advance()? {
                Some(header) => header,
                None => return Ok(None),
            },
        };
        let (segment, cursor) = self.at.as_ref().expect("a frame was read");
        Ok(Some(FrameRef {
            header,
            epoch: segment.active.epoch.epoch,
            payload: cursor.payload(&header),
        }))
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
            self.known = self.limit();
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

    /// As `next`, but waits for one; `Ok(None)` at the timeout, `Closed` when the log closes.
    pub fn next_wait(&mut self, timeout: Option<Duration>) -> Result<Option<Frame>, LogError> {
        let deadline = timeout.map(|t| Instant::now() + t);
        loop {
            if let Some(frame) = self.next()? {
                return Ok(Some(frame));
            }
            let target = self.position.0 + 1;
            let shared = &self.shared;
            let end = match self.limit {
                ReadLimit::Published => shared.tail.wait(target, deadline, || {
                    shared.published();
                }),
                ReadLimit::Synced => shared.group.position().wait(target, deadline, || {}),
            };
            match end {
                WaitEnd::Reached => {}
                WaitEnd::Stopped => return Err(self.shared.ended()),
                WaitEnd::TimedOut => return Ok(None),
            }
        }
    }

    /// LSN of the next frame.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.hold = None;
        self.shared.prepare_bell.ring();
    }
}
