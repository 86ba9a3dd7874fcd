//! The primary's side. (API; body follows.)
use crate::error::ReplicationError;
use crate::options::PrimaryOptions;
use crate::status::{Ack, ReplicaStatus};
use esker_wal::{Lsn, Watcher};

/// Streams the log of a store to replicas. Clones are handles; `close` or the last drop ends it.
#[derive(Clone, Debug)]
pub struct Primary {}

/// Keeps a watcher of [`Primary::watch`] registered; dropped, it is called no more.
#[derive(Debug)]
pub struct ProgressGuard {}

#[allow(clippy::todo, reason = "the body follows")]
impl Primary {
    /// Listens and starts the thread that owns the sockets.
    pub fn start(options: PrimaryOptions) -> Result<Primary, ReplicationError> {
        let _ = options;
        todo!()
    }
    /// Where it listens: the endpoint as bound, with the real port.
    #[must_use]
    pub fn endpoint(&self) -> String {
        todo!()
    }
    /// Every replica that is connected, or known by its slot.
    #[must_use]
    pub fn replicas(&self) -> Vec<ReplicaStatus> {
        todo!()
    }
    /// The position that at least `n` replicas (distinct node ids) have acknowledged in the sense of `ack`:
    /// the n-th highest; `Lsn::MAX` for zero, `Lsn::ZERO` when fewer are known.
    #[must_use]
    pub fn position(&self, ack: Ack, n: usize) -> Lsn {
        let _ = (ack, n);
        todo!()
    }
    /// How many replicas have acknowledged everything below `end` in the sense of `ack`.
    #[must_use]
    pub fn count_at(&self, ack: Ack, end: Lsn) -> usize {
        let _ = (ack, end);
        todo!()
    }
    /// How many replicas are connected and follow.
    #[must_use]
    pub fn connected(&self) -> usize {
        todo!()
    }
    /// Calls `watcher` whenever an acknowledged position moved or a replica came or went. It runs on the
    /// replication thread: it must not block (ring an eventfd).
    #[must_use]
    pub fn watch(&self, watcher: Watcher) -> ProgressGuard {
        let _ = watcher;
        todo!()
    }
    /// Sets the safe position sent along (design 4). Never moves back. Until it is first set, what is synced
    /// counts as safe.
    pub fn set_safe(&self, safe: Lsn) {
        let _ = safe;
        todo!()
    }
    /// Tells replicas, with the next message and while `wanted`, to sync as soon as they have received:
    /// somebody waits for durable acknowledgements. Counts: each `true` is to be followed by a `false`.
    pub fn want_durable(&self, wanted: bool) {
        let _ = wanted;
        todo!()
    }
    /// Number of a newer epoch that a replica told of: this primary was replaced (R4).
    #[must_use]
    pub fn replaced_by(&self) -> Option<u64> {
        todo!()
    }
    /// Says goodbye, closes the sockets, joins the thread. May be called twice.
    pub fn close(&self) {
        todo!()
    }
}
