//! Whether a waiter looks again for a while before it sleeps.
//!
//! To be woken costs: tens of microseconds where a processor has to be brought out of its halt, and as much as that again, or a good part of it,
//! for who wakes (docs/benchmarks.md, "Hand-over"). So a waiter whose waits were short lately looks again and again, yielding its processor every
//! few looks, before it goes to sleep.
//!
//! - SN1: it spins only while the mean of its recent waits is at most `max`, and for at most `max` each time: a waiter with
//!   nothing to wait for soon costs nothing.
//! - SN2: a yield that took long means that somebody else had work for this processor: it stops at once, and does not try again
//!   before it has seen short waits anew.

use std::time::{Duration, Instant};

/// A yield that took longer ran somebody else.
const BUSY: Duration = Duration::from_micros(20);
/// Looks between two yields: a yield is a call of some hundred nanoseconds.
const LOOKS: usize = 16;
/// Recent waits: the mean slides by this part.
const PART: u32 = 8;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin {
    max: Duration,
    mean: Duration,
}

impl Spin {
    pub(crate) fn new(max: Duration) -> Spin {
        let mut spin = Spin {
            max,
            mean: Duration::ZERO,
        };
        spin.forget();
        spin
    }

    /// Short waits have to be seen first.
    fn forget(&mut self) {
        self.mean = self.max * 4;
    }

    /// Whether to look again for a while.
    fn is_worth(&self) -> bool {
        !self.max.is_zero() && self.mean <= self.max
    }

    /// A wait took so long.
    pub(crate) fn waited(&mut self, took: Duration) {
        // One long pause is forgotten within a few short waits.
        let took = took.min(self.max * 4);
        self.mean = (self.mean * (PART - 1) + took) / PART;
    }

    /// Looks, as long as that is worth it, until `look` gives something; `None` when it is time to sleep.
    pub(crate) fn until<T>(
        &mut self,
        began: Instant,
        deadline: Option<Instant>,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if !self.is_worth() {
            return None;
        }
        let end = deadline.map_or(began + self.max, |at| at.min(began + self.max));
        let mut now = Instant::now();
        while now < end {
            for _ in 0..LOOKS {
                if let Some(found) = look() {
                    return Some(found);
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
            let before = std::mem::replace(&mut now, Instant::now());
            if now - before > BUSY {
                self.forget();
                return None;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_micros(50);

    /// SN1.
    #[test]
    fn only_who_waited_shortly_of_late_spins() {
        let mut spin = Spin::new(MAX);
        assert!(!spin.is_worth(), "nothing is known yet");
        (0..20).for_each(|_| spin.waited(Duration::from_micros(10)));
        assert!(spin.is_worth());
        spin.waited(Duration::from_secs(10));
        assert!(spin.is_worth(), "one pause is not enough");
        (0..20).for_each(|_| spin.waited(Duration::from_micros(100)));
        assert!(!spin.is_worth());
        let mut off = Spin::new(Duration::ZERO);
        (0..20).for_each(|_| off.waited(Duration::ZERO));
        assert!(!off.is_worth());
    }

    /// SN1: bounded, by itself and by the deadline.
    #[test]
    fn spinning_ends_with_what_was_looked_for_or_at_its_bound() {
        let long = Duration::from_secs(1000);
        let mut spin = Spin::new(long);
        (0..40).for_each(|_| spin.waited(Duration::ZERO));
        let mut looks = 0;
        let mut look = || {
            looks += 1;
            (looks == 3).then_some(())
        };
        let began = Instant::now();
        // A machine with other work may end it early; then it has short waits to see again.
        while spin.until(began, None, &mut look).is_none() {
            (0..40).for_each(|_| spin.waited(Duration::ZERO));
        }
        assert_eq!(looks, 3);
        let nothing = || None::<()>;
        assert_eq!(spin.until(began, Some(began), nothing), None);
        let over = began - Duration::from_millis(5);
        assert_eq!(Spin::new(MAX).until(over, None, nothing), None);
    }
}
