//! Defects that a hostile reading found, each with what it broke.

mod support;

use esker_audit::{
    Error, FindingKind, Key, Limits, OnFailure, OnTamper, Options, Order, Policies, Query, Reader,
    Record, Severity, Trail, Write, Written,
};
use esker_wal::media::Media as _;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, EIO, Fault, SimMedia};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use support::hooked::{Hooked, Hooks};
use support::{DIR, closed, copy, keys, login, open, policy, report, stepped, written};

fn open_with(options: Options) -> Trail {
    Trail::open(Path::new(DIR), keys(), options).unwrap().0
}

fn interval() -> Policies {
    Policies::all(policy(Write::Interval, OnFailure::Refuse))
}

/// The actions of all records, the trail's own among them.
fn actions(media: &SimMedia) -> Vec<String> {
    let reader = Reader::open_on(Path::new(DIR), keys(), Arc::new(media.clone())).unwrap();
    let mut records = reader.query(Query::default()).unwrap();
    let mut out = Vec::new();
    while let Some(found) = records.next().unwrap() {
        out.push(found.fields["event.action"].as_str().unwrap().to_owned());
    }
    out
}

/// U1, T2: what was not synced yet went into the closed file; a failed sync then took it out of the live log, and its sequences were given twice.
#[test]
fn u1_a_closed_file_holds_nothing_that_a_failed_sync_can_take_back() {
    (1..=4).for_each(closes_while_a_sync_fails);
}

fn closes_while_a_sync_fails(seed: u64) {
    let media = SimMedia::new(seed);
    let hooked = Hooked::new(&media);
    let clock = Arc::new(Hooks::default());
    let options = Options {
        policies: interval(),
        media: Arc::new(hooked.clone()),
        clock: clock.clone(),
        ..stepped(&media)
    };
    let trail = Arc::new(open_with(options));
    trail.record(login(1)).unwrap();
    // One more comes between the sync and the closing.
    let other = trail.clone();
    let armed = clock.clone();
    let late = Arc::new(OnceLock::new());
    let came = late.clone();
    // The time is asked for once per record, and when HEAD is written.
    armed.before("wall", "", move || {
        came.set(other.record(login(2)).unwrap()).unwrap();
    });
    let (other, failing, hooks) = (trail.clone(), media.clone(), hooked.hooks.clone());
    hooked.hooks.before("rename", ".trail", move || {
        failing.fail(Fault::nth(1).of(CallKind::SyncMap).on("live").errno(EIO));
        let _ = other.record(login(3));
        // The system drops the pages that it could not write.
        let dropping = failing.clone();
        hooks.before("list", "live", move || {
            for (path, bytes) in dropping.durable_image() {
                if path.starts_with(Path::new(DIR).join("live")) {
                    dropping.put(&path, &bytes).unwrap();
                }
            }
        });
        let _ = other.flush();
        let _ = other.record(login(4));
    });
    trail.rotate().unwrap().unwrap();
    assert!(late.get().is_some());
    trail.record(login(5)).unwrap();
    trail.close().unwrap();
    assert_eq!(trail.stats().reopened, 1);
    assert_eq!(report(&media).findings, []);
}

/// A1, O2: a trail that has no closed file yet lost its end and `HEAD`, and opening it said nothing and covered it up.
#[test]
fn o2_a_missing_head_is_found_where_there_is_a_live_log_alone() {
    let whole = written(0, 6);
    let media = copy(&whole, |name, bytes| {
        (name != "HEAD").then(|| (name.to_owned(), bytes))
    });
    let opened = Trail::open(Path::new(DIR), keys(), stepped(&media));
    match opened {
        Err(Error::Tampered { finding, .. }) => assert_eq!(finding.kind, FindingKind::Head),
        other => panic!("{other:?}"),
    }
}

/// EN2: without the key that the last entry began, the trail was opened and went on with the one before: it never verified again.
#[test]
fn a_trail_is_not_opened_without_the_key_that_its_last_entry_began() {
    let media = SimMedia::new(1);
    let trail = open(&media);
    trail.record(login(1)).unwrap();
    trail.rotate_key(Key::from_secret([2; 32])).unwrap();
    media.kill();
    drop(trail);
    let error = Trail::open(Path::new(DIR), keys(), stepped(&media)).unwrap_err();
    assert!(matches!(error, Error::NoKey { .. }), "{error}");
    let mut both = keys();
    both.add(Key::from_secret([2; 32]));
    Trail::open(Path::new(DIR), both, stepped(&media)).unwrap();
}

/// T2: dropped records stood in `HEAD` alone; opening wiped them there before their gap was written.
#[test]
fn t2_drops_outlive_a_second_kill_while_the_trail_is_opened() {
    let media = SimMedia::new(1);
    let options = || Options {
        policies: Policies::all(policy(Write::Sync, OnFailure::Drop)),
        ..stepped(&media)
    };
    let trail = open_with(options());
    media.set_capacity(Some(media.used_bytes()));
    let mut dropped = 0;
    for n in 0..5000 {
        while trail.step() {}
        let receipt = trail.record(login(n).with("pad", "x".repeat(800))).unwrap();
        dropped += u64::from(receipt.written == Written::Dropped);
        if dropped == 7 {
            break;
        }
    }
    assert_eq!(dropped, 7);
    media.kill();
    drop(trail);
    // Opened with the disk full still: the gap can't be written.
    if let Ok((trail, _)) = Trail::open(Path::new(DIR), keys(), options()) {
        media.kill();
        drop(trail);
    }
    media.set_capacity(None);
    open_with(options()).close().unwrap();
    let report = report(&media);
    assert_eq!((report.findings, report.dropped), (vec![], 7));
}

/// Closed means closed: what came after opened the live log again, and held its lock.
#[test]
fn nothing_opens_the_live_log_again_after_close() {
    let media = SimMedia::new(1);
    let trail = open(&media);
    trail.record(login(1)).unwrap();
    trail.close().unwrap();
    assert!(matches!(trail.rotate(), Err(Error::Closed)));
    assert!(matches!(trail.checkpoint(), Err(Error::Closed)));
    let key = Key::from_secret([2; 32]);
    assert!(matches!(trail.rotate_key(key), Err(Error::Closed)));
    assert!(trail.stats().down);
    open(&media).close().unwrap();
}

/// O3: the evidence itself was overwritten by the next file of that name.
#[test]
fn o3_a_damaged_closed_file_is_put_aside_and_not_overwritten() {
    let media = written(2, 4);
    let name = closed(&media).pop().unwrap();
    let path = Path::new(DIR).join(&name);
    let end = media.read(&path).unwrap().len() as u64;
    media.flip(&path, end - 100, 1).unwrap();
    let damaged = media.read(&path).unwrap();
    let options = Options {
        on_tamper: OnTamper::Continue,
        ..stepped(&media)
    };
    let (trail, opened) = Trail::open(Path::new(DIR), keys(), options).unwrap();
    assert!(!opened.findings.is_empty());
    trail.record(login(1)).unwrap();
    trail.rotate().unwrap().unwrap();
    trail.close().unwrap();
    let kept = media.image().into_values().filter(|b| *b == damaged);
    assert_eq!(kept.count(), 1);
    assert_eq!(report(&media).findings, []);
}

/// A closed file that is gone already stopped the retention for good, with a tombstone at each look.
#[test]
fn u2_retention_goes_on_behind_a_file_that_is_gone_and_buries_once() {
    let media = SimMedia::new(1);
    let options = Options {
        keep_bytes: Some(1),
        ..stepped(&media)
    };
    let trail = open_with(options);
    for n in 0..3 {
        trail.record(login(n)).unwrap();
        trail.rotate().unwrap().unwrap();
    }
    let first = closed(&media).remove(0);
    media.fail(Fault::nth(1).of(CallKind::Remove).on(&first).errno(EIO));
    trail.clean().unwrap_err();
    media.heal();
    media.remove(&Path::new(DIR).join(first)).unwrap();
    trail.clean().unwrap();
    assert_eq!(closed(&media).len(), 1);
    trail.close().unwrap();
    let buried = actions(&media)
        .iter()
        .filter(|a| *a == "esker.audit.removed")
        .count();
    assert_eq!(buried, 1);
    assert_eq!(report(&media).findings, []);
}

/// RE3: texts within their limits made a record that no log takes, and the caller was refused for it.
#[test]
fn re3_a_record_of_the_largest_texts_and_names_fits() {
    let media = SimMedia::new(1);
    let options = Options {
        limits: Limits {
            text_bytes: 64 << 10,
            metadata: 256,
        },
        rotate_bytes: 64 << 20,
        ..stepped(&media)
    };
    let trail = open_with(options);
    let mut record = Record::new("a.b").severity(Severity::Notice);
    for n in 0..24 {
        record = record.with(format!("n{n}"), "\u{1}".repeat(64 << 10));
    }
    assert_eq!(trail.record(record).unwrap().written, Written::Synced);
    let record = Record::new("a.b").with("n".repeat(3 << 20), 1);
    assert_eq!(trail.record(record).unwrap().written, Written::Synced);
    trail.rotate().unwrap().unwrap();
    trail.close().unwrap();
    assert_eq!(report(&media).findings, []);
}

/// A file that could not be closed kept what it had taken of a full disk.
#[test]
fn cl1_a_file_that_could_not_be_closed_leaves_nothing() {
    let media = SimMedia::new(1);
    let trail = open(&media);
    for n in 0..20 {
        trail.record(login(n)).unwrap();
    }
    media.fail(
        Fault::nth(1)
            .of(CallKind::SyncFile)
            .on(".trail.tmp")
            .errno(EIO),
    );
    trail.rotate().unwrap_err();
    let left = media.image().into_keys();
    assert_eq!(
        left.filter(|p| p.extension().is_some_and(|e| e == "tmp"))
            .count(),
        0
    );
    media.heal();
    trail.rotate().unwrap().unwrap();
    trail.close().unwrap();
    assert_eq!(report(&media).findings, []);
}

/// A trail, with records in it, whose live log can be taken away.
struct Renewable {
    media: SimMedia,
    hooked: Hooked,
    clock: Arc<ManualClock>,
    trail: Arc<Trail>,
}

impl Renewable {
    fn with(records: u64) -> Renewable {
        let media = SimMedia::new(1);
        let hooked = Hooked::new(&media);
        let clock = Arc::new(ManualClock::default());
        let options = Options {
            media: Arc::new(hooked.clone()),
            clock: clock.clone(),
            ..stepped(&media)
        };
        let trail = Arc::new(open_with(options));
        for n in 0..records {
            trail.record(login(n)).unwrap();
        }
        clock.advance(Duration::from_secs(2));
        while trail.step() {}
        Renewable {
            media,
            hooked,
            clock,
            trail,
        }
    }
}

/// Locks: who asked for the numbers while the live log was renewed waited for ever, and so did every writer.
#[test]
fn numbers_can_be_asked_for_while_the_live_log_is_renewed() {
    let Renewable {
        media,
        hooked,
        clock,
        trail,
    } = Renewable::with(1);
    let (other, asking) = (trail.clone(), Arc::new(Mutex::new(None)));
    let asked = asking.clone();
    let hooks = hooked.hooks.clone();
    hooked.hooks.before("rename", "live.aside", move || {
        // By now the renewal holds the state; the other takes what it takes before that.
        let (begun, began) = std::sync::mpsc::channel();
        hooks.before("free", "", move || begun.send(()).unwrap());
        *asked.lock() = Some(std::thread::spawn(move || other.stats()));
        began.recv().unwrap();
        std::thread::sleep(Duration::from_millis(100));
    });
    take_live_away(&media, &trail, &clock);
    asking
        .lock()
        .take()
        .expect("it was renewed")
        .join()
        .unwrap();
    assert_eq!(trail.closed_files().len(), 1);
    trail.close().unwrap();
}

/// A1, HE4: with `HEAD` all zeros its end was cut off unseen; with the newer slot cleared, the last record.
#[test]
fn he4_a_head_of_zeros_or_with_a_cleared_slot_is_found() {
    let media = written(1, 6);
    let head = Path::new(DIR).join("HEAD");
    let whole = media.read(&head).unwrap();
    let last = report(&media).last;
    for cleared in [0..1024, 0..512, 512..1024] {
        let mut bytes = whole.clone();
        bytes[cleared.clone()].fill(0);
        media.put(&head, &bytes).unwrap();
        let found = report(&media);
        let finding = found.findings.first().expect("nothing was seen");
        assert_eq!((finding.kind, found.last), (FindingKind::Head, last));
        let opened = Trail::open(Path::new(DIR), keys(), stepped(&media));
        assert!(matches!(opened, Err(Error::Tampered { .. })), "{cleared:?}");
    }
}

/// T2: a record that was dropped while another wrote `HEAD` stood nowhere, and a kill then lost it uncounted.
#[test]
fn t2_a_drop_while_head_is_written_outlives_a_kill() {
    let media = SimMedia::new(1);
    let hooked = Hooked::new(&media);
    let options = Options {
        queue: 1,
        policies: Policies::default().with(Severity::Info, policy(Write::Async, OnFailure::Drop)),
        media: Arc::new(hooked.clone()),
        ..stepped(&media)
    };
    let trail = Arc::new(open_with(options));
    let (other, dropped) = (trail.clone(), Arc::new(Mutex::new(0)));
    let count = dropped.clone();
    hooked.hooks.before("write", "HEAD", move || {
        for n in 0..4 {
            let receipt = other.record(login(n).severity(Severity::Info)).unwrap();
            *count.lock() += u64::from(receipt.written == Written::Dropped);
        }
    });
    trail.record(login(1)).unwrap();
    assert_eq!(*dropped.lock(), 3);
    media.kill();
    drop(trail);
    open(&media).close().unwrap();
    let report = report(&media);
    assert_eq!((report.findings, report.dropped), (vec![], 3));
}

/// A failed sync, or a full disk, while the newest key was to be begun ended the opening; and none was begun later.
#[test]
fn a_key_that_can_t_be_begun_at_open_is_begun_as_soon_as_it_can() {
    let mut both = keys();
    both.add(Key::from_secret([2; 32]));
    let mut failed = 0;
    for nth in 1..=8 {
        let media = written(1, 4);
        let clock = Arc::new(ManualClock::default());
        let options = Options {
            clock: clock.clone(),
            ..stepped(&media)
        };
        media.fail(Fault::nth(nth).of(CallKind::SyncMap).on("live").errno(EIO));
        let trail = match Trail::open(Path::new(DIR), both.clone(), options) {
            Ok((trail, _)) => trail,
            // It is the log's own opening that failed.
            Err(Error::Open(_)) => continue,
            Err(e) => panic!("sync {nth}: {e}"),
        };
        failed += u64::from(trail.stats().reopened > 0);
        media.heal();
        clock.advance(Duration::from_secs(2));
        while trail.step() {}
        trail.record(login(1)).unwrap();
        trail.close().unwrap();
        let reader =
            Reader::open_on(Path::new(DIR), both.clone(), Arc::new(media.clone())).unwrap();
        let mut records = reader.query(Query::default()).unwrap();
        let mut last = None;
        while let Some(found) = records.next().unwrap() {
            last = Some(found.head.key);
        }
        assert_eq!(last, Some(both.newest().id()), "sync {nth}");
    }
    assert!(failed >= 2, "{failed}");
}

/// Takes the files of the live log away, and lets the trail notice.
fn take_live_away(media: &SimMedia, trail: &Trail, clock: &ManualClock) {
    let live = Path::new(DIR).join("live");
    for entry in media.list(&live).unwrap() {
        if !entry.is_dir && entry.name != "LOCK" {
            media.remove(&live.join(&entry.name)).unwrap();
        }
    }
    clock.advance(Duration::from_secs(2));
    while trail.step() {}
}

/// U3: who wrote while a missing live log was saved waited until all of it was compressed.
#[test]
fn u3_others_write_while_a_missing_live_log_is_saved() {
    let Renewable {
        media,
        hooked,
        clock,
        trail,
    } = Renewable::with(20);
    let (other, writing) = (trail.clone(), Arc::new(Mutex::new(None)));
    let wrote = writing.clone();
    hooked.hooks.before("rename", ".trail", move || {
        let (done, written) = std::sync::mpsc::channel();
        let writer =
            std::thread::spawn(move || done.send(other.record(login(99)).unwrap()).unwrap());
        // A bound for the test that fails: nothing in the trail goes by time here.
        let receipt = written.recv_timeout(Duration::from_secs(20));
        *wrote.lock() = Some((writer, receipt.is_ok()));
    });
    take_live_away(&media, &trail, &clock);
    let (writer, in_time) = writing.lock().take().expect("it was saved");
    writer.join().unwrap();
    assert!(in_time, "it waited for the renewal");
    trail.record(login(100)).unwrap();
    trail.close().unwrap();
    assert_eq!(report(&media).findings, []);
    assert!(
        actions(&media)
            .iter()
            .filter(|a| *a == "user.login")
            .count()
            == 22
    );
}

/// RD3: who read a trail whose files went one by one was told after the twentieth that files come and go too fast, however far it had come.
#[test]
fn rd3_a_reader_that_gets_on_goes_on() {
    let media = written(80, 2);
    let hooked = Hooked::new(&media);
    let names = closed(&media);
    for name in names.iter().skip(1).step_by(2) {
        let (media, path) = (media.clone(), Path::new(DIR).join(name));
        // The newest is opened to be asked where it ends.
        if Some(name) != names.last() {
            let gone = move || media.remove(&path).unwrap();
            hooked.hooks.before("open", &format!("={DIR}/{name}"), gone);
        }
    }
    let reader = Reader::open_on(Path::new(DIR), keys(), Arc::new(hooked)).unwrap();
    let mut records = reader.query(Query::default()).unwrap();
    let mut seen = Vec::new();
    while let Some(found) = records.next().unwrap() {
        seen.push(found.head.sequence);
    }
    assert!(seen.is_sorted() && seen.len() > 80, "{seen:?}");
}

/// RD2: each stretch of the live log was reached by reading its segment from the beginning.
#[test]
fn rd2_the_live_log_is_read_once_to_plan_and_once_to_answer() {
    let media = SimMedia::new(1);
    let options = Options {
        policies: interval(),
        rotate_bytes: 64 << 20,
        ..stepped(&media)
    };
    let trail = open_with(options);
    for n in 0..4000 {
        trail.record(login(n).with("pad", "x".repeat(900))).unwrap();
    }
    trail.flush().unwrap();
    let hooked = Hooked::new(&media);
    let reads = Arc::new(Mutex::new(0));
    let count = reads.clone();
    hooked.hooks.each("read", ".seg", move || {
        *count.lock() += 1;
        true
    });
    for order in [Order::Oldest, Order::Newest] {
        let reader = Reader::open_on(Path::new(DIR), keys(), Arc::new(hooked.clone())).unwrap();
        *reads.lock() = 0;
        let query = Query {
            order,
            ..Query::default()
        };
        let mut records = reader.query(query).unwrap();
        let planned = *reads.lock();
        let mut seen = 0;
        while records.next().unwrap().is_some() {
            seen += 1;
        }
        let answered = *reads.lock() - planned;
        assert_eq!(seen, 4001);
        assert!(planned > 20, "{planned} reads");
        assert!(
            answered < 2 * planned,
            "{order:?}: {planned}, then {answered} reads"
        );
    }
}
