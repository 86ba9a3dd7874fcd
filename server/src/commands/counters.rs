//! INCR and its family.

use super::args::integer;
use super::error::{CommandError, NOT_AN_INTEGER};
use super::longdouble::LongDouble;
use super::num::parse_i64;
use crate::Reply;
use crate::engine::Txn;

type Outcome = Result<(), CommandError>;

fn add(txn: &mut Txn<'_>, key: &[u8], by: i64, out: &mut Reply) -> Outcome {
    let (old, deadline) = match txn.peek(key)? {
        Some(value) => (
            parse_i64(value.data()).ok_or(NOT_AN_INTEGER)?,
            value.deadline,
        ),
        None => (0, None),
    };
    let new = old
        .checked_add(by)
        .ok_or("ERR increment or decrement would overflow")?;
    txn.put(key, deadline, &[itoa::Buffer::new().format(new).as_bytes()]);
    out.integer(new);
    Ok(())
}

pub(super) fn incr(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    add(txn, argv[1], 1, out)
}

pub(super) fn decr(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    add(txn, argv[1], -1, out)
}

pub(super) fn incrby(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    add(txn, argv[1], integer(argv[2])?, out)
}

pub(super) fn decrby(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let by = integer(argv[2])?
        .checked_neg()
        .ok_or("ERR decrement would overflow")?;
    add(txn, argv[1], by, out)
}

pub(super) fn incrbyfloat(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    const NOT_A_FLOAT: &str = "ERR value is not a valid float";
    let old = txn.peek(argv[1])?;
    let value =
        LongDouble::parse(old.as_ref().map_or(b"0", |value| value.data())).ok_or(NOT_A_FLOAT)?;
    let by = LongDouble::parse(argv[2]).ok_or(NOT_A_FLOAT)?;
    let sum = value
        .add(&by)
        .and_then(|sum| sum.format())
        .ok_or("ERR increment would produce NaN or Infinity")?;
    txn.put(
        argv[1],
        old.and_then(|value| value.deadline),
        &[sum.as_bytes()],
    );
    out.bulk(sum.as_bytes());
    Ok(())
}
