//! Copying what is left of a damaged log elsewhere, as a log that opens.
//!
//! - SA1: the damaged log is only read; no lock of it is taken.
//! - SA2: every frame that verifies is in the copy, at its LSN, with its epoch, kind and payload. What is lost stands there as
//!   void frames of that length, so that positions stay what they were, and no reader finds a gap.
//! - SA3: where anything is lost, the copy is another log: a new identity. (epoch, LSN) of the old one names what is lost, and
//!   nothing else ever (W5). Where nothing is, it keeps its identity, and can take the old one's place.
//!   The log may be open meanwhile; if it releases what is still to be copied, the salvage fails and says so.
//! - SA4: the copy is there once its `LOG` is, which is written last, when all else is synced. It has a node id of its own and no
//!   clean mark: its next writer begins an epoch.

use crate::damage::{Damage, LsnRange, io_error};
use crate::error::OpenError;
use crate::frame::{HEADER_LEN, Header, Kind, MARK_LEN, Seed, checksum, fold};
use crate::ids::{ChainHash, Epoch, EpochStart, LogId, Lsn, NodeId, SegmentId};
use crate::media::{Media, MediaFile};
use crate::meta::{self, Meta};
use crate::segment::{
    Activation, FOOTER_LEN, FRAMES_AT, Footer, Identity, SectorMark, SegmentHeader, capacity,
    file_name,
};
use crate::survey::Survey;
use crate::verify::{Piece, Verified, VerifyOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes written at once.
const PIECE: usize = 1 << 20;
/// Size of a segment for what no file holds.
const FILLER_BYTES: u64 = 64 << 20;
/// Smallest file of a segment.
const FILE_BYTES_MIN: u64 = 16 << 10;

/// What a salvage did.
#[derive(Clone, Debug)]
pub struct Salvaged {
    /// Identity of the copy: the old one's, where nothing was lost.
    pub log: LogId,
    /// Identity of the node that may open it.
    pub node: NodeId,
    /// Oldest LSN in it.
    pub oldest: Lsn,
    /// End of it.
    pub end: Lsn,
    /// Frames copied.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is lost, to the LSN; void frames stand there in the copy.
    pub lost: Vec<LsnRange>,
    /// All that is wrong with the old one.
    pub damage: Vec<Damage>,
}

struct Copy<'a> {
    media: &'a dyn Media,
    to: PathBuf,
    log: LogId,
    node: NodeId,
    next_id: u64,
    chain: ChainHash,
    at: Lsn,
    open: Option<Out>,
}

/// A segment being written.
struct Out {
    path: PathBuf,
    file: Arc<dyn MediaFile>,
    header: SegmentHeader,
    epoch: EpochStart,
    base: Lsn,
    seed: Seed,
    frames: u64,
    buf: Vec<u8>,
    /// Offset in the file of the buffer's first byte.
    at: u64,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> Result<(), OpenError> {
        self.buf.extend_from_slice(bytes);
        if self.buf.len() >= PIECE {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), OpenError> {
        self.file
            .write_all_at(&self.buf, self.at)
            .map_err(io_error("writing", &self.path))?;
        self.at += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }

    fn room(&self) -> u64 {
        let used = self.at + self.buf.len() as u64 - FRAMES_AT;
        capacity(self.header.identity.bytes) - used
    }
}

impl Copy<'_> {
    /// Begins a segment at the position come to, which ends the one before.
    fn begin(&mut self, epoch: EpochStart, file_bytes: u64) -> Result<(), OpenError> {
        self.finish(None)?;
        let id = SegmentId(self.next_id);
        self.next_id += 1;
        let bytes = file_bytes.max(FILE_BYTES_MIN).next_multiple_of(4096);
        let identity = Identity {
            log: self.log,
            node: self.node,
            id,
            bytes,
        };
        let path = self.to.join(file_name(id));
        let file =
            (self.media.create(&path, bytes)).map_err(io_error("creating a segment", &path))?;
        self.open = Some(Out {
            path,
            file,
            header: SegmentHeader {
                identity,
                active: Some(Activation {
                    base: self.at,
                    epoch,
                }),
                chain: Some(self.chain),
            },
            epoch,
            base: self.at,
            seed: Seed::new(self.log, epoch.epoch),
            frames: 0,
            buf: Vec::with_capacity(PIECE),
            at: FRAMES_AT,
        });
        Ok(())
    }

    /// Writes what is left of the segment being written, its footer or its mark, and its header; syncs it.
    fn finish(&mut self, mark: Option<SectorMark>) -> Result<(), OpenError> {
        let Some(mut out) = self.open.take() else {
            return Ok(());
        };
        out.flush()?;
        let identity = out.header.identity;
        let write = |bytes: &[u8], at| {
            (out.file.write_all_at(bytes, at)).map_err(io_error("writing", &out.path))
        };
        match mark {
            Some(mark) => write(&mark.encode(identity.id, self.node), mark.place())?,
            None => {
                let footer = Footer {
                    base: out.base,
                    end: self.at,
                    chain: self.chain,
                    frames: out.frames,
                    punched: false,
                };
                write(&footer.encode(identity.id), identity.bytes - FOOTER_LEN)?;
            }
        }
        write(&out.header.encode(), 0)?;
        out.file.sync().map_err(io_error("syncing", &out.path))
    }

    /// Writes one frame.
    fn frame(&mut self, kind: Kind, payload: &[u8]) -> Result<(), OpenError> {
        static ZEROS: [u8; 8] = [0; 8];
        let out = self.open.as_mut().expect("a segment was begun");
        let header = Header {
            payload_len: payload.len() as u32,
            crc: checksum(out.seed, self.at, kind, &[payload]),
            lsn: self.at,
            kind,
        };
        let mut head = [0; HEADER_LEN];
        header.encode(&[0; MARK_LEN], &mut head);
        out.put(&head)?;
        out.put(payload)?;
        out.put(&ZEROS[..header.frame_len() - HEADER_LEN - payload.len()])?;
        out.frames += 1;
        self.chain = fold(self.chain, out.epoch.epoch, &header);
        self.at = header.end();
        Ok(())
    }

    /// Fills `range` with void frames, in the segment being written and in others of their own.
    fn void(&mut self, range: LsnRange, epochs: &[EpochStart]) -> Result<(), OpenError> {
        const LEAST: u64 = HEADER_LEN as u64;
        while self.at < range.to {
            let mut left = range.to.since(self.at);
            // Where an epoch begins in it, a segment does.
            let next = epochs.iter().map(|e| e.begin).find(|b| *b > self.at);
            if let Some(next) = next.filter(|next| next.0 - self.at.0 >= LEAST) {
                left = left.min(next.since(self.at));
            }
            if left < LEAST {
                return Err(Damage::new(
                    crate::damage::DamageKind::Frames,
                    &self.to,
                    format!("{range} is lost, which no frames can fill"),
                )
                .losing(range.from, range.to)
                .into_error(range.to));
            }
            let here = self.open.as_ref().map(|out| out.epoch);
            let of = epochs.iter().rev().find(|e| e.begin <= self.at).copied();
            let epoch = of.or(here).unwrap_or(EpochStart {
                epoch: Epoch { number: 0, id: 0 },
                begin: self.at,
            });
            let room = self.open.as_ref().map_or(0, Out::room);
            let mut len = left.min(room).min(PIECE as u64);
            // What is left behind it must hold a frame too.
            if left > len && left - len < LEAST {
                len = len.saturating_sub(LEAST);
            }
            if len < LEAST || here != Some(epoch) {
                let bytes = (FRAMES_AT + left + FOOTER_LEN).min(FILLER_BYTES);
                self.begin(epoch, bytes)?;
                continue;
            }
            self.frame(Kind::Void, &vec![0; (len - LEAST) as usize])?;
        }
        Ok(())
    }
}

/// Copies all that verifies of the log in `from` to the new directory `to`; see the module. What is wrong with the old log
/// is no error here, but part of the answer.
pub fn salvage_to(from: &Path, to: &Path, options: &VerifyOptions) -> Result<Salvaged, OpenError> {
    let media = &*options.media;
    let survey = Survey::of(from, options.media.clone())?;
    let verified = survey.verify(options);
    media.create_dir_all(to).map_err(io_error("creating", to))?;
    let entries = media.list(to).map_err(io_error("listing", to))?;
    if !entries.is_empty() {
        return Err(OpenError::Options {
            option: "to",
            why: format!("{} is not empty", to.display()),
        });
    }
    let lost = verified.lost();
    let kept = lost.is_empty()
        && verified
            .damage
            .iter()
            .all(|d| d.lost.is_some() || harmless(d));
    let mut copy = Copy {
        media,
        to: to.to_owned(),
        log: if kept {
            survey.meta.log
        } else {
            LogId::random()
        },
        node: NodeId::random(),
        next_id: 1,
        chain: (kept && !survey.scan.live.is_empty())
            .then(|| survey.chain_at(0))
            .flatten()
            .unwrap_or(if kept {
                survey.meta.chain
            } else {
                ChainHash(0)
            }),
        at: verified.oldest,
        open: None,
    };
    let born = Meta {
        log: copy.log,
        node: copy.node,
        birth: copy.at,
        chain: copy.chain,
    };
    let (frames, bytes) = copy_all(&survey, &verified, &mut copy)?;
    let end = copy.at;
    let mark = SectorMark {
        sequence: 1,
        synced: end,
        clean: false,
        writer: false,
    };
    copy.finish(Some(mark))?;
    let mut epochs = survey.epochs.clone();
    epochs.retain(|e| e.begin < end);
    meta::store_epochs_once(media, to, &epochs).map_err(io_error("writing the history in", to))?;
    let mut slots = survey.slots.clone();
    slots.retain(|s| s.position <= end);
    meta::store_slots(media, to, slots.iter()).map_err(io_error("writing the slots in", to))?;
    born.store(media, to)
        .map_err(io_error("writing the identity in", to))?;
    Ok(Salvaged {
        log: born.log,
        node: born.node,
        oldest: born.birth,
        end,
        frames,
        bytes,
        lost,
        damage: verified.damage,
    })
}

/// Whether nothing of the log is lost with it.
fn harmless(damage: &Damage) -> bool {
    use crate::damage::DamageKind::{Footer, Mark, SmallFile};
    matches!(damage.kind, Mark | Footer | SmallFile)
}

fn copy_all(
    survey: &Survey,
    verified: &Verified,
    copy: &mut Copy<'_>,
) -> Result<(u64, u64), OpenError> {
    let (mut frames, mut bytes) = (0, 0);
    let live = &survey.scan.live;
    let mut pieces = survey.pieces(copy.at);
    let mut segment = None;
    while let Some(piece) = pieces.next()? {
        match piece {
            Piece::Lost(damage) => {
                let range = damage.lost.expect("a lost piece says what is lost");
                copy.void(range, &survey.epochs)?;
            }
            Piece::Released(range) => {
                let why = format!(
                    "LSN {range} was released while it was copied: a log is open here; stop the process that has it open, or \
                     let a slot of it hold {}, and salvage again",
                    range.from
                );
                return Err(io_error("salvaging", &survey.dir)(io::Error::other(why)));
            }
            Piece::Frame(frame) => {
                let lsn = frame.header.lsn;
                let found = &live[live.partition_point(|f| f.base() <= lsn) - 1];
                if segment != Some(found.id()) {
                    segment = Some(found.id());
                    copy.begin(found.active.epoch, found.header.identity.bytes)?;
                }
                copy.frame(frame.header.kind, frame.payload)?;
                frames += 1;
                bytes += frame.header.frame_len() as u64;
            }
        }
    }
    // What is missing as a whole.
    if copy.at < verified.end {
        let range = LsnRange {
            from: copy.at,
            to: verified.end,
        };
        copy.void(range, &survey.epochs)?;
    }
    Ok((frames, bytes))
}
