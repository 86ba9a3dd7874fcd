//! `esker-wal`: a batched, memory-mapped write-ahead log.

mod append;
mod cursor;
mod error;
mod flush;
pub mod frame;
pub mod ids;
mod log;
pub mod media;
mod meta;
mod options;
mod prepare;
mod reader;
mod recovery;
#[cfg_attr(not(feature = "sabotage"), doc(hidden))]
pub mod sabotage;
mod segment;
mod shared;
mod upkeep;

pub use append::epoch_of_control;
pub use error::{LogError, OpenError, Poison};
pub use frame::Kind;
pub use ids::*;
pub use log::*;
pub use options::*;
pub use reader::*;
