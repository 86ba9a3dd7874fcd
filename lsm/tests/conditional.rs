//! Writes that depend on values: judged and written as one step, also beside other writers.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests tell what they did"
)]

mod common;

use common::{DIR, options};
use esker_lsm::{Condition, Conditional, Store, StoreError, StoreOptions, WriteBatch};
use esker_wal::Workers;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::SimMedia;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn config(media: &SimMedia, workers: Workers) -> StoreOptions {
    let mut options = options(media, &Arc::new(ManualClock::default()));
    options.log.workers = workers;
    options
}

fn batch(pairs: &[(&str, &str)]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for (key, value) in pairs {
        batch.put(key.as_bytes(), value.as_bytes());
    }
    batch
}

fn is<'a>(key: &'a str, expected: Option<&'a str>) -> Condition<'a> {
    Condition {
        key: key.as_bytes(),
        expected: expected.map(str::as_bytes),
    }
}

#[test]
fn a_batch_is_written_only_if_all_conditions_hold() {
    let media = SimMedia::new(1);
    let (store, _) = Store::open(Path::new(DIR), config(&media, Workers::Stepped)).unwrap();
    let first = store.write_if(&[is("token", None)], &batch(&[("token", "1")]));
    assert!(matches!(first.unwrap(), Conditional::Written(_)));
    store.flush().unwrap();
    let work = batch(&[("a", "1"), ("b", "1")]);
    let cases: [(&[Condition<'_>], Option<usize>); 5] = [
        (&[is("token", None)], Some(0)),
        (&[is("token", Some("1")), is("a", Some("0"))], Some(1)),
        (&[is("token", Some("1")), is("a", None)], None),
        (&[is("a", None)], Some(0)),
        (&[], None),
    ];
    for (conditions, fails) in cases {
        let before = (store.visible(), store.log().reserved());
        match (store.write_if(conditions, &work).unwrap(), fails) {
            (Conditional::Written(written), None) => assert_eq!(written.end, store.visible()),
            (Conditional::Refused { condition, found }, Some(want)) => {
                assert_eq!(condition, want);
                assert_eq!(found, store.get(conditions[want].key).unwrap());
                assert_eq!(before, (store.visible(), store.log().reserved()));
            }
            other => panic!("{conditions:?}: {other:?}"),
        }
    }
    store.close().unwrap();
    let closed = store.write_if(&[], &work);
    assert!(matches!(closed, Err(StoreError::Closed)), "{closed:?}");
}

/// A counter that is only ever moved by conditional writes counts each of them, whatever else is written; what a lost race leaves in the
/// log is void, and replay finds the same state.
fn counts(threads: u64, rounds: u64, broken: bool) -> bool {
    let media = SimMedia::new(1);
    let (store, _) = Store::open(Path::new(DIR), config(&media, Workers::Threads)).unwrap();
    store.write(&batch(&[("n", "0")])).unwrap();
    let (won, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for t in 0..threads {
            let (store, won, lost) = (&store, &won, &lost);
            scope.spawn(move || {
                #[cfg(feature = "sabotage")]
                let _broken = broken.then(|| {
                    esker_lsm::sabotage::enable(esker_lsm::sabotage::CONDITION_NOT_RECHECKED)
                });
                let _ = broken;
                for round in 0..rounds {
                    let now = store.get(b"n").unwrap().value.unwrap();
                    let now = String::from_utf8(now.to_vec()).unwrap();
                    let next = (now.parse::<u64>().unwrap() + 1).to_string();
                    let own = format!("of-{t}-{round}");
                    let work = batch(&[("n", &next), (&own, &next)]);
                    match store.write_if(&[is("n", Some(&now))], &work).unwrap() {
                        Conditional::Written(_) => won.fetch_add(1, Ordering::Relaxed),
                        Conditional::Refused { .. } => lost.fetch_add(1, Ordering::Relaxed),
                    };
                    // Others write all the while.
                    store.write(&batch(&[("beside", &own)])).unwrap();
                }
            });
        }
    });
    let value = |store: &Store| -> u64 {
        let value = store.get(b"n").unwrap().value.unwrap();
        String::from_utf8(value.to_vec()).unwrap().parse().unwrap()
    };
    let won = won.into_inner();
    let sound = value(&store) == won;
    store.close().unwrap();
    let (store, _) = Store::open(Path::new(DIR), config(&media, Workers::Threads)).unwrap();
    sound && value(&store) == won
}

#[test]
fn of_writers_that_expect_the_same_value_one_wins() {
    for _ in 0..5 {
        assert!(counts(4, 200, false));
    }
}

#[cfg(feature = "sabotage")]
#[test]
fn conditions_judged_before_the_batch_has_its_place_are_caught() {
    assert!((0..100).any(|_| !counts(4, 200, true)));
}
