//! `esker audit keys`: key files.

use super::{Key, Keyring, Ran, Stop, view};
use clap::{Args, Subcommand};
use esker_audit::verifier_key;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// What `esker audit keys` does.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Makes a new file with a new key, which its owner alone may read.
    New(File),
    /// Lists the keys: ids, and what checks their signatures (C2SP verifier keys).
    List(File),
    /// Adds a key. Who opens the trail next writes with it, and says so in the trail; the old ones stay, to verify what they wrote.
    Rotate(File),
}

/// A key file.
#[derive(Debug, Args)]
pub struct File {
    /// The key file.
    file: PathBuf,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(out: &mut impl Write, command: &KeysCommand) -> Ran {
    let (args, keys) = match command {
        KeysCommand::New(args) => {
            if args.file.exists() {
                return Err(Stop::Failed(format!(
                    "{} is there already; name a new file, or add a key to it with `esker audit keys rotate`",
                    args.file.display()
                )));
            }
            (args, Keyring::create(&args.file)?)
        }
        KeysCommand::List(args) => (args, Keyring::load(&args.file)?),
        KeysCommand::Rotate(args) => {
            let mut keys = Keyring::load(&args.file)?;
            keys.add(Key::random()?);
            keys.store(&args.file)?;
            (args, keys)
        }
    };
    let newest = keys.newest().id();
    if args.json {
        let key = |key: &Key| {
            json!({
                "id": key.id().to_string(),
                "verifier": verifier_key(key),
                "writes": key.id() == newest,
            })
        };
        let all = json!({ "keys": keys.iter().map(key).collect::<Vec<_>>() });
        view::json(out, &all)?;
        return Ok(true);
    }
    for key in keys.iter() {
        let role = match key.id() == newest {
            true => "writes  ",
            false => "verifies",
        };
        writeln!(out, "{}  {role}  {}", key.id(), verifier_key(key))?;
    }
    Ok(true)
}
