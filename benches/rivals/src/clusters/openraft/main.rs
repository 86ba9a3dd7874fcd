//! A node of openraft with a durable log on fjall, as the rival of `raft-node` in `cargo xtask bench raft`.
//!
//! `openraft-node ID DIR CLIENTS MEMBERS`: its number from 0 on, its directory, where it serves clients, and where all members listen for each other,
//! separated by commas. It speaks as much RESP as `cluster-load` does: `SET`, `INFO`, `QUIT`. The first member founds the cluster.
//!
//! It is written as somebody would who wants it fast: appends that gather while the log syncs share the next sync, entries stream to the followers without
//! waiting for answers, and the state machine is a map in memory (the log makes it durable), which a store on disk would only be slower than.

mod network;
mod resp;
mod state;
mod store;

use openraft::{BasicNode, Config, Raft};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is replicated.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Put {
    key: bytes::Bytes,
    value: bytes::Bytes,
}

impl std::fmt::Display for Put {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.value.len())
    }
}

openraft::declare_raft_types!(Types: D = Put, R = ());

type Node = Raft<Types, state::Machine>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().collect();
    let [_, id, dir, clients, members] = &args[..] else {
        return Err("openraft-node ID DIR CLIENTS MEMBERS".into());
    };
    let members: Vec<SocketAddr> = (members.split(','))
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let id: usize = id.parse()?;
    let own = *members.get(id).ok_or("no such member")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(
        id as u64,
        Path::new(dir),
        clients.parse()?,
        own,
        &members,
    ))
}

async fn run(
    id: u64,
    dir: &Path,
    clients: SocketAddr,
    own: SocketAddr,
    members: &[SocketAddr],
) -> Result<(), Failure> {
    // The timeouts of `raft-node`; the rest as it comes.
    let config = Config {
        election_timeout_min: 500,
        election_timeout_max: 1000,
        heartbeat_interval: 100,
        ..Config::default()
    };
    let log = store::Store::open(dir)?;
    let node: Node = Raft::new(
        id,
        Arc::new(config.validate()?),
        network::Connector,
        log,
        state::Machine::default(),
    )
    .await?;
    let listening = tokio::net::TcpListener::bind(own).await?;
    tokio::spawn(network::serve(listening, node.clone()));
    if id == 0 {
        let all: BTreeMap<u64, BasicNode> = (0..)
            .zip(members)
            .map(|(id, address)| (id, BasicNode::new(address.to_string())))
            .collect();
        node.initialize(all).await?;
    }
    resp::serve(tokio::net::TcpListener::bind(clients).await?, node).await
}
