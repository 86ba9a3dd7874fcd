//! A machine on the simulated medium beside a model: the commands of a log, and the state behind each.

use crate::seeds::Seen;
use bytes::Bytes;
use esker_lsm::{StoreError, StoreOptions};
use esker_raft::core::{Index, LogId, Membership, NodeId, SnapshotMeta, Term};
use esker_raft::machine::{Application, Effects, LsmMachine, StateReader};
use esker_raft::runtime::{Arriving, Command, MachineError, SnapshotSource, StateMachine};
use esker_wal::Workers;
use esker_wal::media::Media;
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::{CallKind, Fault, SimMedia, SimRng};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub const DIR: &str = "state";
pub const ID: esker_wal::LogId = esker_wal::LogId(5);
pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Commands that must not take effect twice.
#[derive(Clone, Debug)]
pub enum Todo {
    Put(String, String),
    /// Counts up.
    Count(String),
    Delete(String, String),
    /// Answers what stands first behind a key.
    First(String),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct App;

impl Todo {
    pub fn encode(&self) -> Bytes {
        match self {
            Todo::Put(key, value) => format!("={key} {value}"),
            Todo::Count(key) => format!("+{key} "),
            Todo::Delete(from, to) => format!("-{from} {to}"),
            Todo::First(key) => format!("?{key} "),
        }
        .into()
    }

    pub fn apply(&self, map: &mut Map) -> Vec<u8> {
        let text = |v: Option<&Vec<u8>>| v.cloned().unwrap_or_default();
        match self {
            Todo::Put(key, value) => text(
                map.insert(key.clone().into(), value.clone().into())
                    .as_ref(),
            ),
            Todo::Count(key) => {
                let before = text(map.get(key.as_bytes()));
                let n: u64 = String::from_utf8_lossy(&before).parse().unwrap_or(0);
                map.insert(key.clone().into(), (n + 1).to_string().into());
                before
            }
            Todo::Delete(from, to) => {
                map.retain(|k, _| !(k[..] >= *from.as_bytes() && k[..] < *to.as_bytes()));
                Vec::new()
            }
            Todo::First(key) => {
                let behind: Vec<_> = map.range(key.clone().into_bytes()..).take(2).collect();
                format!("{behind:?}").into()
            }
        }
    }
}

impl Application for App {
    fn apply(&mut self, command: Command, state: &mut Effects<'_>) -> Result<Bytes, MachineError> {
        let text = String::from_utf8(command.payload.to_vec()).expect("of the test");
        let (key, rest) = text[1..].split_once(' ').expect("of the test");
        let before = state.get(key.as_bytes())?.unwrap_or_default();
        Ok(match text.as_bytes()[0] {
            b'=' => {
                state.put(key.as_bytes(), rest.as_bytes());
                before
            }
            b'+' => {
                let n: u64 = String::from_utf8_lossy(&before).parse().unwrap_or(0);
                state.put(key.as_bytes(), (n + 1).to_string().as_bytes());
                before
            }
            b'-' => {
                state.delete_range(key.as_bytes(), Some(rest.as_bytes()));
                Bytes::new()
            }
            _ => {
                let behind = state.scan(key.as_bytes(), None, 2)?;
                let behind: Vec<_> = behind
                    .iter()
                    .map(|(k, v)| (k.to_vec(), v.to_vec()))
                    .collect();
                format!("{behind:?}").into()
            }
        })
    }
}

pub fn options(media: &SimMedia, workers: Workers) -> StoreOptions {
    let mut options = StoreOptions {
        memtable_bytes: 4 << 10,
        memtables_max: 2,
        block_bytes: 256,
        table_bytes: 2 << 10,
        l0_tables: (2, 4, 8),
        level_base_bytes: 4 << 10,
        ..StoreOptions::default()
    };
    options.log.media = Arc::new(media.clone());
    options.log.clock = Arc::new(ManualClock::default());
    options.log.workers = workers;
    options
}

pub fn content(reader: &StateReader) -> Result<Map, StoreError> {
    let all = reader.snapshot().scan(b"", None)?;
    all.map(|e| e.map(|(k, v)| (k.to_vec(), v.to_vec())))
        .collect()
}

pub fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        last: LogId {
            term: Term(1),
            index: Index(index),
        },
        membership: Membership::of([NodeId(1)]),
    }
}

pub struct World {
    pub rng: SimRng,
    pub media: SimMedia,
    pub machine: Option<LsmMachine<App>>,
    /// Commands, and what each answered.
    pub log: Vec<(Todo, Vec<u8>)>,
    pub applied: usize,
    /// What the machine said is durable: the log may have forgotten it.
    pub forgotten: Index,
    /// Nothing is compacted.
    pub quiet: bool,
    pub seen: Seen,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = SimRng::new(seed);
        World {
            media: SimMedia::new(rng.next_u64()),
            rng,
            machine: None,
            log: Vec::new(),
            applied: 0,
            forgotten: Index(0),
            quiet: false,
            seen: Seen::new(),
        }
    }

    pub fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// One that can be sent.
    pub fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let mut source = self.machine().snapshot()?;
        source.prepare(b"a")?;
        source.look_through(&|| true)?;
        Ok(source)
    }

    pub fn machine(&mut self) -> &mut LsmMachine<App> {
        self.machine.as_mut().expect("open")
    }

    pub fn state(&self, n: usize) -> Map {
        let mut map = Map::new();
        for (todo, _) in &self.log[..n] {
            todo.apply(&mut map);
        }
        map
    }

    pub fn try_open(&mut self) -> Result<(), MachineError> {
        let mut options = options(&self.media, Workers::Stepped);
        if self.quiet {
            options.l0_tables = (100, 200, 300);
        }
        self.machine = Some(LsmMachine::open(Path::new(DIR), ID, options, App)?);
        Ok(())
    }

    /// What the machine's own records say is applied; the state is exactly that.
    pub fn judge(&mut self) -> usize {
        let records = self.machine().records().expect("readable");
        let applied = match &records[..] {
            [] => 0,
            [(key, value)] => {
                assert_eq!(&key[..], b"a");
                u64::from_le_bytes(value[..].try_into().expect("8 bytes")) as usize
            }
            more => panic!("{more:?}"),
        };
        let found = content(&self.machine().reader()).expect("readable");
        assert!(
            found == self.state(applied),
            "not the state behind {applied}"
        );
        applied
    }

    pub fn open(&mut self) {
        if self.rng.chance(4) {
            let n = 1 + self.rng.below(40);
            self.media.cut_at_call(n);
            if let Err(error) = self.try_open() {
                assert!(self.media.is_down(), "refused: {error}");
                self.saw("cut while opening");
            }
            self.end();
        }
        self.try_open().expect("opens");
        self.applied = self.judge();
        // What is durable is what is found, as nothing was applied since.
        assert!(self.machine().durable() >= Index(self.applied as u64));
        self.note();
    }

    /// Remembers what the machine says is durable, and that what it said before is there.
    fn note(&mut self) {
        let (durable, before) = (self.machine().durable(), self.forgotten);
        assert!(
            durable >= before,
            "durable up to {durable}, and up to {before} before"
        );
        self.forgotten = durable;
    }

    /// The power goes, or the process is killed: at the call where the medium went, if it did. Whether it was the power.
    fn end(&mut self) -> bool {
        let power = self.rng.chance(2);
        self.end_by(power);
        power
    }

    fn end_by(&mut self, power: bool) {
        match power {
            true => {
                let seed = self.rng.next_u64();
                self.media.power_cut(seed);
            }
            false => self.media.kill(),
        }
        self.media.heal();
        self.machine = None;
    }

    fn key(&mut self) -> String {
        format!("k{:02}", self.rng.below(30))
    }

    fn todo(&mut self) -> Todo {
        match self.rng.below(12) {
            0 => Todo::Delete(self.key(), self.key()),
            1..4 => Todo::First(self.key()),
            4..8 => Todo::Count(format!("n{}", self.rng.below(4))),
            _ => {
                // Nothing that compresses: tables have several sectors.
                let words = self.rng.below(12);
                let value = (0..words).map(|_| format!("{:016x}", self.rng.next_u64()));
                let value = value.collect();
                Todo::Put(self.key(), value)
            }
        }
    }

    pub fn propose(&mut self, n: u64) {
        for _ in 0..n {
            let todo = self.todo();
            let answer = todo.apply(&mut self.state(self.log.len()));
            self.log.push((todo, answer));
        }
    }

    /// Applies and commits what the machine lacks; false when the power went.
    pub fn catch_up(&mut self) -> bool {
        while self.applied < self.log.len() {
            let n = (1 + self.rng.below(6) as usize).min(self.log.len() - self.applied);
            for at in self.applied..self.applied + n {
                let (todo, want) = self.log[at].clone();
                let command = Command {
                    index: Index(at as u64 + 1),
                    term: Term(1),
                    time: 0,
                    payload: todo.encode(),
                };
                match self.machine().apply(command) {
                    Ok(answer) => assert_eq!(answer, want, "{todo:?}"),
                    Err(error) => {
                        assert!(self.media.is_down(), "apply: {error}");
                        return false;
                    }
                }
            }
            let applied = self.applied + n;
            let record = Bytes::copy_from_slice(&(applied as u64).to_le_bytes());
            let records = vec![(Bytes::from_static(b"a"), Some(record))];
            if let Err(error) = self.machine().commit(Index(applied as u64), records) {
                assert!(self.media.is_down(), "commit: {error}");
                return false;
            }
            self.applied = applied;
        }
        true
    }

    pub fn crash(&mut self, power: bool) {
        self.end_by(power);
        let before = self.applied;
        self.open();
        if self.applied < before {
            self.saw("applied again");
        }
    }
}

/// Random commands, commits and crashes.
pub fn run(seed: u64) -> Seen {
    let mut world = World::new(seed);
    world.open();
    for _ in 0..60 {
        if world.media.is_down() {
            let power = world.rng.chance(2);
            world.saw(match power {
                true => "power cut at a call",
                false => "killed at a call",
            });
            world.crash(power);
            continue;
        }
        world.note();
        match world.rng.below(20) {
            0..12 => {
                let n = 1 + world.rng.below(8);
                world.propose(n);
                world.catch_up();
            }
            12..15 => {
                for _ in 0..3 {
                    world.machine().store().step();
                }
            }
            15 => {
                let taken = world.snapshot();
                match taken {
                    Ok(_) => {
                        let (applied, durable) = (world.applied, world.machine().durable());
                        assert_eq!(durable, Index(applied as u64), "a snapshot is durable");
                        world.saw("snapshot");
                    }
                    Err(error) => assert!(world.media.is_down(), "snapshot: {error}"),
                }
            }
            16 | 17 => {
                let n = 1 + world.rng.below(40);
                world.media.cut_at_call(n);
            }
            18 => world.crash(false),
            _ => world.crash(true),
        }
    }
    world.crash(true);
    world.catch_up();
    world.judge();
    world.seen
}

/// How much of a snapshot was sent.
#[derive(Default)]
pub struct Sent {
    pub bytes: u64,
    pub all: u64,
}

/// Sends a snapshot, with all that can go wrong, until it is installed. Gives what went over the wire.
pub fn transfer(from: &mut World, to: &mut World, rough: bool) -> Sent {
    let mut sent = Sent::default();
    let (old, new) = (to.state(to.applied), from.state(from.applied));
    let mut source = from.snapshot().unwrap();
    let applied = from.applied as u64;
    let files = source.files();
    assert!(files.iter().all(|f| f.check != 0));
    sent.all = files.iter().map(|f| f.len).sum();
    // The sender goes on meanwhile.
    from.propose(40);
    from.catch_up();
    while from.machine().store().step() {}
    let down = |to: &mut World| {
        let power = to.end();
        to.saw(match power {
            true => "power cut on the way",
            false => "killed on the way",
        });
        to.try_open().expect("opens");
        let found = content(&to.machine().reader()).expect("readable");
        to.note();
        if !power && !to.rng.chance(4) {
            // What was found stays.
            to.end_by(true);
            to.try_open().expect("opens");
            assert!(content(&to.machine().reader()).expect("readable") == found);
            to.note();
        }
        found
    };
    'again: loop {
        let mut failing = false;
        to.media.heal();
        if rough && to.rng.chance(2) {
            let n = 1 + to.rng.below(120);
            to.media.cut_at_call(n);
        } else if rough && to.rng.chance(4) {
            let kind = [CallKind::SyncFile, CallKind::SyncDir][to.rng.below(2) as usize];
            let n = 1 + to.rng.below(6);
            to.media.fail(Fault::nth(n).of(kind));
            if to.rng.chance(2) {
                // What it left can't be removed.
                let remove = Fault::nth(1).of(CallKind::Remove).on("tables");
                to.media.fail(remove.times(u64::MAX));
            }
            failing = true;
        }
        // Of a failed call the next attempt knows nothing, and the next process even less.
        let failed = |to: &mut World| {
            to.saw("a sync failed");
            to.media.heal();
            if to.rng.chance(2) {
                assert!(down(to) == old);
            }
        };
        let staging = to.machine().staging();
        let mut arriving: Box<dyn Arriving> = match staging.begin(&files, &|| true) {
            Ok(arriving) => arriving,
            Err(_) if failing => {
                failed(to);
                continue;
            }
            Err(error) => {
                assert!(to.media.is_down(), "begin: {error}");
                assert!(down(to) == old);
                continue;
            }
        };
        for (at, file) in files.iter().enumerate() {
            if arriving.held(at) > 0 {
                to.saw(match arriving.held(at) == file.len {
                    true => "a file was there already",
                    false => "a file was resumed",
                });
            }
            while arriving.held(at) < file.len {
                let len = (file.len - arriving.held(at)).min(700);
                let mut piece = vec![0; len as usize];
                source.read(at, arriving.held(at), &mut piece).unwrap();
                if rough && to.rng.chance(60) {
                    to.saw("a piece was spoiled");
                    piece[0] ^= 4;
                }
                sent.bytes += len;
                if let Err(error) = arriving.write(at, &piece, &|| true) {
                    if to.media.is_down() {
                        assert!(down(to) == old);
                    } else if error.to_string().contains("as it was sent") {
                        to.saw("a spoiled file was noticed");
                    } else {
                        assert!(failing, "{error}");
                        failed(to);
                    }
                    continue 'again;
                }
                if rough && to.rng.chance(40) {
                    to.saw("the link was cut");
                    continue 'again;
                }
            }
        }
        if let Err(error) = arriving.finish(&|| true) {
            if to.media.is_down() {
                assert!(down(to) == old);
            } else if !error.to_string().contains("as it was sent") {
                assert!(failing, "{error}");
                failed(to);
            }
            continue;
        }
        if rough && !to.media.is_down() {
            to.media.heal();
            match to.rng.below(4) {
                0 => to.media.cut_at_call(1 + to.rng.below(40)),
                1 => {
                    let n = 1 + to.rng.below(6);
                    to.media.fail(Fault::nth(n).of(CallKind::SyncDir));
                    failing = true;
                }
                _ => {}
            }
        }
        match to.machine().install(arriving, &meta(applied)) {
            Ok(()) => break,
            Err(error) => {
                assert!(to.media.is_down() || failing, "install: {error}");
                to.saw("power cut while installing");
                // Old or new, whole. (An error of the machine ends its process.)
                let found = down(to);
                if found == new {
                    to.saw("it was installed");
                    break;
                }
                assert!(found == old, "neither the old nor the new state");
            }
        }
    }
    if rough {
        // It is durable.
        to.end_by(true);
        to.try_open().expect("opens");
        let found = content(&to.machine().reader()).expect("readable");
        assert!(found == new, "an installed snapshot was lost");
    }
    to.log = from.log[..applied as usize].to_vec();
    to.applied = to.judge();
    assert_eq!(to.applied as u64, applied);
    to.media.heal();
    sent
}

/// Snapshots over a bad link to a node that loses its power.
pub fn run_transfers(seed: u64) -> Seen {
    let (mut from, mut to) = (World::new(seed), World::new(seed + 1_000_000));
    from.open();
    to.try_open().unwrap();
    for _ in 0..2 {
        let n = 60 + from.rng.below(120);
        from.propose(n);
        from.catch_up();
        while from.rng.chance(2) && from.machine().store().step() {}
        transfer(&mut from, &mut to, true);
    }
    // And it goes on from there as the sender does.
    to.log = from.log.clone();
    to.catch_up();
    to.judge();
    to.seen
}

/// All of a snapshot's files, at once.
pub fn arrive(to: &mut World, source: &mut dyn SnapshotSource) -> Box<dyn Arriving> {
    let files = source.files();
    let mut arriving = to.machine().staging().begin(&files, &|| true).unwrap();
    for (at, file) in files.iter().enumerate() {
        let held = arriving.held(at);
        let mut bytes = vec![0; (file.len - held) as usize];
        source.read(at, held, &mut bytes).unwrap();
        if !bytes.is_empty() {
            arriving.write(at, &bytes, &|| true).unwrap();
        }
    }
    arriving.finish(&|| true).unwrap();
    arriving
}

fn tables_of(media: &SimMedia, store: &str) -> usize {
    let listed = Media::list(media, &Path::new(DIR).join(store).join("tables"));
    let entries = listed.unwrap_or_default();
    entries.iter().filter(|e| e.name.ends_with(".tbl")).count()
}

/// A snapshot has arrived whole; the power goes at the `n`-th call of its installation. Whether the new state is there then; `None` when the
/// installation was through before.
pub fn cut_installation(n: u64) -> Option<bool> {
    let (mut from, mut to) = (World::new(1), World::new(2));
    from.try_open().unwrap();
    to.try_open().unwrap();
    to.propose(30);
    to.catch_up();
    to.machine().store().flush().unwrap();
    from.propose(60);
    from.catch_up();
    let mut source = from.snapshot().unwrap();
    let files = source.files();
    let arriving = arrive(&mut to, &mut *source);
    to.media.cut_at_call(n);
    let done = to.machine().install(arriving, &meta(60));
    let through = !to.media.is_down();
    assert!(done.is_ok() || !through, "{done:?}");
    to.machine = None;
    to.media.power_cut(n);
    to.media.heal();
    to.try_open().expect("opens");
    let found = content(&to.machine().reader()).expect("readable");
    let new = found == from.state(60);
    assert!(
        new || found == to.state(30),
        "cut at call {n}: neither the old nor the new state"
    );
    assert!(
        new || done.is_err(),
        "cut at call {n}: it was installed, and is lost"
    );
    let stores = ["store-a", "store-b"].map(|name| tables_of(&to.media, name));
    assert!(
        !new || stores.contains(&0),
        "cut at call {n}: the old store stays beside the new: {stores:?} tables"
    );
    // It goes on either way: what arrived is taken up again, or replaced.
    let mut again = to.machine().staging().begin(&files, &|| true).unwrap();
    for (at, file) in files.iter().enumerate() {
        let held = again.held(at);
        let mut bytes = vec![0; (file.len - held) as usize];
        source.read(at, held, &mut bytes).unwrap();
        if !bytes.is_empty() && again.write(at, &bytes, &|| true).is_err() {
            break;
        }
    }
    drop(again);
    (!through).then_some(new)
}
