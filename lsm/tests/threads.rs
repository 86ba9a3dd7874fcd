//! The store with its worker threads, on real files.

#![allow(clippy::print_stdout, reason = "tests tell what they did")]

use esker_lsm::{Store, StoreError, StoreOptions, WriteBatch};
use esker_wal::{Create, LogId, Lsn, NodeId};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn options() -> StoreOptions {
    let mut options = StoreOptions {
        memtable_bytes: 128 << 10,
        table_bytes: 64 << 10,
        level_base_bytes: 256 << 10,
        cache_bytes: 1 << 20,
        l0_tables: (2, 4, 8),
        ..StoreOptions::default()
    };
    options.log.create = Some(Create {
        log: LogId(1),
        node: NodeId(2),
        base: Lsn::ZERO,
    });
    options.log.segment_bytes = 256 << 10;
    options
}

fn open(dir: &Path) -> Store {
    Store::open(dir, options()).unwrap().0
}

#[test]
fn writers_and_readers_at_once_lose_nothing_and_see_whole_batches() {
    const WRITERS: u64 = 4;
    const WRITES: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| {
                let store = &store;
                scope.spawn(move || {
                    let mut batch = WriteBatch::new();
                    for i in 0..WRITES {
                        batch.clear();
                        // Both keys of a pair always say the same.
                        let value = format!("{i}-{}", "x".repeat((i % 200) as usize));
                        batch.put(format!("a{w}-{:03}", i % 100).as_bytes(), value.as_bytes());
                        batch.put(format!("b{w}-{:03}", i % 100).as_bytes(), value.as_bytes());
                        if i % 50 == 49 {
                            let gone = format!("c{w}");
                            batch.delete_range(gone.as_bytes(), Bound::Unbounded);
                        }
                        let written = store.write(&batch).unwrap();
                        assert!(store.visible() >= written.end);
                        if i % 500 == 0 {
                            store.log().sync_up_to(written.end).unwrap();
                        }
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let snapshot = store.snapshot();
                let mut scan = store
                    .scan(&snapshot, Bound::Unbounded, Bound::Excluded(b"c"))
                    .unwrap();
                let mut a = Vec::new();
                let mut b = Vec::new();
                for entry in scan.by_ref() {
                    let entry = entry.unwrap();
                    let side = if entry.key[0] == b'a' { &mut a } else { &mut b };
                    side.push((entry.key.slice(1..), entry.value));
                }
                assert_eq!(a, b);
                let backwards = store
                    .scan(&snapshot, Bound::Included(b"a"), Bound::Excluded(b"b"))
                    .unwrap()
                    .rev()
                    .count();
                assert_eq!(backwards, a.len());
                for (key, value) in a.iter().step_by(17) {
                    let key = [b"a", &key[..]].concat();
                    assert_eq!(
                        store.get_at(&snapshot, &key).unwrap().value.as_ref(),
                        Some(value)
                    );
                }
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    let check = |store: &Store| {
        for w in 0..WRITERS {
            for k in 0..100 {
                let found = store
                    .get(format!("a{w}-{k:03}").as_bytes())
                    .unwrap()
                    .value
                    .unwrap();
                let last = WRITES - 100 + k;
                assert!(found.starts_with(format!("{last}-").as_bytes()));
            }
        }
    };
    check(&store);
    let stats = store.stats();
    assert!(stats.flushes > 2 && stats.compactions > 0, "{stats:?}");
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    check(&store);
    store.compact_all().unwrap();
    check(&store);
}

#[test]
fn memory_stays_bounded_while_writers_outrun_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let most = AtomicU64::new(0);
    let value = vec![b'v'; 1000];
    let mut batch = WriteBatch::new();
    for i in 0..8_000u32 {
        batch.clear();
        batch.put(&i.wrapping_mul(2_654_435_761).to_be_bytes(), &value);
        store.write(&batch).unwrap();
        if i % 16 == 0 {
            most.fetch_max(store.stats().memtable_bytes, Ordering::Relaxed);
        }
    }
    let bound = 128 * 1024 * 5 + 4096;
    assert!(
        most.load(Ordering::Relaxed) <= bound,
        "{} of {bound}",
        most.load(Ordering::Relaxed)
    );
    store.close().unwrap();
}

#[test]
fn a_writer_that_got_busy_is_told_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let rung = Arc::new((parking_lot::Mutex::new(0u64), parking_lot::Condvar::new()));
    let _guard = store.watch_room({
        let rung = rung.clone();
        Arc::new(move || {
            *rung.0.lock() += 1;
            rung.1.notify_all();
        })
    });
    let mut batch = WriteBatch::new();
    let value = vec![b'v'; 2000];
    let mut busy = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    for i in 0..6_000u32 {
        batch.clear();
        batch.put(&i.to_be_bytes(), &value);
        loop {
            let seen = *rung.0.lock();
            match store.try_write(&batch) {
                Ok(_) => break,
                Err(StoreError::Busy) => {
                    busy += 1;
                    let mut turns = rung.0.lock();
                    while *turns == seen {
                        let late = rung.1.wait_until(&mut turns, deadline).timed_out();
                        assert!(!late, "nobody rang: {:?}", store.stats());
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    println!("{busy} times busy");
    store.close().unwrap();
}

#[test]
fn close_amid_writers_neither_hangs_nor_loses_what_was_acknowledged() {
    for round in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let written: Vec<u64> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|w| {
                    let store = store.clone();
                    scope.spawn(move || {
                        let mut batch = WriteBatch::new();
                        for i in 0u64.. {
                            batch.clear();
                            batch.put(format!("{w}-{i:06}").as_bytes(), b"v");
                            match store.write(&batch) {
                                Ok(_) => {}
                                Err(StoreError::Closed) => return i,
                                Err(StoreError::Log(esker_wal::LogError::Closed)) => return i,
                                Err(error) => panic!("{error}"),
                            }
                        }
                        unreachable!()
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(1 + round % 5));
            store.close().unwrap();
            writers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        drop(store);
        let store = open(dir.path());
        for (w, n) in written.iter().enumerate() {
            for i in 0..*n {
                let found = store.get(format!("{w}-{i:06}").as_bytes()).unwrap();
                assert!(found.value.is_some(), "{w}-{i} of {n}");
            }
        }
    }
}

fn descriptors(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy().into_owned();
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|e| std::fs::read_link(e.ok()?.path()).ok())
        .map(|p| p.to_string_lossy().into_owned())
        .filter(|p| p.contains(&dir))
        .collect()
}

fn threads() -> BTreeSet<String> {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|e| std::fs::read_to_string(e.ok()?.path().join("comm")).ok())
        .collect()
}

#[test]
fn close_leaves_no_thread_descriptor_mapping_or_temporary_file() {
    // In a process of its own, because other tests of this file have workers too.
    if std::env::var_os("ESKER_ALONE").is_none() {
        let me = std::env::current_exe().unwrap();
        let out = std::process::Command::new(me)
            .args([
                "--exact",
                "close_leaves_no_thread_descriptor_mapping_or_temporary_file",
            ])
            .env("ESKER_ALONE", "1")
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stdout)
        );
        return;
    }
    for drop_only in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut batch = WriteBatch::new();
        for i in 0..3_000u32 {
            batch.clear();
            batch.put(&i.to_be_bytes(), &[7; 300]);
            store.write(&batch).unwrap();
        }
        assert!(threads().iter().any(|t| t.starts_with("esker-flush")));
        if drop_only {
            drop(store);
        } else {
            // The handle lives on: what it held does not.
            store.close().unwrap();
            store.close().unwrap();
            let _keep = store;
            check(dir.path());
            continue;
        }
        check(dir.path());
    }

    fn check(dir: &Path) {
        // A thread that was joined may stand in /proc for a moment.
        let deadline = Instant::now() + Duration::from_secs(5);
        while threads().iter().any(|t| t.starts_with("esker-")) {
            assert!(Instant::now() < deadline, "{:?}", threads());
            std::thread::yield_now();
        }
        assert_eq!(descriptors(dir), Vec::<String>::new());
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains(&*dir.to_string_lossy()));
        for entry in std::fs::read_dir(dir.join("tables")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let known =
                name.ends_with(".tbl") || name == "CURRENT" || name.starts_with("MANIFEST-");
            assert!(known, "{name}");
        }
    }
}

#[test]
fn a_replica_applies_the_frames_of_its_primary() {
    use esker_wal::{OpenRole, ReadLimit, WireFrame};
    let dir = tempfile::tempdir().unwrap();
    let primary = open(&dir.path().join("primary"));
    let mut follower = options();
    follower.log.role = OpenRole::Follower;
    follower.log.create = Some(Create {
        log: LogId(1),
        node: NodeId(3),
        base: Lsn::ZERO,
    });
    follower.memtable_bytes = 64 << 10;
    let replica = Store::open(&dir.path().join("replica"), follower.clone())
        .unwrap()
        .0;
    let mut batch = WriteBatch::new();
    for i in 0..4_000u32 {
        batch.clear();
        batch.put(
            format!("k{:04}", i % 700).as_bytes(),
            format!("{i}").as_bytes(),
        );
        if i % 300 == 0 {
            batch.delete_range(b"k0100", Bound::Excluded(b"k0200"));
        }
        primary.write(&batch).unwrap();
    }
    primary.log().sync_up_to(primary.visible()).unwrap();
    let mut reader = primary
        .log()
        .reader(primary.log().oldest(), ReadLimit::Synced)
        .unwrap();
    if reader.position() > replica.log().published() {
        panic!("the primary released what the replica needs");
    }
    let mut batched = Vec::new();
    while let Some(frame) = reader.next().unwrap() {
        replica
            .log()
            .append_replicated(WireFrame {
                header: frame.header,
                payload: &frame.payload,
            })
            .unwrap();
        batched.push(frame);
        // Appended in groups, applied later: a rotation may come between.
        if batched.len() == 37 {
            for frame in batched.drain(..) {
                replica
                    .apply_replicated(&frame.header, &frame.payload)
                    .unwrap();
            }
        }
    }
    for frame in batched.drain(..) {
        replica
            .apply_replicated(&frame.header, &frame.payload)
            .unwrap();
    }
    assert_eq!(replica.visible(), primary.visible());
    let contents = |store: &Store| -> Vec<_> {
        let snapshot = store.snapshot();
        let scan = store
            .scan(&snapshot, Bound::Unbounded, Bound::Unbounded)
            .unwrap();
        scan.map(|e| e.unwrap())
            .map(|e| (e.key, e.value, e.seqno))
            .collect()
    };
    assert_eq!(contents(&replica), contents(&primary));
    assert!(replica.stats().flushes > 0);
    replica.close().unwrap();
    drop(replica);
    let replica = Store::open(&dir.path().join("replica"), follower)
        .unwrap()
        .0;
    assert_eq!(contents(&replica), contents(&primary));
}
