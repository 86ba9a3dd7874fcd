//! What lies in the arena: nodes, their versions, entries of the index. The only place that knows their layout.
//!
//! ```text
//! node     links height-1 .. 1, 0   pointers to the next node at each level; link i at -8*(i+1)
//!          key_len u32, tag u32     <- a node pointer points here; tag: 8 bits of height, 24 of hash
//!          key                      padded with zeros to a multiple of 8 bytes, 16 at least
//!          newest                   pointer to its newest version
//!          entry                    of the index: next entry of the bucket, this node
//! version  next                     pointer to the next older one
//!          jump                     pointer to one that is older still, see `Shape`
//!          seqno u64, len u32, depth 24 bits and kind 8 bits
//!          value                    inline, or a pointer to a `Large`
//! ```
//! Tower, lengths and the beginning of the key are side by side: a search reads 40 bytes of a node, of one cache line or two.
//!
//! - NO1: nodes, versions and entries are written completely before a release store or compare-and-swap shows them, and only
//!   their atomics change after that. Who loaded a pointer to one with acquire may read it.
//! - NO2: they are freed with the arena and not before; a `Ref` carries the borrow of the list that keeps it.
//! - NO3: a node is reached at a level only through a link of that level, so it has a link there.
//! - NO4: pointers come from the arena's pieces with the provenance of the whole chunk, never from a reference to a
//!   part, so that what lies beside the part may be reached.

use super::arena::{ALIGN, Arena};
use crate::shim::Watched;
use crate::shim::atomic::{AtomicPtr, Ordering};
use std::cmp;
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};

pub(super) type Link<L> = AtomicPtr<Node<L>>;

/// Bytes of a key that are compared as two words.
const WORDS: usize = 16;
const LARGE: u32 = 1 << 31;
const EXPRESS: u32 = 1 << 30;
const LEN: u32 = EXPRESS - 1;
const DEPTH: u32 = (1 << 24) - 1;

/// Bytes of the longest value that stands in the arena.
pub(super) const INLINE_MAX: usize = 1 << 20;

#[repr(C, align(8))]
pub(super) struct Node<L> {
    key_len: u32,
    tag: u32,
    watched: Watched,
    of: PhantomData<*const L>,
}

/// Behind the key.
#[repr(C, align(8))]
struct Tail<L> {
    newest: AtomicPtr<Version<L>>,
    entry: Entry<L>,
}

#[repr(C, align(8))]
pub(super) struct Entry<L> {
    next: *mut Entry<L>,
    node: *mut Node<L>,
    watched: Watched,
}

#[repr(C, align(8))]
pub(super) struct Version<L> {
    next: AtomicPtr<Version<L>>,
    jump: *mut Version<L>,
    seqno: u64,
    /// `LARGE`, `EXPRESS`, and the length of an inline value.
    len: u32,
    /// 24 bits, saturating; then 8 bits of kind.
    depth_kind: u32,
    watched: Watched,
    of: PhantomData<*const L>,
}

/// A value too long for the arena, on the heap; the list drops it.
pub(super) struct Large<L> {
    pub(super) next: *mut Large<L>,
    pub(super) value: L,
}

/// What a version holds.
pub(super) enum Payload<'a, L> {
    Inline(&'a [u8]),
    Large(NonNull<Large<L>>),
}

/// A key that is looked for, and its first words.
#[derive(Clone, Copy)]
pub(super) struct Probe<'a> {
    pub(super) key: &'a [u8],
    words: (u64, u64),
}

impl<'a> Probe<'a> {
    #[inline]
    pub(super) fn new(key: &'a [u8]) -> Probe<'a> {
        let word = |at: usize| -> u64 {
            match key.get(at..at + 8) {
                Some(whole) => u64::from_be_bytes(whole.try_into().expect("eight bytes")),
                None => {
                    let rest = key.get(at..).unwrap_or_default();
                    let mut bytes = [0; 8];
                    bytes[..rest.len()].copy_from_slice(rest);
                    u64::from_be_bytes(bytes)
                }
            }
        };
        Probe {
            key,
            words: (word(0), word(8)),
        }
    }

    /// How it stands to a node's key.
    #[inline]
    pub(super) fn order<L>(&self, node: NodeRef<'_, L>) -> cmp::Ordering {
        // Padded words that differ decide. Equal ones: the longer key has the other as its beginning, or zeros where
        // the other ends; both times the rest, then the length, decide.
        self.words.cmp(&node.words()).then_with(|| {
            let len = node.key_len();
            if self.key.len() <= WORDS && len <= WORDS {
                return self.key.len().cmp(&len);
            }
            self.key.cmp(node.key())
        })
    }

    #[inline]
    pub(super) fn is<L>(&self, node: NodeRef<'_, L>) -> bool {
        self.key.len() == node.key_len()
            && self.words == node.words()
            && (self.key.len() <= WORDS || self.key == node.key())
    }
}

fn key_area(key_len: usize) -> usize {
    key_len.next_multiple_of(ALIGN).max(WORDS)
}

/// A node of a list that is borrowed for `'a` (NO2).
pub(super) struct NodeRef<'a, L> {
    node: NonNull<Node<L>>,
    of: PhantomData<&'a L>,
}

impl<L> Clone for NodeRef<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<L> Copy for NodeRef<'_, L> {}
impl<L> PartialEq for NodeRef<'_, L> {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
    }
}

impl<'a, L> NodeRef<'a, L> {
    /// # Safety
    /// - `node` is null, or points to a node that is complete for this thread (NO1) in an arena that lives for `'a`.
    #[inline]
    pub(super) unsafe fn from_ptr(node: *mut Node<L>) -> Option<Self> {
        let of = PhantomData;
        NonNull::new(node).map(|node| NodeRef { node, of })
    }

    #[inline]
    pub(super) fn as_ptr(self) -> *mut Node<L> {
        self.node.as_ptr()
    }

    #[inline]
    fn head(self) -> &'a Node<L> {
        // SAFETY: a node lives as long as its list (NO2), and its head does not change (NO1).
        let node: &'a Node<L> = unsafe { self.node.as_ref() };
        node.watched.read();
        node
    }

    #[inline]
    pub(super) fn key_len(self) -> usize {
        self.head().key_len as usize
    }

    fn height(self) -> usize {
        (self.head().tag >> 24) as usize
    }

    /// Whether its hash may be this one.
    #[inline]
    pub(super) fn may_hash_to(self, hash: u64) -> bool {
        self.head().tag & 0xff_ffff == short_hash(hash)
    }

    #[inline]
    fn key_at(self) -> *const u8 {
        // SAFETY: the key area follows the head, in the same piece (NO4).
        unsafe { self.node.as_ptr().add(1) }.cast()
    }

    #[inline]
    pub(super) fn key(self) -> &'a [u8] {
        let (at, len) = (self.key_at(), self.key_len());
        // SAFETY: `len` bytes of key are there, written before the node was shown (NO1), for as long as the list (NO2).
        unsafe { std::slice::from_raw_parts(at, len) }
    }

    /// The first sixteen bytes of the key, padded with zeros, as numbers that order as the bytes do.
    #[inline]
    fn words(self) -> (u64, u64) {
        let at = self.key_at().cast::<[[u8; 8]; 2]>();
        // SAFETY: the key area has sixteen bytes or more.
        let [first, second] = unsafe { at.read() };
        (u64::from_be_bytes(first), u64::from_be_bytes(second))
    }

    /// Its link at a level that it has (NO3).
    #[inline]
    pub(super) fn link(self, level: usize) -> &'a Link<L> {
        debug_assert!(level < self.height());
        // SAFETY: links stand in front of the head in the same piece (NO4), one for each level below its height (NO3).
        let link = unsafe { self.node.as_ptr().cast::<Link<L>>().sub(level + 1) };
        // SAFETY: written before the node was shown (NO1), for as long as the list (NO2).
        unsafe { &*link }
    }

    /// The node behind it at a level that it has.
    #[inline]
    pub(super) fn next(self, level: usize) -> Option<NodeRef<'a, L>> {
        // Acquire pairs with the release that linked the node (NO1).
        let next = self.link(level).load(Ordering::Acquire);
        // SAFETY: links are null or point to complete nodes of the same arena.
        unsafe { NodeRef::from_ptr(next) }
    }

    fn tail_ptr(self) -> *mut Tail<L> {
        let area = key_area(self.key_len());
        // SAFETY: the tail follows the key area in the same piece (NO4).
        unsafe { self.key_at().cast_mut().add(area) }.cast()
    }

    /// Where its newest version is.
    #[inline]
    pub(super) fn newest_slot(self) -> &'a AtomicPtr<Version<L>> {
        // SAFETY: written before the node was shown (NO1), for as long as the list (NO2); of the tail no more than this is
        // borrowed, as the entry beside it may still be changed.
        unsafe { &(*self.tail_ptr()).newest }
    }

    /// Its newest version. Each node of a list has one; the head has none.
    #[inline]
    pub(super) fn newest(self) -> Option<VersionRef<'a, L>> {
        // Acquire pairs with the release that put the version there (NO1).
        let newest = self.newest_slot().load(Ordering::Acquire);
        // SAFETY: null, or a complete version of the same arena.
        unsafe { VersionRef::from_ptr(newest) }
    }

    /// Its own entry, which the one who made the node puts into the index.
    pub(super) fn entry_ptr(self) -> *mut Entry<L> {
        // SAFETY: within the tail; no reference is made.
        unsafe { &raw mut (*self.tail_ptr()).entry }
    }
}

fn short_hash(hash: u64) -> u32 {
    // The lowest bits choose the bucket.
    (hash >> 40) as u32
}

/// A version of a list that is borrowed for `'a`.
pub(super) struct VersionRef<'a, L> {
    version: NonNull<Version<L>>,
    of: PhantomData<&'a L>,
}

impl<L> Clone for VersionRef<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<L> Copy for VersionRef<'_, L> {}

impl<'a, L> VersionRef<'a, L> {
    /// # Safety
    /// - `version` is null, or points to a version that is complete for this thread (NO1) in an arena that lives for `'a`.
    #[inline]
    pub(super) unsafe fn from_ptr(version: *mut Version<L>) -> Option<Self> {
        let of = PhantomData;
        NonNull::new(version).map(|version| VersionRef { version, of })
    }

    #[inline]
    pub(super) fn as_ptr(self) -> *mut Version<L> {
        self.version.as_ptr()
    }

    #[inline]
    fn head(self) -> &'a Version<L> {
        // SAFETY: a version lives as long as its list (NO2); what changes of it is atomic (NO1).
        let version: &'a Version<L> = unsafe { self.version.as_ref() };
        version.watched.read();
        version
    }

    #[inline]
    pub(super) fn seqno(self) -> u64 {
        self.head().seqno
    }

    #[inline]
    pub(super) fn kind(self) -> u8 {
        (self.head().depth_kind >> 24) as u8
    }

    /// Where the next older one is.
    #[inline]
    pub(super) fn next_slot(self) -> &'a AtomicPtr<Version<L>> {
        &self.head().next
    }

    /// The next older one.
    #[inline]
    pub(super) fn next(self) -> Option<VersionRef<'a, L>> {
        // Acquire pairs with the release that put it there (NO1).
        let next = self.next_slot().load(Ordering::Acquire);
        // SAFETY: null, or a complete version of the same arena.
        unsafe { VersionRef::from_ptr(next) }
    }

    /// An older one, further away.
    #[inline]
    pub(super) fn jump(self) -> Option<VersionRef<'a, L>> {
        let jump = self.head().jump;
        // SAFETY: null, or a version of the same arena that was complete for whoever made this one (NO1), and so is for those
        // to whom this one was shown.
        unsafe { VersionRef::from_ptr(jump) }
    }

    fn is_express(self) -> bool {
        self.head().len & EXPRESS != 0
    }

    fn depth(self) -> u32 {
        self.head().depth_kind & DEPTH
    }

    /// The inline value, or the large one.
    #[inline]
    pub(super) fn value(self) -> super::ValueRef<'a, L> {
        let len = self.head().len;
        // SAFETY: the value follows the head in the same piece (NO4).
        let at = unsafe { self.version.as_ptr().add(1) };
        if len & LARGE == 0 {
            // SAFETY: `len` bytes are there, written before the version was shown (NO1), for as long as the list (NO2).
            let bytes =
                unsafe { std::slice::from_raw_parts(at.cast::<u8>(), (len & LEN) as usize) };
            return super::ValueRef::Inline(bytes);
        }
        // SAFETY: such a version was written with a pointer to its value.
        let large = unsafe { at.cast::<NonNull<Large<L>>>().read() };
        // SAFETY: large values live as long as the list (NO2) and do not change.
        let large: &'a Large<L> = unsafe { large.as_ref() };
        super::ValueRef::Large(&large.value)
    }
}

/// A version that nobody else sees yet.
pub(super) struct NewVersion<L>(NonNull<Version<L>>);

impl<L> NewVersion<L> {
    fn size(payload: &Payload<'_, L>) -> usize {
        let value = match payload {
            Payload::Inline(bytes) => bytes.len(),
            Payload::Large(_) => size_of::<NonNull<Large<L>>>(),
        };
        size_of::<Version<L>>() + value
    }

    /// In a piece of its own.
    #[inline]
    pub(super) fn alone(arena: &Arena, seqno: u64, kind: u8, payload: &Payload<'_, L>) -> Self {
        let at = arena.alloc(Self::size(payload)).cast();
        // SAFETY: a fresh piece of that size.
        unsafe { Self::write(at, seqno, kind, payload) }
    }

    /// # Safety
    /// - At `at` there are [`NewVersion::size`] bytes that belong to the caller, aligned.
    #[inline]
    unsafe fn write(
        at: NonNull<Version<L>>,
        seqno: u64,
        kind: u8,
        payload: &Payload<'_, L>,
    ) -> Self {
        let len = match payload {
            Payload::Inline(bytes) => {
                assert!(bytes.len() <= INLINE_MAX, "longer values are kept apart");
                bytes.len() as u32
            }
            Payload::Large(_) => LARGE,
        };
        let version = Version {
            next: AtomicPtr::new(null_mut()),
            jump: null_mut(),
            seqno,
            len,
            depth_kind: u32::from(kind) << 24,
            watched: Watched::new(),
            of: PhantomData,
        };
        // SAFETY: the caller's.
        unsafe { at.write(version) };
        // SAFETY: behind the head, within the piece.
        let value = unsafe { at.add(1) };
        match payload {
            // SAFETY: the piece has room for them, and they are not in it.
            Payload::Inline(bytes) => unsafe {
                let to = value.as_ptr().cast::<u8>();
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            },
            // SAFETY: the piece has room for it.
            Payload::Large(large) => unsafe { value.cast::<NonNull<Large<L>>>().write(*large) },
        }
        // SAFETY: just written; loom watches that nobody reads it before it is shown.
        unsafe { at.as_ref() }.watched.wrote();
        NewVersion(at)
    }

    #[inline]
    pub(super) fn as_ptr(&self) -> *mut Version<L> {
        self.0.as_ptr()
    }

    /// Makes it the one in front of `older`; `on_top` when it is to be the newest.
    ///
    /// Every eighth version is an express stop. A version between stops jumps to the next stop; a stop jumps to
    /// other stops as in Myers's applicative random-access stack (Information Processing Letters 17, 1983), so
    /// that a search among n versions takes log n steps, and a version is never changed once it is shown. One that
    /// comes late, below the top, is no stop, and those above it know nothing of it: a jump is only taken to where the
    /// search has not arrived yet, so passing it over is right.
    #[inline]
    pub(super) fn put_before(&mut self, older: Option<VersionRef<'_, L>>, on_top: bool) {
        let mut jump = None;
        let mut express = false;
        let mut depth = 1;
        if let Some(older) = older {
            let stop = if older.is_express() {
                Some(older)
            } else {
                older.jump()
            };
            depth = older.depth();
            if on_top {
                depth = (depth + 1).min(DEPTH);
                express = depth % 8 == 0;
            }
            jump = stop;
            if express && let Some(stop) = stop {
                let far = stop.jump();
                let farther = far.and_then(VersionRef::jump);
                let far_depth = far.map_or(0, VersionRef::depth);
                let farther_depth = farther.map_or(0, VersionRef::depth);
                if far.is_some() && stop.depth() - far_depth == far_depth - farther_depth {
                    jump = farther;
                }
            }
        }
        // SAFETY: nobody else sees it yet.
        let version = unsafe { self.0.as_mut() };
        // Relaxed: shown by the compare-and-swap that follows.
        version.next.store(
            older.map_or(null_mut(), VersionRef::as_ptr),
            Ordering::Relaxed,
        );
        version.jump = jump.map_or(null_mut(), VersionRef::as_ptr);
        version.len = version.len & !EXPRESS | if express { EXPRESS } else { 0 };
        version.depth_kind = version.depth_kind & !DEPTH | depth;
    }
}

/// Writes a node with one version into the arena. Nobody else sees it yet.
pub(super) fn new_node<'a, L>(
    arena: &'a Arena,
    key: &[u8],
    hash: u64,
    height: usize,
    version: Option<(u64, u8, &Payload<'_, L>)>,
) -> (NodeRef<'a, L>, Option<NewVersion<L>>) {
    let key_len = u32::try_from(key.len()).expect("keys are far below 4 GiB");
    let tower = height * size_of::<Link<L>>();
    let area = key_area(key.len());
    let to_version = size_of::<Node<L>>() + area + size_of::<Tail<L>>();
    let version_size = version.map_or(0, |(_, _, payload)| NewVersion::size(payload));
    let piece = arena.alloc(tower + to_version + version_size);
    for level in 0..height {
        // SAFETY: within the tower, at the piece's beginning.
        let link = unsafe { piece.cast::<Link<L>>().add(level) };
        // SAFETY: as above.
        unsafe { link.write(AtomicPtr::new(null_mut())) };
    }
    // SAFETY: behind the tower, within the piece.
    let node: NonNull<Node<L>> = unsafe { piece.add(tower) }.cast();
    let head = Node {
        key_len,
        tag: (height as u32) << 24 | short_hash(hash),
        watched: Watched::new(),
        of: PhantomData,
    };
    // SAFETY: as above.
    unsafe { node.write(head) };
    // SAFETY: just written; loom watches that nobody reads it before it is shown.
    unsafe { node.as_ref() }.watched.wrote();
    // SAFETY: the key area is behind the head, within the piece.
    let key_at: NonNull<u8> = unsafe { node.add(1) }.cast();
    // SAFETY: within the area. Its last two words at most are not covered by the key.
    let end: NonNull<u8> = unsafe { key_at.add(area - WORDS) };
    // SAFETY: as above.
    unsafe { end.write_bytes(0, WORDS) };
    // SAFETY: the area holds the key, which is not in it.
    unsafe { std::ptr::copy_nonoverlapping(key.as_ptr(), key_at.as_ptr(), key.len()) };
    // SAFETY: behind the tail, within the piece (where there is no version, at its end).
    let version_at: NonNull<Version<L>> = unsafe { node.byte_add(to_version) }.cast();
    let first = version.map(|(seqno, kind, payload)| {
        // SAFETY: the piece has its size there.
        let mut first = unsafe { NewVersion::write(version_at, seqno, kind, payload) };
        first.put_before(None, true);
        first
    });
    let tail = Tail {
        newest: AtomicPtr::new(first.as_ref().map_or(null_mut(), NewVersion::as_ptr)),
        entry: Entry {
            next: null_mut(),
            node: node.as_ptr(),
            watched: Watched::new(),
        },
    };
    let of = PhantomData;
    let node = NodeRef { node, of };
    // SAFETY: behind the key area, within the piece.
    unsafe { node.tail_ptr().write(tail) };
    (node, first)
}

/// Writes one more entry for a node. Nobody else sees it yet.
pub(super) fn new_entry<L>(arena: &Arena, node: NodeRef<'_, L>) -> *mut Entry<L> {
    let at = arena.alloc(size_of::<Entry<L>>()).cast::<Entry<L>>();
    let entry = Entry {
        next: null_mut(),
        node: node.as_ptr(),
        watched: Watched::new(),
    };
    // SAFETY: a fresh piece of that size.
    unsafe { at.write(entry) };
    at.as_ptr()
}

/// An entry of a bucket.
pub(super) struct EntryRef<'a, L> {
    entry: NonNull<Entry<L>>,
    of: PhantomData<&'a L>,
}

impl<'a, L> EntryRef<'a, L> {
    /// # Safety
    /// - `entry` is null, or points to an entry that is complete for this thread (NO1) in an arena that lives for `'a`.
    #[inline]
    pub(super) unsafe fn from_ptr(entry: *mut Entry<L>) -> Option<Self> {
        let of = PhantomData;
        NonNull::new(entry).map(|entry| EntryRef { entry, of })
    }

    #[inline]
    fn get(&self) -> &'a Entry<L> {
        // SAFETY: an entry lives as long as its list (NO2), and does not change once shown (NO1).
        let entry: &'a Entry<L> = unsafe { self.entry.as_ref() };
        entry.watched.read();
        entry
    }

    #[inline]
    pub(super) fn next(&self) -> Option<EntryRef<'a, L>> {
        // SAFETY: null, or an entry that was complete for whoever put this one before it, and so is for those to whom this
        // one was shown.
        unsafe { EntryRef::from_ptr(self.get().next) }
    }

    #[inline]
    pub(super) fn node(&self) -> NodeRef<'a, L> {
        let of = PhantomData;
        let node = NonNull::new(self.get().node).expect("an entry has a node");
        NodeRef { node, of }
    }
}

/// Puts an entry at the front of its bucket.
///
/// # Safety
/// - `entry` was made by [`new_node`] or [`new_entry`] for a list that owns `bucket`, and is put in here once.
pub(super) unsafe fn show_entry<L>(bucket: &AtomicPtr<Entry<L>>, entry: *mut Entry<L>) {
    // Acquire: who finds this entry walks on to the next one, and relies on us for its being complete.
    let mut next = bucket.load(Ordering::Acquire);
    loop {
        // SAFETY: nobody else sees the entry yet.
        unsafe { (*entry).next = next };
        // SAFETY: as above; loom watches it.
        unsafe { (*entry).watched.wrote() };
        match bucket.compare_exchange_weak(next, entry, Ordering::Release, Ordering::Acquire) {
            Ok(_) => return,
            Err(now) => next = now,
        }
    }
}
