//! Membership (6; thesis 4).

use super::{Outcome, Play, SET_UP, Scenario, claim};
use bytes::Bytes;
use esker_raft::core::*;

/// Section 6: a membership that is not committed goes with the entry that brought it, and the one before it decides again.
fn a_membership_is_rolled_back() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    let alone = Change::SetVoters([NodeId(1)].into());
    play.step(1, Input::Change(1, alone))?;
    play.cluster.synced(1)?;
    if !play.cluster.core(1).membership().is_joint() {
        return Err("a membership is in force from when it is in the log".into());
    }
    play.drop_mail();
    play.elect(2, &[3])?;
    play.settle(&[1, 2, 3])?;
    let old = Membership::of((1..=3).map(NodeId));
    match *play.cluster.core(1).membership() == old {
        true => Ok(()),
        false => Err("the membership was not rolled back".into()),
    }
}

/// Thesis 4.2.2: a leader that is not in the new membership leads until that is committed, and not after it.
fn a_removed_leader_steps_down() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    let without = Change::SetVoters([NodeId(2), NodeId(3)].into());
    play.step(1, Input::Change(1, without))?;
    play.cluster.synced(1)?;
    // 2 alone is no majority of the new half.
    play.settle(&[1, 2])?;
    if !play.leads(1) || !play.cluster.core(1).membership().is_joint() {
        return Err("it left the joint membership by one half".into());
    }
    // What 3 was sent is lost; heartbeats find out.
    for _ in 0..6 {
        play.step(1, Input::Tick)?;
        play.settle(&[1, 2, 3])?;
    }
    if play.leads(1) {
        return Err("it still leads".into());
    }
    play.elect(2, &[3])?;
    play.settle(&[2, 3])
}

/// Thesis 4.1 and its correction of 2015: leaders of consecutive terms each change one member, and their majorities need not meet. Here
/// no change begins before the term has committed an entry, and majorities of both memberships decide.
fn two_changes_by_leaders_of_consecutive_terms() -> Outcome {
    let mut play = Play::led(4, Options::default())?;
    let voters = |ids: &[u64]| Change::SetVoters(ids.iter().map(|n| NodeId(*n)).collect());
    // 1 adds 5, and only 5 hears of it.
    play.step(1, Input::Change(1, voters(&[1, 2, 3, 4, 5])))?;
    play.settle(&[1, 5])?;
    // 2 leads without it and removes 1; 3 alone hears of that.
    play.elect(2, &[3, 4])?;
    play.step(2, Input::Change(2, voters(&[2, 3, 4])))?;
    play.settle(&[2, 3])?;
    play.cluster.power_cut(1);
    play.cluster.start(1);
    // 1 leads by 4 and 5, which know nothing of it.
    match play.elect(1, &[4, 5]) {
        Ok(()) => Err("1 was elected by a majority of its own membership alone".into()),
        Err(error) if error.starts_with(SET_UP) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Thesis 4.2.1: a new voter listens first; nobody waits for it, and it votes when it has caught up.
fn a_new_voter_catches_up_first() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.propose(1, 20)?;
    play.settle(&[1, 2, 3])?;
    let add = Input::AddVoter(1, NodeId(4), Bytes::new());
    play.step(1, add)?;
    play.settle(&[1, 2])?;
    let votes = |play: &Play| play.cluster.core(1).membership().is_voter(NodeId(4));
    claim(!votes(&play), "it votes and has nothing")?;
    // It answers, and has nothing yet.
    for _ in 0..2 {
        play.step(1, Input::Tick)?;
    }
    play.deliver(1, 4, |m| matches!(m.body, Body::Heartbeat { .. }))?;
    play.deliver(4, 1, |m| matches!(m.body, Body::Heard { .. }))?;
    claim(!votes(&play), "it votes because it answered")?;
    // Two of three go on, whoever listens.
    play.commits(1, &[1, 2])?;
    play.run(40, |_, _| true)?;
    let membership = play.cluster.core(1).membership();
    claim(
        votes(&play) && !membership.is_joint(),
        "it never came to vote",
    )?;
    let same = play.cluster.core(4).last() == play.cluster.core(1).last();
    claim(same, "it votes and is behind")
}

/// Section 6: a joint membership is left by whoever leads next (LE4), and until then both majorities are needed.
fn a_joint_membership_is_left_by_the_next_leader() -> Outcome {
    let mut play = Play::led(5, Options::default())?;
    let to = Change::SetVoters([1, 2, 3].map(NodeId).into());
    play.step(1, Input::Change(1, to))?;
    // All have the joint one, and nobody's acknowledgement comes back.
    for id in 1..=5 {
        play.cluster.synced(id)?;
        play.deliver(1, id, |_| true)?;
        play.cluster.synced(id)?;
    }
    play.drop_mail();
    play.cluster.power_cut(1);
    let joint = |id| play.cluster.core(id).membership().is_joint();
    claim(
        (2..=5).all(joint),
        &format!("{SET_UP} not all have the joint membership"),
    )?;
    play.run(80, |_, _| true)?;
    let leader = play.leader().ok_or("nobody leads")?;
    let membership = play.cluster.core(leader).membership().clone();
    let left = !membership.is_joint() && membership.voters == [1, 2, 3].map(NodeId).into();
    claim(left, &format!("{membership:?}"))?;
    play.run(20, |_, _| true)?;
    play.commits(leader, &[2, 3])
}

/// Thesis 4.2.3: who was removed and does not know it disturbs nobody.
fn a_removed_member_disturbs_nobody() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    let without = Change::SetVoters([NodeId(1), NodeId(2)].into());
    play.step(1, Input::Change(1, without))?;
    play.settle(&[1, 2])?;
    play.run(4, |_, to| to != 3)?;
    claim(
        !play.cluster.core(1).membership().contains(NodeId(3)),
        "it was not removed",
    )?;
    let term = play.cluster.core(1).term();
    play.run(100, |_, to| to != 3)?;
    play.run(100, |_, _| true)?;
    claim(
        play.leads(1) && play.cluster.core(1).term() == term,
        "the leader was disturbed",
    )
}

/// Section 6: one change at a time; the second is refused while the first is not committed.
fn a_change_while_another_is_under_way_is_refused() -> Outcome {
    let mut play = Play::led(5, Options::default())?;
    let to = |ids: [u64; 4]| Change::SetVoters(ids.map(NodeId).into());
    play.step(1, Input::Change(1, to([1, 2, 3, 4])))?;
    play.cluster.synced(1)?;
    let last = play.cluster.core(1).last();
    play.step(1, Input::Change(2, to([1, 2, 4, 5])))?;
    claim(play.cluster.core(1).last() == last, "it was appended")?;
    play.settle(&[1, 2, 3, 4, 5])?;
    play.step(1, Input::Change(3, to([1, 2, 4, 5])))?;
    claim(
        play.cluster.core(1).last() != last,
        "it is refused for ever",
    )
}

/// Who votes is decided by the candidate's log, and so who may campaign (thesis 4.2.2): the one voter in whose log the learner is a voter needs its vote,
/// which the learner refuses to the older log.
fn a_learner_whose_log_is_the_newest_campaigns() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.step(
        1,
        Input::Change(1, Change::AddLearner(NodeId(4), Bytes::new())),
    )?;
    play.run(4, |_, _| true)?;
    // 2 makes it a voter, and 2 alone knows.
    play.elect(2, &[1, 3])?;
    play.settle(&[1, 2, 3, 4])?;
    let with = Change::SetVoters([1, 2, 3, 4].map(NodeId).into());
    play.step(2, Input::Change(2, with))?;
    play.cluster.synced(2)?;
    play.drop_mail();
    // 1 leads by 3, and goes after the learner alone heard of its term.
    play.elect(1, &[3])?;
    play.settle(&[1, 4])?;
    play.cluster.power_cut(1);
    play.drop_mail();
    let core = |id| play.cluster.core(id);
    let newest = core(4).last() > core(2).last() && core(2).last() > core(3).last();
    let voters = [2, 3, 4].map(|id| core(id).membership().voters.len());
    claim(
        newest && voters == [3 + 1, 3, 3],
        &format!("{SET_UP} {newest} {voters:?}"),
    )?;
    play.run(400, |_, _| true)?;
    let leader = play.leader().ok_or("nobody leads")?;
    claim(leader != 4, "who does not vote still leads")?;
    play.commits(leader, &[2, 3])?;
    let voters = &play.cluster.core(leader).membership().voters;
    claim(
        *voters == [1, 2, 3].map(NodeId).into(),
        &format!("what was not committed is in force: {voters:?}"),
    )
}

/// 6.4 of the thesis: a read waits for answers while those who were asked cease to be members: the one that is left answers it.
fn a_read_waits_while_one_voter_is_left() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.step(1, Input::Change(1, Change::SetVoters([NodeId(1)].into())))?;
    play.cluster.synced(1)?;
    // Its heartbeats wait.
    play.cluster.ask(1)?;
    play.deliver(1, 2, |m| matches!(m.body, Body::Append { .. }))?;
    play.cluster.synced(2)?;
    play.deliver(2, 1, |m| matches!(m.body, Body::Appended { .. }))?;
    play.run(30, |_, _| true)?;
    play.cluster.ask(1)?;
    let alone = play.cluster.core(1).membership().voters.len() == 1;
    claim(alone && play.leads(1), &format!("{SET_UP} it is not alone"))?;
    claim(
        play.cluster.unanswered() == 0,
        "reads are not answered any more",
    )
}

/// All, by name.
pub(super) const ALL: &[(&str, Scenario)] = &[
    ("a membership is rolled back", a_membership_is_rolled_back),
    ("a removed leader steps down", a_removed_leader_steps_down),
    (
        "two changes by leaders of consecutive terms",
        two_changes_by_leaders_of_consecutive_terms,
    ),
    ("a new voter catches up first", a_new_voter_catches_up_first),
    (
        "a joint membership is left by the next leader",
        a_joint_membership_is_left_by_the_next_leader,
    ),
    (
        "a removed member disturbs nobody",
        a_removed_member_disturbs_nobody,
    ),
    (
        "a change while another is under way is refused",
        a_change_while_another_is_under_way_is_refused,
    ),
    (
        "a learner whose log is the newest campaigns",
        a_learner_whose_log_is_the_newest_campaigns,
    ),
    (
        "a read waits while one voter is left",
        a_read_waits_while_one_voter_is_left,
    ),
];
