//! The small files beside the segments: `LOG`, `EPOCHS`, `SLOTS`.
//!
//! Little-endian, each replaced as a whole.
//! ```text
//! all:    0  8 magic   8  4 format, 2   12  4 crc32 of 0..12 and 16..
//! LOG     "ESKRLOG1"  16 16 log id   32 16 node id   48 8 LSN of birth   56 16 chain hash there
//! EPOCHS  "ESKREPO1"  16  8 count    then per epoch: 8 number, 8 id, 8 LSN where it begins; zeros
//! SLOTS   "ESKRSLT1"  16  8 count    then per slot: 8 position, 4 flags (1 lost), 4 length, name; zeros
//! ```
//!
//! - ME1: `EPOCHS` and `SLOTS` are replaced on a disk without one free block too (W8): into `NAME.spare`, a file of
//!   zeros or old bytes with all its space, made ahead. All of it is written, then synced, renamed over `NAME`, and the
//!   directory synced; only then the next spare is made, best effort, out of what the old file gave back.
//! - ME2: a spare has its name only once its space is there and synced (`NAME.spare.tmp` before), and nobody reads it. So a crash
//!   at any step leaves the old file or the new one, and at worst no spare.

use crate::error::OpenError;
use crate::ids::{ChainHash, Epoch, EpochStart, LogId, Lsn, NodeId, SegmentId};
use crate::media::{Media, MediaFile};
use crate::sabotage::{self, Sabotage};
use crate::segment::{FORMAT, id_at, u32_at, u64_at};
use std::io;
use std::path::Path;
use std::sync::Arc;

pub(crate) const LOG: &str = "LOG";
pub(crate) const LOCK: &str = "LOCK";
pub(crate) const EPOCHS: &str = "EPOCHS";
pub(crate) const SLOTS: &str = "SLOTS";
pub(crate) const TMP: &str = ".tmp";
const SPARE: &str = ".spare";
/// Spares are multiples of this.
const SPARE_UNIT: usize = 4096;
/// A spare has room for what is there now, and for so much more.
const SPARE_GROWTH: usize = 1024;

const LOG_MAGIC: &[u8; 8] = b"ESKRLOG1";
const EPOCHS_MAGIC: &[u8; 8] = b"ESKREPO1";
const SLOTS_MAGIC: &[u8; 8] = b"ESKRSLT1";
const BODY_AT: usize = 16;
const EPOCH_LEN: usize = 24;
/// None of these files is anywhere near this large.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Who a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) log: LogId,
    pub(crate) node: NodeId,
    pub(crate) birth: Lsn,
    pub(crate) chain: ChainHash,
}

/// A slot as it stands in `SLOTS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotRecord {
    pub(crate) name: String,
    pub(crate) position: Lsn,
    pub(crate) lost: bool,
}

fn crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[BODY_AT..]);
    hasher.finalize()
}

/// The bytes of a file, filled up with zeros to `len` where it is shorter.
fn wrap(magic: &[u8; 8], body: &[u8], len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len.max(BODY_AT + body.len()));
    out.extend_from_slice(magic);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(body);
    out.resize(len.max(out.len()), 0);
    let crc = crc(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Makes `dir/name` anew with `len` bytes of space, holding `bytes`, under its name once that is synced.
fn make(
    media: &dyn Media,
    dir: &Path,
    name: &str,
    bytes: &[u8],
    len: usize,
) -> io::Result<Arc<dyn MediaFile>> {
    let tmp = dir.join(format!("{name}{TMP}"));
    match media.remove(&tmp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let made = (|| {
        let file = media.create(&tmp, len as u64)?;
        if !bytes.is_empty() {
            file.write_all_at(bytes, 0)?;
        }
        file.sync()?;
        media.rename(&tmp, &dir.join(name))?;
        Ok(file)
    })();
    if made.is_err() {
        // Best effort: open removes it.
        let _ = media.remove(&tmp);
    }
    made
}

/// Space for a file with `body` bytes, and some more to come.
fn spare_len(body: usize) -> usize {
    (BODY_AT + body + SPARE_GROWTH).next_multiple_of(SPARE_UNIT)
}

/// The spare of `dir/name`, if there is one with room for `body` bytes: it and its length.
fn open_spare(
    media: &dyn Media,
    dir: &Path,
    name: &str,
    body: usize,
) -> io::Result<Option<(Arc<dyn MediaFile>, usize)>> {
    let file = match media.open_rw(&dir.join(format!("{name}{SPARE}"))) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let len = file.len()?;
    let fits = (BODY_AT + body) as u64 <= len && len <= FILE_BYTES_MAX;
    Ok(fits.then_some((file, len as usize)))
}

/// Makes the spare of `dir/name` if there is none that fits, best effort (ME1).
pub(crate) fn provide_spare(media: &dyn Media, dir: &Path, name: &str, body: usize) {
    let made = open_spare(media, dir, name, body).and_then(|spare| match spare {
        Some(_) => Ok(()),
        None => make(media, dir, &format!("{name}{SPARE}"), &[], spare_len(body)).map(drop),
    });
    if let Err(error) = made {
        tracing::debug!(dir = %dir.display(), name, %error, "no spare could be made");
    }
}

/// Replaces `dir/name`, durably (ME1).
fn replace(
    media: &dyn Media,
    dir: &Path,
    name: &str,
    magic: &[u8; 8],
    body: &[u8],
) -> io::Result<()> {
    let spare = format!("{name}{SPARE}");
    let (file, len) = match open_spare(media, dir, name, body.len())? {
        Some(spare) => spare,
        None => {
            let len = spare_len(body.len());
            (make(media, dir, &spare, &[], len)?, len)
        }
    };
    file.write_all_at(&wrap(magic, body, len), 0)?;
    if !sabotage::on(Sabotage::SpareNotSynced) {
        file.sync()?;
    }
    media.rename(&dir.join(spare), &dir.join(name))?;
    sync_dir(media, dir)?;
    provide_spare(media, dir, name, body.len());
    Ok(())
}

/// Makes the entries of the log's directory durable.
pub(crate) fn sync_dir(media: &dyn Media, dir: &Path) -> io::Result<()> {
    if sabotage::on(Sabotage::NoDirSync) {
        return Ok(());
    }
    media.sync_dir(dir)
}

/// The body of `dir/name`, verified; `None` when there is no such file.
fn load(
    media: &dyn Media,
    dir: &Path,
    name: &'static str,
    magic: &[u8; 8],
) -> Result<Option<Vec<u8>>, OpenError> {
    let path = dir.join(name);
    let io = |doing, source| OpenError::Io {
        doing,
        path: path.clone(),
        source,
    };
    let file = match media.open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io("opening", e)),
    };
    let len = file.len().map_err(|e| io("reading the length of", e))?;
    let damaged = |what: String, stored, computed| OpenError::Corrupt {
        path: path.clone(),
        segment: SegmentId(0),
        at: Lsn::ZERO,
        synced: Lsn::ZERO,
        what,
        stored,
        computed,
    };
    if len < BODY_AT as u64 || len > FILE_BYTES_MAX {
        return Err(damaged(format!("a {name} file of {len} bytes"), 0, 0));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|e| io("reading", e))?;
    if &bytes[..8] != magic {
        return Err(damaged(format!("not a {name} file"), 0, 0));
    }
    let (stored, computed) = (u32_at(&bytes, 12), crc(&bytes));
    let format = u32_at(&bytes, 8);
    if format > FORMAT {
        return Err(OpenError::NewerFormat {
            path,
            found: format,
            supported: FORMAT,
        });
    }
    if stored != computed {
        return Err(damaged(format!("the {name} file"), stored, computed));
    }
    if format < FORMAT {
        return Err(OpenError::OlderFormat {
            path,
            found: format,
            supported: FORMAT,
        });
    }
    bytes.drain(..BODY_AT);
    Ok(Some(bytes))
}

fn malformed(dir: &Path, name: &'static str) -> OpenError {
    OpenError::Corrupt {
        path: dir.join(name),
        segment: SegmentId(0),
        at: Lsn::ZERO,
        synced: Lsn::ZERO,
        what: format!("the {name} file has an impossible length"),
        stored: 0,
        computed: 0,
    }
}

impl Meta {
    pub(crate) fn store(&self, media: &dyn Media, dir: &Path) -> io::Result<()> {
        let mut body = Vec::new();
        body.extend_from_slice(&self.log.to_bytes());
        body.extend_from_slice(&self.node.to_bytes());
        body.extend_from_slice(&self.birth.0.to_le_bytes());
        body.extend_from_slice(&self.chain.0.to_le_bytes());
        let bytes = wrap(LOG_MAGIC, &body, 0);
        make(media, dir, LOG, &bytes, bytes.len())?;
        sync_dir(media, dir)
    }

    pub(crate) fn load(media: &dyn Media, dir: &Path) -> Result<Option<Meta>, OpenError> {
        let Some(body) = load(media, dir, LOG, LOG_MAGIC)? else {
            return Ok(None);
        };
        if body.len() != 56 {
            return Err(malformed(dir, LOG));
        }
        Ok(Some(Meta {
            log: LogId::from_bytes(id_at(&body, 0)),
            node: NodeId::from_bytes(id_at(&body, 16)),
            birth: Lsn(u64_at(&body, 32)),
            chain: ChainHash(u128::from_le_bytes(id_at(&body, 40))),
        }))
    }
}

/// Bytes of the history beside its header.
pub(crate) fn epochs_len(epochs: usize) -> usize {
    8 + epochs * EPOCH_LEN
}

fn epochs_body(epochs: &[EpochStart]) -> Vec<u8> {
    let mut body = Vec::with_capacity(epochs_len(epochs.len()));
    body.extend_from_slice(&(epochs.len() as u64).to_le_bytes());
    for start in epochs {
        body.extend_from_slice(&start.epoch.number.to_le_bytes());
        body.extend_from_slice(&start.epoch.id.to_le_bytes());
        body.extend_from_slice(&start.begin.0.to_le_bytes());
    }
    body
}

pub(crate) fn store_epochs(media: &dyn Media, dir: &Path, epochs: &[EpochStart]) -> io::Result<()> {
    replace(media, dir, EPOCHS, EPOCHS_MAGIC, &epochs_body(epochs))
}

/// Writes the history of a log that nobody will write to: without a spare, and the directory is the caller's to sync.
pub(crate) fn store_epochs_once(
    media: &dyn Media,
    dir: &Path,
    epochs: &[EpochStart],
) -> io::Result<()> {
    let bytes = wrap(EPOCHS_MAGIC, &epochs_body(epochs), 0);
    make(media, dir, EPOCHS, &bytes, bytes.len()).map(drop)
}

pub(crate) fn load_epochs(
    media: &dyn Media,
    dir: &Path,
) -> Result<Option<Vec<EpochStart>>, OpenError> {
    let Some(body) = load(media, dir, EPOCHS, EPOCHS_MAGIC)? else {
        return Ok(None);
    };
    let bad = || malformed(dir, EPOCHS);
    let list = body.get(8..).ok_or_else(bad)?;
    let count = usize::try_from(u64_at(&body, 0)).map_err(|_| bad())?;
    let end = count.checked_mul(EPOCH_LEN).ok_or_else(bad)?;
    let (list, rest) = list.split_at_checked(end).ok_or_else(bad)?;
    if rest.iter().any(|b| *b != 0) {
        return Err(bad());
    }
    let epochs = list.chunks_exact(EPOCH_LEN).map(|e| EpochStart {
        epoch: Epoch {
            number: u64_at(e, 0),
            id: u64_at(e, 8),
        },
        begin: Lsn(u64_at(e, 16)),
    });
    Ok(Some(epochs.collect()))
}

pub(crate) fn store_slots<'a>(
    media: &dyn Media,
    dir: &Path,
    slots: impl ExactSizeIterator<Item = &'a SlotRecord>,
) -> io::Result<()> {
    let mut body = Vec::new();
    body.extend_from_slice(&(slots.len() as u64).to_le_bytes());
    for slot in slots {
        body.extend_from_slice(&slot.position.0.to_le_bytes());
        body.extend_from_slice(&u32::from(slot.lost).to_le_bytes());
        body.extend_from_slice(&(slot.name.len() as u32).to_le_bytes());
        body.extend_from_slice(slot.name.as_bytes());
    }
    replace(media, dir, SLOTS, SLOTS_MAGIC, &body)
}

pub(crate) fn load_slots(media: &dyn Media, dir: &Path) -> Result<Vec<SlotRecord>, OpenError> {
    let Some(body) = load(media, dir, SLOTS, SLOTS_MAGIC)? else {
        return Ok(Vec::new());
    };
    let bad = || malformed(dir, SLOTS);
    let mut rest = body.get(8..).ok_or_else(bad)?;
    let mut slots = Vec::new();
    for _ in 0..u64_at(&body, 0) {
        let head = rest.get(..16).ok_or_else(bad)?;
        let name_len = u32_at(head, 12) as usize;
        let name = rest
            .get(16..)
            .and_then(|r| r.get(..name_len))
            .ok_or_else(bad)?;
        slots.push(SlotRecord {
            name: String::from_utf8(name.to_vec()).map_err(|_| bad())?,
            position: Lsn(u64_at(head, 0)),
            lost: head[8] & 1 != 0,
        });
        rest = &rest[16 + name_len..];
    }
    if rest.iter().any(|b| *b != 0) {
        return Err(bad());
    }
    Ok(slots)
}
