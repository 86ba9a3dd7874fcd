//! How fast is a burst of buffered appends, a sustained stream of them, and the hand-over to a tailing reader?
//!
//! `cargo run --release -p esker-wal --example append_burst -- DIR [burst|stream|tail|all] [SEGMENTS_AHEAD]`
#![allow(
    clippy::print_stdout,
    reason = "a program that prints what it measured"
)]

use esker_wal::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn open(dir: &Path, ahead: usize, unsynced: u64) -> Log {
    let _ = std::fs::remove_dir_all(dir);
    let options = LogOptions {
        create: Some(Create {
            log: LogId::random(),
            node: NodeId::random(),
            base: Lsn::ZERO,
        }),
        sync_policy: SyncPolicy::Manual,
        segments_ahead: ahead,
        unsynced_bytes_max: unsynced,
        ..LogOptions::default()
    };
    let (log, _) = Log::open(dir, options).expect("the log opens");
    while log.stats().segments_ready < ahead as u64 {
        std::thread::sleep(Duration::from_millis(5));
    }
    // What was written while they were made goes to the disk first.
    std::thread::sleep(Duration::from_millis(300));
    log
}

/// Nanoseconds per append of each thread, and GB/s of payload of all.
fn burst(dir: &Path, ahead: usize, bytes: usize, threads: usize) -> (f64, f64) {
    let log = open(dir, ahead, 4 << 30);
    let count = (512 << 20) / frame::frame_len(bytes) / threads;
    let payload = vec![7; bytes];
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let appends = || {
                for _ in 0..count {
                    log.append(&[&payload]).expect("an append");
                }
            };
            // By its name a profiler tells it from the log's own threads.
            let named = std::thread::Builder::new().name("appender".into());
            named.spawn_scoped(scope, appends).expect("a thread");
        }
    });
    let took = begun.elapsed();
    log.close().expect("the log closes");
    let each = took.as_nanos() as f64 / count as f64;
    (
        each,
        (count * threads * bytes) as f64 / took.as_nanos() as f64,
    )
}

fn bursts(dir: &Path, ahead: usize) {
    for bytes in [128, 256, 4096] {
        for threads in [1, 2] {
            let mut runs: Vec<_> = (0..3).map(|_| burst(dir, ahead, bytes, threads)).collect();
            runs.sort_by(|a, b| a.0.total_cmp(&b.0));
            println!(
                "burst of 512 MiB, {bytes:>4} bytes, {threads} threads: {:>5.0} ns each ({:.0} to {:.0}), {:.2} GB/s",
                runs[1].0, runs[0].0, runs[2].0, runs[1].1
            );
        }
    }
}

/// What the device takes: 8 MiB writes into an allocated file, each written back before the next but one.
fn device(dir: &Path, total: u64) -> f64 {
    use std::os::unix::fs::FileExt;
    let path = dir.join("device");
    std::fs::create_dir_all(dir).expect("a directory");
    let file = std::fs::File::create(&path).expect("a file");
    let piece = vec![7; 8 << 20];
    let begun = Instant::now();
    for at in (0..total).step_by(piece.len()) {
        file.write_all_at(&piece, at).expect("a write");
        if at % (64 << 20) == 0 {
            file.sync_data().expect("a sync");
        }
    }
    file.sync_data().expect("a sync");
    let rate = total as f64 / begun.elapsed().as_nanos() as f64;
    std::fs::remove_file(&path).expect("removed");
    rate
}

fn stream(dir: &Path, ahead: usize) {
    const TOTAL: u64 = 4 << 30;
    let bytes = 4096;
    let before = device(dir, 1 << 30);
    let log = open(dir, ahead, LogOptions::default().unsynced_bytes_max);
    let payload = vec![7; bytes];
    let begun = Instant::now();
    let (mut longest, mut slow, mut unsynced) = (Duration::ZERO, 0, 0);
    let mut last = begun;
    let mut released = Lsn::ZERO;
    while log.reserved().0 < TOTAL {
        let appended = log.append(&[&payload]).expect("an append");
        let now = Instant::now();
        longest = longest.max(now - last);
        slow += u64::from(now - last > Duration::from_millis(20));
        last = now;
        unsynced = unsynced.max(appended.end.since(log.synced()));
        if appended.end.since(released) > 16 << 20 {
            released = log.synced();
            log.release(released);
        }
    }
    log.sync_up_to(log.reserved()).expect("a sync");
    let rate = TOTAL as f64 / begun.elapsed().as_nanos() as f64;
    let stats = log.stats();
    log.close().expect("the log closes");
    let after = device(dir, 1 << 30);
    println!(
        "4 GiB of {bytes} bytes: {rate:.2} GB/s, device {before:.2} and {after:.2} GB/s; longest append {longest:.1?}, {slow} above 20 ms, at most {} MiB unsynced, {} stalls, {} syncs",
        unsynced >> 20,
        stats.stalls,
        stats.syncs
    );
}

fn tail(dir: &Path, ahead: usize, polls: bool) {
    let log = open(dir, ahead, 1 << 30);
    let began = Instant::now();
    let sent = AtomicU64::new(0);
    let mut delays = Vec::new();
    std::thread::scope(|scope| {
        let mut reader = log
            .reader(log.published(), ReadLimit::Published)
            .expect("a reader");
        let sent = &sent;
        let reader = scope.spawn(move || {
            let mut delays = Vec::new();
            while delays.len() < 20_000 {
                let frame = if polls {
                    reader.next().expect("a frame or none")
                } else {
                    reader.next_wait(None).expect("a frame")
                };
                if frame.is_some() {
                    let now = began.elapsed().as_nanos() as u64;
                    delays.push(now - sent.load(Ordering::Acquire));
                }
            }
            delays
        });
        for _ in 0..20_000 {
            std::thread::sleep(Duration::from_micros(20));
            sent.store(began.elapsed().as_nanos() as u64, Ordering::Release);
            let appended = log.append(&[&[7; 128]]).expect("an append");
            assert!(log.published() >= appended.end);
        }
        delays = reader.join().expect("the reader");
    });
    delays.sort_unstable();
    println!(
        "hand-over to a reader that {}: p50 {:.1} us, p99 {:.1} us",
        if polls { "polls" } else { "sleeps" },
        delays[delays.len() / 2] as f64 / 1e3,
        delays[delays.len() * 99 / 100] as f64 / 1e3
    );
    log.close().expect("the log closes");
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().unwrap_or_else(|| "target/append-burst".into());
    let dir = PathBuf::from(dir);
    let what = args.next().unwrap_or_else(|| "all".into());
    let ahead = args.next().and_then(|n| n.parse().ok()).unwrap_or(9);
    // One of them alone, for a profiler: BYTES THREADS ROUNDS.
    if what == "one" {
        let rest: Vec<usize> = args.map(|n| n.parse().expect("a number")).collect();
        for _ in 0..rest[2] {
            let (each, rate) = burst(&dir, ahead, rest[0], rest[1]);
            println!("{each:.0} ns each, {rate:.2} GB/s");
        }
    }
    if what == "burst" || what == "all" {
        bursts(&dir, ahead);
    }
    if what == "stream" || what == "all" {
        stream(&dir, 4);
    }
    if what == "tail" || what == "all" {
        tail(&dir, 2, false);
        tail(&dir, 2, true);
    }
    let _ = std::fs::remove_dir_all(&dir);
}
