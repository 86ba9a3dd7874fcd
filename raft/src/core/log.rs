//! The core's view of the log: which term stands at which index, the memberships in it, and the newest entries.
//!
//! - LV1: `base` is the last entry that is not held any more (compacted, or a snapshot's); zero at the beginning. Held are
//!   `base.index + 1 ..= last`.
//! - LV2: terms never decrease along the log; they are kept as runs, so a log of any length costs a few words per term.
//! - LV3: the newest entries are held as they are, up to a bound of bytes; older ones the runtime reads from its storage.
//! - LV4: the membership in force is that of the newest membership entry in the log, committed or not; cutting the log brings
//!   the one before it back (section 6).

use super::types::{Entry, EntryKind, Index, LogId, Membership, SnapshotMeta, Term};
use std::collections::VecDeque;

/// What the core knows of its log: terms, memberships, the newest entries. Log storage builds one at open by replaying what it
/// finds ([`push`](LogView::push), and [`cut`](LogView::cut) before an entry that supersedes others), so that a log of any
/// length is recovered in bounded memory.
#[derive(Clone, Debug)]
pub struct LogView {
    base: LogId,
    last: LogId,
    /// (first index, term), ascending; the first begins at `base.index + 1`.
    runs: Vec<(Index, Term)>,
    /// The newest entries, without a gap, up to `last`.
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    tail_bytes_max: usize,
    /// (index, membership), ascending; the first is that of `base` or before.
    memberships: Vec<(Index, Membership)>,
}

impl Default for LogView {
    fn default() -> Self {
        LogView::new(SnapshotMeta::default(), usize::MAX)
    }
}

impl LogView {
    /// A log that begins behind `snapshot`, with at most `tail_bytes_max` of its newest entries in memory.
    #[must_use]
    pub fn new(snapshot: SnapshotMeta, tail_bytes_max: usize) -> LogView {
        LogView {
            base: snapshot.last,
            last: snapshot.last,
            runs: Vec::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_bytes_max,
            memberships: vec![(snapshot.last.index, snapshot.membership)],
        }
    }

    /// The last entry that is not held any more (LV1).
    #[must_use]
    pub fn base(&self) -> LogId {
        self.base
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.last
    }

    /// The term at `index`; `None` where nothing is known (compacted, or beyond the end).
    #[must_use]
    pub fn term(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last.index {
            return None;
        }
        let at = self.runs.partition_point(|(first, _)| *first <= index);
        Some(self.runs[at - 1].1)
    }

    /// The entry at `index`, by its name.
    #[must_use]
    pub fn id(&self, index: Index) -> Option<LogId> {
        let term = self.term(index)?;
        Some(LogId { term, index })
    }

    /// Whether it holds this entry.
    #[must_use]
    pub fn holds(&self, id: LogId) -> bool {
        self.term(id.index) == Some(id.term)
    }

    /// The last entry at or below `index` whose term is at or below `term`: where two logs that differ at `index` can agree at
    /// the latest. At its lowest the base.
    pub(crate) fn last_at_most(&self, index: Index, term: Term) -> LogId {
        let index = index.min(self.last.index);
        if index <= self.base.index {
            return self.base;
        }
        let mut at = self.runs.partition_point(|(first, _)| *first <= index);
        let mut end = index;
        while at > 0 {
            let (first, run_term) = self.runs[at - 1];
            if run_term <= term {
                return LogId {
                    term: run_term,
                    index: end,
                };
            }
            end = first.before();
            at -= 1;
        }
        self.base
    }

    /// Adds an entry behind the last.
    ///
    /// # Panics
    /// When it leaves a gap, or terms go back.
    pub fn push(&mut self, entry: Entry) {
        assert_eq!(entry.id.index, self.last.index.next(), "a gap in the log");
        assert!(entry.id.term >= self.last.term, "terms went back");
        if self
            .runs
            .last()
            .is_none_or(|(_, term)| *term != entry.id.term)
        {
            self.runs.push((entry.id.index, entry.id.term));
        }
        if let EntryKind::Membership(membership) = &entry.kind {
            self.memberships
                .push((entry.id.index, (**membership).clone()));
        }
        self.last = entry.id;
        self.tail_bytes += entry.weight();
        self.tail.push_back(entry);
        self.shrink_tail();
    }

    /// Changes the bound of what is held in memory (LV3).
    pub(crate) fn bound_tail(&mut self, bytes_max: usize) {
        self.tail_bytes_max = bytes_max;
        self.shrink_tail();
    }

    fn shrink_tail(&mut self) {
        while self.tail_bytes > self.tail_bytes_max && self.tail.len() > 1 {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(entry) = self.tail.pop_front() {
            self.tail_bytes -= entry.weight();
        }
    }

    /// Cuts everything behind `index`.
    ///
    /// # Panics
    /// When the log does not hold `index`.
    pub fn cut(&mut self, index: Index) {
        let Some(last) = self.id(index) else {
            panic!(
                "cut at {index}, the log holds {} to {}",
                self.base, self.last
            );
        };
        while self.tail.back().is_some_and(|e| e.id.index > index) {
            let entry = self.tail.pop_back().expect("just seen");
            self.tail_bytes -= entry.weight();
        }
        self.runs.retain(|(first, _)| *first <= index);
        self.memberships.retain(|(at, _)| *at <= index);
        self.last = last;
    }

    /// Forgets everything up to `index`.
    pub fn compact(&mut self, index: Index) {
        let Some(base) = self.id(index) else {
            return;
        };
        let term_after = self.term(index.next());
        self.runs.retain(|(first, _)| *first > index.next());
        if let Some(term) = term_after {
            self.runs.insert(0, (index.next(), term));
        }
        while self.tail.front().is_some_and(|e| e.id.index <= index) {
            self.forget_first();
        }
        let keep = self.memberships.partition_point(|(at, _)| *at <= index);
        self.memberships.drain(..keep.saturating_sub(1));
        self.base = base;
    }

    /// As `compact`, with what is known of the membership there.
    pub(crate) fn rebase(&mut self, to: SnapshotMeta) {
        self.compact(to.last.index);
        self.memberships[0] = (to.last.index, to.membership);
    }

    /// Begins again behind a snapshot.
    pub fn restart(&mut self, snapshot: SnapshotMeta) {
        *self = LogView::new(snapshot, self.tail_bytes_max);
    }

    pub(crate) fn in_memory_from(&self) -> Index {
        let first = self.tail.front().map(|entry| entry.id.index);
        first.unwrap_or(self.last.index.next())
    }

    /// The entries from `from` on, at most `bytes` of them but at least one; `None` when they are not all at hand.
    pub(crate) fn entries(&self, from: Index, bytes: usize) -> Option<Vec<Entry>> {
        let first = self.tail.front().map(|e| e.id.index)?;
        if from < first {
            return None;
        }
        let from = ((from.0 - first.0) as usize).min(self.tail.len());
        let mut sum = 0;
        let fits = |entry: &&Entry| {
            sum += entry.weight();
            sum <= bytes
        };
        let count = self.tail.range(from..).take_while(fits).count();
        let to = (from + count.max(1)).min(self.tail.len());
        Some(self.tail.range(from..to).cloned().collect())
    }

    /// The membership in force, and where it stands.
    #[must_use]
    pub fn membership(&self) -> (Index, &Membership) {
        let (at, membership) = self.memberships.last().expect("there is always one");
        (*at, membership)
    }

    /// The membership as of `index`.
    #[must_use]
    pub fn membership_at(&self, index: Index) -> &Membership {
        let at = self.memberships.partition_point(|(at, _)| *at <= index);
        &self.memberships[at.saturating_sub(1)].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::NodeId;
    use bytes::Bytes;

    fn log(terms: &[u64]) -> LogView {
        let mut log = LogView::new(SnapshotMeta::default(), 1 << 20);
        for term in terms {
            push(
                &mut log,
                *term,
                EntryKind::Command(Bytes::from_static(b"x")),
            );
        }
        log
    }

    fn push(log: &mut LogView, term: u64, kind: EntryKind) {
        let id = LogId {
            term: Term(term),
            index: log.last().index.next(),
        };
        log.push(Entry { id, kind });
    }

    fn terms(log: &LogView) -> Vec<Option<u64>> {
        (0..=log.last().index.0 + 1)
            .map(|i| log.term(Index(i)).map(|t| t.0))
            .collect()
    }

    #[test]
    fn terms_are_known_from_the_base_to_the_end() {
        let mut log = log(&[1, 1, 2, 4, 4]);
        assert_eq!(
            terms(&log),
            [Some(0), Some(1), Some(1), Some(2), Some(4), Some(4), None]
        );
        log.compact(Index(2));
        assert_eq!(
            terms(&log),
            [None, None, Some(1), Some(2), Some(4), Some(4), None]
        );
        log.cut(Index(3));
        assert_eq!(terms(&log), [None, None, Some(1), Some(2), None]);
        log.compact(Index(3));
        assert_eq!(terms(&log), [None, None, None, Some(2), None]);
        push(&mut log, 5, EntryKind::Noop);
        assert_eq!(log.last().to_string(), "5.4");
    }

    #[test]
    fn logs_agree_at_the_latest_at_the_last_entry_of_no_newer_term() {
        let log = log(&[1, 1, 2, 4, 4]);
        let at = |index, term| log.last_at_most(Index(index), Term(term)).to_string();
        assert_eq!(at(5, 4), "4.5");
        assert_eq!(at(5, 3), "2.3");
        assert_eq!(at(9, 9), "4.5");
        assert_eq!(at(2, 9), "1.2");
        assert_eq!(at(5, 0), "0.0");
    }

    #[test]
    fn cutting_the_log_brings_the_membership_before_it_back() {
        let mut log = log(&[1]);
        for n in 1..=3 {
            push(
                &mut log,
                n,
                EntryKind::Membership(Box::new(Membership::of([NodeId(n)]))),
            );
        }
        let voters = |log: &LogView| log.membership().1.voters.clone();
        assert!(voters(&log).contains(&NodeId(3)));
        log.cut(Index(3));
        assert!(voters(&log).contains(&NodeId(2)));
        log.compact(Index(3));
        assert_eq!(log.membership().0, Index(3));
        assert!(log.membership_at(Index(3)).voters.contains(&NodeId(2)));
    }

    #[test]
    fn only_the_newest_entries_are_at_hand() {
        let mut log = LogView::new(SnapshotMeta::default(), 200);
        for _ in 0..5 {
            push(&mut log, 1, EntryKind::Noop);
        }
        assert!(log.entries(Index(2), 1000).is_none());
        assert_eq!(log.entries(Index(3), 1000).unwrap().len(), 3);
        assert_eq!(log.entries(Index(3), 1).unwrap().len(), 1);
        assert_eq!(log.entries(Index(6), 1).unwrap().len(), 0);
    }
}
