//! What the log holds, built alike from what is written and from what is found at open.
//!
//! - ST1: entries stand in the log in the order of their indexes, as far as they are live: one that supersedes others stands behind
//!   them. So from an *anchor* (index, LSN) on, all live entries from that index on are found by reading forward, and what does not
//!   bear the name (term, index) that the view has for its place is dead.
//! - ST2: there is one anchor per [`anchor_bytes`](super::WalLogOptions::anchor_bytes) of log, whatever the number of entries.
//! - ST3: a record that can't follow what is known (because of damage before it) changes nothing; the end that its frame names tells
//!   whether something is missing. As names determine all that is before them (the paper, 5.3), a view that ends where the last
//!   frame says holds exactly what was written.

use super::frame::{Head, Record};
use crate::core::{Abstain, Entry, HardState, Index, LogId, LogView, SnapshotMeta};
use crate::sabotage::{self, Sabotage};
use esker_wal::Lsn;
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct State {
    pub hard: HardState,
    pub view: LogView,
    pub abstain: Abstain,
    anchors: VecDeque<(Index, Lsn)>,
    anchor_bytes: u64,
    /// Where the record stands that says what the log begins behind; none while it begins at its birth.
    base_at: Option<Lsn>,
    /// The log's first frames are gone, and no record was met yet that says what it begins behind.
    pub(super) rootless: bool,
    /// So it was taken to begin where the first entries do, until that record comes.
    pub(super) headless: bool,
    /// Something was met.
    pub(super) touched: bool,
}

impl State {
    pub(super) fn new(tail_bytes_max: usize, anchor_bytes: u64) -> State {
        State {
            hard: HardState::default(),
            view: LogView::new(SnapshotMeta::default(), tail_bytes_max),
            abstain: Abstain::No,
            anchors: VecDeque::new(),
            anchor_bytes,
            base_at: None,
            rootless: false,
            headless: false,
            touched: false,
        }
    }

    /// Takes a frame that was found at `lsn`; true if the view ends where the frame says.
    pub(super) fn replay(&mut self, lsn: Lsn, head: &Head, records: Vec<Record>) -> bool {
        for record in records {
            match record {
                Record::Append { prev, entries } => {
                    let below = self.headless && prev.index < self.view.base().index;
                    if std::mem::take(&mut self.rootless) || below {
                        // What comes before was compacted away; the base comes later. One that supersedes more than is known: all of
                        // that is dead.
                        self.restart(SnapshotMeta {
                            last: prev,
                            ..SnapshotMeta::default()
                        });
                        self.headless = true;
                    }
                    self.append(lsn, prev, entries);
                }
                Record::Snapshot(meta) => self.begin_behind(lsn, meta),
                Record::Base(meta) => self.rebase(lsn, meta),
            }
        }
        self.touched = true;
        if !sabotage::on(Sabotage::HardStateForgotten) {
            self.hard = head.hard;
        }
        self.abstain = head.abstain;
        if self.view.last() != head.last {
            self.cut_to_fit(head.last);
        }
        self.view.last() == head.last
    }

    /// What can't be in a log that ends with `last` goes: it was superseded by what is missing.
    fn cut_to_fit(&mut self, last: LogId) {
        let below = match self.view.term(last.index) {
            Some(term) if term != last.term => last.index.before(),
            _ => last.index,
        };
        let fits = self.view.last_at_most(below, last.term);
        if fits != self.view.last() {
            self.cut(fits.index);
        }
    }

    fn cut(&mut self, index: Index) {
        self.view.cut(index);
        while self.anchors.back().is_some_and(|(at, _)| *at > index) {
            self.anchors.pop_back();
        }
    }

    fn restart(&mut self, meta: SnapshotMeta) {
        self.view.restart(meta);
        self.anchors.clear();
    }

    /// Appends what follows `prev`, if the view holds that; true if so.
    pub(super) fn append(
        &mut self,
        lsn: Lsn,
        prev: LogId,
        entries: impl IntoIterator<Item = Entry>,
    ) -> bool {
        let mut entries = entries.into_iter().peekable();
        let Some(first) = entries.peek().map(|e| e.id.index) else {
            return true;
        };
        if !self.view.holds(prev) && !sabotage::on(Sabotage::PrevNotChecked) {
            return false;
        }
        if self.view.last().index > prev.index {
            if sabotage::on(Sabotage::SuffixKept) {
                return true;
            }
            self.cut(prev.index);
        }
        if self.view.last().index != prev.index {
            return false;
        }
        let far = |(_, at): &(Index, Lsn)| lsn.0 - at.0 >= self.anchor_bytes;
        if self.anchors.back().is_none_or(far) {
            self.anchors.push_back((first, lsn));
        }
        for entry in entries {
            self.view.push(entry);
        }
        true
    }

    /// The log begins anew behind a snapshot.
    pub(super) fn begin_behind(&mut self, lsn: Lsn, meta: SnapshotMeta) {
        self.restart(meta);
        self.base_at = Some(lsn);
        self.rootless = false;
        self.headless = false;
    }

    /// Entries up to `meta.last` may be gone.
    pub(super) fn rebase(&mut self, lsn: Lsn, meta: SnapshotMeta) {
        if meta.last.index < self.view.base().index {
            return;
        }
        if !self.view.holds(meta.last) {
            return self.begin_behind(lsn, meta);
        }
        self.view.rebase(meta);
        self.base_at = Some(lsn);
        self.headless = false;
        let first = self.view.base().index.next();
        while self.anchors.len() > 1 && self.anchors[1].0 <= first {
            self.anchors.pop_front();
        }
        if self.view.last() == self.view.base() {
            self.anchors.clear();
        }
    }

    /// Everything below may go: no live entry stands there, nor the record of the base.
    pub(super) fn needed_from(&self) -> Lsn {
        let base = self.base_at.unwrap_or(Lsn::ZERO);
        self.anchors.front().map_or(base, |(_, lsn)| base.min(*lsn))
    }

    /// Where to begin reading for the entry at `index`.
    pub(super) fn anchor(&self, index: Index) -> Option<Lsn> {
        let at = self.anchors.partition_point(|(first, _)| *first <= index);
        at.checked_sub(1).map(|at| self.anchors[at].1)
    }
}
