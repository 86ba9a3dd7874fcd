//! okaywal. Every commit is synced, so it takes no part in what is buffered.

use crate::rival::{Engine, Failure, LogRival, Mode, Plan, locked};
use okaywal::{Configuration, Entry, EntryId, LogManager, LogVoid, SegmentReader, WriteAheadLog};
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};

struct Wal(WriteAheadLog);

impl LogRival for Wal {
    fn append_synced(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        let mut entry = self.0.begin_entry()?;
        entry.write_chunk(payload)?;
        entry.commit()?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        self.0.shutdown()?;
        Ok(())
    }
}

fn configuration(dir: &Path, plan: &Plan) -> Configuration {
    let configuration = Configuration::default_for(dir);
    if plan.mode == Mode::Replay {
        // Nothing may be checkpointed away before it is read.
        configuration.checkpoint_after_bytes(u64::MAX)
    } else {
        configuration
            .preallocate_bytes(64 << 20)
            .checkpoint_after_bytes(63 << 20)
    }
}

fn open(dir: &Path, plan: &Plan) -> Result<Box<dyn LogRival>, Failure> {
    Ok(Box::new(Wal(configuration(dir, plan).open(LogVoid)?)))
}

/// Sends what it recovers, many payloads at a time.
#[derive(Debug)]
struct Sender {
    to: Mutex<mpsc::SyncSender<Vec<Vec<u8>>>>,
    gathered: Vec<Vec<u8>>,
}

impl LogManager for Sender {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        if let Some(chunks) = entry.read_all_chunks()? {
            self.gathered.extend(chunks);
        }
        if self.gathered.len() >= 4096 {
            let sent = self.to.lock().send(std::mem::take(&mut self.gathered));
            sent.map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last: EntryId,
        _entries: &mut SegmentReader,
        _wal: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // The other side may be gone.
        let _ = self.to.lock().send(std::mem::take(&mut self.gathered));
    }
}

fn replay(dir: &Path, plan: &Plan, each: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
    let (to, from) = mpsc::sync_channel(16);
    let sender = Sender {
        to: Mutex::new(to),
        gathered: Vec::new(),
    };
    let configuration = Arc::new(configuration(dir, plan));
    std::thread::scope(|scope| -> Result<(), Failure> {
        let opening = scope.spawn(move || -> io::Result<()> {
            let wal = (*configuration).clone().open(sender)?;
            wal.shutdown()
        });
        for payload in from.iter().flatten() {
            each(&payload);
        }
        opening.join().map_err(|_| "recovery panicked")??;
        Ok(())
    })
}

/// It.
pub(crate) fn engine() -> Engine {
    Engine {
        name: "okaywal",
        version: locked("okaywal"),
        floor: false,
        modes: &[Mode::Synced, Mode::Replay],
        threads_max: usize::MAX,
        settings: "files of 64 MiB, checkpointed to nothing when full; it has no append without a sync",
        open,
        replay: Some(replay),
    }
}
