//! The live log: what is not in a closed file yet, on `esker-wal` in the directory `live`.
//!
//! - LI1: a frame is an entry. The log's own checks find torn tails and bit rot; the chain finds what was done on purpose.
//! - LI2: entries that a closed file holds already are passed over: a crash came between its name and the release of the log.

use crate::chain::{Break, Walk};
use crate::entry::Entry;
use crate::error::{Error, io_error};
use crate::finding::{Finding, FindingKind};
use crate::key::Keyring;
use crate::policy::Options;
use crate::sabotage::{self, Sabotage};
use esker_wal::media::Media;
use esker_wal::{
    Create, Kind as FrameKind, Log, LogId, LogOptions, Lsn, NodeId, OpenError, Piece, ReadLimit,
    Survey, SyncPolicy,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of its directory.
pub(crate) const LIVE: &str = "live";
const SEGMENT_MAX: u64 = 8 << 20;

pub(crate) fn dir_of(dir: &Path) -> PathBuf {
    dir.join(LIVE)
}

/// Bytes of a segment, and how many are prepared for the reserve.
pub(crate) fn reserve(options: &Options) -> (u64, usize) {
    let segment = (options.rotate_bytes / 4).clamp(16 << 10, SEGMENT_MAX) & !4095;
    let reserved = options.reserve_bytes.div_ceil(segment).min(32) as usize;
    (segment, reserved)
}

/// Opens the log, or makes one.
pub(crate) fn open(dir: &Path, options: &Options) -> Result<Log, Error> {
    let live = dir_of(dir);
    let media = &options.media;
    (media.create_dir_all(&live)).map_err(io_error("creating", &live))?;
    let (segment_bytes, reserved) = reserve(options);
    let options = LogOptions {
        create: Some(Create {
            log: LogId::random(),
            node: NodeId::random(),
            base: Lsn::ZERO,
        }),
        segment_bytes,
        // The log keeps one of them for its own next open.
        segments_ahead: 2 + reserved,
        payload_bytes_max: crate::entry::ENTRY_MAX,
        sync_policy: SyncPolicy::Interval(options.interval),
        workers: options.workers,
        media: media.clone(),
        clock: options.clock.clone(),
        ..LogOptions::default()
    };
    Ok(Log::open(&live, options)?.0)
}

/// What a scan of the log found.
#[derive(Debug)]
pub(crate) struct Scanned {
    /// Behind the last entry that follows.
    pub(crate) walk: Walk,
    /// LSN of the first entry that no closed file holds.
    pub(crate) from: Lsn,
    /// Behind the last entry.
    pub(crate) end: Lsn,
    /// Time of the first entry counted.
    pub(crate) since: Option<u64>,
    /// An entry that does not follow, and its sequence where it has one.
    pub(crate) broken: Option<(Break, Option<u64>)>,
}

/// Walks the log, beginning behind what closed files hold.
pub(crate) fn scan(log: &Log, keys: &Keyring, mut walk: Walk) -> Result<Scanned, Error> {
    let begin = walk.next;
    let mut reader = log.reader(log.oldest(), ReadLimit::Published)?;
    let mut out = Scanned {
        walk,
        from: log.oldest(),
        end: log.oldest(),
        since: None,
        broken: None,
    };
    while let Some(frame) = reader.next_ref()? {
        let end = frame.header.end();
        if frame.header.kind != FrameKind::Data {
            out.end = end;
            continue;
        }
        let Some(entry) = Entry::decode(frame.payload) else {
            out.broken = Some((Break::Changed, None));
            break;
        };
        let held = entry.head.sequence < begin && !sabotage::on(Sabotage::HeldTwice);
        if held && out.since.is_none() {
            (out.from, out.end) = (end, end);
            continue;
        }
        if let Err(broken) = walk.step(keys, &entry) {
            out.broken = Some((broken, Some(entry.head.sequence)));
            break;
        }
        out.since.get_or_insert(entry.head.nanos);
        out.end = end;
    }
    out.walk = walk;
    Ok(out)
}

impl Scanned {
    /// What a break is, as a finding.
    pub(crate) fn finding(&self, dir: &Path) -> Option<Finding> {
        let (broken, at) = self.broken?;
        Some(Finding::of_break(broken, self.walk.next, at, &dir_of(dir)))
    }
}

/// What a look at the log found, which changed nothing.
#[derive(Debug)]
pub(crate) struct Looked {
    /// Behind the last entry that follows.
    pub(crate) walk: Walk,
    /// Why nothing follows from there on.
    pub(crate) finding: Option<Finding>,
    /// The highest sequence in it of an entry that follows the one before it, be that one broken off from the rest: who has no key can't make one up.
    pub(crate) last: u64,
    /// Some of it was let go, by who writes it meanwhile, before it was read.
    pub(crate) released: bool,
}

/// The live log as it is found, opened by nobody.
pub(crate) fn survey(dir: &Path, media: &Arc<dyn Media>) -> Result<Survey, OpenError> {
    Survey::of(&dir_of(dir), media.clone())
}

/// Walks the log without opening it, beginning behind what closed files hold; `each` gets the entries that follow.
pub(crate) fn look(
    dir: &Path,
    survey: Result<Survey, OpenError>,
    keys: &Keyring,
    from: Walk,
    mut each: impl FnMut(&Entry<'_>) -> Result<(), Error>,
) -> Result<Looked, Error> {
    let live = dir_of(dir);
    let mut out = Looked {
        walk: from,
        finding: None,
        last: 0,
        released: false,
    };
    let survey = match survey {
        Ok(survey) => survey,
        Err(OpenError::NotFound { .. }) => return Ok(out),
        Err(e) => {
            out.finding = Some(damaged(dir, &e.to_string(), from.next));
            return Ok(out);
        }
    };
    let mut pieces = survey.pieces(survey.oldest());
    // The highest sequence met, and the root of the entry before.
    let (mut met, mut before) = (0, None);
    while let Some(piece) = pieces.next()? {
        let next = out.walk.next;
        let frame = match piece {
            Piece::Frame(frame) if frame.header.kind == FrameKind::Data => frame,
            Piece::Lost(damage) => {
                let found = || damaged(dir, &damage.to_string(), next);
                out.finding.get_or_insert_with(found);
                before = None;
                continue;
            }
            Piece::Released(_) => {
                out.released = true;
                continue;
            }
            Piece::Frame(_) => continue,
        };
        let Some(entry) = Entry::decode(frame.payload) else {
            let found = || damaged(dir, "what stands there is no record", next);
            out.finding.get_or_insert_with(found);
            before = None;
            continue;
        };
        let sequence = entry.head.sequence;
        let held = sequence < from.next && met < from.next;
        met = met.max(sequence);
        let before = before.replace(entry.root);
        if held {
            continue;
        }
        if out.finding.is_some() {
            let key = keys.get(entry.head.key);
            if (key.zip(before)).is_some_and(|(key, before)| entry.follows(key, &before)) {
                out.last = out.last.max(sequence);
            }
            continue;
        }
        match out.walk.step(keys, &entry) {
            Ok(()) => {
                out.last = out.last.max(sequence);
                each(&entry)?;
            }
            Err(broken) => {
                out.finding = Some(Finding::of_break(broken, next, Some(sequence), &live));
            }
        }
    }
    Ok(out)
}

/// A closed file put aside, under a name that is free and is none of a closed file.
pub(crate) fn put_file_aside(media: &dyn Media, path: &Path) -> Result<(), Error> {
    for n in 1_u32.. {
        let aside = path.with_extension(format!("aside-{n}"));
        let there = media.exists(&aside);
        if there.map_err(io_error("looking for", &aside))? {
            continue;
        }
        (media.rename(path, &aside)).map_err(io_error("putting aside", path))?;
        let dir = path.parent().unwrap_or(path);
        return media.sync_dir(dir).map_err(io_error("syncing", dir));
    }
    Ok(())
}

/// The directory `live` put aside, under a name that is free.
pub(crate) fn put_aside(dir: &Path, options: &Options) -> Result<PathBuf, Error> {
    let (live, media) = (dir_of(dir), &options.media);
    let mut n = 1;
    let aside = loop {
        let aside = dir.join(format!("{LIVE}.aside-{n}"));
        if !media
            .exists(&aside)
            .map_err(io_error("looking for", &aside))?
        {
            break aside;
        }
        n += 1;
    };
    (media.create_dir_all(&aside)).map_err(io_error("creating", &aside))?;
    let entries = match media.list(&live) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(io_error("listing", &live))?,
    };
    for entry in entries.iter().filter(|e| !e.is_dir) {
        let from = live.join(&entry.name);
        (media.rename(&from, &aside.join(&entry.name)))
            .map_err(io_error("putting aside", &from))?;
    }
    // It may have been taken away as a whole.
    (media.create_dir_all(&live)).map_err(io_error("creating", &live))?;
    for dir in [&aside, &live] {
        (media.sync_dir(dir)).map_err(io_error("syncing", dir))?;
    }
    Ok(aside)
}

/// A finding about the live log that its own checks made.
pub(crate) fn damaged(dir: &Path, what: &str, next: u64) -> Finding {
    Finding {
        kind: FindingKind::Damaged,
        path: dir_of(dir),
        sequence: Some(next),
        what: what.to_owned(),
    }
}
