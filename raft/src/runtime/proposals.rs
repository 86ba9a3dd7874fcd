//! Proposals of this node on their way: those that the core has not answered yet, and those that stand in the log and are not applied.
//!
//! - PP1: both lie in the order in which they were taken, which is that of their tokens and of their places in the log: what comes first goes first, so
//!   that one costs a step or two of a queue. What an entry of a later term takes the place of leaves when that is appended.
//! - PP2: a proposal may be answered with an entry that stands in the log already (the membership's, of a member that is added again): it waits
//!   there beside or before others, and takes nobody's place.

use super::apply::{Replier, Waiting};
use crate::core::{Index, LogId, Token};
use esker_sync::histogram::Histogram;
use std::collections::VecDeque;
use std::time::Instant;

/// A proposal.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) replier: Replier,
    pub(super) started: Instant,
    pub(super) deadline: Instant,
}

/// Not answered by the core yet.
#[derive(Debug, Default)]
pub(super) struct Asked(VecDeque<(Token, Proposal)>);

impl Asked {
    /// `token` is greater than all before.
    pub(super) fn insert(&mut self, token: Token, proposal: Proposal) {
        debug_assert!(self.0.back().is_none_or(|(last, _)| *last < token));
        self.0.push_back((token, proposal));
    }

    fn place(&self, token: Token) -> Option<usize> {
        match self.0.front() {
            Some((first, _)) if *first == token => Some(0),
            _ => self.0.binary_search_by_key(&token, |(t, _)| *t).ok(),
        }
    }

    pub(super) fn started(&self, token: Token) -> Option<Instant> {
        self.place(token).map(|at| self.0[at].1.started)
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Proposal> {
        let at = self.place(token)?;
        self.0.remove(at).map(|(_, proposal)| proposal)
    }
}

/// In the log, not given to be applied.
#[derive(Debug, Default)]
pub(super) struct Appended(VecDeque<(LogId, Proposal)>);

impl Appended {
    /// It stands in the log now. Those whose places this takes, or whose places are gone: an entry has none of an earlier term behind it.
    #[must_use]
    pub(super) fn insert(&mut self, id: LogId, proposal: Proposal) -> Vec<Proposal> {
        let mut superseded = Vec::new();
        let gone = |(last, _): &(LogId, _)| last.index >= id.index && last.term < id.term;
        while self.0.back().is_some_and(gone) {
            superseded.extend(self.0.pop_back().map(|(_, before)| before));
        }
        match self.0.back() {
            // PP2.
            Some((last, _)) if last.index > id.index => {
                let at = self.place(id.index.next());
                self.0.insert(at, (id, proposal));
            }
            _ => self.0.push_back((id, proposal)),
        }
        superseded
    }

    /// Those up to `upto`, in order.
    pub(super) fn take(&mut self, upto: Index) -> Vec<Waiting> {
        let count = self.place(upto.next());
        (self.0.drain(..count))
            .map(|(id, proposal)| Waiting {
                id,
                replier: proposal.replier,
                started: proposal.started,
            })
            .collect()
    }

    /// Those for which `late` says so.
    pub(super) fn take_late(&mut self, mut late: impl FnMut(&Proposal) -> bool) -> Vec<Proposal> {
        if !self.0.iter().any(|(_, proposal)| late(proposal)) {
            return Vec::new();
        }
        let all = std::mem::take(&mut self.0);
        let (gone, stay) = all.into_iter().partition(|(_, proposal)| late(proposal));
        self.0 = stay;
        let gone: VecDeque<_> = gone;
        gone.into_iter().map(|(_, proposal)| proposal).collect()
    }

    pub(super) fn take_all(&mut self) -> Vec<Proposal> {
        self.take_late(|_| true)
    }

    fn place(&self, from: Index) -> usize {
        self.0.partition_point(|(id, _)| id.index < from)
    }

    /// Counts how long those from `from` to `to` have taken until now.
    pub(super) fn count(&self, from: Index, to: Index, counts: &Histogram) {
        if from > to {
            return;
        }
        let range = self.place(from)..self.place(to.next());
        record(
            counts,
            self.0.range(range).map(|(_, proposal)| proposal.started),
        );
    }
}

/// Counts the time since each of these. Those that were taken together stand together.
pub(super) fn record(counts: &Histogram, started: impl IntoIterator<Item = Instant>) {
    let now = Instant::now();
    let mut together: Option<(Instant, u64)> = None;
    let told = |at: Instant, n| {
        let waited = now.saturating_duration_since(at);
        counts.record_many(waited.as_micros() as u64, n);
    };
    for at in started {
        together = match together {
            Some((before, n)) if before == at => Some((at, n + 1)),
            before => {
                before.into_iter().for_each(|(at, n)| told(at, n));
                Some((at, 1))
            }
        };
    }
    together.into_iter().for_each(|(at, n)| told(at, n));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{NodeId, Term};
    use std::time::Duration;

    fn proposal(name: u64, deadline: Instant) -> Proposal {
        Proposal {
            replier: Replier::Remote(NodeId(1), name),
            started: Instant::now(),
            deadline,
        }
    }

    fn name(replier: &Replier) -> u64 {
        match replier {
            Replier::Remote(_, name) => *name,
            Replier::Local(_) => 0,
        }
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId {
            term: Term(term),
            index: Index(index),
        }
    }

    #[test]
    fn pp1_proposals_leave_in_order_or_when_their_place_is_taken() {
        let now = Instant::now();
        let mut appended = Appended::default();
        for index in [3, 4, 7, 8] {
            assert!(
                appended
                    .insert(id(1, index), proposal(index, now))
                    .is_empty()
            );
        }
        let counts = Histogram::default();
        appended.count(Index(4), Index(7), &counts);
        assert_eq!(counts.snapshot().count(), 2);
        let superseded = appended.insert(id(2, 7), proposal(70, now + Duration::from_secs(9)));
        let names: Vec<u64> = superseded.iter().map(|p| name(&p.replier)).collect();
        assert_eq!(names, [8, 7]);
        let taken = appended.take(Index(3));
        assert_eq!((taken.len(), taken[0].id), (1, id(1, 3)));
        let late = appended.take_late(|p| p.deadline <= now);
        assert_eq!((late.len(), name(&late[0].replier)), (1, 4));
        assert_eq!(appended.take_all().len(), 1);
        assert!(appended.take(Index(99)).is_empty());
    }

    #[test]
    fn pp2_an_entry_that_stands_already_takes_nobodys_place() {
        let now = Instant::now();
        let mut appended = Appended::default();
        for (term, index, asked) in [(1, 4, 1), (2, 7, 2), (2, 8, 3), (2, 7, 4), (1, 5, 5)] {
            let superseded = appended.insert(id(term, index), proposal(asked, now));
            assert!(superseded.is_empty(), "{asked}");
        }
        let counts = Histogram::default();
        appended.count(Index(5), Index(7), &counts);
        assert_eq!(counts.snapshot().count(), 3);
        let taken = appended.take(Index(7));
        let taken: Vec<_> = taken.iter().map(|w| (w.id, name(&w.replier))).collect();
        assert_eq!(
            taken,
            [(id(1, 4), 1), (id(1, 5), 5), (id(2, 7), 2), (id(2, 7), 4)]
        );
        // A later term takes the place of what is left.
        let superseded = appended.insert(id(3, 8), proposal(6, now));
        assert_eq!(superseded.len(), 1);
    }

    #[test]
    fn what_was_asked_is_found_by_its_token_in_any_order() {
        let mut asked = Asked::default();
        let now = Instant::now();
        for token in [1, 2, 5, 9] {
            asked.insert(token, proposal(token, now));
        }
        for token in [5, 1, 9, 2] {
            let found = asked.remove(token).expect("it was asked");
            assert_eq!(name(&found.replier), token);
        }
        assert!(asked.remove(5).is_none());
    }
}
