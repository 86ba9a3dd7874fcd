//! The sequencer: work on consecutive stretches of positions becomes visible in their order, whatever order it ends in.
//!
//! Writers of a store insert their frames at the same time; readers must not see a frame without those before it.
//!
//! - Q1: everything below `visible` is done. `visible` only grows, and stands where a stretch ends.
//! - Q2: each stretch is completed once, or once more after it became visible.
//! - Q3: once [`Sequencer::fail`] was called (somebody will never be done), every waiter is told.
//!
//! `visible` is moved under the mutex, with release; who loads it, with acquire, sees what was done below it: each
//! `complete` takes the mutex, so the last one has what all before it did.

use crate::shim::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::shim::{Condvar, Mutex, thread};
use std::collections::BTreeMap;

/// See the module.
#[derive(Debug)]
pub struct Sequencer {
    visible: AtomicU64,
    broken: AtomicBool,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Completed above a hole: begin -> end.
    ahead: BTreeMap<u64, u64>,
    waiters: usize,
}

/// A hole was left by a writer that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl Sequencer {
    /// Everything below `visible` is done.
    #[must_use]
    pub fn new(visible: u64) -> Sequencer {
        Sequencer {
            visible: AtomicU64::new(visible),
            broken: AtomicBool::new(false),
            state: Mutex::new(State::default()),
            moved: Condvar::new(),
        }
    }

    /// Everything below is done.
    #[must_use]
    #[inline]
    pub fn visible(&self) -> u64 {
        // Acquire pairs with the release in `complete`: who sees the position sees what was done below it.
        self.visible.load(Ordering::Acquire)
    }

    /// The stretch `begin..end` is done.
    pub fn complete(&self, begin: u64, end: u64) {
        let mut state = self.state.lock();
        let visible = self.visible.load(Ordering::Relaxed);
        if begin < visible {
            // Completed by two.
            return;
        }
        if begin > visible {
            state.ahead.insert(begin, end);
            return;
        }
        let mut to = end;
        while let Some(further) = state.ahead.remove(&to) {
            to = further;
        }
        self.visible.store(to, Ordering::Release);
        if state.waiters > 0 {
            self.moved.notify_all();
        }
    }

    /// Tells every waiter that `visible` will not move (Q3).
    pub fn fail(&self) {
        let _state = self.state.lock();
        self.broken.store(true, Ordering::Release);
        self.moved.notify_all();
    }

    /// Waits a little; whether everything below `end` is visible then.
    pub fn wait_briefly(&self, end: u64) -> bool {
        // The hole is an insert in another thread: a few hundred nanoseconds, if it runs.
        for turn in 0..64 {
            if self.visible() >= end {
                return true;
            }
            if turn < 48 {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        false
    }

    /// Waits until everything below `end` is visible.
    pub fn wait(&self, end: u64) -> Result<(), Broken> {
        let mut state = self.state.lock();
        state.waiters += 1;
        let result = loop {
            if self.visible() >= end {
                break Ok(());
            }
            if self.broken.load(Ordering::Acquire) {
                break Err(Broken);
            }
            self.moved.wait(&mut state);
        };
        state.waiters -= 1;
        result
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn visible_moves_over_consecutive_frames_only() {
        let s = Sequencer::new(8);
        s.complete(40, 80);
        s.complete(80, 96);
        assert_eq!(s.visible(), 8);
        s.complete(8, 40);
        assert_eq!(s.visible(), 96);
    }

    /// Q2: who helped and who was helped both say so.
    #[test]
    fn what_is_completed_twice_moves_nothing_back() {
        let s = Sequencer::new(8);
        s.complete(8, 40);
        s.complete(40, 80);
        s.complete(8, 40);
        assert_eq!(s.visible(), 80);
        s.complete(80, 96);
        assert_eq!(s.visible(), 96);
    }

    #[test]
    fn a_waiter_is_told_when_the_hole_will_not_be_filled() {
        let s = Arc::new(Sequencer::new(0));
        let waiter = std::thread::spawn({
            let s = s.clone();
            move || s.wait(80)
        });
        s.complete(40, 80);
        s.fail();
        assert!(waiter.join().unwrap().is_err());
    }
}
