//! Leading: the log goes to the peers, and comes back as a commit index (5.3, 5.4.2); membership (6; thesis 4), transfer
//! (thesis 3.10), and giving up when nobody answers (thesis 6.2).
//!
//! - LE1: a term begins with an entry of its own, so that what older terms left is committed with it (8).
//! - LE2: an entry is committed when a quorum has synced it and it is of this term (5.4.2); in a joint membership a quorum of both halves.
//! - LE3: one change of membership at a time: none begins before the one before it, and an entry of this term, is committed.
//! - LE4: a joint membership is left by the leader as soon as it is committed, whoever began it.
//! - LE5: a leader that is no voter any more leads until that is committed, then steps down.
//! - LE6: a leader that a quorum did not answer within an election timeout steps down.
//! - LE7: how far it is committed goes along with entries and heartbeats while commits follow each other closely: messages of their own would wake every
//!   peer twice for each group of entries, and the leader for the answers. It has a message of its own where it is the first for a while, where nothing
//!   else went for a tick, for a peer that asks to read, and before the leader goes.

use super::progress::{Progress, State};
use super::read::Reads;
use super::types::{Change, Entry, EntryKind, Index, LogId, Membership, NodeId};
use super::{Answer, Body, Core, Fetch, Refusal, Role, Token, Write};
use crate::sabotage::{self, Sabotage};
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Rounds of catching up after which a learner becomes a voter however long the last one took.
const ROUNDS_MAX: u32 = 10;
/// Rounds of heartbeats whose sending is remembered.
const ROUNDS_KEPT: usize = 64;
/// Commits that are no further apart follow each other closely (LE7), in microseconds.
const CLOSE_MICROS: u64 = 5_000;

/// Leadership on its way to another.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) to: NodeId,
    elapsed: u32,
    ordered: bool,
}

/// A learner on its way to being a voter.
#[derive(Debug)]
struct CatchUp {
    target: Index,
    elapsed: u32,
    rounds: u32,
}

/// What a leader knows. See the module.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) progress: BTreeMap<NodeId, Progress>,
    /// The first entry of its term.
    pub(super) term_start: Index,
    /// (index, weight) of entries that are not committed.
    uncommitted: VecDeque<(Index, usize)>,
    uncommitted_bytes: usize,
    /// When it was committed further the last time.
    committed_at: Option<u64>,
    beat: u32,
    check: u32,
    pub(super) round: u64,
    /// (round, when it was sent).
    rounds: VecDeque<(u64, u64)>,
    pub(super) reads: Reads,
    pub(super) transfer: Option<Transfer>,
    pub(super) lease_ended: bool,
    promoting: BTreeMap<NodeId, CatchUp>,
}

impl Leader {
    pub(super) fn new(id: NodeId, members: BTreeSet<NodeId>, last: Index) -> Leader {
        Leader {
            progress: (members.into_iter().filter(|n| *n != id))
                .map(|n| (n, Progress::new(last.next())))
                .collect(),
            term_start: last.next(),
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
            committed_at: None,
            beat: 0,
            check: 0,
            round: 0,
            rounds: VecDeque::new(),
            reads: Reads::default(),
            transfer: None,
            lease_ended: false,
            promoting: BTreeMap::new(),
        }
    }

    pub(super) fn check(&self, last: Index) {
        for (id, progress) in &self.progress {
            assert!(progress.matched < progress.next, "peer {id}: {progress:?}");
            assert!(progress.next <= last.next(), "peer {id}: {progress:?}");
        }
    }
}

impl Core {
    /// The membership that decides.
    pub(super) fn deciding(&self) -> Cow<'_, Membership> {
        let membership = self.membership();
        if sabotage::on(Sabotage::NewHalfDecides) && membership.is_joint() {
            return Cow::Owned(Membership::of(membership.voters.clone()));
        }
        if sabotage::on(Sabotage::LearnersCount) && !membership.learners.is_empty() {
            let mut all = membership.clone();
            all.voters.append(&mut all.learners);
            return Cow::Owned(all);
        }
        Cow::Borrowed(membership)
    }

    /// LE1.
    pub(super) fn begin_term(&mut self) {
        self.append([EntryKind::Noop]);
        self.replicate();
        self.heartbeat();
    }

    /// Appends entries of this term. The name of the last.
    fn append(&mut self, kinds: impl IntoIterator<Item = EntryKind>) -> LogId {
        let term = self.hard.term;
        let mut entries = Vec::new();
        for kind in kinds {
            let index = self.log.last().index.next();
            let entry = Entry {
                id: LogId { term, index },
                kind,
            };
            self.log.push(entry.clone());
            if let Some(leader) = self.role.leading() {
                leader.uncommitted_bytes += entry.weight();
                leader.uncommitted.push_back((index, entry.weight()));
            }
            entries.push(entry);
        }
        self.write(Write::Append(entries));
        self.log.last()
    }

    fn refuse(&mut self, token: Token, refusal: Refusal) {
        self.out.answers.push((token, Answer::Refused(refusal)));
    }

    /// Why nothing can be appended now.
    fn refusal(&self) -> Option<Refusal> {
        match &self.role {
            Role::Leader(leader) if leader.transfer.is_some() => Some(Refusal::Transferring),
            Role::Leader(leader)
                if leader.uncommitted_bytes >= self.options.uncommitted_bytes_max =>
            {
                Some(Refusal::Busy)
            }
            Role::Leader(_) => None,
            _ => Some(Refusal::NotLeader {
                leader: self.leader,
            }),
        }
    }

    pub(super) fn propose(&mut self, commands: Vec<(Token, Bytes)>) {
        let mut tokens = Vec::new();
        let mut kinds = Vec::new();
        let refusal = self.refusal();
        // The bound holds within a batch too.
        let mut room = match &self.role {
            Role::Leader(leader) => {
                let max = self.options.uncommitted_bytes_max;
                max.saturating_sub(leader.uncommitted_bytes)
            }
            _ => 0,
        };
        for (token, command) in commands {
            if let Some(refusal) = refusal {
                self.refuse(token, refusal);
            } else if room == 0 {
                self.refuse(token, Refusal::Busy);
            } else {
                let kind = EntryKind::Command(command);
                let entry = Entry {
                    id: LogId::default(),
                    kind,
                };
                room = room.saturating_sub(entry.weight());
                tokens.push(token);
                kinds.push(entry.kind);
            }
        }
        if kinds.is_empty() {
            return;
        }
        let first = self.log.last().index.next();
        let term = self.hard.term;
        self.append(kinds);
        for (at, token) in tokens.into_iter().enumerate() {
            let index = Index(first.0 + at as u64);
            let id = LogId { term, index };
            self.out.answers.push((token, Answer::Appended(id)));
        }
        self.replicate();
    }

    /// LE3.
    fn change_refusal(&self) -> Option<Refusal> {
        if let Some(refusal) = self.refusal() {
            return Some(refusal);
        }
        let (at, membership) = self.log.membership();
        let under_way = at > self.committed || membership.is_joint();
        let overlap = sabotage::on(Sabotage::ChangesOverlap);
        ((under_way || !self.term_is_committed()) && !overlap).then_some(Refusal::ChangeUnderWay)
    }

    pub(super) fn change(&mut self, token: Token, change: Change) {
        if let Some(refusal) = self.change_refusal() {
            return self.refuse(token, refusal);
        }
        match self.changed(change) {
            Ok(membership) => {
                let id = self.append_membership(membership);
                self.out.answers.push((token, Answer::Appended(id)));
            }
            Err(why) => self.refuse(token, Refusal::BadChange(why)),
        }
    }

    /// The membership after `change`.
    fn changed(&self, change: Change) -> Result<Membership, &'static str> {
        let mut to = self.membership().clone();
        match change {
            Change::AddLearner(node, about) => {
                if to.contains(node) {
                    return Err("it is a member already");
                }
                to.learners.insert(node);
                to.about.insert(node, about);
            }
            Change::Describe(node, about) => {
                if !to.contains(node) {
                    return Err("it is no member");
                }
                to.about.insert(node, about);
            }
            Change::RemoveLearner(node) => {
                if !to.learners.remove(&node) {
                    return Err("it is no learner");
                }
            }
            Change::SetVoters(voters) => {
                if voters.is_empty() {
                    return Err("nobody would vote");
                }
                if voters == to.voters {
                    return Err("these are the voters already");
                }
                to.learners.retain(|n| !voters.contains(n));
                let outgoing = std::mem::replace(&mut to.voters, voters);
                if !sabotage::on(Sabotage::ChangesOverlap) {
                    to.outgoing = outgoing;
                }
            }
        }
        Ok(to)
    }

    fn append_membership(&mut self, mut membership: Membership) -> LogId {
        let members = membership.members();
        let known = |n: &NodeId| *n == NodeId::CLUSTER || members.contains(n);
        membership.about.retain(|n, _| known(n));
        let id = self.append([EntryKind::Membership(Box::new(membership))]);
        let members = self.membership().members();
        let me = self.id;
        if let Some(leader) = self.role.leading() {
            leader.progress.retain(|n, _| members.contains(n));
            leader.promoting.retain(|n, _| members.contains(n));
            for member in members.into_iter().filter(|n| *n != me) {
                leader
                    .progress
                    .entry(member)
                    .or_insert_with(|| Progress::new(id.index));
            }
        }
        self.out.changed = true;
        self.replicate();
        // Where fewer decide their answers may be there already, and no other comes.
        self.confirm_reads();
        id
    }

    pub(super) fn add_voter(&mut self, token: Token, node: NodeId, about: Bytes) {
        if self.membership().is_voter(node) {
            return self.refuse(token, Refusal::BadChange("it votes already"));
        }
        if !self.membership().learners.contains(&node) {
            if let Some(refusal) = self.change_refusal() {
                return self.refuse(token, refusal);
            }
            self.change(token, Change::AddLearner(node, about));
        } else if let Some(refusal) = self.refusal() {
            return self.refuse(token, refusal);
        } else {
            let (at, _) = self.log.membership();
            let id = self.log.id(at).unwrap_or(self.log.base());
            self.out.answers.push((token, Answer::Appended(id)));
        }
        let target = self.log.last().index;
        if let Some(leader) = self.role.leading() {
            let catch_up = CatchUp {
                target,
                elapsed: 0,
                rounds: 0,
            };
            leader.promoting.insert(node, catch_up);
        }
    }

    /// A learner that is to vote has come so far (thesis 4.2.1).
    fn promote(&mut self, node: NodeId) {
        let last = self.log.last().index;
        let election = self.options.election_ticks;
        let Some(leader) = self.role.leading() else {
            return;
        };
        let Some(matched) = leader.progress.get(&node).map(|p| p.matched) else {
            return;
        };
        let Some(catch_up) = leader.promoting.get_mut(&node) else {
            return;
        };
        if matched < catch_up.target {
            return;
        }
        catch_up.rounds += 1;
        if catch_up.elapsed >= election && catch_up.rounds < ROUNDS_MAX {
            catch_up.target = last;
            catch_up.elapsed = 0;
            return;
        }
        // While another change is under way it waits: the next acknowledgement or heartbeat tries again.
        if self.change_refusal().is_some() {
            return;
        }
        let mut voters = self.membership().voters.clone();
        voters.insert(node);
        if let Ok(membership) = self.changed(Change::SetVoters(voters)) {
            self.append_membership(membership);
        }
        if let Some(leader) = self.role.leading() {
            leader.promoting.remove(&node);
        }
    }

    pub(super) fn transfer(&mut self, to: NodeId) {
        let votes = self.membership().voters.contains(&to) && to != self.id;
        if let Some(leader) = self.role.leading()
            && votes
        {
            leader.transfer = Some(Transfer {
                to,
                elapsed: 0,
                ordered: false,
            });
            self.order_transfer();
        }
    }

    /// Once the successor has everything it is told to campaign.
    fn order_transfer(&mut self) {
        let last = self.log.last().index;
        let Some(leader) = self.role.leading() else {
            return;
        };
        let Some(transfer) = &mut leader.transfer else {
            return;
        };
        let ready = (leader.progress.get(&transfer.to)).is_some_and(|p| p.matched == last);
        if ready && !transfer.ordered {
            transfer.ordered = true;
            let to = transfer.to;
            leader.lease_ended = true;
            self.send(to, Body::TimeoutNow);
        }
    }

    pub(super) fn leader_tick(&mut self) {
        let (heartbeat, election) = (self.options.heartbeat_ticks, self.options.election_ticks);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.beat += 1;
        leader.check += 1;
        for progress in leader.progress.values_mut() {
            progress.may_resume = true;
        }
        for catch_up in leader.promoting.values_mut() {
            catch_up.elapsed += 1;
        }
        if let Some(transfer) = &mut leader.transfer {
            transfer.elapsed += 1;
            if transfer.elapsed >= election {
                leader.transfer = None;
            }
        }
        if leader.check >= election {
            leader.check = 0;
            let leader = self.role.leading().expect("just seen");
            let heard: BTreeSet<NodeId> = (leader.progress.iter_mut())
                .filter_map(|(n, p)| std::mem::take(&mut p.heard).then_some(*n))
                .collect();
            // One that is no voter any more is followed until the change is committed.
            if !self
                .deciding()
                .quorum(|n| n == self.id || heard.contains(&n))
            {
                return self.follow(self.hard.term, None);
            }
        }
        let leader = self.role.leading().expect("it leads still");
        if leader.beat >= heartbeat {
            self.heartbeat();
        } else {
            self.tell_commit(false);
        }
    }

    /// Begins a round.
    pub(super) fn heartbeat(&mut self) {
        let (now, committed) = (self.now, self.committed);
        let Some(leader) = self.role.leading() else {
            return;
        };
        leader.beat = 0;
        leader.round += 1;
        let round = leader.round;
        leader.rounds.push_back((round, now));
        if leader.rounds.len() > ROUNDS_KEPT {
            leader.rounds.pop_front();
        }
        let beats: Vec<_> = (leader.progress.iter_mut())
            .map(|(n, p)| {
                let commit = match sabotage::on(Sabotage::CommitBeyondMatch) {
                    true => committed,
                    false => p.matched.min(committed),
                };
                p.told_commit = p.told_commit.max(commit);
                (*n, commit)
            })
            .collect();
        for (peer, commit) in beats {
            self.send(peer, Body::Heartbeat { commit, round });
        }
    }

    /// Sends everybody the entries that it lacks.
    fn replicate(&mut self) {
        self.tell_commit(true);
    }

    /// Sends everybody the entries that it lacks, and how far it is committed; that not by itself where it `waits` for something to go along with
    /// (LE7).
    fn tell_commit(&mut self, waits: bool) {
        let peers: Vec<NodeId> = match &self.role {
            Role::Leader(leader) => leader.progress.keys().copied().collect(),
            _ => return,
        };
        for peer in peers {
            self.send_what(peer, !waits);
        }
    }

    /// Sends `peer` the entries that it lacks, as far as they may be on their way.
    fn send_entries(&mut self, peer: NodeId) {
        self.send_what(peer, false);
    }

    /// The same; with `news` also how far it is committed, where it was not told.
    pub(super) fn send_what(&mut self, peer: NodeId, news: bool) {
        let last = self.log.last().index;
        loop {
            let Some(leader) = self.role.leading() else {
                return;
            };
            let Some(progress) = leader.progress.get_mut(&peer) else {
                return;
            };
            if progress.paused(&self.options).is_some() {
                return;
            }
            let probing = matches!(progress.state, State::Probe { .. });
            let news = news && progress.told_commit < self.committed;
            let from = progress.next;
            if from > last && !probing && !news {
                return;
            }
            let Some(prev) = self.log.id(from.before()) else {
                progress.state = State::Snapshot;
                self.out.snapshots.push(peer);
                return;
            };
            let bytes = self.options.append_bytes_max;
            let entries = match from > last {
                true => Vec::new(),
                false => match self.log.entries(from, bytes) {
                    Some(entries) => entries,
                    None => {
                        progress.fetching = true;
                        let to = peer;
                        self.out.fetches.push(Fetch { to, from, bytes });
                        return;
                    }
                },
            };
            let alone = entries.is_empty();
            self.send_append(peer, prev, entries);
            if alone {
                return;
            }
        }
    }

    fn send_append(&mut self, peer: NodeId, prev: LogId, entries: Vec<Entry>) {
        let commit = self.committed;
        if let Some(progress) = (self.role.leading()).and_then(|l| l.progress.get_mut(&peer)) {
            progress.told_commit = commit;
            let weight = entries.iter().map(Entry::weight).sum();
            let probing = matches!(progress.state, State::Probe { .. });
            if let Some(end) = entries.last().map(|e| e.id.index) {
                progress.sent(end, weight);
            } else if probing {
                progress.sent(prev.index, 0);
            }
        }
        let body = Body::Append {
            prev,
            entries,
            commit,
        };
        self.send(peer, body);
    }

    pub(super) fn fetched(&mut self, to: NodeId, entries: Vec<Entry>) {
        // What was read while some of it was replaced may be of either.
        let whole = entries.iter().all(|entry| self.log.holds(entry.id));
        let prev = entries.first().map(|e| e.id.index.before());
        let prev = prev.and_then(|index| self.log.id(index));
        let Some(progress) = (self.role.leading()).and_then(|l| l.progress.get_mut(&to)) else {
            return;
        };
        if !std::mem::take(&mut progress.fetching) {
            return;
        }
        let next = progress.next;
        match prev {
            Some(prev) if whole && prev.index.next() == next => {
                self.send_append(to, prev, entries);
            }
            // Not there yet: its next answer to a heartbeat asks again.
            None if entries.is_empty() && self.log.id(next.before()).is_some() => return,
            // Gone from storage, or not what it needs any more: tried again, by a snapshot where the log does not reach back.
            _ => {}
        }
        self.send_entries(to);
    }

    /// A snapshot has what its own log can't read any more.
    pub(super) fn fetch_failed(&mut self, to: NodeId) {
        let Some(progress) = (self.role.leading()).and_then(|l| l.progress.get_mut(&to)) else {
            return;
        };
        if std::mem::take(&mut progress.fetching) {
            progress.state = State::Snapshot;
            self.out.snapshots.push(to);
        }
    }

    pub(super) fn snapshot_sent(&mut self, to: NodeId, last: Option<Index>) {
        let Some(progress) = (self.role.leading()).and_then(|l| l.progress.get_mut(&to)) else {
            return;
        };
        if !matches!(progress.state, State::Snapshot) {
            return;
        }
        let end = self.log.last().index;
        let next = last.map_or(progress.matched, |last| last.min(end)).next();
        progress.probe(next);
        // What it answers comes with the next heartbeat; after a failure it is not tried in a hurry.
        progress.sent(next.before(), 0);
    }

    /// LE2.
    fn commit(&mut self) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let own = match sabotage::on(Sabotage::LeaderCountsUnsynced) {
            true => self.log.last().index,
            false => self.synced,
        };
        let reached = self.deciding().reached_by_quorum(|n| match n {
            n if n == self.id => own,
            n => leader.progress.get(&n).map_or(Index(0), |p| p.matched),
        });
        let Some(index) = reached.filter(|index| *index > self.committed) else {
            return;
        };
        if self.log.term(index) != Some(self.hard.term) && !sabotage::on(Sabotage::CommitsOlderTerm)
        {
            return;
        }
        self.commit_to(index);
        let now = self.now;
        let leader = self.role.leading().expect("it leads");
        let before = leader.committed_at.replace(now);
        let close = before.is_some_and(|at| now - at <= CLOSE_MICROS);
        while let Some((at, weight)) = leader.uncommitted.front().copied()
            && at <= index
        {
            leader.uncommitted.pop_front();
            leader.uncommitted_bytes -= weight;
        }
        let (at, membership) = self.log.membership();
        if at > index {
            return self.tell_commit(close);
        }
        if membership.is_joint() {
            // LE4.
            let mut alone = membership.clone();
            alone.outgoing.clear();
            self.append_membership(alone);
        } else if !membership.is_voter(self.id) {
            // LE5. The others are told first.
            self.tell_commit(false);
            self.follow(self.hard.term, None);
        } else {
            self.tell_commit(close);
        }
    }

    pub(super) fn leader_synced(&mut self) {
        self.commit();
    }

    pub(super) fn on_appended(&mut self, from: NodeId, matched: Index) {
        let base = self.log.base().index;
        let last = self.log.last().index;
        let Some(progress) = (self.role.leading()).and_then(|l| l.progress.get_mut(&from)) else {
            return;
        };
        progress.heard = true;
        // Nobody can hold what was never sent: a broken peer.
        if matched > last {
            return;
        }
        progress.acknowledged(matched, base);
        self.commit();
        self.order_transfer();
        self.promote(from);
        self.send_entries(from);
    }

    pub(super) fn on_conflict(&mut self, from: NodeId, prev: Index, hint: LogId, lost: bool) {
        // The last entry that both can hold: of ours, the last at or below the hint that is of no newer term.
        let hinted = hint.index.min(prev.before());
        let agreed = match hinted < self.log.base().index {
            // Further back than this log reaches: what is sent then is a snapshot.
            true => hinted,
            false => self.log.last_at_most(hinted, hint.term).index,
        };
        let Some(progress) = (self.role.leading()).and_then(|l| l.progress.get_mut(&from)) else {
            return;
        };
        progress.heard = true;
        if lost {
            progress.lost(agreed);
        }
        // An answer to what was sent before it acknowledged more.
        if prev <= progress.matched {
            return;
        }
        if let State::Probe { .. } = progress.state
            && progress.next.before() != prev
        {
            return;
        }
        if matches!(progress.state, State::Snapshot) {
            return;
        }
        progress.probe(agreed.next());
        if sabotage::on(Sabotage::HintCountsAsMatch) {
            progress.acknowledged(hint.index.min(self.log.last().index), Index(0));
            self.commit();
        }
        self.send_entries(from);
    }

    pub(super) fn on_heard(&mut self, from: NodeId, round: u64) {
        let now = self.now;
        let Some(leader) = self.role.leading() else {
            return;
        };
        let Some(progress) = leader.progress.get_mut(&from) else {
            return;
        };
        progress.heard = true;
        if round > progress.round && round <= leader.round {
            progress.round = round;
            let sent = leader.rounds.iter().find(|(r, _)| *r == round);
            let sent = sent.map(|(_, at)| *at);
            progress.round_sent_at = match sabotage::on(Sabotage::LeaseFromReply) {
                true => Some(now),
                false => sent.max(progress.round_sent_at),
            };
        }
        let ask = progress.resume();
        let next = progress.next;
        self.confirm_reads();
        match self.log.id(next.before()) {
            // Is it all there? The answer is an acknowledgement, or a conflict that names the gap.
            Some(prev) if ask => self.send_append(from, prev, Vec::new()),
            // What was on its way is compacted here: from the last that is certain.
            None if ask => {
                if let Some(progress) =
                    (self.role.leading()).and_then(|l| l.progress.get_mut(&from))
                {
                    progress.probe(progress.matched.next());
                }
            }
            _ => {}
        }
        self.promote(from);
        self.order_transfer();
        self.send_entries(from);
    }
}
