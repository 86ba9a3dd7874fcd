//! `esker_sync::sequencer`, with LSNs: writes become visible in LSN order, whatever order their inserts end in.
//!
//! Everything below `visible` is in its memtable. Each frame is completed by its writer when inserted (or made void), by the one
//! who applies it on a replica, or by `note_log_frames`, when it is the log's own control frame, which nobody inserts. A writer that
//! failed between publish and insert leaves a hole that would never be filled: `fail` tells every waiter.

use esker_sync::sequencer as sync;
use esker_wal::Lsn;

pub(crate) use sync::Broken;

/// See the module.
#[derive(Debug)]
pub(crate) struct Sequencer(sync::Sequencer);

impl Sequencer {
    pub(crate) fn new(visible: Lsn) -> Sequencer {
        Sequencer(sync::Sequencer::new(visible.0))
    }

    /// Everything below is inserted.
    #[inline]
    pub(crate) fn visible(&self) -> Lsn {
        Lsn(self.0.visible())
    }

    /// The frame `lsn..end` is inserted.
    #[inline]
    pub(crate) fn complete(&self, lsn: Lsn, end: Lsn) {
        self.0.complete(lsn.0, end.0);
    }

    /// Tells every waiter that `visible` will not move.
    pub(crate) fn fail(&self) {
        self.0.fail();
    }

    /// Waits a little; whether everything below `end` is visible then.
    pub(crate) fn wait_briefly(&self, end: Lsn) -> bool {
        self.0.wait_briefly(end.0)
    }

    /// Waits until everything below `end` is visible.
    pub(crate) fn wait(&self, end: Lsn) -> Result<(), Broken> {
        self.0.wait(end.0)
    }
}
