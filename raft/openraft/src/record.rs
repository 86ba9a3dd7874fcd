//! The bytes of a frame's payload.
//!
//! Little-endian.
//! ```text
//! at  size  field
//!  0     1  format   1
//!  1     1  kind     see below
//!  2     8  number   by kind
//! 10     n  body     by kind, in MessagePack (structs as arrays)
//! ```
//! | kind | number | body |
//! |---|---|---|
//! | 1 entry | its index | the entry |
//! | 2 vote | 0 | the vote |
//! | 3 committed | 0 | a log id, or nil |
//! | 4 truncated | entries from this index on are gone | |
//! | 5 purged | 0 | the last log id that is gone |

use serde::Serialize;
use serde::de::DeserializeOwned;

const FORMAT: u8 = 1;
const HEADER: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Entry = 1,
    Vote,
    Committed,
    Truncated,
    Purged,
}

/// Why a payload can't be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Garbled {
    #[error("a record of format {0}, which this build does not know; upgrade before opening")]
    Format(u8),
    #[error("{0}")]
    Record(&'static str),
    #[error("{0}")]
    Body(#[from] rmp_serde::decode::Error),
}

pub(crate) struct Record<'a> {
    pub(crate) kind: Kind,
    pub(crate) number: u64,
    body: &'a [u8],
}

impl<'a> Record<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Record<'a>, Garbled> {
        let kind = match payload {
            [FORMAT, 1, ..] => Kind::Entry,
            [FORMAT, 2, ..] => Kind::Vote,
            [FORMAT, 3, ..] => Kind::Committed,
            [FORMAT, 4, ..] => Kind::Truncated,
            [FORMAT, 5, ..] => Kind::Purged,
            [FORMAT, ..] | [] => return Err(Garbled::Record("a record of an unknown kind")),
            [format, ..] => return Err(Garbled::Format(*format)),
        };
        let number = payload.get(2..HEADER).and_then(|n| n.try_into().ok());
        let number = number.ok_or(Garbled::Record("a record that is cut"))?;
        Ok(Record {
            kind,
            number: u64::from_le_bytes(number),
            body: &payload[HEADER..],
        })
    }

    pub(crate) fn body<T: DeserializeOwned>(&self) -> Result<T, Garbled> {
        Ok(rmp_serde::from_slice(self.body)?)
    }
}

/// A record's payload. `body` of none is empty.
pub(crate) fn write<T: Serialize>(
    kind: Kind,
    number: u64,
    body: Option<&T>,
) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    let mut out = vec![FORMAT, kind as u8];
    out.extend_from_slice(&number.to_le_bytes());
    if let Some(body) = body {
        rmp_serde::encode::write(&mut out, body)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_spelled_like_this() {
        let bytes = write(Kind::Entry, 7, Some(&(1, "a"))).unwrap();
        assert_eq!(bytes, [1, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0x92, 1, 0xa1, b'a']);
        let record = Record::read(&bytes).unwrap();
        assert_eq!((record.kind, record.number), (Kind::Entry, 7));
        assert_eq!(record.body::<(u8, String)>().unwrap(), (1, "a".into()));
        let bytes = write::<()>(Kind::Truncated, 5, None).unwrap();
        assert_eq!(bytes, [1, 4, 5, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bad in [&[][..], &[1], &[1, 9, 0], &[1, 0], &[1, 1, 0, 0]] {
            assert!(
                matches!(Record::read(bad), Err(Garbled::Record(_))),
                "{bad:?}"
            );
        }
        assert!(matches!(Record::read(&[2, 1]), Err(Garbled::Format(2))));
        let cut = write(Kind::Vote, 0, Some(&(1, "text"))).unwrap();
        let record = Record::read(&cut[..cut.len() - 1]).unwrap();
        assert!(record.body::<(u8, String)>().is_err());
    }
}
