//! A medium over another that notes what is asked of it and fails what it is told to: so that the same test runs on
//! files of the operating system and in memory.

use esker_wal::media::sim::CallKind;
use esker_wal::media::{DirEntry, LockGuard, Media, MediaFile, MediaMap};
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug, Default)]
struct Notes {
    calls: Vec<(CallKind, PathBuf)>,
    /// Calls of these kinds fail with this error.
    failing: Option<(Vec<CallKind>, i32)>,
}

/// What is done before a call; it may call the medium under the watched one.
type Meanwhile = Box<dyn FnMut(CallKind, &Path) + Send>;

/// See the module.
#[derive(Clone)]
pub(crate) struct Watched {
    inner: Arc<dyn Media>,
    notes: Arc<Mutex<Notes>>,
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
    /// The next list is without this name.
    left_out: Arc<Mutex<Option<String>>>,
    /// So often `pace` is called where a file is made at one's leisure; when it was.
    pieces: usize,
    paced: Arc<Mutex<Vec<Instant>>>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Watched {
    pub(crate) fn over(inner: Arc<dyn Media>) -> Watched {
        Watched {
            inner,
            notes: Arc::default(),
            meanwhile: Arc::default(),
            left_out: Arc::default(),
            pieces: 0,
            paced: Arc::default(),
        }
    }

    /// Another watched medium over the same one, whose files have so many pieces.
    pub(crate) fn of_pieces(&self, pieces: usize) -> Watched {
        Watched {
            pieces,
            ..Watched::over(self.inner.clone())
        }
    }

    /// When a piece of a file was written, since the last time.
    pub(crate) fn paced(&self) -> Vec<Instant> {
        std::mem::take(&mut self.paced.lock())
    }

    /// Another watched medium over the same one, whose next list is without `name`.
    pub(crate) fn leaving_out_once(&self, name: &str) -> Watched {
        Watched {
            left_out: Arc::new(Mutex::new(Some(name.to_owned()))),
            ..Watched::over(self.inner.clone())
        }
    }

    /// Another watched medium over the same one, that does `this` before each call.
    pub(crate) fn meanwhile(&self, this: impl FnMut(CallKind, &Path) + Send + 'static) -> Watched {
        Watched {
            meanwhile: Arc::new(Mutex::new(Some(Box::new(this)))),
            ..Watched::over(self.inner.clone())
        }
    }

    /// From now on calls of `kinds` fail with `errno`.
    pub(crate) fn fail(&self, kinds: &[CallKind], errno: i32) {
        self.notes.lock().failing = Some((kinds.to_vec(), errno));
    }

    pub(crate) fn heal(&self) {
        self.notes.lock().failing = None;
    }

    /// The calls since the last time.
    pub(crate) fn calls(&self) -> Vec<(CallKind, PathBuf)> {
        std::mem::take(&mut self.notes.lock().calls)
    }

    fn call(&self, kind: CallKind, path: &Path) -> io::Result<()> {
        // Not held meanwhile: it may wait for somebody who calls.
        let meanwhile = self.meanwhile.lock().take();
        if let Some(mut this) = meanwhile {
            this(kind, path);
            *self.meanwhile.lock() = Some(this);
        }
        let mut notes = self.notes.lock();
        notes.calls.push((kind, path.to_owned()));
        match &notes.failing {
            Some((kinds, errno)) if kinds.contains(&kind) => {
                Err(io::Error::from_raw_os_error(*errno))
            }
            _ => Ok(()),
        }
    }

    fn file(&self, path: &Path, inner: Arc<dyn MediaFile>) -> Arc<dyn MediaFile> {
        Arc::new(WatchedFile {
            inner,
            path: path.to_owned(),
            medium: self.clone(),
        })
    }
}

impl Media for Watched {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.call(CallKind::CreateDir, dir)?;
        self.inner.create_dir_all(dir)
    }
    fn keep_private(&self, dir: &Path) -> io::Result<()> {
        self.inner.keep_private(dir)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn MediaFile>> {
        self.call(CallKind::Open, path)?;
        Ok(self.file(path, self.inner.open(path)?))
    }
    fn open_rw(&self, path: &Path) -> io::Result<Arc<dyn MediaFile>> {
        self.call(CallKind::OpenRw, path)?;
        Ok(self.file(path, self.inner.open_rw(path)?))
    }
    fn create(&self, path: &Path, len: u64) -> io::Result<Arc<dyn MediaFile>> {
        self.call(CallKind::Create, path)?;
        Ok(self.file(path, self.inner.create(path, len)?))
    }
    fn create_at_pace(
        &self,
        path: &Path,
        len: u64,
        pace: &dyn Fn(),
    ) -> io::Result<Arc<dyn MediaFile>> {
        for _ in 0..self.pieces {
            self.paced.lock().push(Instant::now());
            pace();
        }
        self.create(path, len)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(CallKind::Rename, to)?;
        self.inner.rename(from, to)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(CallKind::Link, to)?;
        self.inner.hard_link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(CallKind::Remove, path)?;
        self.inner.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.call(CallKind::List, dir)?;
        let mut entries = self.inner.list(dir)?;
        if let Some(name) = self.left_out.lock().take() {
            entries.retain(|e| e.name != name);
        }
        Ok(entries)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.call(CallKind::Exists, path)?;
        self.inner.exists(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(CallKind::SyncDir, dir)?;
        self.inner.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.call(CallKind::Lock, path)?;
        self.inner.lock(path)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.call(CallKind::FreeBytes, dir)?;
        self.inner.free_bytes(dir)
    }
}

#[derive(Debug)]
struct WatchedFile {
    inner: Arc<dyn MediaFile>,
    path: PathBuf,
    medium: Watched,
}

impl MediaFile for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.medium.call(CallKind::Len, &self.path)?;
        self.inner.len()
    }
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.medium.call(CallKind::Exists, path)?;
        self.inner.is_at(path)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.medium.call(CallKind::Read, &self.path)?;
        self.inner.read_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.medium.call(CallKind::Write, &self.path)?;
        self.inner.write_all_at(buf, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.medium.call(CallKind::SyncFile, &self.path)?;
        self.inner.sync()
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.medium.call(CallKind::Punch, &self.path)?;
        self.inner.punch(offset, len)
    }
    fn map(&self, len: usize) -> io::Result<Box<dyn MediaMap>> {
        self.medium.call(CallKind::Map, &self.path)?;
        Ok(Box::new(WatchedMap {
            inner: self.inner.map(len)?,
            path: self.path.clone(),
            medium: self.medium.clone(),
        }))
    }
}

#[derive(Debug)]
struct WatchedMap {
    inner: Box<dyn MediaMap>,
    path: PathBuf,
    medium: Watched,
}

// SAFETY: base and length are those of the inner map, which lives as long as this one.
unsafe impl MediaMap for WatchedMap {
    fn base(&self) -> NonNull<u8> {
        self.inner.base()
    }
    fn len(&self) -> usize {
        self.inner.len()
    }
    fn sync(&self, offset: usize, len: usize) -> io::Result<()> {
        self.medium.call(CallKind::SyncMap, &self.path)?;
        self.inner.sync(offset, len)
    }
    fn populate(&self, offset: usize, len: usize) {
        self.inner.populate(offset, len);
    }
}
