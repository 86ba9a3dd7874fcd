//! How fast is an append: buffered, and synced with several threads; where does the time go?
//!
//! `cargo run --release -p esker-wal --example append_speed -- DIR [MILLIS]`
#![allow(
    clippy::print_stdout,
    reason = "a program that prints what it measured"
)]

use esker_wal::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn open(dir: &Path, policy: SyncPolicy) -> Log {
    let _ = std::fs::remove_dir_all(dir);
    let options = LogOptions {
        create: Some(Create {
            log: LogId::random(),
            node: NodeId::random(),
            base: Lsn::ZERO,
        }),
        sync_policy: policy,
        ..LogOptions::default()
    };
    let (log, _) = Log::open(dir, options).expect("the log opens");
    while log.stats().segments_ready < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    log
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(
        args.next()
            .unwrap_or_else(|| "target/append-speed".to_owned()),
    );
    let time = Duration::from_millis(args.next().and_then(|m| m.parse().ok()).unwrap_or(500));

    for bytes in [0, 128, 1024] {
        let payload = vec![7; bytes];
        let log = open(&dir, SyncPolicy::Manual);
        // Within the window that is populated ahead, and within the bound.
        let count = (100 << 20) / frame::frame_len(bytes) as u32;
        let begun = Instant::now();
        for _ in 0..count {
            log.append(&[&payload]).expect("an append");
        }
        let each = begun.elapsed().as_nanos() as f64 / f64::from(count);
        println!(
            "buffered, {bytes:>5} bytes: {each:.0} ns each, {} rotations",
            log.stats().rotations
        );
        log.close().expect("the log closes");
    }

    for threads in [1, 2, 4, 16, 64] {
        let log = open(&dir, SyncPolicy::Always);
        let stop = AtomicBool::new(false);
        let (done, waited, appending) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let payload = [7; 256];
                    let (mut count, mut append, mut wait) = (0, 0, 0);
                    while !stop.load(Ordering::Relaxed) {
                        let start = Instant::now();
                        let appended = log.append(&[&payload]).expect("an append");
                        let published = Instant::now();
                        log.sync_up_to(appended.end).expect("a sync");
                        append += (published - start).as_nanos() as u64;
                        wait += published.elapsed().as_nanos() as u64;
                        count += 1;
                    }
                    done.fetch_add(count, Ordering::Relaxed);
                    appending.fetch_add(append, Ordering::Relaxed);
                    waited.fetch_add(wait, Ordering::Relaxed);
                });
            }
            std::thread::sleep(time);
            stop.store(true, Ordering::Relaxed);
        });
        let stats = log.stats();
        let done = done.into_inner();
        println!(
            "synced, {threads:>2} threads: {:>8.0}/s; append {:.1} us, wait {:.1} us; {} syncs of {:.1} us, {:.1} appends each",
            done as f64 / time.as_secs_f64(),
            appending.into_inner() as f64 / done as f64 / 1e3,
            waited.into_inner() as f64 / done as f64 / 1e3,
            stats.syncs,
            stats.sync_nanos as f64 / stats.syncs as f64 / 1e3,
            done as f64 / stats.syncs as f64,
        );
        log.close().expect("the log closes");
    }
    let _ = std::fs::remove_dir_all(&dir);
}
