//! What goes on beside the writing: closing by time, retention by the records' own times, checkpoints, keys.

mod support;

use esker_audit::{
    Anchor, Checkpoint, Error, FindingKind, Key, Keyring, Kind, Options, Query, Reader, Ring,
    Trail, VerifyOptions, verifier_key, verify,
};
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::SimMedia;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use support::{DIR, closed, keys, login, report, stepped};

const HOUR: Duration = Duration::from_secs(3600);

fn open(media: &SimMedia, clock: &Arc<ManualClock>, options: Options) -> Trail {
    let options = Options {
        clock: clock.clone(),
        media: Arc::new(media.clone()),
        ..options
    };
    Trail::open(Path::new(DIR), keys(), options).unwrap().0
}

/// Retention went by the time of the file once, and ran first after a day.
#[test]
fn files_are_closed_and_removed_by_the_times_of_their_records() {
    let (media, clock) = (SimMedia::new(1), Arc::new(ManualClock::default()));
    let options = Options {
        rotate_after: HOUR,
        keep_for: Some(10 * HOUR),
        // Five hours pass while it is closed.
        clock_settles: Duration::ZERO,
        ..stepped(&media)
    };
    let trail = open(&media, &clock, options.clone());
    for hour in 0..8 {
        trail.record(login(hour)).unwrap();
        clock.advance(HOUR);
        while trail.step() {}
        assert_eq!(closed(&media).len() as u64, hour + 1);
    }
    trail.close().unwrap();
    // What was closed in an earlier life goes as well, at once.
    clock.advance(5 * HOUR);
    let trail = open(&media, &clock, options);
    clock.advance(Duration::from_secs(2));
    while trail.step() {}
    let removed = trail.stats().removed;
    assert!((2..=5).contains(&removed), "{removed}");
    let found = report(&media);
    assert_eq!(found.findings, []);
    assert!(found.removed > 0 && found.first == found.removed + 1);
    // The newest closed file stays, however old.
    clock.advance(1000 * HOUR);
    while trail.step() {}
    assert_eq!(closed(&media).len(), 1);
    trail.close().unwrap();
    assert_eq!(report(&media).findings, []);
}

/// The clock stands: no file takes another's name, and the chain goes on from each to the next.
#[test]
fn a1_a_hundred_rotations_in_one_moment_make_a_hundred_files_and_lose_nothing() {
    let (media, clock) = (SimMedia::new(1), Arc::new(ManualClock::default()));
    let trail = open(&media, &clock, stepped(&media));
    let mut last = 0;
    for n in 0..400 {
        last = trail.record(login(n)).unwrap().sequence.unwrap();
        if n % 4 == 3 {
            trail.rotate().unwrap().unwrap();
            while trail.step() {}
        }
    }
    assert_eq!(closed(&media).len(), 100);
    let found = report(&media);
    assert_eq!((found.findings, found.files), (vec![], 100));
    assert_eq!((found.entries, found.last), (last, last));
    let reader = Reader::open_on(Path::new(DIR), keys(), Arc::new(media.clone())).unwrap();
    let mut records = reader.query(Query::default()).unwrap();
    for sequence in 1..=last {
        assert_eq!(records.next().unwrap().unwrap().head.sequence, sequence);
    }
}

#[test]
fn checkpoints_are_made_by_count_and_by_time_and_appended_elsewhere() {
    let (media, clock) = (SimMedia::new(1), Arc::new(ManualClock::default()));
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("anchors");
    let sent = elsewhere.path().join("sent");
    let command = format!("cat >> {}", sent.display());
    let options = Options {
        checkpoint_entries: 10,
        checkpoint_after: HOUR,
        anchor: Anchor {
            file: Some(file.clone()),
            command: Some(vec!["sh".into(), "-c".into(), command]),
        },
        ..stepped(&media)
    };
    let trail = open(&media, &clock, options);
    let tick = || {
        clock.advance(Duration::from_secs(2));
        while trail.step() {}
        trail.stats().checkpoints
    };
    assert_eq!(tick(), 0);
    for n in 0..12 {
        trail.record(login(n)).unwrap();
    }
    assert_eq!(tick(), 1);
    // Nothing new, nothing to say.
    clock.advance(2 * HOUR);
    assert_eq!(tick(), 1);
    trail.record(login(1)).unwrap();
    assert_eq!(tick(), 2);
    assert_eq!(trail.stats().last_checkpoint, 14);
    let notes = std::fs::read_to_string(&file).unwrap();
    assert_eq!(notes, std::fs::read_to_string(&sent).unwrap());
    let last = Checkpoint::parse(&notes, &keys()).unwrap();
    assert_eq!((last.sequence, last.trail), (14, trail.id()));
    // What came since is anchored with the close, and the record of the close itself.
    trail.record(login(2)).unwrap();
    trail.close().unwrap();
    let notes = std::fs::read_to_string(&file).unwrap();
    let last = Checkpoint::parse(&notes, &keys()).unwrap();
    assert_eq!(last.sequence, 16);
    // A command that fails is counted, and keeps nothing from being written.
    let options = Options {
        anchor: Anchor {
            file: None,
            command: Some(vec!["false".into()]),
        },
        ..stepped(&media)
    };
    let trail = open(&media, &clock, options);
    trail.record(login(1)).unwrap();
    let error = trail.checkpoint().unwrap_err().to_string();
    assert!(error.contains("sending a checkpoint by false"), "{error}");
    assert_eq!(trail.stats().checkpoint_failures, 1);
    trail.record(login(1)).unwrap();
}

#[test]
fn a_key_is_rotated_by_a_record_and_all_keys_are_needed_to_verify() {
    let (media, clock) = (SimMedia::new(1), Arc::new(ManualClock::default()));
    let trail = open(&media, &clock, stepped(&media));
    let mut ring = keys();
    for n in 2..5 {
        trail.record(login(n)).unwrap();
        let key = Key::from_secret([n as u8; 32]);
        ring.add(key.clone());
        trail.rotate_key(key).unwrap();
        trail.record(login(n)).unwrap();
        if n == 3 {
            trail.rotate().unwrap();
        }
    }
    trail.close().unwrap();
    let options = VerifyOptions {
        media: Arc::new(media.clone()),
        ..VerifyOptions::default()
    };
    let found = verify(Path::new(DIR), &ring, &options).unwrap();
    assert_eq!(found.findings, []);
    let reader = Reader::open_on(Path::new(DIR), ring.clone(), options.media.clone()).unwrap();
    let mut records = reader.query(Query::default()).unwrap();
    let (mut rotations, mut last_key) = (0, None);
    while let Some(found) = records.next().unwrap() {
        rotations += u32::from(found.head.kind == Kind::Key);
        last_key = Some(found.head.key);
    }
    assert_eq!((rotations, last_key), (3, Some(ring.newest().id())));
    // Without the first, nothing of its time verifies.
    let newest = Keyring::of(ring.newest().clone());
    let found = verify(Path::new(DIR), &newest, &options).unwrap();
    let of_key = found.findings.iter().any(|f| f.kind == FindingKind::Key);
    assert!(of_key, "{:?}", found.findings);
    // A key in the ring that was never begun is begun at the next opening.
    let next = Key::from_secret([9; 32]);
    ring.add(next.clone());
    let options = Options {
        clock,
        ..stepped(&media)
    };
    let (trail, _) = Trail::open(Path::new(DIR), ring.clone(), options).unwrap();
    drop(trail);
    let options = VerifyOptions {
        media: Arc::new(media.clone()),
        ..VerifyOptions::default()
    };
    assert_eq!(
        verify(Path::new(DIR), &ring, &options).unwrap().findings,
        []
    );
    assert!(verifier_key(&next).starts_with(&format!("esker-audit/{}+", next.id())));
}

#[test]
fn a_key_file_is_made_for_its_owner_alone_and_refused_otherwise() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let made = Keyring::load_or_create(&path).unwrap();
    let again = Keyring::load_or_create(&path).unwrap();
    assert_eq!(made.newest().id(), again.newest().id());
    let mut two = again;
    two.add(Key::random().unwrap());
    two.store(&path).unwrap();
    let read = Keyring::load(&path).unwrap();
    assert_eq!(read.iter().len(), 2);
    assert_eq!(read.newest().id(), two.newest().id());
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
    mode(0o644).unwrap();
    let error = Keyring::load(&path).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
    mode(0o600).unwrap();
    for (text, why) in [
        ("", "no key"),
        ("# only words\n", "no key"),
        ("0011\n", "two words"),
        ("0011 !!!\n", "Base64"),
        (
            "0011 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
            "not that of the id",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Keyring::load(&path).unwrap_err().to_string();
        assert!(error.contains(why), "{text:?}: {error}");
    }
}

#[test]
fn a_ring_keeps_the_newest_records_and_counts_the_others() {
    let (media, clock) = (SimMedia::new(1), Arc::new(ManualClock::default()));
    let ring = Arc::new(Ring::new(3));
    let options = Options {
        ring: Some(ring.clone()),
        ..stepped(&media)
    };
    let trail = open(&media, &clock, options);
    for n in 0..5 {
        trail.record(login(n)).unwrap();
    }
    assert_eq!(ring.records(), [login(2), login(3), login(4)]);
    assert_eq!(ring.overwritten(), 2);
    assert!(matches!(
        Trail::open(
            Path::new("other"),
            keys(),
            Options {
                rotate_bytes: 1,
                ..stepped(&media)
            }
        ),
        Err(Error::Options {
            option: "rotate_bytes",
            ..
        })
    ));
}
