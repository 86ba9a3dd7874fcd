//! What a log must offer to be measured beside the others.
//!
//! To add one: a file in `engines/` with a `pub(crate) fn engine() -> Engine`, and its line in `engines/mod.rs`.

use std::path::Path;

/// Any failure, as a sentence.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a log is about to be used for; it may choose its settings by it, and prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Appends that are durable when they return.
    Synced,
    /// Appends that survive `kill -9`, as fast as they go, `total` bytes at a time; synced between the turns.
    Burst,
    /// As `Burst`, without end: the sync at the end of a turn counts, and so does reclaiming.
    Sustained,
    /// A log that is written, closed and read back.
    Replay,
}

/// A use of a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) threads: usize,
    /// Payload bytes of an append.
    pub(crate) bytes: usize,
    /// Payload bytes of a turn (`Burst`, `Sustained`) or of the whole log (`Replay`).
    pub(crate) total: u64,
}

/// A log that is open.
pub(crate) trait LogRival: Send + Sync {
    /// Appends one payload; on return it survives power loss.
    fn append_synced(&self, thread: usize, payload: &[u8]) -> Result<(), Failure>;

    /// Appends one payload; on return it survives `kill -9`.
    fn append_buffered(&self, _thread: usize, _payload: &[u8]) -> Result<(), Failure> {
        Err("it has no buffered append".into())
    }

    /// Makes everything appended durable.
    fn sync(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// What was appended is no longer needed; get ready for as much again. Between turns, not timed; with `Sustained`
    /// called by the appending thread every 64 MiB, timed.
    fn trim(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Bytes appended and not synced, for a log that can tell.
    fn unsynced(&self) -> Option<u64> {
        None
    }

    /// Closes it.
    fn close(self: Box<Self>) -> Result<(), Failure>;
}

/// Opens a fresh log in a directory.
pub(crate) type Open = fn(&Path, &Plan) -> Result<Box<dyn LogRival>, Failure>;

/// Hands over the payloads of a closed log, in order.
pub(crate) type Replay = fn(&Path, &Plan, &mut dyn FnMut(&[u8])) -> Result<(), Failure>;

/// How a log is opened and what it can do.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    /// Not a log: the device alone, to compare with.
    pub(crate) floor: bool,
    pub(crate) modes: &'static [Mode],
    pub(crate) threads_max: usize,
    /// One line: how it is set up, and what is particular about it.
    pub(crate) settings: &'static str,
    pub(crate) open: Open,
    pub(crate) replay: Option<Replay>,
}

impl Engine {
    /// Whether it takes part in `plan`.
    pub(crate) fn can(&self, plan: &Plan) -> bool {
        self.modes.contains(&plan.mode) && plan.threads <= self.threads_max
    }
}

/// The version of `package` in the lock file.
pub(crate) fn locked(package: &str) -> String {
    let lock = include_str!("../Cargo.lock");
    let name = format!("name = \"{package}\"");
    lock.lines()
        .skip_while(|line| *line != name)
        .find_map(|line| line.strip_prefix("version = "))
        .map_or_else(
            || "?".to_owned(),
            |version| version.trim_matches('"').to_owned(),
        )
}
