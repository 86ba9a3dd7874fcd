//! One value from one thread to another that waits: blocked, with a timeout, or as a `Future`.
//!
//! - OS1: a promise that is kept is seen by its waiter exactly once; one that is dropped unkept is seen as broken, so nobody waits
//!   for ever for a thread that is gone.
//! - OS2: who stops waiting costs nobody anything: the value is dropped with the last of both.
//!
//! All state is under one mutex; the waker is called outside it.

use crate::deadline::after;
use crate::shim::{Arc, Condvar, Mutex, wait_until};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

enum State<T> {
    Waiting(Option<Waker>),
    Kept(T),
    Broken,
}

struct Inner<T> {
    state: Mutex<State<T>>,
    moved: Condvar,
}

/// The giving side.
pub struct Promise<T>(Option<Arc<Inner<T>>>);

/// The waiting side. See the module.
pub struct Pending<T>(Arc<Inner<T>>);

/// How a wait ended without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoValue {
    /// The promise was dropped.
    Broken,
    /// Time ran out.
    TimedOut,
}

impl<T> std::fmt::Debug for Promise<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Promise")
    }
}

impl<T> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}

/// Both sides.
#[must_use]
pub fn oneshot<T>() -> (Promise<T>, Pending<T>) {
    let inner = Arc::new(Inner {
        state: Mutex::new(State::Waiting(None)),
        moved: Condvar::new(),
    });
    (Promise(Some(inner.clone())), Pending(inner))
}

impl<T> Inner<T> {
    fn end(&self, with: State<T>) {
        let before = {
            let mut state = self.state.lock();
            let before = std::mem::replace(&mut *state, with);
            self.moved.notify_one();
            before
        };
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Option<Result<T, NoValue>> {
        match std::mem::replace(self, State::Broken) {
            State::Kept(value) => Some(Ok(value)),
            State::Broken => Some(Err(NoValue::Broken)),
            waiting => {
                *self = waiting;
                None
            }
        }
    }
}

impl<T> Promise<T> {
    /// Gives the value.
    pub fn keep(mut self, value: T) {
        if let Some(inner) = self.0.take() {
            inner.end(State::Kept(value));
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if let Some(inner) = self.0.take() {
            inner.end(State::Broken);
        }
    }
}

impl<T> Pending<T> {
    /// Blocks until the promise is kept or broken, or `timeout` has passed.
    pub fn wait(self, timeout: Option<Duration>) -> Result<T, NoValue> {
        let deadline = timeout.map(after);
        let mut state = self.0.state.lock();
        loop {
            if let Some(end) = state.take() {
                return end;
            }
            if deadline.is_some_and(|at| at <= Instant::now()) {
                return Err(NoValue::TimedOut);
            }
            wait_until(&self.0.moved, &mut state, deadline);
        }
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, NoValue>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state.lock();
        match state.take() {
            Some(end) => Poll::Ready(end),
            None => {
                *state = State::Waiting(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn os1_kept_broken_or_too_late() {
        let (promise, pending) = oneshot();
        let waiter = std::thread::spawn(move || pending.wait(None));
        promise.keep(7);
        assert_eq!(waiter.join().unwrap(), Ok(7));
        let (promise, pending) = oneshot::<u8>();
        let waiter = std::thread::spawn(move || pending.wait(None));
        drop(promise);
        assert_eq!(waiter.join().unwrap(), Err(NoValue::Broken));
        let (promise, pending) = oneshot::<u8>();
        let short = Some(Duration::from_millis(1));
        assert_eq!(pending.wait(short), Err(NoValue::TimedOut));
        promise.keep(1);
    }

    #[test]
    fn a_task_is_woken_once() {
        let (promise, mut pending) = oneshot();
        let count = std::sync::Arc::new(Count::default());
        let waker = count.clone().into();
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut pending).poll(&mut context).is_pending());
        promise.keep(5);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(
            Pin::new(&mut pending).poll(&mut context),
            Poll::Ready(Ok(5))
        );
    }
}
