//! The attended thing: a mark that is raised is put on it, by one at a time, and who raises it waits for nobody.
#![cfg(esker_loom)]

use esker_loom_tests::{assert_caught, model};
use esker_sync::attended::Attended;
use esker_sync::shim::{Arc, Mutex};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

/// Its mark is written without synchronisation: loom reports two at once.
#[derive(Default)]
struct Thing {
    mark: UnsafeCell<u64>,
    /// Loom lets others run at atomics alone: there must be one while the thing is held.
    puts: AtomicU64,
}

impl Thing {
    fn put(&mut self, mark: u64) -> bool {
        self.mark.with_mut(|at| {
            // SAFETY: only who has the thing comes here; that this is so is what loom checks.
            unsafe { *at = mark.max(*at) };
        });
        self.puts.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn mark(&self) -> u64 {
        // SAFETY: as in `put`.
        self.mark.with(|at| unsafe { *at })
    }
}

/// AT1, AT2: two who raise the mark beside one who has the thing; the higher mark is on it in the end.
#[test]
fn a_mark_that_is_raised_is_put_on_the_thing() {
    model(|| {
        let thing = Arc::new(Attended::new(Thing::default()));
        let threads: Vec<_> = [2, 3]
            .map(|mark| {
                let thing = thing.clone();
                thread::spawn(move || thing.raise(mark, Thing::put))
            })
            .into();
        thing.with(
            |thing| {
                thing.put(1);
            },
            Thing::put,
        );
        for thread in threads {
            thread.join().unwrap();
        }
        let marked = thing.with(|thing| thing.mark(), |_, _| panic!("it was left behind"));
        assert_eq!(marked, 3);
    });
}

#[test]
fn twin_who_lets_go_without_a_look_leaves_a_mark_behind() {
    assert_caught(
        "broken_who_lets_go_without_a_look_leaves_a_mark_behind",
        &["left == right"],
    );
}

#[test]
fn twin_who_looks_before_letting_go_leaves_a_mark_behind() {
    assert_caught(
        "broken_who_looks_before_letting_go_leaves_a_mark_behind",
        &["left == right"],
    );
}

#[test]
fn twin_without_the_fences_a_mark_is_left_behind() {
    assert_caught(
        "broken_without_the_fences_a_mark_is_left_behind",
        &["left == right"],
    );
}

/// One who raises the mark to 1, beside `have`, who has the thing.
fn raised_beside(fenced: bool, have: fn(&Mutex<Thing>, &AtomicU64)) {
    model(move || {
        let shared = Arc::new((Mutex::new(Thing::default()), AtomicU64::new(0)));
        let thread = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (thing, raised) = &*shared;
                raised.fetch_max(1, Ordering::Relaxed);
                if fenced {
                    fence(Ordering::SeqCst);
                }
                if let Some(mut thing) = thing.try_lock() {
                    thing.put(1);
                }
            })
        };
        have(&shared.0, &shared.1);
        thread.join().unwrap();
        assert_eq!(shared.0.lock().mark(), 1);
    });
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_who_lets_go_without_a_look_leaves_a_mark_behind() {
    raised_beside(true, |thing, _| {
        thing.lock().put(0);
    });
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_who_looks_before_letting_go_leaves_a_mark_behind() {
    raised_beside(true, |thing, raised| {
        let mut thing = thing.lock();
        fence(Ordering::SeqCst);
        let raised = raised.load(Ordering::Relaxed);
        thing.put(raised);
    });
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_without_the_fences_a_mark_is_left_behind() {
    raised_beside(false, |thing, raised| {
        thing.lock().put(0);
        let raised = raised.load(Ordering::Relaxed);
        if raised > 0 {
            thing.lock().put(raised);
        }
    });
}
