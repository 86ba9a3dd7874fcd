//! MULTI, EXEC, DISCARD, WATCH.
//!
//! EXEC takes the stripes of all keys that it names or watches, in order; runs the queue on one [`Txn`] with an
//! overlay; and commits one batch. Where there is no room nothing was done, and the queue is still there to run again.
//!
//! On `raft-node` MULTI, the queue and DISCARD are these; WATCH and EXEC, which need the cluster, are the front end's, on a [`Transaction`].

use super::error::{CommandError, write_error};
use super::table::{self, CommandSpec, Handler};
use crate::engine::keys::StoredKey;
use crate::engine::locks::StripeSet;
use crate::engine::watch::Dirty;
use crate::engine::{Locking, Txn, Version, is_busy};
use crate::{Ctx, Flow, Reply};
use esker_lsm::StoreError;
use smallvec::SmallVec;
use std::sync::atomic::Ordering;

type Control = Result<Flow, CommandError>;

/// Commands that a client may queue; `ServerControl` says how many bytes.
const QUEUE_COMMANDS_MAX: usize = 1 << 20;
/// Bytes of keys that a client may watch at once where they go into the log with EXEC.
const WATCHED_BYTES_MAX: usize = 1 << 20;
/// EXEC without anything to execute.
const NO_MULTI: &str = "ERR EXEC without MULTI";
const ABORTED: &str = "EXECABORT Transaction discarded because of previous errors.";

/// A client's MULTI queue and WATCHes.
#[derive(Debug, Default)]
pub struct Tx {
    queueing: bool,
    /// A command was refused while queueing: EXEC aborts.
    failed: bool,
    executing: bool,
    queue: Vec<Queued>,
    bytes: usize,
    watched: Vec<Watched>,
    /// By [`Tx::watch`].
    watched_bytes: usize,
    dirty: Option<Dirty>,
}

impl Tx {
    /// Whether commands are queued (between MULTI and EXEC).
    #[must_use]
    pub fn queueing(&self) -> bool {
        self.queueing
    }

    /// Commands queued; `None` outside MULTI. For `CLIENT LIST`.
    #[must_use]
    pub fn queued(&self) -> Option<usize> {
        self.queueing.then_some(self.queue.len())
    }

    /// What EXEC would run now; nothing where it would abort.
    pub(crate) fn commands(&self) -> impl Iterator<Item = &[Box<[u8]>]> {
        let queue = if self.failed || !self.queueing {
            &[][..]
        } else {
            &self.queue
        };
        queue.iter().map(|queued| &*queued.args)
    }

    /// Whether EXEC is running its queue.
    pub(super) fn executing(&self) -> bool {
        self.executing
    }

    /// A command was refused: if it was to be queued, EXEC will abort.
    pub(crate) fn refused(&mut self) {
        self.failed |= self.queueing;
    }

    /// Whether a stored key is watched.
    pub(crate) fn watches(&self, stored: &[u8]) -> bool {
        self.watched.iter().any(|watched| *watched.key == *stored)
    }

    /// Watches a stored key that was written there; where there are too many, an error.
    pub(crate) fn watch(&mut self, stored: &[u8], written: u64) -> Result<(), String> {
        let bytes = self.watched_bytes + stored.len() + 32;
        if bytes > WATCHED_BYTES_MAX {
            return Err(format!(
                "ERR the keys that are watched have more than {WATCHED_BYTES_MAX} bytes, with 32 for each; watch fewer"
            ));
        }
        self.watched_bytes = bytes;
        let version = Version {
            seqno: written,
            exists: written > 0,
            deadline: None,
        };
        self.watched.push(Watched {
            key: stored.into(),
            version,
        });
        Ok(())
    }

    /// What EXEC is to execute; the client has neither MULTI nor WATCHes then. Else the error, and it has not either, but for an EXEC
    /// without MULTI.
    pub(crate) fn take(&mut self) -> Result<Transaction, &'static str> {
        if !self.queueing {
            return Err(NO_MULTI);
        }
        let tx = std::mem::take(self);
        match tx.failed {
            true => Err(ABORTED),
            false => Ok(Transaction {
                queue: tx.queue,
                watched: tx.watched,
            }),
        }
    }
}

/// What a client queued, and what it watches.
#[derive(Debug)]
pub(crate) struct Transaction {
    queue: Vec<Queued>,
    watched: Vec<Watched>,
}

impl Transaction {
    /// The commands.
    pub(crate) fn queue(&self) -> &[Queued] {
        &self.queue
    }

    /// Stored keys, and where they were written: [`Tx::watch`].
    pub(crate) fn watched(&self) -> impl ExactSizeIterator<Item = (&[u8], u64)> {
        (self.watched.iter()).map(|watched| (&*watched.key, watched.version.seqno))
    }
}

#[cfg(test)]
impl Transaction {
    pub(crate) fn of(watched: &[(&str, u64)], lines: &[&str]) -> Transaction {
        let queue = lines.iter().map(|line| {
            let args: Vec<Box<[u8]>> = line.split(' ').map(|arg| arg.as_bytes().into()).collect();
            let spec = table::find(&args[0]).expect("a command");
            Queued { spec, args }
        });
        let mut tx = Tx::default();
        for (key, place) in watched {
            tx.watch(key.as_bytes(), *place).expect("room");
        }
        Transaction {
            queue: queue.collect(),
            watched: tx.watched,
        }
    }
}

/// A command that waits for EXEC.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) spec: &'static CommandSpec,
    args: Vec<Box<[u8]>>,
}

impl Queued {
    pub(crate) fn argv(&self) -> SmallVec<[&[u8]; 8]> {
        self.args.iter().map(|arg| &**arg).collect()
    }

    /// Whether it is about keys.
    pub(crate) fn is_data(&self) -> bool {
        matches!(self.spec.handler, Handler::Data(_))
    }
}

#[derive(Debug)]
struct Watched {
    key: Box<[u8]>,
    version: Version,
}

pub(super) fn multi(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    if ctx.session.tx.queueing {
        return Err("ERR MULTI calls can not be nested".into());
    }
    ctx.session.tx.queueing = true;
    out.ok();
    Ok(Flow::Done)
}

pub(super) fn queue(
    ctx: &mut Ctx<'_>,
    spec: &'static CommandSpec,
    argv: &[&[u8]],
    out: &mut Reply,
) -> Control {
    let tx = &mut ctx.session.tx;
    if tx.failed {
        // It will abort whatever comes: only the answer is owed.
        out.simple("QUEUED");
        return Ok(Flow::Done);
    }
    let bytes = argv.iter().map(|arg| arg.len() + 32).sum::<usize>();
    let most = ctx.server.queue_bytes_max();
    if tx.bytes + bytes > most || tx.queue.len() == QUEUE_COMMANDS_MAX {
        tx.failed = true;
        tx.queue = Vec::new();
        return Err(format!(
            "ERR a transaction holds at most {most} bytes and {QUEUE_COMMANDS_MAX} commands; it will be \
             discarded"
        )
        .into());
    }
    tx.bytes += bytes;
    tx.queue.push(Queued {
        spec,
        args: argv.iter().map(|arg| Box::from(*arg)).collect(),
    });
    out.simple("QUEUED");
    Ok(Flow::Done)
}

pub(super) fn discard(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    if !ctx.session.tx.queueing {
        return Err("ERR DISCARD without MULTI".into());
    }
    forget(ctx);
    out.ok();
    Ok(Flow::Done)
}

/// Answers an EXEC that can't be run for what it says itself: as in Redis it is the end of MULTI and of all WATCHes.
pub(super) fn discarded(ctx: &mut Ctx<'_>, why: Vec<u8>, out: &mut Reply) {
    forget(ctx);
    let why = why.strip_prefix(b"ERR ").unwrap_or(&why);
    let text = [b"EXECABORT Transaction discarded because of: ", why].concat();
    super::refuse(text, out);
}

/// Ends MULTI and all WATCHes.
pub(super) fn forget(ctx: &mut Ctx<'_>) {
    unwatch_all(ctx);
    ctx.session.tx = Tx::default();
}

fn unwatch_all(ctx: &mut Ctx<'_>) {
    let tx = &mut ctx.session.tx;
    if let (Some(engine), Some(dirty)) = (ctx.engine, &tx.dirty) {
        for watched in &tx.watched {
            engine.watches().remove(&watched.key, dirty);
        }
    }
    tx.watched.clear();
    tx.watched_bytes = 0;
    tx.dirty = None;
}

pub(super) fn unwatch(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    unwatch_all(ctx);
    out.ok();
    Ok(Flow::Done)
}

pub(super) fn watch(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    if ctx.session.tx.queueing {
        return Err("ERR WATCH inside MULTI is not allowed".into());
    }
    let Some(engine) = ctx.engine else {
        return Err(crate::session::LOADING.into());
    };
    let tx = &mut ctx.session.tx;
    let dirty = tx.dirty.get_or_insert_default().clone();
    for key in &argv[1..] {
        let stored = StoredKey::new(key);
        if tx.watches(&stored) {
            continue;
        }
        let mut txn = engine.begin(None, Locking::Key(key));
        let version = txn.version(&stored)?;
        engine.watches().add(&stored, &dirty);
        tx.watched.push(Watched {
            key: (*stored).into(),
            version,
        });
    }
    out.ok();
    Ok(Flow::Done)
}

/// Whether a watched key has changed. Its stripe is held.
fn changed(txn: &mut Txn<'_>, tx: &Tx, writer: bool) -> Result<bool, StoreError> {
    if tx
        .dirty
        .as_ref()
        .is_some_and(|dirty| dirty.load(Ordering::Acquire))
    {
        return Ok(true);
    }
    for watched in &tx.watched {
        let version = txn.version(&watched.key)?;
        let passed = watched.version.exists && !version.exists;
        // A replica's keys change below the engine; there, and only there, the version tells.
        let rewritten = !writer
            && (version.exists || watched.version.exists)
            && version.seqno != watched.version.seqno;
        if passed || rewritten {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the queue needs before it can run.
struct Needs {
    writes: bool,
    bytes: usize,
    all: bool,
    stripes: StripeSet,
}

fn needs(tx: &Tx) -> Needs {
    let mut needs = Needs {
        writes: false,
        bytes: tx.bytes,
        all: false,
        stripes: StripeSet::default(),
    };
    for queued in &tx.queue {
        needs.writes |= queued.spec.is_write();
        needs.all |= queued.spec.is_whole_keyspace();
        for at in queued.spec.key_positions(queued.args.len()) {
            needs.stripes.add(&StoredKey::new(&queued.args[at]));
        }
    }
    for watched in &tx.watched {
        needs.stripes.add(&watched.key);
    }
    needs
}

pub(super) fn exec(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    if !ctx.session.tx.queueing {
        return Err(NO_MULTI.into());
    }
    if ctx.session.tx.failed {
        forget(ctx);
        return Err(ABORTED.into());
    }
    let Some(engine) = ctx.engine else {
        forget(ctx);
        return Err(format!(
            "EXECABORT Transaction discarded because of: {}",
            crate::session::LOADING
        )
        .into());
    };
    let needs = needs(&ctx.session.tx);
    let mut view = None;
    if needs.writes {
        if let Err(refusal) = ctx.server.write_gate() {
            forget(ctx);
            return Err(format!(
                "EXECABORT Transaction discarded because of: {}",
                refusal.text()
            )
            .into());
        }
        if !engine.has_room(needs.bytes) {
            return Ok(Flow::NeedRoom);
        }
    } else {
        view = super::safe_view(ctx, engine)?;
    }
    let safe = view.is_some();
    let locking = if needs.all {
        Locking::All
    } else {
        Locking::Set(&needs.stripes)
    };
    let mark = out.len();
    let (protocol, login) = (out.protocol(), ctx.session.login.clone());
    let mut txn = engine.begin(view, locking);
    let fresh = changed(&mut txn, &ctx.session.tx, engine.is_writer() && !safe);
    let aborted = match fresh {
        Ok(aborted) => aborted,
        Err(error) => {
            drop(txn);
            forget(ctx);
            return Err(error.into());
        }
    };
    let queue = std::mem::take(&mut ctx.session.tx.queue);
    let mut failure = None;
    if aborted {
        out.null_array();
    } else {
        txn = txn.with_overlay();
        ctx.session.tx.executing = true;
        ctx.session.tx.queueing = false;
        out.array(queue.len());
        for queued in &queue {
            if let Err(error) = run_queued(ctx, &mut txn, queued, out) {
                failure = Some(error);
                break;
            }
        }
        ctx.session.tx.executing = false;
        ctx.session.tx.queueing = true;
    }
    let result = match failure {
        Some(error) => Err(error),
        None => txn.commit(),
    };
    match result {
        Ok(done) => {
            if !safe {
                super::note(ctx, done);
            }
            forget(ctx);
            Ok(Flow::Done)
        }
        Err(error) => {
            out.truncate(mark);
            out.set_protocol(protocol);
            ctx.session.protocol = protocol;
            ctx.session.login = login;
            if is_busy(&error) {
                ctx.session.tx.queue = queue;
                return Ok(Flow::NeedRoom);
            }
            forget(ctx);
            Err(CommandError::Text(write_error(&error)))
        }
    }
}

/// Runs one command of the queue; its own errors become its reply, a failure of the store ends the EXEC.
fn run_queued(
    ctx: &mut Ctx<'_>,
    txn: &mut Txn<'_>,
    queued: &Queued,
    out: &mut Reply,
) -> Result<(), StoreError> {
    let argv = queued.argv();
    let mark = out.len();
    let result = match queued.spec.handler {
        Handler::Data(run) => run(txn, &argv, out),
        Handler::Control(run) => run(ctx, &argv, out).map(|flow| {
            debug_assert!(
                matches!(flow, Flow::Done),
                "{} waits for nothing in EXEC",
                queued.spec.name
            );
        }),
        Handler::Container => Err(table::wrong_arity(queued.spec.name)),
    };
    replied(result, mark, out)
}

/// The end of one command of a transaction.
pub(super) fn replied(
    result: Result<(), CommandError>,
    mark: usize,
    out: &mut Reply,
) -> Result<(), StoreError> {
    match result {
        Ok(()) => Ok(()),
        Err(CommandError::Text(text)) => {
            out.truncate(mark);
            out.error(&text);
            Ok(())
        }
        Err(CommandError::Store(error)) => Err(error),
    }
}
