//! Every file of the fuzzer's corpus, as an ordinary test (E2): what it once found stays found.
//!
//! `cargo test -p esker-raft --test corpus -- --ignored` writes where a corpus begins.

#[path = "../../fuzz/bodies/corpus.rs"]
mod corpus;
#[path = "../../fuzz/bodies/raft_log.rs"]
mod raft_log;
#[path = "../../fuzz/bodies/wire.rs"]
mod wire;

#[test]
fn the_corpus_of_packets_holds() {
    corpus::replay("wire", wire::check);
}

#[test]
fn the_corpus_of_logs_holds() {
    corpus::replay("raft_log", raft_log::check);
}

/// The fuzzer's changes by chance: `ESKER_SEEDS=100000`, `ESKER_SEED=17` replays one.
#[test]
fn logs_whose_frames_were_changed_open_or_are_refused() {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let seeds = match number("ESKER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ESKER_SEEDS").unwrap_or(2_000),
    };
    for seed in seeds {
        // Splitmix64.
        let mut state = seed;
        let bytes: Vec<u8> = (0..1 + seed % 32)
            .map(|_| {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                (mixed >> 40) as u8
            })
            .collect();
        if let Err(panic) = std::panic::catch_unwind(|| raft_log::check(&bytes)) {
            #[allow(clippy::print_stderr, reason = "which it was")]
            {
                eprintln!("ESKER_SEED={seed}");
            }
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
#[ignore = "writes files"]
fn write_the_start() {
    corpus::write("wire", wire::start());
    corpus::write("raft_log", raft_log::start());
}
