//! Deliberately broken builds (feature `sabotage`): the randomised tests must catch each of them.
//!
//! A switch is on for the current thread only; stepped workers run in it, so tests beside it are not touched.
//! Without the feature every switch is a constant `false`.
#![allow(missing_docs, reason = "the names say it")]

/// A step left out, or done wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(u32);

pub const TABLE_BEFORE_LOG: Switch = Switch(1);
pub const MANIFEST_NOT_SYNCED: Switch = Switch(2);
pub const TABLE_NOT_SYNCED: Switch = Switch(4);
pub const DIR_NOT_SYNCED: Switch = Switch(8);
pub const TOMBSTONE_DROPPED_EARLY: Switch = Switch(16);
pub const INPUTS_REMOVED_BEFORE_EDIT: Switch = Switch(32);
pub const FLUSHED_TOO_HIGH: Switch = Switch(64);
pub const SNAPSHOTS_IGNORED: Switch = Switch(128);
pub const CONDITION_NOT_RECHECKED: Switch = Switch(256);
pub const FOUND_COUNTS_AS_DURABLE: Switch = Switch(512);
pub const REMOVAL_NOT_SYNCED: Switch = Switch(1024);

#[cfg(feature = "sabotage")]
mod imp {
    use super::Switch;
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<u32> = const { Cell::new(0) };
    }

    /// Breaks this thread's stores until the guard is dropped.
    #[must_use]
    pub fn enable(switch: Switch) -> Guard {
        ON.set(ON.get() | switch.0);
        Guard(switch)
    }

    /// Keeps a switch on.
    #[derive(Debug)]
    pub struct Guard(Switch);

    impl Drop for Guard {
        fn drop(&mut self) {
            ON.set(ON.get() & !self.0.0);
        }
    }

    pub(crate) fn on(switch: Switch) -> bool {
        ON.get() & switch.0 != 0
    }
}

#[cfg(feature = "sabotage")]
pub(crate) use imp::on;
#[cfg(feature = "sabotage")]
pub use imp::{Guard, enable};

#[cfg(not(feature = "sabotage"))]
#[inline]
pub(crate) const fn on(_switch: Switch) -> bool {
    false
}
