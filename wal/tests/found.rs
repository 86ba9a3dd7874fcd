//! Failures that the random runs found, each as a short test.

mod harness;

use esker_wal::frame::{Header, Kind, Seed, checksum, fold};
use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, ENOSPC, Fault, SimMedia};
use esker_wal::{Log, LogId, LogOptions, Lsn, OpenRole, WireFrame};
use harness::{options, read_all};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const ID: LogId = LogId(79);

fn medium() -> SimMedia {
    let media = SimMedia::new(1);
    media.create_dir_all(Path::new("log")).unwrap();
    media
}

fn open(media: &SimMedia) -> Log {
    let clock = Arc::new(ManualClock::default());
    Log::open(Path::new("log"), options(media, &clock, ID))
        .unwrap()
        .0
}

/// Appends and syncs until `segments` more were begun.
fn fill(log: &Log, segments: u64) {
    let until = log.stats().rotations + segments;
    while log.stats().rotations < until {
        let end = log.append(&[&[7; 2000]]).unwrap().end;
        log.sync_up_to(end).unwrap();
        while log.step() {}
    }
}

/// The header of a released segment was reset in place; a write that failed half-way left a file with a
/// segment's name and no intact header, which the next open took for damage.
#[test]
fn a_half_written_header_of_a_recycled_file_is_no_damage() {
    for seed in 0..40 {
        let media = SimMedia::new(seed);
        media.create_dir_all(Path::new("log")).unwrap();
        let log = open(&media);
        fill(&log, 2);
        // The first file that was made is the first to be used again.
        media.fail(Fault::nth(1).of(CallKind::Write).on("0000000000000001"));
        log.release(log.synced());
        while log.step() {}
        media.kill();
        drop(log);
        media.heal();
        open(&media);
    }
}

/// The removal of the oldest segment failed, and the next one went all the same: the crash after it left
/// a gap, which the next open took for damage.
#[test]
fn a_segment_whose_removal_failed_leaves_no_gap() {
    for kind in [CallKind::Rename, CallKind::Remove, CallKind::SyncDir] {
        for nth in 1..8 {
            let media = medium();
            let log = open(&media);
            // More than are kept to be used again.
            fill(&log, 9);
            media.fail(Fault::nth(nth).of(kind));
            log.release(log.synced());
            for _ in 0..40 {
                log.step();
            }
            let synced = log.synced();
            media.power_cut(nth);
            drop(log);
            media.heal();
            let log = open(&media);
            assert!(read_all(&log).unwrap().last().unwrap().end() >= synced);
        }
    }
}

/// A promotion right after an open replaces a segment without frames. Where the removal of its file failed,
/// it stayed; once the log around it was released, the next open took it for damage.
#[test]
fn a_replaced_empty_segment_is_gone_before_its_neighbours() {
    let media = medium();
    let log = open(&media);
    fill(&log, 1);
    media.kill();
    drop(log);
    let clock = Arc::new(ManualClock::default());
    let options = LogOptions {
        role: OpenRole::Follower,
        ..options(&media, &clock, ID)
    };
    let (log, _) = Log::open(Path::new("log"), options).unwrap();
    media.fail(Fault::nth(1).of(CallKind::Remove).on(".seg"));
    log.begin_epoch(2).unwrap();
    fill(&log, 3);
    log.release(log.synced());
    for _ in 0..40 {
        log.step();
    }
    assert!(log.oldest() > Lsn::ZERO);
    media.kill();
    drop(log);
    media.heal();
    open(&media);
}

/// The first writing of a new slot failed; set again, it was there already and not written.
#[test]
fn a_slot_is_durable_once_set_slot_has_succeeded() {
    let media = medium();
    let log = open(&media);
    media.fail(Fault::nth(1).of(CallKind::Rename));
    log.set_slot("a", Lsn::ZERO).unwrap_err();
    log.set_slot("a", Lsn::ZERO).unwrap();
    media.power_cut(1);
    drop(log);
    let log = open(&media);
    assert_eq!(log.slots().len(), 1);
    media.fail(Fault::nth(1).of(CallKind::Rename));
    log.drop_slot("a").unwrap_err();
    assert!(!log.drop_slot("a").unwrap());
    media.power_cut(2);
    drop(log);
    assert!(open(&media).slots().is_empty());
}

/// The file of the slots had its name when the sync of the directory failed. The log that a rewind opened went by it, had nothing to write, and would have
/// released by it; the power took the name back. Seed 476666 of the power cuts.
#[test]
fn what_a_log_finds_at_open_survives_the_power() {
    let mut moved = 0;
    for nth in 1..12 {
        let media = medium();
        let log = open(&media);
        log.set_slot("a", Lsn::ZERO).unwrap();
        let end = log.append(&[b"frame"]).unwrap().end;
        log.sync_up_to(end).unwrap();
        log.set_slot("a", end).unwrap();
        media.fail(Fault::nth(nth).of(CallKind::SyncDir));
        let Ok((log, _)) = log.rewind(end, log.epoch()) else {
            continue;
        };
        media.heal();
        let found = log.slots()[0].position;
        moved += u32::from(found == end);
        media.power_cut(3);
        drop(log);
        assert_eq!(open(&media).slots()[0].position, found, "sync {nth} failed");
    }
    assert!(moved > 1, "the slot was never seen where it moved to");
}

/// The oldest segment lost its frames with the power, and a follower that was opened without room for another went on at the same place once there was
/// some. The new segment did not know the chain hash at its base, and took itself for one whose predecessor is missing. Seed 480076 of the power cuts.
#[test]
fn a_follower_that_goes_on_after_it_had_no_room_knows_its_beginning() {
    for seed in 0..64 {
        let media = SimMedia::new(seed);
        media.create_dir_all(Path::new("log")).unwrap();
        let log = open(&media);
        let held;
        let base = loop {
            let rotations = log.stats().rotations;
            let (lsn, reserved) = (log.reserved(), log.try_reserve(2000).unwrap());
            if log.stats().rotations > rotations && rotations > 1 {
                // Never published: nothing of the new segment is synced.
                held = reserved;
                break lsn;
            }
            reserved.publish(&[&[7; 2000]]).unwrap();
            while log.step() {}
        };
        log.sync_up_to(base).unwrap();
        log.release(base);
        while log.step() {}
        let epoch = log.epoch();
        media.power_cut(seed);
        drop((held, log));
        media.fail(Fault::nth(1).of(CallKind::Rename).errno(ENOSPC).times(9));
        let clock = Arc::new(ManualClock::default());
        let follower = LogOptions {
            role: OpenRole::Follower,
            ..options(&media, &clock, ID)
        };
        let (log, found) = Log::open(Path::new("log"), follower).unwrap();
        assert_eq!((found.oldest, found.end), (base, base));
        assert!(found.reading_only.is_some(), "{found:?}");
        media.heal();
        let payload = vec![8; 100];
        let crc = checksum(Seed::new(ID, epoch), base, Kind::Data, &[&payload]);
        let header = Header {
            payload_len: payload.len() as u32,
            crc,
            lsn: base,
            kind: Kind::Data,
        };
        let follow = || {
            let payload = &payload;
            log.append_replicated(WireFrame { header, payload })
        };
        while follow().is_err() {
            clock.advance(Duration::from_secs(1));
            assert!(
                log.step(),
                "seed {seed}: there is room, and it does not go on"
            );
        }
        log.sync_up_to(log.reserved()).unwrap();
        media.power_cut(seed);
        drop(log);
        let log = open(&media);
        assert_eq!(log.oldest(), base, "seed {seed}");
    }
}

/// Recovery came before the slots were read: what was refused for them had changed the log already.
#[test]
fn damaged_slots_are_refused_before_anything_changes() {
    let media = medium();
    let log = open(&media);
    log.set_slot("a", Lsn::ZERO).unwrap();
    media.kill();
    drop(log);
    media.flip(Path::new("log/SLOTS"), 20, 1).unwrap();
    let before = media.image();
    let clock = Arc::new(ManualClock::default());
    Log::open(Path::new("log"), options(&media, &clock, ID)).unwrap_err();
    assert!(media.image() == before);
}

/// A log that was opened for reading, because there was no room for its epoch's segment, ended with a segment
/// without frames. When it went on, the new segment took its place without knowing the chain hash
/// at its base, and the next open took it for damage.
#[test]
fn a_log_that_goes_on_after_it_had_no_room_knows_its_beginning() {
    let media = medium();
    let log = open(&media);
    fill(&log, 1);
    media.kill();
    drop(log);
    let open_as = |role| {
        let clock = Arc::new(ManualClock::default());
        let options = LogOptions {
            role,
            segments_ahead: 1,
            ..options(&media, &clock, ID)
        };
        Log::open(Path::new("log"), options).unwrap()
    };
    // The follower's segment at the end has no frames; all before it goes.
    let (log, _) = open_as(OpenRole::Follower);
    log.release(log.synced());
    for _ in 0..40 {
        log.step();
    }
    assert_eq!(log.oldest(), log.reserved());
    log.close().unwrap();
    drop(log);
    // Nothing is left to be prepared from.
    media.fail(
        Fault::nth(1)
            .of(CallKind::Create)
            .errno(ENOSPC)
            .on(".tmp")
            .times(9),
    );
    media.fail(Fault::nth(1).of(CallKind::Rename).errno(ENOSPC).times(9));
    let (log, found) = open_as(OpenRole::Writer);
    media.heal();
    for _ in 0..40 {
        log.step();
    }
    let end = log.append(&[b"went on"]).unwrap().end;
    log.sync_up_to(end).unwrap();
    media.kill();
    drop(log);
    open(&media);
    assert!(found.reading_only.is_some(), "{found:?}");
}

/// The chain hash was folded over the headers in the mapping, among them one whose write had failed between its length and
/// its checksum. Seed 101810 of the power cuts.
#[test]
fn a_frame_whose_write_failed_has_no_chain_hash() {
    let mut half_written = 0;
    for seed in 0..64 {
        let media = SimMedia::new(seed);
        media.create_dir_all(Path::new("log")).unwrap();
        let log = open(&media);
        let lsn = log.append(&[b"whole"]).unwrap().end;
        let crc = checksum(Seed::new(ID, log.epoch()), lsn, Kind::Data, &[b"broken"]);
        let header = Header {
            payload_len: 6,
            crc,
            lsn,
            kind: Kind::Data,
        };
        let right = fold(log.chain_at(lsn).unwrap(), log.epoch(), &header);
        // The second call of an append is its first word.
        media.fail(Fault::nth(2).of(CallKind::Write));
        log.append(&[b"broken"]).unwrap_err();
        match log.chain_at(header.end()) {
            // The error came after all of the word.
            Ok(hash) => assert_eq!(hash, right, "seed {seed}"),
            Err(_) => half_written += u32::from(log.published() == header.end()),
        }
    }
    assert!(half_written > 0, "no word was written half");
}
