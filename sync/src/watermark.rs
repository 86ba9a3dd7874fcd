//! A position that only grows, and threads and tasks that sleep until it has reached theirs.
//!
//! - WM1: the value never goes back.
//! - WM2: a waiter whose target is reached, or that is stopped, does not stay asleep.
//! - WM3: an advance nobody waits for costs one atomic maximum, one fence and one load.
//! - WM4: a task that leaves ([`Watermark::leave`]) leaves nothing behind: there are never more entries than waiters.
//!
//! WM2 is Dekker's argument. The waiter counts itself into `waiting`, fences, then looks at the
//! value; who advances stores the value, fences, then looks at `waiting`. With a SeqCst fence on
//! both sides, at least one sees the other: either the waiter finds the value and does not sleep, or the
//! one who advances finds the waiter and wakes it. An unpark before the park is not lost, it makes
//! the park return at once; a task's waker that is called before its poll has returned makes it be polled again.
//!
//! A thread takes its own entry out when it has woken. A task's entry goes with the wake-up, for the task may never be
//! polled again; polled, it enters anew if its target is not reached. Wakers are called, cloned and dropped outside of the lock:
//! they are foreign code, and may well drop the very future that waits here.
//!
//! Some positions move only when somebody looks (the log's `published` is the end of the words
//! stored so far). For those [`Watermark::wait`] takes `look`, which it calls after counting itself in;
//! who stores a word calls [`Watermark::is_awaited`] after it and then looks on the waiter's behalf.

use crate::interrupt::Interrupt;
use crate::shim::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use crate::shim::{Mutex, park_until, thread};
use std::task::{Poll, Waker};
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
    /// Entries in `asleep`; changed with it.
    waiting: AtomicUsize,
    stopped: AtomicBool,
    asleep: Mutex<Asleep>,
}

#[derive(Debug, Default)]
struct Asleep {
    next: u64,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    target: u64,
    who: Sleeper,
}

#[derive(Debug)]
enum Sleeper {
    Thread(thread::Thread),
    Task(Waker),
}

/// A task's place among those who wait: one per future, handed to each [`Watermark::poll`] and at last to
/// [`Watermark::leave`].
#[derive(Debug, Default)]
pub struct Place(Option<u64>);

impl Watermark {
    /// A watermark at `value`.
    #[must_use]
    pub fn new(value: u64) -> Self {
        Watermark {
            value: AtomicU64::new(value),
            waiting: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            asleep: Mutex::new(Asleep::default()),
        }
    }

    /// The value. Acquire: what was done before the advance to it is seen.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// Moves the value to at least `to` and wakes those it satisfies.
    pub fn advance(&self, to: u64) {
        if self.raise(to) {
            self.notify();
        }
    }

    /// The first half of [`Watermark::advance`], for who holds a lock: true when the value moved, and
    /// [`Watermark::notify`] must follow.
    #[must_use]
    pub fn raise(&self, to: u64) -> bool {
        // AcqRel: of several who advance, the later passes on what the earlier had seen.
        self.value.fetch_max(to, Ordering::AcqRel) < to
    }

    /// Wakes those whom the value satisfies.
    pub fn notify(&self) {
        if self.is_awaited() {
            self.wake(self.get());
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
        let mut tasks = Vec::new();
        {
            let mut asleep = self.asleep.lock();
            let is_task = |e: &mut Entry| e.target <= reached && matches!(e.who, Sleeper::Task(_));
            tasks.extend(asleep.entries.extract_if(.., is_task));
            // Relaxed: who counts in fences.
            self.waiting.fetch_sub(tasks.len(), Ordering::Relaxed);
            for entry in &asleep.entries {
                if let Sleeper::Thread(thread) = &entry.who
                    && entry.target <= reached
                {
                    // A thread is unparked once too often rather than once too seldom.
                    thread.unpark();
                }
            }
        }
        for entry in tasks {
            if let Sleeper::Task(waker) = entry.who {
                waker.wake();
            }
        }
    }

    fn enter(&self, target: u64, who: Sleeper) -> u64 {
        let mut asleep = self.asleep.lock();
        let id = asleep.next;
        asleep.next += 1;
        asleep.entries.push(Entry { id, target, who });
        // Relaxed: the fence that follows orders it.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        id
    }

    fn take(&self, id: u64) -> Option<Entry> {
        let mut asleep = self.asleep.lock();
        let at = asleep.entries.iter().position(|e| e.id == id)?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(asleep.entries.swap_remove(at))
    }

    fn end(&self, target: u64) -> Option<WaitEnd> {
        if self.get() >= target {
            return Some(WaitEnd::Reached);
        }
        self.is_stopped().then_some(WaitEnd::Stopped)
    }

    /// Parks until the value is at or above `target`. `look` is called before each look at the value.
    pub fn wait(&self, target: u64, deadline: Option<Instant>, look: impl FnMut()) -> WaitEnd {
        let end = self.wait_while(target, deadline, look, || true);
        end.expect("nothing else ends it")
    }

    /// As `wait`; `None` when `interrupt` was raised before the value got there.
    pub fn wait_unless(
        &self,
        interrupt: &Interrupt,
        target: u64,
        deadline: Option<Instant>,
        look: impl FnMut(),
    ) -> Option<WaitEnd> {
        let _waiting = interrupt.enter();
        self.wait_while(target, deadline, look, || !interrupt.is_raised())
    }

    fn wait_while(
        &self,
        target: u64,
        deadline: Option<Instant>,
        mut look: impl FnMut(),
        on: impl Fn() -> bool,
    ) -> Option<WaitEnd> {
        if self.get() >= target {
            return Some(WaitEnd::Reached);
        }
        let me = self.enter(target, Sleeper::Thread(thread::current()));
        fence(Ordering::SeqCst);
        let end = loop {
            look();
            if let Some(end) = self.end(target) {
                break Some(end);
            }
            if !on() {
                break None;
            }
            if deadline.is_some_and(|at| at <= Instant::now()) {
                break Some(WaitEnd::TimedOut);
            }
            park_until(deadline);
        };
        drop(self.take(me));
        end
    }

    /// As `wait`, for a task: `Pending` when `waker` will be called. `Ready` leaves nothing registered.
    pub fn poll(
        &self,
        place: &mut Place,
        target: u64,
        waker: &Waker,
        look: impl FnOnce(),
    ) -> Poll<WaitEnd> {
        // What this place waited for before may have been another target, or another task.
        self.leave(place);
        if self.get() >= target {
            return Poll::Ready(WaitEnd::Reached);
        }
        place.0 = Some(self.enter(target, Sleeper::Task(waker.clone())));
        fence(Ordering::SeqCst);
        look();
        match self.end(target) {
            Some(end) => {
                self.leave(place);
                Poll::Ready(end)
            }
            None => Poll::Pending,
        }
    }

    /// Takes a task's entry out, if it is there: whoever polled must call this when it is given up.
    pub fn leave(&self, place: &mut Place) {
        if let Some(id) = place.0.take() {
            drop(self.take(id));
        }
    }

    /// Those who wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
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

    /// IN1: the wait under way ends, and each later one that would have to sleep.
    #[test]
    fn an_interrupt_ends_one_wait_and_those_to_come() {
        let mark = Arc::new(Watermark::new(5));
        let interrupt = Arc::new(Interrupt::default());
        let waiter = {
            let (mark, interrupt) = (mark.clone(), interrupt.clone());
            std::thread::spawn(move || mark.wait_unless(&interrupt, 6, None, || {}))
        };
        while mark.waiting() == 0 {
            std::thread::yield_now();
        }
        interrupt.raise();
        assert_eq!(waiter.join().unwrap(), None);
        assert_eq!(mark.wait_unless(&interrupt, 6, None, || {}), None);
        let there = mark.wait_unless(&interrupt, 5, None, || {});
        assert_eq!((there, mark.waiting()), (Some(WaitEnd::Reached), 0));
        let other = mark.wait_unless(&Interrupt::default(), 6, Some(Instant::now()), || {});
        assert_eq!(other, Some(WaitEnd::TimedOut));
    }

    struct Flag(std::sync::atomic::AtomicUsize);
    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// WM4: one entry per place however often it is polled; none after a wake-up, a `Ready` or a leave.
    #[test]
    fn a_task_has_one_entry_and_leaves_none_behind() {
        let mark = Watermark::new(0);
        let flag = Arc::new(Flag(std::sync::atomic::AtomicUsize::new(0)));
        let waker = Waker::from(flag.clone());
        let woken = || flag.0.load(Ordering::Relaxed);
        let (mut a, mut b) = (Place::default(), Place::default());
        for _ in 0..3 {
            assert_eq!(mark.poll(&mut a, 5, &waker, || {}), Poll::Pending);
            assert_eq!(mark.poll(&mut b, 9, &waker, || {}), Poll::Pending);
        }
        assert_eq!((mark.waiting(), woken()), (2, 0));
        mark.advance(5);
        assert_eq!((mark.waiting(), woken()), (1, 1));
        let ready = Poll::Ready(WaitEnd::Reached);
        assert_eq!(mark.poll(&mut a, 5, &waker, || {}), ready);
        mark.leave(&mut b);
        assert_eq!(mark.waiting(), 0);
        mark.advance(9);
        assert_eq!(woken(), 1);
        assert_eq!(mark.poll(&mut b, 10, &waker, || {}), Poll::Pending);
        mark.stop();
        assert_eq!(woken(), 2);
        let stopped = Poll::Ready(WaitEnd::Stopped);
        assert_eq!(mark.poll(&mut b, 10, &waker, || {}), stopped);
        assert_eq!(mark.waiting(), 0);
    }
}
