//! Random operations against a model, with power cuts, failed calls, full disks, kills and reopens.
//!
//! `ESKER_SEEDS=2000 cargo test -p esker-lsm --test model`; `ESKER_SEED=17 ESKER_TALK=1` replays one and tells its steps.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests tell what they did"
)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

#[test]
fn a_crash_leaves_a_prefix_of_the_writes_that_holds_all_synced_ones() {
    let mut crashes = 0;
    let mut failed = Vec::new();
    for seed in common::seeds(60) {
        match catch_unwind(AssertUnwindSafe(|| common::run(seed, 160))) {
            Ok(n) => crashes += n,
            Err(_) => {
                eprintln!("seed {seed}: ESKER_SEED={seed} ESKER_TALK=1 replays it");
                failed.push(seed);
            }
        }
    }
    println!("{crashes} crashes");
    assert!(failed.is_empty(), "seeds {failed:?}");
}
