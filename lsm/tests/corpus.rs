//! Every file of the fuzzer's corpus, as an ordinary test (E2): what it once found stays found.
//!
//! `cargo test -p esker-lsm --test corpus -- --ignored` writes where a corpus begins.

#[path = "../../fuzz/bodies/batch.rs"]
mod batch;
#[path = "../../fuzz/bodies/corpus.rs"]
mod corpus;
#[path = "../../fuzz/bodies/table.rs"]
mod table;

#[test]
fn the_corpus_of_table_holds() {
    corpus::replay("table", table::check);
}

#[test]
fn the_corpus_of_batch_holds() {
    corpus::replay("batch", batch::check);
}

#[test]
#[ignore = "writes files"]
fn write_the_start() {
    corpus::write("table", table::start());
    corpus::write("batch", batch::start());
}
