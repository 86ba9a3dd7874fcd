//! Raft consensus.
//!
//! [`core`] is the algorithm alone: deterministic, without I/O, threads or clock. A runtime carries out what it asks for.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod codec;
pub mod core;
#[cfg_attr(
    not(feature = "lsm"),
    allow(dead_code, reason = "locks act on the state machine on the store")
)]
pub mod lock;
pub mod log;
#[cfg(feature = "lsm")]
pub mod machine;
pub mod runtime;
#[cfg_attr(not(feature = "sabotage"), doc(hidden))]
pub mod sabotage;
#[cfg(feature = "sim")]
pub mod sim;
pub mod transport;
