//! Snapshots, and what they and the safe position hold back from flush and compaction.
//!
//! - N1: a snapshot at `s` sees the operations below `s`; it reads *at* `s - 1`.
//! - N2: a pass that drops versions asks for [`Snapshots::read_points`] first. Its inputs lie below `visible` of
//!   that moment, and a snapshot registered later is at or above it or at or above `floor`, so what the pass
//!   drops is needed by none of them.
//! - N3: `floor` is the highest position below which a pass may have dropped something that no registered
//!   reader needed; a snapshot at an older position is refused.
//!
//! One lock, a leaf: nothing is done under it but bookkeeping.

use crate::SeqNo;
use crate::iter::ReadPoints;
use crate::sequencer::Sequencer;
use esker_wal::Lsn;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Snapshots {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Live snapshots: position -> how many.
    live: BTreeMap<u64, usize>,
    /// The safe position, once one was given.
    keep: Option<u64>,
    floor: u64,
}

impl Snapshots {
    /// `floor`: earlier passes may have dropped what stands below.
    pub(crate) fn new(floor: Lsn) -> Arc<Snapshots> {
        Arc::new(Snapshots {
            state: Mutex::new(State {
                live: BTreeMap::new(),
                keep: None,
                floor: floor.0,
            }),
        })
    }

    /// At what is visible now.
    pub(crate) fn take(self: &Arc<Self>, sequencer: &Sequencer) -> Snapshot {
        let mut state = self.state.lock();
        let at = sequencer.visible().0;
        *state.live.entry(at).or_default() += 1;
        Snapshot::new(self, at)
    }

    /// At an older position; `None` below the floor.
    pub(crate) fn take_at(self: &Arc<Self>, below: Lsn, sequencer: &Sequencer) -> Option<Snapshot> {
        let mut state = self.state.lock();
        let at = below.0.min(sequencer.visible().0);
        if at < state.floor {
            return None;
        }
        *state.live.entry(at).or_default() += 1;
        Some(Snapshot::new(self, at))
    }

    /// Moves the safe position.
    pub(crate) fn keep_from(&self, below: Lsn) {
        let mut state = self.state.lock();
        state.keep = Some(state.keep.unwrap_or(0).max(below.0));
    }

    /// What a pass that begins now must keep (N2).
    pub(crate) fn read_points(&self, sequencer: &Sequencer) -> ReadPoints {
        let mut state = self.state.lock();
        let visible = sequencer.visible().0;
        let floor = state.keep.unwrap_or(visible).min(visible);
        state.floor = state.floor.max(floor);
        let snapshots = state
            .live
            .keys()
            .filter_map(|s| s.checked_sub(1))
            .map(SeqNo)
            .collect();
        // Reading at `floor - 1` and at all above: the readers at position `floor` and later.
        ReadPoints::new(snapshots, SeqNo(floor.saturating_sub(1)))
    }

    /// How many snapshots live.
    pub(crate) fn live(&self) -> u64 {
        self.state.lock().live.values().map(|n| *n as u64).sum()
    }

    fn drop_one(&self, at: u64) {
        let mut state = self.state.lock();
        if let Some(n) = state.live.get_mut(&at) {
            *n -= 1;
            if *n == 0 {
                state.live.remove(&at);
            }
        }
    }
}

struct Held {
    of: Arc<Snapshots>,
    at: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.drop_one(self.at);
    }
}

/// A view at one SeqNo; holds back compaction while it, or a clone of it, lives. Owned.
#[derive(Clone)]
pub struct Snapshot(Arc<Held>);

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Snapshot").field(&self.0.at).finish()
    }
}

impl Snapshot {
    fn new(of: &Arc<Snapshots>, at: u64) -> Snapshot {
        Snapshot(Arc::new(Held { of: of.clone(), at }))
    }

    /// Sees operations below this.
    #[must_use]
    pub fn seqno(&self) -> SeqNo {
        SeqNo(self.0.at)
    }

    /// The SeqNo to read at, inclusive; `None` sees nothing at all.
    pub(crate) fn at(&self) -> Option<SeqNo> {
        self.0.at.checked_sub(1).map(SeqNo)
    }

    /// Whether it is of the store with these snapshots.
    pub(crate) fn is_of(&self, snapshots: &Arc<Snapshots>) -> bool {
        Arc::ptr_eq(&self.0.of, snapshots)
    }
}
