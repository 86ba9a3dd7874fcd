//! Whole nodes over a transport on loopback, logs and state in memory; and what every such transport has to do.

use bytes::Bytes;
use esker_raft::core::{Membership, NodeId, RoleName};
use esker_raft::log::MemoryDisk;
use esker_raft::runtime::*;
use esker_raft::transport::{Inbound, Sender, Transport};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) fn eventually<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = get() {
            return value;
        }
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A transport that is bound to a port and does not run yet.
pub(crate) trait Bound {
    /// To a free port.
    fn bind() -> Self;
    fn endpoint(&self) -> &str;
    fn start(self, me: Sender, inbound: Inbound) -> Result<Arc<dyn Transport>, StartError>;
}

pub(crate) struct Member {
    pub(crate) node: Node,
    machine: MemoryMachine,
}

/// A node with an empty disk, which keeps so many entries for its peers.
pub(crate) fn start(id: u64, listener: impl Bound, first: Option<Membership>, kept: u64) -> Member {
    let config = NodeConfig {
        cluster: 5,
        group: 1,
        node: NodeId(id),
        first,
        options: NodeOptions {
            tick: Duration::from_millis(15),
            request_timeout: Duration::from_secs(5),
            log_entries_kept: kept,
            compact_entries_min: 1,
            ..NodeOptions::default()
        },
    };
    let machine = MemoryMachine::new();
    let node = node(config, machine.clone(), listener).expect("it starts");
    Member { node, machine }
}

fn node(
    config: NodeConfig,
    machine: MemoryMachine,
    listener: impl Bound,
) -> Result<Node, StartError> {
    let (log, recovered) = MemoryDisk::new().open(1 << 20);
    let connect = |me, inbound| listener.start(me, inbound);
    Node::start(config, Box::new(log), recovered, Box::new(machine), connect)
}

/// One proposal that does not go through the transport would stop every node. `short` takes messages of 1 MiB.
pub(crate) fn refuses_what_it_cannot_send(short: [impl Bound; 3]) {
    let [command, append, fits] = short;
    let start = |command_bytes_max, append_bytes_max, listener| {
        let mut options = NodeOptions {
            command_bytes_max,
            ..NodeOptions::default()
        };
        options.core.append_bytes_max = append_bytes_max;
        let config = NodeConfig {
            cluster: 5,
            group: 1,
            node: NodeId(1),
            first: None,
            options,
        };
        match node(config, MemoryMachine::new(), listener) {
            Ok(_) => None,
            Err(StartError::Option(bad)) => Some(bad.option),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(start(1 << 20, 1 << 16, command), Some("command_bytes_max"));
    assert_eq!(start(1 << 16, 1 << 20, append), Some("append_bytes_max"));
    assert_eq!(start(1 << 16, 1 << 16, fits), None);
}

/// Where these listen, and a cluster of a node at each.
pub(crate) fn cluster(listeners: Vec<impl Bound>, kept: u64) -> (Vec<String>, Vec<Member>) {
    let ids = (1..=listeners.len() as u64).map(NodeId);
    let mut first = Membership::of(ids.clone());
    for (id, listener) in ids.zip(&listeners) {
        let about = About::at(listener.endpoint(), "");
        first.about.insert(id, about.encode());
    }
    let endpoints = listeners.iter().map(|l| l.endpoint().to_owned()).collect();
    let members = (1..)
        .zip(listeners)
        .map(|(id, listener)| start(id, listener, Some(first.clone()), kept))
        .collect();
    (endpoints, members)
}

/// Three on ports of their own.
pub(crate) fn three<B: Bound>(kept: u64) -> (Vec<String>, Vec<Member>) {
    cluster((0..3).map(|_| B::bind()).collect(), kept)
}

pub(crate) fn leader(members: &[Member]) -> usize {
    eventually("a leader", || {
        members.iter().position(|m| {
            let status = m.node.handle().status();
            status.is_some_and(|s| s.role == RoleName::Leader && s.last.term == s.term)
        })
    })
}

pub(crate) fn agree(members: &[Member]) {
    eventually("agreement", || {
        let first = members[0].machine.content();
        let same = members.iter().all(|m| m.machine.content() == first);
        same.then_some(())
    });
}

/// Three nodes commit; a fourth that knows nobody is found, fed by a snapshot, and takes part.
pub(crate) fn commits_and_takes_in_a_fourth<B: Bound>() {
    let (_, members) = three::<B>(0);
    let at = leader(&members);
    let handle = members[at].node.handle();
    let big = "x".repeat(300_000);
    for n in 0..10 {
        handle.propose(format!("k{n}={big}")).unwrap();
    }
    agree(&members);
    handle.checkpoint().unwrap();
    eventually("compaction", || {
        (handle.status()?.base.index.0 >= 10).then_some(())
    });
    let listener = B::bind();
    let address = listener.endpoint().to_owned();
    let fourth = start(4, listener, None, 0);
    eventually("a learner", || {
        handle.add_voter(NodeId(4), &About::at(&address, "")).ok()
    });
    eventually("a voter", || {
        let membership = handle.status()?.membership;
        (membership.voters.contains(&NodeId(4)) && !membership.is_joint()).then_some(())
    });
    let fourth_handle = fourth.node.handle();
    eventually("a write through it", || {
        fourth_handle.propose_anywhere("last=1").ok()
    });
    eventually("a read", || {
        fourth_handle.read_barrier(Duration::from_secs(5)).ok()
    });
    assert_eq!(fourth.machine.get(b"last"), Some(Bytes::from_static(b"1")));
    assert_eq!(fourth.machine.get(b"k9").unwrap().len(), big.len());
}
