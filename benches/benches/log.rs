//! What does one call on a log cost? Buffered appends, reserve and fill, synced appends, replay, hand-over to a tailing reader.
//!
//! `cargo bench -p esker-benches --bench log [-- FILTER]`, on the file system of the target directory (`ESKER_BENCH_DIR` names
//! another). Bursts stay below the bound of unsynced bytes: between them, off the clock, the log is synced and released.
#![allow(missing_docs, reason = "criterion_group! makes public items")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use esker_wal::{Create, Frame, Log, LogId, LogOptions, Lsn, NodeId, ReadLimit, SyncPolicy};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Frame bytes between two syncs of a buffered measurement.
const BURST: u64 = 64 << 20;
const AHEAD: usize = 3;

fn home() -> tempfile::TempDir {
    let root = std::env::var_os("ESKER_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    tempfile::tempdir_in(root).expect("a directory")
}

fn open(dir: &Path) -> Log {
    let options = LogOptions {
        create: Some(Create {
            log: LogId::random(),
            node: NodeId::random(),
            base: Lsn::ZERO,
        }),
        segments_ahead: AHEAD,
        sync_policy: SyncPolicy::Manual,
        ..LogOptions::default()
    };
    let (log, _) = Log::open(dir, options).expect("the log opens");
    log
}

/// Off the clock: all synced, released, and the next segments ready.
fn settle(log: &Log) {
    log.sync_up_to(log.published()).expect("a sync");
    log.release(log.synced());
    while log.stats().segments_ready < AHEAD as u64 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Times `iterations` of `append`, whose frames have `frame` bytes, in bursts.
fn bursts(log: &Log, frame: usize, iterations: u64, mut append: impl FnMut(&Log)) -> Duration {
    let most = BURST / frame as u64;
    let mut left = iterations;
    let mut took = Duration::ZERO;
    while left > 0 {
        settle(log);
        let now = left.min(most);
        let began = Instant::now();
        for _ in 0..now {
            append(log);
        }
        took += began.elapsed();
        left -= now;
    }
    took
}

fn appending(c: &mut Criterion) {
    for bytes in [128, 256, 4096] {
        let payload = vec![7; bytes];
        let frame = esker_wal::frame::frame_len(bytes);
        let mut group = c.benchmark_group(format!("append/{bytes}B/1-writer"));
        group.throughput(Throughput::Bytes(bytes as u64));
        let dir = home();
        let log = open(dir.path());
        group.bench_function("buffered", |b| {
            b.iter_custom(|n| {
                bursts(&log, frame, n, |log| {
                    log.append(&[&payload]).expect("an append");
                })
            });
        });
        group.bench_function("buffered-in-4-parts", |b| {
            let parts: Vec<&[u8]> = payload.chunks(bytes / 4).collect();
            b.iter_custom(|n| {
                bursts(&log, frame, n, |log| {
                    log.append(&parts).expect("an append");
                })
            });
        });
        group.bench_function("reserve-and-fill", |b| {
            b.iter_custom(|n| {
                bursts(&log, frame, n, |log| {
                    let room = log.reserve(bytes).expect("room");
                    room.publish(&[&payload]).expect("published");
                })
            });
        });
        group.finish();
        log.close().expect("closed");
    }
    let dir = home();
    let log = open(dir.path());
    settle(&log);
    c.bench_function("append/256B/1-writer/synced", |b| {
        b.iter(|| {
            let appended = log.append(&[&[7; 256]]).expect("an append");
            log.sync_up_to(appended.end).expect("a sync");
            if appended.lsn.0 >> 20 != appended.end.0 >> 20 {
                log.release(appended.lsn);
            }
        });
    });
    log.close().expect("closed");
}

fn replaying(c: &mut Criterion) {
    for bytes in [256, 4096] {
        const TOTAL: usize = 32 << 20;
        let dir = home();
        let log = open(dir.path());
        let payload = vec![7; bytes];
        for _ in 0..TOTAL / bytes {
            log.append(&[&payload]).expect("an append");
        }
        log.sync_up_to(log.published()).expect("a sync");
        let from = log.oldest();
        let mut group = c.benchmark_group(format!("replay/{bytes}B"));
        group.throughput(Throughput::Bytes(TOTAL as u64));
        group.bench_function("reader", |b| {
            b.iter_batched(
                || log.reader(from, ReadLimit::Synced).expect("a reader"),
                |mut reader| {
                    let mut sum = 0;
                    while let Some(Frame { payload, .. }) = reader.next().expect("a frame") {
                        sum += payload.len();
                    }
                    assert!(sum >= TOTAL, "{sum} bytes came back");
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();
        log.close().expect("closed");
    }
}

/// There and back: an append, and the reader's word in memory that it has it.
fn handing_over(c: &mut Criterion) {
    for (name, polls) in [("sleeping", false), ("polling", true)] {
        let dir = home();
        let log = open(dir.path());
        settle(&log);
        let seen = AtomicU64::new(log.published().0);
        let mut reader = log
            .reader(log.published(), ReadLimit::Published)
            .expect("a reader");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (seen, stop) = (&seen, &stop);
            scope.spawn(move || {
                loop {
                    let next = if polls {
                        reader.next()
                    } else {
                        reader.next_wait(None)
                    };
                    match next {
                        Ok(Some(frame)) => seen.store(frame.header.end().0, Ordering::Release),
                        // Who polls a closed log finds nothing, who waits is told.
                        Ok(None) if !stop.load(Ordering::Relaxed) => std::hint::spin_loop(),
                        Ok(None) | Err(_) => return,
                    }
                }
            });
            c.bench_function(&format!("hand-over/64B/{name}"), |b| {
                b.iter_custom(|n| {
                    bursts(&log, 96, n, |log| {
                        let end = log.append(&[&[7; 64]]).expect("an append").end;
                        while seen.load(Ordering::Acquire) < end.0 {
                            std::hint::spin_loop();
                        }
                    })
                });
            });
            stop.store(true, Ordering::Relaxed);
            log.close().expect("closed");
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = appending, replaying, handing_over
}
criterion_main!(benches);
