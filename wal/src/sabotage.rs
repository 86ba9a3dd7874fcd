//! Deliberately broken builds (feature `sabotage`): the randomised tests must catch each of them.
//!
//! A switch is on for the current thread only. A stepped log does all its work in its caller's thread,
//! so the tests beside it are not touched. Without the feature every question is a constant `false`.

/// A step left out, or done wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A group's sync does nothing and succeeds.
    NoMsync,
    /// No directory is synced.
    NoDirSync,
    /// After an unclean end appends go on behind the last intact frame, over the torn tail.
    TailNotCut,
    /// A frame's mark calls everything before it synced.
    MarkTooHigh,
    /// An unclean open for writing goes on in the old epoch.
    EpochNotOpened,
    /// What recovery keeps above the last mark is synced only, not written again.
    TailNotRewritten,
    /// A failed sync is tried again.
    FailedSyncRetried,
    /// A frame is published when it is reserved.
    PublishedBeforeCopy,
    /// The word behind a reservation keeps what was there.
    StaleWordKept,
    /// A clean mark is not taken back at open.
    CleanMarkKept,
    /// Slots hold nothing back.
    SlotsIgnored,
    /// Readers hold nothing back.
    PinIgnored,
    /// A segment goes before the slots that let it go are written.
    SlotsNotWritten,
    /// A released segment goes before the next knows the chain hash at its base.
    ChainNotKept,
    /// A small file is renamed into place before it is synced.
    SpareNotSynced,
    /// A recycled file keeps its old header and marks.
    HeadKept,
    /// An epoch's control frame is not synced before the epoch is said to have begun.
    ControlNotSynced,
    /// A file with a hole is recycled.
    HoleForgotten,
    /// A rewind does not copy aside what it cuts.
    CutNotCopied,
    /// What a rewind copies aside is not synced.
    CutNotSynced,
    /// Slots above the end stay there.
    SlotsNotClamped,
    /// A rewind leaves the history as it is.
    HistoryNotCut,
    /// A rewind's mark calls what it cut synced.
    RewindMarkTooHigh,
    /// The segment that a rewind begins is not synced.
    RewindNotSynced,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Sabotage; 24] = [
        Sabotage::NoMsync,
        Sabotage::NoDirSync,
        Sabotage::TailNotCut,
        Sabotage::MarkTooHigh,
        Sabotage::EpochNotOpened,
        Sabotage::TailNotRewritten,
        Sabotage::FailedSyncRetried,
        Sabotage::PublishedBeforeCopy,
        Sabotage::StaleWordKept,
        Sabotage::CleanMarkKept,
        Sabotage::SlotsIgnored,
        Sabotage::PinIgnored,
        Sabotage::SlotsNotWritten,
        Sabotage::ChainNotKept,
        Sabotage::SpareNotSynced,
        Sabotage::HeadKept,
        Sabotage::ControlNotSynced,
        Sabotage::HoleForgotten,
        Sabotage::CutNotCopied,
        Sabotage::CutNotSynced,
        Sabotage::SlotsNotClamped,
        Sabotage::HistoryNotCut,
        Sabotage::RewindMarkTooHigh,
        Sabotage::RewindNotSynced,
    ];
}

#[cfg(feature = "sabotage")]
mod switch {
    use super::Sabotage;
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    /// Breaks the logs of this thread, or heals them.
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
