//! What stays in the log though the state machine has it durably.
//!
//! - KP1: for peers that are a little behind: `log_entries_kept` entries, but no more than are in memory, so that long entries do not fill the disk.
//! - KP2: for a peer that a snapshot is sent to: what stands behind the snapshot, until it is served from memory again. Else a snapshot that takes
//!   longer to arrive than the log to be compacted would be followed by another, without an end.
//! - KP3: not more than `log_bytes_held_max` for any one of those: it gets another snapshot then.

use super::options::NodeOptions;
use crate::core::{Index, NodeId, PeerStatus, RoleName, Write};
use std::collections::BTreeMap;

struct Held {
    /// What the snapshot stands for, or less.
    snapshot: Index,
    /// [`Kept::written`] then.
    written: u64,
    /// It was sent, and the peer has it.
    sent: bool,
}

#[derive(Default)]
pub(super) struct Kept {
    /// KP2.
    held: BTreeMap<NodeId, Held>,
    /// Bytes of entries that were written; then when the log was compacted last.
    written: u64,
    written_then: u64,
}

/// What is known of log and state machine.
pub(super) struct State {
    pub(super) role: RoleName,
    /// The state machine has it durably, and has applied it.
    pub(super) durable: Index,
    /// The first entry in memory.
    pub(super) in_memory: Index,
}

impl Kept {
    pub(super) fn wrote(&mut self, writes: &[Write]) {
        for write in writes {
            if let Write::Append(entries) = write {
                self.written += entries.iter().map(|e| e.weight() as u64).sum::<u64>();
            }
        }
    }

    /// A snapshot is taken for `to`, of everything up to `applied` at least.
    pub(super) fn sending(&mut self, to: NodeId, applied: Index) {
        let held = Held {
            snapshot: applied,
            written: self.written,
            sent: false,
        };
        self.held.insert(to, held);
    }

    /// The sending ended; `whole`: the peer has it.
    pub(super) fn sent(&mut self, to: NodeId, whole: bool) {
        match self.held.get_mut(&to) {
            Some(held) if whole => held.sent = true,
            _ => drop(self.held.remove(&to)),
        }
    }

    /// Whether it is worth it to compact the log that begins behind `compacted` up to here.
    pub(super) fn is_due(&self, compacted: Index, to: Index, options: &NodeOptions) -> bool {
        let entries = to.0.saturating_sub(compacted.0);
        let bytes = self.written - self.written_then;
        entries >= options.compact_entries_min
            || entries > 0 && bytes >= options.core.tail_bytes_max as u64
    }

    pub(super) fn compacted(&mut self) {
        self.written_then = self.written;
    }

    /// The log may be compacted up to here.
    pub(super) fn upto(
        &mut self,
        state: &State,
        peers: impl FnOnce() -> Vec<PeerStatus>,
        options: &NodeOptions,
    ) -> Index {
        if state.role != RoleName::Leader {
            self.held.clear();
        }
        let kept = Index(state.durable.0.saturating_sub(options.log_entries_kept));
        let mut upto = kept.max(state.in_memory.before()).min(state.durable);
        if self.held.is_empty() {
            return upto;
        }
        let peers = peers();
        self.held.retain(|node, held| {
            let Some(peer) = peers.iter().find(|peer| peer.node == *node) else {
                return false;
            };
            if held.sent && peer.matched >= state.in_memory {
                return false;
            }
            if self.written - held.written > options.log_bytes_held_max {
                tracing::warn!(to = %node, "it takes longer to take in a snapshot than the log may wait for it; it will need another");
                return false;
            }
            upto = upto.min(held.snapshot.max(peer.matched));
            true
        });
        upto
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Entry, EntryKind, LogId, Term};

    const TO: NodeId = NodeId(4);

    fn state(durable: u64, in_memory: u64) -> State {
        State {
            role: RoleName::Leader,
            durable: Index(durable),
            in_memory: Index(in_memory),
        }
    }

    fn peer(matched: u64) -> Vec<PeerStatus> {
        vec![PeerStatus {
            node: TO,
            state: "",
            matched: Index(matched),
            paused: None,
        }]
    }

    fn write_of(bytes: usize) -> Write {
        let id = LogId {
            term: Term(1),
            index: Index(1_001),
        };
        let kind = EntryKind::Command(vec![0; bytes].into());
        Write::Append(vec![Entry { id, kind }])
    }

    fn options() -> NodeOptions {
        NodeOptions {
            log_entries_kept: 100,
            log_bytes_held_max: 1_000,
            ..NodeOptions::default()
        }
    }

    #[test]
    fn kp1_entries_are_kept_by_number_and_only_while_they_are_in_memory() {
        let mut kept = Kept::default();
        let mut upto = |durable, in_memory| {
            kept.upto(&state(durable, in_memory), Vec::new, &options())
                .0
        };
        assert_eq!(upto(50, 1), 0);
        assert_eq!(upto(500, 1), 400);
        assert_eq!(upto(500, 490), 489);
        // What is not durable stays whatever is in memory.
        assert_eq!(upto(500, 700), 500);
    }

    #[test]
    fn kp2_the_log_waits_behind_a_snapshot_until_the_peer_is_served_from_memory() {
        let mut kept = Kept::default();
        let upto = |kept: &mut Kept, matched| {
            kept.upto(&state(9_000, 8_500), || peer(matched), &options())
                .0
        };
        kept.sending(TO, Index(1_000));
        assert_eq!(upto(&mut kept, 0), 1_000);
        kept.sent(TO, true);
        assert_eq!(upto(&mut kept, 0), 1_000);
        assert_eq!(upto(&mut kept, 4_000), 4_000);
        assert_eq!(upto(&mut kept, 8_500), 8_900);
        assert_eq!(upto(&mut kept, 4_000), 8_900, "it is a peer like any other");
        // Given up, gone from the membership, a leader no more.
        kept.sending(TO, Index(1_000));
        kept.sent(TO, false);
        assert_eq!(upto(&mut kept, 0), 8_900);
        kept.sending(TO, Index(1_000));
        assert_eq!(
            kept.upto(&state(9_000, 8_500), Vec::new, &options()).0,
            8_900
        );
        kept.sending(TO, Index(1_000));
        let follows = State {
            role: RoleName::Follower,
            ..state(9_000, 8_500)
        };
        assert_eq!(kept.upto(&follows, || peer(0), &options()).0, 8_900);
        assert_eq!(upto(&mut kept, 0), 8_900);
    }

    #[test]
    fn long_entries_go_before_many_have_gathered() {
        let mut kept = Kept::default();
        let mut options = options();
        options.core.tail_bytes_max = 500;
        let due = |kept: &Kept, to| kept.is_due(Index(7), Index(to), &options);
        assert!(due(&kept, 1_007));
        assert!(!due(&kept, 1_006));
        kept.wrote(&[write_of(600)]);
        assert!(due(&kept, 8));
        assert!(!due(&kept, 7));
        assert!(!due(&kept, 3));
        kept.compacted();
        assert!(!due(&kept, 8));
    }

    #[test]
    fn kp3_the_log_does_not_wait_for_ever() {
        let mut kept = Kept::default();
        kept.sending(TO, Index(1_000));
        let write = write_of(600);
        let mut upto = || kept.upto(&state(9_000, 8_500), || peer(0), &options()).0;
        assert_eq!(upto(), 1_000);
        kept.wrote(std::slice::from_ref(&write));
        let mut upto = || kept.upto(&state(9_000, 8_500), || peer(0), &options()).0;
        assert_eq!(upto(), 1_000);
        kept.wrote(&[write]);
        assert_eq!(
            kept.upto(&state(9_000, 8_500), || peer(0), &options()).0,
            8_900
        );
    }
}
