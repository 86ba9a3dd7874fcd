//! Snapshots and compaction (7).

use super::{Outcome, Play, SET_UP, Scenario, claim};
use esker_raft::core::*;

/// Section 7: a snapshot ends inside of a suffix that conflicts with it; nothing of the suffix is left.
fn a_snapshot_inside_a_conflicting_suffix() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    // 1 has nine entries that nobody else has.
    play.propose(1, 9)?;
    play.cluster.synced(1)?;
    play.drop_mail();
    play.elect(2, &[3])?;
    play.propose(2, 4)?;
    play.settle(&[2, 3])?;
    let last = play.cluster.core(2).last();
    let term = play.cluster.core(2).term();
    let meta = SnapshotMeta {
        last,
        membership: Membership::of((1..=3).map(NodeId)),
    };
    let message = Message {
        term,
        body: Body::Snapshot(meta),
    };
    let from = NodeId(2);
    play.step(1, Input::Message { from, message })?;
    let core = play.cluster.core(1);
    if (core.last(), core.base(), core.committed()) != (last, last, last.index) {
        return Err("something of the suffix is left".into());
    }
    // Not acknowledged before it is synced (C2).
    if play
        .mail()
        .iter()
        .any(|(f, _, m)| *f == 1 && matches!(m.body, Body::Appended { .. }))
    {
        return Err("a snapshot was acknowledged before it was synced".into());
    }
    play.step(2, Input::Tick)?;
    play.step(2, Input::Tick)?;
    play.propose(2, 1)?;
    play.settle(&[1, 2, 3])?;
    match play.cluster.core(1).last() == play.cluster.core(2).last() {
        true => Ok(()),
        false => Err("the log does not go on behind the snapshot".into()),
    }
}

/// Section 7, figure 13: a snapshot of what the log holds leaves what follows it, which was acknowledged.
fn a_snapshot_of_a_prefix_keeps_what_follows() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.propose(1, 4)?;
    play.deliver(1, 2, |_| true)?;
    for id in [1, 2] {
        play.cluster.synced(id)?;
    }
    play.deliver(2, 1, |m| matches!(m.body, Body::Appended { .. }))?;
    play.drop_mail();
    let last = play.cluster.core(2).last();
    let half = SnapshotMeta {
        last: (play.cluster.core(1).id_at(Index(last.index.0 - 2))).expect("it is there"),
        membership: Membership::of((1..=3).map(NodeId)),
    };
    let (from, term) = (NodeId(1), play.cluster.core(1).term());
    let body = Body::Snapshot(half);
    let message = Message { term, body };
    play.step(2, Input::Message { from, message })?;
    play.cluster.synced(2)?;
    claim(
        play.cluster.core(2).last() == last,
        "acknowledged entries are gone",
    )
}

/// Section 7: the log is compacted to its very end, and a follower is behind: it gets a snapshot, and the log goes on behind that.
fn the_log_is_compacted_to_its_end_with_a_follower_behind() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.propose(1, 5)?;
    play.settle(&[1, 2])?;
    play.run(3, |from, to| from != 3 && to != 3)?;
    for id in [1, 2] {
        play.cluster.compact(id)?;
        let core = play.cluster.core(id);
        claim(core.base() == core.last(), SET_UP)?;
    }
    play.commits(1, &[1, 2])?;
    play.run(20, |_, _| true)?;
    claim(
        play.cluster
            .coverage
            .contains_key("path: a snapshot is installed"),
        "it got no snapshot",
    )?;
    let same = play.cluster.core(3).last() == play.cluster.core(1).last();
    claim(same, "it is still behind")?;
    // All compacted, all restarted: it goes on.
    for id in 1..=3 {
        play.cluster.compact(id)?;
        play.cluster.power_cut(id);
    }
    for id in 1..=3 {
        play.cluster.start(id);
    }
    play.run(60, |_, _| true)?;
    let leader = play.leader().ok_or("nobody leads")?;
    play.commits(leader, &[1, 2, 3])
}

/// Section 7, C2: the power goes after each step of installing a snapshot: before it is synced, before that is acknowledged, and after.
fn a_crash_after_each_step_of_installing() -> Outcome {
    for step in 0..3 {
        let mut play = Play::led(3, Options::default())?;
        // 3 has a suffix of its own, which conflicts.
        play.elect(3, &[2])?;
        play.propose(3, 4)?;
        play.cluster.synced(3)?;
        play.cluster.power_cut(1);
        play.cluster.start(1);
        play.elect(1, &[2])?;
        play.propose(1, 2)?;
        play.settle(&[1, 2])?;
        play.run(3, |from, to| from != 3 && to != 3)?;
        play.cluster.compact(1)?;
        play.cluster.compact(2)?;
        let snapshot = |m: &Message| matches!(m.body, Body::Snapshot(_));
        for _ in 0..10 {
            for id in [1, 2, 3] {
                play.step(id, Input::Tick)?;
            }
            play.deliver(3, 1, |_| true)?;
            play.deliver(1, 3, |m| !snapshot(m))?;
            play.deliver(3, 1, |_| true)?;
            if play.mail().iter().any(|(_, _, m)| snapshot(m)) {
                break;
            }
            for id in [1, 2, 3] {
                play.cluster.synced(id)?;
            }
        }
        claim(
            play.mail().iter().any(|(_, _, m)| snapshot(m)),
            &format!("{SET_UP} no snapshot"),
        )?;
        play.deliver(1, 3, snapshot)?;
        if step > 0 {
            play.cluster.synced(3)?;
        }
        if step > 1 {
            play.deliver(3, 1, |_| true)?;
        }
        play.drop_mail();
        play.cluster.power_cut(3);
        play.cluster.start(3);
        play.run(80, |_, _| true)?;
        let leader = play.leader().ok_or("nobody leads")?;
        let last = play.cluster.core(leader).last();
        for id in 1..=3 {
            let same = play.cluster.core(id).last() == last;
            claim(same, &format!("step {step}: {id} is behind"))?;
        }
        play.commits(leader, &[1, 2, 3])?;
    }
    Ok(())
}

/// All, by name.
pub(super) const ALL: &[(&str, Scenario)] = &[
    (
        "a snapshot of a prefix keeps what follows",
        a_snapshot_of_a_prefix_keeps_what_follows,
    ),
    (
        "a snapshot inside a conflicting suffix",
        a_snapshot_inside_a_conflicting_suffix,
    ),
    (
        "the log is compacted to its end with a follower behind",
        the_log_is_compacted_to_its_end_with_a_follower_behind,
    ),
    (
        "a crash after each step of installing",
        a_crash_after_each_step_of_installing,
    ),
];
