//! What clients of Redis Cluster are told: MOVED, and CLUSTER.
//!
//! The key space is one, so the leader has all slots and the others are its replicas.
//!
//! - CL1: a client is sent to who leads, as far as this node knows; where nobody does it is told so, at once. What was sent away has had no effect.
//! - CL2: a node is named by its address for clients alone, as the cluster knows it (`--advertise`): one whose address it does not know is
//!   not named.
//! - CL3: what is sent away between MULTI and EXEC is not queued, and EXEC aborts; an EXEC is sent away as a whole.

use super::front::Shared;
use crate::Reply;
use crate::commands::replicated;
use crc::{CRC_16_XMODEM, Crc};
use esker_raft::core::NodeId;
use esker_raft::runtime::About;
use std::fmt::Write as _;

/// Slots of the key space.
pub(super) const SLOTS: u16 = 16_384;
const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
const USAGE: &str = "ERR use CLUSTER SLOTS, SHARDS, NODES, INFO, MYID or KEYSLOT <key>";

/// What a follower does with a command on keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnFollower {
    /// Forwards writes to the leader, and reads itself.
    #[default]
    Forward,
    /// Sends the client to the leader (`MOVED`), as a node of Redis Cluster does. A client that has said READONLY reads here.
    Redirect,
}

/// The slot of a key: of what stands between the first brace and the next closing one, if anything does.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|b| *b == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    CRC.checksum(tag.unwrap_or(key)) % SLOTS
}

/// Host and port of an address for clients.
fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host, port.parse().ok()?))
}

/// CL1. Where a command on keys is to be sent instead; the error that says so.
pub(super) fn away(shared: &Shared, argv: &[&[u8]]) -> Option<String> {
    let key = replicated::first_key(argv)?;
    match shared.handle.leader() {
        Some(leader) if leader.node == shared.node => None,
        Some(leader) if split(&leader.client).is_some() => {
            Some(format!("MOVED {} {}", slot(key), leader.client))
        }
        Some(leader) => Some(format!(
            "CLUSTERDOWN node {} leads, and has not told the cluster its address for clients yet; try again",
            leader.node
        )),
        None => Some("CLUSTERDOWN there is no leader; try again".into()),
    }
}

/// A member as clients of Redis Cluster know it.
struct Shard {
    id: String,
    host: String,
    port: u16,
    leads: bool,
    me: bool,
}

fn name(shared: &Shared, node: NodeId) -> String {
    format!("{:020x}{:020x}", shared.cluster, node.0)
}

/// The leader first; `None` where nobody leads whose address is known.
fn shards(shared: &Shared) -> Option<Vec<Shard>> {
    let status = shared.handle.status()?;
    let leader = status.leader?;
    let mut shards: Vec<Shard> = (status.membership.about.iter())
        .filter_map(|(node, about)| {
            let known = About::decode(about).ok()?.client;
            // This node knows where it is.
            let address = match *node == shared.node {
                true => &shared.advertise,
                false => &known,
            };
            let (host, port) = split(address)?;
            Some(Shard {
                id: name(shared, *node),
                host: host.to_owned(),
                port,
                leads: *node == leader,
                me: *node == shared.node,
            })
        })
        .collect();
    shards.sort_by_key(|shard| !shard.leads);
    (shards.first()?.leads).then_some(shards)
}

fn slots(shards: &[Shard], out: &mut Reply) {
    out.array(1);
    out.array(2 + shards.len());
    out.integer(0);
    out.integer(i64::from(SLOTS - 1));
    for shard in shards {
        out.array(4);
        out.bulk(shard.host.as_bytes());
        out.integer(i64::from(shard.port));
        out.bulk(shard.id.as_bytes());
        out.array(0);
    }
}

fn shard_list(shards: &[Shard], offset: i64, out: &mut Reply) {
    out.array(1);
    out.map(2);
    out.bulk(b"slots");
    out.array(2);
    out.integer(0);
    out.integer(i64::from(SLOTS - 1));
    out.bulk(b"nodes");
    out.array(shards.len());
    for shard in shards {
        out.map(7);
        for (field, text) in [
            ("id", shard.id.as_str()),
            ("ip", &shard.host),
            ("endpoint", &shard.host),
            ("role", if shard.leads { "master" } else { "replica" }),
            ("health", "online"),
        ] {
            out.bulk(field.as_bytes());
            out.bulk(text.as_bytes());
        }
        for (field, number) in [
            ("port", i64::from(shard.port)),
            ("replication-offset", offset),
        ] {
            out.bulk(field.as_bytes());
            out.integer(number);
        }
    }
}

fn nodes(shards: &[Shard], term: u64) -> String {
    let mut text = String::new();
    let leader = &shards[0].id;
    for shard in shards {
        let host = match shard.host.contains(':') {
            true => format!("[{}]", shard.host),
            false => shard.host.clone(),
        };
        let (role, master, slots) = match shard.leads {
            true => ("master", "-", format!(" 0-{}", SLOTS - 1)),
            false => ("slave", leader.as_str(), String::new()),
        };
        let me = if shard.me { "myself," } else { "" };
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{} {host}:{}@0 {me}{role} {master} 0 0 {term} connected{slots}",
            shard.id, shard.port
        );
    }
    text
}

fn info(shared: &Shared) -> String {
    let status = shared.handle.status();
    let known = status.as_ref().map_or(0, |s| s.membership.members().len());
    let led = shards(shared).is_some();
    let term = status.map_or(0, |s| s.term.0);
    let (state, served) = if led { ("ok", SLOTS) } else { ("fail", 0) };
    format!(
        "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{served}\r\ncluster_slots_pfail:0\r\n\
         cluster_slots_fail:{}\r\ncluster_known_nodes:{known}\r\ncluster_size:1\r\ncluster_current_epoch:{term}\r\ncluster_my_epoch:{term}\r\n",
        SLOTS - served
    )
}

/// Whether [`run`] may take it.
pub(super) fn is_for(argv: &[&[u8]]) -> bool {
    let names = ["cluster", "readonly", "readwrite", "asking"];
    let is = |word: &&str| (argv.first()).is_some_and(|a| a.eq_ignore_ascii_case(word.as_bytes()));
    names.iter().any(is)
}

/// Answers a command of Redis Cluster; false for any other. READONLY, READWRITE and RESET change `reads_here`.
pub(super) fn run(shared: &Shared, argv: &[&[u8]], reads_here: &mut bool, out: &mut Reply) -> bool {
    let is = |at: usize, word: &str| {
        (argv.get(at)).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    };
    let (cluster, alone) = (is(0, "cluster"), argv.len() == 1);
    // The rest of it is the connection's.
    *reads_here &= !(alone && is(0, "reset"));
    if !cluster && !(alone && (is(0, "readonly") || is(0, "readwrite") || is(0, "asking"))) {
        return false;
    }
    if shared.on_follower == OnFollower::Forward {
        out.error("ERR This instance has cluster support disabled; start raft-node with --on-follower redirect");
        return true;
    }
    if !cluster {
        *reads_here = is(0, "readonly") || *reads_here && is(0, "asking");
        out.ok();
        return true;
    }
    match argv.len() {
        2 if is(1, "myid") => out.bulk(name(shared, shared.node).as_bytes()),
        2 if is(1, "info") => out.bulk(info(shared).as_bytes()),
        3 if is(1, "keyslot") => out.integer(i64::from(slot(argv[2]))),
        2 if is(1, "slots") || is(1, "shards") || is(1, "nodes") => match shards(shared) {
            None => out.error("CLUSTERDOWN there is no leader, or its address for clients is not known yet; try again"),
            Some(shards) if is(1, "slots") => slots(&shards, out),
            Some(shards) if is(1, "shards") => {
                let offset = i64::try_from(shared.reader.applied().0).unwrap_or(i64::MAX);
                shard_list(&shards, offset, out);
            }
            Some(shards) => {
                let term = shared.handle.status().map_or(0, |s| s.term.0);
                out.bulk(nodes(&shards, term).as_bytes());
            }
        },
        _ => out.error(USAGE),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // Of the specification of Redis Cluster.
        assert_eq!(CRC.checksum(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
        let keys: [&[u8]; 9] = [
            b"",
            b"a",
            b"{user1000}.following",
            b"{user1000}.followers",
            b"foo{}{bar}",
            b"foo{{bar}}zap",
            b"foo{bar}{zap}",
            b"{",
            b"\xff}{x}\x00",
        ];
        for key in keys {
            assert_eq!(slot(key), redis_protocol::redis_keyslot(key), "{key:?}");
        }
    }

    #[test]
    fn addresses_are_split_into_host_and_port() {
        assert_eq!(split("127.0.0.1:6391"), Some(("127.0.0.1", 6391)));
        assert_eq!(split("[::1]:6391"), Some(("::1", 6391)));
        assert_eq!(split("db.example:7"), Some(("db.example", 7)));
        for bad in ["", "host", "host:", "host:99999"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
