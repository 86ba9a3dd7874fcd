//! The workers: three threads or four, or the caller's `step`.
//!
//! `esker-flush` flushes frozen memtables, `esker-compact` compacts, `esker-room` tells those who got `Busy` when their
//! time has come; with a rate for background work, `esker-remains` frees what removed tables took. [`Workers`] owns them; its `close`, or drop,
//! tells them to stop and joins them. A flush or compaction in hand is finished first; what is not begun stays undone, the log has it.

use super::flush::Turn;
use super::{Inner, View};
use crate::StoreError;
use crate::levels::Levels;
use esker_wal::Workers as Mode;
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between tries after a failure that heals.
const RETRY: Duration = Duration::from_millis(500);
/// Time between looks at frames that are reserved and not applied.
const NOT_YET: Duration = Duration::from_millis(2);

/// Wakes workers. A turn that was asked for is never lost: the count says so.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *self.rings.lock() += 1;
        self.rung.notify_all();
    }

    pub(super) fn rings(&self) -> u64 {
        *self.rings.lock()
    }

    /// Waits for a ring after `seen`, at most `timeout`.
    pub(super) fn wait(&self, seen: u64, timeout: Option<Duration>) {
        let mut rings = self.rings.lock();
        while *rings == seen {
            match timeout {
                None => self.rung.wait(&mut rings),
                Some(timeout) => {
                    self.rung.wait_for(&mut rings, timeout);
                    return;
                }
            }
        }
    }
}

/// Owns the threads of a store.
#[derive(Debug)]
pub(super) struct Workers {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// What close returned, once it was called.
    closed: Mutex<Option<Result<(), StoreError>>>,
}

impl Workers {
    pub(super) fn start(inner: &Arc<Inner>) -> io::Result<Workers> {
        let workers = Workers {
            inner: inner.clone(),
            threads: Mutex::default(),
            closed: Mutex::default(),
        };
        if inner.options.log.workers == Mode::Threads {
            // An early return drops `workers`, which stops and joins what was started.
            workers.spawn("esker-flush", |inner| inner.work(|| inner.flush_one()))?;
            workers.spawn("esker-compact", |inner| inner.work(|| inner.compact_one()))?;
            workers.spawn("esker-room", Inner::room_loop)?;
            if inner.frees_at_leisure() {
                workers.spawn("esker-remains", Inner::remains_loop)?;
            }
        }
        Ok(workers)
    }

    fn spawn(&self, name: &str, run: impl FnOnce(&Inner) + Send + 'static) -> io::Result<()> {
        let inner = self.inner.clone();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let run = std::panic::AssertUnwindSafe(|| run(&inner));
                if std::panic::catch_unwind(run).is_err() {
                    inner.fail(
                        "background work",
                        &StoreError::Background {
                            doing: "background work",
                            cause: "a worker panicked".to_owned(),
                            heals: false,
                        },
                    );
                }
            })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    pub(super) fn close(&self) -> Result<(), StoreError> {
        let mut closed = self.closed.lock();
        if let Some(result) = &*closed {
            return result.clone();
        }
        let inner = &self.inner;
        inner.room.close();
        inner.bell.ring();
        inner.room_bell.ring();
        inner.remains_bell.ring();
        for thread in self.threads.lock().drain(..) {
            // A panic was recorded as a failure by the thread itself.
            let _ = thread.join();
        }
        // Others flush and compact in their own threads: what they have in hand is finished, and they begin nothing more.
        let (flushing, compacting) = (inner.flushing.lock(), inner.compacting.lock());
        inner.drop_remains();
        let failed = inner.room.failure().map(|f| f.error());
        let log = inner.journal.close();
        {
            let _install = inner.install.lock();
            inner.swap_view(View {
                mems: Vec::new(),
                levels: Arc::new(Levels::default()),
                closed: true,
            });
        }
        inner.manifest.lock().close();
        drop((flushing, compacting));
        let result = match failed {
            Some(error) => Err(error),
            None => log,
        };
        *closed = Some(result.clone());
        result
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(dir = %self.inner.dir.display(), %error, "closing the store");
        }
    }
}

impl Inner {
    pub(super) fn wake_workers(&self) {
        self.bell.ring();
    }

    pub(super) fn wake_room_worker(&self) {
        self.room_bell.ring();
    }

    /// A worker's loop: turns until there is nothing to do, then sleeps until woken.
    fn work(&self, turn: impl Fn() -> Result<Turn, StoreError>) {
        loop {
            let seen = self.bell.rings();
            if self.room.is_closing() {
                return;
            }
            let wait = if self.room.is_fatal() {
                None
            } else {
                match turn() {
                    Ok(Turn::Done) => continue,
                    Ok(Turn::Nothing) => None,
                    Ok(Turn::NotYet) => Some(NOT_YET),
                    // Recorded where it happened; one that does not heal stops the work above.
                    Err(_) => Some(RETRY),
                }
            };
            self.bell.wait(seen, wait);
        }
    }

    fn room_loop(&self) {
        loop {
            let seen = self.room_bell.rings();
            if self.room.is_closing() {
                return;
            }
            let wait = self.room_turn();
            self.room_bell.wait(seen, wait);
        }
    }

    pub(super) fn step(&self) -> bool {
        if self.journal.step() {
            return true;
        }
        if self.room.is_closing() || self.room.is_fatal() {
            return false;
        }
        matches!(self.flush_one(), Ok(Turn::Done)) || {
            // A flush that failed is not followed by compactions that could hide it.
            !self.room.is_fatal() && matches!(self.compact_one(), Ok(Turn::Done))
        }
    }
}
