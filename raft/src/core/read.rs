//! Linearizable reads without a log entry: read index (thesis 6.4), and the lease (6.4.1).
//!
//! - RI1: a read is answered with the commit index of after it came, once a quorum has answered a heartbeat that was sent after that.
//! - RI2: no read is answered before an entry of the leader's own term is committed: until then its commit index may be behind.
//! - RI3: reads that come while a round is on its way wait for the next; one round serves all that wait.
//! - RI4: a follower's question has an id that is never used twice, by any life of the node; an answer to another is ignored.
//! - RI5: the lease counts from the moment a heartbeat was *sent* to the quorum that answered it. It ends for the rest of the term when
//!   an order to campaign is sent: from then on somebody may be elected in spite of everybody's loyalty.

use super::types::{Index, NodeId};
use super::{Answer, Body, Core, Refusal, Role, Token};
use crate::sabotage::{self, Sabotage};

/// Who asks.
#[derive(Clone, Copy, Debug)]
enum Asker {
    Own(Token),
    Peer(NodeId, u64),
}

/// Reads on the leader.
#[derive(Debug, Default)]
pub(super) struct Reads {
    queued: Vec<Asker>,
    /// The round that confirms, the index, and whom.
    round: Option<(u64, Index, Vec<Asker>)>,
}

/// Reads on a follower.
#[derive(Debug, Default)]
pub(super) struct FollowerReads {
    queued: Vec<Token>,
    /// The question on its way, its age in ticks, and who waits for it.
    asked: Option<(u64, u32, Vec<Token>)>,
    last_id: Option<u64>,
}

impl Core {
    pub(super) fn read(&mut self, token: Token) {
        if self.is_leader() {
            self.queue_read(Asker::Own(token));
        } else if self.leader.is_some() {
            self.reads.queued.push(token);
        } else {
            self.refuse_read(token, None);
        }
    }

    fn refuse_read(&mut self, token: Token, leader: Option<NodeId>) {
        let refusal = Refusal::NotLeader { leader };
        self.out.answers.push((token, Answer::Refused(refusal)));
    }

    fn queue_read(&mut self, asker: Asker) {
        if self.lease_holds() {
            return self.answer_read(asker, self.committed);
        }
        if let Some(leader) = self.role.leading() {
            leader.reads.queued.push(asker);
        }
    }

    fn answer_read(&mut self, asker: Asker, index: Index) {
        match asker {
            Asker::Own(token) => self.out.answers.push((token, Answer::ReadAt(index))),
            Asker::Peer(peer, id) => {
                // LE7. Else it would wait for a tick until it has applied that.
                self.send_what(peer, true);
                self.send(peer, Body::ReadAt { id, index });
            }
        }
    }

    /// Whether an entry of this leader's term is committed (RI2).
    pub(super) fn term_is_committed(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => self.committed >= leader.term_start,
            _ => false,
        }
    }

    fn lease_holds(&self) -> bool {
        let (Some(lease), Role::Leader(leader)) = (self.options.lease_micros(), &self.role) else {
            return false;
        };
        if !self.term_is_committed()
            || (leader.lease_ended && !sabotage::on(Sabotage::LeaseAfterTransfer))
        {
            return false;
        }
        let sent = self.deciding().reached_by_quorum(|n| match n {
            n if n == self.id => Some(self.now),
            n => leader.progress.get(&n).and_then(|p| p.round_sent_at),
        });
        matches!(sent, Some(Some(sent)) if self.now < sent.saturating_add(lease))
    }

    /// Begins what waits: on the leader a round for the reads that have gathered, on a follower a question.
    pub(super) fn begin_read_round(&mut self) {
        let committed = self.committed;
        let ready = self.term_is_committed() || sabotage::on(Sabotage::ReadBeforeTermCommit);
        if let Some(leader) = self.role.leading() {
            if !ready || leader.reads.queued.is_empty() || leader.reads.round.is_some() {
                return;
            }
            let askers = std::mem::take(&mut leader.reads.queued);
            leader.reads.round = Some((leader.round + 1, committed, askers));
            self.heartbeat();
            self.confirm_reads();
        } else if let Some(leader) = self.leader {
            if self.reads.queued.is_empty() || self.reads.asked.is_some() {
                return;
            }
            let id = match self.reads.last_id {
                // RI4: each life of a node begins somewhere else.
                None => self.next_random(),
                Some(last) => last.wrapping_add(1),
            };
            self.reads.last_id = Some(id);
            let tokens = std::mem::take(&mut self.reads.queued);
            self.reads.asked = Some((id, 0, tokens));
            self.send(leader, Body::ReadIndex { id });
        }
    }

    /// Answers the reads whose round a quorum has answered.
    pub(super) fn confirm_reads(&mut self) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let Some((round, index, _)) = leader.reads.round else {
            return;
        };
        let answered =
            |n| n == self.id || leader.progress.get(&n).is_some_and(|p| p.round >= round);
        if !self.deciding().quorum(answered) && !sabotage::on(Sabotage::ReadWithoutQuorum) {
            return;
        }
        let leader = self.role.leading().expect("just seen");
        let (_, _, askers) = leader.reads.round.take().expect("just seen");
        for asker in askers {
            self.answer_read(asker, index);
        }
    }

    /// On the leader: a follower asks.
    pub(super) fn on_read_index(&mut self, from: NodeId, id: u64) {
        if self.is_leader() {
            self.queue_read(Asker::Peer(from, id));
        }
    }

    /// On a follower: the answer.
    pub(super) fn on_read_at(&mut self, from: NodeId, id: u64, index: Index) {
        let mine = self
            .reads
            .asked
            .as_ref()
            .is_some_and(|(mine, ..)| *mine == id);
        if !mine || self.leader != Some(from) {
            return;
        }
        let (_, _, tokens) = self.reads.asked.take().expect("just seen");
        for token in tokens {
            self.out.answers.push((token, Answer::ReadAt(index)));
        }
    }

    /// A question that is not answered within an election timeout was lost.
    pub(super) fn reads_tick(&mut self) {
        if let Some((_, age, _)) = &mut self.reads.asked {
            *age += 1;
            if *age >= self.options.election_ticks {
                let (_, _, tokens) = self.reads.asked.take().expect("just seen");
                for token in tokens {
                    self.refuse_read(token, self.leader);
                }
            }
        }
    }

    /// Role or leader changes: what waits is refused.
    pub(super) fn drop_reads(&mut self, leader: Option<NodeId>) {
        let mut tokens = std::mem::take(&mut self.reads.queued);
        if let Some((_, _, asked)) = self.reads.asked.take() {
            tokens.extend(asked);
        }
        if let Some(leading) = self.role.leading() {
            let reads = std::mem::take(&mut leading.reads);
            let round = reads.round.map(|(_, _, askers)| askers).unwrap_or_default();
            tokens.extend(
                reads
                    .queued
                    .into_iter()
                    .chain(round)
                    .filter_map(|asker| match asker {
                        Asker::Own(token) => Some(token),
                        Asker::Peer(..) => None,
                    }),
            );
        }
        for token in tokens {
            self.refuse_read(token, leader);
        }
    }
}
