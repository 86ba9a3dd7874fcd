//! A checkpoint: the live tables under a second name, and a manifest of their own, in a directory that opens as a store.
//!
//! - CP1: it holds everything below [`Checkpoint::end`] and nothing above: what was visible when it was asked for is flushed first, and tables
//!   hold whole entries.
//! - CP2: it is complete exactly when its `CURRENT` is there, which is made last, after what it leads to is durable. What a crash leaves of one
//!   has none, and is removed by the next checkpoint there. What goes goes after `CURRENT` has gone for good: a removal that a killed process
//!   left unsynced is synced before the next file.
//! - CP3: tables never change, so nothing is copied; one that the store drops later lives on under its other name.
//! - CP4: what is read of one while it is made ([`crate::Store::checkpoint_and_read`]) is what it holds, whatever is written meanwhile: it is read from
//!   its tables.

use super::Inner;
use crate::levels::Levels;
use crate::manifest::{CURRENT, FileKind, Manifest, file_kind, table_name};
use crate::{SeqNo, StoreError, sabotage};
use bytes::Bytes;
use esker_wal::media::Media;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the tables of a store's directory are.
pub(super) const TABLES: &str = "tables";

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Everything below is in it.
    pub end: SeqNo,
    /// Its files, relative to its directory, and their bytes; `tables/CURRENT`, which makes it complete, is the last.
    pub files: Vec<(PathBuf, u64)>,
}

/// Removes the files of a checkpoint, a complete one's `CURRENT` first. The directories stay. Nothing there is no error.
pub fn remove_checkpoint(media: &dyn Media, dir: &Path) -> Result<(), StoreError> {
    let tables = dir.join(TABLES);
    let there = media.exists(&tables);
    if !there.map_err(|e| StoreError::io("looking for", &tables, e))? {
        return Ok(());
    }
    let names: Vec<String> = media
        .list(&tables)
        .map_err(|e| StoreError::io("listing", &tables, e))?
        .into_iter()
        .filter(|entry| !entry.is_dir && file_kind(&entry.name) != FileKind::Foreign)
        .map(|entry| entry.name)
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let remove = |name: &str| {
        let path = tables.join(name);
        match media.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("removing", &path, error))
            }
            _ => Ok(()),
        }
    };
    let sync = || {
        media
            .sync_dir(&tables)
            .map_err(|e| StoreError::io("syncing", &tables, e))
    };
    let here = names.iter().any(|name| name == CURRENT);
    remove(CURRENT)?;
    if here || !sabotage::on(sabotage::REMOVAL_NOT_SYNCED) {
        sync()?;
    }
    names.iter().try_for_each(|name| remove(name))?;
    sync()
}

impl Inner {
    /// The tables of the second are those of the checkpoint.
    fn checkpoint(&self, to: &Path) -> Result<(Checkpoint, Arc<Levels>), StoreError> {
        let media = &self.context.media;
        let tables = to.join(TABLES);
        if tables == self.tables {
            return Err(StoreError::io(
                "making a checkpoint in",
                to,
                io::ErrorKind::AlreadyExists.into(),
            ));
        }
        self.flush_all()?;
        media
            .create_dir_all(&tables)
            .map_err(|e| StoreError::io("creating", &tables, e))?;
        let current = tables.join(CURRENT);
        let complete = media.exists(&current);
        if complete.map_err(|e| StoreError::io("looking for", &current, e))? {
            return Err(StoreError::io(
                "making a checkpoint in",
                to,
                io::ErrorKind::AlreadyExists.into(),
            ));
        }
        remove_checkpoint(&**media, to)?;
        let made = self.link_all(&tables);
        if made.is_err() {
            // Tidiness; the next try begins with it.
            let _ = remove_checkpoint(&**media, to);
        }
        made
    }

    pub(super) fn checkpoint_and_read(
        &self,
        to: &Path,
        key: Option<&[u8]>,
    ) -> Result<(Checkpoint, Option<Bytes>), StoreError> {
        let (made, levels) = self.checkpoint(to)?;
        // CP4.
        let Some(key) = key else {
            return Ok((made, None));
        };
        match levels.get(key, SeqNo::MAX) {
            Ok(found) => Ok((made, found.and_then(|hit| hit.value))),
            Err(error) => {
                // As where it could not be made.
                let _ = remove_checkpoint(&*self.context.media, to);
                Err(error)
            }
        }
    }

    fn link_all(&self, to: &Path) -> Result<(Checkpoint, Arc<Levels>), StoreError> {
        let media = &self.context.media;
        // While it is held no edit takes effect, and a table is removed only after one that drops it.
        let manifest = self.manifest.lock();
        let listed = manifest.listed().clone();
        // Levels change under it alone, too.
        let view = self.view.load_full();
        if view.closed {
            return Err(StoreError::Closed);
        }
        let levels = view.levels.clone();
        drop(view);
        let mut files = Vec::with_capacity(listed.tables.len() + 2);
        for (_, meta) in &listed.tables {
            let name = table_name(meta.file);
            let (from, to) = (self.tables.join(&name), to.join(&name));
            media
                .hard_link(&from, &to)
                .map_err(|e| StoreError::io("linking", &to, e))?;
            files.push((Path::new(TABLES).join(name), meta.bytes));
        }
        if !sabotage::on(sabotage::DIR_NOT_SYNCED) {
            media
                .sync_dir(to)
                .map_err(|e| StoreError::io("syncing", to, e))?;
        }
        let end = listed.flushed.into();
        let mut copy = Manifest::copy(media, to, self.context.log, listed);
        copy.renew()?;
        drop(manifest);
        for name in [copy.file_name(), CURRENT.to_owned()] {
            let path = to.join(&name);
            let bytes = media
                .open(&path)
                .and_then(|file| file.len())
                .map_err(|e| StoreError::io("reading", &path, e))?;
            files.push((Path::new(TABLES).join(name), bytes));
        }
        Ok((Checkpoint { end, files }, levels))
    }
}
