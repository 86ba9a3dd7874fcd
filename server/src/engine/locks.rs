//! Striped key locks.
//!
//! - X1: each write of a key, blind ones too, holds its stripe from before its first read until its memtable
//!   insert is done; so a read under the lock sees the newest version.
//! - X2: several stripes are taken in rising order; whole-keyspace commands take all of them the same way.
//! - X3: no stripe is held across a sync or a wait for room.
//!
//! Lock order: stripes (rising), then the watch registry, then the clock's write lock
//! ([`super::Engine`]), then whatever the store takes.

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

/// Stripes. A power of two, and the bits of [`StripeSet`].
pub const STRIPES: usize = 256;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe(Mutex<()>);

/// All stripes.
#[derive(Debug)]
pub struct Stripes(Box<[Stripe]>);

impl Default for Stripes {
    fn default() -> Self {
        Stripes((0..STRIPES).map(|_| Stripe::default()).collect())
    }
}

/// The stripe of a (stored) key.
#[must_use]
#[inline]
pub fn stripe_of(key: &[u8]) -> usize {
    xxh3_64(key) as usize % STRIPES
}

/// A set of stripes to be taken together.
#[derive(Clone, Copy, Debug, Default)]
pub struct StripeSet([u64; STRIPES / 64]);

impl StripeSet {
    /// All of them.
    pub const ALL: StripeSet = StripeSet([u64::MAX; STRIPES / 64]);

    /// Adds the stripe of a stored key.
    pub fn add(&mut self, key: &[u8]) {
        let stripe = stripe_of(key);
        self.0[stripe / 64] |= 1 << (stripe % 64);
    }
}

/// Stripes that are held.
#[derive(Debug, Default)]
pub enum Held<'a> {
    /// None.
    #[default]
    None,
    /// One: the usual case.
    One(#[allow(dead_code, reason = "held for its drop")] MutexGuard<'a, ()>),
    /// Several.
    Many(#[allow(dead_code, reason = "held for its drop")] SmallVec<[MutexGuard<'a, ()>; 8]>),
}

impl Stripes {
    /// Takes the stripe of a stored key.
    #[must_use]
    #[inline]
    pub fn one(&self, key: &[u8]) -> Held<'_> {
        Held::One(self.0[stripe_of(key)].0.lock())
    }

    /// Takes a set, in rising order (X2).
    #[must_use]
    pub fn many(&self, set: &StripeSet) -> Held<'_> {
        let mut held = SmallVec::new();
        for (word, &bits) in set.0.iter().enumerate() {
            let mut bits = bits;
            while bits != 0 {
                let stripe = word * 64 + bits.trailing_zeros() as usize;
                held.push(self.0[stripe].0.lock());
                bits &= bits - 1;
            }
        }
        Held::Many(held)
    }

    /// Takes all.
    #[must_use]
    pub fn all(&self) -> Held<'_> {
        self.many(&StripeSet::ALL)
    }
}
