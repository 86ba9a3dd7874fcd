//! The replica's side: says hello, takes frames under the credit it grants, appends, applies, reports.
//!
//! Two threads. `esker-repl-in` owns the DEALER socket and never blocks on log or store, so heartbeats go
//! on while a disk is slow; `esker-repl-app` appends and applies. An eventfd wakes the first: rung by the
//! second, by the log when something was synced, and by callers.
//!
//! - RE1: a replica opens no epoch. Only [`Replica::promote`] does, after its role is durable (R4).
//! - RE2: it says hello with the end of a log that is verified and synced, and with nothing of an earlier
//!   connection queued; frames of other sessions are ignored.
//! - RE3: granted credit is what is applied plus the window; it never moves back within a session.
//! - RE4: a refusal is told in the status and tried again from time to time; what only an operator can
//!   mend ends the following, and reads go on.

mod apply;
mod follow;
mod inbox;

use crate::datadir::{Role, RoleRecord};
use crate::error::ReplicationError;
use crate::options::ReplicaOptions;
use crate::protocol::{NAME_BYTES_MAX, PrimaryPositions};
use crate::status::{FollowState, FollowStatus};
use crate::transport::{self, Waker, WatcherGuard, Watchers};
use esker_lsm::{Store, StoreRecovered};
use esker_wal::{Create, EpochStart, Lsn, NodeId, WatchGuard, Watcher};
use inbox::Inbox;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// What is said about following; set by the socket's thread.
struct View {
    state: FollowState,
    primary_node: Option<NodeId>,
    heard: Option<Instant>,
    positions: PrimaryPositions,
    connects: u64,
    /// What the applier waits for, since when it does.
    held_up: Option<String>,
}

struct Opened {
    store: Store,
    recovered: StoreRecovered,
    /// Rings the socket's thread when `synced` moves, while there is one.
    watch: Mutex<Option<WatchGuard>>,
}

/// What the threads and the handles share.
///
/// | rank | lock     | guards                    | while held                          |
/// |------|----------|---------------------------|-------------------------------------|
/// |    1 | `ending` | the end of following      | joins the threads, writes the role  |
/// |    2 | `view`   | what the status says      | assignments                         |
/// |    2 | `inbox`  | jobs for the applier      | a push or a pop                     |
struct Shared {
    options: ReplicaOptions,
    name: String,
    waker: Waker,
    watchers: Arc<Watchers>,
    opened: OnceLock<Opened>,
    inbox: Inbox,
    view: Mutex<View>,
    /// End of what was applied, for credit.
    applied: AtomicU64,
    sync_now: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    fn store(&self) -> Option<Store> {
        self.opened.get().map(|o| o.store.clone())
    }

    fn open_store(&self, create: Option<Create>) -> Result<(), esker_lsm::OpenError> {
        let (store, recovered) = apply::open_follower(&self.options, create)?;
        self.applied
            .store(store.log().published().0, Ordering::Release);
        let waker = self.waker.clone();
        let watch = store.log().watch(Arc::new(move || waker.ring()));
        let opened = Opened {
            store,
            recovered,
            watch: Mutex::new(Some(watch)),
        };
        // Opened once: at the start, or by the one thread that creates.
        let _ = self.opened.set(opened);
        Ok(())
    }

    /// Says what applying waits for, or that it goes on.
    fn held_up(&self, why: Option<&str>) {
        let mut view = self.view.lock();
        if view.held_up.is_none()
            && let Some(why) = why
        {
            tracing::warn!("the replica waits: {why}");
        }
        view.held_up = why.map(str::to_string);
    }
}

struct Ending {
    threads: Vec<JoinHandle<()>>,
    promoted: Option<EpochStart>,
    closed: bool,
}

struct Inner {
    shared: Arc<Shared>,
    ending: Mutex<Ending>,
}

/// Follows a primary: its log, and the store on it. Clones are handles; `close` or the last drop ends it.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("primary", &self.inner.shared.options.primary)
            .finish_non_exhaustive()
    }
}

/// Keeps a watcher of [`Replica::watch`] registered; dropped, it is called no more.
#[derive(Debug)]
pub struct FollowGuard {
    _guard: WatcherGuard,
}

impl Replica {
    /// Opens the store where there is one (no epoch is begun), makes the role durable, and starts to follow.
    /// A primary that can't be reached is no error: the replica serves what it has and tries on.
    pub fn start(options: ReplicaOptions) -> Result<Replica, ReplicationError> {
        let data = options.data.clone();
        let epoch = match data.role() {
            Some(RoleRecord {
                role: Role::Primary,
                epoch,
            }) => {
                return Err(ReplicationError::IsPrimary {
                    dir: data.path().to_path_buf(),
                    epoch,
                });
            }
            Some(record) => record.epoch,
            None => 0,
        };
        if options.name.len() > NAME_BYTES_MAX || options.name.contains(char::is_control) {
            return Err(ReplicationError::Options {
                option: "name",
                why: format!("it has at most {NAME_BYTES_MAX} bytes and no control characters"),
            });
        }
        let mut name = options.name.clone();
        if name.is_empty() {
            name = data.node().to_string();
            name.truncate(8);
        }
        // Keys, endpoint and library are tried before anything is written.
        let context = zmq::Context::new();
        let keys = options.keys.as_ref();
        transport::check_connect(&options.primary, keys)?;
        data.set_role(RoleRecord {
            role: Role::Replica,
            epoch,
        })?;
        let has_store = data.has_store()?;
        let shared = Arc::new(Shared {
            name,
            waker: Waker::new()?,
            watchers: Arc::default(),
            opened: OnceLock::new(),
            inbox: Inbox::default(),
            view: Mutex::new(View {
                state: FollowState::Connecting,
                primary_node: None,
                heard: None,
                positions: PrimaryPositions::default(),
                connects: 0,
                held_up: None,
            }),
            applied: AtomicU64::new(0),
            sync_now: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            options,
        });
        if has_store {
            shared.open_store(None)?;
        }
        let replica = Replica {
            inner: Arc::new(Inner {
                shared: shared.clone(),
                ending: Mutex::new(Ending {
                    threads: Vec::new(),
                    promoted: None,
                    closed: false,
                }),
            }),
        };
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.into())
                .spawn(body)
                .map_err(|source| ReplicationError::Io {
                    doing: "starting a thread",
                    source,
                })
        };
        let applier = shared.clone();
        let thread = spawn("esker-repl-app", Box::new(move || apply::run(&applier)))?;
        replica.inner.ending.lock().threads.push(thread);
        // On an error here the drop of `replica` ends the first thread.
        let thread = spawn(
            "esker-repl-in",
            Box::new(move || follow::Follower::new(context, shared).run()),
        )?;
        replica.inner.ending.lock().threads.push(thread);
        Ok(replica)
    }

    /// The store, once there is one: at once where the directory had one, else after the first handshake.
    #[must_use]
    pub fn store(&self) -> Option<Store> {
        self.inner.shared.store()
    }

    /// What opening the store found, once it was opened.
    #[must_use]
    pub fn recovered(&self) -> Option<StoreRecovered> {
        self.inner.shared.opened.get().map(|o| o.recovered.clone())
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> FollowStatus {
        let shared = &self.inner.shared;
        let (received, durable, applied) = match shared.opened.get() {
            Some(o) => (
                o.store.log().published(),
                o.store.log().synced(),
                o.store.visible(),
            ),
            None => (Lsn::ZERO, Lsn::ZERO, Lsn::ZERO),
        };
        let view = shared.view.lock();
        FollowStatus {
            state: view.state.clone(),
            primary: shared.options.primary.clone(),
            primary_node: view.primary_node,
            received,
            durable,
            applied,
            primary_synced: view.positions.synced,
            primary_safe: view.positions.safe,
            silent: view.heard.map(|at| at.elapsed()),
            lag_bytes: view.positions.synced.0.saturating_sub(applied.0),
            connects: view.connects,
            held_up: view.held_up.clone(),
        }
    }

    /// Calls `watcher` whenever state or positions moved, and when the store came to be. It runs on a
    /// replication thread: it must not block (ring an eventfd).
    #[must_use]
    pub fn watch(&self, watcher: Watcher) -> FollowGuard {
        FollowGuard {
            _guard: self.inner.shared.watchers.add(watcher),
        }
    }

    /// Stops following, makes the role of primary durable, and begins an epoch with a higher number. On
    /// return the store takes writes; it and its data directory are the caller's from here on.
    ///
    /// Frames that were received are applied first. A crash after the role is durable and before the epoch
    /// has begun is taken up by [`crate::resume_promotion`]. An error leaves the replica stopped: start it
    /// anew, or try again.
    pub fn promote(&self) -> Result<EpochStart, ReplicationError> {
        let shared = &self.inner.shared;
        let mut ending = self.inner.ending.lock();
        if ending.closed || ending.promoted.is_some() {
            return Err(ReplicationError::NotFollowing);
        }
        let Some(store) = shared.store() else {
            return Err(ReplicationError::NothingToPromote);
        };
        self.inner.stop_following(&mut ending, false);
        shared.view.lock().state = FollowState::Disconnected {
            why: "stopped to be promoted".into(),
        };
        let log = store.log();
        log.sync_up_to(log.published())?;
        let data = &shared.options.data;
        let heard = data.role().map_or(0, |r| r.epoch);
        let number = heard.max(log.epoch().number) + 1;
        data.set_role(RoleRecord {
            role: Role::Primary,
            epoch: number,
        })?;
        let start = crate::begin_epoch(&store, number)?;
        ending.promoted = Some(start);
        shared.view.lock().state = FollowState::Promoted;
        shared.watchers.call();
        tracing::info!(epoch = %start.epoch, begin = %start.begin, "promoted to primary");
        Ok(start)
    }

    /// Stops following, joins the threads, and closes the store, unless promoted. May be called twice.
    pub fn close(&self) -> Result<(), ReplicationError> {
        self.inner.close()
    }
}

impl Inner {
    /// Ends both threads. What was received is applied, unless `at_once`.
    fn stop_following(&self, ending: &mut Ending, at_once: bool) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.waker.ring();
        if at_once {
            self.shared.inbox.abort();
        }
        let here = std::thread::current().id();
        // The socket's thread first: behind it nothing more is queued.
        while let Some(thread) = ending.threads.pop() {
            // A watcher may hold the last handle: a thread can't join itself, and ends by itself.
            if thread.thread().id() != here && thread.join().is_err() {
                tracing::error!("a replication thread of the replica panicked");
            }
            self.shared.inbox.close();
        }
        if let Some(opened) = self.shared.opened.get() {
            drop(opened.watch.lock().take());
        }
    }

    fn close(&self) -> Result<(), ReplicationError> {
        let mut ending = self.ending.lock();
        if ending.closed {
            return Ok(());
        }
        ending.closed = true;
        self.stop_following(&mut ending, true);
        if ending.promoted.is_some() {
            return Ok(());
        }
        self.shared.view.lock().state = FollowState::Closed;
        match self.shared.store() {
            Some(store) => Ok(store.close()?),
            None => Ok(()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.close();
    }
}
