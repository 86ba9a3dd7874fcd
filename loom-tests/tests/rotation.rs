//! Rotation into a recycled segment, on the real tail: what the file holds from its former life is no frame of this one.
#![cfg(esker_loom)]

use esker_loom_tests::{STALE, WORD, assert_caught, model};
use esker_sync::shim::atomic::{AtomicU64, Ordering};
use esker_sync::shim::{Arc, Mutex};
use esker_sync::tail::{Tail, Turn, Words};
use esker_sync::watermark::WaitEnd;
use loom::cell::UnsafeCell;
use loom::thread;

/// Segments of one frame each. The first is active; the others were used before, and hold what a client had chosen.
struct Log {
    tail: Tail,
    turn: Mutex<Turn>,
    words: [AtomicU64; 2],
    payloads: [UnsafeCell<u64>; 2],
    /// Segments that are known.
    known: AtomicU64,
    activate: fn(&Log, u64),
}

struct Row<'a>(&'a Log);

impl Words for Row<'_> {
    fn load(&mut self, at: u64, f: impl Fn(&AtomicU64) -> u64) -> Option<u64> {
        (at < self.0.known.load(Ordering::Acquire)).then(|| f(&self.0.words[at as usize]))
    }

    fn span(_word: u64) -> u64 {
        1
    }
}

impl Log {
    fn look(&self) -> u64 {
        self.tail.advance(&mut Row(self))
    }

    fn append(&self) {
        let at = {
            let mut turn = self.turn.lock();
            // Relaxed: changed under the lock.
            let at = self.tail.reserved();
            if at == self.known.load(Ordering::Relaxed) {
                (self.activate)(self, at);
            }
            self.tail.reserve(&mut turn, 1, None)
        };
        // SAFETY: only who reserved the frame writes it; loom watches.
        self.payloads[at as usize].with_mut(|p| unsafe { *p = at + 1 });
        if self.tail.publish(&self.words[at as usize], WORD) {
            self.look();
        }
    }

    fn check_below(&self, end: u64) {
        for at in 0..end {
            // SAFETY: below `published` nobody writes any more; loom watches.
            let payload = self.payloads[at as usize].with(|p| unsafe { *p });
            assert_eq!(payload, at + 1, "frame {at} of {end} is not there");
        }
    }
}

fn rotated(activate: fn(&Log, u64)) {
    model(move || {
        let (tail, turn) = Tail::new(0);
        let log = Arc::new(Log {
            tail,
            turn: Mutex::new(turn),
            words: [AtomicU64::new(0), AtomicU64::new(STALE)],
            payloads: [UnsafeCell::new(0), UnsafeCell::new(0)],
            known: AtomicU64::new(1),
            activate,
        });
        let appenders: Vec<_> = (0..2)
            .map(|_| {
                let log = log.clone();
                thread::spawn(move || log.append())
            })
            .collect();
        log.check_below(log.look());
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

/// A recycled segment full of old bytes is rotated into while others publish, look and wait: none of them is a frame (T3, W4).
#[test]
fn no_old_word_is_published_when_the_log_rotates_into_a_recycled_segment() {
    rotated(|log, at| {
        log.words[at as usize].store(0, Ordering::Relaxed);
        log.known.store(at + 1, Ordering::Release);
    });
}

/// Twin: the segment is made known before its first word is zeroed.
#[test]
fn twin_a_segment_known_before_its_first_word_is_zeroed() {
    assert_caught(
        "broken_a_segment_known_before_its_first_word_is_zeroed",
        &["is not there", "Causality violation"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_segment_known_before_its_first_word_is_zeroed() {
    rotated(|log, at| {
        log.known.store(at + 1, Ordering::Release);
        log.words[at as usize].store(0, Ordering::Relaxed);
    });
}

/// Twin: it is made known without release.
#[test]
fn twin_a_segment_made_known_without_release() {
    assert_caught(
        "broken_a_segment_made_known_without_release",
        &["is not there", "Causality violation"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_segment_made_known_without_release() {
    rotated(|log, at| {
        log.words[at as usize].store(0, Ordering::Relaxed);
        log.known.store(at + 1, Ordering::Relaxed);
    });
}
