//! What orders a store's writes and makes them durable: its own log, or one that its caller keeps.
//!
//! - J1: positions mean the same in both: a frame's, or what the caller derived from an entry's index. They only grow.
//! - J2: no table holds what stands at or above `synced`: of an external log as far as the caller said that it is (L3). After a power
//!   cut that log still reaches as far as the tables do.
//! - J3: entries of an external log are applied one at a time, under `applying`; so `visible` is the boundary between two of them, and there
//!   all memtables are rotated.

use crate::sequencer::Sequencer;
use crate::{SeqNo, StoreError};
use esker_wal::media::LockGuard;
use esker_wal::{Log, LogId, Lsn};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A log that the store's caller keeps, for [`crate::Store::open_external`].
#[derive(Clone, Copy, Debug)]
pub struct ExternalLog {
    /// Identity of the store, the same on all nodes: seeds the checksums of tables and manifest.
    pub id: LogId,
    /// Where a store begins that is made now.
    pub base: SeqNo,
}

#[derive(Debug)]
pub(super) enum Journal {
    Own(Log),
    External(External),
}

#[derive(Debug)]
pub(super) struct External {
    /// The external log is on stable storage up to here (J2).
    synced: AtomicU64,
    /// J3.
    pub(super) applying: Mutex<()>,
    /// Of the directory (W9); an own log holds one itself.
    lock: Mutex<Option<Box<dyn LockGuard>>>,
}

impl External {
    pub(super) fn new(synced: Lsn, lock: Box<dyn LockGuard>) -> External {
        External {
            synced: synced.0.into(),
            applying: Mutex::new(()),
            lock: Mutex::new(Some(lock)),
        }
    }

    /// Moves forward only.
    pub(super) fn note_synced(&self, upto: Lsn) {
        // Release pairs with the acquire in `synced`; nothing else is read on its account.
        self.synced.fetch_max(upto.0, Ordering::Release);
    }
}

impl Journal {
    /// The store's own log.
    pub(super) fn own(&self) -> Result<&Log, StoreError> {
        match self {
            Journal::Own(log) => Ok(log),
            Journal::External(_) => Err(StoreError::ExternalLog),
        }
    }

    pub(super) fn external(&self) -> Result<&External, StoreError> {
        match self {
            Journal::Own(_) => Err(StoreError::OwnLog),
            Journal::External(external) => Ok(external),
        }
    }

    pub(super) fn synced(&self) -> Lsn {
        match self {
            Journal::Own(log) => log.synced(),
            Journal::External(external) => Lsn(external.synced.load(Ordering::Acquire)),
        }
    }

    /// Whether the log is synced up to `end`; an own one is, where it is not.
    pub(super) fn sync_up_to(&self, end: Lsn) -> Result<bool, StoreError> {
        if self.synced() >= end {
            return Ok(true);
        }
        match self {
            Journal::Own(log) => {
                log.sync_up_to(end)?;
                Ok(true)
            }
            Journal::External(_) => Ok(false),
        }
    }

    /// Behind everything that was given to the store so far.
    pub(super) fn end(&self, sequencer: &Sequencer) -> Lsn {
        match self {
            Journal::Own(log) => log.reserved(),
            Journal::External(external) => {
                let _applying = external.applying.lock();
                sequencer.visible()
            }
        }
    }

    /// Runs `f` with the position between what was ordered before and what will be ordered after.
    pub(super) fn at_boundary(&self, sequencer: &Sequencer, f: impl FnOnce(Lsn)) {
        match self {
            Journal::Own(log) => log.at_boundary(f),
            Journal::External(external) => {
                let _applying = external.applying.lock();
                f(sequencer.visible());
            }
        }
    }

    /// Tables hold everything below.
    pub(super) fn release(&self, below: Lsn) {
        if let Journal::Own(log) = self {
            log.release(below);
        }
    }

    pub(super) fn step(&self) -> bool {
        match self {
            Journal::Own(log) => log.step(),
            Journal::External(_) => false,
        }
    }

    pub(super) fn close(&self) -> Result<(), StoreError> {
        match self {
            Journal::Own(log) => log.close().map_err(StoreError::from),
            Journal::External(external) => {
                *external.lock.lock() = None;
                Ok(())
            }
        }
    }
}
