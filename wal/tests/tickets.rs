//! Waiting for appends: tickets, futures without a runtime, tailing as a future (W5, W6, W10).

mod harness;

use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, EIO, Fault, SimMedia};
use esker_wal::*;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

fn open(dir: &Path, policy: SyncPolicy) -> Log {
    let options = LogOptions {
        create: Some(Create {
            log: LogId(7),
            node: NodeId(9),
            base: Lsn::ZERO,
        }),
        segment_bytes: 64 << 10,
        sync_policy: policy,
        ..LogOptions::default()
    };
    Log::open(dir, options).unwrap().0
}

/// W5: 640 appends, 640 positions, each its own, whoever appends beside it.
#[test]
fn every_ticket_names_its_own_append() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual);
    let tickets = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u8)
            .map(|thread| {
                let log = &log;
                scope.spawn(move || {
                    (0..160_u8)
                        .map(|n| {
                            let payload = [thread, n];
                            (payload, log.submit(&[&payload]).unwrap())
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let all = threads.into_iter().flat_map(|t| t.join().unwrap());
        all.collect::<Vec<_>>()
    });
    for (payload, ticket) in &tickets {
        ticket.wait_published(None).unwrap();
        let mut reader = log.reader(ticket.lsn(), ReadLimit::Published).unwrap();
        let frame = reader.next().unwrap().unwrap();
        assert_eq!(&frame.payload[..], payload);
        assert_eq!(frame.header.end(), ticket.end());
    }
}

/// W1: a future resolves when its append is synced, with nobody else asking, under every policy; and one thread can wait for many.
#[test]
fn futures_resolve_when_their_appends_are_synced() {
    for policy in [
        SyncPolicy::Always,
        SyncPolicy::Manual,
        SyncPolicy::Interval(Duration::from_secs(3600)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), policy);
        let tickets: Vec<_> = (0..100_u32)
            .map(|n| log.submit(&[&n.to_le_bytes()]).unwrap())
            .collect();
        let kept = tickets.clone();
        let mut futures: Vec<_> = tickets.into_iter().map(Ticket::synced).collect();
        // All at once, in one task.
        block_on(std::future::poll_fn(|cx| {
            futures.retain_mut(|f| match std::pin::Pin::new(f).poll(cx) {
                Poll::Ready(result) => {
                    result.unwrap();
                    false
                }
                Poll::Pending => true,
            });
            match futures.is_empty() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        }));
        assert!(kept.iter().all(Ticket::is_synced));
    }
}

/// A future of `published` waits for the hole before its append, and is woken by who fills it.
#[test]
fn a_future_of_published_waits_for_the_hole_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual);
    let hole = log.reserve(10).unwrap();
    let ticket = log.submit(&[b"behind"]).unwrap();
    assert!(!ticket.is_published());
    let timeout = Some(Duration::from_millis(5));
    assert!(matches!(
        ticket.wait_published(timeout),
        Err(LogError::TimedOut { .. })
    ));
    assert!(matches!(
        ticket.wait_synced(timeout),
        Err(LogError::TimedOut { .. })
    ));
    let waiter = {
        let ticket = ticket.clone();
        std::thread::spawn(move || block_on(ticket.published()))
    };
    std::thread::sleep(Duration::from_millis(20));
    drop(hole);
    waiter.join().unwrap().unwrap();
    assert!(ticket.is_published());
}

/// W10, W6: close and poison end the futures that wait, each with its own error; dropped ones are forgotten.
#[test]
fn futures_end_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual);
    let ticket = log.submit(&[b"kept"]).unwrap();
    let beyond = log.until_published(ticket.end().advance(8));
    let waiter = std::thread::spawn(move || block_on(beyond));
    drop(log.until_synced(ticket.end()));
    log.close().unwrap();
    assert!(matches!(waiter.join().unwrap(), Err(LogError::Closed)));
    // What was reached before the end stays so.
    block_on(ticket.synced()).unwrap();

    let media = SimMedia::new(1);
    let clock = Arc::new(ManualClock::default());
    let options = harness::options(&media, &clock, LogId(78));
    let (log, _) = Log::open(Path::new("log"), options).unwrap();
    let ticket = log.submit(&[b"lost"]).unwrap();
    let mut future = pin!(ticket.synced());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    media.fail(Fault::nth(1).of(CallKind::SyncMap).errno(EIO));
    while log.step() {}
    assert!(matches!(
        future.as_mut().poll(&mut cx),
        Poll::Ready(Err(LogError::Poisoned(_)))
    ));
}

/// W1: the durability of one append overrides the policy, both ways.
#[test]
fn an_append_says_what_it_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual);
    let end = log.append_with(&[b"a"], Durability::Policy).unwrap().end;
    assert!(log.synced() < end);
    let end = log.append_with(&[b"b"], Durability::Synced).unwrap().end;
    assert!(log.synced() >= end);
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Always);
    let end = log.append_with(&[b"a"], Durability::Buffered).unwrap().end;
    assert!(log.synced() < end);
    let end = log.append_with(&[b"b"], Durability::Policy).unwrap().end;
    assert!(log.synced() >= end);
}

/// Tailing as a future: every frame, in order, across segments; dropped between two polls it has taken none.
#[test]
fn a_tailing_future_takes_every_frame_in_order() {
    for limit in [ReadLimit::Published, ReadLimit::Synced] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), SyncPolicy::Interval(Duration::from_millis(1)));
        let mut reader = log.reader(log.published(), limit).unwrap();
        let writer = {
            let log = log.clone();
            std::thread::spawn(move || {
                for n in 0..2000_u32 {
                    log.append(&[&n.to_le_bytes(), &[3; 100]]).unwrap();
                    if n % 100 == 0 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            })
        };
        for n in 0..2000_u32 {
            let polled = {
                let mut dropped = pin!(reader.next_frame());
                let mut cx = Context::from_waker(Waker::noop());
                dropped.as_mut().poll(&mut cx)
            };
            let frame = match polled {
                Poll::Ready(frame) => frame.unwrap(),
                Poll::Pending => block_on(reader.next_frame()).unwrap(),
            };
            assert_eq!(frame.payload[..4], n.to_le_bytes());
        }
        writer.join().unwrap();
        log.close().unwrap();
        assert!(matches!(
            block_on(reader.next_frame()),
            Err(LogError::Closed)
        ));
    }
}

/// W7: from half of the bound on the flusher syncs by itself, in steps, whatever the policy.
#[test]
fn a_burst_is_written_back_from_half_of_the_bound_on() {
    let media = SimMedia::new(2);
    let clock = Arc::new(ManualClock::default());
    let bound = 32 << 20;
    let options = LogOptions {
        sync_policy: SyncPolicy::Manual,
        unsynced_bytes_max: bound,
        segment_bytes: 64 << 20,
        ..harness::options(&media, &clock, LogId(78))
    };
    let (log, _) = Log::open(Path::new("log"), options).unwrap();
    let begin = log.synced();
    let payload = vec![7; 10_000];
    let unsynced = || log.reserved().since(log.synced());
    while unsynced() < bound / 2 - (5 << 20) {
        log.append(&[&payload]).unwrap();
        while log.step() {}
        assert_eq!(log.synced(), begin);
    }
    while unsynced() < bound / 2 + (5 << 20) {
        log.append(&[&payload]).unwrap();
    }
    assert!(log.stats().early_flushes > 0);
    assert!(log.step());
    while log.step() {}
    assert!(unsynced() < 6 << 20, "{} are not synced", unsynced());
    // In pieces, each ending at the end of a frame, so that who waits at the bound is let on early.
    let stats = log.stats();
    let largest = stats.group_bytes.percentile(100.0);
    assert!(stats.syncs >= 4 && largest < 8 << 20, "{stats:?}");
    log.reader(log.synced(), ReadLimit::Published)
        .unwrap()
        .next()
        .unwrap();
}

/// With `min_sync_interval` syncs are grouped, and each still comes; without it a lone writer's begin at once.
#[test]
fn syncs_may_be_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions {
        create: Some(Create {
            log: LogId(7),
            node: NodeId(9),
            base: Lsn::ZERO,
        }),
        segment_bytes: 64 << 10,
        min_sync_interval: Duration::from_millis(20),
        ..LogOptions::default()
    };
    let (log, _) = Log::open(dir.path(), options).unwrap();
    let before = log.stats();
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..8 {
                    log.append_with(&[b"x"], Durability::Synced).unwrap();
                }
            });
        }
    });
    let most = begun.elapsed().as_millis() as u64 / 20 + 1;
    let stats = log.stats();
    let syncs = stats.syncs - before.syncs;
    assert!(syncs <= most, "{syncs} syncs, {most} at most");
    assert!(syncs >= 8, "each thread waited eight times");
    assert_eq!(stats.wait_times.count(), 32);
    assert!(stats.group_frames.sum() >= 32 && stats.group_bytes.count() == stats.syncs);
}

/// E1: a reader's wait ends when another thread interrupts it, whatever it waits for, and its log goes on.
#[test]
fn an_interrupted_reader_waits_no_more_and_can_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual);
    let begin = log.published();
    log.append(&[b"there"]).unwrap();
    for limit in [ReadLimit::Published, ReadLimit::Synced] {
        let mut reader = log.reader(begin, limit).unwrap();
        // To the end: what is read, and what is not synced yet.
        while reader.next().unwrap().is_some() {}
        let interrupt = reader.interrupt();
        let waiter = std::thread::spawn(move || {
            let ended = reader.next_wait(None);
            let again = reader.next_wait(None);
            (reader, ended, again)
        });
        std::thread::sleep(Duration::from_millis(10));
        interrupt.clone().raise();
        let (mut reader, ended, again) = waiter.join().unwrap();
        for end in [ended, again] {
            let target = reader.position().advance(1);
            assert!(
                matches!(end, Err(LogError::Interrupted { target: t }) if t == target),
                "{end:?}"
            );
        }
        let at = log.append(&[b"more"]).unwrap();
        log.sync_up_to(at.end).unwrap();
        let mut last = None;
        while let Some(frame) = reader.next_wait(None).ok().flatten() {
            last = Some(frame.payload);
        }
        assert_eq!(last.as_deref(), Some(&b"more"[..]), "what is there is read");
    }
    log.close().unwrap();
}

/// RD1: a reader that polls, spins or sleeps at the tail gets every frame once, in order, through rotations, whoever appends and however fast.
#[test]
fn a_tailing_reader_misses_nothing_however_it_waits() {
    let long = Duration::from_secs(100);
    for (limit, spin) in [
        (ReadLimit::Published, Some(long)),
        (ReadLimit::Published, Some(Duration::ZERO)),
        (ReadLimit::Published, None),
        (ReadLimit::Synced, Some(long)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), SyncPolicy::Interval(Duration::from_millis(1)));
        let mut reader = log.reader(log.published(), limit).unwrap();
        let threads = 2_u32;
        let each = 1500_u32;
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let log = &log;
                scope.spawn(move || {
                    for n in 0..each {
                        let pad = vec![7; (n % 300) as usize];
                        log.append(&[&thread.to_le_bytes(), &n.to_le_bytes(), &pad])
                            .unwrap();
                        if n % 64 == 0 {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            if let Some(max) = spin {
                reader.set_spin_max(max);
            }
            let mut next = [0; 2];
            let mut before = reader.position();
            while next.iter().sum::<u32>() < threads * each {
                let frame = match spin {
                    Some(_) => reader.next_wait(None).unwrap(),
                    None => reader.next().unwrap(),
                };
                let Some(frame) = frame else {
                    continue;
                };
                assert_eq!(frame.header.lsn, before, "a gap, or a frame twice");
                before = frame.header.end();
                let word =
                    |at: usize| u32::from_le_bytes(frame.payload[at..at + 4].try_into().unwrap());
                let (thread, n) = (word(0) as usize, word(4));
                assert_eq!(n, next[thread]);
                assert_eq!(frame.payload.len(), 8 + (n % 300) as usize);
                next[thread] += 1;
            }
        });
        assert!(log.stats().rotations > 2, "segments are small");
        log.close().unwrap();
    }
}
