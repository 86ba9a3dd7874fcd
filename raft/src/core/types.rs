//! The words of the core. Positions compare in field order.
//!
//! `snapshot <= applied <= committed <= last`; a node's *synced* index lies anywhere up to `last`, and with it what it
//! acknowledges.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A member of the cluster; from 1 on.
    NodeId
}
number! {
    /// A term: a stretch of logical time with at most one leader.
    Term
}
number! {
    /// A place in the log; the first entry has 1.
    Index
}

impl NodeId {
    /// No member: what is known of the cluster as a whole stands under it in [`Membership::about`].
    pub const CLUSTER: NodeId = NodeId(0);
}

impl Index {
    /// The place behind this one.
    #[must_use]
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The place before this one; the first has zero before it.
    #[must_use]
    pub fn before(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

/// Names an entry for ever. Field order is the comparison order: a later term outranks any index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that made it.
    pub term: Term,
    /// Its place.
    pub index: Index,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// What an entry is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A command of the state machine.
    Command(Bytes),
    /// Begins a leader's term (section 8 of the paper); takes no effect.
    Noop,
    /// A membership, in force from the moment it is in a log (section 6).
    Membership(Box<Membership>),
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: LogId,
    /// What it is for.
    pub kind: EntryKind,
}

// Each is moved and copied a few times on each node.
const _: () = assert!(size_of::<Entry>() <= 56);

/// Bytes that an entry counts with beside its payload.
const ENTRY_OVERHEAD: usize = 64;

impl Entry {
    /// Bytes that it counts with against limits.
    #[must_use]
    pub fn weight(&self) -> usize {
        ENTRY_OVERHEAD
            + match &self.kind {
                EntryKind::Command(payload) => payload.len(),
                EntryKind::Noop => 0,
                EntryKind::Membership(m) => {
                    16 * (m.voters.len() + m.learners.len() + m.outgoing.len())
                        + m.about.values().map(|a| 16 + a.len()).sum::<usize>()
                }
            }
    }
}

/// Term and vote: what must be on stable storage before a message that depends on it leaves (C2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term this node has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
}

/// Who votes and who only listens. While `outgoing` is not empty it is joint: decisions need a majority of both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Voters, in a joint membership those of the new one.
    pub voters: BTreeSet<NodeId>,
    /// In a joint membership the voters of the old one.
    pub outgoing: BTreeSet<NodeId>,
    /// Receive the log and don't vote.
    pub learners: BTreeSet<NodeId>,
    /// What the runtime wants known of a member: its addresses, the identity of its disk. The core carries it and looks at nothing.
    pub about: BTreeMap<NodeId, Bytes>,
}

impl Membership {
    /// Of these voters alone.
    #[must_use]
    pub fn of(voters: impl IntoIterator<Item = NodeId>) -> Membership {
        Membership {
            voters: voters.into_iter().collect(),
            ..Membership::default()
        }
    }

    /// Whether two majorities are needed.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `node` votes.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether `node` is a member at all.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(&node)
    }

    /// Everybody, each once.
    #[must_use]
    pub fn members(&self) -> BTreeSet<NodeId> {
        let all = self.voters.iter().chain(&self.outgoing);
        all.chain(&self.learners).copied().collect()
    }

    /// Whether those for whom `has` is true are a quorum.
    #[must_use]
    pub fn quorum(&self, mut has: impl FnMut(NodeId) -> bool) -> bool {
        [&self.voters, &self.outgoing].into_iter().all(|half| {
            half.is_empty() || half.iter().filter(|n| has(**n)).count() * 2 > half.len()
        }) && !self.voters.is_empty()
    }

    /// The highest value that a quorum has reached.
    #[must_use]
    pub fn reached_by_quorum<T: Ord + Copy>(&self, of: impl Fn(NodeId) -> T) -> Option<T> {
        [&self.voters, &self.outgoing]
            .into_iter()
            .filter_map(|half| {
                let mut values: Vec<T> = half.iter().map(|n| of(*n)).collect();
                values.sort_unstable();
                // The majority stands at or above the lower median.
                let at = values.len().checked_sub(1)? / 2;
                values.get(at).copied()
            })
            .min()
    }
}

/// A change of membership. One at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Let it listen: it gets the log and is counted in no quorum.
    AddLearner(NodeId, Bytes),
    /// Replace what is known of a member.
    Describe(NodeId, Bytes),
    /// Make these the voters, by way of a joint membership. New ones ought to be learners that have caught up.
    SetVoters(BTreeSet<NodeId>),
    /// Drop a learner.
    RemoveLearner(NodeId),
}

/// What a snapshot stands for: everything up to `last`, applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry in it.
    pub last: LogId,
    /// The membership as of that entry.
    pub membership: Membership,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(of: &[u64]) -> BTreeSet<NodeId> {
        of.iter().map(|n| NodeId(*n)).collect()
    }

    #[test]
    fn a_quorum_is_a_majority_of_each_half() {
        let mut m = Membership::of(ids(&[1, 2, 3]));
        let with = |m: &Membership, have: &[u64]| m.quorum(|n| have.contains(&n.0));
        assert!(with(&m, &[1, 3]) && !with(&m, &[2]) && !with(&m, &[2, 9]));
        m.outgoing = ids(&[3, 4, 5, 6]);
        assert!(!with(&m, &[1, 2, 3]) && !with(&m, &[3, 4, 5]));
        assert!(with(&m, &[1, 3, 4, 5]));
        assert!(!Membership::default().quorum(|_| true));
    }

    #[test]
    fn what_a_quorum_has_reached_is_the_lower_of_both_medians() {
        let mut m = Membership::of(ids(&[1, 2, 3, 4]));
        assert_eq!(m.reached_by_quorum(|n| n.0), Some(2));
        m.outgoing = ids(&[1]);
        assert_eq!(m.reached_by_quorum(|n| n.0), Some(1));
        assert_eq!(Membership::default().reached_by_quorum(|n| n.0), None);
    }

    #[test]
    fn a_later_term_outranks_any_index() {
        let id = |term, index| LogId {
            term: Term(term),
            index: Index(index),
        };
        assert!(id(2, 1) > id(1, 9) && id(2, 2) > id(2, 1));
    }
}
