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

    /// The lowest read point: a version at or below it that is the newest such of its key is seen by all.
    #[must_use]
    pub fn oldest(&self) -> SeqNo {
        self.snapshots.first().copied().unwrap_or(self.floor)
    }
}
