//! The memtable: the newest writes, sorted, in memory.
//!
//! Points live in a [`SkipList`] in the order of [`KeyRef`], with an index by hash; range tombstones in a list of their own
//! that costs a lookup one load when it is empty.
//!
//! - M1: a memtable owns the LSNs `start..end`: exactly the frames there are inserted into it. `end` is
//!   [`Lsn::MAX`] until the memtable is frozen, inside `Log::at_boundary`, so no frame is split and none is
//!   without an owner.
//! - M2: inserts go on after it is frozen, by those who reserved their LSN before. It is complete when `visible`
//!   has reached its `end`; only then it is flushed.
//! - M3: nothing is removed or changed. A reader at a SeqNo below `visible` sees the same for ever (L1).
//! - M4: `bytes` is what the list's arena and index take, and what long values and range tombstones take beside them; it
//!   grows only.

use crate::SeqNo;
use crate::batch::{BatchReader, Op};
use crate::iter::{Cursor, GrowingRanges, RangeTombstone};
use crate::table::{KeyRef, TableError, VersionKind};
use bytes::Bytes;
use esker_sync::skiplist::{self, Chunks, ENTRY_BYTES, SkipList, Value, ValueRef};
use esker_sync::span::Span;
use esker_wal::Lsn;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};
use xxhash_rust::xxh3::xxh3_64;

/// From this length on a value is an allocation of its own, which readers share; a shorter one is copied into the
/// arena, and out of it again for who wants to keep it.
const LARGE_BYTES: usize = 2 << 10;
const _: () = assert!(LARGE_BYTES <= skiplist::INLINE_MAX);
/// What a long value takes besides its bytes.
const LARGE_OVERHEAD: usize = 64;
/// What a range tombstone takes besides its keys, generously: a list of many is dear to read, so a memtable
/// with many of them fills up sooner.
const RANGE_OVERHEAD: usize = 1024;
/// Bytes of a memtable per key that its index is made for.
const BYTES_PER_KEY: usize = 256;

/// Hash of a key, for the index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHash(u64);

impl KeyHash {
    #[inline]
    pub(crate) fn of(key: &[u8]) -> KeyHash {
        KeyHash(xxh3_64(key))
    }
}

/// The newest writes. See the module.
pub(crate) struct MemTable {
    span: Span,
    list: Arc<SkipList<Bytes>>,
    /// Bytes beside the list.
    beside: AtomicUsize,
    ranges: GrowingRanges,
}

/// What a memtable or a table says about a key: its newest version there, or the tombstone over it.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    /// The value; `None` when a tombstone decided.
    pub value: Option<Bytes>,
    /// What decided.
    pub seqno: SeqNo,
}

impl Hit {
    /// Decides between the newest point version and the newest range tombstone over the key.
    pub(crate) fn decide(
        point: Option<(SeqNo, VersionKind, Bytes)>,
        range: Option<SeqNo>,
    ) -> Option<Hit> {
        match (point, range) {
            (Some((seqno, _, _)), Some(over)) if over > seqno => Some(Hit {
                value: None,
                seqno: over,
            }),
            (Some((seqno, VersionKind::Put, value)), _) => Some(Hit {
                value: Some(value),
                seqno,
            }),
            (Some((seqno, VersionKind::Delete, _)), _) => Some(Hit { value: None, seqno }),
            (None, Some(over)) => Some(Hit {
                value: None,
                seqno: over,
            }),
            (None, None) => None,
        }
    }
}

impl fmt::Debug for MemTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemTable")
            .field("start", &self.start())
            .field("end", &self.end())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// The memory of a memtable to come.
pub(crate) struct Blank(Arc<SkipList<Bytes>>);

impl Blank {
    /// For a memtable of `bytes`, in the memory of earlier ones where there is some.
    pub(crate) fn new(bytes: usize, chunks: &Arc<Chunks>) -> Blank {
        Blank(Arc::new(SkipList::reusing(chunks, bytes / BYTES_PER_KEY)))
    }

    /// The memtable that owns the LSNs from `start` on.
    pub(crate) fn starting(self, start: Lsn) -> MemTable {
        MemTable {
            span: Span::from(start.0),
            list: self.0,
            beside: AtomicUsize::new(0),
            ranges: GrowingRanges::default(),
        }
    }
}

fn kind_of(found: u8) -> VersionKind {
    VersionKind::from_u8(found).expect("only kinds are inserted")
}

fn bytes_of(value: &ValueRef<'_, Bytes>) -> Bytes {
    match value {
        ValueRef::Inline(bytes) => Bytes::copy_from_slice(bytes),
        ValueRef::Large(bytes) => Bytes::clone(bytes),
    }
}

impl MemTable {
    /// First LSN owned.
    pub(crate) fn start(&self) -> Lsn {
        Lsn(self.span.start())
    }

    /// Behind the last LSN owned; [`Lsn::MAX`] until frozen.
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.span.end())
    }

    /// Owns nothing from `end` on (M1).
    pub(crate) fn freeze(&self, end: Lsn) {
        self.span.freeze(end.0);
    }

    /// Bytes of memory (M4).
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.list.bytes() + self.beside.load(Atomic::Relaxed)
    }

    /// Keys that have a point version.
    pub(crate) fn keys(&self) -> u64 {
        self.list.keys() as u64
    }

    /// Holds neither a version nor a range tombstone.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.ranges.is_empty()
    }

    /// What the insert of a payload of `len` bytes may add to `bytes`, about.
    pub(crate) fn cost(payload_len: usize, ops: usize) -> usize {
        payload_len + ops * ENTRY_BYTES
    }

    /// Inserts the operations of the frame at `lsn` (B1). By many threads at once.
    pub(crate) fn insert(&self, lsn: Lsn, ops: BatchReader<'_>) {
        debug_assert!(self.span.owns(lsn.0));
        for (i, op) in ops.enumerate() {
            let seqno = SeqNo(lsn.0 + i as u64);
            let (key, kind, value) = match op {
                Op::Put { key, value } => (key, VersionKind::Put, value),
                Op::Delete { key } => (key, VersionKind::Delete, &[][..]),
                Op::DeleteRange { start, end } => {
                    self.count_beside(start.len() + end.len() + RANGE_OVERHEAD);
                    self.ranges.push(RangeTombstone {
                        start: Bytes::copy_from_slice(start),
                        end: Bytes::copy_from_slice(end),
                        seqno,
                    });
                    continue;
                }
            };
            let value = if value.len() < LARGE_BYTES {
                Value::Inline(value)
            } else {
                self.count_beside(value.len() + LARGE_OVERHEAD);
                Value::Large(Bytes::copy_from_slice(value))
            };
            let KeyHash(hash) = KeyHash::of(key);
            self.list.insert(key, hash, seqno.0, kind as u8, value);
        }
    }

    /// Asks for the first memory that a lookup or an insert of the key will read.
    #[inline]
    pub(crate) fn prefetch(&self, hash: KeyHash) {
        self.list.prefetch_bucket(hash.0);
    }

    /// As `prefetch`, once that has come: asks for what is read next.
    #[inline]
    pub(crate) fn prefetch_more(&self, hash: KeyHash) {
        self.list.prefetch_node(hash.0);
    }

    fn count_beside(&self, bytes: usize) {
        self.beside.fetch_add(bytes, Atomic::Relaxed);
    }

    /// What it says about `key`, whose hash is `hash`, to a reader at `at` (inclusive).
    #[inline]
    pub(crate) fn get(&self, key: &[u8], hash: KeyHash, at: SeqNo) -> Option<Hit> {
        let range = self.ranges.covering(key, at);
        let found = self.list.get(key, hash.0, at.0);
        let point = found.map(|found| {
            let seqno = SeqNo(found.seqno);
            (seqno, kind_of(found.kind), bytes_of(&found.value))
        });
        Hit::decide(point, range)
    }

    /// Its range tombstones.
    pub(crate) fn ranges(&self) -> &GrowingRanges {
        &self.ranges
    }

    /// A cursor over its point versions.
    pub(crate) fn cursor(self: &Arc<Self>) -> MemCursor {
        MemCursor {
            at: skiplist::Cursor::new(self.list.clone()),
            mem: self.clone(),
        }
    }
}

/// Walks a memtable's versions. What is inserted while it walks may be met or missed; it is newer than any snapshot
/// that the cursor serves.
pub(crate) struct MemCursor {
    at: skiplist::Cursor<Bytes>,
    mem: Arc<MemTable>,
}

const ON_NONE: &str = "stands on an entry";

impl Cursor for MemCursor {
    fn valid(&self) -> bool {
        self.at.valid()
    }
    fn key(&self) -> KeyRef<'_> {
        let (user, seqno) = (self.at.key(), self.at.seqno());
        KeyRef::new(user.expect(ON_NONE), SeqNo(seqno.expect(ON_NONE)))
    }
    fn kind(&self) -> VersionKind {
        kind_of(self.at.entry().expect(ON_NONE).kind)
    }
    fn value(&self) -> Bytes {
        bytes_of(&self.at.entry().expect(ON_NONE).value)
    }
    fn value_ref(&self) -> &[u8] {
        match self.at.entry().expect(ON_NONE).value {
            ValueRef::Inline(bytes) => bytes,
            ValueRef::Large(bytes) => bytes,
        }
    }
    fn newest(&self) -> SeqNo {
        match self.mem.end() {
            Lsn::MAX => SeqNo::MAX,
            end => SeqNo(end.0.saturating_sub(1)),
        }
    }
    fn reset(&mut self) {
        self.at.reset();
    }
    fn seek_to_first(&mut self) -> Result<(), TableError> {
        self.at.seek_to_first();
        Ok(())
    }
    fn seek_to_last(&mut self) -> Result<(), TableError> {
        self.at.seek_to_last();
        Ok(())
    }
    fn seek(&mut self, target: KeyRef<'_>) -> Result<(), TableError> {
        self.at.seek(target.user, target.seqno.0);
        Ok(())
    }
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<(), TableError> {
        self.at.seek_for_prev(target.user, target.seqno.0);
        Ok(())
    }
    fn next(&mut self) -> Result<(), TableError> {
        self.at.next();
        Ok(())
    }
    fn next_wanting_no_older(&mut self) -> Result<(), TableError> {
        self.at.next_key();
        Ok(())
    }
    fn prev(&mut self) -> Result<(), TableError> {
        self.at.prev();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WriteBatch;
    use std::collections::BTreeSet;
    use std::ops::Bound;

    fn put(mem: &MemTable, lsn: u64, key: &[u8]) {
        let mut batch = WriteBatch::new();
        batch.put(key, &lsn.to_le_bytes());
        mem.insert(Lsn(lsn), BatchReader::trusted(&batch));
    }

    #[test]
    fn keys_stand_in_bytewise_order_whatever_their_length() {
        let keys: Vec<&[u8]> = vec![
            b"",
            b"\0",
            b"\0\0",
            b"a",
            b"a\0",
            b"a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"key:000000000001",
            b"key:0000000000010",
            b"key:000000000001a",
            b"key:000000000002",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        let mem = Arc::new(Blank::new(1 << 16, &Chunks::keeping(0)).starting(Lsn(0)));
        for (i, key) in keys.iter().rev().enumerate() {
            put(&mem, 8 * (1 + i as u64), key);
            put(&mem, 8 * (101 + i as u64), key);
        }
        let want: Vec<_> = keys
            .iter()
            .copied()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let mut cursor = mem.cursor();
        cursor.seek_to_first().unwrap();
        let mut got: Vec<Vec<u8>> = Vec::new();
        while cursor.valid() {
            let KeyRef { user, seqno } = cursor.key();
            if seqno.0 >= 800 {
                got.push(user.to_vec());
            } else {
                assert_eq!(got.last().unwrap(), user, "the newer version comes first");
            }
            cursor.next().unwrap();
        }
        assert_eq!(got, want);
        cursor.seek_to_last().unwrap();
        for key in want.iter().rev() {
            assert_eq!(cursor.key().user, *key);
            cursor.prev().unwrap();
            cursor.prev().unwrap();
        }
        assert!(!cursor.valid());
        for key in &keys {
            assert!(mem.get(key, KeyHash::of(key), SeqNo::MAX).unwrap().seqno.0 >= 800);
            assert!(mem.get(key, KeyHash::of(key), SeqNo(799)).unwrap().seqno.0 < 800);
            assert!(mem.get(key, KeyHash::of(key), SeqNo(7)).is_none());
        }
        assert!(
            mem.get(
                b"key:00000000000",
                KeyHash::of(b"key:00000000000"),
                SeqNo::MAX
            )
            .is_none()
        );
    }

    #[test]
    fn a_range_tombstone_is_seen_by_the_next_lookup() {
        let mem = Blank::new(1 << 16, &Chunks::keeping(0)).starting(Lsn(0));
        for round in 0..20u64 {
            put(&mem, 100 * round + 8, b"k");
            assert!(
                mem.get(b"k", KeyHash::of(b"k"), SeqNo::MAX)
                    .unwrap()
                    .value
                    .is_some()
            );
            let mut batch = WriteBatch::new();
            batch.delete_range(b"a", Bound::Excluded(b"z"));
            mem.insert(Lsn(100 * round + 48), BatchReader::trusted(&batch));
            let hit = mem.get(b"k", KeyHash::of(b"k"), SeqNo::MAX).unwrap();
            assert_eq!((hit.value, hit.seqno), (None, SeqNo(100 * round + 48)));
            assert!(
                mem.get(b"k", KeyHash::of(b"k"), SeqNo(100 * round + 20))
                    .unwrap()
                    .value
                    .is_some()
            );
        }
        assert!(!mem.is_empty());
        assert_eq!(mem.keys(), 1);
        assert!(mem.bytes() > 20 * RANGE_OVERHEAD);
    }

    #[test]
    fn inserts_by_many_threads_are_all_there() {
        let mem = Arc::new(Blank::new(1 << 16, &Chunks::keeping(0)).starting(Lsn(0)));
        std::thread::scope(|scope| {
            for t in 0..4u64 {
                let mem = &mem;
                scope.spawn(move || {
                    for i in 0..500u64 {
                        put(
                            mem,
                            8 * (1 + i * 4 + t),
                            format!("{:03}", i % 100).as_bytes(),
                        );
                    }
                });
            }
        });
        let mut cursor = mem.cursor();
        cursor.seek_to_first().unwrap();
        let mut n = 0;
        while cursor.valid() {
            n += 1;
            cursor.next().unwrap();
        }
        assert_eq!((n, mem.keys()), (2000, 100));
    }
}
