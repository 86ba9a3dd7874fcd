//! The simplest correct log: the mark to beat.
//!
//! Leader/follower group commit with a mutex and a condvar. Whoever finds nobody writing takes what has gathered, writes it
//! with one call, syncs it with one call, and wakes everybody. Files are preallocated and zeroed in 4 KiB writes (larger ones
//! make large folios, which are written back whole); a full file is used again from its start.
//!
//! Buffered appends are one `pwrite` each, under the mutex. Replay reads 256 KiB at a time.
//!
//! Two ways to the disk: `pwrite` + `fdatasync`, or one write with `O_DIRECT | O_DSYNC`.
//!
//! Frame: length u32, crc32 u32 (of position and payload), position u64, payload, zeros to 8 bytes.

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const BLOCK: usize = 4096;
const HEADER: usize = 16;
/// Bytes of a read of `replay`: of 64 KiB to 1 MiB the fastest.
const READ: usize = 256 << 10;
/// A longer frame is none.
const FRAME_MAX: usize = 64 << 20;

/// How bytes reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `pwrite`, then `fdatasync`.
    WriteSync,
    /// `O_DIRECT | O_DSYNC`, whole blocks.
    Direct,
}

#[derive(Debug)]
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
#[derive(Debug)]
pub struct Simplest {
    file: File,
    capacity: u64,
    way: Way,
    inner: Mutex<Inner>,
    moved: Condvar,
}

/// Makes a file of `bytes` with all its blocks written, and opens it for `way`.
pub fn prepared(path: &Path, bytes: u64, way: Way) -> io::Result<File> {
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
    opened(path, flags)
}

fn opened(path: &Path, flags: OFlags) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
}

impl Way {
    /// Opens a file that is there for writes that are not synced one by one.
    pub fn open_unsynced(self, path: &Path) -> io::Result<File> {
        let flags = match self {
            Way::WriteSync => OFlags::empty(),
            Way::Direct => OFlags::DIRECT,
        };
        opened(path, flags)
    }
}

/// Bytes of the frame of a payload of `len`.
#[must_use]
pub fn frame_bytes(len: usize) -> u64 {
    (HEADER + len).next_multiple_of(8) as u64
}

fn frame_crc(at: u64, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&at.to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

/// Bytes at an address that `O_DIRECT` accepts.
#[derive(Debug, Default)]
pub struct Aligned(Vec<u8>);

impl Aligned {
    /// A copy of `bytes`, zeros behind it up to a whole block.
    pub fn copy(&mut self, bytes: &[u8]) -> &[u8] {
        let whole = bytes.len().next_multiple_of(BLOCK);
        self.0.resize(self.0.len().max(whole + BLOCK), 0);
        let at = self.0.as_ptr().align_offset(BLOCK);
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self.0[at + bytes.len()..at + whole].fill(0);
        &self.0[at..at + whole]
    }
}

impl Simplest {
    /// Makes the log: a file of `capacity` bytes.
    pub fn create(path: &Path, capacity: u64, way: Way) -> io::Result<Self> {
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
    pub fn append(&self, payload: &[u8]) -> io::Result<u64> {
        let mut inner = self.inner.lock();
        let at = inner.push(payload);
        let end = inner.start + inner.buffer.len() as u64;
        self.sync_to(inner, end)?;
        Ok(at)
    }

    /// Appends `payload`; on return it survives `kill -9`. For `Way::WriteSync`.
    pub fn append_buffered(&self, payload: &[u8]) -> io::Result<u64> {
        let mut inner = self.inner.lock();
        while inner.leading {
            self.moved.wait(&mut inner);
        }
        if inner.failed {
            return Err(failed());
        }
        let at = inner.push(payload);
        let (from, group) = (inner.start, std::mem::take(&mut inner.buffer));
        let written = self.put(from, &group);
        inner.failed |= written.is_err();
        inner.start += group.len() as u64;
        // Its room is used again.
        inner.buffer = group;
        inner.buffer.clear();
        written?;
        Ok(at)
    }

    /// Makes durable what was appended.
    pub fn sync(&self) -> io::Result<()> {
        let inner = self.inner.lock();
        let end = inner.start + inner.buffer.len() as u64;
        self.sync_to(inner, end)
    }

    fn sync_to<'a>(&'a self, mut inner: MutexGuard<'a, Inner>, end: u64) -> io::Result<()> {
        let mut aligned = Aligned::default();
        while inner.synced < end {
            if inner.failed {
                return Err(failed());
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
        Ok(())
    }

    fn write(&self, from: u64, group: &[u8], aligned: &mut Aligned) -> io::Result<()> {
        let bytes = if self.way == Way::Direct {
            aligned.copy(group)
        } else {
            group
        };
        self.put(from, bytes)?;
        if self.way == Way::WriteSync {
            self.file.sync_data()
        } else {
            Ok(())
        }
    }

    fn put(&self, from: u64, bytes: &[u8]) -> io::Result<()> {
        let at = from % self.capacity;
        let first = bytes.len().min((self.capacity - at) as usize);
        self.file.write_all_at(&bytes[..first], at)?;
        if first < bytes.len() {
            self.file.write_all_at(&bytes[first..], 0)?;
        }
        Ok(())
    }

    /// Hands over the payloads of a log that never went round its file, up to the first frame that is not whole.
    pub fn replay(path: &Path, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut file = File::open(path)?;
        let mut buffer = vec![0; READ];
        // Position of the buffer's first byte; what of the buffer is read, and where in it the next frame begins.
        let (mut start, mut filled, mut next) = (0, 0, 0);
        loop {
            let read = &buffer[..filled];
            while let Some(header) = read.get(next..next + HEADER) {
                let len = u32::from_le_bytes(header[..4].try_into().expect("four bytes")) as usize;
                let crc = u32::from_le_bytes(header[4..8].try_into().expect("four bytes"));
                let at = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
                if len > FRAME_MAX || at != start + next as u64 {
                    return Ok(());
                }
                // Position and payload lie side by side: one sum over both.
                let Some(summed) = read.get(next + 8..next + HEADER + len) else {
                    break;
                };
                if crc32fast::hash(summed) != crc {
                    return Ok(());
                }
                each(&summed[HEADER - 8..]);
                next += frame_bytes(len) as usize;
            }
            let whole = next.min(filled);
            buffer.copy_within(whole..filled, 0);
            start += whole as u64;
            next -= whole;
            filled -= whole;
            if buffer.len() - filled < READ / 2 {
                buffer.resize(buffer.len() + READ, 0);
            }
            let read = file.read(&mut buffer[filled..])?;
            filled += read;
            if read == 0 {
                return Ok(());
            }
        }
    }
}

fn failed() -> io::Error {
    io::Error::other("the log failed; open it again")
}

impl Inner {
    /// Puts a frame behind what has gathered.
    fn push(&mut self, payload: &[u8]) -> u64 {
        let at = self.start + self.buffer.len() as u64;
        self.buffer
            .extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.buffer
            .extend_from_slice(&frame_crc(at, payload).to_le_bytes());
        self.buffer.extend_from_slice(&at.to_le_bytes());
        self.buffer.extend_from_slice(payload);
        let padded = self.buffer.len().next_multiple_of(8);
        self.buffer.resize(padded, 0);
        at
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "a test that says why it is skipped")]
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

    /// Appends of both kinds, mixed by threads: replay gives each once, those of a thread in order.
    #[test]
    fn replay_gives_back_what_was_appended() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("log");
        let log = Simplest::create(&path, 8 << 20, Way::WriteSync).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let log = &log;
                scope.spawn(move || {
                    for n in 0..2000_u32 {
                        let mut payload = vec![thread; 5 + n as usize % 1000];
                        payload[1..5].copy_from_slice(&n.to_le_bytes());
                        if n % 50 == 0 {
                            log.append(&payload).unwrap();
                        } else {
                            log.append_buffered(&payload).unwrap();
                        }
                    }
                });
            }
        });
        log.sync().unwrap();
        let mut next = [0_u32; 4];
        Simplest::replay(&path, |payload| {
            let next = &mut next[usize::from(payload[0])];
            assert_eq!(payload[1..5], next.to_le_bytes());
            assert_eq!(payload.len(), 5 + *next as usize % 1000);
            *next += 1;
        })
        .unwrap();
        assert_eq!(next, [2000; 4]);
    }
}
