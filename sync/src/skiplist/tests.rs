//! The list against a sorted map, and with threads.
#![allow(clippy::print_stdout, reason = "randomised tests print their seed")]

use super::*;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A small generator of its own: the crate depends on none.
struct Dice(u64);
impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % below
    }
}

fn hash_of(key: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    (hash ^ hash >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn seeds() -> Vec<u64> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse().expect("a number"))
    };
    match number("ESKER_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("ESKER_SEEDS").unwrap_or(60)).collect(),
    }
}

type Model = BTreeMap<(Vec<u8>, Reverse<u64>), (u8, Vec<u8>)>;

fn bytes_of<'a>(value: &'a ValueRef<'a, Vec<u8>>) -> &'a [u8] {
    match value {
        ValueRef::Inline(bytes) => bytes,
        ValueRef::Large(bytes) => bytes,
    }
}

type Entry<'a> = (&'a (Vec<u8>, Reverse<u64>), &'a (u8, Vec<u8>));

fn check_place(cursor: &Cursor<Vec<u8>>, want: Option<Entry<'_>>) {
    let got = cursor.entry().map(|e| {
        let key = cursor.key().expect("on an entry").to_vec();
        (
            (key, Reverse(e.seqno)),
            (e.kind, bytes_of(&e.value).to_vec()),
        )
    });
    assert_eq!(got, want.map(|(k, v)| (k.clone(), v.clone())));
    assert_eq!(cursor.valid(), want.is_some());
}

#[test]
fn it_answers_as_a_sorted_map_of_versions_does() {
    for seed in seeds() {
        println!("ESKER_SEED={seed}");
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // From one bucket for all (SK6) to plenty; hashes that all collide, too.
        let list = Arc::new(SkipList::<Vec<u8>>::new(1 << dice.roll(12)));
        let collide = dice.roll(8) == 0;
        let hash = |key: &[u8]| if collide { 7 } else { hash_of(key) };
        let letters = 1 + dice.roll(3) as u8;
        let longest = 1 + dice.roll(24);
        let key = move |dice: &mut Dice| -> Vec<u8> {
            let len = dice.roll(longest + 1);
            // Zeros among them: padding must not be taken for key.
            (0..len)
                .map(|_| dice.roll(u64::from(letters) + 1) as u8 * 0x55)
                .collect()
        };
        let mut model = Model::new();
        let mut seqno = 0;
        for step in 0..1500 {
            let at = key(&mut dice);
            // Mostly rising, some late, some twice.
            seqno += dice.roll(4);
            let this = seqno.saturating_sub(if dice.roll(4) == 0 { dice.roll(200) } else { 0 });
            let value = vec![step as u8; dice.roll(40) as usize];
            let kind = dice.roll(2) as u8;
            let given = if dice.roll(10) == 0 {
                Value::Large(value.clone())
            } else {
                Value::Inline(&value)
            };
            let new = !model.contains_key(&(at.clone(), Reverse(this)));
            assert_eq!(list.insert(&at, hash(&at), this, kind, given), new);
            model.entry((at, Reverse(this))).or_insert((kind, value));
            // A look at some place.
            let at = key(&mut dice);
            let this = dice.roll(seqno + 2);
            let place = (at.clone(), Reverse(this));
            let from = model.range(&place..).next();
            let found = list.get(&at, hash(&at), this);
            let want = from.filter(|((key, _), _)| *key == at);
            assert_eq!(
                found
                    .as_ref()
                    .map(|f| (f.seqno, f.kind, bytes_of(&f.value))),
                want.map(|((_, s), (k, v))| (s.0, *k, &v[..]))
            );
            let mut cursor = Cursor::new(list.clone());
            cursor.seek(&at, this);
            check_place(&cursor, from);
            if let Some((place, _)) = from {
                let mut back = Cursor::new(list.clone());
                back.seek(&place.0, place.1.0);
                back.prev();
                check_place(&back, model.range(..place).next_back());
                back.seek(&place.0, place.1.0);
                back.next();
                let behind = (std::ops::Bound::Excluded(place), std::ops::Bound::Unbounded);
                check_place(
                    &back,
                    model.range::<(Vec<u8>, Reverse<u64>), _>(behind).next(),
                );
                back.seek(&place.0, place.1.0);
                back.next_key();
                let next = model.range(place..).find(|((key, _), _)| *key != place.0);
                check_place(&back, next);
            }
            cursor.seek_for_prev(&at, this);
            check_place(&cursor, model.range(..=&place).next_back());
        }
        let mut cursor = Cursor::new(list.clone());
        cursor.seek_to_first();
        for entry in &model {
            check_place(&cursor, Some(entry));
            cursor.next();
        }
        check_place(&cursor, None);
        cursor.seek_to_last();
        for entry in model.iter().rev() {
            check_place(&cursor, Some(entry));
            cursor.prev();
        }
        check_place(&cursor, None);
        let keys: std::collections::BTreeSet<_> = model.keys().map(|(key, _)| key).collect();
        assert_eq!(list.keys(), keys.len());
    }
}

#[test]
fn many_threads_lose_nothing_and_readers_see_what_was_done_before() {
    const THREADS: u64 = 4;
    const EACH: u64 = if cfg!(debug_assertions) {
        4_000
    } else {
        40_000
    };
    let list = Arc::new(SkipList::<Vec<u8>>::new(256));
    // The highest SeqNo that each writer is done with.
    let done: Vec<AtomicU64> = (0..THREADS).map(|_| AtomicU64::new(0)).collect();
    // Writers meet on the same keys: that of a SeqNo follows from the number, whichever thread has it.
    let key = |n: u64| ((n / THREADS) % 700).to_string().into_bytes();
    std::thread::scope(|scope| {
        for t in 0..THREADS {
            let (list, done) = (&list, &done);
            scope.spawn(move || {
                for i in 1..=EACH {
                    let seqno = i * THREADS + t;
                    let at = key(seqno);
                    let value = seqno.to_le_bytes();
                    let given = if seqno.is_multiple_of(50) {
                        Value::Large(value.to_vec())
                    } else {
                        Value::Inline(&value)
                    };
                    assert!(list.insert(&at, hash_of(&at), seqno, 1, given));
                    done[t as usize].store(i, Ordering::Release);
                }
            });
        }
        for r in 0..2 {
            let (list, done) = (&list, &done);
            scope.spawn(move || {
                let mut dice = Dice(r + 1);
                let mut cursor = Cursor::new(list.clone());
                loop {
                    let t = dice.roll(THREADS);
                    let upto = done[t as usize].load(Ordering::Acquire);
                    if upto > 0 {
                        let seqno = (1 + dice.roll(upto)) * THREADS + t;
                        let at = key(seqno);
                        let found = list.get(&at, hash_of(&at), seqno).expect("was inserted");
                        assert_eq!(found.seqno, seqno);
                        assert_eq!(bytes_of(&found.value), seqno.to_le_bytes());
                        cursor.seek(&at, seqno);
                        assert_eq!((cursor.key(), cursor.seqno()), (Some(&at[..]), Some(seqno)));
                        cursor.prev();
                        cursor.next();
                        assert!(cursor.key() <= Some(&at[..]), "order");
                    }
                    if (0..THREADS).all(|t| done[t as usize].load(Ordering::Acquire) == EACH) {
                        break;
                    }
                }
            });
        }
    });
    let mut cursor = Cursor::new(list.clone());
    let mut seen = 0;
    let mut before: Option<(Vec<u8>, Reverse<u64>)> = None;
    cursor.seek_to_first();
    while let Some(entry) = cursor.entry() {
        let this = (cursor.key().expect("on it").to_vec(), Reverse(entry.seqno));
        assert_eq!(bytes_of(&entry.value), entry.seqno.to_le_bytes());
        assert!(before.is_none_or(|before| before < this));
        before = Some(this);
        seen += 1;
        cursor.next();
    }
    assert_eq!(seen, THREADS * EACH);
    assert_eq!(list.keys(), 700);
}

#[test]
fn large_values_are_dropped_with_the_list_and_a_cursor_keeps_it() {
    let large = Arc::new(());
    let list = Arc::new(SkipList::<Arc<()>>::new(16));
    for n in 0..100_u64 {
        list.insert(&n.to_be_bytes(), n << 40, n, 0, Value::Large(large.clone()));
    }
    let mut cursor = Cursor::new(list.clone());
    drop(list);
    cursor.seek_to_last();
    assert_eq!(cursor.seqno(), Some(99));
    assert_eq!(Arc::strong_count(&large), 101);
    drop(cursor);
    assert_eq!(Arc::strong_count(&large), 1);
}

#[test]
fn a_place_among_many_versions_is_found_in_few_steps() {
    let list = SkipList::<()>::new(16);
    const VERSIONS: u64 = 100_000;
    for n in 1..=VERSIONS {
        assert!(list.insert(b"hot", 1, 2 * n, 0, Value::Inline(b"")));
    }
    let node = list.last().expect("a key");
    let mut most = 0;
    for n in (1..=VERSIONS).step_by(997) {
        let steps = std::cell::Cell::new(0_u32);
        let (newer, version) = versions_around(node, |of| {
            steps.set(steps.get() + 1);
            of > 2 * n + 1
        });
        assert_eq!(version.map(VersionRef::seqno), Some(2 * n));
        assert_eq!(
            newer.map(VersionRef::seqno),
            (n < VERSIONS).then_some(2 * n + 2)
        );
        most = most.max(steps.get());
    }
    let steps = std::cell::Cell::new(0_u32);
    let (oldest, _) = versions_around(node, |_| {
        steps.set(steps.get() + 1);
        true
    });
    assert_eq!(oldest.map(VersionRef::seqno), Some(2));
    assert!(
        most.max(steps.get()) < 200,
        "{most} and {} steps",
        steps.get()
    );
}

#[test]
fn bytes_are_what_was_taken() {
    let list = SkipList::<()>::new(1);
    let empty = list.bytes();
    let mut least = 0;
    for n in 0..10_000_u64 {
        let key = n.to_be_bytes();
        list.insert(&key, hash_of(&key), n, 0, Value::Inline(&[7; 100]));
        least += 8 + 100;
    }
    let taken = list.bytes() - empty;
    assert!(taken > least, "{taken}");
    assert!(taken < least + 10_000 * ENTRY_BYTES, "{taken}");
}
