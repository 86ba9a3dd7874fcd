//! The storage thread: owns the log, writes and syncs it.
//!
//! - DK1 (C4): whatever has gathered while a sync ran is written and synced together, with one sync.
//! - DK2: a full disk is waited out; what is to be written stays in line. Any other error ends the log (W6), and with it the node.
//! - DK3: a snapshot's write waits until the state machine has installed it: after a crash between the two the machine is ahead of the
//!   log, never behind it.

use super::shared::{Event, Shared};
use crate::core::{SnapshotMeta, Write};
use crate::log::{LogError, LogStore};
use crossbeam_channel::Receiver;
use esker_sync::stop::StopToken;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pause before a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(50);
/// Writes taken together at most.
const GROUP_MAX: usize = 4096;

pub(super) enum Job {
    Write {
        seq: u64,
        writes: Vec<Write>,
        /// DK3.
        after: Option<Receiver<()>>,
    },
    Compact(SnapshotMeta),
}

/// Retries while there is no room.
fn with_room(
    shared: &Shared,
    stop: &StopToken,
    mut write: impl FnMut() -> Result<(), LogError>,
) -> Result<(), LogError> {
    loop {
        match write() {
            Err(LogError::Full(why)) => {
                if !shared.disk_full.swap(true, Ordering::Relaxed) {
                    tracing::warn!(why, "no room for the Raft log; writes wait");
                }
                if stop.sleep(FULL_RETRY) {
                    return Err(LogError::Closed);
                }
            }
            result => {
                shared.disk_full.store(false, Ordering::Relaxed);
                return result;
            }
        }
    }
}

pub(super) fn run(
    mut log: Box<dyn LogStore>,
    jobs: &Receiver<Job>,
    shared: &Arc<Shared>,
    stop: &StopToken,
) {
    while let Ok(first) = jobs.recv() {
        let mut last = 0;
        let group = std::iter::once(first).chain(jobs.try_iter().take(GROUP_MAX));
        let done = || -> Result<(), LogError> {
            for job in group {
                match job {
                    Job::Write { seq, writes, after } => {
                        // The sender is dropped unsent where the install failed, which ends the node.
                        if after.is_some_and(|after| after.recv().is_err()) {
                            return Err(LogError::Closed);
                        }
                        with_room(shared, stop, || log.write(&writes))?;
                        last = seq;
                    }
                    Job::Compact(meta) => with_room(shared, stop, || log.compact(&meta))?,
                }
            }
            match last {
                0 => Ok(()),
                _ => with_room(shared, stop, || log.sync()),
            }
        };
        match done() {
            Ok(()) if last > 0 => {
                // Relaxed: a count.
                shared.groups.fetch_add(1, Ordering::Relaxed);
                shared.report(Event::Synced(last));
            }
            Ok(()) => {}
            Err(LogError::Closed) if stop.is_stopped() => break,
            Err(error) => {
                shared.report(Event::Failed(error.to_string()));
                break;
            }
        }
    }
    if let Err(error) = log.close() {
        tracing::warn!(%error, "closing the Raft log");
    }
}
