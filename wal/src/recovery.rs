//! Opening: what is there, what of it counts, and what has to be done before the first append.
//!
//! 1. Read the headers. Prepared files are spares. Of the active ones, a later made segment (higher id)
//!    with base B makes bytes and marks at or above B dead in earlier ones (W5).
//! 2. Find the synced point: the highest intact mark of the newest segment that has one, capped at the next
//!    segment's base; the end of the last control frame in `EPOCHS` counts as one.
//! 3. Walk: below the synced point a segment whose footer closes the gap to the next is taken at its word
//!    (readers verify each frame); everything else is verified frame by frame.
//! 4. Where the walk stops is the end. Below the synced point that is damage: nothing is changed.
//!
//! | end      | mark          | opened as       | then                                                        |
//! |----------|---------------|-----------------|-------------------------------------------------------------|
//! | = synced | clean, writer | writer          | mark taken back; goes on in the segment and epoch           |
//! | = synced | clean, follower | writer        | new epoch (same number, new id) in a new segment            |
//! | = synced | clean         | follower        | mark taken back; goes on in the segment                     |
//! | >= synced | not clean    | writer          | tail above the mark rewritten, synced; new epoch, new segment |
//! | >= synced | not clean    | follower        | tail above the mark rewritten, synced; same epoch, new segment |
//! | < synced | any           | any             | `OpenError::Corrupt`                                        |
//!
//! Without room for the new segment the log opens for reading; the preparer goes on from there once there is
//! some (W8).
//!
//! Every step may be cut short and done again: the new segment counts only once its header is there, and
//! from then on outranks what it replaces; dead files are removed after that.

use crate::append::{CONTROL_FRAME_LEN, control_payload, write_frame};
use crate::cursor::{Broken, Cursor, Step, highest_mark};
use crate::error::OpenError;
use crate::frame::{Kind, Mark, Seed, fold};
use crate::ids::{ChainHash, Epoch, EpochStart, Lsn, SegmentId};
use crate::log::Recovered;
use crate::media::MediaFile;
use crate::meta::{self, Meta};
use crate::options::{LogOptions, OpenRole};
use crate::prepare;
use crate::sabotage::{self, Sabotage};
use crate::segment::{
    Activation, BadHeader, Footer, Identity, MARK_AT, Prepared, SECTOR, SUFFIX, SectorMark,
    Segment, SegmentHeader, capacity,
};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What opening found and made.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) meta: Meta,
    /// By LSN; the last is the active one where there is one.
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) active: Option<Arc<Segment>>,
    pub(crate) end: Lsn,
    pub(crate) epochs: Vec<EpochStart>,
    /// The history could not be written for want of room.
    pub(crate) epochs_dirty: bool,
    /// There was no room for the segment to go on in: open for reading until there is.
    pub(crate) no_space: Option<io::Error>,
    pub(crate) spares: Vec<PathBuf>,
    pub(crate) next_id: u64,
    pub(crate) mark_sequence: u64,
    pub(crate) report: Recovered,
}

struct Found {
    header: SegmentHeader,
    active: Activation,
    path: PathBuf,
    file: Arc<dyn MediaFile>,
    marks: Vec<SectorMark>,
    footer: Option<Footer>,
    /// Bytes from here on are dead or do not exist.
    limit: Lsn,
}

/// A verified stretch: a segment and where it ends.
struct Kept {
    found: Found,
    chain: ChainHash,
    end: Lsn,
    footer: Footer,
    footer_written: bool,
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

struct Scan {
    live: Vec<Found>,
    spares: Vec<PathBuf>,
    dead: Vec<PathBuf>,
    /// Spares of another size than is configured now.
    wrong_size: Vec<PathBuf>,
    next_id: u64,
}

/// Reads all headers.
fn scan(dir: &Path, meta: &Meta, options: &LogOptions) -> Result<Scan, OpenError> {
    let media = &*options.media;
    let (mut live, mut spares, mut wrong_size, mut next_id) =
        (Vec::new(), Vec::new(), Vec::new(), 1);
    for entry in media.list(dir).map_err(io_error("listing", dir))? {
        let path = dir.join(&entry.name);
        let Some(stem) = entry.name.strip_suffix(SUFFIX) else {
            continue;
        };
        if let Ok(id) = u64::from_str_radix(stem, 16) {
            next_id = next_id.max(id + 1);
        }
        let damaged = |what: &str, stored, computed| OpenError::Corrupt {
            path: path.clone(),
            segment: SegmentId(u64::from_str_radix(stem, 16).unwrap_or(0)),
            at: Lsn::ZERO,
            synced: Lsn::ZERO,
            what: what.to_owned(),
            stored,
            computed,
        };
        let file = media.open_rw(&path).map_err(io_error("opening", &path))?;
        let mut head = [0; 3 * SECTOR];
        if entry.len < head.len() as u64 {
            return Err(damaged("the file was shortened", 0, 0));
        }
        file.read_exact_at(&mut head, 0)
            .map_err(io_error("reading", &path))?;
        let sector = head[..SECTOR].try_into().expect("a sector");
        let header = SegmentHeader::decode(sector).map_err(|bad| match bad {
            BadHeader::Damaged {
                what,
                stored,
                computed,
            } => damaged(what, stored, computed),
            BadHeader::Newer(found) => OpenError::NewerFormat {
                path: path.clone(),
                found,
                supported: crate::segment::FORMAT,
            },
        })?;
        let identity = header.identity;
        next_id = next_id.max(identity.id.0 + 1);
        if identity.log != meta.log {
            return Err(damaged("a segment of another log", 0, 0));
        }
        if entry.len < identity.bytes {
            return Err(damaged("the file was shortened", 0, 0));
        }
        let Some(active) = header.active else {
            if identity.bytes == options.segment_bytes {
                spares.push(path);
            } else {
                wrong_size.push(path);
            }
            continue;
        };
        let marks = MARK_AT
            .iter()
            .filter_map(|&at| {
                SectorMark::decode(&head[at as usize..][..SECTOR], identity.id, meta.node)
            })
            .collect();
        let mut sector = [0; SECTOR];
        file.read_exact_at(&mut sector, identity.bytes - SECTOR as u64)
            .map_err(io_error("reading", &path))?;
        live.push(Found {
            header,
            active,
            path,
            file,
            marks,
            footer: Footer::decode(&sector, identity.id, active.base),
            limit: active.base.advance(capacity(identity.bytes)),
        });
    }
    live.sort_by_key(|f| f.header.identity.id);
    spares.sort();
    // A segment made later outranks what earlier ones hold from its base on.
    let mut ceiling = Lsn::MAX;
    let (mut kept, mut dead) = (Vec::new(), Vec::new());
    for mut found in live.into_iter().rev() {
        let base = found.active.base;
        if base >= ceiling {
            dead.push(found.path);
            continue;
        }
        found.limit = found.limit.min(ceiling);
        ceiling = base;
        kept.push(found);
    }
    kept.reverse();
    Ok(Scan {
        live: kept,
        spares,
        dead,
        wrong_size,
        next_id,
    })
}

/// The synced point, from marks.
fn synced_point(live: &[Found], meta: &Meta, epochs: &[EpochStart]) -> Result<Lsn, OpenError> {
    let mut synced = live.first().map_or(meta.birth, |f| f.active.base);
    if let Some(last) = epochs.last() {
        synced = synced.max(last.begin.advance(CONTROL_FRAME_LEN as u64));
    }
    for (at, found) in live.iter().enumerate().rev() {
        let range = (found.active.base, found.limit);
        let epoch = found.active.epoch.epoch;
        let inside = highest_mark(&*found.file, found.active.base, epoch, meta.node, range)
            .map_err(io_error("reading", &found.path))?;
        let aside = found.marks.iter().map(|m| m.synced).max();
        if let Some(mark) = inside.max(aside) {
            let cap = if at + 1 < live.len() {
                found.limit
            } else {
                Lsn::MAX
            };
            return Ok(synced.max(mark.min(cap)));
        }
    }
    Ok(synced)
}

/// Folds and verifies the frames of one segment: end, chain, count, and why it ended.
fn walk(found: &Found, chain: ChainHash) -> io::Result<(Footer, Broken)> {
    let base = found.active.base;
    let epoch = found.active.epoch.epoch;
    let seed = Seed::new(found.header.identity.log, epoch);
    let mut cursor = Cursor::over(found.file.clone(), base, seed);
    let mut footer = Footer {
        base,
        end: base,
        chain,
        frames: 0,
        punched: false,
    };
    loop {
        match cursor.read(footer.end, found.limit)? {
            Step::Frame { header, .. } => {
                footer.end = header.end();
                footer.chain = fold(footer.chain, epoch, &header);
                footer.frames += 1;
            }
            Step::Broken(broken) => return Ok((footer, broken)),
        }
    }
}

struct Walked {
    kept: Vec<Kept>,
    end: Lsn,
    dead: Vec<PathBuf>,
}

fn walk_all(live: Vec<Found>, meta: &Meta, synced: Lsn) -> Result<Walked, OpenError> {
    let mut walked = Walked {
        kept: Vec::new(),
        end: meta.birth,
        dead: Vec::new(),
    };
    let corrupt = |found: &Found, at: Lsn, broken: Broken| OpenError::Corrupt {
        path: found.path.clone(),
        segment: found.header.identity.id,
        at,
        synced,
        what: broken.what.to_owned(),
        stored: broken.stored,
        computed: broken.computed,
    };
    let Some(first) = live.first() else {
        if synced > meta.birth {
            return Err(OpenError::Corrupt {
                path: PathBuf::from(SUFFIX),
                segment: SegmentId(0),
                at: meta.birth,
                synced,
                what: "all segments are missing".to_owned(),
                stored: 0,
                computed: 0,
            });
        }
        return Ok(walked);
    };
    let born = (first.active.base == meta.birth).then_some(meta.chain);
    let Some(mut chain) = first.header.chain.or(born) else {
        let what = Broken {
            what: "the segment before it is missing",
            stored: 0,
            computed: 0,
        };
        return Err(corrupt(first, first.active.base, what));
    };
    walked.end = first.active.base;
    let bases: Vec<Lsn> = live.iter().map(|f| f.active.base).collect();
    let mut stopped = false;
    for (at, found) in live.into_iter().enumerate() {
        if stopped {
            walked.dead.push(found.path);
            continue;
        }
        let next = bases.get(at + 1).copied();
        let known = found
            .footer
            .filter(|f| Some(f.end) == next && f.end <= synced && f.end <= found.limit);
        let (footer, broken) = match known {
            Some(footer) => (footer, None),
            None => {
                let (footer, broken) =
                    walk(&found, chain).map_err(io_error("reading", &found.path))?;
                (footer, Some(broken))
            }
        };
        if Some(footer.end) != next {
            stopped = true;
            if footer.end < synced {
                let broken =
                    broken.expect("walked, since a footer is believed only up to the next");
                return Err(corrupt(&found, footer.end, broken));
            }
        }
        walked.end = footer.end;
        let written = found.footer.is_some_and(|f| {
            Footer {
                punched: false,
                ..f
            } == footer
        }) || known.is_some();
        // True of the file even where the footer is not any more, after a rewind.
        let punched = found.footer.is_some_and(|f| f.punched);
        walked.kept.push(Kept {
            chain,
            end: footer.end,
            footer: Footer { punched, ..footer },
            footer_written: written,
            found,
        });
        chain = footer.chain;
    }
    Ok(walked)
}

/// Writes `from..to` again, as it is, and syncs it (W6).
fn rewrite(kept: &[Kept], from: Lsn, to: Lsn) -> Result<(), OpenError> {
    const STRIDE: u64 = 1 << 20;
    for kept in kept
        .iter()
        .filter(|k| k.end > from && k.found.active.base < to)
    {
        let (base, path) = (kept.found.active.base, &kept.found.path);
        let mut at = from.max(base);
        let mut buf = Vec::new();
        while at < kept.end {
            let len = STRIDE.min(kept.end.since(at));
            buf.resize(len as usize, 0);
            let offset = crate::segment::FRAMES_AT + at.since(base);
            kept.found
                .file
                .read_exact_at(&mut buf, offset)
                .map_err(io_error("reading", path))?;
            if !sabotage::on(Sabotage::TailNotRewritten) {
                kept.found
                    .file
                    .write_all_at(&buf, offset)
                    .map_err(io_error("rewriting", path))?;
            }
            at = at.advance(len);
        }
        // The header too: it may be no more durable than the frames.
        let mut head = [0; SECTOR];
        kept.found
            .file
            .read_exact_at(&mut head, 0)
            .map_err(io_error("reading", path))?;
        kept.found
            .file
            .write_all_at(&head, 0)
            .map_err(io_error("rewriting", path))?;
        kept.found.file.sync().map_err(io_error("syncing", path))?;
    }
    Ok(())
}

impl Kept {
    fn fill(&self, segment: &Segment) {
        let _ = segment.chain.set(self.chain);
        segment
            .punched
            .store(self.footer.punched, Ordering::Release);
        if segment.is_closed() {
            let _ = segment.footer.set(self.footer);
            segment
                .footer_written
                .store(self.footer_written, Ordering::Release);
        }
    }

    fn into_closed(self) -> Segment {
        let identity = self.found.header.identity;
        let segment = Segment::closed(
            identity,
            self.found.active,
            self.found.path.clone(),
            self.found.file.clone(),
            self.end,
        );
        self.fill(&segment);
        segment
    }

    fn into_active(self) -> io::Result<Segment> {
        let identity = self.found.header.identity;
        let map = self.found.file.map(identity.bytes as usize)?;
        let prepared = Prepared {
            identity,
            path: self.found.path.clone(),
            file: self.found.file.clone(),
            map,
            zeroed: false,
        };
        let segment = Segment::over(prepared, self.found.active);
        self.fill(&segment);
        Ok(segment)
    }
}

/// A prepared file for a segment that open itself needs.
fn obtain(
    dir: &Path,
    meta: &Meta,
    options: &LogOptions,
    spares: &mut Vec<PathBuf>,
    next_id: &mut u64,
) -> Result<Prepared, OpenError> {
    let identity = Identity {
        log: meta.log,
        node: meta.node,
        id: SegmentId(*next_id),
        bytes: options.segment_bytes,
    };
    *next_id += 1;
    let media = &*options.media;
    if spares.is_empty() {
        return prepare::create(media, dir, identity)
            .map_err(io_error("preparing a segment in", dir));
    }
    let from = spares.remove(0);
    prepare::recycle(media, dir, &from, identity, false).map_err(io_error("preparing", &from))
}

/// Opens what is in `dir`, which the caller has locked.
pub(crate) fn recover(dir: &Path, options: &LogOptions) -> Result<Recovery, OpenError> {
    let media = &*options.media;
    let (meta, created) = match Meta::load(media, dir)? {
        Some(meta) => (meta, false),
        None => (create(dir, options)?, true),
    };
    if let Some(expected) = options.expect_log.filter(|e| *e != meta.log) {
        return Err(OpenError::WrongLog {
            dir: dir.to_owned(),
            expected,
            found: meta.log,
        });
    }
    let mut epochs = meta::load_epochs(media, dir)?.unwrap_or_default();
    let Scan {
        live,
        mut spares,
        mut dead,
        wrong_size,
        mut next_id,
    } = scan(dir, &meta, options)?;
    let marked = synced_point(&live, &meta, &epochs)?;
    let oldest = live.first().map_or(meta.birth, |f| f.active.base);
    let written_end = live.last().map_or(meta.birth, |f| f.active.base);
    let walked = walk_all(live, &meta, marked)?;
    let Walked {
        mut kept,
        end,
        dead: cut,
    } = walked;
    let cut_bytes = written_end.0.saturating_sub(end.0);
    // From here on the disk may be changed.
    let nothing_cut = cut.is_empty();
    dead.extend(cut);
    let torn = kept.last().map(torn_bytes).transpose()?.unwrap_or(0);
    // An epoch's control frame may be there without the history knowing yet.
    let known = epochs.clone();
    for k in &kept {
        let start = k.found.active.epoch;
        if start.begin == k.found.active.base && k.end > start.begin && !epochs.contains(&start) {
            epochs.push(start);
        }
    }
    epochs.retain(|e| e.begin < end);
    let last = kept.last();
    let highest = last
        .and_then(|k| k.found.marks.iter().max_by_key(|m| m.sequence))
        .copied();
    let mark_sequence = highest.map_or(0, |m| m.sequence);
    let clean = nothing_cut && highest.is_some_and(|m| m.clean && m.synced == end);
    let fresh = kept.is_empty();
    let goes_on = (clean || sabotage::on(Sabotage::TailNotCut))
        && (options.role == OpenRole::Follower
            || highest.is_some_and(|m| m.writer)
            || sabotage::on(Sabotage::TailNotCut))
        && last.is_some_and(|k| k.found.header.identity.bytes >= options.segment_bytes);
    let mut recovery = Recovery {
        meta,
        segments: Vec::new(),
        active: None,
        end,
        epochs: Vec::new(),
        epochs_dirty: false,
        no_space: None,
        spares: Vec::new(),
        next_id: 0,
        mark_sequence: mark_sequence + 1,
        report: Recovered {
            created,
            clean: clean || fresh,
            oldest,
            end,
            marked: marked.min(end),
            cut_bytes: cut_bytes.max(torn),
            reading_only: None,
        },
    };
    if goes_on {
        let last = kept.pop().expect("a clean log has a segment");
        let path = last.found.path.clone();
        let segment = last.into_active().map_err(io_error("mapping", &path))?;
        if let Some(word) = segment.frame_word(end) {
            word.store(0, Ordering::Release);
        }
        let sequence = recovery.mark_sequence;
        let mark = SectorMark {
            sequence,
            synced: end,
            clean: false,
            writer: false,
        };
        if !sabotage::on(Sabotage::CleanMarkKept) {
            take_mark(&segment, mark, meta.node).map_err(io_error("marking", &path))?;
        }
        recovery.active = Some(Arc::new(segment));
    } else {
        if !clean {
            rewrite(&kept, marked, end)?;
        }
        let chain = kept.last().map_or(meta.chain, |k| k.footer.chain);
        let start = match options.role {
            OpenRole::Writer if sabotage::on(Sabotage::EpochNotOpened) && !epochs.is_empty() => {
                epochs.last().copied()
            }
            OpenRole::Writer => {
                let number = epochs.last().map_or(1, |e| e.epoch.number);
                Some(EpochStart {
                    epoch: Epoch {
                        number,
                        id: random_id(),
                    },
                    begin: end,
                })
            }
            OpenRole::Follower => epochs.last().copied(),
        };
        let prepared = match start.map(|_| obtain(dir, &meta, options, &mut spares, &mut next_id)) {
            None => None,
            Some(Ok(prepared)) => Some(prepared),
            Some(Err(OpenError::Io { source, .. }))
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                recovery.no_space = Some(source);
                None
            }
            Some(Err(error)) => return Err(error),
        };
        if let (Some(start), Some(prepared)) = (start, prepared) {
            let path = prepared.path.clone();
            let active = Activation {
                base: end,
                epoch: start,
            };
            let segment = Segment::activate(prepared, active);
            let _ = segment.chain.set(chain);
            segment.write_chain(chain);
            if start.begin == end {
                let payload = control_payload(start);
                let mark = Mark { synced: end }.encode(meta.node, start.epoch, end);
                let word = write_frame(&segment, end, Kind::Control, &[&payload], &mark);
                if let Some(behind) = segment.frame_word(end.advance(CONTROL_FRAME_LEN as u64)) {
                    behind.store(0, Ordering::Relaxed);
                }
                segment
                    .word(segment.offset(end) as usize)
                    .store(word, Ordering::Release);
                recovery.end = end.advance(CONTROL_FRAME_LEN as u64);
                epochs.push(start);
            }
            let sequence = recovery.mark_sequence;
            let mark = SectorMark {
                sequence,
                synced: end,
                clean: false,
                writer: false,
            };
            take_mark(&segment, mark, meta.node).map_err(io_error("syncing", &path))?;
            recovery.active = Some(Arc::new(segment));
        }
        // A segment without frames that another one replaces at the same base.
        if recovery.active.is_some()
            || recovery.no_space.is_none() && kept.iter().all(|k| k.end == k.found.active.base)
        {
            while kept.last().is_some_and(|k| k.found.active.base == end) {
                dead.extend(kept.pop().map(|k| k.found.path));
            }
        }
    }
    if epochs != known {
        match meta::store_epochs(media, dir, &epochs) {
            Ok(()) => {}
            // The segments carry it until there is room.
            Err(e) if e.kind() == io::ErrorKind::StorageFull => recovery.epochs_dirty = true,
            Err(e) => return Err(io_error("writing the history in", dir)(e)),
        }
    }
    dead.extend(wrong_size);
    for path in &dead {
        media.remove(path).map_err(io_error("removing", path))?;
    }
    if !dead.is_empty() {
        meta::sync_dir(media, dir).map_err(io_error("syncing", dir))?;
    }
    recovery.segments = kept
        .into_iter()
        .map(|k| Arc::new(k.into_closed()))
        .collect();
    recovery.segments.extend(recovery.active.clone());
    recovery.report.reading_only = recovery
        .no_space
        .as_ref()
        .map(|e| format!("preparing a segment: {e}"));
    recovery.epochs = epochs;
    recovery.spares = spares;
    recovery.next_id = next_id;
    Ok(recovery)
}

/// Bytes behind the end that look as if they had been written: for the report only.
fn torn_bytes(kept: &Kept) -> Result<u64, OpenError> {
    let found = &kept.found;
    let room = found.limit.since(kept.end).min(4096);
    let mut buf = vec![0; room as usize];
    let offset = crate::segment::FRAMES_AT + kept.end.since(found.active.base);
    found
        .file
        .read_exact_at(&mut buf, offset)
        .map_err(io_error("reading", &found.path))?;
    // A recycled file holds old bytes there; only a first word that claims a frame of this place counts.
    let Some(head) = buf.first_chunk() else {
        return Ok(0);
    };
    let header = crate::frame::Header::decode(head).filter(|h| h.lsn == kept.end);
    Ok(header.map_or(0, |h| h.frame_len() as u64))
}

/// Writes a mark sector and syncs everything of the segment written so far.
fn take_mark(segment: &Segment, mark: SectorMark, node: crate::ids::NodeId) -> io::Result<()> {
    segment.write(
        mark.place() as usize,
        &mark.encode(segment.identity.id, node),
    );
    let map = segment.map().expect("the active segment is mapped");
    map.sync(0, 2 * 4096)
}

fn create(dir: &Path, options: &LogOptions) -> Result<Meta, OpenError> {
    let Some(create) = &options.create else {
        return Err(OpenError::NotFound {
            dir: dir.to_owned(),
        });
    };
    let media = &*options.media;
    let entries = media.list(dir).map_err(io_error("listing", dir))?;
    if let Some(entry) = entries.iter().find(|e| e.name.ends_with(SUFFIX)) {
        return Err(OpenError::Corrupt {
            path: dir.join(&entry.name),
            segment: SegmentId(0),
            at: Lsn::ZERO,
            synced: Lsn::ZERO,
            what: "there are segments, but the LOG file is missing".to_owned(),
            stored: 0,
            computed: 0,
        });
    }
    let meta = Meta {
        log: create.log,
        node: create.node,
        birth: create.base,
        chain: ChainHash(0),
    };
    meta.store(media, dir)
        .map_err(io_error("creating the log in", dir))?;
    Ok(meta)
}

/// A random number.
pub(crate) fn random_id() -> u64 {
    getrandom::u64().expect("the operating system gives random bytes")
}
