//! The device alone: one thread, one block, no log.
//!
//! Synced: the payload behind the one before it, as a log does, in a file whose blocks were all written before; with
//! `O_DIRECT` the block of 4 KiB that it lies in. Sustained: 1 MiB at a time, without regard to
//! the payload asked for, round and round in a file of 1 GiB that was written once.

use crate::rival::{Engine, Failure, LogRival, Mode, Plan};
use esker_benches::simplest::{Aligned, Way, prepared};
use parking_lot::Mutex;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: u64 = 4096;
const SYNCED_FILE: u64 = 8 << 20;
const SUSTAINED_FILE: u64 = 1 << 30;
const LARGE: u64 = 1 << 20;

struct Floor {
    file: File,
    bytes: u64,
    step: u64,
    way: Way,
    at: Mutex<At>,
}

struct At {
    next: u64,
    /// Payload bytes taken in since the last write of `Sustained`.
    pending: u64,
    buffer: Aligned,
}

impl Floor {
    fn write(&self, at: &mut At) -> Result<(), Failure> {
        let zeros = [0; LARGE as usize];
        let block = at.buffer.copy(&zeros[..self.step as usize]);
        self.file.write_all_at(block, at.next % self.bytes)?;
        at.next += self.step;
        Ok(())
    }
}

impl LogRival for Floor {
    fn append_synced(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        let at = &mut *self.at.lock();
        let place = at.next % self.bytes;
        match self.way {
            Way::WriteSync => {
                self.file.write_all_at(payload, place)?;
                self.file.sync_data()?;
            }
            Way::Direct => {
                let block = at.buffer.copy(payload);
                self.file.write_all_at(block, place / BLOCK * BLOCK)?;
            }
        }
        at.next += payload.len() as u64;
        Ok(())
    }

    fn append_buffered(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        let mut at = self.at.lock();
        at.pending += payload.len() as u64;
        if at.pending >= self.step {
            at.pending -= self.step;
            self.write(&mut at)?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Failure> {
        self.file.sync_data()?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}

fn open(dir: &Path, plan: &Plan, way: Way) -> Result<Box<dyn LogRival>, Failure> {
    let path = dir.join("floor");
    let (bytes, step) = match plan.mode {
        Mode::Sustained => (SUSTAINED_FILE, LARGE),
        _ => (SYNCED_FILE, BLOCK),
    };
    let file = if plan.mode == Mode::Sustained {
        large(&path, bytes, way)?
    } else {
        prepared(&path, bytes, way)?
    };
    let at = At {
        next: 0,
        pending: 0,
        buffer: Aligned::default(),
    };
    Ok(Box::new(Floor {
        file,
        bytes,
        step,
        way,
        at: Mutex::new(at),
    }))
}

/// A file of which every block was written, for writes of `LARGE`.
fn large(path: &Path, bytes: u64, way: Way) -> Result<File, Failure> {
    // Made in large writes: here large folios are what is wanted.
    let file = File::create(path)?;
    let zeros = vec![0; LARGE as usize];
    for at in 0..bytes / LARGE {
        file.write_all_at(&zeros, at * LARGE)?;
    }
    file.sync_all()?;
    drop(file);
    Ok(way.open_unsynced(path)?)
}

/// `pwrite` + `fdatasync`.
pub(crate) fn synced_write() -> Engine {
    Engine {
        name: "floor: fdatasync",
        version: String::new(),
        floor: true,
        modes: &[Mode::Synced, Mode::Sustained],
        threads_max: 1,
        settings: "synced: pwrite of the payload + fdatasync, file of 8 MiB prewritten; sustained: pwrite of 1 MiB, one fdatasync at the end of a turn",
        open: |dir, plan| open(dir, plan, Way::WriteSync),
        replay: None,
    }
}

/// `O_DIRECT`.
pub(crate) fn direct_write() -> Engine {
    Engine {
        name: "floor: O_DIRECT",
        version: String::new(),
        floor: true,
        modes: &[Mode::Synced, Mode::Sustained],
        threads_max: 1,
        settings: "synced: O_DIRECT|O_DSYNC pwrite of the payload's block of 4 KiB, file of 8 MiB prewritten; sustained: O_DIRECT pwrite of 1 MiB, one fdatasync at the end of a turn",
        open: |dir, plan| open(dir, plan, Way::Direct),
        replay: None,
    }
}
