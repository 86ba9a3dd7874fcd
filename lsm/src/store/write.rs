//! The write path: book room -> reserve -> publish -> insert -> visible, in order.
//!
//! What can fail fails before the LSN is reserved, or makes the frame void. Between publish and the end of the insert
//! nothing can fail but by a panic; that leaves a hole, and refuses everything after it.

use super::{Inner, View};
use crate::batch::BatchReader;
use crate::memtable::{Blank, MemTable};
use crate::{SeqNo, StoreError, WriteBatch};
use esker_wal::{Kind, LogError, Lsn, ReadLimit, frame};
use std::sync::Arc;

/// What a write got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// SeqNo of its first operation, the frame's LSN.
    pub first: SeqNo,
    /// SeqNo of its last operation.
    pub last: SeqNo,
    /// End of its frame: durable when the log's `synced` has reached it.
    pub end: Lsn,
}

/// A frame that has an LSN and is not yet in its memtable. Dropped by a panic, it fails the store: readers must not pass
/// over the hole.
pub(super) struct Hole<'a> {
    inner: &'a Inner,
    pub(super) filled: bool,
}

impl Drop for Hole<'_> {
    fn drop(&mut self) {
        if !self.filled {
            self.inner.sequencer.fail();
            self.inner.fail(
                "applying a batch",
                &StoreError::Background {
                    doing: "applying a batch",
                    cause: "the writer panicked".to_owned(),
                    heals: false,
                },
            );
        }
    }
}

impl View {
    /// The memtable that owns `lsn` (M1).
    fn owner(&self, lsn: Lsn) -> Option<&Arc<MemTable>> {
        self.mems
            .iter()
            .find(|m| m.start() <= lsn)
            .filter(|m| lsn < m.end())
    }
}

impl Inner {
    pub(super) fn hole(&self) -> Hole<'_> {
        Hole {
            inner: self,
            filled: false,
        }
    }

    pub(super) fn write(&self, batch: &WriteBatch, block: bool) -> Result<Written, StoreError> {
        if batch.is_empty() {
            self.check_health()?;
            let at = self.sequencer.visible();
            return Ok(Written {
                first: at.into(),
                last: at.into(),
                end: at,
            });
        }
        let log = self.journal.own()?;
        self.make_room(MemTable::cost(batch.encoded_len(), batch.len()), block)?;
        let len = batch.encoded_len();
        let reserved = if block {
            log.reserve(len)
        } else {
            log.try_reserve(len)
        };
        let reserved = reserved.map_err(|error| match error {
            LogError::Busy => StoreError::Busy,
            LogError::Closed => StoreError::Closed,
            other => other.into(),
        })?;
        let (lsn, end) = (reserved.lsn(), reserved.end());
        let mut hole = self.hole();
        if let Err(error) = reserved.publish(&[batch.payload()]) {
            // The frame became void, or the log is poisoned; either way there is nothing to insert.
            hole.filled = true;
            self.sequencer.complete(lsn, end);
            return Err(error.into());
        }
        let inserted = self.insert(lsn, BatchReader::trusted(batch));
        hole.filled = true;
        self.sequencer.complete(lsn, end);
        inserted?;
        self.wait_visible(end)?;
        Ok(Written {
            first: lsn.into(),
            last: SeqNo(lsn.0 + batch.len() as u64 - 1),
            end,
        })
    }

    pub(super) fn apply_replicated(
        &self,
        header: &frame::Header,
        payload: &[u8],
    ) -> Result<(), StoreError> {
        self.journal.own()?;
        if header.kind != Kind::Data {
            self.check_health()?;
            self.sequencer.complete(header.lsn, header.end());
            return Ok(());
        }
        let ops = BatchReader::new(payload).map_err(|source| StoreError::Batch {
            lsn: header.lsn,
            source,
        })?;
        // A frame that a frozen memtable owns goes there whatever that holds: the flush waits for it.
        let cost = MemTable::cost(payload.len(), 1);
        if self
            .view
            .load()
            .mems
            .first()
            .is_some_and(|m| m.start() <= header.lsn)
        {
            self.make_room(cost, true)?;
        } else {
            self.check_health()?;
        }
        let mut hole = self.hole();
        let inserted = self.insert(header.lsn, ops);
        hole.filled = true;
        self.sequencer.complete(header.lsn, header.end());
        inserted
    }

    /// Inserts a frame into the memtable that owns it. Not done in a store that was closed meanwhile: the log has the
    /// frame, the next open replays it.
    pub(super) fn insert(&self, lsn: Lsn, ops: BatchReader<'_>) -> Result<(), StoreError> {
        // Loaded after the LSN was reserved: a rotation that put a boundary below it is seen.
        let view = self.view.load();
        if view.closed {
            return Err(StoreError::Closed);
        }
        let mem = view
            .owner(lsn)
            .expect("each LSN not yet visible has a memtable (M1)");
        mem.insert(lsn, ops);
        Ok(())
    }

    /// Waits until everything below `end` is visible.
    pub(super) fn wait_visible(&self, end: Lsn) -> Result<(), StoreError> {
        if self.sequencer.visible() >= end {
            return Ok(());
        }
        if !self.sequencer.wait_briefly(end) {
            self.note_log_frames();
            self.sequencer
                .wait(end)
                .map_err(|_| StoreError::Background {
                    doing: "applying a batch",
                    cause: "another writer failed before its batch was applied".to_owned(),
                    heals: false,
                })?;
        }
        Ok(())
    }

    /// Completes the log's own frames (the beginning of an epoch, void ones) at which `visible` stands: nobody inserts them.
    pub(super) fn note_log_frames(&self) {
        let Ok(log) = self.journal.own() else {
            return;
        };
        loop {
            let visible = self.sequencer.visible();
            if visible >= log.published() {
                return;
            }
            // Only worth a read where an epoch begins, or where a void frame may stand because nobody writes.
            let Ok(mut reader) = log.reader(visible, ReadLimit::Published) else {
                return;
            };
            match reader.next() {
                Ok(Some(frame)) if frame.header.kind != Kind::Data => {
                    self.sequencer
                        .complete(frame.header.lsn, frame.header.end());
                }
                _ => return,
            }
        }
    }

    /// Swaps in a fresh memtable where the active one is full, then books room.
    pub(super) fn make_room(&self, cost: usize, block: bool) -> Result<(), StoreError> {
        let full = |view: &View| {
            let active = view.mems.first().map_or(0, |m| m.bytes());
            active >= self.options.memtable_bytes
        };
        if full(&self.view.load()) {
            self.rotate(|view| full(view) && view.mems.len() <= self.options.memtables_max);
        }
        self.book(cost, block)?;
        // A writer that was held may find the active one full still, with room for another now.
        if block && full(&self.view.load()) {
            self.rotate(|view| full(view) && view.mems.len() <= self.options.memtables_max);
        }
        Ok(())
    }

    /// Freezes the active memtable at the end of what is reserved, and swaps in a fresh one, if `still` says so.
    pub(super) fn rotate(&self, still: impl Fn(&View) -> bool) {
        let _install = self.install.lock();
        let view = self.view.load_full();
        if view.closed || !still(&view) {
            return;
        }
        // Made here, so that nobody waits for memory inside.
        let blank = Blank::new(self.options.memtable_bytes, &self.chunks);
        self.journal.at_boundary(&self.sequencer, |end| {
            let active = &view.mems[0];
            if active.start() == end {
                // It owns no LSN yet; an empty one more would be of no use.
                return;
            }
            active.freeze(end);
            let mut mems = Vec::with_capacity(view.mems.len() + 1);
            mems.push(Arc::new(blank.starting(end)));
            mems.extend(view.mems.iter().cloned());
            self.swap_view(View {
                mems,
                levels: view.levels.clone(),
                closed: false,
            });
        });
        drop(_install);
        self.wake_workers();
    }
}
