//! What messages of a scenario reach only by luck.

use super::*;

fn id(term: u64, index: u64) -> LogId {
    LogId {
        term: Term(term),
        index: Index(index),
    }
}

fn entry(term: u64, index: u64) -> Entry {
    Entry {
        id: id(term, index),
        kind: EntryKind::Command(Bytes::from(format!("{term}.{index}"))),
    }
}

fn from(node: u64, term: u64, body: Body) -> Input {
    Input::Message {
        from: NodeId(node),
        message: Message {
            term: Term(term),
            body,
        },
    }
}

/// A node of these voters, behind these entries.
fn node(me: u64, voters: &[u64], term: u64, entries: &[Entry], options: Options) -> Core {
    let membership = Membership::of(voters.iter().map(|n| NodeId(*n)));
    let snapshot = SnapshotMeta {
        last: LogId::default(),
        membership,
    };
    let mut log = LogView::new(snapshot, options.tail_bytes_max);
    entries.iter().for_each(|entry| log.push(entry.clone()));
    let hard = HardState {
        term: Term(term),
        vote: None,
    };
    let restored = Restored {
        hard,
        log,
        ..Restored::default()
    };
    Core::new(NodeId(me), options, restored, 7).expect("they can be")
}

/// RC6: a leader asks a follower whose disk hangs with every heartbeat what it has.
#[test]
fn a_follower_that_syncs_nothing_holds_one_acknowledgement() {
    let mut core = node(2, &[1, 2, 3], 1, &[], Options::default());
    let append = |prev, entries| Body::Append {
        prev,
        entries,
        commit: Index(0),
    };
    let out = core.step(
        0,
        from(1, 1, append(id(0, 0), vec![entry(1, 1), entry(1, 2)])),
    );
    for _ in 0..1000 {
        let asked = core.step(0, from(1, 1, append(id(1, 1), Vec::new())));
        assert_eq!(asked.messages, []);
    }
    assert_eq!(core.held.len(), 1);
    let said = core.step(0, Input::Synced(out.seq)).messages;
    let matched = said.iter().map(|e| &e.message.body).collect::<Vec<_>>();
    assert_eq!(matched, [&Body::Appended { matched: Index(2) }]);
}

/// Log matching: what is read while some of it is replaced may be of either.
#[test]
fn entries_that_were_read_while_they_were_replaced_go_to_nobody() {
    let options = Options {
        tail_bytes_max: 1,
        ..Options::default()
    };
    let log: Vec<Entry> = (1..=9).map(|index| entry(2, index)).collect();
    let mut leader = node(1, &[1, 2], 2, &log, options);
    let _ = leader.step(0, Input::Campaign);
    let _ = leader.step(0, from(2, 3, Body::PreVoted { granted: true }));
    let out = leader.step(0, Input::Synced(1));
    assert_eq!(out.messages.len(), 1, "it asks for a vote");
    let _ = leader.step(0, from(2, 3, Body::Voted { granted: true }));
    assert_eq!(leader.role(), RoleName::Leader);
    let behind = Body::Conflict {
        prev: Index(9),
        hint: id(1, 3),
        lost: false,
    };
    let out = leader.step(0, from(2, 3, behind));
    let probed = out.fetches.first().map(|fetch| fetch.from);
    assert_eq!(probed, Some(Index(1)), "{out:?}");
    let mut read: Vec<Entry> = log[..4].to_vec();
    read[1] = entry(1, 2);
    let fetched = |entries| Input::Fetched {
        to: NodeId(2),
        entries,
    };
    let out = leader.step(0, fetched(read));
    assert_eq!(out.messages, []);
    assert_eq!(out.fetches.len(), 1, "it is read again");
    let out = leader.step(0, fetched(log[..4].to_vec()));
    assert_eq!(out.messages.len(), 1);
}
