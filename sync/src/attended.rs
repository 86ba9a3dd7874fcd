//! A thing behind a mutex, and a mark on it that anybody may raise without waiting.
//!
//! Who raises the mark while nobody has the thing puts it there at once; else who has the thing does, when it has let go of it. So a mark
//! costs who raises it no wait, however long the thing is held, and is never left behind.
//!
//! - AT1: one at a time has the thing.
//! - AT2: once nobody is in a call, the highest mark that was raised has been put on the thing, unless putting it failed; then it is tried again by the next
//!   who raises a mark, or has the thing.
//! - AT3: who raises a mark waits for nobody.
//!
//! AT2 is Dekker's argument. Who raises stores the mark, fences, then tries for the mutex; who has the thing lets go of the mutex, fences, then looks at the
//! mark. With a SeqCst fence on both sides, at least one sees the other: either the mutex is had, or the mark is found. A mutex that is let go to
//! another, who waits for it, leaves the look to that one.

use crate::shim::Mutex;
use crate::shim::atomic::{AtomicU64, Ordering, fence};

/// A thing with a mark. See the module.
#[derive(Debug)]
pub struct Attended<T> {
    thing: Mutex<T>,
    raised: AtomicU64,
    /// Changed by who has the thing.
    put: AtomicU64,
}

impl<T> Attended<T> {
    /// `thing`, whose mark is zero.
    #[must_use]
    pub fn new(thing: T) -> Self {
        Attended {
            thing: Mutex::new(thing),
            raised: AtomicU64::new(0),
            put: AtomicU64::new(0),
        }
    }

    /// Waits for the thing, works with it, lets go of it, and puts the mark on it that was raised meanwhile. `put` says whether it did.
    pub fn with<R>(
        &self,
        work: impl FnOnce(&mut T) -> R,
        put: impl FnMut(&mut T, u64) -> bool,
    ) -> R {
        let out = work(&mut self.thing.lock());
        self.attend(put);
        out
    }

    /// Raises the mark to `to`; `put` puts it on the thing, here if nobody has that.
    pub fn raise(&self, to: u64, put: impl FnMut(&mut T, u64) -> bool) {
        self.raised.fetch_max(to, Ordering::Relaxed);
        self.attend(put);
    }

    fn attend(&self, mut put: impl FnMut(&mut T, u64) -> bool) {
        loop {
            fence(Ordering::SeqCst);
            let raised = self.raised.load(Ordering::Relaxed);
            // Relaxed: an old value makes it be put twice, no more.
            if raised <= self.put.load(Ordering::Relaxed) {
                return;
            }
            let Some(mut thing) = self.thing.try_lock() else {
                return;
            };
            if !put(&mut thing, raised) {
                return;
            }
            self.put.fetch_max(raised, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;

    #[test]
    fn at2_a_mark_raised_while_the_thing_is_held_is_put_behind_it() {
        let thing = Attended::new(Vec::new());
        let put = |seen: &mut Vec<u64>, mark| {
            seen.push(mark);
            true
        };
        thing.raise(3, put);
        thing.with(
            |seen| {
                assert_eq!(seen, &[3]);
                thing.raise(5, put);
                thing.raise(4, put);
                assert_eq!(seen, &[3]);
            },
            put,
        );
        thing.with(|seen| assert_eq!(seen, &[3, 5]), put);
    }

    #[test]
    fn at2_a_mark_that_could_not_be_put_is_tried_again() {
        let thing = Attended::new(0);
        thing.raise(3, |_, _| false);
        thing.with(|at| assert_eq!(*at, 0), |_, _| false);
        let put = |at: &mut u64, mark| {
            *at = mark;
            true
        };
        thing.raise(2, put);
        thing.with(|at| assert_eq!(*at, 3), put);
    }
}
