//! `esker-lsm`: an LSM key-value store on the Esker log. (API skeleton; see the contract.)
#![allow(missing_docs, clippy::todo, reason = "skeleton")]
mod api;
pub mod iter;
pub mod table;
pub use api::*;
