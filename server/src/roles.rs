//! The replication side of a node, in the words that [`crate::Node`] understands.

use crate::config::{Common, Endpoint};
use crate::control::{Ack, ReplicaLine};
use crate::node::{Node, Peers, Upstream};
use esker_lsm::Store;
use esker_replication::{
    Ack as WireAck, FollowState, Primary, PrimaryKeys, PrimaryOptions, ProgressGuard, Replica,
    ReplicationError,
};
use esker_wal::{Lsn, Watcher};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

fn wire(ack: Ack) -> WireAck {
    match ack {
        Ack::Received => WireAck::Received,
        Ack::Durable => WireAck::Durable,
        Ack::Applied => WireAck::Applied,
    }
}

/// Host and port of `tcp://host:port`, or of `host:port`.
fn host_and_port(address: &str) -> (String, u16) {
    let address = address.strip_prefix("tcp://").unwrap_or(address);
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host.to_owned(), port.parse().unwrap_or(0))
}

/// What a primary needs to serve replicas.
#[derive(Clone, Debug)]
pub struct ReplicationSide {
    /// Where to listen.
    pub listen: Endpoint,
    /// Its keys, if any.
    pub keys: Option<PrimaryKeys>,
    /// Listen beyond loopback without keys (R6).
    pub allow_remote_plaintext: bool,
    /// Some write always waits for durable acknowledgements.
    pub sync_now: bool,
}

impl ReplicationSide {
    /// From the configuration; the error is for a person.
    pub fn new(listen: &Endpoint, common: &Common) -> Result<Self, String> {
        let keys = match &common.curve_secret_file {
            Some(path) => Some(PrimaryKeys {
                secret: crate::config::read_key(path)?,
                replicas: common.curve_allow.clone(),
            }),
            None => None,
        };
        Ok(ReplicationSide {
            listen: listen.clone(),
            keys,
            allow_remote_plaintext: common.allow_remote_plaintext,
            sync_now: common.min_sync_replicas > 0,
        })
    }

    /// Starts to serve replicas of `store`, and has the node's loops rung when they move.
    pub fn start(
        &self,
        store: &Store,
        node: &Weak<Node>,
    ) -> Result<Option<Arc<Serving>>, ReplicationError> {
        let Some(listen) = &self.listen.0 else {
            return Ok(None);
        };
        let mut options = PrimaryOptions::new(store.clone());
        options.listen.clone_from(listen);
        options.allow_remote_plaintext = self.allow_remote_plaintext;
        options.keys.clone_from(&self.keys);
        options.sync_now = self.sync_now;
        let clock = Weak::clone(node);
        // Zero: no clock yet, and a replica makes nothing of it.
        options.expiry_clock = Some(Arc::new(move || {
            clock
                .upgrade()
                .and_then(|node| node.engine().map(|engine| engine.clock().now()))
                .unwrap_or(0)
        }));
        let primary = Primary::start(options)?;
        let node = Weak::clone(node);
        let ring: Watcher = Arc::new(move || {
            if let Some(node) = node.upgrade() {
                node.ring();
            }
        });
        let guard = primary.watch(ring);
        Ok(Some(Arc::new(Serving {
            primary,
            _guard: guard,
        })))
    }
}

/// A primary that serves replicas.
#[derive(Debug)]
pub struct Serving {
    primary: Primary,
    _guard: ProgressGuard,
}

impl Serving {
    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.primary.endpoint()
    }
}

impl Peers for Serving {
    fn replicas(&self) -> Vec<ReplicaLine> {
        self.primary
            .replicas()
            .into_iter()
            .map(|replica| {
                let (ip, port) = host_and_port(&replica.address);
                let name = if replica.name.is_empty() {
                    replica.node.to_string()[..8].to_owned()
                } else {
                    replica.name
                };
                ReplicaLine {
                    ip,
                    port,
                    name,
                    connected: replica.connected,
                    applied: replica.applied,
                    durable: replica.durable,
                }
            })
            .collect()
    }

    fn connected(&self) -> usize {
        self.primary.connected()
    }

    fn position(&self, ack: Ack, n: usize) -> Lsn {
        self.primary.position(wire(ack), n)
    }

    fn count_at(&self, ack: Ack, lsn: Lsn) -> usize {
        self.primary.count_at(wire(ack), lsn)
    }

    fn endpoint(&self) -> Option<String> {
        Some(self.primary.endpoint())
    }

    fn set_safe(&self, safe: Lsn) {
        self.primary.set_safe(safe);
    }

    fn want_durable(&self, wanted: bool) {
        self.primary.want_durable(wanted);
    }

    fn replaced_by(&self) -> Option<u64> {
        self.primary.replaced_by()
    }

    fn close(&self) {
        self.primary.close();
    }
}

/// A replica that follows, until it is promoted.
#[derive(Debug)]
pub struct Following {
    replica: Replica,
    node: Weak<Node>,
    side: ReplicationSide,
    /// Told once, so that the log is not full of it.
    state: Mutex<String>,
}

impl Following {
    /// Around a running replica; `side` is what it serves replicas with once promoted.
    #[must_use]
    pub fn new(replica: Replica, node: Weak<Node>, side: ReplicationSide) -> Arc<Following> {
        Arc::new(Following {
            replica,
            node,
            side,
            state: Mutex::new(String::new()),
        })
    }

    /// Logs where it stands, when that has changed.
    pub fn tell_state(&self) {
        let status = self.replica.status();
        let text = match &status.state {
            FollowState::Connecting => format!("connecting to the primary at {}", status.primary),
            FollowState::Following => format!("following the primary at {}", status.primary),
            FollowState::Refused(why) => {
                format!("the primary at {} refused: {why}", status.primary)
            }
            FollowState::Disconnected { why } => {
                format!(
                    "lost the primary at {}: {why}; trying again",
                    status.primary
                )
            }
            FollowState::Failed { why } => format!("can't follow any more: {why}"),
            FollowState::Promoted | FollowState::Closed => return,
        };
        let mut told = self.state.lock();
        if *told != text {
            match status.state {
                FollowState::Connecting | FollowState::Following => tracing::info!("{text}"),
                FollowState::Failed { .. } => tracing::error!("{text}"),
                _ => tracing::warn!("{text}"),
            }
            *told = text;
        }
    }
}

impl Upstream for Following {
    fn link(&self) -> (String, u16, &'static str) {
        let status = self.replica.status();
        let (host, port) = host_and_port(&status.primary);
        let state = match status.state {
            FollowState::Following => "connected",
            FollowState::Connecting => "connecting",
            _ => "connect",
        };
        (host, port, state)
    }

    fn lag_bytes(&self) -> u64 {
        self.replica.status().lag_bytes
    }

    fn promote(&self) -> Result<Option<Arc<dyn Peers>>, String> {
        let store = self
            .replica
            .store()
            .ok_or("ERR nothing to promote: this replica has not received a store yet")?;
        let start = self
            .replica
            .promote()
            .map_err(|error| format!("ERR promotion failed: {error}"))?;
        tracing::info!(epoch = %start.epoch, begin = %start.begin, "promoted");
        // The promotion is durable from here on: what fails now is told and does not undo it.
        match self.side.start(&store, &self.node) {
            Ok(Some(serving)) => {
                tracing::info!(endpoint = serving.endpoint(), "replicas may connect");
                Ok(Some(serving))
            }
            Ok(None) => {
                tracing::warn!("no replica can connect: --replication-listen was not given");
                Ok(None)
            }
            Err(error) => {
                tracing::error!(%error, "promoted, but no replica can connect; restart with another --replication-listen");
                Ok(None)
            }
        }
    }
}
