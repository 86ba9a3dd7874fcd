//! Locks over whole clusters (K1 to K8).
//!
//! `ESKER_SECONDS=120 cargo test -p esker-raft --features lsm --test locks clients -- --nocapture` is the long run; `ESKER_CLIENTS` says how many.
#![cfg(feature = "lsm")]
#![allow(clippy::print_stderr, reason = "tests tell what they did")]
#![allow(unreachable_pub, reason = "modules of one test")]

mod chaos;
mod cluster;
#[path = "../support/nodes.rs"]
mod nodes;

use bytes::Bytes;
use cluster::{Cluster, history, open, three};
use esker_raft::core::{Index, NodeId, Term};
use esker_raft::lock::{
    Acquire, AcquireError, GuardAnswer, Held, How, LockAnswer, LockCommand, LockError, Refusal,
    guarded,
};
use esker_raft::runtime::{Command, ProposeError, StateMachine};
use esker_sync::stop::StopToken;
use esker_wal::media::sim::SimMedia;
use nodes::{LONG, eventually};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn how(ttl: u64, wait: u64) -> Acquire {
    Acquire {
        ttl: Duration::from_millis(ttl),
        wait: Duration::from_millis(wait),
        ..Acquire::default()
    }
}

fn acquire(cluster: &Cluster, at: usize, name: &str, how: &Acquire) -> Held {
    eventually("a lock", || {
        match cluster.up(at)?.beside.acquire(b(name), how) {
            Ok(held) => Some(held),
            Err(AcquireError::Lock(LockError::Cluster(_))) => None,
            Err(error) => panic!("{error}"),
        }
    })
}

/// A command under a token through a node; `None`: try again.
fn write(cluster: &Cluster, at: usize, held: &Held, text: &str) -> Option<GuardAnswer> {
    let command = guarded(&[held.guard()], text.as_bytes());
    let reply = cluster.up(at)?.node.handle().propose_anywhere(command);
    reply
        .ok()
        .map(|reply| GuardAnswer::decode(reply.payload).expect("an answer"))
}

fn queue(cluster: &Cluster, at: usize, name: &str) -> Vec<Bytes> {
    let locks = &cluster.up(at).expect("up").beside;
    let found = eventually("a reading", || locks.inspect(name.as_bytes(), LONG).ok());
    let waiters = found.map_or(Vec::new(), |(_, waiters)| waiters);
    waiters.into_iter().map(|waiter| waiter.id).collect()
}

fn ask(cluster: &Cluster, at: usize, command: &LockCommand) -> LockAnswer {
    let locks = &cluster.up(at).expect("up").beside;
    locks.ask(command, LONG).expect("an answer")
}

fn wait_for(name: &str, id: &str) -> LockCommand {
    LockCommand::Acquire {
        name: b(name),
        id: b(id),
        ttl: 5_000_000,
        wait: 60_000_000,
        priority: 0,
        attempt: 0,
    }
}

/// K3, K4, K6, K8: holder, queue and what has ended outlive the leader, a snapshot, and a restart of all.
#[test]
fn k8_holder_and_queue_survive_fail_over_snapshots_and_a_restart_of_all() {
    let cluster = three(20);
    let leader = cluster.leader();
    let (other, behind) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.power_cut(behind, 1);
    let held = acquire(&cluster, other, "a", &how(4_000, 0));
    let ids = ["1", "2", "3"];
    for id in ids {
        assert!(matches!(
            ask(&cluster, other, &wait_for("a", id)),
            LockAnswer::Queued { .. }
        ));
    }
    let cancel = LockCommand::Cancel {
        name: b("a"),
        id: b("2"),
    };
    ask(&cluster, leader, &cancel);
    // More than the log keeps: the third gets all of it in a snapshot.
    for n in 0..200 {
        assert!(matches!(
            write(&cluster, other, &held, &format!("{n}")),
            Some(GuardAnswer::Passed(_))
        ));
    }
    for at in [leader, other] {
        cluster.up(at).unwrap().node.handle().checkpoint().unwrap();
    }
    cluster.start(behind);
    let left = [b("1"), b("3")];
    assert_eq!(queue(&cluster, behind, "a"), left);
    cluster.power_cut(leader, 2);
    cluster.leader();
    let still = eventually("a write under the lock", || {
        write(&cluster, other, &held, "after")
    });
    assert!(matches!(still, GuardAnswer::Passed(_)), "{still:?}");
    assert!(held.is_valid());
    assert_eq!(queue(&cluster, behind, "a"), left);
    cluster.start(leader);
    let token = held.token();
    for at in 0..3 {
        cluster.power_cut(at, 3 + at as u64);
    }
    // Its node is gone, and nobody renews it.
    assert!(!held.is_valid());
    assert!(held.lost().is_stopped());
    for at in 0..3 {
        cluster.start(at);
    }
    cluster.leader();
    assert_eq!(queue(&cluster, other, "a"), left);
    let ended = LockAnswer::Refused(Refusal::Ended {
        how: How::Cancelled,
        token: 0,
    });
    assert_eq!(ask(&cluster, other, &wait_for("a", "2")), ended);
    for id in ["1", "3"] {
        // As it would be when its holder is gone: its time passes. Nobody writes but who asks.
        let next = eventually("the next grant", || {
            match ask(&cluster, leader, &wait_for("a", id)) {
                LockAnswer::Acquired { token, .. } => Some(token),
                LockAnswer::Queued { .. } => None,
                other => panic!("{other:?}"),
            }
        });
        assert!(next > token, "K2");
        let name = b("a");
        let release = LockCommand::Release {
            name,
            token: next,
            forced: false,
        };
        assert_eq!(ask(&cluster, leader, &release), LockAnswer::Released(true));
    }
    history(&cluster);
}

/// K5: in a cluster where nobody writes, and over every kind of end.
#[test]
fn a_lock_goes_to_who_waits_when_it_is_released_dropped_forced_or_its_client_is_gone() {
    let cluster = three(1000);
    cluster.leader();
    let first = acquire(&cluster, 0, "a", &how(1_000, 0));
    let busy = cluster
        .up(1)
        .unwrap()
        .beside
        .acquire(b("a"), &how(1_000, 0));
    assert!(
        matches!(busy, Err(AcquireError::Busy { token, .. }) if token == first.token()),
        "{busy:?}"
    );
    let late = cluster
        .up(1)
        .unwrap()
        .beside
        .acquire(b("a"), &how(1_000, 150));
    assert!(matches!(late, Err(AcquireError::TimedOut)), "{late:?}");
    std::thread::scope(|scope| {
        let waits = |at: usize| acquire(&cluster, at, "a", &how(1_000, 20_000));
        let second = scope.spawn(move || waits(1));
        eventually("a waiter", || {
            (!queue(&cluster, 0, "a").is_empty()).then_some(())
        });
        // Longer than its time to live: it is renewed.
        std::thread::sleep(Duration::from_millis(1_300));
        assert!(first.is_valid() && !second.is_finished());
        assert!(first.release(LONG).expect("released"));
        let second = second.join().unwrap();
        let third = scope.spawn(move || waits(2));
        eventually("a waiter", || {
            (!queue(&cluster, 0, "a").is_empty()).then_some(())
        });
        drop(second);
        let third = third.join().unwrap();
        let locks = cluster.up(0).unwrap().beside.clone();
        assert!(locks.force_release(b("a"), third.token(), LONG).unwrap());
        assert!(!locks.force_release(b("a"), third.token(), LONG).unwrap());
        assert!(third.lost().sleep(LONG), "the holder is told");
        assert!(matches!(
            write(&cluster, 0, &third, "x"),
            Some(GuardAnswer::Stale {
                guard: 0,
                current: 0
            })
        ));
        // Its client is gone: nobody renews a claim.
        let gone = locks.claim(
            &b("a"),
            &b("g"),
            Duration::from_millis(300),
            Duration::ZERO,
            0,
            &|| false,
        );
        let gone = gone.expect("free");
        let last = acquire(&cluster, 1, "a", &how(1_000, 20_000));
        assert!(last.token() > gone.token);
        // A wait that is stopped leaves nothing behind.
        let stopped = how(1_000, 20_000);
        let cancel = stopped.cancel.clone();
        let waiter = scope.spawn(move || locks.acquire(b("a"), &stopped).err());
        eventually("a waiter", || {
            (!queue(&cluster, 0, "a").is_empty()).then_some(())
        });
        cancel.stop();
        assert_eq!(waiter.join().unwrap(), Some(AcquireError::Cancelled));
        assert!(queue(&cluster, 0, "a").is_empty());
    });
}

/// K4: a claim whose caller was told that it is not known what became of it may be sent again.
#[test]
fn k4_an_attempt_without_an_answer_does_not_end_the_claim() {
    let cluster = three(1000);
    let leader = cluster.leader();
    let (cut, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let held = acquire(&cluster, other, "a", &how(60_000, 0));
    let queued = ask(&cluster, other, &wait_for("a", "1"));
    assert!(matches!(queued, LockAnswer::Queued { .. }), "{queued:?}");
    let locks = cluster.up(cut).unwrap().beside.clone();
    cluster.network.isolate(NodeId(cut as u64 + 1));
    let asked = std::cell::Cell::new(false);
    // Ends the first try, at a time when what is sent arrives again.
    let gone = || {
        let first = !asked.replace(true);
        if first {
            cluster.network.heal();
            eventually("a leader", || locks.inspect(b"a", LONG).ok());
        }
        first
    };
    let (name, id) = (b("a"), b("1"));
    let minute = Duration::from_secs(60);
    let unknown = locks.claim(&name, &id, minute, minute, 0, &gone);
    assert!(
        matches!(unknown, Err(AcquireError::Lock(LockError::Cluster(_)))),
        "{unknown:?}"
    );
    assert_eq!(ask(&cluster, cut, &wait_for("a", "1")), queued);
    assert!(held.release(LONG).expect("released"));
    let granted = ask(&cluster, cut, &wait_for("a", "1"));
    assert!(
        matches!(granted, LockAnswer::Acquired { .. }),
        "{granted:?}"
    );
}

/// K4: a client whose connection breaks while it waits asks by another with the same id, before the first is missed.
#[test]
fn k4_a_client_that_is_gone_takes_its_claim_from_nobody_who_asks_for_it_yet() {
    let cluster = three(1000);
    cluster.leader();
    let held = acquire(&cluster, 0, "a", &how(60_000, 0));
    let held_token = held.token();
    let (first, second) = (StopToken::new(), AtomicU64::new(0));
    let minute = Duration::from_secs(60);
    let claim = |at: usize, gone: &dyn Fn() -> bool| {
        let locks = cluster.up(at).unwrap().beside.clone();
        locks.claim(&b("a"), &b("1"), minute, minute, 0, gone)
    };
    std::thread::scope(|scope| {
        let gone = scope.spawn(|| claim(1, &|| first.is_stopped()));
        eventually("a waiter", || {
            (!queue(&cluster, 0, "a").is_empty()).then_some(())
        });
        let waits = scope.spawn(|| {
            claim(2, &|| {
                // It looks for its client once it waits.
                second.fetch_add(1, Ordering::Relaxed);
                false
            })
        });
        eventually("a second attempt", || {
            (second.load(Ordering::Relaxed) > 0).then_some(())
        });
        first.stop();
        assert_eq!(gone.join().unwrap(), Err(AcquireError::Kept));
        assert_eq!(queue(&cluster, 0, "a"), [b("1")]);
        assert!(held.release(LONG).expect("released"));
        let granted = waits.join().unwrap();
        assert!(granted.is_ok_and(|grant| grant.token > held_token));
    });
}

/// K4, SV6: an attempt whose node is gone, say, is not known to be over.
#[test]
fn k4_a_wait_is_over_only_where_the_claim_is_out() {
    let cluster = three(1000);
    let leader = cluster.leader();
    let cut = (leader + 1) % 3;
    let held = acquire(&cluster, leader, "a", &how(60_000, 0));
    let locks = cluster.up(cut).unwrap().beside.clone();
    let minute = Duration::from_secs(60);
    let claim = |id: &str, wait: u64| {
        let wait = Duration::from_millis(wait);
        locks.claim(&b("a"), &b(id), minute, wait, 0, &|| false)
    };
    assert_eq!(claim("1", 100), Err(AcquireError::TimedOut));
    let LockCommand::Acquire { name, id, ttl, .. } = wait_for("a", "1") else {
        panic!("it is one");
    };
    let dead = LockCommand::Acquire {
        name,
        id,
        ttl,
        wait: 60_000_000,
        priority: 0,
        attempt: 99,
    };
    ask(&cluster, leader, &dead);
    // Who does not wait is told who has it, and nothing is changed.
    let busy = claim("1", 0);
    assert!(matches!(busy, Err(AcquireError::Busy { .. })), "{busy:?}");
    assert_eq!(claim("1", 100), Err(AcquireError::Kept));
    assert_eq!(queue(&cluster, leader, "a"), [b("1")]);
    // Nothing can be said of a claim that nobody answers for.
    let unknown = std::thread::scope(|scope| {
        let claimed = scope.spawn(|| claim("2", 1_500));
        eventually("a waiter", || {
            (queue(&cluster, leader, "a").len() == 2).then_some(())
        });
        cluster.network.isolate(NodeId(cut as u64 + 1));
        claimed.join().unwrap()
    });
    assert!(
        matches!(
            unknown,
            Err(AcquireError::Lock(LockError::Cluster(
                ProposeError::Unknown { .. }
            )))
        ),
        "{unknown:?}"
    );
    cluster.network.heal();
    assert!(held.release(LONG).expect("released"));
}

/// SV7: it was this client's own release, tried again, that found nothing to release.
#[test]
fn a_release_whose_answer_was_lost_is_not_taken_for_a_lock_that_was() {
    let cluster = three(1000);
    let leader = cluster.leader();
    let far = (leader + 1) % 3;
    let held = acquire(&cluster, far, "a", &how(60_000, 0));
    let cut = (NodeId(leader as u64 + 1), NodeId(far as u64 + 1));
    let released = std::thread::scope(|scope| {
        cluster.network.cut(cut.0, cut.1);
        let released = scope.spawn(|| held.release(LONG));
        eventually("a release", || {
            let locks = &cluster.up(leader)?.beside;
            locks.inspect(b"a", LONG).ok()?.is_none().then_some(())
        });
        cluster.network.heal();
        released.join().unwrap()
    });
    assert!(
        matches!(
            released,
            Err(LockError::Cluster(ProposeError::Unknown { .. }))
        ),
        "{released:?}"
    );
}

/// SV7: the try whose answer was lost may come yet.
#[test]
fn another_s_lock_is_no_answer_while_an_earlier_try_may_acquire_it() {
    let cluster = three(1000);
    let leader = cluster.leader();
    let far = (leader + 1) % 3;
    let held = acquire(&cluster, leader, "a", &how(60_000, 0));
    let locks = cluster.up(far).unwrap().beside.clone();
    let minute = Duration::from_secs(60);
    let once = || locks.claim(&b("a"), &b("1"), minute, Duration::ZERO, 0, &|| false);
    let busy = eventually("an answer", || match once() {
        Err(AcquireError::Lock(_)) => None,
        other => Some(other),
    });
    assert!(matches!(busy, Err(AcquireError::Busy { .. })), "{busy:?}");
    let (from, to) = (NodeId(far as u64 + 1), NodeId(leader as u64 + 1));
    let second = std::thread::scope(|scope| {
        cluster.network.cut(from, to);
        let second = scope.spawn(once);
        // Longer than what the try needs to leave, shorter than it takes.
        std::thread::sleep(Duration::from_millis(300));
        cluster.network.heal();
        second.join().unwrap()
    });
    assert!(
        matches!(
            second,
            Err(AcquireError::Lock(LockError::Cluster(
                ProposeError::Unknown { .. }
            )))
        ),
        "{second:?}"
    );
    assert!(held.release(LONG).expect("released"));
}

/// SV2, SV6: the last of its tries has its time too, and then leaves the queue.
#[test]
fn a_wait_that_ends_while_nobody_answers_leaves_the_queue() {
    let cluster = three(1000);
    let leader = cluster.leader();
    let far = (leader + 1) % 3;
    let held = acquire(&cluster, leader, "a", &how(60_000, 0));
    let locks = cluster.up(far).unwrap().beside.clone();
    let waited = std::thread::scope(|scope| {
        let claimed = scope.spawn(|| {
            let (minute, wait) = (Duration::from_secs(60), Duration::from_millis(3_010));
            locks.claim(&b("a"), &b("1"), minute, wait, 0, &|| false)
        });
        eventually("a waiter", || {
            (queue(&cluster, leader, "a").len() == 1).then_some(())
        });
        // It asks again 10 ms before its wait is over.
        std::thread::sleep(Duration::from_millis(2_800));
        cluster.network.isolate(NodeId(far as u64 + 1));
        std::thread::sleep(Duration::from_millis(400));
        cluster.network.heal();
        claimed.join().unwrap()
    });
    assert_eq!(waited, Err(AcquireError::TimedOut));
    assert_eq!(queue(&cluster, leader, "a"), Vec::<Bytes>::new());
    assert!(held.release(LONG).expect("released"));
}

/// What is left of a lock is shown as it is, also where nobody writes.
#[test]
fn what_is_left_of_a_lock_falls_though_nobody_writes() {
    let cluster = three(1000);
    let leader = cluster.leader();
    let held = acquire(&cluster, leader, "a", &how(60_000, 0));
    std::thread::sleep(Duration::from_millis(500));
    for at in 0..3 {
        let locks = &cluster.up(at).unwrap().beside;
        let (shown, _) = eventually("a reading", || locks.inspect(b"a", LONG).ok()).expect("held");
        // The cluster's time goes a little slower or faster than a node's clock.
        assert!(shown.left <= Duration::from_millis(59_700), "{shown:?}");
        assert!(shown.held >= Duration::from_millis(300), "{shown:?}");
    }
    drop(held);
}

/// K9: what is refused is not carried in the log.
#[test]
fn k9_names_and_waits_beyond_their_bounds_are_refused_by_the_node_that_is_asked() {
    let cluster = three(1000);
    let leader = cluster.leader();
    let held = acquire(&cluster, leader, "a", &how(60_000, 0));
    let up = cluster.up(leader).unwrap();
    let locks = up.beside.clone();
    let applied = || up.node.handle().status().expect("it runs").applied;
    // The first time of the term may be on its way yet.
    let before = eventually("a cluster at rest", || {
        let before = applied();
        std::thread::sleep(Duration::from_millis(300));
        (applied() == before).then_some(before)
    });
    let long = Bytes::from(vec![b'n'; 1 << 20]);
    let refused = |refusal| Some(LockError::Refused(refusal));
    let renewed = locks.renew(long.clone(), 1, None, LONG);
    assert_eq!(renewed.err(), refused(Refusal::Name));
    let (name, token) = (long.clone(), 1);
    let forced = false;
    let release = LockCommand::Release {
        name,
        token,
        forced,
    };
    assert_eq!(locks.ask(&release, LONG).err(), refused(Refusal::Name));
    let (name, id) = (b("a"), long);
    let cancel = LockCommand::Cancel { name, id };
    assert_eq!(locks.ask(&cancel, LONG).err(), refused(Refusal::Id));
    let (minute, days) = (Duration::from_secs(60), Duration::from_secs(48 * 3600));
    let waits = locks.claim(&b("a"), &b("1"), minute, days, 0, &|| false);
    assert_eq!(waits, Err(AcquireError::Lock(Refusal::Wait.into())));
    assert_eq!(applied(), before);
    drop(held);
}

/// SV2: as long as its time lasts, for reads too.
#[test]
fn locks_are_looked_at_while_the_leader_changes() {
    let cluster = three(1000);
    for _ in 0..3 {
        let leader = cluster.leader();
        let locks = cluster.up((leader + 1) % 3).unwrap().beside.clone();
        locks.inspect(b"a", LONG).expect("nobody holds it");
        cluster.network.isolate(NodeId(leader as u64 + 1));
        locks.inspect(b"a", LONG).expect("nobody holds it");
        locks.list(b"", 1, LONG).expect("there are none");
        cluster.network.heal();
    }
}

/// K7: nobody would renew it, nor stop its signal.
#[test]
fn k7_a_service_that_is_closed_acquires_nothing() {
    let cluster = three(1000);
    let leader = cluster.leader();
    let locks = cluster.up(leader).unwrap().beside.clone();
    locks.close();
    let held = locks.acquire(b("a"), &how(60_000, 0));
    assert!(matches!(held, Err(AcquireError::Cancelled)), "{held:?}");
    let other = cluster.up((leader + 1) % 3).unwrap().beside.clone();
    eventually("a free lock", || {
        other.inspect(b"a", LONG).ok()?.is_none().then_some(())
    });
}

/// SV8, K7: one client's panic is not the end of the others' locks.
#[test]
fn k7_a_callback_that_panics_ends_no_other_s_renewal() {
    let cluster = three(1000);
    let leader = cluster.leader();
    let first = acquire(&cluster, leader, "a", &how(60_000, 0));
    let second = acquire(&cluster, leader, "b", &how(600, 0));
    first.lost().on_stop(|| panic!("a client's own"));
    let forced = LockCommand::Release {
        name: b("a"),
        token: first.token(),
        forced: true,
    };
    // It is renewed, and so told, after a third of this.
    let third = acquire(&cluster, leader, "c", &how(600, 0));
    third.lost().on_stop(|| panic!("another's"));
    ask(&cluster, leader, &forced);
    let forced = LockCommand::Release {
        name: b("c"),
        token: third.token(),
        forced: true,
    };
    ask(&cluster, leader, &forced);
    eventually("the signal", || third.lost().is_stopped().then_some(()));
    std::thread::sleep(Duration::from_millis(2_000));
    assert!(second.is_valid(), "three times its time to live");
    drop(first);
    let again = acquire(&cluster, leader, "a", &how(60_000, 0));
    assert!(again.release(LONG).expect("released"));
    assert!(second.release(LONG).expect("released"));
}

/// K7: the holder knows before the cluster gives the lock away.
#[test]
fn k7_a_holder_that_is_cut_off_is_told_before_another_has_the_lock() {
    let cluster = three(1000);
    let leader = cluster.leader();
    let (cut, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let held = acquire(&cluster, cut, "a", &how(800, 0));
    cluster.network.isolate(NodeId(cut as u64 + 1));
    let next = acquire(&cluster, other, "a", &how(800, 20_000));
    assert!(!held.is_valid());
    assert!(held.lost().is_stopped());
    assert!(next.token() > held.token());
    cluster.network.heal();
    let stale = eventually("an answer", || write(&cluster, cut, &held, "stale"));
    let current = next.token();
    assert_eq!(stale, GuardAnswer::Stale { guard: 0, current });
    assert!(!history(&cluster).contains(&"stale".to_owned()), "K1");
}

fn apply(machine: &mut dyn StateMachine, index: u64, payload: Bytes) -> Bytes {
    let command = Command {
        index: Index(index),
        term: Term(1),
        time: 1_000_000 + index,
        payload,
    };
    let answer = machine.apply(command).expect("applied");
    machine.commit(Index(index), Vec::new()).expect("committed");
    answer
}

/// K2, K8.
#[test]
fn k8_what_empties_the_applications_keys_leaves_the_locks_and_a_restart_too() {
    let media = SimMedia::new(1);
    let (mut machine, view) = open(&media).expect("the state opens");
    for (index, id) in [(1, "1"), (2, "2"), (3, "3")] {
        apply(&mut machine, index, wait_for("a", id).encode());
    }
    apply(&mut machine, 4, b("a key"));
    apply(&mut machine, 5, b("!"));
    let state = machine.reader().snapshot();
    assert_eq!(state.scan(b"", None).unwrap().count(), 0);
    let before = view.inspect(b"a").expect("held");
    assert_eq!((before.0.token, before.1.len()), (1, 2));
    let mut flushed = machine.snapshot().expect("a snapshot");
    flushed.prepare(b"a").expect("a flush");
    drop(flushed);
    machine.close().unwrap();
    drop(machine);
    let (mut machine, view) = open(&media).expect("the state opens");
    let after = view.inspect(b"a").expect("held after a restart");
    assert_eq!((after.0.token, &after.1.len()), (1, &before.1.len()));
    let command = guarded(&[], b"x");
    assert_eq!(apply(&mut machine, 6, command), [1][..]);
    // Not for the application.
    let malformed = apply(&mut machine, 7, Bytes::from_static(&[0xF7, 1]));
    assert_eq!(
        LockAnswer::decode(malformed),
        Ok(LockAnswer::Refused(Refusal::Malformed))
    );
}

#[cfg(feature = "sabotage")]
#[test]
fn the_broken_build_that_does_not_load_locks_is_found() {
    use esker_raft::sabotage::Sabotage;
    Sabotage::set(Some(Sabotage::LocksNotLoaded));
    let found = std::panic::catch_unwind(
        k8_what_empties_the_applications_keys_leaves_the_locks_and_a_restart_too,
    );
    Sabotage::set(None);
    assert!(found.is_err());
}
