//! The bytes of entries, memberships and hard state: one encoding for the log's frames and for the network.
//!
//! Little-endian.
//! ```text
//! entry       term u64, index u64, kind u8 (1 command, 2 no-op, 3 membership), length u32, payload
//! membership  voters, outgoing, learners: each a count u32 and ids u64, ascending;
//!             then what is known of members: a count u32 and (id u64, length u32, bytes), ascending
//! hard state  term u64, vote u64 (0: none)
//! snapshot    term u64, index u64 of the last entry in it; membership
//! ```
//! - CO1 (E2): a decoder takes any bytes: it never panics, and allocates no more than the bytes at hand justify.
//! - CO2: what is decoded encodes to the same bytes: ids ascend, no kind but those above, nothing is left over.

use crate::core::{
    Entry, EntryKind, HardState, Index, LogId, Membership, NodeId, SnapshotMeta, Term,
};
use bytes::{Buf, Bytes};
use std::collections::{BTreeMap, BTreeSet};

const COMMAND: u8 = 1;
const NOOP: u8 = 2;
const MEMBERSHIP: u8 = 3;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad bytes at {at} of {len}: {what}")]
pub struct Malformed {
    /// What was expected.
    pub what: &'static str,
    /// Where.
    pub at: usize,
    /// Of how many.
    pub len: usize,
}

/// Takes encoded things off the front of bytes, without copying payloads.
#[derive(Clone, Debug)]
pub struct Decoder {
    bytes: Bytes,
    at: usize,
}

impl Decoder {
    /// From the first of `bytes` on.
    #[must_use]
    pub fn new(bytes: Bytes) -> Decoder {
        Decoder { bytes, at: 0 }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The error that says what was expected here.
    #[must_use]
    pub fn malformed(&self, what: &'static str) -> Malformed {
        let (at, len) = (self.at, self.bytes.len());
        Malformed { what, at, len }
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), Malformed> {
        match self.left() {
            0 => Ok(()),
            _ => Err(self.malformed("the end")),
        }
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize, what: &'static str) -> Result<Bytes, Malformed> {
        if self.left() < len {
            return Err(self.malformed(what));
        }
        let bytes = self.bytes.slice(self.at..self.at + len);
        self.at += len;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        match self.bytes[self.at..].first_chunk::<N>() {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(self.malformed(what)),
        }
    }

    /// Everything that is left.
    #[must_use]
    pub fn rest(self) -> Bytes {
        let mut bytes = self.bytes;
        bytes.advance(self.at);
        bytes
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// Four bytes.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, Malformed> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed(what)),
        }
    }

    /// A length u32 and so many bytes.
    pub fn blob(&mut self, what: &'static str) -> Result<Bytes, Malformed> {
        let len = self.u32(what)?;
        self.bytes(len as usize, what)
    }

    /// A count u32 of things that take `least` bytes each: no more than can be there.
    pub fn count(&mut self, least: usize, what: &'static str) -> Result<usize, Malformed> {
        let count = self.u32(what)? as usize;
        match count.checked_mul(least.max(1)) {
            Some(bytes) if bytes <= self.left() => Ok(count),
            _ => Err(self.malformed(what)),
        }
    }

    /// Term and index.
    pub fn log_id(&mut self) -> Result<LogId, Malformed> {
        let term = Term(self.u64("a term")?);
        let index = Index(self.u64("an index")?);
        // So that the place behind it exists.
        match index.0 {
            u64::MAX => Err(self.malformed("an index below the last")),
            _ => Ok(LogId { term, index }),
        }
    }

    fn ids(&mut self) -> Result<BTreeSet<NodeId>, Malformed> {
        let mut ids = BTreeSet::new();
        for _ in 0..self.count(8, "a count of members")? {
            let id = NodeId(self.u64("a member")?);
            if ids.last().is_some_and(|last| *last >= id) {
                return Err(self.malformed("members in ascending order"));
            }
            ids.insert(id);
        }
        Ok(ids)
    }

    /// A membership.
    pub fn membership(&mut self) -> Result<Membership, Malformed> {
        let (voters, outgoing, learners) = (self.ids()?, self.ids()?, self.ids()?);
        let mut about = BTreeMap::new();
        for _ in 0..self.count(12, "a count of members")? {
            let id = NodeId(self.u64("a member")?);
            if about.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return Err(self.malformed("members in ascending order"));
            }
            about.insert(id, self.blob("what is known of a member")?);
        }
        Ok(Membership {
            voters,
            outgoing,
            learners,
            about,
        })
    }

    /// An entry.
    pub fn entry(&mut self) -> Result<Entry, Malformed> {
        let id = self.log_id()?;
        let kind = self.u8("a kind of entry")?;
        let payload = self.blob("the payload of an entry")?;
        let kind = match kind {
            COMMAND => EntryKind::Command(payload),
            NOOP if payload.is_empty() => EntryKind::Noop,
            MEMBERSHIP => {
                let mut inner = Decoder::new(payload);
                let membership = inner.membership()?;
                inner.end()?;
                EntryKind::Membership(Box::new(membership))
            }
            _ => return Err(self.malformed("a known kind of entry")),
        };
        Ok(Entry { id, kind })
    }

    /// A hard state.
    pub fn hard_state(&mut self) -> Result<HardState, Malformed> {
        let term = Term(self.u64("a term")?);
        let vote = self.u64("a vote")?;
        Ok(HardState {
            term,
            vote: (vote != 0).then_some(NodeId(vote)),
        })
    }

    /// What a snapshot stands for.
    pub fn snapshot_meta(&mut self) -> Result<SnapshotMeta, Malformed> {
        Ok(SnapshotMeta {
            last: self.log_id()?,
            membership: self.membership()?,
        })
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("options bound what one message or entry holds");
    out.extend_from_slice(&len.to_le_bytes());
}

/// A length u32 and the bytes.
pub fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Term and index.
pub fn put_log_id(out: &mut Vec<u8>, id: LogId) {
    out.extend_from_slice(&id.term.0.to_le_bytes());
    out.extend_from_slice(&id.index.0.to_le_bytes());
}

/// A membership.
pub fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    for ids in [
        &membership.voters,
        &membership.outgoing,
        &membership.learners,
    ] {
        put_len(out, ids.len());
        for id in ids {
            out.extend_from_slice(&id.0.to_le_bytes());
        }
    }
    put_len(out, membership.about.len());
    for (id, about) in &membership.about {
        out.extend_from_slice(&id.0.to_le_bytes());
        put_blob(out, about);
    }
}

/// An entry.
pub fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_log_id(out, entry.id);
    match &entry.kind {
        EntryKind::Command(payload) => {
            out.push(COMMAND);
            put_blob(out, payload);
        }
        EntryKind::Noop => {
            out.push(NOOP);
            put_len(out, 0);
        }
        EntryKind::Membership(membership) => {
            out.push(MEMBERSHIP);
            let mut payload = Vec::new();
            put_membership(&mut payload, membership);
            put_blob(out, &payload);
        }
    }
}

/// A hard state.
pub fn put_hard_state(out: &mut Vec<u8>, hard: &HardState) {
    out.extend_from_slice(&hard.term.0.to_le_bytes());
    out.extend_from_slice(&hard.vote.map_or(0, |n| n.0).to_le_bytes());
}

/// What a snapshot stands for.
pub fn put_snapshot_meta(out: &mut Vec<u8>, meta: &SnapshotMeta) {
    put_log_id(out, meta.last);
    put_membership(out, &meta.membership);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let mut m = Membership::of([NodeId(1), NodeId(2)]);
        m.outgoing.insert(NodeId(3));
        m.learners.insert(NodeId(9));
        m.about.insert(NodeId(2), Bytes::from_static(b"two"));
        m
    }

    fn entries() -> Vec<Entry> {
        let kinds = [
            EntryKind::Command(Bytes::from_static(b"set a")),
            EntryKind::Command(Bytes::new()),
            EntryKind::Noop,
            EntryKind::Membership(Box::new(membership())),
        ];
        (1u64..)
            .zip(kinds)
            .map(|(n, kind)| Entry {
                id: LogId {
                    term: Term(7),
                    index: Index(n),
                },
                kind,
            })
            .collect()
    }

    /// The bytes of a small entry, frozen.
    #[test]
    fn an_entry_is_spelled_like_this() {
        let mut out = Vec::new();
        put_entry(&mut out, &entries()[0]);
        let hex: String = out.iter().map(|b| format!("{b:02x}")).collect();
        let spelled = "0700000000000000 0100000000000000 01 05000000 7365742061";
        assert_eq!(hex, spelled.replace(' ', ""));
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut out = Vec::new();
        let hard = HardState {
            term: Term(3),
            vote: Some(NodeId(2)),
        };
        let meta = SnapshotMeta {
            last: entries()[1].id,
            membership: membership(),
        };
        for entry in entries() {
            put_entry(&mut out, &entry);
        }
        put_hard_state(&mut out, &hard);
        put_snapshot_meta(&mut out, &meta);
        let mut decoder = Decoder::new(out.into());
        for entry in entries() {
            assert_eq!(decoder.entry(), Ok(entry));
        }
        assert_eq!(decoder.hard_state(), Ok(hard));
        assert_eq!(decoder.snapshot_meta(), Ok(meta));
        assert_eq!(decoder.end(), Ok(()));
    }

    /// E2: every cut and every changed byte is refused or decodes to something that encodes to the same bytes.
    #[test]
    fn damaged_bytes_are_refused_or_are_something_else_whole() {
        for entry in entries() {
            let mut out = Vec::new();
            put_entry(&mut out, &entry);
            for len in 0..out.len() {
                let cut = Bytes::copy_from_slice(&out[..len]);
                assert!(Decoder::new(cut).entry().is_err());
            }
            for at in 0..out.len() {
                for change in [1, 0x80, 0xff] {
                    let mut bytes = out.clone();
                    bytes[at] ^= change;
                    let mut decoder = Decoder::new(Bytes::copy_from_slice(&bytes));
                    if let Ok(other) = decoder.entry() {
                        let mut again = Vec::new();
                        put_entry(&mut again, &other);
                        assert_eq!(again, bytes[..bytes.len() - decoder.left()]);
                    }
                }
            }
        }
    }
}
