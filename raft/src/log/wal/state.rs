//! What the log holds, built alike from what is written and from what is found at open.
//!
//! - ST1: entries stand in the log in the order of their indexes, as far as they are live: one that supersedes others stands behind
//!   them. So from an *anchor* (index, LSN) on, all live entries from that index on are found by reading forward, and what does not
//!   bear the name (term, index) that the view has for its place is dead.
//! - ST2: there is one anchor per [`anchor_bytes`](super::WalLogOptions::anchor_bytes) of log, whatever the number of entries.
//! - ST3: names determine all that is before them (the paper, 5.3). So what follows an entry that is held belongs behind it, and a view that ends
//!   where the last frame says holds exactly what was written.
//! - ST4: what follows an entry that is not held (it was released, or damaged) gathers beside the view. A base in it says that what is missing
//!   is not needed: then it is the view.

use super::frame::{Head, Record};
use crate::core::{Abstain, Entry, HardState, Index, LogId, LogView, SnapshotMeta};
use crate::sabotage::{self, Sabotage};
use esker_wal::Lsn;
use std::collections::VecDeque;

/// Entries without a gap, and where they stand.
#[derive(Debug)]
struct Stretch {
    view: LogView,
    anchors: VecDeque<(Index, Lsn)>,
}

impl Stretch {
    fn behind(meta: SnapshotMeta, tail_bytes_max: usize) -> Stretch {
        Stretch {
            view: LogView::new(meta, tail_bytes_max),
            anchors: VecDeque::new(),
        }
    }

    fn cut(&mut self, index: Index) {
        self.view.cut(index);
        while self.anchors.back().is_some_and(|(at, _)| *at > index) {
            self.anchors.pop_back();
        }
    }

    /// Appends what follows `prev`, which the view holds.
    fn append(
        &mut self,
        lsn: Lsn,
        anchor_bytes: u64,
        prev: LogId,
        entries: impl IntoIterator<Item = Entry>,
    ) {
        let mut entries = entries.into_iter().peekable();
        let Some(first) = entries.peek().map(|e| e.id.index) else {
            return;
        };
        if self.view.last().index > prev.index {
            if sabotage::on(Sabotage::SuffixKept) {
                return;
            }
            self.cut(prev.index);
        }
        if self.view.last().index != prev.index {
            return;
        }
        let far = |(_, at): &(Index, Lsn)| lsn.0 - at.0 >= anchor_bytes;
        if self.anchors.back().is_none_or(far) {
            self.anchors.push_back((first, lsn));
        }
        for entry in entries {
            self.view.push(entry);
        }
    }

    /// Forgets what is before `meta.last`, which the view holds.
    fn rebase(&mut self, meta: SnapshotMeta) {
        self.view.rebase(meta);
        let first = self.view.base().index.next();
        while self.anchors.len() > 1 && self.anchors[1].0 <= first {
            self.anchors.pop_front();
        }
        if self.view.last() == self.view.base() {
            self.anchors.clear();
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub hard: HardState,
    pub abstain: Abstain,
    /// Something was met.
    pub touched: bool,
    main: Stretch,
    /// ST4.
    beside: Option<Stretch>,
    tail_bytes_max: usize,
    anchor_bytes: u64,
    /// Where the record stands that says what the log begins behind; none while it begins at its birth.
    base_at: Option<Lsn>,
}

impl State {
    pub(super) fn new(tail_bytes_max: usize, anchor_bytes: u64) -> State {
        State {
            hard: HardState::default(),
            abstain: Abstain::No,
            touched: false,
            main: Stretch::behind(SnapshotMeta::default(), tail_bytes_max),
            beside: None,
            tail_bytes_max,
            anchor_bytes,
            base_at: None,
        }
    }

    pub(super) fn view(&self) -> &LogView {
        &self.main.view
    }

    /// Takes a frame that was found at `lsn`; true if the view ends where the frame says.
    pub(super) fn replay(&mut self, lsn: Lsn, head: &Head, records: Vec<Record>) -> bool {
        for record in records {
            match record {
                Record::Append { prev, entries } => self.append(lsn, prev, entries),
                Record::Snapshot(meta) => self.begin_behind(lsn, meta),
                Record::Base(meta) => self.rebase(lsn, meta),
            }
        }
        self.touched = true;
        if !sabotage::on(Sabotage::HardStateForgotten) {
            self.hard = head.hard;
        }
        self.abstain = head.abstain;
        if self.view().last() != head.last {
            self.cut_to_fit(head.last);
        }
        self.view().last() == head.last
    }

    /// What can't be in a log that ends with `last` goes: it was superseded by what is missing.
    fn cut_to_fit(&mut self, last: LogId) {
        let view = &self.main.view;
        let below = match view.term(last.index) {
            Some(term) if term != last.term => last.index.before(),
            _ => last.index,
        };
        let fits = view.last_at_most(below, last.term);
        if fits != view.last() {
            self.main.cut(fits.index);
        }
    }

    /// Appends what follows `prev`.
    pub(super) fn append(
        &mut self,
        lsn: Lsn,
        prev: LogId,
        entries: impl IntoIterator<Item = Entry>,
    ) {
        if self.view().holds(prev) || sabotage::on(Sabotage::PrevNotChecked) {
            // What stands beside is superseded with the rest.
            self.beside = None;
            return self.main.append(lsn, self.anchor_bytes, prev, entries);
        }
        let mut beside = match self.beside.take() {
            Some(beside) if beside.view.holds(prev) => beside,
            _ => {
                let meta = SnapshotMeta {
                    last: prev,
                    ..SnapshotMeta::default()
                };
                Stretch::behind(meta, self.tail_bytes_max)
            }
        };
        beside.append(lsn, self.anchor_bytes, prev, entries);
        self.beside = Some(beside);
    }

    /// The log begins anew behind a snapshot.
    pub(super) fn begin_behind(&mut self, lsn: Lsn, meta: SnapshotMeta) {
        self.main = Stretch::behind(meta, self.tail_bytes_max);
        self.beside = None;
        self.base_at = Some(lsn);
    }

    /// Entries up to `meta.last` may be gone.
    pub(super) fn rebase(&mut self, lsn: Lsn, meta: SnapshotMeta) {
        if meta.last.index < self.view().base().index {
            return;
        }
        if !self.view().holds(meta.last) {
            match self.beside.take() {
                Some(beside) if beside.view.holds(meta.last) => self.main = beside,
                beside => {
                    self.main = Stretch::behind(meta.clone(), self.tail_bytes_max);
                    // Behind it there may be a gap still.
                    self.beside = beside.filter(|b| b.view.base().index > meta.last.index);
                }
            }
        }
        self.main.rebase(meta);
        self.base_at = Some(lsn);
    }

    /// Everything below may go: no live entry stands there, nor the record of the base.
    pub(super) fn needed_from(&self) -> Lsn {
        let base = self.base_at.unwrap_or(Lsn::ZERO);
        let first = self.main.anchors.front();
        first.map_or(base, |(_, lsn)| base.min(*lsn))
    }

    /// Where to begin reading for the entry at `index`.
    pub(super) fn anchor(&self, index: Index) -> Option<Lsn> {
        let anchors = &self.main.anchors;
        let at = anchors.partition_point(|(first, _)| *first <= index);
        at.checked_sub(1).map(|at| anchors[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{EntryKind, Term};

    fn id(term: u64, index: u64) -> LogId {
        LogId {
            term: Term(term),
            index: Index(index),
        }
    }

    fn append(prev: LogId, term: u64, n: u64) -> Record {
        let entries = (1..=n).map(|i| Entry {
            id: id(term, prev.index.0 + i),
            kind: EntryKind::Noop,
        });
        Record::Append {
            prev,
            entries: entries.collect(),
        }
    }

    fn base(last: LogId) -> Record {
        Record::Base(SnapshotMeta {
            last,
            ..SnapshotMeta::default()
        })
    }

    /// Replays frames of one record each; whether the last one says where the view ends, and from where to where it reaches.
    fn replayed(frames: Vec<(Record, LogId)>) -> (bool, LogId, LogId) {
        let mut state = State::new(1 << 20, 100);
        let mut complete = true;
        for (at, (record, last)) in (0..).zip(frames) {
            let head = Head {
                last,
                ..Head::default()
            };
            complete = state.replay(Lsn(at * 1000), &head, vec![record]);
        }
        (complete, state.view().base(), state.view().last())
    }

    /// A log was compacted to 60, superseded, and compacted again to 68; its first segments went. The first base that is found there stands
    /// before entries that are gone, and were no longer needed; it was taken for the last word, and a whole log for a damaged one.
    #[test]
    fn of_several_bases_the_last_decides_what_is_missing() {
        let found = replayed(vec![
            (base(id(31, 60)), id(31, 70)),
            (append(id(31, 70), 31, 5), id(31, 75)),
            (append(id(31, 62), 33, 6), id(33, 68)),
            (append(id(33, 68), 33, 7), id(33, 75)),
            (base(id(33, 63)), id(33, 75)),
            (append(id(33, 75), 34, 5), id(34, 80)),
            (base(id(33, 68)), id(34, 80)),
            (append(id(34, 80), 34, 8), id(34, 88)),
        ]);
        assert_eq!(found, (true, id(33, 68), id(34, 88)));
    }

    #[test]
    fn what_is_missing_is_not_passed_over_without_a_base_behind_it() {
        // 11 to 20 are lost; what follows them is put behind nothing else.
        let lost = vec![
            (append(id(0, 0), 1, 10), id(1, 10)),
            (append(id(1, 20), 1, 10), id(1, 30)),
        ];
        assert_eq!(replayed(lost.clone()), (false, id(0, 0), id(1, 10)));
        let with = |record| {
            let mut frames = lost.clone();
            frames.push((record, id(1, 30)));
            replayed(frames)
        };
        assert_eq!(with(base(id(1, 8))), (false, id(1, 8), id(1, 10)));
        assert_eq!(with(base(id(1, 25))), (true, id(1, 25), id(1, 30)));
        // They come again, as newer frames.
        assert_eq!(with(append(id(1, 10), 1, 20)), (true, id(0, 0), id(1, 30)));
    }

    #[test]
    fn what_is_known_to_be_superseded_by_lost_frames_goes() {
        // The lost frame cut the log to 5 and went on in term 2.
        let found = replayed(vec![
            (append(id(0, 0), 1, 10), id(1, 10)),
            (append(id(2, 6), 2, 1), id(2, 7)),
        ]);
        assert_eq!(found, (false, id(0, 0), id(1, 6)));
    }
}
