//! Commands on the server: CONFIG, INFO, roles, waiting, the end.

use super::args::{integer, is};
use super::error::{CommandError, SYNTAX};
use super::num::parse_i64;
use crate::{Ctx, Flow, Reply, RoleView, WaitKind, WaitRequest};
use std::time::{Duration, Instant};

type Control = Result<Flow, CommandError>;

pub(super) fn config_get(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    let found = ctx.server.config_get(&argv[2..]);
    out.map(found.len());
    for (name, value) in &found {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
    Ok(Flow::Done)
}

pub(super) fn config_set(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    if !argv.len().is_multiple_of(2) {
        return Err("ERR wrong number of arguments for 'config|set' command".into());
    }
    let pairs: Vec<(&[u8], &[u8])> = argv[2..]
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect();
    ctx.server.config_set(&pairs)?;
    out.ok();
    Ok(Flow::Done)
}

pub(super) fn config_resetstat(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    if let Some(engine) = ctx.engine {
        engine.reset_stats();
    }
    ctx.server.reset_stats();
    out.ok();
    Ok(Flow::Done)
}

pub(super) fn info(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    let lower: Vec<Vec<u8>> = argv[1..]
        .iter()
        .map(|section| section.to_ascii_lowercase())
        .collect();
    let sections: Vec<&[u8]> = lower.iter().map(Vec::as_slice).collect();
    out.verbatim("txt", ctx.server.info(&sections).as_bytes());
    Ok(Flow::Done)
}

pub(super) fn time(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    let micros = match ctx.engine {
        Some(engine) => engine.clock().wall_micros(),
        None => crate::engine::clock::TimeSource::wall_micros(
            &crate::engine::clock::SystemTimeSource::default(),
        ),
    };
    let mut digits = itoa::Buffer::new();
    out.array(2);
    out.bulk(digits.format(micros.div_euclid(1_000_000)).as_bytes());
    out.bulk(digits.format(micros.rem_euclid(1_000_000)).as_bytes());
    Ok(Flow::Done)
}

pub(super) fn function_flush(_: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    match argv[2..] {
        [] => {}
        [how] if is(how, "sync") || is(how, "async") => {}
        _ => return Err("ERR FUNCTION FLUSH only supports SYNC|ASYNC option".into()),
    }
    // There are no functions to flush.
    out.ok();
    Ok(Flow::Done)
}

pub(super) fn role(ctx: &mut Ctx<'_>, _: &[&[u8]], out: &mut Reply) -> Control {
    match ctx.server.role() {
        RoleView::Primary { offset, replicas } => {
            let connected = || replicas.iter().filter(|replica| replica.connected);
            out.array(3);
            out.bulk(b"master");
            out.integer(offset.0 as i64);
            out.array(connected().count());
            for replica in connected() {
                out.array(3);
                out.bulk(replica.ip.as_bytes());
                out.bulk(replica.port.to_string().as_bytes());
                out.bulk(replica.applied.0.to_string().as_bytes());
            }
        }
        RoleView::Replica {
            host,
            port,
            state,
            offset,
        } => {
            out.array(5);
            out.bulk(b"slave");
            out.bulk(host.as_bytes());
            out.integer(i64::from(port));
            out.bulk(state.as_bytes());
            out.integer(offset.0 as i64);
        }
    }
    Ok(Flow::Done)
}

pub(super) fn replicaof(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    if is(argv[1], "no") && is(argv[2], "one") {
        if ctx.server.is_replica() {
            return Ok(Flow::Promote);
        }
        out.ok();
        return Ok(Flow::Done);
    }
    Err(
        "ERR REPLICAOF takes NO ONE alone; to follow a primary start the replica with --primary"
            .into(),
    )
}

pub(super) fn shutdown(_: &mut Ctx<'_>, argv: &[&[u8]], _: &mut Reply) -> Control {
    let (mut now, mut save, mut no_save, mut abort) = (false, false, false, false);
    for arg in &argv[1..] {
        if is(arg, "nosave") {
            no_save = true;
        } else if is(arg, "save") {
            save = true;
        } else if is(arg, "now") {
            now = true;
        } else if is(arg, "abort") {
            abort = true;
        } else if !is(arg, "force") {
            return Err(SYNTAX.into());
        }
    }
    if (save && no_save) || (abort && argv.len() > 2) {
        return Err(SYNTAX.into());
    }
    if abort {
        return Err("ERR No shutdown in progress.".into());
    }
    Ok(Flow::Shutdown { now })
}

fn timeout(arg: &[u8]) -> Result<Option<Instant>, CommandError> {
    let millis = parse_i64(arg).ok_or("ERR timeout is not an integer or out of range")?;
    let millis = u64::try_from(millis).map_err(|_| "ERR timeout is negative")?;
    if millis == 0 {
        return Ok(None);
    }
    Ok(Some(
        Instant::now()
            .checked_add(Duration::from_millis(millis))
            .ok_or("ERR timeout is out of range")?,
    ))
}

fn replica_refuses(ctx: &Ctx<'_>, name: &str) -> Result<(), CommandError> {
    if ctx.server.is_replica() {
        return Err(format!(
            "ERR {name} cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is \
             configured to be writable (which is not the default) writes to replicas are just local and are not \
             propagated."
        )
        .into());
    }
    Ok(())
}

fn count(arg: &[u8]) -> Result<usize, CommandError> {
    // A negative count is reached already, as in Redis.
    Ok(usize::try_from(integer(arg)?).unwrap_or(0))
}

pub(super) fn wait(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    replica_refuses(ctx, "WAIT")?;
    let replicas = count(argv[1])?;
    let deadline = timeout(argv[2])?;
    let reached = ctx
        .server
        .replicas_at(crate::Ack::Applied, ctx.session.last_write);
    // In EXEC nobody waits: the count as it stands.
    if reached >= replicas || ctx.session.tx.executing() {
        out.integer(reached as i64);
        return Ok(Flow::Done);
    }
    Ok(Flow::Wait(WaitRequest {
        kind: WaitKind::Replicas(replicas),
        lsn: ctx.session.last_write,
        deadline,
    }))
}

pub(super) fn waitaof(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Control {
    let local = integer(argv[1])?;
    if !(0..=1).contains(&local) {
        return Err("ERR value is out of range, must between 0 and 1".into());
    }
    let replicas = integer(argv[2])?;
    if replicas < 0 {
        return Err("ERR value is out of range, must be positive".into());
    }
    let deadline = timeout(argv[3])?;
    replica_refuses(ctx, "WAITAOF")?;
    if ctx.session.tx.executing() {
        let lsn = ctx.session.last_write;
        out.array(2);
        out.integer(i64::from(ctx.server.synced() >= lsn));
        out.integer(ctx.server.replicas_at(crate::Ack::Durable, lsn) as i64);
        return Ok(Flow::Done);
    }
    let kind = WaitKind::Aof {
        local: local as usize,
        replicas: replicas as usize,
    };
    Ok(Flow::Wait(WaitRequest {
        kind,
        lsn: ctx.session.last_write,
        deadline,
    }))
}
