//! What stands in the log as a command: the client's bytes, and what the runtime adds.
//!
//! Little-endian.
//! ```text
//! at  size  field
//!  0     1  version   1
//!  1     1  kind      1 command, 2 open a session, 3 close one, 4 time alone
//!  2     8  time      of the leader that took it, in microseconds since 1970
//! 10     8  session   0: none
//! 18     8  serial    within the session
//! 26     8  floor     the client has the replies to all serials below
//! 34     n  payload   of a command; of kind 2 the time to live in microseconds, u64
//! ```

use crate::codec::{Decoder, Malformed};
use bytes::Bytes;

const VERSION: u8 = 1;
const TIME_AT: usize = 2;
const HEADER: usize = 34;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Command,
    Open,
    Close,
    Time,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) time: u64,
    pub(super) session: u64,
    pub(super) serial: u64,
    pub(super) floor: u64,
    pub(super) payload: Bytes,
}

impl Request {
    /// Without a session.
    pub(super) fn plain(kind: Kind, payload: Bytes) -> Request {
        Request {
            kind,
            time: 0,
            session: 0,
            serial: 0,
            floor: 0,
            payload,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.payload.len());
        out.push(VERSION);
        out.push(match self.kind {
            Kind::Command => 1,
            Kind::Open => 2,
            Kind::Close => 3,
            Kind::Time => 4,
        });
        for field in [self.time, self.session, self.serial, self.floor] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        debug_assert_eq!(out.len(), HEADER);
        out.extend_from_slice(&self.payload);
        out
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Request, Malformed> {
        let mut d = Decoder::new(bytes);
        if d.u8("a version")? != VERSION {
            return Err(d.malformed("version 1 of a request; a newer node wrote it"));
        }
        let kind = match d.u8("a kind of request")? {
            1 => Kind::Command,
            2 => Kind::Open,
            3 => Kind::Close,
            4 => Kind::Time,
            _ => return Err(d.malformed("a known kind of request")),
        };
        Ok(Request {
            kind,
            time: d.u64("a time")?,
            session: d.u64("a session")?,
            serial: d.u64("a serial")?,
            floor: d.u64("a floor")?,
            payload: d.bytes(d.left(), "a payload")?,
        })
    }
}

/// Puts the leader's time into an encoded request.
pub(super) fn stamp(request: &mut [u8], time: u64) {
    request[TIME_AT..TIME_AT + 8].copy_from_slice(&time.to_le_bytes());
}

/// Whether these bytes can stand in the log: a forwarded request comes from the network.
pub(super) fn is_request(bytes: &Bytes) -> bool {
    Request::decode(bytes.clone()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_stamped_in_place() {
        let mut request = Request {
            kind: Kind::Command,
            time: 0,
            session: 2,
            serial: 3,
            floor: 1,
            payload: Bytes::from_static(b"a=b"),
        };
        let mut bytes = request.encode();
        stamp(&mut bytes, 77);
        request.time = 77;
        let bytes = Bytes::from(bytes);
        assert_eq!(Request::decode(bytes.clone()), Ok(request));
        for len in 0..HEADER {
            assert!(Request::decode(bytes.slice(..len)).is_err());
        }
    }
}
