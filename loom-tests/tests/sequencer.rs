//! The sequencer (`esker_sync::sequencer`): what is visible is done, and nobody waits for what will never be.
#![cfg(esker_loom)]

use esker_loom_tests::{assert_caught, model};
use esker_sync::sequencer::{Broken, Sequencer};
use esker_sync::shim::{Arc, Condvar, Mutex};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

/// Two do their work on one position each, in any order, while one looks.
fn done_in_any_order(work: fn(&Sequencer, &UnsafeCell<u64>, u64)) {
    model(move || {
        let all = Arc::new((Sequencer::new(0), [UnsafeCell::new(0), UnsafeCell::new(0)]));
        let workers: Vec<_> = (0..2)
            .map(|at| {
                let all = all.clone();
                thread::spawn(move || work(&all.0, &all.1[at as usize], at))
            })
            .collect();
        let check = |visible: u64| {
            for cell in &all.1[..visible as usize] {
                // SAFETY: what is visible is not written any more; loom watches.
                assert_eq!(cell.with(|c| unsafe { *c }), 1, "visible and not done");
            }
        };
        check(all.0.visible());
        all.0.wait(2).expect("nobody failed");
        check(2);
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

/// Everything below `visible` is done, whoever is done first, and who waits for it is woken (Q1).
#[test]
fn what_is_visible_is_done() {
    done_in_any_order(|sequencer, cell, at| {
        // SAFETY: each writes its own; loom watches.
        cell.with_mut(|c| unsafe { *c = 1 });
        sequencer.complete(at, at + 1);
    });
}

/// Twin: completed before it is done.
#[test]
fn twin_completed_before_it_is_done() {
    assert_caught(
        "broken_completed_before_it_is_done",
        &["visible and not done", "Causality violation"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_completed_before_it_is_done() {
    done_in_any_order(|sequencer, cell, at| {
        sequencer.complete(at, at + 1);
        // SAFETY: each writes its own; loom watches.
        cell.with_mut(|c| unsafe { *c = 1 });
    });
}

/// A writer that fails leaves a hole for ever: who waits beyond it is told, whichever comes first (Q3).
#[test]
fn who_waits_beyond_a_hole_is_told() {
    model(|| {
        let sequencer = Arc::new(Sequencer::new(0));
        let failing = {
            let sequencer = sequencer.clone();
            thread::spawn(move || sequencer.fail())
        };
        let behind = {
            let sequencer = sequencer.clone();
            thread::spawn(move || sequencer.complete(1, 2))
        };
        assert_eq!(sequencer.wait(2), Err(Broken));
        failing.join().unwrap();
        behind.join().unwrap();
        assert_eq!(sequencer.visible(), 0);
    });
}

/// Twin: the failure is told beside the mutex.
#[test]
fn twin_a_failure_told_beside_the_mutex_is_slept_through() {
    assert_caught(
        "broken_a_failure_told_beside_the_mutex_is_slept_through",
        &["deadlock"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_failure_told_beside_the_mutex_is_slept_through() {
    model(|| {
        // The sequencer, reduced.
        let shared = Arc::new((AtomicBool::new(false), Mutex::new(()), Condvar::new()));
        let failing = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.0.store(true, Ordering::Release);
                shared.2.notify_all();
            })
        };
        let mut state = shared.1.lock();
        while !shared.0.load(Ordering::Acquire) {
            shared.2.wait(&mut state);
        }
        drop(state);
        failing.join().unwrap();
    });
}
