//! Keys that clients WATCH.
//!
//! - A key is registered under its stripe's lock, and a writer looks here under the same lock: a write behind
//!   WATCH is never missed.
//! - A write of the key makes the watch dirty; a flush does if the key was there; the key's deadline is compared
//!   again at EXEC. A replica's keys change without the engine seeing it, so there the version is compared too.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether one client's watched keys have changed.
pub type Dirty = Arc<AtomicBool>;

/// All watched keys.
#[derive(Debug, Default)]
pub struct Watches {
    /// Entries in `keys`; writers look at this first. Relaxed: the stripe's lock orders it for its keys.
    count: AtomicUsize,
    keys: Mutex<HashMap<Box<[u8]>, Vec<Dirty>>>,
}

impl Watches {
    /// Whether anything is watched at all.
    #[must_use]
    #[inline]
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Registers a stored key. Its stripe must be held.
    pub fn add(&self, key: &[u8], dirty: &Dirty) {
        let mut keys = self.keys.lock();
        keys.entry(key.into()).or_default().push(dirty.clone());
        self.count.store(keys.len(), Ordering::Relaxed);
    }

    /// Takes a registration back.
    pub fn remove(&self, key: &[u8], dirty: &Dirty) {
        let mut keys = self.keys.lock();
        if let Some(list) = keys.get_mut(key) {
            list.retain(|other| !Arc::ptr_eq(other, dirty));
            if list.is_empty() {
                keys.remove(key);
            }
        }
        self.count.store(keys.len(), Ordering::Relaxed);
    }

    /// Collects those who watch a stored key that is about to be written. Its stripe must be held.
    pub fn collect(&self, key: &[u8], into: &mut Vec<Dirty>) {
        if let Some(list) = self.keys.lock().get(key) {
            into.extend(list.iter().cloned());
        }
    }

    /// All watched keys. All stripes should be held.
    #[must_use]
    pub fn keys(&self) -> Vec<Box<[u8]>> {
        self.keys.lock().keys().cloned().collect()
    }
}
