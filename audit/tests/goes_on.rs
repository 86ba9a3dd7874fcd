//! V3: a trail that is written goes on between two reads of who verifies it, and nothing is said that is not so.

mod support;

use esker_audit::{FindingKind, Options, Trail};
use esker_wal::media::Media as _;
use esker_wal::media::sim::SimMedia;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use support::hooked::Hooked;
use support::{DIR, closed, keys, login, open, report_on, stepped, written};

/// Writes more than a segment, closes a file, and lets the live log take its segments for others.
fn go_on(trail: &Trail) {
    for n in 0..20 {
        trail.record(login(n).with("pad", "x".repeat(900))).unwrap();
    }
    trail.rotate().unwrap().unwrap();
    while trail.step() {}
}

/// A file is closed, and the live log lets go of it, each time that the live log was looked at, more often than looks are made.
#[test]
fn v3_files_closed_while_it_is_read_are_read_too() {
    let media = SimMedia::new(1);
    let (trail, hooked) = (Arc::new(open(&media)), Hooked::new(&media));
    go_on(&trail);
    let (other, mut left) = (trail.clone(), 60);
    hooked.hooks.each("list", "=audit/live", move || {
        go_on(&other);
        left -= 1;
        left > 0
    });
    let report = report_on(Arc::new(hooked));
    assert_eq!(report.findings, []);
    assert!(report.files > 60, "{}", report.files);
}

/// Retention takes the oldest file each time that a closed file is to be opened.
#[test]
fn v3_files_removed_while_it_is_read_are_not_missing() {
    let media = SimMedia::new(1);
    let options = Options {
        keep_bytes: Some(1),
        ..stepped(&media)
    };
    let trail = Trail::open(Path::new(DIR), keys(), options).unwrap().0;
    let (trail, hooked) = (Arc::new(trail), Hooked::new(&media));
    (0..3).for_each(|_| go_on(&trail));
    let (other, removed) = (trail.clone(), Arc::new(AtomicU32::new(0)));
    let (count, mut left) = (removed.clone(), 60);
    hooked.hooks.each("open", ".trail", move || {
        go_on(&other);
        count.fetch_add(other.clean().unwrap() as u32, Ordering::Relaxed);
        left -= 1;
        left > 0
    });
    assert_eq!(report_on(Arc::new(hooked.clone())).findings, []);
    assert!(removed.load(Ordering::Relaxed) >= 60);
    // Taken by somebody else, it is.
    trail.record(login(1)).unwrap();
    let first = Path::new(DIR).join(&closed(&media)[0]);
    go_on(&trail);
    let taken = media.clone();
    hooked
        .hooks
        .before("open", ".trail", move || taken.remove(&first).unwrap());
    let report = report_on(Arc::new(hooked));
    assert_eq!(
        report.findings.first().map(|f| f.kind),
        Some(FindingKind::Missing)
    );
}

/// `HEAD` is read four times while half of a write is in it.
#[test]
fn v3_a_head_that_is_written_meanwhile_is_not_damaged() {
    let media = SimMedia::new(1);
    let trail = open(&media);
    trail.record(login(1)).unwrap();
    let (hooked, torn, mut left) = (Hooked::new(&media), media.clone(), 4);
    let head = Path::new(DIR).join("HEAD");
    let path = head.clone();
    hooked.hooks.each("read", "HEAD", move || {
        let flip = |at: u64| {
            torn.flip(&path, at, 1).unwrap();
            torn.flip(&path, at + 512, 1).unwrap();
        };
        if left < 4 {
            flip(60 + left);
        }
        left -= 1;
        if left > 0 {
            flip(60 + left);
        }
        left > 0
    });
    assert_eq!(report_on(Arc::new(hooked)).findings, []);
    // What stays as it is, is.
    media.flip(&head, 70, 1).unwrap();
    media.flip(&head, 582, 1).unwrap();
    let report = report_on(Arc::new(media));
    assert_eq!(
        report.findings.first().map(|f| f.kind),
        Some(FindingKind::Head)
    );
}

/// The live log is put aside for a fresh one (U3), file by file, while it is looked at.
#[test]
fn v3_a_live_log_that_is_replaced_meanwhile_is_not_damaged() {
    let media = written(1, 4);
    let hooked = Hooked::new(&media);
    let live = Path::new(DIR).join("live");
    let files: Vec<PathBuf> = (media.list(&live).unwrap().into_iter())
        .filter(|e| !e.is_dir && e.name != "LOCK")
        .map(|e| live.join(e.name))
        .collect();
    for file in &files {
        let (aside, back) = (media.clone(), media.clone());
        let away = file.with_extension("away");
        let (from, to) = (file.clone(), away.clone());
        let moved = Arc::new(Mutex::new(false));
        let was = moved.clone();
        hooked.hooks.before("list", "=audit/live", move || {
            aside.rename(&from, &to).unwrap();
            *was.lock() = true;
        });
        let (from, to) = (away, file.clone());
        // It is back before the directory is listed the next time but one: for the second look.
        let mut lists = 0;
        hooked.hooks.each("list", "=audit", move || {
            lists += u32::from(*moved.lock());
            if lists == 2 {
                back.rename(&from, &to).unwrap();
            }
            lists < 2
        });
        let report = report_on(Arc::new(hooked.clone()));
        assert_eq!(report.findings, [], "{}", file.display());
    }
}
