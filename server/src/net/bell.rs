//! Wakes an event loop, but only when it asked to be.

use mio::Waker;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// See the module.
///
/// The loop arms it, looks once more at what it waits for, and sleeps; who moves a position rings. Either the
/// ringer sees it armed, or the loop's second look (behind its own SeqCst store) sees the move.
pub struct Bell {
    armed: AtomicBool,
    waker: Waker,
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").field("armed", &self.armed).finish()
    }
}

impl Bell {
    pub(crate) fn new(waker: Waker) -> Self {
        Bell {
            armed: AtomicBool::new(false),
            waker,
        }
    }

    /// Asks to be woken by the next ring.
    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Wakes the loop if it is armed.
    pub fn ring(&self) {
        if self.armed.load(Ordering::SeqCst) && self.armed.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Wakes the loop in any case.
    pub fn wake(&self) {
        // It fails only when the eventfd is gone, and with it the loop.
        let _ = self.waker.wake();
    }
}
