//! `cargo xtask ci`: the parts of CI, in order, each timed; a part that fails does not keep the next from running.

use crate::built::{self, TestBinary};
use crate::{Outcome, ctx, root, target_dir};
use std::process::Command;
use std::time::{Duration, Instant};

/// Which parts to run.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Options {
    /// Run only these parts (may be given several times).
    #[arg(long = "part", value_name = "NAME")]
    parts: Vec<String>,
    /// List the parts and stop.
    #[arg(long)]
    list: bool,
    /// Stop at the first part that fails.
    #[arg(long)]
    fail_fast: bool,
}

struct Part {
    name: &'static str,
    what: &'static str,
    /// Run in order; the first that fails ends the part.
    steps: Vec<Step>,
}

enum Step {
    /// A command of cargo.
    Cargo {
        args: Vec<String>,
        env: Vec<(&'static str, String)>,
    },
    /// Build the tests of the whole workspace, once.
    BuildTests,
    /// Run the tests of the packages in these directories.
    Tests(&'static [&'static str]),
    /// Run another command of this program on the binaries that the tests were built with.
    Xtask(String),
}

fn cargo(line: &str) -> Step {
    Step::Cargo {
        args: line.split_whitespace().map(str::to_owned).collect(),
        env: Vec::new(),
    }
}

impl Step {
    fn env(mut self, key: &'static str, value: impl Into<String>) -> Self {
        if let Step::Cargo { env, .. } = &mut self {
            env.push((key, value.into()));
        }
        self
    }
}

fn parts() -> Vec<Part> {
    let mut parts = vec![
        Part {
            name: "fmt",
            what: "formatting",
            steps: vec![cargo("fmt --all --check")],
        },
        Part {
            name: "clippy",
            what: "lints, all targets",
            steps: vec![cargo(
                "clippy --workspace --all-targets --locked -- -D warnings",
            )],
        },
        Part {
            name: "docs",
            what: "documentation builds without a warning",
            steps: vec![
                cargo("doc --workspace --no-deps --all-features --locked")
                    .env("RUSTDOCFLAGS", "-D warnings"),
            ],
        },
        Part {
            name: "build",
            what: "all tests and the binaries that they run",
            steps: vec![Step::BuildTests],
        },
        Part {
            name: "log",
            what: "tests of sync and wal",
            steps: vec![Step::Tests(&["sync", "wal"])],
        },
        Part {
            name: "store",
            what: "tests of lsm",
            steps: vec![Step::Tests(&["lsm"])],
        },
        Part {
            name: "sabotage",
            what: "the deliberately broken builds: the random runs must catch each",
            steps: vec![
                cargo("test --locked -p esker-wal --features sabotage --test broken_builds"),
                cargo("test --locked -p esker-lsm --features sabotage --test broken"),
                cargo("test --locked -p esker-audit --features sabotage --test broken_builds"),
                cargo(
                    "test --locked -p esker-raft --features lsm,sabotage --lib --test log_storage --test lsm_machine --test locks --test nodes broken",
                ),
            ],
        },
        Part {
            name: "raft",
            what: "tests of raft, the state machine on lsm among them",
            steps: vec![
                // Alone, as who uses it without the store builds it.
                cargo("clippy --locked -p esker-raft -- -D warnings"),
                Step::Tests(&["raft"]),
                cargo(
                    "test --locked -p esker-raft --features lsm --test lsm_machine --test locks --test nodes",
                ),
            ],
        },
        Part {
            name: "openraft",
            what: "the log as openraft's storage: openraft's own suite, and what it does not ask",
            steps: vec![
                cargo("fmt --check --manifest-path raft/openraft/Cargo.toml"),
                cargo("test --locked --manifest-path raft/openraft/Cargo.toml").env(
                    "CARGO_TARGET_DIR",
                    target_dir().join("openraft").to_string_lossy(),
                ),
            ],
        },
        Part {
            name: "replication",
            what: "tests of replication and of our build of libzmq",
            steps: vec![Step::Tests(&["replication", "replication/zmq-sys"])],
        },
        Part {
            name: "audit",
            what: "tests of the audit trail: tampering, power cuts, kills, policies on failure",
            steps: vec![Step::Tests(&["audit"])],
        },
        Part {
            name: "server",
            what: "tests of the server and its binaries",
            steps: vec![Step::Tests(&["server"])],
        },
        Part {
            name: "facade",
            what: "the crate as a user meets it, and the tools",
            steps: vec![
                Step::Tests(&["", "benches", "xtask"]),
                cargo("test --workspace --locked --doc"),
            ],
        },
    ];
    {
        let target = target_dir().join("loom");
        parts.push(Part {
            name: "loom",
            what: "models of the concurrent parts, and their broken twins",
            steps: vec![
                cargo("test --locked --release -p esker-loom-tests")
                    .env("RUSTFLAGS", "--cfg esker_loom")
                    .env("LOOM_MAX_PREEMPTIONS", "3")
                    // The models are small and run for long: linking them with LTO takes longer than it saves.
                    .env("CARGO_PROFILE_RELEASE_LTO", "off")
                    .env("CARGO_TARGET_DIR", target.to_string_lossy()),
            ],
        });
    }
    {
        let xtask = |line: &str| Step::Xtask(line.to_owned());
        parts.push(Part {
            name: "demo",
            what: "real input, a kill in the middle, every key compared",
            steps: vec![
                xtask("demo --lines 8000"),
                xtask("demo raft --lines 8000 --kills 2"),
            ],
        });
        parts.push(Part {
            name: "crash",
            what: "kill -9 and power cuts under load",
            steps: vec![xtask("crash --rounds 8 --seed 3")],
        });
        parts.push(Part {
            name: "raft-chaos",
            what: "a cluster under kill -9, pauses and partitions: histories linearizable, nodes equal",
            steps: vec![xtask("raft-chaos --members 3 --minutes 1 --measured 1")],
        });
        parts.push(Part {
            name: "ports",
            what: "garbage on the ports of a live primary",
            steps: vec![xtask("fuzz-ports --seeds 1000")],
        });
    }
    parts
}

/// Runs the parts asked for, all of them by default.
pub fn run(options: &Options) -> Outcome {
    let all = parts();
    if options.list {
        for part in &all {
            println!("{:12} {}", part.name, part.what);
        }
        return Ok(());
    }
    if let Some(unknown) = options
        .parts
        .iter()
        .find(|name| all.iter().all(|part| part.name != **name))
    {
        let names: Vec<_> = all.iter().map(|part| part.name).collect();
        return Err(format!(
            "no part is called {unknown:?}; there are: {}",
            names.join(", ")
        ));
    }
    let chosen = all.into_iter().filter(|part| {
        options.parts.is_empty() || options.parts.iter().any(|name| name == part.name)
    });

    let mut tests = None;
    let mut table: Vec<(&str, Duration, Option<String>)> = Vec::new();
    for part in chosen {
        println!("\n=== {}: {}", part.name, part.what);
        let began = Instant::now();
        let failure = part
            .steps
            .iter()
            .find_map(|step| run_step(step, &mut tests).err());
        let took = began.elapsed();
        match &failure {
            None => println!("=== {}: ok in {:.1} s", part.name, took.as_secs_f64()),
            Some(error) => println!(
                "=== {}: FAILED after {:.1} s: {error}",
                part.name,
                took.as_secs_f64()
            ),
        }
        let stop = failure.is_some() && options.fail_fast;
        table.push((part.name, took, failure));
        if stop {
            break;
        }
    }

    println!("\n{:12} {:>9}  result", "part", "seconds");
    for (name, took, failure) in &table {
        let result = failure.as_deref().unwrap_or("ok");
        println!("{name:12} {:9.1}  {result}", took.as_secs_f64());
    }
    let total: Duration = table.iter().map(|row| row.1).sum();
    println!("{:12} {:9.1}", "total", total.as_secs_f64());
    let failed = table.iter().filter(|row| row.2.is_some()).count();
    println!("\nparts: {} passed, {failed} failed", table.len() - failed);
    if failed > 0 {
        return Err(format!("{failed} of {} parts failed", table.len()));
    }
    Ok(())
}

fn run_step(step: &Step, tests: &mut Option<Vec<TestBinary>>) -> Outcome {
    match step {
        Step::Cargo { args, env } => run_cargo(args, env),
        Step::BuildTests => {
            *tests = Some(built::build()?);
            Ok(())
        }
        Step::Xtask(line) => {
            if tests.is_none() {
                *tests = Some(built::build()?);
            }
            run_self(line)
        }
        Step::Tests(areas) => {
            let tests = match tests {
                Some(tests) => tests,
                None => tests.insert(built::build()?),
            };
            built::run(tests, areas)
        }
    }
}

fn run_cargo(args: &[String], env: &[(&'static str, String)]) -> Outcome {
    let line = format!("cargo {}", args.join(" "));
    println!("--- {line}");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(args)
        .envs(env.iter().map(|(key, value)| (key, value)))
        .current_dir(root())
        .status()
        .map_err(|error| format!("`{line}` did not start: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{line}`: {status}"))
    }
}

/// Runs `line` by this program, on the binaries beside the tests: no second build with other features.
fn run_self(line: &str) -> Outcome {
    println!("--- cargo xtask {line}");
    // By no path: the build of the tests may have replaced the file meanwhile.
    let status = Command::new("/proc/self/exe")
        .args(line.split_whitespace())
        .arg("--bin-dir")
        .arg(target_dir().join("debug"))
        .current_dir(root())
        .status();
    let status = ctx(status, "starting this program again")?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`cargo xtask {line}`: {status}"))
    }
}
