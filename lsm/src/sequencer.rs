//! The sequencer: writes become visible in LSN order, whatever order their inserts end in.
//!
//! - Q1: everything below `visible` is in its memtable. `visible` only grows, and stands at frame ends.
//! - Q2: each frame is completed once: by its writer when inserted (or made void), by the one who applies it on a
//!   replica, or here, when it is the log's own control frame, which nobody inserts.
//! - Q3: once a writer failed between publish and insert, `visible` stands still and every waiter is told (a hole
//!   would never be filled).

use esker_wal::Lsn;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct Sequencer {
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
#[derive(Debug)]
pub(crate) struct Broken;

impl Sequencer {
    pub(crate) fn new(visible: Lsn) -> Sequencer {
        Sequencer {
            visible: AtomicU64::new(visible.0),
            broken: AtomicBool::new(false),
            state: Mutex::default(),
            moved: Condvar::new(),
        }
    }

    /// Everything below is inserted.
    #[inline]
    pub(crate) fn visible(&self) -> Lsn {
        // Acquire pairs with the release in `complete`: who sees the position sees the inserts below it.
        Lsn(self.visible.load(Ordering::Acquire))
    }

    /// The frame `lsn..end` is inserted.
    pub(crate) fn complete(&self, lsn: Lsn, end: Lsn) {
        let mut state = self.state.lock();
        let visible = self.visible.load(Ordering::Relaxed);
        if lsn.0 < visible {
            // A void frame, completed by its writer and by one who found it in the log.
            return;
        }
        if lsn.0 > visible {
            state.ahead.insert(lsn.0, end.0);
            return;
        }
        let mut to = end.0;
        while let Some(further) = state.ahead.remove(&to) {
            to = further;
        }
        self.visible.store(to, Ordering::Release);
        if state.waiters > 0 {
            self.moved.notify_all();
        }
    }

    /// Tells every waiter that `visible` will not move (Q3).
    pub(crate) fn fail(&self) {
        let _state = self.state.lock();
        self.broken.store(true, Ordering::Release);
        self.moved.notify_all();
    }

    /// Waits a little; whether everything below `end` is visible then.
    pub(crate) fn wait_briefly(&self, end: Lsn) -> bool {
        // The hole is a memtable insert in another thread: a few hundred nanoseconds, if it runs.
        for turn in 0..64 {
            if self.visible() >= end {
                return true;
            }
            if turn < 48 {
                std::hint::spin_loop()
            } else {
                std::thread::yield_now()
            }
        }
        false
    }

    /// Waits until everything below `end` is visible.
    pub(crate) fn wait(&self, end: Lsn) -> Result<(), Broken> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn visible_moves_over_consecutive_frames_only() {
        let s = Sequencer::new(Lsn(8));
        s.complete(Lsn(40), Lsn(80));
        s.complete(Lsn(80), Lsn(96));
        assert_eq!(s.visible(), Lsn(8));
        s.complete(Lsn(8), Lsn(40));
        assert_eq!(s.visible(), Lsn(96));
    }

    #[test]
    fn a_waiter_is_told_when_the_hole_will_not_be_filled() {
        let s = Arc::new(Sequencer::new(Lsn(0)));
        let waiter = std::thread::spawn({
            let s = s.clone();
            move || s.wait(Lsn(80))
        });
        s.complete(Lsn(40), Lsn(80));
        s.fail();
        assert!(waiter.join().unwrap().is_err());
    }
}
