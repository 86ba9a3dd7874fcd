//! Threads with an owner: named, stopped together, joined, their panics reported.
//!
//! - WG1: after [`Workers::join`] (or drop) none of the threads is left, except a thread that joins itself: that
//!   one has nothing left to do but return.
//! - WG2: a panic in a worker is not swallowed: `join` names the thread and the message.

use crate::stop::StopToken;
use parking_lot::Mutex;
use std::io;
use std::thread::{self, JoinHandle};

/// A worker panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerPanic {
    /// Name of the thread.
    pub name: String,
    /// What it said.
    pub message: String,
}

impl std::fmt::Display for WorkerPanic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "thread {} panicked: {}", self.name, self.message)
    }
}

impl std::error::Error for WorkerPanic {}

/// Threads with an owner. See the module. Dropped, it stops and joins them.
#[derive(Debug, Default)]
pub struct Workers {
    stop: StopToken,
    threads: Mutex<Vec<(String, JoinHandle<()>)>>,
    panicked: Mutex<Option<WorkerPanic>>,
}

impl Workers {
    /// A group without threads, stopped with `stop`.
    #[must_use]
    pub fn new(stop: StopToken) -> Self {
        Workers {
            stop,
            threads: Mutex::default(),
            panicked: Mutex::default(),
        }
    }

    /// The signal that its workers obey.
    #[must_use]
    pub fn stop_token(&self) -> &StopToken {
        &self.stop
    }

    /// Starts a thread. Names are cut at 15 bytes by the system: keep to that.
    pub fn spawn(&self, name: &str, f: impl FnOnce(StopToken) + Send + 'static) -> io::Result<()> {
        let stop = self.stop.clone();
        let handle = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || f(stop))?;
        self.threads.lock().push((name.to_owned(), handle));
        Ok(())
    }

    /// Lets go of threads that have ended by themselves, for who starts them again and again.
    pub fn reap(&self) {
        let mut threads = self.threads.lock();
        for (name, handle) in threads.extract_if(.., |(_, handle)| handle.is_finished()) {
            self.note(name, handle);
        }
    }

    /// Joins one, and keeps the first panic.
    fn note(&self, name: String, handle: JoinHandle<()>) {
        if let Err(panic) = handle.join() {
            let message = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            self.panicked
                .lock()
                .get_or_insert(WorkerPanic { name, message });
        }
    }

    /// Stops all and waits for them; the first panic, if any.
    pub fn join(&self) -> Result<(), WorkerPanic> {
        self.stop.stop();
        let threads = std::mem::take(&mut *self.threads.lock());
        for (name, handle) in threads {
            if handle.thread().id() != thread::current().id() {
                self.note(name, handle);
            }
        }
        self.panicked.lock().take().map_or(Ok(()), Err)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Who wants the panic calls `join`.
        let _ = self.join();
    }
}

/// Does `one` for each of `0..items`, on up to `threads` threads, this one among them, each with one at a time; what they came to, in order. The others are
/// called `name`; where they can't be started, there are fewer. A panic of any is this thread's.
pub fn share_out<T: Send>(
    name: &str,
    threads: usize,
    items: usize,
    one: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let turn = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut mine = Vec::new();
        loop {
            // Relaxed: a counter.
            let at = turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if at >= items {
                return mine;
            }
            mine.push((at, one(at)));
        }
    };
    let mut all = thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(items))
            .map_while(|_| {
                let named = thread::Builder::new().name(name.to_owned());
                named.spawn_scoped(scope, work).ok()
            })
            .collect();
        let mut all = work();
        for thread in others {
            match thread.join() {
                Ok(theirs) => all.extend(theirs),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, what)| what).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn join_stops_the_threads_and_names_the_one_that_panicked() {
        let workers = Workers::default();
        workers
            .spawn(
                "esker-calm",
                |stop| {
                    while !stop.sleep(Duration::from_secs(60)) {}
                },
            )
            .unwrap();
        workers.spawn("esker-wild", |_| panic!("boo")).unwrap();
        let panic = workers.join().unwrap_err();
        assert_eq!(
            (panic.name.as_str(), panic.message.as_str()),
            ("esker-wild", "boo")
        );
        assert_eq!(workers.join(), Ok(()));
    }

    #[test]
    fn what_is_shared_out_comes_back_in_order_each_once() {
        for threads in [0, 1, 3, 50] {
            let squares = share_out("esker-share", threads, 20, |n| n * n);
            let expected: Vec<usize> = (0..20).map(|n| n * n).collect();
            assert_eq!(squares, expected, "{threads} threads");
        }
        assert!(share_out("esker-share", 3, 0, |n| n).is_empty());
        let failed = std::panic::catch_unwind(|| {
            share_out("esker-share", 3, 20, |n| assert_ne!(n, 7));
        });
        assert!(failed.is_err());
    }

    #[test]
    fn reaping_lets_go_of_who_has_ended_and_keeps_its_panic() {
        let workers = Workers::default();
        (workers.spawn("esker-wild", |_| panic!("boo"))).unwrap();
        workers
            .spawn(
                "esker-calm",
                |stop| {
                    while !stop.sleep(Duration::from_secs(60)) {}
                },
            )
            .unwrap();
        while workers.threads.lock().len() > 1 {
            workers.reap();
            thread::yield_now();
        }
        assert_eq!(workers.join().unwrap_err().message, "boo");
    }
}
