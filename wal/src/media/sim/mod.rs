//! Files in memory that lose their power: a medium for tests, the log's, the store's and yours.
//!
//! [`SimMedia`] keeps apart what was written (the page cache: what every read sees) and what was synced
//! (the disk). It is a handle: a test keeps it beside the log it tests, and gives the log a clone, which dies with the
//! log's process.
//!
//! - **Power cut** ([`SimMedia::power_cut`]): of each 512-byte sector that was written and not synced, and of
//!   each change of a directory that was not synced, the seed decides whether it survives. A rename
//!   is there whole or not at all. The length of a file that grew lies anywhere between the synced
//!   and the written one. Handles, maps and locks of before are dead: each call fails.
//! - **Kill** ([`SimMedia::kill`]): handles and locks die, the page cache stays, as after `kill -9`.
//! - **Cut at a call** ([`SimMedia::cut_at_call`]): the power goes while the n-th call is under way, which
//!   may have had any part of its effect; stores into maps from then on are lost, and all calls fail
//!   until [`SimMedia::power_cut`] decides what survived. Or it was the process alone that ended there: [`SimMedia::kill`]
//!   then keeps all that was written, a rename whose directory was not synced among it, for the next process to find.
//! - **Failed calls** ([`Fault`]): the n-th of some calls fails with an error. A failed sync has the kernel's
//!   habit: some of the dirty sectors reached the disk, and *all* of the pages count as clean. They
//!   are readable until the power goes; a later sync succeeds without writing them, unless a call
//!   ([`MediaFile::write_all_at`]) or a store of other bytes dirtied
//!   them again. (A store of the same bytes into a map can't be seen here, so what must be written
//!   again has to be written by a call.) Of a failed write, a part was written. After a failed directory sync the
//!   changes are still pending. Any other failed call did nothing.
//! - **Write-back** ([`SimMedia::write_back_one_in`]): now and then some dirty sectors and directory changes reach
//!   the disk without a sync, so a cut may also show bytes that were overwritten later.
//! - **Full disk** ([`SimMedia::set_capacity`]); a file that is mapped with a hole, which would be a SIGBUS on one day, panics; **bit rot** ([`SimMedia::flip`]), a count and a trace of calls.
//!
//! All of it follows from seeds: with one thread, a run replays exactly.
//!
//! Limits: directories are not renamed; a file that is mapped does not grow beyond its last page.
//!
//! ```
//! use esker_wal::media::{Media, sim::SimMedia};
//! use std::path::Path;
//!
//! let media = SimMedia::new(1);
//! media.create_dir_all(Path::new("d"))?;
//! let file = media.create(Path::new("d/a"), 0)?;
//! file.write_all_at(b"synced", 0)?;
//! file.sync()?;
//! media.sync_dir(Path::new("d"))?;
//! file.write_all_at(b"or not", 0)?;
//!
//! media.power_cut(7);
//! assert!(file.sync().is_err(), "handles of before are dead");
//! let bytes = media.read(Path::new("d/a"))?;
//! assert!(bytes == b"synced" || bytes == b"or not");
//! # Ok::<(), std::io::Error>(())
//! ```

use super::{DirEntry, LockGuard, Media, MediaFile, MediaMap};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

mod mem;
mod state;
#[cfg(test)]
mod tests;

use mem::Mem;
use state::{Fate, InodeId, Node, State};

/// What is written whole or not at all.
pub const SECTOR: usize = 512;
/// `errno` of a full disk.
pub const ENOSPC: i32 = 28;
/// `errno` of a failed device.
pub const EIO: i32 = 5;

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// `create_dir_all`.
    CreateDir,
    /// `open`.
    Open,
    /// `open_rw`.
    OpenRw,
    /// `create`.
    Create,
    /// `rename`; the path is the new one.
    Rename,
    /// `hard_link`; the path is the new one.
    Link,
    /// `remove`.
    Remove,
    /// `list`.
    List,
    /// `exists`, and `is_at` of a file; the path is the one that is asked for.
    Exists,
    /// `sync_dir`.
    SyncDir,
    /// `lock`.
    Lock,
    /// `free_bytes`.
    FreeBytes,
    /// `len`.
    Len,
    /// `read_at`.
    Read,
    /// `write_all_at`.
    Write,
    /// `sync` of a file.
    SyncFile,
    /// `punch`.
    Punch,
    /// `map`.
    Map,
    /// `sync` of a map.
    SyncMap,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it asks for.
    pub kind: CallKind,
    /// Of which file or directory, under the name by which it was opened.
    pub path: PathBuf,
    /// From which byte on; zero where that means nothing.
    pub offset: u64,
    /// How many bytes; zero where that means nothing.
    pub len: u64,
}

/// Which calls are to fail, and how. See the module's header for what a failed call leaves.
#[derive(Clone, Debug)]
pub struct Fault {
    kinds: Vec<CallKind>,
    path_contains: Option<String>,
    skip: u64,
    times: u64,
    errno: i32,
}

impl Fault {
    /// The `n`-th call from now on (1: the next) fails, with `EIO`, once.
    #[must_use]
    pub fn nth(n: u64) -> Fault {
        Fault {
            kinds: Vec::new(),
            path_contains: None,
            skip: n.saturating_sub(1),
            times: 1,
            errno: EIO,
        }
    }

    /// Counts only calls of this kind. Repeated: or of that.
    #[must_use]
    pub fn of(mut self, kind: CallKind) -> Fault {
        self.kinds.push(kind);
        self
    }

    /// Counts only calls of paths that contain `part`.
    #[must_use]
    pub fn on(mut self, part: &str) -> Fault {
        self.path_contains = Some(part.to_owned());
        self
    }

    /// Fails so many of the calls in a row, from the `n`-th on.
    #[must_use]
    pub fn times(mut self, times: u64) -> Fault {
        self.times = times;
        self
    }

    /// With this error number instead of `EIO`.
    #[must_use]
    pub fn errno(mut self, errno: i32) -> Fault {
        self.errno = errno;
        self
    }
}

/// SplitMix64: the same numbers from a seed in every version.
#[derive(Clone, Debug)]
pub struct SimRng(u64);

impl SimRng {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> SimRng {
        SimRng(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; zero when `n` is.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// True once in `n` times.
    pub fn chance(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Files in memory. See the module's header.
///
/// The handle that `new` or [`SimMedia::fork`] returns is the test's, and lives on through crashes. A clone is
/// what a process is given: from the next power cut or kill on, its calls as a [`Media`] fail, like those of the
/// files that it opened, so that what a dead process does in its destructors reaches nothing.
#[derive(Debug)]
pub struct SimMedia {
    state: Arc<Mutex<State>>,
    /// Of a clone: the life of the machine in which it was made.
    boot: Option<u64>,
}

impl Clone for SimMedia {
    fn clone(&self) -> SimMedia {
        let now = self.state.lock().boot;
        SimMedia {
            state: self.state.clone(),
            boot: Some(self.boot.unwrap_or(now)),
        }
    }
}

impl SimMedia {
    /// An empty medium. The seed decides what failed syncs and write-back leave.
    #[must_use]
    pub fn new(seed: u64) -> SimMedia {
        SimMedia::over(State::new(seed))
    }

    fn over(state: State) -> SimMedia {
        SimMedia {
            state: Arc::new(Mutex::new(state)),
            boot: None,
        }
    }

    /// As `clone`, with the state locked already.
    fn of(&self, boot: u64) -> SimMedia {
        SimMedia {
            state: self.state.clone(),
            boot: Some(boot),
        }
    }

    /// The life in which a call of this handle is made.
    fn boot(&self, state: &State) -> u64 {
        self.boot.unwrap_or(state.boot)
    }

    /// The power goes and comes back: `seed` decides what of the unsynced survives. Planned faults
    /// stay, a planned cut does not.
    pub fn power_cut(&self, seed: u64) {
        self.state.lock().power_cut(seed);
    }

    /// The process ends without a word and another may start: all that was written stays. Where [`SimMedia::cut_at_call`] has struck, the
    /// process ended at that call, and the power stayed.
    pub fn kill(&self) {
        self.state.lock().kill();
    }

    /// The power goes during the `n`-th call from now on (1: the next).
    pub fn cut_at_call(&self, n: u64) {
        let mut state = self.state.lock();
        state.cut_at = Some(state.calls + n.max(1));
    }

    /// Whether [`SimMedia::cut_at_call`] has struck, and no [`SimMedia::power_cut`] or [`SimMedia::kill`] came since.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.state.lock().down
    }

    /// Plans a failure, beside those that are planned already.
    pub fn fail(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Forgets all planned failures and a planned cut.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.faults.clear();
        state.cut_at = None;
    }

    /// One call in `n` is preceded by a write-back of some of what is dirty; zero (the default): none.
    pub fn write_back_one_in(&self, n: u64) {
        self.state.lock().write_back_in = n;
    }

    /// Bytes that all files together may take, in whole pages; `None` (the default): any.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes.unwrap_or(u64::MAX);
    }

    /// Bytes that all files together take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used()
    }

    /// Flips the set bits of `bits` in the byte at `at`, both as written and as synced.
    pub fn flip(&self, path: &Path, at: u64, bits: u8) -> io::Result<()> {
        self.state.lock().flip(&normal(path)?, at, bits)
    }

    /// The bytes of a file as written. Is no call: never fails by plan.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let path = normal(path)?;
        let mut state = self.state.lock();
        let id = state.file_at(&path)?;
        let inode = state.inode(id);
        Ok(inode.mem.to_vec(0, inode.len))
    }

    /// Puts a file there, durable, with the directories above it. Handles of a file that it replaces keep
    /// the old one. Is no call.
    pub fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.state.lock().put(&normal(path)?, bytes);
        Ok(())
    }

    /// All files as written.
    #[must_use]
    pub fn image(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.state.lock().image()
    }

    /// All files as a power cut leaves them that lets nothing unsynced survive.
    #[must_use]
    pub fn durable_image(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.state.lock().durable_image()
    }

    /// Another medium with the same bytes, written and synced, without handles, locks, faults or trace.
    #[must_use]
    pub fn fork(&self, seed: u64) -> SimMedia {
        SimMedia::over(self.state.lock().fork(seed))
    }

    /// Calls made so far, all kinds together, those that failed included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Starts a trace of calls, forgetting the one before.
    pub fn start_trace(&self) {
        self.state.lock().trace = Some(Vec::new());
    }

    /// The calls since the trace was started; empty if none was.
    #[must_use]
    pub fn trace(&self) -> Vec<Call> {
        self.state.lock().trace.clone().unwrap_or_default()
    }

    fn open_file(&self, kind: CallKind, path: &Path) -> io::Result<Arc<dyn MediaFile>> {
        let path = normal(path)?;
        let mut state = self.state.lock();
        let boot = self.boot(&state);
        state.arrive_plain(boot, call(kind, &path))?;
        let inode = state.open(&path)?;
        Ok(Arc::new(SimFile {
            media: self.of(boot),
            boot,
            inode,
            path,
            writable: kind == CallKind::OpenRw,
        }))
    }

    /// Does a call that changes a directory.
    fn change<R>(
        &self,
        kind: CallKind,
        path: &Path,
        change: impl FnOnce(&mut State) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut state = self.state.lock();
        let boot = self.boot(&state);
        match state.arrive(boot, call(kind, path))? {
            Fate::Done => change(&mut state),
            Fate::Fails(error) => Err(error),
            Fate::Cut => {
                // Whether it happened is for `power_cut` to say, as with any unsynced change.
                let _ = change(&mut state);
                Err(state.go_down())
            }
        }
    }
}

fn call(kind: CallKind, path: &Path) -> Call {
    Call {
        kind,
        path: path.to_owned(),
        offset: 0,
        len: 0,
    }
}

/// One spelling per path: no root, no `.`; `..` is refused.
fn normal(path: &Path) -> io::Result<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{} is no path of the simulated medium", path.display()),
                ));
            }
        }
    }
    Ok(out)
}

impl Media for SimMedia {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let dir = normal(dir)?;
        self.change(CallKind::CreateDir, &dir, |state| {
            let mut above: Vec<&Path> = dir.ancestors().collect();
            above.pop();
            for dir in above.into_iter().rev() {
                state.create_dir(dir)?;
            }
            Ok(())
        })
    }

    /// Nobody else is there.
    fn keep_private(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn MediaFile>> {
        self.open_file(CallKind::Open, path)
    }

    fn open_rw(&self, path: &Path) -> io::Result<Arc<dyn MediaFile>> {
        self.open_file(CallKind::OpenRw, path)
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<Arc<dyn MediaFile>> {
        let path = normal(path)?;
        let (boot, inode) = self.change(CallKind::Create, &path, |state| {
            Ok((state.boot, state.create(&path, len)?))
        })?;
        Ok(Arc::new(SimFile {
            media: self.of(boot),
            boot,
            inode,
            path,
            writable: true,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from)?, normal(to)?);
        self.change(CallKind::Rename, &to, |state| state.rename(&from, &to))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from)?, normal(to)?);
        self.change(CallKind::Link, &to, |state| state.hard_link(&from, &to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = normal(path)?;
        self.change(CallKind::Remove, &path, |state| state.remove(&path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = normal(dir)?;
        let mut state = self.state.lock();
        let boot = self.boot(&state);
        state.arrive_plain(boot, call(CallKind::List, &dir))?;
        state.dir_at(&dir)?;
        let inside: Vec<(PathBuf, Node)> = (state.volatile.iter())
            .filter(|(path, _)| path.parent() == Some(&dir))
            .map(|(path, node)| (path.clone(), *node))
            .collect();
        let entry = |(path, node): (PathBuf, Node)| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some(match node {
                Node::Dir => DirEntry {
                    name,
                    len: 0,
                    is_dir: true,
                },
                Node::File(id) => DirEntry {
                    name,
                    len: state.inode(id).len as u64,
                    is_dir: false,
                },
            })
        };
        Ok(inside.into_iter().filter_map(entry).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let path = normal(path)?;
        let mut state = self.state.lock();
        let boot = self.boot(&state);
        state.arrive_plain(boot, call(CallKind::Exists, &path))?;
        Ok(state.volatile.contains_key(&path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = normal(dir)?;
        let mut state = self.state.lock();
        let boot = self.boot(&state);
        state.arrive_plain(boot, call(CallKind::SyncDir, &dir))?;
        state.sync_dir(&dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let path = normal(path)?;
        let boot = self.change(CallKind::Lock, &path, |state| {
            if !state.volatile.contains_key(&path) {
                let id = state.create(&path, 0)?;
                state.close(state.boot, id);
            }
            if !state.locks.insert(path.clone()) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(state.boot)
        })?;
        Ok(Box::new(SimLock {
            media: self.of(boot),
            boot,
            path,
        }))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let dir = normal(dir)?;
        let mut state = self.state.lock();
        let boot = self.boot(&state);
        state.arrive_plain(boot, call(CallKind::FreeBytes, &dir))?;
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

#[derive(Debug)]
struct SimLock {
    media: SimMedia,
    boot: u64,
    path: PathBuf,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.media.state.lock();
        // After a crash it may be another's.
        if state.boot == self.boot {
            state.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    media: SimMedia,
    boot: u64,
    inode: InodeId,
    path: PathBuf,
    writable: bool,
}

impl SimFile {
    fn call(&self, kind: CallKind, offset: u64, len: u64) -> Call {
        Call {
            kind,
            path: self.path.clone(),
            offset,
            len,
        }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is open for reading", self.path.display()),
        ))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.media.state.lock().close(self.boot, self.inode);
    }
}

impl MediaFile for SimFile {
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let path = normal(path)?;
        let mut state = self.media.state.lock();
        state.arrive_plain(self.boot, call(CallKind::Exists, &path))?;
        Ok(state.volatile.get(&path) == Some(&Node::File(self.inode)))
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.media.state.lock();
        state.arrive_plain(self.boot, self.call(CallKind::Len, 0, 0))?;
        Ok(state.inode(self.inode).len as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.media.state.lock();
        let call = self.call(CallKind::Read, offset, buf.len() as u64);
        state.arrive_plain(self.boot, call)?;
        Ok(state.inode(self.inode).read(offset, buf))
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.media.state.lock();
        let call = self.call(CallKind::Write, offset, buf.len() as u64);
        match state.arrive(self.boot, call)? {
            Fate::Done => state.write(self.inode, offset, buf),
            Fate::Fails(error) => {
                let part = state.rng.below(buf.len() as u64 + 1) as usize;
                let _ = state.write(self.inode, offset, &buf[..part]);
                Err(error)
            }
            Fate::Cut => {
                let _ = state.write(self.inode, offset, buf);
                Err(state.go_down())
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.media.state.lock();
        match state.arrive(self.boot, self.call(CallKind::SyncFile, 0, 0))? {
            Fate::Done => state.inode(self.inode).sync(),
            Fate::Fails(error) => {
                let (inode, rng) = state.inode_and_rng(self.inode);
                let len = inode.len;
                inode.fail_sync(0, len, rng);
                return Err(error);
            }
            Fate::Cut => return Err(state.go_down()),
        }
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.media.state.lock();
        match state.arrive(self.boot, self.call(CallKind::Punch, offset, len))? {
            Fate::Done => state.inode(self.inode).punch(offset, len),
            Fate::Fails(error) => return Err(error),
            Fate::Cut => {
                state.inode(self.inode).punch(offset, len);
                return Err(state.go_down());
            }
        }
        Ok(())
    }

    fn map(&self, len: usize) -> io::Result<Box<dyn MediaMap>> {
        self.check_writable()?;
        let mut state = self.media.state.lock();
        state.arrive_plain(self.boot, self.call(CallKind::Map, 0, len as u64))?;
        let inode = state.inode(self.inode);
        if len == 0 || len > inode.len {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot map {len} bytes of a file of {}", inode.len),
            ));
        }
        // The system maps it; a store there ends the process with SIGBUS once the disk is full.
        assert!(
            !inode.has_hole(len),
            "{} is mapped with a hole: all of it must be allocated",
            self.path.display()
        );
        inode.map();
        Ok(Box::new(SimMap {
            mem: inode.mem.clone(),
            len,
            file: SimFile {
                media: self.media.of(self.boot),
                boot: self.boot,
                inode: self.inode,
                path: self.path.clone(),
                writable: true,
            },
        }))
    }
}

#[derive(Debug)]
struct SimMap {
    mem: Arc<Mem>,
    len: usize,
    /// Keeps the inode, as a mapping does.
    file: SimFile,
}

// SAFETY: the memory is allocated at an alignment of 4096 and at least `len` long, never moves, and
// lives until the last `Arc` of it, of which this is one, is dropped.
unsafe impl MediaMap for SimMap {
    fn base(&self) -> NonNull<u8> {
        self.mem.base()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn sync(&self, offset: usize, len: usize) -> io::Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "cannot sync {len} bytes at {offset} of a mapping of {}",
                    self.len
                ),
            ));
        }
        let file = &self.file;
        let mut state = file.media.state.lock();
        let call = file.call(CallKind::SyncMap, offset as u64, len as u64);
        match state.arrive(file.boot, call)? {
            Fate::Done => state.inode(file.inode).sync_range(offset, len),
            Fate::Fails(error) => {
                let (inode, rng) = state.inode_and_rng(file.inode);
                inode.fail_sync(offset, len, rng);
                return Err(error);
            }
            Fate::Cut => return Err(state.go_down()),
        }
        Ok(())
    }

    fn populate(&self, _offset: usize, _len: usize) {}
}
