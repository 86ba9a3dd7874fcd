//! The apply thread: owns the state machine.
//!
//! - AP1 (C1): entries are applied in order, each once, from the one behind what the machine's records say. An error stops the node:
//!   the index never moves over a command that failed.
//! - AP2: what is applied is kept as records with its effects: the last entry, the membership, replicated time, sessions. A commit has no
//!   more records than [`RECORDS_MAX`], nor bytes than [`COMMIT_BYTES_MAX`], and those of one entry. Where commits end may differ between nodes.
//! - AP3: a reply leaves after the commit of its batch, and only if the entry that was applied is the one that was proposed: at its
//!   index stands its term. Only an entry of another term there says that it was not appended: what a snapshot covers may be the proposal.
//! - AP4 (W8): where the state machine has no room for a commit, it is waited for: the commit is tried again until the node stops.
//!
//! ```text
//! record 'a'   snapshot meta (see `codec`) of the last entry applied, then time u64
//! ```

use super::error::{Outcome, ProposeError, Reply, StartError, put_outcome};
use super::machine::{Arriving, Command, MachineError, Record, StateMachine};
use super::prepare::{self, Purpose};
use super::proposals;
use super::request::{Kind, Request};
use super::session::{Sessions, Verdict};
use super::shared::{Event, Shared};
use crate::codec::{Decoder, Malformed, put_snapshot_meta};
use crate::core::{Entry, EntryKind, Index, LogId, NodeId, SnapshotMeta};
use crate::log::LogReader;
use crate::transport::Content;
use bytes::Bytes;
use crossbeam_channel::{Receiver, SendError, Sender};
use esker_sync::oneshot::Promise;
use esker_sync::stop::StopToken;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Key of the record of what is applied.
pub(crate) const APPLIED: &[u8] = b"a";

/// Replicated time in that record.
#[cfg(feature = "lsm")]
pub(crate) fn time_of(record: &[u8]) -> Option<u64> {
    record.last_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// AP2.
const RECORDS_MAX: usize = 100_000;
/// AP2: short commands may each write a large value anew, and all of it is in memory until the commit. Larger ones save nothing any more.
const COMMIT_BYTES_MAX: usize = 32 << 20;
/// Pause before a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(50);
/// Bytes read from the log at once.
const READ_BYTES: usize = 4 << 20;

/// Whom to tell what became of a proposal.
#[derive(Debug)]
pub(super) enum Replier {
    Local(Promise<Outcome>),
    /// A node that forwarded it, and its name there.
    Remote(NodeId, u64),
}

impl Replier {
    pub(super) fn tell(self, shared: &Shared, outcome: Outcome) {
        match self {
            Replier::Local(promise) => promise.keep(outcome),
            Replier::Remote(to, id) => {
                let outcome = put_outcome(&outcome, shared.reply_bytes_max.get().copied());
                shared.send(to, Content::Forwarded { id, outcome });
            }
        }
    }
}

/// A proposal that stands in the log.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: LogId,
    pub(super) replier: Replier,
    pub(super) started: Instant,
}

pub(super) enum Job {
    /// Entries behind the last, up to `to`; where they are not at hand they are read from the log.
    Apply {
        to: Index,
        entries: Option<Vec<Entry>>,
        waiting: Vec<Waiting>,
    },
    Install {
        arrived: Box<dyn Arriving>,
        meta: SnapshotMeta,
        done: Sender<()>,
    },
    /// A snapshot of what is applied, or of more.
    Snapshot(Purpose),
    /// What is durable now is to be reported.
    Report,
}

fn bytes_of((key, value): &Record) -> usize {
    key.len() + value.as_ref().map_or(0, Bytes::len)
}

/// What is applied, from the machine's record of it.
pub(super) fn applied_of(record: Bytes) -> Result<SnapshotMeta, Malformed> {
    Decoder::new(record).snapshot_meta()
}

pub(super) struct Applier {
    machine: Box<dyn StateMachine>,
    pub(super) applied: SnapshotMeta,
    time: u64,
    sessions: Sessions,
    shared: Arc<Shared>,
    reader: Arc<dyn LogReader>,
    records_max: usize,
    /// The node's.
    stop: StopToken,
}

impl Applier {
    /// Takes up where the machine's records say that it stands.
    pub(super) fn new(
        mut machine: Box<dyn StateMachine>,
        shared: Arc<Shared>,
        reader: Arc<dyn LogReader>,
        first: &SnapshotMeta,
    ) -> Result<Applier, StartError> {
        let records = machine.records()?;
        let mut applier = Applier {
            machine,
            applied: first.clone(),
            time: 0,
            sessions: Sessions::default(),
            shared,
            reader,
            records_max: RECORDS_MAX,
            stop: StopToken::new(),
        };
        applier.load(records)?;
        Ok(applier)
    }

    fn told_time(&self) {
        // Relaxed: see the driver.
        self.shared.time.store(self.time, Ordering::Relaxed);
    }

    fn load(&mut self, records: Vec<(Bytes, Bytes)>) -> Result<(), MachineError> {
        let bad = |e| MachineError::new("reading the runtime's records", e);
        self.sessions = Sessions::default();
        for (key, value) in records {
            if *key == *APPLIED {
                let mut d = Decoder::new(value);
                self.applied = d.snapshot_meta().map_err(bad)?;
                self.time = d.u64("a time").map_err(bad)?;
            } else {
                self.sessions.load(&key, &value).map_err(bad)?;
            }
        }
        self.told_time();
        Ok(())
    }

    pub(super) fn durable(&self) -> Index {
        self.machine.durable()
    }

    pub(super) fn machine(&self) -> &dyn StateMachine {
        &*self.machine
    }

    pub(super) fn run(
        mut self,
        jobs: &Receiver<Job>,
        snapshots: &Sender<prepare::Job>,
        stop: &StopToken,
    ) {
        self.stop = stop.clone();
        for job in jobs {
            let ended = match job {
                Job::Apply {
                    to,
                    entries,
                    waiting,
                } => self.apply(to, entries, waiting),
                Job::Install {
                    arrived,
                    meta,
                    done,
                } => self.install(arrived, meta).map(|()| {
                    let _ = done.send(());
                }),
                Job::Snapshot(purpose) => {
                    let order = prepare::Job {
                        taken: self.machine.snapshot(),
                        applied: self.applied.clone(),
                        purpose,
                    };
                    if let Err(SendError(order)) = snapshots.send(order) {
                        // PR2. A promise that nobody keeps is answered by itself.
                        tracing::error!("the thread that prepares snapshots has ended");
                        if let Purpose::Offer { to, .. } = order.purpose {
                            self.shared.report(Event::SnapshotSent { to, last: None });
                        }
                    }
                    Ok(())
                }
                Job::Report => {
                    self.report(Vec::new());
                    Ok(())
                }
            };
            if let Err(error) = ended {
                if error.is_full() && self.stop.is_stopped() {
                    break;
                }
                tracing::error!(%error, "the state machine can't go on");
                self.shared.report(Event::Failed(error.to_string()));
                break;
            }
        }
        if let Err(error) = self.machine.close() {
            tracing::warn!(%error, "closing the state machine");
        }
    }

    fn apply(
        &mut self,
        to: Index,
        entries: Option<Vec<Entry>>,
        waiting: Vec<Waiting>,
    ) -> Result<(), MachineError> {
        let mut waiting = waiting.into_iter().peekable();
        let mut at_hand = entries;
        let mut started = Vec::new();
        while self.applied.last.index < to {
            let from = self.applied.last.index.next();
            let entries = match at_hand.take() {
                Some(entries) => entries,
                None => (self.reader.entries(from, to, READ_BYTES))
                    .map_err(|e| MachineError::new("reading committed entries", e))?,
            };
            if entries.first().map(|e| e.id.index) != Some(from) {
                let why = format!("the log does not hold entry {from}, which is committed");
                return Err(MachineError::new("reading committed entries", why));
            }
            let mut records = Vec::new();
            let mut told = Vec::new();
            let mut entries = entries.into_iter();
            let (mut record_bytes, mut full) = (0, false);
            while !full && let Some(entry) = entries.next() {
                let before = records.len();
                let id = entry.id;
                if id.index != self.applied.last.index.next() {
                    let why = format!("entry {} stands behind {}", id, self.applied.last);
                    return Err(MachineError::new("applying entries", why));
                }
                let outcome = self.one(entry, &mut records)?;
                record_bytes += records[before..].iter().map(bytes_of).sum::<usize>();
                full = records.len() >= self.records_max
                    || record_bytes + self.machine.pending_bytes() >= COMMIT_BYTES_MAX;
                self.applied.last = id;
                while let Some(next) = waiting.next_if(|w| w.id.index <= id.index) {
                    let outcome = match (next.id == id, next.id.index == id.index) {
                        (true, _) => outcome.clone(),
                        (false, true) => Err(ProposeError::NotAppended {
                            why: "another leader's entry took its place".into(),
                            leader: self.shared.hint(),
                        }),
                        (false, false) => Err(ProposeError::Unknown {
                            why: "what stands in its place was not seen here".into(),
                            leader: self.shared.hint(),
                        }),
                    };
                    started.push(next.started);
                    told.push((next.replier, outcome));
                }
            }
            at_hand = Some(entries.collect::<Vec<_>>()).filter(|rest| !rest.is_empty());
            let mut applied = Vec::new();
            put_snapshot_meta(&mut applied, &self.applied);
            applied.extend_from_slice(&self.time.to_le_bytes());
            records.push((Bytes::from_static(APPLIED), Some(applied.into())));
            self.commit(records)?;
            // The last first: who waits for several in their order is woken once, when it has them all, and not for one after the other.
            for (replier, outcome) in told.into_iter().rev() {
                replier.tell(&self.shared, outcome);
            }
        }
        self.report(started);
        Ok(())
    }

    /// AP4.
    fn commit(&mut self, records: Vec<Record>) -> Result<(), MachineError> {
        let mut done = self.machine.commit(self.applied.last.index, records);
        while let Err(error) = &done
            && error.is_full()
        {
            // Relaxed: for the status.
            if !self.shared.state_full.swap(true, Ordering::Relaxed) {
                tracing::warn!(%error, "no room for the state; what is committed waits");
            }
            if self.stop.sleep(FULL_RETRY) {
                return done;
            }
            done = self.machine.commit_again();
        }
        self.shared.state_full.store(false, Ordering::Relaxed);
        self.shared.commit_ended();
        done
    }

    fn report(&self, started: Vec<Instant>) {
        proposals::record(&self.shared.stages.applied, started);
        self.shared.report(Event::Applied {
            to: self.applied.last,
            durable: self.machine.durable(),
        });
    }

    /// Applies one entry. An error of the machine ends everything.
    fn one(&mut self, entry: Entry, records: &mut Vec<Record>) -> Result<Outcome, MachineError> {
        let index = entry.id.index;
        let term = entry.id.term;
        let empty = Reply {
            index,
            term,
            payload: Bytes::new(),
        };
        let payload = match entry.kind {
            EntryKind::Noop => return Ok(Ok(empty)),
            EntryKind::Membership(membership) => {
                self.applied.membership = *membership;
                return Ok(Ok(empty));
            }
            EntryKind::Command(payload) => payload,
        };
        let mut request = Request::decode(payload)
            .map_err(|e| MachineError::new("decoding a command of the log", e))?;
        if request.time > self.time {
            self.time = request.time;
            self.sessions.expire(self.time, records);
            self.told_time();
            self.machine.time(entry.id, self.time)?;
        }
        Ok(match request.kind {
            Kind::Time => Ok(empty),
            Kind::Open => self.sessions.open(index, self.time, &request, records),
            Kind::Close => self.sessions.close(index, request.session, records),
            Kind::Command => match self.sessions.before(self.time, &request, records) {
                Verdict::Answer(outcome) => outcome,
                Verdict::Execute => {
                    let payload = self.machine.apply(Command {
                        index,
                        term,
                        time: self.time,
                        payload: std::mem::take(&mut request.payload),
                    })?;
                    (self.sessions).after(index, &request, &payload, records);
                    Ok(Reply {
                        index,
                        term,
                        payload,
                    })
                }
            },
        })
    }

    fn install(
        &mut self,
        arrived: Box<dyn Arriving>,
        meta: SnapshotMeta,
    ) -> Result<(), MachineError> {
        self.machine.install(arrived, &meta)?;
        self.applied = SnapshotMeta::default();
        let records = self.machine.records()?;
        self.load(records)?;
        if self.applied.last < meta.last {
            let why = format!(
                "it stands for {}, and holds {}",
                meta.last, self.applied.last
            );
            return Err(MachineError::new("installing a snapshot", why));
        }
        self.report(Vec::new());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::{MemoryMachine, SnapshotSource, Staging};
    use super::*;
    use crate::core::Term;
    use crate::log::LogError;
    use crate::transport::Sender as Me;
    use esker_sync::oneshot::oneshot;
    use parking_lot::Mutex;

    /// Counts the records of each commit.
    struct Counting(MemoryMachine, Arc<Mutex<Vec<(Index, usize)>>>);

    impl StateMachine for Counting {
        fn records(&mut self) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
            self.0.records()
        }
        fn apply(&mut self, command: Command) -> Result<Bytes, MachineError> {
            self.0.apply(command)
        }
        fn commit(&mut self, applied: Index, records: Vec<Record>) -> Result<(), MachineError> {
            self.1.lock().push((applied, records.len()));
            self.0.commit(applied, records)
        }
        fn durable(&self) -> Index {
            self.0.durable()
        }
        fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
            self.0.snapshot()
        }
        fn staging(&self) -> Arc<dyn Staging> {
            self.0.staging()
        }
        fn install(&mut self, a: Box<dyn Arriving>, m: &SnapshotMeta) -> Result<(), MachineError> {
            self.0.install(a, m)
        }
    }

    struct NoLog;

    impl LogReader for NoLog {
        fn entries(&self, _: Index, _: Index, _: usize) -> Result<Vec<Entry>, LogError> {
            Ok(Vec::new())
        }
        fn syncs(&self) -> u64 {
            0
        }
    }

    fn entry(index: u64, request: &Request) -> Entry {
        let id = LogId {
            term: Term(1),
            index: Index(index),
        };
        let kind = EntryKind::Command(request.encode().into());
        Entry { id, kind }
    }

    fn applier(machine: impl StateMachine) -> Applier {
        let (events, _seen) = crossbeam_channel::unbounded();
        let (requests, _asked) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared::new(
            Me::default(),
            events,
            requests,
            Arc::new(NoLog),
        ));
        let first = SnapshotMeta::default();
        Applier::new(Box::new(machine), shared, Arc::new(NoLog), &first).unwrap()
    }

    /// AP3: whatever stands in its place was not seen where a snapshot covers it: it may be the proposal.
    #[test]
    fn of_a_proposal_below_what_is_applied_nothing_is_known() {
        let mut applier = applier(MemoryMachine::new());
        applier.applied.last = LogId {
            term: Term(2),
            index: Index(10),
        };
        let waiting = |term, index| {
            let (promise, pending) = oneshot();
            let waiting = Waiting {
                id: LogId {
                    term: Term(term),
                    index: Index(index),
                },
                replier: Replier::Local(promise),
                started: Instant::now(),
            };
            (waiting, pending)
        };
        let ((below, covered), (there, superseded)) = (waiting(1, 5), waiting(1, 11));
        let mut next = entry(11, &Request::plain(Kind::Time, Bytes::new()));
        next.id.term = Term(2);
        applier
            .apply(Index(11), Some(vec![next]), vec![below, there])
            .unwrap();
        let covered = covered.wait(None).unwrap();
        assert!(matches!(covered, Err(ProposeError::Unknown { .. })));
        let superseded = superseded.wait(None).unwrap();
        assert!(matches!(superseded, Err(ProposeError::NotAppended { .. })));
    }

    /// AP2: a store has room for so many operations at one index.
    #[test]
    fn a_commit_has_a_bounded_number_of_records() {
        let commits = Arc::default();
        let mut applier = applier(Counting(MemoryMachine::new(), Arc::clone(&commits)));
        applier.records_max = 5;
        let ttl = Bytes::copy_from_slice(&1_000_000u64.to_le_bytes());
        let open = Request::plain(Kind::Open, ttl);
        let entries = (1..=17).map(|i| entry(i, &open)).collect();
        applier.apply(Index(17), Some(entries), Vec::new()).unwrap();
        // A session each, and what is applied.
        let places = [(5, 6), (10, 6), (15, 6), (17, 3)].map(|(at, n)| (Index(at), n));
        assert_eq!(*commits.lock(), places);
    }

    /// Each command writes 1 MiB. The bytes of each commit.
    #[derive(Default)]
    struct Widening {
        inner: MemoryMachine,
        pending: usize,
        commits: Arc<Mutex<Vec<usize>>>,
    }

    impl StateMachine for Widening {
        fn records(&mut self) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
            self.inner.records()
        }
        fn apply(&mut self, command: Command) -> Result<Bytes, MachineError> {
            self.pending += 1 << 20;
            self.inner.apply(command)
        }
        fn pending_bytes(&self) -> usize {
            self.pending
        }
        fn commit(&mut self, applied: Index, records: Vec<Record>) -> Result<(), MachineError> {
            let bytes = std::mem::take(&mut self.pending);
            self.commits.lock().push(bytes);
            self.inner.commit(applied, records)
        }
        fn durable(&self) -> Index {
            self.inner.durable()
        }
        fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
            self.inner.snapshot()
        }
        fn staging(&self) -> Arc<dyn Staging> {
            self.inner.staging()
        }
        fn install(&mut self, a: Box<dyn Arriving>, m: &SnapshotMeta) -> Result<(), MachineError> {
            self.inner.install(a, m)
        }
    }

    /// AP2.
    #[test]
    fn a_commit_has_a_bounded_number_of_bytes() {
        let machine = Widening::default();
        let commits = machine.commits.clone();
        let mut applier = applier(machine);
        let command = Request::plain(Kind::Command, Bytes::from_static(b"0123456789"));
        let entries = (1..=1000).map(|i| entry(i, &command)).collect();
        applier
            .apply(Index(1000), Some(entries), Vec::new())
            .unwrap();
        let commits = commits.lock();
        assert_eq!(commits.iter().sum::<usize>(), 1000 << 20);
        let most = *commits.iter().max().unwrap();
        assert!(most < COMMIT_BYTES_MAX + (1 << 20), "{most} bytes");
    }

    /// AP2: replies that are kept for sessions count too.
    #[test]
    fn a_commit_has_a_bounded_number_of_bytes_of_records() {
        let commits = Arc::default();
        let machine = MemoryMachine::new();
        let mut applier = applier(Counting(machine, Arc::clone(&commits)));
        let ttl = Bytes::copy_from_slice(&1_000_000u64.to_le_bytes());
        let mut entries = vec![entry(1, &Request::plain(Kind::Open, ttl))];
        let large = Bytes::from([&b"a="[..], &[0; 60_000]].concat());
        entries.extend((2..=2000).map(|index| {
            let mut request = Request::plain(Kind::Command, large.clone());
            (request.session, request.serial, request.floor) = (1, index - 1, index - 1);
            entry(index, &request)
        }));
        applier
            .apply(Index(2000), Some(entries), Vec::new())
            .unwrap();
        let (mut before, mut most) = (Index(0), 0);
        for (at, _) in commits.lock().iter() {
            most = most.max(at.0 - before.0);
            before = *at;
        }
        // The first two write little.
        assert!(most <= COMMIT_BYTES_MAX as u64 / 60_000 + 3, "{most}");
    }
}
