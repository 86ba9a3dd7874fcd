//! A log that ends with its process.
//!
//! - VL1 (C2): each is another disk. A node that starts anew on one under an id that the membership knows by the one before abstains until it is
//!   removed and added anew: what it promised is gone.

use super::memory::Content;
use super::{LogError, LogReader, LogStore, Recovered};
use crate::core::{Entry, Index, LogView, SnapshotMeta, Write};
use parking_lot::Mutex;
use std::sync::Arc;

/// A log in memory alone, for groups whose members may be replaced but don't restart, and for measurements: nothing is on stable storage, so
/// a cluster that loses a majority of its processes loses what was acknowledged.
///
/// Its writes never wait, so the node makes them where it stands, without its storage thread.
/// For tests of what a disk does see [`MemoryDisk`](super::MemoryDisk).
#[derive(Debug, Default)]
pub struct VolatileLog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared(Mutex<Content>);

impl VolatileLog {
    /// An empty one. Of entries up to `tail_bytes_max` bytes are at hand in the node too, and needn't be read from it.
    #[must_use]
    pub fn new(tail_bytes_max: usize) -> (VolatileLog, Recovered) {
        let recovered = Recovered {
            log: LogView::new(SnapshotMeta::default(), tail_bytes_max),
            empty: true,
            disk: esker_wal::NodeId::random().0 as u64 | 1,
            ..Recovered::default()
        };
        (VolatileLog::default(), recovered)
    }
}

impl LogStore for VolatileLog {
    fn write(&mut self, writes: &[Write]) -> Result<(), LogError> {
        let mut content = self.0.0.lock();
        writes.iter().for_each(|write| content.write(write));
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn compact(&mut self, to: &SnapshotMeta) -> Result<(), LogError> {
        self.0.0.lock().compact(to);
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.0.clone()
    }

    fn close(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn never_waits(&self) -> bool {
        true
    }
}

impl LogReader for Shared {
    fn entries(&self, from: Index, to: Index, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        Ok(self.0.lock().read(from, to, bytes_max))
    }

    fn syncs(&self) -> u64 {
        0
    }
}
