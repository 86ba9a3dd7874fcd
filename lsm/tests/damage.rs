//! Flipped bits and cut files: reported or harmless, never a wrong answer, never a panic.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests tell what they did"
)]

mod common;

use common::{DIR, Map, options};
use esker_lsm::{Store, StoreError, StoreOptions, WriteBatch};
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::SimMedia;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Image {
    media: SimMedia,
    options: StoreOptions,
    want: Map,
    files: Vec<PathBuf>,
}

/// A closed store with tables in three levels, tombstones of both kinds, a manifest of several records, and writes that
/// are in the log alone.
fn image() -> Image {
    let media = SimMedia::new(1);
    let mut options = options(&media, &Arc::new(ManualClock::default()));
    options.memtable_bytes = 1 << 20;
    options.l0_tables = (100, 200, 300);
    options.table_bytes = 1 << 10;
    let (store, _) = Store::open(Path::new(DIR), options.clone()).unwrap();
    let mut want = Map::new();
    let put = |want: &mut Map, n: u32, round: u32| {
        let key = format!("key{n:03}").into_bytes();
        let value = format!("{round}-{}", "v".repeat((n % 40) as usize)).into_bytes();
        let mut batch = WriteBatch::new();
        batch.put(&key, &value);
        store.write(&batch).unwrap();
        want.insert(key, value);
    };
    for n in 0..60 {
        put(&mut want, n, 0);
    }
    store.compact_all().unwrap();
    for n in (0..60).step_by(3) {
        put(&mut want, n, 1);
    }
    let mut batch = WriteBatch::new();
    batch.delete(b"key004");
    batch.delete_range(b"key020", Bound::Excluded(b"key025"));
    store.write(&batch).unwrap();
    want.remove(&b"key004"[..]);
    want.retain(|k, _| !(&b"key020"[..]..&b"key025"[..]).contains(&&k[..]));
    store.flush().unwrap();
    for n in (1..60).step_by(7) {
        put(&mut want, n, 2);
    }
    let mut batch = WriteBatch::new();
    batch.delete_range(b"key050", Bound::Unbounded);
    store.write(&batch).unwrap();
    want.retain(|k, _| k[..] < b"key050"[..]);
    store.flush().unwrap();
    for n in 30..33 {
        put(&mut want, n, 3);
    }
    store.close().unwrap();
    let tables = Path::new(DIR).join("tables");
    let files = media
        .image()
        .into_keys()
        .filter(|p| p.starts_with(&tables))
        .collect();
    Image {
        media,
        options,
        want,
        files,
    }
}

/// Opens a damaged store; whatever it answers must be right. Gives whether anything was reported.
fn answers_rightly(image: &Image, media: &SimMedia, compact: bool, what: &str) -> bool {
    let mut options = image.options.clone();
    options.log.media = Arc::new(media.clone());
    let Ok((store, _)) = Store::open(Path::new(DIR), options) else {
        return true;
    };
    let reported = check(image, &store, what);
    if compact {
        // Damage must not be laundered by writing it anew.
        let failed = store.compact_all().is_err();
        return check(image, &store, what) || failed || reported;
    }
    reported
}

fn check(image: &Image, store: &Store, what: &str) -> bool {
    let mut reported = false;
    for n in 0..62 {
        let key = format!("key{n:03}").into_bytes();
        match store.get(&key) {
            Ok(found) => {
                let value = found.value.map(|v| v.to_vec());
                assert_eq!(
                    value.as_ref(),
                    image.want.get(&key),
                    "{what}: get of key{n:03}"
                );
            }
            Err(_) => reported = true,
        }
    }
    let snapshot = store.snapshot();
    for forward in [true, false] {
        let scan = store.scan(&snapshot, Bound::Unbounded, Bound::Unbounded);
        let entries = scan.and_then(|scan| -> Result<Map, StoreError> {
            let pair = |e: Result<esker_lsm::Entry, StoreError>| {
                e.map(|e| (e.key.to_vec(), e.value.to_vec()))
            };
            if forward {
                scan.map(pair).collect()
            } else {
                scan.rev().map(pair).collect()
            }
        });
        match entries {
            Ok(entries) => assert_eq!(entries, image.want, "{what}: scan"),
            Err(_) => reported = true,
        }
    }
    reported
}

#[test]
fn a_flipped_bit_anywhere_is_reported_or_harmless() {
    let image = image();
    assert!(!answers_rightly(
        &image,
        &image.media.fork(1),
        true,
        "undamaged"
    ));
    let (mut flips, mut reported) = (0u64, 0u64);
    for file in &image.files {
        let len = image.media.read(file).unwrap().len() as u64;
        for at in 0..len {
            let bits = 1 << ((at * 7 + len) % 8);
            let media = image.media.fork(at);
            media.flip(file, at, bits).unwrap();
            let what = format!("{} at {at}, bits {bits:02x}", file.display());
            flips += 1;
            reported += u64::from(answers_rightly(&image, &media, at % 8 == 0, &what));
        }
    }
    println!(
        "{flips} flips in {} files, {reported} reported",
        image.files.len()
    );
    assert!(reported > flips * 9 / 10, "nearly every byte matters");
}

#[test]
fn a_file_cut_at_any_length_is_reported_or_harmless() {
    let image = image();
    for file in &image.files {
        let bytes = image.media.read(file).unwrap();
        for len in 0..bytes.len() {
            let media = image.media.fork(len as u64);
            media.put(file, &bytes[..len]).unwrap();
            let what = format!("{} cut to {len}", file.display());
            answers_rightly(&image, &media, len % 8 == 0, &what);
        }
    }
}

#[test]
fn garbage_in_place_of_a_file_is_reported() {
    let image = image();
    let mut rng = esker_wal::media::sim::SimRng::new(5);
    for file in &image.files {
        for seed in 0..200 {
            let media = image.media.fork(seed);
            let len = rng.below(2000) as usize;
            let mut bytes = if rng.chance(2) {
                // The start is right.
                image.media.read(file).unwrap()
            } else {
                Vec::new()
            };
            bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize);
            bytes.extend((0..len).map(|_| rng.next_u64() as u8));
            media.put(file, &bytes).unwrap();
            answers_rightly(
                &image,
                &media,
                false,
                &format!("garbage in {}", file.display()),
            );
        }
    }
}
