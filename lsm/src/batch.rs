//! A write batch: operations that take effect together, as the payload of one frame of the log.
//!
//! ```text
//! u8 format (1), then operations until the payload's end:
//!   1 put           varint keyspace, varint klen, key, varint vlen, value
//!   2 delete        varint keyspace, varint klen, key
//!   3 delete range  varint keyspace, varint slen, start, varint elen, end (excluded; empty: no end)
//! ```
//! - B1: operation `i` of the frame at LSN `l` has SeqNo `l + i`. An operation takes three bytes or
//!   more, so its SeqNo is below the frame's end.
//! - B2: decoding looks at every length before it uses it; garbage is an error, never a panic (E2).
//! - B3: keyspace 0 is the only one for now; a batch that names another is refused, not guessed at.

use crate::varint;
use std::ops::Bound;

/// Format of the payload.
pub(crate) const BATCH_FORMAT: u8 = 1;

// On disk and on the wire: add, never renumber.
const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_RANGE: u8 = 3;

/// Operations that take effect together: one frame.
#[derive(Clone, Debug)]
pub struct WriteBatch {
    payload: Vec<u8>,
    ops: usize,
}

impl Default for WriteBatch {
    fn default() -> Self {
        WriteBatch::new()
    }
}

impl WriteBatch {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        WriteBatch {
            payload: vec![BATCH_FORMAT],
            ops: 0,
        }
    }

    /// Sets a key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_parts(key, &[value]);
    }

    /// Sets a key to the concatenation of `parts`, without an intermediate copy by the caller.
    pub fn put_parts(&mut self, key: &[u8], parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        // Tag, keyspace and two lengths beside them: it grows once.
        self.payload.reserve(key.len() + len + 22);
        self.begin(PUT, key);
        varint::put(&mut self.payload, len as u64);
        for part in parts {
            self.payload.extend_from_slice(part);
        }
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: &[u8]) {
        self.begin(DELETE, key);
    }

    /// Deletes every key from `start` on (included) to `end`. A range that can hold no key adds nothing.
    pub fn delete_range(&mut self, start: &[u8], end: Bound<&[u8]>) {
        let mut after = Vec::new();
        let end = match end {
            Bound::Unbounded => &[][..],
            Bound::Excluded(end) if end > start => end,
            Bound::Excluded(_) => return,
            Bound::Included(end) if end >= start => {
                // The smallest key above `end`.
                after.extend_from_slice(end);
                after.push(0);
                &after
            }
            Bound::Included(_) => return,
        };
        self.begin(DELETE_RANGE, start);
        varint::put(&mut self.payload, end.len() as u64);
        self.payload.extend_from_slice(end);
    }

    fn begin(&mut self, tag: u8, key: &[u8]) {
        self.ops += 1;
        self.payload.push(tag);
        varint::put(&mut self.payload, 0);
        varint::put(&mut self.payload, key.len() as u64);
        self.payload.extend_from_slice(key);
    }

    /// Operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops == 0
    }

    /// Bytes of the frame's payload.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.payload.len()
    }

    /// The frame's payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.payload.truncate(1);
        self.ops = 0;
    }
}

/// One operation of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Sets a key.
    Put {
        /// Key.
        key: &'a [u8],
        /// Value.
        value: &'a [u8],
    },
    /// Deletes a key.
    Delete {
        /// Key.
        key: &'a [u8],
    },
    /// Deletes `start..end`; no end when it is empty.
    DeleteRange {
        /// First key deleted.
        start: &'a [u8],
        /// First key not deleted; empty: there is none.
        end: &'a [u8],
    },
}

/// Why a payload is not a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Another format.
    #[error("batch of format {found}; this build reads format {BATCH_FORMAT}")]
    Format {
        /// The first byte.
        found: u8,
    },
    /// A keyspace that this build does not know.
    #[error("operation {op} is for keyspace {found}; this build knows keyspace 0 alone")]
    Keyspace {
        /// Ordinal of the operation.
        op: usize,
        /// Its keyspace.
        found: u64,
    },
    /// Bytes that are no operation.
    #[error("operation {op}, at byte {at} of the batch, is not an operation: {what}")]
    Garbled {
        /// Ordinal of the operation.
        op: usize,
        /// Byte of the payload.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// Reads the operations of a payload; checks it whole when it is made.
#[derive(Clone, Debug)]
pub struct BatchReader<'a> {
    rest: &'a [u8],
    len: usize,
    op: usize,
}

impl<'a> BatchReader<'a> {
    /// Checks `payload` to its end.
    pub fn new(payload: &'a [u8]) -> Result<BatchReader<'a>, BatchError> {
        match payload.split_first() {
            Some((&BATCH_FORMAT, rest)) => {
                let mut walk = BatchReader {
                    rest,
                    len: payload.len(),
                    op: 0,
                };
                while walk.next_op()?.is_some() {}
                Ok(BatchReader {
                    rest,
                    len: payload.len(),
                    op: 0,
                })
            }
            Some((&found, _)) => Err(BatchError::Format { found }),
            None => Err(BatchError::Garbled {
                op: 0,
                at: 0,
                what: "the payload is empty",
            }),
        }
    }

    /// A batch of this process's own making: checked as it is read.
    pub(crate) fn trusted(batch: &'a WriteBatch) -> BatchReader<'a> {
        BatchReader {
            rest: &batch.payload[1..],
            len: batch.payload.len(),
            op: 0,
        }
    }

    fn next_op(&mut self) -> Result<Option<Op<'a>>, BatchError> {
        let at = self.len - self.rest.len();
        let op = self.op;
        let garbled = |what| BatchError::Garbled { op, at, what };
        let Some((&tag, mut rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        if !(PUT..=DELETE_RANGE).contains(&tag) {
            return Err(garbled("unknown tag"));
        }
        match varint::take(&mut rest) {
            Some(0) => {}
            Some(found) => return Err(BatchError::Keyspace { op, found }),
            None => return Err(garbled("cut off in its keyspace")),
        }
        let key = varint::take_bytes(&mut rest).ok_or_else(|| garbled("cut off in its key"))?;
        let found = match tag {
            PUT => Op::Put {
                key,
                value: varint::take_bytes(&mut rest)
                    .ok_or_else(|| garbled("cut off in its value"))?,
            },
            DELETE => Op::Delete { key },
            _ => {
                let end =
                    varint::take_bytes(&mut rest).ok_or_else(|| garbled("cut off in its end"))?;
                if !end.is_empty() && end <= key {
                    return Err(garbled("a range that ends before it starts"));
                }
                Op::DeleteRange { start: key, end }
            }
        };
        self.rest = rest;
        self.op += 1;
        Ok(Some(found))
    }
}

impl<'a> Iterator for BatchReader<'a> {
    type Item = Op<'a>;
    fn next(&mut self) -> Option<Op<'a>> {
        // Checked in `new`, or made by WriteBatch: an error can't come, and would end the walk.
        self.next_op().ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    #[test]
    fn a_batch_comes_back_operation_by_operation() {
        let mut batch = WriteBatch::new();
        batch.put(b"k", b"v");
        batch.put_parts(b"parts", &[b"a", b"", b"bc"]);
        batch.delete(b"");
        batch.delete_range(b"a", Bound::Excluded(b"c"));
        batch.delete_range(b"a", Bound::Included(b"a"));
        batch.delete_range(b"x", Bound::Unbounded);
        batch.delete_range(b"x", Bound::Excluded(b"x"));
        batch.delete_range(b"x", Bound::Included(b"w"));
        assert_eq!(batch.len(), 6);
        let ops: Vec<_> = BatchReader::new(batch.payload()).unwrap().collect();
        assert_eq!(
            ops,
            [
                Op::Put {
                    key: b"k",
                    value: b"v"
                },
                Op::Put {
                    key: b"parts",
                    value: b"abc"
                },
                Op::Delete { key: b"" },
                Op::DeleteRange {
                    start: b"a",
                    end: b"c"
                },
                Op::DeleteRange {
                    start: b"a",
                    end: b"a\0"
                },
                Op::DeleteRange {
                    start: b"x",
                    end: b""
                },
            ]
        );
        batch.clear();
        assert!(batch.is_empty());
        assert_eq!(batch.payload(), [BATCH_FORMAT]);
    }

    #[test]
    fn the_bytes_of_a_batch_are_frozen() {
        let mut batch = WriteBatch::new();
        batch.put(b"key", b"val");
        batch.delete(b"d");
        batch.delete_range(b"a", Bound::Excluded(b"b"));
        assert_eq!(
            batch.payload(),
            b"\x01\x01\x00\x03key\x03val\x02\x00\x01d\x03\x00\x01a\x01b"
        );
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        assert!(BatchReader::new(b"").is_err());
        assert_eq!(
            BatchReader::new(b"\x02").unwrap_err(),
            BatchError::Format { found: 2 }
        );
        assert!(matches!(
            BatchReader::new(b"\x01\x01\x07\x01k\x00").unwrap_err(),
            BatchError::Keyspace { op: 0, found: 7 }
        ));
        let mut batch = WriteBatch::new();
        batch.put(b"key", b"value");
        batch.delete_range(b"a", Bound::Excluded(b"b"));
        for cut in 2..batch.encoded_len() {
            let cut = &batch.payload()[..cut];
            if cut.len() != 13 {
                assert!(BatchReader::new(cut).is_err(), "{cut:?}");
            }
        }
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..20_000 {
            let mut bytes = batch.payload().to_vec();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            if let Ok(ops) = BatchReader::new(&bytes) {
                let _ = ops.count();
            }
        }
    }
}
