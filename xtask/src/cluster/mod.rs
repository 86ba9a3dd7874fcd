//! Members of a Raft cluster as processes: `raft-node` on free ports, each behind a proxy, started, killed, stopped and asked.

mod proxy;

use crate::node::{free_port, info_field};
use crate::resp::Client;
use crate::{Outcome, ctx};
use proxy::Network;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take to come about once all is well again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Cluster {
    binary: PathBuf,
    dir: PathBuf,
    /// The links between them.
    pub(crate) network: Network,
    /// Ports for clients.
    pub(crate) clients: Vec<u16>,
    pub(crate) children: Vec<Option<Child>>,
    /// Stopped by SIGSTOP.
    pub(crate) paused: BTreeSet<usize>,
    /// Shortest election timeout, in milliseconds.
    pub(crate) election: u64,
    /// Where a node's data lies that don't lie beside the others'.
    pub(crate) elsewhere: BTreeMap<usize, PathBuf>,
    /// So many are in the first membership; the rest join.
    pub(crate) first: usize,
    /// Further flags.
    pub(crate) flags: Vec<String>,
}

/// Small, so that segments are recycled, memtables flushed and tables compacted all the time.
const SMALL: &[&str] = &[
    "--request-timeout",
    "2s",
    "--segment-size",
    "4MiB",
    "--memtable-size",
    "4MiB",
    "--cache-size",
    "8MiB",
];

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Cluster {
    /// None of them runs yet.
    pub(crate) fn new(
        binary: &Path,
        dir: &Path,
        members: usize,
        election: u64,
    ) -> Outcome<Cluster> {
        Ok(Cluster {
            binary: binary.to_path_buf(),
            dir: dir.to_path_buf(),
            network: Network::new(members)?,
            clients: (0..members).map(|_| free_port()).collect(),
            children: (0..members).map(|_| None).collect(),
            paused: BTreeSet::new(),
            election,
            elsewhere: BTreeMap::new(),
            first: members,
            flags: SMALL.iter().map(|flag| (*flag).to_owned()).collect(),
        })
    }

    pub(crate) fn start(&mut self, at: usize, more: &[&str]) -> Outcome {
        let members: Vec<String> = (self.network.public.iter().enumerate())
            .filter(|(member, _)| *member < self.first || *member == at)
            .map(|(member, port)| format!("{}=tcp://127.0.0.1:{port}", member + 1))
            .collect();
        let output = self.dir.join(format!("n{}.out", at + 1));
        let output = OpenOptions::new().create(true).append(true).open(output);
        let output = ctx(output, "output file")?;
        let beside = self.dir.join(format!("n{}", at + 1));
        let child = Command::new(&self.binary)
            .args([
                "--id",
                &(at + 1).to_string(),
                "--cluster",
                &members.join(","),
            ])
            .args([
                "--member-listen",
                &format!("tcp://127.0.0.1:{}", self.network.own[at]),
            ])
            .args(["--listen", &format!("127.0.0.1:{}", self.clients[at])])
            .args(["--election-timeout", &format!("{}ms", self.election)])
            .args(&self.flags)
            .arg("--data-dir")
            .arg(self.elsewhere.get(&at).unwrap_or(&beside))
            .args(more)
            .stdin(Stdio::null())
            .stderr(ctx(output.try_clone(), "output file")?)
            .stdout(output)
            .spawn();
        let child = ctx(child, self.binary.display())?;
        self.network.runs(at, child.id());
        self.children[at] = Some(child);
        Ok(())
    }

    pub(crate) fn kill(&mut self, at: usize) -> Outcome {
        self.paused.remove(&at);
        if let Some(mut child) = self.children[at].take() {
            ctx(child.kill(), "kill -9")?;
            ctx(child.wait(), "wait")?;
        }
        Ok(())
    }

    pub(crate) fn signal(&self, at: usize, signal: Signal) -> Outcome {
        let Some(child) = &self.children[at] else {
            return Ok(());
        };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        ctx(
            kill_process(pid.ok_or("a process id out of range")?, signal),
            "kill",
        )
    }

    /// An error if one has ended by itself.
    pub(crate) fn all_live(&mut self) -> Outcome {
        for (at, child) in self.children.iter_mut().enumerate() {
            if let Some(child) = child
                && let Some(status) = ctx(child.try_wait(), "wait")?
            {
                return Err(format!("node {} ended by itself: {status}", at + 1));
            }
        }
        Ok(())
    }

    pub(crate) fn connect(&self, at: usize, timeout: Duration) -> Option<Client> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.clients[at]));
        Client::connect(address, timeout).ok()
    }

    /// Who leads, by the words of one that says so of itself.
    pub(crate) fn leader(&self) -> Option<usize> {
        (0..self.children.len()).find(|at| {
            let ask = || {
                let mut client = self.connect(*at, Duration::from_millis(500))?;
                let info = client.line("INFO raft").ok()?.text();
                Some(
                    info_field(&info, "raft_leader")? == (at + 1).to_string()
                        && info_field(&info, "raft_role").is_none_or(|role| role == "leader"),
                )
            };
            let up = self.children[*at].is_some() && !self.paused.contains(at);
            up && ask().unwrap_or(false)
        })
    }

    /// Who leads, if all others follow it.
    pub(crate) fn whole(&self) -> Option<usize> {
        let leader = self.leader()?;
        let follows = |at: usize| {
            let mut client = self.connect(at, Duration::from_millis(500))?;
            let info = client.line("INFO raft").ok()?.text();
            (info_field(&info, "raft_leader")? == (leader + 1).to_string()).then_some(())
        };
        (0..self.children.len())
            .all(|at| follows(at).is_some())
            .then_some(leader)
    }

    /// Prints what each says of itself.
    pub(crate) fn explain(&self) {
        for at in 0..self.children.len() {
            let said = || {
                let mut client = self.connect(at, Duration::from_millis(500))?;
                let info = client.line("INFO raft").ok()?.text();
                info_field(&info, "raft_explanation")
            };
            println!(
                "         {}",
                said().unwrap_or_else(|| format!("node {} does not answer", at + 1))
            );
        }
    }

    pub(crate) fn some_leader(&self) -> Outcome<usize> {
        eventually("a leader", || self.leader())
    }

    /// All is well again.
    pub(crate) fn heal(&mut self) -> Outcome {
        self.network.heal();
        for at in std::mem::take(&mut self.paused) {
            self.signal(at, Signal::CONT)?;
        }
        for at in 0..self.children.len() {
            if self.children[at].is_none() {
                self.start(at, &[])?;
            }
        }
        Ok(())
    }
}

/// Waits for something that is due.
pub(crate) fn eventually<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> Outcome<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = get() {
            return Ok(value);
        }
        if Instant::now() > end {
            return Err(format!("{what} did not come about within {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(4));
    }
}
