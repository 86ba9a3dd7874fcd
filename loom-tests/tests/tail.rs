//! Reserve, publish, wait: the log's tail (`esker_sync::tail`).
#![cfg(esker_loom)]

use esker_loom_tests::{Log, WORD, assert_caught, model, store_relaxed};
use esker_sync::watermark::WaitEnd;
use loom::thread;

/// Two appenders, each filling a frame in its own way, and one who looks twice.
fn appenders_and_a_looker(append: fn(&Log)) {
    model(move || {
        let log = Log::new(3);
        let appenders: Vec<_> = (0..2)
            .map(|_| {
                let log = log.clone();
                thread::spawn(move || append(&log))
            })
            .collect();
        for _ in 0..2 {
            let published = log.look();
            assert!(published <= log.tail.reserved());
            log.check_below(published);
        }
        for appender in appenders {
            appender.join().unwrap();
        }
        assert_eq!(log.look(), 2);
        log.check_below(2);
    });
}

/// Everything below `published` is completely written (T1, T2).
#[test]
fn what_is_published_is_completely_written() {
    appenders_and_a_looker(|log| {
        let at = log.reserve().expect("not closed");
        log.fill(at);
        log.publish(at);
    });
}

/// Twin: the word is stored without release.
#[test]
fn twin_a_word_stored_without_release_lets_half_a_frame_through() {
    assert_caught(
        "broken_a_word_stored_without_release_lets_half_a_frame_through",
        &["Causality violation", "assertion"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_word_stored_without_release_lets_half_a_frame_through() {
    appenders_and_a_looker(|log| {
        let at = log.reserve().expect("not closed");
        log.fill(at);
        store_relaxed(log.word(at), WORD);
    });
}

/// No word left over in a recycled segment reads as published (T3).
#[test]
fn stale_words_of_a_recycled_segment_are_never_published() {
    appenders_and_a_looker(|log| {
        let at = log.reserve().expect("not closed");
        log.fill(at);
        log.publish(at);
    });
}

/// Twin: the word behind a reservation is not zeroed.
#[test]
fn twin_without_zeroing_ahead_stale_words_are_published() {
    assert_caught(
        "broken_without_zeroing_ahead_stale_words_are_published",
        &["is not there", "assertion", "Causality violation"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_without_zeroing_ahead_stale_words_are_published() {
    appenders_and_a_looker(|log| {
        let at = log.reserve_without_clearing();
        log.fill(at);
        log.publish(at);
    });
}

/// One waits for two frames, published in any order.
fn waiter_and_appenders(publish: fn(&Log, u64)) {
    model(move || {
        let log = Log::new(3);
        let appenders: Vec<_> = (0..2)
            .map(|_| {
                let log = log.clone();
                thread::spawn(move || {
                    let at = log.reserve().expect("not closed");
                    log.fill(at);
                    publish(&log, at);
                })
            })
            .collect();
        let look = || {
            log.look();
        };
        assert_eq!(log.tail.position().wait(2, None, look), WaitEnd::Reached);
        log.check_below(2);
        for appender in appenders {
            appender.join().unwrap();
        }
    });
}

/// Who waits for `published` is woken by whoever fills the last hole (T4).
#[test]
fn a_waiter_is_woken_whichever_frame_is_published_last() {
    waiter_and_appenders(|log, at| log.publish(at));
}

/// Twin: the publisher looks for waiters before it publishes, not after.
#[test]
fn twin_looking_for_waiters_before_publishing_loses_a_wake_up() {
    assert_caught(
        "broken_looking_for_waiters_before_publishing_loses_a_wake_up",
        &["deadlock"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_looking_for_waiters_before_publishing_loses_a_wake_up() {
    waiter_and_appenders(|log, at| {
        // The one at 0 does it wrong.
        if at == 0 {
            if log.tail.is_awaited() {
                log.publish(at);
            } else {
                log.word(at)
                    .store(WORD, loom::sync::atomic::Ordering::Release);
            }
        } else {
            log.publish(at);
        }
    });
}

/// An append beside a close: refused, or part of what the close waits for and flushes.
fn close_against_append(close: fn(&Log) -> u64) {
    model(move || {
        let log = Log::new(4);
        let appender = {
            let log = log.clone();
            thread::spawn(move || {
                let mut last = None;
                for _ in 0..2 {
                    let Some(at) = log.reserve() else {
                        break;
                    };
                    log.fill(at);
                    log.publish(at);
                    last = Some(at);
                }
                last
            })
        };
        let end = close(&log);
        let look = || {
            log.look();
        };
        assert_eq!(log.tail.position().wait(end, None, look), WaitEnd::Reached);
        log.check_below(end);
        let last = appender.join().unwrap();
        assert_eq!(
            last.map_or(0, |at| at + 1),
            end,
            "an append that was taken is not flushed"
        );
        assert_eq!(log.reserve(), None, "append after close");
    });
}

/// Close flushes every append that was taken, and takes none after (W10).
#[test]
fn close_flushes_every_append_that_was_taken() {
    close_against_append(|log| {
        let mut append = log.append.lock();
        append.1 = true;
        log.tail.reserved()
    });
}

/// Twin: the end is read before the door is shut.
#[test]
fn twin_reading_the_end_before_closing_forgets_an_append() {
    assert_caught(
        "broken_reading_the_end_before_closing_forgets_an_append",
        &["an append that was taken is not flushed"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_reading_the_end_before_closing_forgets_an_append() {
    close_against_append(|log| {
        let end = log.tail.reserved();
        log.append.lock().1 = true;
        end
    });
}

/// One appends behind a frame whose owner gives it up, half filled; a third waits for both.
fn given_up(give_up: fn(&Log, u64)) {
    model(move || {
        let log = Log::new(3);
        let quitter = {
            let log = log.clone();
            thread::spawn(move || {
                let at = log.reserve().expect("not closed");
                log.fill(at);
                give_up(&log, at);
            })
        };
        let appender = {
            let log = log.clone();
            thread::spawn(move || {
                let at = log.reserve().expect("not closed");
                log.fill(at);
                log.publish(at);
            })
        };
        let look = || {
            log.look();
        };
        assert_eq!(log.tail.position().wait(2, None, look), WaitEnd::Reached);
        log.check_below(2);
        quitter.join().unwrap();
        appender.join().unwrap();
    });
}

/// A reservation that is given up becomes a void frame of zeros and holds nobody up (W8, T4).
#[test]
fn a_reservation_given_up_is_a_void_frame_and_holds_nobody_up() {
    given_up(|log, at| {
        log.zero(at);
        log.publish_void(at);
    });
}

/// Twin: it is dropped and nothing is published in its place.
#[test]
fn twin_a_reservation_that_is_only_dropped_holds_everybody_up() {
    assert_caught(
        "broken_a_reservation_that_is_only_dropped_holds_everybody_up",
        &["deadlock"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_reservation_that_is_only_dropped_holds_everybody_up() {
    given_up(|log, at| log.zero(at));
}

/// Twin: the void frame is published before its payload is zeroed.
#[test]
fn twin_a_void_frame_published_before_it_is_zeroed_is_half_a_frame() {
    assert_caught(
        "broken_a_void_frame_published_before_it_is_zeroed_is_half_a_frame",
        &["Causality violation", "is not there"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_void_frame_published_before_it_is_zeroed_is_half_a_frame() {
    given_up(|log, at| {
        log.publish_void(at);
        log.zero(at);
    });
}
