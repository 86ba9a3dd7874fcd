//! What an open leaves behind it, beside the decisions themselves: marks, hashes, footers, files. W3, W4, W5, W8.

mod built;
mod harness;

use built::{Built, FRAMES_AT, ID, Left, build, dir, image, survey};
use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{Call, CallKind, EIO, ENOSPC, Fault, SimMedia};
use esker_wal::{
    FileState, Kind, Log, LogError, LogOptions, Lsn, LsnRange, OnDamage, OpenError, Recovered,
    SyncPolicy,
};
use harness::{options, read_all};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

fn open_at(media: &SimMedia, clock: &Arc<ManualClock>) -> Result<(Log, Recovered), OpenError> {
    Log::open(dir(), options(media, clock, ID))
}

fn open(media: &SimMedia) -> Result<(Log, Recovered), OpenError> {
    open_at(media, &Arc::default())
}

fn repairing(media: &SimMedia) -> Result<(Log, Recovered), OpenError> {
    let options = LogOptions {
        on_damage: OnDamage::Repair,
        ..options(media, &Arc::default(), ID)
    };
    Log::open(dir(), options)
}

fn fresh() -> SimMedia {
    let media = SimMedia::new(1);
    media.create_dir_all(dir()).unwrap();
    media
}

/// The file of the active segment with the highest base.
fn newest(media: &SimMedia) -> (PathBuf, Vec<u8>) {
    let files = survey(media).files().unwrap();
    let open = files.iter().filter(|f| f.base.is_some());
    let name = &open.max_by_key(|f| f.base).unwrap().name;
    let path = dir().join(name);
    let bytes = media.read(&path).unwrap();
    (path, bytes)
}

/// Sequence numbers of the two mark sectors, 0 where there is none.
fn sequences(bytes: &[u8]) -> [u64; 2] {
    [512, 1024].map(|at| match bytes[at..].starts_with(b"ESKRMARK") {
        true => u64::from_le_bytes(bytes[at + 16..at + 24].try_into().unwrap()),
        false => 0,
    })
}

fn without_segments(built: &Built) {
    for path in image(&built.media).into_keys() {
        if path.extension().is_some_and(|e| e == "seg") {
            built.media.remove(&path).unwrap();
        }
    }
}

/// W3: a log all of whose segments are gone is no empty log.
#[test]
fn a_log_whose_segments_are_all_missing_is_refused_and_says_what_is_lost() {
    let built = build(Left::Idle);
    without_segments(&built);
    let before = image(&built.media);
    let error = open(&built.media).map(|_| ()).unwrap_err();
    assert!(
        error.to_string().contains("all segments are missing"),
        "{error}"
    );
    assert!(image(&built.media) == before, "the disk was changed");
    let (log, recovered) = repairing(&built.media).unwrap();
    let lost = LsnRange {
        from: Lsn::ZERO,
        to: recovered.end,
    };
    assert!(
        recovered.end > Lsn::ZERO && log.damaged() == [lost],
        "{recovered:?}"
    );
}

/// Where nothing says that there was anything, nothing is lost.
#[test]
fn a_log_of_which_nothing_is_known_to_be_lost_is_repaired_to_an_empty_one() {
    let built = build(Left::Idle);
    without_segments(&built);
    built.media.remove(&dir().join("EPOCHS")).unwrap();
    let (log, recovered) = repairing(&built.media).unwrap();
    assert!(recovered.damaged.is_empty(), "{recovered:?}");
    assert!(log.damaged().is_empty());
}

/// W3: marks go to two places in turn, so that one that is torn leaves the one before.
#[test]
fn each_mark_leaves_the_one_before_it_where_it_stands() {
    let media = fresh();
    let clock = Arc::new(ManualClock::default());
    let (log, _) = open_at(&media, &clock).unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let end = log.append(&[b"one"]).unwrap().end;
        log.sync_up_to(end).unwrap();
        clock.advance(Duration::from_secs(5));
        while log.step() {}
        seen.push(sequences(&newest(&media).1));
    }
    log.close().unwrap();
    seen.push(sequences(&newest(&media).1));
    drop(log);
    // It goes on in the same segment: what takes the clean mark back stands beside it.
    let (log, recovered) = open_at(&media, &clock).unwrap();
    assert!(recovered.clean);
    seen.push(sequences(&newest(&media).1));
    drop(log);
    for pair in seen.windows(2) {
        let highest = *pair[0].iter().max().unwrap();
        assert!(pair[1].contains(&highest), "{seen:?}");
        assert_eq!(*pair[1].iter().max().unwrap(), highest + 1, "{seen:?}");
    }
}

/// W4: the segment that an open begins has the chain hash at its base from the first.
#[test]
fn the_segment_that_an_open_begins_knows_the_hash_at_its_base() {
    for left in [Left::Idle, Left::Busy] {
        let built = build(left);
        open(&built.media).unwrap();
        let (path, bytes) = newest(&built.media);
        assert!(
            bytes[128..].starts_with(b"CHAN"),
            "{left:?}: {}",
            path.display()
        );
        let verified = built::verify_options(&built.media);
        let damage = esker_wal::verify(dir(), &verified).unwrap().damage;
        assert!(damage.is_empty(), "{left:?}: {damage:?}");
    }
}

/// W4: the chain hash over what this process stored comes from the headers in the mapping: nothing is read back for it.
#[test]
fn an_open_waits_for_the_zeros_of_a_small_segment_and_goes_on_in_it() {
    let media = fresh();
    let whole = LogOptions::default().segment_bytes;
    let open = || {
        let options = LogOptions {
            segment_bytes: whole,
            payload_bytes_max: whole as usize,
            ..options(&media, &Arc::default(), ID)
        };
        Log::open(dir(), options).unwrap().0
    };
    let log = open();
    let (small, bytes) = newest(&media);
    assert_eq!(bytes.len(), 16 << 20);
    log.append(&[b"one"]).unwrap();
    let epoch = log.epoch();
    log.close().unwrap();
    let log = open();
    assert_eq!(newest(&media).0, small);
    assert_eq!(log.epoch(), epoch);
    // What a whole segment holds needs none of its own, though the small one has no room for it.
    let large = vec![7; 20 << 20];
    while let Err(LogError::Busy) = log.append(&[&large]) {
        assert!(log.step());
    }
    let (next, bytes) = newest(&media);
    assert!(next != small && bytes.len() as u64 == whole);
    log.append(&[b"two"]).unwrap();
    assert_eq!(newest(&media).0, next);
    let read: Vec<usize> = (read_all(&log).unwrap().iter())
        .filter(|frame| frame.kind == Kind::Data)
        .map(|frame| frame.payload.len())
        .collect();
    assert_eq!(read, [3, large.len(), 3]);
    log.close().unwrap();
}

#[test]
fn a_footer_over_ones_own_frames_reads_none_of_them() {
    let media = fresh();
    let options = LogOptions {
        sync_policy: SyncPolicy::Manual,
        ..options(&media, &Arc::default(), ID)
    };
    let (log, _) = Log::open(dir(), options).unwrap();
    media.start_trace();
    for _ in 0..60 {
        log.append(&[&[3; 700]]).unwrap();
        while log.step() {}
    }
    let mut calls = media.trace();
    calls.retain(|call| call.kind == CallKind::Read && call.offset >= FRAMES_AT);
    // The first segment begins with a frame that the open stored.
    calls.retain(|call| !call.path.ends_with("0000000000000001.tmp"));
    assert!(calls.is_empty(), "{calls:?}");
    let files = survey(&media).files().unwrap();
    let counted: u64 = files.iter().filter_map(|f| f.frames).sum();
    assert!(counted > 40, "{files:?}");
    log.close().unwrap();
    drop(log);
    let verified = built::verify_options(&media);
    let damage = esker_wal::verify(dir(), &verified).unwrap().damage;
    assert!(damage.is_empty(), "{damage:?}");
}

/// A footer above every mark is checked against the frames, and stays where it is true.
#[test]
fn a_footer_that_says_what_the_frames_say_is_not_written_again() {
    let media = fresh();
    let (log, _) = open(&media).unwrap();
    let begun = log.stats().rotations;
    while log.stats().rotations == begun {
        log.append(&[&[3; 700]]).unwrap();
    }
    while log.step() {}
    let end = log.published();
    media.kill();
    drop(log);
    let closed = |f: &&esker_wal::FileInfo| f.base == Some(Lsn::ZERO);
    let files = survey(&media).files().unwrap();
    let first = files.iter().find(closed).unwrap();
    assert!(first.frames.is_some(), "{first:?}");
    let (log, recovered) = open(&media).unwrap();
    assert_eq!(recovered.end, end);
    media.start_trace();
    while log.step() {}
    let mut calls = media.trace();
    calls.retain(|call| call.kind == CallKind::Write && call.path.ends_with(&first.name));
    assert!(calls.is_empty(), "{calls:?}");
}

/// A segment with a footer whose last frames are cut gets the footer of what is left.
#[test]
fn a_footer_of_frames_that_were_cut_is_written_again() {
    let media = fresh();
    let (log, _) = open(&media).unwrap();
    let begun = log.stats().rotations;
    while log.stats().rotations == begun {
        log.append(&[&[3; 700]]).unwrap();
    }
    // Nothing of it was synced; the footer is there all the same.
    while log.step() {}
    let frames = read_all(&log).unwrap();
    media.kill();
    drop(log);
    let first = survey(&media)
        .files()
        .unwrap()
        .into_iter()
        .find(|f| f.base == Some(Lsn::ZERO))
        .unwrap();
    let inside = frames.iter().filter(|f| f.lsn < first.end.unwrap()).count();
    assert_eq!(first.frames, Some(inside as u64));
    let torn = &frames[inside - 1];
    if torn.lsn < survey(&media).synced() {
        panic!("{} was synced", torn.brief());
    }
    media
        .flip(&dir().join(&first.name), 4096 + torn.lsn.0 + 40, 1)
        .unwrap();
    let (log, recovered) = open(&media).unwrap();
    assert_eq!(recovered.end, torn.lsn);
    while log.step() {}
    let files = survey(&media).files().unwrap();
    let first = files.iter().find(|f| f.name == first.name).unwrap();
    assert_eq!(
        (first.frames, first.end),
        (Some(inside as u64 - 1), Some(torn.lsn))
    );
}

/// A segment that lost all of its frames is gone once another one has its place.
#[test]
fn a_segment_without_frames_is_removed_by_the_open_that_replaces_it() {
    let media = fresh();
    let (log, _) = open(&media).unwrap();
    let begun = log.stats().rotations;
    let mut last = log.published();
    while log.stats().rotations == begun {
        log.sync_up_to(log.published()).unwrap();
        last = log.append(&[&[3; 700]]).unwrap().lsn;
        while log.step() {}
    }
    media.kill();
    drop(log);
    let (path, mut bytes) = newest(&media);
    bytes[4096..].fill(0);
    media.put(&path, &bytes).unwrap();
    let (log, recovered) = open(&media).unwrap();
    assert_eq!(recovered.end, last);
    assert!(
        !media.exists(&path).unwrap(),
        "{} is still there",
        path.display()
    );
    assert!(
        !media.durable_image().contains_key(&path),
        "{} comes back with the power",
        path.display()
    );
    let active = |f: &&esker_wal::FileInfo| f.state != FileState::Prepared && f.base == Some(last);
    assert_eq!(
        survey(&media)
            .files()
            .unwrap()
            .iter()
            .filter(active)
            .count(),
        1
    );
    drop(log);
}

/// What an open costs follows the unsynced tail: what is closed and marked is not written again, by the open nor by the workers after it.
#[test]
fn an_open_writes_to_no_segment_below_the_mark() {
    for left in [Left::Closed, Left::Idle, Left::Busy] {
        let built = build(left);
        let clock = Arc::new(ManualClock::default());
        built.media.start_trace();
        let (log, recovered) = open_at(&built.media, &clock).unwrap();
        let last = built.last();
        let changes = |call: &Call| {
            let kinds = [CallKind::Write, CallKind::SyncFile, CallKind::Punch];
            kinds.contains(&call.kind) && built.segments.iter().any(|s| s.path == call.path)
        };
        let mut calls = built.media.trace();
        if left == Left::Busy {
            calls.retain(|call| call.path != last.path);
        }
        assert!(!calls.iter().any(changes), "{left:?}: {calls:?}");
        while log.step() {}
        let mut calls = built.media.trace();
        // A power cut may have taken a footer along: that one is written again.
        calls.retain(|call| left != Left::Idle && call.path != last.path && changes(call));
        assert!(calls.is_empty(), "{left:?}, {recovered:?}: {calls:?}");
    }
}

/// W6, W8: lack of space lets an open go on without what it can't write; any other failure ends it.
#[test]
fn only_lack_of_space_is_forgiven_to_an_open() {
    for errno in [EIO, ENOSPC] {
        for part in ["EPOCHS", "/0000"] {
            let built = build(Left::Idle);
            let media = &built.media;
            // All that is prepared or spare goes: files have to be made.
            for (path, bytes) in image(media) {
                let name = path.to_string_lossy().into_owned();
                let prepared = name.ends_with(".seg") && bytes[64..68] == [0; 4];
                if prepared || name.ends_with(".spare") {
                    media.remove(&path).unwrap();
                }
            }
            let create = Fault::nth(1).of(CallKind::Create).on(part);
            media.fail(create.errno(errno).times(u64::MAX));
            match (open(media), errno) {
                (Ok((log, recovered)), ENOSPC) => {
                    assert_eq!(
                        recovered.reading_only.is_some(),
                        part == "/0000",
                        "{recovered:?}"
                    );
                    assert!(read_all(&log).unwrap().starts_with(&built.frames), "{part}");
                }
                (Err(OpenError::Io { source, .. }), EIO) => {
                    assert_eq!(source.raw_os_error(), Some(EIO), "{part}");
                }
                (other, _) => panic!("{part}, {errno}: {:?}", other.map(|o| o.1)),
            }
        }
    }
}
