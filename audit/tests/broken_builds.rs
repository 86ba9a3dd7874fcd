//! The lives of `power.rs` must catch each deliberately broken build, within the seeds that stand here.
#![allow(clippy::print_stdout, reason = "it says how many seeds each took")]

mod support;

use esker_audit::sabotage::{self, Sabotage};
use std::panic::{AssertUnwindSafe, catch_unwind};
use support::lives::run;

/// Seeds within which each must be caught.
const WITHIN: u64 = 2000;

#[test]
fn each_broken_build_is_caught() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut survived = Vec::new();
    for sabotage in Sabotage::ALL {
        let caught = (0..WITHIN).find(|seed| {
            sabotage::set(Some(sabotage));
            let failed = catch_unwind(AssertUnwindSafe(|| run(*seed))).is_err();
            sabotage::set(None);
            failed
        });
        match caught {
            Some(seed) => println!("{sabotage:?}: caught by seed {seed}"),
            None => survived.push(sabotage),
        }
    }
    std::panic::set_hook(hook);
    assert!(
        survived.is_empty(),
        "not caught within {WITHIN} seeds: {survived:?}"
    );
}
