//! The decision table of docs/formats.md, "Recovery: what is decided": each row is built on the medium in memory, and
//! what each way to open makes of it is held against the row. W2, W3, W4, W5.

mod built;
mod harness;

use built::{Built, FRAMES_AT, ID, Left, build, dir, image, survey, verify_options};
use esker_wal::frame::{Header, Seed, checksum};
use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::SimMedia;
use esker_wal::{
    Create, Damage, DamageKind, Kind, Log, LogError, LogOptions, Lsn, LsnRange, NodeId, OnDamage,
    OpenError, OpenRole, ReadLimit, Salvaged, WireFrame, salvage_to, verify,
};
use harness::model::ModelFrame;
use harness::{options, read_all};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What an open for reading and writing does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strict {
    /// All frames are there; closed cleanly.
    Clean,
    /// All frames are there, or all but a torn tail.
    Opens,
    /// Opens; reading reports the damage.
    Later,
    /// Refuses, saying this; nothing is changed.
    Refuses(&'static str),
}

/// What is done to a log, and the parts of it that are lost by that.
type Harm = fn(&mut Built) -> Vec<LsnRange>;

struct Row {
    found: &'static str,
    left: Left,
    harm: Harm,
    strict: Strict,
}

const fn row(found: &'static str, left: Left, strict: Strict, harm: Harm) -> Row {
    Row {
        found,
        left,
        harm,
        strict,
    }
}

/// The same file with its header under another identity (see docs/formats.md).
fn under(bytes: &[u8], change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut out = bytes.to_vec();
    change(&mut out);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out[..12]);
    crc.update(&out[16..64]);
    out[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    out
}

fn newer(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out[8..12].copy_from_slice(&9_u32.to_le_bytes());
    out
}

/// A segment's header as an earlier build wrote it.
fn older(bytes: &[u8]) -> Vec<u8> {
    under(bytes, |h| h[8..12].copy_from_slice(&1_u32.to_le_bytes()))
}

fn rows() -> Vec<Row> {
    use Left::{Busy, Closed, Idle};
    use Strict::{Clean, Later, Opens, Refuses};
    vec![
        row("clean end", Closed, Clean, |_| vec![]),
        row("unclean end", Idle, Opens, |_| vec![]),
        row("torn tail", Busy, Opens, |b| {
            // The last frame but one: what is behind it goes with it.
            let n = b.of(b.last()).len() - 2;
            let lost = b.harm(b.last(), n);
            b.frames.retain(|f| f.lsn < lost.from);
            vec![]
        }),
        row("torn tail, gone to zeros", Busy, Opens, |b| {
            let from = b.synced.since(b.last().base) + FRAMES_AT;
            let mut bytes = b.bytes(&b.last().path);
            bytes[from as usize..].fill(0);
            b.media.put(&b.last().path, &bytes).unwrap();
            b.frames.retain(|f| f.lsn < b.synced);
            vec![]
        }),
        row("damage below the mark", Idle, Refuses("checksum"), |b| {
            vec![b.harm(b.last(), 3)]
        }),
        row(
            "damage below the mark, closed",
            Closed,
            Refuses("checksum"),
            |b| vec![b.harm(b.last(), 0), b.harm(b.last(), 5)],
        ),
        row("damage at the very mark", Idle, Refuses("checksum"), |b| {
            let n = b.of(b.last()).len() - 1;
            vec![b.harm(b.last(), n)]
        }),
        row("damage in a closed segment", Idle, Later, |b| {
            vec![b.harm(b.middle(), 2)]
        }),
        row(
            "damage in a closed segment without footer",
            Idle,
            Refuses("checksum"),
            |b| {
                b.flip(b.middle(), b.bytes(&b.middle().path).len() as u64 - 500);
                vec![b.harm(b.middle(), 2)]
            },
        ),
        row("middle segment missing", Idle, Refuses(""), |b| {
            b.media.remove(&b.middle().path).unwrap();
            vec![b.all_of(b.middle())]
        }),
        row(
            "oldest segment missing",
            Idle,
            Refuses("before it is missing"),
            |b| {
                b.media.remove(&b.segments[0].path).unwrap();
                let base = b.segments[1].base;
                b.frames.retain(|f| f.lsn >= base);
                b.segments.remove(0);
                vec![]
            },
        ),
        row(
            "newest segment missing, its epoch's first",
            Idle,
            Refuses(""),
            |b| {
                // All of the last epoch: its control frame is known to have been synced.
                let epoch = b.frames.last().unwrap().epoch;
                let begin = b.frames.iter().find(|f| f.epoch == epoch).unwrap().clone();
                for segment in b.segments.iter().filter(|s| s.base >= begin.lsn) {
                    b.media.remove(&segment.path).unwrap();
                }
                b.frames.retain(|f| f.lsn <= begin.lsn);
                vec![LsnRange {
                    from: begin.lsn,
                    to: begin.end(),
                }]
            },
        ),
        row("duplicate segment", Idle, Refuses("holds segment"), |b| {
            let bytes = b.bytes(&b.middle().path);
            let copy = dir().join("00000000000000ff.seg");
            b.media.put(&copy, &bytes).unwrap();
            vec![]
        }),
        row(
            "segment of another log",
            Idle,
            Refuses("another log"),
            |b| {
                let mut bytes = under(&b.bytes(&b.middle().path), |h| h[16] ^= 1);
                // Its frames are other ones, or have other checksums.
                bytes[FRAMES_AT as usize..].iter_mut().for_each(|b| *b ^= 7);
                b.media.put(&b.middle().path.clone(), &bytes).unwrap();
                vec![b.all_of(b.middle())]
            },
        ),
        row(
            "segment of another node",
            Idle,
            Refuses("another node"),
            |b| {
                let bytes = under(&b.bytes(&b.middle().path), |h| h[32] ^= 1);
                b.media.put(&b.middle().path.clone(), &bytes).unwrap();
                // Its frames are the same on every node (R1), and verify.
                vec![]
            },
        ),
        row(
            "damage at a segment's end without footer, the next missing",
            Idle,
            Refuses("checksum"),
            |b| {
                let at = b.segments.len() - 4;
                let (broken, missing) = (&b.segments[at], &b.segments[at + 1]);
                b.flip(broken, b.bytes(&broken.path).len() as u64 - 500);
                let lost = b.harm(broken, b.of(broken).len() - 1);
                b.media.remove(&missing.path).unwrap();
                vec![LsnRange {
                    from: lost.from,
                    to: missing.end,
                }]
            },
        ),
        row(
            "damage in the last frame of a closed segment without footer",
            Idle,
            Refuses("checksum"),
            |b| {
                b.flip(b.middle(), b.bytes(&b.middle().path).len() as u64 - 500);
                vec![b.harm(b.middle(), b.of(b.middle()).len() - 1)]
            },
        ),
        row("half-made segment", Idle, Opens, |b| {
            let bytes = b.bytes(&b.middle().path);
            let tmp = dir().join("00000000000000ff.tmp");
            b.media.put(&tmp, &bytes[..9000]).unwrap();
            vec![]
        }),
        row("prepared file with old frames", Idle, Opens, |b| {
            // A whole segment's frames below a fresh header: what recycling leaves.
            let prepared = b.prepared.clone().expect("one is prepared");
            let mut bytes = b.bytes(&b.middle().path);
            let head = b.bytes(&prepared)[..4096].to_vec();
            bytes[..4096].copy_from_slice(&head);
            b.media.put(&prepared, &bytes).unwrap();
            vec![]
        }),
        row(
            "open segment with old frames behind its end",
            Busy,
            Opens,
            |b| {
                let used = (b.last().end.since(b.last().base) + FRAMES_AT) as usize;
                let old = b.bytes(&b.segments[0].path);
                let mut bytes = b.bytes(&b.last().path);
                bytes[used..].copy_from_slice(&old[used..]);
                b.media.put(&b.last().path.clone(), &bytes).unwrap();
                vec![]
            },
        ),
        row("frames cut by a rewind", Idle, Opens, |b| {
            let clock = Arc::new(ManualClock::default());
            let (log, _) = Log::open(dir(), options(&b.media, &clock, ID)).unwrap();
            let torn = log.published();
            for _ in 0..30 {
                log.append(&[&[1; 900]]).unwrap();
                while log.step() {}
            }
            b.media.kill();
            drop(log);
            let files = survey(&b.media).files().unwrap();
            let at = |f: &&esker_wal::FileInfo| f.base.is_some_and(|base| base <= torn);
            let file = files.iter().filter(at).max_by_key(|f| f.base).unwrap();
            let offset = torn.since(file.base.unwrap()) + FRAMES_AT + 40;
            b.media.flip(&dir().join(&file.name), offset, 1).unwrap();
            // Recovery begins a segment there; the files behind it go, and come back.
            let before = image(&b.media);
            let (log, _) = Log::open(dir(), options(&b.media, &clock, ID)).unwrap();
            let end = log.append(&[b"after the cut"]).unwrap().end;
            log.sync_up_to(end).unwrap();
            b.frames = read_all(&log).unwrap();
            b.media.kill();
            drop(log);
            let now = image(&b.media);
            let back: Vec<_> = before
                .iter()
                .filter(|(path, bytes)| !now.contains_key(*path) && bytes[64..68] == *b"ACTV")
                .collect();
            assert!(!back.is_empty());
            for (path, bytes) in back {
                b.media.put(path, bytes).unwrap();
            }
            vec![]
        }),
        row("damaged header, prepared", Idle, Refuses("header"), |b| {
            let prepared = b.prepared.clone().expect("one is prepared");
            b.media.flip(&prepared, 50, 1).unwrap();
            vec![]
        }),
        row("damaged header, newest", Idle, Refuses("header"), |b| {
            b.flip(b.last(), 20);
            vec![]
        }),
        row(
            "damaged activation, newest",
            Idle,
            Refuses("activation"),
            |b| {
                b.flip(b.last(), 74);
                vec![]
            },
        ),
        row("damaged header, closed", Idle, Refuses("header"), |b| {
            b.flip(b.middle(), 20);
            vec![]
        }),
        row(
            "damaged header and first frame, closed",
            Idle,
            Refuses("header"),
            |b| {
                b.flip(b.middle(), 20);
                vec![b.harm(b.middle(), 0)]
            },
        ),
        row("damaged footer", Idle, Opens, |b| {
            b.flip(b.middle(), b.bytes(&b.middle().path).len() as u64 - 500);
            vec![]
        }),
        row("damaged mark in a frame", Idle, Opens, |b| {
            let frame = b.of(b.middle())[1].lsn.since(b.middle().base);
            b.flip(b.middle(), FRAMES_AT + frame + 18);
            vec![]
        }),
        row("damaged mark sectors", Idle, Opens, |b| {
            b.flip(b.last(), 512 + 30);
            b.flip(b.last(), 1024 + 30);
            vec![]
        }),
        row("shortened file", Idle, Refuses("shortened"), |b| {
            let bytes = b.bytes(&b.middle().path);
            let path = b.middle().path.clone();
            b.media.put(&path, &bytes[..8192]).unwrap();
            vec![b.all_of(b.middle())]
        }),
        row(
            "newer format, a segment's",
            Idle,
            Refuses("format 9"),
            |b| {
                let bytes = newer(&b.bytes(&b.middle().path));
                b.media.put(&b.middle().path.clone(), &bytes).unwrap();
                vec![b.all_of(b.middle())]
            },
        ),
        row(
            "older format, a segment's",
            Idle,
            Refuses("older format"),
            |b| {
                let bytes = older(&b.bytes(&b.middle().path));
                b.media.put(&b.middle().path.clone(), &bytes).unwrap();
                // Its frames are of today's.
                vec![]
            },
        ),
        row("EPOCHS damaged", Idle, Refuses("EPOCHS"), |b| {
            b.media.flip(&dir().join("EPOCHS"), 20, 1).unwrap();
            vec![]
        }),
        row(
            "EPOCHS damaged, and a segment missing",
            Idle,
            Refuses("EPOCHS"),
            |b| {
                b.media.flip(&dir().join("EPOCHS"), 20, 1).unwrap();
                b.media.remove(&b.middle().path).unwrap();
                vec![b.all_of(b.middle())]
            },
        ),
        row("EPOCHS missing", Idle, Opens, |b| {
            b.media.remove(&dir().join("EPOCHS")).unwrap();
            vec![]
        }),
        row("SLOTS damaged", Idle, Refuses("SLOTS"), |b| {
            b.media.flip(&dir().join("SLOTS"), 20, 1).unwrap();
            vec![]
        }),
        row("SLOTS missing", Idle, Opens, |b| {
            b.media.remove(&dir().join("SLOTS")).unwrap();
            vec![]
        }),
        row("LOG damaged", Idle, Refuses("LOG"), |b| {
            b.media.flip(&dir().join("LOG"), 20, 1).unwrap();
            vec![]
        }),
        row("LOG missing", Idle, Refuses("LOG"), |b| {
            b.media.remove(&dir().join("LOG")).unwrap();
            vec![]
        }),
        row("LOG of a newer format", Idle, Refuses("format 9"), |b| {
            let bytes = newer(&b.bytes(&dir().join("LOG")));
            b.media.put(&dir().join("LOG"), &bytes).unwrap();
            vec![]
        }),
    ]
}

/// The frames of `built` outside of what is lost.
fn intact<'a>(built: &'a Built, lost: &[LsnRange]) -> Vec<&'a ModelFrame> {
    let good = |f: &&ModelFrame| lost.iter().all(|l| !l.contains(f.lsn));
    built.frames.iter().filter(good).collect()
}

/// Frames as a log holds them, but for the control frames that opens began since.
fn read(log: &Log, upto: Lsn) -> Result<Vec<ModelFrame>, LogError> {
    let mut reader = log.reader(log.oldest(), ReadLimit::Published)?;
    let mut out = Vec::new();
    while let Some(frame) = reader.next_ref()? {
        if frame.header.lsn < upto {
            out.push(ModelFrame {
                lsn: frame.header.lsn,
                epoch: frame.epoch,
                kind: frame.header.kind,
                payload: frame.payload.to_vec(),
            });
        }
    }
    Ok(out)
}

fn check_strict(row: &Row, built: &Built, lost: &[LsnRange]) {
    let media = built.media.fork(1);
    let before = image(&media);
    let clock = Arc::new(ManualClock::default());
    let opened = Log::open(dir(), options(&media, &clock, ID));
    let end = built.frames.last().unwrap().end();
    match (row.strict, opened) {
        (Strict::Refuses(why), Err(error)) => {
            assert!(error.to_string().contains(why), "{}: {error}", row.found);
            assert!(
                matches!(
                    error,
                    OpenError::Corrupt { .. } | OpenError::NewerFormat { .. }
                ),
                "{}: {error}",
                row.found
            );
            if let (OpenError::Corrupt { at, .. }, Some(first)) = (&error, lost.first())
                && *at != Lsn::ZERO
            {
                assert_eq!(*at, first.from, "{}: {error}", row.found);
            }
            assert!(
                image(&media) == before,
                "{}: the disk was changed",
                row.found
            );
        }
        (Strict::Later, Ok((log, _))) => {
            let error = read(&log, end).unwrap_err();
            assert!(
                matches!(&error, LogError::Corrupt { at, .. } if *at == lost[0].from),
                "{}: {error}",
                row.found
            );
        }
        (Strict::Clean | Strict::Opens, Ok((log, recovered))) => {
            assert_eq!(
                recovered.clean,
                row.strict == Strict::Clean,
                "{}",
                row.found
            );
            assert_eq!(recovered.end, end, "{}", row.found);
            // What goes to zeros looks like nothing; what was never written either.
            let torn = row.found == "torn tail";
            assert_eq!(
                recovered.cut_bytes > 0,
                torn,
                "{}: {recovered:?}",
                row.found
            );
            assert!(read(&log, end).unwrap() == built.frames, "{}", row.found);
            let more = log.append(&[b"more"]).unwrap().end;
            log.sync_up_to(more).unwrap();
            while log.step() {}
            // What was kept stays as it was, byte for byte.
            let after = image(&media);
            for segment in &built.segments {
                let kept = (segment.end.min(end).0.saturating_sub(segment.base.0)) as usize;
                let at = FRAMES_AT as usize;
                assert!(
                    after[&segment.path][at..at + kept] == before[&segment.path][at..at + kept],
                    "{}: {}",
                    row.found,
                    segment.path.display()
                );
            }
        }
        (strict, Ok((_, recovered))) => panic!("{}: {strict:?}, {recovered:?}", row.found),
        (strict, Err(error)) => panic!("{}: {strict:?}, but {error}", row.found),
    }
}

fn check_salvage(row: &Row, built: &Built, lost: &[LsnRange]) {
    let media = built.media.fork(2);
    let before = image(&media);
    let verified = verify(dir(), &verify_options(&media)).unwrap();
    assert_eq!(
        verified.lost(),
        lost,
        "{}: {:?}",
        row.found,
        verified.damage
    );
    if matches!(row.strict, Strict::Refuses(_) | Strict::Later) {
        assert!(!verified.is_clean(), "{}", row.found);
    }
    let to = Path::new("salvaged");
    let salvaged = salvage_to(dir(), to, &verify_options(&media)).unwrap();
    assert_eq!(salvaged.lost, lost, "{}", row.found);
    assert!(
        image(&media) == before,
        "{}: the disk was changed",
        row.found
    );
    check_copy(row, built, &salvaged, &media, to);
}

/// The copy opens as any log; what is lost is void in it, all else is there.
fn check_copy(row: &Row, built: &Built, salvaged: &Salvaged, media: &SimMedia, to: &Path) {
    let found = row.found;
    let clock = Arc::new(ManualClock::default());
    let options = LogOptions {
        create: None,
        ..options(media, &clock, salvaged.log)
    };
    // SA3: what may not be all of the log is another log.
    assert!(salvaged.lost.is_empty() || salvaged.log != ID, "{found}");
    let whole = matches!(row.strict, Strict::Clean | Strict::Opens);
    assert!(
        !whole || salvaged.log == ID,
        "{found}: {:?}",
        salvaged.damage
    );
    let (log, recovered) = Log::open(to, options).unwrap_or_else(|e| panic!("{found}: {e}"));
    assert_eq!(recovered.end, salvaged.end, "{found}");
    assert_eq!(log.oldest(), built.frames[0].lsn, "{found}");
    let frames = read(&log, salvaged.end).unwrap();
    let (voids, kept): (Vec<_>, Vec<_>) = frames
        .iter()
        .partition(|f| salvaged.lost.iter().any(|l| l.contains(f.lsn)));
    assert!(voids.iter().all(|f| f.kind == Kind::Void), "{found}");
    let good: Vec<_> = intact(built, &salvaged.lost)
        .into_iter()
        .filter(|f| f.lsn < salvaged.end)
        .collect();
    assert_eq!(kept.len(), good.len(), "{found}");
    assert!(kept == good, "{found}");
}

fn repairing(media: &SimMedia) -> LogOptions {
    LogOptions {
        on_damage: OnDamage::Repair,
        ..options(media, &Arc::new(ManualClock::default()), ID)
    }
}

/// Opens for repair, gets the lost frames again, and leaves a log that the strict open takes.
fn check_repair(row: &Row, built: &Built, lost: &[LsnRange]) {
    let found = row.found;
    let media = built.media.fork(3);
    let before = image(&media);
    let opened = Log::open(dir(), repairing(&media));
    if found.contains("newer format") || found.starts_with("LOG") {
        opened.map(|(_, r)| r).unwrap_err();
        assert!(image(&media) == before, "{found}: the disk was changed");
        return;
    }
    let (log, recovered) = opened.unwrap_or_else(|e| panic!("{found}: {e}"));
    let end = built.frames.last().unwrap().end();
    assert_eq!(recovered.end, end, "{found}");
    let at_open = matches!(row.strict, Strict::Refuses(_));
    assert_eq!(at_open, !recovered.damaged.is_empty(), "{found}");
    if row.strict == Strict::Later {
        assert_eq!(log.intact(), log.synced());
        read(&log, end).unwrap_err();
    }
    assert_eq!(log.damaged(), lost, "{found}: {:?}", recovered.damaged);
    // Nobody is told that the range is here.
    let intact = lost.first().map_or(log.synced(), |l| l.from);
    assert_eq!(log.intact(), intact, "{found}");
    let more = log.append(&[b"more"]).unwrap().end;
    log.sync_up_to(more).unwrap();
    while log.step() {}
    assert_eq!(
        log.intact(),
        intact.max(if lost.is_empty() { more } else { intact })
    );
    if found.starts_with("damage ") && !found.ends_with("missing") {
        // In place: no file is made for it.
        let files = survey(&media).files().unwrap();
        let own = |base| built.segments.iter().any(|s| s.base == base);
        for range in lost {
            let made = files.iter().any(|f| f.base == Some(range.from));
            assert!(!made || own(range.from), "{found}: {files:?}");
        }
    }
    for range in lost {
        repair_range(found, built, &log, *range);
    }
    assert!(log.damaged().is_empty() && log.repair_from().is_none());
    assert_eq!(log.intact(), log.synced(), "{found}");
    assert!(read(&log, end).unwrap() == built.frames, "{found}");
    while log.step() {}
    log.close().unwrap();
    drop(log);
    check_kept(found, &before, &image(&media));
    if found.starts_with("oldest") {
        // What came before it is gone, and with it the chain hash: it stays a log for repair.
        Log::open(dir(), repairing(&media)).unwrap();
        return;
    }
    // A mark that is damaged stays so: other marks stand, and its frame is whole.
    let verified = verify(dir(), &verify_options(&media)).unwrap();
    let harmless = |d: &Damage| d.kind == DamageKind::Mark && d.lost.is_none();
    assert!(
        verified.damage.iter().all(harmless),
        "{found}: {:?}",
        verified.damage
    );
    let clock = Arc::new(ManualClock::default());
    let (log, _) = Log::open(dir(), options(&media, &clock, ID)).unwrap();
    assert!(read(&log, end).unwrap() == built.frames, "{found}");
}

/// Opens for repair, and gives up what is lost: void frames stand there, all else is as it was, and the strict open takes it.
fn check_give_up(row: &Row, built: &Built, lost: &[LsnRange]) {
    let found = row.found;
    let media = built.media.fork(4);
    let Ok((log, _)) = Log::open(dir(), repairing(&media)) else {
        return;
    };
    let end = built.frames.last().unwrap().end();
    if row.strict == Strict::Later {
        read(&log, end).unwrap_err();
    }
    assert_eq!(log.damaged(), lost, "{found}");
    log.give_up_damaged()
        .unwrap_or_else(|e| panic!("{found}: {e}"));
    assert!(log.damaged().is_empty() && log.repair_from().is_none());
    while log.step() {}
    // What was given up is on the disk.
    media.power_cut(9);
    drop(log);
    let options = match found.starts_with("oldest") {
        true => repairing(&media),
        false => options(&media, &Arc::new(ManualClock::default()), ID),
    };
    let (log, _) = Log::open(dir(), options).unwrap_or_else(|e| panic!("{found}: {e}"));
    let is_lost = |lsn: Lsn| lost.iter().any(|range| range.contains(lsn));
    let now = read(&log, end).unwrap_or_else(|e| panic!("{found}: {e}"));
    for frame in &now {
        if is_lost(frame.lsn) && frame.kind == Kind::Void {
            assert!(frame.payload.iter().all(|b| *b == 0), "{found}");
        } else {
            assert!(built.frames.contains(frame), "{found}: {}", frame.lsn);
        }
    }
    let kept = built.frames.iter().filter(|f| !is_lost(f.lsn));
    assert!(kept.clone().all(|f| now.contains(f)), "{found}");
}

/// Writes the frames of a range again; what does not belong there is refused.
fn repair_range(found: &str, built: &Built, log: &Log, range: LsnRange) {
    for frame in built.frames.iter().filter(|f| range.contains(f.lsn)) {
        let seed = Seed::new(ID, frame.epoch);
        let header = Header {
            payload_len: frame.payload.len() as u32,
            crc: checksum(seed, frame.lsn, frame.kind, &[&frame.payload]),
            lsn: frame.lsn,
            kind: frame.kind,
        };
        let mut wrong = [header; 3];
        wrong[0].crc ^= 1;
        wrong[1].lsn = header.lsn.advance(8);
        wrong[2].payload_len += 8;
        for header in wrong {
            let payload = &frame.payload;
            let error = log.repair(WireFrame { header, payload }).unwrap_err();
            assert!(
                matches!(error, LogError::NotNext { .. }),
                "{found}: {error}"
            );
        }
        let payload = &frame.payload;
        let done = log
            .repair(WireFrame { header, payload })
            .unwrap_or_else(|e| panic!("{found}: {e}"));
        assert_eq!(done, header.end() == range.to, "{found}");
    }
}

/// No byte of a file is gone: it is there under its name, or put aside as it was.
fn check_kept(
    found: &str,
    before: &BTreeMap<PathBuf, Vec<u8>>,
    after: &BTreeMap<PathBuf, Vec<u8>>,
) {
    for (path, bytes) in before {
        let name = path.file_name().unwrap().to_str().unwrap();
        let aside = after.get(&path.with_file_name(format!("{name}.damaged")));
        let active = name.ends_with(".seg") && bytes.len() > 68 && bytes[64..68] == *b"ACTV";
        if let Some(aside) = aside {
            assert!(aside == bytes, "{found}: {name} was changed");
        } else if active && found != "frames cut by a rewind" {
            assert!(after.contains_key(path), "{found}: {name} is gone");
        }
    }
}

#[test]
fn every_row_of_the_decision_table_is_as_it_says() {
    let mut seen = BTreeSet::new();
    for row in rows() {
        assert!(seen.insert(row.found), "{} stands twice", row.found);
        let mut built = build(row.left);
        let lost = (row.harm)(&mut built);
        check_strict(&row, &built, &lost);
        check_salvage(&row, &built, &lost);
        check_repair(&row, &built, &lost);
        check_give_up(&row, &built, &lost);
    }
}

#[test]
fn an_empty_directory_is_no_log_and_becomes_one_when_asked() {
    let media = SimMedia::new(1);
    media.create_dir_all(dir()).unwrap();
    let clock = Arc::new(ManualClock::default());
    let none = LogOptions {
        create: None,
        ..options(&media, &clock, ID)
    };
    let error = Log::open(dir(), none).unwrap_err();
    assert!(matches!(error, OpenError::NotFound { .. }), "{error}");
    let error = verify(dir(), &verify_options(&media)).unwrap_err();
    assert!(matches!(error, OpenError::NotFound { .. }), "{error}");
    assert!(image(&media).is_empty());
    let create = Create {
        log: ID,
        node: NodeId(2),
        base: Lsn::ZERO,
    };
    let some = LogOptions {
        create: Some(create),
        role: OpenRole::Writer,
        ..options(&media, &clock, ID)
    };
    assert!(Log::open(dir(), some).unwrap().1.created);
}

/// Whole directories of an earlier build, and one small file of it: whoever opens one says so and leaves it as it is. E3.
#[test]
fn a_log_of_an_older_format_is_refused_by_name_whoever_opens_it() {
    // The small files' checksum goes over all of them.
    let older_file = |bytes: &[u8]| {
        let mut out = bytes.to_vec();
        out[8..12].copy_from_slice(&1_u32.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&out[..12]);
        crc.update(&out[16..]);
        out[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
        out
    };
    for which in ["all", "LOG", "EPOCHS", "SLOTS"] {
        let built = build(Left::Idle);
        for (path, bytes) in image(&built.media) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let bytes = match name.ends_with(".seg") {
                true => older(&bytes),
                false => older_file(&bytes),
            };
            if (which == "all" && !name.ends_with(".spare")) || which == name {
                built.media.put(&path, &bytes).unwrap();
            }
        }
        let media = built.media;
        let before = image(&media);
        let strict = Log::open(
            dir(),
            options(&media, &Arc::new(ManualClock::default()), ID),
        );
        let repair = Log::open(dir(), repairing(&media));
        let errors = [
            strict.map(|_| ()).unwrap_err(),
            repair.map(|_| ()).unwrap_err(),
            verify(dir(), &verify_options(&media))
                .map(|_| ())
                .unwrap_err(),
            salvage_to(dir(), Path::new("salvaged"), &verify_options(&media))
                .map(|_| ())
                .unwrap_err(),
        ];
        for error in errors {
            assert!(
                matches!(&error, OpenError::OlderFormat { found: 1, .. }),
                "{which}: {error}"
            );
            assert!(error.to_string().contains("format 1"), "{error}");
        }
        assert!(image(&media) == before, "{which}: the disk was changed");
    }
}
