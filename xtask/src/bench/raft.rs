//! `cargo xtask bench raft`: three `raft-node` processes beside three nodes of etcd and three of openraft with a durable log on fjall.
//!
//! Each cluster is three processes on this machine and this disk, every reply behind a sync on two of them. One client program
//! (`benches/rivals`, `cluster-load`) puts into all by the protocol of each, at the leader. The clusters run all the time and
//! take short turns, each time in another order. Before and after each turn of ours the nodes are asked how many groups their logs
//! have written, and how many syncs those took: the two have to be the same.
//!
//! Clients of etcd and of ours take turns in both ways: a connection each, and 16 on one, as etcd's protocol is meant.

use super::log::{OURS, Process, Samples, case_result, print_case, write};
use super::{Machine, installed, output_of};
use crate::node::{REPLY_MAX, Workspace, free_port, info_field, output_file};
use crate::resp::Client;
use crate::{Outcome, ctx, root, target_dir};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Options of the clusters' benchmark.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Raft {
    /// Three rounds instead of five.
    #[arg(long)]
    quick: bool,
    /// Where the results are written; a picture (SVG) and tables (Markdown) go beside it. Default: bench-raft.json in the target directory.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Clients, each with one put under way (may be given several times). Default: 1, 64, 256, 1024.
    #[arg(long, value_name = "N")]
    clients: Vec<usize>,
    /// Only clusters whose name contains this (may be given several times).
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Rounds; medians are printed. Default: 5, with --quick 3.
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of a turn.
    #[arg(long, default_value_t = 2000, value_name = "MILLIS")]
    turn: u64,
}

/// Bytes of a value.
const VALUE_BYTES: usize = 256;
const NODES: usize = 3;
const OPENRAFT: &str = "openraft on fjall";
const ETCD: &str = "etcd";
/// (cluster, its name with clients that share connections, the protocol of those).
const SHARED: [(&str, &str, &str); 2] = [
    (OURS, "Esker, shared", "resp-shared"),
    (ETCD, "etcd, shared", "etcd-shared"),
];

/// The processes of a cluster. Dropped, they are killed.
struct Cluster {
    name: &'static str,
    protocol: &'static str,
    /// Where clients connect.
    endpoints: Vec<String>,
    nodes: Vec<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // It may have ended by itself.
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

fn spawn(mut command: Command, output: &Path) -> Outcome<Child> {
    command.stdin(Stdio::null()).stdout(output_file(output)?);
    let errors = output_file(&output.with_extension("err"))?;
    ctx(
        command.stderr(errors).spawn(),
        command.get_program().display(),
    )
}

fn ports() -> Vec<u16> {
    (0..NODES).map(|_| free_port()).collect()
}

fn raft_nodes(dir: &Path) -> Outcome<Cluster> {
    let binary = target_dir().join("release/raft-node");
    let (clients, members) = (ports(), ports());
    let cluster: Vec<String> = (members.iter().zip(1..))
        .map(|(port, id)| format!("{id}=tcp://127.0.0.1:{port}"))
        .collect();
    let mut nodes = Vec::new();
    for (at, port) in clients.iter().enumerate() {
        let mut command = Command::new(&binary);
        command.args([
            "--bootstrap",
            "--id",
            &(at + 1).to_string(),
            "--cluster",
            &cluster.join(","),
        ]);
        command.args([
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--max-clients",
            "2000",
        ]);
        command
            .arg("--data-dir")
            .arg(dir.join(format!("esker-{at}")));
        nodes.push(spawn(command, &dir.join(format!("esker-{at}.out")))?);
    }
    Ok(Cluster {
        name: OURS,
        protocol: "resp",
        endpoints: clients
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect(),
        nodes,
    })
}

fn etcd_nodes(dir: &Path) -> Outcome<Cluster> {
    let (clients, members) = (ports(), ports());
    let cluster: Vec<String> = (members.iter().enumerate())
        .map(|(at, port)| format!("n{at}=http://127.0.0.1:{port}"))
        .collect();
    let mut nodes = Vec::new();
    for (at, port) in clients.iter().enumerate() {
        let (client, member) = (
            format!("http://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{}", members[at]),
        );
        let mut command = Command::new("etcd");
        command.args([
            "--name",
            &format!("n{at}"),
            "--log-level",
            "error",
            "--logger",
            "zap",
        ]);
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.args([
            "--listen-peer-urls",
            &member,
            "--initial-advertise-peer-urls",
            &member,
        ]);
        command.args([
            "--initial-cluster",
            &cluster.join(","),
            "--initial-cluster-state",
            "new",
        ]);
        command
            .arg("--data-dir")
            .arg(dir.join(format!("etcd-{at}")));
        nodes.push(spawn(command, &dir.join(format!("etcd-{at}.out")))?);
    }
    Ok(Cluster {
        name: ETCD,
        protocol: "etcd",
        endpoints: clients
            .iter()
            .map(|port| format!("http://127.0.0.1:{port}"))
            .collect(),
        nodes,
    })
}

/// See `benches/rivals/src/clusters/openraft`.
fn openraft_nodes(programs: &Path, dir: &Path) -> Outcome<Cluster> {
    let address = |port: &u16| format!("127.0.0.1:{port}");
    let endpoints: Vec<String> = ports().iter().map(address).collect();
    let members: Vec<String> = ports().iter().map(address).collect();
    let mut nodes = Vec::new();
    for (at, client) in endpoints.iter().enumerate() {
        let mut command = Command::new(programs.join("openraft-node"));
        command.arg(at.to_string());
        command.arg(dir.join(format!("openraft-{at}")));
        command.args([client, &members.join(",")]);
        nodes.push(spawn(command, &dir.join(format!("openraft-{at}.out")))?);
    }
    Ok(Cluster {
        name: OPENRAFT,
        protocol: "resp",
        endpoints,
        nodes,
    })
}

impl Cluster {
    /// Groups written and syncs of each node's log, of ours alone.
    fn syncs(&self) -> Outcome<Vec<(u64, u64)>> {
        let mut all = Vec::new();
        for endpoint in &self.endpoints {
            let addr: SocketAddr = ctx(endpoint.parse(), endpoint)?;
            let mut client = ctx(Client::connect(addr, REPLY_MAX), endpoint)?;
            let info = ctx(client.line("INFO raft"), "INFO")?.text();
            let number = |field: &str| -> Outcome<u64> {
                let found = info_field(&info, field).and_then(|text| text.parse().ok());
                found.ok_or_else(|| format!("INFO raft of {endpoint} has no {field}"))
            };
            all.push((number("raft_log_groups")?, number("raft_log_syncs")?));
        }
        Ok(all)
    }
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Builds node and client.
fn build() -> Outcome<PathBuf> {
    if !installed("protoc", "protobuf-compiler") {
        return Err(
            "the client of etcd needs protoc to be built: apt-get install protobuf-compiler".into(),
        );
    }
    let mut node = cargo();
    node.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "esker-server",
        "--bin",
        "raft-node",
    ])
    .current_dir(root());
    let target = target_dir().join("rivals");
    let mut client = cargo();
    client
        .args([
            "build",
            "--quiet",
            "--release",
            "--features",
            "clusters",
            "--bin",
            "rivals",
            "--bin",
            "cluster-load",
            "--bin",
            "openraft-node",
        ])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root().join("benches/rivals"));
    for mut command in [node, client] {
        if !ctx(command.status(), "cargo build")?.success() {
            return Err("raft-node or benches/rivals does not build".into());
        }
    }
    Ok(target.join("release"))
}

/// Runs it.
pub fn raft(options: &Raft) -> Outcome {
    let programs = build()?;
    let etcd = installed("etcd", "etcd-server");
    let machine = Machine::here("ordinary")?;
    machine.print();
    if !etcd {
        println!("etcd: LEFT OUT, it is not installed (apt-get install etcd-server)");
    }
    let workspace = Workspace::new("bench-raft")?;
    let run = run(options, &programs, etcd, &machine, workspace.path());
    workspace.finish(run)
}

fn run(options: &Raft, programs: &Path, etcd: bool, machine: &Machine, dir: &Path) -> Outcome {
    let wanted = |name: &str| {
        options.only.is_empty() || options.only.iter().any(|part| name.contains(part.as_str()))
    };
    let mut clusters = Vec::new();
    // (name, which of the clusters, protocol)
    let mut sides = Vec::new();
    if wanted(OURS) {
        clusters.push(raft_nodes(dir)?);
    }
    if etcd && wanted(ETCD) {
        clusters.push(etcd_nodes(dir)?);
    }
    if wanted(OPENRAFT) {
        clusters.push(openraft_nodes(programs, dir)?);
    }
    for (at, cluster) in clusters.iter().enumerate() {
        sides.push((cluster.name, at, cluster.protocol));
        let shared = SHARED.iter().find(|(name, ..)| *name == cluster.name);
        sides.extend(shared.map(|(_, name, protocol)| (*name, at, *protocol)));
    }
    let about = [
        format!("{OURS}: raft-node, defaults; RESP, a connection per client"),
        format!(
            "{ETCD}: {}, defaults; gRPC, a connection per client",
            output_of("etcd", &["--version"])
                .lines()
                .next()
                .unwrap_or("not installed")
        ),
        format!(
            "{OPENRAFT}: 0.10.0-alpha.37, a log on fjall with persist(SyncAll) per group of appends, the state in memory; RESP, a connection per client"
        ),
        "shared: the same nodes, 16 clients per connection".to_owned(),
    ];
    about.iter().for_each(|line| println!("{line}"));
    let rounds = options
        .rounds
        .unwrap_or(if options.quick { 3 } else { 5 })
        .max(1);
    let counts = match options.clients.is_empty() {
        true => vec![1, 64, 256, 1024],
        false => options.clients.clone(),
    };
    let mut results = Vec::new();
    for clients in counts {
        let load = programs.join("cluster-load");
        // One client shares with nobody.
        let sides: Vec<_> = (sides.iter())
            .filter(|(name, ..)| clients > 1 || SHARED.iter().all(|(_, shared, _)| name != shared))
            .collect();
        let mut samples: Vec<Samples> = sides.iter().map(|_| Samples::default()).collect();
        let mut loads = Vec::new();
        for (_, at, protocol) in &sides {
            loads.push(connect(&load, &clusters[*at], protocol, clients)?);
        }
        for load in &mut loads {
            // The first puts of a connection, and whatever the cluster does for the first time.
            load.say("turn 300")?;
        }
        let mut groups = vec![(0, 0); NODES];
        for round in 0..rounds {
            for at in 0..sides.len() {
                let at = (at + round) % sides.len();
                let cluster = &clusters[sides[at].1];
                let ours = cluster.name == OURS;
                let before = if ours { cluster.syncs()? } else { Vec::new() };
                let answer = loads[at].say(&format!("turn {}", options.turn))?;
                if ours {
                    for (node, (after, before)) in cluster.syncs()?.iter().zip(before).enumerate() {
                        groups[node].0 += after.0 - before.0;
                        groups[node].1 += after.1 - before.1;
                    }
                }
                match (answer["puts"].as_f64(), answer["nanos"].as_f64()) {
                    (Some(puts), Some(nanos)) => samples[at].main.push(puts / nanos * 1e9),
                    _ => return Err(format!("the client answered {answer}")),
                }
            }
        }
        for (load, samples) in loads.iter_mut().zip(&mut samples) {
            samples.others.push(load.say("end")?);
        }
        let named: Vec<(&str, &Samples)> =
            sides.iter().map(|(name, ..)| *name).zip(&samples).collect();
        let mut result = case_result(&format!("puts/{clients}-clients"), "puts/s", true, &named);
        result["groups"] = groups
            .iter()
            .map(|(groups, syncs)| json!({ "groups": groups, "syncs": syncs }))
            .collect();
        print_case(&result);
        for (node, (groups, syncs)) in (1..).zip(&groups) {
            println!("node {node}: {groups} groups written to its log, {syncs} syncs");
        }
        results.push(result);
    }
    let command: Vec<String> = std::env::args().skip(1).collect();
    let whole = json!({
        "command": format!("cargo xtask {}", command.join(" ")),
        "machine": machine.json(),
        "rounds": rounds,
        "engines": about,
        "cases": results,
    });
    let json = options
        .json
        .clone()
        .unwrap_or_else(|| target_dir().join("bench-raft.json"));
    write(&json, &programs.join("rivals"), &whole, &["puts"])
}

/// A client program that is connected to the leader.
fn connect(program: &Path, cluster: &Cluster, protocol: &str, clients: usize) -> Outcome<Process> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let mut command = Command::new(program);
        command.args([
            protocol,
            &cluster.endpoints.join(","),
            &clients.to_string(),
            &VALUE_BYTES.to_string(),
        ]);
        let error = match Process::spawn(command, None) {
            Ok(mut process) => match process.answer("connecting") {
                Ok(_) => return Ok(process),
                Err(error) => error,
            },
            Err(error) => error,
        };
        // It may have no leader yet.
        if Instant::now() > end {
            return Err(format!("{} can't be reached: {error}", cluster.name));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
