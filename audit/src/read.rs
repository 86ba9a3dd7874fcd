//! Reading a trail: what is asked for, in order, with bounded memory.
//!
//! - RD1: records come in the order of their sequences, or the other way; each once.
//! - RD2: one block of a closed file, or one stretch of the live log of about the same size, is in memory at a time. Blocks that can't hold what is asked for, by their sequences and
//!   times, are not read.
//! - RD3: the trail may be written meanwhile: what was in the live log and is in a closed file by now is read there. Records written after the query began need not be
//!   among the answers; ask again behind the last one to follow the trail.
//! - RD4: what does not verify is an error that names it, not an answer: blocks of closed files by their keyed hash, records of the live log by the chain's.
//!   Whether all is there is not asked here; [`crate::verify`] asks it.
//! - RD5: who follows the trail ([`Records::renew`]) reads what is new of the live log, and closed files only where the live log let go of something unread.

use crate::chain::Break;
use crate::closed::{Bad, Closed, ClosedFile, Entries, SUFFIX, file_name};
use crate::entry::{Entry, Head, Kind, Root, genesis};
use crate::error::{Error, io_error};
use crate::finding::{Finding, FindingKind};
use crate::head::{self, HEAD};
use crate::key::Keyring;
use crate::live;
use crate::open::{closed_names, identity};
use crate::record::{Outcome, Severity};
use crate::upkeep::bad_file;
use esker_wal::media::Media;
use esker_wal::media::real::RealMedia;
use esker_wal::{Kind as FrameKind, LogId, Lsn, OpenError, Piece, Survey};
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the live log that are read at once, about.
const STRETCH: u64 = 256 << 10;
/// How often it plans anew, because files came and went, without an entry passed, or the oldest file gone, between two plans.
const AGAIN: usize = 20;

/// In which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// The first first.
    #[default]
    Oldest,
    /// The last first.
    Newest,
}

/// What is asked for; what is `None` or empty asks for nothing in particular. Texts are compared whole, but where they end with `*`: then by what is before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// In which order.
    pub order: Order,
    /// Not before, nanoseconds since 1970.
    pub since: Option<u64>,
    /// Before, nanoseconds since 1970.
    pub until: Option<u64>,
    /// Behind this sequence in the order of the query: a cursor.
    pub after: Option<u64>,
    /// Of this actor (`user.id` or `user.name`).
    pub actor: Option<String>,
    /// `event.action`.
    pub action: Option<String>,
    /// `esker.resource.id`, or `TYPE:ID`.
    pub resource: Option<String>,
    /// `source.address`.
    pub address: Option<String>,
    /// `organization.id`.
    pub tenant: Option<String>,
    /// `http.request.id`.
    pub request: Option<String>,
    /// `event.outcome`.
    pub outcome: Option<Outcome>,
    /// At least so grave.
    pub severity: Option<Severity>,
    /// Somewhere in the record, as it is stored.
    pub text: Option<String>,
    /// Without the trail's own records.
    pub without_own: bool,
}

fn fits(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => text.starts_with(begin),
        None => text == pattern,
    }
}

impl Query {
    /// Whether a stretch of sequences and times may hold an answer.
    fn may(&self, (first, last): (u64, u64), times: (u64, u64)) -> bool {
        let behind = self.after.is_none_or(|after| match self.order {
            Order::Oldest => last > after,
            Order::Newest => first < after,
        });
        behind
            && self.since.is_none_or(|since| times.1 >= since)
            && self.until.is_none_or(|until| times.0 < until)
    }

    fn of_head(&self, head: &Head) -> bool {
        let at = (head.sequence, head.sequence);
        self.may(at, (head.nanos, head.nanos))
            && self.severity.is_none_or(|least| head.severity >= least)
            && !(self.without_own && head.kind != Kind::Record)
    }

    fn of_body(&self, entry: &Entry<'_>) -> bool {
        if let Some(text) = &self.text {
            let (body, text) = (entry.body, text.as_bytes());
            let there = text.is_empty() || body.windows(text.len()).any(|w| w == text);
            if !there {
                return false;
            }
        }
        let outcome = self.outcome.map(|o| o.name().to_owned());
        let asked = [
            (&self.action, &["event.action"][..]),
            (&self.actor, &["user.id", "user.name"][..]),
            (&self.address, &["source.address"][..]),
            (&self.tenant, &["organization.id"][..]),
            (&self.request, &["http.request.id"][..]),
            (&outcome, &["event.outcome"][..]),
        ];
        if asked.iter().all(|(asked, _)| asked.is_none()) && self.resource.is_none() {
            return true;
        }
        let Ok(body) = serde_json::from_slice::<Map<String, Value>>(entry.body) else {
            return false;
        };
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        let matches = |pattern: &String, names: &[&str]| {
            (names.iter()).any(|name| text(name).is_some_and(|text| fits(pattern, text)))
        };
        let resource = self.resource.as_ref().is_none_or(|pattern| {
            let id = text("esker.resource.id").unwrap_or_default();
            let kind = text("esker.resource.type").unwrap_or_default();
            fits(pattern, id) || fits(pattern, &format!("{kind}:{id}"))
        });
        resource
            && (asked.iter()).all(|(asked, names)| asked.as_ref().is_none_or(|p| matches(p, names)))
    }
}

/// A record found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its fixed part.
    pub head: Head,
    /// Its fields, as [`Entry::fields`] names them.
    pub fields: Map<String, Value>,
    /// Its bytes as it is stored, not compressed.
    pub bytes: u64,
}

/// Where a stretch of entries is.
#[derive(Clone, Debug)]
enum Unit {
    File(PathBuf),
    Block(usize),
    Live(Stretch),
}

/// Of the live log, and the root before it, where that is known.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    from: Lsn,
    /// It ends there, or behind it: what came since is read too.
    least: Lsn,
    to: Lsn,
    before: Option<Root>,
    /// A frame of this survey begins at `from`: nothing before is read again.
    walked: bool,
}

/// How far the live log was read.
#[derive(Clone, Copy, Debug)]
struct Mark {
    log: LogId,
    at: Lsn,
    root: Option<Root>,
}

/// Answers a query; see the module.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
    media: Arc<dyn Media>,
    keys: Keyring,
    id: u64,
    query: Query,
    units: VecDeque<Unit>,
    file: Option<Closed>,
    live: Option<Survey>,
    ready: VecDeque<Found>,
    again: usize,
    /// Where the newest plan went on, and its oldest file.
    planned: (Option<u64>, Option<String>),
    read_to: Option<Mark>,
    /// Closed files end there, and with this root.
    closed: Option<(u64, Root)>,
}

/// Reads a trail; takes no lock and changes nothing.
#[derive(Clone, Debug)]
pub struct Reader {
    dir: PathBuf,
    media: Arc<dyn Media>,
    keys: Keyring,
    id: u64,
}

impl Reader {
    /// Of the trail in `dir`, on files of the operating system.
    pub fn open(dir: &Path, keys: Keyring) -> Result<Reader, Error> {
        Reader::open_on(dir, keys, Arc::new(RealMedia::default()))
    }

    /// Of the trail in `dir` on another medium.
    pub fn open_on(dir: &Path, keys: Keyring, media: Arc<dyn Media>) -> Result<Reader, Error> {
        let id = identity(&*media, dir, &keys)?;
        let id = id.ok_or_else(|| Error::NotFound {
            dir: dir.to_owned(),
        })?;
        Ok(Reader {
            dir: dir.to_owned(),
            media,
            keys,
            id,
        })
    }

    /// Identity of the trail.
    #[must_use]
    pub fn trail(&self) -> u64 {
        self.id
    }

    /// What answers `query`.
    pub fn query(&self, query: Query) -> Result<Records, Error> {
        let mut records = Records {
            dir: self.dir.clone(),
            media: self.media.clone(),
            keys: self.keys.clone(),
            id: self.id,
            query,
            units: VecDeque::new(),
            file: None,
            live: None,
            ready: VecDeque::new(),
            again: AGAIN,
            planned: (None, None),
            read_to: None,
            closed: None,
        };
        records.plan()?;
        Ok(records)
    }

    /// By how much the time that retention by age goes by was behind the wall clock when `HEAD` was written last; `None` where that is not known.
    pub fn retention_behind(&self) -> Result<Option<Duration>, Error> {
        let head = head::load(&*self.media, &self.dir, &self.keys);
        let head = head.map_err(io_error("reading", &self.dir.join(HEAD)))?;
        let said = head.and_then(|found| found.head);
        let said = said.filter(|head| head.trail == self.id && head.aged > 0);
        Ok(said.map(|head| Duration::from_nanos(head.nanos.saturating_sub(head.aged))))
    }

    /// What the closed files say of themselves, oldest first. One that is removed meanwhile is left out.
    pub fn closed_files(&self) -> Result<Vec<ClosedFile>, Error> {
        let names =
            closed_names(&*self.media, &self.dir).map_err(io_error("listing", &self.dir))?;
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let path = self.dir.join(name);
            match Closed::open(&*self.media, &path, &self.keys) {
                Ok(file) => files.push(file.info),
                Err(Bad::Io(e)) if e.kind() == io::ErrorKind::NotFound => {}
                Err(bad) => return Err(bad_file(&path, bad)),
            }
        }
        Ok(files)
    }
}

/// A stretch that was there when it was planned, and is not any more.
struct Gone;

impl Records {
    /// What is to be read, in order. The live log is looked at first: what is closed meanwhile is in the list of files then.
    fn plan(&mut self) -> Result<(), Error> {
        while let Err(Gone) = self.plan_once()? {
            self.go_again()?;
        }
        Ok(())
    }

    /// Counts a stretch that was there when it was planned, and is not any more.
    fn go_again(&mut self) -> Result<(), Error> {
        self.again -= 1;
        if self.again > 0 {
            return Ok(());
        }
        let source = io::Error::other("files come and go faster than they are read");
        Err(io_error("reading", &self.dir)(source))
    }

    fn plan_once(&mut self) -> Result<Result<(), Gone>, Error> {
        let oldest = self.query.order == Order::Oldest;
        let dir = live::dir_of(&self.dir);
        self.live = match Survey::of(&dir, self.media.clone()) {
            Ok(survey) => Some(survey),
            Err(OpenError::NotFound { .. }) => None,
            Err(e) => return Err(e.into()),
        };
        let read_to = self.read_to.filter(|mark| {
            (self.live.as_ref()).is_some_and(|s| s.log_id() == mark.log && s.oldest() <= mark.at)
        });
        // All that is unread was in the live log when it was looked at (RD5).
        let names = match read_to {
            Some(_) => Vec::new(),
            None => {
                closed_names(&*self.media, &self.dir).map_err(io_error("listing", &self.dir))?
            }
        };
        if let Some(name) = names.last() {
            // One that is gone or damaged is met again where it is read.
            let newest = Closed::open(&*self.media, &self.dir.join(name), &self.keys).ok();
            let newest = newest.filter(|file| self.check_file(&file.info).is_ok());
            self.closed = newest.map(|file| (file.info.last, file.info.root));
        }
        let mut stretches = Vec::new();
        // Newest first, the last stretch is answered before what it follows is read: the chain is walked here.
        let mut checked = !oldest;
        if let Some(survey) = &self.live {
            let mut stretch = Stretch {
                from: read_to.map_or(survey.oldest(), |mark| mark.at),
                least: Lsn::ZERO,
                to: Lsn(u64::MAX),
                before: read_to.and_then(|mark| mark.root),
                walked: false,
            };
            let mut root = stretch.before;
            let mut pieces = survey.pieces(stretch.from);
            while let Some(piece) = pieces.next()? {
                match piece {
                    Piece::Frame(frame) if frame.header.kind == FrameKind::Data => {
                        let entry = Entry::decode(frame.payload);
                        if let (Some(entry), true) = (&entry, checked)
                            && let Err(Gone) = self.check(entry, root)?
                        {
                            return Ok(Err(Gone));
                        }
                        root = entry.map(|entry| entry.root);
                    }
                    Piece::Frame(_) => {}
                    // Met again where it is read.
                    Piece::Lost(_) | Piece::Released(_) => checked = false,
                }
                let at = pieces.position();
                if at.since(stretch.from) >= STRETCH {
                    stretches.push(Unit::Live(Stretch {
                        to: at,
                        least: at,
                        ..stretch
                    }));
                    (stretch.from, stretch.before, stretch.walked) = (at, root, true);
                }
            }
            stretch.least = pieces.position();
            stretches.push(Unit::Live(stretch));
        }
        let planned = (self.query.after, names.first().cloned());
        if planned != self.planned {
            (self.planned, self.again) = (planned, AGAIN);
        }
        let first = |name: &String| name.trim_end_matches(SUFFIX).parse::<u64>().ok();
        let mut units = VecDeque::new();
        for (at, name) in names.iter().enumerate() {
            // What a cursor leaves behind is not even opened.
            let next = names.get(at + 1).and_then(first);
            let behind = self
                .query
                .after
                .is_some_and(|after| match self.query.order {
                    Order::Oldest => next.is_some_and(|next| next <= after.saturating_add(1)),
                    Order::Newest => first(name).is_some_and(|first| first >= after),
                });
            if !behind {
                units.push_back(Unit::File(self.dir.join(name)));
            }
        }
        units.extend(stretches);
        if !oldest {
            units = units.into_iter().rev().collect();
        }
        self.units = units;
        self.file = None;
        Ok(Ok(()))
    }

    /// After the end, oldest first: looks for what was written since; [`Records::next`] goes on with it.
    pub fn renew(&mut self) -> Result<(), Error> {
        self.again = AGAIN;
        self.plan()
    }

    /// The next record; `None` at the end.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator of results would go on after an error"
    )]
    pub fn next(&mut self) -> Result<Option<Found>, Error> {
        loop {
            if let Some(found) = self.ready.pop_front() {
                return Ok(Some(found));
            }
            let Some(unit) = self.units.pop_front() else {
                return Ok(None);
            };
            if let Err(Gone) = self.read(unit)? {
                self.go_again()?;
                self.plan()?;
            }
        }
    }

    fn read(&mut self, unit: Unit) -> Result<Result<(), Gone>, Error> {
        match unit {
            Unit::File(path) => {
                let file = match Closed::open(&*self.media, &path, &self.keys) {
                    // Retention removed it, or a query that began before it was closed reads on.
                    Err(Bad::Io(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(Err(Gone)),
                    other => other.map_err(|bad| bad_file(&path, bad))?,
                };
                self.check_file(&file.info)?;
                let info = &file.info;
                if !self.query.may((info.first, info.last), info.times) {
                    return Ok(Ok(()));
                }
                let blocks = (0..file.index.len()).map(Unit::Block);
                match self.query.order {
                    Order::Oldest => blocks.rev().for_each(|b| self.units.push_front(b)),
                    Order::Newest => blocks.for_each(|b| self.units.push_front(b)),
                }
                self.file = Some(file);
                Ok(Ok(()))
            }
            Unit::Block(at) => {
                let file = self.file.as_ref().expect("its file was opened before");
                let block = file.index[at];
                if !self.query.may((block.first, block.last), block.times) {
                    return Ok(Ok(()));
                }
                let path = file.info.path.clone();
                let raw = file.block(at).map_err(|bad| bad_file(&path, bad))?;
                let mut found = Vec::new();
                for entry in Entries::of(&raw) {
                    let entry = entry.ok_or_else(|| self.damaged(&path, "no record"))?;
                    self.keep(&mut found, &entry);
                }
                self.put(found);
                self.pass(block.first, block.last);
                Ok(Ok(()))
            }
            Unit::Live(stretch) => {
                let survey = self.live.take().expect("it was surveyed");
                let read = self.read_live(&survey, stretch);
                self.live = Some(survey);
                read
            }
        }
    }

    fn read_live(&mut self, survey: &Survey, stretch: Stretch) -> Result<Result<(), Gone>, Error> {
        let mut pieces = match stretch.walked {
            true => survey.pieces_at(stretch.from),
            false => survey.pieces(stretch.from),
        };
        let mut found = Vec::new();
        let mut before = stretch.before;
        let mut passed: Option<(u64, u64)> = None;
        while pieces.position() < stretch.to {
            match pieces.next()? {
                None => break,
                Some(Piece::Released(_)) => return Ok(Err(Gone)),
                Some(Piece::Lost(damage)) => {
                    return Err(self.damaged(&damage.path, &damage.to_string()));
                }
                Some(Piece::Frame(frame)) => {
                    if frame.header.lsn >= stretch.to {
                        break;
                    }
                    if frame.header.kind == FrameKind::Data {
                        let entry = Entry::decode(frame.payload)
                            .ok_or_else(|| self.damaged(&live::dir_of(&self.dir), "no record"))?;
                        if let Err(Gone) = self.check(&entry, before)? {
                            return Ok(Err(Gone));
                        }
                        before = Some(entry.root);
                        let sequence = entry.head.sequence;
                        // The closed file has it too, and is read for it.
                        if self.closed.is_none_or(|(last, _)| sequence > last) {
                            passed = Some((passed.map_or(sequence, |p| p.0), sequence));
                            self.keep(&mut found, &entry);
                        }
                    }
                }
            }
        }
        // It was let go meanwhile, and what stands there is none of it.
        if pieces.position() < stretch.least {
            return Ok(Err(Gone));
        }
        self.put(found);
        if let Some((first, last)) = passed {
            self.pass(first, last);
        }
        if self.query.order == Order::Oldest {
            self.read_to = Some(Mark {
                log: survey.log_id(),
                at: pieces.position(),
                root: before,
            });
        }
        Ok(Ok(()))
    }

    /// Whether an entry of the live log follows what is before it (RD4).
    fn check(&self, entry: &Entry<'_>, before: Option<Root>) -> Result<Result<(), Gone>, Error> {
        let head = &entry.head;
        let path = live::dir_of(&self.dir);
        let broken = |broken, expected| {
            let at = Some(head.sequence);
            Err(Error::Tampered {
                dir: self.dir.clone(),
                finding: Box::new(Finding::of_break(broken, expected, at, &path)),
            })
        };
        let before = match (self.closed, before) {
            // Whatever stands before it in the live log: that may be another's.
            (Some((last, root)), _) if last + 1 == head.from => root,
            (Some((last, _)), _) if (head.from..head.sequence).contains(&last) => {
                return broken(Break::Again, last + 1);
            }
            (_, Some(before)) => before,
            (_, None) if head.from == 1 => genesis(self.id),
            // The files were listed after the live log was looked at.
            (Some((last, _)), None) if last < head.from => {
                return broken(Break::Missing { until: head.from }, last + 1);
            }
            // It is in a closed file too.
            (Some(_), None) => return Ok(Ok(())),
            (None, None) => {
                self.newest_is_bad()?;
                return match self.again {
                    // A file was closed meanwhile.
                    2.. => Ok(Err(Gone)),
                    _ => broken(Break::Missing { until: head.from }, 1),
                };
            }
        };
        let Some(key) = self.keys.get(head.key) else {
            let key = head.key;
            return Err(Error::NoKey { path, key });
        };
        match entry.follows(key, &before) {
            true => Ok(Ok(())),
            false => broken(Break::Changed, head.sequence),
        }
    }

    /// Fails where the newest closed file does not say what the live log follows.
    fn newest_is_bad(&self) -> Result<(), Error> {
        let names =
            closed_names(&*self.media, &self.dir).map_err(io_error("listing", &self.dir))?;
        let Some(name) = names.last() else {
            return Ok(());
        };
        let path = self.dir.join(name);
        match Closed::open(&*self.media, &path, &self.keys) {
            Ok(file) => self.check_file(&file.info),
            Err(Bad::Io(e)) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(bad) => Err(bad_file(&path, bad)),
        }
    }

    /// Whether a closed file is of this trail, and under its own name (RD4): another may be under the same key, and a copy hide what is between.
    fn check_file(&self, info: &ClosedFile) -> Result<(), Error> {
        let what = if info.trail != self.id {
            "a file of another trail"
        } else if !info.path.ends_with(file_name(info.first)) {
            "it had another name"
        } else {
            return Ok(());
        };
        Err(self.tampered(FindingKind::Foreign, &info.path, Some(info.first), what))
    }

    fn damaged(&self, path: &Path, what: &str) -> Error {
        self.tampered(FindingKind::Damaged, path, None, what)
    }

    fn tampered(&self, kind: FindingKind, path: &Path, at: Option<u64>, what: &str) -> Error {
        Error::Tampered {
            dir: self.dir.clone(),
            finding: Box::new(Finding {
                kind,
                path: path.to_owned(),
                sequence: at,
                what: what.to_owned(),
            }),
        }
    }

    fn keep(&self, found: &mut Vec<Found>, entry: &Entry<'_>) {
        if self.query.of_head(&entry.head) && self.query.of_body(entry) {
            found.push(Found {
                head: entry.head,
                fields: entry.fields(self.id),
                bytes: entry.bytes().len() as u64,
            });
        }
    }

    /// What is planned anew goes on behind these sequences.
    fn pass(&mut self, first: u64, last: u64) {
        let after = self.query.after;
        self.query.after = Some(match self.query.order {
            Order::Oldest => after.map_or(last, |after| after.max(last)),
            Order::Newest => after.map_or(first, |after| after.min(first)),
        });
    }

    fn put(&mut self, mut found: Vec<Found>) {
        if self.query.order == Order::Newest {
            found.reverse();
        }
        // What a closed file holds may be in the live log too.
        let last = self
            .ready
            .back()
            .map(|f| f.head.sequence)
            .or(self.query.after);
        found.retain(|f| {
            last.is_none_or(|last| match self.query.order {
                Order::Oldest => f.head.sequence > last,
                Order::Newest => f.head.sequence < last,
            })
        });
        self.ready.extend(found);
    }
}
