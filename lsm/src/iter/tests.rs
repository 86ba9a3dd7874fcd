use super::*;
use crate::table::testing::*;
use crate::table::{ReadMode, TableOptions};
use rand::RngExt as _;
use rand::rngs::StdRng;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

struct Source {
    versions: Versions,
    ranges: Vec<RangeTombstone>,
}

/// The sources as cursors: tables, levels of several tables, tables read once.
fn cursors(
    rng: &mut StdRng,
    sources: &[Source],
) -> (Vec<Box<dyn Cursor>>, Vec<Arc<RangeTombstones>>) {
    let media = MemMedia::new();
    let context = context(&media, 1 << 20);
    let mut file = 0;
    let mut cursors: Vec<Box<dyn Cursor>> = vec![];
    let mut ranges = vec![];
    for source in sources {
        let list = RangeTombstones::new(source.ranges.clone());
        // Cut into tables between user keys.
        let mut parts = vec![(Vec::new(), Versions::new())];
        for (key, version) in &source.versions {
            let part = &parts.last().unwrap().1;
            let last = part.keys().next_back();
            if last.is_some_and(|last| last.0 != key.0) && rng.random_bool(0.1) {
                parts.push((key.0.clone(), Versions::new()));
            }
            let part = &mut parts.last_mut().unwrap().1;
            part.insert(key.clone(), version.clone());
        }
        let mut tables = vec![];
        for (n, (start, part)) in parts.iter().enumerate() {
            let end = parts.get(n + 1).map_or(&[][..], |next| &next.0);
            let part_ranges: Vec<_> = list.clip(start, end).iter().collect();
            if part.is_empty() && part_ranges.is_empty() {
                continue;
            }
            file += 1;
            let options = TableOptions {
                block_bytes: [1, 100, 4096][rng.random_range(0..3)],
                ..TableOptions::default()
            };
            let table = table(&context, file, options, part, &part_ranges);
            ranges.push(Arc::clone(table.ranges()));
            tables.push(table);
        }
        let mode = [ReadMode::Cached, ReadMode::Once][rng.random_range(0..2)];
        if tables.len() == 1 && rng.random_bool(0.5) {
            cursors.push(Box::new(tables[0].cursor(mode)));
        } else {
            cursors.push(Box::new(LevelCursor::new(tables.into(), mode)));
        }
    }
    (cursors, ranges)
}

fn random_sources(rng: &mut StdRng, ranges: bool) -> Vec<Source> {
    let mut all = std::collections::BTreeSet::new();
    // Newest first: each source a span of SeqNos of its own, or all mixed.
    let mixed = rng.random_bool(0.3);
    let count = rng.random_range(0..6);
    (0..count)
        .map(|n| {
            let base = if mixed { 0 } else { (count - n) * 1000 };
            let size = rng.random_range(0..120);
            let mut source = Source {
                versions: random_versions(rng, size)
                    .into_iter()
                    .map(|((key, Reverse(seqno)), version)| {
                        ((key, Reverse(base + seqno % 1000)), version)
                    })
                    .filter(|((_, Reverse(seqno)), _)| all.insert(*seqno))
                    .collect(),
                ranges: vec![],
            };
            if ranges && rng.random_bool(0.6) {
                for _ in 0..rng.random_range(0..4) {
                    let (mut a, mut b) = (random_key(rng), random_key(rng));
                    if b < a {
                        std::mem::swap(&mut a, &mut b);
                    }
                    if rng.random_bool(0.1) {
                        b.clear();
                    }
                    let seqno = base + rng.random_range(0..1000);
                    if (b.is_empty() || a < b) && all.insert(seqno) {
                        source.ranges.push(range(&a, &b, seqno));
                    }
                }
            }
            source
        })
        .collect()
}

#[test]
fn a_merge_walks_all_sources_in_order_both_ways() {
    with_seeds(150, |_, rng| {
        let sources = random_sources(rng, false);
        let mut all = Versions::new();
        for source in &sources {
            all.extend(source.versions.clone());
        }
        let (cursors, _) = cursors(rng, &sources);
        let mut merge = MergeCursor::new(cursors);
        crate::table::tests::walk(rng, &mut merge, &all, 400);
    });
}

#[test]
fn equal_entries_come_from_the_earlier_source_first() {
    let media = MemMedia::new();
    let context = context(&media, 0);
    let mut cursors: Vec<Box<dyn Cursor>> = vec![];
    for n in 0..3_u8 {
        let versions = (0..5_u8).map(|k| ((vec![k], Reverse(7)), (VersionKind::Put, vec![n])));
        let table = table(
            &context,
            u64::from(n),
            TableOptions::default(),
            &versions.collect(),
            &[],
        );
        cursors.push(Box::new(table.cursor(ReadMode::Cached)));
    }
    let mut merge = MergeCursor::new(cursors);
    let place = |merge: &MergeCursor| (merge.key().user[0], merge.value_ref()[0]);
    merge.seek_to_first().unwrap();
    for expected in 0..15 {
        assert_eq!(place(&merge), (expected / 3, expected % 3));
        // There and back again, by the way.
        if expected > 0 {
            merge.prev().unwrap();
            assert_eq!(place(&merge), ((expected - 1) / 3, (expected - 1) % 3));
            merge.next().unwrap();
            assert_eq!(place(&merge), (expected / 3, expected % 3));
        }
        merge.next().unwrap();
    }
    assert!(!merge.valid());
}

/// What a reader at `at` sees, by brute force.
fn model(sources: &[Source], at: u64) -> BTreeMap<Vec<u8>, (Vec<u8>, u64)> {
    let mut newest: BTreeMap<&[u8], (u64, VersionKind, &[u8])> = BTreeMap::new();
    for source in sources {
        for ((key, Reverse(seqno)), (kind, value)) in &source.versions {
            if *seqno <= at && newest.get(&key[..]).is_none_or(|n| n.0 < *seqno) {
                newest.insert(key, (*seqno, *kind, value));
            }
        }
    }
    let covered = |key: &[u8], seqno: u64| {
        sources.iter().flat_map(|s| &s.ranges).any(|r| {
            r.seqno.0 <= at
                && r.seqno.0 > seqno
                && r.start.as_ref() <= key
                && (r.end.is_empty() || key < r.end.as_ref())
        })
    };
    newest
        .into_iter()
        .filter(|(key, (seqno, kind, _))| *kind == VersionKind::Put && !covered(key, *seqno))
        .map(|(key, (seqno, _, value))| (key.to_vec(), (value.to_vec(), seqno)))
        .collect()
}

#[test]
fn a_reader_sees_what_the_model_says_both_ways() {
    with_seeds(300, |_, rng| {
        let sources = random_sources(rng, true);
        let at = rng.random_range(0..7000);
        let (mut low, mut high) = (random_key(rng), random_key(rng));
        if high < low {
            std::mem::swap(&mut low, &mut high);
        }
        let bound = |rng: &mut StdRng, key: Vec<u8>| match rng.random_range(0..3) {
            0 => Bound::Included(Bytes::from(key)),
            1 => Bound::Excluded(Bytes::from(key)),
            _ => Bound::Unbounded,
        };
        let (lower, upper) = (bound(rng, low), bound(rng, high));
        let inside = |key: &Vec<u8>| {
            let key = Bytes::copy_from_slice(key);
            let above = match &lower {
                Bound::Included(low) => key >= low,
                Bound::Excluded(low) => key > low,
                Bound::Unbounded => true,
            };
            above
                && match &upper {
                    Bound::Included(high) => key <= high,
                    Bound::Excluded(high) => key < high,
                    Bound::Unbounded => true,
                }
        };
        let mut model = model(&sources, at);
        model.retain(|key, _| inside(key));
        let (cursors, ranges) = cursors(rng, &sources);
        let mut visible = Visible::new(cursors, ranges, SeqNo(at), lower.clone(), upper.clone());
        let mut place: Option<Vec<u8>> = None;
        for _ in 0..300 {
            let key = random_key(rng);
            let expected = match rng.random_range(0..10) {
                0 => {
                    visible.seek_to_first().unwrap();
                    model.iter().next()
                }
                1 => {
                    visible.seek_to_last().unwrap();
                    model.iter().next_back()
                }
                2 => {
                    visible.seek(&key).unwrap();
                    model.range(key..).next()
                }
                3 => {
                    visible.seek_for_prev(&key).unwrap();
                    model.range(..=key).next_back()
                }
                4..7 if place.is_some() => {
                    visible.next().unwrap();
                    model
                        .range((Bound::Excluded(place.unwrap()), Bound::Unbounded))
                        .next()
                }
                _ if place.is_some() => {
                    visible.prev().unwrap();
                    model.range(..place.unwrap()).next_back()
                }
                _ => continue,
            };
            let found = visible.valid().then(|| {
                (
                    visible.key().to_vec(),
                    (visible.value().to_vec(), visible.seqno().0),
                )
            });
            assert_eq!(found.as_ref().map(|(k, v)| (k, v)), expected);
            place = expected.map(|(key, _)| key.clone());
        }
    });
}

#[test]
fn keys_under_a_range_tombstone_are_jumped_over_and_not_stepped_over() {
    let media = MemMedia::new();
    let context = context(&media, 0);
    let mut versions = Versions::new();
    for n in 0..20_000_u32 {
        versions.insert(
            (n.to_be_bytes().to_vec(), Reverse(5)),
            (VersionKind::Put, vec![1; 20]),
        );
    }
    let old = table(&context, 1, TableOptions::default(), &versions, &[]);
    let dead = range(&10_u32.to_be_bytes(), &19_990_u32.to_be_bytes(), 9);
    let new = table(
        &context,
        2,
        TableOptions::default(),
        &Versions::new(),
        &[dead],
    );
    let mut visible = Visible::new(
        vec![
            Box::new(new.cursor(ReadMode::Cached)),
            Box::new(old.cursor(ReadMode::Cached)),
        ],
        vec![Arc::clone(new.ranges())],
        SeqNo(10),
        Bound::Unbounded,
        Bound::Unbounded,
    );
    // Every block of the middle would be a read.
    media.fail_reads_after(6);
    let mut seen = 0;
    visible.seek_to_first().unwrap();
    while visible.valid() {
        seen += 1;
        visible.next().unwrap();
    }
    media.fail_reads_after(6);
    visible.seek_to_last().unwrap();
    while visible.valid() {
        seen += 1;
        visible.prev().unwrap();
    }
    assert_eq!(seen, 40);
}

#[test]
fn an_error_of_any_source_reaches_the_reader() {
    let media = MemMedia::new();
    let context = context(&media, 0);
    let mut versions = Versions::new();
    for n in 0..3000_u32 {
        versions.insert(
            (n.to_be_bytes().to_vec(), Reverse(5)),
            (VersionKind::Put, vec![1; 20]),
        );
    }
    let table = table(&context, 1, TableOptions::default(), &versions, &[]);
    let make = || {
        Visible::new(
            vec![Box::new(table.cursor(ReadMode::Cached))],
            vec![],
            SeqNo(10),
            Bound::Unbounded,
            Bound::Unbounded,
        )
    };
    for reads in 0..10 {
        media.fail_reads_after(reads);
        let mut visible = make();
        let mut walk = || {
            visible.seek_to_first()?;
            while visible.valid() {
                visible.next()?;
            }
            Ok(())
        };
        let result: Result<(), TableError> = walk();
        assert!(matches!(result, Err(TableError::Io { .. })));
        assert!(!visible.valid());
        media.fail_reads_after(reads);
        let mut walk = || {
            visible.seek_to_last()?;
            while visible.valid() {
                visible.prev()?;
            }
            Ok(())
        };
        let result: Result<(), TableError> = walk();
        assert!(matches!(result, Err(TableError::Io { .. })));
    }
}
