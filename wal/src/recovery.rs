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
use crate::cursor::{Broken, Cursor, Step};
use crate::damage::{Damage, DamageKind, Judge, LsnRange, io_error};
use crate::error::OpenError;
use crate::frame::{Kind, Mark, Seed, fold};
use crate::ids::{ChainHash, Epoch, EpochStart, Lsn, SegmentId};
use crate::log::Recovered;
use crate::meta::{self, Meta};
use crate::options::{LogOptions, OnDamage, OpenRole};
use crate::prepare::{self, AT_ONCE};
use crate::repair;
use crate::sabotage::{self, Sabotage};
use crate::segment::{Activation, Footer, Identity, Prepared, SECTOR, SUFFIX, SectorMark, Segment};
use crate::survey::{self, BadFile, Found};
use crate::verify::losses;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A segment that open makes has no more bytes.
const OPENED_BYTES_MAX: u64 = 16 << 20;

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

/// A verified stretch: a segment and where it ends.
struct Kept {
    found: Found,
    /// At its base and, in the footer, at its end; unknown behind damage.
    chain: Option<ChainHash>,
    end: Lsn,
    footer: Option<Footer>,
    punched: bool,
    footer_written: bool,
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
    /// What no file holds: to be put behind so many of `kept`.
    gaps: Vec<(usize, LsnRange)>,
}

/// Walks the log to its end. `damage` is where findings go for an open that repairs; without, the first ends it.
fn walk_all(
    live: Vec<Found>,
    meta: &Meta,
    synced: Lsn,
    mut damage: Option<&mut Vec<Damage>>,
) -> Result<Walked, OpenError> {
    let mut walked = Walked {
        kept: Vec::new(),
        end: meta.birth,
        dead: Vec::new(),
        gaps: Vec::new(),
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
        if let Some(damage) = damage.filter(|_| synced > meta.birth) {
            let lost = LsnRange {
                from: meta.birth,
                to: synced,
            };
            let what = "all segments are missing";
            let found = Damage::new(DamageKind::MissingSegment, Path::new(SUFFIX), what);
            damage.push(found.losing(lost.from, lost.to));
            walked.gaps.push((0, lost));
            walked.end = synced;
            return Ok(walked);
        }
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
    let mut chain = first.header.chain.or(born);
    if chain.is_none() {
        let what = "the segment before it is missing";
        match &mut damage {
            None => {
                let broken = Broken {
                    what,
                    stored: 0,
                    computed: 0,
                };
                return Err(corrupt(first, first.active.base, broken));
            }
            Some(damage) => damage.push(
                Damage::new(DamageKind::MissingSegment, &first.path, what).of_segment(first.id()),
            ),
        }
    }
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
            .filter(|f| Some(f.end) == next && f.end <= synced && f.end <= found.limit)
            .filter(|_| !found.rebuilt);
        let (footer, broken) = match known {
            Some(footer) => (footer, None),
            None => {
                let (footer, broken) = walk(&found, chain.unwrap_or_default())
                    .map_err(io_error("reading", &found.path))?;
                (footer, Some(broken))
            }
        };
        let mut end = footer.end;
        let mut whole = true;
        walked.end = end;
        if Some(end) != next && end < synced {
            let Some(damage) = &mut damage else {
                let broken = broken.expect("walked: a footer is believed only up to the next");
                return Err(corrupt(&found, end, broken));
            };
            whole = false;
            let (lost, goes_on_at) =
                losses(&found, next, synced).map_err(io_error("reading", &found.path))?;
            (end, walked.end) = (goes_on_at, goes_on_at);
            // What has no place in this file needs one of its own.
            let last = lost.last().expect("it stops short of the synced point");
            let range = last.lost.expect("a loss is a range");
            if range.to == end
                && (last.kind == DamageKind::MissingSegment || range.to > found.limit)
            {
                end = range.from;
                walked.gaps.push((walked.kept.len() + 1, range));
            }
            damage.extend(lost);
        }
        stopped = Some(walked.end) != next;
        let footer = chain.filter(|_| whole).map(|_| footer).or(known);
        let written = match footer {
            Some(footer) => {
                let unpunched = |f| Footer {
                    punched: false,
                    ..f
                };
                known.is_some() || found.footer.is_some_and(|f| unpunched(f) == footer)
            }
            // It can't be written before the damage is repaired.
            None => true,
        };
        // True of the file even where the footer is not any more, after a rewind.
        let punched = found.footer.is_some_and(|f| f.punched);
        walked.kept.push(Kept {
            chain,
            end,
            footer: footer.map(|footer| Footer { punched, ..footer }),
            punched,
            footer_written: written,
            found,
        });
        chain = footer.map(|f| f.chain);
        if walked.end != end {
            chain = None;
        }
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
        if let Some(chain) = self.chain {
            let _ = segment.chain.set(chain);
        }
        segment.punched.store(self.punched, Ordering::Release);
        let millis = self.found.closed_millis;
        segment.closed_millis.store(millis, Ordering::Release);
        if segment.is_closed() {
            if let Some(footer) = self.footer {
                let _ = segment.footer.set(footer);
            }
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
            warm_until: Duration::ZERO,
        };
        let segment = Segment::over(prepared, self.found.active);
        self.fill(&segment);
        Ok(segment)
    }
}

/// Bytes of a segment that open itself makes: all that it waits for are zeros of it, and a disk that is shared waits too. The next are whole.
fn opened_bytes(options: &LogOptions) -> u64 {
    options.segment_bytes.min(OPENED_BYTES_MAX)
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
        bytes: match spares.is_empty() {
            true => opened_bytes(options),
            false => options.segment_bytes,
        },
    };
    *next_id += 1;
    let media = &*options.media;
    if spares.is_empty() {
        return prepare::create(media, dir, identity, AT_ONCE)
            .map_err(io_error("preparing a segment in", dir));
    }
    let from = spares.remove(0);
    prepare::recycle(media, dir, &from, identity, None).map_err(io_error("preparing", &from))
}

/// What an open that repairs does on disk before it goes on: files that are no segments are put aside, headers that were made
/// up for are written, and what no file holds gets one.
#[expect(clippy::too_many_arguments, reason = "the parts of a recovery")]
fn make_good(
    dir: &Path,
    options: &LogOptions,
    meta: &Meta,
    epochs: &[EpochStart],
    bad: &[BadFile],
    kept: &mut Vec<Kept>,
    gaps: Vec<(usize, LsnRange)>,
    next_id: &mut u64,
) -> Result<(), OpenError> {
    let media = &*options.media;
    for file in bad {
        repair::put_aside(media, &file.path)?;
    }
    for k in kept.iter().filter(|k| k.found.rebuilt) {
        repair::write_header(media, &k.found)?;
    }
    let mut epochs = epochs.to_vec();
    for k in kept.iter() {
        if !epochs.contains(&k.found.active.epoch) {
            epochs.push(k.found.active.epoch);
        }
    }
    epochs.sort_by_key(|e| e.begin);
    for (place, range) in gaps.into_iter().rev() {
        let after = place.checked_sub(1).map_or(0, |at| kept[at].found.id().0);
        let before = kept.get(place).map(|k| k.found.id().0);
        let mut ids = match before {
            Some(before) => after + 1..before,
            None => *next_id..u64::MAX,
        }
        .map(SegmentId);
        let made = repair::fill_gap(media, dir, meta, range, &epochs, &mut ids)?;
        if let (None, Some(last)) = (before, made.last()) {
            *next_id = last.id().0 + 1;
        }
        let made = made.into_iter().map(|found| Kept {
            chain: None,
            end: found.limit,
            footer: None,
            punched: false,
            footer_written: true,
            found,
        });
        kept.splice(place..place, made);
    }
    meta::sync_dir(media, dir).map_err(io_error("syncing", dir))
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
    let repairs = options.on_damage == OnDamage::Repair;
    let mut damage = Vec::new();
    let epochs = meta::load_epochs(media, dir);
    let mut epochs = match repairs {
        true => repair::load_or_put_aside(media, dir, meta::EPOCHS, epochs, &mut damage, None)?,
        false => epochs?,
    }
    .unwrap_or_default();
    let mut judge = match repairs {
        true => Judge::Collect(Vec::new()),
        false => Judge::Strict,
    };
    let scan = survey::scan(media, dir, true, &meta, &epochs, &mut judge)?;
    let (live, mut next_id) = (scan.live, scan.next_id);
    let mut dead: Vec<PathBuf> = scan.dead.into_iter().map(|f| f.path).collect();
    let right_size = |(_, identity): &(PathBuf, Identity)| identity.bytes == options.segment_bytes;
    let (spares, wrong_size): (Vec<_>, Vec<_>) = scan.spares.into_iter().partition(right_size);
    let mut spares: Vec<PathBuf> = spares.into_iter().map(|(path, _)| path).collect();
    let marked = survey::synced_point(&live, &meta, &epochs, &mut judge)?;
    let oldest = live.first().map_or(meta.birth, |f| f.active.base);
    let written_end = live.last().map_or(meta.birth, |f| f.active.base);
    if let Judge::Collect(found) = judge {
        if let Some(newer) = found.iter().find(|d| d.kind == DamageKind::NewerFormat) {
            return Err(newer.clone().into_error(marked));
        }
        damage.extend(found);
    }
    let walked = walk_all(live, &meta, marked, repairs.then_some(&mut damage))?;
    let Walked {
        mut kept,
        end,
        dead: cut,
        gaps,
    } = walked;
    let cut_bytes = written_end.0.saturating_sub(end.0);
    // From here on the disk may be changed.
    if !damage.is_empty() {
        make_good(
            dir,
            options,
            &meta,
            &epochs,
            &scan.bad,
            &mut kept,
            gaps,
            &mut next_id,
        )?;
    }
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
    let goes_on = damage.iter().all(|d| d.lost.is_none())
        && (clean || sabotage::on(Sabotage::TailNotCut))
        && (options.role == OpenRole::Follower
            || highest.is_some_and(|m| m.writer)
            || sabotage::on(Sabotage::TailNotCut))
        && last.is_some_and(|k| k.found.header.identity.bytes >= opened_bytes(options));
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
            damaged: damage,
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
        let chain = match kept.last() {
            None => Some(meta.chain),
            Some(k) if k.end == end => k.footer.map(|f| f.chain),
            Some(_) => None,
        };
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
            if let Some(chain) = chain {
                let _ = segment.chain.set(chain);
                segment.write_chain(chain);
            }
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
    dead.extend(wrong_size.into_iter().map(|(path, _)| path));
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
