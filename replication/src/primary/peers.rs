//! Who follows, and how far: positions by node id, kept while this primary runs and, by its slot, beyond.
//!
//! - PE1: one entry per node id, so a node that connects twice counts once (R3).
//! - PE2: within a life of a replica its positions only grow. A hello sets them anew: it says what the
//!   node found after it verified its tail, which for received and applied may be less.
//! - PE3: a node that is gone keeps what it acknowledged: what is synced there stays synced.

use crate::status::{Ack, ReplicaStatus};
use esker_wal::{Lsn, NodeId};
use std::time::Instant;

/// One known replica.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) name: String,
    pub(super) address: String,
    pub(super) connected: bool,
    pub(super) received: Lsn,
    pub(super) durable: Lsn,
    pub(super) applied: Lsn,
    pub(super) sent: Lsn,
    pub(super) heard: Option<Instant>,
    pub(super) slot_lost: bool,
}

/// All known replicas.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    list: Vec<Peer>,
}

impl Peers {
    /// The entry of a node; made where there is none.
    pub(super) fn entry(&mut self, node: NodeId) -> &mut Peer {
        let at = match self.list.iter().position(|p| p.node == node) {
            Some(at) => at,
            None => {
                self.list.push(Peer {
                    node,
                    name: String::new(),
                    address: String::new(),
                    connected: false,
                    received: Lsn::ZERO,
                    durable: Lsn::ZERO,
                    applied: Lsn::ZERO,
                    sent: Lsn::ZERO,
                    heard: None,
                    slot_lost: false,
                });
                self.list.len() - 1
            }
        };
        &mut self.list[at]
    }

    /// A connected node of that name other than `node`.
    pub(super) fn live_namesake(&self, name: &str, node: NodeId) -> Option<&Peer> {
        self.list
            .iter()
            .find(|p| p.connected && p.name == name && p.node != node)
    }

    /// Forgets a node.
    pub(super) fn remove(&mut self, node: NodeId) {
        self.list.retain(|p| p.node != node);
    }

    pub(super) fn contains(&self, node: NodeId) -> bool {
        self.list.iter().any(|p| p.node == node)
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn connected(&self) -> usize {
        self.list.iter().filter(|p| p.connected).count()
    }

    fn acked(&self, ack: Ack) -> impl Iterator<Item = Lsn> {
        self.list.iter().map(move |p| match ack {
            Ack::Received => p.received,
            Ack::Durable => p.durable,
            Ack::Applied => p.applied,
        })
    }

    /// The n-th highest acknowledged position.
    pub(super) fn position(&self, ack: Ack, n: usize) -> Lsn {
        if n == 0 {
            return Lsn::MAX;
        }
        let mut all: Vec<Lsn> = self.acked(ack).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.get(n - 1).copied().unwrap_or(Lsn::ZERO)
    }

    /// How many have acknowledged everything below `end`.
    pub(super) fn count_at(&self, ack: Ack, end: Lsn) -> usize {
        self.acked(ack).filter(|at| *at >= end).count()
    }

    pub(super) fn statuses(&self, now: Instant, end: Lsn) -> Vec<ReplicaStatus> {
        self.list
            .iter()
            .map(|p| ReplicaStatus {
                node: p.node,
                name: p.name.clone(),
                address: p.address.clone(),
                connected: p.connected,
                received: p.received,
                durable: p.durable,
                applied: p.applied,
                sent: p.sent,
                // Saturating: an acknowledgement may be newer than the end that was read for this.
                lag_bytes: end.0.saturating_sub(p.applied.0),
                silent: p.heard.map(|at| now.saturating_duration_since(at)),
                slot_lost: p.slot_lost,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r3_the_nth_highest_position_counts_distinct_nodes() {
        let mut peers = Peers::default();
        for (node, durable) in [(1, 80), (2, 240), (3, 160), (2, 248)] {
            peers.entry(NodeId(node)).durable = Lsn(durable);
        }
        let positions: Vec<u64> = (1..=4).map(|n| peers.position(Ack::Durable, n).0).collect();
        assert_eq!(positions, [248, 160, 80, 0]);
        assert_eq!(peers.position(Ack::Durable, 0), Lsn::MAX);
        assert_eq!(peers.count_at(Ack::Durable, Lsn(160)), 2);
        assert_eq!(peers.count_at(Ack::Applied, Lsn(8)), 0);
    }

    #[test]
    fn lag_never_underflows() {
        let mut peers = Peers::default();
        peers.entry(NodeId(1)).applied = Lsn(80);
        assert_eq!(peers.statuses(Instant::now(), Lsn(72))[0].lag_bytes, 0);
    }
}
