//! What the simulated disk and the page cache above it hold.
//!
//! - D1: `durable` bytes and `durable` entries change only by a sync, by write-back, and by hand.
//! - D2: a sector is dirty when it differs from the durable one, unless its page counts as clean since
//!   a failed sync and has not changed since; such a page is written again only when it is dirtied.
//! - D3: after a change of `boot` no older handle reaches any inode, and no older map shares memory
//!   with one.

use super::mem::{Mem, PAGE};
use super::{Call, CallKind, Fault, SECTOR, SimRng};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) type InodeId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(InodeId),
}

pub(super) type Tree = BTreeMap<PathBuf, Node>;

/// A change of a directory that was not synced.
#[derive(Clone, Debug)]
enum DirOp {
    Link {
        path: PathBuf,
        node: Node,
    },
    Unlink {
        path: PathBuf,
        node: Node,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        node: Node,
    },
}

impl DirOp {
    fn touches(&self, dir: &Path) -> bool {
        let inside = |path: &Path| path.parent() == Some(dir);
        match self {
            DirOp::Link { path, .. } | DirOp::Unlink { path, .. } => inside(path),
            DirOp::Rename { from, to, .. } => inside(from) || inside(to),
        }
    }

    /// Of several changes any subset may come through, so the one before may be missing.
    fn apply(&self, tree: &mut Tree) {
        let unlink = |tree: &mut Tree, path: &Path, node: Node| {
            if tree.get(path) == Some(&node) {
                tree.remove(path);
            }
        };
        match self {
            DirOp::Link { path, node } => {
                tree.insert(path.clone(), *node);
            }
            DirOp::Unlink { path, node } => unlink(tree, path, *node),
            DirOp::Rename { from, to, node } => {
                unlink(tree, from, *node);
                tree.insert(to.clone(), *node);
            }
        }
    }

    /// Whether the two are about the same file or the same name.
    fn concerns(&self, other: &DirOp) -> bool {
        let same_file = self.node() == other.node() && self.node() != Node::Dir;
        let paths = other.paths();
        let mut names = self.paths().into_iter().flatten();
        same_file || names.any(|path| paths.contains(&Some(path)))
    }

    fn paths(&self) -> [Option<&Path>; 2] {
        match self {
            DirOp::Link { path, .. } | DirOp::Unlink { path, .. } => [Some(path), None],
            DirOp::Rename { from, to, .. } => [Some(from), Some(to)],
        }
    }

    fn node(&self) -> Node {
        match self {
            DirOp::Link { node, .. } | DirOp::Unlink { node, .. } | DirOp::Rename { node, .. } => {
                *node
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Inode {
    /// Volatile bytes; a map holds the `Arc` too. Zeros from `len` on.
    pub(super) mem: Arc<Mem>,
    pub(super) len: usize,
    /// Bytes on stable storage.
    durable: Vec<u8>,
    /// Pages that count as clean since a failed sync, as they were then.
    clean: BTreeMap<usize, Vec<u8>>,
    /// Pages given back.
    punched: BTreeSet<usize>,
    /// Open handles.
    pub(super) handles: usize,
    /// Mapped in this life: stores may come unseen.
    mapped: bool,
    /// All bytes are known to be on stable storage, and nothing has come since.
    settled: bool,
}

impl Inode {
    fn new(len: usize) -> Inode {
        Inode {
            mem: Arc::new(Mem::new(len)),
            len,
            durable: Vec::new(),
            clean: BTreeMap::new(),
            punched: BTreeSet::new(),
            handles: 0,
            mapped: false,
            settled: false,
        }
    }

    /// A copy whose memory nobody else has, and no handles.
    fn detached(&self) -> Inode {
        let mem = Mem::new(self.len);
        mem.write(0, &self.mem.to_vec(0, self.len));
        Inode {
            mem: Arc::new(mem),
            len: self.len,
            durable: self.durable.clone(),
            clean: self.clean.clone(),
            punched: self.punched.clone(),
            handles: 0,
            mapped: false,
            settled: self.settled,
        }
    }

    /// Bytes of space taken.
    fn allocated(&self) -> u64 {
        (self.len.next_multiple_of(PAGE) - self.punched.len() * PAGE) as u64
    }

    /// A mapping is made.
    pub(super) fn map(&mut self) {
        self.handles += 1;
        self.mapped = true;
        self.settled = false;
    }

    /// Whether space below `len` was given back.
    pub(super) fn has_hole(&self, len: usize) -> bool {
        self.punched.first().is_some_and(|page| page * PAGE < len)
    }

    pub(super) fn read(&self, at: u64, buf: &mut [u8]) -> usize {
        let at = usize::try_from(at).map_or(self.len, |at| at.min(self.len));
        let n = buf.len().min(self.len - at);
        self.mem.read(at, &mut buf[..n]);
        n
    }

    /// Writes within `len`.
    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.settled = false;
        self.mem.write(at, bytes);
        for page in at / PAGE..(at + bytes.len()).div_ceil(PAGE) {
            self.clean.remove(&page);
            self.punched.remove(&page);
        }
    }

    fn page(&self, page: usize) -> Vec<u8> {
        let at = page * PAGE;
        self.mem.to_vec(at, PAGE.min(self.len.saturating_sub(at)))
    }

    fn page_is_clean(&mut self, page: usize) -> bool {
        match self.clean.get(&page) {
            None => false,
            Some(then) if *then == self.page(page) => true,
            Some(_) => {
                self.clean.remove(&page);
                false
            }
        }
    }

    fn pages(&self) -> usize {
        self.len.div_ceil(PAGE)
    }

    /// Puts `bytes` on stable storage at `at`.
    fn persist(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[at..end].copy_from_slice(bytes);
    }

    /// Writes the pages back.
    fn sync_pages(&mut self, pages: std::ops::Range<usize>) {
        for page in pages.start..pages.end.min(self.pages()) {
            if !self.page_is_clean(page) {
                let bytes = self.page(page);
                self.persist(page * PAGE, &bytes);
            }
        }
    }

    /// fdatasync.
    pub(super) fn sync(&mut self) {
        self.sync_pages(0..self.pages());
        self.durable.resize(self.len, 0);
    }

    /// msync of `at..at + len`.
    pub(super) fn sync_range(&mut self, at: usize, len: usize) {
        self.sync_pages(at / PAGE..(at + len).div_ceil(PAGE));
    }

    /// Each dirty sector reaches the disk if `lucky` says so.
    fn write_back(&mut self, pages: std::ops::Range<usize>, mut lucky: impl FnMut() -> bool) {
        if self.settled {
            return;
        }
        let mut all = !self.mapped && pages == (0..self.pages()) && self.durable.len() == self.len;
        for page in pages.start..pages.end.min(self.pages()) {
            if self.page_is_clean(page) {
                all = false;
                continue;
            }
            let bytes = self.page(page);
            for (i, sector) in bytes.chunks(SECTOR).enumerate() {
                let at = page * PAGE + i * SECTOR;
                let there = self.durable.get(at..).unwrap_or_default();
                if !there.starts_with(sector) {
                    all = false;
                    if lucky() {
                        self.persist(at, sector);
                    }
                }
            }
        }
        self.settled = all;
    }

    /// A sync that fails: some of it was done, and all of it counts as clean.
    pub(super) fn fail_sync(&mut self, at: usize, len: usize, rng: &mut SimRng) {
        let pages = at / PAGE..(at + len).div_ceil(PAGE).min(self.pages());
        self.write_back(pages.clone(), || rng.chance(2));
        for page in pages {
            let now = self.page(page);
            let there = self.durable.get(page * PAGE..).unwrap_or_default();
            if !there.starts_with(&now) {
                self.clean.insert(page, now);
            }
        }
    }

    pub(super) fn punch(&mut self, at: u64, len: u64) {
        let from = usize::try_from(at).map_or(self.len, |at| at.min(self.len));
        let to = usize::try_from(at.saturating_add(len)).map_or(self.len, |end| end.min(self.len));
        self.write(from, &vec![0; to - from]);
        self.punched
            .extend((from.div_ceil(PAGE)..to / PAGE).filter(|_| to > from));
    }

    /// What a power cut leaves: some sectors as they were last, the others as they were synced, and a
    /// length between the two.
    fn after_cut(mut self, rng: &mut SimRng) -> Inode {
        let synced_len = self.durable.len();
        // Some files lose or keep all, most a mixture: each is worth its share.
        let keep = rng.below(8);
        self.write_back(0..self.pages(), || rng.below(8) <= keep && keep > 0);
        let (low, high) = (synced_len.min(self.len), synced_len.max(self.len));
        let len = match rng.below(3) {
            _ if low == high => high,
            0 => synced_len,
            1 => self.len,
            _ => (low + rng.below((high - low + 1) as u64) as usize)
                .next_multiple_of(SECTOR)
                .min(high),
        };
        self.durable.resize(len, 0);
        Inode::stored(self.durable)
    }

    /// A file whose bytes are on stable storage.
    fn stored(bytes: Vec<u8>) -> Inode {
        let mut inode = Inode::new(bytes.len());
        inode.mem.write(0, &bytes);
        inode.durable = bytes;
        inode
    }
}

#[derive(Debug)]
pub(super) struct State {
    /// Grows with each crash; handles of an older one are dead.
    pub(super) boot: u64,
    /// The power is out.
    pub(super) down: bool,
    pub(super) volatile: Tree,
    durable: Tree,
    pending: Vec<DirOp>,
    inodes: BTreeMap<InodeId, Inode>,
    next_inode: InodeId,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) capacity: u64,
    pub(super) rng: SimRng,
    /// One call in so many is preceded by a write-back; zero: none is.
    pub(super) write_back_in: u64,
    pub(super) calls: u64,
    pub(super) cut_at: Option<u64>,
    pub(super) faults: Vec<Fault>,
    pub(super) trace: Option<Vec<Call>>,
}

/// What becomes of a call.
#[derive(Debug)]
pub(super) enum Fate {
    Done,
    Fails(io::Error),
    /// The power goes while it is under way.
    Cut,
}

pub(super) fn dead() -> io::Error {
    io::Error::other("the simulated machine lost its power or the process was killed")
}

impl State {
    pub(super) fn new(seed: u64) -> State {
        let root = Tree::from([(PathBuf::new(), Node::Dir)]);
        State {
            boot: 0,
            down: false,
            volatile: root.clone(),
            durable: root,
            pending: Vec::new(),
            inodes: BTreeMap::new(),
            next_inode: 0,
            locks: BTreeSet::new(),
            capacity: u64::MAX,
            rng: SimRng::new(seed),
            write_back_in: 0,
            calls: 0,
            cut_at: None,
            faults: Vec::new(),
            trace: None,
        }
    }

    /// Counts a call of a handle of `boot` and decides its fate.
    pub(super) fn arrive(&mut self, boot: u64, call: Call) -> io::Result<Fate> {
        if self.down || boot != self.boot {
            return Err(dead());
        }
        self.calls += 1;
        if self.write_back_in > 0 && self.rng.chance(self.write_back_in) {
            self.write_back();
        }
        let mut fate = Fate::Done;
        for fault in &mut self.faults {
            if fault.matches(&call)
                && let Some(error) = fault.strike()
            {
                fate = Fate::Fails(error);
                break;
            }
        }
        if self.cut_at.is_some_and(|at| self.calls >= at) {
            fate = Fate::Cut;
        }
        if let Some(trace) = &mut self.trace {
            trace.push(call);
        }
        Ok(fate)
    }

    /// As `arrive`, for calls without an effect of their own.
    pub(super) fn arrive_plain(&mut self, boot: u64, call: Call) -> io::Result<()> {
        match self.arrive(boot, call)? {
            Fate::Done => Ok(()),
            Fate::Fails(error) => Err(error),
            Fate::Cut => Err(self.go_down()),
        }
    }

    /// Ends this life: nothing that is open reaches the files any more.
    pub(super) fn detach(&mut self) {
        self.boot += 1;
        self.locks.clear();
        for inode in self.inodes.values_mut() {
            *inode = inode.detached();
        }
        self.sweep();
    }

    /// The process ends; the power stays.
    pub(super) fn kill(&mut self) {
        self.detach();
        self.down = false;
    }

    /// The power goes.
    pub(super) fn go_down(&mut self) -> io::Error {
        self.detach();
        self.down = true;
        self.cut_at = None;
        dead()
    }

    pub(super) fn power_cut(&mut self, seed: u64) {
        if !self.down {
            self.go_down();
        }
        let mut rng = SimRng::new(seed);
        let keep = rng.below(8);
        for op in std::mem::take(&mut self.pending) {
            if rng.below(8) <= keep && keep > 0 {
                op.apply(&mut self.durable);
            }
        }
        // An entry whose directory was lost is lost.
        let tree = self.durable.clone();
        self.durable.retain(|path, _| {
            path.ancestors()
                .skip(1)
                .all(|dir| tree.get(dir) == Some(&Node::Dir))
        });
        self.volatile = self.durable.clone();
        self.sweep();
        for inode in self.inodes.values_mut() {
            let before = std::mem::replace(inode, Inode::new(0));
            *inode = before.after_cut(&mut rng);
        }
        self.down = false;
    }

    /// A copy of everything, as of a machine that was killed here.
    pub(super) fn fork(&self, seed: u64) -> State {
        State {
            boot: 0,
            down: self.down,
            volatile: self.volatile.clone(),
            durable: self.durable.clone(),
            pending: self.pending.clone(),
            inodes: self
                .inodes
                .iter()
                .map(|(id, inode)| (*id, inode.detached()))
                .collect(),
            next_inode: self.next_inode,
            locks: BTreeSet::new(),
            capacity: self.capacity,
            write_back_in: self.write_back_in,
            ..State::new(seed)
        }
    }

    /// The kernel writes something back of its own accord.
    fn write_back(&mut self) {
        let rng = &mut self.rng;
        let share = 1 + rng.below(4);
        for inode in self.inodes.values_mut() {
            inode.write_back(0..inode.pages(), || rng.chance(share));
        }
        // Changes of one name or one file keep their order.
        let durable = &mut self.durable;
        let mut waiting: Vec<DirOp> = Vec::new();
        for op in self.pending.drain(..) {
            if rng.chance(4) && !waiting.iter().any(|before| before.concerns(&op)) {
                op.apply(durable);
            } else {
                waiting.push(op);
            }
        }
        self.pending = waiting;
    }

    /// Drops what neither a name nor a handle reaches.
    fn sweep(&mut self) {
        let named: BTreeSet<InodeId> = (self.volatile.values())
            .chain(self.durable.values())
            .copied()
            .chain(self.pending.iter().map(DirOp::node))
            .filter_map(|node| match node {
                Node::File(id) => Some(id),
                Node::Dir => None,
            })
            .collect();
        self.inodes
            .retain(|id, inode| inode.handles > 0 || named.contains(id));
    }

    /// Bytes taken by the files that have a name.
    pub(super) fn used(&self) -> u64 {
        let named: BTreeSet<InodeId> = (self.volatile.values())
            .filter_map(|node| match node {
                Node::File(id) => Some(*id),
                Node::Dir => None,
            })
            .collect();
        named.iter().map(|id| self.inodes[id].allocated()).sum()
    }

    fn room_for(&self, more: u64) -> io::Result<()> {
        if self.capacity != u64::MAX && self.used().saturating_add(more) > self.capacity {
            return Err(io::Error::from_raw_os_error(super::ENOSPC));
        }
        Ok(())
    }

    pub(super) fn inode(&mut self, id: InodeId) -> &mut Inode {
        self.inodes.get_mut(&id).expect("a handle keeps its inode")
    }

    /// The inode and the medium's randomness.
    pub(super) fn inode_and_rng(&mut self, id: InodeId) -> (&mut Inode, &mut SimRng) {
        let inode = self.inodes.get_mut(&id).expect("a handle keeps its inode");
        (inode, &mut self.rng)
    }

    pub(super) fn close(&mut self, boot: u64, id: InodeId) {
        // At a change of boot all handles were forgotten.
        if boot == self.boot
            && let Some(inode) = self.inodes.get_mut(&id)
        {
            inode.handles -= 1;
        }
    }

    pub(super) fn file_at(&self, path: &Path) -> io::Result<InodeId> {
        match self.volatile.get(path) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn dir_at(&self, dir: &Path) -> io::Result<()> {
        match self.volatile.get(dir) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn open(&mut self, path: &Path) -> io::Result<InodeId> {
        let id = self.file_at(path)?;
        self.inode(id).handles += 1;
        Ok(id)
    }

    fn change(&mut self, op: DirOp) {
        op.apply(&mut self.volatile);
        self.pending.push(op);
    }

    /// Creates a file and opens it.
    pub(super) fn create(&mut self, path: &Path, len: u64) -> io::Result<InodeId> {
        self.dir_at(path.parent().unwrap_or(Path::new("")))?;
        if self.volatile.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.room_for(len.next_multiple_of(PAGE as u64))?;
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::StorageFull)?;
        let id = self.next_inode;
        self.next_inode += 1;
        let mut inode = Inode::new(len);
        inode.handles = 1;
        self.inodes.insert(id, inode);
        self.change(DirOp::Link {
            path: path.to_owned(),
            node: Node::File(id),
        });
        Ok(id)
    }

    /// Makes one directory, durable at once.
    pub(super) fn create_dir(&mut self, dir: &Path) -> io::Result<()> {
        match self.volatile.get(dir) {
            Some(Node::Dir) => {}
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            None => self.change(DirOp::Link {
                path: dir.to_owned(),
                node: Node::Dir,
            }),
        }
        // Its own entry, as the trait has it: of what else was changed in the directory above nothing is promised.
        let durable = &mut self.durable;
        self.pending.retain(|op| {
            let own = matches!(op, DirOp::Link { path, .. } if path == dir);
            if own {
                op.apply(durable);
            }
            !own
        });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if self.volatile.get(from) == Some(&Node::Dir) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the simulated medium renames no directories",
            ));
        }
        let id = self.file_at(from)?;
        self.dir_at(to.parent().unwrap_or(Path::new("")))?;
        if self.volatile.get(to) == Some(&Node::Dir) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if from != to {
            self.change(DirOp::Rename {
                from: from.to_owned(),
                to: to.to_owned(),
                node: Node::File(id),
            });
        }
        Ok(())
    }

    pub(super) fn hard_link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let id = self.file_at(from)?;
        self.dir_at(to.parent().unwrap_or(Path::new("")))?;
        if self.volatile.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(DirOp::Link {
            path: to.to_owned(),
            node: Node::File(id),
        });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let id = self.file_at(path)?;
        self.change(DirOp::Unlink {
            path: path.to_owned(),
            node: Node::File(id),
        });
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.dir_at(dir)?;
        let durable = &mut self.durable;
        self.pending.retain(|op| {
            let done = op.touches(dir);
            if done {
                op.apply(durable);
            }
            !done
        });
        let inside = |tree: &Tree| -> Vec<(PathBuf, Node)> {
            (tree.iter())
                .filter(|(path, _)| path.parent() == Some(dir))
                .map(|(path, node)| (path.clone(), *node))
                .collect()
        };
        debug_assert_eq!(inside(&self.durable), inside(&self.volatile));
        self.sweep();
        Ok(())
    }

    /// Writes through a call, growing the file.
    pub(super) fn write(&mut self, id: InodeId, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = at
            .checked_add(bytes.len() as u64)
            .and_then(|end| usize::try_from(end).ok())
            .filter(|end| *end < isize::MAX as usize / 2)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        let inode = self.inode(id);
        let pages = |len: usize| len.next_multiple_of(PAGE) as u64;
        let at = at as usize;
        let refilled = (at / PAGE..end.div_ceil(PAGE))
            .filter(|page| inode.punched.contains(page))
            .count();
        let more = pages(end).saturating_sub(pages(inode.len)) + (refilled * PAGE) as u64;
        if more > 0 {
            self.room_for(more)?;
        }
        let inode = self.inode(id);
        if end > inode.mem.len() {
            if Arc::strong_count(&inode.mem) > 1 {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the simulated medium grows no mapped file beyond its last page",
                ));
            }
            let grown = Mem::new(end.max(inode.mem.len() * 2));
            grown.write(0, &inode.mem.to_vec(0, inode.len));
            inode.mem = Arc::new(grown);
        }
        inode.len = inode.len.max(end);
        inode.write(at, bytes);
        Ok(())
    }

    /// Puts a file there by hand, durable.
    pub(super) fn put(&mut self, path: &Path, bytes: &[u8]) {
        // What was pending of this name is outdone; the other end of a rename still is.
        let pending = std::mem::take(&mut self.pending);
        self.pending = (pending.into_iter())
            .filter_map(|op| match op {
                DirOp::Rename { from, to, node } if to == path => {
                    Some(DirOp::Unlink { path: from, node })
                }
                DirOp::Rename { from, to, node } if from == path => {
                    Some(DirOp::Link { path: to, node })
                }
                op if op.paths().contains(&Some(path)) => None,
                op => Some(op),
            })
            .collect();
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, Inode::stored(bytes.to_vec()));
        for tree in [&mut self.volatile, &mut self.durable] {
            for dir in path.ancestors().skip(1) {
                tree.insert(dir.to_owned(), Node::Dir);
            }
            tree.insert(path.to_owned(), Node::File(id));
        }
    }

    pub(super) fn flip(&mut self, path: &Path, at: u64, bits: u8) -> io::Result<()> {
        let id = self.file_at(path)?;
        let inode = self.inode(id);
        let at = at as usize;
        if at >= inode.len {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut byte = [0];
        inode.mem.read(at, &mut byte);
        inode.mem.write(at, &[byte[0] ^ bits]);
        if let Some(byte) = inode.durable.get_mut(at) {
            *byte ^= bits;
        }
        if let Some(page) = inode.clean.get_mut(&(at / PAGE)) {
            page[at % PAGE] ^= bits;
        }
        Ok(())
    }

    pub(super) fn image(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        (self.volatile.iter())
            .filter_map(|(path, node)| match node {
                Node::File(id) => {
                    let inode = &self.inodes[id];
                    Some((path.clone(), inode.mem.to_vec(0, inode.len)))
                }
                Node::Dir => None,
            })
            .collect()
    }

    pub(super) fn durable_image(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        (self.durable.iter())
            .filter_map(|(path, node)| match node {
                Node::File(id) => Some((path.clone(), self.inodes[id].durable.clone())),
                Node::Dir => None,
            })
            .collect()
    }
}

impl Fault {
    fn matches(&self, call: &Call) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&call.kind))
            && self
                .path_contains
                .as_ref()
                .is_none_or(|part| call.path.to_string_lossy().contains(part.as_str()))
    }

    /// Counts a matching call; the error if it is hit.
    fn strike(&mut self) -> Option<io::Error> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        if self.times == 0 {
            return None;
        }
        self.times -= 1;
        Some(io::Error::from_raw_os_error(self.errno))
    }
}

impl CallKind {
    /// Whether the call makes something durable.
    #[must_use]
    pub fn is_sync(self) -> bool {
        matches!(
            self,
            CallKind::SyncFile | CallKind::SyncMap | CallKind::SyncDir
        )
    }
}
