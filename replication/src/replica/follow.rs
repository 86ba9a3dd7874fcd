//! The thread of a replica that owns the socket (`esker-repl-in`).
//!
//! ```text
//!            +--> Idle --(pause over, applier idle)--> Connecting --(writable: hello sent)--+
//!            |                                              ^                               v
//!            |<--(no answer, refused)-----------------------|------------------------- Greeting
//!            |                                       (reset)|                               |
//!            |<--(silent, goodbye, bad frames)---------- Following <--(welcome)-------------+
//! ```
//! A connection that breaks below us is made again by the library; the primary then does not know our
//! session, and answers the next acknowledgement with `reset`.

use super::Shared;
use super::inbox::{Failure, Job};
use crate::datadir::{Role, RoleRecord};
use crate::error::Refusal;
use crate::protocol::{
    self, Ack, EPOCHS_MAX, Hello, Message, PROTOCOL, PROTOCOL_MIN, PrimaryPositions, Refused,
    Welcome,
};
use crate::status::FollowState;
use crate::transport;
use esker_wal::{ChainHash, LogError, Lsn, NodeId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Messages read before acknowledgements get their turn.
const READS_PER_TURN: usize = 64;

enum Link {
    /// Nothing open; tries again at `until`.
    Idle { until: Instant },
    /// A socket that waits to become writable, for its hello.
    Connecting { socket: zmq::Socket },
    /// Said hello in `session` at `since`.
    Greeting {
        socket: zmq::Socket,
        session: u64,
        since: Instant,
    },
    /// Follows.
    Following {
        socket: zmq::Socket,
        session: u64,
        granted: Lsn,
        /// LSN of the next frame to come.
        expected: Lsn,
        said: Option<Ack>,
        said_at: Instant,
    },
}

pub(super) struct Follower {
    context: zmq::Context,
    shared: Arc<Shared>,
    link: Link,
    pause: Duration,
    moved: bool,
}

impl Follower {
    pub(super) fn new(context: zmq::Context, shared: Arc<Shared>) -> Follower {
        Follower {
            context,
            pause: shared.options.timing.reconnect_min,
            link: Link::Idle {
                until: Instant::now(),
            },
            shared,
            moved: false,
        }
    }

    /// Runs until stopped; says goodbye and closes the socket.
    pub(super) fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            self.poll();
            self.shared.waker.clear();
            self.advance();
            for _ in 0..READS_PER_TURN {
                if !self.read() {
                    break;
                }
            }
            self.check_applier();
            self.report();
            if std::mem::take(&mut self.moved) {
                self.shared.watchers.call();
            }
        }
        if let Link::Following {
            socket, session, ..
        } = &self.link
        {
            let _ = say(socket, *session, &Message::Goodbye);
        }
        self.link = Link::Idle {
            until: Instant::now(),
        };
        // Sockets are closed by now; the context waits for what lingers, and is bounded by it.
        drop(self.context);
    }

    fn poll(&self) {
        let heartbeat = self.shared.options.timing.heartbeat;
        let waker = zmq::PollItem::from_fd(self.shared.waker.fd(), zmq::POLLIN);
        let (mut items, timeout) = match &self.link {
            // The applier rings when it is done.
            Link::Idle { .. } | Link::Connecting { .. }
                if self.failed() || !self.shared.inbox.is_idle() =>
            {
                (vec![waker], heartbeat)
            }
            Link::Idle { until } => {
                let left = until.saturating_duration_since(Instant::now());
                // Rounded up, so that the pause is over when the poll is.
                (vec![waker], left + Duration::from_millis(1))
            }
            Link::Connecting { socket } => (
                vec![waker, socket.as_poll_item(zmq::POLLOUT | zmq::POLLIN)],
                heartbeat,
            ),
            Link::Greeting { socket, .. } | Link::Following { socket, .. } => {
                (vec![waker, socket.as_poll_item(zmq::POLLIN)], heartbeat / 2)
            }
        };
        // An interrupted poll is a turn like any other.
        let _ = zmq::poll(&mut items, timeout.as_millis() as i64);
    }

    /// Takes the steps that time, or a socket that became writable, allow.
    fn advance(&mut self) {
        let timing = self.shared.options.timing;
        let now = Instant::now();
        match &self.link {
            Link::Idle { until } => {
                if now < *until || self.failed() || !self.shared.inbox.is_idle() {
                    return;
                }
                let jitter = transport::random_unit();
                let connected = transport::connect(
                    &self.context,
                    &self.shared.options.primary,
                    self.shared.options.keys.as_ref(),
                    &timing,
                    jitter,
                );
                match connected {
                    Ok(socket) => self.link = Link::Connecting { socket },
                    Err(error) => self.disconnect(error.to_string()),
                }
            }
            Link::Connecting { socket } => {
                let writable = socket
                    .get_events()
                    .is_ok_and(|events| events.contains(zmq::POLLOUT));
                if writable && self.shared.inbox.is_idle() && !self.failed() {
                    self.greet();
                }
            }
            Link::Greeting { since, .. } => {
                if now.duration_since(*since) > timing.dead_after {
                    self.disconnect("the primary did not answer".into());
                }
            }
            Link::Following { .. } => {
                let heard = self.shared.view.lock().heard;
                if heard.is_some_and(|at| now.duration_since(at) > timing.dead_after) {
                    self.disconnect("the primary was silent for too long".into());
                }
            }
        }
    }

    fn failed(&self) -> bool {
        matches!(self.shared.view.lock().state, FollowState::Failed { .. })
    }

    /// Says hello with where this node's log ends (RE2).
    fn greet(&mut self) {
        let hello = match self.hello() {
            Ok(hello) => hello,
            Err(error) => return self.disconnect(error.to_string()),
        };
        let link = std::mem::replace(
            &mut self.link,
            Link::Idle {
                until: Instant::now(),
            },
        );
        let Link::Connecting { socket } = link else {
            self.link = link;
            return;
        };
        let session = transport::random();
        self.link = match say(&socket, session, &Message::Hello(hello)) {
            true => Link::Greeting {
                socket,
                session,
                since: Instant::now(),
            },
            // Not connected any more: wait for the next time.
            false => Link::Connecting { socket },
        };
    }

    fn hello(&self) -> Result<Hello, LogError> {
        let mut hello = Hello {
            protocols: (PROTOCOL_MIN, PROTOCOL),
            log: None,
            node: self.shared.options.data.node(),
            end: Lsn::ZERO,
            chain: ChainHash::default(),
            name: self.shared.name.clone(),
            epochs: Vec::new(),
        };
        if let Some(store) = self.shared.store() {
            let log = store.log();
            let end = log.published();
            // What is claimed must outlive this process: the primary counts it as durable.
            log.sync_up_to(end)?;
            hello.log = Some(log.log_id());
            hello.end = end;
            hello.chain = log.chain_at(end)?;
            hello.epochs = log.epochs();
            let older = hello.epochs.len().saturating_sub(EPOCHS_MAX);
            hello.epochs.drain(..older);
        }
        Ok(hello)
    }

    /// Reads one message; false when there is none.
    fn read(&mut self) -> bool {
        let (socket, session) = match &self.link {
            Link::Greeting {
                socket, session, ..
            }
            | Link::Following {
                socket, session, ..
            } => (socket, *session),
            Link::Idle { .. } => return false,
            // Nothing of an earlier connection is of interest.
            Link::Connecting { socket } => return socket.recv_bytes(zmq::DONTWAIT).is_ok(),
        };
        let mut body = zmq::Message::new();
        if socket.recv(&mut body, zmq::DONTWAIT).is_err() {
            return false;
        }
        let (id, message) = match protocol::decode(&body) {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::debug!(%error, "bytes from the primary's endpoint are ignored");
                return true;
            }
        };
        if id != session {
            return true; // Of an earlier session.
        }
        match message {
            Message::Welcome(welcome) => self.welcome(&welcome),
            Message::Refused(refused) => self.refused(refused),
            Message::Heartbeat(positions) => self.heard(positions),
            Message::Frames {
                first,
                positions,
                frames,
            } => {
                let end = Lsn(first.0.saturating_add(frames.len() as u64));
                self.heard(positions);
                self.frames(first, end, body);
            }
            Message::Reset => self.reset(),
            Message::Goodbye => self.disconnect("the primary said goodbye".into()),
            // What only a replica says.
            Message::Hello(_) | Message::Ack(_) => {}
        }
        true
    }

    fn welcome(&mut self, welcome: &Welcome) {
        let Link::Greeting { .. } = &self.link else {
            return;
        };
        let link = std::mem::replace(
            &mut self.link,
            Link::Idle {
                until: Instant::now(),
            },
        );
        let Link::Greeting {
            socket, session, ..
        } = link
        else {
            return;
        };
        if welcome.protocol < PROTOCOL_MIN || welcome.protocol > PROTOCOL {
            return self.disconnect(format!(
                "the primary chose protocol {}, which was not offered",
                welcome.protocol
            ));
        }
        // The epoch heard of is durable before anything of it is taken: a promotion goes above it (R4).
        let data = &self.shared.options.data;
        let heard = RoleRecord {
            role: Role::Replica,
            epoch: welcome.epoch.max(data.role().map_or(0, |r| r.epoch)),
        };
        if let Err(error) = data.set_role(heard) {
            return self.disconnect(error.to_string());
        }
        self.link = Link::Following {
            socket,
            session,
            granted: Lsn::ZERO,
            expected: welcome.start,
            said: None,
            said_at: Instant::now(),
        };
        self.pause = self.shared.options.timing.reconnect_min;
        if self.shared.store().is_none() {
            self.shared.inbox.push(Job::Create(welcome.log));
        }
        {
            let mut view = self.shared.view.lock();
            view.state = FollowState::Following;
            view.primary_node = Some(welcome.primary);
            view.connects += 1;
        }
        self.moved = true;
        let primary: NodeId = welcome.primary;
        tracing::info!(%primary, from = %welcome.start, epoch = welcome.epoch, "following");
        self.heard(welcome.positions);
    }

    fn heard(&mut self, positions: PrimaryPositions) {
        let shared = &self.shared;
        {
            let mut view = shared.view.lock();
            view.heard = Some(Instant::now());
            self.moved |= view.positions != positions;
            view.positions = positions;
        }
        let before = shared.sync_now.swap(positions.sync_now, Ordering::Relaxed);
        if positions.sync_now
            && !before
            && let Some(store) = shared.store()
        {
            store.log().request_sync(store.log().published());
        }
        if let Some(listener) = &shared.options.expiry_listener
            && positions.expiry_ms != 0
        {
            listener(positions.expiry_ms);
        }
    }

    fn frames(&mut self, first: Lsn, end: Lsn, body: zmq::Message) {
        let Link::Following {
            granted, expected, ..
        } = &mut self.link
        else {
            return;
        };
        if first != *expected || first >= *granted {
            let why = format!(
                "the primary sent frames from LSN {first}, where {expected} was expected and {granted} granted"
            );
            return self.disconnect(why);
        }
        *expected = end;
        self.shared.inbox.push(Job::Frames(body));
    }

    fn refused(&mut self, refused: Refused) {
        let refusal = Refusal {
            reason: refused.reason,
            at: refused.at,
            text: refused.text,
        };
        let state = FollowState::Refused(refusal.clone());
        let longest = self.shared.options.timing.reconnect_max;
        {
            let mut view = self.shared.view.lock();
            if view.state != state {
                tracing::warn!(reason = ?refusal.reason, "{refusal}");
                view.state = state;
            }
        }
        self.moved = true;
        // A hurry helps nobody here.
        self.idle(longest);
    }

    /// The primary does not know this session: it was restarted, or the connection was.
    fn reset(&mut self) {
        let link = std::mem::replace(
            &mut self.link,
            Link::Idle {
                until: Instant::now(),
            },
        );
        if let Link::Following { socket, .. } | Link::Greeting { socket, .. } = link {
            self.shared.inbox.clear();
            self.link = Link::Connecting { socket };
        } else {
            self.link = link;
        }
    }

    fn disconnect(&mut self, why: String) {
        {
            let mut view = self.shared.view.lock();
            if view.state == FollowState::Following {
                tracing::warn!("disconnected from the primary: {why}");
            }
            // A refusal is told until it is lifted; what is fatal stays.
            if !matches!(
                view.state,
                FollowState::Refused(_) | FollowState::Failed { .. }
            ) {
                view.state = FollowState::Disconnected { why };
            }
        }
        self.moved = true;
        let pause = self.pause;
        self.pause = (self.pause * 2).min(self.shared.options.timing.reconnect_max);
        self.idle(pause);
    }

    /// Closes the socket, drops what is queued, and waits `pause`, give or take a quarter.
    fn idle(&mut self, pause: Duration) {
        self.shared.inbox.clear();
        let jitter = 0.75 + 0.5 * transport::random_unit();
        self.link = Link::Idle {
            until: Instant::now() + pause.mul_f64(jitter),
        };
    }

    fn check_applier(&mut self) {
        let poison = self
            .shared
            .opened
            .get()
            .and_then(|o| o.store.log().poison());
        let failure = match (poison, self.shared.inbox.failure()) {
            (Some(poison), _) => Failure {
                fatal: true,
                why: poison.to_string(),
            },
            (None, Some(failure)) => failure,
            (None, None) => return,
        };
        if !failure.fatal {
            self.disconnect(failure.why);
        } else if !self.failed() {
            if let Link::Following {
                socket, session, ..
            } = &self.link
            {
                let _ = say(socket, *session, &Message::Goodbye);
            }
            self.shared.view.lock().state = FollowState::Failed { why: failure.why };
            self.moved = true;
            self.idle(self.shared.options.timing.reconnect_max);
        }
    }

    /// Says how far this node is, where that moved or it is time.
    fn report(&mut self) {
        let Link::Following {
            socket,
            session,
            granted,
            said,
            said_at,
            ..
        } = &mut self.link
        else {
            return;
        };
        let Some(opened) = self.shared.opened.get() else {
            // The store is being made; the primary hears from us, and has no credit yet.
            if said_at.elapsed() >= self.shared.options.timing.heartbeat {
                *said_at = Instant::now();
                let _ = say(socket, *session, &Message::Ack(Ack::default()));
            }
            return;
        };
        let window = self.shared.options.window_bytes;
        let applied = Lsn(self.shared.applied.load(Ordering::Acquire));
        let allowed = Lsn(applied.0.saturating_add(window) & !7);
        // Credit goes out in quarters of the window, or with a report that is due anyway.
        if allowed.0 >= granted.0.saturating_add(window / 4) {
            *granted = (*granted).max(allowed);
        }
        // Read in this order, so that none is ahead of the one that bounds it.
        let visible = opened.store.visible();
        let durable = opened.store.log().synced();
        let received = opened.store.log().published();
        let mut ack = Ack {
            received,
            durable: durable.min(received),
            applied: visible.min(received),
            granted: *granted,
        };
        if *said == Some(ack) && said_at.elapsed() < self.shared.options.timing.heartbeat {
            return;
        }
        *granted = (*granted).max(allowed);
        ack.granted = *granted;
        if say(socket, *session, &Message::Ack(ack)) {
            self.moved |= *said != Some(ack);
            *said = Some(ack);
            *said_at = Instant::now();
        }
    }
}

/// Sends one message; false where the socket does not take it now. Never waits.
fn say(socket: &zmq::Socket, session: u64, message: &Message<'_>) -> bool {
    socket
        .send(protocol::encode(session, message), zmq::DONTWAIT)
        .is_ok()
}
