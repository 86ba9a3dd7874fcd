//! Errors of both sides.

use crate::datadir::DataDirError;
use crate::protocol::Reason;
use esker_wal::Lsn;

/// Why a primary or a replica could not start, or could not be promoted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicationError {
    /// The endpoint can't be used.
    #[error("{endpoint}: {why}")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// Listening beyond loopback without keys (R6).
    #[error(
        "{endpoint} is not a loopback address, and without keys anybody who reaches it could read this store; configure keys, listen on 127.0.0.1, or allow plaintext explicitly"
    )]
    PlaintextBeyondLoopback {
        /// As given.
        endpoint: String,
    },
    /// Keys were given, and the libzmq that is linked has no CURVE.
    #[error(
        "keys are configured, but libzmq {version} was built without CURVE; build with Esker's own zmq-sys (see replication/README.md) or link a libzmq that has CURVE"
    )]
    NoCurve {
        /// Of the library.
        version: String,
    },
    /// A key is not one.
    #[error("{which} is not a CURVE key: {why}")]
    Key {
        /// Which key.
        which: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The library refused.
    #[error("{doing}: {source}")]
    Zmq {
        /// What was tried.
        doing: &'static str,
        /// What the library said.
        source: zmq::Error,
    },
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The store could not be opened.
    #[error(transparent)]
    Open(#[from] esker_lsm::OpenError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] esker_lsm::StoreError),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] esker_wal::LogError),
    /// An option that can't be.
    #[error("option {option}: {why}")]
    Options {
        /// Which.
        option: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// This node is a primary already: its data directory says so.
    #[error(
        "{dir} is the data of a primary (epoch {epoch}); start it as a primary, or empty the directory to make it a replica"
    )]
    IsPrimary {
        /// The directory.
        dir: std::path::PathBuf,
        /// Its epoch.
        epoch: u64,
    },
    /// Promotion of a replica that never had a store.
    #[error(
        "this replica never heard from its primary and holds nothing; there is nothing to promote"
    )]
    NothingToPromote,
    /// Already promoted or closed.
    #[error("the replica does not follow any more")]
    NotFollowing,
    /// The system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A primary's refusal, as the replica heard it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the primary refused: {text}")]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// An LSN that belongs to the reason.
    pub at: Lsn,
    /// What to do about it.
    pub text: String,
}
