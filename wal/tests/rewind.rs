//! Rewinding a log to follow another history (W5).

mod harness;

use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{EIO, ENOSPC, Fault, SimMedia};
use esker_wal::{
    Create, Epoch, Frame, Log, LogError, LogId, LogOptions, Lsn, NodeId, OpenRole, ReadLimit,
    Rewound, Survey, WireFrame,
};
use harness::options;
use std::path::Path;
use std::sync::Arc;

const ID: LogId = LogId(82);

fn medium(seed: u64) -> SimMedia {
    let media = SimMedia::new(seed);
    media.create_dir_all(Path::new("log")).unwrap();
    media
}

fn open_as(media: &SimMedia, dir: &str, role: OpenRole) -> Log {
    let options = LogOptions {
        role,
        ..options(media, &Arc::new(ManualClock::default()), ID)
    };
    Log::open(Path::new(dir), options)
        .unwrap_or_else(|e| panic!("{dir}: {e}"))
        .0
}

fn open(media: &SimMedia) -> Log {
    open_as(media, "log", OpenRole::Follower)
}

fn frames(log: &Log, from: Lsn) -> Vec<Frame> {
    let mut reader = log.reader(from, ReadLimit::Published).unwrap();
    let mut out = Vec::new();
    while let Some(frame) = reader.next().unwrap() {
        out.push(frame);
    }
    out
}

fn same(ours: &[Frame], theirs: &[Frame]) -> bool {
    let what = |f: &Frame| (f.header, f.epoch, f.payload.clone());
    ours.iter().map(what).eq(theirs.iter().map(what))
}

fn follow(log: &Log, frames: &[Frame]) {
    for frame in frames.iter().filter(|f| f.header.lsn >= log.reserved()) {
        log.append_replicated(WireFrame {
            header: frame.header,
            payload: &frame.payload,
        })
        .unwrap();
        while log.step() {}
    }
    log.sync_up_to(log.reserved()).unwrap();
}

/// Two histories, one up to a fork: that of a node in epochs 1, 2 and 3, and that of one that took over in epoch 4.
struct Histories {
    old: Vec<Frame>,
    new: Vec<Frame>,
    fork: Lsn,
    in_force: Epoch,
}

impl Histories {
    fn new() -> Histories {
        let write = |log: &Log, n: u8| {
            for i in 0..12 {
                log.append(&[&[n, i], &[n; 1500]]).unwrap();
                while log.step() {}
            }
            log.sync_up_to(log.reserved()).unwrap();
        };
        let old = open_as(&medium(1), "log", OpenRole::Writer);
        let new = open(&medium(2));
        write(&old, 1);
        old.begin_epoch(2).unwrap();
        write(&old, 2);
        let fork = old.reserved();
        let in_force = old.epoch();
        follow(&new, &frames(&old, Lsn::ZERO));
        write(&old, 3);
        old.begin_epoch(3).unwrap();
        write(&old, 4);
        new.begin_epoch(4).unwrap();
        write(&new, 5);
        Histories {
            old: frames(&old, Lsn::ZERO),
            new: frames(&new, Lsn::ZERO),
            fork,
            in_force,
        }
    }

    fn below(&self) -> usize {
        self.old.partition_point(|f| f.header.lsn < self.fork)
    }

    /// A follower of the old history, all of it synced.
    fn follower(&self, media: &SimMedia) -> Log {
        let log = open(media);
        follow(&log, &self.old);
        log
    }

    /// What was cut is there, as a log of its own.
    fn check_cut(&self, media: &SimMedia, rewound: &Rewound) {
        let cut = rewound.cut.as_ref().expect("something was cut");
        let survey = Survey::of(cut, Arc::new(media.clone())).unwrap();
        assert!(survey.clean() && survey.damage().is_empty());
        assert_eq!(survey.oldest(), rewound.fork);
        assert_eq!(survey.synced(), self.old.last().unwrap().header.end());
        let log = open_as(media, cut.to_str().unwrap(), OpenRole::Follower);
        assert_eq!(log.oldest(), rewound.fork);
        assert!(same(&frames(&log, rewound.fork), &self.old[self.below()..]));
    }
}

#[test]
fn a_rewound_log_follows_the_other_history_and_keeps_what_was_cut_aside() {
    let histories = Histories::new();
    let media = medium(3);
    let log = histories.follower(&media);
    log.set_slot("behind", histories.old[3].header.lsn).unwrap();
    log.set_slot("ahead", log.reserved()).unwrap();
    let end = log.reserved();
    let (log, rewound) = log.rewind(histories.fork, histories.in_force).unwrap();
    assert_eq!((rewound.fork, rewound.end), (histories.fork, end));
    assert_eq!(rewound.slots, ["ahead"]);
    let epochs: Vec<u64> = rewound.epochs.iter().map(|e| e.epoch.number).collect();
    assert_eq!(epochs, [3]);
    assert_eq!((log.reserved(), log.synced()), (rewound.fork, rewound.fork));
    assert_eq!(log.epoch(), histories.in_force);
    histories.check_cut(&media, &rewound);
    follow(&log, &histories.new);
    assert!(same(&frames(&log, Lsn::ZERO), &histories.new));
    let slots: Vec<_> = (log.slots().iter().map(|s| s.position)).collect();
    assert_eq!(slots, [histories.fork, histories.old[3].header.lsn]);
    let chain = log.chain_at(log.reserved()).unwrap();
    log.close().unwrap();
    let log = open(&media);
    assert!(same(&frames(&log, Lsn::ZERO), &histories.new));
    assert_eq!(log.chain_at(log.reserved()).unwrap(), chain);
    assert_eq!(log.epoch().number, 4);
}

/// W5: at every frame boundary, and back to the old history, whose frames keep their names.
#[test]
fn a_log_rewinds_to_any_frame_boundary_and_may_follow_the_same_history_again() {
    let histories = Histories::new();
    let media = medium(4);
    let mut log = histories.follower(&media);
    for at in (1..histories.old.len()).rev() {
        let fork = histories.old[at].header.lsn;
        let history = log.epochs();
        let in_force = history.iter().rev().find(|e| e.begin < fork).unwrap().epoch;
        let (rewound, _) = log.rewind(fork, in_force).unwrap();
        assert!(same(&frames(&rewound, Lsn::ZERO), &histories.old[..at]));
        if at % 7 == 0 {
            media.power_cut(at as u64);
            drop(rewound);
            log = open(&media);
            assert_eq!(log.reserved(), fork);
        } else {
            log = rewound;
        }
        if at % 5 == 0 {
            follow(&log, &histories.old[..at + 3.min(histories.old.len() - at)]);
        }
    }
    follow(&log, &histories.old);
    assert!(same(&frames(&log, Lsn::ZERO), &histories.old));
}

#[test]
fn a_rewind_that_can_not_be_is_refused_and_changes_nothing() {
    let histories = Histories::new();
    let media = medium(5);
    let log = histories.follower(&media);
    let other = Epoch { number: 9, id: 9 };
    let (fork, epoch) = (histories.fork, histories.in_force);
    let refused = |fork: Lsn, epoch| log.rewind(fork, epoch).unwrap_err();
    let inside = refused(fork.advance(8), epoch);
    assert!(matches!(inside, LogError::NotNext { .. }), "{inside}");
    for (fork, epoch) in [
        (fork, other),
        (Lsn::ZERO, epoch),
        (log.reserved().advance(8), log.epoch()),
    ] {
        let error = refused(fork, epoch);
        assert!(matches!(error, LogError::NotRewound { .. }), "{error}");
    }
    log.release(log.reserved());
    while log.step() {}
    let gone = refused(histories.old[1].header.lsn, histories.old[1].epoch);
    assert!(matches!(gone, LogError::Released { .. }), "{gone}");
    let (end, oldest) = (log.reserved(), log.oldest());
    assert!(log.poison().is_none());
    log.close().unwrap();
    let log = open(&media);
    assert_eq!((log.reserved(), log.oldest()), (end, oldest));
}

/// RW3, on files and threads: whoever held the log of before is told.
#[test]
fn appends_waits_and_readers_of_before_are_told_of_the_rewind() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(
        dir.path(),
        LogOptions {
            create: Some(Create {
                log: ID,
                node: NodeId(1),
                base: Lsn::ZERO,
            }),
            segment_bytes: 16 << 10,
            ..LogOptions::default()
        },
    )
    .unwrap();
    let fork = log.append(&[&[1; 3000]]).unwrap().end;
    for n in 0..20 {
        log.append(&[&[n; 3000]]).unwrap();
    }
    let mut below = log.reader(Lsn::ZERO, ReadLimit::Published).unwrap();
    let mut tail = log.reader(log.published(), ReadLimit::Published).unwrap();
    let waiting = std::thread::spawn(move || tail.next_wait(None));
    let beyond = log.reserved().advance(8);
    let waits = log.clone();
    let synced = std::thread::spawn(move || waits.sync_up_to(beyond));
    let (again, rewound) = log.rewind(fork, log.epoch()).unwrap();
    let told = |error: &LogError| matches!(error, LogError::Rewound { fork: f } if *f == fork);
    assert!(told(&waiting.join().unwrap().unwrap_err()));
    assert!(told(&synced.join().unwrap().unwrap_err()));
    assert!(told(&below.next().unwrap_err()));
    assert!(told(&log.append(&[b"late"]).unwrap_err()));
    assert!(told(&log.rewind(fork, again.epoch()).unwrap_err()));
    log.close().unwrap();
    drop(log);
    assert_eq!(again.published(), fork);
    assert!(matches!(again.append(&[b"x"]), Err(LogError::NotWriter)));
    assert!(rewound.cut.unwrap().join("LOG").exists());
    again.begin_epoch(2).unwrap();
    again.append(&[b"promoted"]).unwrap();
    again.close().unwrap();
}

/// RW2: whatever call the power goes at, the log is as it was or as it shall be, and what was cut is kept.
#[test]
fn power_that_goes_while_a_log_is_rewound_leaves_it_as_it_was_or_rewound() {
    let histories = Histories::new();
    let image = medium(6);
    drop(histories.follower(&image));
    let calls = {
        let media = image.fork(0);
        let log = open(&media);
        let before = media.calls();
        log.rewind(histories.fork, histories.in_force).unwrap();
        media.calls() - before
    };
    let (mut as_was, mut cut) = (0, 0);
    for call in 1..=calls + 1 {
        for seed in 0..3 {
            let what = format!("call {call}, seed {seed}");
            let media = image.fork(seed);
            let log = open(&media);
            media.cut_at_call(call);
            let done = log.rewind(histories.fork, histories.in_force);
            media.power_cut(seed);
            drop(log);
            let log = open(&media);
            let found = frames(&log, Lsn::ZERO);
            if same(&found, &histories.old) {
                as_was += 1;
                assert!(done.is_err(), "{what}: the rewind was said to be done");
                // Done again, over what the first left.
                let (log, rewound) = log.rewind(histories.fork, histories.in_force).unwrap();
                histories.check_cut(&media, &rewound);
                follow(&log, &histories.new);
                continue;
            }
            cut += 1;
            assert!(same(&found, &histories.old[..histories.below()]), "{what}");
            let place = format!(
                "log/cut-{}-{}",
                histories.fork,
                histories.old.last().unwrap().epoch
            );
            let rewound = Rewound {
                fork: histories.fork,
                end: Lsn::ZERO,
                cut: Some(place.into()),
                epochs: Vec::new(),
                slots: Vec::new(),
            };
            histories.check_cut(&media, &rewound);
            follow(&log, &histories.new);
            media.power_cut(seed);
            drop(log);
            let log = open(&media);
            assert!(same(&frames(&log, Lsn::ZERO), &histories.new), "{what}");
        }
    }
    assert!(as_was > 10 && cut > 10, "{as_was} as it was, {cut} rewound");
}

/// W6: a call that fails leaves the log as it was, rewound, or poisoned; never two of them at once.
#[test]
fn a_call_that_fails_in_a_rewind_loses_nothing() {
    let histories = Histories::new();
    let image = medium(7);
    drop(histories.follower(&image));
    for errno in [EIO, ENOSPC] {
        for call in 1.. {
            let what = format!("call {call}, error {errno}");
            let media = image.fork(call);
            let log = open(&media);
            let before = media.calls();
            media.fail(Fault::nth(call).errno(errno));
            let done = log.rewind(histories.fork, histories.in_force);
            let used = media.calls() - before;
            media.heal();
            let ended = match done {
                Ok((again, _)) => {
                    drop(again);
                    if call > used {
                        break;
                    }
                    true
                }
                Err(LogError::NotReopened { .. }) => true,
                Err(_) if log.poison().is_some() => false,
                Err(error) => {
                    // It goes on as it was.
                    assert_eq!(log.reserved(), histories.old.last().unwrap().header.end());
                    let (again, _) = (log.rewind(histories.fork, histories.in_force))
                        .unwrap_or_else(|again| panic!("{what}: {error}, then {again}"));
                    drop(again);
                    true
                }
            };
            media.power_cut(call);
            drop(log);
            let found = frames(&open(&media), Lsn::ZERO);
            let rewound = same(&found, &histories.old[..histories.below()]);
            assert!(rewound || !ended && same(&found, &histories.old), "{what}");
        }
    }
}

/// The segment that a rewind begins had no frames when one that is larger than a segment came: that got another segment at the same
/// base, which did not know the chain hash that the first knew, and the log of which nothing else was left did not open.
#[test]
fn a_large_frame_right_after_a_rewind_leaves_a_log_that_opens() {
    let primary = open_as(&medium(8), "log", OpenRole::Writer);
    for n in 0..12 {
        primary.append(&[&[n; 1500]]).unwrap();
    }
    let fork = primary.reserved();
    primary.append(&[&[9; 15_000]]).unwrap();
    primary.append(&[b"after"]).unwrap();
    primary.sync_up_to(primary.reserved()).unwrap();
    let all = frames(&primary, Lsn::ZERO);
    let below = all.partition_point(|f| f.header.lsn < fork);
    for steps in 0..12 {
        let media = medium(9);
        let log = open(&media);
        follow(&log, &all[..below]);
        let (log, _) = log.rewind(fork, log.epoch()).unwrap();
        log.release(fork);
        while log.step() {}
        assert_eq!(log.oldest(), fork);
        for frame in &all[below..] {
            log.append_replicated(WireFrame {
                header: frame.header,
                payload: &frame.payload,
            })
            .unwrap();
            log.sync_up_to(log.reserved()).unwrap();
        }
        for _ in 0..steps {
            log.step();
        }
        media.power_cut(steps);
        drop(log);
        let log = open(&media);
        assert!(
            same(&frames(&log, fork), &all[below..]),
            "after {steps} steps"
        );
    }
}
