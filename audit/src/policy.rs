//! What is done with a record, by its severity.

use crate::record::{Limits, Severity};
use crate::ring::Ring;
use esker_wal::Workers;
use esker_wal::media::Media;
use esker_wal::media::clock::{Clock, RealClock};
use esker_wal::media::real::RealMedia;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// When a call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// When the record is on stable storage; one sync is shared by all who wait.
    Sync,
    /// When it is in the log, where it survives the process; it is synced within [`Options::interval`].
    Interval,
    /// When it is in a bounded queue. Who writes the queue to the log is a thread of the trail; what is in the queue dies with the process.
    Async,
}

/// What is done where a record can't be written (A2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The call waits until it can, at most so long; then it is refused.
    Block(Duration),
    /// The record is dropped, and counted: as soon as something can be written again, a gap's entry names the sequences that were.
    Drop,
    /// [`crate::Error::Refused`]: what it is about must not happen.
    Refuse,
}

/// What is done with records of a severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// When a call returns.
    pub write: Write,
    /// What is done where it can't be written.
    pub on_failure: OnFailure,
}

/// Policies by severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policies([Policy; Severity::ALL.len()]);

impl Policies {
    /// One for all.
    #[must_use]
    pub fn all(policy: Policy) -> Policies {
        Policies([policy; Severity::ALL.len()])
    }

    /// With another for one severity.
    #[must_use]
    pub fn with(mut self, severity: Severity, policy: Policy) -> Policies {
        self.0[severity as usize] = policy;
        self
    }

    /// That of a severity.
    #[must_use]
    pub fn of(&self, severity: Severity) -> Policy {
        self.0[severity as usize]
    }
}

impl Default for Policies {
    /// Every record is synced before the call returns; where it can't be for five seconds, it is refused.
    fn default() -> Self {
        Policies::all(Policy {
            write: Write::Sync,
            on_failure: OnFailure::Block(Duration::from_secs(5)),
        })
    }
}

/// What is done at [`crate::Trail::open`] where the trail is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTamper {
    /// It is refused, and nothing is changed.
    Refuse,
    /// It goes on behind what is there. What is missing is a gap, and the finding a record of severity critical. What can't be read of the
    /// live log is put aside, and so is a `CHECKPOINT` or `TRAIL` that does not go together with the rest; an identity that is missing is made anew from what the
    /// other files say. Refused all the same: where no other file says whose trail it is, since nobody could tell then that what follows belongs to what is there; and where a
    /// key is missing.
    Continue,
}

/// Where checkpoints go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// Each is appended to this file, which should be on another machine. Default: none.
    pub file: Option<PathBuf>,
    /// This program is run for each, with its words, and gets it on its standard input. It has ten seconds. Default: none.
    pub command: Option<Vec<String>>,
}

/// Options of [`crate::Trail::open`].
#[derive(Clone)]
pub struct Options {
    /// What is done with records, by severity. Default: synced; blocks for at most five seconds.
    pub policies: Policies,
    /// Names this node in every record (`service.node.name`). Default: none.
    pub node: String,
    /// Bounds of records.
    pub limits: Limits,
    /// Longest that a record of [`Write::Interval`] or [`Write::Async`] stays unsynced, and that `HEAD` does. Default 1 s.
    pub interval: Duration,
    /// Records in the queue of [`Write::Async`]. Default 8,192.
    pub queue: usize,
    /// A file is closed when the live log holds so many bytes. Default 64 MiB; at least 64 KiB.
    pub rotate_bytes: u64,
    /// A file is closed when its first entry is so old. Default: a day.
    pub rotate_after: Duration,
    /// Closed files whose newest entry is older are removed. Default: never.
    pub keep_for: Option<Duration>,
    /// The wall clock is believed, where it is ahead of what [`Options::keep_for`] goes by (after a leap, or while the trail was not open), once it has gone steadily for so long while
    /// the trail is open. Less believes a clock that leapt the sooner, and removes what it makes old; a process that never has the trail open for so long removes by age only what grew
    /// old while it had. Default: a day; zero: at once.
    pub clock_settles: Duration,
    /// Most bytes of closed files; the oldest are removed. Default: no bound.
    pub keep_bytes: Option<u64>,
    /// Bytes of the live log that are allocated ahead and that only records from `reserve_from` on use when the disk is full. Default 1 MiB.
    pub reserve_bytes: u64,
    /// Default: notice.
    pub reserve_from: Severity,
    /// A checkpoint is made after so many entries, and at the close. Default 10,000; zero, with `checkpoint_after` zero too: never.
    pub checkpoint_entries: u64,
    /// A checkpoint is made after so long, if there is a new entry, and at the close. Default: a minute; zero: not by time.
    pub checkpoint_after: Duration,
    /// Where checkpoints go besides the file `CHECKPOINT` in the directory.
    pub anchor: Anchor,
    /// Default: refuse.
    pub on_tamper: OnTamper,
    /// A ring that gets a copy of every record, for dashboards. Default: none.
    pub ring: Option<Arc<Ring>>,
    /// Default: threads.
    pub workers: Workers,
    /// Default: the operating system's files.
    pub media: Arc<dyn Media>,
    /// Default: the machine's.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("policies", &self.policies)
            .field("rotate_bytes", &self.rotate_bytes)
            .finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            policies: Policies::default(),
            node: String::new(),
            limits: Limits::default(),
            interval: Duration::from_secs(1),
            queue: 8192,
            rotate_bytes: 64 << 20,
            rotate_after: Duration::from_secs(24 * 3600),
            keep_for: None,
            clock_settles: Duration::from_secs(24 * 3600),
            keep_bytes: None,
            reserve_bytes: 1 << 20,
            reserve_from: Severity::Notice,
            checkpoint_entries: 10_000,
            checkpoint_after: Duration::from_secs(60),
            anchor: Anchor::default(),
            on_tamper: OnTamper::Refuse,
            ring: None,
            workers: Workers::Threads,
            media: Arc::new(RealMedia::default()),
            clock: Arc::new(RealClock::default()),
        }
    }
}
