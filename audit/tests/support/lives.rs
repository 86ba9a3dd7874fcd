//! Lives of a trail, by seed: it writes, closes, removes, begins keys, until the power goes or the process is killed at some call of the disk; then what was
//! acknowledged must be there, and the trail be whole.

use super::{DIR, policy, stepped};
use esker_audit::{
    Key, Keyring, OnFailure, Options, Policies, Query, Reader, Record, Severity, Trail,
    VerifyOptions, Write, Written, verify,
};
use esker_wal::media::sim::{CallKind, EIO, Fault, SimMedia};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

fn options(media: &SimMedia, rng: &mut StdRng) -> Options {
    Options {
        keep_bytes: rng.random_bool(0.3).then_some(1 << 10),
        policies: Policies::all(policy(Write::Sync, OnFailure::Refuse))
            .with(Severity::Info, policy(Write::Interval, OnFailure::Drop)),
        ..stepped(media)
    }
}

/// What was acknowledged: request id by sequence.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) synced: BTreeMap<u64, u64>,
    request: u64,
}

impl Told {
    fn write(&mut self, trail: &Trail, rng: &mut StdRng) -> bool {
        self.request += 1;
        let severity = match rng.random_bool(0.3) {
            true => Severity::Info,
            false => Severity::Error,
        };
        let record = Record::new("test.write")
            .severity(severity)
            .request(self.request.to_string())
            .with("pad", "x".repeat(rng.random_range(0..600)));
        match trail.record(record) {
            Ok(receipt) if receipt.written == Written::Synced => {
                self.synced.insert(receipt.sequence.unwrap(), self.request);
                true
            }
            Ok(_) => true,
            Err(_) => false,
        }
    }
}

/// A call on the live log that fails once.
fn failure(rng: &mut StdRng) -> Fault {
    let kind = match rng.random_bool(0.8) {
        true => CallKind::SyncMap,
        false => CallKind::Create,
    };
    Fault::nth(rng.random_range(1..4))
        .of(kind)
        .on("live")
        .errno(EIO)
}

/// Writes, closes files, removes them, makes checkpoints, until the medium is down or enough was done.
fn live(trail: &Trail, keys: &mut Keyring, told: &mut Told, media: &SimMedia, rng: &mut StdRng) {
    for _ in 0..rng.random_range(5..60) {
        if media.is_down() {
            return;
        }
        match rng.random_range(0..40) {
            0 | 1 => drop(trail.rotate()),
            2 => drop(trail.clean()),
            8 => media.fail(failure(rng)),
            3 => drop(trail.checkpoint()),
            4 => {
                let key = Key::from_secret(rng.random());
                keys.add(key.clone());
                drop(trail.rotate_key(key));
            }
            5 => drop(trail.flush()),
            6 | 7 => drop(trail.step()),
            _ => drop(told.write(trail, rng)),
        }
    }
}

pub(crate) fn check(media: &SimMedia, keys: &Keyring, told: &Told, seed: u64) {
    let options = VerifyOptions {
        threads: 1,
        media: Arc::new(media.clone()),
        ..VerifyOptions::default()
    };
    let report = verify(Path::new(DIR), keys, &options).unwrap();
    assert_eq!(report.findings, [], "seed {seed}");
    let reader = Reader::open_on(Path::new(DIR), keys.clone(), options.media).unwrap();
    let mut records = reader.query(Query::default()).unwrap();
    let mut found = BTreeMap::new();
    while let Some(record) = records.next().unwrap() {
        if let Some(request) = record.fields.get("http.request.id") {
            let request: u64 = request.as_str().unwrap().parse().unwrap();
            found.insert(record.head.sequence, request);
        }
    }
    for (sequence, request) in told.synced.range(report.removed + 1..) {
        assert_eq!(
            found.get(sequence),
            Some(request),
            "seed {seed}: record {sequence} was acknowledged"
        );
    }
}

/// The power goes, or the process is killed: at the call where the disk went, if it did.
fn end(media: &SimMedia, rng: &mut StdRng) {
    match rng.random_bool(0.5) {
        true => media.power_cut(rng.random()),
        false => media.kill(),
    }
}

pub(crate) fn run(seed: u64) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let media = SimMedia::new(seed);
    // Where the kernel writes back of its own accord, what a process left unsynced is soon on the disk.
    if rng.random_bool(0.5) {
        media.write_back_one_in(rng.random_range(1..20));
    }
    let mut keys = Keyring::of(Key::from_secret(rng.random()));
    let mut told = Told::default();
    let mut begun = false;
    for _ in 0..rng.random_range(2..5) {
        if rng.random_bool(0.7) {
            media.cut_at_call(rng.random_range(1..600));
        }
        // A change of the directory whose sync fails, and then a kill.
        let unsynced = rng.random_bool(0.2);
        if unsynced {
            media.fail(Fault::nth(rng.random_range(1..9)).of(CallKind::SyncDir));
        }
        match Trail::open(Path::new(DIR), keys.clone(), options(&media, &mut rng)) {
            Ok((trail, opened)) => {
                begun = true;
                assert_eq!(opened.findings, [], "seed {seed}");
                live(&trail, &mut keys, &mut told, &media, &mut rng);
                let unsynced = !media.is_down() && rng.random_bool(0.3);
                if unsynced {
                    media.fail(Fault::nth(1).of(CallKind::SyncDir));
                    match rng.random_bool(0.5) {
                        true => drop(trail.rotate()),
                        false => drop(trail.clean()),
                    }
                } else if rng.random_bool(0.4) {
                    drop(trail.close());
                }
                match unsynced {
                    true => media.kill(),
                    false => end(&media, &mut rng),
                }
                drop(trail);
            }
            Err(e) => {
                assert!(media.is_down() || unsynced, "seed {seed}: {e}");
                end(&media, &mut rng);
            }
        }
        media.heal();
        if begun {
            // It must open, and go on; and what it found stays, and what it built on that.
            for last in [false, true] {
                let (trail, opened) =
                    Trail::open(Path::new(DIR), keys.clone(), options(&media, &mut rng)).unwrap();
                assert_eq!(opened.findings, [], "seed {seed}");
                assert!(told.write(&trail, &mut rng), "seed {seed}");
                check(&media, &keys, &told, seed);
                if last || rng.random_bool(0.5) {
                    break;
                }
                if rng.random_bool(0.5) {
                    drop(trail.clean());
                }
                media.power_cut(rng.random());
            }
        }
    }
    told.synced.len() as u64
}
