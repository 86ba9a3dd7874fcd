//! walrus-rust.
//!
//! Its schedule belongs to the log, not to the append, and nothing syncs on request: buffered appends are synced by its
//! own thread. So it takes no part in what is sustained, where the sync counts.

use crate::rival::{Engine, Failure, LogRival, Mode, Plan, locked};
use std::path::Path;
use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

struct Log(Walrus);

const TOPIC: &str = "log";

impl LogRival for Log {
    fn append_synced(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        self.0.append_for_topic(TOPIC, payload)?;
        Ok(())
    }

    fn append_buffered(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        self.0.append_for_topic(TOPIC, payload)?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}

fn walrus(dir: &Path, plan: &Plan) -> Result<Walrus, Failure> {
    // SAFETY: the engine is opened by the process's only thread.
    unsafe { std::env::set_var("WALRUS_DATA_DIR", dir) };
    // SAFETY: as above.
    unsafe { std::env::set_var("WALRUS_QUIET", "1") };
    let schedule = if plan.mode == Mode::Synced {
        FsyncSchedule::SyncEach
    } else {
        FsyncSchedule::Milliseconds(200)
    };
    let consistency = ReadConsistency::AtLeastOnce {
        persist_every: u32::MAX,
    };
    Ok(Walrus::with_consistency_and_schedule(
        consistency,
        schedule,
    )?)
}

fn open(dir: &Path, plan: &Plan) -> Result<Box<dyn LogRival>, Failure> {
    Ok(Box::new(Log(walrus(dir, plan)?)))
}

fn replay(dir: &Path, plan: &Plan, each: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
    let walrus = walrus(dir, plan)?;
    loop {
        let entries = walrus.batch_read_for_topic(TOPIC, 1 << 20, true)?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            each(&entry.data);
        }
    }
}

/// It.
pub(crate) fn engine() -> Engine {
    Engine {
        name: "walrus",
        version: locked("walrus-rust"),
        floor: false,
        modes: &[Mode::Synced, Mode::Burst, Mode::Replay],
        threads_max: usize::MAX,
        settings: "one topic, default backend (descriptors); SyncEach, or its own sync every 200 ms; replay by batch reads of 1 MiB",
        open,
        replay: Some(replay),
    }
}
