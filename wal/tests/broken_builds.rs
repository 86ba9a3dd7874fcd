//! Deliberately broken builds: the random runs catch each of them within 500 seeds.
//!
//! `cargo test -p esker-wal --features sabotage --test broken_builds`

#![allow(clippy::print_stderr, reason = "the table is the result")]

mod harness;

use esker_wal::sabotage::{Sabotage, set};
use harness::{World, runs, seeds};

const SEEDS: u64 = 500;

#[test]
fn each_broken_build_is_caught_within_500_seeds() {
    // A broken log may well panic; what it says then is in the table.
    std::panic::set_hook(Box::new(|_| {}));
    let (_, sound) = seeds::run(0..20, runs::run_seed);
    assert!(sound.is_none(), "the sound build fails: {sound:?}");
    let mut missed = Vec::new();
    for sabotage in Sabotage::ALL {
        let (_, caught) = seeds::run(0..SEEDS, move |seed| {
            set(Some(sabotage));
            let mut world = World::new(seed);
            // What follows from it has to be seen, not the missing step itself.
            world.epochs_are_counted = false;
            runs::run_world(world)
        });
        match caught {
            Some((seed, error)) => {
                let what = error.lines().next().unwrap_or_default();
                eprintln!("{sabotage:?}: caught after {} seeds: {what}", seed + 1);
            }
            None => {
                eprintln!("{sabotage:?}: not caught");
                missed.push(sabotage);
            }
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
