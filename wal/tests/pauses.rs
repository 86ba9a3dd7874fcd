//! When the flusher and a leader act: the pause between syncs, what ends it, the idle mark, requests beside an interval. W7, W10.
//!
//! The clock stands until a test moves it. No test is timed: what must come is waited for, what must not come has no cause.

mod harness;

use esker_wal::frame::HEADER_LEN;
use esker_wal::media::Media;
use esker_wal::media::clock::{Clock, ManualClock};
use esker_wal::media::sim::SimMedia;
use esker_wal::{Log, LogId, LogOptions, Lsn, SyncPolicy, Workers};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3600);

fn open(change: impl FnOnce(LogOptions) -> LogOptions) -> (SimMedia, Arc<ManualClock>, Log) {
    let media = SimMedia::new(1);
    media.create_dir_all(Path::new("log")).unwrap();
    let clock = Arc::new(ManualClock::default());
    let options = change(harness::options(&media, &clock, LogId(78)));
    let (log, _) = Log::open(Path::new("log"), options).unwrap();
    // Past the first pause.
    clock.advance(HOUR);
    (media, clock, log)
}

/// Waits for what comes by itself, in another thread.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(40), "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn paused(options: LogOptions) -> LogOptions {
    LogOptions {
        workers: Workers::Threads,
        min_sync_interval: HOUR,
        ..options
    }
}

/// A sync that is not due waits for the clock, a second leader's too, and is done once it has moved.
#[test]
fn a_leader_waits_until_the_pause_has_passed() {
    let (_, clock, log) = open(paused);
    log.sync_up_to(log.append(&[b"one"]).unwrap().end).unwrap();
    let syncs = log.stats().syncs;
    let end = log.append(&[b"two"]).unwrap().end;
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| log.sync_up_to(end)))
            .collect();
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(log.stats().syncs, syncs, "the clock stands");
        assert!(log.synced() < end);
        clock.advance(HOUR);
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
    });
    assert_eq!(log.stats().syncs, syncs + 1);
}

/// A leader whose deadline comes before the pause has passed syncs then, and not before.
#[test]
fn a_deadline_ends_the_pause_and_not_before() {
    let (_, clock, log) = open(paused);
    log.sync_up_to(log.append(&[b"one"]).unwrap().end).unwrap();
    let end = log.append(&[b"two"]).unwrap().end;
    std::thread::scope(|scope| {
        let far = scope.spawn(|| log.sync_up_to_timeout(end, HOUR));
        std::thread::sleep(Duration::from_millis(30));
        assert!(
            log.synced() < end,
            "the deadline is far, and the clock stands"
        );
        clock.advance(HOUR);
        far.join().unwrap().unwrap();
    });
    let end = log.append(&[b"three"]).unwrap().end;
    let _ = log.sync_up_to_timeout(end, Duration::from_millis(20));
    until("synced at the deadline", || log.synced() >= end);
    clock.advance(2 * HOUR);
}

/// W7: who waits for room at the bound ends the pause, whatever other room comes meanwhile (a segment made ready took the wish
/// back once, and the append waited for as long as the pause: hence so often).
#[test]
fn who_waits_for_room_ends_the_pause() {
    for _ in 0..50 {
        let (_, clock, log) = open(|options| LogOptions {
            unsynced_bytes_max: 4 << 10,
            ..paused(options)
        });
        log.sync_up_to(log.append(&[b"one"]).unwrap().end).unwrap();
        for _ in 0..20 {
            log.append(&[&[7; 1000]]).unwrap();
        }
        clock.advance(2 * HOUR);
        log.close().unwrap();
    }
}

/// A caller that steps the log decides itself when it syncs: no pause holds it, but what the flusher was asked for waits.
#[test]
fn a_stepped_log_syncs_when_told_to_and_its_flusher_pauses() {
    let (_, clock, log) = open(|options| LogOptions {
        workers: Workers::Stepped,
        unsynced_bytes_max: 8 << 10,
        sync_policy: SyncPolicy::Manual,
        ..paused(options)
    });
    for _ in 0..3 {
        let end = log.append(&[b"one"]).unwrap().end;
        log.sync_up_to(end).unwrap();
    }
    let synced = log.synced();
    // Half of the bound: the flusher is asked.
    for _ in 0..5 {
        log.append(&[&[7; 1000]]).unwrap();
        while log.step() {}
    }
    assert!(log.stats().early_flushes > 0);
    assert_eq!(log.synced(), synced, "the clock stands");
    clock.advance(HOUR);
    while log.step() {}
    assert!(log.synced() > synced);
}

/// The flusher thread hears of a burst, whatever the policy.
#[test]
fn the_flusher_is_woken_by_a_burst() {
    let (_, _, log) = open(|options| LogOptions {
        workers: Workers::Threads,
        unsynced_bytes_max: 8 << 10,
        sync_policy: SyncPolicy::Manual,
        // Nor does it wake for a mark.
        idle_mark_after: 1000 * HOUR,
        ..options
    });
    for _ in 0..3 {
        let synced = log.synced();
        for _ in 0..6 {
            log.append(&[&[7; 1000]]).unwrap();
        }
        until("synced by the flusher", || log.synced() > synced);
    }
    log.close().unwrap();
}

/// W3: a log that comes to rest is marked without anybody asking.
#[test]
fn an_idle_log_is_marked_by_its_flusher() {
    let (media, _, log) = open(|options| LogOptions {
        workers: Workers::Threads,
        idle_mark_after: Duration::ZERO,
        ..options
    });
    for _ in 0..3 {
        let end = log.append(&[b"one"]).unwrap().end;
        log.sync_up_to(end).unwrap();
        until("marked", || marked(&media) == end.0);
    }
    log.close().unwrap();
}

/// The highest LSN that a mark sector of any segment says.
fn marked(media: &SimMedia) -> u64 {
    let image = media.image();
    let segments = image.iter().filter(|(p, _)| p.extension().is_some());
    let sectors = segments.flat_map(|(_, bytes)| [512, 1024].map(|at| &bytes[at..at + 64]));
    let marks = sectors.filter(|sector| sector.starts_with(b"ESKRMARK"));
    let synced = marks.map(|sector| u64::from_le_bytes(sector[24..32].try_into().unwrap()));
    synced.max().unwrap_or(0)
}

/// What was asked for and done keeps no interval from its turn.
#[test]
fn an_interval_comes_round_after_a_request() {
    let (_, clock, log) = open(|options| LogOptions {
        unsynced_bytes_max: 8 << 10,
        sync_policy: SyncPolicy::Interval(HOUR),
        ..options
    });
    for _ in 0..5 {
        log.append(&[&[7; 1000]]).unwrap();
    }
    while log.step() {}
    let synced = log.synced();
    assert!(log.stats().early_flushes > 0 && synced > Lsn::ZERO);
    for _ in 0..3 {
        let end = log.append(&[b"more"]).unwrap().end;
        while log.step() {}
        assert!(log.synced() < end, "the clock stands");
        clock.advance(HOUR);
        while log.step() {}
        assert_eq!(log.synced(), end);
    }
}

/// A stepped flusher that is asked for more than is published has nothing to do, and says so.
#[test]
fn a_request_behind_a_reservation_is_no_work() {
    let (_, _, log) = open(|options| LogOptions {
        unsynced_bytes_max: 8 << 10,
        sync_policy: SyncPolicy::Manual,
        ..options
    });
    log.sync_up_to(log.published()).unwrap();
    let held = log.reserve(2000).unwrap();
    for _ in 0..4 {
        log.append(&[&[7; 1000]]).unwrap();
    }
    assert!(log.stats().early_flushes > 0);
    let steps = (0..1000).take_while(|_| log.step()).count();
    assert!(steps < 1000, "it never comes to rest");
    drop(held);
    while log.step() {}
    assert_eq!(log.synced(), log.published());
}

/// W7, FL5: who waits while much is unsynced is let on part by part. Steps are the ends of every second frame here, and two of them
/// fit into the 4 MiB that one sync takes.
#[test]
fn a_burst_is_synced_in_parts_that_end_at_steps() {
    let (_, _, log) = open(|options| LogOptions {
        segment_bytes: 32 << 20,
        sync_policy: SyncPolicy::Manual,
        ..options
    });
    log.sync_up_to(log.published()).unwrap();
    let before = log.stats().syncs;
    let payload = vec![7; (768 << 10) - HEADER_LEN];
    let ends: Vec<_> = (0..20)
        .map(|_| log.append(&[&payload]).unwrap().end)
        .collect();
    log.sync_up_to(ends[0]).unwrap();
    // The first frame ends a step by itself.
    assert_eq!(log.synced(), ends[4]);
    assert_eq!(log.stats().syncs, before + 1);
    log.sync_up_to(ends[19]).unwrap();
    assert_eq!(log.stats().syncs, before + 5);
}

/// A clock that stands, and counts who looks at it.
#[derive(Debug, Default)]
struct Watched(AtomicU64);

impl Clock for Watched {
    fn now(&self) -> Duration {
        self.0.fetch_add(1, Ordering::Relaxed);
        HOUR
    }
}

/// E1: a flusher that has nothing to do sleeps, whatever it may have to do in an hour.
#[test]
fn an_idle_logs_flusher_sleeps() {
    for policy in [SyncPolicy::Always, SyncPolicy::Interval(HOUR)] {
        let clock = Arc::new(Watched::default());
        let (_, _, log) = open(|options| LogOptions {
            workers: Workers::Threads,
            sync_policy: policy,
            idle_mark_after: HOUR,
            clock: clock.clone(),
            ..options
        });
        log.sync_up_to(log.append(&[b"one"]).unwrap().end).unwrap();
        // Time for it to look far more often, if it does not sleep.
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(1));
            let looks = clock.0.load(Ordering::Relaxed);
            assert!(looks < 1000, "{policy:?}: {looks}");
        }
        log.close().unwrap();
    }
}
