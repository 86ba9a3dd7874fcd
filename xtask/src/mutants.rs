//! `cargo xtask mutants`: the log's safety-relevant files, changed one operator or body at a time; a test must fail for each.
//!
//! What is changed, what is left out and why, and which tests run stand in `.cargo/mutants.toml`; what survives is explained in
//! wal/README.md. The tree is copied: nothing here is changed.

use crate::{Outcome, ctx, root};
use std::process::Command;

/// Which mutants to try: all by default.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Options {
    /// Only this part of them, as `2/8`.
    #[arg(long, value_name = "K/N")]
    shard: Option<String>,
    /// Only those whose name, as `--list` prints it, matches this regular expression: `src/recovery`, say.
    #[arg(long, value_name = "REGEX")]
    re: Option<String>,
    /// List them and stop.
    #[arg(long)]
    list: bool,
}

/// Runs cargo-mutants on what `options` say.
pub fn run(options: &Options) -> Outcome {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let found = Command::new(&cargo).args(["mutants", "--version"]).output();
    if !ctx(found, "starting cargo")?.status.success() {
        return Err(
            "cargo-mutants is not installed; `cargo install --locked cargo-mutants` does that"
                .to_owned(),
        );
    }
    let mut command = Command::new(&cargo);
    command.args(["mutants", "--package", "esker-wal"]);
    if let Some(shard) = &options.shard {
        command.args(["--shard", shard]);
    }
    if let Some(re) = &options.re {
        command.args(["--re", re]);
    }
    match options.list {
        true => command.arg("--list"),
        // That they pass unchanged is CI's to say. All of them take half a minute; what takes ten times as long hangs.
        false => command.args(["--baseline", "skip", "--timeout", "300"]),
    };
    let status = command
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_INCREMENTAL", "1")
        .current_dir(root())
        .status();
    let status = ctx(status, "starting cargo-mutants")?;
    match status.code() {
        Some(0) => Ok(()),
        Some(2) => Err("mutants survived: mutants.out/missed.txt names them".to_owned()),
        // A hang is noticed as well as a failure.
        Some(3) => Ok(()),
        _ => Err(format!("cargo mutants: {status}")),
    }
}
