//! Files of the operating system.
//!
//! - M1: [`Media::create`] allocates every block and then writes zeros in pieces of 32 KiB, so that a
//!   store into a mapping neither runs out of space (SIGBUS) nor converts an unwritten extent at each
//!   sync. The piece is what the page cache takes for its folio (`ZERO_PIECE`). What fails leaves no file behind. They are written back
//!   as they come, so that no sync of another file waits for a whole segment of them.
//! - M2: every call is repeated when a signal interrupts it; every descriptor closes on exec.
//! - M3: a mapped file is never shortened here, and a mapping never reaches beyond its file's end.
//! - M4: an error of a sync is passed on as it came and never retried: the kernel may have dropped the
//!   dirty pages with it, so that a second sync would succeed and prove nothing (W6).
//! - M5: a mapping and its [`MediaFile`] are one open file. The kernel reports an error of writing back once per open file, to whichever
//!   sync comes next; every one of them is looked at. Waiting for what is written back is such a sync in that.
//! - M6: what is opened is a file: a pipe, a device or a directory under its name is an error, and nobody waits for who writes into it.
//! - M7: a directory that is made has its entry synced before what lies in it is made, and so has the one it is made in: it may be there since a
//!   process that ended before it got to that.

use super::{DirEntry, LockGuard, Media, MediaFile, MediaMap, WRITE_BACK_BYTES};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, FlockOperation, OFlags};
use rustix::io::{Errno, retry_on_intr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

/// Zeros are written in pieces of this, see M1.
///
/// Pages first written by one call become one folio, which a fault maps as a whole and a sync after a store writes back
/// as a whole. Seen on ext4, Linux 6.18, for pieces of 4, 16, 32, 64, 128, 256 KiB and 1 MiB: populating 2.0, 4.1, 8.0, 9.8, 10.2,
/// 11.8, 12.2 GB/s; a store of 256 bytes and its msync 99, 89, 75, 91, 100, 131, 295 us.
const ZERO_PIECE: usize = super::FOLIO;

/// Being written back and not waited for, of a file (see [`MediaFile::write_back`]).
#[cfg(target_os = "linux")]
const ON_ITS_WAY: u64 = 1 << 20;

/// Files of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealMedia {}

/// M6.
fn open_file(options: &mut OpenOptions, path: &Path) -> io::Result<Arc<dyn MediaFile>> {
    // Of a file it changes nothing.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = options.custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(Arc::new(RealFile(Arc::new(file)))),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")),
    }
}

impl Media for RealMedia {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut at = dir;
        while !at.as_os_str().is_empty() && !at.is_dir() {
            missing.push(at);
            match at.parent() {
                Some(parent) => at = parent,
                None => break,
            }
        }
        // M7. Where it really is: `at` may be a link, or end in dots. One whose parent may not be read, or is on a file system without such a
        // call, was not made by us either.
        if !at.as_os_str().is_empty() {
            use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
            match self.sync_dir(&parent_of(&std::fs::canonicalize(at)?)) {
                Err(e)
                    if matches!(
                        e.kind(),
                        PermissionDenied | InvalidInput | Unsupported | ReadOnlyFilesystem
                    ) => {}
                other => other?,
            }
        }
        for dir in missing.into_iter().rev() {
            match std::fs::create_dir(dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
                other => other?,
            }
            self.sync_dir(&parent_of(dir))?;
        }
        Ok(())
    }

    fn keep_private(&self, dir: &Path) -> io::Result<()> {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn MediaFile>> {
        open_file(OpenOptions::new().read(true), path)
    }

    fn open_rw(&self, path: &Path) -> io::Result<Arc<dyn MediaFile>> {
        open_file(OpenOptions::new().read(true).write(true), path)
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<Arc<dyn MediaFile>> {
        self.create_at_pace(path, len, &|| {})
    }

    fn create_at_pace(
        &self,
        path: &Path,
        len: u64,
        pace: &dyn Fn(),
    ) -> io::Result<Arc<dyn MediaFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        if let Err(e) = allocate_zeroed(&file, len, pace) {
            // The file is ours (`create_new`). Should this fail too, the first error is the one to tell.
            let _ = std::fs::remove_file(path);
            return Err(e);
        }
        Ok(Arc::new(RealFile(Arc::new(file))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            match entry.metadata() {
                Ok(meta) => entries.push(DirEntry {
                    name,
                    len: meta.len(),
                    is_dir: meta.is_dir(),
                }),
                // Removed since the directory was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive))?;
        Ok(Box::new(RealLock { file }))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = retry_on_intr(|| rustix::fs::statvfs(dir))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// The directory in which `path` has its entry.
fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => PathBuf::from("."),
        None => path.to_owned(),
    }
}

/// M1.
fn allocate_zeroed(file: &File, len: u64, pace: &dyn Fn()) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    match retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len)) {
        // The zeros below then allocate by themselves.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(e) => return Err(e.into()),
    }
    let zeros = [0; ZERO_PIECE];
    let mut at = 0;
    while at < len {
        let piece = (len - at).min(ZERO_PIECE as u64);
        file.write_all_at(&zeros[..piece as usize], at)?;
        at += piece;
        if at.is_multiple_of(WRITE_BACK_BYTES) {
            write_back(file, at - WRITE_BACK_BYTES, WRITE_BACK_BYTES)?;
            pace();
        }
    }
    Ok(())
}

/// See [`MediaFile::write_back`]. What is waited for tells of its error here, and no later sync would: it is not to be passed over.
#[cfg(target_os = "linux")]
fn write_back(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let call = |offset: u64, len: u64, how| {
        retry_on_intr(|| {
            // SAFETY: a call on a descriptor that is open; it takes no pointer.
            let done = unsafe {
                libc::sync_file_range(
                    std::os::fd::AsRawFd::as_raw_fd(file),
                    offset as i64,
                    len as i64,
                    how,
                )
            };
            match done {
                0 => Ok(()),
                _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
            }
        })
    };
    let done = call(offset, len, libc::SYNC_FILE_RANGE_WRITE).and_then(|()| {
        // Piece after piece, so that the disk always has the next.
        let from = offset.saturating_sub(ON_ITS_WAY);
        match (offset + len)
            .saturating_sub(ON_ITS_WAY)
            .saturating_sub(from)
        {
            0 => Ok(()),
            len => call(from, len, libc::SYNC_FILE_RANGE_WAIT_BEFORE),
        }
    });
    match done {
        // Not every file system has it.
        Ok(()) | Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::SPIPE) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn write_back(_: &File, _: u64, _: u64) -> io::Result<()> {
    Ok(())
}

/// The lock belongs to the open file, which a child shares from its fork to its exec. So it is given up by a
/// call: closing our descriptor would leave it to the child for that while.
#[derive(Debug)]
struct RealLock {
    file: File,
}

impl LockGuard for RealLock {}

impl Drop for RealLock {
    fn drop(&mut self) {
        let _ = retry_on_intr(|| rustix::fs::flock(&self.file, FlockOperation::Unlock));
    }
}

#[derive(Debug)]
struct RealFile(Arc<File>);

impl MediaFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write_back(&self, offset: u64, len: u64) -> io::Result<()> {
        write_back(&self.0, offset, len)
    }

    fn read_no_further(&self) {
        // Advice.
        let _ = rustix::fs::fadvise(&*self.0, 0, None, rustix::fs::Advice::Random);
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| rustix::fs::fallocate(&self.0, how, offset, len)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn keep_whole(&self) {
        // Where a file system has no such locks, nobody gets the one to cut it either.
        let shared = FlockOperation::NonBlockingLockShared;
        let _ = retry_on_intr(|| rustix::fs::flock(&*self.0, shared));
    }

    fn cut_nameless(&self, len: u64) -> io::Result<bool> {
        // A mapping shares the file (M3). Without a name it gets none any more.
        if Arc::strong_count(&self.0) > 1 || self.0.metadata()?.nlink() > 0 {
            return Ok(false);
        }
        // Held until it is closed, by whoever cuts it as by who keeps it whole.
        let alone = FlockOperation::NonBlockingLockExclusive;
        if retry_on_intr(|| rustix::fs::flock(&*self.0, alone)).is_err() {
            return Ok(false);
        }
        self.0.set_len(len)?;
        self.0.sync_all()?;
        Ok(true)
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let own = self.0.metadata()?;
        match std::fs::metadata(path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
            Err(e) => match Errno::from_io_error(&e) {
                // No file, or none that can be come to by this name.
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(false),
                _ => Err(e),
            },
        }
    }

    fn map(&self, len: usize) -> io::Result<Box<dyn MediaMap>> {
        let there = self.len()?;
        if len == 0 || len as u64 > there {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot map {len} bytes of a file of {there}"),
            ));
        }
        let map = MmapOptions::new().len(len).map_raw(&*self.0)?;
        let file = self.0.clone();
        Ok(Box::new(RealMap { map, file }))
    }
}

#[derive(Debug)]
struct RealMap {
    map: MmapRaw,
    file: Arc<File>,
}

/// From so many bytes on a sync first gives the pages' places in the mapping up, see [`RealMap::give_up`].
const GIVE_UP_MIN: usize = 64 << 10;

impl RealMap {
    /// Takes the pages that lie wholly in the range out of the mapping; who touches one again maps it again.
    ///
    /// Writing a mapped page back write-protects it, page by page, and interrupts every other core for each: 2 to 3 us a page, on
    /// both sides. Taken out together they cost one interrupt.
    fn give_up(&self, offset: usize, len: usize) {
        const PAGE: usize = 4096;
        let (from, to) = (offset.next_multiple_of(PAGE), (offset + len) / PAGE * PAGE);
        if from >= to {
            return;
        }
        #[cfg(target_os = "linux")]
        // SAFETY: of a shared mapping of a file only the page table entries go: the bytes are the page cache's, stores made before
        // are kept there (the entry's dirty bit moves to the page), and the next access maps the same page. The
        // range is within the mapping.
        let _ = unsafe {
            self.map
                .unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, to - from)
        };
    }
}

// SAFETY: the mapping lives until `self` is dropped and is of whole pages, so its base is aligned to
// the page size, which is 4096 or a multiple. It was no longer than the file (`map`), and files are
// never shortened here (M3). It is shared and raw: no reference to its bytes is ever made here.
unsafe impl MediaMap for RealMap {
    fn base(&self) -> NonNull<u8> {
        NonNull::new(self.map.as_mut_ptr()).expect("a mapping is never at address zero")
    }

    fn len(&self) -> usize {
        self.map.len()
    }

    fn sync(&self, offset: usize, len: usize) -> io::Result<()> {
        if offset
            .checked_add(len)
            .is_none_or(|end| end > self.map.len())
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "cannot sync {len} bytes at {offset} of a mapping of {}",
                    self.map.len()
                ),
            ));
        }
        if len >= GIVE_UP_MIN {
            self.give_up(offset, len);
        }
        // Rounds down to the page of `offset` by itself.
        loop {
            match self.map.flush_range(offset, len) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn write_back(&self, offset: usize, len: usize) {
        let end = self.map.len().min(offset.saturating_add(len));
        if offset >= end {
            return;
        }
        self.give_up(offset, end - offset);
        #[cfg(target_os = "linux")]
        // SAFETY: a call on a descriptor that `self` holds open; it takes no pointer.
        let _ = unsafe {
            libc::sync_file_range(
                std::os::fd::AsRawFd::as_raw_fd(&*self.file),
                offset as i64,
                (end - offset) as i64,
                libc::SYNC_FILE_RANGE_WRITE,
            )
        };
    }

    fn populate(&self, offset: usize, len: usize) {
        let end = self.map.len().min(offset.saturating_add(len));
        if offset < end {
            #[cfg(target_os = "linux")]
            let _ = self
                .map
                .advise_range(memmap2::Advice::PopulateWrite, offset, end - offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media() -> (RealMedia, tempfile::TempDir) {
        (
            RealMedia::default(),
            tempfile::tempdir().expect("a directory"),
        )
    }

    #[test]
    fn a_created_file_has_its_length_its_blocks_and_zeros() {
        let (media, dir) = media();
        let path = dir.path().join("a");
        let file = media.create(&path, 3 * 4096 + 10).unwrap();
        assert_eq!(file.len().unwrap(), 3 * 4096 + 10);
        file.sync().unwrap();
        use std::os::unix::fs::MetadataExt;
        let blocks = std::fs::metadata(&path).unwrap().blocks() * 512;
        assert!(blocks >= 3 * 4096 + 10, "only {blocks} bytes allocated");
        assert!(std::fs::read(&path).unwrap().iter().all(|b| *b == 0));
    }

    #[test]
    fn m6_what_is_no_file_is_not_opened_as_one() {
        let (media, dir) = media();
        let (pipe, link) = (dir.path().join("pipe"), dir.path().join("link"));
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for path in [&pipe, &link, dir.path()] {
            let refused = media.open(path).expect_err("it is no file").kind();
            assert_eq!(refused, io::ErrorKind::InvalidInput, "{}", path.display());
            assert!(media.open_rw(path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn a_hard_link_is_a_second_name_of_the_file_and_replaces_none() {
        let (media, dir) = media();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        media.create(&a, 0).unwrap().write_all_at(b"x", 0).unwrap();
        media.hard_link(&a, &b).unwrap();
        let twice = media.hard_link(&a, &b).unwrap_err();
        assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists);
        media.remove(&a).unwrap();
        assert_eq!(std::fs::read(&b).unwrap(), b"x");
    }

    #[test]
    fn creating_over_a_file_fails_and_leaves_it_alone() {
        let (media, dir) = media();
        let path = dir.path().join("a");
        std::fs::write(&path, b"mine").unwrap();
        let e = media.create(&path, 4096).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_create_that_fails_leaves_no_file() {
        let (media, dir) = media();
        let path = dir.path().join("a");
        // Larger than any file system here takes.
        media.create(&path, 1 << 62).unwrap_err();
        assert!(!media.exists(&path).unwrap());
    }

    #[test]
    fn a_mapping_and_the_file_are_the_same_bytes() {
        let (media, dir) = media();
        let path = dir.path().join("a");
        let file = media.create(&path, 3 * 4096).unwrap();
        let map = file.map(3 * 4096).unwrap();
        assert_eq!(map.len(), 3 * 4096);
        assert!(map.base().as_ptr().addr().is_multiple_of(4096));
        map.populate(4096, 1 << 30);
        // SAFETY: in bounds, and nobody else has this mapping.
        unsafe { map.base().as_ptr().wrapping_add(5000).write(7) };
        // Neither end on a page boundary.
        map.sync(4999, 5).unwrap();
        map.sync(0, 0).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 5000).unwrap();
        assert_eq!(byte, [7]);
        file.write_all_at(&[9], 3).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { map.base().as_ptr().wrapping_add(3).read() }, 9);
        // The mapping outlives the file's handle and its name.
        drop(file);
        media.remove(&path).unwrap();
        map.sync(0, 3 * 4096).unwrap();
        assert!(map.sync(4096, 3 * 4096).is_err());
        assert!(map.sync(usize::MAX, 2).is_err());
    }

    /// What is given up or written back stays in the file and in the mapping, and can be stored to again.
    #[test]
    fn pages_given_up_keep_what_was_stored() {
        const LEN: usize = 4 * GIVE_UP_MIN;
        let (media, dir) = media();
        let file = media.create(&dir.path().join("a"), LEN as u64).unwrap();
        let map = file.map(LEN).unwrap();
        let fill = |byte: u8| {
            // SAFETY: in bounds, and nobody else has this mapping.
            unsafe { map.base().as_ptr().write_bytes(byte, LEN) }
        };
        let all_are = |byte: u8| {
            let mut read = vec![0; LEN];
            file.read_exact_at(&mut read, 0).unwrap();
            // SAFETY: as above; nobody stores meanwhile.
            let mapped = unsafe { std::slice::from_raw_parts(map.base().as_ptr(), LEN) };
            read.iter().chain(mapped).all(|b| *b == byte)
        };
        fill(1);
        map.write_back(100, LEN - 200);
        assert!(all_are(1));
        fill(2);
        map.sync(0, LEN).unwrap();
        assert!(all_are(2));
        fill(3);
        map.write_back(usize::MAX, 1);
        map.write_back(0, usize::MAX);
        assert!(all_are(3));
    }

    #[test]
    fn nothing_is_mapped_beyond_the_end() {
        let (media, dir) = media();
        let file = media.create(&dir.path().join("a"), 4096).unwrap();
        for len in [0, 4097, 1 << 40] {
            assert_eq!(
                file.map(len).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
        }
    }

    #[test]
    fn reads_are_short_only_at_the_end_and_writes_grow_the_file() {
        let (media, dir) = media();
        let path = dir.path().join("a");
        let file = media.create(&path, 0).unwrap();
        file.write_all_at(b"hello", 3).unwrap();
        let mut buf = [1; 16];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 8);
        assert_eq!(&buf[..8], b"\0\0\0hello");
        let e = file.read_exact_at(&mut buf, 0).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
        assert!(media.open(&path).unwrap().write_all_at(b"no", 0).is_err());
    }

    #[test]
    fn punched_bytes_read_as_zeros_and_the_length_stays() {
        let (media, dir) = media();
        let file = media.create(&dir.path().join("a"), 0).unwrap();
        file.write_all_at(&[1; 3 * 4096], 0).unwrap();
        file.punch(4096, 4096).unwrap();
        assert_eq!(file.len().unwrap(), 3 * 4096);
        let mut buf = [0; 3 * 4096];
        file.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!((buf[4095], buf[4096], buf[8191], buf[8192]), (1, 0, 0, 1));
    }

    #[test]
    fn a_lock_has_one_holder_until_it_is_dropped() {
        let (media, dir) = media();
        let path = dir.path().join("LOCK");
        let lock = media.lock(&path).unwrap();
        let e = media.lock(&path).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        media.lock(&path).unwrap();
    }

    /// Found by a test that opened a store again while another test was starting a process.
    #[test]
    fn a_lock_is_free_once_dropped_though_a_child_shares_the_file() {
        let (_, dir) = media();
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.open(dir.path().join("LOCK")).unwrap()
        };
        let file = open();
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        // What a child has between fork and exec.
        let shared = file.try_clone().unwrap();
        drop(RealLock { file });
        rustix::fs::flock(open(), FlockOperation::NonBlockingLockExclusive).unwrap();
        drop(shared);
    }

    #[test]
    fn directories_are_made_to_any_depth_and_listed() {
        let (media, dir) = media();
        let deep = dir.path().join("a/b/c");
        media.create_dir_all(&deep).unwrap();
        media.create_dir_all(&deep).unwrap();
        media.create(&deep.join("x"), 5).unwrap();
        media.create_dir_all(&deep.join("d")).unwrap();
        media.rename(&deep.join("x"), &deep.join("y")).unwrap();
        media.sync_dir(&deep).unwrap();
        let mut list = media.list(&deep).unwrap();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        let seen: Vec<_> = list.iter().map(|e| (e.name.as_str(), e.is_dir)).collect();
        assert_eq!(seen, [("d", true), ("y", false)]);
        assert_eq!(list[1].len, 5);
        // A directory handed over as a descriptor: the one above it can't be synced.
        let handed = std::fs::File::open(dir.path()).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&handed);
        let by_fd = PathBuf::from(format!("/proc/self/fd/{fd}/e/f"));
        media.create_dir_all(&by_fd).unwrap();
        assert!(dir.path().join("e/f").is_dir());
        let e = media.create_dir_all(&deep.join("y/z")).unwrap_err();
        assert!(matches!(
            e.kind(),
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists
        ));
        assert!(media.free_bytes(&deep).unwrap() > 0);
    }
}
