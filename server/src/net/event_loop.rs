//! The loop of one I/O thread.
//!
//! - E1: every connection with work that no event will announce is in `ready`; every connection that waits
//!   for a position, for room or for a count is in `held`, and the bell is armed before the loop sleeps.
//! - E2: one client's work per turn is bounded, so none starves the others.
//! - E3: the log is asked for a sync once per turn, for the greatest position that a reply of it needs.

use super::bell::Bell;
use super::conn::{Asked, Conn, Tally, Turn};
use super::{ACCEPT_TICK, Mailbox, NewClient, NotAccepted, Request};
use crate::acl::Acl;
use crate::audit::{GONE, STOPPING, Ticket};
use crate::node::Durability;
use crate::server::Shared;
use crate::session::{Ctx, Session};
use crossbeam_channel::{Receiver, Sender};
use esker_sync::deadline::behind;
use esker_wal::Lsn;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const LISTENER: Token = Token(usize::MAX);
const BELL: Token = Token(usize::MAX - 1);

/// How long the loop sleeps at most while something is held: deadlines and what rings no bell.
const HELD_TICK: Duration = Duration::from_millis(20);

/// What other threads tell this one.
#[derive(Debug)]
pub(crate) enum Inbox {
    Client(NewClient),
    Answer {
        client: u64,
        result: Result<(), String>,
    },
    /// A client's records were written, or were not; `at` is its place.
    Audited {
        at: usize,
        client: u64,
        result: Result<(), String>,
    },
    Stop {
        now: bool,
    },
}

pub(crate) struct EventLoop {
    number: usize,
    shared: Arc<Shared>,
    poll: Poll,
    bell: Arc<Bell>,
    listener: Option<TcpListener>,
    accept_again: bool,
    inbox: Receiver<Inbox>,
    peers: Vec<Mailbox>,
    next_peer: usize,
    requests: Sender<Request>,
    conns: Slab<Box<Conn>>,
    /// To run, this turn or the next.
    ready: Vec<usize>,
    /// To flush at the end of this turn.
    dirty: Vec<usize>,
    /// Waiting; see E1.
    held: Vec<usize>,
    /// Scratch of `held` and `ready`.
    spare: Vec<usize>,
    scratch: Vec<u8>,
    /// The safe position when `held` was last gone through.
    seen_safe: Lsn,
    /// The users whose clients are here, as of their last change.
    seen_users: u64,
    /// When those who wait for room last tried.
    room_tried: Instant,
    /// Of clients that are gone, what is being written of their next requests (CN4).
    forgone: Vec<(u64, Ticket)>,
    /// Set by a stop: when what is left is cut off.
    stopping: Option<Instant>,
    /// Memory of this thread's clients as last counted.
    memory: usize,
    memory_counted: Instant,
}

impl EventLoop {
    pub(crate) fn new(
        number: usize,
        mut listener: Option<TcpListener>,
        inbox: Receiver<Inbox>,
        shared: Arc<Shared>,
        requests: Sender<Request>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let bell = Arc::new(Bell::new(Waker::new(poll.registry(), BELL)?));
        if let Some(listener) = &mut listener {
            poll.registry()
                .register(listener, LISTENER, Interest::READABLE)?;
        }
        Ok(EventLoop {
            number,
            shared,
            poll,
            bell,
            listener,
            accept_again: false,
            inbox,
            peers: Vec::new(),
            next_peer: 0,
            requests,
            conns: Slab::new(),
            ready: Vec::new(),
            dirty: Vec::new(),
            held: Vec::new(),
            spare: Vec::new(),
            scratch: vec![0; 64 << 10],
            seen_safe: Lsn::ZERO,
            seen_users: 0,
            room_tried: Instant::now(),
            forgone: Vec::new(),
            stopping: None,
            memory: 0,
            memory_counted: Instant::now(),
        })
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }

    pub(crate) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    pub(crate) fn set_peers(&mut self, peers: Vec<Mailbox>) {
        self.peers = peers;
    }

    pub(crate) fn run(&mut self) {
        let mut events = Events::with_capacity(1024);
        loop {
            let timeout = self.sleep_for();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "waiting for events failed; stopping");
                    let _ = self.requests.send(Request::Shutdown { now: true });
                    return;
                }
            }
            let shared = Arc::clone(&self.shared);
            let mut scratch = std::mem::take(&mut self.scratch);
            shared.node.refresh();
            let mut turn = Turn {
                limits: &shared.limits,
                engine: shared.node.engine(),
                server: &*shared,
                node: &shared.node,
                audit: shared.audit.as_deref(),
                acl: shared.acl.enforced(),
                safe: shared.node.safe(),
                now: Instant::now(),
                room: false,
                wanted: Lsn::ZERO,
                wanted_sync: Lsn::ZERO,
                tally: Tally::default(),
                scratch: &mut scratch,
            };
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_again = true,
                    BELL => turn.room = true,
                    Token(at) => {
                        if let Some(conn) = self.conns.get_mut(at) {
                            conn.note_events(event);
                            if !conn.in_ready {
                                conn.in_ready = true;
                                self.ready.push(at);
                            }
                        }
                    }
                }
            }
            if self.accept_again {
                self.accept(&turn);
            }
            while let Ok(message) = self.inbox.try_recv() {
                self.take(message, &mut turn);
            }
            if turn.now.saturating_duration_since(self.room_tried) >= HELD_TICK {
                turn.room = true;
            }
            if turn.room {
                self.room_tried = turn.now;
            }
            self.run_ready(&mut turn);
            if let Some(acl) = turn.acl {
                self.shut_out(acl);
            }
            self.ask_for_sync(&turn);
            // What was synced meanwhile may leave at once.
            turn.safe = shared.node.safe();
            turn.now = Instant::now();
            self.revisit_held(&mut turn);
            self.flush_dirty(&mut turn);
            self.count_memory(&turn);
            shared.stats.add(&turn.tally);
            self.scratch = scratch;
            if self
                .stopping
                .is_some_and(|deadline| self.is_drained(deadline))
            {
                self.end();
                return;
            }
        }
    }

    /// How long to sleep; arms the bell where somebody waits for it (E1).
    fn sleep_for(&mut self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let mut timeout = self.accept_again.then_some(ACCEPT_TICK);
        if !self.held.is_empty() {
            self.bell.arm();
            if self.shared.node.safe() != self.seen_safe {
                return Some(Duration::ZERO);
            }
            timeout = Some(HELD_TICK);
        }
        if self.stopping.is_some() {
            timeout = Some(timeout.unwrap_or(HELD_TICK).min(HELD_TICK));
        }
        timeout
    }

    fn accept(&mut self, turn: &Turn<'_>) {
        self.accept_again = false;
        for _ in 0..turn.limits.turn_accepts {
            let Some(listener) = &self.listener else {
                return;
            };
            match listener.accept() {
                Ok((mut stream, addr)) => {
                    let stats = &self.shared.stats;
                    stats.connections.fetch_add(1, Ordering::Relaxed);
                    if !self.shared.registry.admit(turn.limits.clients_max) {
                        stats.rejected.fetch_add(1, Ordering::Relaxed);
                        if let Some(audit) = &self.shared.audit {
                            audit.turned_away(addr);
                        }
                        // Best effort: its buffer is empty, so this does not block.
                        let _ = stream.write(b"-ERR max number of clients reached\r\n");
                        continue;
                    }
                    let client = NewClient { stream, addr };
                    let to = self.next_peer % self.peers.len().max(1);
                    self.next_peer = self.next_peer.wrapping_add(1);
                    if to == self.number {
                        self.adopt(client);
                    } else {
                        self.peers[to].send(Inbox::Client(client));
                    }
                }
                Err(error) => match NotAccepted::of(&error, &self.shared.stats.accept_errors) {
                    NotAccepted::Nobody => return,
                    NotAccepted::Next => {}
                    NotAccepted::Later => {
                        self.accept_again = true;
                        return;
                    }
                },
            }
        }
        // There may be more: the event is edge-triggered.
        self.accept_again = true;
        self.bell.wake();
    }

    fn adopt(&mut self, client: NewClient) {
        let NewClient { stream, addr } = client;
        if self.stopping.is_some() {
            self.shared.registry.unadmit();
            return;
        }
        let local_addr = stream.local_addr().unwrap_or(addr);
        // Neither changes what is right, only what is fast or noticed early.
        let _ = stream.set_nodelay(true);
        let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
        let _ = rustix::net::sockopt::set_tcp_keepidle(&stream, Duration::from_secs(300));
        let mut session = Session::new(self.shared.registry.next_id(), addr, local_addr);
        if let Some(acl) = self.shared.acl.enforced() {
            session.login = acl.arrives();
        }
        let entry = self.shared.registry.add(&session);
        let slot = self.conns.vacant_entry();
        let at = slot.key();
        let mut conn = Box::new(Conn::new(stream, session, entry));
        if let Some(audit) = &self.shared.audit {
            conn.open(audit);
        }
        let registered = self.poll.registry().register(
            &mut conn.stream,
            Token(at),
            Interest::READABLE | Interest::WRITABLE,
        );
        if let Err(error) = registered {
            tracing::warn!(%error, "registering a client failed");
            self.shared.registry.remove(conn.entry.id);
            return;
        }
        slot.insert(conn);
        self.dirty.push(at);
        self.ask(at);
    }

    /// Has a client's records written where that may take long.
    fn ask(&mut self, at: usize) {
        let (Some(audit), Some(conn)) = (&self.shared.audit, self.conns.get_mut(at)) else {
            return;
        };
        let due = conn.asking();
        if !due.is_empty() {
            let (client, mailbox) = (conn.session.id, self.peers[self.number].clone());
            audit.ask(due, move |result| {
                mailbox.send(Inbox::Audited { at, client, result });
            });
        }
    }

    fn take(&mut self, message: Inbox, turn: &mut Turn<'_>) {
        match message {
            Inbox::Client(client) => self.adopt(client),
            Inbox::Answer { client, result } => {
                let found = self
                    .conns
                    .iter_mut()
                    .find(|(_, conn)| conn.session.id == client);
                if let Some((at, conn)) = found {
                    conn.answer(result, turn);
                    self.dirty.push(at);
                    if !conn.in_ready {
                        conn.in_ready = true;
                        self.ready.push(at);
                    }
                }
            }
            Inbox::Audited { at, client, result } => {
                self.forgo(client, &result);
                let found = self.conns.get_mut(at);
                if let Some(conn) = found.filter(|conn| conn.session.id == client) {
                    conn.audited(result, turn);
                    self.dirty.push(at);
                    if !conn.in_ready {
                        conn.in_ready = true;
                        self.ready.push(at);
                    }
                }
            }
            Inbox::Stop { now } => {
                if let Some(mut listener) = self.listener.take() {
                    let _ = self.poll.registry().deregister(&mut listener);
                }
                self.accept_again = false;
                let wait = if now {
                    Duration::ZERO
                } else {
                    turn.limits.drain_timeout
                };
                let deadline = behind(turn.now, wait);
                self.stopping = Some(self.stopping.map_or(deadline, |old| old.min(deadline)));
                for (at, conn) in &mut self.conns {
                    conn.finish();
                    self.dirty.push(at);
                }
            }
        }
    }

    fn run_ready(&mut self, turn: &mut Turn<'_>) {
        let mut ready = std::mem::replace(&mut self.ready, std::mem::take(&mut self.spare));
        for &at in &ready {
            let Some(conn) = self.conns.get_mut(at) else {
                continue;
            };
            conn.in_ready = false;
            let before = turn.tally.commands;
            let asked = conn.run(turn);
            if turn.tally.commands != before {
                conn.entry.refresh(&conn.session, conn.memory(), turn.now);
            }
            match asked {
                Asked::Nothing => {}
                // Below.
                Asked::Audit => {}
                Asked::More => {
                    conn.in_ready = true;
                    self.ready.push(at);
                }
                Asked::Promote => {
                    let _ = self.requests.send(Request::Promote {
                        thread: self.number,
                        client: conn.session.id,
                        ticket: conn.promoting(),
                    });
                }
                Asked::Shutdown { now } => {
                    let _ = self.requests.send(Request::Shutdown { now });
                }
            }
            if conn.is_held() && !conn.in_held {
                conn.in_held = true;
                self.held.push(at);
            }
            self.dirty.push(at);
            self.ask(at);
        }
        ready.clear();
        self.spare = ready;
    }

    /// Lets clients go whose users are none any more.
    fn shut_out(&mut self, acl: &Acl) {
        let generation = acl.generation();
        if generation == self.seen_users {
            return;
        }
        let mut all = true;
        for (at, conn) in &mut self.conns {
            if !acl.keeps(&conn.session.login) {
                all &= conn.shut_out();
                self.dirty.push(at);
            }
        }
        // Those with something under way are met again when that ends, which is an event.
        if all {
            self.seen_users = generation;
        }
    }

    /// One request for all that ran in this turn (E3).
    fn ask_for_sync(&self, turn: &Turn<'_>) {
        let node = &self.shared.node;
        let Some(engine) = turn.engine else {
            return;
        };
        let mut wanted = turn.wanted_sync;
        // Replicas get synced frames, so whoever waits for them waits for the sync too.
        if node.promise().durability == Durability::Always || node.promise().min_sync_replicas > 0 {
            wanted = wanted.max(turn.wanted);
        }
        if wanted > Lsn::ZERO {
            let log = engine.store().log();
            if wanted > log.synced() {
                log.request_sync(wanted);
            }
        }
    }

    fn revisit_held(&mut self, turn: &mut Turn<'_>) {
        self.seen_safe = turn.safe;
        if self.held.is_empty() {
            return;
        }
        let failure = self.shared.node.poison();
        let mut held = std::mem::take(&mut self.held);
        held.retain(|&at| {
            let Some(conn) = self.conns.get_mut(at) else {
                return false;
            };
            if conn.revisit(turn, failure.as_deref()) && !conn.in_ready {
                conn.in_ready = true;
                self.ready.push(at);
            }
            if conn.has_output() || conn.is_over() {
                self.dirty.push(at);
            }
            conn.in_held = conn.is_held();
            conn.in_held
        });
        self.held = held;
    }

    fn flush_dirty(&mut self, turn: &mut Turn<'_>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for at in dirty.drain(..) {
            let Some(conn) = self.conns.get_mut(at) else {
                continue;
            };
            conn.settle(turn);
            conn.flush(&mut turn.tally, turn.limits);
            if conn.is_over() {
                self.drop_conn(at, turn);
            } else if conn.wants_turn(turn.limits) && !conn.in_ready {
                conn.in_ready = true;
                self.ready.push(at);
            }
        }
        self.dirty = dirty;
    }

    fn drop_conn(&mut self, at: usize, turn: &Turn<'_>) {
        let mut conn = self.conns.remove(at);
        if conn.in_held {
            self.held.retain(|&other| other != at);
        }
        if conn.in_ready {
            self.ready.retain(|&other| other != at);
        }
        let _ = self.poll.registry().deregister(&mut conn.stream);
        if let Some(audit) = turn.audit {
            match conn.forgone() {
                Some(Ok(ticket)) => audit.not_executed(&ticket, self.why_not()),
                Some(Err(ticket)) => self.forgone.push((conn.session.id, ticket)),
                None => {}
            }
            audit.closed(&conn.session);
        }
        crate::commands::disconnected(&mut Ctx {
            session: &mut conn.session,
            engine: turn.engine,
            server: turn.server,
        });
        self.shared.registry.remove(conn.entry.id);
    }

    /// CN4: the records of a client that is gone were written, or were not.
    fn forgo(&mut self, client: u64, result: &Result<(), String>) {
        let Some(at) = (self.forgone.iter()).position(|(gone, _)| *gone == client) else {
            return;
        };
        let (_, ticket) = self.forgone.swap_remove(at);
        if let Some(audit) = &self.shared.audit {
            match result {
                Ok(()) => audit.not_executed(&ticket, self.why_not()),
                Err(_) => audit.unrecorded(&ticket),
            }
        }
    }

    fn why_not(&self) -> &'static str {
        match self.stopping {
            Some(_) => STOPPING,
            None => GONE,
        }
    }

    /// Counts what the clients hold now and then, and cuts off the largest above the bound of all.
    fn count_memory(&mut self, turn: &Turn<'_>) {
        if turn.now.saturating_duration_since(self.memory_counted) < Duration::from_millis(100) {
            return;
        }
        self.memory_counted = turn.now;
        let mut sum = 0;
        let mut largest = (0, None);
        for (at, conn) in &self.conns {
            let memory = conn.memory();
            sum += memory;
            if memory > largest.0 {
                largest = (memory, Some(at));
            }
        }
        let total = &self.shared.stats.client_memory;
        let before = total.fetch_add(sum, Ordering::Relaxed);
        total.fetch_sub(self.memory, Ordering::Relaxed);
        let now = before + sum - self.memory;
        self.memory = sum;
        if now > turn.limits.memory_max
            && let (bytes, Some(at)) = largest
            && bytes > turn.limits.output_soft
        {
            let conn = &mut self.conns[at];
            tracing::warn!(client = conn.session.id, addr = %conn.session.addr, bytes,
                "closing the client that holds most memory: all together hold more than allowed");
            conn.kill();
            self.drop_conn(at, turn);
        }
    }

    fn is_drained(&self, deadline: Instant) -> bool {
        let idle = || !self.conns.iter().any(|(_, conn)| conn.is_busy());
        Instant::now() >= deadline || (self.forgone.is_empty() && idle())
    }

    fn end(&mut self) {
        let shared = Arc::clone(&self.shared);
        let at: Vec<usize> = self.conns.iter().map(|(at, _)| at).collect();
        for at in at {
            let mut conn = self.conns.remove(at);
            if let Some(audit) = &shared.audit {
                match conn.forgone() {
                    Some(Ok(ticket)) => audit.not_executed(&ticket, STOPPING),
                    Some(Err(ticket)) => self.forgone.push((conn.session.id, ticket)),
                    None => {}
                }
                audit.closed(&conn.session);
            }
            crate::commands::disconnected(&mut Ctx {
                session: &mut conn.session,
                engine: shared.node.engine(),
                server: &*shared,
            });
            shared.registry.remove(conn.entry.id);
        }
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Inbox::Client(_) => shared.registry.unadmit(),
                Inbox::Audited { client, result, .. } => self.forgo(client, &result),
                Inbox::Answer { .. } | Inbox::Stop { .. } => {}
            }
        }
        // Of these the intents are written yet, or are not: what was not executed is said all the same.
        for (_, ticket) in self.forgone.drain(..) {
            if let Some(audit) = &shared.audit {
                audit.not_executed(&ticket, STOPPING);
            }
        }
    }
}
