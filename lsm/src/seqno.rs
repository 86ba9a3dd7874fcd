//! Order of visibility.

use esker_wal::Lsn;
use std::fmt;

/// Order of visibility: the frame's LSN plus the operation's ordinal in it.
///
/// A frame is longer than it has operations, so the SeqNos of a frame lie in `lsn..end`, and a
/// position between frames (an LSN) compares with them as it should: an operation is below a
/// frame boundary exactly when its frame is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqNo(pub u64);

impl SeqNo {
    /// Above every operation.
    pub const MAX: SeqNo = SeqNo(u64::MAX);
}

impl From<Lsn> for SeqNo {
    fn from(lsn: Lsn) -> SeqNo {
        SeqNo(lsn.0)
    }
}

impl fmt::Display for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
