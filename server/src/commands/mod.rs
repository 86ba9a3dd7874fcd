//! What each command means.
//!
//! - D1: a command that reads or writes keys runs on a [`Txn`]: it reads, encodes its reply, and gathers writes; then the
//!   batch is committed, and where that fails the reply is taken back. So a failed command has written nothing and
//!   said nothing.
//! - D2: `session.touched` says how far the safe position must be before the reply leaves (design: "What a reply
//!   may reveal"); errors count, as they reveal what was read.
//! - D3: [`Flow::NeedRoom`] means that nothing was done: running the command again is right.

mod acl;
mod args;
mod connection;
mod counters;
mod describe;
mod error;
mod expire;
mod glob;
mod keys;
mod keyspace;
mod longdouble;
mod num;
pub mod replicated;
mod server;
mod strings;
mod table;
mod transactions;

pub(crate) use connection::credentials;
pub(crate) use error::UNSUPPORTED;
pub use error::{CommandError, store_error, write_error};
pub use glob::matches as glob_matches;
pub use num::parse_i64;
pub(crate) use table::place;
pub use table::{COMMANDS, CommandSpec, Flags, Group, Handler, find};
pub use transactions::Tx;
pub(crate) use transactions::{Queued, Transaction};

use crate::engine::keys::StoredKey;
use crate::engine::locks::StripeSet;
use crate::engine::{Done, Engine, Locking, Txn, is_busy};
use crate::{Ctx, Flow, Reply};
use esker_lsm::Snapshot;

/// The Redis whose commands these are: what HELLO and INFO show to clients that look.
pub const REDIS_VERSION: &str = "7.0.15";

/// Runs one command. `argv` is not empty.
pub fn execute(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Flow {
    let mark = out.len();
    let spec = match table::resolve(argv) {
        Ok(spec) => spec,
        Err(text) if args::is(argv[0], "exec") => {
            transactions::discarded(ctx, text, out);
            return Flow::Done;
        }
        Err(text) => {
            ctx.session.tx.refused();
            refuse(text, out);
            return Flow::Done;
        }
    };
    ctx.session.last_command = spec.name;
    let result = if ctx.session.tx.queueing() && !spec.flags.contains(Flags::RUNS_IN_MULTI) {
        enqueue(ctx, spec, argv, out)
    } else {
        match spec.handler {
            Handler::Data(run) => run_data(ctx, spec, run, argv, out),
            Handler::Control(run) => run(ctx, argv, out),
            Handler::Container => Err(table::wrong_arity(spec.name)),
        }
    };
    match result {
        Ok(flow) => flow,
        Err(error) => {
            out.truncate(mark);
            match error {
                CommandError::Text(text) => out.error(&text),
                CommandError::Store(error) => out.error(&store_error(&error)),
            }
            Flow::Done
        }
    }
}

/// An error reply with a client's own bytes.
fn refuse(mut text: Vec<u8>, out: &mut Reply) {
    for byte in &mut text {
        if matches!(*byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    out.raw(&[b"-", &text[..], b"\r\n"].concat());
}

/// The client is gone: forgets its WATCHes.
pub fn disconnected(ctx: &mut Ctx<'_>) {
    transactions::forget(ctx);
}

fn enqueue(
    ctx: &mut Ctx<'_>,
    spec: &'static CommandSpec,
    argv: &[&[u8]],
    out: &mut Reply,
) -> Result<Flow, CommandError> {
    if spec.flags.contains(Flags::NO_MULTI) {
        ctx.session.tx.refused();
        return Err("ERR Command not allowed inside a transaction".into());
    }
    if spec.is_write()
        && let Err(refusal) = ctx.server.write_gate()
    {
        ctx.session.tx.refused();
        return Err(CommandError::Text(refusal.text()));
    }
    transactions::queue(ctx, spec, argv, out)
}

/// Where a read must look while the safe position can't move; `None` is the usual case.
fn safe_view(ctx: &Ctx<'_>, engine: &Engine) -> Result<Option<Snapshot>, CommandError> {
    match ctx.server.read_at() {
        None => Ok(None),
        Some(below) => match engine.store().snapshot_at(below) {
            Some(view) => Ok(Some(view)),
            None => Err(format!(
                "MISCONF reads are held at position {below}, which is not kept any more; try again once writes are accepted"
            )
            .into()),
        },
    }
}

/// Tells the event loop what a transaction touched.
fn note(ctx: &mut Ctx<'_>, done: Done) {
    let session = &mut *ctx.session;
    session.touched = session.touched.max(done.touched);
    if let Some(end) = done.end {
        session.wrote(end);
    }
}

fn run_data(
    ctx: &mut Ctx<'_>,
    spec: &'static CommandSpec,
    run: table::Data,
    argv: &[&[u8]],
    out: &mut Reply,
) -> Result<Flow, CommandError> {
    let Some(engine) = ctx.engine else {
        return Err(crate::session::LOADING.into());
    };
    let mut view = None;
    let mut stripes = StripeSet::default();
    let locking = if spec.is_write() {
        ctx.server
            .write_gate()
            .map_err(|refusal| CommandError::Text(refusal.text()))?;
        let bytes: usize = argv.iter().map(|arg| arg.len() + 16).sum();
        if !engine.has_room(bytes) {
            return Ok(Flow::NeedRoom);
        }
        if spec.is_whole_keyspace() {
            Locking::All
        } else if spec.has_one_key() {
            Locking::Key(argv[spec.first_key as usize])
        } else {
            add_keys(spec, argv, &mut stripes);
            Locking::Set(&stripes)
        }
    } else {
        view = safe_view(ctx, engine)?;
        if view.is_none() && !spec.has_one_key() && !spec.is_whole_keyspace() && argv.len() > 2 {
            // Under the locks several keys are read as at one moment.
            add_keys(spec, argv, &mut stripes);
            Locking::Set(&stripes)
        } else {
            Locking::None
        }
    };
    let safe = view.is_some();
    let mark = out.len();
    let mut txn: Txn<'_> = engine.begin(view, locking);
    let error = match run(&mut txn, argv, out) {
        Ok(()) => None,
        Err(CommandError::Text(text)) => {
            debug_assert!(!txn.has_writes(), "{} checks before it writes", spec.name);
            Some(text)
        }
        Err(error) => return Err(error),
    };
    match txn.commit() {
        Ok(done) => {
            if !safe {
                note(ctx, done);
            }
            match error {
                None => Ok(Flow::Done),
                Some(text) => Err(CommandError::Text(text)),
            }
        }
        Err(error) => {
            out.truncate(mark);
            if is_busy(&error) {
                Ok(Flow::NeedRoom)
            } else {
                Err(CommandError::Text(write_error(&error)))
            }
        }
    }
}

fn add_keys(spec: &CommandSpec, argv: &[&[u8]], stripes: &mut StripeSet) {
    for at in spec.key_positions(argv.len()) {
        stripes.add(&StoredKey::new(argv[at]));
    }
}

/// The error for a name that is no command, in Redis's words: with the client's own bytes, whatever they are.
fn unknown_command(argv: &[&[u8]]) -> Vec<u8> {
    let name = args::c_string(argv[0]);
    let mut text = [
        b"ERR unknown command '",
        &name[..name.len().min(128)],
        b"', with args beginning with: ",
    ]
    .concat();
    let mut used = 0;
    for arg in &argv[1..] {
        if used >= 128 {
            break;
        }
        let arg = args::c_string(arg);
        let part = &arg[..arg.len().min(128 - used)];
        text.push(b'\'');
        text.extend_from_slice(part);
        text.extend_from_slice(b"' ");
        used += part.len() + 3;
    }
    text
}
