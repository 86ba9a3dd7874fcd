//! Watermark, bell and stop token: nobody sleeps through what it waits for.
#![cfg(esker_loom)]

use esker_loom_tests::{assert_caught, model};
use esker_sync::bell::Bell;
use esker_sync::interrupt::Interrupt;
use esker_sync::oneshot::{NoValue, Promise, oneshot};
use esker_sync::shim::{Arc, Condvar, Mutex};
use esker_sync::stop::StopToken;
use esker_sync::watermark::{Place, WaitEnd, Watermark};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

/// A waiter is woken by the advance that reaches its target, whoever advances (WM2).
#[test]
fn a_watermark_wakes_who_waits_for_it() {
    model(|| {
        let mark = Arc::new(Watermark::new(0));
        let threads: Vec<_> = [1, 2]
            .map(|to| {
                let mark = mark.clone();
                thread::spawn(move || mark.advance(to))
            })
            .into();
        assert_eq!(mark.wait(2, None, || {}), WaitEnd::Reached);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(mark.get(), 2);
    });
}

/// Twin: the advance looks for waiters first.
#[test]
fn twin_a_watermark_that_looks_for_waiters_first_loses_one() {
    assert_caught(
        "broken_a_watermark_that_looks_for_waiters_first_loses_one",
        &["deadlock"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_watermark_that_looks_for_waiters_first_loses_one() {
    model(|| {
        let value = Arc::new(loom::sync::atomic::AtomicU64::new(0));
        let mark = Arc::new(Watermark::new(0));
        let thread = {
            let (mark, value) = (mark.clone(), value.clone());
            thread::spawn(move || {
                let awaited = mark.is_awaited();
                value.store(1, Ordering::Release);
                if awaited {
                    mark.advance(1);
                }
            })
        };
        let look = || {
            if value.load(Ordering::Acquire) == 1 {
                mark.advance(1);
            }
        };
        assert_eq!(mark.wait(1, None, look), WaitEnd::Reached);
        thread.join().unwrap();
    });
}

/// Wakes a task by unparking the thread that polls it, as an executor does.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

fn waker() -> Waker {
    Waker::from(std::sync::Arc::new(Unpark(thread::current())))
}

/// Polls until ready, asleep between.
fn block_on<T>(mut poll: impl FnMut(&Waker) -> Poll<T>) -> T {
    let waker = waker();
    loop {
        if let Poll::Ready(end) = poll(&waker) {
            return end;
        }
        thread::park();
    }
}

/// A task and a thread wait for a position that moves only when somebody looks. `poll` is how the task waits.
fn tasks(poll: fn(&Watermark, &mut Place, &Waker, &dyn Fn()) -> Poll<WaitEnd>) {
    model(move || {
        let value = Arc::new(loom::sync::atomic::AtomicU64::new(0));
        let mark = Arc::new(Watermark::new(0));
        let look = |mark: &Watermark, value: &loom::sync::atomic::AtomicU64| {
            mark.advance(value.load(Ordering::Acquire));
        };
        let thread = {
            let (mark, value) = (mark.clone(), value.clone());
            thread::spawn(move || {
                value.store(1, Ordering::Release);
                if mark.is_awaited() {
                    look(&mark, &value);
                }
            })
        };
        let mut place = Place::default();
        let end = block_on(|waker| poll(&mark, &mut place, waker, &|| look(&mark, &value)));
        assert_eq!(end, WaitEnd::Reached);
        thread.join().unwrap();
        assert_eq!(mark.waiting(), 0);
    });
}

/// A task is woken by who makes the position reach its target, and leaves no entry (WM2, WM4).
#[test]
fn a_task_is_woken_by_who_makes_its_target_be_reached() {
    tasks(|mark, place, waker, look| mark.poll(place, 1, waker, look));
}

/// Twin: the task looks first and registers after it.
#[test]
fn twin_a_task_that_looks_before_it_registers_sleeps_on() {
    assert_caught(
        "broken_a_task_that_looks_before_it_registers_sleeps_on",
        &["deadlock"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_task_that_looks_before_it_registers_sleeps_on() {
    tasks(|mark, place, waker, look| {
        look();
        mark.poll(place, 1, waker, || {})
    });
}

/// One task gives up beside an advance, another waits for it.
fn giving_up(leave: fn(&Watermark, Place)) {
    model(move || {
        let mark = Arc::new(Watermark::new(0));
        let quitter = {
            let mark = mark.clone();
            thread::spawn(move || {
                // One target that is reached meanwhile, and one that never is.
                for target in [1, 2] {
                    let mut place = Place::default();
                    if mark.poll(&mut place, target, &waker(), || {}).is_pending() {
                        leave(&mark, place);
                    }
                }
            })
        };
        let mover = {
            let mark = mark.clone();
            thread::spawn(move || mark.advance(1))
        };
        let mut place = Place::default();
        let end = block_on(|waker| mark.poll(&mut place, 1, waker, || {}));
        assert_eq!(end, WaitEnd::Reached);
        quitter.join().unwrap();
        mover.join().unwrap();
        assert_eq!(mark.waiting(), 0, "an entry was left behind");
    });
}

/// A task that gives up beside an advance leaves nothing behind, and takes nobody else's wake-up along (WM4).
#[test]
fn a_task_that_gives_up_leaves_nothing_behind() {
    giving_up(|mark, mut place| mark.leave(&mut place));
}

/// Twin: it goes without a word.
#[test]
fn twin_a_task_that_goes_without_a_word_leaves_its_entry_behind() {
    assert_caught(
        "broken_a_task_that_goes_without_a_word_leaves_its_entry_behind",
        &["an entry was left behind"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_task_that_goes_without_a_word_leaves_its_entry_behind() {
    giving_up(|_, place| drop(place));
}

/// Stop ends a task's wait, whichever comes first (WM2).
#[test]
fn stop_ends_the_wait_of_a_task() {
    model(|| {
        let mark = Arc::new(Watermark::new(0));
        let stopper = {
            let mark = mark.clone();
            thread::spawn(move || mark.stop())
        };
        let mut place = Place::default();
        let end = block_on(|waker| mark.poll(&mut place, 1, waker, || {}));
        assert_eq!(end, WaitEnd::Stopped);
        stopper.join().unwrap();
        assert_eq!(mark.waiting(), 0);
    });
}

/// Twin: the stop looks for those who wait before it marks the end.
#[test]
fn twin_a_stop_that_looks_before_it_marks_leaves_a_task_asleep() {
    assert_caught(
        "broken_a_stop_that_looks_before_it_marks_leaves_a_task_asleep",
        &["deadlock"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_stop_that_looks_before_it_marks_leaves_a_task_asleep() {
    model(|| {
        let mark = Arc::new(Watermark::new(0));
        let ended = Arc::new(AtomicBool::new(false));
        let stopper = {
            let (mark, ended) = (mark.clone(), ended.clone());
            thread::spawn(move || {
                let awaited = mark.is_awaited();
                ended.store(true, Ordering::Release);
                if awaited {
                    mark.stop();
                }
            })
        };
        let mut place = Place::default();
        block_on(|waker| {
            mark.poll(&mut place, 1, waker, || {
                if ended.load(Ordering::Acquire) {
                    mark.stop();
                }
            })
        });
        stopper.join().unwrap();
    });
}

/// Who sleeps on a token, or on a child of it, is woken by the stop, whichever comes first (ST1).
#[test]
fn a_stop_wakes_who_sleeps() {
    model(|| {
        let token = StopToken::new();
        let sleepers = [token.clone(), token.child()].map(|token| {
            thread::spawn(move || assert!(token.sleep(std::time::Duration::from_secs(3600))))
        });
        token.stop();
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
    });
}

/// Twin: it notifies before it marks, under the mutex or not.
#[test]
fn twin_a_stop_that_notifies_before_it_marks_is_slept_through() {
    assert_caught(
        "broken_a_stop_that_notifies_before_it_marks_is_slept_through",
        &["deadlock"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_stop_that_notifies_before_it_marks_is_slept_through() {
    model(|| {
        // The token, reduced.
        let shared = Arc::new((AtomicBool::new(false), Mutex::new(()), Condvar::new()));
        let stopper = {
            let shared = shared.clone();
            thread::spawn(move || {
                drop(shared.1.lock());
                shared.2.notify_all();
                shared.0.store(true, Ordering::Release);
            })
        };
        let mut state = shared.1.lock();
        while !shared.0.load(Ordering::Acquire) {
            shared.2.wait(&mut state);
        }
        drop(state);
        stopper.join().unwrap();
    });
}

/// An interrupt ends the wait that it finds or that comes later, and what was done before it is seen (IN1, IN2).
#[test]
fn an_interrupt_ends_the_wait_of_its_reader() {
    model(|| {
        let mark = Arc::new(Watermark::new(0));
        let interrupt = Arc::new(Interrupt::default());
        let why = Arc::new(AtomicBool::new(false));
        let raiser = {
            let (interrupt, why) = (interrupt.clone(), why.clone());
            thread::spawn(move || {
                why.store(true, Ordering::Relaxed);
                interrupt.raise();
            })
        };
        let end = mark.wait_unless(&interrupt, 1, None, || {});
        assert_eq!(end, None);
        assert!(why.load(Ordering::Relaxed), "not what was done before");
        raiser.join().unwrap();
        assert_eq!(mark.waiting(), 0);
    });
}

/// Twin: who raises looks for the waiter first.
#[test]
fn twin_an_interrupt_that_looks_for_the_waiter_first_is_slept_through() {
    assert_caught(
        "broken_an_interrupt_that_looks_for_the_waiter_first_is_slept_through",
        &["deadlock"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_an_interrupt_that_looks_for_the_waiter_first_is_slept_through() {
    model(|| {
        // The interrupt, reduced: its flag, and who waits.
        let shared = Arc::new((AtomicBool::new(false), Mutex::new(None::<thread::Thread>)));
        let raiser = {
            let shared = shared.clone();
            thread::spawn(move || {
                if let Some(thread) = &*shared.1.lock() {
                    thread.unpark();
                }
                shared.0.store(true, Ordering::Release);
            })
        };
        *shared.1.lock() = Some(thread::current());
        while !shared.0.load(Ordering::Acquire) {
            thread::park();
        }
        raiser.join().unwrap();
    });
}

/// A ring is never slept through, and what was done before it is seen (B1, B2).
#[test]
fn a_bell_is_heard() {
    model(|| {
        let bell = Arc::new(Bell::default());
        let work = Arc::new(AtomicBool::new(false));
        let thread = {
            let (bell, work) = (bell.clone(), work.clone());
            thread::spawn(move || {
                work.store(true, Ordering::Relaxed);
                bell.ring();
            })
        };
        assert!(bell.wait(None));
        assert!(work.load(Ordering::Relaxed));
        thread.join().unwrap();
    });
}

/// Twin: the ringer does not take the mutex between setting and notifying.
#[test]
fn twin_a_bell_that_rings_without_the_mutex_is_slept_through() {
    assert_caught(
        "broken_a_bell_that_rings_without_the_mutex_is_slept_through",
        &["deadlock"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_bell_that_rings_without_the_mutex_is_slept_through() {
    model(|| {
        let shared = Arc::new((AtomicBool::new(false), Mutex::new(()), Condvar::new()));
        let thread = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.0.store(true, Ordering::Release);
                shared.2.notify_one();
            })
        };
        let mut guard = shared.1.lock();
        while !shared.0.load(Ordering::Acquire) {
            shared.2.wait(&mut guard);
        }
        drop(guard);
        thread.join().unwrap();
    });
}

/// A callback runs exactly once, whether it is registered before or after the stop (ST2).
#[test]
fn a_stop_callback_runs_exactly_once() {
    model(|| {
        let token = StopToken::new();
        let runs = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
        let thread = {
            let token = token.clone();
            thread::spawn(move || token.stop())
        };
        let child = token.child();
        let counted = runs.clone();
        child.on_stop(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        thread.join().unwrap();
        assert!(child.is_stopped());
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    });
}

/// Twin: whether it is stopped is tested before the mutex is taken.
#[test]
fn twin_a_stop_tested_before_the_mutex_loses_a_callback() {
    assert_caught(
        "broken_a_stop_tested_before_the_mutex_loses_a_callback",
        &["a callback was lost"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_stop_tested_before_the_mutex_loses_a_callback() {
    model(|| {
        // The token, reduced: callbacks registered and callbacks run.
        let shared = Arc::new((AtomicBool::new(false), Mutex::new((0, 0))));
        let stopper = {
            let shared = shared.clone();
            thread::spawn(move || {
                let mut callbacks = shared.1.lock();
                shared.0.store(true, Ordering::Release);
                callbacks.1 += std::mem::take(&mut callbacks.0);
            })
        };
        if shared.0.load(Ordering::Acquire) {
            shared.1.lock().1 += 1;
        } else {
            shared.1.lock().0 += 1;
        }
        stopper.join().unwrap();
        assert_eq!(shared.1.lock().1, 1, "a callback was lost");
    });
}

/// A promise ends its waiter's wait once, kept or dropped, thread or task (OS1).
fn promises(end: fn(Promise<u8>), seen: Result<u8, NoValue>) {
    model(move || {
        let (promise, pending) = oneshot();
        let thread = thread::spawn(move || end(promise));
        assert_eq!(pending.wait(None), seen);
        thread.join().unwrap();
    });
    model(move || {
        let (promise, mut pending) = oneshot();
        let thread = thread::spawn(move || end(promise));
        let ended = block_on(|waker| Pin::new(&mut pending).poll(&mut Context::from_waker(waker)));
        assert_eq!(ended, seen);
        thread.join().unwrap();
    });
}

#[test]
fn a_promise_that_is_kept_reaches_its_waiter() {
    promises(|promise| promise.keep(7), Ok(7));
}

#[test]
fn a_promise_that_is_dropped_is_seen_as_broken() {
    promises(drop, Err(NoValue::Broken));
}

/// Twin: the value is put there without the mutex that its waiter holds between looking and sleeping.
#[test]
fn twin_a_promise_kept_beside_the_mutex_is_slept_through() {
    assert_caught(
        "broken_a_promise_kept_beside_the_mutex_is_slept_through",
        &["deadlock"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_promise_kept_beside_the_mutex_is_slept_through() {
    model(|| {
        let shared = Arc::new((AtomicBool::new(false), Mutex::new(()), Condvar::new()));
        let keeper = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.0.store(true, Ordering::Release);
                shared.2.notify_one();
            })
        };
        let mut guard = shared.1.lock();
        while !shared.0.load(Ordering::Acquire) {
            esker_sync::shim::wait_until(&shared.2, &mut guard, None);
        }
        drop(guard);
        keeper.join().unwrap();
    });
}
