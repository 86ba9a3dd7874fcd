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

/// One leads two, behind these entries of term 2, in term 3.
fn led_by_one(log: &[Entry], options: Options) -> Core {
    let mut leader = node(1, &[1, 2], 2, log, options);
    let _ = leader.step(0, Input::Campaign);
    let _ = leader.step(0, from(2, 3, Body::PreVoted { granted: true }));
    let _ = leader.step(0, Input::Synced(1));
    let _ = leader.step(0, from(2, 3, Body::Voted { granted: true }));
    assert_eq!(leader.role(), RoleName::Leader);
    leader
}

/// DR5: it could not serve as a leader, and is as good a voter as any.
#[test]
fn who_holds_back_votes_and_does_not_campaign() {
    let options = Options::default();
    let ticks = 3 * options.election_ticks;
    let mut core = node(2, &[1, 2, 3], 2, &[], options);
    let heartbeat = Body::Heartbeat {
        commit: Index(0),
        round: 1,
    };
    let _ = core.step(0, from(1, 2, heartbeat.clone()));
    let pre_vote = || from(3, 3, Body::PreVote { last: id(0, 0) });
    let granted = |out: Outputs| {
        let mut said = out.messages.into_iter().map(|e| e.message.body);
        said.any(|body| matches!(body, Body::PreVoted { granted: true }))
    };
    assert!(!granted(core.step(0, pre_vote())), "it hears a leader");
    let _ = core.step(0, Input::HoldBack(true));
    for _ in 0..ticks {
        assert_eq!(core.step(0, Input::Tick).messages, []);
    }
    assert_eq!(core.role(), RoleName::Follower);
    assert!(granted(core.step(0, pre_vote())));
    let _ = core.step(0, from(1, 2, heartbeat));
    assert_eq!(core.step(0, Input::Campaign).messages, []);
    assert_eq!(core.step(0, from(1, 2, Body::TimeoutNow)).messages, []);
    assert_eq!(core.role(), RoleName::Follower);
    // Nor does it go on with a campaign.
    let _ = core.step(0, Input::HoldBack(false));
    let begun = core.step(0, Input::Campaign);
    assert!(!begun.messages.is_empty());
    let _ = core.step(0, Input::HoldBack(true));
    let late = core.step(0, from(3, 3, Body::PreVoted { granted: true }));
    assert_eq!((late.messages, core.role()), (vec![], RoleName::Follower));
    let _ = core.step(0, Input::HoldBack(false));
    let asked = (0..ticks).any(|_| !core.step(0, Input::Tick).messages.is_empty());
    assert!(asked, "it campaigns again");
}

/// What storage does not have, or can't read, was read again at once, without an end.
#[test]
fn entries_that_can_not_be_read_are_not_asked_for_in_a_loop() {
    let options = Options {
        tail_bytes_max: 1,
        ..Options::default()
    };
    let log: Vec<Entry> = (1..=9).map(|index| entry(2, index)).collect();
    let mut leader = led_by_one(&log, options);
    let behind = || Body::Conflict {
        prev: Index(9),
        hint: id(1, 3),
        lost: false,
    };
    let out = leader.step(0, from(2, 3, behind()));
    assert_eq!(out.fetches.len(), 1);
    let entries = Vec::new();
    let to = NodeId(2);
    let out = leader.step(0, Input::Fetched { to, entries });
    assert_eq!((out.fetches.len(), out.snapshots.len()), (0, 0), "{out:?}");
    let out = leader.step(0, from(2, 3, Body::Heard { round: 1 }));
    assert_eq!(out.fetches.len(), 1, "the next answer asks again");
    let out = leader.step(0, Input::FetchFailed { to });
    assert_eq!((out.fetches.len(), out.snapshots), (0, vec![to]));
}

/// PR3: a peer whose disk hangs answers heartbeats; each read is a round of them, and each of those sent it all it lacks again.
#[test]
fn a_peer_that_answers_rounds_and_syncs_nothing_is_not_sent_entries_for_each() {
    let log: Vec<Entry> = (1..=9).map(|index| entry(2, index)).collect();
    let mut leader = led_by_one(&log, Options::default());
    let behind = Body::Conflict {
        prev: Index(9),
        hint: id(1, 0),
        lost: false,
    };
    let _ = leader.step(0, from(2, 3, behind));
    let mut sent = 0;
    let mut count = |out: Outputs| {
        let append = |e: &&Envelope| matches!(&e.message.body, Body::Append { entries, .. } if !entries.is_empty());
        sent += out.messages.iter().filter(append).count();
    };
    for round in 1..=100 {
        count(leader.step(0, from(2, 3, Body::Heard { round: 1 })));
        count(leader.step(0, Input::Read(round)));
        if round % 50 == 0 {
            count(leader.step(0, Input::Tick));
        }
    }
    assert!((1..=2).contains(&sent), "{sent}");
}

/// FO4: behind damage there stood what the lost frame had superseded, and the leader of the term knew what it once acknowledged.
/// C2: what its id has promised before is not known to a node whose disk is another; its log comes back all the same.
#[test]
fn a_stranger_votes_for_nobody_and_takes_entries() {
    let membership = Membership::of([1, 2, 3].map(NodeId));
    let snapshot = SnapshotMeta {
        last: LogId::default(),
        membership,
    };
    let restored = Restored {
        log: LogView::new(snapshot, 1 << 20),
        ..Restored::default()
    };
    let mut core = Core::new(NodeId(2), Options::default(), restored, 7).expect("they can be");
    let _ = core.step(0, Input::Stranger(true));
    for _ in 0..100 {
        let out = core.step(0, Input::Tick);
        assert_eq!((out.messages, core.role()), (vec![], RoleName::Follower));
    }
    let votes = |core: &mut Core, term| {
        let vote = Body::Vote {
            last: id(term - 1, 9),
            transfer: false,
        };
        let out = core.step(0, from(3, term, vote));
        let held = core.step(0, Input::Synced(out.seq)).messages;
        (out.messages.into_iter().chain(held))
            .any(|e| matches!(e.message.body, Body::Voted { granted: true }))
    };
    assert!(!votes(&mut core, 5));
    let append = Body::Append {
        prev: id(0, 0),
        entries: vec![entry(5, 1)],
        commit: Index(0),
    };
    let out = core.step(0, from(1, 5, append));
    let said = core.step(0, Input::Synced(out.seq)).messages;
    let said: Vec<_> = said.iter().map(|e| &e.message.body).collect();
    assert_eq!(said, [&Body::Appended { matched: Index(1) }]);
    // The leader may remember what the other disk acknowledged.
    let beat = Body::Heartbeat {
        commit: Index(1),
        round: 1,
    };
    assert_eq!(core.step(0, from(1, 5, beat)).committed, None);
    let ticks = 3 * Options::default().election_ticks;
    (0..ticks).for_each(|_| drop(core.step(0, Input::Tick)));
    assert!(!votes(&mut core, 6), "it hears nobody any more");
    let _ = core.step(0, Input::Stranger(false));
    assert!(votes(&mut core, 7));
}

#[test]
fn behind_damage_nothing_is_committed_by_what_the_leader_remembers() {
    let membership = Membership::of([1, 2, 3].map(NodeId));
    let snapshot = SnapshotMeta {
        last: LogId::default(),
        membership,
    };
    let mut log = LogView::new(snapshot, 1 << 20);
    (1..=8).for_each(|index| log.push(entry(1, index)));
    let restored = Restored {
        hard: HardState {
            term: Term(2),
            vote: None,
        },
        log,
        committed: Index(3),
        abstain: Abstain::Until(Index(9)),
    };
    let mut core = Core::new(NodeId(2), Options::default(), restored, 7).expect("they can be");
    let beat = |commit| Body::Heartbeat { commit, round: 1 };
    let out = core.step(0, from(1, 2, beat(Index(9))));
    assert_eq!((out.committed, core.committed()), (None, Index(3)));
    let lost = Body::Conflict {
        prev: Index(9),
        hint: id(1, 8),
        lost: true,
    };
    let said = out.messages.iter().map(|e| &e.message.body);
    assert_eq!(said.collect::<Vec<_>>(), [&Body::Heard { round: 1 }, &lost]);
    // FO5: reads make heartbeats.
    for _ in 0..100 {
        let out = core.step(0, from(1, 2, beat(Index(9))));
        assert_eq!(out.messages.len(), 1);
    }
    let _ = core.step(0, Input::Tick);
    let out = core.step(0, from(1, 2, beat(Index(9))));
    assert_eq!(out.messages.len(), 2);
}
