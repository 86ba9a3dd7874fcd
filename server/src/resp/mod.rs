//! RESP2 and RESP3: requests in, replies out.

mod parser;
mod reply;

pub use parser::{Limits, Parsed, Parser, ProtocolError};
pub use reply::{Protocol, Reply};
