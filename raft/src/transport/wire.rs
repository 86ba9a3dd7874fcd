//! The bytes of packets.
//!
//! Little-endian; one packet is one message of the transport.
//! ```text
//! at  size  field
//!  0     4  magic    "EKC1"
//!  4     4  crc32    of everything behind it
//!  8     8  cluster  its number, with its incarnation folded in (`runtime::incarnation`)
//! 16     8  group
//! 24     8  from     id of the sending node
//! 32     8  disk     identity of its disk
//! 40     8  epoch    life of its process
//! 48     8  to       id of the receiving node
//! 56     1  type     see below
//! 57     n  body     by type
//! ```
//! | type | body |
//! |---|---|
//! | 1 pre-vote | term u64, last (term u64, index u64) |
//! | 2 pre-voted | term, granted u8 |
//! | 3 vote | term, last, transfer u8 |
//! | 4 voted | term, granted u8 |
//! | 5 append | term, prev (term, index), commit u64, count u32, entries (see `codec`) |
//! | 6 appended | term, matched u64 |
//! | 7 conflict | term, prev u64, hint (term, index), lost u8 |
//! | 8 heartbeat | term, commit u64, round u64 |
//! | 9 heard | term, round u64 |
//! | 11 timeout-now | term |
//! | 12 read-index | term, id u64 |
//! | 13 read-at | term, id u64, index u64 |
//! | 20 offer | term, transfer u64, snapshot meta (see `codec`), count u32, files: name (length u32, UTF-8), length u64, check u64 |
//! | 21 want | transfer u64, file u32, offset u64, length u32 |
//! | 22 chunk | transfer u64, file u32, offset u64, crc32 u32, length u32, bytes |
//! | 23 end | transfer u64, whole u8 |
//! | 24 forward | id u64, length u32, request |
//! | 25 forwarded | id u64, length u32, outcome |
//!
//! - WI1 (E2): any bytes are decoded or refused: without a panic, without an allocation that the bytes at hand don't justify, and without
//!   anything left over.
//! - WI2: the checksum finds what the network broke; against forgery there are keys.

use super::{Content, Packet, Sender, SnapshotFile};
use crate::codec::{
    Decoder, Malformed, put_blob, put_entry, put_log_id, put_membership, put_snapshot_meta,
};
use crate::core::{Body, Index, Message, NodeId, Term};
use crate::runtime::{FILES_MAX, PIECE_MAX};
use bytes::Bytes;

const MAGIC: [u8; 4] = *b"EKC1";
const CRC_AT: usize = 4;
const COVERED_AT: usize = 8;
/// Bytes before the body.
pub const HEADER_LEN: usize = 57;
/// Longest name of a file.
const NAME_MAX: usize = 255;
/// Least bytes of an entry, and of a file.
const ENTRY_MIN: usize = 21;
const FILE_MIN: usize = 20;

/// The bytes of a packet. A core's snapshot message never travels: the runtime makes it where the snapshot has arrived.
#[must_use]
pub fn encode(packet: &Packet) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(&mut out, packet);
    out
}

/// Puts the bytes of a packet behind what is there.
pub(super) fn encode_into(out: &mut Vec<u8>, packet: &Packet) {
    let begin = out.len();
    out.reserve(HEADER_LEN + 64 + body_hint(&packet.content));
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 4]);
    let from = &packet.from;
    for field in [
        from.cluster,
        from.group,
        from.node.0,
        from.disk,
        from.epoch,
        packet.to.0,
    ] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    put_content(out, &packet.content);
    let out = &mut out[begin..];
    let crc = crc32fast::hash(&out[COVERED_AT..]);
    out[CRC_AT..COVERED_AT].copy_from_slice(&crc.to_le_bytes());
}

/// About as many bytes as it takes.
#[cfg_attr(
    not(feature = "zmq"),
    expect(dead_code, reason = "of the transport over ZeroMQ")
)]
pub(super) fn size_hint(packet: &Packet) -> usize {
    HEADER_LEN + body_hint(&packet.content)
}

fn body_hint(content: &Content) -> usize {
    match content {
        Content::Raft(Message {
            body: Body::Append { entries, .. },
            ..
        }) => entries.iter().map(crate::core::Entry::weight).sum(),
        Content::Chunk { bytes, .. } => bytes.len(),
        Content::Forward { request, .. } => request.len(),
        _ => 0,
    }
}

fn put(out: &mut Vec<u8>, fields: &[u64]) {
    for field in fields {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

fn put_content(out: &mut Vec<u8>, content: &Content) {
    match content {
        Content::Raft(message) => put_message(out, message),
        Content::Offer {
            term,
            id,
            meta,
            files,
        } => {
            out.push(20);
            put(out, &[term.0, *id]);
            put_snapshot_meta(out, meta);
            out.extend_from_slice(&(files.len() as u32).to_le_bytes());
            for file in files {
                put_blob(out, file.name.as_bytes());
                put(out, &[file.len, file.check]);
            }
        }
        Content::Want {
            id,
            file,
            offset,
            len,
        } => {
            out.push(21);
            put(out, &[*id]);
            out.extend_from_slice(&file.to_le_bytes());
            put(out, &[*offset]);
            out.extend_from_slice(&len.to_le_bytes());
        }
        Content::Chunk {
            id,
            file,
            offset,
            crc,
            bytes,
        } => {
            out.push(22);
            put(out, &[*id]);
            out.extend_from_slice(&file.to_le_bytes());
            put(out, &[*offset]);
            out.extend_from_slice(&crc.to_le_bytes());
            put_blob(out, bytes);
        }
        Content::End { id, whole } => {
            out.push(23);
            put(out, &[*id]);
            out.push(u8::from(*whole));
        }
        Content::Forward { id, request } => {
            out.push(24);
            put(out, &[*id]);
            put_blob(out, request);
        }
        Content::Forwarded { id, outcome } => {
            out.push(25);
            put(out, &[*id]);
            put_blob(out, outcome);
        }
    }
}

fn put_message(out: &mut Vec<u8>, message: &Message) {
    let term = message.term.0;
    match &message.body {
        Body::PreVote { last } => {
            out.push(1);
            put(out, &[term]);
            put_log_id(out, *last);
        }
        Body::PreVoted { granted } => {
            out.push(2);
            put(out, &[term]);
            out.push(u8::from(*granted));
        }
        Body::Vote { last, transfer } => {
            out.push(3);
            put(out, &[term]);
            put_log_id(out, *last);
            out.push(u8::from(*transfer));
        }
        Body::Voted { granted } => {
            out.push(4);
            put(out, &[term]);
            out.push(u8::from(*granted));
        }
        Body::Append {
            prev,
            entries,
            commit,
        } => {
            out.push(5);
            put(out, &[term]);
            put_log_id(out, *prev);
            put(out, &[commit.0]);
            out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
            for entry in entries {
                put_entry(out, entry);
            }
        }
        Body::Appended { matched } => {
            out.push(6);
            put(out, &[term, matched.0]);
        }
        Body::Conflict { prev, hint, lost } => {
            out.push(7);
            put(out, &[term, prev.0]);
            put_log_id(out, *hint);
            out.push(u8::from(*lost));
        }
        Body::Heartbeat { commit, round } => {
            out.push(8);
            put(out, &[term, commit.0, *round]);
        }
        Body::Heard { round } => {
            out.push(9);
            put(out, &[term, *round]);
        }
        Body::Snapshot(meta) => {
            // Refused by every decoder: see `encode`.
            debug_assert!(false, "a snapshot message is made by its receiver");
            out.push(10);
            put(out, &[term]);
            put_membership(out, &meta.membership);
        }
        Body::TimeoutNow => {
            out.push(11);
            put(out, &[term]);
        }
        Body::ReadIndex { id } => {
            out.push(12);
            put(out, &[term, *id]);
        }
        Body::ReadAt { id, index } => {
            out.push(13);
            put(out, &[term, *id, index.0]);
        }
    }
}

/// A packet from its bytes.
pub fn decode(bytes: Bytes) -> Result<Packet, Malformed> {
    let mut d = Decoder::new(bytes.clone());
    if d.bytes(4, "the magic number")?[..] != MAGIC {
        return Err(d.malformed("a packet of a member"));
    }
    let crc = d.u32("a checksum")?;
    if crc != crc32fast::hash(&bytes[COVERED_AT..]) {
        return Err(d.malformed("an intact packet"));
    }
    let from = Sender {
        cluster: d.u64("a cluster")?,
        group: d.u64("a group")?,
        node: node(&mut d)?,
        disk: d.u64("a disk")?,
        epoch: d.u64("an epoch")?,
    };
    let to = node(&mut d)?;
    let content = content(&mut d)?;
    d.end()?;
    Ok(Packet { from, to, content })
}

fn node(d: &mut Decoder) -> Result<NodeId, Malformed> {
    match d.u64("a node")? {
        0 => Err(d.malformed("a node; they count from 1")),
        id => Ok(NodeId(id)),
    }
}

fn index(d: &mut Decoder) -> Result<Index, Malformed> {
    match d.u64("an index")? {
        u64::MAX => Err(d.malformed("an index below the last")),
        index => Ok(Index(index)),
    }
}

fn term(d: &mut Decoder) -> Result<Term, Malformed> {
    match d.u64("a term")? {
        u64::MAX => Err(d.malformed("a term below the last")),
        term => Ok(Term(term)),
    }
}

fn content(d: &mut Decoder) -> Result<Content, Malformed> {
    let kind = d.u8("a type")?;
    Ok(match kind {
        1..=13 => {
            let term = term(d)?;
            let body = body(kind, d)?;
            Content::Raft(Message { term, body })
        }
        20 => {
            let (term, id) = (term(d)?, d.u64("a transfer")?);
            let meta = d.snapshot_meta()?;
            let count = d.count(FILE_MIN, "a count of files")?;
            if count > FILES_MAX {
                return Err(d.malformed("as many files as a snapshot may have"));
            }
            let mut files = Vec::with_capacity(count);
            for _ in 0..count {
                files.push(SnapshotFile {
                    name: name(d)?,
                    len: d.u64("a length")?,
                    check: d.u64("a check")?,
                });
            }
            Content::Offer {
                term,
                id,
                meta,
                files,
            }
        }
        21 => Content::Want {
            id: d.u64("a transfer")?,
            file: d.u32("a file")?,
            offset: d.u64("an offset")?,
            len: d.u32("a length")?,
        },
        22 => {
            let (id, file) = (d.u64("a transfer")?, d.u32("a file")?);
            let (offset, crc) = (d.u64("an offset")?, d.u32("a checksum")?);
            let bytes = d.blob("a piece")?;
            if bytes.len() > PIECE_MAX as usize {
                return Err(d.malformed("a piece no longer than was asked for"));
            }
            Content::Chunk {
                id,
                file,
                offset,
                crc,
                bytes,
            }
        }
        23 => Content::End {
            id: d.u64("a transfer")?,
            whole: d.bool("whether it is whole")?,
        },
        24 => Content::Forward {
            id: d.u64("an id")?,
            request: d.blob("a request")?,
        },
        25 => Content::Forwarded {
            id: d.u64("an id")?,
            outcome: d.blob("an outcome")?,
        },
        _ => return Err(d.malformed("a known type")),
    })
}

/// A name is no path: nothing in it leads out of a directory.
fn name(d: &mut Decoder) -> Result<String, Malformed> {
    let bytes = d.blob("a name")?;
    let name = String::from_utf8(bytes.to_vec()).map_err(|_| d.malformed("a name in UTF-8"))?;
    let path = name.contains(['/', '\\', '\0']) || matches!(name.as_str(), "" | "." | "..");
    if path || name.len() > NAME_MAX {
        return Err(d.malformed("the name of a file, and no path"));
    }
    Ok(name)
}

fn body(kind: u8, d: &mut Decoder) -> Result<Body, Malformed> {
    Ok(match kind {
        1 => Body::PreVote { last: d.log_id()? },
        2 => Body::PreVoted {
            granted: d.bool("whether it was granted")?,
        },
        3 => Body::Vote {
            last: d.log_id()?,
            transfer: d.bool("whether it is a transfer")?,
        },
        4 => Body::Voted {
            granted: d.bool("whether it was granted")?,
        },
        5 => {
            let prev = d.log_id()?;
            let commit = index(d)?;
            let count = d.count(ENTRY_MIN, "a count of entries")?;
            // An index beyond the last would be one of them.
            if prev.index.0.checked_add(count as u64 + 1).is_none() {
                return Err(d.malformed("entries that have an index"));
            }
            let mut entries = Vec::with_capacity(count);
            for _ in 0..count {
                entries.push(d.entry()?);
            }
            Body::Append {
                prev,
                entries,
                commit,
            }
        }
        6 => Body::Appended { matched: index(d)? },
        7 => Body::Conflict {
            prev: index(d)?,
            hint: d.log_id()?,
            lost: d.bool("whether it lost entries")?,
        },
        8 => Body::Heartbeat {
            commit: index(d)?,
            round: d.u64("a round")?,
        },
        9 => Body::Heard {
            round: d.u64("a round")?,
        },
        11 => Body::TimeoutNow,
        12 => Body::ReadIndex {
            id: d.u64("an id")?,
        },
        13 => Body::ReadAt {
            id: d.u64("an id")?,
            index: index(d)?,
        },
        _ => return Err(d.malformed("a known type")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Entry, EntryKind, LogId, Membership, SnapshotMeta};

    fn id(term: u64, index: u64) -> LogId {
        LogId {
            term: Term(term),
            index: Index(index),
        }
    }

    fn all() -> Vec<Packet> {
        let entries = vec![
            Entry {
                id: id(3, 8),
                kind: EntryKind::Command(Bytes::from_static(b"a=b")),
            },
            Entry {
                id: id(3, 9),
                kind: EntryKind::Membership(Box::new(Membership::of([NodeId(1)]))),
            },
        ];
        let bodies = [
            Body::PreVote { last: id(1, 2) },
            Body::PreVoted { granted: true },
            Body::Vote {
                last: id(1, 2),
                transfer: true,
            },
            Body::Voted { granted: false },
            Body::Append {
                prev: id(2, 7),
                entries,
                commit: Index(6),
            },
            Body::Appended { matched: Index(9) },
            Body::Conflict {
                prev: Index(9),
                hint: id(1, 4),
                lost: false,
            },
            Body::Heartbeat {
                commit: Index(4),
                round: 77,
            },
            Body::Heard { round: 77 },
            Body::TimeoutNow,
            Body::ReadIndex { id: 5 },
            Body::ReadAt {
                id: 5,
                index: Index(6),
            },
        ];
        let raft = bodies.into_iter().map(|body| {
            let term = Term(4);
            Content::Raft(Message { term, body })
        });
        let others = [
            Content::Offer {
                term: Term(2),
                id: 9,
                meta: SnapshotMeta {
                    last: id(2, 50),
                    membership: Membership::of([NodeId(1), NodeId(2)]),
                },
                files: vec![SnapshotFile {
                    name: "000012.tbl".into(),
                    len: 4096,
                    check: 1,
                }],
            },
            Content::Want {
                id: 9,
                file: 0,
                offset: 4,
                len: 100,
            },
            Content::Chunk {
                id: 9,
                file: 0,
                offset: 4,
                crc: 7,
                bytes: Bytes::from_static(b"piece"),
            },
            Content::End { id: 9, whole: true },
            Content::Forward {
                id: 1,
                request: Bytes::from_static(b"request"),
            },
            Content::Forwarded {
                id: 1,
                outcome: Bytes::from_static(b"outcome"),
            },
        ];
        let from = Sender {
            cluster: 1,
            group: 1,
            node: NodeId(2),
            disk: 33,
            epoch: 44,
        };
        let to = NodeId(3);
        (raft.chain(others))
            .map(|content| Packet { from, to, content })
            .collect()
    }

    #[test]
    fn every_packet_survives_the_wire() {
        for packet in all() {
            assert_eq!(decode(encode(&packet).into()), Ok(packet));
        }
    }

    /// The bytes of a small packet, frozen.
    #[test]
    fn a_packet_is_spelled_like_this() {
        let packet = &all()[8];
        let hex: String = encode(packet).iter().map(|b| format!("{b:02x}")).collect();
        let spelled = "454b4331 CRC_____ 0100000000000000 0100000000000000 0200000000000000 2100000000000000 \
                       2c00000000000000 0300000000000000 09 0400000000000000 4d00000000000000";
        assert_eq!(hex[..8], spelled[..8]);
        assert_eq!(hex[16..], spelled[18..].replace(' ', ""));
    }

    /// E2: damage that the checksum does not see (here it is made right again) is refused, or is another whole packet.
    #[test]
    fn damaged_packets_are_refused_or_are_something_else_whole() {
        for packet in all() {
            let bytes = encode(&packet);
            for at in 0..bytes.len() {
                assert!(decode(Bytes::copy_from_slice(&bytes[..at])).is_err());
                for change in [1, 0x80, 0xff] {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= change;
                    assert!(decode(bytes.clone().into()).is_err(), "the checksum");
                    let crc = crc32fast::hash(&bytes[COVERED_AT..]);
                    bytes[CRC_AT..COVERED_AT].copy_from_slice(&crc.to_le_bytes());
                    if let Ok(other) = decode(bytes.clone().into()) {
                        assert_eq!(encode(&other), bytes);
                    }
                }
            }
        }
    }

    #[test]
    fn the_name_of_a_file_is_no_path() {
        for bad in ["", ".", "..", "../a", "/etc/passwd", "a\\b", "a\0"] {
            let mut out = Vec::new();
            put_blob(&mut out, bad.as_bytes());
            assert!(name(&mut Decoder::new(out.into())).is_err(), "{bad}");
        }
    }
}
