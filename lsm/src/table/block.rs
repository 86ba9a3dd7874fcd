//! A block: sorted entries with compressed keys.
//!
//! Little-endian; `v` is a variable-length integer (`coding`).
//! ```text
//! entry    1  kind      1 put, 2 delete
//!          v  shared    bytes of the user key that are the previous entry's; 0 at a restart
//!          v  rest      bytes of the user key that follow
//!          v  value     bytes of value
//!          v  seqno     at a restart itself; else the distance from the previous entry's, zigzag
//!          n  user key from `shared` on, then the value
//! block    entries, then restarts: u32 each, where the entry begins; then u32, how many restarts
//! ```
//! - B1: entries stand in the order of [`KeyRef`]. The first is a restart, and every `interval`-th after it.
//! - B2: a block has an entry at least.
//! - B3: its bytes were verified before they come here, so a malformed entry means a bug or a forged
//!   checksum; it is reported as damage all the same, and never panics or allocates (E2).
//!
//! Lookups search the restarts by halves, then walk the entries of one interval comparing only what differs, without putting
//! keys together. Cursors put the key together in a buffer of their own.

use super::coding::{put_varint, u32_at, unzigzag, varint, zigzag};
use super::{KeyRef, VersionKind};
use crate::SeqNo;
use bytes::Bytes;
use std::cmp::Ordering;

/// Entries from one restart to the next, in data blocks.
pub(crate) const RESTART_INTERVAL: usize = 8;
/// No block is larger uncompressed: a value of the largest frame, with room for its key and the rest.
pub(crate) const BLOCK_BYTES_MAX: usize = 1 << 29;

/// A malformed block: what is wrong with it.
pub(crate) type Malformed = &'static str;

/// Builds a block.
#[derive(Debug)]
pub(crate) struct BlockBuilder {
    interval: usize,
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    since_restart: usize,
    last_user: Vec<u8>,
    last_seqno: SeqNo,
}

impl BlockBuilder {
    pub(crate) fn new(interval: usize) -> Self {
        Self {
            interval,
            bytes: Vec::new(),
            restarts: Vec::new(),
            since_restart: 0,
            last_user: Vec::new(),
            last_seqno: SeqNo(0),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.restarts.is_empty()
    }

    /// Bytes that the block would have if finished now.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + (self.restarts.len() + 1) * 4
    }

    /// The last key added; of no meaning while empty.
    pub(crate) fn last(&self) -> KeyRef<'_> {
        KeyRef::new(&self.last_user, self.last_seqno)
    }

    /// Adds an entry behind all before it.
    pub(crate) fn add(&mut self, key: KeyRef<'_>, kind: VersionKind, value: &[u8]) {
        debug_assert!(
            self.is_empty() || self.last() < key,
            "entries come in order"
        );
        let restart = self.is_empty() || self.since_restart == self.interval;
        let (shared, seqno) = if restart {
            self.restarts.push(self.bytes.len() as u32);
            self.since_restart = 0;
            (0, key.seqno.0)
        } else {
            let delta = key.seqno.0.wrapping_sub(self.last_seqno.0) as i64;
            (common(&self.last_user, key.user), zigzag(delta))
        };
        self.bytes.push(kind as u8);
        put_varint(&mut self.bytes, shared as u64);
        put_varint(&mut self.bytes, (key.user.len() - shared) as u64);
        put_varint(&mut self.bytes, value.len() as u64);
        put_varint(&mut self.bytes, seqno);
        self.bytes.extend_from_slice(&key.user[shared..]);
        self.bytes.extend_from_slice(value);
        self.since_restart += 1;
        self.last_user.truncate(shared);
        self.last_user.extend_from_slice(&key.user[shared..]);
        self.last_seqno = key.seqno;
    }

    /// The finished block. Call [`BlockBuilder::clear`] before the next entry.
    pub(crate) fn finish(&mut self) -> &[u8] {
        assert!(!self.is_empty(), "a block has an entry at least (B2)");
        for restart in &self.restarts {
            self.bytes.extend_from_slice(&restart.to_le_bytes());
        }
        let count = self.restarts.len() as u32;
        self.bytes.extend_from_slice(&count.to_le_bytes());
        &self.bytes
    }

    /// Empties it, keeping its memory and its last key.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.restarts.clear();
    }
}

/// Bytes that two keys have in common at their front.
pub(crate) fn common(a: &[u8], b: &[u8]) -> usize {
    let n = a.len().min(b.len());
    let mut at = 0;
    while at + 8 <= n {
        let x = u64::from_le_bytes(a[at..at + 8].try_into().expect("eight bytes"));
        let y = u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        let differ = x ^ y;
        if differ != 0 {
            return at + (differ.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while at < n && a[at] == b[at] {
        at += 1;
    }
    at
}

/// A verified, decompressed block. Clones share its memory.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    bytes: Bytes,
    /// Where the entries end and the restarts begin.
    entries_end: usize,
    restarts: usize,
}

/// An entry's fields as they stand; the key's first `shared` bytes are the previous entry's.
#[derive(Clone, Copy, Debug)]
struct Raw {
    kind: VersionKind,
    shared: usize,
    seqno: u64,
    rest_at: usize,
    value_at: usize,
    end: usize,
}

/// An entry found, as places in the block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit {
    /// Whether its user key is the one looked for (by [`Block::seek`]).
    pub(crate) same_user: bool,
    pub(crate) seqno: SeqNo,
    pub(crate) kind: VersionKind,
    value_at: usize,
    value_end: usize,
}

impl Block {
    pub(crate) fn new(bytes: Bytes) -> Result<Block, Malformed> {
        let count_at = bytes
            .len()
            .checked_sub(4)
            .ok_or("a block without its count")?;
        let restarts = u32_at(&bytes, count_at).ok_or("a block without its count")? as usize;
        let entries_end = restarts
            .checked_mul(4)
            .and_then(|n| count_at.checked_sub(n))
            .ok_or("more restarts than bytes")?;
        if restarts == 0 || entries_end == 0 {
            return Err("a block without entries");
        }
        Ok(Block {
            bytes,
            entries_end,
            restarts,
        })
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }

    #[inline]
    fn restart(&self, n: usize) -> Result<usize, Malformed> {
        let at = u32_at(&self.bytes, self.entries_end + n * 4).ok_or("a restart outside")? as usize;
        if at < self.entries_end {
            Ok(at)
        } else {
            Err("a restart outside the entries")
        }
    }

    /// The fields of the entry at `at`; `seqno` is still a distance unless it is a restart.
    #[inline]
    fn raw(&self, at: usize) -> Result<Raw, Malformed> {
        const CUT: Malformed = "an entry is cut short";
        let bytes = &self.bytes[..self.entries_end];
        let kind = *bytes.get(at).ok_or(CUT)?;
        let kind = VersionKind::from_u8(kind).ok_or("an entry of unknown kind")?;
        let (shared, at) = varint(bytes, at + 1).ok_or(CUT)?;
        let (rest, at) = varint(bytes, at).ok_or(CUT)?;
        let (value, at) = varint(bytes, at).ok_or(CUT)?;
        let (seqno, rest_at) = varint(bytes, at).ok_or(CUT)?;
        let left = (bytes.len() - rest_at) as u64;
        if rest > left || value > left - rest {
            return Err(CUT);
        }
        let value_at = rest_at + rest as usize;
        Ok(Raw {
            kind,
            shared: usize::try_from(shared).map_err(|_| CUT)?,
            seqno,
            rest_at,
            value_at,
            end: value_at + value as usize,
        })
    }

    #[inline]
    fn restart_entry(&self, n: usize) -> Result<Raw, Malformed> {
        let raw = self.raw(self.restart(n)?)?;
        if raw.shared == 0 {
            Ok(raw)
        } else {
            Err("a restart shares its key")
        }
    }

    pub(crate) fn restarts(&self) -> usize {
        self.restarts
    }

    /// The user key of restart `n`.
    pub(crate) fn restart_user(&self, n: usize) -> Result<&[u8], Malformed> {
        let raw = self.restart_entry(n)?;
        Ok(&self.bytes[raw.rest_at..raw.value_at])
    }

    /// The entry of restart `n`.
    pub(crate) fn restart_hit(&self, n: usize) -> Result<Hit, Malformed> {
        let raw = self.restart_entry(n)?;
        Ok(Hit {
            same_user: false,
            seqno: SeqNo(raw.seqno),
            kind: raw.kind,
            value_at: raw.value_at,
            value_end: raw.end,
        })
    }

    /// How many restarts have keys before `target`.
    #[inline]
    fn restarts_before(&self, target: KeyRef<'_>) -> Result<usize, Malformed> {
        self.restarts_before_within(target, 0, self.restarts)
    }

    /// As much, where it is known to be within `low..=high`.
    #[inline]
    pub(crate) fn restarts_before_within(
        &self,
        target: KeyRef<'_>,
        mut low: usize,
        mut high: usize,
    ) -> Result<usize, Malformed> {
        while low < high {
            let middle = low.midpoint(high);
            let raw = self.restart_entry(middle)?;
            let user = &self.bytes[raw.rest_at..raw.value_at];
            if KeyRef::new(user, SeqNo(raw.seqno)) < target {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The first entry at or behind `target`. Compares without putting keys together: `matched` is how many bytes
    /// of the target's key the entry before, which is smaller, has in common with it.
    pub(crate) fn seek(&self, target: KeyRef<'_>) -> Result<Option<Hit>, Malformed> {
        let before = self.restarts_before(target)?;
        // The interval that begins before the target; behind it stands a restart at or behind the target.
        let mut at = self.restart(before.saturating_sub(1))?;
        let next_restart = if (1..self.restarts).contains(&before) {
            self.restart(before)?
        } else {
            self.entries_end
        };
        let mut seqno = 0_u64;
        let mut matched = 0;
        let mut previous_len = 0;
        let mut at_restart = true;
        while at < self.entries_end {
            let raw = self.raw(at)?;
            if at_restart || at == next_restart {
                at_restart = false;
                seqno = raw.seqno;
                matched = 0;
                previous_len = 0;
            } else {
                seqno = seqno.wrapping_add(unzigzag(raw.seqno) as u64);
            }
            if raw.shared > previous_len {
                return Err("an entry shares more than there is");
            }
            let rest = &self.bytes[raw.rest_at..raw.value_at];
            previous_len = raw.shared + rest.len();
            let hit = |same_user| {
                Some(Hit {
                    same_user,
                    seqno: SeqNo(seqno),
                    kind: raw.kind,
                    value_at: raw.value_at,
                    value_end: raw.end,
                })
            };
            // The entry before is smaller than the target. This one, if it shares more with it than the target does, is smaller
            // for the same reason; if it shares less, it is larger there than it, and so than the target.
            // (Where the entry before has the target's very key, nothing can share more.)
            match raw.shared.cmp(&matched) {
                Ordering::Greater => {}
                Ordering::Less => return Ok(hit(false)),
                Ordering::Equal => {
                    let wanted = &target.user[matched..];
                    let more = common(wanted, rest);
                    matched += more;
                    match wanted.get(more).cmp(&rest.get(more)) {
                        Ordering::Less => return Ok(hit(false)),
                        Ordering::Greater => {}
                        Ordering::Equal if seqno <= target.seqno.0 => return Ok(hit(true)),
                        Ordering::Equal => {}
                    }
                }
            }
            at = raw.end;
        }
        Ok(None)
    }

    pub(crate) fn value(&self, hit: &Hit) -> Bytes {
        self.bytes.slice(hit.value_at..hit.value_end)
    }

    pub(crate) fn value_ref(&self, hit: &Hit) -> &[u8] {
        &self.bytes[hit.value_at..hit.value_end]
    }
}

/// Walks a block, both ways. The key is put together in a buffer that is used again.
#[derive(Debug)]
pub(crate) struct BlockCursor {
    block: Block,
    /// The interval that the entry is in.
    interval: usize,
    entry: Option<Entry>,
    key: Vec<u8>,
    /// Entries of the interval before the one stood on, for walking back; their keys in `back_keys`.
    back: Vec<(Entry, usize)>,
    back_keys: Vec<u8>,
}

/// An entry of a cursor, but for its key.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: usize,
    kind: VersionKind,
    seqno: u64,
    value_at: usize,
    end: usize,
}

impl BlockCursor {
    pub(crate) fn new(block: Block) -> Self {
        Self {
            block,
            interval: 0,
            entry: None,
            key: Vec::new(),
            back: Vec::new(),
            back_keys: Vec::new(),
        }
    }

    /// Stands on no entry of another block, with the same buffers.
    pub(crate) fn set_block(&mut self, block: Block) {
        self.block = block;
        self.entry = None;
        self.back.clear();
    }

    pub(crate) fn valid(&self) -> bool {
        self.entry.is_some()
    }

    pub(crate) fn reset(&mut self) {
        self.entry = None;
    }

    fn entry(&self) -> &Entry {
        self.entry.as_ref().expect("the cursor stands on an entry")
    }

    #[inline]
    pub(crate) fn key(&self) -> KeyRef<'_> {
        KeyRef::new(&self.key, SeqNo(self.entry().seqno))
    }

    pub(crate) fn kind(&self) -> VersionKind {
        self.entry().kind
    }

    pub(crate) fn value(&self) -> Bytes {
        let entry = self.entry();
        self.block.bytes.slice(entry.value_at..entry.end)
    }

    pub(crate) fn value_ref(&self) -> &[u8] {
        let entry = self.entry();
        &self.block.bytes[entry.value_at..entry.end]
    }

    pub(crate) fn seek_to_first(&mut self) -> Result<(), Malformed> {
        self.go_to_restart(0)
    }

    pub(crate) fn seek_to_last(&mut self) -> Result<(), Malformed> {
        self.go_to_restart(self.block.restarts - 1)?;
        self.walk_to(self.block.entries_end)
    }

    pub(crate) fn seek(&mut self, target: KeyRef<'_>) -> Result<(), Malformed> {
        self.entry = None;
        let before = self.block.restarts_before(target)?;
        self.go_to_restart(before.saturating_sub(1))?;
        while self.valid() && self.key() < target {
            self.next()?;
        }
        Ok(())
    }

    /// To restart `n`, or to no entry when there are not so many.
    pub(crate) fn seek_to_restart(&mut self, n: usize) -> Result<(), Malformed> {
        if n == self.block.restarts {
            self.entry = None;
            return Ok(());
        }
        self.go_to_restart(n)
    }

    pub(crate) fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<(), Malformed> {
        self.seek(target)?;
        if !self.valid() {
            self.seek_to_last()
        } else if self.key() == target {
            Ok(())
        } else {
            self.prev()
        }
    }

    pub(crate) fn next(&mut self) -> Result<(), Malformed> {
        self.back.clear();
        let entry = self.entry.take().expect("the cursor stands on an entry");
        if entry.end == self.block.entries_end {
            return Ok(());
        }
        if self.interval + 1 < self.block.restarts
            && self.block.restart(self.interval + 1)? == entry.end
        {
            return self.go_to_restart(self.interval + 1);
        }
        self.follow(entry)
    }

    pub(crate) fn prev(&mut self) -> Result<(), Malformed> {
        if self.back.is_empty() {
            let at = self.entry.take().expect("the cursor stands on an entry").at;
            let mut interval = self.interval;
            if self.block.restart(interval)? == at {
                if interval == 0 {
                    return Ok(());
                }
                interval -= 1;
            }
            self.go_to_restart(interval)?;
            return self.walk_to(at);
        }
        let (entry, key_len) = self.back.pop().expect("not empty");
        let key_at = self.back_keys.len() - key_len;
        self.key.clear();
        self.key.extend_from_slice(&self.back_keys[key_at..]);
        self.back_keys.truncate(key_at);
        self.entry = Some(entry);
        Ok(())
    }

    /// To the entry that ends at `end`, from one before it in the interval; remembers those between.
    fn walk_to(&mut self, end: usize) -> Result<(), Malformed> {
        self.back.clear();
        self.back_keys.clear();
        while let Some(entry) = self.entry {
            if entry.end == end {
                return Ok(());
            }
            if entry.end > end {
                break;
            }
            self.back.push((entry, self.key.len()));
            self.back_keys.extend_from_slice(&self.key);
            self.entry = None;
            self.follow(entry)?;
        }
        self.entry = None;
        self.back.clear();
        Err("entries and restarts do not fit")
    }

    fn go_to_restart(&mut self, n: usize) -> Result<(), Malformed> {
        self.back.clear();
        self.entry = None;
        let at = self.block.restart(n)?;
        let raw = self.block.restart_entry(n)?;
        self.interval = n;
        self.key.clear();
        self.key
            .extend_from_slice(&self.block.bytes[raw.rest_at..raw.value_at]);
        self.entry = Some(Entry {
            at,
            kind: raw.kind,
            seqno: raw.seqno,
            value_at: raw.value_at,
            end: raw.end,
        });
        Ok(())
    }

    /// To the entry behind `before`, which is no restart, of the same interval; the key is still that of `before`.
    #[inline]
    fn follow(&mut self, before: Entry) -> Result<(), Malformed> {
        let at = before.end;
        let raw = self.block.raw(at)?;
        if raw.shared > self.key.len() {
            return Err("an entry shares more than there is");
        }
        self.key.truncate(raw.shared);
        self.key
            .extend_from_slice(&self.block.bytes[raw.rest_at..raw.value_at]);
        self.entry = Some(Entry {
            at,
            kind: raw.kind,
            seqno: before.seqno.wrapping_add(unzigzag(raw.seqno) as u64),
            value_at: raw.value_at,
            end: raw.end,
        });
        Ok(())
    }
}
