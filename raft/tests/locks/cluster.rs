//! Whole nodes with locks, on disks and a network in memory, with real threads.

use bytes::Bytes;
use esker_lsm::StoreOptions;
use esker_raft::core::{Membership, NodeId, Options, RoleName};
use esker_raft::lock::{LockService, LockView, Locked};
use esker_raft::log::{Identity, WalLog, WalLogOptions};
use esker_raft::machine::{Application, Effects, LsmMachine, StateReader};
use esker_raft::runtime::*;
use esker_raft::transport::MemoryNetwork;
use esker_wal::media::sim::SimMedia;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

pub const LONG: Duration = Duration::from_secs(30);
const ID: esker_wal::LogId = esker_wal::LogId(9);

/// Writes down each command that takes effect: key `h` and its index. `!` empties the application's keys.
#[derive(Debug, Default)]
pub struct Recorder;

impl Application for Recorder {
    fn apply(&mut self, command: Command, state: &mut Effects<'_>) -> Result<Bytes, MachineError> {
        if command.payload == b"!"[..] {
            state.delete_range(b"", None);
        } else {
            let key = [&b"h"[..], &command.index.0.to_be_bytes()].concat();
            state.put(&key, &command.payload);
        }
        Ok(Bytes::new())
    }
}

pub fn store_options(media: &SimMedia) -> StoreOptions {
    let mut options = StoreOptions {
        memtable_bytes: 64 << 10,
        ..StoreOptions::default()
    };
    options.log.media = Arc::new(media.clone());
    options
}

pub fn open(media: &SimMedia) -> (LsmMachine<Locked<Recorder>>, LockView) {
    let (app, view) = Locked::new(Recorder);
    let machine = LsmMachine::open(Path::new("state"), ID, store_options(media), app);
    (machine.expect("the state opens"), view)
}

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

/// A node that runs.
pub struct Up {
    pub node: Node,
    pub locks: LockService,
    pub reader: StateReader,
}

impl Drop for Up {
    fn drop(&mut self) {
        self.node.close();
        self.locks.close();
    }
}

pub struct Member {
    pub id: u64,
    pub media: SimMedia,
    pub up: Option<Arc<Up>>,
}

pub struct Cluster {
    pub network: MemoryNetwork,
    pub members: Vec<RwLock<Member>>,
    pub kept: u64,
}

impl Cluster {
    pub fn new(kept: u64) -> Cluster {
        let member = |id| {
            RwLock::new(Member {
                id,
                media: SimMedia::new(id),
                up: None,
            })
        };
        let cluster = Cluster {
            network: MemoryNetwork::new(),
            members: (1..=3).map(member).collect(),
            kept,
        };
        for at in 0..3 {
            cluster.start(at);
        }
        cluster
    }

    pub fn start(&self, at: usize) {
        let mut member = self.members[at].write().unwrap();
        let id = NodeId(member.id);
        let mut first = Membership::of((1..=3).map(NodeId));
        for n in 1..=3 {
            let about = About::at(&format!("mem://{n}"), "");
            first.about.insert(NodeId(n), about.encode());
        }
        let config = NodeConfig {
            cluster: 7,
            group: 1,
            node: id,
            first: Some(first),
            options: NodeOptions {
                core: Options::default(),
                tick: Duration::from_millis(20),
                compact_entries_min: 50,
                log_entries_kept: self.kept,
                ..NodeOptions::default()
            },
        };
        let who = Identity {
            cluster: 7,
            group: 1,
            node: id,
        };
        let mut log = WalLogOptions::default();
        log.log.segment_bytes = 256 << 10;
        log.log.media = Arc::new(member.media.clone());
        let (log, recovered) = WalLog::open(Path::new("log"), who, log).expect("the log opens");
        let (machine, view) = open(&member.media);
        let reader = machine.reader();
        let network = self.network.clone();
        let (log, machine) = (Box::new(log), Box::new(machine));
        let node = Node::start(config, log, recovered, machine, |me, inbound| {
            Ok(Arc::new(network.join(me.node, inbound)))
        })
        .expect("it starts");
        let locks = LockService::start(node.handle(), view).expect("it starts");
        member.up = Some(Arc::new(Up {
            node,
            locks,
            reader,
        }));
    }

    pub fn power_cut(&self, at: usize, seed: u64) {
        let mut member = self.members[at].write().unwrap();
        member.media.power_cut(seed);
        if let Some(up) = member.up.take() {
            // Clients may look at it yet.
            up.node.close();
            up.locks.close();
            drop(up);
        }
    }

    pub fn up(&self, at: usize) -> Option<Arc<Up>> {
        self.members[at].read().unwrap().up.clone()
    }

    pub fn leader(&self) -> usize {
        eventually("a leader", || {
            (0..3).find(|at| {
                let status = self.up(*at).and_then(|up| up.node.handle().status());
                status.is_some_and(|s| s.role == RoleName::Leader && s.last.term == s.term)
            })
        })
    }

    /// All members are up and hold the same: what was written down, in order.
    pub fn history(&self) -> Vec<String> {
        eventually("agreement", || {
            let mut all = Vec::new();
            for at in 0..3 {
                let state = self.up(at)?.reader.snapshot();
                let rows = state.scan(b"h", None).ok()?;
                let rows: Result<Vec<_>, _> = rows.collect();
                let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
                let rows = rows.ok()?;
                all.push(
                    rows.iter()
                        .map(|(_, value)| text(value))
                        .collect::<Vec<_>>(),
                );
            }
            (all[0] == all[1] && all[1] == all[2]).then(|| all.remove(0))
        })
    }
}
