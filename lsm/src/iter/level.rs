//! The tables of a level, one behind the other.

use super::Cursor;
use crate::SeqNo;
use crate::table::{KeyRef, ReadMode, Table, TableCursor, TableError, VersionKind};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// A cursor over tables whose bounds do not overlap, sorted by key; holds the cursor of one at a time.
pub struct LevelCursor {
    tables: Arc<[Arc<Table>]>,
    mode: ReadMode,
    newest: SeqNo,
    /// The table that `cursor` is over.
    at: usize,
    cursor: Option<TableCursor>,
}

impl fmt::Debug for LevelCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LevelCursor")
            .field("tables", &self.tables.len())
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl LevelCursor {
    /// Over `tables`, sorted by smallest key and disjoint (no user key in two of them).
    #[must_use]
    pub fn new(tables: Arc<[Arc<Table>]>, mode: ReadMode) -> Self {
        debug_assert!(tables.windows(2).all(|pair| {
            let (a, b) = (pair[0].properties(), pair[1].properties());
            a.bounds.ends_before(&b.bounds.smallest)
        }));
        let newest = tables.iter().map(|t| t.properties().newest).max();
        Self {
            tables,
            mode,
            newest: newest.unwrap_or(SeqNo(0)),
            at: 0,
            cursor: None,
        }
    }

    fn entry(&self) -> &TableCursor {
        self.cursor.as_ref().expect("the cursor stands on an entry")
    }

    /// The cursor of table `n`, which there is.
    fn open(&mut self, n: usize) -> &mut TableCursor {
        if self.at != n {
            self.cursor = None;
        }
        self.at = n;
        self.cursor
            .get_or_insert_with(|| self.tables[n].cursor(self.mode))
    }

    /// If the cursor has run out of its table: to the first entry of the next that has one. (A table may hold range
    /// tombstones alone.)
    fn forward(&mut self) -> Result<(), TableError> {
        while !self.valid() && self.at + 1 < self.tables.len() {
            self.open(self.at + 1).seek_to_first()?;
        }
        Ok(())
    }

    fn backward(&mut self) -> Result<(), TableError> {
        while !self.valid() && self.at > 0 {
            self.open(self.at - 1).seek_to_last()?;
        }
        Ok(())
    }
}

impl Cursor for LevelCursor {
    fn valid(&self) -> bool {
        self.cursor.as_ref().is_some_and(TableCursor::valid)
    }

    fn key(&self) -> KeyRef<'_> {
        self.entry().key()
    }

    fn kind(&self) -> VersionKind {
        self.entry().kind()
    }

    fn value(&self) -> Bytes {
        self.entry().value()
    }

    fn value_ref(&self) -> &[u8] {
        self.entry().value_ref()
    }

    fn newest(&self) -> SeqNo {
        self.newest
    }

    fn reset(&mut self) {
        self.cursor = None;
    }

    fn seek_to_first(&mut self) -> Result<(), TableError> {
        self.reset();
        if self.tables.is_empty() {
            return Ok(());
        }
        self.open(0).seek_to_first()?;
        self.forward()
    }

    fn seek_to_last(&mut self) -> Result<(), TableError> {
        self.reset();
        let Some(last) = self.tables.len().checked_sub(1) else {
            return Ok(());
        };
        self.open(last).seek_to_last()?;
        self.backward()
    }

    fn seek(&mut self, target: KeyRef<'_>) -> Result<(), TableError> {
        let n = self
            .tables
            .partition_point(|t| t.properties().bounds.ends_before(target.user));
        if n == self.tables.len() {
            self.reset();
            return Ok(());
        }
        self.open(n).seek(target)?;
        self.forward()
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<(), TableError> {
        let behind = self
            .tables
            .partition_point(|t| t.properties().bounds.smallest.as_ref() <= target.user);
        let Some(n) = behind.checked_sub(1) else {
            self.reset();
            return Ok(());
        };
        self.open(n).seek_for_prev(target)?;
        self.backward()
    }

    fn next(&mut self) -> Result<(), TableError> {
        self.open(self.at).next()?;
        self.forward()
    }

    fn prev(&mut self) -> Result<(), TableError> {
        self.open(self.at).prev()?;
        self.backward()
    }
}
