//! The tables of a level, one behind the other.
use super::Cursor;
use crate::table::{ReadMode, Table};
use std::sync::Arc;

/// A cursor over tables whose bounds do not overlap, sorted by key; opens the cursor of one at a time.
pub struct LevelCursor {}
impl LevelCursor {
    /// Over `tables`, sorted by smallest key and disjoint (no user key in two of them).
    pub fn new(tables: Arc<[Arc<Table>]>, mode: ReadMode) -> Self {
        todo!()
    }
}
