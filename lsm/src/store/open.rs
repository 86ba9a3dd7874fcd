//! Open: log, manifest, tables, replay.
//!
//! - U1: nothing is removed, released or flushed before what was read is known to be whole: every table named is there, and
//!   the log holds what is not in tables.
//! - U2: what the manifest says is made durable anew (A3) before anything is done on its account. Without room for that
//!   the store opens all the same: nothing is removed, the first flush tries again, and until a manifest stands nothing counts as
//!   durable but what was there when the store was made; so no external log forgets what the power may take back.
//! - U3: replay begins at the flushed LSN. Its memory is bounded as a running store's: full memtables are frozen, and
//!   flushed here where more of them pile up than may.
//! - U4: a table that is damaged does not keep the store from opening; reads of its keys, and compactions that need it,
//!   report it (L4).

use super::checkpoint::TABLES;
use super::flush::Turn;
use super::journal::{External, ExternalLog, Journal};
use super::room::Room;
use super::{Inner, StoreRecovered, View};
use crate::batch::{BATCH_FORMAT, BatchError, BatchReader};
use crate::levels::{Levels, LiveTable};
use crate::manifest::{FileKind, Manifest, file_kind, table_name};
use crate::memtable::Blank;
use crate::sabotage;
use crate::sequencer::Sequencer;
use crate::snapshot::Snapshots;
use crate::table::{BlockCache, Table, TableContext, TableError, TableOptions};
use crate::{OpenError, StoreError, StoreOptions};
use arc_swap::ArcSwap;
use esker_sync::skiplist::Chunks;
use esker_wal::media::{DirEntry, Media};
use esker_wal::{Kind, Log, LogId, Lsn, ReadLimit, Workers};
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Taken by who has a store without a log of its own open; an own log has a lock itself.
const LOCK: &str = "LOCK";

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io {
        doing,
        path,
        source,
    }
}

impl Inner {
    pub(super) fn open(
        dir: &Path,
        options: StoreOptions,
    ) -> Result<(Inner, StoreRecovered), OpenError> {
        options.check()?;
        let (log, recovered) = Log::open(&dir.join("log"), options.log.clone())?;
        let opened = Inner::open_on(dir, options, &log, recovered);
        if opened.is_err() {
            // The first error is the one to report; drop would close it as well, later.
            let _ = log.close();
        }
        opened
    }

    pub(super) fn open_external(
        dir: &Path,
        options: StoreOptions,
        external: ExternalLog,
    ) -> Result<Inner, OpenError> {
        options.check()?;
        let media = options.log.media.clone();
        media
            .create_dir_all(dir)
            .map_err(io_error("creating", dir))?;
        let lock = media.lock(&dir.join(LOCK)).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked {
                dir: dir.to_owned(),
            },
            _ => io_error("locking", dir)(e),
        })?;
        let beginning = Beginning {
            id: external.id,
            base: Lsn(external.base.0),
            born: true,
        };
        let (manifest, entries) = Inner::list(dir, &options, beginning)?;
        let flushed = manifest.listed().flushed;
        let journal = Journal::External(External::new(flushed, lock));
        let (inner, durable) = Inner::on_tables(dir, options, journal, beginning, manifest)?;
        if durable {
            inner.remove_leftovers(&entries);
        }
        Ok(inner)
    }

    /// Reads the manifest, and lists the directory of tables.
    fn list(
        dir: &Path,
        options: &StoreOptions,
        beginning: Beginning,
    ) -> Result<(Manifest, Vec<DirEntry>), OpenError> {
        let media = &options.log.media;
        let tables = dir.join(TABLES);
        media
            .create_dir_all(&tables)
            .map_err(io_error("creating", &tables))?;
        let entries = media.list(&tables).map_err(io_error("listing", &tables))?;
        let manifest = read_manifest(media, &tables, &entries, beginning)?;
        Ok((manifest, entries))
    }

    fn open_on(
        dir: &Path,
        options: StoreOptions,
        log: &Log,
        recovered: esker_wal::Recovered,
    ) -> Result<(Inner, StoreRecovered), OpenError> {
        let epochs = log.epochs();
        let beginning = Beginning {
            id: log.log_id(),
            base: log.oldest(),
            born: epochs.first().is_none_or(|e| e.begin >= log.oldest()),
        };
        let (manifest, entries) = Inner::list(dir, &options, beginning)?;
        let flushed = manifest.listed().flushed;
        if flushed < log.oldest() || flushed > log.published() {
            return Err(OpenError::LogMismatch {
                dir: dir.join(TABLES),
                flushed,
                oldest: log.oldest(),
                end: log.published(),
            });
        }
        let journal = Journal::Own(log.clone());
        let (inner, durable) = Inner::on_tables(dir, options, journal, beginning, manifest)?;
        if durable {
            inner.remove_leftovers(&entries);
        }
        let replayed_frames = inner.replay(log, flushed)?;
        if durable {
            log.release(flushed);
        }
        let tables = inner.view.load().levels.table_count();
        let recovered = StoreRecovered {
            log: recovered,
            tables,
            replayed_frames,
            replayed_from: flushed,
        };
        Ok((inner, recovered))
    }

    /// The store that the manifest names, and whether the manifest could be made durable anew (U2).
    fn on_tables(
        dir: &Path,
        options: StoreOptions,
        journal: Journal,
        beginning: Beginning,
        mut manifest: Manifest,
    ) -> Result<(Inner, bool), OpenError> {
        let tables = dir.join(TABLES);
        let flushed = manifest.listed().flushed;
        let context = TableContext {
            media: options.log.media.clone(),
            log: beginning.id,
            cache: Arc::new(BlockCache::new(options.cache_bytes)),
        };
        let levels = open_tables(&context, &tables, &manifest)?;

        // As much as one memtable has: what a flush frees goes to the one that is filling up.
        let chunks = Chunks::keeping(options.memtable_bytes);
        let first = Arc::new(Blank::new(options.memtable_bytes, &chunks).starting(flushed));
        let table_options = TableOptions {
            block_bytes: options.block_bytes,
            bloom_bits_per_key: options.bloom_bits_per_key,
            ..TableOptions::default()
        };
        let durable = renew(&mut manifest, &tables)?;
        let durable_to = match durable || sabotage::on(sabotage::FOUND_COUNTS_AS_DURABLE) {
            true => flushed,
            false => beginning.base.min(flushed),
        };
        let inner = Inner {
            dir: dir.to_owned(),
            tables,
            stepped: options.log.workers == Workers::Stepped,
            journal,
            context,
            table_options,
            mem_count: 1.into(),
            l0_count: levels.level(0).len().into(),
            view: ArcSwap::from_pointee(View {
                mems: vec![first],
                levels: Arc::new(levels),
                closed: false,
            }),
            chunks,
            sequencer: Sequencer::new(flushed),
            durable: durable_to.0.into(),
            snapshots: Snapshots::new(flushed),
            room: Arc::new(Room::default()),
            counters: super::Counters::default(),
            bell: Default::default(),
            room_bell: Default::default(),
            remains_bell: Default::default(),
            remains: Default::default(),
            hurried: 0.into(),
            compacting: Mutex::default(),
            flushing: Mutex::new(()),
            manifest: Mutex::new(manifest),
            install: Mutex::new(()),
            doubtful: Mutex::default(),
            options,
        };
        Ok((inner, durable))
    }

    /// Removes what no manifest names: tables of a flush or compaction that did not end, older manifests, temporaries.
    fn remove_leftovers(&self, entries: &[DirEntry]) {
        let (current, live): (_, Vec<u64>) = {
            let manifest = self.manifest.lock();
            (
                manifest.number(),
                manifest
                    .listed()
                    .tables
                    .iter()
                    .map(|(_, m)| m.file)
                    .collect(),
            )
        };
        for entry in entries {
            let leftover = match file_kind(&entry.name) {
                FileKind::Table(file) => !live.contains(&file),
                FileKind::Manifest(number) => Some(number) != current,
                FileKind::Temporary => true,
                FileKind::Current | FileKind::Foreign => false,
            };
            if !leftover || entry.is_dir {
                continue;
            }
            let path = self.tables.join(&entry.name);
            match self.context.media.remove(&path) {
                Ok(()) => tracing::debug!(path = %path.display(), "removed a leftover"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a leftover can't be removed");
                }
            }
        }
    }

    /// Replays the log from `from` into memtables.
    fn replay(&self, log: &Log, from: Lsn) -> Result<u64, OpenError> {
        let mut frames = 0;
        let mut reader = log
            .reader(from, ReadLimit::Published)
            .map_err(StoreError::from)?;
        while let Some(frame) = reader.next().map_err(StoreError::from)? {
            let header = &frame.header;
            if header.kind == Kind::Data {
                let ops = BatchReader::new(&frame.payload)
                    .map_err(|source| self.unreadable(header.lsn, &source))?;
                self.replay_rotation(header.lsn)?;
                self.view.load().mems[0].insert(header.lsn, ops);
                frames += 1;
            }
            self.sequencer.complete(header.lsn, header.end());
        }
        let (end, published) = (self.sequencer.visible(), log.published());
        if end != published {
            return Err(OpenError::Corrupt {
                path: self.dir.join("log"),
                what: format!("the log ends at LSN {published}, but can be read to {end} only"),
            });
        }
        Ok(frames)
    }

    fn unreadable(&self, lsn: Lsn, source: &BatchError) -> OpenError {
        let path = self.dir.join("log");
        match *source {
            BatchError::Format { found } if found > BATCH_FORMAT => OpenError::NewerFormat {
                path,
                found: found.into(),
                supported: BATCH_FORMAT.into(),
            },
            _ => OpenError::Corrupt {
                path,
                what: format!("the frame at LSN {lsn} can't be applied: {source}"),
            },
        }
    }

    /// Freezes a full memtable at `at`, where the next frame begins (U3).
    fn replay_rotation(&self, at: Lsn) -> Result<(), OpenError> {
        let view = self.view.load_full();
        if view.mems[0].bytes() < self.options.memtable_bytes {
            return Ok(());
        }
        view.mems[0].freeze(at);
        let mut mems = vec![Arc::new(
            Blank::new(self.options.memtable_bytes, &self.chunks).starting(at),
        )];
        mems.extend(view.mems.iter().cloned());
        let pile = mems.len() > self.options.memtables_max + 1;
        self.swap_view(View {
            mems,
            levels: view.levels.clone(),
            closed: false,
        });
        drop(view);
        if pile {
            match self.flush_one() {
                Ok(Turn::Done | Turn::Nothing | Turn::NotYet) => {}
                // A full disk must not keep the store from opening: deleting may be what is wanted.
                Err(error) if error.is_no_space() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Where a store begins that has no manifest yet.
#[derive(Clone, Copy)]
struct Beginning {
    id: LogId,
    base: Lsn,
    /// Its log begins there too: nothing is missing.
    born: bool,
}

fn read_manifest(
    media: &Arc<dyn Media>,
    tables: &Path,
    entries: &[DirEntry],
    beginning: Beginning,
) -> Result<Manifest, OpenError> {
    let numbers = |kind: fn(FileKind) -> Option<u64>| {
        entries
            .iter()
            .filter_map(|e| kind(file_kind(&e.name)))
            .max()
            .unwrap_or(0)
    };
    let table = numbers(|k| {
        if let FileKind::Table(n) = k {
            Some(n)
        } else {
            None
        }
    });
    let number = numbers(|k| {
        if let FileKind::Manifest(n) = k {
            Some(n)
        } else {
            None
        }
    });
    let mut manifest = match Manifest::read(media, tables, beginning.id)? {
        Some(manifest) => manifest,
        None => {
            // A crash in the first open leaves no CURRENT, and no table either: that open ends with CURRENT durable.
            if table > 0 || !beginning.born {
                return Err(OpenError::Corrupt {
                    path: tables.join(crate::manifest::CURRENT),
                    what: "missing, but this store has tables, or had: its log does not begin at its birth"
                        .to_owned(),
                });
            }
            Manifest::create(media, tables, beginning.id, beginning.base)
        }
    };
    manifest.skip_numbers(number, table);
    Ok(manifest)
}

/// Opens what the manifest names. One that is missing refuses, one that is damaged is kept with its error (U4).
fn open_tables(
    context: &TableContext,
    dir: &Path,
    manifest: &Manifest,
) -> Result<Levels, OpenError> {
    let mut added = Vec::new();
    for (level, meta) in &manifest.listed().tables {
        let path: PathBuf = dir.join(table_name(meta.file));
        let there = context
            .media
            .exists(&path)
            .map_err(io_error("looking for", &path))?;
        if !there {
            return Err(OpenError::Corrupt {
                path,
                what: "missing, but the manifest names it".to_owned(),
            });
        }
        let table = match Table::open(context, &path, meta.file) {
            Ok(table) if meta.agrees(&table) => Ok(table),
            Ok(_) => Err(TableError::Corrupt {
                path: path.clone(),
                offset: 0,
                what: "it is not the table that the manifest means".to_owned(),
            }),
            Err(TableError::NewerFormat {
                path,
                found,
                supported,
            }) => {
                return Err(OpenError::NewerFormat {
                    path,
                    found,
                    supported,
                });
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &table {
            tracing::error!(path = %path.display(), %error, "a table can't be used; reads of its keys will fail");
        }
        added.push((*level, LiveTable::new(meta.clone(), table)));
    }
    Levels::default()
        .edited(&[], &added)
        .map_err(|what| OpenError::Corrupt {
            path: dir.join(crate::manifest::CURRENT),
            what: format!("the manifest contradicts itself: {what}"),
        })
}

/// Makes the manifest durable anew (U2); false when there is no room for it.
fn renew(manifest: &mut Manifest, dir: &Path) -> Result<bool, OpenError> {
    match manifest.renew() {
        Ok(()) => Ok(true),
        Err(error) if error.is_no_space() && !manifest.is_new() => {
            tracing::warn!(dir = %dir.display(), %error, "no room for a new manifest; nothing is removed until there is");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}
