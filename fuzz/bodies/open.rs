//! Opening a log whose files were changed.
//!
//! The bytes are a list of changes to a log of several segments that was killed with an unsynced tail. Checksums can be made
//! right again, so that what lies behind them is reached.

#[path = "edits.rs"]
mod edits;

use edits::{Source, edit};
use esker_wal::frame::{self, HEADER_LEN, Header, Kind, MARK_LEN, Mark, Seed};
use esker_wal::media::sim::SimMedia;
use esker_wal::{
    Create, Epoch, Log, LogId, LogOptions, Lsn, NodeId, OpenError, ReadLimit, SyncPolicy, Workers,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const DIR: &str = "log";
const LOG: LogId = LogId(0x1111_2222_3333);
const NODE: NodeId = NodeId(0x4444_5555);

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn options(media: &SimMedia) -> LogOptions {
    LogOptions {
        segment_bytes: 16 << 10,
        segments_ahead: 1,
        payload_bytes_max: 2 << 10,
        sync_policy: SyncPolicy::Manual,
        workers: Workers::Stepped,
        media: Arc::new(media.clone()),
        ..LogOptions::default()
    }
}

/// The log before the changes: a clean close and a second life, four segments, a tail that was not synced.
fn base() -> &'static Files {
    static BASE: OnceLock<Files> = OnceLock::new();
    BASE.get_or_init(|| {
        let media = SimMedia::new(1);
        let create = Create {
            log: LOG,
            node: NODE,
            base: Lsn::ZERO,
        };
        for life in 0..2_u8 {
            let options = LogOptions {
                create: Some(create.clone()),
                ..options(&media)
            };
            let (log, _) = Log::open(Path::new(DIR), options).expect("a new log opens");
            for n in 0..24_u8 {
                let payload = vec![n ^ life; usize::from(n) * 41 % 1500];
                let end = log.append(&[&payload]).expect("an append").end;
                if n % 5 == 0 {
                    log.sync_up_to(end).expect("a sync");
                }
                while log.step() {}
            }
            if life == 0 {
                log.set_slot("reader", Lsn::ZERO).expect("a slot");
                log.close().expect("closed");
            } else {
                media.kill();
            }
        }
        media.image()
    })
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |eight| {
        u64::from_le_bytes(eight.try_into().expect("eight bytes"))
    })
}

fn crc(parts: &[&[u8]]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().to_le_bytes()
}

/// Makes the checksum of the sector at `at` right again (docs/formats.md): header, mark and footer have theirs at 12.
fn reseal_sector(file: &mut [u8], at: usize) {
    let Some(sector) = file.get_mut(at..at + 512) else {
        return;
    };
    let line = crc(&[&sector[..12], &sector[16..64]]);
    sector[12..16].copy_from_slice(&line);
    let id = u64_at(sector, 48).to_le_bytes();
    if at == 0 && u64_at(sector, 64) != 0 {
        let bound = crc(&[&sector[72..104], &id]);
        sector[68..72].copy_from_slice(&bound);
    }
    if at == 0 && u64_at(sector, 128) != 0 {
        let bound = crc(&[&sector[136..152], &id]);
        sector[132..136].copy_from_slice(&bound);
    }
}

/// Puts a frame with a right checksum, and perhaps a right mark, at `at` of a segment.
fn forge(file: &mut [u8], source: &mut Source<'_>) {
    if file.len() < 8192 {
        return;
    }
    let at = 4096 + source.u16() * 8 % (file.len() - 4096 - 512) / 8 * 8;
    let (base, number, id) = (u64_at(file, 72), u64_at(file, 80), u64_at(file, 88));
    let epoch = Epoch { number, id };
    let lsn = match source.byte() {
        0 => source.u64(),
        n => base
            .wrapping_add((at - 4096) as u64)
            .wrapping_add(u64::from(n >> 4) * 8),
    };
    let kind = [Kind::Data, Kind::Control, Kind::Void][usize::from(source.byte() % 3)];
    let len = source.u16() % 2048;
    let payload = vec![source.byte(); len];
    let header = Header {
        payload_len: if source.byte() == 7 {
            1 << 28
        } else {
            len as u32
        },
        crc: frame::checksum(Seed::new(LOG, epoch), Lsn(lsn), kind, &[&payload]),
        lsn: Lsn(lsn),
        kind,
    };
    let mark = match source.byte() % 3 {
        0 => [0; MARK_LEN],
        1 => Mark { synced: Lsn(lsn) }.encode(NODE, epoch, Lsn(lsn)),
        _ => Mark {
            synced: Lsn(source.u64() & !7),
        }
        .encode(NODE, epoch, Lsn(lsn)),
    };
    let mut head = [0; HEADER_LEN];
    header.encode(&mark, &mut head);
    let room = file.len() - at;
    let bytes = [&head[..], &payload].concat();
    let fits = bytes.len().min(room);
    file[at..at + fits].copy_from_slice(&bytes[..fits]);
}

fn change(files: &mut Files, source: &mut Source<'_>) {
    let what = source.byte();
    let nth = usize::from(source.byte()) % files.len().max(1);
    let Some(path) = files.keys().nth(nth).cloned() else {
        return;
    };
    let file = files.get_mut(&path).expect("listed above");
    match what % 16 {
        0..=6 => edit(file, source),
        7..=9 => forge(file, source),
        10 | 11 => {
            let places = [0, 512, 1024, file.len().saturating_sub(512)];
            reseal_sector(file, places[usize::from(source.byte() % 4)]);
        }
        12 => {
            // LOG, EPOCHS and SLOTS: one checksum over all.
            if file.len() >= 16 {
                let whole = crc(&[&file[..12], &file[16..]]);
                file[12..16].copy_from_slice(&whole);
            }
        }
        13 => {
            files.remove(&path);
        }
        14 => {
            let copy = file.clone();
            let id = source.byte();
            files.insert(Path::new(DIR).join(format!("{id:016x}.seg")), copy);
        }
        _ => {
            let other = usize::from(source.byte()) % files.len();
            let other = files.keys().nth(other).cloned().expect("counted");
            let bytes = files[&other].clone();
            files.insert(path, bytes);
        }
    }
}

/// Frames from the oldest on, as (LSN, checksum); whether the end was reached without damage.
fn read(log: &Log) -> (Vec<(Lsn, u32)>, bool) {
    let Ok(mut reader) = log.reader(log.oldest(), ReadLimit::Published) else {
        return (Vec::new(), false);
    };
    let mut found: Vec<(Lsn, u32)> = Vec::new();
    let mut next = log.oldest();
    loop {
        match reader.next() {
            Ok(Some(frame)) => {
                assert_eq!(frame.header.lsn, next, "a gap");
                assert_eq!(frame.payload.len(), frame.header.payload_len as usize);
                next = frame.header.end();
                found.push((frame.header.lsn, frame.header.crc));
            }
            Ok(None) => {
                assert_eq!(next, log.published(), "the reader ended early");
                return (found, true);
            }
            Err(_) => return (found, false),
        }
    }
}

fn segments(mut files: Files) -> Files {
    files.retain(|path, _| path.extension().is_some_and(|extension| extension == "seg"));
    files
}

/// See fuzz/README.md.
pub(crate) fn check(data: &[u8]) {
    let mut source = Source(data);
    let mut files = base().clone();
    let mut changes = 0;
    while !source.is_empty() && changes < 32 {
        change(&mut files, &mut source);
        changes += 1;
    }
    let media = SimMedia::new(2);
    for (path, bytes) in &files {
        media.put(path, bytes).expect("put");
    }
    let opened = Log::open(Path::new(DIR), options(&media));
    let log = match opened {
        Ok((log, _)) => log,
        Err(OpenError::Corrupt { .. }) => {
            assert!(
                segments(media.image()) == segments(files),
                "a refused open changed a segment"
            );
            return;
        }
        Err(_) => return,
    };
    let (mut frames, whole) = read(&log);
    let appended = log.append(&[b"one more"]);
    if let Ok(appended) = &appended {
        log.sync_up_to(appended.end)
            .expect("a medium without faults syncs");
    }
    let closed = log.close();
    if !whole || appended.is_err() || closed.is_err() {
        return;
    }
    let (log, recovered) = Log::open(Path::new(DIR), options(&media))
        .unwrap_or_else(|error| panic!("it was read whole and closed, and does not open: {error}"));
    assert!(recovered.clean, "closed, and not clean");
    let (again, whole) = read(&log);
    assert!(whole, "damage where there was none");
    let appended = appended.expect("asked above");
    let last = again.iter().rposition(|(lsn, _)| *lsn == appended.lsn);
    assert_eq!(last, Some(again.len() - 1), "the append is not the last");
    frames.push(again[again.len() - 1]);
    // An open for writing may have begun an epoch in between.
    let from = again.len() - frames.len().min(again.len());
    assert_eq!(again[from..], frames[frames.len() - (again.len() - from)..]);
    log.close().expect("closed");
}

/// Where a corpus begins.
#[allow(dead_code, reason = "the fuzzer reads files")]
pub(crate) fn start() -> Vec<(String, Vec<u8>)> {
    let files: Vec<PathBuf> = base().keys().cloned().collect();
    let mut all = vec![("untouched".to_owned(), Vec::new())];
    for (nth, path) in files.iter().enumerate() {
        let name = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        let nth = nth as u8;
        let mut add =
            |what: &str, bytes: &[u8]| all.push((format!("{name}-{what}"), bytes.to_vec()));
        add("lost", &[13, nth]);
        add("bit-in-its-header", &[0, nth, 0, 20, 0, 1]);
        add("cut-short", &[0, nth, 6, 100, 0]);
        if name.ends_with(".seg") {
            add("bit-in-a-frame", &[0, nth, 0, 0, 20, 4]);
            add("zeroed-block", &[0, nth, 3, 9, 0, 0]);
            add("block-of-elsewhere", &[0, nth, 5, 0, 2, 0, 3, 64]);
            add(
                "mark-gone-and-footer-resealed",
                &[0, nth, 3, 1, 0, 0, 10, nth, 3],
            );
            add(
                "base-changed-and-resealed",
                &[0, nth, 2, 9, 0, 60, 8, 0, 0, 0, 0, 0, 0, 0, 10, nth, 0],
            );
            add("forged-frame", &[7, nth, 64, 0, 16, 0, 100, 0, 9, 0, 1]);
            add("doubled", &[14, nth, 9]);
        } else {
            add("changed-and-resealed", &[0, nth, 0, 17, 0, 3, 12, nth]);
        }
    }
    all
}
