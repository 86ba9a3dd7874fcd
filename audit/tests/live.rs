//! U3, U5: what becomes of a trail whose live log is taken away, replaced or changed under it.

mod support;

use esker_audit::{
    Error, FindingKind, OnFailure, OnTamper, Options, Policies, Record, Trail, VerifyOptions,
    Write, Written, verify,
};
use esker_wal::Workers;
use esker_wal::media::Media as _;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::real::RealMedia;
use esker_wal::media::sim::{CallKind, EIO, Fault, SimMedia};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use support::{DIR, keys, login, policy, report, stepped};

/// A trail that refuses, stepped, and its clock.
fn begun(dir: &Path, media: &SimMedia, of: Options) -> (Trail, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let options = Options {
        clock: clock.clone(),
        policies: Policies::all(policy(Write::Sync, OnFailure::Refuse)),
        media: match dir == Path::new(DIR) {
            true => Arc::new(media.clone()),
            false => Arc::new(RealMedia::default()),
        },
        ..of
    };
    (Trail::open(dir, keys(), options).unwrap().0, clock)
}

/// Looks at everything that is looked at by time.
fn looks(trail: &Trail, clock: &ManualClock) {
    for _ in 0..3 {
        clock.advance(Duration::from_secs(2));
        while trail.step() {}
    }
}

fn segments(media: &SimMedia) -> Vec<PathBuf> {
    let live = Path::new(DIR).join("live");
    let names = media.list(&live).unwrap().into_iter().map(|e| e.name);
    let segments = names.filter(|name| name.ends_with(".seg"));
    segments.map(|name| live.join(name)).collect()
}

/// Changes a byte of the record with this in it, in the live log.
fn change(media: &SimMedia, text: &str) {
    let found = segments(media).into_iter().find_map(|path| {
        let bytes = media.read(&path).unwrap();
        let at = bytes.windows(text.len()).position(|w| w == text.as_bytes());
        Some((path, at?))
    });
    let (path, at) = found.expect("it was written");
    media.flip(&path, at as u64, 1).unwrap();
}

/// Where the reserve begins was asked for at a position of the log before: the fresh one had to come as far first.
#[test]
fn u3_behind_a_live_log_that_was_renewed_the_reserve_is_kept() {
    let media = SimMedia::new(1);
    let options = Options {
        reserve_bytes: 64 << 10,
        ..stepped(&media)
    };
    let (trail, clock) = begun(Path::new(DIR), &media, options);
    let info = |n: u64| Record::new("data.read").with("pad", "x".repeat(700 + n as usize % 2));
    for n in 0..600 {
        while trail.step() {}
        trail.record(info(n)).unwrap();
    }
    for path in segments(&media) {
        media.remove(&path).unwrap();
    }
    looks(&trail, &clock);
    media.set_capacity(Some(media.used_bytes()));
    let mut refused = 0;
    for n in 0..2000 {
        while trail.step() {}
        refused += u64::from(trail.record(info(n)).is_err());
    }
    assert!(refused > 1000 && trail.stats().short, "{refused}");
    for n in 0..40 {
        let receipt = trail.record(login(n)).unwrap();
        assert_eq!(receipt.written, Written::Synced);
    }
    media.set_capacity(None);
    trail.close().unwrap();
    assert_eq!(report(&media).findings, []);
}

/// Errors but "not found" were passed over: the trail wrote on into files that nobody could come to.
#[test]
fn u3_a_live_log_behind_a_loop_of_links_is_noticed() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("audit");
    let none = SimMedia::new(1);
    let (trail, clock) = begun(&dir, &none, stepped(&none));
    trail.record(login(0)).unwrap();
    let live = dir.join("live");
    std::fs::rename(&live, dir.join("taken")).unwrap();
    std::os::unix::fs::symlink(&live, &live).unwrap();
    trail.record(login(1)).unwrap();
    looks(&trail, &clock);
    assert!(trail.stats().down && trail.closed_files().len() == 1);
    let refused = trail.record(login(2)).unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    std::fs::remove_file(&live).unwrap();
    clock.advance(Duration::from_secs(2));
    let last = trail.record(login(3)).unwrap().sequence.unwrap();
    trail.close().unwrap();
    drop(trail);
    let found = verify(&dir, &keys(), &VerifyOptions::default()).unwrap();
    assert_eq!(found.findings, []);
    // That it was opened, three records, that it was missing, and that it was closed.
    assert_eq!((found.last, last), (6, 5));
}

/// Closing failed at the record each time, and the trail went on for as long as there was room; what came behind that record nobody could read.
#[test]
fn u5_a_trail_whose_live_log_was_changed_writes_no_further() {
    let media = SimMedia::new(1);
    let (trail, _) = begun(Path::new(DIR), &media, stepped(&media));
    for n in 0..10 {
        trail
            .record(login(n).with("pad", format!("number-{n}")))
            .unwrap();
    }
    change(&media, "number-5");
    let error = trail.rotate().unwrap_err();
    assert!(matches!(error, Error::Tampered { .. }), "{error}");
    assert!(error.to_string().contains("esker audit verify"), "{error}");
    assert!(trail.stats().down);
    let refused = trail.record(login(11)).unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    // What stands before it is closed.
    let closed: Vec<_> = trail.closed_files().iter().map(|f| f.last).collect();
    assert_eq!(closed, [6]);
    let _ = trail.close();
    let found = report(&media).findings;
    let found: Vec<_> = found.iter().map(|f| (f.kind, f.sequence)).collect();
    assert_eq!(found[0], (FindingKind::Damaged, Some(7)), "{found:?}");
    drop(trail);
    let error = Trail::open(Path::new(DIR), keys(), stepped(&media)).unwrap_err();
    assert!(matches!(error, Error::Tampered { .. }), "{error}");
}

/// The same, and then the files go: what stands before the change is saved, and the rest is a gap.
#[test]
fn u5_a_changed_live_log_that_is_removed_is_saved_up_to_the_change() {
    let media = SimMedia::new(1);
    let (trail, clock) = begun(Path::new(DIR), &media, stepped(&media));
    for n in 0..10 {
        trail
            .record(login(n).with("pad", format!("number-{n}")))
            .unwrap();
    }
    change(&media, "number-5");
    for path in segments(&media) {
        media.remove(&path).unwrap();
    }
    looks(&trail, &clock);
    let closed: Vec<_> = trail.closed_files().iter().map(|f| f.last).collect();
    assert_eq!(closed, [6]);
    assert!(trail.stats().down);
    let _ = trail.close();
    drop(trail);
    let options = Options {
        on_tamper: OnTamper::Continue,
        ..stepped(&media)
    };
    let (trail, opened) = Trail::open(Path::new(DIR), keys(), options).unwrap();
    assert!(!opened.findings.is_empty());
    trail.record(login(10)).unwrap();
    trail.close().unwrap();
    let found = report(&media);
    assert_eq!(found.findings, []);
    // Numbers 5 to 9, and that it was missing.
    assert_eq!(found.dropped, 6);
}

/// What the log could not open for a damaged file beside its segments was put aside with records that could be read.
#[test]
fn o3_records_of_a_log_that_can_be_read_and_not_opened_are_saved() {
    let media = SimMedia::new(1);
    let (trail, _) = begun(Path::new(DIR), &media, stepped(&media));
    for n in 0..10 {
        trail.record(login(n)).unwrap();
    }
    trail.close().unwrap();
    drop(trail);
    let before = report(&media).last;
    media.flip(&Path::new(DIR).join("live/LOG"), 20, 1).unwrap();
    let refused = Trail::open(Path::new(DIR), keys(), stepped(&media)).unwrap_err();
    assert!(matches!(refused, Error::Tampered { .. }), "{refused}");
    let options = Options {
        on_tamper: OnTamper::Continue,
        ..stepped(&media)
    };
    let (trail, opened) = Trail::open(Path::new(DIR), keys(), options).unwrap();
    assert_eq!(opened.findings.len(), 1);
    assert_eq!(trail.closed_files().last().map(|f| f.last), Some(before));
    trail.record(login(10)).unwrap();
    trail.close().unwrap();
    let found = report(&media);
    assert_eq!((found.findings, found.dropped), (vec![], 0));
}

/// Each try to open it again put its error behind those before.
#[test]
fn what_a_trail_that_is_down_says_does_not_grow() {
    let media = SimMedia::new(1);
    let options = Options {
        workers: Workers::Threads,
        ..stepped(&media)
    };
    let (trail, clock) = begun(Path::new(DIR), &media, options);
    trail.record(login(0)).unwrap();
    media.fail(Fault::nth(1).of(CallKind::SyncMap).errno(EIO));
    let opening = Fault::nth(1).of(CallKind::OpenRw).errno(EIO);
    media.fail(opening.times(100_000));
    let mut lengths = Vec::new();
    for n in 0..200 {
        // It is tried once, and then said why it is not there.
        clock.advance(Duration::from_secs(2));
        trail.record(login(n)).unwrap_err();
        let error = trail.record(login(n)).unwrap_err();
        lengths.push(error.to_string().len());
    }
    assert!(trail.stats().down);
    assert!(lengths[199] <= lengths[2] + 20, "{lengths:?}");
    media.heal();
    clock.advance(Duration::from_secs(2));
    trail.record(login(1)).unwrap();
    trail.close().unwrap();
    assert_eq!(report(&media).findings, []);
}
