//! A value as it stands in the store.
//!
//! ```text
//! at  size  field
//!  0     1  flags    bit 0: a deadline follows; the other bits are zero and reserved
//!  1     8  deadline milliseconds since 1970, signed little-endian; there only with bit 0
//!  -     n  data
//! ```
//! A value that is shorter than its flags say, or has a reserved bit, was not written by this version: reading it
//! is an error, never a guess.

use bytes::Bytes;

const HAS_DEADLINE: u8 = 1;

/// What precedes the data.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; 9],
    len: usize,
}

impl Head {
    /// For a value with this deadline.
    #[must_use]
    #[inline]
    pub fn new(deadline: Option<i64>) -> Self {
        let mut bytes = [0; 9];
        let len = match deadline {
            Some(at) => {
                bytes[0] = HAS_DEADLINE;
                bytes[1..].copy_from_slice(&at.to_le_bytes());
                9
            }
            None => 1,
        };
        Head { bytes, len }
    }

    /// Its bytes.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A value read from the store.
#[derive(Clone, Debug)]
pub struct Value {
    stored: Bytes,
    data_at: usize,
    /// When it ends, in milliseconds since 1970.
    pub deadline: Option<i64>,
}

impl Value {
    /// Of its stored form; `None` where this version can't have written it.
    #[must_use]
    #[inline]
    pub fn from_stored(stored: Bytes) -> Option<Self> {
        let (data_at, deadline) = match *stored.first()? {
            0 => (1, None),
            HAS_DEADLINE => {
                let bytes: [u8; 8] = stored.get(1..9)?.try_into().ok()?;
                (9, Some(i64::from_le_bytes(bytes)))
            }
            _ => return None,
        };
        Some(Value {
            stored,
            data_at,
            deadline,
        })
    }

    /// Of its parts.
    #[must_use]
    pub fn from_parts(deadline: Option<i64>, parts: &[&[u8]]) -> Self {
        let head = Head::new(deadline);
        let len = head.len + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut stored = Vec::with_capacity(len);
        stored.extend_from_slice(head.as_bytes());
        for part in parts {
            stored.extend_from_slice(part);
        }
        Value {
            stored: stored.into(),
            data_at: head.len,
            deadline,
        }
    }

    /// The user's bytes.
    #[must_use]
    #[inline]
    pub fn data(&self) -> &[u8] {
        &self.stored[self.data_at..]
    }

    /// Whether `now` has reached its deadline: from that millisecond on it reads as missing.
    #[must_use]
    #[inline]
    pub fn is_past(&self, now: i64) -> bool {
        self.deadline.is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_as_it_was_written() {
        for deadline in [None, Some(0), Some(-5), Some(i64::MAX)] {
            let value = Value::from_parts(deadline, &[b"ab", b"", b"c"]);
            let read = Value::from_stored(value.stored.clone()).expect("well-formed");
            assert_eq!(read.data(), b"abc");
            assert_eq!(read.deadline, deadline);
        }
    }

    #[test]
    fn what_this_version_can_not_have_written_is_refused() {
        for stored in [&b""[..], b"\x01", b"\x01\0\0\0\0\0\0\0", b"\x02x", b"\x81"] {
            assert!(
                Value::from_stored(Bytes::copy_from_slice(stored)).is_none(),
                "{stored:?}"
            );
        }
    }
}
