//! Background work that nobody waits for takes its time, and no more once somebody does (LE1, LE2); so does what is freed (RM1 to RM3). On real
//! files, with threads.

use esker_lsm::{Store, StoreOptions, WriteBatch};
use esker_wal::{Create, LogId, Lsn, NodeId};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A flush of one takes half a minute at leisure.
const MEMTABLE: usize = 32 << 20;
const RATE: u64 = 1 << 20;
/// Longer than the machine takes, shorter than leisure does.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    store: Store,
    /// Of the next value.
    seed: u64,
    dir: TempDir,
}

impl World {
    fn options() -> StoreOptions {
        let mut options = StoreOptions {
            memtable_bytes: MEMTABLE,
            memtables_max: 8,
            background_rate: RATE,
            cache_bytes: 1 << 20,
            l0_tables: (4, 40, 80),
            ..StoreOptions::default()
        };
        options.log.create = Some(Create {
            log: LogId(1),
            node: NodeId(2),
            base: Lsn::ZERO,
        });
        options.log.segment_bytes = 8 << 20;
        options
    }

    fn open() -> World {
        let dir = tempfile::tempdir().unwrap();
        World {
            store: Store::open(dir.path(), World::options()).unwrap().0,
            seed: 1,
            dir,
        }
    }

    /// Puts values that don't compress until so many memtables were frozen, all keys everywhere.
    fn freeze(&mut self, memtables: u64) {
        let frozen = |store: &Store| {
            let stats = store.stats();
            stats.flushes + stats.immutable_memtables
        };
        let until = frozen(&self.store) + memtables;
        while frozen(&self.store) < until {
            let mut value = [0; 4096];
            for word in value.chunks_exact_mut(8) {
                self.seed ^= self.seed << 13;
                self.seed ^= self.seed >> 7;
                self.seed ^= self.seed << 17;
                word.copy_from_slice(&self.seed.to_le_bytes());
            }
            let mut batch = WriteBatch::new();
            batch.put(&self.seed.to_be_bytes(), &value);
            self.store.write(&batch).unwrap();
        }
    }

    /// Names of its files, with their lengths.
    fn tables(&self) -> Vec<(OsString, u64)> {
        let there = std::fs::read_dir(self.dir.path().join("tables")).unwrap();
        let mut all: Vec<_> = there
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), entry.metadata().unwrap().len()))
            .collect();
        all.sort();
        all
    }

    /// Bytes of its files that are open and have no name there any more.
    fn nameless(&self) -> u64 {
        let tables = self.dir.path().join("tables");
        let mut all = BTreeMap::new();
        for open in std::fs::read_dir("/proc/self/fd").unwrap() {
            let open = open.unwrap().path();
            let at = std::fs::read_link(&open).unwrap_or_default();
            if at.starts_with(&tables)
                && at.to_string_lossy().ends_with(" (deleted)")
                && let Ok(about) = std::fs::metadata(&open)
            {
                all.insert(about.ino(), about.len());
            }
        }
        all.values().sum()
    }

    /// Two tables become one. The bytes of the two.
    fn merge(&mut self) -> u64 {
        for _ in 0..2 {
            self.freeze(1);
            self.soon("a flush", |store| store.flush().unwrap());
        }
        self.tables().iter().map(|(_, bytes)| bytes).sum()
    }

    fn eventually(&self, what: &str, mut come: impl FnMut(&Store) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !come(&self.store) {
            assert!(Instant::now() < end, "{what} did not come");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails if it takes as long as what is done at leisure.
    fn soon(&self, what: &str, action: impl FnOnce(&Store) + Send + 'static) {
        let (done, wait) = channel();
        let store = self.store.clone();
        std::thread::spawn(move || {
            action(&store);
            let _ = done.send(());
        });
        assert!(
            wait.recv_timeout(PATIENCE).is_ok(),
            "{what} waits for work at leisure"
        );
    }
}

#[test]
fn le1_a_flush_that_nobody_waits_for_takes_its_time() {
    let mut world = World::open();
    let began = Instant::now();
    world.freeze(1);
    // It may take longer, and not less: a quarter of it at the rate lasts eight seconds.
    std::thread::sleep(Duration::from_secs(2));
    let stats = world.store.stats();
    assert_eq!((stats.flushes, stats.immutable_memtables), (0, 1));
    assert!(
        began.elapsed() < PATIENCE,
        "the machine is too slow to tell"
    );
    world.soon("a flush", |store| store.flush().unwrap());
    assert!(world.store.stats().flushes >= 2);
    world.store.close().unwrap();
}

#[test]
fn le2_a_memtable_behind_the_one_that_is_flushed_does_not_wait() {
    let mut world = World::open();
    world.freeze(2);
    world.eventually("the first flush", |store| store.stats().flushes >= 1);
    world.soon("the close", |store| store.close().unwrap());
}

#[test]
fn le2_l0_does_not_wait_for_a_compaction_at_leisure() {
    let mut world = World::open();
    // As many tables as start one (each time the frozen one and what is active), and then one more.
    for _ in 0..2 {
        world.freeze(1);
        world.soon("a flush", |store| store.flush().unwrap());
    }
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(world.store.stats().compactions, 0, "64 MiB at 1 a second");
    assert!(
        began.elapsed() < PATIENCE,
        "the machine is too slow to tell"
    );
    world.freeze(1);
    world.soon("a flush", |store| store.flush().unwrap());
    world.eventually("the compaction", |store| store.stats().compactions > 0);
    world.soon("all of them", |store| store.compact_all().unwrap());
    world.soon("the close", |store| store.close().unwrap());
}

#[test]
fn a_background_rate_below_one_mebibyte_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        background_rate: 1,
        ..StoreOptions::default()
    };
    let refused = Store::open(dir.path(), options).unwrap_err();
    assert!(refused.to_string().contains("background_rate"), "{refused}");
}

/// A checkpoint flushes in its caller's thread, which nobody joins: it went on in a directory that was given up, and perhaps taken by another store.
#[test]
fn behind_the_close_nothing_is_written_for_a_checkpoint() {
    for round in 0..5 {
        let mut world = World::open();
        world.freeze(1);
        let (store, to) = (world.store.clone(), world.dir.path().join("checkpoint"));
        let checkpoint = std::thread::spawn(move || store.checkpoint(&to));
        std::thread::sleep(Duration::from_millis(1 + 3 * round));
        world.soon("the close", |store| store.close().unwrap());
        let there = world.tables();
        let made = checkpoint.join().unwrap();
        assert_eq!(world.tables(), there, "{made:?}");
    }
}

#[test]
fn rm1_what_a_compaction_removed_is_freed_bit_by_bit() {
    let mut world = World::open();
    let before = world.merge();
    let began = Instant::now();
    world.soon("a compaction", |store| store.compact_all().unwrap());
    world.eventually("a first piece", |_| world.nameless() < before - (4 << 20));
    let left = world.nameless();
    // At four times the rate it lasts sixteen seconds.
    assert!(
        left > 0 || began.elapsed() > PATIENCE / 2,
        "all of {before} at once"
    );
    world.soon("the close", |store| store.close().unwrap());
    assert_eq!(world.nameless(), 0);
}

#[test]
fn rm2_what_is_read_is_not_cut() {
    let mut world = World::open();
    world.merge();
    let snapshot = world.store.snapshot();
    let read = |store: &Store| {
        let scan = store.scan(&snapshot, Bound::Unbounded, Bound::Unbounded);
        scan.unwrap()
            .map(|entry| entry.unwrap().value.len())
            .sum::<usize>()
    };
    let whole = read(&world.store);
    let mut scan = (world
        .store
        .scan(&snapshot, Bound::Unbounded, Bound::Unbounded))
    .unwrap();
    let first = scan.next().unwrap().unwrap().value.len();
    world.soon("a compaction", |store| store.compact_all().unwrap());
    std::thread::sleep(Duration::from_secs(2));
    // What it reads has no name any more.
    let there = world.nameless();
    let rest: usize = scan.by_ref().map(|entry| entry.unwrap().value.len()).sum();
    assert_eq!(first + rest, whole);
    assert!(there > whole as u64 / 2, "{there}");
    drop(scan);
    world.eventually("a piece", |_| world.nameless() < there);
    assert_eq!(read(&world.store), whole);
    world.soon("the close", |store| store.close().unwrap());
}

/// The store under a scan was closed, and opened anew; what compacted was another than what the scan reads from.
#[test]
fn rm2_what_a_scan_of_a_store_before_reads_is_not_cut() {
    let mut world = World::open();
    // Too few to be compacted by themselves.
    world.freeze(1);
    world.soon("a flush", |store| store.flush().unwrap());
    let before = world.tables();
    let snapshot = world.store.snapshot();
    let scan = (world.store).scan(&snapshot, Bound::Unbounded, Bound::Unbounded);
    let mut scan = scan.unwrap();
    let first = scan.next().unwrap().unwrap().value.len();
    drop(snapshot);
    world.soon("the close", |store| store.close().unwrap());
    world.store = Store::open(world.dir.path(), World::options()).unwrap().0;
    world.soon("a compaction", |store| store.compact_all().unwrap());
    let is_table = |name: &OsString| name.to_string_lossy().ends_with(".tbl");
    let kept =
        |(name, _): &(OsString, u64)| is_table(name) && before.iter().any(|(b, _)| b == name);
    assert!(!world.tables().iter().any(kept));
    std::thread::sleep(Duration::from_secs(2));
    let rest = scan.try_fold(0, |sum, entry| entry.map(|e| sum + e.value.len()));
    let whole = first + rest.expect("all of it is there");
    let there = (world.store).scan(&world.store.snapshot(), Bound::Unbounded, Bound::Unbounded);
    let there: usize = there.unwrap().map(|e| e.unwrap().value.len()).sum();
    assert_eq!(whole, there);
    world.soon("the close", |store| store.close().unwrap());
}

#[test]
fn rm2_what_has_another_name_is_not_cut() {
    let mut world = World::open();
    world.merge();
    let to = world.dir.path().join("checkpoint");
    let made = world.store.checkpoint(&to).unwrap();
    world.soon("a compaction", |store| store.compact_all().unwrap());
    // What nobody else has was there before the checkpoint: nothing.
    std::thread::sleep(Duration::from_secs(2));
    for (name, bytes) in made.files {
        assert_eq!(std::fs::metadata(to.join(&name)).unwrap().len(), bytes);
    }
    assert_eq!(world.nameless(), 0);
    world.soon("the close", |store| store.close().unwrap());
}

/// The compaction is its caller's, and ends when nobody is left who frees anything.
#[test]
fn rm3_behind_the_close_a_compaction_of_another_thread_holds_nothing_back() {
    for round in 0..5 {
        let mut world = World::open();
        world.merge();
        let store = world.store.clone();
        let compaction = std::thread::spawn(move || store.compact_all());
        std::thread::sleep(Duration::from_millis(5 + 20 * round));
        world.soon("the close", |store| store.close().unwrap());
        let made = compaction.join().unwrap();
        assert_eq!(world.nameless(), 0, "{made:?}");
    }
}
