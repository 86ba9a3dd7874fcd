//! Errors: what happened, to which file or record, and what to do.
//!
//! Fields are what the message prints; their names say it.
#![expect(
    missing_docs,
    reason = "the fields of an error are explained by its message"
)]

use crate::finding::Finding;
use crate::key::{KeyError, KeyId};
use esker_wal::{LogError, OpenError};
use std::io;
use std::path::{Path, PathBuf};

/// Why the trail could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No trail there.
    #[error("no audit trail in {dir}: give the directory of one")]
    NotFound { dir: PathBuf },
    /// What is there is not what was written; nothing was changed.
    #[error(
        "{finding}; run `esker audit verify {dir}` for the rest, keep a copy of it, and open it with `on_tamper: Continue` to go on behind it"
    )]
    Tampered { dir: PathBuf, finding: Box<Finding> },
    /// A key that the trail was written with is not in the keyring.
    #[error("{path} needs the key {key}, which the keyring does not have; add it")]
    NoKey { path: PathBuf, key: KeyId },
    /// The record was not written and, by the policy, what it is about must not happen.
    #[error("the audit record was refused, and with it what it is about: {why}")]
    Refused { why: String },
    /// The record may or may not be in the trail: the disk failed while it was synced.
    #[error("it is not known whether the audit record is on the disk: {source}")]
    Unknown { source: LogError },
    /// The live log failed.
    #[error("the live log of the audit trail: {0}")]
    Log(#[from] LogError),
    /// The live log could not be opened.
    #[error("opening the live log of the audit trail: {0}")]
    Open(#[from] OpenError),
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A call failed.
    #[error("{doing} {path}: {source}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// An option that can't be.
    #[error("option {option}: {why}")]
    Options { option: &'static str, why: String },
    /// A checkpoint that is none of this trail, or is not signed by one of its keys.
    #[error("the checkpoint: {why}")]
    Checkpoint { why: String },
    /// Closed.
    #[error("the audit trail is closed")]
    Closed,
}

/// Says what was tried, and with which file.
pub(crate) fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        doing,
        path: path.clone(),
        source,
    }
}
