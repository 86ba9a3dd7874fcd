//! What is found wrong with a trail.

use crate::chain::Break;
use std::fmt;
use std::path::{Path, PathBuf};

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// Entries are missing in the middle, or a file is.
    Missing,
    /// An entry stands where it was before, or before where it belongs.
    Reordered,
    /// An entry was changed, or written by somebody without the key.
    Changed,
    /// Bytes are not what was written: bit rot, or an edit that did not try to hide.
    Damaged,
    /// A closed file ends before it should.
    Cut,
    /// The last entries are missing.
    TailCut,
    /// A file of another trail, or under another's name.
    Foreign,
    /// A signature is not that of its key.
    Signature,
    /// It names a key that the keyring does not have, where others of the trail are there.
    Key,
    /// `HEAD` is missing or not what was written.
    Head,
    /// `TRAIL` is missing or not what was written.
    Identity,
    /// The trail is an older one than the checkpoint saw.
    OldCopy,
    /// The trail at the checkpoint's sequence is another than it saw.
    Forked,
}

impl FindingKind {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::Missing => "missing",
            FindingKind::Reordered => "reordered",
            FindingKind::Changed => "changed",
            FindingKind::Damaged => "damaged",
            FindingKind::Cut => "cut",
            FindingKind::TailCut => "tail cut",
            FindingKind::Foreign => "foreign",
            FindingKind::Signature => "signature",
            FindingKind::Key => "key",
            FindingKind::Head => "head",
            FindingKind::Identity => "identity",
            FindingKind::OldCopy => "old copy",
            FindingKind::Forked => "forked",
        }
    }
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// In which file or directory.
    pub path: PathBuf,
    /// At which sequence, where that is known: the first that is wrong or missing.
    pub sequence: Option<u64>,
    /// In words.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.kind.name())?;
        if let Some(sequence) = self.sequence {
            write!(f, " at record {sequence}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl Finding {
    pub(crate) fn of_break(broken: Break, expected: u64, at: Option<u64>, path: &Path) -> Finding {
        let (kind, sequence, what) = match broken {
            Break::Missing { until } => (
                FindingKind::Missing,
                expected,
                format!("records {expected} to {} are missing", until - 1),
            ),
            Break::Again => (
                FindingKind::Reordered,
                at.unwrap_or(expected),
                format!(
                    "record {} stands where {expected} belongs",
                    at.unwrap_or(expected)
                ),
            ),
            Break::Changed => (
                FindingKind::Changed,
                expected,
                "its hash is not that of its bytes behind the record before".to_owned(),
            ),
            Break::WrongKey => (
                FindingKind::Changed,
                expected,
                "it is written with a key that no record began".to_owned(),
            ),
            Break::NoKey(key) => (
                FindingKind::Changed,
                expected,
                format!("its key {key} is not in the keyring"),
            ),
        };
        Finding {
            kind,
            path: path.to_owned(),
            sequence: Some(sequence),
            what,
        }
    }
}
