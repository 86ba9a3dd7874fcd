//! A member of a Raft cluster that serves Redis clients: the program `raft-node`.
//!
//! - RN1 (C2): a directory without a log gets none silently. An operator says whether it founds a cluster (`bootstrap`), which is refused where there
//!   is a log already and so can't be left in a start script, or joins one (`join`). So a node whose disk was lost never founds its cluster
//!   again by being restarted.
//! - RN2 (C4): one log, the Raft log; the store under it keeps none.
//! - RN3 (E1): [`RaftServer::close`] ends clients, metrics, node and locks, in this order (the node first where it keeps clients waiting), and joins all threads.
//!
//! ```text
//! DIR/log/     the Raft log (`esker_raft::log::WalLog`): names cluster and node, and has a random identity of its own
//! DIR/state/   the state machine (`esker_raft::machine::LsmMachine`)
//! ```

mod admin;
mod app;
mod boot;
mod front;
mod joined;
mod locks;
mod members;
mod metrics;
mod slots;
mod transactions;
mod writers;

pub use app::{Commands, Reading};
pub use boot::{RaftNodeArgs, main};
pub use front::ReadMode;
pub use members::MembersOver;
pub use slots::OnFollower;

use crate::metrics::Metrics;
use crate::status::random_hex_40;
use crossbeam_channel::Receiver;
use esker_lsm::StoreOptions;
use esker_raft::core::{Lease, Membership, NodeId};
use esker_raft::lock::{LockService, LockView, Locked};
use esker_raft::log::{Identity, LogStore, OpenError, WalLog, WalLogOptions};
use esker_raft::machine::LsmMachine;
use esker_raft::runtime::{
    About, MachineError, Node, NodeConfig, NodeHandle, NodeOptions, StartError,
};
use esker_raft::transport::zmq::Keys;
use esker_wal::LogId;
use esker_wal::media::Media as _;
use esker_wal::media::real::RealMedia;
use front::{Front, Shared};
use members::MembersPort;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What surrounds a request in an entry of the log.
const ENTRY_ROOM: usize = 4 << 20;

/// How a directory without a log is begun (RN1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// It is not: there has to be one.
    #[default]
    No,
    /// It founds a cluster of [`RaftOptions::members`].
    Bootstrap,
    /// It waits until a leader adds it.
    Join,
}

/// Options of [`RaftServer::start`].
#[derive(Clone, Debug)]
pub struct RaftOptions {
    /// The directory.
    pub dir: PathBuf,
    /// The cluster's number.
    pub cluster: u64,
    /// The node's id, from 1 on.
    pub id: u64,
    /// Members and where members reach them; this node's own is where it listens. The others count at [`Begin::Bootstrap`] alone.
    pub members: BTreeMap<u64, String>,
    /// Where this node listens for members, if that is not its own address in `members`.
    pub member_listen: Option<String>,
    /// See there.
    pub begin: Begin,
    /// Of a node that joins a cluster which was recovered from a lost majority: its incarnation; else 0.
    pub incarnation: u64,
    /// What the cluster tells clients of this node; `None`: where it listens for them.
    pub advertise: Option<String>,
    /// What a read answers.
    pub read: ReadMode,
    /// With [`ReadMode::Lease`]: how much faster one node's clock may run than another's, per mille.
    pub clock_drift_max: u32,
    /// What a follower does with a command on keys.
    pub on_follower: OnFollower,
    /// The node's secret key and the public keys of all members, this one too (CURVE, Z85).
    pub keys: Option<(String, BTreeMap<u64, String>)>,
    /// Length of the shortest election timeout; the longest is twice as much.
    pub election_timeout: Duration,
    /// How long a command may take.
    pub request_timeout: Duration,
    /// How members speak where there are no keys; the same on all of them.
    pub members_over: MembersOver,
    /// Listen for members beyond loopback, where whoever reaches the port can speak as one.
    pub allow_remote_plaintext: bool,
    /// Clients at once; each that reads has a thread.
    pub clients_max: usize,
    /// Bytes of a segment file of the log.
    pub segment_bytes: u64,
    /// Bytes of a memtable.
    pub memtable_bytes: usize,
    /// Bytes of block cache.
    pub cache_bytes: u64,
    /// Bytes of snapshots that are sent in a second, at most.
    pub snapshot_rate_max: u64,
    /// Where what clients do is recorded. Default: nowhere.
    pub audit: Option<Arc<crate::Audit>>,
    /// The users. Default: nobody is asked who they are.
    pub acl: Arc<crate::Acl>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RaftStartError {
    /// The directory can't be used.
    #[error("{}: {source}; choose a directory that this user can write with --data-dir", .dir.display())]
    Directory {
        /// Which.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Members have keys, and this node has none.
    #[error(
        "the keys of members do not name node {0}; give its own public key too, as in --curve-members {0}=KEY"
    )]
    NoKey(u64),
    /// The node's own address is missing.
    #[error(
        "the members do not name node {0}; give its own address too, as in --cluster {0}=tcp://127.0.0.1:5571"
    )]
    NotNamed(u64),
    /// RN1.
    #[error(
        "{} holds no Raft log: to found a new cluster start each of its members once with --bootstrap; to join a cluster, or if this node's disk was lost \
         (then RAFT.REMOVE it first), start it with --join and have the leader add it with RAFT.ADD",
        .0.display()
    )]
    Empty(PathBuf),
    /// RN1.
    #[error("{} holds the Raft log of a node already: start it without --bootstrap, which is for the first start of a new cluster alone", .0.display())]
    NotEmpty(PathBuf),
    /// The log is gone, and the state is there.
    #[error(
        "{} holds a state and no Raft log any more, so it does not know what it promised: RAFT.REMOVE this node, empty the directory, start with \
         --join and RAFT.ADD it anew",
        .0.display()
    )]
    LogLost(PathBuf),
    /// The log can't be opened.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The state can't be opened.
    #[error(transparent)]
    State(#[from] MachineError),
    /// The node does not start.
    #[error(transparent)]
    Node(#[from] StartError),
    /// Clients can't be served.
    #[error("starting to serve clients: {0}")]
    Clients(io::Error),
}

/// A running node with its clients. Dropped, it closes.
pub struct RaftServer {
    node: Node,
    front: Front,
    shared: Arc<Shared>,
    metrics: Option<Metrics>,
    locks: LockService,
    addr: SocketAddr,
    endpoint: String,
    asked: Receiver<bool>,
}

impl std::fmt::Debug for RaftServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftServer")
            .field("node", &self.node)
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

fn has_files(dir: &Path) -> Result<bool, RaftStartError> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(RaftStartError::Directory {
            dir: dir.to_owned(),
            source,
        }),
    }
}

impl RaftServer {
    /// Opens or begins the directory, and serves the clients of `listener`.
    pub fn start(
        listener: TcpListener,
        options: RaftOptions,
    ) -> Result<RaftServer, RaftStartError> {
        let dir = &options.dir;
        let id = NodeId(options.id);
        let listen = options.members.get(&options.id);
        let listen = listen.ok_or(RaftStartError::NotNamed(options.id))?;
        let listen = options.member_listen.as_ref().unwrap_or(listen);
        let addr = listener.local_addr().map_err(RaftStartError::Clients)?;
        let advertise = options
            .advertise
            .clone()
            .unwrap_or_else(|| addr.to_string());
        let (log_dir, state_dir) = (dir.join("log"), dir.join("state"));
        if options.begin == Begin::No && !has_files(&log_dir)? {
            return Err(match has_files(&state_dir)? {
                true => RaftStartError::LogLost(dir.clone()),
                false => RaftStartError::Empty(dir.clone()),
            });
        }
        // Taken before anything is made on the disk.
        let keys = match &options.keys {
            None => None,
            Some((secret, members)) => {
                let own = members.get(&options.id);
                Some(Keys {
                    public: own.ok_or(RaftStartError::NoKey(options.id))?.clone(),
                    secret: secret.clone(),
                    members: members
                        .iter()
                        .map(|(n, k)| (NodeId(*n), k.clone()))
                        .collect(),
                })
            }
        };
        let members = MembersPort::bind(
            listen,
            keys,
            options.members_over,
            options.allow_remote_plaintext,
        )?;
        let endpoint = members.endpoint().to_owned();
        // With its entry in the directory above: what is acknowledged lies in it.
        let made = RealMedia::default().create_dir_all(dir);
        made.map_err(|source| RaftStartError::Directory {
            dir: dir.clone(),
            source,
        })?;
        let identity = Identity {
            cluster: options.cluster,
            group: 1,
            node: id,
        };
        let mut log_options = WalLogOptions::default();
        log_options.log.segment_bytes = options.segment_bytes;
        let (mut log, recovered) = WalLog::open(&log_dir, identity, log_options)?;
        let opened = match (recovered.empty, options.begin) {
            (false, Begin::Bootstrap) => Err(RaftStartError::NotEmpty(dir.clone())),
            _ => open_state(&state_dir, &options).map_err(Into::into),
        };
        let opened = opened.and_then(|state: State| match state.0.reader().applied().0 {
            1.. if recovered.empty => Err(RaftStartError::LogLost(dir.clone())),
            _ if recovered.empty && options.begin == Begin::No => {
                Err(RaftStartError::Empty(dir.clone()))
            }
            _ => Ok(state),
        });
        let (machine, view) = match opened {
            Ok(state) => state,
            Err(error) => {
                // The first error is the one to report.
                let _ = log.close();
                return Err(error);
            }
        };
        let reader = machine.reader();
        let mut node_options = NodeOptions::default();
        node_options.tick = options.election_timeout / node_options.core.election_ticks;
        if options.read == ReadMode::Lease {
            node_options.core.lease = Some(Lease {
                tick_micros: node_options.tick.as_micros() as u64,
                drift_per_mille: options.clock_drift_max,
            });
        }
        node_options.request_timeout = options.request_timeout;
        node_options.snapshot_rate_max = options.snapshot_rate_max;
        node_options.incarnation = options.incarnation;
        node_options.client.clone_from(&advertise);
        node_options.command_bytes_max = front::REQUEST_MAX + ENTRY_ROOM;
        let config = NodeConfig {
            cluster: options.cluster,
            group: 1,
            node: id,
            first: (options.begin == Begin::Bootstrap).then(|| first(&options.members)),
            options: node_options,
        };
        let node = Node::start(
            config,
            Box::new(log),
            recovered,
            Box::new(machine),
            |me, inbound| members.start(me, inbound),
        )?;
        let handle = node.handle();
        let locks = LockService::start(handle.clone(), view)?;
        let (ask, asked) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared {
            node: id,
            handle: handle.clone(),
            reader,
            cluster: options.cluster,
            read: options.read,
            on_follower: options.on_follower,
            timeout: options.request_timeout,
            clients_max: options.clients_max,
            addr,
            advertise,
            run_id: random_hex_40(),
            started: Instant::now(),
            config: vec![
                ("aclfile".into(), options.acl.shown()),
                ("dir".into(), dir.display().to_string()),
                ("maxclients".into(), options.clients_max.to_string()),
                // What redis-benchmark looks for.
                ("save".into(), String::new()),
                ("appendonly".into(), "yes".into()),
            ],
            audit: options.audit.clone(),
            acl: options.acl.clone(),
            cursors: Default::default(),
            locks: locks.clone(),
            stopping: false.into(),
            asked: ask,
            commands: 0.into(),
            connections: 0.into(),
            clients: Default::default(),
        });
        let front = Front::start(listener, shared.clone()).map_err(RaftStartError::Clients)?;
        Ok(RaftServer {
            node,
            front,
            shared,
            metrics: None,
            locks,
            addr,
            endpoint,
            asked,
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where members connect.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Serves metrics on `listener`; where they are then.
    pub fn serve_metrics(&mut self, listener: TcpListener) -> io::Result<SocketAddr> {
        let metrics = Metrics::serve(listener, self.shared.clone())?;
        let addr = metrics.addr();
        self.metrics = Some(metrics);
        Ok(addr)
    }

    /// Tells when a client asked for the end (SHUTDOWN), and whether at once.
    #[must_use]
    pub fn asked(&self) -> &Receiver<bool> {
        &self.asked
    }

    /// The node.
    #[must_use]
    pub fn handle(&self) -> NodeHandle {
        self.node.handle()
    }

    /// RN3. Clients get the answers to what they have asked unless `now`. A second time it does nothing.
    pub fn close(&mut self, now: bool) {
        if now {
            // What waits for the cluster ends.
            self.node.close();
        }
        self.front.close(now, || self.node.close());
        if let Some(metrics) = &mut self.metrics {
            metrics.close();
        }
        self.node.close();
        self.locks.close();
    }
}

impl Drop for RaftServer {
    fn drop(&mut self) {
        self.close(true);
    }
}

type State = (LsmMachine<Locked<Commands>>, LockView);

/// Of the store: a put waits for the logs' syncs, and the store writes beside them.
const BACKGROUND_RATE: u64 = 64 << 20;

fn open_state(dir: &Path, options: &RaftOptions) -> Result<State, MachineError> {
    let store = StoreOptions {
        memtable_bytes: options.memtable_bytes,
        cache_bytes: options.cache_bytes,
        background_rate: BACKGROUND_RATE,
        ..StoreOptions::default()
    };
    let (app, view) = Locked::new(Commands::default());
    let id = LogId(u128::from(options.cluster));
    Ok((LsmMachine::open(dir, id, store, app)?, view))
}

/// The first membership: the same on each member.
fn first(members: &BTreeMap<u64, String>) -> Membership {
    let mut first = Membership::of(members.keys().copied().map(NodeId));
    for (id, address) in members {
        let about = About::at(address, "");
        first.about.insert(NodeId(*id), about.encode());
    }
    first
}
