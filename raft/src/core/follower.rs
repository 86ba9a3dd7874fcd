//! Following a leader: its entries, its heartbeats, its snapshots (5.3, 7).
//!
//! - FO1: an entry is taken only behind one that both logs hold, so two logs that hold one entry agree up to it.
//! - FO2: what conflicts is cut, never something committed.
//! - FO3: an append is acknowledged up to its own last entry, once that is synced; not up to whatever else the log holds.
//! - FO4: the commit index moves only over what is known to agree with the leader's log; by the leader's knowledge only where nothing was lost: behind
//!   damage there may stand what the lost frames had superseded.
//! - FO5 (C2): who lost entries says so to a leader from whom none come, once a tick at most: what it once acknowledged nobody sends by himself.

use super::types::{Entry, Index, LogId, NodeId, SnapshotMeta};
use super::{Abstain, Body, Core, Role, RoleName, Write};
use crate::sabotage::{self, Sabotage};

impl Core {
    /// Heard from the leader of this term. False if that can't be.
    fn hear(&mut self, from: NodeId) -> bool {
        // Two leaders in one term: a broken peer. It is not obeyed.
        if self.is_leader() || self.leader.is_some_and(|leader| leader != from) {
            return false;
        }
        if self.leader.is_none() || self.role() != RoleName::Follower {
            self.follow(self.hard.term, Some(from));
        }
        self.reset_timer();
        self.quiet = 0;
        self.outranks = false;
        true
    }

    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        prev: LogId,
        entries: Vec<Entry>,
        commit: Index,
    ) {
        if !self.hear(from) || !follows(prev, &entries, self.hard.term) {
            return;
        }
        let matched = Index(prev.index.0 + entries.len() as u64);
        if prev.index < self.committed {
            // A late message. What is committed agrees with every leader to come.
            return self.acknowledge(from, self.committed);
        }
        if !self.log.holds(prev) {
            let hint = self.log.last_at_most(prev.index, prev.term);
            let prev = prev.index;
            let lost = self.abstains();
            return self.send(from, Body::Conflict { prev, hint, lost });
        }
        let new: Vec<Entry> = entries
            .into_iter()
            .skip_while(|entry| self.log.holds(entry.id))
            .collect();
        if let Some(first) = new.first().map(|e| e.id.index) {
            if first <= self.log.last().index && !sabotage::on(Sabotage::ConflictKept) {
                assert!(first > self.committed, "committed entries conflict");
                self.log.cut(first.before());
                self.synced = self.synced.min(first.before());
            }
            if first == self.log.last().index.next() {
                for entry in &new {
                    self.log.push(entry.clone());
                }
                self.write(Write::Append(new));
            }
        }
        self.commit_to(commit.min(matched));
        self.fetched = true;
        self.acknowledge(from, matched);
    }

    fn acknowledge(&mut self, to: NodeId, matched: Index) {
        self.send_stable(to, Body::Appended { matched });
    }

    pub(super) fn on_heartbeat(&mut self, from: NodeId, commit: Index, round: u64) {
        if !self.hear(from) {
            return;
        }
        // The leader names no more than it knows to agree; a broken one is not followed beyond the end.
        let knows = match self.abstain {
            Abstain::No => !self.stranger,
            Abstain::Until(_) => sabotage::on(Sabotage::DamagedCommits),
            Abstain::Always => sabotage::on(Sabotage::VotelessAcknowledges),
        };
        if knows {
            self.commit_to(commit.min(self.log.last().index));
        }
        self.send(from, Body::Heard { round });
        // Each read makes a heartbeat.
        if !std::mem::take(&mut self.may_ask) {
            return;
        }
        let fetched = std::mem::take(&mut self.fetched);
        if matches!(self.abstain, Abstain::Until(_)) && !fetched {
            let hint = self.log.last();
            let (prev, lost) = (hint.index.next(), true);
            self.send(from, Body::Conflict { prev, hint, lost });
        }
    }

    pub(super) fn on_snapshot(&mut self, from: NodeId, meta: SnapshotMeta) {
        if !self.hear(from) {
            return;
        }
        if meta.last.index <= self.committed {
            return self.acknowledge(from, self.committed);
        }
        if self.log.holds(meta.last) {
            // The log is there: only the commit index was behind.
            self.commit_to(meta.last.index);
            return self.acknowledge(from, meta.last.index);
        }
        let index = meta.last.index;
        if sabotage::on(Sabotage::SnapshotKeepsLog) && self.log.last().index >= index {
            self.commit_to(index);
            return self.acknowledge(from, index);
        }
        self.log.restart(meta.clone());
        self.synced = index;
        self.committed = index;
        self.out.committed = Some(index);
        self.write(Write::Snapshot(meta));
        self.acknowledge(from, index);
        if let Abstain::Until(until) = self.abstain
            && index >= until
        {
            self.abstain = Abstain::No;
        }
    }
}

/// Whether `entries` can follow `prev`: without a gap, terms in order, none of the future.
fn follows(prev: LogId, entries: &[Entry], term: super::Term) -> bool {
    let mut before = prev;
    entries.iter().all(|entry| {
        let fits = entry.id.index == before.index.next()
            && entry.id.term >= before.term
            && entry.id.term <= term;
        before = entry.id;
        fits
    }) && prev.term <= term
}

impl Role {
    /// The leader's part, where it leads.
    pub(super) fn leading(&mut self) -> Option<&mut super::Leader> {
        match self {
            Role::Leader(leader) => Some(leader),
            _ => None,
        }
    }
}
