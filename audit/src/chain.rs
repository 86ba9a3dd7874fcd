//! Walking a chain: what follows what (EN2, EN3).

use crate::entry::{Entry, Kind, Root};
use crate::key::{KeyId, Keyring};
use serde_json::Value;

/// Name of the field of a key's entry that says which key comes next.
pub(crate) const NEXT_KEY: &str = "esker.key.next";

/// Why an entry does not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// Sequences from the one expected up to here are not there.
    Missing { until: u64 },
    /// A sequence that was there already.
    Again,
    /// The hash is not that of these bytes behind the entry before.
    Changed,
    /// A key that no key's entry began.
    WrongKey,
    /// A key that the keyring does not have.
    NoKey(KeyId),
}

/// Where a walk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Root of the last entry.
    pub(crate) root: Root,
    /// The sequence expected.
    pub(crate) next: u64,
    /// The key expected, once one is known.
    pub(crate) key: Option<KeyId>,
}

impl Walk {
    pub(crate) fn from(root: Root, next: u64) -> Walk {
        Walk {
            root,
            next,
            key: None,
        }
    }

    /// Takes `entry` as the next.
    pub(crate) fn step(&mut self, keys: &Keyring, entry: &Entry<'_>) -> Result<(), Break> {
        let head = &entry.head;
        if head.from < self.next {
            return Err(Break::Again);
        }
        if head.from > self.next {
            return Err(Break::Missing { until: head.from });
        }
        if self.key.is_some_and(|key| key != head.key) {
            return Err(Break::WrongKey);
        }
        let key = keys.get(head.key).ok_or(Break::NoKey(head.key))?;
        if !entry.follows(key, &self.root) {
            return Err(Break::Changed);
        }
        self.root = entry.root;
        self.next = head.sequence + 1;
        self.key = Some(match head.kind {
            Kind::Key => next_key(entry.body).unwrap_or(head.key),
            _ => head.key,
        });
        Ok(())
    }
}

fn next_key(body: &[u8]) -> Option<KeyId> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let id = body.get(NEXT_KEY)?.as_str()?;
    u64::from_str_radix(id, 16).ok().map(KeyId)
}
