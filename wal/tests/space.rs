//! Space: a disk that is full, segments that are held or given back (W8).

mod harness;

use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{ENOSPC, SimMedia};
use esker_wal::{
    Log, LogError, LogEvent, LogId, LogOptions, Lsn, OpenError, ReadLimit, Received, Recovered,
    Slot, SlotState, Subscription,
};
use harness::{SEGMENT_BYTES, model::ModelFrame, options, read_all};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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

/// As [`open`], with limits.
fn open_with(
    media: &SimMedia,
    clock: &Arc<ManualClock>,
    change: impl FnOnce(&mut LogOptions),
) -> Log {
    let mut options = options(media, clock, ID);
    change(&mut options);
    Log::open(dir(), options).unwrap().0
}

fn medium(seed: u64) -> (SimMedia, Arc<ManualClock>) {
    let media = SimMedia::new(seed);
    media.create_dir_all(dir()).unwrap();
    (media, Arc::default())
}

/// Appends, syncs and tends until `segments` more were begun.
fn grow(log: &Log, segments: u64) {
    let until = log.stats().rotations + segments;
    while log.stats().rotations < until {
        log.append(&[&[7; 2000]]).unwrap();
        log.sync_up_to(log.published()).unwrap();
        while log.step() {}
    }
}

fn tend(log: &Log) {
    while log.step() {}
}

fn slot(log: &Log, name: &str) -> Slot {
    log.slots().into_iter().find(|s| s.name == name).unwrap()
}

fn drain(events: &mut Subscription<LogEvent>) -> Vec<String> {
    let mut names = Vec::new();
    while let Received::Event(event) = events.try_next() {
        let text = format!("{event:?}");
        names.push(text[..text.find([' ', '(']).unwrap()].to_owned());
    }
    names
}

fn slots_only(event: &LogEvent) -> bool {
    matches!(
        event,
        LogEvent::SlotAtRisk { .. } | LogEvent::SlotLost { .. }
    )
}

/// A slot is warned of once, then lost to its cap in bytes; it is lost after a restart too, and taken up again where it can be.
#[test]
fn a_slot_past_its_bytes_is_at_risk_then_lost() {
    let (media, clock) = medium(10);
    let capped = |o: &mut LogOptions| o.slot_bytes_max = 5 * SEGMENT_BYTES;
    let log = open_with(&media, &clock, capped);
    let mut events = log.events(64, slots_only);
    log.set_slot("slow", Lsn::ZERO).unwrap();
    log.set_slot("quick", Lsn::ZERO).unwrap();
    let mut states = Vec::new();
    for _ in 0..8 {
        grow(&log, 1);
        log.set_slot("quick", log.synced()).unwrap();
        log.release(log.synced());
        tend(&log);
        let state = slot(&log, "slow").state;
        if states.last() != Some(&state) {
            states.push(state);
        }
        assert_eq!(log.oldest() > Lsn::ZERO, state == SlotState::Lost);
        assert_eq!(slot(&log, "quick").state, SlotState::Ok);
    }
    assert_eq!(states, [SlotState::Ok, SlotState::AtRisk, SlotState::Lost]);
    assert_eq!(drain(&mut events), ["SlotAtRisk", "SlotLost"]);
    assert!(slot(&log, "slow").held_bytes > 5 * SEGMENT_BYTES);
    media.power_cut(1);
    drop(log);
    let log = open_with(&media, &clock, capped);
    assert_eq!(slot(&log, "slow").state, SlotState::Lost);
    let refused = log.set_slot("slow", Lsn::ZERO).unwrap_err();
    assert!(matches!(refused, LogError::Released { .. }), "{refused}");
    log.set_slot("slow", log.oldest()).unwrap();
    assert_eq!(slot(&log, "slow").state, SlotState::Ok);
}

/// Ages count from the close of a segment, which its footer keeps over a restart.
#[test]
fn a_slot_past_its_age_is_lost_and_log_is_kept_for_its_age() {
    let (media, clock) = medium(11);
    clock.advance(Duration::from_secs(1000));
    let hours = |n: u64| Duration::from_secs(3600 * n);
    let aged = |o: &mut LogOptions| {
        o.slot_age_max = hours(8);
        o.keep_age = hours(2);
    };
    let log = open_with(&media, &clock, aged);
    log.set_slot("slow", Lsn::ZERO).unwrap();
    grow(&log, 1);
    let first = log.reserved();
    clock.advance(hours(5));
    grow(&log, 2);
    log.release(log.synced());
    tend(&log);
    assert_eq!(slot(&log, "slow").age, hours(5));
    assert_eq!(
        (slot(&log, "slow").state, log.oldest()),
        (SlotState::Ok, Lsn::ZERO)
    );
    media.kill();
    drop(log);
    let log = open_with(&media, &clock, aged);
    log.release(log.synced());
    clock.advance(hours(2));
    assert_eq!(slot(&log, "slow").age, hours(7));
    assert_eq!(slot(&log, "slow").state, SlotState::AtRisk);
    // The others were closed less than two hours ago when it is lost.
    clock.advance(hours(1) + Duration::from_secs(1));
    grow(&log, 1);
    tend(&log);
    assert_eq!(slot(&log, "slow").state, SlotState::Lost);
    let held = log.oldest();
    assert!(held > first, "what is older than two hours goes");
    clock.advance(hours(2) + Duration::from_secs(1));
    tend(&log);
    assert!(log.oldest() > held, "and later the rest");
}

/// Log is kept by bytes, up to the most that may be held; readers and the release point are above that.
#[test]
fn log_is_kept_by_bytes_within_the_most_that_may_be_held() {
    let (media, clock) = medium(12);
    let log = open_with(&media, &clock, |o| {
        o.keep_bytes = 20 * SEGMENT_BYTES;
        o.log_bytes_max = 4 * SEGMENT_BYTES;
    });
    log.set_slot("slow", Lsn::ZERO).unwrap();
    grow(&log, 8);
    assert_eq!(log.oldest(), Lsn::ZERO, "nothing is released yet");
    let mut reader = log.reader(Lsn::ZERO, ReadLimit::Synced).unwrap();
    log.release(log.synced());
    tend(&log);
    assert_eq!(slot(&log, "slow").state, SlotState::Lost);
    assert_eq!(log.oldest(), Lsn::ZERO, "a reader has still to read it");
    while reader.next().unwrap().is_some() {}
    drop(reader);
    tend(&log);
    let held = log.stats().bytes_held;
    assert!(
        held > 3 * SEGMENT_BYTES && held < 6 * SEGMENT_BYTES,
        "{held} bytes"
    );
}

/// Below the floor of free disk the slot that is furthest behind is lost first, and no more of them than needed.
#[test]
fn slots_are_lost_rather_than_the_disk_filled() {
    let (media, clock) = medium(13);
    let floor = 4 * SEGMENT_BYTES;
    let log = open_with(&media, &clock, |o| {
        o.free_bytes_min = floor;
        o.keep_bytes = 100 * SEGMENT_BYTES;
    });
    let mut events = log.events(64, slots_only);
    log.set_slot("first", Lsn::ZERO).unwrap();
    grow(&log, 6);
    log.set_slot("second", log.reserved()).unwrap();
    grow(&log, 1);
    log.release(log.synced());
    media.set_capacity(Some(media.used_bytes() + floor + 2 * SEGMENT_BYTES));
    tend(&log);
    assert_eq!(slot(&log, "first").state, SlotState::AtRisk);
    assert_eq!(log.oldest(), Lsn::ZERO);
    grow(&log, 3);
    tend(&log);
    assert_eq!(slot(&log, "first").state, SlotState::Lost);
    assert_ne!(slot(&log, "second").state, SlotState::Lost);
    assert!(media.free_bytes(dir()).unwrap() >= floor);
    assert!(log.oldest() > Lsn::ZERO);
    let told = drain(&mut events);
    assert_eq!(
        told.iter().filter(|e| *e == "SlotLost").count(),
        1,
        "{told:?}"
    );
    assert_eq!(told[0], "SlotAtRisk");
    // What is not released is never given up for space.
    let oldest = log.oldest();
    media.set_capacity(Some(media.used_bytes()));
    tend(&log);
    let refused = fill(&log);
    assert!(matches!(refused, LogError::NoSpace { .. }), "{refused}");
    assert!(log.oldest() >= oldest && log.oldest() <= log.synced());
    let kept = log.oldest();
    tend(&log);
    assert_eq!(log.oldest(), kept);
}

/// W8: on a disk without a free byte, what is released is used again: deletes can be written, and the log closes clean.
#[test]
fn a_full_log_takes_appends_again_once_some_of_it_is_released() {
    let (media, clock) = medium(14);
    let log = open_with(&media, &clock, |o| o.segments_ahead = 2);
    let mut events = log.events(64, |e| !matches!(e, LogEvent::Rotated { .. }));
    grow(&log, 3);
    media.set_capacity(Some(media.used_bytes()));
    for round in 0..5 {
        let refused = fill(&log);
        assert!(matches!(refused, LogError::NoSpace { .. }), "{refused}");
        log.release(log.synced());
        clock.advance(Duration::from_secs(1));
        tend(&log);
        log.append(&[b"delete"])
            .unwrap_or_else(|e| panic!("round {round}: {e}"));
        let end = log.published();
        log.sync_up_to(end).unwrap();
    }
    let told = drain(&mut events);
    for event in ["NoSpace", "Released", "RoomAgain"] {
        assert!(told.iter().any(|e| e == event), "no {event} in {told:?}");
    }
    let end = log.reserved();
    log.close().unwrap();
    let (log, found) = open(&media).unwrap();
    assert!(found.clean && found.reading_only.is_none(), "{found:?}");
    assert_eq!(log.reserved(), end);
}
