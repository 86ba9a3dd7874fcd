//! `cargo xtask crash`: the real binaries killed, and their disk cut, at random moments under load.
//!
//! Every round ends with the same question to every node: is what was acknowledged there, and is the rest a prefix of
//! what was on its way ([`crate::load`])? A start that is refused or does not end is a failure too.

use crate::Outcome;
use crate::demo::wait_equal;
use crate::disk::Disk;
use crate::load::{Ended, Worker, watch};
use crate::node::{Binaries, BinaryOptions, Node, Setup, Workspace};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WORKERS: usize = 4;
const DISK_MIB: u64 = 3072;

/// What is done to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A primary alone, kill -9.
    Alone,
    /// A primary with a replica attached; either or both are killed.
    Pair,
    /// A primary alone on a disk whose power is cut.
    Power,
    /// A primary on such a disk, with a replica attached.
    PowerPrimary,
    /// A replica on such a disk, while the primary writes.
    PowerReplica,
}

/// Options of the crash run.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    binaries: BinaryOptions,
    /// Rounds of each kind.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Seed of moments and load.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Kinds of rounds; all by default.
    #[arg(long = "kind", value_enum)]
    kinds: Vec<Kind>,
    /// Durability of the servers.
    #[arg(long, default_value = "always")]
    durability: String,
    /// Longest load before a crash, in milliseconds.
    #[arg(long, default_value_t = 400)]
    load_ms: u64,
}

/// Runs the rounds.
pub fn run(options: &Options) -> Outcome {
    let binaries = options.binaries.find()?;
    let all = [
        Kind::Alone,
        Kind::Pair,
        Kind::Power,
        Kind::PowerPrimary,
        Kind::PowerReplica,
    ];
    let kinds = if options.kinds.is_empty() {
        &all[..]
    } else {
        &options.kinds[..]
    };
    for kind in kinds {
        rounds(&binaries, *kind, options)?;
    }
    Ok(())
}

/// Rounds of one kind, for tests.
pub fn short(binaries: &Binaries, kind: Kind, count: u32, seed: u64) -> Outcome {
    let options = Options {
        binaries: BinaryOptions::dev(),
        rounds: count,
        seed,
        kinds: Vec::new(),
        durability: "always".into(),
        load_ms: 200,
    };
    rounds(binaries, kind, &options)
}

fn rounds(binaries: &Binaries, kind: Kind, options: &Options) -> Outcome {
    println!(
        "crash {kind:?}: {} rounds, seed {}",
        options.rounds, options.seed
    );
    let workspace = Workspace::new("crash")?;
    let disk = match kind {
        Kind::Alone | Kind::Pair => None,
        _ => match Disk::new(workspace.path(), DISK_MIB) {
            Ok(disk) => Some(disk),
            Err(why) => {
                println!(
                    "crash {kind:?}: SKIPPED, this machine does not let us mount a disk: {why}"
                );
                return Ok(());
            }
        },
    };
    let mut run = Run::new(binaries, kind, options, &workspace, disk);
    let outcome = run.all(options.rounds).map_err(|error| {
        format!(
            "crash {kind:?}, seed {}, round {}: {error}\n{}",
            options.seed,
            run.round,
            run.tails()
        )
    });
    // Nodes first, then the disk, then its directory.
    run.primary_node = None;
    run.replica_node = None;
    run.disk = None;
    drop(run);
    workspace.finish(outcome)
}

struct Run {
    kind: Kind,
    round: u32,
    rng: StdRng,
    load_ms: u64,
    primary: Setup,
    replica: Option<Setup>,
    primary_node: Option<Node>,
    replica_node: Option<Node>,
    disk: Option<Disk>,
    workers: Vec<Worker>,
    slowest_start: Duration,
    slowest_level: Duration,
    refused: u64,
    /// Of the last round: the newest epoch and how many there are.
    epochs: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Primary,
    Replica,
    Both,
}

fn epochs(node: &Node) -> Outcome<String> {
    let field = |name: &str| {
        node.info(name)?
            .ok_or_else(|| format!("INFO has no {name}"))
    };
    Ok(format!(
        "{} ({} in all)",
        field("esker_epoch")?,
        field("esker_epochs")?
    ))
}

impl Run {
    fn new(
        binaries: &Binaries,
        kind: Kind,
        options: &Options,
        workspace: &Workspace,
        disk: Option<Disk>,
    ) -> Run {
        let dir = workspace.path();
        let on_disk = disk
            .as_ref()
            .map_or_else(|| dir.to_path_buf(), |disk| disk.path().to_path_buf());
        let primary_dir = if kind == Kind::PowerReplica {
            dir.to_path_buf()
        } else {
            on_disk.clone()
        };
        let replica_dir = if kind == Kind::PowerPrimary {
            dir.to_path_buf()
        } else {
            on_disk
        };
        let primary = Setup::primary(
            binaries,
            &primary_dir.join("primary"),
            &dir.join("primary.out"),
        )
        .with(&["--durability", &options.durability]);
        let replica =
            matches!(kind, Kind::Pair | Kind::PowerPrimary | Kind::PowerReplica).then(|| {
                Setup::replica(
                    binaries,
                    &replica_dir.join("replica"),
                    &dir.join("replica.out"),
                    &primary,
                )
            });
        Run {
            kind,
            round: 0,
            rng: StdRng::seed_from_u64(options.seed),
            load_ms: options.load_ms.max(10),
            primary,
            replica,
            primary_node: None,
            replica_node: None,
            disk,
            workers: Worker::several(WORKERS, options.seed),
            slowest_start: Duration::ZERO,
            slowest_level: Duration::ZERO,
            refused: 0,
            epochs: None,
        }
    }

    fn tails(&self) -> String {
        [&self.primary_node, &self.replica_node]
            .into_iter()
            .flatten()
            .map(Node::tail)
            .collect()
    }

    fn all(&mut self, rounds: u32) -> Outcome {
        let began = Instant::now();
        for round in 1..=rounds {
            self.round = round;
            self.one()?;
            if round % 10 == 0 || round == rounds {
                println!(
                    "  round {round}: {} writes acknowledged, none lost; slowest start {:?}, slowest catch-up {:?}",
                    self.workers
                        .iter()
                        .map(|worker| worker.acknowledged)
                        .sum::<u64>(),
                    self.slowest_start,
                    self.slowest_level,
                );
            }
        }
        for node in [&mut self.replica_node, &mut self.primary_node]
            .into_iter()
            .flatten()
        {
            let status = node.terminate(Duration::from_secs(30))?;
            if !status.success() {
                return Err(format!(
                    "{} ended with {status} at SIGTERM",
                    node.setup().name
                ));
            }
        }
        println!(
            "crash {:?}: {rounds} rounds ok in {:.1} s{}",
            self.kind,
            began.elapsed().as_secs_f64(),
            if self.disk.is_some() {
                format!("; {} replies refused after the cut", self.refused)
            } else {
                String::new()
            },
        );
        Ok(())
    }

    /// Starts what is down, judges, loads, and crashes.
    fn one(&mut self) -> Outcome {
        let primary_was_down = self.primary_node.is_none();
        let replica_was_down = self.replica_node.is_none() && self.replica.is_some();

        // Now and then the next crash comes while recovery runs.
        if primary_was_down && self.disk.is_none() && self.rng.random_ratio(1, 8) {
            let mut node = self.primary.spawn()?;
            std::thread::sleep(Duration::from_micros(self.rng.random_range(0..40_000)));
            node.kill()?;
        }
        if primary_was_down {
            let began = Instant::now();
            self.primary_node = Some(self.primary.start()?);
            self.slowest_start = self.slowest_start.max(began.elapsed());
        }
        if replica_was_down {
            let began = Instant::now();
            self.replica_node = self.replica.as_ref().map(Setup::start).transpose()?;
            self.slowest_start = self.slowest_start.max(began.elapsed());
        }
        if primary_was_down {
            self.judge()?;
        }
        if let (Some(primary), Some(replica)) = (&self.primary_node, &self.replica_node) {
            let took = wait_equal(primary, replica, Duration::from_secs(60))?;
            self.slowest_level = self.slowest_level.max(took);
            let mut client = replica.client()?;
            for worker in &self.workers {
                worker
                    .judge_copy(&mut client)
                    .map_err(|error| format!("replica: {error}"))?;
            }
            let (here, there) = (epochs(primary)?, epochs(replica)?);
            if here != there {
                return Err(format!(
                    "the epochs differ: {here} on the primary, {there} on the replica"
                ));
            }
            if !primary_was_down && self.epochs.as_ref().is_some_and(|before| *before != here) {
                return Err(format!(
                    "a replica's restart changed the epochs: {:?} to {here}",
                    self.epochs
                ));
            }
            self.epochs = Some(here);
        }
        self.crash_under_load()
    }

    fn judge(&mut self) -> Outcome {
        let node = self.primary_node.as_ref().ok_or("no primary")?;
        let mut client = node.client()?;
        for worker in &mut self.workers {
            worker.judge(&mut client)?;
        }
        Ok(())
    }

    fn crash_under_load(&mut self) -> Outcome {
        let victim = match self.kind {
            Kind::Alone | Kind::Power | Kind::PowerPrimary => Victim::Primary,
            Kind::PowerReplica => Victim::Replica,
            Kind::Pair => match self.rng.random_range(0..5) {
                0..2 => Victim::Primary,
                2..4 => Victim::Replica,
                _ => Victim::Both,
            },
        };
        // Short ones are as likely as long ones.
        let wait = Duration::from_secs_f64(
            (self.rng.random_range(0.0..(self.load_ms as f64 / 5.0).ln()) + 5.0_f64.ln()).exp()
                / 1e3,
        );
        let after = Duration::from_micros(self.rng.random_range(0..50_000));
        let stop = AtomicBool::new(false);
        let addr = self.primary.listen;
        let (primary, replica, disk) = (&mut self.primary_node, &mut self.replica_node, &self.disk);
        let seen: Vec<_> = self
            .workers
            .iter()
            .map(|worker| worker.seen.clone())
            .collect();
        let workers = &mut self.workers;
        let ended = std::thread::scope(|scope| -> Outcome<Vec<Ended>> {
            let watcher = scope.spawn(|| watch(addr, &seen, &stop));
            let running: Vec<_> = workers
                .iter_mut()
                .map(|worker| scope.spawn(|| worker.run(addr, &stop)))
                .collect();
            std::thread::sleep(wait);
            let crash = (|| -> Outcome {
                if let Some(disk) = disk {
                    disk.cut()?;
                    // What is acknowledged from here on would be lost, and found out.
                    std::thread::sleep(after);
                }
                if victim != Victim::Replica
                    && let Some(mut node) = primary.take()
                {
                    node.kill()?;
                }
                if victim != Victim::Primary
                    && let Some(mut node) = replica.take()
                {
                    node.kill()?;
                }
                if victim == Victim::Replica {
                    // The primary goes on alone for a while.
                    std::thread::sleep(after);
                }
                Ok(())
            })();
            stop.store(true, Ordering::Relaxed);
            watcher.join().map_err(|_| "the watcher panicked")?;
            let mut ended = Vec::new();
            for thread in running {
                ended.push(thread.join().map_err(|_| "a worker panicked")??);
            }
            crash.map(|()| ended)
        })?;
        if let Some(disk) = &mut self.disk {
            disk.unmount()?;
            disk.mount()?;
        }
        let primary_cut = self.kind == Kind::Power || self.kind == Kind::PowerPrimary;
        for end in ended {
            match end {
                Ended::Stopped => {}
                Ended::Broken if victim != Victim::Replica => {}
                Ended::Broken => {
                    return Err("the primary hung up while only the replica was killed".into());
                }
                Ended::Refused(error) if primary_cut && error.starts_with("MISCONF") => {
                    self.refused += 1
                }
                Ended::Refused(error) => return Err(format!("a write was refused: {error}")),
            }
        }
        Ok(())
    }
}
