//! What operators ask of a node: `RAFT.*`, INFO, and what the connection commands need of the server.

use super::front::{Shared, error_text};
use super::slots::OnFollower;
use crate::commands::{REDIS_VERSION, glob_matches};
use crate::{Ack, ClientInfo, Reply, RoleView, ServerControl, Session, WriteRefusal};
use esker_raft::core::{NodeId, RoleName};
use esker_raft::runtime::{About, Outcome, ProposeError, Status};
use esker_wal::Lsn;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long an order to hand leadership over is watched.
const TRANSFER_TIME_MAX: Duration = Duration::from_secs(3);
const USAGE: &str = "ERR use RAFT.STATUS, RAFT.ADD <id> <tcp://host:port> [<client host:port>], RAFT.ADD-LEARNER (the same), \
                     RAFT.PROMOTE <id>, RAFT.REMOVE <id>, RAFT.TRANSFER <id>, RAFT.SNAPSHOT";

/// The words of a command to the cluster, the first in upper case: `RAFT.ADD 4 ...` and `RAFT ADD 4 ...` are the same.
pub(super) fn words(argv: &[&[u8]]) -> Option<Vec<String>> {
    // Most commands are none of these.
    if !(argv.first()?.get(..4)?).eq_ignore_ascii_case(b"RAFT") {
        return None;
    }
    let mut words: Vec<String> = argv
        .iter()
        .map(|word| String::from_utf8_lossy(&word[..word.len().min(512)]).into_owned())
        .take(6)
        .collect();
    let name = words.first()?.to_ascii_uppercase();
    if name == "RAFT" {
        words.remove(0);
        let name = words
            .first()
            .map_or(String::new(), |name| name.to_ascii_uppercase());
        match words.first_mut() {
            Some(word) => *word = name,
            None => words.push(name),
        }
    } else {
        words[0] = name.strip_prefix("RAFT.")?.to_owned();
    }
    Some(words)
}

fn node(word: &str) -> Option<NodeId> {
    word.parse().ok().filter(|id| *id > 0).map(NodeId)
}

pub(super) fn run(shared: &Shared, words: &[String], out: &mut Reply) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let handle = &shared.handle;
    match words[..] {
        ["STATUS"] => match handle.status() {
            Some(status) => {
                let pairs = pairs(shared, &status);
                out.map(pairs.len());
                for (name, value) in &pairs {
                    out.bulk(name.as_bytes());
                    out.bulk(value.as_bytes());
                }
            }
            None => down(shared, out),
        },
        [how @ ("ADD" | "ADD-LEARNER"), id, address, ref client @ ..] if client.len() <= 1 => {
            let Some(id) = node(id) else {
                return out.error(USAGE);
            };
            if !address.starts_with("tcp://") {
                return out.error("ERR a member's address is written tcp://HOST:PORT");
            }
            let about = About::at(address, client.first().copied().unwrap_or(""));
            told(
                out,
                match how {
                    "ADD" => handle.add_voter(id, &about),
                    _ => handle.add_learner(id, &about),
                },
            );
        }
        ["PROMOTE", id] => {
            let Some(id) = node(id) else {
                return out.error(USAGE);
            };
            let Some(status) = handle.status() else {
                return down(shared, out);
            };
            if !status.membership.learners.contains(&id) {
                return out.error(&format!("ERR node {id} is no learner; RAFT.STATUS shows who is, as far as this node knows"));
            }
            // A learner keeps what is known of it.
            told(out, handle.add_voter(id, &About::default()));
        }
        ["REMOVE", id] => match node(id) {
            Some(id) => told(out, handle.remove(id)),
            None => out.error(USAGE),
        },
        ["TRANSFER", id] => match node(id) {
            Some(id) => transfer(shared, id, out),
            None => out.error(USAGE),
        },
        ["SNAPSHOT"] => match handle.checkpoint() {
            Ok(index) => out.integer(i64::try_from(index.0).unwrap_or(i64::MAX)),
            Err(why) => out.error(&format!("ERR no snapshot was taken: {why}")),
        },
        _ => out.error(USAGE),
    }
}

fn down(shared: &Shared, out: &mut Reply) {
    let why = shared
        .handle
        .down()
        .unwrap_or_else(|| "it is stopping".into());
    out.error(&format!("CLUSTERDOWN this node is down: {why}"));
}

fn told(out: &mut Reply, outcome: Outcome) {
    match outcome {
        Ok(_) => out.ok(),
        Err(error @ ProposeError::NotAppended { .. }) => out.error(&format!("ERR {error}")),
        Err(error) => out.error(&error_text(&error)),
    }
}

fn transfer(shared: &Shared, to: NodeId, out: &mut Reply) {
    let handle = &shared.handle;
    let Some(status) = handle.status() else {
        return down(shared, out);
    };
    if status.role != RoleName::Leader {
        let leads = handle
            .leader()
            .map_or("nobody is known to lead".into(), |leader| {
                format!("node {} at {} leads", leader.node, leader.client)
            });
        return out.error(&format!("ERR this node does not lead; {leads}"));
    }
    if !status.membership.voters.contains(&to) {
        return out.error(&format!("ERR node {to} does not vote, so it can't lead"));
    }
    if let Err(error) = handle.transfer(to) {
        return out.error(&error_text(&error));
    }
    let end = Instant::now() + TRANSFER_TIME_MAX;
    while Instant::now() < end && !shared.stopping.load(Ordering::Relaxed) {
        if handle.leader().is_some_and(|leader| leader.node == to) {
            return out.ok();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    out.error(&format!(
        "ERR leadership did not go to node {to} in time; RAFT.STATUS says who leads"
    ));
}

fn ids<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    let ids: Vec<String> = nodes.into_iter().map(ToString::to_string).collect();
    ids.join(",")
}

fn pairs(shared: &Shared, status: &Status) -> Vec<(String, String)> {
    let leader = shared.handle.leader();
    let stages = shared.handle.stages();
    let fixed: [(&str, String); 27] = [
        ("raft_node", status.node.to_string()),
        ("raft_role", super::metrics::role_name(status.role).into()),
        ("raft_term", status.term.0.to_string()),
        (
            "raft_leader",
            leader
                .as_ref()
                .map_or(String::new(), |leader| leader.node.to_string()),
        ),
        (
            "raft_leader_client",
            leader.map_or(String::new(), |leader| leader.client),
        ),
        ("raft_last_index", status.last.index.0.to_string()),
        ("raft_synced_index", status.synced.0.to_string()),
        ("raft_committed_index", status.committed.0.to_string()),
        ("raft_applied_index", status.applied.0.to_string()),
        ("raft_durable_index", status.durable.0.to_string()),
        ("raft_log_begins_behind", status.base.index.0.to_string()),
        ("raft_log_groups", status.log_groups.to_string()),
        ("raft_log_syncs", status.log_syncs.to_string()),
        ("raft_incarnation", status.incarnation.to_string()),
        ("raft_voters", ids(&status.membership.voters)),
        ("raft_outgoing_voters", ids(&status.membership.outgoing)),
        ("raft_learners", ids(&status.membership.learners)),
        ("raft_abstains", u8::from(status.abstains).to_string()),
        ("raft_disk_full", u8::from(status.disk_full).to_string()),
        ("raft_disk_hangs", u8::from(status.disk_hangs).to_string()),
        ("raft_proposals", stages.applied.count().to_string()),
        (
            "raft_appended_p99_us",
            stages.appended.percentile(99.0).to_string(),
        ),
        (
            "raft_synced_p99_us",
            stages.synced.percentile(99.0).to_string(),
        ),
        (
            "raft_committed_p99_us",
            stages.committed.percentile(99.0).to_string(),
        ),
        (
            "raft_applied_p99_us",
            stages.applied.percentile(99.0).to_string(),
        ),
        (
            "raft_explanation",
            status.explanation.replace(['\r', '\n'], " "),
        ),
        ("raft_peers", status.peers.len().to_string()),
    ];
    let mut pairs: Vec<_> = fixed.map(|(name, value)| (name.to_owned(), value)).into();
    for id in status.membership.members() {
        let known = status.membership.about.get(&id);
        let about = known
            .and_then(|about| About::decode(about).ok())
            .unwrap_or_default();
        pairs.push((
            format!("raft_member{id}"),
            format!("client={},address={}", about.client, about.address),
        ));
    }
    for peer in &status.peers {
        pairs.push((
            format!("raft_peer{}", peer.node),
            format!(
                "state={},matched={},paused={}",
                peer.state,
                peer.matched.0,
                peer.paused.unwrap_or("no")
            ),
        ));
    }
    pairs
}

impl ServerControl for Shared {
    fn write_gate(&self) -> Result<(), WriteRefusal> {
        Ok(())
    }

    fn read_at(&self) -> Option<Lsn> {
        None
    }

    fn role(&self) -> RoleView {
        let offset = Lsn(self.reader.applied().0);
        match self.handle.leader() {
            Some(leader) if leader.node == self.node => RoleView::Primary {
                offset,
                replicas: Vec::new(),
            },
            leader => {
                let state = if leader.is_some() {
                    "connected"
                } else {
                    "connect"
                };
                let client = leader.map_or(String::new(), |leader| leader.client);
                let (host, port) = client.rsplit_once(':').unwrap_or((&client, "0"));
                RoleView::Replica {
                    host: host.to_owned(),
                    port: port.parse().unwrap_or(0),
                    state,
                    offset,
                }
            }
        }
    }

    fn is_replica(&self) -> bool {
        self.handle
            .leader()
            .is_none_or(|leader| leader.node != self.node)
    }

    fn replicas_at(&self, _: Ack, _: Lsn) -> usize {
        0
    }

    fn queue_bytes_max(&self) -> usize {
        super::front::REQUEST_MAX
    }

    fn synced(&self) -> Lsn {
        Lsn::ZERO
    }

    fn mode(&self) -> &'static str {
        match self.on_follower {
            OnFollower::Redirect => "cluster",
            _ => "standalone",
        }
    }

    fn info(&self, sections: &[&[u8]]) -> String {
        let wanted = |name: &str| {
            let all = ["default", "all", "everything"];
            let is = |section: &&[u8]| {
                **section == *name.as_bytes() || all.iter().any(|all| **section == *all.as_bytes())
            };
            sections.is_empty() || sections.iter().any(is)
        };
        let mut parts = Vec::new();
        let clustered = self.on_follower == OnFollower::Redirect;
        let mode = self.mode();
        // Writing to a String does not fail.
        if wanted("server") {
            let mut out = String::from("# Server\r\n");
            let _ = write!(
                out,
                "redis_version:{REDIS_VERSION}\r\nesker_version:{}\r\nredis_mode:{}\r\nprocess_id:{}\r\nrun_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{}\r\n",
                env!("CARGO_PKG_VERSION"),
                mode,
                std::process::id(),
                self.run_id,
                self.addr.port(),
                self.started.elapsed().as_secs()
            );
            parts.push(out);
        }
        if wanted("clients") {
            parts.push(format!(
                "# Clients\r\nconnected_clients:{}\r\nmaxclients:{}\r\n",
                self.clients.lock().len(),
                self.clients_max
            ));
        }
        if wanted("stats") {
            parts.push(format!(
                "# Stats\r\ntotal_connections_received:{}\r\ntotal_commands_processed:{}\r\nacl_access_denied_auth:{}\r\n",
                self.connections.load(Ordering::Relaxed),
                self.commands.load(Ordering::Relaxed),
                self.acl.denied()
            ));
        }
        if wanted("cluster") {
            let enabled = u8::from(clustered);
            parts.push(format!("# Cluster\r\ncluster_enabled:{enabled}\r\n"));
        }
        if wanted("audit") {
            parts.push(crate::Audit::info(self.audit.as_deref()));
        }
        if wanted("raft") {
            let mut out = String::from("# Raft\r\n");
            match self.handle.status() {
                Some(status) => {
                    for (name, value) in pairs(self, &status) {
                        let _ = write!(out, "{name}:{value}\r\n");
                    }
                }
                None => {
                    let why = self.handle.down().unwrap_or_default();
                    let _ = write!(
                        out,
                        "raft_role:down\r\nraft_explanation:{}\r\n",
                        why.replace(['\r', '\n'], " ")
                    );
                }
            }
            parts.push(out);
        }
        parts.join("\r\n")
    }

    fn clients(&self) -> Vec<ClientInfo> {
        let clients = self.clients.lock();
        let line = |(id, client): (&u64, &super::front::Client)| ClientInfo {
            line: format!(
                "id={id} addr={} user={} multi={}",
                client.addr,
                client.login.user(),
                client.queued
            ),
        };
        clients.iter().map(line).collect()
    }

    fn client_line(&self, session: &Session) -> String {
        format!(
            "id={} addr={} multi={} name={} user={} resp={}",
            session.id,
            session.addr,
            session.tx.queued().map_or(-1, |n| n as i64),
            String::from_utf8_lossy(&session.name),
            session.login.user(),
            session.protocol.number()
        )
    }

    fn config_get(&self, patterns: &[&[u8]]) -> Vec<(String, String)> {
        let asked = |name: &str| {
            (patterns.iter())
                .any(|pattern| glob_matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
        };
        self.config
            .iter()
            .filter(|(name, _)| asked(name))
            .cloned()
            .collect()
    }

    fn config_set(&self, _: &[(&[u8], &[u8])]) -> Result<(), String> {
        Err("ERR options of raft-node are set at its start".into())
    }

    fn acl(&self) -> &crate::Acl {
        &self.acl
    }

    fn reset_stats(&self) {}

    fn run_id(&self) -> &str {
        &self.run_id
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn orders_are_written_with_a_dot_or_a_blank_in_any_case() {
        let split = |line: &str| {
            let argv: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            words(&argv)
        };
        let add = ["ADD", "4", "tcp://h:1"].map(String::from).to_vec();
        assert_eq!(split("raft.add 4 tcp://h:1"), Some(add.clone()));
        assert_eq!(split("RAFT add 4 tcp://h:1"), Some(add));
        assert_eq!(split("RAFT"), Some(vec![String::new()]));
        assert_eq!(split("GET raft"), None);
        assert_eq!(split("RAFTER"), None);
    }
}
