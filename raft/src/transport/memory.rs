//! Members in one process: packets by function call, with faults on request.

use super::{Inbound, Packet, Transport};
use crate::core::NodeId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeId, (u64, Inbound)>,
    next: u64,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// One in so many is lost, and one in so many repeated; 0: none.
    lose_one_in: u64,
    repeat_one_in: u64,
    /// One in so many is held back.
    late_one_in: u64,
    held: Vec<Packet>,
    random: u64,
}

/// Packets that are held back, at most.
const HELD_MAX: usize = 1_000;

impl State {
    fn one_in(&mut self, n: u64) -> bool {
        let random = self.next();
        n > 0 && random.is_multiple_of(n)
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Where a packet goes, and how often.
    fn way(&mut self, from: NodeId, to: NodeId) -> Option<(Inbound, bool)> {
        let (lost, repeated) = (self.lose_one_in, self.repeat_one_in);
        if self.cut.contains(&(from, to)) || self.one_in(lost) {
            return None;
        }
        let twice = self.one_in(repeated);
        Some((self.nodes.get(&to)?.1.clone(), twice))
    }
}

/// A network of one process. Clones are the same network.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<State>>);

impl std::fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.lock().nodes.keys()).finish()
    }
}

impl MemoryNetwork {
    /// A network without faults.
    #[must_use]
    pub fn new() -> MemoryNetwork {
        MemoryNetwork::default()
    }

    /// `node` joins, in the place of an earlier life of it.
    #[must_use]
    pub fn join(&self, node: NodeId, inbound: Inbound) -> MemoryTransport {
        let mut state = self.0.lock();
        state.next += 1;
        let life = state.next;
        state.nodes.insert(node, (life, inbound));
        let network = self.clone();
        MemoryTransport {
            network,
            node,
            life,
        }
    }

    /// Nothing goes from one to the other any more.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.0.lock().cut.insert((from, to));
    }

    /// Nothing goes to or from `node`.
    pub fn isolate(&self, node: NodeId) {
        let mut state = self.0.lock();
        let others: Vec<NodeId> = state.nodes.keys().copied().collect();
        for other in others {
            state.cut.insert((node, other));
            state.cut.insert((other, node));
        }
    }

    /// All links are whole again.
    pub fn heal(&self) {
        self.0.lock().cut.clear();
    }

    /// One packet in so many is lost, one in so many repeated; 0: none.
    pub fn disturb(&self, lose_one_in: u64, repeat_one_in: u64) {
        let mut state = self.0.lock();
        state.lose_one_in = lose_one_in;
        state.repeat_one_in = repeat_one_in;
    }

    /// One packet in so many is held back, and arrives behind others, some time later: once in a few packets that are sent anywhere one of those
    /// arrives. 0: none is any more.
    pub fn delay(&self, one_in: u64) {
        self.0.lock().late_one_in = one_in;
    }
}

/// One node's part of a [`MemoryNetwork`].
#[derive(Debug)]
pub struct MemoryTransport {
    network: MemoryNetwork,
    node: NodeId,
    life: u64,
}

impl Transport for MemoryTransport {
    fn send(&self, packet: Packet) {
        let mut state = self.network.0.lock();
        let mine = (state.nodes.get(&self.node)).is_some_and(|(life, _)| *life == self.life);
        if !mine {
            return;
        }
        let late = state.late_one_in;
        let now = match state.held.len() < HELD_MAX && state.one_in(late) {
            true => {
                state.held.push(packet);
                None
            }
            false => Some(packet),
        };
        let after = match !state.held.is_empty() && state.one_in(4) {
            true => {
                let at = state.next() as usize % state.held.len();
                Some(state.held.swap_remove(at))
            }
            false => None,
        };
        let ways = [now, after].map(|packet| {
            let packet = packet?;
            let (inbound, twice) = state.way(packet.from.node, packet.to)?;
            Some((inbound, twice, packet))
        });
        drop(state);
        for (inbound, twice, packet) in ways.into_iter().flatten() {
            if twice {
                inbound(packet.clone());
            }
            inbound(packet);
        }
    }

    fn members(&self, _: &BTreeMap<NodeId, String>) {}

    fn close(&self) {
        let mut state = self.network.0.lock();
        if (state.nodes.get(&self.node)).is_some_and(|(life, _)| *life == self.life) {
            state.nodes.remove(&self.node);
        }
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.close();
    }
}
