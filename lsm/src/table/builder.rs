//! Writes a table, streaming.
//!
//! Held in memory: the block under way, up to [`OUT_BYTES`] of finished ones, the index, eight bytes per key for the filter, and the
//! range tombstones. The file grows as it is written and is synced once, by [`TableBuilder::finish`].

use super::block::{BLOCK_BYTES_MAX, BlockBuilder, RESTART_INTERVAL, common};
use super::filter;
use super::format::{
    COMPRESSION_LZ4, COMPRESSION_NONE, FileSeed, Footer, Handle, Meta, Properties, TRAILER_LEN,
    encode_ranges,
};
use super::{KeyBounds, KeyRef, TableContext, TableError, VersionKind};
use crate::SeqNo;
use crate::iter::{RangeTombstone, RangeTombstones};
use bytes::Bytes;
use esker_wal::media::{Media, MediaFile, WRITE_BACK_BYTES};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Finished bytes are written when there are this many.
const OUT_BYTES: usize = WRITE_BACK_BYTES as usize;

/// How tables are written.
#[derive(Clone, Debug)]
pub struct TableOptions {
    /// Uncompressed bytes of a data block. Smaller: less to read and decode per lookup; larger: better
    /// compression, smaller index. Default 4 KiB.
    pub block_bytes: usize,
    /// Bits of Bloom filter per key; 0 writes none. Default 10 (one lookup of a missing key in a hundred reads a block).
    pub bloom_bits_per_key: u32,
    /// Compress blocks with LZ4 where it saves an eighth at least. Default true.
    pub compress: bool,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self {
            block_bytes: 4 << 10,
            bloom_bits_per_key: 10,
            compress: true,
        }
    }
}

/// Writes a table: entries in order, range tombstones at any time, then [`TableBuilder::finish`].
///
/// Dropped without it, it removes the file.
#[derive(Debug)]
pub struct TableBuilder {
    options: TableOptions,
    media: Arc<dyn Media>,
    handle: Arc<dyn MediaFile>,
    path: PathBuf,
    file: u64,
    seed: FileSeed,

    block: BlockBuilder,
    index: BlockBuilder,
    /// The section of the last finished block, whose index entry waits for the key behind it.
    pending: Option<Handle>,
    hashes: Vec<u64>,
    ranges: Vec<RangeTombstone>,

    out: Vec<u8>,
    /// Bytes of the file before `out`.
    written: u64,
    /// Of that, handed to the disk.
    written_back: u64,
    scratch: Vec<u8>,

    first: Option<Bytes>,
    entries: u64,
    keys: u64,
    deletes: u64,
    oldest: SeqNo,
    newest: SeqNo,
    key_bytes: u64,
    value_bytes: u64,
    range_bytes: u64,
    data_blocks: u64,
    finished: bool,
}

impl TableBuilder {
    /// Creates the file `path`, which must not exist, as table number `file`.
    pub fn create(
        context: &TableContext,
        path: &Path,
        file: u64,
        options: TableOptions,
    ) -> Result<Self, TableError> {
        let handle = context
            .media
            .create(path, 0)
            .map_err(|e| TableError::io("creating", path, e))?;
        Ok(Self {
            options,
            media: Arc::clone(&context.media),
            handle,
            path: path.to_owned(),
            file,
            seed: FileSeed::new(context.log, file),
            block: BlockBuilder::new(RESTART_INTERVAL),
            index: BlockBuilder::new(1),
            pending: None,
            hashes: Vec::new(),
            ranges: Vec::new(),
            out: Vec::with_capacity(OUT_BYTES + (64 << 10)),
            written: 0,
            written_back: 0,
            scratch: Vec::new(),
            first: None,
            entries: 0,
            keys: 0,
            deletes: 0,
            oldest: SeqNo(u64::MAX),
            newest: SeqNo(0),
            key_bytes: 0,
            value_bytes: 0,
            range_bytes: 0,
            data_blocks: 0,
            finished: false,
        })
    }

    /// Adds a version behind all before it (T1). `value` is empty for a delete.
    pub fn add(
        &mut self,
        key: KeyRef<'_>,
        kind: VersionKind,
        value: &[u8],
    ) -> Result<(), TableError> {
        if key.user.len() + value.len() > BLOCK_BYTES_MAX / 2 {
            return Err(self.misuse("an entry larger than a block can be"));
        }
        let new_key = if self.entries == 0 {
            true
        } else {
            let last = self.block.last();
            if last >= key {
                return Err(self.misuse("entries out of order"));
            }
            last.user != key.user
        };
        if let Some(handle) = self.pending.take() {
            self.add_index(handle, Some(key.user));
        }
        if new_key {
            self.keys += 1;
            if self.options.bloom_bits_per_key > 0 {
                self.hashes.push(filter::hash(key.user));
            }
            if self.first.is_none() {
                self.first = Some(Bytes::copy_from_slice(key.user));
            }
        }
        self.block.add(key, kind, value);
        self.entries += 1;
        self.deletes += u64::from(kind == VersionKind::Delete);
        self.key_bytes += key.user.len() as u64;
        self.value_bytes += value.len() as u64;
        self.saw(key.seqno);
        if self.block.len() >= self.options.block_bytes {
            self.finish_block()?;
        }
        Ok(())
    }

    /// Adds a range tombstone, in any order, before or after points. They are best given as
    /// [`RangeTombstones::iter`] gives them, clipped to this table.
    pub fn add_range(&mut self, tombstone: RangeTombstone) -> Result<(), TableError> {
        if !tombstone.end.is_empty() && tombstone.start >= tombstone.end {
            return Err(self.misuse("a range tombstone over nothing"));
        }
        self.saw(tombstone.seqno);
        self.range_bytes += (tombstone.start.len() + tombstone.end.len() + 12) as u64;
        self.ranges.push(tombstone);
        Ok(())
    }

    /// Nothing added yet?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0 && self.ranges.is_empty()
    }

    /// Bytes handed to the disk so far (see [`WRITE_BACK_BYTES`]).
    #[must_use]
    pub fn written_back(&self) -> u64 {
        self.written_back
    }

    /// Bytes that the file would have if finished now, nearly: to decide where to split.
    #[must_use]
    pub fn estimated_bytes(&self) -> u64 {
        let filter = self.hashes.len() as u64 * u64::from(self.options.bloom_bits_per_key) / 8;
        self.offset()
            + self.block.len() as u64
            + self.index.len() as u64
            + filter
            + self.range_bytes
            + 256
    }

    /// Writes what is left and syncs the file (not its directory). Gives its properties and its bytes.
    /// On an error the file is removed. The table must not be empty.
    pub fn finish(mut self) -> Result<(Properties, u64), TableError> {
        if self.is_empty() {
            return Err(self.misuse("a table without entries"));
        }
        if !self.block.is_empty() {
            self.finish_block()?;
        }
        if let Some(handle) = self.pending.take() {
            self.add_index(handle, None);
        }

        let mut filter_handle = Handle::default();
        if !self.hashes.is_empty() {
            let lines = filter::build(&self.hashes, self.options.bloom_bits_per_key);
            self.hashes = Vec::new();
            filter_handle = self.put_section(&lines, false)?;
        }
        let ranges = RangeTombstones::new(std::mem::take(&mut self.ranges));
        let mut ranges_handle = Handle::default();
        if !ranges.is_empty() {
            let bytes = encode_ranges(ranges.iter());
            ranges_handle = self.put_section(&bytes, true)?;
        }
        let mut index_handle = Handle::default();
        if !self.index.is_empty() {
            let mut index = std::mem::replace(&mut self.index, BlockBuilder::new(1));
            index_handle = self.put_section(index.finish(), true)?;
        }
        let meta = Meta {
            properties: Properties {
                bounds: self.bounds(&ranges),
                entries: self.entries,
                keys: self.keys,
                deletes: self.deletes,
                range_deletes: ranges.len() as u64,
                oldest: self.oldest,
                newest: self.newest,
                key_bytes: self.key_bytes,
                value_bytes: self.value_bytes,
                data_blocks: self.data_blocks,
            },
            filter: filter_handle,
            filter_probes: filter::probes(self.options.bloom_bits_per_key),
            ranges: ranges_handle,
        };
        let properties_handle = self.put_section(&meta.encode(), false)?;
        let footer = Footer {
            file: self.file,
            index: index_handle,
            properties: properties_handle,
        };
        let footer = footer.encode(&self.seed, self.offset());
        self.out.extend_from_slice(&footer);
        self.write_out()?;
        if !crate::sabotage::on(crate::sabotage::TABLE_NOT_SYNCED) {
            self.handle
                .sync()
                .map_err(|e| TableError::io("syncing", &self.path, e))?;
        }
        self.finished = true;
        Ok((meta.properties, self.written))
    }

    /// Gives up: removes the file. Dropping does the same.
    pub fn abandon(self) {}

    fn saw(&mut self, seqno: SeqNo) {
        self.oldest = self.oldest.min(seqno);
        self.newest = self.newest.max(seqno);
    }

    fn bounds(&self, ranges: &RangeTombstones) -> KeyBounds {
        let points = self.first.as_ref().map(|first| KeyBounds {
            smallest: first.clone(),
            largest: Bound::Included(Bytes::copy_from_slice(self.block.last().user)),
        });
        match (points, ranges.bounds()) {
            (Some(points), Some(ranges)) => points.union(&ranges),
            (points, ranges) => points.or(ranges).expect("the table is not empty"),
        }
    }

    fn offset(&self) -> u64 {
        self.written + self.out.len() as u64
    }

    fn finish_block(&mut self) -> Result<(), TableError> {
        let mut block = std::mem::replace(&mut self.block, BlockBuilder::new(0));
        let handle = self.put_section(block.finish(), true);
        block.clear();
        self.block = block;
        self.pending = Some(handle?);
        self.data_blocks += 1;
        Ok(())
    }

    /// Adds the index entry of the block whose last key is the last added; `next` is the user key behind it.
    fn add_index(&mut self, handle: Handle, next: Option<&[u8]>) {
        let last = self.block.last();
        let key = match next {
            // A key whose versions go on in the next block: this very version divides.
            Some(next) if next == last.user => last,
            Some(next) => KeyRef::after(separator(last.user, next)),
            None => KeyRef::after(last.user),
        };
        let mut value = Vec::with_capacity(16);
        handle.put(&mut value);
        self.index.add(key, VersionKind::Put, &value);
    }

    fn put_section(&mut self, raw: &[u8], compress: bool) -> Result<Handle, TableError> {
        let offset = self.offset();
        let mut compression = COMPRESSION_NONE;
        let mut stored = raw;
        if compress && self.options.compress {
            let most = lz4_flex::block::get_maximum_output_size(raw.len());
            if self.scratch.len() < most {
                self.scratch.resize(most, 0);
            }
            if let Ok(n) = lz4_flex::block::compress_into(raw, &mut self.scratch)
                && n < raw.len() - raw.len() / 8
            {
                compression = COMPRESSION_LZ4;
                stored = &self.scratch[..n];
            }
        }
        let mut tail = [0; TRAILER_LEN - 4];
        tail[0] = compression;
        tail[1..].copy_from_slice(&(raw.len() as u32).to_le_bytes());
        let crc = self.seed.crc(offset, &[stored, &tail]);
        let Ok(len) = u32::try_from(stored.len() + TRAILER_LEN) else {
            return Err(self.misuse("a section of 4 GiB; write smaller tables"));
        };
        self.out.extend_from_slice(stored);
        self.out.extend_from_slice(&tail);
        self.out.extend_from_slice(&crc.to_le_bytes());
        if self.out.len() >= OUT_BYTES {
            self.write_out()?;
        }
        Ok(Handle { offset, len })
    }

    fn write_out(&mut self) -> Result<(), TableError> {
        self.handle
            .write_all_at(&self.out, self.written)
            .map_err(|e| TableError::io("writing", &self.path, e))?;
        self.written += self.out.len() as u64;
        self.out.clear();
        let ready = self.written - self.written_back;
        if ready >= WRITE_BACK_BYTES {
            (self.handle.write_back(self.written_back, ready))
                .map_err(|e| TableError::io("writing back", &self.path, e))?;
            self.written_back = self.written;
        }
        Ok(())
    }

    fn misuse(&self, what: &str) -> TableError {
        TableError::Misuse {
            path: self.path.clone(),
            what: what.to_owned(),
        }
    }
}

impl Drop for TableBuilder {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = self.media.remove(&self.path)
        {
            // The next open removes it as a leftover.
            tracing::warn!(path = %self.path.display(), %error, "an unfinished table stays behind");
        }
    }
}

/// The shortest key found cheaply that is at or behind `last` and before `next`: a part of one of them.
fn separator<'a>(last: &'a [u8], next: &'a [u8]) -> &'a [u8] {
    let n = common(last, next);
    if n < last.len() && n + 1 < next.len() && n + 1 < last.len() {
        // They differ at n, so this front of `next` is behind `last`, and it is before `next` itself.
        &next[..=n]
    } else {
        last
    }
}

#[cfg(test)]
mod tests {
    use super::separator;

    #[test]
    fn a_separator_divides_and_is_no_longer_than_need_be() {
        let cases: &[(&str, &str, &str)] = &[
            ("", "a", ""),
            ("a", "b", "a"),
            ("abc", "abd", "abc"),
            ("abcde", "abx", "abcde"),
            ("abcde", "abxyz", "abx"),
            ("a", "abc", "a"),
            ("applesauce", "banana", "b"),
        ];
        for (last, next, expected) in cases {
            let found = separator(last.as_bytes(), next.as_bytes());
            assert_eq!(found, expected.as_bytes(), "{last} {next}");
            assert!(last.as_bytes() <= found && found < next.as_bytes());
        }
    }
}
