//! A driver whose other threads do nothing.

use super::super::machine::{MemoryMachine, StateMachine};
use super::*;
use crate::core::{Abstain, Body, HardState, LogId, LogView, Membership, Message, Restored, Term};
use crate::log::{LogStore, VolatileLog};
use crate::transport::Sender as Me;
use crossbeam_channel::unbounded;
use esker_sync::oneshot::{Pending, oneshot};
use parking_lot::Mutex;

fn id(term: u64, index: u64) -> LogId {
    LogId {
        term: Term(term),
        index: Index(index),
    }
}

/// A driver in `term` whose other threads do nothing, and what it gives to be applied.
fn driver(term: u64) -> (Driver, Receiver<apply::Job>) {
    let (log, _) = VolatileLog::new(0);
    let (events_out, events) = unbounded();
    let (requests_out, requests) = unbounded();
    let me = Me {
        node: NodeId(1),
        ..Me::default()
    };
    let shared = Arc::new(Shared::new(me, events_out, requests_out, log.reader()));
    let options = NodeOptions::default();
    let meta = SnapshotMeta {
        last: LogId::default(),
        membership: Membership::of([NodeId(1), NodeId(2)]),
    };
    let hard = HardState {
        term: Term(term),
        vote: None,
    };
    let restored = Restored {
        hard,
        log: LogView::new(meta, 0),
        committed: Index(0),
        abstain: Abstain::No,
    };
    let core = Core::new(me.node, options.core.clone(), restored, 1).unwrap();
    let held: disk::Held = Arc::new(Mutex::new(Box::new(log)));
    let (apply, given) = unbounded();
    let queues = Queues {
        events,
        requests,
        packets: unbounded().1,
        disk: disk::Storage::new(&held, unbounded().0),
        apply,
        files: unbounded().0,
    };
    let driver = Driver::new(core, shared, options, queues, Index(0), Index(0));
    (driver, given)
}

fn appended(driver: &mut Driver, id: LogId) -> Pending<super::super::Outcome> {
    let (promise, pending) = oneshot();
    let now = Instant::now();
    let proposal = Proposal {
        replier: Replier::Local(promise),
        started: now,
        deadline: now + Duration::from_secs(60),
    };
    assert!(driver.appended.insert(id, proposal).is_empty());
    pending
}

#[test]
fn a_snapshot_is_ordered_in_the_term_of_who_wants_it() {
    let (mut driver, given) = driver(2);
    driver.carry_out(Outputs {
        snapshots: vec![NodeId(2)],
        ..Outputs::default()
    });
    let order = given.try_recv();
    assert!(matches!(
        order,
        Ok(apply::Job::Snapshot(Purpose::Offer {
            to: NodeId(2),
            term: Term(2)
        }))
    ));
}

/// DR4: it may be executed, by the leader whose snapshot it is.
#[test]
fn a_proposal_that_a_snapshot_covers_is_unknown() {
    let (mut driver, _given) = driver(2);
    let covered = appended(&mut driver, id(1, 5));
    let behind = appended(&mut driver, id(1, 11));
    let mut machine = MemoryMachine::new();
    let files = machine.snapshot().unwrap().files();
    driver.arrived = Some(machine.staging().begin(&files, &|| true).unwrap());
    let meta = SnapshotMeta {
        last: id(2, 10),
        membership: Membership::default(),
    };
    assert!(driver.installed_by(&[Write::Snapshot(meta)]).is_some());
    let told = covered.wait(Some(Duration::ZERO));
    assert!(matches!(told, Ok(Err(ProposeError::Unknown { .. }))));
    assert!(behind.wait(Some(Duration::ZERO)).is_err());
}

fn hears(driver: &mut Driver, leader: u64, term: u64) {
    let body = Body::Heartbeat {
        commit: Index(0),
        round: 1,
    };
    driver.step(Input::Message {
        from: NodeId(leader),
        message: Message {
            term: Term(term),
            body,
        },
    });
    assert_eq!(driver.core.leader(), Some(NodeId(leader)));
}

fn forwarded(driver: &mut Driver, to: u64) -> Pending<super::super::Outcome> {
    let (promise, pending) = oneshot();
    let forwarded = Forwarded {
        to: NodeId(to),
        promise,
        deadline: Instant::now() + Duration::from_secs(60),
    };
    let id = driver.token();
    driver.forwarded.insert(id, forwarded);
    pending
}

/// DR4: a leader that was silent for an election timeout, and that another follows, answers no more; one that was heard from until then may.
#[test]
fn what_was_forwarded_to_a_dead_leader_ends_when_another_leads() {
    let (mut driver, _given) = driver(2);
    hears(&mut driver, 2, 2);
    let replaced = forwarded(&mut driver, 2);
    hears(&mut driver, 3, 3);
    let now = Instant::now();
    driver.expire(now);
    assert!(replaced.wait(Some(Duration::ZERO)).is_err());
    let dead = forwarded(&mut driver, 3);
    for _ in 0..2 * driver.options.core.election_ticks {
        driver.step(Input::Tick);
    }
    assert_eq!(driver.core.leader(), None);
    driver.expire(Instant::now());
    let still = forwarded(&mut driver, 4);
    hears(&mut driver, 4, 9);
    driver.expire(Instant::now());
    let told = dead.wait(Some(Duration::ZERO));
    assert!(matches!(told, Ok(Err(ProposeError::Unknown { .. }))));
    assert!(still.wait(Some(Duration::ZERO)).is_err());
}
