//! Segments that are made while nobody waits for them, and for somebody who does (U7).

use crate::ground::{Ground, PATIENCE, both};
use crate::watched::Watched;
use esker_wal::media::sim::{CallKind, ENOSPC};
use esker_wal::*;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// At leisure one file of these takes longer than the test has patience.
const PIECES: usize = 4_000;

/// A log whose preparer is making a segment that nobody needs yet.
fn at_leisure(ground: &Ground) -> (Log, Watched) {
    let watched = ground.watched.of_pieces(PIECES);
    let options = LogOptions {
        segments_ahead: 1,
        workers: Workers::Threads,
        media: Arc::new(watched.clone()),
        ..ground.options()
    };
    // The epoch of the open needs a segment: that one is made at once.
    let (log, _) = Log::open(&ground.dir, options).unwrap();
    watched.paced();
    let end = Instant::now() + PATIENCE;
    while watched.paced().is_empty() {
        assert!(Instant::now() < end, "no segment is made");
        std::thread::sleep(Duration::from_millis(1));
    }
    (log, watched)
}

/// Fails if it takes as long as a segment that is made at leisure.
fn soon(what: &str, action: impl FnOnce() + Send + 'static) {
    let (done, wait) = channel();
    std::thread::spawn(move || {
        action();
        let _ = done.send(());
    });
    assert!(
        wait.recv_timeout(PATIENCE).is_ok(),
        "{what} waits for the preparer's leisure"
    );
}

#[test]
fn u7_a_segment_that_nobody_waits_for_is_made_at_leisure() {
    both(|ground| {
        let (log, watched) = at_leisure(&ground);
        std::thread::sleep(Duration::from_millis(400));
        let turns = watched.paced();
        let lasted = turns[turns.len() - 1] - turns[0];
        // 8 MiB a second and segment ahead: from piece to piece 15.6 ms. It may be late, and not early.
        let least = Duration::from_micros(15_600) * (turns.len() as u32 - 1);
        assert!(lasted >= least, "{} pieces in {lasted:?}", turns.len());
        soon("the close", move || log.close().unwrap());
    });
}

/// Nobody waits for room, nor is there a rotation.
#[test]
fn u7_a_quarter_of_a_segment_appended_is_as_much_as_a_segment_of_zeros() {
    both(|ground| {
        let (log, watched) = at_leisure(&ground);
        let segment = ground.options().segment_bytes;
        let (from, rotations) = (log.published(), log.stats().rotations);
        while log.published().since(from) < segment / 4 {
            log.append(&[&[7; 100]]).unwrap();
        }
        assert_eq!(log.stats().rotations, rotations);
        let mut pieces = 0;
        soon("the segment", move || {
            while pieces < PIECES / 2 {
                pieces += watched.paced().len();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        log.close().unwrap();
    });
}

#[test]
fn u7_who_waits_for_room_waits_for_nobodys_leisure() {
    both(|ground| {
        let (log, _) = at_leisure(&ground);
        soon("an append", move || {
            let until = log.stats().rotations + 3;
            while log.stats().rotations < until {
                log.append(&[&[7; 900]]).unwrap();
            }
            log.close().unwrap();
        });
    });
}

/// Appends fail until the segment is there, and nothing more is appended that would end the leisure.
#[test]
fn u7_when_a_full_disk_has_room_again_it_is_taken_at_once() {
    both(|ground| {
        let (log, watched) = at_leisure(&ground);
        watched.fail(&[CallKind::Create], ENOSPC);
        while log.append(&[&[7; 900]]).is_ok() {}
        // Room of another kind: nobody is known to wait any more.
        log.sync_up_to(log.published()).unwrap();
        watched.heal();
        soon("an append", move || {
            while let Err(error) = log.append(&[&[7; 900]]) {
                assert!(matches!(error, LogError::NoSpace { .. }), "{error}");
                std::thread::sleep(Duration::from_millis(5));
            }
            log.close().unwrap();
        });
    });
}

/// It needs the preparer's lock, and no room.
#[test]
fn u7_a_frame_with_a_segment_of_its_own_waits_for_nobodys_leisure() {
    both(|ground| {
        let (log, _) = at_leisure(&ground);
        soon("a large frame", move || {
            log.append(&[&[7; 40_000]]).unwrap();
            log.close().unwrap();
        });
    });
}

#[test]
fn u7_a_rewind_waits_for_nobodys_leisure() {
    both(|ground| {
        let (log, _) = at_leisure(&ground);
        soon("a rewind", move || {
            let end = log.append(&[&[7; 100]]).unwrap().end;
            let (log, _) = log.rewind(end, log.epoch()).unwrap();
            log.close().unwrap();
        });
    });
}
