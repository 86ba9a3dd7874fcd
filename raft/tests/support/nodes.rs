//! Whole nodes in one process: the log on `esker-wal`, the state on `esker-lsm`, disks and network in memory, threads as they are.
#![allow(dead_code, reason = "each test uses a part")]

use bytes::Bytes;
use esker_raft::core::{Membership, NodeId, RoleName};
use esker_raft::log::{Identity, WalLog, WalLogOptions};
use esker_raft::machine::StateReader;
use esker_raft::runtime::*;
use esker_raft::transport::MemoryNetwork;
use esker_wal::media::sim::SimMedia;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

pub const LONG: Duration = Duration::from_secs(30);

/// Waits for something that is due; a test that waits for it in vain says so.
pub fn eventually<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LONG;
    loop {
        if let Some(value) = get() {
            return value;
        }
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// What runs beside a node; it is closed behind it.
pub trait Beside: Send + Sync {
    fn close(&self) {}
}

impl Beside for () {}

/// A state machine that was just opened.
pub struct Made<B> {
    pub machine: Box<dyn StateMachine>,
    pub reader: StateReader,
    pub beside: Box<dyn FnOnce(NodeHandle) -> B>,
}

type Make<B> = Box<dyn Fn(&SimMedia) -> Result<Made<B>, MachineError> + Send + Sync>;

/// A node that runs.
pub struct Up<B: Beside = ()> {
    pub node: Node,
    pub beside: B,
    pub reader: StateReader,
}

impl<B: Beside> Up<B> {
    fn close(&self) {
        self.node.close();
        self.beside.close();
    }
}

impl<B: Beside> Drop for Up<B> {
    fn drop(&mut self) {
        self.close();
    }
}

struct Member<B: Beside> {
    media: SimMedia,
    up: RwLock<Option<Arc<Up<B>>>>,
}

/// The node at place n has the id n + 1.
pub struct Cluster<B: Beside = ()> {
    pub network: MemoryNetwork,
    options: NodeOptions,
    segment_bytes: u64,
    make: Make<B>,
    members: Vec<Member<B>>,
}

pub fn id(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

impl<B: Beside> Cluster<B> {
    /// All of them run.
    pub fn new(
        members: usize,
        options: NodeOptions,
        segment_bytes: u64,
        make: impl Fn(&SimMedia) -> Result<Made<B>, MachineError> + Send + Sync + 'static,
    ) -> Cluster<B> {
        let member = |at| Member {
            media: SimMedia::new(id(at).0),
            up: RwLock::new(None),
        };
        let cluster = Cluster {
            network: MemoryNetwork::new(),
            options,
            segment_bytes,
            make: Box::new(make),
            members: (0..members).map(member).collect(),
        };
        for at in 0..members {
            cluster.start(at);
        }
        cluster
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn media(&self, at: usize) -> &SimMedia {
        &self.members[at].media
    }

    pub fn start(&self, at: usize) {
        self.try_start(at).expect("it starts");
    }

    pub fn try_start(&self, at: usize) -> Result<(), Box<dyn std::error::Error>> {
        let media = &self.members[at].media;
        let mut first = Membership::of((0..self.len()).map(id));
        for n in (0..self.len()).map(id) {
            let about = About::at(&format!("mem://{n}"), "");
            first.about.insert(n, about.encode());
        }
        let (cluster, group, node) = (7, 1, id(at));
        let config = NodeConfig {
            cluster,
            group,
            node,
            first: Some(first),
            options: self.options.clone(),
        };
        let who = Identity {
            cluster,
            group,
            node,
        };
        let mut log = WalLogOptions::default();
        log.log.segment_bytes = self.segment_bytes;
        log.log.media = Arc::new(media.clone());
        let (log, recovered) = WalLog::open(Path::new("log"), who, log)?;
        let made = (self.make)(media)?;
        let network = self.network.clone();
        let node = Node::start(
            config,
            Box::new(log),
            recovered,
            made.machine,
            |me, inbound| Ok(Arc::new(network.join(me.node, inbound))),
        )?;
        let beside = (made.beside)(node.handle());
        let up = Up {
            node,
            beside,
            reader: made.reader,
        };
        *self.members[at].up.write().unwrap() = Some(Arc::new(up));
        Ok(())
    }

    /// The power of one goes: `seed` decides what of the unsynced survives.
    pub fn power_cut(&self, at: usize, seed: u64) {
        self.members[at].media.power_cut(seed);
        self.ended(at);
    }

    /// As by `kill -9`.
    pub fn kill(&self, at: usize) {
        self.members[at].media.kill();
        self.ended(at);
    }

    fn ended(&self, at: usize) {
        let up = self.members[at].up.write().unwrap().take();
        if let Some(up) = up {
            // Clients may look at it yet.
            up.close();
        }
    }

    pub fn up(&self, at: usize) -> Option<Arc<Up<B>>> {
        self.members[at].up.read().unwrap().clone()
    }

    /// Who leads, and has an entry of its term, of those whose disk has power.
    pub fn leads(&self) -> Option<usize> {
        (0..self.len()).find(|at| {
            let up = self.up(*at).filter(|_| !self.media(*at).is_down());
            let status = up.and_then(|up| up.node.handle().status());
            status.is_some_and(|s| s.role == RoleName::Leader && s.last.term == s.term)
        })
    }

    pub fn leader(&self) -> usize {
        eventually("a leader", || self.leads())
    }

    /// All members are up and hold the same behind `from`: this.
    pub fn agreed(&self, from: &[u8]) -> Vec<(Bytes, Bytes)> {
        eventually("agreement", || {
            let mut all = Vec::new();
            for at in 0..self.len() {
                let state = self.up(at)?.reader.snapshot();
                let rows = state.scan(from, None).ok()?;
                all.push(rows.collect::<Result<Vec<_>, _>>().ok()?);
            }
            let same = all.iter().all(|rows| *rows == all[0]);
            same.then(|| all.remove(0))
        })
    }
}
