//! The store with key locks, watches and expiry: what commands run on.
//!
//! [`Engine::begin`] takes the stripes that a command needs ([`locks`]) and gives a [`Txn`], which reads, gathers
//! writes, and commits them as one batch. Room is asked for before the locks ([`Engine::has_room`]);
//! where it is gone all the same, `commit` says `Busy` and nothing was done.

pub mod clock;
pub mod cursors;
mod expiry;
pub mod keys;
pub mod locks;
pub mod state;
mod txn;
pub mod value;
pub mod watch;

pub(crate) use txn::Version;
pub use txn::{Done, Txn, is_busy};

use clock::{ExpiryClock, SystemTimeSource, TimeSource};
use cursors::Cursors;
use esker_lsm::{Snapshot, Store, StoreError};
use keys::CLOCK_KEY;
use locks::{Held, StripeSet, Stripes};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use watch::Watches;

/// What INFO and the metrics show of the engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineStats {
    /// Lookups that found their key.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Keys deleted because their deadline passed.
    pub expired: u64,
    /// Keys, estimated.
    pub keys: u64,
    /// Of these, with a deadline; estimated.
    pub expires: u64,
}

/// Which stripes a transaction takes.
#[derive(Clone, Copy, Debug)]
pub enum Locking<'k> {
    /// None: a read of one key.
    None,
    /// That of one user key.
    Key(&'k [u8]),
    /// Several.
    Set(&'k StripeSet),
    /// All.
    All,
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    inner: Arc<Inner>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    store: Store,
    stripes: Stripes,
    clock: ExpiryClock,
    /// Held while a reading of the clock is written.
    clock_write: Mutex<()>,
    watches: Watches,
    cursors: Cursors,
    writer: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
    expired: AtomicU64,
    expires: AtomicU64,
    /// Keys with a deadline were written or read since the clock was last kept.
    deadlines: AtomicBool,
    stop: Mutex<bool>,
    stopped: Condvar,
}

impl Inner {
    pub(crate) fn is_writer(&self) -> bool {
        self.writer.load(Ordering::Acquire)
    }

    /// The clock's reading; a node that follows first takes in what the stream brought.
    fn clock_now(&self) -> Result<i64, StoreError> {
        if self.is_writer() {
            self.deadlines_in_use();
        } else {
            self.hear_clock()?;
        }
        Ok(self.clock.now())
    }

    fn hear_clock(&self) -> Result<(), StoreError> {
        if let Some(kept) = self.store.get(CLOCK_KEY)?.value
            && let Ok(bytes) = <[u8; 8]>::try_from(&kept[..])
        {
            self.clock.observe_kept(i64::from_le_bytes(bytes));
        }
        Ok(())
    }

    #[inline]
    fn deadlines_in_use(&self) {
        if !self.deadlines.load(Ordering::Relaxed) {
            self.deadlines.store(true, Ordering::Relaxed);
        }
    }
}

impl Engine {
    /// On `store`; `writer` is false on a replica.
    #[must_use]
    pub fn new(store: Store, writer: bool) -> Self {
        let engine = Self::stepped(store, writer, Arc::new(SystemTimeSource::default()));
        let inner = engine.inner.clone();
        match std::thread::Builder::new()
            .name("esker-expiry".into())
            .spawn(move || expiry::run(&inner))
        {
            Ok(worker) => *engine.worker.lock() = Some(worker),
            // Keys read as missing at their deadline all the same; only their space stays taken.
            Err(error) => {
                tracing::error!(%error, "no thread for active expiry; expired keys keep their space")
            }
        }
        engine
    }

    /// Without a worker, on another clock: for tests, which call [`Engine::expire_step`].
    #[must_use]
    pub fn stepped(store: Store, writer: bool, time: Arc<dyn TimeSource>) -> Self {
        let inner = Inner {
            store,
            stripes: Stripes::default(),
            clock: ExpiryClock::new(time),
            clock_write: Mutex::new(()),
            watches: Watches::default(),
            cursors: Cursors::default(),
            writer: AtomicBool::new(writer),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            expires: AtomicU64::new(0),
            deadlines: AtomicBool::new(false),
            stop: Mutex::new(false),
            stopped: Condvar::new(),
        };
        if let Err(error) = inner.hear_clock() {
            tracing::warn!(%error, "the kept clock can't be read; expiry goes by wall time");
        }
        Engine {
            inner: Arc::new(inner),
            worker: Mutex::new(None),
        }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Takes stripes and begins. `view` is where reads look; `None` is the latest applied state.
    #[must_use]
    pub fn begin(&self, view: Option<Snapshot>, locking: Locking<'_>) -> Txn<'_> {
        let stripes = &self.inner.stripes;
        let (held, all) = match locking {
            Locking::None => (Held::None, false),
            Locking::Key(key) => (stripes.one(&keys::StoredKey::new(key)), false),
            Locking::Set(set) => (stripes.many(set), false),
            Locking::All => (stripes.all(), true),
        };
        Txn::new(&self.inner, view, held, all)
    }

    /// Whether a write of about `bytes` finds room now. Ask before taking locks.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.inner.store.has_room(bytes)
    }

    /// Keys that clients watch.
    #[must_use]
    pub fn watches(&self) -> &Watches {
        &self.inner.watches
    }

    /// SCAN's places.
    #[must_use]
    pub fn cursors(&self) -> &Cursors {
        &self.inner.cursors
    }

    /// The expiry clock.
    #[must_use]
    pub fn clock(&self) -> &ExpiryClock {
        &self.inner.clock
    }

    /// Whether this node writes.
    #[must_use]
    pub fn is_writer(&self) -> bool {
        self.inner.is_writer()
    }

    /// Numbers.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let inner = &self.inner;
        EngineStats {
            hits: inner.hits.load(Ordering::Relaxed),
            misses: inner.misses.load(Ordering::Relaxed),
            expired: inner.expired.load(Ordering::Relaxed),
            keys: inner.store.stats().estimated_keys,
            expires: inner.expires.load(Ordering::Relaxed),
        }
    }

    /// Sets the counters (not the estimates) to zero.
    pub fn reset_stats(&self) {
        for counter in [&self.inner.hits, &self.inner.misses, &self.inner.expired] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// A promotion made this node the writer.
    pub fn set_writer(&self) {
        if let Err(error) = self.inner.hear_clock() {
            tracing::warn!(%error, "the kept clock can't be read; expiry goes by wall time");
        }
        self.inner.writer.store(true, Ordering::Release);
    }

    /// One round of active expiry; how many keys it deleted. Threads do it by themselves.
    pub fn expire_step(&self, place: &mut ExpiryPlace) -> Result<u64, StoreError> {
        expiry::step(&self.inner, place)
    }

    /// Ends its worker; the store stays open.
    pub fn close(&self) {
        *self.inner.stop.lock() = true;
        self.inner.stopped.notify_all();
        if let Some(worker) = self.worker.lock().take()
            && worker.join().is_err()
        {
            tracing::error!("the expiry worker panicked");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

pub use expiry::ExpiryPlace;
