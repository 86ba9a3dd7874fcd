//! What goes on beside the writing: files are closed, old ones removed, checkpoints made, the live file looked after.
//!
//! - U1: a file is closed under the lock `closing`; the live log lets go only of what a closed file holds, verified and synced (CL1).
//! - U2: before a closed file is removed, a tombstone's entry says so, signed and synced. The newest closed file is never removed: the chain begins there. On a full disk some
//!   of what is prepared is held back for tombstones, so that removal can make room.
//!   Age is counted by a time that no leap of the wall clock moves (AG1).
//! - U3: a live file that is removed, renamed or replaced under the trail is noticed within two intervals; what was in it is closed out of the open descriptors, and a fresh log begun.
//!   What can't be asked for the file (a loop of links, a directory that may not be entered) is another in its place.
//! - U4: checkpoints are made one after the other, by whoever asks: each is kept whole, and none takes the place of a newer one.
//! - U5: what is in the live log is read back when a file is closed. Where it is not what was written the file has what stands before, nothing more is written, and the
//!   policies say what becomes of records; the next opening does what [`crate::OnTamper`] says.

use crate::chain::Walk;
use crate::closed::{Bad, ClosedFile, Writer};
use crate::entry::{Entry, Kind};
use crate::error::{Error, io_error};
use crate::finding::{Finding, FindingKind};
use crate::live;
use crate::note::{CHECKPOINT, Checkpoint};
use crate::record::Severity;
use crate::sabotage::{self, Sabotage};
use crate::shared::{Shared, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use esker_wal::{Kind as FrameKind, Log, LogError, Lsn, ReadLimit};
use rustix::fs::OFlags;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a command gets for a checkpoint.
const COMMAND_TAKES: Duration = Duration::from_secs(10);
/// Nanoseconds by which the first entry of the live log may be ahead of the clock.
const SET_BACK: u64 = 60_000_000_000;
/// What a tombstone signs begins with.
const TOMBSTONE: &str = "esker-audit 1 tombstone\n";

/// What a tombstone's entry signs: up to this sequence, with this root, everything was removed.
pub(crate) fn tombstone_text(trail: u64, last: u64, root: &str) -> String {
    format!("{TOMBSTONE}{trail:016x}\n{last}\n{root}\n")
}

/// A closed file's error as one of the trail.
pub(crate) fn bad_file(path: &Path, bad: Bad) -> Error {
    match bad {
        Bad::Io(source) => io_error("reading", path)(source),
        Bad::NoKey(key) => Error::NoKey {
            path: path.to_owned(),
            key,
        },
        Bad::Cut(what) | Bad::Damaged { what, .. } => Error::Tampered {
            dir: path.parent().unwrap_or(path).to_owned(),
            finding: Box::new(Finding {
                kind: FindingKind::Damaged,
                path: path.to_owned(),
                sequence: None,
                what: what.to_owned(),
            }),
        },
    }
}

impl Shared {
    /// Whether a file is to be closed.
    pub(crate) fn rotation_due(&self) -> bool {
        let state = self.state.lock();
        let bytes = state.end.since(state.from);
        let (now, _) = self.times();
        let old = |since: u64| {
            let age = Duration::from_nanos(now.saturating_sub(since));
            // Of a time to come: the clock was set back since, and how old it is is not known.
            age >= self.options.rotate_after || since > now.saturating_add(SET_BACK)
        };
        bytes >= self.options.rotate_bytes || (bytes > 0 && state.since.is_some_and(old))
    }

    /// Closes a file with all that is in the live log (U1); `None` where there is nothing.
    pub(crate) fn rotate(&self) -> Result<Option<ClosedFile>, Error> {
        let _closing = self.closing.lock();
        let rotated = self.rotate_locked();
        match &rotated {
            Ok(Some(_)) => self.counters.rotations.add(1),
            Ok(None) => {}
            Err(e) => {
                self.counters.rotation_failures.add(1);
                tracing::warn!(dir = %self.dir.display(), error = %e, "no file of the audit trail was closed");
            }
        }
        rotated
    }

    fn rotate_locked(&self) -> Result<Option<ClosedFile>, Error> {
        let closed = self.close_live()?;
        if closed.is_some() {
            let state = self.state.lock();
            if let Some(log) = &state.log {
                log.release(state.from);
            }
        }
        Ok(closed)
    }

    /// Closes a file with what is in the live log, which lets nothing go yet.
    fn close_live(&self) -> Result<Option<ClosedFile>, Error> {
        self.sync_all()?;
        let (log, from, end, before) = {
            let state = self.state.lock();
            let Some(log) = state.log.clone() else {
                return Ok(None);
            };
            (log, state.from, state.end, state.closed)
        };
        if from >= end {
            return Ok(None);
        }
        // What came since is synced too: what a failed sync could still take back must not be in a closed file.
        log.sync_up_to(end)?;
        let (file, walk, broken) = self.close_range(&log, from, end, before)?;
        let mut state = self.state.lock();
        state.closed = walk;
        state.from = end;
        let (now, _) = self.times();
        state.since = (state.end > end).then_some(now);
        self.files.write().extend(file.clone());
        match broken {
            None => Ok(file),
            Some(finding) => Err(self.broken(&mut state, finding)),
        }
    }

    /// What is in the live log is not what was written (U5).
    fn broken(&self, state: &mut State, finding: Finding) -> Error {
        let (dir, finding) = (self.dir.clone(), Box::new(finding));
        tracing::error!(dir = %dir.display(), %finding, "the live log of the audit trail was changed: nothing more is written to it");
        state.stop(finding.to_string());
        Error::Tampered { dir, finding }
    }

    /// Closes a file with what follows in a range of the live log, up to what does not, if anything.
    fn close_range(
        &self,
        log: &Log,
        from: Lsn,
        end: Lsn,
        before: Walk,
    ) -> Result<(Option<ClosedFile>, Walk, Option<Finding>), Error> {
        let keys = self.keys.read().clone();
        let (now, _) = self.times();
        let failed = |bad: Bad| bad_file(&self.dir, bad);
        let media = &*self.options.media;
        let key = keys.newest().clone();
        let of = (self.id, before.next, before.root);
        let mut writer: Option<Writer<'_>> = None;
        let mut walk = before;
        let mut broken = None;
        let mut reader = log.reader(from, ReadLimit::Published)?;
        while reader.position() < end {
            let frame = match reader.next_ref() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(e @ LogError::Corrupt { .. }) => {
                    broken = Some(live::damaged(&self.dir, &e.to_string(), walk.next));
                    break;
                }
                Err(e) => return Err(e.into()),
            };
            if frame.header.kind != FrameKind::Data {
                continue;
            }
            let Some(entry) = Entry::decode(frame.payload) else {
                let what = "what stands there is no record";
                broken = Some(live::damaged(&self.dir, what, walk.next));
                break;
            };
            let next = walk.next;
            if let Err(at) = walk.step(&keys, &entry) {
                let (sequence, live) = (entry.head.sequence, live::dir_of(&self.dir));
                broken = Some(Finding::of_break(at, next, Some(sequence), &live));
                break;
            }
            if writer.is_none() {
                let begun = Writer::begin(media, &self.dir, &key, of, now);
                writer = Some(begun.map_err(|e| failed(e.into()))?);
            }
            let writer = writer.as_mut().expect("it was begun");
            writer.put(&entry).map_err(|e| failed(e.into()))?;
        }
        let file = match writer {
            Some(writer) => Some(writer.finish(&keys, &walk, now).map_err(failed)?),
            None => None,
        };
        Ok((file, walk, broken))
    }

    /// Removes closed files that are too old or too many (U2); how many.
    pub(crate) fn clean(&self) -> Result<usize, Error> {
        let _closing = self.closing.lock();
        let now = self.age_by();
        let going: Vec<ClosedFile> = {
            let files = self.files.read();
            // One that was written while the clock was ahead is no newer than those behind it.
            let mut newest: Vec<u64> = files.iter().map(|file| file.times.1).collect();
            for at in (1..newest.len()).rev() {
                newest[at - 1] = newest[at - 1].min(newest[at]);
            }
            let total: u64 = files.iter().map(|f| f.bytes).sum();
            let mut over = self
                .options
                .keep_bytes
                .map_or(0, |keep| total.saturating_sub(keep));
            let most = files.len().saturating_sub(1);
            files
                .iter()
                .zip(newest)
                .take(most)
                .take_while(|(file, newest)| {
                    let age = Duration::from_nanos(now.saturating_sub(*newest));
                    let old = self.options.keep_for.is_some_and(|keep| age > keep);
                    let goes = old || over > 0;
                    over = over.saturating_sub(file.bytes);
                    goes
                })
                .map(|(file, _)| file.clone())
                .collect()
        };
        let Some(last) = going.last() else {
            return Ok(0);
        };
        let late = sabotage::on(Sabotage::TombstoneAfter);
        if !late {
            self.bury(&going, last)?;
        }
        for file in &going {
            match self.options.media.remove(&file.path) {
                // It was to go.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(io_error("removing", &file.path))?,
            }
            // One after the other on the disk too: the power may take any of several back, and leave a gap.
            (self.options.media.sync_dir(&self.dir)).map_err(io_error("syncing", &self.dir))?;
            self.files.write().retain(|f| f.first != file.first);
            self.counters.removed.add(1);
        }
        if late {
            self.bury(&going, last)?;
        }
        Ok(going.len())
    }

    /// The time that retention goes by (AG1); a leap of the clock is a record where something is removed by age.
    fn age_by(&self) -> u64 {
        let (wall, _) = self.times();
        let (now, leapt) =
            (self.aging.lock()).look(wall, self.options.clock.now(), self.options.clock_settles);
        self.aged.store(now, Ordering::Relaxed);
        if leapt != 0 && self.options.keep_for.is_some() {
            let ahead = wall.saturating_sub(now) / 1_000_000_000;
            let (kind, severity) = (Kind::Trail, Severity::Warning);
            tracing::warn!(dir = %self.dir.display(), leapt, ahead, "the wall clock leapt; what the audit trail keeps by age goes by the time of before");
            // Each entry says so too, that is the evidence.
            let _ = self.own(kind, severity, "esker.audit.clock_leapt", |out| {
                out.text("esker.clock.leapt_s", &leapt.to_string());
                out.number("esker.clock.ahead_s", ahead);
            });
        }
        now
    }

    /// Writes the tombstone of files that are to be removed, the last of them `last`.
    fn bury(&self, going: &[ClosedFile], last: &ClosedFile) -> Result<(), Error> {
        // Said already, where the removal failed.
        if self.buried.load(Ordering::Relaxed) >= last.last {
            return Ok(());
        }
        let root = last.root.to_string();
        let signature = {
            let keys = self.keys.read();
            let text = tombstone_text(self.id, last.last, &root);
            BASE64.encode(keys.newest().sign(text.as_bytes()))
        };
        let entries: u64 = going.iter().map(|f| f.entries).sum();
        self.own(
            Kind::Tombstone,
            Severity::Error,
            "esker.audit.removed",
            |out| {
                out.number("esker.tombstone.first", going[0].first);
                out.number("esker.tombstone.last", last.last);
                out.number("esker.tombstone.entries", entries);
                out.number("esker.tombstone.files", going.len() as u64);
                out.text("esker.tombstone.root", &root);
                out.text("esker.tombstone.signature", &signature);
            },
        )?;
        self.buried.store(last.last, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a checkpoint is due.
    pub(crate) fn checkpoint_due(&self) -> bool {
        let state = self.state.lock();
        let (by_entries, by_time) = (
            self.options.checkpoint_entries,
            self.options.checkpoint_after,
        );
        let waited = self.options.clock.now().saturating_sub(state.anchored_at);
        state.unanchored > 0
            && (by_entries > 0 && state.unanchored >= by_entries
                || by_time > Duration::ZERO && waited >= by_time)
    }

    /// Makes a checkpoint of what is synced, and sends it where it is to go (U4).
    pub(crate) fn checkpoint(&self) -> Result<Checkpoint, Error> {
        let _anchoring = self.anchoring.lock();
        {
            let mut state = self.state.lock();
            state.unanchored = 0;
            state.anchored_at = self.options.clock.now();
        }
        self.sync_all()?;
        let at = self.head_now();
        let (now, _) = self.times();
        let checkpoint = {
            let keys = self.keys.read();
            Checkpoint::sign(keys.newest(), self.id, at.sequence, at.root, now)
        };
        let note = checkpoint.to_string();
        let sent = self.store_checkpoint(&note).and_then(|()| self.send(&note));
        match &sent {
            Ok(()) => self.counters.checkpoints.add(1),
            Err(e) => {
                self.counters.checkpoint_failures.add(1);
                tracing::warn!(dir = %self.dir.display(), error = %e, "a checkpoint of the audit trail was not kept");
            }
        }
        sent?;
        *self.anchored.lock() = Some(checkpoint.clone());
        Ok(checkpoint)
    }

    fn store_checkpoint(&self, note: &str) -> Result<(), Error> {
        let (media, path) = (&self.options.media, self.dir.join(CHECKPOINT));
        let tmp = self.dir.join(format!("{CHECKPOINT}{}", crate::closed::TMP));
        let write = || {
            if media.exists(&tmp)? {
                media.remove(&tmp)?;
            }
            let file = media.create(&tmp, 0)?;
            file.write_all_at(note.as_bytes(), 0)?;
            file.sync()?;
            media.rename(&tmp, &path)?;
            media.sync_dir(&self.dir)
        };
        write().map_err(io_error("writing", &path))
    }

    fn send(&self, note: &str) -> Result<(), Error> {
        let anchor = &self.options.anchor;
        if let Some(path) = &anchor.file {
            let append = || {
                // A pipe in its place would have everything wait for who reads it.
                let mut file = std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                    .open(path)?;
                if !file.metadata()?.is_file() {
                    let why = "it is no file; give a program for what takes checkpoints otherwise";
                    return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why));
                }
                file.write_all(note.as_bytes())?;
                file.sync_data()
            };
            append().map_err(io_error("appending a checkpoint to", path))?;
        }
        if let Some((program, args)) = anchor.command.as_ref().and_then(|c| c.split_first()) {
            run(program, args, note)
                .map_err(io_error("sending a checkpoint by", Path::new(program)))?;
        }
        Ok(())
    }

    /// Begins a fresh live log where a file of it was removed, renamed or replaced (U3).
    pub(crate) fn look_after_live(&self) {
        let log = self.state.lock().log.clone();
        let path = match log.map(|log| log.missing_file()) {
            None | Some(Ok(None)) => return,
            Some(Ok(Some(path))) => path,
            Some(Err(error)) => {
                tracing::error!(dir = %self.dir.display(), %error, "whether the live log of the audit trail is in its place is not known");
                return;
            }
        };
        let why = format!("{} is not the file that was made there", path.display());
        tracing::error!(dir = %self.dir.display(), why, "the live log of the audit trail was removed, renamed or replaced");
        if let Err(e) = self.renew_live(&why) {
            tracing::error!(dir = %self.dir.display(), error = %e, "no fresh live log of the audit trail was begun");
        }
    }

    /// Saves what was in a live log that is missing, and begins a fresh one (U3).
    fn renew_live(&self, why: &str) -> Result<(), Error> {
        let _closing = self.closing.lock();
        let say = || {
            let (kind, severity) = (Kind::Trail, Severity::Critical);
            self.own(kind, severity, "esker.audit.live_missing", |out| {
                out.text("error.message", why);
            })
        };
        // In a log that is missing nothing more may fit.
        let said = say();
        // The most of it while others write on; what they write meanwhile is little.
        self.close_live()?;
        let mut state = self.state.lock();
        let Some(log) = state.log.clone() else {
            return Ok(());
        };
        // Nobody writes meanwhile: what is written to a file without a name is gone with the process.
        log.sync_up_to(state.end)?;
        if state.from < state.end {
            let (file, walk, broken) =
                self.close_range(&log, state.from, state.end, state.closed)?;
            state.closed = walk;
            self.files.write().extend(file);
            if let Some(finding) = broken {
                return Err(self.broken(&mut state, finding));
            }
        }
        drop(log);
        state.stop(why.to_owned());
        live::put_aside(&self.dir, &self.options)?;
        let log = live::open(&self.dir, &self.options)?;
        let begin = log.published();
        state.go_on(log, begin, begin, None);
        drop(state);
        said.or_else(|_| say()).map(|_| ())
    }
}

/// Runs `program`, which gets `note` on its standard input.
fn run(program: &str, args: &[String], note: &str) -> std::io::Result<()> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = child.stdin.take().expect("it was asked for");
    // A program that reads nothing ends the pipe; its exit code says the rest.
    let _ = input.write_all(note.as_bytes());
    drop(input);
    let deadline = Instant::now() + COMMAND_TAKES;
    loop {
        if let Some(status) = child.try_wait()? {
            return match status.success() {
                true => Ok(()),
                false => Err(std::io::Error::other(format!("it ended with {status}"))),
            };
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
