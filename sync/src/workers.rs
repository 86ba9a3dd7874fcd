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
}

impl Workers {
    /// A group without threads, stopped with `stop`.
    #[must_use]
    pub fn new(stop: StopToken) -> Self {
        Workers {
            stop,
            threads: Mutex::default(),
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

    /// Stops all and waits for them; the first panic, if any.
    pub fn join(&self) -> Result<(), WorkerPanic> {
        self.stop.stop();
        let threads = std::mem::take(&mut *self.threads.lock());
        let mut first = Ok(());
        for (name, handle) in threads {
            if handle.thread().id() == thread::current().id() {
                continue;
            }
            if let Err(panic) = handle.join() {
                let message = panic
                    .downcast_ref::<&str>()
                    .map(|s| (*s).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "no message".to_owned());
                first = first.and(Err(WorkerPanic { name, message }));
            }
        }
        first
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Who wants the panic calls `join`.
        let _ = self.join();
    }
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
}
