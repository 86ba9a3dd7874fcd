//! A memtable is switched for the next and flushed, while writers insert and a reader looks: the protocol of `esker_lsm`, on the
//! real tail, sequencer, spans and lists.
#![cfg(esker_loom)]

use esker_loom_tests::{Log, assert_caught, model};
use esker_sync::sequencer::Sequencer;
use esker_sync::shim::{Arc, Mutex};
use esker_sync::skiplist::{Cursor, SkipList, Value};
use esker_sync::span::Span;
use loom::thread;

struct Mem {
    span: Span,
    list: Arc<SkipList<()>>,
}

impl Mem {
    fn from(start: u64) -> Arc<Mem> {
        Arc::new(Mem {
            span: Span::from(start),
            list: Arc::new(SkipList::new(1)),
        })
    }

    fn insert(&self, at: u64) {
        assert!(self.span.owns(at), "inserted where it does not belong");
        self.list.insert(&[at as u8], 0, at, 0, Value::Inline(&[]));
    }

    fn has(&self, at: u64) -> bool {
        self.list.get(&[at as u8], 0, at).is_some()
    }

    /// What a flush writes.
    fn positions(&self) -> Vec<u64> {
        let mut cursor = Cursor::new(self.list.clone());
        cursor.seek_to_first();
        let mut all = Vec::new();
        while let Some(seqno) = cursor.seqno() {
            all.push(seqno);
            cursor.next();
        }
        all
    }
}

/// What readers read, swapped whole.
#[derive(Clone)]
struct View {
    /// Newest first.
    mems: Vec<Arc<Mem>>,
    /// Positions that are in tables.
    tables: Vec<u64>,
}

struct Store {
    log: Arc<Log>,
    sequencer: Sequencer,
    /// Stands in for the atomic pointer of the store.
    view: Mutex<View>,
}

impl Store {
    fn new(frames: usize) -> Arc<Store> {
        Arc::new(Store {
            log: Log::new(frames),
            sequencer: Sequencer::new(0),
            view: Mutex::new(View {
                mems: vec![Mem::from(0)],
                tables: Vec::new(),
            }),
        })
    }

    fn load(&self) -> View {
        self.view.lock().clone()
    }

    fn insert(&self, view: &View, at: u64) {
        let owner = view.mems.iter().find(|mem| mem.span.start() <= at);
        let owner = owner.filter(|mem| mem.span.owns(at));
        owner.expect("each position has a memtable").insert(at);
        self.sequencer.complete(at, at + 1);
    }

    /// The view is loaded after the position was reserved.
    fn write(&self) {
        let at = self.log.reserve().expect("not closed");
        self.insert(&self.load(), at);
    }

    /// Freezes the active memtable where reservations stand, while nobody can reserve.
    fn switch(&self) {
        let _boundary = self.log.append.lock();
        let end = self.log.tail.reserved();
        let mut view = self.view.lock();
        if view.mems[0].span.start() < end {
            view.mems[0].span.freeze(end);
            view.mems.insert(0, Mem::from(end));
        }
    }

    /// Flushes the frozen memtable, if there is one; `wait` lets those that insert into it finish.
    fn flush(&self, wait: impl Fn(&Sequencer, u64)) {
        self.flush_by(wait, Store::install);
    }

    fn flush_by(&self, wait: impl Fn(&Sequencer, u64), install: fn(&Store, Vec<u64>)) {
        let view = self.load();
        if view.mems.len() < 2 {
            return;
        }
        let frozen = view.mems.last().expect("two");
        let end = frozen.span.end();
        wait(&self.sequencer, end);
        install(self, frozen.positions());
    }

    /// The table comes as its memtable goes.
    fn install(&self, written: Vec<u64>) {
        let mut view = self.view.lock();
        view.mems.pop();
        view.tables.extend(written);
    }

    /// A reader finds everything below what is visible.
    fn check_visible(&self) {
        let visible = self.sequencer.visible();
        let view = self.load();
        for at in 0..visible {
            let found = view.tables.contains(&at) || view.mems.iter().any(|mem| mem.has(at));
            assert!(found, "position {at} of {visible} is lost");
        }
    }
}

fn switched_and_flushed(write: fn(&Store), wait: fn(&Sequencer, u64)) {
    model(move || {
        let store = Store::new(3);
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let store = store.clone();
                thread::spawn(move || write(&store))
            })
            .collect();
        store.switch();
        store.flush(wait);
        store.check_visible();
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(store.sequencer.visible(), 2);
        store.check_visible();
    });
}

fn until_inserted(sequencer: &Sequencer, end: u64) {
    sequencer.wait(end).expect("nobody failed");
}

/// What has a position is in the memtable that owns it when that is flushed, and found by readers all the time (M1, M2, L1).
#[test]
fn nothing_is_lost_when_the_memtable_is_switched_and_flushed() {
    switched_and_flushed(Store::write, until_inserted);
}

/// Twin: the flush does not wait for inserts that are on their way.
#[test]
fn twin_a_flush_that_does_not_wait_for_inserts_loses_them() {
    assert_caught(
        "broken_a_flush_that_does_not_wait_for_inserts_loses_them",
        &["is lost"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_flush_that_does_not_wait_for_inserts_loses_them() {
    switched_and_flushed(Store::write, |_, _| {});
}

/// Twin: the writer looks for the memtable before it has its position.
#[test]
fn twin_a_memtable_chosen_before_the_position_is_the_wrong_one() {
    assert_caught(
        "broken_a_memtable_chosen_before_the_position_is_the_wrong_one",
        &["each position has a memtable"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_memtable_chosen_before_the_position_is_the_wrong_one() {
    fn write(store: &Store) {
        let view = store.load();
        let at = store.log.reserve().expect("not closed");
        store.insert(&view, at);
    }
    switched_and_flushed(write, until_inserted);
}

/// A reader beside a writer, a switch and a flush.
fn read_meanwhile(write: fn(&Store), install: fn(&Store, Vec<u64>)) {
    model(move || {
        let store = Store::new(3);
        store.write();
        let writer = {
            let store = store.clone();
            thread::spawn(move || write(&store))
        };
        let reader = {
            let store = store.clone();
            thread::spawn(move || {
                store.check_visible();
                store.check_visible();
            })
        };
        store.switch();
        store.flush_by(until_inserted, install);
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// A reader finds everything below `visible`, whatever is switched and flushed meanwhile (L1, Q1).
#[test]
fn what_is_visible_stays_so_through_switch_and_flush() {
    read_meanwhile(Store::write, Store::install);
}

/// Twin: the memtable goes before its table comes.
#[test]
fn twin_a_memtable_that_goes_before_its_table_comes() {
    assert_caught(
        "broken_a_memtable_that_goes_before_its_table_comes",
        &["is lost"],
    );
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_memtable_that_goes_before_its_table_comes() {
    read_meanwhile(Store::write, |store, written| {
        store.view.lock().mems.pop();
        store.view.lock().tables.extend(written);
    });
}

/// Twin: a write becomes visible before it is inserted.
#[test]
fn twin_a_write_visible_before_it_is_inserted() {
    assert_caught("broken_a_write_visible_before_it_is_inserted", &["is lost"]);
}

#[test]
#[ignore = "a broken twin, run by the test above"]
fn broken_a_write_visible_before_it_is_inserted() {
    fn write(store: &Store) {
        let at = store.log.reserve().expect("not closed");
        let view = store.load();
        store.sequencer.complete(at, at + 1);
        store.insert(&view, at);
    }
    read_meanwhile(write, Store::install);
}
