//! Elections (5.2, 5.4.1; thesis 3.8, 9.6).

use super::{Outcome, Play, SET_UP, Scenario, claim, lease};
use bytes::Bytes;
use esker_raft::core::*;

/// C2: a vote is given, the power goes, and the node votes again (5.2; thesis 3.8).
fn a_vote_before_a_power_cut() -> Outcome {
    let mut play = Play::new(3, Options::default());
    play.forget_leader(&[1, 2, 3])?;
    play.step(1, Input::Campaign)?;
    play.deliver(1, 3, |_| true)?;
    play.deliver(3, 1, |_| true)?;
    play.cluster.synced(1)?;
    play.deliver(1, 3, |_| true)?;
    // 3 has voted, and has not synced it.
    play.deliver(3, 1, |_| true)?;
    play.cluster.power_cut(3);
    play.cluster.start(3);
    play.drop_mail();
    play.elect(2, &[3])
}

/// EL8: a lone voter asks nobody; it leads in a term that the power takes, and a learner has what it appended there.
fn a_lone_voter_leads_before_its_vote_is_synced() -> Outcome {
    let mut play = Play::led(1, Options::default())?;
    let learner = Change::AddLearner(NodeId(2), Bytes::new());
    play.step(1, Input::Change(1, learner))?;
    play.run(4, |_, _| true)?;
    play.cluster.power_cut(1);
    play.cluster.start(1);
    play.drop_mail();
    let commands = |what: &'static str| Input::Propose(vec![(7, Bytes::from(what))]);
    play.step(1, Input::Campaign)?;
    play.step(1, commands("before"))?;
    for _ in 0..3 {
        play.deliver(1, 2, |_| true)?;
        play.cluster.synced(2)?;
        play.deliver(2, 1, |_| true)?;
    }
    play.cluster.power_cut(1);
    play.cluster.start(1);
    play.drop_mail();
    play.elect(1, &[])?;
    play.step(1, commands("after"))?;
    play.settle(&[1, 2])?;
    let (own, learned) = (play.cluster.core(1).last(), play.cluster.core(2).last());
    claim(own == learned, "the learner does not follow")
}

/// EL6: every sync takes longer than an election timeout, and the first campaign wins all the same.
fn disks_are_slower_than_a_campaign() -> Outcome {
    let mut play = Play::new(3, Options::default());
    play.forget_leader(&[1, 2, 3])?;
    play.step(1, Input::Campaign)?;
    play.deliver(1, 3, |_| true)?;
    play.deliver(3, 1, |_| true)?;
    let term = play.cluster.core(1).term();
    let wait = |play: &mut Play, node: u64| -> Outcome {
        for _ in 0..3 * Options::default().election_ticks {
            play.step(node, Input::Tick)?;
        }
        claim(
            play.cluster.core(node).role() != RoleName::PreCandidate,
            "it begins anew before it was heard",
        )
    };
    wait(&mut play, 1)?;
    play.cluster.synced(1)?;
    play.deliver(1, 3, |_| true)?;
    wait(&mut play, 3)?;
    play.cluster.synced(3)?;
    play.deliver(3, 1, |_| true)?;
    claim(
        play.cluster.core(1).role() == RoleName::Leader && play.cluster.core(1).term() == term,
        "the vote came, and it does not lead",
    )
}

/// C2: a member votes in term 2, its disk loses that, and it is back in term 1, whose leader knows nothing of the other.
fn a_vote_is_lost_with_its_term() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    let before = play.cluster.core(1).committed();
    let entry = |m: &Message| matches!(m.body, Body::Append { .. } | Body::Appended { .. });
    play.elect(2, &[3])?;
    play.cluster.lose_vote(3);
    play.cluster.start(3);
    play.drop_mail();
    play.propose(1, 1)?;
    play.cluster.synced(1)?;
    play.deliver(1, 3, entry)?;
    play.cluster.synced(3)?;
    play.deliver(3, 1, entry)?;
    match play.cluster.core(1).committed() {
        now if now == before => Ok(()),
        _ => Err(
            "leader completeness: 2 leads in a newer term and has not what 1 has committed".into(),
        ),
    }
}

/// C1, C2: what the leader knows of a member's log is gone with its newest frames, and an older leader's entries are in their place.
fn a_heartbeat_to_one_that_lost_its_term() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.propose(1, 3)?;
    let late = std::mem::take(play.mail());
    play.elect(2, &[3])?;
    play.settle(&[2, 3])?;
    play.cluster.lose_vote(3);
    play.cluster.start(3);
    *play.mail() = late;
    play.deliver(1, 3, |_| true)?;
    play.cluster.synced(3)?;
    for _ in 0..2 {
        play.step(2, Input::Tick)?;
    }
    play.deliver(2, 3, |m| matches!(m.body, Body::Heartbeat { .. }))
}

/// 5.2: a vote that arrives in the candidate's next campaign is no vote in that.
fn a_vote_arrives_a_campaign_late() -> Outcome {
    let mut play = Play::new(3, Options::default());
    play.forget_leader(&[1, 2, 3])?;
    play.step(1, Input::Campaign)?;
    play.deliver(1, 3, |_| true)?;
    play.deliver(3, 1, |_| true)?;
    play.cluster.synced(1)?;
    play.deliver(1, 3, |_| true)?;
    play.cluster.synced(3)?;
    let late = std::mem::take(play.mail());
    // Nobody was elected. 1 campaigns again; 2 would vote for it, but hears no more of it.
    play.step(1, Input::Campaign)?;
    play.deliver(1, 2, |_| true)?;
    play.deliver(2, 1, |_| true)?;
    play.cluster.synced(1)?;
    play.drop_mail();
    // 2 is elected by 3 in that term.
    play.elect(2, &[3])?;
    *play.mail() = late;
    play.deliver(3, 1, |_| true)
}

/// Thesis 9.6: who comes back from a partition, with a shorter log, disturbs nobody and wins nothing.
fn a_node_back_from_a_partition() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.propose(1, 3)?;
    play.settle(&[1, 2])?;
    let term = play.cluster.core(1).term();
    // 3 alone asks for votes again and again.
    for _ in 0..5 {
        play.forget_leader(&[3])?;
        play.step(3, Input::Campaign)?;
    }
    if play.cluster.core(3).term() != term {
        return Err("the term of a node that nobody hears grew".into());
    }
    // It is back: its question reaches all, also when they have forgotten their leader.
    play.settle(&[2, 3])?;
    play.forget_leader(&[2])?;
    play.step(3, Input::Campaign)?;
    play.settle(&[2, 3])?;
    if play.leads(3) || play.cluster.core(2).term() != term {
        return Err("a shorter log won, or disturbed the others".into());
    }
    play.step(1, Input::Tick)?;
    play.step(1, Input::Tick)?;
    play.settle(&[1, 2, 3])?;
    match play.leads(1) && play.cluster.core(3).leader() == Some(NodeId(1)) {
        true => Ok(()),
        false => Err("the leader was disturbed".into()),
    }
}

/// 5.2: a candidate that did not win tries again, and a single node leads itself.
fn a_candidate_that_did_not_win_tries_again() -> Outcome {
    let mut play = Play::new(1, Options::default());
    play.run(30, |_, _| true)?;
    claim(play.leads(1), "a single node does not lead")?;
    play.commits(1, &[1])?;
    let mut play = Play::new(3, Options::default());
    play.run(100, |_, _| false)?;
    claim(play.leader().is_none(), "somebody leads alone")?;
    play.run(60, |_, _| true)?;
    let leader = play.leader().ok_or("nobody tried again")?;
    play.commits(leader, &[1, 2, 3])
}

/// 5.2: votes are split; randomised timeouts find a leader in a later term, and one only.
fn votes_are_split() -> Outcome {
    let mut play = Play::new(4, Options::default());
    play.forget_leader(&[1, 2, 3, 4])?;
    for one in [1, 2] {
        play.step(one, Input::Campaign)?;
    }
    // Pre-votes are no promise: both get them all.
    for one in [1, 2] {
        for peer in [3, 4] {
            play.deliver(one, peer, |m| matches!(m.body, Body::PreVote { .. }))?;
            play.deliver(peer, one, |m| matches!(m.body, Body::PreVoted { .. }))?;
        }
    }
    for (one, other) in [(1, 3), (2, 4)] {
        play.cluster.synced(one)?;
        play.deliver(one, other, |m| matches!(m.body, Body::Vote { .. }))?;
        play.cluster.synced(other)?;
    }
    play.settle(&[1, 2, 3, 4])?;
    claim(play.leader().is_none(), "two of four elected somebody")?;
    play.run(60, |_, _| true)?;
    let leads = (1..=4).filter(|id| play.leads(*id)).count();
    claim(leads == 1, "the split was not ended")
}

/// 5.2: two whose timeouts end at once ask each other first, and do not split the votes.
fn two_campaign_at_once() -> Outcome {
    let mut play = Play::new(3, Options::default());
    play.forget_leader(&[1, 2, 3])?;
    for one in [1, 3] {
        play.step(one, Input::Campaign)?;
    }
    let term = play.cluster.core(1).term();
    play.settle(&[1, 3])?;
    claim(play.leads(3), "neither leads")?;
    claim(
        play.cluster.core(3).term() == Term(term.0 + 1),
        "it took two campaigns",
    )
}

/// 5.2, C2: one vote per term, also over a power cut; to be asked again by the same candidate changes nothing.
fn a_vote_is_given_once_and_remembered() -> Outcome {
    let mut play = Play::new(3, Options::default());
    let message = |body| Message {
        term: Term(5),
        body,
    };
    let last = LogId::default();
    let mut granted = Vec::new();
    for (from, cut) in [(1, false), (1, true), (2, true), (1, false)] {
        play.forget_leader(&[3])?;
        let from = NodeId(from);
        let vote = message(Body::Vote {
            last,
            transfer: false,
        });
        let input = Input::Message {
            from,
            message: vote,
        };
        play.step(3, input)?;
        play.cluster.synced(3)?;
        let yes = message(Body::Voted { granted: true });
        granted.push(play.mail().contains(&(3, from.0, yes)));
        if cut {
            play.cluster.power_cut(3);
            play.cluster.start(3);
        }
    }
    claim(
        granted == [true, true, false, true],
        "not one vote, or forgotten",
    )
}

/// 5.4.1: the later term decides which log is newer, not the longer log.
fn a_longer_log_of_an_older_term_loses() -> Outcome {
    let mut play = Play::new(3, Options::default());
    let hard = HardState {
        term: Term(3),
        vote: None,
    };
    play.cluster.restore(1, hard, &[1, 1, 1, 1, 1, 1]);
    play.cluster.restore(2, hard, &[1, 3]);
    play.cluster.restore(3, hard, &[1, 3]);
    play.forget_leader(&[1, 2, 3])?;
    for _ in 0..3 {
        play.step(1, Input::Campaign)?;
        play.settle(&[1, 2, 3])?;
        play.forget_leader(&[2, 3])?;
    }
    claim(!play.leads(1), "length won over the term")?;
    play.elect(2, &[1])?;
    play.settle(&[1, 2, 3])?;
    let same = play.cluster.core(1).last() == play.cluster.core(2).last();
    claim(same, "the longer log did not give way")
}

/// Thesis 9.6: a node with a higher term and a shorter log never wins; the others take its term over and go on, and it with them.
fn a_higher_term_with_a_shorter_log() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.propose(1, 3)?;
    play.settle(&[1, 2])?;
    play.cluster.power_cut(3);
    let hard = HardState {
        term: Term(50),
        vote: Some(NodeId(3)),
    };
    play.cluster.restore(3, hard, &[1]);
    let committed = play.cluster.committed();
    play.run(80, |_, _| true)?;
    let leader = play.leader().ok_or("nobody leads any more")?;
    claim(leader != 3, "the shorter log won")?;
    let term = play.cluster.core(leader).term();
    claim(term > Term(50), "the higher term was never heard of")?;
    play.commits(leader, &[1, 2, 3])?;
    let core = play.cluster.core(3);
    let follows = core.leader() == Some(NodeId(leader)) && core.committed().0 > committed;
    claim(follows, "it does not follow")
}

/// Thesis 6.2: a leader that hears nobody gives up within an election timeout, also when all hear it; another is elected, which it follows.
fn a_leader_that_hears_nobody_gives_up() -> Outcome {
    let mut play = Play::led(5, Options::default())?;
    let deaf = |_: u64, to: u64| to != 1;
    play.run(2 * Options::default().election_ticks, deaf)?;
    claim(!play.leads(1), "it goes on, and nobody else can")?;
    play.run(60, deaf)?;
    let leader = play.leader().ok_or("nobody else was elected")?;
    play.commits(leader, &[2, 3, 4, 5])?;
    play.run(20, |_, _| true)?;
    let follows = play.cluster.core(1).leader() == play.leader().map(NodeId);
    claim(follows, "it does not follow")
}

/// Thesis 6.2: a leader that nobody hears is replaced, and steps down when it hears of that.
fn a_leader_that_nobody_hears_is_replaced() -> Outcome {
    let mut play = Play::led(5, Options::default())?;
    play.run(80, |from, _| from != 1)?;
    let leader = play.leader().ok_or("nobody leads")?;
    claim(leader != 1 && !play.leads(1), "1 still leads")?;
    play.commits(leader, &[2, 3, 4, 5])
}

/// Thesis 4.2.3, 9.6: a follower that its leader's messages don't reach asks again and again, and disturbs nobody; when they do it follows.
fn a_one_way_link_to_a_follower_disturbs_nobody() -> Outcome {
    let mut play = Play::led(5, Options::default())?;
    let term = play.cluster.core(1).term();
    play.run(100, |from, to| (from, to) != (1, 5))?;
    claim(
        play.leads(1) && play.cluster.core(1).term() == term,
        "it was disturbed",
    )?;
    play.propose(1, 1)?;
    play.run(5, |_, _| true)?;
    let same = play.cluster.core(5).last() == play.cluster.core(1).last();
    claim(same, "it does not follow")
}

/// A bridge: two groups that only node 3 connects. Nobody is disturbed while the leader has a quorum; then only 3 can lead, and does.
fn a_bridge_between_two_groups() -> Outcome {
    let mut play = Play::led(5, Options::default())?;
    let term = play.cluster.core(1).term();
    let bridge = |from: u64, to: u64| from == 3 || to == 3 || (from < 3) == (to < 3);
    play.run(100, bridge)?;
    claim(
        play.leads(1) && play.cluster.core(1).term() == term,
        "the leader was disturbed",
    )?;
    play.propose(1, 2)?;
    play.run(5, bridge)?;
    claim(
        play.cluster.committed() >= 3,
        "nothing is committed by 1, 2 and 3",
    )?;
    // Of the first group nobody hears the other: 3 alone reaches a quorum.
    let alone = |from: u64, to: u64| (from == 3 || to == 3) && from != to;
    play.run(150, alone)?;
    claim(play.leader() == Some(3), "3 does not lead")?;
    play.propose(3, 1)?;
    play.run(5, alone)?;
    claim(
        play.cluster.committed() == play.cluster.core(3).last().index.0,
        "3 commits nothing",
    )
}

/// Thesis 4.2.3: a candidate that asked nobody beforehand, with any term, gets no vote from who hears a leader, and no term.
fn a_vote_asked_of_loyal_followers() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    let term = play.cluster.core(1).term();
    let last = LogId {
        term: Term(40),
        index: Index(99),
    };
    for to in [1, 2] {
        let body = Body::Vote {
            last,
            transfer: false,
        };
        let message = Message {
            term: Term(40),
            body,
        };
        let from = NodeId(3);
        play.step(to, Input::Message { from, message })?;
    }
    play.settle(&[1, 2, 3])?;
    let same = (1..=3).all(|id| play.cluster.core(id).term() == term);
    claim(same && play.leads(1), "the leader was disturbed")
}

/// C3: a restarted node may have promised a leader its loyalty: it votes only after a whole election timeout.
fn a_restarted_node_waits_before_it_votes() -> Outcome {
    let mut play = Play::led(3, lease())?;
    for _ in 0..2 {
        play.step(1, Input::Tick)?;
    }
    play.deliver(1, 3, |_| true)?;
    play.deliver(3, 1, |_| true)?;
    play.drop_mail();
    play.cluster.power_cut(3);
    play.cluster.start(3);
    // 2 has forgotten the leader, 3 does not know it; the lease holds.
    for _ in 0..Options::default().election_ticks {
        play.step(2, Input::Tick)?;
    }
    play.drop_mail();
    for _ in 0..3 {
        play.step(2, Input::Campaign)?;
        for _ in 0..3 {
            play.settle(&[2, 3])?;
        }
    }
    if play.leads(2) {
        play.propose(2, 1)?;
        play.settle(&[2, 3])?;
    }
    play.cluster.ask(1)?;
    claim(!play.leads(2), "it voted at once")
}

/// C2: entries that were acknowledged are lost to bit rot: no vote before they are back, so what was committed with them stays.
fn a_node_that_lost_entries_votes_for_nobody() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.propose(1, 3)?;
    play.settle(&[1, 3])?;
    play.cluster.power_cut(1);
    play.cluster.lose_entries(3, Index(1));
    play.cluster.start(3);
    let committed = play.cluster.committed();
    play.run(60, |_, _| true)?;
    claim(play.leader().is_none(), "it voted, or campaigned")?;
    // With 1 back it fetches the range, and has a voice again.
    play.cluster.start(1);
    play.run(60, |_, _| true)?;
    claim(play.leader() == Some(1), "1 was not elected")?;
    claim(
        play.cluster.core(3).committed().0 > committed,
        "3 is behind",
    )?;
    claim(!play.cluster.core(3).abstains(), "it abstains for ever")
}

/// C2: a lost vote may have been given: no vote any more, until it is emptied, removed and added anew.
fn a_node_that_lost_its_vote_votes_for_nobody() -> Outcome {
    let mut play = Play::new(3, Options::default());
    play.elect(1, &[3])?;
    play.cluster.lose_vote(3);
    play.cluster.start(3);
    // In the same term 2 would get it a second time.
    let term = play.cluster.core(1).term();
    play.forget_leader(&[3])?;
    let last = play.cluster.core(3).last();
    let body = Body::Vote {
        last,
        transfer: false,
    };
    let message = Message { term, body };
    let from = NodeId(2);
    play.step(3, Input::Message { from, message })?;
    play.cluster.synced(3)?;
    let voted = |m: &Message| matches!(m.body, Body::Voted { granted: true });
    claim(
        !play.mail().iter().any(|(f, _, m)| *f == 3 && voted(m)),
        "it votes",
    )?;
    // What the members say of its disk brings no vote back.
    play.step(3, Input::Stranger(false))?;
    claim(play.cluster.core(3).abstains(), "it knows its vote again")
}

/// 5.2, 5.4: the power goes everywhere at once; what was committed is there, and it goes on.
fn all_are_restarted_at_once() -> Outcome {
    let mut play = Play::led(5, Options::default())?;
    play.propose(1, 5)?;
    play.settle(&[1, 2, 4])?;
    for id in 1..=5 {
        play.cluster.power_cut(id);
    }
    for id in 1..=5 {
        play.cluster.start(id);
    }
    play.run(80, |_, _| true)?;
    let leader = play.leader().ok_or("nobody leads")?;
    play.commits(leader, &[1, 2, 3, 4, 5])
}

/// C2: entries that were acknowledged are lost, and nobody writes: the leader knows that they are there, so nothing of its own would send them again.
fn lost_entries_come_again_though_nobody_writes() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.propose(1, 3)?;
    play.settle(&[1, 2, 3])?;
    play.run(4, |_, _| true)?;
    play.cluster.lose_entries(3, Index(1));
    play.cluster.start(3);
    let written = play.cluster.core(1).last();
    play.run(60, |_, _| true)?;
    let (leads, last) = (play.leads(1), play.cluster.core(1).last());
    claim(leads && last == written, "it was not idle")?;
    claim(!play.cluster.core(3).abstains(), "it abstains for ever")
}

/// C2, FO4: the frame is lost that superseded entries of an older leader, so those stand there again, and the leader remembers what was acknowledged.
fn what_was_superseded_stands_there_again() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.elect(2, &[3])?;
    play.run(6, |_, _| true)?;
    // Alone with them.
    play.propose(2, 5)?;
    play.settle(&[2])?;
    play.elect(1, &[3])?;
    play.run(6, |_, _| true)?;
    play.propose(1, 4)?;
    play.run(6, |_, _| true)?;
    let found = play.cluster.unearth(2);
    claim(found, &format!("{SET_UP} nothing was superseded"))?;
    play.cluster.start(2);
    play.run(20, |_, _| true)?;
    claim(!play.cluster.core(2).abstains(), "it abstains for ever")
}

/// C2: a snapshot stands for what was lost once it is synced: the power goes before that.
fn a_snapshot_that_is_not_synced_makes_up_for_nothing() -> Outcome {
    let mut play = Play::led(3, Options::default())?;
    play.propose(1, 3)?;
    play.run(6, |_, _| true)?;
    play.cluster.lose_entries(2, Index(1));
    play.cluster.start(2);
    let leader = play.cluster.core(1);
    let (term, last) = (leader.term(), leader.last());
    claim(
        leader.committed() == last.index,
        &format!("{SET_UP} not all is committed"),
    )?;
    let membership = leader.membership_at(last.index).clone();
    let body = Body::Snapshot(SnapshotMeta { last, membership });
    let message = Message { term, body };
    let from = NodeId(1);
    play.step(2, Input::Message { from, message })?;
    claim(
        play.cluster.core(2).base() == last,
        &format!("{SET_UP} it took no snapshot"),
    )?;
    play.cluster.power_cut(2);
    play.cluster.start(2);
    claim(
        play.cluster.core(2).abstains(),
        "it votes, and its entries are lost",
    )?;
    play.run(20, |_, _| true)?;
    claim(!play.cluster.core(2).abstains(), "it abstains for ever")
}

/// All, by name.
pub(super) const ALL: &[(&str, Scenario)] = &[
    (
        "a snapshot that is not synced makes up for nothing",
        a_snapshot_that_is_not_synced_makes_up_for_nothing,
    ),
    (
        "a lone voter leads before its vote is synced",
        a_lone_voter_leads_before_its_vote_is_synced,
    ),
    (
        "a vote asked of loyal followers",
        a_vote_asked_of_loyal_followers,
    ),
    ("a vote before a power cut", a_vote_before_a_power_cut),
    (
        "disks are slower than a campaign",
        disks_are_slower_than_a_campaign,
    ),
    (
        "a vote arrives a campaign late",
        a_vote_arrives_a_campaign_late,
    ),
    (
        "a heartbeat to one that lost its term",
        a_heartbeat_to_one_that_lost_its_term,
    ),
    ("a vote is lost with its term", a_vote_is_lost_with_its_term),
    ("a node back from a partition", a_node_back_from_a_partition),
    (
        "a candidate that did not win tries again",
        a_candidate_that_did_not_win_tries_again,
    ),
    ("votes are split", votes_are_split),
    ("two campaign at once", two_campaign_at_once),
    (
        "a vote is given once, and remembered",
        a_vote_is_given_once_and_remembered,
    ),
    (
        "a longer log of an older term loses",
        a_longer_log_of_an_older_term_loses,
    ),
    (
        "a higher term with a shorter log",
        a_higher_term_with_a_shorter_log,
    ),
    (
        "a leader that hears nobody gives up",
        a_leader_that_hears_nobody_gives_up,
    ),
    (
        "a leader that nobody hears is replaced",
        a_leader_that_nobody_hears_is_replaced,
    ),
    (
        "a one-way link to a follower disturbs nobody",
        a_one_way_link_to_a_follower_disturbs_nobody,
    ),
    ("a bridge between two groups", a_bridge_between_two_groups),
    (
        "a restarted node waits before it votes",
        a_restarted_node_waits_before_it_votes,
    ),
    (
        "a node that lost entries votes for nobody",
        a_node_that_lost_entries_votes_for_nobody,
    ),
    (
        "a node that lost its vote votes for nobody",
        a_node_that_lost_its_vote_votes_for_nobody,
    ),
    ("all are restarted at once", all_are_restarted_at_once),
    (
        "lost entries come again though nobody writes",
        lost_entries_come_again_though_nobody_writes,
    ),
    (
        "what was superseded stands there again",
        what_was_superseded_stands_there_again,
    ),
];
