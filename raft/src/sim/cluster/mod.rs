//! A cluster of cores in virtual time: what a seed does to it, and what must hold at every step.
//!
//! Each node has a disk that keeps apart what is written from what is synced, a clock that runs at its own rate, and a network
//! that loses, repeats, delays and reorders, and is partitioned in one direction or both. Nodes crash, with any prefix of what was
//! not synced surviving, are paused, lose synced entries to bit rot (which recovery reports), and change membership, hand over and
//! compact. A seed replays exactly.

use super::machines::Machines;
use crate::core::*;
use node::{Disk, Node, Rng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use swarm::Swarm;

mod checks;
pub(super) mod node;
mod storm;
pub(super) mod swarm;

pub const NODES: u64 = 5;
const TICK: u64 = 10_000;
/// Virtual length of the part with faults, and of the one without.
const STORM: u64 = 6_000_000;
const CALM: u64 = 4_000_000;
/// More is an answer to each answer.
const UNDER_WAY_MAX: usize = 50_000;

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
    Read {
        node: u64,
        life: u64,
        fetch: Fetch,
    },
    Chaos,
    Client,
    Crash {
        node: u64,
    },
    VoteForgotten {
        elected: u64,
    },
    GiveUp {
        node: u64,
        life: u64,
    },
    /// Its disk answers again.
    DiskIsBack {
        node: u64,
        life: u64,
    },
    Ask {
        node: u64,
    },
    Start {
        node: u64,
        life: u64,
    },
}

#[derive(Debug)]
struct Read {
    floor: Index,
    /// When and where, and which life that was.
    asked: u64,
    node: u64,
    life: u64,
}

use super::{Coverage, Plan};

/// What has to happen in a run of many seeds.
pub fn must_happen() -> impl Iterator<Item = &'static str> {
    let faults = swarm::FAULTS.iter().map(|(_, name)| *name);
    faults.chain(PATHS.iter().copied())
}

const PATHS: &[&str] = &[
    "a crash at a sync",
    "a sync failed",
    "fault: bit rot takes a vote",
    "fault: bit rot takes entries",
    "fault: bit rot takes what superseded entries",
    "message delayed",
    "message lost",
    "message repeated",
    "path: a campaign by order",
    "path: a campaign ended in nothing",
    "path: a campaign was lost",
    "path: a crash",
    "path: a joint membership is committed",
    "path: a leader",
    "path: a leader gave up",
    "path: a leader was replaced",
    "path: a loss is told",
    "path: a membership is committed",
    "path: a membership is rolled back",
    "path: a pre-vote is refused",
    "path: a pre-vote was lost",
    "path: a read by a follower",
    "path: a read by the leader",
    "path: a read under the lease",
    "path: a snapshot inside a conflicting suffix",
    "path: a snapshot is installed",
    "path: a snapshot is sent",
    "path: a suffix is replaced",
    "path: a transfer is ordered",
    "path: a vote is refused",
    "path: a vote of who holds back",
    "path: an entry is committed with one of a later term",
    "path: an old leader is told the term",
    "path: compaction",
    "path: conflict",
    "path: lost entries are back",
    "path: old entries are fetched",
    "path: old entries are not there yet",
    "path: old entries can't be read",
    "path: refused: bad change",
    "path: refused: busy",
    "path: refused: change under way",
    "path: refused: not leader",
    "path: refused: transferring",
];

#[derive(Debug)]
pub struct Cluster {
    rng: Rng,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<(u64, u64), Event>,
    counter: u64,
    nodes: BTreeMap<u64, Node>,
    options: Options,
    swarm: Swarm,
    /// In a scenario: what was sent and is not delivered or dropped yet.
    pub script: Option<Vec<(u64, u64, Message)>>,
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
    pub coverage: Coverage,
    /// What commands are applied to, where somebody wants that.
    machines: Option<Machines>,
}

impl Cluster {
    /// For the scenarios: nothing happens by itself.
    pub fn scripted(voters: u64, options: Options) -> Cluster {
        Cluster::build(Rng(7), options, Swarm::none(voters), None, true)
    }

    pub fn new(seed: u64) -> Cluster {
        Cluster::over(&Plan::new(seed), None)
    }

    pub(super) fn over(plan: &Plan, machines: Option<Machines>) -> Cluster {
        let mut rng = Rng(plan.seed);
        let mut options = Options::default();
        let mut swarm = Swarm::of(&mut rng, &mut options);
        swarm.only(plan);
        let mut cluster = Cluster::build(rng, options, swarm, machines, false);
        cluster.at(5_000, Event::Chaos);
        cluster.at(1_000, Event::Client);
        cluster
    }

    fn build(
        rng: Rng,
        options: Options,
        swarm: Swarm,
        machines: Option<Machines>,
        scripted: bool,
    ) -> Cluster {
        let voters = swarm.voters;
        let members = Membership::of((1..=voters).map(NodeId));
        let mut cluster = Cluster {
            now: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            counter: 0,
            nodes: BTreeMap::new(),
            options,
            script: scripted.then(Vec::new),
            calm: false,
            cut: BTreeSet::new(),
            loss: swarm.loss,
            swarm,
            leaders: BTreeMap::new(),
            entries: BTreeMap::new(),
            truth: Vec::new(),
            reads: BTreeMap::new(),
            token: 0,
            coverage: Coverage::new(),
            machines,
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
                false => {
                    let drift = cluster.swarm.drift;
                    1000 - drift + cluster.rng.below(2 * drift + 1)
                }
            };
            let node = Node {
                core: None,
                written: disk.clone(),
                disk,
                pending: VecDeque::new(),
                applied: Index(0),
                life: 0,
                rate,
                ahead: 0,
                sync_fails: false,
                paused_until: 0,
                slow_disk_until: 0,
                holds_back: false,
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

    pub fn start(&mut self, id: u64) {
        let seed = self.rng.next();
        let options = self.options.clone();
        let node = self.nodes.get_mut(&id).expect("a node");
        node.life += 1;
        if let Some(machines) = &mut self.machines {
            machines.open(id, &self.truth, &mut node.disk);
        }
        node.written = node.disk.clone();
        node.pending.clear();
        let applied = (self.machines.as_ref()).map(|machines| machines.applied(id));
        node.applied = applied.unwrap_or(node.disk.snapshot.last.index);
        node.was_leader_in = None;
        node.holds_back = false;
        let mut log = LogView::new(node.disk.snapshot.clone(), options.tail_bytes_max);
        for entry in &node.disk.entries {
            log.push(entry.clone());
        }
        let restored = Restored {
            hard: node.disk.hard,
            log,
            committed: node.applied,
            abstain: node.disk.abstain,
        };
        let core = Core::new(NodeId(id), options, restored, seed).expect("good options");
        node.core = Some(core);
        let life = node.life;
        let first = self.rng.below(TICK);
        self.at(first, Event::Tick { node: id, life });
    }

    /// The power goes: nothing that is not synced survives.
    pub fn power_cut(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.core = None;
        node.pending.clear();
        node.life += 1;
        self.machine_crashes(id);
    }

    fn machine_crashes(&mut self, id: u64) {
        if let Some(machines) = &mut self.machines {
            machines.power_cut(id, self.rng.next());
        }
    }

    /// The power goes, and the newest frames of its disk are lost.
    pub fn lose_vote(&mut self, id: u64) {
        self.power_cut(id);
        self.nodes.get_mut(&id).expect("a node").disk.lose_vote();
    }

    /// The power goes, and bit rot takes its entries above `keep`, which recovery reports.
    pub fn lose_entries(&mut self, id: u64, keep: Index) {
        self.power_cut(id);
        self.nodes.get_mut(&id).expect("a node").disk.lose(keep);
    }

    /// The power goes, and bit rot takes the frame that superseded entries. False where none did.
    pub fn unearth(&mut self, id: u64) -> bool {
        self.power_cut(id);
        self.nodes.get_mut(&id).expect("a node").disk.unearth()
    }

    /// A node that has these terms in its log, and this hard state.
    pub fn restore(&mut self, id: u64, hard: HardState, terms: &[u64]) {
        let disk = &mut self.nodes.get_mut(&id).expect("a node").disk;
        disk.hard = hard;
        disk.entries = (terms.iter().zip(1..))
            .map(|(term, index)| Entry {
                id: LogId {
                    term: Term(*term),
                    index: Index(index),
                },
                kind: EntryKind::Noop,
            })
            .collect();
        self.start(id);
    }

    /// How many entries are committed.
    pub fn committed(&self) -> u64 {
        self.truth.len() as u64
    }

    /// How many reads have neither an answer nor a refusal.
    pub fn unanswered(&self) -> usize {
        self.reads.len()
    }

    /// Whether it is running.
    pub fn is_up(&self, id: u64) -> bool {
        self.nodes[&id].core.is_some()
    }

    /// Its disk has synced all that is written.
    pub fn synced(&mut self, id: u64) -> Result<(), String> {
        let node = self.nodes.get_mut(&id).expect("a node");
        let mut last = 0;
        for (seq, writes) in std::mem::take(&mut node.pending) {
            node.disk.sync(&writes);
            last = seq;
        }
        match last {
            0 => Ok(()),
            seq => self.step(id, Input::Synced(seq)),
        }
    }

    /// Time goes on everywhere; nobody's timer runs.
    pub fn pass(&mut self, micros: u64) {
        self.now += micros;
    }

    pub fn core(&self, id: u64) -> &Core {
        self.nodes[&id].core.as_ref().expect("it is up")
    }

    /// Asks for a linearizable read; it may show no less than what is committed by now.
    pub fn ask(&mut self, id: u64) -> Result<(), String> {
        self.token += 1;
        self.note_read(id, self.token);
        self.step(id, Input::Read(self.token))
    }

    fn note_read(&mut self, node: u64, token: Token) {
        let floor = Index(self.truth.len() as u64);
        let (asked, life) = (self.now, self.nodes[&node].life);
        let read = Read {
            floor,
            asked,
            node,
            life,
        };
        self.reads.insert(token, read);
    }

    pub fn step(&mut self, id: u64, input: Input) -> Result<(), String> {
        let real = self.now;
        let node = self.nodes.get_mut(&id).expect("a node");
        let local = real * node.rate / 1000 + id * 1_000_000 + node.ahead;
        let Some(core) = &mut node.core else {
            return Ok(());
        };
        let (role, term, abstained) = (core.role(), core.term(), core.abstains());
        let asked = match input {
            Input::Read(token) if role == RoleName::Leader => Some(token),
            _ => None,
        };
        let out = core.step(local, input);
        core.check();
        if node.holds_back && core.role() != RoleName::Follower {
            return Err(format!("{id} holds back, and is a {:?}", core.role()));
        }
        let path = match (role, core.role()) {
            (RoleName::Leader, RoleName::Follower) if core.term() == term => {
                Some("path: a leader gave up")
            }
            (RoleName::Leader, RoleName::Follower) => Some("path: a leader was replaced"),
            (RoleName::Candidate, RoleName::Follower) => Some("path: a campaign was lost"),
            (RoleName::PreCandidate, RoleName::Follower) => Some("path: a pre-vote was lost"),
            (RoleName::Candidate, RoleName::PreCandidate) => {
                Some("path: a campaign ended in nothing")
            }
            _ => None,
        };
        let healed = abstained && !core.abstains();
        let alone = core.membership().voters.len() == 1;
        if let Some(path) = path {
            self.saw(path);
        }
        if healed {
            self.saw("path: lost entries are back");
        }
        let answered = |token| {
            out.answers
                .iter()
                .any(|(t, a)| *t == token && matches!(a, Answer::ReadAt(_)))
        };
        if !alone && asked.is_some_and(answered) {
            self.saw("path: a read under the lease");
        }
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
                self.note_replaced(id, entries[0].id.index);
            }
            let node = self.nodes.get_mut(&id).expect("a node");
            if let Write::Snapshot(meta) = write {
                node.applied = meta.last.index;
                let known = self.truth.get(meta.last.index.0 as usize - 1);
                if known.map(|e| e.id) != Some(meta.last) {
                    return Err(format!("{id} took a snapshot of what is not committed"));
                }
                if let Some(machines) = &mut self.machines {
                    machines.install(id, meta, &mut self.rng)?;
                }
                self.saw("path: a snapshot is installed");
                let behind = self.nodes[&id].written.entries.last();
                if behind.is_some_and(|e| e.id.index >= meta.last.index) {
                    self.saw("path: a snapshot inside a conflicting suffix");
                }
            }
            let node = self.nodes.get_mut(&id).expect("a node");
            node.written.write(write);
        }
        if !writes.is_empty() {
            let node = self.nodes.get_mut(&id).expect("a node");
            node.pending.push_back((seq, writes));
            let life = node.life;
            let slow = !self.calm && self.rng.one_in(self.swarm.slow_sync);
            let takes = match slow {
                true => self.rng.below(self.swarm.slow_sync_max),
                false => 100 + self.rng.below(3_000),
            };
            self.at(takes, Event::Synced { node: id, life });
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
            if self.script.is_some() {
                self.read_for(id, fetch)?;
                continue;
            }
            let life = self.nodes[&id].life;
            let takes = self.rng.below(3_000);
            let node = id;
            self.at(takes, Event::Read { node, life, fetch });
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
                self.step(id, Input::SnapshotSent { to, last: None })?;
                continue;
            };
            let membership = core.membership_at(applied).clone();
            let meta = SnapshotMeta { last, membership };
            if let Some(machines) = &mut self.machines {
                machines.send(id, last.index)?;
            }
            if let Some(mail) = &mut self.script {
                let body = Body::Snapshot(meta);
                mail.push((id, to.0, Message { term, body }));
                continue;
            }
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

    /// Reads what a peer is to be sent.
    fn read_for(&mut self, id: u64, fetch: Fetch) -> Result<(), String> {
        let Fetch { to, from, bytes } = fetch;
        self.saw("path: old entries are fetched");
        if !self.calm && self.rng.one_in(200) {
            self.saw("path: old entries can't be read");
            return self.step(id, Input::FetchFailed { to });
        }
        let mut weight = 0;
        let entries = (self.nodes[&id].written.entries.iter())
            .skip_while(|e| e.id.index < from)
            .take_while(|e| {
                weight += e.weight();
                weight <= bytes || e.id.index == from
            })
            .cloned();
        let mut entries: Vec<Entry> = entries.collect();
        if self.rng.one_in(50) {
            self.saw("path: old entries are not there yet");
            entries.clear();
        }
        self.step(id, Input::Fetched { to, entries })
    }

    /// What an append supersedes.
    fn note_replaced(&mut self, id: u64, first: Index) {
        let replaced = |e: &&Entry| e.id.index >= first;
        let entries = &self.nodes[&id].written.entries;
        let some = entries.iter().any(|e| replaced(&e));
        let membership =
            (entries.iter().filter(replaced)).any(|e| matches!(e.kind, EntryKind::Membership(_)));
        if some {
            self.saw("path: a suffix is replaced");
        }
        if membership {
            self.saw("path: a membership is rolled back");
        }
    }

    fn post(&mut self, from: u64, to: u64, message: Message) {
        if let Some(mail) = &mut self.script {
            return mail.push((from, to, message));
        }
        if self.cut.contains(&(from, to)) || !self.nodes.contains_key(&to) {
            return;
        }
        let path = match &message.body {
            Body::Conflict { lost: true, .. } => Some("path: a loss is told"),
            Body::Conflict { .. } => Some("path: conflict"),
            Body::Voted { granted: false } => Some("path: a vote is refused"),
            Body::PreVoted { granted: false } => Some("path: a pre-vote is refused"),
            Body::TimeoutNow => Some("path: a transfer is ordered"),
            Body::Vote { transfer: true, .. } => Some("path: a campaign by order"),
            Body::Heard { round: 0 } => Some("path: an old leader is told the term"),
            _ => None,
        };
        if let Some(path) = path {
            self.saw(path);
        }
        let grants = matches!(message.body, Body::Voted { granted: true });
        if grants && self.nodes[&from].holds_back {
            self.saw("path: a vote of who holds back");
        }
        let votes = matches!(
            message.body,
            Body::Vote { .. } | Body::Voted { granted: true }
        );
        if votes && self.rng.one_in(self.swarm.crash_at_vote) {
            // Just behind the vote, before any sync of it is done.
            self.at(50, Event::Crash { node: from });
        }
        if !self.calm && self.rng.one_in(self.loss) {
            return self.saw("message lost");
        }
        let copies = match !self.calm && self.rng.one_in(self.swarm.repeat) {
            true => {
                self.saw("message repeated");
                2
            }
            false => 1,
        };
        let acknowledges = matches!(message.body, Body::Appended { .. });
        for _ in 0..copies {
            let late = !self.calm
                && (self.rng.one_in(self.swarm.delay)
                    || acknowledges && self.rng.one_in(self.swarm.late_acknowledgement));
            let takes = match late {
                true => {
                    self.saw("message delayed");
                    self.rng.below(self.swarm.delay_max)
                }
                false => 100 + self.rng.below(5_000),
            };
            let message = message.clone();
            self.at(takes, Event::Deliver { from, to, message });
        }
    }
}
