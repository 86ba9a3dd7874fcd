//! Deliberately broken builds, which the simulation must catch. Never for use.
//!
//! Without the feature `sabotage` every question is answered with no, at compile time.

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sabotage {
    /// A vote leaves before it is synced.
    VoteNotSynced,
    /// An append is acknowledged before it is synced.
    AppendedNotSynced,
    /// The leader counts itself up to its last entry, synced or not.
    LeaderCountsUnsynced,
    /// A quorum commits an entry of an older term.
    CommitsOlderTerm,
    /// A vote is given whatever the candidate's log.
    VoteIgnoresLog,
    /// A second vote is given in one term.
    VotesTwice,
    /// Votes of an older term count.
    VotesCarriedOver,
    /// A granted pre-vote counts as a vote.
    PreVoteCountsAsVote,
    /// The lease runs from the answer's arrival.
    LeaseFromReply,
    /// A read index is confirmed by nobody.
    ReadWithoutQuorum,
    /// Reads are answered before an entry of the leader's term is committed.
    ReadBeforeTermCommit,
    /// A joint membership decides by its new half alone.
    NewHalfDecides,
    /// A change begins while another is not committed, and is not joint.
    ChangesOverlap,
    /// Acknowledgements waiting for a sync outlive a change of term, and leave in the new one.
    HeldAcrossTerms,
    /// A conflict's hint counts as a match.
    HintCountsAsMatch,
    /// Entries that conflict are left in place.
    ConflictKept,
    /// A heartbeat names the leader's commit index, the follower's log matching or not.
    CommitBeyondMatch,
    /// A snapshot is acknowledged without resetting the log behind it.
    SnapshotKeepsLog,
    /// Damaged acknowledged entries do not keep a node from voting.
    DamagedVotes,
    /// A node that lost its vote and its term acknowledges what it is sent.
    VotelessAcknowledges,
    /// A node that lost entries commits by the leader's knowledge of what it had.
    DamagedCommits,
    /// A vote in the voter's own term is given though it hears from a leader.
    DisloyalInTerm,
    /// The lease outlives an order to transfer.
    LeaseAfterTransfer,
    /// Learners count in the quorum.
    LearnersCount,
    /// An acknowledgement of an older term counts.
    OlderTermCounts,
    /// A lone voter leads before its vote is synced.
    LeadsUnsynced,
    /// Who is no voter by its own log never campaigns, whoever needs its vote.
    OnlyVotersCampaign,
    /// Log storage: a sync does nothing and succeeds.
    LogNotSynced,
    /// Log storage: entries that supersede others are dropped, and the others kept.
    SuffixKept,
    /// Log storage: term and vote are not in the frames.
    HardStateForgotten,
    /// Log storage: everything below the newest frame is released at a compaction.
    CompactedTooFar,
    /// Log storage: a compaction releases the log without saying what it begins behind.
    BaseNotWritten,
    /// Log storage: what is damaged counts as a torn tail.
    DamageCut,
    /// Log storage: what is damaged is given up before its entries are back.
    DamageGivenUpEarly,
    /// Log storage: entries behind damage are put behind whatever is there.
    PrevNotChecked,
    /// State machine on the store: the entries of a commit are applied one by one.
    CommitSplit,
    /// State machine on the store: the name of the store is not synced before the one that it replaces goes.
    NameNotSynced,
    /// State machine on the store: files that arrive are believed.
    HashNotChecked,
    /// State machine on the store: what a killed process left under a name is built on before the name is on the disk.
    FoundNotSynced,
    /// State machine on the store: what an attempt before received counts as written.
    ArrivedNotRewritten,
    /// Locks: the last token is not kept.
    LockTokenReused,
    /// Locks: who waits is not kept.
    LockQueueForgotten,
    /// Locks: a new term gives nobody more time.
    LockGraceForgotten,
    /// Locks: a claim that has ended is not remembered.
    LockEndForgotten,
    /// Locks: who asks again goes to the end of the queue.
    LockQueueUnfair,
    /// Locks: a guard passes with any token.
    LockGuardUnchecked,
    /// Locks: what is kept is not taken up at a restart.
    LocksNotLoaded,
}

/// Those of the locks, which their tests must catch; the last one those on the store.
pub const LOCKS: &[Sabotage] = &[
    Sabotage::LockTokenReused,
    Sabotage::LockQueueForgotten,
    Sabotage::LockGraceForgotten,
    Sabotage::LockEndForgotten,
    Sabotage::LockQueueUnfair,
    Sabotage::LockGuardUnchecked,
    Sabotage::LocksNotLoaded,
];

/// Those of the state machine on the store, which `tests/lsm_machine` must catch.
pub const MACHINE: &[Sabotage] = &[
    Sabotage::CommitSplit,
    Sabotage::NameNotSynced,
    Sabotage::HashNotChecked,
    Sabotage::FoundNotSynced,
    Sabotage::ArrivedNotRewritten,
];

/// Those of log storage, which `tests/log_storage.rs` must catch.
pub const STORAGE: &[Sabotage] = &[
    Sabotage::LogNotSynced,
    Sabotage::SuffixKept,
    Sabotage::HardStateForgotten,
    Sabotage::CompactedTooFar,
    Sabotage::BaseNotWritten,
    Sabotage::DamageCut,
    Sabotage::DamageGivenUpEarly,
    Sabotage::PrevNotChecked,
];

/// All of them.
pub const ALL: &[Sabotage] = &[
    Sabotage::VoteNotSynced,
    Sabotage::AppendedNotSynced,
    Sabotage::LeaderCountsUnsynced,
    Sabotage::CommitsOlderTerm,
    Sabotage::VoteIgnoresLog,
    Sabotage::VotesTwice,
    Sabotage::VotesCarriedOver,
    Sabotage::PreVoteCountsAsVote,
    Sabotage::LeaseFromReply,
    Sabotage::ReadWithoutQuorum,
    Sabotage::ReadBeforeTermCommit,
    Sabotage::NewHalfDecides,
    Sabotage::ChangesOverlap,
    Sabotage::HeldAcrossTerms,
    Sabotage::HintCountsAsMatch,
    Sabotage::ConflictKept,
    Sabotage::CommitBeyondMatch,
    Sabotage::SnapshotKeepsLog,
    Sabotage::DamagedVotes,
    Sabotage::VotelessAcknowledges,
    Sabotage::DamagedCommits,
    Sabotage::DisloyalInTerm,
    Sabotage::LeaseAfterTransfer,
    Sabotage::LearnersCount,
    Sabotage::OlderTermCounts,
    Sabotage::LeadsUnsynced,
    Sabotage::OnlyVotersCampaign,
];

#[cfg(feature = "sabotage")]
mod switch {
    use super::Sabotage;
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    impl Sabotage {
        /// Breaks this thread's nodes in this way, and in no other, and the nodes that it starts with all their threads.
        pub fn set(sabotage: Option<Sabotage>) {
            NOW.set(sabotage);
        }
    }

    pub(crate) fn on(sabotage: Sabotage) -> bool {
        NOW.get() == Some(sabotage)
    }

    /// What does this work in another thread is broken as this thread is.
    pub(crate) fn handed_on<T>(
        work: impl FnOnce(T) + Send + 'static,
    ) -> impl FnOnce(T) + Send + 'static {
        let now = NOW.get();
        move |with| {
            NOW.set(now);
            work(with);
        }
    }
}

#[cfg(not(feature = "sabotage"))]
mod switch {
    use super::Sabotage;

    pub(crate) const fn on(_: Sabotage) -> bool {
        false
    }

    pub(crate) fn handed_on<T>(
        work: impl FnOnce(T) + Send + 'static,
    ) -> impl FnOnce(T) + Send + 'static {
        work
    }
}

pub(crate) use switch::{handed_on, on};
