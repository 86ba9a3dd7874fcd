//! Many cursors as one.
use super::Cursor;

/// Merges cursors, both ways. Of equal entries the earlier source's comes first.
pub struct MergeCursor {}
impl MergeCursor {
    /// Merges `sources`, newest first.
    pub fn new(sources: Vec<Box<dyn Cursor>>) -> Self {
        todo!()
    }
}
// impl Cursor for MergeCursor
