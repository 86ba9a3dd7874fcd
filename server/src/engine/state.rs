//! State that somebody else keeps, under a [`super::Txn`]: what a replicated command runs on.
//!
//! - ES1: keys and values stand there as in a store of the engine's (see [`super::keys`] and [`super::value`]).
//! - ES2: a transaction on it changes nothing; what it wants changed is handed out by [`super::Txn::into_changes`].

use bytes::Bytes;
use esker_lsm::StoreError;
use std::ops::{Bound, ControlFlow};

/// What [`State::scan`] calls for each stored key with its stored value.
pub type Visit<'a> = dyn FnMut(&[u8], Bytes) -> Result<ControlFlow<()>, StoreError> + 'a;

/// See the module.
pub trait State {
    /// The time that deadlines are compared with, in milliseconds since 1970.
    fn now(&mut self) -> Result<i64, StoreError>;
    /// From when on the time that is left until a deadline is counted: no earlier. Another than [`State::now`] where that stands still while nobody writes.
    fn clock(&mut self) -> Result<i64, StoreError> {
        self.now()
    }
    /// The stored value of a stored key.
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    /// Where what a stored key holds was written: another place for each write of it, the same on all nodes; 0 where there is nothing.
    fn written(&mut self, key: &[u8]) -> Result<u64, StoreError>;
    /// Walks the stored keys of users from `start` on, until `visit` breaks.
    fn scan(&mut self, start: Bound<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StoreError>;
}

/// What a transaction wants changed; keys and values as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Set a key.
    Put(Vec<u8>, Vec<u8>),
    /// Delete a key.
    Delete(Vec<u8>),
    /// Delete all keys of users.
    Clear,
}

impl Change {
    /// Bytes of key and value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Change::Put(key, value) => key.len() + value.len(),
            Change::Delete(key) => key.len(),
            Change::Clear => 0,
        }
    }
}
