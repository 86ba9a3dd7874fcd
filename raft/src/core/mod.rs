//! The core of consensus: no I/O, no threads, no clock. [`Core::step`] takes an input and returns what is to be done.
//!
//! After Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm* (2014), and Ongaro's thesis (2014), whose
//! sections the modules cite.
//!
//! - RC1 (C2): term, vote and entries are on stable storage before a message that depends on them leaves. Each step that writes has a
//!   number; the runtime reports [`Input::Synced`], and messages that depend on a write are held back here until then.
//! - RC2: what was held for an older term is dropped, never sent: after a reversal of the log it would acknowledge what is gone.
//! - RC3: the leader sends entries while it syncs them, and counts itself up to what it has synced.
//! - RC4: an entry is committed when a quorum has synced it and it is of the leader's term, and with it all before it (5.4.2).
//! - RC5: the same inputs give the same outputs: the only randomness is the election timeout, from the seed.
//! - RC6: nothing grows without a bound that an option or the number of members sets, apart from what the runtime itself put in and has
//!   not been answered (proposals, reads).
//!
//! The runtime carries out [`Outputs::writes`] in order, reports what is stable, sends messages, applies what is committed, reads
//! old entries from its storage when asked, and sends snapshots. Every call must be followed by taking its outputs.

mod candidate;
mod explain;
mod follower;
mod leader;
mod log;
mod message;
mod options;
mod progress;
mod read;
#[cfg(test)]
mod tests;
mod types;

pub use explain::PeerStatus;
pub use log::LogView;
pub use message::*;
pub use options::*;
pub use types::*;

use crate::sabotage::{self, Sabotage};
use bytes::Bytes;
use candidate::Campaign;
use leader::Leader;
use read::FollowerReads;
use std::collections::VecDeque;

/// The runtime's name for a proposal, a change or a read.
pub type Token = u64;

/// What has to be on stable storage. In order; a later one may replace what an earlier one wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Term and vote.
    HardState(HardState),
    /// Entries. Whatever the log held at or above the first of them is superseded.
    Append(Vec<Entry>),
    /// The snapshot that has arrived becomes the state, and the log begins anew behind it. Atomically.
    Snapshot(SnapshotMeta),
}

/// Why nothing was appended. It is certain that the command takes no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node does not lead.
    #[error("this node does not lead; ask node {leader:?}")]
    NotLeader {
        /// Who does, as far as known.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over.
    #[error("leadership is being handed over; try again in a moment")]
    Transferring,
    /// Too much is not committed.
    #[error("too many bytes wait to be committed; try again when there are fewer")]
    Busy,
    /// A change of membership is under way, or the leader is too new to begin one.
    #[error("another change of membership is not committed yet; try again when it is")]
    ChangeUnderWay,
    /// The change makes no sense.
    #[error("the membership can't be changed like that: {0}")]
    BadChange(&'static str),
}

/// What became of something the runtime asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was appended under this name. It is committed once the commit index reaches it and the log still holds it.
    Appended(LogId),
    /// It was not, and won't be.
    Refused(Refusal),
    /// A read: once everything up to here is applied, the state is fresh enough.
    ReadAt(Index),
}

/// What happens to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time passes. A node that was stopped for a while gets one tick, not many.
    Tick,
    /// A message came.
    Message {
        /// From whom.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// Everything written up to this number is on stable storage.
    Synced(u64),
    /// Commands to append.
    Propose(Vec<(Token, Bytes)>),
    /// Change the membership.
    Change(Token, Change),
    /// Add a voter: it listens until it has caught up (thesis 4.2.1), then becomes one, as long as this node leads.
    AddVoter(Token, NodeId, Bytes),
    /// A linearizable read.
    Read(Token),
    /// Hand leadership over.
    Transfer(NodeId),
    /// Campaign now. With leases a node that heard from a leader within an election timeout does not.
    Campaign,
    /// Stop leading (the disk hangs, say).
    StepDown,
    /// Whether it holds back from leading: it does not campaign, by order neither, gives up a campaign that goes on, and votes and follows as ever.
    /// For a node that could not serve as a leader just now; one that leads goes on until [`Input::StepDown`]. At the start it does not.
    HoldBack(bool),
    /// Entries that [`Outputs::fetches`] asked for.
    Fetched {
        /// For whom.
        to: NodeId,
        /// In order; none when they are not there any more, or not yet.
        entries: Vec<Entry>,
    },
    /// Entries that [`Outputs::fetches`] asked for can't be read: a snapshot goes instead.
    FetchFailed {
        /// For whom.
        to: NodeId,
    },
    /// The sending of a snapshot ended.
    SnapshotSent {
        /// To whom.
        to: NodeId,
        /// Up to where it reached; `None` when it failed.
        last: Option<Index>,
    },
    /// The log up to here is in a durable snapshot and can go.
    Compact(Index),
    /// Whether the membership in its log knows this node's id by another disk (C2). As that one it has promised what it does not know: it votes for
    /// nobody before its log says that it was removed and added anew. Entries it takes, and says so, as who it is now. At the start it is none.
    Stranger(bool),
}

/// Entries that are to be read from storage for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// For whom.
    pub to: NodeId,
    /// From here on.
    pub from: Index,
    /// At most so many bytes, but at least one entry.
    pub bytes: usize,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// To be written, in this order.
    pub writes: Vec<Write>,
    /// The number of these writes; zero where there are none.
    pub seq: u64,
    /// To be sent. Nothing in them waits for anything.
    pub messages: Vec<Envelope>,
    /// The commit index, where it moved.
    pub committed: Option<Index>,
    /// Answers to what was asked.
    pub answers: Vec<(Token, Answer)>,
    /// To be read and handed in by [`Input::Fetched`].
    pub fetches: Vec<Fetch>,
    /// Peers that need a snapshot.
    pub snapshots: Vec<NodeId>,
    /// Role, term or leader changed.
    pub changed: bool,
}

/// What a node was before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Abstain {
    /// Nothing is damaged.
    #[default]
    No,
    /// Entries up to here may have been acknowledged and are gone (C2): no vote before they are back.
    Until(Index),
    /// Vote and term are lost: no vote any more under this id, and no acknowledgement. In a term that is older than the one it voted in
    /// it would acknowledge what the leader of that one knows nothing of.
    Always,
}

/// What a node starts from.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// As synced.
    pub hard: HardState,
    /// The log, as synced; for a new cluster an empty one behind a snapshot of nothing with the first membership.
    pub log: LogView,
    /// What is known to be committed (what the state machine has applied, say); at least the snapshot is.
    pub committed: Index,
    /// Whether something was lost.
    pub abstain: Abstain,
}

/// Which role a node plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Follows, or waits for somebody to follow.
    Follower,
    /// Asks whether a campaign would be heard.
    PreCandidate,
    /// Campaigns.
    Candidate,
    /// Leads.
    Leader,
}

#[derive(Debug)]
enum Role {
    Follower,
    PreCandidate(Campaign),
    Candidate(Campaign),
    Leader(Box<Leader>),
}

/// A node. See the module.
#[derive(Debug)]
pub struct Core {
    id: NodeId,
    options: Options,
    /// State of the generator of election timeouts (SplitMix64).
    random: u64,
    hard: HardState,
    log: LogView,
    committed: Index,
    /// This node's log is on stable storage up to here.
    synced: Index,
    role: Role,
    leader: Option<NodeId>,
    /// Ticks since the timer was reset, and when it runs out.
    elapsed: u32,
    timeout: u32,
    /// Ticks since a leader was heard from; starts at zero, so that a restarted node votes only after a whole election timeout (C3).
    quiet: u32,
    /// Entries came since it could last ask for some, and whether it may ask now (FO5).
    fetched: bool,
    may_ask: bool,
    now: u64,
    abstain: Abstain,
    /// See [`Input::Stranger`].
    stranger: bool,
    /// Since a leader was heard from it was asked for its vote for a log that is older than its own (EL7).
    outranks: bool,
    /// See [`Input::HoldBack`].
    holds_back: bool,
    /// The number of the latest step that wrote, and of the latest that is stable.
    written: u64,
    stable: u64,
    /// (number, end of the log behind it) of writes that are not stable.
    unstable: VecDeque<(u64, LogId)>,
    /// Messages that wait for a write.
    held: VecDeque<(u64, Envelope)>,
    reads: FollowerReads,
    out: Outputs,
}

impl Core {
    /// A node as it was restored. `seed` decides its election timeouts, and ought to differ between nodes.
    pub fn new(
        id: NodeId,
        options: Options,
        restored: Restored,
        seed: u64,
    ) -> Result<Core, BadOption> {
        options.check()?;
        let mut log = restored.log;
        log.bound_tail(options.tail_bytes_max);
        let committed = restored.committed.max(log.base().index);
        let mut core = Core {
            id,
            random: seed,
            hard: restored.hard,
            committed: committed.min(log.last().index),
            synced: log.last().index,
            log,
            role: Role::Follower,
            leader: None,
            elapsed: 0,
            timeout: 0,
            quiet: 0,
            fetched: false,
            may_ask: true,
            now: 0,
            abstain: restored.abstain,
            stranger: false,
            outranks: false,
            holds_back: false,
            written: 0,
            stable: 0,
            unstable: VecDeque::new(),
            held: VecDeque::new(),
            reads: FollowerReads::default(),
            out: Outputs::default(),
            options,
        };
        core.reset_timer();
        Ok(core)
    }

    /// Takes one input. `now` is in microseconds, of a clock that never steps back and counts suspension.
    #[must_use]
    pub fn step(&mut self, now: u64, input: Input) -> Outputs {
        self.now = self.now.max(now);
        match input {
            Input::Tick => self.tick(),
            Input::Message { from, message } => self.receive(from, message),
            Input::Synced(seq) => self.on_synced(seq),
            Input::Propose(commands) => self.propose(commands),
            Input::Change(token, change) => self.change(token, change),
            Input::AddVoter(token, node, about) => self.add_voter(token, node, about),
            Input::Read(token) => self.read(token),
            Input::Transfer(to) => self.transfer(to),
            // Its own vote would break what the leader's lease stands on: that nobody who answered votes before a timeout (C3).
            Input::Campaign if self.options.lease.is_some() && self.is_loyal() => {}
            Input::Campaign => self.campaign(false),
            Input::StepDown => {
                if self.is_leader() {
                    self.follow(self.hard.term, None);
                }
            }
            Input::HoldBack(holds) => {
                self.holds_back = holds;
                let campaigns = matches!(self.role, Role::PreCandidate(_) | Role::Candidate(_));
                if holds && campaigns {
                    self.follow(self.hard.term, None);
                }
            }
            Input::Fetched { to, entries } => self.fetched(to, entries),
            Input::FetchFailed { to } => self.fetch_failed(to),
            Input::SnapshotSent { to, last } => self.snapshot_sent(to, last),
            Input::Stranger(is) => self.stranger = is,
            Input::Compact(index) => {
                // What is not committed stays, whatever the caller says.
                self.log.compact(index.min(self.committed));
            }
        }
        self.begin_read_round();
        std::mem::take(&mut self.out)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Its term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// Its term and vote.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard
    }

    /// Its role.
    #[must_use]
    pub fn role(&self) -> RoleName {
        match self.role {
            Role::Follower => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// Who leads, as far as it knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Whether it leads, or heard from a leader within an election timeout.
    #[must_use]
    pub fn hears_leader(&self) -> bool {
        self.is_loyal()
    }

    /// Everything up to here is committed.
    #[must_use]
    pub fn committed(&self) -> Index {
        self.committed
    }

    /// The end of its log.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.log.last()
    }

    /// Its own log is on stable storage up to here.
    #[must_use]
    pub fn synced(&self) -> Index {
        self.synced
    }

    /// Entries from `from` on, of `bytes` at most but at least one; `None` when they are not in memory.
    #[must_use]
    pub fn entries(&self, from: Index, bytes: usize) -> Option<Vec<Entry>> {
        self.log.entries(from, bytes)
    }

    /// The first entry in memory; the end of the log where there is none.
    #[must_use]
    pub fn in_memory_from(&self) -> Index {
        self.log.in_memory_from()
    }

    /// The last entry that its log does not hold any more.
    #[must_use]
    pub fn base(&self) -> LogId {
        self.log.base()
    }

    /// The entry at `index`, by its name.
    #[must_use]
    pub fn id_at(&self, index: Index) -> Option<LogId> {
        self.log.id(index)
    }

    /// The membership in force: the newest in the log, committed or not.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.log.membership().1
    }

    /// The membership as of `index`: what a snapshot up to there carries.
    #[must_use]
    pub fn membership_at(&self, index: Index) -> &Membership {
        self.log.membership_at(index)
    }

    /// Whether it votes for nobody because acknowledged entries or its vote are lost, or were another disk's (C2).
    #[must_use]
    pub fn abstains(&self) -> bool {
        self.abstain != Abstain::No || self.stranger
    }

    fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn reset_timer(&mut self) {
        let spread = u64::from(self.options.election_ticks);
        self.elapsed = 0;
        self.timeout = self.options.election_ticks + (self.next_random() % spread) as u32;
    }

    fn tick(&mut self) {
        self.elapsed = self.elapsed.saturating_add(1);
        self.quiet = self.quiet.saturating_add(1);
        if self.is_leader() {
            self.quiet = 0;
            self.leader_tick();
        } else {
            self.may_ask = true;
            self.reads_tick();
            if self.election_held() {
                self.elapsed = 0;
            }
            if self.elapsed >= self.timeout {
                self.campaign(false);
            }
        }
    }

    /// EL6.
    fn election_held(&self) -> bool {
        if let Role::Candidate(campaign) = &self.role
            && !campaign.is_synced(self.stable)
        {
            return true;
        }
        (self.held.iter()).any(|(_, held)| {
            matches!(
                held.message.body,
                Body::Vote { .. } | Body::Voted { granted: true }
            )
        })
    }

    /// Sends at once.
    fn send(&mut self, to: NodeId, body: Body) {
        self.send_in(self.hard.term, to, body);
    }

    fn send_in(&mut self, term: Term, to: NodeId, body: Body) {
        if self.keeps_silent(&body) {
            return;
        }
        let message = Message { term, body };
        self.out.messages.push(Envelope { to, message });
    }

    /// C2: of what others count as a promise nothing leaves a node that does not know what it promised.
    fn keeps_silent(&self, body: &Body) -> bool {
        let promises = matches!(
            body,
            Body::Appended { .. } | Body::Conflict { .. } | Body::Heard { .. }
        );
        self.abstain == Abstain::Always && promises && !sabotage::on(Sabotage::VotelessAcknowledges)
    }

    /// Sends once everything written so far is stable (RC1).
    fn send_stable(&mut self, to: NodeId, body: Body) {
        let early = match body {
            Body::Vote { .. } | Body::Voted { .. } => Sabotage::VoteNotSynced,
            _ => Sabotage::AppendedNotSynced,
        };
        if self.stable >= self.written || sabotage::on(early) || self.keeps_silent(&body) {
            return self.send(to, body);
        }
        // One acknowledgement says what those before it said: while a disk hangs the leader goes on asking (RC6).
        if let Body::Appended { matched } = body
            && let Some((seq, held)) = self.held.back_mut()
            && (*seq, held.to) == (self.written, to)
            && let Body::Appended { matched: before } = &mut held.message.body
        {
            *before = matched.max(*before);
            return;
        }
        let message = Message {
            term: self.hard.term,
            body,
        };
        self.held
            .push_back((self.written, Envelope { to, message }));
    }

    fn write(&mut self, write: Write) {
        if self.out.writes.is_empty() {
            self.written += 1;
            self.out.seq = self.written;
        }
        match &write {
            Write::HardState(_) => {}
            Write::Append(_) | Write::Snapshot(_) => {
                let last = self.log.last();
                match self.unstable.back_mut() {
                    Some((seq, end)) if *seq == self.written => *end = last,
                    _ => self.unstable.push_back((self.written, last)),
                }
            }
        }
        self.out.writes.push(write);
    }

    fn write_hard_state(&mut self) {
        self.write(Write::HardState(self.hard));
    }

    fn on_synced(&mut self, seq: u64) {
        self.stable = self.stable.max(seq.min(self.written));
        while let Some((seq, end)) = self.unstable.front().copied()
            && seq <= self.stable
        {
            self.unstable.pop_front();
            // Tagged with the term: what was cut meanwhile is not synced by this.
            if self.log.holds(end) {
                self.synced = self.synced.max(end.index);
            }
        }
        while let Some((seq, _)) = self.held.front()
            && *seq <= self.stable
        {
            let (_, mut envelope) = self.held.pop_front().expect("just seen");
            if sabotage::on(Sabotage::HeldAcrossTerms) {
                envelope.message.term = self.hard.term;
            }
            assert_eq!(envelope.message.term, self.hard.term, "RC2");
            self.out.messages.push(envelope);
        }
        if let Abstain::Until(index) = self.abstain
            && self.synced >= index
        {
            self.abstain = Abstain::No;
        }
        match self.role {
            Role::Leader(_) => self.leader_synced(),
            Role::Candidate(_) => self.count_votes(),
            _ => {}
        }
    }

    fn commit_to(&mut self, index: Index) {
        if index > self.committed {
            assert!(
                index <= self.log.last().index,
                "commit {index} beyond the end {}",
                self.log.last()
            );
            self.committed = index;
            self.out.committed = Some(index);
        }
    }

    /// Becomes a follower in `term`.
    fn follow(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.hard.term, "terms went back");
        let was_leader = self.is_leader();
        self.drop_reads(leader);
        if term > self.hard.term {
            self.hard = HardState { term, vote: None };
            self.write_hard_state();
            self.term_changed();
        }
        if was_leader || !matches!(self.role, Role::Follower) || self.leader != leader {
            self.out.changed = true;
        }
        self.role = Role::Follower;
        self.leader = leader;
        self.reset_timer();
    }

    /// RC2.
    fn term_changed(&mut self) {
        if !sabotage::on(Sabotage::HeldAcrossTerms) {
            self.held.clear();
        }
        self.out.changed = true;
    }

    fn receive(&mut self, from: NodeId, message: Message) {
        if from == self.id {
            return;
        }
        let Message { term, body } = message;
        if term > self.hard.term {
            match &body {
                // Says what would be; a granted one answers to a term that is not there yet.
                Body::PreVote { .. } | Body::PreVoted { granted: true } => {}
                Body::Vote { transfer, .. } if !transfer && self.is_loyal() => return,
                Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot(_) => {
                    self.follow(term, Some(from));
                }
                _ => self.follow(term, None),
            }
        } else if term < self.hard.term {
            match &body {
                // Whoever they come from learns of the newer term by any answer.
                Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot(_) => {
                    return self.send(from, Body::Heard { round: 0 });
                }
                Body::PreVote { .. } => {
                    return self.send(from, Body::PreVoted { granted: false });
                }
                Body::Vote { .. } => return self.send(from, Body::Voted { granted: false }),
                Body::Voted { .. } if sabotage::on(Sabotage::VotesCarriedOver) => {}
                Body::Appended { .. } if sabotage::on(Sabotage::OlderTermCounts) => {}
                _ => return,
            }
        }
        match body {
            Body::PreVote { last } => self.on_pre_vote(from, term, last),
            Body::PreVoted { granted } => self.on_pre_voted(from, term, granted),
            Body::Vote { last, transfer } => self.on_vote(from, last, transfer),
            Body::Voted { granted } => self.on_voted(from, granted),
            Body::Append {
                prev,
                entries,
                commit,
            } => self.on_append(from, prev, entries, commit),
            Body::Heartbeat { commit, round } => self.on_heartbeat(from, commit, round),
            Body::Snapshot(meta) => self.on_snapshot(from, meta),
            Body::TimeoutNow => self.on_timeout_now(from),
            Body::Appended { matched } => self.on_appended(from, matched),
            Body::Conflict { prev, hint, lost } => self.on_conflict(from, prev, hint, lost),
            Body::Heard { round } => self.on_heard(from, round),
            Body::ReadIndex { id } => self.on_read_index(from, id),
            Body::ReadAt { id, index } => self.on_read_at(from, id, index),
        }
    }

    /// Whether a leader was heard from within an election timeout (6, last part; thesis 4.2.3): then nobody else is voted for.
    fn is_loyal(&self) -> bool {
        self.is_leader() || self.quiet < self.options.election_ticks
    }

    /// Checks what must hold between any two steps. For tests: it walks nothing, but it costs.
    ///
    /// # Panics
    /// When something does not.
    pub fn check(&self) {
        let last = self.log.last();
        assert!(
            self.log.base().index <= self.committed,
            "base beyond commit"
        );
        assert!(self.committed <= last.index, "commit beyond the end");
        assert!(self.synced <= last.index, "synced beyond the end");
        assert!(last.term <= self.hard.term, "an entry of the future");
        assert!(self.stable <= self.written);
        if let Role::Leader(leader) = &self.role {
            assert_eq!(self.leader, Some(self.id));
            leader.check(last.index);
        }
        assert!(self.out == Outputs::default(), "outputs were left behind");
    }
}
