//! Memory for what lives as long as its list: chunks, handed out by adding to a counter, freed as wholes.
//!
//! - AR1: what [`Arena::alloc`] gives is aligned to [`ALIGN`], overlaps nothing that was given before, and stays where it is until the
//!   arena is dropped. It is not initialised.
//! - AR2: `bytes` is what was taken from the chunks, the rests of full chunks included: it never exceeds what the
//!   allocator was asked for, and falls short of it by less than one chunk.
//! - AR3: the arena drops nothing that is in it. Its own drop frees the chunks, a few calls, whatever they hold. Whole ones go to
//!   [`Chunks`] first, if it was made with some: a page that was used before need not be cleared by the kernel.
//!
//! Threads share a chunk by `fetch_add`: each gets a stretch of its own (relaxed: the stretch is all that it decides;
//! who shows its content to others releases it). Who finds the chunk full makes the next one and swaps it in by
//! compare-and-swap; who loses that race frees its own and takes the winner's. So no thread waits for another.

use crate::shim::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::shim::{Arc, Mutex};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Alignment of what is handed out.
pub(super) const ALIGN: usize = 8;
/// Bytes of the first chunk, header included; each next is twice as large, up to [`CHUNK_MAX`].
const CHUNK_MIN: usize = if cfg!(esker_loom) { 512 } else { 4 << 10 };
/// A huge page: a walk from node to node misses the TLB at each step where there are small ones.
const CHUNK_MAX: usize = 2 << 20;
/// Capacity of such a chunk.
const WHOLE: usize = CHUNK_MAX - size_of::<Chunk>();
/// Above this a piece gets a chunk of its own, so that the rest of the current one is not lost.
const SHARED_MAX: usize = 128 << 10;

/// In front of its bytes.
#[repr(C, align(64))]
struct Chunk {
    /// The one before it.
    older: *mut Chunk,
    /// Bytes behind the header.
    capacity: usize,
    /// Bytes of all chunks before it.
    before: usize,
    /// Bytes handed out; above `capacity` once it is full.
    used: AtomicUsize,
}

impl Chunk {
    fn layout(capacity: usize) -> Layout {
        let size = size_of::<Chunk>() + capacity;
        let align = if size == CHUNK_MAX {
            CHUNK_MAX
        } else {
            align_of::<Chunk>()
        };
        Layout::from_size_align(size, align).expect("a key or value is far below the address space")
    }

    fn new(capacity: usize, used: usize, older: *mut Chunk, before: usize) -> NonNull<Chunk> {
        let layout = Chunk::layout(capacity);
        // SAFETY: the layout has a header's size at least.
        let raw = unsafe { alloc(layout) };
        let Some(chunk) = NonNull::new(raw.cast::<Chunk>()) else {
            handle_alloc_error(layout)
        };
        if layout.size() == CHUNK_MAX {
            huge(raw);
        }
        Chunk::begin(chunk, capacity, used, older, before);
        chunk
    }

    /// Writes the header of a chunk that nobody has.
    fn begin(
        chunk: NonNull<Chunk>,
        capacity: usize,
        used: usize,
        older: *mut Chunk,
        before: usize,
    ) {
        let header = Chunk {
            older,
            capacity,
            before,
            used: AtomicUsize::new(used),
        };
        // SAFETY: allocated for a header and its bytes, with its alignment; nobody else has it.
        unsafe { chunk.write(header) };
    }

    /// # Safety
    /// - `chunk` came from [`Chunk::new`], and nobody uses it any more.
    unsafe fn free(chunk: NonNull<Chunk>) {
        // SAFETY: initialised in `new`.
        let capacity = unsafe { chunk.as_ref() }.capacity;
        // SAFETY: allocated in `new` with the layout of this capacity; the caller vouches that this is the end of it.
        unsafe { dealloc(chunk.as_ptr().cast(), Chunk::layout(capacity)) };
    }
}

/// Asks for a huge page under a chunk of that size. Without one it is as good, only slower.
#[cfg(all(target_os = "linux", not(esker_loom)))]
fn huge(chunk: *mut u8) {
    // SAFETY: advice about memory of our own, which does not change what is in it.
    let _ =
        unsafe { rustix::mm::madvise(chunk.cast(), CHUNK_MAX, rustix::mm::Advice::LinuxHugepage) };
}

#[cfg(not(all(target_os = "linux", not(esker_loom))))]
fn huge(_chunk: *mut u8) {}

/// Chunks of lists that are gone, kept for lists to come.
///
/// What they hold was held by a list before and is taken first when a list grows, so it adds nothing to the most that lists held
/// at one time.
pub struct Chunks {
    /// Of [`CHUNK_MAX`] bytes each, their headers as they were left.
    free: Mutex<Vec<NonNull<Chunk>>>,
    max: usize,
}

// SAFETY: the chunks in it belong to it alone.
unsafe impl Send for Chunks {}
// SAFETY: they are taken out and put in under its mutex.
unsafe impl Sync for Chunks {}

impl std::fmt::Debug for Chunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunks")
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl Chunks {
    /// Keeps `bytes` at most.
    #[must_use]
    pub fn keeping(bytes: usize) -> Arc<Chunks> {
        Arc::new(Chunks {
            free: Mutex::new(Vec::new()),
            max: bytes / CHUNK_MAX,
        })
    }

    /// Bytes kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.free.lock().len() * CHUNK_MAX
    }

    fn take(&self) -> Option<NonNull<Chunk>> {
        self.free.lock().pop()
    }

    /// # Safety
    /// - `chunk` came from [`Chunk::new`] with a layout of [`CHUNK_MAX`] bytes, and nobody uses it any more.
    unsafe fn put(&self, chunk: NonNull<Chunk>) {
        let mut free = self.free.lock();
        if free.len() < self.max {
            free.push(chunk);
            return;
        }
        drop(free);
        // SAFETY: the caller's.
        unsafe { Chunk::free(chunk) };
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        for chunk in self.free.lock().drain(..) {
            // SAFETY: put there by who was done with it, and nobody else has it.
            unsafe { Chunk::free(chunk) };
        }
    }
}

/// See the module.
pub(super) struct Arena {
    /// The chunk that pieces come from; each knows the one before.
    current: AtomicPtr<Chunk>,
    /// Chunks of one piece.
    alone: AtomicPtr<Chunk>,
    /// Bytes of those.
    alone_bytes: AtomicUsize,
    /// Where whole chunks come from and go to.
    chunks: Option<Arc<Chunks>>,
}

impl Arena {
    pub(super) fn new(chunks: Option<Arc<Chunks>>) -> Arena {
        let first = Chunk::new(CHUNK_MIN - size_of::<Chunk>(), 0, std::ptr::null_mut(), 0);
        Arena {
            current: AtomicPtr::new(first.as_ptr()),
            alone: AtomicPtr::new(std::ptr::null_mut()),
            alone_bytes: AtomicUsize::new(0),
            chunks,
        }
    }

    /// Bytes taken (AR2).
    pub(super) fn bytes(&self) -> usize {
        // Acquire pairs with the release in `grow`, for the header.
        let chunk = self.header(self.current.load(Ordering::Acquire));
        // Relaxed: a count.
        let used = chunk.used.load(Ordering::Relaxed).min(chunk.capacity);
        chunk.before + used + self.alone_bytes.load(Ordering::Relaxed)
    }

    fn header(&self, chunk: *mut Chunk) -> &Chunk {
        // SAFETY: called with what was loaded from `current`, with acquire: that is never null, was made by `Chunk::new`, and is
        // not freed before the arena is dropped.
        unsafe { &*chunk }
    }

    /// `size` bytes (AR1).
    #[inline]
    pub(super) fn alloc(&self, size: usize) -> NonNull<u8> {
        let size = size.next_multiple_of(ALIGN);
        if size > SHARED_MAX {
            return self.alloc_alone(size);
        }
        // Acquire pairs with the release in `grow`, for the header.
        let mut current = self.current.load(Ordering::Acquire);
        loop {
            let chunk = self.header(current);
            let at = chunk.used.fetch_add(size, Ordering::Relaxed);
            if at + size <= chunk.capacity {
                return Arena::piece(current, at);
            }
            current = self.grow(current, size);
        }
    }

    /// The piece at `at` of a chunk.
    fn piece(chunk: *mut Chunk, at: usize) -> NonNull<u8> {
        // SAFETY: a piece that was handed out lies within the chunk's allocation, behind its header.
        let piece = unsafe { chunk.cast::<u8>().add(size_of::<Chunk>() + at) };
        // SAFETY: it is inside of an allocation.
        unsafe { NonNull::new_unchecked(piece) }
    }

    #[cold]
    fn grow(&self, full: *mut Chunk, size: usize) -> *mut Chunk {
        let old = self.header(full);
        let mut bytes = (old.capacity + size_of::<Chunk>()) * 2;
        while bytes < size + size_of::<Chunk>() {
            bytes *= 2;
        }
        let capacity = bytes.min(CHUNK_MAX) - size_of::<Chunk>();
        let before = old.before + old.capacity;
        let kept = if capacity == WHOLE {
            self.chunks.as_ref().and_then(|chunks| chunks.take())
        } else {
            None
        };
        let next = match kept {
            Some(kept) => {
                Chunk::begin(kept, capacity, 0, full, before);
                kept
            }
            None => Chunk::new(capacity, 0, full, before),
        };
        // Release: who loads it sees its header. Acquire: the same, for the one that another thread put there.
        match self.current.compare_exchange(
            full,
            next.as_ptr(),
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => next.as_ptr(),
            Err(winner) => {
                // SAFETY: it was shown to nobody.
                unsafe { self.let_go(next) };
                winner
            }
        }
    }

    /// # Safety
    /// - As for [`Chunk::free`].
    unsafe fn let_go(&self, chunk: NonNull<Chunk>) {
        // SAFETY: initialised in `new`.
        let capacity = unsafe { chunk.as_ref() }.capacity;
        match &self.chunks {
            Some(chunks) if capacity == WHOLE => {
                // SAFETY: the caller's; its capacity says its layout.
                unsafe { chunks.put(chunk) };
            }
            // SAFETY: the caller's.
            _ => unsafe { Chunk::free(chunk) },
        }
    }

    #[cold]
    fn alloc_alone(&self, size: usize) -> NonNull<u8> {
        let mut older = self.alone.load(Ordering::Relaxed);
        let mut chunk = Chunk::new(size, size, older, 0);
        loop {
            // Release: `drop` reads the headers (it has the arena for itself, but reads what other threads wrote).
            match self.alone.compare_exchange(
                older,
                chunk.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => {
                    older = now;
                    // SAFETY: it is shown to nobody yet.
                    unsafe { chunk.as_mut() }.older = now;
                }
            }
        }
        self.alone_bytes.fetch_add(size, Ordering::Relaxed);
        Arena::piece(chunk.as_ptr(), 0)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for list in [&self.current, &self.alone] {
            let mut chunk = list.load(Ordering::Acquire);
            while let Some(this) = NonNull::new(chunk) {
                // SAFETY: in the list, so it is initialised and was not freed.
                chunk = unsafe { this.as_ref() }.older;
                // SAFETY: nobody has the arena any more, so nobody has a piece of it; each chunk is in one list, once.
                unsafe { self.let_go(this) };
            }
        }
    }
}

// SAFETY: chunks are reached by all threads through atomics only; their headers do not change once shown, `used` apart, which is atomic.
unsafe impl Send for Arena {}
// SAFETY: as above; the pieces belong to those who got them.
unsafe impl Sync for Arena {}

#[cfg(all(test, not(esker_loom)))]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_aligned_apart_and_counted() {
        let arena = Arena::new(None);
        let mut pieces: Vec<(usize, usize)> = Vec::new();
        let mut sum = 0;
        for i in 0..20_000_usize {
            let size = match i % 1000 {
                999 => SHARED_MAX + i,
                n => 1 + n % 300,
            };
            let piece = arena.alloc(size);
            // SAFETY: the piece has `size` bytes (AR1).
            unsafe { piece.as_ptr().write_bytes(0xa5, size) };
            let at = piece.as_ptr() as usize;
            assert!(at.is_multiple_of(ALIGN));
            pieces.push((at, at + size));
            sum += size;
        }
        pieces.sort_unstable();
        assert!(pieces.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        assert!(arena.bytes() >= sum);
        assert!(arena.bytes() < sum + 20_000 * ALIGN + 300 * 16);
    }

    #[test]
    fn whole_chunks_are_used_again_and_no_more_are_kept_than_asked_for() {
        let chunks = Chunks::keeping(2 * CHUNK_MAX + 1);
        let fill = || {
            let arena = Arena::new(Some(chunks.clone()));
            while arena.bytes() < 5 * CHUNK_MAX {
                let piece = arena.alloc(SHARED_MAX);
                // SAFETY: the piece has so many bytes (AR1).
                unsafe { piece.as_ptr().write_bytes(0xa5, SHARED_MAX) };
            }
            arena
        };
        let one = fill();
        assert_eq!(chunks.bytes(), 0);
        drop(one);
        assert_eq!(chunks.bytes(), 2 * CHUNK_MAX);
        let two = fill();
        assert_eq!(chunks.bytes(), 0);
        let three = fill();
        drop((two, three));
        assert_eq!(chunks.bytes(), 2 * CHUNK_MAX);
    }

    #[test]
    fn threads_get_pieces_apart() {
        let arena = Arena::new(None);
        let mut all: Vec<(usize, usize)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|t| {
                    let arena = &arena;
                    scope.spawn(move || {
                        (0..20_000)
                            .map(|i| {
                                let size = 8 + (i * 7 + t * 13) % 200;
                                let at = arena.alloc(size).as_ptr() as usize;
                                (at, at + size)
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|t| t.join().unwrap())
                .collect()
        });
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    }
}
