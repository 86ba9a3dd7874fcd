//! Commands on keys, whatever is in them.

use super::args::{int32, is};
use super::error::{CommandError, NO_SUCH_KEY, SYNTAX};
use super::num::parse_i64;
use crate::Reply;
use crate::engine::Txn;
use std::collections::HashSet;

type Outcome = Result<(), CommandError>;

pub(super) fn del(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let keys = &argv[1..];
    let mut seen: HashSet<&[u8]> = HashSet::new();
    let mut deleted = 0;
    for key in keys {
        // A key named twice is deleted once; a single key needs no set.
        if (keys.len() == 1 || seen.insert(key)) && txn.peek(key)?.is_some() {
            txn.delete(key);
            deleted += 1;
        }
    }
    out.integer(deleted);
    Ok(())
}

pub(super) fn exists(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let mut found = 0;
    for key in &argv[1..] {
        found += i64::from(txn.get(key)?.is_some());
    }
    out.integer(found);
    Ok(())
}

pub(super) fn kind(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    out.simple(if txn.peek(argv[1])?.is_some() {
        "string"
    } else {
        "none"
    });
    Ok(())
}

pub(super) fn rename(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let value = txn.peek(argv[1])?.ok_or(NO_SUCH_KEY)?;
    if argv[1] != argv[2] {
        txn.delete(argv[1]);
        txn.put(argv[2], value.deadline, &[value.data()]);
    }
    out.ok();
    Ok(())
}

pub(super) fn renamenx(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let value = txn.peek(argv[1])?.ok_or(NO_SUCH_KEY)?;
    let free = argv[1] != argv[2] && txn.peek(argv[2])?.is_none();
    if free {
        txn.delete(argv[1]);
        txn.put(argv[2], value.deadline, &[value.data()]);
    }
    out.integer(i64::from(free));
    Ok(())
}

pub(super) fn copy(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let mut replace = false;
    let mut args = argv[3..].iter();
    while let Some(arg) = args.next() {
        if is(arg, "replace") {
            replace = true;
        } else if is(arg, "db")
            && let Some(db) = args.next()
        {
            if int32(db)? != 0 {
                return Err("ERR DB index is out of range".into());
            }
        } else {
            return Err(SYNTAX.into());
        }
    }
    if argv[1] == argv[2] {
        return Err("ERR source and destination objects are the same".into());
    }
    let Some(value) = txn.peek(argv[1])? else {
        out.integer(0);
        return Ok(());
    };
    let free = replace || txn.peek(argv[2])?.is_none();
    if free {
        txn.put(argv[2], value.deadline, &[value.data()]);
    }
    out.integer(i64::from(free));
    Ok(())
}

pub(super) fn object_encoding(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    match txn.peek(argv[2])? {
        None => out.null(),
        Some(value) => out.bulk(match value.data() {
            data if parse_i64(data).is_some() => b"int",
            data if data.len() <= 44 => b"embstr",
            _ => b"raw",
        }),
    }
    Ok(())
}

pub(super) fn object_refcount(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    match txn.peek(argv[2])? {
        None => out.null(),
        // Redis shares small integers and says so with this number.
        Some(value) => out.integer(match parse_i64(value.data()) {
            Some(0..10_000) => i64::from(i32::MAX),
            _ => 1,
        }),
    }
    Ok(())
}

pub(super) fn object_idletime(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    match txn.peek(argv[2])? {
        None => out.null(),
        // Reads leave no trace here.
        Some(_) => out.integer(0),
    }
    Ok(())
}

pub(super) fn object_freq(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    match txn.peek(argv[2])? {
        None => {
            out.null();
            Ok(())
        }
        Some(_) => Err("ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that \
             when switching between policies at runtime LRU and LFU data will take some time to adjust."
            .into()),
    }
}
