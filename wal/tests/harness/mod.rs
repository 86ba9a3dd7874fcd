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

pub(crate) mod model;
pub(crate) mod runs;
pub(crate) mod seeds;

use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, EIO, ENOSPC, Fault, SimMedia, SimRng};
use esker_wal::{
    Create, Kind, Log, LogError, LogId, LogOptions, Lsn, NodeId, OpenError, OpenRole, ReadLimit,
    Reservation, SyncPolicy, Workers,
};
use model::{Model, ModelFrame, ModelSlot};
use std::path::Path;
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

    // ---- opening and ending

    fn reopen(&mut self) -> Checked {
        if self.media.is_down() {
            self.crash()?;
        }
        // Some openings meet trouble of their own.
        if self.rng.chance(4) {
            self.plan_trouble();
        }
        for attempt in 0.. {
            if attempt > 3 || self.rng.chance(2) {
                self.calm();
            }
            if self.open()? {
                break;
            }
            if self.media.is_down() || self.rng.chance(3) {
                self.crash()?;
            }
        }
        Ok(())
    }

    fn reopen_well(&mut self) -> Checked {
        self.calm();
        match self.open()? {
            true => Ok(()),
            false => Err("opening failed without a cause".into()),
        }
    }

    /// Opens the log and holds what it found against the model; false if a planned failure came.
    fn open(&mut self) -> Checked<bool> {
        let role = match self.rng.chance(10) {
            true => OpenRole::Follower,
            false => OpenRole::Writer,
        };
        let policy = match self.rng.below(3) {
            0 => SyncPolicy::Always,
            1 => SyncPolicy::Interval(Duration::from_millis(50)),
            _ => SyncPolicy::Manual,
        };
        let bound = match self.rng.chance(4) {
            true => 4096,
            false => 1 << 20,
        };
        let options = LogOptions {
            role,
            sync_policy: policy,
            unsynced_bytes_max: bound,
            segments_ahead: 1 + self.rng.below(2) as usize,
            keep_bytes: self.rng.below(2) * 20_000,
            ..options(&self.media, &self.clock, self.id)
        };
        self.tally.opens += 1;
        self.say(format!("files: {}", files(&self.media)));
        let opened = Log::open(dir(), options);
        let (log, found) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.say(format!("open as {role:?}: {error}"));
                let excused = self.trouble || self.media.is_down();
                if !excused || matches!(error, OpenError::Corrupt { .. }) {
                    return Err(format!("open: {error}"));
                }
                // It may have begun an epoch before it failed.
                self.model.epochs_unheard += 1;
                if let Ended::Clean(_) = self.ended {
                    self.ended = Ended::Killed;
                }
                return Ok(false);
            }
        };
        self.say(format!(
            "open as {role:?} after {:?}: {found:?}",
            self.ended
        ));
        if self.media.is_down() {
            return Err("open succeeded without power".into());
        }
        // Reading has troubles of its own, which are not what is asked here.
        let trouble = self.trouble;
        self.calm();
        let frames = read_all(&log)?;
        let may_begin = match (self.ended, role) {
            (_, OpenRole::Follower) => 0,
            (Ended::Clean(OpenRole::Writer), OpenRole::Writer)
                if self.model.epochs_unheard == 0 && !self.model.frames.is_empty() =>
            {
                0
            }
            _ => 1,
        };
        let must = match self.ended {
            Ended::Cut => self.model.synced,
            Ended::Killed | Ended::Clean(_) => self.model.synced.max(self.must_if_killed),
        };
        let before = self.model.end();
        let unheard = self.model.epochs_unheard;
        self.model
            .recovered(log.oldest(), frames, must, may_begin)?;
        if let Ended::Clean(_) = self.ended
            && unheard == 0
            && !found.clean
            && !found.created
        {
            return Err(format!("closed cleanly, found {found:?}"));
        }
        self.tally.frames_lost += u64::from(found.end < before);
        let end = self.model.end();
        if log.synced() != end || log.published() != end || log.reserved() != end {
            return Err(format!(
                "W6: after open reserved {}, published {}, synced {}, end {end}",
                log.reserved(),
                log.published(),
                log.synced()
            ));
        }
        if found.oldest != log.oldest() {
            return Err(format!(
                "oldest {} reported, {} held",
                found.oldest,
                log.oldest()
            ));
        }
        if self.epochs_are_counted
            && role == OpenRole::Writer
            && may_begin == 1
            && !found.clean
            && found.reading_only.is_none()
            && self.model.frames.last().map(|f| f.kind) != Some(Kind::Control)
        {
            return Err("W5: an unclean open for writing began no epoch".into());
        }
        self.check_history(&log)?;
        let chain = log.chain_at(end).map_err(|e| format!("chain: {e}"))?;
        if chain != self.model.chain(end) {
            return Err(format!("another chain hash at the end, {end}"));
        }
        self.check_slots(&log)?;
        self.ended = Ended::Killed;
        self.must_if_killed = end;
        self.role = role;
        self.opened_reading_only = found.reading_only.is_some();
        self.resumes = found.reading_only.is_some() && role == OpenRole::Writer;
        self.log = Some(log);
        self.lacked_space = trouble;
        if trouble && self.rng.chance(2) {
            self.plan_trouble();
        }
        Ok(true)
    }

    /// The history of epochs is what the control frames say, and reaches back to the oldest frame.
    fn check_history(&self, log: &Log) -> Checked {
        let history = log.epochs();
        for pair in history.windows(2) {
            if pair[0].begin >= pair[1].begin || pair[0].epoch.number > pair[1].epoch.number {
                return Err(format!("a history out of order: {history:?}"));
            }
        }
        for frame in self.model.frames.iter().filter(|f| f.lsn >= log.oldest()) {
            let of = history.iter().rev().find(|e| e.begin <= frame.lsn);
            if of.is_none_or(|e| e.epoch != frame.epoch) {
                return Err(format!(
                    "{} is not in the history {history:?}",
                    frame.brief()
                ));
            }
        }
        if history.last().is_some_and(|e| e.begin >= log.reserved()) {
            return Err(format!("an epoch of the future: {history:?}"));
        }
        Ok(())
    }

    fn check_slots(&mut self, log: &Log) -> Checked {
        let found = log.slots();
        for slot in &found {
            match self.model.slots.get(&slot.name) {
                None => return Err(format!("a slot of nobody: {slot:?}")),
                Some(m) if slot.position < m.low || slot.position > m.high => {
                    return Err(format!("slot {slot:?}, expected {m:?}"));
                }
                Some(_) => {}
            }
        }
        for (name, slot) in &self.model.slots {
            if !slot.unsure && !found.iter().any(|s| &s.name == name) {
                return Err(format!("slot {name} is missing, expected {slot:?}"));
            }
        }
        let model = found.into_iter().map(|s| {
            let slot = ModelSlot {
                low: s.position,
                high: s.position,
                unsure: false,
            };
            (s.name, slot)
        });
        self.model.slots = model.collect();
        Ok(())
    }

    /// The end of the process, or of the power.
    fn crash(&mut self) -> Checked {
        if let Some(log) = &self.log
            && !self.media.is_down()
        {
            let published = log.published().min(self.hole);
            self.must_if_killed = self.must_if_killed.max(published);
        }
        if self.media.is_down() || self.rng.chance(2) {
            let seed = self.rng.next_u64();
            self.say(format!("power cut {seed}"));
            self.media.power_cut(seed);
            self.ended = Ended::Cut;
            self.must_if_killed = self.model.synced;
            self.tally.cuts += 1;
        } else {
            self.say("kill".into());
            self.media.kill();
            if self.ended != Ended::Cut {
                self.ended = Ended::Killed;
            }
            self.tally.kills += 1;
        }
        self.end_life();
        Ok(())
    }

    fn end_life(&mut self) {
        self.held.clear();
        self.hole = Lsn::MAX;
        if let Some(log) = self.log.take() {
            let stats = log.stats();
            self.tally.rotations += stats.rotations;
            self.tally.recycled += stats.recycled;
        }
    }

    fn close(&mut self) -> Checked {
        while !self.held.is_empty() {
            self.publish_one()?;
        }
        let log = self.log().clone();
        let before = log.poison();
        let published = log.published().min(self.hole);
        let closed = log.close();
        self.say(format!("close: {closed:?}"));
        self.tally.closes += 1;
        self.must_if_killed = self.must_if_killed.max(published);
        match &closed {
            Ok(()) => {
                if before.is_some() {
                    return Err("W10: a poisoned log closed without an error".into());
                }
                self.model.synced = self.model.synced.max(published);
                // Without a segment there is nowhere to put a mark.
                self.ended = match self.opened_reading_only {
                    true => Ended::Killed,
                    false => Ended::Clean(self.role),
                };
            }
            Err(_) if self.trouble || before.is_some() => self.ended = Ended::Killed,
            Err(e) => return Err(format!("close: {e}")),
        }
        match log.append(&[b"late"]) {
            Err(LogError::Closed | LogError::Poisoned(_)) => {}
            other => return Err(format!("W10: append after close: {other:?}")),
        }
        if closed.is_ok() && log.close().is_err() {
            return Err("W10: the second close failed".into());
        }
        // A slot's last move is written at close at the latest.
        if closed.is_ok() {
            for slot in self.model.slots.values_mut() {
                slot.low = slot.high;
            }
        }
        self.note_close_of_follower();
        drop(log);
        self.end_life();
        if self.media.is_down() {
            self.ended = Ended::Cut;
        }
        Ok(())
    }

    /// A follower may have become a writer meanwhile; then its close is a writer's.
    fn note_close_of_follower(&mut self) {
        if let Ended::Clean(role) = &mut self.ended {
            *role = self.role;
        }
    }

    // ---- troubles

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
            LogError::Io { .. } if self.trouble => Ok(()),
            LogError::NotWriter if self.role == OpenRole::Follower => Ok(()),
            _ => Err(format!("{doing}: {error:?}")),
        }
    }

    // ---- operations

    fn step(&mut self) -> Checked {
        if self.log().poison().is_some() && self.rng.chance(3) {
            self.tally.poisonings += 1;
            if self.rng.chance(2) {
                return self.close();
            }
            return self.crash();
        }
        match self.rng.below(100) {
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
            80..=84 => self.read(),
            85..=87 => self.slot(),
            88..=91 => self.release(),
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
            _ => self.chain(),
        }
    }

    /// What must hold between any two operations.
    fn watch(&mut self) -> Checked {
        let Some(log) = &self.log else {
            return Ok(());
        };
        let log = log.clone();
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
        self.model.note_oldest_max();
        if log.oldest() > self.model.oldest_max {
            return Err(format!(
                "oldest {} is above {}, the most that was released",
                log.oldest(),
                self.model.oldest_max
            ));
        }
        Ok(())
    }

    fn payload(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        let len = match rng.below(10) {
            0 => 0,
            1 => rng.below(9),
            2..=7 => rng.below(300),
            8 => rng.below(3000),
            _ => rng.below(FRAMES_PER_SEGMENT - 31),
        } as usize;
        // Bytes that look like first words, and bytes that look like nothing; always another payload.
        let mut out = match rng.below(3) {
            0 => vec![0xff; len],
            1 => (0..len)
                .map(|i| [0x20, 0, 0, 0x80, 1, 2, 3, 4][i % 8])
                .collect(),
            _ => (0..len).map(|_| rng.next_u64() as u8).collect::<Vec<_>>(),
        };
        for (byte, n) in out.iter_mut().zip(rng.next_u64().to_le_bytes()) {
            *byte ^= n;
        }
        out
    }

    fn epoch(&self) -> esker_wal::Epoch {
        self.log().epoch()
    }

    fn may_append(&mut self, doing: &str, result: Result<(), LogError>) -> Checked<bool> {
        match result {
            Ok(()) if self.role == OpenRole::Follower => {
                Err(format!("{doing}: a follower appended by itself"))
            }
            Ok(()) => Ok(true),
            Err(e) => self.excuse(doing, &e).map(|()| false),
        }
    }

    fn append(&mut self) -> Checked {
        for _ in 0..1 + self.rng.below(4) * self.rng.below(2) {
            let payload = self.payload();
            let cut = self.rng.below(payload.len() as u64 + 1) as usize;
            let (a, b) = payload.split_at(cut);
            let log = self.log().clone();
            // A bound that waits for a hole of our own would wait for ever.
            let appended = if self.held.is_empty() {
                log.append(&[a, b])
            } else {
                log.try_reserve(payload.len())
                    .and_then(|r| r.publish(&[a, b]))
            };
            self.tally.appends += 1;
            let lsn = self.model.end();
            let result = appended.clone().map(|_| ());
            if !self.may_append("append", result)? {
                if log.reserved() > lsn && self.model.in_flight.is_empty() {
                    // It had its LSN when its filling failed: it may be found or not.
                    self.note_hole(lsn)?;
                    let frame = ModelFrame {
                        lsn,
                        epoch: self.epoch(),
                        kind: Kind::Data,
                        payload,
                    };
                    self.model.name(&frame)?;
                    self.model.in_flight.push(frame);
                }
                return Ok(());
            }
            let appended = appended.expect("checked");
            let frame = ModelFrame {
                lsn,
                epoch: self.epoch(),
                kind: Kind::Data,
                payload,
            };
            if (appended.lsn, appended.end) != (lsn, frame.end()) {
                return Err(format!("W5: {appended:?} for {}", frame.brief()));
            }
            self.model.name(&frame)?;
            self.model.push(frame)?;
        }
        Ok(())
    }

    /// Filling a frame failed: that poisons the log.
    fn note_hole(&mut self, lsn: Lsn) -> Checked {
        self.hole = self.hole.min(lsn);
        match self.log().poison() {
            Some(_) => Ok(()),
            None => Err(format!(
                "W6: the frame at {lsn} failed, and nothing is poisoned"
            )),
        }
    }

    fn reserve(&mut self) -> Checked {
        if self.held.len() > 4 {
            return self.publish_one();
        }
        let payload = self.payload();
        let reserved = self.log().try_reserve(payload.len());
        let reservation = match reserved {
            Ok(reservation) if self.role == OpenRole::Follower => {
                return Err(format!("a follower reserved {reservation:?}"));
            }
            Ok(reservation) => reservation,
            Err(e) => return self.excuse("reserve", &e),
        };
        self.say(format!(
            "reserved {} of {}",
            reservation.lsn(),
            payload.len()
        ));
        self.model.push(ModelFrame {
            lsn: reservation.lsn(),
            epoch: self.epoch(),
            // Until it is published. A hole is never found after a crash: reservations before it may be.
            kind: Kind::Void,
            payload: vec![0; payload.len()],
        })?;
        if reservation.end() != self.model.end() || reservation.payload_len() != payload.len() {
            return Err(format!("{reservation:?} for {} bytes", payload.len()));
        }
        self.held.push(Held {
            reservation,
            payload,
            frame: self.model.frames.len() - 1,
        });
        Ok(())
    }

    fn publish_one(&mut self) -> Checked {
        if self.held.is_empty() {
            return Ok(());
        }
        let at = self.rng.below(self.held.len() as u64) as usize;
        let held = self.held.swap_remove(at);
        let lsn = held.reservation.lsn();
        let published = self.publish_held(held);
        if self.log().poison().is_some() {
            self.note_hole(lsn)?;
        }
        published
    }

    fn publish_held(&mut self, held: Held) -> Checked {
        let frame = &mut self.model.frames[held.frame];
        let filled = ModelFrame {
            kind: Kind::Data,
            payload: held.payload.clone(),
            ..frame.clone()
        };
        match self.rng.below(8) {
            0 => {
                let frame = frame.clone();
                drop(held.reservation);
                self.say(format!("dropped {}", frame.lsn));
                self.model.name(&frame)
            }
            1 if !held.payload.is_empty() => {
                let frame = frame.clone();
                let short = held.reservation.publish(&[&held.payload[1..]]);
                self.say(format!("filled {} short: {short:?}", frame.lsn));
                if short.is_ok() {
                    return Err("W8: a short fill was published".into());
                }
                self.model.name(&frame)
            }
            _ => {
                *frame = filled.clone();
                let published = held.reservation.publish(&[&held.payload]);
                self.say(format!("published {}: {published:?}", filled.lsn));
                match published {
                    Ok(appended) if appended.lsn == filled.lsn => {}
                    // It may be there all the same.
                    Err(LogError::Poisoned(_)) => {}
                    other => return Err(format!("publish: {other:?} for {}", filled.brief())),
                }
                self.model.name(&filled)
            }
        }
    }

    /// A random frame end at or below what is published.
    fn some_end(&mut self) -> Lsn {
        let published = self.log().published();
        let below = self.model.frames.partition_point(|f| f.end() <= published);
        match below {
            0 => Lsn::ZERO,
            _ if self.rng.chance(2) => published,
            n => self.model.frames[self.rng.below(n as u64) as usize].end(),
        }
    }

    fn sync(&mut self) -> Checked {
        let end = self.some_end();
        let was = self.log().synced();
        let poisoned = self.log().poison().is_some();
        let synced = self.log().sync_up_to(end);
        self.say(format!("sync up to {end}: {synced:?}"));
        match synced {
            Ok(()) => {
                if poisoned && end > was {
                    return Err("W6: a poisoned log acknowledged a sync".into());
                }
                if self.log().synced() < end {
                    return Err(format!(
                        "synced up to {end}, but stands at {}",
                        self.log().synced()
                    ));
                }
                self.model.synced = self.model.synced.max(end);
                Ok(())
            }
            Err(e) => self.excuse("sync", &e),
        }
    }

    fn request(&mut self) -> Checked {
        let end = self.some_end();
        self.log().request_sync(end);
        Ok(())
    }

    fn work(&mut self) -> Checked {
        let most = 1 + self.rng.below(6);
        for n in 0.. {
            if !self.log().step() || n == most {
                break;
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Checked {
        let log = self.log().clone();
        let first = self.model.frames.partition_point(|f| f.lsn < log.oldest());
        let choices = self.model.frames.len() - first;
        if choices == 0 {
            return Ok(());
        }
        let mut at = first + self.rng.below(choices as u64) as usize;
        let (limit, stop) = match self.rng.chance(2) {
            true => (ReadLimit::Published, log.published()),
            false => (ReadLimit::Synced, log.synced()),
        };
        if self.model.frames[at].lsn > stop {
            return Ok(());
        }
        let mut reader = match log.reader(self.model.frames[at].lsn, limit) {
            Ok(reader) => reader,
            Err(e) => return self.excuse("reader", &e),
        };
        loop {
            match reader.next() {
                Ok(Some(frame)) => {
                    let found = ModelFrame {
                        lsn: frame.header.lsn,
                        epoch: frame.epoch,
                        kind: frame.header.kind,
                        payload: frame.payload.to_vec(),
                    };
                    let expected = &self.model.frames[at];
                    if found != *expected || frame.header != self.model.header(expected) {
                        return Err(format!(
                            "read {}, appended {}",
                            found.brief(),
                            expected.brief()
                        ));
                    }
                    at += 1;
                }
                Ok(None) => break,
                Err(e) => return self.excuse("read", &e),
            }
        }
        let ends_at = match at {
            0 => Lsn::ZERO,
            _ => self.model.frames[at - 1].end(),
        };
        if ends_at != stop || reader.position() != stop {
            return Err(format!(
                "a reader stopped at {} ({ends_at}), its limit is {stop}",
                reader.position()
            ));
        }
        Ok(())
    }

    fn chain(&mut self) -> Checked {
        let lsn = self.some_end();
        if lsn < self.log().oldest() {
            return Ok(());
        }
        match self.log().chain_at(lsn) {
            Ok(chain) if chain == self.model.chain(lsn) => Ok(()),
            Ok(chain) => Err(format!("chain hash {chain} at {lsn}, another was expected")),
            Err(e) => self.excuse("chain", &e),
        }
    }

    fn slot(&mut self) -> Checked {
        let name = format!("slot-{}", self.rng.below(3));
        if self.rng.chance(4) {
            let dropped = self.log().drop_slot(&name);
            self.say(format!("drop slot {name}: {dropped:?}"));
            match dropped {
                Ok(was) => {
                    let known = self.model.slots.remove(&name);
                    if was != known.is_some() && !known.is_some_and(|s| s.unsure) {
                        return Err(format!("drop of slot {name} said {was}"));
                    }
                }
                Err(e) => {
                    if let Some(slot) = self.model.slots.get_mut(&name) {
                        slot.unsure = true;
                    }
                    return self.excuse("drop slot", &e);
                }
            }
            return Ok(());
        }
        let position = self.some_end().max(self.log().oldest());
        let old = self.model.slots.get(&name).cloned();
        let position = position.max(old.as_ref().map_or(Lsn::ZERO, |s| s.high));
        let set = self.log().set_slot(&name, position);
        self.say(format!("slot {name} at {position}: {set:?}"));
        let slot = match (&old, &set) {
            (None, Ok(())) => ModelSlot {
                low: position,
                high: position,
                unsure: false,
            },
            (None, Err(_)) => ModelSlot {
                low: position,
                high: position,
                unsure: true,
            },
            (Some(old), _) => ModelSlot {
                low: old.low,
                high: position,
                unsure: old.unsure && set.is_err(),
            },
        };
        self.model.slots.insert(name, slot);
        match set {
            Ok(()) => Ok(()),
            Err(e) => self.excuse("set slot", &e),
        }
    }

    fn release(&mut self) -> Checked {
        let below = self.some_end();
        self.model.released = self.model.released.max(below);
        self.log().release(below);
        self.say(format!("release below {below}"));
        Ok(())
    }

    fn begin_epoch(&mut self) -> Checked {
        // It waits until everything is published.
        while !self.held.is_empty() {
            self.publish_one()?;
        }
        let log = self.log().clone();
        let number = log.epochs().last().map_or(0, |e| e.epoch.number) + 1;
        let lsn = self.model.end();
        let begun = log.begin_epoch(number);
        self.say(format!("begin epoch {number}: {begun:?}"));
        match begun {
            Ok(start) => {
                let found = log
                    .reader(lsn, ReadLimit::Synced)
                    .and_then(|mut r| r.next())
                    .map_err(|e| format!("reading the control frame: {e}"));
                let found = match found {
                    Err(e) if self.trouble => {
                        // Read it another time: a planned failure may have hit it.
                        self.say(e);
                        return self.crash_unsure(lsn);
                    }
                    other => other?,
                };
                let Some(frame) = found else {
                    return Err("no control frame is synced".into());
                };
                let frame = ModelFrame {
                    lsn: frame.header.lsn,
                    epoch: frame.epoch,
                    kind: frame.header.kind,
                    payload: frame.payload.to_vec(),
                };
                if start.begin != lsn || frame.epoch != start.epoch || log.epoch() != start.epoch {
                    return Err(format!("began {start:?}, found {}", frame.brief()));
                }
                self.model.name(&frame)?;
                self.model.push(frame)?;
                self.model.synced = self.model.synced.max(self.model.end());
                self.role = OpenRole::Writer;
                Ok(())
            }
            Err(e) => {
                self.excuse("begin epoch", &e)?;
                if log.reserved() != lsn {
                    // It got as far as its control frame; the log must be reopened.
                    if log.poison().is_none() {
                        return Err(format!("begin epoch left {} reserved", log.reserved()));
                    }
                    return self.crash_unsure(lsn);
                }
                Ok(())
            }
        }
    }

    /// A log that was opened without room has begun its epoch, now that there is some.
    fn resumed(&mut self, log: &Log) -> Checked {
        self.resumes = false;
        let lsn = self.model.end();
        self.say(format!("went on at {lsn}"));
        if log.poison().is_some() {
            return self.crash_unsure(lsn);
        }
        let read = (log.reader(lsn, ReadLimit::Synced)).and_then(|mut r| r.next());
        let frame = match read {
            Ok(Some(frame)) => frame,
            Err(_) if self.trouble => return self.crash_unsure(lsn),
            other => return Err(format!("the control frame after going on: {other:?}")),
        };
        let frame = ModelFrame {
            lsn: frame.header.lsn,
            epoch: frame.epoch,
            kind: frame.header.kind,
            payload: frame.payload.to_vec(),
        };
        self.model.name(&frame)?;
        self.model.push(frame)?;
        self.model.synced = self.model.synced.max(self.model.end());
        Ok(())
    }

    /// Ends this life with an epoch begun that the model does not know.
    fn crash_unsure(&mut self, lsn: Lsn) -> Checked {
        self.model.epochs_unheard += 1;
        let synced = self.model.synced;
        self.crash()?;
        // What was published since can't be told; what was synced can.
        self.must_if_killed = self.must_if_killed.min(lsn).max(synced);
        Ok(())
    }
}
