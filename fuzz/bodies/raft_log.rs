//! Opening the log of a Raft node whose frames say something else than was written.
//!
//! The bytes choose frames of a real log and change them; each is appended to another log with right checksums, which is then opened.

#[path = "edits.rs"]
mod edits;

use bytes::Bytes;
use edits::{Source, edit};
use esker_raft::core::{
    Abstain, Entry, EntryKind, HardState, Index, LogId, Membership, NodeId, SnapshotMeta, Term,
    Write,
};
use esker_raft::log::{Identity, LogStore, Recovered, WalLog, WalLogOptions};
use esker_wal::media::sim::SimMedia;
use esker_wal::{Create, Log, LogOptions, Lsn, ReadLimit, SyncPolicy, Workers};
use std::path::Path;
use std::sync::{Arc, OnceLock};

const DIR: &str = "raft";
const WHO: Identity = Identity {
    cluster: 7,
    group: 1,
    node: NodeId(3),
};
/// Frames of a changed log, at most.
const FRAMES_MAX: usize = 32;

fn options(media: &SimMedia) -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        segments_ahead: 1,
        sync_policy: SyncPolicy::Manual,
        workers: Workers::Stepped,
        media: Arc::new(media.clone()),
        ..LogOptions::default()
    }
}

fn raw(media: &SimMedia) -> Log {
    let id = esker_wal::LogId(u128::from(WHO.cluster) << 64 | u128::from(WHO.node.0));
    let create = Create {
        log: id,
        node: esker_wal::NodeId(5),
        base: Lsn::ZERO,
    };
    let options = LogOptions {
        create: Some(create),
        ..options(media)
    };
    Log::open(Path::new(DIR), options).expect("a log opens").0
}

fn open(media: &SimMedia) -> Option<(WalLog, Recovered)> {
    let options = WalLogOptions {
        log: options(media),
        tail_bytes_max: 200,
        anchor_bytes: 64,
    };
    WalLog::open(Path::new(DIR), WHO, options).ok()
}

fn id(term: u64, index: u64) -> LogId {
    LogId {
        term: Term(term),
        index: Index(index),
    }
}

fn entry(term: u64, index: u64, kind: EntryKind) -> Entry {
    Entry {
        id: id(term, index),
        kind,
    }
}

/// Payloads of a log that has seen each kind of record: terms, entries of all kinds, a suffix superseded, a compaction, a snapshot.
fn base() -> &'static [Vec<u8>] {
    static BASE: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    BASE.get_or_init(|| {
        let media = SimMedia::new(1);
        let (mut log, _) = open(&media).expect("a new log");
        let hard = |term, vote| {
            Write::HardState(HardState {
                term: Term(term),
                vote: Some(NodeId(vote)),
            })
        };
        let command = |n: usize| EntryKind::Command(Bytes::from(vec![n as u8; n]));
        let membership = Membership::of([NodeId(1), NodeId(2), NodeId(3)]);
        let at = |last| SnapshotMeta {
            last,
            membership: membership.clone(),
        };
        let entries = |term, from: u64, to: u64| {
            let all = (from..=to).map(|n| entry(term, n, command(10 * n as usize)));
            Write::Append(all.collect())
        };
        let grown = Membership::of([NodeId(1), NodeId(3)]);
        let grown = EntryKind::Membership(Box::new(grown));
        for writes in [
            vec![Write::Snapshot(at(id(0, 0)))],
            vec![
                hard(1, 2),
                Write::Append(vec![entry(1, 1, EntryKind::Noop)]),
            ],
            vec![entries(1, 2, 6)],
            vec![hard(3, 3), Write::Append(vec![entry(3, 5, grown)])],
            vec![entries(3, 6, 12)],
        ] {
            log.write(&writes).expect("written");
            log.sync().expect("synced");
        }
        log.compact(&at(id(1, 3))).expect("compacted");
        log.write(&[entries(3, 13, 14)]).expect("written");
        log.write(&[hard(4, 1), Write::Snapshot(at(id(4, 30)))])
            .expect("written");
        log.write(&[entries(4, 31, 33)]).expect("written");
        log.close().expect("closed");
        drop(log);
        let log = raw(&media);
        let mut reader = log
            .reader(log.oldest(), ReadLimit::Published)
            .expect("it is read");
        let mut payloads = Vec::new();
        while let Some(frame) = reader.next().expect("whole") {
            if frame.header.kind == esker_wal::Kind::Data {
                payloads.push(frame.payload.to_vec());
            }
        }
        payloads
    })
}

/// What was recovered goes together, and the log goes on behind it.
fn goes_on(media: &SimMedia, mut log: WalLog, recovered: &Recovered) {
    let view = &recovered.log;
    let (base, last) = (view.base().index, view.last());
    assert!(base <= last.index);
    let reader = log.reader();
    let mut at = base.next();
    while at <= last.index {
        let Ok(entries) = reader.entries(at, last.index, 500) else {
            // Damage is said, and abstained for.
            assert_ne!(recovered.abstain, Abstain::No);
            break;
        };
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            assert_eq!(entry.id.index, at, "a gap");
            if let Some(term) = view.term(at) {
                assert_eq!(entry.id.term, term);
            }
            at = at.next();
        }
    }
    if last.index.0 > u64::MAX - 8 || last.term.0 > u64::MAX - 8 {
        return;
    }
    let next = entry(last.term.0 + 1, last.index.0 + 1, EntryKind::Noop);
    let hard = HardState {
        term: Term(recovered.hard.term.0.max(next.id.term.0)),
        vote: None,
    };
    let writes = [Write::HardState(hard), Write::Append(vec![next.clone()])];
    if log.write(&writes).and_then(|()| log.sync()).is_err() {
        return;
    }
    log.close().expect("closed");
    drop(log);
    let (_, again) = open(media).expect("it was opened before");
    assert_eq!(again.log.last(), next.id);
    assert_eq!(again.hard, hard);
}

/// See fuzz/README.md.
pub(crate) fn check(data: &[u8]) {
    let mut source = Source(data);
    let media = SimMedia::new(1);
    let log = raw(&media);
    let mut in_order = base().iter().cycle();
    for _ in 0..FRAMES_MAX {
        if source.is_empty() {
            break;
        }
        let how = source.byte();
        let mut payload = match how % 16 {
            0 => base()[usize::from(source.byte()) % base().len()].clone(),
            _ => in_order.next().expect("a cycle").clone(),
        };
        for _ in 13..=how / 16 {
            edit(&mut payload, &mut source);
        }
        log.append(&[&payload]).expect("appended");
    }
    log.close().expect("closed");
    drop(log);
    if let Some((log, recovered)) = open(&media) {
        goes_on(&media, log, &recovered);
    }
}

/// Where a corpus begins.
#[allow(dead_code, reason = "the fuzzer reads files")]
pub(crate) fn start() -> Vec<(String, Vec<u8>)> {
    let unchanged = vec![1; base().len()];
    let one_bit = [&[1, 1, 0xd1, 0, 60, 0, 1][..], &[1; 6]].concat();
    let doubled = vec![1, 1, 1, 0, 2, 0, 2, 1, 1];
    let number = [&[1, 0xd1, 2, 8, 0, 0][..], &[1; 5]].concat();
    let cut = [&[1, 1, 1, 0xd1, 6, 70, 0][..], &[1; 4]].concat();
    [
        ("unchanged", unchanged),
        ("one-bit", one_bit),
        ("a-frame-twice", doubled),
        ("a-number", number),
        ("a-frame-cut", cut),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}
