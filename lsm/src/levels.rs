//! The live tables, by level. Immutable: an edit makes a new [`Levels`], readers keep the one they hold.
//!
//! - V1: what stands higher is newer: for each key, all that L0 says about it is newer than what L1 says, and so on.
//!   Within L0 the tables own disjoint ranges of SeqNos, and stand newest first.
//! - V2: from L1 on the tables of a level have disjoint bounds, range tombstones included, and stand by smallest key; all
//!   versions of a key are in one table.
//! - V3: so the first source that says something about a key, point or range, decides.
//!
//! A table that could not be opened stays listed with its error: it blocks the keys in its bounds, not the store (L4).

use crate::SeqNo;
use crate::StoreError;
use crate::memtable::Hit;
use crate::table::{KeyBounds, Properties, Table, TableError};
use bytes::Bytes;
use std::ops::Bound;
use std::sync::Arc;

/// L0 to L6.
pub(crate) const LEVELS: usize = 7;

/// What the manifest says about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableMeta {
    pub file: u64,
    pub bytes: u64,
    pub entries: u64,
    pub deletes: u64,
    pub range_deletes: u64,
    pub oldest: SeqNo,
    pub newest: SeqNo,
    pub bounds: KeyBounds,
}

impl TableMeta {
    pub(crate) fn new(file: u64, bytes: u64, properties: &Properties) -> TableMeta {
        TableMeta {
            file,
            bytes,
            entries: properties.entries,
            deletes: properties.deletes,
            range_deletes: properties.range_deletes,
            oldest: properties.oldest,
            newest: properties.newest,
            bounds: properties.bounds.clone(),
        }
    }

    /// Whether a table that was opened is the one meant.
    pub(crate) fn agrees(&self, table: &Table) -> bool {
        *self == TableMeta::new(table.file(), table.file_bytes(), table.properties())
    }
}

/// A table that the manifest names.
#[derive(Debug)]
pub(crate) struct LiveTable {
    pub meta: TableMeta,
    table: Result<Arc<Table>, TableError>,
}

impl LiveTable {
    pub(crate) fn new(meta: TableMeta, table: Result<Arc<Table>, TableError>) -> Arc<LiveTable> {
        Arc::new(LiveTable { meta, table })
    }

    pub(crate) fn table(&self) -> Result<&Arc<Table>, StoreError> {
        self.table.as_ref().map_err(|e| StoreError::from(e.clone()))
    }

    /// Point and range tombstone that it has for `key`, decided.
    fn get(&self, key: &[u8], at: SeqNo) -> Result<Option<Hit>, StoreError> {
        let table = self.table()?;
        let ranges = table.ranges();
        let over = if ranges.is_empty() {
            None
        } else {
            ranges.covering(key, at)
        };
        let point = table.get(key, at)?.map(|v| (v.seqno, v.kind, v.value));
        Ok(Hit::decide(point, over))
    }
}

/// The live tables. See the module.
#[derive(Clone, Debug)]
pub(crate) struct Levels {
    levels: [Arc<Vec<Arc<LiveTable>>>; LEVELS],
}

impl Default for Levels {
    fn default() -> Self {
        Levels {
            levels: std::array::from_fn(|_| Arc::default()),
        }
    }
}

impl Levels {
    pub(crate) fn level(&self, level: usize) -> &[Arc<LiveTable>] {
        &self.levels[level]
    }

    /// All tables, with their levels.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Arc<LiveTable>)> {
        self.levels
            .iter()
            .enumerate()
            .flat_map(|(i, level)| level.iter().map(move |t| (i, t)))
    }

    pub(crate) fn table_count(&self) -> usize {
        self.levels.iter().map(|l| l.len()).sum()
    }

    pub(crate) fn bytes(&self, level: usize) -> u64 {
        self.levels[level].iter().map(|t| t.meta.bytes).sum()
    }

    /// Without `removed` (file numbers), with `added`. Panics when V2 would break: that is broken logic, and must not
    /// reach the disk.
    pub(crate) fn edited(
        &self,
        removed: &[(usize, u64)],
        added: &[(usize, Arc<LiveTable>)],
    ) -> Result<Levels, String> {
        let mut next = self.clone();
        for level in 0..LEVELS {
            let touched =
                removed.iter().any(|r| r.0 == level) || added.iter().any(|a| a.0 == level);
            if !touched {
                continue;
            }
            let gone = |file: u64| removed.contains(&(level, file));
            let before = self.levels[level].len();
            let mut tables: Vec<_> = self.levels[level]
                .iter()
                .filter(|t| !gone(t.meta.file))
                .cloned()
                .collect();
            let want = removed.iter().filter(|r| r.0 == level).count();
            if before - tables.len() != want {
                return Err(format!("a table to be removed from L{level} is not there"));
            }
            tables.extend(added.iter().filter(|a| a.0 == level).map(|a| a.1.clone()));
            if level == 0 {
                tables.sort_by_key(|t| std::cmp::Reverse((t.meta.newest, t.meta.file)));
                if tables
                    .windows(2)
                    .any(|w| w[0].meta.oldest <= w[1].meta.newest)
                {
                    return Err("two tables of L0 overlap in SeqNos".to_owned());
                }
            } else {
                tables.sort_by(|a, b| a.meta.bounds.smallest.cmp(&b.meta.bounds.smallest));
                if tables
                    .windows(2)
                    .any(|w| w[0].meta.bounds.overlaps(&w[1].meta.bounds))
                {
                    return Err(format!("two tables of L{level} overlap"));
                }
            }
            next.levels[level] = Arc::new(tables);
        }
        Ok(next)
    }

    /// What the tables say about `key` to a reader at `at` (V3).
    pub(crate) fn get(&self, key: &[u8], at: SeqNo) -> Result<Option<Hit>, StoreError> {
        for table in self.levels[0].iter() {
            if table.meta.bounds.contains(key)
                && let Some(hit) = table.get(key, at)?
            {
                return Ok(Some(hit));
            }
        }
        for level in &self.levels[1..] {
            let first = level.partition_point(|t| t.meta.bounds.ends_before(key));
            if let Some(table) = level.get(first)
                && table.meta.bounds.contains(key)
                && let Some(hit) = table.get(key, at)?
            {
                return Ok(Some(hit));
            }
        }
        Ok(None)
    }

    /// Tables of a level that have a key in common with `bounds`.
    pub(crate) fn overlapping(&self, level: usize, bounds: &KeyBounds) -> Vec<Arc<LiveTable>> {
        self.levels[level]
            .iter()
            .filter(|t| t.meta.bounds.overlaps(bounds))
            .cloned()
            .collect()
    }

    /// Whether a level below `level` may say something about `start..end` (empty end: none).
    pub(crate) fn anything_below(&self, level: usize, start: &[u8], end: &[u8]) -> bool {
        self.levels[level + 1..].iter().any(|tables| {
            let first = tables.partition_point(|t| t.meta.bounds.ends_before(start));
            tables
                .get(first)
                .is_some_and(|t| end.is_empty() || t.meta.bounds.smallest.as_ref() < end)
        })
    }

    /// As `anything_below`, for one key.
    pub(crate) fn key_below(&self, level: usize, key: &[u8]) -> bool {
        self.levels[level + 1..].iter().any(|tables| {
            let first = tables.partition_point(|t| t.meta.bounds.ends_before(key));
            tables
                .get(first)
                .is_some_and(|t| t.meta.bounds.contains(key))
        })
    }
}

/// Whether `bounds` has a key within `lower..upper`.
pub(crate) fn touches(bounds: &KeyBounds, lower: &Bound<Bytes>, upper: &Bound<Bytes>) -> bool {
    let below = match lower {
        Bound::Included(k) | Bound::Excluded(k) => bounds.ends_before(k),
        Bound::Unbounded => false,
    };
    let above = match upper {
        Bound::Included(k) => bounds.smallest > *k,
        Bound::Excluded(k) => bounds.smallest >= *k,
        Bound::Unbounded => false,
    };
    !below && !above
}
