//! One client's connection: bytes in, requests, and what is asked of the audit about them. What leaves is the `outbox`'s.
//!
//! - CN1: requests are run in the order in which they came. While one is held (for room, a count, another thread or a record) none behind it is run.
//! - CN2: a reply that touched what is not safe yet is gated before the outbox is settled, so that it can't leave ungated.
//! - CN3: memory is bounded: a client that does not read is not read from once `output_soft` bytes wait for it,
//!   and is cut off at `output_hard`; input is bounded by the parser's limits. One that has not authenticated has much
//!   smaller ones.
//! - CN4: of a request that stands in the trail and is not run, as its client goes, the trail is told that.

use super::input::Input;
use super::outbox::Outbox;
use super::{NetLimits, registry::Entry};
use crate::acl::{Acl, NOAUTH, Passes};
use crate::audit::{Audit, Due, Ended, Ticket, Verdict};
use crate::commands;
use crate::control::{Flow, WaitKind, WaitRequest};
use crate::node::{Node, Peers};
use crate::resp::{Limits, Parsed, Parser};
use crate::session::{Ctx, Session};
use crate::{ServerControl, engine::Engine};
use esker_sync::deadline::behind;
use esker_wal::Lsn;
use mio::net::TcpStream;
use smallvec::SmallVec;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

/// Bytes of replies waiting for a client that has not authenticated above which it is not read from; Redis cuts it off there.
const UNAUTHENTICATED_OUTPUT: usize = 1024;

/// Why no further request of a client is run.
#[derive(Debug)]
enum Hold {
    /// Log or store have no room.
    Room,
    /// WAIT or WAITAOF.
    Wait {
        request: WaitRequest,
        _wish: Option<DurableWish>,
    },
    /// Another thread answers (promotion), or the server ends.
    Elsewhere,
    /// Records are being written.
    Audit(Stage),
}

/// What waits for records of the audit to be written.
#[derive(Debug)]
enum Stage {
    /// That the client is served at all.
    Open,
    /// The next request, with what is to be recorded when it is over.
    Request(Ticket),
    /// The reply to one that was executed.
    Reply {
        encoded: Vec<u8>,
        touched: Lsn,
        wrote: bool,
    },
}

/// What was decided about the next request.
#[derive(Debug)]
enum Decided {
    Goes(Ticket),
    Refused(String),
}

/// While it lives, replicas are asked to sync as soon as they have received.
struct DurableWish(Arc<dyn Peers>);

impl DurableWish {
    fn new(node: &Node) -> Option<Self> {
        let peers = node.peers()?;
        peers.want_durable(true);
        Some(DurableWish(peers))
    }
}

impl fmt::Debug for DurableWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DurableWish")
    }
}

impl Drop for DurableWish {
    fn drop(&mut self) {
        self.0.want_durable(false);
    }
}

/// What `Conn::run` asks of the loop.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    /// There is more to run: call again next turn.
    More,
    /// Have `Conn::asking` written, then `Conn::audited`.
    Audit,
    /// Promote this node, then `Conn::answer`.
    Promote,
    /// End the server.
    Shutdown {
        now: bool,
    },
}

/// Counters of one thread, given to the shared ones once per turn.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) commands: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) protocol_errors: u64,
    pub(crate) held: u64,
}

/// What every connection of a loop shares during a turn.
pub(super) struct Turn<'a> {
    pub(super) limits: &'a NetLimits,
    pub(super) engine: Option<&'a Engine>,
    pub(super) server: &'a dyn ServerControl,
    pub(super) node: &'a Node,
    pub(super) audit: Option<&'a Audit>,
    /// Where clients have to say who they are.
    pub(super) acl: Option<&'a Acl>,
    /// The safe position, as read at the start of the turn.
    pub(super) safe: Lsn,
    pub(super) now: Instant,
    /// Room may have come back.
    pub(super) room: bool,
    /// Greatest position that must become safe.
    pub(super) wanted: Lsn,
    /// Greatest position that WAITAOF wants synced.
    pub(super) wanted_sync: Lsn,
    pub(super) tally: Tally,
    pub(super) scratch: &'a mut [u8],
}

/// See the module.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) stream: TcpStream,
    pub(super) session: Session,
    pub(super) entry: Arc<Entry>,
    parser: Parser,
    /// Of the request behind the one that is run: it is read first, so that what it needs comes from memory meanwhile.
    ahead: Parser,
    input: Input,
    outbox: Outbox,
    hold: Option<Hold>,
    decided: Option<Decided>,
    /// Records that are to be written; see `Asked::Audit`.
    asking: Vec<Due>,
    /// Of a promotion, until it is asked for.
    promoting: Option<Ticket>,
    /// `input` has bytes that were not looked at, or requests that were not run.
    runnable: bool,
    /// The socket may have more to read, may take more bytes.
    readable: bool,
    writable: bool,
    /// The peer has said that it sends no more.
    hung_up: bool,
    /// No more requests: close once everything is sent.
    closing: bool,
    /// The peer is gone or a call failed: close at once.
    dead: bool,
    /// In the loop's lists.
    pub(super) in_ready: bool,
    pub(super) in_held: bool,
}

impl Conn {
    pub(super) fn new(stream: TcpStream, session: Session, entry: Arc<Entry>) -> Self {
        Conn {
            stream,
            session,
            entry,
            parser: Parser::default(),
            ahead: Parser::default(),
            input: Input::default(),
            outbox: Outbox::default(),
            hold: None,
            decided: None,
            asking: Vec::new(),
            promoting: None,
            runnable: false,
            readable: false,
            writable: true,
            hung_up: false,
            closing: false,
            dead: false,
            in_ready: false,
            in_held: false,
        }
    }

    /// What the poll said. A peer that hangs up while it waits is gone: it will not read the answer.
    pub(super) fn note_events(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable() || event.is_read_closed();
        self.writable |= event.is_writable();
        self.hung_up |= event.is_read_closed();
        if event.is_error()
            || event.is_write_closed()
            || (event.is_read_closed() && self.hold.is_some())
        {
            self.dead = true;
        }
    }

    /// Bytes of memory that wait for this client or came from it.
    pub(super) fn memory(&self) -> usize {
        self.input.capacity() + self.outbox.memory() + self.parser.memory() + self.ahead.memory()
    }

    pub(super) fn is_over(&self) -> bool {
        self.dead || (self.closing && self.outbox.waiting() == 0 && self.hold.is_none())
    }

    /// Whether it waits for a position, for room or for a count.
    pub(super) fn is_held(&self) -> bool {
        self.outbox.held() > 0 || matches!(self.hold, Some(Hold::Room | Hold::Wait { .. }))
    }

    /// Whether something is yet to be answered or sent.
    pub(super) fn is_busy(&self) -> bool {
        self.outbox.waiting() > 0 || self.hold.is_some()
    }

    pub(super) fn has_output(&self) -> bool {
        self.outbox.has_released()
    }

    pub(super) fn kill(&mut self) {
        self.dead = true;
    }

    /// Takes no more requests of a client whose user is none any more; what it has asked is answered. False where something of it is under way:
    /// come again.
    pub(super) fn shut_out(&mut self) -> bool {
        if self.decided.is_some() || !matches!(self.hold, None | Some(Hold::Wait { .. })) {
            return false;
        }
        self.hold = None;
        self.closing = true;
        true
    }

    /// Takes no more requests.
    pub(super) fn finish(&mut self) {
        self.closing = true;
        if matches!(self.hold, Some(Hold::Room | Hold::Elsewhere)) {
            self.hold = None;
        }
    }

    /// Reads what is there and runs it, within this turn's bounds.
    pub(super) fn run(&mut self, turn: &mut Turn<'_>) -> Asked {
        let mut commands = 0;
        let mut bytes = 0;
        loop {
            if self.dead || self.closing || self.hold.is_some() || self.is_clogged(turn.limits) {
                return Asked::Nothing;
            }
            if self.runnable {
                let input = std::mem::take(&mut self.input);
                let (used, asked) = self.requests(input.waiting(), turn, &mut commands);
                self.input = input;
                self.input.done(used);
                if asked != Asked::Nothing {
                    return asked;
                }
                if self.dead || self.closing || self.hold.is_some() || self.is_clogged(turn.limits)
                {
                    return Asked::Nothing;
                }
            }
            if !self.readable {
                return Asked::Nothing;
            }
            if bytes >= turn.limits.turn_bytes {
                return Asked::More;
            }
            let n = match self.stream.read(turn.scratch) {
                Ok(0) => {
                    // What it asked before is still answered.
                    self.closing = true;
                    return Asked::Nothing;
                }
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Asked::Nothing;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.dead = true;
                    return Asked::Nothing;
                }
            };
            turn.tally.bytes_in += n as u64;
            bytes += n;
            // epoll(7): a short read has drained a stream socket; a FIN that was there already comes
            // with its own flag (`note_events`), and then the read that finds it is done here.
            if n < turn.scratch.len() && !self.hung_up {
                self.readable = false;
            }
            if self.input.is_empty() {
                let scratch = std::mem::take(&mut turn.scratch);
                let (used, asked) = self.requests(&scratch[..n], turn, &mut commands);
                self.input.push(&scratch[used..n]);
                turn.scratch = scratch;
                if asked != Asked::Nothing {
                    return asked;
                }
            } else {
                self.input.push(&turn.scratch[..n]);
                self.runnable = true;
            }
        }
    }

    /// Runs the requests in `input`; the bytes that are done with.
    fn requests(
        &mut self,
        input: &[u8],
        turn: &mut Turn<'_>,
        commands: &mut usize,
    ) -> (usize, Asked) {
        let mut at = 0;
        self.runnable = true;
        loop {
            let limits = request_limits(&self.session, turn.limits);
            match self.parser.parse(&input[at..], limits) {
                Ok(Parsed::Incomplete { missing }) => {
                    if input.len() - at + missing.min(1) > limits.request_bytes_max {
                        self.dead = true;
                    }
                    self.runnable = false;
                    return (at, Asked::Nothing);
                }
                Ok(Parsed::Nothing { len }) => {
                    self.parser.reset();
                    at += len;
                }
                Ok(Parsed::Request { len }) => {
                    if *commands >= turn.limits.turn_commands {
                        return (at, Asked::More);
                    }
                    *commands += 1;
                    self.look_ahead(&input[at..], len, turn);
                    match self.execute(&input[at..at + len], turn) {
                        None => {
                            self.ahead.reset();
                            let asks = !self.asking.is_empty();
                            return (at, if asks { Asked::Audit } else { Asked::Nothing });
                        }
                        Some(asked) => {
                            at += len;
                            self.parser.reset();
                            std::mem::swap(&mut self.parser, &mut self.ahead);
                            if asked != Asked::Nothing || self.closing || self.hold.is_some() {
                                return (at, asked);
                            }
                        }
                    }
                    if self.is_clogged(turn.limits) {
                        return (at, Asked::Nothing);
                    }
                }
                Err(error) => {
                    turn.tally.protocol_errors += 1;
                    tracing::debug!(client = self.session.id, addr = %self.session.addr, %error, "closing a client");
                    self.outbox.reply().error(&format!("ERR {error}"));
                    if let Some(audit) = turn.audit {
                        audit.tell(audit.malformed(&self.session));
                    }
                    self.settle(turn);
                    self.closing = true;
                    return (input.len(), Asked::Nothing);
                }
            }
        }
    }

    /// Reads the request behind the one of `len` bytes, as far as it is there; asks for the memory that the keys of both will need.
    fn look_ahead(&mut self, input: &[u8], len: usize, turn: &Turn<'_>) {
        let (this, next) = input.split_at(len);
        let mut soon = None;
        match self
            .ahead
            .parse(next, request_limits(&self.session, turn.limits))
        {
            Ok(Parsed::Request { .. }) => soon = self.ahead.args(next).nth(1),
            Ok(Parsed::Incomplete { .. } | Parsed::Nothing { .. }) => {}
            // It is met again when it is this one's turn.
            Err(_) => self.ahead.reset(),
        }
        if let Some(engine) = turn.engine {
            // Most commands have their key there, and for the others nothing is wrong but a line of memory.
            engine.store().prefetch(soon, self.parser.args(this).nth(1));
        }
    }

    /// Runs one request. `None`: it was not done and must be given again.
    fn execute(&mut self, frame: &[u8], turn: &mut Turn<'_>) -> Option<Asked> {
        let start = self.outbox.end();
        let argv: SmallVec<[&[u8]; 8]> = self.parser.args(frame).collect();
        if let Some(acl) = turn.acl {
            let passes = acl.passes(&mut self.session.login, &argv);
            if passes != Passes::Yes {
                let reply = format!("-{NOAUTH}\r\n");
                // One whose intent is recorded already has an outcome too.
                let ticket = match self.decided.take() {
                    Some(Decided::Goes(ticket)) => Some(ticket),
                    _ => None,
                };
                if let Some(audit) = turn.audit {
                    let ended = Ended {
                        reply: reply.as_bytes(),
                        ..Ended::default()
                    };
                    audit.tell(audit.finish(&self.session, ticket, &argv, ended));
                }
                drop(argv);
                turn.tally.commands += 1;
                match passes {
                    Passes::Gone => self.closing = true,
                    _ => self.outbox.reply().raw(reply.as_bytes()),
                }
                self.settle(turn);
                return Some(Asked::Nothing);
            }
        }
        let mut ticket = None;
        let mut begun = 0;
        if let Some(audit) = turn.audit {
            match decide(audit, self.decided.take(), &self.session, &argv) {
                Decision::Goes(found) => ticket = found,
                Decision::Waits(ticket, due) => {
                    self.hold = Some(Hold::Audit(Stage::Request(ticket)));
                    self.asking = due;
                    return None;
                }
                Decision::Refused(why) => {
                    let ends = argv[0].eq_ignore_ascii_case(b"exec");
                    drop(argv);
                    self.refuse(audit, &why, ends, turn);
                    return Some(Asked::Nothing);
                }
            }
            begun = audit.clock();
        }
        self.session.touched = Lsn::ZERO;
        self.session.wrote = false;
        let flow = {
            let mut ctx = Ctx {
                session: &mut self.session,
                engine: turn.engine,
                server: turn.server,
            };
            commands::execute(&mut ctx, &argv, self.outbox.reply())
        };
        turn.tally.commands += 1;
        let touched = self.session.touched;
        match flow {
            Flow::Done | Flow::Close => {}
            Flow::NeedRoom => {
                self.outbox.take_back(start);
                turn.tally.commands -= 1;
                self.decided = ticket.map(Decided::Goes);
                self.hold = Some(Hold::Room);
                return None;
            }
            Flow::Wait(request) => {
                if let (Some(audit), Some(ticket)) = (turn.audit, ticket) {
                    let ended = Ended::default();
                    audit.tell(audit.finish(&self.session, Some(ticket), &argv, ended));
                }
                let wish = match request.kind {
                    WaitKind::Aof { replicas, .. } => {
                        turn.wanted_sync = turn.wanted_sync.max(request.lsn);
                        (replicas > 0)
                            .then(|| DurableWish::new(turn.node))
                            .flatten()
                    }
                    WaitKind::Replicas(_) => {
                        // Replicas get what is synced.
                        turn.wanted_sync = turn.wanted_sync.max(request.lsn);
                        None
                    }
                };
                self.hold = Some(Hold::Wait {
                    request,
                    _wish: wish,
                });
                return Some(Asked::Nothing);
            }
            Flow::Promote => {
                self.promoting = ticket;
                self.hold = Some(Hold::Elsewhere);
                return Some(Asked::Promote);
            }
            Flow::Shutdown { now } => {
                self.hold = Some(Hold::Elsewhere);
                if let Some(audit) = turn.audit {
                    // Nothing is answered. What there is to write is written before the trail is closed.
                    let ended = Ended {
                        reply: b"+\r\n",
                        ..Ended::default()
                    };
                    audit.tell(audit.finish(&self.session, ticket, &argv, ended));
                }
                return Some(Asked::Shutdown { now });
            }
        }
        if matches!(flow, Flow::Close) {
            self.closing = true;
        }
        if let Some(audit) = turn.audit {
            let slow = audit.slow_since(begun);
            let failed = self.outbox.since(start).first() == Some(&b'-');
            if ticket.is_some() || failed || slow.is_some() {
                let effect = ticket.as_ref().and_then(|_| self.effect(turn));
                let ended = Ended {
                    reply: self.outbox.since(start),
                    slow,
                    effect,
                    entry: None,
                };
                self.asking = audit.finish(&self.session, ticket, &argv, ended);
                if !self.asking.is_empty() {
                    drop(argv);
                    turn.wanted = turn.wanted.max(touched);
                    self.keep_reply(start);
                    return Some(Asked::Audit);
                }
            }
        }
        drop(argv);
        self.gate(start, touched, self.session.wrote, turn);
        self.settle(turn);
        Some(Asked::Nothing)
    }

    /// Holds the reply from `start` on until what it touched is safe (CN2).
    fn gate(&mut self, start: usize, touched: Lsn, wrote: bool, turn: &mut Turn<'_>) {
        if touched > turn.safe {
            turn.wanted = turn.wanted.max(touched);
            turn.tally.held += 1;
            let deadline = behind(turn.now, turn.limits.ack_timeout);
            self.outbox.hold(start, touched, wrote, deadline);
        }
    }

    /// Answers a request whose record the trail did not take. Where it was EXEC that ends the transaction, as any error of it does.
    fn refuse(&mut self, audit: &Audit, why: &str, ends_transaction: bool, turn: &Turn<'_>) {
        audit.count_refused();
        if ends_transaction {
            commands::disconnected(&mut Ctx {
                session: &mut self.session,
                engine: turn.engine,
                server: turn.server,
            });
        }
        self.outbox.reply().error(why);
        self.settle(turn);
    }

    /// Epoch and end of what the command wrote.
    fn effect(&self, turn: &Turn<'_>) -> Option<(u64, u64)> {
        let engine = turn.engine.filter(|_| self.session.wrote)?;
        let epoch = engine.store().log().epoch().number;
        Some((epoch, self.session.last_write.0))
    }

    /// Takes the reply from `start` on back until the records about it are written.
    fn keep_reply(&mut self, start: usize) {
        self.hold = Some(Hold::Audit(Stage::Reply {
            encoded: self.outbox.since(start).to_vec(),
            touched: self.session.touched,
            wrote: self.session.wrote,
        }));
        self.outbox.take_back(start);
    }

    /// A client that has connected: whether it is served may have to be asked.
    pub(super) fn open(&mut self, audit: &Audit) {
        match audit.opened(&self.session) {
            Verdict::Go => {}
            Verdict::Wait(due) => {
                self.hold = Some(Hold::Audit(Stage::Open));
                self.asking = due;
            }
            Verdict::Refused(why) => self.turn_away(&why),
        }
    }

    fn turn_away(&mut self, why: &str) {
        self.outbox.reply().error(why);
        // It has asked nothing yet: nothing before this is held.
        self.outbox.settle(Lsn::ZERO);
        self.closing = true;
    }

    /// What is to be recorded of the promotion that was `Asked`.
    pub(super) fn promoting(&mut self) -> Option<Ticket> {
        self.promoting.take()
    }

    /// CN4. What is in the trail of the next request, which will not run; `Err` where that is being written.
    pub(super) fn forgone(&mut self) -> Option<Result<Ticket, Ticket>> {
        match (self.decided.take(), self.hold.take()) {
            (Some(Decided::Goes(ticket)), _) => Some(Ok(ticket)),
            (_, Some(Hold::Audit(Stage::Request(ticket)))) => Some(Err(ticket)),
            _ => None,
        }
    }

    /// What `Asked::Audit` is about.
    pub(super) fn asking(&mut self) -> Vec<Due> {
        std::mem::take(&mut self.asking)
    }

    /// What was asked for is written, or is not.
    pub(super) fn audited(&mut self, result: Result<(), String>, turn: &mut Turn<'_>) {
        let Some(Hold::Audit(_)) = self.hold else {
            return;
        };
        let Some(Hold::Audit(stage)) = self.hold.take() else {
            return;
        };
        match (stage, result) {
            (Stage::Open, Ok(())) => {}
            (Stage::Open, Err(why)) => {
                if let Some(audit) = turn.audit {
                    audit.count_refused();
                }
                self.turn_away(&why);
            }
            (Stage::Request(ticket), Ok(())) => self.decided = Some(Decided::Goes(ticket)),
            (Stage::Request(ticket), Err(why)) => {
                if let Some(audit) = turn.audit {
                    audit.unrecorded(&ticket);
                }
                self.decided = Some(Decided::Refused(why));
            }
            // It was executed, whatever became of the record.
            (
                Stage::Reply {
                    encoded,
                    touched,
                    wrote,
                },
                _,
            ) => {
                let start = self.outbox.end();
                self.outbox.reply().raw(&encoded);
                self.gate(start, touched, wrote, turn);
            }
        }
        self.settle(turn);
    }

    /// Releases what the safe position allows.
    pub(super) fn settle(&mut self, turn: &Turn<'_>) {
        self.outbox.settle(turn.safe);
    }

    /// Answers what was held and can be, or has waited too long: `failure` says why nothing will come.
    /// True when requests may run again.
    pub(super) fn revisit(&mut self, turn: &mut Turn<'_>, failure: Option<&str>) -> bool {
        self.outbox.expire(turn.safe, turn.now, failure, |error| {
            if let Some(audit) = turn.audit {
                audit.tell(audit.undone(&self.session, error));
            }
        });
        match &self.hold {
            Some(Hold::Room) => {
                if turn.room {
                    self.hold = None;
                }
                turn.room
            }
            Some(Hold::Wait { request, .. }) => {
                let Some(answer) = wait_answer(request, turn) else {
                    return false;
                };
                let reply = self.outbox.reply();
                match answer {
                    (None, replicas) => reply.integer(replicas as i64),
                    (Some(local), replicas) => {
                        reply.array(2);
                        reply.integer(local as i64);
                        reply.integer(replicas as i64);
                    }
                }
                self.hold = None;
                self.settle(turn);
                true
            }
            // A clogged output may have become free.
            _ => self.wants_turn(turn.limits),
        }
    }

    /// Another thread's answer to what was `Asked`.
    pub(super) fn answer(&mut self, result: Result<(), String>, turn: &Turn<'_>) {
        if matches!(self.hold, Some(Hold::Elsewhere)) {
            self.hold = None;
            match result {
                Ok(()) => self.outbox.reply().ok(),
                Err(text) => self.outbox.reply().error(&text),
            }
            self.settle(turn);
        }
    }

    /// Sends what may leave, in one call if the socket takes it.
    pub(super) fn flush(&mut self, tally: &mut Tally, limits: &NetLimits) {
        if self.writable && !self.dead {
            match self.outbox.send(&mut self.stream, &mut tally.bytes_out) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(_) => self.dead = true,
            }
        }
        self.outbox.trim(limits);
        if self.outbox.waiting() > limits.output_hard {
            tracing::warn!(client = self.session.id, addr = %self.session.addr,
                bytes = self.outbox.waiting(), "closing a client that does not read its replies");
            self.dead = true;
        }
    }

    /// Whether it must first take replies before more requests are run (CN3).
    fn is_clogged(&self, limits: &NetLimits) -> bool {
        // Of who has not authenticated nothing waits but short errors.
        let soft = match self.session.login.is_open() {
            true => limits.output_soft,
            false => limits.output_soft.min(UNAUTHENTICATED_OUTPUT),
        };
        self.outbox.waiting() > soft || self.outbox.held() >= limits.gates_max
    }

    /// Whether there is work that no event will announce.
    pub(super) fn wants_turn(&self, limits: &NetLimits) -> bool {
        !self.dead
            && !self.closing
            && self.hold.is_none()
            && !self.is_clogged(limits)
            && (self.runnable || self.readable)
    }
}

/// Bounds of a client's requests.
#[inline]
fn request_limits<'a>(session: &Session, limits: &'a NetLimits) -> &'a Limits {
    match session.login.is_open() {
        true => &limits.request,
        false => &limits.unauthenticated,
    }
}

/// Whether a request may go on.
enum Decision {
    /// With what is to be recorded of it.
    Goes(Option<Ticket>),
    /// Once these are written.
    Waits(Ticket, Vec<Due>),
    Refused(String),
}

/// Decides, unless that was done already.
#[inline]
fn decide(audit: &Audit, decided: Option<Decided>, session: &Session, argv: &[&[u8]]) -> Decision {
    match decided {
        Some(Decided::Goes(ticket)) => return Decision::Goes(Some(ticket)),
        Some(Decided::Refused(why)) => return Decision::Refused(why),
        None => {}
    }
    let Some(ticket) = audit.consider(session, argv) else {
        return Decision::Goes(None);
    };
    match audit.intend(&ticket) {
        Verdict::Go => Decision::Goes(Some(ticket)),
        Verdict::Wait(due) => Decision::Waits(ticket, due),
        Verdict::Refused(why) => Decision::Refused(why),
    }
}

/// The counts, once there is enough or the deadline has come: (this node's, replicas').
fn wait_answer(request: &WaitRequest, turn: &Turn<'_>) -> Option<(Option<usize>, usize)> {
    use crate::control::Ack;
    let late = request
        .deadline
        .is_some_and(|deadline| turn.now >= deadline);
    match request.kind {
        WaitKind::Replicas(n) => {
            let count = turn.server.replicas_at(Ack::Applied, request.lsn);
            (late || count >= n).then_some((None, count))
        }
        WaitKind::Aof { local, replicas } => {
            let own = usize::from(turn.server.synced() >= request.lsn);
            let count = turn.server.replicas_at(Ack::Durable, request.lsn);
            (late || (own >= local && count >= replicas)).then_some((Some(own), count))
        }
    }
}
