//! The seam between the commands and the server around them: what a command may ask of the server, and
//! what it tells the event loop.

use esker_wal::Lsn;
use std::time::Instant;

/// What becomes of a command.
#[derive(Debug)]
#[must_use]
pub enum Flow {
    /// The reply is written.
    Done,
    /// The reply is written; close the connection behind it.
    Close,
    /// Nothing was done and nothing written: hold the client and run the command again when log and store
    /// have room.
    NeedRoom,
    /// Nothing written yet: the event loop answers once enough nodes got there, or at the deadline.
    Wait(WaitRequest),
    /// Nothing written yet: make this node the primary (`REPLICAOF NO ONE`). It blocks, so the event loop has
    /// another thread do it and answers `+OK` or the error.
    Promote,
    /// End the server. Nothing written: Redis answers nothing when it works.
    Shutdown {
        /// Leave at once, without waiting for replicas and held replies (`NOW`).
        now: bool,
    },
}

/// What WAIT and WAITAOF wait for.
#[derive(Clone, Copy, Debug)]
pub struct WaitRequest {
    /// What is counted.
    pub kind: WaitKind,
    /// This client's last write.
    pub lsn: Lsn,
    /// When to answer with the count as it stands; `None` waits for ever.
    pub deadline: Option<Instant>,
}

/// What is counted, and up to which count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitKind {
    /// WAIT: replicas that applied. Answers an integer.
    Replicas(usize),
    /// WAITAOF: this node's sync (0 or 1) and replicas that synced. Answers an array of both counts.
    Aof {
        /// 1 waits for this node's own sync.
        local: usize,
        /// Replicas.
        replicas: usize,
    },
}

/// How far a replica must have taken a write for its acknowledgement to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// It has it in memory.
    Received,
    /// It has it on stable storage.
    #[default]
    Durable,
    /// Its readers see it.
    Applied,
}

/// Why no write may be appended now. The server says it in these words; nothing was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteRefusal {
    /// A replica.
    ReadOnly,
    /// The log is poisoned or the store failed; the text says of what.
    Misconf(String),
    /// Fewer replicas are connected than `min-sync-replicas` asks for.
    NoReplicas,
}

impl WriteRefusal {
    /// The error reply.
    #[must_use]
    pub fn text(&self) -> std::borrow::Cow<'static, str> {
        match self {
            WriteRefusal::ReadOnly => {
                "READONLY You can't write against a read only replica.".into()
            }
            WriteRefusal::Misconf(why) => format!("MISCONF Writes are refused: {why}").into(),
            WriteRefusal::NoReplicas => "NOREPLICAS Not enough good replicas to write.".into(),
        }
    }
}

/// A replica, as ROLE and INFO show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaLine {
    /// Address.
    pub ip: String,
    /// Port.
    pub port: u16,
    /// Label (`--name`).
    pub name: String,
    /// Whether it is connected now.
    pub connected: bool,
    /// Up to here it has applied.
    pub applied: Lsn,
    /// Up to here it has synced.
    pub durable: Lsn,
}

/// This node's role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleView {
    /// It writes.
    Primary {
        /// End of its log.
        offset: Lsn,
        /// Its replicas.
        replicas: Vec<ReplicaLine>,
    },
    /// It follows.
    Replica {
        /// Host of its primary.
        host: String,
        /// Replication port of its primary.
        port: u16,
        /// `connect`, `connecting`, `sync` or `connected`.
        state: &'static str,
        /// What it has applied.
        offset: Lsn,
    },
}

/// A client as CLIENT LIST shows it.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// `id=... addr=...`, the whole line without its end.
    pub line: String,
}

/// What the server provides to commands. Cheap calls unless they say otherwise; none blocks.
pub trait ServerControl: Send + Sync {
    /// Asked by each command that may write, before it appends anything.
    fn write_gate(&self) -> Result<(), WriteRefusal>;
    /// Where reads must look: `None` is the latest applied state (the usual case); a position while the safe
    /// position can't move (poisoned log, too few replicas): then read `store.snapshot_at(it)` and leave
    /// `touched` alone.
    fn read_at(&self) -> Option<Lsn>;
    /// The role.
    fn role(&self) -> RoleView;
    /// Whether this node follows (cheaper than `role`).
    fn is_replica(&self) -> bool;
    /// Connected replicas that have reached `lsn` in the sense of `ack`.
    fn replicas_at(&self, ack: Ack, lsn: Lsn) -> usize;
    /// Bytes that a client may queue between MULTI and EXEC: memory of its own making is bounded (W7).
    fn queue_bytes_max(&self) -> usize {
        64 << 20
    }
    /// What clients are to take it for: `standalone` or `cluster`.
    fn mode(&self) -> &'static str {
        "standalone"
    }
    /// This node's synced position.
    fn synced(&self) -> Lsn;
    /// The text of INFO: the sections asked for (none is the default set), lower case.
    fn info(&self, sections: &[&[u8]]) -> String;
    /// All clients, oldest first.
    fn clients(&self) -> Vec<ClientInfo>;
    /// The line of CLIENT INFO.
    fn client_line(&self, session: &crate::Session) -> String;
    /// Parameters whose name matches any of the glob patterns, with values.
    fn config_get(&self, patterns: &[&[u8]]) -> Vec<(String, String)>;
    /// Sets parameters, all or none. The error is the whole reply.
    fn config_set(&self, pairs: &[(&[u8], &[u8])]) -> Result<(), String>;
    /// CONFIG RESETSTAT.
    fn reset_stats(&self);
    /// The users.
    fn acl(&self) -> &crate::Acl;
    /// 40 hexadecimal digits that name this run of the process (`run_id`).
    fn run_id(&self) -> &str;
}
