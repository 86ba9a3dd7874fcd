//! Walks a table.
//!
//! Two cursors: one in the index, one in the data block that it names. The data cursor stands on an entry exactly when the whole does.

use super::block::{BlockCursor, Malformed};
use super::reader::ReadAhead;
use super::{KeyRef, ReadMode, Table, TableError, VersionKind};
use crate::SeqNo;
use crate::iter::Cursor;
use bytes::Bytes;
use std::sync::Arc;

/// A cursor over a table's point versions. Owned: holds its table.
#[derive(Debug)]
pub struct TableCursor {
    table: Arc<Table>,
    mode: ReadMode,
    ahead: ReadAhead,
    /// `None` when the table has no points.
    index: Option<BlockCursor>,
    data: Option<BlockCursor>,
    /// Offset of the block in `data`.
    data_offset: u64,
}

impl TableCursor {
    pub(crate) fn new(table: Arc<Table>, mode: ReadMode) -> Self {
        let index = table
            .index()
            .map(|index| BlockCursor::new(index.block().clone()));
        Self {
            table,
            mode,
            ahead: ReadAhead::default(),
            index,
            data: None,
            data_offset: 0,
        }
    }

    /// Where the block stood on begins.
    pub(crate) fn block_offset(&self) -> u64 {
        self.data_offset
    }

    fn entry(&self) -> &BlockCursor {
        self.data.as_ref().expect("the cursor stands on an entry")
    }

    /// Moves the index; on an error, or past an end, the whole stands on no entry.
    fn in_index(
        &mut self,
        go: impl FnOnce(&mut BlockCursor) -> Result<(), Malformed>,
    ) -> Result<bool, TableError> {
        let Some(index) = &mut self.index else {
            return Ok(false);
        };
        if let Err(what) = go(index) {
            self.reset();
            return Err(self.table.malformed(self.table.index_offset(), what));
        }
        let valid = index.valid();
        if !valid {
            self.reset();
        }
        Ok(valid)
    }

    /// To the only block that may hold `target`.
    fn seek_index(&mut self, target: KeyRef<'_>) -> Result<bool, TableError> {
        let Some(index) = self.table.index() else {
            return Ok(false);
        };
        match index.position(target) {
            Ok(n) => self.in_index(|index| index.seek_to_restart(n)),
            Err(what) => self.in_index(|_| Err(what)),
        }
    }

    /// Moves within the block that the index names, reading it where it is another one than before.
    fn in_block(
        &mut self,
        go: impl FnOnce(&mut BlockCursor) -> Result<(), Malformed>,
    ) -> Result<(), TableError> {
        let result = self.load().and_then(|()| {
            let data = self.data.as_mut().expect("loaded");
            go(data).map_err(|what| self.table.malformed(self.data_offset, what))
        });
        if result.is_err() {
            self.reset();
        }
        result
    }

    fn load(&mut self) -> Result<(), TableError> {
        let index = self.index.as_ref().expect("the index names a block");
        let handle = self.table.parse_handle(index.value_ref())?;
        if self.data.is_some() && self.data_offset == handle.offset {
            return Ok(());
        }
        let block = match self.mode {
            ReadMode::Cached => self.table.block(handle)?,
            ReadMode::Once => self.table.block_once(handle, &mut self.ahead)?,
        };
        self.data_offset = handle.offset;
        match &mut self.data {
            Some(data) => data.set_block(block),
            None => self.data = Some(BlockCursor::new(block)),
        }
        Ok(())
    }
}

impl Cursor for TableCursor {
    fn valid(&self) -> bool {
        self.data.as_ref().is_some_and(BlockCursor::valid)
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
        self.table.properties().newest
    }

    fn reset(&mut self) {
        if let Some(data) = &mut self.data {
            data.reset();
        }
    }

    fn seek_to_first(&mut self) -> Result<(), TableError> {
        if self.in_index(BlockCursor::seek_to_first)? {
            self.in_block(BlockCursor::seek_to_first)?;
        }
        Ok(())
    }

    fn seek_to_last(&mut self) -> Result<(), TableError> {
        if self.in_index(BlockCursor::seek_to_last)? {
            self.in_block(BlockCursor::seek_to_last)?;
        }
        Ok(())
    }

    fn seek(&mut self, target: KeyRef<'_>) -> Result<(), TableError> {
        if !self.seek_index(target)? {
            return Ok(());
        }
        self.in_block(|data| data.seek(target))?;
        // Behind the block's last entry, at or before its index key: the next block's first it is.
        if !self.valid() && self.in_index(BlockCursor::next)? {
            self.in_block(BlockCursor::seek_to_first)?;
        }
        Ok(())
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<(), TableError> {
        if !self.seek_index(target)? {
            return self.seek_to_last();
        }
        self.in_block(|data| data.seek_for_prev(target))?;
        if !self.valid() && self.in_index(BlockCursor::prev)? {
            self.in_block(BlockCursor::seek_to_last)?;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<(), TableError> {
        self.in_block(BlockCursor::next)?;
        if !self.valid() && self.in_index(BlockCursor::next)? {
            self.in_block(BlockCursor::seek_to_first)?;
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<(), TableError> {
        self.in_block(BlockCursor::prev)?;
        if !self.valid() && self.in_index(BlockCursor::prev)? {
            self.in_block(BlockCursor::seek_to_last)?;
        }
        Ok(())
    }
}
