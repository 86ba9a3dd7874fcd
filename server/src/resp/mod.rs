//! RESP2 and RESP3: commands in, replies out.

mod reply;

pub use reply::{Protocol, Reply};
