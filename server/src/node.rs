//! This node: its store, its role, and how far a reply may reveal what it read or wrote.
//!
//! - N1: a node has an engine or gets one (a replica after its first handshake) and keeps it; the role
//!   changes at most from replica to primary.
//! - N2: `safe` never goes back while the log lives. A reply leaves when it has reached what the reply
//!   touched.
//!
//! | rank | lock | guards | while held |
//! |---|---|---|---|
//! | 1 | `promoting` | one promotion at a time | blocks: replication stops, the log begins an epoch |
//! | 2 | `peers`, `upstream` | who replicates | copy out only |
//! | 3 | `bells`, `guards` | who is told | wake only |

use crate::control::{Ack, ReplicaLine, RoleView, WriteRefusal};
use crate::engine::Engine;
use crate::net::bell::Bell;
use esker_lsm::{RoomGuard, Store};
use esker_wal::{Lsn, WatchGuard};
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// When a write is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Once it is on stable storage: survives power loss.
    #[default]
    Always,
    /// At once; a sync at least once per `sync-interval`. Survives `kill -9`; a power cut takes up to the
    /// interval.
    Interval,
    /// At once; the log syncs when it must. Survives `kill -9`.
    No,
}

impl Durability {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Durability::Always => "always",
            Durability::Interval => "interval",
            Durability::No => "no",
        }
    }

    /// The log's policy for it.
    #[must_use]
    pub fn sync_policy(self, interval: Duration) -> esker_wal::SyncPolicy {
        match self {
            Durability::Always => esker_wal::SyncPolicy::Always,
            Durability::Interval => esker_wal::SyncPolicy::Interval(interval),
            Durability::No => esker_wal::SyncPolicy::Manual,
        }
    }
}

/// What a reply waits for.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// This node's part.
    pub durability: Durability,
    /// Replicas that must have it too.
    pub min_sync_replicas: usize,
    /// In which sense.
    pub ack: Ack,
    /// When a held reply becomes an error.
    pub ack_timeout: Duration,
}

impl Default for Promise {
    fn default() -> Self {
        Promise {
            durability: Durability::Always,
            min_sync_replicas: 0,
            ack: Ack::Durable,
            ack_timeout: Duration::from_secs(5),
        }
    }
}

/// The replicas of a primary.
pub trait Peers: Send + Sync {
    /// All that are known.
    fn replicas(&self) -> Vec<ReplicaLine>;
    /// How many are connected.
    fn connected(&self) -> usize;
    /// The position that `n` of them have reached.
    fn position(&self, ack: Ack, n: usize) -> Lsn;
    /// Connected ones at or beyond `lsn`.
    fn count_at(&self, ack: Ack, lsn: Lsn) -> usize;
    /// Where they connect.
    fn endpoint(&self) -> Option<String> {
        None
    }
    /// The safe position, to be sent along.
    fn set_safe(&self, safe: Lsn) {
        let _ = safe;
    }
    /// Somebody begins (true) or ends (false) to wait for durable acknowledgements.
    fn want_durable(&self, wanted: bool) {
        let _ = wanted;
    }
    /// Number of a newer epoch that was heard of (R4).
    fn replaced_by(&self) -> Option<u64> {
        None
    }
    /// Ends serving them. Blocks.
    fn close(&self) {}
}

/// The primary of a replica.
pub trait Upstream: Send + Sync {
    /// Host, port, link state, as ROLE shows them.
    fn link(&self) -> (String, u16, &'static str);
    /// What the primary has synced and is not applied here, as last heard.
    fn lag_bytes(&self) -> u64 {
        0
    }
    /// Ends following and makes this node the writer; the peers it then serves, if any. Blocks.
    fn promote(&self) -> Result<Option<Arc<dyn Peers>>, String>;
}

/// See the module.
pub struct Node {
    // Fixed.
    promise: Promise,
    engine: OnceLock<Engine>,
    // Locks, by rank.
    promoting: Mutex<()>,
    peers: RwLock<Option<Arc<dyn Peers>>>,
    upstream: RwLock<Option<Arc<dyn Upstream>>>,
    bells: Mutex<Vec<Arc<Bell>>>,
    guards: Mutex<(Vec<WatchGuard>, Vec<RoomGuard>)>,
    /// Why a worker of the store failed, as last looked at.
    background: RwLock<Option<String>>,
    // Flags.
    replica: AtomicBool,
    // As of the last `refresh`, so that a command costs no lock.
    refuses_writes: AtomicBool,
    /// LSN where reads look; `u64::MAX` when they look at the latest state.
    reads_at: AtomicU64,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("promise", &self.promise)
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// A primary on `store`.
    #[must_use]
    pub fn primary(store: Store, promise: Promise) -> Arc<Node> {
        let node = Node::empty(promise, false);
        node.install(store);
        node
    }

    /// A replica, which may have no store yet.
    #[must_use]
    pub fn replica(promise: Promise) -> Arc<Node> {
        Node::empty(promise, true)
    }

    fn empty(promise: Promise, replica: bool) -> Arc<Node> {
        Arc::new(Node {
            promise,
            engine: OnceLock::new(),
            promoting: Mutex::new(()),
            peers: RwLock::new(None),
            upstream: RwLock::new(None),
            bells: Mutex::new(Vec::new()),
            guards: Mutex::new((Vec::new(), Vec::new())),
            background: RwLock::new(None),
            replica: AtomicBool::new(replica),
            refuses_writes: AtomicBool::new(replica),
            reads_at: AtomicU64::new(u64::MAX),
        })
    }

    /// Gives the node its store. Only the first one counts (N1).
    pub fn install(self: &Arc<Node>, store: Store) {
        let weak = Arc::downgrade(self);
        let ring: esker_wal::Watcher = Arc::new(move || {
            if let Some(node) = weak.upgrade() {
                node.ring();
            }
        });
        if self
            .engine
            .set(Engine::new(store.clone(), !self.is_replica()))
            .is_err()
        {
            return;
        }
        let mut guards = self.guards.lock();
        guards.0.push(store.log().watch(Arc::clone(&ring)));
        guards.0.push(store.log().watch_room(Arc::clone(&ring)));
        guards.1.push(store.watch_room(ring));
        drop(guards);
        self.refresh();
        self.ring();
    }

    /// The store with its locks, once there is one.
    #[must_use]
    pub fn engine(&self) -> Option<&Engine> {
        self.engine.get()
    }

    /// What a reply waits for.
    #[must_use]
    pub fn promise(&self) -> &Promise {
        &self.promise
    }

    /// Sets the replicas of this primary.
    pub fn set_peers(&self, peers: Arc<dyn Peers>) {
        *self.peers.write() = Some(peers);
    }

    /// Sets the primary of this replica.
    pub fn set_upstream(&self, upstream: Arc<dyn Upstream>) {
        *self.upstream.write() = Some(upstream);
    }

    /// Whether this node follows.
    #[must_use]
    pub fn is_replica(&self) -> bool {
        self.replica.load(Ordering::Acquire)
    }

    /// Replicas, when this node has a replication side.
    #[must_use]
    pub fn peers(&self) -> Option<Arc<dyn Peers>> {
        self.peers.read().clone()
    }

    /// Its primary, on a replica.
    #[must_use]
    pub fn upstream(&self) -> Option<Arc<dyn Upstream>> {
        self.upstream.read().clone()
    }

    /// How far a reply may reveal what it touched (N2).
    ///
    /// A replica streams what is synced on its primary, so all that it has may be shown.
    #[must_use]
    pub fn safe(&self) -> Lsn {
        let Some(engine) = self.engine.get() else {
            return Lsn::MAX;
        };
        if self.is_replica() {
            return Lsn::MAX;
        }
        let log = engine.store().log();
        let own = match self.promise.durability {
            Durability::Always => log.synced(),
            Durability::Interval | Durability::No => log.published(),
        };
        if self.promise.min_sync_replicas == 0 {
            return own;
        }
        let theirs = self.peers().map_or(Lsn::ZERO, |peers| {
            peers.position(self.promise.ack, self.promise.min_sync_replicas)
        });
        own.min(theirs)
    }

    /// Looks whether writes are refused and whether the safe position is stuck. The event loops call it once
    /// per turn, so that a command costs no lock; a log that fails within a turn refuses by itself.
    pub fn refresh(&self) {
        let refuses = self.refusal().is_some();
        if refuses != self.refuses_writes.load(Ordering::Relaxed) {
            self.refuses_writes.store(refuses, Ordering::Relaxed);
        }
        let reads_at = if self.is_replica() || !self.is_stuck() {
            u64::MAX
        } else {
            self.safe().0
        };
        if reads_at != self.reads_at.load(Ordering::Relaxed) {
            self.reads_at.store(reads_at, Ordering::Relaxed);
        }
    }

    /// Looks for a failure of the store's workers. More work than `refresh`: a few times a second.
    pub fn look_behind(&self) {
        if let Some(engine) = self.engine.get() {
            let found = engine.store().stats().background_error;
            if *self.background.read() != found {
                *self.background.write() = found;
            }
        }
    }

    /// Why writes are refused before anything is appended, if they are.
    pub fn write_gate(&self) -> Result<(), WriteRefusal> {
        // Relaxed: it is an early answer; appending to a log that has failed fails.
        if !self.refuses_writes.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.refusal().map_or(Ok(()), Err)
    }

    fn refusal(&self) -> Option<WriteRefusal> {
        if self.is_replica() {
            return Some(WriteRefusal::ReadOnly);
        }
        if let Some(why) = self.failure() {
            return Some(WriteRefusal::Misconf(why));
        }
        if let Some(epoch) = self.peers().and_then(|peers| peers.replaced_by()) {
            return Some(WriteRefusal::Misconf(format!(
                "another node was promoted to epoch {epoch}; this one must not write any more"
            )));
        }
        self.too_few_replicas().then_some(WriteRefusal::NoReplicas)
    }

    /// Where reads look while the safe position can't move; see `ServerControl::read_at`.
    #[must_use]
    pub fn read_at(&self) -> Option<Lsn> {
        match self.reads_at.load(Ordering::Relaxed) {
            u64::MAX => None,
            at => Some(Lsn(at)),
        }
    }

    fn is_stuck(&self) -> bool {
        self.too_few_replicas()
            || (self.promise.durability == Durability::Always && self.poison().is_some())
    }

    /// What made the log refuse writes for good.
    #[must_use]
    pub fn poison(&self) -> Option<String> {
        let log = self.engine.get()?.store().log();
        log.poison().map(|poison| poison.to_string())
    }

    /// What made log or store refuse writes.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.poison().or_else(|| self.background.read().clone())
    }

    fn too_few_replicas(&self) -> bool {
        self.promise.min_sync_replicas > 0
            && self.peers().map_or(0, |peers| peers.connected()) < self.promise.min_sync_replicas
    }

    /// The role as ROLE and INFO show it.
    #[must_use]
    pub fn role(&self) -> RoleView {
        if self.is_replica() {
            let (host, port, state) = self
                .upstream()
                .map_or((String::new(), 0, "connect"), |upstream| upstream.link());
            RoleView::Replica {
                host,
                port,
                state,
                offset: self
                    .engine
                    .get()
                    .map_or(Lsn::ZERO, |engine| engine.store().visible()),
            }
        } else {
            RoleView::Primary {
                offset: self
                    .engine
                    .get()
                    .map_or(Lsn::ZERO, |engine| engine.store().log().published()),
                replicas: self.peers().map_or_else(Vec::new, |peers| peers.replicas()),
            }
        }
    }

    /// Makes a replica the primary. Blocks. On a primary it does nothing.
    pub fn promote(&self) -> Result<(), String> {
        let _one_at_a_time = self.promoting.lock();
        if !self.is_replica() {
            return Ok(());
        }
        let Some(engine) = self.engine.get() else {
            return Err("ERR nothing to promote: this replica has not received a store yet".into());
        };
        let upstream = self
            .upstream()
            .ok_or("ERR this node does not follow a primary")?;
        let peers = upstream.promote()?;
        if let Some(peers) = peers {
            self.set_peers(peers);
        }
        *self.upstream.write() = None;
        engine.set_writer();
        // Release pairs with the Acquire in `is_replica`: who sees a primary sees its peers and its epoch.
        self.replica.store(false, Ordering::Release);
        self.refresh();
        self.ring();
        Ok(())
    }

    /// Has `bell` rung whenever a position may have moved.
    pub fn add_bell(&self, bell: Arc<Bell>) {
        self.bells.lock().push(bell);
    }

    /// Tells the event loops that a position may have moved. Does not block.
    pub fn ring(&self) {
        for bell in self.bells.lock().iter() {
            bell.ring();
        }
    }

    /// Forgets bells and watches: nothing rings any more.
    pub fn unwatch(&self) {
        let old = std::mem::take(&mut *self.guards.lock());
        drop(old);
        self.bells.lock().clear();
    }
}
