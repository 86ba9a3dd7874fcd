//! What a command fails with.

use esker_lsm::StoreError;
use esker_wal::LogError;
use std::borrow::Cow;

/// Why a command has no reply but an error.
#[derive(Debug)]
pub enum CommandError {
    /// The error reply. The store was not changed.
    Text(Cow<'static, str>),
    /// The store failed.
    Store(StoreError),
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        CommandError::Store(error)
    }
}
impl From<&'static str> for CommandError {
    fn from(text: &'static str) -> Self {
        CommandError::Text(text.into())
    }
}
impl From<String> for CommandError {
    fn from(text: String) -> Self {
        CommandError::Text(text.into())
    }
}

/// `ERR syntax error`
pub(crate) const SYNTAX: &str = "ERR syntax error";
/// `ERR value is not an integer or out of range`
pub(crate) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// `ERR no such key`
pub(crate) const NO_SUCH_KEY: &str = "ERR no such key";
/// What stands before an option that EXPIRE has not, which as in Redis has no quotes.
pub(crate) const UNSUPPORTED: &str = "Unsupported option";
const CLOSING: &str = "ERR the server is shutting down";
/// `ERR string exceeds maximum allowed size (proto-max-bulk-len)`
pub(crate) const TOO_LARGE: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";

/// The error reply for a read that the store failed.
#[must_use]
pub fn store_error(error: &StoreError) -> Cow<'static, str> {
    match error {
        StoreError::Log(LogError::Closed) | StoreError::Closed => CLOSING.into(),
        error => format!("ERR {error}").into(),
    }
}

/// The error reply for a write that the store failed.
#[must_use]
pub fn write_error(error: &StoreError) -> Cow<'static, str> {
    match error {
        StoreError::Log(LogError::TooLarge { .. }) => TOO_LARGE.into(),
        StoreError::Log(LogError::Closed) | StoreError::Closed => CLOSING.into(),
        error => format!("MISCONF Writes are refused: {error}").into(),
    }
}
