//! Every file of the fuzzer's corpus, as an ordinary test (E2): what it once found stays found.
//!
//! `cargo test -p esker-raft --test corpus -- --ignored` writes where a corpus begins.

#[path = "../../fuzz/bodies/corpus.rs"]
mod corpus;
#[path = "../../fuzz/bodies/wire.rs"]
mod wire;

#[test]
fn the_corpus_of_packets_holds() {
    corpus::replay("wire", wire::check);
}

#[test]
#[ignore = "writes files"]
fn write_the_start() {
    corpus::write("wire", wire::start());
}
