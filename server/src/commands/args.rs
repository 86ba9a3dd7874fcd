//! Options that several commands share.

use super::error::{CommandError, NOT_AN_INTEGER, SYNTAX};
use super::num::parse_i64;
use crate::engine::Txn;

/// Unit of a time in a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
}

/// A time as it stands in a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expire<'a> {
    pub(super) unit: Unit,
    /// Since 1970, not from now.
    pub(super) absolute: bool,
    pub(super) value: &'a [u8],
}

/// The deadline that a positive time in SET, GETEX or SETEX means.
pub(super) fn deadline(
    txn: &mut Txn<'_>,
    expire: Expire<'_>,
    command: &str,
) -> Result<i64, CommandError> {
    let value = parse_i64(expire.value).ok_or(NOT_AN_INTEGER)?;
    let invalid = || CommandError::from(format!("ERR invalid expire time in '{command}' command"));
    if value <= 0 {
        return Err(invalid());
    }
    let millis = match expire.unit {
        Unit::Seconds => value.checked_mul(1000).ok_or_else(invalid)?,
        Unit::Millis => value,
    };
    if expire.absolute {
        Ok(millis)
    } else {
        millis.checked_add(txn.now()?).ok_or_else(invalid)
    }
}

/// Options of SET and GETEX.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SetOptions<'a> {
    pub(super) nx: bool,
    pub(super) xx: bool,
    pub(super) get: bool,
    pub(super) keep_ttl: bool,
    pub(super) persist: bool,
    pub(super) expire: Option<Expire<'a>>,
}

impl<'a> SetOptions<'a> {
    pub(super) fn parse(args: &[&'a [u8]], getex: bool) -> Result<Self, CommandError> {
        let mut options = SetOptions::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let is = |name: &str| arg.eq_ignore_ascii_case(name.as_bytes());
            if is("nx") && !options.xx && !getex {
                options.nx = true;
            } else if is("xx") && !options.nx && !getex {
                options.xx = true;
            } else if is("get") && !getex {
                options.get = true;
            } else if is("keepttl") && !options.persist && options.expire.is_none() && !getex {
                options.keep_ttl = true;
            } else if is("persist") && getex && options.expire.is_none() && !options.keep_ttl {
                options.persist = true;
            } else {
                let (unit, absolute) = if is("ex") {
                    (Unit::Seconds, false)
                } else if is("px") {
                    (Unit::Millis, false)
                } else if is("exat") {
                    (Unit::Seconds, true)
                } else if is("pxat") {
                    (Unit::Millis, true)
                } else {
                    return Err(SYNTAX.into());
                };
                let other = options
                    .expire
                    .is_some_and(|before| (before.unit, before.absolute) != (unit, absolute));
                if other || options.keep_ttl || options.persist {
                    return Err(SYNTAX.into());
                }
                let value = args.next().ok_or(SYNTAX)?;
                options.expire = Some(Expire {
                    unit,
                    absolute,
                    value,
                });
            }
        }
        Ok(options)
    }
}

/// An integer, or the usual error.
pub(super) fn integer(arg: &[u8]) -> Result<i64, CommandError> {
    parse_i64(arg).ok_or_else(|| NOT_AN_INTEGER.into())
}

/// An integer that fits 32 bits, or Redis's errors.
pub(super) fn int32(arg: &[u8]) -> Result<i32, CommandError> {
    i32::try_from(integer(arg)?).map_err(|_| {
        "ERR value is out of range, value must between -2147483648 and 2147483647".into()
    })
}

/// What C's `%s` shows of an argument: up to its first zero.
pub(super) fn c_string(arg: &[u8]) -> &[u8] {
    &arg[..memchr::memchr(0, arg).unwrap_or(arg.len())]
}

/// An argument shown in an error: at most 128 bytes of it.
pub(super) fn shown(arg: &[u8]) -> std::borrow::Cow<'_, str> {
    let arg = c_string(arg);
    String::from_utf8_lossy(&arg[..arg.len().min(128)])
}

/// Whether an argument is this word, in any case.
pub(super) fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}
