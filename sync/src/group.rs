//! Group commit: one of those who wait does the work for all, then hands over.
//!
//! The work (a sync) moves a position; each waiter wants it at or above its target. Who comes when nobody is
//! working becomes the leader and works in its own thread: a lone waiter pays no hand-over and no timer. Who comes
//! while the leader works queues, each with its own parker. A leader that is done moves the
//! position, makes one of the still unsatisfied the next leader, wakes that one first (so that the work
//! goes on), and then the satisfied.
//!
//! - G1: there is at most one leader.
//! - G2: whenever somebody is queued there is a leader: the queue never sleeps with nobody to wake it.
//! - G3: a waiter returns `Reached` only when the position has reached its target.
//! - G4: leadership that is dropped (an error, a panic, a deadline) is handed on like any other.
//!
//! Before it sleeps a waiter may look for its verdict for a while ([`CommitGroup::enter`]): it loads the atomic, no more, and what follows is the
//! same whether it saw it then or after it slept.
//!
//! All changes of leadership and of a waiter's verdict happen under the mutex; the verdict is also an
//! atomic, so that a woken waiter needs no lock (release at the verdict, acquire at its load). The position is
//! moved under the mutex too: who queues looks at it under the mutex, so it cannot miss the last move. Who only watches the
//! position is woken last, outside of the mutex.

use crate::line::Line;
use crate::shim::atomic::{AtomicU32, Ordering};
use crate::shim::{Arc, Mutex, park_until, thread};
use crate::watermark::Watermark;
use std::time::{Duration, Instant};

const WAIT: u32 = 0;
const REACHED: u32 = 1;
const LEAD: u32 = 2;
const STOPPED: u32 = 3;

#[derive(Debug)]
struct Waiter {
    target: u64,
    verdict: AtomicU32,
    thread: thread::Thread,
}

/// A yield that takes longer is one that others used.
const SLOW_YIELD: Duration = Duration::from_micros(25);
/// After so many of them a waiter sleeps.
const SLOW_YIELDS: u32 = 3;

impl Waiter {
    /// Looks for the verdict for a while.
    fn spin(&self, spin: Duration) {
        let begun = Instant::now();
        let (mut last, mut slow) = (begun, 0);
        while self.verdict.load(Ordering::Acquire) == WAIT {
            thread::yield_now();
            let now = Instant::now();
            slow += u32::from(now - last > SLOW_YIELD);
            last = now;
            if now - begun >= spin || slow >= SLOW_YIELDS {
                return;
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    leading: bool,
    stopped: bool,
    queue: Vec<Arc<Waiter>>,
}

/// Group commit. See the module.
#[derive(Debug)]
pub struct CommitGroup {
    position: Line<Watermark>,
    state: Mutex<State>,
}

/// How [`CommitGroup::enter`] ended.
#[derive(Debug)]
pub enum Entered<'a> {
    /// The position has reached the target.
    Reached,
    /// The caller is the leader: it works, then calls [`Leadership::finish`].
    Lead(Leadership<'a>),
    /// [`CommitGroup::stop`] was called.
    Stopped,
    /// The deadline passed.
    TimedOut,
}

/// The right and duty to work. Dropped, it is handed on.
#[derive(Debug)]
pub struct Leadership<'a> {
    group: &'a CommitGroup,
}

impl CommitGroup {
    /// A group whose position is `position`.
    #[must_use]
    pub fn new(position: u64) -> Self {
        CommitGroup {
            position: Line(Watermark::new(position)),
            state: Mutex::new(State::default()),
        }
    }

    /// The position; also for those who only watch it.
    #[must_use]
    pub fn position(&self) -> &Watermark {
        &self.position
    }

    /// Waits until the position has reached `target`, or the caller is to lead.
    ///
    /// Before it sleeps it looks for its verdict for up to `spin`, yielding, and gives that up where a yield takes long: then
    /// others have use for the core (as RocksDB's write threads do). Zero: it sleeps at once.
    pub fn enter(&self, target: u64, deadline: Option<Instant>, spin: Duration) -> Entered<'_> {
        if self.position.get() >= target {
            return Entered::Reached;
        }
        let waiter = {
            let mut state = self.state.lock();
            if self.position.get() >= target {
                return Entered::Reached;
            }
            if state.stopped {
                return Entered::Stopped;
            }
            if !state.leading {
                state.leading = true;
                return Entered::Lead(Leadership { group: self });
            }
            let waiter = Arc::new(Waiter {
                target,
                verdict: AtomicU32::new(WAIT),
                thread: thread::current(),
            });
            state.queue.push(waiter.clone());
            waiter
        };
        if !spin.is_zero() {
            waiter.spin(spin);
        }
        loop {
            match waiter.verdict.load(Ordering::Acquire) {
                REACHED => return Entered::Reached,
                LEAD => return Entered::Lead(Leadership { group: self }),
                STOPPED => return Entered::Stopped,
                _ => {}
            }
            if deadline.is_some_and(|at| at <= Instant::now()) {
                let mut state = self.state.lock();
                // The verdict may have come meanwhile; leadership in particular must not be lost.
                if waiter.verdict.load(Ordering::Acquire) == WAIT {
                    state.queue.retain(|w| !Arc::ptr_eq(w, &waiter));
                    return Entered::TimedOut;
                }
                continue;
            }
            park_until(deadline);
        }
    }

    /// Leadership if nobody leads now; for work that has no target.
    #[must_use]
    pub fn try_lead(&self) -> Option<Leadership<'_>> {
        let mut state = self.state.lock();
        if state.leading || state.stopped {
            return None;
        }
        state.leading = true;
        Some(Leadership { group: self })
    }

    /// Ends all waits whose target is not reached, now and later.
    pub fn stop(&self) {
        let queue = {
            let mut state = self.state.lock();
            state.stopped = true;
            let queue = std::mem::take(&mut state.queue);
            for waiter in &queue {
                waiter.verdict.store(STOPPED, Ordering::Release);
            }
            queue
        };
        for waiter in queue {
            waiter.thread.unpark();
        }
        self.position.stop();
    }

    fn hand_over(&self, reached: Option<u64>) {
        let (next, satisfied, moved) = {
            let mut state = self.state.lock();
            let moved = reached.is_some_and(|to| self.position.raise(to));
            let now = self.position.get();
            let queue = std::mem::take(&mut state.queue);
            let (satisfied, mut rest): (Vec<_>, Vec<_>) =
                queue.into_iter().partition(|w| w.target <= now);
            for waiter in &satisfied {
                waiter.verdict.store(REACHED, Ordering::Release);
            }
            let next = (!rest.is_empty()).then(|| rest.remove(0));
            if let Some(next) = &next {
                next.verdict.store(LEAD, Ordering::Release);
            }
            state.leading = next.is_some();
            state.queue = rest;
            (next, satisfied, moved)
        };
        if let Some(next) = next {
            next.thread.unpark();
        }
        for waiter in satisfied {
            waiter.thread.unpark();
        }
        if moved {
            // Not under the mutex: a task's waker is foreign code.
            self.position.notify();
        }
    }
}

impl Leadership<'_> {
    /// The work is done up to `position`: wakes whom that satisfies and hands over.
    pub fn finish(self, position: u64) {
        let group = self.group;
        std::mem::forget(self);
        group.hand_over(Some(position));
    }
}

impl Drop for Leadership<'_> {
    fn drop(&mut self) {
        self.group.hand_over(None);
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;

    /// Its verdict finds a waiter that still looks for it, and one that looked and sleeps; each kind of verdict.
    #[test]
    fn who_looks_before_sleeping_gets_its_verdict() {
        for spin in [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_secs(10),
        ] {
            for finish in [true, false] {
                let group = Arc::new(CommitGroup::new(0));
                let Entered::Lead(lead) = group.enter(1, None, spin) else {
                    panic!("nobody leads");
                };
                let waiter = std::thread::spawn({
                    let group = group.clone();
                    move || match group.enter(1, None, spin) {
                        Entered::Reached => "reached",
                        Entered::Lead(_) => "leads",
                        Entered::Stopped | Entered::TimedOut => "lost",
                    }
                });
                while group.state.lock().queue.is_empty() {
                    std::thread::yield_now();
                }
                std::thread::sleep(Duration::from_millis(2));
                if finish {
                    lead.finish(1);
                } else {
                    drop(lead);
                }
                let expected = if finish { "reached" } else { "leads" };
                assert_eq!(waiter.join().expect("the waiter"), expected, "{spin:?}");
            }
        }
    }
}
