use super::testing::*;
use super::*;
use crate::iter::Cursor;
use rand::RngExt as _;
use rand::rngs::StdRng;
use std::cmp::Reverse;
use std::sync::Arc;

fn options(block_bytes: usize) -> TableOptions {
    TableOptions {
        block_bytes,
        ..TableOptions::default()
    }
}

fn numbered(count: u32) -> Versions {
    (0..count)
        .map(|n| {
            let key = format!("key{:06}", n * 2).into_bytes();
            let value = format!("value of {n}").into_bytes();
            ((key, Reverse(u64::from(n) + 10)), (VersionKind::Put, value))
        })
        .collect()
}

#[test]
fn every_key_is_found_those_on_index_boundaries_too() {
    for block_bytes in [1, 50, 200, 4096, 1 << 20] {
        let media = MemMedia::new();
        let versions = numbered(1280);
        let table = table(
            &context(&media, 1 << 20),
            1,
            options(block_bytes),
            &versions,
            &[],
        );
        for ((key, Reverse(seqno)), (_, value)) in &versions {
            let found = table.get(key, SeqNo(u64::MAX)).unwrap().unwrap();
            assert_eq!((found.seqno.0, &found.value[..]), (*seqno, &value[..]));
            assert_eq!(table.get(key, SeqNo(*seqno)).unwrap().unwrap(), found);
            assert_eq!(table.get(key, SeqNo(seqno - 1)).unwrap(), None);
            let mut beside = key.clone();
            *beside.last_mut().unwrap() += 1;
            assert_eq!(table.get(&beside, SeqNo(u64::MAX)).unwrap(), None);
            beside.push(b'x');
            assert_eq!(table.get(&beside, SeqNo(u64::MAX)).unwrap(), None);
        }
        assert_eq!(table.get(b"", SeqNo(u64::MAX)).unwrap(), None);
        assert_eq!(table.get(b"zzz", SeqNo(u64::MAX)).unwrap(), None);
        table.verify().unwrap();
    }
}

#[test]
fn the_empty_key_and_the_empty_value_are_a_key_and_a_value() {
    let media = MemMedia::new();
    let mut versions = Versions::new();
    versions.insert((vec![], Reverse(5)), (VersionKind::Put, vec![]));
    versions.insert((vec![], Reverse(3)), (VersionKind::Delete, vec![]));
    versions.insert((vec![0], Reverse(4)), (VersionKind::Put, vec![]));
    let table = table(&context(&media, 0), 1, options(4096), &versions, &[]);
    let found = table.get(b"", SeqNo(9)).unwrap().unwrap();
    assert_eq!(
        (found.seqno, found.kind, found.value.len()),
        (SeqNo(5), VersionKind::Put, 0)
    );
    let found = table.get(b"", SeqNo(4)).unwrap().unwrap();
    assert_eq!((found.seqno, found.kind), (SeqNo(3), VersionKind::Delete));
    assert_eq!(table.get(b"", SeqNo(2)).unwrap(), None);
    assert_eq!(table.get(&[0], SeqNo(9)).unwrap().unwrap().seqno, SeqNo(4));
    table.verify().unwrap();
}

#[test]
fn versions_of_one_key_over_many_blocks_are_told_apart() {
    let media = MemMedia::new();
    let mut versions = Versions::new();
    for seqno in 1..2000 {
        let value = seqno.to_string().into_bytes();
        versions.insert(
            (b"hot".to_vec(), Reverse(seqno * 2)),
            (VersionKind::Put, value),
        );
    }
    versions.insert((b"hota".to_vec(), Reverse(1)), (VersionKind::Put, vec![]));
    versions.insert((b"ho".to_vec(), Reverse(1)), (VersionKind::Put, vec![]));
    let table = table(&context(&media, 1 << 20), 1, options(128), &versions, &[]);
    for at in 2..4100 {
        let found = table.get(b"hot", SeqNo(at)).unwrap().unwrap();
        assert_eq!(found.seqno.0, (at & !1).min(1999 * 2));
    }
    assert_eq!(table.get(b"hot", SeqNo(1)).unwrap(), None);
    table.verify().unwrap();
}

#[test]
fn a_value_larger_than_a_block_comes_back() {
    let media = MemMedia::new();
    let mut versions = Versions::new();
    for (n, compressible) in [(1_u8, true), (2, false)] {
        let mut state = 7_u32;
        let value = (0..3_000_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if compressible { 7 } else { (state >> 24) as u8 }
            })
            .collect();
        versions.insert((vec![n], Reverse(1)), (VersionKind::Put, value));
        versions.insert((vec![n, n], Reverse(1)), (VersionKind::Put, vec![n]));
    }
    let context = context(&media, 1 << 20);
    let table = table(&context, 1, options(4096), &versions, &[]);
    for ((key, _), (_, value)) in &versions {
        assert_eq!(
            &table.get(key, SeqNo(9)).unwrap().unwrap().value[..],
            &value[..]
        );
    }
    assert!(table.file_bytes() < 3_200_000);
    assert!(context.cache.stats().bytes <= 1 << 20);
    table.verify().unwrap();
}

#[test]
fn entries_out_of_order_are_refused() {
    let media = MemMedia::new();
    let mut builder = TableBuilder::create(&context(&media, 0), &path(1), 1, options(1)).unwrap();
    builder
        .add(KeyRef::new(b"b", SeqNo(5)), VersionKind::Put, b"")
        .unwrap();
    for (key, seqno) in [(&b"b"[..], 5), (b"b", 6), (b"a", 1)] {
        let result = builder.add(KeyRef::new(key, SeqNo(seqno)), VersionKind::Put, b"");
        assert!(matches!(result, Err(TableError::Misuse { .. })));
    }
    builder
        .add(KeyRef::new(b"b", SeqNo(4)), VersionKind::Put, b"")
        .unwrap();
    builder.finish().unwrap();
}

#[test]
fn an_abandoned_table_leaves_no_file() {
    let media = MemMedia::new();
    let builder = || TableBuilder::create(&context(&media, 0), &path(1), 1, options(1)).unwrap();
    builder().abandon();
    assert!(media.paths().is_empty());
    assert!(matches!(builder().finish(), Err(TableError::Misuse { .. })));
    assert!(media.paths().is_empty());
}

#[test]
fn range_tombstones_come_back_and_count_in_the_bounds() {
    let media = MemMedia::new();
    let ranges = [range(b"key000010", b"key9", 700), range(b"a", b"b", 3)];
    let table_1 = table(
        &context(&media, 0),
        1,
        options(4096),
        &numbered(10),
        &ranges,
    );
    assert_eq!(
        table_1.ranges().covering(b"key5", SeqNo(800)),
        Some(SeqNo(700))
    );
    let p = table_1.properties();
    assert_eq!(
        (p.oldest, p.newest, p.range_deletes),
        (SeqNo(3), SeqNo(700), 2)
    );
    assert_eq!(&p.bounds.smallest[..], b"a");
    assert_eq!(
        p.bounds.largest,
        Bound::Excluded(Bytes::from_static(b"key9"))
    );
    table_1.verify().unwrap();

    let ranges = [range(b"", b"", 5)];
    let table_2 = table(
        &context(&media, 0),
        2,
        options(4096),
        &Versions::new(),
        &ranges,
    );
    assert_eq!(table_2.properties().bounds.largest, Bound::Unbounded);
    assert_eq!(table_2.get(b"a", SeqNo(9)).unwrap(), None);
    let mut cursor = table_2.cursor(ReadMode::Cached);
    cursor.seek_to_first().unwrap();
    assert!(!cursor.valid());
    cursor.seek_for_prev(KeyRef::before(b"x")).unwrap();
    assert!(!cursor.valid());
    table_2.verify().unwrap();
}

#[test]
fn bounds_know_what_they_hold_and_what_they_overlap() {
    let bounds = |a: &'static [u8], b| KeyBounds {
        smallest: Bytes::from_static(a),
        largest: b,
    };
    let key = |k: &'static [u8]| Bytes::from_static(k);
    let closed = bounds(b"b", Bound::Included(key(b"d")));
    let open = bounds(b"b", Bound::Excluded(key(b"d")));
    let endless = bounds(b"b", Bound::Unbounded);
    assert!(closed.contains(b"d") && !open.contains(b"d") && endless.contains(b"zz"));
    assert!(!closed.contains(b"a") && open.contains(b"czz") && !closed.contains(b"d\0"));
    let behind = bounds(b"d", Bound::Included(key(b"e")));
    assert!(closed.overlaps(&behind) && behind.overlaps(&closed));
    assert!(!open.overlaps(&behind) && !behind.overlaps(&open));
    assert!(endless.overlaps(&behind) && behind.overlaps(&endless));
    assert_eq!(
        open.union(&behind),
        bounds(b"b", Bound::Included(key(b"e")))
    );
    assert_eq!(open.union(&closed), closed);
    assert_eq!(open.union(&endless), endless);
}

/// The model's answer to a lookup.
fn model_get<'a>(
    versions: &'a Versions,
    key: &[u8],
    at: u64,
) -> Option<(u64, &'a (VersionKind, Vec<u8>))> {
    let mut from = versions.range((key.to_vec(), Reverse(at))..);
    let ((user, Reverse(seqno)), version) = from.next()?;
    (user == key).then_some((*seqno, version))
}

fn check_cursor(cursor: &dyn Cursor, expected: Option<(&ModelKey, &ModelVersion)>) {
    let found = cursor.valid().then(|| {
        let key = cursor.key();
        assert_eq!(&cursor.value()[..], cursor.value_ref());
        (
            (key.user.to_vec(), Reverse(key.seqno.0)),
            (cursor.kind(), cursor.value().to_vec()),
        )
    });
    assert_eq!(found.as_ref().map(|(a, b)| (a, b)), expected);
}

/// Walks `cursor` at random beside the model.
pub(crate) fn walk(rng: &mut StdRng, cursor: &mut dyn Cursor, versions: &Versions, steps: usize) {
    let mut at: Option<ModelKey> = None;
    for _ in 0..steps {
        let key = if rng.random_bool(0.5) && !versions.is_empty() {
            let n = rng.random_range(0..versions.len());
            versions.keys().nth(n).unwrap().clone()
        } else {
            (random_key(rng), Reverse(rng.random_range(0..4000)))
        };
        let target = KeyRef::new(&key.0, SeqNo(key.1.0));
        let expected = match rng.random_range(0..12) {
            0 => {
                cursor.seek_to_first().unwrap();
                versions.iter().next()
            }
            1 => {
                cursor.seek_to_last().unwrap();
                versions.iter().next_back()
            }
            2 => {
                cursor.seek(target).unwrap();
                versions.range(key..).next()
            }
            3 => {
                cursor.seek_for_prev(target).unwrap();
                versions.range(..=key).next_back()
            }
            4..8 if at.is_some() => {
                cursor.next().unwrap();
                versions
                    .range((Bound::Excluded(at.unwrap()), Bound::Unbounded))
                    .next()
            }
            _ if at.is_some() => {
                cursor.prev().unwrap();
                versions.range(..at.unwrap()).next_back()
            }
            _ => {
                cursor.reset();
                None
            }
        };
        check_cursor(cursor, expected);
        at = expected.map(|(key, _)| key.clone());
    }
}

#[test]
fn random_tables_answer_as_the_model_does() {
    with_seeds(150, |_, rng| {
        let media = MemMedia::new();
        let count = rng.random_range(1..400);
        let versions = random_versions(rng, count);
        let options = TableOptions {
            block_bytes: [1, 64, 300, 4096][rng.random_range(0..4)],
            bloom_bits_per_key: [0, 1, 10][rng.random_range(0..3)],
            compress: rng.random_bool(0.5),
        };
        let cache = [0, 2000, 1 << 20][rng.random_range(0..3)];
        let table = table(&context(&media, cache), 9, options, &versions, &[]);
        for _ in 0..300 {
            let key = random_key(rng);
            let at = rng.random_range(0..count as u64 * 8);
            for (key, at) in [(key.clone(), at), (key, u64::MAX), (b"hot".to_vec(), at)] {
                let found = table.get(&key, SeqNo(at)).unwrap();
                let found = found.map(|v| (v.seqno.0, (v.kind, v.value.to_vec())));
                let expected = model_get(&versions, &key, at).map(|(s, v)| (s, v.clone()));
                assert_eq!(found, expected, "{key:?} at {at}");
            }
        }
        for mode in [ReadMode::Cached, ReadMode::Once] {
            walk(rng, &mut table.cursor(mode), &versions, 400);
        }
        table.verify().unwrap();
        let keys: std::collections::BTreeSet<_> = versions.keys().map(|k| &k.0).collect();
        let p = table.properties();
        assert_eq!(
            (p.entries, p.keys),
            (versions.len() as u64, keys.len() as u64)
        );
        let deletes = versions.values().filter(|v| v.0 == VersionKind::Delete);
        assert_eq!(p.deletes, deletes.count() as u64);
        assert_eq!(p.newest.0, versions.keys().map(|k| k.1.0).max().unwrap());
        assert_eq!(p.oldest.0, versions.keys().map(|k| k.1.0).min().unwrap());
    });
}

/// A small table with everything in it, and its bytes.
fn small(media: &Arc<MemMedia>) -> (Versions, Vec<u8>) {
    let mut versions = numbered(40);
    versions.insert(
        (b"gone".to_vec(), Reverse(77)),
        (VersionKind::Delete, vec![]),
    );
    versions.insert(
        (b"long".to_vec(), Reverse(78)),
        (VersionKind::Put, vec![b'l'; 700]),
    );
    let ranges = [range(b"key0", b"key000020", 5), range(b"m", b"", 6)];
    table(&context(media, 0), 3, options(256), &versions, &ranges);
    (versions, media.bytes(&path(3)))
}

/// Reads everything that a table holds; panics on a wrong answer, gives the errors.
fn read_all(context: &TableContext, versions: &Versions) -> Result<(), TableError> {
    let table = Table::open(context, &path(3), 3)?;
    assert_eq!(table.ranges().covering(b"key00", SeqNo(99)), Some(SeqNo(5)));
    assert_eq!(table.ranges().covering(b"zz", SeqNo(99)), Some(SeqNo(6)));
    assert_eq!(table.ranges().len(), 2);
    assert_eq!(table.properties().entries, versions.len() as u64);
    let mut result = Ok(());
    for ((key, Reverse(seqno)), version) in versions {
        match table.get(key, SeqNo(u64::MAX)) {
            Ok(found) => {
                let found = found.expect("a key of the table is found, or an error");
                assert_eq!(
                    (found.seqno.0, found.kind, &found.value[..]),
                    (*seqno, version.0, &version.1[..])
                );
            }
            Err(error) => result = Err(error),
        }
    }
    for mode in [ReadMode::Cached, ReadMode::Once] {
        let mut cursor = table.cursor(mode);
        let walked = (|| {
            cursor.seek_to_first()?;
            for expected in versions {
                check_cursor(&cursor, Some(expected));
                cursor.next()?;
            }
            check_cursor(&cursor, None);
            cursor.seek_to_last()?;
            for expected in versions.iter().rev() {
                check_cursor(&cursor, Some(expected));
                cursor.prev()?;
            }
            check_cursor(&cursor, None);
            Ok(())
        })();
        if walked.is_err() {
            assert!(!cursor.valid());
        }
        result = result.and(walked);
    }
    result
}

#[test]
fn every_flipped_byte_is_reported_and_no_answer_is_wrong() {
    let media = MemMedia::new();
    let (versions, bytes) = small(&media);
    read_all(&context(&media, 0), &versions).unwrap();
    for at in 0..bytes.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= mask;
            media.put(&path(3), damaged);
            let error = read_all(&context(&media, 1 << 20), &versions).unwrap_err();
            assert!(
                matches!(error, TableError::Corrupt { .. }),
                "byte {at}: {error}"
            );
        }
    }
}

#[test]
fn a_cut_file_is_reported() {
    let media = MemMedia::new();
    let (versions, bytes) = small(&media);
    for len in 0..bytes.len() {
        media.put(&path(3), bytes[..len].to_vec());
        let error = read_all(&context(&media, 0), &versions).unwrap_err();
        assert!(
            matches!(error, TableError::Corrupt { .. }),
            "{len}: {error}"
        );
    }
}

#[test]
fn a_table_of_another_store_or_under_another_name_is_refused() {
    let media = MemMedia::new();
    let (_, bytes) = small(&media);
    media.put(&path(4), bytes);
    let error = Table::open(&context(&media, 0), &path(4), 4).unwrap_err();
    assert!(
        error.to_string().contains("another file under this name"),
        "{error}"
    );
    let other = TableContext {
        log: esker_wal::LogId(1),
        ..context(&media, 0)
    };
    let error = Table::open(&other, &path(3), 3).unwrap_err();
    assert!(error.to_string().contains("of another store"), "{error}");
}

#[test]
fn blocks_that_changed_places_are_reported() {
    let media = MemMedia::new();
    // Entries of equal length without compression, so that blocks have equal lengths.
    let versions: Versions = (0..64_u8)
        .map(|n| {
            (
                (vec![b'k', n], Reverse(1000)),
                (VersionKind::Put, vec![n; 50]),
            )
        })
        .collect();
    let options = TableOptions {
        compress: false,
        ..options(120)
    };
    let table = table(&context(&media, 0), 3, options, &versions, &[]);
    let mut handles = vec![];
    let mut cursor = table.cursor(ReadMode::Cached);
    cursor.seek_to_first().unwrap();
    while cursor.valid() {
        handles.push(cursor.block_offset() as usize);
        cursor.next().unwrap();
    }
    handles.dedup();
    let (a, b, c) = (handles[0], handles[1], handles[2]);
    assert_eq!(b - a, c - b);
    let mut bytes = media.bytes(&path(3));
    let (first, second) = bytes[a..c].split_at_mut(b - a);
    first.swap_with_slice(second);
    media.put(&path(3), bytes);
    let table = Table::open(&context(&media, 0), &path(3), 3).unwrap();
    assert!(matches!(
        table.get(&[b'k', 0], SeqNo(1000)),
        Err(TableError::Corrupt { .. })
    ));
    assert!(table.verify().is_err());
}

#[test]
fn a_newer_format_says_so() {
    let media = MemMedia::new();
    let (_, mut bytes) = small(&media);
    let end = bytes.len();
    let offset = (end - format::FOOTER_LEN) as u64;
    bytes[end - 12..end - 8].copy_from_slice(&2_u32.to_le_bytes());
    let footer = &bytes[end - 64..];
    let crc = format::FileSeed::new(LOG, 3).crc(offset, &[&footer[..48], &footer[52..]]);
    bytes[end - 16..end - 12].copy_from_slice(&crc.to_le_bytes());
    media.put(&path(3), bytes);
    let error = Table::open(&context(&media, 0), &path(3), 3).unwrap_err();
    assert!(
        matches!(
            error,
            TableError::NewerFormat {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_failed_read_is_an_error_and_neither_not_found_nor_the_end() {
    let media = MemMedia::new();
    let versions = numbered(200);
    let context = context(&media, 0);
    let table = table(&context, 1, options(64), &versions, &[]);
    media.fail_reads_after(0);
    assert!(matches!(
        table.get(b"key000000", SeqNo(99)),
        Err(TableError::Io { .. })
    ));
    for mode in [ReadMode::Cached, ReadMode::Once] {
        media.fail_reads_after(if mode == ReadMode::Once { 0 } else { 5 });
        let mut cursor = table.cursor(mode);
        let mut walk = || {
            cursor.seek_to_first()?;
            while cursor.valid() {
                cursor.next()?;
            }
            Ok(())
        };
        assert!(matches!(walk(), Err(TableError::Io { .. })));
        assert!(!cursor.valid());
        // The cursor serves again once reads do.
        media.fail_reads_after(i64::MAX);
        cursor.seek_to_last().unwrap();
        assert_eq!(cursor.key().user, b"key000398");
    }
    media.fail_reads_after(0);
    assert!(matches!(
        Table::open(&context, &path(1), 1),
        Err(TableError::Io { .. })
    ));
}

#[test]
fn the_cache_serves_a_block_again_and_keeps_its_capacity() {
    let media = MemMedia::new();
    let versions = numbered(5000);
    let context = context(&media, 1 << 20);
    let table = table(&context, 1, options(4096), &versions, &[]);
    table.get(b"key000100", SeqNo(u64::MAX)).unwrap().unwrap();
    media.fail_reads_after(0);
    table.get(b"key000102", SeqNo(u64::MAX)).unwrap().unwrap();
    let stats = context.cache.stats();
    assert_eq!((stats.hits, stats.misses), (1, 1));
    assert!(stats.bytes > 4000 && stats.bytes < 5000, "{stats:?}");
    // A pass that reads once leaves the cache alone.
    media.fail_reads_after(i64::MAX);
    table.verify().unwrap();
    assert_eq!(context.cache.stats(), stats);
}

/// What the golden table holds: kinds, shared fronts, versions, a long value, range tombstones.
fn golden() -> (Versions, Vec<crate::iter::RangeTombstone>) {
    let mut versions = numbered(100);
    for seqno in 1..50_u64 {
        versions.insert(
            (b"key000100".to_vec(), Reverse(seqno * 1000)),
            (VersionKind::Put, seqno.to_le_bytes().to_vec()),
        );
    }
    versions.insert((vec![], Reverse(1 << 40)), (VersionKind::Put, vec![]));
    versions.insert(
        (b"gone".to_vec(), Reverse(u64::MAX - 1)),
        (VersionKind::Delete, vec![]),
    );
    versions.insert(
        (b"long".to_vec(), Reverse(78)),
        (VersionKind::Put, vec![b'l'; 7000]),
    );
    versions.insert(
        (vec![0xff; 300], Reverse(79)),
        (VersionKind::Put, b"last".to_vec()),
    );
    (
        versions,
        vec![
            range(b"key0", b"key000020", 5),
            range(b"key00001", b"x", 8),
            range(b"m", b"", 6),
        ],
    )
}

/// lsm/tests/golden/table-v1.tbl was written by the first build of format 1 and is never written again: every later
/// build reads it.
#[test]
fn the_golden_table_is_read_as_it_was_written() {
    let media = MemMedia::new();
    media.put(
        &path(0x2a),
        include_bytes!("../../tests/golden/table-v1.tbl").to_vec(),
    );
    let table = Table::open(&context(&media, 0), &path(0x2a), 0x2a).unwrap();
    table.verify().unwrap();
    let (versions, ranges) = golden();
    let mut cursor = table.cursor(ReadMode::Cached);
    cursor.seek_to_first().unwrap();
    for expected in &versions {
        check_cursor(&cursor, Some(expected));
        cursor.next().unwrap();
    }
    check_cursor(&cursor, None);
    assert_eq!(**table.ranges(), crate::iter::RangeTombstones::new(ranges));
    let p = table.properties();
    assert_eq!(
        (p.entries, p.keys, p.deletes, p.range_deletes),
        (153, 104, 1, 5)
    );
    assert_eq!((p.oldest.0, p.newest.0), (5, u64::MAX - 1));
    assert_eq!(p.bounds.largest, Bound::Unbounded);
    for n in 0..100 {
        let key = format!("key{:06}", n * 2);
        assert!(
            table
                .get(key.as_bytes(), SeqNo(u64::MAX))
                .unwrap()
                .is_some()
        );
    }
}

#[test]
#[ignore = "wrote the golden table, once"]
fn write_the_golden_table() {
    let media = MemMedia::new();
    let (versions, ranges) = golden();
    table(&context(&media, 0), 0x2a, options(256), &versions, &ranges);
    let out = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/table-v1.tbl");
    let mut file = std::fs::File::create_new(out).unwrap();
    std::io::Write::write_all(&mut file, &media.bytes(&path(0x2a))).unwrap();
}

/// The bytes of a small table without compression, spelled out.
#[test]
fn a_small_table_has_these_bytes() {
    let media = MemMedia::new();
    let mut versions = Versions::new();
    versions.insert(
        (b"apple".to_vec(), Reverse(0x105)),
        (VersionKind::Put, b"red".to_vec()),
    );
    versions.insert(
        (b"apple".to_vec(), Reverse(0x104)),
        (VersionKind::Delete, vec![]),
    );
    versions.insert(
        (b"apricot".to_vec(), Reverse(0x110)),
        (VersionKind::Put, b"x".to_vec()),
    );
    table(
        &context(&media, 0),
        7,
        options(4096),
        &versions,
        &[range(b"b", b"", 0x120)],
    );
    let hex: String = media
        .bytes(&path(7))
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    #[rustfmt::skip]
    let expected = [
        "010005038502", // put, 0 shared, 5 of key, 3 of value, SeqNo 0x105 (two bytes)
        "6170706c65726564", // apple, red
        "0205000001", // delete, 5 shared, 0 of key, 0 of value, one SeqNo older
        "0102050118", // put, 2 shared, 5 of key, 1 of value, 12 SeqNos newer
        "7269636f7478", // ricot, x
        "0000000001000000", // restarts: at 0; one of them
        "00", // not compressed
        "26000000", // 38 bytes
        "fc373dca", // checksum
        "00000000000000000000000000000001002000000000001000010000000000400000000004000000002000001000000000000000000000001000010101000000", // filter: a line
        "00400000006165d7d3", // its trailer
        "0162002001000000000000", // range tombstones: b, no end, SeqNo 0x120
        "000b00000094be9edf", // its trailer
        "0100070200", // index: put, 0 shared, 7 of key, 2 of value, SeqNo 0
        "61707269636f74", // apricot
        "002f", // the data block: at 0, 47 bytes
        "0000000001000000", // restarts: at 0; one of them
        "001600000022105d94", // its trailer
        "01056170706c65", // properties: smallest apple
        "020102", // largest: no end
        "03080300000000000000", // entries
        "04080200000000000000", // keys
        "05080100000000000000", // deletes
        "06080100000000000000", // range tombstones
        "07080401000000000000", // oldest
        "08082001000000000000", // newest
        "09081100000000000000", // bytes of keys
        "0a080400000000000000", // bytes of values
        "0b080100000000000000", // data blocks
        "0d080600000000000000", // probes
        "0c022f49", // filter: at 47, 73 bytes
        "0e027814", // range tombstones: at 120, 20 bytes
        "0076000000d8078732", // its trailer
        "0700000000000000", // footer: file 7
        "8c00000000000000", // index at 0x8c
        "ab00000000000000", // properties at 0xab
        "1f000000", // 31 bytes of index
        "7f000000", // 127 bytes of properties
        "01000000", // one level of index
        "000000000000000000000000", // zeros
        "faa97ef8", // checksum
        "01000000", // format 1
        "45534b5254424c31", // ESKRTBL1
    ];
    assert_eq!(hex, expected.concat());
}

/// Bytes that a forger, or a bug in the writer, put under a right checksum: answers may be wrong, but nothing panics,
/// loops or allocates by what they say.
#[test]
fn malformed_bytes_under_a_right_checksum_do_no_harm() {
    for compress in [false, true] {
        let mut versions = numbered(40);
        versions.insert(
            (b"long".to_vec(), Reverse(78)),
            (VersionKind::Put, vec![b'l'; 700]),
        );
        let options = TableOptions {
            compress,
            ..options(256)
        };
        let ranges = [range(b"key0", b"key000020", 5), range(b"m", b"", 6)];
        let media = MemMedia::new();
        let intact = table(&context(&media, 0), 3, options, &versions, &ranges);
        let bytes = media.bytes(&path(3));
        let seed = format::FileSeed::new(LOG, 3);
        for section in sections(&intact, &bytes) {
            let (start, end) = (section.offset as usize, section.end().unwrap() as usize);
            for at in start..end - 4 {
                let mut forged = bytes.clone();
                forged[at] ^= if at % 2 == 0 { 1 } else { 0x80 };
                let crc = seed.crc(section.offset, &[&forged[start..end - 4]]);
                forged[end - 4..end].copy_from_slice(&crc.to_le_bytes());
                media.put(&path(3), forged);
                use_all(&context(&media, 0), &versions);
            }
        }
    }
}

/// Every section of a table: data blocks, then what the footer and the properties name.
fn sections(table: &Arc<Table>, bytes: &[u8]) -> Vec<format::Handle> {
    let mut found = vec![];
    let mut cursor = block::BlockCursor::new(table.index().unwrap().block().clone());
    cursor.seek_to_first().unwrap();
    while cursor.valid() {
        found.push(format::Handle::parse(cursor.value_ref()).unwrap());
        cursor.next().unwrap();
    }
    let at = bytes.len() - format::FOOTER_LEN;
    let seed = format::FileSeed::new(LOG, 3);
    let footer = bytes[at..].try_into().unwrap();
    let footer = format::Footer::parse(footer, &seed, 3, at as u64, &path(3)).unwrap();
    let p = footer.properties;
    let properties = &bytes[p.offset as usize..p.end().unwrap() as usize - format::TRAILER_LEN];
    let meta = format::Meta::parse(&Bytes::copy_from_slice(properties)).unwrap();
    found.extend([meta.filter, meta.ranges, footer.index, p]);
    let len: u64 = found.iter().map(|h| u64::from(h.len)).sum();
    assert_eq!(len, at as u64, "sections lie side by side");
    found
}

fn use_all(context: &TableContext, versions: &Versions) {
    let Ok(table) = Table::open(context, &path(3), 3) else {
        return;
    };
    let _ = table.verify();
    let _ = table.ranges().covering(b"key5", SeqNo(9));
    let mut cursor = table.cursor(ReadMode::Cached);
    for (n, (user, Reverse(seqno))) in versions.keys().enumerate() {
        let _ = table.get(user, SeqNo(*seqno));
        if n % 7 == 0 {
            let _ = cursor.seek(KeyRef::new(user, SeqNo(*seqno)));
            let _ = cursor.seek_for_prev(KeyRef::before(user));
        }
    }
    let mut steps = 0;
    let _ = cursor.seek_to_last();
    while cursor.valid() && steps < 1000 {
        let _ = cursor.prev();
        steps += 1;
    }
    assert!(steps < 1000, "the walk ends");
}
