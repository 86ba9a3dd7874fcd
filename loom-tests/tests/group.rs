//! Group commit (`esker_sync::group`): reserve, publish, sync, wait; hand-over; giving up.
#![cfg(esker_loom)]

use esker_loom_tests::{Log, assert_caught, model};
use esker_sync::group::{CommitGroup, Entered, Leadership};
use esker_sync::shim::{Arc, Condvar, Mutex};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use std::time::{Duration, Instant};

/// The disk: written by the leader alone, without any synchronisation of its own.
struct Disk(UnsafeCell<u64>);

impl Disk {
    fn write(&self, to: u64) {
        // SAFETY: one leader at a time (G1), each ordered after the one before; loom checks it.
        self.0.with_mut(|end| unsafe { *end = to });
    }
    fn read(&self) -> u64 {
        // SAFETY: read once all writers are joined.
        self.0.with(|end| unsafe { *end })
    }
}

/// Two threads append and wait until their frame is on the disk. `sync` is what the leader does.
fn appenders_that_sync(sync: fn(&Log, &Disk) -> u64) {
    model(move || {
        let log = Log::new(3);
        let group = Arc::new(CommitGroup::new(0));
        let disk = Arc::new(Disk(UnsafeCell::new(0)));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (log, group, disk) = (log.clone(), group.clone(), disk.clone());
                thread::spawn(move || {
                    let at = log.reserve().expect("not closed");
                    log.fill(at);
                    log.publish(at);
                    loop {
                        match group.enter(at + 1, None, Duration::ZERO) {
                            Entered::Reached => break,
                            Entered::Lead(lead) => {
                                let look = || {
                                    log.look();
                                };
                                let synced = group.position().get();
                                log.tail.position().wait(synced + 1, None, look);
                                let to = sync(&log, &disk);
                                // What went to the disk was complete when it went.
                                log.check_below(to);
                                lead.finish(to);
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    // What is acknowledged is published, and completely there.
                    assert!(log.look() > at, "acknowledged before it was published");
                    log.check_below(at + 1);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(disk.read(), 2);
    });
}

/// An acknowledged append is published and on the disk, together with all before it (W1).
#[test]
fn what_is_acknowledged_is_published_and_synced() {
    appenders_that_sync(|log, disk| {
        let published = log.look();
        disk.write(published);
        published
    });
}

/// Twin: the leader syncs up to what is reserved, not to what is published.
#[test]
fn twin_syncing_what_is_only_reserved_acknowledges_too_much() {
    assert_caught(
        "broken_syncing_what_is_only_reserved_acknowledges_too_much",
        &["is not there", "Causality violation"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_syncing_what_is_only_reserved_acknowledges_too_much() {
    appenders_that_sync(|log, disk| {
        let reserved = log.tail.reserved();
        disk.write(reserved);
        reserved
    });
}

/// Three wait for three positions; each time of work moves the position by one.
fn hand_over(work: fn(&AtomicU64, Leadership<'_>)) {
    model(move || {
        let group = Arc::new(CommitGroup::new(0));
        let done = Arc::new(AtomicU64::new(0));
        let wait = move |group: &CommitGroup, done: &AtomicU64, target: u64| {
            loop {
                match group.enter(target, None, Duration::ZERO) {
                    Entered::Reached => break,
                    Entered::Lead(lead) => work(done, lead),
                    other => panic!("{other:?}"),
                }
            }
            assert!(done.load(Ordering::Relaxed) >= target, "woken too early");
        };
        let threads: Vec<_> = (1..=2)
            .map(|target| {
                let (group, done) = (group.clone(), done.clone());
                thread::spawn(move || wait(&group, &done, target))
            })
            .collect();
        wait(&group, &done, 2);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// Nobody sleeps in the queue without a leader, and nobody is woken before the work is done (G1-G3).
#[test]
fn leadership_is_handed_to_one_who_still_waits() {
    hand_over(|done, lead| {
        // One leader at a time: a plain load and store is enough.
        let next = done.load(Ordering::Relaxed) + 1;
        done.store(next, Ordering::Relaxed);
        lead.finish(next);
    });
}

/// Twin: the leader forgets to hand over.
#[test]
fn twin_a_leader_that_does_not_hand_over_leaves_the_queue_asleep() {
    assert_caught(
        "broken_a_leader_that_does_not_hand_over_leaves_the_queue_asleep",
        &["deadlock"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_leader_that_does_not_hand_over_leaves_the_queue_asleep() {
    hand_over(|done, lead| {
        let next = done.load(Ordering::Relaxed) + 1;
        done.store(next, Ordering::Relaxed);
        std::mem::forget(lead);
    });
}

/// Twin: the leader says more than it has done.
#[test]
fn twin_a_leader_that_announces_before_working_wakes_too_early() {
    assert_caught(
        "broken_a_leader_that_announces_before_working_wakes_too_early",
        &["woken too early"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_leader_that_announces_before_working_wakes_too_early() {
    hand_over(|done, lead| {
        let next = done.load(Ordering::Relaxed) + 1;
        lead.finish(next);
        done.store(next, Ordering::Relaxed);
    });
}

/// One gives up at once (a timeout, as loom has no time), one fails, one waits for good.
fn giving_up(on_timeout: fn(&CommitGroup)) {
    model(move || {
        let group = Arc::new(CommitGroup::new(0));
        let past = Instant::now();
        let quitter = {
            let group = group.clone();
            thread::spawn(move || match group.enter(1, Some(past), Duration::ZERO) {
                // It fails: dropped leadership is handed on (G4).
                Entered::Lead(lead) => drop(lead),
                Entered::TimedOut => on_timeout(&group),
                Entered::Reached => {}
                Entered::Stopped => panic!("nobody stops"),
            })
        };
        let stayer = {
            let group = group.clone();
            thread::spawn(move || {
                if let Entered::Lead(lead) = group.enter(1, None, Duration::ZERO) {
                    lead.finish(1);
                }
            })
        };
        if let Entered::Lead(lead) = group.enter(1, None, Duration::ZERO) {
            lead.finish(1);
        }
        quitter.join().unwrap();
        stayer.join().unwrap();
        assert_eq!(group.position().get(), 1);
        // Nobody leads any more.
        assert!(group.try_lead().is_some());
    });
}

/// A waiter that gives up takes no leadership with it (G4).
#[test]
fn who_gives_up_takes_no_leadership_along() {
    giving_up(|_| {});
}

/// Twin: who gives up takes leadership if it can, and forgets it.
#[test]
fn twin_leadership_taken_along_by_one_who_gives_up_is_lost() {
    assert_caught(
        "broken_leadership_taken_along_by_one_who_gives_up_is_lost",
        &["deadlock", "assertion"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_leadership_taken_along_by_one_who_gives_up_is_lost() {
    giving_up(|group| std::mem::forget(group.try_lead()));
}

/// Stop wakes those who lead, queue, and come later.
#[test]
fn stop_ends_every_wait() {
    model(|| {
        let group = Arc::new(CommitGroup::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let group = group.clone();
                thread::spawn(move || match group.enter(1, None, Duration::ZERO) {
                    Entered::Lead(lead) => drop(lead),
                    Entered::Stopped => {}
                    other => panic!("{other:?}"),
                })
            })
            .collect();
        group.stop();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(matches!(
            group.enter(1, None, Duration::ZERO),
            Entered::Stopped
        ));
    });
}

/// Twin: the stop wakes those who wait before it marks the end.
#[test]
fn twin_a_stop_that_wakes_before_it_marks_is_slept_through() {
    assert_caught(
        "broken_a_stop_that_wakes_before_it_marks_is_slept_through",
        &["deadlock"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_stop_that_wakes_before_it_marks_is_slept_through() {
    model(|| {
        let shared = Arc::new((Mutex::new(false), Condvar::new()));
        let waiter = {
            let shared = shared.clone();
            thread::spawn(move || {
                let mut stopped = shared.0.lock();
                while !*stopped {
                    shared.1.wait(&mut stopped);
                }
            })
        };
        shared.1.notify_all();
        *shared.0.lock() = true;
        waiter.join().unwrap();
    });
}
