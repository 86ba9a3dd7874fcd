//! What each command means. (Placeholder; see the contract.)

use crate::{Ctx, Flow, Reply};

/// A client's MULTI queue and WATCHes.
#[derive(Debug, Default)]
pub struct Tx {}

/// Runs one command. `argv` is not empty.
pub fn execute(ctx: &mut Ctx<'_>, argv: &[&[u8]], out: &mut Reply) -> Flow {
    let _ = &ctx;
    match argv[0].to_ascii_lowercase().as_slice() {
        b"ping" => out.simple("PONG"),
        b"quit" => {
            out.ok();
            return Flow::Close;
        }
        _ => out.error("ERR unknown command"),
    }
    Flow::Done
}

/// The client is gone: forgets its WATCHes.
pub fn disconnected(ctx: &mut Ctx<'_>) {
    let _ = ctx;
}
