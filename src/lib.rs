//! Esker: a storage engine for people who build databases and for people who run them.
//!
//! This crate is a facade: it re-exports the parts.
#![forbid(unsafe_code)]

pub use esker_lsm as lsm;
pub use esker_sync as sync;
pub use esker_wal as wal;
