//! Flush: the oldest frozen memtable becomes a table of L0, and the log is released up to its end.
//!
//! Order, each step durable before the next (L3): log synced past the memtable -> table -> its directory entry ->
//! version edit -> view -> log released. A crash between two of them leaves a table that nobody names, which open removes,
//! and the log from which the memtable is made again.

use super::output::Plan;
use super::{Inner, View};
use crate::StoreError;
use crate::iter::RangeTombstones;
use crate::levels::LiveTable;
use crate::manifest::Edit;
use crate::memtable::MemTable;
use crate::sabotage;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What a turn of a worker did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Done,
    Nothing,
    /// There is work, but it must wait for others: frames that are not applied yet.
    NotYet,
}

impl Inner {
    /// Flushes the oldest frozen memtable.
    pub(super) fn flush_one(&self) -> Result<Turn, StoreError> {
        let _flushing = self.flushing.lock();
        let view = self.view.load_full();
        if view.closed || self.room.is_closing() || view.mems.len() < 2 {
            return Ok(Turn::Nothing);
        }
        let mem = view.mems.last().expect("two or more").clone();
        drop(view);
        let end = mem.end();
        if self.sequencer.visible() < end {
            self.note_log_frames();
            if self.sequencer.visible() < end {
                return Ok(Turn::NotYet);
            }
        }
        let result = self.flush_memtable(&mem);
        match &result {
            // The external log is not synced so far (J2).
            Ok(false) => return Ok(Turn::NotYet),
            Ok(true) => {
                self.room.heal();
                // L0 has grown.
                self.wake_workers();
            }
            Err(error) => self.fail("flushing a memtable", error),
        }
        result.map(|_| Turn::Done)
    }

    /// False where it must wait for an external log.
    fn flush_memtable(&self, mem: &Arc<MemTable>) -> Result<bool, StoreError> {
        self.settle_doubtful()?;
        let end = mem.end();
        let points = self.snapshots.read_points(&self.sequencer);
        if !sabotage::on(sabotage::TABLE_BEFORE_LOG) && !self.journal.sync_up_to(end)? {
            return Ok(false);
        }
        let tables = if mem.is_empty() {
            Vec::new()
        } else {
            let ranges = RangeTombstones::needed_by(mem.ranges().list(), &points);
            let plan = Plan {
                points,
                ranges,
                below: None,
                split_bytes: None,
            };
            self.write_run(&mut mem.cursor(), plan)?
        };
        let bytes: u64 = tables.iter().map(|t| t.meta.bytes).sum();
        let flushed = if sabotage::on(sabotage::FLUSHED_TOO_HIGH) {
            self.journal.end(&self.sequencer)
        } else {
            end
        };
        let edit = Edit {
            flushed: Some(flushed),
            added: tables.iter().map(|t| (0, t.meta.clone())).collect(),
            ..Edit::default()
        };
        self.install(
            edit,
            tables.into_iter().map(|t| (0, t)).collect(),
            Some(mem),
        )?;
        self.journal.release(flushed);
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.counters
            .bytes_flushed
            .fetch_add(bytes, Ordering::Relaxed);
        Ok(true)
    }

    /// Makes an edit durable, then visible: swaps the view for one with the edit's tables, without `flushed`.
    ///
    /// On an error the edit may be durable or not, and no file that it names may be removed (A4).
    pub(super) fn install(
        &self,
        edit: Edit,
        added: Vec<(usize, Arc<LiveTable>)>,
        flushed: Option<&Arc<MemTable>>,
    ) -> Result<(), StoreError> {
        let mut manifest = self.manifest.lock();
        // Levels change under the manifest's lock alone, so this is still right after the append.
        let view = self.view.load_full();
        let levels = view.levels.edited(&edit.removed, &added);
        let levels = Arc::new(levels.map_err(|what| StoreError::Corrupt {
            path: self.tables.clone(),
            offset: 0,
            what: format!("a version edit would break the levels: {what}"),
        })?);
        let built = |file: u64| view.levels.iter().all(|(_, t)| t.meta.file != file);
        if let Err(error) = manifest.append(edit) {
            let files = added.iter().map(|(_, t)| t.meta.file);
            self.doubtful.lock().extend(files.filter(|f| built(*f)));
            return Err(error);
        }
        // Release pairs with the acquire of who lets an external log forget what is below.
        self.durable
            .store(manifest.listed().flushed.0, Ordering::Release);
        drop(view);
        let _install = self.install.lock();
        let view = self.view.load_full();
        let mems = view
            .mems
            .iter()
            .filter(|m| flushed.is_none_or(|f| !Arc::ptr_eq(f, m)))
            .cloned()
            .collect();
        self.swap_view(View {
            mems,
            levels,
            closed: view.closed,
        });
        Ok(())
    }

    /// After an append that failed: a new manifest, without that edit, and then away with the tables it named. Else each try on
    /// a full disk would leave another one.
    pub(super) fn settle_doubtful(&self) -> Result<(), StoreError> {
        if self.doubtful.lock().is_empty() {
            return Ok(());
        }
        let mut manifest = self.manifest.lock();
        // Taken under the manifest's lock: an edit that fails later is not in this list.
        let files = std::mem::take(&mut *self.doubtful.lock());
        if let Err(error) = manifest.renew() {
            self.doubtful.lock().extend(files);
            return Err(error);
        }
        drop(manifest);
        self.remove_tables(files);
        Ok(())
    }

    /// Freezes the active memtable and waits until it, and what was frozen before, is in tables.
    pub(super) fn flush_all(&self) -> Result<(), StoreError> {
        self.check_health()?;
        let upto = self.journal.end(&self.sequencer);
        self.rotate(|view| view.mems[0].start() < upto);
        loop {
            let view = self.view.load_full();
            if view.closed {
                return Err(StoreError::Closed);
            }
            let pending = view.mems[1..].iter().any(|m| m.start() < upto);
            drop(view);
            if !pending {
                return Ok(());
            }
            self.check_health()?;
            // In this thread: whoever holds `flushing` finishes first, then the next is ours.
            if self.flush_one()? == Turn::NotYet {
                if self.stepped {
                    return Err(StoreError::Busy);
                }
                std::thread::sleep(Duration::from_millis(1));
            } else {
                self.wake_workers();
            }
        }
    }
}
