//! Commands on all keys.

use super::args::is;
use super::error::{CommandError, NOT_AN_INTEGER, SYNTAX};
use super::{glob, num};
use crate::Reply;
use crate::engine::{Txn, keys::user_key};
use std::ops::ControlFlow;

type Outcome = Result<(), CommandError>;

pub(super) fn dbsize(txn: &mut Txn<'_>, _: &[&[u8]], out: &mut Reply) -> Outcome {
    let mut count = 0;
    txn.scan(None, |_, value| {
        count += i64::from(value.is_some());
        ControlFlow::Continue(())
    })?;
    out.integer(count);
    Ok(())
}

pub(super) fn keys(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let mut found: Vec<Box<[u8]>> = Vec::new();
    let (mut bytes, mut fits) = (0, true);
    // To the end in any case: a transaction is told first that it walks too far.
    txn.scan(None, |stored, value| {
        if fits
            && value.is_some()
            && let Some(key) = user_key(stored)
            && glob::matches(argv[1], &key)
        {
            bytes += key.len();
            fits = out.has_room(bytes);
            found.push((*key).into());
        }
        ControlFlow::Continue(())
    })?;
    if !fits {
        return Err(out.no_room().into());
    }
    out.array(found.len());
    for key in &found {
        out.bulk(key);
    }
    Ok(())
}

pub(super) fn scan(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let cursor: u64 = std::str::from_utf8(argv[1])
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or("ERR invalid cursor")?;
    let (mut pattern, mut count, mut only_strings) = (None, 10, true);
    let mut args = argv[2..].iter();
    while let Some(arg) = args.next() {
        let value = args.next().ok_or(SYNTAX)?;
        if is(arg, "count") {
            count = num::parse_i64(value).ok_or(NOT_AN_INTEGER)?;
            if count < 1 {
                return Err(SYNTAX.into());
            }
        } else if is(arg, "match") {
            pattern = Some(*value).filter(|pattern| *pattern != b"*");
        } else if is(arg, "type") {
            only_strings = is(value, "string");
        } else {
            return Err(SYNTAX.into());
        }
    }
    let after = match cursor {
        0 => None,
        cursor => match txn.cursors().place(cursor) {
            Some(after) => Some(after),
            None => {
                return Err(
                    "ERR invalid cursor: it is unknown or too old; begin again with SCAN 0".into(),
                );
            }
        },
    };
    let mut found: Vec<Box<[u8]>> = Vec::new();
    let mut last: Option<Box<[u8]>> = None;
    let mut walked = 0;
    let mut more = false;
    txn.scan(after.as_deref(), |stored, value| {
        if walked == count {
            more = true;
            return ControlFlow::Break(());
        }
        walked += 1;
        if walked == count {
            last = Some(stored.into());
        }
        if value.is_some()
            && only_strings
            && let Some(key) = user_key(stored)
            && pattern.is_none_or(|pattern| glob::matches(pattern, &key))
        {
            found.push((*key).into());
        }
        ControlFlow::Continue(())
    })?;
    let next = match last {
        Some(last) if more => txn.cursors().add(&last, cursor),
        _ => 0,
    };
    out.array(2);
    out.bulk(next.to_string().as_bytes());
    out.array(found.len());
    for key in &found {
        out.bulk(key);
    }
    Ok(())
}

pub(super) fn randomkey(txn: &mut Txn<'_>, _: &[&[u8]], out: &mut Reply) -> Outcome {
    use std::hash::{BuildHasher, Hasher};
    // Each RandomState has keys of its own: a random number without a generator to carry along.
    let random = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    match txn.random_key(random)? {
        Some(stored) => out.bulk_or_null(user_key(&stored).as_deref()),
        None => out.null(),
    }
    Ok(())
}

pub(super) fn flush(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    match argv[1..] {
        [] => {}
        [how] if is(how, "sync") || is(how, "async") => {}
        _ => return Err(SYNTAX.into()),
    }
    txn.clear()?;
    out.ok();
    Ok(())
}
