//! Random runs by seed: what they took on the way, and the deliberately broken builds that they must catch.
#![allow(clippy::print_stderr, reason = "tests tell what they did")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How often a run took which path.
pub(crate) type Seen = BTreeMap<&'static str, u64>;

/// Runs `default` seeds, or those that `ESKER_SEED`, or `ESKER_SEEDS` and `ESKER_SEED_FROM`, name. Where they are as many, each of `paths` must have been
/// taken.
pub(crate) fn all(default: u64, run: impl Fn(u64) -> Seen, paths: &[&str]) {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse().ok());
    let seeds = match number("ESKER_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let from = number("ESKER_SEED_FROM").unwrap_or(0);
            from..from + number("ESKER_SEEDS").unwrap_or(default)
        }
    };
    let many = seeds.end - seeds.start >= default;
    let mut seen = Seen::new();
    let mut failed = Vec::new();
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
    for path in paths.iter().filter(|_| many) {
        assert!(seen.contains_key(path), "never seen: {path}");
    }
}

/// Each of `builds` must fail within so many seeds.
#[cfg(feature = "sabotage")]
pub(crate) fn catch(builds: &[esker_raft::sabotage::Sabotage], seeds: u64, run: impl Fn(u64)) {
    use esker_raft::sabotage::Sabotage;
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for build in builds {
        let caught = (0..seeds).find(|seed| {
            Sabotage::set(Some(*build));
            let caught = catch_unwind(AssertUnwindSafe(|| run(*seed))).is_err();
            Sabotage::set(None);
            caught
        });
        match caught {
            Some(seed) => eprintln!("{build:?}: caught after {} seeds", seed + 1),
            None => missed.push(build),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
