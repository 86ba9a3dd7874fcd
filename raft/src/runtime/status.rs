//! What a node says of itself.

use crate::core::{Index, LogId, Membership, NodeId, PeerStatus, RoleName, Term};
use esker_sync::histogram::{Counts, Histogram};

/// How long proposals took from being taken to each stage, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Stages {
    pub(super) appended: Histogram,
    pub(super) synced: Histogram,
    pub(super) committed: Histogram,
    pub(super) applied: Histogram,
}

/// How long proposals took from being asked for, in microseconds.
#[derive(Clone, Debug, Default)]
pub struct StageCounts {
    /// Until they stood in the leader's log.
    pub appended: Counts,
    /// Until they were on the leader's stable storage.
    pub synced: Counts,
    /// Until they were committed.
    pub committed: Counts,
    /// Until they were applied and answered.
    pub applied: Counts,
}

impl Stages {
    pub(super) fn counts(&self) -> StageCounts {
        StageCounts {
            appended: self.appended.snapshot(),
            synced: self.synced.snapshot(),
            committed: self.committed.snapshot(),
            applied: self.applied.snapshot(),
        }
    }
}

/// A node, at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its id.
    pub node: NodeId,
    /// Its role.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Everything up to here is in a snapshot and not in the log any more.
    pub base: LogId,
    /// The state machine holds everything up to here, also after a power cut.
    pub durable: Index,
    /// The state machine holds everything up to here.
    pub applied: Index,
    /// Everything up to here is committed.
    pub committed: Index,
    /// Its log is synced up to here.
    pub synced: Index,
    /// The end of its log.
    pub last: LogId,
    /// Groups of writes that its log took since the node started, and syncs of the log since it was opened (C4: one for each group).
    pub log_groups: u64,
    /// See above.
    pub log_syncs: u64,
    /// The incarnation of the cluster: 0, unless it was recovered from a lost majority.
    pub incarnation: u64,
    /// The membership in force.
    pub membership: Membership,
    /// It votes for nobody, because something it promised is lost (C2).
    pub abstains: bool,
    /// Writes wait for room on its disk: the log's, or the state machine's.
    pub disk_full: bool,
    /// Its disk has not answered within the bound, or its state machine has waited for room as long, or finished nothing within its own
    /// ([`super::NodeOptions::apply_hang_max`]).
    pub disk_hangs: bool,
    /// On a leader what it knows of each peer.
    pub peers: Vec<PeerStatus>,
    /// In words: what it does, and why.
    pub explanation: String,
}
