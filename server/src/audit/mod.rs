//! What the servers record in an audit trail: who did what, from where, and how it ended.
//!
//! - AS1: an administrative action, and whatever a policy does not let be dropped, has two records with one request id: the intent is in the trail before
//!   anything is executed, else the command is answered `AUDITREFUSED` and not executed; the outcome stands behind it before the client has its answer. It is
//!   recorded whether the client is still there or not; of what is not executed, as its client was gone or another record of its group was refused, it says so.
//! - AS2: what need not wait has one record, behind the command.
//! - AS3: a record that has to wait (for a sync, or for room) is written by a thread of this module; the client waits, its event loop does not.
//! - AS4: a command that no rule is about costs a look-up, and two readings of a coarse clock where slow ones are recorded; without a trail, one branch.
//! - AS5: a client that may not log in leaves no more than a bounded number of records a second: failed logins have one record each, and so many a second alone,
//!   as other refusals; the next one says how many there were.
//!
//! Threads: `esker-audit-ask`, several, so that records that wait for a sync share it; `close` joins them.

mod open;
mod policy;
mod refusal;
mod report;
mod what;

pub use open::{AuditError, Setup, keys_beside};
pub use policy::{Class, Level, Policy, PolicyError, Rule, Show};
pub(crate) use refusal::values as replies;
pub use what::Program;

use crate::Session;
use crate::acl::{Acl, AclError, Login};
use crate::commands::{COMMANDS, Flags, credentials};
use crossbeam_channel::Sender;
use esker_audit::{Error, Key, OnFailure, Record, Severity, Trail, TrailStats, Write};
use parking_lot::Mutex;
use policy::Who;
use refusal::{Failed, Limiter};
use rustix::time::{ClockId, clock_gettime};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use what::{Arg, Kind, What};

/// Arguments and keys in one record.
const SHOWN_MAX: usize = 20;
/// Bytes of a key or a value that are held for a record; the trail cuts them where its limit is.
const TEXT_MAX: usize = 1032;
/// Values longer than this are hashed before they are queued, so that a queue holds no more than its number of these.
const HELD_MAX: usize = 4096;

/// A record that is to be written, with its severity.
pub(crate) type Due = (Severity, Record);
type Then = Box<dyn FnOnce(Result<(), String>) + Send>;

struct Ask {
    due: Vec<Due>,
    then: Then,
}

/// What is done with calls of one command.
struct Plan {
    kind: Kind,
    /// Rules that may be about it; none: it is not recorded.
    rules: Box<[usize]>,
}

/// What was found to record of a call.
pub(crate) struct Ticket {
    items: Vec<Item>,
    /// The reply is an array with one for each command (EXEC).
    exec: bool,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({})", self.items.len())
    }
}

struct Item {
    record: Record,
    severity: Severity,
    class: Class,
    /// It has two records (AS1).
    staged: bool,
    /// Its place among the commands of an EXEC.
    at: usize,
    /// Of a login that succeeds: who it is then, and how.
    user: Option<(String, &'static str)>,
}

/// Whether a call may go on.
pub(crate) enum Verdict {
    /// It may.
    Go,
    /// Once this is written ([`Audit::ask`]).
    Wait(Vec<Due>),
    /// It may not; the error to answer.
    Refused(String),
}

/// An entry of the Raft log: its term, where that is known, and its index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InRaft {
    pub(crate) term: Option<u64>,
    pub(crate) index: u64,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended<'a> {
    /// The encoded reply; empty where there is none yet.
    pub(crate) reply: &'a [u8],
    /// How long it ran, where that was long.
    pub(crate) slow: Option<Duration>,
    /// Epoch and LSN of what it wrote.
    pub(crate) effect: Option<(u64, u64)>,
    /// Its entry in the Raft log.
    pub(crate) entry: Option<InRaft>,
}

/// See the module.
pub struct Audit {
    trail: Trail,
    dir: PathBuf,
    policy: Policy,
    program: Program,
    acl: Arc<Acl>,
    key: Key,
    plans: Vec<Vec<Plan>>,
    slow: Option<u64>,
    limiter: Limiter,
    run: String,
    requests: AtomicU64,
    refused: AtomicU64,
    left_out: AtomicU64,
    lost: AtomicU64,
    asks: Mutex<Option<Sender<Ask>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl Audit {
    /// Writes what was asked for, joins the threads, closes the trail. May be called twice.
    pub fn close(&self) -> Result<(), Error> {
        *self.asks.lock() = None;
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // Who drops the last reference may be one of them, which then ends by itself.
            if thread.thread().id() == std::thread::current().id() {
                continue;
            }
            if thread.join().is_err() {
                tracing::error!("a thread of the audit panicked; see above");
            }
        }
        self.tell_left_out();
        self.trail.close()
    }

    /// Closes a file of the trail (SIGHUP).
    pub fn rotate(&self) {
        match self.trail.rotate() {
            Ok(Some(file)) => {
                tracing::info!(file = %file.path.display(), entries = file.entries, "a file of the audit trail was closed")
            }
            Ok(None) => {
                tracing::info!("no file of the audit trail was closed: there is nothing new in it")
            }
            // It is told by the trail.
            Err(_) => {}
        }
    }

    /// The trail.
    #[must_use]
    pub fn trail(&self) -> &Trail {
        &self.trail
    }

    /// Whether a record of that severity may have to wait (AS3).
    fn waits(&self, severity: Severity) -> bool {
        let policy = self.policy.options.policies.of(severity);
        policy.write == Write::Sync || matches!(policy.on_failure, OnFailure::Block(_))
    }

    /// The first of `rules` that holds.
    fn decide(
        &self,
        rules: impl Iterator<Item = usize>,
        session: &Session,
        keys: &[&[u8]],
    ) -> Option<&Rule> {
        let who = Who {
            user: match session.login.is_open() {
                true => session.login.user(),
                false => "",
            },
            address: session.addr.ip(),
            client: &session.name,
        };
        for at in rules {
            let rule = &self.policy.rules[at];
            if rule.is_unconditional() || rule.holds(who, keys.iter().copied()) {
                return Some(rule).filter(|rule| rule.level != Level::None);
            }
        }
        None
    }

    fn decide_by_class(
        &self,
        class: Class,
        command: &str,
        session: &Session,
        keys: &[&[u8]],
    ) -> Option<&Rule> {
        let rules = self.policy.rules.iter().enumerate();
        let about = rules.filter(|(_, rule)| rule.is_about(class, command));
        self.decide(about.map(|(at, _)| at), session, keys)
    }

    /// What is to be recorded of a call; `None` mostly (AS4). Nothing is written yet.
    #[inline]
    pub(crate) fn consider(&self, session: &Session, argv: &[&[u8]]) -> Option<Ticket> {
        let argv = what::inner(self.program, argv);
        let Some((at, sub)) = what::at(argv) else {
            return self.consider_other(session, argv);
        };
        let plan = &self.plans[at][sub];
        if session.tx.queueing() {
            return match COMMANDS[at].name {
                "exec" => self.consider_exec(session),
                // It is queued.
                _ if !COMMANDS[at].flags.contains(Flags::RUNS_IN_MULTI) => None,
                _ => self.consider_plan(session, plan, (at, sub), argv),
            };
        }
        match plan.rules.is_empty() {
            true => None,
            false => self.consider_plan(session, plan, (at, sub), argv),
        }
    }

    fn consider_plan(
        &self,
        session: &Session,
        plan: &Plan,
        place: (usize, usize),
        argv: &[&[u8]],
    ) -> Option<Ticket> {
        let items = self.item(session, plan, place, argv, 0)?;
        Some(Ticket {
            items: vec![items],
            exec: false,
        })
    }

    fn consider_exec(&self, session: &Session) -> Option<Ticket> {
        let mut items = Vec::new();
        for (number, args) in session.tx.commands().enumerate() {
            let argv: SmallVec<[&[u8]; 8]> = args.iter().map(|arg| &**arg).collect();
            let Some((at, sub)) = what::at(&argv) else {
                continue;
            };
            items.extend(self.item(session, &self.plans[at][sub], (at, sub), &argv, number));
        }
        (!items.is_empty()).then_some(Ticket { items, exec: true })
    }

    fn consider_other(&self, session: &Session, argv: &[&[u8]]) -> Option<Ticket> {
        let what = What::of_other(self.program, argv)?;
        let rule = self.decide_by_class(what.kind.class, &what.command, session, &what.keys)?;
        let item = self.item_of(session, what, rule, argv, 0);
        Some(Ticket {
            items: vec![item],
            exec: false,
        })
    }

    fn item(
        &self,
        session: &Session,
        plan: &Plan,
        (at, sub): (usize, usize),
        argv: &[&[u8]],
        number: usize,
    ) -> Option<Item> {
        if plan.rules.is_empty() {
            return None;
        }
        let spec = match sub {
            0 => &COMMANDS[at],
            sub => &COMMANDS[at].subcommands[sub - 1],
        };
        let what = What::of_spec(spec, plan.kind, argv)?;
        let rule = self.decide(plan.rules.iter().copied(), session, &what.keys)?;
        Some(self.item_of(session, what, rule, argv, number))
    }

    fn item_of(
        &self,
        session: &Session,
        what: What<'_>,
        rule: &Rule,
        argv: &[&[u8]],
        at: usize,
    ) -> Item {
        let severity = rule.severity(what.kind.severity);
        let on_failure = self.policy.options.policies.of(severity).on_failure;
        let orders = what.kind.severity >= Severity::Error;
        let class = what.kind.class;
        // AS5. What will fail does nothing that an intent would have to stand before.
        let logs_in = class == Class::Authentication;
        let login = logs_in
            .then(|| credentials(argv))
            .flatten()
            .and_then(|(name, password)| self.acl.check(name, password));
        let user = login.map(|login| (login.user().to_string(), login.method()));
        let fails = logs_in && user.is_none();
        let staged = !fails && (orders || on_failure != OnFailure::Drop);
        let mut record = self.record_of(session, what, rule).severity(severity);
        if staged {
            record = record.request(self.request_id());
        }
        Item {
            record,
            severity,
            class,
            staged,
            at,
            user,
        }
    }

    fn request_id(&self) -> String {
        // Relaxed: a number that is given once.
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{}-{number}", self.run)
    }

    fn begin(&self, action: &'static str, session: &Session) -> Record {
        let mut record = Record::new(action);
        if let Some(user) = session.login.actor() {
            record = record.actor(user.clone(), user);
        }
        record
            .method(session.login.method())
            .origin(session.addr_text.clone(), lossy(&session.name))
            .with("client", session.id)
    }

    fn record_of(&self, session: &Session, what: What<'_>, rule: &Rule) -> Record {
        let mut record = self
            .begin(what.kind.action, session)
            .with("command", &*what.command);
        if let Some(user) = what.user {
            // AW1.
            return match self.acl.knows(user) {
                true => record.resource(what.kind.resource, lossy(user)),
                false => record
                    .resource(what.kind.resource, "(no such user)")
                    .with("name", self.key.redact(user)),
            };
        }
        let first = match rule.keys {
            Show::Clear => what.keys.first().map(|key| lossy(key)),
            Show::Hmac | Show::Omit => None,
        };
        let object = what.object.or(first).unwrap_or_default();
        record = record.resource(what.kind.resource, object);
        let all = rule.level == Level::Request;
        if what.keys.len() > 1 {
            record = record.with("keys", what.keys.len());
        }
        if !all {
            let skip = usize::from(rule.keys == Show::Clear);
            for (at, key) in what.keys.iter().enumerate().skip(skip).take(SHOWN_MAX) {
                record = self.show(record, format!("key{}", at + 1), key, rule.keys);
            }
            return record;
        }
        record = record.with("arguments", what.args.len());
        for (at, arg) in what.args.iter().enumerate().take(SHOWN_MAX) {
            let name = || format!("arg{}", at + 1);
            record = match *arg {
                Arg::Key(key) => self.show(record, name(), key, rule.keys),
                Arg::Value(value) => self.show(record, name(), value, rule.values),
                Arg::Word(word) => self.show(record, name(), word, Show::Clear),
                Arg::Hidden => record.with(name(), "(not recorded)"),
            };
        }
        record
    }

    fn show(&self, record: Record, name: String, bytes: &[u8], how: Show) -> Record {
        match how {
            Show::Clear => record.with(name, lossy(bytes)),
            Show::Hmac if bytes.len() > HELD_MAX => record.with(name, self.key.redact(bytes)),
            Show::Hmac => record.secret(name, bytes),
            Show::Omit => record,
        }
    }

    /// Whether a call may go on: its intents, where it has any, are in the trail then (AS1).
    pub(crate) fn intend(&self, ticket: &Ticket) -> Verdict {
        let staged = || ticket.items.iter().filter(|item| item.staged);
        if staged().any(|item| self.waits(item.severity)) {
            return Verdict::Wait(staged().map(intent).collect());
        }
        for (before, item) in staged().enumerate() {
            if let Err(why) = self.put(intent(item).1) {
                self.forgo(staged().take(before), NOT_ALL);
                return Verdict::Refused(why);
            }
        }
        Verdict::Go
    }

    /// Whether [`Audit::intend`] would say to wait.
    pub(crate) fn must_wait(&self, ticket: &Ticket) -> bool {
        (ticket.items.iter()).any(|item| item.staged && self.waits(item.severity))
    }

    /// As `intend`, on a thread that may wait.
    pub(crate) fn intend_here(&self, ticket: &Ticket) -> Result<(), String> {
        match self.intend(ticket) {
            Verdict::Go => Ok(()),
            Verdict::Wait(due) => self.write(due).inspect_err(|_| self.unrecorded(ticket)),
            Verdict::Refused(why) => Err(why),
        }
    }

    /// As `intend_here`, of several calls, with one sync for all.
    pub(crate) fn intend_all<'a>(
        &self,
        tickets: impl Iterator<Item = &'a Ticket>,
    ) -> Result<(), String> {
        let items = tickets.flat_map(|ticket| &ticket.items);
        let staged: Vec<&Item> = items.filter(|item| item.staged).collect();
        if staged.is_empty() {
            return Ok(());
        }
        let written = self.write(staged.iter().map(|item| intent(item)).collect());
        written.inspect_err(|_| self.forgo_group(&staged))
    }

    /// Intents of a call were asked for, and not all of them are in the trail: it is not executed.
    pub(crate) fn unrecorded(&self, ticket: &Ticket) {
        let staged: Vec<&Item> = ticket.items.iter().filter(|item| item.staged).collect();
        self.forgo_group(&staged);
    }

    /// Says of a call whose intents are in the trail that it was not executed after all.
    pub(crate) fn not_executed(&self, ticket: &Ticket, why: &'static str) {
        self.forgo(ticket.items.iter().filter(|item| item.staged), why);
    }

    /// Of one alone nothing stands; of several the first may.
    fn forgo_group(&self, staged: &[&Item]) {
        if staged.len() > 1 {
            self.forgo(staged.iter().copied(), NOT_ALL);
        }
    }

    /// Nobody waits for it; the first that is refused ends it.
    fn forgo<'a>(&self, items: impl Iterator<Item = &'a Item>, why: &'static str) {
        let outcome = |item: &Item| (item.severity, item.record.clone().failure("ERR", why));
        self.tell(items.map(outcome).collect());
    }

    /// As `finish`, of a call that another thread executed, whether its client is still there or not.
    #[must_use]
    pub(crate) fn finish_elsewhere(&self, ticket: Ticket, reply: &[u8]) -> Vec<Due> {
        let mut waiting = Vec::new();
        for item in ticket.items {
            self.push(outcome(item, reply, &Ended::default()), &mut waiting);
        }
        waiting
    }

    /// Writes what there is to say of a call that is over. What has to wait is given back: for [`Audit::ask`] or [`Audit::write`].
    #[must_use]
    pub(crate) fn finish(
        &self,
        session: &Session,
        ticket: Option<Ticket>,
        argv: &[&[u8]],
        ended: Ended<'_>,
    ) -> Vec<Due> {
        let mut waiting = Vec::new();
        let failed = refusal::failed(ended.reply);
        let recorded = ticket.is_some();
        if let Some(ticket) = ticket {
            let mut parts = ticket
                .exec
                .then(|| refusal::elements(ended.reply).enumerate());
            for item in ticket.items {
                let part = match (&mut parts, &failed) {
                    // Of an EXEC that did nothing, or failed, each command did.
                    (Some(_), None) if refusal::is_nil(ended.reply) => CHANGED,
                    (Some(parts), None) => parts
                        .find(|(at, _)| *at == item.at)
                        .map_or(&b""[..], |(_, part)| part),
                    _ => ended.reply,
                };
                let login = item.class == Class::Authentication && !item.staged;
                let (severity, mut record) = outcome(item, part, &ended);
                // AS5.
                if login && refusal::failed(part).is_some() {
                    match self.admit(refusal::kind(WRONGPASS)) {
                        Some(0) => {}
                        Some(left_out) => record = record.with("left_out_before", left_out),
                        None => continue,
                    }
                }
                self.push((severity, record), &mut waiting);
            }
        }
        if let Some(failed) = failed
            && !recorded
        {
            self.refusal(session, &failed, &mut waiting, || {
                command_of(self.program, argv)
            });
        }
        if let Some(slow) = ended.slow {
            let command = command_of(self.program, argv);
            if let Some(rule) = self.decide_by_class(Class::Slow, &command, session, &[]) {
                let severity = rule.severity(Severity::Notice);
                let micros = u64::try_from(slow.as_micros()).unwrap_or(u64::MAX);
                let record = self
                    .begin("command.slow", session)
                    .severity(severity)
                    .success();
                let record = record
                    .with("command", &*command)
                    .with("duration_us", micros);
                self.push(
                    (
                        severity,
                        record.with("arguments", argv.len().saturating_sub(1)),
                    ),
                    &mut waiting,
                );
            }
        }
        waiting
    }

    /// As `finish`, of several calls whose replies stand one behind the other; `tickets` are those of some of them, in order, `entry` is the one
    /// that has them all.
    #[must_use]
    pub(crate) fn finish_batch(
        &self,
        session: &Session,
        tickets: Vec<(usize, Ticket)>,
        replies: &[u8],
        entry: Option<InRaft>,
    ) -> Vec<Due> {
        let mut waiting = Vec::new();
        let mut tickets = tickets.into_iter().peekable();
        for (at, reply) in refusal::values(replies).enumerate() {
            let ticket = tickets
                .next_if(|(place, _)| *place == at)
                .map(|(_, ticket)| ticket);
            if ticket.is_some() || reply.first() == Some(&b'-') {
                let ended = Ended {
                    reply,
                    entry,
                    ..Ended::default()
                };
                waiting.extend(self.finish(session, ticket, &[], ended));
            }
        }
        for (_, ticket) in tickets {
            waiting.extend(self.finish(session, Some(ticket), &[], Ended::default()));
        }
        waiting
    }

    /// As `finish`, of a call whose reply is the last of several.
    #[must_use]
    pub(crate) fn finish_last(
        &self,
        session: &Session,
        ticket: Ticket,
        argv: &[&[u8]],
        replies: &[u8],
    ) -> Vec<Due> {
        let ended = Ended {
            reply: refusal::values(replies).last().unwrap_or_default(),
            ..Ended::default()
        };
        self.finish(session, Some(ticket), argv, ended)
    }

    /// Whether one more refusal of a kind has a record, and how many before it have none.
    fn admit(&self, kind: usize) -> Option<u64> {
        let left_out = self.limiter.admit(kind);
        if left_out.is_none() {
            // Relaxed: numbers for people.
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        left_out
    }

    fn refusal(
        &self,
        session: &Session,
        failed: &Failed<'_>,
        waiting: &mut Vec<Due>,
        command: impl FnOnce() -> Cow<'static, str>,
    ) {
        let Some(kind) = failed.refusal else {
            return;
        };
        let command = command();
        let Some(rule) = self.decide_by_class(Class::Refused, &command, session, &[]) else {
            return;
        };
        let Some(left_out) = self.admit(kind) else {
            return;
        };
        let severity = rule.severity(Severity::Warning);
        let mut record = self.begin("command.refused", session).severity(severity);
        record = record.failure(failed.code.to_owned(), failed.message.to_owned());
        if !command.is_empty() {
            record = record.with("command", &*command);
        }
        if left_out > 0 {
            record = record.with("left_out_before", left_out);
        }
        self.push((severity, record), waiting);
    }

    /// That the reply to something that was executed became an error afterwards.
    #[must_use]
    pub(crate) fn undone(&self, session: &Session, reply: &[u8]) -> Vec<Due> {
        let mut waiting = Vec::new();
        if let Some(failed) = refusal::failed(reply) {
            self.refusal(session, &failed, &mut waiting, || {
                Cow::Borrowed(session.last_command)
            });
        }
        waiting
    }

    /// That a client sent what is no command.
    #[must_use]
    pub(crate) fn malformed(&self, session: &Session) -> Vec<Due> {
        let mut waiting = Vec::new();
        let failed = refusal::of(
            "PROTOCOL",
            "what the client sent is no command; it was cut off",
        );
        self.refusal(session, &failed, &mut waiting, || Cow::Borrowed(""));
        waiting
    }

    /// That a client was turned away for want of places.
    pub(crate) fn turned_away(&self, addr: SocketAddr) {
        let mut session = Session::new(0, addr, addr);
        session.login = Login::nobody();
        let mut waiting = Vec::new();
        let failed = refusal::of("MAXCLIENTS", "max number of clients reached");
        self.refusal(&session, &failed, &mut waiting, || Cow::Borrowed(""));
        self.tell(waiting);
    }

    /// Whether a client that connected may be served.
    pub(crate) fn opened(&self, session: &Session) -> Verdict {
        let Some(due) = self.connection(session, "session.open") else {
            return Verdict::Go;
        };
        if self.waits(due.0) {
            return Verdict::Wait(vec![due]);
        }
        match self.put(due.1) {
            Ok(()) => Verdict::Go,
            Err(why) => Verdict::Refused(why),
        }
    }

    /// That a client is gone.
    pub(crate) fn closed(&self, session: &Session) {
        if let Some(due) = self.connection(session, "session.close") {
            let mut waiting = Vec::new();
            self.push(due, &mut waiting);
            self.tell(waiting);
        }
    }

    fn connection(&self, session: &Session, action: &'static str) -> Option<Due> {
        let rule = self.decide_by_class(Class::Connection, "", session, &[])?;
        let severity = rule.severity(Severity::Notice);
        Some((
            severity,
            self.begin(action, session).severity(severity).success(),
        ))
    }

    /// Nanoseconds of a clock that is cheap to read, where slow commands are recorded.
    #[inline]
    pub(crate) fn clock(&self) -> u64 {
        match self.slow {
            Some(_) => {
                let now = clock_gettime(ClockId::MonotonicCoarse);
                now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
            }
            None => 0,
        }
    }

    /// How long it is since `begun`, where that is slow.
    #[inline]
    pub(crate) fn slow_since(&self, begun: u64) -> Option<Duration> {
        let least = self.slow?;
        let spent = self.clock().saturating_sub(begun);
        (spent > 0 && spent >= least).then(|| Duration::from_nanos(spent))
    }

    /// Writes a record here, or keeps it for who can wait.
    fn push(&self, due: Due, waiting: &mut Vec<Due>) {
        if self.waits(due.0) {
            waiting.push(due);
        } else {
            // Nobody can be refused any more; it is counted.
            let _ = self.put(due.1);
        }
    }

    fn put(&self, record: Record) -> Result<(), String> {
        self.taken(self.trail.record(record).map(|_| ()))
    }

    /// What the trail said to a record, as a reply where it did not take it.
    fn taken(&self, said: Result<(), Error>) -> Result<(), String> {
        let why = match said {
            Ok(()) => return Ok(()),
            Err(Error::Refused { why }) => why,
            Err(error) => error.to_string(),
        };
        if self
            .lost
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(1000)
        {
            tracing::error!(why, "the audit trail did not take a record");
        }
        Err(format!(
            "AUDITREFUSED not executed: the audit trail did not take its record ({why}); INFO audit shows how it stands"
        ))
    }

    /// Writes records, on a thread that may wait, with one sync for all; the first that is refused ends it. The error is a reply.
    pub(crate) fn write(&self, due: Vec<Due>) -> Result<(), String> {
        let records = due.into_iter().map(|(_, record)| record).collect();
        self.taken(self.trail.record_all(records))
    }

    /// Counts a call that was answered with an error of `write`'s.
    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Has a thread write records, and then tell how that went (AS3).
    pub(crate) fn ask(
        &self,
        due: Vec<Due>,
        then: impl FnOnce(Result<(), String>) + Send + 'static,
    ) {
        let ask = Ask {
            due,
            then: Box::new(then),
        };
        let failed = match &*self.asks.lock() {
            Some(asks) => asks.send(ask).err().map(|error| error.0),
            None => Some(ask),
        };
        if let Some(ask) = failed {
            (ask.then)(self.write(ask.due));
        }
    }

    /// Has the users read anew, as an operator asked by a signal; on a thread that may wait. The error says why that could not be recorded: nothing was
    /// read then (AS1).
    pub(crate) fn reload(
        &self,
        reload: impl FnOnce() -> Result<usize, AclError>,
    ) -> Result<Result<usize, AclError>, String> {
        let severity = Severity::Error;
        let record = Record::new("user.reload").severity(severity);
        let record = record.resource("users", "").with("by", "SIGHUP");
        let record = record.request(self.request_id());
        if let Err(why) = self.write(vec![(severity, record.clone().intent())]) {
            self.count_refused();
            return Err(why);
        }
        let reloaded = reload();
        let record = match &reloaded {
            Ok(users) => record.with("users", *users).success(),
            Err(_) => record.failure("ERR", "the ACL file is refused; the log says why"),
        };
        // It was done, whatever becomes of the record.
        let _ = self.write(vec![(severity, record)]);
        Ok(reloaded)
    }

    /// Has a thread write records; nobody waits for them.
    pub(crate) fn tell(&self, due: Vec<Due>) {
        if !due.is_empty() {
            self.ask(due, |_| {});
        }
    }

    /// Says what of refusals was left out in seconds that are over.
    fn tell_left_out(&self) {
        for (code, count) in self.limiter.left_out() {
            let record = Record::new("command.refused").severity(Severity::Warning);
            let record =
                record.failure(code, "as many more in that second as left_out_before says");
            let _ = self.put(record.with("left_out_before", count));
        }
    }

    /// How the trail stands.
    #[must_use]
    pub fn stats(&self) -> TrailStats {
        self.trail.stats()
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the audit trail was not closed cleanly");
        }
    }
}

/// What is recorded of the commands of an EXEC that is answered nil.
const CHANGED: &[u8] = b"-EXECABORT not executed: a watched key had changed\r\n";
/// What is recorded of a call whose client does not wait for it any more.
pub(crate) const GONE: &str = "not executed: the client was gone";
/// What is recorded of a call that a stop was before.
pub(crate) const STOPPING: &str = "not executed: the server was stopping";
/// What is recorded of a call that goes with others.
const NOT_ALL: &str = "not executed: a record that goes with this one was refused";
/// The kind of refusal that failed logins count as.
const WRONGPASS: &str = "WRONGPASS";

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_MAX)]).into_owned()
}

fn command_of(program: Program, argv: &[&[u8]]) -> Cow<'static, str> {
    match what::at(what::inner(program, argv)) {
        Some((at, 0)) => COMMANDS[at].name.into(),
        Some((at, sub)) => COMMANDS[at].subcommands[sub - 1].name.into(),
        None if argv.is_empty() => "".into(),
        None => what::name_of(argv).into(),
    }
}

fn intent(item: &Item) -> Due {
    (item.severity, item.record.clone().intent())
}

fn outcome(item: Item, reply: &[u8], ended: &Ended<'_>) -> Due {
    let (mut severity, mut record) = (item.severity, item.record);
    match refusal::failed(reply) {
        Some(failed) => {
            if failed.refusal.is_some() || item.class == Class::Authentication {
                severity = severity.max(Severity::Warning);
            }
            record = record
                .severity(severity)
                .failure(failed.code.to_owned(), failed.message.to_owned());
        }
        None if reply.is_empty() => {}
        None => {
            if let Some((user, method)) = item.user {
                // It was checked: from now on the client is this one.
                record = record.actor(user.clone(), user).method(method);
            }
            record = record.success();
        }
    }
    if let Some((epoch, lsn)) = ended.effect {
        record = record.effect(epoch, lsn);
    }
    if let Some(InRaft { term, index }) = ended.entry {
        record = record.entry(term, index);
    }
    (severity, record)
}
