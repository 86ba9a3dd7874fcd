//! The lives of `power.rs`, and the rounds of `threads.rs`, must catch each deliberately broken build, within the seeds that stand here.
#![allow(clippy::print_stdout, reason = "it says how many seeds each took")]

mod support;

use esker_audit::sabotage::{self, Sabotage};
use std::panic::{AssertUnwindSafe, catch_unwind};
use support::lives::run;
use support::writers::round;

/// Seeds within which each must be caught, by lives and by rounds.
const WITHIN: u64 = 5000;
const ROUNDS: u64 = 20;

#[test]
fn each_broken_build_is_caught() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut survived = Vec::new();
    let mut note = |sabotage: Sabotage, caught: Option<u64>| match caught {
        Some(seed) => println!("{sabotage:?}: caught by seed {seed}"),
        None => survived.push(sabotage),
    };
    for sabotage in Sabotage::ALONE {
        let caught = (0..WITHIN).find(|seed| {
            sabotage::set(Some(sabotage));
            let failed = catch_unwind(AssertUnwindSafe(|| run(*seed))).is_err();
            sabotage::set(None);
            failed
        });
        note(sabotage, caught);
    }
    let sabotage = Sabotage::GroupOutlivesLog;
    let broken = || sabotage::set(Some(sabotage));
    let caught = (0..ROUNDS).find(|seed| catch_unwind(|| round(*seed, &broken)).is_err());
    note(sabotage, caught);
    std::panic::set_hook(hook);
    assert!(
        survived.is_empty(),
        "not caught within {WITHIN} seeds: {survived:?}"
    );
}
