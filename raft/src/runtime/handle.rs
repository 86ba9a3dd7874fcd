//! What clients and administrators hold of a node.

use super::LeaderHint;
use super::about::About;
use super::error::{Outcome, ProposeError, ReadError, SessionError};
use super::request::{self, Kind};
use super::session::WINDOW;
use super::shared::{Request, Shared};
use super::status::{StageCounts, Status};
use crate::core::{Change, Index, NodeId, Term};
use bytes::Bytes;
use esker_sync::deadline::{after, behind};
use esker_sync::oneshot::{NoValue, Pending, oneshot};
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// Names a session: the index of the entry that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

/// A command to be replicated.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// For the state machine.
    pub payload: Bytes,
    /// Under which session, with which serial (from 1 on), and the serial below which the client has all replies: then it takes effect once,
    /// however often it is tried (C5).
    pub session: Option<(SessionId, u64, u64)>,
    /// Where this node does not lead: send it to who does. Otherwise it is refused with a hint.
    pub forward: bool,
    /// It is *unknown* after so long; `None`: [`super::NodeOptions::request_timeout`].
    pub timeout: Option<Duration>,
}

impl Proposal {
    /// Without a session, for this node alone.
    #[must_use]
    pub fn new(payload: impl Into<Bytes>) -> Proposal {
        Proposal {
            payload: payload.into(),
            session: None,
            forward: false,
            timeout: None,
        }
    }
}

fn request_of(proposal: Proposal) -> request::Request {
    let (session, serial, floor) =
        (proposal.session).map_or((0, 0, 0), |(s, serial, floor)| (s.0, serial, floor));
    request::Request {
        session,
        serial,
        floor,
        ..request::Request::plain(Kind::Command, proposal.payload)
    }
}

/// How long behind its deadline the answer to a proposal may come, from a node that is busy.
const LATE_MAX: Duration = Duration::from_millis(500);

/// A proposal on its way: to be waited for, or awaited.
///
/// It is answered at its deadline at the latest, unless it was committed and its node's state machine stands still (a full disk, say): then it is
/// once that goes on. [`Self::wait`] does not wait for that; who awaits looks at [`Self::is_overdue`] now and then.
#[derive(Debug)]
pub struct PendingReply {
    pending: Pending<Outcome>,
    deadline: Instant,
}

fn wait_until(pending: Pending<Outcome>, deadline: Instant) -> Outcome {
    let left = deadline.saturating_duration_since(Instant::now());
    let answer = pending.wait(Some(left.saturating_add(LATE_MAX)));
    answer.unwrap_or_else(|end| Err(gone(end)))
}

fn gone(end: NoValue) -> ProposeError {
    ProposeError::Unknown {
        why: match end {
            NoValue::Broken => "the node stopped meanwhile".into(),
            NoValue::TimedOut => "it was not answered in time".into(),
        },
        leader: None,
    }
}

impl PendingReply {
    /// Blocks until it is known, or its deadline has passed: then it is *unknown*.
    pub fn wait(self) -> Outcome {
        wait_until(self.pending, self.deadline)
    }

    /// Whether its deadline has passed for longer than an answer takes: it is *unknown* to whoever does not want to wait for the state machine.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        Instant::now() > behind(self.deadline, LATE_MAX)
    }
}

impl Future for PendingReply {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let end = ready!(Pin::new(&mut self.pending).poll(context));
        Poll::Ready(end.unwrap_or_else(|end| Err(gone(end))))
    }
}

/// A node, as clients and administrators have it. Clones are the same.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
    timeout: Duration,
}

impl std::fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NodeHandle").field(&self.shared.me).finish()
    }
}

impl NodeHandle {
    pub(super) fn new(shared: Arc<Shared>, timeout: Duration) -> NodeHandle {
        NodeHandle { shared, timeout }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Why it is down, when it is.
    #[must_use]
    pub fn down(&self) -> Option<String> {
        self.shared.down.lock().clone()
    }

    fn not_appended(&self, why: &str) -> ProposeError {
        ProposeError::NotAppended {
            why: self.down().unwrap_or_else(|| why.to_owned()),
            leader: self.shared.hint(),
        }
    }

    fn submit_request(
        &self,
        request: request::Request,
        forward: bool,
        timeout: Option<Duration>,
        wait: bool,
    ) -> PendingReply {
        let now = Instant::now();
        let pending = self.enqueue(request, forward, now, timeout, wait);
        match wait {
            // It may have waited for room.
            true => self.shared.drive_requests(Instant::now()),
            // Who does not wait may have more.
            false => self.shared.have_requests_driven(now),
        }
        pending
    }

    /// Puts it in line.
    fn enqueue(
        &self,
        request: request::Request,
        forward: bool,
        now: Instant,
        timeout: Option<Duration>,
        wait: bool,
    ) -> PendingReply {
        let (promise, pending) = oneshot();
        let deadline = behind(now, timeout.unwrap_or(self.timeout));
        let reply = PendingReply { pending, deadline };
        if self.down().is_some() {
            promise.keep(Err(self.not_appended("the node is down")));
            return reply;
        }
        let request = Request::Propose {
            request: request.encode(),
            promise,
            deadline,
            forward,
        };
        let requests = &self.shared.requests;
        let refused = match wait {
            true => (requests.send_deadline(request, deadline).err()).map(|e| e.into_inner()),
            false => requests.try_send(request).err().map(|e| e.into_inner()),
        };
        if let Some(Request::Propose { promise, .. }) = refused {
            promise.keep(Err(self.not_appended(
                "too many requests wait; try again when there are fewer",
            )));
        }
        reply
    }

    /// Proposes, and returns at once; refused where too many requests wait.
    #[must_use]
    pub fn submit(&self, proposal: Proposal) -> PendingReply {
        let (forward, timeout) = (proposal.forward, proposal.timeout);
        self.submit_request(request_of(proposal), forward, timeout, false)
    }

    /// Proposes several, which are taken together, and returns at once; each is refused where too many requests wait.
    #[must_use]
    pub fn submit_all(&self, proposals: impl IntoIterator<Item = Proposal>) -> Vec<PendingReply> {
        let now = Instant::now();
        let each = proposals.into_iter().map(|proposal| {
            let (forward, timeout) = (proposal.forward, proposal.timeout);
            self.enqueue(request_of(proposal), forward, now, timeout, false)
        });
        let pending = each.collect();
        self.shared.drive_requests(Instant::now());
        pending
    }

    /// Proposes on this node and waits.
    pub fn propose(&self, payload: impl Into<Bytes>) -> Outcome {
        let request = request::Request::plain(Kind::Command, payload.into());
        self.submit_request(request, false, None, true).wait()
    }

    /// Proposes through the leader, whoever it is, and waits.
    pub fn propose_anywhere(&self, payload: impl Into<Bytes>) -> Outcome {
        let request = request::Request::plain(Kind::Command, payload.into());
        self.submit_request(request, true, None, true).wait()
    }

    /// Moves replicated time on, for deadlines in a cluster where nobody writes. The leader's owner calls it as often as deadlines matter.
    pub fn propose_time(&self) -> Outcome {
        let request = request::Request::plain(Kind::Time, Bytes::new());
        self.submit_request(request, false, None, true).wait()
    }

    /// Opens a session that ends when it was not used for `ttl` of replicated time.
    pub fn open_session(&self, ttl: Duration) -> Result<Session, ProposeError> {
        let ttl = u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX);
        let payload = Bytes::copy_from_slice(&ttl.to_le_bytes());
        let request = request::Request::plain(Kind::Open, payload);
        let reply = self.submit_request(request, true, None, true).wait()?;
        let id = (reply.payload.first_chunk()).map_or(reply.index.0, |b| u64::from_le_bytes(*b));
        Ok(Session {
            handle: self.clone(),
            id: SessionId(id),
            serial: 0,
            executed: 0,
            unsure: false,
        })
    }

    /// Returns once everything that was committed when this was called is applied here: what is read from the state machine then is
    /// linearizable (C3).
    pub fn read_barrier(&self, timeout: Duration) -> Result<Index, ReadError> {
        let (promise, pending) = oneshot();
        let deadline = after(timeout);
        let request = Request::Read { promise, deadline };
        if self
            .shared
            .requests
            .send_deadline(request, deadline)
            .is_err()
        {
            return Err(self.down().map_or(ReadError::TimedOut, ReadError::Down));
        }
        self.shared.drive_requests(Instant::now());
        match pending.wait(Some(timeout)) {
            Ok(result) => result,
            Err(NoValue::TimedOut) => Err(ReadError::TimedOut),
            Err(NoValue::Broken) => Err(ReadError::Down("the node stopped meanwhile".into())),
        }
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<LeaderHint> {
        self.shared.hint()
    }

    /// The term in which this node leads, as far as it knows; cheap.
    #[must_use]
    pub fn leads(&self) -> Option<Term> {
        let leader = self.shared.hint()?;
        (leader.node == self.shared.me.node).then(|| self.shared.term())
    }

    /// What the node says of itself; `None` when it is down.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        let (promise, pending) = oneshot();
        self.shared.requests.send(Request::Status(promise)).ok()?;
        self.shared.drive_requests(Instant::now());
        pending.wait(None).ok()
    }

    /// How long proposals took.
    #[must_use]
    pub fn stages(&self) -> StageCounts {
        self.shared.stages.counts()
    }

    fn change(&self, change: Change) -> Outcome {
        let (promise, pending) = oneshot();
        let deadline = after(self.timeout);
        self.ask(Request::Change {
            change,
            promise,
            deadline,
        })?;
        wait_until(pending, deadline)
    }

    fn ask(&self, request: Request) -> Result<(), ProposeError> {
        (self.shared.requests.send_timeout(request, self.timeout))
            .map_err(|_| self.not_appended("too many requests wait"))?;
        self.shared.drive_requests(Instant::now());
        Ok(())
    }

    /// On the leader: adds a member that gets the log and does not vote. Returns when that is committed.
    pub fn add_learner(&self, node: NodeId, about: &About) -> Outcome {
        self.change(Change::AddLearner(node, about.encode()))
    }

    /// On the leader: adds a member that votes once it has caught up. Returns when it is a learner; it becomes a voter by itself as long as this
    /// node leads.
    pub fn add_voter(&self, node: NodeId, about: &About) -> Outcome {
        let (promise, pending) = oneshot();
        let deadline = after(self.timeout);
        self.ask(Request::AddVoter {
            node,
            about: about.clone(),
            promise,
            deadline,
        })?;
        wait_until(pending, deadline)
    }

    /// On the leader: makes these the voters. Returns when the joint membership is committed; it is left by itself.
    pub fn set_voters(&self, voters: BTreeSet<NodeId>) -> Outcome {
        self.change(Change::SetVoters(voters))
    }

    /// On the leader: takes a member out, whatever it is.
    pub fn remove(&self, node: NodeId) -> Outcome {
        let Some(status) = self.status() else {
            return Err(self.not_appended("the node is down"));
        };
        if status.membership.learners.contains(&node) {
            return self.change(Change::RemoveLearner(node));
        }
        let mut voters = status.membership.voters;
        voters.remove(&node);
        self.set_voters(voters)
    }

    /// On the leader: tells where a member is.
    pub fn describe(&self, node: NodeId, about: &About) -> Outcome {
        self.change(Change::Describe(node, about.encode()))
    }

    /// On the leader: hands leadership to a voter. It is given up within an election timeout if it does not come about; see [`Self::leader`].
    /// On who does not lead, or to who does not vote, it has no effect.
    pub fn transfer(&self, to: NodeId) -> Result<(), ProposeError> {
        self.ask(Request::Transfer(to))
    }

    /// Campaigns now, if the others would have it; with leases not within an election timeout of hearing from a leader, whose lease its own vote would break.
    pub fn campaign(&self) -> Result<(), ProposeError> {
        self.ask(Request::Campaign)
    }

    /// Makes what is applied durable in the state machine, so that the log can be compacted. The index up to which it is.
    pub fn checkpoint(&self) -> Result<Index, String> {
        let (promise, pending) = oneshot();
        self.ask(Request::Checkpoint(promise))
            .map_err(|e| e.to_string())?;
        pending
            .wait(None)
            .unwrap_or_else(|_| Err("the node stopped meanwhile".into()))
    }
}

/// A client's session on a node: commands one after the other, each of which takes effect once.
#[derive(Debug)]
pub struct Session {
    handle: NodeHandle,
    id: SessionId,
    serial: u64,
    /// The last serial that was executed, as far as this knows.
    executed: u64,
    /// A try of the last command may have been executed.
    unsure: bool,
}

impl Session {
    /// Its name, under which it can be taken up at another node.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The session at another node, where this one is down.
    #[must_use]
    pub fn at(self, handle: &NodeHandle) -> Session {
        Session {
            handle: handle.clone(),
            ..self
        }
    }

    /// Executes once: tries again with the same serial while the outcome is not known, until `timeout`. After *unknown* the next call
    /// has another serial.
    pub fn execute(&mut self, payload: impl Into<Bytes>, timeout: Duration) -> Outcome {
        self.serial += 1;
        self.unsure = false;
        self.retry(payload, timeout)
    }

    /// Tries the last command again, with its serial. Where an earlier try, of an earlier call too, may have been executed, it is *unknown* and never
    /// *not executed* (RT1).
    pub fn retry(&mut self, payload: impl Into<Bytes>, timeout: Duration) -> Outcome {
        let payload = payload.into();
        // The state moves the session's floor on by a window with each command that is too far ahead of it (SE4), as after many that got nowhere.
        let mut too_far = (self.serial - self.executed) / WINDOW;
        let end = after(timeout);
        let mut pause = Duration::from_millis(2);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let outcome = self.handle.submit(Proposal {
                payload: payload.clone(),
                session: Some((self.id, self.serial, self.serial)),
                forward: true,
                timeout: Some(left.min(Duration::from_secs(1))),
            });
            let error = match outcome.wait() {
                Err(error) => error,
                Ok(reply) => {
                    self.unsure = true;
                    self.executed = self.serial;
                    return Ok(reply);
                }
            };
            self.unsure |= matches!(
                error,
                ProposeError::Unknown { .. } | ProposeError::Committed { .. }
            );
            if too_far > 0
                && Instant::now() < end
                && matches!(error, ProposeError::Session(SessionError::Serial))
            {
                too_far -= 1;
                continue;
            }
            let again = matches!(
                error,
                ProposeError::NotAppended { .. } | ProposeError::Unknown { .. }
            );
            if !again || Instant::now() + pause >= end || self.handle.down().is_some() {
                return Err(match error {
                    ProposeError::NotAppended { why, leader } if self.unsure => {
                        ProposeError::Unknown { why, leader }
                    }
                    // What was tried before may have taken effect while the session lived.
                    ProposeError::Session(error) if self.unsure => ProposeError::Unknown {
                        why: error.to_string(),
                        leader: None,
                    },
                    error => error,
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Ends it.
    pub fn close(self) -> Outcome {
        let request = request::Request {
            session: self.id.0,
            ..request::Request::plain(Kind::Close, Bytes::new())
        };
        self.handle.submit_request(request, true, None, true).wait()
    }
}
