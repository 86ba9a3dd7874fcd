//! A medium that others act on between two calls.

use esker_wal::media::clock::Clock;
use esker_wal::media::sim::SimMedia;
use esker_wal::media::{DirEntry, LockGuard, Media, MediaFile, MediaMap};
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// True where it is to be done again.
type Then = Box<dyn FnMut() -> bool + Send>;

/// What is done before a call on a path that holds these words, or, with `=` before them, ends with them.
#[derive(Default)]
pub(crate) struct Hooks(Mutex<Vec<(&'static str, String, Then)>>);

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

impl Hooks {
    /// Once.
    pub(crate) fn before(
        &self,
        call: &'static str,
        path: &str,
        then: impl FnOnce() + Send + 'static,
    ) {
        let mut then = Some(then);
        self.each(call, path, move || {
            then.take().expect("it is done once")();
            false
        });
    }

    /// As long as it says true. What it does meets it not.
    pub(crate) fn each(
        &self,
        call: &'static str,
        path: &str,
        then: impl FnMut() -> bool + Send + 'static,
    ) {
        self.0.lock().push((call, path.to_owned(), Box::new(then)));
    }

    fn meet(&self, call: &str, path: &Path) {
        let found = {
            let mut hooks = self.0.lock();
            let at = hooks.iter().position(|(c, p, _)| {
                let fits = match p.strip_prefix('=') {
                    Some(whole) => path.ends_with(whole),
                    None => path.to_string_lossy().contains(p.as_str()),
                };
                *c == call && fits
            });
            at.map(|at| hooks.remove(at))
        };
        if let Some(mut hook) = found
            && (hook.2)()
        {
            self.0.lock().push(hook);
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Hooked {
    pub(crate) media: SimMedia,
    pub(crate) hooks: Arc<Hooks>,
}

impl Hooked {
    pub(crate) fn new(media: &SimMedia) -> Hooked {
        Hooked {
            media: media.clone(),
            hooks: Arc::default(),
        }
    }

    fn file(&self, path: &Path, file: Arc<dyn MediaFile>) -> Arc<dyn MediaFile> {
        Arc::new(HookedFile {
            file,
            path: path.to_owned(),
            hooks: self.hooks.clone(),
        })
    }
}

impl Media for Hooked {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.media.create_dir_all(dir)
    }
    fn keep_private(&self, dir: &Path) -> io::Result<()> {
        self.media.keep_private(dir)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn MediaFile>> {
        self.hooks.meet("open", path);
        Ok(self.file(path, self.media.open(path)?))
    }
    fn open_rw(&self, path: &Path) -> io::Result<Arc<dyn MediaFile>> {
        Ok(self.file(path, self.media.open_rw(path)?))
    }
    fn create(&self, path: &Path, len: u64) -> io::Result<Arc<dyn MediaFile>> {
        Ok(self.file(path, self.media.create(path, len)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.hooks.meet("rename", to);
        self.media.rename(from, to)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.media.hard_link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.media.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.hooks.meet("list", dir);
        self.media.list(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.media.exists(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.media.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.media.lock(path)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.hooks.meet("free", dir);
        self.media.free_bytes(dir)
    }
}

#[derive(Debug)]
struct HookedFile {
    file: Arc<dyn MediaFile>,
    path: std::path::PathBuf,
    hooks: Arc<Hooks>,
}

impl MediaFile for HookedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.file.is_at(path)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.hooks.meet("read", &self.path);
        self.file.read_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.hooks.meet("write", &self.path);
        self.file.write_all_at(buf, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch(offset, len)
    }
    fn map(&self, len: usize) -> io::Result<Box<dyn MediaMap>> {
        self.file.map(len)
    }
}

impl Clock for Hooks {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn wall(&self) -> Duration {
        self.meet("wall", Path::new(""));
        Duration::ZERO
    }
}
