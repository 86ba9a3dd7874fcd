//! A sorted map from keys to their versions that many threads add to while others read: what a memtable is made of.
//!
//! Keys stand in a skip list, in bytewise order, and in an index by hash; the versions of a key hang from its node, newest
//! first. Nothing is removed or changed before the whole list is dropped, and that is what makes it simple: no reader
//! can meet a node that is going away, so there are no epochs, no hazard pointers, no reference counts. Nodes live in
//! an arena and go with it, in a few calls.
//!
//! After LevelDB's `skiplist.h` (links that are written once, published by a release store) and RocksDB's `inlineskiplist.h`
//! (insertion by many threads with compare-and-swap, key beside the tower). What is different: versions are a chain
//! of their own, so that a write of a key that is there costs one look into the index and one compare-and-swap, whatever the size of the
//! list; and the index makes a search for the newest version of a key as cheap as in a hash table.
//!
//! - SK1: a key has one node. It is linked at level 0 first, then put into the index, then linked at the levels above. So
//!   whoever finds a node in the index finds it by walking too.
//! - SK2: when [`SkipList::insert`] returns, every later lookup and walk that synchronised with it finds the version: also where another
//!   thread made the node and is not done with it (who reached a node by the list puts it into the index himself;
//!   twice does no harm).
//! - SK3: a level's links lead to ever greater keys, and each node of a level is in the level below.
//! - SK4: a key's versions stand in falling order of SeqNo; a version is never in front of a newer one.
//! - SK5: inserts do not wait for each other, readers for nobody: a compare-and-swap that fails means that another thread's
//!   succeeded, and is tried again at the place where that left off.
//! - SK6: a bucket of the index is searched for `CHAIN_MAX` entries and no further: keys made to collide fall back to the
//!   skip list's log n.
//!
//! Ordering. A node, a version, an entry is written with plain stores and shown by a compare-and-swap with release; whoever loads
//! the link with acquire sees it complete, and with it all that its maker had seen. The links of a new node are stored relaxed,
//! before the compare-and-swap that links it at that level, which releases them. `height` is a hint: too low makes a
//! search walk further, too high meets empty links.

mod arena;
mod cursor;
mod node;

pub use arena::Chunks;
pub use cursor::Cursor;

use crate::shim::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::shim::{Arc, prefetch};
use arena::Arena;
use node::{
    Entry, EntryRef, Large, Link, NewVersion, Node, NodeRef, Payload, Probe, Version, VersionRef,
};
use std::cmp;
use std::fmt;
use std::ptr::{NonNull, null_mut};

/// Levels. With one node in four going up a level, enough for 4^12 keys.
const HEIGHT_MAX: usize = if cfg!(esker_loom) { 2 } else { 12 };
/// Entries of a bucket that are looked at (SK6).
const CHAIN_MAX: usize = 32;
/// Most keys that the index is made for at once.
const BUCKETS_MAX: usize = 1 << 22;

/// Bytes of the longest value that is kept in the arena; a longer one has to be [`Value::Large`].
pub const INLINE_MAX: usize = node::INLINE_MAX;
/// Bytes that a key with one version takes besides key and value, at most but for the links of a very tall tower.
pub const ENTRY_BYTES: usize =
    size_of::<Node<()>>() + 24 + 24 + size_of::<Version<()>>() + 3 * size_of::<Link<()>>();

/// A value to insert.
#[derive(Debug)]
pub enum Value<'a, L> {
    /// Copied into the arena.
    Inline(&'a [u8]),
    /// Kept beside it.
    Large(L),
}

/// A value found.
#[derive(Debug)]
pub enum ValueRef<'a, L> {
    /// In the arena.
    Inline(&'a [u8]),
    /// Beside it.
    Large(&'a L),
}

/// A version found.
#[derive(Debug)]
pub struct Found<'a, L> {
    /// Its SeqNo.
    pub seqno: u64,
    /// Its kind, as it was given.
    pub kind: u8,
    /// Its value.
    pub value: ValueRef<'a, L>,
}

impl<'a, L> Found<'a, L> {
    fn of(version: VersionRef<'a, L>) -> Self {
        Found {
            seqno: version.seqno(),
            kind: version.kind(),
            value: version.value(),
        }
    }
}

/// See the module.
pub struct SkipList<L> {
    /// A node without a key, with a link at every level.
    head: NonNull<Node<L>>,
    /// Levels in use.
    height: AtomicUsize,
    /// By the lowest bits of the hash; a power of two of them.
    buckets: Box<[AtomicPtr<Entry<L>>]>,
    /// Values outside of the arena, to be dropped with the list.
    large: AtomicPtr<Large<L>>,
    keys: AtomicUsize,
    arena: Arena,
}

// SAFETY: nodes are shared between threads through atomics; what is not atomic does not change once it is shown (NO1). Of the
// caller's there are values of `L`, which are dropped by whoever drops the list (hence Send) and lent to all (hence Sync).
unsafe impl<L: Send + Sync> Send for SkipList<L> {}
// SAFETY: as above.
unsafe impl<L: Send + Sync> Sync for SkipList<L> {}

impl<L> fmt::Debug for SkipList<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SkipList")
            .field("keys", &self.keys())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// What the index says.
enum Indexed<'a, L> {
    Found(NodeRef<'a, L>),
    /// No insert of the key was done before the look.
    Absent,
    /// Too many keys in the bucket.
    Crowded,
}

/// Where a key belongs: at each level the node before it and the one behind it.
struct Splice<'a, L> {
    before: [NodeRef<'a, L>; HEIGHT_MAX],
    behind: [Option<NodeRef<'a, L>>; HEIGHT_MAX],
}

/// Changes a link from what it was to a new node; gives what stands there instead, where that failed.
type Swap<L> = fn(&Link<L>, *mut Node<L>, *mut Node<L>) -> Result<(), *mut Node<L>>;

/// The steps of an insert that a broken twin does in another way.
#[derive(Clone, Copy)]
struct Steps<L> {
    swap: Swap<L>,
    /// Whether one who finds a node by the list puts it into the index.
    index_found: bool,
}

impl<L> Steps<L> {
    const RIGHT: Steps<L> = Steps {
        // Release: whoever follows the link sees the node complete. Acquire, where it fails: we look at the node that
        // came in between.
        swap: |link, was, to| {
            link.compare_exchange(was, to, Ordering::Release, Ordering::Acquire)
                .map(drop)
        },
        index_found: true,
    };
}

impl<L> SkipList<L> {
    /// An empty list whose index is made for about `keys` keys. It takes more, only more slowly.
    #[must_use]
    pub fn new(keys: usize) -> SkipList<L> {
        SkipList::with(keys, None)
    }

    /// As `new`; takes memory from `chunks` and gives it back there.
    #[must_use]
    pub fn reusing(chunks: &Arc<Chunks>, keys: usize) -> SkipList<L> {
        SkipList::with(keys, Some(chunks.clone()))
    }

    fn with(keys: usize, chunks: Option<Arc<Chunks>>) -> SkipList<L> {
        let arena = Arena::new(chunks);
        let (head, _) = node::new_node(&arena, &[], 0, HEIGHT_MAX, None);
        SkipList {
            head: NonNull::new(head.as_ptr()).expect("a node"),
            height: AtomicUsize::new(1),
            buckets: buckets(keys.clamp(1, BUCKETS_MAX).next_power_of_two()),
            large: AtomicPtr::new(null_mut()),
            keys: AtomicUsize::new(0),
            arena,
        }
    }

    /// Bytes of memory taken: arena and index. Values that are [`Value::Large`] are the caller's to count.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> usize {
        self.arena.bytes() + self.buckets.len() * size_of::<AtomicPtr<Entry<L>>>()
    }

    /// Keys in it.
    #[must_use]
    pub fn keys(&self) -> usize {
        // Relaxed: a count.
        self.keys.load(Ordering::Relaxed)
    }

    /// Nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head().next(0).is_none()
    }

    #[inline]
    fn head(&self) -> NodeRef<'_, L> {
        // SAFETY: made in `new`, in the arena that lives as long as `self`.
        unsafe { NodeRef::from_ptr(self.head.as_ptr()) }.expect("not null")
    }

    /// Adds a version of `key`, whose hash is `hash` (always by the same function, its bits well mixed). False, and
    /// nothing done, if the key has a version with this SeqNo.
    #[inline]
    pub fn insert(&self, key: &[u8], hash: u64, seqno: u64, kind: u8, value: Value<'_, L>) -> bool {
        self.insert_by(key, hash, seqno, kind, value, Steps::RIGHT)
    }

    /// As `insert`, with a step done in another way: for broken twins of the models.
    #[cfg(esker_loom)]
    pub fn insert_with(
        &self,
        key: &[u8],
        hash: u64,
        seqno: u64,
        value: &[u8],
        broken: Broken,
    ) -> bool {
        let mut steps = Steps::RIGHT;
        match broken {
            Broken::LinkedWithoutRelease => {
                steps.swap = |link, was, to| {
                    link.compare_exchange(was, to, Ordering::Relaxed, Ordering::Acquire)
                        .map(drop)
                };
            }
            Broken::LinkedWithoutComparing => {
                steps.swap = |link, _, to| {
                    link.store(to, Ordering::Release);
                    Ok(())
                };
            }
            Broken::IndexLeftToTheMaker => steps.index_found = false,
        }
        self.insert_by(key, hash, seqno, 0, Value::Inline(value), steps)
    }

    #[inline]
    fn insert_by(
        &self,
        key: &[u8],
        hash: u64,
        seqno: u64,
        kind: u8,
        value: Value<'_, L>,
        steps: Steps<L>,
    ) -> bool {
        let probe = Probe::new(key);
        let payload = match value {
            Value::Inline(bytes) => Payload::Inline(bytes),
            Value::Large(value) => Payload::Large(self.keep(value)),
        };
        match self.indexed(&probe, hash) {
            Indexed::Found(node) => {
                let version = NewVersion::alone(&self.arena, seqno, kind, &payload);
                add_version(node, version, seqno)
            }
            not_found => {
                let crowded = matches!(not_found, Indexed::Crowded);
                self.insert_node(&probe, hash, seqno, kind, &payload, crowded, steps)
            }
        }
    }

    /// Takes a large value, to be dropped with the list.
    fn keep(&self, value: L) -> NonNull<Large<L>> {
        let large = Box::into_raw(Box::new(Large {
            next: null_mut(),
            value,
        }));
        let mut next = self.large.load(Ordering::Relaxed);
        loop {
            // SAFETY: nobody else sees it yet.
            unsafe { (*large).next = next };
            // Release, for the drop, which walks them all.
            match self.large.compare_exchange_weak(
                next,
                large,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => next = now,
            }
        }
        NonNull::new(large).expect("a box")
    }

    #[inline]
    fn bucket(&self, hash: u64) -> &AtomicPtr<Entry<L>> {
        &self.buckets[hash as usize & (self.buckets.len() - 1)]
    }

    #[inline]
    fn indexed(&self, probe: &Probe<'_>, hash: u64) -> Indexed<'_, L> {
        // Acquire pairs with the release in `show_entry`.
        let first = self.bucket(hash).load(Ordering::Acquire);
        // SAFETY: buckets hold null or complete entries of this list.
        let mut entry = unsafe { EntryRef::from_ptr(first) };
        for _ in 0..CHAIN_MAX {
            let Some(this) = entry else {
                return Indexed::Absent;
            };
            let node = this.node();
            if node.may_hash_to(hash) && probe.is(node) {
                return Indexed::Found(node);
            }
            entry = this.next();
        }
        Indexed::Crowded
    }

    /// Asks for what an insert or a lookup of a key with this hash reads first. Worth it where something else is to be done
    /// before, for as long as memory takes; [`SkipList::prefetch_node`] then asks for the rest.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        prefetch(self.bucket(hash));
    }

    /// As `prefetch_bucket`, once that has come: asks for the node at the front of the bucket.
    #[inline]
    pub fn prefetch_node(&self, hash: u64) {
        let first = self.bucket(hash).load(Ordering::Relaxed);
        prefetch(first);
        // A short key stands within the line before the entry.
        prefetch(first.wrapping_byte_sub(64));
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one insert")]
    fn insert_node(
        &self,
        probe: &Probe<'_>,
        hash: u64,
        seqno: u64,
        kind: u8,
        payload: &Payload<'_, L>,
        crowded: bool,
        steps: Steps<L>,
    ) -> bool {
        // Whoever finds a node by the list can't know whether its maker has put it into the index already (SK2). In a crowded bucket
        // nobody relies on it.
        let found = |node: NodeRef<'_, L>, version| {
            let added = add_version(node, version, seqno);
            if !crowded && steps.index_found {
                let entry = node::new_entry(&self.arena, node);
                // SAFETY: made here for this list.
                unsafe { node::show_entry(self.bucket(hash), entry) };
            }
            added
        };
        let splice = match self.splice(probe) {
            Ok(splice) => splice,
            Err(node) => {
                let version = NewVersion::alone(&self.arena, seqno, kind, payload);
                return found(node, version);
            }
        };
        let height = self.tower(hash);
        // Relaxed: a hint.
        if height > self.height.load(Ordering::Relaxed) {
            self.height.fetch_max(height, Ordering::Relaxed);
        }
        let first = Some((seqno, kind, payload));
        let (node, version) = node::new_node(&self.arena, probe.key, hash, height, first);
        for level in 0..height {
            let mut before = splice.before[level];
            let mut behind = splice.behind[level];
            loop {
                let was = behind.map_or(null_mut(), NodeRef::as_ptr);
                // Relaxed: released by the swap.
                node.link(level).store(was, Ordering::Relaxed);
                if (steps.swap)(before.link(level), was, node.as_ptr()).is_ok() {
                    break;
                }
                // Another node came in between. Nothing is ever removed, so ours still belongs behind `before`.
                match walk(before, probe, level) {
                    Ok(place) => (before, behind) = place,
                    Err(same) => {
                        debug_assert_eq!(level, 0, "a key has one node (SK1)");
                        // Another thread made the node of this key. Ours stays in the arena unseen, its version is used.
                        return found(same, version.expect("a node with a version"));
                    }
                }
            }
            if level == 0 {
                // SAFETY: this node's own entry, for this list.
                unsafe { node::show_entry(self.bucket(hash), node.entry_ptr()) };
            }
        }
        self.keys.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Height of a new tower: one in four goes a level higher.
    #[cfg(not(esker_loom))]
    fn tower(&self, hash: u64) -> usize {
        // Not by the hash alone, or keys could be chosen that make a low and slow list.
        let mixed = (hash ^ self.arena.bytes() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        1 + (mixed.trailing_zeros() as usize / 2).min(HEIGHT_MAX - 1)
    }

    /// In a model the one who writes it says how high.
    #[cfg(esker_loom)]
    fn tower(&self, hash: u64) -> usize {
        1 + (hash >> 32) as usize
    }

    /// Where `probe` belongs, or its node.
    fn splice(&self, probe: &Probe<'_>) -> Result<Splice<'_, L>, NodeRef<'_, L>> {
        let head = self.head();
        let mut splice = Splice {
            before: [head; HEIGHT_MAX],
            behind: [None; HEIGHT_MAX],
        };
        let mut level = self.height.load(Ordering::Relaxed);
        let mut before = head;
        // A level's bound is often the next one's: then it need not be compared again.
        let mut bound: Option<NodeRef<'_, L>> = None;
        while level > 0 {
            level -= 1;
            loop {
                let next = before.next(level);
                if level > 0 {
                    // Where the search goes on if not to the right.
                    prefetch(before.link(level - 1).load(Ordering::Relaxed));
                }
                if let Some(node) = next.filter(|_| next != bound) {
                    match probe.order(node) {
                        cmp::Ordering::Greater => {
                            before = node;
                            continue;
                        }
                        cmp::Ordering::Equal => return Err(node),
                        cmp::Ordering::Less => {}
                    }
                }
                bound = next;
                break;
            }
            splice.before[level] = before;
            splice.behind[level] = bound;
        }
        Ok(splice)
    }

    /// The last node before `probe`, and the first at or behind it.
    fn around(&self, probe: &Probe<'_>) -> (Option<NodeRef<'_, L>>, Option<NodeRef<'_, L>>) {
        let head = self.head();
        let mut before = head;
        let mut bound: Option<NodeRef<'_, L>> = None;
        for level in (0..self.height.load(Ordering::Relaxed)).rev() {
            loop {
                let next = before.next(level);
                match next.filter(|_| next != bound) {
                    Some(node) if probe.order(node) == cmp::Ordering::Greater => before = node,
                    _ => break bound = next,
                }
            }
        }
        (Some(before).filter(|node| *node != head), bound)
    }

    fn last(&self) -> Option<NodeRef<'_, L>> {
        let head = self.head();
        let mut at = head;
        for level in (0..self.height.load(Ordering::Relaxed)).rev() {
            while let Some(next) = at.next(level) {
                at = next;
            }
        }
        Some(at).filter(|node| *node != head)
    }

    /// The newest version of `key` at or below `seqno`.
    #[must_use]
    #[inline]
    pub fn get(&self, key: &[u8], hash: u64, seqno: u64) -> Option<Found<'_, L>> {
        let probe = Probe::new(key);
        let node = match self.indexed(&probe, hash) {
            Indexed::Found(node) => node,
            Indexed::Absent => return None,
            Indexed::Crowded => {
                let (_, behind) = self.around(&probe);
                behind.filter(|node| probe.is(*node))?
            }
        };
        let (_, version) = versions_around(node, |of| of > seqno);
        version.map(Found::of)
    }
}

impl<L> Drop for SkipList<L> {
    fn drop(&mut self) {
        let mut large = self.large.load(Ordering::Acquire);
        while !large.is_null() {
            // SAFETY: made by `keep` from a box, and in the list once.
            let this = unsafe { Box::from_raw(large) };
            large = this.next;
        }
    }
}

/// A step of an insert done wrong, for twins.
#[cfg(esker_loom)]
#[derive(Clone, Copy, Debug)]
pub enum Broken {
    /// The link is swapped with relaxed ordering.
    LinkedWithoutRelease,
    /// The link is stored, whatever stands there.
    LinkedWithoutComparing,
    /// Who finds the node by the list does not put it into the index.
    IndexLeftToTheMaker,
}

#[cfg(not(esker_loom))]
fn buckets<L>(n: usize) -> Box<[AtomicPtr<Entry<L>>]> {
    let zeroed = Box::<[AtomicPtr<Entry<L>>]>::new_zeroed_slice(n);
    // SAFETY: a null pointer is all zeros, and an atomic is as its content. Memory that the kernel gives zeroed is not touched.
    unsafe { zeroed.assume_init() }
}

#[cfg(esker_loom)]
fn buckets<L>(n: usize) -> Box<[AtomicPtr<Entry<L>>]> {
    (0..n).map(|_| AtomicPtr::new(null_mut())).collect()
}

/// A level's two neighbours of a place.
type Place<'a, L> = (NodeRef<'a, L>, Option<NodeRef<'a, L>>);

/// From `before` on along one level: the place of `probe`, or its node.
fn walk<'a, L>(
    mut before: NodeRef<'a, L>,
    probe: &Probe<'_>,
    level: usize,
) -> Result<Place<'a, L>, NodeRef<'a, L>> {
    loop {
        let next = before.next(level);
        match next.map(|node| (node, probe.order(node))) {
            Some((node, cmp::Ordering::Greater)) => before = node,
            Some((node, cmp::Ordering::Equal)) => return Err(node),
            _ => return Ok((before, next)),
        }
    }
}

/// Puts a version into its node's chain (SK4). False if there is one with its SeqNo.
#[inline]
fn add_version<L>(node: NodeRef<'_, L>, mut version: NewVersion<L>, seqno: u64) -> bool {
    loop {
        let (newer, older) = versions_around(node, |of| of > seqno);
        if older.is_some_and(|older| older.seqno() == seqno) {
            return false;
        }
        version.put_before(older, newer.is_none());
        let slot = newer.map_or(node.newest_slot(), VersionRef::next_slot);
        let was = older.map_or(null_mut(), VersionRef::as_ptr);
        // Release: whoever finds it sees it complete. Relaxed, where it fails: the chain is loaded again.
        if slot
            .compare_exchange(was, version.as_ptr(), Ordering::Release, Ordering::Relaxed)
            .is_ok()
        {
            return true;
        }
    }
}

/// The last version that is `newer`, and the first that is not, of a node: `newer` holds for SeqNos above some point.
#[inline]
fn versions_around<'a, L>(
    node: NodeRef<'a, L>,
    newer: impl Fn(u64) -> bool,
) -> (Option<VersionRef<'a, L>>, Option<VersionRef<'a, L>>) {
    let mut last = None;
    let mut at = node.newest();
    while let Some(version) = at {
        if !newer(version.seqno()) {
            break;
        }
        last = at;
        at = match version.jump() {
            jump @ Some(far) if newer(far.seqno()) => jump,
            _ => version.next(),
        };
    }
    (last, at)
}

#[cfg(all(test, not(esker_loom)))]
mod tests;
