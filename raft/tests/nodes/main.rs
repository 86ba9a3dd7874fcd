//! Whole nodes, with the threads that they have in use, under power cuts, kills, failing syncs, partitions and transfers, and clients that
//! write down what they see: one order must explain each key's history, and all nodes must hold the same at the end.
//!
//! `ESKER_SECONDS=300 cargo test --release -p esker-raft --features lsm --test nodes under -- --nocapture` is the long run. `ESKER_SEED=n` begins
//! with another seed: faults and commands follow from it, what the threads make of them does not.
#![cfg(feature = "lsm")]
#![allow(clippy::print_stderr, reason = "tests tell what they did")]
#![allow(unreachable_pub, reason = "modules of one test")]

mod clients;
// As `cargo xtask raft-chaos` judges what clients saw of real members.
#[path = "../../../xtask/src/raft_chaos/history.rs"]
mod history;
#[path = "../support/nodes.rs"]
mod nodes;
mod storm;

use std::collections::BTreeMap;
use std::time::Duration;

fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Done when 3 of Raft. C1 to C5, W1, W6.
#[test]
fn histories_are_linearizable_and_nodes_equal_under_power_cuts_kills_and_partitions() {
    let seconds = number("ESKER_SECONDS", 10);
    let seed = number("ESKER_SEED", 1);
    let rounds = seconds.div_ceil(10).max(2);
    let each = Duration::from_secs(seconds) / rounds as u32;
    let mut seen = BTreeMap::new();
    for seed in seed..seed + rounds {
        match storm::run(seed, each, &storm::some_faults(seed)) {
            Ok(more) => {
                for (what, n) in more {
                    *seen.entry(what).or_insert(0) += n;
                }
            }
            Err(error) => panic!("ESKER_SEED={seed}: {error}"),
        }
    }
    eprintln!("{seconds} s, seeds from {seed}:");
    for (what, times) in &seen {
        eprintln!("{times:>9}  {what}");
    }
    assert!(seen["commands"] > 10 * seconds, "hardly any commands");
    if seconds >= 300 {
        for what in storm::FAULTS.iter().chain(storm::PATHS) {
            assert!(seen.contains_key(what), "never seen: {what}");
        }
    }
}

/// A storm finds what is broken: here that nothing is synced before it is acknowledged.
#[cfg(feature = "sabotage")]
#[test]
fn storms_over_broken_nodes_end_in_violations() {
    use esker_raft::sabotage::Sabotage;
    let first = number("ESKER_SEED", 1);
    Sabotage::set(Some(Sabotage::LogNotSynced));
    let found = (first..first + 10).find_map(|seed| {
        let error = storm::run(seed, Duration::from_secs(3), &["all lose power"]).err()?;
        Some((seed - first + 1, error))
    });
    Sabotage::set(None);
    let (storms, error) = found.expect("a violation");
    let line = error.lines().next().unwrap_or_default();
    eprintln!("found in {storms} storms: {line}");
}
