//! A cluster of cores in virtual time: what a seed does to it, and what must hold at every step.
//!
//! Each node has a disk that keeps apart what is written from what is synced, a clock that runs at its own rate, and a network
//! that loses, repeats, delays and reorders, and is partitioned in one direction or both. Nodes crash, with any prefix of what was
//! not synced surviving, are paused, lose synced entries to bit rot (which recovery reports), and change membership, hand over and
//! compact. A seed replays exactly.

use bytes::Bytes;
use esker_raft::core::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

pub(crate) const NODES: u64 = 5;
const TICK: u64 = 10_000;
/// Virtual length of the part with faults, and of the one without.
const STORM: u64 = 6_000_000;
const CALM: u64 = 4_000_000;

/// SplitMix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a node has on stable storage.
#[derive(Clone, Default)]
struct Disk {
    hard: HardState,
    snapshot: SnapshotMeta,
    entries: Vec<Entry>,
    abstain: Abstain,
}

impl Disk {
    fn write(&mut self, write: &Write) {
        match write {
            Write::HardState(hard) => self.hard = *hard,
            Write::Append(entries) => {
                for entry in entries {
                    self.entries.retain(|e| e.id.index < entry.id.index);
                    self.entries.push(entry.clone());
                }
            }
            Write::Snapshot(meta) => {
                self.snapshot = meta.clone();
                self.entries.clear();
            }
        }
    }

    fn compact(&mut self, meta: SnapshotMeta) {
        self.entries.retain(|e| e.id.index > meta.last.index);
        self.snapshot = meta;
    }
}

struct Node {
    core: Option<Core>,
    disk: Disk,
    /// What is written, synced or not; and the numbers that wait for the disk.
    written: Disk,
    pending: VecDeque<(u64, Vec<Write>)>,
    applied: Index,
    life: u64,
    /// Its clock: microseconds per real millisecond.
    rate: u64,
    paused_until: u64,
    slow_disk_until: u64,
    was_leader_in: Option<Term>,
}

#[derive(Clone, Debug)]
enum Event {
    Tick {
        node: u64,
        life: u64,
    },
    Deliver {
        from: u64,
        to: u64,
        message: Message,
    },
    Synced {
        node: u64,
        life: u64,
    },
    SnapshotArrives {
        from: u64,
        life: u64,
        to: u64,
        term: Term,
        meta: SnapshotMeta,
    },
    Chaos,
    Client,
    Crash {
        node: u64,
    },
    Ask {
        node: u64,
    },
    Start {
        node: u64,
        life: u64,
    },
}

/// What a seed is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// A bit of all.
    Mixed,
    /// Campaigns upon campaigns, long delays, crashes before a vote is synced.
    Elections,
    /// Leadership handed over, and the old leader cut off.
    Transfers,
}

struct Read {
    floor: Index,
}

/// How often what happened: a path never taken is a hole in the test.
pub(crate) type Coverage = BTreeMap<&'static str, u64>;

pub(crate) struct Cluster {
    rng: Rng,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<(u64, u64), Event>,
    counter: u64,
    nodes: BTreeMap<u64, Node>,
    options: Options,
    mood: Mood,
    /// In a scenario: what was sent and is not delivered or dropped yet.
    pub(crate) script: Option<Vec<(u64, u64, Message)>>,
    calm: bool,
    cut: BTreeSet<(u64, u64)>,
    loss: u64,
    /// Who led in which term.
    leaders: BTreeMap<Term, u64>,
    /// Every entry that ever was in a log, with the term before it.
    entries: BTreeMap<LogId, (Term, EntryKind)>,
    /// What is committed, by index from 1.
    truth: Vec<Entry>,
    reads: BTreeMap<Token, Read>,
    token: Token,
    pub(crate) coverage: Coverage,
}

impl Cluster {
    /// For the scenarios: nothing happens by itself.
    pub(crate) fn scripted(voters: u64, options: Options) -> Cluster {
        Cluster::build(Rng(7), voters, options, Mood::Mixed, true)
    }

    pub(crate) fn new(seed: u64) -> Cluster {
        let mut rng = Rng(seed);
        let lease = rng.one_in(2).then_some(Lease {
            tick_micros: TICK,
            drift_per_mille: 120,
        });
        let options = Options {
            append_bytes_max: 64 + rng.below(1000) as usize,
            inflight_messages_max: 1 + rng.below(8) as usize,
            inflight_bytes_max: 100 + rng.below(4000) as usize,
            uncommitted_bytes_max: 2000,
            tail_bytes_max: 200 + rng.below(4000) as usize,
            lease,
            ..Options::default()
        };
        let mood = match seed % 3 {
            0 => Mood::Mixed,
            1 => Mood::Elections,
            _ => Mood::Transfers,
        };
        let mut cluster = Cluster::build(rng, 3, options, mood, false);
        cluster.at(5_000, Event::Chaos);
        cluster.at(1_000, Event::Client);
        cluster
    }

    fn build(rng: Rng, voters: u64, options: Options, mood: Mood, scripted: bool) -> Cluster {
        let members = Membership::of((1..=voters).map(NodeId));
        let mut cluster = Cluster {
            now: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            counter: 0,
            nodes: BTreeMap::new(),
            options,
            mood,
            script: scripted.then(Vec::new),
            calm: false,
            cut: BTreeSet::new(),
            loss: 50,
            leaders: BTreeMap::new(),
            entries: BTreeMap::new(),
            truth: Vec::new(),
            reads: BTreeMap::new(),
            token: 0,
            coverage: Coverage::new(),
            rng,
        };
        for id in 1..=NODES {
            let snapshot = SnapshotMeta {
                last: LogId::default(),
                // Those that are to join know nobody.
                membership: match id <= voters {
                    true => members.clone(),
                    false => Membership::default(),
                },
            };
            let disk = Disk {
                snapshot,
                ..Disk::default()
            };
            let rate = match scripted {
                true => 1000,
                false => 960 + cluster.rng.below(80),
            };
            let node = Node {
                core: None,
                written: disk.clone(),
                disk,
                pending: VecDeque::new(),
                applied: Index(0),
                life: 0,
                rate,
                paused_until: 0,
                slow_disk_until: 0,
                was_leader_in: None,
            };
            cluster.nodes.insert(id, node);
            cluster.start(id);
        }
        cluster
    }

    fn saw(&mut self, what: &'static str) {
        *self.coverage.entry(what).or_default() += 1;
    }

    fn at(&mut self, delay: u64, event: Event) {
        if self.script.is_some() {
            return;
        }
        self.counter += 1;
        let key = (self.now + delay, self.counter);
        self.queue.push(Reverse(key));
        self.events.insert(key, event);
    }

    pub(crate) fn start(&mut self, id: u64) {
        let seed = self.rng.next();
        let options = self.options.clone();
        let node = self.nodes.get_mut(&id).expect("a node");
        node.life += 1;
        node.written = node.disk.clone();
        node.pending.clear();
        node.applied = node.disk.snapshot.last.index;
        node.was_leader_in = None;
        let mut log = LogView::new(node.disk.snapshot.clone(), options.tail_bytes_max);
        for entry in &node.disk.entries {
            log.push(entry.clone());
        }
        let restored = Restored {
            hard: node.disk.hard,
            log,
            committed: node.disk.snapshot.last.index,
            abstain: node.disk.abstain,
        };
        let core = Core::new(NodeId(id), options, restored, seed).expect("good options");
        node.core = Some(core);
        let life = node.life;
        let first = self.rng.below(TICK);
        self.at(first, Event::Tick { node: id, life });
    }

    /// The power goes: nothing that is not synced survives.
    pub(crate) fn power_cut(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.core = None;
        node.pending.clear();
        node.life += 1;
    }

    /// Its disk has synced all that is written.
    pub(crate) fn synced(&mut self, id: u64) -> Result<(), String> {
        let node = self.nodes.get_mut(&id).expect("a node");
        let mut last = 0;
        for (seq, writes) in std::mem::take(&mut node.pending) {
            for write in &writes {
                node.disk.write(write);
            }
            last = seq;
        }
        match last {
            0 => Ok(()),
            seq => self.step(id, Input::Synced(seq)),
        }
    }

    /// Time goes on everywhere; nobody's timer runs.
    pub(crate) fn pass(&mut self, micros: u64) {
        self.now += micros;
    }

    pub(crate) fn core(&self, id: u64) -> &Core {
        self.nodes[&id].core.as_ref().expect("it is up")
    }

    /// Asks for a linearizable read; it may show no less than what is committed by now.
    pub(crate) fn ask(&mut self, id: u64) -> Result<(), String> {
        self.token += 1;
        let floor = Index(self.truth.len() as u64);
        self.reads.insert(self.token, Read { floor });
        self.step(id, Input::Read(self.token))
    }

    /// Crashes: a prefix of what is not synced survives.
    fn crash(&mut self, id: u64) {
        let rot = !self.calm
            && self.rng.one_in(6)
            && self.nodes.values().all(|n| n.disk.abstain == Abstain::No);
        let node = self.nodes.get_mut(&id).expect("a node");
        if node.core.take().is_none() {
            return;
        }
        let survive = self.rng.below(node.pending.len() as u64 + 1);
        for (at, (_, writes)) in std::mem::take(&mut node.pending).into_iter().enumerate() {
            let whole = (at as u64) < survive;
            for write in &writes {
                match write {
                    _ if whole => node.disk.write(write),
                    // The one that was under way: a prefix of its entries.
                    Write::Append(entries) if at as u64 == survive => {
                        let some = self.rng.below(entries.len() as u64 + 1) as usize;
                        if some > 0 {
                            node.disk.write(&Write::Append(entries[..some].to_vec()));
                        }
                    }
                    _ => break,
                }
            }
            if !whole {
                break;
            }
        }
        node.life += 1;
        self.saw("crash");
        let node = self.nodes.get_mut(&id).expect("a node");
        if rot && self.rng.one_in(4) {
            node.disk.abstain = Abstain::Always;
            node.disk.hard.vote = None;
            self.saw("vote lost");
        } else if rot && !node.disk.entries.is_empty() {
            let keep = self.rng.below(node.disk.entries.len() as u64) as usize;
            let until = node.disk.entries.last().expect("not empty").id.index;
            node.disk.entries.truncate(keep);
            node.disk.abstain = Abstain::Until(until);
            self.saw("entries lost");
        }
    }

    /// Runs the seed.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        while self.now < STORM {
            self.one()?;
        }
        self.calm = true;
        self.cut.clear();
        self.loss = u64::MAX;
        for id in 1..=NODES {
            let node = self.nodes.get_mut(&id).expect("a node");
            node.paused_until = 0;
            node.slow_disk_until = 0;
            if node.core.is_none() {
                self.start(id);
            }
        }
        let before = self.truth.len();
        while self.now < STORM + CALM {
            self.one()?;
        }
        self.settled(before)
    }

    /// After the storm there is a leader, new entries are committed, and every voter has applied them.
    fn settled(&mut self, before: usize) -> Result<(), String> {
        let cores = || self.nodes.values().filter_map(|n| n.core.as_ref());
        let newest = cores().max_by_key(|c| c.last()).expect("all are up");
        // With one that may not vote the rest may be too few.
        let able = |n: NodeId| self.nodes[&n.0].disk.abstain == Abstain::No;
        if !newest.membership().quorum(able) {
            *self.coverage.entry("too few votes left").or_default() += 1;
            return Ok(());
        }
        let leader = cores()
            .filter(|c| c.role() == RoleName::Leader)
            .max_by_key(|c| c.term())
            .ok_or_else(|| format!("no leader after the storm: {}", self.explain()))?;
        let membership = leader.membership().clone();
        if self.truth.len() < before + 3 {
            return Err(format!("nothing is committed any more: {}", self.explain()));
        }
        if membership.is_joint() {
            return Err(format!("still joint: {}", self.explain()));
        }
        let committed = leader.committed();
        for voter in &membership.voters {
            let applied = self.nodes[&voter.0].applied;
            if applied.0 + 20 < committed.0 {
                return Err(format!(
                    "{voter} applied {applied} of {committed}: {}",
                    self.explain()
                ));
            }
        }
        Ok(())
    }

    fn explain(&self) -> String {
        let nodes = self.nodes.values().filter_map(|n| n.core.as_ref());
        nodes
            .map(|c| {
                format!(
                    "\n  {} {}",
                    c.explain(),
                    if std::env::var_os("X").is_some() {
                        format!("{c:?}")
                    } else {
                        String::new()
                    }
                )
            })
            .collect()
    }

    fn one(&mut self) -> Result<(), String> {
        let Reverse(key) = self.queue.pop().expect("ticks go on");
        self.now = key.0;
        let event = self.events.remove(&key).expect("queued with its key");
        match event {
            Event::Tick { node, life } => {
                let (alive, paused, rate) = {
                    let n = &self.nodes[&node];
                    (n.life == life && n.core.is_some(), n.paused_until, n.rate)
                };
                if !alive {
                    return Ok(());
                }
                if paused > self.now {
                    self.at(paused - self.now, Event::Tick { node, life });
                    return Ok(());
                }
                self.at(TICK * 1000 / rate, Event::Tick { node, life });
                self.step(node, Input::Tick)
            }
            Event::Deliver { from, to, message } => {
                let n = &self.nodes[&to];
                if n.core.is_none() || (self.cut.contains(&(from, to))) {
                    return Ok(());
                }
                if n.paused_until > self.now {
                    let wait = n.paused_until - self.now;
                    self.at(wait, Event::Deliver { from, to, message });
                    return Ok(());
                }
                let from = NodeId(from);
                self.step(to, Input::Message { from, message })
            }
            Event::Synced { node, life } => {
                let n = self.nodes.get_mut(&node).expect("a node");
                if n.life != life || n.core.is_none() {
                    return Ok(());
                }
                let wait = n.paused_until.max(n.slow_disk_until);
                if wait > self.now {
                    let wait = wait - self.now;
                    self.at(wait, Event::Synced { node, life });
                    return Ok(());
                }
                // One sync covers all that is written.
                let mut seq = 0;
                for (number, writes) in std::mem::take(&mut n.pending) {
                    for write in &writes {
                        n.disk.write(write);
                    }
                    seq = number;
                }
                match seq {
                    0 => Ok(()),
                    seq => self.step(node, Input::Synced(seq)),
                }
            }
            Event::SnapshotArrives {
                from,
                life,
                to,
                term,
                meta,
            } => {
                let arrives = !self.cut.contains(&(from, to)) && self.nodes[&to].core.is_some();
                let last = arrives.then_some(meta.last.index);
                if arrives {
                    self.saw("snapshot sent");
                    let body = Body::Snapshot(meta);
                    let message = Message { term, body };
                    let from = NodeId(from);
                    self.step(to, Input::Message { from, message })?;
                }
                if self.nodes[&from].life == life && self.nodes[&from].core.is_some() {
                    let to = NodeId(to);
                    self.step(from, Input::SnapshotSent { to, last })?;
                }
                Ok(())
            }
            Event::Crash { node } => {
                if !self.calm {
                    self.crash(node);
                    let life = self.nodes[&node].life;
                    let soon = 1_000 + self.rng.below(30_000);
                    self.at(soon, Event::Start { node, life });
                }
                Ok(())
            }
            Event::Ask { node } => {
                if self.nodes[&node].core.is_none() || self.nodes[&node].paused_until > self.now {
                    return Ok(());
                }
                self.ask(node)
            }
            Event::Start { node, life } => {
                if self.nodes[&node].core.is_none() && self.nodes[&node].life == life {
                    self.start(node);
                }
                Ok(())
            }
            Event::Chaos => {
                let often = match self.mood {
                    Mood::Mixed => 60_000,
                    Mood::Elections | Mood::Transfers => 30_000,
                };
                let pause = 5_000 + self.rng.below(often);
                if self.now < STORM {
                    self.at(pause, Event::Chaos);
                    self.chaos()?;
                }
                Ok(())
            }
            Event::Client => {
                // In the calm those who are behind catch up.
                let slow = if self.calm { 40_000 } else { 500 };
                let pause = slow + self.rng.below(8_000);
                self.at(pause, Event::Client);
                self.client()
            }
        }
    }

    fn random_node(&mut self) -> u64 {
        1 + self.rng.below(NODES)
    }

    fn chaos(&mut self) -> Result<(), String> {
        let node = self.random_node();
        let other = self.random_node();
        let what = match (self.mood, self.rng.below(3)) {
            (Mood::Elections, 0) => 14,
            (Mood::Transfers, 0) => 13,
            _ => self.rng.below(16),
        };
        match what {
            0 | 1 => {
                self.crash(node);
                Ok(())
            }
            2..=5 => {
                for id in 1..=NODES {
                    if self.nodes[&id].core.is_none() && self.rng.one_in(2) {
                        self.saw("restart");
                        self.start(id);
                    }
                }
                Ok(())
            }
            6 => {
                // One alone, a bridge, or one direction.
                self.saw("partition");
                match self.rng.below(3) {
                    0 => {
                        for id in 1..=NODES {
                            self.cut.insert((id, node));
                            self.cut.insert((node, id));
                        }
                    }
                    1 => {
                        self.cut.insert((node, other));
                        self.cut.insert((other, node));
                    }
                    _ => {
                        self.cut.insert((node, other));
                    }
                }
                Ok(())
            }
            7 | 8 => {
                self.cut.clear();
                Ok(())
            }
            9 => {
                self.loss = 2 + self.rng.below(60);
                Ok(())
            }
            10 => {
                let long = self.rng.below(300_000);
                let until = self.now + long;
                self.nodes.get_mut(&node).expect("a node").paused_until = until;
                self.saw("pause");
                Ok(())
            }
            11 => {
                let long = self.rng.below(400_000);
                let until = self.now + long;
                self.nodes.get_mut(&node).expect("a node").slow_disk_until = until;
                self.saw("slow disk");
                Ok(())
            }
            12 => self.compact(node),
            13 => {
                let leader = self.any_leader().unwrap_or(node);
                self.saw("transfer");
                self.step_if_up(leader, Input::Transfer(NodeId(other)))?;
                if self.mood == Mood::Transfers && self.rng.one_in(2) {
                    // It hears nothing any more, and answers readers.
                    for id in 1..=NODES {
                        self.cut.insert((id, leader));
                    }
                    for _ in 0..10 {
                        let soon = self.rng.below(60_000);
                        self.at(soon, Event::Ask { node: leader });
                    }
                }
                Ok(())
            }
            14 => self.step_if_up(node, Input::Campaign),
            _ => self.change(),
        }
    }

    fn any_leader(&mut self) -> Option<u64> {
        let leaders: Vec<u64> = self
            .nodes
            .iter()
            .filter(|(_, n)| {
                let leads = |c: &Core| c.role() == RoleName::Leader;
                n.core.as_ref().is_some_and(leads)
            })
            .map(|(id, _)| *id)
            .collect();
        let at = self.rng.below(leaders.len() as u64) as usize;
        leaders.get(at).copied()
    }

    fn compact(&mut self, id: u64) -> Result<(), String> {
        let node = self.nodes.get_mut(&id).expect("a node");
        let Some(core) = &node.core else {
            return Ok(());
        };
        // Only what is on disk can be in a durable snapshot.
        let synced = node.disk.entries.last().map_or(Index(0), |e| e.id.index);
        let applied = node.applied.min(synced);
        let lost = node.disk.abstain != Abstain::No;
        if lost || applied <= node.disk.snapshot.last.index || !node.pending.is_empty() {
            return Ok(());
        }
        let meta = SnapshotMeta {
            last: self.truth[applied.0 as usize - 1].id,
            membership: core.membership_at(applied).clone(),
        };
        node.disk.compact(meta.clone());
        node.written.compact(meta);
        self.saw("compact");
        self.step(id, Input::Compact(applied))
    }

    fn change(&mut self) -> Result<(), String> {
        let Some(leader) = self.any_leader() else {
            return Ok(());
        };
        self.token += 1;
        let token = self.token;
        let node = NodeId(self.random_node());
        let input = match self.rng.below(4) {
            0 => Input::AddVoter(token, node, Bytes::new()),
            1 => Input::Change(token, Change::AddLearner(node, Bytes::new())),
            2 => Input::Change(token, Change::RemoveLearner(node)),
            _ => {
                let mut voters = BTreeSet::new();
                let size = 2 + self.rng.below(3);
                while (voters.len() as u64) < size {
                    voters.insert(NodeId(self.random_node()));
                }
                Input::Change(token, Change::SetVoters(voters))
            }
        };
        self.saw("change asked for");
        self.step_if_up(leader, input)
    }

    fn client(&mut self) -> Result<(), String> {
        let node = match self.any_leader() {
            Some(leader) if !self.rng.one_in(4) => leader,
            _ => self.random_node(),
        };
        self.token += 1;
        let token = self.token;
        if self.rng.one_in(3) {
            let floor = Index(self.truth.len() as u64);
            self.reads.insert(token, Read { floor });
            return self.step_if_up(node, Input::Read(token));
        }
        let count = 1 + self.rng.below(4);
        let commands = (0..count)
            .map(|n| {
                let len = self.rng.below(120) as usize;
                let mut command = format!("{token}.{n}.").into_bytes();
                command.resize(command.len() + len, b'x');
                (token, Bytes::from(command))
            })
            .collect();
        self.step_if_up(node, Input::Propose(commands))
    }

    fn step_if_up(&mut self, id: u64, input: Input) -> Result<(), String> {
        let node = &self.nodes[&id];
        if node.core.is_none() || node.paused_until > self.now {
            return Ok(());
        }
        self.step(id, input)
    }

    pub(crate) fn step(&mut self, id: u64, input: Input) -> Result<(), String> {
        let real = self.now;
        let node = self.nodes.get_mut(&id).expect("a node");
        let local = real * node.rate / 1000 + id * 1_000_000;
        let Some(core) = &mut node.core else {
            return Ok(());
        };
        let out = core.step(local, input);
        core.check();
        self.carry_out(id, out)
    }

    fn carry_out(&mut self, id: u64, out: Outputs) -> Result<(), String> {
        let Outputs {
            writes,
            seq,
            messages,
            committed,
            answers,
            fetches,
            snapshots,
            changed: _,
        } = out;
        for write in &writes {
            if let Write::Append(entries) = write {
                self.check_entries(id, entries)?;
            }
            let node = self.nodes.get_mut(&id).expect("a node");
            if let Write::Snapshot(meta) = write {
                node.applied = meta.last.index;
                let known = self.truth.get(meta.last.index.0 as usize - 1);
                if known.map(|e| e.id) != Some(meta.last) {
                    return Err(format!("{id} took a snapshot of what is not committed"));
                }
                self.saw("snapshot installed");
            }
            let node = self.nodes.get_mut(&id).expect("a node");
            node.written.write(write);
        }
        if !writes.is_empty() {
            let node = self.nodes.get_mut(&id).expect("a node");
            node.pending.push_back((seq, writes));
            let life = node.life;
            let takes = match self.rng.below(20) {
                0 => 20_000 + self.rng.below(100_000),
                _ => 100 + self.rng.below(3_000),
            };
            self.at(takes, Event::Synced { node: id, life });
        }
        let node = self.nodes.get_mut(&id).expect("a node");
        let core = node.core.as_ref().expect("it has just stepped");
        if !core.abstains() {
            node.disk.abstain = Abstain::No;
        }
        self.check_leader(id)?;
        if let Some(committed) = committed {
            self.check_committed(id, committed)?;
        }
        for Envelope { to, message } in messages {
            self.post(id, to.0, message);
        }
        for (token, answer) in answers {
            self.check_answer(id, token, &answer)?;
        }
        for fetch in fetches {
            self.saw("fetch");
            let node = &self.nodes[&id];
            let mut bytes = 0;
            let entries = (node.written.entries.iter())
                .skip_while(|e| e.id.index < fetch.from)
                .take_while(|e| {
                    bytes += e.weight();
                    bytes <= fetch.bytes || e.id.index == fetch.from
                })
                .cloned()
                .collect();
            self.step(
                id,
                Input::Fetched {
                    to: fetch.to,
                    entries,
                },
            )?;
        }
        for to in snapshots {
            let node = &self.nodes[&id];
            let (life, applied) = (node.life, node.applied);
            let core = node.core.as_ref().expect("up");
            let term = core.term();
            let Some(last) = applied
                .0
                .checked_sub(1)
                .map(|at| self.truth[at as usize].id)
            else {
                continue;
            };
            let membership = core.membership_at(applied).clone();
            let meta = SnapshotMeta { last, membership };
            let takes = 1_000 + self.rng.below(100_000);
            let event = Event::SnapshotArrives {
                from: id,
                life,
                to: to.0,
                term,
                meta,
            };
            self.at(takes, event);
        }
        Ok(())
    }

    fn post(&mut self, from: u64, to: u64, message: Message) {
        if let Some(mail) = &mut self.script {
            return mail.push((from, to, message));
        }
        if self.cut.contains(&(from, to)) || !self.nodes.contains_key(&to) {
            return;
        }
        if matches!(message.body, Body::Conflict { .. }) {
            self.saw("conflict");
        }
        let votes = matches!(
            message.body,
            Body::Vote { .. } | Body::Voted { granted: true }
        );
        if votes && self.mood == Mood::Elections && self.rng.one_in(12) {
            // Just behind the vote, before any sync of it is done.
            self.at(50, Event::Crash { node: from });
        }
        if !self.calm && self.rng.one_in(self.loss) {
            return self.saw("message lost");
        }
        let copies = if !self.calm && self.rng.one_in(40) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delayed = match self.mood {
                Mood::Elections => 6,
                Mood::Mixed | Mood::Transfers => 50,
            };
            let takes = match self.rng.below(delayed) {
                0 if !self.calm => self.rng.below(400_000),
                _ => 100 + self.rng.below(5_000),
            };
            let message = message.clone();
            self.at(takes, Event::Deliver { from, to, message });
        }
    }

    /// Log matching: an entry of one name has one content and one predecessor, everywhere.
    fn check_entries(&mut self, id: u64, entries: &[Entry]) -> Result<(), String> {
        let node = &self.nodes[&id];
        let first = entries.first().expect("not empty").id.index;
        let mut before = (node.written.entries.iter())
            .filter(|e| e.id.index < first)
            .map(|e| e.id)
            .next_back()
            .unwrap_or(node.written.snapshot.last);
        for entry in entries {
            if before.index.next() != entry.id.index {
                return Err(format!("{id} left a gap before {}", entry.id));
            }
            let seen = (before.term, entry.kind.clone());
            let known = self.entries.entry(entry.id).or_insert_with(|| seen.clone());
            if *known != seen {
                return Err(format!("log matching: two entries {}", entry.id));
            }
            before = entry.id;
        }
        Ok(())
    }

    /// Election safety and leader completeness.
    fn check_leader(&mut self, id: u64) -> Result<(), String> {
        let node = self.nodes.get_mut(&id).expect("a node");
        let core = node.core.as_ref().expect("up");
        if core.role() != RoleName::Leader || node.was_leader_in == Some(core.term()) {
            return Ok(());
        }
        let term = core.term();
        node.was_leader_in = Some(term);
        let other = *self.leaders.entry(term).or_insert(id);
        if other != id {
            return Err(format!("election safety: {other} and {id} lead in {term}"));
        }
        // A late winner of an older term has nothing to say any more.
        if let Some(last) = self.truth.last()
            && last.id.term < term
            && last.id.index > core.base().index
            && core.id_at(last.id.index) != Some(last.id)
        {
            return Err(format!(
                "leader completeness: {id} leads in {term} without {}",
                last.id
            ));
        }
        self.saw("leader");
        Ok(())
    }

    /// State machine safety: what one commits at an index, all do.
    fn check_committed(&mut self, id: u64, committed: Index) -> Result<(), String> {
        let node = &self.nodes[&id];
        let mut applied = node.applied;
        let base = node.written.snapshot.last.index;
        while applied < committed {
            applied = applied.next();
            if applied <= base {
                continue;
            }
            let at = (applied.0 - base.0) as usize - 1;
            let Some(entry) = node.written.entries.get(at) else {
                return Err(format!("{id} committed {applied} and does not hold it"));
            };
            assert_eq!(entry.id.index, applied);
            match self.truth.get(applied.0 as usize - 1) {
                Some(known) if known == entry => {}
                Some(known) => {
                    return Err(format!(
                        "state machine safety: {id} has {} at {applied}, committed was {}",
                        entry.id, known.id
                    ));
                }
                None => self.truth.push(entry.clone()),
            }
            if let EntryKind::Membership(membership) = &entry.kind {
                let what = match membership.is_joint() {
                    true => "joint committed",
                    false => "membership committed",
                };
                *self.coverage.entry(what).or_default() += 1;
            }
        }
        self.nodes.get_mut(&id).expect("a node").applied = applied;
        Ok(())
    }

    /// Reads are linearizable: no older than what was committed when they were asked for.
    fn check_answer(&mut self, id: u64, token: Token, answer: &Answer) -> Result<(), String> {
        match answer {
            Answer::ReadAt(index) => {
                let Some(read) = self.reads.remove(&token) else {
                    return Err(format!("read {token} was answered twice"));
                };
                if *index < read.floor {
                    return Err(format!(
                        "a stale read: {id} answered {index}, {} was committed before it",
                        read.floor
                    ));
                }
                let leads = self.nodes[&id].core.as_ref().map(Core::role);
                match leads {
                    Some(RoleName::Leader) => self.saw("read by the leader"),
                    _ => self.saw("read by a follower"),
                }
            }
            Answer::Refused(Refusal::Busy) => self.saw("refused: busy"),
            Answer::Refused(Refusal::Transferring) => self.saw("refused: transferring"),
            Answer::Refused(Refusal::ChangeUnderWay) => self.saw("refused: change under way"),
            Answer::Refused(Refusal::NotLeader { .. }) => self.saw("refused: not leader"),
            Answer::Refused(Refusal::BadChange(_)) => self.saw("refused: bad change"),
            Answer::Appended(_) => self.saw("appended"),
        }
        Ok(())
    }
}
