//! Random operations, rewinds among them, with power cuts, kills, failed calls and a full disk, against a model.
//!
//! `ESKER_SEEDS=n` runs n seeds (from `ESKER_FROM` on), `ESKER_SEED=s` that one and tells its story.

#![allow(clippy::print_stderr, reason = "a seed's story is told on stderr")]

mod harness;

use harness::{Tally, runs::run_seed, seeds};

#[test]
fn a_recovered_log_is_a_prefix_that_holds_every_synced_frame() {
    let chosen = seeds::chosen(2000);
    let count = chosen.end - chosen.start;
    let (tallies, failure) = seeds::run(chosen, run_seed);
    if let Some((seed, error)) = failure {
        panic!("ESKER_SEED={seed}: {error}");
    }
    let mut tally = Tally::default();
    for one in tallies {
        tally.add(one);
    }
    eprintln!("{count} seeds: {tally:?}");
    if count >= 500 {
        // It went where it should.
        assert!(tally.cuts > count, "{tally:?}");
        assert!(tally.frames_lost > 0 && tally.poisonings > 0, "{tally:?}");
        assert!(tally.rotations > count && tally.recycled > 0, "{tally:?}");
        assert!(tally.no_space > 0, "{tally:?}");
        assert!(tally.rewinds > count, "{tally:?}");
    }
}
