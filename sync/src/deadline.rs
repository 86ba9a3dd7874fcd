//! Deadlines from durations that callers choose.
//!
//! - DL1: any duration will do, [`Duration::MAX`] for *without an end* too: where the clock can't hold the sum it is [`FAR`] from now.

use std::time::{Duration, Instant};

/// Thirty years: no wait of a process ends there.
pub const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// `timeout` from now.
#[must_use]
pub fn after(timeout: Duration) -> Instant {
    behind(Instant::now(), timeout)
}

/// `timeout` behind `start`.
#[must_use]
pub fn behind(start: Instant, timeout: Duration) -> Instant {
    start.checked_add(timeout).unwrap_or_else(|| start + FAR)
}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;
    use crate::oneshot::oneshot;
    use crate::stop::StopToken;

    #[test]
    fn dl1_a_wait_without_an_end_is_a_wait_like_others() {
        let start = Instant::now();
        assert_eq!(behind(start, Duration::MAX), start + FAR);
        let second = Duration::from_secs(1);
        assert_eq!(behind(start, second), start + second);
        let (promise, pending) = oneshot();
        promise.keep(7);
        assert_eq!(pending.wait(Some(Duration::MAX)), Ok(7));
        let stop = StopToken::new();
        stop.stop();
        assert!(stop.sleep(Duration::MAX));
    }
}
