//! What the thread of the socket hands to the one that applies.
//!
//! Bounded by credit: the socket's thread takes no frames beyond what it granted, and grants only as
//! frames are applied. So a store that is held up holds up the primary, not this process's memory (R2).

use esker_wal::LogId;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::time::Duration;

/// Work for the applier.
pub(super) enum Job {
    /// Make the store, under the primary's log identity.
    Create(LogId),
    /// A message of frames, as received.
    Frames(zmq::Message),
}

/// Why the applier could not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Whether only an operator can help.
    pub(super) fatal: bool,
    pub(super) why: String,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// The applier has a job in hand.
    busy: bool,
    /// Finish what is queued, then end.
    closed: bool,
    /// End without finishing.
    aborted: bool,
    failure: Option<Failure>,
}

/// The queue. One lock, held for a push or a pop.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
}

impl Inbox {
    /// Queues a job. Dropped once closed.
    pub(super) fn push(&self, job: Job) {
        let mut state = self.state.lock();
        if !state.closed {
            state.jobs.push_back(job);
            self.wake.notify_all();
        }
    }

    /// The next job; `None` once closed and empty, or aborted. Ends the one before.
    pub(super) fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        state.busy = false;
        loop {
            if state.aborted {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                state.busy = true;
                return Some(job);
            }
            if state.closed {
                return None;
            }
            self.wake.wait(&mut state);
        }
    }

    /// Whether nothing is queued or in hand.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.jobs.is_empty() && !state.busy
    }

    /// The job in hand failed: what is queued behind it is dropped.
    pub(super) fn fail(&self, failure: Failure) {
        let mut state = self.state.lock();
        state.jobs.clear();
        state.failure = Some(failure);
    }

    /// Takes the failure, unless it is fatal: that one stays.
    pub(super) fn failure(&self) -> Option<Failure> {
        let mut state = self.state.lock();
        match &state.failure {
            Some(failure) if failure.fatal => state.failure.clone(),
            _ => state.failure.take(),
        }
    }

    /// Drops what is queued; the job in hand goes on.
    pub(super) fn clear(&self) {
        self.state.lock().jobs.clear();
    }

    /// No more jobs; those queued are finished.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_all();
    }

    /// No more jobs; those queued are dropped, and the applier gives up waiting for room.
    pub(super) fn abort(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.aborted = true;
        state.jobs.clear();
        self.wake.notify_all();
    }

    /// Waits a while for room in log or store; false once aborted.
    pub(super) fn pause(&self, d: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.aborted {
            self.wake.wait_for(&mut state, d);
        }
        !state.aborted
    }
}
