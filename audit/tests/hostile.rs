//! What somebody did who could write to the directory and had no key, and got away with once: a forged answer, a hidden record, a trail that hung or panicked.

mod support;

use esker_audit::{
    Anchor, Checkpoint, Error, Key, OnFailure, OnTamper, Options, Order, Policies, Query, Severity,
    Trail, VerifyOptions, Write, verify,
};
use esker_wal::Workers;
use esker_wal::media::clock::{ManualClock, RealClock};
use esker_wal::media::real::RealMedia;
use esker_wal::media::sim::SimMedia;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use support::forge::{payloads, with_live};
use support::{DIR, answers, closed, copy, keys, login, open, policy, report, stepped, written};

fn in_order(order: Order) -> Query {
    Query {
        order,
        ..Query::default()
    }
}

/// Several nodes may write under one key: a file, or the live log, of another's trail stood in answers as if it were this one's.
#[test]
fn rd4_records_of_another_trail_under_the_same_key_are_no_answers() {
    let (media, other) = (written(3, 4), written(3, 4));
    let names = closed(&media);
    for order in [Order::Oldest, Order::Newest] {
        for name in &names {
            let path = Path::new(DIR).join(name);
            let mixed = copy(&media, |name, bytes| Some((name.to_owned(), bytes)));
            mixed.put(&path, &other.read(&path).unwrap()).unwrap();
            let (_, error) = answers(&mixed, in_order(order));
            assert!(
                matches!(error, Some(Error::Tampered { .. })),
                "{name} {order:?}: {error:?}"
            );
        }
        let mixed = with_live(&media, &payloads(&other));
        let (found, error) = answers(&mixed, in_order(order));
        assert!(
            matches!(error, Some(Error::Tampered { .. })),
            "{order:?}: {error:?}"
        );
        assert!(
            found.iter().all(|sequence| *sequence <= 13),
            "{order:?}: {found:?}"
        );
    }
}

/// A copy of an old file under the name of a newer one made a query, newest first, leave out all between.
#[test]
fn rd1_a_file_under_another_name_hides_nothing() {
    let media = written(3, 4);
    let names = closed(&media);
    let first = media.read(&Path::new(DIR).join(&names[0])).unwrap();
    for name in [
        "00000000000000000012.trail",
        "99999999999999999999.trail",
        "z.trail",
    ] {
        let copied = copy(&media, |name, bytes| Some((name.to_owned(), bytes)));
        copied.put(&Path::new(DIR).join(name), &first).unwrap();
        for order in [Order::Oldest, Order::Newest] {
            let (_, error) = answers(&copied, in_order(order));
            assert!(
                matches!(error, Some(Error::Tampered { .. })),
                "{name} {order:?}: {error:?}"
            );
        }
    }
}

/// Without the closed files nothing said what the first record of the live log follows, and it was answered unchecked.
#[test]
fn rd4_without_the_closed_files_a_forged_first_record_is_no_answer() {
    let media = written(3, 4);
    let mut live = payloads(&media);
    let sequence = |p: &Vec<u8>| u64::from_le_bytes(*p[8..].first_chunk().unwrap());
    live.retain(|p| sequence(p) > 13);
    let at = live[0].len() - 40;
    live[0][at] ^= 1;
    let forged = with_live(&media, &live);
    let newest = closed(&media).pop().unwrap();
    for order in [Order::Oldest, Order::Newest] {
        let without = copy(&forged, |name, bytes| {
            (!name.ends_with(".trail")).then(|| (name.to_owned(), bytes))
        });
        // Or with the newest one damaged.
        let damaged = copy(&forged, |name, mut bytes| {
            if name == newest {
                *bytes.last_mut().unwrap() ^= 1;
                bytes[130] ^= 1;
            }
            Some((name.to_owned(), bytes))
        });
        for media in [without, damaged] {
            let (found, error) = answers(&media, in_order(order));
            assert!(
                matches!(error, Some(Error::Tampered { .. })),
                "{order:?}: {error:?}"
            );
            assert!(!found.contains(&14), "{order:?}: {found:?}");
        }
    }
}

#[test]
fn e2_a_cursor_at_either_end_of_numbers_is_no_panic() {
    let media = written(3, 4);
    for (after, order, expected) in [
        (u64::MAX, Order::Oldest, 0),
        (u64::MAX, Order::Newest, 18),
        (0, Order::Oldest, 18),
        (0, Order::Newest, 0),
    ] {
        let query = Query {
            after: Some(after),
            ..in_order(order)
        };
        let (found, error) = answers(&media, query);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(found.len(), expected, "after {after}, {order:?}");
    }
}

/// A name with a number that no file can begin with made the verification count below zero.
#[test]
fn e2_a_file_with_an_impossible_name_is_a_finding() {
    for number in [0, 1, u64::MAX - 1, u64::MAX] {
        for files in [0, 2] {
            let media = written(files, 4);
            let name = format!("{number:020}.trail");
            if closed(&media).contains(&name) {
                continue;
            }
            media.put(&Path::new(DIR).join(&name), b"garbage").unwrap();
            let found = report(&media);
            let named = found.findings.iter().any(|f| f.path.ends_with(&name));
            assert!(named, "{name}: {:?}", found.findings);
            assert!(Trail::open(Path::new(DIR), keys(), stepped(&media)).is_err());
            let options = Options {
                on_tamper: OnTamper::Continue,
                ..stepped(&media)
            };
            let (trail, _) = Trail::open(Path::new(DIR), keys(), options).unwrap();
            trail.record(login(1)).unwrap();
            trail.rotate().unwrap();
            trail.close().unwrap();
        }
    }
}

/// A record that nobody wrote, with the last number there is, used up all numbers when the trail was continued behind it.
#[test]
fn o3_a_forged_sequence_is_not_gone_on_from() {
    let media = written(1, 4);
    let last = report(&media).last;
    for forged in [u64::MAX, u64::MAX - 1, 1 << 40] {
        let mut live = payloads(&media);
        let mut frame = live.last().unwrap().clone();
        frame[8..16].copy_from_slice(&forged.to_le_bytes());
        live.push(frame);
        let media = with_live(&media, &live);
        let options = Options {
            on_tamper: OnTamper::Continue,
            ..stepped(&media)
        };
        let (trail, opened) = Trail::open(Path::new(DIR), keys(), options).unwrap();
        assert!(!opened.findings.is_empty());
        let next = trail.record(login(1)).unwrap().sequence.unwrap();
        assert!((last + 1..last + 10).contains(&next), "{next}");
        trail.close().unwrap();
        assert_eq!(report(&media).findings, []);
    }
}

/// What was written behind what is damaged had its numbers: they are not given away again.
#[test]
fn o3_numbers_of_records_behind_damage_are_not_given_away_again() {
    let media = written(1, 8);
    let last = report(&media).last;
    let mut live = payloads(&media);
    live[4][60] ^= 1;
    // All that tells how far it was is gone.
    let media = copy(&with_live(&media, &live), |name, bytes| {
        (name != "HEAD" && name != "CHECKPOINT").then(|| (name.to_owned(), bytes))
    });
    let options = Options {
        on_tamper: OnTamper::Continue,
        ..stepped(&media)
    };
    let (trail, _) = Trail::open(Path::new(DIR), keys(), options).unwrap();
    let next = trail.record(login(1)).unwrap().sequence.unwrap();
    assert!(next > last, "{next} of {last}");
}

/// The live log was removed, and what was prepared ran out before that was noticed: the record of it could not be written, and so no fresh log was begun.
#[test]
fn u3_a_live_log_that_was_removed_is_renewed_though_nothing_more_fits_in_it() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("audit");
    let clock = Arc::new(ManualClock::default());
    let options = Options {
        clock: clock.clone(),
        policies: Policies::all(policy(Write::Sync, OnFailure::Refuse)),
        media: Arc::new(RealMedia::default()),
        ..stepped(&SimMedia::new(1))
    };
    let trail = Trail::open(&dir, keys(), options).unwrap().0;
    std::fs::rename(dir.join("live"), dir.join("taken")).unwrap();
    let large = |n| login(n).with("pad", "x".repeat(1000));
    let written = (0..1000).take_while(|n| trail.record(large(*n)).is_ok());
    let written = written.count() as u64;
    assert!(written < 1000);
    for _ in 0..3 {
        clock.advance(Duration::from_secs(2));
        while trail.step() {}
    }
    trail.record(login(1)).unwrap();
    trail.close().unwrap();
    drop(trail);
    let found = verify(&dir, &keys(), &VerifyOptions::default()).unwrap();
    assert_eq!(found.findings, []);
    // That it was opened, missing, and closed, and what failed, where that was counted.
    assert_eq!((found.entries, found.dropped), (written + 4, 0));
}

/// Another file under the name of a live one was taken for it: what was written from then on went with the process.
#[test]
fn u3_a_live_log_that_was_replaced_by_a_copy_is_renewed() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("audit");
    let clock = Arc::new(ManualClock::default());
    let options = Options {
        clock: clock.clone(),
        media: Arc::new(RealMedia::default()),
        ..stepped(&SimMedia::new(1))
    };
    let trail = Trail::open(&dir, keys(), options).unwrap().0;
    trail.record(login(0)).unwrap();
    let (live, taken) = (dir.join("live"), dir.join("taken"));
    std::fs::rename(&live, &taken).unwrap();
    std::fs::create_dir(&live).unwrap();
    for file in std::fs::read_dir(&taken).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), live.join(file.file_name())).unwrap();
    }
    trail.record(login(1)).unwrap();
    for _ in 0..3 {
        clock.advance(Duration::from_secs(2));
        while trail.step() {}
    }
    trail.record(login(2)).unwrap();
    trail.close().unwrap();
    drop(trail);
    let found = verify(&dir, &keys(), &VerifyOptions::default()).unwrap();
    assert_eq!(found.findings, []);
    // That it was opened, replaced, and closed.
    assert_eq!((found.entries, found.dropped), (6, 0));
}

/// A checkpoint's file that is a pipe had the upkeep, and the close behind it, wait for a reader for ever.
#[test]
fn e1_a_pipe_in_place_of_the_checkpoints_file_hangs_nobody() {
    let scratch = tempfile::tempdir().unwrap();
    let pipe = scratch.path().join("anchors");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let options = Options {
        anchor: Anchor {
            file: Some(pipe),
            command: None,
        },
        ..stepped(&SimMedia::new(1))
    };
    let (trail, _) = Trail::open(Path::new(DIR), keys(), options).unwrap();
    trail.record(login(1)).unwrap();
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let failed = trail.checkpoint().unwrap_err().to_string();
        let stats = trail.stats();
        trail.close().unwrap();
        done.send((failed, stats)).unwrap();
    });
    let (failed, stats) = (ended.recv_timeout(Duration::from_secs(60))).expect("it hangs");
    assert!(failed.contains("anchors"), "{failed}");
    assert_eq!((stats.checkpoint_failures, stats.last_checkpoint), (1, 0));
}

/// The directory could be read by everybody, with who did what to which key in it.
#[test]
fn a_trail_is_made_for_its_owner_alone_and_a_directory_keeps_its_rights() {
    let scratch = tempfile::tempdir().unwrap();
    let mode_of = |dir: &Path| {
        let options = Options {
            media: Arc::new(RealMedia::default()),
            ..stepped(&SimMedia::new(1))
        };
        let (trail, _) = Trail::open(dir, keys(), options).unwrap();
        trail.record(login(1)).unwrap();
        trail.close().unwrap();
        std::fs::metadata(dir).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode_of(&scratch.path().join("a/made")), 0o700);
    let given = scratch.path().join("given");
    std::fs::create_dir(&given).unwrap();
    std::fs::set_permissions(&given, std::fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(mode_of(&given), 0o750);
}

/// Two that were made at once wrote one file aside: one took it away under the other, or put the older one in the place of the newer.
#[test]
fn u4_checkpoints_that_are_asked_for_at_once_are_all_kept() {
    let media = SimMedia::new(1);
    let (trail, _) = Trail::open(Path::new(DIR), keys(), stepped(&media)).unwrap();
    let asked = || {
        let made = (0..100).map(|n| {
            trail.record(login(n)).unwrap();
            trail.checkpoint().unwrap().sequence
        });
        made.max().unwrap()
    };
    let newest = std::thread::scope(|scope| {
        let all = [(); 4].map(|()| scope.spawn(asked));
        all.into_iter().map(|t| t.join().unwrap()).max().unwrap()
    });
    let kept = media.read(&Path::new(DIR).join("CHECKPOINT")).unwrap();
    let kept = Checkpoint::parse(&String::from_utf8(kept).unwrap(), &keys()).unwrap();
    assert_eq!(kept.sequence, newest);
    assert_eq!(trail.stats().checkpoints, 400);
    trail.close().unwrap();
}

/// Who has a key that was rotated away cut the trail back behind the change of it. Nothing there tells; the report says under which key it ends.
#[test]
fn a_trail_that_was_cut_back_to_an_older_key_says_so() {
    let media = written(1, 4);
    let old = copy(&media, |name, bytes| Some((name.to_owned(), bytes)));
    let newer = Key::from_secret([2; 32]);
    let mut both = keys();
    both.add(newer.clone());
    let verified = |media: &SimMedia| {
        let options = VerifyOptions {
            media: Arc::new(media.clone()),
            ..VerifyOptions::default()
        };
        let report = verify(Path::new(DIR), &both, &options).unwrap();
        assert_eq!(report.findings, []);
        report.key
    };
    let (trail, _) = Trail::open(Path::new(DIR), both.clone(), stepped(&media)).unwrap();
    trail.record(login(1)).unwrap();
    trail.close().unwrap();
    assert_eq!(verified(&media), Some(newer.id()));
    assert_eq!(verified(&old), Some(keys().newest().id()));
}

/// Each record in the queue waited for a full disk by itself: closing took as many times as long as the policy waits.
#[test]
fn e1_a_full_disk_does_not_hold_up_closing_record_by_record() {
    let media = SimMedia::new(1);
    let forever = OnFailure::Block(Duration::from_secs(365 * 24 * 3600));
    let options = Options {
        workers: Workers::Threads,
        clock: Arc::new(RealClock::default()),
        policies: Policies::all(policy(Write::Sync, OnFailure::Refuse))
            .with(Severity::Info, policy(Write::Async, forever))
            .with(Severity::Warning, policy(Write::Sync, forever)),
        ..stepped(&media)
    };
    let trail = Arc::new(Trail::open(Path::new(DIR), keys(), options).unwrap().0);
    let large = || {
        login(1)
            .severity(Severity::Error)
            .with("pad", "x".repeat(900))
    };
    // Full is full once the log has used what is ready beside the one that it keeps: a segment on its way is room again.
    let is_segment = |path: &Path| path.extension().is_some_and(|e| e == "seg");
    while media.image().iter().filter(|(p, _)| is_segment(p)).count() < 3 {
        std::thread::yield_now();
    }
    media.set_capacity(Some(media.used_bytes()));
    while trail.record(large()).is_ok() || trail.stats().live_bytes < 12 << 10 {
        std::thread::yield_now();
    }
    for _ in 0..20 {
        trail.record(large().severity(Severity::Info)).unwrap();
    }
    let waiting = trail.clone();
    let waiter = std::thread::spawn(move || waiting.record(large().severity(Severity::Warning)));
    std::thread::sleep(Duration::from_millis(50));
    let (done, closed) = mpsc::channel();
    let closing = trail.clone();
    let closer = std::thread::spawn(move || {
        let _ = closing.close();
        done.send(()).unwrap();
    });
    // A bound for the test that fails; else it would wait for a year.
    closed
        .recv_timeout(Duration::from_secs(60))
        .expect("closing hangs");
    closer.join().unwrap();
    assert!(waiter.join().unwrap().is_err());
    media.set_capacity(None);
    drop(trail);
    let trail = open(&media);
    trail.close().unwrap();
    let found = report(&media);
    assert_eq!(found.findings, []);
    // Those of the queue, and those that were refused have no number.
    assert!(found.dropped >= 20, "{}", found.dropped);
}

/// Who opens a pipe waits until somebody writes into it.
#[test]
fn e2_a_pipe_in_place_of_a_file_hangs_nobody() {
    let scratch = tempfile::tempdir().unwrap();
    let whole = scratch.path().join("whole");
    let (trail, _) = Trail::open(&whole, keys(), Options::default()).unwrap();
    trail.record(login(1)).unwrap();
    trail.rotate().unwrap();
    trail.record(login(2)).unwrap();
    trail.close().unwrap();
    drop(trail);
    let list = |dir: &str| {
        let entries = std::fs::read_dir(whole.join(dir)).unwrap();
        let names = entries.map(|e| Path::new(dir).join(e.unwrap().file_name()));
        names.collect::<Vec<_>>()
    };
    let mut names = [list("."), list("live")].concat();
    names.retain(|name| whole.join(name).is_file() && !name.ends_with("LOCK"));
    for (at, name) in names.iter().enumerate() {
        let dir = scratch.path().join(at.to_string());
        let run = |program: &str, args: &[&Path]| {
            let done = std::process::Command::new(program).args(args).status();
            assert!(done.unwrap().success());
        };
        run("cp", &[Path::new("-r"), &whole, &dir]);
        std::fs::remove_file(dir.join(name)).unwrap();
        run("mkfifo", &[&dir.join(name)]);
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let report = verify(&dir, &keys(), &VerifyOptions::default());
            let opened = Trail::open(&dir, keys(), Options::default());
            let _ = done.send((report.is_ok_and(|report| report.is_whole()), opened.is_ok()));
        });
        // A bound for the test that fails.
        let (passes, opens) = ended
            .recv_timeout(Duration::from_secs(60))
            .unwrap_or_else(|_| panic!("{} hangs", name.display()));
        // What is prepared in the live log is no part of the trail yet.
        if !name.starts_with("live") {
            assert_eq!((passes, opens), (false, false), "{}", name.display());
        }
    }
    assert!(names.len() > 6, "{names:?}");
}
