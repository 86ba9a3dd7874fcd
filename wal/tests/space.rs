//! Space: a disk that is full, segments that are held or given back (W8).

mod harness;

use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{ENOSPC, SimMedia};
use esker_wal::{Log, LogError, LogId, LogOptions, OpenError, Recovered};
use harness::{model::ModelFrame, options, read_all};
use std::path::Path;
use std::sync::Arc;

const ID: LogId = LogId(81);

fn dir() -> &'static Path {
    Path::new("log")
}

fn open(media: &SimMedia) -> Result<(Log, Recovered), OpenError> {
    let clock = Arc::new(ManualClock::default());
    // The last of two that are prepared is the reserve.
    let options = LogOptions {
        segments_ahead: 2,
        ..options(media, &clock, ID)
    };
    Log::open(dir(), options)
}

/// Appends until there is no room, and syncs it.
fn fill(log: &Log) -> LogError {
    let refused = loop {
        if let Err(error) = log.append(&[&[7; 2000]]) {
            break error;
        }
        log.sync_up_to(log.published()).unwrap();
        while log.step() {}
    };
    while log.step() {}
    refused
}

/// A log of some frames on a medium without one free byte, its process killed.
fn full(seed: u64) -> (SimMedia, Vec<ModelFrame>) {
    let media = SimMedia::new(seed);
    media.create_dir_all(dir()).unwrap();
    let (log, _) = open(&media).unwrap();
    log.append(&[b"first"]).unwrap();
    while log.step() {}
    media.set_capacity(Some(media.used_bytes()));
    let refused = fill(&log);
    assert!(matches!(refused, LogError::NoSpace { .. }), "{refused}");
    let frames = read_all(&log).unwrap();
    media.kill();
    drop(log);
    (media, frames)
}

fn holds(log: &Log, frames: &[ModelFrame], what: &str) {
    let found = read_all(log).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(found.starts_with(frames), "{what}: frames are missing");
}

/// W8: the first open after a kill goes on in the reserve, its epoch in the history on disk, written into the spare; the next ones
/// read. Once there is room all goes on.
#[test]
fn a_log_on_a_disk_without_a_free_byte_opens_after_each_kill() {
    let (media, frames) = full(1);
    let mut history = Vec::new();
    for life in 0..4 {
        let (log, found) = open(&media).unwrap();
        holds(&log, &frames, &format!("life {life}"));
        assert_eq!(found.reading_only.is_some(), life > 0, "{found:?}");
        if life == 0 {
            history = log.epochs();
            assert_eq!(history.len(), 2);
        }
        assert_eq!(log.epochs(), history);
        let refused = fill(&log);
        assert!(matches!(refused, LogError::NoSpace { .. }), "{refused}");
        // It closes, too: nothing of that needs room.
        if life == 2 {
            log.close().unwrap();
        }
        media.kill();
    }
    // The history of the first life had reached the disk: it does not depend on the segments.
    media.power_cut(3);
    media.set_capacity(None);
    let (log, found) = open(&media).unwrap();
    assert_eq!(found.reading_only, None);
    assert_eq!(log.epochs()[..2], history[..]);
    log.append(&[b"room"]).unwrap();
    log.sync_up_to(log.published()).unwrap();
}

/// W8: slots are made, moved and dropped on a full disk, and are durable.
#[test]
fn slots_move_on_a_full_disk() {
    let media = SimMedia::new(2);
    media.create_dir_all(dir()).unwrap();
    let (log, _) = open(&media).unwrap();
    let end = log.append(&[b"first"]).unwrap().end;
    log.sync_up_to(end).unwrap();
    media.set_capacity(Some(media.used_bytes()));
    assert_eq!(
        media
            .create(Path::new("log/x"), 1)
            .unwrap_err()
            .raw_os_error(),
        Some(ENOSPC)
    );
    log.set_slot("a", log.oldest()).unwrap();
    log.set_slot("b", end).unwrap();
    log.drop_slot("a").unwrap();
    media.power_cut(4);
    let (log, _) = open(&media).unwrap();
    let slots: Vec<_> = (log.slots().into_iter().map(|s| (s.name, s.position))).collect();
    assert_eq!(slots, [("b".to_owned(), end)]);
}

/// W2, W8: power that goes at any call of an open on a full disk, and of the one after it, leaves a log that opens and
/// holds everything, with a history that is whole.
#[test]
fn power_that_goes_while_a_full_log_opens_loses_nothing() {
    let (image, frames) = full(5);
    let calls = {
        let media = image.fork(0);
        let before = media.calls();
        let opened = open(&media);
        drop(opened);
        media.calls() - before
    };
    assert!(calls > 20, "only {calls} calls");
    for call in 1..=calls {
        for seed in 0..4 {
            let what = format!("call {call}, seed {seed}");
            let media = image.fork(seed);
            media.cut_at_call(call);
            drop(open(&media));
            media.power_cut(seed);
            for again in 0..2 {
                let (log, _) = open(&media).unwrap_or_else(|e| panic!("{what}: {e}"));
                holds(&log, &frames, &format!("{what}, open {again}"));
                media.kill();
            }
            media.set_capacity(None);
            let (log, found) = open(&media).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(found.reading_only, None, "{what}");
            holds(&log, &frames, &what);
            log.append(&[b"room"]).unwrap();
        }
    }
}
