//! The tail of a log: reserve in order, fill in parallel, publish with one word.
//!
//! A log is a row of frames, each beginning with a word that is zero until the frame is complete.
//! Who appends reserves a stretch (under a lock of the caller's, shown by [`Turn`]), fills it without
//! any lock, and publishes it by storing its word. Nobody waits for a neighbour. `published` is the end of the
//! unbroken row of nonzero words; it moves when somebody looks ([`Tail::advance`]).
//!
//! - T1: `published <= reserved`, both only grow, both stand at ends of frames.
//! - T2: everything below `published` is completely filled, and seen so by who loads `published`.
//! - T3: no word that was there before a frame was reserved (a recycled file's, a client's payload)
//!   is ever taken for a published frame.
//! - T4: who waits for `published` is woken by the publisher that makes it reach the target, whichever
//!   of the frames before it is published last.
//!
//! Orderings. T2: the word is stored with release after the filling; `advance` loads words with acquire and
//! stores `published` with acquire-release, so it passes on what it saw. T3: a reservation zeroes the
//! word *behind* its frame before it ends; so when a frame's word is seen nonzero, the zero behind it is
//! seen too (it was stored before that word by the same thread), and coherence lets nobody read the older
//! bytes again. The first word of a row is zeroed by who starts the row, before others know of it. T4:
//! see [`crate::watermark`]; the publisher's word takes the place of the value there.
//!
//! Where the words are is the caller's business ([`Words`]): in a mapped file, or in a loom model.

use crate::line::Line;
use crate::shim::atomic::{AtomicU64, Ordering};
use crate::watermark::Watermark;

/// Where the words of a log are.
pub trait Words {
    /// Loads (with `f`) the word at position `at`, an end of a frame at or above `published`; `None` where
    /// no frame can begin yet.
    fn load(&mut self, at: u64, f: impl Fn(&AtomicU64) -> u64) -> Option<u64>;
    /// Length of the frame whose word this is.
    fn span(word: u64) -> u64;
}

/// The right to reserve. There is one per tail; whoever holds it mutably is alone.
#[derive(Debug)]
pub struct Turn(());

/// The tail of a log. See the module.
#[derive(Debug)]
pub struct Tail {
    reserved: Line<Reserved>,
    published: Line<Watermark>,
}

/// Written together, by who holds the turn.
#[derive(Debug)]
struct Reserved {
    end: AtomicU64,
    frames: AtomicU64,
}

impl Tail {
    /// An empty row that begins at `at`, and the right to reserve in it.
    #[must_use]
    pub fn new(at: u64) -> (Tail, Turn) {
        let tail = Tail {
            reserved: Line(Reserved {
                end: AtomicU64::new(at),
                frames: AtomicU64::new(0),
            }),
            published: Line(Watermark::new(at)),
        };
        (tail, Turn(()))
    }

    /// End of what was reserved.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        self.reserved.end.load(Ordering::Acquire)
    }

    /// Frames reserved so far; a statistic.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.reserved.frames.load(Ordering::Relaxed)
    }

    /// End of what was published, as of the last look.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published.get()
    }

    /// Reserves `len` bytes. `behind` is the word behind them, `None` where no frame can begin there
    /// (the end of a segment) or where it is known to be zero (a file that was filled with zeros).
    pub fn reserve(&self, _turn: &mut Turn, len: u64, behind: Option<&AtomicU64>) -> u64 {
        if let Some(word) = behind {
            // Relaxed: ordered before this frame's own word by that word's release (T3).
            word.store(0, Ordering::Relaxed);
        }
        // Relaxed: `turn` is behind a lock.
        let Reserved { end, frames } = &*self.reserved;
        frames.store(frames.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let at = end.load(Ordering::Relaxed);
        end.store(at + len, Ordering::Release);
        at
    }

    /// Publishes the frame whose first word is at `slot`. True when somebody waits: the caller must then
    /// call [`Tail::advance`].
    #[must_use]
    pub fn publish(&self, slot: &AtomicU64, word: u64) -> bool {
        slot.store(word, Ordering::Release);
        self.published.is_awaited()
    }

    /// Whether somebody waits for `published`; for who publishes without [`Tail::publish`].
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.published.is_awaited()
    }

    /// Moves `published` over the words stored since, and returns it.
    pub fn advance<W: Words>(&self, words: &mut W) -> u64 {
        let from = self.published.get();
        let mut at = from;
        while let Some(word) = words.load(at, |w| w.load(Ordering::Acquire)) {
            if word == 0 {
                break;
            }
            at += W::span(word);
        }
        if at > from {
            self.published.advance(at);
        }
        // Somebody else may have seen more.
        self.published.get()
    }

    /// `published`, to wait for; `look` of a wait calls [`Tail::advance`].
    #[must_use]
    pub fn position(&self) -> &Watermark {
        &self.published
    }
}
