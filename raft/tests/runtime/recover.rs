//! A majority is lost for good, and the cluster goes on with one node: RV1 to RV5, IN1 to IN3.

use crate::common::*;
use esker_raft::core::{Abstain, Index, NodeId, RoleName};
use esker_raft::log::LogStore;
use esker_raft::runtime::*;
use std::time::Duration;

fn recover(cluster: &Cluster, id: u64) -> Result<Recovery, RecoverError> {
    let member = &cluster.members[&id];
    let (mut log, mut recovered) = member.disk.open(1 << 20);
    recovered.abstain = member.abstain;
    let recovery = Recovery::survey(NodeId(id), &recovered, &mut member.machine.clone())?;
    recovery.carry_out(&mut log)?;
    log.close()?;
    Ok(recovery)
}

fn holds(cluster: &Cluster, id: u64, key: &str) -> bool {
    cluster.members[&id].machine.get(key.as_bytes()).is_some()
}

#[test]
fn with_two_of_three_lost_the_third_goes_on_with_all_it_held_and_hears_the_others_no_more() {
    let mut cluster = Cluster::new(3, options());
    let kept = cluster.leader();
    for n in 0..40 {
        put(&cluster, kept, &format!("k{n}=v"));
    }
    cluster.agree();
    let lost: Vec<u64> = (1..=3).filter(|id| *id != kept).collect();
    for id in &lost {
        cluster.stop(*id);
    }
    // It may have been acknowledged, for all that is known later.
    let mut late = Proposal::new("late=1");
    late.timeout = Some(Duration::from_millis(50));
    let outcome = cluster.handle(kept).submit(late).wait();
    assert!(matches!(outcome, Err(ProposeError::Unknown { .. })));
    cluster.stop(kept);

    let recovery = recover(&cluster, kept).unwrap();
    let expected: Vec<NodeId> = lost.iter().copied().map(NodeId).collect();
    assert!(recovery.lost().into_iter().eq(expected));
    assert!(recovery.committed.index >= Index(40));
    assert!(recovery.last.index > recovery.committed.index, "RV2");
    // RV1: there is nothing more to recover.
    let again = recover(&cluster, kept).unwrap_err();
    assert!(matches!(again, RecoverError::Alone(_)), "{again}");

    cluster.start(kept);
    assert_eq!(cluster.leader(), kept);
    put(&cluster, kept, "after=1");
    for key in ["k0", "k39", "late", "after"] {
        assert!(holds(&cluster, kept, key), "{key}");
    }
    let incarnation = cluster.handle(kept).status().unwrap().incarnation;
    assert_eq!(incarnation, recovery.incarnation.1);

    // The lost ones come back against all advice, are a majority of what they know, and go through many terms.
    for id in &lost {
        cluster.start(*id);
    }
    let mut old = cluster.leader_of(&lost);
    put(&cluster, old, "old=1");
    let term = |cluster: &Cluster, id| cluster.handle(id).status().unwrap().term;
    while term(&cluster, old) <= term(&cluster, kept) {
        let other = if old == lost[0] { lost[1] } else { lost[0] };
        eventually("a transfer", || {
            cluster.handle(old).transfer(NodeId(other)).unwrap();
            (cluster.leader_of(&lost) == other).then_some(())
        });
        old = other;
    }
    put(&cluster, kept, "still=1");
    let status = cluster.handle(kept).status().unwrap();
    assert_eq!(status.role, RoleName::Leader);
    assert!(
        status.term < term(&cluster, old),
        "a later term of theirs is not heard"
    );
    assert!(!holds(&cluster, kept, "old"), "RV3");
    assert!(!holds(&cluster, old, "after"));

    // It grows, by a node with a new name and by one that has a lost one's, while another lost one speaks to it.
    cluster.options.incarnation = incarnation;
    cluster.members.remove(&lost[0]);
    // Nobody founds anything any more.
    cluster.voters = 0;
    for id in [4, lost[0]] {
        cluster.add(id);
        eventually("a member", || {
            let about = Cluster::about(id);
            cluster.handle(kept).add_voter(NodeId(id), &about).ok()
        });
        eventually("the data", || holds(&cluster, id, "still").then_some(()));
    }
    eventually("three voters", || {
        let status = cluster.handle(kept).status()?;
        let membership = status.membership;
        (membership.voters.len() == 3 && !membership.is_joint()).then_some(())
    });
    // IN2: what it learned stays with it.
    cluster.options.incarnation = 0;
    cluster.stop(4);
    cluster.start(4);
    put(&cluster, kept, "last=1");
    eventually("the data", || holds(&cluster, 4, "last").then_some(()));
    assert!(!holds(&cluster, lost[0], "old"));
}

/// RV4.
#[test]
fn a_node_that_holds_nothing_abstains_or_is_alone_is_not_recovered() {
    let mut cluster = Cluster::new(1, options());
    cluster.leader();
    cluster.stop(1);
    let alone = recover(&cluster, 1).unwrap_err();
    assert!(matches!(alone, RecoverError::Alone(_)), "{alone}");
    for abstain in [Abstain::Until(Index(9)), Abstain::Always] {
        cluster.members.get_mut(&1).unwrap().abstain = abstain;
        let refused = recover(&cluster, 1).unwrap_err();
        assert!(matches!(refused, RecoverError::Abstains), "{refused}");
    }
    cluster.add(2);
    cluster.stop(2);
    let empty = recover(&cluster, 2).unwrap_err();
    assert!(matches!(empty, RecoverError::Empty), "{empty}");
    let (_, recovered) = cluster.members[&1].disk.open(1 << 20);
    let mut machine = cluster.members[&1].machine.clone();
    let other = Recovery::survey(NodeId(9), &recovered, &mut machine).unwrap_err();
    assert!(matches!(other, RecoverError::NoMember(_)), "{other}");
    let mut behind = MemoryMachine::new();
    let mut recovered = recovered;
    recovered.log.compact(Index(1));
    let unsettled = Recovery::survey(NodeId(1), &recovered, &mut behind).unwrap_err();
    assert!(
        matches!(unsettled, RecoverError::Unsettled(_)),
        "{unsettled}"
    );
}
