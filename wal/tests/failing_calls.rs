//! The n-th call of a scripted run fails, for each n and each kind of error: no acknowledged frame is
//! lost, nothing is acknowledged falsely. And the power goes at each call.

mod harness;

use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, EIO, ENOSPC, Fault, SimMedia};
use esker_wal::{Kind, Log, LogError, LogId, LogOptions, Lsn, OpenError};
use harness::{options, read_all, seeds};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const ID: LogId = LogId(78);
const EACCES: i32 = 13;
/// How an error begins that comes from reading, which may be what fails by plan.
const READING: &str = "reading back: ";

/// What a run was told.
#[derive(Default)]
struct Told {
    /// Of each append that was given an LSN, in order.
    payloads: Vec<Vec<u8>>,
    /// How many of them are acknowledged as synced.
    synced: usize,
    /// How many of them may be gone, because they were released.
    released: usize,
}

impl Told {
    fn append(&mut self, log: &Log, len: usize) -> Result<Lsn, LogError> {
        let payload = vec![self.payloads.len() as u8 + 1; len];
        let before = log.reserved();
        let appended = log.append(&[&payload]);
        // One that failed when it had its LSN may be found or not.
        if log.reserved() > before {
            self.payloads.push(payload);
        }
        Ok(appended?.end)
    }

    fn sync(&mut self, log: &Log, end: Lsn) {
        if log.sync_up_to(end).is_ok() {
            assert!(log.synced() >= end);
            self.synced = self.payloads.len();
        }
    }

    /// Holds what a log recovered against what was said. All of it is synced from then on.
    fn check(&mut self, log: &Log) -> Result<(), String> {
        let mut found = Vec::new();
        for frame in read_all(log).map_err(|e| format!("{READING}{e}"))? {
            if frame.kind == Kind::Data {
                found.push(frame.payload);
            }
        }
        let first = match found.first() {
            // Nothing is there: all of it was released, or never synced.
            None => self.released.min(self.payloads.len()),
            Some(first) => (self.payloads.iter().position(|p| p == first))
                .ok_or("the first frame was never appended")?,
        };
        if first > self.released {
            return Err(format!(
                "{first} frames are gone, {} were released",
                self.released
            ));
        }
        if self.payloads.get(first..first + found.len()) != Some(&found[..]) {
            return Err("what is there is no stretch of what was appended".into());
        }
        if first + found.len() < self.synced {
            return Err(format!(
                "{} frames were acknowledged, {} are there",
                self.synced,
                first + found.len()
            ));
        }
        self.payloads.truncate(first + found.len());
        self.synced = self.payloads.len();
        Ok(())
    }
}

/// Rotations, a slot, a release with recycling, an epoch, a close, and another open. Goes on after an
/// error as a stubborn user would.
fn script(media: &SimMedia, told: &mut Told) -> Result<(), String> {
    let clock = Arc::new(ManualClock::default());
    let open = || Log::open(Path::new("log"), options(media, &clock, ID));
    let Ok((log, _)) = open() else {
        return Ok(());
    };
    for n in 0..12 {
        if let Ok(end) = told.append(&log, 1000 + n * 200) {
            if n % 2 == 0 {
                told.sync(&log, end);
            }
            if n == 8 {
                let _ = log.set_slot("s", end);
                log.release(end);
                told.released = told.payloads.len();
            }
        }
        if n % 3 == 0 {
            while log.step() {}
            clock.advance(Duration::from_millis(400));
            while log.step() {}
        }
    }
    let number = log.epochs().last().map_or(0, |e| e.epoch.number) + 1;
    if log.begin_epoch(number).is_ok() {
        told.synced = told.payloads.len();
    }
    let _ = told.append(&log, 10);
    if log.close().is_ok() {
        told.synced = told.payloads.len();
    }
    drop(log);
    match open() {
        Err(OpenError::Corrupt { path, what, .. }) => {
            return Err(format!("{} corrupt: {what}", path.display()));
        }
        Err(_) => return Ok(()),
        // It reads through the same calls: one of them may be the one that fails.
        Ok((log, _)) => {
            let end = log.reserved();
            if log.synced() != end {
                return Err(format!("synced {} of {end} after open", log.synced()));
            }
            match told.check(&log) {
                Err(e) if e.starts_with(READING) => return Ok(()),
                other => other.map_err(|e| format!("second open: {e}"))?,
            }
            if let Ok(end) = told.append(&log, 20) {
                told.sync(&log, end);
            }
            let _ = log.close();
        }
    }
    Ok(())
}

fn medium(seed: u64) -> SimMedia {
    let media = SimMedia::new(seed);
    media.create_dir_all(Path::new("log")).expect("room");
    media
}

/// After trouble at the `n`-th call: everything acknowledged is there, before and after a power cut.
fn after(media: &SimMedia, told: &mut Told, seed: u64) -> Result<(), String> {
    media.heal();
    if media.is_down() || seed.is_multiple_of(2) {
        media.power_cut(seed);
    } else {
        media.kill();
    }
    for life in 0..2 {
        let clock = Arc::new(ManualClock::default());
        let (log, found) = Log::open(Path::new("log"), options(media, &clock, ID))
            .map_err(|e| format!("life {life}: open: {e}"))?;
        told.check(&log)
            .map_err(|e| format!("life {life}: {e}; {found:?}"))?;
        let end = told.append(&log, 700).map_err(|e| e.to_string())?;
        log.sync_up_to(end).map_err(|e| e.to_string())?;
        told.synced = told.payloads.len();
        media.power_cut(seed + 1);
    }
    Ok(())
}

fn calls_of_the_script() -> u64 {
    let media = medium(0);
    let before = media.calls();
    let mut told = Told::default();
    script(&media, &mut told).expect("without trouble");
    assert!(told.synced == told.payloads.len() && told.payloads.len() == 14);
    after(&media, &mut told, 0).expect("without trouble");
    media.calls() - before
}

fn at_each_call(errno: i32, times: u64) {
    let (_, failure) = seeds::run(1..calls_of_the_script() + 1, move |n| {
        for seed in 0..4 {
            let media = medium(n * 10 + seed);
            media.fail(Fault::nth(n).errno(errno).times(times));
            let mut told = Told::default();
            script(&media, &mut told)
                .and_then(|()| after(&media, &mut told, n * 10 + seed))
                .map_err(|e| format!("seed {seed}: {e}"))?;
        }
        Ok(())
    });
    if let Some((n, error)) = failure {
        panic!("call {n} fails with {errno}, {times} times: {error}");
    }
}

#[test]
fn a_failed_call_loses_nothing_acknowledged() {
    at_each_call(EIO, 1);
}

#[test]
fn a_call_refused_for_space_loses_nothing_acknowledged() {
    at_each_call(ENOSPC, 1);
}

#[test]
fn a_call_refused_for_permission_loses_nothing_acknowledged() {
    at_each_call(EACCES, 1);
}

#[test]
fn a_device_that_fails_for_good_loses_nothing_acknowledged() {
    at_each_call(EIO, u64::MAX);
}

#[test]
fn power_that_goes_at_any_call_loses_nothing_acknowledged() {
    let (_, failure) = seeds::run(1..calls_of_the_script() + 1, |n| {
        for seed in 0..6 {
            let media = medium(seed);
            media.cut_at_call(n);
            let mut told = Told::default();
            script(&media, &mut told)
                .and_then(|()| after(&media, &mut told, n * 10 + seed))
                .map_err(|e| format!("seed {seed}: {e}"))?;
        }
        Ok(())
    });
    if let Some((n, error)) = failure {
        panic!("the power goes at call {n}: {error}");
    }
}

/// Segments that rotate, are released and recycled, while one call may fail: the files that are there at rest, and those that the log knows of.
fn files_at_rest(media: &SimMedia) -> Option<(usize, u64)> {
    let clock = Arc::new(ManualClock::default());
    let (log, _) = Log::open(Path::new("log"), options(media, &clock, ID)).ok()?;
    let rest = || {
        // Longer than until a call that failed is tried again.
        for _ in 0..12 {
            while log.step() {}
            clock.advance(Duration::from_millis(400));
        }
    };
    for n in 0..40 {
        let end = log.append(&[&[n; 1000]]).ok()?.end;
        log.sync_up_to(end).ok()?;
        if n % 8 == 7 {
            log.release(end);
            rest();
        }
    }
    rest();
    let files = media.list(Path::new("log")).ok()?;
    let of_segments = |name: &str| name.ends_with(".seg") || name.ends_with(".tmp");
    let files = files.iter().filter(|e| of_segments(&e.name)).count();
    let stats = log.stats();
    assert!(stats.recycled > 0);
    Some((files, stats.segments + stats.segments_ready))
}

/// A file that could not be made ready again takes no room for as long as the log is open.
#[test]
fn a_call_that_fails_once_strands_no_file() {
    let media = medium(0);
    let before = media.calls();
    files_at_rest(&media).expect("without trouble");
    let calls = media.calls() - before;
    let mut rested = 0;
    for (n, errno) in (1..=calls).flat_map(|n| [EIO, ENOSPC, EACCES].map(|e| (n, e))) {
        let media = medium(n);
        media.fail(Fault::nth(n).errno(errno).times(1));
        if let Some((files, known)) = files_at_rest(&media) {
            assert_eq!(
                files as u64, known,
                "call {n} of {calls} fails with {errno}"
            );
            rested += 1;
        }
    }
    assert!(rested > calls / 2, "{rested} of {calls} calls");
}

/// W8: spares are room that nobody else can take; out of descriptors they can't be opened, and stay.
#[test]
fn w8_spares_that_can_not_be_opened_stay_and_serve_once_they_can() {
    const EMFILE: i32 = 24;
    let media = medium(3);
    let clock = Arc::new(ManualClock::default());
    let ahead = |segments_ahead| LogOptions {
        segments_ahead,
        ..options(&media, &clock, ID)
    };
    let open = |options| Log::open(Path::new("log"), options).expect("it opens").0;
    let step = |log: &Log| {
        for _ in 0..6 {
            while log.step() {}
            clock.advance(Duration::from_millis(400));
        }
    };
    let log = open(ahead(4));
    step(&log);
    log.close().unwrap();
    drop(log);
    let files = || media.list(Path::new("log")).unwrap().len();
    let before = files();
    let log = open(ahead(4));
    media.fail(
        Fault::nth(1)
            .errno(EMFILE)
            .times(1 << 30)
            .of(CallKind::OpenRw),
    );
    step(&log);
    // New ones were made meanwhile.
    assert_eq!(log.stats().segments_ready, 4);
    assert!(files() > before, "{} of {before}", files());
    media.heal();
    log.close().unwrap();
}
