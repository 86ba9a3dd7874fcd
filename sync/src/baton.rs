//! Work that has one owner at a time, and is done by whoever brings some.
//!
//! Who has put something in its place arrives; the first to arrive holds the baton and takes turns until everything is done that was brought
//! meanwhile. So what is brought to an idle owner is done at once by who brings it, without waking another thread; a busy owner takes it along.
//!
//! - BT1: one thread at a time holds the baton.
//! - BT2: what was put in place before an arrival is seen by a turn that begins after it: one of the holder's, or of who arrived.
//! - BT3: nobody waits.
//!
//! `arrivals` counts those that no turn has answered yet, and is changed by read-modify-writes alone. The first of a row finds zero (BT1). A turn
//! answers those that it counted before it began: what they brought was released by their addition and acquired by the count (BT2). Laying down
//! subtracts these; where more is left somebody came meanwhile, and did not get the baton, so its holder takes another turn. The
//! subtraction releases what the holder did to who finds zero next.

use crate::shim::atomic::{AtomicUsize, Ordering};

/// A baton. See the module.
#[derive(Debug)]
pub struct Baton {
    arrivals: AtomicUsize,
}

impl Default for Baton {
    fn default() -> Self {
        Baton {
            arrivals: AtomicUsize::new(0),
        }
    }
}

impl Baton {
    /// Something is in its place. True: the caller holds the baton now, and has to [take turns](Baton::run) or have it done.
    #[must_use]
    pub fn arrive(&self) -> bool {
        self.arrivals.fetch_add(1, Ordering::AcqRel) == 0
    }

    /// For who holds the baton: takes turns until nobody has arrived since the last one began, `turns_max` at most. A turn that says that it is to
    /// be taken again is. False where `turns_max` were not enough: the baton is still held.
    #[must_use]
    pub fn run(&self, turns_max: usize, mut turn: impl FnMut() -> bool) -> bool {
        for _ in 0..turns_max {
            let seen = self.arrivals.load(Ordering::Acquire);
            debug_assert!(seen > 0, "a turn without the baton");
            let again = turn();
            if !again && self.arrivals.fetch_sub(seen, Ordering::AcqRel) == seen {
                return true;
            }
        }
        false
    }
}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;

    #[test]
    fn bt1_who_arrives_second_leaves_a_turn_to_the_holder() {
        let baton = Baton::default();
        assert!(baton.arrive());
        assert!(!baton.arrive());
        let mut turns = 0;
        let laid_down = baton.run(10, || {
            turns += 1;
            // Somebody comes while the first turn is taken, and one turn has to be taken again.
            if turns == 1 {
                assert!(!baton.arrive());
            }
            turns == 2
        });
        assert_eq!((laid_down, turns), (true, 3));
        assert!(baton.arrive());
        assert!(!baton.run(2, || true));
        assert!(!baton.arrive());
        assert!(baton.run(1, || false));
    }
}
