//! Opening a trail: what is there is looked at before anything is written.
//!
//! - O1: the identity stands in the file `TRAIL`, under a keyed hash. A new trail gets its name last, behind an empty live log and a `HEAD` that names nothing: without
//!   the name there is no trail yet, and what is there of one is taken or made anew; with it nothing may be missing. No record is written before.
//! - O2: the closed files, the live log, `HEAD` and `CHECKPOINT` must go together: files follow one another, the live log follows the last of them, and reaches as far as the other two
//!   say. What does not is a finding; by default the first ends the opening, and nothing was changed (A1).
//! - O3: with [`OnTamper::Continue`] the trail goes on: what follows in the live log is closed first, what does not is put aside, and what is missing is a gap. An identity that is
//!   missing is made anew from what the other files say it is; where none of them does, it can't be continued: nobody could tell that what follows belongs to what is there.
//! - O4: what is found has its name on the disk before anything is built on it: a process that was killed may have left `TRAIL`, `HEAD` or a closed file under a name, or removed
//!   one, that the next loss of power takes back. So the directory is synced before it is listed.
//!
//! `TRAIL`, 64 bytes, little-endian: `ESKATRAI` (8), format 1 (4), zeros (4), identity (8), id of the key (8), keyed hash (32).

use crate::aging::Aging;
use crate::chain::Walk;
use crate::closed::{self, Bad, Closed, ClosedFile, Writer};
use crate::entry::{Kind, Root, genesis};
use crate::error::{Error, io_error};
use crate::finding::{Finding, FindingKind};
use crate::head::{self, HEAD, HeadFile};
use crate::key::{KeyId, Keyring};
use crate::live;
use crate::note::{self, CHECKPOINT, Checkpoint};
use crate::policy::{OnTamper, Options};
use crate::record::Severity;
use crate::sabotage::{self, Sabotage};
use crate::shared::{Shared, State};
use crate::stats::Counters;
use crate::trail::Opened;
use crate::upkeep::bad_file;
use crossbeam_channel::bounded;
use esker_sync::attended::Attended;
use esker_wal::OpenError;
use esker_wal::media::Media;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// Name of the file with the identity.
pub(crate) const TRAIL: &str = "TRAIL";
const LOCK: &str = "LOCK";
const MAGIC: &[u8; 8] = b"ESKATRAI";
const LEN: usize = 64;

/// The identity in `dir`; `None` where there is no trail.
pub(crate) fn identity(
    media: &dyn Media,
    dir: &Path,
    keys: &Keyring,
) -> Result<Option<u64>, Error> {
    let path = dir.join(TRAIL);
    let file = match media.open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error("opening", &path))?,
    };
    let mut bytes = [0; LEN];
    let damaged = || lost_identity(dir, "the file is not what was written");
    let whole = file.len().is_ok_and(|len| len == LEN as u64);
    if !whole || file.read_exact_at(&mut bytes, 0).is_err() {
        return Err(damaged());
    }
    let word = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("8 bytes"));
    if &bytes[..8] != MAGIC {
        return Err(damaged());
    }
    let id = KeyId(word(24));
    let Some(key) = keys.get(id) else {
        return Err(Error::NoKey {
            path: path.clone(),
            key: id,
        });
    };
    let hash = blake3::keyed_hash(key.chain(), &bytes[..32]);
    if bytes[8..16] != [1, 0, 0, 0, 0, 0, 0, 0] || hash.as_bytes()[..] != bytes[32..] {
        return Err(damaged());
    }
    Ok(Some(word(16)))
}

/// What the other files say the identity is: most of them, if they differ.
pub(crate) fn identity_elsewhere(
    media: &dyn Media,
    dir: &Path,
    keys: &Keyring,
    head: Option<&head::Found>,
    beside: Option<&Checkpoint>,
) -> Result<Option<u64>, Error> {
    let names = closed_names(media, dir).map_err(io_error("listing", dir))?;
    let of_files = names.iter().filter_map(|name| {
        let file = media.open(&dir.join(name)).ok()?;
        closed::begun(&*file, keys).ok().map(|begun| begun.trail)
    });
    let of_head = head.and_then(|found| found.head).map(|head| head.trail);
    let of_checkpoint = beside.map(|saw| saw.trail);
    let mut told = BTreeMap::<u64, usize>::new();
    for id in of_files.chain(of_head).chain(of_checkpoint) {
        *told.entry(id).or_default() += 1;
    }
    let most = told.into_iter().max_by_key(|(_, times)| *times);
    Ok(most.map(|(id, _)| id))
}

/// Whether the directory, which has no identity, holds no more than the beginnings of a trail that was not made to its end (O1).
pub(crate) fn is_unborn(
    media: &Arc<dyn Media>,
    dir: &Path,
    keys: &Keyring,
    head: Option<&head::Found>,
) -> Result<bool, Error> {
    let names = closed_names(&**media, dir).map_err(io_error("listing", dir))?;
    let says_nothing = |head: head::Head| (head.sequence, head.handed) == (0, 0);
    // The first is made of a trail that has its name.
    let checkpoint = dir.join(CHECKPOINT);
    let anchored = media.exists(&checkpoint);
    if anchored.map_err(io_error("looking for", &checkpoint))?
        || !names.is_empty()
        || head.is_some_and(|found| found.damaged || !found.head.is_some_and(says_nothing))
    {
        return Ok(false);
    }
    let any = Walk::from(genesis(0), 1);
    let looked = live::look(dir, live::survey(dir, media), keys, any, |_| Ok(()))?;
    Ok(looked.finding.is_none() && looked.last == 0)
}

fn random_id() -> Result<u64, Error> {
    let mut id = [0; 8];
    getrandom::fill(&mut id).map_err(|e| crate::key::KeyError::Random(e.to_string()))?;
    Ok(u64::from_le_bytes(id))
}

fn make_identity(media: &dyn Media, dir: &Path, keys: &Keyring, id: u64) -> Result<(), Error> {
    let mut bytes = [0; LEN];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8] = 1;
    bytes[16..24].copy_from_slice(&id.to_le_bytes());
    bytes[24..32].copy_from_slice(&keys.newest().id().0.to_le_bytes());
    let hash = blake3::keyed_hash(keys.newest().chain(), &bytes[..32]);
    bytes[32..].copy_from_slice(hash.as_bytes());
    let (path, tmp) = (dir.join(TRAIL), dir.join(format!("{TRAIL}{}", closed::TMP)));
    let write = || {
        if media.exists(&tmp)? {
            media.remove(&tmp)?;
        }
        let file = media.create(&tmp, 0)?;
        file.write_all_at(&bytes, 0)?;
        file.sync()?;
        media.rename(&tmp, &path)?;
        media.sync_dir(dir)
    };
    write().map_err(io_error("writing", &path))
}

/// The names of closed files in `dir`, oldest first.
pub(crate) fn closed_names(media: &dyn Media, dir: &Path) -> io::Result<Vec<String>> {
    let entries = match media.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names: Vec<String> = entries.into_iter().map(|e| e.name).collect();
    names.retain(|name| name.ends_with(closed::SUFFIX));
    names.sort();
    Ok(names)
}

/// What is found of the closed files, and what does not go together.
fn survey_closed(
    media: &dyn Media,
    dir: &Path,
    keys: &Keyring,
    id: u64,
) -> Result<(Vec<ClosedFile>, Vec<Finding>), Error> {
    let (mut files, mut findings) = (Vec::<ClosedFile>::new(), Vec::new());
    let names = closed_names(media, dir).map_err(io_error("listing", dir))?;
    for name in names {
        let path = dir.join(&name);
        let mut say = |kind, sequence, what: &str| {
            findings.push(Finding {
                kind,
                path: path.clone(),
                sequence,
                what: what.to_owned(),
            });
        };
        let file = match Closed::open(media, &path, keys) {
            Ok(file) => file.info,
            Err(Bad::Cut(what)) => {
                say(FindingKind::Cut, None, what);
                continue;
            }
            Err(Bad::Damaged { what, .. }) => {
                say(FindingKind::Damaged, None, what);
                continue;
            }
            Err(bad) => return Err(bad_file(&path, bad)),
        };
        if file.trail != id {
            say(
                FindingKind::Foreign,
                Some(file.first),
                "a file of another trail",
            );
            continue;
        }
        if let Some(before) = files.last()
            && (file.first != before.last + 1 || file.before != before.root)
        {
            let what = "it does not follow the file before";
            say(FindingKind::Missing, Some(before.last + 1), what);
        }
        files.push(file);
    }
    Ok((files, findings))
}

pub(crate) fn open(dir: &Path, keys: Keyring, options: Options) -> Result<(Shared, Opened), Error> {
    check(&options)?;
    let media = options.media.clone();
    let there = (media.exists(dir)).map_err(io_error("looking for", dir))?;
    (media.create_dir_all(dir)).map_err(io_error("creating", dir))?;
    if !there {
        // Whoever makes the directory decides who may read the trail.
        (media.keep_private(dir)).map_err(io_error("making private", dir))?;
    }
    let lock = media.lock(&dir.join(LOCK));
    let lock = lock.map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => Error::Open(OpenError::Locked {
            dir: dir.to_owned(),
        }),
        _ => io_error("locking", dir)(e),
    })?;
    // O4. Contents are synced before a file gets its name (CL1, HE4), and `HEAD`'s slots are written anew below.
    if !sabotage::on(Sabotage::FoundNotSynced) {
        media.sync_dir(dir).map_err(io_error("syncing", dir))?;
    }
    let names = closed_names(&*media, dir).map_err(io_error("listing", dir))?;
    let head = head::load(&*media, dir, &keys).map_err(io_error("reading", &dir.join(HEAD)))?;
    let beside = note::beside(&*media, dir, &keys);
    let beside = beside.map_err(io_error("reading", &dir.join(CHECKPOINT)))?;
    let whose = whose(&media, dir, &keys, &options, head.as_ref(), beside.as_ref())?;
    let (id, new) = (whose.id, whose.new);
    let (mut files, mut findings) = survey_closed(&*media, dir, &keys, id)?;
    findings.splice(0..0, whose.finding.clone());
    let closed = match files.last() {
        Some(file) => file.end(),
        None => Walk::from(genesis(id), 1),
    };
    let head = head.filter(|_| !new);
    let said = head
        .and_then(|found| found.head)
        .filter(|head| head.trail == id);
    let (beside, unsigned) = match beside.transpose() {
        Ok(beside) => (beside, None),
        Err(finding) => (None, Some(finding)),
    };
    // Of the record that it saw, where that is not inside of a closed file.
    let mut root_seen = beside.as_ref().and_then(|saw| {
        let file = files.iter().find(|file| file.last == saw.sequence);
        file.map(|file| file.root)
    });
    let looked = live::look(dir, live::survey(dir, &media), &keys, closed, |entry| {
        if (beside.as_ref()).is_some_and(|saw| saw.sequence == entry.head.sequence) {
            root_seen = Some(entry.root);
        }
        Ok(())
    })?;
    let anew = new || head.is_some_and(|found| found.damaged || said.is_none());
    if let Some(found) = head {
        if found.damaged || said.is_none() {
            findings.push(of_head(
                dir,
                FindingKind::Head,
                None,
                "it is not what was written",
            ));
        }
    } else if !new {
        findings.push(of_head(dir, FindingKind::Head, None, "it is missing"));
    }
    let reached = said.map_or(0, |head| head.sequence);
    if let Some(key) = looked.walk.key.filter(|key| keys.get(*key).is_none()) {
        let path = live::dir_of(dir);
        return Err(Error::NoKey { path, key });
    }
    let whole = looked.finding.is_none();
    findings.extend(looked.finding);
    let last = looked.walk.next - 1;
    if last < reached {
        let what = format!("the trail was synced up to {reached}, and ends at {last}");
        findings.push(of_head(dir, FindingKind::TailCut, Some(last + 1), &what));
    }
    let parted = unsigned.or_else(|| part(dir, beside.as_ref()?, id, last, root_seen));
    // A cut tail is said once.
    let said_already =
        (beside.as_ref()).is_some_and(|saw| last < saw.sequence && saw.sequence <= reached);
    findings.extend(parted.clone().filter(|_| !said_already));
    if let Some(finding) = findings.first()
        && options.on_tamper == OnTamper::Refuse
    {
        return Err(Error::Tampered {
            dir: dir.to_owned(),
            finding: Box::new(finding.clone()),
        });
    }
    remove_leftovers(&*media, dir)?;
    // Files that are not what was written would be written over by the next of their name.
    let next = closed::file_name(closed.next);
    for name in names.iter().filter(|name| **name >= next) {
        let path = dir.join(name);
        if files.iter().all(|file| file.path != path) {
            live::put_file_aside(&*media, &path)?;
        }
    }
    if parted.is_some() {
        live::put_file_aside(&*media, &dir.join(CHECKPOINT))?;
    }
    let saw = beside.filter(|saw| saw.trail == id);
    let mut seen = reached
        .max(said.map_or(0, |head| head.handed))
        .max(saw.map_or(0, |saw| saw.sequence));
    let mut closed = closed;
    let opened = match whole.then(|| live::open(dir, &options)) {
        // The look reads on over what the log refuses: that a file beside the segments is damaged, or that no segment is left.
        Some(Err(Error::Open(error @ OpenError::Corrupt { .. }))) => {
            let finding = live::damaged(dir, &error.to_string(), closed.next);
            if options.on_tamper == OnTamper::Refuse {
                let (dir, finding) = (dir.to_owned(), Box::new(finding));
                return Err(Error::Tampered { dir, finding });
            }
            findings.push(finding);
            None
        }
        opened => opened,
    };
    let log = match opened {
        Some(opened) => opened?,
        None => {
            let (file, walk) = save_live(dir, &keys, &options, id, closed)?;
            closed = walk;
            seen = seen.max(looked.last);
            files.extend(file);
            live::put_aside(dir, &options)?;
            live::open(dir, &options)?
        }
    };
    let found = live::scan(&log, &keys, closed)?;
    if let Some(finding) = found.finding(dir) {
        // Not what the look saw a moment ago.
        return Err(Error::Tampered {
            dir: dir.to_owned(),
            finding: Box::new(finding),
        });
    }
    let wall = options.clock.wall().as_nanos() as u64;
    // Where nothing is known nothing is old (AG2).
    let aged = match said {
        Some(said) if said.aged == 0 => said.nanos,
        Some(said) => said.aged,
        None if new => wall,
        None => 0,
    };
    let aging = Aging::from(aged, wall, options.clock.now());
    let now = head::Head {
        count: said.map_or(0, |head| head.count),
        trail: id,
        sequence: found.walk.next - 1,
        // Until their gap is written, what was lost stands here alone.
        handed: seen,
        nanos: wall,
        aged: aged.min(wall),
        root: found.walk.root,
    };
    // What recovery kept is synced.
    let now = match said {
        // A cut tail is found again until a record says so.
        Some(said) if said.sequence > now.sequence => head::Head {
            sequence: said.sequence,
            root: said.root,
            ..now
        },
        _ => now,
    };
    let head = HeadFile::open(&*media, dir, &keys, now, anew)
        .map_err(io_error("writing", &dir.join(HEAD)))?;
    if whose.finding.is_some() {
        let path = dir.join(TRAIL);
        if media
            .exists(&path)
            .map_err(io_error("looking for", &path))?
        {
            live::put_file_aside(&*media, &path)?;
        }
    }
    if new || whose.finding.is_some() {
        make_identity(&*media, dir, &keys, id)?;
    }
    let expected = found.walk.key.and_then(|key| keys.get(key));
    let key = expected.unwrap_or_else(|| keys.newest()).clone();
    let opened = Opened {
        last: found.walk.next - 1,
        closed: files.len(),
        findings,
    };
    let mut state = State::of(log, &found, closed, key);
    state.lose(seen + 1, "not in the trail when it was opened");
    let shared = Shared {
        dir: dir.to_owned(),
        id,
        tail: tail_of(&options),
        keys: RwLock::new(keys),
        closing: Mutex::new(()),
        head: Attended::new(head),
        state: Mutex::new(state),
        aging: Mutex::new(aging),
        aged: AtomicU64::new(aged.min(wall)),
        files: RwLock::new(files),
        counters: Counters::default(),
        queue: bounded(options.queue.max(1)),
        closed: AtomicBool::new(false),
        gate: RwLock::new(()),
        buried: AtomicU64::new(0),
        lock: Mutex::new(Some(lock)),
        anchoring: Mutex::new(()),
        anchored: Mutex::new(None),
        options,
    };
    // On a full disk the reserve may be used up: it is opened all the same, and says so with the first record that is written.
    let (kind, first) = (Kind::Trail, opened.findings.first());
    let said = match first {
        None => shared.own(kind, Severity::Notice, "esker.audit.opened", |_| {}),
        Some(finding) => {
            let what = finding.to_string();
            shared.own(kind, Severity::Critical, "esker.audit.tampered", |out| {
                out.text("error.message", &what);
            })
        }
    };
    if let Err(e) = said {
        tracing::warn!(dir = %dir.display(), error = %e, "that the audit trail was opened is not in it");
    }
    if let Err(e) = shared.begin_key() {
        tracing::warn!(dir = %dir.display(), error = %e, "the newest key of the audit trail is not begun yet");
    }
    Ok((shared, opened))
}

/// Whose trail it is.
struct Whose {
    id: u64,
    /// There is none yet.
    new: bool,
    /// `TRAIL` does not say it, the other files do.
    finding: Option<Finding>,
}

fn whose(
    media: &Arc<dyn Media>,
    dir: &Path,
    keys: &Keyring,
    options: &Options,
    head: Option<&head::Found>,
    beside: Option<&Result<Checkpoint, Finding>>,
) -> Result<Whose, Error> {
    let known = |id, new| Whose {
        id,
        new,
        finding: None,
    };
    let error = match identity(&**media, dir, keys) {
        Ok(Some(id)) => return Ok(known(id, false)),
        Ok(None) if is_unborn(media, dir, keys, head)? => return Ok(known(random_id()?, true)),
        Ok(None) => lost_identity(dir, "the file is missing"),
        Err(e) => e,
    };
    let what = match &error {
        Error::Tampered { finding, .. } => finding.what.clone(),
        Error::NoKey { key, .. } => {
            format!("it needs the key {key}, which the keyring does not have")
        }
        _ => return Err(error),
    };
    if options.on_tamper == OnTamper::Refuse {
        return Err(error);
    }
    let checkpoint = beside.and_then(|found| found.as_ref().ok());
    match identity_elsewhere(&**media, dir, keys, head, checkpoint)? {
        Some(id) => Ok(Whose {
            id,
            new: false,
            finding: Some(identity_finding(dir, &what)),
        }),
        None if matches!(error, Error::NoKey { .. }) => Err(error),
        None => Err(lost_identity(
            dir,
            &format!(
                "{what}, and no other file says whose trail it is: it can't be continued; put the directory aside and begin a new trail"
            ),
        )),
    }
}

fn identity_finding(dir: &Path, what: &str) -> Finding {
    Finding {
        kind: FindingKind::Identity,
        path: dir.join(TRAIL),
        sequence: None,
        what: what.to_owned(),
    }
}

fn lost_identity(dir: &Path, what: &str) -> Error {
    Error::Tampered {
        dir: dir.to_owned(),
        finding: Box::new(identity_finding(dir, what)),
    }
}

/// What in `CHECKPOINT` does not go together with a trail that ends at `last`; `root` is that of the record that it saw, if it was met.
fn part(dir: &Path, saw: &Checkpoint, id: u64, last: u64, root: Option<Root>) -> Option<Finding> {
    let (kind, what) = if saw.trail != id {
        (
            FindingKind::Foreign,
            "the checkpoint is another trail's".to_owned(),
        )
    } else if saw.sequence > last {
        let what = format!(
            "the trail ends at {last}; the checkpoint of {} saw {}",
            saw.time, saw.sequence
        );
        (FindingKind::OldCopy, what)
    } else if root.is_some_and(|root| root != saw.root) {
        (
            FindingKind::Forked,
            "the checkpoint saw another record there".to_owned(),
        )
    } else {
        return None;
    };
    Some(Finding {
        kind,
        path: dir.join(CHECKPOINT),
        sequence: Some(saw.sequence),
        what,
    })
}

fn check(options: &Options) -> Result<(), Error> {
    let bad = |option, why: &str| {
        Err(Error::Options {
            option,
            why: why.to_owned(),
        })
    };
    if options.rotate_bytes < 64 << 10 {
        return bad("rotate_bytes", "must be at least 64 KiB");
    }
    if options.interval.is_zero() {
        return bad("interval", "must be more than zero");
    }
    if !(16..=64 << 10).contains(&options.limits.text_bytes) {
        return bad("limits.text_bytes", "must be from 16 to 65,536");
    }
    if options.limits.metadata > 256 {
        return bad("limits.metadata", "must be at most 256");
    }
    Ok(())
}

/// What every body ends with: the node, and the brace.
fn tail_of(options: &Options) -> Vec<u8> {
    if options.node.is_empty() {
        return b"}".to_vec();
    }
    let mut out = crate::record::Out::bare();
    out.text("service.node.name", &options.node);
    out.bytes[0] = b',';
    out.bytes.push(b'}');
    out.bytes
}

fn of_head(dir: &Path, kind: FindingKind, sequence: Option<u64>, what: &str) -> Finding {
    Finding {
        kind,
        path: dir.join(HEAD),
        sequence,
        what: what.to_owned(),
    }
}

fn remove_leftovers(media: &dyn Media, dir: &Path) -> Result<(), Error> {
    let entries = media.list(dir).map_err(io_error("listing", dir))?;
    for entry in entries
        .iter()
        .filter(|e| !e.is_dir && e.name.ends_with(closed::TMP))
    {
        let path = dir.join(&entry.name);
        media.remove(&path).map_err(io_error("removing", &path))?;
    }
    Ok(())
}

/// Closes what follows of a live log that is not whole (O3): the file, and where it leads.
fn save_live(
    dir: &Path,
    keys: &Keyring,
    options: &Options,
    id: u64,
    before: Walk,
) -> Result<(Option<ClosedFile>, Walk), Error> {
    let now = options.clock.wall().as_nanos() as u64;
    let failed = |bad: Bad| bad_file(dir, bad);
    let (key, of) = (keys.newest(), (id, before.next, before.root));
    let mut writer: Option<Writer<'_>> = None;
    let survey = live::survey(dir, &options.media);
    let looked = live::look(dir, survey, keys, before, |entry| {
        if writer.is_none() {
            let begun = Writer::begin(&*options.media, dir, key, of, now);
            writer = Some(begun.map_err(|e| failed(e.into()))?);
        }
        let writer = writer.as_mut().expect("it was begun");
        writer.put(entry).map_err(|e| failed(e.into()))
    })?;
    let file = match writer {
        Some(writer) => Some(writer.finish(keys, &looked.walk, now).map_err(failed)?),
        None => None,
    };
    Ok((file, looked.walk))
}
