//! COMMAND: what the table says, as clients ask for it.

use super::error::CommandError;
use super::table::{self, COMMANDS, CommandSpec};
use crate::{Ctx, Flow, Reply};

type Control = Result<Flow, CommandError>;

pub(super) fn command(_: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    out.array(COMMANDS.len());
    for spec in &COMMANDS {
        describe(spec, out);
    }
    Ok(Flow::Done)
}

pub(super) fn count(_: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    out.integer(COMMANDS.len() as i64);
    Ok(Flow::Done)
}

pub(super) fn list(_: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    out.array(COMMANDS.len());
    for spec in &COMMANDS {
        out.bulk(spec.name.as_bytes());
    }
    Ok(Flow::Done)
}

/// Names that may be asked about at once: a description is a hundred times as long as a name.
const NAMES_MAX: usize = 4096;

fn named<'a>(argv: &'a [&[u8]]) -> Result<&'a [&'a [u8]], CommandError> {
    match &argv[2..] {
        names if names.len() > NAMES_MAX => Err("ERR at most 4096 commands at once".into()),
        names => Ok(names),
    }
}

/// `get`, or `client|list`.
fn by_name(name: &[u8]) -> Option<&'static CommandSpec> {
    match name.iter().position(|&byte| byte == b'|') {
        Some(at) => table::find_sub(table::find(&name[..at])?, &name[at + 1..]),
        None => table::find(name),
    }
}

pub(super) fn info(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    if argv.len() == 2 {
        return command(ctx, argv, out);
    }
    let names = named(argv)?;
    out.array(names.len());
    for name in names {
        match by_name(name) {
            Some(spec) => describe(spec, out),
            None => out.null(),
        }
    }
    Ok(Flow::Done)
}

fn describe(spec: &CommandSpec, out: &mut Reply) {
    out.array(10);
    out.bulk(spec.name.as_bytes());
    out.integer(i64::from(spec.arity));
    let flags: Vec<&str> = spec.flags.names().collect();
    out.set(flags.len());
    for flag in flags {
        out.simple(flag);
    }
    for number in [spec.first_key, spec.last_key, spec.step] {
        out.integer(i64::from(number));
    }
    // Categories of access control, tips: there are none here.
    out.set(0);
    out.array(0);
    if spec.first_key == 0 {
        out.array(0);
    } else {
        out.array(1);
        out.map(3);
        out.bulk(b"flags");
        out.set(1);
        out.simple(if spec.is_write() { "RW" } else { "RO" });
        out.bulk(b"begin_search");
        out.map(2);
        out.bulk(b"type");
        out.bulk(b"index");
        out.bulk(b"spec");
        out.map(1);
        out.bulk(b"index");
        out.integer(i64::from(spec.first_key));
        out.bulk(b"find_keys");
        out.map(2);
        out.bulk(b"type");
        out.bulk(b"range");
        out.bulk(b"spec");
        out.map(3);
        out.bulk(b"lastkey");
        let last = if spec.last_key < 0 {
            spec.last_key
        } else {
            spec.last_key - spec.first_key
        };
        out.integer(i64::from(last));
        out.bulk(b"keystep");
        out.integer(i64::from(spec.step));
        out.bulk(b"limit");
        out.integer(0);
    }
    out.array(spec.subcommands.len());
    for sub in spec.subcommands {
        describe(sub, out);
    }
}

pub(super) fn docs(_: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    let named: Vec<&CommandSpec> = named(argv)?
        .iter()
        .filter_map(|name| by_name(name))
        .collect();
    let specs = if argv.len() == 2 {
        COMMANDS.iter().collect()
    } else {
        named
    };
    out.map(specs.len());
    for spec in specs {
        document(spec, out);
    }
    Ok(Flow::Done)
}

fn document(spec: &CommandSpec, out: &mut Reply) {
    out.bulk(spec.name.as_bytes());
    out.map(3 + usize::from(!spec.subcommands.is_empty()));
    for (field, value) in [
        ("summary", spec.summary),
        ("since", spec.since),
        ("group", spec.group.name()),
    ] {
        out.bulk(field.as_bytes());
        out.bulk(value.as_bytes());
    }
    if !spec.subcommands.is_empty() {
        out.bulk(b"subcommands");
        out.map(spec.subcommands.len());
        for sub in spec.subcommands {
            document(sub, out);
        }
    }
}

pub(super) fn getkeys(_: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    let call = &argv[2..];
    let spec = table::find(call[0]).ok_or("ERR Invalid command specified")?;
    let spec = match call.get(1).and_then(|name| table::find_sub(spec, name)) {
        Some(sub) => sub,
        None => spec,
    };
    if table::resolve(call).is_err() {
        return Err("ERR Invalid number of arguments specified for command".into());
    }
    if spec.first_key == 0 {
        return Err("ERR The command has no key arguments".into());
    }
    let places: Vec<usize> = spec.key_positions(call.len()).collect();
    out.array(places.len());
    for at in places {
        out.bulk(call[at]);
    }
    Ok(Flow::Done)
}
