//! The network side without a store: order, bounds and fairness.

use bare::{connect, read_exactly, start};
use esker_server::NetLimits;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[path = "support/bare.rs"]
mod bare;

#[test]
fn pipelined_requests_are_answered_in_order_on_any_number_of_threads() {
    for io_threads in [1, 3] {
        let server = start(NetLimits::default(), io_threads);
        let mut clients: Vec<TcpStream> = (0..8).map(|_| connect(&server)).collect();
        for (at, client) in clients.iter_mut().enumerate() {
            let mut request = Vec::new();
            for i in 0..2000 {
                let text = format!("{at}-{i}");
                request.extend_from_slice(
                    format!("*2\r\n$4\r\nPING\r\n${}\r\n{text}\r\n", text.len()).as_bytes(),
                );
            }
            client.write_all(&request).unwrap();
        }
        for (at, client) in clients.iter_mut().enumerate() {
            for i in 0..2000 {
                let text = format!("{at}-{i}");
                read_exactly(client, format!("${}\r\n{text}\r\n", text.len()).as_bytes());
            }
        }
    }
}

#[test]
fn a_request_in_single_bytes_and_one_in_one_piece_get_the_same_answer() {
    let server = start(NetLimits::default(), 1);
    let mut client = connect(&server);
    client.set_nodelay(true).unwrap();
    for byte in b"*2\r\n$4\r\nECHO\r\n$5\r\nhello\r\n" {
        client.write_all(&[*byte]).unwrap();
    }
    read_exactly(&mut client, b"$5\r\nhello\r\n");
    client.write_all(b"ECHO hello\r\n").unwrap();
    read_exactly(&mut client, b"$5\r\nhello\r\n");
}

/// The request behind the one that runs is looked at ahead: whatever of it is there.
#[test]
fn a_pipeline_cut_anywhere_is_answered_as_a_whole_one() {
    let server = start(NetLimits::default(), 1);
    let requests: [(&[u8], &[u8]); 7] = [
        (b"*2\r\n$4\r\nPING\r\n$3\r\none\r\n", b"$3\r\none\r\n"),
        (b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", b"$0\r\n\r\n"),
        (b"\r\n", b""),
        (b"ping 'a b'\r\n", b"$3\r\na b\r\n"),
        (b"*0\r\n", b""),
        (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
        (
            b"*2\r\n$4\r\nPING\r\n$12\r\n0123456789\r\n\r\n",
            b"$12\r\n0123456789\r\n\r\n",
        ),
    ];
    let all: Vec<u8> = requests
        .iter()
        .flat_map(|(request, _)| request.to_vec())
        .collect();
    let mut client = connect(&server);
    client.set_nodelay(true).unwrap();
    for cut in 0..all.len() {
        client.write_all(&all[..cut]).unwrap();
        let mut end = 0;
        let mut sent = false;
        for (request, answer) in requests {
            end += request.len();
            // What is whole is answered before the rest is there.
            if end > cut && !sent {
                client.write_all(&all[cut..]).unwrap();
                sent = true;
            }
            read_exactly(&mut client, answer);
        }
    }
}

#[test]
fn a_client_that_half_closes_still_gets_its_answers() {
    let server = start(NetLimits::default(), 1);
    let mut client = connect(&server);
    client.write_all(b"PING\r\nPING a\r\n").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"+PONG\r\n$1\r\na\r\n");
}

#[test]
fn a_protocol_error_is_told_behind_the_answers_before_it_and_closes() {
    let server = start(NetLimits::default(), 1);
    let mut client = connect(&server);
    client.write_all(b"PING\r\n*1\r\n:4\r\nPING\r\n").unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&all),
        "+PONG\r\n-ERR Protocol error: expected '$', got ':'\r\n"
    );
}

#[test]
fn clients_above_the_limit_are_told_so_and_places_come_back() {
    let limits = NetLimits {
        clients_max: 2,
        ..NetLimits::default()
    };
    let server = start(limits, 1);
    let mut first = connect(&server);
    let mut second = connect(&server);
    for client in [&mut first, &mut second] {
        client.write_all(b"PING\r\n").unwrap();
        read_exactly(client, b"+PONG\r\n");
    }
    let mut third = connect(&server);
    read_exactly(&mut third, b"-ERR max number of clients reached\r\n");
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut again = connect(&server);
        again.write_all(b"PING\r\n").unwrap();
        let mut byte = [0];
        if again.read_exact(&mut byte).is_ok() && &byte == b"+" {
            break;
        }
        assert!(Instant::now() < deadline, "the place never came back");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn one_busy_client_does_not_starve_another() {
    let server = start(NetLimits::default(), 1);
    let mut busy = connect(&server);
    let mut writer = busy.try_clone().unwrap();
    let flood = std::thread::spawn(move || {
        let block = b"PING\r\n".repeat(20_000);
        for _ in 0..20 {
            if writer.write_all(&block).is_err() {
                return;
            }
        }
    });
    let drain = std::thread::spawn(move || {
        let mut left = 20 * 20_000 * 7;
        let mut buf = vec![0; 64 << 10];
        while left > 0 {
            left -= busy.read(&mut buf).unwrap();
        }
    });
    let mut quiet = connect(&server);
    let mut worst = Duration::ZERO;
    for _ in 0..50 {
        let start = Instant::now();
        quiet.write_all(b"PING\r\n").unwrap();
        read_exactly(&mut quiet, b"+PONG\r\n");
        worst = worst.max(start.elapsed());
    }
    flood.join().unwrap();
    drain.join().unwrap();
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}
