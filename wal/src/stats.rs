//! Numbers about a log.
//!
//! What is counted per append must cost next to nothing: one append in [`SAMPLED`] of a thread is timed. What waits or
//! syncs is timed each time.

use crate::log::Log;
use esker_sync::histogram::{Counts, Histogram};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// One append of so many is timed.
const SAMPLED: u32 = 64;

/// Counters that no lock guards.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) voids: AtomicU64,
    pub(crate) recycled: AtomicU64,
    pub(crate) early_flushes: AtomicU64,
    // In nanoseconds.
    pub(crate) appends: Histogram,
    pub(crate) waits: Histogram,
    pub(crate) syncs: Histogram,
    pub(crate) stalls: Histogram,
    // Of one sync.
    pub(crate) group_frames: Histogram,
    pub(crate) group_bytes: Histogram,
}

/// Times an append, if it is one that is timed.
pub(crate) struct Sample(Option<Instant>);

impl Sample {
    #[inline(always)]
    pub(crate) fn begin() -> Sample {
        thread_local! {
            static TURN: Cell<u32> = const { Cell::new(0) };
        }
        let turn = TURN.get();
        TURN.set(turn.wrapping_add(1));
        Sample(turn.is_multiple_of(SAMPLED).then(Instant::now))
    }

    #[inline(always)]
    pub(crate) fn end(self, histogram: &Histogram) {
        if let Some(begun) = self.0 {
            histogram.record(begun.elapsed().as_nanos() as u64);
        }
    }
}

/// Numbers about a log, all since open.
#[derive(Clone, Debug, Default)]
pub struct LogStats {
    /// Frames reserved.
    pub appends: u64,
    /// Bytes of frames reserved.
    pub appended_bytes: u64,
    /// Of the frames, those that were given up.
    pub voids: u64,
    /// Group syncs.
    pub syncs: u64,
    /// Time spent in them.
    pub sync_nanos: u64,
    /// Bytes of frames synced.
    pub synced_bytes: u64,
    /// Times an append waited at a bound.
    pub stalls: u64,
    /// Times the flusher was woken because half of what may be unsynced was.
    pub early_flushes: u64,
    /// Segments begun.
    pub rotations: u64,
    /// Segments held.
    pub segments: u64,
    /// Segments prepared ahead.
    pub segments_ready: u64,
    /// Bytes that are free in the segment that is written.
    pub segment_room: u64,
    /// Files used again.
    pub recycled: u64,
    /// Bytes of frames held.
    pub bytes_held: u64,
    /// Nanoseconds of [`Log::append`]; one in 64 is timed.
    pub append_times: Counts,
    /// Nanoseconds that threads waited for a sync, or did it.
    pub wait_times: Counts,
    /// Nanoseconds of group syncs.
    pub sync_times: Counts,
    /// Nanoseconds of stalls.
    pub stall_times: Counts,
    /// Frames of group syncs.
    pub group_frames: Counts,
    /// Bytes of group syncs.
    pub group_bytes: Counts,
}

impl Log {
    /// Numbers.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let shared = self.shared();
        let counters = &shared.counters;
        let (rotations, ready, room) = {
            let append = shared.append.lock();
            let end = append.active.as_ref().map(|s| s.capacity_end());
            let room = end.map_or(0, |end| end.0.saturating_sub(shared.reserved().0));
            (append.rotations, append.prepared.len() as u64, room)
        };
        let sync_times = counters.syncs.snapshot();
        let stall_times = counters.stalls.snapshot();
        LogStats {
            appends: shared.tail.frames(),
            appended_bytes: shared.reserved().since(shared.opened_at),
            voids: counters.voids.load(Ordering::Relaxed),
            syncs: sync_times.count(),
            sync_nanos: sync_times.sum(),
            synced_bytes: shared.synced().since(shared.opened_at),
            stalls: stall_times.count(),
            early_flushes: counters.early_flushes.load(Ordering::Relaxed),
            rotations,
            segments: shared.table.read().len() as u64,
            segments_ready: ready,
            segment_room: room,
            recycled: counters.recycled.load(Ordering::Relaxed),
            bytes_held: shared.reserved().since(self.oldest()),
            append_times: counters.appends.snapshot(),
            wait_times: counters.waits.snapshot(),
            sync_times,
            stall_times,
            group_frames: counters.group_frames.snapshot(),
            group_bytes: counters.group_bytes.snapshot(),
        }
    }
}
