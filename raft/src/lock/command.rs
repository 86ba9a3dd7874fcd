//! Commands of locks, and their answers: bytes (see the module above).
//!
//! ```text
//! answer  1 acquired  token u64, ticket u64, left u64
//!         2 queued    ticket u64, ahead u32
//!         3 busy      token u64, left u64
//!         4 renewed   count u32, each: left u64 (0: not held with this token)
//!         5 released  u8
//!         6 cancelled u8 (0 there was none, 1 it waited, 2 it held, 3 it had ended, 4 it goes on)
//!         7 refused   u8 which, and of 8: how u8, token u64
//! ```

use super::state::How;
use super::{ID_MAX, MANY_MAX, NAME_MAX, TTL_MAX, TTL_MIN};
use crate::codec::{Decoder, Malformed, put_blob};
use bytes::Bytes;

/// The first byte of a command about locks.
pub(super) const LOCK: u8 = 0xF0;
/// The first byte of a command of the application that is guarded by tokens.
pub(super) const GUARDED: u8 = 0xF1;
/// From here on first bytes are the lock service's.
pub(super) const RESERVED: u8 = 0xF0;

/// What is asked of locks. Each may be tried again: it takes effect once (K4), or the second time changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockCommand {
    /// Hold it, or wait for it.
    Acquire {
        /// The lock.
        name: Bytes,
        /// The claim's id, used once.
        id: Bytes,
        /// Time to live, in microseconds.
        ttl: u64,
        /// How long to wait, in microseconds; 0: do not.
        wait: u64,
        /// Larger is served first.
        priority: u8,
        /// Which attempt asks, by a number of its own; 0: one without a name, which never leaves.
        attempt: u64,
    },
    /// Hold on to some: lock, token, and a time to live, or 0 for the one before.
    Renew(Vec<(Bytes, u64, u64)>),
    /// Give it back.
    Release {
        /// The lock.
        name: Bytes,
        /// The grant.
        token: u64,
        /// By another than the holder, which is told so.
        forced: bool,
    },
    /// End a claim, whatever it is; one that has not come yet will not begin.
    Cancel {
        /// The lock.
        name: Bytes,
        /// The claim's id.
        id: Bytes,
    },
    /// An attempt asks for its claim no more. The last of them ends it.
    Leave {
        /// The lock.
        name: Bytes,
        /// The claim's id.
        id: Bytes,
        /// The attempt, as it has asked.
        attempt: u64,
    },
}

/// Why a command was refused. It changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// K9.
    #[error("the name of a lock has from 1 to {NAME_MAX} bytes")]
    Name,
    /// K9.
    #[error("a request id has from 1 to {ID_MAX} bytes")]
    Id,
    /// K9.
    #[error("a time to live is from {} ms to {} ms", TTL_MIN.as_millis(), TTL_MAX.as_millis())]
    Ttl,
    /// K9.
    #[error("a wait is at most {} ms", TTL_MAX.as_millis())]
    Wait,
    /// K9.
    #[error(
        "there are {max} locks, the most that there may be; release some",
        max = super::LOCKS_MAX
    )]
    TooManyLocks,
    /// K9.
    #[error(
        "{max} claims wait for this lock, the most that may; try again later",
        max = super::WAITERS_MAX
    )]
    TooManyWaiters,
    /// K9.
    #[error(
        "{max} claims wait for locks, the most that may; try again later",
        max = super::WAITING_MAX
    )]
    TooManyWaiting,
    /// K4.
    #[error("the claim with this id has ended ({how}); use another id for each acquisition")]
    Ended {
        /// In which way.
        how: How,
        /// Its token; 0: it never held the lock.
        token: u64,
    },
    /// The bytes are no command.
    #[error("no command of locks that this build knows")]
    Malformed,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockAnswer {
    /// The claim holds the lock.
    Acquired {
        /// Its fencing token (K2).
        token: u64,
        /// Its place in the order of coming.
        ticket: u64,
        /// Microseconds that are left.
        left: u64,
    },
    /// The claim waits.
    Queued {
        /// Its place in the order of coming.
        ticket: u64,
        /// Claims that are served before it, the holder not among them.
        ahead: u32,
    },
    /// Another holds it, and waiting was not asked for.
    Busy {
        /// The other's token.
        token: u64,
        /// Microseconds that it has, unless it renews.
        left: u64,
    },
    /// Of each lock in turn the microseconds that are left; 0 where it is not held with that token.
    Renewed(Vec<u64>),
    /// Whether it was held so, and is not any more.
    Released(bool),
    /// What the claim was.
    Cancelled(Cancelled),
    /// It can't be.
    Refused(Refusal),
}

/// What a claim was that was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It had not come, and will not.
    Unknown,
    /// It waited.
    Waited,
    /// It held the lock, which is released.
    Held,
    /// It had ended before.
    Ended,
    /// It goes on: not all who asked for it have left.
    Kept,
}

/// A token that has to be current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The lock.
    pub name: Bytes,
    /// The token.
    pub token: u64,
}

/// What became of a guarded command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardAnswer {
    /// All tokens were current; the application's answer.
    Passed(Bytes),
    /// One was not, and nothing was done.
    Stale {
        /// Which.
        guard: u32,
        /// The token that is current; 0: nobody holds the lock.
        current: u64,
    },
    /// The bytes are no command, or guarded by too many tokens.
    NoCommand,
}

/// A command of the application that takes effect only while all these tokens are current (K1).
#[must_use]
pub fn guarded(guards: &[Guard], command: &[u8]) -> Bytes {
    let mut out = vec![GUARDED];
    out.extend_from_slice(&(guards.len() as u32).to_le_bytes());
    for guard in guards {
        put_blob(&mut out, &guard.name);
        out.extend_from_slice(&guard.token.to_le_bytes());
    }
    out.extend_from_slice(command);
    out.into()
}

/// Takes a guarded command apart. Behind its first byte.
pub(super) fn take_guards(bytes: Bytes) -> Result<(Vec<Guard>, Bytes), Malformed> {
    let mut d = Decoder::new(bytes);
    d.u8("a kind of command")?;
    let count = d.count(12, "a count of guards")?;
    if count > MANY_MAX {
        return Err(d.malformed("not so many guards"));
    }
    let mut guards = Vec::with_capacity(count);
    for _ in 0..count {
        guards.push(Guard {
            name: d.blob("a name")?,
            token: d.u64("a token")?,
        });
    }
    let rest = d.bytes(d.left(), "a command")?;
    Ok((guards, rest))
}

impl GuardAnswer {
    pub(super) fn encode(&self) -> Bytes {
        match self {
            GuardAnswer::Passed(answer) => [&[1][..], answer].concat().into(),
            GuardAnswer::Stale { guard, current } => {
                let mut out = vec![0];
                out.extend_from_slice(&guard.to_le_bytes());
                out.extend_from_slice(&current.to_le_bytes());
                out.into()
            }
            GuardAnswer::NoCommand => Bytes::from_static(&[2]),
        }
    }

    /// From the bytes of a reply.
    pub fn decode(bytes: Bytes) -> Result<GuardAnswer, Malformed> {
        let mut d = Decoder::new(bytes);
        Ok(match d.u8("whether it passed")? {
            1 => GuardAnswer::Passed(d.bytes(d.left(), "an answer")?),
            0 => {
                let (guard, current) = (d.u32("a guard")?, d.u64("a token")?);
                d.end()?;
                GuardAnswer::Stale { guard, current }
            }
            2 => GuardAnswer::NoCommand,
            _ => return Err(d.malformed("whether it passed")),
        })
    }
}

/// A copy: it is kept, and must not keep the packet that it came in.
fn own(d: &mut Decoder, what: &'static str) -> Result<Bytes, Malformed> {
    Ok(Bytes::copy_from_slice(&d.blob(what)?))
}

/// One with a name.
fn attempt(d: &mut Decoder) -> Result<u64, Malformed> {
    match d.u64("an attempt")? {
        0 => Err(d.malformed("an attempt, from 1 on")),
        attempt => Ok(attempt),
    }
}

/// K9.
pub(super) fn named(name: &Bytes, id: &Bytes) -> Result<(), Refusal> {
    check_name(name)?;
    match id.is_empty() || id.len() > ID_MAX {
        true => Err(Refusal::Id),
        false => Ok(()),
    }
}

fn check_name(name: &Bytes) -> Result<(), Refusal> {
    match name.is_empty() || name.len() > NAME_MAX {
        true => Err(Refusal::Name),
        false => Ok(()),
    }
}

impl LockCommand {
    /// K9: of the names in it.
    pub(super) fn check_names(&self) -> Result<(), Refusal> {
        match self {
            LockCommand::Acquire { name, id, .. }
            | LockCommand::Cancel { name, id }
            | LockCommand::Leave { name, id, .. } => named(name, id),
            LockCommand::Release { name, .. } => check_name(name),
            LockCommand::Renew(locks) => locks.iter().try_for_each(|(name, ..)| check_name(name)),
        }
    }

    /// The bytes for the log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = vec![LOCK];
        match self {
            LockCommand::Acquire {
                name,
                id,
                ttl,
                wait,
                priority,
                attempt,
            } => {
                out.push(if *attempt == 0 { 1 } else { 5 });
                put_blob(&mut out, name);
                put_blob(&mut out, id);
                out.extend_from_slice(&ttl.to_le_bytes());
                out.extend_from_slice(&wait.to_le_bytes());
                out.push(*priority);
                if *attempt > 0 {
                    out.extend_from_slice(&attempt.to_le_bytes());
                }
            }
            LockCommand::Renew(locks) => {
                out.push(2);
                out.extend_from_slice(&(locks.len() as u32).to_le_bytes());
                for (name, token, ttl) in locks {
                    put_blob(&mut out, name);
                    out.extend_from_slice(&token.to_le_bytes());
                    out.extend_from_slice(&ttl.to_le_bytes());
                }
            }
            LockCommand::Release {
                name,
                token,
                forced,
            } => {
                out.push(3);
                put_blob(&mut out, name);
                out.extend_from_slice(&token.to_le_bytes());
                out.push((*forced).into());
            }
            LockCommand::Cancel { name, id } => {
                out.push(4);
                put_blob(&mut out, name);
                put_blob(&mut out, id);
            }
            LockCommand::Leave { name, id, attempt } => {
                out.push(6);
                put_blob(&mut out, name);
                put_blob(&mut out, id);
                out.extend_from_slice(&attempt.to_le_bytes());
            }
        }
        out.into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<LockCommand, Malformed> {
        let mut d = Decoder::new(bytes);
        d.u8("a kind of command")?;
        let command = match d.u8("a command of locks")? {
            kind @ (1 | 5) => LockCommand::Acquire {
                name: own(&mut d, "a name")?,
                id: own(&mut d, "an id")?,
                ttl: d.u64("a time to live")?,
                wait: d.u64("a wait")?,
                priority: d.u8("a priority")?,
                attempt: match kind {
                    1 => 0,
                    _ => attempt(&mut d)?,
                },
            },
            2 => {
                let count = d.count(20, "a count of locks")?;
                if count > MANY_MAX {
                    return Err(d.malformed("not so many locks"));
                }
                let mut locks = Vec::with_capacity(count);
                for _ in 0..count {
                    let name = own(&mut d, "a name")?;
                    locks.push((name, d.u64("a token")?, d.u64("a time to live")?));
                }
                LockCommand::Renew(locks)
            }
            3 => LockCommand::Release {
                name: own(&mut d, "a name")?,
                token: d.u64("a token")?,
                forced: d.bool("whether it is forced")?,
            },
            4 => LockCommand::Cancel {
                name: own(&mut d, "a name")?,
                id: own(&mut d, "an id")?,
            },
            6 => LockCommand::Leave {
                name: own(&mut d, "a name")?,
                id: own(&mut d, "an id")?,
                attempt: attempt(&mut d)?,
            },
            _ => return Err(d.malformed("a known command of locks")),
        };
        d.end()?;
        Ok(command)
    }
}

impl LockAnswer {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(32);
        match self {
            LockAnswer::Acquired {
                token,
                ticket,
                left,
            } => {
                out.push(1);
                for field in [token, ticket, left] {
                    out.extend_from_slice(&field.to_le_bytes());
                }
            }
            LockAnswer::Queued { ticket, ahead } => {
                out.push(2);
                out.extend_from_slice(&ticket.to_le_bytes());
                out.extend_from_slice(&ahead.to_le_bytes());
            }
            LockAnswer::Busy { token, left } => {
                out.push(3);
                out.extend_from_slice(&token.to_le_bytes());
                out.extend_from_slice(&left.to_le_bytes());
            }
            LockAnswer::Renewed(lefts) => {
                out.push(4);
                out.extend_from_slice(&(lefts.len() as u32).to_le_bytes());
                for left in lefts {
                    out.extend_from_slice(&left.to_le_bytes());
                }
            }
            LockAnswer::Released(was) => out.extend_from_slice(&[5, (*was).into()]),
            LockAnswer::Cancelled(what) => out.extend_from_slice(&[6, *what as u8]),
            LockAnswer::Refused(why) => {
                out.push(7);
                match why {
                    Refusal::Name => out.push(1),
                    Refusal::Id => out.push(2),
                    Refusal::Ttl => out.push(3),
                    Refusal::Wait => out.push(4),
                    Refusal::TooManyLocks => out.push(5),
                    Refusal::TooManyWaiters => out.push(6),
                    Refusal::TooManyWaiting => out.push(7),
                    Refusal::Ended { how, token } => {
                        out.extend_from_slice(&[8, *how as u8]);
                        out.extend_from_slice(&token.to_le_bytes());
                    }
                    Refusal::Malformed => out.push(9),
                }
            }
        }
        out.into()
    }

    /// From the bytes of a reply.
    pub fn decode(bytes: Bytes) -> Result<LockAnswer, Malformed> {
        let mut d = Decoder::new(bytes);
        let answer = match d.u8("an answer")? {
            1 => LockAnswer::Acquired {
                token: d.u64("a token")?,
                ticket: d.u64("a ticket")?,
                left: d.u64("a time")?,
            },
            2 => LockAnswer::Queued {
                ticket: d.u64("a ticket")?,
                ahead: d.u32("a count")?,
            },
            3 => LockAnswer::Busy {
                token: d.u64("a token")?,
                left: d.u64("a time")?,
            },
            4 => {
                let mut lefts = Vec::new();
                for _ in 0..d.count(8, "a count of locks")? {
                    lefts.push(d.u64("a time")?);
                }
                LockAnswer::Renewed(lefts)
            }
            5 => LockAnswer::Released(d.bool("whether it was held")?),
            6 => LockAnswer::Cancelled(match d.u8("what it was")? {
                0 => Cancelled::Unknown,
                1 => Cancelled::Waited,
                2 => Cancelled::Held,
                3 => Cancelled::Ended,
                4 => Cancelled::Kept,
                _ => return Err(d.malformed("what a claim was")),
            }),
            7 => LockAnswer::Refused(match d.u8("a refusal")? {
                1 => Refusal::Name,
                2 => Refusal::Id,
                3 => Refusal::Ttl,
                4 => Refusal::Wait,
                5 => Refusal::TooManyLocks,
                6 => Refusal::TooManyWaiters,
                7 => Refusal::TooManyWaiting,
                8 => Refusal::Ended {
                    how: How::decode(&mut d)?,
                    token: d.u64("a token")?,
                },
                9 => Refusal::Malformed,
                _ => return Err(d.malformed("a known refusal")),
            }),
            _ => return Err(d.malformed("a known answer")),
        };
        d.end()?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    /// E2.
    #[test]
    fn e2_commands_and_answers_survive_the_way_and_cut_ones_are_refused() {
        let (name, id) = (b("a lock"), b("17"));
        let commands = [
            LockCommand::Acquire {
                name: name.clone(),
                id: id.clone(),
                ttl: 5,
                wait: 6,
                priority: 7,
                attempt: 0,
            },
            LockCommand::Acquire {
                name: name.clone(),
                id: id.clone(),
                ttl: 5,
                wait: 6,
                priority: 7,
                attempt: 8,
            },
            LockCommand::Leave {
                name: name.clone(),
                id: id.clone(),
                attempt: 8,
            },
            LockCommand::Renew(vec![(name.clone(), 1, 2), (id.clone(), 3, 0)]),
            LockCommand::Release {
                name: name.clone(),
                token: 9,
                forced: true,
            },
            LockCommand::Cancel {
                name: name.clone(),
                id,
            },
        ];
        for command in commands {
            let bytes = command.encode();
            assert_eq!(LockCommand::decode(bytes.clone()), Ok(command));
            for len in 0..bytes.len() {
                assert!(LockCommand::decode(bytes.slice(..len)).is_err());
            }
        }
        let how = How::Expired;
        let refusals = [
            Refusal::Name,
            Refusal::Id,
            Refusal::Ttl,
            Refusal::Wait,
            Refusal::TooManyLocks,
            Refusal::TooManyWaiters,
            Refusal::TooManyWaiting,
            Refusal::Ended { how, token: 3 },
            Refusal::Malformed,
        ];
        let mut answers = vec![
            LockAnswer::Acquired {
                token: 1,
                ticket: 2,
                left: 3,
            },
            LockAnswer::Queued {
                ticket: 4,
                ahead: 5,
            },
            LockAnswer::Busy { token: 6, left: 7 },
            LockAnswer::Renewed(vec![0, 9]),
            LockAnswer::Released(true),
            LockAnswer::Cancelled(Cancelled::Held),
            LockAnswer::Cancelled(Cancelled::Kept),
        ];
        answers.extend(refusals.map(LockAnswer::Refused));
        for answer in answers {
            let bytes = answer.encode();
            assert_eq!(LockAnswer::decode(bytes.clone()), Ok(answer));
            for len in 0..bytes.len() {
                assert!(LockAnswer::decode(bytes.slice(..len)).is_err());
            }
        }
        let guards = vec![Guard { name, token: 4 }];
        let bytes = guarded(&guards, b"rest");
        assert_eq!(take_guards(bytes), Ok((guards, b("rest"))));
        let huge = [&[GUARDED][..], &u32::MAX.to_le_bytes()].concat();
        assert!(take_guards(huge.into()).is_err());
    }
}
