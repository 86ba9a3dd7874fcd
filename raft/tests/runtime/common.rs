//! Nodes of one process: real threads, a network, disks and state machines in memory.

use esker_raft::core::{Abstain, Membership, NodeId, Options, RoleName};
use esker_raft::log::{LogStore, MemoryDisk, VolatileLog};
use esker_raft::runtime::*;
use esker_raft::transport::MemoryNetwork;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) fn options() -> NodeOptions {
    NodeOptions {
        core: Options::default(),
        tick: Duration::from_millis(15),
        request_timeout: Duration::from_secs(5),
        disk_hang_max: Duration::from_millis(300),
        ..NodeOptions::default()
    }
}

pub(crate) struct Member {
    pub(crate) disk: MemoryDisk,
    pub(crate) machine: MemoryMachine,
    pub(crate) node: Option<Node>,
    /// What its log says of itself at the next start.
    pub(crate) abstain: Abstain,
}

pub(crate) struct Cluster {
    pub(crate) network: MemoryNetwork,
    pub(crate) members: BTreeMap<u64, Member>,
    pub(crate) options: NodeOptions,
    pub(crate) voters: u64,
    /// Logs end with their processes; the disks are not used.
    pub(crate) volatile: bool,
}

/// Waits for something that is due; a test that waits for it in vain says so.
pub(crate) fn eventually<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LONG;
    loop {
        if let Some(value) = get() {
            return value;
        }
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(3));
    }
}

impl Cluster {
    pub(crate) fn new(voters: u64, options: NodeOptions) -> Cluster {
        Cluster::of(voters, options, false)
    }

    pub(crate) fn of(voters: u64, options: NodeOptions, volatile: bool) -> Cluster {
        let mut cluster = Cluster {
            network: MemoryNetwork::new(),
            members: BTreeMap::new(),
            options,
            voters,
            volatile,
        };
        for id in 1..=voters {
            cluster.add(id);
        }
        cluster
    }

    pub(crate) fn about(id: u64) -> About {
        About::at(&format!("mem://{id}"), &format!("client-{id}"))
    }

    /// A member with an empty disk.
    pub(crate) fn add(&mut self, id: u64) {
        let member = Member {
            disk: MemoryDisk::new(),
            machine: MemoryMachine::new(),
            node: None,
            abstain: Abstain::No,
        };
        self.members.insert(id, member);
        self.start(id);
    }

    pub(crate) fn start(&mut self, id: u64) {
        let machine = Box::new(self.members[&id].machine.clone());
        self.start_with(id, machine);
    }

    /// With a state machine around the member's own.
    pub(crate) fn start_with(&mut self, id: u64, machine: Box<dyn StateMachine>) {
        let voters = self.voters;
        let first = (id <= voters).then(|| {
            let mut first = Membership::of((1..=voters).map(NodeId));
            for n in 1..=voters {
                first.about.insert(NodeId(n), Cluster::about(n).encode());
            }
            first
        });
        let config = NodeConfig {
            cluster: 77,
            group: 1,
            node: NodeId(id),
            first,
            options: self.options.clone(),
        };
        let member = self.members.get_mut(&id).expect("a member");
        let tail = self.options.core.tail_bytes_max;
        let (log, mut recovered): (Box<dyn LogStore>, _) = match self.volatile {
            true => {
                let (log, recovered) = VolatileLog::new(tail);
                (Box::new(log), recovered)
            }
            false => {
                let (log, recovered) = member.disk.open(tail);
                (Box::new(log), recovered)
            }
        };
        recovered.abstain = member.abstain;
        let network = self.network.clone();
        let node = Node::start(config, log, recovered, machine, |me, inbound| {
            Ok(Arc::new(network.join(me.node, inbound)))
        });
        member.node = Some(node.expect("it starts"));
    }

    /// The power of one goes.
    pub(crate) fn power_cut(&mut self, id: u64) {
        let member = self.members.get_mut(&id).expect("a member");
        member.disk.lose_power();
        member.node = None;
        member.machine = member.machine.after_power_loss();
    }

    pub(crate) fn stop(&mut self, id: u64) {
        self.members.get_mut(&id).expect("a member").node = None;
    }

    pub(crate) fn handle(&self, id: u64) -> NodeHandle {
        let node = self.members[&id].node.as_ref();
        node.expect("it is up").handle()
    }

    pub(crate) fn up(&self) -> Vec<u64> {
        let up = |(id, m): (&u64, &Member)| m.node.is_some().then_some(*id);
        self.members.iter().filter_map(up).collect()
    }

    /// Who leads and has committed something in its term, of these.
    pub(crate) fn leader_of(&self, among: &[u64]) -> u64 {
        eventually("a leader", || {
            let leads = |id: &&u64| {
                let status = self.handle(**id).status();
                status.is_some_and(|s| s.role == RoleName::Leader && s.last.term == s.term)
            };
            among.iter().find(leads).copied()
        })
    }

    pub(crate) fn leader(&self) -> u64 {
        self.leader_of(&self.up())
    }

    /// All that are up hold the same.
    pub(crate) fn agree(&self) {
        eventually("agreement", || {
            let up = self.up();
            let first = self.members[&up[0]].machine.content();
            let same = up
                .iter()
                .all(|id| self.members[id].machine.content() == first);
            same.then_some(())
        });
    }
}

/// Proposes through whoever serves until it is done.
pub(crate) fn put(cluster: &Cluster, at: u64, text: &str) -> Reply {
    eventually("a put", || {
        cluster.handle(at).propose_anywhere(text.to_owned()).ok()
    })
}
