//! The thread that prepares snapshots: what takes long before one can be sent (a flush, hashes of what is in it) waits for nobody but itself, and
//! nobody for it: commands are applied meanwhile, and peers served.
//!
//! - PR1: what a snapshot is said to stand for is what it holds: the record that it has of what was applied, not what was when it was ordered.
//! - PR2: each order is answered, done or not; at the end of the node too.
//! - PR3: what is hashed is hashed in a quarter of the time: it may come from the disk, that others sync their logs on.

use super::apply::{APPLIED, applied_of};
use super::files;
use super::machine::{MachineError, SnapshotSource};
use super::shared::{Event, Shared};
use crate::core::{Index, NodeId, SnapshotMeta, Term};
use crossbeam_channel::{Receiver, Sender};
use esker_sync::oneshot::Promise;
use esker_sync::stop::StopToken;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Behind each piece of work that can be put off, so many times as long as it took (PR3), and no longer than this.
const PAUSES: u32 = 3;
const PAUSE_MAX: Duration = Duration::from_millis(20);

pub(super) enum Purpose {
    /// It is sent to a peer, by the leader of a term.
    Offer { to: NodeId, term: Term },
    /// The log can be compacted then.
    Durable(Promise<Result<Index, String>>),
}

/// A snapshot to prepare.
pub(super) struct Job {
    pub(super) taken: Result<Box<dyn SnapshotSource>, MachineError>,
    /// When it was ordered.
    pub(super) applied: SnapshotMeta,
    pub(super) purpose: Purpose,
}

pub(super) fn run(
    jobs: &Receiver<Job>,
    files: &Sender<files::Job>,
    shared: &Shared,
    stop: &StopToken,
) {
    // PR2: to the last, and quickly once it is stopped.
    for job in jobs {
        let Job {
            taken,
            applied,
            purpose,
        } = job;
        let go_on = || !stop.is_stopped();
        let made = taken.and_then(|source| prepare(source, applied, &go_on));
        // More may be durable.
        shared.report(Event::Prepared);
        match purpose {
            Purpose::Offer { to, term } => {
                let made = made.and_then(|(mut source, meta)| {
                    let work = Cell::new(Instant::now());
                    source.look_through(&|| {
                        let pause = work.get().elapsed().saturating_mul(PAUSES).min(PAUSE_MAX);
                        let stopped = stop.sleep(pause);
                        work.set(Instant::now());
                        !stopped
                    })?;
                    Ok((source, meta))
                });
                let taken = made.map_err(|error| {
                    tracing::warn!(%error, %to, "no snapshot could be taken");
                });
                let taken = taken.ok();
                let _ = files.send(files::Job::Offer { to, term, taken });
            }
            Purpose::Durable(promise) => {
                let index = made.map(|(_, meta)| meta.last.index);
                promise.keep(index.map_err(|error| error.to_string()));
            }
        }
    }
}

/// A snapshot that can be sent, and what it stands for.
pub(super) type Prepared = (Box<dyn SnapshotSource>, SnapshotMeta);

/// PR1.
fn prepare(
    mut source: Box<dyn SnapshotSource>,
    applied: SnapshotMeta,
    go_on: &dyn Fn() -> bool,
) -> Result<Prepared, MachineError> {
    if !go_on() {
        return Err(MachineError::new(
            "taking a snapshot",
            "the node was stopped",
        ));
    }
    let meta = match source.prepare(APPLIED)? {
        Some(record) => applied_of(record)
            .map_err(|e| MachineError::new("reading a snapshot's record of what is applied", e))?,
        None => applied,
    };
    Ok((source, meta))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::put_snapshot_meta;
    use crate::core::{LogId, Membership};
    use crate::log::{LogStore, VolatileLog};
    use crate::transport::{Sender as Me, SnapshotFile};
    use bytes::Bytes;
    use crossbeam_channel::unbounded;
    use esker_sync::oneshot::oneshot;
    use std::io;

    const PIECES: u32 = 4;
    const PIECE: Duration = Duration::from_millis(2);

    /// It holds what was applied up to here, and is sent to somebody or not.
    struct Source(u64, bool);

    impl SnapshotSource for Source {
        fn prepare(&mut self, record: &[u8]) -> Result<Option<Bytes>, MachineError> {
            assert_eq!(record, APPLIED);
            let mut record = Vec::new();
            put_snapshot_meta(&mut record, &meta(self.0));
            // Replicated time stands behind it.
            record.extend_from_slice(&7u64.to_le_bytes());
            Ok(Some(record.into()))
        }
        fn look_through(&mut self, go_on: &dyn Fn() -> bool) -> Result<(), MachineError> {
            assert!(self.1, "read for nobody");
            for _ in 0..PIECES {
                std::thread::sleep(PIECE);
                if !go_on() {
                    return Err(MachineError::new("looking through it", "it was stopped"));
                }
            }
            Ok(())
        }
        fn files(&self) -> Vec<SnapshotFile> {
            Vec::new()
        }
        fn read(&mut self, _: usize, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn meta(index: u64) -> SnapshotMeta {
        let index = Index(index);
        SnapshotMeta {
            last: LogId {
                term: Term(2),
                index,
            },
            membership: Membership::default(),
        }
    }

    /// Ordered at 5: what came of it for a peer, and what was answered of another that was to be durable.
    fn ordered(holds: u64, stop: &StopToken) -> (Option<SnapshotMeta>, Result<Index, String>) {
        let (log, _) = VolatileLog::new(0);
        let (events, reported) = unbounded();
        let (requests, _asked) = unbounded();
        let shared = Shared::new(Me::default(), events, requests, log.reader());
        let (jobs, orders) = unbounded();
        let (offers, offered) = unbounded();
        let (promise, answer) = oneshot();
        let (to, term) = (NodeId(2), Term(2));
        for purpose in [Purpose::Offer { to, term }, Purpose::Durable(promise)] {
            let job = Job {
                taken: Ok(Box::new(Source(
                    holds,
                    matches!(purpose, Purpose::Offer { .. }),
                ))),
                applied: meta(5),
                purpose,
            };
            jobs.send(job).unwrap();
        }
        drop(jobs);
        run(&orders, &offers, &shared, stop);
        let told: Vec<Event> = reported.try_iter().collect();
        assert!(matches!(told[..], [Event::Prepared, Event::Prepared]));
        let Ok(files::Job::Offer { taken, .. }) = offered.try_recv() else {
            panic!("an order without an answer");
        };
        let answer = answer.wait(Some(std::time::Duration::ZERO));
        (taken.map(|(_, meta)| meta), answer.expect("answered"))
    }

    #[test]
    fn pr1_a_snapshot_stands_for_what_it_holds() {
        let (offered, durable) = ordered(8, &StopToken::new());
        assert_eq!((offered, durable), (Some(meta(8)), Ok(Index(8))));
    }

    #[test]
    fn pr3_hashing_has_a_quarter_of_the_time() {
        let began = Instant::now();
        let (offered, _) = ordered(8, &StopToken::new());
        assert_eq!(offered, Some(meta(8)));
        assert!(began.elapsed() >= PIECE * PIECES * 4);
    }

    #[test]
    fn pr2_orders_are_answered_at_the_end_too() {
        let stop = StopToken::new();
        stop.stop();
        let (offered, durable) = ordered(8, &stop);
        assert_eq!(offered, None);
        assert!(durable.unwrap_err().contains("the node was stopped"));
    }
}
