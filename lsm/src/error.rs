//! Errors.

use crate::{BatchError, SeqNo};
use esker_wal::{LogError, Lsn, OpenError as LogOpenError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a store could not be opened. Nothing that was synced has been changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The log could not be opened.
    #[error(transparent)]
    Log(#[from] LogOpenError),
    /// What was read is not what was written.
    #[error("{path}: {what}; restore this node from a replica or a backup")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// How it shows.
        what: String,
    },
    /// A newer build wrote it.
    #[error("{path}: format {found}, this build reads up to {supported}; upgrade before opening")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest known here.
        supported: u32,
    },
    /// Tables hold writes that the log no longer has, or never had: they belong to another life of it.
    #[error(
        "the tables in {dir} reach to LSN {flushed}, but the log holds {oldest} to {end}: they do not belong together; rebuild this node from its primary or a backup"
    )]
    LogMismatch {
        /// Directory of the tables.
        dir: PathBuf,
        /// Everything below is in tables.
        flushed: Lsn,
        /// Oldest LSN of the log.
        oldest: Lsn,
        /// End of the log.
        end: Lsn,
    },
    /// Another process or handle has it (W9).
    #[error("{dir} is in use by another process; close it there first")]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// Options that can't be.
    #[error("option {option}: {why}")]
    Options {
        /// Which.
        option: &'static str,
        /// Why not.
        why: String,
    },
    /// A call failed.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why an operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// At a bound; nothing was written. [`crate::Store::watch_room`] tells when to try again.
    #[error("no room: writers are held until memtables are flushed; try again")]
    Busy,
    /// Closed.
    #[error("the store is closed")]
    Closed,
    /// The store's log is its caller's; nothing was done.
    #[error("this store has an external log: apply its entries with `apply_entry`")]
    ExternalLog,
    /// The store has a log of its own; nothing was done.
    #[error("this store has a log of its own: use `write`")]
    OwnLog,
    /// An entry of the external log that is not the next; nothing was done.
    #[error(
        "the entry at SeqNo {first} can't be applied at {expected}: {why}; apply entries in order, from `visible` on"
    )]
    NotNext {
        /// Its first SeqNo.
        first: SeqNo,
        /// Where the store stands.
        expected: SeqNo,
        /// What is wrong.
        why: &'static str,
    },
    /// Bytes read back are not what was written (L4).
    #[error(
        "{path}: damaged at offset {offset}: {what}; restore this node from a replica or a backup"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the damaged part begins.
        offset: u64,
        /// How it shows.
        what: String,
    },
    /// A frame's payload is not a batch that this build can apply. Nothing of it was.
    #[error("the frame at LSN {lsn} can't be applied: {source}")]
    Batch {
        /// The frame.
        lsn: Lsn,
        /// Why.
        source: BatchError,
    },
    /// A worker failed; writes are refused, reads go on (L6). Full disks heal by themselves, the rest at a reopen.
    #[error("writes are refused since {doing} failed: {cause}")]
    Background {
        /// What the worker did.
        doing: &'static str,
        /// Why it failed.
        cause: String,
        /// The disk was full.
        heals: bool,
    },
    /// A call failed.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> StoreError {
        StoreError::Io {
            doing,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }

    /// Whether it comes of a full disk, and goes when there is room: of a write nothing was done, and it can be tried again.
    #[must_use]
    pub fn heals(&self) -> bool {
        matches!(self, StoreError::Background { heals: true, .. }) || self.is_no_space()
    }

    /// No space left: worth trying again.
    pub(crate) fn is_no_space(&self) -> bool {
        match self {
            StoreError::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            StoreError::Log(LogError::NoSpace { .. } | LogError::Busy) => true,
            _ => false,
        }
    }
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> OpenError {
        match error {
            StoreError::Corrupt { path, offset, what } => OpenError::Corrupt {
                path,
                what: format!("damaged at offset {offset}: {what}"),
            },
            StoreError::Io {
                doing,
                path,
                source,
            } => OpenError::Io {
                doing,
                path,
                source: io::Error::new(source.kind(), source),
            },
            other => OpenError::Corrupt {
                path: PathBuf::new(),
                what: other.to_string(),
            },
        }
    }
}
