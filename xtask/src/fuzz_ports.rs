//! `cargo xtask fuzz-ports`: garbage on the client port and on the replication port of a live primary.
//!
//! Each seed is one connection: random bytes, requests cut anywhere, huge lengths, a correct ZeroMQ greeting with rubbish
//! behind it, closed at any moment or left hanging. Meanwhile a well-behaved client measures its round trips. The process
//! must live, its memory must grow by less than 128 MiB, and that client's p99 should at most triple.

use crate::node::{Binaries, BinaryOptions, Node, Setup, Workspace};
use crate::resp::encode;
use crate::{Outcome, ctx};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Options of the garbage run.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    binaries: BinaryOptions,
    /// Connections with garbage, one per seed.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Most that resident memory may grow.
const GROWTH_MAX_KIB: u64 = 128 << 10;
/// Connections kept open behind the one in hand.
const HANGING: usize = 64;

/// Runs it as the command does.
pub fn run(options: &Options) -> Outcome {
    seeds(&options.binaries.find()?, options.seed, options.seeds)
}

/// Garbage of seeds `first..first + count`.
pub fn seeds(binaries: &Binaries, first: u64, count: u64) -> Outcome {
    let workspace = Workspace::new("fuzz")?;
    let outcome = flow(binaries, &workspace, first, count);
    workspace.finish(outcome)
}

fn flow(binaries: &Binaries, workspace: &Workspace, first: u64, count: u64) -> Outcome {
    let dir = workspace.path();
    let setup = Setup::primary(binaries, &dir.join("primary"), &dir.join("primary.out"));
    let mut node = setup.start()?;
    let replication: SocketAddr = ctx(
        setup.replication.trim_start_matches("tcp://").parse(),
        "replication address",
    )?;

    let calm = measured(&node, || {
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    })?;
    let before = node.status_kib("VmRSS")?;
    let began = Instant::now();
    let mut at = first;
    let busy = measured(&node, || {
        let mut hanging = VecDeque::new();
        for seed in first..first + count {
            at = seed;
            let mut rng = StdRng::seed_from_u64(seed);
            let on_replication = rng.random_ratio(1, 2);
            let addr = if on_replication {
                replication
            } else {
                setup.listen
            };
            let bytes = if on_replication {
                zmtp(&mut rng)
            } else {
                resp(&mut rng)
            };
            // A refused connection shows as a dead process below; a broken one is what garbage deserves.
            if let Ok(stream) = send(addr, &bytes, &mut rng) {
                hanging.push_back(stream);
            }
            let keep = if rng.random_ratio(1, 4) {
                HANGING
            } else {
                HANGING / 2
            };
            while hanging.len() > keep {
                hanging.pop_front();
            }
        }
        Ok(())
    })
    .map_err(|error| format!("seed {at}: {error}\n{}", node.tail()))?;
    let took = began.elapsed();
    if let Some(status) = node.exited()? {
        return Err(format!(
            "the primary ended: {status}, seeds {first}..{}\n{}",
            first + count,
            node.tail()
        ));
    }
    let after = node.status_kib("VmRSS")?;
    let peak = node.status_kib("VmHWM")?;
    let pong = ctx(node.client()?.line("PING"), "PING after the garbage")?;
    println!(
        "fuzz-ports: {count} seeds in {:.1} s; RSS {before} KiB before, {after} after, {peak} at most; p99 of another client {:.0} us calm, {:.0} us meanwhile ({:.1} times)",
        took.as_secs_f64(),
        calm.as_secs_f64() * 1e6,
        busy.as_secs_f64() * 1e6,
        busy.as_secs_f64() / calm.as_secs_f64().max(1e-9),
    );
    if pong.text() != "PONG" {
        return Err(format!("PING after the garbage answered {}", pong.text()));
    }
    if peak.saturating_sub(before) > GROWTH_MAX_KIB {
        return Err(format!(
            "memory grew by {} KiB; at most {GROWTH_MAX_KIB} are allowed",
            peak - before
        ));
    }
    let status = node.terminate(Duration::from_secs(30))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("ended with {status} at SIGTERM\n{}", node.tail()))
    }
}

/// The p99 of SET and GET on another connection while `run` runs.
fn measured(node: &Node, run: impl FnOnce() -> Outcome) -> Outcome<Duration> {
    let mut client = node.client()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| -> Outcome<Vec<Duration>> {
            let mut all = Vec::new();
            for n in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let began = Instant::now();
                let reply = ctx(
                    client.command(&[b"GET", b"fuzz:other"]),
                    "a well-behaved client was cut off",
                )?;
                all.push(began.elapsed());
                if matches!(reply, crate::resp::Reply::Error(_)) {
                    return Err(format!("a well-behaved client got {}", reply.text()));
                }
                if n % 16 == 0 {
                    ctx(client.command(&[b"SET", b"fuzz:other", b"value"]), "SET")?;
                }
                std::thread::sleep(Duration::from_micros(300));
            }
            Ok(all)
        });
        let ran = run();
        stop.store(true, Ordering::Relaxed);
        let mut all = other.join().map_err(|_| "the client panicked")??;
        ran?;
        all.sort();
        all.get(all.len() * 99 / 100)
            .copied()
            .ok_or_else(|| "nothing was measured".into())
    })
}

fn send(addr: SocketAddr, bytes: &[u8], rng: &mut StdRng) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5))?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    stream.set_nonblocking(false)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let part = if rng.random_ratio(1, 3) {
            rng.random_range(1..=rest.len())
        } else {
            rest.len()
        };
        stream.write_all(&rest[..part])?;
        rest = &rest[part..];
    }
    if rng.random_ratio(1, 2) {
        // Some read an answer, some never do.
        stream.set_read_timeout(Some(Duration::from_millis(1)))?;
        let _ = stream.read(&mut [0; 512]);
    }
    Ok(stream)
}

fn noise(rng: &mut StdRng, max: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..=max)];
    rng.fill(&mut bytes[..]);
    bytes
}

/// A length that may be anything.
fn length(rng: &mut StdRng) -> String {
    match rng.random_range(0..8) {
        0 => "2147483647".into(),
        1 => "9223372036854775807".into(),
        2 => "99999999999999999999999".into(),
        3 => "-1".into(),
        4 => "-2147483648".into(),
        5 => "536870912".into(),
        6 => "1048576".into(),
        _ => rng.random_range(0..70_000).to_string(),
    }
}

/// Garbage for the client port.
fn resp(rng: &mut StdRng) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..rng.random_range(1..6) {
        match rng.random_range(0..10) {
            0 => out.extend(noise(rng, 4096)),
            1 => out.extend(format!("*{}\r\n", length(rng)).bytes()),
            2 => out.extend(format!("*1\r\n${}\r\n", length(rng)).bytes()),
            3 => out.extend(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", length(rng)).bytes()),
            4 => {
                // An inline command without an end.
                let len = rng.random_range(0..100_000);
                out.extend(std::iter::repeat_n(b'x', len));
            }
            5 => out.extend(b"*1\r\n$4\r\nPING\r\n".repeat(rng.random_range(1..50))),
            6 => {
                let argv: Vec<Vec<u8>> = (0..rng.random_range(1..6))
                    .map(|_| noise(rng, 64))
                    .collect();
                encode(
                    &mut out,
                    &argv.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                );
            }
            7 => {
                // A command that exists, with arguments that make no sense.
                const NAMES: [&str; 16] = [
                    "SET",
                    "GET",
                    "SETRANGE",
                    "GETRANGE",
                    "EXPIRE",
                    "SCAN",
                    "HELLO",
                    "CLIENT",
                    "CONFIG",
                    "MSET",
                    "INCRBYFLOAT",
                    "COPY",
                    "RESTORE",
                    "OBJECT",
                    "WAIT",
                    "COMMAND",
                ];
                let name = NAMES[rng.random_range(0..NAMES.len())];
                let mut argv = vec![name.as_bytes().to_vec()];
                for _ in 0..rng.random_range(0..5) {
                    let arg = if rng.random_ratio(1, 2) {
                        noise(rng, 32)
                    } else {
                        length(rng).into_bytes()
                    };
                    argv.push(arg);
                }
                // A giant SETRANGE is a legal request; keep it out, it is not garbage.
                if name != "SETRANGE" {
                    encode(
                        &mut out,
                        &argv.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                    );
                }
            }
            8 => out.extend(b"*1\r\n".repeat(rng.random_range(1..2000))),
            _ => out.extend(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        }
    }
    if rng.random_ratio(1, 2) {
        out.truncate(rng.random_range(0..=out.len()));
    }
    out
}

/// Garbage for the replication port: ZMTP 3 in which something goes wrong sooner or later.
fn zmtp(rng: &mut StdRng) -> Vec<u8> {
    let mut out = Vec::new();
    if rng.random_ratio(1, 5) {
        out.extend(noise(rng, 4096));
        return out;
    }
    // Greeting: signature, version 3.0, mechanism NULL, not a server, filler.
    out.extend([0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0]);
    let mechanism: &[u8] = if rng.random_ratio(4, 5) {
        b"NULL"
    } else {
        b"CURVE"
    };
    out.extend_from_slice(mechanism);
    out.resize(64, 0);
    if rng.random_ratio(4, 5) {
        // READY with a socket type, and an identity that is random or long.
        let mut body = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity".to_vec();
        let identity = noise(rng, 255);
        body.extend((identity.len() as u32).to_be_bytes());
        body.extend(identity);
        if body.len() < 256 {
            out.extend([4, body.len() as u8]);
        } else {
            out.push(6);
            out.extend((body.len() as u64).to_be_bytes());
        }
        out.extend(body);
    }
    for _ in 0..rng.random_range(0..8) {
        match rng.random_range(0..6) {
            0 => {
                // A long message that never comes.
                out.push(2);
                let size =
                    [1_u64 << 62, u64::MAX, 1 << 40, 1 << 31, 64 << 20][rng.random_range(0..5)];
                out.extend(size.to_be_bytes());
                out.extend(noise(rng, 512));
            }
            1 => out.extend(noise(rng, 512)),
            2 => {
                let body = noise(rng, 5000);
                out.push(2);
                out.extend((body.len() as u64).to_be_bytes());
                out.extend(body);
            }
            _ => {
                // Short messages, of several parts at times: what the protocol's own decoder gets to see.
                let mut body = noise(rng, 200);
                if let Some(first) = body.first_mut()
                    && rng.random_ratio(3, 4)
                {
                    *first = rng.random_range(0..16);
                }
                out.extend([u8::from(rng.random_ratio(1, 4)), body.len() as u8]);
                out.extend(body);
            }
        }
    }
    if rng.random_ratio(1, 3) {
        out.truncate(rng.random_range(0..=out.len()));
    }
    out
}
