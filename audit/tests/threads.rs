//! T1, T3, T4: many writers, one of whom syncs for all, beside failing syncs, closing of files, a live log that is taken away and a power cut: what was
//! acknowledged is there, nobody hangs, and the trail is whole. With threads a seed does not replay exactly; it decides what fails, when the power goes and what
//! survives. `broken_builds.rs` has what these rounds catch.

mod support;

use support::writers::round;

#[test]
fn t4_what_many_writers_were_told_is_synced_survives_failed_syncs_and_the_power() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    let first: u64 = number("ESKER_SEED").unwrap_or(0);
    let seeds = number("ESKER_SEEDS").unwrap_or(20);
    let unknown: u64 = (first..first + seeds).map(|seed| round(seed, &|| {})).sum();
    assert!(unknown > 0, "no sync failed that somebody waited for");
}
