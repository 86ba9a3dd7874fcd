//! Counts of values by their magnitude: one bucket per power of two.
//!
//! - H1: to record costs two relaxed additions, and no thread waits for another.
//! - H2: a snapshot taken while others record may have a value in the sum and not yet in a bucket, or the other way round; none
//!   is lost from a later one.

use crate::shim::atomic::{AtomicU64, Ordering};

/// Buckets: zero, then up to 1, 3, 7, ... The last takes everything above.
pub const BUCKETS: usize = 48;

/// See the module.
#[derive(Debug)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            sum: AtomicU64::new(0),
        }
    }
}

fn bucket(value: u64) -> usize {
    ((u64::BITS - value.leading_zeros()) as usize).min(BUCKETS - 1)
}

impl Histogram {
    /// Counts `value`.
    pub fn record(&self, value: u64) {
        self.counts[bucket(value)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts `value` as often as `times`.
    pub fn record_many(&self, value: u64, times: u64) {
        self.counts[bucket(value)].fetch_add(times, Ordering::Relaxed);
        self.sum
            .fetch_add(value.saturating_mul(times), Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn snapshot(&self) -> Counts {
        Counts {
            counts: std::array::from_fn(|at| self.counts[at].load(Ordering::Relaxed)),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

/// What a [`Histogram`] had counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    counts: [u64; BUCKETS],
    sum: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            counts: [0; BUCKETS],
            sum: 0,
        }
    }
}

impl Counts {
    /// Values counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Their mean; 0 without any.
    #[must_use]
    pub fn mean(&self) -> u64 {
        self.sum.checked_div(self.count()).unwrap_or(0)
    }

    /// Largest value of each bucket (`u64::MAX` for the last), and how many are in it.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let largest = |at| match at + 1 == BUCKETS {
            true => u64::MAX,
            false => (1_u64 << at) - 1,
        };
        (0..BUCKETS).map(move |at| (largest(at), self.counts[at]))
    }

    /// A value that at least `percent` of 100 do not exceed: the largest of its bucket, so up to twice the true one.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> u64 {
        let wanted = (self.count() as f64 * percent / 100.0).ceil() as u64;
        let mut seen = 0;
        self.buckets()
            .find(|(_, count)| {
                seen += count;
                seen >= wanted
            })
            .map_or(0, |(largest, _)| largest)
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_by_their_magnitude() {
        let histogram = Histogram::default();
        for value in [0, 1, 2, 3, 4, 7, 8, 1000, u64::MAX / 2] {
            histogram.record(value);
        }
        let counts = histogram.snapshot();
        let full: Vec<_> = counts.buckets().filter(|(_, count)| *count > 0).collect();
        let expected = [(0, 1), (1, 1), (3, 2), (7, 2), (15, 1), (1023, 1)];
        assert_eq!(full[..6], expected);
        assert_eq!(full[6..], [(u64::MAX, 1)]);
        assert_eq!(counts.count(), 9);
        assert_eq!(counts.sum(), 1025 + u64::MAX / 2);
        assert_eq!(
            (counts.percentile(50.0), counts.percentile(88.0)),
            (7, 1023)
        );
        assert_eq!(Counts::default().percentile(50.0), 0);
        assert_eq!(Counts::default().mean(), 0);
    }
}
