//! The Raft log on `esker-wal` (LS1-LS5, C2, W3): random calls with power cuts, kills, failing calls and full disks, and damage.
//!
//! `ESKER_SEEDS=2000 cargo test -p esker-raft --test log_storage`; `ESKER_SEED=17` replays one.
//! `cargo test -p esker-raft --features sabotage --test log_storage broken` tries deliberately broken builds.

#![allow(unreachable_pub, reason = "modules of one test")]

mod claims;
mod damage;
#[path = "../support/seeds.rs"]
mod seeds;
mod world;

use seeds::all;

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
    all(150, |seed| world::run(seed, 150), &paths);
}

#[test]
fn damage_is_never_cut_and_heals_when_the_entries_come_again() {
    let paths = [
        "a file shortened",
        "a header harmed",
        "entries lost",
        "harmless",
        "healed",
        "still lost after a restart",
        "the vote may be lost",
    ];
    all(400, damage::run, &paths);
}

#[cfg(feature = "sabotage")]
#[test]
fn broken_builds_are_each_caught_within_500_seeds() {
    seeds::catch(esker_raft::sabotage::STORAGE, 500, |seed| {
        world::run(seed, 150);
        damage::run(seed);
    });
}
