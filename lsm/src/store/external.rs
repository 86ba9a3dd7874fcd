//! Applying the entries of a log that the caller keeps (C4: the store under it has none).
//!
//! - X1: the caller hands in each entry's first SeqNo and the one behind its last, derived from its index, the same on all nodes.
//!   Entries come in order; between two there may be room, for entries that do nothing.
//! - X2: what the caller wants to know after a restart (the applied index) it writes in the entry's batch. All memtables rotate between two
//!   entries and one manifest edit installs them, so what is found after a restart is the state behind one entry, never a part of
//!   it: [`crate::Store::durable`] says behind which, and the caller applies what follows again.
//!   Entries that are applied as one ([`crate::Store::apply_entries`]) count as one in this.
//! - X3: applied is not durable: until tables are installed the external log must be kept from `durable` on.
//! - X4: what fails for lack of space ([`StoreError::heals`]) does so before anything of it is applied: it can be applied again.

use super::Inner;
use super::condition::{Condition, Verdict};
use crate::batch::BatchReader;
use crate::memtable::MemTable;
use crate::{SeqNo, StoreError, WriteBatch};
use esker_wal::Lsn;

/// An entry of an external log: its operations have the SeqNos from `first` on and below `end`.
#[derive(Clone, Copy, Debug)]
pub struct EntryBatch<'a> {
    /// Of its first operation.
    pub first: SeqNo,
    /// Behind its last.
    pub end: SeqNo,
    /// What it writes.
    pub batch: &'a WriteBatch,
}

impl Inner {
    /// Applies an entry, unless a condition does not hold; its end is passed either way.
    pub(super) fn apply_entry(
        &self,
        conditions: &[Condition<'_>],
        entry: EntryBatch<'_>,
    ) -> Result<Verdict, StoreError> {
        self.apply(&[entry], conditions)
    }

    /// Applies entries as one.
    pub(super) fn apply(
        &self,
        entries: &[EntryBatch<'_>],
        conditions: &[Condition<'_>],
    ) -> Result<Verdict, StoreError> {
        let external = self.journal.external()?;
        let mut cost = 0;
        let mut end = SeqNo(0);
        for entry in entries {
            let refused = |why| StoreError::NotNext {
                first: entry.first,
                expected: end.max(self.sequencer.visible().into()),
                why,
            };
            if entry.end <= entry.first || entry.batch.len() as u64 > entry.end.0 - entry.first.0 {
                return Err(refused("the entry has more operations than SeqNos"));
            }
            if entry.first < end {
                return Err(refused("it does not stand behind the one before it"));
            }
            end = entry.end;
            cost += MemTable::cost(entry.batch.encoded_len(), entry.batch.len());
        }
        let Some(first) = entries.first().map(|e| e.first) else {
            return Ok(Verdict::Holds);
        };
        self.make_room(cost, true)?;
        let _applying = external.applying.lock();
        let visible = self.sequencer.visible();
        if first < visible.into() {
            return Err(StoreError::NotNext {
                first,
                expected: visible.into(),
                why: "it was applied before",
            });
        }
        let verdict = self.judge(conditions, SeqNo::MAX)?;
        if verdict == Verdict::Holds {
            let mut hole = self.hole();
            let mut inserted = Ok(());
            for entry in entries {
                inserted = inserted.and_then(|()| {
                    self.insert(Lsn(entry.first.0), BatchReader::trusted(entry.batch))
                });
            }
            hole.filled = true;
            inserted?;
        }
        self.sequencer.complete(visible, Lsn(end.0));
        Ok(verdict)
    }
}
