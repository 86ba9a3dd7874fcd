//! What the leader knows of one peer, and how much may be on its way there.
//!
//! - PR1: `matched < next`. `matched` only grows, and only by an acknowledgement of this term; but for a peer that says that it
//!   lost what it acknowledged. Taken too low it costs a message, never safety.
//! - PR2: probing, one append is on its way until it is answered or a heartbeat is (what was lost is sent again); replicating, as
//!   many as the limits of messages and bytes let; while a snapshot is on its way, none.
//! - PR3: what may be lost is sent again once in a tick, however many heartbeats are answered: reads make rounds of them, and who answers those may
//!   have a disk that hangs.

use super::options::Options;
use super::types::{Index, NodeId};
use std::collections::VecDeque;
use std::fmt::Write as _;

#[derive(Clone, Debug)]
pub(crate) enum State {
    /// The place where the logs agree is not known.
    Probe { waiting: bool },
    /// It is; (last index, bytes) of each message on its way.
    Replicate {
        inflight: VecDeque<(Index, usize)>,
        bytes: usize,
    },
    /// What it needs is compacted.
    Snapshot,
}

#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) matched: Index,
    pub(crate) next: Index,
    pub(crate) state: State,
    /// Since the last check of the quorum.
    pub(crate) heard: bool,
    /// The highest round it answered, and when that was sent.
    pub(crate) round: u64,
    pub(crate) round_sent_at: Option<u64>,
    /// Entries for it are being read from storage.
    pub(crate) fetching: bool,
    /// The commit index it was last told.
    pub(crate) told_commit: Index,
    /// It acknowledged something since it last answered a heartbeat.
    pub(crate) moved: bool,
    /// A tick has passed since the last time (PR3).
    pub(crate) may_resume: bool,
}

impl Progress {
    pub(crate) fn new(next: Index) -> Progress {
        Progress {
            matched: Index(0),
            next,
            state: State::Probe { waiting: false },
            // A new leader gives everybody one whole period.
            heard: true,
            round: 0,
            round_sent_at: None,
            fetching: false,
            told_commit: Index(0),
            moved: false,
            may_resume: false,
        }
    }

    /// Why nothing can be sent to it now.
    pub(crate) fn paused(&self, options: &Options) -> Option<&'static str> {
        match &self.state {
            Probe { waiting: true } => Some("one append is on its way while its end is not known"),
            State::Replicate { inflight, .. }
                if inflight.len() >= options.inflight_messages_max =>
            {
                Some("as many messages are on their way as may be")
            }
            State::Replicate { bytes, .. } if *bytes >= options.inflight_bytes_max => {
                Some("as many bytes are on their way as may be")
            }
            State::Snapshot => Some("it is being sent a snapshot"),
            _ if self.fetching => Some("entries for it are being read from storage"),
            _ => None,
        }
    }

    /// Notes that entries up to `last` were sent.
    pub(crate) fn sent(&mut self, last: Index, weight: usize) {
        match &mut self.state {
            State::Probe { waiting } => *waiting = true,
            State::Replicate { inflight, bytes } => {
                inflight.push_back((last, weight));
                *bytes += weight;
                self.next = last.next();
            }
            State::Snapshot => {}
        }
    }

    /// It acknowledged `matched`.
    pub(crate) fn acknowledged(&mut self, matched: Index, base: Index) {
        self.moved = true;
        self.matched = self.matched.max(matched);
        self.next = self.next.max(self.matched.next());
        match &mut self.state {
            State::Replicate { inflight, bytes } => {
                while let Some((last, weight)) = inflight.front().copied()
                    && last <= self.matched
                {
                    inflight.pop_front();
                    *bytes -= weight;
                }
            }
            State::Snapshot if self.matched < base => {}
            State::Probe { .. } | State::Snapshot => {
                self.state = State::Replicate {
                    inflight: VecDeque::new(),
                    bytes: 0,
                };
                self.next = self.matched.next();
            }
        }
    }

    /// It holds no more than `held` of what it acknowledged.
    pub(crate) fn lost(&mut self, held: Index) {
        self.matched = self.matched.min(held);
    }

    /// Its end is not known any more: tries again from `next`.
    pub(crate) fn probe(&mut self, next: Index) {
        self.next = next.max(self.matched.next());
        self.state = State::Probe { waiting: false };
        self.fetching = false;
    }

    /// It answered a heartbeat: what it was sent before may be lost. True when that has to be asked: much is on its way, and
    /// nothing of it was acknowledged since the last time.
    pub(crate) fn resume(&mut self) -> bool {
        if !std::mem::take(&mut self.may_resume) {
            return false;
        }
        let moved = std::mem::take(&mut self.moved);
        match &mut self.state {
            State::Probe { waiting } => {
                *waiting = false;
                false
            }
            State::Replicate { inflight, .. } => !inflight.is_empty() && !moved,
            State::Snapshot => false,
        }
    }

    pub(crate) fn state_name(&self) -> &'static str {
        match self.state {
            State::Probe { .. } => "probing",
            State::Replicate { .. } => "replicating",
            State::Snapshot => "receiving a snapshot",
        }
    }

    pub(crate) fn explain(&self, id: NodeId, options: &Options, out: &mut String) {
        let state = self.state_name();
        let heard = if self.heard { "" } else { ", silent" };
        let _ = write!(
            out,
            "; peer {id} {state}, matched {}, next {}{heard}",
            self.matched, self.next
        );
        if let Some(why) = self.paused(options) {
            let _ = write!(out, " (paused: {why})");
        }
    }
}

use State::Probe;
