//! The newest records in memory, for tests and dashboards.

use crate::record::Record;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Keeps the newest records and counts those that it overwrote.
#[derive(Debug)]
pub struct Ring {
    capacity: usize,
    kept: Mutex<(VecDeque<Record>, u64)>,
}

impl Ring {
    /// Of so many records; at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Ring {
        let capacity = capacity.max(1);
        Ring {
            capacity,
            kept: Mutex::new((VecDeque::with_capacity(capacity.min(4096)), 0)),
        }
    }

    /// Adds a record; the oldest goes where it is full.
    pub fn push(&self, record: Record) {
        let (records, overwritten) = &mut *self.kept.lock();
        if records.len() == self.capacity {
            records.pop_front();
            *overwritten += 1;
        }
        records.push_back(record);
    }

    /// The records kept, oldest first.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.kept.lock().0.iter().cloned().collect()
    }

    /// Records that were overwritten.
    #[must_use]
    pub fn overwritten(&self) -> u64 {
        self.kept.lock().1
    }
}
