//! The clock that deadlines are compared with.
//!
//! - T1: it never steps back, and it never stands still: it is wall time, or where wall time has jumped back, it
//!   runs on from its last reading at the rate of the monotonic clock until wall time has caught up.
//! - T2: it is never behind a reading that was kept or heard of ([`ExpiryClock::observe`]). The writer keeps a
//!   reading in the store (a system key, so the stream carries it) before a reply may say that a deadline at or below it
//!   has passed; so a key that was missing to somebody is not there again after a restart with the
//!   wall clock set back, and on no replica that has heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where time comes from.
pub trait TimeSource: Send + Sync + std::fmt::Debug {
    /// Microseconds since 1970; may jump.
    fn wall_micros(&self) -> i64;
    /// Microseconds since some point; never goes back.
    fn monotonic_micros(&self) -> i64;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemTimeSource(Instant);

impl Default for SystemTimeSource {
    fn default() -> Self {
        SystemTimeSource(Instant::now())
    }
}

impl TimeSource for SystemTimeSource {
    fn wall_micros(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |n| -n),
        }
    }
    fn monotonic_micros(&self) -> i64 {
        i64::try_from(self.0.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

/// See the module.
#[derive(Debug)]
pub struct ExpiryClock {
    source: Arc<dyn TimeSource>,
    /// The greatest difference seen between wall (or kept) time and the monotonic clock.
    ahead_micros: AtomicI64,
    /// The newest reading that is in the store, in milliseconds.
    kept: AtomicI64,
}

impl ExpiryClock {
    /// On `source`.
    #[must_use]
    pub fn new(source: Arc<dyn TimeSource>) -> Self {
        ExpiryClock {
            source,
            ahead_micros: AtomicI64::new(i64::MIN),
            kept: AtomicI64::new(i64::MIN),
        }
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn now(&self) -> i64 {
        let monotonic = self.source.monotonic_micros();
        let ahead = self.source.wall_micros().saturating_sub(monotonic);
        // Relaxed: the one value is all there is to agree on, and fetch_max never lowers it.
        let ahead = self
            .ahead_micros
            .fetch_max(ahead, Ordering::Relaxed)
            .max(ahead);
        monotonic.saturating_add(ahead).div_euclid(1000)
    }

    /// Wall time in microseconds, as it is (`TIME`).
    #[must_use]
    pub fn wall_micros(&self) -> i64 {
        self.source.wall_micros()
    }

    /// A reading that was heard of: the clock is not behind it from now on.
    pub fn observe(&self, millis: i64) {
        let ahead = millis
            .saturating_mul(1000)
            .saturating_sub(self.source.monotonic_micros());
        self.ahead_micros.fetch_max(ahead, Ordering::Relaxed);
    }

    /// A reading that stands in the store.
    pub(super) fn observe_kept(&self, millis: i64) {
        if self.kept.fetch_max(millis, Ordering::Relaxed) < millis {
            self.observe(millis);
        }
    }

    /// The newest reading known to be in the store.
    #[must_use]
    pub fn kept(&self) -> i64 {
        self.kept.load(Ordering::Relaxed)
    }
}

/// A clock that a test moves.
#[derive(Debug, Default)]
pub struct ManualTimeSource {
    wall: AtomicI64,
    monotonic: AtomicI64,
}

impl ManualTimeSource {
    /// Standing at `wall_millis`.
    #[must_use]
    pub fn at(wall_millis: i64) -> Self {
        ManualTimeSource {
            wall: AtomicI64::new(wall_millis * 1000),
            monotonic: AtomicI64::new(0),
        }
    }
    /// Time passes, on both clocks.
    pub fn advance_millis(&self, by: i64) {
        self.wall.fetch_add(by * 1000, Ordering::Relaxed);
        self.monotonic.fetch_add(by * 1000, Ordering::Relaxed);
    }
    /// The wall clock jumps.
    pub fn jump_millis(&self, by: i64) {
        self.wall.fetch_add(by * 1000, Ordering::Relaxed);
    }
}

impl TimeSource for ManualTimeSource {
    fn wall_micros(&self) -> i64 {
        self.wall.load(Ordering::Relaxed)
    }
    fn monotonic_micros(&self) -> i64 {
        self.monotonic.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_on_after_the_wall_clock_was_set_back() {
        let source = Arc::new(ManualTimeSource::at(1_000_000));
        let clock = ExpiryClock::new(source.clone());
        assert_eq!(clock.now(), 1_000_000);
        source.jump_millis(-500_000);
        assert_eq!(clock.now(), 1_000_000);
        source.advance_millis(7);
        assert_eq!(clock.now(), 1_000_007);
        source.jump_millis(500_000 + 1000);
        assert_eq!(clock.now(), 1_001_007);
    }

    #[test]
    fn the_clock_is_not_behind_what_was_kept() {
        let source = Arc::new(ManualTimeSource::at(1_000));
        let clock = ExpiryClock::new(source.clone());
        clock.observe(4_000);
        assert_eq!(clock.now(), 4_000);
        assert_eq!(clock.kept(), i64::MIN);
        clock.observe_kept(5_000);
        assert_eq!(clock.now(), 5_000);
        source.advance_millis(10);
        assert_eq!(clock.now(), 5_010);
        assert_eq!(clock.kept(), 5_000);
    }
}
