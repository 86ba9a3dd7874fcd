//! Simulation of the core: elections, replication, membership, reads, transfers and snapshots under every fault at once, checked at
//! every step (C1-C3).
//!
//! `ESKER_SEEDS=20000` runs more seeds, `ESKER_FIRST=n` those from there on, `ESKER_SEED=n` only that one.
#![allow(clippy::print_stdout, reason = "a test that says what it covered")]

mod machines;
mod scenarios;

use esker_raft::sim::Coverage;
use esker_raft::sim::cluster::{self, Cluster};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("ESKER_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("ESKER_FIRST").unwrap_or(0);
            first..first + number("ESKER_SEEDS").unwrap_or(default)
        }
    }
}

fn run(seed: u64) -> Result<Coverage, String> {
    caught(|| {
        let mut cluster = Cluster::new(seed);
        cluster.run().map(|()| cluster.coverage)
    })
}

/// A panic is an error like any other.
fn caught<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(panic) => Err(match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => (panic.downcast_ref::<&str>()).map_or("panic".into(), |s| (*s).into()),
        }),
    }
}

/// C1, C2, C3.
#[test]
fn safe_under_every_fault_and_live_after_it() {
    let mut coverage = Coverage::new();
    let seeds = seeds(1000);
    let all = seeds.end - seeds.start > 100;
    for seed in seeds {
        match run(seed) {
            Ok(one) => {
                for (what, times) in one {
                    *coverage.entry(what).or_default() += times;
                }
            }
            Err(error) => panic!("ESKER_SEED={seed}: {error}"),
        }
    }
    for (what, times) in &coverage {
        println!("{times:>9}  {what}");
    }
    if all {
        for what in cluster::must_happen() {
            assert!(coverage.contains_key(what), "{what} never happened");
        }
    }
}

/// The scenarios hold.
#[test]
fn safe_in_the_scenarios_of_the_papers() {
    let wrong: Vec<_> = scenarios::all()
        .filter_map(|(name, scenario)| Some(format!("{name}: {}", caught(scenario).err()?)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Each deliberate bug is found: by a scenario, else by chance.
#[cfg(feature = "sabotage")]
#[test]
fn each_broken_build_is_caught_within_2000_seeds() {
    use esker_raft::sabotage::{ALL, Sabotage};
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    let only = std::env::var("ESKER_SABOTAGE").ok();
    let chosen = |s: &Sabotage| only.as_ref().is_none_or(|o| o.contains(&format!("{s:?}")));
    for sabotage in ALL.iter().filter(|s| chosen(s)) {
        Sabotage::set(Some(*sabotage));
        let directed = std::env::var_os("ESKER_BY_CHANCE").is_none();
        let mut found: Option<String> = None;
        let mut names = Vec::new();
        for (name, scenario) in scenarios::all().filter(|_| directed) {
            // One that the broken build keeps from getting there has found nothing.
            if let Err(error) = caught(scenario)
                && !error.starts_with(scenarios::SET_UP)
            {
                names.push(name);
                found.get_or_insert(error);
            }
        }
        if let Some(error) = found {
            println!("| {sabotage:?} | {} | {error} |", names.join(", "));
            continue;
        }
        match (0..2000).find_map(|seed| run(seed).err().map(|error| (seed, error))) {
            Some((seed, error)) => {
                let line = error.lines().next().unwrap_or_default();
                println!("| {sabotage:?} | {} | {line} |", seed + 1);
            }
            None => missed.push(*sabotage),
        }
    }
    Sabotage::set(None);
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
