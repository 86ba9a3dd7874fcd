//! Snapshots of the store: out, and in.
//!
//! Out it is a checkpoint, read file by file. In, files gather in the directory that the store will have once it is installed.
//!
//! - SN1: a file is known by name, length and hash. One that is there already, from an attempt before or in the store that runs, is not
//!   asked for; one of the store is linked. What was hashed once is not again, unless it was found to be another since.
//! - SN2: what was received is believed when its hash is right, checked over what is read back before the snapshot counts as whole. What fails is
//!   removed, so that the next attempt fetches it again.
//! - SN3: which files an attempt was about stands in `FILES`, so that a partial file of another snapshot is never continued.
//! - SN4 (E2): names come from a peer: only those that a store's tables have are taken, each once.
//! - SN5: files gather for one snapshot at a time: none begins while another that has arrived is there to be installed.
//! - SN6: what was received before this attempt is written again before it is synced: a sync of then may have failed, and the page cache be right where the
//!   disk is not (W6). After a sync of this attempt's that failed the file is removed. What was linked is a table of the store, synced when it was made.
//! - SN7: what takes long, the flush and hashing the tables, is done in the thread that prepares it; what it stands for is read from what it holds.
//! - SN8: the store that runs has no `FILES`. So a directory beside it that has none either holds a store that a snapshot replaced, and goes at the next
//!   open, where a crash kept it from going before; what is left of a snapshot that did not arrive stays, to be resumed.
//! - SN9: what takes long ends when it is told to, and loses nothing of what is there.
//!
//! ```text
//! FILES  magic "ESKRSNAP", format u32 (1), crc32 of what follows; then of each file: name (length u32, text), length u64, hash u64
//! ```

use super::{RECORD, failed, key_of};
use crate::codec::{Decoder, put_blob};
use crate::runtime::{Arriving, MachineError, SnapshotSource, Staging};
use crate::sabotage::{self, Sabotage};
use crate::transport::SnapshotFile;
use bytes::Bytes;
use esker_lsm::{Store, remove_checkpoint};
use esker_wal::media::{DirEntry, Media, MediaFile, WRITE_BACK_BYTES};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8; 8] = b"ESKRSNAP";
const FORMAT: u32 = 1;
const FILES: &str = "FILES";
const FILES_BYTES_MAX: u64 = 64 << 20;
pub(super) const TABLES: &str = "tables";
/// Bytes read at once to hash a file.
const READ_BYTES: usize = 256 << 10;

/// Hashes of tables of one store, by name: tables never change, and other stores have others of these names.
pub(super) type Hashes = Arc<Mutex<BTreeMap<String, u64>>>;

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn stopped() -> io::Error {
    io::Error::other("it was stopped")
}

/// Never 0, which means *not known*.
fn hash(file: &dyn MediaFile, go_on: &dyn Fn() -> bool) -> io::Result<u64> {
    let len = file.len()?;
    let mut hasher = Xxh3::new();
    read_pieces(file, len, |piece, _| {
        hasher.update(piece);
        match go_on() {
            true => Ok(()),
            false => Err(stopped()),
        }
    })?;
    Ok(hasher.digest().max(1))
}

/// Writes the first `len` bytes again as they are read (SN6).
fn rewrite(file: &dyn MediaFile, len: u64) -> io::Result<()> {
    read_pieces(file, len, |piece, at| file.write_all_at(piece, at))
}

fn read_pieces(
    file: &dyn MediaFile,
    len: u64,
    mut each: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut buf = vec![0; READ_BYTES];
    let mut at = 0;
    while at < len {
        let piece = (len - at).min(READ_BYTES as u64) as usize;
        file.read_exact_at(&mut buf[..piece], at)?;
        each(&buf[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}

fn is_table(name: &str) -> bool {
    let hex = |hex: &str| hex.len() == 16 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    name.strip_suffix(".tbl").is_some_and(hex)
}

fn is_known(name: &str) -> bool {
    let hex = |hex: &str| hex.len() == 16 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    name == "CURRENT" || is_table(name) || name.strip_prefix("MANIFEST-").is_some_and(hex)
}

/// A checkpoint on its way out. Dropped, its files are removed.
#[derive(Debug)]
pub(super) struct Outgoing {
    media: Arc<dyn Media>,
    /// Until it is prepared.
    store: Option<Store>,
    dir: PathBuf,
    /// Once it is prepared.
    files: Vec<SnapshotFile>,
    hashes: Hashes,
    open: Option<(usize, Arc<dyn MediaFile>)>,
    /// Its directory is its own while it lives.
    _slot: Slot,
}

/// One of the directories for snapshots.
#[derive(Debug)]
pub(super) struct Slot {
    pub number: usize,
    taken: Arc<Mutex<BTreeSet<usize>>>,
}

impl Slot {
    pub(super) fn take(taken: &Arc<Mutex<BTreeSet<usize>>>) -> Slot {
        let mut all = taken.lock();
        let number = (0..).find(|n| !all.contains(n)).expect("some are free");
        all.insert(number);
        Slot {
            number,
            taken: taken.clone(),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.taken.lock().remove(&self.number);
    }
}

impl Outgoing {
    pub(super) fn new(
        media: Arc<dyn Media>,
        store: Store,
        dir: PathBuf,
        hashes: Hashes,
        slot: Slot,
    ) -> Outgoing {
        Outgoing {
            media,
            store: Some(store),
            dir,
            files: Vec::new(),
            hashes,
            open: None,
            _slot: slot,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(TABLES).join(name)
    }

    fn hash_of(&self, name: &str, go_on: &dyn Fn() -> bool) -> io::Result<u64> {
        if let Some(known) = self.hashes.lock().get(name) {
            return Ok(*known);
        }
        let file = self.media.open(&self.path(name))?;
        file.read_no_further();
        let found = hash(&*file, go_on)?;
        if is_table(name) {
            self.hashes.lock().insert(name.to_owned(), found);
        }
        Ok(found)
    }
}

impl SnapshotSource for Outgoing {
    /// SN7.
    fn prepare(&mut self, record: &[u8]) -> Result<Option<Bytes>, MachineError> {
        const DOING: &str = "taking a snapshot";
        let Some(store) = self.store.take() else {
            return Err(MachineError::new(DOING, "it was prepared before"));
        };
        remove_checkpoint(&*self.media, &self.dir).map_err(failed(DOING))?;
        let made = store.checkpoint_and_read(&self.dir, &key_of(RECORD, record));
        drop(store);
        let (made, record) = made.map_err(failed(DOING))?;
        let file = |(path, len): (PathBuf, u64)| SnapshotFile {
            name: (path.file_name().unwrap_or_default())
                .to_string_lossy()
                .into_owned(),
            len,
            check: 0,
        };
        self.files = made.files.into_iter().map(file).collect();
        Ok(record)
    }

    /// SN7.
    fn look_through(&mut self, go_on: &dyn Fn() -> bool) -> Result<(), MachineError> {
        for at in 0..self.files.len() {
            // Unknown, it is sent in any case, and what can't be read fails then.
            let check = self.hash_of(&self.files[at].name, go_on).unwrap_or(0);
            if !go_on() {
                return Err(MachineError::new(
                    "hashing a snapshot",
                    "the node was stopped",
                ));
            }
            self.files[at].check = check;
        }
        Ok(())
    }

    fn files(&self) -> Vec<SnapshotFile> {
        self.files.clone()
    }

    fn read(&mut self, file: usize, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let known = (self.files.get(file)).ok_or_else(|| invalid("no such file"))?;
        if self.open.as_ref().is_none_or(|(at, _)| *at != file) {
            let open = self.media.open(&self.path(&known.name))?;
            open.read_no_further();
            self.open = Some((file, open));
        }
        let (_, open) = self.open.as_ref().expect("just opened");
        open.read_exact_at(into, offset)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.open = None;
        if let Err(error) = remove_checkpoint(&*self.media, &self.dir) {
            tracing::debug!(%error, "a snapshot that was sent is left behind; the next removes it");
        }
    }
}

/// Where the store that runs is, for those who look for files in it.
#[derive(Debug)]
pub(super) struct Places {
    pub current: PathBuf,
    pub staging: PathBuf,
    /// Of the store that runs.
    pub hashes: Hashes,
    /// SN5: held by the snapshot that gathers there.
    pub taken: Weak<()>,
}

/// Takes snapshots in. See the module.
#[derive(Debug)]
pub(super) struct StagingDir {
    pub media: Arc<dyn Media>,
    pub places: Arc<Mutex<Places>>,
}

impl StagingDir {
    /// Links the tables of the store that runs which the snapshot has too, in place of what is there of them; gives their names. They are the same:
    /// a table's checksums are bound to its number.
    fn link_equal<'a>(
        &self,
        current: &Path,
        hashes: &Hashes,
        to: &Path,
        files: &'a [SnapshotFile],
        go_on: &dyn Fn() -> bool,
    ) -> io::Result<BTreeSet<&'a str>> {
        let from = current.join(TABLES);
        let listed = self.media.list(&from)?;
        let mut linked = BTreeSet::new();
        for file in files.iter().filter(|f| f.check != 0 && is_table(&f.name)) {
            let here = |e: &&DirEntry| (&e.name, e.len) == (&file.name, file.len);
            let (path, target) = (from.join(&file.name), to.join(&file.name));
            if !listed.iter().any(|e| here(&e)) {
                continue;
            }
            let known = hashes.lock().get(&file.name).copied();
            let found = match known {
                Some(known) => known,
                None => match self.media.open(&path).and_then(|f| hash(&*f, go_on)) {
                    Ok(found) => {
                        // This may last until the other side gives up: the next attempt goes on from here.
                        hashes.lock().insert(file.name.clone(), found);
                        found
                    }
                    Err(error) if !go_on() => return Err(error),
                    // Compacted away meanwhile.
                    Err(_) => continue,
                },
            };
            if found != file.check {
                continue;
            }
            // One that is there may be the same file, which is not to be written again.
            remove(&*self.media, &target)?;
            match self.media.hard_link(&path, &target) {
                Ok(()) => drop(linked.insert(file.name.as_str())),
                // Compacted away meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(linked)
    }

    /// What an attempt before was about.
    fn begun(&self, dir: &Path) -> Vec<SnapshotFile> {
        let read = || -> io::Result<Bytes> {
            let file = self.media.open(&dir.join(FILES))?;
            let len = file.len()?;
            if len > FILES_BYTES_MAX {
                return Err(invalid("too long"));
            }
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes.into())
        };
        // Whatever is wrong with it: then nothing was begun.
        read().ok().and_then(decode).unwrap_or_default()
    }

    fn note(&self, dir: &Path, files: &[SnapshotFile]) -> io::Result<()> {
        let path = dir.join(FILES);
        remove(&*self.media, &path)?;
        let file = self.media.create(&path, 0)?;
        file.write_all_at(&encode(files), 0)?;
        file.sync()?;
        self.media.sync_dir(dir)
    }
}

fn encode(files: &[SnapshotFile]) -> Vec<u8> {
    let mut body = Vec::new();
    for file in files {
        put_blob(&mut body, file.name.as_bytes());
        body.extend_from_slice(&file.len.to_le_bytes());
        body.extend_from_slice(&file.check.to_le_bytes());
    }
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

fn decode(bytes: Bytes) -> Option<Vec<SnapshotFile>> {
    let body = bytes.get(16..)?;
    let crc = crc32fast::hash(body).to_le_bytes();
    if &bytes[..8] != MAGIC || bytes[8..12] != FORMAT.to_le_bytes() || bytes[12..16] != crc {
        return None;
    }
    let mut d = Decoder::new(bytes.slice(16..));
    let mut files = Vec::new();
    while d.left() > 0 {
        let name = d.blob("a name").ok()?;
        files.push(SnapshotFile {
            name: String::from_utf8(name.to_vec()).ok()?,
            len: d.u64("a length").ok()?,
            check: d.u64("a hash").ok()?,
        });
    }
    Some(files)
}

fn remove(media: &dyn Media, path: &Path) -> io::Result<()> {
    match media.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// SN8. Durable or not: an open does it again.
pub(super) fn is_installed(media: &dyn Media, dir: &Path) {
    if let Err(error) = remove(media, &dir.join(FILES)) {
        tracing::debug!(%error, "the list of files of a snapshot that was installed stays");
    }
}

/// SN8, at an open.
pub(super) fn leave_nothing_of_a_replaced_store(
    media: &dyn Media,
    current: &Path,
    other: &Path,
) -> Result<(), MachineError> {
    const DOING: &str = "looking for a store that a snapshot replaced";
    is_installed(media, current);
    let arrives = media.exists(&other.join(FILES)).map_err(failed(DOING))?;
    match arrives {
        true => Ok(()),
        false => remove_checkpoint(media, other).map_err(failed(DOING)),
    }
}

impl Staging for StagingDir {
    fn begin(
        &self,
        files: &[SnapshotFile],
        go_on: &dyn Fn() -> bool,
    ) -> io::Result<Box<dyn Arriving>> {
        // SN4.
        let mut names = BTreeSet::new();
        for file in files {
            if !is_known(&file.name) || !names.insert(&file.name) {
                return Err(invalid(format!("{:?} is no file of a snapshot", file.name)));
            }
        }
        let token = Arc::new(());
        let (current, dir, hashes) = {
            let mut places = self.places.lock();
            if places.taken.strong_count() > 0 {
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "another snapshot has arrived and is not installed yet",
                ));
            }
            places.taken = Arc::downgrade(&token);
            (
                places.current.clone(),
                places.staging.clone(),
                places.hashes.clone(),
            )
        };
        let tables = dir.join(TABLES);
        self.media.create_dir_all(&tables)?;
        let before = self.begun(&dir);
        let resumed = |name: &str| {
            let now = files.iter().find(|f| f.name == name);
            now.is_some_and(|f| f.check != 0 && before.contains(f))
        };
        for entry in self.media.list(&tables)? {
            if !entry.is_dir && !resumed(&entry.name) {
                remove(&*self.media, &tables.join(&entry.name))?;
            }
        }
        // Before a byte of a new one: what is there is of this one, or gone.
        self.media.sync_dir(&tables)?;
        self.note(&dir, files)?;
        let linked = self.link_equal(&current, &hashes, &tables, files, go_on)?;
        let (mut held, mut before) = (Vec::new(), Vec::new());
        for file in files {
            let path = tables.join(&file.name);
            let there = match self.media.exists(&path)? {
                true => self.media.open(&path)?.len()?,
                false => 0,
            };
            if there > file.len {
                remove(&*self.media, &path)?;
            }
            let there = if there > file.len { 0 } else { there };
            held.push(there);
            before.push(match linked.contains(&*file.name) {
                true => 0,
                false => there,
            });
        }
        Ok(Box::new(Incoming {
            media: self.media.clone(),
            dir,
            files: files.to_vec(),
            checked: vec![false; held.len()],
            held,
            before,
            open: None,
            whole: false,
            hashes,
            _token: token,
        }))
    }
}

/// A snapshot on its way in.
#[derive(Debug)]
pub(super) struct Incoming {
    media: Arc<dyn Media>,
    pub dir: PathBuf,
    files: Vec<SnapshotFile>,
    held: Vec<u64>,
    /// Bytes that an attempt before received (SN6).
    before: Vec<u64>,
    /// Right and synced.
    checked: Vec<bool>,
    open: Option<(usize, Arc<dyn MediaFile>)>,
    pub whole: bool,
    hashes: Hashes,
    _token: Arc<()>,
}

impl Incoming {
    fn path(&self, file: usize) -> PathBuf {
        self.dir.join(TABLES).join(&self.files[file].name)
    }

    /// SN2.
    fn check(&mut self, at: usize, go_on: &dyn Fn() -> bool) -> io::Result<()> {
        let (file, path) = (&self.files[at], self.path(at));
        if file.len == 0 && !self.media.exists(&path)? {
            self.media.create(&path, 0)?;
        }
        let open = self.media.open_rw(&path)?;
        let unchecked = file.check == 0 || sabotage::on(Sabotage::HashNotChecked);
        let found = match unchecked {
            true => Ok(file.check),
            false => hash(&*open, go_on),
        };
        let wrong = match found {
            Ok(found) if found == file.check && open.len()? == file.len => None,
            Ok(_) => Some(invalid(format!(
                "{} did not arrive as it was sent",
                file.name
            ))),
            // Nothing is wrong with it.
            Err(error) if !go_on() => return Err(error),
            Err(error) => Some(error),
        };
        if let Some(wrong) = wrong {
            self.forget(at)?;
            return Err(wrong);
        }
        let before = match sabotage::on(Sabotage::ArrivedNotRewritten) {
            true => 0,
            false => self.before[at],
        };
        if let Err(error) = rewrite(&*open, before).and_then(|()| open.sync()) {
            self.forget(at)?;
            return Err(error);
        }
        self.checked[at] = true;
        Ok(())
    }

    /// Removes a file, so that it is fetched again. Where it was linked, the table is not what it was hashed as.
    fn forget(&mut self, at: usize) -> io::Result<()> {
        self.hashes.lock().remove(&self.files[at].name);
        (self.held[at], self.before[at]) = (0, 0);
        remove(&*self.media, &self.path(at))
    }
}

impl Arriving for Incoming {
    fn held(&self, file: usize) -> u64 {
        self.held.get(file).copied().unwrap_or(0)
    }

    fn write(&mut self, file: usize, bytes: &[u8], go_on: &dyn Fn() -> bool) -> io::Result<()> {
        let Some(held) = self.held.get(file).copied() else {
            return Err(invalid("no such file"));
        };
        if bytes.len() as u64 > self.files[file].len - held {
            return Err(invalid("more than the file has"));
        }
        if self.open.as_ref().is_none_or(|(at, _)| *at != file) {
            let path = self.path(file);
            let open = match self.media.exists(&path)? {
                true => self.media.open_rw(&path)?,
                false => self.media.create(&path, 0)?,
            };
            self.open = Some((file, open));
        }
        let (_, open) = self.open.as_ref().expect("just opened");
        open.write_all_at(bytes, held)?;
        self.held[file] = held + bytes.len() as u64;
        let (before, now) = (held / WRITE_BACK_BYTES, self.held[file] / WRITE_BACK_BYTES);
        if before != now {
            let from = before * WRITE_BACK_BYTES;
            open.write_back(from, now * WRITE_BACK_BYTES - from)?;
        }
        if self.held[file] == self.files[file].len {
            // Now, and not all at the end: the other side waits for a sign.
            self.open = None;
            self.check(file, go_on)?;
        }
        Ok(())
    }

    fn finish(&mut self, go_on: &dyn Fn() -> bool) -> io::Result<()> {
        self.open = None;
        let mut first = Ok(());
        for file in 0..self.files.len() {
            if !go_on() {
                return Err(stopped());
            }
            if !self.checked[file] {
                first = first.and(self.check(file, go_on));
            }
        }
        first?;
        self.media.sync_dir(&self.dir.join(TABLES))?;
        self.whole = true;
        Ok(())
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}
