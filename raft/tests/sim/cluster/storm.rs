//! What a seed does to the cluster.

use super::{CALM, Cluster, Event, Mood, NODES, Read, STORM, TICK};
use bytes::Bytes;
use esker_raft::core::*;
use std::cmp::Reverse;
use std::collections::BTreeSet;

impl Cluster {
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
            node.disk.lose_vote();
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

    /// What it has applied goes into a snapshot, and from its log.
    pub(crate) fn compact(&mut self, id: u64) -> Result<(), String> {
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
}
