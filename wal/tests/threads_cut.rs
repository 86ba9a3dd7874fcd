//! Threads that append and sync while the power goes: what was acknowledged is there, nothing hangs.
//!
//! With threads a seed does not replay exactly; it decides when the power goes and what survives.

mod harness;

use esker_wal::media::Media;
use esker_wal::media::sim::{CallKind, Fault, SimMedia, SimRng};
use esker_wal::{Kind, Log, LogError, LogId, LogOptions, Workers};
use harness::{options, read_all, seeds};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

const ID: LogId = LogId(81);
const THREADS: u64 = 4;

fn open(media: &SimMedia) -> Result<Log, String> {
    let options = LogOptions {
        workers: Workers::Threads,
        clock: LogOptions::default().clock,
        unsynced_bytes_max: 16 << 10,
        ..options(media, &Arc::default(), ID)
    };
    let (log, _) = Log::open(Path::new("log"), options).map_err(|e| format!("open: {e}"))?;
    Ok(log)
}

/// Appends and waits until an error comes; what was acknowledged, and what was appended.
fn append(log: &Log, mut rng: SimRng) -> (BTreeMap<u64, Vec<u8>>, BTreeMap<u64, Vec<u8>>) {
    let (mut acknowledged, mut appended) = (BTreeMap::new(), BTreeMap::new());
    let mut waiting: Vec<u64> = Vec::new();
    loop {
        let payload: Vec<u8> = (0..rng.below(600)).map(|_| rng.next_u64() as u8).collect();
        let at = match rng.chance(10) {
            // Given up: it becomes void, and is nobody's.
            true => log.reserve(payload.len()).map(drop).map(|()| None),
            false => log.append(&[&payload]).map(Some),
        };
        match at {
            Ok(None) => continue,
            Ok(Some(at)) => {
                appended.insert(at.lsn.0, payload);
                waiting.push(at.lsn.0);
                if rng.chance(2) {
                    if log.sync_up_to(at.end).is_err() {
                        return (acknowledged, appended);
                    }
                    for lsn in waiting.drain(..) {
                        acknowledged.insert(lsn, appended[&lsn].clone());
                    }
                }
            }
            Err(LogError::Busy) => {}
            Err(_) => return (acknowledged, appended),
        }
        if rng.chance(40) {
            // All frames below are this thread's or another's: only the workers are to be kept busy.
            log.release(log.synced());
        }
    }
}

fn round(seed: u64) -> Result<(), String> {
    let mut rng = SimRng::new(seed);
    let media = SimMedia::new(rng.next_u64());
    media.create_dir_all(Path::new("log")).expect("room");
    if rng.chance(2) {
        media.write_back_one_in(5);
    }
    for life in 0..3 {
        let log = open(&media).map_err(|e| format!("life {life}: {e}"))?;
        let calls = 20 + rng.below(400);
        match rng.below(3) {
            0 => media.fail(Fault::nth(calls / 4).of(CallKind::SyncMap)),
            _ => media.cut_at_call(calls),
        }
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let (log, rng) = (log.clone(), SimRng::new(seed * 100 + life * 10 + n));
                std::thread::spawn(move || append(&log, rng))
            })
            .collect();
        let (mut acknowledged, mut appended) = (BTreeMap::new(), BTreeMap::new());
        for thread in threads {
            let (sure, all) = thread.join().map_err(|_| "a thread panicked")?;
            acknowledged.extend(sure);
            appended.extend(all);
        }
        match rng.chance(2) {
            true => {
                if log.close().is_ok() {
                    return Err(format!("life {life}: closed well after its end"));
                }
            }
            false => drop(log),
        }
        media.heal();
        media.power_cut(rng.next_u64());
        let log = open(&media).map_err(|e| format!("life {life}, again: {e}"))?;
        let oldest = log.oldest().0;
        let found: BTreeMap<u64, _> = (read_all(&log)?.into_iter())
            .map(|f| (f.lsn.0, f))
            .collect();
        for (lsn, payload) in acknowledged.range(oldest..) {
            if found.get(lsn).map(|f| &f.payload) != Some(payload) {
                return Err(format!("life {life}: the frame at {lsn} was acknowledged"));
            }
        }
        let known: BTreeSet<u64> = appended.keys().copied().collect();
        for (lsn, frame) in found {
            if frame.kind == Kind::Data && known.contains(&lsn) && appended[&lsn] != frame.payload {
                return Err(format!("life {life}: another frame at {lsn}"));
            }
        }
        log.close().map_err(|e| format!("life {life}: {e}"))?;
    }
    Ok(())
}

#[test]
fn what_threads_were_told_is_synced_survives_the_power() {
    let (_, failure) = seeds::run(seeds::chosen(40), round);
    if let Some((seed, error)) = failure {
        panic!("ESKER_SEED={seed}: {error}");
    }
}
