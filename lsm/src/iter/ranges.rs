//! Range tombstones, to be looked up by key.
//!
//! - RT1: the list is sorted by start, then newest first. Tombstones may overlap; of one SeqNo they do not even touch
//!   (pieces that fit together are joined).
//! - RT2: memory and building are n log n in the tombstones, however they overlap: trimming a queue by ever longer ranges from its
//!   front costs no more than ranges apart.
//!
//! All starts and ends divide the keys into intervals. A segment tree over the intervals holds each tombstone in the log n
//! nodes that make it up, by SeqNo; a lookup finds the interval, then the answer on the way from it to the root.

use super::ReadPoints;
use crate::SeqNo;
use crate::table::KeyBounds;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
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

/// Range tombstones, to be looked up by key and SeqNo.
#[derive(Clone, Debug, Default)]
pub struct RangeTombstones {
    list: Vec<RangeTombstone>,
    /// Where intervals begin. The last one has no end.
    edges: Vec<Bytes>,
    /// Of node n of the tree, `nodes[offsets[n]..offsets[n + 1]]`. Interval i is node `edges.len() + i`; the parent of node n
    /// is n / 2, the root 1.
    offsets: Vec<u32>,
    /// SeqNo, and number in the list; by SeqNo within a node.
    nodes: Vec<(SeqNo, u32)>,
}

impl PartialEq for RangeTombstones {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}
impl Eq for RangeTombstones {}

impl RangeTombstones {
    /// All of `tombstones`, in any order, overlapping as they like. Empty ranges are left out.
    #[must_use]
    pub fn new(mut list: Vec<RangeTombstone>) -> Self {
        list.retain(|t| t.end.is_empty() || t.start < t.end);
        join_pieces(&mut list);
        list.sort_unstable_by(|a, b| {
            let by_start = a.start.cmp(&b.start);
            by_start.then_with(|| b.seqno.cmp(&a.seqno))
        });

        let mut edges: Vec<Bytes> = Vec::with_capacity(list.len() * 2);
        for t in &list {
            edges.push(t.start.clone());
            if !t.end.is_empty() {
                edges.push(t.end.clone());
            }
        }
        edges.sort_unstable();
        edges.dedup();

        let count = edges.len();
        let place = |key: &Bytes| {
            edges
                .binary_search(key)
                .expect("every start and end is an edge")
        };
        let mut held: Vec<(u32, SeqNo, u32)> = Vec::new();
        for (n, t) in list.iter().enumerate() {
            let mut low = place(&t.start) + count;
            let mut high = if t.end.is_empty() {
                count
            } else {
                place(&t.end)
            } + count;
            while low < high {
                if low & 1 == 1 {
                    held.push((low as u32, t.seqno, n as u32));
                    low += 1;
                }
                if high & 1 == 1 {
                    high -= 1;
                    held.push((high as u32, t.seqno, n as u32));
                }
                low /= 2;
                high /= 2;
            }
        }
        held.sort_unstable();
        let mut offsets = vec![0_u32; if count == 0 { 0 } else { 2 * count + 1 }];
        for (node, _, _) in &held {
            offsets[*node as usize + 1] += 1;
        }
        for n in 1..offsets.len() {
            offsets[n] += offsets[n - 1];
        }
        Self {
            list,
            edges,
            offsets,
            nodes: held.into_iter().map(|(_, seqno, n)| (seqno, n)).collect(),
        }
    }

    /// As `new`, with only what `points` can tell apart: where several cover a key, one per gap between read points. For
    /// flush and compaction.
    #[must_use]
    pub fn needed_by(tombstones: Vec<RangeTombstone>, points: &ReadPoints) -> Self {
        // From the floor on everything is needed. Below, a sweep over the keys finds where each is.
        let (mut kept, old): (Vec<_>, Vec<_>) = tombstones
            .into_iter()
            .partition(|t| t.seqno > points.floor());
        let mut edges: Vec<(&Bytes, bool, SeqNo)> = Vec::with_capacity(old.len() * 2);
        for t in old.iter().filter(|t| t.end.is_empty() || t.start < t.end) {
            edges.push((&t.start, true, t.seqno));
            if !t.end.is_empty() {
                edges.push((&t.end, false, t.seqno));
            }
        }
        edges.sort_unstable();
        // SeqNo -> how many cover the place reached (pieces of one may overlap).
        let mut active: BTreeMap<SeqNo, usize> = BTreeMap::new();
        // Those that are needed there, and from where on.
        let mut open: BTreeMap<SeqNo, Bytes> = BTreeMap::new();
        let mut i = 0;
        while i < edges.len() {
            let at = edges[i].0;
            while i < edges.len() && edges[i].0 == at {
                let (_, begins, seqno) = edges[i];
                let n = active.entry(seqno).or_default();
                *n = if begins { *n + 1 } else { n.saturating_sub(1) };
                if *n == 0 {
                    active.remove(&seqno);
                }
                i += 1;
            }
            let needed = needed(&active, points);
            open.retain(|seqno, start| {
                if needed.contains(seqno) {
                    return true;
                }
                kept.push(RangeTombstone {
                    start: start.clone(),
                    end: at.clone(),
                    seqno: *seqno,
                });
                false
            });
            for seqno in needed {
                open.entry(seqno).or_insert_with(|| at.clone());
            }
        }
        kept.extend(open.into_iter().map(|(seqno, start)| RangeTombstone {
            start,
            end: Bytes::new(),
            seqno,
        }));
        Self::new(kept)
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Tombstones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The user keys covered, from the first to the last; `None` when empty.
    #[must_use]
    pub fn bounds(&self) -> Option<KeyBounds> {
        let smallest = self.list.first()?.start.clone();
        let endless = self.list.iter().any(|t| t.end.is_empty());
        let largest = match self.edges.last() {
            Some(last) if !endless => Bound::Excluded(last.clone()),
            _ => Bound::Unbounded,
        };
        Some(KeyBounds { smallest, largest })
    }

    /// The highest SeqNo at or below `at` that covers `key`. A version of `key` with a lower SeqNo is deleted.
    #[must_use]
    #[inline]
    pub fn covering(&self, key: &[u8], at: SeqNo) -> Option<SeqNo> {
        self.newest_over(key, at).map(|(seqno, _)| seqno)
    }

    /// As `covering`, with the whole tombstone: all keys in it are deleted up to its SeqNo at least.
    #[must_use]
    pub fn covering_tombstone(&self, key: &[u8], at: SeqNo) -> Option<&RangeTombstone> {
        let (_, n) = self.newest_over(key, at)?;
        Some(&self.list[n as usize])
    }

    fn newest_over(&self, key: &[u8], at: SeqNo) -> Option<(SeqNo, u32)> {
        if self.list.is_empty() {
            return None;
        }
        let interval = self
            .edges
            .partition_point(|edge| edge.as_ref() <= key)
            .checked_sub(1)?;
        let mut node = self.edges.len() + interval;
        let mut newest = None;
        while node > 0 {
            let held = &self.nodes[self.offsets[node] as usize..self.offsets[node + 1] as usize];
            if !held.is_empty() {
                let n = held.partition_point(|(seqno, _)| *seqno <= at);
                newest = newest.max(n.checked_sub(1).map(|n| held[n]));
            }
            node /= 2;
        }
        newest
    }

    /// All, by start, then newest first.
    pub fn iter(&self) -> impl Iterator<Item = RangeTombstone> + '_ {
        self.list.iter().cloned()
    }

    /// What lies within `start..end` (empty end: none), cut there: for an output file of a compaction.
    #[must_use]
    pub fn clip(&self, start: &[u8], end: &[u8]) -> RangeTombstones {
        let from = |t: &RangeTombstone| {
            if t.start.as_ref() < start {
                Bytes::copy_from_slice(start)
            } else {
                t.start.clone()
            }
        };
        let to = |t: &RangeTombstone| {
            if !end.is_empty() && (t.end.is_empty() || t.end.as_ref() > end) {
                Bytes::copy_from_slice(end)
            } else {
                t.end.clone()
            }
        };
        let behind = |t: &RangeTombstone| !end.is_empty() && t.start.as_ref() >= end;
        let before = |t: &RangeTombstone| !t.end.is_empty() && t.end.as_ref() <= start;
        let within = self
            .list
            .iter()
            .take_while(|t| !behind(t))
            .filter(|t| !before(t));
        Self::new(
            within
                .map(|t| RangeTombstone {
                    start: from(t),
                    end: to(t),
                    seqno: t.seqno,
                })
                .collect(),
        )
    }

    /// Without those at or below `at` that `droppable` says may go, because nothing older lies below them. It is asked with start
    /// and end (empty: none).
    #[must_use]
    pub fn without(
        &self,
        at: SeqNo,
        mut droppable: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> RangeTombstones {
        let stays = |t: &&RangeTombstone| t.seqno > at || !droppable(&t.start, &t.end);
        Self::new(self.list.iter().filter(stays).cloned().collect())
    }

    /// Bytes of memory, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let keys: usize = self.list.iter().map(|t| t.start.len() + t.end.len()).sum();
        keys + size_of_val(&self.list[..])
            + size_of_val(&self.edges[..])
            + size_of_val(&self.offsets[..])
            + size_of_val(&self.nodes[..])
    }
}

/// Joins tombstones of one SeqNo that touch or overlap: a clipped one whose pieces meet again.
fn join_pieces(list: &mut Vec<RangeTombstone>) {
    list.sort_unstable_by(|a, b| a.seqno.cmp(&b.seqno).then_with(|| a.start.cmp(&b.start)));
    list.dedup_by(|next, last| {
        let joined = next.seqno == last.seqno && (last.end.is_empty() || next.start <= last.end);
        if joined && !last.end.is_empty() && (next.end.is_empty() || next.end > last.end) {
            last.end = next.end.clone();
        }
        joined
    });
}

/// Which of the SeqNos over a key some reader at or below the floor sees.
fn needed(active: &BTreeMap<SeqNo, usize>, points: &ReadPoints) -> BTreeSet<SeqNo> {
    let mut needed = BTreeSet::new();
    let mut below = Bound::Unbounded;
    while let Some((seqno, _)) = active.range((Bound::Unbounded, below)).next_back() {
        needed.insert(*seqno);
        // The next that somebody sees although this one exists is the newest at the highest point below this.
        match points.below(*seqno) {
            Some(point) => below = Bound::Included(point),
            None => break,
        }
    }
    needed
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
    fn of_overlapping_ranges_the_newest_at_or_below_is_found() {
        let list = RangeTombstones::new(vec![
            t("b", "f", 5),
            t("d", "h", 3),
            t("f", "g", 9),
            t("x", "", 1),
            t("k", "k", 7),
        ]);
        let found: Vec<_> = list.iter().collect();
        let expected = vec![
            t("b", "f", 5),
            t("d", "h", 3),
            t("f", "g", 9),
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
    }

    #[test]
    fn pieces_of_one_tombstone_are_joined_again() {
        let whole = RangeTombstones::new(vec![t("b", "k", 5), t("d", "", 7)]);
        let mut pieces = vec![];
        for (start, end) in [("", "c"), ("c", "e"), ("e", "j"), ("j", "")] {
            pieces.extend(whole.clip(start.as_bytes(), end.as_bytes()).iter());
        }
        assert!(pieces.len() > 2);
        assert_eq!(RangeTombstones::new(pieces), whole);
    }

    #[test]
    fn many_nested_ranges_are_cheap() {
        let key = |n: u32| Bytes::copy_from_slice(&n.to_be_bytes());
        let nested = |n: u32| RangeTombstone {
            start: Bytes::new(),
            end: key(n + 1),
            seqno: SeqNo(u64::from(n)),
        };
        let list = RangeTombstones::new((0..50_000).map(nested).collect());
        assert!(list.memory_bytes() < 50_000 * 500);
        for n in (0..50_000).step_by(99) {
            assert_eq!(list.covering(&key(n), SeqNo(70_000)), Some(SeqNo(49_999)));
            assert_eq!(
                list.covering(&key(n), SeqNo(20_000)),
                (n <= 20_000).then_some(SeqNo(20_000))
            );
        }
        let points = ReadPoints::new(vec![SeqNo(20_000)], SeqNo(60_000));
        let needed = RangeTombstones::needed_by(list.iter().collect(), &points);
        assert_eq!(needed.len(), 2);
    }

    #[test]
    fn lookups_and_what_is_needed_agree_with_brute_force() {
        use crate::table::testing::{random_key, range, with_seeds};
        use rand::RngExt as _;
        with_seeds(300, |_, rng| {
            let count = rng.random_range(0..30);
            let mut list = vec![];
            for seqno in 1..=count {
                let (a, b) = (random_key(rng), random_key(rng));
                list.push(range(
                    (&a).min(&b),
                    if rng.random_bool(0.1) {
                        b""
                    } else {
                        (&a).max(&b)
                    },
                    seqno,
                ));
            }
            let brute = |key: &[u8], at: u64| {
                let over = |t: &&RangeTombstone| {
                    t.seqno.0 <= at
                        && t.start.as_ref() <= key
                        && (t.end.is_empty() || key < t.end.as_ref())
                        && (t.end.is_empty() || t.start < t.end)
                };
                list.iter().filter(over).map(|t| t.seqno).max()
            };
            let all = RangeTombstones::new(list.clone());
            let snapshots: Vec<_> = (0..rng.random_range(0..4))
                .map(|_| SeqNo(rng.random_range(0..40)))
                .collect();
            let points = ReadPoints::new(snapshots.clone(), SeqNo(rng.random_range(0..40)));
            let needed = RangeTombstones::needed_by(list.clone(), &points);
            let (low, high) = (random_key(rng), random_key(rng));
            let clipped = all.clip(&low, &high);
            for _ in 0..100 {
                let key = random_key(rng);
                let at = rng.random_range(0..40);
                let expected = brute(&key, at);
                assert_eq!(all.covering(&key, SeqNo(at)), expected);
                if let Some(t) = all.covering_tombstone(&key, SeqNo(at)) {
                    assert_eq!(Some(t.seqno), expected);
                    assert!(t.start <= key && (t.end.is_empty() || t.end > key));
                }
                if SeqNo(at) >= points.floor() || snapshots.contains(&SeqNo(at)) {
                    assert_eq!(
                        needed.covering(&key, SeqNo(at)),
                        expected,
                        "{key:?} at {at}, {points:?}"
                    );
                }
                let inside = key >= low && (high.is_empty() || key < high);
                assert_eq!(
                    clipped.covering(&key, SeqNo(at)),
                    expected.filter(|_| inside)
                );
            }
        });
    }
}
