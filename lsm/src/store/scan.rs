//! Range scans, from both ends.

use super::Inner;
use crate::iter::{Cursor, LevelCursor, RangeTombstones, Visible};
use crate::levels::touches;
use crate::snapshot::Snapshot;
use crate::table::{ReadMode, Table};
use crate::{SeqNo, StoreError};
use bytes::Bytes;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// A key, its value, and the SeqNo of the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Key.
    pub key: Bytes,
    /// Value.
    pub value: Bytes,
    /// SeqNo of the version.
    pub seqno: SeqNo,
}

/// An owned iterator over a range at a snapshot; walks from both ends (not past each other).
///
/// It holds the memtables and tables it reads: neither compaction nor the close of the store take them away. After an
/// error it ends.
pub struct Scan {
    /// `None`: nothing can be in the range.
    sources: Option<Sources>,
    front: End,
    back: End,
    done: bool,
}

/// One end of a scan: its walk, made when it is first asked for, and the key it gave last.
#[derive(Default)]
struct End {
    walk: Option<Visible>,
    last: Option<Bytes>,
}

/// What a walk is made of.
struct Sources {
    mems: Vec<Arc<crate::memtable::MemTable>>,
    l0: Vec<Arc<Table>>,
    levels: Vec<Arc<[Arc<Table>]>>,
    ranges: Vec<Arc<RangeTombstones>>,
    at: SeqNo,
    lower: Bound<Bytes>,
    upper: Bound<Bytes>,
}

impl Sources {
    fn walk(&self) -> Visible {
        let mut cursors: Vec<Box<dyn Cursor>> = Vec::new();
        for mem in &self.mems {
            cursors.push(Box::new(mem.cursor()));
        }
        for table in &self.l0 {
            cursors.push(Box::new(table.cursor(ReadMode::Cached)));
        }
        for tables in &self.levels {
            cursors.push(Box::new(LevelCursor::new(tables.clone(), ReadMode::Cached)));
        }
        Visible::new(
            cursors,
            self.ranges.clone(),
            self.at,
            self.lower.clone(),
            self.upper.clone(),
        )
    }
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan")
            .field("front", &self.front.last)
            .field("back", &self.back.last)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

fn empty(start: &Bound<&[u8]>, end: &Bound<&[u8]>) -> bool {
    use Bound::{Excluded, Included, Unbounded};
    match (start, end) {
        (Unbounded, _) | (_, Unbounded) => false,
        (Included(a), Included(b)) => a > b,
        (Included(a) | Excluded(a), Included(b) | Excluded(b)) => a >= b,
    }
}

impl Inner {
    pub(super) fn scan(
        &self,
        snapshot: &Snapshot,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> Result<Scan, StoreError> {
        debug_assert!(
            snapshot.is_of(&self.snapshots),
            "a snapshot of another store"
        );
        let view = self.view.load_full();
        if view.closed {
            return Err(StoreError::Closed);
        }
        let at = snapshot.at().filter(|_| !empty(&start, &end));
        let Some(at) = at else {
            return Ok(Scan {
                sources: None,
                front: End::default(),
                back: End::default(),
                done: true,
            });
        };
        let lower = start.map(Bytes::copy_from_slice);
        let upper = end.map(Bytes::copy_from_slice);
        let mut ranges: Vec<_> = view.mems.iter().flat_map(|m| m.ranges().runs()).collect();
        let mut touched = |level: usize| -> Result<Vec<Arc<Table>>, StoreError> {
            let mut tables = Vec::new();
            for live in view.levels.level(level) {
                if touches(&live.meta.bounds, &lower, &upper) {
                    let table = live.table()?;
                    if !table.ranges().is_empty() {
                        ranges.push(table.ranges().clone());
                    }
                    tables.push(table.clone());
                }
            }
            Ok(tables)
        };
        let l0 = touched(0)?;
        let mut levels = Vec::new();
        for level in 1..crate::levels::LEVELS {
            let tables = touched(level)?;
            if !tables.is_empty() {
                levels.push(Arc::from(tables));
            }
        }
        let mems = view
            .mems
            .iter()
            .filter(|m| !m.is_empty())
            .cloned()
            .collect();
        Ok(Scan {
            sources: Some(Sources {
                mems,
                l0,
                levels,
                ranges,
                at,
                lower,
                upper,
            }),
            front: End::default(),
            back: End::default(),
            done: false,
        })
    }
}

impl Scan {
    fn advance(&mut self, forward: bool) -> Result<Option<Entry>, StoreError> {
        let (Some(sources), false) = (&self.sources, self.done) else {
            return Ok(None);
        };
        let (end, other) = if forward {
            (&mut self.front, &self.back)
        } else {
            (&mut self.back, &self.front)
        };
        let walk = match &mut end.walk {
            Some(walk) => {
                if forward {
                    walk.next()?
                } else {
                    walk.prev()?
                }
                walk
            }
            none => {
                let walk = none.insert(sources.walk());
                if forward {
                    walk.seek_to_first()?
                } else {
                    walk.seek_to_last()?
                }
                walk
            }
        };
        if !walk.valid() {
            return Ok(None);
        }
        if let Some(met) = &other.last {
            let met = if forward {
                walk.key() >= &met[..]
            } else {
                walk.key() <= &met[..]
            };
            if met {
                return Ok(None);
            }
        }
        let key = Bytes::copy_from_slice(walk.key());
        end.last = Some(key.clone());
        Ok(Some(Entry {
            key,
            value: walk.value().clone(),
            seqno: walk.seqno(),
        }))
    }

    fn step(&mut self, forward: bool) -> Option<Result<Entry, StoreError>> {
        let found = self.advance(forward).transpose();
        if !matches!(found, Some(Ok(_))) {
            // Lets go of what it holds.
            self.done = true;
            self.sources = None;
            self.front.walk = None;
            self.back.walk = None;
        }
        found
    }
}

impl Iterator for Scan {
    type Item = Result<Entry, StoreError>;
    fn next(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}

impl DoubleEndedIterator for Scan {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(false)
    }
}

impl std::iter::FusedIterator for Scan {}
