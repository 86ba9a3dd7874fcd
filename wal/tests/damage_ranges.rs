//! Every bit and every block of a log of several segments, damaged one at a time: what lies below a mark is reported, with the
//! LSNs that are lost and no others; what lies above every mark is a torn tail; nothing is taken for a frame that is none.
//! W2, W3, W4, E2.
//!
//! `ESKER_DAMAGE=all` flips every bit of every byte. Without, so do three segments' headers, marks and footers and the first
//! frame headers of each segment; of all other bytes one bit each is flipped. `ESKER_FROM` and `ESKER_SEEDS` run a piece of the cases,
//! `ESKER_SEED` a single one; `--nocapture` tells how many there are.

mod built;
mod harness;

use built::{Built, FRAMES_AT, Left, build, dir, image};
use esker_wal::frame::HEADER_LEN;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{SimMedia, SimRng};
use esker_wal::{
    DamageKind, Log, LogError, Lsn, LsnRange, OpenError, ReadLimit, Survey, Verified, VerifyOptions,
};
use harness::{options, seeds};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Where a frame's mark stands: outside of its checksum.
const MARK: Range<usize> = 16..30;

#[derive(Clone, Debug)]
enum Harm {
    Flip {
        at: u64,
        bits: u8,
    },
    Zeros {
        at: u64,
        len: u64,
    },
    /// With the block behind it.
    Swapped {
        at: u64,
        len: u64,
    },
    /// What the file before held there.
    Stale {
        at: u64,
        len: u64,
    },
}

#[derive(Clone, Debug)]
struct Case {
    path: PathBuf,
    harm: Harm,
}

struct World {
    built: Built,
    image: BTreeMap<PathBuf, Vec<u8>>,
    /// Media to damage, one per thread.
    media: Mutex<Vec<SimMedia>>,
}

impl World {
    fn new(left: Left) -> World {
        let built = build(left);
        World {
            image: image(&built.media),
            media: Mutex::default(),
            built,
        }
    }

    fn segments(&self) -> impl Iterator<Item = (&PathBuf, &Vec<u8>)> {
        let live = |path: &PathBuf| self.built.segments.iter().any(|s| s.path == *path);
        self.image.iter().filter(move |(path, _)| live(path))
    }

    /// Bytes of a segment's frames, in its file.
    fn frames(&self, path: &Path) -> Range<usize> {
        let segment = self.built.segments.iter().find(|s| s.path == path).unwrap();
        let at = FRAMES_AT as usize;
        at..at + segment.end.since(segment.base) as usize
    }

    fn harmed(&self, case: &Case) -> Vec<u8> {
        let mut bytes = self.image[&case.path].clone();
        let block = |at: u64, len: u64| at as usize..(at + len) as usize;
        match case.harm {
            Harm::Flip { at, bits } => bytes[at as usize] ^= bits,
            Harm::Zeros { at, len } => bytes[block(at, len)].fill(0),
            Harm::Swapped { at, len } => {
                let (front, back) = bytes.split_at_mut((at + len) as usize);
                front[at as usize..].swap_with_slice(&mut back[..len as usize]);
            }
            Harm::Stale { at, len } => {
                let before = self.image.range(..case.path.clone());
                let other = before
                    .map(|(_, bytes)| bytes)
                    .rfind(|b| b.len() == bytes.len());
                if let Some(other) = other {
                    bytes[block(at, len)].copy_from_slice(&other[block(at, len)]);
                }
            }
        }
        bytes
    }

    /// The frames in which bytes changed that are theirs, joined.
    fn touched(&self, path: &Path, bytes: &[u8]) -> Vec<LsnRange> {
        let Some(segment) = self.built.segments.iter().find(|s| s.path == path) else {
            return Vec::new();
        };
        let old = &self.image[path];
        let mut out: Vec<LsnRange> = Vec::new();
        for frame in self.built.of(segment) {
            let at = (FRAMES_AT + frame.lsn.since(segment.base)) as usize;
            let len = frame.end().since(frame.lsn) as usize;
            let same = (0..len)
                .filter(|n| !MARK.contains(n))
                .all(|n| old[at + n] == bytes[at + n]);
            if same {
                continue;
            }
            let range = LsnRange {
                from: frame.lsn,
                to: frame.end(),
            };
            match out.last_mut().filter(|last| last.to == range.from) {
                Some(last) => last.to = range.to,
                None => out.push(range),
            }
        }
        out
    }

    fn run(&self, case: &Case, n: u64) -> Result<(), String> {
        let bytes = self.harmed(case);
        let checked = match case.harm {
            Harm::Flip { at, bits } => {
                let pooled = self.media.lock().unwrap().pop();
                let media = pooled.unwrap_or_else(|| self.built.media.fork(n));
                media.flip(&case.path, at, bits).unwrap();
                let checked = self.check(case, &media, &bytes, n);
                media.flip(&case.path, at, bits).unwrap();
                self.media.lock().unwrap().push(media);
                checked
            }
            _ => {
                let media = self.built.media.fork(n);
                media.put(&case.path, &bytes).unwrap();
                self.check(case, &media, &bytes, n)
            }
        };
        checked.map_err(|e| format!("{} {:?}: {e}", case.path.display(), case.harm))
    }

    fn check(&self, case: &Case, media: &SimMedia, bytes: &[u8], n: u64) -> Result<(), String> {
        let old = &self.image[&case.path];
        let verified = verified(media)?;
        if bytes == old {
            return clean(&verified);
        }
        let touched = self.touched(&case.path, bytes);
        let above = touched.first().filter(|t| t.from >= self.built.synced);
        let lost: Vec<LsnRange> = (touched.iter())
            .filter(|t| t.from < self.built.synced)
            .map(|t| LsnRange {
                from: t.from,
                to: t.to.min(self.built.synced),
            })
            .collect();
        let segment = self.built.segments.iter().any(|s| s.path == case.path);
        let newer = segment
            && verified
                .damage
                .iter()
                .any(|d| d.kind == DamageKind::NewerFormat);
        // With its header, its marks and all of its frames, the newest segment says no more how far it went.
        let last = self.built.last();
        if case.path == last.path
            && matches!(case.harm, Harm::Swapped { at: 0, .. })
            && touched
                .first()
                .is_some_and(|t| *t == self.built.all_of(last))
        {
            return match verified.is_clean() {
                true => Err("not reported".to_owned()),
                false => Ok(()),
            };
        }
        // Nobody looks into a file of a newer format: all of it is lost.
        if !newer && verified.lost() != lost {
            return Err(format!(
                "lost {:?}, not {lost:?}: {:?}",
                verified.lost(),
                verified.damage
            ));
        }
        if let Some(torn) = above.filter(|t| lost.is_empty() && verified.end != t.from) {
            return Err(format!("ends at {}, torn at {torn}", verified.end));
        }
        let changed: Vec<usize> = (0..old.len()).filter(|at| old[*at] != bytes[*at]).collect();
        if self.must_be_reported(case, &changed, &lost, above.is_some()) && verified.is_clean() {
            return Err("not reported".to_owned());
        }
        // An open costs more: each block, and some of the bits.
        if !matches!(case.harm, Harm::Flip { .. }) || n.is_multiple_of(23) || newer {
            self.check_open(media, &lost, above.copied())?;
        }
        Ok(())
    }

    /// Whether the change is one that must not go unnoticed by a verification.
    fn must_be_reported(
        &self,
        case: &Case,
        changed: &[usize],
        lost: &[LsnRange],
        torn: bool,
    ) -> bool {
        if !lost.is_empty() {
            return true;
        }
        if torn {
            return false;
        }
        if self.built.segments.iter().all(|s| s.path != case.path) {
            let name = case.path.file_name().unwrap().to_str().unwrap();
            // A spare is there to be overwritten; of a prepared file the first line counts.
            return !name.ends_with(".spare")
                && (!name.ends_with(".seg") || changed.iter().any(|at| *at < 72));
        }
        let (frames, len) = (self.frames(&case.path), self.image[&case.path].len());
        // One that nobody synced before the power went is not there.
        let footer = &self.image[&case.path][len - 512..];
        let footed = footer.starts_with(b"ESKRFOOT");
        let zeroed = matches!(case.harm, Harm::Zeros { .. });
        let flipped = matches!(case.harm, Harm::Flip { .. });
        changed.iter().any(|at| match *at {
            // A mark or a footer that is gone as a whole is as good as never written.
            at if at < 128 || (152..512).contains(&at) => true,
            at if at < 1536 => flipped,
            at if frames.contains(&at) => true,
            at if at >= len - 512 => footed && flipped,
            _ => false,
        }) && !matches!(case.harm, Harm::Stale { .. } if changed[0] >= 128)
            && !(zeroed && frames.contains(&changed[0]))
    }

    /// The open reports it, or the read behind it; a torn tail is cut; what is refused has changed nothing.
    fn check_open(
        &self,
        media: &SimMedia,
        lost: &[LsnRange],
        torn: Option<LsnRange>,
    ) -> Result<(), String> {
        let media = media.fork(1);
        let before = image(&media);
        let clock = Arc::new(ManualClock::default());
        let log = match Log::open(dir(), options(&media, &clock, built::ID)) {
            Ok((log, _)) => log,
            Err(OpenError::Corrupt { at, .. }) => {
                if image(&media) != before {
                    return Err("refused, but the disk was changed".to_owned());
                }
                if torn.is_some() && lost.is_empty() {
                    return Err(format!("a torn tail was refused, at {at}"));
                }
                // A damaged header has no LSN.
                let first = lost.first().map(|l| l.from);
                return match at == Lsn::ZERO || first.is_none() || first == Some(at) {
                    true => Ok(()),
                    false => Err(format!("refused at {at}, lost is {lost:?}")),
                };
            }
            Err(OpenError::NewerFormat { .. } | OpenError::NotFound { .. }) => return Ok(()),
            Err(e) => return Err(format!("open: {e}")),
        };
        let mut reader = (log.reader(log.oldest(), ReadLimit::Published))
            .map_err(|e| format!("no reader: {e}"))?;
        for frame in &self.built.frames {
            match reader.next_ref() {
                Ok(Some(found))
                    if found.header.lsn == frame.lsn
                        && found.epoch == frame.epoch
                        && found.payload == frame.payload => {}
                Ok(_) if torn.is_some_and(|t| frame.lsn >= t.from) => return Ok(()),
                Ok(other) => return Err(format!("{other:?} for {}", frame.brief())),
                Err(LogError::Corrupt { at, .. }) if lost.first().is_some_and(|l| l.from == at) => {
                    return match log.damaged() == lost[..1] {
                        true => Ok(()),
                        false => Err(format!("{:?} damaged, not {lost:?}", log.damaged())),
                    };
                }
                Err(e) => return Err(format!("reading: {e}; lost is {lost:?}")),
            }
        }
        match lost.is_empty() {
            true => Ok(()),
            false => Err(format!("{lost:?} was read")),
        }
    }
}

fn verified(media: &SimMedia) -> Result<Verified, String> {
    let options = VerifyOptions {
        threads: 1,
        media: Arc::new(media.clone()),
        ..VerifyOptions::default()
    };
    let survey = Survey::of(dir(), options.media.clone()).map_err(|e| format!("survey: {e}"))?;
    Ok(survey.verify(&options))
}

fn clean(verified: &Verified) -> Result<(), String> {
    match verified.is_clean() {
        true => Ok(()),
        false => Err(format!("unchanged, and {:?}", verified.damage)),
    }
}

fn run(left: Left, cases: impl FnOnce(&World) -> Vec<Case>) {
    let world = World::new(left);
    clean(&verified(&world.built.media).unwrap()).unwrap();
    let cases = cases(&world);
    let count = cases.len() as u64;
    assert!(count > 100, "{count} cases");
    let chosen = seeds::chosen(count);
    let chosen = chosen.start.min(count)..chosen.end.min(count);
    #[allow(clippy::print_stdout, reason = "a long run says what it did")]
    {
        println!("{left:?}: cases {chosen:?} of {count}");
    }
    let (_, failure) = seeds::run(chosen, move |n| world.run(&cases[n as usize], n));
    if let Some((n, error)) = failure {
        panic!("{left:?}, ESKER_SEED={n}: {error}");
    }
}

fn bits(path: &Path, at: u64) -> impl Iterator<Item = Case> {
    let path = path.to_owned();
    (0..8).map(move |bit| Case {
        path: path.clone(),
        harm: Harm::Flip { at, bits: 1 << bit },
    })
}

fn all() -> bool {
    std::env::var("ESKER_DAMAGE").is_ok_and(|v| v == "all")
}

/// Headers, marks and footers of segments, and the small files.
fn beside_frames(world: &World) -> Vec<Case> {
    let mut cases = Vec::new();
    let segments = &world.built.segments;
    let some = [&segments[0], world.built.middle(), world.built.last()];
    for (path, bytes) in &world.image {
        let live = segments.iter().any(|s| s.path == *path);
        if live && !all() && some.iter().all(|s| s.path != *path) {
            continue;
        }
        let len = bytes.len() as u64;
        let name = path.file_name().unwrap().to_str().unwrap();
        let places: Vec<u64> = if name.ends_with(".seg") {
            let marks = (512..576).chain(1024..1088);
            (0..160).chain(marks).chain(len - 512..len - 440).collect()
        } else if name.ends_with(".spare") {
            Vec::new()
        } else {
            (0..len.min(128)).collect()
        };
        for at in places {
            cases.extend(bits(path, at));
        }
    }
    cases
}

fn frame_headers(world: &World) -> Vec<Case> {
    let mut rng = SimRng::new(4);
    let mut cases = Vec::new();
    for segment in &world.built.segments {
        for (nth, frame) in world.built.of(segment).into_iter().enumerate() {
            let at = FRAMES_AT + frame.lsn.since(segment.base);
            for at in at..at + HEADER_LEN as u64 {
                let mut eight = bits(&segment.path, at);
                match nth < 1 || all() {
                    true => cases.extend(eight),
                    false => cases.extend(eight.nth(rng.below(8) as usize)),
                }
            }
        }
    }
    cases
}

fn payloads(world: &World) -> Vec<Case> {
    let mut rng = SimRng::new(3);
    let mut cases = Vec::new();
    for segment in &world.built.segments {
        for frame in world.built.of(segment) {
            let at = FRAMES_AT + frame.lsn.since(segment.base);
            let len = frame.end().since(frame.lsn);
            for at in at + HEADER_LEN as u64..at + len {
                let mut eight = bits(&segment.path, at);
                match all() {
                    true => cases.extend(eight),
                    false => cases.extend(eight.nth(rng.below(8) as usize)),
                }
            }
        }
    }
    cases
}

fn blocks(world: &World) -> Vec<Case> {
    let mut cases = Vec::new();
    for (path, bytes) in world.segments() {
        for len in [512, 4096] {
            for at in (0..bytes.len() as u64 - len + 1).step_by(len as usize) {
                let mut harms = vec![Harm::Zeros { at, len }, Harm::Stale { at, len }];
                if at + 2 * len <= bytes.len() as u64 {
                    harms.push(Harm::Swapped { at, len });
                }
                cases.extend(harms.into_iter().map(|harm| Case {
                    path: path.clone(),
                    harm,
                }));
            }
        }
    }
    cases
}

#[test]
fn every_bit_beside_the_frames_is_reported_and_loses_none() {
    run(Left::Closed, beside_frames);
    run(Left::Idle, beside_frames);
}

#[test]
fn every_bit_of_a_frames_header_loses_that_frame_or_ends_a_torn_tail() {
    run(Left::Idle, frame_headers);
    run(Left::Busy, frame_headers);
}

#[test]
fn every_byte_of_a_payload_loses_that_frame_or_ends_a_torn_tail() {
    run(Left::Busy, payloads);
}

#[test]
fn every_block_that_is_lost_swapped_or_stale_loses_its_frames_and_no_others() {
    for left in [Left::Closed, Left::Idle, Left::Busy] {
        run(left, blocks);
    }
}

/// The power went before a footer and the hash in the next header were synced: the footer behind them is verified all the same.
#[test]
fn a_damaged_footer_is_reported_where_the_hash_before_it_is_unknown() {
    let world = World::new(Left::Closed);
    let [before, segment] = [&world.built.segments[1], &world.built.segments[2]];
    let media = &world.built.media;
    let zero = |path: &Path, range: Range<usize>| {
        let mut bytes = image(media)[path].clone();
        bytes[range].fill(0);
        media.put(path, &bytes).unwrap();
    };
    let footer = world.image[&segment.path].len() - 512;
    zero(&before.path, footer..footer + 512);
    zero(&segment.path, 128..152);
    clean(&verified(media).unwrap()).unwrap();
    for at in footer as u64..footer as u64 + 64 {
        media.flip(&segment.path, at, 1).unwrap();
        let damage = verified(media).unwrap().damage;
        assert!(
            damage.len() == 1 && damage[0].kind == DamageKind::Footer,
            "byte {at}: {damage:?}"
        );
        media.flip(&segment.path, at, 1).unwrap();
    }
    // One of a former life is none.
    let old = &world.image[&world.built.segments[0].path][footer..];
    let mut bytes = image(media)[&segment.path].clone();
    bytes[footer..].copy_from_slice(old);
    media.put(&segment.path, &bytes).unwrap();
    clean(&verified(media).unwrap()).unwrap();
}
