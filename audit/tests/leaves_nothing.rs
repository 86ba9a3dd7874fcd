//! E1, U3: a closed trail leaves no thread and no descriptor behind; a live file that is taken away under it is noticed, and nothing of it lost.
//!
//! Alone in its process, so that no other test's threads are counted.

mod support;

use esker_audit::{
    Anchor, OnFailure, Options, Policies, Query, Reader, Severity, Trail, VerifyOptions, Write,
    verify,
};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{keys, login, policy};

fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("esker-"))
        .collect()
}

fn descriptors(dir: &Path) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap();
    links
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter(|target| target.starts_with(dir))
        .count()
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Same-day size rotation, many times, with compression and retention beside four writers.
fn rotated_while_it_is_written(dir: &Path) {
    let options = Options {
        rotate_bytes: 64 << 10,
        keep_bytes: Some(1 << 20),
        interval: Duration::from_millis(20),
        checkpoint_entries: 500,
        policies: Policies::default().with(
            Severity::Notice,
            policy(Write::Interval, OnFailure::Block(Duration::from_secs(60))),
        ),
        anchor: Anchor {
            file: Some(dir.with_extension("anchors")),
            command: None,
        },
        ..Options::default()
    };
    let (trail, _) = Trail::open(dir, keys(), options).unwrap();
    until("its threads", || threads().len() >= 6);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..2500 {
                    trail.record(login(n).with("pad", "y".repeat(100))).unwrap();
                    if n % 500 == 0 {
                        std::thread::sleep(Duration::from_millis(60));
                    }
                }
            });
        }
    });
    // On a busy machine all of it may be one file.
    until("a rotation", || {
        for n in 0..200 {
            trail.record(login(n).with("pad", "y".repeat(100))).unwrap();
        }
        trail.stats().rotations > 3
    });
    trail.checkpoint().unwrap();
    trail.close().unwrap();
    assert_eq!(threads(), Vec::<String>::new());
    assert_eq!(descriptors(dir), 0);
    let report = verify(dir, &keys(), &VerifyOptions::default()).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(report.entries + report.removed, report.last);
    let notes = fs::read_to_string(dir.with_extension("anchors")).unwrap();
    let last = esker_audit::Checkpoint::parse(&notes, &keys()).unwrap();
    let against = VerifyOptions {
        against: Some(last),
        ..VerifyOptions::default()
    };
    let report = verify(dir, &keys(), &against).unwrap();
    assert_eq!(report.anchored, esker_audit::Anchored::Holds);
    for entry in fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".tmp"), "{name}");
    }
}

fn a_live_file_taken_away_loses_nothing(dir: &Path) {
    let options = || Options {
        interval: Duration::from_millis(20),
        ..Options::default()
    };
    let (trail, _) = Trail::open(dir, keys(), options()).unwrap();
    for n in 0..50 {
        trail.record(login(n)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    fs::rename(dir.join("live"), dir.join("taken")).unwrap();
    until("the missing file", || {
        trail.record(login(1)).unwrap();
        trail.stats().closed_files > 0
    });
    for n in 0..50 {
        trail.record(login(n)).unwrap();
    }
    let last = trail.record(login(51)).unwrap().sequence.unwrap();
    drop(trail);
    let report = verify(dir, &keys(), &VerifyOptions::default()).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.entries, report.last), (last + 1, last + 1));
    let reader = Reader::open(dir, keys()).unwrap();
    let query = Query {
        action: Some("esker.audit.live_missing".to_owned()),
        ..Query::default()
    };
    assert!(reader.query(query).unwrap().next().unwrap().is_some());
    let (trail, opened) = Trail::open(dir, keys(), options()).unwrap();
    assert_eq!(opened.findings, []);
    trail.close().unwrap();
}

#[test]
fn e1_a_closed_trail_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    rotated_while_it_is_written(&root.join("rotated"));
    a_live_file_taken_away_loses_nothing(&root.join("taken-away"));
    assert_eq!(threads(), Vec::<String>::new());
    assert_eq!(descriptors(&root), 0);
}
