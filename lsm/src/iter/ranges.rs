//! Range tombstones, cut into fragments.
//!
//! - RT1: fragments are disjoint, sorted, not empty; only the last may have no end.
//! - RT2: each has a SeqNo at least; its SeqNos are sorted, newest first, each once.

use super::ReadPoints;
use crate::SeqNo;
use crate::table::KeyBounds;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Deletes what is older than `seqno` in `start..end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeTombstone {
    /// First key, inclusive.
    pub start: Bytes,
    /// Behind the last key; empty: no end.
    pub end: Bytes,
    /// When.
    pub seqno: SeqNo,
}

/// Range tombstones as a sorted list of disjoint fragments, each with its SeqNos, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeTombstones {
    fragments: Vec<Fragment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fragment {
    start: Bytes,
    /// Empty: no end.
    end: Bytes,
    seqnos: Vec<SeqNo>,
}

impl Fragment {
    fn ends_before(&self, key: &[u8]) -> bool {
        !self.end.is_empty() && self.end.as_ref() <= key
    }

    fn covering(&self, at: SeqNo) -> Option<SeqNo> {
        let newer = self.seqnos.partition_point(|s| *s > at);
        self.seqnos.get(newer).copied()
    }
}

/// Which of the SeqNos over a fragment are kept.
enum Keep<'a> {
    All,
    Points(&'a ReadPoints),
    Newest,
}

impl RangeTombstones {
    /// All of `tombstones`, in any order, overlapping as they like. Empty ranges are left out.
    #[must_use]
    pub fn new(tombstones: Vec<RangeTombstone>) -> Self {
        Self::build(tombstones, &Keep::All)
    }

    /// As `new`, with only what `points` can tell apart: of the SeqNos over a fragment, one per gap between read points. For
    /// flush and compaction; bounds the memory by fragments times points.
    #[must_use]
    pub fn needed_by(tombstones: Vec<RangeTombstone>, points: &ReadPoints) -> Self {
        Self::build(tombstones, &Keep::Points(points))
    }

    /// As a reader at `at` sees them: one SeqNo per fragment. For a memtable's list.
    #[must_use]
    pub fn seen_at(mut tombstones: Vec<RangeTombstone>, at: SeqNo) -> Self {
        tombstones.retain(|t| t.seqno <= at);
        Self::build(tombstones, &Keep::Newest)
    }

    fn build(mut tombstones: Vec<RangeTombstone>, keep: &Keep<'_>) -> Self {
        tombstones.retain(|t| t.end.is_empty() || t.start < t.end);
        // Where something begins or ends: at each such key the set of covering SeqNos changes.
        let mut edges: Vec<(&Bytes, bool, SeqNo)> = Vec::with_capacity(tombstones.len() * 2);
        for t in &tombstones {
            edges.push((&t.start, true, t.seqno));
            if !t.end.is_empty() {
                edges.push((&t.end, false, t.seqno));
            }
        }
        edges.sort_unstable();
        // SeqNo -> how many tombstones of it cover the place reached (one batch may hold a range twice only under
        // different SeqNos, but clipped parts of one may overlap).
        let mut active: BTreeMap<SeqNo, usize> = BTreeMap::new();
        let mut list = Self::default();
        let mut i = 0;
        while i < edges.len() {
            let at = edges[i].0;
            while i < edges.len() && edges[i].0 == at {
                let (_, begins, seqno) = edges[i];
                if begins {
                    *active.entry(seqno).or_default() += 1;
                } else if let Some(n) = active.get_mut(&seqno) {
                    *n -= 1;
                    if *n == 0 {
                        active.remove(&seqno);
                    }
                }
                i += 1;
            }
            if !active.is_empty() {
                let end = edges.get(i).map_or_else(Bytes::new, |edge| edge.0.clone());
                list.push(at.clone(), end, kept(&active, keep));
            }
        }
        list
    }

    /// Adds a fragment behind all others; joins it with the last where they fit together and say the same.
    fn push(&mut self, start: Bytes, end: Bytes, seqnos: Vec<SeqNo>) {
        debug_assert!(end.is_empty() || start < end);
        match self.fragments.last_mut() {
            Some(last) if last.end == start && last.seqnos == seqnos => last.end = end,
            _ => self.fragments.push(Fragment { start, end, seqnos }),
        }
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fragments.is_empty()
    }

    /// Fragments.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fragments.len()
    }

    /// The user keys covered, from the first to the last; `None` when empty.
    #[must_use]
    pub fn bounds(&self) -> Option<KeyBounds> {
        let (first, last) = (self.fragments.first()?, self.fragments.last()?);
        Some(KeyBounds {
            smallest: first.start.clone(),
            largest: if last.end.is_empty() {
                Bound::Unbounded
            } else {
                Bound::Excluded(last.end.clone())
            },
        })
    }

    /// The first fragment that ends behind `key`: the one that covers it, or the next.
    fn fragment(&self, key: &[u8]) -> usize {
        self.fragments.partition_point(|f| f.ends_before(key))
    }

    /// The highest SeqNo at or below `at` that covers `key`. A version of `key` with a lower SeqNo is deleted.
    #[must_use]
    #[inline]
    pub fn covering(&self, key: &[u8], at: SeqNo) -> Option<SeqNo> {
        self.covering_fragment(key, at).map(|c| c.seqno)
    }

    /// As `covering`, with the fragment: all keys in it are covered alike.
    #[must_use]
    pub fn covering_fragment(&self, key: &[u8], at: SeqNo) -> Option<Covering<'_>> {
        let fragment = self.fragments.get(self.fragment(key))?;
        if fragment.start.as_ref() > key {
            return None;
        }
        Some(Covering {
            seqno: fragment.covering(at)?,
            start: &fragment.start,
            end: &fragment.end,
        })
    }

    /// One tombstone per fragment and SeqNo, sorted by start, then newest first.
    pub fn iter(&self) -> impl Iterator<Item = RangeTombstone> + '_ {
        self.fragments.iter().flat_map(|f| {
            f.seqnos.iter().map(|seqno| RangeTombstone {
                start: f.start.clone(),
                end: f.end.clone(),
                seqno: *seqno,
            })
        })
    }

    /// What lies within `start..end` (empty end: none), cut there: for an output file of a compaction.
    #[must_use]
    pub fn clip(&self, start: &[u8], end: &[u8]) -> RangeTombstones {
        let mut list = Self::default();
        for f in &self.fragments[self.fragment(start)..] {
            if !end.is_empty() && f.start.as_ref() >= end {
                break;
            }
            let from = if f.start.as_ref() < start {
                Bytes::copy_from_slice(start)
            } else {
                f.start.clone()
            };
            let to = if !end.is_empty() && (f.end.is_empty() || f.end.as_ref() > end) {
                Bytes::copy_from_slice(end)
            } else {
                f.end.clone()
            };
            list.push(from, to, f.seqnos.clone());
        }
        list
    }

    /// Without the SeqNos at or below `at` of the fragments that `droppable` says may go, because nothing older lies below
    /// them. It is asked with start and end (empty: none).
    #[must_use]
    pub fn without(
        &self,
        at: SeqNo,
        mut droppable: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> RangeTombstones {
        let mut list = Self::default();
        for f in &self.fragments {
            let newer = f.seqnos.partition_point(|s| *s > at);
            let mut seqnos = f.seqnos.clone();
            if newer < seqnos.len() && droppable(&f.start, &f.end) {
                seqnos.truncate(newer);
            }
            if !seqnos.is_empty() {
                list.push(f.start.clone(), f.end.clone(), seqnos);
            }
        }
        list
    }

    /// Bytes of memory, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.fragments
            .iter()
            .map(|f| size_of::<Fragment>() + f.start.len() + f.end.len() + f.seqnos.len() * 8)
            .sum()
    }
}

/// What covers a key, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covering<'a> {
    /// The highest SeqNo at or below the one asked for.
    pub seqno: SeqNo,
    /// Keys from here,
    pub start: &'a Bytes,
    /// to before here (empty: no end), are covered alike.
    pub end: &'a Bytes,
}

/// The SeqNos of `active` to keep, newest first.
fn kept(active: &BTreeMap<SeqNo, usize>, keep: &Keep<'_>) -> Vec<SeqNo> {
    match keep {
        Keep::All => active.keys().rev().copied().collect(),
        Keep::Newest => active.keys().next_back().copied().into_iter().collect(),
        Keep::Points(points) => {
            let mut seqnos: Vec<SeqNo> = Vec::new();
            let mut below = Bound::Unbounded;
            while let Some((seqno, _)) = active.range((Bound::Unbounded, below)).next_back() {
                seqnos.push(*seqno);
                // The next that some reader sees although this one exists is the newest at the highest point below this.
                match points.below(*seqno) {
                    Some(point) => below = Bound::Included(point),
                    None => break,
                }
            }
            seqnos
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(start: &str, end: &str, seqno: u64) -> RangeTombstone {
        RangeTombstone {
            start: Bytes::copy_from_slice(start.as_bytes()),
            end: Bytes::copy_from_slice(end.as_bytes()),
            seqno: SeqNo(seqno),
        }
    }

    #[test]
    fn overlapping_ranges_become_fragments() {
        let list = RangeTombstones::new(vec![
            t("b", "f", 5),
            t("d", "h", 3),
            t("f", "g", 9),
            t("x", "", 1),
            t("k", "k", 7),
        ]);
        let found: Vec<_> = list.iter().collect();
        let expected = vec![
            t("b", "d", 5),
            t("d", "f", 5),
            t("d", "f", 3),
            t("f", "g", 9),
            t("f", "g", 3),
            t("g", "h", 3),
            t("x", "", 1),
        ];
        assert_eq!(found, expected);
        let at = |key: &str, at| list.covering(key.as_bytes(), SeqNo(at)).map(|s| s.0);
        assert_eq!(at("a", 99), None);
        assert_eq!(at("b", 99), Some(5));
        assert_eq!(at("b", 4), None);
        assert_eq!(at("d", 4), Some(3));
        assert_eq!(at("f", 99), Some(9));
        assert_eq!(at("f", 8), Some(3));
        assert_eq!(at("h", 99), None);
        assert_eq!(at("zzz", 99), Some(1));
        assert_eq!(at("", 99), None);
    }

    #[test]
    fn a_range_with_the_empty_key_and_no_end_covers_everything() {
        let list = RangeTombstones::new(vec![t("", "", 5)]);
        assert_eq!(list.covering(b"", SeqNo(5)), Some(SeqNo(5)));
        assert_eq!(list.covering(b"\xff\xff", SeqNo(5)), Some(SeqNo(5)));
        assert_eq!(list.clip(b"", b"").len(), 1);
        assert_eq!(list.clip(b"c", b"d").iter().next(), Some(t("c", "d", 5)));
    }

    #[test]
    fn clipping_cuts_at_both_bounds() {
        let list = RangeTombstones::new(vec![t("b", "d", 5), t("d", "h", 3), t("x", "", 1)]);
        let clip = |a: &str, b: &str| {
            list.clip(a.as_bytes(), b.as_bytes())
                .iter()
                .collect::<Vec<_>>()
        };
        assert_eq!(clip("c", "e"), vec![t("c", "d", 5), t("d", "e", 3)]);
        assert_eq!(clip("h", "x"), vec![]);
        assert_eq!(clip("g", "z"), vec![t("g", "h", 3), t("x", "z", 1)]);
        assert_eq!(clip("y", ""), vec![t("y", "", 1)]);
    }

    #[test]
    fn only_what_readers_tell_apart_is_kept() {
        let all = || (1..=9).map(|n| t("a", "b", n * 10)).collect::<Vec<_>>();
        let kept = |snapshots: &[u64], floor| {
            let points =
                ReadPoints::new(snapshots.iter().map(|s| SeqNo(*s)).collect(), SeqNo(floor));
            RangeTombstones::needed_by(all(), &points)
                .iter()
                .map(|t| t.seqno.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(&[], 100), [90]);
        assert_eq!(kept(&[55], 100), [90, 50]);
        assert_eq!(kept(&[50], 100), [90, 50]);
        assert_eq!(kept(&[5], 100), [90]);
        assert_eq!(kept(&[15, 35, 38], 100), [90, 30, 10]);
        assert_eq!(kept(&[], 75), [90, 80, 70]);
        assert_eq!(kept(&[15], 70), [90, 80, 70, 10]);
        assert_eq!(kept(&[], 0), [90, 80, 70, 60, 50, 40, 30, 20, 10]);
        assert_eq!(
            RangeTombstones::seen_at(all(), SeqNo(45))
                .iter()
                .map(|t| t.seqno.0)
                .collect::<Vec<_>>(),
            [40]
        );
    }
}
