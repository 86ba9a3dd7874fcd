//! Esker's log.

use crate::rival::{Engine, Failure, LogRival, Mode, Plan, locked};
use esker_wal::{Create, Log, LogId, LogOptions, Lsn, NodeId, ReadLimit, SyncPolicy, frame};
use hdrhistogram::Histogram;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A step at which the log is told that what lies before is no longer needed, as a user's checkpoints would.
const RELEASE: u64 = 1 << 20;

struct Esker {
    log: Log,
    ahead: u64,
    burst: bool,
}

impl LogRival for Esker {
    fn append_synced(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        let appended = self.log.append(&[payload])?;
        self.log.sync_up_to(appended.end)?;
        if self.log.synced() < appended.end {
            return Err("an append returned before it was synced".into());
        }
        if appended.lsn.0 / RELEASE != appended.end.0 / RELEASE {
            self.log.release(appended.lsn);
        }
        Ok(())
    }

    fn append_buffered(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        self.log.append(&[payload])?;
        Ok(())
    }

    fn sync(&self) -> Result<(), Failure> {
        self.log.sync_up_to(self.log.published())?;
        Ok(())
    }

    fn trim(&self) -> Result<(), Failure> {
        self.log.release(self.log.synced());
        if self.burst {
            self.wait_for_spares()?;
        }
        Ok(())
    }

    fn unsynced(&self) -> Option<u64> {
        let synced = self.log.synced();
        Some(self.log.reserved().0.saturating_sub(synced.0))
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        self.log.close()?;
        Ok(())
    }
}

impl Esker {
    /// The spares are made before the clock runs, as a prewritten file is.
    fn wait_for_spares(&self) -> Result<(), Failure> {
        let began = Instant::now();
        while self.log.stats().segments_ready < self.ahead {
            if began.elapsed() > Duration::from_secs(60) {
                return Err(
                    format!("{:?}: no {} segments ready", self.log.stats(), self.ahead).into(),
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

fn options(plan: &Plan) -> LogOptions {
    let create = Create {
        log: LogId::random(),
        node: NodeId::random(),
        base: Lsn::default(),
    };
    let defaults = LogOptions::default();
    let turn = plan.total / plan.bytes as u64 * frame::frame_len(plan.bytes) as u64;
    let burst = plan.mode == Mode::Burst;
    LogOptions {
        create: Some(create),
        sync_policy: if plan.mode == Mode::Synced {
            SyncPolicy::Always
        } else {
            SyncPolicy::Manual
        },
        segments_ahead: if burst {
            (turn / defaults.segment_bytes) as usize + 2
        } else {
            defaults.segments_ahead
        },
        unsynced_bytes_max: if burst {
            4 * turn
        } else {
            defaults.unsynced_bytes_max
        },
        ..defaults
    }
}

fn esker(dir: &Path, plan: &Plan) -> Result<Esker, Failure> {
    let options = options(plan);
    let ahead = options.segments_ahead as u64;
    let (log, _) = Log::open(dir, options)?;
    let esker = Esker {
        log,
        ahead,
        burst: plan.mode == Mode::Burst,
    };
    esker.wait_for_spares()?;
    Ok(esker)
}

fn replay(dir: &Path, plan: &Plan, each: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
    let (log, recovered) = Log::open(dir, options(plan))?;
    let mut reader = log.reader(recovered.oldest, ReadLimit::Synced)?;
    while let Some(frame) = reader.next_ref()? {
        if frame.header.kind == esker_wal::Kind::Data {
            each(frame.payload);
        }
    }
    log.close()?;
    Ok(())
}

/// It.
pub(crate) fn engine() -> Engine {
    Engine {
        name: "Esker",
        version: locked("esker-wal"),
        floor: false,
        modes: &[Mode::Synced, Mode::Burst, Mode::Sustained, Mode::Replay],
        threads_max: usize::MAX,
        settings: "default options; burst: segments for a whole turn prepared, unsynced_bytes_max above it (nobody else has a bound); released every MiB (synced) or 64 MiB (sustained)",
        open: |dir, plan| Ok(Box::new(esker(dir, plan)?)),
        replay: Some(replay),
    }
}

/// Appends of a hand-over are so far apart: a reader that sleeps is asleep each time.
const GAP: Duration = Duration::from_micros(100);

/// Calls `send` `count` times with the time since `zero`, spread out.
fn spread(
    zero: Instant,
    count: u64,
    mut send: impl FnMut(u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut next = Duration::ZERO;
    for _ in 0..count {
        next = next.max(zero.elapsed()) + GAP;
        while zero.elapsed() < next {
            std::hint::spin_loop();
        }
        send(zero.elapsed().as_nanos() as u64)?;
    }
    Ok(())
}

/// Nanoseconds from just before an append to the payload in the hands of a reader in another thread, which polls, sleeps, or spins
/// before it sleeps. `unpark` is the floor of sleeping: a word in memory, `park` and `unpark`, and no log.
pub(crate) fn hand_over(dir: &Path, how: &str, count: u64) -> Result<Histogram<u64>, Failure> {
    if how == "unpark" {
        return unpark(count);
    }
    let plan = Plan {
        mode: Mode::Burst,
        threads: 1,
        bytes: 64,
        total: count * 64,
    };
    let esker = esker(dir, &plan)?;
    let log = &esker.log;
    let zero = Instant::now();
    let mut reader = log.reader(log.published(), ReadLimit::Published)?;
    match how {
        "poll" | "sleep" => {}
        "spin" => reader.set_spin_max(3 * GAP),
        _ => return Err(format!("no hand-over is called {how:?}").into()),
    }
    let histogram = std::thread::scope(|scope| -> Result<_, Failure> {
        let reading = scope.spawn(move || -> Result<_, Failure> {
            let mut histogram = Histogram::new(3)?;
            while histogram.len() < count {
                let frame = if how == "poll" {
                    reader.next()?
                } else {
                    reader.next_wait(Some(Duration::from_secs(10)))?
                };
                let Some(frame) = frame else {
                    std::hint::spin_loop();
                    continue;
                };
                let now = zero.elapsed().as_nanos() as u64;
                let sent = u64::from_le_bytes(frame.payload[..8].try_into()?);
                histogram.record(now - sent)?;
            }
            Ok(histogram)
        });
        let mut payload = [7; 64];
        spread(zero, count, |now| {
            payload[..8].copy_from_slice(&now.to_le_bytes());
            log.append(&[&payload])?;
            Ok(())
        })?;
        reading.join().map_err(|_| "the reader panicked")?
    })?;
    log.close()?;
    Ok(histogram)
}

fn unpark(count: u64) -> Result<Histogram<u64>, Failure> {
    let word = AtomicU64::new(0);
    let zero = Instant::now();
    std::thread::scope(|scope| -> Result<_, Failure> {
        let sleeper = scope.spawn(|| -> Result<_, Failure> {
            let mut histogram = Histogram::new(3)?;
            while histogram.len() < count {
                match word.swap(0, Ordering::AcqRel) {
                    0 => std::thread::park(),
                    sent => histogram.record(zero.elapsed().as_nanos() as u64 - sent)?,
                }
            }
            Ok(histogram)
        });
        spread(zero, count, |now| {
            word.store(now, Ordering::Release);
            sleeper.thread().unpark();
            // Each is to be counted, however late the sleeper is.
            while word.load(Ordering::Acquire) != 0 {
                std::hint::spin_loop();
            }
            Ok(())
        })?;
        sleeper.join().map_err(|_| "the sleeper panicked")?
    })
}
