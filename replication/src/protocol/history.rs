//! Compares the histories of two nodes: where they agree, and whether a replica may go on.
//!
//! A history lists epochs with the LSN where each begins, oldest first, begins ascending. Two logs
//! agree up to the first begin that is in one list and not in the other (both lists cut to what both
//! can know), because an epoch (number and id) names one writer, and (epoch, LSN) one frame (W5).
//!
//! - H1: a replica's last epoch must be one of the primary's, at the same begin, and the replica's
//!   end must not lie beyond the begin of the primary's next: bytes above it were written by a
//!   writer whose tail the primary's history left behind.
//! - H2: the chain hash at the replica's end decides what the lists can't show.

use esker_wal::{EpochStart, Lsn};

/// What two histories say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The replica's log is a prefix of the primary's, as far as lists can show.
    Continue,
    /// The replica knows an epoch with a higher number than any of the primary's.
    StalePrimary {
        /// The replica's number.
        number: u64,
    },
    /// The replica holds frames beyond `at` that the primary's history does not: it would rewind to
    /// there, and the epoch it holds them in is the primary's own.
    RewindTo {
        /// Where the primary's next epoch begins.
        at: Lsn,
    },
    /// The lists part; both agree below `at`.
    Diverged {
        /// Least begin that is not in both lists.
        at: Lsn,
    },
}

/// Judges a replica that ends at `end` with history `replica`, against `primary`'s. `oldest` is the
/// oldest LSN that the primary holds, below which its list may have been cut.
#[must_use]
pub fn compare(primary: &[EpochStart], replica: &[EpochStart], end: Lsn, oldest: Lsn) -> Verdict {
    let Some(last) = replica.last() else {
        // Without an epoch there is no frame: nothing to disagree about, but the end must be the
        // beginning.
        return if end == Lsn::ZERO {
            Verdict::Continue
        } else {
            Verdict::Diverged { at: Lsn::ZERO }
        };
    };
    let newest = primary.iter().map(|s| s.epoch.number).max().unwrap_or(0);
    if last.epoch.number > newest {
        return Verdict::StalePrimary {
            number: last.epoch.number,
        };
    }
    match primary.iter().position(|s| s == last) {
        Some(found) => match primary.get(found + 1) {
            Some(next) if end > next.begin => Verdict::RewindTo { at: next.begin },
            _ => match first_difference(&primary[..=found], replica, oldest) {
                Some(at) => Verdict::Diverged { at },
                None => Verdict::Continue,
            },
        },
        None => Verdict::Diverged {
            at: first_difference(primary, replica, oldest).unwrap_or(last.begin),
        },
    }
}

/// Least begin that only one of the two lists has, looking no lower than where both lists reach.
fn first_difference(a: &[EpochStart], b: &[EpochStart], oldest: Lsn) -> Option<Lsn> {
    let reach = |list: &[EpochStart]| list.first().map_or(Lsn::MAX, |s| s.begin);
    let from = reach(a).max(reach(b)).max(oldest);
    let only_in = |x: &[EpochStart], y: &[EpochStart]| {
        x.iter()
            .filter(|s| s.begin >= from && !y.contains(s))
            .map(|s| s.begin)
            .min()
    };
    match (only_in(a, b), only_in(b, a)) {
        (Some(x), Some(y)) => Some(x.min(y)),
        (x, y) => x.or(y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esker_wal::Epoch;

    fn history(list: &[(u64, u64, u64)]) -> Vec<EpochStart> {
        list.iter()
            .map(|&(number, id, begin)| EpochStart {
                epoch: Epoch { number, id },
                begin: Lsn(begin),
            })
            .collect()
    }

    #[test]
    fn histories_are_compared_epoch_by_epoch_not_by_the_last_alone() {
        type Starts<'a> = &'a [(u64, u64, u64)];
        let cases: &[(&str, Starts<'_>, Starts<'_>, u64, Verdict)] = &[
            ("same", &[(1, 7, 0)], &[(1, 7, 0)], 800, Verdict::Continue),
            ("empty replica", &[(1, 7, 0)], &[], 0, Verdict::Continue),
            (
                "frames without an epoch",
                &[(1, 7, 0)],
                &[],
                8,
                Verdict::Diverged { at: Lsn(0) },
            ),
            (
                "primary was restarted, replica ends at or below the new epoch",
                &[(1, 7, 0), (1, 8, 800)],
                &[(1, 7, 0)],
                800,
                Verdict::Continue,
            ),
            (
                "primary was restarted and lost what the replica has",
                &[(1, 7, 0), (1, 8, 800)],
                &[(1, 7, 0)],
                808,
                Verdict::RewindTo { at: Lsn(800) },
            ),
            (
                "replica is two epochs behind, and fits",
                &[(1, 7, 0), (1, 8, 800), (2, 9, 1600)],
                &[(1, 7, 0), (1, 8, 800)],
                1600,
                Verdict::Continue,
            ),
            (
                "replica was promoted, the primary was not told",
                &[(1, 7, 0)],
                &[(1, 7, 0), (2, 9, 800)],
                1600,
                Verdict::StalePrimary { number: 2 },
            ),
            (
                "two were promoted at once: one number, two ids",
                &[(1, 7, 0), (2, 8, 800)],
                &[(1, 7, 0), (2, 9, 800)],
                1600,
                Verdict::Diverged { at: Lsn(800) },
            ),
            (
                "old primary as replica: its last epoch is unknown to the new one",
                &[(1, 7, 0), (2, 9, 1600)],
                &[(1, 7, 0), (1, 8, 2400)],
                3200,
                Verdict::Diverged { at: Lsn(1600) },
            ),
            (
                "another history altogether",
                &[(1, 7, 0)],
                &[(1, 6, 0)],
                800,
                Verdict::Diverged { at: Lsn(0) },
            ),
            (
                "same last epoch, but another one in between",
                &[(1, 7, 0), (1, 8, 800), (2, 9, 1600)],
                &[(1, 7, 0), (1, 5, 808), (2, 9, 1600)],
                1608,
                Verdict::Diverged { at: Lsn(800) },
            ),
        ];
        for (name, primary, replica, end, expected) in cases {
            let verdict = compare(&history(primary), &history(replica), Lsn(*end), Lsn::ZERO);
            assert_eq!(verdict, *expected, "{name}");
        }
    }

    #[test]
    fn a_history_that_was_cut_below_the_oldest_lsn_held_is_no_difference() {
        let primary = history(&[(1, 8, 800), (1, 9, 1600)]);
        let replica = history(&[(1, 7, 0), (1, 8, 800)]);
        assert_eq!(
            compare(&primary, &replica, Lsn(900), Lsn(800)),
            Verdict::Continue
        );
        // And the other way round.
        assert_eq!(
            compare(
                &history(&[(1, 7, 0), (1, 8, 800)]),
                &primary[..1],
                Lsn(900),
                Lsn(0)
            ),
            Verdict::Continue
        );
    }
}
