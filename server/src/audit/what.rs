//! What a command is to the audit: its class, its action, the keys that it is about, and which of its arguments may be shown.
//!
//! - AW1: passwords are no part of what this knows: of HELLO and AUTH nothing but the name that was given goes on, which is shown where there is a user of it, and
//!   as a keyed hash else, as it may be a password in the wrong place; of an option whose name says that its value is secret nothing but the name.
//! - AW2: of CONFIG SET a name goes on where it is one of a parameter, and a value behind such a name: of what is no list of names and values nothing, since a
//!   value with blanks in it, or a word too many, puts values where names belong.

use super::policy::Class;
use crate::commands::{COMMANDS, CommandSpec, Handler, credentials, place};
use esker_audit::Severity;
use smallvec::SmallVec;
use std::borrow::Cow;

/// Whose commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `primary` and `replica`.
    Store,
    /// `raft-node`.
    Raft,
}

/// What every call of a command is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) class: Class,
    pub(super) action: &'static str,
    pub(super) severity: Severity,
    pub(super) resource: &'static str,
}

const fn kind(
    class: Class,
    action: &'static str,
    severity: Severity,
    resource: &'static str,
) -> Kind {
    Kind {
        class,
        action,
        severity,
        resource,
    }
}

const fn order(action: &'static str, resource: &'static str) -> Kind {
    kind(Class::Administration, action, Severity::Error, resource)
}

const LOGIN: Kind = kind(
    Class::Authentication,
    "user.login",
    Severity::Notice,
    "user",
);

/// Of a command in the table.
pub(super) fn kind_of(spec: &CommandSpec) -> Kind {
    let change = |action| kind(Class::Configuration, action, Severity::Error, "parameter");
    match (spec.name, &spec.handler) {
        ("auth" | "hello", _) => LOGIN,
        ("acl|load", _) => kind(
            Class::Configuration,
            "user.reload",
            Severity::Error,
            "users",
        ),
        ("acl|list" | "acl|users", _) => {
            kind(Class::Configuration, "user.list", Severity::Notice, "users")
        }
        ("config|get", _) => kind(
            Class::Configuration,
            "config.read",
            Severity::Notice,
            "parameter",
        ),
        ("config|set", _) => change("config.change"),
        ("config|resetstat", _) => change("config.reset-statistics"),
        ("flushall" | "flushdb", _) => order("data.flush", "keyspace"),
        ("shutdown", _) => order("node.shutdown", "node"),
        ("replicaof", _) => order("node.promote", "node"),
        (_, Handler::Data(_)) if spec.is_write() => {
            kind(Class::Write, "data.write", Severity::Info, "key")
        }
        (_, Handler::Data(_)) => kind(Class::Read, "data.read", Severity::Info, "key"),
        _ => kind(Class::Other, "command.run", Severity::Info, "connection"),
    }
}

/// Commands in the table, subcommands behind their container: what plans are made for.
pub(super) fn all() -> impl Iterator<Item = (usize, usize, &'static CommandSpec)> {
    (COMMANDS.iter().enumerate()).flat_map(|(at, spec)| {
        let subs = spec.subcommands.iter().enumerate();
        std::iter::once((at, 0, spec)).chain(subs.map(move |(sub, spec)| (at, sub + 1, spec)))
    })
}

/// A call, as rules and records see it.
pub(super) struct What<'a> {
    pub(super) kind: Kind,
    /// In lower case.
    pub(super) command: Cow<'static, str>,
    pub(super) keys: SmallVec<[&'a [u8]; 2]>,
    /// Arguments behind the name, as they may be shown.
    pub(super) args: SmallVec<[Arg<'a>; 4]>,
    /// Of an administrative action: to which thing.
    pub(super) object: Option<String>,
    /// Of a login: the name that was given.
    pub(super) user: Option<&'a [u8]>,
}

/// An argument, and how it may be shown at most.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg<'a> {
    /// As rules say of keys.
    Key(&'a [u8]),
    /// As rules say of values.
    Value(&'a [u8]),
    /// It is a word of the command.
    Word(&'a [u8]),
    /// Never (AW1).
    Hidden,
}

fn text(bytes: &[u8], most: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(most)]).into_owned()
}

fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// Whether the name of an option says that its value is secret.
fn is_secret(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "auth", "secret", "key", "token", "user", "cred"]
        .iter()
        .any(|word| name.windows(word.len()).any(|part| part == word.as_bytes()))
}

/// Parameters that CONFIG knows here, and those of Redis whose values are secret.
const PARAMETERS: [&str; 23] = [
    "ack-timeout",
    "aclfile",
    "appendfsync",
    "appendonly",
    "bind",
    "databases",
    "dir",
    "durability",
    "io-threads",
    "log-keep",
    "masterauth",
    "masteruser",
    "maxclients",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-to-write",
    "min-sync-replicas",
    "port",
    "proto-max-bulk-len",
    "requirepass",
    "save",
    "segment-size",
    "timeout",
];

/// Names and values of a CONFIG SET; `None` for what is not the name of a parameter with its value (AW2).
fn settings<'a>(args: &[&'a [u8]]) -> impl Iterator<Item = Option<(&'a [u8], &'a [u8])>> {
    let pairs = args.len().is_multiple_of(2);
    args.chunks(2).map(move |pair| match pair {
        [name, value] if pairs => {
            (PARAMETERS.iter().any(|known| is(name, known))).then_some((*name, *value))
        }
        _ => None,
    })
}

/// A name that is none of a command's may be anything; it is shown if it looks like a name.
pub(super) fn name_of(argv: &[&[u8]]) -> String {
    let name = argv.first().copied().unwrap_or_default();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'|');
    match name.len() <= 24 && name.iter().all(plain) {
        true => text(name, 24).to_ascii_lowercase(),
        false => "(no name)".to_owned(),
    }
}

impl<'a> What<'a> {
    fn of(kind: Kind, command: impl Into<Cow<'static, str>>) -> What<'a> {
        What {
            kind,
            command: command.into(),
            keys: SmallVec::new(),
            args: SmallVec::new(),
            object: None,
            user: None,
        }
    }

    /// A call of a command in the table.
    pub(super) fn of_spec(
        spec: &'static CommandSpec,
        kind: Kind,
        argv: &[&'a [u8]],
    ) -> Option<What<'a>> {
        let mut what = What::of(kind, spec.name);
        let skip = if spec.name.contains('|') { 2 } else { 1 };
        match spec.name {
            // Without AUTH, or with too many words, nobody says who they are.
            "auth" | "hello" => what.user = Some(credentials(argv)?.0),
            name if name.starts_with("acl|") => {}
            "config|set" => {
                let given = argv.get(skip..).unwrap_or_default();
                let args = settings(given).flat_map(|setting| match setting {
                    Some((name, _)) if is_secret(name) => [Arg::Word(name), Arg::Hidden],
                    Some((name, value)) => [Arg::Word(name), Arg::Value(value)],
                    None => [Arg::Hidden; 2],
                });
                what.args.extend(args.take(given.len()));
                let names = settings(given).flatten().take(8);
                let names: Vec<String> = names.map(|(name, _)| text(name, 64)).collect();
                what.object = Some(names.join(" "));
            }
            _ => {
                for at in spec.key_positions(argv.len()) {
                    what.keys.extend(argv.get(at).copied());
                }
                for (at, arg) in argv.iter().enumerate().skip(skip) {
                    let is_key = spec.key_positions(argv.len()).any(|key| key == at);
                    what.args.push(match (is_key, kind.class) {
                        (true, _) => Arg::Key(arg),
                        (_, Class::Administration | Class::Configuration) => Arg::Word(arg),
                        _ => Arg::Value(arg),
                    });
                }
                if kind.class == Class::Configuration {
                    what.object = argv.get(2).map(|name| text(name, 64));
                }
            }
        }
        Some(what)
    }

    /// A call of one that is not in the table.
    pub(super) fn of_other(program: Program, argv: &[&'a [u8]]) -> Option<What<'a>> {
        let name = *argv.first()?;
        if program == Program::Store {
            return None;
        }
        let prefix = name.get(..5).unwrap_or_default();
        if is(name.get(..4).unwrap_or_default(), "raft") && (name.len() == 4 || prefix[4] == b'.') {
            let (word, rest) = match name.len() {
                4 => (argv.get(1).copied().unwrap_or_default(), argv.get(2..)),
                _ => (&name[5..], argv.get(1..)),
            };
            let word = text(word, 16).to_ascii_lowercase();
            let (action, resource) = match word.as_str() {
                "add" => ("cluster.add-member", "member"),
                "add-learner" => ("cluster.add-learner", "member"),
                "promote" => ("cluster.promote-member", "member"),
                "remove" => ("cluster.remove-member", "member"),
                "transfer" => ("cluster.transfer-leadership", "member"),
                "snapshot" => ("cluster.snapshot", "node"),
                _ => return None,
            };
            let mut what = What::of(order(action, resource), format!("raft.{word}"));
            let rest = rest.unwrap_or_default();
            what.object = rest.first().map(|id| text(id, 32));
            what.args.extend(rest.iter().map(|arg| Arg::Word(arg)));
            return Some(what);
        }
        if is(prefix, "lock.") {
            let word = text(&name[5..name.len().min(21)], 16).to_ascii_lowercase();
            let forced = word == "release" && argv.get(3).is_some_and(|how| is(how, "force"));
            let kind = match word.as_str() {
                _ if forced => order("lock.force-release", "lock"),
                "acquire" | "renew" | "release" => {
                    kind(Class::Write, "lock.change", Severity::Info, "lock")
                }
                "info" | "list" | "watch" => kind(Class::Read, "lock.read", Severity::Info, "lock"),
                _ => return None,
            };
            let mut what = What::of(kind, format!("lock.{word}"));
            what.keys.extend(argv.get(1).copied());
            what.args.extend(argv.get(1).map(|key| Arg::Key(key)));
            what.args
                .extend(argv.iter().skip(2).map(|arg| match forced {
                    true => Arg::Word(arg),
                    false => Arg::Value(arg),
                }));
            return Some(what);
        }
        None
    }
}

/// The command that a call is about: that behind LOCK.IF, else itself.
pub(super) fn inner<'a, 'b>(program: Program, argv: &'b [&'a [u8]]) -> &'b [&'a [u8]] {
    match argv {
        [name, _, _, rest @ ..]
            if program == Program::Raft && is(name, "lock.if") && !rest.is_empty() =>
        {
            rest
        }
        _ => argv,
    }
}

/// Where a call stands in the table.
#[inline]
pub(super) fn at(argv: &[&[u8]]) -> Option<(usize, usize)> {
    place(argv)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<&[u8]> {
        line.split(' ').map(str::as_bytes).collect()
    }

    fn what<'a>(program: Program, argv: &[&'a [u8]]) -> Option<What<'a>> {
        match at(argv) {
            Some((command, sub)) => {
                let (_, _, spec) = all()
                    .find(|(c, s, _)| (*c, *s) == (command, sub))
                    .expect("there");
                What::of_spec(spec, kind_of(spec), argv)
            }
            None => What::of_other(program, argv),
        }
    }

    #[test]
    fn aw1_passwords_are_no_argument() {
        for line in [
            "HELLO 3 AUTH ann hunter2",
            "AUTH hunter2",
            "AUTH ann hunter2",
            "CONFIG SET requirepass hunter2",
            "config set maxclients 7 masterauth hunter2",
            "CONFIG SET requirepass correct hunter2 battery",
            "CONFIG SET requirepass correct hunter2",
            "CONFIG SET maxclients requirepass hunter2",
            "CONFIG SET maxclients 7 hunter2",
            "CONFIG SET hunter2",
            "CONFIG SET hunter2 7",
            "CONFIG SET nosuch hunter2",
        ] {
            let argv = split(line);
            let what = what(Program::Store, &argv).expect(line);
            let shown = format!("{:?} {:?} {:?}", what.user, what.object, what.command);
            assert!(!shown.contains("hunter2"), "{line}: {shown}");
            for arg in &what.args {
                let (Arg::Key(bytes) | Arg::Value(bytes) | Arg::Word(bytes)) = arg else {
                    continue;
                };
                assert_ne!(*bytes, b"hunter2", "{line}");
            }
        }
    }

    #[test]
    fn orders_to_a_cluster_are_administration_on_a_member_alone() {
        for (line, action, object) in [
            (
                "RAFT.ADD 4 tcp://h:1",
                Some("cluster.add-member"),
                Some("4"),
            ),
            (
                "raft transfer 2",
                Some("cluster.transfer-leadership"),
                Some("2"),
            ),
            ("raft.status", None, None),
            ("LOCK.RELEASE a 3 FORCE", Some("lock.force-release"), None),
            ("LOCK.ACQUIRE a id 5", Some("lock.change"), None),
            ("rafter", None, None),
            ("lock.", None, None),
        ] {
            let argv = split(line);
            let found = what(Program::Raft, &argv);
            assert_eq!(found.as_ref().map(|w| w.kind.action), action, "{line}");
            assert_eq!(found.and_then(|w| w.object).as_deref(), object, "{line}");
            assert!(what(Program::Store, &argv).is_none(), "{line}");
        }
        let argv = split("LOCK.IF a 3 SET k v");
        assert_eq!(inner(Program::Raft, &argv).len(), 3);
        assert_eq!(inner(Program::Store, &argv).len(), 6);
        assert!(what(Program::Store, &split("HELLO 3")).is_none());
    }
}
