//! The runtime: real threads, with disks, state machines and a network in memory.

mod common;
mod failing;
mod recover;
mod slow_snapshot;
mod volatile;

use bytes::Bytes;
use common::{Cluster, LONG, eventually, options, put};
use esker_raft::core::{
    Abstain, HardState, Index, Membership, NodeId, RoleName, SnapshotMeta, Write,
};
use esker_raft::log::{LogReader, LogStore, MemoryDisk};
use esker_raft::runtime::*;
use slow_snapshot::{Gate, Gated};
use std::time::{Duration, Instant};

#[test]
fn a_single_node_commits_by_itself_and_grows_to_three_without_a_restart() {
    let mut cluster = Cluster::new(1, options());
    let leader = cluster.leader();
    let handle = cluster.handle(leader);
    assert_eq!(handle.propose("a=1").unwrap().payload, Bytes::new());
    assert_eq!(handle.propose("a=2").unwrap().payload, "1");
    for id in [2, 3] {
        cluster.add(id);
        eventually("the change before", || {
            handle.add_voter(NodeId(id), &Cluster::about(id)).ok()
        });
        eventually("a voter", || {
            let membership = handle.status()?.membership;
            (membership.voters.contains(&NodeId(id)) && !membership.is_joint()).then_some(())
        });
    }
    put(&cluster, 3, "b=3");
    cluster.agree();
    assert_eq!(cluster.members[&3].machine.get(b"a"), Some("2".into()));
}

/// RT1.
#[test]
fn a_follower_refuses_with_a_hint_or_forwards() {
    let cluster = Cluster::new(3, options());
    let leader = cluster.leader();
    let follower = leader % 3 + 1;
    let handle = cluster.handle(follower);
    eventually("the follower to know its leader", || handle.leader());
    match handle.propose("a=1") {
        Err(ProposeError::NotAppended { leader: hint, .. }) => {
            let hint = hint.expect("it knows who leads");
            assert_eq!(hint.node, NodeId(leader));
            assert_eq!(hint.client, format!("client-{leader}"));
        }
        other => panic!("{other:?}"),
    }
    assert!(handle.propose_anywhere("a=1").is_ok());
    cluster.agree();
}

/// DR4: its client is not kept waiting for a leader that is gone.
#[test]
fn what_was_forwarded_to_a_lost_leader_is_unknown_once_another_leads() {
    let patient = NodeOptions {
        request_timeout: 100 * LONG,
        ..options()
    };
    let mut cluster = Cluster::new(3, patient);
    let leader = cluster.leader();
    put(&cluster, leader, "a=1");
    let follower = cluster.handle(leader % 3 + 1);
    eventually("a follower that knows its leader", || {
        let known = follower.leader()?.node;
        (known == NodeId(leader)).then_some(())
    });
    // It hears its followers no more, so it answers nobody.
    for peer in (1..=3).filter(|id| *id != leader) {
        cluster.network.cut(NodeId(peer), NodeId(leader));
    }
    let submitted = follower.submit(Proposal {
        forward: true,
        ..Proposal::new("b=2")
    });
    cluster.stop(leader);
    let (tell, told) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || tell.send(submitted.wait()));
    let outcome = told.recv_timeout(LONG);
    assert!(
        matches!(outcome, Ok(Err(ProposeError::Unknown { .. }))),
        "{outcome:?}"
    );
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_follower_hears_of_its_leaders_new_address_within_the_term() {
    let cluster = Cluster::new(3, options());
    let leader = cluster.leader();
    let follower = leader % 3 + 1;
    let leading = cluster.handle(leader);
    eventually("a change of address", || {
        let membership = leading.status()?.membership;
        let mut about = About::decode(&membership.about[&NodeId(leader)]).ok()?;
        about.client = "elsewhere".into();
        leading.describe(NodeId(leader), &about).ok()
    });
    eventually("the follower to hear of it", || {
        let hint = cluster.handle(follower).leader()?;
        (hint.client == "elsewhere").then_some(())
    });
}

/// DR7: also of those who have never led, and of one that has another address now.
#[test]
fn the_cluster_knows_where_clients_reach_each_member() {
    let mut cluster = Cluster::new(
        3,
        NodeOptions {
            client: "here".into(),
            ..options()
        },
    );
    let known = |cluster: &Cluster, at: u64| {
        let membership = cluster.handle(at).status()?.membership;
        let client = |about| About::decode(about).map(|about| about.client);
        Some(
            membership
                .about
                .values()
                .filter_map(|about| client(about).ok())
                .collect::<Vec<_>>(),
        )
    };
    for at in 1..=3 {
        eventually("all addresses", || {
            known(&cluster, at).filter(|known| *known == ["here"; 3])
        });
    }
    let follower = cluster.leader() % 3 + 1;
    cluster.stop(follower);
    cluster.options.client = "there".into();
    cluster.start(follower);
    eventually("another address", || {
        let known = known(&cluster, follower)?;
        (known.iter().filter(|client| *client == "there").count() == 1).then_some(())
    });
}

/// C3.
#[test]
fn c3_a_read_behind_a_barrier_sees_what_was_written_before_on_any_node() {
    let cluster = Cluster::new(3, options());
    let leader = cluster.leader();
    for n in 0..20 {
        put(&cluster, leader, &format!("a={n}"));
        for id in 1..=3 {
            eventually("a read", || cluster.handle(id).read_barrier(LONG).ok());
            assert_eq!(
                cluster.members[&id].machine.get(b"a"),
                Some(n.to_string().into())
            );
        }
    }
}

/// A planned transfer costs no failed write with a retrying client.
#[test]
fn leadership_is_handed_over_under_load_and_each_command_takes_effect_once() {
    let cluster = Cluster::new(3, options());
    let mut leader = cluster.leader();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|n| {
                let handle = cluster.handle(n % 3 + 1);
                scope.spawn(move || {
                    let mut session = eventually("a session", || handle.open_session(LONG).ok());
                    for _ in 0..100 {
                        session.execute("+count", LONG).expect("executed");
                    }
                })
            })
            .collect();
        for _ in 0..4 {
            let to = leader % 3 + 1;
            cluster.handle(leader).transfer(NodeId(to)).unwrap();
            eventually("a new leader", || {
                let status = cluster.handle(to).status()?;
                (status.role == RoleName::Leader).then_some(())
            });
            leader = to;
        }
        clients.into_iter().for_each(|c| c.join().unwrap());
    });
    cluster.agree();
    assert_eq!(
        cluster.members[&1].machine.get(b"count"),
        Some("400".into())
    );
}

/// C5, C2: power cuts of leaders under load, with lost and repeated packets; what was acknowledged is there, once.
#[test]
fn c5_commands_take_effect_once_whatever_is_cut_and_lost() {
    let mut cluster = Cluster::new(3, options());
    cluster.leader();
    cluster.network.disturb(50, 50);
    let handles: Vec<_> = (1..=3).map(|id| cluster.handle(id)).collect();
    let mut session = eventually("a session", || handles[0].open_session(LONG).ok());
    let mut done = 0u64;
    for round in 0..6 {
        for _ in 0..20 {
            let mut outcome = session.execute("+count", Duration::from_secs(2));
            while let Err(error) = outcome {
                assert!(!matches!(error, ProposeError::Session(_)), "{error}");
                // The node of the session may be down.
                let at = cluster.up()[0];
                session = session.at(&cluster.handle(at));
                outcome = session.retry("+count", Duration::from_secs(2));
            }
            done += 1;
        }
        let victim = cluster.leader();
        cluster.power_cut(victim);
        if round % 2 == 0 {
            cluster.start(victim);
        } else {
            let at = cluster.up()[0];
            session = session.at(&cluster.handle(at));
            session.execute("+count", LONG).expect("two are enough");
            done += 1;
            cluster.start(victim);
        }
        let at = cluster.up()[0];
        session = session.at(&cluster.handle(at));
    }
    cluster.network.disturb(0, 0);
    cluster.agree();
    let count = cluster.members[&1].machine.get(b"count");
    assert_eq!(count, Some(done.to_string().into()));
}

/// C5, RT1: an entry of `execute` stands on a follower. A later try of it that gets nowhere must not say that it is not executed.
#[test]
fn c5_a_retry_does_not_deny_what_an_earlier_call_may_have_done() {
    let cluster = Cluster::new(3, options());
    let leader = cluster.leader();
    let [taker, other] = [leader % 3 + 1, (leader + 1) % 3 + 1];
    put(&cluster, leader, "a=1");
    cluster.agree();
    let handle = cluster.handle(leader);
    let mut session = eventually("a session", || handle.open_session(100 * LONG).ok());
    let before = handle.status().unwrap().last.index;
    // The leader hears nobody, and one hears it.
    for (from, to) in [
        (taker, leader),
        (taker, other),
        (other, leader),
        (leader, other),
        (other, taker),
    ] {
        cluster.network.cut(NodeId(from), NodeId(to));
    }
    let short = Duration::from_millis(300);
    let first = session.execute("+count", short);
    assert!(
        matches!(first, Err(ProposeError::Unknown { .. })),
        "{first:?}"
    );
    let taken = cluster.handle(taker).status().unwrap().last.index;
    assert!(taken > before, "no follower has it");
    let elsewhere = cluster.handle(other);
    eventually("nobody leads there", || {
        elsewhere.leader().is_none().then_some(())
    });
    let mut session = session.at(&elsewhere);
    let again = session.retry("+count", short);
    assert!(
        matches!(again, Err(ProposeError::Unknown { .. })),
        "{again:?}"
    );
    cluster.network.heal();
    eventually("its reply", || {
        match session.retry("+count", Duration::from_secs(2)) {
            Ok(reply) => Some(reply),
            Err(ProposeError::Unknown { .. }) => None,
            other => panic!("{other:?}"),
        }
    });
    cluster.agree();
    let count = cluster.members[&taker].machine.get(b"count");
    assert_eq!(count, Some("1".into()));
}

/// C5: serials that got nowhere, in an outage, are no reason to refuse what comes behind them.
#[test]
fn c5_a_session_outlives_an_outage_in_which_many_commands_got_nowhere() {
    let mut cluster = Cluster::new(3, options());
    let leader = cluster.leader();
    let handle = cluster.handle(leader);
    let mut session = handle.open_session(Duration::from_secs(3600)).unwrap();
    session.execute("+n", LONG).unwrap();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    others.iter().for_each(|id| cluster.stop(*id));
    eventually("it gives up leading", || {
        handle.leader().is_none().then_some(())
    });
    // Three times as many as may be under way.
    for _ in 0..3 * 256 {
        assert!(session.execute("+n", Duration::ZERO).is_err());
    }
    others.iter().for_each(|id| cluster.start(*id));
    let reply = session.execute("+n", LONG).unwrap();
    assert_eq!(reply.payload, "1");
    cluster.agree();
}

/// RT1: nor does one after its session has expired.
#[test]
fn c5_a_retry_in_an_expired_session_does_not_deny_what_was_done() {
    let cluster = Cluster::new(1, options());
    let handle = cluster.handle(cluster.leader());
    let ttl = Duration::from_millis(500);
    let mut session = eventually("a session", || {
        let mut session = handle.open_session(ttl).ok()?;
        session.execute("+count", LONG).ok().map(|_| session)
    });
    std::thread::sleep(2 * ttl);
    let again = session.retry("+count", LONG);
    assert!(
        matches!(again, Err(ProposeError::Unknown { .. })),
        "{again:?}"
    );
    // A new command surely was not executed.
    let refused = session.execute("+count", LONG);
    assert!(
        matches!(refused, Err(ProposeError::Session(SessionError::Unknown))),
        "{refused:?}"
    );
}

/// PP2: of a member that is added again while its entry is on its way.
#[test]
fn a_member_that_is_added_again_takes_no_proposals_place() {
    let patient = NodeOptions {
        request_timeout: 100 * LONG,
        disk_hang_max: 100 * LONG,
        client: "here".into(),
        ..options()
    };
    let cluster = Cluster::new(1, patient);
    let handle = cluster.handle(cluster.leader());
    // One change at a time: what it says of itself comes first.
    eventually(
        "it has said which disk it has and where its clients go",
        || {
            let status = handle.status()?;
            let about = About::decode(&status.membership.about[&NodeId(1)]).ok()?;
            let said = about.disk != 0 && about.client == "here";
            (said && status.applied == status.last.index).then_some(())
        },
    );
    cluster.members[&1].disk.hang(true);
    let (about, learner) = (Cluster::about(2), NodeId(2));
    std::thread::scope(|scope| {
        let added = scope.spawn(|| handle.add_learner(learner, &about));
        eventually("its entry", || {
            let learners = handle.status()?.membership.learners;
            learners.contains(&learner).then_some(())
        });
        let last = handle.status().unwrap().last;
        let submitted = handle.submit(Proposal::new("b=2"));
        eventually("an entry behind it", || {
            (handle.status()?.last > last).then_some(())
        });
        let again = scope.spawn(|| handle.add_voter(learner, &about));
        // It is asked for while the disk hangs.
        std::thread::sleep(Duration::from_millis(300));
        cluster.members[&1].disk.hang(false);
        let added = added.join().unwrap().expect("added");
        let again = again.join().unwrap().expect("added before");
        assert_eq!(added.index, again.index);
        submitted.wait().expect("its entry stands");
    });
}

/// All nodes restarted at once.
#[test]
fn what_was_acknowledged_survives_a_power_cut_of_all() {
    let mut cluster = Cluster::new(3, options());
    let leader = cluster.leader();
    for n in 0..50 {
        put(&cluster, leader, &format!("k{n}={n}"));
    }
    for id in 1..=3 {
        cluster.power_cut(id);
        assert_eq!(cluster.members[&id].machine.content().len(), 0);
    }
    for id in 1..=3 {
        cluster.start(id);
    }
    let leader = cluster.leader();
    put(&cluster, leader, "after=1");
    cluster.agree();
    assert_eq!(cluster.members[&2].machine.content().len(), 51);
}

/// DR5: a leader gives up when its own disk hangs beyond a bound; the others go on.
#[test]
fn a_leader_whose_disk_hangs_gives_up_and_the_others_go_on() {
    let cluster = Cluster::new(3, options());
    let leader = cluster.leader();
    put(&cluster, leader, "a=1");
    let disk = cluster.members[&leader].disk.clone();
    disk.hang(true);
    let handle = cluster.handle(leader);
    let stuck = handle.submit(Proposal::new("b=2"));
    let others: Vec<u64> = cluster
        .up()
        .into_iter()
        .filter(|id| *id != leader)
        .collect();
    let next = cluster.leader_of(&others);
    put(&cluster, next, "c=3");
    assert!(handle.status().unwrap().role != RoleName::Leader);
    disk.hang(false);
    // Whatever became of the stuck one, it was told and all agree on it.
    match stuck.wait() {
        Ok(_) | Err(ProposeError::Unknown { .. } | ProposeError::NotAppended { .. }) => {}
        other => panic!("{other:?}"),
    }
    cluster.agree();
}

/// DR5: its state stands on another disk than its log, and that disk hangs: no call of the machine returns, nor says why.
#[test]
fn a_leader_whose_state_machine_hangs_gives_up_and_the_others_go_on() {
    let mut options = options();
    options.apply_hang_max = Duration::from_millis(300);
    let mut cluster = Cluster::new(3, options);
    let gates: Vec<Gate> = (1..=3)
        .map(|id| {
            cluster.stop(id);
            let machine = Gated::new(cluster.members[&id].machine.clone());
            let gate = machine.commit.clone();
            cluster.start_with(id, Box::new(machine));
            gate
        })
        .collect();
    let leader = cluster.leader();
    put(&cluster, leader, "a=1");
    gates[leader as usize - 1].shut();
    let handle = cluster.handle(leader);
    let stuck = handle.submit(Proposal::new("b=2"));
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let next = cluster.leader_of(&others);
    put(&cluster, next, "c=3");
    let status = handle.status().unwrap();
    assert!(status.role != RoleName::Leader && status.disk_hangs);
    // It does not campaign before that is over.
    assert!(handle.leads().is_none());
    gates[leader as usize - 1].open();
    assert!(stuck.wait().is_ok(), "it was committed");
    eventually("it is over", || {
        (!handle.status()?.disk_hangs).then_some(())
    });
    cluster.agree();
}

/// DR5, DR4: it can't lead, its vote is as good as ever, and nobody waits for it beyond his time.
#[test]
fn a_node_whose_state_machine_hangs_votes_and_keeps_nobody_waiting() {
    let mut options = options();
    options.apply_hang_max = Duration::from_millis(300);
    let mut cluster = Cluster::new(3, options);
    let leader = cluster.leader();
    cluster.stop(leader);
    let machine = Gated::new(cluster.members[&leader].machine.clone());
    let gate = machine.commit.clone();
    cluster.start_with(leader, Box::new(machine));
    let handle = cluster.handle(leader);
    eventually("it leads again", || {
        let _ = handle.campaign();
        handle.leads()
    });
    put(&cluster, leader, "a=1");
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.stop(others[1]);
    gate.shut();
    let soon = Proposal {
        timeout: Some(Duration::from_millis(200)),
        ..Proposal::new("b=2")
    };
    let unknown = handle.submit(soon).wait();
    let is_unknown = matches!(unknown, Err(ProposeError::Unknown { .. }));
    assert!(is_unknown, "{unknown:?}");
    let next = cluster.leader_of(&others[..1]);
    put(&cluster, next, "c=3");
    assert!(handle.status().unwrap().disk_hangs);
    gate.open();
    cluster.start(others[1]);
    cluster.agree();
}

#[test]
fn a_time_without_an_end_is_a_time_like_others() {
    let mut endless = options();
    endless.request_timeout = Duration::MAX;
    let cluster = Cluster::new(3, endless);
    let leader = cluster.leader();
    put(&cluster, leader, "a=1");
    let other = cluster.handle(leader % 3 + 1);
    other.propose_anywhere("b=2").unwrap();
    other.read_barrier(Duration::MAX).unwrap();
    let mut session = other.open_session(Duration::MAX).unwrap();
    session.execute("c=3", Duration::MAX).unwrap();
    cluster.agree();
}

/// W8 under Raft: disk full and healed.
#[test]
fn a_full_disk_is_waited_out() {
    let cluster = Cluster::new(1, options());
    let handle = cluster.handle(cluster.leader());
    cluster.members[&1].disk.fill(true);
    let waits = handle.submit(Proposal::new("a=1"));
    eventually("it is noticed", || handle.status()?.disk_full.then_some(()));
    cluster.members[&1].disk.fill(false);
    match waits.wait() {
        Ok(_) => {}
        // It may have given up leading meanwhile.
        Err(ProposeError::Unknown { .. }) => {}
        other => panic!("{other:?}"),
    }
    eventually("it goes on", || handle.propose("b=2").ok());
}

/// W6 under Raft: a sync that fails once ends the node; its restart recovers what is really there.
#[test]
fn a_sync_that_fails_once_stops_the_node_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::new(3, options());
    let leader = cluster.leader();
    put(&cluster, leader, "a=1");
    cluster.members[&leader].disk.fail_next_sync();
    let handle = cluster.handle(leader);
    let _ = handle.propose("b=2");
    eventually("it is down", || handle.down());
    assert!(matches!(
        handle.propose("c=3"),
        Err(ProposeError::NotAppended { .. })
    ));
    cluster.stop(leader);
    let others = cluster.up();
    let next = cluster.leader_of(&others);
    put(&cluster, next, "d=4");
    cluster.start(leader);
    cluster.agree();
    assert_eq!(cluster.members[&leader].machine.get(b"d"), Some("4".into()));
}

/// Log purged to the tip with a follower behind: it gets a snapshot, in pieces, over links that lose some.
#[test]
fn a_follower_that_is_too_far_behind_gets_a_snapshot_over_a_bad_link() {
    let mut few = options();
    few.log_entries_kept = 0;
    few.compact_entries_min = 1;
    let mut cluster = Cluster::new(3, few);
    let leader = cluster.leader();
    let behind = leader % 3 + 1;
    cluster.stop(behind);
    let big = "x".repeat(200_000);
    for n in 0..20 {
        put(&cluster, leader, &format!("k{n}={big}"));
    }
    let up = cluster.up();
    for id in &up {
        cluster.handle(*id).checkpoint().unwrap();
    }
    let leader = cluster.leader_of(&up);
    eventually("the log is purged", || {
        let status = cluster.handle(leader).status()?;
        (status.base.index >= Index(20)).then_some(())
    });
    cluster.network.disturb(10, 10);
    cluster.start(behind);
    eventually("it has caught up", || {
        (cluster.members[&behind].machine.content().len() == 20).then_some(())
    });
    cluster.network.disturb(0, 0);
    // And goes on behind it, also after a power cut.
    put(&cluster, leader, "after=1");
    cluster.agree();
    cluster.power_cut(behind);
    cluster.start(behind);
    put(&cluster, leader, "after=2");
    cluster.agree();
}

pub(crate) fn disks_are_known(handle: &NodeHandle) {
    eventually("the disks are known", || {
        let membership = handle.status()?.membership;
        let known = |about: &Bytes| About::decode(about).is_ok_and(|a| a.disk != 0);
        (membership.about.len() == 3 && membership.about.values().all(known)).then_some(())
    });
}

/// C2: a log that lost its newest frames says so for good. The membership knows its disk as before, which proves nothing.
#[test]
fn c2_a_node_that_lost_its_vote_neither_votes_nor_acknowledges() {
    let mut cluster = Cluster::new(3, options());
    let leader = cluster.leader();
    put(&cluster, leader, "a=1");
    disks_are_known(&cluster.handle(leader));
    cluster.agree();
    let (voteless, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.stop(voteless);
    let member = cluster.members.get_mut(&voteless).unwrap();
    member.abstain = Abstain::Always;
    cluster.start(voteless);
    put(&cluster, leader, "b=2");
    cluster.stop(other);
    let submitted = cluster.handle(leader).submit(Proposal {
        timeout: Some(Duration::from_millis(600)),
        ..Proposal::new("c=3")
    });
    assert!(submitted.wait().is_err(), "it acknowledged");
    let status = eventually("a leader that gives up", || {
        let status = cluster.handle(leader).status()?;
        (status.role != RoleName::Leader).then_some(status)
    });
    let status = cluster.handle(voteless).status().unwrap_or(status);
    assert!(status.abstains, "{status:?}");
    // Emptied and added anew it is a member like any other.
    cluster.start(other);
    let leader = cluster.leader_of(&[leader, other]);
    let handle = cluster.handle(leader);
    eventually("removed", || handle.remove(NodeId(voteless)).ok());
    cluster.stop(voteless);
    cluster.add(voteless);
    eventually("added anew", || {
        let about = Cluster::about(voteless);
        handle.add_voter(NodeId(voteless), &about).ok()
    });
    put(&cluster, leader, "d=4");
    cluster.agree();
}

/// C2: a wiped node that comes back under its old id is heard by nobody until it is removed and added anew.
#[test]
fn c2_a_wiped_node_under_its_old_id_has_no_voice() {
    let mut cluster = Cluster::new(3, options());
    let leader = cluster.leader();
    put(&cluster, leader, "a=1");
    let handle = cluster.handle(leader);
    disks_are_known(&handle);
    cluster.agree();
    let (wiped, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.stop(wiped);
    cluster.add(wiped);
    cluster.stop(other);
    // Leader and wiped node are no quorum: what the wiped one would acknowledge or vote counts for nothing.
    let submitted = handle.submit(Proposal {
        timeout: Some(Duration::from_millis(600)),
        ..Proposal::new("b=2")
    });
    assert!(submitted.wait().is_err());
    cluster.start(other);
    let up = [leader, other];
    let leader = cluster.leader_of(&up);
    let handle = cluster.handle(leader);
    eventually("removed", || {
        handle.remove(NodeId(wiped)).ok()?;
        Some(())
    });
    eventually("added anew", || {
        handle.add_voter(NodeId(wiped), &Cluster::about(wiped)).ok()
    });
    put(&cluster, leader, "c=3");
    cluster.agree();
}

/// MB2: its log has come back as far as where its id was another disk's, and it starts again there.
#[test]
fn c2_a_wiped_node_that_was_added_anew_may_start_again_while_it_catches_up() {
    let mut cluster = Cluster::new(3, options());
    let leader = cluster.leader();
    put(&cluster, leader, "a=1");
    disks_are_known(&cluster.handle(leader));
    cluster.agree();
    let wiped = leader % 3 + 1;
    cluster.stop(wiped);
    let handle = cluster.handle(leader);
    let last = handle.status().expect("it is up").committed;
    let came = (cluster.members[&leader].disk)
        .entries(Index(1), last, usize::MAX)
        .expect("nothing is damaged");
    let leader = cluster.leader_of(&cluster.up());
    let handle = cluster.handle(leader);
    eventually("removed", || handle.remove(NodeId(wiped)).ok());
    let member = cluster.members.get_mut(&wiped).expect("a member");
    (member.disk, member.machine) = (MemoryDisk::new(), MemoryMachine::new());
    let (mut log, recovered) = member.disk.open(1 << 20);
    let hard = HardState {
        term: came.last().expect("a few").id.term,
        vote: None,
    };
    let base = SnapshotMeta {
        last: recovered.log.base(),
        membership: Membership::default(),
    };
    let writes = [
        Write::Snapshot(base),
        Write::HardState(hard),
        Write::Append(came),
    ];
    log.write(&writes).expect("there is room");
    log.sync().expect("nothing fails");
    drop(log);
    cluster.start(wiped);
    let status = eventually("its status", || cluster.handle(wiped).status());
    assert!(status.abstains, "{status:?}");
    assert!(status.explanation.contains("another disk"), "{status:?}");
    eventually("added anew", || {
        handle.add_voter(NodeId(wiped), &Cluster::about(wiped)).ok()
    });
    put(&cluster, leader, "c=3");
    cluster.agree();
    let status = cluster.handle(wiped).status().expect("it is up");
    assert!(!status.abstains, "{status:?}");
}

/// RT3: every wait ends when the node does.
#[test]
fn closing_ends_every_wait() {
    let mut cluster = Cluster::new(3, options());
    let leader = cluster.leader();
    let handle = cluster.handle(leader);
    cluster.network.isolate(NodeId(leader));
    let waits = handle.submit(Proposal::new("a=1"));
    let read = std::thread::spawn({
        let handle = handle.clone();
        move || handle.read_barrier(LONG)
    });
    std::thread::sleep(Duration::from_millis(20));
    let before = Instant::now();
    cluster.stop(leader);
    assert!(matches!(waits.wait(), Err(ProposeError::Unknown { .. })));
    assert!(read.join().unwrap().is_err());
    assert!(before.elapsed() < LONG);
    assert!(handle.status().is_none());
    assert!(matches!(
        handle.propose("a=2"),
        Err(ProposeError::NotAppended { .. })
    ));
}

/// RT2: requests beyond the bound are refused as not appended.
#[test]
fn a_command_that_is_too_long_is_refused_by_name() {
    let mut small = options();
    small.command_bytes_max = 100;
    let cluster = Cluster::new(1, small);
    let handle = cluster.handle(cluster.leader());
    match handle.propose("x".repeat(200)) {
        Err(ProposeError::NotAppended { why, .. }) => assert!(why.contains("may have 100")),
        other => panic!("{other:?}"),
    }
}

/// C4: one sync per group of writes.
#[test]
fn c4_what_gathers_during_a_sync_is_synced_once() {
    let cluster = Cluster::new(1, options());
    let handle = cluster.handle(cluster.leader());
    let disk = &cluster.members[&1].disk;
    handle.propose("warm=1").unwrap();
    disk.hang(true);
    let first = handle.submit(Proposal::new("a=0"));
    std::thread::sleep(Duration::from_millis(20));
    let before = disk.syncs();
    let waits: Vec<_> = (0..100)
        .map(|n| handle.submit(Proposal::new(format!("a={n}"))))
        .collect();
    eventually("they are taken", || {
        (handle.status()?.last.index >= Index(102)).then_some(())
    });
    disk.hang(false);
    first.wait().unwrap();
    waits.into_iter().for_each(|w| assert!(w.wait().is_ok()));
    assert!(
        disk.syncs() - before <= 2,
        "{} syncs",
        disk.syncs() - before
    );
}

/// A node joins with an empty disk, and knows nobody until it is added.
#[test]
fn one_that_was_not_added_campaigns_never() {
    let mut cluster = Cluster::new(1, options());
    cluster.leader();
    cluster.add(2);
    std::thread::sleep(Duration::from_millis(500));
    let status = cluster.handle(2).status().unwrap();
    assert_eq!((status.term.0, status.role), (0, RoleName::Follower));
}
