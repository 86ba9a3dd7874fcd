//! What a seed does to a cluster, and what must hold afterwards.

use crate::clients::{self, App, World, number};
use crate::history::{self, Done, Event};
use crate::nodes::{Cluster, LONG, Made, id};
use esker_lsm::StoreOptions;
use esker_raft::core::{Lease, Options};
use esker_raft::machine::LsmMachine;
use esker_raft::runtime::NodeOptions;
use esker_wal::media::sim::{CallKind, Fault, SimRng};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const CLIENTS: u32 = 6;
const TICK: Duration = Duration::from_millis(20);

/// How often what happened.
pub type Seen = BTreeMap<&'static str, u64>;

/// What can be done to a cluster.
pub const FAULTS: &[&str] = &[
    "the leader loses power",
    "one loses power",
    "all lose power",
    "the leader loses power at a call",
    "the leader is killed",
    "one is killed",
    "all are killed",
    "a sync of the leader fails",
    "a sync fails",
    "the leader is cut off",
    "one is cut off",
    "the leader is in a minority",
    "the leader hears nobody",
    "nobody hears the leader",
    "a link in one direction",
    "a bridge between two groups",
    "late packets, in another order",
    "loss and repetition",
    "a transfer",
    "a transfer, and power cut",
    "a transfer, and the old leader hears nobody",
    "a snapshot",
];

/// What follows from it, and must be met in a long run.
pub const PATHS: &[&str] = &[
    "a start refused behind a failed sync",
    "outcome not known",
    "power lost during a start",
    "read without an answer",
    "refused as not executed",
    "stopped by a failed sync",
    "tried again under a session",
];

struct Storm<'a> {
    world: &'a World,
    rng: SimRng,
    /// Their disks were told to fail.
    spoilt: BTreeSet<usize>,
    faults: Vec<&'static str>,
}

impl Storm<'_> {
    fn cluster(&self) -> &Cluster {
        &self.world.cluster
    }

    fn one(&mut self) -> usize {
        self.rng.below(self.world.cluster.len() as u64) as usize
    }

    fn cut(&self, links: impl IntoIterator<Item = (usize, usize)>) {
        for (from, to) in links {
            self.cluster().network.cut(id(from), id(to));
        }
    }

    /// The process ends, and what its disk was told to do is over.
    fn end(&mut self, at: usize, power: bool) {
        let cluster = &self.world.cluster;
        let seed = self.rng.next_u64();
        match power || cluster.media(at).is_down() {
            true => cluster.power_cut(at, seed),
            false => cluster.kill(at),
        }
        cluster.media(at).heal();
        self.spoilt.remove(&at);
    }

    fn fail_a_sync(&mut self, at: usize, soon: u64) {
        let nth = Fault::nth(1 + self.rng.below(soon));
        let nth = nth.of(CallKind::SyncMap).of(CallKind::SyncFile);
        self.cluster().media(at).fail(nth);
        self.spoilt.insert(at);
    }

    fn inflict(&mut self, fault: &'static str) {
        let world = self.world;
        let cluster = &world.cluster;
        let nodes = cluster.len();
        let one = self.one();
        let other = (one + 1 + self.rng.below(nodes as u64 - 1) as usize) % nodes;
        let leader = cluster.leads().unwrap_or(one);
        let others = |of: usize| (0..nodes).filter(move |at| *at != of);
        match fault {
            "the leader loses power" => self.end(leader, true),
            "one loses power" => self.end(one, true),
            "all lose power" => (0..nodes).for_each(|at| self.end(at, true)),
            "the leader loses power at a call" => {
                let call = 1 + self.rng.below(60);
                cluster.media(leader).cut_at_call(call);
                self.spoilt.insert(leader);
            }
            "the leader is killed" => self.end(leader, false),
            "one is killed" => self.end(one, false),
            "all are killed" => (0..nodes).for_each(|at| self.end(at, false)),
            "a sync of the leader fails" | "a sync fails" => {
                let at = if fault == "a sync fails" { one } else { leader };
                self.fail_a_sync(at, 20);
            }
            "the leader is cut off" => cluster.network.isolate(id(leader)),
            "one is cut off" => cluster.network.isolate(id(one)),
            "the leader is in a minority" => {
                let minority = nodes.div_ceil(2) - 1;
                let with: BTreeSet<usize> = (0..minority).map(|n| (leader + n) % nodes).collect();
                let across = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
                self.cut(across.filter(|(from, to)| with.contains(from) != with.contains(to)));
            }
            "the leader hears nobody" => self.cut(others(leader).map(|at| (at, leader))),
            "nobody hears the leader" => self.cut(others(leader).map(|at| (leader, at))),
            "a link in one direction" => self.cut([(one, other)]),
            "a bridge between two groups" => {
                let side: Vec<bool> = (0..nodes).map(|_| self.rng.chance(2)).collect();
                let across = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
                let bridge = |at: usize| at == one;
                self.cut(across.filter(|(from, to)| {
                    side[*from] != side[*to] && !bridge(*from) && !bridge(*to)
                }));
            }
            "late packets, in another order" => cluster.network.delay(2 + self.rng.below(20)),
            "loss and repetition" => {
                let (lost, twice) = (2 + self.rng.below(20), 2 + self.rng.below(10));
                cluster.network.disturb(lost, twice);
            }
            "a transfer" | "a transfer, and power cut" => {
                if let Some(up) = cluster.up(leader) {
                    let _ = up.node.handle().transfer(id((leader + 1) % nodes));
                }
                if fault != "a transfer" {
                    std::thread::sleep(Duration::from_millis(self.rng.below(15)));
                    let at = if self.rng.chance(2) {
                        leader
                    } else {
                        (leader + 1) % nodes
                    };
                    self.end(at, true);
                }
            }
            "a transfer, and the old leader hears nobody" => {
                if let Some(up) = cluster.up(leader) {
                    let _ = up.node.handle().transfer(id((leader + 1) % nodes));
                }
                std::thread::sleep(Duration::from_micros(self.rng.below(500)));
                self.cut(others(leader).map(|at| (at, leader)));
            }
            "a snapshot" => {
                if let Some(up) = cluster.up(one) {
                    let _ = up.node.handle().checkpoint();
                }
            }
            other => unreachable!("{other}"),
        }
    }

    /// All is well again, but for what the power does during a start.
    fn heal(&mut self, last: bool) -> Result<(), String> {
        let world = self.world;
        let cluster = &world.cluster;
        cluster.network.heal();
        cluster.network.disturb(0, 0);
        cluster.network.delay(0);
        for at in 0..cluster.len() {
            if let Some(up) = cluster.up(at) {
                let down = up.node.handle().down();
                let spoilt = self.spoilt.contains(&at);
                match down {
                    Some(why) if !spoilt => return Err(format!("{} ended: {why}", id(at))),
                    Some(_) if !cluster.media(at).is_down() => {
                        world.saw("stopped by a failed sync")
                    }
                    _ => {}
                }
                drop(up);
                if spoilt {
                    let power = self.rng.chance(3);
                    self.end(at, power);
                }
            }
            while cluster.up(at).is_none() {
                let media = cluster.media(at);
                match self.rng.below(12) {
                    _ if last => {}
                    0 | 1 => {
                        media.cut_at_call(1 + self.rng.below(150));
                        self.spoilt.insert(at);
                    }
                    2 => self.fail_a_sync(at, 8),
                    _ => {}
                }
                if let Err(error) = cluster.try_start(at) {
                    world.saw(match (media.is_down(), self.spoilt.contains(&at)) {
                        (true, _) => "power lost during a start",
                        (false, true) => "a start refused behind a failed sync",
                        (false, false) => {
                            return Err(format!("{} does not start: {error}", id(at)));
                        }
                    });
                    self.end(at, true);
                }
            }
        }
        Ok(())
    }

    fn rage(&mut self, long: Duration) -> Result<(), String> {
        let end = Instant::now() + long;
        while Instant::now() < end {
            let fault = self.faults[self.rng.below(self.faults.len() as u64) as usize];
            self.world.saw(fault);
            self.inflict(fault);
            std::thread::sleep(Duration::from_millis(20 + self.rng.below(700)));
            if !self.rng.chance(3) {
                self.heal(false)?;
                std::thread::sleep(Duration::from_millis(20 + self.rng.below(500)));
            }
        }
        self.heal(true)?;
        // Twice: the first may have left a cut that was to come during a start, and came later.
        self.heal(true)
    }
}

fn due<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> Result<T, String> {
    let end = Instant::now() + LONG;
    loop {
        if let Some(value) = get() {
            return Ok(value);
        }
        if Instant::now() > end {
            return Err(format!("{what} did not come about"));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

fn build(rng: &mut SimRng) -> Cluster {
    let members = if rng.chance(3) { 5 } else { 3 };
    let lease = Lease {
        tick_micros: TICK.as_micros() as u64,
        drift_per_mille: 100,
    };
    let options = NodeOptions {
        core: Options {
            lease: rng.chance(3).then_some(lease),
            tail_bytes_max: 1 << (9 + rng.below(12)),
            append_bytes_max: 1 << (8 + rng.below(12)),
            ..Options::default()
        },
        tick: TICK,
        request_timeout: Duration::from_secs(1),
        log_entries_kept: 1 + rng.below(200),
        compact_entries_min: 10 + rng.below(60),
        ..NodeOptions::default()
    };
    let memtable_bytes = (4 + rng.below(28) as usize) << 10;
    let cluster = Cluster::new(members, options, 64 << 10, move |media| {
        let mut state = StoreOptions {
            memtable_bytes,
            memtables_max: 2,
            block_bytes: 256,
            table_bytes: 4 << 10,
            l0_tables: (2, 4, 8),
            level_base_bytes: 16 << 10,
            ..StoreOptions::default()
        };
        state.log.media = Arc::new(media.clone());
        let machine = LsmMachine::open(Path::new("state"), esker_wal::LogId(5), state, App)?;
        Ok(Made {
            reader: machine.reader(),
            machine: Box::new(machine),
            beside: Box::new(|_| ()),
        })
    });
    let dirty = rng.below(40);
    (0..members).for_each(|at| cluster.media(at).write_back_one_in(dirty));
    cluster
}

/// After the storm: writes go on, all nodes hold the same, and that is what the clients find.
fn settle(world: &World) -> Result<(), String> {
    let healed = world.now();
    due("a write after the faults", || {
        (world.wrote.load(Ordering::Relaxed) > healed).then_some(())
    })
}

fn judge(world: &World) -> Result<(), String> {
    let began = world.now();
    let cluster = &world.cluster;
    for at in 0..cluster.len() {
        due("a read at each node at the end", || {
            let up = cluster.up(at)?;
            up.node.handle().read_barrier(LONG).ok()
        })?;
    }
    let all = due("all nodes hold the same", || {
        let mut all = Vec::new();
        for at in 0..cluster.len() {
            let state = cluster.up(at)?.reader.snapshot();
            let rows = state.scan(b"", None).ok()?;
            all.push(rows.collect::<Result<BTreeMap<_, _>, _>>().ok()?);
        }
        let same = all.iter().all(|rows| *rows == all[0]);
        same.then(|| all.remove(0))
    })?;
    let mut events = std::mem::take(&mut *world.events.lock().unwrap());
    let keys: BTreeSet<String> = events.iter().map(|e| e.key.clone()).collect();
    // What they hold is what one more client reads: nothing acknowledged is lost.
    events.extend(keys.into_iter().map(|key| Event {
        client: 0,
        done: Done::Read(number(all.get(key.as_bytes()))),
        key,
        began,
        ended: Some(world.now()),
    }));
    let commands = events.len() as u64;
    let histories = history::check(events)? as u64;
    let mut counts = world.counts.lock().unwrap();
    counts.insert("commands", commands);
    counts.insert("histories, each explained by one order", histories);
    Ok(())
}

/// Some of them: what comes rarely among all comes often among few.
pub fn some_faults(seed: u64) -> Vec<&'static str> {
    let mut rng = SimRng::new(!seed);
    let sure = FAULTS[rng.below(FAULTS.len() as u64) as usize];
    let mut faults: Vec<_> = (FAULTS.iter().copied()).filter(|_| rng.chance(3)).collect();
    faults.push(sure);
    faults
}

/// One cluster under one seed and these kinds of fault.
pub fn run(seed: u64, long: Duration, faults: &[&'static str]) -> Result<Seen, String> {
    let mut rng = SimRng::new(seed);
    let world = World {
        cluster: build(&mut rng),
        began: Instant::now(),
        events: Default::default(),
        counts: Default::default(),
        wrote: 0.into(),
        stop: false.into(),
    };
    let stormed = std::thread::scope(|scope| {
        for client in 1..=CLIENTS {
            let world = &world;
            scope.spawn(move || clients::run(world, client, seed));
        }
        let mut storm = Storm {
            world: &world,
            rng,
            spoilt: BTreeSet::new(),
            faults: faults.to_vec(),
        };
        let stormed = storm.rage(long).and_then(|()| settle(&world));
        world.stop.store(true, Ordering::Relaxed);
        stormed
    });
    stormed?;
    judge(&world)?;
    Ok(world.counts.into_inner().unwrap())
}
