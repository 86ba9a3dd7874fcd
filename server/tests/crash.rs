//! A few rounds of `cargo xtask crash`: killed at random moments under load, judged by what was acknowledged.
//! `ESKER_SEED` chooses the moments; `cargo xtask crash --rounds 200` is the long form.

use xtask::crash::{Kind, short};
use xtask::node::Binaries;

fn rounds(kind: Kind, count: u32) {
    let binaries = Binaries {
        primary: env!("CARGO_BIN_EXE_primary").into(),
        replica: env!("CARGO_BIN_EXE_replica").into(),
    };
    let seed = std::env::var("ESKER_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    short(&binaries, kind, count, seed).unwrap();
}

#[test]
fn kill_9_loses_nothing_acknowledged() {
    rounds(Kind::Alone, 15);
}

#[test]
fn kill_9_on_either_side_ends_equal() {
    rounds(Kind::Pair, 10);
}
