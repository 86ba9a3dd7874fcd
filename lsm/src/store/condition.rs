//! Writes that happen only while some keys have the values that the writer thinks they have.
//!
//! - CW1: the conditions are judged on the state right below the batch's own place in the log, and nothing comes between: whoever has
//!   a lower place is waited for, whoever has a higher one is not seen.
//! - CW2: a batch whose conditions do not hold leaves a void frame, which replay and replicas pass over; they judge nothing.
//! - CW3: writers without conditions pay nothing. One with conditions judges them twice: before it takes a place, where most refusals end
//!   and what they need is brought into the cache, and at it.

use super::read::Found;
use super::write::Written;
use super::{Inner, Store};
use crate::batch::BatchReader;
use crate::memtable::MemTable;
use crate::{SeqNo, StoreError, WriteBatch, sabotage};
use esker_wal::LogError;

/// What a key must be for a batch to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its value; `None`: it is not there.
    pub expected: Option<&'a [u8]>,
}

/// What became of a conditional write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conditional {
    /// All conditions held, and the batch is written.
    Written(Written),
    /// Nothing was written.
    Refused {
        /// The first condition that does not hold.
        condition: usize,
        /// What its key is instead.
        found: Found,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Holds,
    Fails { condition: usize, found: Found },
}

impl Store {
    /// As [`Store::write`], if all conditions hold; they are judged and the batch written as one step. A refusal tells what was
    /// found, which may not be durable yet (compare `found.seqno` with what is).
    pub fn write_if(
        &self,
        conditions: &[Condition<'_>],
        batch: &WriteBatch,
    ) -> Result<Conditional, StoreError> {
        self.inner.write_if(conditions, batch)
    }
}

impl Inner {
    /// Judges conditions on what is inserted at or below `at`.
    pub(super) fn judge(
        &self,
        conditions: &[Condition<'_>],
        at: SeqNo,
    ) -> Result<Verdict, StoreError> {
        if conditions.is_empty() {
            return Ok(Verdict::Holds);
        }
        let view = self.view.load();
        for (condition, wanted) in conditions.iter().enumerate() {
            let found = view.get(wanted.key, at)?;
            if found.value.as_deref() != wanted.expected {
                return Ok(Verdict::Fails { condition, found });
            }
        }
        Ok(Verdict::Holds)
    }

    fn write_if(
        &self,
        conditions: &[Condition<'_>],
        batch: &WriteBatch,
    ) -> Result<Conditional, StoreError> {
        let log = self.journal.own()?;
        self.check_health()?;
        if let Verdict::Fails { condition, found } = self.judge(conditions, SeqNo::MAX)? {
            return Ok(Conditional::Refused { condition, found });
        }
        if batch.is_empty() || sabotage::on(sabotage::CONDITION_NOT_RECHECKED) {
            return self.write(batch, true).map(Conditional::Written);
        }
        self.make_room(MemTable::cost(batch.encoded_len(), batch.len()), true)?;
        let reserved = log
            .reserve(batch.encoded_len())
            .map_err(|error| match error {
                LogError::Closed => StoreError::Closed,
                other => other.into(),
            })?;
        let (lsn, end) = (reserved.lsn(), reserved.end());
        let mut hole = self.hole();
        // CW1. Nothing above can become visible before this is done, so no version that is needed here is dropped meanwhile.
        let below = lsn.0.checked_sub(1).map(SeqNo);
        let judged = self.wait_visible(lsn).and_then(|()| match below {
            Some(below) => self.judge(conditions, below),
            None => Ok(Verdict::Holds),
        });
        let publish = match &judged {
            Ok(Verdict::Holds) => reserved.publish(&[batch.payload()]).map(|_| true),
            _ => {
                drop(reserved);
                Ok(false)
            }
        };
        let inserted = match &publish {
            Ok(true) => self.insert(lsn, BatchReader::trusted(batch)),
            _ => Ok(()),
        };
        hole.filled = true;
        self.sequencer.complete(lsn, end);
        publish?;
        match judged? {
            Verdict::Fails { condition, found } => Ok(Conditional::Refused { condition, found }),
            Verdict::Holds => {
                inserted?;
                self.wait_visible(end)?;
                Ok(Conditional::Written(Written {
                    first: lsn.into(),
                    last: SeqNo(lsn.0 + batch.len() as u64 - 1),
                    end,
                }))
            }
        }
    }
}
