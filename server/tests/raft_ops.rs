//! What operators have beside `raft-node`: its metrics, `esker cluster status`, `esker cluster recover`; on real processes.

use process::{PATIENCE, eventually, free_port};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

#[path = "support/process.rs"]
mod process;

struct Ports {
    clients: u16,
    members: u16,
    metrics: u16,
}

struct Nodes {
    dir: tempfile::TempDir,
    ports: BTreeMap<u16, Ports>,
    children: BTreeMap<u16, Child>,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Nodes {
    fn new() -> Nodes {
        let ports = |id| {
            let ports = Ports {
                clients: free_port(),
                members: free_port(),
                metrics: free_port(),
            };
            (id, ports)
        };
        Nodes {
            dir: tempfile::tempdir().unwrap(),
            ports: (1..=4).map(ports).collect(),
            children: BTreeMap::new(),
        }
    }

    fn dir(&self, id: u16) -> String {
        format!("{}/n{id}", self.dir.path().display())
    }

    fn command(&self, id: u16, more: &[&str]) -> Command {
        let address = |id| format!("{id}=tcp://127.0.0.1:{}", self.ports[&id].members);
        let mut members: Vec<String> = (1..=3).map(address).collect();
        if id > 3 {
            members = vec![address(id)];
        }
        let ports = &self.ports[&id];
        let mut command = Command::new(env!("CARGO_BIN_EXE_raft-node"));
        command
            .args(["--id", &id.to_string(), "--cluster", &members.join(",")])
            .args(["--listen", &ports.clients.to_string()])
            .args(["--metrics-listen", &ports.metrics.to_string()])
            .args(["--data-dir", &self.dir(id), "--election-timeout", "1s"])
            .args(["--segment-size", "1MiB", "--memtable-size", "1MiB"])
            .args(["--request-timeout", "2s"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    fn start(&mut self, id: u16, more: &[&str]) {
        let mut command = self.command(id, more);
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        self.children.insert(id, child);
    }

    fn kill(&mut self, id: u16) {
        let mut child = self.children.remove(&id).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn address(&self, id: u16) -> String {
        format!("127.0.0.1:{}", self.ports[&id].clients)
    }

    /// Of a command; in RESP, its first line, or the text of a string.
    fn ask(&self, id: u16, line: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[&id].clients)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{line}\r\n").ok()?;
        let mut replies = BufReader::new(stream).lines();
        let first = replies.next()?.ok()?;
        match first.starts_with('$') && first != "$-1" {
            true => replies.next()?.ok(),
            false => Some(first),
        }
    }

    fn says(&self, id: u16, line: &str, expected: &str) {
        eventually(line, || {
            let reply = self.ask(id, line)?;
            let late = reply.starts_with("-CLUSTERDOWN") || reply.starts_with("-UNKNOWNOUTCOME");
            if !late {
                assert_eq!(reply, expected, "{line} at node {id}");
            }
            (!late).then_some(())
        });
    }

    /// Status line and body.
    fn http(&self, id: u16, page: &str) -> Option<(String, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[&id].metrics)).ok()?;
        write!(stream, "GET /{page} HTTP/1.1\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.lines().next()?.to_owned(), body.to_owned()))
    }
}

fn esker(args: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_esker"));
    let Output {
        status,
        stdout,
        stderr,
    } = command.arg("cluster").args(args).output().unwrap();
    let text = [stdout, stderr].concat();
    (
        status.code().unwrap(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// What is said of these, and the exit code.
fn status(nodes: &Nodes, of: &[u16]) -> (i32, serde_json::Value) {
    let addresses: Vec<String> = of.iter().map(|id| nodes.address(*id)).collect();
    let (code, text) = esker(&["status", &addresses.join(","), "--json"]);
    (code, serde_json::from_str(&text).unwrap())
}

/// Who leads by what these say, once the exit code says that all is well.
fn leader(nodes: &Nodes, of: &[u16]) -> u16 {
    eventually("a leader", || {
        let (code, seen) = status(nodes, of);
        let leader = seen["leader"].as_u64().map(|id| id as u16);
        leader.filter(|id| code == 0 && of.contains(id))
    })
}

fn value(page: &str, name: &str) -> Option<f64> {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line?.parse().ok()
}

#[test]
fn a_cluster_is_seen_from_outside_and_goes_on_with_one_when_two_are_lost() {
    let mut nodes = Nodes::new();
    for id in 1..=3 {
        nodes.start(id, &["--bootstrap"]);
    }
    let first = leader(&nodes, &[1, 2, 3]);
    let others: Vec<u16> = (1..=3).filter(|id| *id != first).collect();
    for n in 0..30 {
        nodes.says(first, &format!("SET k{n} v{n}"), "+OK");
    }

    // One address leads to the others, once the leader has told the cluster its own.
    let (_, text) = eventually("the leader's address", || {
        let seen = esker(&["status", &nodes.address(others[0])]);
        (seen.0 == 0).then_some(seen)
    });
    let says = format!("node {first} leads in term ");
    assert!(
        text.contains(&says) && text.contains("3 of 3 voters are up"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 5, "{text}");

    let (_, page) = nodes.http(first, "metrics").unwrap();
    for stage in ["appended", "synced", "committed", "applied"] {
        let counted = value(&page, &format!("esker_raft_{stage}_seconds_count"));
        assert!(counted >= Some(30.0), "{stage}: {counted:?}\n{page}");
    }
    for (name, at_least) in [
        ("esker_raft_committed_index", 30.0),
        ("esker_raft_log_syncs_total", 30.0),
        ("esker_raft_log_groups_total", 30.0),
        ("esker_commands_total", 30.0),
        ("esker_raft_role{role=\"leader\"}", 1.0),
        ("esker_raft_leader", f64::from(first)),
        ("esker_raft_voters", 3.0),
    ] {
        assert!(value(&page, name) >= Some(at_least), "{name}\n{page}");
    }
    let peer = |name: &str| format!("esker_raft_peer_{name}{{peer=\"{}\"}}", others[0]);
    assert!(value(&page, &peer("matched_index")) >= Some(30.0), "{page}");
    assert_eq!(value(&page, &peer("paused")), Some(0.0), "{page}");
    for id in 1..=3 {
        let ready = || nodes.http(id, "readyz");
        eventually("a ready node", || ready()?.0.contains("200").then_some(()));
        assert!(nodes.http(id, "healthz").unwrap().0.contains("200"));
    }

    for id in &others {
        nodes.kill(*id);
    }
    eventually("no leader", || {
        let (code, text) = esker(&["status", &nodes.address(first)]);
        (code == 1 && text.contains("no quorum")).then_some(())
    });
    let (code, text) = esker(&["status", &nodes.address(others[0])]);
    assert_eq!(code, 2, "{text}");
    // It is seen from outside before the leader gives up.
    eventually("a node that is not ready", || {
        let (head, why) = nodes.http(first, "readyz")?;
        (head.contains("503") && why.contains("no leader")).then_some(())
    });
    assert!(nodes.http(first, "healthz").unwrap().0.contains("200"));

    let (dir, id) = (nodes.dir(first), first.to_string());
    let recover = |more: &[&str]| esker(&[&["recover", &dir, "--id", &id], more].concat());
    let accept = &["--i-accept-data-loss"];
    let (code, text) = recover(accept);
    assert!(code == 2 && text.contains("stop the node first"), "{text}");
    nodes.kill(first);
    let (code, text) = esker(&["recover", &dir, "--id", "9"]);
    assert!(code == 2 && text.contains(&format!("--id {id}")), "{text}");
    let (code, text) = recover(&[]);
    assert!(code == 1 && text.contains("Nothing was changed"), "{text}");
    for words in ["given up:", "committed:", "kept:", "are gone", "old disks"] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let (code, text) = recover(accept);
    assert!(code == 0 && text.contains("Done"), "{text}");
    let incarnation = text.split("--incarnation ").nth(1).unwrap();
    let incarnation = incarnation.split(' ').next().unwrap().to_owned();
    let (code, text) = recover(accept);
    assert!(code == 2 && text.contains("only voter already"), "{text}");

    // With the command line that it always had.
    nodes.start(first, &[]);
    assert_eq!(leader(&nodes, &[first]), first);
    for n in 0..30 {
        nodes.says(first, &format!("GET k{n}"), &format!("v{n}"));
    }
    nodes.says(first, "SET after 1", "+OK");
    // The others come back against all advice, and lead each other.
    for id in &others {
        nodes.start(*id, &[]);
    }
    let old = eventually("a leader among the others", || {
        let (_, seen) = status(&nodes, &others);
        let leads = |id: &&u16| {
            let mut rows = seen["nodes"].as_array().into_iter().flatten();
            rows.any(|row| row["node"] == **id && row["role"] == "leader")
        };
        others.iter().find(leads).copied()
    });
    nodes.says(old, "SET old 1", "+OK");
    nodes.says(first, "GET old", "$-1");
    nodes.says(old, "GET after", "$-1");
    assert_eq!(leader(&nodes, &[first]), first);
    // As members of what is left they are refused.
    nodes.kill(others[0]);
    let told = ["--incarnation", &incarnation];
    let refused = nodes.command(others[0], &told).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && text.contains("was given up"),
        "{text}"
    );
    // An empty one joins.
    nodes.start(4, &["--join", "--incarnation", &incarnation]);
    let add = format!("RAFT.ADD 4 tcp://127.0.0.1:{}", nodes.ports[&4].members);
    eventually("a member", || {
        (nodes.ask(first, &add)? == "+OK").then_some(())
    });
    nodes.says(4, "GET after", "1");
    nodes.says(4, "GET k29", "v29");
}

#[test]
fn a_port_for_metrics_that_is_taken_is_said_and_only_the_default_one_is_done_without() {
    let mut nodes = Nodes::new();
    let taken = TcpListener::bind(("127.0.0.1", nodes.ports[&1].metrics)).unwrap();
    let refused = nodes.command(1, &["--bootstrap"]).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && text.contains("choose another with --metrics-listen"),
        "{text}"
    );
    drop(taken);
    // Taken by this test, or by somebody else.
    let _default = TcpListener::bind("127.0.0.1:9191");
    let ports = &nodes.ports[&1];
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft-node"));
    command
        .args(["--id", "1", "--bootstrap", "--data-dir", &nodes.dir(1)])
        .args(["--cluster", &format!("1=tcp://127.0.0.1:{}", ports.members)])
        .args(["--listen", &ports.clients.to_string()])
        .args(["--segment-size", "1MiB", "--memtable-size", "1MiB"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    nodes.children.insert(1, child);
    nodes.says(1, "SET a 1", "+OK");
    let mut child = nodes.children.remove(&1).unwrap();
    child.kill().unwrap();
    let said = child.wait_with_output().unwrap().stderr;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("serves no metrics"), "{said}");
}
