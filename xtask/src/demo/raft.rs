//! `cargo xtask demo raft`: real input into a cluster of three whose leader is killed again and again.
//!
//! The Unicode character database (key = code point, value = its line) is loaded by a few clients, each through a node of its own choosing, one
//! line at a time; a line that was refused, or whose outcome is not known, is sent again. Meanwhile whoever leads is killed with -9 and started
//! again. Behind each kill the lines that were acknowledged last are read from the others; at the end every key is compared on every node.

use super::{Pair, differing, records};
use crate::Outcome;
use crate::cluster::{Cluster, eventually};
use crate::node::{BinaryOptions, REPLY_MAX, Workspace};
use crate::resp::Client;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MEMBERS: usize = 3;
/// So many lines are read back behind each kill.
const READ_BACK: usize = 500;

/// Options of the demo.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    binaries: BinaryOptions,
    /// Lines to load; all of them by default.
    #[arg(long, value_name = "N")]
    lines: Option<usize>,
    /// Clients that load.
    #[arg(long, default_value_t = 48)]
    clients: usize,
    /// Kills of the leader, at equal parts of the load.
    #[arg(long, default_value_t = 4)]
    kills: usize,
    /// Shortest election timeout of the members, in milliseconds; the program's default.
    #[arg(long, default_value_t = 500)]
    election: u64,
    /// The input, one record a line, fields separated by semicolons.
    #[arg(long, default_value = super::FILE)]
    file: PathBuf,
    /// Seed of which node a client turns to.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the demo as the command does.
pub fn run(options: &Options) -> Outcome {
    let text = super::read(&options.file)?;
    let pairs = records(&text, options.lines.unwrap_or(usize::MAX));
    let binary = options.binaries.find()?.primary.with_file_name("raft-node");
    let workspace = Workspace::new("demo-raft")?;
    let cluster = Cluster::new(&binary, workspace.path(), MEMBERS, options.election);
    let outcome = cluster.and_then(|mut cluster| flow(options, &mut cluster, &pairs));
    workspace.finish(outcome)
}

/// What the clients share.
struct Load<'a> {
    pairs: &'a [Pair],
    ports: Vec<u16>,
    next: AtomicUsize,
    /// Places of the lines that were acknowledged, in that order.
    acknowledged: Mutex<Vec<usize>>,
    began: Instant,
    /// When the latest of them was sent, in microseconds since then.
    latest: AtomicU64,
    /// Sent again: not executed; nobody knows, or nobody was there.
    refused: AtomicU64,
    unknown: AtomicU64,
    wrong: Mutex<Option<String>>,
    stop: AtomicBool,
}

impl Load<'_> {
    fn acknowledged(&self) -> Vec<usize> {
        let all = self.acknowledged.lock();
        all.unwrap_or_else(|p| p.into_inner()).clone()
    }

    fn count(&self) -> usize {
        let all = self.acknowledged.lock();
        all.unwrap_or_else(|p| p.into_inner()).len()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn client(&self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut connection = None;
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((key, value)) = self.pairs.get(at) else {
                return;
            };
            loop {
                if self.stopped() {
                    return;
                }
                if connection.is_none() {
                    let port = self.ports[rng.random_range(0..self.ports.len())];
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                    connection = Client::connect(address, REPLY_MAX).ok();
                }
                let sent = self.now();
                let reply = connection
                    .as_mut()
                    .map(|c| c.command(&[b"SET", key, value]));
                match reply {
                    Some(Ok(reply)) if reply.is_ok() => {
                        self.latest.fetch_max(sent, Ordering::Relaxed);
                        break;
                    }
                    Some(Ok(reply)) if reply.text().starts_with("CLUSTERDOWN") => {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(Ok(reply)) if !reply.text().starts_with("UNKNOWNOUTCOME") => {
                        let key = String::from_utf8_lossy(key);
                        let wrong = format!("SET {key} answered {}", reply.text());
                        *self.wrong.lock().unwrap_or_else(|p| p.into_inner()) = Some(wrong);
                        self.stop.store(true, Ordering::Relaxed);
                    }
                    Some(Ok(_)) => {
                        self.unknown.fetch_add(1, Ordering::Relaxed);
                    }
                    // Its node is gone: elsewhere.
                    Some(Err(_)) => {
                        self.unknown.fetch_add(1, Ordering::Relaxed);
                        connection = None;
                    }
                    None => {}
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            let all = self.acknowledged.lock();
            all.unwrap_or_else(|p| p.into_inner()).push(at);
        }
    }
}

fn flow(options: &Options, cluster: &mut Cluster, pairs: &[Pair]) -> Outcome {
    for at in 0..MEMBERS {
        cluster.start(at, &["--bootstrap"])?;
    }
    let first = cluster.some_leader()?;
    println!(
        "three nodes, clients at 127.0.0.1 ports {:?}, election timeout {} ms; node {} leads",
        cluster.clients,
        options.election,
        first + 1
    );
    let load = Load {
        pairs,
        ports: cluster.clients.clone(),
        next: AtomicUsize::new(0),
        began: Instant::now(),
        latest: AtomicU64::new(0),
        acknowledged: Mutex::default(),
        refused: AtomicU64::new(0),
        unknown: AtomicU64::new(0),
        wrong: Mutex::default(),
        stop: AtomicBool::new(false),
    };
    println!(
        "{} clients load {} lines, each sent again until it is acknowledged",
        options.clients,
        pairs.len()
    );
    let (kills, took) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..options.clients.max(1) as u64)
            .map(|n| {
                let load = &load;
                scope.spawn(move || load.client(options.seed.wrapping_mul(1_000) + n))
            })
            .collect();
        let done = || clients.iter().all(|client| client.is_finished());
        let result = kill_again_and_again(options, cluster, &load, &done);
        if result.is_err() {
            load.stop.store(true, Ordering::Relaxed);
        }
        result
    })?;
    if let Some(wrong) = load.wrong.lock().unwrap_or_else(|p| p.into_inner()).take() {
        return Err(wrong);
    }
    println!(
        "loaded {} lines in {:.1} s under {kills} kills of the leader: {:.0} lines/s acknowledged; sent again {} as not executed, {} as of unknown outcome",
        load.acknowledged().len(),
        took.as_secs_f64(),
        pairs.len() as f64 / took.as_secs_f64().max(1e-9),
        load.refused.load(Ordering::Relaxed),
        load.unknown.load(Ordering::Relaxed),
    );
    let distinct: std::collections::HashSet<_> = pairs.iter().map(|pair| &pair.0).collect();
    let mut wrong = 0;
    for at in 0..MEMBERS {
        let (differ, count) = eventually("a node's content", || {
            let mut client = cluster.connect(at, REPLY_MAX)?;
            differing(&mut client, pairs).ok()
        })?;
        println!(
            "node {}: {} keys compared byte for byte, {differ} differ, DBSIZE {count}",
            at + 1,
            pairs.len()
        );
        wrong += differ + usize::from(count != distinct.len() as u64);
    }
    cluster.all_live()?;
    if wrong > 0 {
        return Err("the nodes do not hold what was loaded".into());
    }
    println!("lost: nothing that was acknowledged; the three nodes hold the same");
    Ok(())
}

/// Each time another part is loaded, until all is. How often, and how long the loading took.
fn kill_again_and_again(
    options: &Options,
    cluster: &mut Cluster,
    load: &Load<'_>,
    done: &dyn Fn() -> bool,
) -> Outcome<(usize, Duration)> {
    let mut kills = 0;
    loop {
        let due = match kills < options.kills {
            true => load.pairs.len() * (kills + 1) / (options.kills + 1),
            false => usize::MAX,
        };
        while load.count() < due && !done() {
            std::thread::sleep(Duration::from_millis(5));
        }
        if done() {
            return Ok((kills, load.began.elapsed()));
        }
        let leader = cluster.some_leader()?;
        let acknowledged = load.acknowledged();
        let at = load.began.elapsed();
        cluster.kill(leader)?;
        kills += 1;
        let killed = load.now();
        let heir = eventually("another leader", || cluster.leader())?;
        // Clients may have all that is left in hand.
        let went_on = eventually("a line sent and acknowledged behind the kill", || {
            let went_on = load.latest.load(Ordering::Relaxed) > killed;
            (went_on || done()).then(|| (load.now() - killed) / 1_000)
        })?;
        let newest: Vec<Pair> = (acknowledged.iter().rev().take(READ_BACK))
            .map(|at| load.pairs[*at].clone())
            .collect();
        let mut client = (cluster.connect(heir, REPLY_MAX))
            .ok_or_else(|| format!("node {} can't be reached", heir + 1))?;
        let (lost, _) = differing(&mut client, &newest)?;
        let restarted = Instant::now();
        cluster.start(leader, &[])?;
        eventually("the restarted node", || {
            let mut client = cluster.connect(leader, REPLY_MAX)?;
            client.line("PING").ok()
        })?;
        println!(
            "{:>6.1} s  kill -9 of node {}, which led, {} lines acknowledged; node {} leads, the next line acknowledged after {} ms; of the {} before, {lost} lost; restarted in {} ms",
            at.as_secs_f64(),
            leader + 1,
            acknowledged.len(),
            heir + 1,
            went_on,
            newest.len(),
            restarted.elapsed().as_millis()
        );
        if lost > 0 {
            return Err(format!("{lost} acknowledged lines are gone after kill -9"));
        }
    }
}
