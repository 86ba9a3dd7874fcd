//! The manifest: which tables are live, and up to where the log is in them.
//!
//! `CURRENT` names a `MANIFEST-<number>`: a header, then records, each a version edit that takes effect whole or not at
//! all. Record 0 is a whole version; the others are changes to it. Little-endian.
//! ```text
//! CURRENT    "MANIFEST-<16 hex> <log id, 32 hex> <crc32, 8 hex, of what stands before it>\n"
//! header      0   8  magic "ESKRMANI"
//!             8   4  format (1)
//!            12   4  crc32 of magic, format, number, log id
//!            16   8  number, as in the name
//!            24  16  log id
//! record      0   4  magic "EMRC"
//!             4   4  ordinal: 0, 1, ...
//!             8   4  bytes of payload
//!            12   4  crc32 of ordinal, length and payload, seeded with (log id, number)
//!            16   n  payload: fields, each a varint tag and what it says
//! fields     1 flushed      varint LSN: everything below is in tables
//!            2 next file    varint: file numbers at and above it are unused
//!            3 add          level, file, bytes, entries, deletes, range deletes, oldest, newest, smallest key,
//!                           largest kind (0 included, 1 excluded, 2 none), largest key; keys with their length
//!            4 remove       level, file
//! ```
//! - A1: an edit is durable before it takes effect in memory, before its inputs are removed and before the log is
//!   released.
//! - A2: a record that is broken with nothing intact behind it is a torn tail: that edit never took effect, nothing was
//!   done on its account. With an intact record anywhere behind it, it is damage, and open refuses. Record 0 was synced before
//!   `CURRENT` named the file: broken, it is damage.
//! - A3: each open writes a new manifest before it acts on what it read: a record may be right in the page cache and
//!   missing on the disk, after a kill or a failed sync. Where there is no room for one, nothing is removed or released
//!   until there is.
//! - A4: after an append that failed, the file is not appended to again: the edit may or may not be there. The next edit goes
//!   into a new manifest, and until that one stands no file that the edit named is removed.

use crate::levels::{LEVELS, TableMeta};
use crate::table::KeyBounds;
use crate::{OpenError, SeqNo, StoreError, sabotage, varint};
use bytes::Bytes;
use esker_wal::media::{Media, MediaFile};
use esker_wal::{LogId, Lsn};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"ESKRMANI";
const FORMAT: u32 = 1;
const HEADER_LEN: usize = 40;
const RECORD_MAGIC: &[u8; 4] = b"EMRC";
const RECORD_LEN: usize = 16;
/// No manifest is read that is larger: it would hold millions of tables.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;
/// A manifest is written anew when it is this large and four times what a new one would be.
const REWRITE_BYTES: u64 = 1 << 20;

// On disk: add, never renumber.
const FLUSHED: u64 = 1;
const NEXT_FILE: u64 = 2;
const ADD: u64 = 3;
const REMOVE: u64 = 4;

pub(crate) const CURRENT: &str = "CURRENT";
const CURRENT_TMP: &str = "CURRENT.tmp";

/// Name of manifest `number`.
fn manifest_name(number: u64) -> String {
    format!("MANIFEST-{number:016x}")
}

/// Name of table `file`.
pub(crate) fn table_name(file: u64) -> String {
    format!("{file:016x}.tbl")
}

/// What a file in the tables' directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Table(u64),
    Manifest(u64),
    Current,
    Temporary,
    Foreign,
}

pub(crate) fn file_kind(name: &str) -> FileKind {
    let number = |hex: &str| {
        (hex.len() == 16)
            .then(|| u64::from_str_radix(hex, 16).ok())
            .flatten()
    };
    if name == CURRENT {
        FileKind::Current
    } else if name.ends_with(".tmp") {
        FileKind::Temporary
    } else if let Some(n) = name.strip_suffix(".tbl").and_then(number) {
        FileKind::Table(n)
    } else if let Some(n) = name.strip_prefix("MANIFEST-").and_then(number) {
        FileKind::Manifest(n)
    } else {
        FileKind::Foreign
    }
}

/// A change of the version, or (as record 0) a whole one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edit {
    pub flushed: Option<Lsn>,
    pub next_file: Option<u64>,
    pub added: Vec<(usize, TableMeta)>,
    pub removed: Vec<(usize, u64)>,
}

impl Edit {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let num = |out: &mut Vec<u8>, n: u64| varint::put(out, n);
        if let Some(lsn) = self.flushed {
            num(&mut out, FLUSHED);
            num(&mut out, lsn.0);
        }
        if let Some(next) = self.next_file {
            num(&mut out, NEXT_FILE);
            num(&mut out, next);
        }
        for (level, file) in &self.removed {
            num(&mut out, REMOVE);
            num(&mut out, *level as u64);
            num(&mut out, *file);
        }
        for (level, meta) in &self.added {
            num(&mut out, ADD);
            num(&mut out, *level as u64);
            for n in [
                meta.file,
                meta.bytes,
                meta.entries,
                meta.deletes,
                meta.range_deletes,
                meta.oldest.0,
                meta.newest.0,
            ] {
                num(&mut out, n);
            }
            let (kind, largest) = match &meta.bounds.largest {
                Bound::Included(key) => (0, &key[..]),
                Bound::Excluded(key) => (1, &key[..]),
                Bound::Unbounded => (2, &[][..]),
            };
            num(&mut out, meta.bounds.smallest.len() as u64);
            out.extend_from_slice(&meta.bounds.smallest);
            num(&mut out, kind);
            num(&mut out, largest.len() as u64);
            out.extend_from_slice(largest);
        }
        out
    }

    /// `None` for bytes that are no edit.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Edit> {
        let mut edit = Edit::default();
        let level = |bytes: &mut &[u8]| {
            let level = usize::try_from(varint::take(bytes)?).ok()?;
            (level < LEVELS).then_some(level)
        };
        while !bytes.is_empty() {
            match varint::take(&mut bytes)? {
                FLUSHED => edit.flushed = Some(Lsn(varint::take(&mut bytes)?)),
                NEXT_FILE => edit.next_file = Some(varint::take(&mut bytes)?),
                REMOVE => {
                    let level = level(&mut bytes)?;
                    edit.removed.push((level, varint::take(&mut bytes)?));
                }
                ADD => {
                    let level = level(&mut bytes)?;
                    let mut n = [0; 7];
                    for n in &mut n {
                        *n = varint::take(&mut bytes)?;
                    }
                    let smallest = Bytes::copy_from_slice(varint::take_bytes(&mut bytes)?);
                    let kind = varint::take(&mut bytes)?;
                    let largest = Bytes::copy_from_slice(varint::take_bytes(&mut bytes)?);
                    let largest = match kind {
                        0 => Bound::Included(largest),
                        1 => Bound::Excluded(largest),
                        2 => Bound::Unbounded,
                        _ => return None,
                    };
                    let meta = TableMeta {
                        file: n[0],
                        bytes: n[1],
                        entries: n[2],
                        deletes: n[3],
                        range_deletes: n[4],
                        oldest: SeqNo(n[5]),
                        newest: SeqNo(n[6]),
                        bounds: KeyBounds { smallest, largest },
                    };
                    edit.added.push((level, meta));
                }
                _ => return None,
            }
        }
        Some(edit)
    }
}

/// What a manifest says once all its edits are applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub flushed: Lsn,
    pub next_file: u64,
    pub tables: Vec<(usize, TableMeta)>,
}

impl Listed {
    /// Applies an edit; an error says how it contradicts what is there.
    pub(crate) fn apply(&mut self, edit: Edit) -> Result<(), String> {
        if let Some(lsn) = edit.flushed {
            if lsn < self.flushed {
                return Err(format!(
                    "flushed LSN goes back from {} to {lsn}",
                    self.flushed
                ));
            }
            self.flushed = lsn;
        }
        if let Some(next) = edit.next_file {
            self.next_file = self.next_file.max(next);
        }
        for (level, file) in edit.removed {
            let before = self.tables.len();
            self.tables.retain(|(l, m)| (*l, m.file) != (level, file));
            if self.tables.len() == before {
                return Err(format!(
                    "table {file:016x} is removed from L{level}, where it is not"
                ));
            }
        }
        for (level, meta) in edit.added {
            if self.tables.iter().any(|(_, m)| m.file == meta.file) {
                return Err(format!("table {:016x} is added twice", meta.file));
            }
            self.tables.push((level, meta));
        }
        Ok(())
    }

    /// As one edit: record 0 of a new manifest.
    fn whole(&self) -> Edit {
        Edit {
            flushed: Some(self.flushed),
            next_file: Some(self.next_file),
            added: self.tables.clone(),
            removed: Vec::new(),
        }
    }
}

fn seed(log: LogId, number: u64) -> crc32fast::Hasher {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&log.to_bytes());
    hasher.update(&number.to_le_bytes());
    hasher
}

fn record_crc(log: LogId, number: u64, ordinal: u32, payload: &[u8]) -> u32 {
    let mut hasher = seed(log, number);
    hasher.update(&ordinal.to_le_bytes());
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn header(log: LogId, number: u64) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    out[16..24].copy_from_slice(&number.to_le_bytes());
    out[24..].copy_from_slice(&log.to_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&out[..12]);
    hasher.update(&out[16..]);
    out[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
    out
}

fn record(log: LogId, number: u64, ordinal: u32, edit: &Edit) -> Vec<u8> {
    let payload = edit.encode();
    let mut out = Vec::with_capacity(RECORD_LEN + payload.len());
    out.extend_from_slice(RECORD_MAGIC);
    out.extend_from_slice(&ordinal.to_le_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&record_crc(log, number, ordinal, &payload).to_le_bytes());
    out.extend_from_slice(&payload);
    out
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// The record at the start of `bytes`, if it is intact: ordinal, payload.
fn intact(log: LogId, number: u64, bytes: &[u8]) -> Option<(u32, &[u8])> {
    if bytes.len() < RECORD_LEN || &bytes[..4] != RECORD_MAGIC {
        return None;
    }
    let (ordinal, len) = (u32_at(bytes, 4), u32_at(bytes, 8) as usize);
    let payload = bytes.get(RECORD_LEN..RECORD_LEN.checked_add(len)?)?;
    (u32_at(bytes, 12) == record_crc(log, number, ordinal, payload)).then_some((ordinal, payload))
}

/// Reads the bytes of a manifest.
fn parse(path: &Path, log: LogId, number: u64, bytes: &[u8]) -> Result<Listed, OpenError> {
    let corrupt = |what: String| OpenError::Corrupt {
        path: path.to_owned(),
        what,
    };
    if bytes.len() < HEADER_LEN || &bytes[..8] != MAGIC {
        return Err(corrupt("damaged at offset 0: not a manifest".to_owned()));
    }
    let format = u32_at(bytes, 8);
    let mut want = header(log, number);
    want[8..12].copy_from_slice(&format.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[16..HEADER_LEN]);
    if u32_at(bytes, 12) != hasher.finalize() {
        return Err(corrupt(
            "damaged at offset 0: the header fails its checksum".to_owned(),
        ));
    }
    if format > FORMAT {
        return Err(OpenError::NewerFormat {
            path: path.to_owned(),
            found: format,
            supported: FORMAT,
        });
    }
    if bytes[16..HEADER_LEN] != want[16..] {
        return Err(corrupt(
            "it belongs to another store, or stands under another's name".to_owned(),
        ));
    }
    let mut listed = Listed::default();
    let mut at = HEADER_LEN;
    let mut ordinal = 0;
    while at < bytes.len() {
        let Some((_, payload)) =
            intact(log, number, &bytes[at..]).filter(|(found, _)| *found == ordinal)
        else {
            break;
        };
        let edit = Edit::decode(payload).ok_or_else(|| {
            corrupt(format!(
                "record {ordinal} at offset {at} can't be understood"
            ))
        })?;
        listed
            .apply(edit)
            .map_err(|what| corrupt(format!("record {ordinal} at offset {at}: {what}")))?;
        at += RECORD_LEN + payload.len();
        ordinal += 1;
    }
    if ordinal == 0 {
        return Err(corrupt(format!(
            "damaged at offset {at}: its first record is broken"
        )));
    }
    // A2: torn, or damaged?
    for behind in at + 1..bytes.len().saturating_sub(RECORD_LEN) {
        if &bytes[behind..behind + 4] == RECORD_MAGIC
            && let Some((found, _)) = intact(log, number, &bytes[behind..])
        {
            return Err(corrupt(format!(
                "damaged at offset {at}: record {ordinal} is broken, and record {found} behind it, at {behind}, is intact"
            )));
        }
    }
    Ok(listed)
}

fn current_line(log: LogId, number: u64) -> String {
    let line = format!("{} {log}", manifest_name(number));
    let crc = crc32fast::hash(line.as_bytes());
    format!("{line} {crc:08x}\n")
}

/// Reads all of a file, at most `max` bytes.
fn read_all(media: &dyn Media, path: &Path, max: u64) -> Result<Vec<u8>, OpenError> {
    let failed = |source| OpenError::Io {
        doing: "reading",
        path: path.to_owned(),
        source,
    };
    let file = media.open(path).map_err(failed)?;
    let len = file.len().map_err(failed)?;
    if len > max {
        return Err(OpenError::Corrupt {
            path: path.to_owned(),
            what: format!("{len} bytes; at most {max} make sense"),
        });
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(bytes)
}

/// The manifest of an open store: reads at open, then appends.
#[derive(Debug)]
pub(crate) struct Manifest {
    media: Arc<dyn Media>,
    dir: PathBuf,
    log: LogId,
    /// The one being appended to; `None` before the first of this open, and after a failed append (A3, A4).
    file: Option<Open>,
    /// Highest number seen or used.
    number: u64,
    /// Numbers of manifests that CURRENT names, or may name since a call that failed.
    named: Vec<u64>,
    /// Made by `create`.
    created: bool,
    closed: bool,
    listed: Listed,
}

#[derive(Debug)]
struct Open {
    file: Arc<dyn MediaFile>,
    path: PathBuf,
    len: u64,
    ordinal: u32,
    /// Bytes of its record 0.
    whole: u64,
}

impl Manifest {
    /// Reads what `CURRENT` names; `None` when there is no `CURRENT`.
    pub(crate) fn read(
        media: &Arc<dyn Media>,
        dir: &Path,
        log: LogId,
    ) -> Result<Option<Manifest>, OpenError> {
        let current = dir.join(CURRENT);
        let there = media.exists(&current).map_err(|source| OpenError::Io {
            doing: "looking for",
            path: current.clone(),
            source,
        })?;
        if !there {
            return Ok(None);
        }
        let line = read_all(&**media, &current, 4096)?;
        let corrupt = |what: &str| OpenError::Corrupt {
            path: current.clone(),
            what: what.to_owned(),
        };
        let text = std::str::from_utf8(&line).map_err(|_| corrupt("damaged: not text"))?;
        let mut words = text.split_ascii_whitespace();
        let number = words
            .next()
            .map(file_kind)
            .and_then(|kind| match kind {
                FileKind::Manifest(n) => Some(n),
                _ => None,
            })
            .ok_or_else(|| corrupt("damaged: it names no manifest"))?;
        let found = words
            .next()
            .and_then(LogId::parse)
            .ok_or_else(|| corrupt("damaged: it names no log"))?;
        if text != current_line(found, number) {
            return Err(corrupt("damaged: it fails its checksum"));
        }
        if found != log {
            return Err(corrupt(
                "these tables belong to another log than the one beside them",
            ));
        }
        let path = dir.join(manifest_name(number));
        let bytes = read_all(&**media, &path, MANIFEST_BYTES_MAX)?;
        let listed = parse(&path, log, number, &bytes)?;
        Ok(Some(Manifest {
            media: media.clone(),
            dir: dir.to_owned(),
            log,
            file: None,
            number,
            named: vec![number],
            created: false,
            closed: false,
            listed,
        }))
    }

    /// For a new store. Nothing is written before [`Manifest::renew`].
    pub(crate) fn create(media: &Arc<dyn Media>, dir: &Path, log: LogId, flushed: Lsn) -> Manifest {
        Manifest {
            media: media.clone(),
            dir: dir.to_owned(),
            log,
            file: None,
            number: 0,
            named: Vec::new(),
            created: true,
            closed: false,
            listed: Listed {
                flushed,
                next_file: 1,
                tables: Vec::new(),
            },
        }
    }

    /// As what `listed` says, in another directory. Nothing is written before [`Manifest::renew`].
    pub(crate) fn copy(media: &Arc<dyn Media>, dir: &Path, log: LogId, listed: Listed) -> Manifest {
        Manifest {
            listed,
            ..Manifest::create(media, dir, log, Lsn::ZERO)
        }
    }

    /// Name of the one that `CURRENT` names.
    pub(crate) fn file_name(&self) -> String {
        manifest_name(self.number)
    }

    /// What stands in it.
    pub(crate) fn listed(&self) -> &Listed {
        &self.listed
    }

    /// Files that exist are not made again, whatever the manifest says.
    pub(crate) fn skip_numbers(&mut self, manifest: u64, table: u64) {
        self.number = self.number.max(manifest);
        self.listed.next_file = self.listed.next_file.max(table.saturating_add(1));
    }

    /// Number of the manifest that `CURRENT` names, as far as known to be durable.
    pub(crate) fn number(&self) -> Option<u64> {
        self.file.as_ref().map(|_| self.number)
    }

    /// Whether no manifest of this store has been made yet.
    pub(crate) fn is_new(&self) -> bool {
        self.created
    }

    /// Closes the file. Nothing is written any more: the directory may be another's.
    pub(crate) fn close(&mut self) {
        self.file = None;
        self.closed = true;
    }

    /// A number for a new table.
    pub(crate) fn next_file(&mut self) -> u64 {
        let file = self.listed.next_file;
        self.listed.next_file += 1;
        file
    }

    /// Makes `edit` durable (A1). On an error it may be durable or not (A4).
    pub(crate) fn append(&mut self, edit: Edit) -> Result<(), StoreError> {
        let mut next = self.listed.clone();
        let edit = Edit {
            next_file: Some(self.listed.next_file),
            ..edit
        };
        next.apply(edit.clone())
            .map_err(|what| StoreError::Corrupt {
                path: self.dir.clone(),
                offset: 0,
                what: format!("a version edit contradicts the version: {what}"),
            })?;
        let large = |open: &Open| open.len > REWRITE_BYTES && open.len > open.whole * 4;
        match &mut self.file {
            Some(open) if !large(open) => {
                let bytes = record(self.log, self.number, open.ordinal, &edit);
                let done = open
                    .file
                    .write_all_at(&bytes, open.len)
                    .map_err(|e| StoreError::io("appending to", &open.path, e))
                    .and_then(|()| {
                        if sabotage::on(sabotage::MANIFEST_NOT_SYNCED) {
                            return Ok(());
                        }
                        open.file
                            .sync()
                            .map_err(|e| StoreError::io("syncing", &open.path, e))
                    });
                if let Err(error) = done {
                    self.file = None;
                    return Err(error);
                }
                open.len += bytes.len() as u64;
                open.ordinal += 1;
                self.listed = next;
                Ok(())
            }
            _ => {
                self.file = None;
                self.write_new(&next)?;
                self.listed = next;
                Ok(())
            }
        }
    }

    /// Writes a new manifest with what stands in this one (A3).
    pub(crate) fn renew(&mut self) -> Result<(), StoreError> {
        self.file = None;
        let listed = self.listed.clone();
        self.write_new(&listed)
    }

    fn write_new(&mut self, listed: &Listed) -> Result<(), StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        self.number += 1;
        let number = self.number;
        let path = self.dir.join(manifest_name(number));
        let open = match self.write_file(&path, number, listed) {
            Ok(open) => open,
            Err(error) => {
                // Not named by CURRENT yet, so its removal is only tidiness; an open would do it as well.
                let _ = self.media.remove(&path);
                return Err(error);
            }
        };
        let tmp = self.dir.join(CURRENT_TMP);
        let current = self.dir.join(CURRENT);
        let line = current_line(self.log, number);
        let _ = self.media.remove(&tmp);
        let step =
            |doing, path: &Path, r: io::Result<()>| r.map_err(|e| StoreError::io(doing, path, e));
        let written = self
            .media
            .create(&tmp, 0)
            .map_err(|e| StoreError::io("creating", &tmp, e))
            .and_then(|file| {
                step("writing", &tmp, file.write_all_at(line.as_bytes(), 0))?;
                if sabotage::on(sabotage::MANIFEST_NOT_SYNCED) {
                    return Ok(());
                }
                step("syncing", &tmp, file.sync())
            });
        if let Err(error) = written {
            let _ = self.media.remove(&tmp);
            let _ = self.media.remove(&path);
            return Err(error);
        }
        // The name of the manifest first: of two unsynced changes of a directory the later may survive alone.
        if let Err(error) = self.sync_names() {
            let _ = self.media.remove(&tmp);
            let _ = self.media.remove(&path);
            return Err(error);
        }
        self.named.push(number);
        step("renaming", &current, self.media.rename(&tmp, &current))?;
        self.sync_names()?;
        self.file = Some(open);
        // One that can't be removed is tried again with the next; the next open does it as well.
        let (media, dir) = (&self.media, &self.dir);
        self.named.retain(|old| {
            let remove = || media.remove(&dir.join(manifest_name(*old)));
            *old == number || matches!(remove(), Err(e) if e.kind() != io::ErrorKind::NotFound)
        });
        Ok(())
    }

    fn sync_names(&self) -> Result<(), StoreError> {
        if sabotage::on(sabotage::DIR_NOT_SYNCED) {
            return Ok(());
        }
        self.media
            .sync_dir(&self.dir)
            .map_err(|e| StoreError::io("syncing", &self.dir, e))
    }

    fn write_file(&self, path: &Path, number: u64, listed: &Listed) -> Result<Open, StoreError> {
        let mut bytes = header(self.log, number).to_vec();
        let whole = record(self.log, number, 0, &listed.whole());
        bytes.extend_from_slice(&whole);
        let file = self
            .media
            .create(path, 0)
            .map_err(|e| StoreError::io("creating", path, e))?;
        file.write_all_at(&bytes, 0)
            .map_err(|e| StoreError::io("writing", path, e))?;
        if !sabotage::on(sabotage::MANIFEST_NOT_SYNCED) {
            file.sync()
                .map_err(|e| StoreError::io("syncing", path, e))?;
        }
        Ok(Open {
            file,
            path: path.to_owned(),
            len: bytes.len() as u64,
            ordinal: 1,
            whole: whole.len() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esker_wal::media::sim::{ENOSPC, Fault, SimMedia};

    fn meta(file: u64) -> TableMeta {
        TableMeta {
            file,
            bytes: 1000 + file,
            entries: 10,
            deletes: 2,
            range_deletes: 1,
            oldest: SeqNo(file * 100),
            newest: SeqNo(file * 100 + 99),
            bounds: KeyBounds {
                smallest: Bytes::from_static(b"a"),
                largest: match file % 3 {
                    0 => Bound::Included(Bytes::from_static(b"k")),
                    1 => Bound::Excluded(Bytes::from_static(b"l")),
                    _ => Bound::Unbounded,
                },
            },
        }
    }

    fn add(file: u64) -> Edit {
        Edit {
            flushed: Some(Lsn(file * 8)),
            added: vec![(0, meta(file))],
            ..Edit::default()
        }
    }

    const LOG: LogId = LogId(5);

    /// A manifest with `edits` records behind record 0.
    fn written(edits: u64) -> (Arc<dyn Media>, SimMedia, Manifest, PathBuf) {
        let sim = SimMedia::new(1);
        let media: Arc<dyn Media> = Arc::new(sim.clone());
        let dir = Path::new("tables");
        media.create_dir_all(dir).unwrap();
        let mut manifest = Manifest::create(&media, dir, LOG, Lsn(0));
        manifest.renew().unwrap();
        for file in 1..=edits {
            manifest.append(add(file)).unwrap();
        }
        let path = dir.join(manifest_name(1));
        (media, sim, manifest, path)
    }

    fn read(media: &Arc<dyn Media>) -> Result<Listed, OpenError> {
        Ok(Manifest::read(media, Path::new("tables"), LOG)?
            .expect("CURRENT is there")
            .listed)
    }

    /// A disk that is full for a while leaves one manifest, whichever call of writing another met it.
    #[test]
    fn tries_at_a_new_manifest_that_failed_leave_none_behind() {
        let calls = |media: &SimMedia, manifest: &mut Manifest| {
            let before = media.calls();
            manifest.renew().unwrap();
            media.calls() - before
        };
        let (_, sim, mut manifest, _) = written(2);
        let all = calls(&sim, &mut manifest);
        for nth in 1..=all {
            let (media, sim, mut manifest, _) = written(2);
            for _ in 0..3 {
                sim.fail(Fault::nth(nth).errno(ENOSPC).times(1));
                // What is only tidiness may fail without a word.
                let _ = manifest.renew();
            }
            sim.heal();
            manifest.renew().unwrap();
            let names = media.list(Path::new("tables")).unwrap();
            let manifests = names.iter().filter(|e| e.name.starts_with("MANIFEST-"));
            assert_eq!(manifests.count(), 1, "call {nth} of {all}: {names:?}");
            assert!(!names.iter().any(|e| e.name == CURRENT_TMP));
            assert_eq!(read(&media).unwrap(), manifest.listed);
        }
    }

    #[test]
    fn edits_come_back_and_garbage_is_no_edit() {
        let edit = Edit {
            flushed: Some(Lsn(80)),
            next_file: Some(9),
            added: (1..7).map(|f| (f as usize % LEVELS, meta(f))).collect(),
            removed: vec![(1, 5), (6, 300)],
        };
        let bytes = edit.encode();
        assert_eq!(Edit::decode(&bytes).unwrap(), edit);
        for cut in 0..bytes.len() {
            // Some cuts end between two fields; none panics.
            let _ = Edit::decode(&bytes[..cut]);
        }
        assert_eq!(Edit::decode(&[9]), None);
        assert_eq!(Edit::decode(&[REMOVE as u8, LEVELS as u8, 1]), None);
    }

    #[test]
    fn the_bytes_of_a_record_are_frozen() {
        let edit = Edit {
            flushed: Some(Lsn(0x100)),
            removed: vec![(1, 2)],
            ..Edit::default()
        };
        let hex: String = record(LOG, 3, 4, &edit)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(&hex[..24], "454d52430400000006000000");
        assert_eq!(&hex[32..], "018002040102");
        assert_eq!(current_line(LOG, 3).len(), 25 + 1 + 32 + 1 + 8 + 1);
    }

    #[test]
    fn a_torn_last_record_is_cut_and_a_broken_one_before_an_intact_one_is_damage() {
        let (media, sim, manifest, path) = written(3);
        let whole = manifest.listed.clone();
        drop(manifest);
        assert_eq!(read(&media).unwrap(), whole);
        let bytes = sim.read(&path).unwrap();
        let starts: Vec<_> = (0..bytes.len() - 4)
            .filter(|at| &bytes[*at..at + 4] == RECORD_MAGIC)
            .collect();
        assert_eq!(starts.len(), 4);
        for len in starts[3]..bytes.len() {
            sim.put(&path, &bytes[..len]).unwrap();
            assert_eq!(read(&media).unwrap().flushed, Lsn(16), "cut to {len}");
        }
        for at in starts[0]..starts[3] {
            let mut broken = bytes.clone();
            broken[at] ^= 0x10;
            sim.put(&path, &broken).unwrap();
            assert!(
                matches!(read(&media), Err(OpenError::Corrupt { .. })),
                "byte {at}"
            );
        }
        for at in starts[3]..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0x10;
            sim.put(&path, &broken).unwrap();
            assert_eq!(read(&media).unwrap().flushed, Lsn(16), "byte {at}");
        }
    }

    #[test]
    fn after_a_failed_append_the_next_edit_goes_into_a_new_manifest() {
        use esker_wal::media::sim::{CallKind, Fault};
        let (media, sim, mut manifest, path) = written(1);
        sim.fail(Fault::nth(1).of(CallKind::SyncFile));
        assert!(manifest.append(add(2)).is_err());
        assert_eq!(manifest.number(), None);
        manifest.append(add(3)).unwrap();
        assert!(!media.exists(&path).unwrap());
        let files: Vec<_> = read(&media)
            .unwrap()
            .tables
            .iter()
            .map(|(_, m)| m.file)
            .collect();
        assert_eq!(files, [1, 3]);
    }

    #[test]
    fn a_newer_format_and_another_store_are_told_from_damage() {
        let (media, sim, manifest, path) = written(1);
        drop(manifest);
        assert!(matches!(
            Manifest::read(&media, Path::new("tables"), LogId(6)),
            Err(OpenError::Corrupt { .. })
        ));
        let mut bytes = sim.read(&path).unwrap();
        bytes[8] = 2;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[..12]);
        hasher.update(&bytes[16..HEADER_LEN]);
        let crc = hasher.finalize().to_le_bytes();
        bytes[12..16].copy_from_slice(&crc);
        sim.put(&path, &bytes).unwrap();
        assert!(matches!(
            read(&media),
            Err(OpenError::NewerFormat { found: 2, .. })
        ));
    }

    #[test]
    fn a_large_manifest_is_written_anew() {
        let (media, sim, mut manifest, _) = written(0);
        let key = Bytes::from(vec![b'k'; 100_000]);
        for file in 1..40 {
            let mut edit = add(file);
            edit.added[0].1.bounds = KeyBounds {
                smallest: key.clone(),
                largest: Bound::Included(key.clone()),
            };
            if file > 1 {
                edit.removed.push((0, file - 1));
            }
            manifest.append(edit).unwrap();
        }
        assert!(manifest.number().unwrap() > 1);
        assert!(sim.used_bytes() < 3 << 20);
        assert_eq!(read(&media).unwrap(), manifest.listed);
    }
}
