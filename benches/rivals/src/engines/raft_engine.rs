//! raft-engine, TiKV's log of many Raft groups.
//!
//! Each thread appends to a group of its own, with consecutive indexes, as TiKV does. An entry is a protobuf message of one
//! field, which holds the index and the payload.

use crate::rival::{Engine, Failure, LogRival, Mode, Plan, locked};
use parking_lot::Mutex;
use protobuf::well_known_types::Any;
use raft_engine::{Config, LogBatch, MessageExt, ReadableSize};
use std::path::Path;

struct Entry;

impl MessageExt for Entry {
    type Entry = Any;

    fn index(entry: &Any) -> u64 {
        let bytes = entry.value[..8].try_into().expect("eight bytes");
        u64::from_le_bytes(bytes)
    }
}

struct Engines {
    engine: raft_engine::Engine,
    /// By thread: what its batch and its next index are.
    groups: Vec<Mutex<(LogBatch, u64)>>,
}

impl Engines {
    fn append(&self, thread: usize, payload: &[u8], sync: bool) -> Result<(), Failure> {
        let (batch, next) = &mut *self.groups[thread].lock();
        let mut value = Vec::with_capacity(8 + payload.len());
        value.extend_from_slice(&next.to_le_bytes());
        value.extend_from_slice(payload);
        let entry = Any {
            value,
            ..Any::default()
        };
        batch.add_entries::<Entry>(thread as u64 + 1, &[entry])?;
        self.engine.write(batch, sync)?;
        *next += 1;
        Ok(())
    }
}

impl LogRival for Engines {
    fn append_synced(&self, thread: usize, payload: &[u8]) -> Result<(), Failure> {
        self.append(thread, payload, true)
    }

    fn append_buffered(&self, thread: usize, payload: &[u8]) -> Result<(), Failure> {
        self.append(thread, payload, false)
    }

    fn sync(&self) -> Result<(), Failure> {
        Ok(self.engine.sync()?)
    }

    fn trim(&self) -> Result<(), Failure> {
        for (at, group) in self.groups.iter().enumerate() {
            // The appending thread holds none of them here.
            let next = group.lock().1;
            self.engine.compact_to(at as u64 + 1, next);
        }
        self.engine.purge_expired_files()?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        Ok(self.engine.sync()?)
    }
}

fn config(dir: &Path, plan: &Plan) -> Config {
    Config {
        dir: dir.to_string_lossy().into_owned(),
        batch_compression_threshold: ReadableSize(0),
        purge_threshold: ReadableSize::mb(256),
        prefill_for_recycle: plan.mode != Mode::Replay,
        prefill_limit: Some(ReadableSize::gb(1)),
        ..Config::default()
    }
}

fn open(dir: &Path, plan: &Plan) -> Result<Box<dyn LogRival>, Failure> {
    let groups = (0..plan.threads)
        .map(|_| Mutex::new((LogBatch::default(), 1)))
        .collect();
    Ok(Box::new(Engines {
        engine: raft_engine::Engine::open(config(dir, plan))?,
        groups,
    }))
}

fn replay(dir: &Path, plan: &Plan, each: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
    let engine = raft_engine::Engine::open(config(dir, plan))?;
    let mut entries = Vec::new();
    for group in engine.raft_groups() {
        let (Some(first), Some(last)) = (engine.first_index(group), engine.last_index(group))
        else {
            continue;
        };
        for from in (first..=last).step_by(4096) {
            let to = (from + 4096).min(last + 1);
            entries.clear();
            engine.fetch_entries_to::<Entry>(group, from, to, None, &mut entries)?;
            for entry in &entries {
                each(&entry.value[8..]);
            }
        }
    }
    Ok(())
}

/// It.
pub(crate) fn engine() -> Engine {
    Engine {
        name: "raft-engine",
        version: locked("raft-engine"),
        floor: false,
        modes: &[Mode::Synced, Mode::Burst, Mode::Sustained, Mode::Replay],
        threads_max: usize::MAX,
        settings: "no compression, 1 GiB of files prefilled for recycling, purge above 256 MiB; a group per thread; replay: open, then fetch every entry",
        open,
        replay: Some(replay),
    }
}
