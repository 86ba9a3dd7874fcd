//! ACL: the users of the file. Changing them is writing the file and ACL LOAD.

use super::error::CommandError;
use crate::{Ctx, Flow, Reply};

type Control = Result<Flow, CommandError>;

pub(super) fn whoami(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    out.bulk(ctx.session.login.user().as_bytes());
    Ok(Flow::Done)
}

fn all(lines: &[String], out: &mut Reply) -> Control {
    out.array(lines.len());
    for line in lines {
        out.bulk(line.as_bytes());
    }
    Ok(Flow::Done)
}

pub(super) fn users(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    all(&ctx.server.acl().names(), out)
}

pub(super) fn list(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    all(&ctx.server.acl().lines(), out)
}

pub(super) fn load(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    match ctx.server.acl().reload() {
        Ok(_) => out.ok(),
        Err(error) => {
            return Err(format!("ERR {error}. The users are what they were").into());
        }
    }
    Ok(Flow::Done)
}
