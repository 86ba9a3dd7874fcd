//! How members reach each other.
//!
//! - TR1: a packet may be lost, repeated, late, or out of order; nobody above assumes otherwise. [`Transport::send`] never blocks: what
//!   there is no room for is lost.
//! - TR2: a packet names its cluster, its group, and its sender with the life of the sender's process and the identity of its disk; a
//!   receiver drops what is not for it.
//! - TR3 (E2): bytes of the network are decoded by [`wire`], which takes any.

mod memory;
pub mod tcp;
pub mod wire;
#[cfg(feature = "zmq")]
pub mod zmq;

pub use memory::{MemoryNetwork, MemoryTransport};

use crate::core::{Message, NodeId, SnapshotMeta, Term};
use crate::runtime::StartError;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Who sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// The cluster's number, with its incarnation folded in.
    pub cluster: u64,
    /// The group in it.
    pub group: u64,
    /// The node.
    pub node: NodeId,
    /// Identity of its disk: [`crate::log::Recovered::disk`].
    pub disk: u64,
    /// The life of its process: another at each start.
    pub epoch: u64,
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Its name: no path.
    pub name: String,
    /// Its length.
    pub len: u64,
    /// Tells one content from another, so that a file that is there already need not be sent. 0: not known, always sent.
    pub check: u64,
}

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A message of the core.
    Raft(Message),
    /// A leader has a snapshot; the receiver asks for what it lacks of it.
    Offer {
        /// The leader's term.
        term: Term,
        /// Names the transfer.
        id: u64,
        /// What it stands for.
        meta: SnapshotMeta,
        /// Its files.
        files: Vec<SnapshotFile>,
    },
    /// "Send me this piece."
    Want {
        /// Of the transfer.
        id: u64,
        /// Which of the files.
        file: u32,
        /// From here on.
        offset: u64,
        /// So many bytes.
        len: u32,
    },
    /// A piece; guarded by a checksum of its own from disk to disk.
    Chunk {
        /// Of the transfer.
        id: u64,
        /// Which of the files.
        file: u32,
        /// From here on.
        offset: u64,
        /// crc32 of the bytes.
        crc: u32,
        /// The bytes.
        bytes: Bytes,
    },
    /// The receiver has it whole, or gives up; or the sender does not have it any more.
    End {
        /// Of the transfer.
        id: u64,
        /// It arrived whole.
        whole: bool,
    },
    /// A command for the leader, from a node that does not lead.
    Forward {
        /// The sender's name for it.
        id: u64,
        /// The request, as it would stand in the log.
        request: Bytes,
    },
    /// What became of it.
    Forwarded {
        /// See [`Content::Forward`].
        id: u64,
        /// See the runtime.
        outcome: Bytes,
    },
}

/// A packet. See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sends it.
    pub from: Sender,
    /// To whom.
    pub to: NodeId,
    /// What.
    pub content: Content,
}

/// Takes what arrives. Never blocks: what there is no room for is lost.
pub type Inbound = Arc<dyn Fn(Packet) + Send + Sync>;

/// Sends packets. See the module.
pub trait Transport: Send + Sync {
    /// Sends, or loses it.
    fn send(&self, packet: Packet);

    /// Longest message that it takes, in bytes: a node with longer ones does not start. Default: any.
    fn message_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// Where members are, by their address in the membership; those that are not named any more are let go.
    fn members(&self, addresses: &BTreeMap<NodeId, String>);

    /// Stops; joins its threads. A second time it does nothing.
    fn close(&self);
}

fn failed(doing: &'static str, why: impl std::fmt::Display) -> StartError {
    let why = why.to_string();
    StartError::System { doing, why }
}

/// Whether an endpoint is loopback, and IPv6.
fn check_endpoint(endpoint: &str) -> Result<(bool, bool), StartError> {
    let bad = |why: &str| failed("reading a transport address", format!("{endpoint}: {why}"));
    let rest = (endpoint.strip_prefix("tcp://"))
        .ok_or_else(|| bad("an address is written tcp://HOST:PORT"))?;
    let (host, port) = (rest.rsplit_once(':')).ok_or_else(|| bad("the port is missing"))?;
    if port != "*" && port.parse::<u16>().is_err() {
        return Err(bad("the port is not a number from 0 to 65535"));
    }
    if host.is_empty() {
        return Err(bad("the host is missing"));
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>().ok();
    let loopback = address.map_or(host == "localhost", |a| a.is_loopback());
    Ok((loopback, address.is_some_and(|a| a.is_ipv6())))
}
