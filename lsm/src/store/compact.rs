//! Leveled compaction: L0 by count, the levels below by size.
//!
//! - K1: the inputs are tables of one level and every table of the next that overlaps them, bounds of range tombstones
//!   included; from L0 all tables that were there when it began. So what goes down is older than what stays up (V1).
//! - K2: inputs stay until the edit that replaces them is durable; an error at any point leaves them live and removes what
//!   was written, unless the edit may be durable (A4).
//! - K3: what a flush installs meanwhile stays: an edit names what it removes.
//! - K4: a table that overlaps nothing in the next level is moved by an edit alone, except where its tombstones could be dropped.

use super::Inner;
use super::flush::Turn;
use super::output::Plan;
use crate::iter::{Cursor, LevelCursor, MergeCursor, RangeTombstones, ReadPoints};
use crate::levels::{LEVELS, Levels, LiveTable};
use crate::manifest::Edit;
use crate::table::{KeyBounds, ReadMode, Table};
use crate::{SeqNo, StoreError, sabotage};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Held by the one who compacts.
#[derive(Debug, Default)]
pub(super) struct Compacting {
    /// Tables that were found to be mostly tombstones and could not be helped by a compaction, so as not to try again.
    tried: Vec<u64>,
}

/// What to merge: `inputs` of `level` with `next` of the level below.
#[derive(Debug)]
struct Job {
    level: usize,
    inputs: Vec<Arc<LiveTable>>,
    next: Vec<Arc<LiveTable>>,
}

fn bounds_of(tables: &[Arc<LiveTable>]) -> Option<KeyBounds> {
    let mut all = tables.iter().map(|t| &t.meta.bounds);
    let first = all.next()?.clone();
    Some(all.fold(first, |bounds, more| bounds.union(more)))
}

impl Job {
    fn new(levels: &Levels, level: usize, inputs: Vec<Arc<LiveTable>>) -> Option<Job> {
        let bounds = bounds_of(&inputs)?;
        let next = levels.overlapping(level + 1, &bounds);
        Some(Job {
            level,
            inputs,
            next,
        })
    }
}

impl Inner {
    fn level_bytes_max(&self, level: usize) -> u64 {
        let mut max = self.options.level_base_bytes.max(1);
        for _ in 1..level {
            max = max.saturating_mul(10);
        }
        max
    }

    /// The most urgent work, if any is due.
    fn pick(&self, levels: &Levels, tried: &[u64]) -> Option<Job> {
        let mut best: Option<(f64, usize)> = None;
        for level in 0..LEVELS - 1 {
            let score = if level == 0 {
                levels.level(0).len() as f64 / self.options.l0_tables.0 as f64
            } else {
                // Full only when above its size: at exactly 1 it may rest.
                levels.bytes(level) as f64 / self.level_bytes_max(level) as f64 - f64::EPSILON
            };
            if score >= 1.0 && best.is_none_or(|(b, _)| score > b) {
                best = Some((score, level));
            }
        }
        if let Some((_, level)) = best {
            return self.pick_from(levels, level);
        }
        // Nothing is too large. A table that is mostly tombstones makes scans slow: send it down.
        for (level, table) in levels.iter() {
            let meta = &table.meta;
            let dense = meta.deletes * 2 > meta.entries && meta.deletes >= 1024;
            if level > 0 && level < LEVELS - 1 && dense && !tried.contains(&meta.file) {
                return Job::new(levels, level, vec![table.clone()]);
            }
        }
        None
    }

    fn pick_from(&self, levels: &Levels, level: usize) -> Option<Job> {
        if level == 0 {
            return Job::new(levels, 0, levels.level(0).to_vec());
        }
        // The table that drags along the least, for its size.
        let cost = |table: &Arc<LiveTable>| {
            let below: u64 = levels
                .overlapping(level + 1, &table.meta.bounds)
                .iter()
                .map(|t| t.meta.bytes)
                .sum();
            (
                below as f64 / table.meta.bytes.max(1) as f64,
                table.meta.file,
            )
        };
        let table = levels
            .level(level)
            .iter()
            .map(|t| (cost(t), t))
            .min_by(|a, b| a.0.0.total_cmp(&b.0.0).then(a.0.1.cmp(&b.0.1)))?
            .1;
        Job::new(levels, level, vec![table.clone()])
    }

    /// Does one compaction, if one is due.
    pub(super) fn compact_one(&self) -> Result<Turn, StoreError> {
        let mut compacting = self.compacting.lock();
        let view = self.view.load_full();
        if view.closed {
            return Ok(Turn::Nothing);
        }
        let levels = view.levels.clone();
        drop(view);
        let Some(job) = self.pick(&levels, &compacting.tried) else {
            return Ok(Turn::Nothing);
        };
        let made = self.compact(&levels, &job)?;
        compacting
            .tried
            .retain(|file| levels.iter().any(|(_, t)| t.meta.file == *file));
        compacting.tried.extend(made);
        Ok(Turn::Done)
    }

    /// Merges everything into the lowest level that holds something; a last time where that still drops tombstones.
    pub(super) fn compact_all(&self) -> Result<(), StoreError> {
        let _compacting = self.compacting.lock();
        for level in 0..LEVELS - 1 {
            let view = self.view.load_full();
            if view.closed {
                return Err(StoreError::Closed);
            }
            let levels = view.levels.clone();
            drop(view);
            self.check_health()?;
            let deeper = (level + 1..LEVELS).any(|l| !levels.level(l).is_empty());
            if level > 0 && !deeper {
                return Ok(());
            }
            if let Some(job) = Job::new(&levels, level, levels.level(level).to_vec()) {
                self.compact(&levels, &job)?;
            }
        }
        Ok(())
    }

    /// Runs a job. Gives the file numbers of what it made.
    fn compact(&self, levels: &Levels, job: &Job) -> Result<Vec<u64>, StoreError> {
        let result = self.run_job(levels, job);
        match &result {
            Ok(_) => self.room.heal(),
            Err(error) => self.fail("compacting tables", error),
        }
        self.wake_workers();
        result
    }

    fn run_job(&self, levels: &Levels, job: &Job) -> Result<Vec<u64>, StoreError> {
        self.settle_doubtful()?;
        let to = job.level + 1;
        let mut removed: Vec<_> = job
            .inputs
            .iter()
            .map(|t| (job.level, t.meta.file))
            .collect();
        if job.next.is_empty() && job.inputs.len() == 1 && !self.gains(levels, to, &job.inputs[0]) {
            let moved = job.inputs[0].clone();
            let edit = Edit {
                removed,
                added: vec![(to, moved.meta.clone())],
                ..Edit::default()
            };
            let file = moved.meta.file;
            self.install(edit, vec![(to, moved)], None)?;
            self.counters.compactions.fetch_add(1, Ordering::Relaxed);
            return Ok(vec![file]);
        }
        removed.extend(job.next.iter().map(|t| (to, t.meta.file)));
        let points = if sabotage::on(sabotage::SNAPSHOTS_IGNORED) {
            ReadPoints::new(Vec::new(), SeqNo::MAX)
        } else {
            self.snapshots.read_points(&self.sequencer)
        };
        let mut cursors: Vec<Box<dyn Cursor>> = Vec::new();
        let mut tombstones = Vec::new();
        let mut opened = |tables: &[Arc<LiveTable>]| -> Result<Vec<Arc<Table>>, StoreError> {
            let mut all = Vec::with_capacity(tables.len());
            for live in tables {
                let table = live.table()?;
                tombstones.extend(table.ranges().iter());
                all.push(table.clone());
            }
            Ok(all)
        };
        let inputs = opened(&job.inputs)?;
        if job.level == 0 {
            for table in &inputs {
                cursors.push(Box::new(table.cursor(ReadMode::Once)));
            }
        } else {
            cursors.push(Box::new(LevelCursor::new(inputs.into(), ReadMode::Once)));
        }
        let next = opened(&job.next)?;
        if !next.is_empty() {
            cursors.push(Box::new(LevelCursor::new(next.into(), ReadMode::Once)));
        }
        let plan = Plan {
            ranges: RangeTombstones::needed_by(tombstones, &points),
            points,
            below: Some((to, levels)),
            split_bytes: Some(self.options.table_bytes),
        };
        if sabotage::on(sabotage::INPUTS_REMOVED_BEFORE_EDIT) {
            self.remove_tables(removed.iter().map(|(_, file)| *file));
        }
        let built = self.write_run(&mut MergeCursor::new(cursors), plan)?;
        let bytes: u64 = built.iter().map(|t| t.meta.bytes).sum();
        let made = built.iter().map(|t| t.meta.file).collect();
        let edit = Edit {
            removed: removed.clone(),
            added: built.iter().map(|t| (to, t.meta.clone())).collect(),
            ..Edit::default()
        };
        self.install(edit, built.into_iter().map(|t| (to, t)).collect(), None)?;
        if !sabotage::on(sabotage::INPUTS_REMOVED_BEFORE_EDIT) {
            self.retire(job.inputs.iter().chain(&job.next));
        }
        self.counters.compactions.fetch_add(1, Ordering::Relaxed);
        self.counters
            .bytes_compacted
            .fetch_add(bytes, Ordering::Relaxed);
        Ok(made)
    }

    /// Whether writing a table anew in level `to` may drop tombstones that a move would keep.
    fn gains(&self, levels: &Levels, to: usize, table: &LiveTable) -> bool {
        let meta = &table.meta;
        if meta.deletes + meta.range_deletes == 0 {
            return false;
        }
        let end = match &meta.bounds.largest {
            std::ops::Bound::Unbounded => Vec::new(),
            std::ops::Bound::Excluded(key) => key.to_vec(),
            std::ops::Bound::Included(key) => [key, &[0][..]].concat(),
        };
        !levels.anything_below(to, &meta.bounds.smallest, &end)
    }
}
