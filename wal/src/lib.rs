//! `esker-wal`: a batched, memory-mapped write-ahead log. (API skeleton; see the contract.)

#![allow(missing_docs, dead_code, reason = "skeleton")]
mod error;
pub mod frame;
pub mod ids;
mod log;
pub mod media;
mod options;
mod reader;

pub use error::*;
pub use frame::Kind;
pub use ids::*;
pub use log::*;
pub use options::*;
pub use reader::*;
