//! The store's promises, one by one (L1-L4, L6), and the ways in which stores like this one have failed.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests tell what they did"
)]

mod common;

use common::{DIR, Map, all, options};
use esker_lsm::{OpenError, Store, StoreError, StoreOptions, WriteBatch};
use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, ENOSPC, Fault, SimMedia};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Rig {
    media: SimMedia,
    options: StoreOptions,
    store: Store,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut StoreOptions)) -> Rig {
        let media = SimMedia::new(1);
        let clock = Arc::new(ManualClock::default());
        let mut options = options(&media, &clock);
        // Nothing flushes or compacts by itself.
        options.memtable_bytes = 1 << 20;
        options.l0_tables = (100, 200, 300);
        change(&mut options);
        let (store, _) = Store::open(Path::new(DIR), options.clone()).unwrap();
        Rig {
            media,
            options,
            store,
        }
    }

    fn put(&self, key: &str, value: &str) {
        let mut batch = WriteBatch::new();
        batch.put(key.as_bytes(), value.as_bytes());
        self.store.write(&batch).unwrap();
    }

    fn delete(&self, key: &str) {
        let mut batch = WriteBatch::new();
        batch.delete(key.as_bytes());
        self.store.write(&batch).unwrap();
    }

    fn delete_range(&self, start: &str, end: &str) {
        let mut batch = WriteBatch::new();
        batch.delete_range(start.as_bytes(), Bound::Excluded(end.as_bytes()));
        self.store.write(&batch).unwrap();
    }

    fn get(&self, key: &str) -> Option<String> {
        let found = self.store.get(key.as_bytes()).unwrap();
        found.value.map(|v| String::from_utf8(v.to_vec()).unwrap())
    }

    fn flush(&self) {
        self.store.flush().unwrap();
    }

    fn reopen(self) -> Rig {
        self.store.close().unwrap();
        self.open_again().unwrap()
    }

    fn open_again(self) -> Result<Rig, OpenError> {
        let Rig {
            media,
            mut options,
            store,
        } = self;
        drop(store);
        options.log.media = Arc::new(media.clone());
        let (store, _) = Store::open(Path::new(DIR), options.clone())?;
        Ok(Rig {
            media,
            options,
            store,
        })
    }

    /// Table files.
    fn tables(&self) -> BTreeSet<PathBuf> {
        let is_table = |p: &PathBuf| p.extension().is_some_and(|e| e == "tbl");
        self.media.image().into_keys().filter(is_table).collect()
    }

    fn manifest(&self) -> PathBuf {
        let is = |p: &PathBuf| {
            p.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("MANIFEST")
        };
        let all: Vec<_> = self.media.image().into_keys().filter(is).collect();
        assert_eq!(all.len(), 1, "one manifest");
        all[0].clone()
    }

    fn levels(&self) -> Vec<u64> {
        self.store.stats().tables_per_level
    }
}

// L1

#[test]
fn a_snapshot_sees_the_same_whatever_flush_and_compaction_do() {
    let rig = Rig::new();
    for i in 0..50 {
        rig.put(&format!("k{i:02}"), "old");
    }
    let snapshot = rig.store.snapshot();
    let seen = |rig: &Rig| -> Map {
        rig.store
            .scan(&snapshot, Bound::Unbounded, Bound::Unbounded)
            .unwrap()
            .map(|e| e.map(|e| (e.key.to_vec(), e.value.to_vec())).unwrap())
            .collect()
    };
    let before = seen(&rig);
    assert_eq!(before.len(), 50);
    for i in 0..50 {
        rig.put(&format!("k{i:02}"), "new");
    }
    rig.delete_range("k10", "k20");
    rig.flush();
    assert_eq!(seen(&rig), before);
    rig.delete("k30");
    rig.store.compact_all().unwrap();
    assert_eq!(seen(&rig), before);
    assert_eq!(
        rig.store.get_at(&snapshot, b"k30").unwrap().value.unwrap(),
        "old"
    );
    assert_eq!(rig.get("k30"), None);
    assert_eq!(rig.get("k15"), None);
    assert_eq!(rig.get("k31").unwrap(), "new");
}

#[test]
fn a_scan_outlives_compaction_and_the_close_of_its_store() {
    let rig = Rig::new();
    for i in 0..300 {
        rig.put(&format!("k{i:03}"), &"v".repeat(50));
    }
    rig.flush();
    let snapshot = rig.store.snapshot();
    let mut scan = rig
        .store
        .scan(&snapshot, Bound::Unbounded, Bound::Unbounded)
        .unwrap();
    assert_eq!(scan.next().unwrap().unwrap().key, "k000");
    rig.delete_range("k", "l");
    rig.store.compact_all().unwrap();
    rig.store.close().unwrap();
    assert!(matches!(rig.store.get(b"k000"), Err(StoreError::Closed)));
    assert_eq!(scan.map(Result::unwrap).count(), 299);
}

#[test]
fn get_and_scan_prefer_the_newest_table_of_l0() {
    let rig = Rig::new();
    for value in ["one", "two", "three"] {
        rig.put("k", value);
        rig.flush();
    }
    assert_eq!(rig.levels()[0], 3);
    assert_eq!(rig.get("k").unwrap(), "three");
    assert_eq!(all(&rig.store).unwrap()[&b"k"[..]], b"three");
}

#[test]
fn a_batch_is_seen_whole_or_not_at_all() {
    let rig = Rig::new();
    let before = rig.store.snapshot();
    let mut batch = WriteBatch::new();
    batch.put(b"a", b"1");
    batch.put(b"b", b"1");
    batch.delete(b"a");
    let written = rig.store.write(&batch).unwrap();
    assert_eq!(written.last.0 - written.first.0, 2);
    let after = rig.store.snapshot();
    assert!(after.seqno() > written.last && before.seqno() <= written.first);
    assert_eq!(rig.store.get_at(&before, b"b").unwrap().value, None);
    assert_eq!(rig.store.get_at(&after, b"b").unwrap().value.unwrap(), "1");
    // Within a batch the later operation wins.
    assert_eq!(rig.get("a"), None);
}

#[test]
fn a_lookup_names_the_version_or_the_tombstone_that_decided() {
    for flush in [false, true] {
        let rig = Rig::new();
        let mut batch = WriteBatch::new();
        batch.put(b"k", b"v");
        batch.delete(b"gone");
        batch.delete_range(b"x", Bound::Unbounded);
        let written = rig.store.write(&batch).unwrap();
        if flush {
            rig.flush();
        }
        let seqno = |key: &[u8]| rig.store.get(key).unwrap().seqno;
        assert_eq!(seqno(b"k"), written.first);
        assert_eq!(seqno(b"gone").0, written.first.0 + 1);
        assert_eq!(seqno(b"xyz"), written.last);
        assert_eq!(seqno(b"never").0, 0);
    }
}

#[test]
fn the_safe_position_stays_readable_until_it_moves_on() {
    let rig = Rig::new();
    rig.put("k", "1");
    let safe = rig.store.visible();
    rig.store.keep_from(safe);
    rig.put("k", "2");
    let between = rig.store.visible();
    rig.put("k", "3");
    rig.store.compact_all().unwrap();
    let at = |lsn| {
        let snapshot = rig.store.snapshot_at(lsn)?;
        Some(rig.store.get_at(&snapshot, b"k").unwrap().value.unwrap())
    };
    assert_eq!(at(safe).unwrap(), "1");
    assert_eq!(at(between).unwrap(), "2");
    rig.store.keep_from(rig.store.visible());
    rig.put("other", "x");
    rig.store.compact_all().unwrap();
    assert_eq!(at(between), None);
    assert_eq!(rig.get("k").unwrap(), "3");
}

// L2

#[test]
fn a_deleted_key_stays_deleted_down_all_levels() {
    let rig = Rig::new();
    for i in 0..40 {
        rig.put(&format!("k{i:02}"), "v");
    }
    rig.store.compact_all().unwrap();
    rig.store.compact_all().unwrap();
    rig.delete("k07");
    rig.delete_range("k20", "k30");
    rig.flush();
    assert_eq!(rig.get("k07"), None);
    let rig = rig.reopen();
    assert_eq!(rig.get("k07"), None);
    assert_eq!(rig.get("k25"), None);
    rig.store.compact_all().unwrap();
    assert_eq!(rig.get("k07"), None);
    assert_eq!(all(&rig.store).unwrap().len(), 29);
}

#[test]
fn a_memtable_of_tombstones_alone_is_flushed() {
    let rig = Rig::new();
    rig.put("a", "1");
    rig.put("b", "1");
    rig.flush();
    rig.delete("a");
    rig.flush();
    rig.delete_range("b", "c");
    rig.flush();
    assert_eq!(rig.levels()[0], 3);
    let rig = rig.reopen();
    assert_eq!(all(&rig.store).unwrap(), Map::new());
    rig.store.compact_all().unwrap();
    assert_eq!(
        rig.tables().len(),
        0,
        "nothing below, so the tombstones go too"
    );
}

// L3

#[test]
fn no_table_is_installed_before_the_log_is_synced() {
    let rig = Rig::new();
    rig.put("k", "v");
    assert!(rig.store.log().synced() < rig.store.visible());
    rig.media.fail(Fault::nth(1).of(CallKind::SyncMap));
    assert!(rig.store.flush().is_err());
    assert_eq!(rig.levels().iter().sum::<u64>(), 0);
    assert_eq!(rig.tables().len(), 0);
    // And the poisoned log refuses from then on; reads go on.
    assert!(rig.store.flush().is_err());
    assert_eq!(rig.get("k").unwrap(), "v");
}

#[test]
fn a_cut_at_any_call_of_a_flush_or_compaction_loses_nothing() {
    let prepare = || {
        let rig = Rig::new();
        for round in 0..3 {
            for i in 0..20 {
                rig.put(&format!("k{i:02}"), &format!("{round}-{}", "v".repeat(40)));
            }
            rig.delete_range("k03", "k05");
            rig.flush();
        }
        rig.put("last", "one");
        rig.store.log().sync_up_to(rig.store.visible()).unwrap();
        rig
    };
    let want = {
        let rig = prepare();
        let want = all(&rig.store).unwrap();
        let before = rig.media.calls();
        rig.store.compact_all().unwrap();
        (want, rig.media.calls() - before)
    };
    for call in 1..=want.1 {
        for seed in 0..4 {
            let rig = prepare();
            rig.media.cut_at_call(call);
            let _ = rig.store.compact_all();
            rig.media.power_cut(seed);
            let rig = rig
                .open_again()
                .unwrap_or_else(|e| panic!("cut at call {call}: {e}"));
            assert_eq!(
                all(&rig.store).unwrap(),
                want.0,
                "cut at call {call}, seed {seed}"
            );
            let live: u64 = rig.levels().iter().sum();
            assert_eq!(rig.tables().len() as u64, live, "leftovers are removed");
            rig.manifest();
        }
    }
}

// CURRENT named a manifest whose own name the power cut took away: two changes of a directory, of which the later survived.
#[test]
fn a_cut_at_any_call_of_an_open_loses_nothing() {
    let prepare = || {
        let rig = Rig::new();
        for i in 0..10 {
            rig.put(&format!("k{i}"), "v");
        }
        rig.flush();
        rig.put("last", "one");
        rig.store.log().sync_up_to(rig.store.visible()).unwrap();
        rig.media.kill();
        rig
    };
    let calls = {
        let rig = prepare();
        let media = rig.media.clone();
        let before = media.calls();
        let rig = rig.open_again().unwrap();
        rig.media.calls() - before
    };
    for call in 1..=calls {
        for seed in 0..12 {
            let Rig {
                media,
                mut options,
                store,
            } = prepare();
            drop(store);
            options.log.media = Arc::new(media.clone());
            media.cut_at_call(call);
            let _ = Store::open(Path::new(DIR), options.clone());
            media.power_cut(seed);
            options.log.media = Arc::new(media.clone());
            let (store, _) = Store::open(Path::new(DIR), options)
                .unwrap_or_else(|e| panic!("cut at call {call}, seed {seed}: {e}"));
            assert_eq!(
                all(&store).unwrap().len(),
                11,
                "cut at call {call}, seed {seed}"
            );
        }
    }
}

#[test]
fn no_file_name_is_used_twice() {
    let mut rig = Rig::new();
    let mut seen = BTreeSet::new();
    for round in 0..6 {
        rig.media.start_trace();
        for i in 0..30 {
            rig.put(&format!("k{i:02}"), &format!("{round}"));
        }
        rig.flush();
        rig.store.compact_all().unwrap();
        for call in rig.media.trace() {
            if call.kind == CallKind::Create && call.path.extension().is_some_and(|e| e == "tbl") {
                assert!(
                    seen.insert(call.path.clone()),
                    "{} is made again",
                    call.path.display()
                );
            }
        }
        if round % 2 == 0 {
            rig = rig.reopen();
        }
        assert_eq!(all(&rig.store).unwrap().len(), 30);
    }
}

#[test]
fn what_a_flush_installs_while_a_compaction_runs_stays() {
    // Compaction removes exactly what it read: an L0 table more survives it.
    let rig = Rig::new();
    for i in 0..30 {
        rig.put(&format!("k{i:02}"), "v");
        if i % 10 == 0 {
            rig.flush();
        }
    }
    rig.store.compact_all().unwrap();
    rig.put("later", "v");
    rig.flush();
    assert_eq!(rig.levels()[0], 1);
    let rig = rig.reopen();
    assert_eq!(all(&rig.store).unwrap().len(), 31);
}

#[test]
fn leftovers_are_removed_and_foreign_files_are_left_alone() {
    let rig = Rig::new();
    rig.put("k", "v");
    rig.flush();
    let dir = Path::new(DIR).join("tables");
    rig.media
        .put(&dir.join("00000000000000ff.tbl"), b"half a table")
        .unwrap();
    rig.media
        .put(&dir.join("MANIFEST-0000000000000000"), b"")
        .unwrap();
    rig.media.put(&dir.join("CURRENT.tmp"), b"").unwrap();
    rig.media.put(&dir.join("notes"), b"mine").unwrap();
    let rig = rig.reopen();
    assert_eq!(rig.tables().len(), 1);
    rig.manifest();
    assert!(!rig.media.image().contains_key(&dir.join("CURRENT.tmp")));
    assert!(rig.media.image().contains_key(&dir.join("notes")));
    // The name of the leftover is not used again either.
    rig.put("k2", "v");
    rig.flush();
    assert!(rig.tables().contains(&dir.join("0000000000000100.tbl")));
}

#[test]
fn tables_of_another_log_or_ahead_of_it_are_refused() {
    let rig = Rig::new();
    rig.put("k", "v");
    rig.flush();
    rig.store.close().unwrap();
    let dir = Path::new(DIR);
    let media = rig.media.fork(1);
    let log: Vec<_> = media
        .image()
        .into_keys()
        .filter(|p| p.starts_with(dir.join("log")))
        .collect();
    for path in log {
        media.remove(&path).unwrap();
    }
    let mut options = rig.options.clone();
    options.log.media = Arc::new(media.clone());
    let error = Store::open(dir, options.clone()).unwrap_err();
    assert!(matches!(error, OpenError::LogMismatch { .. }), "{error}");
    options.log.create.as_mut().unwrap().log = esker_wal::LogId(8);
    for path in media
        .image()
        .into_keys()
        .filter(|p| p.starts_with(dir.join("log")))
    {
        media.remove(&path).unwrap();
    }
    let error = Store::open(dir, options).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

#[test]
fn a_missing_table_or_manifest_or_current_is_noticed_at_open() {
    for what in ["table", "manifest", "current"] {
        let rig = Rig::new();
        rig.put("k", "v");
        rig.flush();
        rig.store.close().unwrap();
        let path = match what {
            "table" => rig.tables().into_iter().next().unwrap(),
            "manifest" => rig.manifest(),
            _ => Path::new(DIR).join("tables/CURRENT"),
        };
        rig.media.remove(&path).unwrap();
        let before = rig.media.image();
        let media = rig.media.clone();
        let error = rig.open_again().err().unwrap_or_else(|| panic!("{what}"));
        assert!(error.to_string().contains("tables"), "{what}: {error}");
        let tables = |image: std::collections::BTreeMap<PathBuf, Vec<u8>>| -> Vec<_> {
            image
                .into_iter()
                .filter(|(p, _)| p.starts_with("data/tables"))
                .collect()
        };
        assert_eq!(
            tables(media.image()),
            tables(before),
            "{what}: nothing is changed"
        );
    }
}

// L4

#[test]
fn a_damaged_table_blocks_its_keys_and_not_the_store() {
    let rig = Rig::new();
    rig.put("a", "1");
    rig.flush();
    rig.put("z", "1");
    rig.flush();
    rig.store.close().unwrap();
    let first = rig.tables().into_iter().next().unwrap();
    let len = rig.media.read(&first).unwrap().len() as u64;
    rig.media.flip(&first, len - 10, 1).unwrap();
    let rig = rig.open_again().unwrap();
    assert_eq!(rig.get("z").unwrap(), "1");
    let error = rig.store.get(b"a").unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(all(&rig.store).is_err());
    // A compaction of it fails, keeps its inputs, and is told to writers and in the stats (L6).
    let tables = rig.tables();
    assert!(rig.store.compact_all().is_err());
    assert_eq!(rig.tables(), tables);
    assert!(rig.store.stats().background_error.is_some());
    let mut batch = WriteBatch::new();
    batch.put(b"b", b"1");
    assert!(matches!(
        rig.store.write(&batch),
        Err(StoreError::Background { .. })
    ));
    assert_eq!(rig.get("z").unwrap(), "1");
}

#[test]
fn a_read_error_is_neither_not_found_nor_the_end_of_a_compactions_input() {
    let rig = Rig::with(|o| o.cache_bytes = 0);
    for round in 0..3 {
        for i in 0..100 {
            rig.put(&format!("k{i:02}"), &format!("{round}-{}", "v".repeat(30)));
        }
        rig.flush();
    }
    let want = all(&rig.store).unwrap();
    let tables = rig.tables();
    rig.media.fail(Fault::nth(3).of(CallKind::Read));
    assert!(rig.store.compact_all().is_err());
    rig.media.heal();
    assert_eq!(rig.tables(), tables, "inputs stay, outputs go");
    assert_eq!(all(&rig.store).unwrap(), want);
    rig.media.fail(Fault::nth(1).of(CallKind::Read));
    assert!(rig.store.get(b"k50").is_err());
    assert_eq!(
        rig.store.get(b"k50").unwrap().value.unwrap(),
        "2-".to_owned() + &"v".repeat(30)
    );
}

// L6

#[test]
fn a_full_disk_refuses_writes_when_memory_is_full_and_heals() {
    let rig = Rig::with(|o| o.memtable_bytes = 4 << 10);
    let value = "v".repeat(200);
    rig.put("first", &value);
    rig.media.fail(
        Fault::nth(1)
            .of(CallKind::Write)
            .on(".tbl")
            .times(1 << 40)
            .errno(ENOSPC),
    );
    let mut batch = WriteBatch::new();
    let mut refused = None;
    for i in 0..1000 {
        batch.clear();
        batch.put(format!("k{i:03}").as_bytes(), value.as_bytes());
        if let Err(error) = rig.store.write(&batch) {
            refused = Some(error);
            break;
        }
        rig.store.step();
    }
    let refused = refused.expect("memory is bounded");
    assert!(
        matches!(refused, StoreError::Background { .. }),
        "{refused}"
    );
    assert!(rig.store.stats().background_error.is_some());
    assert_eq!(rig.get("first").unwrap(), value);
    rig.media.heal();
    rig.store.write(&batch).unwrap();
    rig.flush();
    assert_eq!(rig.store.stats().background_error, None);
    assert!(rig.store.stats().flushes > 1);
}

#[test]
fn tries_on_a_full_disk_leave_one_table_at_most_and_then_none() {
    let rig = Rig::new();
    rig.put("k", "v");
    rig.media.fail(
        Fault::nth(1)
            .of(CallKind::Write)
            .on("MANIFEST")
            .times(5)
            .errno(ENOSPC),
    );
    for _ in 0..5 {
        assert!(rig.store.flush().is_err());
        assert_eq!(rig.tables().len(), 1);
    }
    assert_eq!(rig.get("k").unwrap(), "v");
    rig.flush();
    assert_eq!(rig.tables().len(), 1);
    assert_eq!(rig.levels()[0], 1);
    assert_eq!(rig.store.stats().background_error, None);
    let rig = rig.reopen();
    assert_eq!(rig.get("k").unwrap(), "v");
}

#[test]
fn a_long_row_of_tombstones_is_merged_away() {
    let rig = Rig::with(|o| {
        o.memtable_bytes = 1 << 20;
        o.table_bytes = 64 << 10;
        o.block_bytes = 4 << 10;
        o.level_base_bytes = 64 << 20;
        o.l0_tables = (1, 20, 30);
        o.log.segment_bytes = 256 << 10;
    });
    let keys = 20_000;
    let mut batch = WriteBatch::new();
    for begin in (0..keys).step_by(200) {
        batch.clear();
        for i in begin..begin + 200 {
            batch.put(format!("k{i:06}").as_bytes(), b"v");
        }
        rig.store.write(&batch).unwrap();
    }
    rig.flush();
    while rig.store.step() {}
    for begin in (0..keys).step_by(200) {
        batch.clear();
        for i in begin..begin + 200 {
            batch.delete(format!("k{i:06}").as_bytes());
        }
        rig.store.write(&batch).unwrap();
    }
    rig.put("z", "v");
    rig.flush();
    while rig.store.step() {}
    assert_eq!(all(&rig.store).unwrap().len(), 1);
    let live: u64 = rig.store.stats().estimated_keys;
    assert!(live < 1000, "{:?}", rig.store.stats());
}

#[test]
fn a_failed_sync_of_a_table_reaches_writers_and_the_next_flush_does_not_pretend() {
    let rig = Rig::new();
    rig.put("k", "v");
    rig.media
        .fail(Fault::nth(1).of(CallKind::SyncFile).on(".tbl"));
    assert!(rig.store.flush().is_err());
    rig.media.heal();
    assert!(rig.store.flush().is_err(), "the failure is not forgotten");
    let mut batch = WriteBatch::new();
    batch.put(b"k", b"w");
    assert!(matches!(
        rig.store.write(&batch),
        Err(StoreError::Background { .. })
    ));
    assert_eq!(rig.get("k").unwrap(), "v");
    assert!(rig.store.close().is_err(), "close reports it");
    let rig = rig.open_again().unwrap();
    assert_eq!(rig.get("k").unwrap(), "v");
    rig.flush();
}

#[test]
fn a_full_disk_does_not_keep_the_store_from_opening() {
    let rig = Rig::new();
    for i in 0..40 {
        rig.put(&format!("k{i:02}"), &"v".repeat(100));
    }
    rig.flush();
    rig.put("k00", "new");
    rig.store.close().unwrap();
    rig.media.set_capacity(Some(rig.media.used_bytes()));
    match rig.open_again() {
        Ok(rig) => assert_eq!(rig.get("k00").unwrap(), "new"),
        // The log may need a segment for its epoch and says so; the tables must not be what refuses.
        Err(OpenError::Log(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

// Reopening and bounds

#[test]
fn a_reopen_replays_from_the_flushed_lsn_in_bounded_memory() {
    let rig = Rig::with(|o| o.memtable_bytes = 1 << 20);
    for i in 0..400 {
        rig.put(&format!("k{i:03}"), &"v".repeat(100));
    }
    rig.store.close().unwrap();
    let Rig {
        media,
        mut options,
        store,
    } = rig;
    drop(store);
    // Far less memory than before: what piles up is flushed during the replay.
    options.memtable_bytes = 4 << 10;
    options.memtables_max = 1;
    let (store, recovered) = Store::open(Path::new(DIR), options.clone()).unwrap();
    assert_eq!(recovered.replayed_frames, 400);
    let stats = store.stats();
    assert!(
        stats.memtable_bytes < 3 * (4 << 10),
        "{} bytes",
        stats.memtable_bytes
    );
    assert!(stats.flushes > 3);
    assert_eq!(all(&store).unwrap().len(), 400);
    store.flush().unwrap();
    store.close().unwrap();
    let (store, recovered) = Store::open(Path::new(DIR), options).unwrap();
    assert_eq!(recovered.replayed_frames, 0);
    assert_eq!(all(&store).unwrap().len(), 400);
    drop(media);
}

#[test]
fn the_log_is_released_once_memtables_are_in_tables() {
    let rig = Rig::with(|o| o.memtable_bytes = 8 << 10);
    for i in 0..2000 {
        rig.put(&format!("k{:02}", i % 50), &"v".repeat(100));
        while rig.store.step() {}
    }
    let log = rig.store.log();
    assert!(
        log.oldest() > esker_wal::Lsn(64 << 10),
        "oldest {}",
        log.oldest()
    );
    assert_eq!(all(&rig.store).unwrap().len(), 50);
}

#[test]
fn a_stepped_store_compacts_by_count_and_by_size() {
    let rig = Rig::with(|o| {
        o.memtable_bytes = 4 << 10;
        o.l0_tables = (2, 4, 8);
        o.level_base_bytes = 8 << 10;
        o.table_bytes = 4 << 10;
    });
    for i in 0..3000u32 {
        let key = i.wrapping_mul(2_654_435_761) % 1000;
        rig.put(
            &format!("k{key:04}"),
            &format!("{i}-{}", "v".repeat((i % 60) as usize)),
        );
        while rig.store.step() {}
    }
    let levels = rig.levels();
    assert!(levels[0] < 4, "{levels:?}");
    assert!(levels[2] > 3, "{levels:?}");
    assert_eq!(all(&rig.store).unwrap().len(), 1000);
    assert_eq!(rig.tables().len() as u64, levels.iter().sum::<u64>());
    let rig = rig.reopen();
    assert_eq!(rig.levels(), levels);
    assert_eq!(all(&rig.store).unwrap().len(), 1000);
}

#[test]
fn an_empty_batch_writes_nothing_and_a_closed_store_says_so_at_once() {
    let rig = Rig::new();
    let before = rig.store.log().reserved();
    rig.store.write(&WriteBatch::new()).unwrap();
    assert_eq!(rig.store.log().reserved(), before);
    rig.store.close().unwrap();
    rig.store.close().unwrap();
    let mut batch = WriteBatch::new();
    batch.put(b"k", b"v");
    assert!(matches!(rig.store.write(&batch), Err(StoreError::Closed)));
    assert!(matches!(rig.store.flush(), Err(StoreError::Closed)));
    let snapshot = rig.store.snapshot();
    assert!(
        rig.store
            .scan(&snapshot, Bound::Unbounded, Bound::Unbounded)
            .is_err()
    );
}

#[test]
fn an_epoch_begun_while_the_store_runs_does_not_hold_up_visibility() {
    let rig = Rig::new();
    rig.put("a", "1");
    rig.store.begin_epoch(5).unwrap();
    assert_eq!(rig.store.visible(), rig.store.log().published());
    // Begun behind the store's back it is found when a write waits for it.
    rig.store.log().begin_epoch(6).unwrap();
    rig.put("b", "1");
    assert_eq!(rig.store.visible(), rig.store.log().published());
    rig.flush();
    let rig = rig.reopen();
    assert_eq!(all(&rig.store).unwrap().len(), 2);
}

#[test]
fn a_file_of_the_media_trait_stays_readable_after_its_removal() {
    // What readers of a table that compaction removed rely on.
    let media = SimMedia::new(3);
    media.create_dir_all(Path::new("d")).unwrap();
    let file = media.create(Path::new("d/f"), 0).unwrap();
    file.write_all_at(b"bytes", 0).unwrap();
    media.remove(Path::new("d/f")).unwrap();
    let mut buf = [0; 5];
    file.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"bytes");
}
