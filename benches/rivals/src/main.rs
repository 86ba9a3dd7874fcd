//! Logs beside each other: this program is one of them, and does what it is told on its standard input.
//!
//! The question: under the same use, on the same disk, at the same time, how do logs compare? `cargo xtask bench log` starts one
//! process per engine and lets them take short turns, so that whatever the machine does meanwhile hits each alike.
//!
//! Commands are lines, answers are JSON, one line each, `{"error": ...}` for a failure:
//!
//! | command | what | answer |
//! |---|---|---|
//! | `open MODE THREADS BYTES TOTAL` | opens a fresh log and prepares | `{}` |
//! | `turn MILLIS` | synced appends for so long | `appends`, `nanos` |
//! | `burst` | appends `TOTAL` payload bytes; with `sustained` the sync counts | `appends`, `nanos` |
//! | `replay` | closes the log, opens and reads it, checks every payload | `appends`, `nanos` |
//! | `handover poll\|spin\|sleep\|unpark COUNT` | append to tailing reader (Esker), or a bare `unpark` | percentiles |
//! | `end` | closes the log and removes it | percentiles of all turns |
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it answers on standard output"
)]

mod engines;
mod plot;
mod rival;

use clap::Parser;
use hdrhistogram::Histogram;
use rival::{Engine, Failure, LogRival, Mode, Plan};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

#[derive(Parser)]
enum Cli {
    /// Lists the engines that are built in, as JSON.
    List,
    /// Is one of them, in a directory.
    Run {
        /// Its name.
        name: String,
        /// Where its files are made.
        dir: PathBuf,
    },
    /// Draws the JSON of `cargo xtask bench log` as SVG.
    Plot {
        /// What was measured.
        json: PathBuf,
        /// The picture.
        svg: PathBuf,
    },
}

fn main() -> Result<(), Failure> {
    match Cli::parse() {
        Cli::List => {
            let all: Vec<Value> = engines::all().iter().map(about).collect();
            println!("{}", Value::from(all));
            Ok(())
        }
        Cli::Run { name, dir } => {
            let engine = engines::all()
                .into_iter()
                .find(|engine| engine.name == name)
                .ok_or_else(|| format!("no engine is called {name:?}"))?;
            serve(&engine, &dir)
        }
        Cli::Plot { json, svg } => plot::plot(&json, &svg),
    }
}

fn about(engine: &Engine) -> Value {
    let modes: Vec<&str> = engine.modes.iter().map(|mode| name_of(*mode)).collect();
    json!({
        "name": engine.name,
        "version": engine.version,
        "floor": engine.floor,
        "settings": engine.settings,
        "modes": modes,
        "one_thread": engine.threads_max == 1,
    })
}

const MODES: [(Mode, &str); 4] = [
    (Mode::Synced, "synced"),
    (Mode::Burst, "burst"),
    (Mode::Sustained, "sustained"),
    (Mode::Replay, "replay"),
];

fn name_of(mode: Mode) -> &'static str {
    MODES[mode as usize].1
}

/// A log being measured.
struct Course {
    plan: Plan,
    /// None once it is closed for replay.
    log: Option<Box<dyn LogRival>>,
    latency: Histogram<u64>,
    unsynced_max: u64,
}

fn serve(engine: &Engine, dir: &Path) -> Result<(), Failure> {
    let mut course = None;
    for line in std::io::stdin().lock().lines() {
        let answer = match obey(engine, dir, &line?, &mut course) {
            Ok(answer) => answer,
            Err(error) => json!({ "error": format!("{}: {error}", engine.name) }),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn obey(
    engine: &Engine,
    dir: &Path,
    line: &str,
    course: &mut Option<Course>,
) -> Result<Value, Failure> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match (words.as_slice(), course) {
        (["open", mode, threads, bytes, total], course @ None) => {
            let mode = MODES.iter().find(|(_, name)| name == mode);
            let plan = Plan {
                mode: mode.ok_or("an unknown mode")?.0,
                threads: threads.parse()?,
                bytes: bytes.parse()?,
                total: total.parse()?,
            };
            if !engine.can(&plan) {
                return Err(format!("it can't do {plan:?}").into());
            }
            std::fs::create_dir_all(dir)?;
            *course = Some(Course {
                plan,
                log: Some((engine.open)(dir, &plan)?),
                latency: Histogram::new(3)?,
                unsynced_max: 0,
            });
            Ok(json!({}))
        }
        (["turn", millis], Some(course)) => turn(course, Duration::from_millis(millis.parse()?)),
        (["burst"], Some(course)) => burst(engine, course),
        (["replay"], Some(course)) => replay(engine, dir, course),
        (["handover", how, count], None) => {
            std::fs::create_dir_all(dir)?;
            let histogram = engines::hand_over(dir, how, count.parse()?)?;
            std::fs::remove_dir_all(dir)?;
            Ok(percentiles(&histogram))
        }
        (["end"], course @ Some(_)) => {
            let course = course.take().expect("just matched");
            if let Some(log) = course.log {
                log.close()?;
            }
            std::fs::remove_dir_all(dir)?;
            let mut answer = percentiles(&course.latency);
            if course.unsynced_max > 0 {
                answer["unsynced_bytes_max"] = course.unsynced_max.into();
            }
            Ok(answer)
        }
        _ => Err(format!("can't do now: {line:?}").into()),
    }
}

fn percentiles(histogram: &Histogram<u64>) -> Value {
    if histogram.is_empty() {
        return json!({});
    }
    let micros = |percentile| histogram.value_at_percentile(percentile) as f64 / 1e3;
    json!({
        "p50_us": micros(50.0),
        "p99_us": micros(99.0),
        "max_us": histogram.max() as f64 / 1e3,
    })
}

/// Bytes that don't compress, the same in every run.
fn payload(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(bytes)
    .collect()
}

fn open_log(course: &Course) -> Result<&dyn LogRival, Failure> {
    course
        .log
        .as_deref()
        .ok_or_else(|| "the log is closed".into())
}

/// When a thread began and ended, and the latencies it saw. It reads the clock itself: who waits for it may be late.
type Part = (Instant, Instant, Histogram<u64>);

/// Waits for all; from the first that began to the last that ended.
fn join(
    workers: Vec<ScopedJoinHandle<'_, Result<Part, Failure>>>,
    all: &mut Histogram<u64>,
) -> Result<(Instant, Instant), Failure> {
    let mut span: Option<(Instant, Instant)> = None;
    for worker in workers {
        let (from, to, own) = worker.join().map_err(|_| "a thread panicked")??;
        all.add(&own)?;
        let (first, last) = span.unwrap_or((from, to));
        span = Some((first.min(from), last.max(to)));
    }
    span.ok_or_else(|| "no thread".into())
}

/// Synced appends by all threads for a while; each ends with the append that it is in.
fn turn(course: &mut Course, time: Duration) -> Result<Value, Failure> {
    let log = open_log(course)?;
    let payload = payload(course.plan.bytes);
    let stop = AtomicBool::new(false);
    let start = Barrier::new(course.plan.threads + 1);
    let mut appends = 0;
    let mut all = Histogram::<u64>::new(3)?;
    let nanos = std::thread::scope(|scope| -> Result<u64, Failure> {
        let workers: Vec<_> = (0..course.plan.threads)
            .map(|thread| {
                let (payload, stop, start) = (&payload, &stop, &start);
                scope.spawn(move || -> Result<Part, Failure> {
                    let mut own = Histogram::<u64>::new(3)?;
                    start.wait();
                    let from = Instant::now();
                    while !stop.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        log.append_synced(thread, payload)?;
                        own.record(began.elapsed().as_nanos() as u64)?;
                    }
                    Ok((from, Instant::now(), own))
                })
            })
            .collect();
        start.wait();
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let (from, to) = join(workers, &mut all)?;
        appends += all.len();
        Ok((to - from).as_nanos() as u64)
    })?;
    course.latency.add(&all)?;
    open_log(course)?.trim()?;
    Ok(json!({ "appends": appends, "nanos": nanos }))
}

/// `TOTAL` payload bytes in buffered appends, as fast as they go.
fn burst(engine: &Engine, course: &mut Course) -> Result<Value, Failure> {
    let mut plan = course.plan;
    // A log without buffered appends is filled by many threads, so that they share syncs.
    let syncs = plan.mode == Mode::Replay && !engine.modes.contains(&Mode::Burst);
    if syncs {
        plan.threads = 64;
    }
    let log = open_log(course)?;
    let payload = payload(plan.bytes);
    let each = plan.total / plan.bytes as u64 / plan.threads as u64;
    let sustained = plan.mode == Mode::Sustained;
    let trim_every = (64 << 20) / plan.bytes as u64;
    let start = Barrier::new(plan.threads + 1);
    let unsynced_max = AtomicU64::new(0);
    let mut all = Histogram::<u64>::new(3)?;
    let nanos = std::thread::scope(|scope| -> Result<u64, Failure> {
        let workers: Vec<_> = (0..plan.threads)
            .map(|thread| {
                let (payload, start, unsynced_max) = (&payload, &start, &unsynced_max);
                scope.spawn(move || -> Result<Part, Failure> {
                    let mut own = Histogram::<u64>::new(3)?;
                    start.wait();
                    let from = Instant::now();
                    if sustained {
                        for n in 1..=each {
                            let began = Instant::now();
                            log.append_buffered(thread, payload)?;
                            own.record(began.elapsed().as_nanos() as u64)?;
                            if n % 256 == 0 {
                                let unsynced = log.unsynced().unwrap_or(0);
                                unsynced_max.fetch_max(unsynced, Ordering::Relaxed);
                            }
                            if n % trim_every == 0 {
                                log.trim()?;
                            }
                        }
                    } else {
                        // The clock would cost as much as an append.
                        for _ in 0..each {
                            if syncs {
                                log.append_synced(thread, payload)?;
                            } else {
                                log.append_buffered(thread, payload)?;
                            }
                        }
                    }
                    Ok((from, Instant::now(), own))
                })
            })
            .collect();
        start.wait();
        let (from, mut to) = join(workers, &mut all)?;
        if sustained {
            log.sync()?;
            to = Instant::now();
        }
        Ok((to - from).as_nanos() as u64)
    })?;
    if !sustained {
        log.sync()?;
        if plan.mode == Mode::Burst {
            log.trim()?;
        }
    }
    course.latency.add(&all)?;
    course.unsynced_max = course.unsynced_max.max(unsynced_max.into_inner());
    Ok(json!({ "appends": each * plan.threads as u64, "nanos": nanos }))
}

/// Opens the log that a burst has filled and reads all of it.
fn replay(engine: &Engine, dir: &Path, course: &mut Course) -> Result<Value, Failure> {
    if let Some(log) = course.log.take() {
        log.close()?;
    }
    let read = engine.replay.ok_or("it has no replay")?;
    let expected = payload(course.plan.bytes);
    let (mut count, mut wrong) = (0_u64, 0_u64);
    let began = Instant::now();
    read(dir, &course.plan, &mut |found| {
        count += 1;
        // Whole and not another's; a full comparison would be measured too.
        wrong += u64::from(found.len() != expected.len() || found[..8] != expected[..8]);
    })?;
    let nanos = began.elapsed().as_nanos() as u64;
    let written = course.plan.total / course.plan.bytes as u64;
    if count != written || wrong > 0 {
        return Err(
            format!("of {written} appends {count} came back, {wrong} of them wrong").into(),
        );
    }
    Ok(json!({ "appends": count, "nanos": nanos }))
}
