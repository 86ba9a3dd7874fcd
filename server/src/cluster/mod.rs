//! `esker cluster`: a cluster of `raft-node` from outside.

mod auth;
mod recover;
mod status;

use clap::Subcommand;
use std::process::ExitCode;

/// What `esker cluster` does.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Shows all members. Exits 0 when there is a leader and a quorum is up, 1 when not, 2 when nobody could be asked.
    Status(status::StatusArgs),
    /// Goes on with one member, stopped, where a majority is lost for good. Prints what that risks; changes nothing without --i-accept-data-loss.
    Recover(recover::RecoverArgs),
}

/// Runs it.
#[must_use]
pub fn run(command: &ClusterCommand) -> ExitCode {
    match command {
        ClusterCommand::Status(args) => status::run(args),
        ClusterCommand::Recover(args) => recover::run(args),
    }
}
