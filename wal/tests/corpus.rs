//! Every file of the fuzzer's corpus, as an ordinary test (E2, W3): what it once found stays found.
//!
//! `cargo test -p esker-wal --test corpus -- --ignored` writes where a corpus begins.

#[path = "../../fuzz/bodies/corpus.rs"]
mod corpus;
#[path = "../../fuzz/bodies/frame.rs"]
mod frame;
#[path = "../../fuzz/bodies/open.rs"]
mod open;
#[path = "../../fuzz/bodies/segment.rs"]
mod segment;

#[test]
fn frames_of_the_corpus_hold() {
    corpus::replay("frame", frame::check);
}

#[test]
fn sectors_of_the_corpus_hold() {
    corpus::replay("segment", segment::check);
}

#[test]
fn logs_of_the_corpus_open_or_are_refused() {
    corpus::replay("open", open::check);
}

#[test]
#[ignore = "writes files"]
fn write_the_start() {
    corpus::write("frame", frame::start());
    corpus::write("segment", segment::start());
    corpus::write("open", open::start());
}
