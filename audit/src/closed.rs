//! Closed files: a part of the trail, compressed and never changed again.
//!
//! - CL1: a file is written aside (`.tmp`), synced, read back and verified, and only then renamed to the sequence of its first entry;
//!   only then may the live log let go of what is in it. A crash at any moment leaves the entries in one of the two, or in both.
//! - CL2: every byte of it is under a keyed hash: header, each block, index and trailer. The trailer is signed besides, so that who has the public key alone
//!   can tell that it is the one that was closed.
//! - CL3: it is read block by block; no more is read or allocated than its bounds say, whatever its bytes are (E2).
//!
//! Little-endian. A header of 128 bytes:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `ESKAUDIT` |
//! | 8 | 4 | format, 1 |
//! | 12 | 4 | zeros |
//! | 16 | 8 | identity of the trail |
//! | 24 | 8 | sequence of the first entry (of a gap, the first that it stands for) |
//! | 32 | 8 | id of the key that hashes and signs this file |
//! | 40 | 8 | when it was begun, nanoseconds since 1970 |
//! | 48 | 32 | root before the first entry |
//! | 80 | 16 | zeros |
//! | 96 | 32 | keyed hash of what is before |
//!
//! Blocks, each with a header of 64 bytes (length stored, 4; length raw, 4; first and last sequence, 8 each; lowest and highest time, 8 each; eight
//! zeros; keyed hash of the file's header hash, of this and of what is stored, cut to 16) and a Zstandard frame of entries, each behind its length (4).
//! Then the index: per block offset, first and last sequence, lowest and highest time, 8 bytes each. Then a trailer of 192 bytes:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `ESKAUEND` |
//! | 8 | 8 | blocks |
//! | 16 | 8 | entries |
//! | 24 | 8 | sequence of the last entry |
//! | 32 | 16 | lowest and highest time |
//! | 48 | 8 | when it was closed |
//! | 56 | 8 | id of the key that chains what follows |
//! | 64 | 32 | root of the last entry |
//! | 96 | 32 | keyed hash of the header's hash, the blocks' hashes, the index, and the trailer before |
//! | 128 | 64 | Ed25519 signature of the header and the trailer before |

use crate::chain::Walk;
use crate::entry::{ENTRY_MAX, Entry, HASH_LEN, HEAD_LEN, Root};
use crate::key::{Key, KeyId, Keyring};
use crate::sabotage::{self, Sabotage};
use esker_wal::media::{Media, MediaFile};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the names of closed files end.
pub(crate) const SUFFIX: &str = ".trail";
pub(crate) const TMP: &str = ".tmp";
pub(crate) const HEADER_LEN: usize = 128;
const BLOCK_LEN: usize = 64;
const INDEX_LEN: usize = 40;
/// Bytes of an index that are read though the trailer's signature is not its key's.
const UNSIGNED_INDEX_MAX: u64 = 1 << 20;
const TRAILER_LEN: usize = 192;
/// Bytes of entries in a block, about.
const BLOCK_RAW: usize = 256 << 10;
const BLOCK_RAW_MAX: usize = BLOCK_RAW + ENTRY_MAX + 4;
const MAGIC: &[u8; 8] = b"ESKAUDIT";
const END_MAGIC: &[u8; 8] = b"ESKAUEND";
const SIGNED: &[u8] = b"esker-audit 1 closed file\n";
/// Zstandard's level: the fastest. Records are alike, and shrink to a tenth all the same; what a level more takes of a core is taken from who writes.
const LEVEL: i32 = 1;

/// Its name in the directory.
pub(crate) fn file_name(first: u64) -> String {
    format!("{first:020}{SUFFIX}")
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("8 bytes"))
}

fn keyed(key: &Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key.chain());
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// What a closed file holds, as its header and trailer say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClosedFile {
    /// Where.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Identity of the trail.
    pub trail: u64,
    /// Sequence of the first entry, or the first that it stands for.
    pub first: u64,
    /// Sequence of the last entry.
    pub last: u64,
    /// Entries.
    pub entries: u64,
    /// Lowest and highest time, nanoseconds since 1970.
    pub times: (u64, u64),
    /// When it was closed.
    pub closed: u64,
    /// Root before the first entry.
    pub before: Root,
    /// Root of the last.
    pub root: Root,
    /// The key that signs it.
    pub key: KeyId,
    /// The key that chains what follows.
    pub next_key: KeyId,
}

impl ClosedFile {
    /// Where it leads.
    pub(crate) fn end(&self) -> Walk {
        Walk {
            root: self.root,
            next: self.last + 1,
            key: Some(self.next_key),
        }
    }
}

/// Where a block is and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    offset: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) times: (u64, u64),
}

impl Block {
    fn encode(&self) -> [u8; INDEX_LEN] {
        let mut out = [0; INDEX_LEN];
        let words = [
            self.offset,
            self.first,
            self.last,
            self.times.0,
            self.times.1,
        ];
        for (at, word) in words.into_iter().enumerate() {
            out[at * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        out
    }
}

/// What is wrong with a closed file, and behind which sequence of it, if that is known.
#[derive(Debug)]
pub(crate) enum Bad {
    /// Too short, or its end is not one.
    Cut(&'static str),
    Damaged {
        what: &'static str,
        at: u64,
    },
    NoKey(KeyId),
    Io(io::Error),
}

impl From<io::Error> for Bad {
    fn from(e: io::Error) -> Bad {
        match e.kind() {
            io::ErrorKind::UnexpectedEof => Bad::Cut("the file ends before it should"),
            _ => Bad::Io(e),
        }
    }
}

/// Writes a closed file (CL1).
pub(crate) struct Writer<'a> {
    media: &'a dyn Media,
    key: &'a Key,
    tmp: PathBuf,
    file: Arc<dyn MediaFile>,
    at: u64,
    header: [u8; HEADER_LEN],
    first: u64,
    last: u64,
    entries: u64,
    raw: Vec<u8>,
    stored: Vec<u8>,
    block: Option<Block>,
    index: Vec<Block>,
    hashes: blake3::Hasher,
    root: Root,
    zstd: zstd::bulk::Compressor<'static>,
    /// It has its name.
    named: bool,
}

/// What could not be finished is room for others: the disk may be full.
impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if !self.named {
            let _ = self.media.remove(&self.tmp);
        }
    }
}

impl<'a> Writer<'a> {
    pub(crate) fn begin(
        media: &'a dyn Media,
        dir: &Path,
        key: &'a Key,
        (trail, first, before): (u64, u64, Root),
        now: u64,
    ) -> io::Result<Writer<'a>> {
        let mut header = [0; HEADER_LEN];
        header[..8].copy_from_slice(MAGIC);
        header[8] = 1;
        header[16..24].copy_from_slice(&trail.to_le_bytes());
        header[24..32].copy_from_slice(&first.to_le_bytes());
        header[32..40].copy_from_slice(&key.id().0.to_le_bytes());
        header[40..48].copy_from_slice(&now.to_le_bytes());
        header[48..80].copy_from_slice(&before.0);
        let hash = keyed(key, &[&header[..96]]);
        header[96..].copy_from_slice(&hash);
        let tmp = dir.join(format!("{}{TMP}", file_name(first)));
        // One that a failure left.
        if media.exists(&tmp)? {
            media.remove(&tmp)?;
        }
        let file = media.create(&tmp, 0)?;
        let mut writer = Writer {
            media,
            key,
            tmp,
            file,
            at: 0,
            header,
            first,
            last: 0,
            entries: 0,
            raw: Vec::with_capacity(BLOCK_RAW),
            stored: Vec::new(),
            block: None,
            index: Vec::new(),
            hashes: blake3::Hasher::new_keyed(key.chain()),
            root: before,
            zstd: zstd::bulk::Compressor::new(LEVEL)?,
            named: false,
        };
        writer.hashes.update(&hash);
        writer.write(&header)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn put(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let bytes = entry.bytes();
        self.raw
            .extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.raw.extend_from_slice(bytes);
        let (head, offset) = (entry.head, self.at);
        let block = self.block.get_or_insert(Block {
            offset,
            first: head.from,
            last: head.sequence,
            times: (head.nanos, head.nanos),
        });
        block.last = head.sequence;
        block.times.0 = block.times.0.min(head.nanos);
        block.times.1 = block.times.1.max(head.nanos);
        self.last = head.sequence;
        self.root = entry.root;
        self.entries += 1;
        match self.raw.len() >= BLOCK_RAW {
            true => self.end_block(),
            false => Ok(()),
        }
    }

    fn end_block(&mut self) -> io::Result<()> {
        let Some(block) = self.block.take() else {
            return Ok(());
        };
        self.stored
            .resize(zstd::zstd_safe::compress_bound(self.raw.len()), 0);
        let len = self.zstd.compress_to_buffer(&self.raw, &mut self.stored)?;
        let mut head = [0; BLOCK_LEN];
        head[..4].copy_from_slice(&(len as u32).to_le_bytes());
        head[4..8].copy_from_slice(&(self.raw.len() as u32).to_le_bytes());
        head[8..40].copy_from_slice(&block.encode()[8..]);
        let hash = keyed(
            self.key,
            &[&self.header[96..], &head[..48], &self.stored[..len]],
        );
        head[48..].copy_from_slice(&hash[..16]);
        self.hashes.update(&head[48..]);
        self.write(&head)?;
        let stored = std::mem::take(&mut self.stored);
        self.write(&stored[..len])?;
        self.stored = stored;
        self.raw.clear();
        self.index.push(block);
        Ok(())
    }

    /// Ends the file, reads it back, and gives it its name.
    /// `end` is where its entries lead.
    pub(crate) fn finish(
        mut self,
        keys: &Keyring,
        end: &Walk,
        now: u64,
    ) -> Result<ClosedFile, Bad> {
        self.end_block()?;
        let index: Vec<u8> = self.index.iter().flat_map(Block::encode).collect();
        let lowest = self.index.iter().map(|b| b.times.0).min().unwrap_or(0);
        let highest = self.index.iter().map(|b| b.times.1).max().unwrap_or(0);
        let mut next_key = end.key.unwrap_or(self.key.id());
        if sabotage::on(Sabotage::NextKeyForgotten) {
            next_key = keys.iter().next().expect("a key").id();
        }
        let mut trailer = [0; TRAILER_LEN];
        trailer[..8].copy_from_slice(END_MAGIC);
        let words = [
            self.index.len() as u64,
            self.entries,
            self.last,
            lowest,
            highest,
            now,
            next_key.0,
        ];
        for (at, word) in words.into_iter().enumerate() {
            trailer[8 + at * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        trailer[64..96].copy_from_slice(&self.root.0);
        self.hashes.update(&index);
        self.hashes.update(&trailer[..96]);
        trailer[96..128].copy_from_slice(self.hashes.finalize().as_bytes());
        let signature = self.key.sign(&signed(&self.header, &trailer));
        trailer[128..].copy_from_slice(&signature);
        self.write(&index)?;
        self.write(&trailer)?;
        if !sabotage::on(Sabotage::ClosedNotSynced) {
            self.file.sync()?;
        }
        let closed = Closed::open_file(self.file.clone(), &self.tmp, keys)?;
        closed.check_blocks()?;
        let path = self.tmp.with_file_name(file_name(self.first));
        self.media.rename(&self.tmp, &path)?;
        self.named = true;
        let dir = path.parent().expect("it is in a directory");
        self.media.sync_dir(dir)?;
        let mut info = closed.info;
        info.path = path;
        Ok(info)
    }
}

fn signed(header: &[u8; HEADER_LEN], trailer: &[u8; TRAILER_LEN]) -> Vec<u8> {
    [SIGNED, header, &trailer[..128]].concat()
}

/// A closed file, open for reading. Header, index and trailer verify; blocks do when they are read.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) info: ClosedFile,
    file: Arc<dyn MediaFile>,
    key: Key,
    header_hash: [u8; 32],
    pub(crate) index: Vec<Block>,
    /// The keyed hash of the trailer verifies only if the blocks' hashes are those that were written.
    trailer: [u8; TRAILER_LEN],
    pub(crate) signed: bool,
}

impl Closed {
    pub(crate) fn open(media: &dyn Media, path: &Path, keys: &Keyring) -> Result<Closed, Bad> {
        Closed::open_file(media.open(path)?, path, keys)
    }

    fn open_file(file: Arc<dyn MediaFile>, path: &Path, keys: &Keyring) -> Result<Closed, Bad> {
        let bytes = file.len()?;
        if bytes < (HEADER_LEN + TRAILER_LEN) as u64 {
            return Err(Bad::Cut("the file is shorter than a header and a trailer"));
        }
        let header = read_header(&*file)?;
        let key = key_of(&header, keys)?;
        let mut trailer = [0; TRAILER_LEN];
        let at = bytes - TRAILER_LEN as u64;
        file.read_exact_at(&mut trailer, at)?;
        if &trailer[..8] != END_MAGIC {
            return Err(Bad::Cut("it does not end as a closed file"));
        }
        let blocks = word(&trailer, 8);
        let index_len = blocks.saturating_mul(INDEX_LEN as u64);
        // Who has no key can't have a large index read, however long the file is (E2).
        let signature = trailer[128..].first_chunk().expect("64 bytes");
        let is_signed = key.signed(&signed(&header, &trailer), signature);
        let unsigned = !is_signed && index_len > UNSIGNED_INDEX_MAX;
        if blocks == 0 || unsigned || index_len > at - HEADER_LEN as u64 {
            return Err(Bad::Damaged {
                what: "its trailer",
                at,
            });
        }
        let index_at = at - index_len;
        let mut raw = vec![0; index_len as usize];
        file.read_exact_at(&mut raw, index_at)?;
        let index: Vec<Block> = raw
            .chunks_exact(INDEX_LEN)
            .map(|block| Block {
                offset: word(block, 0),
                first: word(block, 8),
                last: word(block, 16),
                times: (word(block, 24), word(block, 32)),
            })
            .collect();
        // The hashes of the blocks, from their headers: where one was changed, its block's hash or the trailer's is wrong.
        let mut hasher = blake3::Hasher::new_keyed(key.chain());
        hasher.update(&header[96..]);
        let mut next = HEADER_LEN as u64;
        let damaged = |what, at| Bad::Damaged { what, at };
        for block in &index {
            let mut head = [0; BLOCK_LEN];
            if block.offset != next || next + BLOCK_LEN as u64 > index_at {
                return Err(damaged("its index", index_at));
            }
            file.read_exact_at(&mut head, next)?;
            hasher.update(&head[48..]);
            next +=
                BLOCK_LEN as u64 + u64::from(u32::from_le_bytes(*head.first_chunk().expect("4")));
        }
        hasher.update(&raw);
        hasher.update(&trailer[..96]);
        if next != index_at || *hasher.finalize().as_bytes() != trailer[96..128] {
            return Err(damaged("its index or trailer", index_at));
        }
        let root = |bytes: &[u8]| Root(*bytes.first_chunk().expect("32 bytes"));
        Ok(Closed {
            info: ClosedFile {
                path: path.to_owned(),
                bytes,
                trail: word(&header, 16),
                first: word(&header, 24),
                last: word(&trailer, 24),
                entries: word(&trailer, 16),
                times: (word(&trailer, 32), word(&trailer, 40)),
                closed: word(&trailer, 48),
                before: root(&header[48..]),
                root: root(&trailer[64..]),
                key: key.id(),
                next_key: KeyId(word(&trailer, 56)),
            },
            signed: is_signed,
            header_hash: *header[96..].first_chunk().expect("32 bytes"),
            key,
            file,
            index,
            trailer,
        })
    }

    /// The entries of a block, each behind its length.
    pub(crate) fn block(&self, at: usize) -> Result<Vec<u8>, Bad> {
        let block = self.index[at];
        let read = read_block(&*self.file, &self.key, &self.header_hash, block.offset)?;
        let damaged = |what| Bad::Damaged {
            what,
            at: block.offset,
        };
        if !read.intact {
            return Err(damaged("a block"));
        }
        if read.head[8..40] != block.encode()[8..] {
            return Err(damaged("a block's header"));
        }
        read.raw.ok_or(damaged("a block"))
    }

    /// Reads all of it: hashes and what they are of.
    pub(crate) fn check_blocks(&self) -> Result<(), Bad> {
        let mut entries = 0;
        for at in 0..self.index.len() {
            let raw = self.block(at)?;
            for entry in Entries::of(&raw) {
                entry.ok_or(Bad::Damaged {
                    what: "an entry",
                    at: self.index[at].offset,
                })?;
                entries += 1;
            }
        }
        match entries == self.info.entries {
            true => Ok(()),
            false => Err(Bad::Damaged {
                what: "the number of its entries",
                at: self.info.bytes - self.trailer.len() as u64,
            }),
        }
    }
}

/// A block as it is in the file.
pub(crate) struct ReadBlock {
    head: [u8; BLOCK_LEN],
    /// Its hash is that of its bytes.
    pub(crate) intact: bool,
    /// What is stored, if it can be made of it at all: to see which entry was changed.
    pub(crate) raw: Option<Vec<u8>>,
    /// Behind it.
    pub(crate) end: u64,
}

/// The block at `offset`, whether it is intact or not; at most [`BLOCK_RAW_MAX`] of it (CL3).
pub(crate) fn read_block(
    file: &dyn MediaFile,
    key: &Key,
    header_hash: &[u8; 32],
    offset: u64,
) -> Result<ReadBlock, Bad> {
    let mut head = [0; BLOCK_LEN];
    file.read_exact_at(&mut head, offset)?;
    let len = |at: usize| u32::from_le_bytes(*head[at..].first_chunk().expect("4")) as usize;
    let (stored_len, raw_len) = (len(0), len(4));
    let bound = zstd::zstd_safe::compress_bound(BLOCK_RAW_MAX);
    if stored_len > bound || raw_len > BLOCK_RAW_MAX || head[40..48] != [0; 8] {
        return Err(Bad::Damaged {
            what: "a block's header",
            at: offset,
        });
    }
    let mut stored = vec![0; stored_len];
    file.read_exact_at(&mut stored, offset + BLOCK_LEN as u64)?;
    let hash = keyed(key, &[header_hash, &head[..48], &stored]);
    let raw = zstd::bulk::decompress(&stored, raw_len);
    Ok(ReadBlock {
        intact: hash[..16] == head[48..],
        raw: raw.ok().filter(|raw| raw.len() == raw_len),
        end: offset + (BLOCK_LEN + stored_len) as u64,
        head,
    })
}

/// A closed file's header that verifies, and what is needed to read the blocks behind it without an index.
pub(crate) struct Begun {
    pub(crate) trail: u64,
    pub(crate) first: u64,
    pub(crate) before: Root,
    pub(crate) key: Key,
    pub(crate) header_hash: [u8; 32],
    /// Where the index begins, if the trailer says so.
    pub(crate) index_at: Option<u64>,
}

/// Reads the header alone, where the end is damaged.
pub(crate) fn begun(file: &dyn MediaFile, keys: &Keyring) -> Result<Begun, Bad> {
    let header = read_header(file)?;
    let key = key_of(&header, keys)?;
    let bytes = file.len()?;
    let mut trailer = [0; TRAILER_LEN];
    let at = bytes.saturating_sub(TRAILER_LEN as u64);
    let whole = at > HEADER_LEN as u64 && file.read_exact_at(&mut trailer, at).is_ok();
    let index_at = (whole && &trailer[..8] == END_MAGIC)
        .then(|| word(&trailer, 8).checked_mul(INDEX_LEN as u64))
        .flatten()
        .and_then(|len| at.checked_sub(len));
    Ok(Begun {
        trail: word(&header, 16),
        first: word(&header, 24),
        before: Root(*header[48..].first_chunk().expect("32 bytes")),
        header_hash: *header[96..].first_chunk().expect("32 bytes"),
        index_at: index_at.filter(|at| *at > HEADER_LEN as u64),
        key,
    })
}

fn read_header(file: &dyn MediaFile) -> Result<[u8; HEADER_LEN], Bad> {
    let mut header = [0; HEADER_LEN];
    file.read_exact_at(&mut header, 0)?;
    match &header[..8] == MAGIC && header[8..16] == [1, 0, 0, 0, 0, 0, 0, 0] {
        true => Ok(header),
        false => Err(Bad::Damaged {
            what: "it does not begin as a closed file",
            at: 0,
        }),
    }
}

fn key_of(header: &[u8; HEADER_LEN], keys: &Keyring) -> Result<Key, Bad> {
    let id = KeyId(word(header, 32));
    let key = keys.get(id).ok_or(Bad::NoKey(id))?;
    match keyed(key, &[&header[..96]]) == header[96..] {
        true => Ok(key.clone()),
        false => Err(Bad::Damaged {
            what: "its header",
            at: 0,
        }),
    }
}

/// The entries of a block; `None` where there is none, which ends it.
pub(crate) struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Entries<'a> {
    pub(crate) fn of(raw: &'a [u8]) -> Entries<'a> {
        Entries { rest: raw }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Option<Entry<'a>>;

    fn next(&mut self) -> Option<Option<Entry<'a>>> {
        if self.rest.is_empty() {
            return None;
        }
        let one = (|| {
            let (len, rest) = self.rest.split_first_chunk()?;
            let len = u32::from_le_bytes(*len) as usize;
            if !(HEAD_LEN + HASH_LEN..=ENTRY_MAX).contains(&len) {
                return None;
            }
            let (entry, rest) = rest.split_at_checked(len)?;
            self.rest = rest;
            Entry::decode(entry)
        })();
        if one.is_none() {
            self.rest = &[];
        }
        Some(one)
    }
}
