//! `esker-lsm`: an LSM key-value store on the Esker log.
//!
//! A batch of operations is one frame of the log; the frame's LSN plus the operation's ordinal is its SeqNo, the order of
//! visibility. Writes go to the log and a memtable; full memtables become tables in the background, and tables are
//! merged down the levels. Readers see a consistent view at a SeqNo.
//!
//! With [`Store::open_external`] the log is the caller's, and the store applies its entries. [`Store::checkpoint`] makes a copy of hard links.
//!
//! What it is not: it has no transactions (batches are atomic, snapshots consistent, [`Store::write_if`] makes a batch depend on values, other
//! conflicts are the caller's business), no secondary indexes, and keys and values are bytes.
//!
//! ```
//! use esker_lsm::{Store, StoreOptions, WriteBatch};
//! use esker_wal::{Create, LogId, Lsn, NodeId};
//! use std::ops::Bound;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let tmp = tempfile::tempdir()?;
//! # let dir = tmp.path();
//! let mut options = StoreOptions::default();
//! # options.log.segment_bytes = 64 << 10;
//! options.log.create = Some(Create { log: LogId::random(), node: NodeId::random(), base: Lsn::ZERO });
//! let (store, _recovered) = Store::open(dir, options)?;
//!
//! let mut batch = WriteBatch::new();
//! batch.put(b"apple", b"red");
//! batch.put(b"pear", b"green");
//! let written = store.write(&batch)?;
//! store.log().sync_up_to(written.end)?; // now it survives power loss
//!
//! assert_eq!(store.get(b"pear")?.value.as_deref(), Some(&b"green"[..]));
//! let snapshot = store.snapshot();
//! let keys: Vec<_> = store
//!     .scan(&snapshot, Bound::Unbounded, Bound::Unbounded)?
//!     .rev()
//!     .map(|entry| entry.map(|e| e.key))
//!     .collect::<Result<_, _>>()?;
//! assert_eq!(keys, ["pear", "apple"]);
//! store.close()?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod batch;
mod error;
pub mod iter;
mod levels;
mod manifest;
mod memtable;
mod options;
pub mod sabotage;
mod seqno;
mod sequencer;
mod snapshot;
mod store;
pub mod table;
mod varint;

pub use batch::{BatchError, BatchReader, Op, WriteBatch};
pub use error::{OpenError, StoreError};
pub use options::StoreOptions;
pub use seqno::SeqNo;
pub use snapshot::Snapshot;
pub use store::{
    Checkpoint, Condition, Conditional, Entry, EntryBatch, ExternalLog, Found, RoomGuard, Scan,
    Store, StoreRecovered, StoreStats, Written, remove_checkpoint,
};
