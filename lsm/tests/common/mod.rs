//! A store on the simulated medium beside a model of it: a sorted map, and the writes since the last reopen.
//!
//! A crash may leave any state from the last sync on, and nothing else: the base, and a prefix of the writes that holds all
//! that were synced. A kill without a power cut leaves all that were acknowledged.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod external;

use esker_lsm::{OpenError, Snapshot, Store, StoreError, StoreOptions, WriteBatch};
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, ENOSPC, Fault, SimMedia, SimRng};
use esker_wal::{Create, LogError, LogId, Lsn, NodeId, Workers};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;
pub const DIR: &str = "data";

#[derive(Clone, Debug)]
pub enum ModelOp {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Bound<Vec<u8>>),
}

pub fn apply(map: &mut Map, op: &ModelOp) {
    match op {
        ModelOp::Put(key, value) => {
            map.insert(key.clone(), value.clone());
        }
        ModelOp::Delete(key) => {
            map.remove(key);
        }
        ModelOp::DeleteRange(start, end) => map.retain(|key, _| {
            let below = match end {
                Bound::Unbounded => true,
                Bound::Included(end) => key <= end,
                Bound::Excluded(end) => key < end,
            };
            !(key >= start && below)
        }),
    }
}

/// Small everything, so that a few hundred operations reach rotation, flush and three levels.
pub fn options(media: &SimMedia, clock: &Arc<ManualClock>) -> StoreOptions {
    let mut options = StoreOptions {
        memtable_bytes: 4 << 10,
        memtables_max: 2,
        block_bytes: 256,
        cache_bytes: 64 << 10,
        table_bytes: 2 << 10,
        l0_tables: (2, 4, 8),
        level_base_bytes: 6 << 10,
        ..StoreOptions::default()
    };
    options.log.create = Some(Create {
        log: LogId(7),
        node: NodeId(9),
        base: Lsn::ZERO,
    });
    options.log.segment_bytes = 16 << 10;
    options.log.segments_ahead = 1;
    options.log.workers = Workers::Stepped;
    options.log.media = Arc::new(media.clone());
    options.log.clock = clock.clone();
    options
}

pub fn all(store: &Store) -> Result<Map, StoreError> {
    let snapshot = store.snapshot();
    store
        .scan(&snapshot, Bound::Unbounded, Bound::Unbounded)?
        .map(|entry| entry.map(|e| (e.key.to_vec(), e.value.to_vec())))
        .collect()
}

pub fn env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// Seeds to run: `ESKER_SEED` alone, or `ESKER_SEEDS` of them, from `ESKER_SEED_FROM` on.
pub fn seeds(default: u64) -> Vec<u64> {
    match std::env::var("ESKER_SEED")
        .ok()
        .and_then(|v| v.parse().ok())
    {
        Some(seed) => vec![seed],
        None => {
            let from = env("ESKER_SEED_FROM", 0);
            (from..from + env("ESKER_SEEDS", default)).collect()
        }
    }
}

pub struct World {
    pub rng: SimRng,
    pub media: SimMedia,
    pub clock: Arc<ManualClock>,
    pub options: StoreOptions,
    pub store: Option<Store>,
    /// State when the store was opened last.
    base: Map,
    /// Acknowledged writes since then.
    writes: Vec<(Lsn, Vec<ModelOp>)>,
    /// So many of them are synced.
    synced: usize,
    /// A write that failed after it may have reached the log.
    unknown: Option<Vec<ModelOp>>,
    /// State now.
    pub now: Map,
    snapshots: Vec<(Snapshot, Map)>,
    /// States at positions from the safe one on.
    kept: Vec<(Lsn, Map)>,
    counter: u64,
    pub crashes: u64,
    /// Prints each step.
    talk: bool,
    /// Faults are planned, so calls may fail.
    faulty: bool,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = SimRng::new(seed);
        let media = SimMedia::new(rng.next_u64());
        let clock = Arc::new(ManualClock::default());
        let mut options = options(&media, &clock);
        options.level_base_bytes = [600, 2 << 10, 6 << 10][rng.below(3) as usize];
        options.table_bytes = [1 << 10, 3 << 10][rng.below(2) as usize];
        if rng.chance(3) {
            options.bloom_bits_per_key = 0;
        }
        if rng.chance(3) {
            media.write_back_one_in(20);
        }
        World {
            rng,
            media,
            clock,
            options,
            store: None,
            base: Map::new(),
            writes: Vec::new(),
            synced: 0,
            unknown: None,
            now: Map::new(),
            snapshots: Vec::new(),
            kept: Vec::new(),
            counter: 0,
            crashes: 0,
            talk: std::env::var("ESKER_TALK").is_ok(),
            faulty: false,
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.talk {
            eprintln!("{}", what());
        }
    }

    pub fn store(&self) -> Store {
        self.store.clone().expect("open")
    }

    fn key(&mut self) -> Vec<u8> {
        let n = self.rng.below(48);
        match n % 7 {
            0 => format!("k{n:02}-with-a-tail-that-is-longer-than-the-rest").into_bytes(),
            1 => format!("k{n:02}\0").into_bytes(),
            _ => format!("k{n:02}").into_bytes(),
        }
    }

    fn op(&mut self) -> ModelOp {
        match self.rng.below(12) {
            0 => {
                let (start, end) = (self.key(), self.key());
                let end = match self.rng.below(12) {
                    0 => Bound::Unbounded,
                    1..4 => Bound::Included(end),
                    _ => Bound::Excluded(end),
                };
                ModelOp::DeleteRange(start, end)
            }
            1..4 => ModelOp::Delete(self.key()),
            _ => {
                self.counter += 1;
                let mut value = format!("v{}-", self.counter).into_bytes();
                let len = if self.rng.chance(20) {
                    700
                } else {
                    self.rng.below(120)
                };
                value.extend((0..len).map(|i| b'a' + ((self.counter + i) % 26) as u8));
                ModelOp::Put(self.key(), value)
            }
        }
    }

    pub fn write(&mut self) {
        let ops: Vec<_> = (0..1 + self.rng.below(4)).map(|_| self.op()).collect();
        self.write_ops(ops);
    }

    pub fn write_ops(&mut self, ops: Vec<ModelOp>) {
        let mut batch = WriteBatch::new();
        for op in &ops {
            match op {
                ModelOp::Put(key, value) => batch.put(key, value),
                ModelOp::Delete(key) => batch.delete(key),
                ModelOp::DeleteRange(start, end) => {
                    batch.delete_range(start, end.as_ref().map(|e| &e[..]));
                }
            }
        }
        match self.store().write(&batch) {
            Ok(written) => {
                self.say(|| format!("wrote {} to {}: {ops:?}", written.first, written.end));
                for op in &ops {
                    apply(&mut self.now, op);
                }
                self.writes.push((written.end, ops));
                if !self.kept.is_empty() {
                    self.kept.push((written.end, self.now.clone()));
                }
            }
            Err(error) => {
                self.say(|| format!("write failed: {error}"));
                assert!(self.faulty, "a write failed without a fault: {error}");
                let nothing = matches!(
                    error,
                    StoreError::Busy
                        | StoreError::Background { .. }
                        | StoreError::Log(LogError::NoSpace { .. } | LogError::Busy)
                );
                if !nothing && self.unknown.is_none() {
                    self.unknown = Some(ops);
                }
            }
        }
    }

    pub fn sync(&mut self) {
        let Some((end, _)) = self.writes.last() else {
            return;
        };
        match self.store().log().sync_up_to(*end) {
            Ok(()) => {
                self.say(|| format!("synced to {end}"));
                self.synced = self.writes.len();
            }
            Err(error) => {
                self.say(|| format!("sync failed: {error}"));
                assert!(self.faulty, "a sync failed without a fault: {error}");
            }
        }
    }

    /// A read that failed is an error only without faults; an answer must be right.
    fn judge<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        got: Result<T, StoreError>,
        want: &T,
    ) {
        match got {
            Ok(got) => assert_eq!(got, *want, "{what}"),
            Err(error) => assert!(self.faulty, "{what}: {error}"),
        }
    }

    pub fn read(&mut self) {
        let store = self.store();
        for _ in 0..4 {
            let key = self.key();
            let got = store.get(&key).map(|f| f.value.map(|v| v.to_vec()));
            self.judge("get", got, &self.now.get(&key).cloned());
        }
        let snapshot = store.snapshot();
        let now = self.now.clone();
        self.scan(&snapshot, &now);
        if !self.snapshots.is_empty() {
            let at = self.rng.below(self.snapshots.len() as u64) as usize;
            let (snapshot, then) = self.snapshots[at].clone();
            for _ in 0..3 {
                let key = self.key();
                let got = store
                    .get_at(&snapshot, &key)
                    .map(|f| f.value.map(|v| v.to_vec()));
                self.judge("get_at", got, &then.get(&key).cloned());
            }
            self.scan(&snapshot, &then);
        }
        if !self.kept.is_empty() {
            let at = self.rng.below(self.kept.len() as u64) as usize;
            let (below, then) = self.kept[at].clone();
            let snapshot = store.snapshot_at(below).expect("kept from compaction");
            self.scan(&snapshot, &then);
        }
    }

    fn bound(&mut self) -> Bound<Vec<u8>> {
        match self.rng.below(4) {
            0 => Bound::Unbounded,
            1 => Bound::Excluded(self.key()),
            _ => Bound::Included(self.key()),
        }
    }

    fn scan(&mut self, snapshot: &Snapshot, model: &Map) {
        let (start, end) = (self.bound(), self.bound());
        let ordered = match (&start, &end) {
            (Bound::Excluded(a), Bound::Excluded(b)) => a < b,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => {
                a <= b
            }
            _ => true,
        };
        let want: Vec<_> = if ordered {
            model
                .range::<Vec<u8>, _>((start.as_ref(), end.as_ref()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        } else {
            Vec::new()
        };
        let way = self.rng.below(3);
        let turns: Vec<bool> = (0..want.len() + 3)
            .map(|_| way == 0 || (way == 2 && self.rng.chance(2)))
            .collect();
        let scan = self.store().scan(
            snapshot,
            start.as_ref().map(|k| &k[..]),
            end.as_ref().map(|k| &k[..]),
        );
        let got = scan.and_then(|mut scan| {
            let (mut front, mut back) = (Vec::new(), Vec::new());
            for forward in turns {
                let entry = if forward {
                    scan.next()
                } else {
                    scan.next_back()
                };
                match entry.transpose()? {
                    Some(e) if forward => front.push((e.key.to_vec(), e.value.to_vec())),
                    Some(e) => back.push((e.key.to_vec(), e.value.to_vec())),
                    None => break,
                }
            }
            back.reverse();
            front.extend(back);
            Ok(front)
        });
        self.judge(
            &format!("scan {start:?}..{end:?} at {snapshot:?}, way {way}"),
            got,
            &want,
        );
    }

    pub fn check_all(&self) {
        self.judge("everything", all(&self.store()), &self.now);
    }

    fn background(&mut self, what: &str, result: Result<(), StoreError>) {
        self.say(|| format!("{what}: {result:?}"));
        if let Err(error) = result {
            assert!(self.faulty, "{what} failed without a fault: {error}");
        }
    }

    /// Forgets what belongs to the handle that was closed.
    fn let_go(&mut self) {
        self.snapshots.clear();
        self.kept.clear();
        self.store = None;
    }

    pub fn open(&mut self) -> Result<(), OpenError> {
        // A process of its own: what the one before does in its destructors reaches nothing.
        self.options.log.media = Arc::new(self.media.clone());
        let (store, recovered) = Store::open(Path::new(DIR), self.options.clone())?;
        self.say(|| format!("opened: {recovered:?}"));
        self.store = Some(store);
        Ok(())
    }

    /// Opens until it works; only a planned fault may be in the way. Whether the power went meanwhile.
    fn open_at_last(&mut self) -> bool {
        let cut = self.rng.chance(6);
        if cut {
            // The power goes again while the store is being opened.
            let n = 1 + self.rng.below(60);
            self.media.cut_at_call(n);
            if let Err(error) = self.open() {
                self.say(|| format!("cut while opening: {error}"));
                assert!(self.media.is_down(), "refused: {error}");
            }
            self.store = None;
            // Or the process ended there, and the next one finds what it left.
            if self.rng.chance(2) {
                self.media.kill();
            } else {
                let seed = self.rng.next_u64();
                self.media.power_cut(seed);
            }
            self.media.heal();
        }
        self.open()
            .unwrap_or_else(|error| panic!("the store can't be opened: {error}"));
        cut
    }

    /// The state must be the base and a prefix of the writes, at least `least` of them.
    fn settle(&mut self, least: usize) {
        let found = all(&self.store()).expect("readable");
        let mut state = self.base.clone();
        let unknown = self.unknown.take();
        let all: Vec<_> = self.writes.iter().map(|w| &w.1).chain(&unknown).collect();
        let mut matched = None;
        for n in 0..=all.len() {
            if n >= least && state == found {
                matched = Some(n);
            }
            if let Some(ops) = all.get(n) {
                for op in *ops {
                    apply(&mut state, op);
                }
            }
        }
        let Some(n) = matched else {
            panic!(
                "not a prefix holding {least} of {} writes\nfound: {:?}\nlast:  {:?}",
                all.len(),
                found
                    .keys()
                    .map(|k| String::from_utf8_lossy(k))
                    .collect::<Vec<_>>(),
                self.now
                    .keys()
                    .map(|k| String::from_utf8_lossy(k))
                    .collect::<Vec<_>>()
            );
        };
        self.say(|| format!("{n} of {} writes survived, {least} were synced", all.len()));
        self.base = found.clone();
        self.now = found;
        self.writes.clear();
        self.synced = 0;
    }

    pub fn power_cut(&mut self) {
        self.crashes += 1;
        let seed = self.rng.next_u64();
        self.say(|| "power cut".to_owned());
        // What was in memory goes first in truth; here its drop would still write. Its calls fail once dead.
        self.media.power_cut(seed);
        self.let_go();
        self.media.heal();
        self.media.set_capacity(None);
        self.open_at_last();
        let least = self.synced;
        self.settle(least);
        self.faulty = false;
        // What was found is not all synced yet as far as the model knows, but recovery made it so (W6).
    }

    pub fn kill(&mut self) {
        self.crashes += 1;
        self.say(|| "kill".to_owned());
        let at_a_call = self.media.is_down();
        self.media.kill();
        self.let_go();
        self.media.heal();
        self.media.set_capacity(None);
        // What was published survives the process (W1). Behind the call at which it ended it published nothing, whatever its writers were told.
        let least = if self.open_at_last() || at_a_call {
            self.synced
        } else {
            self.writes.len()
        };
        self.settle(least);
        self.faulty = false;
    }

    pub fn reopen(&mut self) {
        let result = self.store().close();
        self.say(|| format!("closed: {result:?}"));
        let clean = result.is_ok();
        assert!(
            clean || self.faulty,
            "close failed without a fault: {result:?}"
        );
        if self.media.is_down() {
            return self.power_cut();
        }
        self.let_go();
        self.media.heal();
        self.media.set_capacity(None);
        self.open()
            .unwrap_or_else(|error| panic!("the store can't be opened: {error}"));
        let least = self.writes.len();
        self.settle(least);
        self.faulty = false;
    }

    pub fn fault(&mut self) {
        self.faulty = true;
        let n = 1 + self.rng.below(30);
        match self.rng.below(8) {
            0 => self.media.cut_at_call(n),
            1 => {
                let used = self.media.used_bytes();
                let room = self.rng.below(24 << 10);
                self.media.set_capacity(Some(used + room));
            }
            kind => {
                let kinds = [
                    CallKind::SyncFile,
                    CallKind::SyncMap,
                    CallKind::SyncDir,
                    CallKind::Write,
                    CallKind::Create,
                    CallKind::Rename,
                ];
                let of = kinds[(kind - 2) as usize];
                let n = 1 + self.rng.below(4);
                let mut fault = Fault::nth(n).of(of).times(1 + self.rng.below(2));
                if self.rng.chance(3) {
                    fault = fault.errno(ENOSPC);
                }
                if self.rng.chance(2) {
                    fault = fault.on("tables");
                }
                self.media.fail(fault);
            }
        }
        self.say(|| "a fault is planned".to_owned());
    }

    pub fn turn(&mut self) {
        if self.media.is_down() {
            return match self.rng.chance(2) {
                true => self.power_cut(),
                false => self.kill(),
            };
        }
        match self.rng.below(100) {
            0..50 => self.write(),
            50..62 => self.sync(),
            62..72 => self.read(),
            72..80 => {
                for _ in 0..1 + self.rng.below(6) {
                    let did = self.store().step();
                    self.say(|| format!("step: {did}"));
                }
                self.clock.advance(Duration::from_millis(50));
            }
            80..84 => {
                let result = self.store().flush();
                self.background("flush", result);
            }
            84..86 => {
                let result = self.store().compact_all();
                self.background("compact", result);
            }
            86..89 => {
                let snapshot = self.store().snapshot();
                self.snapshots.push((snapshot, self.now.clone()));
            }
            89..91 => {
                if !self.snapshots.is_empty() {
                    let at = self.rng.below(self.snapshots.len() as u64) as usize;
                    self.snapshots.swap_remove(at);
                }
            }
            91..93 => {
                let at = self.store().visible();
                self.store().keep_from(at);
                self.kept = vec![(at, self.now.clone())];
            }
            93 => self.fault(),
            94 => self.reopen(),
            95 => self.kill(),
            96..98 => self.power_cut(),
            _ => self.read(),
        }
    }
}

/// Runs one seed. Panics, with the seed, where the store and the model differ.
pub fn run(seed: u64, turns: u64) -> u64 {
    let mut world = World::new(seed);
    world.open_at_last();
    for _ in 0..turns {
        world.turn();
    }
    world.power_cut();
    world.check_all();
    world.crashes
}
