//! Locks as a client has them: acquire, hold on, be told when it is over.
//!
//! - SV1 (K7): what a holder has left is counted from before the command left that it was given by, and by the boot clock.
//! - SV2: commands are tried again until their time is over; each may be (K4).
//! - SV3: a claim that waits asks again now and then: so a client that is gone waits no longer than [`LEASE`], and one whose node was
//!   behind learns of its grant.
//! - SV4 (E1): two threads, joined by [`LockService::close`] and by its drop: `esker-lock-time` moves replicated time on the leader when a deadline is due,
//!   `esker-lock-keep` renews what is held and gives the signals.
//! - SV5: an attempt that ends without an answer ends nothing: its client may ask again with the same id, maybe has already. A waiter goes by
//!   [`LEASE`] then, a holder by its time to live. One whose client is gone, or has waited enough, leaves (K4). A fresh id is nobody else's, and
//!   its claim is cancelled.
//! - SV6: that a wait is over is said only where the claim is out. Where that has no answer, or another attempt keeps the claim, the outcome is not known.
//! - SV7: what a command ended is not taken for ended before by its own second try. Nor is it said that another holds a lock while an earlier try
//!   may yet acquire it.
//! - SV8: a callback of one lock that panics ends neither the renewal nor the signals of the others; and where nobody renews any more, for whatever
//!   reason, all that is held counts as lost and nothing is acquired.

use super::command::{Cancelled, Guard, LockAnswer, LockCommand, Refusal};
use super::machine::{LockView, TIME_TICK};
use super::state::{How, LockEvent, LockInfo, WaiterInfo};
use super::{MANY_MAX, TTL_MAX, counted};
use crate::runtime::{
    NodeHandle, PendingReply, Proposal, ProposeError, ReadError, StartError, boot_micros,
};
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use esker_sync::deadline::after;
use esker_sync::events::{Received, Subscription};
use esker_sync::stop::StopToken;
use esker_sync::workers::Workers;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// How long a claim waits that its client does not ask for again.
pub const LEASE: Duration = Duration::from_secs(10);
/// How often a claim that waits asks again.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// How often one who waits looks whether it should go on.
const LOOK: Duration = Duration::from_millis(20);
/// How long one try of a command may take.
const TRY: Duration = Duration::from_secs(1);
/// How long a try to move time may take.
const MOVE: Duration = Duration::from_millis(200);
/// How long the end of a claim is tried that is not wanted any more: more than one try.
const CANCEL: Duration = Duration::from_secs(3);

/// How a lock is to be had.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// Time to live: how long the lock stays with a client that is gone. Renewed while the client holds it. Default 10 s.
    pub ttl: Duration,
    /// How long to wait where another has it; zero: not at all. Default zero.
    pub wait: Duration,
    /// Larger is served first. Default 0.
    pub priority: u8,
    /// Stops the wait when it is stopped.
    pub cancel: StopToken,
}

impl Default for Acquire {
    fn default() -> Self {
        Acquire {
            ttl: Duration::from_secs(10),
            wait: Duration::ZERO,
            priority: 0,
            cancel: StopToken::new(),
        }
    }
}

/// Why a command about locks has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// K9, K4. It changed nothing.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The cluster did not answer in time. Of *unknown* it may have taken effect.
    #[error("{0}")]
    Cluster(#[from] ProposeError),
    /// The state could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The state machine of the cluster has no locks, or is of another build.
    #[error("the cluster's answer is none about locks; is its application inside of `Locked`?")]
    NoAnswer,
}

/// Why a lock was not acquired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// Another holds it, and waiting was not asked for.
    #[error("the lock is held with token {token}, for {left:?} yet unless it is renewed")]
    Busy {
        /// The other's token.
        token: u64,
        /// How long it has.
        left: Duration,
    },
    /// It did not become free in time.
    #[error("the lock did not become free in time")]
    TimedOut,
    /// The wait was stopped.
    #[error("the wait for the lock was stopped")]
    Cancelled,
    /// The claim was ended meanwhile.
    #[error("the claim ended: {0}")]
    Ended(How),
    /// It did not become free in time, or the wait was stopped, and another attempt with the same id keeps the claim, or did until its node was lost: then
    /// nobody asks for it any more, and it ends within [`LEASE`], or with its time to live if it is granted by then.
    #[error(
        "the outcome is not known: the wait is over, but the claim is kept by another attempt with its id; ask again, or cancel it"
    )]
    Kept,
    /// See there. After *unknown* the claim may wait, or hold the lock until its time to live is over.
    #[error("{0}")]
    Lock(#[from] LockError),
}

/// A grant, as its client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The token.
    pub token: u64,
    /// Place in the order of coming; 0 where it was not learnt.
    pub ticket: u64,
    /// How long it is left, counted from `asked`.
    pub left: Duration,
    /// By the boot clock in microseconds, before the command left that was answered with this.
    pub asked: u64,
}

struct Bell(Sender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // Full: it rings already.
        let _ = self.0.try_send(());
    }
}

/// What is held: shared by its holder and who renews it.
#[derive(Debug)]
struct Grip {
    name: Bytes,
    id: Bytes,
    token: u64,
    ticket: u64,
    ttl: u64,
    /// By the boot clock. SV1.
    until: AtomicU64,
    lost: StopToken,
}

impl Grip {
    fn left(&self) -> u64 {
        // Relaxed: a number of its own.
        self.until
            .load(Ordering::Relaxed)
            .saturating_sub(boot_micros())
    }

    /// Gives the signal (SV8). Not under a mutex: callbacks run.
    fn lose(&self) {
        let signal = AssertUnwindSafe(|| self.lost.stop());
        if catch_unwind(signal).is_err() {
            let name = String::from_utf8_lossy(&self.name);
            tracing::error!(%name, token = self.token, "what was to be called when a lock is lost panicked");
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    /// By token: the grip and when it is to be renewed.
    grips: BTreeMap<u64, (Arc<Grip>, u64)>,
    /// Nobody renews any more.
    closed: bool,
}

struct Inner {
    handle: NodeHandle,
    view: LockView,
    kept: Mutex<Kept>,
    bell: Sender<()>,
    stop: StopToken,
}

/// The locks of a cluster, for the clients of one node. See the module.
#[derive(Clone)]
pub struct LockService {
    inner: Arc<Inner>,
    workers: Arc<Workers>,
}

impl std::fmt::Debug for LockService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LockService")
            .field(&self.inner.handle)
            .finish()
    }
}

/// Never twice: request ids are used once (K4).
fn fresh_id() -> Bytes {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let random = RandomState::new();
    let a = random.hash_one((count, boot_micros()));
    let b = random.hash_one((a, std::process::id(), Instant::now()));
    Bytes::from(format!("{a:016x}{b:016x}"))
}

impl LockService {
    /// On a node whose application is inside [`super::Locked`]. One for a node suffices; each node that may lead needs one, or its locks do not
    /// expire in a cluster where nobody writes.
    pub fn start(handle: NodeHandle, view: LockView) -> Result<LockService, StartError> {
        let (bell, rung) = bounded(1);
        let stop = StopToken::new();
        let inner = Arc::new(Inner {
            handle,
            view,
            kept: Mutex::default(),
            bell,
            stop: stop.clone(),
        });
        let rings = inner.bell.clone();
        stop.on_stop(move || {
            let _ = rings.try_send(());
        });
        let workers = Workers::new(stop);
        let failed = |e: std::io::Error| StartError::System {
            doing: "starting a thread",
            why: e.to_string(),
        };
        let timed = inner.clone();
        workers
            .spawn("esker-lock-time", move |stop| move_time(&timed, &stop))
            .map_err(failed)?;
        let keeper = inner.clone();
        workers
            .spawn("esker-lock-keep", move |stop| keep(&keeper, &rung, &stop))
            .map_err(failed)?;
        Ok(LockService {
            inner,
            workers: Arc::new(workers),
        })
    }

    /// Ends the threads. What is held is not renewed any more and counts as lost. A second time it does nothing.
    pub fn close(&self) {
        if let Err(panic) = self.workers.join() {
            tracing::error!(%panic, "a thread of the locks panicked");
        }
    }

    /// The locks as of what this node has applied.
    #[must_use]
    pub fn view(&self) -> &LockView {
        &self.inner.view
    }

    /// Carries out a command of locks; it is tried again until `timeout` (SV2).
    pub fn ask(&self, command: &LockCommand, timeout: Duration) -> Result<LockAnswer, LockError> {
        let end = after(timeout);
        self.inner.ask(command, end, &|| false).map(|(a, _)| a)
    }

    /// Acquires a lock, and keeps it until it is dropped or lost.
    pub fn acquire(&self, name: impl Into<Bytes>, how: &Acquire) -> Result<Held, AcquireError> {
        let (name, id) = (name.into(), fresh_id());
        let cancelled = || how.cancel.is_stopped() || self.inner.stop.is_stopped();
        let (ttl, wait) = (how.ttl, how.wait);
        let claimed = self.attempt(&name, &id, ttl, wait, how.priority, 0, &cancelled);
        let grant = claimed.map_err(|error| match error {
            AcquireError::Cancelled | AcquireError::TimedOut => {
                let (name, id) = (name.clone(), id.clone());
                self.end(error, &LockCommand::Cancel { name, id })
            }
            // It may wait, or hold the lock.
            AcquireError::Lock(LockError::Cluster(_)) => {
                self.cancel_soon(&name, &id);
                error
            }
            error => error,
        })?;
        let grip = Arc::new(Grip {
            name,
            id,
            token: grant.token,
            ticket: grant.ticket,
            ttl: micros(ttl),
            until: (grant.asked + counted(micros(grant.left))).into(),
            lost: StopToken::new(),
        });
        let first = grant.asked + micros(grant.left) / 3;
        let mut kept = self.inner.kept.lock();
        if kept.closed {
            // Nobody would renew it, nor say when it is lost.
            drop(kept);
            self.cancel_soon(&grip.name, &grip.id);
            return Err(AcquireError::Cancelled);
        }
        kept.grips.insert(grant.token, (grip.clone(), first));
        drop(kept);
        self.inner.ring();
        Ok(Held {
            grip,
            inner: self.inner.clone(),
        })
    }

    /// A claim with an id of the caller's choice, once: until it holds the lock, or the wait is over, or `gone` says so; then this attempt leaves it
    /// (SV5). Nobody renews it but the caller. For those who hold locks in another's name.
    pub fn claim(
        &self,
        name: &Bytes,
        id: &Bytes,
        ttl: Duration,
        wait: Duration,
        priority: u8,
        gone: &dyn Fn() -> bool,
    ) -> Result<Grant, AcquireError> {
        // One that does not wait never leaves.
        let attempt = match wait.is_zero() {
            true => 0,
            false => RandomState::new().hash_one(boot_micros()).max(1),
        };
        let claimed = self.attempt(name, id, ttl, wait, priority, attempt, gone);
        claimed.map_err(|error| match error {
            AcquireError::Cancelled | AcquireError::TimedOut if attempt > 0 => {
                let leave = LockCommand::Leave {
                    name: name.clone(),
                    id: id.clone(),
                    attempt,
                };
                self.end(error, &leave)
            }
            error => error,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "a claim has that many parts")]
    fn attempt(
        &self,
        name: &Bytes,
        id: &Bytes,
        ttl: Duration,
        wait: Duration,
        priority: u8,
        attempt: u64,
        gone: &dyn Fn() -> bool,
    ) -> Result<Grant, AcquireError> {
        let inner = &self.inner;
        if wait > TTL_MAX {
            return Err(LockError::Refused(Refusal::Wait).into());
        }
        let waits = !wait.is_zero();
        let end = Instant::now() + wait;
        let mut events = waits.then(|| inner.about(name, id));
        let command = LockCommand::Acquire {
            name: name.clone(),
            id: id.clone(),
            ttl: micros(ttl),
            wait: if waits {
                micros(LEASE.min(wait.max(TRY)))
            } else {
                0
            },
            priority,
            attempt,
        };
        let mut mine = 0;
        loop {
            // A try takes a while however little of the wait is left: there may be no leader just now.
            let least = if mine == 0 { 2 * TRY } else { TRY };
            let patience = end.max(Instant::now() + least);
            let (answer, asked) = match inner.ask(&command, patience, gone) {
                Ok(answered) => answered,
                Err(_) if gone() => return Err(AcquireError::Cancelled),
                // It waits, or did; leaving it says what has become of it.
                Err(LockError::Cluster(_)) if mine > 0 && inner.handle.down().is_none() => {
                    return Err(AcquireError::TimedOut);
                }
                // This node is down: the claim stands in the queue all the same, and may be granted.
                Err(LockError::Cluster(ProposeError::NotAppended { why, leader })) if mine > 0 => {
                    return Err(LockError::Cluster(ProposeError::Unknown { why, leader }).into());
                }
                Err(error) => return Err(error.into()),
            };
            match answer {
                LockAnswer::Acquired {
                    token,
                    ticket,
                    left,
                } => {
                    return Ok(Grant {
                        token,
                        ticket,
                        left: Duration::from_micros(left),
                        asked,
                    });
                }
                LockAnswer::Busy { token, left } => {
                    let left = Duration::from_micros(left);
                    return Err(AcquireError::Busy { token, left });
                }
                LockAnswer::Refused(Refusal::Ended { how, .. }) if mine > 0 => {
                    // The cluster's wait may be over before this try comes.
                    let over = how == How::WaitedTooLong && Instant::now() >= end;
                    return Err(match over {
                        true => AcquireError::TimedOut,
                        false => AcquireError::Ended(how),
                    });
                }
                LockAnswer::Refused(refusal) => {
                    return Err(AcquireError::Lock(refusal.into()));
                }
                LockAnswer::Queued { ticket, .. } => mine = ticket,
                _ => return Err(AcquireError::Lock(LockError::NoAnswer)),
            }
            let Some(events) = &mut events else {
                return Err(AcquireError::Lock(LockError::NoAnswer));
            };
            let again = (Instant::now() + ASK_AGAIN).min(end);
            match wait_for(events, again, gone) {
                // The answer to a further try says what there is, and counts from now.
                Waited::Something | Waited::Time if Instant::now() < end => {}
                Waited::Gone => return Err(AcquireError::Cancelled),
                _ => return Err(AcquireError::TimedOut),
            }
        }
    }

    /// Ends a claim that is not wanted any more, or this attempt's part in it: `why` that is, or that it may not be out (SV6).
    fn end(&self, why: AcquireError, command: &LockCommand) -> AcquireError {
        match self.ask(command, CANCEL) {
            Ok(LockAnswer::Cancelled(Cancelled::Kept)) => AcquireError::Kept,
            Ok(_) => why,
            Err(LockError::Cluster(ProposeError::NotAppended { why, leader })) => {
                LockError::Cluster(ProposeError::Unknown { why, leader }).into()
            }
            Err(error) => error.into(),
        }
    }

    /// Ends a claim, whatever it is, without waiting for it.
    fn cancel_soon(&self, name: &Bytes, id: &Bytes) {
        let (name, id) = (name.clone(), id.clone());
        drop(self.inner.submit(&LockCommand::Cancel { name, id }, TRY));
    }

    /// Renews a grant; what is left of it now, or `None` where it is lost.
    pub fn renew(
        &self,
        name: impl Into<Bytes>,
        token: u64,
        ttl: Option<Duration>,
        timeout: Duration,
    ) -> Result<Option<Duration>, LockError> {
        let ttl = ttl.map_or(0, |ttl| micros(ttl).max(1));
        let command = LockCommand::Renew(vec![(name.into(), token, ttl)]);
        match self.ask(&command, timeout)? {
            LockAnswer::Renewed(lefts) => {
                let left = lefts.first().copied().unwrap_or(0);
                Ok((left > 0).then(|| Duration::from_micros(left)))
            }
            LockAnswer::Refused(refusal) => Err(refusal.into()),
            _ => Err(LockError::NoAnswer),
        }
    }

    /// Takes a lock from its holder, who is told so. `token` is the grant that is meant, as shown by an inspection; 0: the one that there is now. Whether
    /// it was held so.
    pub fn force_release(
        &self,
        name: impl Into<Bytes>,
        token: u64,
        timeout: Duration,
    ) -> Result<bool, LockError> {
        let name = name.into();
        // Not *whoever* in the command: tried again it would take the lock from the next.
        let token = match token {
            0 => (self.inspect(&name, timeout)?).map_or(0, |(lock, _)| lock.token),
            token => token,
        };
        let command = LockCommand::Release {
            name,
            token,
            forced: true,
        };
        match self.ask(&command, timeout)? {
            LockAnswer::Released(was) => Ok(was),
            LockAnswer::Refused(refusal) => Err(refusal.into()),
            _ => Err(LockError::NoAnswer),
        }
    }

    /// A lock and who waits for it, linearizable; `None`: nobody holds it.
    pub fn inspect(
        &self,
        name: &[u8],
        timeout: Duration,
    ) -> Result<Option<(LockInfo, Vec<WaiterInfo>)>, LockError> {
        self.barrier(timeout)?;
        Ok(self.inner.view.inspect(name))
    }

    /// Locks behind `after` (empty: from the first) in the order of their names, linearizable.
    pub fn list(
        &self,
        after: &[u8],
        limit: usize,
        timeout: Duration,
    ) -> Result<Vec<LockInfo>, LockError> {
        self.barrier(timeout)?;
        Ok(self.inner.view.list(after, limit))
    }

    /// What is read behind it is linearizable. Tried again until `timeout`: there may be no leader just now, or one that is gone was asked.
    fn barrier(&self, timeout: Duration) -> Result<(), ReadError> {
        let handle = &self.inner.handle;
        let end = after(timeout);
        let mut pause = Duration::from_millis(5);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let error = match handle.read_barrier(left.min(TRY)) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let over = Instant::now() + pause >= end;
            if over || matches!(error, ReadError::Down(_)) {
                return Err(error);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

enum Waited {
    Something,
    Time,
    Gone,
}

fn wait_for(
    events: &mut Subscription<LockEvent>,
    until: Instant,
    gone: &dyn Fn() -> bool,
) -> Waited {
    loop {
        if gone() {
            return Waited::Gone;
        }
        let now = Instant::now();
        match events.next(Some(until.min(now + LOOK))) {
            Received::Nothing if Instant::now() >= until => return Waited::Time,
            Received::Nothing => {}
            Received::Closed => return Waited::Gone,
            // It is what was just asked for.
            Received::Event(LockEvent::Queued { .. }) => {}
            _ => return Waited::Something,
        }
    }
}

impl Inner {
    fn ring(&self) {
        let _ = self.bell.try_send(());
    }

    /// What happens to one claim.
    fn about(&self, name: &Bytes, id: &Bytes) -> Subscription<LockEvent> {
        let (lock, claim) = (name.clone(), id.clone());
        self.view.watch_if(4, move |event| match event {
            LockEvent::Granted { name, id, .. } | LockEvent::Ended { name, id, .. } => {
                *id == claim && *name == lock
            }
            LockEvent::Queued { .. } => false,
            LockEvent::Replaced => true,
        })
    }

    fn submit(&self, command: &LockCommand, timeout: Duration) -> PendingReply {
        self.handle.submit(Proposal {
            forward: true,
            timeout: Some(timeout),
            ..Proposal::new(command.encode())
        })
    }

    /// SV2. The answer, and when the try left that got it.
    fn ask(
        &self,
        command: &LockCommand,
        end: Instant,
        gone: &dyn Fn() -> bool,
    ) -> Result<(LockAnswer, u64), LockError> {
        // The state machine refuses them too; the log needs not carry them there.
        command.check_names()?;
        let mut pause = Duration::from_millis(2);
        // What an earlier try ended with that may have taken effect.
        let mut unknown = None;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let asked = boot_micros();
            match self.submit(command, left.min(TRY)).wait() {
                Ok(reply) => {
                    let answer = LockAnswer::decode(reply.payload);
                    let answer = answer.map_err(|_| LockError::NoAnswer)?;
                    return match unknown {
                        Some(error) if overlooks_a_try(command, &answer) => {
                            Err(LockError::Cluster(error))
                        }
                        _ => Ok((answer, asked)),
                    };
                }
                Err(error @ (ProposeError::NotAppended { .. } | ProposeError::Unknown { .. })) => {
                    if matches!(error, ProposeError::Unknown { .. }) {
                        unknown = Some(error.clone());
                    }
                    let over = Instant::now() + pause >= end;
                    if over || gone() || self.handle.down().is_some() {
                        return Err(LockError::Cluster(match error {
                            // An earlier try may have taken effect.
                            ProposeError::NotAppended { why, leader } if unknown.is_some() => {
                                ProposeError::Unknown { why, leader }
                            }
                            error => error,
                        }));
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(100));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// SV7: an answer that may be otherwise because of an earlier try, or be no longer true when that one comes.
fn overlooks_a_try(command: &LockCommand, answer: &LockAnswer) -> bool {
    matches!(
        (command, answer),
        (LockCommand::Release { .. }, LockAnswer::Released(false))
            | (
                LockCommand::Cancel { .. },
                LockAnswer::Cancelled(Cancelled::Ended)
            )
            | (LockCommand::Acquire { .. }, LockAnswer::Busy { .. })
            | (
                LockCommand::Acquire { .. },
                LockAnswer::Refused(
                    Refusal::TooManyLocks | Refusal::TooManyWaiters | Refusal::TooManyWaiting
                )
            )
    )
}

/// A lock that is held. It is renewed until it is dropped, which releases it without waiting for that.
pub struct Held {
    grip: Arc<Grip>,
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("name", &self.grip.name)
            .field("token", &self.grip.token)
            .finish_non_exhaustive()
    }
}

impl Held {
    /// The fencing token (K2).
    #[must_use]
    pub fn token(&self) -> u64 {
        self.grip.token
    }

    /// The lock's name.
    #[must_use]
    pub fn name(&self) -> &Bytes {
        &self.grip.name
    }

    /// The claim's request id.
    #[must_use]
    pub fn id(&self) -> &Bytes {
        &self.grip.id
    }

    /// The claim's place in the order of coming.
    #[must_use]
    pub fn ticket(&self) -> u64 {
        self.grip.ticket
    }

    /// For [`super::guarded`]: commands that take effect only while this is held.
    #[must_use]
    pub fn guard(&self) -> Guard {
        Guard {
            name: self.grip.name.clone(),
            token: self.grip.token,
        }
    }

    /// Whether it is still held, by this clock (K7).
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.grip.lost.is_stopped() && self.grip.left() > 0
    }

    /// How long that is certain without a renewal.
    #[must_use]
    pub fn left(&self) -> Duration {
        match self.grip.lost.is_stopped() {
            true => Duration::ZERO,
            false => Duration::from_micros(self.grip.left()),
        }
    }

    /// Stopped when the lock is lost: the work that it protects is to end. Also when it is released. What is called then must not wait: the thread that calls
    /// it renews all locks of this node. A panic there is logged and goes no further.
    #[must_use]
    pub fn lost(&self) -> &StopToken {
        &self.grip.lost
    }

    /// Gives it back and waits for that. False: it was lost before. *Unknown*: it is not held any more, and which of the two is not known.
    pub fn release(self, timeout: Duration) -> Result<bool, LockError> {
        let end = after(timeout);
        self.forget();
        let (answer, _) = self.inner.ask(&self.returning(), end, &|| false)?;
        match answer {
            LockAnswer::Released(was) => Ok(was),
            _ => Err(LockError::NoAnswer),
        }
    }

    fn returning(&self) -> LockCommand {
        LockCommand::Release {
            name: self.grip.name.clone(),
            token: self.grip.token,
            forced: false,
        }
    }

    /// It is renewed no more. False the second time.
    fn forget(&self) -> bool {
        let kept = self.inner.kept.lock().grips.remove(&self.grip.token);
        self.grip.lose();
        kept.is_some()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.forget() {
            drop(self.inner.submit(&self.returning(), TRY));
        }
    }
}

/// K5: on the leader, deadlines pass also where nobody writes.
fn move_time(inner: &Inner, stop: &StopToken) {
    while !stop.sleep(TIME_TICK) {
        let Some(term) = inner.handle.leads() else {
            continue;
        };
        if inner.view.wants_time(term) {
            // A command that changes nothing carries time, and does not hold up a stop.
            let command = LockCommand::Renew(Vec::new()).encode();
            let pending = inner.handle.submit(Proposal {
                timeout: Some(MOVE),
                ..Proposal::new(command)
            });
            if let Err(error) = pending.wait() {
                tracing::debug!(%error, "replicated time was not moved");
            }
        }
    }
}

/// A renewal on its way.
struct Renewal {
    pending: PendingReply,
    asked: u64,
    tokens: Vec<u64>,
}

/// Renews what is held, and tells when it is lost.
fn keep(inner: &Arc<Inner>, rung: &Receiver<()>, stop: &StopToken) {
    let waker = Waker::from(Arc::new(Bell(inner.bell.clone())));
    let mut renewal: Option<Renewal> = None;
    let _ends = Ends(inner);
    while !stop.is_stopped() {
        if let Some(mut under_way) = renewal.take() {
            match Pin::new(&mut under_way.pending).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(outcome) => renewed(inner, &under_way, outcome),
                // Given to a state machine that stands still. Another node may lead by now, and answer the next.
                Poll::Pending if under_way.pending.is_overdue() => {
                    let why = "it was not answered in time".into();
                    let unknown = ProposeError::Unknown { why, leader: None };
                    renewed(inner, &under_way, Err(unknown));
                }
                Poll::Pending => renewal = Some(under_way),
            }
        }
        let now = boot_micros();
        let mut next = now + micros(Duration::from_secs(1));
        let mut lost = Vec::new();
        let mut due = Vec::new();
        // Of all: those that come due meanwhile wait for the answer too.
        let mut shortest = u64::MAX;
        {
            let mut kept = inner.kept.lock();
            kept.grips.retain(|_, (grip, at)| {
                if grip.left() == 0 {
                    lost.push(grip.clone());
                    return false;
                }
                shortest = shortest.min(grip.ttl);
                next = next.min(grip.until.load(Ordering::Relaxed));
                if renewal.is_none() {
                    match *at <= now && due.len() < MANY_MAX {
                        true => due.push(grip.clone()),
                        false => next = next.min(*at),
                    }
                }
                true
            });
        }
        for grip in lost {
            grip.lose();
        }
        if !due.is_empty() {
            let timeout = Duration::from_micros(shortest / 4).clamp(Duration::from_millis(20), TRY);
            let locks = due.iter().map(|grip| (grip.name.clone(), grip.token, 0));
            let asked = boot_micros();
            let command = LockCommand::Renew(locks.collect());
            renewal = Some(Renewal {
                pending: inner.submit(&command, timeout),
                asked,
                tokens: due.iter().map(|grip| grip.token).collect(),
            });
            // It may have been answered already.
            inner.ring();
        }
        let wait = Duration::from_micros(next.saturating_sub(boot_micros()));
        match rung.recv_timeout(wait) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
}

/// SV8: nobody renews behind it.
struct Ends<'a>(&'a Inner);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let grips = {
            let mut kept = self.0.kept.lock();
            kept.closed = true;
            std::mem::take(&mut kept.grips)
        };
        for (grip, _) in grips.into_values() {
            grip.lose();
        }
    }
}

fn renewed(inner: &Inner, renewal: &Renewal, outcome: crate::runtime::Outcome) {
    let answer = outcome.map(|reply| LockAnswer::decode(reply.payload));
    let lefts = match answer {
        Ok(Ok(LockAnswer::Renewed(lefts))) if lefts.len() == renewal.tokens.len() => Some(lefts),
        _ => None,
    };
    let mut lost = Vec::new();
    {
        let mut kept = inner.kept.lock();
        for (at, token) in renewal.tokens.iter().enumerate() {
            let Some((grip, due)) = kept.grips.get_mut(token) else {
                continue;
            };
            match lefts.as_ref().map(|lefts| lefts[at]) {
                Some(0) => {
                    lost.push(grip.clone());
                    kept.grips.remove(token);
                }
                Some(left) => {
                    (grip.until).store(renewal.asked + counted(left), Ordering::Relaxed);
                    *due = renewal.asked + left / 3;
                }
                // Soon again.
                None => *due = boot_micros() + (grip.ttl / 32).clamp(1_000, 100_000),
            }
        }
    }
    for grip in lost {
        grip.lose();
    }
}
