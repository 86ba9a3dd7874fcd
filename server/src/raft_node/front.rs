//! Clients of a node. Those that only write are served together by one thread (`writers`); one that reads has a thread of its own, which reads what
//! has come, runs it, and answers it in one write.
//!
//! - RF1: a client's commands take effect in its order. Writes that came together go into the log as one batch, up to a bound; a read
//!   behind them waits for them.
//! - RF2 (C3): with `linearizable` a read runs on the state behind a barrier that began after the read had come.
//! - RF3: what is certainly not executed is tried again until the request's time is over, then answered `CLUSTERDOWN`; what may have been
//!   executed is never tried again and answered `UNKNOWNOUTCOME`.
//! - RF4 (E1): a stop shuts the sockets for reading: each client's thread answers what it has, ends, and is joined.

use super::admin;
use super::app::Reading;
use super::locks::{self, Conditional};
use super::slots::{self, OnFollower};
use super::transactions;
use super::writers::{Answered, LISTENER, WAKE, Writers};
use crate::acl::{Acl, Login, NOAUTH, Passes};
use crate::audit::{self, Audit, Due, Ended, InRaft, Ticket};
use crate::commands::replicated::{self, Batch, Class};
use crate::commands::{self, store_error};
use crate::engine::cursors::Cursors;
use crate::resp::{Limits, Parsed, Parser};
use crate::{Ctx, Flow, Reply, Session};
use bytes::Bytes;
use crossbeam_channel::Sender;
use esker_lsm::StoreError;
use esker_raft::core::NodeId;
use esker_raft::lock::{Guard, GuardAnswer, LockService, guarded};
use esker_raft::machine::StateReader;
use esker_raft::runtime::{NodeHandle, Outcome, ProposeError, ReadError};
use esker_sync::deadline::after;
use mio::{Interest, Poll, Waker};
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a read answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ReadMode {
    /// The latest state, on the node that is asked: a quorum confirms each read (ReadIndex). `follower` is the same.
    #[default]
    #[value(alias = "follower")]
    Linearizable,
    /// The latest state, as long as no node's clock runs faster than another's by more than --clock-drift-max: the leader alone confirms
    Lease,
    /// What this node has applied, which may be old; answered also without a leader.
    Stale,
}

/// A client that takes no reply for so long is cut off.
pub(super) const WRITE_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a stop waits for clients to take their replies.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// After so long without an answer a barrier is begun anew.
const BARRIER_TIME: Duration = Duration::from_secs(1);
pub(super) const READ_BYTES: usize = 64 << 10;
/// Replies that are gathered before they are sent.
pub(super) const OUTPUT_BYTES: usize = 1 << 20;
/// Longest argument. A command has to fit into an entry of the Raft log with what surrounds it.
const BULK_MAX: usize = 8 << 20;
/// Longest request.
pub(super) const REQUEST_MAX: usize = 12 << 20;

/// What all clients' threads share.
pub(super) struct Shared {
    pub(super) node: NodeId,
    pub(super) handle: NodeHandle,
    pub(super) reader: StateReader,
    pub(super) cluster: u64,
    pub(super) read: ReadMode,
    pub(super) on_follower: OnFollower,
    /// How long a command may take.
    pub(super) timeout: Duration,
    pub(super) clients_max: usize,
    pub(super) addr: SocketAddr,
    pub(super) advertise: String,
    pub(super) run_id: String,
    pub(super) started: Instant,
    pub(super) config: Vec<(String, String)>,
    pub(super) audit: Option<Arc<Audit>>,
    pub(super) acl: Arc<Acl>,
    pub(super) cursors: Cursors,
    pub(super) locks: LockService,
    pub(super) stopping: AtomicBool,
    pub(super) asked: Sender<bool>,
    pub(super) commands: AtomicU64,
    pub(super) connections: AtomicU64,
    /// Under it none is taken but that of the users, to look.
    pub(super) clients: Mutex<BTreeMap<u64, Client>>,
}

pub(super) struct Client {
    pub(super) stream: TcpStream,
    pub(super) addr: SocketAddr,
    pub(super) login: Login,
    /// Commands queued; -1 outside MULTI.
    pub(super) queued: i64,
}

/// The running front end.
pub(super) struct Front {
    shared: Arc<Shared>,
    answered: Arc<Answered>,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    pub(super) fn start(listener: TcpListener, shared: Arc<Shared>) -> io::Result<Front> {
        listener.set_nonblocking(true)?;
        let clients = Arc::downgrade(&shared);
        shared.acl.tell(move || {
            if let Some(shared) = clients.upgrade() {
                shared.shut_out();
            }
        });
        let mut listener = mio::net::TcpListener::from_std(listener);
        let poll = Poll::new()?;
        let registry = poll.registry();
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        let answered = Arc::new(Answered::new(Waker::new(registry, WAKE)?));
        let writers = Writers::new(shared.clone(), poll, listener, answered.clone());
        let thread = std::thread::Builder::new()
            .name("esker-clients".into())
            .spawn(move || writers.run())?;
        Ok(Front {
            shared,
            answered,
            thread: Some(thread),
        })
    }

    /// RF4. `now` waits for no client. Those that are not answered in time may wait for the node: then `late` ends it.
    pub(super) fn close(&mut self, now: bool, late: impl FnOnce()) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // It fails only when the eventfd is gone, and with it the thread.
        let _ = self.answered.waker.wake();
        let how = if now { Shutdown::Both } else { Shutdown::Read };
        let end = Instant::now() + DRAIN_TIME_MAX;
        let mut late = Some(late);
        while !thread.is_finished() {
            let how = if Instant::now() > end {
                if let Some(late) = late.take() {
                    late();
                }
                Shutdown::Both
            } else {
                how
            };
            for client in self.shared.clients.lock().values() {
                // It fails where the client is gone.
                let _ = client.stream.shutdown(how);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.join().is_err() {
            tracing::error!("a thread of the front end panicked; see above");
        }
    }
}

/// Joins some of the clients' threads.
pub(super) fn join(threads: &mut Vec<JoinHandle<()>>, which: impl Fn(&JoinHandle<()>) -> bool) {
    for thread in threads.extract_if(.., |thread| which(thread)) {
        if thread.join().is_err() {
            tracing::error!("a client's thread panicked; see above");
        }
    }
}

/// Forgets a client, also where its thread panics.
pub(super) struct Gone<'a>(pub(super) &'a Shared, pub(super) u64);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.clients.lock().remove(&self.1);
    }
}

impl Shared {
    /// Ends clients whose users are none any more. What they have asked is answered; where it is in a thread's hands, its next command ends it.
    fn shut_out(&self) {
        for client in self.clients.lock().values() {
            if !self.acl.keeps(&client.login) {
                // It fails where the client is gone.
                let _ = client.stream.shutdown(Shutdown::Read);
            }
        }
    }
}

/// Bounds of a client's requests.
pub(super) fn limits(login: &Login) -> Limits {
    let limits = Limits {
        bulk_bytes_max: BULK_MAX,
        request_bytes_max: REQUEST_MAX,
        ..Limits::default()
    };
    match login.is_open() {
        true => limits,
        false => limits.unauthenticated(),
    }
}

/// Why a read is not answered.
enum Unread {
    Barrier(ReadError),
    Store(StoreError),
}

/// One client.
pub(super) struct Serving<'a> {
    pub(super) shared: &'a Shared,
    pub(super) session: Box<Session>,
    pub(super) out: Reply,
    pub(super) batch: Batch,
    /// The batch takes effect only with it.
    guard: Option<Guard>,
    /// What is to be recorded of commands in the batch, by their place.
    pub(super) audited: Vec<(usize, Ticket)>,
    /// What is to be recorded of the command that runs.
    ticket: Option<Ticket>,
    /// The entry that has the transaction that ran.
    pub(super) entry: Option<InRaft>,
    /// What has come is covered by a barrier.
    pub(super) fresh: bool,
    /// A client of Redis Cluster that reads where it is.
    pub(super) reads_here: bool,
}

impl<'a> Serving<'a> {
    pub(super) fn new(shared: &'a Shared, session: Box<Session>) -> Self {
        let protocol = session.protocol;
        Serving {
            shared,
            batch: Batch::new(protocol),
            guard: None,
            audited: Vec::new(),
            ticket: None,
            entry: None,
            session,
            out: Reply::new(protocol),
            fresh: false,
            reads_here: false,
        }
    }

    /// Serves until the client goes. `input` has come already.
    pub(super) fn serve(&mut self, mut stream: TcpStream, mut input: Vec<u8>) -> io::Result<()> {
        let mut parser = Parser::default();
        let mut scratch = vec![0; READ_BYTES];
        loop {
            let mut at = 0;
            let mut closing = false;
            self.fresh = false;
            while !closing {
                let limits = limits(&self.session.login);
                match parser.parse(&input[at..], &limits) {
                    Ok(Parsed::Incomplete { missing }) => {
                        closing = input.len() - at + missing.min(1) > limits.request_bytes_max;
                        break;
                    }
                    Ok(Parsed::Nothing { len }) => {
                        parser.reset();
                        at += len;
                    }
                    Ok(Parsed::Request { len }) => {
                        let argv: SmallVec<[&[u8]; 8]> =
                            parser.args(&input[at..at + len]).collect();
                        closing = self.request(&argv, Some(&stream));
                        drop(argv);
                        parser.reset();
                        at += len;
                    }
                    Err(error) => {
                        self.flush();
                        self.out.error(&format!("ERR {error}"));
                        self.malformed();
                        closing = true;
                    }
                }
                if self.out.len() >= OUTPUT_BYTES {
                    self.send(&mut stream)?;
                }
            }
            self.flush();
            self.send(&mut stream)?;
            if closing {
                return Ok(());
            }
            input.drain(..at);
            if input.is_empty() && input.capacity() > 4 * READ_BYTES {
                input = Vec::new();
            }
            let n = loop {
                match stream.read(&mut scratch) {
                    Ok(0) => return Ok(()),
                    Ok(n) => break n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            };
            input.extend_from_slice(&scratch[..n]);
        }
    }

    /// Whether it can stand in a batch with others, and is to be executed through this node; then whether that batch can be joined with other clients'.
    pub(super) fn gathers(&self, argv: &[&[u8]]) -> Option<bool> {
        if self.session.tx.queueing() {
            return None;
        }
        let mut error = Reply::new(self.session.protocol);
        match replicated::classify(argv, &mut error) {
            Class::Write {
                alone: false,
                joins,
            } if self.shared.on_follower == OnFollower::Forward
                || slots::away(self.shared, argv).is_none() =>
            {
                Some(joins)
            }
            _ => None,
        }
    }

    /// Whether running it may wait for the cluster.
    pub(super) fn may_wait(&self, argv: &[&[u8]]) -> bool {
        if self.session.tx.queueing() {
            return transactions::executes(argv);
        }
        let mut error = Reply::new(self.session.protocol);
        let class = replicated::classify(argv, &mut error);
        matches!(class, Class::Write { .. } | Class::Read)
            || transactions::watches(argv)
            || slots::is_for(argv)
            || locks::is_for(argv)
            || admin::words(argv).is_some()
    }

    fn send(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(self.out.as_bytes())?;
        let big = self.out.capacity() > OUTPUT_BYTES;
        self.out.truncate(0);
        if big {
            self.out = Reply::new(self.session.protocol);
        }
        Ok(())
    }

    /// Whether what is to be recorded of it has to be waited for before it runs.
    pub(super) fn audit_waits(&self, argv: &[&[u8]]) -> bool {
        let Some(audit) = &self.shared.audit else {
            return false;
        };
        (audit.consider(&self.session, argv)).is_some_and(|ticket| audit.must_wait(&ticket))
    }

    /// What is to be recorded of one that may run; else what it is answered. Of one that goes with a `batch` intents that have to be waited for are left to that.
    fn audit_begin(&self, argv: &[&[u8]], batch: bool) -> Result<Option<Ticket>, String> {
        let Some(audit) = &self.shared.audit else {
            return Ok(None);
        };
        let Some(ticket) = audit.consider(&self.session, argv) else {
            return Ok(None);
        };
        if batch && audit.must_wait(&ticket) {
            return Ok(Some(ticket));
        }
        let written = audit.intend_here(&ticket);
        if written.is_err() {
            audit.count_refused();
        }
        written.map(|()| Some(ticket))
    }

    /// Whether the client is served, once what has to be recorded first is; else answers it.
    pub(super) fn opens(&mut self, due: Vec<Due>) -> bool {
        let Some(audit) = &self.shared.audit else {
            return true;
        };
        let written = audit.write(due);
        if let Err(why) = &written {
            audit.count_refused();
            self.out.error(why);
        }
        written.is_ok()
    }

    /// What the client sent is no command.
    pub(super) fn malformed(&self) {
        if let Some(audit) = &self.shared.audit {
            audit.tell(audit.malformed(&self.session));
        }
    }

    /// Gathers one that [`Serving::gathers`], and that does not wait. False where it comes again once what was gathered is answered.
    pub(super) fn gather(&mut self, argv: &[&[u8]], joins: bool) -> bool {
        match self.audit_begin(argv, false) {
            Ok(ticket) => {
                let at = self.batch.commands();
                self.audited.extend(ticket.map(|ticket| (at, ticket)));
                self.batch.push(argv, joins);
                true
            }
            Err(_) if self.batch.commands() > 0 => false,
            Err(why) => {
                self.out.error(&why);
                true
            }
        }
    }

    /// Whether a command may run at all.
    pub(super) fn passes(&mut self, argv: &[&[u8]]) -> Passes {
        match self.shared.acl.enforced() {
            Some(acl) => acl.passes(&mut self.session.login, argv),
            None => Passes::Yes,
        }
    }

    /// Answers one that may not; whether the connection is to be closed.
    fn shut_out(&mut self, passes: Passes, argv: &[&[u8]]) -> bool {
        self.flush();
        self.session.tx.refused();
        let reply = format!("-{NOAUTH}\r\n");
        if let Some(audit) = &self.shared.audit {
            let ended = Ended {
                reply: reply.as_bytes(),
                ..Ended::default()
            };
            audit.tell(audit.finish(&self.session, None, argv, ended));
        }
        let gone = passes == Passes::Gone;
        if !gone {
            self.out.raw(reply.as_bytes());
        }
        gone
    }

    /// Who it is may have changed: others are to know it.
    pub(super) fn tell_login(&self) {
        if self.shared.acl.enforced().is_none() {
            return;
        }
        if let Some(client) = self.shared.clients.lock().get_mut(&self.session.id) {
            client.login = self.session.login.clone();
        }
    }

    /// Runs one; whether the connection is to be closed.
    pub(super) fn request(&mut self, argv: &[&[u8]], stream: Option<&TcpStream>) -> bool {
        let passes = self.passes(argv);
        if passes != Passes::Yes {
            return self.shut_out(passes, argv);
        }
        let Some(audit) = self.shared.audit.clone() else {
            return self.run(argv, stream);
        };
        let mut error = Reply::new(self.session.protocol);
        let batched = !self.session.tx.queueing()
            && (matches!(replicated::classify(argv, &mut error), Class::Write { .. })
                || matches!(locks::conditional(argv), Conditional::If(..)));
        let ticket = match self.audit_begin(argv, batched) {
            Ok(ticket) => ticket,
            Err(why) => {
                self.flush();
                self.forget(argv);
                self.out.error(&why);
                return false;
            }
        };
        if batched {
            // It is recorded with its batch, or is answered at once behind what was gathered before.
            let mark = self.out.len();
            self.ticket = ticket;
            let ends = self.run(argv, stream);
            if let Some(ticket) = self.ticket.take() {
                // It was not executed; that it was asked for stands before that.
                if audit.must_wait(&ticket) {
                    let _ = audit.intend_here(&ticket);
                }
                let replies = &self.out.as_bytes()[mark..];
                self.audit_write(audit.finish_last(&self.session, ticket, argv, replies));
            }
            return ends;
        }
        self.flush();
        let (mark, begun) = (self.out.len(), audit.clock());
        let ends = self.run(argv, stream);
        // Of this request, whether it is recorded or not.
        let entry = self.entry.take();
        let reply = match self.out.len() > mark {
            true => &self.out.as_bytes()[mark..],
            // SHUTDOWN answers nothing.
            false => b"+\r\n",
        };
        let slow = audit.slow_since(begun);
        if ticket.is_some() || reply[0] == b'-' || slow.is_some() {
            let ended = Ended {
                reply,
                slow,
                entry,
                ..Ended::default()
            };
            self.audit_write(audit.finish(&self.session, ticket, argv, ended));
        }
        ends
    }

    fn audit_write(&self, due: Vec<Due>) {
        if let (Some(audit), false) = (&self.shared.audit, due.is_empty()) {
            // It was executed, whatever becomes of the record.
            let _ = audit.write(due);
        }
    }

    fn run(&mut self, argv: &[&[u8]], stream: Option<&TcpStream>) -> bool {
        // Relaxed: a count.
        self.shared.commands.fetch_add(1, Ordering::Relaxed);
        let (guard, argv) = match locks::conditional(argv) {
            Conditional::No => (None, argv),
            Conditional::If(guard, argv) => (Some(guard), argv),
            Conditional::Bad(text) => {
                self.flush();
                self.session.tx.refused();
                self.out.error(text);
                return false;
            }
        };
        if self.session.tx.queueing() || transactions::watches(argv) {
            self.flush();
            if self.transact(guard.as_ref(), argv) {
                return false;
            }
        }
        if guard.is_none()
            && let Some(word) = locks::word(argv)
        {
            self.flush();
            let (shared, gone) = (self.shared, || stream.is_some_and(is_gone));
            locks::run(shared, &shared.locks, &word, argv, &gone, &mut self.out);
            self.fresh = false;
            return false;
        }
        if guard.is_none()
            && let Some(words) = admin::words(argv)
        {
            self.flush();
            admin::run(self.shared, &words, &mut self.out);
            self.fresh = false;
            return false;
        }
        // An error must stand behind the replies of what was sent before.
        let mut error = Reply::new(self.session.protocol);
        if guard.is_none() && slots::run(self.shared, argv, &mut self.reads_here, &mut error) {
            self.flush();
            self.out.raw(error.as_bytes());
            return false;
        }
        let class = replicated::classify(argv, &mut error);
        if self.shared.on_follower == OnFollower::Redirect
            && (matches!(class, Class::Write { .. })
                || matches!(class, Class::Read if !self.reads_here && self.shared.read != ReadMode::Stale))
            && let Some(text) = slots::away(self.shared, argv)
        {
            self.flush();
            self.out.error(&text);
            return false;
        }
        match class {
            Class::Read | Class::Here if guard.is_some() => {
                self.flush();
                self.out.error(
                    "ERR LOCK.IF takes a command that writes a key, or the EXEC of a transaction",
                );
                false
            }
            Class::Write { alone, joins } => {
                if alone || guard != self.guard {
                    self.flush();
                }
                self.guard = guard;
                if let Some(ticket) = self.ticket.take() {
                    self.audited.push((self.batch.commands(), ticket));
                }
                self.batch.push(argv, joins);
                if alone || self.batch.is_full() {
                    self.flush();
                }
                false
            }
            // Also an EXEC like that ends MULTI and WATCHes.
            Class::Refused if transactions::executes(argv) => {
                self.flush();
                self.here(argv);
                self.note_queue(argv);
                false
            }
            Class::Refused => {
                self.flush();
                self.session.tx.refused();
                self.out.raw(error.as_bytes());
                false
            }
            Class::Read => {
                self.flush();
                let cursors = &self.shared.cursors;
                self.read(|state, out| replicated::read(argv, state, cursors, out));
                false
            }
            Class::Here => {
                self.flush();
                let mut ctx = Ctx {
                    session: &mut self.session,
                    engine: None,
                    server: self.shared,
                };
                let flow = commands::execute(&mut ctx, argv, &mut self.out);
                self.tell_login();
                self.note_queue(argv);
                // HELLO may have changed the protocol.
                self.batch = Batch::new(self.session.protocol);
                match flow {
                    Flow::Done => false,
                    Flow::Close => true,
                    Flow::Shutdown { now } => {
                        // It fails where the end has begun.
                        let _ = self.shared.asked.send(now);
                        true
                    }
                    Flow::NeedRoom | Flow::Wait(_) | Flow::Promote => {
                        self.out.error("ERR not served by raft-node");
                        false
                    }
                }
            }
        }
    }

    /// Writes what was gathered, and answers it.
    fn flush(&mut self) {
        let protocol = self.session.protocol;
        if self.batch.commands() == 0 {
            self.batch = Batch::new(protocol);
            return;
        }
        let batch = std::mem::replace(&mut self.batch, Batch::new(protocol));
        let commands = batch.commands();
        self.write_recorded(&batch.finish(), commands);
    }

    /// Writes a batch, once the intents that have to be waited for are in the trail, and answers it.
    fn write_recorded(&mut self, batch: &Bytes, commands: usize) {
        let Some(audit) = self.shared.audit.clone() else {
            return self.write(batch, commands);
        };
        let waits = |(_, ticket): &&(usize, Ticket)| audit.must_wait(ticket);
        let waiting = self.audited.iter().filter(waits);
        let Err(why) = audit.intend_all(waiting.map(|(_, ticket)| ticket)) else {
            return self.write(batch, commands);
        };
        // Those are not executed; the others, which nothing has to be recorded of, are.
        let (refused, others): (Vec<_>, Vec<_>) = (std::mem::take(&mut self.audited).into_iter())
            .partition(|(_, ticket)| audit.must_wait(ticket));
        let refused: BTreeSet<usize> = refused.into_iter().map(|(at, _)| at).collect();
        let place = |at: usize| at - refused.range(..at).count();
        self.audited = (others.into_iter())
            .map(|(at, ticket)| (place(at), ticket))
            .collect();
        let left = Batch::without(batch, self.session.protocol, |at| refused.contains(&at));
        let mark = self.out.len();
        match left.commands() {
            0 => self.guard = None,
            left_commands => self.write(&left.finish(), left_commands),
        }
        let answered = self.out.as_bytes()[mark..].to_vec();
        self.out.truncate(mark);
        let mut answered = audit::replies(&answered);
        for at in 0..commands {
            if refused.contains(&at) {
                audit.count_refused();
                self.out.error(&why);
            } else {
                self.out.raw(answered.next().unwrap_or_default());
            }
        }
    }

    /// Writes a batch, and answers it.
    pub(super) fn write(&mut self, batch: &Bytes, commands: usize) {
        let mark = self.out.len();
        let entry = self.propose(batch, commands);
        if let Some(audit) = &self.shared.audit {
            let tickets = std::mem::take(&mut self.audited);
            let replies = &self.out.as_bytes()[mark..];
            self.audit_write(audit.finish_batch(&self.session, tickets, replies, entry));
        }
    }

    /// The entry that has it, where there is one.
    fn propose(&mut self, batch: &Bytes, commands: usize) -> Option<InRaft> {
        self.fresh = false;
        let text = match self.guard.take() {
            None => match propose(self.shared, batch) {
                Ok(reply) => {
                    self.out.raw(&reply.payload);
                    return Some(entry_of(&reply));
                }
                Err(error) => error_text(&error),
            },
            Some(guard) => {
                let command = guarded(std::slice::from_ref(&guard), batch);
                let proposed = propose(self.shared, &command);
                let entry = proposed.as_ref().ok().map(entry_of);
                match proposed.map(|reply| GuardAnswer::decode(reply.payload)) {
                    Ok(Ok(GuardAnswer::Passed(replies))) => {
                        self.out.raw(&replies);
                        return entry;
                    }
                    Ok(Ok(GuardAnswer::Stale { current, .. })) => locks::stale(&guard, current),
                    Ok(_) => "ERR the cluster's answer is none about locks".into(),
                    Err(error) => error_text(&error),
                }
            }
        };
        for _ in 0..commands {
            self.out.error(&text);
        }
        None
    }

    /// Reads the state, as of one moment; `None` where an error is answered. `run` may run several times, and what it answered before is forgotten.
    pub(super) fn read<T>(
        &mut self,
        mut run: impl FnMut(&mut Reading, &mut Reply) -> Result<T, StoreError>,
    ) -> Option<T> {
        let mark = self.out.len();
        let mut moved = false;
        // A store is replaced under a reader when a snapshot is installed, and time is moved once.
        for _ in 0..4 {
            match self.read_once(&mut run) {
                Ok((true, read)) if !moved && self.shared.read != ReadMode::Stale => {
                    // AS2. Where that fails, what was read stands: replicated time is what decides.
                    moved = true;
                    if propose(self.shared, &Batch::new(self.session.protocol).finish()).is_err() {
                        return Some(read);
                    }
                    self.fresh = false;
                }
                Ok((_, read)) => return Some(read),
                Err(Unread::Store(StoreError::Closed)) if self.shared.handle.down().is_none() => {}
                Err(Unread::Store(error)) => {
                    self.out.truncate(mark);
                    self.out.error(&store_error(&error));
                    return None;
                }
                Err(Unread::Barrier(error)) => {
                    self.out.truncate(mark);
                    self.out.error(&format!("CLUSTERDOWN {error}; try again"));
                    return None;
                }
            }
            self.out.truncate(mark);
        }
        self.out
            .error("CLUSTERDOWN the state is being replaced by a snapshot; try again");
        None
    }

    /// What was read, and whether replicated time is behind what was met.
    fn read_once<T>(
        &mut self,
        run: &mut impl FnMut(&mut Reading, &mut Reply) -> Result<T, StoreError>,
    ) -> Result<(bool, T), Unread> {
        if self.shared.read != ReadMode::Stale && !self.fresh {
            barrier(self.shared).map_err(Unread::Barrier)?;
            self.fresh = true;
        }
        let mut reading = Reading::new(self.shared.reader.snapshot());
        let read = run(&mut reading, &mut self.out).map_err(Unread::Store)?;
        Ok((reading.is_behind(), read))
    }
}

/// Whether the client has closed its end, whatever it has sent before that is not read yet.
fn is_gone(stream: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let closed = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut polled = [PollFd::new(stream, PollFlags::RDHUP)];
    match poll(&mut polled, Some(&Timespec::default())) {
        Ok(_) => polled[0].revents().intersects(closed),
        // It may be there.
        Err(_) => false,
    }
}

/// RF2.
fn barrier(shared: &Shared) -> Result<(), ReadError> {
    let end = after(shared.timeout);
    let mut pause = Duration::from_millis(5);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // A barrier asked of a leader that is gone is lost; another costs nothing.
        match shared.handle.read_barrier(left.min(BARRIER_TIME)) {
            Err(ReadError::NoLeader { .. } | ReadError::TimedOut)
                if goes_on(shared, end, &mut pause) => {}
            result => return result.map(|_| ()),
        }
    }
}

/// RF3.
pub(super) fn propose(shared: &Shared, batch: &Bytes) -> Outcome {
    let end = after(shared.timeout);
    let mut pause = Duration::from_millis(5);
    loop {
        match shared.handle.propose_anywhere(batch.clone()) {
            Err(ProposeError::NotAppended { .. }) if goes_on(shared, end, &mut pause) => {}
            outcome => return outcome,
        }
    }
}

/// Waits a little before the next try; false where there is to be none.
fn goes_on(shared: &Shared, end: Instant, pause: &mut Duration) -> bool {
    let over = Instant::now() + *pause >= end;
    if over || shared.stopping.load(Ordering::Relaxed) || shared.handle.down().is_some() {
        return false;
    }
    std::thread::sleep(*pause);
    *pause = (*pause * 2).min(Duration::from_millis(100));
    true
}

/// Where what was proposed stands in the log.
pub(super) fn entry_of(reply: &esker_raft::runtime::Reply) -> InRaft {
    InRaft {
        term: Some(reply.term.0).filter(|term| *term > 0),
        index: reply.index.0,
    }
}

/// What a client is told.
pub(super) fn error_text(error: &ProposeError) -> String {
    match error {
        ProposeError::NotAppended { .. } | ProposeError::Session(_) => {
            format!("CLUSTERDOWN {error}; try again")
        }
        _ => format!("UNKNOWNOUTCOME {error}"),
    }
}
