//! Room for one frame, to be filled in place.
//!
//! - RV1: from its reservation on a frame has its LSN; it is published as what its owner makes of it, or as a void frame of
//!   its length: by an error, a short fill, a panic, or a drop (W8).
//! - RV2: bytes that were in the file before are never published and never shown: what is filled by a function begins as zeros,
//!   and a [`FrameWriter`] only writes, and publishes only what it wrote.

use crate::append::{AtBound, Stretch};
use crate::error::LogError;
use crate::frame::Kind;
use crate::ids::Lsn;
use crate::log::{Appended, Log};
use crate::shared::Shared;
use std::io;
use std::sync::Arc;

/// Room for one frame: fill it, then publish. Dropped unpublished it becomes a void frame (W8).
#[derive(Debug)]
pub struct Reservation {
    shared: Arc<Shared>,
    stretch: Stretch,
    published: bool,
}

impl Log {
    /// Reserves room for a payload of `len` bytes; blocks at a bound.
    ///
    /// A payload that no segment of the usual size holds gets one of its own, which is made here, before there is an LSN: that
    /// takes as long as writing as many bytes. `try_reserve` makes it, too.
    pub fn reserve(&self, len: usize) -> Result<Reservation, LogError> {
        self.reservation(len, AtBound::Wait)
    }

    /// As `reserve`, but `Busy` at a bound.
    pub fn try_reserve(&self, len: usize) -> Result<Reservation, LogError> {
        self.reservation(len, AtBound::Refuse)
    }

    fn reservation(&self, len: usize, at_bound: AtBound) -> Result<Reservation, LogError> {
        let stretch = self.shared().reserve(len, at_bound)?;
        Ok(Reservation {
            shared: self.shared().clone(),
            stretch,
            published: false,
        })
    }
}

impl Reservation {
    /// LSN of the frame to be.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.stretch.lsn
    }

    /// LSN behind the frame to be.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.stretch.end()
    }

    /// Payload bytes reserved.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.stretch.payload_len
    }

    /// Copies `parts` (their lengths must add up to `payload_len`, else the frame becomes void and an error
    /// is returned) and publishes.
    pub fn publish(mut self, parts: &[&[u8]]) -> Result<Appended, LogError> {
        self.check_len(parts.iter().map(|p| p.len()).sum())?;
        self.published = true;
        self.shared.publish(&self.stretch, Kind::Data, parts)
    }

    /// Encodes straight into the log: `encode` gets the payload's place, filled with zeros, and says how much of it it
    /// used. All of it, and it is published; less, an error or a panic, and the frame becomes void.
    pub fn fill<E: From<LogError>>(
        self,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<Appended, E> {
        let used = self.stretch.fill(|payload| {
            payload.fill(0);
            encode(payload)
        })?;
        self.check_len(used)?;
        Ok(self.publish_filled())
    }

    /// Encodes straight into the log, by writing.
    #[must_use]
    pub fn writer(self) -> FrameWriter {
        FrameWriter {
            reservation: self,
            written: 0,
        }
    }

    fn check_len(&self, got: usize) -> Result<(), LogError> {
        let reserved = self.stretch.payload_len;
        match got == reserved {
            true => Ok(()),
            // Dropped, it becomes void.
            false => Err(LogError::WrongLength { got, reserved }),
        }
    }

    fn publish_filled(mut self) -> Appended {
        self.published = true;
        self.shared.publish_filled(&self.stretch)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.published {
            self.shared.publish_void(&self.stretch);
        }
    }
}

/// Writes the payload of a [`Reservation`] in place. Dropped unfinished, the frame becomes void.
#[derive(Debug)]
pub struct FrameWriter {
    reservation: Reservation,
    written: usize,
}

impl FrameWriter {
    /// Bytes still to be written.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.reservation.payload_len() - self.written
    }

    /// Publishes. Where not all of the payload was written, the frame becomes void and an error is returned.
    pub fn finish(self) -> Result<Appended, LogError> {
        self.reservation.check_len(self.written)?;
        Ok(self.reservation.publish_filled())
    }
}

impl io::Write for FrameWriter {
    /// Writes as much as there is room for; nothing at the end.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = buf.len().min(self.remaining());
        self.reservation.stretch.write(self.written, &buf[..len]);
        self.written += len;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
