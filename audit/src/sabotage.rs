//! Deliberately broken builds, which the randomised tests must catch (feature `sabotage`). Never for use.

/// A step left out or done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sabotage {
    /// A record is acknowledged without a sync (T1).
    NotSynced,
    /// A closed file gets its name, and the live log lets go, before it is synced (CL1).
    ClosedNotSynced,
    /// `HEAD` names what is not synced yet (HE2).
    HeadAhead,
    /// A closed file is removed before its tombstone is written (U2).
    TombstoneAfter,
    /// What was lost with a failed write or a crash is no gap (T2).
    GapForgotten,
    /// What a closed file holds already is not passed over (LI2).
    HeldTwice,
    /// A closed file says a wrong key comes next.
    NextKeyForgotten,
    /// Who waits for a sync waits in the group of a log that is no more (T4).
    GroupOutlivesLog,
    /// What a killed process left under a name is built on before the name is on the disk (O4).
    FoundNotSynced,
}

impl Sabotage {
    /// Those that one writer alone meets.
    pub const ALONE: [Sabotage; 8] = [
        Sabotage::NotSynced,
        Sabotage::ClosedNotSynced,
        Sabotage::HeadAhead,
        Sabotage::TombstoneAfter,
        Sabotage::GapForgotten,
        Sabotage::HeldTwice,
        Sabotage::NextKeyForgotten,
        Sabotage::FoundNotSynced,
    ];
}

#[cfg(feature = "sabotage")]
mod switch {
    use super::Sabotage;
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    /// Breaks the trails of this thread, or heals them.
    pub fn set(sabotage: Option<Sabotage>) {
        ON.set(sabotage);
    }

    pub(crate) fn on(sabotage: Sabotage) -> bool {
        ON.get() == Some(sabotage)
    }
}

#[cfg(feature = "sabotage")]
pub(crate) use switch::on;
#[cfg(feature = "sabotage")]
pub use switch::set;

/// Whether this step is to be broken.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub(crate) const fn on(_: Sabotage) -> bool {
    false
}
