//! Applying the entries of a log that the caller keeps (C4: the store under it has none).
//!
//! - X1: the caller hands in each entry's first SeqNo and the one behind its last, derived from its index, the same on all nodes.
//!   Entries come in order; between two there may be room, for entries that do nothing.
//! - X2: what the caller wants to know after a restart (the applied index) it writes in the entry's batch. All memtables rotate between two
//!   entries and one manifest edit installs them, so what is found after a restart is the state behind one entry, never a part of
//!   it: [`crate::Store::durable`] says behind which, and the caller applies what follows again.
//! - X3: applied is not durable: until tables are installed the external log must be kept from `durable` on.

use super::Inner;
use super::condition::{Condition, Verdict};
use crate::batch::BatchReader;
use crate::memtable::MemTable;
use crate::{SeqNo, StoreError, WriteBatch};
use esker_wal::Lsn;

impl Inner {
    /// Applies the entry `first..end`, unless a condition does not hold; `end` is passed either way.
    pub(super) fn apply_entry(
        &self,
        first: SeqNo,
        end: SeqNo,
        conditions: &[Condition<'_>],
        batch: &WriteBatch,
    ) -> Result<Verdict, StoreError> {
        let external = self.journal.external()?;
        let (lsn, end) = (Lsn(first.0), Lsn(end.0));
        let room = end.0.saturating_sub(lsn.0);
        if (batch.len() as u64) > room || room == 0 {
            return Err(StoreError::NotNext {
                first,
                expected: self.sequencer.visible().into(),
                why: "the entry has more operations than SeqNos",
            });
        }
        self.make_room(MemTable::cost(batch.encoded_len(), batch.len()), true)?;
        let _applying = external.applying.lock();
        let visible = self.sequencer.visible();
        if lsn < visible {
            return Err(StoreError::NotNext {
                first,
                expected: visible.into(),
                why: "it was applied before",
            });
        }
        let verdict = self.judge(conditions, SeqNo::MAX)?;
        if verdict == Verdict::Holds {
            let mut hole = self.hole();
            let inserted = self.insert(lsn, BatchReader::trusted(batch));
            hole.filled = true;
            inserted?;
        }
        self.sequencer.complete(visible, end);
        Ok(verdict)
    }
}
