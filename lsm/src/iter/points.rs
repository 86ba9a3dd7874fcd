//! Which versions can still be asked for.
use crate::SeqNo;

/// The SeqNos at which someone reads or may come to read: the live snapshots, and every SeqNo from `floor` on.
#[derive(Clone, Debug)]
pub struct ReadPoints {
    snapshots: Vec<SeqNo>,
    floor: SeqNo,
}

impl ReadPoints {
    /// `snapshots`: the SeqNos that live readers read *at* (inclusive), in any order. Every SeqNo at or above
    /// `floor` counts as one too.
    pub fn new(mut snapshots: Vec<SeqNo>, floor: SeqNo) -> Self {
        snapshots.retain(|s| *s < floor);
        snapshots.sort_unstable();
        snapshots.dedup();
        Self { snapshots, floor }
    }

    /// Whether some reader sees `older` although `newer` (of the same key, or covering it) exists: whether there is a read
    /// point at or above `older` and below `newer`. If not, `older` may be dropped.
    #[must_use]
    pub fn needs(&self, older: SeqNo, newer: SeqNo) -> bool {
        debug_assert!(older <= newer);
        if newer > self.floor {
            // The floor itself, or a point between, is in `older..newer` unless older is above newer - 1.
            return newer > older;
        }
        let first = self.snapshots.partition_point(|s| *s < older);
        self.snapshots.get(first).is_some_and(|s| *s < newer)
    }

    /// Every SeqNo from here on is a read point.
    #[must_use]
    pub fn floor(&self) -> SeqNo {
        self.floor
    }

    /// The highest read point below `seqno`, if any.
    #[must_use]
    pub fn below(&self, seqno: SeqNo) -> Option<SeqNo> {
        if seqno > self.floor {
            return Some(SeqNo(seqno.0 - 1));
        }
        let n = self.snapshots.partition_point(|s| *s < seqno);
        n.checked_sub(1).map(|n| self.snapshots[n])
    }

    /// The lowest read point: a version at or below it that is the newest such of its key is seen by all.
    #[must_use]
    pub fn oldest(&self) -> SeqNo {
        self.snapshots.first().copied().unwrap_or(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_needed_exactly_when_a_reader_stands_between() {
        for floor in 0..12 {
            for bits in 0..1_u32 << 8 {
                let snapshots: Vec<SeqNo> =
                    (0..8).filter(|n| bits >> n & 1 == 1).map(SeqNo).collect();
                let points = ReadPoints::new(snapshots.clone(), SeqNo(floor));
                let is_point = |p: u64| p >= floor || snapshots.contains(&SeqNo(p));
                for newer in 0..12 {
                    for older in 0..=newer {
                        let needed = (older..newer).any(is_point);
                        assert_eq!(
                            points.needs(SeqNo(older), SeqNo(newer)),
                            needed,
                            "{points:?} {older} {newer}"
                        );
                    }
                    let below = (0..newer).rev().find(|p| is_point(*p));
                    assert_eq!(
                        points.below(SeqNo(newer)),
                        below.map(SeqNo),
                        "{points:?} {newer}"
                    );
                }
            }
        }
    }
}
