//! Options of a node, checked before it starts.

use super::request::CLIENT_MAX;
use crate::core::{BadOption, Membership, NodeId, Options};
use crate::log::ENTRY_BYTES_MAX;
use std::time::Duration;

/// Room for what stands beside a command in an entry of the log, in a message and in memory.
const BESIDE: usize = 1 << 10;

/// Who a node is.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The cluster's number: packets of another are dropped.
    pub cluster: u64,
    /// The group within it; 1 for now.
    pub group: u64,
    /// The node's id, from 1 on; its log carries it.
    pub node: NodeId,
    /// Of a new cluster: its first members, the same on each of them, with an [`super::About`] each. It is used on an empty disk alone. `None` for
    /// a node that joins: it waits until a leader adds it.
    ///
    /// A node whose disk was lost must not be started with it under its old id: remove it from the membership and add it anew.
    pub first: Option<Membership>,
    /// The rest.
    pub options: NodeOptions,
}

/// Options of the runtime.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Of a node that joins a cluster which was recovered from a lost majority ([`super::Recovery`]): its incarnation. 0: it was not. A member
    /// follows its log. Default 0.
    pub incarnation: u64,
    /// Where clients reach this node: what hints name. The cluster knows it soon after the node has met a leader, also if it never leads.
    /// Empty: nothing is said of it. At most 255 bytes. Default empty.
    pub client: String,
    /// Of the core. `lease.tick_micros` must be that of `tick`.
    pub core: Options,
    /// Length of a tick. An election timeout is [`Options::election_ticks`] of them, up to twice that. Shorter finds a dead leader
    /// sooner, and disturbs a living one when the machine stutters. Default 50 ms, so 0.5 to 1 s.
    pub tick: Duration,
    /// How long a forwarded command may take, and a request without a time of its own. Default 10 s.
    pub request_timeout: Duration,
    /// Requests of clients that wait for the driver, at most; more are refused, or wait with the caller. Default 65,536.
    pub requests_max: usize,
    /// Bytes of messages that wait for the driver, at most; more are lost. More than `command_bytes_max` and `core.append_bytes_max`. Default 64 MiB.
    pub packet_bytes_max: usize,
    /// Bytes of entries given to the state machine and not applied, at most (one entry always goes). Default 16 MiB.
    pub apply_bytes_max: usize,
    /// Longest command: less than [`ENTRY_BYTES_MAX`], and than what the transport takes. Default 16 MiB.
    pub command_bytes_max: usize,
    /// A leader whose disk has not finished a sync for so long gives up leading. Default 2 s.
    pub disk_hang_max: Duration,
    /// A leader whose state machine has finished nothing for so long, of what it was given, gives up leading: its disk may be another than the log's. As
    /// long as a healthy machine may take for 32 MiB of commands, or one command, with its waits for a compaction. Default 10 s.
    pub apply_hang_max: Duration,
    /// Entries that stay in the log though the state machine has them durably, for peers that are a little behind; no more than `core.tail_bytes_max`
    /// of them. Default 10,000.
    pub log_entries_kept: u64,
    /// Bytes of entries for which the log waits for a peer that takes in a snapshot, so that it needs no other after that. Default 1 GiB.
    pub log_bytes_held_max: u64,
    /// The log is compacted when so many entries can go, or `core.tail_bytes_max` were written since. Default 1,000.
    pub compact_entries_min: u64,
    /// Bytes of snapshots that this node sends in a second, to all peers together, at most: what a snapshot takes of network and disks is not there
    /// for what clients wait for. At least 1 MiB. Default 64 MiB.
    pub snapshot_rate_max: u64,
}

impl Default for NodeOptions {
    fn default() -> Self {
        NodeOptions {
            incarnation: 0,
            client: String::new(),
            core: Options::default(),
            tick: Duration::from_millis(50),
            request_timeout: Duration::from_secs(10),
            requests_max: 65_536,
            packet_bytes_max: 64 << 20,
            apply_bytes_max: 16 << 20,
            command_bytes_max: 16 << 20,
            disk_hang_max: Duration::from_secs(2),
            apply_hang_max: Duration::from_secs(10),
            log_entries_kept: 10_000,
            log_bytes_held_max: 1 << 30,
            compact_entries_min: 1_000,
            snapshot_rate_max: 64 << 20,
        }
    }
}

impl NodeOptions {
    /// Refuses what can't be, naming the option.
    pub fn check(&self) -> Result<(), BadOption> {
        self.core.check()?;
        let bad = |option, why| Err(BadOption { option, why });
        if self.tick < Duration::from_millis(1) {
            return bad("tick", "must be at least a millisecond");
        }
        if let Some(lease) = self.core.lease
            && u128::from(lease.tick_micros) != self.tick.as_micros()
        {
            return bad("lease", "its tick_micros must be the tick");
        }
        for (option, zero) in [
            ("request_timeout", self.request_timeout.is_zero()),
            ("requests_max", self.requests_max == 0),
            ("packet_bytes_max", self.packet_bytes_max == 0),
            ("apply_bytes_max", self.apply_bytes_max == 0),
            ("command_bytes_max", self.command_bytes_max == 0),
            ("compact_entries_min", self.compact_entries_min == 0),
        ] {
            if zero {
                return bad(option, "must not be zero");
            }
        }
        if self.client.len() > CLIENT_MAX {
            return bad("client", "must have at most 255 bytes");
        }
        if self.disk_hang_max < self.tick {
            return bad("disk_hang_max", "must be at least a tick");
        }
        if self.apply_hang_max < self.tick {
            return bad("apply_hang_max", "must be at least a tick");
        }
        if self.snapshot_rate_max < 1 << 20 {
            return bad("snapshot_rate_max", "must be at least 1 MiB");
        }
        // What a leader has taken goes through the log and to the peers, or stops them all.
        if self.command_bytes_max > ENTRY_BYTES_MAX - BESIDE {
            return bad(
                "command_bytes_max",
                "must be 1 KiB below the 128 MiB that an entry of the log has at most",
            );
        }
        let longest = self.command_bytes_max.max(self.core.append_bytes_max);
        if self.packet_bytes_max.saturating_sub(BESIDE) < longest {
            return bad(
                "packet_bytes_max",
                "must be 1 KiB above command_bytes_max and append_bytes_max",
            );
        }
        Ok(())
    }

    /// Refuses what does not go through a transport whose messages have so many bytes at most.
    /// The longest reply that a node which forwarded the command can be sent: what it has room for, with these options.
    pub(super) fn reply_bytes_max(&self, message_bytes_max: usize) -> usize {
        message_bytes_max.min(self.packet_bytes_max) - BESIDE
    }

    pub(super) fn check_messages(&self, bytes_max: usize) -> Result<(), BadOption> {
        let why = "must be 1 KiB below what the transport takes in a message";
        for (option, bytes) in [
            ("command_bytes_max", self.command_bytes_max),
            ("append_bytes_max", self.core.append_bytes_max),
        ] {
            if bytes > bytes_max.saturating_sub(BESIDE) {
                return Err(BadOption { option, why });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Body, Entry, EntryKind, Index, Lease, LogId, Message, Term};
    use crate::transport::{Content, Packet, Sender, wire};

    #[test]
    fn impossible_options_are_refused_by_name() {
        assert_eq!(NodeOptions::default().check(), Ok(()));
        type Spoil = fn(&mut NodeOptions);
        let spoilers: [(&str, Spoil); 15] = [
            ("client", |o| o.client = "x".repeat(256)),
            ("tick", |o| o.tick = Duration::ZERO),
            ("lease", |o| {
                o.core.lease = Some(Lease {
                    tick_micros: 1,
                    drift_per_mille: 1,
                });
            }),
            ("request_timeout", |o| o.request_timeout = Duration::ZERO),
            ("requests_max", |o| o.requests_max = 0),
            ("packet_bytes_max", |o| o.packet_bytes_max = 0),
            ("apply_bytes_max", |o| o.apply_bytes_max = 0),
            ("command_bytes_max", |o| o.command_bytes_max = usize::MAX),
            ("command_bytes_max", |o| {
                o.command_bytes_max = ENTRY_BYTES_MAX;
            }),
            ("packet_bytes_max", |o| {
                o.packet_bytes_max = o.command_bytes_max;
            }),
            ("packet_bytes_max", |o| {
                o.core.append_bytes_max = o.packet_bytes_max;
            }),
            ("compact_entries_min", |o| o.compact_entries_min = 0),
            ("disk_hang_max", |o| o.disk_hang_max = Duration::ZERO),
            ("apply_hang_max", |o| o.apply_hang_max = Duration::ZERO),
            ("snapshot_rate_max", |o| o.snapshot_rate_max = 1 << 19),
        ];
        for (name, spoil) in spoilers {
            let mut options = NodeOptions::default();
            spoil(&mut options);
            assert_eq!(options.check().unwrap_err().option, name);
        }
    }

    /// The longest command that may be is an entry that the log takes, and a message that the transport takes.
    #[test]
    fn the_longest_command_fits_with_what_stands_beside_it() {
        let options = NodeOptions {
            command_bytes_max: ENTRY_BYTES_MAX - BESIDE,
            packet_bytes_max: ENTRY_BYTES_MAX,
            ..NodeOptions::default()
        };
        assert_eq!(options.check(), Ok(()));
        assert_eq!(options.check_messages(ENTRY_BYTES_MAX), Ok(()));
        assert!(options.check_messages(ENTRY_BYTES_MAX - 1).is_err());
        let entry = Entry {
            id: LogId::default(),
            kind: EntryKind::Command(vec![0; options.command_bytes_max].into()),
        };
        assert!(entry.weight() <= ENTRY_BYTES_MAX);
        let body = Body::Append {
            prev: LogId::default(),
            entries: vec![entry],
            commit: Index(0),
        };
        let term = Term(1);
        let packet = Packet {
            from: Sender::default(),
            to: NodeId(1),
            content: Content::Raft(Message { term, body }),
        };
        assert!(wire::encode(&packet).len() <= ENTRY_BYTES_MAX);
        assert!(super::super::weight(&packet.content) <= options.packet_bytes_max);
    }
}
