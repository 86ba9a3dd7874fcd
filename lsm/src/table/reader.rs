//! Reads a table.
//!
//! Index, filter and range tombstones are held in memory while the table is open ([`Table::memory_bytes`]); data blocks
//! come from the cache or from disk, verified (T2).

use super::block::{BLOCK_BYTES_MAX, Block, Malformed};
use super::coding::u32_at;
use super::filter;
use super::format::{
    COMPRESSION_LZ4, COMPRESSION_NONE, FOOTER_LEN, FileSeed, Footer, Handle, Meta, Properties,
    TRAILER_LEN, parse_ranges,
};
use super::index::Index;
use super::{BlockCache, KeyRef, TableCursor, TableError, Version};
use crate::SeqNo;
use crate::iter::{Cursor as _, RangeTombstones};
use bytes::Bytes;
use esker_wal::LogId;
use esker_wal::media::{Media, MediaFile};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the tables of one store have in common. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TableContext {
    /// Where files live.
    pub media: Arc<dyn Media>,
    /// The store's log, which seeds the checksums.
    pub log: LogId,
    /// Blocks in memory.
    pub cache: Arc<BlockCache>,
}

/// How a cursor reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// Through the cache, which keeps what was read.
    #[default]
    Cached,
    /// Once through, as compaction does: reads ahead, leaves the cache as it is.
    Once,
}

/// An open table. Holds its file open; cursors hold the table.
pub struct Table {
    file: TableFile,
    cache: Arc<BlockCache>,
    /// `None` when there are no points.
    index: Option<Index>,
    index_offset: u64,
    filter: Bytes,
    filter_probes: u32,
    ranges: Arc<RangeTombstones>,
    properties: Properties,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("path", &self.file.path)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

impl Table {
    /// Opens table number `file` at `path`: verifies footer, properties, index, filter and range tombstones.
    pub fn open(context: &TableContext, path: &Path, file: u64) -> Result<Arc<Table>, TableError> {
        let (file, footer) = TableFile::open(context, path, file)?;
        let at = footer.properties.offset;
        let Meta {
            properties,
            filter: filter_handle,
            filter_probes,
            ranges: ranges_handle,
        } = Meta::parse(&file.section(footer.properties)?)
            .ok_or_else(|| file.malformed(at, "malformed properties"))?;
        let index = match footer.index.len {
            0 => None,
            _ => {
                let at = footer.index.offset;
                let block = file.block(at, file.section(footer.index)?)?;
                Some(Index::new(block).map_err(|what| file.malformed(at, what))?)
            }
        };
        let mut filter = Bytes::new();
        if filter_handle.len > 0 {
            filter = file.section(filter_handle)?;
            if !filter::is_sound(&filter, filter_probes) {
                return Err(file.malformed(filter_handle.offset, "malformed filter"));
            }
        }
        let mut ranges = RangeTombstones::default();
        if ranges_handle.len > 0 {
            let list = parse_ranges(&file.section(ranges_handle)?).ok_or_else(|| {
                file.malformed(ranges_handle.offset, "malformed range tombstones")
            })?;
            ranges = RangeTombstones::new(list);
        }
        Ok(Arc::new(Table {
            file,
            cache: Arc::clone(&context.cache),
            index,
            index_offset: footer.index.offset,
            filter,
            filter_probes,
            ranges: Arc::new(ranges),
            properties,
        }))
    }

    /// Number of its file.
    #[must_use]
    pub fn file(&self) -> u64 {
        self.file.number
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Bytes of its file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file.bytes
    }

    /// Bytes of memory that it holds while open (index, filter, range tombstones), besides the cache.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let index = self.index.as_ref().map_or(0, Index::memory_bytes);
        (size_of::<Self>() + index + self.filter.len() + self.ranges.memory_bytes()) as u64
    }

    /// What it says about itself.
    #[must_use]
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Its range tombstones. The point lookups and cursors of a table do not apply them.
    #[must_use]
    pub fn ranges(&self) -> &Arc<RangeTombstones> {
        &self.ranges
    }

    /// The newest point version of `key` at or below `at`. Range tombstones are the caller's to apply.
    pub fn get(&self, key: &[u8], at: SeqNo) -> Result<Option<Version>, TableError> {
        let Some(index) = &self.index else {
            return Ok(None);
        };
        if !filter::may_contain(&self.filter, self.filter_probes, filter::hash(key)) {
            return Ok(None);
        }
        let target = KeyRef::new(key, at);
        let in_index = |what| self.malformed(self.index_offset, what);
        let Some(hit) = index.seek(target).map_err(in_index)? else {
            return Ok(None);
        };
        // The block's index key is at or behind the target, and before the next block's first: a version that is the
        // answer is in this block or in none.
        let handle = self.parse_handle(index.block().value_ref(&hit))?;
        let block = self.block(handle)?;
        let hit = block
            .seek(target)
            .map_err(|what| self.malformed(handle.offset, what))?;
        Ok(hit.filter(|hit| hit.same_user).map(|hit| Version {
            seqno: hit.seqno,
            kind: hit.kind,
            value: block.value(&hit),
        }))
    }

    /// A cursor over its point versions, on no entry yet.
    #[must_use]
    pub fn cursor(self: &Arc<Self>, mode: ReadMode) -> TableCursor {
        TableCursor::new(Arc::clone(self), mode)
    }

    /// Reads and verifies every block, and that entries are in order, within bounds, passed by the filter, and as many as
    /// the properties say.
    pub fn verify(self: &Arc<Self>) -> Result<(), TableError> {
        let mut cursor = self.cursor(ReadMode::Once);
        let (mut entries, mut keys) = (0, 0);
        let mut last: Option<(Vec<u8>, SeqNo)> = None;
        cursor.seek_to_first()?;
        while cursor.valid() {
            let key = cursor.key();
            let mut new_key = true;
            if let Some((user, seqno)) = &last {
                if KeyRef::new(user, *seqno) >= key {
                    return Err(self.malformed(cursor.block_offset(), "entries out of order"));
                }
                new_key = user != key.user;
            }
            if !self.properties.bounds.contains(key.user) {
                return Err(self.malformed(cursor.block_offset(), "an entry out of bounds"));
            }
            let hash = filter::hash(key.user);
            if new_key && !filter::may_contain(&self.filter, self.filter_probes, hash) {
                return Err(self.malformed(cursor.block_offset(), "a key the filter denies"));
            }
            entries += 1;
            keys += u64::from(new_key);
            let mut user = last.take().map_or_else(Vec::new, |(user, _)| user);
            user.clear();
            user.extend_from_slice(key.user);
            last = Some((user, key.seqno));
            cursor.next()?;
        }
        if (entries, keys) != (self.properties.entries, self.properties.keys) {
            return Err(self.malformed(self.file.sections_end, "not as many entries as it says"));
        }
        Ok(())
    }

    pub(crate) fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    pub(crate) fn index_offset(&self) -> u64 {
        self.index_offset
    }

    /// The section that an index entry names.
    pub(crate) fn parse_handle(&self, value: &[u8]) -> Result<Handle, TableError> {
        Handle::parse(value).ok_or_else(|| self.malformed(self.index_offset, "a malformed place"))
    }

    /// A data block, from the cache or into it.
    pub(crate) fn block(&self, handle: Handle) -> Result<Block, TableError> {
        if let Some(block) = self.cache.get(self.file.number, handle.offset) {
            return Ok(block);
        }
        let block = self.file.block(handle.offset, self.file.section(handle)?)?;
        self.cache
            .insert(self.file.number, handle.offset, block.clone());
        Ok(block)
    }

    /// A data block, from the cache or from `ahead`, which is refilled from the file where needed; the cache stays as it is.
    pub(crate) fn block_once(
        &self,
        handle: Handle,
        ahead: &mut ReadAhead,
    ) -> Result<Block, TableError> {
        if let Some(block) = self.cache.peek(self.file.number, handle.offset) {
            return Ok(block);
        }
        self.file.check(handle)?;
        let stored = match ahead.slice(handle) {
            Some(stored) => stored,
            None => {
                let len = (self.file.sections_end - handle.offset)
                    .min(ReadAhead::BYTES as u64)
                    .max(u64::from(handle.len));
                ahead.offset = handle.offset;
                ahead.bytes = Bytes::new();
                ahead.bytes = self.file.read(handle.offset, len as usize)?;
                ahead.slice(handle).expect("it was read just now")
            }
        };
        let raw = self.file.decode(handle.offset, stored)?;
        self.file.block(handle.offset, raw)
    }

    pub(crate) fn malformed(&self, offset: u64, what: Malformed) -> TableError {
        self.file.malformed(offset, what)
    }
}

/// A table's file: sections, verified.
struct TableFile {
    handle: Arc<dyn MediaFile>,
    path: PathBuf,
    number: u64,
    bytes: u64,
    seed: FileSeed,
    /// Sections end at or before here, where the footer begins.
    sections_end: u64,
}

impl TableFile {
    fn open(
        context: &TableContext,
        path: &Path,
        number: u64,
    ) -> Result<(TableFile, Footer), TableError> {
        let io = |doing, e| TableError::io(doing, path, e);
        let handle = context.media.open(path).map_err(|e| io("opening", e))?;
        handle.keep_whole();
        let bytes = handle.len().map_err(|e| io("asking the length of", e))?;
        let Some(sections_end) = bytes.checked_sub(FOOTER_LEN as u64) else {
            return Err(TableError::Corrupt {
                path: path.to_owned(),
                offset: 0,
                what: format!("{bytes} bytes are too short for a table"),
            });
        };
        let mut footer = [0; FOOTER_LEN];
        handle
            .read_exact_at(&mut footer, sections_end)
            .map_err(|e| io("reading", e))?;
        let seed = FileSeed::new(context.log, number);
        let footer = Footer::parse(&footer, &seed, number, sections_end, path)?;
        let file = TableFile {
            handle,
            path: path.to_owned(),
            number,
            bytes,
            seed,
            sections_end,
        };
        Ok((file, footer))
    }

    fn block(&self, offset: u64, bytes: Bytes) -> Result<Block, TableError> {
        Block::new(bytes).map_err(|what| self.malformed(offset, what))
    }

    fn malformed(&self, offset: u64, what: Malformed) -> TableError {
        TableError::Corrupt {
            path: self.path.clone(),
            offset,
            what: what.to_owned(),
        }
    }

    /// A section lies before the footer and is no shorter than its trailer (T3).
    fn check(&self, handle: Handle) -> Result<(), TableError> {
        if handle.end().is_some_and(|end| end <= self.sections_end)
            && handle.len as usize >= TRAILER_LEN
        {
            Ok(())
        } else {
            Err(self.malformed(handle.offset, "a section outside the file"))
        }
    }

    fn read(&self, offset: u64, len: usize) -> Result<Bytes, TableError> {
        let mut bytes = vec![0; len];
        self.handle
            .read_exact_at(&mut bytes, offset)
            .map_err(|e| TableError::io("reading", &self.path, e))?;
        Ok(Bytes::from(bytes))
    }

    fn section(&self, handle: Handle) -> Result<Bytes, TableError> {
        self.check(handle)?;
        let stored = self.read(handle.offset, handle.len as usize)?;
        self.decode(handle.offset, stored)
    }

    /// Verifies a section that stands at `offset`, then decompresses it (L4).
    fn decode(&self, offset: u64, section: Bytes) -> Result<Bytes, TableError> {
        let crc_at = section.len() - 4;
        let stored_len = section.len() - TRAILER_LEN;
        let stored = u32_at(&section, crc_at).expect("a section has its trailer");
        let computed = self.seed.crc(offset, &[&section[..crc_at]]);
        if stored != computed {
            return Err(TableError::Corrupt {
                path: self.path.clone(),
                offset,
                what: format!("its checksum is {stored:08x}, computed {computed:08x}"),
            });
        }
        let raw_len = u32_at(&section, stored_len + 1).expect("a section has its trailer") as usize;
        match section[stored_len] {
            COMPRESSION_NONE if raw_len == stored_len => Ok(section.slice(..stored_len)),
            // An LZ4 byte stands for 255 at most.
            COMPRESSION_LZ4
                if raw_len <= BLOCK_BYTES_MAX.max(stored_len) && raw_len / 255 <= stored_len =>
            {
                let mut raw = vec![0; raw_len];
                let n = lz4_flex::block::decompress_into(&section[..stored_len], &mut raw)
                    .map_err(|_| self.malformed(offset, "it does not decompress"))?;
                if n != raw_len {
                    return Err(self.malformed(offset, "it decompresses to another length"));
                }
                Ok(Bytes::from(raw))
            }
            COMPRESSION_NONE | COMPRESSION_LZ4 => {
                Err(self.malformed(offset, "an impossible length"))
            }
            _ => Err(self.malformed(offset, "an unknown compression")),
        }
    }
}

/// Bytes of a file read ahead of a cursor that passes once.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    offset: u64,
    bytes: Bytes,
}

impl ReadAhead {
    const BYTES: usize = 256 << 10;

    fn slice(&self, handle: Handle) -> Option<Bytes> {
        let at = usize::try_from(handle.offset.checked_sub(self.offset)?).ok()?;
        let end = at.checked_add(handle.len as usize)?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(at..end))
    }
}
