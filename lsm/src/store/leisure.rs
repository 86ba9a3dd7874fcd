//! Background work that nobody waits for takes its time.
//!
//! - LE1: what a flush or a compaction writes keeps to [`crate::StoreOptions::background_rate`], from piece to piece: at its full speed it would
//!   keep the disk from who syncs a log on it, and the processor from who serves a client.
//! - LE2: there is no rate while somebody waits for it, or soon would: a flush, `compact_all` or close was asked for; a memtable
//!   waits behind the one that is flushed, or the active one is half full; L0 has a table more than starts a compaction, or that many while another
//!   level is compacted; writers are under pressure. A store that is written to as fast as it takes it still has a little less for it: its
//!   flushes begin at the rate.

use super::Inner;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A look at what may end it, at least so often.
const LOOK: Duration = Duration::from_millis(10);

/// Of a run: a flush, or a compaction into a level.
pub(super) struct Leisure<'a> {
    inner: &'a Inner,
    into: Option<usize>,
    bytes_per_second: u64,
    next: Instant,
    /// There is no rate at all.
    free: bool,
}

impl<'a> Leisure<'a> {
    pub(super) fn of(inner: &'a Inner, into: Option<usize>) -> Leisure<'a> {
        let bytes_per_second = inner.options.background_rate;
        Leisure {
            inner,
            into,
            bytes_per_second,
            next: Instant::now(),
            free: inner.stepped || bytes_per_second == 0,
        }
    }

    /// So much was written since the last time.
    pub(super) fn wrote(&mut self, bytes: u64) {
        if self.free {
            return;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Time that it was slower than it might have been is not made up for.
        self.next = self.next.max(Instant::now()) + takes;
        loop {
            let seen = self.inner.bell.rings();
            if self.is_over() {
                self.next = Instant::now();
                return;
            }
            let left = self.next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.inner.bell.wait(seen, Some(left.min(LOOK)));
        }
    }

    /// LE2.
    fn is_over(&self) -> bool {
        let inner = self.inner;
        let (start, _, _) = inner.options.l0_tables;
        let l0 = inner.l0_count.load(Ordering::Relaxed);
        let due = match self.into {
            None => {
                let view = inner.view.load();
                let active = view.mems.first().map_or(0, |m| m.bytes());
                active >= inner.options.memtable_bytes / 2
            }
            Some(1) => l0 > start,
            Some(_) => l0 >= start,
        };
        due || inner.mem_count.load(Ordering::Relaxed) > 2
            || inner.hurried.load(Ordering::Acquire) > 0
            || inner.room.is_closing()
            || inner.pressure().is_some()
    }
}

/// While it lives, nothing in the background takes its time.
pub(super) struct Hurry<'a>(&'a AtomicUsize);

impl Inner {
    pub(super) fn hurry(&self) -> Hurry<'_> {
        self.hurried.fetch_add(1, Ordering::Release);
        self.wake_workers();
        Hurry(&self.hurried)
    }
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}
