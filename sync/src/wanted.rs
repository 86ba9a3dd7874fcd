//! Whether who has brought something has to say so: who takes it may know that it will look again by itself.
//!
//! What is brought lies in a place of its own, a queue, say. Who takes from it and has better to do until something else happens
//! [declines](Wanted::decline): who brings something meanwhile puts it there and says nothing, so that nobody is woken for what is not taken. When that
//! something has happened the taker [accepts](Wanted::accept), and looks. In networking this is the suppression of notifications (Linux's NAPI, virtio).
//!
//! - WN1: what was in its place before [`Wanted::is`] answered no is seen by a look behind the next `accept`.
//! - WN2: a decline ends by itself at its time: who asks at that time or later is told yes.
//!
//! WN1 is Dekker's argument. Who brings something puts it in its place, fences, then asks; who takes accepts, fences, then looks. With a SeqCst fence on
//! both sides, at least one sees the other: either the answer is yes, or what was brought is found.

use crate::shim::atomic::{AtomicU64, Ordering, fence};

/// See the module. At first what is brought is wanted.
#[derive(Debug)]
pub struct Wanted {
    /// From this time on; zero: now.
    from: AtomicU64,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            from: AtomicU64::new(0),
        }
    }
}

impl Wanted {
    /// For who has put something in its place, at the time `now`: whether to say so.
    #[must_use]
    pub fn is(&self, now: u64) -> bool {
        fence(Ordering::SeqCst);
        now >= self.from.load(Ordering::Relaxed)
    }

    /// For who takes: nothing has to be said before the time `until`. Where something happens before that after which it would take, it
    /// [accepts](Wanted::accept).
    pub fn decline(&self, until: u64) {
        self.from.store(until, Ordering::Relaxed);
    }

    /// For who takes: everything is to be said again. It looks once more behind this.
    pub fn accept(&self) {
        self.from.store(0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;

    #[test]
    fn wn2_a_decline_ends_at_its_time() {
        let wanted = Wanted::default();
        assert!(wanted.is(0));
        wanted.decline(5);
        assert!(!wanted.is(4));
        assert!(wanted.is(5));
        wanted.accept();
        assert!(wanted.is(4));
    }
}
