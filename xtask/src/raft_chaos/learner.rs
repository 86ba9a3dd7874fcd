//! `cargo xtask raft-snapshot`: a large snapshot for a new learner, under load, over a link that is cut again and again.
//!
//! A cluster is loaded and its log compacted, so that whoever joins needs a snapshot. Clients put at a given rate (latencies count from when a put
//! was due, so a stall counts for all that it delays), first alone, then while a learner joins: every few seconds its connections are reset, and
//! for a second it gets no others. It ends once the learner has what the leader had committed a second before. Then the two must hold the same.

use crate::cluster::{Cluster, PATIENCE, eventually};
use crate::node::{BinaryOptions, Workspace, info_field};
use crate::resp::{Client, Reply};
use crate::{Outcome, ctx};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Options of `raft-snapshot`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    binaries: BinaryOptions,
    /// MiB of values that the cluster is loaded with.
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    size: u64,
    /// Bytes of a loaded value; they don't compress.
    #[arg(long, default_value_t = 4096)]
    value: usize,
    /// Members before the learner joins.
    #[arg(long, default_value_t = 3)]
    members: usize,
    /// Clients that put 256 bytes meanwhile.
    #[arg(long, default_value_t = 16)]
    clients: u32,
    /// Puts per second of all of them together; 0: each as fast as it is answered.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Seconds of load before the learner joins: as long as a transfer takes, or pauses of the disk that come once a minute are not among them.
    #[arg(long, default_value_t = 60)]
    before: u64,
    /// Seconds from cut to cut; 0: never.
    #[arg(long, default_value_t = 5)]
    cut_every: u64,
    /// Where the learner's data lie, if not beside the others': a new directory on another disk. What the leader's clients see of the learner's disk
    /// is then not in the numbers.
    #[arg(long, value_name = "DIR")]
    learner_dir: Option<PathBuf>,
    /// Also prints the 99th percentile of each second, to see what happened when.
    #[arg(long)]
    each_second: bool,
    /// Given up after so many seconds.
    #[arg(long, default_value_t = 600)]
    patience: u64,
    /// Further flags of the nodes, separated by blanks.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    flags: String,
    /// Seed of keys and values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How long the link stays refused.
const REFUSED: Duration = Duration::from_secs(1);
/// From probe to probe of the disk.
const PROBE_EVERY: Duration = Duration::from_millis(10);
/// Seconds without work, one after another, that count as rest, and ticks of a node in each of them, at most.
const SETTLED: u32 = 3;
const QUIET: u64 = 5;
const SETTLE_MAX: Duration = Duration::from_secs(300);
/// What a thread sleeps that measures how late it wakes.
const SLEEP: Duration = Duration::from_millis(1);
/// Values of the clients.
const PUT_BYTES: usize = 256;
const LOADERS: u64 = 4;
const PIPELINE: u64 = 16;
/// Keys that are compared at the end.
const COMPARED: u64 = 5_000;

/// Runs it.
pub fn run(options: &Options) -> Outcome {
    let binary = options.binaries.find()?.primary.with_file_name("raft-node");
    let workspace = Workspace::new("raft-snapshot")?;
    let elsewhere = options.learner_dir.as_deref();
    if let Some(dir) = elsewhere {
        ctx(fs::create_dir(dir), dir.display())?;
    }
    let outcome = join(options, &binary, workspace.path());
    if let (Some(dir), Ok(())) = (elsewhere, &outcome) {
        ctx(fs::remove_dir_all(dir), dir.display())?;
    }
    workspace.finish(outcome)
}

/// Spread over the whole range, so that every table gets some.
fn key(n: u64) -> String {
    format!(
        "{:016x}",
        n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    )
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Bytes of these fields of `/proc/PID/status`: resident, and of those not backed by files.
fn memory(pid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |field: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some((kib("VmRSS:")? << 10, kib("RssAnon:")? << 10))
}

/// Waits until the nodes have nothing to do but to stay together: what the load left to be compacted is.
fn settle(cluster: &Cluster) -> Outcome {
    let began = Instant::now();
    let used = || -> u64 {
        let running = cluster.children.iter().flatten();
        running.filter_map(|child| processor(child.id())).sum()
    };
    let (mut before, mut still) = (used(), 0);
    while still < SETTLED {
        if began.elapsed() > SETTLE_MAX {
            return Err("the nodes are busy though nobody asks them for anything".into());
        }
        std::thread::sleep(Duration::from_secs(1));
        let now = used();
        still = match now - before < QUIET * cluster.first as u64 {
            true => still + 1,
            false => 0,
        };
        before = now;
    }
    println!("settled after {:.0?}", began.elapsed());
    Ok(())
}

/// Ticks (hundredths of a second) of processor time that it has used.
fn processor(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name in parentheses: user and system time are the 14th and 15th field of all.
    let fields = text.rsplit_once(')')?.1.split_whitespace();
    fields.skip(11).take(2).map(|f| f.parse::<u64>().ok()).sum()
}

/// Peak of (resident, anonymous).
fn note(peak: &mut (u64, u64), pid: Option<u32>) {
    if let Some((resident, anonymous)) = pid.and_then(memory) {
        peak.0 = peak.0.max(resident);
        peak.1 = peak.1.max(anonymous);
    }
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

fn load(options: &Options, port: u16) -> Outcome<u64> {
    let count = (options.size << 20).div_ceil(options.value.max(1) as u64);
    let next = AtomicU64::new(0);
    let one = |loader: u64| -> Outcome {
        let mut rng = StdRng::seed_from_u64(options.seed.wrapping_mul(LOADERS) + loader);
        let mut client = ctx(Client::connect(address(port), PATIENCE), "loading")?;
        let mut value = vec![0; options.value];
        loop {
            let from = next.fetch_add(PIPELINE, Ordering::Relaxed);
            let batch = from..(from + PIPELINE).min(count);
            if batch.is_empty() {
                return Ok(());
            }
            for n in batch.clone() {
                rng.fill_bytes(&mut value);
                client.queue(&[b"SET", key(n).as_bytes(), &value]);
            }
            ctx(client.flush(), "loading")?;
            for _ in batch {
                match ctx(client.reply(), "loading")? {
                    reply if reply.is_ok() => {}
                    other => return Err(format!("loading: SET answered {}", other.text())),
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let loaders: Vec<_> = (0..LOADERS).map(|n| scope.spawn(move || one(n))).collect();
        loaders
            .into_iter()
            .try_for_each(|loader| loader.join().expect("a loader"))
    })?;
    Ok(count)
}

/// What the clients saw.
#[derive(Debug)]
struct Seen {
    began: Instant,
    /// (when it was due, latency) in microseconds.
    puts: Mutex<Vec<(u64, u64)>>,
    /// The same of one block, written and synced on the same disk by nobody's node.
    probes: Mutex<Vec<(u64, u64)>>,
    /// How late a thread woke that slept.
    sleeps: Mutex<Vec<(u64, u64)>>,
    failed: AtomicU64,
    stop: AtomicBool,
}

/// What the disk takes meanwhile, so that its own stalls are not taken for the nodes'.
fn probe(seen: &Seen, file: &fs::File) {
    let mut probes = Vec::new();
    while !seen.stop.load(Ordering::Relaxed) {
        let due = Instant::now();
        if file.write_all_at(&[7; 4096], 0).is_ok() && file.sync_data().is_ok() {
            probes.push((micros(due - seen.began), micros(due.elapsed())));
        }
        std::thread::sleep(PROBE_EVERY.saturating_sub(due.elapsed()));
    }
    *seen.probes.lock().unwrap_or_else(|p| p.into_inner()) = probes;
}

/// How late the machine runs who has slept, so that its pauses are not taken for the nodes' either: a put is a dozen of such wake-ups one after another.
fn sleeper(seen: &Seen) {
    let mut sleeps = Vec::new();
    while !seen.stop.load(Ordering::Relaxed) {
        let due = Instant::now() + SLEEP;
        std::thread::sleep(SLEEP);
        let late = Instant::now().saturating_duration_since(due);
        sleeps.push((micros(due - seen.began), micros(late)));
    }
    *seen.sleeps.lock().unwrap_or_else(|p| p.into_inner()) = sleeps;
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn put(seen: &Seen, options: &Options, port: u16, keys: u64, client: u32) {
    let seed = options.seed.wrapping_add(u64::from(client) << 32);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut connection: Option<Client> = None;
    let mut value = vec![0; PUT_BYTES];
    let mut puts = Vec::new();
    let every = match options.rate {
        0 => Duration::ZERO,
        rate => Duration::from_secs(1) * options.clients / rate,
    };
    let mut due = seen.began + every * client / options.clients.max(1);
    while !seen.stop.load(Ordering::Relaxed) {
        match options.rate {
            0 => due = Instant::now(),
            _ => std::thread::sleep(due.saturating_duration_since(Instant::now())),
        }
        if connection.is_none() {
            connection = Client::connect(address(port), Duration::from_secs(10)).ok();
        }
        rng.fill_bytes(&mut value);
        let key = key(rng.random_range(0..keys));
        let reply = connection
            .as_mut()
            .map(|c| c.command(&[b"SET", key.as_bytes(), &value]));
        match reply {
            Some(Ok(reply)) if reply.is_ok() => {
                puts.push((micros(due - seen.began), micros(due.elapsed())));
            }
            other => {
                if !matches!(other, Some(Ok(_))) {
                    connection = None;
                }
                seen.failed.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        due += every;
    }
    seen.puts
        .lock()
        .unwrap_or_else(|p| p.into_inner())
        .extend(puts);
}

struct Load {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(options: &Options, port: u16, keys: u64, dir: &Path) -> Outcome<Load> {
        let file = ctx(fs::File::create(dir.join("probe")), "the probe of the disk")?;
        let seen = Arc::new(Seen {
            began: Instant::now(),
            puts: Mutex::default(),
            probes: Mutex::default(),
            sleeps: Mutex::default(),
            failed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut threads: Vec<_> = (0..options.clients)
            .map(|client| {
                let (seen, options) = (Arc::clone(&seen), options.clone());
                std::thread::spawn(move || put(&seen, &options, port, keys, client))
            })
            .collect();
        let probed = Arc::clone(&seen);
        threads.push(std::thread::spawn(move || probe(&probed, &file)));
        let slept = Arc::clone(&seen);
        threads.push(std::thread::spawn(move || sleeper(&slept)));
        Ok(Load { seen, threads })
    }

    fn stop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Prints what took how long of what was due from one moment to another, and answers their 99th percentile.
fn percentiles(what: &str, all: &[(u64, u64)], from: Duration, to: Duration) -> u64 {
    let (from, to) = (micros(from), micros(to));
    let within = all.iter().filter(|(due, _)| (from..to).contains(due));
    let mut all: Vec<u64> = within.map(|(_, took)| *took).collect();
    all.sort_unstable();
    let at = |part: f64| match all.len() {
        0 => 0,
        n => all[((n as f64 * part) as usize).min(n - 1)],
    };
    println!(
        "{what:<21} {:>7.1} s {:>7.0} a second   p50 {:>8.2} ms   p99 {:>8.2} ms   p99.9 {:>8.2} ms   max {:>8.2} ms",
        (to - from) as f64 / 1e6,
        all.len() as f64 * 1e6 / (to - from).max(1) as f64,
        at(0.5) as f64 / 1e3,
        at(0.99) as f64 / 1e3,
        at(0.999) as f64 / 1e3,
        at(1.0) as f64 / 1e3,
    );
    at(0.99)
}

/// The 99th percentile of each second, in order.
fn each_second(all: &[(u64, u64)], from: Duration, to: Duration) -> Vec<u64> {
    let mut seconds: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let within = micros(from)..micros(to);
    for (due, took) in all.iter().filter(|(due, _)| within.contains(due)) {
        seconds.entry(due / 1_000_000).or_default().push(*took);
    }
    let p99 = |mut second: Vec<u64>| {
        second.sort_unstable();
        second[second.len() * 99 / 100]
    };
    seconds.into_values().map(p99).collect()
}

/// The median of each second's 99th percentile: a few stalls of the disk in a run decide the whole's, and leave this one alone.
fn median_second(all: &[(u64, u64)], from: Duration, to: Duration) -> u64 {
    let mut seconds = each_second(all, from, to);
    seconds.sort_unstable();
    seconds.get(seconds.len() / 2).copied().unwrap_or(0)
}

fn info(cluster: &Cluster, at: usize) -> Option<String> {
    let mut client = cluster.connect(at, Duration::from_secs(5))?;
    Some(client.line("INFO raft").ok()?.text())
}

fn number(info: &str, field: &str) -> Option<u64> {
    info_field(info, field)?.parse().ok()
}

fn join(options: &Options, binary: &Path, dir: &Path) -> Outcome {
    let learner = options.members;
    let mut cluster = Cluster::new(binary, dir, learner + 1, 500)?;
    cluster.first = learner;
    let elsewhere = options.learner_dir.iter();
    cluster.elsewhere = elsewhere.map(|dir| (learner, dir.join("node"))).collect();
    cluster.flags = options
        .flags
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    for at in 0..learner {
        cluster.start(at, &["--bootstrap"])?;
    }
    let leader = cluster.some_leader()?;
    let began = Instant::now();
    let keys = load(options, cluster.clients[leader])?;
    println!(
        "loaded with {keys} values of {} bytes in {:.0?}",
        options.value,
        began.elapsed()
    );
    for at in 0..learner {
        let mut client = cluster.connect(at, PATIENCE).ok_or("a node is gone")?;
        let reply = ctx(client.line("RAFT.SNAPSHOT"), "RAFT.SNAPSHOT")?;
        if matches!(reply, Reply::Error(_)) {
            return Err(format!("RAFT.SNAPSHOT: {}", reply.text()));
        }
    }
    eventually("a log that is compacted", || {
        (number(&info(&cluster, leader)?, "raft_log_begins_behind")? > 0).then_some(())
    })?;
    // What the load left to be compacted and written is not the snapshot's, and would make what it is compared with worse than it is.
    settle(&cluster)?;
    rustix::fs::sync();
    let mut load = Load::start(options, cluster.clients[leader], keys, dir)?;
    let pid = |cluster: &Cluster, at: usize| cluster.children[at].as_ref().map(|c| c.id());
    let (mut before, mut of_leader, mut of_learner) = ((0, 0), (0, 0), (0, 0));
    std::thread::sleep(Duration::from_secs(2));
    let quiet_from = load.seen.began.elapsed();
    let end = Instant::now() + Duration::from_secs(options.before);
    while Instant::now() < end {
        note(&mut before, pid(&cluster, leader));
        std::thread::sleep(Duration::from_millis(100));
    }
    cluster.start(learner, &["--join"])?;
    let id = learner + 1;
    let add = format!(
        "RAFT.ADD-LEARNER {id} tcp://127.0.0.1:{}",
        cluster.network.public[learner]
    );
    let joins_from = load.seen.began.elapsed();
    let mut client = cluster
        .connect(leader, PATIENCE)
        .ok_or("the leader is gone")?;
    let reply = ctx(client.line(&add), "RAFT.ADD-LEARNER")?;
    if matches!(reply, Reply::Error(_)) {
        return Err(format!("{add}: {}", reply.text()));
    }
    let watched = watch(options, &mut cluster, leader, learner, |cluster| {
        note(&mut of_leader, pid(cluster, leader));
        note(&mut of_learner, pid(cluster, learner));
    });
    let joins_to = load.seen.began.elapsed();
    let cuts = watched?;
    std::thread::sleep(Duration::from_secs(5));
    let after_to = load.seen.began.elapsed();
    load.stop();
    cluster.network.heal();
    equal(&cluster, leader, learner, keys, options.seed)?;
    let output = fs::read_to_string(dir.join(format!("n{id}.out"))).unwrap_or_default();
    let puts = load.seen.puts.lock().unwrap_or_else(|p| p.into_inner());
    let probes = load.seen.probes.lock().unwrap_or_else(|p| p.into_inner());
    let sleeps = load.seen.sleeps.lock().unwrap_or_else(|p| p.into_inner());
    let phase = |what: &str, from, to| {
        percentiles(&format!("  a sleeper, {what}"), &sleeps, from, to);
        percentiles(&format!("  the disk, {what}"), &probes, from, to);
        percentiles(what, &puts, from, to)
    };
    let p99 = phase("before", quiet_from, joins_from);
    let during = phase("joining", joins_from, joins_to);
    phase("after", joins_to, after_to);
    if options.each_second {
        for (what, from, to) in [
            ("before", quiet_from, joins_from),
            ("joining", joins_from, joins_to),
        ] {
            let seconds = each_second(&puts, from, to);
            let texts = seconds
                .iter()
                .map(|p99| format!("{:.1}", *p99 as f64 / 1e3));
            println!("ms, {what}: {}", texts.collect::<Vec<_>>().join(" "));
        }
    }
    let (calm, busy) = (
        median_second(&puts, quiet_from, joins_from),
        median_second(&puts, joins_from, joins_to),
    );
    println!(
        "p99 of the median second: before {:.2} ms, joining {:.2} ms: {:.2} times",
        calm as f64 / 1e3,
        busy as f64 / 1e3,
        busy as f64 / calm.max(1) as f64,
    );
    println!(
        "p99 at the leader: {:.2} times that of before; {} puts failed; node {} leads, as before: {}",
        during as f64 / p99.max(1) as f64,
        load.seen.failed.load(Ordering::Relaxed),
        cluster.some_leader()? + 1,
        cluster.some_leader()? == leader,
    );
    println!(
        "caught up after {:.1} s, {cuts} cuts, {} snapshots begun or resumed; what the two hold is equal",
        (joins_to - joins_from).as_secs_f64(),
        output.matches("a snapshot begins to arrive").count(),
    );
    for at in 0..=learner {
        let output = fs::read_to_string(dir.join(format!("n{}.out", at + 1))).unwrap_or_default();
        let warned = |line: &&str| line.contains(" WARN ") && !line.contains("metrics");
        for line in output.lines().filter(warned).take(10) {
            println!("node {}: {line}", at + 1);
        }
    }
    println!(
        "peak memory in MiB, resident (anonymous): leader before {} ({}), meanwhile {} ({}); learner {} ({})",
        mib(before.0),
        mib(before.1),
        mib(of_leader.0),
        mib(of_leader.1),
        mib(of_learner.0),
        mib(of_learner.1),
    );
    Ok(())
}

/// Cuts the learner's link until it has caught up: how often that was.
fn watch(
    options: &Options,
    cluster: &mut Cluster,
    leader: usize,
    learner: usize,
    mut sample: impl FnMut(&Cluster),
) -> Outcome<u32> {
    let began = Instant::now();
    let every = Duration::from_secs(options.cut_every);
    let (mut cuts, mut cut_at, mut refused) = (0, began + every, false);
    let (mut asked, mut said) = (began, began);
    // (when, committed) at the leader.
    let mut committed: VecDeque<(Instant, u64)> = VecDeque::new();
    loop {
        let now = Instant::now();
        if refused && now >= cut_at + REFUSED {
            cluster.network.heal();
            refused = false;
            cut_at += every;
        } else if !refused && !every.is_zero() && now >= cut_at {
            cluster.network.refuse(learner);
            refused = true;
            cuts += 1;
        }
        sample(cluster);
        if now >= asked {
            asked = now + Duration::from_millis(250);
            cluster.all_live()?;
            let (at_leader, at_learner) = (info(cluster, leader), info(cluster, learner));
            let at = at_leader
                .as_deref()
                .and_then(|i| number(i, "raft_committed_index"));
            let applied = at_learner
                .as_deref()
                .and_then(|i| number(i, "raft_applied_index"));
            committed.extend(at.map(|at| (now, at)));
            while committed
                .get(1)
                .is_some_and(|(when, _)| *when + Duration::from_secs(1) <= now)
            {
                committed.pop_front();
            }
            let goal = committed
                .front()
                .filter(|(when, _)| *when + Duration::from_secs(1) <= now);
            if goal
                .zip(applied)
                .is_some_and(|((_, goal), applied)| applied >= *goal)
            {
                return Ok(cuts);
            }
            if now >= said {
                said = now + Duration::from_secs(5);
                let peer =
                    at_leader.and_then(|i| info_field(&i, &format!("raft_peer{}", learner + 1)));
                println!(
                    "{:>5.0} s  committed {}, applied by the learner {}; {}",
                    began.elapsed().as_secs_f64(),
                    at.unwrap_or(0),
                    applied.unwrap_or(0),
                    peer.unwrap_or_default(),
                );
            }
        }
        if began.elapsed() > Duration::from_secs(options.patience) {
            return Err(format!(
                "the learner did not catch up within {} s",
                options.patience
            ));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The learner holds what the leader holds, of the keys that are asked for.
fn equal(cluster: &Cluster, leader: usize, learner: usize, keys: u64, seed: u64) -> Outcome {
    let read = |at: usize| {
        eventually("what a node holds", || {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut client = cluster.connect(at, PATIENCE)?;
            let mut all = vec![client.line("DBSIZE").ok()?];
            for _ in 0..COMPARED.min(keys) {
                all.push(
                    client
                        .line(&format!("GET {}", key(rng.random_range(0..keys))))
                        .ok()?,
                );
            }
            (!all.iter().any(|reply| matches!(reply, Reply::Error(_)))).then_some(all)
        })
    };
    let (here, there) = (read(leader)?, read(learner)?);
    match here.iter().zip(&there).filter(|(a, b)| a != b).count() {
        0 => Ok(()),
        n => Err(format!(
            "{n} of {} answers of the learner differ from the leader's",
            here.len()
        )),
    }
}
