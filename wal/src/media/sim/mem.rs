//! The bytes of a simulated file: heap memory that maps and calls share.
//!
//! Maps are written by raw stores of their owner, as real ones are. So this side reads and writes by
//! relaxed atomics only, and makes no reference to the bytes.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Bytes of a page: alignment and granularity of maps and syncs.
pub(super) const PAGE: usize = 4096;
const WORD: usize = size_of::<u64>();

/// Zeroed memory of whole pages that never moves.
#[derive(Debug)]
pub(super) struct Mem {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is owned, its address never changes, and all access here is atomic.
unsafe impl Send for Mem {}
// SAFETY: as above.
unsafe impl Sync for Mem {}

impl Mem {
    /// Memory for `len` bytes, rounded up to pages; at least one.
    pub(super) fn new(len: usize) -> Mem {
        let len = len.max(1).next_multiple_of(PAGE);
        let layout = Layout::from_size_align(len, PAGE).expect("a size below isize::MAX");
        // SAFETY: the layout's size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else {
            handle_alloc_error(layout);
        };
        Mem { base, len }
    }

    /// Bytes, a multiple of the page.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        assert!(at < self.len);
        // SAFETY: in bounds (above).
        let at = unsafe { self.base.add(at) };
        // SAFETY: valid for as long as `self`, and every access from this side is atomic.
        unsafe { AtomicU8::from_ptr(at.as_ptr()) }
    }

    /// The `count` words at `at`; none where that is zero.
    fn words(&self, at: usize, count: usize) -> &[AtomicU64] {
        if count == 0 {
            return &[];
        }
        assert!(at.is_multiple_of(WORD) && at <= self.len && count <= (self.len - at) / WORD);
        // SAFETY: in bounds (above).
        let at = unsafe { self.base.add(at) };
        // SAFETY: aligned to 8 (base to 4096, `at` to 8), initialized (zeroed), valid for as long as `self`, and every
        // access from this side is atomic.
        unsafe { std::slice::from_raw_parts(at.as_ptr().cast(), count) }
    }

    /// Copies the bytes at `at` into `out`.
    pub(super) fn read(&self, at: usize, out: &mut [u8]) {
        let head = (at.next_multiple_of(WORD) - at).min(out.len());
        let (head, rest) = out.split_at_mut(head);
        let words_at = at + head.len();
        for (i, byte) in head.iter_mut().enumerate() {
            *byte = self.byte(at + i).load(Ordering::Relaxed);
        }
        let count = rest.len() / WORD;
        let (body, tail) = rest.split_at_mut(count * WORD);
        // A slice at once: tests read a lot, and without optimisation each call costs.
        for (to, word) in body.chunks_exact_mut(WORD).zip(self.words(words_at, count)) {
            to.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        let tail_at = words_at + count * WORD;
        for (i, byte) in tail.iter_mut().enumerate() {
            *byte = self.byte(tail_at + i).load(Ordering::Relaxed);
        }
    }

    /// Copies `bytes` to `at`.
    pub(super) fn write(&self, at: usize, bytes: &[u8]) {
        let (head, rest) = bytes.split_at((at.next_multiple_of(WORD) - at).min(bytes.len()));
        let words_at = at + head.len();
        for (i, byte) in head.iter().enumerate() {
            self.byte(at + i).store(*byte, Ordering::Relaxed);
        }
        let count = rest.len() / WORD;
        let (body, tail) = rest.split_at(count * WORD);
        for (from, word) in body.chunks_exact(WORD).zip(self.words(words_at, count)) {
            let value = u64::from_ne_bytes(from.try_into().expect("8 bytes"));
            word.store(value, Ordering::Relaxed);
        }
        let tail_at = words_at + count * WORD;
        for (i, byte) in tail.iter().enumerate() {
            self.byte(tail_at + i).store(*byte, Ordering::Relaxed);
        }
    }

    /// A copy of the `len` bytes at `at`.
    pub(super) fn to_vec(&self, at: usize, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.read(at, &mut out);
        out
    }
}

impl Drop for Mem {
    fn drop(&mut self) {
        let layout = Layout::from_size_align(self.len, PAGE).expect("checked in `new`");
        // SAFETY: allocated in `new` with this layout; maps hold an `Arc` of `self`.
        unsafe { dealloc(self.base.as_ptr(), layout) }
    }
}
