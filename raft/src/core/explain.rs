//! Says in words what a node is doing, and why there is no leader or why a peer gets nothing.

use super::{Abstain, Core, Index, NodeId, Role};
use std::fmt::Write as _;

/// A peer, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeId,
    /// "probing", "replicating" or "receiving a snapshot".
    pub state: &'static str,
    /// It holds everything up to here.
    pub matched: Index,
    /// Why nothing is sent to it now.
    pub paused: Option<&'static str>,
}

impl Core {
    /// On a leader what it knows of each peer.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let Role::Leader(leader) = &self.role else {
            return Vec::new();
        };
        (leader.progress.iter())
            .map(|(node, progress)| PeerStatus {
                node: *node,
                state: progress.state_name(),
                matched: progress.matched,
                paused: progress.paused(&self.options),
            })
            .collect()
    }

    /// One line for a person.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut out = format!("node {} in term {}: ", self.id, self.hard.term);
        match &self.role {
            Role::Leader(leader) => {
                let _ = write!(
                    out,
                    "leads; committed {} of {}, own log synced up to {}",
                    self.committed,
                    self.log.last().index,
                    self.synced
                );
                if !self.term_is_committed() {
                    out.push_str("; nothing of its own term is committed yet, reads wait");
                }
                if self.membership().is_joint() {
                    out.push_str("; membership is joint, both halves decide");
                }
                if let Some(transfer) = &leader.transfer {
                    let _ = write!(
                        out,
                        "; hands leadership to {}, takes no commands",
                        transfer.to
                    );
                }
                for (id, progress) in &leader.progress {
                    progress.explain(*id, &self.options, &mut out);
                }
            }
            Role::Follower => match self.leader {
                Some(leader) => {
                    let _ = write!(
                        out,
                        "follows {leader}; last heard of it {} ticks ago",
                        self.quiet
                    );
                }
                None => {
                    let left = self.timeout.saturating_sub(self.elapsed);
                    let _ = write!(out, "knows no leader");
                    let votes = self.membership().is_voter(self.id);
                    if !votes && !self.outranks {
                        out.push_str("; it is no voter and waits to be found");
                    } else if !self.abstains() {
                        if !votes {
                            out.push_str(
                                "; it is no voter, but its log is newer than that of who asked for its vote",
                            );
                        }
                        let _ = write!(out, "; campaigns in {left} ticks");
                    }
                }
            },
            Role::PreCandidate(campaign) => {
                out.push_str("asks who would vote for it");
                self.explain_votes(campaign, &mut out);
            }
            Role::Candidate(campaign) => {
                out.push_str("campaigns");
                self.explain_votes(campaign, &mut out);
                if !campaign.is_synced(self.stable) {
                    out.push_str("; its own vote is not on its disk yet");
                }
            }
        }
        match self.abstain {
            Abstain::No => {}
            Abstain::Until(index) => {
                let _ = write!(
                    out,
                    "; it lost entries that it may have acknowledged and votes for nobody before it holds {index} again"
                );
            }
            Abstain::Always => out.push_str(
                "; its vote and its term are lost: it votes for nobody and acknowledges nothing. Remove it from the cluster, empty its directory and add it anew",
            ),
        }
        if self.stranger {
            out.push_str("; the members know its id by another disk, and it votes for nobody. If it was emptied, remove it from the cluster and add it anew");
        }
        out
    }

    fn explain_votes(&self, campaign: &super::Campaign, out: &mut String) {
        let (mut yes, mut no, mut silent) = (Vec::new(), Vec::new(), Vec::new());
        for voter in self.membership().members() {
            if !self.membership().is_voter(voter) {
                continue;
            }
            match campaign.vote_of(voter) {
                Some(true) => yes.push(voter.0),
                Some(false) => no.push(voter.0),
                None => silent.push(voter.0),
            }
        }
        let _ = write!(out, "; yes: {yes:?}, no: {no:?}, silent: {silent:?}");
    }
}
