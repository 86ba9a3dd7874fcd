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

/// The length of a turn.
const TURN: Duration = Duration::from_millis(50);

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

/// A log under measurement, open from its first turn to its last.
trait Subject: Sync {
    /// Appends one payload; on return it is durable.
    fn append(&self, payload: &[u8]) -> Result<(), Failure>;
}

impl Subject for Simplest {
    fn append(&self, payload: &[u8]) -> Result<(), Failure> {
        Simplest::append(self, payload)?;
        Ok(())
    }
}

impl Subject for Log {
    fn append(&self, payload: &[u8]) -> Result<(), Failure> {
        let appended = Log::append(self, &[payload])?;
        self.sync_up_to(appended.end)?;
        if self.synced() < appended.end {
            return Err("an append returned before it was synced".into());
        }
        // Keeps the log from growing: a round measures recycled segments too.
        if appended.lsn.0 >> 20 != appended.end.0 >> 20 {
            self.release(appended.lsn);
        }
        Ok(())
    }
}

fn esker(dir: &Path) -> Result<Log, Failure> {
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
    Ok(log)
}

/// What the turns of one log gave in one round.
struct Turns {
    appends: u64,
    seconds: f64,
    latency: Histogram<u64>,
}

impl Turns {
    fn measured(self) -> Measured {
        Measured {
            per_second: self.appends as f64 / self.seconds,
            latency: self.latency,
        }
    }
}

/// One round: fresh logs, all open, taking short turns, so that whatever the machine does meanwhile hits each alike.
fn round(
    subjects: &[&dyn Subject],
    threads: usize,
    bytes: usize,
    time: Duration,
) -> Result<Vec<Measured>, Failure> {
    let payload = vec![7; bytes];
    let mut turns = Vec::new();
    for _ in subjects {
        turns.push(Turns {
            appends: 0,
            seconds: 0.0,
            latency: Histogram::new(3)?,
        });
    }
    let count = (time.as_micros() / TURN.as_micros()).max(1);
    for turn in 0..count as usize {
        for at in 0..subjects.len() {
            // Nobody always follows the same one.
            let at = (at + turn) % subjects.len();
            let began = Instant::now();
            let one = drive(threads, TURN, || subjects[at].append(&payload))?;
            turns[at].seconds += began.elapsed().as_secs_f64();
            turns[at].appends += one.latency.len();
            turns[at].latency.add(&one.latency)?;
        }
    }
    Ok(turns.into_iter().map(Turns::measured).collect())
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
        for number in 0..options.rounds {
            let simplest = ways
                .iter()
                .enumerate()
                .map(|(at, way)| {
                    Simplest::create(&options.dir.join(format!("simplest-{at}")), 64 << 20, *way)
                })
                .collect::<io::Result<Vec<_>>>()?;
            let dir = options.dir.join(format!("esker-{threads}-{number}"));
            clear(&dir)?;
            let log = esker(&dir)?;
            let mut subjects: Vec<&dyn Subject> =
                simplest.iter().map(|one| one as &dyn Subject).collect();
            subjects.push(&log);
            let measured = round(&subjects, threads, options.bytes, time)?;
            for (all, one) in rounds.iter_mut().zip(measured) {
                all.push(one);
            }
            log.close()?;
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
