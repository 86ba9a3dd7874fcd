//! AG1, AG2: the wall clock leaps, and retention by age removes nothing for it. It removed everything but the newest file once.

mod support;

use esker_audit::{Options, Query, Reader, Trail};
use esker_wal::media::clock::Clock;
use esker_wal::media::sim::SimMedia;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use support::{DIR, closed, keys, login, report, stepped};

const HOUR: Duration = Duration::from_secs(3600);
const YEARS: i64 = 10 * 365 * 24 * 3600;

/// A wall clock that is `ahead` seconds ahead of where it should be.
#[derive(Debug, Default)]
struct Clocks {
    nanos: AtomicU64,
    ahead: AtomicI64,
}

impl Clocks {
    fn advance(&self, by: Duration) {
        self.nanos
            .fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }

    fn leap(&self, seconds: i64) {
        self.ahead.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for Clocks {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    fn wall(&self) -> Duration {
        let seconds = 1_700_000_000 + self.ahead.load(Ordering::Relaxed);
        self.now() + Duration::from_secs(seconds as u64)
    }
}

struct Kept {
    media: SimMedia,
    clock: Arc<Clocks>,
    trail: Option<Trail>,
}

impl Kept {
    fn new() -> Kept {
        let mut kept = Kept {
            media: SimMedia::new(1),
            clock: Arc::default(),
            trail: None,
        };
        kept.open();
        kept
    }

    fn open(&mut self) {
        let options = Options {
            rotate_after: HOUR,
            keep_for: Some(10 * HOUR),
            clock: self.clock.clone(),
            ..stepped(&self.media)
        };
        self.trail = Some(Trail::open(Path::new(DIR), keys(), options).unwrap().0);
    }

    fn trail(&self) -> &Trail {
        self.trail.as_ref().unwrap()
    }

    fn close(&mut self) {
        self.trail.take().unwrap().close().unwrap();
    }

    /// A closed file an hour.
    fn hours(&self, hours: u64) -> usize {
        for hour in 0..hours {
            self.trail().record(login(hour)).unwrap();
            self.clock.advance(HOUR);
            while self.trail().step() {}
        }
        self.files()
    }

    /// Time passes, and nothing is written.
    fn pass(&self, time: Duration) -> usize {
        self.clock.advance(time);
        while self.trail().step() {}
        self.files()
    }

    fn files(&self) -> usize {
        closed(&self.media).len()
    }
}

#[test]
fn ag1_a_leap_of_the_clock_removes_nothing_that_is_not_old() {
    let kept = Kept::new();
    assert_eq!(kept.hours(6), 6);
    assert_eq!(kept.trail().stats().retention_behind, 0);
    kept.clock.leap(YEARS);
    assert_eq!(kept.trail().stats().retention_behind, YEARS as u64);
    assert_eq!(kept.pass(HOUR), 6);
    let reader = Reader::open_on(Path::new(DIR), keys(), Arc::new(kept.media.clone())).unwrap();
    kept.trail().flush().unwrap();
    kept.trail().record(login(1)).unwrap();
    let said = reader.retention_behind().unwrap().unwrap();
    assert_eq!(said.as_secs(), YEARS as u64);
    let query = Query {
        action: Some("esker.audit.clock_leapt".to_owned()),
        ..Query::default()
    };
    assert!(reader.query(query).unwrap().next().unwrap().is_some());
    // Set right, it goes on as if nothing had been: what is older than ten hours goes, and nothing else.
    kept.clock.leap(-YEARS);
    let files = kept.hours(20);
    assert!((9..=12).contains(&files), "{files}");
    assert_eq!(report(&kept.media).findings, []);
}

#[test]
fn ag2_a_clock_that_keeps_its_new_time_for_a_day_is_believed() {
    let kept = Kept::new();
    kept.hours(6);
    kept.clock.leap(YEARS);
    assert_eq!(kept.pass(HOUR), 6);
    // Files of the new time; those of before are removed by the time that they were there.
    let mut files = 0;
    for _ in 0..22 {
        files = kept.hours(1);
    }
    assert!(files >= 22, "{files}");
    assert_eq!(kept.trail().stats().retention_behind, YEARS as u64);
    let files = kept.hours(3);
    assert!((9..=12).contains(&files), "{files}");
    assert_eq!(kept.trail().stats().retention_behind, 0);
    assert_eq!(report(&kept.media).findings, []);
}

/// A leap while the trail is closed, and a process that starts again and again.
#[test]
fn ag2_a_leap_between_two_lives_is_none_either() {
    let mut kept = Kept::new();
    kept.hours(6);
    kept.close();
    kept.clock.leap(YEARS);
    for _ in 0..30 {
        kept.open();
        kept.trail().record(login(1)).unwrap();
        assert!(kept.pass(Duration::from_secs(5)) >= 6);
        kept.close();
    }
    kept.open();
    assert!(kept.pass(3 * HOUR) >= 6, "{}", kept.files());
    // The six, and what the records of the lives made: all but the newest are old by now.
    assert_eq!(kept.pass(22 * HOUR), 1);
    assert_eq!(report(&kept.media).findings, []);
}

/// A clock that creeps by less than a minute at each look is no steadier.
#[test]
fn ag2_a_clock_that_creeps_is_not_believed() {
    let kept = Kept::new();
    kept.hours(6);
    for _ in 0..3 * 24 * 60 {
        kept.clock.leap(50);
        kept.clock.advance(Duration::from_secs(5));
        while kept.trail().step() {}
    }
    // Six hours have passed, and two and a half days by the wall clock.
    assert!(kept.files() >= 6, "{}", kept.files());
}

/// What was written while the clock was years ahead held retention up until these years were over.
#[test]
fn ag1_files_of_a_time_to_come_hold_nothing_up() {
    let kept = Kept::new();
    kept.clock.leap(YEARS);
    kept.hours(3);
    kept.clock.leap(-YEARS);
    let files = kept.hours(30);
    assert!((9..=12).contains(&files), "{files}");
    assert_eq!(report(&kept.media).findings, []);
}
