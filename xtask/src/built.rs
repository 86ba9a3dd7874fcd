//! The test binaries of the workspace, built once with one selection of packages.
//!
//! `cargo test -p A` and `cargo test -p B` unify features differently and so build shared dependencies, libzmq and
//! libsodium among them, once for each. CI builds everything together and runs each area's binaries by itself.

use crate::{Outcome, ctx, root};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A test binary.
#[derive(Clone, Debug)]
pub struct TestBinary {
    /// The package's directory below the workspace, where its tests run; empty for the facade.
    pub area: String,
    /// The target it was built from.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Builds all tests of the workspace (and the binaries that they run) and lists them.
pub fn build() -> Outcome<Vec<TestBinary>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = ctx(
        Command::new(cargo)
            .args(["test", "--workspace", "--locked", "--no-run"])
            .arg("--message-format=json-render-diagnostics")
            .current_dir(root())
            .stdout(Stdio::piped())
            .spawn(),
        "cargo test --no-run",
    )?;
    let output = child.stdout.take().expect("piped above");
    let mut found = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = ctx(line, "reading cargo's messages")?;
        // What is not a message is a build script's or a tool's chatter.
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        found.extend(test_binary(&message));
    }
    let status = ctx(child.wait(), "cargo test --no-run")?;
    if !status.success() {
        return Err(format!("`cargo test --workspace --no-run`: {status}"));
    }
    if found.is_empty() {
        return Err("cargo built no test binary".to_owned());
    }
    Ok(found)
}

/// The test binary that a message of cargo announces, if it does.
fn test_binary(message: &Value) -> Option<TestBinary> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let area = manifest.parent()?.strip_prefix(root()).ok()?;
    Some(TestBinary {
        area: area.to_str()?.to_owned(),
        name: message["target"]["name"].as_str()?.to_owned(),
        path: message["executable"].as_str()?.into(),
    })
}

/// Runs those in `areas`, each to its end; an error names the ones that failed.
pub fn run(binaries: &[TestBinary], areas: &[&str]) -> Outcome {
    let mut failed = Vec::new();
    let mut ran = 0;
    for binary in binaries.iter().filter(|b| areas.contains(&b.area.as_str())) {
        println!("\n     Running {}: {}", binary.area, binary.name);
        let status = Command::new(&binary.path)
            .current_dir(root().join(&binary.area))
            .status();
        ran += 1;
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => failed.push(format!("{}: {status}", binary.name)),
            Err(error) => failed.push(format!("{}: {error}", binary.name)),
        }
    }
    if ran == 0 {
        return Err(format!("there is no test binary in {}", areas.join(", ")));
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_test_binary_is_told_from_a_library_and_its_area_from_its_manifest() {
        let manifest = root().join("wal/Cargo.toml");
        let mut message = json!({
            "reason": "compiler-artifact",
            "manifest_path": manifest,
            "target": { "name": "log" },
            "profile": { "test": true },
            "executable": "/somewhere/log-1234",
        });
        let binary = test_binary(&message).expect("a test binary");
        assert_eq!((binary.area.as_str(), binary.name.as_str()), ("wal", "log"));
        message["profile"]["test"] = json!(false);
        assert!(test_binary(&message).is_none());
    }
}
