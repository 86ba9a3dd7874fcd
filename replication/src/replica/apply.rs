//! The thread of a replica that appends and applies (`esker-repl-app`).
//!
//! - AP1: a frame is appended at its LSN, after the log has checked LSN, epoch and checksum, then
//!   applied; none is skipped and none comes twice (R1, R2).
//! - AP2: a frame that was appended is applied before the next is appended; where the store has no room,
//!   it waits, and only the applying is tried again.

use super::Shared;
use super::inbox::{Failure, Job};
use crate::protocol::{self, FrameIter, Message, WireFrameRef};
use esker_lsm::{Store, StoreError};
use esker_wal::{Create, LogError, LogId, Lsn, OpenRole, SyncPolicy, WireFrame};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a lack of room is looked at again.
const ROOM_TICK: Duration = Duration::from_millis(50);

pub(super) fn run(shared: &Arc<Shared>) {
    while let Some(job) = shared.inbox.next() {
        let done = match job {
            Job::Create(log) => create(shared, log),
            Job::Frames(message) => match shared.store() {
                Some(store) => frames(shared, &store, &message),
                None => Err(passing("frames came before the store was there".into())),
            },
        };
        if let Err(failure) = done {
            tracing::warn!(fatal = failure.fatal, "replication stops: {}", failure.why);
            shared.inbox.fail(failure);
        }
        shared.waker.ring();
    }
}

fn fatal(why: String) -> Failure {
    Failure { fatal: true, why }
}

fn passing(why: String) -> Failure {
    Failure { fatal: false, why }
}

fn create(shared: &Arc<Shared>, log: LogId) -> Result<(), Failure> {
    let create = Create {
        log,
        node: shared.options.data.node(),
        base: Lsn::ZERO,
    };
    shared
        .open_store(Some(create))
        .map_err(|error| fatal(format!("the store could not be made: {error}")))
}

/// Opens the store as a follower; makes it where `create` says how.
pub(super) fn open_follower(
    options: &crate::ReplicaOptions,
    create: Option<Create>,
) -> Result<(Store, esker_lsm::StoreRecovered), esker_lsm::OpenError> {
    let mut store = options.store.clone();
    store.log.role = OpenRole::Follower;
    store.log.expect_log = create.as_ref().map(|c| c.log);
    store.log.create = create;
    Store::open(options.data.path(), store)
}

fn frames(shared: &Shared, store: &Store, message: &[u8]) -> Result<(), Failure> {
    let Ok((_, Message::Frames { first, frames, .. })) = protocol::decode(message) else {
        return Err(passing("a message changed between two looks at it".into()));
    };
    let log = store.log();
    for frame in FrameIter::new(first, frames) {
        let frame = frame.map_err(|error| {
            passing(format!(
                "the primary sent frames that can't be read: {error}"
            ))
        })?;
        append(shared, log, &frame)?;
        apply(shared, store, &frame)?;
        shared
            .applied
            .store(frame.header.end().0, Ordering::Release);
    }
    let sync_now = shared.sync_now.load(Ordering::Relaxed)
        || shared.options.store.log.sync_policy == SyncPolicy::Always;
    if sync_now {
        log.request_sync(log.published());
    }
    Ok(())
}

fn append(shared: &Shared, log: &esker_wal::Log, frame: &WireFrameRef<'_>) -> Result<(), Failure> {
    let mut waited = false;
    loop {
        let wire = WireFrame {
            header: frame.header,
            payload: frame.payload,
        };
        let error = match log.append_replicated(wire) {
            Ok(_) if waited => {
                shared.held_up(None);
                return Ok(());
            }
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        match error {
            LogError::Busy | LogError::NoSpace { .. } => {
                waited = true;
                shared.held_up(Some(&error.to_string()));
                if !shared.inbox.pause(ROOM_TICK) {
                    return Err(passing("closed while waiting for room".into()));
                }
            }
            LogError::NotNext { .. } | LogError::Corrupt { .. } => {
                return Err(passing(format!(
                    "a frame of the primary was not taken: {error}"
                )));
            }
            error => return Err(fatal(error.to_string())),
        }
    }
}

fn apply(shared: &Shared, store: &Store, frame: &WireFrameRef<'_>) -> Result<(), Failure> {
    let mut waited = false;
    loop {
        match store.apply_replicated(&frame.header, frame.payload) {
            Ok(()) => {
                if waited {
                    shared.held_up(None);
                }
                return Ok(());
            }
            Err(StoreError::Busy) => {
                waited = true;
                shared.held_up(Some("the store has no room; waiting for a flush"));
                if !shared.inbox.pause(ROOM_TICK) {
                    return Err(fatal("closed while waiting for room".into()));
                }
            }
            Err(error) => return Err(fatal(error.to_string())),
        }
    }
}
