//! Batches from arbitrary bytes.

use esker_lsm::{BatchReader, Op, WriteBatch};
use std::ops::Bound;

/// See fuzz/README.md.
pub(crate) fn check(data: &[u8]) {
    let Ok(reader) = BatchReader::new(data) else {
        return;
    };
    let mut again = WriteBatch::new();
    let ops: Vec<Op<'_>> = reader.collect();
    for op in &ops {
        match *op {
            Op::Put { key, value } => again.put(key, value),
            Op::Delete { key } => again.delete(key),
            Op::DeleteRange { start, end } => {
                let end = if end.is_empty() {
                    Bound::Unbounded
                } else {
                    Bound::Excluded(end)
                };
                again.delete_range(start, end);
            }
        }
    }
    let reader = BatchReader::new(again.payload()).expect("a batch of our own making");
    let twice: Vec<Op<'_>> = reader.collect();
    assert_eq!(ops, twice);
}

/// Where a corpus begins.
#[allow(dead_code, reason = "the fuzzer reads files")]
pub(crate) fn start() -> Vec<(String, Vec<u8>)> {
    let mut batch = WriteBatch::new();
    let mut all = vec![("empty".to_owned(), batch.payload().to_vec())];
    batch.put(b"key", b"value");
    all.push(("put".to_owned(), batch.payload().to_vec()));
    batch.put(&[b'k'; 200], &[b'v'; 300]);
    batch.delete(b"");
    batch.delete_range(b"a", Bound::Excluded(b"b"));
    batch.delete_range(b"c", Bound::Unbounded);
    let whole = batch.payload().to_vec();
    all.push(("cut-short".to_owned(), whole[..whole.len() - 3].to_vec()));
    all.push(("all-kinds".to_owned(), whole));
    all
}
