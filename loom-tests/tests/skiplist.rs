//! Inserting and reading at once: the sorted list of keys and versions (`esker_sync::skiplist`).
#![cfg(esker_loom)]

use esker_loom_tests::{assert_caught, model};
use esker_sync::shim::Arc;
use esker_sync::shim::atomic::{AtomicBool, Ordering};
use esker_sync::skiplist::{Broken, Cursor, SkipList, Value, ValueRef};
use loom::thread;

type List = SkipList<()>;

/// A hash that makes a tower of two levels.
const TALL: u64 = 1 << 32;
const LOW: u64 = 0;

fn insert(list: &List, key: &[u8], hash: u64, seqno: u64) {
    assert!(list.insert(key, hash, seqno, 0, Value::Inline(&seqno.to_le_bytes())));
}

/// By the index.
fn look_up(list: &List, key: &[u8], hash: u64, at: u64) -> Option<u64> {
    let found = list.get(key, hash, at)?;
    let ValueRef::Inline(value) = found.value else {
        panic!("a value that nobody wrote");
    };
    assert_eq!(value, found.seqno.to_le_bytes(), "half a version");
    Some(found.seqno)
}

/// By the list.
fn seek(list: &Arc<List>, key: &[u8], at: u64) -> Option<u64> {
    let mut cursor = Cursor::new(list.clone());
    cursor.seek(key, at);
    cursor.seqno().filter(|_| cursor.key() == Some(key))
}

/// From the first to the last: keys and SeqNos, checked for their order.
fn walk(list: &Arc<List>) -> Vec<(Vec<u8>, u64)> {
    let mut cursor = Cursor::new(list.clone());
    cursor.seek_to_first();
    let mut all: Vec<(Vec<u8>, u64)> = Vec::new();
    while let (Some(key), Some(seqno)) = (cursor.key(), cursor.seqno()) {
        if let Some((last, older)) = all.last() {
            assert!(&last[..] < key || (last == key && *older > seqno), "order");
        }
        all.push((key.to_vec(), seqno));
        cursor.next();
    }
    all
}

/// Two threads insert neighbours while a third walks; `link` inserts.
fn neighbours(link: fn(&List, &[u8], u64, u64)) {
    model(move || {
        let list = Arc::new(List::new(1));
        let writers: Vec<_> = [(b"a", TALL, 1), (b"b", TALL, 2)]
            .into_iter()
            .map(|(key, hash, seqno)| {
                let list = list.clone();
                thread::spawn(move || {
                    link(&list, key, hash, seqno);
                    assert_eq!(seek(&list, key, seqno), Some(seqno), "lost its own");
                })
            })
            .collect();
        walk(&list);
        for writer in writers {
            writer.join().unwrap();
        }
        let all = walk(&list);
        assert_eq!(all, [(b"a".to_vec(), 1), (b"b".to_vec(), 2)], "lost");
        for (key, seqno) in all {
            assert_eq!(look_up(&list, &key, TALL, u64::MAX), Some(seqno), "lost");
            assert_eq!(seek(&list, &key, u64::MAX), Some(seqno), "lost");
        }
    });
}

/// Whoever meets a node sees it complete, and no insert is lost at any level (SK1, SK3, NO1).
#[test]
fn inserts_at_one_place_are_all_there_and_complete() {
    neighbours(insert);
}

/// Twin: a link is published without release.
#[test]
fn twin_a_link_without_release_shows_half_a_node() {
    assert_caught(
        "broken_a_link_without_release_shows_half_a_node",
        &["Causality violation"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_link_without_release_shows_half_a_node() {
    neighbours(|list, key, hash, seqno| {
        let value = seqno.to_le_bytes();
        list.insert_with(key, hash, seqno, &value, Broken::LinkedWithoutRelease);
    });
}

/// Twin: a link is stored whatever came in between, not compared and tried again.
#[test]
fn twin_a_link_that_is_not_compared_loses_an_insert() {
    assert_caught(
        "broken_a_link_that_is_not_compared_loses_an_insert",
        &["lost"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_link_that_is_not_compared_loses_an_insert() {
    neighbours(|list, key, hash, seqno| {
        let value = seqno.to_le_bytes();
        list.insert_with(key, hash, seqno, &value, Broken::LinkedWithoutComparing);
    });
}

/// Two threads insert versions of one new key; a third, told of the second's, looks for it.
fn one_key(insert: fn(&List, &[u8], u64, u64)) {
    model(move || {
        let list = Arc::new(List::new(1));
        let told = Arc::new(AtomicBool::new(false));
        let first = {
            let list = list.clone();
            thread::spawn(move || insert(&list, b"k", LOW, 1))
        };
        let second = {
            let (list, told) = (list.clone(), told.clone());
            thread::spawn(move || {
                insert(&list, b"k", LOW, 2);
                told.store(true, Ordering::Release);
            })
        };
        if told.load(Ordering::Acquire) {
            assert_eq!(look_up(&list, b"k", LOW, 2), Some(2), "not in the index");
            assert_eq!(seek(&list, b"k", 2), Some(2), "not in the list");
        }
        first.join().unwrap();
        second.join().unwrap();
        assert_eq!(walk(&list), [(b"k".to_vec(), 2), (b"k".to_vec(), 1)]);
        assert_eq!(look_up(&list, b"k", LOW, 1), Some(1));
        assert_eq!(list.keys(), 1);
    });
}

/// A version whose insert is done is found by index and list, whoever made its key's node (SK2, SK4).
#[test]
fn an_insert_that_is_done_is_found_whoever_made_the_node() {
    one_key(insert);
}

/// Twin: who finds the node by the list leaves it to the node's maker to put it into the index.
#[test]
fn twin_leaving_the_index_to_the_other_hides_a_finished_insert() {
    assert_caught(
        "broken_leaving_the_index_to_the_other_hides_a_finished_insert",
        &["not in the index"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_leaving_the_index_to_the_other_hides_a_finished_insert() {
    one_key(|list, key, hash, seqno| {
        let value = seqno.to_le_bytes();
        list.insert_with(key, hash, seqno, &value, Broken::IndexLeftToTheMaker);
    });
}
