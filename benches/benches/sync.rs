//! What do the primitives cost, alone and when threads contend for them?
//!
//! `cargo bench -p esker-benches --bench sync [-- FILTER]`. A contended figure is the time of one operation of one thread while
//! the others do the same.
#![allow(missing_docs, reason = "criterion_group! makes public items")]

use criterion::{Criterion, criterion_group, criterion_main};
use esker_sync::bell::Bell;
use esker_sync::events::EventBus;
use esker_sync::group::{CommitGroup, Entered};
use esker_sync::tail::{Tail, Words};
use esker_sync::watermark::Watermark;
use parking_lot::Mutex;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Runs `operation(thread)` `n` times in each of `threads`; the time from their start to the last one's end.
fn contended(threads: usize, n: u64, operation: impl Fn(usize) + Sync) -> Duration {
    let start = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (start, operation) = (&start, &operation);
                scope.spawn(move || {
                    start.wait();
                    for _ in 0..n {
                        operation(thread);
                    }
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        for worker in workers {
            worker.join().expect("a worker");
        }
        began.elapsed()
    })
}

/// A ring of frames of one word each.
const RING: u64 = 1 << 16;

struct Ring<'a>(&'a [AtomicU64]);

impl Words for Ring<'_> {
    fn load(&mut self, at: u64, f: impl Fn(&AtomicU64) -> u64) -> Option<u64> {
        Some(f(&self.0[(at % RING) as usize]))
    }
    fn span(_word: u64) -> u64 {
        1
    }
}

fn tail(c: &mut Criterion) {
    for threads in [1, 2, 4] {
        c.bench_function(
            &format!("tail/reserve-publish-advance/{threads}-threads"),
            |b| {
                let words: Vec<AtomicU64> = (0..RING).map(|_| AtomicU64::new(0)).collect();
                let (tail, turn) = Tail::new(0);
                let turn = Mutex::new(turn);
                b.iter_custom(|n| {
                    contended(threads, n, |_| {
                        let at = {
                            let mut turn = turn.lock();
                            let behind = (tail.reserved() + 1) % RING;
                            tail.reserve(&mut turn, 1, Some(&words[behind as usize]))
                        };
                        let awaited = tail.publish(&words[(at % RING) as usize], 1);
                        assert!(!awaited, "nobody waits");
                        // Often enough that the ring never laps `published`.
                        if at.is_multiple_of(64) {
                            tail.advance(&mut Ring(&words));
                        }
                    })
                });
            },
        );
    }
}

fn watermark(c: &mut Criterion) {
    let mark = Watermark::new(0);
    let next = AtomicU64::new(0);
    for threads in [1, 2, 4] {
        c.bench_function(&format!("watermark/advance/{threads}-threads"), |b| {
            b.iter_custom(|n| {
                contended(threads, n, |_| {
                    mark.advance(next.fetch_add(1, Ordering::Relaxed));
                })
            });
        });
    }
    // Two threads, each waiting for the other's: half of a round is one wake-up.
    c.bench_function("watermark/wake-up-round-trip", |b| {
        b.iter_custom(|n| {
            let sides = [Watermark::new(0), Watermark::new(0)];
            let turns = [AtomicU64::new(0), AtomicU64::new(0)];
            contended(2, n, |thread| {
                let turn = turns[thread].fetch_add(1, Ordering::Relaxed) + 1;
                sides[thread].advance(turn);
                sides[1 - thread].wait(turn, None, || {});
            })
        });
    });
}

fn group(c: &mut Criterion) {
    for threads in [1, 4, 16, 64] {
        c.bench_function(&format!("group/enter-finish/{threads}-threads"), |b| {
            b.iter_custom(|n| {
                let group = CommitGroup::new(0);
                let next = AtomicU64::new(0);
                contended(threads, n, |_| {
                    let target = next.fetch_add(1, Ordering::AcqRel) + 1;
                    match group.enter(target, None, Duration::ZERO) {
                        Entered::Lead(lead) => lead.finish(next.load(Ordering::Acquire)),
                        Entered::Reached => {}
                        other => panic!("{other:?}"),
                    }
                })
            });
        });
    }
}

fn bell(c: &mut Criterion) {
    for threads in [1, 2, 4] {
        let bell = Bell::default();
        c.bench_function(&format!("bell/ring/{threads}-threads"), |b| {
            b.iter_custom(|n| contended(threads, n, |_| bell.ring()));
        });
    }
}

fn events(c: &mut Criterion) {
    let bus = EventBus::<u64>::new();
    c.bench_function("events/publish/no-subscriber", |b| {
        b.iter(|| bus.publish(&1));
    });
    let mut subscription = bus.subscribe(16, |_| true);
    c.bench_function("events/publish/1-subscriber-that-takes-it", |b| {
        b.iter(|| {
            bus.publish(&1);
            subscription.try_next()
        });
    });
    let _filtered: Vec<_> = (0..8).map(|_| bus.subscribe(16, |_| false)).collect();
    c.bench_function("events/publish/and-8-that-filter-it-out", |b| {
        b.iter(|| {
            bus.publish(&1);
            subscription.try_next()
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = tail, watermark, group, bell, events
}
criterion_main!(benches);
