//! A trail, written, closed and opened again.

use esker_audit::{Key, Keyring, Options, Receipt, Record, Severity, Trail, Written};
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
