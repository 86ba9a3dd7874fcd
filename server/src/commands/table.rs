//! The table of commands, and how a name finds its entry.
//!
//! The names are hashed into a table that the compiler fills, so that a look-up costs one hash, one probe and one
//! comparison.

use super::error::CommandError;
use super::{
    acl, args, connection, counters, describe, expire, keys, keyspace, server, strings,
    transactions,
};
use crate::engine::Txn;
use crate::{Ctx, Flow, Reply};

/// A command on keys: it runs on a transaction.
pub(super) type Data = fn(&mut Txn<'_>, &[&[u8]], &mut Reply) -> Result<(), CommandError>;
/// A command on the connection or the server.
pub(super) type Control = fn(&mut Ctx<'_>, &[&[u8]], &mut Reply) -> Result<Flow, CommandError>;

/// How a command runs.
#[derive(Clone, Copy, Debug)]
pub enum Handler {
    /// On keys.
    Data(Data),
    /// On the connection or the server.
    Control(Control),
    /// Only its subcommands run.
    Container,
}

/// What COMMAND INFO says of a command, and what Esker needs to know to run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// None.
    pub const NONE: Flags = Flags(0);
    /// It may write.
    pub const WRITE: Flags = Flags(1);
    /// It reads keys.
    pub const READONLY: Flags = Flags(1 << 1);
    /// It may take more memory.
    pub const DENYOOM: Flags = Flags(1 << 2);
    /// For operators.
    pub const ADMIN: Flags = Flags(1 << 3);
    /// Not for scripts.
    pub const NOSCRIPT: Flags = Flags(1 << 4);
    /// Runs without a store.
    pub const LOADING: Flags = Flags(1 << 5);
    /// Runs on a replica without its primary.
    pub const STALE: Flags = Flags(1 << 6);
    /// Constant or logarithmic time.
    pub const FAST: Flags = Flags(1 << 7);
    /// It may wait.
    pub const BLOCKING: Flags = Flags(1 << 8);
    /// Not between MULTI and EXEC.
    pub const NO_MULTI: Flags = Flags(1 << 9);
    /// Without authentication.
    pub const NO_AUTH: Flags = Flags(1 << 10);
    /// Esker's own: it reads or writes all keys.
    pub const WHOLE_KEYSPACE: Flags = Flags(1 << 30);
    /// Esker's own: between MULTI and EXEC it runs at once.
    pub const RUNS_IN_MULTI: Flags = Flags(1 << 31);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
    /// Their names in COMMAND INFO.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [&str; 11] = [
            "write", "readonly", "denyoom", "admin", "noscript", "loading", "stale", "fast",
            "blocking", "no_multi", "no_auth",
        ];
        (0..NAMES.len())
            .filter(move |bit| self.0 & (1 << bit) != 0)
            .map(|bit| NAMES[bit])
    }
}

/// Which part of Redis's documentation a command stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Strings.
    String,
    /// Keys of any type.
    Generic,
    /// MULTI and so on.
    Transactions,
    /// The connection.
    Connection,
    /// The server.
    Server,
    /// Functions.
    Scripting,
}

impl Group {
    /// Its name in COMMAND DOCS.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Group::String => "string",
            Group::Generic => "generic",
            Group::Transactions => "transactions",
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Scripting => "scripting",
        }
    }
}

/// A command.
#[derive(Debug)]
pub struct CommandSpec {
    /// Lower case; a subcommand's is `container|sub`.
    pub name: &'static str,
    /// Arguments with the name; negative: at least so many.
    pub arity: i32,
    /// Flags.
    pub flags: Flags,
    /// Place of the first key, 0 for none.
    pub first_key: i32,
    /// Place of the last key; negative counts from the end.
    pub last_key: i32,
    /// From key to key.
    pub step: i32,
    /// How it runs.
    pub handler: Handler,
    /// One line.
    pub summary: &'static str,
    /// The Redis that had it first.
    pub since: &'static str,
    /// Group.
    pub group: Group,
    /// Subcommands.
    pub subcommands: &'static [CommandSpec],
}

impl CommandSpec {
    /// Whether it may write.
    #[must_use]
    #[inline]
    pub fn is_write(&self) -> bool {
        self.flags.contains(Flags::WRITE)
    }
    /// Whether it reads or writes all keys.
    #[must_use]
    #[inline]
    pub fn is_whole_keyspace(&self) -> bool {
        self.flags.contains(Flags::WHOLE_KEYSPACE)
    }
    /// Whether it has exactly one key.
    #[must_use]
    #[inline]
    pub fn has_one_key(&self) -> bool {
        self.first_key > 0 && self.first_key == self.last_key
    }
    /// Places of its keys among `argc` arguments.
    pub fn key_positions(&self, argc: usize) -> impl Iterator<Item = usize> + use<> {
        let first = self.first_key as usize;
        let last = match self.last_key {
            last if last < 0 => argc.saturating_sub(last.unsigned_abs() as usize),
            last => (last as usize).min(argc.saturating_sub(1)),
        };
        (first..=last)
            .step_by(self.step.max(1) as usize)
            .filter(move |_| first > 0)
    }
    #[inline]
    fn takes(&self, argc: usize) -> bool {
        match self.arity {
            arity if arity < 0 => argc >= arity.unsigned_abs() as usize,
            arity => argc == arity as usize,
        }
    }
}

use Flags as F;
use Group as G;
use Handler::{Container, Control as C, Data as D};

const W: Flags = F::WRITE;
const WO: Flags = F::WRITE.with(F::DENYOOM);
const WF: Flags = F::WRITE.with(F::FAST);
const WOF: Flags = WO.with(F::FAST);
const R: Flags = F::READONLY;
const RF: Flags = F::READONLY.with(F::FAST);
const LS: Flags = F::LOADING.with(F::STALE);
const LSN: Flags = LS.with(F::NOSCRIPT);
const LSF: Flags = LS.with(F::FAST);
const ALL: Flags = F::WHOLE_KEYSPACE;
const ADM: Flags = LSN.with(F::ADMIN);

/// No keys.
const K0: (i32, i32, i32) = (0, 0, 0);
/// One.
const K1: (i32, i32, i32) = (1, 1, 1);
/// Two.
const K2: (i32, i32, i32) = (1, 2, 1);
/// All arguments.
const KN: (i32, i32, i32) = (1, -1, 1);
/// Every other argument.
const KV: (i32, i32, i32) = (1, -1, 2);
/// One behind a subcommand.
const KS: (i32, i32, i32) = (2, 2, 1);

#[expect(clippy::too_many_arguments, reason = "a row of a table")]
const fn row(
    name: &'static str,
    arity: i32,
    flags: Flags,
    keys: (i32, i32, i32),
    handler: Handler,
    group: Group,
    since: &'static str,
    summary: &'static str,
) -> CommandSpec {
    CommandSpec {
        name,
        arity,
        flags,
        first_key: keys.0,
        last_key: keys.1,
        step: keys.2,
        handler,
        summary,
        since,
        group,
        subcommands: &[],
    }
}

const fn container(spec: CommandSpec, subcommands: &'static [CommandSpec]) -> CommandSpec {
    CommandSpec {
        subcommands,
        ..spec
    }
}

/// All commands, in the order of their names.
#[rustfmt::skip]
pub static COMMANDS: [CommandSpec; 69] = [
    container(
        row("acl", -2, F::NONE, K0, Container, G::Server, "6.0.0", "A container for commands about users."),
        &ACL,
    ),
    row("append", 3, WOF, K1, D(strings::append), G::String, "2.0.0", "Appends a string to the value of a key."),
    row("auth", -2, LSN.with(F::FAST).with(F::NO_AUTH), K0, C(connection::auth), G::Connection, "1.0.0", "Authenticates the connection."),
    container(
        row("client", -2, F::NONE, K0, Container, G::Connection, "2.4.0", "A container for client connection commands."),
        &CLIENT,
    ),
    container(
        row("command", -1, LS, K0, C(describe::command), G::Server, "2.8.13", "Returns detailed information about all commands."),
        &COMMAND,
    ),
    container(
        row("config", -2, F::NONE, K0, Container, G::Server, "2.0.0", "A container for server configuration commands."),
        &CONFIG,
    ),
    row("copy", -3, WO, K2, D(keys::copy), G::Generic, "6.2.0", "Copies the value of a key to a new key."),
    row("dbsize", 1, RF.with(ALL), K0, D(keyspace::dbsize), G::Server, "1.0.0", "Returns the number of keys, by counting them."),
    row("decr", 2, WOF, K1, D(counters::decr), G::String, "1.0.0", "Decrements the integer value of a key by one."),
    row("decrby", 3, WOF, K1, D(counters::decrby), G::String, "1.0.0", "Decrements the integer value of a key by a number."),
    row("del", -2, W, KN, D(keys::del), G::Generic, "1.0.0", "Deletes one or more keys."),
    row("discard", 1, LSN.with(F::FAST).with(F::RUNS_IN_MULTI), K0, C(transactions::discard), G::Transactions, "2.0.0", "Discards a transaction."),
    row("echo", 2, LSF, K0, C(connection::echo), G::Connection, "1.0.0", "Returns the given string."),
    row("exec", 1, LSN.with(F::RUNS_IN_MULTI), K0, C(transactions::exec), G::Transactions, "1.2.0", "Executes all commands in a transaction."),
    row("exists", -2, RF, KN, D(keys::exists), G::Generic, "1.0.0", "Determines whether one or more keys exist."),
    row("expire", -3, WF, K1, D(expire::expire), G::Generic, "1.0.0", "Sets the expiration time of a key in seconds."),
    row("expireat", -3, WF, K1, D(expire::expireat), G::Generic, "1.2.0", "Sets the expiration time of a key to a Unix timestamp."),
    row("expiretime", 2, RF, K1, D(expire::expiretime), G::Generic, "7.0.0", "Returns the expiration time of a key as a Unix timestamp."),
    row("flushall", -1, W.with(ALL), K0, D(keyspace::flush), G::Server, "1.0.0", "Removes all keys, by one range tombstone."),
    row("flushdb", -1, W.with(ALL), K0, D(keyspace::flush), G::Server, "1.0.0", "Removes all keys, by one range tombstone."),
    container(
        row("function", -2, F::NONE, K0, Container, G::Scripting, "7.0.0", "A container for function commands."),
        &FUNCTION,
    ),
    row("get", 2, RF, K1, D(strings::get), G::String, "1.0.0", "Returns the string value of a key."),
    row("getdel", 2, WF, K1, D(strings::getdel), G::String, "6.2.0", "Returns the string value of a key after deleting the key."),
    row("getex", -2, WF, K1, D(strings::getex), G::String, "6.2.0", "Returns the string value of a key after setting its expiration time."),
    row("getrange", 4, R, K1, D(strings::getrange), G::String, "2.4.0", "Returns a substring of the string stored at a key."),
    row("getset", 3, WOF, K1, D(strings::getset), G::String, "1.0.0", "Returns the previous string value of a key after setting it to a new value."),
    row("hello", -1, LSN.with(F::FAST).with(F::NO_AUTH), K0, C(connection::hello), G::Connection, "6.0.0", "Handshakes with the server."),
    row("incr", 2, WOF, K1, D(counters::incr), G::String, "1.0.0", "Increments the integer value of a key by one."),
    row("incrby", 3, WOF, K1, D(counters::incrby), G::String, "1.0.0", "Increments the integer value of a key by a number."),
    row("incrbyfloat", 3, WOF, K1, D(counters::incrbyfloat), G::String, "2.6.0", "Increments the floating point value of a key by a number."),
    row("info", -1, LS, K0, C(server::info), G::Server, "1.0.0", "Returns information and statistics about the server."),
    row("keys", 2, R.with(ALL), K0, D(keyspace::keys), G::Generic, "1.0.0", "Returns all key names that match a pattern."),
    row("mget", -2, RF, KN, D(strings::mget), G::String, "1.0.0", "Returns the string values of one or more keys, as at one moment."),
    row("mset", -3, WO, KV, D(strings::mset), G::String, "1.0.1", "Sets the string values of one or more keys, together."),
    row("msetnx", -3, WO, KV, D(strings::msetnx), G::String, "1.0.1", "Sets the string values of one or more keys if none of them exists."),
    row("multi", 1, LSN.with(F::FAST).with(F::RUNS_IN_MULTI), K0, C(transactions::multi), G::Transactions, "1.2.0", "Starts a transaction."),
    container(
        row("object", -2, F::NONE, K0, Container, G::Generic, "2.2.3", "A container for object introspection commands."),
        &OBJECT,
    ),
    row("persist", 2, WF, K1, D(expire::persist), G::Generic, "2.2.0", "Removes the expiration time of a key."),
    row("pexpire", -3, WF, K1, D(expire::pexpire), G::Generic, "2.6.0", "Sets the expiration time of a key in milliseconds."),
    row("pexpireat", -3, WF, K1, D(expire::pexpireat), G::Generic, "2.6.0", "Sets the expiration time of a key to a Unix milliseconds timestamp."),
    row("pexpiretime", 2, RF, K1, D(expire::pexpiretime), G::Generic, "7.0.0", "Returns the expiration time of a key as a Unix milliseconds timestamp."),
    row("ping", -1, LSF, K0, C(connection::ping), G::Connection, "1.0.0", "Returns the server's liveliness response."),
    row("psetex", 4, WO, K1, D(strings::psetex), G::String, "2.6.0", "Sets both string value and expiration time in milliseconds of a key."),
    row("pttl", 2, RF, K1, D(expire::pttl), G::Generic, "2.6.0", "Returns the expiration time in milliseconds of a key."),
    row("quit", -1, LSN.with(F::FAST).with(F::NO_AUTH).with(F::RUNS_IN_MULTI), K0, C(connection::quit), G::Connection, "1.0.0", "Closes the connection."),
    row("randomkey", 1, R.with(ALL), K0, D(keyspace::randomkey), G::Generic, "1.0.0", "Returns some key; not drawn uniformly."),
    row("rename", 3, W, K2, D(keys::rename), G::Generic, "1.0.0", "Renames a key and overwrites the destination."),
    row("renamenx", 3, WF, K2, D(keys::renamenx), G::Generic, "1.0.0", "Renames a key only when the target key name doesn't exist."),
    row("replicaof", 3, F::ADMIN.with(F::NOSCRIPT).with(F::STALE).with(F::NO_MULTI), K0, C(server::replicaof), G::Server, "5.0.0", "NO ONE makes this node a primary."),
    row("reset", 1, LSN.with(F::FAST).with(F::NO_AUTH).with(F::RUNS_IN_MULTI), K0, C(connection::reset), G::Connection, "6.2.0", "Resets the connection."),
    row("role", 1, LSN.with(F::FAST), K0, C(server::role), G::Server, "2.8.12", "Returns the replication role."),
    row("scan", -2, R.with(ALL), K0, D(keyspace::scan), G::Generic, "2.8.0", "Iterates over the key names."),
    row("select", 2, LSF, K0, C(connection::select), G::Connection, "1.0.0", "Changes the selected database; there is one, 0."),
    row("set", -3, WO, K1, D(strings::set), G::String, "1.0.0", "Sets the string value of a key, ignoring its type."),
    row("setex", 4, WO, K1, D(strings::setex), G::String, "2.0.0", "Sets the string value and expiration time of a key."),
    row("setnx", 3, WOF, K1, D(strings::setnx), G::String, "1.0.0", "Sets the string value of a key only when the key doesn't exist."),
    row("setrange", 4, WO, K1, D(strings::setrange), G::String, "2.2.0", "Overwrites a part of a string value with another by an offset."),
    row("shutdown", -1, ADM.with(F::NO_MULTI), K0, C(server::shutdown), G::Server, "1.0.0", "Ends the server."),
    row("strlen", 2, RF, K1, D(strings::strlen), G::String, "2.2.0", "Returns the length of a string value."),
    row("substr", 4, R, K1, D(strings::getrange), G::String, "1.0.0", "Returns a substring from a string value."),
    row("time", 1, LSF, K0, C(server::time), G::Server, "2.6.0", "Returns the server time."),
    row("touch", -2, RF, KN, D(keys::exists), G::Generic, "3.2.1", "Returns the number of existing keys out of those specified."),
    row("ttl", 2, RF, K1, D(expire::ttl), G::Generic, "1.0.0", "Returns the expiration time in seconds of a key."),
    row("type", 2, RF, K1, D(keys::kind), G::Generic, "1.0.0", "Determines the type of value stored at a key."),
    row("unlink", -2, WF, KN, D(keys::del), G::Generic, "4.0.0", "Deletes one or more keys."),
    row("unwatch", 1, LSN.with(F::FAST), K0, C(transactions::unwatch), G::Transactions, "2.2.0", "Forgets about watched keys of a transaction."),
    row("wait", 3, F::NOSCRIPT.with(F::BLOCKING), K0, C(server::wait), G::Generic, "3.0.0", "Blocks until the connection's writes were applied by a number of replicas."),
    row("waitaof", 4, F::NOSCRIPT.with(F::BLOCKING), K0, C(server::waitaof), G::Generic, "7.2.0", "Blocks until the connection's writes were synced here and on a number of replicas."),
    row("watch", -2, LSN.with(F::FAST).with(F::RUNS_IN_MULTI), KN, C(transactions::watch), G::Transactions, "2.2.0", "Monitors changes to keys to determine the execution of a transaction."),
];

#[rustfmt::skip]
static ACL: [CommandSpec; 4] = [
    row("acl|list", 2, ADM, K0, C(acl::list), G::Server, "6.0.0", "Lists the users as the ACL file has them."),
    row("acl|load", 2, ADM.with(F::NO_MULTI), K0, C(acl::load), G::Server, "6.0.0", "Reads the ACL file anew."),
    row("acl|users", 2, ADM, K0, C(acl::users), G::Server, "6.0.0", "Lists the names of the users."),
    row("acl|whoami", 2, LSN, K0, C(acl::whoami), G::Server, "6.0.0", "Returns the user of the connection."),
];

#[rustfmt::skip]
static CLIENT: [CommandSpec; 8] = [
    row("client|getname", 2, LSN, K0, C(connection::client_getname), G::Connection, "2.6.9", "Returns the name of the connection."),
    row("client|id", 2, LSN, K0, C(connection::client_id), G::Connection, "5.0.0", "Returns the unique client ID of the connection."),
    row("client|info", 2, LSN, K0, C(connection::client_info), G::Connection, "6.2.0", "Returns information about the connection."),
    row("client|list", -2, ADM, K0, C(connection::client_list), G::Connection, "2.4.0", "Lists open connections."),
    row("client|no-evict", 3, ADM, K0, C(connection::client_no_evict), G::Connection, "7.0.0", "Kept and shown; nothing is evicted."),
    row("client|no-touch", 3, LSN, K0, C(connection::client_no_touch), G::Connection, "7.2.0", "Kept and shown; reads leave no trace."),
    row("client|setinfo", 4, LSN, K0, C(connection::client_setinfo), G::Connection, "7.2.0", "Sets information specific to the client or connection."),
    row("client|setname", 3, LSN, K0, C(connection::client_setname), G::Connection, "2.6.9", "Sets the connection name."),
];

#[rustfmt::skip]
static COMMAND: [CommandSpec; 5] = [
    row("command|count", 2, LS, K0, C(describe::count), G::Server, "2.8.13", "Returns a count of commands."),
    row("command|docs", -2, LS, K0, C(describe::docs), G::Server, "7.0.0", "Returns documentary information about commands."),
    row("command|getkeys", -4, LS, K0, C(describe::getkeys), G::Server, "2.8.13", "Extracts the key names from a command."),
    row("command|info", -2, LS, K0, C(describe::info), G::Server, "2.8.13", "Returns information about some or all commands."),
    row("command|list", 2, LS, K0, C(describe::list), G::Server, "7.0.0", "Returns a list of command names."),
];

#[rustfmt::skip]
static CONFIG: [CommandSpec; 3] = [
    row("config|get", -3, ADM, K0, C(server::config_get), G::Server, "2.0.0", "Returns the effective values of configuration parameters."),
    row("config|resetstat", 2, ADM, K0, C(server::config_resetstat), G::Server, "2.0.0", "Resets the server's statistics."),
    row("config|set", -4, ADM, K0, C(server::config_set), G::Server, "2.0.0", "Sets configuration parameters in-flight."),
];

#[rustfmt::skip]
static FUNCTION: [CommandSpec; 1] = [
    row("function|flush", -2, F::NOSCRIPT, K0, C(server::function_flush), G::Scripting, "7.0.0", "There are no functions: nothing to flush."),
];

#[rustfmt::skip]
static OBJECT: [CommandSpec; 4] = [
    row("object|encoding", 3, R, KS, D(keys::object_encoding), G::Generic, "2.2.3", "Returns the encoding that Redis would use."),
    row("object|freq", 3, R, KS, D(keys::object_freq), G::Generic, "4.0.0", "Not tracked: an error, as in Redis without an LFU policy."),
    row("object|idletime", 3, R, KS, D(keys::object_idletime), G::Generic, "2.2.3", "Not tracked: 0."),
    row("object|refcount", 3, R, KS, D(keys::object_refcount), G::Generic, "2.2.3", "Returns the reference count that Redis would show."),
];

const SLOTS: usize = 512;

const fn hash(name: &[u8]) -> usize {
    let mut hash: u32 = 0x811c_9dc5;
    let mut at = 0;
    while at < name.len() {
        hash = (hash ^ (name[at] | 0x20) as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    (hash ^ (hash >> 15)) as usize % SLOTS
}

/// Place in `COMMANDS` plus one, by hash; 0 is none.
static INDEX: [u8; SLOTS] = {
    let mut index = [0_u8; SLOTS];
    let mut at = 0;
    while at < COMMANDS.len() {
        let mut slot = hash(COMMANDS[at].name.as_bytes());
        while index[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        index[slot] = at as u8 + 1;
        at += 1;
    }
    index
};
const _: () = assert!(COMMANDS.len() < 255);

/// The command of that name, in any case. Not for subcommands.
#[must_use]
#[inline]
pub fn find(name: &[u8]) -> Option<&'static CommandSpec> {
    let mut slot = hash(name);
    loop {
        let at = INDEX[slot];
        if at == 0 {
            return None;
        }
        let spec = &COMMANDS[at as usize - 1];
        if spec.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(spec);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// Where the command that `argv` calls stands in [`COMMANDS`], and its subcommand from 1 on; 0 is none.
#[inline]
pub(crate) fn place(argv: &[&[u8]]) -> Option<(usize, usize)> {
    let name = argv.first()?;
    let mut slot = hash(name);
    let at = loop {
        let at = INDEX[slot].checked_sub(1)? as usize;
        if COMMANDS[at].name.as_bytes().eq_ignore_ascii_case(name) {
            break at;
        }
        slot = (slot + 1) % SLOTS;
    };
    let spec = &COMMANDS[at];
    let sub = match argv.get(1) {
        Some(sub) if !spec.subcommands.is_empty() => {
            let skip = spec.name.len() + 1;
            let is = |s: &CommandSpec| s.name.as_bytes()[skip..].eq_ignore_ascii_case(sub);
            spec.subcommands.iter().position(is)? + 1
        }
        _ => 0,
    };
    Some((at, sub))
}

/// The subcommand of that name.
pub(super) fn find_sub(spec: &'static CommandSpec, name: &[u8]) -> Option<&'static CommandSpec> {
    let skip = spec.name.len() + 1;
    spec.subcommands
        .iter()
        .find(|sub| sub.name.as_bytes()[skip..].eq_ignore_ascii_case(name))
}

/// The command that `argv` calls, or the error reply.
#[inline]
pub(super) fn resolve(argv: &[&[u8]]) -> Result<&'static CommandSpec, Vec<u8>> {
    let Some(mut spec) = find(argv[0]) else {
        return Err(super::unknown_command(argv));
    };
    if !spec.subcommands.is_empty() && argv.len() > 1 {
        spec = find_sub(spec, argv[1]).ok_or_else(|| {
            format!(
                "ERR unknown subcommand '{}'. Try {} HELP.",
                args::shown(argv[1]),
                spec.name.to_ascii_uppercase()
            )
            .into_bytes()
        })?;
    }
    if spec.takes(argv.len()) {
        Ok(spec)
    } else {
        Err(format!("ERR wrong number of arguments for '{}' command", spec.name).into_bytes())
    }
}

pub(super) fn wrong_arity(name: &str) -> CommandError {
    format!("ERR wrong number of arguments for '{name}' command").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_any_case_and_nothing_else_is() {
        assert!(COMMANDS.is_sorted_by_key(|spec| spec.name));
        for spec in &COMMANDS {
            assert_eq!(find(spec.name.as_bytes()).expect("found").name, spec.name);
            assert_eq!(
                find(spec.name.to_ascii_uppercase().as_bytes())
                    .expect("found")
                    .name,
                spec.name
            );
            assert!(
                find(&spec.name.as_bytes()[1..]).is_none_or(|other| other.name == &spec.name[1..])
            );
            for sub in spec.subcommands {
                let (container, name) = sub.name.split_once('|').expect("container|sub");
                assert_eq!(container, spec.name);
                assert!(find_sub(spec, name.to_ascii_uppercase().as_bytes()).is_some());
            }
        }
        for name in [&b""[..], b"lpush", b"ge", b"gett", b"\xff", b"GET "] {
            assert!(find(name).is_none());
        }
    }

    #[test]
    fn keys_stand_where_the_table_says() {
        let at = |name: &str, argc| {
            find(name.as_bytes())
                .expect("known")
                .key_positions(argc)
                .collect::<Vec<_>>()
        };
        assert_eq!(at("get", 2), [1]);
        assert_eq!(at("mset", 5), [1, 3]);
        assert_eq!(at("del", 4), [1, 2, 3]);
        assert_eq!(at("rename", 3), [1, 2]);
        assert!(at("ping", 2).is_empty());
        assert!(at("flushall", 1).is_empty());
    }
}
