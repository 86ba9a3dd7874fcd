//! A cluster goes on with one node, where a majority is lost for good.
//!
//! Consensus can't do that, and nothing here makes it safe: what was acknowledged and is held by lost members alone is gone. It is an operator's
//! last resort, on a node that is stopped.
//!
//! - RV1: it is one frame of the log: a new term with this node's vote, and behind the last entry a membership of this node alone. Before the
//!   frame is synced the node is what it was; behind it, recovered, whatever crash comes between.
//! - RV2: no entry is dropped. What is applied is known to be committed; what stands behind it may have been acknowledged or not: it is kept,
//!   and becomes committed when the node leads.
//! - RV3: the cluster goes on as another incarnation (see `incarnation`), at random, so that members that were given up, and others that
//!   were recovered apart from it, neither are heard by this one nor hear it.
//! - RV4 (C2): refused where the log is empty, damaged or abstains: there is no saying what such a node held. Nothing is written then.
//! - RV5: nothing is written before [`Recovery::carry_out`].

use super::about::About;
use super::apply::APPLIED;
use super::apply::applied_of;
use super::incarnation;
use super::members::is_another_disk;
use super::{MachineError, StateMachine};
use crate::core::{
    Abstain, Entry, EntryKind, HardState, LogId, Membership, NodeId, SnapshotMeta, Term, Write,
};
use crate::log::{LogError, LogStore, Recovered};
use std::collections::BTreeSet;

/// Why a node is not recovered. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// There is nothing.
    #[error("the log is empty: this node holds nothing to go on with")]
    Empty,
    /// RV4.
    #[error(
        "this node abstains: it lost entries or a vote that it had promised to keep, so what it holds can't be told. Recover from another member; if there is none, \
         what can be read is read with `esker log`"
    )]
    Abstains,
    /// It was taken out of the cluster, or never was in.
    #[error("node {0} is no member of the cluster that its log knows: recover from a member")]
    NoMember(NodeId),
    /// It is the only voter.
    #[error("node {0} is the only voter already: start it")]
    Alone(NodeId),
    /// The log was not brought up to the state.
    #[error(
        "log and state are not of one piece: {0}. Start the node once, alone, stop it, and try again"
    )]
    Unsettled(String),
    /// What stands in the log or in the state makes no sense.
    #[error("{0} can't be understood; this is a defect, please report it")]
    Garbled(String),
    /// The state.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What there is to go on with, and what would be done.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Who is to go on.
    pub node: NodeId,
    /// The term that it has seen.
    pub term: Term,
    /// Everything up to here is applied, and so is known to have been committed.
    pub committed: LogId,
    /// The end of its log. What lies between is kept, and becomes committed (RV2).
    pub last: LogId,
    /// The membership in its log: all but this node are given up.
    pub membership: Membership,
    /// The incarnation that the cluster is in, and the one that it would get.
    pub incarnation: (u64, u64),
    disk: u64,
}

impl Recovery {
    /// Looks at a log that was just opened, and at the state machine beside it.
    pub fn survey(
        node: NodeId,
        recovered: &Recovered,
        machine: &mut dyn StateMachine,
    ) -> Result<Recovery, RecoverError> {
        if recovered.empty {
            return Err(RecoverError::Empty);
        }
        let view = &recovered.log;
        let membership = view.membership().1.clone();
        let other = is_another_disk(&membership, node, recovered.disk);
        if recovered.abstain != Abstain::No || other {
            return Err(RecoverError::Abstains);
        }
        let mut applied = SnapshotMeta::default();
        for (key, value) in machine.records()? {
            if *key == *APPLIED {
                let garbled =
                    |e| RecoverError::Garbled(format!("what the state says of itself ({e})"));
                applied = applied_of(value).map_err(garbled)?;
            }
        }
        let applied = applied.last;
        if applied.index < view.base().index {
            return Err(RecoverError::Unsettled(format!(
                "the state holds entries up to {applied}, and the log begins behind {}",
                view.base()
            )));
        }
        if !view.holds(applied) {
            return Err(RecoverError::Unsettled(format!(
                "the state holds entries up to {applied}, which the log does not"
            )));
        }
        if !membership.contains(node) {
            return Err(RecoverError::NoMember(node));
        }
        if !membership.is_joint() && membership.voters == BTreeSet::from([node]) {
            return Err(RecoverError::Alone(node));
        }
        let now = incarnation::of(&membership)
            .map_err(|e| RecoverError::Garbled(format!("the membership in the log ({e})")))?;
        Ok(Recovery {
            node,
            term: recovered.hard.term.max(view.last().term),
            committed: applied,
            last: view.last(),
            membership,
            incarnation: (now, fresh(now)),
            disk: recovered.disk,
        })
    }

    /// Who is given up.
    #[must_use]
    pub fn lost(&self) -> BTreeSet<NodeId> {
        let mut lost = self.membership.members();
        lost.remove(&self.node);
        lost
    }

    /// RV1. Durable on return.
    pub fn carry_out(&self, log: &mut dyn LogStore) -> Result<(), RecoverError> {
        let mut to = Membership::of([self.node]);
        let known = self.membership.about.get(&self.node);
        let mut about = known
            .and_then(|about| About::decode(about).ok())
            .unwrap_or_default();
        about.disk = self.disk;
        to.about.insert(self.node, about.encode());
        incarnation::say(&mut to, self.incarnation.1);
        let term = Term(self.term.0 + 1);
        let hard = HardState {
            term,
            vote: Some(self.node),
        };
        let id = LogId {
            term,
            index: self.last.index.next(),
        };
        let entry = Entry {
            id,
            kind: EntryKind::Membership(Box::new(to)),
        };
        log.write(&[Write::HardState(hard), Write::Append(vec![entry])])?;
        log.sync()?;
        Ok(())
    }
}

/// RV3: of 48 bits, as operators type it.
fn fresh(not: u64) -> u64 {
    loop {
        let random = esker_wal::NodeId::random().0 as u64 >> 16;
        if random != 0 && random != not {
            return random;
        }
    }
}
