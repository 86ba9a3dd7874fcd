//! `cargo xtask bench quick`: synced appends beside the device and the simplest log, and the primary beside Redis;
//! `cargo xtask bench log`: the log beside others; `cargo xtask bench raft`: clusters beside others.
//!
//! Servers take turns: round by round each is started afresh, measured with redis-benchmark and stopped, so that a slow minute
//! hits both. Medians and ratios are printed, with the machine that they belong to.

pub mod log;
pub mod raft;

use crate::node::{Binaries, BinaryOptions, REPLY_MAX, Setup, Workspace, free_port, output_file};
use crate::resp::Client;
use crate::{Outcome, ctx, root, target_dir};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Options of the quick benchmark.
#[derive(clap::Args, Clone, Debug)]
pub struct Quick {
    #[command(flatten)]
    binaries: BinaryOptions,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Leave out the synced appends.
    #[arg(long)]
    no_log: bool,
    /// Leave out the servers.
    #[arg(long)]
    no_server: bool,
    /// Ordinary scheduling even where SCHED_RR is permitted.
    #[arg(long)]
    no_rr: bool,
}

/// Runs it.
pub fn quick(options: &Quick) -> Outcome {
    let rr = !options.no_rr && rr_permitted();
    let scheduling = if rr {
        "durable runs, both sides, under SCHED_RR (chrt -r 1); the others ordinary"
    } else {
        "ordinary"
    };
    Machine::here(scheduling)?.print();
    if !options.no_log {
        log::synced(options.no_rr)?;
    }
    if !options.no_server {
        servers(options, rr)?;
    }
    Ok(())
}

fn output_of(program: &str, args: &[&str]) -> String {
    Command::new(program)
        .args(args)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// Whether a process may be started under SCHED_RR.
fn rr_permitted() -> bool {
    Command::new("chrt")
        .args(["-r", "1", "true"])
        .status()
        .is_ok_and(|status| status.success())
}

/// What a figure belongs to.
struct Machine {
    /// Names and values, as printed.
    lines: Vec<(&'static str, String)>,
}

impl Machine {
    fn here(scheduling: &str) -> Outcome<Machine> {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split(':').nth(1))
            .unwrap_or("unknown");
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let target = target_dir();
        ctx(std::fs::create_dir_all(&target), target.display())?;
        let disk = output_of("df", &["--output=source,fstype", &target.to_string_lossy()]);
        let root = root();
        let root = root.to_string_lossy();
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let lines = vec![
            ("machine", format!("{}, {cores} cores", model.trim())),
            ("kernel", output_of("uname", &["-sr"])),
            ("disk", disk.lines().nth(1).unwrap_or("unknown").to_owned()),
            (
                "commit",
                output_of("git", &["-C", &root, "rev-parse", "--short", "HEAD"]),
            ),
            ("load", load.trim().to_owned()),
            ("scheduling", scheduling.to_owned()),
        ];
        Ok(Machine { lines })
    }

    fn print(&self) {
        for (name, value) in &self.lines {
            println!("{name:10} {value}");
        }
        println!();
    }

    fn json(&self) -> serde_json::Value {
        let pairs = self.lines.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), value.as_str().into()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

struct Case {
    what: &'static str,
    test: &'static str,
    pipeline: u32,
    requests: u64,
    durable: bool,
    esker: &'static [&'static str],
    redis: &'static [&'static str],
}

const ALWAYS: &[&str] = &["--durability", "always"];
const NO: &[&str] = &["--durability", "no"];
const REDIS_ALWAYS: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];
const REDIS_NO: &[&str] = &["--appendonly", "no"];

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { what: "SET, synced before each reply", test: "set", pipeline: 1, requests: 100_000, durable: true, esker: ALWAYS, redis: REDIS_ALWAYS },
    Case { what: "SET, synced before each reply", test: "set", pipeline: 16, requests: 800_000, durable: true, esker: ALWAYS, redis: REDIS_ALWAYS },
    Case { what: "SET, durability no / no AOF", test: "set", pipeline: 1, requests: 200_000, durable: false, esker: NO, redis: REDIS_NO },
    Case { what: "SET, durability no / no AOF", test: "set", pipeline: 16, requests: 1_000_000, durable: false, esker: NO, redis: REDIS_NO },
    Case { what: "GET", test: "get", pipeline: 1, requests: 200_000, durable: false, esker: ALWAYS, redis: REDIS_NO },
    Case { what: "GET", test: "get", pipeline: 16, requests: 1_500_000, durable: false, esker: ALWAYS, redis: REDIS_NO },
];

fn servers(options: &Quick, rr: bool) -> Outcome {
    if output_of("redis-server", &["--version"]).is_empty()
        || output_of("redis-benchmark", &["--version"]).is_empty()
    {
        println!(
            "\nservers: SKIPPED, redis-server or redis-benchmark is not installed (apt-get install redis-server redis-tools)"
        );
        return Ok(());
    }
    let binaries = options.binaries.find()?;
    println!(
        "\nredis-benchmark -c 50 -d 100 -r 100000, requests per second; rounds interleaved, medians of {}",
        options.rounds
    );
    println!(
        "{:32} {:>4} {:>10} {:>10} {:>6}",
        "", "P", "Esker", "Redis", "ratio"
    );
    for case in CASES {
        let rr = rr && case.durable;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            ours.push(esker_round(&binaries, case, rr)?);
            theirs.push(redis_round(case, rr)?);
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!(
            "{:32} {:>4} {ours:>10.0} {theirs:>10.0} {:>6.2}",
            case.what,
            case.pipeline,
            ours / theirs
        );
    }
    Ok(())
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn esker_round(binaries: &Binaries, case: &Case, rr: bool) -> Outcome<f64> {
    let workspace = Workspace::new("bench")?;
    let dir = workspace.path();
    let mut setup =
        Setup::primary(binaries, &dir.join("data"), &dir.join("primary.out")).with(case.esker);
    if rr {
        setup.prefix = ["chrt", "-r", "1"].map(str::to_owned).to_vec();
    }
    let mut node = setup.start()?;
    let measured = benchmark(setup.listen, case, rr);
    let ended = node.terminate(Duration::from_secs(60));
    drop(node);
    workspace.finish(measured.and_then(|rate| ended.map(|_| rate)))
}

/// A redis-server of this round; dropped, it is killed.
struct Redis(Child);
impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn redis_round(case: &Case, rr: bool) -> Outcome<f64> {
    let workspace = Workspace::new("bench")?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut words = if rr { vec!["chrt", "-r", "1"] } else { vec![] };
    words.push("redis-server");
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .args(["--port", &listen.port().to_string(), "--save", "", "--dir"]);
    command.arg(workspace.path()).args(case.redis);
    command
        .stdout(output_file(&workspace.path().join("redis.out"))?)
        .stderr(Stdio::null());
    let server = Redis(ctx(command.spawn(), "redis-server")?);
    let began = Instant::now();
    while !Client::connect(listen, REPLY_MAX).is_ok_and(|mut client| client.line("PING").is_ok()) {
        if began.elapsed() > Duration::from_secs(10) {
            return Err("redis-server does not answer".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let measured = benchmark(listen, case, rr);
    drop(server);
    workspace.finish(measured)
}

fn benchmark(listen: SocketAddr, case: &Case, rr: bool) -> Outcome<f64> {
    if case.test == "get" {
        // Something to find: most of the keys.
        redis_benchmark(listen, "set", 16, 300_000, false)?;
    }
    redis_benchmark(listen, case.test, case.pipeline, case.requests, rr)
}

/// Whether `program` is there; installs Debian's `package` where that is possible.
pub(crate) fn installed(program: &str, package: &str) -> bool {
    let there = || !output_of(program, &["--version"]).is_empty();
    let apt = |args: &[&str]| {
        Command::new("apt-get")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !there() && rustix::process::geteuid().is_root() && apt(&["update", "-qq"]) {
        println!("installing {package}");
        apt(&["install", "-y", "-qq", "--no-install-recommends", package]);
    }
    there()
}

fn redis_benchmark(
    listen: SocketAddr,
    test: &str,
    pipeline: u32,
    requests: u64,
    rr: bool,
) -> Outcome<f64> {
    let mut words = if rr { vec!["chrt", "-r", "1"] } else { vec![] };
    words.push("redis-benchmark");
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args([
        "-p",
        &listen.port().to_string(),
        "-t",
        test,
        "-c",
        "50",
        "-d",
        "100",
    ]);
    command.args([
        "-r",
        "100000",
        "-P",
        &pipeline.to_string(),
        "-n",
        &requests.to_string(),
        "--csv",
    ]);
    let output = ctx(command.output(), "redis-benchmark")?;
    let text = String::from_utf8_lossy(&output.stdout);
    rate(&text, test).ok_or_else(|| {
        format!(
            "redis-benchmark said:\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// The rate in the CSV of redis-benchmark: the second field of the test's row.
fn rate(csv: &str, test: &str) -> Option<f64> {
    let row = csv
        .lines()
        .find(|line| line.to_lowercase().starts_with(&format!("\"{test}\"")))?;
    row.split(',').nth(1)?.trim_matches('"').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_second_field() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"75187.97\",\"0.3\"\n";
        assert_eq!(rate(csv, "set"), Some(75187.97));
        assert_eq!(rate(csv, "get"), None);
    }
}
