//! Bad peers on the replication port: the process lives, memory stays, others go on.

mod common;

use common::*;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// 2,000 seeds by default; `ESKER_SEEDS` for more.
#[test]
fn garbage_on_the_replication_port_harms_nobody() {
    let dir = TempDir::new();
    let node = Node::open(&dir.path("p"));
    let endpoint = node.primary.endpoint();
    let address = endpoint.strip_prefix("tcp://").unwrap().to_string();
    let good = replica(&dir.path("r"), &endpoint);
    let end = node.write("before", 100);
    caught_up(&good, end);
    let before = resident_kib();
    let first: u64 = std::env::var("ESKER_SEED").map_or(0, |s| s.parse().unwrap());
    let seeds: u64 = std::env::var("ESKER_SEEDS").map_or(2_000, |s| s.parse().unwrap());
    let context = zmq::Context::new();
    let dealer = context.socket(zmq::DEALER).unwrap();
    dealer.set_linger(0).unwrap();
    dealer.set_sndtimeo(1000).unwrap();
    dealer.set_maxmsgsize(1 << 20).unwrap();
    dealer.connect(&endpoint).unwrap();
    for seed in first..first + seeds {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes = vec![0; rng.random_range(0..2000)];
        rng.fill_bytes(&mut bytes);
        match rng.random_range(0..4) {
            // Not even ZMTP.
            0 => {
                let mut stream = TcpStream::connect(&address).unwrap();
                let _ = stream.write_all(&bytes);
            }
            // A greeting, then garbage: huge lengths among it.
            1 => {
                let mut stream = TcpStream::connect(&address).unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_millis(20)))
                    .unwrap();
                let mut greeting = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0];
                greeting.extend_from_slice(b"NULL");
                greeting.resize(64, 0);
                let _ = stream.write_all(&greeting);
                let _ = stream.read(&mut [0; 256]);
                let _ = stream.write_all(&[2, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
                let _ = stream.write_all(&bytes);
            }
            // Messages that are none of ours, in several parts or one.
            2 => {
                let _ = dealer.send(&bytes, 0);
            }
            _ => {
                let parts = rng.random_range(2..8);
                let _ = dealer.send_multipart(vec![&bytes; parts], 0);
            }
        }
        while dealer.recv_bytes(zmq::DONTWAIT).is_ok() {}
    }
    let end = node.write("after", 100);
    caught_up(&good, end);
    assert_equal(&node.store, &good.store().unwrap());
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 128 << 10, "grew by {grown} KiB");
    assert_eq!(node.primary.replicas().len(), 1, "nobody else became known");
    good.close().unwrap();
    node.close();
}
