//! What stands in the log as a command: the client's bytes, and what the runtime adds.
//!
//! Little-endian.
//! ```text
//! at  size  field
//!  0     1  version   1
//!  1     1  kind      1 command, 2 open a session, 3 close one, 4 time alone; 5 only on its way to the leader: an announcement
//!  2     8  time      of the leader that took it, in microseconds since 1970
//! 10     8  session   0: none
//! 18     8  serial    within the session
//! 26     8  floor     the client has the replies to all serials below
//! 34     n  payload   of a command; of kind 2 the time to live in microseconds, u64; of kind 5 where clients reach the sender, UTF-8
//! ```

use crate::codec::{Decoder, Malformed};
use bytes::Bytes;

const VERSION: u8 = 1;
const TIME_AT: usize = 2;
const HEADER: usize = 34;
const ANNOUNCE: u8 = 5;
/// Longest address that is announced.
pub(super) const CLIENT_MAX: usize = 255;

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
            payload: d.rest(),
        })
    }
}

/// Puts the leader's time into an encoded request.
pub(super) fn stamp(request: &mut [u8], time: u64) {
    request[TIME_AT..TIME_AT + 8].copy_from_slice(&time.to_le_bytes());
}

/// What tells the leader where clients reach the sender. No request that can stand in the log; who does not know it takes it for none.
pub(super) fn announce(client: &str) -> Bytes {
    let mut out = vec![0; HEADER];
    (out[0], out[1]) = (VERSION, ANNOUNCE);
    out.extend_from_slice(client.as_bytes());
    out.into()
}

/// The address in an announcement; `None` for anything else.
pub(super) fn announced(bytes: &[u8]) -> Option<&str> {
    let (header, client) = bytes.split_at_checked(HEADER)?;
    let is = header[0] == VERSION && header[1] == ANNOUNCE && client.len() <= CLIENT_MAX;
    std::str::from_utf8(client).ok().filter(|_| is)
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
        assert_eq!(announced(&bytes), None);
    }

    /// E2.
    #[test]
    fn an_announcement_is_no_request_of_the_log() {
        let bytes = announce("127.0.0.1:6391");
        assert_eq!(announced(&bytes), Some("127.0.0.1:6391"));
        assert!(!is_request(&bytes));
        for len in 0..HEADER {
            assert_eq!(announced(&bytes[..len]), None);
        }
        assert_eq!(announced(&announce(&"x".repeat(CLIENT_MAX + 1))), None);
        assert_eq!(announced(&[&bytes[..], &[0xff]].concat()), None);
    }
}
