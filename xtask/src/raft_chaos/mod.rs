//! `cargo xtask raft-chaos`: real members under kill -9, SIGSTOP and partitions, and clients that record what they see.
//!
//! Each member is a `raft-node` process; between them stands a proxy of our own, so that no privilege is needed. Meanwhile clients
//! write, count and read at all nodes, and `redis-benchmark` loads them, where it is installed. At the end everything heals, every node must hold the same, and one order must explain each
//! key's history (linearizability). First it is measured how soon writes go on when the leader is killed, and what a planned transfer
//! costs.

mod background;
mod clients;
mod history;
pub mod learner;

use crate::Outcome;
use crate::bench::installed;
use crate::cluster::{Cluster, eventually};
use crate::node::{BinaryOptions, Workspace};
use crate::resp::Reply;
use background::Background;
use clients::Clients;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Options of `raft-chaos`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    binaries: BinaryOptions,
    /// How long, in minutes, for all sizes together.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Members of the cluster; one run for each.
    #[arg(long, value_delimiter = ',', default_value = "3,5")]
    members: Vec<usize>,
    /// Seed of faults and commands.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Clients that record what they see.
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Without `redis-benchmark` beside the clients.
    #[arg(long)]
    no_background: bool,
    /// Shortest election timeout of the members, in milliseconds; the program's default.
    #[arg(long, default_value_t = 500)]
    election: u64,
    /// Kills of the leader, and transfers, that are measured before the faults begin.
    #[arg(long, default_value_t = 5)]
    measured: u32,
}

/// Runs it.
pub fn run(options: &Options) -> Outcome {
    let binary = options.binaries.find()?.primary.with_file_name("raft-node");
    let each =
        Duration::from_secs_f64(options.minutes * 60.0 / options.members.len().max(1) as f64);
    for members in &options.members {
        let workspace = Workspace::new("raft-chaos")?;
        let outcome = storm(options, &binary, workspace.path(), *members, each);
        workspace.finish(outcome)?;
    }
    Ok(())
}

fn storm(options: &Options, binary: &Path, dir: &Path, members: usize, long: Duration) -> Outcome {
    let mut cluster = Cluster::new(binary, dir, members, options.election)?;
    println!(
        "{members} members, seed {}, {long:?}, election timeout {} ms",
        options.seed, options.election
    );
    for at in 0..members {
        cluster.start(at, &["--bootstrap"])?;
    }
    cluster.some_leader()?;
    let mut clients = Clients::start(options.clients, &cluster.clients, options.seed);
    let mut background = match !options.no_background && installed("redis-benchmark", "redis-tools")
    {
        true => Some(Background::start(&cluster.clients, options.seed)),
        false => None,
    };
    measure(&mut cluster, &clients, options.measured)?;
    let end = Instant::now() + long;
    let mut rng = StdRng::seed_from_u64(options.seed);
    let mut happened: BTreeMap<&str, u64> = BTreeMap::new();
    while Instant::now() < end {
        let fault = FAULTS[rng.random_range(0..FAULTS.len())];
        *happened.entry(fault).or_default() += 1;
        inflict(&mut cluster, &mut rng, fault)?;
        std::thread::sleep(Duration::from_millis(rng.random_range(200..2_500)));
        if rng.random_range(0..3) > 0 {
            cluster.heal()?;
            std::thread::sleep(Duration::from_millis(rng.random_range(100..1_500)));
        }
        cluster.all_live()?;
        if let Some(wrong) = clients
            .seen
            .wrong
            .lock()
            .unwrap_or_else(|p| p.into_inner())
            .take()
        {
            return Err(format!("an answer that nothing explains: {wrong}"));
        }
    }
    cluster.heal()?;
    cluster.some_leader()?;
    let healed = clients.seen.now();
    eventually("a write after the faults", || {
        (clients.seen.wrote.load(Ordering::Relaxed) > healed).then_some(())
    })?;
    clients.stop();
    let answered = background.as_mut().map(|background| {
        background.stop();
        background.counts()
    });
    let seen = &clients.seen;
    let events = std::mem::take(&mut *seen.events.lock().unwrap_or_else(|p| p.into_inner()));
    let keys: BTreeSet<String> = events.iter().map(|event| event.key.clone()).collect();
    equal(&cluster, &keys)?;
    let open = events.iter().filter(|event| event.ended.is_none()).count();
    let count = events.len();
    let keys = history::check(events)?;
    for (what, times) in happened {
        println!("{times:>7}  {what}");
    }
    println!(
        "{count:>7}  commands in {keys} histories, each explained by one order; of {open} the outcome is unknown"
    );
    println!(
        "{:>7}  refused as not executed, {} without an answer, {} times nobody to connect to",
        seen.refused.load(Ordering::Relaxed),
        seen.unknown.load(Ordering::Relaxed),
        seen.away.load(Ordering::Relaxed)
    );
    let (moved, changed) = (&seen.moved, &seen.changed);
    let moved = moved.load(Ordering::Relaxed);
    println!(
        "{moved:>7}  transactions over two keys among them whose sum stayed the same, {} that a write behind WATCH stopped",
        changed.load(Ordering::Relaxed)
    );
    if moved == 0 {
        return Err("no transaction was executed".into());
    }
    match answered {
        Some((answered, ended)) => println!(
            "{answered:>7}  requests of redis-benchmark beside them in whole runs; {ended} runs ended early"
        ),
        None => println!("{:>7}  redis-benchmark: left out", "-"),
    }
    Ok(())
}

const FAULTS: &[&str] = &[
    "kill -9 of the leader",
    "kill -9 of one",
    "kill -9 of all",
    "the leader stopped",
    "one stopped",
    "the leader cut off",
    "one cut off",
    "one cut off, its connections reset",
    "the leader hears nobody",
    "nobody hears the leader",
    "a link in one direction",
    "a bridge between two groups",
    "a transfer",
];

fn inflict(cluster: &mut Cluster, rng: &mut StdRng, fault: &str) -> Outcome {
    let members = cluster.children.len();
    let one = rng.random_range(0..members);
    let other = (one + rng.random_range(1..members)) % members;
    let leader = cluster.leader().unwrap_or(one);
    let others = |of: usize| (0..members).filter(move |at| *at != of);
    match fault {
        "kill -9 of the leader" => cluster.kill(leader)?,
        "kill -9 of one" => cluster.kill(one)?,
        "kill -9 of all" => {
            for at in 0..members {
                cluster.kill(at)?;
            }
            cluster.heal()?;
        }
        "the leader stopped" | "one stopped" => {
            let at = if fault == "one stopped" { one } else { leader };
            cluster.signal(at, Signal::STOP)?;
            cluster.paused.insert(at);
        }
        "the leader cut off" => cluster
            .network
            .cut(others(leader).flat_map(|at| [(at, leader), (leader, at)])),
        "one cut off" => cluster
            .network
            .cut(others(one).flat_map(|at| [(at, one), (one, at)])),
        "one cut off, its connections reset" => {
            cluster
                .network
                .cut(others(one).flat_map(|at| [(at, one), (one, at)]));
            cluster.network.reset(one);
        }
        "the leader hears nobody" => cluster.network.cut(others(leader).map(|at| (at, leader))),
        "nobody hears the leader" => cluster.network.cut(others(leader).map(|at| (leader, at))),
        "a link in one direction" => cluster.network.cut([(one, other)]),
        "a bridge between two groups" => {
            let side: Vec<bool> = (0..members).map(|_| rng.random()).collect();
            let across = (0..members)
                .flat_map(|from| (0..members).map(move |to| (from, to)))
                .filter(|(from, to)| side[*from] != side[*to] && *from != one && *to != one);
            cluster.network.cut(across);
        }
        "a transfer" => {
            // It may be refused, and its connection may end.
            if let Some(mut client) = cluster.connect(leader, Duration::from_secs(3)) {
                let _ = client.line(&format!("RAFT.TRANSFER {}", other + 1));
            }
        }
        _ => return Err(format!("no such fault: {fault}")),
    }
    Ok(())
}

/// How soon writes go on behind a kill of the leader; what a transfer costs. Under load, before anything else happens.
fn measure(cluster: &mut Cluster, clients: &Clients, times: u32) -> Outcome {
    let seen = &clients.seen;
    let mut pauses = Vec::new();
    for _ in 0..times {
        std::thread::sleep(Duration::from_millis(700));
        // With one that is still starting, the kill would leave no majority, and what is measured were its start.
        let leader = eventually("members that all follow", || cluster.whole())?;
        let killed = seen.now();
        cluster.kill(leader)?;
        let mut explained = false;
        eventually("a write after the leader was killed", || {
            let late = seen.now() - killed > 2_000_000 * i64::try_from(cluster.election).ok()?;
            if late && !std::mem::replace(&mut explained, true) {
                cluster.explain();
            }
            (seen.wrote.load(Ordering::Relaxed) > killed).then_some(())
        })?;
        pauses.push((seen.now() - killed) / 1_000_000);
        cluster.start(leader, &[])?;
    }
    let mut transfers = Vec::new();
    for _ in 0..times {
        std::thread::sleep(Duration::from_millis(1_000));
        let leader = cluster.some_leader()?;
        let (refused, unknown) = (&seen.refused, &seen.unknown);
        let failed = || refused.load(Ordering::Relaxed) + unknown.load(Ordering::Relaxed);
        let before = failed();
        let to = (leader + 1) % cluster.children.len();
        // A machine that is busy elsewhere may let one run out: then it is ordered again.
        eventually("a transfer", || {
            if cluster.leader()? != to {
                let mut client = cluster.connect(leader, Duration::from_secs(5))?;
                let reply = client.line(&format!("RAFT.TRANSFER {}", to + 1)).ok()?;
                println!("         transfer to {}: {}", to + 1, reply.text());
            }
            (cluster.leader()? == to).then_some(())
        })?;
        std::thread::sleep(Duration::from_millis(500));
        transfers.push(failed() - before);
    }
    pauses.sort_unstable();
    println!(
        "{:>7}  ms at most from a kill of the leader to the next write that is answered, of {times}: {pauses:?}; two election timeouts are {}",
        pauses.last().copied().unwrap_or(0),
        2 * cluster.election
    );
    println!(
        "{:>7}  commands failed over {times} planned transfers: {transfers:?}",
        transfers.iter().sum::<u64>()
    );
    Ok(())
}

/// Every node holds the same, read at the node itself.
fn equal(cluster: &Cluster, keys: &BTreeSet<String>) -> Outcome {
    let mut first: Option<Vec<String>> = None;
    for at in 0..cluster.children.len() {
        let mut content = eventually("every node's content", || {
            let mut client = cluster.connect(at, Duration::from_secs(10))?;
            let mut content = Vec::new();
            for key in keys {
                match client.line(&format!("GET {key}")).ok()? {
                    Reply::Error(_) => return None,
                    reply => content.push(format!("{key} {}", reply.text())),
                }
            }
            content.push(format!("DBSIZE {}", client.line("DBSIZE").ok()?.text()));
            Some(content)
        })?;
        match &first {
            None => first = Some(content),
            Some(first) if *first == content => {}
            Some(first) => {
                content.retain(|line| !first.contains(line));
                return Err(format!("node {} differs from node 1: {content:?}", at + 1));
            }
        }
    }
    Ok(())
}
