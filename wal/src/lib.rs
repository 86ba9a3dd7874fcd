//! A batched, memory-mapped write-ahead log.
//!
//! Frames are copied into preallocated, mapped segment files by as many threads as append, each published by
//! one word, and synced in groups by whoever waits first. A position (LSN) names a frame for ever, on every
//! node that holds it. The log knows nothing of keys.
//!
//! ```
//! use esker_wal::{Create, Log, LogId, LogOptions, Lsn, NodeId, ReadLimit};
//!
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let create = Create { log: LogId::random(), node: NodeId::random(), base: Lsn::ZERO };
//! let options = LogOptions { create: Some(create), segment_bytes: 1 << 20, ..LogOptions::default() };
//! let (log, recovered) = Log::open(dir, options)?;
//! assert!(recovered.created);
//!
//! let appended = log.append(&[b"hello ", b"world"])?; // survives kill -9 once published
//! log.sync_up_to(appended.end)?; // survives power loss
//!
//! let mut reader = log.reader(appended.lsn, ReadLimit::Synced)?;
//! assert_eq!(&reader.next()?.expect("a frame").payload[..], b"hello world");
//! log.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it promises (W1-W10) is in the design; what each module keeps is numbered in its header. What it is not: a
//! queue (there is one history, kept until released), a store, or replication.
//!
//! Limits: a payload is 64 MiB at most by default and 256 MiB at the very most (one that a segment can't hold gets one of its own);
//! segments are 16 KiB to 1 GiB; one process at a time opens a directory; 64-bit little-endian machines with 4 KiB pages are what it is tested on.
#![deny(missing_docs)]
#![deny(unsafe_code)]

mod append;
mod cursor;
mod error;
mod flush;
pub mod frame;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod fuzzing;
pub mod ids;
mod large;
mod log;
#[expect(unsafe_code, reason = "the mapping")]
pub mod media;
mod meta;
mod options;
mod populate;
mod prepare;
mod reader;
mod recovery;
mod repair;
mod reservation;
mod rewind;
#[cfg_attr(not(feature = "sabotage"), doc(hidden))]
pub mod sabotage;
mod salvage;
#[expect(unsafe_code, reason = "the mapping")]
mod segment;
mod shared;
mod survey;
mod ticket;
mod upkeep;
mod verify;

pub use append::epoch_of_control;
pub use error::{LogError, OpenError, Poison};
pub use frame::Kind;
pub use ids::*;
pub use log::*;
pub use options::*;
pub use reader::*;
pub use reservation::*;
pub use rewind::Rewound;
pub use salvage::*;
pub use survey::*;
pub use ticket::*;
pub use verify::*;
