//! `cargo xtask demo`: real input through the real binaries, with a crash in the middle.
//!
//! The Unicode character database (key = code point, value = its line) goes into a primary with a replica attached, in
//! chunks, one `redis-cli --pipe` each. A chunk that ended with `errors: 0` is acknowledged. The primary is killed
//! with -9 while a chunk is on its way; that chunk's fate is unknown, it is loaded again. After the restart every
//! acknowledged line is checked before anything else is written. At the end every key is compared on both nodes.

pub mod raft;

use crate::node::{Binaries, BinaryOptions, Node, REPLY_MAX, Setup, Workspace};
use crate::resp::{Client, Reply, encode};
use crate::{Outcome, ctx};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where Debian's package unicode-data has the character database.
const FILE: &str = "/usr/share/unicode/UnicodeData.txt";

/// Options of the demo.
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    binaries: BinaryOptions,
    /// Lines to load; all of them by default.
    #[arg(long, value_name = "N")]
    lines: Option<usize>,
    /// Lines in a chunk.
    #[arg(long, default_value_t = 1000)]
    chunk: usize,
    /// The input, one record a line, fields separated by semicolons.
    #[arg(long, default_value = FILE)]
    file: PathBuf,
    /// Seed of the moment of the kill.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Another demo.
#[derive(clap::Subcommand, Clone, Debug)]
enum Other {
    /// A cluster of three whose leader is killed again and again while it loads; every key compared on every node.
    Raft(raft::Options),
}

/// A record: key and value.
type Pair = (Vec<u8>, Vec<u8>);

/// Runs the demo as the command does.
pub fn run(options: &Options) -> Outcome {
    if let Some(Other::Raft(options)) = &options.other {
        return raft::run(options);
    }
    let text = read(&options.file)?;
    let pairs = records(&text, options.lines.unwrap_or(usize::MAX));
    load(
        &options.binaries.find()?,
        &pairs,
        options.chunk.max(1),
        options.seed,
    )
}

fn read(file: &Path) -> Outcome<Vec<u8>> {
    std::fs::read(file).map_err(|error| {
        format!(
            "{}: {error}; it comes with Debian's package unicode-data",
            file.display()
        )
    })
}

/// Splits the character database into pairs of code point and line.
pub fn records(text: &[u8], max: usize) -> Vec<Pair> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .take(max)
        .map(|line| {
            let key = line.split(|byte| *byte == b';').next().unwrap_or(line);
            (key.to_vec(), line.to_vec())
        })
        .collect()
}

/// The whole flow on `pairs`.
pub fn load(binaries: &Binaries, pairs: &[Pair], chunk: usize, seed: u64) -> Outcome {
    let workspace = Workspace::new("demo")?;
    let outcome = flow(binaries, &workspace, pairs, chunk, seed);
    workspace.finish(outcome)
}

fn flow(
    binaries: &Binaries,
    workspace: &Workspace,
    pairs: &[Pair],
    chunk: usize,
    seed: u64,
) -> Outcome {
    let dir = workspace.path();
    let mut rng = StdRng::seed_from_u64(seed);
    let primary = Setup::primary(binaries, &dir.join("primary"), &dir.join("primary.out"));
    let replica = Setup::replica(
        binaries,
        &dir.join("replica"),
        &dir.join("replica.out"),
        &primary,
    );
    let mut primary_node = primary.start()?;
    let replica_node = replica.start()?;
    println!(
        "primary at {}, replica at {}, durability always",
        primary.listen, replica.listen
    );

    let chunks: Vec<&[Pair]> = pairs.chunks(chunk).collect();
    let victim = chunks.len() / 3 + rng.random_range(0..(chunks.len() / 3).max(1));
    let mut acknowledged = 0_usize;
    let mut loading = Duration::ZERO;
    let mut slowest_lag = 0_u64;
    let mut killed = false;
    let mut at = 0;
    while at < chunks.len() {
        let input = encoded(chunks[at]);
        if at == victim && !killed {
            killed = true;
            // A part of the chunk is on its way, the rest still in our hands: it cannot have been acknowledged.
            let part = rng.random_range(0.2..0.9);
            let wait = Duration::from_micros(rng.random_range(0..5_000));
            let fate = pipe(
                &primary,
                &input,
                (input.len() as f64 * part) as usize,
                || {
                    std::thread::sleep(wait);
                    primary_node.kill()
                },
            );
            if fate.is_ok() {
                return Err("the chunk was acknowledged by a server that had been killed".into());
            }
            println!(
                "kill -9 of the primary with {:.0} % of chunk {at} sent (unknown, loaded again); {acknowledged} lines acknowledged",
                part * 100.0,
            );
            let began = Instant::now();
            primary_node = primary.start()?;
            println!("restarted in {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
            let (missing, _) = compare(&primary_node, &pairs[..acknowledged])?;
            println!(
                "after the restart: {acknowledged} acknowledged lines checked, {missing} lost"
            );
            if missing > 0 {
                return Err(format!(
                    "{missing} acknowledged lines are gone after kill -9"
                ));
            }
            continue;
        }
        let began = Instant::now();
        pipe(&primary, &input, 0, || Ok(()))?;
        loading += began.elapsed();
        acknowledged += chunks[at].len();
        at += 1;
        slowest_lag = slowest_lag.max(lag(&primary_node, &replica_node).unwrap_or(0));
    }
    println!(
        "loaded {} lines in {} chunks: {:.0} lines/s acknowledged",
        pairs.len(),
        chunks.len(),
        pairs.len() as f64 / loading.as_secs_f64().max(1e-9),
    );

    let behind = wait_equal(&primary_node, &replica_node, Duration::from_secs(60))?;
    println!(
        "replica: largest lag seen at a chunk's end {slowest_lag} bytes; level {:.0} ms after the last chunk",
        behind.as_secs_f64() * 1e3
    );
    let mut wrong = 0;
    for node in [&primary_node, &replica_node] {
        let (differ, count) = compare(node, pairs)?;
        println!(
            "{}: {} keys compared byte for byte, {differ} differ, DBSIZE {count}",
            node.setup().name,
            pairs.len()
        );
        let distinct: std::collections::HashSet<_> = pairs.iter().map(|pair| &pair.0).collect();
        wrong += differ + usize::from(count != distinct.len() as u64);
    }
    if wrong > 0 {
        return Err("the nodes do not hold what was loaded".into());
    }
    for mut node in [replica_node, primary_node] {
        let name = node.setup().name.clone();
        let status = node.terminate(Duration::from_secs(30))?;
        if !status.success() {
            return Err(format!(
                "{name} ended with {status} at SIGTERM\n{}",
                node.tail()
            ));
        }
    }
    println!("lost: nothing that was acknowledged; both ended cleanly at SIGTERM");
    Ok(())
}

fn encoded(pairs: &[Pair]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in pairs {
        encode(&mut out, &[b"SET", key, value]);
    }
    out
}

/// One `redis-cli --pipe`; Ok when it says `errors: 0`. Without redis-cli, the same over a client of our own.
/// `midway` is called when the first `part` bytes are sent.
fn pipe(primary: &Setup, input: &[u8], part: usize, midway: impl FnOnce() -> Outcome) -> Outcome {
    let port = primary.listen.port().to_string();
    let spawned = Command::new("redis-cli")
        .args(["-p", &port, "--pipe"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return pipe_plain(primary, input, part, midway);
        }
        Err(error) => return Err(format!("redis-cli: {error}")),
    };
    let mut stdin = child.stdin.take().expect("piped");
    // A broken pipe here is the server's death; the exit tells.
    let first = stdin.write_all(&input[..part]).and_then(|()| stdin.flush());
    midway()?;
    let sent = first.and_then(|()| stdin.write_all(&input[part..]));
    drop(stdin);
    let output = ctx(child.wait_with_output(), "redis-cli")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    if sent.is_ok() && output.status.success() && said.contains("errors: 0,") {
        Ok(())
    } else {
        let complaints: Vec<_> = complaints.lines().take(3).collect();
        Err(format!(
            "redis-cli --pipe: {}\n{}",
            said.trim(),
            complaints.join("\n")
        ))
    }
}

fn pipe_plain(
    primary: &Setup,
    input: &[u8],
    part: usize,
    midway: impl FnOnce() -> Outcome,
) -> Outcome {
    let mut client = ctx(Client::connect(primary.listen, REPLY_MAX), "connecting")?;
    ctx(client.raw(&input[..part]), "sending a chunk")?;
    midway()?;
    ctx(client.raw(&input[part..]), "sending a chunk")?;
    ctx(
        client.raw(b"*2\r\n$4\r\nECHO\r\n$7\r\nthe end\r\n"),
        "sending a chunk",
    )?;
    loop {
        match ctx(client.reply(), "a reply")? {
            Reply::Bulk(_) => return Ok(()),
            Reply::Error(error) => return Err(error),
            _ => {}
        }
    }
}

/// Bytes by which the replica is behind, from the offsets that both report.
fn lag(primary: &Node, replica: &Node) -> Option<u64> {
    let head: u64 = primary.info("master_repl_offset").ok()??.parse().ok()?;
    let tail: u64 = replica.info("slave_repl_offset").ok()??.parse().ok()?;
    Some(head.saturating_sub(tail))
}

/// Writes a token on the primary and waits until the replica shows it; then removes it the same way.
pub fn wait_equal(primary: &Node, replica: &Node, max: Duration) -> Outcome<Duration> {
    let token = format!("{:?}", std::time::SystemTime::now());
    let key = b"esker:harness:token";
    let began = Instant::now();
    let reply = ctx(
        primary.client()?.command(&[b"SET", key, token.as_bytes()]),
        "writing the token",
    )?;
    if !reply.is_ok() {
        return Err(format!("the primary refused the token: {}", reply.text()));
    }
    let seen = |wanted: Option<&[u8]>| -> Outcome {
        loop {
            let found = replica
                .client()
                .and_then(|mut client| ctx(client.command(&[b"GET", key]), "GET"));
            if let Ok(Reply::Bulk(value)) = &found
                && value.as_deref() == wanted
            {
                return Ok(());
            }
            if began.elapsed() > max {
                return Err(format!(
                    "the replica has not caught up after {max:?} (last answer {found:?})\n{}\n{}",
                    replica.tail(),
                    primary.tail()
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    seen(Some(token.as_bytes()))?;
    let took = began.elapsed();
    ctx(
        primary.client()?.command(&[b"DEL", key]),
        "removing the token",
    )?;
    seen(None)?;
    Ok(took)
}

/// How many of `pairs` the node does not hold byte for byte, and its DBSIZE.
pub fn compare(node: &Node, pairs: &[Pair]) -> Outcome<(usize, u64)> {
    differing(&mut node.client()?, pairs)
}

fn differing(client: &mut Client, pairs: &[Pair]) -> Outcome<(usize, u64)> {
    let mut differ = 0;
    for some in pairs.chunks(512) {
        for (key, _) in some {
            client.queue(&[b"GET", key]);
        }
        ctx(client.flush(), "GET")?;
        for (_, value) in some {
            let reply = ctx(client.reply(), "GET")?;
            differ += usize::from(reply.bytes() != Some(value.as_slice()));
        }
    }
    match ctx(client.line("DBSIZE"), "DBSIZE")? {
        Reply::Int(n) => Ok((differ, u64::try_from(n).unwrap_or(0))),
        other => Err(format!("DBSIZE answered {}", other.text())),
    }
}
