//! What a seed does to the cluster.

use super::swarm::{FAULTS, Fault};
use super::{CALM, Cluster, Event, NODES, STORM, TICK, UNDER_WAY_MAX};
use crate::core::*;
use bytes::Bytes;
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
        self.machine_crashes(id);
        self.saw("path: a crash");
        let node = self.nodes.get_mut(&id).expect("a node");
        if rot && self.rng.one_in(4) {
            node.disk.lose_vote();
            self.saw("fault: bit rot takes a vote");
        } else if rot && node.disk.unearth() {
            self.saw("fault: bit rot takes what superseded entries");
        } else if rot && !node.disk.entries.is_empty() {
            let keep = self.rng.below(node.disk.entries.len() as u64);
            let base = node.disk.snapshot.last.index;
            node.disk.lose(Index(base.0 + keep));
            self.saw("fault: bit rot takes entries");
        }
    }

    /// Runs the seed.
    pub fn run(&mut self) -> Result<(), String> {
        while self.now < STORM {
            self.one()?;
        }
        self.calm = true;
        self.cut.clear();
        self.loss = u64::MAX;
        self.saw("seed");
        for id in 1..=NODES {
            let node = self.nodes.get_mut(&id).expect("a node");
            node.paused_until = 0;
            node.slow_disk_until = 0;
            if node.core.is_none() {
                self.start(id);
            } else if node.holds_back {
                self.hold_back(id, false)?;
            }
        }
        let before = self.truth.len();
        // A leader is there in time; who is far behind, and gets an entry or two at a time, may need longer, as long as it gets them.
        let (mut until, mut held) = (STORM + CALM, 0);
        loop {
            while self.now < until {
                self.one()?;
            }
            let before_this = std::mem::replace(&mut held, self.held());
            match self.settled(before) {
                Err(_) if self.is_led() && held > before_this && until < STORM + 6 * CALM => {
                    until += CALM;
                }
                settled => return settled,
            }
        }
    }

    fn one(&mut self) -> Result<(), String> {
        if self.queue.len() > UNDER_WAY_MAX {
            return Err(format!("messages without an end: {}", self.explain()));
        }
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
                let cut = self.cut.contains(&(from, to)) && !self.swarm.under_way_arrives;
                if n.core.is_none() || cut {
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
            Event::Read { node, life, fetch } => {
                let n = &self.nodes[&node];
                if n.life != life || n.core.is_none() {
                    return Ok(());
                }
                if n.paused_until > self.now {
                    let wait = n.paused_until - self.now;
                    self.at(wait, Event::Read { node, life, fetch });
                    return Ok(());
                }
                self.read_for(node, fetch)
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
                let fails = std::mem::take(&mut n.sync_fails);
                if fails || !self.calm && self.rng.one_in(self.swarm.crash_at_sync) {
                    self.saw(match fails {
                        true => "a sync failed",
                        false => "a crash at a sync",
                    });
                    return self.crash_and_restart(node);
                }
                let n = self.nodes.get_mut(&node).expect("a node");
                // One sync covers all that is written.
                let mut seq = 0;
                for (number, writes) in std::mem::take(&mut n.pending) {
                    n.disk.sync(&writes);
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
                    self.saw("path: a snapshot is sent");
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
            Event::Crash { node } => match self.calm {
                true => Ok(()),
                false => self.crash_and_restart(node),
            },
            Event::VoteForgotten { elected } => {
                // It cuts links, and nothing would heal them.
                if !self.calm {
                    self.forget_vote(elected);
                }
                Ok(())
            }
            Event::GiveUp { node, life } => {
                let n = &self.nodes[&node];
                let leads = matches!(&n.core, Some(c) if c.role() == RoleName::Leader);
                let hangs = n.slow_disk_until.saturating_sub(self.now);
                if n.life != life || hangs == 0 || n.paused_until > self.now {
                    return Ok(());
                }
                self.at(hangs, Event::DiskIsBack { node, life });
                if leads {
                    self.step(node, Input::StepDown)?;
                }
                self.hold_back(node, true)
            }
            Event::DiskIsBack { node, life } => {
                let n = &self.nodes[&node];
                let wait = n.slow_disk_until.max(n.paused_until);
                if n.life != life {
                    return Ok(());
                }
                if wait > self.now {
                    self.at(wait - self.now, Event::DiskIsBack { node, life });
                    return Ok(());
                }
                self.hold_back(node, false)
            }
            Event::Ask { node } => {
                let n = &self.nodes[&node];
                if n.core.is_none() {
                    return Ok(());
                }
                if n.paused_until > self.now {
                    let wait = n.paused_until - self.now;
                    self.at(wait, Event::Ask { node });
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
                let pause = 5_000 + self.rng.below(self.swarm.every);
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
        let fault = self.swarm.fault(&mut self.rng);
        let name = FAULTS.iter().find(|(f, _)| *f == fault).map(|(_, n)| *n);
        self.saw(name.expect("it has a name"));
        let (node, other) = (self.random_node(), self.random_node());
        let leader = self.any_leader().unwrap_or(node);
        let long = self.now + self.rng.below(400_000);
        match fault {
            Fault::Crash => self.crash(node),
            Fault::CrashLeader => self.crash(leader),
            Fault::CrashAll => {
                for id in 1..=NODES {
                    self.crash_and_restart(id)?;
                }
            }
            Fault::FailedSync => self.nodes.get_mut(&node).expect("a node").sync_fails = true,
            Fault::Restart => {
                for id in 1..=NODES {
                    if self.nodes[&id].core.is_none() && self.rng.one_in(2) {
                        self.start(id);
                    }
                }
            }
            Fault::CutOne => self.cut_off(node),
            Fault::CutLeader => self.cut_off(leader),
            Fault::CutPair => self.cut.extend([(node, other), (other, node)]),
            Fault::CutDirection => {
                self.cut.insert((node, other));
            }
            Fault::Bridge => {
                let side: Vec<bool> = (0..=NODES).map(|_| self.rng.one_in(2)).collect();
                for (from, to) in (1..=NODES).flat_map(|f| (1..=NODES).map(move |t| (f, t))) {
                    let across = side[from as usize] != side[to as usize];
                    if across && from != node && to != node {
                        self.cut.insert((from, to));
                    }
                }
            }
            Fault::Heal => self.cut.clear(),
            Fault::Loss => self.loss = 2 + self.rng.below(60),
            Fault::Pause => self.pause(node, long),
            Fault::PauseLeader => {
                self.pause(leader, long);
                for _ in 0..6 {
                    let soon = self.rng.below(200_000);
                    self.at(soon, Event::Ask { node: leader });
                }
            }
            Fault::SlowDisk => self.nodes.get_mut(&node).expect("a node").slow_disk_until = long,
            Fault::HungDisk => {
                // Who only follows notices too.
                let id = if self.rng.one_in(3) { node } else { leader };
                let n = self.nodes.get_mut(&id).expect("a node");
                n.slow_disk_until = long;
                let life = n.life;
                self.at(100_000, Event::GiveUp { node: id, life });
            }
            Fault::Jump => {
                let by = self.rng.below(1_000_000);
                self.nodes.get_mut(&node).expect("a node").ahead += by;
            }
            Fault::Compact => self.compact(node)?,
            Fault::Transfer => self.step_if_up(leader, Input::Transfer(NodeId(other)))?,
            Fault::TransferAndCut => {
                self.step_if_up(leader, Input::Transfer(NodeId(other)))?;
                // It hears nothing any more, and answers readers.
                for id in 1..=NODES {
                    self.cut.insert((id, leader));
                }
                for _ in 0..10 {
                    let soon = self.rng.below(60_000);
                    self.at(soon, Event::Ask { node: leader });
                }
            }
            Fault::Campaign => self.step_if_up(node, Input::Campaign)?,
            Fault::Change => self.change()?,
        }
        Ok(())
    }

    fn hold_back(&mut self, id: u64, holds: bool) -> Result<(), String> {
        self.nodes.get_mut(&id).expect("a node").holds_back = holds;
        self.step(id, Input::HoldBack(holds))
    }

    /// A voter of who was just elected loses its newest frames, and is back among all the others.
    fn forget_vote(&mut self, elected: u64) {
        let gave = Some(NodeId(elected));
        let whole = self.nodes.values().all(|n| n.disk.abstain == Abstain::No);
        let voter = (self.nodes.iter())
            .find(|(id, n)| **id != elected && n.core.is_some() && n.disk.hard.vote == gave)
            .map(|(id, _)| *id);
        if let (true, Some(voter)) = (whole, voter) {
            self.saw("fault: bit rot takes a vote");
            self.lose_vote(voter);
            self.start(voter);
            self.cut.clear();
            self.cut_off(elected);
        }
    }

    /// Nobody hears it, and it hears nobody.
    fn cut_off(&mut self, node: u64) {
        for id in 1..=NODES {
            self.cut.extend([(id, node), (node, id)]);
        }
    }

    fn pause(&mut self, node: u64, until: u64) {
        self.nodes.get_mut(&node).expect("a node").paused_until = until;
    }

    fn crash_and_restart(&mut self, node: u64) -> Result<(), String> {
        self.crash(node);
        let life = self.nodes[&node].life;
        let soon = 1_000 + self.rng.below(30_000);
        self.at(soon, Event::Start { node, life });
        Ok(())
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
    pub fn compact(&mut self, id: u64) -> Result<(), String> {
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
        if let Some(machines) = &mut self.machines {
            machines.checkpoint(id)?;
        }
        let meta = SnapshotMeta {
            last: self.truth[applied.0 as usize - 1].id,
            membership: core.membership_at(applied).clone(),
        };
        node.disk.compact(meta.clone());
        node.written.compact(meta);
        self.saw("path: compaction");
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
                let size = 1 + self.rng.below(4);
                while (voters.len() as u64) < size {
                    voters.insert(NodeId(self.random_node()));
                }
                Input::Change(token, Change::SetVoters(voters))
            }
        };
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
            let n = &self.nodes[&node];
            if n.core.is_none() || n.paused_until > self.now {
                return Ok(());
            }
            self.note_read(node, token);
            return self.step(node, Input::Read(token));
        }
        let count = 1 + self.rng.below(4);
        let machines = &mut self.machines;
        let commands = (0..count)
            .map(|n| {
                if let Some(machines) = machines {
                    return (token, machines.command(self.rng.next()));
                }
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
