//! What the log promises (W1-W10), on files of the operating system.

use esker_wal::*;
use std::path::Path;
use std::time::Duration;

fn options(segment_bytes: u64) -> LogOptions {
    LogOptions {
        create: Some(Create {
            log: LogId(7),
            node: NodeId(9),
            base: Lsn::ZERO,
        }),
        segment_bytes,
        ..LogOptions::default()
    }
}

fn open(dir: &Path) -> (Log, Recovered) {
    Log::open(dir, options(16 << 10)).unwrap()
}

fn payloads(log: &Log, from: Lsn) -> Vec<(Lsn, Vec<u8>)> {
    let mut reader = log.reader(from, ReadLimit::Published).unwrap();
    let mut out = Vec::new();
    while let Some(frame) = reader.next().unwrap() {
        if frame.header.kind == Kind::Data {
            out.push((frame.header.lsn, frame.payload.to_vec()));
        }
    }
    out
}

/// FL4: who waits is served the same whatever else is synced, and when: a sync that carries a few makes those who wait for the next look for its end.
#[test]
fn a_sync_of_a_few_is_waited_for_by_looking_under_each_policy() {
    let hour = Duration::from_secs(3600);
    for sync_policy in [
        SyncPolicy::Always,
        SyncPolicy::Interval(hour),
        SyncPolicy::Manual,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions {
            sync_policy,
            ..options(1 << 20)
        };
        let log = Log::open(dir.path(), options).unwrap().0;
        assert_eq!(log.sync_spin(), Duration::ZERO, "{sync_policy:?}");
        for _ in 0..32 {
            for _ in 0..3 {
                log.append(&[b"one of a few"]).unwrap();
            }
            let end = log.append(&[b"the last"]).unwrap().end;
            log.sync_up_to(end).unwrap();
        }
        assert!(log.sync_spin() > Duration::ZERO, "{sync_policy:?}");
        log.close().unwrap();
    }
}

/// W1, W5, W10.
#[test]
fn synced_appends_are_there_after_reopening_each_at_its_own_lsn() {
    let dir = tempfile::tempdir().unwrap();
    let (log, recovered) = open(dir.path());
    assert!(recovered.created);
    let mut expected = Vec::new();
    for n in 0..500_u32 {
        let payload = vec![n as u8; (n as usize * 7) % 300];
        let appended = log
            .append(&[&payload[..payload.len() / 2], &payload[payload.len() / 2..]])
            .unwrap();
        expected.push((appended.lsn, payload));
        if n % 50 == 0 {
            log.sync_up_to(appended.end).unwrap();
            assert!(log.synced() >= appended.end);
        }
    }
    assert_eq!(payloads(&log, Lsn::ZERO), expected);
    let chain = log.chain_at(log.published()).unwrap();
    log.close().unwrap();
    log.close().unwrap();
    assert!(matches!(log.append(&[b"late"]), Err(LogError::Closed)));

    let (log, recovered) = open(dir.path());
    assert!(recovered.clean && !recovered.created, "{recovered:?}");
    assert_eq!(log.epochs().len(), 1, "a clean close keeps the epoch");
    assert_eq!(payloads(&log, Lsn::ZERO), expected);
    assert_eq!(log.chain_at(log.published()).unwrap(), chain);
    log.append(&[b"more"]).unwrap();
}

/// The files as they are now, elsewhere: what a killed process leaves.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

/// W3, W5: what a killed process leaves.
#[test]
fn a_log_that_was_not_closed_keeps_what_was_published_and_begins_an_epoch() {
    // Without threads, so that no file moves while it is copied.
    let stepped = || LogOptions {
        workers: Workers::Stepped,
        ..options(16 << 10)
    };
    let mut dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), stepped()).unwrap();
    for n in 0..200_u32 {
        log.append(&[&n.to_le_bytes(), &[1; 200]]).unwrap();
    }
    let expected = payloads(&log, Lsn::ZERO);
    assert_eq!(expected.len(), 200);
    let mut before = copy(dir.path());
    for epochs in 2..6 {
        let (log, recovered) = Log::open(before.path(), stepped()).unwrap();
        assert!(!recovered.clean);
        assert_eq!(payloads(&log, Lsn::ZERO), expected);
        assert_eq!(log.epochs().len(), epochs);
        assert_eq!(log.epoch().number, 1);
        dir = copy(before.path());
        drop(log);
        before = dir;
    }
}

/// W1, W2.
#[test]
fn many_threads_append_and_sync_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let threads: Vec<_> = (0..8_u32)
        .map(|t| {
            let log = log.clone();
            std::thread::spawn(move || {
                for n in 0..100_u32 {
                    let appended = log
                        .append(&[&t.to_le_bytes(), &n.to_le_bytes(), &[7; 90]])
                        .unwrap();
                    log.sync_up_to(appended.end).unwrap();
                    assert!(log.synced() >= appended.end);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(payloads(&log, Lsn::ZERO).len(), 800);
    let stats = log.stats();
    assert!(stats.syncs <= 900 && stats.rotations > 3, "{stats:?}");
    log.close().unwrap();
}

/// W8: a reservation that is given up.
#[test]
fn a_dropped_reservation_becomes_a_void_frame_and_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let given_up = log.reserve(100).unwrap();
    let short = log.reserve(10).unwrap();
    let kept = log.append(&[b"kept"]).unwrap();
    drop(given_up);
    assert!(matches!(
        short.publish(&[b"9 bytes.."]),
        Err(LogError::WrongLength {
            got: 9,
            reserved: 10
        })
    ));
    log.sync_up_to(kept.end).unwrap();
    assert_eq!(payloads(&log, Lsn::ZERO), [(kept.lsn, b"kept".to_vec())]);
    assert_eq!(log.stats().voids, 2);
}

/// W9.
#[test]
fn a_directory_is_opened_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    assert!(matches!(
        Log::open(dir.path(), options(16 << 10)),
        Err(OpenError::Locked { .. })
    ));
    log.close().unwrap();
    open(dir.path());
}

/// Slots hold segments back; release recycles.
#[test]
fn released_segments_are_recycled_and_slots_hold_them() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    log.set_slot("replica", Lsn::ZERO).unwrap();
    let mut last = Lsn::ZERO;
    for _ in 0..400 {
        last = log.append(&[&[3; 500]]).unwrap().end;
    }
    log.sync_up_to(last).unwrap();
    log.release(last);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(log.oldest(), Lsn::ZERO);
    log.set_slot("replica", last).unwrap();
    let begun = std::time::Instant::now();
    while log.stats().segments > 1 && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        log.oldest() > Lsn::ZERO && log.stats().recycled > 0,
        "{:?}",
        log.stats()
    );
    let chain = log.chain_at(last).unwrap();
    for _ in 0..400 {
        last = log.append(&[&[4; 500]]).unwrap().end;
    }
    let data = payloads(&log, log.oldest());
    assert!(data.len() >= 400);
    let oldest = log.oldest();
    log.close().unwrap();
    let (log, _) = open(dir.path());
    assert_eq!(log.oldest(), oldest);
    assert_eq!(payloads(&log, oldest), data);
    assert!(log.chain_at(last).is_ok() && chain != log.chain_at(last).unwrap());
    assert_eq!(log.slots()[0].name, "replica");
    assert!(matches!(
        log.reader(Lsn::ZERO, ReadLimit::Synced),
        Err(LogError::Released { .. })
    ));
}

/// A tailing reader sees what comes, and the end.
#[test]
fn a_tailing_reader_waits_for_more_and_ends_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let mut reader = log.reader(log.published(), ReadLimit::Synced).unwrap();
    assert!(
        reader
            .next_wait(Some(Duration::from_millis(5)))
            .unwrap()
            .is_none()
    );
    let thread = std::thread::spawn(move || {
        let mut seen = Vec::new();
        loop {
            match reader.next_wait(None) {
                Ok(Some(frame)) => seen.push(frame.payload.to_vec()),
                Ok(None) => unreachable!("no timeout was given"),
                Err(LogError::Closed) => return seen,
                Err(error) => panic!("{error}"),
            }
        }
    });
    for n in 0..100_u32 {
        let appended = log.append(&[&n.to_le_bytes(), &[0; 300]]).unwrap();
        log.sync_up_to(appended.end).unwrap();
    }
    // The reader may be behind: wait until it pins nothing below the end.
    std::thread::sleep(Duration::from_millis(200));
    log.close().unwrap();
    assert_eq!(thread.join().unwrap().len(), 100);
}

/// R1's half in the log: a follower takes the very frames, at the same LSNs.
#[test]
fn a_follower_holds_the_same_frames_and_chain_and_can_be_promoted() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (primary, _) = open(a.path());
    let follower_options = || LogOptions {
        role: OpenRole::Follower,
        create: Some(Create {
            log: LogId(7),
            node: NodeId(10),
            base: Lsn::ZERO,
        }),
        ..options(32 << 10)
    };
    let (follower, _) = Log::open(b.path(), follower_options()).unwrap();
    assert!(matches!(
        follower.append(&[b"own"]),
        Err(LogError::NotWriter)
    ));
    for n in 0..300_u32 {
        primary.append(&[&n.to_le_bytes(), &[5; 250]]).unwrap();
    }
    let mut reader = primary.reader(Lsn::ZERO, ReadLimit::Published).unwrap();
    let ship = |reader: &mut Reader, follower: &Log| {
        while let Some(frame) = reader.next().unwrap() {
            let wire = WireFrame {
                header: frame.header,
                payload: &frame.payload,
            };
            follower.append_replicated(wire).unwrap();
        }
    };
    ship(&mut reader, &follower);
    assert_eq!(follower.epoch(), primary.epoch());
    let end = primary.published();
    assert_eq!(
        follower.chain_at(end).unwrap(),
        primary.chain_at(end).unwrap()
    );
    // A follower's restarts, clean or not, open no epoch.
    follower.close().unwrap();
    let (follower, recovered) = Log::open(b.path(), follower_options()).unwrap();
    assert!(recovered.clean && recovered.end == end);
    assert_eq!(follower.epochs(), primary.epochs());
    for n in 0..300_u32 {
        primary.append(&[&n.to_le_bytes(), &[6; 250]]).unwrap();
    }
    ship(&mut reader, &follower);
    assert!(matches!(
        follower.begin_epoch(1),
        Err(LogError::NotNext { .. })
    ));
    let start = follower.begin_epoch(2).unwrap();
    assert_eq!((follower.epoch(), start.epoch.number), (start.epoch, 2));
    follower.append(&[b"mine"]).unwrap();
    follower.close().unwrap();
    let (follower, _) = Log::open(b.path(), options(32 << 10)).unwrap();
    assert_eq!(follower.epochs().len(), 2);
    assert_eq!(
        payloads(&follower, start.begin),
        [(start.begin.advance(56), b"mine".to_vec())]
    );
}

/// W5: every append returns its own LSN, also among many threads.
#[test]
fn every_append_returns_its_own_lsn() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let log = log.clone();
            std::thread::spawn(move || {
                (0..160)
                    .map(|_| log.append(&[b"x"]).unwrap().lsn)
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let mut lsns: Vec<_> = threads
        .into_iter()
        .flat_map(|t| t.join().unwrap())
        .collect();
    lsns.sort();
    lsns.dedup();
    assert_eq!(lsns.len(), 640);
    let read: Vec<_> = payloads(&log, Lsn::ZERO)
        .into_iter()
        .map(|(lsn, _)| lsn)
        .collect();
    assert_eq!(read, lsns);
}

/// W3: appends after a torn tail are there at the next open, and the one after.
#[test]
fn appends_after_a_torn_tail_survive_the_next_open() {
    let dir = tempfile::tempdir().unwrap();
    let stepped = || LogOptions {
        workers: Workers::Stepped,
        ..options(16 << 10)
    };
    let (log, _) = Log::open(dir.path(), stepped()).unwrap();
    let kept = log.append(&[b"kept"]).unwrap();
    log.sync_up_to(kept.end).unwrap();
    let torn = log.append(&[b"torn"]).unwrap();
    let torn_dir = copy(dir.path());
    // One byte of the last, unsynced frame.
    let segment = std::fs::read_dir(torn_dir.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .find(|p| std::fs::read(p).unwrap().windows(4).any(|w| w == b"torn"))
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(4).position(|w| w == b"torn").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let (log, recovered) = Log::open(torn_dir.path(), stepped()).unwrap();
    assert_eq!((recovered.end, recovered.cut_bytes > 0), (torn.lsn, true));
    let after = log.append(&[b"after"]).unwrap();
    log.close().unwrap();
    drop(log);
    for _ in 0..2 {
        let (log, recovered) = open(torn_dir.path());
        assert!(recovered.clean);
        let expected = [(kept.lsn, b"kept".to_vec()), (after.lsn, b"after".to_vec())];
        assert_eq!(payloads(&log, Lsn::ZERO), expected);
    }
}

/// W3: damage to what was synced is reported with its place, and nothing is changed.
#[test]
fn damage_below_the_synced_point_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let hurt = log.append(&[b"some words in the middle"]).unwrap();
    for _ in 0..200 {
        log.append(&[&[9; 100]]).unwrap();
    }
    log.close().unwrap();
    let path = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| {
            std::fs::read(p)
                .unwrap()
                .windows(10)
                .any(|w| w == b"some words")
        })
        .unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(10).position(|w| w == b"some words").unwrap();
    bytes[at] ^= 4;
    // Without its footer the segment is verified at open; with it, when it is read.
    let footer = bytes.len() - 512;
    bytes[footer..].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let list = |dir: &Path| {
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().path())
            .map(|p| (p.clone(), std::fs::read(p).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = list(dir.path());
    match Log::open(dir.path(), options(16 << 10)) {
        Err(OpenError::Corrupt {
            at,
            stored,
            computed,
            path: named,
            ..
        }) => {
            assert_eq!((at, named), (hurt.lsn, path));
            assert_ne!(stored, computed);
        }
        other => panic!("{other:?}"),
    }
    assert!(
        list(dir.path()) == before,
        "a refused open changed something"
    );
}

/// W7: what is not synced is bounded; an oversized payload is refused before it is anywhere.
#[test]
fn unsynced_bytes_are_bounded_and_oversized_payloads_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bound = 8 << 10;
    let options = LogOptions {
        sync_policy: SyncPolicy::Manual,
        unsynced_bytes_max: bound,
        workers: Workers::Stepped,
        ..options(16 << 10)
    };
    let (log, _) = Log::open(dir.path(), options).unwrap();
    let mut refused = 0;
    for _ in 0..100 {
        match log.try_reserve(500) {
            Ok(reservation) => {
                reservation.publish(&[&[1; 500]]).unwrap();
            }
            Err(LogError::Busy) => {
                refused += 1;
                while log.step() {}
            }
            Err(error) => panic!("{error}"),
        }
        assert!(log.reserved().since(log.synced()) <= bound);
    }
    assert!(refused > 0);
    // A blocking append makes room itself.
    for _ in 0..100 {
        log.append(&[&[2; 500]]).unwrap();
        assert!(log.reserved().since(log.synced()) <= bound);
    }
    let end = log.reserved();
    assert!(matches!(
        log.append(&[&vec![0; (64 << 20) + 1]]),
        Err(LogError::TooLarge { .. })
    ));
    assert_eq!(log.reserved(), end);
}

/// W10: close wakes those who wait.
#[test]
fn close_wakes_every_waiter() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let beyond = log.reserved().advance(4096);
    let waiters: Vec<_> = (0..6)
        .map(|n| {
            let log = log.clone();
            std::thread::spawn(move || match n % 3 {
                0 => log.wait_published(beyond, None),
                1 => log.sync_up_to(beyond),
                _ => {
                    let mut reader = log.reader(log.published(), ReadLimit::Synced)?;
                    reader.next_wait(None).map(|_| ())
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    let closers: Vec<_> = (0..2)
        .map(|_| {
            let log = log.clone();
            std::thread::spawn(move || log.close())
        })
        .collect();
    for closer in closers {
        closer.join().unwrap().unwrap();
    }
    for waiter in waiters {
        assert!(matches!(waiter.join().unwrap(), Err(LogError::Closed)));
    }
}

/// W10, W8: a reservation that outlives close is waited for, and does not make it hang for ever.
#[test]
fn close_waits_for_a_reservation_that_is_published_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let reservation = log.reserve(3).unwrap();
    let closer = {
        let log = log.clone();
        std::thread::spawn(move || log.close())
    };
    std::thread::sleep(Duration::from_millis(50));
    let appended = reservation.publish(&[b"abc"]).unwrap();
    closer.join().unwrap().unwrap();
    drop(log);
    let (log, recovered) = open(dir.path());
    assert!(recovered.clean);
    assert_eq!(payloads(&log, Lsn::ZERO), [(appended.lsn, b"abc".to_vec())]);
}

/// Watchers are called when `synced` moves and when the log closes; a dropped guard ends it.
#[test]
fn watchers_are_called_when_synced_moves_and_at_close() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let guard = log.watch(Arc::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    }));
    let appended = log.append(&[b"x"]).unwrap();
    log.request_sync(appended.end);
    let begun = std::time::Instant::now();
    while log.synced() < appended.end && begun.elapsed() < Duration::from_secs(10) {
        std::thread::yield_now();
    }
    while calls.load(Ordering::Relaxed) == 0 && begun.elapsed() < Duration::from_secs(10) {
        std::thread::yield_now();
    }
    let before = calls.load(Ordering::Relaxed);
    assert!(before > 0);
    log.close().unwrap();
    assert!(calls.load(Ordering::Relaxed) > before);
    drop(guard);
}

/// Another log's directory, a missing one, and impossible options are refused by name.
#[test]
fn wrong_directories_and_options_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let missing = LogOptions {
        create: None,
        ..options(16 << 10)
    };
    assert!(matches!(
        Log::open(&dir.path().join("nowhere"), missing.clone()),
        Err(OpenError::NotFound { .. })
    ));
    assert!(matches!(
        Log::open(dir.path(), missing),
        Err(OpenError::NotFound { .. })
    ));
    drop(open(dir.path()));
    let other = LogOptions {
        expect_log: Some(LogId(8)),
        ..options(16 << 10)
    };
    assert!(matches!(
        Log::open(dir.path(), other),
        Err(OpenError::WrongLog { .. })
    ));
    assert!(matches!(
        Log::open(dir.path(), options(5000)),
        Err(OpenError::Options {
            option: "segment_bytes",
            ..
        })
    ));
}
