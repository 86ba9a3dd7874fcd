//! `cargo xtask bench log`: Esker's log beside the device, the simplest correct log and other products.
//!
//! One process per engine and case (`benches/rivals`, a workspace of its own). All are started and prepare; then they take short
//! turns on command, each time in another order, so that whatever the disk does meanwhile hits each alike. Medians, spreads
//! and ratios are printed, and written as JSON and SVG.

use super::{Machine, median, rr_permitted};
use crate::{Outcome, ctx, root, target_dir};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Options of the log's benchmark.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Log {
    /// Fewer and shorter rounds, smaller logs.
    #[arg(long)]
    quick: bool,
    /// Where the results are written; a picture (SVG) and tables (Markdown) go beside it. Default: bench-log.json in the target directory.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only engines whose name contains this (may be given several times).
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only cases whose name contains this (may be given several times).
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Where the logs are made: the file system that is measured. Default: bench-data in the target directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Rounds; medians are printed. Default: 5, with --quick 3.
    #[arg(long)]
    rounds: Option<usize>,
    /// Ordinary scheduling even where SCHED_RR is permitted.
    #[arg(long)]
    no_rr: bool,
    /// Only Esker, the simplest log and the device: no product is built or run.
    #[arg(long)]
    no_products: bool,
}

/// Milliseconds of a turn of synced appends.
const TURN_MILLIS: u64 = 50;
/// The engine that the others are compared with.
pub(super) const OURS: &str = "Esker";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Appends per second.
    Synced,
    /// Nanoseconds per append and thread.
    Burst,
    /// Payload bytes per second.
    Sustained,
    /// Payload bytes per second.
    Replay,
    /// Microseconds.
    HandOver { how: &'static str },
}

#[derive(Clone, Debug)]
struct Case {
    name: String,
    kind: Kind,
    threads: usize,
    bytes: u64,
    /// Payload bytes of a turn.
    total: u64,
}

impl Kind {
    fn unit(self) -> &'static str {
        match self {
            Kind::Synced => "appends/s",
            Kind::Burst => "ns/append",
            Kind::Sustained | Kind::Replay => "MB/s",
            Kind::HandOver { .. } => "us, p50",
        }
    }

    fn more_is_better(self) -> bool {
        matches!(self, Kind::Synced | Kind::Sustained | Kind::Replay)
    }

    fn mode(self) -> &'static str {
        match self {
            Kind::Synced => "synced",
            Kind::Burst => "burst",
            Kind::Sustained => "sustained",
            Kind::Replay => "replay",
            Kind::HandOver { .. } => "",
        }
    }
}

fn cases(quick: bool) -> Vec<Case> {
    let mib = |quick_mib: u64, full_mib: u64| (if quick { quick_mib } else { full_mib }) << 20;
    let mut all = Vec::new();
    for threads in [1, 4, 16, 64] {
        all.push(Case {
            name: format!("synced/256B/{threads}-threads"),
            kind: Kind::Synced,
            threads,
            bytes: 256,
            total: 0,
        });
    }
    for bytes in [128, 256, 4096] {
        for threads in [1, 2] {
            all.push(Case {
                name: format!("buffered/{bytes}B/{threads}-threads"),
                kind: Kind::Burst,
                threads,
                bytes,
                total: mib(128, 512),
            });
        }
    }
    all.push(Case {
        name: "sustained/4096B/1-thread".into(),
        kind: Kind::Sustained,
        threads: 1,
        bytes: 4096,
        total: mib(128, 256),
    });
    all.push(Case {
        name: "replay/256B".into(),
        kind: Kind::Replay,
        threads: 1,
        bytes: 256,
        total: mib(64, 256),
    });
    for how in ["unpark", "sleep", "spin", "poll"] {
        all.push(Case {
            name: format!("hand-over/{how}"),
            kind: Kind::HandOver { how },
            threads: 1,
            bytes: 64,
            total: 0,
        });
    }
    all
}

/// An engine of the program.
#[derive(Clone, Debug)]
struct Engine {
    name: String,
    about: Value,
}

impl Engine {
    fn can(&self, case: &Case) -> bool {
        if let Kind::HandOver { .. } = case.kind {
            return self.name == OURS;
        }
        let modes = self.about["modes"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        modes.iter().any(|mode| mode == case.kind.mode())
            && (case.threads == 1 || self.about["one_thread"] == false)
    }

    /// Payload bytes of a turn: products get an eighth of a burst, they take so much longer.
    fn total(&self, case: &Case) -> u64 {
        let whole = self.name == OURS || self.name.starts_with("simplest");
        if case.kind == Kind::Burst && !whole {
            case.total / 8
        } else {
            case.total
        }
    }
}

/// A process that obeys lines. Dropped, it is killed.
pub(super) struct Process {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Its files, removed with it.
    dir: Option<PathBuf>,
}

impl Process {
    fn start(program: &Path, engine: &Engine, dir: PathBuf, rr: bool) -> Outcome<Process> {
        // What an earlier run left; mostly nothing.
        let _ = std::fs::remove_dir_all(&dir);
        let mut command = if rr {
            let mut chrt = Command::new("chrt");
            chrt.args(["-r", "1"]).arg(program);
            chrt
        } else {
            Command::new(program)
        };
        command.args(["run", &engine.name]).arg(&dir);
        Process::spawn(command, Some(dir))
    }

    pub(super) fn spawn(mut command: Command, dir: Option<PathBuf>) -> Outcome<Process> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = ctx(command.spawn(), command.get_program().display())?;
        let to = child.stdin.take().expect("piped above");
        let from = BufReader::new(child.stdout.take().expect("piped above"));
        Ok(Process {
            child,
            to,
            from,
            dir,
        })
    }

    /// Says one line and waits for the answer.
    pub(super) fn say(&mut self, line: &str) -> Outcome<Value> {
        ctx(writeln!(self.to, "{line}"), line)?;
        self.answer(line)
    }

    /// Waits for an answer to `line`.
    pub(super) fn answer(&mut self, line: &str) -> Outcome<Value> {
        let mut answer = String::new();
        ctx(self.from.read_line(&mut answer), line)?;
        let answer: Value = ctx(serde_json::from_str(&answer), format!("{line}: {answer:?}"))?;
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(dir) = &self.dir {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// One engine's part in a case.
#[derive(Default)]
pub(super) struct Samples {
    /// Of the main figure, one per round.
    pub(super) main: Vec<f64>,
    /// Others, by name.
    pub(super) others: Vec<Value>,
    /// Why it stopped taking part.
    failed: Option<String>,
}

impl Samples {
    /// The median of another figure, if it was reported.
    fn other(&self, key: &str) -> Option<f64> {
        let all: Vec<f64> = self.others.iter().filter_map(|o| o[key].as_f64()).collect();
        (!all.is_empty()).then(|| median(all))
    }

    /// The largest of another figure.
    fn largest(&self, key: &str) -> Option<f64> {
        let all = self.others.iter().filter_map(|o| o[key].as_f64());
        all.max_by(f64::total_cmp)
    }

    fn result(&self, name: &str) -> Value {
        let mut sorted = self.main.clone();
        sorted.sort_by(f64::total_cmp);
        let mut result = json!({ "name": name, "rounds": self.main });
        if let (Some(min), Some(max)) = (sorted.first(), sorted.last()) {
            result["median"] = median(sorted.clone()).into();
            result["min"] = (*min).into();
            result["max"] = (*max).into();
        }
        for key in ["p50_us", "p99_us"] {
            if let Some(value) = self.other(key) {
                result[key] = value.into();
            }
        }
        for key in ["max_us", "unsynced_bytes_max"] {
            if let Some(value) = self.largest(key) {
                result[key] = value.into();
            }
        }
        if let Some(failed) = &self.failed {
            result["failed"] = failed.as_str().into();
        }
        result
    }
}

struct Runner<'a> {
    options: &'a Log,
    program: PathBuf,
    dir: PathBuf,
    rr: bool,
    rounds: usize,
}

impl Runner<'_> {
    /// All engines through one case.
    fn run(&self, case: &Case, engines: &[&Engine]) -> Outcome<Vec<Samples>> {
        let mut samples: Vec<Samples> = engines.iter().map(|_| Samples::default()).collect();
        // Synced appends start from fresh logs in each round; the others go on in theirs.
        let lives = if case.kind == Kind::Synced {
            self.rounds
        } else {
            1
        };
        for _ in 0..lives {
            let mut processes = Vec::new();
            for (at, engine) in engines.iter().enumerate() {
                let dir = self.dir.join(format!("engine-{at}"));
                processes.push(Process::start(&self.program, engine, dir, self.rr)?);
            }
            for (at, engine) in engines.iter().enumerate() {
                let opened = open(&mut processes[at], case, engine.total(case));
                note(&mut samples[at], opened);
            }
            let turns = match case.kind {
                Kind::Synced => (if self.options.quick { 300 } else { 1000 }) / TURN_MILLIS,
                Kind::Sustained => (if self.options.quick { 4 } else { 16 }) as u64,
                _ => self.rounds as u64,
            };
            let mut gathered = vec![(0.0, 0.0); engines.len()];
            for turn in 0..turns as usize {
                for at in 0..engines.len() {
                    // Nobody always follows the same one.
                    let at = (at + turn) % engines.len();
                    if samples[at].failed.is_some() {
                        continue;
                    }
                    match one_turn(&mut processes[at], case) {
                        Err(error) => samples[at].failed = Some(error),
                        Ok(Turn::HandOver(other)) => {
                            samples[at].main.extend(other["p50_us"].as_f64());
                            samples[at].others.push(other);
                        }
                        Ok(Turn::Appends(appends, nanos)) if case.kind == Kind::Synced => {
                            gathered[at].0 += appends;
                            gathered[at].1 += nanos;
                        }
                        Ok(Turn::Appends(appends, nanos)) => {
                            samples[at].main.push(figure(case, appends, nanos));
                        }
                    }
                }
            }
            for at in 0..engines.len() {
                if samples[at].failed.is_some() {
                    continue;
                }
                if case.kind == Kind::Synced {
                    let (appends, nanos) = gathered[at];
                    samples[at].main.push(appends / nanos * 1e9);
                }
                if !matches!(case.kind, Kind::HandOver { .. }) {
                    match processes[at].say("end") {
                        Ok(other) => samples[at].others.push(other),
                        Err(error) => samples[at].failed = Some(error),
                    }
                }
            }
        }
        Ok(samples)
    }
}

fn note<T>(samples: &mut Samples, outcome: Outcome<T>) {
    if let Err(error) = outcome {
        samples.failed = Some(error);
    }
}

fn open(process: &mut Process, case: &Case, total: u64) -> Outcome {
    if let Kind::HandOver { .. } = case.kind {
        return Ok(());
    }
    let (mode, threads, bytes) = (case.kind.mode(), case.threads, case.bytes);
    process.say(&format!("open {mode} {threads} {bytes} {total}"))?;
    if case.kind == Kind::Replay {
        process.say("burst")?;
    }
    Ok(())
}

enum Turn {
    Appends(f64, f64),
    HandOver(Value),
}

fn one_turn(process: &mut Process, case: &Case) -> Outcome<Turn> {
    let line = match case.kind {
        Kind::Synced => format!("turn {TURN_MILLIS}"),
        Kind::Burst | Kind::Sustained => "burst".to_owned(),
        Kind::Replay => "replay".to_owned(),
        Kind::HandOver { how } => {
            return Ok(Turn::HandOver(
                process.say(&format!("handover {how} 5000"))?,
            ));
        }
    };
    let answer = process.say(&line)?;
    match (answer["appends"].as_f64(), answer["nanos"].as_f64()) {
        (Some(appends), Some(nanos)) => Ok(Turn::Appends(appends, nanos)),
        _ => Err(format!("{line}: answered {answer}")),
    }
}

/// The main figure of a turn.
fn figure(case: &Case, appends: f64, nanos: f64) -> f64 {
    match case.kind {
        Kind::Burst => nanos * case.threads as f64 / appends,
        // Bytes per microsecond are MB per second.
        Kind::Sustained | Kind::Replay => appends * case.bytes as f64 / nanos * 1e3,
        Kind::Synced | Kind::HandOver { .. } => appends / nanos * 1e9,
    }
}

/// Whether librocksdb's header is there; installs it where that is possible.
fn rocksdb() -> bool {
    let header = Path::new("/usr/include/rocksdb/c.h");
    if header.exists() {
        return true;
    }
    let apt = |args: &[&str]| {
        Command::new("apt-get")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if rustix::process::geteuid().is_root() && apt(&["update", "-qq"]) {
        println!("installing librocksdb-dev");
        apt(&[
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            "librocksdb-dev",
        ]);
    }
    header.exists()
}

/// Builds the program in its own workspace.
fn build(products: bool) -> Outcome<PathBuf> {
    let mut features = Vec::new();
    if products {
        features.push("products");
        if rocksdb() {
            features.push("rocksdb");
        } else {
            println!(
                "RocksDB: left out, librocksdb-dev is not installed (apt-get install librocksdb-dev)"
            );
        }
    }
    let target = target_dir().join("rivals");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        // Not `--locked`: its lock file would be stale whenever Esker's own dependencies change; versions stay as they are.
        .args(["build", "--quiet", "--release", "--features"])
        .arg(features.join(","))
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root().join("benches/rivals"));
    if ctx(build.status(), "cargo build")?.success() {
        Ok(target.join("release/rivals"))
    } else {
        Err(
            "benches/rivals does not build; --no-products builds Esker and the simplest log alone"
                .into(),
        )
    }
}

fn engines(program: &Path) -> Outcome<Vec<Engine>> {
    let output = ctx(
        Command::new(program).arg("list").output(),
        program.display(),
    )?;
    let all: Vec<Value> = ctx(
        serde_json::from_slice(&output.stdout),
        "the list of engines",
    )?;
    let named = all.into_iter().map(|about| Engine {
        name: about["name"].as_str().unwrap_or_default().to_owned(),
        about,
    });
    Ok(named.collect())
}

/// Runs it.
pub fn log(options: &Log) -> Outcome {
    let rr = !options.no_rr && rr_permitted();
    let program = build(!options.no_products)?;
    let machine = Machine::here(if rr {
        "all engines under SCHED_RR (chrt -r 1)"
    } else {
        "ordinary"
    })?;
    machine.print();
    let all = engines(&program)?;
    let contains = |names: &[String], name: &str| {
        names.is_empty() || names.iter().any(|part| name.contains(part.as_str()))
    };
    for engine in &all {
        let text = |key: &str| engine.about[key].as_str().unwrap_or_default();
        println!(
            "{:20} {:8} {}",
            engine.name,
            text("version"),
            text("settings")
        );
    }
    let dir = options
        .dir
        .clone()
        .unwrap_or_else(|| target_dir().join("bench-data"));
    let runner = Runner {
        options,
        program,
        dir,
        rr,
        rounds: options
            .rounds
            .unwrap_or(if options.quick { 3 } else { 5 })
            .max(1),
    };
    let mut results = Vec::new();
    for case in cases(options.quick) {
        if !contains(&options.case, &case.name) {
            continue;
        }
        let taking_part: Vec<&Engine> = all
            .iter()
            .filter(|engine| contains(&options.only, &engine.name) && engine.can(&case))
            .collect();
        if taking_part.is_empty() {
            continue;
        }
        let samples = runner.run(&case, &taking_part)?;
        let named: Vec<(&str, &Samples)> = taking_part
            .iter()
            .map(|engine| engine.name.as_str())
            .zip(&samples)
            .collect();
        let (unit, more) = (case.kind.unit(), case.kind.more_is_better());
        let result = case_result(&case.name, unit, more, &named);
        print_case(&result);
        if let Some(failed) = failure_of_ours(&result) {
            return Err(format!("{}: {OURS}: {failed}", case.name));
        }
        results.push(result);
    }
    let about: Vec<&Value> = all.iter().map(|engine| &engine.about).collect();
    let command: Vec<String> = std::env::args().skip(1).collect();
    let whole = json!({
        "command": format!("cargo xtask {}", command.join(" ")),
        "machine": machine.json(),
        "rounds": runner.rounds,
        "engines": about,
        "cases": results,
    });
    let json = options
        .json
        .clone()
        .unwrap_or_else(|| target_dir().join("bench-log.json"));
    let kinds = ["synced", "buffered", "sustained", "replay", "hand-over"];
    write(&json, &runner.program, &whole, &kinds)
}

/// Synced appends of Esker, the simplest log and the device: the part of `bench quick`.
pub(super) fn synced(no_rr: bool) -> Outcome {
    log(&Log {
        case: vec!["synced".to_owned()],
        no_products: true,
        no_rr,
        ..Log::default()
    })
}

fn failure_of_ours(result: &Value) -> Option<&str> {
    let engines = result["engines"].as_array()?;
    let ours = engines.iter().find(|engine| engine["name"] == OURS)?;
    ours["failed"].as_str()
}

/// The results of a case, with ratios.
pub(super) fn case_result(
    case: &str,
    unit: &str,
    more_is_better: bool,
    samples: &[(&str, &Samples)],
) -> Value {
    let mut rows: Vec<Value> = samples
        .iter()
        .map(|(name, samples)| samples.result(name))
        .collect();
    let ours = rows
        .iter()
        .find(|row| row["name"] == OURS)
        .and_then(|row| row["median"].as_f64());
    for row in &mut rows {
        if let (Some(ours), Some(theirs)) = (ours, row["median"].as_f64()) {
            let ratio = if more_is_better {
                ours / theirs
            } else {
                theirs / ours
            };
            row["esker_is_times_as_good"] = ratio.into();
        }
    }
    json!({ "name": case, "unit": unit, "engines": rows })
}

pub(super) fn print_case(case: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    println!(
        "\n{}\n{:20} {:>12} {:>23} {:>7} {:>10} {:>10} {:>11}",
        text(&case["name"]),
        "",
        text(&case["unit"]),
        "least - most",
        "ratio",
        "p50 us",
        "p99 us",
        "max us"
    );
    let number = |row: &Value, key: &str, digits: usize| {
        row[key]
            .as_f64()
            .map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    for row in case["engines"].as_array().map_or(&[][..], Vec::as_slice) {
        let digits = usize::from(row["median"].as_f64().is_some_and(|m| m < 1000.0));
        let spread = format!(
            "{} - {}",
            number(row, "min", digits),
            number(row, "max", digits)
        );
        println!(
            "{:20} {:>12} {spread:>23} {:>7} {:>10} {:>10} {:>11}{}{}",
            text(&row["name"]),
            number(row, "median", digits),
            number(row, "esker_is_times_as_good", 2),
            number(row, "p50_us", 1),
            number(row, "p99_us", 1),
            number(row, "max_us", 0),
            row["unsynced_bytes_max"]
                .as_f64()
                .map_or(String::new(), |bytes| format!(
                    "  unsynced at most {:.0} MiB",
                    bytes / 1048576.0
                )),
            row["failed"]
                .as_str()
                .map_or(String::new(), |why| format!("  FAILED: {why}")),
        );
    }
}

/// JSON, and beside it picture and tables; a table for the cases of each kind.
pub(super) fn write(json: &Path, program: &Path, whole: &Value, kinds: &[&str]) -> Outcome {
    let text = ctx(serde_json::to_string_pretty(whole), "JSON")?;
    ctx(std::fs::write(json, text + "\n"), json.display())?;
    let svg = json.with_extension("svg");
    let plotted = Command::new(program)
        .arg("plot")
        .args([json, &svg])
        .status();
    if !ctx(plotted, program.display())?.success() {
        return Err(format!("{} was not drawn", svg.display()));
    }
    let tables = json.with_extension("md");
    ctx(
        std::fs::write(&tables, markdown(whole, kinds)),
        tables.display(),
    )?;
    let (json, svg, tables) = (json.display(), svg.display(), tables.display());
    println!("\nwritten: {json}, {svg} and {tables}");
    Ok(())
}

/// The tables as docs/benchmarks.md has them: cases of one kind side by side, engines below each other.
fn markdown(whole: &Value, kinds: &[&str]) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut out = String::new();
    if let Some(machine) = whole["machine"].as_object() {
        for (name, value) in machine {
            out += &format!("- {name}: {}\n", text(value));
        }
    }
    out += &format!("- command: `{}`\n", text(&whole["command"]));
    let cases = list(&whole["cases"]);
    for kind in kinds {
        let cases: Vec<&Value> = cases
            .iter()
            .filter(|case| text(&case["name"]).starts_with(kind))
            .collect();
        let Some(first) = cases.first() else {
            continue;
        };
        out += &format!(
            "\n{}; in brackets how many times as good Esker is\n\n| |",
            text(&first["unit"])
        );
        for case in &cases {
            out += &format!(" {} |", text(&case["name"]));
        }
        out += &format!("\n|---|{}\n", "---|".repeat(cases.len()));
        let mut names: Vec<String> = Vec::new();
        for row in cases.iter().flat_map(|case| list(&case["engines"])) {
            let name = text(&row["name"]);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        for name in names {
            out += &format!("| {name} |");
            for case in &cases {
                let rows = list(&case["engines"]);
                let row = rows.iter().find(|row| row["name"] == name.as_str());
                out += &format!(" {} |", row.map_or_else(String::new, cell));
            }
            out.push('\n');
        }
    }
    out
}

/// Median, spread, ratio; p50 and p99 where appends were timed one by one.
fn cell(row: &Value) -> String {
    let Some(median) = row["median"].as_f64() else {
        return "failed".to_owned();
    };
    let short = |value: f64| match value {
        _ if value >= 1000.0 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    };
    let number = |key: &str| row[key].as_f64().unwrap_or(0.0);
    let mut out = format!(
        "{} ({} - {})",
        short(median),
        short(number("min")),
        short(number("max"))
    );
    if row["name"] != OURS {
        out += &format!(" [{:.2}]", number("esker_is_times_as_good"));
    }
    if number("p50_us") > 1.0 {
        out += &format!(
            ", p50 {} us, p99 {} us",
            short(number("p50_us")),
            short(number("p99_us"))
        );
    }
    if number("unsynced_bytes_max") > 0.0 {
        let (longest, unsynced) = (
            number("max_us") / 1e3,
            number("unsynced_bytes_max") / 1048576.0,
        );
        out += &format!(", longest append {longest:.1} ms, unsynced at most {unsynced:.0} MiB");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(kind: Kind, threads: usize, bytes: u64) -> Case {
        Case {
            name: "a case".into(),
            kind,
            threads,
            bytes,
            total: 0,
        }
    }

    #[test]
    fn a_figure_is_in_the_unit_that_is_printed() {
        // Two threads made 1000 appends each within 100 us: 100 ns for each append.
        assert_eq!(figure(&case(Kind::Burst, 2, 128), 2000.0, 100_000.0), 100.0);
        // 1000 times 4 KiB within a millisecond.
        assert_eq!(figure(&case(Kind::Sustained, 1, 4096), 1000.0, 1e6), 4096.0);
    }

    #[test]
    fn the_tables_have_a_row_per_engine_and_a_column_per_case() {
        let row = |name: &str, ratio: f64| json!({ "name": name, "median": 5.0, "min": 4.0, "max": 2000.0, "esker_is_times_as_good": ratio });
        let case =
            |name: &str, rows: Vec<Value>| json!({ "name": name, "unit": "ns", "engines": rows });
        let whole = json!({
            "command": "c",
            "machine": { "kernel": "k" },
            "cases": [
                case("buffered/a", vec![row(OURS, 1.0), row("other", 2.5)]),
                case("buffered/b", vec![row(OURS, 1.0)]),
            ],
        });
        let tables = markdown(&whole, &["buffered"]);
        assert!(
            tables.starts_with("- kernel: k\n- command: `c`\n"),
            "{tables}"
        );
        assert!(
            tables.contains("| | buffered/a | buffered/b |\n|---|---|---|\n"),
            "{tables}"
        );
        assert!(
            tables.contains("| other | 5.0 (4.0 - 2000) [2.50] |  |\n"),
            "{tables}"
        );
    }

    #[test]
    fn a_ratio_above_one_means_that_esker_is_ahead() {
        let samples = |value: f64| Samples {
            main: vec![value, value + 1.0, value - 1.0],
            ..Samples::default()
        };
        for (kind, ahead) in [(Kind::Synced, 2.0), (Kind::Burst, 0.5)] {
            let rows = [(OURS, &samples(200.0)), ("other", &samples(100.0))];
            let result = case_result("a case", kind.unit(), kind.more_is_better(), &rows);
            assert_eq!(result["engines"][1]["esker_is_times_as_good"], ahead);
            assert_eq!(result["engines"][1]["median"], 100.0);
            assert_eq!(result["engines"][1]["min"], 99.0);
        }
    }
}
