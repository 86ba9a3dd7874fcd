//! Readers.
use crate::*;
use bytes::Bytes;
use std::time::Duration;

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

/// Reads frames in order, verified. Pins what it still has to read.
#[derive(Debug)]
pub struct Reader {}
impl Reader {
    /// The next frame below the limit, or `None` when there is none yet.
    pub fn next(&mut self) -> Result<Option<Frame>, LogError> {
        todo!()
    }
    /// As `next`, but waits for one; `Ok(None)` at the timeout, `Closed` when the log closes.
    pub fn next_wait(&mut self, timeout: Option<Duration>) -> Result<Option<Frame>, LogError> {
        let _ = timeout;
        todo!()
    }
    /// LSN of the next frame.
    pub fn position(&self) -> Lsn {
        todo!()
    }
}
