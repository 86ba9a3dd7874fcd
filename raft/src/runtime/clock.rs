//! The time that a leader puts into commands: what deadlines of the replicated state are compared with.
//!
//! - CL1: within a term it never steps back and never stands still. It runs at the rate of the boot clock, which counts suspension; a step of the
//!   wall clock is made up for by running faster or slower by a tenth ([`SLEW`]).
//! - CL2: a new leader begins at its wall clock, or at replicated time where that is ahead. So between two terms it can jump forward by what the
//!   clocks of two leaders differ: who counts a time to live gives it anew where a term begins (`crate::lock`, K6).

use crate::core::Term;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One part in so many is how much faster or slower than the boot clock it may run.
const SLEW: u64 = 10;

/// Microseconds of a clock that never steps back and counts suspension (C3).
pub(crate) fn boot_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32).as_micros() as u64
}

/// Microseconds since 1970 by the wall clock.
pub(super) fn wall_micros() -> u64 {
    (SystemTime::now().duration_since(UNIX_EPOCH)).map_or(0, |d| d.as_micros() as u64)
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LeaderClock {
    term: Option<Term>,
    /// By the boot clock, when it showed `time`.
    at: u64,
    time: u64,
}

impl LeaderClock {
    /// What it shows; `replicated` is the newest time that is applied.
    pub(super) fn now(&mut self, term: Term, boot: u64, wall: u64, replicated: u64) -> u64 {
        if self.term == Some(term) {
            let passed = boot.saturating_sub(self.at);
            let (time, slew) = (self.time.saturating_add(passed), passed / SLEW);
            self.time = match wall.checked_sub(time) {
                Some(behind) => time + behind.min(slew),
                None => time - (time - wall).min(slew),
            };
        } else {
            self.time = wall;
        }
        (self.term, self.at) = (Some(term), boot);
        self.time = self.time.max(replicated);
        self.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cl1_a_step_of_the_wall_clock_changes_the_rate_by_a_tenth_and_no_more() {
        let mut clock = LeaderClock::default();
        let mut at = |boot, wall| clock.now(Term(1), boot, wall, 0);
        assert_eq!(at(0, 5_000), 5_000);
        assert_eq!(at(1_000, 6_000), 6_000);
        // An hour ahead, then an hour back.
        assert_eq!(at(2_000, 3_600_000_000), 7_100);
        assert_eq!(at(3_000, 0), 8_000);
        assert_eq!(at(13_000, 0), 17_000);
        // Where they differ by less than that it is the wall clock.
        assert_eq!(at(23_000, 26_500), 26_500);
        assert_eq!(at(23_000, 40_000), 26_500);
    }

    #[test]
    fn cl2_a_leader_begins_where_time_has_got_to_and_goes_on_from_there() {
        let mut clock = LeaderClock::default();
        assert_eq!(clock.now(Term(3), 0, 1_000, 9_000), 9_000);
        assert_eq!(clock.now(Term(3), 100, 1_100, 9_000), 9_090);
        assert_eq!(clock.now(Term(3), 200, 1_200, 9_500), 9_500);
        // Another term, behind a wall clock that is right again.
        assert_eq!(clock.now(Term(4), 300, 50_000, 9_500), 50_000);
    }
}
