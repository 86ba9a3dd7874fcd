//! What removed tables leave behind: their space, which goes back to the file system bit by bit.
//!
//! A file system that tells its disk of free space (ext4 and others mounted with `discard`) does so when it commits the removal, and syncs wait
//! for that: seen, 20 ms for a file of 64 MiB, and compactions leave ten of them. RocksDB's `SstFileManager` is there for the same.
//!
//! - RM1: the name goes at once; the space in pieces of [`PIECE`], each made durable, at [`RATES`] times [`crate::StoreOptions::background_rate`].
//!   Without such a rate, or where a file can't be cut, all of it goes with its last reader.
//! - RM2: nothing is cut that can be read: a file has no name then (a checkpoint may have given it another), and nobody has its table, nor has another
//!   store the file open, whose checkpoint it was, or which was opened where this one is now ([`MediaFile::keep_whole`]).
//! - RM3: it is not waited for. What is more than [`BYTES_MAX`] or [`FILES_MAX`] together, what is left at close, and all of it where no more than
//!   [`BYTES_MAX`] is free goes at once.

use super::Inner;
use crate::levels::LiveTable;
use crate::manifest::table_name;
use crate::table::Table;
use esker_wal::media::MediaFile;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Cut from a file at once.
const PIECE: u64 = 1 << 20;
/// To free is that much cheaper than to write.
const RATES: u64 = 4;
const BYTES_MAX: u64 = 1 << 30;
const FILES_MAX: usize = 256;
/// Between looks whether those who read are done.
const LOOK: Duration = Duration::from_millis(200);

/// A file without a name.
#[derive(Debug)]
struct Remnant {
    table: Weak<Table>,
    file: Arc<dyn MediaFile>,
    len: u64,
}

/// The oldest first.
#[derive(Debug, Default)]
pub(super) struct Remains(VecDeque<Remnant>);

impl Remains {
    /// RM3.
    fn bound(&mut self) {
        let mut bytes: u64 = self.0.iter().map(|r| r.len).sum();
        while (bytes > BYTES_MAX || self.0.len() > FILES_MAX)
            && let Some(gone) = self.0.pop_front()
        {
            bytes -= gone.len;
        }
    }

    /// Cuts a piece off the first that nobody reads. False: of none.
    fn cut(&mut self) -> bool {
        // Without a view that names it nobody gets at a table anew.
        let Some(at) = self.0.iter().position(|r| r.table.strong_count() == 0) else {
            return false;
        };
        let remnant = &mut self.0[at];
        let left = remnant.len.saturating_sub(PIECE);
        match remnant.file.cut_nameless(left) {
            Ok(true) if left > 0 => remnant.len = left,
            Ok(_) => drop(self.0.remove(at)),
            Err(error) => {
                tracing::debug!(%error, "a removed table can't be cut; its space is freed at once");
                self.0.remove(at);
            }
        }
        true
    }
}

impl Inner {
    /// Whether space is given back bit by bit (RM1).
    pub(super) fn frees_at_leisure(&self) -> bool {
        self.options.background_rate > 0 && !self.stepped
    }

    /// Removes tables that no view names any more.
    pub(super) fn retire<'a>(&self, tables: impl Iterator<Item = &'a Arc<LiveTable>>) {
        let mut left = Vec::new();
        for live in tables {
            let path = self.tables.join(table_name(live.meta.file));
            // One that is damaged, or can't be opened, is freed as it is removed.
            if self.frees_at_leisure()
                && let Ok(table) = live.table()
                && let Ok(file) = self.context.media.open_rw(&path)
            {
                let (table, len) = (Arc::downgrade(table), table.file_bytes());
                left.push(Remnant { table, file, len });
            }
            self.remove_tables([live.meta.file]);
        }
        if !left.is_empty() {
            let mut remains = self.remains.lock();
            remains.0.extend(left);
            remains.bound();
            drop(remains);
            self.remains_bell.ring();
        }
    }

    /// RM3. At the close, once nobody compacts any more.
    pub(super) fn drop_remains(&self) {
        self.remains.lock().0.clear();
    }

    /// RM3: somebody may soon want what is held back.
    fn is_short(&self) -> bool {
        let free = self.context.media.free_bytes(&self.tables);
        self.room.is_full() || free.is_ok_and(|free| free < BYTES_MAX)
    }

    /// The worker's loop.
    pub(super) fn remains_loop(&self) {
        let pause = u128::from(PIECE) * 1_000_000_000
            / u128::from(self.options.background_rate.saturating_mul(RATES).max(1));
        let pause = Duration::from_nanos(u64::try_from(pause).unwrap_or(u64::MAX));
        loop {
            let seen = self.remains_bell.rings();
            if self.room.is_closing() {
                return;
            }
            let mut remains = self.remains.lock();
            if !remains.0.is_empty() && self.is_short() {
                remains.0.clear();
            }
            let wait = match remains.cut() {
                true => Some(pause),
                false if remains.0.is_empty() => None,
                false => Some(LOOK),
            };
            drop(remains);
            self.remains_bell.wait(seen, wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esker_wal::media::Media;
    use esker_wal::media::real::RealMedia;

    fn bounded(lens: impl Iterator<Item = u64>) -> Vec<u64> {
        let dir = tempfile::tempdir().unwrap();
        let file = RealMedia::default().create(&dir.path().join("a"), 0);
        let file = file.unwrap();
        let remnant = |len| Remnant {
            table: Weak::new(),
            file: file.clone(),
            len,
        };
        let mut remains = Remains(lens.map(remnant).collect());
        remains.bound();
        remains.0.iter().map(|r| r.len).collect()
    }

    #[test]
    fn rm3_what_is_too_much_goes_at_once_the_oldest_first() {
        let half = BYTES_MAX / 2;
        assert_eq!(bounded([half, half].into_iter()), [half, half]);
        assert_eq!(bounded([half, half, 1].into_iter()), [half, 1]);
        assert_eq!(bounded([BYTES_MAX + 1].into_iter()), []);
        let many = bounded(0..FILES_MAX as u64 + 2);
        assert_eq!((many.len(), many[0]), (FILES_MAX, 2));
    }
}
