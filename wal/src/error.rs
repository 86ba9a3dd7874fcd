//! Errors: what happened, to which file and position, and what to do.
//!
//! Fields are what the message prints; their names say it.
#![expect(
    missing_docs,
    reason = "the fields of an error are explained by its message"
)]

use crate::ids::{LogId, Lsn, SegmentId};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a log could not be opened. Nothing on disk has been changed, unless it says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No log there and none was to be created.
    #[error(
        "no log in {dir}: give the directory of a log, or make one there (`LogOptions::create`)"
    )]
    NotFound { dir: PathBuf },
    /// Another process or handle has it (W9).
    #[error("{dir} is in use by another process; close it there first")]
    Locked { dir: PathBuf },
    /// The log there is another one.
    #[error(
        "the log in {dir} is {found}, not {expected}; point at the right directory, or empty it to start anew"
    )]
    WrongLog {
        dir: PathBuf,
        expected: LogId,
        found: LogId,
    },
    /// Acknowledged bytes are damaged (W3). Nothing was changed.
    #[error(
        "{path}: damaged at LSN {at}, below the synced point {synced}: {what} (stored checksum {stored:08x}, computed {computed:08x}); restore this node from a replica or a backup"
    )]
    Corrupt {
        path: PathBuf,
        segment: SegmentId,
        at: Lsn,
        synced: Lsn,
        what: String,
        stored: u32,
        computed: u32,
    },
    /// A newer build wrote it.
    #[error("{path}: format {found}, this build reads up to {supported}; upgrade before opening")]
    NewerFormat {
        path: PathBuf,
        found: u32,
        supported: u32,
    },
    /// A build of before the first release wrote it, whose frames are not read any more.
    #[error(
        "{path}: format {found} of an earlier build, this one reads {supported}; export the data with the build that wrote it, or begin with an empty directory"
    )]
    OlderFormat {
        path: PathBuf,
        found: u32,
        supported: u32,
    },
    /// Options that can't be.
    #[error("option {option}: {why}")]
    Options { option: &'static str, why: String },
    /// A call failed.
    #[error("{doing} {path}: {source}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// Why the log takes no more appends until it is reopened (W6).
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the log is poisoned since {doing} {path} failed: {source}; reopen it after the cause is gone"
)]
pub struct Poison {
    /// What was tried.
    pub doing: &'static str,
    /// Where.
    pub path: PathBuf,
    /// What the system said.
    pub source: Arc<io::Error>,
}

/// Why an append, a wait or a sync failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Closed.
    #[error("the log is closed")]
    Closed,
    /// Poisoned; an append that was under way may or may not be found after reopening.
    #[error(transparent)]
    Poisoned(#[from] Poison),
    /// At a bound; nothing was appended. Try again when there is room.
    #[error("the log is at its bound of unsynced or prepared bytes; try again")]
    Busy,
    /// No space for another segment; nothing was appended. Heals when there is room.
    #[error(
        "no space for another segment in {dir}: {source}; free some space, writes resume by themselves"
    )]
    NoSpace {
        dir: PathBuf,
        source: Arc<io::Error>,
    },
    /// Larger than can be appended; nothing was.
    #[error("a payload of {len} bytes exceeds the limit of {max}")]
    TooLarge { len: usize, max: usize },
    /// The parts handed to publish are not what was reserved; the frame became void.
    #[error("{got} bytes were handed to a reservation of {reserved}; its frame is void")]
    WrongLength { got: usize, reserved: usize },
    /// A replicated frame does not continue this log; nothing was appended.
    #[error("the frame at LSN {lsn} does not continue this log at {expected}: {why}")]
    NotNext {
        lsn: Lsn,
        expected: Lsn,
        why: &'static str,
    },
    /// This log follows another's history: appends come through `append_replicated`.
    #[error("this log follows another node's history; promote it (begin_epoch) to write")]
    NotWriter,
    /// The wait's deadline passed.
    #[error("timed out waiting for LSN {target} (now at {now})")]
    TimedOut { target: Lsn, now: Lsn },
    /// The reader's waits were ended by [`crate::ReaderInterrupt::raise`]; it can still read.
    #[error("the wait for LSN {target} was interrupted")]
    Interrupted { target: Lsn },
    /// The log was rewound, and this handle, reader or wait is one of before; go on with what [`crate::Log::rewind`] returned.
    #[error(
        "this log was rewound to LSN {fork}: what was above is no more; go on with the log that the rewind returned"
    )]
    Rewound { fork: Lsn },
    /// The log was not rewound.
    #[error("the log can't be rewound to LSN {fork}: {why}")]
    NotRewound { fork: Lsn, why: &'static str },
    /// The log was rewound, but could not be opened again.
    #[error("the log in {dir} was rewound, but not opened again: {source}; open it")]
    NotReopened {
        dir: PathBuf,
        source: Arc<OpenError>,
    },
    /// Positions below `oldest` were released.
    #[error("LSN {lsn} was released; the oldest held is {oldest}")]
    Released { lsn: Lsn, oldest: Lsn },
    /// Bytes read back are damaged.
    #[error("{path}: damaged at LSN {at}: {what}")]
    Corrupt {
        path: PathBuf,
        at: Lsn,
        what: String,
    },
    /// A call failed, without harm to the log.
    #[error("{doing} {path}: {source}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: Arc<io::Error>,
    },
}
