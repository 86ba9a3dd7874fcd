//! Room for writes: when writers go slower, when they stop, who waits, and why background work failed.
//!
//! - P1: pressure grows from 0 to 1 between the soft and the hard bounds: how full the memtables are all together, and how
//!   many tables stand in L0. Under pressure writes are let through at a rate that falls smoothly towards
//!   [`RATE_MIN`]; at the hard bounds they stop.
//! - P2: a writer waits here before it has an LSN, never after.
//! - P3: who got `Busy` is told by its watcher when to try again: when a flush or compaction made room, when its time has
//!   come under the reduced rate, and when the store failed or closes.
//! - P4: a failure that heals (no space) refuses writes only where they would have to stop; another refuses them at
//!   once. Reads go on (L6).

use super::{Failure, Inner};
use crate::StoreError;
use esker_wal::{WatchGuard, Watcher};
use parking_lot::{Condvar, Mutex};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes per second under the least and under full pressure.
const RATE_MAX: f64 = 512e6;
const RATE_MIN: f64 = 512e3;
/// Time that a writer may be ahead of its rate before it is held: short waits are not worth a sleep.
const SLACK: Duration = Duration::from_millis(2);
/// Share of the memtables' bound from which writers go slower.
const SOFT_FILL: f64 = 0.7;

const FINE: u8 = 0;
const HEALS: u8 = 1;
const FATAL: u8 = 2;

pub(crate) struct Room {
    /// `FINE`, `HEALS`, `FATAL`.
    health: AtomicU8,
    closing: AtomicBool,
    stalls: AtomicU64,
    /// Clock, in ns, at which all writes let through so far would have passed at the reduced rate.
    paid_until: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    failure: Option<Failure>,
    watchers: Vec<(u64, Watcher)>,
    next_id: u64,
    /// Somebody got `Busy` since the watchers were called last.
    wanted: bool,
    /// Grows with each change that may have made room.
    turn: u64,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room")
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}

/// Keeps a watcher of [`crate::Store::watch_room`] registered; dropped, it is called no more.
pub struct RoomGuard {
    id: u64,
    inner: std::sync::Weak<Room>,
    _of_log: Option<WatchGuard>,
}

impl fmt::Debug for RoomGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoomGuard")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Drop for RoomGuard {
    fn drop(&mut self) {
        if let Some(room) = self.inner.upgrade() {
            room.state.lock().watchers.retain(|(id, _)| *id != self.id);
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        Room {
            health: AtomicU8::new(FINE),
            closing: AtomicBool::new(false),
            stalls: AtomicU64::new(0),
            paid_until: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }
}

impl Room {
    pub(super) fn watch(
        self: &Arc<Self>,
        watcher: Watcher,
        of_log: Option<WatchGuard>,
    ) -> RoomGuard {
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.watchers.push((id, watcher));
        RoomGuard {
            id,
            inner: Arc::downgrade(self),
            _of_log: of_log,
        }
    }

    pub(super) fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.state.lock().failure.clone()
    }

    pub(super) fn is_fatal(&self) -> bool {
        self.health.load(Ordering::Acquire) == FATAL
    }

    /// Work in the background found no space.
    pub(super) fn is_full(&self) -> bool {
        self.health.load(Ordering::Acquire) == HEALS
    }

    /// Records a failure. The first that does not heal stays.
    pub(super) fn fail(&self, failure: Failure) {
        let mut state = self.state.lock();
        if state.failure.as_ref().is_none_or(|f| f.heals) {
            self.health
                .store(if failure.heals { HEALS } else { FATAL }, Ordering::Release);
            state.failure = Some(failure);
        }
        self.ring(state);
    }

    /// Background work went well again.
    pub(super) fn heal(&self) {
        if self.health.load(Ordering::Acquire) == HEALS {
            let mut state = self.state.lock();
            if state.failure.as_ref().is_some_and(|f| f.heals) {
                self.health.store(FINE, Ordering::Release);
                state.failure = None;
            }
        }
        self.made();
    }

    /// Something changed that may have made room.
    pub(super) fn made(&self) {
        self.ring(self.state.lock());
    }

    fn ring(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        state.turn += 1;
        state.wanted = false;
        let watchers: Vec<_> = state.watchers.iter().map(|(_, w)| w.clone()).collect();
        drop(state);
        self.changed.notify_all();
        for watcher in watchers {
            watcher();
        }
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.made();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Waits for a change after `turn`, at most `timeout`.
    fn wait(&self, turn: u64, timeout: Duration) {
        let mut state = self.state.lock();
        if state.turn == turn && !self.is_closing() {
            self.changed.wait_for(&mut state, timeout);
        }
    }

    fn turn(&self) -> u64 {
        self.state.lock().turn
    }
}

/// What a write of some bytes meets.
enum Verdict {
    Go,
    /// Under pressure: at the reduced rate its turn comes in this time.
    Later(Duration),
    /// At a hard bound.
    Stop,
}

impl Inner {
    pub(super) fn pressure(&self) -> Option<f64> {
        let mems = self.mem_count.load(Ordering::Relaxed);
        let l0 = self.l0_count.load(Ordering::Relaxed);
        let (_, slow, stop) = self.options.l0_tables;
        // Nearly always: one memtable, few tables.
        if mems == 1 && l0 <= slow {
            return None;
        }
        let max = self.options.memtables_max;
        let view = self.view.load();
        let bytes: usize = view.mems.iter().map(|m| m.bytes()).sum();
        let bound = self.options.memtable_bytes * (max + 1);
        let fill = bytes as f64 / bound as f64;
        // The active one is full and can't be swapped, whatever the others hold.
        let active = view.mems.first().map_or(0, |m| m.bytes());
        if (mems > max && active >= self.options.memtable_bytes) || fill >= 1.0 {
            return Some(1.0);
        }
        let by_memory = (fill - SOFT_FILL) / (1.0 - SOFT_FILL);
        let by_tables = l0.saturating_sub(slow) as f64 / (stop - slow) as f64;
        let pressure = by_memory.max(by_tables);
        (pressure > 0.0).then_some(pressure)
    }

    fn verdict(&self, bytes: usize, take: bool) -> Verdict {
        let Some(pressure) = self.pressure() else {
            return Verdict::Go;
        };
        if pressure >= 1.0 {
            return Verdict::Stop;
        }
        if self.stepped {
            // Nobody else works while this thread sleeps.
            return Verdict::Go;
        }
        let rate = RATE_MIN + (RATE_MAX - RATE_MIN) * (1.0 - pressure).powi(3);
        let now = self.options.log.clock.now().as_nanos() as u64;
        let paid = self.room.paid_until.load(Ordering::Relaxed);
        let ahead = Duration::from_nanos(paid.saturating_sub(now));
        if ahead > SLACK {
            return Verdict::Later(ahead - SLACK / 2);
        }
        if take {
            // Two writers may pay with one coin when they race here; the rate is a brake, not a bound.
            let cost = (bytes as f64 / rate * 1e9) as u64;
            self.room
                .paid_until
                .store(paid.max(now) + cost, Ordering::Relaxed);
        }
        Verdict::Go
    }

    /// Refuses where the store is closed or failed.
    pub(super) fn check_health(&self) -> Result<(), StoreError> {
        if self.room.is_closing() {
            return Err(StoreError::Closed);
        }
        if self.room.is_fatal()
            && let Some(failure) = self.room.failure()
        {
            return Err(failure.error());
        }
        Ok(())
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        match self.verdict(bytes, false) {
            Verdict::Go => true,
            // Not room, but an answer: the write fails at once and says why.
            _ if self.room.failure().is_some() || self.room.is_closing() => true,
            _ => {
                self.room.state.lock().wanted = true;
                self.wake_room_worker();
                false
            }
        }
    }

    /// Books room for a write of `bytes`: returns when it may go on (P2).
    pub(super) fn book(&self, bytes: usize, block: bool) -> Result<(), StoreError> {
        let mut stalled = false;
        loop {
            self.check_health()?;
            let turn = if stalled { self.room.turn() } else { 0 };
            let wait = match self.verdict(bytes, true) {
                Verdict::Go => return Ok(()),
                Verdict::Later(wait) => wait,
                Verdict::Stop => {
                    if let Some(failure) = self.room.failure() {
                        // Stepped, nobody else tries again.
                        if self.stepped && block && self.step() {
                            continue;
                        }
                        return Err(failure.error());
                    }
                    Duration::from_secs(3600)
                }
            };
            if !stalled {
                // Once more around with the turn known, so that no change is missed.
                stalled = true;
                self.room.stalls.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if !block {
                self.room.state.lock().wanted = true;
                self.wake_room_worker();
                return Err(StoreError::Busy);
            }
            if self.stepped {
                if !self.step() {
                    return Err(self.room.failure().map_or(StoreError::Busy, |f| f.error()));
                }
                continue;
            }
            self.wake_workers();
            self.room.wait(turn, wait);
        }
    }

    /// The room worker's turn: calls the watchers when the time of a write that got `Busy` has come. Gives the time until
    /// then; `None` when nobody waits for that.
    pub(super) fn room_turn(&self) -> Option<Duration> {
        if !self.room.state.lock().wanted {
            return None;
        }
        match self.verdict(0, false) {
            Verdict::Go => {
                self.room.made();
                None
            }
            Verdict::Later(wait) => Some(wait),
            // A flush or a compaction will ring.
            Verdict::Stop => None,
        }
    }
}
