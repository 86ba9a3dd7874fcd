//! Reading all that is left of a log, and verifying it.
//!
//! - V1: what verifies is handed out in order, each frame once; what lies between is reported as lost, to the LSN.
//! - V2: below the synced point a break loses what is up to the next frame that verifies at its own place, up to the
//!   next segment, or up to the synced point; the walk goes on behind it. At or above the synced point a break is the end,
//!   as it is for recovery.
//! - V3: a log that is open meanwhile goes on. Frames in the making are above the synced point as it was read before them; a
//!   segment that was let go is left out; what else looks damaged is looked at again before it is reported.

use crate::cursor::{Broken, Cursor, Step};
use crate::damage::{Damage, DamageKind, LsnRange};
use crate::error::{LogError, OpenError};
use crate::frame::{HEADER_LEN, Header, Mark, fold};
use crate::ids::{ChainHash, Epoch, LogId, Lsn, NodeId};
use crate::log::Log;
use crate::media::real::RealMedia;
use crate::media::{Media, MediaFile, MediaMap};
use crate::reader::FrameRef;
use crate::segment::{self, FOOTER_LEN, Footer, MARK_AT, SECTOR, SegmentHeader};
use crate::survey::{Found, Survey};
use esker_sync::workers::share_out;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes between two reports of progress.
const REPORT_EVERY: u64 = 4 << 20;

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of frames read.
    pub done: u64,
    /// Of how many, about.
    pub of: u64,
}

/// Called by the threads that verify, now and then.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// Options of [`verify`].
#[derive(Clone)]
pub struct VerifyOptions {
    /// Threads, each with one segment at a time. Default: as many as there are cores.
    pub threads: usize,
    /// Default: nobody is told.
    pub progress: Option<OnProgress>,
    /// Default: the operating system's files.
    pub media: Arc<dyn Media>,
}

impl std::fmt::Debug for VerifyOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifyOptions")
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Default for VerifyOptions {
    fn default() -> Self {
        VerifyOptions {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            progress: None,
            media: Arc::new(RealMedia::default()),
        }
    }
}

/// What a verification found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Identity of the log.
    pub log: LogId,
    /// Identity of the node.
    pub node: NodeId,
    /// Oldest LSN held.
    pub oldest: Lsn,
    /// End of the log, as the next open would find it.
    pub end: Lsn,
    /// Everything below was on stable storage, by the log's own marks.
    pub synced: Lsn,
    /// Segments read.
    pub segments: u64,
    /// Frames that verify.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong, by LSN.
    pub damage: Vec<Damage>,
}

impl Verified {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty()
    }

    /// The parts of the log that are lost, in order, those that touch joined.
    #[must_use]
    pub fn lost(&self) -> Vec<LsnRange> {
        let mut ranges: Vec<LsnRange> = self.damage.iter().filter_map(|d| d.lost).collect();
        ranges.sort();
        let mut out: Vec<LsnRange> = Vec::new();
        for range in ranges.into_iter().filter(|r| r.from < r.to) {
            match out.last_mut().filter(|last| last.to >= range.from) {
                Some(last) => last.to = last.to.max(range.to),
                None => out.push(range),
            }
        }
        out
    }
}

/// Verifies every byte that the log in `dir` holds: frames, headers, marks, footers, chain hashes. Changes nothing and takes
/// no lock: a log may be open there. Fails only where it could not run.
pub fn verify(dir: &Path, options: &VerifyOptions) -> Result<Verified, OpenError> {
    let first = Survey::of(dir, options.media.clone())?.verify(options);
    if first.is_clean() {
        return Ok(first);
    }
    // V3.
    let mut again = Survey::of(dir, options.media.clone())?.verify(options);
    again.damage.retain(|d| {
        let same = |o: &&Damage| (o.kind, &o.path, o.lost) == (d.kind, &d.path, d.lost);
        first.damage.iter().find(same).is_some()
    });
    Ok(again)
}

impl Log {
    /// Verifies every byte that this log holds, as [`verify`] does, while it goes on; nothing is let go meanwhile. Ranges found
    /// lost are [`Log::damaged`] from then on.
    pub fn verify(
        &self,
        threads: usize,
        progress: Option<OnProgress>,
    ) -> Result<Verified, LogError> {
        let _pin = self.reader(self.oldest(), crate::ReadLimit::Published)?;
        let options = VerifyOptions {
            threads,
            progress,
            media: self.shared().options.media.clone(),
        };
        let shared = self.shared();
        let verified = verify(&shared.dir, &options).map_err(|error| LogError::Io {
            doing: "verifying",
            path: shared.dir.clone(),
            source: Arc::new(io::Error::other(error)),
        })?;
        for range in verified.lost() {
            shared.add_damaged(range);
        }
        Ok(verified)
    }
}

/// A file whose pages that can't be read are zeros.
#[derive(Debug)]
struct Forgiving(Arc<dyn MediaFile>);

impl MediaFile for Forgiving {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Ok(n) = self.0.read_at(buf, offset) {
            return Ok(n);
        }
        let mut at = 0;
        while at < buf.len() {
            let page = 4096 - (offset + at as u64) as usize % 4096;
            let end = buf.len().min(at + page);
            let piece = &mut buf[at..end];
            if self.0.read_exact_at(piece, offset + at as u64).is_err() {
                piece.fill(0);
            }
            at = end;
        }
        Ok(buf.len())
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.0.is_at(path)
    }

    fn punch(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn map(&self, _: usize) -> io::Result<Box<dyn MediaMap>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What comes next in a segment.
#[derive(Clone, Copy, Debug)]
enum Next {
    Frame(Header),
    Lost(LsnRange, Broken),
    End,
}

/// Goes through one segment (V2).
#[derive(Debug)]
struct Walk {
    cursor: Cursor,
    at: Lsn,
    limit: Lsn,
    /// Base of the segment behind it.
    next: Option<Lsn>,
    synced: Lsn,
    ended: bool,
}

impl Walk {
    fn new(found: &Found, next: Option<Lsn>, synced: Lsn) -> Walk {
        let file = Arc::new(Forgiving(found.file.clone()));
        Walk {
            cursor: Cursor::over(file, found.base(), found.seed()),
            at: found.base(),
            limit: found.limit,
            next,
            synced,
            ended: false,
        }
    }

    fn step(&mut self) -> io::Result<Next> {
        if self.ended || Some(self.at) == self.next {
            return Ok(Next::End);
        }
        match self.cursor.read(self.at, self.limit)? {
            Step::Frame { header } => {
                self.at = header.end();
                Ok(Next::Frame(header))
            }
            Step::Broken(_) if self.at >= self.synced => {
                self.ended = true;
                Ok(Next::End)
            }
            Step::Broken(broken) => {
                let from = self.at;
                let good = self.next_good(from.advance(8))?;
                let to = good.or(self.next).unwrap_or(Lsn::MAX).min(self.synced);
                self.ended = good != Some(to);
                self.at = to;
                Ok(Next::Lost(LsnRange { from, to }, broken))
            }
        }
    }

    /// The first place from `at` on where a frame verifies.
    fn next_good(&mut self, mut at: Lsn) -> io::Result<Option<Lsn>> {
        while at.0 + HEADER_LEN as u64 <= self.limit.0 {
            if let Step::Frame { .. } = self.cursor.read(at, self.limit)? {
                return Ok(Some(at));
            }
            at = at.advance(8);
        }
        Ok(None)
    }
}

/// What one segment holds.
#[derive(Debug, Default)]
struct Swept {
    lost: Vec<(LsnRange, Broken)>,
    end: Lsn,
    frames: u64,
    bytes: u64,
    bad_mark: Option<Lsn>,
    /// Folded over the frames, where there is no break in them.
    chain: Option<ChainHash>,
    /// It was let go, or could not be read at all.
    gone: Option<Option<io::Error>>,
}

/// What is lost of a segment, by kind, and where the log goes on (V2).
pub(crate) fn losses(
    found: &Found,
    next: Option<Lsn>,
    synced: Lsn,
) -> io::Result<(Vec<Damage>, Lsn)> {
    let mut walk = Walk::new(found, next, synced);
    let mut lost = Vec::new();
    loop {
        match walk.step()? {
            Next::Frame(_) => {}
            Next::Lost(range, broken) => lost.push(lost_in(found, range, broken)),
            Next::End => return Ok((lost, walk.at)),
        }
    }
}

fn lost_in(found: &Found, range: LsnRange, broken: Broken) -> Damage {
    let from = range.from;
    let at_its_end =
        found.footer.is_some_and(|f| f.end == from) || from.0 + HEADER_LEN as u64 > found.limit.0;
    let damage = match at_its_end {
        true => Damage::new(
            DamageKind::MissingSegment,
            &found.path,
            "the segment behind it is missing",
        ),
        false => Damage::new(DamageKind::Frames, &found.path, broken.what)
            .sums(broken.stored, broken.computed),
    };
    damage.of_segment(found.id()).losing(range.from, range.to)
}

impl Survey {
    fn next_base(&self, at: usize) -> Option<Lsn> {
        self.scan.live.get(at + 1).map(Found::base)
    }

    /// The chain hash at the base of a segment, from what is written beside its frames.
    pub(crate) fn chain_at(&self, at: usize) -> Option<ChainHash> {
        let live = &self.scan.live;
        let found = &live[at];
        let before = at.checked_sub(1).and_then(|at| live[at].footer);
        let born = found.base() == self.meta.birth && !self.meta_guessed;
        (found.header.chain)
            .or(born.then_some(self.meta.chain))
            .or(before.filter(|f| f.end == found.base()).map(|f| f.chain))
    }

    fn sweep(&self, at: usize, done: &dyn Fn(u64)) -> Swept {
        let found = &self.scan.live[at];
        let epoch = found.epoch();
        let mut walk = Walk::new(found, self.next_base(at), self.synced);
        let mut swept = Swept {
            chain: self.chain_at(at),
            ..Swept::default()
        };
        let mut reported = walk.at;
        loop {
            match walk.step() {
                Ok(Next::Frame(header)) => {
                    swept.frames += 1;
                    swept.bytes += header.frame_len() as u64;
                    swept.chain = swept.chain.map(|chain| fold(chain, epoch, &header));
                    let mark = walk.cursor.mark(&header);
                    if mark.iter().any(|b| *b != 0)
                        && Mark::decode(&mark, self.meta.node, epoch, header.lsn).is_none()
                    {
                        swept.bad_mark.get_or_insert(header.lsn);
                    }
                    if walk.at.since(reported) >= REPORT_EVERY {
                        done(walk.at.since(reported));
                        reported = walk.at;
                    }
                }
                Ok(Next::Lost(range, broken)) => {
                    swept.lost.push((range, broken));
                    swept.chain = None;
                }
                Ok(Next::End) => break,
                Err(e) => {
                    swept.gone = Some(Some(e));
                    break;
                }
            }
        }
        done(walk.at.since(reported));
        swept.end = walk.at;
        if (!swept.lost.is_empty() || swept.bad_mark.is_some()) && !found.still_there() {
            swept.gone = Some(None);
        }
        swept
    }

    /// Reads and verifies every frame, and what stands beside them.
    #[must_use]
    pub fn verify(&self, options: &VerifyOptions) -> Verified {
        let live = &self.scan.live;
        let total: u64 = (0..live.len())
            .map(|at| {
                let known = self.next_base(at).unwrap_or(self.synced);
                known.0.saturating_sub(live[at].base().0)
            })
            .sum();
        let read = AtomicU64::new(0);
        let swept = share_out("esker-verify", options.threads, live.len(), |at| {
            self.sweep(at, &|bytes| {
                let done = read.fetch_add(bytes, Ordering::Relaxed) + bytes;
                if let Some(progress) = &options.progress {
                    progress(Progress {
                        done,
                        of: total.max(done),
                    });
                }
            })
        });
        self.put_together(swept.into_iter())
    }

    fn put_together(&self, all: impl Iterator<Item = Swept>) -> Verified {
        let live = &self.scan.live;
        let mut verified = Verified {
            log: self.meta.log,
            node: self.meta.node,
            oldest: self.oldest(),
            end: self.oldest(),
            synced: self.synced,
            segments: 0,
            frames: 0,
            bytes: 0,
            damage: self.damage.clone(),
        };
        let unfounded = |first: &&Found| {
            let chain_now = first.header_now().and_then(|h| h.chain);
            self.chain_at(0).is_none() && chain_now.is_none() && first.still_there()
        };
        if let Some(first) = live.first().filter(unfounded) {
            let what = "the segment before it is missing";
            verified.damage.push(
                Damage::new(DamageKind::MissingSegment, &first.path, what).of_segment(first.id()),
            );
        }
        if live.is_empty() && self.synced > self.meta.birth {
            let what = "all segments are missing";
            let damage = Damage::new(DamageKind::MissingSegment, &self.dir, what);
            verified
                .damage
                .push(damage.losing(self.meta.birth, self.synced));
            verified.end = self.synced;
        }
        for (at, swept) in all.enumerate() {
            let found = &live[at];
            if found.base() > verified.end && at > 0 {
                // Cut by the next open.
                break;
            }
            verified.segments += 1;
            verified.end = swept.end;
            if let Some(why) = swept.gone {
                verified.end = self.next_base(at).unwrap_or(swept.end);
                if let Some(error) = why {
                    let damage =
                        Damage::new(DamageKind::Unreadable, &found.path, error.to_string());
                    let damage = damage.of_segment(found.id());
                    verified
                        .damage
                        .push(damage.losing(found.base(), verified.end));
                }
                continue;
            }
            verified.frames += swept.frames;
            verified.bytes += swept.bytes;
            if let Some(lsn) = swept.bad_mark {
                let what = format!("the mark of the frame at LSN {lsn}");
                let damage = Damage::new(DamageKind::Mark, &found.path, what);
                verified.damage.push(damage.of_segment(found.id()));
            }
            verified.damage.extend(self.beside(at, &swept));
            for (range, broken) in swept.lost {
                verified.damage.push(lost_in(found, range, broken));
            }
        }
        verified
            .damage
            .sort_by_key(|d| d.lost.map_or(Lsn::ZERO, |lost| lost.from));
        verified
    }

    /// What is wrong beside the frames of a segment, whose loss harms none of them.
    fn beside(&self, at: usize, swept: &Swept) -> Vec<Damage> {
        let mut out = self.beside_now(at, swept);
        // It may be another segment by now.
        if !out.is_empty() && !self.scan.live[at].still_there() {
            out.clear();
        }
        out
    }

    fn beside_now(&self, at: usize, swept: &Swept) -> Vec<Damage> {
        let found = &self.scan.live[at];
        let mut out = Vec::new();
        let mut say = |kind, what: &str| {
            out.push(Damage::new(kind, &found.path, what).of_segment(found.id()));
        };
        let mut head = [0; 3 * SECTOR];
        if found.rebuilt || found.file.read_exact_at(&mut head, 0).is_err() {
            return out;
        }
        let zeros = |bytes: &[u8]| bytes.iter().all(|b| *b == 0);
        // Not as it was surveyed: it may have been written since.
        let sector = head.first_chunk().expect("a sector");
        let chain = SegmentHeader::decode(sector).ok().and_then(|h| h.chain);
        if found.header.chain.or(chain).is_none() && !zeros(&head[128..152]) {
            say(DamageKind::Chain, "the chain hash in the segment's header");
        }
        if !zeros(&head[104..128]) || !zeros(&head[152..SECTOR]) {
            say(
                DamageKind::Header,
                "bytes of the segment's header that are zero",
            );
        }
        for mark in MARK_AT {
            let sector = &head[mark as usize..][..SECTOR];
            let intact = segment::SectorMark::decode(sector, found.id(), self.meta.node)
                .is_some_and(|m| m.place() == mark);
            if !zeros(&sector[intact as usize * 64..]) {
                say(DamageKind::Mark, "a mark sector");
            }
        }
        let Some(next) = self.next_base(at) else {
            return out;
        };
        if swept.end != next || !swept.lost.is_empty() {
            return out;
        }
        let known = self.scan.live[at + 1].header.chain;
        if let (Some(known), Some(chain)) = (known, swept.chain)
            && known != chain
        {
            say(
                DamageKind::Chain,
                "the chain hash of its frames is not the one in the next segment's header",
            );
        }
        let mut sector = [0; SECTOR];
        let place = found.header.identity.bytes - FOOTER_LEN;
        if found.file.read_exact_at(&mut sector, place).is_err() {
            return out;
        }
        // Nearly the footer that should be there, and not it: one that was written is damaged. A file used again has
        // a former life's until then. What the hash is at the base nobody may know: power that went before the footer of the
        // segment before was synced, and this header's hash; then only the other fields are held against it.
        let written = !zeros(&sector[..64])
            && Footer::intact_of_any(&sector).is_none_or(|id| id == found.id());
        let Some(chain) = swept.chain.or(written.then(|| Footer::chain_in(&sector))) else {
            return out;
        };
        // The log that is open meanwhile may have given the slack back, which the footer says.
        let now = Footer::decode(&sector, found.id(), found.base()).or(found.footer);
        let footer = Footer {
            base: found.base(),
            end: swept.end,
            chain,
            frames: swept.frames,
            punched: now.is_some_and(|f| f.punched),
        };
        let expected = footer.encode(found.id());
        let same = (sector[..64].iter().zip(&expected)).filter(|(a, b)| a == b);
        match found.footer {
            Some(_) if sector[..64] == expected[..64] => {
                // Behind it stands when it was written, and that time's check.
                let timed = segment::stamped(&sector, found.id()) != 0 || zeros(&sector[64..76]);
                if !timed || !zeros(&sector[76..]) {
                    say(DamageKind::Footer, "what stands behind the footer");
                }
            }
            Some(footer) if footer.end == swept.end => {
                say(DamageKind::Chain, "the footer is not that of its frames");
            }
            // Of frames that were cut since.
            Some(_) => {}
            None if same.count() >= 48 => say(DamageKind::Footer, "the segment's footer"),
            None => {}
        }
        out
    }

    /// What there is from `from` on, in order: frames that verify, and what is lost between them.
    #[must_use]
    pub fn pieces(&self, from: Lsn) -> Pieces<'_> {
        let live = &self.scan.live;
        let at = live.partition_point(|f| f.base() <= from).saturating_sub(1);
        Pieces {
            survey: self,
            from,
            at,
            walk: None,
        }
    }

    /// As [`Survey::pieces`], without reading what is before: `at` must be a [`Pieces::position`] of this survey. What was let go meanwhile may be
    /// missing without a word at the end: who knows how far it reached compares.
    #[must_use]
    pub fn pieces_at(&self, at: Lsn) -> Pieces<'_> {
        let mut pieces = self.pieces(at);
        if let Some(found) = self.scan.live.get(pieces.at) {
            let mut walk = Walk::new(found, self.next_base(pieces.at), self.synced);
            walk.at = at.max(walk.at);
            pieces.walk = Some(walk);
        }
        pieces
    }
}

/// What comes next of a log.
#[derive(Clone, Debug)]
pub enum Piece<'a> {
    /// A frame that verifies.
    Frame(FrameRef<'a>),
    /// A part of the log that is lost.
    Lost(Damage),
    /// What the log that is open meanwhile let go before it was read.
    Released(LsnRange),
}

/// Goes through what is left of a log; see [`Survey::pieces`].
#[derive(Debug)]
pub struct Pieces<'a> {
    survey: &'a Survey,
    from: Lsn,
    at: usize,
    walk: Option<Walk>,
}

impl Pieces<'_> {
    /// The next piece; `None` at the end.
    #[expect(
        clippy::should_implement_trait,
        reason = "what it lends ends with the next call"
    )]
    pub fn next(&mut self) -> Result<Option<Piece<'_>>, OpenError> {
        let live = &self.survey.scan.live;
        loop {
            let Some(found) = live.get(self.at) else {
                return Ok(None);
            };
            let next = self.survey.next_base(self.at);
            let walk =
                (self.walk).get_or_insert_with(|| Walk::new(found, next, self.survey.synced));
            match walk
                .step()
                .map_err(crate::damage::io_error("reading", &found.path))?
            {
                Next::Frame(header) if header.lsn < self.from => {}
                Next::Frame(header) => return Ok(Some(self.frame(header))),
                Next::Lost(range, _) if range.to <= self.from => {}
                // The file is another segment's by now: no frame of this one is left in it.
                Next::Lost(range, _) if !found.still_there() => {
                    walk.at = next.unwrap_or(self.survey.synced);
                    walk.ended = true;
                    return Ok(Some(Piece::Released(LsnRange {
                        from: range.from.max(self.from),
                        to: walk.at,
                    })));
                }
                Next::Lost(range, broken) => {
                    return Ok(Some(Piece::Lost(lost_in(found, range, broken))));
                }
                Next::End if next == Some(walk.at) => {
                    self.at += 1;
                    self.walk = None;
                }
                Next::End => return Ok(None),
            }
        }
    }

    fn frame(&self, header: Header) -> Piece<'_> {
        let walk = self.walk.as_ref().expect("a frame was read");
        Piece::Frame(FrameRef {
            header,
            epoch: self.epoch(),
            payload: walk.cursor.payload(&header),
        })
    }

    /// Epoch of the segment that is being read.
    fn epoch(&self) -> Epoch {
        self.survey.scan.live[self.at].epoch()
    }

    /// LSN behind the last piece.
    #[must_use]
    pub fn position(&self) -> Lsn {
        let base = self.survey.scan.live.get(self.at).map(Found::base);
        let walked = self.walk.as_ref().map(|w| w.at);
        walked.or(base).unwrap_or(self.survey.synced)
    }
}
