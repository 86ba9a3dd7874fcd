//! GET, SET and their families.

use super::args::{self, Expire, Unit};
use super::error::{CommandError, NOT_AN_INTEGER, TOO_LARGE};
use super::num::parse_i64;
use crate::Reply;
use crate::engine::Txn;
use esker_wal::frame::PAYLOAD_MAX;

type Outcome = Result<(), CommandError>;

pub(super) fn get(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    match txn.get(argv[1])? {
        Some(value) => out.bulk(value.data()),
        None => out.null(),
    }
    Ok(())
}

pub(super) fn set(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let (key, data) = (argv[1], argv[2]);
    if argv.len() == 3 {
        // Nobody asks what was there: no read.
        txn.put(key, None, &[data]);
        out.ok();
        return Ok(());
    }
    let options = args::SetOptions::parse(&argv[3..], false)?;
    let deadline = match options.expire {
        Some(expire) => Some(args::deadline(txn, expire, "set")?),
        None => None,
    };
    if !(options.get || options.nx || options.xx || options.keep_ttl) {
        txn.put(key, deadline, &[data]);
        out.ok();
        return Ok(());
    }
    let old = if options.get {
        txn.get(key)?
    } else {
        txn.peek(key)?
    };
    let refused = (options.nx && old.is_some()) || (options.xx && old.is_none());
    if options.get {
        out.bulk_or_null(old.as_ref().map(|value| value.data()));
    } else if refused {
        out.null();
    } else {
        out.ok();
    }
    if !refused {
        let kept = old
            .and_then(|value| value.deadline)
            .filter(|_| options.keep_ttl);
        txn.put(key, deadline.or(kept), &[data]);
    }
    Ok(())
}

pub(super) fn setnx(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let free = txn.peek(argv[1])?.is_none();
    if free {
        txn.put(argv[1], None, &[argv[2]]);
    }
    out.integer(i64::from(free));
    Ok(())
}

pub(super) fn setex(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    set_expiring(txn, argv, Unit::Seconds, "setex", out)
}

pub(super) fn psetex(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    set_expiring(txn, argv, Unit::Millis, "psetex", out)
}

fn set_expiring(
    txn: &mut Txn<'_>,
    argv: &[&[u8]],
    unit: Unit,
    name: &str,
    out: &mut Reply,
) -> Outcome {
    let deadline = args::deadline(
        txn,
        Expire {
            unit,
            absolute: false,
            value: argv[2],
        },
        name,
    )?;
    txn.put(argv[1], Some(deadline), &[argv[3]]);
    out.ok();
    Ok(())
}

pub(super) fn getset(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let old = txn.get(argv[1])?;
    txn.put(argv[1], None, &[argv[2]]);
    out.bulk_or_null(old.as_ref().map(|value| value.data()));
    Ok(())
}

pub(super) fn getdel(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    match txn.get(argv[1])? {
        Some(value) => {
            out.bulk(value.data());
            txn.delete(argv[1]);
        }
        None => out.null(),
    }
    Ok(())
}

pub(super) fn getex(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let options = args::SetOptions::parse(&argv[2..], true)?;
    let Some(value) = txn.get(argv[1])? else {
        out.null();
        return Ok(());
    };
    if let Some(expire) = options.expire {
        let deadline = args::deadline(txn, expire, "getex")?;
        if expire.absolute && deadline <= txn.now()? {
            txn.delete(argv[1]);
        } else {
            txn.put(argv[1], Some(deadline), &[value.data()]);
        }
    } else if options.persist && value.deadline.is_some() {
        txn.put(argv[1], None, &[value.data()]);
    }
    out.bulk(value.data());
    Ok(())
}

pub(super) fn mget(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    out.array(argv.len() - 1);
    for key in &argv[1..] {
        match txn.get(key)? {
            Some(value) if !out.has_room(value.data().len()) => return Err(out.no_room().into()),
            Some(value) => out.bulk(value.data()),
            None => out.null(),
        }
    }
    Ok(())
}

fn pairs(argv: &[&[u8]], wrong: &'static str) -> Result<(), CommandError> {
    if argv.len().is_multiple_of(2) {
        Err(wrong.into())
    } else {
        Ok(())
    }
}

pub(super) fn mset(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    pairs(argv, "ERR wrong number of arguments for 'mset' command")?;
    for pair in argv[1..].chunks_exact(2) {
        txn.put(pair[0], None, &[pair[1]]);
    }
    out.ok();
    Ok(())
}

pub(super) fn msetnx(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    pairs(argv, "ERR wrong number of arguments for 'msetnx' command")?;
    for pair in argv[1..].chunks_exact(2) {
        if txn.peek(pair[0])?.is_some() {
            out.integer(0);
            return Ok(());
        }
    }
    for pair in argv[1..].chunks_exact(2) {
        txn.put(pair[0], None, &[pair[1]]);
    }
    out.integer(1);
    Ok(())
}

pub(super) fn append(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let len = match txn.peek(argv[1])? {
        Some(old) => {
            let len = old.data().len() + argv[2].len();
            check_size(argv[1], len)?;
            txn.put(argv[1], old.deadline, &[old.data(), argv[2]]);
            len
        }
        None => {
            txn.put(argv[1], None, &[argv[2]]);
            argv[2].len()
        }
    };
    out.integer(len as i64);
    Ok(())
}

/// Refused before the bytes are put together: what no frame can hold.
fn check_size(key: &[u8], len: usize) -> Outcome {
    if len.saturating_add(key.len()) > PAYLOAD_MAX {
        Err(TOO_LARGE.into())
    } else {
        Ok(())
    }
}

pub(super) fn strlen(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    out.integer(
        txn.get(argv[1])?
            .map_or(0, |value| value.data().len() as i64),
    );
    Ok(())
}

pub(super) fn getrange(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let start = parse_i64(argv[2]).ok_or(NOT_AN_INTEGER)?;
    let end = parse_i64(argv[3]).ok_or(NOT_AN_INTEGER)?;
    let value = txn.get(argv[1])?;
    let data = value.as_ref().map_or(&[][..], |value| value.data());
    out.bulk(range(data, start, end));
    Ok(())
}

fn range(data: &[u8], start: i64, end: i64) -> &[u8] {
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let len = data.len() as i64;
    let from_end = |at: i64| {
        if at < 0 {
            at.saturating_add(len).max(0)
        } else {
            at
        }
    };
    let (start, end) = (from_end(start), from_end(end).min(len - 1));
    if start > end {
        &[]
    } else {
        &data[start as usize..=end as usize]
    }
}

pub(super) fn setrange(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let offset = parse_i64(argv[2]).ok_or(NOT_AN_INTEGER)?;
    let Ok(offset) = usize::try_from(offset) else {
        return Err("ERR offset is out of range".into());
    };
    let patch = argv[3];
    let old = txn.peek(argv[1])?;
    let data = old.as_ref().map_or(&[][..], |value| value.data());
    if patch.is_empty() {
        out.integer(data.len() as i64);
        return Ok(());
    }
    let end = offset.saturating_add(patch.len());
    check_size(argv[1], end)?;
    let before = &data[..offset.min(data.len())];
    let gap = vec![0; offset - before.len()];
    let behind = data.get(end..).unwrap_or(&[]);
    txn.put(
        argv[1],
        old.as_ref().and_then(|value| value.deadline),
        &[before, &gap, patch, behind],
    );
    out.integer((end + behind.len()) as i64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn a_range_is_clamped_to_the_value() {
        let data = b"This is a string";
        assert_eq!(range(data, 0, 3), b"This");
        assert_eq!(range(data, -3, -1), b"ing");
        assert_eq!(range(data, 0, -1), data);
        assert_eq!(range(data, 10, 100), b"string");
        assert_eq!(range(data, 5, 3), b"");
        assert_eq!(range(data, -1, -5), b"");
        assert_eq!(range(data, i64::MIN, i64::MAX), data);
        assert_eq!(range(data, i64::MIN, i64::MIN), b"T");
        assert_eq!(range(b"", 0, -1), b"");
    }
}
