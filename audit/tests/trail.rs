//! A trail, written, closed and opened again.

use esker_audit::{
    Key, Keyring, OnFailure, Options, Order, Policies, Policy, Query, Reader, Receipt, Record,
    Severity, Trail, VerifyOptions, Write, Written, verify,
};
use esker_wal::Workers;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::SimMedia;
use std::path::Path;
use std::sync::Arc;

fn keys() -> Keyring {
    Keyring::of(Key::from_secret([1; 32]))
}

fn stepped(media: &SimMedia) -> Options {
    Options {
        workers: Workers::Stepped,
        media: Arc::new(media.clone()),
        clock: Arc::new(ManualClock::default()),
        rotate_bytes: 64 << 10,
        ..Options::default()
    }
}

fn login(n: u64) -> Record {
    Record::new("user.login")
        .severity(Severity::Notice)
        .actor(n.to_string(), "ann")
        .success()
}

#[test]
fn records_are_numbered_on_over_restarts_and_rotations() {
    let media = SimMedia::new(1);
    let mut expected = 0;
    for life in 0..5 {
        let (trail, opened) = Trail::open(Path::new("audit"), keys(), stepped(&media)).unwrap();
        assert_eq!(opened.last, expected, "life {life}");
        assert_eq!(opened.findings, []);
        expected += 1;
        for n in 0..100 {
            let receipt = trail.record(login(n)).unwrap();
            expected += 1;
            let written = Written::Synced;
            assert_eq!(
                receipt,
                Receipt {
                    sequence: Some(expected),
                    written
                }
            );
            if n % 40 == 7 {
                assert!(trail.rotate().unwrap().is_some());
            }
        }
        trail.close().unwrap();
        expected += 1;
    }
}

/// A1: of what was not synced the power leaves a part of a record; what follows is chained to what is whole, and nothing acknowledged is behind the cut.
#[test]
fn a1_a_torn_last_record_is_cut_and_the_chain_goes_on() {
    let mut torn = 0;
    for seed in 0..60 {
        let media = SimMedia::new(seed);
        let options = || Options {
            policies: Policies::default().with(
                Severity::Info,
                Policy {
                    write: Write::Interval,
                    on_failure: OnFailure::Refuse,
                },
            ),
            ..stepped(&media)
        };
        let dir = Path::new("audit");
        let (trail, _) = Trail::open(dir, keys(), options()).unwrap();
        let synced = trail.record(login(1)).unwrap().sequence.unwrap();
        for n in 0..3 {
            let long = login(n)
                .severity(Severity::Info)
                .with("pad", "x".repeat(900));
            trail.record(long).unwrap();
        }
        media.power_cut(seed);
        drop(trail);
        let (trail, opened) = Trail::open(dir, keys(), options()).unwrap();
        assert_eq!(opened.findings, [], "seed {seed}");
        assert!(opened.last >= synced, "seed {seed}: {}", opened.last);
        torn += u64::from(opened.last < synced + 3);
        trail.record(login(2)).unwrap();
        trail.close().unwrap();
        let options = VerifyOptions {
            media: Arc::new(media.clone()),
            ..VerifyOptions::default()
        };
        let report = verify(dir, &keys(), &options).unwrap();
        assert_eq!(report.findings, [], "seed {seed}");
    }
    assert!(torn > 20, "{torn}");
}

#[test]
fn with_threads_on_files_too() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let (trail, opened) = Trail::open(dir.path(), keys(), Options::default()).unwrap();
        assert_eq!(opened.findings, []);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..200 {
                        trail.record(login(n)).unwrap();
                    }
                });
            }
        });
        trail.checkpoint().unwrap();
        trail.close().unwrap();
        assert_eq!(trail.stats().records, 802);
    }
}

/// The sequences that a query answers.
fn sequences(media: &SimMedia, query: Query) -> Vec<u64> {
    let reader = Reader::open_on(Path::new("audit"), keys(), Arc::new(media.clone())).unwrap();
    let mut records = reader.query(query).unwrap();
    let mut out = Vec::new();
    while let Some(found) = records.next().unwrap() {
        out.push(found.head.sequence);
    }
    out
}

#[test]
fn rd1_queries_answer_each_record_once_in_either_order() {
    let media = SimMedia::new(1);
    let (trail, _) = Trail::open(Path::new("audit"), keys(), stepped(&media)).unwrap();
    for n in 0..2000 {
        trail.record(login(n % 10)).unwrap();
        if n == 300 || n == 1200 {
            trail.rotate().unwrap();
        }
    }
    let all: Vec<u64> = (1..=2001).collect();
    assert_eq!(sequences(&media, Query::default()), all);
    let newest = Query {
        order: Order::Newest,
        ..Query::default()
    };
    let back: Vec<u64> = all.iter().rev().copied().collect();
    assert_eq!(sequences(&media, newest.clone()), back);
    let of_three = Query {
        actor: Some("3".to_owned()),
        action: Some("user.*".to_owned()),
        after: Some(1000),
        ..Query::default()
    };
    let expected: Vec<u64> = (0..2000).filter(|n| n % 10 == 3).map(|n| n + 2).collect();
    let (upper, lower): (Vec<u64>, Vec<u64>) = expected.iter().partition(|s| **s > 1000);
    assert_eq!(sequences(&media, of_three.clone()), upper);
    let back = Query {
        order: Order::Newest,
        ..of_three
    };
    let lower: Vec<u64> = lower.into_iter().rev().collect();
    assert_eq!(sequences(&media, back), lower);
    let none = Query {
        text: Some("nobody".to_owned()),
        ..Query::default()
    };
    assert!(sequences(&media, none).is_empty());
}

#[test]
fn rd3_what_is_closed_while_it_is_read_is_read_once() {
    let media = SimMedia::new(1);
    let (trail, _) = Trail::open(Path::new("audit"), keys(), stepped(&media)).unwrap();
    for n in 0..3000 {
        trail.record(login(n)).unwrap();
        if n == 1000 {
            trail.rotate().unwrap();
        }
    }
    for order in [Order::Oldest, Order::Newest] {
        let reader = Reader::open_on(Path::new("audit"), keys(), Arc::new(media.clone())).unwrap();
        let query = Query {
            order,
            ..Query::default()
        };
        let before = sequences(&media, query.clone());
        let mut records = reader.query(query).unwrap();
        let mut seen = Vec::new();
        while let Some(found) = records.next().unwrap() {
            seen.push(found.head.sequence);
            if seen.len() == 500 {
                trail.record(login(0)).unwrap();
                trail.rotate().unwrap();
                for n in 0..3000 {
                    trail.record(login(n)).unwrap();
                    while trail.step() {}
                }
            }
        }
        assert!(seen.starts_with(&before), "{order:?}");
        let rising = seen
            .windows(2)
            .all(|w| (w[0] < w[1]) == (order == Order::Oldest));
        assert!(rising, "{order:?}");
    }
}
