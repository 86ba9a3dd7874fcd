//! The media trait: all file access of the log and of the store goes through here.
//!
//! Two implementations: [`real::RealMedia`], and (feature `sim`) [`sim::SimMedia`], in memory, which
//! keeps apart what was written from what was synced, cuts the power, fails calls and flips bits.
//!
//! What is assumed of a medium: a 512-byte sector is written whole or not at all; bytes and
//! directory entries that were not synced may be there after a power cut or not, each by itself;
//! after a failed sync the pages count as clean, so a second sync proves nothing (W6). What has to be
//! written again because of that is written by [`MediaFile::write_all_at`].

use std::fmt;
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

pub mod clock;
pub mod real;
#[cfg(feature = "sim")]
pub mod sim;

/// Files of the log are filled with zeros in pieces of this; see [`real`].
pub(crate) const FOLIO: usize = 32 << 10;

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// File name, without its directory. Names that are not UTF-8 are not listed.
    pub name: String,
    /// Bytes.
    pub len: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A place where files live. All paths are as the caller gave them; nothing is resolved.
pub trait Media: Send + Sync + fmt::Debug {
    /// Creates `dir` and what is missing above it. Their own entries are durable then, whoever made them; other entries of the directories above are
    /// synced by [`Media::sync_dir`] alone.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Takes everybody's rights to the directory `dir` away but its owner's.
    fn keep_private(&self, dir: &Path) -> io::Result<()>;
    /// Opens an existing file for reading.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn MediaFile>>;
    /// Opens an existing file for reading and writing.
    fn open_rw(&self, path: &Path) -> io::Result<Arc<dyn MediaFile>>;
    /// Creates a new file of `len` bytes (zeros) with all its space allocated, so that no later
    /// write into it can run out of space. Fails with `AlreadyExists`; on another failure nothing is
    /// left behind. The entry is not durable before [`Media::sync_dir`].
    fn create(&self, path: &Path, len: u64) -> io::Result<Arc<dyn MediaFile>>;
    /// As [`Media::create`], by somebody who has time: `pace` is called behind each [`WRITE_BACK_BYTES`] of zeros, and may sleep. A medium may
    /// do without.
    fn create_at_pace(
        &self,
        path: &Path,
        len: u64,
        pace: &dyn Fn(),
    ) -> io::Result<Arc<dyn MediaFile>> {
        let _ = pace;
        self.create(path, len)
    }
    /// Renames within one directory or between two, replacing `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives the file `from` another name, `to`, in the same or another directory. Fails with `AlreadyExists`. The entry is not durable
    /// before [`Media::sync_dir`]; the bytes are as durable as they were.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Lists a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Whether there is a file or directory at `path`.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes the entries of `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the exclusive lock of the file `path`, created where missing, for as long as the guard lives.
    /// `WouldBlock` when another holder (process or not) has it (W9).
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>>;
    /// Bytes that can still be allocated in `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// Holds a lock of [`Media::lock`]; dropped, it is free.
pub trait LockGuard: Send + Sync + fmt::Debug {}

/// An open file.
#[expect(
    clippy::len_without_is_empty,
    reason = "no caller asks whether a file is empty"
)]
pub trait MediaFile: Send + Sync + fmt::Debug {
    /// Bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads at `offset`; short only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf` at `offset`, growing the file where needed. On an error any part may have
    /// been written.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the bytes (and the length) of the whole file durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// Begins to write `offset..offset + len` back, and waits until all but the last mebibyte before its end has been. Who writes a large file calls it
    /// as it goes on: a whole file at its sync would keep the disk from everybody else who waits for it, a log first of all. It makes nothing
    /// durable: that is [`MediaFile::sync`]'s. A medium may do nothing.
    fn write_back(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Ok(())
    }
    /// Whoever reads it does so bit by bit, with pauses: the system is not to read far ahead of that, for those are many bytes at once, and everybody else's
    /// sync waits behind them. A medium may do nothing.
    fn read_no_further(&self) {}
    /// Gives the space of `offset..offset + len` back; it reads as zeros (hole punch). A medium that
    /// can't may do nothing.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Keeps it whole for who reads it, until it is closed: [`MediaFile::cut_nameless`] does nothing meanwhile, in whatever process.
    fn keep_whole(&self) {}
    /// Cuts a file that has no name any more to `len` bytes, so that its space goes back bit by bit and not all at once when it is closed; durable on
    /// return. False, and nothing is done, where it has a name, is mapped, is kept whole, or the medium does not do that.
    fn cut_nameless(&self, len: u64) -> io::Result<bool> {
        let _ = len;
        Ok(false)
    }
    /// Whether `path` names this very file: not when it was removed or renamed, another took its place, or the name leads nowhere (a loop
    /// of links, a directory that may not be entered).
    fn is_at(&self, path: &Path) -> io::Result<bool>;
    /// Maps the first `len` bytes for reading and writing. All of them must be allocated.
    fn map(&self, len: usize) -> io::Result<Box<dyn MediaMap>>;

    /// Reads exactly `buf.len()` bytes or fails with `UnexpectedEof`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let n = self.read_at(buf, offset)?;
        if n < buf.len() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} bytes wanted at {offset}, {n} found", buf.len()),
            ));
        }
        Ok(())
    }
}

/// Written between two calls of [`MediaFile::write_back`], of a large file. What is handed to the disk at once, everybody else's sync waits behind. Seen
/// beside 64 MiB a second of such writes, 99th percentile of syncs of 4 KiB: pieces of 1 MiB 1.4 to 2.3 ms, of 256 KiB 0.6 to 1.6, of 128 KiB 0.6 to 1.0,
/// of 64 KiB 0.5 to 0.6; without the writes 0.5. Beside twice as much: 1 MiB 3.3 to 4.0, 128 KiB 0.8.
pub const WRITE_BACK_BYTES: u64 = 128 << 10;

/// A shared mapping of a file, for writing. Unmapped on drop.
///
/// # Safety
/// An implementor guarantees that `base()..base() + len()` stays valid for reads and writes, by
/// several threads at once, until it is dropped, and that `base()` is aligned to 4096.
#[expect(clippy::len_without_is_empty, reason = "a map is never empty")]
pub unsafe trait MediaMap: Send + Sync + fmt::Debug {
    /// First byte.
    fn base(&self) -> NonNull<u8>;
    /// Bytes mapped.
    fn len(&self) -> usize;
    /// Makes `offset..offset + len` durable (msync of the pages it touches). May run beside stores.
    fn sync(&self, offset: usize, len: usize) -> io::Result<()>;
    /// Asks that `offset..offset + len` begin to be written back, and does not wait for it: a sync that follows has less to do.
    /// Best effort; an error of the writing must be the next [`MediaMap::sync`]'s. May run beside stores.
    fn write_back(&self, offset: usize, len: usize) {
        let _ = (offset, len);
    }
    /// Asks that `offset..offset + len` be populated for writing. Best effort.
    fn populate(&self, offset: usize, len: usize);
}
