//! EXPIRE, TTL and their families.

use super::args::{Unit, integer, is, shown};
use super::error::{CommandError, UNSUPPORTED};
use crate::Reply;
use crate::engine::Txn;

type Outcome = Result<(), CommandError>;

struct Conditions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Conditions {
    fn parse(args: &[&[u8]]) -> Result<Self, CommandError> {
        let mut conditions = Conditions {
            nx: false,
            xx: false,
            gt: false,
            lt: false,
        };
        for arg in args {
            let flag = if is(arg, "nx") {
                &mut conditions.nx
            } else if is(arg, "xx") {
                &mut conditions.xx
            } else if is(arg, "gt") {
                &mut conditions.gt
            } else if is(arg, "lt") {
                &mut conditions.lt
            } else {
                return Err(format!("ERR {UNSUPPORTED} {}", shown(arg)).into());
            };
            *flag = true;
        }
        if conditions.nx && (conditions.xx || conditions.gt || conditions.lt) {
            return Err(
                "ERR NX and XX, GT or LT options at the same time are not compatible".into(),
            );
        }
        if conditions.gt && conditions.lt {
            return Err("ERR GT and LT options at the same time are not compatible".into());
        }
        Ok(conditions)
    }

    fn hold(&self, old: Option<i64>, new: i64) -> bool {
        !(self.nx && old.is_some()
            || self.xx && old.is_none()
            || self.gt && old.is_none_or(|old| new <= old)
            || self.lt && old.is_some_and(|old| new >= old))
    }
}

fn set_deadline(
    txn: &mut Txn<'_>,
    argv: &[&[u8]],
    unit: Unit,
    absolute: bool,
    name: &str,
    out: &mut Reply,
) -> Outcome {
    let conditions = Conditions::parse(&argv[3..])?;
    let time = integer(argv[2])?;
    let invalid = || CommandError::from(format!("ERR invalid expire time in '{name}' command"));
    let millis = match unit {
        Unit::Seconds => time.checked_mul(1000).ok_or_else(invalid)?,
        Unit::Millis => time,
    };
    let now = txn.now()?;
    let deadline = if absolute {
        millis
    } else {
        millis.checked_add(now).ok_or_else(invalid)?
    };
    let value = match txn.peek(argv[1])? {
        Some(value) if conditions.hold(value.deadline, deadline) => value,
        _ => {
            out.integer(0);
            return Ok(());
        }
    };
    if deadline <= now {
        txn.delete(argv[1]);
    } else {
        txn.put(argv[1], Some(deadline), &[value.data()]);
    }
    out.integer(1);
    Ok(())
}

pub(super) fn expire(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    set_deadline(txn, argv, Unit::Seconds, false, "expire", out)
}
pub(super) fn pexpire(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    set_deadline(txn, argv, Unit::Millis, false, "pexpire", out)
}
pub(super) fn expireat(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    set_deadline(txn, argv, Unit::Seconds, true, "expireat", out)
}
pub(super) fn pexpireat(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    set_deadline(txn, argv, Unit::Millis, true, "pexpireat", out)
}

/// -2 for a missing key, -1 for one without a deadline.
fn show(
    txn: &mut Txn<'_>,
    key: &[u8],
    out: &mut Reply,
    time: impl FnOnce(&mut Txn<'_>, i64) -> Result<i64, CommandError>,
) -> Outcome {
    let shown = match txn.get(key)?.map(|value| value.deadline) {
        None => -2,
        Some(None) => -1,
        Some(Some(deadline)) => time(txn, deadline)?,
    };
    out.integer(shown);
    Ok(())
}

/// Rounded; as in Redis the farthest deadline does not overflow.
fn seconds(millis: i64) -> i64 {
    (millis.max(0).cast_unsigned() + 500)
        .div_euclid(1000)
        .cast_signed()
}

pub(super) fn ttl(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    show(txn, argv[1], out, |txn, deadline| {
        Ok(seconds(txn.left(deadline)?))
    })
}
pub(super) fn pttl(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    show(txn, argv[1], out, |txn, deadline| Ok(txn.left(deadline)?))
}
pub(super) fn expiretime(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    show(txn, argv[1], out, |_, deadline| Ok(seconds(deadline)))
}
pub(super) fn pexpiretime(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    show(txn, argv[1], out, |_, deadline| Ok(deadline))
}

pub(super) fn persist(txn: &mut Txn<'_>, argv: &[&[u8]], out: &mut Reply) -> Outcome {
    let value = txn.peek(argv[1])?.filter(|value| value.deadline.is_some());
    if let Some(value) = &value {
        txn.put(argv[1], None, &[value.data()]);
    }
    out.integer(i64::from(value.is_some()));
    Ok(())
}
