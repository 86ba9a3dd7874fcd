//! Commands on the connection: PING, HELLO, CLIENT and so on.

use super::args::{int32, is, shown};
use super::error::{CommandError, SYNTAX};
use super::{REDIS_VERSION, num};
use crate::acl::{DEFAULT_USER, WRONGPASS};
use crate::{Ctx, Flow, Protocol, Reply};

type Control = Result<Flow, CommandError>;

const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";
const HELLO_FIRST: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option \
                           can be used to authenticate the client and select the RESP protocol version at the same time";

/// What a command that logs in has of name and password. Options of HELLO that are wrong are the command's own affair.
pub(crate) fn credentials<'a>(argv: &[&'a [u8]]) -> Option<(&'a [u8], &'a [u8])> {
    match argv {
        [name, password] if is(name, "auth") => Some((DEFAULT_USER.as_bytes(), password)),
        [name, user, password] if is(name, "auth") => Some((user, password)),
        [name, _, options @ ..] if is(name, "hello") => {
            let (mut found, mut at) = (None, 0);
            while let Some(option) = options.get(at) {
                at += match (options.get(at + 1), options.get(at + 2)) {
                    (Some(user), Some(password)) if is(option, "auth") => {
                        found = Some((*user, *password));
                        3
                    }
                    _ if is(option, "setname") => 2,
                    _ => 1,
                };
            }
            found
        }
        _ => None,
    }
}

fn login(ctx: &mut Ctx<'_>, user: &[u8], password: &[u8]) -> Result<(), CommandError> {
    let login = ctx.server.acl().login(user, password);
    ctx.session.login = login.ok_or(WRONGPASS)?;
    Ok(())
}

pub(super) fn auth(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    let (user, password) = credentials(argv).ok_or(super::error::SYNTAX)?;
    if argv.len() == 2 && ctx.server.acl().takes_any_password() {
        return Err(NO_PASSWORD.into());
    }
    login(ctx, user, password)?;
    out.ok();
    Ok(Flow::Done)
}

pub(super) fn ping(_: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    match argv {
        [_] => out.simple("PONG"),
        [_, text] => out.bulk(text),
        _ => return Err("ERR wrong number of arguments for 'ping' command".into()),
    }
    Ok(Flow::Done)
}

pub(super) fn echo(_: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    out.bulk(argv[1]);
    Ok(Flow::Done)
}

pub(super) fn quit(_: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    out.ok();
    Ok(Flow::Close)
}

pub(super) fn select(_: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    if int32(argv[1])? != 0 {
        return Err("ERR DB index is out of range".into());
    }
    out.ok();
    Ok(Flow::Done)
}

pub(super) fn reset(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    super::transactions::forget(ctx);
    let session = &mut *ctx.session;
    session.name.clear();
    session.no_evict = false;
    session.no_touch = false;
    session.protocol = Protocol::Resp2;
    session.login = ctx.server.acl().arrives();
    out.set_protocol(Protocol::Resp2);
    out.simple("RESET");
    Ok(Flow::Done)
}

fn valid_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

pub(super) fn hello(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    let mut protocol = ctx.session.protocol;
    let mut args = argv[1..].iter();
    if let Some(version) = args.next() {
        protocol = match num::parse_i64(version) {
            None => return Err("ERR Protocol version is not an integer or out of range".into()),
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return Err("NOPROTO unsupported protocol version".into()),
        };
    }
    let mut name = None;
    while let Some(arg) = args.next() {
        if is(arg, "auth") && args.len() >= 2 {
            args.nth(1);
        } else if is(arg, "setname")
            && let Some(wanted) = args.next()
        {
            if !valid_name(wanted) {
                return Err(BAD_NAME.into());
            }
            name = Some(*wanted);
        } else {
            return Err(format!("ERR Syntax error in HELLO option '{}'", shown(arg)).into());
        }
    }
    if let Some((user, password)) = credentials(argv) {
        login(ctx, user, password)?;
    }
    if !ctx.session.login.is_open() {
        return Err(HELLO_FIRST.into());
    }
    if let Some(name) = name {
        ctx.session.name = name.to_vec();
    }
    ctx.session.protocol = protocol;
    out.set_protocol(protocol);
    out.map(7);
    out.bulk(b"server");
    out.bulk(b"redis");
    out.bulk(b"version");
    out.bulk(REDIS_VERSION.as_bytes());
    out.bulk(b"proto");
    out.integer(i64::from(protocol.number()));
    out.bulk(b"id");
    out.integer(ctx.session.id as i64);
    out.bulk(b"mode");
    out.bulk(ctx.server.mode().as_bytes());
    out.bulk(b"role");
    out.bulk(if ctx.server.is_replica() {
        b"replica"
    } else {
        b"master"
    });
    out.bulk(b"modules");
    out.array(0);
    Ok(Flow::Done)
}

pub(super) fn client_id(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    out.integer(ctx.session.id as i64);
    Ok(Flow::Done)
}

pub(super) fn client_getname(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    let name = &ctx.session.name;
    out.bulk_or_null(Some(&name[..]).filter(|name| !name.is_empty()));
    Ok(Flow::Done)
}

pub(super) fn client_setname(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    if !valid_name(argv[2]) {
        return Err(BAD_NAME.into());
    }
    ctx.session.name = argv[2].to_vec();
    out.ok();
    Ok(Flow::Done)
}

pub(super) fn client_setinfo(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    let (name, field) = if is(argv[2], "lib-name") {
        ("lib-name", &mut ctx.session.lib_name)
    } else if is(argv[2], "lib-ver") {
        ("lib-ver", &mut ctx.session.lib_ver)
    } else {
        return Err(format!("ERR Unrecognized option '{}'", shown(argv[2])).into());
    };
    if !valid_name(argv[3]) {
        return Err(
            format!("ERR {name} cannot contain spaces, newlines or special characters.").into(),
        );
    }
    *field = argv[3].to_vec();
    out.ok();
    Ok(Flow::Done)
}

pub(super) fn client_info(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    let line = ctx.server.client_line(ctx.session) + "\n";
    out.verbatim("txt", line.as_bytes());
    Ok(Flow::Done)
}

pub(super) fn client_list(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    let mut ids: Option<Vec<i64>> = None;
    let mut normal = true;
    match &argv[2..] {
        [] => {}
        [option, kind] if is(option, "type") => {
            normal = is(kind, "normal");
            if !normal
                && !["master", "replica", "slave", "pubsub"]
                    .iter()
                    .any(|known| is(kind, known))
            {
                return Err(format!("ERR Unknown client type '{}'", shown(kind)).into());
            }
        }
        [option, list @ ..] if is(option, "id") && !list.is_empty() => {
            let parsed: Option<Vec<i64>> = list.iter().map(|id| num::parse_i64(id)).collect();
            ids = Some(parsed.ok_or("ERR Invalid client ID")?);
        }
        _ => return Err(SYNTAX.into()),
    }
    let mut text = String::new();
    for client in ctx.server.clients() {
        let id = client
            .line
            .strip_prefix("id=")
            .and_then(|rest| rest.split(' ').next())
            .and_then(|id| id.parse().ok());
        if normal
            && ids
                .as_ref()
                .is_none_or(|ids| id.is_some_and(|id| ids.contains(&id)))
        {
            text.push_str(&client.line);
            text.push('\n');
        }
    }
    out.verbatim("txt", text.as_bytes());
    Ok(Flow::Done)
}

fn on_off(arg: &[u8]) -> Result<bool, CommandError> {
    if is(arg, "on") {
        Ok(true)
    } else if is(arg, "off") {
        Ok(false)
    } else {
        Err(SYNTAX.into())
    }
}

pub(super) fn client_no_evict(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    ctx.session.no_evict = on_off(argv[2])?;
    out.ok();
    Ok(Flow::Done)
}

pub(super) fn client_no_touch(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    ctx.session.no_touch = on_off(argv[2])?;
    out.ok();
    Ok(Flow::Done)
}

#[cfg(test)]
mod tests {
    use super::credentials;

    #[test]
    fn a_name_and_a_password_are_found_where_the_command_takes_them() {
        for (line, expected) in [
            ("AUTH p", Some(("default", "p"))),
            ("auth ann p", Some(("ann", "p"))),
            ("AUTH", None),
            ("AUTH ann p q", None),
            ("HELLO", None),
            ("HELLO 3", None),
            ("HELLO 3 AUTH ann", None),
            ("hello 3 auth ann p", Some(("ann", "p"))),
            ("HELLO 3 SETNAME auth AUTH ann p", Some(("ann", "p"))),
            ("HELLO 3 AUTH auth auth SETNAME x", Some(("auth", "auth"))),
            ("HELLO 3 AUTH ann p AUTH bob q", Some(("bob", "q"))),
            ("HELLO 3 SETNAME", None),
            ("GET auth", None),
        ] {
            let argv: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let expected =
                expected.map(|(name, pass): (&str, &str)| (name.as_bytes(), pass.as_bytes()));
            assert_eq!(credentials(&argv), expected, "{line}");
        }
    }
}
