//! Every file of the fuzzer's corpus, as an ordinary test (E2): what it once found stays found.
//!
//! `cargo test -p esker-server --test corpus -- --ignored` writes where a corpus begins.

#[path = "../../fuzz/bodies/corpus.rs"]
mod corpus;
#[path = "../../fuzz/bodies/resp.rs"]
mod resp;

#[test]
fn the_corpus_of_resp_holds() {
    corpus::replay("resp", resp::check);
}

#[test]
#[ignore = "writes files"]
fn write_the_start() {
    corpus::write("resp", resp::start());
}
