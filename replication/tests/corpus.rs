//! Every file of the fuzzer's corpus, as an ordinary test (E2): what it once found stays found.
//!
//! `cargo test -p esker-replication --test corpus -- --ignored` writes where a corpus begins.

#[path = "../../fuzz/bodies/corpus.rs"]
mod corpus;
#[path = "../../fuzz/bodies/replication.rs"]
mod replication;

#[test]
fn the_corpus_of_replication_holds() {
    corpus::replay("replication", replication::check);
}

#[test]
#[ignore = "writes files"]
fn write_the_start() {
    corpus::write("replication", replication::start());
}
