//! Locks for processes that share nothing but the cluster, with fencing tokens.
//!
//! A *claim* is one attempt to hold a lock, named by the lock's name and a request id that its client has chosen. It waits, holds, ends.
//!
//! - K1: at most one claim holds a lock. A command that is guarded by a token ([`guarded`]) takes effect only if at its own place in the log the
//!   claim with that token holds the lock. So of two who both think that they hold it, the store takes writes of one.
//! - K2: every grant has a token, larger than all that were granted before it, of whatever lock. No release, expiry, restart, snapshot or
//!   FLUSHALL brings one back.
//! - K3: who waits is served by priority, and within one in the order of coming (tickets). A retry keeps its place.
//! - K4 (C5): a claim is granted at most once, however often it is asked for; a retry is told what became of it. One that has ended, or was
//!   cancelled before it came, does not begin again: that is remembered for [`ENDED_KEPT`], and of the latest [`ENDED_MAX`]. An *attempt* is one
//!   asking for it, over one connection say, until its client is answered or gone. One that leaves takes nothing from the others: the claim ends
//!   with the last. Where that one waited, it may begin again, behind the others: it was never granted.
//! - K5 (C1): deadlines are replicated times, and pass at one place of the log, the same on every node. No node's own clock decides.
//! - K6: with the first time of a new term, whoever held or waited has its whole time to live, or to wait, again: while nobody led it could not
//!   renew, and the clocks of two leaders differ. So leaders that change faster than that keep a dead client's lock alive.
//! - K7: a holder counts from before it asked, by a clock that counts suspension, and gives up at seven eighths of its time: before the cluster
//!   gives the lock to another, as long as the rates of two machines' clocks differ by less than 3 % (a leader's runs at most a tenth too
//!   fast). It is told by a signal, and by [`Held::is_valid`]. A process that is stopped between the question and the write is why there is K1.
//! - K8: all of it is in the store under keys of their own, written with the index that is applied: it survives restarts and travels in
//!   snapshots, and users' commands don't reach it.
//! - K9: bounded: names, ids, times, locks, waiters, what is remembered. What is too much is refused, with the bound.
//!
//! Why so: the token is the *sequencer* of Chubby (Burrows 2006, 2.4), and the check in the store is what Kleppmann asks for in "How to do distributed
//! locking" (2016): no time to live alone makes a lock safe. etcd's client mutex has a revision that can serve as one, and leaves the check to a
//! transaction that the user writes; its leases too are given anew to a new leader (etcd issues 4778 and 9395). The queue is in the state machine, so that a
//! release wakes one waiter and not all (ZooKeeper's recipe gets there with sequential nodes), and its order is that of the log.
//!
//! A command of a lock begins with a byte from `0xF0` on; an application inside [`Locked`] has the others. Little-endian; a *blob* is a length
//! u32 and bytes.
//! ```text
//! F0 01  acquire   name blob, id blob, ttl u64, wait u64 (0: do not), priority u8
//! F0 02  renew     count u32, each: name blob, token u64, ttl u64 (0: as before)
//! F0 03  release   name blob, token u64, forced u8
//! F0 04  cancel    name blob, id blob
//! F0 05  acquire   as 01, attempt u64 (not 0)
//! F0 06  leave     name blob, id blob, attempt u64
//! F1     guarded   count u32, each: name blob, token u64; then a command of the application
//! ```
//! Answers are in [`LockAnswer`]. That of a guarded command: 1 and the application's answer; 0, which guard u32,
//! token u64 (0: nobody holds it); or 2: no command.
//!
//! Keys, behind the byte 2 in the store's own keys; ids and names as they are, numbers in keys big-endian:
//! ```text
//! m                              format u8 (1), term, began, time, token, ticket: u64 each
//! h name                         token, ticket, since, ttl, until, term: u64 each; priority u8; id
//! w len u8, name, 255 - priority u8, ticket u64      ttl, wait, until, term: u64 each; id
//! a len u8, name, id             attempts, u64 each; none: the claim has, or had, one without a name, or too many
//! e len u8, name, id             token u64 (0: it never held), how u8 (1 released, 2 expired, 3 forced, 4 cancelled, 5 waited too long), at u64
//! ```
//! Times are microseconds.

mod command;
#[cfg(feature = "lsm")]
mod machine;
#[cfg(feature = "lsm")]
mod service;
mod state;

pub use command::{Cancelled, Guard, GuardAnswer, LockAnswer, LockCommand, Refusal, guarded};
#[cfg(feature = "lsm")]
pub use machine::{LockView, Locked};
#[cfg(feature = "lsm")]
pub use service::{Acquire, AcquireError, Grant, Held, LEASE, LockError, LockService};
pub use state::{How, LockEvent, LockInfo, WaiterInfo};

use std::time::Duration;

/// Longest name of a lock, in bytes; the shortest is 1.
pub const NAME_MAX: usize = 255;
/// Longest request id, in bytes; the shortest is 1.
pub const ID_MAX: usize = 64;
/// Shortest time to live.
pub const TTL_MIN: Duration = Duration::from_millis(10);
/// Longest time to live, and longest wait.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Locks that are held at one time, at most.
pub const LOCKS_MAX: usize = 65_536;
/// Claims that wait for one lock, at most.
pub const WAITERS_MAX: usize = 4_096;
/// Claims that wait, at most.
pub const WAITING_MAX: usize = 65_536;
/// How long an ended claim is remembered, at least, unless there are too many.
pub const ENDED_KEPT: Duration = Duration::from_secs(300);
/// Attempts that are told apart, of one claim, at most; of more, none that leaves ends it.
pub const ATTEMPTS_MAX: usize = 8;
/// Ended claims that are remembered, at most.
pub const ENDED_MAX: usize = 65_536;
/// Locks renewed or guards checked by one command, at most.
pub const MANY_MAX: usize = 4_096;

/// What a holder counts with (K7).
fn counted(micros: u64) -> u64 {
    micros - micros / 8
}
