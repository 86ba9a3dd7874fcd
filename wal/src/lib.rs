//! A batched, memory-mapped write-ahead log.
//!
//! Frames are copied into preallocated, mapped segment files by as many threads as append, each published by
//! one word, and synced in groups by whoever waits first. A position (LSN) names a frame for ever, on every
//! node that holds it. The log knows nothing of keys.
//!
//! Write, crash, recover, tail, truncate (on files in memory that can lose their power, of the feature `sim`; leave `media`
//! out, and it is files of the operating system):
//!
//! ```
//! use esker_wal::{Create, Log, LogId, LogOptions, Lsn, NodeId, ReadLimit, media::sim::SimMedia};
//! use std::{path::Path, sync::Arc, thread, time::Duration};
//!
//! let media = SimMedia::new(1);
//! let create = Create { log: LogId::random(), node: NodeId::random(), base: Lsn::ZERO };
//! let options = || LogOptions {
//!     create: Some(create.clone()), // where there is none yet
//!     media: Arc::new(media.clone()),
//!     ..LogOptions::default()
//! };
//! let (log, _) = Log::open(Path::new("log"), options())?;
//! let hello = log.append(&[b"hello ", b"world"])?; // from here on it survives kill -9
//! log.sync_up_to(hello.end)?; // and from here on power loss
//! log.append(&[b"perhaps lost"])?;
//!
//! media.power_cut(7);
//! drop(log);
//! let (log, recovered) = Log::open(Path::new("log"), options())?;
//! assert!(!recovered.clean && recovered.end >= hello.end);
//! let mut reader = log.reader(hello.lsn, ReadLimit::Synced)?;
//! assert_eq!(&reader.next()?.expect("it was synced").payload[..], b"hello world");
//!
//! let mut tail = log.reader(log.published(), ReadLimit::Published)?;
//! let follower = thread::spawn(move || tail.next_wait(Some(Duration::from_secs(10))));
//! let news = log.append(&[b"news"])?;
//! assert_eq!(&follower.join().unwrap()?.expect("in time").payload[..], b"news");
//!
//! log.release(news.lsn); // what is older is no longer needed: whole segments are used again
//! log.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/` has a durable queue and an event store on the log alone.
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
mod damage;
mod error;
mod event;
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
mod slots;
mod spin;
mod stats;
mod survey;
mod ticket;
mod upkeep;
mod verify;

pub use append::epoch_of_control;
pub use damage::{Damage, DamageKind, LsnRange};
pub use error::{LogError, OpenError, Poison};
pub use esker_sync::events::{Received, Subscription};
pub use event::LogEvent;
pub use frame::Kind;
pub use ids::*;
pub use log::*;
pub use options::*;
pub use reader::*;
pub use reservation::*;
pub use rewind::Rewound;
pub use salvage::*;
pub use slots::{Slot, SlotState};
pub use stats::LogStats;
pub use survey::*;
pub use ticket::*;
pub use verify::*;
