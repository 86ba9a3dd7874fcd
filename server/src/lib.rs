//! `esker-server`: a RESP front end for the Esker store, and the binaries `primary`, `replica` and
//! `raft-node`.
//!
//! From the socket inwards: [`resp`] parses commands and encodes replies; the event loop gathers what
//! the clients sent, runs it, asks once per turn for the sync it needs, and holds each reply until what it
//! reveals is safe (design: "What a reply may reveal"); [`commands`] knows what each command means;
//! [`engine`] is the store with key locks and expiry.
//!
//! Not here: TLS, permissions of users beyond all or nothing, several databases, Lua, data types other than strings.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod acl;
pub mod audit;
pub mod audit_tool;
pub mod boot;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod control;
mod descriptors;
pub mod engine;
pub mod metrics;
pub mod net;
pub mod node;
pub mod progress;
pub mod raft_node;
pub mod resp;
pub mod roles;
pub mod server;
pub mod session;
mod stats;
pub mod status;
pub mod table;

pub use acl::Acl;
pub use audit::Audit;
pub use control::{
    Ack, ClientInfo, Flow, ReplicaLine, RoleView, ServerControl, WaitKind, WaitRequest,
    WriteRefusal,
};
pub use net::NetLimits;
pub use node::{Durability, Node, Peers, Promise, Upstream};
pub use resp::{Protocol, Reply};
pub use server::{Server, ServerOptions};
pub use session::{Ctx, Session};
