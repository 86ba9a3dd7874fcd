//! Verifying a trail: nothing was changed, removed, put in, put elsewhere or cut off (A1).
//!
//! - V1: every byte of the closed files and every frame of the live log is read; every hash, root and signature is computed anew.
//! - V2: the first entry must follow the beginning of the trail, or the newest tombstone; each file the one before; the live log the last file; and the
//!   end must be at least where `HEAD` is. A finding names the first sequence that is wrong or missing.
//! - V3: a trail may be written meanwhile. `HEAD` is read first, then the closed files, then the live log; where a file was closed before the live log was
//!   looked at, it is read, and the live log looked at anew: what a live log lets go is in a closed file before. The oldest files may go while they are read:
//!   then a tombstone must say so. A finding is believed when two looks, one behind the other, made it of the same evidence.
//! - V4: what no file of the directory can show, a checkpoint from elsewhere can: that all of it is an older copy. Without one the report says that it is not
//!   anchored. The checkpoint in the directory is checked too, where it is there: who puts an older copy of the rest back, and can't sign, is found by it. It
//!   anchors nothing: who replaces the rest can replace or remove it as well.

use crate::chain::Walk;
use crate::closed::{self, Bad, Closed, Entries};
use crate::entry::{Entry, Kind, Root, genesis};
use crate::error::{Error, io_error};
use crate::finding::{Finding, FindingKind};
use crate::head::{self, HEAD};
use crate::key::{KeyId, Keyring};
use crate::live;
use crate::note::{self, CHECKPOINT, Checkpoint};
use crate::open::{closed_names, identity, identity_elsewhere, is_unborn};
use crate::upkeep::tombstone_text;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use esker_sync::workers::share_out;
use esker_wal::media::Media;
use esker_wal::media::real::RealMedia;
use esker_wal::{OpenError, Survey};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often it looks before it gives up, because each look saw another thing wrong.
const LOOKS_MAX: usize = 20;
/// Between a look that found something and the next: longer than a writer takes to replace a small file.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Called by the threads that verify, now and then, with the bytes of files read and of how many.
pub type OnProgress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Options of [`verify`].
#[derive(Clone)]
pub struct VerifyOptions {
    /// A checkpoint that was kept elsewhere. Default: none.
    pub against: Option<Checkpoint>,
    /// Threads, each with one file at a time. Default: as many as there are cores.
    pub threads: usize,
    /// Default: nobody is told.
    pub progress: Option<OnProgress>,
    /// Pause before the look that confirms what one found (V3). Less may take what a writer is in the middle of for damage. Default 100 ms.
    pub look_again_after: Duration,
    /// Default: the operating system's files.
    pub media: Arc<dyn Media>,
}

impl std::fmt::Debug for VerifyOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifyOptions")
            .field("against", &self.against)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Default for VerifyOptions {
    fn default() -> Self {
        VerifyOptions {
            against: None,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            progress: None,
            look_again_after: LOOK_AGAIN_AFTER,
            media: Arc::new(RealMedia::default()),
        }
    }
}

/// How a trail relates to a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchored {
    /// None was given: that the whole directory was replaced by an older copy can't be seen.
    Not,
    /// The trail holds what the checkpoint saw.
    Holds,
    /// What the checkpoint saw was removed by retention: it says nothing of what is left.
    TooOld,
    /// It does not; see the findings.
    Breaks,
}

/// What a verification found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Identity of the trail.
    pub trail: u64,
    /// Sequence of the first entry that is there; 0 where there is none.
    pub first: u64,
    /// Sequence of the last.
    pub last: u64,
    /// Root of the last.
    pub root: Root,
    /// Entries that verify.
    pub entries: u64,
    /// Their bytes, not compressed.
    pub bytes: u64,
    /// Closed files.
    pub files: usize,
    /// Sequences that gaps' entries stand for: records that were dropped, and counted.
    pub dropped: u64,
    /// Up to this sequence retention removed everything, says the newest tombstone; 0: nothing.
    pub removed: u64,
    /// How far `HEAD` says that it was synced.
    pub synced: u64,
    /// The key that chains what follows the last entry; `None` where there is none. Where the keyring has a newer one, that was not begun yet; if it was known to be,
    /// somebody who has this one cut the trail back.
    pub key: Option<KeyId>,
    /// Against a checkpoint.
    pub anchored: Anchored,
    /// Sequence that the file `CHECKPOINT` in the directory names, where it is one that a key of the trail signed. It is checked, and anchors nothing.
    pub beside: Option<u64>,
    /// What is wrong, the first sequence first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.findings.is_empty()
    }
}

/// What a tombstone's entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tombstone {
    last: u64,
    root: String,
    signed: bool,
}

/// What is gathered of entries in a row.
#[derive(Debug)]
struct Row {
    begin: Walk,
    walk: Walk,
    first_key: Option<KeyId>,
    entries: u64,
    bytes: u64,
    dropped: u64,
    tombstone: Option<Tombstone>,
    /// Roots at the sequences asked for.
    roots: BTreeMap<u64, Root>,
    finding: Option<Finding>,
    signed: bool,
    trail: u64,
    /// Not even its header could be read.
    unread: bool,
    /// It was listed, and was not there to be opened.
    gone: bool,
    /// Of the live log: some of it was let go before it was read.
    released: bool,
}

impl Row {
    fn from(walk: Walk, trail: u64) -> Row {
        Row {
            begin: walk,
            walk,
            first_key: None,
            entries: 0,
            bytes: 0,
            dropped: 0,
            tombstone: None,
            roots: BTreeMap::new(),
            finding: None,
            signed: true,
            trail,
            unread: false,
            gone: false,
            released: false,
        }
    }
}

struct Verifier<'a> {
    dir: &'a Path,
    keys: &'a Keyring,
    options: &'a VerifyOptions,
    id: u64,
    beside: Option<Checkpoint>,
    wanted: Vec<u64>,
}

/// Verifies the trail in `dir`. Changes nothing and takes no lock: it may be written meanwhile. Fails only where it could not run.
pub fn verify(dir: &Path, keys: &Keyring, options: &VerifyOptions) -> Result<Report, Error> {
    let mut before: Vec<Finding> = Vec::new();
    for _ in 0..LOOKS_MAX {
        let mut report = look(dir, keys, options)?;
        if report.is_whole() {
            return Ok(report);
        }
        let twice = |f: &&Finding| before.iter().any(|o| same_evidence(f, o));
        let confirmed: Vec<Finding> = report.findings.iter().filter(twice).cloned().collect();
        if !confirmed.is_empty() {
            report.findings = confirmed;
            return Ok(report);
        }
        before = report.findings;
        std::thread::sleep(options.look_again_after);
    }
    let source = io::Error::other(
        "each look found another thing wrong, so that it is not known whether anything is; verify a copy, or while nothing writes it",
    );
    Err(io_error("verifying", dir)(source))
}

/// Whether two looks found the same thing. The words of a finding may hold how far a trail is that goes on, and its sequence may be just that.
fn same_evidence(one: &Finding, other: &Finding) -> bool {
    (one.kind, &one.path) == (other.kind, &other.path)
        && (one.sequence == other.sequence || one.what == other.what)
}

/// Looks at all of it once.
fn look(dir: &Path, keys: &Keyring, options: &VerifyOptions) -> Result<Report, Error> {
    let media = &*options.media;
    // Before all the rest, which goes on from there.
    let beside = note::beside(media, dir, keys);
    let beside = beside.map_err(io_error("reading", &dir.join(CHECKPOINT)))?;
    let load_head = || head::load(media, dir, keys).map_err(io_error("reading", &dir.join(HEAD)));
    let id = match identity(media, dir, keys) {
        Ok(Some(id)) => id,
        Ok(None) if is_unborn(&options.media, dir, keys, load_head()?.as_ref())? => {
            return Err(Error::NotFound {
                dir: dir.to_owned(),
            });
        }
        Err(e @ Error::Io { .. }) => return Err(e),
        // Any other file tells it too; that this one does not is a finding. None does where the key is missing.
        other => {
            let of_head = load_head().ok().flatten();
            let checkpoint = beside.as_ref().and_then(|found| found.as_ref().ok());
            let told = identity_elsewhere(media, dir, keys, of_head.as_ref(), checkpoint)?;
            match (told, other) {
                (Some(id), _) => id,
                (None, Err(e @ Error::NoKey { .. })) => return Err(e),
                (None, _) => 0,
            }
        }
    };
    let head = load_head()?;
    let said = head.and_then(|found| found.head);
    let (beside, unsigned) = match beside.transpose() {
        Ok(beside) => (beside, None),
        Err(finding) => (None, Some(finding)),
    };
    let wanted = (said.map(|head| head.sequence).into_iter())
        .chain(options.against.as_ref().map(|c| c.sequence))
        .chain(beside.as_ref().map(|c| c.sequence))
        .collect();
    let verifier = Verifier {
        dir,
        keys,
        options,
        id,
        beside,
        wanted,
    };
    verifier.run(head, unsigned)
}

impl Verifier<'_> {
    fn finding(&self, kind: FindingKind, name: &str, sequence: Option<u64>, what: &str) -> Finding {
        Finding {
            kind,
            path: self.dir.join(name),
            sequence,
            what: what.to_owned(),
        }
    }

    /// Takes an entry into a row; false where it does not follow.
    fn take(&self, row: &mut Row, path: &Path, entry: &Entry<'_>) -> bool {
        let expected = row.walk.next;
        if let Err(broken) = row.walk.step(self.keys, entry) {
            let at = Some(entry.head.sequence);
            row.finding = Some(Finding::of_break(broken, expected, at, path));
            return false;
        }
        self.note(row, entry);
        true
    }

    /// Counts an entry that follows.
    fn note(&self, row: &mut Row, entry: &Entry<'_>) {
        let head = &entry.head;
        row.first_key.get_or_insert(head.key);
        row.entries += 1;
        row.bytes += entry.bytes().len() as u64;
        row.dropped += head.sequence - head.from;
        if self.wanted.contains(&head.sequence) {
            row.roots.insert(head.sequence, entry.root);
        }
        if head.kind == Kind::Tombstone {
            row.tombstone = self.tombstone(entry);
        }
    }

    fn tombstone(&self, entry: &Entry<'_>) -> Option<Tombstone> {
        let body: Value = serde_json::from_slice(entry.body).ok()?;
        let text = |name: &str| body.get(name)?.as_str().map(str::to_owned);
        let last = body.get("esker.tombstone.last")?.as_u64()?;
        let root = text("esker.tombstone.root")?;
        let signature = BASE64.decode(text("esker.tombstone.signature")?).ok()?;
        let signature: [u8; 64] = signature.try_into().ok()?;
        let signed = tombstone_text(self.id, last, &root);
        Some(Tombstone {
            // Signed by the key it was written with, or by the one of before a rotation.
            signed: (self.keys.iter()).any(|key| key.signed(signed.as_bytes(), &signature)),
            last,
            root,
        })
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        closed_names(&*self.options.media, self.dir).map_err(io_error("listing", self.dir))
    }

    /// All rows, the live log's last (V3).
    fn rows(&self) -> Result<(Vec<String>, Vec<Row>, Row), Error> {
        let mut names = self.names()?;
        let mut rows = self.closed_rows(&names)?;
        loop {
            // What it lets go from here on is in files that the list behind it names.
            let survey = live::survey(self.dir, &self.options.media);
            let mut newer = self.names()?;
            newer.retain(|name| names.last().is_none_or(|last| name > last));
            if !newer.is_empty() {
                rows.extend(self.closed_rows(&newer)?);
                names.extend(newer);
                continue;
            }
            let end = rows.last().map(|row| (row.walk, row.finding.is_none()));
            let live = self.live_row(survey, end)?;
            let overtaken = live.released && live.finding.is_some();
            if !overtaken || self.names()?.last() <= names.last() {
                return Ok((names, rows, live));
            }
        }
    }

    fn run(&self, head: Option<head::Found>, unsigned: Option<Finding>) -> Result<Report, Error> {
        let (mut names, mut rows, live) = self.rows()?;
        // Retention took them while they were read, says the tombstone that is asked for below.
        let gone = rows.iter().position(|row| !row.gone).unwrap_or(0);
        names.drain(..gone);
        rows.drain(..gone);
        let mut findings = Vec::from_iter(unsigned);
        if identity(&*self.options.media, self.dir, self.keys)
            .ok()
            .flatten()
            != Some(self.id)
        {
            let what = "it is missing, or not what was written";
            findings.push(self.finding(FindingKind::Identity, crate::open::TRAIL, None, what));
        }
        let mut end: Option<Walk> = None;
        let mut all = Row::from(Walk::from(genesis(self.id), 1), self.id);
        let (mut first, mut first_unread) = (None, false);
        // Behind what broke off nothing can follow.
        let mut joined = true;
        let files = rows.len();
        for (name, row) in names.iter().zip(rows) {
            self.join(name, &row, end.filter(|_| joined), &mut findings);
            if first.is_none() {
                first_unread = row.unread;
            }
            first.get_or_insert(row.begin);
            joined = row.finding.is_none();
            end = Some(row.walk);
            gather(&mut all, row, &mut findings);
        }
        if live.entries > 0 || live.finding.is_some() {
            first.get_or_insert(live.begin);
        }
        let reached = live.walk;
        gather(&mut all, live, &mut findings);
        self.check_beginning(
            first.filter(|_| !first_unread),
            all.tombstone.as_ref(),
            &names,
            &mut findings,
        );
        let last = reached.next - 1;
        let synced = self.check_head(head, last, &all.roots, &mut findings);
        let mut check = |checkpoint: &Option<Checkpoint>, name| match checkpoint {
            Some(saw) => self.check_anchor(saw, name, first, last, &all.roots, &mut findings),
            None => Anchored::Not,
        };
        // A cut tail is said once.
        let said_already = |saw: &Checkpoint| last < saw.sequence && saw.sequence <= synced;
        if !self.beside.as_ref().is_some_and(said_already) {
            check(&self.beside, CHECKPOINT);
        }
        let anchored = check(&self.options.against, "");
        findings.sort_by_key(|f| f.sequence.unwrap_or(u64::MAX));
        Ok(Report {
            trail: self.id,
            first: first
                .filter(|_| all.entries > 0)
                .map_or(0, |walk| walk.next),
            last,
            root: reached.root,
            entries: all.entries,
            bytes: all.bytes,
            files,
            dropped: all.dropped,
            removed: all.tombstone.map_or(0, |t| t.last),
            synced,
            key: reached.key,
            anchored,
            beside: self.beside.as_ref().map(|saw| saw.sequence),
            findings,
        })
    }

    /// How a file goes on from the one before.
    fn join(&self, name: &str, row: &Row, end: Option<Walk>, findings: &mut Vec<Finding>) {
        let begin = row.begin;
        if row.unread {
            return;
        }
        if row.trail != self.id {
            let what = "a file of another trail";
            findings.push(self.finding(FindingKind::Foreign, name, Some(begin.next), what));
        } else if closed::file_name(begin.next) != name {
            let what = format!("its first record is {}: it had another name", begin.next);
            findings.push(self.finding(FindingKind::Foreign, name, Some(begin.next), &what));
        }
        if !row.signed {
            let what = "its signature is not that of its key";
            findings.push(self.finding(FindingKind::Signature, name, Some(begin.next), what));
        }
        let Some(end) = end else {
            return;
        };
        let finding = if begin.next > end.next {
            let what = format!(
                "records {} to {}, before this file, are missing",
                end.next,
                begin.next - 1
            );
            self.finding(FindingKind::Missing, name, Some(end.next), &what)
        } else if begin.next < end.next {
            let what = "its records stand in the file before too";
            self.finding(FindingKind::Reordered, name, Some(begin.next), what)
        } else if begin.root != end.root {
            let what = "it does not follow the file before";
            self.finding(FindingKind::Changed, name, Some(begin.next), what)
        } else if end.key.is_some() && row.first_key.is_some() && end.key != row.first_key {
            let what = "it is written with a key that no record began";
            self.finding(FindingKind::Changed, name, Some(begin.next), what)
        } else {
            return;
        };
        // What broke off before is said already.
        if findings
            .last()
            .is_none_or(|last| last.sequence != Some(end.next))
        {
            findings.push(finding);
        }
    }

    fn closed_rows(&self, names: &[String]) -> Result<Vec<Row>, Error> {
        let media = &self.options.media;
        let total: u64 = (names.iter())
            .filter_map(|name| media.open(&self.dir.join(name)).ok()?.len().ok())
            .sum();
        let read = AtomicU64::new(0);
        let rows = share_out("esker-audit-v", self.options.threads, names.len(), |at| {
            self.closed_row(&names[at], &|bytes| {
                let done = read.fetch_add(bytes, Ordering::Relaxed) + bytes;
                if let Some(progress) = &self.options.progress {
                    progress(done, total.max(done));
                }
            })
        });
        rows.into_iter().collect()
    }

    fn closed_row(&self, name: &str, done: &dyn Fn(u64)) -> Result<Row, Error> {
        let path = self.dir.join(name);
        // Where it can't be read at all, its name says where it should begin.
        let named = name.trim_end_matches(closed::SUFFIX).parse().unwrap_or(1);
        let named = 1.max(named);
        let mut row = Row::from(Walk::from(Root([0; 32]), named), self.id);
        row.unread = true;
        let file = match self.options.media.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                row.finding =
                    Some(self.finding(FindingKind::Missing, name, Some(named), "the file is gone"));
                row.gone = true;
                return Ok(row);
            }
            // It is no file at all.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                row.finding = Some(self.of_bad(name, named, Bad::Io(e)));
                return Ok(row);
            }
            other => other.map_err(io_error("opening", &path))?,
        };
        let begun = match closed::begun(&*file, self.keys) {
            Ok(begun) => begun,
            Err(bad) => {
                row.finding = Some(self.of_bad(name, named, bad));
                return Ok(row);
            }
        };
        row = Row::from(Walk::from(begun.before, begun.first), begun.trail);
        let whole = Closed::open(&*self.options.media, &path, self.keys);
        row.signed = whole.as_ref().map_or(true, |whole| whole.signed);
        let end = begun.index_at.unwrap_or(u64::MAX);
        let mut at = closed::HEADER_LEN as u64;
        while at < end {
            let next = row.walk.next;
            let block = match closed::read_block(&*file, &begun.key, &begun.header_hash, at) {
                Ok(block) if begun.index_at.is_some() || block.intact => block,
                // There is no trailer to say where the blocks end.
                Ok(_) => break,
                Err(_) if begun.index_at.is_none() => break,
                Err(bad) => {
                    row.finding = Some(self.of_bad(name, next, bad));
                    return Ok(row);
                }
            };
            let raw = block.raw.as_deref().unwrap_or_default();
            for entry in Entries::of(raw) {
                let expected = row.walk.next;
                let follows = entry.is_some_and(|entry| self.take(&mut row, &path, &entry));
                if !follows {
                    row.finding.get_or_insert_with(|| {
                        let what = "what stands there is no record";
                        self.finding(FindingKind::Damaged, name, Some(expected), what)
                    });
                    return Ok(row);
                }
            }
            if !block.intact || block.raw.is_none() {
                let what = "the block that begins there is not what was written";
                row.finding = Some(self.finding(FindingKind::Damaged, name, Some(next), what));
                return Ok(row);
            }
            done(block.end - at);
            at = block.end;
        }
        if let Err(bad) = whole {
            row.finding = Some(self.of_bad(name, row.walk.next, bad));
        } else if let Ok(whole) = whole
            && (whole.info.entries, whole.info.end()) != (row.entries, row.walk)
        {
            let what = "its trailer counts other records";
            row.finding = Some(self.finding(FindingKind::Damaged, name, Some(row.walk.next), what));
        }
        Ok(row)
    }

    fn of_bad(&self, name: &str, sequence: u64, bad: Bad) -> Finding {
        match bad {
            Bad::Cut(what) => self.finding(FindingKind::Cut, name, Some(sequence), what),
            Bad::Damaged { what, at } => {
                let what = format!("{what}, at byte {at}");
                self.finding(FindingKind::Damaged, name, Some(sequence), &what)
            }
            Bad::NoKey(key) => {
                let what = format!("it needs the key {key}, which the keyring does not have");
                self.finding(FindingKind::Key, name, Some(sequence), &what)
            }
            Bad::Io(source) => {
                let what = format!("it can't be read: {source}");
                self.finding(FindingKind::Damaged, name, Some(sequence), &what)
            }
        }
    }

    /// The entries of the live log, from where the closed files end, and whether these are whole there.
    fn live_row(
        &self,
        survey: Result<Survey, OpenError>,
        end: Option<(Walk, bool)>,
    ) -> Result<Row, Error> {
        let (from, joined) = end.unwrap_or((Walk::from(genesis(self.id), 1), true));
        let mut row = Row::from(from, self.id);
        let dir = live::dir_of(self.dir);
        let looked = live::look(self.dir, survey, self.keys, from, |entry| {
            self.note(&mut row, entry);
            Ok(())
        })?;
        row.released = looked.released;
        row.walk = looked.walk;
        // Where the last closed file is broken off, what follows it can't be told.
        row.finding = looked.finding.filter(|_| joined || row.entries > 0);
        if row.finding.is_none() {
            let media = self.options.media.clone();
            let options = esker_wal::VerifyOptions {
                media,
                threads: 1,
                ..esker_wal::VerifyOptions::default()
            };
            let found = match esker_wal::verify(&dir, &options) {
                Err(OpenError::NotFound { .. }) => return Ok(row),
                other => other?,
            };
            row.finding = (found.damage.first())
                .map(|damage| live::damaged(self.dir, &damage.to_string(), row.walk.next));
        }
        Ok(row)
    }

    /// Whether the first entry follows the beginning, or what retention left.
    fn check_beginning(
        &self,
        first: Option<Walk>,
        tombstone: Option<&Tombstone>,
        names: &[String],
        findings: &mut Vec<Finding>,
    ) {
        let name = names.first().map_or(live::LIVE, String::as_str);
        let Some(first) = first else {
            return;
        };
        if first.next == 1 {
            if first.root != genesis(self.id) {
                let what = "the first record does not follow the beginning of the trail";
                findings.push(self.finding(FindingKind::Changed, name, Some(1), what));
            }
            return;
        }
        let (kind, from, what) = match tombstone {
            Some(t) if !t.signed => (
                FindingKind::Signature,
                1,
                "the newest tombstone is not signed by a key of the trail".to_owned(),
            ),
            Some(t) if t.last + 1 == first.next && t.root == first.root.to_string() => return,
            // The crash came before all was removed.
            Some(t) if t.last >= first.next => return,
            Some(t) => (
                FindingKind::Missing,
                t.last + 1,
                format!(
                    "records {} to {} are missing: retention removed those before",
                    t.last + 1,
                    first.next - 1
                ),
            ),
            None => (
                FindingKind::Missing,
                1,
                format!(
                    "records 1 to {} are missing, and no tombstone says why",
                    first.next - 1
                ),
            ),
        };
        findings.push(self.finding(kind, name, Some(from), &what));
    }

    fn check_head(
        &self,
        head: Option<head::Found>,
        last: u64,
        roots: &BTreeMap<u64, Root>,
        findings: &mut Vec<Finding>,
    ) -> u64 {
        let mut say = |kind, sequence, what: &str| {
            findings.push(self.finding(kind, HEAD, sequence, what));
        };
        let Some(found) = head else {
            say(
                FindingKind::Head,
                None,
                "it is missing: a cut tail would not be seen",
            );
            return 0;
        };
        if found.damaged {
            say(FindingKind::Head, None, "it is not what was written");
        }
        let Some(said) = found.head else {
            return 0;
        };
        if said.trail != self.id {
            say(FindingKind::Foreign, None, "it is another trail's");
            return 0;
        }
        if said.sequence > last {
            let what = format!(
                "records {} to {} were synced, and are missing",
                last + 1,
                said.sequence
            );
            say(FindingKind::TailCut, Some(last + 1), &what);
        } else if roots
            .get(&said.sequence)
            .is_some_and(|root| *root != said.root)
        {
            let what = "the record that it names is another";
            say(FindingKind::Changed, Some(said.sequence), what);
        }
        said.sequence
    }

    /// Whether the trail holds what a checkpoint saw, the one of the file `name` or, without a name, one from elsewhere.
    fn check_anchor(
        &self,
        against: &Checkpoint,
        name: &str,
        first: Option<Walk>,
        last: u64,
        roots: &BTreeMap<u64, Root>,
        findings: &mut Vec<Finding>,
    ) -> Anchored {
        let at = Some(against.sequence);
        let mut say = |kind, what: &str| {
            findings.push(self.finding(kind, name, at, what));
            Anchored::Breaks
        };
        if against.trail != self.id {
            return say(FindingKind::Foreign, "the checkpoint is another trail's");
        }
        if against.sequence > last {
            let what = format!(
                "the trail ends at {last}; the checkpoint of {} saw {}: this is an older copy, or its end was cut off",
                against.time, against.sequence
            );
            return say(FindingKind::OldCopy, &what);
        }
        match roots.get(&against.sequence) {
            Some(root) if *root == against.root => Anchored::Holds,
            Some(_) => say(
                FindingKind::Forked,
                "the checkpoint saw another record there: the trail was rebuilt with its key, or is a copy that went its own way",
            ),
            None if first.is_some_and(|first| against.sequence < first.next) => Anchored::TooOld,
            None => say(
                FindingKind::Missing,
                "the record that the checkpoint saw is missing or damaged",
            ),
        }
    }
}

/// Adds up rows.
fn gather(all: &mut Row, row: Row, findings: &mut Vec<Finding>) {
    all.entries += row.entries;
    all.bytes += row.bytes;
    all.dropped += row.dropped;
    all.roots.extend(row.roots);
    all.tombstone = row.tombstone.or(all.tombstone.take());
    findings.extend(row.finding);
}
