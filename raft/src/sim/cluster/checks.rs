//! What must hold at every step (C1-C3), and after the faults end.

use super::{Cluster, Event, Read, STORM};
use crate::core::*;

impl Cluster {
    /// After the storm there is a leader, new entries are committed, and every voter has applied them.
    pub(super) fn settled(&mut self, before: usize) -> Result<(), String> {
        let cores = || self.nodes.values().filter_map(|n| n.core.as_ref());
        // With one that may not vote the rest may be too few, by the membership of who could be elected.
        let able = |n: NodeId| self.nodes[&n.0].disk.abstain == Abstain::No;
        let newest = cores()
            .filter(|c| able(c.id()))
            .max_by_key(|c| c.last())
            .expect("one at most is damaged");
        if !newest.membership().quorum(able) {
            *self.coverage.entry("too few votes are left").or_default() += 1;
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
        // What was asked in the calm, and a second ago.
        let waits = |r: &&Read| {
            let node = &self.nodes[&r.node];
            let there = node.life == r.life && node.core.is_some();
            there && r.asked > STORM && r.asked + 1_000_000 < self.now
        };
        if let Some(read) = self.reads.values().find(waits) {
            return Err(format!(
                "{} answers no reads: {}",
                read.node,
                self.explain()
            ));
        }
        for voter in &membership.voters {
            if self.nodes[&voter.0].disk.abstain == Abstain::Always {
                continue;
            }
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

    pub(super) fn is_led(&self) -> bool {
        let mut cores = self.nodes.values().filter_map(|n| n.core.as_ref());
        cores.any(|core| core.role() == RoleName::Leader)
    }

    /// Entries that all nodes together hold.
    pub(super) fn held(&self) -> u64 {
        let cores = self.nodes.values().filter_map(|n| n.core.as_ref());
        cores.map(|core| core.last().index.0).sum()
    }

    pub(super) fn explain(&self) -> String {
        let nodes = self.nodes.values().filter_map(|n| n.core.as_ref());
        nodes.map(|c| format!("\n  {}", c.explain())).collect()
    }

    /// Log matching: an entry of one name has one content and one predecessor, everywhere.
    pub(super) fn check_entries(&mut self, id: u64, entries: &[Entry]) -> Result<(), String> {
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
    pub(super) fn check_leader(&mut self, id: u64) -> Result<(), String> {
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
        let votes = core.membership().is_voter(core.id());
        self.saw("path: a leader");
        if !votes {
            self.saw("path: a leader that is no voter");
        }
        if !self.calm && self.rng.one_in(self.swarm.crash_elected) {
            let soon = self.rng.below(40_000);
            self.at(soon, Event::Crash { node: id });
        }
        if !self.calm && self.rng.one_in(self.swarm.lose_vote) {
            let soon = self.rng.below(8_000);
            self.at(soon, Event::VoteForgotten { elected: id });
        }
        Ok(())
    }

    /// State machine safety: what one commits at an index, all do.
    pub(super) fn check_committed(&mut self, id: u64, committed: Index) -> Result<(), String> {
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
                None => {
                    self.truth.push(entry.clone());
                    let term = self.nodes[&id].core.as_ref().map(Core::term);
                    if term.is_some_and(|term| term > self.truth[self.truth.len() - 1].id.term) {
                        *(self.coverage)
                            .entry("path: an entry is committed with one of a later term")
                            .or_default() += 1;
                    }
                }
            }
            if let EntryKind::Membership(membership) = &entry.kind {
                let what = match membership.is_joint() {
                    true => "path: a joint membership is committed",
                    false => "path: a membership is committed",
                };
                *self.coverage.entry(what).or_default() += 1;
            }
        }
        self.nodes.get_mut(&id).expect("a node").applied = applied;
        match &mut self.machines {
            Some(machines) => machines.apply(id, &self.truth, applied, &mut self.rng),
            None => Ok(()),
        }
    }

    /// Reads are linearizable: no older than what was committed when they were asked for.
    pub(super) fn check_answer(
        &mut self,
        id: u64,
        token: Token,
        answer: &Answer,
    ) -> Result<(), String> {
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
                    Some(RoleName::Leader) => self.saw("path: a read by the leader"),
                    _ => self.saw("path: a read by a follower"),
                }
            }
            Answer::Refused(Refusal::Busy) => self.saw("path: refused: busy"),
            Answer::Refused(Refusal::Transferring) => self.saw("path: refused: transferring"),
            Answer::Refused(Refusal::ChangeUnderWay) => self.saw("path: refused: change under way"),
            Answer::Refused(Refusal::NotLeader { .. }) => {
                self.reads.remove(&token);
                self.saw("path: refused: not leader");
            }
            Answer::Refused(Refusal::BadChange(_)) => self.saw("path: refused: bad change"),
            Answer::Appended(_) => self.saw("appended"),
        }
        Ok(())
    }
}
