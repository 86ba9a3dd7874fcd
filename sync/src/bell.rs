//! Wakes one worker, and remembers that it rang.
//!
//! - B1: a ring before the wait ends it at once; several rings before one wait are one.
//! - B2: what was done before a ring is seen by the wait that it ends.
//!
//! Ringing a bell that has already rung costs one atomic swap. `rung` is swapped with acquire-release on both
//! sides (B2). B1: the worker tests `rung` under the mutex before it sleeps and the ringer takes the
//! mutex between setting it and notifying, so no notification falls between test and sleep.

use crate::shim::atomic::{AtomicBool, Ordering};
use crate::shim::{Condvar, Mutex, wait_until};
use std::time::Instant;

/// A bell. See the module. One worker waits; anybody rings.
#[derive(Debug)]
pub struct Bell {
    rung: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Default for Bell {
    fn default() -> Self {
        Bell {
            rung: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }
}

impl Bell {
    /// Rings.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            drop(self.lock.lock());
            self.wake.notify_one();
        }
    }

    /// Waits until it has rung or `deadline` has passed, and takes the ring. True if it had rung.
    pub fn wait(&self, deadline: Option<Instant>) -> bool {
        if self.take() {
            return true;
        }
        let mut guard = self.lock.lock();
        loop {
            if self.take() {
                return true;
            }
            if deadline.is_some_and(|at| at <= Instant::now()) {
                return false;
            }
            wait_until(&self.wake, &mut guard, deadline);
        }
    }

    /// Takes the ring, if there is one.
    pub fn take(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }
}
