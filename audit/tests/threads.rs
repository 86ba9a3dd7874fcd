//! T1, T3, T4: many writers, one of whom syncs for all, beside failing syncs, closing of files and a power cut: what was acknowledged is there, nobody
//! hangs, and the trail is whole. With threads a seed does not replay exactly; it decides what fails, when the power goes and what survives.

mod support;

use esker_audit::{Error, OnFailure, Options, Policies, Policy, Record, Trail, Write, Written};
use esker_wal::Workers;
use esker_wal::media::clock::RealClock;
use esker_wal::media::sim::{CallKind, EIO, Fault, SimMedia, SimRng};
use std::path::Path;
use std::sync::Arc;
use support::lives::{Told, check};
use support::{DIR, keys, stepped};

const WRITERS: u64 = 8;

fn open(media: &SimMedia) -> Trail {
    let options = Options {
        workers: Workers::Threads,
        clock: Arc::new(RealClock::default()),
        policies: Policies::all(Policy {
            write: Write::Sync,
            on_failure: OnFailure::Refuse,
        }),
        ..stepped(media)
    };
    let opened = Trail::open(Path::new(DIR), keys(), options);
    opened.expect("a trail that can be opened").0
}

/// What one writer was told: sequence and request of each record that is synced, and how many outcomes are not known.
fn write(
    trail: &Trail,
    media: &SimMedia,
    requests: std::ops::Range<u64>,
) -> (Vec<(u64, u64)>, u64) {
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

fn round(seed: u64) -> u64 {
    let mut rng = SimRng::new(seed);
    let media = SimMedia::new(rng.next_u64());
    let mut told = Told::default();
    let mut all_unknown = 0;
    for life in 0..3 {
        let trail = open(&media);
        for _ in 0..1 + rng.below(3) {
            let nth = 1 + rng.below(60);
            media.fail(Fault::nth(nth).of(CallKind::SyncMap).on("live").errno(EIO));
        }
        if rng.chance(2) {
            media.cut_at_call(1 + rng.below(900));
        }
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|n| {
                    let first = (life * WRITERS + n) * 1000;
                    let (trail, media) = (&trail, &media);
                    scope.spawn(move || write(trail, media, first..first + 60))
                })
                .collect();
            for writer in writers {
                let (synced, unknown) = writer.join().expect("a writer");
                for (sequence, request) in synced {
                    let before = told.synced.insert(sequence, request);
                    assert_eq!(before, None, "seed {seed}: sequence {sequence} twice");
                }
                all_unknown += unknown;
            }
        });
        media.heal();
        media.power_cut(rng.next_u64());
        drop(trail);
        open(&media).close().expect("closed");
        check(&media, &keys(), &told, seed);
    }
    all_unknown
}

#[test]
fn t4_what_many_writers_were_told_is_synced_survives_failed_syncs_and_the_power() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    let first: u64 = number("ESKER_SEED").unwrap_or(0);
    let seeds = number("ESKER_SEEDS").unwrap_or(20);
    let unknown: u64 = (first..first + seeds).map(round).sum();
    assert!(unknown > 0, "no sync failed that somebody waited for");
}
