//! Nodes over ZeroMQ on loopback.
#![cfg(feature = "zmq")]

use bytes::Bytes;
use esker_raft::core::{Membership, NodeId, RoleName};
use esker_raft::log::MemoryDisk;
use esker_raft::runtime::*;
use esker_raft::transport::Transport;
use esker_raft::transport::zmq::{Keys, ZmqListener, ZmqOptions, new_keys};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn eventually<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = get() {
            return value;
        }
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Member {
    node: Node,
    machine: MemoryMachine,
}

fn start(id: u64, listener: ZmqListener, first: Option<Membership>, kept: u64) -> Member {
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
    let (log, recovered) = MemoryDisk::new().open(1 << 20);
    let machine = MemoryMachine::new();
    let node = Node::start(
        config,
        Box::new(log),
        recovered,
        Box::new(machine.clone()),
        |me, inbound| {
            let transport: Arc<dyn Transport> = listener.start(me, inbound)?;
            Ok(transport)
        },
    );
    let node = node.expect("it starts");
    Member { node, machine }
}

fn bind(keys: Option<Keys>) -> ZmqListener {
    let mut options = ZmqOptions::new("tcp://127.0.0.1:*");
    options.keys = keys;
    ZmqListener::bind(options).expect("a free port")
}

fn membership(listeners: &[ZmqListener]) -> Membership {
    let ids = (1..=listeners.len() as u64).map(NodeId);
    let mut first = Membership::of(ids.clone());
    for (id, listener) in ids.zip(listeners) {
        let about = About::at(listener.endpoint(), "");
        first.about.insert(id, about.encode());
    }
    first
}

fn leader(members: &[Member]) -> usize {
    eventually("a leader", || {
        members.iter().position(|m| {
            let status = m.node.handle().status();
            status.is_some_and(|s| s.role == RoleName::Leader && s.last.term == s.term)
        })
    })
}

fn agree(members: &[&Member]) {
    eventually("agreement", || {
        let first = members[0].machine.content();
        let same = members.iter().all(|m| m.machine.content() == first);
        same.then_some(())
    });
}

#[test]
fn three_nodes_commit_and_a_fourth_that_knows_nobody_is_found_by_a_snapshot() {
    let listeners: Vec<_> = (0..3).map(|_| bind(None)).collect();
    let first = membership(&listeners);
    let members: Vec<_> = (1..)
        .zip(listeners)
        .map(|(id, listener)| start(id, listener, Some(first.clone()), 0))
        .collect();
    let at = leader(&members);
    let handle = members[at].node.handle();
    let big = "x".repeat(300_000);
    for n in 0..10 {
        handle.propose(format!("k{n}={big}")).unwrap();
    }
    agree(&members.iter().collect::<Vec<_>>());
    handle.checkpoint().unwrap();
    eventually("compaction", || {
        (handle.status()?.base.index.0 >= 10).then_some(())
    });
    let listener = bind(None);
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

/// E2: whoever reaches the port can send what they like; the cluster goes on.
#[test]
fn e2_garbage_on_the_port_is_ignored() {
    let listeners: Vec<_> = (0..3).map(|_| bind(None)).collect();
    let endpoints: Vec<_> = listeners.iter().map(|l| l.endpoint().to_owned()).collect();
    let first = membership(&listeners);
    let members: Vec<_> = (1..)
        .zip(listeners)
        .map(|(id, listener)| start(id, listener, Some(first.clone()), 100))
        .collect();
    let at = leader(&members);
    let context = zmq::Context::new();
    for endpoint in &endpoints {
        let raw = endpoint.trim_start_matches("tcp://");
        let mut stream = std::net::TcpStream::connect(raw).unwrap();
        let _ = stream.write_all(&[0xff; 1000]);
        let socket = context.socket(zmq::DEALER).unwrap();
        socket.set_linger(100).unwrap();
        socket.connect(endpoint).unwrap();
        for len in [0, 1, 8, 57, 100, 5000] {
            socket.send(vec![0x45; len], 0).unwrap();
            socket
                .send_multipart([vec![1; len], vec![2; len]], 0)
                .unwrap();
        }
    }
    for n in 0..50 {
        members[at].node.handle().propose(format!("a={n}")).unwrap();
    }
    agree(&members.iter().collect::<Vec<_>>());
}

/// R6.
#[test]
fn r6_with_keys_members_speak_and_others_are_turned_away() {
    let pairs: Vec<_> = (0..3).map(|_| new_keys().expect("CURVE")).collect();
    let public: BTreeMap<_, _> = (1..)
        .map(NodeId)
        .zip(pairs.iter().map(|(public, _)| public.clone()))
        .collect();
    let keys = |at: usize| Keys {
        public: pairs[at].0.clone(),
        secret: pairs[at].1.clone(),
        members: public.clone(),
    };
    let listeners: Vec<_> = (0..3).map(|at| bind(Some(keys(at)))).collect();
    let first = membership(&listeners);
    let endpoint = listeners[0].endpoint().to_owned();
    let members: Vec<_> = (1..)
        .zip(listeners)
        .map(|(id, listener)| start(id, listener, Some(first.clone()), 100))
        .collect();
    let at = leader(&members);
    members[at].node.handle().propose("a=1").unwrap();
    agree(&members.iter().collect::<Vec<_>>());
    // A stranger with a key of its own is never connected: nothing it sends is taken.
    let (stranger, secret) = new_keys().unwrap();
    let context = zmq::Context::new();
    let socket = context.socket(zmq::DEALER).unwrap();
    let z85 = |text: &str| zmq::z85_decode(text).unwrap();
    socket.set_linger(0).unwrap();
    socket.set_immediate(true).unwrap();
    socket.set_curve_serverkey(&z85(&pairs[0].0)).unwrap();
    socket.set_curve_publickey(&z85(&stranger)).unwrap();
    socket.set_curve_secretkey(&z85(&secret)).unwrap();
    socket.connect(&endpoint).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(socket.send("hello", zmq::DONTWAIT).is_err());
}
