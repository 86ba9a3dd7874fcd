//! Writes what a flush or a compaction keeps of a run of versions, as tables.
//!
//! - O1: a version is dropped only when no reader can ask for it ([`ReadPoints`]): a newer version of its key, or a range
//!   tombstone over it, is seen by everybody who could see it.
//! - O2: a tombstone, point or range, is dropped only when every reader sees it (it is at or below the lowest read point)
//!   and nothing below the output level may hold its key (L2). What it covers within the run is then dropped too: by
//!   the next version's rule for points, by [`Output::covered`] for ranges.
//! - O3: outputs are split between user keys only, and range tombstones are clipped at the splits, so the tables of a
//!   level stay disjoint (V2).
//! - O4: a table is synced, and its directory entry too, before [`Output::finish`] returns; no file is overwritten, because a
//!   number is given out once and creation fails where a file exists.

use super::Inner;
use super::leisure::Leisure;
use crate::iter::{Cursor, RangeTombstones, ReadPoints};
use crate::levels::{Levels, LiveTable, TableMeta};
use crate::manifest::table_name;
use crate::sabotage;
use crate::table::{Table, TableBuilder, TableError, VersionKind};
use crate::{SeqNo, StoreError};
use std::path::PathBuf;
use std::sync::Arc;

/// What becomes of a run.
pub(super) struct Plan<'a> {
    pub points: ReadPoints,
    /// Range tombstones of the run.
    pub ranges: RangeTombstones,
    /// Level that the tables go to, and what lies below it. `None` keeps every tombstone.
    pub below: Option<(usize, &'a Levels)>,
    /// Where to begin a new table; `None` writes one.
    pub split_bytes: Option<u64>,
}

struct Output<'a> {
    inner: &'a Inner,
    plan: Plan<'a>,
    /// Range tombstones that stay.
    ranges: RangeTombstones,
    building: Option<(TableBuilder, u64, PathBuf)>,
    leisure: Leisure<'a>,
    /// Of the table being built, what is handed to the disk.
    handed: u64,
    /// First key of the table being built; everything from there on belongs to it.
    from: Vec<u8>,
    built: Vec<Arc<LiveTable>>,
}

impl Inner {
    /// Writes what `plan` keeps of the versions of `cursor`. On an error nothing is left behind.
    pub(super) fn write_run(
        &self,
        cursor: &mut dyn Cursor,
        plan: Plan<'_>,
    ) -> Result<Vec<Arc<LiveTable>>, StoreError> {
        let ranges = match plan.below {
            None => plan.ranges.clone(),
            Some((level, levels)) => plan.ranges.without(plan.points.oldest(), |start, end| {
                sabotage::on(sabotage::TOMBSTONE_DROPPED_EARLY)
                    || !levels.anything_below(level, start, end)
            }),
        };
        let mut output = Output {
            inner: self,
            leisure: Leisure::of(self, plan.below.map(|(level, _)| level)),
            handed: 0,
            plan,
            ranges,
            building: None,
            from: Vec::new(),
            built: Vec::new(),
        };
        let done = output.run(cursor).and_then(|()| {
            if output.built.is_empty() || sabotage::on(sabotage::DIR_NOT_SYNCED) {
                return Ok(());
            }
            self.context
                .media
                .sync_dir(&self.tables)
                .map_err(|e| StoreError::io("syncing", &self.tables, e))
        });
        match done {
            Ok(()) => Ok(output.built),
            Err(error) => {
                output.abandon();
                Err(error)
            }
        }
    }

    /// Opens a table that the manifest is to name.
    pub(super) fn open_table(&self, file: u64) -> Result<Arc<Table>, TableError> {
        Table::open(&self.context, &self.tables.join(table_name(file)), file)
    }

    /// Removes tables that are named by nobody. Left behind when it fails: the next open removes them.
    pub(super) fn remove_tables(&self, files: impl IntoIterator<Item = u64>) {
        for file in files {
            let path = self.tables.join(table_name(file));
            if let Err(error) = self.context.media.remove(&path) {
                tracing::warn!(path = %path.display(), %error, "a table that is not needed any more can't be removed");
            }
        }
    }
}

impl Output<'_> {
    fn run(&mut self, cursor: &mut dyn Cursor) -> Result<(), StoreError> {
        let mut key = Vec::new();
        // SeqNo of the version before this one, of the same key, kept or dropped.
        let mut newer: Option<SeqNo> = None;
        cursor.seek_to_first()?;
        while cursor.valid() {
            let entry = cursor.key();
            let same = newer.is_some() && entry.user == &key[..];
            if !same {
                key.clear();
                key.extend_from_slice(entry.user);
                newer = None;
            }
            let seqno = entry.seqno;
            let keep = self.keeps(&key, seqno, cursor.kind(), newer);
            if keep {
                if !same {
                    self.split(&key)?;
                } else if self.building.is_none() {
                    // An older version is kept, the newer ones of its key were not; no split between them.
                    self.begin()?;
                }
                let entry = cursor.key();
                let (builder, _, _) = match &mut self.building {
                    Some(building) => building,
                    none => none.insert(self.inner.begin_table()?),
                };
                builder.add(entry, cursor.kind(), cursor.value_ref())?;
                let handed = builder.written_back();
                if handed != self.handed {
                    self.leisure.wrote(handed.saturating_sub(self.handed));
                    self.handed = handed;
                }
            }
            newer = Some(seqno);
            // Under a range tombstone that every reader sees, whole tables may be passed over unread (O2).
            let over = self.plan.points.oldest();
            if !keep
                && let Some(over) = self.plan.ranges.covering_tombstone(&key, over)
                && over.seqno > seqno
                && cursor.pass_covered(&over.end, over.seqno)?
            {
                continue;
            }
            if seqno <= self.plan.points.oldest() {
                // Every reader sees this version, so none asks for an older one (O1).
                cursor.next_wanting_no_older()?;
            } else {
                cursor.next()?;
            }
        }
        self.finish_table(&[])?;
        Ok(())
    }

    fn keeps(&self, key: &[u8], seqno: SeqNo, kind: VersionKind, newer: Option<SeqNo>) -> bool {
        let points = &self.plan.points;
        if let Some(newer) = newer
            && !points.needs(seqno, newer)
        {
            return false;
        }
        if self.covered(key, seqno) {
            return false;
        }
        if kind == VersionKind::Delete
            && seqno <= points.oldest()
            && let Some((level, levels)) = self.plan.below
            && (sabotage::on(sabotage::TOMBSTONE_DROPPED_EARLY) || !levels.key_below(level, key))
        {
            return false;
        }
        true
    }

    /// Whether a range tombstone of the run hides the version from every reader who could see it.
    fn covered(&self, key: &[u8], seqno: SeqNo) -> bool {
        let ranges = &self.plan.ranges;
        if ranges.is_empty() {
            return false;
        }
        let points = &self.plan.points;
        // One that every reader sees; it may be dropped itself (O2).
        if ranges
            .covering(key, points.oldest())
            .is_some_and(|over| over > seqno)
        {
            return true;
        }
        ranges
            .covering(key, SeqNo::MAX)
            .is_some_and(|over| over > seqno && !points.needs(seqno, over))
    }

    /// Ends the table being built where it is large enough; `key` is the first of the next.
    fn split(&mut self, key: &[u8]) -> Result<(), StoreError> {
        if let (Some((builder, _, _)), Some(split)) = (&self.building, self.plan.split_bytes)
            && builder.estimated_bytes() >= split
        {
            self.finish_table(key)?;
        }
        if self.building.is_none() {
            self.begin()?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.building = Some(self.inner.begin_table()?);
        Ok(())
    }

    /// Ends the table, with the range tombstones from its first key to `until` (empty: no end).
    fn finish_table(&mut self, until: &[u8]) -> Result<(), StoreError> {
        let ranges = self.ranges.clip(&self.from, until);
        self.from = until.to_vec();
        if self.building.is_none() {
            if ranges.is_empty() {
                return Ok(());
            }
            self.begin()?;
        }
        let Some((mut builder, file, path)) = self.building.take() else {
            return Ok(());
        };
        for tombstone in ranges.iter() {
            if let Err(error) = builder.add_range(tombstone) {
                builder.abandon();
                return Err(error.into());
            }
        }
        let (properties, bytes) = match builder.finish() {
            Ok(done) => done,
            Err(error) => {
                let _ = self.inner.context.media.remove(&path);
                return Err(error.into());
            }
        };
        let meta = TableMeta::new(file, bytes, &properties);
        // Read back before it is relied on: a table that can't be opened is never installed.
        let opened = self.inner.open_table(file);
        let table = match opened {
            Ok(table) if meta.agrees(&table) => table,
            other => {
                let _ = self.inner.context.media.remove(&path);
                other?;
                return Err(StoreError::Corrupt {
                    path,
                    offset: 0,
                    what: "a table just written reads back otherwise".to_owned(),
                });
            }
        };
        self.built.push(LiveTable::new(meta, Ok(table)));
        Ok(())
    }

    fn abandon(self) {
        if let Some((builder, _, _)) = self.building {
            builder.abandon();
        }
        self.inner
            .remove_tables(self.built.iter().map(|t| t.meta.file));
    }
}

impl Inner {
    fn begin_table(&self) -> Result<(TableBuilder, u64, PathBuf), StoreError> {
        let file = self.manifest.lock().next_file();
        let path = self.tables.join(table_name(file));
        let builder = TableBuilder::create(&self.context, &path, file, self.table_options.clone())?;
        Ok((builder, file, path))
    }
}
