//! A2: where nothing can be written, the policy says what happens; a gap is a record, and the trail goes on by itself.

mod support;

use esker_audit::{
    Error, Key, Keyring, Kind, OnFailure, OnTamper, Options, Policies, Query, Reader, Record,
    Severity, Trail, Write, Written,
};
use esker_wal::media::sim::{CallKind, EIO, Fault, SimMedia};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use support::{DIR, closed, copy, keys, login, policy, report, stepped, written};

fn with(media: &SimMedia, on_failure: OnFailure) -> Options {
    Options {
        policies: Policies::all(policy(Write::Sync, on_failure)),
        ..stepped(media)
    }
}

fn open_with(options: Options) -> Trail {
    Trail::open(Path::new(DIR), keys(), options).unwrap().0
}

/// The gaps' entries: first and last sequence that they stand for.
fn gaps(media: &SimMedia) -> Vec<(u64, u64)> {
    let reader = Reader::open_on(Path::new(DIR), keys(), Arc::new(media.clone())).unwrap();
    let mut records = reader.query(Query::default()).unwrap();
    let mut out = Vec::new();
    while let Some(found) = records.next().unwrap() {
        if found.head.kind == Kind::Gap {
            out.push((found.head.from, found.head.sequence - 1));
        }
    }
    out
}

fn large(n: u64) -> Record {
    login(n).with("pad", "x".repeat(800))
}

/// Fills the medium until a record does not fit.
fn fill(media: &SimMedia, trail: &Trail) -> u64 {
    media.set_capacity(Some(media.used_bytes()));
    for n in 0..100_000 {
        let receipt = trail.record(large(n));
        while trail.step() {}
        match receipt {
            Ok(receipt) if receipt.written == Written::Synced => {}
            Ok(_) | Err(Error::Refused { .. }) => return n,
            Err(e) => panic!("{e}"),
        }
    }
    unreachable!("it never became full");
}

#[test]
fn a2_on_a_full_disk_refuse_refuses_and_room_ends_it() {
    let media = SimMedia::new(1);
    let trail = open_with(with(&media, OnFailure::Refuse));
    fill(&media, &trail);
    let error = trail.record(large(1)).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("no space"), "{error}");
    assert!(trail.stats().refused >= 2);
    media.set_capacity(None);
    while trail.step() {}
    assert_eq!(trail.record(login(2)).unwrap().written, Written::Synced);
    trail.close().unwrap();
    assert_eq!(report(&media).findings, []);
    // Who is refused knows it: nothing is missing.
    assert_eq!(gaps(&media), []);
}

#[test]
fn a2_on_a_full_disk_drop_drops_and_the_gap_is_a_record() {
    let media = SimMedia::new(1);
    let trail = open_with(with(&media, OnFailure::Drop));
    fill(&media, &trail);
    for n in 0..9 {
        assert_eq!(trail.record(large(n)).unwrap().written, Written::Dropped);
    }
    assert_eq!(trail.stats().dropped, 10);
    media.set_capacity(None);
    while trail.step() {}
    assert_eq!(trail.record(large(2)).unwrap().written, Written::Synced);
    trail.close().unwrap();
    let of_gaps: u64 = gaps(&media)
        .iter()
        .map(|(first, last)| last - first + 1)
        .sum();
    assert_eq!(of_gaps, 10);
    let report = report(&media);
    assert_eq!((report.findings, report.dropped), (vec![], 10));
}

/// The process is killed before there is room: what it dropped stands in HEAD, which takes none.
#[test]
fn a2_what_was_dropped_before_a_kill_is_a_gap_after_it() {
    let media = SimMedia::new(1);
    let trail = open_with(with(&media, OnFailure::Drop));
    fill(&media, &trail);
    for n in 0..9 {
        trail.record(large(n)).unwrap();
    }
    media.kill();
    drop(trail);
    media.set_capacity(None);
    let trail = open_with(with(&media, OnFailure::Drop));
    trail.close().unwrap();
    let report = report(&media);
    assert_eq!((report.findings, report.dropped), (vec![], 10));
}

/// Logins and clean-up stay auditable: what is prepared is for them alone.
#[test]
fn a2_the_reserve_is_for_graver_records() {
    let media = SimMedia::new(1);
    let options = Options {
        reserve_bytes: 64 << 10,
        ..with(&media, OnFailure::Refuse)
    };
    let trail = open_with(options);
    while trail.step() {}
    let info = |n: u64| Record::new("data.read").with("pad", "x".repeat(700 + n as usize % 2));
    media.set_capacity(Some(media.used_bytes()));
    let mut refused = 0;
    for n in 0..2000 {
        while trail.step() {}
        refused += u64::from(trail.record(info(n)).is_err());
    }
    assert!(refused > 1000, "{refused}");
    for n in 0..40 {
        let receipt = trail.record(login(n)).unwrap();
        assert_eq!(receipt.written, Written::Synced);
    }
    assert!(trail.record(info(0)).is_err());
    media.set_capacity(None);
    while trail.step() {}
    trail.close().unwrap();
    assert_eq!(report(&media).findings, []);
}

/// U2: graver records used the reserve up; then there was no room for a tombstone, and retention, which alone could make some, made none.
#[test]
fn a2_retention_makes_room_on_a_full_disk_though_the_reserve_is_used_up() {
    for reserve_bytes in [0, 32 << 10] {
        let media = SimMedia::new(1);
        let options = Options {
            keep_bytes: Some(40 << 10),
            reserve_bytes,
            ..with(&media, OnFailure::Refuse)
        };
        let trail = open_with(options);
        // Of texts that do not shrink.
        let mut word = 1_u64;
        let mut random = |n: u64| {
            let mut text = String::new();
            while text.len() < 900 {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n);
                text += &format!("{word:016x}");
            }
            login(n).with("pad", text)
        };
        let steps = || while trail.step() {};
        for round in 0..3 {
            for n in 0..120 {
                steps();
                trail.record(random(n)).unwrap();
                if n % 20 == 19 {
                    trail.rotate().unwrap().unwrap();
                }
            }
            let files = trail.closed_files();
            let kept: u64 = files.iter().map(|f| f.bytes).sum();
            assert!(kept > 60 << 10, "{kept}");
            media.set_capacity(Some(media.used_bytes()));
            let mut refused = 0;
            for n in 0..400 {
                steps();
                let record = random(n).severity(Severity::Critical);
                refused += u64::from(trail.record(record).is_err());
            }
            assert!(refused > 300, "round {round}: {refused}");
            assert!(trail.clean().unwrap() > 0, "round {round}");
            // By itself: as soon as the log has prepared what the removal made room for.
            steps();
            let receipt = trail.record(login(round)).unwrap();
            assert_eq!(receipt.written, Written::Synced);
            media.set_capacity(None);
        }
        trail.close().unwrap();
        assert_eq!(report(&media).findings, []);
    }
}

#[test]
fn a2_after_a_failed_sync_the_trail_goes_on_by_itself() {
    for (kind, on_failure) in [CallKind::SyncMap, CallKind::SyncFile]
        .into_iter()
        .flat_map(|kind| [(kind, OnFailure::Refuse), (kind, OnFailure::Drop)])
    {
        let media = SimMedia::new(1);
        let trail = open_with(with(&media, on_failure));
        let mut acknowledged = Vec::new();
        let (mut unknown, mut dropped) = (0, 0);
        for n in 0..60 {
            if n % 20 == 10 {
                media.fail(Fault::nth(1).of(kind).on("live").errno(EIO));
            }
            while trail.step() {}
            match trail.record(login(n)) {
                Ok(receipt) if receipt.written == Written::Synced => {
                    acknowledged.push(receipt.sequence.unwrap());
                }
                Ok(_) => dropped += 1,
                // A segment could not be prepared.
                Err(Error::Refused { .. }) if kind == CallKind::SyncFile => unknown += 1,
                Err(Error::Unknown { .. }) => unknown += 1,
                Err(e) => panic!("{e}"),
            }
        }
        media.heal();
        trail.close().unwrap();
        let report = report(&media);
        assert_eq!(report.findings, [], "{kind:?}");
        assert_eq!(report.synced, report.last);
        assert!(acknowledged.len() >= 57, "{kind:?}");
        assert_eq!(acknowledged.len() + unknown + dropped, 60);
        if kind == CallKind::SyncMap {
            assert_eq!(trail.stats().reopened, 3);
            assert_eq!(unknown + dropped, 3, "{on_failure:?}");
        }
        let whole = gaps(&media)
            .iter()
            .map(|(first, last)| last - first + 1)
            .sum::<u64>();
        assert_eq!(whole, report.dropped);
    }
}

/// Blocks while the disk fails, and is written when it does not any more.
#[test]
fn a2_block_waits_for_the_disk_and_gives_up_at_its_deadline() {
    let media = SimMedia::new(1);
    let options = |most| Options {
        workers: esker_wal::Workers::Threads,
        clock: Arc::new(esker_wal::media::clock::RealClock::default()),
        ..with(&media, OnFailure::Block(most))
    };
    let trail = open_with(options(Duration::from_secs(60)));
    trail.record(login(0)).unwrap();
    media.fail(
        Fault::nth(1)
            .of(CallKind::SyncMap)
            .on("live")
            .times(5)
            .errno(EIO),
    );
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| trail.record(login(1)));
        std::thread::sleep(Duration::from_millis(20));
        let receipt = blocked.join().unwrap().unwrap();
        assert_eq!(receipt.written, Written::Synced);
    });
    trail.close().unwrap();
    media.heal();
    let trail = open_with(options(Duration::from_millis(30)));
    media.fail(
        Fault::nth(1)
            .of(CallKind::SyncMap)
            .on("live")
            .times(u64::MAX)
            .errno(EIO),
    );
    media.fail(
        Fault::nth(1)
            .of(CallKind::OpenRw)
            .on("live")
            .times(u64::MAX)
            .errno(EIO),
    );
    let error = trail.record(login(2)).unwrap_err();
    assert!(
        matches!(error, Error::Refused { .. } | Error::Unknown { .. }),
        "{error}"
    );
    assert!(trail.stats().down);
    media.heal();
    // By itself: the next record finds it open again.
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(trail.record(login(3)).unwrap().written, Written::Synced);
    trail.close().unwrap();
    assert_eq!(report(&media).findings, []);
}

#[test]
fn a2_a_directory_that_can_t_be_written_is_an_error_that_names_it() {
    let media = SimMedia::new(1);
    open_with(stepped(&media)).close().unwrap();
    // EROFS.
    for kind in [CallKind::OpenRw, CallKind::Create, CallKind::Write] {
        media.fail(Fault::nth(1).of(kind).times(u64::MAX).errno(30));
    }
    let error = Trail::open(Path::new(DIR), keys(), stepped(&media)).unwrap_err();
    assert!(error.to_string().contains("audit"), "{error}");
}

/// A queue that is full, by what its policy says; what was taken is written before the end.
#[test]
fn a2_a_full_queue_refuses_or_drops_with_a_gap() {
    for on_failure in [OnFailure::Refuse, OnFailure::Drop] {
        let media = SimMedia::new(1);
        let options = Options {
            queue: 10,
            policies: Policies::all(policy(Write::Async, on_failure)),
            ..stepped(&media)
        };
        let trail = open_with(options);
        let mut counts = [0; 3];
        for n in 0..25 {
            match trail.record(login(n)) {
                Ok(receipt) if receipt.written == Written::Queued => counts[0] += 1,
                Ok(_) => counts[1] += 1,
                Err(Error::Refused { .. }) => counts[2] += 1,
                Err(e) => panic!("{e}"),
            }
        }
        let dropped = u64::from(on_failure == OnFailure::Drop) * 15;
        assert_eq!(counts, [10, dropped, 15 - dropped]);
        trail.close().unwrap();
        let report = report(&media);
        assert_eq!((report.findings, report.dropped), (vec![], dropped));
        assert_eq!(report.entries, 10 + 2 + u64::from(dropped > 0));
    }
}

/// Tampered with and opened all the same: what is there is kept, what is missing is a gap, and a record says so.
#[test]
fn a1_a_tampered_trail_is_refused_or_continued_with_a_record_of_it() {
    let media = written(2, 4);
    let cut = copy(&media, |name, bytes| {
        (!name.starts_with("live/")).then(|| (name.to_owned(), bytes))
    });
    let error = Trail::open(Path::new(DIR), keys(), stepped(&cut)).unwrap_err();
    assert!(matches!(error, Error::Tampered { .. }), "{error}");
    let options = Options {
        on_tamper: OnTamper::Continue,
        ..stepped(&cut)
    };
    let (trail, opened) = Trail::open(Path::new(DIR), keys(), options.clone()).unwrap();
    assert_eq!(opened.findings.len(), 1);
    trail.close().unwrap();
    let found = report(&cut);
    assert_eq!(found.findings, []);
    assert_eq!(found.dropped, 5);
    assert_eq!(gaps(&cut), [(10, 14)]);
    let again = Trail::open(Path::new(DIR), keys(), stepped(&cut)).unwrap();
    assert_eq!(again.1.findings, []);
}

/// A log of closed files whose newest is gone can be continued, too.
#[test]
fn a1_a_missing_closed_file_is_said_at_every_opening_that_refuses() {
    let media = written(3, 4);
    let names = closed(&media);
    let missing = copy(&media, |name, bytes| {
        (name != names[1]).then(|| (name.to_owned(), bytes))
    });
    let error = Trail::open(Path::new(DIR), keys(), stepped(&missing)).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn two_at_a_time_can_t_write_and_the_wrong_key_opens_nothing() {
    let media = SimMedia::new(1);
    let trail = open_with(stepped(&media));
    let second = Trail::open(Path::new(DIR), keys(), stepped(&media)).unwrap_err();
    assert!(second.to_string().contains("in use"), "{second}");
    trail.close().unwrap();
    let other = Keyring::of(esker_audit::Key::from_secret([9; 32]));
    let error = Trail::open(Path::new(DIR), other, stepped(&media)).unwrap_err();
    assert!(matches!(error, Error::NoKey { .. }), "{error}");
    let closed_twice = open_with(stepped(&media));
    closed_twice.close().unwrap();
    closed_twice.close().unwrap();
    let error = closed_twice
        .record(login(1).severity(Severity::Error))
        .unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
}

#[test]
fn e3_an_error_names_its_file_and_says_what_to_do() {
    let media = SimMedia::new(1);
    let says = |error: Error, words: &[&str]| {
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!text.ends_with('.'), "{text}");
    };
    let verified = |media: &SimMedia, ring: &Keyring| {
        let options = esker_audit::VerifyOptions {
            look_again_after: Duration::ZERO,
            media: Arc::new(media.clone()),
            ..esker_audit::VerifyOptions::default()
        };
        esker_audit::verify(Path::new(DIR), ring, &options)
    };
    let opened = |media: &SimMedia, ring: Keyring, options: Options| {
        let options = Options {
            media: Arc::new(media.clone()),
            ..options
        };
        Trail::open(Path::new(DIR), ring, options).unwrap_err()
    };
    says(
        verified(&media, &keys()).unwrap_err(),
        &[DIR, "give the directory of one"],
    );
    let trail = open_with(stepped(&media));
    says(
        opened(&media, keys(), stepped(&media)),
        &[DIR, "close it there"],
    );
    trail.record(login(1)).unwrap();
    trail.close().unwrap();
    says(trail.record(login(2)).unwrap_err(), &["closed"]);
    let other = Key::from_secret([9; 32]);
    let missing = keys().newest().id().to_string();
    says(
        opened(&media, Keyring::of(other), stepped(&media)),
        &["audit/TRAIL", &missing, "add it"],
    );
    let cut = copy(&media, |name, bytes| {
        (name != "HEAD").then(|| (name.to_owned(), bytes))
    });
    says(
        opened(&cut, keys(), stepped(&cut)),
        &["audit/HEAD", "esker audit verify audit", "on_tamper"],
    );
    let options = Options {
        interval: Duration::ZERO,
        ..stepped(&media)
    };
    says(
        opened(&media, keys(), options),
        &["interval", "more than zero"],
    );
    media.fail(Fault::nth(1).of(CallKind::Open).on("HEAD").errno(EIO));
    says(
        opened(&media, keys(), stepped(&media)),
        &["reading", "audit/HEAD", "os error 5"],
    );
    media.heal();
    let trail = open_with(with(&media, OnFailure::Refuse));
    fill(&media, &trail);
    says(
        trail.record(large(1)).unwrap_err(),
        &["refused", "the disk is full"],
    );
}
