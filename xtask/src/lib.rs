//! The harness behind `cargo xtask`: it builds, starts, loads, kills and compares the real binaries.
//!
//! It links nothing of Esker. What it knows of a server it learns as a client would, over RESP, by signals and
//! from `/proc`. The whole-binary tests of `esker-server` use it too.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these are commands: printing is what they do"
)]

pub mod bench;
pub mod built;
pub mod ci;
mod cluster;
pub mod crash;
pub mod demo;
pub mod disk;
pub mod fuzz_ports;
pub mod load;
pub mod mutants;
pub mod node;
pub mod raft_chaos;
pub mod resp;

use std::path::{Path, PathBuf};

/// What a command returns: an error is a sentence for the person at the terminal.
pub type Outcome<T = ()> = Result<T, String>;

/// Puts `doing` before an error.
pub fn ctx<T, E: std::fmt::Display>(
    result: Result<T, E>,
    doing: impl std::fmt::Display,
) -> Outcome<T> {
    result.map_err(|error| format!("{doing}: {error}"))
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
        .to_path_buf()
}

/// Cargo's target directory.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
