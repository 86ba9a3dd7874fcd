//! What members say to each other.
//!
//! Loss, duplication and reordering are normal. Every message carries its sender's term; one of an older term is answered with
//! the newer, or dropped. The transport adds cluster, group, sender and the sender's process epoch.

use super::types::{Entry, Index, LogId, NodeId, SnapshotMeta, Term};

/// A message. See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's term; of a pre-vote the one that it would campaign in.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// "Would you vote for me in that term?" (thesis 9.6): changes nothing at its receiver.
    PreVote {
        /// The end of the candidate's log.
        last: LogId,
    },
    /// The answer. Granted it carries the term that was asked about, else the receiver's own.
    PreVoted {
        /// Whether it would.
        granted: bool,
    },
    /// RequestVote (5.2).
    Vote {
        /// The end of the candidate's log.
        last: LogId,
        /// By order of the leader: stickiness does not protect it (thesis 3.10).
        transfer: bool,
    },
    /// The answer.
    Voted {
        /// Whether the vote was given.
        granted: bool,
    },
    /// AppendEntries (5.3).
    Append {
        /// The entry before the first of `entries`.
        prev: LogId,
        /// In order, without a gap.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: Index,
    },
    /// The log agrees with the leader's up to `matched`, and is synced up to there.
    Appended {
        /// See above. Tagged with the term: a completion of before a reversal of the log proves nothing.
        matched: Index,
    },
    /// The log does not hold `prev`.
    Conflict {
        /// The index of the refused append's `prev`.
        prev: Index,
        /// The last entry that can agree: at or below `prev`, of a term at or below its term (fast back-up, end of 5.3).
        hint: LogId,
        /// It lost what it acknowledged (C2): what is known of it does not count any more.
        lost: bool,
    },
    /// Keeps the leader in office; `round` confirms reads and the lease.
    Heartbeat {
        /// What of the receiver's log is known to agree, and committed.
        commit: Index,
        /// Grows with each round.
        round: u64,
    },
    /// The answer.
    Heard {
        /// Of the heartbeat.
        round: u64,
    },
    /// A snapshot has arrived whole (its bytes come by other ways), from the leader of this term.
    Snapshot(SnapshotMeta),
    /// "Campaign at once" (thesis 3.10).
    TimeoutNow,
    /// A follower asks for a read index. `id` is the follower's, and never used twice.
    ReadIndex {
        /// See above.
        id: u64,
    },
    /// The answer: what is applied up to `index` is fresh enough for it.
    ReadAt {
        /// Of the question.
        id: u64,
        /// See above.
        index: Index,
    },
}

impl Body {
    /// Its name, for traces.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Body::PreVote { .. } => "pre-vote",
            Body::PreVoted { .. } => "pre-voted",
            Body::Vote { .. } => "vote",
            Body::Voted { .. } => "voted",
            Body::Append { .. } => "append",
            Body::Appended { .. } => "appended",
            Body::Conflict { .. } => "conflict",
            Body::Heartbeat { .. } => "heartbeat",
            Body::Heard { .. } => "heard",
            Body::Snapshot(_) => "snapshot",
            Body::TimeoutNow => "timeout-now",
            Body::ReadIndex { .. } => "read-index",
            Body::ReadAt { .. } => "read-at",
        }
    }
}

/// A message to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// To whom.
    pub to: NodeId,
    /// What.
    pub message: Message,
}
