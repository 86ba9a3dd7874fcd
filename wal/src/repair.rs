//! Damaged ranges of an open log: listed, unreadable, and written again with the frames that were there.
//!
//! - RP1: a range is damaged once a repairing open, a reader or a verification has met it, and until every frame in it
//!   is written again and synced, or the log has been released beyond it. While there is one, [`Log::intact`] stands at the
//!   first: nobody may be told that this node holds what lies behind.
//! - RP2: a frame is taken only where a damaged range begins, if LSN, epoch and checksum are those of that place, and if it
//!   ends within the range. So what is written is, byte for byte, what every other node holds there (R1), and a range
//!   closes only at the frame boundary at which it ends.
//! - RP3: only bytes in damaged ranges are written. A file that could not be taken for a segment is renamed to `NAME.damaged`,
//!   a header that was made up for is copied to `NAME.header.damaged` before it is written again; where a file is missing, an empty
//!   `NAME.damaged` stands before another is made in its place. Nobody removes those.
//! - RP4: a repair that is cut short leaves the range damaged, or less of it: the next open tells.
//! - RP5: what is given up is written over by void frames (and the control frame, where an epoch begins), with the same checks.
//!
//! Chain hashes of what lies behind a damaged range are not known before it is repaired: footers are written then, and the
//! log is not released beyond it before.

use crate::append::control_payload;
use crate::cursor::{Cursor, Step};
use crate::damage::{LsnRange, io_error};
use crate::error::{LogError, OpenError};
use crate::frame::{HEADER_LEN, Header, Kind, MARK_LEN, checksum};
use crate::ids::{EpochStart, Lsn, SegmentId};
use crate::log::{Log, WireFrame};
use crate::media::Media;
use crate::meta::{self, Meta};
use crate::prepare::{self, AT_ONCE};
use crate::segment::{
    Activation, FOOTER_LEN, FRAMES_AT, Identity, SUFFIX, Segment, SegmentHeader, capacity,
    file_name,
};
use crate::shared::Shared;
use crate::survey::Found;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// No void frame that stands for what is given up is longer.
const VOID_BYTES_MAX: u64 = 1 << 20;
/// What is put aside is named so.
const ASIDE: &str = ".damaged";

/// A range that is damaged, and how far it is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged {
    range: LsnRange,
    next: Lsn,
}

impl Damaged {
    pub(crate) fn new(range: LsnRange) -> Damaged {
        Damaged {
            range,
            next: range.from,
        }
    }
}

impl Log {
    /// Ranges known to be damaged, in order: reading them is [`LogError::Corrupt`].
    #[must_use]
    pub fn damaged(&self) -> Vec<LsnRange> {
        let shared = self.shared();
        let oldest = self.oldest();
        let mut damaged = shared.damaged.lock();
        damaged.retain(|d| d.range.to > oldest);
        damaged.iter().map(|d| d.range).collect()
    }

    /// Segments whose files were missing, or could not be taken for such and were put aside (RP3), by this open or one before it, in order: what was
    /// in them may be missing without a range that says so. They are known by the files `NAME.damaged`; who is sure of one removes it.
    pub fn put_aside(&self) -> Result<Vec<SegmentId>, LogError> {
        let shared = self.shared();
        let entries = (shared.options.media.list(&shared.dir))
            .map_err(Shared::io_error("listing", &shared.dir))?;
        let aside = |name: &str| {
            let (id, _) = name.split_once(&format!("{SUFFIX}{ASIDE}"))?;
            u64::from_str_radix(id, 16).ok().map(SegmentId)
        };
        let mut ids: Vec<SegmentId> = entries.iter().filter_map(|e| aside(&e.name)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The segment that holds `lsn`, if any does.
    #[must_use]
    pub fn segment_at(&self, lsn: Lsn) -> Option<SegmentId> {
        self.shared()
            .segment_of(lsn)
            .map(|segment| segment.identity.id)
    }

    /// Everything below is on stable storage and not known to be damaged: what this node may say that it holds. It is
    /// `synced` while nothing is damaged.
    #[must_use]
    pub fn intact(&self) -> Lsn {
        let first = self.damaged().first().map(|range| range.from);
        first.map_or(self.synced(), |first| first.min(self.synced()))
    }

    /// The frame that a damaged range needs next, if any is left: where to ask other nodes for.
    #[must_use]
    pub fn repair_from(&self) -> Option<LsnRange> {
        let _ = self.damaged();
        let damaged = self.shared().damaged.lock();
        damaged.first().map(|d| LsnRange {
            from: d.next,
            to: d.range.to,
        })
    }

    /// Gives up what is damaged: void frames are written over all that is left of the damaged ranges, synced, and none is damaged any
    /// more. For a log whose frames no other node holds, once its user has what was in them from elsewhere, durably, or needs it no more.
    pub fn give_up_damaged(&self) -> Result<(), LogError> {
        while let Some(left) = self.repair_from() {
            let shared = self.shared();
            let segment = shared
                .segment_of(left.from)
                .filter(|s| left.from < s.end().min(s.capacity_end()))
                .ok_or(LogError::NotNext {
                    lsn: left.from,
                    expected: left.from,
                    why: "no segment of this log has room for it",
                })?;
            let end = left.to.min(segment.end()).min(segment.capacity_end());
            let epoch = segment.active.epoch;
            let control = control_payload(epoch);
            let payload = if epoch.begin == left.from {
                control.to_vec()
            } else {
                let all = end.since(left.from);
                let mut len = all.min(VOID_BYTES_MAX);
                if all > len && all - len < HEADER_LEN as u64 {
                    len -= HEADER_LEN as u64;
                }
                vec![0; len as usize - HEADER_LEN]
            };
            let kind = if epoch.begin == left.from {
                Kind::Control
            } else {
                Kind::Void
            };
            let header = Header {
                payload_len: payload.len() as u32,
                crc: checksum(segment.seed, left.from, kind, &[&payload]),
                lsn: left.from,
                kind,
            };
            tracing::warn!(dir = %shared.dir.display(), range = %left, "damaged frames are given up");
            self.repair(WireFrame {
                header,
                payload: &payload,
            })?;
        }
        Ok(())
    }

    /// Writes a frame of a damaged range again, in place, after checking that it is the one that belongs there. Frames of a range come
    /// in order. True when with it the range is whole, and synced.
    pub fn repair(&self, frame: WireFrame<'_>) -> Result<bool, LogError> {
        let _ = self.damaged();
        self.shared().repair(frame)
    }
}

impl Shared {
    /// Whether chain hashes may be unknown for the time being.
    pub(crate) fn is_damaged(&self) -> bool {
        !self.damaged.lock().is_empty()
    }

    /// Notes that the frame at `at` does not verify, with what follows up to the next that does.
    pub(crate) fn note_damage(&self, segment: &Segment, at: Lsn) {
        let limit = segment.end().min(self.synced());
        let mut cursor = Cursor::new(segment);
        let mut to = at.advance(8);
        while to.0 + HEADER_LEN as u64 <= limit.0 {
            match cursor.read(to, limit) {
                Ok(Step::Broken(_)) => to = to.advance(8),
                Ok(Step::Frame { .. }) | Err(_) => break,
            }
        }
        if to.0 + HEADER_LEN as u64 > limit.0 {
            to = limit;
        }
        if at < to {
            self.add_damaged(LsnRange { from: at, to });
        }
    }

    /// Notes a damaged range, unless it is known.
    pub(crate) fn add_damaged(&self, range: LsnRange) {
        let mut damaged = self.damaged.lock();
        if damaged
            .iter()
            .all(|d| d.range.to <= range.from || range.to <= d.range.from)
        {
            tracing::error!(dir = %self.dir.display(), %range, "log damaged");
            damaged.push(Damaged::new(range));
            damaged.sort_by_key(|d| d.range);
        }
    }

    fn repair(&self, frame: WireFrame<'_>) -> Result<bool, LogError> {
        let WireFrame { header, payload } = frame;
        let refused = |expected, why| LogError::NotNext {
            lsn: header.lsn,
            expected,
            why,
        };
        if let Some(poison) = self.poison.get() {
            return Err(LogError::Poisoned(poison.clone()));
        }
        let mut damaged = self.damaged.lock();
        let first = damaged.first().map_or(Lsn::MAX, |d| d.next);
        let Some(at) = damaged.iter().position(|d| d.next == header.lsn) else {
            return Err(refused(first, "no damaged range begins there"));
        };
        let range = damaged[at].range;
        if header.payload_len as usize != payload.len() || header.end() > range.to {
            return Err(refused(first, "it reaches beyond the damaged range"));
        }
        let segment = self
            .segment_of(header.lsn)
            .filter(|s| header.end() <= s.end().min(s.capacity_end()))
            .ok_or_else(|| refused(first, "no segment of this log has room for it"))?;
        let sum = checksum(segment.seed, header.lsn, header.kind, &[payload]);
        if sum != header.crc {
            return Err(refused(
                first,
                "its checksum is wrong for this log, epoch and place",
            ));
        }
        let begins = segment.active.epoch.begin == header.lsn;
        if (header.kind == Kind::Control) != begins {
            return Err(refused(first, "an epoch begins with its control frame"));
        }
        segment
            .file
            .write_all_at(&whole(header, payload), segment.offset(header.lsn))
            .map_err(Shared::io_error("repairing", &segment.path))?;
        damaged[at].next = header.end();
        let done = header.end() == range.to;
        if done || header.end() == segment.end() {
            segment
                .file
                .sync()
                .map_err(|e| LogError::Poisoned(self.poison("syncing", &segment.path, e)))?;
        }
        if done {
            damaged.remove(at);
        }
        drop(damaged);
        if done {
            // Footers that could not be folded can be now.
            for segment in self.table.read().iter() {
                if segment.is_closed() && segment.footer.get().is_none() {
                    segment.footer_written.store(false, Ordering::Release);
                    self.closing.store(true, Ordering::Release);
                }
            }
            self.prepare_bell.ring();
        }
        Ok(done)
    }
}

/// The bytes of a frame without a mark.
fn whole(header: Header, payload: &[u8]) -> Vec<u8> {
    let mut head = [0; HEADER_LEN];
    header.encode(&[0; MARK_LEN], &mut head);
    let mut out = Vec::with_capacity(header.frame_len());
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    out.resize(header.frame_len(), 0);
    out
}

/// Renames `path` so that it is no part of the log any more, and nobody removes it (RP3).
pub(crate) fn put_aside(media: &dyn Media, path: &Path) -> Result<(), OpenError> {
    let to = free_name(media, path, "")?;
    tracing::warn!(path = %path.display(), to = %to.display(), "put aside");
    media.rename(path, &to).map_err(io_error("renaming", path))
}

/// Says durably that the file which is to be made at `path` stands for one that was missing (RP3): once it is there nothing else does.
fn note_missing(media: &dyn Media, path: &Path) -> Result<(), OpenError> {
    let note = free_name(media, path, "")?;
    let dir = path.parent().unwrap_or(Path::new(""));
    media
        .create(&note, 0)
        .and_then(|file| file.sync())
        .and_then(|()| meta::sync_dir(media, dir))
        .map_err(io_error("creating", &note))
}

fn free_name(media: &dyn Media, path: &Path, part: &str) -> Result<PathBuf, OpenError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut n = 0;
    loop {
        let number = if n == 0 {
            String::new()
        } else {
            format!("-{n}")
        };
        let to = path.with_file_name(format!("{name}{part}{ASIDE}{number}"));
        if !media.exists(&to).map_err(io_error("looking for", &to))? {
            return Ok(to);
        }
        n += 1;
    }
}

/// Writes the header that was made up for, after keeping the old one aside.
pub(crate) fn write_header(media: &dyn Media, found: &Found) -> Result<(), OpenError> {
    let path = &found.path;
    let file = media.open_rw(path).map_err(io_error("opening", path))?;
    let mut head = [0; FRAMES_AT as usize];
    // What can't be read is not there to be kept.
    if file.read_exact_at(&mut head, 0).is_ok() {
        let aside = free_name(media, path, ".header")?;
        let kept = media
            .create(&aside, FRAMES_AT)
            .map_err(io_error("creating", &aside))?;
        kept.write_all_at(&head, 0)
            .and_then(|()| kept.sync())
            .map_err(io_error("writing", &aside))?;
    }
    file.write_all_at(&found.header.encode(), 0)
        .and_then(|()| file.sync())
        .map_err(io_error("writing the header of", path))
}

/// Makes files for the LSNs of `missing`, which no file holds, one per epoch; fewer where no segment ids are left
/// between its neighbours, or the epoch is not known. They hold no frame until they are repaired.
pub(crate) fn fill_gap(
    media: &dyn Media,
    dir: &Path,
    meta: &Meta,
    missing: LsnRange,
    epochs: &[EpochStart],
    ids: &mut dyn Iterator<Item = SegmentId>,
) -> Result<Vec<Found>, OpenError> {
    let mut made = Vec::new();
    let mut at = missing.from;
    while at < missing.to {
        let next = epochs.iter().map(|e| e.begin).find(|begin| *begin > at);
        let to = next.unwrap_or(Lsn::MAX).min(missing.to);
        let Some(epoch) = epochs.iter().rev().find(|e| e.begin <= at).copied() else {
            break;
        };
        let mut id = None;
        for candidate in &mut *ids {
            let path = dir.join(file_name(candidate));
            if !(media.exists(&path)).map_err(io_error("looking for", &path))? {
                id = Some(candidate);
                break;
            }
        }
        let Some(id) = id else {
            break;
        };
        let bytes = (FRAMES_AT + to.since(at) + FOOTER_LEN)
            .next_multiple_of(4096)
            .max(16 << 10);
        let identity = Identity {
            log: meta.log,
            node: meta.node,
            id,
            bytes,
        };
        let active = Activation { base: at, epoch };
        let header = SegmentHeader {
            identity,
            active: Some(active),
            chain: None,
        };
        note_missing(media, &dir.join(file_name(id)))?;
        let prepared = prepare::create(media, dir, identity, AT_ONCE)
            .map_err(io_error("making a segment for what is missing in", dir))?;
        prepared
            .file
            .write_all_at(&header.encode(), 0)
            .and_then(|()| prepared.file.sync())
            .map_err(io_error("writing the header of", &prepared.path))?;
        made.push(Found {
            header,
            active,
            path: prepared.path,
            file: prepared.file,
            marks: Vec::new(),
            footer: None,
            closed_millis: 0,
            limit: at.advance(capacity(bytes)).min(to),
            rebuilt: false,
        });
        at = to;
    }
    Ok(made)
}

/// Reads a small file; a damaged one is put aside, and is as good as missing.
pub(crate) fn load_or_put_aside<T>(
    media: &dyn Media,
    dir: &Path,
    name: &'static str,
    loaded: Result<T, OpenError>,
    damage: &mut Vec<crate::damage::Damage>,
    none: T,
) -> Result<T, OpenError> {
    let error = match loaded {
        Err(error @ OpenError::Corrupt { .. }) => error,
        other => return other,
    };
    let path = dir.join(name);
    let what = error.to_string();
    damage.push(crate::damage::Damage::new(
        crate::damage::DamageKind::SmallFile,
        &path,
        what,
    ));
    put_aside(media, &path)?;
    meta::sync_dir(media, dir).map_err(io_error("syncing", dir))?;
    Ok(none)
}
