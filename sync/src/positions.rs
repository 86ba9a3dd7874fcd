//! A position below which things are gone, and holds that keep it from rising.
//!
//! A log removes its oldest segments while readers read and slots (named consumers) stand somewhere in it. Each takes a
//! [`Hold`] at its position and moves it on as it goes; who removes raises the lowest position first, and removes only what has come
//! to lie below.
//!
//! - PO1: a hold that was given at a position keeps [`Positions::low`] at or below it until it is moved on or dropped.
//! - PO2: no hold is given below `low`: what is asked for there is gone, and the answer says so.
//! - PO3: `low` only rises.
//! - PO4: what a holder did before it moved on or let go is seen by who raises `low` beyond: it may use the place again.
//!
//! Holds are given, dropped and tested under one mutex, and `low` changes under it: giving comes before the test, which sees it
//! (PO1), or after the raise, which it sees (PO2). Moving on takes no lock, since it can only allow more: it is a store with release, which
//! the test loads with acquire (PO4).

use crate::shim::atomic::{AtomicU64, Ordering};
use crate::shim::{Arc, Mutex};

/// See the module. Clones are one.
#[derive(Clone, Debug)]
pub struct Positions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    low: AtomicU64,
    holds: Mutex<Holds>,
}

#[derive(Debug, Default)]
struct Holds {
    next: u64,
    list: Vec<(u64, Arc<AtomicU64>)>,
}

impl Holds {
    fn lowest(&self) -> u64 {
        let positions = self.list.iter().map(|(_, at)| at.load(Ordering::Acquire));
        positions.min().unwrap_or(u64::MAX)
    }
}

/// Keeps what is at and above its position. Dropped, it lets go.
#[derive(Debug)]
pub struct Hold {
    positions: Positions,
    id: u64,
    at: Arc<AtomicU64>,
}

impl Positions {
    /// Nothing below `low` is there, and nobody holds anything.
    #[must_use]
    pub fn new(low: u64) -> Positions {
        Positions(Arc::new(Inner {
            low: AtomicU64::new(low),
            holds: Mutex::new(Holds::default()),
        }))
    }

    /// The lowest position that is still there, for certain only to who holds it.
    #[must_use]
    pub fn low(&self) -> u64 {
        self.0.low.load(Ordering::Acquire)
    }

    /// The lowest position held, `u64::MAX` where nobody holds anything. Others may come and go at once.
    #[must_use]
    pub fn lowest_held(&self) -> u64 {
        self.0.holds.lock().lowest()
    }

    /// As [`Positions::lowest_held`], without those.
    #[must_use]
    pub fn lowest_held_besides<'a>(&self, these: impl Iterator<Item = &'a Hold>) -> u64 {
        let these: Vec<u64> = these.map(|hold| hold.id).collect();
        let holds = self.0.holds.lock();
        let others = holds.list.iter().filter(|(id, _)| !these.contains(id));
        let positions = others.map(|(_, at)| at.load(Ordering::Acquire));
        positions.min().unwrap_or(u64::MAX)
    }

    /// Holds `position` and what is above; the error is `low`, when it is gone (PO2).
    pub fn hold(&self, position: u64) -> Result<Hold, u64> {
        let at = Arc::new(AtomicU64::new(position));
        let mut holds = self.0.holds.lock();
        // Relaxed: it changes under the mutex.
        let low = self.0.low.load(Ordering::Relaxed);
        if position < low {
            return Err(low);
        }
        let id = holds.next;
        holds.next += 1;
        holds.list.push((id, at.clone()));
        Ok(Hold {
            positions: self.clone(),
            id,
            at,
        })
    }

    /// Raises `low` to `to` unless somebody holds a position below; whether what is below `to` may be removed now.
    #[must_use]
    pub fn raise(&self, to: u64) -> bool {
        let holds = self.0.holds.lock();
        if holds.lowest() < to {
            return false;
        }
        self.0.low.fetch_max(to, Ordering::Release);
        true
    }
}

impl Hold {
    /// The position held.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at.load(Ordering::Acquire)
    }

    /// Moves on to `to`; never back. What is below is not to be touched any more.
    pub fn advance(&mut self, to: u64) {
        // Relaxed: only its owner moves it.
        if to > self.at.load(Ordering::Relaxed) {
            self.at.store(to, Ordering::Release);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.positions
            .0
            .holds
            .lock()
            .list
            .retain(|(id, _)| *id != self.id);
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_low_position_rises_to_what_is_held_and_no_further() {
        let positions = Positions::new(8);
        assert_eq!(positions.hold(7).unwrap_err(), 8);
        let (mut a, b) = (positions.hold(8).unwrap(), positions.hold(32).unwrap());
        assert!(!positions.raise(16));
        assert_eq!((positions.low(), positions.lowest_held()), (8, 8));
        a.advance(16);
        a.advance(9);
        assert_eq!(a.position(), 16);
        assert!(positions.raise(16) && !positions.raise(24));
        assert_eq!(positions.lowest_held_besides([&a].into_iter()), 32);
        drop(a);
        assert!(positions.raise(32) && positions.raise(8));
        assert_eq!(positions.low(), 32);
        drop(b);
        assert_eq!(positions.lowest_held(), u64::MAX);
        assert_eq!(positions.hold(16).unwrap_err(), 32);
    }
}
