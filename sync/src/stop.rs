//! A stop signal that spreads downwards: stopping a token stops its children, not its parent.
//!
//! - ST1: a token that is stopped stays so.
//! - ST2: a callback given to [`StopToken::on_stop`] runs exactly once: at the stop, or at once where it has been. One that panics keeps no other from
//!   running, nor a child from being stopped; the first panic goes on when all have run.
//!
//! The list of children and callbacks is taken out under the mutex and run without it, so a callback may use
//! the token.

use crate::deadline::after;
use crate::shim::atomic::{AtomicBool, Ordering};
use crate::shim::{Arc, Condvar, Mutex, wait_until};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

type Callback = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    children: Vec<StopToken>,
    callbacks: Vec<Callback>,
}

struct Inner {
    stopped: AtomicBool,
    state: Mutex<State>,
    wake: Condvar,
}

/// A stop signal; clones are the same signal. See the module.
#[derive(Clone)]
pub struct StopToken(Arc<Inner>);

impl std::fmt::Debug for StopToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StopToken")
            .field(&self.is_stopped())
            .finish()
    }
}

impl Default for StopToken {
    fn default() -> Self {
        Self::new()
    }
}

impl StopToken {
    /// A token that is not stopped.
    #[must_use]
    pub fn new() -> Self {
        StopToken(Arc::new(Inner {
            stopped: AtomicBool::new(false),
            state: Mutex::new(State::default()),
            wake: Condvar::new(),
        }))
    }

    /// A token that is stopped with this one, or by itself.
    #[must_use]
    pub fn child(&self) -> StopToken {
        let child = StopToken::new();
        let mut state = self.0.state.lock();
        if self.is_stopped() {
            drop(state);
            child.stop();
        } else {
            // Children that stopped by themselves are of no interest any more.
            state.children.retain(|c| !c.is_stopped());
            state.children.push(child.clone());
        }
        child
    }

    /// Stops.
    ///
    /// # Panics
    ///
    /// When a callback does; the others have run then.
    pub fn stop(&self) {
        let state = {
            let mut state = self.0.state.lock();
            self.0.stopped.store(true, Ordering::Release);
            self.0.wake.notify_all();
            std::mem::take(&mut *state)
        };
        let mut panicked = None;
        let mut run = |call: Callback| {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
                panicked.get_or_insert(panic);
            }
        };
        for child in state.children {
            run(Box::new(move || child.stop()));
        }
        state.callbacks.into_iter().for_each(run);
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
    }

    /// Whether it is stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Runs `f` at the stop (to wake a worker from whatever it waits in).
    pub fn on_stop(&self, f: impl FnOnce() + Send + 'static) {
        let mut state = self.0.state.lock();
        if self.is_stopped() {
            drop(state);
            f();
        } else {
            state.callbacks.push(Box::new(f));
        }
    }

    /// Sleeps for `timeout` or until stopped; true if stopped.
    pub fn sleep(&self, timeout: Duration) -> bool {
        let deadline = after(timeout);
        let mut state = self.0.state.lock();
        while !self.is_stopped() && Instant::now() < deadline {
            wait_until(&self.0.wake, &mut state, Some(deadline));
        }
        self.is_stopped()
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn stopping_a_parent_stops_its_children_and_not_the_other_way() {
        let root = StopToken::new();
        let (a, b) = (root.child(), root.child());
        a.stop();
        assert!(a.is_stopped() && !root.is_stopped() && !b.is_stopped());
        root.stop();
        assert!(b.is_stopped() && root.child().is_stopped());
    }

    #[test]
    fn a_callback_runs_once_whether_registered_before_or_after_the_stop() {
        let runs = Arc::new(AtomicUsize::new(0));
        let token = StopToken::new();
        for _ in 0..2 {
            let runs = runs.clone();
            token.on_stop(move || {
                runs.fetch_add(1, Ordering::Relaxed);
            });
            token.stop();
        }
        assert_eq!(runs.load(Ordering::Relaxed), 2);
        assert!(token.sleep(Duration::from_secs(60)));
    }

    #[test]
    fn a_callback_that_panics_keeps_no_other_from_running() {
        let runs = Arc::new(AtomicUsize::new(0));
        let root = StopToken::new();
        let children = [root.child(), root.child()];
        for token in [&children[0], &children[1], &root] {
            token.on_stop(|| panic!("one of {}", 3));
            let runs = runs.clone();
            token.on_stop(move || {
                runs.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(catch_unwind(AssertUnwindSafe(|| root.stop())).is_err());
        assert!(children.iter().all(StopToken::is_stopped));
        assert_eq!(runs.load(Ordering::Relaxed), 3);
        root.stop();
    }
}
