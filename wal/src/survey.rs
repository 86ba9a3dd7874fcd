//! What is in a log's directory, read without changing a byte: by recovery, verification, salvage and the tool.
//!
//! - SV1: nothing is written, and no lock is taken; a directory that a log is open in may be looked at.
//! - SV2: what is found wrong goes to a judge. Recovery's lets the first finding end the open; the others collect.
//! - SV3: a file counts as a segment by its intact header alone. Where findings are collected, a damaged or misplaced header
//!   is made up for from the file's name, its length and its frames, if their checksums say which epoch they are of, and their
//!   LSNs fit between its neighbours'.
//! - SV4: a later made segment (higher id) with base B makes bytes and marks at or above B in earlier ones dead (W5).
//! - SV5: files are read in this order: `EPOCHS`, the list, headers and marks, frames. So whatever a log that is open
//!   meanwhile has promised by a mark that was read is there when its frames are. Headers are read from the newest to the
//!   oldest: a log begins segments in the order of their ids and lets them go in that order, so that no segment is missing
//!   between two that are found. What looks damaged is looked at again: a header may have been read while it was written.

use crate::append::CONTROL_FRAME_LEN;
use crate::cursor::highest_mark;
use crate::damage::{Damage, DamageKind, Judge, io_error};
use crate::error::OpenError;
use crate::frame::{HEADER_LEN, Header, Seed, checksum};
use crate::ids::{Epoch, EpochStart, LogId, Lsn, NodeId, SegmentId};
use crate::media::{Media, MediaFile};
use crate::meta::{self, Meta, SlotRecord};
use crate::segment::{
    Activation, BadHeader, FRAMES_AT, Footer, Identity, MARK_AT, SECTOR, SUFFIX, SectorMark,
    SegmentHeader, capacity,
};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directory of a log that is open meanwhile is read again at most this often.
const SURVEYS_MAX: u32 = 16;

/// An active segment as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) header: SegmentHeader,
    pub(crate) active: Activation,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn MediaFile>,
    pub(crate) marks: Vec<SectorMark>,
    pub(crate) footer: Option<Footer>,
    /// When it was closed, as its footer says.
    pub(crate) closed_millis: u64,
    /// Bytes from here on are dead or do not exist.
    pub(crate) limit: Lsn,
    /// The header is damaged; what stands here was made up for.
    pub(crate) rebuilt: bool,
}

impl Found {
    pub(crate) fn base(&self) -> Lsn {
        self.active.base
    }

    pub(crate) fn id(&self) -> SegmentId {
        self.header.identity.id
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.active.epoch.epoch
    }

    pub(crate) fn seed(&self) -> Seed {
        Seed::new(self.header.identity.log, self.epoch())
    }

    /// Whether its newest mark says that the log was closed there, and no frame begins behind.
    fn ends_clean(&self) -> bool {
        let newest = self.marks.iter().max_by_key(|m| m.sequence);
        let Some(mark) = newest.filter(|m| m.clean) else {
            return false;
        };
        if mark.synced < self.base() || mark.synced.advance(HEADER_LEN as u64) > self.limit {
            return false;
        }
        let mut word = [0; 8];
        let offset = FRAMES_AT + mark.synced.since(self.base());
        self.file.read_exact_at(&mut word, offset).is_ok() && word == [0; 8]
    }

    /// Whether the file still is the segment that it was: a log that is open meanwhile may have taken it for another.
    pub(crate) fn still_there(&self) -> bool {
        self.rebuilt || self.header_now().is_some()
    }

    /// Its header as it is now: a log that is open meanwhile writes the chain hash into it when it is known.
    pub(crate) fn header_now(&self) -> Option<SegmentHeader> {
        let mut sector = [0; SECTOR];
        self.file.read_exact_at(&mut sector, 0).ok()?;
        let header = SegmentHeader::decode(&sector).ok()?;
        (header.identity == self.header.identity && header.active.is_some()).then_some(header)
    }
}

/// A file with a segment's name that could not be taken for one.
#[derive(Clone, Debug)]
pub(crate) struct BadFile {
    pub(crate) path: PathBuf,
    id: Option<SegmentId>,
    bytes: u64,
    file: Option<Arc<dyn MediaFile>>,
    /// Its header may be made up for.
    header_only: bool,
}

#[derive(Debug)]
pub(crate) struct Scan {
    /// By id, and so by base; each with what the later ones leave of it.
    pub(crate) live: Vec<Found>,
    /// By path.
    pub(crate) spares: Vec<(PathBuf, Identity)>,
    /// Outranked.
    pub(crate) dead: Vec<Found>,
    pub(crate) bad: Vec<BadFile>,
    pub(crate) next_id: u64,
}

/// Reads all headers, of files opened for writing too if `write`. `epochs` are those known, for headers to be made up for.
pub(crate) fn scan(
    media: &dyn Media,
    dir: &Path,
    write: bool,
    meta: &Meta,
    epochs: &[EpochStart],
    judge: &mut Judge,
) -> Result<Scan, OpenError> {
    let mut scan = Scan {
        live: Vec::new(),
        spares: Vec::new(),
        dead: Vec::new(),
        bad: Vec::new(),
        next_id: 1,
    };
    for read in read_headers(media, dir, write, meta).map_err(io_error("listing", dir))? {
        let Read {
            path,
            id,
            bytes,
            opened,
        } = read;
        if let Some(id) = id {
            scan.next_id = scan.next_id.max(id.0 + 1);
        }
        let (file, one) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                judge.error(io_error("opening", &path)(e))?;
                scan.bad.push(BadFile {
                    path,
                    id,
                    bytes,
                    file: None,
                    header_only: false,
                });
                continue;
            }
        };
        match one {
            Ok(One::Live(found)) => scan.live.push(*found),
            Ok(One::Spare(identity)) => scan.spares.push((path, identity)),
            Err(BadOne::Io(e)) => {
                judge.error(io_error("reading", &path)(e))?;
                scan.bad.push(BadFile {
                    path,
                    id,
                    bytes,
                    file: Some(file),
                    header_only: true,
                });
            }
            Err(BadOne::Newer(found)) => {
                judge.error(OpenError::NewerFormat {
                    path: path.clone(),
                    found,
                    supported: crate::segment::FORMAT,
                })?;
                scan.bad.push(BadFile {
                    path,
                    id,
                    bytes,
                    file: None,
                    header_only: false,
                });
            }
            Err(BadOne::Damage(damage)) => {
                // A header written to the wrong file harms no frame of this one.
                let header_only = matches!(damage.kind, DamageKind::Header | DamageKind::Foreign);
                judge.damage(*damage)?;
                scan.bad.push(BadFile {
                    path,
                    id,
                    bytes,
                    file: Some(file),
                    header_only,
                });
            }
        }
    }
    scan.next_id = (scan.live.iter())
        .map(|f| f.id().0 + 1)
        .chain(scan.spares.iter().map(|(_, i)| i.id.0 + 1))
        .fold(scan.next_id, u64::max);
    scan.live.sort_by_key(Found::id);
    for bad in std::mem::take(&mut scan.bad) {
        match rebuild(&bad, meta, epochs, &scan.live) {
            Some(found) => {
                scan.live.push(found);
                scan.live.sort_by_key(Found::id);
            }
            None => scan.bad.push(bad),
        }
    }
    for found in &mut scan.live {
        // An epoch that the history knows begins a segment, whether that is still there or not.
        let begins = epochs.iter().map(|e| e.begin);
        let next = begins.filter(|begin| *begin > found.base()).min();
        found.limit = found.limit.min(next.unwrap_or(Lsn::MAX));
    }
    rank(&mut scan);
    Ok(scan)
}

/// A file with a segment's name, and what its header says.
struct Read {
    path: PathBuf,
    id: Option<SegmentId>,
    bytes: u64,
    opened: io::Result<(Arc<dyn MediaFile>, Result<One, BadOne>)>,
}

/// Opens every file with a segment's name and reads its header; by name. A log may be open meanwhile, unless `write` (SV5).
fn read_headers(media: &dyn Media, dir: &Path, write: bool, meta: &Meta) -> io::Result<Vec<Read>> {
    let list = || -> io::Result<BTreeMap<String, u64>> {
        let mut entries = media.list(dir)?;
        entries.retain(|e| e.name.ends_with(SUFFIX));
        Ok(entries.into_iter().map(|e| (e.name, e.len)).collect())
    };
    let mut entries = list()?;
    let mut again = SURVEYS_MAX;
    loop {
        let mut read: Vec<Read> = Vec::with_capacity(entries.len());
        for (name, bytes) in entries.iter().rev() {
            let path = dir.join(name);
            let id = u64::from_str_radix(&name[..name.len() - SUFFIX.len()], 16);
            let id = id.ok().map(SegmentId);
            let open = || -> io::Result<_> {
                let file = match write {
                    true => media.open_rw(&path),
                    false => media.open(&path),
                }?;
                let one = read_one(&path, &file, id, *bytes, meta);
                Ok((file, one))
            };
            let mut opened = open();
            if !write && matches!(opened, Ok((_, Err(_)))) {
                opened = open();
            }
            if !write && matches!(&opened, Err(e) if e.kind() == io::ErrorKind::NotFound) {
                continue;
            }
            read.push(Read {
                path,
                id,
                bytes: *bytes,
                opened,
            });
        }
        read.reverse();
        if write {
            return Ok(read);
        }
        // A directory that is listed while files in it are renamed may not name one that was there all the time; and all that
        // it names may be gone by now.
        let now = list()?;
        let changed = entries.last_key_value().is_some_and(|(last, _)| {
            let missed = now
                .range::<String, _>(..last)
                .any(|(name, _)| !entries.contains_key(name));
            missed || !now.contains_key(last)
        });
        again -= 1;
        if !changed || again == 0 {
            return Ok(read);
        }
        entries = now;
    }
}

/// A segment made later outranks what earlier ones hold from its base on (SV4).
fn rank(scan: &mut Scan) {
    let mut ceiling = Lsn::MAX;
    let mut kept = Vec::new();
    for mut found in std::mem::take(&mut scan.live).into_iter().rev() {
        let base = found.base();
        if base >= ceiling {
            scan.dead.push(found);
            continue;
        }
        found.limit = found.limit.min(ceiling);
        ceiling = base;
        kept.push(found);
    }
    kept.reverse();
    scan.live = kept;
}

enum One {
    Live(Box<Found>),
    Spare(Identity),
}

enum BadOne {
    Damage(Box<Damage>),
    Newer(u32),
    Io(io::Error),
}

impl From<io::Error> for BadOne {
    fn from(e: io::Error) -> BadOne {
        BadOne::Io(e)
    }
}

fn read_one(
    path: &Path,
    file: &Arc<dyn MediaFile>,
    id: Option<SegmentId>,
    len: u64,
    meta: &Meta,
) -> Result<One, BadOne> {
    let bad = |kind, what: &str| {
        let damage = Damage::new(kind, path, what);
        BadOne::Damage(Box::new(match id {
            Some(id) => damage.of_segment(id),
            None => damage,
        }))
    };
    let mut head = [0; 3 * SECTOR];
    if len < head.len() as u64 {
        return Err(bad(DamageKind::Shortened, "the file was shortened"));
    }
    file.read_exact_at(&mut head, 0)?;
    let sector = head[..SECTOR].try_into().expect("a sector");
    let header = SegmentHeader::decode(sector).map_err(|header| match header {
        BadHeader::Newer(format) => BadOne::Newer(format),
        BadHeader::Damaged {
            what,
            stored,
            computed,
        } => match bad(DamageKind::Header, what) {
            BadOne::Damage(damage) => BadOne::Damage(Box::new(damage.sums(stored, computed))),
            other => other,
        },
    })?;
    let identity = header.identity;
    if identity.log != meta.log {
        return Err(bad(DamageKind::Foreign, "a segment of another log"));
    }
    if identity.node != meta.node {
        return Err(bad(DamageKind::Foreign, "a segment of another node"));
    }
    if id != Some(identity.id) {
        let what = format!("a file that holds segment {}", identity.id);
        return Err(bad(DamageKind::Foreign, &what));
    }
    if len < identity.bytes {
        return Err(bad(DamageKind::Shortened, "the file was shortened"));
    }
    let Some(active) = header.active else {
        return Ok(One::Spare(identity));
    };
    let marks = sector_marks(&head, identity.id, meta.node);
    let mut sector = [0; SECTOR];
    file.read_exact_at(&mut sector, identity.bytes - SECTOR as u64)?;
    Ok(One::Live(Box::new(Found {
        header,
        active,
        path: path.to_owned(),
        file: file.clone(),
        marks,
        footer: Footer::decode(&sector, identity.id, active.base),
        closed_millis: crate::segment::stamped(&sector, identity.id),
        limit: active.base.advance(capacity(identity.bytes)),
        rebuilt: false,
    })))
}

fn sector_marks(head: &[u8; 3 * SECTOR], id: SegmentId, node: NodeId) -> Vec<SectorMark> {
    MARK_AT
        .iter()
        .filter_map(|&at| SectorMark::decode(&head[at as usize..][..SECTOR], id, node))
        .collect()
}

/// The segment whose header is damaged, by its name, its length and its frames. A prepared file, whose old frames are of
/// a former life, has none that come behind those of the segments made before.
fn rebuild(bad: &BadFile, meta: &Meta, epochs: &[EpochStart], live: &[Found]) -> Option<Found> {
    let (id, file) = (bad.id?, bad.file.clone()?);
    if !bad.header_only || bad.bytes < 16 << 10 || !bad.bytes.is_multiple_of(4096) {
        return None;
    }
    let place = live.partition_point(|f| f.id() < id);
    let before = place.checked_sub(1).map(|at| &live[at]);
    let after = live.get(place).filter(|f| f.id() > id);
    let lowest = before.map_or(meta.birth, |f| {
        f.footer.map_or(f.base().advance(8), |footer| footer.end)
    });
    let room = capacity(bad.bytes);
    let mut buf = vec![0; room as usize];
    file.read_exact_at(&mut buf, FRAMES_AT).ok()?;
    for at in (0..buf.len() - HEADER_LEN).step_by(8) {
        let Some(header) = Header::decode(buf[at..].first_chunk().expect("a header's bytes"))
        else {
            continue;
        };
        let end = at + header.frame_len();
        let Some(base) = header.lsn.0.checked_sub(at as u64).map(Lsn) else {
            continue;
        };
        if end > buf.len() || base < lowest || after.is_some_and(|f| base >= f.base()) {
            continue;
        }
        let payload = &buf[at + HEADER_LEN..][..header.payload_len as usize];
        let of_history = epochs.iter().rev().find(|e| e.begin <= base).copied();
        let epoch = [before, after]
            .into_iter()
            .flatten()
            .map(|f| f.active.epoch)
            .chain(of_history)
            .find(|e| {
                let seed = Seed::new(meta.log, e.epoch);
                checksum(seed, header.lsn, header.kind, &[payload]) == header.crc
            });
        let Some(epoch) = epoch else {
            continue;
        };
        let identity = Identity {
            log: meta.log,
            node: meta.node,
            id,
            bytes: bad.bytes,
        };
        let active = Activation { base, epoch };
        let mut sector = [0; SECTOR];
        file.read_exact_at(&mut sector, bad.bytes - SECTOR as u64)
            .ok()?;
        let mut head = [0; 3 * SECTOR];
        file.read_exact_at(&mut head, 0).ok()?;
        return Some(Found {
            header: SegmentHeader {
                identity,
                active: Some(active),
                chain: None,
            },
            active,
            path: bad.path.clone(),
            marks: sector_marks(&head, id, meta.node),
            footer: Footer::decode(&sector, id, base),
            closed_millis: crate::segment::stamped(&sector, id),
            limit: base.advance(room),
            file,
            rebuilt: true,
        });
    }
    None
}

/// The synced point, from marks: the highest of the newest segment that holds one, no further than the base of the next;
/// the end of the last control frame known counts as one.
///
/// A frame's mark says no more than its own place, so that only those behind the sectors' marks are looked for; and none where
/// the newest of these says that the log was closed there and no frame follows.
pub(crate) fn synced_point(
    live: &[Found],
    meta: &Meta,
    epochs: &[EpochStart],
    judge: &mut Judge,
) -> Result<Lsn, OpenError> {
    let mut synced = live.first().map_or(meta.birth, Found::base);
    if let Some(last) = epochs.last() {
        synced = synced.max(last.begin.advance(CONTROL_FRAME_LEN as u64));
    }
    for (at, found) in live.iter().enumerate().rev() {
        let newest = at + 1 == live.len();
        let aside = found.marks.iter().map(|m| m.synced).max();
        let from = aside.map_or(found.base(), |aside| aside.clamp(found.base(), found.limit));
        let inside = if newest && found.ends_clean() {
            None
        } else {
            let range = (from, found.limit);
            highest_mark(&*found.file, found.base(), found.epoch(), meta.node, range).or_else(
                |e| {
                    judge
                        .error(io_error("reading", &found.path)(e))
                        .map(|()| None)
                },
            )?
        };
        if let Some(mark) = inside.max(aside) {
            let cap = if newest { Lsn::MAX } else { found.limit };
            return Ok(synced.max(mark.min(cap)));
        }
    }
    Ok(synced)
}

/// What a file in a log's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileState {
    /// The segment that is, or was, being written.
    Open,
    /// A segment before it.
    Closed,
    /// Ready to become a segment.
    Prepared,
    /// A segment that later made ones take the place of; the next open removes it.
    Outranked,
    /// A segment's file that can't be taken for one.
    Damaged,
    /// Half-made; the next open removes it.
    Temporary,
    /// Any other: `LOG`, `EPOCHS`, `SLOTS`, `LOCK`, what was put aside.
    Other,
}

impl FileState {
    /// In a word, for tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FileState::Open => "open",
            FileState::Closed => "closed",
            FileState::Prepared => "prepared",
            FileState::Outranked => "outranked",
            FileState::Damaged => "damaged",
            FileState::Temporary => "temporary",
            FileState::Other => "other",
        }
    }
}

/// A file in a log's directory.
#[derive(Clone, Debug)]
pub struct FileInfo {
    /// Its name.
    pub name: String,
    /// What it is.
    pub state: FileState,
    /// Its length.
    pub bytes: u64,
    /// Segment id, of a segment or a prepared file.
    pub segment: Option<SegmentId>,
    /// LSN of a segment's first frame.
    pub base: Option<Lsn>,
    /// LSN behind a segment's last frame, where its footer or the next segment says so.
    pub end: Option<Lsn>,
    /// Frames, where its footer says so.
    pub frames: Option<u64>,
    /// Epoch of a segment's frames.
    pub epoch: Option<Epoch>,
    /// Whether the slack behind its frames was given back.
    pub punched: bool,
}

/// A log's directory, read without changing it; see the module.
#[derive(Debug)]
pub struct Survey {
    pub(crate) dir: PathBuf,
    pub(crate) media: Arc<dyn Media>,
    pub(crate) meta: Meta,
    pub(crate) epochs: Vec<EpochStart>,
    pub(crate) slots: Vec<SlotRecord>,
    pub(crate) scan: Scan,
    pub(crate) synced: Lsn,
    pub(crate) damage: Vec<Damage>,
    /// `LOG` could not be read; `meta` is from the segments.
    pub(crate) meta_guessed: bool,
}

impl Survey {
    /// Reads the directory of a log: small files, headers, marks, footers. What is wrong with them is in
    /// [`Survey::damage`]. Fails where there is no log, or none of it can be read.
    pub fn of(dir: &Path, media: Arc<dyn Media>) -> Result<Survey, OpenError> {
        let mut judge = Judge::Collect(Vec::new());
        let mut guessed = false;
        let meta = match Meta::load(&*media, dir) {
            Ok(Some(meta)) => meta,
            other => {
                let error = match other {
                    Err(error) => error,
                    Ok(_) => OpenError::Corrupt {
                        path: dir.join(meta::LOG),
                        segment: SegmentId::default(),
                        at: Lsn::ZERO,
                        synced: Lsn::ZERO,
                        what: "there are segments, but the LOG file is missing".to_owned(),
                        stored: 0,
                        computed: 0,
                    },
                };
                let Some(meta) = guess_meta(&*media, dir)? else {
                    return Err(match error {
                        OpenError::Corrupt { ref what, .. } if what.ends_with("missing") => {
                            OpenError::NotFound {
                                dir: dir.to_owned(),
                            }
                        }
                        error => error,
                    });
                };
                judge.error(error)?;
                guessed = true;
                meta
            }
        };
        let mut epochs = match meta::load_epochs(&*media, dir) {
            Ok(epochs) => epochs.unwrap_or_default(),
            Err(error) => {
                judge.error(error)?;
                Vec::new()
            }
        };
        let slots = match meta::load_slots(&*media, dir) {
            Ok(slots) => slots,
            Err(error) => {
                judge.error(error)?;
                Vec::new()
            }
        };
        let scan = scan(&*media, dir, false, &meta, &epochs, &mut judge)?;
        let synced = synced_point(&scan.live, &meta, &epochs, &mut judge)?;
        for found in &scan.live {
            if !epochs.contains(&found.active.epoch) {
                epochs.push(found.active.epoch);
                epochs.sort_by_key(|e| e.begin);
            }
        }
        let Judge::Collect(damage) = judge else {
            unreachable!("it was made to collect");
        };
        Ok(Survey {
            dir: dir.to_owned(),
            media,
            meta,
            epochs,
            slots,
            scan,
            synced,
            damage,
            meta_guessed: guessed,
        })
    }

    /// Identity of the log.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.meta.log
    }

    /// Identity of the node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.meta.node
    }

    /// LSN at which the log began.
    #[must_use]
    pub fn birth(&self) -> Lsn {
        self.meta.birth
    }

    /// Oldest LSN held.
    #[must_use]
    pub fn oldest(&self) -> Lsn {
        self.scan.live.first().map_or(self.meta.birth, Found::base)
    }

    /// Everything below was on stable storage, by the log's own marks.
    #[must_use]
    pub fn synced(&self) -> Lsn {
        self.synced
    }

    /// Whether the newest segment says that the log was closed cleanly. (It may have been opened since; then it is
    /// not clean.)
    #[must_use]
    pub fn clean(&self) -> bool {
        let marks = self.scan.live.last().map(|f| &f.marks);
        marks
            .and_then(|marks| marks.iter().max_by_key(|m| m.sequence))
            .is_some_and(|m| m.clean)
    }

    /// History of epochs, oldest first.
    #[must_use]
    pub fn epochs(&self) -> &[EpochStart] {
        &self.epochs
    }

    /// Slots: name, position, and whether it is lost.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = (&str, Lsn, bool)> {
        let slots = self.slots.iter();
        slots.map(|slot| (slot.name.as_str(), slot.position, slot.lost))
    }

    /// What is wrong, but for frames, which [`Survey::verify`] reads.
    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// The files of the directory, by name.
    pub fn files(&self) -> Result<Vec<FileInfo>, OpenError> {
        let mut entries = (self.media.list(&self.dir)).map_err(io_error("listing", &self.dir))?;
        entries.retain(|e| !e.is_dir);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let named = |path: &Path, name: &str| path.file_name().is_some_and(|n| n == name);
        let live = &self.scan.live;
        let info = |e: &crate::media::DirEntry| {
            let mut info = FileInfo {
                name: e.name.clone(),
                state: FileState::Other,
                bytes: e.len,
                segment: None,
                base: None,
                end: None,
                frames: None,
                epoch: None,
                punched: false,
            };
            let of_live = live.iter().position(|f| named(&f.path, &e.name));
            let dead = self.scan.dead.iter().find(|f| named(&f.path, &e.name));
            if let Some(found) = of_live.map(|at| &live[at]).or(dead) {
                let next = of_live.and_then(|at| live.get(at + 1));
                info.state = match (of_live, next) {
                    (None, _) => FileState::Outranked,
                    (Some(_), None) => FileState::Open,
                    (Some(_), Some(_)) => FileState::Closed,
                };
                info.segment = Some(found.id());
                info.base = Some(found.base());
                info.end = (found.footer.map(|f| f.end)).or(next.map(Found::base));
                info.frames = found.footer.map(|f| f.frames);
                info.epoch = Some(found.epoch());
                info.punched = found.footer.is_some_and(|f| f.punched);
            } else if let Some((_, identity)) =
                self.scan.spares.iter().find(|(p, _)| named(p, &e.name))
            {
                info.state = FileState::Prepared;
                info.segment = Some(identity.id);
            } else if self.scan.bad.iter().any(|b| named(&b.path, &e.name)) {
                info.state = FileState::Damaged;
            } else if e.name.ends_with(meta::TMP) {
                info.state = FileState::Temporary;
            }
            info
        };
        Ok(entries.iter().map(info).collect())
    }
}

/// Who a log is, by its first intact segment; its birth then is its oldest LSN.
fn guess_meta(media: &dyn Media, dir: &Path) -> Result<Option<Meta>, OpenError> {
    let mut best: Option<(SegmentId, Meta)> = None;
    let entries = match media.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error("listing", dir))?,
    };
    for entry in entries.iter().filter(|e| e.name.ends_with(SUFFIX)) {
        let mut sector = [0; SECTOR];
        let read = media
            .open(&dir.join(&entry.name))
            .and_then(|file| file.read_exact_at(&mut sector, 0));
        let Some(header) = read.ok().and_then(|()| SegmentHeader::decode(&sector).ok()) else {
            continue;
        };
        let Some(active) = header.active else {
            continue;
        };
        let id = header.identity.id;
        if best.as_ref().is_none_or(|(other, _)| id < *other) {
            let meta = Meta {
                log: header.identity.log,
                node: header.identity.node,
                birth: active.base,
                chain: header.chain.unwrap_or_default(),
            };
            best = Some((id, meta));
        }
    }
    Ok(best.map(|(_, meta)| meta))
}
