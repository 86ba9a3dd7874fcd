//! The simplest correct log: the mark to beat.
//!
//! Leader/follower group commit with a mutex and a condvar. Whoever finds nobody writing takes what has gathered, writes it
//! with one call, syncs it with one call, and wakes everybody. Files are preallocated and zeroed in 4 KiB writes (larger ones
//! make large folios, which are written back whole); a full file is used again from its start.
//!
//! Two ways to the disk: `pwrite` + `fdatasync`, or one write with `O_DIRECT | O_DSYNC`.
//!
//! Frame: length u32, crc32 u32 (of position and payload), position u64, payload, zeros to 8 bytes.

use parking_lot::{Condvar, Mutex};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const BLOCK: usize = 4096;

/// How bytes reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `pwrite`, then `fdatasync`.
    WriteSync,
    /// `O_DIRECT | O_DSYNC`, whole blocks.
    Direct,
}

struct Inner {
    /// Frames not taken by a leader yet; in front, with `Direct`, the part of the last block already written.
    buffer: Vec<u8>,
    /// Position of the buffer's first byte.
    start: u64,
    synced: u64,
    leading: bool,
    failed: bool,
}

/// The log.
pub(crate) struct Simplest {
    file: File,
    capacity: u64,
    way: Way,
    inner: Mutex<Inner>,
    moved: Condvar,
}

/// Makes a file of `bytes` with all its blocks written, and opens it for `way`.
pub(crate) fn prepared(path: &Path, bytes: u64, way: Way) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    for block in 0..bytes / BLOCK as u64 {
        file.write_all_at(&[0; BLOCK], block * BLOCK as u64)?;
    }
    file.sync_all()?;
    let flags = match way {
        Way::WriteSync => OFlags::empty(),
        Way::Direct => OFlags::DIRECT | OFlags::DSYNC,
    };
    OpenOptions::new()
        .write(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
}

/// Bytes at an address that `O_DIRECT` accepts.
pub(crate) struct Aligned(Vec<u8>);

impl Aligned {
    pub(crate) fn new() -> Self {
        Aligned(Vec::new())
    }

    /// A copy of `bytes`, zeros behind it up to a whole block.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> &[u8] {
        let whole = bytes.len().next_multiple_of(BLOCK);
        self.0.resize(self.0.len().max(whole + BLOCK), 0);
        let at = self.0.as_ptr().align_offset(BLOCK);
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self.0[at + bytes.len()..at + whole].fill(0);
        &self.0[at..at + whole]
    }
}

impl Simplest {
    pub(crate) fn create(path: &Path, capacity: u64, way: Way) -> io::Result<Self> {
        let inner = Inner {
            buffer: Vec::new(),
            start: 0,
            synced: 0,
            leading: false,
            failed: false,
        };
        Ok(Simplest {
            file: prepared(path, capacity, way)?,
            capacity,
            way,
            inner: Mutex::new(inner),
            moved: Condvar::new(),
        })
    }

    /// Appends `payload`; on return it is durable.
    pub(crate) fn append(&self, payload: &[u8]) -> io::Result<u64> {
        let mut inner = self.inner.lock();
        let at = inner.start + inner.buffer.len() as u64;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&at.to_le_bytes());
        crc.update(payload);
        inner
            .buffer
            .extend_from_slice(&(payload.len() as u32).to_le_bytes());
        inner
            .buffer
            .extend_from_slice(&crc.finalize().to_le_bytes());
        inner.buffer.extend_from_slice(&at.to_le_bytes());
        inner.buffer.extend_from_slice(payload);
        let padded = inner.buffer.len().next_multiple_of(8);
        inner.buffer.resize(padded, 0);
        let end = inner.start + padded as u64;
        let mut aligned = Aligned::new();
        while inner.synced < end {
            if inner.failed {
                return Err(io::Error::other("the log failed; open it again"));
            }
            if inner.leading {
                self.moved.wait(&mut inner);
                continue;
            }
            inner.leading = true;
            let from = inner.start;
            let group = std::mem::take(&mut inner.buffer);
            let until = from + group.len() as u64;
            // The next group begins with the block that this one leaves unfilled.
            let kept = if self.way == Way::Direct {
                group.len() % BLOCK
            } else {
                0
            };
            inner.buffer.extend_from_slice(&group[group.len() - kept..]);
            inner.start = until - kept as u64;
            drop(inner);
            let written = self.write(from, &group, &mut aligned);
            inner = self.inner.lock();
            inner.leading = false;
            inner.failed |= written.is_err();
            inner.synced = if written.is_ok() { until } else { inner.synced };
            self.moved.notify_all();
            written?;
        }
        Ok(at)
    }

    fn write(&self, from: u64, group: &[u8], aligned: &mut Aligned) -> io::Result<()> {
        let bytes = if self.way == Way::Direct {
            aligned.copy(group)
        } else {
            group
        };
        let at = from % self.capacity;
        let first = bytes.len().min((self.capacity - at) as usize);
        self.file.write_all_at(&bytes[..first], at)?;
        if first < bytes.len() {
            self.file.write_all_at(&bytes[first..], 0)?;
        }
        if self.way == Way::WriteSync {
            self.file.sync_data()
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every append of every thread is in the file, whole, at its position.
    #[test]
    fn what_was_appended_is_in_the_file() {
        for way in [Way::WriteSync, Way::Direct] {
            let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            let path = dir.path().join("log");
            let log = match Simplest::create(&path, 1 << 20, way) {
                Ok(log) => log,
                Err(error) if way == Way::Direct => {
                    return println!("skipped: no O_DIRECT here: {error}");
                }
                Err(error) => panic!("{error}"),
            };
            std::thread::scope(|scope| {
                for thread in 0..8_u8 {
                    let log = &log;
                    scope.spawn(move || {
                        (0..50).for_each(|_| {
                            log.append(&[thread; 99]).unwrap();
                        })
                    });
                }
            });
            let bytes = std::fs::read(&path).unwrap();
            let mut counts = [0; 8];
            for at in (0..400_u64).map(|n| n * 120) {
                let frame = &bytes[at as usize..at as usize + 120];
                let mut crc = crc32fast::Hasher::new();
                crc.update(&frame[8..115]);
                assert_eq!(frame[..4], 99_u32.to_le_bytes());
                assert_eq!(frame[4..8], crc.finalize().to_le_bytes());
                assert_eq!(frame[8..16], at.to_le_bytes());
                counts[usize::from(frame[16])] += 1;
            }
            assert_eq!(counts, [50; 8]);
        }
    }
}
