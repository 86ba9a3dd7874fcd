//! The stretch of positions that somebody owns: known from where, and up to where once that is decided.
//!
//! A memtable owns the log positions from the moment it is made; where it ends is decided when the next one takes over, by
//! whoever reserves positions or keeps others from it.
//!
//! - SP1: the end is set once, at or above every position that the owner was given.
//! - SP2: who reserved a position after the end was set under the lock that reservations take, and then loads the end,
//!   sees it (the lock orders the two; acquire and release here are for those who learn of the span in another way).

use crate::shim::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug)]
pub struct Span {
    start: u64,
    end: AtomicU64,
}

impl Span {
    /// From `start` on, without an end.
    #[must_use]
    pub fn from(start: u64) -> Span {
        Span {
            start,
            end: AtomicU64::new(u64::MAX),
        }
    }

    /// Its first position.
    #[must_use]
    #[inline]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Behind its last position; `u64::MAX` until that is decided.
    #[must_use]
    #[inline]
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Decides the end.
    pub fn freeze(&self, end: u64) {
        debug_assert!(end >= self.start && self.end() == u64::MAX);
        self.end.store(end, Ordering::Release);
    }

    /// Whether `position` is its own.
    #[must_use]
    #[inline]
    pub fn owns(&self, position: u64) -> bool {
        self.start <= position && position < self.end()
    }
}
