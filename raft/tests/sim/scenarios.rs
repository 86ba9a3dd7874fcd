//! Short scenarios from the papers, for traps that chance walks into too rarely. Each holds in a good build, whatever is delivered; the
//! broken build that it is named with falls into it.

use super::cluster::Cluster;
use bytes::Bytes;
use esker_raft::core::*;

type Outcome = Result<(), String>;

/// Begins what is wrong with a scenario, and not with the build.
pub(crate) const SET_UP: &str = "the scenario does not get there:";

/// A cluster whose mail is delivered by hand.
struct Play {
    cluster: Cluster,
}

impl Play {
    fn new(voters: u64, options: Options) -> Play {
        let cluster = Cluster::scripted(voters, options);
        Play { cluster }
    }

    fn mail(&mut self) -> &mut Vec<(u64, u64, Message)> {
        self.cluster.script.as_mut().expect("it is scripted")
    }

    fn drop_mail(&mut self) {
        self.mail().clear();
    }

    /// Delivers the messages from one to another that `which` takes; what they cause waits.
    fn deliver(&mut self, from: u64, to: u64, which: impl Fn(&Message) -> bool) -> Outcome {
        let (now, later) = std::mem::take(self.mail())
            .into_iter()
            .partition(|(f, t, m)| *f == from && *t == to && which(m));
        *self.mail() = later;
        for (from, to, message) in now {
            let from = NodeId(from);
            self.step(to, Input::Message { from, message })?;
        }
        Ok(())
    }

    fn step(&mut self, id: u64, input: Input) -> Outcome {
        self.cluster.step(id, input)
    }

    /// Everything among these is delivered and synced, until nothing is left; what goes to others is lost.
    fn settle(&mut self, among: &[u64]) -> Outcome {
        for _ in 0..200 {
            for id in among {
                self.cluster.synced(*id)?;
            }
            let mail = std::mem::take(self.mail());
            if mail.is_empty() {
                return Ok(());
            }
            for (from, to, message) in mail {
                if among.contains(&from) && among.contains(&to) {
                    let from = NodeId(from);
                    self.step(to, Input::Message { from, message })?;
                }
            }
        }
        Err(format!("{SET_UP} it does not settle"))
    }

    /// So long that nobody is loyal to a leader any more.
    fn forget_leader(&mut self, ids: &[u64]) -> Outcome {
        for id in ids {
            for _ in 0..Options::default().election_ticks {
                self.step(*id, Input::Tick)?;
            }
        }
        self.drop_mail();
        Ok(())
    }

    fn leads(&self, id: u64) -> bool {
        self.cluster.core(id).role() == RoleName::Leader
    }

    /// `id` is elected by `by`, and all they say to each other is lost from then on.
    fn elect(&mut self, id: u64, by: &[u64]) -> Outcome {
        self.forget_leader(by)?;
        for at in 0..6 {
            if at % 3 == 0 {
                // The first may do no more than hear of a newer term.
                self.step(id, Input::Campaign)?;
            }
            self.cluster.synced(id)?;
            for peer in by {
                let asks = |m: &Message| matches!(m.body, Body::PreVote { .. } | Body::Vote { .. });
                self.deliver(id, *peer, asks)?;
                self.cluster.synced(*peer)?;
                let answers =
                    |m: &Message| matches!(m.body, Body::PreVoted { .. } | Body::Voted { .. });
                self.deliver(*peer, id, answers)?;
            }
            if self.leads(id) {
                return Ok(());
            }
        }
        Err(format!(
            "{SET_UP} {id} was not elected: {}",
            self.cluster.core(id).explain()
        ))
    }

    fn propose(&mut self, id: u64, commands: u64) -> Outcome {
        let commands = (0..commands)
            .map(|n| (n, Bytes::from(format!("{id}.{n}"))))
            .collect();
        self.step(id, Input::Propose(commands))
    }
}

fn one_by_one() -> Options {
    Options {
        append_bytes_max: 1,
        ..Options::default()
    }
}

fn lease() -> Options {
    Options {
        lease: Some(Lease {
            tick_micros: 10_000,
            drift_per_mille: 120,
        }),
        ..Options::default()
    }
}

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

/// C2: a member votes in term 2, its disk loses that, and it is back in term 1, whose leader knows nothing of the other.
fn a_vote_is_lost_with_its_term() -> Outcome {
    let mut play = Play::new(3, Options::default());
    play.elect(1, &[2, 3])?;
    play.settle(&[1, 2, 3])?;
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
    let mut play = Play::new(3, Options::default());
    play.elect(1, &[2, 3])?;
    play.settle(&[1, 2, 3])?;
    play.propose(1, 1)?;
    play.cluster.synced(1)?;
    play.elect(2, &[3])?;
    play.settle(&[2, 3])?;
    for _ in 0..2 {
        play.step(2, Input::Tick)?;
    }
    play.deliver(2, 1, |m| matches!(m.body, Body::Heartbeat { .. }))
}

/// Thesis 6.4.1: somebody may be elected in spite of the lease as soon as the order to campaign has left.
fn a_read_under_the_lease_after_a_transfer() -> Outcome {
    let mut play = Play::new(3, lease());
    play.elect(1, &[2, 3])?;
    play.settle(&[1, 2, 3])?;
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
    let mut play = Play::new(3, lease());
    play.elect(1, &[2, 3])?;
    play.settle(&[1, 2, 3])?;
    for _ in 0..2 {
        play.step(1, Input::Tick)?;
    }
    play.deliver(1, 2, |_| true)?;
    let late = std::mem::take(play.mail());
    play.cluster.pass(300_000);
    play.elect(2, &[3])?;
    play.settle(&[2, 3])?;
    play.propose(2, 1)?;
    play.settle(&[2, 3])?;
    *play.mail() = late;
    play.deliver(2, 1, |m| matches!(m.body, Body::Heard { .. }))?;
    play.cluster.ask(1)
}

/// Thesis 9.6: who comes back from a partition, with a shorter log, disturbs nobody and wins nothing.
fn a_node_back_from_a_partition() -> Outcome {
    let mut play = Play::new(3, Options::default());
    play.elect(1, &[2, 3])?;
    play.settle(&[1, 2, 3])?;
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

/// Section 6: a membership that is not committed goes with the entry that brought it, and the one before it decides again.
fn a_membership_is_rolled_back() -> Outcome {
    let mut play = Play::new(3, Options::default());
    play.elect(1, &[2, 3])?;
    play.settle(&[1, 2, 3])?;
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
    let mut play = Play::new(3, Options::default());
    play.elect(1, &[2, 3])?;
    play.settle(&[1, 2, 3])?;
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

/// Section 7: a snapshot ends inside of a suffix that conflicts with it; nothing of the suffix is left.
fn a_snapshot_inside_a_conflicting_suffix() -> Outcome {
    let mut play = Play::new(3, Options::default());
    play.elect(1, &[2, 3])?;
    play.settle(&[1, 2, 3])?;
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

/// Thesis 6.4: the answer to a question of before is no answer to the one of now.
fn a_late_answer_to_a_follower_that_reads() -> Outcome {
    let mut play = Play::new(3, Options::default());
    play.elect(1, &[2, 3])?;
    play.settle(&[1, 2, 3])?;
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
    let mut play = Play::new(3, Options::default());
    play.elect(1, &[2, 3])?;
    play.settle(&[1, 2, 3])?;
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

type Scenario = fn() -> Outcome;

/// All, by name.
pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("a node back from a partition", a_node_back_from_a_partition),
    ("a membership is rolled back", a_membership_is_rolled_back),
    ("a removed leader steps down", a_removed_leader_steps_down),
    (
        "a snapshot inside a conflicting suffix",
        a_snapshot_inside_a_conflicting_suffix,
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
        "a late answer to a heartbeat, and the lease",
        a_late_answer_to_a_heartbeat_and_the_lease,
    ),
    ("figure 8", figure_8),
    ("a vote before a power cut", a_vote_before_a_power_cut),
    ("a vote is lost with its term", a_vote_is_lost_with_its_term),
    (
        "a vote arrives a campaign late",
        a_vote_arrives_a_campaign_late,
    ),
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
    (
        "a read under the lease after a transfer",
        a_read_under_the_lease_after_a_transfer,
    ),
];
