//! T1, CL1, A1: the power goes, or the process is killed, at any call of the disk; every acknowledged record is there afterwards, and the trail is
//! whole. Five hundred seeds; `ESKER_SEEDS=5000` for more, `ESKER_SEED=n` for one.
#![allow(clippy::print_stderr, reason = "it says which seed failed")]

mod support;

use support::lives::run;

#[test]
fn t1_what_was_acknowledged_survives_the_power_and_the_trail_is_whole() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    if let Some(seed) = number("ESKER_SEED") {
        run(seed);
        return;
    }
    let seeds = number("ESKER_SEEDS").unwrap_or(500);
    let mut acknowledged = 0;
    for seed in 0..seeds {
        let ran = std::panic::catch_unwind(|| run(seed));
        match ran {
            Ok(n) => acknowledged += n,
            Err(panic) => {
                eprintln!("ESKER_SEED={seed} repeats it");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(
        acknowledged > seeds,
        "{acknowledged} records in {seeds} seeds"
    );
}
