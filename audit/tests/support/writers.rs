//! Rounds of many writers, one of whom syncs for all, by seed: syncs fail, the live log is taken away, the power goes; what was acknowledged must be there then.

use super::lives::{Told, check};
use super::{DIR, keys, policy, stepped};
use esker_audit::{Error, OnFailure, Options, Policies, Record, Trail, Write, Written};
use esker_wal::Workers;
use esker_wal::media::Media as _;
use esker_wal::media::clock::RealClock;
use esker_wal::media::sim::{CallKind, EIO, Fault, SimMedia, SimRng};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const WRITERS: u64 = 8;
const EACH: u64 = 60;

fn open(media: &SimMedia) -> Trail {
    let options = Options {
        workers: Workers::Threads,
        clock: Arc::new(RealClock::default()),
        interval: Duration::from_millis(20),
        policies: Policies::all(policy(Write::Sync, OnFailure::Refuse)),
        ..stepped(media)
    };
    let opened = Trail::open(Path::new(DIR), keys(), options);
    opened.expect("a trail that can be opened").0
}

/// What one writer was told: sequence and request of each record that is synced, and how many outcomes are not known.
fn write(trail: &Trail, media: &SimMedia, requests: Range<u64>) -> (Vec<(u64, u64)>, u64) {
    let (mut synced, mut unknown) = (Vec::new(), 0);
    for request in requests {
        let record = Record::new("test.write")
            .request(request.to_string())
            .with("pad", "x".repeat(request as usize % 600));
        match trail.record(record) {
            Ok(receipt) => {
                assert_eq!(receipt.written, Written::Synced);
                synced.push((receipt.sequence.expect("it is written"), request));
            }
            Err(Error::Unknown { .. }) => unknown += 1,
            Err(_) if media.is_down() => break,
            Err(_) => {}
        }
    }
    (synced, unknown)
}

/// Writers, each with a thread that begins with `broken`; how many outcomes are not known.
fn all_write(
    trail: &Trail,
    media: &SimMedia,
    told: &mut Told,
    first: u64,
    broken: &(dyn Fn() + Sync),
) -> u64 {
    let mut all_unknown = 0;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                let first = (first * WRITERS + n) * 1000;
                scope.spawn(move || {
                    broken();
                    write(trail, media, first..first + EACH)
                })
            })
            .collect();
        for writer in writers {
            let (synced, unknown) = writer.join().expect("a writer");
            for (sequence, request) in synced {
                let before = told.synced.insert(sequence, request);
                assert_eq!(before, None, "sequence {sequence} twice");
            }
            all_unknown += unknown;
        }
    });
    all_unknown
}

/// Somebody removes the live log, and the trail notices: what was in it is closed, what is left of it put aside, and a fresh one begun, whose LSNs begin anew (U3).
fn take_live_away(media: &SimMedia) {
    let asides = || {
        let paths = media.image().into_keys();
        let names = paths.filter_map(|path| Some(path.parent()?.to_str()?.to_owned()));
        let mut names: Vec<_> = names.filter(|n| n.contains("live.aside-")).collect();
        names.dedup();
        names.len()
    };
    let before = asides();
    let live = Path::new(DIR).join("live");
    let mut names: Vec<_> = (media.list(&live).expect("it is there").into_iter())
        // The lock stays: it is what is put aside.
        .filter(|entry| !entry.is_dir && entry.name != "LOCK")
        .map(|entry| entry.name)
        .collect();
    // The segment that is written last: it is what the trail notices. What the next log has under these names is not to go too.
    names.sort_by_key(|name| (name.ends_with(".seg"), std::cmp::Reverse(name.clone())));
    for name in names {
        match media.remove(&live.join(name)) {
            // One that was being prepared has another name by now.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            other => other.expect("nothing fails yet"),
        }
        if asides() > before {
            break;
        }
    }
    // A bound for a trail that is stuck.
    let end = Instant::now() + Duration::from_secs(60);
    while asides() == before {
        assert!(Instant::now() < end, "no fresh live log was begun");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One round; how many outcomes were not known. Threads that write begin with `broken`.
pub(crate) fn round(seed: u64, broken: &(dyn Fn() + Sync)) -> u64 {
    let mut rng = SimRng::new(seed);
    let media = SimMedia::new(rng.next_u64());
    let mut told = Told::default();
    let mut all_unknown = 0;
    for life in 0..3 {
        let trail = open(&media);
        let taken = rng.chance(2);
        if taken {
            all_write(&trail, &media, &mut told, 10 + life, broken);
            take_live_away(&media);
        }
        for _ in 0..1 + rng.below(3) {
            let nth = 1 + rng.below(60);
            media.fail(Fault::nth(nth).of(CallKind::SyncMap).on("live").errno(EIO));
        }
        if rng.chance(2) {
            media.cut_at_call(1 + rng.below(900));
        }
        all_unknown += all_write(&trail, &media, &mut told, life, broken);
        media.heal();
        media.power_cut(rng.next_u64());
        drop(trail);
        open(&media).close().expect("closed");
        check(&media, &keys(), &told, seed);
    }
    all_unknown
}
