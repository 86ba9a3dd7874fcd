//! Reads against a model: lookups and scans from both ends, at snapshots old and new, held while flush and compaction
//! change everything below them, over range tombstones, and after reopening.
//!
//! `ESKER_SEEDS=2000 cargo test -p esker-lsm --test scan_model`; `ESKER_SEED=17` replays one.
#![expect(clippy::print_stderr, reason = "a failing test says how to repeat it")]

use esker_lsm::{Scan, Snapshot, Store, StoreError, StoreOptions, WriteBatch};
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, Fault, SimMedia, SimRng};
use esker_wal::{Create, LogId, Lsn, NodeId, Workers};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// What a reader sees: value and SeqNo by key. Shared by the snapshots of one moment.
type State = Rc<BTreeMap<Vec<u8>, (Vec<u8>, u64)>>;
type Entry = (Vec<u8>, (Vec<u8>, u64));

#[derive(Debug)]
enum Op {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Bound<Vec<u8>>),
}

struct HeldScan {
    scan: Scan,
    /// What it has still to give.
    left: VecDeque<Entry>,
}

struct World {
    rng: SimRng,
    options: StoreOptions,
    store: Store,
    now: State,
    /// The newest SeqNo that said something about a key, tombstones too: by key, and by range.
    decided: BTreeMap<Vec<u8>, u64>,
    ranges: Vec<(Vec<u8>, Bound<Vec<u8>>, u64)>,
    snapshots: Vec<(Snapshot, State)>,
    scans: Vec<HeldScan>,
    /// States at the positions from the safe one on.
    kept: Vec<(Lsn, State)>,
    /// From here on a snapshot must not be refused. Before a safe position is given, passes keep what is visible only.
    sure: Option<Lsn>,
}

fn open(options: &StoreOptions) -> Store {
    Store::open(Path::new("data"), options.clone())
        .expect("opens")
        .0
}

fn inside(key: &[u8], low: &Bound<Vec<u8>>, high: &Bound<Vec<u8>>) -> bool {
    let above = match low {
        Bound::Included(low) => key >= &low[..],
        Bound::Excluded(low) => key > &low[..],
        Bound::Unbounded => true,
    };
    let below = match high {
        Bound::Included(high) => key <= &high[..],
        Bound::Excluded(high) => key < &high[..],
        Bound::Unbounded => true,
    };
    above && below
}

fn borrowed(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(|k| &k[..])
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = SimRng::new(seed);
        let media = SimMedia::new(rng.next_u64());
        let mut options = StoreOptions {
            memtable_bytes: [4 << 10, 16 << 10][rng.below(2) as usize],
            memtables_max: 2,
            block_bytes: [64, 256, 4096][rng.below(3) as usize],
            cache_bytes: [0, 4 << 10, 1 << 20][rng.below(3) as usize],
            table_bytes: [1 << 10, 2 << 10, 64 << 10][rng.below(3) as usize],
            bloom_bits_per_key: [0, 10][rng.below(2) as usize],
            l0_tables: (2, 4, 8),
            level_base_bytes: [500, 2 << 10, 64 << 10][rng.below(3) as usize],
            ..StoreOptions::default()
        };
        options.log.create = Some(Create {
            log: LogId(7),
            node: NodeId(9),
            base: Lsn::ZERO,
        });
        options.log.segment_bytes = 32 << 10;
        options.log.segments_ahead = 1;
        options.log.workers = Workers::Stepped;
        options.log.media = Arc::new(media);
        options.log.clock = Arc::new(ManualClock::default());
        World {
            rng,
            store: open(&options),
            options,
            now: State::default(),
            decided: BTreeMap::new(),
            ranges: vec![],
            snapshots: vec![],
            scans: vec![],
            kept: vec![],
            sure: None,
        }
    }

    fn below(&mut self, n: usize) -> usize {
        self.rng.below(n as u64) as usize
    }

    fn key(&mut self) -> Vec<u8> {
        match self.below(10) {
            0 => vec![],
            1 => vec![0xff; self.below(3)],
            2 => {
                let mut key = b"a long front that many keys have ".to_vec();
                key.push(self.below(8) as u8);
                key
            }
            _ => format!("k{:02}", self.below(60)).into_bytes(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let len = if self.below(30) == 0 {
            2000
        } else {
            self.below(40)
        };
        let byte = self.below(256) as u8;
        (0..len).map(|n| byte.wrapping_mul(n as u8)).collect()
    }

    fn bound(&mut self) -> Bound<Vec<u8>> {
        match self.below(4) {
            0 => Bound::Included(self.key()),
            1 => Bound::Excluded(self.key()),
            _ => Bound::Unbounded,
        }
    }

    fn op(&mut self) -> Op {
        let key = self.key();
        match self.below(20) {
            0..13 => Op::Put(key, self.value()),
            13..18 => Op::Delete(key),
            _ => {
                let end = match self.below(12) {
                    0 => Bound::Unbounded,
                    1..4 => Bound::Included(self.key()),
                    _ => Bound::Excluded(self.key()),
                };
                Op::DeleteRange(key, end)
            }
        }
    }

    fn write(&mut self) {
        let mut batch = WriteBatch::new();
        let mut ops = vec![];
        for _ in 0..1 + self.below(6) {
            let op = self.op();
            let before = batch.len();
            match &op {
                Op::Put(key, value) => batch.put(key, value),
                Op::Delete(key) => batch.delete(key),
                Op::DeleteRange(key, end) => batch.delete_range(key, borrowed(end)),
            }
            // A range over nothing may be left out.
            if batch.len() > before {
                ops.push(op);
            }
        }
        if ops.is_empty() {
            return;
        }
        let written = loop {
            match self.store.write(&batch) {
                Ok(written) => break written,
                Err(StoreError::Busy) => {
                    self.store.step();
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(
            written.last.0 + 1 - written.first.0,
            ops.len() as u64,
            "a SeqNo each"
        );
        let mut now = (*self.now).clone();
        for (seqno, op) in (written.first.0..).zip(ops) {
            match op {
                Op::Put(key, value) => {
                    now.insert(key.clone(), (value, seqno));
                    self.decided.insert(key, seqno);
                }
                Op::Delete(key) => {
                    now.remove(&key);
                    self.decided.insert(key, seqno);
                }
                Op::DeleteRange(key, end) => {
                    let start = Bound::Included(key.clone());
                    now.retain(|k, _| !inside(k, &start, &end));
                    self.ranges.push((key, end, seqno));
                }
            }
        }
        self.now = Rc::new(now);
        assert!(self.store.visible() >= written.end);
        self.kept.push((written.end, self.now.clone()));
    }

    fn check_get(&mut self) {
        let key = self.key();
        let (found, state) = if self.snapshots.is_empty() || self.below(2) == 0 {
            (self.store.get(&key).unwrap(), self.now.clone())
        } else {
            let n = self.below(self.snapshots.len());
            let (snapshot, state) = &self.snapshots[n];
            (self.store.get_at(snapshot, &key).unwrap(), state.clone())
        };
        let expected = state.get(&key);
        assert_eq!(
            found.value.as_deref(),
            expected.map(|e| &e.0[..]),
            "{key:?}"
        );
        match expected {
            Some((_, seqno)) => assert_eq!(found.seqno.0, *seqno),
            None => {
                // The tombstone, or an older one, or nothing, once it was dropped.
                let over = |r: &&(Vec<u8>, Bound<Vec<u8>>, u64)| {
                    inside(&key, &Bound::Included(r.0.clone()), &r.1)
                };
                let range = self.ranges.iter().filter(over).map(|r| r.2).max();
                let newest = range.max(self.decided.get(&key).copied()).unwrap_or(0);
                assert!(found.seqno.0 <= newest, "{key:?}: {found:?} above {newest}");
            }
        }
    }

    fn begin_scan(&mut self) {
        let (snapshot, state) = if self.snapshots.is_empty() || self.below(2) == 0 {
            (self.store.snapshot(), self.now.clone())
        } else {
            let n = self.below(self.snapshots.len());
            self.snapshots[n].clone()
        };
        let (low, high) = (self.bound(), self.bound());
        let scan = self
            .store
            .scan(&snapshot, borrowed(&low), borrowed(&high))
            .unwrap();
        let left = state.iter().filter(|(k, _)| inside(k, &low, &high));
        let left = left.map(|(k, v)| (k.clone(), v.clone())).collect();
        // The scan outlives its snapshot.
        self.scans.push(HeldScan { scan, left });
    }

    fn go_on_scanning(&mut self) {
        if self.scans.is_empty() {
            return;
        }
        let n = self.below(self.scans.len());
        let steps = [3, 10, 1000][self.below(3)];
        let ways = self.below(3);
        for _ in 0..steps {
            let back = match ways {
                0 => false,
                1 => true,
                _ => self.below(2) == 0,
            };
            let held = &mut self.scans[n];
            let (found, expected) = if back {
                (held.scan.next_back(), held.left.pop_back())
            } else {
                (held.scan.next(), held.left.pop_front())
            };
            let found = found.map(|e| entry(e.unwrap()));
            assert_eq!(found, expected, "back: {back}");
            if expected.is_none() {
                self.scans.swap_remove(n);
                return;
            }
        }
    }

    fn step(&mut self) {
        match self.below(100) {
            0..40 => self.write(),
            40..60 => self.check_get(),
            60..65 => {
                self.store.step();
            }
            65..70 if self.scans.len() < 6 => self.begin_scan(),
            70..80 => self.go_on_scanning(),
            80..84 if self.snapshots.len() < 5 => {
                self.snapshots
                    .push((self.store.snapshot(), self.now.clone()));
            }
            84..87 if !self.snapshots.is_empty() => {
                let n = self.below(self.snapshots.len());
                self.snapshots.swap_remove(n);
            }
            87..90 if !self.kept.is_empty() => {
                // The safe position moves; then what lies behind it may go.
                let n = self.below(self.kept.len());
                self.kept.drain(..n);
                let sure = self.sure.unwrap_or(self.store.visible());
                self.sure = Some(sure.max(self.kept[0].0));
                self.store.keep_from(self.kept[0].0);
            }
            90..93 if !self.kept.is_empty() => {
                let n = self.below(self.kept.len());
                let (at, state) = self.kept[n].clone();
                match self.store.snapshot_at(at) {
                    Some(snapshot) => {
                        self.snapshots.push((snapshot, state));
                        if self.snapshots.len() > 5 {
                            self.snapshots.remove(0);
                        }
                    }
                    None => assert!(self.sure.is_none_or(|sure| at < sure), "{at} is refused"),
                }
            }
            93..97 => self.store.flush().unwrap(),
            97..99 => self.store.compact_all().unwrap(),
            99 => self.reopen(),
            _ => {}
        }
    }

    /// Held scans go on after the store under them was closed.
    fn reopen(&mut self) {
        self.snapshots.clear();
        self.kept.clear();
        self.sure = None;
        self.store.close().unwrap();
        self.store = open(&self.options);
    }

    fn check_all(&mut self) {
        let snapshot = self.store.snapshot();
        let scan = || {
            let scan = self
                .store
                .scan(&snapshot, Bound::Unbounded, Bound::Unbounded);
            scan.unwrap()
        };
        let expected: Vec<_> = self
            .now
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let forward: Vec<_> = scan().map(|e| entry(e.unwrap())).collect();
        assert_eq!(forward, expected);
        let mut backward: Vec<_> = scan().rev().map(|e| entry(e.unwrap())).collect();
        backward.reverse();
        assert_eq!(backward, expected);
        for (key, (value, seqno)) in &*self.now {
            let found = self.store.get(key).unwrap();
            let found = (found.value.as_deref(), found.seqno.0);
            assert_eq!(found, (Some(&value[..]), *seqno));
        }
    }
}

fn entry(e: esker_lsm::Entry) -> Entry {
    (e.key.to_vec(), (e.value.to_vec(), e.seqno.0))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn get_and_scan_agree_with_the_model_whatever_flush_and_compaction_do() {
    let seeds = match number("ESKER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ESKER_SEEDS").unwrap_or(40),
    };
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| {
            let mut world = World::new(seed);
            for _ in 0..number("ESKER_STEPS").unwrap_or(600) {
                world.step();
            }
            world.check_all();
            world.store.compact_all().unwrap();
            world.check_all();
            world.reopen();
            world.check_all();
            while !world.scans.is_empty() {
                world.go_on_scanning();
            }
            world.store.close().unwrap();
        });
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed}: ESKER_SEED={seed} replays it");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_compaction_does_not_read_what_a_range_tombstone_covers() {
    let mut world = World::new(1);
    let media = SimMedia::new(1);
    world.options.log.media = Arc::new(media.clone());
    world.options.memtable_bytes = 1 << 20;
    world.options.table_bytes = 1 << 10;
    world.options.cache_bytes = 0;
    world.options.level_base_bytes = 1 << 20;
    let store = open(&world.options);
    let mut batch = WriteBatch::new();
    for part in 0..2 {
        for n in (part..2000_u32).step_by(2) {
            batch.put(&n.to_be_bytes(), &n.wrapping_mul(0x9e37_79b9).to_be_bytes());
        }
        store.write(&batch).unwrap();
        batch.clear();
        store.flush().unwrap();
    }
    store.compact_all().unwrap();
    let tables = store.stats().tables_per_level[1];
    assert!(tables > 20, "{tables}");
    batch.delete_range(
        &10_u32.to_be_bytes(),
        Bound::Excluded(&1990_u32.to_be_bytes()),
    );
    batch.put(&50_u32.to_be_bytes(), b"later");
    store.write(&batch).unwrap();
    store.flush().unwrap();
    media.fail(Fault::nth(20).of(CallKind::Read));
    store.compact_all().unwrap();
    media.heal();
    let snapshot = store.snapshot();
    let scan = store.scan(&snapshot, Bound::Unbounded, Bound::Unbounded);
    let left: Vec<_> = scan.unwrap().map(|e| e.unwrap().key[..].to_vec()).collect();
    let expected = (0..10).chain([50]).chain(1990..2000_u32);
    assert_eq!(
        left,
        expected
            .map(|n| n.to_be_bytes().to_vec())
            .collect::<Vec<_>>()
    );
    store.close().unwrap();
    world.store.close().unwrap();
}

/// Two threads write keys of their own while two others scan: a scan sees batches whole, never goes back, and is the
/// same from both ends and by lookups.
#[test]
fn a_scan_sees_each_batch_whole_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = StoreOptions {
        memtable_bytes: 64 << 10,
        table_bytes: 32 << 10,
        l0_tables: (2, 8, 16),
        level_base_bytes: 64 << 10,
        ..StoreOptions::default()
    };
    options.log.create = Some(Create {
        log: LogId(7),
        node: NodeId(9),
        base: Lsn::ZERO,
    });
    options.log.segment_bytes = 1 << 20;
    options.log.sync_policy = esker_wal::SyncPolicy::Manual;
    let store = Store::open(dir.path(), options).unwrap().0;
    let rounds = number("ESKER_STEPS").unwrap_or(2000) as u32;
    let writing = std::sync::atomic::AtomicUsize::new(2);
    std::thread::scope(|scope| {
        for writer in 0..2_u8 {
            let (store, writing) = (&store, &writing);
            scope.spawn(move || {
                for round in 0..rounds {
                    // Ten keys get one round's number, or are swept away together.
                    let mut batch = WriteBatch::new();
                    if round % 50 == 49 {
                        batch.delete_range(&[writer], Bound::Excluded(&[writer + 1]));
                    } else {
                        for n in 0..10_u8 {
                            batch.put(&[writer, n], &round.to_be_bytes());
                        }
                    }
                    store.write(&batch).unwrap();
                }
                writing.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = [0; 2];
                while writing.load(std::sync::atomic::Ordering::Relaxed) > 0 {
                    check_scan(&store, &mut last);
                }
            });
        }
    });
    store.close().unwrap();
}

fn check_scan(store: &Store, last: &mut [u32; 2]) {
    let snapshot = store.snapshot();
    let scan = || {
        let scan = store.scan(&snapshot, Bound::Unbounded, Bound::Unbounded);
        scan.unwrap()
    };
    let forward: Vec<_> = scan().map(|e| e.unwrap()).collect();
    let mut backward: Vec<_> = scan().rev().map(|e| e.unwrap()).collect();
    backward.reverse();
    assert_eq!(forward, backward);
    for writer in 0..2_u8 {
        let of: Vec<_> = forward.iter().filter(|e| e.key[0] == writer).collect();
        assert!(
            of.is_empty() || of.len() == 10,
            "{} keys of a batch",
            of.len()
        );
        let Some(first) = of.first() else { continue };
        assert!(of.iter().all(|e| e.value == first.value));
        let round = u32::from_be_bytes(first.value[..].try_into().unwrap());
        assert!(round >= last[writer as usize]);
        last[writer as usize] = round;
        for e in &of {
            let found = store.get_at(&snapshot, &e.key).unwrap();
            assert_eq!(found.value.as_ref(), Some(&e.value));
        }
    }
}
