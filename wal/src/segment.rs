//! A segment: one preallocated file of the log, mapped while it is written.
//!
//! Little-endian. Frames begin at 4096; the last 512 bytes are the footer.
//! ```text
//! header, sector 0                          mark sectors, at 512 and 1024
//!    0  8  magic "ESKRSEG1"                    0  8  magic "ESKRMARK"
//!    8  4  format, 2                           8  4  flags: 1 clean, 2 closed by a writer
//!   12  4  crc32 of 0..12 and 16..64          12  4  crc32 of 0..12 and 16..64
//!   16 16  log id                             16  8  sequence number: the higher intact one counts
//!   32 16  node id                            24  8  synced LSN
//!   48  8  segment id                         32  8  segment id
//!   56  8  bytes of the file                  40 16  node id
//!   64  4  "ACTV", 0 while prepared           56  8  zero
//!   68  4  crc32 of 72..104 and segment id
//!   72  8  base LSN                         footer, last sector
//!   80  8  epoch: number                       0  8  magic "ESKRFOOT"
//!   88  8  epoch: id                           8  4  flags: 1 slack given back
//!   96  8  epoch: LSN where it begins         12  4  crc32 of 0..12 and 16..64
//!  128  4  "CHAN", 0 while unknown            16  8  segment id
//!  132  4  crc32 of 136..152, segment id      24  8  base LSN
//!  136 16  chain hash at the base             32  8  end LSN
//!  152     zeros                              40 16  chain hash at the end
//!                                             56  8  frames
//!                                             64  8  milliseconds since 1970 when it was closed
//!                                             72  4  crc32 of 64..72 and segment id; 0 while unknown
//! ```
//! - S1: a file is *prepared* (all space allocated, zeroed or recycled, header synced, directory entry
//!   synced) before anything is reserved in it.
//! - S2: activation fills one cache line and stores its first word (`ACTV` and checksum) last. Killed in
//!   the middle, the segment is still prepared; a word that is neither zero nor intact is damage.
//! - S3: the header's page is part of the first sync of the segment's frames.
//! - S4: bytes of frames below `published` are never written again (recovery writes the same bytes).
//! - S5: everything in a file that outlives its segment is bound to it: header, marks and footer by the
//!   segment id, frames and their marks by LSN, log and epoch. So a recycled file needs no wiping.

use crate::frame::{HEADER_LEN, Header, Seed};
use crate::ids::{ChainHash, Epoch, EpochStart, LogId, Lsn, NodeId, SegmentId};
use crate::media::{MediaFile, MediaMap};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub(crate) const SECTOR: usize = 512;
pub(crate) const FRAMES_AT: u64 = 4096;
pub(crate) const FOOTER_LEN: u64 = SECTOR as u64;
pub(crate) const MARK_AT: [u64; 2] = [512, 1024];
pub(crate) const FORMAT: u32 = 2;
pub(crate) const SUFFIX: &str = ".seg";

const SEGMENT_MAGIC: &[u8; 8] = b"ESKRSEG1";
const MARK_MAGIC: &[u8; 8] = b"ESKRMARK";
const FOOTER_MAGIC: &[u8; 8] = b"ESKRFOOT";
const ACTIVE: u32 = u32::from_le_bytes(*b"ACTV");
const CHAIN: u32 = u32::from_le_bytes(*b"CHAN");
const ACTIVE_AT: usize = 64;
const CHAIN_AT: usize = 128;

pub(crate) type Sector = [u8; SECTOR];

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
pub(crate) fn id_at(bytes: &[u8], at: usize) -> [u8; 16] {
    bytes[at..at + 16].try_into().expect("16 bytes")
}

/// Checksum of the first 64 bytes but for 12..16, where it stands.
fn line_crc(line: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&line[..12]);
    hasher.update(&line[16..64]);
    hasher.finalize()
}

fn bound_crc(bytes: &[u8], id: SegmentId) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes);
    hasher.update(&id.0.to_le_bytes());
    hasher.finalize()
}

/// What a prepared segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) log: LogId,
    pub(crate) node: NodeId,
    pub(crate) id: SegmentId,
    pub(crate) bytes: u64,
}

/// What activation adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Activation {
    pub(crate) base: Lsn,
    pub(crate) epoch: EpochStart,
}

/// A header as read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) identity: Identity,
    /// `None`: prepared.
    pub(crate) active: Option<Activation>,
    pub(crate) chain: Option<ChainHash>,
}

/// Why a header can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Damaged {
        what: &'static str,
        stored: u32,
        computed: u32,
    },
    Newer(u32),
}

impl Activation {
    /// The first word, to be stored last, and the rest of the line.
    fn line(&self, id: SegmentId) -> (u64, [u8; 32]) {
        let mut rest = [0; 32];
        rest[..8].copy_from_slice(&self.base.0.to_le_bytes());
        rest[8..16].copy_from_slice(&self.epoch.epoch.number.to_le_bytes());
        rest[16..24].copy_from_slice(&self.epoch.epoch.id.to_le_bytes());
        rest[24..].copy_from_slice(&self.epoch.begin.0.to_le_bytes());
        let word = u64::from(ACTIVE) | u64::from(bound_crc(&rest, id)) << 32;
        (word, rest)
    }
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Sector {
        let mut out = [0; SECTOR];
        let id = self.identity.id;
        out[..8].copy_from_slice(SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[16..32].copy_from_slice(&self.identity.log.to_bytes());
        out[32..48].copy_from_slice(&self.identity.node.to_bytes());
        out[48..56].copy_from_slice(&id.0.to_le_bytes());
        out[56..64].copy_from_slice(&self.identity.bytes.to_le_bytes());
        let crc = line_crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        if let Some(active) = &self.active {
            let (word, rest) = active.line(id);
            out[ACTIVE_AT..ACTIVE_AT + 8].copy_from_slice(&word.to_le_bytes());
            out[ACTIVE_AT + 8..ACTIVE_AT + 40].copy_from_slice(&rest);
        }
        if let Some(chain) = self.chain {
            let value = chain.0.to_le_bytes();
            out[CHAIN_AT..CHAIN_AT + 4].copy_from_slice(&CHAIN.to_le_bytes());
            out[CHAIN_AT + 4..CHAIN_AT + 8].copy_from_slice(&bound_crc(&value, id).to_le_bytes());
            out[CHAIN_AT + 8..CHAIN_AT + 24].copy_from_slice(&value);
        }
        out
    }

    pub(crate) fn decode(sector: &Sector) -> Result<SegmentHeader, BadHeader> {
        if &sector[..8] != SEGMENT_MAGIC {
            return Err(BadHeader::Damaged {
                what: "segment header has no magic",
                stored: 0,
                computed: 0,
            });
        }
        let (stored, computed) = (u32_at(sector, 12), line_crc(sector));
        let format = u32_at(sector, 8);
        if format > FORMAT {
            return Err(BadHeader::Newer(format));
        }
        if stored != computed || format != FORMAT {
            return Err(BadHeader::Damaged {
                what: match stored == computed {
                    true => "segment header of an older format",
                    false => "segment header",
                },
                stored,
                computed,
            });
        }
        let id = SegmentId(u64_at(sector, 48));
        let identity = Identity {
            log: LogId::from_bytes(id_at(sector, 16)),
            node: NodeId::from_bytes(id_at(sector, 32)),
            id,
            bytes: u64_at(sector, 56),
        };
        let active = if u64_at(sector, ACTIVE_AT) == 0 {
            None
        } else {
            let rest = &sector[ACTIVE_AT + 8..ACTIVE_AT + 40];
            let (stored, computed) = (u32_at(sector, ACTIVE_AT + 4), bound_crc(rest, id));
            if u32_at(sector, ACTIVE_AT) != ACTIVE || stored != computed {
                return Err(BadHeader::Damaged {
                    what: "segment activation",
                    stored,
                    computed,
                });
            }
            Some(Activation {
                base: Lsn(u64_at(rest, 0)),
                epoch: EpochStart {
                    epoch: Epoch {
                        number: u64_at(rest, 8),
                        id: u64_at(rest, 16),
                    },
                    begin: Lsn(u64_at(rest, 24)),
                },
            })
        };
        let value = &sector[CHAIN_AT + 8..CHAIN_AT + 24];
        let chain = (u32_at(sector, CHAIN_AT) == CHAIN
            && u32_at(sector, CHAIN_AT + 4) == bound_crc(value, id))
        .then(|| ChainHash(u128::from_le_bytes(value.try_into().expect("16 bytes"))));
        Ok(SegmentHeader {
            identity,
            active,
            chain,
        })
    }
}

/// An idle or closing mark, in a sector of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SectorMark {
    pub(crate) sequence: u64,
    pub(crate) synced: Lsn,
    pub(crate) clean: bool,
    pub(crate) writer: bool,
}

impl SectorMark {
    pub(crate) fn encode(&self, id: SegmentId, node: NodeId) -> Sector {
        let mut out = [0; SECTOR];
        out[..8].copy_from_slice(MARK_MAGIC);
        let flags = u32::from(self.clean) | u32::from(self.writer) << 1;
        out[8..12].copy_from_slice(&flags.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..32].copy_from_slice(&self.synced.0.to_le_bytes());
        out[32..40].copy_from_slice(&id.0.to_le_bytes());
        out[40..56].copy_from_slice(&node.to_bytes());
        let crc = line_crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(sector: &[u8], id: SegmentId, node: NodeId) -> Option<SectorMark> {
        (&sector[..8] == MARK_MAGIC
            && u32_at(sector, 12) == line_crc(sector)
            && u64_at(sector, 32) == id.0
            && id_at(sector, 40) == node.to_bytes())
        .then(|| SectorMark {
            sequence: u64_at(sector, 16),
            synced: Lsn(u64_at(sector, 24)),
            clean: sector[8] & 1 != 0,
            writer: sector[8] & 2 != 0,
        })
    }

    /// Where the mark with this sequence number goes: beside the one before it, never over it.
    pub(crate) fn place(&self) -> u64 {
        MARK_AT[(self.sequence % 2) as usize]
    }
}

/// What is known of a segment after its last frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) base: Lsn,
    pub(crate) end: Lsn,
    pub(crate) chain: ChainHash,
    pub(crate) frames: u64,
    pub(crate) punched: bool,
}

impl Footer {
    pub(crate) fn encode(&self, id: SegmentId) -> Sector {
        let mut out = [0; SECTOR];
        out[..8].copy_from_slice(FOOTER_MAGIC);
        out[8..12].copy_from_slice(&u32::from(self.punched).to_le_bytes());
        out[16..24].copy_from_slice(&id.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.base.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.end.0.to_le_bytes());
        out[40..56].copy_from_slice(&self.chain.0.to_le_bytes());
        out[56..64].copy_from_slice(&self.frames.to_le_bytes());
        let crc = line_crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(sector: &[u8], id: SegmentId, base: Lsn) -> Option<Footer> {
        (Footer::intact_of_any(sector) == Some(id)
            && u64_at(sector, 24) == base.0
            && u64_at(sector, 32) >= base.0)
            .then(|| Footer {
                base,
                end: Lsn(u64_at(sector, 32)),
                chain: Footer::chain_in(sector),
                frames: u64_at(sector, 56),
                punched: sector[8] & 1 != 0,
            })
    }

    /// The segment that a footer is of, where it is intact.
    pub(crate) fn intact_of_any(sector: &[u8]) -> Option<SegmentId> {
        (&sector[..8] == FOOTER_MAGIC && u32_at(sector, 12) == line_crc(sector))
            .then(|| SegmentId(u64_at(sector, 16)))
    }

    /// The chain hash that it holds, whatever else it is.
    pub(crate) fn chain_in(sector: &[u8]) -> ChainHash {
        ChainHash(u128::from_le_bytes(id_at(sector, 40)))
    }
}

/// Stamps a footer with the time when the segment was closed.
pub(crate) fn stamp(footer: &mut Sector, id: SegmentId, millis: u64) {
    let value = millis.to_le_bytes();
    footer[64..72].copy_from_slice(&value);
    footer[72..76].copy_from_slice(&bound_crc(&value, id).to_le_bytes());
}

/// The stamp of a footer's sector, zero where there is none.
pub(crate) fn stamped(sector: &[u8], id: SegmentId) -> u64 {
    match u32_at(sector, 72) == bound_crc(&sector[64..72], id) {
        true => u64_at(sector, 64),
        false => 0,
    }
}

/// Bytes of frames that a file of `file_bytes` holds.
pub(crate) const fn capacity(file_bytes: u64) -> u64 {
    file_bytes - FRAMES_AT - FOOTER_LEN
}

/// A file ready to become a segment.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) identity: Identity,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn MediaFile>,
    pub(crate) map: Box<dyn MediaMap>,
    /// All zeros where frames go.
    pub(crate) zeroed: bool,
    /// Until then all of it may be taken for populated, by the log's clock.
    pub(crate) warm_until: Duration,
}

/// A mapping, and where it is: a store needs no dynamic call.
#[derive(Debug)]
struct Mapped {
    map: Box<dyn MediaMap>,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: `base` points to what `map` owns, which may be used from any thread (it is `Send` and `Sync`), and stays valid for
// as long.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(map: Box<dyn MediaMap>) -> Mapped {
        let (base, len) = (map.base(), map.len());
        Mapped { map, base, len }
    }
}

/// A segment that holds frames, or will. Aligned, so that the count of its `Arc` has a cache line of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Segment {
    // Fixed.
    pub(crate) identity: Identity,
    pub(crate) active: Activation,
    pub(crate) seed: Seed,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn MediaFile>,
    /// Everything behind the last reservation is zero.
    pub(crate) zeroed: bool,
    /// There until everything in it is synced and it is closed.
    map: Option<Mapped>,
    // Set once.
    /// LSN behind the last frame; MAX while it is open.
    end: AtomicU64,
    pub(crate) chain: OnceLock<ChainHash>,
    pub(crate) footer: OnceLock<Footer>,
    pub(crate) footer_written: AtomicBool,
    /// Slack was given back, or is about to be: the file has a hole, and is never mapped again.
    pub(crate) punched: AtomicBool,
    /// When it was closed, in milliseconds since 1970; zero while that is unknown.
    pub(crate) closed_millis: AtomicU64,
}

impl Segment {
    /// Activates `prepared`; see S2. Its frames begin with nothing published.
    pub(crate) fn activate(prepared: Prepared, active: Activation) -> Segment {
        let segment = Segment::over(prepared, active);
        let (word, rest) = active.line(segment.identity.id);
        // No frame is there (T3 of esker_sync::tail): before anybody knows of the segment.
        segment.word(FRAMES_AT as usize).store(0, Ordering::Relaxed);
        segment.write(ACTIVE_AT + 8, &rest);
        segment.word(ACTIVE_AT).store(word, Ordering::Release);
        segment
    }

    /// A mapped segment that is active already.
    pub(crate) fn over(prepared: Prepared, active: Activation) -> Segment {
        Segment {
            seed: Seed::new(prepared.identity.log, active.epoch.epoch),
            identity: prepared.identity,
            active,
            path: prepared.path,
            file: prepared.file,
            zeroed: prepared.zeroed,
            map: Some(Mapped::new(prepared.map)),
            end: AtomicU64::new(u64::MAX),
            chain: OnceLock::new(),
            footer: OnceLock::new(),
            footer_written: AtomicBool::new(false),
            punched: AtomicBool::new(false),
            closed_millis: AtomicU64::new(0),
        }
    }

    /// A closed segment, read through its file.
    pub(crate) fn closed(
        identity: Identity,
        active: Activation,
        path: PathBuf,
        file: Arc<dyn MediaFile>,
        end: Lsn,
    ) -> Segment {
        Segment {
            seed: Seed::new(identity.log, active.epoch.epoch),
            identity,
            active,
            path,
            file,
            zeroed: false,
            map: None,
            end: AtomicU64::new(end.0),
            chain: OnceLock::new(),
            footer: OnceLock::new(),
            footer_written: AtomicBool::new(false),
            punched: AtomicBool::new(false),
            closed_millis: AtomicU64::new(0),
        }
    }

    /// The same closed segment without its mapping.
    pub(crate) fn unmapped(&self) -> Segment {
        let closed = Segment::closed(
            self.identity,
            self.active,
            self.path.clone(),
            self.file.clone(),
            self.end(),
        );
        if let Some(chain) = self.chain.get() {
            let _ = closed.chain.set(*chain);
        }
        if let Some(footer) = self.footer.get() {
            let _ = closed.footer.set(*footer);
        }
        closed.footer_written.store(
            self.footer_written.load(Ordering::Acquire),
            Ordering::Release,
        );
        let punched = self.punched.load(Ordering::Acquire);
        closed.punched.store(punched, Ordering::Release);
        let millis = self.closed_millis.load(Ordering::Acquire);
        closed.closed_millis.store(millis, Ordering::Release);
        closed
    }

    pub(crate) fn base(&self) -> Lsn {
        self.active.base
    }

    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.end.load(Ordering::Acquire))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.end() != Lsn::MAX
    }

    /// Nothing more is reserved in it.
    pub(crate) fn close_at(&self, end: Lsn) {
        self.end.store(end.0, Ordering::Release);
    }

    /// When it was closed, by the clock's wall time, where that is known.
    pub(crate) fn closed_at(&self) -> Option<Duration> {
        let millis = self.closed_millis.load(Ordering::Acquire);
        (millis != 0).then(|| Duration::from_millis(millis))
    }

    /// LSN behind the last byte that a frame could take.
    pub(crate) fn capacity_end(&self) -> Lsn {
        self.base().advance(capacity(self.identity.bytes))
    }

    /// Offset of `lsn` in the file.
    pub(crate) fn offset(&self, lsn: Lsn) -> u64 {
        FRAMES_AT + lsn.since(self.base())
    }

    pub(crate) fn map(&self) -> Option<&dyn MediaMap> {
        self.map.as_ref().map(|mapped| &*mapped.map)
    }

    fn mapped(&self) -> &Mapped {
        self.map.as_ref().expect("only a mapped segment is written")
    }

    /// The word at `offset` of the mapping.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        let map = self.mapped();
        assert!(offset.is_multiple_of(8) && offset + 8 <= map.len);
        // SAFETY: in bounds of the mapping, by the assert.
        let place = unsafe { map.base.as_ptr().add(offset) };
        // SAFETY:
        // - aligned: the base is aligned to 4096 and the offset to 8;
        // - valid for as long as the mapping, which `self` owns and the result borrows;
        // - words are written only through this function while others may read them; `write` keeps to
        //   the bytes of a reservation (or of a header nobody else writes) outside of its first word.
        unsafe { AtomicU64::from_ptr(place.cast()) }
    }

    /// The word of the frame at `lsn`, where one fits.
    pub(crate) fn frame_word(&self, lsn: Lsn) -> Option<&AtomicU64> {
        let left = capacity(self.identity.bytes).checked_sub(lsn.since(self.base()))?;
        (left >= HEADER_LEN as u64).then(|| self.word(self.offset(lsn) as usize))
    }

    /// Header of the frame at `lsn`, which was published in this life of the log, from the mapping; `None` without one.
    pub(crate) fn published_header(&self, lsn: Lsn) -> Option<Header> {
        self.map.as_ref()?;
        let word = self.frame_word(lsn)?.load(Ordering::Acquire);
        let at = self.offset(lsn) as usize;
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&word.to_le_bytes());
        // Relaxed: stored before the word that publishes them.
        for behind in (8..HEADER_LEN).step_by(8) {
            let word = self.word(at + behind).load(Ordering::Relaxed);
            bytes[behind..behind + 8].copy_from_slice(&word.to_le_bytes());
        }
        Header::decode(&bytes).filter(|header| header.lsn == lsn)
    }

    /// Copies `bytes` to `offset` of the mapping. The caller alone may write there: it holds the
    /// reservation, or the duty for that sector.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let map = self.mapped();
        assert!(offset <= map.len && bytes.len() <= map.len - offset);
        // SAFETY: in bounds of the mapping, by the assert.
        let place = unsafe { map.base.as_ptr().add(offset) };
        // SAFETY: source and destination are valid for `bytes.len()`; they do not overlap, since nobody lends
        // out bytes of a mapping; nobody reads the destination before it is published, or synced.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) }
    }

    /// Copies published bytes from `lsn` on out of the mapping.
    pub(crate) fn copy_out(&self, lsn: Lsn, out: &mut [u8]) {
        let map = self.mapped();
        let offset = self.offset(lsn) as usize;
        assert!(offset <= map.len && out.len() <= map.len - offset);
        // SAFETY: in bounds of the mapping, by the assert.
        let place = unsafe { map.base.as_ptr().add(offset) };
        // SAFETY: both are valid for `out.len()` and do not overlap; published bytes are not written any more (S4), and the
        // caller saw them published by an acquire.
        unsafe { std::ptr::copy_nonoverlapping(place, out.as_mut_ptr(), out.len()) }
    }

    /// Lends `offset..offset + len` of the mapping to `f`; as `write`.
    pub(crate) fn lend<R>(&self, offset: usize, len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let map = self.mapped();
        assert!(offset <= map.len && len <= map.len - offset);
        // SAFETY: in bounds of the mapping, by the assert.
        let place = unsafe { map.base.as_ptr().add(offset) };
        // SAFETY: valid for `len` bytes, which are initialised (a file's), while `self` is borrowed; nobody else has a reference
        // to them or touches them: as for `write`.
        f(unsafe { std::slice::from_raw_parts_mut(place, len) })
    }

    /// Stores the chain hash at the base into the header's place in memory.
    pub(crate) fn write_chain(&self, chain: ChainHash) {
        let value = chain.0.to_le_bytes();
        let word = u64::from(CHAIN) | u64::from(bound_crc(&value, self.identity.id)) << 32;
        self.write(CHAIN_AT + 8, &value);
        self.word(CHAIN_AT).store(word, Ordering::Release);
    }

    /// Header of the segment as it stands, with the chain hash at its base.
    pub(crate) fn header(&self, chain: ChainHash) -> SegmentHeader {
        SegmentHeader {
            identity: self.identity,
            active: Some(self.active),
            chain: Some(chain),
        }
    }

    /// Fills `len` bytes at `offset` with zeros; as `write`.
    pub(crate) fn zero(&self, offset: usize, len: usize) {
        let map = self.mapped();
        assert!(offset <= map.len && len <= map.len - offset);
        // SAFETY: in bounds of the mapping, by the assert.
        let place = unsafe { map.base.as_ptr().add(offset) };
        // SAFETY: as for `write`.
        unsafe { std::ptr::write_bytes(place, 0, len) }
    }
}

/// Name of the file of segment `id`.
pub(crate) fn file_name(id: SegmentId) -> String {
    format!("{id}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            identity: Identity {
                log: LogId(1),
                node: NodeId(2),
                id: SegmentId(3),
                bytes: 16384,
            },
            active: Some(Activation {
                base: Lsn(64),
                epoch: EpochStart {
                    epoch: Epoch { number: 5, id: 6 },
                    begin: Lsn(8),
                },
            }),
            chain: Some(ChainHash(9)),
        }
    }

    #[test]
    fn a_header_reads_back_prepared_and_active() {
        assert_eq!(SegmentHeader::decode(&header().encode()), Ok(header()));
        let prepared = SegmentHeader {
            active: None,
            chain: None,
            ..header()
        };
        assert_eq!(SegmentHeader::decode(&prepared.encode()), Ok(prepared));
    }

    #[test]
    fn a_flipped_bit_in_the_identity_or_activation_is_seen() {
        for at in (0..104).filter(|at| !(8..12).contains(at)) {
            let mut sector = header().encode();
            sector[at] ^= 1;
            assert!(SegmentHeader::decode(&sector).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_chain_hash_with_a_flipped_bit_is_none() {
        for at in CHAIN_AT..CHAIN_AT + 24 {
            let mut sector = header().encode();
            sector[at] ^= 1;
            let chain = SegmentHeader::decode(&sector).map(|h| h.chain);
            assert_eq!(chain, Ok(None), "byte {at}");
        }
    }

    #[test]
    fn marks_and_footers_of_another_segment_do_not_count() {
        let mark = SectorMark {
            sequence: 7,
            synced: Lsn(80),
            clean: true,
            writer: false,
        };
        let sector = mark.encode(SegmentId(3), NodeId(2));
        assert_eq!(
            SectorMark::decode(&sector, SegmentId(3), NodeId(2)),
            Some(mark)
        );
        assert_eq!(SectorMark::decode(&sector, SegmentId(4), NodeId(2)), None);
        assert_eq!(SectorMark::decode(&sector, SegmentId(3), NodeId(3)), None);
        let footer = Footer {
            base: Lsn(64),
            end: Lsn(128),
            chain: ChainHash(4),
            frames: 2,
            punched: true,
        };
        let sector = footer.encode(SegmentId(3));
        assert_eq!(Footer::decode(&sector, SegmentId(3), Lsn(64)), Some(footer));
        assert_eq!(Footer::decode(&sector, SegmentId(4), Lsn(64)), None);
    }
}
