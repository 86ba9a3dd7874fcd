//! Clients that write: one thread reads what has come from all of them, has it proposed together, and answers what was applied.
//!
//! - WR1: it never waits for the cluster. A client whose next command would have it wait (a read behind a barrier, an order to the cluster, a batch
//!   that is to be tried again) gets a thread of its own, with what it has sent so far, and keeps it (`front`).
//! - WR2 (RF1): of one client, one batch is under way; what it sends meanwhile is read up to a bound and runs behind it.
//! - WR3: what came from all clients in one look at the sockets is proposed at once, small writes of several as one entry (`joined`), so that many
//!   clients share what a proposal costs.
//! - WR4: out of descriptors it goes on with the clients that it has, and tries to accept further ones now and then.
//! - WR5: a batch is answered *unknown* when its time is over, whatever the state machine does, so that no client keeps the server from closing.

use super::front::{
    Client, Gone, OUTPUT_BYTES, READ_BYTES, Serving, Shared, WRITE_TIME_MAX, entry_of, error_text,
    join, limits,
};
use super::joined::{self, Part, Parts};
use crate::acl::Passes;
use crate::audit::{Due, InRaft, Ticket, Verdict};
use crate::commands::replicated::Batch;
use crate::net::{ACCEPT_TICK, Input, NotAccepted};
use crate::resp::{Parsed, Parser};
use crate::{Protocol, Reply, Session};
use bytes::Bytes;
use esker_raft::runtime::{Outcome, PendingReply, Proposal, ProposeError};
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use parking_lot::Mutex;
use rustix::io::Errno;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll as Polled, Wake, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(super) const LISTENER: Token = Token(0);
pub(super) const WAKE: Token = Token(1);
/// How often clients that take no replies, and batches that get no answer, are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// Which proposals were answered.
pub(super) struct Answered {
    proposals: Mutex<Vec<u64>>,
    rung: AtomicBool,
    pub(super) waker: mio::Waker,
}

impl Answered {
    pub(super) fn new(waker: mio::Waker) -> Answered {
        Answered {
            proposals: Mutex::default(),
            rung: AtomicBool::new(false),
            waker,
        }
    }

    fn take(&self) -> Vec<u64> {
        // Before the look: who comes behind it rings again.
        self.rung.swap(false, Ordering::AcqRel);
        std::mem::take(&mut *self.proposals.lock())
    }
}

/// Wakes the loop for one proposal.
struct Ring(u64, Arc<Answered>);

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.1.proposals.lock().push(self.0);
        if !self.1.rung.swap(true, Ordering::AcqRel) {
            // It fails only when the eventfd is gone, and with it the loop.
            let _ = self.1.waker.wake();
        }
    }
}

/// A proposal under way.
struct Pending {
    reply: PendingReply,
    parts: Parts,
}

/// A batch of a client's, and what is to be recorded of some of its commands.
pub(super) struct Gathered {
    pub(super) batch: Bytes,
    pub(super) commands: usize,
    pub(super) joins: bool,
    pub(super) protocol: Protocol,
    audited: Vec<(usize, Ticket)>,
}

impl Gathered {
    pub(super) fn new(batch: Batch, audited: Vec<(usize, Ticket)>) -> Gathered {
        Gathered {
            commands: batch.commands(),
            joins: batch.joins(),
            protocol: batch.protocol(),
            batch: batch.finish(),
            audited,
        }
    }
}

struct Writer {
    stream: mio::net::TcpStream,
    /// Taken while a command runs.
    session: Option<Box<Session>>,
    parser: Parser,
    input: Input,
    /// There may be more to read.
    readable: bool,
    /// The client sends no more: what can be read ends with that.
    hung_up: bool,
    eof: bool,
    out: Reply,
    sent: usize,
    /// Since when the client takes nothing.
    stuck: Option<Instant>,
    /// A batch of it is gathered, or pending (WR2).
    busy: bool,
    closing: bool,
    /// Records that must be written before it is served.
    opening: Vec<Due>,
}

/// How a client's commands went.
enum Pace {
    Goes,
    Waits,
    Ends,
}

/// What became of a batch.
enum Told<'a> {
    /// With the replies, where they are such.
    Executed(Option<&'a [u8]>, InRaft),
    Unknown(String),
}

/// What becomes of a client next.
enum Next {
    Stays,
    Ends,
    /// WR1. With a batch that is to be tried again.
    Leaves(Option<Gathered>),
}

pub(super) struct Writers {
    shared: Arc<Shared>,
    poll: Poll,
    listener: mio::net::TcpListener,
    /// WR4.
    accept_again: bool,
    accept_errors: AtomicU64,
    answered: Arc<Answered>,
    clients: HashMap<Token, Writer>,
    next_id: u64,
    /// Of clients that have left.
    threads: Vec<JoinHandle<()>>,
    /// To be proposed at the end of this look (WR3).
    gathered: Vec<Part>,
    /// Under way, by their names.
    pending: HashMap<u64, Pending>,
    next_proposal: u64,
    scratch: Vec<u8>,
}

impl Writers {
    pub(super) fn new(
        shared: Arc<Shared>,
        poll: Poll,
        listener: mio::net::TcpListener,
        answered: Arc<Answered>,
    ) -> Writers {
        Writers {
            shared,
            poll,
            listener,
            accept_again: false,
            accept_errors: AtomicU64::new(0),
            answered,
            clients: HashMap::new(),
            next_id: 0,
            threads: Vec::new(),
            gathered: Vec::new(),
            pending: HashMap::new(),
            next_proposal: 0,
            scratch: vec![0; READ_BYTES],
        }
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        let mut swept = Instant::now();
        while !self.shared.stopping.load(Ordering::SeqCst) || !self.clients.is_empty() {
            let timeout = if self.accept_again {
                ACCEPT_TICK
            } else {
                SWEEP
            };
            match self.poll.poll(&mut events, Some(timeout)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::error!(%error, "no further clients are served");
                    break;
                }
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_again = true,
                    WAKE => {}
                    token => self.ready(token, event),
                }
            }
            if self.accept_again {
                self.accept();
            }
            for proposal in self.answered.take() {
                self.answer(proposal);
            }
            self.propose();
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                self.sweep();
            }
        }
        join(&mut self.threads, |_| true);
    }

    fn accept(&mut self) {
        join(&mut self.threads, JoinHandle::is_finished);
        self.accept_again = false;
        while !self.shared.stopping.load(Ordering::SeqCst) {
            match self.listener.accept() {
                Ok((stream, addr)) => {
                    self.next_id += 1;
                    if let Err(error) = self.admit(stream, addr) {
                        tracing::debug!(%addr, %error, "a client was not taken");
                        // For its second one: those who are not accepted yet need not go the same way.
                        if let Some(Errno::MFILE | Errno::NFILE) = Errno::from_io_error(&error) {
                            let _ = NotAccepted::of(&error, &self.accept_errors);
                            self.accept_again = true;
                            break;
                        }
                    }
                }
                Err(error) => match NotAccepted::of(&error, &self.accept_errors) {
                    NotAccepted::Nobody => break,
                    NotAccepted::Next => {}
                    NotAccepted::Later => {
                        self.accept_again = true;
                        break;
                    }
                },
            }
        }
    }

    fn admit(&mut self, mut stream: mio::net::TcpStream, addr: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        // Relaxed: a count.
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        if self.shared.clients.lock().len() >= self.shared.clients_max {
            if let Some(audit) = &self.shared.audit {
                audit.turned_away(addr);
            }
            return stream.write_all(b"-ERR max number of clients reached\r\n");
        }
        let local = stream.local_addr()?;
        let (id, token) = (self.next_id, Token(self.next_id as usize + 1));
        self.poll.registry().register(
            &mut stream,
            token,
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let stream = TcpStream::from(stream);
        let kept = stream.try_clone()?;
        let mut session = Session::new(id, addr, local);
        if let Some(acl) = self.shared.acl.enforced() {
            session.login = acl.arrives();
        }
        let mut opening = Vec::new();
        if let Some(audit) = &self.shared.audit {
            match audit.opened(&session) {
                Verdict::Go => {}
                Verdict::Wait(due) => opening = due,
                Verdict::Refused(why) => {
                    audit.count_refused();
                    return (&stream).write_all(format!("-{why}\r\n").as_bytes());
                }
            }
        }
        let client = Client {
            stream: kept,
            addr,
            login: session.login.clone(),
            queued: -1,
        };
        self.shared.clients.lock().insert(id, client);
        let writer = Writer {
            stream: mio::net::TcpStream::from_std(stream),
            session: Some(Box::new(session)),
            parser: Parser::default(),
            input: Input::default(),
            readable: true,
            hung_up: false,
            eof: false,
            out: Reply::default(),
            sent: 0,
            stuck: None,
            busy: false,
            closing: false,
            opening,
        };
        self.clients.insert(token, writer);
        Ok(())
    }

    fn ready(&mut self, token: Token, event: &Event) {
        let Some(writer) = self.clients.get_mut(&token) else {
            return;
        };
        writer.hung_up |= event.is_read_closed() || event.is_error();
        writer.readable |= event.is_readable() || writer.hung_up;
        self.advance(token);
    }

    fn advance(&mut self, token: Token) {
        if let Some(writer) = self.clients.get_mut(&token) {
            match writer.advance(&self.shared, &mut self.scratch) {
                Ok((gathered, next)) => {
                    self.gathered.extend(gathered.map(|g| (token, g)));
                    self.then(token, next);
                }
                Err(error) => {
                    tracing::debug!(client = token.0, %error, "a client is gone");
                    drop(self.remove(token));
                }
            }
        }
    }

    fn then(&mut self, token: Token, next: Next) {
        match next {
            Next::Stays => {}
            Next::Ends => drop(self.remove(token)),
            Next::Leaves(again) => self.leave(token, again),
        }
    }

    /// A proposal was answered, or is to be looked at for the first time.
    fn answer(&mut self, proposal: u64) {
        let Some(pending) = self.pending.get_mut(&proposal) else {
            return;
        };
        let waker: Waker = Arc::new(Ring(proposal, self.answered.clone())).into();
        let mut context = Context::from_waker(&waker);
        let Polled::Ready(outcome) = Pin::new(&mut pending.reply).poll(&mut context) else {
            return;
        };
        let pending = self.pending.remove(&proposal).expect("just seen");
        self.tell(pending.parts, &outcome);
    }

    /// What became of a proposal goes to those whose batches it was.
    fn tell(&mut self, parts: Parts, outcome: &Outcome) {
        let answer = match outcome {
            Err(error) => Err(error),
            Ok(reply) => Ok((joined::shares(&parts, &reply.payload), entry_of(reply))),
        };
        for (at, (token, gathered)) in parts.into_iter().enumerate() {
            // Who has gone meanwhile is told nothing.
            let Some(writer) = self.clients.get_mut(&token) else {
                continue;
            };
            let told = match &answer {
                Ok((shares, entry)) => {
                    let share = shares.as_ref().map(|shares| shares[at]);
                    Told::Executed(share, *entry)
                }
                Err(ProposeError::NotAppended { .. }) => {
                    // What is certainly not executed is tried again.
                    writer.busy = false;
                    self.then(token, Next::Leaves(Some(gathered)));
                    continue;
                }
                Err(error) => Told::Unknown(error_text(error)),
            };
            writer.told(&self.shared, gathered, told);
            self.advance(token);
        }
    }

    /// WR3.
    fn propose(&mut self) {
        while !self.gathered.is_empty() {
            let joined = joined::join(std::mem::take(&mut self.gathered));
            let proposals = joined.iter().map(|parts| Proposal {
                forward: true,
                ..Proposal::new(joined::command(parts))
            });
            let replies = self.shared.handle.submit_all(proposals);
            for (parts, reply) in joined.into_iter().zip(replies) {
                self.next_proposal += 1;
                let proposal = self.next_proposal;
                self.pending.insert(proposal, Pending { reply, parts });
                // Where it is answered already what follows may be gathered in turn.
                self.answer(proposal);
            }
        }
    }

    /// WR5.
    fn sweep(&mut self) {
        let overdue = (self.pending.iter()).filter(|(_, pending)| pending.reply.is_overdue());
        for proposal in overdue.map(|(name, _)| *name).collect::<Vec<_>>() {
            let pending = self.pending.remove(&proposal).expect("just seen");
            let why = "it was not answered in time".into();
            let unknown = Err(ProposeError::Unknown { why, leader: None });
            self.tell(pending.parts, &unknown);
        }
        let stuck = (self.clients.iter())
            .filter(|(_, w)| w.stuck.is_some_and(|at| at.elapsed() > WRITE_TIME_MAX))
            .map(|(token, _)| *token);
        for token in stuck.collect::<Vec<_>>() {
            drop(self.remove(token));
        }
    }

    fn remove(&mut self, token: Token) -> Option<Writer> {
        let mut writer = self.clients.remove(&token)?;
        // It fails where it is gone.
        let _ = self.poll.registry().deregister(&mut writer.stream);
        self.shared.clients.lock().remove(&(token.0 as u64 - 1));
        if let (Some(audit), Some(session)) = (&self.shared.audit, &writer.session) {
            audit.closed(session);
        }
        Some(writer)
    }

    /// WR1.
    fn leave(&mut self, token: Token, again: Option<Gathered>) {
        let Some(mut writer) = self.clients.remove(&token) else {
            return;
        };
        let _ = self.poll.registry().deregister(&mut writer.stream);
        let id = token.0 as u64 - 1;
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("esker-client".into());
        let spawned = thread.spawn(move || {
            let _gone = Gone(&shared, id);
            if let Err(error) = writer.alone(&shared, again) {
                tracing::debug!(client = id, %error, "a client is gone");
            }
        });
        match spawned {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                self.shared.clients.lock().remove(&id);
                tracing::error!(%error, "a client that needs a thread was let go");
            }
        }
    }
}

impl Writer {
    /// Goes on in a thread of its own.
    fn alone(mut self, shared: &Shared, again: Option<Gathered>) -> io::Result<()> {
        let mut stream = TcpStream::from(self.stream);
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(WRITE_TIME_MAX))?;
        stream.write_all(&self.out.as_bytes()[self.sent..])?;
        let session = self.session.expect("no command runs");
        let mut serving = Serving::new(shared, session);
        if let Some(gathered) = again {
            serving.audited = gathered.audited;
            serving.write(&gathered.batch, gathered.commands);
        }
        let ended = match serving.opens(std::mem::take(&mut self.opening)) {
            true => serving.serve(stream, self.input.into_bytes()),
            false => stream.write_all(serving.out.as_bytes()),
        };
        if let Some(audit) = &shared.audit {
            audit.closed(&serving.session);
        }
        ended
    }

    /// Takes an answer.
    fn told(&mut self, shared: &Shared, gathered: Gathered, told: Told<'_>) {
        self.busy = false;
        let mark = self.out.len();
        let (text, entry) = match told {
            Told::Executed(Some(replies), entry) => {
                self.out.raw(replies);
                (None, Some(entry))
            }
            Told::Executed(None, entry) => {
                let text = "UNKNOWNOUTCOME the cluster's answer is none about these commands, which were executed".to_owned();
                (Some(text), Some(entry))
            }
            Told::Unknown(text) => (Some(text), None),
        };
        for text in text.iter().cycle().take(gathered.commands) {
            self.out.error(text);
        }
        if let (Some(audit), Some(session)) = (&shared.audit, &self.session) {
            let replies = &self.out.as_bytes()[mark..];
            // This thread waits for nothing; what has to is written by another.
            audit.tell(audit.finish_batch(session, gathered.audited, replies, entry));
        }
    }

    /// Reads, runs and answers as far as that goes without waiting. A batch that is to be proposed.
    fn advance(
        &mut self,
        shared: &Shared,
        scratch: &mut [u8],
    ) -> io::Result<(Option<Gathered>, Next)> {
        if self.busy {
            return Ok((None, Next::Stays));
        }
        if !self.opening.is_empty() {
            return Ok((None, Next::Leaves(None)));
        }
        loop {
            if !self.send()? {
                return Ok((None, Next::Stays));
            }
            if self.closing {
                return Ok((None, Next::Ends));
            }
            let login = self.session.as_ref().map(|session| &session.login);
            let room = login.map_or(0, |login| limits(login).request_bytes_max);
            while self.readable && self.input.len() < room {
                match self.stream.read(scratch) {
                    Ok(0) => (self.readable, self.eof) = (false, true),
                    Ok(n) => {
                        self.input.push(&scratch[..n]);
                        // What did not fill the buffer was all; more is another event.
                        if n < scratch.len() && !self.hung_up {
                            self.readable = false;
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            if self.input.is_empty() && !self.readable && !self.eof {
                return Ok((None, Next::Stays));
            }
            let (batch, audited, pace) = self.run(shared);
            if batch.commands() > 0 {
                self.busy = true;
                let commands = batch.commands();
                // Relaxed: a count. The others are counted where they run.
                (shared.commands).fetch_add(commands as u64, Ordering::Relaxed);
                return Ok((Some(Gathered::new(batch, audited)), Next::Stays));
            }
            let next = match pace {
                Pace::Waits => Next::Leaves(None),
                Pace::Ends => {
                    self.closing = true;
                    continue;
                }
                Pace::Goes if self.out.len() > self.sent || self.readable => continue,
                Pace::Goes if self.eof => Next::Ends,
                Pace::Goes => Next::Stays,
            };
            return Ok((None, next));
        }
    }

    /// Runs what has come, up to the end of a batch or a command that waits.
    fn run(&mut self, shared: &Shared) -> (Batch, Vec<(usize, Ticket)>, Pace) {
        let session = self.session.take().expect("no command runs");
        let mut serving = Serving::new(shared, session);
        std::mem::swap(&mut serving.out, &mut self.out);
        let (came, mut at) = (self.input.waiting(), 0);
        let mut pace = Pace::Goes;
        // It goes on in the request of which not all was there.
        let mut resumes = false;
        while matches!(pace, Pace::Goes) && !serving.batch.is_full() {
            let limits = limits(&serving.session.login);
            match self.parser.parse(&came[at..], &limits) {
                Ok(Parsed::Incomplete { missing }) => {
                    let len = came.len() - at + missing.min(1);
                    if len > limits.request_bytes_max {
                        pace = Pace::Ends;
                    }
                    resumes = true;
                    break;
                }
                Ok(Parsed::Nothing { len }) => at += len,
                Ok(Parsed::Request { len }) => {
                    let input = &came[at..at + len];
                    let argv: SmallVec<[&[u8]; 8]> = self.parser.args(input).collect();
                    let may = serving.passes(&argv) == Passes::Yes;
                    let waits = may && serving.audit_waits(&argv);
                    if may
                        && !waits
                        && let Some(joins) = serving.gathers(&argv)
                    {
                        if !serving.gather(&argv, joins) {
                            break;
                        }
                    } else if serving.batch.commands() > 0 {
                        break;
                    } else if may && (waits || serving.may_wait(&argv)) {
                        pace = Pace::Waits;
                        break;
                    } else if serving.request(&argv, None) {
                        pace = Pace::Ends;
                    }
                    drop(argv);
                    at += len;
                }
                Err(error) => {
                    if serving.batch.commands() == 0 {
                        serving.out.error(&format!("ERR {error}"));
                        serving.malformed();
                        pace = Pace::Ends;
                    }
                    break;
                }
            }
            self.parser.reset();
            if serving.out.len() >= OUTPUT_BYTES {
                break;
            }
        }
        if !resumes {
            self.parser.reset();
        }
        self.input.done(at);
        let Serving {
            session,
            out,
            batch,
            audited,
            ..
        } = serving;
        self.out = out;
        self.session = Some(session);
        (batch, audited, pace)
    }

    /// Sends what is there; false where the client has to take some of it first.
    fn send(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out.as_bytes()[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.sent += n;
                    self.stuck = None;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.stuck.get_or_insert_with(Instant::now);
                    return Ok(false);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if self.sent > 0 {
            let big = self.out.capacity() > OUTPUT_BYTES;
            self.out.truncate(0);
            self.sent = 0;
            if big {
                let protocol = self.session.as_ref().map(|s| s.protocol);
                self.out = Reply::new(protocol.unwrap_or_default());
            }
        }
        Ok(true)
    }
}
