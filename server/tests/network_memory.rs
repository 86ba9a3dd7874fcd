//! What clients may make the server hold: each test looks at the memory of the whole process, so they run one
//! at a time and apart from the others.

use bare::{connect, read_exactly, start};
use esker_server::NetLimits;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

#[path = "support/bare.rs"]
mod bare;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn seeds(default: u64) -> u64 {
    std::env::var("ESKER_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 4096
}

#[test]
fn a_client_that_does_not_read_is_held_back_and_loses_nothing() {
    let _alone = ONE_AT_A_TIME.lock();
    let limits = NetLimits {
        output_soft: 64 << 10,
        ..NetLimits::default()
    };
    let server = start(limits, 1);
    let mut client = connect(&server);
    let value = vec![b'v'; 10_000];
    let mut request = format!("*2\r\n$4\r\nECHO\r\n${}\r\n", value.len()).into_bytes();
    request.extend_from_slice(&value);
    request.extend_from_slice(b"\r\n");
    let mut writer = client.try_clone().unwrap();
    let before = resident();
    let sender = std::thread::spawn(move || {
        for _ in 0..4000 {
            writer.write_all(&request).unwrap();
        }
    });
    // Nobody reads for a while: 40 MB were asked for, the server must not hold them.
    std::thread::sleep(Duration::from_millis(500));
    assert!(resident() < before + (32 << 20), "replies pile up");
    let mut reply = format!("${}\r\n", value.len()).into_bytes();
    reply.extend_from_slice(&value);
    reply.extend_from_slice(b"\r\n");
    for _ in 0..4000 {
        read_exactly(&mut client, &reply);
    }
    sender.join().unwrap();
}

#[test]
fn garbage_neither_ends_the_server_nor_fills_its_memory() {
    let _alone = ONE_AT_A_TIME.lock();
    let count = seeds(1000);
    let first: u64 = std::env::var("ESKER_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let server = start(NetLimits::default(), 1);
    let mut witness = connect(&server);
    let before = resident();
    for seed in first..first + count {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut client = connect(&server);
        let mut bytes = Vec::new();
        for _ in 0..rng.random_range(1..6) {
            match rng.random_range(0..6) {
                0 => {
                    let mut noise = vec![0; rng.random_range(1..2000)];
                    rng.fill_bytes(&mut noise);
                    bytes.extend_from_slice(&noise);
                }
                1 => bytes.extend_from_slice(
                    format!("*{}\r\n", rng.random_range(-5i64..2_000_000)).as_bytes(),
                ),
                2 => bytes.extend_from_slice(
                    format!("*3\r\n${}\r\n", rng.random_range(-5i64..90_000_000)).as_bytes(),
                ),
                3 => bytes.extend_from_slice(b"*2\r\n$4\r\nPING\r\n$2\r\nab"),
                4 => bytes.extend_from_slice(b"PING \"\\x4"),
                _ => bytes.extend_from_slice(b"*1\r\n$4\r\nPING\r\n"),
            }
        }
        // The server may have closed already.
        let _ = client.write_all(&bytes);
        if seed % 50 == 0 {
            witness.write_all(b"PING\r\n").unwrap();
            read_exactly(&mut witness, b"+PONG\r\n");
        }
    }
    witness.write_all(b"PING\r\n").unwrap();
    read_exactly(&mut witness, b"+PONG\r\n");
    let grown = resident().saturating_sub(before);
    assert!(
        grown < 128 << 20,
        "seeds from {first}: grew by {grown} bytes"
    );
}

#[test]
fn many_announced_values_hold_no_memory_before_they_come() {
    let _alone = ONE_AT_A_TIME.lock();
    let server = start(NetLimits::default(), 1);
    let before = resident();
    let clients: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut client = connect(&server);
            client.write_all(b"*1048576\r\n$60000000\r\nabc").unwrap();
            client
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    assert!(resident() < before + (64 << 20));
    drop(clients);
}
