//! A follower that loses its power, is killed, or meets failed calls, at random, while it follows a primary
//! that ends uncleanly now and then: it always holds a prefix of the primary's log, byte for byte, with
//! every frame that it said was synced, and never begins an epoch by itself.

mod harness;

use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{EIO, Fault, SimMedia, SimRng};
use esker_wal::{
    Create, Frame, Log, LogError, LogId, LogOptions, Lsn, NodeId, OpenError, OpenRole, ReadLimit,
    WireFrame,
};
use harness::{SEGMENT_BYTES, options, seeds};
use std::path::Path;
use std::sync::Arc;

const ID: LogId = LogId(80);

fn dir() -> &'static Path {
    Path::new("log")
}

/// A log of some segments and epochs, all of it synced.
fn primary(rng: &mut SimRng) -> (Log, Vec<Frame>) {
    let media = SimMedia::new(rng.next_u64());
    media.create_dir_all(dir()).expect("room");
    let clock = Arc::new(ManualClock::default());
    let open = || Log::open(dir(), options(&media, &clock, ID)).expect("the primary opens");
    let (mut log, _) = open();
    for _ in 0..1 + rng.below(4) {
        for _ in 0..rng.below(12) {
            let payload: Vec<u8> = (0..rng.below(3000)).map(|_| rng.next_u64() as u8).collect();
            match rng.chance(8) {
                true => drop(log.reserve(payload.len()).expect("room")),
                false => drop(log.append(&[&payload]).expect("room")),
            }
        }
        log.sync_up_to(log.published()).expect("no trouble");
        match rng.below(3) {
            0 => {
                let number = log.epoch().number + 1;
                log.begin_epoch(number).expect("no trouble");
            }
            1 => {
                media.power_cut(rng.next_u64());
                drop(log);
                log = open().0;
            }
            _ => {
                log.close().expect("no trouble");
                log = open().0;
            }
        }
    }
    let mut reader = log.reader(Lsn::ZERO, ReadLimit::Synced).expect("all of it");
    let mut frames = Vec::new();
    while let Some(frame) = reader.next().expect("readable") {
        frames.push(frame);
    }
    (log, frames)
}

fn run(seed: u64) -> Result<u64, String> {
    let mut rng = SimRng::new(seed);
    let (primary, frames) = primary(&mut rng);
    let media = SimMedia::new(rng.next_u64());
    media.create_dir_all(dir()).expect("room");
    if rng.chance(2) {
        media.write_back_one_in(2 + rng.below(20));
    }
    let clock = Arc::new(ManualClock::default());
    let (mut synced, mut published, mut lives) = (Lsn::ZERO, Lsn::ZERO, 0);
    let mut calm = false;
    loop {
        // A life.
        lives += 1;
        calm |= lives > 60;
        media.heal();
        if !calm && rng.chance(2) {
            media.cut_at_call(1 + rng.below(60));
        } else if !calm && rng.chance(2) {
            let fault = Fault::nth(1 + rng.below(80)).errno(EIO);
            media.fail(fault.times(1 + rng.below(2)));
        }
        let options = LogOptions {
            role: OpenRole::Follower,
            create: Some(Create {
                log: ID,
                node: NodeId(3),
                base: Lsn::ZERO,
            }),
            segment_bytes: SEGMENT_BYTES * (1 + rng.below(2)),
            ..options(&media, &clock, ID)
        };
        let log = match Log::open(dir(), options) {
            Ok((log, _)) => Some(log),
            Err(e @ OpenError::Corrupt { .. }) => return Err(format!("life {lives}: {e}")),
            Err(e) if calm => return Err(format!("life {lives}: {e}")),
            Err(_) => None,
        };
        if let Some(log) = &log {
            let must = synced.max(published);
            if log.reserved() < must {
                return Err(format!(
                    "life {lives}: {must} was held, {} is there",
                    log.reserved()
                ));
            }
            if let Some(end) = follow(log, &frames, &mut rng, &mut synced, calm)? {
                if end == primary.reserved() && calm {
                    same(log, &primary, &frames)?;
                    return Ok(lives);
                }
                if end == primary.reserved() && rng.chance(2) {
                    calm = true;
                }
            }
            // In a poisoned log a frame may be half there.
            published = match log.poison() {
                Some(_) => log.synced(),
                None => log.published(),
            };
            if !media.is_down() && rng.chance(4) {
                // Its error, if it has one, is not of interest here.
                let _ = log.close();
            }
        }
        if media.is_down() || rng.chance(2) {
            media.power_cut(rng.next_u64());
            published = synced;
        } else {
            media.kill();
        }
    }
}

/// Appends what comes next until something fails or the frames are at their end; where it got to.
fn follow(
    log: &Log,
    frames: &[Frame],
    rng: &mut SimRng,
    synced: &mut Lsn,
    calm: bool,
) -> Result<Option<Lsn>, String> {
    let from = log.reserved();
    // What open found is synced, and reads as the primary's.
    *synced = (*synced).max(log.synced());
    let at = frames.partition_point(|f| f.header.lsn < from);
    if frames.get(at).is_some_and(|f| f.header.lsn != from) {
        return Err(format!(
            "it ends at {from}, where no frame of the primary does"
        ));
    }
    let history = log.epochs();
    for frame in &frames[..at] {
        let of = history.iter().rev().find(|e| e.begin <= frame.header.lsn);
        if of.is_none_or(|e| e.epoch != frame.epoch) {
            return Err(format!(
                "{} is not of the history {history:?}",
                frame.header.lsn
            ));
        }
    }
    let stop = match calm {
        true => frames.len(),
        false => at + rng.below((frames.len() - at + 1) as u64) as usize,
    };
    for frame in &frames[at..stop] {
        if rng.chance(10) {
            // A frame that is not the next, or not whole, is refused.
            let mut wrong = frame.header;
            match rng.below(2) {
                0 => wrong.crc ^= 1,
                _ => wrong.lsn = wrong.lsn.advance(8),
            }
            let refused = log.append_replicated(WireFrame {
                header: wrong,
                payload: &frame.payload,
            });
            if refused.is_ok() {
                return Err(format!("a wrong frame was taken: {wrong:?}"));
            }
        }
        let appended = log.append_replicated(WireFrame {
            header: frame.header,
            payload: &frame.payload,
        });
        match appended {
            Ok(appended) if appended.lsn == frame.header.lsn => {}
            Ok(other) => return Err(format!("{other:?} for {:?}", frame.header)),
            Err(e @ LogError::NotNext { .. }) => return Err(e.to_string()),
            Err(e) if calm => return Err(e.to_string()),
            Err(_) => return Ok(None),
        }
        if rng.chance(3) && log.sync_up_to(log.published()).is_err() {
            return Ok(None);
        }
        *synced = (*synced).max(log.synced());
        while rng.chance(2) && log.step() {}
    }
    if calm {
        log.sync_up_to(log.published()).map_err(|e| e.to_string())?;
        *synced = log.synced();
    }
    Ok(Some(log.reserved()))
}

/// R1: the same bytes, the same history, the same chain.
fn same(log: &Log, primary: &Log, frames: &[Frame]) -> Result<(), String> {
    let mut reader = log
        .reader(log.oldest(), ReadLimit::Synced)
        .map_err(|e| e.to_string())?;
    for frame in frames {
        let found = reader.next().map_err(|e| e.to_string())?;
        let same = found.as_ref().is_some_and(|f| {
            f.header == frame.header && f.epoch == frame.epoch && f.payload == frame.payload
        });
        if !same {
            return Err(format!("{found:?} for {:?}", frame.header));
        }
    }
    if log.epochs() != primary.epochs() {
        return Err(format!("{:?}, not {:?}", log.epochs(), primary.epochs()));
    }
    let end = primary.reserved();
    let chains = [log, primary].map(|l| l.chain_at(end).ok());
    if log.reserved() != end || chains[0] != chains[1] || chains[0].is_none() {
        return Err(format!("ends at {} and {end}, {chains:?}", log.reserved()));
    }
    Ok(())
}

#[test]
fn a_follower_holds_a_prefix_of_its_primary_whatever_happens() {
    let (lives, failure) = seeds::run(seeds::chosen(300), run);
    if let Some((seed, error)) = failure {
        panic!("ESKER_SEED={seed}: {error}");
    }
    assert!(lives.len() < 100 || lives.iter().sum::<u64>() > 2 * lives.len() as u64);
}
