//! A log in memory, on a disk that can lose power, hang, fill up and fail: for tests.

use super::{LogError, LogReader, LogStore, Recovered};
use crate::core::{Abstain, Entry, HardState, Index, LogView, SnapshotMeta, Write};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a log holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    hard: HardState,
    snapshot: SnapshotMeta,
    entries: VecDeque<Entry>,
    abstain: Abstain,
    touched: bool,
}

impl Content {
    pub(super) fn write(&mut self, write: &Write) {
        self.touched = true;
        match write {
            Write::HardState(hard) => self.hard = *hard,
            Write::Append(entries) => {
                for entry in entries {
                    while self
                        .entries
                        .back()
                        .is_some_and(|e| e.id.index >= entry.id.index)
                    {
                        self.entries.pop_back();
                    }
                    self.entries.push_back(entry.clone());
                }
            }
            Write::Snapshot(meta) => {
                self.snapshot = meta.clone();
                self.entries.clear();
            }
        }
    }

    pub(super) fn compact(&mut self, to: &SnapshotMeta) {
        if to.last.index <= self.snapshot.last.index {
            return;
        }
        while self
            .entries
            .front()
            .is_some_and(|e| e.id.index <= to.last.index)
        {
            self.entries.pop_front();
        }
        self.snapshot = to.clone();
    }

    /// As [`LogReader::entries`] has it.
    pub(super) fn read(&self, from: Index, to: Index, bytes_max: usize) -> Vec<Entry> {
        let first = self.entries.front().map(|e| e.id.index);
        let Some(skip) = first.and_then(|first| from.0.checked_sub(first.0)) else {
            return Vec::new();
        };
        let mut bytes = 0;
        let entries = self.entries.iter().skip(skip as usize);
        let taken = entries.take_while(|e| {
            bytes += e.weight();
            e.id.index <= to && (bytes <= bytes_max || e.id.index == from)
        });
        taken.cloned().collect()
    }

    fn last(&self) -> Index {
        self.entries
            .back()
            .map_or(self.snapshot.last.index, |e| e.id.index)
    }
}

#[derive(Debug, Default)]
struct State {
    /// What a process sees, and what power loss leaves.
    written: Content,
    synced: Content,
    /// What the one is ahead of the other.
    unsynced: Vec<Write>,
    syncs: u64,
    hangs: bool,
    full: bool,
    fail_next_sync: bool,
    failed: Option<LogError>,
    /// Grows with each open: a store of before a crash touches nothing any more.
    life: u64,
    number: u64,
}

/// What survives the process: the disk under a [`MemoryLog`]. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<(Mutex<State>, Condvar)>);

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> MemoryDisk {
        static MADE: AtomicU64 = AtomicU64::new(1);
        let disk = MemoryDisk::default();
        disk.0.0.lock().number = MADE.fetch_add(1, Ordering::Relaxed);
        disk
    }

    /// Opens the log on it. A store that was open before is cut off as if its process had died.
    #[must_use]
    pub fn open(&self, tail_bytes_max: usize) -> (MemoryLog, Recovered) {
        let mut state = self.0.0.lock();
        state.life += 1;
        state.failed = None;
        self.0.1.notify_all();
        // As W6 has it: what is kept is made durable before anything follows it.
        state.unsynced.clear();
        state.synced = state.written.clone();
        let content = &state.written;
        let mut log = LogView::new(content.snapshot.clone(), tail_bytes_max);
        for entry in &content.entries {
            log.push(entry.clone());
        }
        let recovered = Recovered {
            hard: content.hard,
            log,
            abstain: content.abstain,
            empty: !content.touched,
            disk: state.number,
        };
        let life = state.life;
        drop(state);
        (
            MemoryLog {
                disk: self.clone(),
                life,
            },
            recovered,
        )
    }

    /// The power goes: whatever was not synced is lost, and whoever has the log open with it.
    pub fn lose_power(&self) {
        let mut state = self.0.0.lock();
        state.life += 1;
        state.unsynced.clear();
        state.written = state.synced.clone();
        state.hangs = false;
        self.0.1.notify_all();
    }

    /// The process dies: what was written stays.
    pub fn kill(&self) {
        self.0.0.lock().life += 1;
        self.0.1.notify_all();
    }

    /// Syncs hang from now on, or go on.
    pub fn hang(&self, hangs: bool) {
        self.0.0.lock().hangs = hangs;
        self.0.1.notify_all();
    }

    /// Writes find no room from now on, or do.
    pub fn fill(&self, full: bool) {
        self.0.0.lock().full = full;
    }

    /// The next sync fails, and loses what it should have kept.
    pub fn fail_next_sync(&self) {
        self.0.0.lock().fail_next_sync = true;
    }

    /// Entries above `keep` are lost to bit rot (LS4). True when there were any.
    pub fn lose_entries(&self, keep: Index) -> bool {
        let mut state = self.0.0.lock();
        let until = state.synced.last();
        if until <= keep {
            return false;
        }
        let State {
            written, synced, ..
        } = &mut *state;
        for content in [written, synced] {
            content.entries.retain(|e| e.id.index <= keep);
            content.abstain = Abstain::Until(until);
        }
        true
    }

    /// How many syncs there were.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.0.lock().syncs
    }
}

/// The log on a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryLog {
    disk: MemoryDisk,
    life: u64,
}

impl MemoryLog {
    fn check(&self, state: &State) -> Result<(), LogError> {
        match &state.failed {
            _ if state.life != self.life => Err(LogError::Closed),
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

impl LogStore for MemoryLog {
    fn write(&mut self, writes: &[Write]) -> Result<(), LogError> {
        let mut state = self.disk.0.0.lock();
        self.check(&state)?;
        if state.full {
            return Err(LogError::Full(
                "the disk in memory was told to be full".into(),
            ));
        }
        for write in writes {
            state.written.write(write);
        }
        state.unsynced.extend_from_slice(writes);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let (lock, moved) = &*self.disk.0;
        let mut state = lock.lock();
        while state.hangs && state.life == self.life {
            moved.wait(&mut state);
        }
        self.check(&state)?;
        if std::mem::take(&mut state.fail_next_sync) {
            state.unsynced.clear();
            state.written = state.synced.clone();
            let error = LogError::Failed("the disk in memory was told to fail".into());
            state.failed = Some(error.clone());
            return Err(error);
        }
        state.syncs += 1;
        let State {
            written,
            synced,
            unsynced,
            ..
        } = &mut *state;
        for write in unsynced.drain(..) {
            synced.write(&write);
        }
        if let Abstain::Until(index) = written.abstain
            && written.last() >= index
        {
            written.abstain = Abstain::No;
            synced.abstain = Abstain::No;
        }
        Ok(())
    }

    fn compact(&mut self, to: &SnapshotMeta) -> Result<(), LogError> {
        let mut state = self.disk.0.0.lock();
        self.check(&state)?;
        state.written.compact(to);
        state.synced.compact(to);
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(self.disk.clone())
    }

    fn close(&mut self) -> Result<(), LogError> {
        let mut state = self.disk.0.0.lock();
        if state.life == self.life && state.failed.is_none() {
            state.unsynced.clear();
            state.synced = state.written.clone();
        }
        Ok(())
    }
}

impl LogReader for MemoryDisk {
    fn syncs(&self) -> u64 {
        MemoryDisk::syncs(self)
    }

    fn entries(&self, from: Index, to: Index, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        Ok(self.0.0.lock().written.read(from, to, bytes_max))
    }
}
