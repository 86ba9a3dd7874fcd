//! A log of several segments on the medium in memory, to be damaged.

#![allow(dead_code, reason = "shared by several test binaries")]

use crate::harness::model::ModelFrame;
use crate::harness::{options, read_all};
use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{SimMedia, SimRng};
use esker_wal::{FileState, Log, LogId, Lsn, LsnRange, Survey, VerifyOptions};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const ID: LogId = LogId(81);
pub(crate) const FRAMES_AT: u64 = 4096;

pub(crate) fn dir() -> &'static Path {
    Path::new("log")
}

/// How the log was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Closed,
    /// Killed when idle, all of it marked; then the power went.
    Idle,
    /// Killed with frames above every mark.
    Busy,
}

#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) base: Lsn,
    /// LSN behind its last frame.
    pub(crate) end: Lsn,
}

pub(crate) struct Built {
    pub(crate) media: SimMedia,
    pub(crate) frames: Vec<ModelFrame>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) prepared: Option<PathBuf>,
    pub(crate) synced: Lsn,
}

/// Four segments or more, in two epochs, with void frames; the oldest were released and their files used again.
pub(crate) fn build(left: Left) -> Built {
    let media = SimMedia::new(1);
    media.create_dir_all(dir()).unwrap();
    let clock = Arc::new(ManualClock::default());
    let (log, _) = Log::open(dir(), options(&media, &clock, ID)).unwrap();
    let mut rng = SimRng::new(7);
    let mut some = |log: &Log, count| {
        for _ in 0..count {
            let payload: Vec<u8> = (0..200 + rng.below(900))
                .map(|_| rng.next_u64() as u8)
                .collect();
            match rng.chance(9) {
                true => drop(log.reserve(payload.len()).unwrap()),
                false => drop(log.append(&[&payload]).unwrap()),
            }
            while log.step() {}
        }
        log.sync_up_to(log.published()).unwrap();
        while log.step() {}
    };
    some(&log, 40);
    log.release(log.synced());
    while log.step() {}
    some(&log, 40);
    log.begin_epoch(2).unwrap();
    log.set_slot("a", log.oldest()).unwrap();
    some(&log, 30);
    let begun = log.stats().rotations;
    while log.stats().rotations == begun {
        some(&log, 1);
    }
    for n in 0..7 {
        log.append(&[&[n; 300]]).unwrap();
    }
    log.sync_up_to(log.published()).unwrap();
    clock.advance(Duration::from_secs(5));
    while log.step() {}
    let synced = log.synced();
    if left == Left::Busy {
        for n in 0..3_u8 {
            log.append(&[&[n; 500]]).unwrap();
        }
    }
    let frames = read_all(&log).unwrap();
    match left {
        Left::Closed => log.close().unwrap(),
        Left::Idle | Left::Busy => media.kill(),
    }
    drop(log);
    if left == Left::Idle {
        media.power_cut(1);
    }
    let files = survey(&media).files().unwrap();
    let mut segments: Vec<Segment> = (files.iter())
        .filter(|f| matches!(f.state, FileState::Open | FileState::Closed))
        .map(|f| Segment {
            path: dir().join(&f.name),
            base: f.base.unwrap(),
            end: Lsn::ZERO,
        })
        .collect();
    segments.sort_by_key(|s| s.base);
    let ends: Vec<Lsn> = segments[1..].iter().map(|s| s.base).collect();
    for (segment, end) in segments.iter_mut().zip(ends) {
        segment.end = end;
    }
    segments.last_mut().unwrap().end = frames.last().unwrap().end();
    assert!(segments.len() >= 5 && segments[0].base > Lsn::ZERO);
    let prepared = files.iter().find(|f| f.state == FileState::Prepared);
    Built {
        prepared: prepared.map(|f| dir().join(&f.name)),
        media,
        frames,
        segments,
        synced,
    }
}

pub(crate) fn survey(media: &SimMedia) -> Survey {
    Survey::of(dir(), Arc::new(media.clone())).unwrap()
}

impl Built {
    pub(crate) fn last(&self) -> &Segment {
        self.segments.last().unwrap()
    }

    /// A closed segment between two others.
    pub(crate) fn middle(&self) -> &Segment {
        &self.segments[self.segments.len() - 3]
    }

    /// The frames of a segment.
    pub(crate) fn of(&self, segment: &Segment) -> Vec<&ModelFrame> {
        let inside = |f: &&ModelFrame| segment.base <= f.lsn && f.lsn < segment.end;
        self.frames.iter().filter(inside).collect()
    }

    pub(crate) fn flip(&self, segment: &Segment, at: u64) {
        self.media.flip(&segment.path, at, 4).unwrap();
    }

    /// Damages the payload of a frame of `segment`; what is lost by that.
    pub(crate) fn harm(&self, segment: &Segment, nth: usize) -> LsnRange {
        let frame = self.of(segment)[nth].clone();
        self.flip(segment, FRAMES_AT + frame.lsn.since(segment.base) + 40);
        LsnRange {
            from: frame.lsn,
            to: frame.end(),
        }
    }

    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        self.media.read(path).unwrap()
    }

    pub(crate) fn all_of(&self, segment: &Segment) -> LsnRange {
        LsnRange {
            from: segment.base,
            to: segment.end,
        }
    }
}

pub(crate) fn image(media: &SimMedia) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut image = media.image();
    image.retain(|path, _| path.starts_with(dir()) && !path.ends_with("LOCK"));
    image
}

pub(crate) fn verify_options(media: &SimMedia) -> VerifyOptions {
    VerifyOptions {
        threads: 2,
        media: Arc::new(media.clone()),
        ..VerifyOptions::default()
    }
}
