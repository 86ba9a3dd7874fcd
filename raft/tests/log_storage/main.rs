//! The Raft log on `esker-wal` (LS1-LS5, C2, W3): random calls with power cuts, kills, failing calls and full disks, and damage.
//!
//! `ESKER_SEEDS=2000 cargo test -p esker-raft --test log_storage`; `ESKER_SEED=17` replays one.
//! `cargo test -p esker-raft --features sabotage --test log_storage broken` tries deliberately broken builds.

#![allow(clippy::print_stderr, reason = "tests tell what they did")]
#![allow(unreachable_pub, reason = "modules of one test")]

mod claims;
mod damage;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Seen = BTreeMap<&'static str, u64>;

fn seeds(default: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse().ok());
    match number("ESKER_SEED") {
        Some(seed) => vec![seed],
        None => {
            let from = number("ESKER_SEED_FROM").unwrap_or(0);
            (from..from + number("ESKER_SEEDS").unwrap_or(default)).collect()
        }
    }
}

/// Runs all seeds; each of `paths` must have been taken.
fn all(seeds: Vec<u64>, run: impl Fn(u64) -> Seen, paths: &[&str]) {
    let mut seen = Seen::new();
    let mut failed = Vec::new();
    let many = seeds.len() > 50;
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(more) => {
                for (what, n) in more {
                    *seen.entry(what).or_insert(0) += n;
                }
            }
            Err(_) => {
                eprintln!("seed {seed}: ESKER_SEED={seed} replays it");
                failed.push(seed);
            }
        }
    }
    eprintln!("{seen:?}");
    assert!(failed.is_empty(), "seeds {failed:?}");
    if many {
        for path in paths {
            assert!(seen.contains_key(path), "never seen: {path}");
        }
    }
}

#[test]
fn every_synced_entry_and_vote_is_found_and_no_superseded_one_comes_back() {
    let paths = [
        "compacted to the end",
        "cut while opening",
        "failed",
        "full",
        "kill",
        "power cut",
        "power cut at a call",
        "read",
        "reopened",
        "snapshot beyond the end",
        "snapshot inside",
        "superseded",
        "unsynced calls lost",
    ];
    all(seeds(150), |seed| world::run(seed, 150), &paths);
}

#[test]
fn damage_is_never_cut_and_heals_when_the_entries_come_again() {
    let paths = [
        "entries lost",
        "harmless",
        "healed",
        "still lost after a restart",
        "the vote may be lost",
    ];
    all(seeds(400), damage::run, &paths);
}

#[cfg(feature = "sabotage")]
#[test]
fn broken_builds_are_each_caught_within_500_seeds() {
    use esker_raft::sabotage::{STORAGE, Sabotage};
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for sabotage in STORAGE {
        let caught = (0..500).find(|seed| {
            Sabotage::set(Some(*sabotage));
            let run = || (world::run(*seed, 150), damage::run(*seed));
            let caught = catch_unwind(AssertUnwindSafe(run)).is_err();
            Sabotage::set(None);
            caught
        });
        match caught {
            Some(seed) => eprintln!("{sabotage:?}: caught after {} seeds", seed + 1),
            None => missed.push(sabotage),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
