//! The locks: what commands do to them. Deterministic, without I/O and without a clock; times are handed in.
//!
//! All of it is held in memory, and each change is handed out as a record for the store, from which [`Locks::load`] makes the same again (K8).
//!
//! - LS1: a lock is there as long as it is held; who waits, waits for a lock that is held.
//! - LS2: `until` was counted in `term`. In a later term it is at least the term's beginning and the whole span (K6). It is brought up to date
//!   when it would have passed, so a new term costs nothing at its beginning.
//! - LS3: one call passes [`PASSED_MAX`] deadlines at most; the others pass with the next, which finds them due. A claim holds until its
//!   deadline has passed here, so this is not seen from outside.
//! - LS4: at one time who waits is through before who holds: a lock goes to nobody who has given up.
//! - LS5: who has asked for a claim is known by name as long as all of them have one; else there is no record of it, and nobody's leaving ends it.

use super::command::{Cancelled, Guard, LockAnswer, LockCommand, Refusal, named};
use super::{
    ATTEMPTS_MAX, ENDED_KEPT, ENDED_MAX, LOCKS_MAX, TTL_MAX, TTL_MIN, WAITERS_MAX, WAITING_MAX,
};
use crate::codec::{Decoder, Malformed};
use crate::core::Term;
use crate::sabotage::{self, Sabotage};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const FORMAT: u8 = 1;
/// Deadlines that one call passes, at most.
const PASSED_MAX: usize = 10_000;
/// Ended claims that one more makes forgotten, at most.
const FORGOTTEN_MAX: usize = 16;

/// In which way a claim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    /// Its holder gave the lock back.
    Released = 1,
    /// Its time to live passed.
    Expired = 2,
    /// Another than its holder released it.
    Forced = 3,
    /// It was cancelled.
    Cancelled = 4,
    /// It waited as long as it wanted to.
    WaitedTooLong = 5,
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            How::Released => "it was released",
            How::Expired => "its time to live passed",
            How::Forced => "it was released by force",
            How::Cancelled => "it was cancelled",
            How::WaitedTooLong => "its wait was over",
        })
    }
}

impl How {
    pub(super) fn decode(d: &mut Decoder) -> Result<How, Malformed> {
        Ok(match d.u8("how a claim ended")? {
            1 => How::Released,
            2 => How::Expired,
            3 => How::Forced,
            4 => How::Cancelled,
            5 => How::WaitedTooLong,
            _ => return Err(d.malformed("how a claim ended")),
        })
    }
}

/// What has happened to a claim, or to all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockEvent {
    /// It waits.
    Queued {
        /// The lock.
        name: Bytes,
        /// The claim.
        id: Bytes,
    },
    /// It holds the lock.
    Granted {
        /// The lock.
        name: Bytes,
        /// The claim.
        id: Bytes,
        /// Its token.
        token: u64,
    },
    /// It has ended.
    Ended {
        /// The lock.
        name: Bytes,
        /// The claim.
        id: Bytes,
        /// Its token; 0: it never held the lock.
        token: u64,
        /// In which way.
        how: How,
    },
    /// A snapshot was installed: anything may have happened.
    Replaced,
}

impl LockEvent {
    /// The lock that it is about; `None`: any.
    #[must_use]
    pub fn name(&self) -> Option<&Bytes> {
        match self {
            LockEvent::Queued { name, .. }
            | LockEvent::Granted { name, .. }
            | LockEvent::Ended { name, .. } => Some(name),
            LockEvent::Replaced => None,
        }
    }
}

/// A lock that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockInfo {
    /// Its name.
    pub name: Bytes,
    /// Request id of the claim that holds it.
    pub id: Bytes,
    /// The token.
    pub token: u64,
    /// The place of the claim in the order of coming.
    pub ticket: u64,
    /// Time to live.
    pub ttl: Duration,
    /// How much of it is left, about, by the clock of the node that is asked since it applied the last command; zero: it goes as soon as the cluster's
    /// time has passed.
    pub left: Duration,
    /// How long it is held already, likewise.
    pub held: Duration,
    /// How many wait for it.
    pub waiters: usize,
}

/// A claim that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaiterInfo {
    /// Its request id.
    pub id: Bytes,
    /// Its place in the order of coming.
    pub ticket: u64,
    /// Its priority.
    pub priority: u8,
    /// How long it is to wait yet, as [`LockInfo::left`].
    pub left: Duration,
}

/// What is to be written, and told.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Keys without the prefix; `None` deletes.
    pub(super) records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(super) events: Vec<LockEvent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    id: Bytes,
    token: u64,
    ticket: u64,
    since: u64,
    ttl: u64,
    until: u64,
    term: Term,
    priority: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Waiter {
    id: Bytes,
    ttl: u64,
    wait: u64,
    until: u64,
    term: Term,
}

/// The order of serving: 255 - priority, ticket.
type Place = (u8, u64);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Lock {
    holder: Holder,
    queue: BTreeMap<Place, Waiter>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Claim {
    Holds,
    Waits(Place),
    Ended { how: How, token: u64, at: u64 },
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Locks {
    term: Term,
    /// The first time of the term.
    began: u64,
    time: u64,
    token: u64,
    ticket: u64,
    locks: BTreeMap<Bytes, Lock>,
    claims: BTreeMap<(Bytes, Bytes), Claim>,
    /// Of claims that wait or hold (LS5).
    attempts: BTreeMap<(Bytes, Bytes), BTreeSet<u64>>,
    holds_due: BTreeSet<(u64, Bytes)>,
    waits_due: BTreeSet<(u64, Bytes, Place)>,
    /// (when, lock, id) of ended claims.
    ended: BTreeSet<(u64, Bytes, Bytes)>,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn put(out: &mut Vec<u8>, fields: &[u64]) {
    for field in fields {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

fn meta_key() -> Vec<u8> {
    vec![b'm']
}

fn holder_key(name: &[u8]) -> Vec<u8> {
    [&b"h"[..], name].concat()
}

/// Names have a byte's length.
fn behind_name(kind: u8, name: &[u8], rest: &[u8]) -> Vec<u8> {
    [&[kind, name.len() as u8][..], name, rest].concat()
}

fn waiter_key(name: &[u8], place: Place) -> Vec<u8> {
    let place = [&[place.0][..], &place.1.to_be_bytes()].concat();
    behind_name(b'w', name, &place)
}

fn attempts_key(name: &[u8], id: &[u8]) -> Vec<u8> {
    behind_name(b'a', name, id)
}

fn ended_key(name: &[u8], id: &[u8]) -> Vec<u8> {
    behind_name(b'e', name, id)
}

impl Locks {
    /// Time goes on: deadlines pass.
    pub(super) fn advance(&mut self, term: Term, time: u64, out: &mut Changes) {
        self.time = self.time.max(time);
        if term > self.term {
            (self.term, self.began) = (term, self.time);
            self.put_meta(out);
        }
        let mut left = PASSED_MAX;
        // LS4.
        while left > 0
            && let Some((until, name, place)) = self.waits_due.first().cloned()
            && until <= self.time
        {
            left -= 1;
            self.waits_due.pop_first();
            let Some(waiter) = self.waiter_mut(&name, place) else {
                continue;
            };
            let (id, span, counted) = (waiter.id.clone(), waiter.wait, waiter.term);
            let given = self.until(until, span, counted);
            if given > self.time {
                self.wait_until(&name, place, given, out);
            } else {
                if let Some(lock) = self.locks.get_mut(&name) {
                    lock.queue.remove(&place);
                }
                out.records.push((waiter_key(&name, place), None));
                self.end(&name, &id, 0, How::WaitedTooLong, out);
            }
        }
        while left > 0
            && let Some((until, name)) = self.holds_due.first().cloned()
            && until <= self.time
        {
            left -= 1;
            let Some(lock) = self.locks.get_mut(&name) else {
                self.holds_due.pop_first();
                continue;
            };
            let (span, counted) = (lock.holder.ttl, lock.holder.term);
            let given = self.until(until, span, counted);
            if given > self.time {
                self.hold_until(&name, given, out);
            } else {
                self.pass_on(&name, How::Expired, out);
            }
        }
    }

    /// LS2.
    fn until(&self, until: u64, span: u64, counted: Term) -> u64 {
        if counted < self.term && !sabotage::on(Sabotage::LockGraceForgotten) {
            until.max(self.began.saturating_add(span))
        } else {
            until
        }
    }

    fn waiter_mut(&mut self, name: &Bytes, place: Place) -> Option<&mut Waiter> {
        self.locks.get_mut(name)?.queue.get_mut(&place)
    }

    /// The first deadline; `u64::MAX`: there is none.
    pub(super) fn next_due(&self) -> u64 {
        let holds = self.holds_due.first().map_or(u64::MAX, |due| due.0);
        let waits = self.waits_due.first().map_or(u64::MAX, |due| due.0);
        holds.min(waits)
    }

    pub(super) fn term(&self) -> Term {
        self.term
    }

    pub(super) fn time(&self) -> u64 {
        self.time
    }

    /// The token that is current; 0: nobody holds it.
    pub(super) fn current(&self, name: &[u8]) -> u64 {
        self.locks.get(name).map_or(0, |lock| lock.holder.token)
    }

    /// The first guard that does not hold (K1).
    pub(super) fn stale(&self, guards: &[Guard]) -> Option<(u32, u64)> {
        (0u32..).zip(guards).find_map(|(at, guard)| {
            let current = self.current(&guard.name);
            let fine = match sabotage::on(Sabotage::LockGuardUnchecked) {
                true => guard.token > 0,
                false => guard.token > 0 && guard.token == current,
            };
            (!fine).then_some((at, current))
        })
    }

    /// Carries out a command.
    pub(super) fn run(&mut self, command: &LockCommand, out: &mut Changes) -> LockAnswer {
        match command {
            LockCommand::Acquire {
                name,
                id,
                ttl,
                wait,
                priority,
                attempt,
            } => {
                let claim = (name.clone(), id.clone());
                let began = !matches!(
                    self.claims.get(&claim),
                    Some(Claim::Holds | Claim::Waits(_))
                );
                let answer = self.acquire(name, id, *ttl, *wait, *priority, out);
                use LockAnswer::{Acquired, Queued};
                if let Ok(Acquired { .. } | Queued { .. }) = answer {
                    self.tried(&claim, *attempt, began, out);
                }
                answer.unwrap_or_else(LockAnswer::Refused)
            }
            LockCommand::Renew(locks) => self.renew(locks, out),
            LockCommand::Release {
                name,
                token,
                forced,
            } => {
                let current = self.current(name);
                let held = current > 0 && *token == current;
                if held {
                    let how = match forced {
                        true => How::Forced,
                        false => How::Released,
                    };
                    self.pass_on(name, how, out);
                }
                LockAnswer::Released(held)
            }
            LockCommand::Cancel { name, id } => match named(name, id) {
                Ok(()) => LockAnswer::Cancelled(self.cancel(name, id, out)),
                Err(refusal) => LockAnswer::Refused(refusal),
            },
            LockCommand::Leave { name, id, attempt } => {
                LockAnswer::Cancelled(self.leave(name, id, *attempt, out))
            }
        }
    }

    /// LS5.
    fn tried(&mut self, claim: &(Bytes, Bytes), attempt: u64, began: bool, out: &mut Changes) {
        if began && attempt > 0 {
            self.attempts.insert(claim.clone(), BTreeSet::new());
        }
        let Some(attempts) = self.attempts.get_mut(claim) else {
            return;
        };
        if attempts.contains(&attempt) {
            return;
        }
        if attempt == 0 || attempts.len() >= ATTEMPTS_MAX {
            self.forget_attempts(claim, out);
        } else {
            attempts.insert(attempt);
            self.put_attempts(claim, out);
        }
    }

    fn put_attempts(&self, claim: &(Bytes, Bytes), out: &mut Changes) {
        let mut value = Vec::new();
        for attempt in &self.attempts[claim] {
            put(&mut value, &[*attempt]);
        }
        let key = attempts_key(&claim.0, &claim.1);
        out.records.push((key, Some(value)));
    }

    fn forget_attempts(&mut self, claim: &(Bytes, Bytes), out: &mut Changes) {
        if self.attempts.remove(claim).is_some() {
            out.records.push((attempts_key(&claim.0, &claim.1), None));
        }
    }

    /// K4: the claim ends with its last attempt.
    fn leave(&mut self, name: &Bytes, id: &Bytes, attempt: u64, out: &mut Changes) -> Cancelled {
        let claim = (name.clone(), id.clone());
        let phase = match self.claims.get(&claim).cloned() {
            None => return Cancelled::Unknown,
            Some(Claim::Ended { .. }) => return Cancelled::Ended,
            Some(phase) => phase,
        };
        let Some(attempts) = self.attempts.get_mut(&claim) else {
            return Cancelled::Kept;
        };
        let was = attempts.remove(&attempt);
        if !was || !attempts.is_empty() {
            if was {
                self.put_attempts(&claim, out);
            }
            return Cancelled::Kept;
        }
        let Claim::Waits(place) = phase else {
            // Nobody has heard of the grant who is there yet.
            self.pass_on(name, How::Cancelled, out);
            return Cancelled::Held;
        };
        self.leave_queue(name, place, out);
        self.forget_attempts(&claim, out);
        // Not remembered: its client may ask again.
        self.claims.remove(&claim);
        out.events.push(LockEvent::Ended {
            name: name.clone(),
            id: id.clone(),
            token: 0,
            how: How::Cancelled,
        });
        Cancelled::Waited
    }

    fn leave_queue(&mut self, name: &Bytes, place: Place, out: &mut Changes) {
        if let Some(lock) = self.locks.get_mut(name)
            && let Some(waiter) = lock.queue.remove(&place)
        {
            self.waits_due.remove(&(waiter.until, name.clone(), place));
        }
        out.records.push((waiter_key(name, place), None));
    }

    fn acquire(
        &mut self,
        name: &Bytes,
        id: &Bytes,
        ttl: u64,
        wait: u64,
        priority: u8,
        out: &mut Changes,
    ) -> Result<LockAnswer, Refusal> {
        named(name, id)?;
        check_ttl(ttl)?;
        if wait > micros(TTL_MAX) {
            return Err(Refusal::Wait);
        }
        let claim = (name.clone(), id.clone());
        match self.claims.get(&claim).cloned() {
            Some(Claim::Holds) => return Ok(self.acquired(name)),
            // Who does not wait changes nothing for those who do.
            Some(Claim::Waits(_)) if wait == 0 => {}
            Some(Claim::Waits(place)) => {
                return Ok(self.waits_on(name, place, wait, out));
            }
            Some(Claim::Ended { how, token, .. }) => return Err(Refusal::Ended { how, token }),
            None => {}
        }
        if let Some(lock) = self.locks.get(name) {
            if wait == 0 {
                let left = self.left(&lock.holder);
                let token = lock.holder.token;
                return Ok(LockAnswer::Busy { token, left });
            }
            if lock.queue.len() >= WAITERS_MAX {
                return Err(Refusal::TooManyWaiters);
            }
            if self.waits_due.len() >= WAITING_MAX {
                return Err(Refusal::TooManyWaiting);
            }
            self.ticket += 1;
            let place = (u8::MAX - priority, self.ticket);
            self.put_meta(out);
            let waiter = Waiter {
                id: id.clone(),
                ttl,
                wait,
                until: 0,
                term: self.term,
            };
            let lock = self.locks.get_mut(name).expect("just seen");
            lock.queue.insert(place, waiter);
            self.claims.insert(claim, Claim::Waits(place));
            self.wait_until(name, place, self.time.saturating_add(wait), out);
            let (name, id) = (name.clone(), id.clone());
            let answer = self.queued(&name, place);
            out.events.push(LockEvent::Queued { name, id });
            return Ok(answer);
        }
        if self.locks.len() >= LOCKS_MAX {
            return Err(Refusal::TooManyLocks);
        }
        self.ticket += 1;
        let place = (u8::MAX - priority, self.ticket);
        self.grant(name, id.clone(), place, ttl, BTreeMap::new(), out);
        Ok(self.acquired(name))
    }

    /// A retry of one that waits: it keeps its place, and waits on from now.
    fn waits_on(&mut self, name: &Bytes, place: Place, wait: u64, out: &mut Changes) -> LockAnswer {
        let time = self.time;
        let mut place = place;
        if sabotage::on(Sabotage::LockQueueUnfair)
            && let Some(lock) = self.locks.get_mut(name)
            && let Some(waiter) = lock.queue.remove(&place)
        {
            self.waits_due.remove(&(waiter.until, name.clone(), place));
            out.records.push((waiter_key(name, place), None));
            self.ticket += 1;
            place.1 = self.ticket;
            let claim = (name.clone(), waiter.id.clone());
            self.claims.insert(claim, Claim::Waits(place));
            lock.queue.insert(place, waiter);
        }
        if let Some(waiter) = self.waiter_mut(name, place) {
            waiter.wait = wait;
            let before = waiter.until;
            self.waits_due.remove(&(before, name.clone(), place));
            let until = before.max(time.saturating_add(wait));
            self.wait_until(name, place, until, out);
        }
        self.queued(name, place)
    }

    fn queued(&self, name: &Bytes, place: Place) -> LockAnswer {
        let queue = self.locks.get(name).map(|lock| &lock.queue);
        let ahead = queue.map_or(0, |queue| queue.range(..place).count());
        LockAnswer::Queued {
            ticket: place.1,
            ahead: ahead as u32,
        }
    }

    fn left(&self, holder: &Holder) -> u64 {
        self.until(holder.until, holder.ttl, holder.term)
            .saturating_sub(self.time)
    }

    fn acquired(&self, name: &Bytes) -> LockAnswer {
        let holder = &self.locks[name].holder;
        LockAnswer::Acquired {
            token: holder.token,
            ticket: holder.ticket,
            // At least something: it is held until its deadline has passed here.
            left: self.left(holder).max(1),
        }
    }

    fn renew(&mut self, locks: &[(Bytes, u64, u64)], out: &mut Changes) -> LockAnswer {
        if let Some(refusal) = (locks.iter())
            .filter(|(_, _, ttl)| *ttl > 0)
            .find_map(|(_, _, ttl)| check_ttl(*ttl).err())
        {
            return LockAnswer::Refused(refusal);
        }
        let mut lefts = Vec::with_capacity(locks.len());
        for (name, token, ttl) in locks {
            let held = self.locks.get_mut(name);
            let Some(lock) = held.filter(|lock| lock.holder.token == *token) else {
                lefts.push(0);
                continue;
            };
            if *ttl > 0 {
                lock.holder.ttl = *ttl;
            }
            let ttl = lock.holder.ttl;
            self.hold_until(name, self.time.saturating_add(ttl), out);
            lefts.push(ttl);
        }
        LockAnswer::Renewed(lefts)
    }

    fn cancel(&mut self, name: &Bytes, id: &Bytes, out: &mut Changes) -> Cancelled {
        match self.claims.get(&(name.clone(), id.clone())).cloned() {
            Some(Claim::Ended { .. }) => Cancelled::Ended,
            Some(Claim::Holds) => {
                self.pass_on(name, How::Cancelled, out);
                Cancelled::Held
            }
            Some(Claim::Waits(place)) => {
                self.leave_queue(name, place, out);
                self.end(name, id, 0, How::Cancelled, out);
                Cancelled::Waited
            }
            // K4: it may be on its way.
            None => {
                self.end(name, id, 0, How::Cancelled, out);
                Cancelled::Unknown
            }
        }
    }

    /// The holder's claim ends, and who is next has the lock.
    fn pass_on(&mut self, name: &Bytes, how: How, out: &mut Changes) {
        let Some(lock) = self.locks.remove(name) else {
            return;
        };
        let Lock { holder, mut queue } = lock;
        self.holds_due.remove(&(holder.until, name.clone()));
        self.end(name, &holder.id, holder.token, how, out);
        match queue.pop_first() {
            Some((place, waiter)) => {
                self.waits_due.remove(&(waiter.until, name.clone(), place));
                out.records.push((waiter_key(name, place), None));
                self.grant(name, waiter.id, place, waiter.ttl, queue, out);
            }
            None => out.records.push((holder_key(name), None)),
        }
    }

    fn grant(
        &mut self,
        name: &Bytes,
        id: Bytes,
        place: Place,
        ttl: u64,
        queue: BTreeMap<Place, Waiter>,
        out: &mut Changes,
    ) {
        self.token += 1;
        self.put_meta(out);
        let claim = (name.clone(), id.clone());
        self.claims.insert(claim, Claim::Holds);
        let holder = Holder {
            id: id.clone(),
            token: self.token,
            ticket: place.1,
            since: self.time,
            ttl,
            until: 0,
            term: self.term,
            priority: u8::MAX - place.0,
        };
        self.locks.insert(name.clone(), Lock { holder, queue });
        self.hold_until(name, self.time.saturating_add(ttl), out);
        out.events.push(LockEvent::Granted {
            name: name.clone(),
            id,
            token: self.token,
        });
    }

    fn hold_until(&mut self, name: &Bytes, until: u64, out: &mut Changes) {
        let Some(lock) = self.locks.get_mut(name) else {
            return;
        };
        let holder = &mut lock.holder;
        self.holds_due.remove(&(holder.until, name.clone()));
        (holder.until, holder.term) = (until, self.term);
        self.holds_due.insert((until, name.clone()));
        let mut value = Vec::with_capacity(64);
        put(
            &mut value,
            &[
                holder.token,
                holder.ticket,
                holder.since,
                holder.ttl,
                until,
                holder.term.0,
            ],
        );
        value.push(holder.priority);
        value.extend_from_slice(&holder.id);
        out.records.push((holder_key(name), Some(value)));
    }

    fn wait_until(&mut self, name: &Bytes, place: Place, until: u64, out: &mut Changes) {
        let term = self.term;
        let Some(waiter) = self.waiter_mut(name, place) else {
            return;
        };
        (waiter.until, waiter.term) = (until, term);
        let mut value = Vec::with_capacity(48);
        put(&mut value, &[waiter.ttl, waiter.wait, until, term.0]);
        value.extend_from_slice(&waiter.id);
        self.waits_due.insert((until, name.clone(), place));
        if !sabotage::on(Sabotage::LockQueueForgotten) {
            out.records.push((waiter_key(name, place), Some(value)));
        }
    }

    /// A claim has ended, and that is remembered (K4).
    fn end(&mut self, name: &Bytes, id: &Bytes, token: u64, how: How, out: &mut Changes) {
        let at = self.time;
        let claim = (name.clone(), id.clone());
        self.forget_attempts(&claim, out);
        out.events.push(LockEvent::Ended {
            name: name.clone(),
            id: id.clone(),
            token,
            how,
        });
        if sabotage::on(Sabotage::LockEndForgotten) {
            self.claims.remove(&claim);
            return;
        }
        self.claims.insert(claim, Claim::Ended { how, token, at });
        self.ended.insert((at, name.clone(), id.clone()));
        let mut value = token.to_le_bytes().to_vec();
        value.push(how as u8);
        put(&mut value, &[at]);
        out.records.push((ended_key(name, id), Some(value)));
        for _ in 0..FORGOTTEN_MAX {
            let Some((first, ..)) = self.ended.first() else {
                break;
            };
            if first.saturating_add(micros(ENDED_KEPT)) > at && self.ended.len() <= ENDED_MAX {
                break;
            }
            let (_, name, id) = self.ended.pop_first().expect("just seen");
            out.records.push((ended_key(&name, &id), None));
            self.claims.remove(&(name, id));
        }
    }

    fn put_meta(&self, out: &mut Changes) {
        let token = match sabotage::on(Sabotage::LockTokenReused) {
            true => 0,
            false => self.token,
        };
        let mut value = vec![FORMAT];
        let fields = [self.term.0, self.began, self.time, token, self.ticket];
        put(&mut value, &fields);
        out.records.push((meta_key(), Some(value)));
    }

    /// From the records that were kept.
    pub(super) fn load(
        records: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) -> Result<Locks, Malformed> {
        let mut locks = Locks::default();
        let mut queues: BTreeMap<Bytes, BTreeMap<Place, Waiter>> = BTreeMap::new();
        for (key, value) in records {
            let mut k = Decoder::new(key);
            let mut d = Decoder::new(value);
            let named = |k: &mut Decoder| {
                let len = k.u8("the length of a name")?;
                own(k, len.into(), "a name")
            };
            match k.u8("a kind of record")? {
                b'm' => {
                    if d.u8("a format")? != FORMAT {
                        return Err(d.malformed("format 1 of locks; a newer build wrote it"));
                    }
                    locks.term = Term(d.u64("a term")?);
                    locks.began = d.u64("a time")?;
                    locks.time = d.u64("a time")?;
                    locks.token = d.u64("a token")?;
                    locks.ticket = d.u64("a ticket")?;
                    d.end()?;
                }
                b'a' => {
                    let name = named(&mut k)?;
                    let id = rest(&mut k, "an id")?;
                    let mut attempts = BTreeSet::from([d.u64("an attempt")?]);
                    while d.left() > 0 && attempts.len() < ATTEMPTS_MAX {
                        attempts.insert(d.u64("an attempt")?);
                    }
                    d.end()?;
                    locks.attempts.insert((name, id), attempts);
                }
                b'h' => {
                    let name = rest(&mut k, "a name")?;
                    let holder = Holder {
                        token: d.u64("a token")?,
                        ticket: d.u64("a ticket")?,
                        since: d.u64("a time")?,
                        ttl: d.u64("a time to live")?,
                        until: d.u64("a time")?,
                        term: Term(d.u64("a term")?),
                        priority: d.u8("a priority")?,
                        id: rest(&mut d, "an id")?,
                    };
                    let claim = (name.clone(), holder.id.clone());
                    locks.claims.insert(claim, Claim::Holds);
                    locks.holds_due.insert((holder.until, name.clone()));
                    let queue = BTreeMap::new();
                    locks.locks.insert(name, Lock { holder, queue });
                }
                b'w' => {
                    let name = named(&mut k)?;
                    let order = k.u8("a priority")?;
                    let ticket = k.bytes(8, "a ticket")?;
                    let ticket = ticket.first_chunk().copied().unwrap_or_default();
                    let place = (order, u64::from_be_bytes(ticket));
                    let waiter = Waiter {
                        ttl: d.u64("a time to live")?,
                        wait: d.u64("a wait")?,
                        until: d.u64("a time")?,
                        term: Term(d.u64("a term")?),
                        id: rest(&mut d, "an id")?,
                    };
                    let claim = (name.clone(), waiter.id.clone());
                    locks.claims.insert(claim, Claim::Waits(place));
                    let due = (waiter.until, name.clone(), place);
                    locks.waits_due.insert(due);
                    queues.entry(name).or_default().insert(place, waiter);
                }
                b'e' => {
                    let name = named(&mut k)?;
                    let id = rest(&mut k, "an id")?;
                    let token = d.u64("a token")?;
                    let how = How::decode(&mut d)?;
                    let at = d.u64("a time")?;
                    locks.ended.insert((at, name.clone(), id.clone()));
                    let ended = Claim::Ended { how, token, at };
                    locks.claims.insert((name, id), ended);
                }
                _ => return Err(k.malformed("a known kind of record")),
            }
        }
        for (name, queue) in queues {
            let lock = locks.locks.get_mut(&name);
            let lock = lock.ok_or(Malformed {
                what: "a holder of the lock that others wait for",
                at: 0,
                len: 0,
            })?;
            lock.queue = queue;
        }
        let lives = |claim| {
            matches!(
                locks.claims.get(claim),
                Some(Claim::Holds | Claim::Waits(_))
            )
        };
        if !locks.attempts.keys().all(lives) {
            return Err(Malformed {
                what: "a claim that holds or waits, and is asked for",
                at: 0,
                len: 0,
            });
        }
        Ok(locks)
    }

    fn info(&self, name: &Bytes, lock: &Lock, now: u64) -> LockInfo {
        let holder = &lock.holder;
        let left = (self.until(holder.until, holder.ttl, holder.term)).saturating_sub(now);
        // A snapshot's time may be older than what it holds: renewals do not keep theirs.
        let left = left.min(holder.ttl);
        LockInfo {
            name: name.clone(),
            id: holder.id.clone(),
            token: holder.token,
            ticket: holder.ticket,
            ttl: Duration::from_micros(holder.ttl),
            left: Duration::from_micros(left),
            held: Duration::from_micros(now.saturating_sub(holder.since)),
            waiters: lock.queue.len(),
        }
    }

    /// A lock at a time, and who waits for it, the first `limit` of them; `None`: nobody holds it.
    pub(super) fn inspect(
        &self,
        name: &[u8],
        now: u64,
        limit: usize,
    ) -> Option<(LockInfo, Vec<WaiterInfo>)> {
        let (name, lock) = self.locks.get_key_value(name)?;
        let waiter = |(place, waiter): (&Place, &Waiter)| WaiterInfo {
            id: waiter.id.clone(),
            ticket: place.1,
            priority: u8::MAX - place.0,
            left: Duration::from_micros(
                self.until(waiter.until, waiter.wait, waiter.term)
                    .saturating_sub(now)
                    .min(waiter.wait),
            ),
        };
        let waiters = lock.queue.iter().take(limit).map(waiter).collect();
        Some((self.info(name, lock, now), waiters))
    }

    /// Locks behind `after`, in the order of their names, `limit` of them.
    pub(super) fn list(&self, after: &[u8], now: u64, limit: usize) -> Vec<LockInfo> {
        use std::ops::Bound;
        let from = match after.is_empty() {
            true => Bound::Unbounded,
            false => Bound::Excluded(after),
        };
        (self.locks.range::<[u8], _>((from, Bound::Unbounded)))
            .take(limit)
            .map(|(name, lock)| self.info(name, lock, now))
            .collect()
    }
}

/// A copy: it is kept, and must not keep a block of the store.
fn own(d: &mut Decoder, len: usize, what: &'static str) -> Result<Bytes, Malformed> {
    Ok(Bytes::copy_from_slice(&d.bytes(len, what)?))
}

fn rest(d: &mut Decoder, what: &'static str) -> Result<Bytes, Malformed> {
    let len = d.left();
    own(d, len, what)
}

fn check_ttl(ttl: u64) -> Result<(), Refusal> {
    match (micros(TTL_MIN)..=micros(TTL_MAX)).contains(&ttl) {
        true => Ok(()),
        false => Err(Refusal::Ttl),
    }
}

#[cfg(test)]
mod tests;
