//! What a log tells those who watch it; see [`crate::Log::events`]. Each event is traced as well.

use crate::error::Poison;
use crate::ids::{Lsn, SegmentId};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Something that happened to a log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LogEvent {
    /// A segment was closed, the next one is written to.
    Rotated {
        /// The one that was closed.
        segment: SegmentId,
        /// Its frames.
        base: Lsn,
        /// Where they end.
        end: Lsn,
    },
    /// The oldest segment was given back; what is below `oldest` is gone.
    Released {
        /// The one that went.
        segment: SegmentId,
        /// The oldest LSN held now.
        oldest: Lsn,
        /// Whether its file is used again.
        recycled: bool,
    },
    /// A slot holds nearly as much as it may; past that it is lost.
    SlotAtRisk {
        /// Its name.
        name: String,
        /// Where it stands.
        position: Lsn,
        /// Bytes from there to the end.
        held_bytes: u64,
        /// Age of the segment there.
        age: Duration,
        /// Bytes free on the disk; `u64::MAX` where that is not asked.
        free_bytes: u64,
    },
    /// A slot was past its cap: it holds the log no more.
    SlotLost {
        /// Its name.
        name: String,
        /// Where it stands.
        position: Lsn,
        /// Bytes from there to the end.
        held_bytes: u64,
        /// Age of the segment there.
        age: Duration,
        /// Bytes free on the disk; `u64::MAX` where that is not asked.
        free_bytes: u64,
    },
    /// No segment could be prepared; appends fail once what is prepared is used up.
    NoSpace {
        /// Of the log.
        dir: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// After [`LogEvent::NoSpace`] one could be prepared.
    RoomAgain {
        /// Of the log.
        dir: PathBuf,
    },
    /// The log takes no more appends until it is reopened.
    Poisoned(Poison),
    /// The log was rewound, and has ended.
    Rewound {
        /// Where it goes on.
        fork: Lsn,
        /// Where it ended.
        end: Lsn,
    },
}

impl LogEvent {
    /// For a person who reads the trace.
    pub(crate) fn trace(&self) {
        match self {
            LogEvent::Rotated { segment, base, end } => {
                tracing::debug!(%segment, %base, %end, "log segment closed");
            }
            LogEvent::Released {
                segment,
                oldest,
                recycled,
            } => tracing::debug!(%segment, %oldest, recycled, "log segment released"),
            LogEvent::SlotAtRisk {
                name,
                position,
                held_bytes,
                age,
                free_bytes,
            } => tracing::warn!(
                slot = name,
                %position,
                held_bytes,
                ?age,
                free_bytes,
                "slot is near its cap; past it, its consumer has to resynchronise"
            ),
            LogEvent::SlotLost {
                name,
                position,
                held_bytes,
                age,
                free_bytes,
            } => tracing::warn!(
                slot = name,
                %position,
                held_bytes,
                ?age,
                free_bytes,
                "slot is past its cap and lost"
            ),
            LogEvent::NoSpace { dir, source } => {
                tracing::warn!(dir = %dir.display(), %source, "no segment could be prepared");
            }
            LogEvent::RoomAgain { dir } => {
                tracing::info!(dir = %dir.display(), "a segment could be prepared again");
            }
            LogEvent::Poisoned(poison) => tracing::error!(%poison, "log poisoned"),
            LogEvent::Rewound { fork, end } => tracing::warn!(%fork, %end, "log rewound"),
        }
    }
}
