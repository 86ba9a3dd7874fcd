//! Esker: a storage engine for people who build databases and for people who run them.
//!
//! This crate is a facade. It re-exports the parts, each a crate of its own that can be used alone:
//!
//! - [`wal`]: a batched, memory-mapped write-ahead log. It knows nothing of keys.
//! - [`lsm`]: an LSM key-value store whose only log is that one.
//! - `replication` (feature `replication`; builds libzmq): the log streamed to replicas, frame by frame.
//! - `audit` (feature `audit`): a tamper-evident audit trail.
//! - [`sync`]: the concurrency primitives under them.
//!
//! What each promises is numbered (W1, L3, R2, ...) in the repository's ARCHITECTURE.md. What it is not: it has no SQL, no
//! transactions over several keys beyond atomic batches, and no async runtime; it runs on 64-bit Linux.
//!
//! ```
//! use esker::{Create, LogId, Lsn, NodeId, Store, StoreOptions, WriteBatch};
//! use std::ops::Bound;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let dir = scratch.path().join("store");
//! let mut options = StoreOptions::default();
//! options.log.create = Some(Create { log: LogId::random(), node: NodeId::random(), base: Lsn::ZERO });
//! let (store, _recovered) = Store::open(&dir, options)?;
//!
//! let mut batch = WriteBatch::new();
//! batch.put(b"tree:oak", b"Quercus");
//! batch.put(b"tree:yew", b"Taxus");
//! let written = store.write(&batch)?; // atomic, visible, survives kill -9
//! store.log().sync_up_to(written.end)?; // survives power loss
//!
//! assert_eq!(store.get(b"tree:oak")?.value.as_deref(), Some(&b"Quercus"[..]));
//! for entry in store.scan(&store.snapshot(), Bound::Included(b"tree:"), Bound::Unbounded)? {
//!     let entry = entry?;
//!     println!("{:?} is {:?}", entry.key, entry.value);
//! }
//! store.close()?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "audit")]
pub use esker_audit as audit;
pub use esker_lsm as lsm;
#[cfg(feature = "replication")]
pub use esker_replication as replication;
pub use esker_sync as sync;
pub use esker_wal as wal;

pub use esker_lsm::{SeqNo, Snapshot, Store, StoreOptions, WriteBatch};
pub use esker_wal::{Create, Log, LogId, LogOptions, Lsn, NodeId};

// The example of the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
