//! The log (5.3, 5.4.2, 5.5).

use super::{Outcome, Play, SET_UP, Scenario, claim, one_by_one};
use esker_raft::core::*;

/// Figure 8 of the paper: an entry of an older term that a majority holds is not committed by that.
fn figure_8() -> Outcome {
    let mut play = Play::new(5, one_by_one());
    play.elect(1, &[2, 3])?;
    play.settle(&[1, 2, 3, 4, 5])?;
    // (a) 1 leads and brings its entry to 2 alone.
    play.propose(1, 1)?;
    play.settle(&[1, 2])?;
    // (b) 5 leads by the votes of 3 and 4, and takes another entry at that place.
    play.elect(5, &[3, 4])?;
    play.cluster.synced(5)?;
    play.drop_mail();
    play.cluster.power_cut(5);
    play.cluster.start(5);
    // (c) 1 comes back, leads, and brings its old entry to 3, but nothing of its new term.
    play.cluster.power_cut(1);
    play.cluster.start(1);
    play.elect(1, &[2, 3])?;
    play.cluster.synced(1)?;
    for _ in 0..4 {
        for peer in [2, 3] {
            let old = |m: &Message| match &m.body {
                Body::Append { entries, .. } => {
                    peer == 2 || entries.iter().all(|e| e.id.term < m.term)
                }
                _ => true,
            };
            play.deliver(1, peer, old)?;
            play.cluster.synced(peer)?;
            play.deliver(peer, 1, |_| true)?;
        }
        // A probe behind the end names what 3 lacks.
        let probes: Vec<_> = play
            .mail()
            .extract_if(.., |(f, t, _)| (*f, *t) == (1, 3))
            .collect();
        for (_, _, mut message) in probes {
            if let Body::Append {
                entries, commit, ..
            } = &mut message.body
            {
                entries.clear();
                *commit = Index(0);
                let from = NodeId(1);
                play.step(3, Input::Message { from, message })?;
            }
        }
        play.deliver(3, 1, |_| true)?;
    }
    // (d) 1 is gone; 5 is elected by 3 and 4, whose logs end earlier than its own.
    play.cluster.power_cut(1);
    play.drop_mail();
    play.elect(5, &[3, 4])?;
    play.settle(&[3, 4, 5])
}

/// A log is reversed and grows again to the same length: what was acknowledged of the old one counts for nothing in the new one.
fn an_acknowledgement_of_before_a_reversal(synced: bool) -> Outcome {
    let mut play = Play::new(5, Options::default());
    play.elect(1, &[2, 3])?;
    play.settle(&[1, 2, 3, 4, 5])?;
    // 3 gets five entries; its acknowledgement waits for the disk, or is late.
    play.propose(1, 5)?;
    play.deliver(1, 3, |_| true)?;
    if synced {
        play.cluster.synced(3)?;
    }
    let is_ack = |m: &Message| matches!(m.body, Body::Appended { .. });
    let late: Vec<_> = (play.mail().iter())
        .filter(|(f, _, m)| *f == 3 && is_ack(m))
        .cloned()
        .collect();
    play.cluster.synced(1)?;
    // 2 leads without them and takes them back from 1 and 3, by an entry that 4 and 5 don't see.
    play.elect(2, &[4, 5])?;
    play.cluster.synced(2)?;
    for _ in 0..4 {
        for peer in [1, 3] {
            play.deliver(2, peer, |_| true)?;
            if peer == 1 || synced {
                play.cluster.synced(peer)?;
            }
            play.deliver(peer, 2, |_| true)?;
        }
    }
    if play.cluster.core(3).last().term != play.cluster.core(2).term() {
        return Err(format!("{SET_UP} 3 does not follow 2"));
    }
    // 1 leads again, and has as many entries as before; 4 holds them, 3 none of them.
    play.elect(1, &[4, 5])?;
    play.propose(1, 6)?;
    play.deliver(1, 3, |m| matches!(m.body, Body::Heartbeat { .. }))?;
    play.settle(&[1, 4])?;
    play.mail().extend(late);
    play.cluster.synced(3)?;
    play.deliver(3, 1, is_ack)?;
    // Whatever 1 has committed, 2, 3 and 5 elect nobody without it.
    play.cluster.power_cut(1);
    play.cluster.power_cut(2);
    play.cluster.start(2);
    play.drop_mail();
    play.elect(3, &[2, 5])
}

fn an_acknowledgement_is_held_across_terms() -> Outcome {
    an_acknowledgement_of_before_a_reversal(false)
}

fn an_acknowledgement_is_late_by_two_terms() -> Outcome {
    an_acknowledgement_of_before_a_reversal(true)
}

/// A heartbeat reaches a follower whose log ends in something else.
fn a_heartbeat_before_the_conflict_is_known() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.propose(1, 1)?;
    play.cluster.synced(1)?;
    play.elect(2, &[3])?;
    play.settle(&[2, 3])?;
    for _ in 0..2 {
        play.step(2, Input::Tick)?;
    }
    play.deliver(2, 1, |m| matches!(m.body, Body::Heartbeat { .. }))
}

/// Figure 7 of the paper: whatever is missing in a follower's log, or too much, it becomes the leader's.
fn figure_7() -> Outcome {
    let leader: &[u64] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let a: &[u64] = &[1, 1, 1, 4, 4, 5, 5, 6, 6];
    let b: &[u64] = &[1, 1, 1, 4];
    let c: &[u64] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6];
    let d: &[u64] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7];
    let e: &[u64] = &[1, 1, 1, 4, 4, 4, 4];
    let f: &[u64] = &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3];
    // The last of them refuses its vote: its log is newer.
    for followers in [[a, b, e, c], [a, f, e, d]] {
        let mut play = Play::new(5, Options::default());
        let hard = HardState {
            term: Term(7),
            vote: None,
        };
        play.cluster.restore(1, hard, leader);
        for (id, log) in (2..).zip(followers) {
            play.cluster.restore(id, hard, log);
        }
        play.elect(1, &[2, 3, 4])?;
        play.settle(&[1, 2, 3, 4, 5])?;
        play.run(3, |_, _| true)?;
        for id in 1..=5 {
            let core = play.cluster.core(id);
            let terms: Vec<u64> = (1..=10)
                .filter_map(|index| core.id_at(Index(index)))
                .map(|id| id.term.0)
                .collect();
            let same = terms == leader && core.last() == play.cluster.core(1).last();
            claim(same, &format!("{id} holds {terms:?}"))?;
        }
    }
    Ok(())
}

/// 5.3, 5.5: every message of a leader comes again, late and in the other order, and changes nothing.
fn everything_comes_twice_and_in_the_other_order() -> Outcome {
    let mut play = Play::led(3, one_by_one())?;
    let mut sent = Vec::new();
    for _ in 0..4 {
        play.propose(1, 2)?;
        sent.extend(play.mail().iter().cloned());
        play.settle(&[1, 2, 3])?;
    }
    let before = (play.cluster.core(3).last(), play.cluster.committed());
    sent.reverse();
    for (from, to, message) in sent {
        play.hand_over(from, to, message)?;
    }
    play.settle(&[1, 2, 3])?;
    let after = (play.cluster.core(3).last(), play.cluster.committed());
    claim(before == after, "an old message cut the log")?;
    play.commits(1, &[1, 2, 3])
}

/// 5.3: an append proves what it carries and what it follows, not what else the log holds.
fn an_acknowledgement_covers_what_was_sent() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.propose(1, 5)?;
    play.cluster.synced(1)?;
    play.elect(2, &[3])?;
    let prev = play.cluster.core(3).last();
    let body = Body::Append {
        prev,
        entries: Vec::new(),
        commit: Index(0),
    };
    let term = play.cluster.core(2).term();
    let from = NodeId(2);
    let message = Message { term, body };
    play.step(1, Input::Message { from, message })?;
    play.cluster.synced(1)?;
    let too_much =
        |m: &Message| matches!(m.body, Body::Appended { matched } if matched > prev.index);
    let wrong = play.mail().iter().any(|(f, _, m)| *f == 1 && too_much(m));
    claim(!wrong, "it acknowledged what the leader has not")
}

/// C2: a leader sends while it syncs, and counts itself only when it has.
fn a_leader_that_has_not_synced_does_not_count() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    let committed = play.cluster.committed();
    play.propose(1, 1)?;
    play.deliver(1, 2, |_| true)?;
    play.cluster.synced(2)?;
    play.deliver(2, 1, |_| true)?;
    claim(
        play.cluster.committed() == committed,
        "one synced copy of three is no majority",
    )?;
    play.cluster.synced(1)?;
    claim(
        play.cluster.committed() > committed,
        "two synced copies are one",
    )
}

/// C2: a follower acknowledges when it has synced.
fn a_follower_that_has_not_synced_does_not_acknowledge() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    let committed = play.cluster.committed();
    play.propose(1, 1)?;
    play.cluster.synced(1)?;
    for peer in [2, 3] {
        play.deliver(1, peer, |_| true)?;
        play.deliver(peer, 1, |_| true)?;
    }
    claim(
        play.cluster.committed() == committed,
        "an acknowledgement left before the sync",
    )?;
    play.cluster.power_cut(2);
    play.cluster.synced(3)?;
    play.deliver(3, 1, |_| true)?;
    claim(play.cluster.committed() > committed, "3 is not counted")
}

/// 5.3: the commit index of an append counts up to what that append proves, not over a suffix that the leader does not know.
fn a_commit_index_beyond_what_is_proven() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    let prev = play.cluster.core(1).last();
    play.propose(1, 3)?;
    play.cluster.synced(1)?;
    play.elect(2, &[3])?;
    play.commits(2, &[2, 3])?;
    // 1 has three entries behind `prev` that are nobody else's.
    let body = Body::Append {
        prev,
        entries: Vec::new(),
        commit: play.cluster.core(2).committed(),
    };
    let term = play.cluster.core(2).term();
    let from = NodeId(2);
    let message = Message { term, body };
    play.step(1, Input::Message { from, message })?;
    claim(
        play.cluster.core(1).committed() == prev.index,
        "it committed what the leader has not",
    )
}

/// All, by name.
pub(super) const ALL: &[(&str, Scenario)] = &[
    ("figure 8", figure_8),
    (
        "an acknowledgement is held across terms",
        an_acknowledgement_is_held_across_terms,
    ),
    (
        "an acknowledgement is late by two terms",
        an_acknowledgement_is_late_by_two_terms,
    ),
    (
        "a heartbeat before the conflict is known",
        a_heartbeat_before_the_conflict_is_known,
    ),
    ("figure 7", figure_7),
    (
        "everything comes twice, and in the other order",
        everything_comes_twice_and_in_the_other_order,
    ),
    (
        "an acknowledgement covers what was sent",
        an_acknowledgement_covers_what_was_sent,
    ),
    (
        "a leader that has not synced does not count",
        a_leader_that_has_not_synced_does_not_count,
    ),
    (
        "a follower that has not synced does not acknowledge",
        a_follower_that_has_not_synced_does_not_acknowledge,
    ),
    (
        "a commit index beyond what is proven",
        a_commit_index_beyond_what_is_proven,
    ),
];
