//! Deliberately broken builds: the model test must catch each of them within 500 seeds.
//!
//! `cargo test -p esker-lsm --features sabotage --test broken`
#![cfg(feature = "sabotage")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests tell what they did"
)]

mod common;

use esker_lsm::sabotage::{self, Switch};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn is_caught(name: &str, switch: Switch) {
    is_caught_by(name, switch, |seed| {
        common::run(seed, 160);
    });
}

fn is_caught_by(name: &str, switch: Switch, run: impl Fn(u64)) {
    // The panics are wanted; their messages would drown the rest.
    let caught = (0..common::env("ESKER_BROKEN_SEEDS", 500)).find(|seed| {
        let _broken = sabotage::enable(switch);
        catch_unwind(AssertUnwindSafe(|| run(*seed))).is_err()
    });
    match caught {
        Some(seed) => println!("{name}: caught by seed {seed}"),
        None => panic!("{name}: not caught"),
    }
}

macro_rules! broken {
    ($($test:ident: $switch:ident,)*) => {
        $(
            #[test]
            fn $test() {
                is_caught(stringify!($test), sabotage::$switch);
            }
        )*
    };
}

broken! {
    a_table_installed_before_the_log_is_synced_is_caught: TABLE_BEFORE_LOG,
    a_manifest_that_is_not_synced_is_caught: MANIFEST_NOT_SYNCED,
    a_table_that_is_not_synced_is_caught: TABLE_NOT_SYNCED,
    a_directory_that_is_not_synced_is_caught: DIR_NOT_SYNCED,
    a_tombstone_dropped_too_early_is_caught: TOMBSTONE_DROPPED_EARLY,
    inputs_removed_before_the_edit_are_caught: INPUTS_REMOVED_BEFORE_EDIT,
    a_flushed_lsn_too_high_is_caught: FLUSHED_TOO_HIGH,
    snapshots_ignored_by_compaction_are_caught: SNAPSHOTS_IGNORED,
}

/// With an external log.
macro_rules! broken_externally {
    ($($test:ident: $switch:ident,)*) => {
        $(
            #[test]
            fn $test() {
                is_caught_by(stringify!($test), sabotage::$switch, |seed| {
                    common::external::run(seed, 200);
                });
            }
        )*
    };
}

broken_externally! {
    a_table_installed_before_the_external_log_is_synced_is_caught: TABLE_BEFORE_LOG,
    a_flushed_position_too_high_is_caught: FLUSHED_TOO_HIGH,
    a_directory_of_a_checkpoint_that_is_not_synced_is_caught: DIR_NOT_SYNCED,
    a_manifest_that_was_found_and_counts_as_durable_is_caught: FOUND_COUNTS_AS_DURABLE,
    a_removal_that_was_found_and_not_synced_is_caught: REMOVAL_NOT_SYNCED,
}
