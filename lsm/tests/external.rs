//! Stores whose log is their caller's (C4, L3), and checkpoints of them.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests tell what they did"
)]

mod common;

use common::external::{CHECKPOINT, ID, place};
use common::{DIR, all, options};
use esker_lsm::{
    Condition, Conditional, EntryBatch, ExternalLog, OpenError, SeqNo, Store, StoreError,
    StoreOptions, WriteBatch, remove_checkpoint,
};
use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{Fault, SimMedia, SimRng};
use esker_wal::{LogId, Lsn, Workers};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

#[test]
fn after_a_power_cut_tables_hold_whole_entries_and_none_that_the_log_lost() {
    let mut seen = BTreeMap::new();
    let mut failed = Vec::new();
    for seed in common::seeds(80) {
        match catch_unwind(AssertUnwindSafe(|| common::external::run(seed, 200))) {
            Ok(more) => {
                for (what, n) in more {
                    *seen.entry(what).or_insert(0) += n;
                }
            }
            Err(_) => {
                eprintln!("seed {seed}: ESKER_SEED={seed} replays it");
                failed.push(seed);
            }
        }
    }
    println!("{seen:?}");
    assert!(failed.is_empty(), "seeds {failed:?}");
    if std::env::var("ESKER_SEED").is_err() {
        for path in [
            "applied again",
            "checkpoint",
            "checkpoint waits for the log",
            "cut while opening",
            "ended while removing",
            "flush",
            "flush waits for the log",
            "held for the log",
            "killed at a call",
            "opened on a full disk",
            "power cut at a call",
            "refused",
        ] {
            assert!(seen.contains_key(path), "never seen: {path}");
        }
    }
}

fn quiet(media: &SimMedia) -> StoreOptions {
    let mut options = options(media, &Arc::new(ManualClock::default()));
    options.memtable_bytes = 1 << 20;
    options.l0_tables = (100, 200, 300);
    options
}

fn open(media: &SimMedia, dir: &str) -> Store {
    Store::open_external(Path::new(dir), quiet(media), ID).unwrap()
}

fn put(store: &Store, index: u64, key: &str, value: &str) {
    let mut batch = WriteBatch::new();
    batch.put(key.as_bytes(), value.as_bytes());
    let (first, end) = place(index);
    store.apply_entry(first, end, &[], &batch).unwrap();
}

fn get(store: &Store, key: &str) -> Option<String> {
    let found = store.get(key.as_bytes()).unwrap();
    found.value.map(|v| String::from_utf8(v.to_vec()).unwrap())
}

#[test]
fn seqnos_are_those_that_the_caller_derives_from_the_index() {
    let media = SimMedia::new(1);
    let store = open(&media, DIR);
    let mut batch = WriteBatch::new();
    batch.put(b"a", b"1");
    batch.put(b"b", b"1");
    let (first, end) = place(3);
    store.apply_entry(first, end, &[], &batch).unwrap();
    assert_eq!(store.get(b"a").unwrap().seqno, first);
    assert_eq!(store.get(b"b").unwrap().seqno, SeqNo(first.0 + 1));
    assert_eq!(store.visible(), Lsn(end.0));
    // The same entry again, and one before it, are refused; so is one with more operations than SeqNos.
    for at in [3, 2] {
        let (first, end) = place(at);
        let again = store.apply_entry(first, end, &[], &batch);
        assert!(
            matches!(again, Err(StoreError::NotNext { .. })),
            "{again:?}"
        );
    }
    let (first, _) = place(4);
    let narrow = store.apply_entry(first, SeqNo(first.0 + 1), &[], &batch);
    assert!(
        matches!(narrow, Err(StoreError::NotNext { .. })),
        "{narrow:?}"
    );
    assert_eq!(store.visible(), Lsn(end.0));
}

#[test]
fn nothing_goes_into_tables_above_what_the_external_log_has_synced() {
    let media = SimMedia::new(1);
    let store = open(&media, DIR);
    put(&store, 1, "a", "1");
    put(&store, 2, "b", "2");
    store.note_log_synced(place(1).1);
    // Stepped, it can't wait for the log.
    assert!(matches!(store.flush(), Err(StoreError::Busy)));
    assert_eq!(store.durable(), ID.base);
    assert!(!store.step(), "no work while the log is behind");
    store.note_log_synced(place(2).1);
    store.flush().unwrap();
    assert_eq!(store.durable(), place(2).1);
    put(&store, 3, "c", "3");
    media.kill();
    drop(store);
    let store = open(&media, DIR);
    assert_eq!(
        (store.durable(), store.visible()),
        (place(2).1, Lsn(place(2).1.0))
    );
    assert_eq!(
        (get(&store, "b").as_deref(), get(&store, "c")),
        (Some("2"), None)
    );
}

/// The process was killed before the manifest's record was synced, and the disk was full at the next open: what the record said counted as durable, the log forgot
/// it, and the power took the record.
#[test]
fn u2_what_an_open_without_room_found_is_not_durable_before_a_manifest_stands() {
    let mut found = 0;
    for at in 1.. {
        let media = SimMedia::new(at);
        let store = open(&media, DIR);
        put(&store, 1, "a", "1");
        store.note_log_synced(place(1).1);
        store.flush().unwrap();
        put(&store, 2, "b", "2");
        store.note_log_synced(place(2).1);
        media.cut_at_call(at);
        let flushed = store.flush();
        if !media.is_down() {
            flushed.unwrap();
            break;
        }
        media.kill();
        drop(store);
        let killed = media;
        for seed in 0..16 {
            let media = killed.fork(seed);
            media.set_capacity(Some(media.used_bytes()));
            let store = open(&media, DIR);
            let (durable, visible) = (store.durable(), SeqNo(store.visible().0));
            found += u32::from(visible == place(2).1);
            media.power_cut(seed);
            drop(store);
            media.set_capacity(None);
            let store = open(&media, DIR);
            assert!(
                store.durable() >= durable,
                "killed at call {at}, seed {seed}: the log has forgotten what is below SeqNo {durable}"
            );
            assert!(durable < visible, "there was no room for a manifest");
        }
        // With room it is durable by the next flush.
        let media = killed;
        media.set_capacity(Some(media.used_bytes()));
        let store = open(&media, DIR);
        media.set_capacity(None);
        let next = (store.visible().0 >> 10) + 1;
        put(&store, next, "c", "3");
        store.note_log_synced(place(next).1);
        store.flush().unwrap();
        assert_eq!(store.durable(), place(next).1);
    }
    assert!(found > 0, "the record was never seen");
}

/// CP2: `CURRENT` was removed by a process that was killed, the tables by the next one; the power gave `CURRENT` back, and it led to nothing.
#[test]
fn cp2_a_removal_that_was_cut_short_is_durable_before_it_goes_on() {
    let checkpoint = Path::new(CHECKPOINT);
    let mut cut_short = 0;
    for at in 1.. {
        let media = SimMedia::new(at);
        let store = open(&media, DIR);
        put(&store, 1, "a", "1");
        store.note_log_synced(place(1).1);
        store.checkpoint(checkpoint).unwrap();
        drop(store);
        media.cut_at_call(at);
        let _ = remove_checkpoint(&media, checkpoint);
        if !media.is_down() {
            break;
        }
        media.kill();
        let current = checkpoint.join("tables/CURRENT");
        cut_short += u32::from(media.read(&current).is_err());
        let killed = media;
        for cut in 1..16 {
            for seed in 0..8 {
                let media = killed.fork(seed);
                media.cut_at_call(cut);
                let _ = remove_checkpoint(&media.clone(), checkpoint);
                media.power_cut(seed);
                if media.read(&current).is_ok() {
                    let store = open(&media, CHECKPOINT);
                    assert_eq!(get(&store, "a").as_deref(), Some("1"));
                }
            }
        }
    }
    assert!(cut_short > 1, "{cut_short}");
}

#[test]
fn a_store_with_an_external_log_keeps_none_and_takes_no_writes_beside_it() {
    let media = SimMedia::new(1);
    let store = open(&media, DIR);
    let mut batch = WriteBatch::new();
    batch.put(b"a", b"1");
    assert!(matches!(store.write(&batch), Err(StoreError::ExternalLog)));
    let refused = store.write_if(&[], &batch);
    assert!(matches!(refused, Err(StoreError::ExternalLog)));
    assert!(matches!(store.begin_epoch(2), Err(StoreError::ExternalLog)));
    // C4: one log per node, and it is not here.
    let segments = media
        .image()
        .into_keys()
        .filter(|p| p.to_string_lossy().ends_with(".seg"));
    assert_eq!(segments.count(), 0);
    // W9 holds without a log of its own.
    let second = Store::open_external(Path::new(DIR), quiet(&media), ID);
    assert!(
        matches!(second, Err(OpenError::Locked { .. })),
        "{second:?}"
    );
    store.close().unwrap();
    let store = open(&media, DIR);
    store.close().unwrap();
    let (first, end) = place(1);
    let closed = store.apply_entry(first, end, &[], &batch);
    assert!(matches!(closed, Err(StoreError::Closed)), "{closed:?}");

    let (own, _) = Store::open(Path::new("own"), quiet(&media)).unwrap();
    let refused = own.apply_entry(first, end, &[], &batch);
    assert!(matches!(refused, Err(StoreError::OwnLog)), "{refused:?}");
}

#[test]
fn a_store_is_not_opened_under_another_identity() {
    let media = SimMedia::new(1);
    open(&media, DIR).close().unwrap();
    let mut other = ID;
    other.id = esker_wal::LogId(6);
    let refused = Store::open_external(Path::new(DIR), quiet(&media), other);
    assert!(
        matches!(refused, Err(OpenError::Corrupt { .. })),
        "{refused:?}"
    );
}

#[test]
fn an_entry_whose_condition_fails_leaves_nothing_but_its_place() {
    let media = SimMedia::new(1);
    let store = open(&media, DIR);
    put(&store, 1, "token", "7");
    let mut batch = WriteBatch::new();
    batch.put(b"a", b"1");
    let token = |expected| Condition {
        key: b"token",
        expected,
    };
    let (first, end) = place(2);
    let refused = store
        .apply_entry(first, end, &[token(Some(b"6"))], &batch)
        .unwrap();
    let Conditional::Refused {
        condition: 0,
        found,
    } = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(found.value.unwrap(), "7");
    assert_eq!((get(&store, "a"), store.visible()), (None, Lsn(end.0)));
    let (first, end) = place(3);
    let written = store
        .apply_entry(first, end, &[token(Some(b"7"))], &batch)
        .unwrap();
    assert!(matches!(written, Conditional::Written(_)));
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
}

#[test]
fn a_checkpoint_outlives_what_the_store_does_afterwards() {
    let media = SimMedia::new(1);
    let store = open(&media, DIR);
    for n in 1..=30 {
        put(&store, n, &format!("k{n:02}"), "old");
    }
    store.note_log_synced(place(100).1);
    let made = store.checkpoint(Path::new(CHECKPOINT)).unwrap();
    assert_eq!(made.end, place(30).1);
    assert_eq!(made.files.last().unwrap().0, Path::new("tables/CURRENT"));
    let used = media.used_bytes();
    for n in 31..=60 {
        put(&store, n, &format!("k{:02}", n - 30), "new");
    }
    store.compact_all().unwrap();
    store.close().unwrap();
    media.power_cut(3);
    assert!(used > 0);
    let copy = open(&media, CHECKPOINT);
    assert_eq!(copy.durable(), place(30).1);
    let found = all(&copy).unwrap();
    assert_eq!(found.len(), 30);
    assert!(found.values().all(|v| v == b"old"));
    // And it goes on as a store of its own.
    put(&copy, 31, "k01", "other");
    copy.note_log_synced(place(31).1);
    copy.flush().unwrap();
    drop(copy);
    assert_eq!(get(&open(&media, DIR), "k01").as_deref(), Some("new"));
}

#[test]
fn a_checkpoint_takes_no_room_for_its_tables() {
    let media = SimMedia::new(1);
    let store = open(&media, DIR);
    let mut rng = SimRng::new(1);
    for n in 1..=200 {
        // Not to be compressed.
        let value: String = (0..30)
            .map(|_| format!("{:016x}", rng.next_u64()))
            .collect();
        put(&store, n, &format!("k{n:03}"), &value);
    }
    store.note_log_synced(place(200).1);
    store.flush().unwrap();
    let before = media.used_bytes();
    let made = store.checkpoint(Path::new(CHECKPOINT)).unwrap();
    let bytes: u64 = made.files.iter().map(|(_, bytes)| bytes).sum();
    assert!(bytes > 10_000, "{made:?}");
    assert!(media.used_bytes() - before <= 2 * 4096);
}

#[test]
fn a_checkpoint_is_refused_over_a_complete_one_and_replaces_an_incomplete_one() {
    let media = SimMedia::new(1);
    let store = open(&media, DIR);
    put(&store, 1, "a", "1");
    store.note_log_synced(place(9).1);
    let to = Path::new(CHECKPOINT);
    // Each call of its making fails once.
    let mut n = 0;
    loop {
        n += 1;
        media.fail(Fault::nth(n).on(CHECKPOINT));
        let made = store.checkpoint(to);
        media.heal();
        let current = media.exists(&to.join("tables/CURRENT")).unwrap();
        if made.is_ok() {
            break;
        }
        if current {
            // It was complete when a later call failed; nobody was told so.
            remove_checkpoint(&media, to).unwrap();
        }
    }
    assert!(n > 8, "{n} calls only");
    let again = store.checkpoint(to);
    assert!(matches!(again, Err(StoreError::Io { .. })), "{again:?}");
    put(&store, 2, "a", "2");
    remove_checkpoint(&media, to).unwrap();
    remove_checkpoint(&media, to).unwrap();
    assert_eq!(store.checkpoint(to).unwrap().end, place(2).1);
    let over_itself = store.checkpoint(Path::new(DIR));
    assert!(matches!(over_itself, Err(StoreError::Io { .. })));
    assert_eq!(get(&open(&media, CHECKPOINT), "a").as_deref(), Some("2"));
}

#[test]
fn a_checkpoint_of_a_store_with_a_log_opens_as_one() {
    let media = SimMedia::new(1);
    let (store, _) = Store::open(Path::new(DIR), quiet(&media)).unwrap();
    let mut batch = WriteBatch::new();
    batch.put(b"a", b"1");
    let written = store.write(&batch).unwrap();
    let made = store.checkpoint(Path::new(CHECKPOINT)).unwrap();
    assert!(made.end >= written.end.into());
    batch.put(b"b", b"1");
    store.write(&batch).unwrap();
    let mut options = quiet(&media);
    let create = options.log.create.as_mut().unwrap();
    create.base = Lsn(made.end.0);
    let (copy, recovered) = Store::open(Path::new(CHECKPOINT), options).unwrap();
    assert_eq!(recovered.replayed_frames, 0);
    assert_eq!(
        (get(&copy, "a").as_deref(), get(&copy, "b")),
        (Some("1"), None)
    );
    copy.write(&batch).unwrap();
    assert_eq!(get(&copy, "b").as_deref(), Some("1"));
}

#[test]
fn a_thread_that_applies_is_held_until_the_log_is_synced_and_no_longer() {
    let media = SimMedia::new(1);
    let mut options = options(&media, &Arc::new(ManualClock::default()));
    options.log.workers = Workers::Threads;
    let store = Store::open_external(Path::new(DIR), options, ID).unwrap();
    let applier = std::thread::spawn({
        let store = store.clone();
        move || {
            for n in 1..=200 {
                put(&store, n, &format!("k{n:03}"), &"v".repeat(200));
            }
        }
    });
    // Far more than the memtables may hold: it stops somewhere before the end.
    while store.stats().write_stalls == 0 {
        std::thread::yield_now();
    }
    let held = store.visible();
    assert!(held < Lsn(place(200).0.0));
    assert_eq!(store.durable(), ID.base);
    store.note_log_synced(place(200).1);
    applier.join().unwrap();
    assert_eq!(store.visible(), Lsn(place(200).1.0));
    assert_eq!(all(&store).unwrap().len(), 200);
    store.close().unwrap();
}

#[test]
fn entries_applied_as_one_become_visible_and_durable_together() {
    let media = SimMedia::new(1);
    let store = open(&media, DIR);
    let batch = |key: &str| {
        let mut batch = WriteBatch::new();
        batch.put(key.as_bytes(), b"1");
        batch
    };
    let (a, b) = (batch("a"), batch("b"));
    let entry = |index, batch| EntryBatch {
        first: place(index).0,
        end: place(index).1,
        batch,
    };
    store.apply_entries(&[entry(1, &a), entry(4, &b)]).unwrap();
    assert_eq!(store.visible(), Lsn(place(4).1.0));
    assert_eq!(store.get(b"b").unwrap().seqno, place(4).0);
    // Nothing between them is durable by itself.
    store.note_log_synced(place(2).1);
    assert!(matches!(store.flush(), Err(StoreError::Busy)));
    assert_eq!(store.durable(), ID.base);
    store.note_log_synced(place(4).1);
    store.flush().unwrap();
    assert_eq!(store.durable(), place(4).1);
    // Out of order, nothing of them is applied.
    let refused = store.apply_entries(&[entry(6, &a), entry(5, &b)]);
    assert!(
        matches!(refused, Err(StoreError::NotNext { .. })),
        "{refused:?}"
    );
    assert_eq!(store.visible(), Lsn(place(4).1.0));
    store.apply_entries(&[]).unwrap();
}

/// CP4. Entries are applied by another thread all the while: what is read is what the checkpoint ends with, not what was applied meanwhile.
#[test]
fn what_is_read_of_a_checkpoint_is_what_it_holds_while_entries_are_applied() {
    let dir = tempfile::tempdir().unwrap();
    let external = ExternalLog {
        id: LogId(1),
        base: place(1).0,
    };
    let store = Store::open_external(dir.path(), StoreOptions::default(), external).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for index in 1u64.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let mut effects = WriteBatch::new();
                effects.put(b"applied", &index.to_be_bytes());
                let (first, end) = place(index);
                store.note_log_synced(end);
                store.apply_entry(first, end, &[], &effects).unwrap();
            }
        });
        let mut ends = Vec::new();
        for n in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            let to = dir.path().join(format!("checkpoint-{n}"));
            ends.push(store.checkpoint_and_read(&to, b"applied"));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for made in ends {
            let (made, found) = made.unwrap();
            let index = found.map(|v| u64::from_be_bytes(v[..].try_into().unwrap()));
            assert_eq!(made.end, index.map_or(place(1).0, |index| place(index).1));
        }
    });
    store.close().unwrap();
}
