//! The simplest correct log (benches/src/simplest.rs): the mark to beat.

use crate::rival::{Engine, Failure, LogRival, Mode, Plan};
use esker_benches::simplest::{Simplest, Way, frame_bytes};
use std::path::Path;

struct Log(Simplest);

impl LogRival for Log {
    fn append_synced(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        self.0.append(payload)?;
        Ok(())
    }

    fn append_buffered(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        self.0.append_buffered(payload)?;
        Ok(())
    }

    fn sync(&self) -> Result<(), Failure> {
        self.0.sync()?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        self.0.sync()?;
        Ok(())
    }
}

fn open(dir: &Path, plan: &Plan, way: Way) -> Result<Box<dyn LogRival>, Failure> {
    let frames = plan.total / plan.bytes as u64 + 1;
    let capacity = match plan.mode {
        Mode::Synced => 64 << 20,
        Mode::Burst | Mode::Sustained | Mode::Replay => {
            (frames * frame_bytes(plan.bytes)).next_multiple_of(4096)
        }
    };
    Ok(Box::new(Log(Simplest::create(
        &dir.join("log"),
        capacity,
        way,
    )?)))
}

/// With `pwrite` + `fdatasync`.
pub(crate) fn written() -> Engine {
    Engine {
        name: "simplest, fdatasync",
        version: String::new(),
        floor: false,
        modes: &[Mode::Synced, Mode::Burst, Mode::Sustained, Mode::Replay],
        threads_max: usize::MAX,
        settings: "mutex, condvar, one pwrite + fdatasync per group; buffered: one pwrite per append; prewritten file used round and round; replay by reads of 256 KiB",
        open: |dir, plan| open(dir, plan, Way::WriteSync),
        replay: Some(|dir, _plan, each| Ok(Simplest::replay(&dir.join("log"), each)?)),
    }
}

/// With `O_DIRECT | O_DSYNC`.
pub(crate) fn direct() -> Engine {
    Engine {
        name: "simplest, O_DSYNC",
        version: String::new(),
        floor: false,
        modes: &[Mode::Synced],
        threads_max: usize::MAX,
        settings: "mutex, condvar, one O_DIRECT|O_DSYNC pwrite per group of whole blocks",
        open: |dir, plan| open(dir, plan, Way::Direct),
        replay: None,
    }
}
