//! Walks a table.
use super::{KeyRef, TableError, VersionKind};
use crate::SeqNo;
use crate::iter::Cursor;
use bytes::Bytes;

/// A cursor over a table's point versions. Owned: holds its table.
#[derive(Debug)]
pub struct TableCursor {}
impl Cursor for TableCursor {
    fn valid(&self) -> bool {
        todo!()
    }
    fn key(&self) -> KeyRef<'_> {
        todo!()
    }
    fn kind(&self) -> VersionKind {
        todo!()
    }
    fn value(&self) -> Bytes {
        todo!()
    }
    fn value_ref(&self) -> &[u8] {
        todo!()
    }
    fn newest(&self) -> SeqNo {
        todo!()
    }
    fn reset(&mut self) {
        todo!()
    }
    fn seek_to_first(&mut self) -> Result<(), TableError> {
        todo!()
    }
    fn seek_to_last(&mut self) -> Result<(), TableError> {
        todo!()
    }
    fn seek(&mut self, _: KeyRef<'_>) -> Result<(), TableError> {
        todo!()
    }
    fn seek_for_prev(&mut self, _: KeyRef<'_>) -> Result<(), TableError> {
        todo!()
    }
    fn next(&mut self) -> Result<(), TableError> {
        todo!()
    }
    fn prev(&mut self) -> Result<(), TableError> {
        todo!()
    }
}
