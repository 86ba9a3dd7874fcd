//! What the tests of tables and cursors share: files in memory, and seeds.

use super::{BlockCache, KeyRef, Table, TableBuilder, TableContext, TableOptions, VersionKind};
use crate::SeqNo;
use crate::iter::RangeTombstone;
use bytes::Bytes;
use esker_wal::LogId;
use esker_wal::media::{DirEntry, LockGuard, Media, MediaFile, MediaMap};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Files in memory; reads fail once `reads_left` has run out.
#[derive(Debug)]
pub(crate) struct MemMedia {
    files: Mutex<HashMap<PathBuf, Arc<Mutex<Vec<u8>>>>>,
    reads_left: Arc<AtomicI64>,
}

#[derive(Debug)]
struct MemFile {
    bytes: Arc<Mutex<Vec<u8>>>,
    reads_left: Arc<AtomicI64>,
}

impl MemMedia {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            files: Mutex::default(),
            reads_left: Arc::new(AtomicI64::new(i64::MAX)),
        })
    }

    pub(crate) fn put(&self, path: &Path, bytes: Vec<u8>) {
        let file = Arc::new(Mutex::new(bytes));
        self.files.lock().insert(path.to_owned(), file);
    }

    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        self.files.lock()[path].lock().clone()
    }

    pub(crate) fn fail_reads_after(&self, n: i64) {
        self.reads_left.store(n, Ordering::SeqCst);
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.files.lock().keys().cloned().collect()
    }
}

impl Media for MemMedia {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn keep_private(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn MediaFile>> {
        let files = self.files.lock();
        let bytes = files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemFile {
            bytes: Arc::clone(bytes),
            reads_left: Arc::clone(&self.reads_left),
        }))
    }
    fn open_rw(&self, path: &Path) -> io::Result<Arc<dyn MediaFile>> {
        self.open(path)
    }
    fn create(&self, path: &Path, len: u64) -> io::Result<Arc<dyn MediaFile>> {
        if self.exists(path)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.put(path, vec![0; len as usize]);
        self.open(path)
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn hard_link(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.files.lock().remove(path);
        removed.map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }
    fn list(&self, _: &Path) -> io::Result<Vec<DirEntry>> {
        Ok(vec![])
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.files.lock().contains_key(path))
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn lock(&self, _: &Path) -> io::Result<Box<dyn LockGuard>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl MediaFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len() as u64)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.reads_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(io::Error::other("injected"));
        }
        let bytes = self.bytes.lock();
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.bytes.lock();
        let end = offset as usize + buf.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(buf);
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn is_at(&self, _: &Path) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn punch(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn map(&self, _: usize) -> io::Result<Box<dyn MediaMap>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

pub(crate) const LOG: LogId = LogId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);

pub(crate) fn context(media: &Arc<MemMedia>, cache_bytes: u64) -> TableContext {
    TableContext {
        media: Arc::clone(media) as Arc<dyn Media>,
        log: LOG,
        cache: Arc::new(BlockCache::new(cache_bytes)),
    }
}

pub(crate) fn path(file: u64) -> PathBuf {
    PathBuf::from(format!("/tables/{file:016x}.tbl"))
}

/// Versions in their order: the model of a table.
pub(crate) type Versions = BTreeMap<ModelKey, ModelVersion>;
/// User key and SeqNo, newest first.
pub(crate) type ModelKey = (Vec<u8>, Reverse<u64>);
pub(crate) type ModelVersion = (VersionKind, Vec<u8>);

/// Writes a table of `versions` and opens it.
pub(crate) fn table(
    context: &TableContext,
    file: u64,
    options: TableOptions,
    versions: &Versions,
    ranges: &[RangeTombstone],
) -> Arc<Table> {
    let mut builder = TableBuilder::create(context, &path(file), file, options).unwrap();
    for ((user, Reverse(seqno)), (kind, value)) in versions {
        let key = KeyRef::new(user, SeqNo(*seqno));
        builder.add(key, *kind, value).unwrap();
    }
    for range in ranges {
        builder.add_range(range.clone()).unwrap();
    }
    let (properties, bytes) = builder.finish().unwrap();
    let table = Table::open(context, &path(file), file).unwrap();
    assert_eq!(table.properties(), &properties);
    assert_eq!(table.file_bytes(), bytes);
    table
}

pub(crate) fn range(start: &[u8], end: &[u8], seqno: u64) -> RangeTombstone {
    RangeTombstone {
        start: Bytes::copy_from_slice(start),
        end: Bytes::copy_from_slice(end),
        seqno: SeqNo(seqno),
    }
}

/// Runs `body` with the seeds asked for: `ESKER_SEED` alone, or as many as `ESKER_SEEDS`, or `seeds`.
pub(crate) fn with_seeds(seeds: u64, mut body: impl FnMut(u64, &mut StdRng)) {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let run = match number("ESKER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ESKER_SEEDS").unwrap_or(seeds),
    };
    for seed in run {
        struct Told(u64);
        impl Drop for Told {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    tell(self.0);
                }
            }
        }
        let told = Told(seed);
        body(seed, &mut StdRng::seed_from_u64(seed));
        std::mem::forget(told);
    }
}

#[expect(clippy::print_stderr, reason = "a failing test says how to repeat it")]
fn tell(seed: u64) {
    eprintln!("failed with ESKER_SEED={seed}");
}

/// A key out of few, of different lengths and with long common fronts, so that they collide.
pub(crate) fn random_key(rng: &mut StdRng) -> Vec<u8> {
    let mut key = match rng.random_range(0..4) {
        0 => vec![],
        1 => b"user:".to_vec(),
        2 => vec![0xff; rng.random_range(0..4)],
        _ => vec![b'x'; rng.random_range(0..40)],
    };
    for _ in 0..rng.random_range(0..3) {
        key.push(*b"\x00\x01ab\xfe\xff".get(rng.random_range(0..6)).unwrap());
    }
    key
}

pub(crate) fn random_value(rng: &mut StdRng) -> Vec<u8> {
    let len = match rng.random_range(0..20) {
        0 => 0,
        1 => rng.random_range(0..3000),
        _ => rng.random_range(0..20),
    };
    let compressible = rng.random_bool(0.5);
    (0..len)
        .map(|_| if compressible { b'v' } else { rng.random() })
        .collect()
}

pub(crate) fn random_versions(rng: &mut StdRng, count: usize) -> Versions {
    let mut versions = Versions::new();
    let many = rng.random_bool(0.2);
    for _ in 0..count {
        let key = if many {
            b"hot".to_vec()
        } else {
            random_key(rng)
        };
        let seqno = if rng.random_bool(0.02) {
            u64::MAX - rng.random_range(0..3)
        } else {
            rng.random_range(0..count as u64 * 8)
        };
        let version = if rng.random_bool(0.2) {
            (VersionKind::Delete, vec![])
        } else {
            (VersionKind::Put, random_value(rng))
        };
        versions.insert((key, Reverse(seqno)), version);
    }
    versions
}
