//! Whole nodes with locks.

use crate::nodes::{self, Beside, Made};
use bytes::Bytes;
use esker_lsm::StoreOptions;
use esker_raft::lock::{LockService, LockView, Locked};
use esker_raft::machine::{Application, Effects, LsmMachine};
use esker_raft::runtime::*;
use esker_wal::media::sim::SimMedia;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const ID: esker_wal::LogId = esker_wal::LogId(9);

pub type Cluster = nodes::Cluster<LockService>;
pub type Up = nodes::Up<LockService>;

impl Beside for LockService {
    fn close(&self) {
        LockService::close(self);
    }
}

/// Writes down each command that takes effect: key `h` and its index. `!` empties the application's keys.
#[derive(Debug, Default)]
pub struct Recorder;

impl Application for Recorder {
    fn apply(&mut self, command: Command, state: &mut Effects<'_>) -> Result<Bytes, MachineError> {
        if command.payload == b"!"[..] {
            state.delete_range(b"", None);
        } else {
            let key = [&b"h"[..], &command.index.0.to_be_bytes()].concat();
            state.put(&key, &command.payload);
        }
        Ok(Bytes::new())
    }
}

pub fn open(media: &SimMedia) -> Result<(LsmMachine<Locked<Recorder>>, LockView), MachineError> {
    let mut options = StoreOptions {
        memtable_bytes: 64 << 10,
        ..StoreOptions::default()
    };
    options.log.media = Arc::new(media.clone());
    let (app, view) = Locked::new(Recorder);
    Ok((
        LsmMachine::open(Path::new("state"), ID, options, app)?,
        view,
    ))
}

/// Three nodes whose logs keep so many entries.
pub fn three(kept: u64) -> Cluster {
    let options = NodeOptions {
        tick: Duration::from_millis(20),
        compact_entries_min: 50,
        log_entries_kept: kept,
        ..NodeOptions::default()
    };
    Cluster::new(3, options, 256 << 10, |media| {
        let (machine, view) = open(media)?;
        Ok(Made {
            reader: machine.reader(),
            machine: Box::new(machine),
            beside: Box::new(|handle| LockService::start(handle, view).expect("it starts")),
        })
    })
}

/// What was written down, in order; all members hold it.
pub fn history(cluster: &Cluster) -> Vec<String> {
    let rows = cluster.agreed(b"h");
    let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
    rows.iter().map(|(_, value)| text(value)).collect()
}
