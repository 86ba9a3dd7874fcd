//! The sectors of a segment from arbitrary bytes.

/// See fuzz/README.md.
pub(crate) fn check(data: &[u8]) {
    esker_wal::fuzzing::segment(data);
}

/// Where a corpus begins.
#[allow(dead_code, reason = "the fuzzer reads files")]
pub(crate) fn start() -> Vec<(String, Vec<u8>)> {
    esker_wal::fuzzing::sectors()
        .into_iter()
        .map(|(name, sector)| (name.to_owned(), sector.to_vec()))
        .collect()
}
