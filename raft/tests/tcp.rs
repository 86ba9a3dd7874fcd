//! Nodes over plain TCP on loopback.

use esker_raft::core::NodeId;
use esker_raft::runtime::{About, StartError};
use esker_raft::transport::tcp::{PlainListener, TcpOptions};
use esker_raft::transport::{Content, Inbound, Packet, Sender, Transport};
use loopback::{Bound, agree, eventually, leader, start, three};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

#[path = "support/loopback.rs"]
mod loopback;

impl Bound for PlainListener {
    fn bind() -> Self {
        PlainListener::bind(TcpOptions::new("tcp://127.0.0.1:*")).expect("a free port")
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
    loopback::commits_and_takes_in_a_fourth::<PlainListener>();
}

/// E2, TP2: whoever reaches the port can send what they like; the cluster goes on.
#[test]
fn e2_garbage_on_the_port_is_ignored() {
    let (endpoints, members) = three::<PlainListener>(100);
    let at = leader(&members);
    let mut open = Vec::new();
    for endpoint in &endpoints {
        for bytes in [
            &b""[..],
            b"GET / HTTP/1.1\r\n\r\n",
            b"EKT1",
            b"EKT1\xff\xff\xff\xff",
            b"EKT1\x00\x00\x00\x03",
            b"EKT1\x08\x00\x00\x00EKC1\0\0\0\0",
        ] {
            let raw = endpoint.trim_start_matches("tcp://");
            let mut stream = TcpStream::connect(raw).unwrap();
            stream.write_all(bytes).unwrap();
            open.push(stream);
        }
    }
    for n in 0..50 {
        members[at].node.handle().propose(format!("a={n}")).unwrap();
    }
    agree(&members);
    // A length that may not be, and a packet that is none, end their connections.
    for at in [1, 3, 5] {
        let stream = &mut open[at];
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(rest, b"EKT1"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn a_member_that_restarts_on_its_port_is_found_again() {
    let (endpoints, mut members) = three::<PlainListener>(100);
    let at = leader(&members);
    members[at].node.handle().propose("a=1").unwrap();
    let gone = (at + 1) % 3;
    members[gone].node.close();
    members[at].node.handle().propose("a=2").unwrap();
    let options = TcpOptions::new(&endpoints[gone]);
    let listener = eventually("the port", || PlainListener::bind(options.clone()).ok());
    // With an empty disk under another id: what counts here is who reaches whom.
    members[gone] = start(4, listener, None, 100);
    let address = endpoints[gone].clone();
    let handle = members[at].node.handle();
    eventually("removed", || handle.remove(NodeId(gone as u64 + 1)).ok());
    eventually("added", || {
        handle.add_voter(NodeId(4), &About::at(&address, "")).ok()
    });
    handle.propose("a=3").unwrap();
    agree(&members);
}

fn packet(to: u64, bytes: usize) -> Packet {
    Packet {
        from: Sender {
            cluster: 5,
            group: 1,
            node: NodeId(1),
            disk: 1,
            epoch: 1,
        },
        to: NodeId(to),
        content: Content::Forward {
            id: 1,
            request: vec![7; bytes].into(),
        },
    }
}

/// TP1: packets for one who does not read are kept up to a bound, then lost; what was kept arrives whole once it reads.
#[test]
fn a_peer_that_does_not_read_holds_nobody_and_what_was_kept_arrives() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = TcpOptions::new("tcp://127.0.0.1:*");
    options.queue_bytes_max = 20 << 20;
    let me = packet(2, 0).from;
    let sender = PlainListener::bind(options).unwrap();
    let sender = sender.start(me, Arc::new(|_| {})).unwrap();
    let address = format!("tcp://{}", silent.local_addr().unwrap());
    sender.members(&BTreeMap::from([(NodeId(2), address)]));
    let (mut stream, _) = silent.accept().unwrap();
    let mut magic = [0; 4];
    stream.read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"EKT1");
    for _ in 0..100 {
        sender.send(packet(2, 1 << 20));
    }
    // What arrives is some of them, each whole: a length, and so many bytes that are a packet.
    let mut whole = 0;
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    loop {
        let mut len = [0; 4];
        if stream.read_exact(&mut len).is_err() {
            break;
        }
        let mut bytes = vec![0; u32::from_le_bytes(len) as usize];
        stream.read_exact(&mut bytes).unwrap();
        let arrived = esker_raft::transport::wire::decode(bytes.into()).unwrap();
        assert_eq!(arrived, packet(2, 1 << 20));
        whole += 1;
    }
    assert!((19..100).contains(&whole), "{whole}");
    sender.close();
    sender.close();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed");
}

/// R6.
#[test]
fn r6_nothing_listens_beyond_loopback_unless_told() {
    let mut options = TcpOptions::new("tcp://0.0.0.0:*");
    let error = PlainListener::bind(options.clone()).err().unwrap();
    assert!(error.to_string().contains("allow plaintext"), "{error}");
    options.allow_remote_plaintext = true;
    assert!(PlainListener::bind(options).is_ok());
    for bad in [
        "127.0.0.1:1",
        "tcp://127.0.0.1",
        "tcp://:1",
        "tcp://a:99999",
        "",
    ] {
        assert!(PlainListener::bind(TcpOptions::new(bad)).is_err(), "{bad}");
    }
}

#[test]
fn a_node_whose_messages_are_longer_than_the_transport_takes_does_not_start() {
    loopback::refuses_what_it_cannot_send([(); 3].map(|()| {
        let mut options = TcpOptions::new("tcp://127.0.0.1:*");
        options.message_bytes_max = 1 << 20;
        PlainListener::bind(options).expect("a free port")
    }));
}
