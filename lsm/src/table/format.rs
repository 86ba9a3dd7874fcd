//! Places in a table file.
//!
//! Little-endian; `v` is a variable-length integer (`coding`).
//! ```text
//! file        data blocks, filter, range tombstones, index, properties: sections; then the footer
//!
//! section     n  stored        the section's bytes, compressed or not
//!             1  compression   0 none, 1 LZ4 block
//!             4  raw length    of the bytes uncompressed
//!             4  crc32         of all before it in the section, seeded with log id, file number and the
//!                              section's offset
//!
//! index       a block (`block`) whose every entry is a restart. Key: at or behind the last of a data block and before the first of
//!             the next; value: v offset, v length of the section. Not there when there are no points
//! filter      lines (`filter`)
//! ranges      by start, then newest first: v length, start, v length, end (empty: none), 8 SeqNo
//! properties  fields: v tag, v length, the field. Unknown tags are skipped
//!
//! footer  at  0   8  file number
//!             8   8  offset of the index section, 0 without one
//!            16   8  offset of the properties section
//!            24   4  length of the index section
//!            28   4  length of the properties section
//!            32   4  index levels, 1
//!            36  12  zeros
//!            48   4  crc32 of all else in the footer, seeded like a section's
//!            52   4  format version
//!            56   8  "ESKRTBL1"
//! ```
//! The footer's length, and in it the places of checksum, version and magic, are the same in every version, so that a
//! newer one is told from damage. An incompatible change raises the version; an addition that an older reader may ignore is
//! a property.

use super::coding::{put_varint, u32_at, u64_at, varint};
use super::{KeyBounds, TableError};
use crate::SeqNo;
use crate::iter::RangeTombstone;
use bytes::Bytes;
use esker_wal::LogId;
use std::ops::Bound;
use std::path::Path;

/// Format written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 1;

pub(crate) const MAGIC: [u8; 8] = *b"ESKRTBL1";
pub(crate) const COMPRESSION_NONE: u8 = 0;
pub(crate) const COMPRESSION_LZ4: u8 = 1;
/// Bytes of a section behind what is stored.
pub(crate) const TRAILER_LEN: usize = 1 + 4 + 4;

const FILE_AT: usize = 0;
const INDEX_AT: usize = FILE_AT + size_of::<u64>();
const PROPERTIES_AT: usize = INDEX_AT + size_of::<u64>();
const INDEX_LEN_AT: usize = PROPERTIES_AT + size_of::<u64>();
const PROPERTIES_LEN_AT: usize = INDEX_LEN_AT + size_of::<u32>();
const INDEX_LEVELS_AT: usize = PROPERTIES_LEN_AT + size_of::<u32>();
const ZEROS_AT: usize = INDEX_LEVELS_AT + size_of::<u32>();
const CRC_AT: usize = ZEROS_AT + 12;
const VERSION_AT: usize = CRC_AT + size_of::<u32>();
const MAGIC_AT: usize = VERSION_AT + size_of::<u32>();
pub(crate) const FOOTER_LEN: usize = MAGIC_AT + MAGIC.len();
const _: () = assert!(FOOTER_LEN == 64);

/// Seed of the checksums of one file; the offset is added for each section.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileSeed([u8; 32]);

impl FileSeed {
    pub(crate) fn new(log: LogId, file: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&log.to_bytes());
        bytes[16..24].copy_from_slice(&file.to_le_bytes());
        Self(bytes)
    }

    /// The checksum of `parts`, one behind the other, standing at `offset`.
    pub(crate) fn crc(&self, offset: u64, parts: &[&[u8]]) -> u32 {
        let mut seed = self.0;
        seed[24..].copy_from_slice(&offset.to_le_bytes());
        let mut hasher = crc32fast::Hasher::new_with_initial(crc32fast::hash(&seed));
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize()
    }
}

/// Where a section stands, its trailer included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

impl Handle {
    pub(crate) fn end(&self) -> Option<u64> {
        self.offset.checked_add(u64::from(self.len))
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.offset);
        put_varint(out, u64::from(self.len));
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Handle> {
        let (offset, at) = varint(bytes, 0)?;
        let (len, at) = varint(bytes, at)?;
        let len = u32::try_from(len).ok()?;
        (at == bytes.len()).then_some(Handle { offset, len })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) file: u64,
    pub(crate) index: Handle,
    pub(crate) properties: Handle,
}

impl Footer {
    pub(crate) fn encode(&self, seed: &FileSeed, offset: u64) -> [u8; FOOTER_LEN] {
        let mut out = [0; FOOTER_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(FILE_AT, &self.file.to_le_bytes());
        put(INDEX_AT, &self.index.offset.to_le_bytes());
        put(PROPERTIES_AT, &self.properties.offset.to_le_bytes());
        put(INDEX_LEN_AT, &self.index.len.to_le_bytes());
        put(PROPERTIES_LEN_AT, &self.properties.len.to_le_bytes());
        put(INDEX_LEVELS_AT, &1_u32.to_le_bytes());
        put(VERSION_AT, &FORMAT_VERSION.to_le_bytes());
        put(MAGIC_AT, &MAGIC);
        let crc = seed.crc(offset, &[&out[..CRC_AT], &out[VERSION_AT..]]);
        out[CRC_AT..VERSION_AT].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The footer of table `file`, verified.
    pub(crate) fn parse(
        bytes: &[u8; FOOTER_LEN],
        seed: &FileSeed,
        file: u64,
        offset: u64,
        path: &Path,
    ) -> Result<Footer, TableError> {
        let corrupt = |what: String| TableError::Corrupt {
            path: path.to_owned(),
            offset,
            what,
        };
        let word = |at| u32_at(bytes, at).expect("within the footer");
        let long = |at| u64_at(bytes, at).expect("within the footer");
        if bytes[MAGIC_AT..] != MAGIC {
            return Err(corrupt("no table's footer at the end of the file".into()));
        }
        let (stored, computed) = (
            word(CRC_AT),
            seed.crc(offset, &[&bytes[..CRC_AT], &bytes[VERSION_AT..]]),
        );
        let footer = Footer {
            file: long(FILE_AT),
            index: Handle {
                offset: long(INDEX_AT),
                len: word(INDEX_LEN_AT),
            },
            properties: Handle {
                offset: long(PROPERTIES_AT),
                len: word(PROPERTIES_LEN_AT),
            },
        };
        if stored != computed {
            let hint = if footer.file == file {
                "damaged, or of another store"
            } else {
                "damaged, or another file under this name"
            };
            return Err(corrupt(format!(
                "the footer's checksum is {stored:08x}, computed {computed:08x}: {hint}"
            )));
        }
        let found = word(VERSION_AT);
        if found > FORMAT_VERSION || word(INDEX_LEVELS_AT) != 1 {
            return Err(TableError::NewerFormat {
                path: path.to_owned(),
                found,
                supported: FORMAT_VERSION,
            });
        }
        if footer.file != file {
            return Err(corrupt(format!("the footer says file {}", footer.file)));
        }
        Ok(footer)
    }
}

/// What a table says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// User keys it speaks about.
    pub bounds: KeyBounds,
    /// Point versions, tombstones included.
    pub entries: u64,
    /// Distinct user keys with a point version.
    pub keys: u64,
    /// Point tombstones.
    pub deletes: u64,
    /// Range tombstones.
    pub range_deletes: u64,
    /// Oldest SeqNo in it, points and ranges.
    pub oldest: SeqNo,
    /// Newest SeqNo in it, points and ranges.
    pub newest: SeqNo,
    /// Bytes of user keys, uncompressed.
    pub key_bytes: u64,
    /// Bytes of values, uncompressed.
    pub value_bytes: u64,
    /// Data blocks.
    pub data_blocks: u64,
}

/// What the reader needs to know beside the public properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) properties: Properties,
    pub(crate) filter: Handle,
    pub(crate) filter_probes: u32,
    pub(crate) ranges: Handle,
}

/// Tags of properties. They reach the disk: add, never renumber.
mod tag {
    pub(super) const SMALLEST: u64 = 1;
    /// One byte (0 inclusive, 1 exclusive, 2 unbounded), then the key.
    pub(super) const LARGEST: u64 = 2;
    pub(super) const ENTRIES: u64 = 3;
    pub(super) const KEYS: u64 = 4;
    pub(super) const DELETES: u64 = 5;
    pub(super) const RANGE_DELETES: u64 = 6;
    pub(super) const OLDEST: u64 = 7;
    pub(super) const NEWEST: u64 = 8;
    pub(super) const KEY_BYTES: u64 = 9;
    pub(super) const VALUE_BYTES: u64 = 10;
    pub(super) const DATA_BLOCKS: u64 = 11;
    /// A handle; not there without a filter.
    pub(super) const FILTER: u64 = 12;
    pub(super) const FILTER_PROBES: u64 = 13;
    /// A handle; not there without range tombstones.
    pub(super) const RANGES: u64 = 14;
}

impl Meta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let p = &self.properties;
        let mut out = Vec::new();
        let mut put = |tag: u64, parts: &[&[u8]]| {
            put_varint(&mut out, tag);
            put_varint(&mut out, parts.iter().map(|part| part.len() as u64).sum());
            parts.iter().for_each(|part| out.extend_from_slice(part));
        };
        put(tag::SMALLEST, &[&p.bounds.smallest]);
        match &p.bounds.largest {
            Bound::Included(key) => put(tag::LARGEST, &[&[0], key]),
            Bound::Excluded(key) => put(tag::LARGEST, &[&[1], key]),
            Bound::Unbounded => put(tag::LARGEST, &[&[2]]),
        }
        for (tag, n) in [
            (tag::ENTRIES, p.entries),
            (tag::KEYS, p.keys),
            (tag::DELETES, p.deletes),
            (tag::RANGE_DELETES, p.range_deletes),
            (tag::OLDEST, p.oldest.0),
            (tag::NEWEST, p.newest.0),
            (tag::KEY_BYTES, p.key_bytes),
            (tag::VALUE_BYTES, p.value_bytes),
            (tag::DATA_BLOCKS, p.data_blocks),
            (tag::FILTER_PROBES, u64::from(self.filter_probes)),
        ] {
            put(tag, &[&n.to_le_bytes()]);
        }
        for (tag, handle) in [(tag::FILTER, self.filter), (tag::RANGES, self.ranges)] {
            if handle.len > 0 {
                let mut field = Vec::new();
                handle.put(&mut field);
                put(tag, &[&field]);
            }
        }
        out
    }

    pub(crate) fn parse(bytes: &Bytes) -> Option<Meta> {
        let mut smallest = None;
        let mut largest = None;
        let mut numbers = [None; tag::RANGES as usize + 1];
        let (mut filter, mut ranges) = (Handle::default(), Handle::default());
        let mut at = 0;
        while at < bytes.len() {
            let (tag, next) = varint(bytes, at)?;
            let (len, next) = varint(bytes, next)?;
            let end = next.checked_add(usize::try_from(len).ok()?)?;
            if end > bytes.len() {
                return None;
            }
            let field = bytes.slice(next..end);
            at = end;
            match tag {
                tag::SMALLEST => smallest = Some(field),
                tag::LARGEST => {
                    largest = Some(match field.first()? {
                        0 => Bound::Included(field.slice(1..)),
                        1 => Bound::Excluded(field.slice(1..)),
                        2 => Bound::Unbounded,
                        _ => return None,
                    });
                }
                tag::FILTER => filter = Handle::parse(&field)?,
                tag::RANGES => ranges = Handle::parse(&field)?,
                tag::ENTRIES..tag::RANGES => numbers[tag as usize] = u64_at(&field, 0),
                _ => {}
            }
        }
        let number = |tag: u64| numbers[tag as usize];
        Some(Meta {
            properties: Properties {
                bounds: KeyBounds {
                    // Own memory, so that the section's is let go.
                    smallest: Bytes::copy_from_slice(&smallest?),
                    largest: largest?.map(|key| Bytes::copy_from_slice(&key)),
                },
                entries: number(tag::ENTRIES)?,
                keys: number(tag::KEYS)?,
                deletes: number(tag::DELETES)?,
                range_deletes: number(tag::RANGE_DELETES)?,
                oldest: SeqNo(number(tag::OLDEST)?),
                newest: SeqNo(number(tag::NEWEST)?),
                key_bytes: number(tag::KEY_BYTES)?,
                value_bytes: number(tag::VALUE_BYTES)?,
                data_blocks: number(tag::DATA_BLOCKS)?,
            },
            filter,
            filter_probes: u32::try_from(number(tag::FILTER_PROBES)?).ok()?,
            ranges,
        })
    }
}

pub(crate) fn encode_ranges(tombstones: impl Iterator<Item = RangeTombstone>) -> Vec<u8> {
    let mut out = Vec::new();
    for t in tombstones {
        for key in [&t.start, &t.end] {
            put_varint(&mut out, key.len() as u64);
            out.extend_from_slice(key);
        }
        out.extend_from_slice(&t.seqno.0.to_le_bytes());
    }
    out
}

pub(crate) fn parse_ranges(bytes: &Bytes) -> Option<Vec<RangeTombstone>> {
    let mut found = Vec::new();
    let mut at = 0;
    let key = |at: &mut usize| {
        let (len, start) = varint(bytes, *at)?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        if end > bytes.len() {
            return None;
        }
        *at = end;
        Some(bytes.slice(start..end))
    };
    while at < bytes.len() {
        let (start, end) = (key(&mut at)?, key(&mut at)?);
        let seqno = SeqNo(u64_at(bytes, at)?);
        at += 8;
        found.push(RangeTombstone { start, end, seqno });
    }
    Some(found)
}
