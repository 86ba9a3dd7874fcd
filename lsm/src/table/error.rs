//! Why a table could not be written, opened or read.

use crate::StoreError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a table could not be written, opened or read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Bytes are not what was written. Never "not found" (T5).
    #[error(
        "{path}: damaged at offset {offset}: {what}; restore this file, or the node from a replica or a backup"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the damaged block begins.
        offset: u64,
        /// How it shows.
        what: String,
    },
    /// A newer build wrote it.
    #[error(
        "{path}: table format {found}, this build reads up to {supported}; upgrade before opening"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest known here.
        supported: u32,
    },
    /// A call failed.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The caller broke the order of entries, or a bound; nothing was added.
    #[error("{path}: {what}")]
    Misuse {
        /// The file.
        path: PathBuf,
        /// Which rule.
        what: String,
    },
}

impl TableError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        TableError::Io {
            doing,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }
}

impl From<TableError> for StoreError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Corrupt { path, offset, what } => {
                StoreError::Corrupt { path, offset, what }
            }
            TableError::Io {
                doing,
                path,
                source,
            } => StoreError::Io {
                doing,
                path,
                source,
            },
            other @ (TableError::NewerFormat { .. } | TableError::Misuse { .. }) => {
                StoreError::Background {
                    doing: "using a table",
                    cause: other.to_string(),
                    heals: false,
                }
            }
        }
    }
}
