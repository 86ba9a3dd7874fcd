//! Every byte of a small log damaged, one at a time: reported or harmless, never a wrong answer.

mod harness;

use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{SimMedia, SimRng};
use esker_wal::{Log, LogId, OpenError, OpenRole, ReadLimit};
use harness::model::ModelFrame;
use harness::{SEGMENT_BYTES, options, read_all, seeds};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const ID: LogId = LogId(77);

/// How the log was left before it is damaged.
#[derive(Clone, Copy, Debug)]
enum Left {
    Closed,
    /// Killed when idle, all of it marked.
    Idle,
}

/// A log of three segments, all of it synced and below a mark.
fn build(left: Left) -> (SimMedia, Vec<ModelFrame>) {
    use esker_wal::media::Media;
    let media = SimMedia::new(1);
    media.create_dir_all(Path::new("log")).unwrap();
    let clock = Arc::new(ManualClock::default());
    let (log, _) = Log::open(Path::new("log"), options(&media, &clock, ID)).unwrap();
    let mut rng = SimRng::new(5);
    for _ in 0..2 * (SEGMENT_BYTES - 4096 - 512) / 900 {
        let payload: Vec<u8> = (0..rng.below(1600)).map(|_| rng.next_u64() as u8).collect();
        let end = log.append(&[&payload]).unwrap().end;
        if rng.chance(3) {
            log.sync_up_to(end).unwrap();
        }
        while rng.chance(2) && log.step() {}
    }
    log.set_slot("a", log.oldest()).unwrap();
    log.sync_up_to(log.published()).unwrap();
    while log.step() {}
    clock.advance(Duration::from_secs(5));
    while log.step() {}
    let frames = read_all(&log).unwrap();
    match left {
        Left::Closed => log.close().unwrap(),
        Left::Idle => media.kill(),
    }
    drop(log);
    if let Left::Idle = left {
        // What is left is on the disk.
        media.power_cut(1);
    }
    let segments = media
        .image()
        .into_keys()
        .filter(|p| p.extension().is_some());
    assert!(segments.count() >= 3);
    (media, frames)
}

/// The active segment made last.
fn newest_segment(media: &SimMedia) -> PathBuf {
    let mut active: Vec<_> = (media.image().into_iter())
        .filter(|(path, bytes)| {
            path.extension().is_some_and(|e| e == "seg") && bytes[64..68] == *b"ACTV"
        })
        .map(|(path, bytes)| (bytes[48..56].to_vec(), path))
        .map(|(id, path)| (u64::from_le_bytes(id.try_into().unwrap()), path))
        .collect();
    active.sort();
    active.pop().expect("an active segment").1
}

fn files(media: &SimMedia) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut image = media.image();
    image.remove(Path::new("log/LOCK"));
    image
}

/// Opens the damaged log and says what is wrong with what it answers.
fn check(media: &SimMedia, frames: &[ModelFrame]) -> Result<(), String> {
    let before = files(media);
    let clock = Arc::new(ManualClock::default());
    let opened = Log::open(Path::new("log"), options(media, &clock, ID));
    let log = match opened {
        Ok((log, _)) => log,
        Err(
            error @ (OpenError::Corrupt { .. }
            | OpenError::NewerFormat { .. }
            | OpenError::NotFound { .. }
            | OpenError::Io { .. }),
        ) => {
            return match files(media) == before {
                true => Ok(()),
                false => Err(format!("refused ({error}), but the disk was changed")),
            };
        }
        Err(error) => return Err(format!("refused: {error}")),
    };
    let oldest = log.oldest();
    if frames[0].lsn != oldest {
        return Err(format!("the oldest frame is at {oldest}"));
    }
    let mut reader = log
        .reader(oldest, ReadLimit::Synced)
        .map_err(|e| format!("no reader: {e}"))?;
    for frame in frames {
        match reader.next() {
            Ok(Some(found)) => {
                let found = ModelFrame {
                    lsn: found.header.lsn,
                    epoch: found.epoch,
                    kind: found.header.kind,
                    payload: found.payload.to_vec(),
                };
                if found != *frame {
                    return Err(format!("{} read for {}", found.brief(), frame.brief()));
                }
            }
            // Damage below a footer that was believed is found when it is read.
            Err(esker_wal::LogError::Corrupt { .. }) => return Ok(()),
            Err(e) => return Err(format!("reading: {e}")),
            Ok(None) => return Err(format!("{} is lost without a word", frame.brief())),
        }
    }
    // It goes on.
    let appended = log.append(&[b"more"]).map_err(|e| format!("append: {e}"))?;
    log.sync_up_to(appended.end)
        .map_err(|e| format!("sync: {e}"))
}

fn every_byte(left: Left) {
    let (media, frames) = build(left);
    check(&media.fork(0), &frames).expect("undamaged");
    let places: Vec<(PathBuf, u64)> = files(&media)
        .into_iter()
        .flat_map(|(path, bytes)| (0..bytes.len() as u64).map(move |at| (path.clone(), at)))
        .collect();
    let count = places.len() as u64;
    let chosen = match seeds::from_env("ESKER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    };
    let (_, failure) = seeds::run(chosen, move |n| {
        let (path, at) = &places[n as usize];
        let media = media.fork(n);
        let bits = 1 << (SimRng::new(n).below(8));
        media.flip(path, *at, bits).unwrap();
        check(&media, &frames)
            .map_err(|e| format!("{} byte {at} ^ {bits:#04x}: {e}", path.display()))
    });
    if let Some((n, error)) = failure {
        panic!("{left:?}, ESKER_SEED={n}: {error}");
    }
}

#[test]
fn any_flipped_byte_of_a_closed_log_is_reported_or_harmless() {
    every_byte(Left::Closed);
}

#[test]
fn any_flipped_byte_of_an_idle_log_is_reported_or_harmless() {
    every_byte(Left::Idle);
}

#[test]
fn a_zeroed_page_is_reported_or_harmless() {
    for left in [Left::Closed, Left::Idle] {
        let (media, frames) = build(left);
        for (path, bytes) in files(&media) {
            for at in (0..bytes.len()).step_by(4096) {
                let media = media.fork(1);
                let mut damaged = bytes.clone();
                let end = damaged.len().min(at + 4096);
                damaged[at..end].fill(0);
                media.put(&path, &damaged).unwrap();
                if let Err(e) = check(&media, &frames) {
                    panic!("{left:?}, {} page at {at}: {e}", path.display());
                }
            }
        }
    }
}

#[test]
fn a_missing_or_shortened_file_is_reported_or_harmless() {
    use esker_wal::media::Media;
    for left in [Left::Closed, Left::Idle] {
        let (media, frames) = build(left);
        // Where the newest segment is missing as a whole, a log alone can't know that there was one: power
        // lost before its first sync leaves the same. (The store knows, by its tables.)
        let newest = newest_segment(&media);
        for (path, bytes) in files(&media) {
            let gone = media.fork(1);
            gone.remove(&path).unwrap();
            if path != newest
                && let Err(e) = check(&gone, &frames)
            {
                panic!("{left:?}, without {}: {e}", path.display());
            }
            for len in [0, 1, 511, 512, 4096, bytes.len() / 2, bytes.len() - 1] {
                if len < bytes.len() {
                    let short = media.fork(1);
                    short.put(&path, &bytes[..len]).unwrap();
                    if let Err(e) = check(&short, &frames) {
                        panic!("{left:?}, {len} bytes of {}: {e}", path.display());
                    }
                }
            }
        }
    }
}

#[test]
fn a_follower_reports_damage_as_a_writer_does() {
    let (media, _) = build(Left::Closed);
    let image = files(&media);
    let (path, bytes) = image
        .iter()
        .filter(|(p, _)| p.extension().is_some_and(|e| e == "seg"))
        .find(|(_, b)| b[64..68] == *b"ACTV")
        .expect("an active segment");
    let media = media.fork(1);
    media.flip(path, 4096 + 40, 1).unwrap();
    // Without its footer the segment has to be read.
    media.flip(path, bytes.len() as u64 - 500, 1).unwrap();
    let clock = Arc::new(ManualClock::default());
    let options = esker_wal::LogOptions {
        role: OpenRole::Follower,
        ..options(&media, &clock, ID)
    };
    let error = Log::open(Path::new("log"), options).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}
