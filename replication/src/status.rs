//! What both sides say about themselves.

use crate::error::Refusal;
use esker_wal::{Lsn, NodeId};
use std::time::Duration;

/// Which acknowledgement counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ack {
    /// In the replica's log, in memory.
    Received,
    /// On the replica's stable storage (R3).
    Durable,
    /// Readable at the replica.
    Applied,
}

/// What a primary knows of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Its node id.
    pub node: NodeId,
    /// Its label; empty when it has not been heard of since this primary started.
    pub name: String,
    /// Where it connects from; empty when it is not connected.
    pub address: String,
    /// Whether it is connected and follows.
    pub connected: bool,
    /// End of its log, as acknowledged.
    pub received: Lsn,
    /// End of what it has synced, as acknowledged.
    pub durable: Lsn,
    /// End of what can be read there, as acknowledged.
    pub applied: Lsn,
    /// End of what was sent to it in this connection.
    pub sent: Lsn,
    /// Bytes of this log that it has not applied.
    pub lag_bytes: u64,
    /// Time since it was last heard; `None` when it was not heard since this primary started.
    pub silent: Option<Duration>,
    /// Its slot was lost to the cap: it must be rebuilt.
    pub slot_lost: bool,
}

impl ReplicaStatus {
    /// The position of one kind.
    #[must_use]
    pub fn position(&self, ack: Ack) -> Lsn {
        match ack {
            Ack::Received => self.received,
            Ack::Durable => self.durable,
            Ack::Applied => self.applied,
        }
    }
}

/// Where a replica stands in following its primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowState {
    /// No answer yet; trying.
    Connecting,
    /// Connected and following.
    Following,
    /// Refused; tries again from time to time.
    Refused(Refusal),
    /// Lost the primary, or what it sent could not be used; tries again.
    Disconnected {
        /// What happened.
        why: String,
    },
    /// Can't go on without an operator: the log is poisoned, or the store failed.
    Failed {
        /// What happened.
        why: String,
    },
    /// Promoted: it follows no more.
    Promoted,
    /// Closed.
    Closed,
}

/// What a replica says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowStatus {
    /// Where it stands.
    pub state: FollowState,
    /// The primary's endpoint.
    pub primary: String,
    /// The primary's node id, once heard.
    pub primary_node: Option<NodeId>,
    /// End of this node's log.
    pub received: Lsn,
    /// End of what is synced here.
    pub durable: Lsn,
    /// End of what can be read here.
    pub applied: Lsn,
    /// End of what is synced at the primary, as last heard.
    pub primary_synced: Lsn,
    /// The primary's safe position, as last heard: replies that reveal newer things are held.
    pub primary_safe: Lsn,
    /// Time since the primary was last heard; `None` when it never was.
    pub silent: Option<Duration>,
    /// Bytes the primary had synced and this node has not applied, as last heard.
    pub lag_bytes: u64,
    /// Times the connection was made.
    pub connects: u64,
    /// What applying waits for (room in log or store), while it does.
    pub held_up: Option<String>,
}
