//! Keeps the bytes ahead of the tail populated for writing.
//!
//! The first store into a page of a mapping costs more than the copy of a whole page (4 to 5 us for a folio of 32 KiB), and it
//! is to be paid by a thread that nobody waits for.
//!
//! - PP1: a hint to the kernel, never needed: whoever overtakes it faults by itself.
//! - PP2: populated pages are dirty, and written back in vain where the log stands still. So the window follows the
//!   rate: what is appended in [`AHEAD`], from 2 MiB up to 64.
//!   A prepared segment is populated whole if the log has been using segments so fast that it will soon be written to: then
//!   a burst meets no first touch at all, and the populator takes no time from it.
//! - PP3: it has a thread of its own, since the preparer is away for as long as it takes to make a file.

use crate::ids::Lsn;
use crate::prepare;
use crate::segment::Prepared;
use crate::shared::Shared;
use crate::upkeep::RECYCLED_AHEAD;
use esker_sync::stop::StopToken;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The smallest window; prepared segments have as much populated at their beginning.
pub(crate) const WINDOW: u64 = 2 << 20;
const WINDOW_MAX: u64 = 64 << 20;
/// For how long what is populated shall last.
const AHEAD: Duration = Duration::from_millis(20);
/// Populated at once, after which the tail's place is looked at again.
const STRIDE: u64 = 1 << 20;
/// How far before a tail that was not outrun yet: what it is about to touch it touches sooner by itself.
const LEAD: u64 = 256 << 10;

/// Populated segments are used within this time, or the kernel writes them back (after 30 s) and they are not populated any more.
const WARM: Duration = Duration::from_secs(20);

/// Of [`Shared::populated`]: nothing is to be populated in this segment any more.
const NEVER: u64 = u64::MAX - 1;

/// What was seen the last time.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    reserved: Lsn,
    at: Duration,
    /// Populated up to here.
    done: Lsn,
}

impl Shared {
    /// Rings for the populator when the tail has come to the middle of the window. Called for each reservation.
    pub(crate) fn keep_ahead_of(&self, end: Lsn) {
        // Relaxed: a hint; the window is populated a little later or twice at worst.
        if end.0 > self.populated.load(Ordering::Relaxed) {
            self.populated.store(u64::MAX, Ordering::Relaxed);
            self.populate_bell.ring();
        }
    }

    /// A segment begins at `base`, with its beginning populated, or all of it.
    pub(crate) fn populate_from(&self, base: Lsn, warm: bool) {
        let mark = if warm { NEVER } else { base.0 + WINDOW / 2 };
        self.populated.store(mark, Ordering::Relaxed);
    }

    /// Populates a prepared segment: all of it, or its beginning (PP2); nothing if its frames will not be stored.
    pub(crate) fn warm(&self, prepared: &mut Prepared) {
        if prepared.zeroed && self.by_calls.load(Ordering::Relaxed) {
            return;
        }
        let all = (self.options.segments_ahead + RECYCLED_AHEAD) as u32;
        let lasts = self.append.lock().rotated_after.saturating_mul(all);
        if lasts < WARM {
            prepare::warm(prepared, prepared.identity.bytes);
            prepared.warm_until = self.options.clock.now() + WARM;
        } else {
            prepare::warm(prepared, WINDOW);
        }
    }

    /// Populates the window ahead of the tail, if it has come near its end.
    pub(crate) fn populate_ahead(&self) {
        if self.populated.load(Ordering::Relaxed) != u64::MAX {
            return;
        }
        let Some(segment) = self.append.lock().active.clone() else {
            return;
        };
        let mut ahead = self.ahead.lock();
        let (now, reserved) = (self.options.clock.now(), self.reserved());
        let passed = now.saturating_sub(ahead.at).max(Duration::from_micros(1));
        let bytes = reserved.0.saturating_sub(ahead.reserved.0) as f64;
        let rate = bytes * AHEAD.as_secs_f64() / passed.as_secs_f64();
        let window = (rate as u64).clamp(WINDOW, WINDOW_MAX);
        (ahead.reserved, ahead.at) = (reserved, now);
        let room = segment.capacity_end();
        let until = reserved.advance(window).min(room);
        // Frames that go by calls need no page that can be stored to.
        let stores = !(segment.zeroed && self.by_calls.load(Ordering::Relaxed));
        if let Some(map) = segment.map().filter(|_| stores) {
            let mut at = ahead.done.max(segment.base());
            loop {
                let tail = self.reserved();
                if at < tail {
                    at = tail.advance(if window > WINDOW { LEAD } else { 0 });
                }
                if at >= until || segment.is_closed() {
                    break;
                }
                let len = STRIDE.min(until.since(at));
                map.populate(segment.offset(at) as usize, len as usize);
                at = at.advance(len);
            }
            ahead.done = at;
        }
        let next = match until == room {
            // The next segment's beginning is populated; its rotation sets the mark anew.
            true => NEVER,
            false => until.0 - window / 2,
        };
        self.populated.store(next, Ordering::Relaxed);
    }

    /// The populator thread.
    pub(crate) fn run_populator(&self, stop: &StopToken) {
        while !stop.is_stopped() {
            self.populate_bell.wait(None);
            self.populate_ahead();
        }
    }
}
