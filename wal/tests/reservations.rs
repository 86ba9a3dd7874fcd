//! Reserve and fill in place; frames larger than a segment (W2, W7, W8).

mod harness;

use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, ENOSPC, Fault, SimMedia};
use esker_wal::*;
use harness::{options, read_all, seeds::chosen};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

const ID: LogId = LogId(78);

fn sim(media: &SimMedia) -> Result<Log, OpenError> {
    let clock = Arc::new(ManualClock::default());
    Log::open(Path::new("log"), options(media, &clock, ID)).map(|(log, _)| log)
}

fn frames(log: &Log) -> Vec<(Kind, Vec<u8>)> {
    let all = read_all(log).unwrap().into_iter();
    all.filter(|f| f.kind != Kind::Control)
        .map(|f| (f.kind, f.payload))
        .collect()
}

/// A log whose segments are recycled and full of old bytes.
fn used(media: &SimMedia) -> Log {
    let log = sim(media).unwrap();
    while log.stats().recycled < 3 {
        let appended = log.append(&[&[0xaa; 900]]).unwrap();
        log.sync_up_to(appended.end).unwrap();
        log.release(appended.end);
        while log.step() {}
    }
    log
}

/// W8: what is encoded in place is the frame; a short fill, an error, a panic and a drop make it void, zeros and all; and no
/// old byte of a recycled file is ever seen.
#[test]
fn a_frame_filled_in_place_is_published_whole_or_void() {
    let media = SimMedia::new(1);
    let log = used(&media);
    let from = log.reserved();
    let fresh = |payload: &[u8]| assert!(payload.iter().all(|b| *b == 0), "old bytes are shown");
    for round in 0..40_u8 {
        let len = 300 + usize::from(round);
        let reserved = || log.reserve(len).unwrap();
        reserved()
            .fill(|payload| {
                fresh(payload);
                payload[..4].copy_from_slice(&[round; 4]);
                Ok::<_, LogError>(payload.len())
            })
            .unwrap();
        let short = reserved().fill(|payload| {
            payload.fill(7);
            Ok::<_, LogError>(payload.len() - 1)
        });
        assert!(matches!(short, Err(LogError::WrongLength { .. })));
        let failed = reserved().fill(|payload| {
            payload.fill(7);
            Err(LogError::Busy)
        });
        assert!(matches!(failed, Err(LogError::Busy)));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            reserved().fill(|payload| -> Result<usize, LogError> {
                payload.fill(7);
                std::panic::resume_unwind(Box::new("a panic of the encoder"))
            })
        }));
        assert!(panicked.is_err());
        let mut writer = reserved().writer();
        writer.write_all(&[round; 100]).unwrap();
        writer.write_all(&vec![9; len - 100]).unwrap();
        assert_eq!((writer.remaining(), writer.write(&[1]).unwrap()), (0, 0));
        writer.finish().unwrap();
        let mut writer = reserved().writer();
        writer.write_all(&[5; 10]).unwrap();
        assert!(matches!(
            writer.finish(),
            Err(LogError::WrongLength { got: 10, .. })
        ));
        drop(reserved().writer());
        log.sync_up_to(log.reserved()).unwrap();
        while log.step() {}
    }
    let mut reader = log.reader(from, ReadLimit::Published).unwrap();
    for round in 0..40_u8 {
        let len = 300 + usize::from(round);
        let mut filled = vec![0; len];
        filled[..4].fill(round);
        let mut written = vec![9; len];
        written[..100].fill(round);
        let zeros = || (Kind::Void, vec![0; len]);
        let expected = [
            (Kind::Data, filled),
            zeros(),
            zeros(),
            zeros(),
            (Kind::Data, written),
            zeros(),
            zeros(),
        ];
        for (kind, payload) in expected {
            let frame = reader.next().unwrap().unwrap();
            assert_eq!(frame.header.kind, kind);
            assert_eq!(frame.payload[..], payload);
        }
    }
    log.close().unwrap();
}

/// What a run of small and large frames was told: payloads in order, and how many of them are synced.
#[derive(Default)]
struct Told {
    payloads: Vec<Vec<u8>>,
    synced: usize,
}

fn script(log: &Log, told: &mut Told) -> Result<(), LogError> {
    for n in 0..12_u8 {
        // Every third is larger than a segment (16 KiB), up to four times.
        let len = match n % 3 {
            1 => 17_000 + usize::from(n) * 4_000,
            _ => 2_000 + usize::from(n) * 100,
        };
        let payload = vec![n + 1; len];
        let before = log.reserved();
        let appended = log.append(&[&payload[..len / 2], &payload[len / 2..]]);
        if log.reserved() > before {
            told.payloads.push(payload);
        }
        let appended = appended?;
        if n % 2 == 1 {
            log.sync_up_to(appended.end)?;
            told.synced = told.payloads.len();
        }
        if n % 4 == 0 {
            while log.step() {}
        }
    }
    Ok(())
}

/// W1, W2, W3: the power goes at every call of a run with frames larger than a segment; every synced frame is there whole, and
/// appends go on.
#[test]
fn power_cuts_around_frames_larger_than_a_segment() {
    let mut cut = 0;
    for seed in chosen(2) {
        let whole = {
            let media = SimMedia::new(seed);
            let log = sim(&media).unwrap();
            script(&log, &mut Told::default()).unwrap();
            log.close().unwrap();
            media.calls()
        };
        for call in 1..=whole {
            let media = SimMedia::new(seed);
            media.cut_at_call(call);
            let mut told = Told::default();
            if let Ok(log) = sim(&media)
                && script(&log, &mut told).is_ok()
            {
                let _ = log.close();
            }
            cut += u64::from(media.is_down());
            media.power_cut(seed ^ call);
            let log = sim(&media).unwrap_or_else(|e| panic!("ESKER_SEED={seed} call {call}: {e}"));
            let found: Vec<_> = frames(&log).into_iter().map(|(_, p)| p).collect();
            assert!(
                found.len() >= told.synced && told.payloads.starts_with(&found),
                "ESKER_SEED={seed} call {call}: {} of {} frames, {} synced",
                found.len(),
                told.payloads.len(),
                told.synced
            );
            let large = vec![99; 40_000];
            let appended = log.append(&[&large]).unwrap();
            log.sync_up_to(appended.end).unwrap();
            assert_eq!(frames(&log).pop().unwrap().1, large);
            log.close().unwrap();
        }
    }
    assert!(cut > 100, "only {cut} runs were cut");
}

/// LG1-LG3: many threads, small and large; everything is there once, also after a reopen, and released files go.
#[test]
fn threads_append_frames_larger_than_a_segment_among_small_ones() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let options = LogOptions {
            create: Some(Create {
                log: ID,
                node: NodeId(9),
                base: Lsn::ZERO,
            }),
            segment_bytes: 64 << 10,
            ..LogOptions::default()
        };
        Log::open(dir.path(), options).unwrap().0
    };
    let log = open();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let log = &log;
            scope.spawn(move || {
                for n in 0..30_u8 {
                    let len = match n % 5 {
                        0 => 70_000 + usize::from(thread) * 10_000,
                        _ => 1_000,
                    };
                    let mut payload = vec![thread; len];
                    payload[len - 1] = n;
                    let appended = log.append(&[&payload]).unwrap();
                    if n % 7 == 0 {
                        log.sync_up_to(appended.end).unwrap();
                    }
                }
            });
        }
    });
    let check = |log: &Log| {
        let mut next = [0; 4];
        for (kind, payload) in frames(log) {
            assert_eq!(kind, Kind::Data);
            let n = &mut next[usize::from(payload[0])];
            assert_eq!(payload.last(), Some(&*n));
            *n += 1;
        }
        assert_eq!(next, [30; 4]);
    };
    check(&log);
    log.close().unwrap();
    let log = open();
    check(&log);
    let end = log.append(&[&[1; 70_000]]).unwrap().end;
    log.sync_up_to(end).unwrap();
    log.release(end);
    // What is left is the last large segment and prepared ones.
    let large = || {
        std::fs::read_dir(dir.path())
            .unwrap()
            // One may be renamed or removed while we look.
            .filter(|e| (e.as_ref().unwrap().metadata()).is_ok_and(|m| m.len() > 64 << 10))
            .count()
    };
    let begun = std::time::Instant::now();
    while large() > 1 && begun.elapsed() < std::time::Duration::from_secs(10) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(large(), 1);
    log.close().unwrap();
}

/// W8: without room for its file a large frame fails without an LSN; small ones go on, and it goes when there is room.
#[test]
fn a_full_disk_fails_a_large_frame_without_an_lsn() {
    let media = SimMedia::new(3);
    let log = sim(&media).unwrap();
    while log.step() {}
    media.fail(Fault::nth(1).of(CallKind::Create).errno(ENOSPC));
    let end = log.reserved();
    let large = vec![1; 30_000];
    assert!(matches!(
        log.append(&[&large]),
        Err(LogError::NoSpace { .. })
    ));
    assert_eq!(log.reserved(), end);
    log.append(&[b"small"]).unwrap();
    log.append(&[&large]).unwrap();
    let lens: Vec<_> = frames(&log).iter().map(|(_, p)| p.len()).collect();
    assert_eq!(lens, [5, 30_000]);
    let names = media.list(Path::new("log")).unwrap();
    assert!(names.iter().all(|e| !e.name.ends_with(".tmp")), "{names:?}");
}
