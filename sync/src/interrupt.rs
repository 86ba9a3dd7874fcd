//! Ends one thread's waits, from another thread.
//!
//! A reader that follows a log sleeps in a [`crate::watermark::Watermark`] with many others. To end its wait alone, and not the
//! log's, somebody raises its interrupt.
//!
//! - IN1: a raised interrupt stays so: it ends the wait under way and all that begin later.
//! - IN2: what was done before the raise is seen by the wait that it ends.
//!
//! IN1: who waits writes its name under the mutex and then tests the flag; who raises sets the flag and then takes the
//! mutex for the name. Whoever is second there sees the other: the waiter the flag, or the raiser the name, and an unpark
//! before the park makes that return at once; one that comes too late is a park that returns early. IN2: the flag is stored with release and loaded with acquire.

use crate::shim::atomic::{AtomicBool, Ordering};
use crate::shim::{Mutex, thread};

/// See the module. One thread waits at a time; anybody raises.
#[derive(Debug)]
pub struct Interrupt {
    raised: AtomicBool,
    waiter: Mutex<Option<thread::Thread>>,
}

/// While it lives, this thread is the one that is woken.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(&'a Interrupt);

impl Default for Interrupt {
    fn default() -> Self {
        Interrupt {
            raised: AtomicBool::new(false),
            waiter: Mutex::new(None),
        }
    }
}

impl Interrupt {
    /// Ends the wait under way, if there is one, and those to come.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        let waiter = self.waiter.lock().clone();
        if let Some(thread) = waiter {
            thread.unpark();
        }
    }

    /// Whether it was raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// This thread is about to wait: it must test [`Interrupt::is_raised`] before each time that it parks.
    pub(crate) fn enter(&self) -> Waiting<'_> {
        *self.waiter.lock() = Some(thread::current());
        Waiting(self)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *self.0.waiter.lock() = None;
    }
}
