//! The Raft log on `esker-wal`: hard state and entries in one ordered stream of frames.
//!
//! - WL1 (C4): an entry is written once, and synced once. What one call of [`LogStore::write`] is given goes into one frame (several where
//!   it is large), and a sync covers all frames written until then.
//! - WL2: a conflicting suffix is superseded by newer frames and stays where it is until it is compacted away; replay takes frames in their
//!   order, so it can't come back.
//! - WL3: before the log is released below an entry, a frame that names the base is synced; the log is never released beyond that frame, so hard
//!   state and base are always found.
//! - WL4 (C2, W3): damaged frames are skipped, never cut. Where the view then ends before the place that a later frame names, or no frame
//!   stands behind the damage, the node abstains: until the entries are appended again as newer frames, or for ever, as its vote may be lost. Every
//!   frame says whether the node abstains, so it is not forgotten by being written to. Once the entries are back, what is damaged is given up:
//!   void frames are written over it. A segment's file that is missing, or is none any more, may have held frames of which nothing else knows: where no
//!   frame stands behind it, the node abstains for ever, and a frame says so before anything else is done.
//! - WL5: memory is bounded by options: the newest entries, and a sparse map from index to LSN; older ones are read from the log.
//! - WL6 (W8): where there is no room for a later frame of a write, those before it stay, and the write goes on behind them when it comes again. After a
//!   crash between the two the log ends with those, as after one in the middle of any write.
//!
//! The identity (cluster and node) is the log's own, written and synced before anything else, and seeds its checksums; the disk's number is
//! that of the log's node id, minted with it.

mod frame;
mod state;

use super::{Identity, LogError, LogReader, LogStore, Recovered};
use crate::core::{Abstain, Entry, Index, LogId, SnapshotMeta, Write};
use crate::sabotage::{self, Sabotage};
use esker_wal::{
    Create, Damage, DamageKind, Kind, Log, LogError as WalError, LogId as WalId, LogOptions, Lsn,
    LsnRange, NodeId as Disk, OnDamage, OpenError as WalOpenError, ReadLimit, Reader,
};
use frame::{Encoder, Head, Unreadable};
use parking_lot::RwLock;
use state::State;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// No entry's payload may be longer.
pub const ENTRY_BYTES_MAX: usize = 128 << 20;
/// A frame is ended when it is this large.
const FRAME_BYTES: usize = 1 << 20;
/// Bytes of a control frame of the log.
const CONTROL_BYTES: u64 = 56;

/// Options of [`WalLog::open`].
#[derive(Clone, Debug)]
pub struct WalLogOptions {
    /// Of the log below: segments, media, clock, workers. Who may create, what is done about damage, and the largest payload are
    /// decided here.
    pub log: LogOptions,
    /// Bytes of the newest entries that are held in memory (at least one entry is). Default 32 MiB.
    pub tail_bytes_max: usize,
    /// Bytes of log per entry of the map from index to LSN: a read of old entries begins up to so many bytes before them. Default
    /// 64 KiB.
    pub anchor_bytes: u64,
}

impl Default for WalLogOptions {
    fn default() -> Self {
        WalLogOptions {
            log: LogOptions::default(),
            tail_bytes_max: 32 << 20,
            anchor_bytes: 64 << 10,
        }
    }
}

/// Why the log can't be opened. Nothing that was synced has been changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory is another node's.
    #[error(
        "{dir} holds the Raft log of another cluster or node ({found} instead of {expected}, cluster and node in hexadecimal); start this node with the id that the directory was made with, or give it an empty one"
    )]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Who is asked for.
        expected: WalId,
        /// Whose it is.
        found: WalId,
    },
    /// Frames of another group, for which this build has no use.
    #[error(
        "{dir} holds frames of group {found}, not of {expected}; start the node with that group"
    )]
    OtherGroup {
        /// The directory.
        dir: PathBuf,
        /// The group asked for.
        expected: u64,
        /// The one found.
        found: u64,
    },
    /// A newer build wrote a frame.
    #[error("{dir}: frame of format {found} at LSN {at}; upgrade before opening")]
    NewerFormat {
        /// The directory.
        dir: PathBuf,
        /// Where.
        at: Lsn,
        /// Its format.
        found: u8,
    },
    /// A frame whose checksum is right says nothing that makes sense.
    #[error(
        "{dir}: the frame at LSN {at} can't be understood: {what}; this is a defect, please report it"
    )]
    Garbled {
        /// The directory.
        dir: PathBuf,
        /// Where.
        at: Lsn,
        /// Why.
        what: String,
    },
    /// The log below can't be opened.
    #[error(transparent)]
    Wal(WalOpenError),
    /// A call failed.
    #[error(transparent)]
    Log(LogError),
}

/// A Raft log on `esker-wal`. See the module.
#[derive(Debug)]
pub struct WalLog {
    shared: Arc<Shared>,
    group: u64,
    /// Memory of the last frame, for the next.
    buf: Vec<u8>,
    /// End of what was written.
    end: Lsn,
    /// To be released once what was written is synced.
    release: Option<Lsn>,
    /// WL6: how many parts of a write are in, of how many.
    interrupted: Option<(usize, usize)>,
    failed: Option<LogError>,
}

#[derive(Debug)]
struct Shared {
    log: Log,
    state: RwLock<State>,
}

fn log_error(error: WalError) -> LogError {
    match error {
        WalError::NoSpace { .. } | WalError::Busy => LogError::Full(error.to_string()),
        WalError::Closed => LogError::Closed,
        WalError::Corrupt { .. } => LogError::Damaged(error.to_string()),
        other => LogError::Failed(other.to_string()),
    }
}

impl WalLog {
    /// Opens the log of `identity` in `dir`, or makes one where there is none.
    pub fn open(
        dir: &Path,
        identity: Identity,
        options: WalLogOptions,
    ) -> Result<(WalLog, Recovered), OpenError> {
        let id = WalId(u128::from(identity.cluster) << 64 | u128::from(identity.node.0));
        let mut log_options = options.log;
        log_options.create = Some(Create {
            log: id,
            node: Disk::random(),
            base: Lsn::ZERO,
        });
        log_options.expect_log = Some(id);
        log_options.on_damage = OnDamage::Repair;
        log_options.payload_bytes_max = esker_wal::frame::PAYLOAD_MAX;
        let (log, found) = Log::open(dir, log_options).map_err(|error| match error {
            WalOpenError::WrongLog {
                dir,
                expected,
                found,
            } => OpenError::OtherNode {
                dir,
                expected,
                found,
            },
            other => OpenError::Wal(other),
        })?;
        let mut state = State::new(options.tail_bytes_max, options.anchor_bytes.max(1));
        let replayed = replay(dir, &log, identity.group, &found.damaged, &mut state);
        let complete = match replayed {
            Ok(complete) => complete,
            Err(error) => {
                // The first error is the one to report.
                let _ = log.close();
                return Err(error);
            }
        };
        if !found.damaged.is_empty() || !log.damaged().is_empty() || !complete {
            tracing::error!(
                dir = %dir.display(), damaged = ?log.damaged(), abstain = ?state.abstain, end = %state.view().last(),
                "the Raft log is damaged"
            );
        }
        let recovered = Recovered {
            hard: state.hard,
            log: state.view().clone(),
            abstain: state.abstain,
            empty: !state.touched && state.abstain == Abstain::No && log.damaged().is_empty(),
            disk: log.node_id().0 as u64,
        };
        let mut store = WalLog {
            end: log.published(),
            release: Some(state.needed_from()),
            group: identity.group,
            buf: Vec::new(),
            interrupted: None,
            failed: None,
            shared: Arc::new(Shared {
                log,
                state: RwLock::new(state),
            }),
        };
        match recovered.abstain {
            // Whatever is damaged held nothing that is needed.
            Abstain::No => store.give_up_damaged().map_err(OpenError::Log)?,
            Abstain::Always => store.say_so().map_err(OpenError::Log)?,
            Abstain::Until(_) => {}
        }
        store.let_go();
        Ok((store, recovered))
    }

    /// Stepped workers: one piece of the log's background work; false when there is none.
    pub fn step(&self) -> bool {
        self.shared.log.step()
    }

    fn check(&self) -> Result<(), LogError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn fail<T>(&mut self, error: LogError) -> Result<T, LogError> {
        if !matches!(error, LogError::Full(_)) {
            self.failed = Some(error.clone());
        }
        Err(error)
    }

    /// Appends a frame; where it says that the log stands behind it.
    fn frame(&mut self, mut encoder: Encoder<'_>, head: &Head) -> Result<Lsn, WalError> {
        let appended = self.shared.log.append(&encoder.finish(head));
        self.buf = encoder.into_buf();
        let appended = appended?;
        self.end = appended.end;
        Ok(appended.lsn)
    }

    fn head(&self) -> Head {
        let state = self.shared.state.read();
        Head {
            group: self.group,
            hard: state.hard,
            last: state.view().last(),
            abstain: state.abstain,
        }
    }

    /// Checks that the writes can follow what is there, before anything of them is written.
    fn check_writes(&self, writes: &[Write]) -> Result<(), LogError> {
        let state = self.shared.state.read();
        let base = state.view().base().index;
        let mut end = state.view().last().index;
        let mut base = base;
        for write in writes {
            match write {
                Write::HardState(_) => {}
                Write::Snapshot(meta) => {
                    base = meta.last.index;
                    end = base;
                }
                Write::Append(entries) => {
                    for entry in entries {
                        let index = entry.id.index;
                        if index <= base || index > end.next() {
                            return Err(LogError::Failed(format!(
                                "entry {} can't follow a log of {} to {end}",
                                entry.id,
                                base.next()
                            )));
                        }
                        if entry.weight() > ENTRY_BYTES_MAX {
                            return Err(LogError::Failed(format!(
                                "entry {} has {} bytes, more than an entry may have",
                                entry.id,
                                entry.weight()
                            )));
                        }
                        end = index;
                    }
                }
            }
        }
        Ok(())
    }

    /// Everything that waits for what is synced now.
    fn let_go(&mut self) {
        if let Some(below) = self.release.take() {
            self.shared.log.release(below);
        }
    }

    /// Writes a frame that says what the state is, durably: the next open may not find what told this one.
    fn say_so(&mut self) -> Result<(), LogError> {
        let head = self.head();
        let encoder = Encoder::new(std::mem::take(&mut self.buf));
        let said = self.frame(encoder, &head).map_err(log_error);
        match said.and_then(|_| self.shared.log.sync_up_to(self.end).map_err(log_error)) {
            // With the next frame, then.
            Err(LogError::Full(_)) => Ok(()),
            other => other,
        }
    }

    /// Ends an abstention where what was lost is back, and synced.
    fn heal(&mut self) -> Result<(), LogError> {
        let mut head = self.head();
        let back = match head.abstain {
            Abstain::Until(index) => head.last.index >= index,
            Abstain::No | Abstain::Always => false,
        };
        if !back && !sabotage::on(Sabotage::DamageGivenUpEarly) {
            return Ok(());
        }
        head.abstain = Abstain::No;
        let encoder = Encoder::new(std::mem::take(&mut self.buf));
        // Said durably before anything is written over: else the next open could not tell it from damage unnoticed.
        let said = self.frame(encoder, &head).map_err(log_error);
        match said.and_then(|_| self.shared.log.sync_up_to(self.end).map_err(log_error)) {
            Ok(()) => {}
            // Later, then; it was the rest that had to be synced.
            Err(LogError::Full(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.shared.state.write().abstain = Abstain::No;
        self.give_up_damaged()
    }

    fn give_up_damaged(&mut self) -> Result<(), LogError> {
        if self.shared.log.damaged().is_empty() {
            return Ok(());
        }
        self.shared.log.give_up_damaged().map_err(log_error)
    }
}

impl LogStore for WalLog {
    fn write(&mut self, writes: &[Write]) -> Result<(), LogError> {
        self.check()?;
        let mut parts = Vec::new();
        for write in writes {
            match write {
                Write::HardState(hard) => parts.push(Part::Hard(*hard)),
                Write::Snapshot(meta) => parts.push(Part::Snapshot(meta)),
                Write::Append(entries) => parts.extend(entries.iter().map(Part::Entry)),
            }
        }
        let checked = match self.interrupted.take() {
            None => self.check_writes(writes).map(|()| 0),
            Some((done, of)) if of == parts.len() => Ok(done),
            Some(_) => Err(LogError::Failed(
                "another write came in the place of one that is half in".into(),
            )),
        };
        let mut done = match checked {
            Ok(done) => done,
            Err(error) => return self.fail(error),
        };
        // What stands behind each piece is known only once the one before is in the state.
        while done < parts.len() {
            let rest = &parts[done..];
            let piece = &rest[..piece(rest)];
            let mut head = self.head();
            let mut encoder = Encoder::new(std::mem::take(&mut self.buf));
            for part in piece {
                match part {
                    Part::Hard(hard) => head.hard = *hard,
                    Part::Snapshot(meta) => {
                        encoder.snapshot(meta);
                        head.last = meta.last;
                    }
                    Part::Entry(entry) => {
                        let prev = self.name_before(piece, entry, head.last);
                        encoder.entry(prev, entry);
                        head.last = entry.id;
                    }
                }
            }
            if sabotage::on(Sabotage::HardStateForgotten) {
                head.hard = Default::default();
            }
            let lsn = match self.frame(encoder, &head) {
                Ok(lsn) => lsn,
                Err(error) => {
                    self.interrupted = (done > 0).then_some((done, parts.len()));
                    return self.fail(log_error(error));
                }
            };
            self.note(lsn, piece);
            done += piece.len();
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.check()?;
        if !sabotage::on(Sabotage::LogNotSynced)
            && let Err(error) = self.shared.log.sync_up_to(self.end)
        {
            return self.fail(log_error(error));
        }
        self.let_go();
        if self.shared.state.read().abstain != Abstain::No
            && let Err(error) = self.heal()
        {
            return self.fail(error);
        }
        Ok(())
    }

    fn compact(&mut self, to: &SnapshotMeta) -> Result<(), LogError> {
        self.check()?;
        if to.last.index <= self.shared.state.read().view().base().index {
            return Ok(());
        }
        let mut head = self.head();
        if !self.shared.state.read().view().holds(to.last) {
            head.last = to.last;
        }
        let mut encoder = Encoder::new(std::mem::take(&mut self.buf));
        if !sabotage::on(Sabotage::BaseNotWritten) {
            encoder.base(to);
        }
        let lsn = match self.frame(encoder, &head) {
            Ok(lsn) => lsn,
            Err(error) => return self.fail(log_error(error)),
        };
        let mut state = self.shared.state.write();
        state.rebase(lsn, to.clone());
        self.release = Some(match sabotage::on(Sabotage::CompactedTooFar) {
            true => lsn,
            false => state.needed_from(),
        });
        drop(state);
        if sabotage::on(Sabotage::BaseNotWritten) {
            self.let_go();
        }
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.shared.clone()
    }

    fn close(&mut self) -> Result<(), LogError> {
        if matches!(self.failed, Some(LogError::Closed)) {
            return Ok(());
        }
        let synced = match &self.failed {
            None => self.sync(),
            Some(error) => Err(error.clone()),
        };
        let closed = self.shared.log.close().map_err(log_error);
        self.failed = Some(LogError::Closed);
        synced.and(closed)
    }
}

impl Drop for WalLog {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::debug!(%error, "closing a dropped Raft log");
        }
    }
}

/// A part of what is to be written.
enum Part<'a> {
    Hard(crate::core::HardState),
    Snapshot(&'a SnapshotMeta),
    Entry(&'a Entry),
}

/// How many of the parts go into the next frame.
fn piece(parts: &[Part<'_>]) -> usize {
    let mut bytes = 0;
    for (at, part) in parts.iter().enumerate() {
        if let Part::Entry(entry) = part {
            bytes += entry.weight();
            if bytes > FRAME_BYTES && at > 0 {
                return at;
            }
        }
    }
    parts.len()
}

impl WalLog {
    /// What `entry` is put behind: the entry before it in its piece, or in the log.
    fn name_before(&self, piece: &[Part<'_>], entry: &Entry, last: LogId) -> LogId {
        let before = entry.id.index.before();
        if last.index == before {
            return last;
        }
        // It supersedes: what is before it may be in this very piece.
        let mut found = None;
        for part in piece {
            match part {
                Part::Entry(other) if std::ptr::eq(*other, entry) => break,
                Part::Entry(other) if other.id.index == before => found = Some(other.id),
                Part::Snapshot(meta) => found = Some(meta.last).filter(|id| id.index == before),
                _ => {}
            }
        }
        let in_log = || self.shared.state.read().view().id(before);
        found.or_else(in_log).expect("checked before")
    }

    /// Puts what was written into the state.
    fn note(&self, lsn: Lsn, piece: &[Part<'_>]) {
        let mut state = self.shared.state.write();
        for part in piece {
            match part {
                Part::Hard(hard) => state.hard = *hard,
                Part::Snapshot(meta) => state.begin_behind(lsn, (*meta).clone()),
                Part::Entry(entry) => {
                    let before = state.view().id(entry.id.index.before());
                    let prev = before.expect("checked before");
                    state.append(lsn, prev, [(*entry).clone()]);
                }
            }
        }
        state.touched = true;
    }
}

/// Reads all frames into `state`. True if what was written last is all there; `found` is what the open found wrong.
fn replay(
    dir: &Path,
    log: &Log,
    group: u64,
    found: &[Damage],
    state: &mut State,
) -> Result<bool, OpenError> {
    let failed = |error: WalError| OpenError::Log(log_error(error));
    // True while the view ends where the last frame says.
    let mut complete = true;
    // Damage with no frame behind it.
    let mut tail_lost = false;
    let mut highest = Index(0);
    let mut newest = None;
    let mut reader = log
        .reader(log.oldest(), ReadLimit::Published)
        .map_err(failed)?;
    loop {
        let frame = match reader.next() {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => {
                let (behind, range) = behind_damage(log, &reader, error).map_err(OpenError::Log)?;
                if !is_control(log, found, &range) && !sabotage::on(Sabotage::DamageCut) {
                    tail_lost = true;
                }
                reader = behind;
                continue;
            }
        };
        if frame.header.kind != Kind::Data {
            continue;
        }
        let lsn = frame.header.lsn;
        let (head, records) = frame::decode(frame.payload).map_err(|error| match error {
            Unreadable::Format(found) => OpenError::NewerFormat {
                dir: dir.to_owned(),
                at: lsn,
                found,
            },
            Unreadable::Malformed(what) => OpenError::Garbled {
                dir: dir.to_owned(),
                at: lsn,
                what: what.to_string(),
            },
        })?;
        if head.group != group {
            return Err(OpenError::OtherGroup {
                dir: dir.to_owned(),
                expected: group,
                found: head.group,
            });
        }
        tail_lost = false;
        newest = Some(lsn);
        highest = match complete {
            true => head.last.index,
            false => highest.max(head.last.index),
        };
        complete = state.replay(lsn, &head, records);
    }
    if !complete && !sabotage::on(Sabotage::DamageCut) {
        state.abstain = match state.abstain {
            Abstain::No => Abstain::Until(highest),
            Abstain::Until(index) => Abstain::Until(index.max(highest)),
            Abstain::Always => Abstain::Always,
        };
    }
    tail_lost |= file_lost(log, newest).map_err(failed)? && !sabotage::on(Sabotage::DamageCut);
    if tail_lost {
        state.abstain = Abstain::Always;
    }
    Ok(complete && !tail_lost)
}

/// A reader behind the damaged range that `reader` has met, and the range.
fn behind_damage(
    log: &Log,
    reader: &Reader,
    error: WalError,
) -> Result<(Reader, LsnRange), LogError> {
    let at = reader.position();
    let ranges = log.damaged();
    let range = ranges.into_iter().find(|r| r.from <= at && at < r.to);
    match (&error, range) {
        (WalError::Corrupt { .. }, Some(range)) => {
            let behind = log.reader(range.to, ReadLimit::Published);
            Ok((behind.map_err(log_error)?, range))
        }
        _ => Err(log_error(error)),
    }
}

/// Whether a damaged range is the log's own frame alone, which begins an epoch, in a file that is there: of one that is not it is
/// only what the log's history knows to have been in it.
fn is_control(log: &Log, found: &[Damage], range: &LsnRange) -> bool {
    let overlaps = |lost: LsnRange| lost.from < range.to && range.from < lost.to;
    range.to.since(range.from) == CONTROL_BYTES
        && log.epochs().iter().any(|e| e.begin == range.from)
        && (found.iter())
            .filter(|damage| damage.lost.is_some_and(overlaps))
            .all(|damage| damage.kind == DamageKind::Frames)
}

/// Whether a segment's file is gone, or is none any more, that may have held frames behind the newest one that is known.
fn file_lost(log: &Log, newest: Option<Lsn>) -> Result<bool, WalError> {
    let aside = log.put_aside()?;
    let Some(newest) = newest else {
        // What is released begins with a frame that says what the log begins behind (WL3).
        return Ok(!aside.is_empty() || log.oldest() > Lsn::ZERO);
    };
    let of_newest = log.segment_at(newest);
    Ok(aside.iter().any(|id| Some(*id) > of_newest))
}

impl LogReader for Shared {
    fn syncs(&self) -> u64 {
        self.log.stats().syncs
    }

    fn entries(&self, from: Index, to: Index, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        let (mut at, to) = {
            let state = self.state.read();
            let view = state.view();
            let to = to.min(view.last().index);
            if from <= view.base().index || from > to {
                return Ok(Vec::new());
            }
            if let Some(mut entries) = view.entries(from, bytes_max) {
                entries.truncate((to.0 - from.0 + 1) as usize);
                return Ok(entries);
            }
            let Some(at) = state.anchor(from) else {
                return Ok(Vec::new());
            };
            (at, to)
        };
        // It may be released meanwhile, with the entries.
        at = at.max(self.log.oldest());
        let mut reader = match self.log.reader(at, ReadLimit::Published) {
            Ok(reader) => reader,
            Err(_) if from <= self.state.read().view().base().index => return Ok(Vec::new()),
            Err(error) => return Err(log_error(error)),
        };
        let mut out: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        loop {
            let frame = match reader.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                // What is damaged may be dead.
                Err(error) => {
                    reader = behind_damage(&self.log, &reader, error)?.0;
                    continue;
                }
            };
            if frame.header.kind != Kind::Data {
                continue;
            }
            let (_, records) = frame::decode(frame.payload)
                .map_err(|e| LogError::Damaged(format!("frame at {}: {e:?}", frame.header.lsn)))?;
            let state = self.state.read();
            for record in records {
                let frame::Record::Append { entries, .. } = record else {
                    continue;
                };
                for entry in entries {
                    // Another of this index is dead (ST1).
                    if entry.id.index != next || !state.view().holds(entry.id) {
                        continue;
                    }
                    bytes += entry.weight();
                    if bytes > bytes_max && !out.is_empty() {
                        return Ok(out);
                    }
                    next = next.next();
                    out.push(entry);
                    if next > to {
                        return Ok(out);
                    }
                }
            }
        }
        let state = self.state.read();
        if out.is_empty() && from > state.view().base().index && from <= state.view().last().index {
            return Err(LogError::Damaged(format!("entry {from} can't be read")));
        }
        Ok(out)
    }
}
