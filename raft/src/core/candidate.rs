//! Elections (5.2, 5.4.1), with pre-votes (thesis 9.6) and stickiness (thesis 4.2.3).
//!
//! - EL1: one vote per term, synced before the answer leaves (RC1).
//! - EL2: no vote for a log that ends before one's own.
//! - EL3: no vote, and no campaign, by a node that lost entries it may have acknowledged, or its vote (C2).
//! - EL4: nobody's term grows unless a quorum would vote for it, so a node that comes back from a partition disturbs nobody.
//! - EL5: votes are counted in the campaign they were given in, and pre-votes are no votes.
//! - EL6: who campaigns, or has voted, gives the election its time from when that is synced and has been said: a disk that takes a timeout for two
//!   syncs would else let nobody win.
//! - EL7: who has the newest log of those whose votes are needed may campaign, a voter or not: a membership that is not committed may make it a voter
//!   in the log of one that needs its vote, and its own log does not say so. It refuses that vote (EL2), and would nobody else's; so it
//!   campaigns itself, as who is on its way out does (thesis 4.2.2). Its own vote counts for nothing (the membership in its log decides), and
//!   it leads until an entry of its term is committed (LE5), which takes its log to those that vote.
//! - EL8: nobody leads before its own vote is synced. Who has to ask others asks behind that sync (EL1); a lone voter asks nobody, and what it sent to a
//!   learner in a term that the power took would stand there under the names of what it appends in that term again.
//! - EL9: who heard from a leader within an election timeout votes for nobody whom that leader did not order to campaign, in whatever term: a lease
//!   (RI5) counts on it.
//! - EL10: of two that ask for pre-votes at once the one with the older log, or with the lower id, gives way: both would get all pre-votes, vote for
//!   themselves, and wait for another timeout.

use super::leader::Leader;
use super::types::{LogId, NodeId, Term};
use super::{Body, Core, HardState, Role};
use crate::sabotage::{self, Sabotage};
use std::collections::BTreeMap;

/// Answers so far.
#[derive(Debug, Default)]
pub(super) struct Campaign {
    votes: BTreeMap<NodeId, bool>,
    /// The write of its own vote; zero of a pre-candidate, who gives none.
    written: u64,
}

impl Campaign {
    /// EL8.
    pub(super) fn is_synced(&self, stable: u64) -> bool {
        stable >= self.written || sabotage::on(Sabotage::LeadsUnsynced)
    }

    /// What `voter` has answered.
    pub(super) fn vote_of(&self, voter: NodeId) -> Option<bool> {
        self.votes.get(&voter).copied()
    }
}

impl Core {
    fn may_campaign(&self) -> bool {
        let abstains = self.abstains() && !sabotage::on(Sabotage::DamagedVotes);
        let (at, membership) = self.log.membership();
        // Until the change that drops it is committed its log may be the only one that the others can follow (thesis 4.2.2).
        let votes = membership.is_voter(self.id)
            || (at > self.committed && self.log.membership_at(at.before()).is_voter(self.id));
        let newest = self.outranks && !sabotage::on(Sabotage::OnlyVotersCampaign);
        !abstains && (votes || newest)
    }

    /// Asks whether a campaign would be heard; by order of the leader campaigns at once.
    pub(super) fn campaign(&mut self, transfer: bool) {
        self.reset_timer();
        if self.is_leader() || self.holds_back || !self.may_campaign() {
            return;
        }
        if transfer {
            return self.run_for_office(true);
        }
        let mut campaign = Campaign::default();
        campaign.votes.insert(self.id, true);
        self.role = Role::PreCandidate(campaign);
        self.leader = None;
        self.drop_reads(None);
        self.out.changed = true;
        let last = self.log.last();
        let next = Term(self.hard.term.0 + 1);
        for peer in self.voting_peers() {
            self.send_in(next, peer, Body::PreVote { last });
        }
        self.count_votes();
    }

    fn run_for_office(&mut self, transfer: bool) {
        self.hard = HardState {
            term: Term(self.hard.term.0 + 1),
            vote: Some(self.id),
        };
        self.term_changed();
        self.write_hard_state();
        self.drop_reads(None);
        let mut campaign = Campaign {
            votes: match &mut self.role {
                Role::PreCandidate(before) if sabotage::on(Sabotage::PreVoteCountsAsVote) => {
                    std::mem::take(&mut before.votes)
                }
                _ => BTreeMap::new(),
            },
            written: self.written,
        };
        campaign.votes.insert(self.id, true);
        self.role = Role::Candidate(campaign);
        self.leader = None;
        self.reset_timer();
        let last = self.log.last();
        for peer in self.voting_peers() {
            self.send_stable(peer, Body::Vote { last, transfer });
        }
        self.count_votes();
    }

    fn voting_peers(&self) -> Vec<NodeId> {
        let members = self.membership().members().into_iter();
        members
            .filter(|n| *n != self.id && self.membership().is_voter(*n))
            .collect()
    }

    pub(super) fn count_votes(&mut self) {
        let (Role::PreCandidate(campaign) | Role::Candidate(campaign)) = &self.role else {
            return;
        };
        let membership = self.deciding();
        let is = |wanted| membership.quorum(|n| campaign.vote_of(n) == Some(wanted));
        let (won, lost) = (is(true), is(false));
        match &self.role {
            Role::PreCandidate(_) if won => self.run_for_office(false),
            Role::Candidate(campaign) if won && campaign.is_synced(self.stable) => self.lead(),
            _ if lost => self.follow(self.hard.term, None),
            _ => {}
        }
    }

    fn lead(&mut self) {
        let last = self.log.last().index;
        let members = self.membership().members();
        self.role = Role::Leader(Box::new(Leader::new(self.id, members, last)));
        self.outranks = false;
        self.leader = Some(self.id);
        self.elapsed = 0;
        self.out.changed = true;
        self.begin_term();
    }

    /// Whether a log that ends at `last` is at least as new as one's own (5.4.1).
    fn is_up_to_date(&self, last: LogId) -> bool {
        last >= self.log.last() || sabotage::on(Sabotage::VoteIgnoresLog)
    }

    fn abstains_now(&self) -> bool {
        self.abstains() && !sabotage::on(Sabotage::DamagedVotes)
    }

    pub(super) fn on_pre_vote(&mut self, from: NodeId, term: Term, last: LogId) {
        let up_to_date = self.is_up_to_date(last);
        let granted =
            term > self.hard.term && !self.is_loyal() && !self.abstains_now() && up_to_date;
        self.outranks |= !self.is_loyal() && !up_to_date;
        let rivals = granted && matches!(self.role, Role::PreCandidate(_));
        if rivals && (last, from) > (self.log.last(), self.id) {
            // EL10. What the others still answer is for a campaign that is over.
            self.follow(self.hard.term, None);
        }
        // Granted it answers in the term that was asked about; refused in one's own, so that the asker can catch up.
        let in_term = if granted { term } else { self.hard.term };
        self.send_in(in_term, from, Body::PreVoted { granted });
    }

    pub(super) fn on_pre_voted(&mut self, from: NodeId, term: Term, granted: bool) {
        let asked = Term(self.hard.term.0 + 1);
        if let Role::PreCandidate(campaign) = &mut self.role
            && (!granted || term == asked)
        {
            campaign.votes.insert(from, granted);
            self.count_votes();
        }
    }

    pub(super) fn on_vote(&mut self, from: NodeId, last: LogId, transfer: bool) {
        // EL9: its term may have come by something else that was said.
        let loyal = !transfer && self.is_loyal() && !sabotage::on(Sabotage::DisloyalInTerm);
        let free =
            self.hard.vote.is_none_or(|vote| vote == from) || sabotage::on(Sabotage::VotesTwice);
        let granted = free
            && !loyal
            && !self.is_leader()
            && !self.abstains_now()
            && self.is_up_to_date(last)
            && (self.leader.is_none() || sabotage::on(Sabotage::VotesTwice));
        if granted {
            if self.hard.vote != Some(from) {
                self.hard.vote = Some(from);
                self.write_hard_state();
            }
            // One who votes waits for the outcome.
            self.reset_timer();
        }
        self.send_stable(from, Body::Voted { granted });
    }

    pub(super) fn on_voted(&mut self, from: NodeId, granted: bool) {
        if let Role::Candidate(campaign) = &mut self.role {
            campaign.votes.insert(from, granted);
            self.count_votes();
        }
    }

    pub(super) fn on_timeout_now(&mut self, from: NodeId) {
        if self.leader == Some(from) {
            self.campaign(true);
        }
    }
}
