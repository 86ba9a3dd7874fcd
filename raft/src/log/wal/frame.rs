//! What one frame of the log says: where hard state and log stand behind it, and what it changes.
//!
//! Payload of a data frame of `esker-wal`, whose checksum covers it. Little-endian; entries, log ids and snapshots as in [`crate::codec`].
//! ```text
//! at  size  field
//!  0     1  format (1)
//!  1     7  zero
//!  8     8  group
//! 16    16  hard state behind this frame: term, vote (0: none)
//! 32    16  the log's end behind this frame: term, index
//! 48     8  abstains: 0 no; an index: until it is synced; all ones: for ever
//! 56        records, until the payload ends
//!
//! 1 append    u64 term of the entry before the first; u32 count, 1 or more; entries, without a gap
//! 2 snapshot  what it stands for: the log begins anew behind it
//! 3 base      the same of the last entry that may be gone
//! ```
//! - FR1: every frame repeats hard state and end, so damage to a frame that has another behind it costs neither.
//! - FR2: an append names what it follows. A log that holds that entry, term and index, is the same up to there (the paper, 5.3), so
//!   entries behind a damaged frame are never put behind others than they were.
//! - FR3 (E2): any bytes are a frame or an error.

use crate::codec::{self, Decoder, Malformed};
use crate::core::{Abstain, Entry, EntryKind, HardState, Index, LogId, SnapshotMeta, Term};
use bytes::Bytes;

const FORMAT: u8 = 1;
const GROUP_AT: usize = 8;
const HARD_AT: usize = GROUP_AT + 8;
const LAST_AT: usize = HARD_AT + 16;
const ABSTAIN_AT: usize = LAST_AT + 16;
const HEAD_LEN: usize = ABSTAIN_AT + 8;
const _: () = assert!(HEAD_LEN == 56);

// On disk: add, never renumber.
const APPEND: u8 = 1;
const SNAPSHOT: u8 = 2;
const BASE: u8 = 3;

/// From this length on a payload goes to the log from where it is.
const LENT_BYTES: usize = 512;

/// What every frame says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub group: u64,
    pub hard: HardState,
    pub last: LogId,
    pub abstain: Abstain,
}

/// What a frame changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Append { prev: LogId, entries: Vec<Entry> },
    Snapshot(SnapshotMeta),
    Base(SnapshotMeta),
}

/// Why a payload is no frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Format(u8),
    Malformed(Malformed),
}

impl From<Malformed> for Unreadable {
    fn from(malformed: Malformed) -> Unreadable {
        Unreadable::Malformed(malformed)
    }
}

pub(super) fn decode(payload: Bytes) -> Result<(Head, Vec<Record>), Unreadable> {
    let mut at = Decoder::new(payload);
    let format = at.u8("a format")?;
    if format != FORMAT {
        return Err(Unreadable::Format(format));
    }
    if at.bytes(7, "seven zeros")?.iter().any(|b| *b != 0) {
        return Err(at.malformed("seven zeros").into());
    }
    let head = Head {
        group: at.u64("a group")?,
        hard: at.hard_state()?,
        last: at.log_id()?,
        abstain: match at.u64("an index")? {
            0 => Abstain::No,
            u64::MAX => Abstain::Always,
            index => Abstain::Until(Index(index)),
        },
    };
    let mut records = Vec::new();
    while at.left() > 0 {
        records.push(match at.u8("a record")? {
            APPEND => append(&mut at)?,
            SNAPSHOT => Record::Snapshot(at.snapshot_meta()?),
            BASE => Record::Base(at.snapshot_meta()?),
            _ => return Err(at.malformed("a known record").into()),
        });
    }
    Ok((head, records))
}

fn append(at: &mut Decoder) -> Result<Record, Malformed> {
    let term = Term(at.u64("a term")?);
    let count = at.count(21, "a count of entries")?;
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = at.entry()?;
        let before = entries.last().map(|e| e.id);
        let before = before.unwrap_or(LogId {
            term,
            index: entry.id.index.before(),
        });
        if entry.id.index != before.index.next() || entry.id.term < before.term {
            return Err(at.malformed("an entry that follows the one before it"));
        }
        entries.push(entry);
    }
    let first = entries.first().ok_or(at.malformed("an entry"))?;
    let prev = LogId {
        term,
        index: first.id.index.before(),
    };
    Ok(Record::Append { prev, entries })
}

/// Encodes a frame; long payloads are lent, not copied.
#[derive(Debug)]
pub(super) struct Encoder<'a> {
    buf: Vec<u8>,
    /// What stands behind so many bytes of `buf`.
    lent: Vec<(usize, &'a [u8])>,
    /// Where the count of the append that is being written stands, and the last entry in it.
    open: Option<(usize, LogId)>,
}

impl<'a> Encoder<'a> {
    /// With the memory of an earlier one.
    pub(super) fn new(mut buf: Vec<u8>) -> Encoder<'a> {
        buf.clear();
        buf.resize(HEAD_LEN, 0);
        Encoder {
            buf,
            lent: Vec::new(),
            open: None,
        }
    }

    /// An entry that follows `prev`.
    pub(super) fn entry(&mut self, prev: LogId, entry: &'a Entry) {
        let count_at = match self.open {
            Some((at, last)) if last == prev => at,
            _ => {
                self.buf.push(APPEND);
                self.buf.extend_from_slice(&prev.term.0.to_le_bytes());
                self.buf.extend_from_slice(&[0; 4]);
                self.buf.len() - 4
            }
        };
        self.open = Some((count_at, entry.id));
        let field = &mut self.buf[count_at..count_at + 4];
        let count = u32::from_le_bytes(field.try_into().expect("4 bytes")) + 1;
        field.copy_from_slice(&count.to_le_bytes());
        match &entry.kind {
            EntryKind::Command(payload) if payload.len() >= LENT_BYTES => {
                let empty = Entry {
                    id: entry.id,
                    kind: EntryKind::Command(Bytes::new()),
                };
                codec::put_entry(&mut self.buf, &empty);
                // Its length is what it ends with.
                let at = self.buf.len() - 4;
                let len = u32::try_from(payload.len()).expect("bounded by ENTRY_BYTES_MAX");
                self.buf[at..].copy_from_slice(&len.to_le_bytes());
                self.lent.push((self.buf.len(), payload));
            }
            _ => codec::put_entry(&mut self.buf, entry),
        }
    }

    pub(super) fn snapshot(&mut self, meta: &SnapshotMeta) {
        self.meta(SNAPSHOT, meta);
    }

    pub(super) fn base(&mut self, meta: &SnapshotMeta) {
        self.meta(BASE, meta);
    }

    fn meta(&mut self, tag: u8, meta: &SnapshotMeta) {
        self.open = None;
        self.buf.push(tag);
        codec::put_snapshot_meta(&mut self.buf, meta);
    }

    /// Ends it; the parts to append, one behind the other.
    pub(super) fn finish(&mut self, head: &Head) -> Vec<&[u8]> {
        let mut bytes = Vec::with_capacity(HEAD_LEN);
        bytes.extend_from_slice(&[FORMAT, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&head.group.to_le_bytes());
        codec::put_hard_state(&mut bytes, &head.hard);
        codec::put_log_id(&mut bytes, head.last);
        let abstain = match head.abstain {
            Abstain::No => 0,
            Abstain::Until(index) => index.0,
            Abstain::Always => u64::MAX,
        };
        bytes.extend_from_slice(&abstain.to_le_bytes());
        self.buf[..HEAD_LEN].copy_from_slice(&bytes);
        let mut parts = Vec::with_capacity(2 * self.lent.len() + 1);
        let mut from = 0;
        for (to, lent) in &self.lent {
            parts.push(&self.buf[from..*to]);
            parts.push(lent);
            from = *to;
        }
        parts.push(&self.buf[from..]);
        parts
    }

    /// Its memory, for the next.
    pub(super) fn into_buf(self) -> Vec<u8> {
        self.buf
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Membership, NodeId};

    fn id(term: u64, index: u64) -> LogId {
        LogId {
            term: Term(term),
            index: Index(index),
        }
    }

    fn entry(term: u64, index: u64, payload: &'static [u8]) -> Entry {
        Entry {
            id: id(term, index),
            kind: EntryKind::Command(Bytes::from_static(payload)),
        }
    }

    fn head() -> Head {
        Head {
            group: 1,
            hard: HardState {
                term: Term(3),
                vote: Some(NodeId(2)),
            },
            last: id(3, 9),
            abstain: Abstain::Until(Index(12)),
        }
    }

    fn encoded(head: &Head, build: impl FnOnce(&mut Encoder<'static>)) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new());
        build(&mut encoder);
        encoder.finish(head).concat()
    }

    fn leak(entries: Vec<Entry>) -> &'static [Entry] {
        Box::leak(entries.into_boxed_slice())
    }

    #[test]
    fn the_bytes_of_a_frame_are_frozen() {
        let entries = leak(vec![entry(3, 9, b"set a")]);
        let bytes = encoded(&head(), |e| e.entry(id(2, 8), &entries[0]));
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let spelled = "01 00000000000000 0100000000000000 0300000000000000 0200000000000000 \
                       0300000000000000 0900000000000000 0c00000000000000 \
                       01 0200000000000000 01000000 \
                       0300000000000000 0900000000000000 01 05000000 7365742061";
        assert_eq!(hex, spelled.replace(' ', ""));
    }

    #[test]
    fn a_frame_comes_back_whatever_is_lent_and_however_it_is_cut_into_runs() {
        let long: &'static [u8] = Box::leak(vec![7; LENT_BYTES].into_boxed_slice());
        let entries = leak(vec![
            entry(1, 5, b"a"),
            entry(1, 6, long),
            entry(2, 7, long),
            entry(2, 6, b""),
            entry(2, 7, long),
        ]);
        let meta = SnapshotMeta {
            last: id(2, 7),
            membership: Membership::of([NodeId(1)]),
        };
        let bytes = encoded(&head(), |e| {
            e.entry(id(1, 4), &entries[0]);
            e.entry(entries[0].id, &entries[1]);
            e.entry(entries[1].id, &entries[2]);
            e.entry(id(1, 5), &entries[3]);
            e.entry(entries[3].id, &entries[4]);
            e.base(&meta);
            e.snapshot(&meta);
        });
        let (found, records) = decode(bytes.clone().into()).unwrap();
        assert_eq!(found, head());
        let append = |prev, entries: &[Entry]| Record::Append {
            prev,
            entries: entries.to_vec(),
        };
        let want = [
            append(id(1, 4), &entries[..3]),
            append(id(1, 5), &entries[3..]),
            Record::Base(meta.clone()),
            Record::Snapshot(meta),
        ];
        assert_eq!(records, want);
    }

    /// E2.
    #[test]
    fn any_bytes_are_a_frame_or_an_error() {
        let entries = leak(vec![entry(3, 9, b"set a"), entry(3, 10, b"set b")]);
        let bytes = encoded(&head(), |e| {
            e.entry(id(2, 8), &entries[0]);
            e.entry(entries[0].id, &entries[1]);
        });
        for len in 0..bytes.len() {
            let whole = decode(Bytes::copy_from_slice(&bytes[..len])).is_ok();
            assert_eq!(whole, len == HEAD_LEN, "{len}");
        }
        for at in 0..bytes.len() {
            for change in [1, 0x80, 0xff] {
                let mut other = bytes.clone();
                other[at] ^= change;
                let _ = decode(other.into());
            }
        }
        assert_eq!(
            decode(Bytes::from_static(b"\x02")),
            Err(Unreadable::Format(2))
        );
    }
}
