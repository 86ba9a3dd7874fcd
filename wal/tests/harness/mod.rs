//! A log driven at random on a medium that fails, beside a model that tells what is allowed.
//!
//! One seed decides everything: the operations, the failures, and what a power cut leaves. The log is
//! stepped and its clock stands in the test's hand, so a seed replays exactly (but for the ids of
//! epochs, which decide nothing).

#![allow(
    dead_code,
    clippy::print_stderr,
    reason = "shared by several test binaries"
)]

mod forks;
mod lives;
pub(crate) mod model;
mod operations;
pub(crate) mod runs;
pub(crate) mod seeds;

use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, EIO, ENOSPC, Fault, SimMedia, SimRng};
use esker_wal::{
    Create, Kind, Log, LogError, LogId, LogOptions, Lsn, NodeId, OpenError, OpenRole, ReadLimit,
    Reader, Reservation, SlotState, SyncPolicy, Workers,
};
use model::{Model, ModelFrame, ModelSlot};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const SEGMENT_BYTES: u64 = 16 << 10;
/// Header page and footer; see docs/formats.md.
const FRAMES_PER_SEGMENT: u64 = SEGMENT_BYTES - 4096 - 512;

/// What was found wrong.
pub(crate) type Checked<T = ()> = Result<T, String>;

#[derive(Debug)]
struct Held {
    reservation: Reservation,
    payload: Vec<u8>,
    frame: usize,
}

/// How the last life of the log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// `close` said all is well, as this role.
    Clean(OpenRole),
    /// In any other way, the page cache kept.
    Killed,
    /// With the power.
    Cut,
}

/// Numbers of a run, to see that it went where it should.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) opens: u64,
    pub(crate) cuts: u64,
    pub(crate) kills: u64,
    pub(crate) closes: u64,
    pub(crate) appends: u64,
    pub(crate) poisonings: u64,
    pub(crate) frames_lost: u64,
    pub(crate) rotations: u64,
    pub(crate) recycled: u64,
    pub(crate) no_space: u64,
    pub(crate) rewinds: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.opens += other.opens;
        self.cuts += other.cuts;
        self.kills += other.kills;
        self.closes += other.closes;
        self.appends += other.appends;
        self.poisonings += other.poisonings;
        self.frames_lost += other.frames_lost;
        self.rotations += other.rotations;
        self.recycled += other.recycled;
        self.no_space += other.no_space;
        self.rewinds += other.rewinds;
    }
}

pub(crate) struct World {
    rng: SimRng,
    media: SimMedia,
    clock: Arc<ManualClock>,
    id: LogId,
    log: Option<Log>,
    role: OpenRole,
    held: Vec<Held>,
    model: Model,
    ended: Ended,
    /// What is published must be there after a kill.
    must_if_killed: Lsn,
    /// A frame whose filling failed stands here at the lowest; the log is poisoned.
    hole: Lsn,
    /// A rewind to there failed: it may have been done.
    maybe_fork: Option<Lsn>,
    /// Stays open, and reads on now and then.
    reader: Option<Reader>,
    /// Slots may be lost in this life.
    caps: bool,
    /// The next thing to happen is a crash.
    crash_next: bool,
    /// What was cut by rewinds, and where it is kept.
    cuts: Vec<(PathBuf, Vec<ModelFrame>, u32)>,
    /// Errors are expected while a failure, a cut or a limit is planned.
    trouble: bool,
    /// Preparing may have failed in this life; the log tries again after a while only.
    lacked_space: bool,
    /// Opened without room: an epoch begins as soon as there is some.
    resumes: bool,
    /// So was this life, whether it went on or not.
    opened_reading_only: bool,
    /// Whether an open without its epoch is a failure by itself, or only by what follows from it.
    pub(crate) epochs_are_counted: bool,
    pub(crate) tally: Tally,
    pub(crate) story: Vec<String>,
}

/// The segments of a medium, in short: number, base LSN and epoch of the active ones.
fn files(media: &SimMedia) -> String {
    let word = |bytes: &[u8], at: usize| {
        let word = bytes.get(at..at + 8).unwrap_or(&[0; 8]);
        u64::from_le_bytes(word.try_into().expect("8 bytes"))
    };
    let mut out = String::new();
    for (path, bytes) in media.image() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        out += &match (name.ends_with(".seg"), word(&bytes, 64)) {
            (false, _) => format!("{name}; "),
            (true, 0) => format!("{} prepared; ", word(&bytes, 48)),
            (true, _) => format!(
                "{} at {} in epoch {}; ",
                word(&bytes, 48),
                word(&bytes, 72),
                word(&bytes, 80)
            ),
        };
    }
    out
}

fn dir() -> &'static Path {
    Path::new("log")
}

pub(crate) fn options(media: &SimMedia, clock: &Arc<ManualClock>, id: LogId) -> LogOptions {
    LogOptions {
        create: Some(Create {
            log: id,
            node: NodeId(2),
            base: Lsn::ZERO,
        }),
        segment_bytes: SEGMENT_BYTES,
        segments_ahead: 1,
        workers: Workers::Stepped,
        media: Arc::new(media.clone()),
        clock: clock.clone(),
        ..LogOptions::default()
    }
}

/// All frames of a log, from its oldest.
pub(crate) fn read_all(log: &Log) -> Checked<Vec<ModelFrame>> {
    let mut reader = log
        .reader(log.oldest(), ReadLimit::Published)
        .map_err(|e| format!("no reader: {e}"))?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next().map_err(|e| format!("reading: {e}"))? {
        frames.push(ModelFrame {
            lsn: frame.header.lsn,
            epoch: frame.epoch,
            kind: frame.header.kind,
            payload: frame.payload.to_vec(),
        });
    }
    Ok(frames)
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut rng = SimRng::new(seed);
        let media = SimMedia::new(rng.next_u64());
        media
            .create_dir_all(dir())
            .expect("an empty medium has room");
        if rng.chance(2) {
            media.write_back_one_in(2 + rng.below(30));
        }
        let id = LogId(u128::from(rng.next_u64()));
        World {
            media,
            clock: Arc::default(),
            id,
            log: None,
            role: OpenRole::Writer,
            held: Vec::new(),
            model: Model::new(id),
            ended: Ended::Cut,
            must_if_killed: Lsn::ZERO,
            hole: Lsn::MAX,
            maybe_fork: None,
            cuts: Vec::new(),
            reader: None,
            caps: false,
            crash_next: false,
            trouble: false,
            lacked_space: false,
            resumes: false,
            opened_reading_only: false,
            epochs_are_counted: true,
            tally: Tally::default(),
            story: Vec::new(),
            rng,
        }
    }

    /// Runs one seed to its end.
    pub(crate) fn run(&mut self, ops: u64) -> Checked {
        for _ in 0..ops {
            if self.media.is_down() || self.log.is_none() {
                self.reopen()?;
                continue;
            }
            self.step()?;
            self.watch()?;
        }
        // The end of every seed: all is well again, and everything is there.
        self.crash()?;
        self.check_cuts()?;
        self.reopen_well()?;
        self.close()?;
        self.reopen_well()
    }

    fn say(&mut self, what: String) {
        self.story.push(what);
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("there is a log")
    }

    fn calm(&mut self) {
        self.media.heal();
        self.media.set_capacity(None);
        self.trouble = false;
    }

    fn plan_trouble(&mut self) {
        self.trouble = true;
        self.lacked_space = true;
        let rng = &mut self.rng;
        match rng.below(8) {
            0..=2 => {
                let n = 1 + rng.below(60);
                self.media.cut_at_call(n);
                self.say(format!("the power will go at call {n}"));
            }
            3 => {
                let left = rng.below(3) * SEGMENT_BYTES + rng.below(9000);
                let bytes = self.media.used_bytes() + left;
                self.media.set_capacity(Some(bytes));
                self.say(format!("{left} bytes are left"));
            }
            kind => {
                const KINDS: [CallKind; 9] = [
                    CallKind::SyncMap,
                    CallKind::SyncMap,
                    CallKind::SyncFile,
                    CallKind::SyncDir,
                    CallKind::Write,
                    CallKind::Create,
                    CallKind::Rename,
                    CallKind::Remove,
                    CallKind::Map,
                ];
                let n = 1 + rng.below(8);
                let errno = if rng.chance(3) { ENOSPC } else { EIO };
                let mut fault = Fault::nth(n).errno(errno);
                let mut what = "any".to_owned();
                if kind > 3 {
                    let kind = KINDS[rng.below(KINDS.len() as u64) as usize];
                    fault = fault.of(kind);
                    what = format!("{kind:?}");
                }
                if rng.chance(4) {
                    fault = fault.times(3);
                }
                self.media.fail(fault);
                self.say(format!("call {n} ({what}) will fail with {errno}"));
            }
        }
    }

    /// An error is right only where trouble was planned, and then of the right kind.
    fn excuse(&mut self, doing: &str, error: &LogError) -> Checked {
        self.say(format!("{doing}: {error}"));
        match error {
            LogError::Busy => Ok(()),
            LogError::NoSpace { .. } if self.trouble || self.lacked_space => {
                self.tally.no_space += 1;
                Ok(())
            }
            LogError::Poisoned(_) if self.log().poison().is_some() => Ok(()),
            // Half a first word was written when its call failed.
            LogError::Corrupt { at, .. } if *at >= self.hole && self.log().poison().is_some() => {
                Ok(())
            }
            LogError::Io { .. } if self.trouble => Ok(()),
            LogError::NotWriter if self.role == OpenRole::Follower => Ok(()),
            _ => Err(format!("{doing}: {error:?}")),
        }
    }

    fn step(&mut self) -> Checked {
        if std::mem::take(&mut self.crash_next) {
            return self.crash();
        }
        if self.log().poison().is_some() && self.rng.chance(3) {
            self.tally.poisonings += 1;
            if self.rng.chance(2) {
                return self.close();
            }
            return self.crash();
        }
        match self.rng.below(102) {
            0..=24 if self.role == OpenRole::Follower => self.follow(),
            0..=24 => self.append(),
            25..=34 => self.reserve(),
            35..=44 => self.publish_one(),
            45..=54 => self.sync(),
            55..=61 => self.request(),
            62..=74 => self.work(),
            75..=79 => {
                let by = self.rng.below(300);
                self.clock.advance(Duration::from_millis(by));
                Ok(())
            }
            80..=81 => self.read(),
            82..=84 => self.read_on(),
            85..=87 => self.slot(),
            88..=89 => self.release(),
            90..=91 => self.truncate(),
            92 => self.begin_epoch(),
            93 => self.close(),
            94..=95 => self.crash(),
            96..=97 => {
                self.plan_trouble();
                Ok(())
            }
            98 => {
                self.calm();
                Ok(())
            }
            99 => self.chain(),
            _ => self.rewind(),
        }
    }

    /// What must hold between any two operations.
    fn watch(&mut self) -> Checked {
        let Some(log) = &self.log else {
            return Ok(());
        };
        let log = log.clone();
        let read = self.reader.as_ref().map(Reader::position);
        self.model.note_oldest_max(read);
        let (synced, published, reserved) = (log.synced(), log.published(), log.reserved());
        if reserved != self.model.end() && self.resumes {
            return self.resumed(&log);
        }
        if log.poison().is_some() {
            // A frame may be half there. Nothing is acknowledged any more.
            self.model.synced = self.model.synced.max(synced);
            return Ok(());
        }
        if synced > published || published > reserved {
            return Err(format!(
                "synced {synced}, published {published}, reserved {reserved}"
            ));
        }
        if reserved != self.model.end() {
            return Err(format!(
                "reserved {reserved}, appended up to {}",
                self.model.end()
            ));
        }
        let first_held = self.held.iter().map(|h| h.reservation.lsn()).min();
        let expected = first_held.unwrap_or(reserved);
        if published != expected {
            return Err(format!(
                "published {published}, the first frame not published is at {expected}"
            ));
        }
        for lsn in [synced, published] {
            if lsn != reserved && self.model.at(lsn).is_none() {
                return Err(format!("position {lsn} is no frame's end"));
            }
        }
        self.model.synced = self.model.synced.max(synced);
        if log.oldest() > self.model.oldest_max {
            return Err(format!(
                "oldest {} is above {}, the most that was released",
                log.oldest(),
                self.model.oldest_max
            ));
        }
        Ok(())
    }
}
