//! The engines; adding one is a file here and a line in `all`.

mod esker;
#[cfg(feature = "products")]
mod fjall;
mod floor;
#[cfg(feature = "products")]
mod okaywal;
#[cfg(feature = "products")]
mod raft_engine;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod simplest;
#[cfg(feature = "products")]
mod walrus;

use crate::rival::Engine;

pub(crate) use esker::hand_over;

/// All that were built in, in the order in which they are printed.
pub(crate) fn all() -> Vec<Engine> {
    vec![
        floor::synced_write(),
        floor::direct_write(),
        simplest::written(),
        simplest::direct(),
        esker::engine(),
        #[cfg(feature = "products")]
        raft_engine::engine(),
        #[cfg(feature = "products")]
        okaywal::engine(),
        #[cfg(feature = "products")]
        walrus::engine(),
        #[cfg(feature = "products")]
        fjall::engine(),
        #[cfg(feature = "rocksdb")]
        rocksdb::engine(),
    ]
}
