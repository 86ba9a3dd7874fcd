//! Synced appends per second: the device's floor, the simplest correct log, Esker.
//!
//! The question: how many appends of `--bytes` become durable per second with 1, 4, 16 and 64 threads, each waiting for its
//! own before it makes the next? Rounds are interleaved, so that a slow minute of the machine hits all; medians and ratios
//! are printed. Each round checks that what it counted was really synced.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that prints a table"
)]

mod simplest;

use clap::Parser;
use esker_wal::{Create, Log, LogId, LogOptions, Lsn, NodeId};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use simplest::{Aligned, Simplest, Way, prepared};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Measures synced appends.
#[derive(Parser)]
struct Options {
    /// Where the files are made: the file system that is measured.
    #[arg(long, default_value = "target/bench-data")]
    dir: PathBuf,
    /// Payload of an append.
    #[arg(long, default_value_t = 256)]
    bytes: usize,
    /// Numbers of threads.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 64])]
    threads: Vec<usize>,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds of each measurement.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What one measurement gave.
struct Measured {
    per_second: f64,
    latency: Histogram<u64>,
}

/// Runs `append` on `threads` threads for `time`.
fn drive(
    threads: usize,
    time: Duration,
    append: impl Fn() -> Result<(), Failure> + Sync,
) -> Result<Measured, Failure> {
    let stop = AtomicBool::new(false);
    let all = Mutex::new(Histogram::<u64>::new(3)?);
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<(), Failure> {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| -> Result<(), Failure> {
                    let mut own = Histogram::<u64>::new(3)?;
                    while !stop.load(Ordering::Relaxed) {
                        let start = Instant::now();
                        append()?;
                        own.record(start.elapsed().as_nanos() as u64)?;
                    }
                    all.lock().add(&own)?;
                    Ok(())
                })
            })
            .collect();
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| "a worker panicked")?)
    })?;
    let took = began.elapsed().as_secs_f64();
    let latency = all.into_inner();
    Ok(Measured {
        per_second: latency.len() as f64 / took,
        latency,
    })
}

/// The device alone: one thread, one block, no log.
fn floor(path: &Path, way: Way, bytes: usize, time: Duration) -> Result<Measured, Failure> {
    const FILE: u64 = 8 << 20;
    let file = prepared(path, FILE, way)?;
    let mut aligned = Aligned::new();
    let payload = vec![7; bytes];
    let next = Mutex::new((0_u64, &mut aligned));
    drive(1, time, || {
        let (at, aligned) = &mut *next.lock();
        match way {
            Way::WriteSync => {
                file.write_all_at(&payload, *at % FILE)?;
                file.sync_data()?;
                *at += payload.len() as u64;
            }
            Way::Direct => {
                file.write_all_at(aligned.copy(&payload), *at / 4096 * 4096 % FILE)?;
                *at += payload.len() as u64;
            }
        }
        Ok(())
    })
}

fn simplest(
    path: &Path,
    way: Way,
    threads: usize,
    bytes: usize,
    time: Duration,
) -> Result<Measured, Failure> {
    let log = Simplest::create(path, 64 << 20, way)?;
    let payload = vec![7; bytes];
    drive(threads, time, || {
        log.append(&payload)?;
        Ok(())
    })
}

fn esker(dir: &Path, threads: usize, bytes: usize, time: Duration) -> Result<Measured, Failure> {
    let create = Create {
        log: LogId::random(),
        node: NodeId::random(),
        base: Lsn::default(),
    };
    let (log, _) = Log::open(
        dir,
        LogOptions {
            create: Some(create),
            ..LogOptions::default()
        },
    )?;
    // The first spares are made before the clock runs, as the simplest log's file is.
    let patience = Instant::now();
    while log.stats().segments_ready < 2 && patience.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let payload = vec![7; bytes];
    let measured = drive(threads, time, || {
        let appended = log.append(&[&payload])?;
        log.sync_up_to(appended.end)?;
        if log.synced() < appended.end {
            return Err("an append returned before it was synced".into());
        }
        // Keeps the log from growing: a round measures recycled segments too.
        if appended.lsn.0 >> 20 != appended.end.0 >> 20 {
            log.release(appended.lsn);
        }
        Ok(())
    })?;
    log.close()?;
    Ok(measured)
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.dir)?;
    let time = Duration::from_millis(options.millis);
    let direct = prepared(&options.dir.join("probe"), 4096, Way::Direct)
        .and_then(|file| file.write_all_at(Aligned::new().copy(&[1]), 0));
    if let Err(error) = &direct {
        println!("O_DIRECT | O_DSYNC is not possible here ({error}); measured without it");
    }
    let ways: &[Way] = if direct.is_ok() {
        &[Way::WriteSync, Way::Direct]
    } else {
        &[Way::WriteSync]
    };

    println!(
        "floor: one thread, {} bytes, no log; {} rounds of {time:?}, medians",
        options.bytes, options.rounds
    );
    for way in ways {
        let path = options.dir.join("floor");
        let rounds = (0..options.rounds)
            .map(|_| floor(&path, *way, options.bytes, time))
            .collect::<Result<Vec<_>, _>>()?;
        let middle = median(rounds);
        println!(
            "  {:22} {:>9.0}/s   p50 {:>6.1} us   p99 {:>7.1} us",
            name(*way),
            middle.per_second,
            p(&middle, 50.0),
            p(&middle, 99.0)
        );
    }

    println!(
        "\nsynced appends per second, {} bytes; rounds interleaved, medians",
        options.bytes
    );
    println!(
        "{:>7}  {:24} {:>9}  {:>9} {:>9}  {:>6}",
        "threads", "log", "per s", "p50 us", "p99 us", "ratio"
    );
    for &threads in &options.threads {
        let mut rounds: Vec<Vec<Measured>> = (0..=ways.len()).map(|_| Vec::new()).collect();
        for round in 0..options.rounds {
            for (at, way) in ways.iter().enumerate() {
                rounds[at].push(simplest(
                    &options.dir.join("simplest"),
                    *way,
                    threads,
                    options.bytes,
                    time,
                )?);
            }
            let dir = options.dir.join(format!("esker-{threads}-{round}"));
            clear(&dir)?;
            rounds[ways.len()].push(esker(&dir, threads, options.bytes, time)?);
            clear(&dir)?;
        }
        let middles: Vec<Measured> = rounds.into_iter().map(median).collect();
        let best = middles[..ways.len()]
            .iter()
            .map(|one| one.per_second)
            .fold(0.0, f64::max);
        for (at, one) in middles.iter().enumerate() {
            let label = ways.get(at).map_or("Esker".to_owned(), |way| {
                format!("simplest, {}", name(*way))
            });
            println!(
                "{threads:>7}  {label:24} {:>9.0}  {:>9.1} {:>9.1}  {:>6.2}",
                one.per_second,
                p(one, 50.0),
                p(one, 99.0),
                one.per_second / best,
            );
        }
    }
    clear(&options.dir)?;
    Ok(())
}

fn name(way: Way) -> &'static str {
    match way {
        Way::WriteSync => "pwrite+fdatasync",
        Way::Direct => "O_DIRECT|O_DSYNC",
    }
}

fn p(measured: &Measured, percentile: f64) -> f64 {
    measured.latency.value_at_percentile(percentile) as f64 / 1e3
}

fn median(mut rounds: Vec<Measured>) -> Measured {
    rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    rounds.swap_remove(rounds.len() / 2)
}

fn clear(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
