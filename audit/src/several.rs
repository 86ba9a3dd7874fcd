//! Several records that go together: one wait for the sync of all.
//!
//! - SE1: what is acknowledged is synced, as of one alone (T1): where the live log was opened anew between the first and the sync, or the sync failed, each
//!   is written again by itself, as its policy has it.

use crate::error::Error;
use crate::policy::{OnFailure, Write};
use crate::record::Record;
use crate::shared::{Draft, Put, Shared};

/// Appended, and not known synced.
#[derive(Default)]
struct Group {
    records: Vec<(Record, (u64, u64))>,
    last: Option<Put>,
    /// They are not in one life of the log.
    torn: bool,
}

impl Shared {
    pub(crate) fn record_all(&self, records: Vec<Record>) -> Result<(), Error> {
        let _gate = self.gate.read();
        let mut group = Group::default();
        for record in records {
            if self.options.policies.of(record.severity).write != Write::Sync {
                self.record_gated(record)?;
                continue;
            }
            self.begin_record(&record)?;
            let times = self.times();
            match self.append_record(&record, times) {
                Ok(put) => {
                    group.torn |= group.last.as_ref().is_some_and(|p| p.life != put.life);
                    group.records.push((record, times));
                    group.last = Some(put);
                }
                // It waits, or is dropped or refused, by itself; those before have their sync first.
                Err(_) => {
                    self.end_group(std::mem::take(&mut group))?;
                    self.write_synced(&record, times)?;
                }
            }
        }
        self.end_group(group)
    }

    fn append_record(&self, record: &Record, times: (u64, u64)) -> Result<Put, Error> {
        let body = self.body(record);
        let draft = Draft::of(record, &body, times);
        self.append(&mut self.state.lock(), &draft, true)
    }

    fn write_synced(&self, record: &Record, times: (u64, u64)) -> Result<(), Error> {
        let on_failure = self.options.policies.of(record.severity).on_failure;
        self.write(record, times, true, on_failure).map(|_| ())
    }

    fn end_group(&self, group: Group) -> Result<(), Error> {
        let Some(put) = group.last else {
            return Ok(());
        };
        let synced = self.sync(&put);
        if synced.is_ok() && !group.torn {
            self.counters.wrote(self.times().0);
            return Ok(());
        }
        self.counters.failures.add(1);
        for (record, times) in group.records {
            match self.options.policies.of(record.severity).on_failure {
                OnFailure::Block(_) if self.threaded() => self.write_synced(&record, times)?,
                // Its sequence is the entry's or the gap's.
                OnFailure::Drop => {}
                OnFailure::Block(_) | OnFailure::Refuse => {
                    return match synced {
                        Err(e) => Err(e),
                        Ok(()) => Err(self.refused("the live log was opened anew meanwhile")),
                    };
                }
            }
        }
        Ok(())
    }
}
