//! `cargo xtask bench quick`: synced appends beside the device and the simplest log, and the primary beside Redis.
//!
//! Servers take turns: round by round each is started afresh, measured with redis-benchmark and stopped, so that a slow minute
//! hits both. Medians and ratios are printed, with the machine that they belong to.

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
    /// Milliseconds of each measurement of appends.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
}

/// Runs it.
pub fn quick(options: &Quick) -> Outcome {
    let rr = !options.no_rr
        && Command::new("chrt")
            .args(["-r", "1", "true"])
            .status()
            .is_ok_and(|s| s.success());
    print_machine(rr)?;
    if !options.no_log {
        appends(options, rr)?;
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

fn print_machine(rr: bool) -> Outcome {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(':').nth(1))
        .unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let target = target_dir();
    ctx(std::fs::create_dir_all(&target), target.display())?;
    println!("machine    {}, {cores} cores", model.trim());
    println!("kernel     {}", output_of("uname", &["-sr"]));
    println!(
        "disk       {}",
        output_of("df", &["--output=source,fstype", &target.to_string_lossy()])
            .lines()
            .nth(1)
            .unwrap_or("unknown")
    );
    println!(
        "commit     {}",
        output_of(
            "git",
            &[
                "-C",
                &root().to_string_lossy(),
                "rev-parse",
                "--short",
                "HEAD"
            ]
        )
    );
    println!(
        "load       {}",
        std::fs::read_to_string("/proc/loadavg")
            .unwrap_or_default()
            .trim()
    );
    println!(
        "scheduling {}\n",
        if rr {
            "durable runs, both sides, under SCHED_RR (chrt -r 1); the others ordinary"
        } else {
            "ordinary"
        }
    );
    Ok(())
}

fn appends(options: &Quick, rr: bool) -> Outcome {
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "esker-benches",
        ])
        .current_dir(root());
    if !ctx(build.status(), "cargo build")?.success() {
        return Err("esker-benches does not build".into());
    }
    let binary = target_dir().join("release/synced-appends");
    let mut command = if rr {
        let mut chrt = Command::new("chrt");
        chrt.args(["-r", "1"]).arg(binary);
        chrt
    } else {
        Command::new(binary)
    };
    command.arg("--dir").arg(target_dir().join("bench-data"));
    command.args([
        "--rounds",
        &options.rounds.to_string(),
        "--millis",
        &options.millis.to_string(),
    ]);
    let status = ctx(command.status(), "synced-appends")?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("synced-appends: {status}"))
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
