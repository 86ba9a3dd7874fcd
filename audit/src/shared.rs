//! Writing entries: what a trail's threads and callers share.
//!
//! - T1: a record that was acknowledged as synced is found after any crash, and the chain verifies (A1).
//! - T2: sequences are given away in the order of the log, under one lock, and each is accounted for: by an entry, or by a gap's (A2).
//! - T3: after a failed sync the live log is opened anew; what it then lacks is a gap. Who waited for that sync hears that the outcome is not known,
//!   unless its policy is to wait: then it is written again.
//! - T4: of those who wait for a sync one does it, and writes `HEAD`, for all; the others sleep once, until both are done (HE2).
//!
//! Locks, in this order: `gate`, `closing`, leadership of those who wait for a sync, `head`, `state`, `files`, `keys`. `state` is held across an append, never across a sync.

use crate::aging::Aging;
use crate::chain::{NEXT_KEY, Walk};
use crate::closed::ClosedFile;
use crate::entry::{ClockState, Head, Kind};
use crate::error::Error;
use crate::head::HeadFile;
use crate::key::{Key, Keyring};
use crate::live;
use crate::note::Checkpoint;
use crate::policy::{OnFailure, Options, Write};
use crate::record::{Out, Record, Severity};
use crate::sabotage::{self, Sabotage};
use crate::stats::Counters;
use crate::trail::{Receipt, Written};
use crossbeam_channel::{Receiver, Sender, TrySendError};
use esker_sync::attended::Attended;
use esker_sync::deadline::after;
use esker_sync::group::{CommitGroup, Entered};
use esker_wal::media::LockGuard;
use esker_wal::{Log, LogError, Lsn, Workers};
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Pause between two tries to open the live log again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Appended bytes between two places that `HEAD` may name, where nobody waits for a sync.
const POINT_EVERY: u64 = 32 << 10;
/// Bytes of a gap's causes from which on no more are added.
const CAUSES: usize = 1024;
/// Bytes of an entry's frame around its body, about.
const ENTRY_AROUND: u64 = 128;
/// Of what is prepared, bytes that on a full disk tombstones and changes of the key alone use (U2).
const HELD_BACK: u64 = 8 << 10;
/// The clocks may part by so much before an entry says so.
const CLOCKS_PART: i128 = 1_000_000_000;

/// Sequences that were given away and have no entry.
#[derive(Clone, Debug)]
pub(crate) struct Gap {
    pub(crate) first: u64,
    pub(crate) cause: String,
}

/// A place that `HEAD` may name once it is synced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) end: Lsn,
    pub(crate) walk: Walk,
}

/// Why the live log is not there. The last try to open it anew alone: one is made each second, for as long as it takes.
#[derive(Debug)]
struct Failure {
    why: String,
    then: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.then {
            None => f.write_str(&self.why),
            Some(then) => write!(f, "{}; then: {then}", self.why),
        }
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) log: Option<Log>,
    /// Counts the logs: who waited for one that is no more does not close the next.
    pub(crate) life: u64,
    /// Those who wait for a sync of the log of that life: what a log lost must not be taken for reached in the next.
    group: (u64, Arc<CommitGroup>),
    /// Behind the last entry; its `next` may be below `next`, by the gap.
    pub(crate) walk: Walk,
    /// The next sequence to give away.
    pub(crate) next: u64,
    pub(crate) gap: Option<Gap>,
    pub(crate) key: Key,
    /// LSN behind the last entry.
    pub(crate) end: Lsn,
    pub(crate) points: VecDeque<Point>,
    /// Wall clock minus monotonic clock at the entry before.
    offset: Option<i128>,
    /// Where closed files end, and the LSN there.
    pub(crate) closed: Walk,
    pub(crate) from: Lsn,
    /// Time of the first entry that is not closed.
    pub(crate) since: Option<u64>,
    /// Closed: the log is not opened again.
    pub(crate) ended: bool,
    /// Why the log is not there.
    failed: Option<Failure>,
    retry_at: Duration,
    /// The disk is full but for the reserve.
    pub(crate) short: bool,
    /// At this LSN that is looked at again.
    look_at: Lsn,
    /// Entries since the last checkpoint, and when that was.
    pub(crate) unanchored: u64,
    pub(crate) anchored_at: Duration,
}

impl State {
    /// Of a log just opened and scanned.
    pub(crate) fn of(log: Log, found: &live::Scanned, closed: Walk, key: Key) -> State {
        State {
            log: Some(log),
            life: 0,
            group: (0, Arc::new(CommitGroup::new(0))),
            walk: found.walk,
            next: found.walk.next,
            gap: None,
            key,
            end: found.end,
            points: VecDeque::new(),
            offset: None,
            closed,
            from: found.from,
            since: found.since,
            ended: false,
            failed: None,
            retry_at: Duration::ZERO,
            short: false,
            look_at: Lsn::ZERO,
            unanchored: 0,
            anchored_at: Duration::ZERO,
        }
    }

    /// The log is closed, and not there until `go_on`: this is why.
    pub(crate) fn stop(&mut self, why: String) {
        if let Some(log) = self.log.take() {
            let _ = log.close();
            self.life += 1;
        }
        self.failed = Some(Failure { why, then: None });
    }

    /// It goes on in this log, which ends at `end`; what is there from `from` on, where that is before, is in no closed file.
    pub(crate) fn go_on(&mut self, log: Log, from: Lsn, end: Lsn, since: Option<u64>) {
        self.log = Some(log);
        self.failed = None;
        (self.from, self.end, self.since) = (from, end, since);
        let walk = self.walk;
        // What recovery kept is synced.
        self.points.clear();
        self.points.push_back(Point { end, walk });
        // Positions are this log's: how much room there is is looked at.
        self.look_at = Lsn::ZERO;
    }

    fn group(&mut self) -> &Arc<CommitGroup> {
        if self.group.0 != self.life && !sabotage::on(Sabotage::GroupOutlivesLog) {
            self.group = (self.life, Arc::new(CommitGroup::new(0)));
        }
        &self.group.1
    }

    /// The sequences from the last entry's on up to `next` have no entry.
    pub(crate) fn lose(&mut self, next: u64, cause: &str) {
        if sabotage::on(Sabotage::GapForgotten) {
            self.next = self.next.max(next);
        } else if next > self.walk.next {
            self.next = self.next.max(next);
            self.gap = Some(Gap {
                first: self.walk.next,
                cause: match self.gap.take() {
                    // A disk that fails for hours does so for the same few reasons.
                    Some(gap) if gap.cause.contains(cause) || gap.cause.len() > CAUSES => gap.cause,
                    Some(gap) => format!("{}; {cause}", gap.cause),
                    None => cause.to_owned(),
                },
            });
        } else {
            // What was thought lost is there: an append that failed and yet was written.
            (self.next, self.gap) = (self.walk.next, None);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) id: u64,
    /// What every body ends with.
    pub(crate) tail: Vec<u8>,
    pub(crate) keys: RwLock<Keyring>,
    pub(crate) closing: Mutex<()>,
    /// Its mark is the highest sequence that was dropped: in place, it takes no room (HE3), and who drops waits for nobody (AT3).
    pub(crate) head: Attended<HeadFile>,
    pub(crate) state: Mutex<State>,
    /// Taken under no other lock but `closing`, and none under it.
    pub(crate) aging: Mutex<Aging>,
    /// What it said last.
    pub(crate) aged: AtomicU64,
    /// Closed files, oldest first.
    pub(crate) files: RwLock<Vec<ClosedFile>>,
    pub(crate) counters: Counters,
    pub(crate) queue: (Sender<Message>, Receiver<Message>),
    pub(crate) closed: AtomicBool,
    /// Held by who records, so that closing waits for what it would leave in the queue.
    pub(crate) gate: RwLock<()>,
    /// Up to this sequence a tombstone says that all is removed.
    pub(crate) buried: AtomicU64,
    /// One process at a time writes; free when it is closed.
    pub(crate) lock: Mutex<Option<Box<dyn LockGuard>>>,
    /// Held while a checkpoint is made and kept (U4). Before `state` and `anchored`.
    pub(crate) anchoring: Mutex<()>,
    /// The newest checkpoint.
    pub(crate) anchored: Mutex<Option<Checkpoint>>,
}

/// A record in the queue, with the times of its call.
#[derive(Debug)]
pub(crate) struct Queued {
    record: Record,
    times: (u64, u64),
}

/// What goes through the queue.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are records: a box would be an allocation for each"
)]
pub(crate) enum Message {
    Record(Queued),
    /// Answered when all before it is written.
    Flush(Sender<()>),
    /// The thread is to look whether it is to stop.
    Wake,
}

/// What is to become an entry.
pub(crate) struct Draft<'a> {
    pub(crate) kind: Kind,
    pub(crate) severity: Severity,
    pub(crate) body: &'a [u8],
    pub(crate) times: (u64, u64),
}

impl<'a> Draft<'a> {
    /// Of a record, whose body is `body`.
    pub(crate) fn of(record: &Record, body: &'a [u8], times: (u64, u64)) -> Draft<'a> {
        Draft {
            kind: Kind::Record,
            severity: record.severity,
            body,
            times,
        }
    }
}

/// Where an entry was appended.
pub(crate) struct Put {
    log: Log,
    pub(crate) life: u64,
    group: Arc<CommitGroup>,
    end: Lsn,
    pub(crate) sequence: u64,
}

impl Shared {
    /// Wall and monotonic clock, in nanoseconds.
    pub(crate) fn times(&self) -> (u64, u64) {
        let clock = &self.options.clock;
        (
            clock.wall().as_nanos() as u64,
            clock.now().as_nanos() as u64,
        )
    }

    pub(crate) fn record(&self, record: Record) -> Result<Receipt, Error> {
        let _gate = self.gate.read();
        self.record_gated(record)
    }

    /// What is done with every record first.
    pub(crate) fn begin_record(&self, record: &Record) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        if let Some(ring) = &self.options.ring {
            ring.push(record.clone());
        }
        Ok(())
    }

    /// Of who holds the gate.
    pub(crate) fn record_gated(&self, record: Record) -> Result<Receipt, Error> {
        self.begin_record(&record)?;
        let policy = self.options.policies.of(record.severity);
        let times = self.times();
        if policy.write != Write::Async {
            let sync = policy.write == Write::Sync;
            return self.write(&record, times, sync, policy.on_failure);
        }
        let message = Message::Record(Queued { record, times });
        let failed = match self.queue.0.try_send(message) {
            Ok(()) => return Ok(queued()),
            Err(TrySendError::Disconnected(_)) => return Err(Error::Closed),
            Err(TrySendError::Full(queued)) => queued,
        };
        match policy.on_failure {
            OnFailure::Block(most) if self.threaded() => {
                match self.queue.0.send_timeout(failed, most) {
                    Ok(()) => Ok(queued()),
                    Err(_) => Err(self.refused("the queue stayed full")),
                }
            }
            OnFailure::Block(_) | OnFailure::Refuse => Err(self.refused("the queue is full")),
            OnFailure::Drop => Ok(self.drop_one("the queue was full")),
        }
    }

    pub(crate) fn threaded(&self) -> bool {
        self.options.workers == Workers::Threads
    }

    pub(crate) fn refused(&self, why: &str) -> Error {
        self.counters.refused.add(1);
        Error::Refused {
            why: why.to_owned(),
        }
    }

    /// Does what a message asks for.
    pub(crate) fn take(&self, message: Message) {
        match message {
            Message::Record(queued) => self.write_queued(queued),
            // Who asked may have given up.
            Message::Flush(done) => drop(done.send(())),
            Message::Wake => {}
        }
    }

    /// Writes what was queued; it can't be refused any more.
    fn write_queued(&self, queued: Queued) {
        let on_failure = match self.options.policies.of(queued.record.severity).on_failure {
            OnFailure::Refuse => OnFailure::Drop,
            other => other,
        };
        if let Err(e) = self.write(&queued.record, queued.times, false, on_failure) {
            self.drop_one(&e.to_string());
        }
    }

    /// The body of a record, redacted under the key to write with.
    pub(crate) fn body(&self, record: &Record) -> Vec<u8> {
        let key = self.keys.read().newest().clone();
        let mut body = record.body(&self.options.limits, |value| key.redact(value));
        body.extend_from_slice(&self.tail);
        body
    }

    pub(crate) fn write(
        &self,
        record: &Record,
        times: (u64, u64),
        sync: bool,
        on_failure: OnFailure,
    ) -> Result<Receipt, Error> {
        // Redacted under one key as long as it is tried.
        let body = self.body(record);
        let draft = Draft::of(record, &body, times);
        let (deadline, retries) = match on_failure {
            OnFailure::Block(most) if self.threaded() => (after(most), true),
            _ => (Instant::now(), false),
        };
        let mut pause = Duration::from_millis(1);
        loop {
            let failed = match self.put(&draft, sync) {
                Ok(receipt) => return Ok(receipt),
                Err(Error::Closed) => return Err(Error::Closed),
                Err(e) => e,
            };
            self.counters.failures.add(1);
            // What closes it waits for no disk.
            let waits = retries && !self.closed.load(Ordering::Acquire);
            if waits && Instant::now() + pause < deadline {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(100));
                continue;
            }
            return match (on_failure, failed) {
                // Its sequence is the entry's or, after the log was opened anew, the gap's.
                (OnFailure::Drop, Error::Unknown { .. }) => Ok(dropped()),
                (OnFailure::Drop, failed) => Ok(self.drop_one(&failed.to_string())),
                (_, failed @ Error::Unknown { .. }) => Err(failed),
                (_, failed) => Err(self.refused(&failed.to_string())),
            };
        }
    }

    /// Appends `draft`, and waits for the sync if that is asked for.
    pub(crate) fn put(&self, draft: &Draft<'_>, sync: bool) -> Result<Receipt, Error> {
        let put = {
            let mut state = self.state.lock();
            self.append(&mut state, draft, sync)?
        };
        if !sync {
            self.counters.wrote(self.times().0);
            return Ok(Receipt {
                sequence: Some(put.sequence),
                written: Written::Logged,
            });
        }
        if sabotage::on(Sabotage::HeadAhead) {
            self.note_synced();
        }
        self.sync(&put)?;
        self.counters.wrote(self.times().0);
        Ok(Receipt {
            sequence: Some(put.sequence),
            written: Written::Synced,
        })
    }

    /// Waits until `put` is synced and `HEAD` names it (T4).
    pub(crate) fn sync(&self, put: &Put) -> Result<(), Error> {
        let lead = match put.group.enter(put.end.0, None, put.log.sync_spin()) {
            Entered::Reached => return Ok(()),
            Entered::Lead(lead) => Some(lead),
            // Nobody ends the waits of a group.
            Entered::Stopped | Entered::TimedOut => None,
        };
        // Who fails hands on to the next, who finds the same.
        self.sync_log(put)?;
        let synced = put.log.synced();
        self.note_synced();
        if let Some(lead) = lead {
            lead.finish(synced.0);
        }
        Ok(())
    }

    fn sync_log(&self, put: &Put) -> Result<(), Error> {
        let synced = match sabotage::on(Sabotage::NotSynced) {
            true => Ok(()),
            false => put.log.sync_up_to(put.end),
        };
        synced.map_err(|source| {
            // Opened anew at once, if it can be, so that the next finds it whole.
            let mut state = self.state.lock();
            if state.life == put.life {
                let _ = self.reopen(&mut state, Some(&source));
            }
            Error::Unknown { source }
        })
    }

    /// Appends a gap's entry where there is a gap, and `draft`.
    pub(crate) fn append(
        &self,
        state: &mut MutexGuard<'_, State>,
        draft: &Draft<'_>,
        point: bool,
    ) -> Result<Put, Error> {
        if state.log.is_none() {
            self.reopen(state, None)?;
        }
        let bytes = draft.body.len() as u64 + ENTRY_AROUND;
        if let Some(room) = self.short(state, bytes) {
            let why = if draft.severity < self.options.reserve_from {
                Some("the disk is full, and what is prepared is for graver records")
            } else if matches!(draft.kind, Kind::Record | Kind::Trail) && room < HELD_BACK + bytes {
                Some("no space: the disk is full, and what is left is for the removal of old files")
            } else {
                None
            };
            if let Some(why) = why {
                return Err(Error::Refused {
                    why: why.to_owned(),
                });
            }
        }
        if let Some(gap) = state.gap.clone() {
            let mut body = Out::begin("esker.audit.gap", Severity::Critical);
            body.number("esker.gap.count", state.next - gap.first);
            body.text("error.message", &gap.cause);
            let body = self.own_body(body);
            let gap_draft = Draft {
                kind: Kind::Gap,
                severity: Severity::Critical,
                body: &body,
                times: self.times(),
            };
            self.append_one(state, &gap_draft, gap.first, false)?;
            state.gap = None;
            self.counters.gaps.add(1);
        }
        let from = state.next;
        self.append_one(state, draft, from, point)
    }

    /// The room that is left where the disk is full, and no more is prepared than the reserve. Asked a few times per segment, each time where little
    /// is prepared, and each time once it is so.
    fn short(&self, state: &mut State, bytes: u64) -> Option<u64> {
        if !state.short && state.end.advance(bytes) < state.look_at {
            return None;
        }
        let (segment, reserve) = live::reserve(&self.options);
        let (ready, room) = state.log.as_ref().map_or((0, 0), |log| {
            let stats = log.stats();
            // One more is the log's own, for its next open.
            let spare = stats.segments_ready.saturating_sub(1);
            (stats.segments_ready, stats.segment_room + spare * segment)
        });
        let sure = room.saturating_sub(HELD_BACK).min(segment / 4);
        state.look_at = state.end.advance(sure);
        state.short = ready <= reserve as u64 + 1
            && (self.options.media.free_bytes(&self.dir)).is_ok_and(|free| free < 2 * segment);
        state.short.then_some(room)
    }

    pub(crate) fn own_body(&self, out: Out) -> Vec<u8> {
        let mut body = out.bytes;
        body.extend_from_slice(&self.tail);
        body
    }

    fn append_one(
        &self,
        state: &mut MutexGuard<'_, State>,
        draft: &Draft<'_>,
        from: u64,
        point: bool,
    ) -> Result<Put, Error> {
        let (nanos, monotonic) = draft.times;
        let offset = i128::from(nanos) - i128::from(monotonic);
        let clock = match state.offset.map(|before| offset - before) {
            None => ClockState::First,
            Some(by) if by < -CLOCKS_PART => ClockState::SteppedBack,
            Some(by) if by > CLOCKS_PART => ClockState::Leapt,
            Some(_) => ClockState::Steady,
        };
        let head = Head {
            kind: draft.kind,
            severity: draft.severity,
            clock,
            sequence: state.next,
            nanos,
            monotonic,
            key: state.key.id(),
            from,
        };
        let (bytes, root) = head.seal(&state.key, &state.walk.root, draft.body);
        let log = state.log.clone().expect("it was opened");
        let appended = match log.append(&[&bytes, draft.body, &root.0]) {
            Ok(appended) => appended,
            Err(e) => {
                if matches!(e, LogError::Poisoned(_) | LogError::Closed) {
                    let _ = self.reopen(state, Some(&e));
                }
                return Err(e.into());
            }
        };
        state.offset = Some(offset);
        state.walk = Walk {
            root,
            next: head.sequence + 1,
            key: Some(head.key),
        };
        state.next = head.sequence + 1;
        state.end = appended.end;
        state.since.get_or_insert(nanos);
        state.unanchored += 1;
        let last = state.points.back().map_or(state.from, |p| p.end);
        if point || appended.end.since(last) >= POINT_EVERY {
            let walk = state.walk;
            state.points.push_back(Point {
                end: appended.end,
                walk,
            });
        }
        self.counters.records.add(1);
        self.counters.bytes.add(appended.end.since(appended.lsn));
        Ok(Put {
            log,
            life: state.life,
            group: state.group().clone(),
            end: appended.end,
            sequence: head.sequence,
        })
    }

    /// Counts a record that was dropped: its sequence will be a gap's.
    fn drop_one(&self, cause: &str) -> Receipt {
        let handed = {
            let mut state = self.state.lock();
            let next = state.next + 1;
            if state.gap.is_none() {
                let first = state.next;
                state.gap = Some(Gap {
                    first,
                    cause: cause.to_owned(),
                });
            }
            state.next = next;
            next - 1
        };
        self.counters.dropped.add(1);
        self.head
            .raise(handed, |head, to| self.tell_dropped(head, to));
        dropped()
    }

    /// Lets `HEAD` say that the sequences up to `handed` were given away.
    fn tell_dropped(&self, head: &mut HeadFile, handed: u64) -> bool {
        let put = head.put(&self.keys.read(), |now| {
            now.handed = now.handed.max(handed);
        });
        if put.is_err() {
            self.counters.head_failures.add(1);
        }
        put.is_ok()
    }

    /// Does something with `HEAD`.
    pub(crate) fn with_head<R>(&self, work: impl FnOnce(&mut HeadFile) -> R) -> R {
        self.head
            .with(work, |head, handed| self.tell_dropped(head, handed))
    }

    /// What `HEAD` says.
    pub(crate) fn head_now(&self) -> crate::head::Head {
        self.with_head(|head| head.now)
    }

    /// Opens the live log anew after it failed with this, or did before, and counts what it lost (T3).
    pub(crate) fn reopen(
        &self,
        state: &mut MutexGuard<'_, State>,
        failed: Option<&LogError>,
    ) -> Result<(), Error> {
        if state.ended {
            return Err(Error::Closed);
        }
        if let Some(failed) = failed {
            let why = failed.to_string();
            tracing::warn!(dir = %self.dir.display(), why, "the live log of the audit trail is opened anew");
            state.stop(why);
        }
        let now = self.options.clock.now();
        if now < state.retry_at && self.threaded() {
            let why = state.failed.as_ref().map(Failure::to_string);
            let why = why.unwrap_or_default();
            return Err(Error::Refused { why });
        }
        state.retry_at = now + RETRY_AFTER;
        let opened = live::open(&self.dir, &self.options)
            .and_then(|log| Ok((live::scan(&log, &self.keys.read(), state.closed)?, log)));
        let (found, log) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                if let Some(failed) = &mut state.failed {
                    failed.then = Some(e.to_string());
                }
                return Err(e);
            }
        };
        if let Some(finding) = found.finding(&self.dir) {
            let _ = log.close();
            state.stop(finding.to_string());
            return Err(Error::Tampered {
                dir: self.dir.clone(),
                finding: Box::new(finding),
            });
        }
        let why = state.failed.as_ref().map(|failed| failed.why.clone());
        state.walk = found.walk;
        // What is lost may be that another key was begun.
        if let Some(key) = found
            .walk
            .key
            .and_then(|key| self.keys.read().get(key).cloned())
        {
            state.key = key;
        }
        state.go_on(log, found.from, found.end, found.since);
        let next = state.next;
        let why = why.unwrap_or_default();
        state.lose(next, &format!("lost with a failed write: {why}"));
        self.counters.reopened.add(1);
        Ok(())
    }

    /// Lets `HEAD` name what was synced (HE2).
    pub(crate) fn note_synced(&self) {
        self.with_head(|head| self.name_synced(head));
    }

    fn name_synced(&self, head: &mut HeadFile) {
        let mut newest = None;
        let handed = {
            let mut state = self.state.lock();
            let Some(synced) = state.log.as_ref().map(Log::synced) else {
                return;
            };
            while state
                .points
                .front()
                .is_some_and(|p| p.end <= synced || sabotage::on(Sabotage::HeadAhead))
            {
                newest = state.points.pop_front();
            }
            state.next - 1
        };
        let Some(point) = newest else {
            return;
        };
        let (nanos, _) = self.times();
        let put = head.put(&self.keys.read(), |now| {
            now.sequence = point.walk.next - 1;
            now.root = point.walk.root;
            now.nanos = nanos;
            now.handed = handed;
            // Relaxed: one that is older removes less.
            now.aged = self.aged.load(Ordering::Relaxed);
        });
        if let Err(e) = put {
            self.counters.head_failures.add(1);
            tracing::warn!(dir = %self.dir.display(), error = %e, "HEAD of the audit trail was not written");
        }
    }

    /// Everything written so far is synced, and `HEAD` names it.
    pub(crate) fn sync_all(&self) -> Result<(), Error> {
        let (log, end, life) = {
            let mut state = self.state.lock();
            let Some(log) = state.log.clone() else {
                return self.reopen(&mut state, None);
            };
            let (end, walk) = (state.end, state.walk);
            if state.points.back().map_or(state.from, |p| p.end) < end {
                state.points.push_back(Point { end, walk });
            }
            (log, end, state.life)
        };
        if let Err(source) = log.sync_up_to(end) {
            let mut state = self.state.lock();
            if state.life == life {
                let _ = self.reopen(&mut state, Some(&source));
            }
            return Err(Error::Unknown { source });
        }
        self.note_synced();
        let synced = self.with_head(HeadFile::sync);
        synced.map_err(crate::error::io_error(
            "syncing",
            &self.dir.join(crate::head::HEAD),
        ))
    }

    /// One of the trail's own records, synced.
    pub(crate) fn own(
        &self,
        kind: Kind,
        severity: Severity,
        action: &str,
        fields: impl FnOnce(&mut Out),
    ) -> Result<Receipt, Error> {
        let mut out = Out::begin(action, severity);
        fields(&mut out);
        let body = self.own_body(out);
        let draft = Draft {
            kind,
            severity,
            body: &body,
            times: self.times(),
        };
        self.put(&draft, true)
    }

    /// Chains with `key` from now on; the entry that says so is the last under the one before.
    pub(crate) fn rotate_key(&self, key: Key) -> Result<(), Error> {
        let mut out = Out::begin("esker.audit.key", Severity::Error);
        out.text(NEXT_KEY, &key.id().to_string());
        let body = self.own_body(out);
        let put = {
            let mut state = self.state.lock();
            let before = state.key.id();
            if key.id() == before {
                return Err(Error::Options {
                    option: "key",
                    why: format!("{before} is the one in use"),
                });
            }
            let draft = Draft {
                kind: Kind::Key,
                severity: Severity::Error,
                body: &body,
                times: self.times(),
            };
            let put = self.append(&mut state, &draft, true)?;
            self.keys.write().add(key.clone());
            state.walk.key = Some(key.id());
            state.key = key;
            put
        };
        self.sync(&put)
    }

    /// Begins the newest key of the keyring where that is not the one in use: it could not be when the trail was opened, or was lost with a failed write.
    pub(crate) fn begin_key(&self) -> Result<(), Error> {
        let newest = self.keys.read().newest().clone();
        let in_use = {
            let state = self.state.lock();
            state.log.is_none() || state.key.id() == newest.id()
        };
        match in_use {
            true => Ok(()),
            false => self.rotate_key(newest),
        }
    }
}

fn queued() -> Receipt {
    Receipt {
        sequence: None,
        written: Written::Queued,
    }
}

fn dropped() -> Receipt {
    Receipt {
        sequence: None,
        written: Written::Dropped,
    }
}
