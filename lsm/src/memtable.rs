//! The memtable: the newest writes, sorted, in memory.
//!
//! Points live in a concurrent skip list in the order of [`KeyRef`], the newest version of each key in a hash index beside
//! it; range tombstones in a list of their own that
//! costs a lookup one load when it is empty.
//!
//! - M1: a memtable owns the LSNs `start..end`: exactly the frames there are inserted into it. `end` is
//!   [`Lsn::MAX`] until the memtable is frozen, inside `Log::at_boundary`, so no frame is split and none is
//!   without an owner.
//! - M2: inserts go on after it is frozen, by those who reserved their LSN before. It is complete when `visible`
//!   has reached its `end`; only then it is flushed.
//! - M3: nothing is removed or changed. A reader at a SeqNo below `visible` sees the same for ever (L1).
//! - M4: `bytes` counts keys, values and an allowance per entry; it grows only.

use crate::SeqNo;
use crate::batch::{BatchReader, Op};
use crate::iter::{Cursor, GrowingRanges, RangeTombstone};
use crate::newest::{KeyHash, Known, Newest};
use crate::table::{KeyRef, TableError, VersionKind};
use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use esker_wal::Lsn;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering as Atomic};

/// Bytes of a key that stand in the node itself: most comparisons need no more.
const INLINE: usize = 16;
/// What an entry takes besides its key and value: node, tower, slot of the index, allocations.
const ENTRY_OVERHEAD: usize = 256;
/// What a range tombstone takes besides its keys, generously: a list of many is dear to read, so a memtable
/// with many of them fills up sooner.
const RANGE_OVERHEAD: usize = 1024;

fn prefix(user: &[u8]) -> u128 {
    let mut bytes = [0; INLINE];
    let n = user.len().min(INLINE);
    bytes[..n].copy_from_slice(&user[..n]);
    u128::from_be_bytes(bytes)
}

/// A key in the map, with its value behind it in one allocation.
struct Node {
    prefix: u128,
    seqno: SeqNo,
    key_len: u32,
    kind: VersionKind,
    data: Bytes,
}

impl Node {
    fn new(user: &[u8], seqno: SeqNo, kind: VersionKind, value: &[u8]) -> Node {
        let mut data = Vec::with_capacity(user.len() + value.len());
        data.extend_from_slice(user);
        data.extend_from_slice(value);
        Node {
            prefix: prefix(user),
            seqno,
            key_len: user.len() as u32,
            kind,
            data: Bytes::from(data),
        }
    }
    fn user(&self) -> &[u8] {
        &self.data[..self.key_len as usize]
    }
    fn probe(&self) -> Probe<'_> {
        Probe {
            prefix: self.prefix,
            user: self.user(),
            seqno: self.seqno,
        }
    }
}

/// What the map compares: a [`Node`]'s key, or one that is looked for.
#[derive(Clone, Copy)]
struct Probe<'a> {
    prefix: u128,
    user: &'a [u8],
    seqno: SeqNo,
}

impl<'a> Probe<'a> {
    fn new(key: KeyRef<'a>) -> Probe<'a> {
        Probe {
            prefix: prefix(key.user),
            user: key.user,
            seqno: key.seqno,
        }
    }

    #[inline]
    fn order(&self, other: &Probe<'_>) -> Ordering {
        // Padded prefixes that differ decide. Equal ones: the longer key has the other as its beginning, or
        // zeros where the other ends; both times the rest, then the length, decide.
        self.prefix
            .cmp(&other.prefix)
            .then_with(|| {
                if self.user.len() <= INLINE && other.user.len() <= INLINE {
                    return self.user.len().cmp(&other.user.len());
                }
                self.user.cmp(other.user)
            })
            .then_with(|| other.seqno.cmp(&self.seqno))
    }
}

/// Lets the map be searched by a borrowed key.
trait Probed {
    fn probed(&self) -> Probe<'_>;
}
impl Probed for Node {
    fn probed(&self) -> Probe<'_> {
        self.probe()
    }
}
impl Probed for Probe<'_> {
    fn probed(&self) -> Probe<'_> {
        *self
    }
}
impl<'a> Borrow<dyn Probed + 'a> for Node {
    fn borrow(&self) -> &(dyn Probed + 'a) {
        self
    }
}
impl PartialEq for dyn Probed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for dyn Probed + '_ {}
impl PartialOrd for dyn Probed + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for dyn Probed + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.probed().order(&other.probed())
    }
}
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Node {}
impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Node {
    fn cmp(&self, other: &Self) -> Ordering {
        self.probe().order(&other.probe())
    }
}

/// The newest writes. See the module.
pub(crate) struct MemTable {
    start: Lsn,
    end: AtomicU64,
    map: SkipMap<Node, ()>,
    newest: Newest,
    bytes: AtomicUsize,
    entries: AtomicU64,
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
            .field("start", &self.start)
            .field("end", &self.end())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl MemTable {
    /// Owns the LSNs from `start` on.
    pub(crate) fn new(start: Lsn) -> MemTable {
        MemTable {
            start,
            end: AtomicU64::new(u64::MAX),
            map: SkipMap::new(),
            newest: Newest::new(),
            bytes: AtomicUsize::new(0),
            entries: AtomicU64::new(0),
            ranges: GrowingRanges::default(),
        }
    }

    /// First LSN owned.
    pub(crate) fn start(&self) -> Lsn {
        self.start
    }

    /// Behind the last LSN owned; [`Lsn::MAX`] until frozen.
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.end.load(Atomic::Acquire))
    }

    /// Owns nothing from `end` on (M1).
    pub(crate) fn freeze(&self, end: Lsn) {
        self.end.store(end.0, Atomic::Release);
    }

    /// Bytes of memory, about (M4).
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Atomic::Relaxed)
    }

    /// Point versions.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Atomic::Relaxed)
    }

    /// Holds neither a version nor a range tombstone.
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty() && self.ranges.is_empty()
    }

    /// What the insert of a payload of `len` bytes may add to `bytes`, about.
    pub(crate) fn cost(payload_len: usize, ops: usize) -> usize {
        payload_len + ops * ENTRY_OVERHEAD
    }

    /// Inserts the operations of the frame at `lsn` (B1). By many threads at once.
    pub(crate) fn insert(&self, lsn: Lsn, ops: BatchReader<'_>) {
        debug_assert!(lsn >= self.start && lsn < self.end());
        let mut bytes = 0;
        let mut entries = 0;
        for (i, op) in ops.enumerate() {
            let seqno = SeqNo(lsn.0 + i as u64);
            let (key, kind, value) = match op {
                Op::Put { key, value } => (key, VersionKind::Put, value),
                Op::Delete { key } => (key, VersionKind::Delete, &[][..]),
                Op::DeleteRange { start, end } => {
                    bytes += start.len() + end.len() + RANGE_OVERHEAD;
                    self.ranges.push(RangeTombstone {
                        start: Bytes::copy_from_slice(start),
                        end: Bytes::copy_from_slice(end),
                        seqno,
                    });
                    continue;
                }
            };
            bytes += key.len() + value.len() + ENTRY_OVERHEAD;
            entries += 1;
            let node = Node::new(key, seqno, kind, value);
            let data = node.data.clone();
            self.map.insert(node, ());
            let hash = KeyHash::of(key);
            self.newest.put(hash, seqno, kind, key.len() as u32, data);
        }
        self.bytes.fetch_add(bytes, Atomic::Relaxed);
        self.entries.fetch_add(entries, Atomic::Relaxed);
    }

    /// What it says about `key`, whose hash is `hash`, to a reader at `at` (inclusive).
    #[inline]
    pub(crate) fn get(&self, key: &[u8], hash: KeyHash, at: SeqNo) -> Option<Hit> {
        let point = match self.newest.get(hash, key, at) {
            Known::Nothing => None,
            Known::Version(seqno, kind, value) => Some((seqno, kind, value)),
            Known::Newer => self.search(key, at),
        };
        Hit::decide(point, self.ranges.covering(key, at))
    }

    /// The newest point version of `key` at or below `at`, from the skip list.
    fn search(&self, key: &[u8], at: SeqNo) -> Option<(SeqNo, VersionKind, Bytes)> {
        let probe = Probe::new(KeyRef::new(key, at));
        let bound: &dyn Probed = &probe;
        let entry = self.map.lower_bound(std::ops::Bound::Included(bound))?;
        let node = entry.key();
        (node.prefix == probe.prefix && node.user() == key).then(|| {
            let value = node.data.slice(node.key_len as usize..);
            (node.seqno, node.kind, value)
        })
    }

    /// Its range tombstones.
    pub(crate) fn ranges(&self) -> &GrowingRanges {
        &self.ranges
    }

    /// A cursor over its point versions.
    pub(crate) fn cursor(self: &Arc<Self>) -> MemCursor {
        MemCursor {
            mem: self.clone(),
            run: Vec::new(),
            at: 0,
            want: RUN_MIN,
        }
    }
}

const RUN_MIN: usize = 4;
const RUN_MAX: usize = 256;

/// Walks a memtable's versions. It copies handles of a run of entries at a time, and seeks once per run: a cursor
/// that owns its memtable can't hold a place in the map without unsafe code, and a seek per step would cost more.
///
/// Entries inserted behind its back may be missed within a run; they are newer than any snapshot it serves.
pub(crate) struct MemCursor {
    mem: Arc<MemTable>,
    /// Ascending, whichever way it was filled.
    run: Vec<Item>,
    at: usize,
    /// Length of the next run: doubles as the walk goes on.
    want: usize,
}

struct Item {
    seqno: SeqNo,
    key_len: u32,
    kind: VersionKind,
    data: Bytes,
}

impl Item {
    fn of(node: &Node) -> Item {
        Item {
            seqno: node.seqno,
            key_len: node.key_len,
            kind: node.kind,
            data: node.data.clone(),
        }
    }
    fn key(&self) -> KeyRef<'_> {
        KeyRef::new(&self.data[..self.key_len as usize], self.seqno)
    }
}

impl MemCursor {
    fn fill_forward(&mut self, from: std::ops::Bound<&dyn Probed>) {
        let run = &mut self.run;
        run.clear();
        self.at = 0;
        let mut entry = self.mem.map.lower_bound(from);
        while let Some(e) = entry {
            run.push(Item::of(e.key()));
            if run.len() >= self.want {
                break;
            }
            entry = e.next();
        }
    }

    fn fill_backward(&mut self, from: std::ops::Bound<&dyn Probed>) {
        let run = &mut self.run;
        run.clear();
        let mut entry = self.mem.map.upper_bound(from);
        while let Some(e) = entry {
            run.push(Item::of(e.key()));
            if run.len() >= self.want {
                break;
            }
            entry = e.prev();
        }
        run.reverse();
        self.at = run.len().saturating_sub(1);
    }

    fn item(&self) -> &Item {
        &self.run[self.at]
    }

    /// The handle and the length of the entry it stands on, kept over a refill.
    fn here(&self) -> (Bytes, usize, SeqNo) {
        let item = self.item();
        (item.data.clone(), item.key_len as usize, item.seqno)
    }
}

impl Cursor for MemCursor {
    fn valid(&self) -> bool {
        self.at < self.run.len()
    }
    fn key(&self) -> KeyRef<'_> {
        self.item().key()
    }
    fn kind(&self) -> VersionKind {
        self.item().kind
    }
    fn value(&self) -> Bytes {
        let item = self.item();
        item.data.slice(item.key_len as usize..)
    }
    fn value_ref(&self) -> &[u8] {
        let item = self.item();
        &item.data[item.key_len as usize..]
    }
    fn newest(&self) -> SeqNo {
        match self.mem.end() {
            Lsn::MAX => SeqNo::MAX,
            end => SeqNo(end.0.saturating_sub(1)),
        }
    }
    fn reset(&mut self) {
        self.run = Vec::new();
        self.at = 0;
        self.want = RUN_MIN;
    }
    fn seek_to_first(&mut self) -> Result<(), TableError> {
        self.want = RUN_MIN;
        self.fill_forward(std::ops::Bound::Unbounded);
        Ok(())
    }
    fn seek_to_last(&mut self) -> Result<(), TableError> {
        self.want = RUN_MIN;
        self.fill_backward(std::ops::Bound::Unbounded);
        Ok(())
    }
    fn seek(&mut self, target: KeyRef<'_>) -> Result<(), TableError> {
        self.want = RUN_MIN;
        self.fill_forward(std::ops::Bound::Included(&Probe::new(target)));
        Ok(())
    }
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<(), TableError> {
        self.want = RUN_MIN;
        self.fill_backward(std::ops::Bound::Included(&Probe::new(target)));
        Ok(())
    }
    fn next(&mut self) -> Result<(), TableError> {
        if self.at + 1 < self.run.len() {
            self.at += 1;
            return Ok(());
        }
        let (data, len, seqno) = self.here();
        self.want = (self.want * 2).min(RUN_MAX);
        let probe = Probe::new(KeyRef::new(&data[..len], seqno));
        self.fill_forward(std::ops::Bound::Excluded(&probe));
        Ok(())
    }
    fn prev(&mut self) -> Result<(), TableError> {
        if self.at > 0 {
            self.at -= 1;
            return Ok(());
        }
        let (data, len, seqno) = self.here();
        self.want = (self.want * 2).min(RUN_MAX);
        let probe = Probe::new(KeyRef::new(&data[..len], seqno));
        self.fill_backward(std::ops::Bound::Excluded(&probe));
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
        let mem = Arc::new(MemTable::new(Lsn(0)));
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
        let mem = MemTable::new(Lsn(0));
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
        assert_eq!(mem.entries(), 20);
        assert!(mem.bytes() > 20 * RANGE_OVERHEAD);
    }

    #[test]
    fn inserts_by_many_threads_are_all_there() {
        let mem = Arc::new(MemTable::new(Lsn(0)));
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
        assert_eq!((n, mem.entries()), (2000, 2000));
    }
}
