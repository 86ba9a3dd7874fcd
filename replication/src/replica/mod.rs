//! The replica's side. (API; body follows.)
use crate::error::ReplicationError;
use crate::options::ReplicaOptions;
use crate::status::FollowStatus;
use esker_lsm::{Store, StoreRecovered};
use esker_wal::{EpochStart, Watcher};

/// Follows a primary: its log, and the store on it. Clones are handles; `close` or the last drop ends it.
#[derive(Clone, Debug)]
pub struct Replica {}

/// Keeps a watcher of [`Replica::watch`] registered; dropped, it is called no more.
#[derive(Debug)]
pub struct FollowGuard {}

#[allow(clippy::todo, reason = "the body follows")]
impl Replica {
    /// Opens the store where there is one (no epoch is begun), makes the role durable, and starts to follow.
    /// A primary that can't be reached is no error: the replica serves what it has and tries on.
    pub fn start(options: ReplicaOptions) -> Result<Replica, ReplicationError> {
        let _ = options;
        todo!()
    }
    /// The store, once there is one: at once where the directory had one, else after the first handshake.
    #[must_use]
    pub fn store(&self) -> Option<Store> {
        todo!()
    }
    /// What opening the store found, once it was opened.
    #[must_use]
    pub fn recovered(&self) -> Option<StoreRecovered> {
        todo!()
    }
    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> FollowStatus {
        todo!()
    }
    /// Calls `watcher` whenever state or positions moved, and when the store came to be. It runs on a
    /// replication thread: it must not block (ring an eventfd).
    #[must_use]
    pub fn watch(&self, watcher: Watcher) -> FollowGuard {
        let _ = watcher;
        todo!()
    }
    /// Stops following, makes the role of primary durable, and begins an epoch with a higher number. On
    /// return the store takes writes; it and its data directory are the caller's from here on.
    pub fn promote(&self) -> Result<EpochStart, ReplicationError> {
        todo!()
    }
    /// Stops following, joins the threads, and closes the store, unless promoted. May be called twice.
    pub fn close(&self) -> Result<(), ReplicationError> {
        todo!()
    }
}
