//! What age is counted by, so that a leap of the wall clock removes nothing.
//!
//! - AG1: retention goes by a time of its own: never ahead of the wall clock, it goes on as the monotonic clock does while the trail is open. It stands in `HEAD`, and so
//!   goes on where it was when the trail is opened again.
//! - AG2: what the wall clock is ahead of it, after a leap or while the trail was not open, counts once that clock has gone as the monotonic one does for as long as
//!   [`crate::Options::clock_settles`] says, without a minute's difference. Until then somebody can set it right.

use std::time::Duration;

/// Nanoseconds by which the clocks may part while they count as going together; no step that keeps a clock right is as long.
const PART: i128 = 60_000_000_000;

/// A time that no leap moves; see the module. Nanoseconds since 1970.
#[derive(Debug)]
pub(crate) struct Aging {
    at: u64,
    looked: Duration,
    /// Wall minus monotonic clock, as long as that stays the same, and since when it does.
    offset: i128,
    steady: Duration,
}

impl Aging {
    /// Goes on from `at`.
    pub(crate) fn from(at: u64, wall: u64, now: Duration) -> Aging {
        Aging {
            at: at.min(wall),
            looked: now,
            offset: offset(wall, now),
            steady: now,
        }
    }

    /// By how much it is behind the wall clock.
    pub(crate) fn behind(&self, wall: u64, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.looked).as_nanos() as u64;
        Duration::from_nanos(wall.saturating_sub(self.at.saturating_add(passed)))
    }

    /// The time by now, and by how many seconds the wall clock leapt since the last look, where it did.
    pub(crate) fn look(&mut self, wall: u64, now: Duration, settles: Duration) -> (u64, i64) {
        let passed = now.saturating_sub(self.looked).as_nanos() as u64;
        self.looked = now;
        let mut leapt = 0;
        let by = offset(wall, now) - self.offset;
        if by.abs() > PART {
            (self.offset, self.steady) = (offset(wall, now), now);
            leapt = (by / 1_000_000_000) as i64;
        }
        self.at = self.at.saturating_add(passed).min(wall);
        if now.saturating_sub(self.steady) >= settles {
            self.at = wall;
        }
        (self.at, leapt)
    }
}

fn offset(wall: u64, now: Duration) -> i128 {
    i128::from(wall) - now.as_nanos() as i128
}
