//! Packets between members of a Raft cluster, from arbitrary bytes; the checksum may be made right first.

use bytes::Bytes;
use esker_raft::core::{
    Body, Entry, EntryKind, Index, LogId, Membership, Message, NodeId, SnapshotMeta, Term,
};
use esker_raft::transport::wire::{HEADER_LEN, decode, encode};
use esker_raft::transport::{Content, Packet, Sender, SnapshotFile};

fn look(data: &[u8]) {
    if let Ok(packet) = decode(Bytes::copy_from_slice(data)) {
        let again = encode(&packet);
        assert_eq!(again, data, "{packet:?}");
    }
}

/// See fuzz/README.md.
pub(crate) fn check(data: &[u8]) {
    look(data);
    if data.len() >= HEADER_LEN {
        let mut bytes = data.to_vec();
        bytes[..4].copy_from_slice(b"EKC1");
        let crc = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        look(&bytes);
    }
}

/// Where a corpus begins.
#[allow(dead_code, reason = "the fuzzer reads files")]
pub(crate) fn start() -> Vec<(String, Vec<u8>)> {
    let id = |term, index| LogId {
        term: Term(term),
        index: Index(index),
    };
    let mut membership = Membership::of([NodeId(1), NodeId(2)]);
    membership.learners.insert(NodeId(3));
    membership
        .about
        .insert(NodeId(3), Bytes::from_static(b"about"));
    let entries = vec![
        Entry {
            id: id(3, 8),
            kind: EntryKind::Command(Bytes::from_static(b"command")),
        },
        Entry {
            id: id(3, 9),
            kind: EntryKind::Membership(Box::new(membership.clone())),
        },
        Entry {
            id: id(3, 10),
            kind: EntryKind::Noop,
        },
    ];
    let raft = |body| {
        Content::Raft(Message {
            term: Term(4),
            body,
        })
    };
    let piece = Bytes::from_static(b"piece");
    let contents = [
        (
            "vote",
            raft(Body::Vote {
                last: id(1, 2),
                transfer: true,
            }),
        ),
        (
            "append",
            raft(Body::Append {
                prev: id(2, 7),
                entries,
                commit: Index(6),
            }),
        ),
        (
            "conflict",
            raft(Body::Conflict {
                prev: Index(9),
                hint: id(1, 4),
                lost: true,
            }),
        ),
        (
            "heartbeat",
            raft(Body::Heartbeat {
                commit: Index(4),
                round: 77,
            }),
        ),
        (
            "read-at",
            raft(Body::ReadAt {
                id: 5,
                index: Index(6),
            }),
        ),
        (
            "offer",
            Content::Offer {
                term: Term(2),
                id: 9,
                meta: SnapshotMeta {
                    last: id(2, 50),
                    membership,
                },
                files: vec![SnapshotFile {
                    name: "000012.tbl".into(),
                    len: 4096,
                    check: 1,
                }],
            },
        ),
        (
            "want",
            Content::Want {
                id: 9,
                file: 0,
                offset: 4,
                len: 100,
            },
        ),
        (
            "chunk",
            Content::Chunk {
                id: 9,
                file: 0,
                offset: 4,
                crc: 7,
                bytes: piece.clone(),
            },
        ),
        ("end", Content::End { id: 9, whole: true }),
        (
            "forward",
            Content::Forward {
                id: 1,
                request: piece.clone(),
            },
        ),
        (
            "forwarded",
            Content::Forwarded {
                id: 1,
                outcome: piece,
            },
        ),
    ];
    let from = Sender {
        cluster: 1,
        group: 1,
        node: NodeId(2),
        disk: 33,
        epoch: 44,
    };
    let to = NodeId(3);
    contents
        .map(|(name, content)| (name.to_owned(), encode(&Packet { from, to, content })))
        .into()
}
