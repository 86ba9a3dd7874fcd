//! A position that only grows, and threads that park until it has reached theirs.
//!
//! - WM1: the value never goes back.
//! - WM2: a waiter whose target is reached, or that is stopped, does not stay parked.
//! - WM3: an advance nobody waits for costs one atomic maximum, one fence and one load.
//!
//! WM2 is Dekker's argument. The waiter counts itself into `waiting`, fences, then looks at the
//! value; who advances stores the value, fences, then looks at `waiting`. With a SeqCst fence on
//! both sides, at least one sees the other: either the waiter finds the value and does not park, or the
//! one who advances finds the waiter and unparks it. An unpark before the park is not lost, it makes
//! the park return at once.
//!
//! Some positions move only when somebody looks (the log's `published` is the end of the words
//! stored so far). For those [`Watermark::wait`] takes `look`, which it calls after counting itself in;
//! who stores a word calls [`Watermark::is_awaited`] after it and then looks on the waiter's behalf.

use crate::shim::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use crate::shim::{Mutex, park_until, thread};
use std::time::Instant;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// The value is at or above the target.
    Reached,
    /// [`Watermark::stop`] was called before that.
    Stopped,
    /// The deadline passed before that.
    TimedOut,
}

/// A position that only grows. See the module.
#[derive(Debug)]
pub struct Watermark {
    value: AtomicU64,
    /// Threads between counting themselves in and out.
    waiting: AtomicUsize,
    stopped: AtomicBool,
    parked: Mutex<Parked>,
}

#[derive(Debug, Default)]
struct Parked {
    next: u64,
    threads: Vec<(u64, u64, thread::Thread)>,
}

impl Watermark {
    /// A watermark at `value`.
    #[must_use]
    pub fn new(value: u64) -> Self {
        Watermark {
            value: AtomicU64::new(value),
            waiting: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            parked: Mutex::new(Parked::default()),
        }
    }

    /// The value. Acquire: what was done before the advance to it is seen.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// Moves the value to at least `to` and wakes those it satisfies.
    pub fn advance(&self, to: u64) {
        // AcqRel: of several who advance, the later passes on what the earlier had seen.
        if self.value.fetch_max(to, Ordering::AcqRel) < to && self.is_awaited() {
            self.wake(to);
        }
    }

    /// Whether somebody waits. Fences first: see the module for who must call it when.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        fence(Ordering::SeqCst);
        // Relaxed: the fence orders it.
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// Ends all waits, now and later, whose target is not reached.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.wake(u64::MAX);
    }

    /// Whether [`Watermark::stop`] was called.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn wake(&self, reached: u64) {
        // Entries stay until their owners take them out: a thread is unparked once too often rather than
        // once too seldom.
        for (_, target, thread) in &self.parked.lock().threads {
            if *target <= reached {
                thread.unpark();
            }
        }
    }

    /// Parks until the value is at or above `target`. `look` is called before each look at the value.
    pub fn wait(&self, target: u64, deadline: Option<Instant>, mut look: impl FnMut()) -> WaitEnd {
        if self.get() >= target {
            return WaitEnd::Reached;
        }
        let me = {
            let mut parked = self.parked.lock();
            let me = parked.next;
            parked.next += 1;
            parked.threads.push((me, target, thread::current()));
            me
        };
        // Relaxed: the fence orders it.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let end = loop {
            look();
            if self.get() >= target {
                break WaitEnd::Reached;
            }
            if self.is_stopped() {
                break WaitEnd::Stopped;
            }
            if deadline.is_some_and(|at| at <= Instant::now()) {
                break WaitEnd::TimedOut;
            }
            park_until(deadline);
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.parked.lock().threads.retain(|(id, ..)| *id != me);
        end
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_waiter_is_woken_by_the_advance_that_reaches_it() {
        let mark = Arc::new(Watermark::new(0));
        let waiter = {
            let mark = mark.clone();
            std::thread::spawn(move || mark.wait(10, None, || {}))
        };
        for to in 1..=10 {
            mark.advance(to);
        }
        assert_eq!(waiter.join().unwrap(), WaitEnd::Reached);
        mark.advance(3);
        assert_eq!(mark.get(), 10);
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_at_stop() {
        let mark = Arc::new(Watermark::new(0));
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(mark.wait(1, Some(soon), || {}), WaitEnd::TimedOut);
        let waiter = {
            let mark = mark.clone();
            std::thread::spawn(move || mark.wait(1, None, || {}))
        };
        mark.stop();
        assert_eq!(waiter.join().unwrap(), WaitEnd::Stopped);
        assert_eq!(mark.wait(1, None, || {}), WaitEnd::Stopped);
        assert_eq!(mark.wait(0, None, || {}), WaitEnd::Reached);
    }
}
