//! What the models share: a log of one-unit frames whose words and payloads loom watches.
//!
//! Empty unless built with `--cfg esker_loom`; see README.md beside this crate's manifest.
#![cfg(esker_loom)]

use esker_sync::shim::atomic::{AtomicU64, Ordering};
use esker_sync::shim::{Arc, Mutex};
use esker_sync::tail::{Tail, Turn, Words};
use loom::cell::UnsafeCell;

/// What an appender writes as a frame's word.
pub const WORD: u64 = 1;
/// What somebody writes who gives his reservation up.
pub const VOID: u64 = 2;
/// What a recycled segment holds where this life has not written yet: reads as a frame of one unit.
pub const STALE: u64 = 77;

/// A log in memory. Frames take one unit: a word, and a payload that is written without synchronisation.
pub struct Log {
    /// The tail under test.
    pub tail: Tail,
    words: Vec<AtomicU64>,
    payloads: Vec<UnsafeCell<u64>>,
    /// The right to reserve, and whether the log is closed.
    pub append: Mutex<(Turn, bool)>,
}

impl Log {
    /// An empty log with room for `frames`, whose words are what a recycled file leaves there.
    #[must_use]
    pub fn new(frames: usize) -> Arc<Log> {
        let (tail, turn) = Tail::new(0);
        Arc::new(Log {
            tail,
            // The first word of a segment is zeroed before anybody knows of it.
            words: (0..frames)
                .map(|at| AtomicU64::new(if at == 0 { 0 } else { STALE }))
                .collect(),
            payloads: (0..frames).map(|_| UnsafeCell::new(0)).collect(),
            append: Mutex::new((turn, false)),
        })
    }

    /// Reserves a frame; `None` when closed.
    pub fn reserve(&self) -> Option<u64> {
        let mut append = self.append.lock();
        if append.1 {
            return None;
        }
        let behind = self.words.get(self.tail.reserved() as usize + 1);
        Some(self.tail.reserve(&mut append.0, 1, behind))
    }

    /// As `reserve`, but leaves what stands behind the frame: a broken twin.
    pub fn reserve_without_clearing(&self) -> u64 {
        self.tail.reserve(&mut self.append.lock().0, 1, None)
    }

    /// Writes the payload of the frame at `at`.
    pub fn fill(&self, at: u64) {
        // SAFETY: only who reserved the frame writes it; that nobody reads it before it is published is
        // what loom checks.
        self.payloads[at as usize].with_mut(|p| unsafe { *p = at + 1 });
    }

    /// Zeros the payload of the frame at `at`, whose owner gave it up.
    pub fn zero(&self, at: u64) {
        // SAFETY: as in `fill`.
        self.payloads[at as usize].with_mut(|p| unsafe { *p = 0 });
    }

    /// Publishes the frame at `at` as one that was given up.
    pub fn publish_void(&self, at: u64) {
        if self.tail.publish(self.word(at), VOID) {
            self.look();
        }
    }

    /// The word of the frame at `at`.
    pub fn word(&self, at: u64) -> &AtomicU64 {
        &self.words[at as usize]
    }

    /// Publishes the frame at `at`, and looks on behalf of those who wait.
    pub fn publish(&self, at: u64) {
        if self.tail.publish(self.word(at), WORD) {
            self.look();
        }
    }

    /// How far the log is published.
    pub fn look(&self) -> u64 {
        self.tail.advance(&mut Row(&self.words))
    }

    /// Asserts that every payload below `end` was written by this life, completely, or zeroed where it was given up.
    pub fn check_below(&self, end: u64) {
        for at in 0..end {
            // Relaxed: what is below `published` was seen with acquire.
            let void = self.word(at).load(Ordering::Relaxed) == VOID;
            // SAFETY: below `published` nobody writes any more; that this is so is what loom checks.
            let payload = self.payloads[at as usize].with(|p| unsafe { *p });
            let whole = if void { 0 } else { at + 1 };
            assert_eq!(payload, whole, "frame {at} of {end} is not there");
        }
    }
}

struct Row<'a>(&'a [AtomicU64]);

impl Words for Row<'_> {
    fn load(&mut self, at: u64, f: impl Fn(&AtomicU64) -> u64) -> Option<u64> {
        self.0.get(at as usize).map(f)
    }

    fn span(_word: u64) -> u64 {
        1
    }
}

/// Runs `f` under every schedule with at most `LOOM_MAX_PREEMPTIONS` preemptions, three without it, and prints how many those
/// were under the name of the test.
pub fn model(f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    let bound = *builder.preemption_bound.get_or_insert(3);
    let schedules = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = schedules.clone();
    builder.check(move || {
        // Of std: loom does not see it.
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        f();
    });
    let schedules = schedules.load(std::sync::atomic::Ordering::Relaxed);
    let test = std::thread::current();
    let name = test.name().unwrap_or_default();
    println!("schedules: {schedules:8} with {bound} preemptions: {name}");
}

/// Relaxed store, for twins.
pub fn store_relaxed(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

/// Runs the ignored test `twin` of this test binary in a process of its own, and asserts that loom caught it
/// with a message that contains one of `reasons`.
///
/// A process of its own, because a deadlock found by loom unwinds through destructors that loom watches too,
/// and ends in an abort.
pub fn assert_caught(twin: &str, reasons: &[&str]) {
    let exe = std::env::current_exe().expect("the path of this test");
    let output = std::process::Command::new(exe)
        .args(["--ignored", "--exact", twin, "--nocapture"])
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("the test runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let ran = String::from_utf8_lossy(&output.stdout).contains("running 1 test");
    assert!(ran, "there is no twin {twin}");
    assert!(!output.status.success(), "loom did not catch {twin}");
    assert!(
        reasons.iter().any(|reason| said.contains(reason)),
        "loom caught {twin} for another reason: {said}"
    );
}
