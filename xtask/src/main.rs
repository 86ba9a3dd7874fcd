//! `cargo xtask <command>`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "a command line program")]

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xtask::{bench, ci, crash, demo, fuzz_ports, mutants, raft_chaos};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What CI runs: every check, part by part, with the time of each. Changes nothing.
    Ci(ci::Options),
    /// Real input through the real binaries: a primary, a replica, a kill -9 in the middle, every key compared.
    Demo(demo::Options),
    /// Rounds of kill -9 and of power cuts at random moments under load.
    Crash(crash::Options),
    /// Garbage on the ports of a live primary.
    FuzzPorts(fuzz_ports::Options),
    /// Members of Raft clusters under kill -9, SIGSTOP and partitions; what clients saw is checked for linearizability.
    RaftChaos(raft_chaos::Options),
    /// A large snapshot for a new learner under load, over a link that is cut again and again; what it costs the leader's clients.
    RaftSnapshot(raft_chaos::learner::Options),
    /// Changes frame, segment, recovery and flusher one operator at a time: a test must fail for each.
    Mutants(mutants::Options),
    /// Measures, beside the device and beside Redis.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// Synced appends with 1, 4, 16, 64 threads; redis-benchmark SET and GET.
    Quick(bench::Quick),
    /// The log beside the device, the simplest correct log and other products: durable, buffered, sustained, replay.
    Log(bench::log::Log),
    /// Three nodes of raft-node beside three of etcd and three of openraft on fjall: puts of 256 bytes by 1, 64, 256, 1,024 clients.
    Raft(bench::raft::Raft),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Ci(options) => ci::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Crash(options) => crash::run(&options),
        Command::FuzzPorts(options) => fuzz_ports::run(&options),
        Command::RaftChaos(options) => raft_chaos::run(&options),
        Command::RaftSnapshot(options) => raft_chaos::learner::run(&options),
        Command::Mutants(options) => mutants::run(&options),
        Command::Bench(Bench::Quick(options)) => bench::quick(&options),
        Command::Bench(Bench::Log(options)) => bench::log::log(&options),
        Command::Bench(Bench::Raft(options)) => bench::raft::raft(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
