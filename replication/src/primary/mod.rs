//! The primary's side: listens, judges hellos, streams synced frames under credit, keeps positions.
//!
//! One thread (`esker-repl-out`) owns the ROUTER socket and, with keys, the authenticator's. It is woken
//! through an eventfd that is polled with the sockets: by the log when `synced` moves, by callers at
//! close.
//!
//! - PR1: only synced frames leave, so no restart of this primary takes back what a replica holds.
//! - PR2: a frame leaves only where the replica granted credit for its LSN; what is queued for one
//!   replica is bounded by its credit plus one frame, and never delays another's (R2).
//! - PR3: a replica's slot holds the log from what it acknowledged as durable; it is made at the first
//!   acknowledgement, so that nobody makes slots by hellos alone.
//! - PR4: bytes that are no message, or of no session, change nothing (P3).

mod handshake;
mod peers;
mod streams;

use crate::error::ReplicationError;
use crate::options::PrimaryOptions;
use crate::status::{Ack, ReplicaStatus};
use crate::transport::{self, Waker, WatcherGuard, Watchers};
use esker_wal::{Lsn, NodeId, SlotState, WatchGuard, Watcher};
use parking_lot::Mutex;
use peers::Peers;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// What the thread and the handles share.
///
/// | rank | lock    | guards                  | while held        |
/// |------|---------|-------------------------|-------------------|
/// |    1 | `peers` | positions, names, state | reads, assignment |
struct Shared {
    options: PrimaryOptions,
    waker: Waker,
    watchers: Arc<Watchers>,
    peers: Mutex<Peers>,
    /// Zero: not set yet.
    safe: AtomicU64,
    durable_waiters: AtomicUsize,
    /// Number of the newer epoch heard of; zero: none.
    replaced_by: AtomicU64,
    stop: AtomicBool,
    endpoint: String,
}

struct Inner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Rings the thread when `synced` moves.
    log_watch: Mutex<Option<WatchGuard>>,
}

/// Streams the log of a store to replicas. Clones are handles; `close` or the last drop ends it.
#[derive(Clone)]
pub struct Primary {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Primary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Primary")
            .field("endpoint", &self.inner.shared.endpoint)
            .finish_non_exhaustive()
    }
}

/// Keeps a watcher of [`Primary::watch`] registered; dropped, it is called no more.
#[derive(Debug)]
pub struct ProgressGuard {
    _guard: WatcherGuard,
}

/// Name of the slot of a node.
fn slot_name(node: NodeId) -> String {
    format!("replica-{node}")
}

fn slot_node(name: &str) -> Option<NodeId> {
    name.strip_prefix("replica-").and_then(NodeId::parse)
}

impl Primary {
    /// Listens and starts the thread that owns the sockets.
    pub fn start(options: PrimaryOptions) -> Result<Primary, ReplicationError> {
        if options.replicas_max == 0 {
            return Err(ReplicationError::Options {
                option: "replicas_max",
                why: "it is at least 1; to have no replicas, start no primary side".into(),
            });
        }
        let context = zmq::Context::new();
        let listening = transport::listen(
            &context,
            &options.listen,
            options.allow_remote_plaintext,
            options.keys.as_ref(),
            &options.timing,
        )?;
        let waker = Waker::new()?;
        let mut peers = Peers::default();
        for slot in options.store.log().slots() {
            if let Some(node) = slot_node(&slot.name) {
                // What a slot holds was acknowledged as durable, so it was received and applied too.
                let peer = peers.entry(node);
                peer.durable = slot.position;
                peer.received = slot.position;
                peer.applied = slot.position;
                peer.slot_lost = slot.state == SlotState::Lost;
            }
        }
        let log = options.store.log().clone();
        let shared = Arc::new(Shared {
            waker: waker.clone(),
            watchers: Arc::default(),
            peers: Mutex::new(peers),
            safe: AtomicU64::new(0),
            durable_waiters: AtomicUsize::new(0),
            replaced_by: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            endpoint: listening.endpoint,
            options,
        });
        let guard = log.watch(Arc::new(move || waker.ring()));
        let streams = streams::Streams::new(listening.router, listening.zap, shared.clone());
        let thread = std::thread::Builder::new()
            .name("esker-repl-out".into())
            .spawn(move || {
                streams.run();
                // The sockets are closed by now; this waits for what lingers, and is bounded by it.
                drop(context);
            })
            .map_err(|source| ReplicationError::Io {
                doing: "starting a thread",
                source,
            })?;
        Ok(Primary {
            inner: Arc::new(Inner {
                shared,
                thread: Mutex::new(Some(thread)),
                log_watch: Mutex::new(Some(guard)),
            }),
        })
    }

    /// Where it listens: the endpoint as bound, with the real port.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.inner.shared.endpoint.clone()
    }

    /// Every replica that is connected, or known by its slot.
    #[must_use]
    pub fn replicas(&self) -> Vec<ReplicaStatus> {
        let shared = &self.inner.shared;
        let end = shared.options.store.log().published();
        shared.peers.lock().statuses(Instant::now(), end)
    }

    /// The position that at least `n` replicas (distinct node ids) have acknowledged in the sense of `ack`:
    /// the n-th highest; `Lsn::MAX` for zero, `Lsn::ZERO` when fewer are known.
    #[must_use]
    pub fn position(&self, ack: Ack, n: usize) -> Lsn {
        self.inner.shared.peers.lock().position(ack, n)
    }

    /// How many replicas have acknowledged everything below `end` in the sense of `ack`.
    #[must_use]
    pub fn count_at(&self, ack: Ack, end: Lsn) -> usize {
        self.inner.shared.peers.lock().count_at(ack, end)
    }

    /// How many replicas are connected and follow.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.inner.shared.peers.lock().connected()
    }

    /// Forgets a replica that is not connected, and gives up its slot: it must be rebuilt to come back
    /// once the log it needs is gone. False where it is connected or unknown.
    pub fn forget(&self, node: NodeId) -> Result<bool, ReplicationError> {
        {
            let mut peers = self.inner.shared.peers.lock();
            if !peers.contains(node) || peers.entry(node).connected {
                return Ok(false);
            }
            peers.remove(node);
        }
        self.inner
            .shared
            .options
            .store
            .log()
            .drop_slot(&slot_name(node))?;
        Ok(true)
    }

    /// Calls `watcher` whenever an acknowledged position moved or a replica came or went. It runs on the
    /// replication thread: it must not block (ring an eventfd).
    #[must_use]
    pub fn watch(&self, watcher: Watcher) -> ProgressGuard {
        ProgressGuard {
            _guard: self.inner.shared.watchers.add(watcher),
        }
    }

    /// Sets the safe position sent along (design 4). Never moves back. Until it is first set, what is synced
    /// counts as safe.
    pub fn set_safe(&self, safe: Lsn) {
        // Relaxed: a number sent along; it orders nothing else.
        self.inner.shared.safe.fetch_max(safe.0, Ordering::Relaxed);
    }

    /// Tells replicas, with the next message and while `wanted`, to sync as soon as they have received:
    /// somebody waits for durable acknowledgements. Counts: each `true` is to be followed by a `false`.
    pub fn want_durable(&self, wanted: bool) {
        let waiters = &self.inner.shared.durable_waiters;
        if wanted {
            if waiters.fetch_add(1, Ordering::Relaxed) == 0 {
                self.inner.shared.waker.ring();
            }
        } else {
            // A `false` too many is a caller's mistake, and no reason to count below zero.
            let _ = waiters.try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        }
    }

    /// Number of a newer epoch that a replica told of: this primary was replaced (R4).
    #[must_use]
    pub fn replaced_by(&self) -> Option<u64> {
        match self.inner.shared.replaced_by.load(Ordering::Relaxed) {
            0 => None,
            number => Some(number),
        }
    }

    /// Says goodbye, closes the sockets, joins the thread. May be called twice.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Inner {
    fn close(&self) {
        drop(self.log_watch.lock().take());
        self.shared.stop.store(true, Ordering::Release);
        self.shared.waker.ring();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // A watcher may hold the last handle: the thread can't join itself, and ends by itself.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("the replication thread of the primary panicked");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}
