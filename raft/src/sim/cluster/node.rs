//! A node of the simulation, and the disk under it, which keeps apart what is written from what is synced.

use crate::core::*;
use std::collections::VecDeque;

/// SplitMix64.
#[derive(Debug)]
pub(in crate::sim) struct Rng(pub(super) u64);

impl Rng {
    pub(in crate::sim) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(in crate::sim) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    pub(in crate::sim) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a node has on stable storage.
#[derive(Clone, Debug, Default)]
pub(in crate::sim) struct Disk {
    pub(in crate::sim) hard: HardState,
    /// As it was in the term before.
    pub(in crate::sim) hard_before: HardState,
    pub(in crate::sim) snapshot: SnapshotMeta,
    pub(in crate::sim) entries: Vec<Entry>,
    pub(in crate::sim) abstain: Abstain,
    /// From where the last append that superseded entries did, and those.
    pub(in crate::sim) buried: Vec<Entry>,
}

impl Disk {
    pub(super) fn write(&mut self, write: &Write) {
        match write {
            Write::HardState(hard) => {
                if hard.term > self.hard.term {
                    self.hard_before = self.hard;
                }
                self.hard = *hard;
            }
            Write::Append(entries) => {
                for entry in entries {
                    let stays = |e: &Entry| e.id.index < entry.id.index;
                    let kept = self.entries.partition_point(stays);
                    if kept < self.entries.len() {
                        self.buried = self.entries.split_off(kept);
                    }
                    self.entries.push(entry.clone());
                }
            }
            Write::Snapshot(meta) => {
                self.snapshot = meta.clone();
                self.entries.clear();
                self.buried.clear();
            }
        }
    }

    /// These are on it, synced. With the end of what was lost the abstention ends, here and not before.
    pub(super) fn sync(&mut self, writes: &[Write]) {
        for write in writes {
            self.write(write);
        }
        let last = (self.entries.last()).map_or(self.snapshot.last, |e| e.id);
        if let Abstain::Until(index) = self.abstain
            && last.index >= index
        {
            self.abstain = Abstain::No;
        }
    }

    /// The newest frames are lost: those of the newest term, as far as no snapshot stands for them.
    pub(super) fn lose_vote(&mut self) {
        self.abstain = Abstain::Always;
        self.buried.clear();
        self.hard.vote = None;
        let term = self.hard_before.term;
        if self.snapshot.last.term <= term {
            self.hard = self.hard_before;
            self.entries.retain(|e| e.id.term <= term);
        }
    }

    /// Entries above `keep` are lost, and that is known.
    pub(super) fn lose(&mut self, keep: Index) {
        let until = self.entries.last().map_or(Index(0), |e| e.id.index);
        self.entries.retain(|e| e.id.index <= keep);
        self.buried.clear();
        self.abstain = Abstain::Until(until);
    }

    /// The frame is lost that superseded entries: they stand there again, as far as what is known of the log's end lets them. False where there is none.
    pub(super) fn unearth(&mut self) -> bool {
        let (Some(first), Some(end)) = (self.buried.first(), self.entries.last()) else {
            return false;
        };
        let (at, end) = (first.id.index, end.id);
        let fits = |e: &Entry| e.id.index < end.index && e.id.term <= end.term;
        if at <= self.snapshot.last.index || at > end.index || !fits(first) {
            return false;
        }
        self.entries.retain(|e| e.id.index < at);
        let buried = std::mem::take(&mut self.buried);
        self.entries.extend(buried.into_iter().take_while(fits));
        self.abstain = Abstain::Until(end.index);
        true
    }

    pub(super) fn compact(&mut self, meta: SnapshotMeta) {
        self.entries.retain(|e| e.id.index > meta.last.index);
        self.snapshot = meta;
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) core: Option<Core>,
    pub(super) disk: Disk,
    /// What is written, synced or not; and the numbers that wait for the disk.
    pub(super) written: Disk,
    pub(super) pending: VecDeque<(u64, Vec<Write>)>,
    pub(super) applied: Index,
    pub(super) life: u64,
    /// Its clock: microseconds per real millisecond.
    pub(super) rate: u64,
    /// How far its clock has jumped ahead.
    pub(super) ahead: u64,
    /// Its next sync fails.
    pub(super) sync_fails: bool,
    pub(super) paused_until: u64,
    pub(super) slow_disk_until: u64,
    /// It was told not to lead, as its disk hangs.
    pub(super) holds_back: bool,
    pub(super) was_leader_in: Option<Term>,
}
