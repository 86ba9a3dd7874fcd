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

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(WORD) && at + WORD <= self.len);
        // SAFETY: in bounds (above).
        let at = unsafe { self.base.add(at) };
        // SAFETY: aligned to 8 (base to 4096, `at` to 8), valid for as long as `self`, and every
        // access from this side is atomic.
        unsafe { AtomicU64::from_ptr(at.as_ptr().cast()) }
    }

    /// Copies the bytes at `at` into `out`.
    pub(super) fn read(&self, at: usize, out: &mut [u8]) {
        let (mut at, mut out) = (at, out);
        while !out.is_empty() {
            if at.is_multiple_of(WORD) && out.len() >= WORD {
                let word = self.word(at).load(Ordering::Relaxed);
                out[..WORD].copy_from_slice(&word.to_ne_bytes());
                (at, out) = (at + WORD, &mut out[WORD..]);
            } else {
                out[0] = self.byte(at).load(Ordering::Relaxed);
                (at, out) = (at + 1, &mut out[1..]);
            }
        }
    }

    /// Copies `bytes` to `at`.
    pub(super) fn write(&self, at: usize, bytes: &[u8]) {
        let (mut at, mut bytes) = (at, bytes);
        while !bytes.is_empty() {
            if at.is_multiple_of(WORD) && bytes.len() >= WORD {
                let word = u64::from_ne_bytes(bytes[..WORD].try_into().expect("8 bytes"));
                self.word(at).store(word, Ordering::Relaxed);
                (at, bytes) = (at + WORD, &bytes[WORD..]);
            } else {
                self.byte(at).store(bytes[0], Ordering::Relaxed);
                (at, bytes) = (at + 1, &bytes[1..]);
            }
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
