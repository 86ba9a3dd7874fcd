//! Nodes over ZeroMQ on loopback.
#![cfg(feature = "zmq")]

use esker_raft::core::NodeId;
use esker_raft::runtime::StartError;
use esker_raft::transport::zmq::{Keys, ZmqListener, ZmqOptions, new_keys};
use esker_raft::transport::{Inbound, Sender, Transport};
use loopback::{Bound, agree, cluster, leader, three};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

#[path = "support/loopback.rs"]
mod loopback;

fn bind(keys: Option<Keys>) -> ZmqListener {
    let mut options = ZmqOptions::new("tcp://127.0.0.1:*");
    options.keys = keys;
    ZmqListener::bind(options).expect("a free port")
}

impl Bound for ZmqListener {
    fn bind() -> Self {
        bind(None)
    }

    fn endpoint(&self) -> &str {
        self.endpoint()
    }

    fn start(self, me: Sender, inbound: Inbound) -> Result<Arc<dyn Transport>, StartError> {
        Ok(self.start(me, inbound)?)
    }
}

#[test]
fn three_nodes_commit_and_a_fourth_that_knows_nobody_is_found_by_a_snapshot() {
    loopback::commits_and_takes_in_a_fourth::<ZmqListener>();
}

/// E2: whoever reaches the port can send what they like; the cluster goes on.
#[test]
fn e2_garbage_on_the_port_is_ignored() {
    let (endpoints, members) = three::<ZmqListener>(100);
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
    agree(&members);
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
    let listeners = (0..3).map(|at| bind(Some(keys(at)))).collect();
    let (endpoints, members) = cluster(listeners, 100);
    let at = leader(&members);
    members[at].node.handle().propose("a=1").unwrap();
    agree(&members);
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
    socket.connect(&endpoints[0]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(socket.send("hello", zmq::DONTWAIT).is_err());
}

#[test]
fn a_node_whose_messages_are_longer_than_the_transport_takes_does_not_start() {
    loopback::refuses_what_it_cannot_send([(); 3].map(|()| {
        let mut options = ZmqOptions::new("tcp://127.0.0.1:*");
        options.queue_bytes_max = 1 << 20;
        ZmqListener::bind(options).expect("a free port")
    }));
}
