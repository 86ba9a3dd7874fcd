//! Errors that are refusals: which they are, and how many of a kind are recorded.

use crate::commands::UNSUPPORTED;
use parking_lot::Mutex;
use std::time::Instant;

/// Kinds of refusal; a command that does not exist has one of its own, as have what is no command at all and clients beyond the limit.
const KINDS: [&str; 17] = [
    "UNKNOWN",
    "PROTOCOL",
    "MAXCLIENTS",
    "NOAUTH",
    "NOPERM",
    "WRONGPASS",
    "READONLY",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "UNKNOWNOUTCOME",
    "FENCED",
    "LOCKLOST",
    "AUDITREFUSED",
];

/// An error, as a record says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed<'a> {
    pub(super) code: &'a str,
    /// Without what the client sent, which errors quote.
    pub(super) message: &'a str,
    /// The place of its kind, where it is a refusal.
    pub(super) refusal: Option<usize>,
}

/// What an encoded reply says, if it is an error.
pub(super) fn failed(reply: &[u8]) -> Option<Failed<'_>> {
    let line = reply.strip_prefix(b"-")?;
    let line = line.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = match std::str::from_utf8(line) {
        Ok(line) => line,
        Err(error) => std::str::from_utf8(&line[..error.valid_up_to()]).unwrap_or_default(),
    };
    let (code, rest) = line.split_once(' ').unwrap_or((line, ""));
    let message = unquoted(rest);
    let code = match code {
        "ERR" if message.starts_with("unknown ") || line.contains("is not served by") => "UNKNOWN",
        code => code,
    };
    Some(Failed {
        code,
        message,
        refusal: KINDS.iter().position(|known| *known == code),
    })
}

/// An error's text up to where it quotes the client.
fn unquoted(text: &str) -> &str {
    if text.starts_with(UNSUPPORTED) {
        return UNSUPPORTED;
    }
    let quote = text.find(" '").into_iter().chain(text.find(" \"")).min();
    &text[..quote.unwrap_or(text.len())]
}

/// Whether an encoded reply is nil in the place of an array.
pub(super) fn is_nil(reply: &[u8]) -> bool {
    [&b"*-1\r\n"[..], b"_\r\n"].contains(&reply)
}

/// The place of a kind.
pub(super) fn kind(code: &str) -> usize {
    let found = KINDS.iter().position(|known| *known == code);
    found.unwrap_or_default()
}

/// That of a kind.
pub(super) fn of(code: &'static str, message: &'static str) -> Failed<'static> {
    Failed {
        code,
        message,
        refusal: KINDS.iter().position(|known| *known == code),
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    second: u64,
    recorded: u32,
    left_out: u64,
}

/// Bounds what is recorded of each kind; what is left out is counted, and said by the next record of the kind.
#[derive(Debug)]
pub(super) struct Limiter {
    per_second: u32,
    begun: Instant,
    windows: Mutex<[Window; KINDS.len()]>,
}

impl Limiter {
    pub(super) fn new(per_second: u32) -> Limiter {
        Limiter {
            per_second,
            begun: Instant::now(),
            windows: Mutex::default(),
        }
    }

    /// Whether one of the kind is to be recorded, and how many before it were not.
    pub(super) fn admit(&self, kind: usize) -> Option<u64> {
        self.admit_at(kind, self.begun.elapsed().as_secs())
    }

    fn admit_at(&self, kind: usize, second: u64) -> Option<u64> {
        let window = &mut self.windows.lock()[kind];
        if window.second != second {
            (window.second, window.recorded) = (second, 0);
        }
        if window.recorded >= self.per_second {
            window.left_out += 1;
            return None;
        }
        window.recorded += 1;
        Some(std::mem::take(&mut window.left_out))
    }

    /// What was left out in seconds that are over.
    pub(super) fn left_out(&self) -> Vec<(&'static str, u64)> {
        self.left_out_at(self.begun.elapsed().as_secs())
    }

    fn left_out_at(&self, second: u64) -> Vec<(&'static str, u64)> {
        let mut windows = self.windows.lock();
        let over = KINDS
            .iter()
            .zip(windows.iter_mut())
            .filter(|(_, w)| w.left_out > 0 && w.second < second);
        over.map(|(kind, w)| (*kind, std::mem::take(&mut w.left_out)))
            .collect()
    }
}

/// Length of the first value in encoded replies; `None` where it is cut.
fn value_len(bytes: &[u8], depth: usize) -> Option<usize> {
    let end = memchr::memchr(b'\n', bytes)? + 1;
    let number = || -> Option<usize> {
        let digits = bytes.get(1..end.checked_sub(2)?)?;
        let number: i64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        Some(usize::try_from(number).unwrap_or(0))
    };
    let values = match bytes[0] {
        b'$' | b'=' | b'!' => {
            // Null has no body.
            let body = if bytes.get(1) == Some(&b'-') {
                0
            } else {
                number()?.checked_add(2)?
            };
            return end.checked_add(body).filter(|len| *len <= bytes.len());
        }
        b'*' | b'~' | b'>' => number()?,
        b'%' => number()?.checked_mul(2)?,
        _ => return Some(end),
    };
    let mut at = end;
    for _ in 0..values {
        at += value_len(&bytes[at..], depth.checked_sub(1)?)?;
    }
    Some(at)
}

/// The values of encoded replies, in order; what is cut is left out.
pub(crate) fn values(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (value, rest) = bytes.split_at(value_len(bytes, 16)?);
        bytes = rest;
        Some(value)
    })
}

/// The elements of an encoded array; nothing where it is none.
pub(super) fn elements(reply: &[u8]) -> impl Iterator<Item = &[u8]> {
    let head = match reply.first() {
        Some(b'*') => memchr::memchr(b'\n', reply).map_or(reply.len(), |at| at + 1),
        _ => reply.len(),
    };
    values(&reply[head..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_do_not_say_what_the_client_sent() {
        for (reply, code, message, refusal) in [
            (
                "-ERR unknown command 'AUTH', with args beginning with: 'hunter2' \r\n",
                "UNKNOWN",
                "unknown command",
                true,
            ),
            (
                "-ERR CONFIG SET failed (possibly related to argument 'x') - can't\r\n",
                "ERR",
                "CONFIG SET failed (possibly related to argument",
                false,
            ),
            (
                "-READONLY You can't write against a read only replica.\r\n",
                "READONLY",
                "You can't write against a read only replica.",
                true,
            ),
            (
                "-ERR Unsupported option hunter2\r\n",
                "ERR",
                "Unsupported option",
                false,
            ),
            (
                "-ERR the store: the value of key \"hunter2\" is 'old'\r\n",
                "ERR",
                "the store: the value of key",
                false,
            ),
            ("-WRONGPASS invalid\r\n", "WRONGPASS", "invalid", true),
            ("-ERR\r\n", "ERR", "", false),
        ] {
            let failed = failed(reply.as_bytes()).expect(reply);
            assert_eq!((failed.code, failed.message), (code, message));
            assert_eq!(failed.refusal.is_some(), refusal, "{reply}");
        }
        assert_eq!(failed(b"+OK\r\n"), None);
        assert_eq!(failed(b"").map(|f| f.code), None);
        assert!(failed(b"-ERR \xff\r\n").is_some());
    }

    #[test]
    fn what_is_left_out_is_counted_and_said_once() {
        let limiter = Limiter::new(2);
        let told: Vec<_> = (0..5).map(|_| limiter.admit_at(0, 7)).collect();
        assert_eq!(told, [Some(0), Some(0), None, None, None]);
        assert_eq!(limiter.admit_at(1, 7), Some(0));
        assert_eq!(limiter.left_out_at(7), []);
        assert_eq!(limiter.admit_at(0, 8), Some(3));
        assert_eq!(
            [limiter.admit_at(0, 8), limiter.admit_at(0, 8)],
            [Some(0), None]
        );
        assert_eq!(limiter.left_out_at(9), [("UNKNOWN", 1)]);
        assert_eq!(limiter.left_out_at(9), []);
    }

    #[test]
    fn e2_replies_are_taken_apart_and_cut_ones_end_it() {
        let reply =
            b"+OK\r\n$-1\r\n$3\r\na\r\n\r\n*2\r\n:1\r\n*1\r\n$0\r\n\r\n%1\r\n+k\r\n_\r\n-ERR x\r\n";
        let found: Vec<_> = values(reply).collect();
        assert_eq!(found.len(), 6);
        assert_eq!(found[2], b"$3\r\na\r\n\r\n");
        assert_eq!(found[5], b"-ERR x\r\n");
        assert_eq!(elements(found[3]).count(), 2);
        assert_eq!(elements(found[0]).count(), 0);
        for len in 0..reply.len() {
            assert!(values(&reply[..len]).count() < 6);
        }
        assert_eq!(values(&b"*1\r\n".repeat(100)).count(), 0);
        assert_eq!(values(b"$9223372036854775807\r\n").count(), 0);
        assert_eq!(values(b"%9223372036854775807\r\n").count(), 0);
    }
}
