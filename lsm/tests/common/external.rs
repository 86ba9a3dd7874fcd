//! A store with an external log beside a model of both: the log is a list of entries and how many of them are synced. A power cut
//! leaves any length of it from there on; then other entries may come to stand where lost ones were.

use super::{DIR, Map, ModelOp, all, apply, options};
use esker_lsm::{
    Condition, Conditional, ExternalLog, OpenError, SeqNo, Store, StoreError, StoreOptions,
    WriteBatch, remove_checkpoint,
};
use esker_wal::LogId;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{SimMedia, SimRng};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub const ID: ExternalLog = ExternalLog {
    id: LogId(5),
    base: SeqNo(1 << 10),
};
pub const CHECKPOINT: &str = "checkpoint";
pub const APPLIED: &[u8] = b"\0applied";

/// SeqNos of the entry at `index`, from 1 on.
pub fn place(index: u64) -> (SeqNo, SeqNo) {
    (SeqNo(index << 10), SeqNo((index + 1) << 10))
}

pub fn batch_of(ops: &[ModelOp]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for op in ops {
        match op {
            ModelOp::Put(key, value) => batch.put(key, value),
            ModelOp::Delete(key) => batch.delete(key),
            ModelOp::DeleteRange(start, end) => {
                batch.delete_range(start, end.as_ref().map(|e| &e[..]));
            }
        }
    }
    batch
}

/// An entry: what it writes, if a key is as expected.
#[derive(Clone, Debug, Default)]
struct Entry {
    condition: Option<(Vec<u8>, Option<Vec<u8>>)>,
    ops: Vec<ModelOp>,
}

impl Entry {
    fn apply(&self, state: &mut Map) -> bool {
        let holds =
            (self.condition.as_ref()).is_none_or(|(key, want)| state.get(key) == want.as_ref());
        if holds {
            for op in &self.ops {
                apply(state, op);
            }
        }
        holds
    }
}

struct World {
    rng: SimRng,
    media: SimMedia,
    options: StoreOptions,
    store: Option<Store>,
    log: Vec<Entry>,
    synced: usize,
    counter: u64,
    /// What the store said is durable: its caller forgets what is below.
    forgotten: SeqNo,
    /// Paths taken, so that a run that tests nothing shows.
    seen: BTreeMap<&'static str, u64>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = SimRng::new(seed);
        let media = SimMedia::new(rng.next_u64());
        let mut options = options(&media, &Arc::new(ManualClock::default()));
        options.level_base_bytes = 2 << 10;
        if rng.chance(3) {
            media.write_back_one_in(20);
        }
        World {
            rng,
            media,
            options,
            store: None,
            log: Vec::new(),
            synced: 0,
            counter: 0,
            forgotten: ID.base,
            seen: BTreeMap::new(),
        }
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn open_at(&mut self, dir: &str) -> Result<Store, OpenError> {
        self.options.log.media = Arc::new(self.media.clone());
        Store::open_external(Path::new(dir), self.options.clone(), ID)
    }

    /// The state behind the first `n` entries.
    fn state(&self, n: usize) -> Map {
        let mut state = Map::new();
        for entry in &self.log[..n] {
            entry.apply(&mut state);
        }
        state
    }

    /// The store holds exactly what its position says.
    fn judge(&self, store: &Store, position: SeqNo, what: &str) -> usize {
        let n = (position.0 >> 10) as usize - 1;
        assert!(
            n <= self.log.len(),
            "{what}: tables hold entry {n}, the log has {} (L3)",
            self.log.len()
        );
        let found = match all(store) {
            Ok(found) => found,
            // The power went meanwhile.
            Err(_) if self.media.is_down() => return n,
            Err(error) => panic!("{what}: {error}"),
        };
        assert!(
            found == self.state(n),
            "{what}: not the state behind entry {n}"
        );
        n
    }

    /// Remembers what the store says is durable.
    fn note(&mut self, store: &Store) {
        self.forgotten = self.forgotten.max(store.durable());
    }

    /// The power goes, or the process is killed, at the call where the medium went if it did.
    fn end(&mut self, power: bool) {
        match power {
            true => {
                let seed = self.rng.next_u64();
                self.media.power_cut(seed);
            }
            false => self.media.kill(),
        }
        self.media.heal();
    }

    /// Opens, checks, and applies again what the tables lack.
    fn open(&mut self) {
        if self.rng.chance(4) {
            let n = 1 + self.rng.below(40);
            self.media.cut_at_call(n);
            if let Err(error) = self.open_at(DIR) {
                assert!(self.media.is_down(), "refused: {error}");
                self.saw("cut while opening");
            }
            let power = self.rng.chance(2);
            self.end(power);
        }
        if self.rng.chance(6) {
            // With the disk full; then the power goes.
            let used = self.media.used_bytes();
            self.media.set_capacity(Some(used));
            if let Ok(store) = self.open_at(DIR) {
                self.saw("opened on a full disk");
                self.note(&store);
                self.media.set_capacity(None);
                if self.rng.chance(2) {
                    store.step();
                    self.note(&store);
                }
                self.end(true);
            }
            self.media.set_capacity(None);
        }
        let store = self.open_at(DIR).expect("opens");
        let durable = store.durable();
        assert_eq!(durable, SeqNo(store.visible().0));
        assert!(
            durable >= self.forgotten,
            "the tables end at SeqNo {durable}, and were said to be durable up to {}",
            self.forgotten
        );
        self.note(&store);
        let from = self.judge(&store, durable, "after a restart");
        if from < self.log.len() {
            self.saw("applied again");
        }
        store.note_log_synced(place(self.synced as u64).1);
        self.store = Some(store);
        for n in from..self.log.len() {
            if !self.give(n) {
                return;
            }
        }
        let store = self.store.clone().expect("open");
        if !self.log.is_empty() {
            self.judge(&store, SeqNo(store.visible().0), "applied again");
        }
    }

    /// Applies entry `n` (from 0); false when the store can't now.
    fn give(&mut self, n: usize) -> bool {
        let store = self.store.clone().expect("open");
        let entry = self.log[n].clone();
        let (first, end) = place(n as u64 + 1);
        if entry.ops.is_empty() && self.rng.chance(2) && store.visible().0 != first.0 {
            return true;
        }
        let conditions: Vec<_> = (entry.condition.iter())
            .map(|(key, want)| Condition {
                key,
                expected: want.as_deref(),
            })
            .collect();
        for _ in 0..2 {
            match store.apply_entry(first, end, &conditions, &batch_of(&entry.ops)) {
                Ok(done) => {
                    let held = entry.apply(&mut self.state(n));
                    assert_eq!(held, matches!(done, Conditional::Written(_)));
                    if !held {
                        self.saw("refused");
                    }
                    return true;
                }
                // Memtables wait for the log: then it is synced.
                Err(StoreError::Busy) => {
                    self.saw("held for the log");
                    self.sync();
                }
                Err(error) => {
                    assert!(self.media.is_down(), "apply: {error}");
                    return false;
                }
            }
        }
        panic!("no room with the log synced");
    }

    fn key(&mut self) -> Vec<u8> {
        format!("k{:02}", self.rng.below(24)).into_bytes()
    }

    fn op(&mut self) -> ModelOp {
        self.counter += 1;
        match self.rng.below(10) {
            0 => ModelOp::DeleteRange(self.key(), std::ops::Bound::Included(self.key())),
            1 | 2 => ModelOp::Delete(self.key()),
            _ => {
                let len = self.rng.below(150) as usize;
                let value = format!("{}-{}", self.counter, "v".repeat(len));
                ModelOp::Put(self.key(), value.into_bytes())
            }
        }
    }

    fn entry(&mut self) {
        let index = self.log.len() as u64 + 1;
        let mut entry = Entry::default();
        if !self.rng.chance(8) {
            entry.ops = (0..1 + self.rng.below(4)).map(|_| self.op()).collect();
            let applied = index.to_le_bytes().to_vec();
            entry.ops.push(ModelOp::Put(APPLIED.to_vec(), applied));
        }
        if self.rng.chance(4) {
            let key = self.key();
            let now = self.state(self.log.len()).get(&key).cloned();
            let want = if self.rng.chance(2) { now } else { None };
            entry.condition = Some((key, want));
        }
        self.log.push(entry);
        self.give(index as usize - 1);
    }

    fn sync(&mut self) {
        self.synced = self.log.len();
        if let Some(store) = &self.store {
            store.note_log_synced(place(self.synced as u64).1);
        }
    }

    fn checkpoint(&mut self) {
        let store = self.store.clone().expect("open");
        let to = Path::new(CHECKPOINT);
        let media = self.media.clone();
        if self.rng.chance(3) {
            let n = 1 + self.rng.below(30);
            self.media.cut_at_call(n);
        }
        let made = remove_checkpoint(&media, to).and_then(|()| store.checkpoint(to));
        match made {
            Ok(made) => {
                self.saw("checkpoint");
                assert_eq!(store.durable(), made.end);
                self.check_checkpoint(Some(made.end));
            }
            Err(StoreError::Busy) => self.saw("checkpoint waits for the log"),
            Err(error) => assert!(self.media.is_down(), "checkpoint: {error}"),
        }
        if !self.media.is_down() {
            self.media.heal();
        }
    }

    /// Removes a checkpoint, in two processes that end on the way.
    fn removal(&mut self) {
        for _ in 0..2 {
            let n = 3 + self.rng.below(4);
            self.media.cut_at_call(n);
            let media = self.media.clone();
            let removed = remove_checkpoint(&media, Path::new(CHECKPOINT));
            if !self.media.is_down() {
                removed.expect("removed");
                self.media.heal();
                return;
            }
            self.saw("ended while removing");
            let power = self.rng.chance(2);
            self.crash(power);
            if self.media.is_down() {
                return;
            }
        }
    }

    /// What is there of a checkpoint is nothing, or opens as the state at its end.
    fn check_checkpoint(&mut self, want: Option<SeqNo>) {
        let current = Path::new(CHECKPOINT).join("tables/CURRENT");
        if self.media.read(&current).is_err() {
            assert!(want.is_none(), "a checkpoint that was made is not there");
            return;
        }
        // On a copy: opening would change it.
        let media = self.media.fork(self.rng.next_u64());
        let mut options = self.options.clone();
        options.log.media = Arc::new(media);
        let store = Store::open_external(Path::new(CHECKPOINT), options, ID).expect("opens");
        if let Some(want) = want {
            assert_eq!(store.durable(), want);
        }
        self.judge(&store, store.durable(), "checkpoint");
    }

    fn crash(&mut self, power: bool) {
        self.end(power);
        if power {
            let keep =
                self.synced + self.rng.below((self.log.len() - self.synced + 1) as u64) as usize;
            self.log.truncate(keep);
        }
        self.store = None;
        self.synced = self.synced.min(self.log.len());
        self.check_checkpoint(None);
        // Of a checkpoint only synced entries may be in it: those that are lost would be in no log.
        self.open();
    }

    fn turn(&mut self) {
        if self.media.is_down() {
            let power = self.rng.chance(2);
            self.saw(match power {
                true => "power cut at a call",
                false => "killed at a call",
            });
            return self.crash(power);
        }
        let store = self.store.clone().expect("open");
        self.note(&store);
        match self.rng.below(100) {
            0..60 => self.entry(),
            60..72 => self.sync(),
            72..82 => {
                for _ in 0..1 + self.rng.below(5) {
                    store.step();
                }
            }
            82..86 => match store.flush() {
                Ok(()) => self.saw("flush"),
                Err(StoreError::Busy) => self.saw("flush waits for the log"),
                Err(error) => assert!(self.media.is_down(), "flush: {error}"),
            },
            86..88 => self.checkpoint(),
            88..90 => self.removal(),
            90..93 => {
                let n = 1 + self.rng.below(30);
                self.media.cut_at_call(n);
            }
            93 => self.crash(false),
            94..96 => self.crash(true),
            96 => {
                store.close().ok();
                drop(store);
                self.crash(false);
            }
            _ => {
                let visible = SeqNo(store.visible().0);
                if visible >= ID.base && !self.media.is_down() {
                    self.judge(&store, visible, "while running");
                }
            }
        }
    }
}

/// Runs one seed; gives what it saw.
pub fn run(seed: u64, turns: u64) -> BTreeMap<&'static str, u64> {
    let mut world = World::new(seed);
    world.open();
    for _ in 0..turns {
        world.turn();
    }
    world.crash(true);
    world.seen
}
