//! The thread of a primary: sessions, and the frames that go out on them.

use super::handshake::{Own, judge};
use super::{Shared, slot_name};
use crate::protocol::{
    self, Ack, FRAMES_MESSAGE_BYTES, FramesBuilder, Hello, Message, PrimaryPositions, Reason,
    Refused, Welcome,
};
use crate::transport::answer_zap;
use esker_wal::{Frame, Log, LogError, Lsn, NodeId, ReadLimit, Reader, SlotState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Messages read from the socket before frames get their turn.
const READS_PER_TURN: usize = 256;
/// Messages of frames per replica before the socket gets its turn: some 8 MiB.
const SENDS_PER_TURN: usize = 8;
/// A replica that has caught up waits no longer than this for what is published and not synced.
const SYNC_TICK: Duration = Duration::from_millis(20);
/// A slot follows its replica's acknowledgements at most this often, and is looked at for being lost.
const SLOT_TICK: Duration = Duration::from_millis(200);

/// A replica that follows.
struct Session {
    /// The ROUTER's name for its connection.
    routing: Vec<u8>,
    id: u64,
    node: NodeId,
    reader: Reader,
    /// A frame that was read and did not go into the last message.
    held: Option<Frame>,
    /// A message that the socket did not take, and the end of its frames.
    unsent: Option<(Vec<u8>, Lsn)>,
    granted: Lsn,
    heard: Instant,
    said: Instant,
    slot: Option<Lsn>,
    slot_at: Instant,
}

impl Session {
    /// LSN of the next frame to go.
    fn next(&self) -> Lsn {
        self.held
            .as_ref()
            .map_or_else(|| self.reader.position(), |f| f.header.lsn)
    }
}

/// Why a session ends.
enum End {
    /// The connection is gone or silent.
    Gone(&'static str),
    /// It can't be served.
    Refuse(Refused),
}

enum Sent {
    Yes,
    /// The socket's queue for it is full.
    NotNow,
    Gone,
}

pub(super) struct Streams {
    router: zmq::Socket,
    zap: Option<zmq::Socket>,
    shared: Arc<Shared>,
    log: Log,
    sessions: Vec<Session>,
    /// Whether positions or states changed since the watchers were called.
    moved: bool,
    /// Whether replicas were told that somebody waits for durable acknowledgements.
    said_sync_now: bool,
    slots_seen: Instant,
}

impl Streams {
    pub(super) fn new(
        router: zmq::Socket,
        zap: Option<zmq::Socket>,
        shared: Arc<Shared>,
    ) -> Streams {
        Streams {
            router,
            zap,
            log: shared.options.store.log().clone(),
            shared,
            sessions: Vec::new(),
            moved: false,
            said_sync_now: false,
            slots_seen: Instant::now(),
        }
    }

    /// Runs until the primary is closed; says goodbye and closes the sockets.
    pub(super) fn run(mut self) {
        let mut more = false;
        while !self.shared.stop.load(Ordering::Acquire) {
            self.poll(more);
            self.shared.waker.clear();
            let unread = self.read();
            if let (Some(zap), Some(keys)) = (&self.zap, &self.shared.options.keys) {
                answer_zap(zap, &keys.replicas);
            }
            let unsent = self.send_frames();
            self.tick();
            if std::mem::take(&mut self.moved) {
                self.shared.watchers.call();
            }
            more = unread || unsent;
        }
        for session in std::mem::take(&mut self.sessions) {
            self.say(&session.routing, session.id, &Message::Goodbye);
            self.shared.peers.lock().entry(session.node).connected = false;
        }
        self.shared.watchers.call();
    }

    fn poll(&self, more: bool) {
        let timing = &self.shared.options.timing;
        let timeout = if more {
            Duration::ZERO
        } else if self.sessions.is_empty() {
            timing.dead_after
        } else if self.log.published() > self.log.synced()
            || self.sessions.iter().any(|s| s.unsent.is_some())
        {
            SYNC_TICK
        } else {
            // What is appended next is not announced before it is synced; look often enough.
            SYNC_TICK.min(timing.heartbeat / 2)
        };
        let mut items = vec![
            self.router.as_poll_item(zmq::POLLIN),
            zmq::PollItem::from_fd(self.shared.waker.fd(), zmq::POLLIN),
        ];
        if let Some(zap) = &self.zap {
            items.push(zap.as_poll_item(zmq::POLLIN));
        }
        // An interrupted poll is a turn like any other.
        let _ = zmq::poll(&mut items, timeout.as_millis() as i64);
    }

    /// Reads what replicas said; true when there may be more.
    fn read(&mut self) -> bool {
        for _ in 0..READS_PER_TURN {
            let Ok(routing) = self.router.recv_bytes(zmq::DONTWAIT) else {
                return false;
            };
            let mut body = zmq::Message::new();
            let mut parts = 1;
            while self.router.get_rcvmore().unwrap_or(false) {
                parts += 1;
                let mut part = zmq::Message::new();
                if self.router.recv(&mut part, zmq::DONTWAIT).is_err() {
                    break;
                }
                if parts == 2 {
                    body = part;
                }
            }
            if parts != 2 {
                continue; // Not one of ours: PR4.
            }
            // Asked for before the body is borrowed; only a hello's is of interest.
            let address = if protocol::is_hello(&body) {
                body.gets("Peer-Address").unwrap_or_default().to_string()
            } else {
                String::new()
            };
            match protocol::decode(&body) {
                Ok((id, message)) => self.heard(routing, id, message, address),
                Err(error) => tracing::debug!(%error, "bytes on the replication port are ignored"),
            }
        }
        true
    }

    fn heard(&mut self, routing: Vec<u8>, id: u64, message: Message<'_>, address: String) {
        let found = self
            .sessions
            .iter()
            .position(|s| s.routing == routing && s.id == id);
        match (message, found) {
            (Message::Hello(hello), _) => self.hello(routing, id, &hello, address),
            (Message::Ack(ack), Some(at)) => self.acked(at, ack),
            (Message::Goodbye, Some(at)) => self.end(at, End::Gone("it said goodbye")),
            (Message::Ack(_), None) => {
                self.say(&routing, id, &Message::Reset);
            }
            // A goodbye of nobody; or what only a primary says.
            _ => {}
        }
    }

    fn hello(&mut self, routing: Vec<u8>, id: u64, hello: &Hello, address: String) {
        // A connection has one session: what it had before is over.
        if let Some(at) = self.sessions.iter().position(|s| s.routing == routing) {
            self.end(at, End::Gone("it began anew"));
        }
        let (protocol, reader) = match self.admit(hello) {
            Ok(admitted) => admitted,
            Err(refused) => {
                tracing::warn!(node = %hello.node, name = hello.name, reason = ?refused.reason, "refused a replica: {}", refused.text);
                self.say(&routing, id, &Message::Refused(refused));
                return;
            }
        };
        if let Some(at) = self.sessions.iter().position(|s| s.node == hello.node) {
            let text = format!(
                "node {} connected again from {address}; if that was another process, its data directory is a copy: remove the file `node` and the log from the copy and let it start empty",
                hello.node
            );
            self.end(
                at,
                End::Refuse(Refused {
                    reason: Reason::NodeInUse,
                    at: Lsn::ZERO,
                    text,
                }),
            );
        }
        let now = Instant::now();
        {
            let mut peers = self.shared.peers.lock();
            let peer = peers.entry(hello.node);
            peer.name.clone_from(&hello.name);
            peer.address.clone_from(&address);
            peer.connected = true;
            peer.heard = Some(now);
            // What it says it holds it has verified and synced (PE2).
            peer.received = hello.end;
            peer.durable = hello.end;
            peer.applied = peer.applied.min(hello.end);
            peer.sent = hello.end;
            peer.slot_lost = false;
        }
        self.moved = true;
        let welcome = Welcome {
            protocol,
            log: self.log.log_id(),
            primary: self.log.node_id(),
            start: hello.end,
            epoch: self.log.epoch().number,
            positions: self.positions(),
            heartbeat_ms: u32::try_from(self.shared.options.timing.heartbeat.as_millis())
                .unwrap_or(u32::MAX),
        };
        tracing::info!(node = %hello.node, name = hello.name, %address, from = %hello.end, "a replica follows");
        self.say(&routing, id, &Message::Welcome(welcome));
        self.sessions.push(Session {
            routing,
            id,
            node: hello.node,
            reader,
            held: None,
            unsent: None,
            granted: Lsn::ZERO,
            heard: now,
            said: now,
            slot: None,
            slot_at: now,
        });
    }

    /// Judges a hello, and where it is accepted pins what is to be sent.
    fn admit(&self, hello: &Hello) -> Result<(u16, Reader), Refused> {
        let refuse = |reason, at, text: String| Err(Refused { reason, at, text });
        {
            let peers = self.shared.peers.lock();
            if let Some(other) = peers.live_namesake(&hello.name, hello.node) {
                return refuse(
                    Reason::NameInUse,
                    Lsn::ZERO,
                    format!(
                        "the name {:?} is in use by node {} at {}; give this replica another --name, or stop that one",
                        hello.name, other.node, other.address
                    ),
                );
            }
            let max = self.shared.options.replicas_max;
            if !peers.contains(hello.node) && peers.len() >= max {
                return refuse(
                    Reason::TooMany,
                    Lsn::ZERO,
                    format!(
                        "this primary knows {max} replicas, as many as it accepts; forget one that is gone, or raise its limit"
                    ),
                );
            }
        }
        let epochs = self.log.epochs();
        let own = Own {
            log: self.log.log_id(),
            epochs: &epochs,
            oldest: self.log.oldest(),
            synced: self.log.synced(),
        };
        let judged = judge(hello, &own, |at| match self.log.chain_at(at) {
            Ok(chain) => Ok(Some(chain)),
            Err(LogError::Closed) => Err("the log is closed".into()),
            Err(error @ (LogError::Io { .. } | LogError::Corrupt { .. })) => Err(error.to_string()),
            // No frame of this log begins there.
            Err(_) => Ok(None),
        });
        let protocol = judged.inspect_err(|refused| {
            if refused.reason == Reason::StalePrimary {
                let number = hello.epochs.last().map_or(0, |s| s.epoch.number);
                self.shared.replaced_by.fetch_max(number, Ordering::Relaxed);
            }
        })?;
        match self.log.reader(hello.end, ReadLimit::Synced) {
            Ok(reader) => Ok((protocol, reader)),
            Err(error) => refuse(
                match error {
                    LogError::Released { .. } => Reason::Released,
                    _ => Reason::NotNow,
                },
                hello.end,
                format!("the log can't be read from LSN {}: {error}", hello.end),
            ),
        }
    }

    fn acked(&mut self, at: usize, ack: Ack) {
        let now = Instant::now();
        let session = &mut self.sessions[at];
        session.heard = now;
        // Positions beyond what was sent would make promises about frames it can't have (PR4).
        let sent = session.next();
        if ack.received > sent || ack.durable > ack.received || ack.applied > ack.received {
            let refused = Refused {
                reason: Reason::NotNow,
                at: sent,
                text: "an acknowledgement beyond what was sent".into(),
            };
            return self.end(at, End::Refuse(refused));
        }
        session.granted = session.granted.max(ack.granted);
        let first = session.slot.is_none();
        let due = session.slot.is_some_and(|slot| slot < ack.durable)
            && now.duration_since(session.slot_at) >= SLOT_TICK;
        if first || due {
            session.slot = Some(ack.durable);
            session.slot_at = now;
            if let Err(error) = self.log.set_slot(&slot_name(session.node), ack.durable) {
                tracing::warn!(%error, node = %session.node, "the replica's slot could not be moved");
            }
        }
        let mut peers = self.shared.peers.lock();
        let peer = peers.entry(session.node);
        peer.heard = Some(now);
        let before = (peer.received, peer.durable, peer.applied);
        peer.received = peer.received.max(ack.received);
        peer.durable = peer.durable.max(ack.durable);
        peer.applied = peer.applied.max(ack.applied);
        self.moved |= before != (peer.received, peer.durable, peer.applied);
    }

    /// Sends frames to each replica in turn, as far as credit goes; true when some could still go.
    fn send_frames(&mut self) -> bool {
        let mut more = false;
        let mut at = 0;
        while at < self.sessions.len() {
            match self.send_to(at) {
                Ok(again) => {
                    more |= again;
                    at += 1;
                }
                Err(end) => self.end(at, end),
            }
        }
        more
    }

    fn send_to(&mut self, at: usize) -> Result<bool, End> {
        for _ in 0..SENDS_PER_TURN {
            let positions = self.positions();
            let session = &mut self.sessions[at];
            let (message, end) = match session.unsent.take() {
                Some(unsent) => unsent,
                None => match gather(session, &positions)? {
                    Some(gathered) => gathered,
                    None => return Ok(false),
                },
            };
            match send(&self.router, &session.routing, &message) {
                Sent::Yes => {
                    session.said = Instant::now();
                    self.shared.peers.lock().entry(session.node).sent = end;
                }
                Sent::NotNow => {
                    session.unsent = Some((message, end));
                    return Ok(false);
                }
                Sent::Gone => return Err(End::Gone("its connection is gone")),
            }
        }
        Ok(true)
    }

    /// Heartbeats, the dead, and a sync where a replica waits for one.
    fn tick(&mut self) {
        let now = Instant::now();
        let timing = self.shared.options.timing;
        let (published, synced) = (self.log.published(), self.log.synced());
        if now.duration_since(self.slots_seen) >= SLOT_TICK {
            self.slots_seen = now;
            self.end_those_whose_slot_is_lost();
        }
        let positions = self.positions();
        // Who begins to wait for durable acknowledgements does not wait for a heartbeat.
        let at_once = positions.sync_now && !self.said_sync_now;
        self.said_sync_now = positions.sync_now;
        let mut wants_sync = false;
        let mut at = 0;
        while at < self.sessions.len() {
            let session = &self.sessions[at];
            if now.duration_since(session.heard) > timing.dead_after {
                self.end(at, End::Gone("it was silent for too long"));
                continue;
            }
            let next = session.next();
            wants_sync |= next >= synced && session.granted > next;
            if at_once || now.duration_since(session.said) >= timing.heartbeat {
                let (routing, id) = (session.routing.clone(), session.id);
                self.sessions[at].said = now;
                let beat = Message::Heartbeat(positions);
                if matches!(self.say(&routing, id, &beat), Sent::Gone) {
                    self.end(at, End::Gone("its connection is gone"));
                    continue;
                }
            }
            at += 1;
        }
        if wants_sync && published > synced {
            self.log.request_sync(published);
        }
    }

    /// A replica past its slot's cap is told to resynchronise (R2); its reader would hold the log for ever.
    fn end_those_whose_slot_is_lost(&mut self) {
        for slot in self
            .log
            .slots()
            .into_iter()
            .filter(|slot| slot.state == SlotState::Lost)
        {
            let Some(node) = super::slot_node(&slot.name) else {
                continue;
            };
            if let Some(at) = self.sessions.iter().position(|s| s.node == node) {
                let refused = Refused {
                    reason: Reason::Released,
                    at: slot.position,
                    text: format!(
                        "the replica fell further behind than its slot's cap allows, at LSN {}; if the log is gone when it comes back, it must be rebuilt: empty its data directory",
                        slot.position
                    ),
                };
                self.end(at, End::Refuse(refused));
            }
            let mut peers = self.shared.peers.lock();
            if peers.contains(node) {
                peers.entry(node).slot_lost = true;
            }
        }
    }

    fn end(&mut self, at: usize, end: End) {
        let session = self.sessions.remove(at);
        match end {
            End::Gone(why) => {
                tracing::info!(node = %session.node, "a replica is gone: {why}");
            }
            End::Refuse(refused) => {
                tracing::warn!(node = %session.node, reason = ?refused.reason, "a replica was sent away: {}", refused.text);
                let lost = refused.reason == Reason::Released;
                self.say(&session.routing, session.id, &Message::Refused(refused));
                self.shared.peers.lock().entry(session.node).slot_lost = lost;
            }
        }
        let mut peers = self.shared.peers.lock();
        let peer = peers.entry(session.node);
        peer.connected = false;
        peer.address.clear();
        let durable = peer.durable;
        drop(peers);
        if session.slot.is_some_and(|slot| slot < durable)
            && let Err(error) = self.log.set_slot(&slot_name(session.node), durable)
        {
            tracing::warn!(%error, node = %session.node, "the replica's slot could not be moved");
        }
        self.moved = true;
    }

    fn positions(&self) -> PrimaryPositions {
        let options = &self.shared.options;
        let synced = self.log.synced();
        PrimaryPositions {
            synced,
            safe: match self.shared.safe.load(Ordering::Relaxed) {
                0 => synced,
                safe => Lsn(safe),
            },
            expiry_ms: options.expiry_clock.as_ref().map_or(0, |clock| clock()),
            sync_now: options.sync_now || self.shared.durable_waiters.load(Ordering::Relaxed) > 0,
        }
    }

    fn say(&self, routing: &[u8], id: u64, message: &Message<'_>) -> Sent {
        send(&self.router, routing, &protocol::encode(id, message))
    }
}

/// Sends one message to one connection. Never waits.
fn send(router: &zmq::Socket, routing: &[u8], message: &[u8]) -> Sent {
    // The first part decides: behind it, the second is always taken.
    match router.send(routing, zmq::SNDMORE | zmq::DONTWAIT) {
        Ok(()) => match router.send(message, zmq::DONTWAIT) {
            Ok(()) => Sent::Yes,
            Err(_) => Sent::Gone,
        },
        Err(zmq::Error::EAGAIN) => Sent::NotNow,
        Err(_) => Sent::Gone,
    }
}

/// Gathers the next message of frames, as far as there are synced ones and credit for them.
fn gather(
    session: &mut Session,
    positions: &PrimaryPositions,
) -> Result<Option<(Vec<u8>, Lsn)>, End> {
    let first = session.next();
    let mut builder = FramesBuilder::new(first);
    let mut end = first;
    while builder.frame_bytes() < FRAMES_MESSAGE_BYTES && end < session.granted {
        let frame = match session.held.take() {
            Some(frame) => frame,
            None => match session.reader.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return Err(unreadable(end, &error)),
            },
        };
        let len = frame.header.frame_len();
        // A large frame goes alone, so that no message is larger than the largest frame.
        if builder.frame_bytes() > 0 && builder.frame_bytes() + len > 2 * FRAMES_MESSAGE_BYTES {
            session.held = Some(frame);
            break;
        }
        builder.push(&frame.header, &frame.payload);
        end = frame.header.end();
    }
    Ok((end > first).then(|| (builder.finish(session.id, positions), end)))
}

fn unreadable(at: Lsn, error: &LogError) -> End {
    let reason = match error {
        LogError::Released { .. } => Reason::Released,
        _ => Reason::NotNow,
    };
    End::Refuse(Refused {
        reason,
        at,
        text: format!("the log can't be read on from LSN {at}: {error}"),
    })
}
