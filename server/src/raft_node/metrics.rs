//! What a member says over HTTP; see [`crate::metrics`].

use super::front::Shared;
use crate::metrics::encode::{Magnitudes, audited, labelled};
use crate::metrics::http::Source;
use esker_raft::core::RoleName;
use esker_raft::runtime::Status;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::atomic::Ordering;

/// A node that has so many committed entries still to apply is not ready.
const READY_LAG_MAX: u64 = 1_000;
const PEER_STATES: [&str; 3] = ["probing", "replicating", "receiving a snapshot"];

/// A role, as RAFT.STATUS spells it.
pub(super) fn role_name(role: RoleName) -> &'static str {
    match role {
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "precandidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    }
}

/// Whether clients should be sent to a node that says this of itself.
fn ready(status: &Status) -> Result<(), String> {
    if status.abstains {
        return Err(format!("it abstains: {}", status.explanation));
    }
    if status.leader.is_none() {
        return Err(format!("no leader is known: {}", status.explanation));
    }
    let lag = status.committed.0.saturating_sub(status.applied.0);
    match lag {
        0..=READY_LAG_MAX => Ok(()),
        _ => Err(format!("{lag} committed entries are still to be applied")),
    }
}

impl Source for Shared {
    fn failure(&self) -> Option<String> {
        self.handle.down()
    }

    fn readiness(&self) -> Result<(), String> {
        match self.handle.status() {
            Some(status) => ready(&status),
            None => {
                let why = self.handle.down();
                Err(format!("down: {}", why.as_deref().unwrap_or("it stops")))
            }
        }
    }

    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        audited(&mut encoder, self.audit.as_deref())?;
        let status = self.handle.status();
        let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let mut counter = |name: &str, help: &str, value: u64| {
            let metric = ConstCounter::new(value);
            let one = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(one)
        };
        counter("esker_commands", "Commands run", load(&self.commands))?;
        counter(
            "esker_connections",
            "Connections accepted",
            load(&self.connections),
        )?;
        counter(
            "esker_acl_access_denied_auth",
            "Logins that failed",
            self.acl.denied(),
        )?;
        if let Some(status) = &status {
            counter(
                "esker_raft_log_groups",
                "Groups of writes that the log took",
                status.log_groups,
            )?;
            counter(
                "esker_raft_log_syncs",
                "Syncs of the log: one for each group",
                status.log_syncs,
            )?;
        }
        let stages = self.handle.stages();
        for (name, help, counts) in [
            (
                "esker_raft_appended_seconds",
                "Proposals until they stood in the leader's log",
                &stages.appended,
            ),
            (
                "esker_raft_synced_seconds",
                "Proposals until they were on the leader's stable storage",
                &stages.synced,
            ),
            (
                "esker_raft_committed_seconds",
                "Proposals until they were committed",
                &stages.committed,
            ),
            (
                "esker_raft_applied_seconds",
                "Proposals until they were applied and answered",
                &stages.applied,
            ),
        ] {
            let metric = Magnitudes(counts, 1e6);
            let one = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(one)?;
        }
        let mut gauge = |name: &str, help: &str, value: u64| {
            let metric = ConstGauge::new(number(value));
            let one = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(one)
        };
        gauge(
            "esker_connected_clients",
            "Clients now",
            self.clients.lock().len() as u64,
        )?;
        gauge(
            "esker_resident_bytes",
            "Memory of the process",
            crate::status::resident_bytes(),
        )?;
        gauge(
            "esker_uptime_seconds",
            "Since the start",
            self.started.elapsed().as_secs(),
        )?;
        gauge(
            "esker_healthy",
            "0 when the node is down",
            u64::from(self.handle.down().is_none()),
        )?;
        gauge("esker_raft_node", "Id of this node", self.node.0)?;
        let Some(status) = status else {
            return Ok(());
        };
        gauge(
            "esker_raft_ready",
            "1 when clients should be sent here",
            u64::from(ready(&status).is_ok()),
        )?;
        for (name, help, value) in [
            ("esker_raft_term", "Its term", status.term.0),
            (
                "esker_raft_leader",
                "Id of who leads, as far as it knows; 0: nobody",
                status.leader.map_or(0, |leader| leader.0),
            ),
            (
                "esker_raft_last_index",
                "End of its log",
                status.last.index.0,
            ),
            (
                "esker_raft_synced_index",
                "Its log is on stable storage up to here",
                status.synced.0,
            ),
            (
                "esker_raft_committed_index",
                "Committed up to here, as far as it knows",
                status.committed.0,
            ),
            (
                "esker_raft_applied_index",
                "Applied to its state up to here",
                status.applied.0,
            ),
            (
                "esker_raft_durable_index",
                "Its state has this on stable storage without the log",
                status.durable.0,
            ),
            (
                "esker_raft_base_index",
                "Its log begins behind this entry",
                status.base.index.0,
            ),
            (
                "esker_raft_voters",
                "Voters of the membership in force",
                status.membership.voters.len() as u64,
            ),
            (
                "esker_raft_learners",
                "Members that do not vote",
                status.membership.learners.len() as u64,
            ),
            (
                "esker_raft_membership_joint",
                "1 while a change of voters is under way",
                u64::from(status.membership.is_joint()),
            ),
            (
                "esker_raft_abstains",
                "1 while it votes for nobody, because something it promised is lost",
                u64::from(status.abstains),
            ),
            (
                "esker_raft_disk_full",
                "1 while writes wait for room on its disk",
                u64::from(status.disk_full),
            ),
            (
                "esker_raft_disk_hangs",
                "1 while its disk, or its state machine, has not answered within the bound",
                u64::from(status.disk_hangs),
            ),
        ] {
            gauge(name, help, value)?;
        }
        let roles = [
            RoleName::Follower,
            RoleName::PreCandidate,
            RoleName::Candidate,
            RoleName::Leader,
        ]
        .map(|role| {
            let labels = vec![("role", role_name(role).to_owned())];
            (labels, i64::from(role == status.role))
        });
        labelled(&mut encoder, "esker_raft_role", "1 for its role", &roles)?;
        let peer = |of: &esker_raft::runtime::PeerStatus| ("peer", of.node.to_string());
        let each = |value: &dyn Fn(&esker_raft::runtime::PeerStatus) -> u64| -> Vec<_> {
            let one = |of| (vec![peer(of)], number(value(of)));
            status.peers.iter().map(one).collect()
        };
        labelled(
            &mut encoder,
            "esker_raft_peer_matched_index",
            "On a leader: the peer holds everything up to here",
            &each(&|peer| peer.matched.0),
        )?;
        labelled(
            &mut encoder,
            "esker_raft_peer_lag",
            "On a leader: entries of its log that the peer is not known to hold",
            &each(&|peer| status.last.index.0.saturating_sub(peer.matched.0)),
        )?;
        labelled(
            &mut encoder,
            "esker_raft_peer_paused",
            "On a leader: 1 while nothing is sent to the peer; RAFT.STATUS says why",
            &each(&|peer| u64::from(peer.paused.is_some())),
        )?;
        let states: Vec<_> = (status.peers.iter())
            .flat_map(|of| {
                PEER_STATES.map(|state| {
                    let labels = vec![peer(of), ("state", state.to_owned())];
                    (labels, i64::from(of.state == state))
                })
            })
            .collect();
        labelled(
            &mut encoder,
            "esker_raft_peer_state",
            "On a leader: 1 for the peer's state",
            &states,
        )
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
