//! `LOCK.*` for Redis clients. What each means is in docs/operations.md; what is promised in `esker_raft::lock` (K1 to K9).
//!
//! - LK1: all of them can be sent again: an ACQUIRE has a request id, the others name a token. So the node itself tries again where the outcome was
//!   not known, until the request's time is over.
//! - LK2: `LOCK.IF lock token command...` carries one command that writes. Whoever speaks RESP can send it as a plain command, in a pipeline, on a
//!   connection of a pool: a mode of the connection would be inherited by the next user, a transaction costs three commands, and an option
//!   of SET would serve SET alone.
//! - LK3: who waits holds its thread. The wait ends when its client is gone, and the claim with it, unless the client asks for it elsewhere by then.

use super::front::{Shared, error_text};
use crate::Reply;
use crate::commands::glob_matches;
use bytes::Bytes;
use esker_raft::lock::{
    AcquireError, Guard, LockAnswer, LockCommand, LockError, LockInfo, LockService, NAME_MAX,
    Refusal, TTL_MAX, WaiterInfo,
};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const USAGE: &str = "ERR use LOCK.ACQUIRE lock id ttl-ms [WAIT ms] [PRIORITY 0-255], LOCK.RENEW lock token [ttl-ms], LOCK.RELEASE lock token [FORCE], \
                     LOCK.RELEASE lock ID id, LOCK.IF lock token command [arg ...], LOCK.INFO lock, LOCK.LIST [AFTER lock] [COUNT n] [MATCH pattern], \
                     LOCK.WATCH lock [token] [WAIT ms]";
const _: () = assert!(NAME_MAX == 255, "an error says so");
/// Locks that one LIST answers, at most.
const LIST_MAX: usize = 1000;
/// How long a WATCH waits if it does not say.
const WATCH_TIME: Duration = Duration::from_secs(30);
/// How often one who waits looks whether its client is there.
const LOOK: Duration = Duration::from_millis(50);

/// Whether a command is one of these.
pub(super) fn is_for(argv: &[&[u8]]) -> bool {
    let prefix = argv.first().and_then(|name| name.get(..5));
    prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"LOCK."))
}

/// Whether a command is one of these, and not `LOCK.IF`; without `LOCK.`, in upper case.
pub(super) fn word(argv: &[&[u8]]) -> Option<String> {
    let name = argv.first()?;
    let (prefix, rest) = name.split_at_checked(5)?;
    let rest = &rest[..rest.len().min(16)];
    (prefix.eq_ignore_ascii_case(b"LOCK.") && !rest.eq_ignore_ascii_case(b"IF"))
        .then(|| String::from_utf8_lossy(rest).to_ascii_uppercase())
}

/// A command that is to be carried out while a token is current.
pub(super) enum Conditional<'a> {
    /// It is none.
    No,
    /// The guard, and the command.
    If(Guard, &'a [&'a [u8]]),
    /// What is wrong with it.
    Bad(&'static str),
}

/// LK2.
pub(super) fn conditional<'a>(argv: &'a [&'a [u8]]) -> Conditional<'a> {
    match argv {
        [first, rest @ ..] if first.eq_ignore_ascii_case(b"LOCK.IF") => match rest {
            [name, ..] if !(1..=NAME_MAX).contains(&name.len()) => {
                Conditional::Bad("ERR the name of a lock has from 1 to 255 bytes")
            }
            [name, token, command @ ..] if !command.is_empty() => match number(token) {
                Some(token @ 1..) => {
                    let name = Bytes::copy_from_slice(name);
                    Conditional::If(Guard { name, token }, command)
                }
                _ => Conditional::Bad("ERR a token is a number from 1 on"),
            },
            _ => Conditional::Bad("ERR use LOCK.IF lock token command [arg ...]"),
        },
        _ => Conditional::No,
    }
}

/// What a guarded command is told whose token is not current.
pub(super) fn stale(guard: &Guard, current: u64) -> String {
    let name = String::from_utf8_lossy(&guard.name).replace(['\r', '\n'], " ");
    let holder = match current {
        0 => "nobody holds it".to_owned(),
        token => format!("token {token} does"),
    };
    format!(
        "FENCED not executed: lock '{name}' is not held with token {}, {holder}; end the work that it protects",
        guard.token
    )
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn millis(word: &[u8]) -> Option<Duration> {
    number(word).map(Duration::from_millis)
}

fn rounded(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn said(error: &LockError, out: &mut Reply) {
    match error {
        LockError::Cluster(error) => out.error(&error_text(error)),
        LockError::Read(error) => out.error(&format!("CLUSTERDOWN {error}; try again")),
        error => out.error(&format!("ERR {error}")),
    }
}

/// Options behind the fixed words: names and values in turn.
fn options<'a>(words: &[&'a [u8]], known: &[&str]) -> Option<Vec<Option<&'a [u8]>>> {
    let mut values = vec![None; known.len()];
    for pair in words.chunks(2) {
        let [name, value] = pair else {
            return None;
        };
        let at = known
            .iter()
            .position(|known| name.eq_ignore_ascii_case(known.as_bytes()))?;
        if values[at].replace(*value).is_some() {
            return None;
        }
    }
    Some(values)
}

/// Runs one. `gone` says whether the client is gone.
pub(super) fn run(
    shared: &Shared,
    locks: &LockService,
    word: &str,
    argv: &[&[u8]],
    gone: &dyn Fn() -> bool,
    out: &mut Reply,
) {
    let stops = || shared.stopping.load(Ordering::Relaxed) || gone();
    let done = match (word, &argv[1..]) {
        ("ACQUIRE", [name, id, ttl, more @ ..]) => acquire(locks, name, id, ttl, more, &stops, out),
        ("RENEW", [name, token]) => renew(shared, locks, name, token, None, out),
        ("RENEW", [name, token, ttl]) => renew(shared, locks, name, token, Some(ttl), out),
        ("RELEASE", [name, how, id]) if how.eq_ignore_ascii_case(b"ID") => {
            let (name, id) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(id));
            released(shared, locks, &LockCommand::Cancel { name, id }, out)
        }
        ("RELEASE", [name, token]) => release(shared, locks, name, token, false, out),
        ("RELEASE", [name, token, force]) if force.eq_ignore_ascii_case(b"FORCE") => {
            release(shared, locks, name, token, true, out)
        }
        ("INFO", [name]) => {
            match locks.inspect(name, shared.timeout) {
                Ok(found) => info(found.as_ref(), out),
                Err(error) => said(&error, out),
            }
            Some(())
        }
        ("LIST", more) => list(shared, locks, more, out),
        ("WATCH", [name, more @ ..]) => watch(shared, locks, name, more, &stops, out),
        _ => None,
    };
    if done.is_none() {
        out.error(USAGE);
    }
}

fn acquire(
    locks: &LockService,
    name: &[u8],
    id: &[u8],
    ttl: &[u8],
    more: &[&[u8]],
    gone: &dyn Fn() -> bool,
    out: &mut Reply,
) -> Option<()> {
    let more = options(more, &["WAIT", "PRIORITY"])?;
    let ttl = millis(ttl)?;
    let wait = more[0].map_or(Some(Duration::ZERO), millis)?;
    let priority = more[1].map_or(Some(0), |word| u8::try_from(number(word)?).ok())?;
    let name = Bytes::copy_from_slice(name);
    let id = Bytes::copy_from_slice(id);
    match locks.claim(&name, &id, ttl, wait, priority, gone) {
        Ok(grant) => {
            out.array(2);
            out.integer(signed(grant.token));
            out.integer(rounded(grant.left));
        }
        Err(AcquireError::Busy { .. } | AcquireError::TimedOut) => out.null_array(),
        Err(AcquireError::Lock(error)) => said(&error, out),
        Err(error @ AcquireError::Kept) => out.error(&format!("UNKNOWNOUTCOME {error}")),
        Err(error) => out.error(&format!("ERR {error}")),
    }
    Some(())
}

fn renew(
    shared: &Shared,
    locks: &LockService,
    name: &[u8],
    token: &[u8],
    ttl: Option<&&[u8]>,
    out: &mut Reply,
) -> Option<()> {
    let ttl = match ttl {
        Some(ttl) => Some(millis(ttl)?),
        None => None,
    };
    let name = Bytes::copy_from_slice(name);
    match locks.renew(name, number(token)?, ttl, shared.timeout) {
        Ok(Some(left)) => out.integer(rounded(left)),
        Ok(None) => out.error(
            "LOCKLOST the lock is not held with this token any more; end the work that it protects",
        ),
        Err(error) => said(&error, out),
    }
    Some(())
}

fn release(
    shared: &Shared,
    locks: &LockService,
    name: &[u8],
    token: &[u8],
    forced: bool,
    out: &mut Reply,
) -> Option<()> {
    let name = Bytes::copy_from_slice(name);
    match (number(token)?, forced) {
        (0, false) => return None,
        (token, true) => match locks.force_release(name, token, shared.timeout) {
            Ok(was) => out.integer(was.into()),
            Err(error) => said(&error, out),
        },
        (token, false) => {
            let command = LockCommand::Release {
                name,
                token,
                forced,
            };
            return released(shared, locks, &command, out);
        }
    }
    Some(())
}

fn released(
    shared: &Shared,
    locks: &LockService,
    command: &LockCommand,
    out: &mut Reply,
) -> Option<()> {
    use esker_raft::lock::Cancelled::{Held, Waited};
    match locks.ask(command, shared.timeout) {
        Ok(LockAnswer::Released(was)) => out.integer(was.into()),
        Ok(LockAnswer::Cancelled(what)) => out.integer(matches!(what, Held | Waited).into()),
        Ok(LockAnswer::Refused(refusal)) => out.error(&format!("ERR {refusal}")),
        Ok(_) => said(&LockError::NoAnswer, out),
        Err(error) => said(&error, out),
    }
    Some(())
}

fn row(lock: &LockInfo, more: usize, out: &mut Reply) {
    out.map(6 + more);
    out.bulk(b"name");
    out.bulk(&lock.name);
    out.bulk(b"token");
    out.integer(signed(lock.token));
    out.bulk(b"id");
    out.bulk(&lock.id);
    out.bulk(b"ttl");
    out.integer(rounded(lock.ttl));
    out.bulk(b"left");
    out.integer(rounded(lock.left));
    out.bulk(b"waiters");
    out.integer(lock.waiters as i64);
}

fn info(found: Option<&(LockInfo, Vec<WaiterInfo>)>, out: &mut Reply) {
    let Some((lock, waiters)) = found else {
        return out.null_array();
    };
    row(lock, 1, out);
    out.bulk(b"queue");
    out.array(waiters.len());
    for waiter in waiters {
        out.array(3);
        out.bulk(&waiter.id);
        out.integer(waiter.priority.into());
        out.integer(rounded(waiter.left));
    }
}

/// A lock that nobody holds.
fn free(name: &[u8]) -> (LockInfo, Vec<WaiterInfo>) {
    let lock = LockInfo {
        name: Bytes::copy_from_slice(name),
        id: Bytes::new(),
        token: 0,
        ticket: 0,
        ttl: Duration::ZERO,
        left: Duration::ZERO,
        held: Duration::ZERO,
        waiters: 0,
    };
    (lock, Vec::new())
}

fn list(shared: &Shared, locks: &LockService, more: &[&[u8]], out: &mut Reply) -> Option<()> {
    let more = options(more, &["AFTER", "COUNT", "MATCH"])?;
    let count = more[1].map_or(Some(LIST_MAX as u64), number)?;
    let count = usize::try_from(count).unwrap_or(LIST_MAX).min(LIST_MAX);
    let mut found = Vec::new();
    let mut after = more[0].unwrap_or_default().to_vec();
    if let Err(error) = locks.inspect(b"", shared.timeout) {
        said(&error, out);
        return Some(());
    }
    // A page at a time, so that locks that do not match are not gathered.
    while found.len() < count {
        let page = locks.view().list(&after, LIST_MAX);
        let Some(last) = page.last() else {
            break;
        };
        after = last.name.to_vec();
        let matches =
            |lock: &LockInfo| more[2].is_none_or(|pattern| glob_matches(pattern, &lock.name));
        found.extend(page.into_iter().filter(matches));
    }
    found.truncate(count);
    out.array(found.len());
    for lock in &found {
        row(lock, 0, out);
    }
    Some(())
}

/// Answers what INFO does as soon as the token is another than the one given (0: nobody holds it), and of a lock that nobody holds the same map with the
/// token 0: nil says that the time is over, and nothing else. Without a token: as soon as it changes.
fn watch(
    shared: &Shared,
    locks: &LockService,
    name: &[u8],
    more: &[&[u8]],
    gone: &dyn Fn() -> bool,
    out: &mut Reply,
) -> Option<()> {
    let (token, more) = match more {
        [token, more @ ..] if !token.eq_ignore_ascii_case(b"WAIT") => (Some(number(token)?), more),
        more => (None, more),
    };
    let wait = options(more, &["WAIT"])?[0].map_or(Some(WATCH_TIME), millis)?;
    if wait > TTL_MAX {
        said(&LockError::Refused(Refusal::Wait), out);
        return Some(());
    }
    let end = Instant::now() + wait;
    let mut events = locks.view().watch(Some(Bytes::copy_from_slice(name)), 16);
    let mut seen = token;
    loop {
        let found = match locks.inspect(name, shared.timeout) {
            Ok(found) => found,
            Err(error) => {
                said(&error, out);
                return Some(());
            }
        };
        let current = found.as_ref().map_or(0, |(lock, _)| lock.token);
        if *seen.get_or_insert(current) != current {
            info(Some(&found.unwrap_or_else(|| free(name))), out);
            return Some(());
        }
        loop {
            use esker_sync::events::Received;
            if gone() || Instant::now() >= end {
                out.null();
                return Some(());
            }
            match events.next(Some(end.min(Instant::now() + LOOK))) {
                Received::Nothing => {}
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<&[u8]> {
        line.split(' ').map(str::as_bytes).collect()
    }

    #[test]
    fn commands_of_locks_are_known_by_their_name_in_any_case() {
        assert_eq!(word(&split("lock.Acquire a 1 2")), Some("ACQUIRE".into()));
        for other in ["LOCK", "LOCKS.X", "GET lock.info", "lock.if a 1 GET b"] {
            assert_eq!(word(&split(other)), None, "{other}");
        }
        let words = split("Lock.If a 7 SET k v");
        let Conditional::If(guard, command) = conditional(&words) else {
            panic!("it is one");
        };
        assert_eq!((&guard.name[..], guard.token), (&b"a"[..], 7));
        assert_eq!(command, split("SET k v"));
        for bad in ["LOCK.IF a 7", "LOCK.IF a 0 SET k v", "LOCK.IF a x SET k v"] {
            assert!(
                matches!(conditional(&split(bad)), Conditional::Bad(_)),
                "{bad}"
            );
        }
    }

    #[test]
    fn options_come_in_any_order_and_once() {
        let known = ["WAIT", "PRIORITY"];
        let got = options(&split("priority 3 WAIT 5"), &known);
        assert_eq!(got, Some(vec![Some(&b"5"[..]), Some(&b"3"[..])]));
        for bad in ["WAIT", "WAIT 1 WAIT 2", "NOSUCH 1"] {
            assert_eq!(options(&split(bad), &known), None, "{bad}");
        }
    }
}
