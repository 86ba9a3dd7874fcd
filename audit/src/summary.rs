//! Summaries: how many records of which kind, in bounded memory.

use crate::entry::Kind;
use crate::read::Found;
use crate::record::Severity;
use serde_json::Value;
use std::collections::BTreeMap;

/// Hours, names of actions and names of actors that are told apart, each.
const NAMES_MAX: usize = 10_000;
/// Gaps that are named.
const GAPS_MAX: usize = 1_000;
const HOUR: u64 = 3_600_000_000_000;

/// Counts by name; beyond ten thousand names, what is new goes to the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts<K: Ord> {
    names: BTreeMap<K, u64>,
    rest: u64,
}

// Derived, it would ask for a default name.
impl<K: Ord> Default for Counts<K> {
    fn default() -> Self {
        Counts {
            names: BTreeMap::new(),
            rest: 0,
        }
    }
}

impl<K: Ord + Clone> Counts<K> {
    fn add(&mut self, name: K) {
        if let Some(count) = self.names.get_mut(&name) {
            *count += 1;
        } else if self.names.len() < NAMES_MAX {
            self.names.insert(name, 1);
        } else {
            self.rest += 1;
        }
    }

    /// By name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, u64)> {
        self.names.iter().map(|(name, count)| (name, *count))
    }

    /// The most frequent first.
    #[must_use]
    pub fn top(&self) -> Vec<(K, u64)> {
        let mut all: Vec<(K, u64)> = self.iter().map(|(name, n)| (name.clone(), n)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all
    }

    /// Of names that were too many to be told apart.
    #[must_use]
    pub fn rest(&self) -> u64 {
        self.rest
    }
}

/// What records say in sum; [`Summary::add`] takes them one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Records, the trail's own among them.
    pub records: u64,
    /// The trail's own.
    pub own: u64,
    /// Their bytes as they are stored, not compressed.
    pub bytes: u64,
    /// Lowest and highest sequence.
    pub sequences: Option<(u64, u64)>,
    /// Lowest and highest time, nanoseconds since 1970.
    pub times: Option<(u64, u64)>,
    /// Records that were dropped, and counted by gaps.
    pub dropped: u64,
    /// The gaps, first and last sequence dropped; at most a thousand are named.
    pub gaps: Vec<(u64, u64)>,
    /// `event.action`.
    pub actions: Counts<String>,
    /// `event.outcome`.
    pub outcomes: Counts<String>,
    /// `user.name`, else `user.id`, else empty.
    pub actors: Counts<String>,
    /// Severities.
    pub severities: Counts<Severity>,
    /// Begin of the hour, nanoseconds since 1970.
    pub hours: Counts<u64>,
}

fn widen(range: &mut Option<(u64, u64)>, value: u64) {
    let (low, high) = range.unwrap_or((value, value));
    *range = Some((low.min(value), high.max(value)));
}

impl Summary {
    /// Counts a record.
    pub fn add(&mut self, found: &Found) {
        let head = &found.head;
        let text = |name: &str| found.fields.get(name).and_then(Value::as_str);
        self.records += 1;
        self.bytes += found.bytes;
        widen(&mut self.sequences, head.sequence);
        widen(&mut self.times, head.nanos);
        if head.kind != Kind::Record {
            self.own += 1;
        }
        if head.kind == Kind::Gap {
            self.dropped += head.sequence - head.from;
            if self.gaps.len() < GAPS_MAX {
                self.gaps.push((head.from, head.sequence - 1));
            }
        }
        let named = |name: &str| text(name).unwrap_or_default().to_owned();
        self.actions.add(named("event.action"));
        self.outcomes.add(named("event.outcome"));
        let actor = text("user.name").filter(|name| !name.is_empty());
        let actor = actor.or(text("user.id")).unwrap_or_default();
        self.actors.add(actor.to_owned());
        self.severities.add(head.severity);
        self.hours.add(head.nanos - head.nanos % HOUR);
    }
}
