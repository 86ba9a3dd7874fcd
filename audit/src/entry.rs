//! Entries: a record as it is stored and chained.
//!
//! - EN1: an entry is the same bytes in the live log and in a closed file.
//! - EN2: its last 32 bytes are a BLAKE3 hash, keyed with the trail's key, of the hash of the entry before it and all its own bytes
//!   before. Whoever lacks the key can neither change an entry, nor leave one out, nor put one in, without the next hash being wrong.
//! - EN3: sequences grow by one. Only a gap's entry skips: its body names the sequences that it stands for, which end before its own.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | kind |
//! | 2 | 1 | severity |
//! | 3 | 1 | clock: 0 went on, 1 stepped back, 2 leapt forward since the entry before, 3 the first of a process |
//! | 4 | 4 | length of the body |
//! | 8 | 8 | sequence, from 1 |
//! | 16 | 8 | nanoseconds since 1970, UTC |
//! | 24 | 8 | nanoseconds on the monotonic clock of the process |
//! | 32 | 8 | id of the key |
//! | 40 | 8 | of a gap: the first sequence that it stands for; else 0 |
//! | 48 | | body: a JSON object |
//! | | 32 | the hash |
//!
//! All numbers are little-endian.

use crate::key::{Key, KeyId};
use crate::record::Severity;
use serde_json::Value;
use std::fmt;

/// Bytes before the body.
pub(crate) const HEAD_LEN: usize = 48;
/// Bytes of a hash.
pub(crate) const HASH_LEN: usize = 32;
/// Largest entry; bodies are far smaller (RE3).
pub(crate) const ENTRY_MAX: usize = 1 << 20;
const VERSION: u8 = 1;

/// The hash of an entry, which stands for it and all before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root(pub [u8; HASH_LEN]);

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({self})")
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A record of the application.
    Record = 0,
    /// Records that were dropped, with their sequences.
    Gap = 1,
    /// Another key chains from the next entry on.
    Key = 2,
    /// Closed files were removed.
    Tombstone = 3,
    /// The trail itself: opened, closed, tampered with.
    Trail = 4,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        [
            Kind::Record,
            Kind::Gap,
            Kind::Key,
            Kind::Tombstone,
            Kind::Trail,
        ]
        .get(usize::from(byte))
        .copied()
    }
}

/// What the clocks did since the entry before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ClockState {
    /// The wall clock went on as the monotonic one did, within a second.
    Steady = 0,
    /// The wall clock stands before the entry before.
    SteppedBack = 1,
    /// The wall clock went on by more than a second more than the monotonic one.
    Leapt = 2,
    /// The first entry of a process: there is nothing to compare with.
    First = 3,
}

impl ClockState {
    fn of(byte: u8) -> Option<ClockState> {
        [
            ClockState::Steady,
            ClockState::SteppedBack,
            ClockState::Leapt,
            ClockState::First,
        ]
        .get(usize::from(byte))
        .copied()
    }

    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["steady", "stepped back", "leapt", "first"][self as usize]
    }
}

/// The fixed part of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it is.
    pub kind: Kind,
    /// How grave.
    pub severity: Severity,
    /// What the clocks did.
    pub clock: ClockState,
    /// Its place, from 1.
    pub sequence: u64,
    /// Nanoseconds since 1970, UTC.
    pub nanos: u64,
    /// Nanoseconds on the monotonic clock of the process.
    pub monotonic: u64,
    /// Which key chains it.
    pub key: KeyId,
    /// Of a gap, the first sequence that it stands for; else its own sequence.
    pub from: u64,
}

impl Head {
    /// Chains an entry to `before`; the bytes before the body, and the hash behind it.
    pub(crate) fn seal(&self, key: &Key, before: &Root, body: &[u8]) -> ([u8; HEAD_LEN], Root) {
        let mut head = [0; HEAD_LEN];
        head[0] = VERSION;
        head[1] = self.kind as u8;
        head[2] = self.severity as u8;
        head[3] = self.clock as u8;
        head[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
        head[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        head[16..24].copy_from_slice(&self.nanos.to_le_bytes());
        head[24..32].copy_from_slice(&self.monotonic.to_le_bytes());
        head[32..40].copy_from_slice(&self.key.0.to_le_bytes());
        let from = match self.kind {
            Kind::Gap => self.from,
            _ => 0,
        };
        head[40..48].copy_from_slice(&from.to_le_bytes());
        let root = hash(key, before, &head, body);
        (head, root)
    }

    fn decode(bytes: &[u8; HEAD_LEN]) -> Option<Head> {
        let word = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("8 bytes"));
        let sequence = word(8);
        let kind = Kind::of(bytes[1])?;
        let from = match (kind, word(40)) {
            (Kind::Gap, from) if (1..sequence).contains(&from) => from,
            (Kind::Gap, _) => return None,
            (_, 0) => sequence,
            _ => return None,
        };
        if bytes[0] != VERSION || sequence == 0 {
            return None;
        }
        Some(Head {
            kind,
            severity: Severity::of(bytes[2])?,
            clock: ClockState::of(bytes[3])?,
            sequence,
            nanos: word(16),
            monotonic: word(24),
            key: KeyId(word(32)),
            from,
        })
    }
}

fn hash(key: &Key, before: &Root, head: &[u8; HEAD_LEN], body: &[u8]) -> Root {
    let mut hasher = blake3::Hasher::new_keyed(key.chain());
    hasher.update(&before.0);
    hasher.update(head);
    hasher.update(body);
    Root(*hasher.finalize().as_bytes())
}

/// The root before the first entry of a trail.
pub(crate) fn genesis(trail: u64) -> Root {
    let mut hasher = blake3::Hasher::new_derive_key("esker-audit 1 genesis");
    hasher.update(&trail.to_le_bytes());
    Root(*hasher.finalize().as_bytes())
}

/// An entry, lent.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its fixed part.
    pub head: Head,
    /// A JSON object.
    pub body: &'a [u8],
    /// Its hash.
    pub root: Root,
    bytes: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The entry in `bytes`, which it must fill; its hash is not checked.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Entry<'a>> {
        let head = Head::decode(bytes.first_chunk()?)?;
        let len = u32::from_le_bytes(*bytes[4..].first_chunk()?) as usize;
        if bytes.len() != HEAD_LEN + len + HASH_LEN {
            return None;
        }
        Some(Entry {
            head,
            body: &bytes[HEAD_LEN..HEAD_LEN + len],
            root: Root(*bytes.last_chunk()?),
            bytes,
        })
    }

    /// Whether it follows `before` under `key` (EN2).
    pub(crate) fn follows(&self, key: &Key, before: &Root) -> bool {
        let head = self.bytes.first_chunk().expect("it was decoded");
        // Hashes of equal length compared whole: the one who asks has the key.
        hash(key, before, head, self.body) == self.root
    }

    /// All its bytes.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its fields: those of the body, and `@timestamp`, `event.sequence`, `event.id`, `event.kind`, `esker.schema`, `esker.clock`, `esker.monotonic`,
    /// `esker.key` of its fixed part. `trail` is the identity that ids begin with.
    #[must_use]
    pub fn fields(&self, trail: u64) -> serde_json::Map<String, Value> {
        let mut out = serde_json::Map::new();
        let head = &self.head;
        out.insert("@timestamp".into(), time_text(head.nanos).into());
        out.insert("event.sequence".into(), head.sequence.into());
        let id = format!("{trail:016x}-{}", head.sequence);
        out.insert("event.id".into(), id.into());
        out.insert("event.kind".into(), "event".into());
        match serde_json::from_slice(self.body) {
            Ok(Value::Object(body)) => out.extend(body),
            _ => {
                let text = String::from_utf8_lossy(self.body).into_owned();
                out.insert("event.original".into(), text.into());
            }
        }
        out.insert("esker.schema".into(), crate::record::SCHEMA.into());
        out.insert("esker.clock".into(), head.clock.name().into());
        out.insert("esker.monotonic".into(), head.monotonic.into());
        out.insert("esker.key".into(), head.key.to_string().into());
        if head.kind == Kind::Gap {
            out.insert("esker.gap.first".into(), head.from.into());
            out.insert("esker.gap.last".into(), (head.sequence - 1).into());
        }
        out
    }
}

/// A time as RFC 3339 has it, in UTC, with nine digits of fraction.
#[must_use]
pub fn time_text(nanos: u64) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(nanos)) {
        Ok(time) => format!("{time:.9}"),
        Err(_) => nanos.to_string(),
    }
}
