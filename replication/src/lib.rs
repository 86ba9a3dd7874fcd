//! `esker-replication`: streams an Esker log from a primary to replicas over ZeroMQ.
//!
//! The very frames of the log are sent and appended at the same LSN (R1), in order and without a gap,
//! under credit that the replica grants (R2). A primary knows how far each replica has received, synced
//! and applied, so that a caller can make a write wait for `n` of them (R3).
//!
//! ```
//! use esker_lsm::{Store, StoreOptions, WriteBatch};
//! use esker_replication::{Ack, Primary, PrimaryOptions, Replica, ReplicaOptions, datadir::DataDir};
//! use esker_wal::{Create, LogId, Lsn};
//! use std::sync::Arc;
//!
//! # let dir = std::env::temp_dir().join(format!("esker-repl-doc-{}", std::process::id()));
//! let data = DataDir::open(&dir.join("primary"))?;
//! let mut options = StoreOptions::default();
//! # options.log.segment_bytes = 1 << 20;
//! # options.log.payload_bytes_max = 64 << 10;
//! options.log.create = Some(Create { log: LogId::random(), node: data.node(), base: Lsn::ZERO });
//! let (store, _) = Store::open(data.path(), options)?;
//! let mut options = PrimaryOptions::new(store.clone());
//! options.listen = "tcp://127.0.0.1:*".into(); // any free port
//! let primary = Primary::start(options)?;
//!
//! let data = Arc::new(DataDir::open(&dir.join("replica"))?);
//! let mut options = ReplicaOptions::new(data, &primary.endpoint());
//! # options.store.log.segment_bytes = 1 << 20;
//! # options.store.log.payload_bytes_max = 64 << 10;
//! let replica = Replica::start(options)?;
//!
//! let mut batch = WriteBatch::new();
//! batch.put(b"key", b"value");
//! let written = store.write(&batch)?;
//! store.log().sync_up_to(written.end)?;
//! while primary.position(Ack::Durable, 1) < written.end {
//!     std::thread::sleep(std::time::Duration::from_millis(1)); // or `primary.watch`
//! }
//! let found = replica.store().expect("it has frames").get(b"key")?;
//! assert_eq!(found.value.as_deref(), Some(&b"value"[..]));
//!
//! replica.close()?;
//! primary.close();
//! store.close()?;
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Not here yet: frames that are published and not yet synced, rewinding, rebuilding from a checkpoint
//! (R4, R5). A replica that would need one is refused with an error that says so.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod datadir;
mod error;
mod options;
mod primary;
pub mod protocol;
mod replica;
mod status;
pub mod transport;

pub use error::{Refusal, ReplicationError};
pub use options::{
    ExpiryClock, ExpiryListener, PrimaryKeys, PrimaryOptions, ReplicaKeys, ReplicaOptions, Timing,
};
pub use primary::{Primary, ProgressGuard};
pub use replica::{FollowGuard, Replica};
pub use status::{Ack, FollowState, FollowStatus, ReplicaStatus};

use esker_lsm::Store;
use esker_wal::EpochStart;

/// Finishes a promotion that a crash cut short between its durable role and its epoch (D4): where the
/// role record is of a primary with a higher number than the log's, begins that epoch. Call it on a
/// store opened for writing, before the first write; it does nothing where there is nothing to do.
pub fn resume_promotion(
    data: &datadir::DataDir,
    store: &Store,
) -> Result<Option<EpochStart>, ReplicationError> {
    let number = store.log().epoch().number;
    match data.role() {
        Some(record) if record.role == datadir::Role::Primary && record.epoch > number => {
            begin_epoch(store, record.epoch).map(Some)
        }
        _ => Ok(None),
    }
}

/// Begins an epoch and lets the store step over its control frame.
pub(crate) fn begin_epoch(store: &Store, number: u64) -> Result<EpochStart, ReplicationError> {
    Ok(store.begin_epoch(number)?)
}
