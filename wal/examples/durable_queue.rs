//! A durable queue on the log alone: many producers, a consumer that acknowledges, and room that is used again.
//!
//! A job is a frame. A push that was waited for survives power loss. The consumer's place is a slot of the log: whatever it has not
//! acknowledged is held and, after a crash, delivered again. A slot that moved reaches the disk within a second and at close, so
//! a crash may bring back jobs that were acknowledged just before it: at least once, never lost.
//!
//! `cargo run -p esker-wal --example durable_queue -- DIR`
#![allow(clippy::print_stdout, reason = "a program that tells what it did")]

use esker_wal::{Create, Kind, Log, LogError, LogId, LogOptions, Lsn, NodeId, ReadLimit, Reader};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SLOT: &str = "consumer";

/// The queue. Clones are handles to one queue.
#[derive(Clone)]
struct Queue {
    log: Log,
}

impl Queue {
    fn open(dir: &Path, options: LogOptions) -> Result<Queue, Box<dyn std::error::Error>> {
        let create = Create {
            log: LogId::random(),
            node: NodeId::random(),
            base: Lsn::ZERO,
        };
        let options = LogOptions {
            create: Some(create),
            ..options
        };
        let (log, _) = Log::open(dir, options)?;
        if log.slots().iter().all(|slot| slot.name != SLOT) {
            // From now on nothing is let go that was not acknowledged.
            log.set_slot(SLOT, log.oldest())?;
        }
        Ok(Queue { log })
    }

    /// On return the job survives power loss. Those who push at the same time share a sync.
    fn push(&self, job: &[u8]) -> Result<Lsn, LogError> {
        let appended = self.log.append(&[job])?;
        self.log.sync_up_to(appended.end)?;
        Ok(appended.lsn)
    }

    /// Takes up where the last one's acknowledgements ended. One at a time.
    fn consumer(&self) -> Result<Consumer, LogError> {
        let slots = self.log.slots();
        let slot = slots.iter().find(|slot| slot.name == SLOT);
        let from = slot.map_or(self.log.oldest(), |slot| slot.position);
        Ok(Consumer {
            // Only what is synced: a job that was handed out can't be taken back by a power cut.
            reader: self.log.reader(from, ReadLimit::Synced)?,
            log: self.log.clone(),
        })
    }
}

/// A job handed out.
struct Delivery {
    job: Vec<u8>,
    end: Lsn,
}

struct Consumer {
    reader: Reader,
    log: Log,
}

impl Consumer {
    /// The next job; waits for one, `None` at the timeout.
    fn next(&mut self, timeout: Duration) -> Result<Option<Delivery>, LogError> {
        while let Some(frame) = self.reader.next_wait(Some(timeout))? {
            // The log's own frames are not jobs.
            if frame.header.kind == Kind::Data {
                return Ok(Some(Delivery {
                    job: frame.payload.to_vec(),
                    end: frame.header.end(),
                }));
            }
        }
        Ok(None)
    }

    /// This job, and all before it, are done: their room may be used again.
    fn acknowledge(&self, delivery: &Delivery) -> Result<(), LogError> {
        self.log.set_slot(SLOT, delivery.end)?;
        self.log.release(delivery.end);
        Ok(())
    }
}

/// Does at most `most` jobs; each must be among those that are pending.
fn consume(
    queue: &Queue,
    most: usize,
    pending: &mut Vec<String>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut consumer = queue.consumer()?;
    let mut done = 0;
    while done < most
        && let Some(delivery) = consumer.next(Duration::from_millis(50))?
    {
        let at = pending
            .iter()
            .position(|job| job.as_bytes() == delivery.job);
        pending.swap_remove(at.ok_or("a job came twice, without a crash")?);
        consumer.acknowledge(&delivery)?;
        done += 1;
    }
    let (left, oldest) = (pending.len(), queue.log.oldest());
    println!("did {done} jobs, {left} to do; the log begins at {oldest}");
    Ok(())
}

/// Pushes from four threads, consumes half, opens the queue again, consumes the rest.
fn demo(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    const EACH: u32 = 500;
    let options = || LogOptions {
        segment_bytes: 64 << 10,
        ..LogOptions::default()
    };
    let mut pending: Vec<String> = Vec::new();
    let queue = Queue::open(dir, options())?;
    std::thread::scope(|scope| {
        let producers: Vec<_> = (0..4)
            .map(|thread| {
                let queue = queue.clone();
                scope.spawn(move || {
                    (0..EACH)
                        .try_for_each(|n| queue.push(format!("{thread}:{n}").as_bytes()).map(drop))
                })
            })
            .collect();
        producers
            .into_iter()
            .try_for_each(|producer| producer.join().expect("a producer"))
    })?;
    for thread in 0..4 {
        pending.extend((0..EACH).map(|n| format!("{thread}:{n}")));
    }
    println!("pushed {} jobs", pending.len());

    consume(&queue, pending.len() / 2, &mut pending)?;
    queue.log.close()?;
    let queue = Queue::open(dir, options())?;
    consume(&queue, usize::MAX, &mut pending)?;
    queue.log.close()?;
    if !pending.is_empty() {
        return Err(format!("lost: {pending:?}").into());
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("target/durable-queue"), PathBuf::from);
    demo(&dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use esker_wal::media::sim::SimMedia;
    use std::sync::Arc;

    #[test]
    fn the_demo_does_every_job_once_and_the_log_gives_its_room_back() {
        let dir = tempfile::tempdir().expect("a directory");
        demo(dir.path()).expect("the demo");
        let queue = Queue::open(
            dir.path(),
            LogOptions {
                segment_bytes: 64 << 10,
                ..LogOptions::default()
            },
        )
        .expect("it opens");
        assert!(queue.log.oldest() > Lsn::ZERO, "nothing was let go");
    }

    /// The power goes after some pushes and acknowledgements: what was pushed and not acknowledged comes (again).
    #[test]
    fn no_job_is_lost_by_a_power_cut() {
        for seed in 0..20 {
            let media = SimMedia::new(seed);
            let options = || LogOptions {
                segment_bytes: 16 << 10,
                media: Arc::new(media.clone()),
                ..LogOptions::default()
            };
            let dir = Path::new("queue");
            let queue = Queue::open(dir, options()).expect("it opens");
            for n in 0..200_u32 {
                queue.push(&n.to_le_bytes()).expect("a push");
            }
            let mut consumer = queue.consumer().expect("a consumer");
            let acknowledged = 10 * seed as u32;
            for n in 0..acknowledged {
                let delivery = consumer
                    .next(Duration::from_secs(10))
                    .expect("a read")
                    .expect("a job");
                assert_eq!(delivery.job, n.to_le_bytes());
                consumer.acknowledge(&delivery).expect("acknowledged");
            }
            media.power_cut(seed);
            drop((consumer, queue));

            let queue = Queue::open(dir, options()).expect("it opens again");
            let mut consumer = queue.consumer().expect("a consumer");
            let mut next = None;
            while let Some(delivery) = consumer.next(Duration::ZERO).expect("a read") {
                let n = u32::from_le_bytes(delivery.job.try_into().expect("four bytes"));
                assert!(
                    next.map_or(n <= acknowledged, |next| n == next),
                    "seed {seed}: {n} after {next:?}"
                );
                next = Some(n + 1);
            }
            assert!(next == Some(200), "seed {seed}: ended at {next:?}");
        }
    }
}
