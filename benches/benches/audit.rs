//! The audit trail beside the raw log and a plain file of JSON lines: `cargo bench -p esker-benches --bench audit [-- --quick]`.
//!
//! What is measured takes short turns, each round in another order, so that whatever the disk does meanwhile hits each alike; medians and their ratios are
//! printed. The raw log gets the same bytes as the trail's entries; the file is written and `fdatasync`ed under a lock, as an application without a library does it.
#![allow(
    clippy::print_stdout,
    reason = "it is a command: printing is what it does"
)]

use esker_audit::{
    Key, Keyring, OnFailure, Options, Policies, Policy, Record, Severity, Trail, VerifyOptions,
    Write, verify,
};
use esker_wal::{Create, Log, LogId, LogOptions, Lsn, NodeId};
use parking_lot::Mutex;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn record(n: u64) -> Record {
    Record::new("data.write")
        .severity(Severity::Notice)
        .actor("1017", "payments")
        .origin("10.1.2.3:40112", "redis-rs 0.27")
        .resource("key", format!("account:{n}"))
        .request(n.to_string())
        .durability("synced")
        .success()
}

fn keys() -> Keyring {
    Keyring::of(Key::from_secret([7; 32]))
}

fn policy(write: Write) -> Policies {
    Policies::all(Policy {
        write,
        on_failure: OnFailure::Block(Duration::from_secs(30)),
    })
}

/// Runs `one` in `threads` threads for so long; calls per second.
fn turn(threads: usize, takes: Duration, one: impl Fn(u64) + Sync) -> f64 {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (one, stop, done) = (&one, &stop, &done);
            scope.spawn(move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    one((thread as u64) << 32 | n);
                    n += 1;
                }
                done.fetch_add(n, Ordering::Relaxed);
            });
        }
        std::thread::sleep(takes);
        stop.store(true, Ordering::Relaxed);
    });
    done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// What writes a record and syncs it.
type Writes<'a> = Box<dyn Fn(u64) + Sync + 'a>;

fn synced(dir: &Path, rounds: usize, takes: Duration) {
    let trail = Trail::open(
        &dir.join("trail"),
        keys(),
        Options {
            policies: policy(Write::Sync),
            ..Options::default()
        },
    );
    let trail = trail.expect("a trail").0;
    let before = trail.stats();
    for n in 0..100 {
        trail.record(record(n)).expect("a record");
    }
    let after = trail.stats();
    // A frame's header is not the entry's.
    let bytes = (after.bytes - before.bytes) / (after.records - before.records) - 40;
    let log = Log::open(
        &dir.join("log"),
        LogOptions {
            create: Some(Create {
                log: LogId(1),
                node: NodeId(2),
                base: Lsn::ZERO,
            }),
            segment_bytes: 8 << 20,
            ..LogOptions::default()
        },
    );
    let log = log.expect("a log").0;
    let payload = vec![0x5a; bytes as usize];
    let file = Mutex::new(File::create(dir.join("lines.json")).expect("a file"));
    let line = format!("{}\n", "x".repeat(bytes as usize - 1));
    let all: [(&str, Writes<'_>); 3] = [
        (
            "raw log",
            Box::new(|_| {
                let end = log.append(&[&payload]).expect("an append").end;
                log.sync_up_to(end).expect("a sync");
                log.release(end);
            }),
        ),
        (
            "audit trail",
            Box::new(|n| {
                trail.record(record(n)).expect("a record");
            }),
        ),
        (
            "JSON lines, fdatasync",
            Box::new(|_| {
                let mut file = file.lock();
                file.write_all(line.as_bytes()).expect("a write");
                file.sync_data().expect("a sync");
            }),
        ),
    ];
    for threads in [1, 64] {
        let mut seen = [const { Vec::new() }; 3];
        for round in 0..rounds {
            for at in 0..3 {
                let at = (at + round) % 3;
                seen[at].push(turn(threads, takes, &all[at].1));
            }
        }
        let medians = seen.map(median);
        println!("\nsynced records of {bytes} bytes a second, {threads} writers");
        for ((name, _), rate) in all.iter().zip(medians) {
            println!(
                "  {name:24} {rate:10.0}   {:5.2} of the raw log's",
                rate / medians[0]
            );
        }
    }
}

fn asynchronous(dir: &Path) {
    let options = Options {
        policies: policy(Write::Async),
        ..Options::default()
    };
    let trail = Trail::open(&dir.join("async"), keys(), options)
        .expect("a trail")
        .0;
    let mut nanos = Vec::new();
    for burst in 0..200 {
        for n in 0..1000 {
            let record = record(burst * 1000 + n);
            let begun = Instant::now();
            trail.record(record).expect("a record");
            nanos.push(begun.elapsed().as_nanos() as f64);
        }
        while trail.stats().queued > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    nanos.sort_by(f64::total_cmp);
    let of = |part: f64| nanos[(nanos.len() as f64 * part) as usize];
    println!(
        "\nasynchronous, cost to the caller: p50 {:.0} ns, p99 {:.0} ns",
        of(0.5),
        of(0.99)
    );
}

fn verified(dir: &Path, mib: u64) {
    let options = Options {
        policies: policy(Write::Interval),
        rotate_bytes: 16 << 20,
        ..Options::default()
    };
    let at = dir.join("verified");
    let trail = Trail::open(&at, keys(), options).expect("a trail").0;
    let mut n = 0;
    while trail.stats().bytes < mib << 20 {
        for _ in 0..10_000 {
            trail.record(record(n)).expect("a record");
            n += 1;
        }
    }
    trail.rotate().expect("a closed file");
    let stored = trail.stats().closed_bytes;
    trail.close().expect("closed");
    for threads in [1, 2] {
        let mut rates = Vec::new();
        for _ in 0..3 {
            let options = VerifyOptions {
                threads,
                ..VerifyOptions::default()
            };
            let begun = Instant::now();
            let report = verify(&at, &keys(), &options).expect("verified");
            assert!(report.is_whole(), "{:?}", report.findings);
            rates.push(report.bytes as f64 / 1e6 / begun.elapsed().as_secs_f64());
        }
        println!(
            "\nverify, {threads} threads: {:.0} MB of records a second ({} MB stored as {} MB)",
            median(rates),
            mib,
            stored >> 20
        );
    }
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick" || arg == "--test");
    let (rounds, takes, mib) = match quick {
        true => (3, Duration::from_millis(100), 32),
        false => (9, Duration::from_millis(400), 512),
    };
    // On the disk that holds the build, not in memory, and never in the sources: a run that is killed leaves it.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    synced(dir.path(), rounds, takes);
    asynchronous(dir.path());
    verified(dir.path(), mib);
}
