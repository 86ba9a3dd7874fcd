//! Reads and the lease (8; thesis 6.4), and transfers (thesis 3.10).

use super::{Outcome, Play, SET_UP, Scenario, claim, lease};
use esker_raft::core::*;

/// Thesis 6.4.1: somebody may be elected in spite of the lease as soon as the order to campaign has left.
fn a_read_under_the_lease_after_a_transfer() -> Outcome {
    let mut play = Play::led(3, lease())?;
    // An order to somebody who is slow: it takes longer than the leader waits for the transfer.
    play.step(1, Input::Transfer(NodeId(2)))?;
    play.deliver(1, 2, |m| matches!(m.body, Body::TimeoutNow))?;
    play.cluster.synced(2)?;
    play.deliver(2, 3, |_| true)?;
    play.cluster.synced(3)?;
    play.deliver(3, 2, |_| true)?;
    if !play.leads(2) {
        return Err(format!("{SET_UP} 2 was not elected"));
    }
    play.settle(&[2, 3])?;
    play.propose(2, 1)?;
    play.settle(&[2, 3])?;
    play.cluster.pass(1_000);
    play.cluster.ask(1)
}

/// Thesis 6.4.1: the lease runs from when a heartbeat was sent, not from when its answer comes.
fn a_late_answer_to_a_heartbeat_and_the_lease() -> Outcome {
    let mut play = Play::led(3, lease())?;
    for _ in 0..2 {
        play.step(1, Input::Tick)?;
    }
    play.deliver(1, 2, |_| true)?;
    let late = std::mem::take(play.mail());
    play.cluster.pass(300_000);
    play.forget_leader(&[2])?;
    play.elect(2, &[3])?;
    play.settle(&[2, 3])?;
    play.propose(2, 1)?;
    play.settle(&[2, 3])?;
    *play.mail() = late;
    play.deliver(2, 1, |m| matches!(m.body, Body::Heard { .. }))?;
    play.cluster.ask(1)
}

/// C3: the leader's lease stands on the answer of one who then campaigns by order of its owner: its own vote is one too.
fn who_just_heard_from_the_leader_campaigns() -> Outcome {
    let mut play = Play::led(3, lease())?;
    for _ in 0..2 {
        play.step(1, Input::Tick)?;
    }
    play.deliver(1, 2, |_| true)?;
    play.deliver(2, 1, |_| true)?;
    match play.elect(2, &[3]) {
        Err(error) if error.starts_with(SET_UP) => return Ok(()),
        elected => elected?,
    }
    play.commits(2, &[2, 3])?;
    play.cluster.ask(1)
}

/// Thesis 6.4: the answer to a question of before is no answer to the one of now.
fn a_late_answer_to_a_follower_that_reads() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.cluster.ask(3)?;
    play.deliver(3, 1, |_| true)?;
    for _ in 0..4 {
        play.deliver(1, 2, |_| true)?;
        play.cluster.synced(2)?;
        play.deliver(2, 1, |_| true)?;
    }
    let (late, _): (Vec<_>, Vec<_>) = std::mem::take(play.mail())
        .into_iter()
        .partition(|(_, _, m)| matches!(m.body, Body::ReadAt { .. }));
    if late.len() != 1 {
        return Err(format!("{SET_UP} {} answers", late.len()));
    }
    // 3 gives up on it and asks anew, after more was committed.
    for _ in 0..9 {
        play.step(3, Input::Tick)?;
    }
    play.propose(1, 3)?;
    play.settle(&[1, 2])?;
    play.drop_mail();
    let heartbeats = |m: &Message| matches!(m.body, Body::Heartbeat { .. });
    play.step(1, Input::Tick)?;
    play.step(1, Input::Tick)?;
    play.deliver(1, 3, heartbeats)?;
    play.step(3, Input::Tick)?;
    play.cluster.ask(3)?;
    *play.mail() = late;
    play.deliver(1, 3, |_| true)
}

/// Section 8, thesis 6.4: a new leader answers no read before it has committed an entry of its term.
fn a_read_before_the_term_has_an_entry() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.propose(1, 2)?;
    // 2 has the entries and does not know that they are committed.
    play.deliver(1, 2, |_| true)?;
    play.cluster.synced(1)?;
    play.cluster.synced(2)?;
    play.deliver(2, 1, |_| true)?;
    play.drop_mail();
    play.elect(2, &[3])?;
    play.cluster.ask(2)?;
    for _ in 0..3 {
        let heartbeats = |m: &Message| matches!(m.body, Body::Heartbeat { .. });
        play.deliver(2, 3, heartbeats)?;
        play.deliver(3, 2, |_| true)?;
    }
    Ok(())
}

/// Thesis 6.4: a leader that was replaced and does not know it answers no read; by a minority neither.
fn a_leader_that_was_replaced_answers_no_read() -> Outcome {
    let mut play = Play::led(5, Options::default())?;
    play.elect(3, &[4, 5])?;
    play.settle(&[3, 4, 5])?;
    play.commits(3, &[3, 4, 5])?;
    play.cluster.ask(1)?;
    for _ in 0..3 {
        play.step(1, Input::Tick)?;
        play.settle(&[1, 2])?;
    }
    claim(play.cluster.unanswered() == 1, "a stale read was answered")
}

/// C3: a lease that one follower renews is none: a quorum has to.
fn a_lease_is_not_renewed_by_one_follower() -> Outcome {
    let mut play = Play::led(5, lease())?;
    for _ in 0..30 {
        play.cluster.pass(10_000);
        play.step(1, Input::Tick)?;
        play.deliver(1, 2, |_| true)?;
        play.deliver(2, 1, |_| true)?;
        play.drop_mail();
        if !play.leads(1) {
            // It has noticed itself.
            return Ok(());
        }
        if play.cluster.core(3).role() != RoleName::Leader {
            for id in [3, 4, 5] {
                play.step(id, Input::Tick)?;
            }
            play.settle(&[3, 4, 5])?;
        }
        if let Some(leader) = play.leader().filter(|id| *id != 1) {
            play.commits(leader, &[3, 4, 5])?;
            play.cluster.ask(1)?;
        }
    }
    Ok(())
}

/// Thesis 6.4: a read that comes while a round is on its way waits for the next one.
fn a_read_during_a_round_waits_for_the_next() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.cluster.ask(1)?;
    // The round is answered, and the answers are on their way while more is committed.
    for peer in [2, 3] {
        play.deliver(1, peer, |_| true)?;
    }
    let late = std::mem::take(play.mail());
    play.commits(1, &[1, 2, 3])?;
    play.cluster.ask(1)?;
    *play.mail() = late;
    for peer in [2, 3] {
        play.deliver(peer, 1, |m| matches!(m.body, Body::Heard { .. }))?;
    }
    claim(
        play.cluster.unanswered() == 1,
        "not the first read, or the second by its round",
    )?;
    play.settle(&[1, 2, 3])?;
    claim(
        play.cluster.unanswered() == 0,
        "the second is never answered",
    )
}

/// Thesis 3.10: the order to campaign is sent when the successor has everything.
fn a_transfer_waits_for_the_successor_s_log() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.propose(1, 3)?;
    play.cluster.synced(1)?;
    play.step(1, Input::Transfer(NodeId(2)))?;
    let ordered = |play: &mut Play| {
        let mail = play.mail().iter();
        mail.clone()
            .any(|(_, _, m)| matches!(m.body, Body::TimeoutNow))
    };
    claim(!ordered(&mut play), "2 lacks three entries")?;
    play.deliver(1, 2, |_| true)?;
    play.cluster.synced(2)?;
    play.deliver(2, 1, |_| true)?;
    claim(ordered(&mut play), "2 has all")?;
    play.settle(&[1, 2, 3])?;
    claim(play.leads(2) && !play.leads(1), "it was not handed over")?;
    play.commits(2, &[1, 2, 3])
}

/// Thesis 3.10: a successor that is gone: the transfer is given up within an election timeout, and the leader goes on.
fn a_transfer_to_one_that_is_gone_is_given_up() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.cluster.power_cut(2);
    play.step(1, Input::Transfer(NodeId(2)))?;
    play.propose(1, 1)?;
    let last = play.cluster.core(1).last();
    play.run(Options::default().election_ticks, |_, _| true)?;
    claim(play.leads(1), "it leads no more")?;
    claim(
        play.cluster.core(1).last() == last,
        "what was refused was appended",
    )?;
    play.commits(1, &[1, 3])
}

/// RI5, C3: who hears from the leader comes into a newer term by the refusal of a pre-vote; the vote asked of it there is one in its own term.
fn a_vote_in_a_term_that_came_by_a_refusal() -> Outcome {
    let pre = |m: &Message| matches!(m.body, Body::PreVote { .. });
    let mut play = Play::led(3, lease())?;
    play.forget_leader(&[2, 3])?;
    play.step(3, Input::Campaign)?;
    play.deliver(3, 2, pre)?;
    // 3 is a candidate, and that is not synced.
    play.deliver(2, 3, |m| matches!(m.body, Body::PreVoted { .. }))?;
    // 2 is refused in the term of 3; the refusal is on its way.
    play.step(2, Input::Campaign)?;
    play.deliver(2, 3, pre)?;
    for _ in 0..2 {
        play.step(1, Input::Tick)?;
    }
    play.deliver(1, 2, |m| matches!(m.body, Body::Heartbeat { .. }))?;
    play.deliver(2, 1, |m| matches!(m.body, Body::Heard { .. }))?;
    play.deliver(3, 2, |_| true)?;
    play.cluster.synced(2)?;
    play.cluster.synced(3)?;
    play.deliver(3, 2, |_| true)?;
    play.cluster.synced(2)?;
    play.deliver(2, 3, |_| true)?;
    if play.leads(3) {
        play.commits(3, &[2, 3])?;
    }
    play.cluster.pass(1_000);
    play.cluster.ask(1)?;
    claim(!play.leads(3), "a loyal node voted")
}

/// A node is asked for a read, and ordered to campaign before the answer is there: who asked hears of it.
fn a_read_at_who_is_ordered_to_campaign() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.cluster.ask(3)?;
    play.drop_mail();
    play.step(1, Input::Transfer(NodeId(3)))?;
    play.settle(&[1, 2, 3])?;
    play.run(30, |_, _| true)?;
    claim(play.leads(3), &format!("{SET_UP} 3 does not lead"))?;
    claim(play.cluster.unanswered() == 0, "the read has no answer")
}

/// All, by name.
pub(super) const ALL: &[(&str, Scenario)] = &[
    (
        "a read under the lease after a transfer",
        a_read_under_the_lease_after_a_transfer,
    ),
    (
        "who just heard from the leader campaigns",
        who_just_heard_from_the_leader_campaigns,
    ),
    (
        "a late answer to a heartbeat, and the lease",
        a_late_answer_to_a_heartbeat_and_the_lease,
    ),
    (
        "a late answer to a follower that reads",
        a_late_answer_to_a_follower_that_reads,
    ),
    (
        "a read before the term has an entry",
        a_read_before_the_term_has_an_entry,
    ),
    (
        "a leader that was replaced answers no read",
        a_leader_that_was_replaced_answers_no_read,
    ),
    (
        "a lease is not renewed by one follower",
        a_lease_is_not_renewed_by_one_follower,
    ),
    (
        "a read during a round waits for the next",
        a_read_during_a_round_waits_for_the_next,
    ),
    (
        "a transfer waits for the successor's log",
        a_transfer_waits_for_the_successor_s_log,
    ),
    (
        "a transfer to one that is gone is given up",
        a_transfer_to_one_that_is_gone_is_given_up,
    ),
    (
        "a vote in a term that came by a refusal",
        a_vote_in_a_term_that_came_by_a_refusal,
    ),
    (
        "a read at who is ordered to campaign",
        a_read_at_who_is_ordered_to_campaign,
    ),
];
