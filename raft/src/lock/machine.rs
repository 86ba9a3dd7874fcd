//! Locks beside an application, in one state machine on the store.

use super::command::{
    GUARDED, GuardAnswer, LOCK, LockAnswer, LockCommand, RESERVED, Refusal, take_guards,
};
use super::state::{Changes, LockEvent, LockInfo, Locks, WaiterInfo};
use crate::core::Term;
use crate::machine::{Application, Effects};
use crate::runtime::{Command, MachineError};
use crate::sabotage::{self, Sabotage};
use bytes::Bytes;
use esker_sync::events::{EventBus, Subscription};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Records taken from the store at once.
const LOAD_KEYS: usize = 4096;
/// Waiters that an inspection names, at most.
const WAITERS_SHOWN: usize = 100;

#[derive(Debug)]
struct Shared {
    /// Taken for a moment, nothing else under it.
    locks: Mutex<Locks>,
    /// Replicated time, and by this process's clock when it came.
    time: Mutex<(u64, Instant)>,
    /// The first deadline.
    due: AtomicU64,
    events: EventBus<LockEvent>,
}

/// What a node knows of the locks: as of what it has applied. Clones are the same.
#[derive(Clone, Debug)]
pub struct LockView(Arc<Shared>);

impl LockView {
    /// What happens from now on, with room for `capacity` events that are not taken yet; of one lock or of all.
    #[must_use]
    pub fn watch(&self, name: Option<Bytes>, capacity: usize) -> Subscription<LockEvent> {
        self.watch_if(capacity, move |event| {
            let about = (event.name(), &name);
            !matches!(about, (Some(about), Some(name)) if about != name)
        })
    }

    pub(super) fn watch_if(
        &self,
        capacity: usize,
        filter: impl Fn(&LockEvent) -> bool + Send + Sync + 'static,
    ) -> Subscription<LockEvent> {
        self.0.events.subscribe(capacity, filter)
    }

    /// Replicated time as it would be if a command came now: for what is shown. Nothing in the log goes by it.
    fn now(&self) -> u64 {
        let (time, at) = *self.0.time.lock();
        time.saturating_add(u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// A lock, and the first who wait for it; `None`: nobody holds it.
    #[must_use]
    pub fn inspect(&self, name: &[u8]) -> Option<(LockInfo, Vec<WaiterInfo>)> {
        let now = self.now();
        self.0.locks.lock().inspect(name, now, WAITERS_SHOWN)
    }

    /// Locks behind `after` (empty: from the first), in the order of their names, `limit` of them.
    #[must_use]
    pub fn list(&self, after: &[u8], limit: usize) -> Vec<LockInfo> {
        let now = self.now();
        self.0.locks.lock().list(after, now, limit)
    }

    /// The token that is current; 0: nobody holds the lock.
    #[must_use]
    pub fn current(&self, name: &[u8]) -> u64 {
        self.0.locks.lock().current(name)
    }

    /// Whether replicated time has to be moved for deadlines to pass: one is due by now, or locks are held and the term of this leader has
    /// no time yet (K6).
    pub(super) fn wants_time(&self, term: Term) -> bool {
        // Relaxed: looked at again soon.
        let due = self.0.due.load(Ordering::Relaxed);
        if due == u64::MAX {
            return false;
        }
        due <= self.now() || self.0.locks.lock().term() < term
    }
}

/// An application with locks: its commands begin with bytes below `0xF0`.
#[derive(Debug)]
pub struct Locked<A> {
    app: A,
    shared: Arc<Shared>,
    /// Of the last command.
    term: Term,
    due: u64,
}

impl<A> Locked<A> {
    /// With locks beside it, and the view of them.
    pub fn new(app: A) -> (Locked<A>, LockView) {
        let shared = Arc::new(Shared {
            locks: Mutex::default(),
            time: Mutex::new((0, Instant::now())),
            due: AtomicU64::new(u64::MAX),
            events: EventBus::new(),
        });
        let view = LockView(shared.clone());
        let locked = Locked {
            app,
            shared,
            term: Term(0),
            due: u64::MAX,
        };
        (locked, view)
    }

    /// Changes the locks, writes what changed, tells who watches. What is told is in the log of a majority, so it need not wait for the
    /// commit of the store.
    fn change<R>(
        &mut self,
        state: &mut Effects<'_>,
        run: impl FnOnce(&mut Locks, &mut Changes) -> R,
    ) -> R {
        let mut changes = Changes::default();
        let result = {
            let mut locks = self.shared.locks.lock();
            let result = run(&mut locks, &mut changes);
            (self.term, self.due) = (locks.term(), locks.next_due());
            result
        };
        self.shared.due.store(self.due, Ordering::Relaxed);
        for (key, value) in changes.records {
            match value {
                Some(value) => state.put_lock(&key, &value),
                None => state.delete_lock(&key),
            }
        }
        for event in &changes.events {
            self.shared.events.publish(event);
        }
        result
    }

    fn advance(&mut self, term: Term, time: u64, state: &mut Effects<'_>) {
        *self.shared.time.lock() = (time, Instant::now());
        // Nobody waits for a deadline or a term that changes nothing.
        if term > self.term || time >= self.due {
            self.change(state, |locks, out| locks.advance(term, time, out));
        }
    }
}

impl<A: Application> Application for Locked<A> {
    fn apply(&mut self, command: Command, state: &mut Effects<'_>) -> Result<Bytes, MachineError> {
        let (term, time) = (command.term, command.time);
        self.advance(term, time, state);
        match command.payload.first() {
            Some(&LOCK) => {
                let answer = match LockCommand::decode(command.payload) {
                    Ok(command) => self.change(state, |locks, out| {
                        locks.advance(term, time, out);
                        locks.run(&command, out)
                    }),
                    Err(_) => LockAnswer::Refused(Refusal::Malformed),
                };
                Ok(answer.encode())
            }
            Some(&GUARDED) => {
                let Ok((guards, payload)) = take_guards(command.payload.clone()) else {
                    return Ok(GuardAnswer::NoCommand.encode());
                };
                if let Some((guard, current)) = self.shared.locks.lock().stale(&guards) {
                    return Ok(GuardAnswer::Stale { guard, current }.encode());
                }
                let answer = self.app.apply(Command { payload, ..command }, state)?;
                Ok(GuardAnswer::Passed(answer).encode())
            }
            Some(RESERVED..) => Ok(LockAnswer::Refused(Refusal::Malformed).encode()),
            _ => self.app.apply(command, state),
        }
    }

    fn time(&mut self, term: Term, time: u64, state: &mut Effects<'_>) -> Result<(), MachineError> {
        self.advance(term, time, state);
        self.app.time(term, time, state)
    }

    fn replaced(&mut self, state: &mut Effects<'_>) -> Result<(), MachineError> {
        let mut records = Vec::new();
        let mut from = Vec::new();
        loop {
            let part = state.scan_locks(&from, LOAD_KEYS)?;
            let whole = part.len() < LOAD_KEYS;
            if let Some((last, _)) = part.last() {
                from = [last, &[0][..]].concat();
            }
            records.extend(part);
            if whole {
                break;
            }
        }
        if sabotage::on(Sabotage::LocksNotLoaded) {
            records.clear();
        }
        let loaded = Locks::load(records).map_err(|e| MachineError::new("reading the locks", e))?;
        (self.term, self.due) = (loaded.term(), loaded.next_due());
        *self.shared.time.lock() = (loaded.time(), Instant::now());
        self.shared.due.store(self.due, Ordering::Relaxed);
        *self.shared.locks.lock() = loaded;
        self.shared.events.publish(&LockEvent::Replaced);
        self.app.replaced(state)
    }
}

/// How often a leader looks whether deadlines are due.
pub(super) const TIME_TICK: Duration = Duration::from_millis(10);
