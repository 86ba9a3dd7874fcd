//! A log store on the simulated medium beside a model of it: the content behind each call, and how many calls are synced.

use crate::seeds::Seen;
use bytes::Bytes;
use esker_raft::core::{
    Abstain, Entry, EntryKind, HardState, Index, LogId, Membership, NodeId, SnapshotMeta, Term,
    Write,
};
use esker_raft::log::{Identity, LogError, LogStore, OpenError, Recovered, WalLog, WalLogOptions};
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, Fault, SimMedia, SimRng};
use esker_wal::{LogOptions, Workers};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub const DIR: &str = "raft";
pub const WHO: Identity = Identity {
    cluster: 7,
    group: 1,
    node: NodeId(2),
};

pub fn id(term: u64, index: u64) -> LogId {
    LogId {
        term: Term(term),
        index: Index(index),
    }
}

pub fn meta(last: LogId) -> SnapshotMeta {
    SnapshotMeta {
        last,
        membership: Membership::of([NodeId(1), NodeId(2 + last.index.0 % 5)]),
    }
}

/// Small everything, so that a few hundred calls reach many segments and reads of old entries.
pub fn options(media: &SimMedia, clock: &Arc<ManualClock>) -> WalLogOptions {
    WalLogOptions {
        log: LogOptions {
            segment_bytes: 16 << 10,
            segments_ahead: 1,
            workers: Workers::Stepped,
            media: Arc::new(media.clone()),
            clock: clock.clone(),
            ..LogOptions::default()
        },
        tail_bytes_max: 600,
        anchor_bytes: 700,
    }
}

/// What a store should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    pub hard: HardState,
    pub base: SnapshotMeta,
    pub entries: BTreeMap<u64, Entry>,
}

impl Content {
    pub fn last(&self) -> LogId {
        let last = self.entries.last_key_value().map(|(_, e)| e.id);
        last.unwrap_or(self.base.last)
    }

    pub fn id(&self, index: u64) -> Option<LogId> {
        if index == self.base.last.index.0 {
            return Some(self.base.last);
        }
        self.entries.get(&index).map(|e| e.id)
    }

    pub fn write(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::HardState(hard) => self.hard = *hard,
                Write::Append(entries) => {
                    for entry in entries {
                        self.entries.split_off(&entry.id.index.0);
                        self.entries.insert(entry.id.index.0, entry.clone());
                    }
                }
                Write::Snapshot(meta) => {
                    self.base = meta.clone();
                    self.entries.clear();
                }
            }
        }
    }

    pub fn compact(&mut self, to: &SnapshotMeta) {
        if to.last.index > self.base.last.index {
            self.entries = self.entries.split_off(&(to.last.index.0 + 1));
            self.base = to.clone();
        }
    }
}

/// All entries from `from` on, read in pieces.
pub fn read_all(store: &WalLog, from: u64, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
    let reader = store.reader();
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let next = Index(from + all.len() as u64);
        let more = reader.entries(next, Index(u64::MAX), bytes_max)?;
        if more.is_empty() {
            return Ok(all);
        }
        all.extend(more);
    }
}

pub fn content(store: &WalLog, found: &Recovered) -> Result<Content, LogError> {
    let base = found.log.base();
    let entries = read_all(store, base.index.0 + 1, 900)?;
    let last = entries.last().map_or(base, |e| e.id);
    assert_eq!(found.log.last(), last, "the view and the log end alike");
    Ok(Content {
        hard: found.hard,
        base: SnapshotMeta {
            last: base,
            membership: found.log.membership_at(base.index).clone(),
        },
        entries: entries.into_iter().map(|e| (e.id.index.0, e)).collect(),
    })
}

pub struct World {
    pub rng: SimRng,
    pub media: SimMedia,
    pub clock: Arc<ManualClock>,
    pub store: Option<WalLog>,
    /// Behind each call since the last open.
    pub states: Vec<Content>,
    pub synced: usize,
    counter: u64,
    faulty: bool,
    /// Every entry that was ever written, and what it was put behind.
    pub history: BTreeMap<LogId, (LogId, Entry)>,
    pub seen: Seen,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = SimRng::new(seed);
        let media = SimMedia::new(rng.next_u64());
        if rng.chance(3) {
            media.write_back_one_in(20);
        }
        World {
            rng,
            media,
            clock: Arc::new(ManualClock::default()),
            store: None,
            states: vec![Content::default()],
            synced: 0,
            counter: 0,
            faulty: false,
            history: BTreeMap::new(),
            seen: Seen::new(),
        }
    }

    pub fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub fn try_open(&mut self) -> Result<Recovered, OpenError> {
        let (store, found) = WalLog::open(Path::new(DIR), WHO, options(&self.media, &self.clock))?;
        self.store = Some(store);
        Ok(found)
    }

    pub fn now(&self) -> &Content {
        self.states.last().expect("at least the first")
    }

    pub fn store(&mut self) -> &mut WalLog {
        self.store.as_mut().expect("open")
    }

    /// Opens, with a power cut in the middle now and then, and compares: one of the states from the last sync on.
    pub fn open(&mut self) {
        if self.rng.chance(4) {
            let n = 1 + self.rng.below(60);
            self.media.cut_at_call(n);
            if let Err(error) = self.try_open() {
                assert!(self.media.is_down(), "refused: {error}");
                self.saw("cut while opening");
            }
            self.store = None;
            let seed = self.rng.next_u64();
            self.media.power_cut(seed);
            self.media.heal();
        }
        let found = self.try_open().expect("opens");
        assert_eq!(found.abstain, Abstain::No, "nothing is damaged");
        let content = content(self.store(), &found).expect("readable");
        let least = self.synced;
        let at = self.states[least..].iter().rposition(|s| *s == content);
        let Some(at) = at else {
            panic!(
                "not what any call since the last sync left\nfound: {content:?}\nsynced: {:?}\nlast: {:?}",
                self.states[least],
                self.now()
            );
        };
        if at + least + 1 < self.states.len() {
            self.saw("unsynced calls lost");
        }
        self.states = vec![content];
        self.synced = 0;
        self.faulty = false;
    }

    fn newest_term(&self) -> u64 {
        self.history.keys().next_back().map_or(0, |id| id.term.0)
    }

    fn payload(&mut self) -> Bytes {
        self.counter += 1;
        let len = match self.rng.below(30) {
            0 => 6000,
            1..4 => 700,
            _ => self.rng.below(120),
        };
        let mut payload = self.counter.to_le_bytes().to_vec();
        payload.extend((0..len).map(|i| (i ^ self.counter) as u8));
        payload.into()
    }

    fn entries(&mut self, term: u64, from: u64, n: u64) -> Vec<Entry> {
        (from..from + n)
            .map(|index| {
                let kind = match self.rng.below(12) {
                    0 => EntryKind::Noop,
                    1 => EntryKind::Membership(Box::new(meta(id(term, index)).membership)),
                    _ => EntryKind::Command(self.payload()),
                };
                Entry {
                    id: id(term, index),
                    kind,
                }
            })
            .collect()
    }

    /// Writes of one call, such as a core makes.
    fn writes(&mut self) -> Vec<Write> {
        let mut now = self.now().clone();
        let mut writes = Vec::new();
        for _ in 0..1 + self.rng.below(3) {
            let last = now.last();
            let write = match self.rng.below(20) {
                0..4 => Write::HardState(HardState {
                    term: Term(now.hard.term.0 + 1),
                    vote: (!self.rng.chance(3)).then_some(NodeId(1 + self.rng.below(3))),
                }),
                4..7 if !now.entries.is_empty() => {
                    // A leader of a newer term supersedes a suffix.
                    let first = *now.entries.first_key_value().expect("some").0;
                    let from = first + self.rng.below(last.index.0 - first + 1);
                    let term = now.hard.term.0.max(last.term.0).max(self.newest_term()) + 1;
                    writes.push(Write::HardState(HardState {
                        term: Term(term),
                        vote: None,
                    }));
                    now.write(&writes[writes.len() - 1..]);
                    self.saw("superseded");
                    let n = 1 + self.rng.below(4);
                    Write::Append(self.entries(term, from, n))
                }
                7 => {
                    let ahead = self.rng.below(12);
                    let index = now.base.last.index.0 + 1 + ahead;
                    let term = self.newest_term().max(now.hard.term.0).max(last.term.0) + 1;
                    writes.push(Write::HardState(HardState {
                        term: Term(term),
                        vote: None,
                    }));
                    now.write(&writes[writes.len() - 1..]);
                    self.saw(match index > last.index.0 {
                        true => "snapshot beyond the end",
                        false => "snapshot inside",
                    });
                    Write::Snapshot(meta(id(term, index)))
                }
                _ => {
                    let mut term = now.hard.term.0.max(last.term.0).max(1);
                    let from = last.index.0 + 1;
                    let n = 1 + self.rng.below(5);
                    // A name is given once: where entries of this term were lost or dropped, a newer leader goes on.
                    if (self.history.range(id(term, from)..=id(term, from + n)))
                        .next()
                        .is_some()
                    {
                        term = self.newest_term() + 1;
                        writes.push(Write::HardState(HardState {
                            term: Term(term),
                            vote: None,
                        }));
                        now.write(&writes[writes.len() - 1..]);
                    }
                    Write::Append(self.entries(term, from, n))
                }
            };
            if let Write::Append(entries) = &write {
                let mut prev = now.id(entries[0].id.index.0 - 1).expect("held");
                for entry in entries {
                    self.history.insert(entry.id, (prev, entry.clone()));
                    prev = entry.id;
                }
            }
            now.write(std::slice::from_ref(&write));
            writes.push(write);
        }
        writes
    }

    pub fn write(&mut self) {
        let writes = self.writes();
        let mut next = self.now().clone();
        next.write(&writes);
        match self.store().write(&writes) {
            Ok(()) => self.states.push(next),
            Err(error) => self.failed(error, Some(next)),
        }
    }

    /// A call failed: with no room nothing was done, otherwise it may have been, and the store takes nothing more.
    fn failed(&mut self, error: LogError, next: Option<Content>) {
        assert!(
            self.faulty || self.media.is_down(),
            "failed without a fault: {error}"
        );
        if matches!(error, LogError::Full(_)) {
            self.saw("full");
            self.media.set_capacity(None);
            return;
        }
        self.states.extend(next);
        let again = self.store().write(&[]);
        assert!(again.is_err(), "goes on after: {error}");
        self.saw("failed");
        if self.media.is_down() {
            return;
        }
        // What a failed sync left in the page cache must not be taken for durable (W6).
        match self.rng.chance(2) {
            true => self.kill(),
            false => self.power_cut(),
        }
    }

    pub fn sync(&mut self) {
        match self.store().sync() {
            Ok(()) => self.synced = self.states.len() - 1,
            Err(error) => self.failed(error, None),
        }
    }

    pub fn compact(&mut self) {
        let now = self.now().clone();
        let span = now.last().index.0 - now.base.last.index.0;
        let index = now.base.last.index.0 + self.rng.below(span + 1);
        let to = meta(now.id(index).expect("held"));
        if index == now.last().index.0 && span > 0 {
            self.saw("compacted to the end");
        }
        let mut next = now;
        next.compact(&to);
        match self.store().compact(&to) {
            Ok(()) => self.states.push(next),
            Err(error) => self.failed(error, Some(next)),
        }
    }

    fn read(&mut self) {
        let now = self.now().clone();
        let span = now.last().index.0 + 3;
        let (from, to) = (1 + self.rng.below(span), 1 + self.rng.below(span));
        let bytes_max = self.rng.below(2000) as usize;
        let found = self
            .store()
            .reader()
            .entries(Index(from), Index(to), bytes_max);
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                assert!(self.media.is_down() || self.faulty, "read: {error}");
                return;
            }
        };
        let mut bytes = 0;
        let want: Vec<Entry> = match now.entries.contains_key(&from) && from <= to {
            false => Vec::new(),
            true => (now.entries.range(from..=to).map(|(_, e)| e.clone()))
                .take_while(|e| {
                    bytes += e.weight();
                    bytes <= bytes_max || e.id.index.0 == from
                })
                .collect(),
        };
        assert_eq!(found, want, "{from} to {to}, {bytes_max} bytes");
        if !want.is_empty() {
            self.saw("read");
        }
    }

    pub fn power_cut(&mut self) {
        let seed = self.rng.next_u64();
        self.media.power_cut(seed);
        self.store = None;
        self.media.heal();
        self.media.set_capacity(None);
        self.saw("power cut");
        self.open();
    }

    pub fn kill(&mut self) {
        self.media.kill();
        self.store = None;
        self.media.heal();
        self.media.set_capacity(None);
        self.saw("kill");
        self.open();
    }

    pub fn reopen(&mut self) {
        let closed = self.store().close();
        if self.media.is_down() {
            return self.power_cut();
        }
        match closed {
            Ok(()) => self.synced = self.states.len() - 1,
            Err(error) => assert!(self.faulty, "close: {error}"),
        }
        self.store = None;
        self.media.heal();
        self.media.set_capacity(None);
        self.saw("reopened");
        self.open();
    }

    fn fault(&mut self) {
        self.faulty = true;
        let n = 1 + self.rng.below(30);
        match self.rng.below(4) {
            0 | 1 => self.media.cut_at_call(n),
            2 => {
                let room = self.rng.below(20 << 10);
                let used = self.media.used_bytes();
                self.media.set_capacity(Some(used + room));
            }
            _ => {
                let kinds = [CallKind::SyncMap, CallKind::SyncFile, CallKind::Write];
                let kind = kinds[self.rng.below(3) as usize];
                self.media.fail(Fault::nth(1 + self.rng.below(4)).of(kind));
            }
        }
    }

    pub fn turn(&mut self) {
        if self.media.is_down() {
            self.saw("power cut at a call");
            return self.power_cut();
        }
        match self.rng.below(100) {
            0..45 => self.write(),
            45..62 => self.sync(),
            62..72 => self.read(),
            72..80 => {
                for _ in 0..1 + self.rng.below(4) {
                    self.store().step();
                }
                self.clock.advance(Duration::from_millis(60));
            }
            80..86 => self.compact(),
            86..90 => self.fault(),
            90..92 => self.power_cut(),
            92..94 => self.kill(),
            94..96 => self.reopen(),
            _ => {
                self.write();
                if self.store.is_some() && !self.media.is_down() {
                    self.sync();
                }
            }
        }
    }

    /// Segment files.
    pub fn segments(&self) -> Vec<PathBuf> {
        let is = |p: &PathBuf| p.extension().is_some_and(|e| e == "seg");
        self.media.image().into_keys().filter(is).collect()
    }
}

/// Runs one seed; gives what it saw.
pub fn run(seed: u64, turns: u64) -> Seen {
    let mut world = World::new(seed);
    world.open();
    for _ in 0..turns {
        world.turn();
    }
    world.power_cut();
    world.reopen();
    world.seen
}
