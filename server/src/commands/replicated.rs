//! Commands of a replicated store: which of them go through the log, how they stand in it, and their effect.
//!
//! - RC1 (C1): the effect and the reply of a batch depend on the state before it, on its replicated time and on its bytes alone.
//! - RC2: what a batch of version 1 does must stay as it is: nodes of two builds apply one log. What would change it needs another version,
//!   which an older build refuses to apply.
//! - RC3: a command writes all that it writes, or answers an error and writes nothing (D1).
//!
//! Little-endian.
//! ```text
//! version u8 (1), protocol u8 (2 or 3: of the replies), commands u32,
//! each: arguments u32, each: length u32 and bytes
//! ```
//! The answer of a batch is the commands' replies, one behind the other, as the client gets them. Version 2 is a [`transaction`].

pub mod transaction;

use super::error::CommandError;
use super::{args, refuse, table};
use crate::engine::Txn;
use crate::engine::cursors::Cursors;
use crate::engine::state::{Change, State};
use crate::{Protocol, Reply};
use bytes::Bytes;
use esker_lsm::StoreError;
use table::{CommandSpec, Group, Handler};

const VERSION: u8 = 1;
/// What most batches are answered.
const OK: &[u8] = b"+OK\r\n";
/// Commands in one batch, at most.
pub const BATCH_COMMANDS_MAX: usize = 256;
/// Bytes above which a batch takes no further command.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Arguments of a command that writes, at most.
const ARGS_MAX: usize = 1 << 16;
/// Bytes that a batch writes, at most: what a node holds in memory for it, and what a reply can have to carry.
const WRITES_MAX: usize = 32 << 20;

/// What is to be done with a command.
#[derive(Debug)]
pub enum Class {
    /// It goes through the log.
    Write {
        /// Its reply or its effect may be much longer than the command: a batch of its own.
        alone: bool,
        /// It writes no more than it is long, but for some bytes: its batch may be joined with those of others.
        joins: bool,
    },
    /// It reads the state.
    Read,
    /// It is about the connection or the server: [`super::execute`].
    Here,
    /// It can't be done; the error is written.
    Refused,
}

/// Decides; where the answer is an error, writes it. `argv` is not empty.
pub fn classify(argv: &[&[u8]], out: &mut Reply) -> Class {
    let spec = match table::resolve(argv) {
        Ok(spec) => spec,
        Err(text) => {
            refuse(text, out);
            return Class::Refused;
        }
    };
    match spec.handler {
        Handler::Data(_) if spec.is_write() => match too_many(argv) {
            Some(text) => {
                out.error(&text);
                Class::Refused
            }
            None => {
                let alone = match spec.name {
                    // Each writes, or answers, a whole value that is there: together they could be more than is applied at once.
                    "append" | "setrange" | "getset" | "getdel" | "getex" | "copy" | "rename"
                    | "renamenx" | "expire" | "pexpire" | "expireat" | "pexpireat" | "persist" => {
                        true
                    }
                    // GET among the options.
                    "set" => argv[3..].iter().any(|arg| args::is(arg, "get")),
                    _ => false,
                };
                // Others may write a value anew that is there already.
                let joins = !alone
                    && matches!(
                        spec.name,
                        "set"
                            | "setnx"
                            | "setex"
                            | "psetex"
                            | "mset"
                            | "msetnx"
                            | "del"
                            | "unlink"
                            | "incr"
                            | "incrby"
                            | "incrbyfloat"
                            | "decr"
                            | "decrby"
                    );
                Class::Write { alone, joins }
            }
        },
        Handler::Data(_) if spec.name != "randomkey" => Class::Read,
        Handler::Control(_) if is_served(spec) => Class::Here,
        // Its error is that of a wrong number of arguments.
        Handler::Container => Class::Here,
        _ => {
            out.error(&format!(
                "ERR '{}' is not served by raft-node; docs/operations.md says what is",
                spec.name
            ));
            Class::Refused
        }
    }
}

/// The first key of a command on keys; `None` for any other, and for one with a wrong number of arguments.
pub fn first_key<'a>(argv: &[&'a [u8]]) -> Option<&'a [u8]> {
    let spec = table::resolve(argv).ok()?;
    let at = spec.key_positions(argv.len()).next()?;
    argv.get(at).copied()
}

fn is_served(spec: &CommandSpec) -> bool {
    matches!(spec.group, Group::Connection | Group::Transactions)
        || ["command", "info", "role", "time", "shutdown", "config|get"].contains(&spec.name)
        || spec.name.starts_with("command|")
        || spec.name.starts_with("acl|")
}

fn too_many(argv: &[&[u8]]) -> Option<String> {
    (argv.len() > ARGS_MAX).then(|| {
        format!(
            "ERR {} arguments, and a command that is replicated may have {ARGS_MAX}; send it in parts",
            argv.len()
        )
    })
}

/// Commands on their way into the log as one.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    commands: u32,
    /// All of them do.
    joins: bool,
}

const COMMANDS_AT: usize = 2;

impl Batch {
    /// An empty one. Applied, it moves replicated time and nothing else.
    #[must_use]
    pub fn new(protocol: Protocol) -> Batch {
        let mut bytes = vec![VERSION, protocol.number()];
        bytes.extend_from_slice(&0_u32.to_le_bytes());
        Batch {
            bytes,
            commands: 0,
            joins: true,
        }
    }

    /// Takes a command, of which [`classify`] has said whether it `joins`.
    pub fn push(&mut self, argv: &[&[u8]], joins: bool) {
        self.joins &= joins;
        self.commands += 1;
        let bytes: usize = argv.iter().map(|arg| 4 + arg.len()).sum();
        match self.commands {
            // Most hold one.
            1 => self.bytes.reserve_exact(4 + bytes),
            _ => self.bytes.reserve(4 + bytes),
        }
        put_command(&mut self.bytes, argv);
    }

    /// How many it holds.
    #[must_use]
    pub fn commands(&self) -> usize {
        self.commands as usize
    }

    /// Whether it may be joined with others.
    #[must_use]
    pub fn joins(&self) -> bool {
        self.joins
    }

    /// Of what protocol its replies are.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        protocol_of(self.bytes[1])
    }

    /// Finished batches of one protocol as one, with all their commands in order.
    pub(crate) fn joined<'a>(batches: impl Iterator<Item = &'a [u8]> + Clone) -> Bytes {
        const HEAD: usize = COMMANDS_AT + 4;
        let len: usize = batches.clone().map(|batch| batch.len() - HEAD).sum();
        let mut bytes = Vec::with_capacity(HEAD + len);
        let mut commands = 0;
        for batch in batches {
            let (head, rest) = batch.split_at(HEAD);
            if bytes.is_empty() {
                bytes.extend_from_slice(head);
            }
            commands += head.last_chunk().map_or(0, |n| u32::from_le_bytes(*n));
            bytes.extend_from_slice(rest);
        }
        let all = Batch {
            bytes,
            commands,
            joins: true,
        };
        all.finish()
    }

    /// Whether it is to take no more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.commands() >= BATCH_COMMANDS_MAX || self.bytes.len() >= BATCH_BYTES_MAX
    }

    /// What is left of a finished batch without the commands whose places `goes` names.
    #[must_use]
    pub(crate) fn without(batch: &[u8], protocol: Protocol, goes: impl Fn(usize) -> bool) -> Batch {
        let mut left = Batch::new(protocol);
        let mut rest = batch.get(COMMANDS_AT..).unwrap_or_default();
        for at in 0..number(&mut rest).unwrap_or(0) {
            match command(&mut rest) {
                Some(argv) if !goes(at) => left.push(&argv, false),
                Some(_) => {}
                None => break,
            }
        }
        left
    }

    /// Its bytes for the log.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        self.bytes[COMMANDS_AT..COMMANDS_AT + 4].copy_from_slice(&self.commands.to_le_bytes());
        self.bytes.into()
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_command(out: &mut Vec<u8>, argv: &[&[u8]]) {
    out.extend_from_slice(&(argv.len() as u32).to_le_bytes());
    for arg in argv {
        put_bytes(out, arg);
    }
}

/// A batch was written by another version: applying it is not possible here.
#[derive(Debug, thiserror::Error)]
#[error(
    "a batch of commands has version {0}, and this build applies versions {VERSION} and {with}; start the build that the other members run",
    with = transaction::VERSION
)]
pub struct OtherVersion(u8);

fn number(bytes: &mut &[u8]) -> Option<usize> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    usize::try_from(u32::from_le_bytes(*number)).ok()
}

fn command<'a>(bytes: &mut &'a [u8]) -> Option<Vec<&'a [u8]>> {
    let count = number(bytes)?;
    // E2: each argument takes four bytes at least.
    if count == 0 || count > bytes.len() / 4 {
        return None;
    }
    let mut argv = Vec::with_capacity(count);
    for _ in 0..count {
        argv.push(blob(bytes)?);
    }
    Some(argv)
}

fn blob<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = number(bytes)?;
    let (blob, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(blob)
}

fn protocol_of(byte: u8) -> Protocol {
    match byte {
        3 => Protocol::Resp3,
        _ => Protocol::Resp2,
    }
}

/// Where a batch is applied.
pub trait Target: State {
    /// Changes that may still be made.
    fn room(&self) -> usize;
    /// Makes them; what is read from now on shows them.
    fn change(&mut self, changes: Vec<Change>);
}

/// Why a batch is not applied. The node must stop: others may apply it.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// By another build.
    #[error(transparent)]
    Version(#[from] OtherVersion),
    /// The state can't be read.
    #[error(transparent)]
    State(#[from] StoreError),
}

/// Applies a batch of the log; the replies.
pub fn apply(
    batch: &[u8],
    target: &mut dyn Target,
    cursors: &Cursors,
) -> Result<Bytes, ApplyError> {
    let (&version, rest) = batch.split_first().unwrap_or((&0, &[]));
    match version {
        VERSION => {}
        transaction::VERSION => return transaction::apply(rest, target, cursors),
        _ => return Err(OtherVersion(version).into()),
    }
    let (&protocol, mut rest) = rest.split_first().unwrap_or((&2, &[]));
    let mut out = Reply::new(protocol_of(protocol));
    let mut written = 0;
    for _ in 0..number(&mut rest).unwrap_or(0) {
        let Some(argv) = command(&mut rest) else {
            out.error("ERR the batch of commands is malformed");
            break;
        };
        let mark = out.len();
        let changes = write(&argv, target, cursors, &mut out)?;
        let bytes: usize = changes.iter().map(Change::bytes).sum();
        if changes.len() > target.room() || bytes > WRITES_MAX - written {
            out.truncate(mark);
            out.error(&format!(
                "ERR not executed: what is sent together would write more than {WRITES_MAX} bytes, or too many keys; send it in parts"
            ));
            continue;
        }
        written += bytes;
        target.change(changes);
    }
    Ok(match out.as_bytes() {
        OK => Bytes::from_static(OK),
        replies => Bytes::copy_from_slice(replies),
    })
}

fn write(
    argv: &[&[u8]],
    target: &mut dyn Target,
    cursors: &Cursors,
    out: &mut Reply,
) -> Result<Vec<Change>, StoreError> {
    let spec = match table::resolve(argv) {
        Ok(spec) => spec,
        Err(text) => {
            refuse(text, out);
            return Ok(Vec::new());
        }
    };
    if let Some(text) = too_many(argv) {
        out.error(&text);
        return Ok(Vec::new());
    }
    if !spec.is_write() {
        out.error(&format!(
            "ERR '{}' does not go through the log",
            args::shown(argv[0])
        ));
        return Ok(Vec::new());
    }
    run(spec, argv, Txn::on_state(target, cursors), out)
}

/// Runs a command that reads.
pub fn read(
    argv: &[&[u8]],
    state: &mut dyn State,
    cursors: &Cursors,
    out: &mut Reply,
) -> Result<(), StoreError> {
    match table::resolve(argv) {
        Ok(spec) => run(spec, argv, Txn::on_state(state, cursors), out).map(|_| ()),
        Err(text) => {
            refuse(text, out);
            Ok(())
        }
    }
}

fn run(
    spec: &CommandSpec,
    argv: &[&[u8]],
    mut txn: Txn<'_>,
    out: &mut Reply,
) -> Result<Vec<Change>, StoreError> {
    let mark = out.len();
    let Handler::Data(run) = spec.handler else {
        out.error(&format!("ERR '{}' is not about keys", spec.name));
        return Ok(Vec::new());
    };
    match run(&mut txn, argv, out) {
        Ok(()) => Ok(txn.into_changes()),
        Err(CommandError::Text(text)) => {
            out.truncate(mark);
            out.error(&text);
            Ok(Vec::new())
        }
        Err(CommandError::Store(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::state::Visit;
    use std::collections::BTreeMap;
    use std::ops::{Bound, ControlFlow};

    #[derive(Default)]
    pub(super) struct Map {
        pub(super) keys: BTreeMap<Vec<u8>, Vec<u8>>,
        written: BTreeMap<Vec<u8>, u64>,
        /// Counts what was applied.
        pub(super) index: u64,
        pub(super) now: i64,
        /// Keys that were looked at.
        pub(super) reads: u64,
    }

    impl State for Map {
        fn now(&mut self) -> Result<i64, StoreError> {
            Ok(self.now)
        }
        fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            self.reads += 1;
            Ok(self
                .keys
                .get(key)
                .map(|value| Bytes::copy_from_slice(value)))
        }
        fn written(&mut self, key: &[u8]) -> Result<u64, StoreError> {
            Ok(self.written.get(key).copied().unwrap_or(0))
        }
        fn scan(&mut self, start: Bound<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StoreError> {
            for (key, value) in self.keys.range::<[u8], _>((start, Bound::Unbounded)) {
                if visit(key, Bytes::copy_from_slice(value))? == ControlFlow::Break(()) {
                    break;
                }
            }
            Ok(())
        }
    }

    impl Target for Map {
        fn room(&self) -> usize {
            100
        }
        fn change(&mut self, changes: Vec<Change>) {
            for change in changes {
                match change {
                    Change::Put(key, value) => {
                        self.written.insert(key.clone(), self.index);
                        drop(self.keys.insert(key, value));
                    }
                    Change::Delete(key) => drop(self.keys.remove(&key)),
                    Change::Clear => self.keys.clear(),
                }
            }
        }
    }

    fn batch(lines: &[&str]) -> Bytes {
        let mut batch = Batch::new(Protocol::Resp2);
        for line in lines {
            let argv: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            batch.push(&argv, false);
        }
        batch.finish()
    }

    pub(super) fn said(map: &mut Map, lines: &[&str]) -> String {
        map.index += 1;
        let out = apply(&batch(lines), map, &Cursors::default()).expect("applied");
        String::from_utf8_lossy(&out).replace("\r\n", "~")
    }

    #[test]
    fn conditions_are_decided_where_the_batch_is_applied_and_by_replicated_time() {
        let mut map = Map {
            now: 1000,
            ..Map::default()
        };
        assert_eq!(
            said(
                &mut map,
                &["SET a 1 NX PX 500", "SET a 2 NX", "INCR a", "GET a"]
            ),
            "+OK~$-1~:2~-ERR 'GET' does not go through the log~"
        );
        map.now = 1499;
        assert_eq!(said(&mut map, &["SET a 3 NX"]), "$-1~");
        map.now = 1500;
        assert_eq!(
            said(&mut map, &["SET a 3 NX", "INCR a", "SET b x", "INCR b"]),
            "+OK~:4~+OK~-ERR value is not an integer or out of range~"
        );
        assert_eq!(
            said(&mut map, &["MSET x 1 y 2", "DEL x y a", "FLUSHALL"]),
            "+OK~:3~+OK~"
        );
        assert!(map.keys.is_empty());
    }

    /// RC1: two nodes with one state and one log stay the same.
    #[test]
    fn c1_the_same_batch_at_the_same_time_has_the_same_effect_and_reply() {
        let lines = [
            "SET k 1 EX 5",
            "INCRBYFLOAT k 0.1",
            "APPEND k x",
            "EXPIRE k 7",
            "GETEX k PERSIST",
            "COPY k l",
        ];
        let mut maps = [
            Map {
                now: 77,
                ..Map::default()
            },
            Map {
                now: 77,
                ..Map::default()
            },
        ];
        let answers = maps.each_mut().map(|map| said(map, &lines));
        assert_eq!(answers[0], answers[1]);
        assert_eq!(maps[0].keys, maps[1].keys);
        assert_eq!(maps[0].keys.len(), 2);
    }

    #[test]
    fn a_command_that_writes_too_much_writes_nothing() {
        let mut map = Map::default();
        let keys: Vec<String> = (0..101).map(|n| format!("k{n} v")).collect();
        let answer = said(&mut map, &[&format!("MSET {}", keys.join(" ")), "SET a 1"]);
        assert!(answer.starts_with("-ERR not executed"), "{answer}");
        assert!(answer.ends_with("+OK~"), "{answer}");
        assert_eq!(map.keys.len(), 1);
    }

    /// E2, RC2.
    #[test]
    fn e2_a_cut_batch_is_an_error_and_another_version_is_refused() {
        let whole = batch(&["SET a 1", "SET b 2"]);
        for len in 1..whole.len() {
            let mut map = Map::default();
            let out = apply(&whole[..len], &mut map, &Cursors::default()).expect("applied");
            assert!(len < 6 || out.ends_with(b"malformed\r\n"), "{len}");
            assert!(map.keys.len() < 2);
        }
        for other in [&b""[..], b"\x03\x02"] {
            assert!(apply(other, &mut Map::default(), &Cursors::default()).is_err());
        }
        let huge = [&[1, 2][..], &1_u32.to_le_bytes(), &u32::MAX.to_le_bytes()].concat();
        let out = apply(&huge, &mut Map::default(), &Cursors::default()).expect("applied");
        assert!(out.ends_with(b"malformed\r\n"));
    }

    #[test]
    fn what_is_not_served_says_so() {
        for (line, served) in [
            ("GET a", true),
            ("SET a b", true),
            ("PING", true),
            ("MULTI", true),
            ("WATCH a", true),
            ("WAIT 1 0", false),
            ("REPLICAOF NO ONE", false),
            ("RANDOMKEY", false),
            ("NOSUCH", false),
            ("GET", false),
        ] {
            let argv: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let mut out = Reply::default();
            let class = classify(&argv, &mut out);
            assert_eq!(!matches!(class, Class::Refused), served, "{line}");
            assert_eq!(out.is_empty(), served, "{line}");
        }
    }
}
