//! Bit rot: every byte of every table and manifest of a small store is flipped; each time what is read is right, or an
//! error (L4).

use esker_lsm::{OpenError, Store, StoreError, StoreOptions, WriteBatch};
use esker_wal::media::Media as _;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::SimMedia;
use esker_wal::{Create, LogId, Lsn, NodeId, Workers};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn options(media: &SimMedia) -> StoreOptions {
    let mut options = StoreOptions {
        block_bytes: 128,
        cache_bytes: 4 << 10,
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
    options.log.clock = Arc::new(ManualClock::default());
    options
}

/// Three tables: two levels, versions and tombstones of points and ranges across them.
fn fill(store: &Store) -> Map {
    let mut map = Map::new();
    let mut batch = WriteBatch::new();
    for n in 0..40_u8 {
        let (key, value) = (vec![b'k', n], vec![n; 30]);
        batch.put(&key, &value);
        map.insert(key, value);
    }
    store.write(&batch).unwrap();
    store.compact_all().unwrap();
    for round in 1..3_u8 {
        batch.clear();
        batch.delete(&[b'k', round]);
        map.remove(&vec![b'k', round]);
        batch.put(&[b'k', round + 10], &[round]);
        map.insert(vec![b'k', round + 10], vec![round]);
        let (start, end) = ([b'k', round * 8 + 12], [b'k', round * 8 + 16]);
        batch.delete_range(&start, Bound::Excluded(&end));
        map.retain(|k, _| k[..] < start[..] || k[..] >= end[..]);
        store.write(&batch).unwrap();
        store.flush().unwrap();
    }
    map
}

/// Reads everything; panics on a wrong answer. Whether there was an error.
fn read(store: &Store, map: &Map) -> bool {
    let mut errors = false;
    let mut failed = |error: StoreError| {
        let named = matches!(
            error,
            StoreError::Corrupt { .. } | StoreError::Background { .. }
        );
        assert!(named, "{error}");
        errors = true;
    };
    for n in 0..41_u8 {
        let key = vec![b'k', n];
        match store.get(&key) {
            Ok(found) => assert_eq!(found.value.as_deref(), map.get(&key).map(|v| &v[..])),
            Err(error) => failed(error),
        }
    }
    let snapshot = store.snapshot();
    for back in [false, true] {
        let mut scan = match store.scan(&snapshot, Bound::Unbounded, Bound::Unbounded) {
            Ok(scan) => scan,
            Err(error) => {
                failed(error);
                continue;
            }
        };
        let mut left = map.iter();
        loop {
            let (found, expected) = if back {
                (scan.next_back(), left.next_back())
            } else {
                (scan.next(), left.next())
            };
            match found {
                Some(Ok(e)) => {
                    assert_eq!(Some((&e.key.to_vec(), &e.value.to_vec())), expected);
                }
                Some(Err(error)) => {
                    failed(error);
                    break;
                }
                None => {
                    assert_eq!(expected, None, "the scan ends early");
                    break;
                }
            }
        }
    }
    errors
}

fn files(media: &SimMedia, dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = vec![];
    for entry in media.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        if !entry.is_dir {
            found.push((path, entry.len));
        } else if entry.name != "log" {
            found.extend(files(media, &path));
        }
    }
    found.sort();
    found
}

/// A closed store, and what it holds.
fn world() -> (SimMedia, Map) {
    let media = SimMedia::new(1);
    let store = open(&media).unwrap();
    let map = fill(&store);
    assert!(!read(&store, &map));
    assert_eq!(store.stats().tables_per_level[..2], [2, 1]);
    store.close().unwrap();
    (media, map)
}

fn open(media: &SimMedia) -> Result<Store, OpenError> {
    Store::open(Path::new("data"), options(media)).map(|(store, _)| store)
}

/// Flips bits of one byte, reads everything; whether it was reported.
fn is_reported(media: &SimMedia, map: &Map, path: &Path, at: u64, bits: u8) -> bool {
    media.flip(path, at, bits).unwrap();
    match open(media) {
        Ok(store) => {
            let reported = read(&store, map);
            store.close().unwrap();
            reported
        }
        Err(error) => {
            let error = error.to_string();
            assert!(!error.contains("in use"), "{error}");
            true
        }
    }
}

#[test]
fn every_flipped_byte_of_a_table_is_reported() {
    let (media, map) = world();
    let tables = files(&media, Path::new("data/tables"));
    let tables: Vec<_> = tables
        .iter()
        .filter(|f| f.0.extension().is_some())
        .collect();
    assert_eq!(tables.len(), 3);
    for (path, len) in tables {
        for at in 0..*len {
            for bits in [0x01, 0x80] {
                let reported = is_reported(&media, &map, path, at, bits);
                assert!(reported, "{}: byte {at} went unnoticed", path.display());
                media.flip(path, at, bits).unwrap();
            }
        }
    }
    let store = open(&media).unwrap();
    assert!(!read(&store, &map));
    store.close().unwrap();
}

/// An open may mend a manifest (a torn last record is made again from the log), so each flip has a store of its own.
#[test]
fn every_flipped_byte_of_a_manifest_is_reported_or_mended() {
    let (media, _) = world();
    let mut files = files(&media, Path::new("data"));
    files.retain(|(path, len)| path.extension().is_none() && *len < 4096);
    assert!(files.len() >= 2, "{files:?}");
    for (path, len) in &files {
        for at in 0..*len {
            for bits in [0x01, 0x80] {
                let (media, map) = world();
                is_reported(&media, &map, path, at, bits);
            }
        }
    }
}
