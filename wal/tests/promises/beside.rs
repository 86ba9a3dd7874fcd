//! A log is looked at while it is written: segments come and go between any two reads, which is no damage (V3, SV5).

use crate::ground::{Ground, both};
use crate::watched::Watched;
use esker_wal::media::Media;
use esker_wal::media::sim::CallKind;
use esker_wal::*;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Appends and syncs until `segments` more were begun; with `keep`, lets go of all but that much.
fn fill(log: &Log, segments: u64, keep: Option<u64>) {
    let until = log.stats().rotations + segments;
    while log.stats().rotations < until {
        let end = log.append(&[&[7; 900]]).unwrap().end;
        log.sync_up_to(end).unwrap();
        if let Some(keep) = keep {
            log.release(Lsn(end.0.saturating_sub(keep)));
        }
        while log.step() {}
    }
}

/// Looks at the log in `ground` through a medium where the log goes on, as `meanwhile` says, before each call of `kind` on a
/// segment.
fn watching(
    ground: &Ground,
    log: &Arc<Log>,
    kind: CallKind,
    mut meanwhile: impl FnMut(&Log) + Send + 'static,
) -> Arc<dyn Media> {
    let log = log.clone();
    Arc::new(ground.watched.meanwhile(move |called, path: &Path| {
        if called == kind && path.extension().is_some_and(|e| e == "seg") {
            meanwhile(&log);
        }
    }))
}

/// The frames, and what is damaged and what was released between them.
fn read_through(survey: &Survey) -> (usize, Vec<Damage>, Vec<LsnRange>) {
    let (mut frames, mut damaged, mut released) = (0, Vec::new(), Vec::new());
    let mut pieces = survey.pieces(survey.oldest());
    while let Some(piece) = pieces.next().unwrap() {
        match piece {
            Piece::Frame(_) => frames += 1,
            Piece::Lost(damage) => damaged.push(damage),
            Piece::Released(range) => released.push(range),
        }
    }
    (frames, damaged, released)
}

/// Headers that were read from the oldest to the newest found a segment prepared and the one behind it begun: what lay between
/// counted as lost.
#[test]
fn segments_begun_between_the_reading_of_two_headers_leave_no_gap() {
    for before in 0..8 {
        both(|ground| {
            let options = LogOptions {
                segments_ahead: 4,
                ..ground.options()
            };
            let log = Arc::new(Log::open(&ground.dir, options).unwrap().0);
            fill(&log, 2, None);
            let mut opened = 0;
            let media = watching(&ground, &log, CallKind::Open, move |log| {
                if opened == before {
                    fill(log, 2, None);
                }
                opened += 1;
            });
            let survey = Survey::of(&ground.dir, media).unwrap();
            let (frames, damaged, released) = read_through(&survey);
            assert!(frames > 0);
            assert!(damaged.is_empty(), "before {before}: {damaged:?}");
            assert!(released.is_empty(), "before {before}: {released:?}");
            let verified = survey.verify(&VerifyOptions::default());
            assert!(verified.is_clean(), "{:?}", verified.damage);
        });
    }
}

/// A segment that was let go and became another between two reads was a damaged one to who read on in it.
#[test]
fn segments_released_while_they_are_read_are_said_to_be_and_no_damage() {
    both(|ground| {
        let log = Arc::new(ground.open());
        fill(&log, 6, None);
        let surveyed = Arc::new(AtomicBool::new(false));
        let going_on = surveyed.clone();
        let media = watching(&ground, &log, CallKind::Read, move |log| {
            if going_on.load(Ordering::Relaxed) {
                fill(log, 1, Some(1 << 10));
            }
        });
        let survey = Survey::of(&ground.dir, media).unwrap();
        surveyed.store(true, Ordering::Relaxed);
        let (_, damaged, released) = read_through(&survey);
        assert!(damaged.is_empty(), "{damaged:?}");
        assert!(!released.is_empty());
        for range in released {
            assert!(range.from < range.to && range.to <= log.oldest(), "{range}");
        }
    });
}

/// A copy of it would have a gap that nobody lost.
#[test]
fn a_salvage_says_that_the_log_released_what_was_to_be_copied() {
    both(|ground| {
        let log = Arc::new(ground.open());
        fill(&log, 6, None);
        let reads = Arc::new(AtomicUsize::new(0));
        let (seen, begins) = (reads.clone(), Arc::new(AtomicUsize::new(usize::MAX)));
        let from = begins.clone();
        let media = watching(&ground, &log, CallKind::Read, move |log| {
            if seen.fetch_add(1, Ordering::Relaxed) >= from.load(Ordering::Relaxed) {
                fill(log, 1, Some(1 << 10));
            }
        });
        // When the salvage has surveyed the log, which takes as many reads as now.
        drop(Survey::of(&ground.dir, media.clone()).unwrap());
        begins.store(2 * reads.load(Ordering::Relaxed), Ordering::Relaxed);
        let options = VerifyOptions {
            threads: 1,
            media,
            ..VerifyOptions::default()
        };
        let to = ground.dir.with_extension("copy");
        let error = salvage_to(&ground.dir, &to, &options)
            .unwrap_err()
            .to_string();
        assert!(error.contains("released while it was copied"), "{error}");
    });
}

/// A directory that is listed while files in it are renamed may leave one out that was there before and after.
#[test]
fn a_file_that_the_list_left_out_is_found() {
    both(|ground| {
        let log = ground.open();
        fill(&log, 3, None);
        let whole = Survey::of(&ground.dir, Arc::new(ground.watched.clone())).unwrap();
        let of_whole = read_through(&whole).0;
        let mut names: Vec<_> = whole.files().unwrap();
        names.retain(|f| f.state == FileState::Closed);
        let media = Arc::new(ground.watched.leaving_out_once(&names[1].name));
        let survey = Survey::of(&ground.dir, media).unwrap();
        assert_eq!(read_through(&survey), (of_whole, Vec::new(), Vec::new()));
    });
}

/// What stands beside the frames was read of what the file had become.
#[test]
fn segments_released_while_they_are_verified_are_no_damage_beside_their_frames() {
    for released_at in 0..60 {
        both(|ground| {
            let log = Arc::new(ground.open());
            fill(&log, 6, None);
            let mut reads = 0;
            let media = watching(&ground, &log, CallKind::Read, move |log| {
                reads += 1;
                if reads >= released_at {
                    fill(log, 1, Some(1 << 10));
                }
            });
            let options = VerifyOptions {
                threads: 1,
                ..VerifyOptions::default()
            };
            let survey = Survey::of(&ground.dir, media).unwrap();
            let verified = survey.verify(&options);
            assert!(verified.is_clean(), "{:?}", verified.damage);
        });
    }
}

/// W5: while the preparer, who had no room for it before, wrote the history, another epoch began: that was taken for written too.
#[test]
fn w5_an_epoch_that_begins_while_the_history_is_written_is_in_it() {
    both(|ground| {
        let stage = Arc::new(AtomicUsize::new(0));
        let held: Arc<Mutex<Option<Arc<Log>>>> = Arc::default();
        let writes = Arc::new(AtomicUsize::new(0));
        let second: Arc<Mutex<Option<JoinHandle<()>>>> = Arc::default();
        let hook = {
            let (stage, held) = (stage.clone(), held.clone());
            let (writes, second) = (writes.clone(), second.clone());
            move |called, path: &Path| {
                if called != CallKind::Rename || !path.ends_with("EPOCHS") {
                    return;
                }
                writes.fetch_add(1, Ordering::Relaxed);
                if stage.swap(2, Ordering::Relaxed) != 1 {
                    return;
                }
                let log = held.lock().clone().unwrap();
                let begun = log.clone();
                let begin = move || assert!(begun.begin_epoch(3).is_ok());
                *second.lock() = Some(std::thread::spawn(begin));
                let until = Instant::now() + Duration::from_secs(20);
                while log.epochs().last().is_none_or(|e| e.epoch.number != 3) {
                    assert!(Instant::now() < until, "the epoch does not begin");
                    std::thread::yield_now();
                }
            }
        };
        let watched = ground.watched.meanwhile(hook);
        let options = LogOptions {
            segments_ahead: 4,
            media: Arc::new(watched.clone()),
            ..ground.options()
        };
        let log = Arc::new(Log::open(&ground.dir, options).unwrap().0);
        *held.lock() = Some(log.clone());
        fill(&log, 2, None);
        watched.fail(&[CallKind::Rename], 28);
        log.begin_epoch(2).unwrap();
        watched.heal();
        while log.step() {}
        writes.store(0, Ordering::Relaxed);
        stage.store(1, Ordering::Relaxed);
        log.release(log.synced());
        while log.step() {}
        second
            .lock()
            .take()
            .expect("it was written")
            .join()
            .unwrap();
        held.lock().take();
        assert_eq!(writes.load(Ordering::Relaxed), 2, "the second is not in it");
    });
}

/// W5: the preparer, who had no room for it before, waited for a rewind to be done, and wrote the history that the rewind had cut.
#[test]
fn w5_a_history_that_waits_to_be_written_does_not_undo_a_rewind() {
    both(|ground| {
        let healed: Arc<Mutex<Option<Watched>>> = Arc::default();
        let hook = {
            let healed = healed.clone();
            move |called, _: &Path| {
                if called == CallKind::CreateDir
                    && let Some(watched) = healed.lock().take()
                {
                    watched.heal();
                    // Until the preparer, who was rung for, waits for what the rewind holds.
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        };
        let watched = ground.watched.meanwhile(hook);
        let options = LogOptions {
            media: Arc::new(watched.clone()),
            workers: Workers::Threads,
            segments_ahead: 2,
            ..ground.options()
        };
        let (log, _) = Log::open(&ground.dir, options.clone()).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while log.stats().rotations < 3 {
            let end = log.append(&[&[7; 900]]).unwrap().end;
            log.sync_up_to(end).unwrap();
        }
        while log.stats().segments_ready < 2 {
            assert!(Instant::now() < until, "no segment is prepared");
            std::thread::yield_now();
        }
        let (fork, epoch) = (log.reserved(), log.epoch());
        watched.fail(&[CallKind::Rename], 28);
        log.begin_epoch(2).unwrap();
        watched.calls();
        log.release(Lsn(fork.0 / 2));
        // It tries to, and fails.
        let of_history = |(kind, path): &(CallKind, PathBuf)| {
            *kind == CallKind::Rename && path.ends_with("EPOCHS")
        };
        while !watched.calls().iter().any(of_history) {
            assert!(Instant::now() < until, "the history is not tried again");
            std::thread::yield_now();
        }
        // Until it waits to be rung for.
        std::thread::sleep(Duration::from_millis(50));
        *healed.lock() = Some(watched);
        let (again, _) = log.rewind(fork, epoch).unwrap();
        assert!(healed.lock().is_none(), "nothing was copied aside");
        assert_eq!((again.reserved(), again.epoch()), (fork, epoch));
    });
}
