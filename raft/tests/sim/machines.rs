//! The public part of the simulation: state machines under faults by seed, and broken ones, which must be found.

use super::seeds;
use bytes::Bytes;
use esker_raft::core::{Index, NodeId, SnapshotMeta};
use esker_raft::runtime::{
    Arriving, Command, MachineError, MemoryMachine, Record, SnapshotSource, Staging, StateMachine,
};
use esker_raft::sim::{Coverage, Fault, Plan, Subject, run};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

fn digest(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn command(random: u64) -> Bytes {
    match random % 3 {
        0 => format!("k{}={random}", random / 3 % 7).into(),
        _ => format!("+n{}", random / 3 % 4).into(),
    }
}

/// How a machine is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    No,
    /// It answers with its node.
    Answers,
    /// One node holds more than it was told.
    Holds,
    /// It calls durable what is not.
    Durable,
    /// It does not take a snapshot's place.
    Install,
    /// The application's own rule is broken.
    Rule,
}

struct Machine {
    inner: MemoryMachine,
    node: NodeId,
    broken: Broken,
}

impl StateMachine for Machine {
    fn records(&mut self) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
        self.inner.records()
    }
    fn apply(&mut self, command: Command) -> Result<Bytes, MachineError> {
        let reply = self.inner.apply(command.clone())?;
        match self.broken {
            Broken::Answers => Ok(self.node.0.to_string().into()),
            Broken::Holds if self.node.0 == 3 => {
                let payload = Bytes::from_static(b"+extra");
                self.inner.apply(Command { payload, ..command })?;
                Ok(reply)
            }
            _ => Ok(reply),
        }
    }
    fn commit(&mut self, applied: Index, records: Vec<Record>) -> Result<(), MachineError> {
        self.inner.commit(applied, records)
    }
    fn durable(&self) -> Index {
        match self.broken {
            Broken::Durable => self.inner.applied(),
            _ => self.inner.durable(),
        }
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        self.inner.snapshot()
    }
    fn staging(&self) -> Arc<dyn Staging> {
        self.inner.staging()
    }
    fn install(&mut self, a: Box<dyn Arriving>, m: &SnapshotMeta) -> Result<(), MachineError> {
        match self.broken {
            Broken::Install => Ok(()),
            _ => self.inner.install(a, m),
        }
    }
}

struct InMemory {
    disks: BTreeMap<NodeId, MemoryMachine>,
    broken: Broken,
}

impl Subject for InMemory {
    fn open(&mut self, node: NodeId) -> Result<Box<dyn StateMachine>, MachineError> {
        Ok(Box::new(Machine {
            inner: self.disks.entry(node).or_default().clone(),
            node,
            broken: self.broken,
        }))
    }
    fn power_cut(&mut self, node: NodeId, random: u64) {
        let disk = self.disks.get_mut(&node).expect("it was open");
        if random.is_multiple_of(4) {
            disk.flush();
        }
        *disk = disk.after_power_loss();
    }
    fn command(&mut self, random: u64) -> Bytes {
        command(random)
    }
    fn check(&mut self, node: NodeId, applied: Index) -> Result<(), String> {
        if self.disks[&node].applied() != applied {
            return Err("it is told of another commit".into());
        }
        match self.disks[&node].get(b"n1") {
            Some(n) if self.broken == Broken::Rule && n.len() > 1 => Err("n1 is too large".into()),
            _ => Ok(()),
        }
    }
    fn digest(&mut self, node: NodeId) -> Option<u64> {
        Some(digest(self.disks[&node].content()))
    }
}

fn in_memory(plan: &Plan, broken: Broken) -> Result<Coverage, String> {
    let disks = BTreeMap::new();
    run(plan, InMemory { disks, broken }).map_err(|violation| violation.to_string())
}

/// SM1 to SM3.
#[test]
fn a_machine_that_keeps_its_contract_passes_and_a_seed_replays() {
    let mut all = Coverage::new();
    for seed in seeds(40) {
        let seen = in_memory(&Plan::new(seed), Broken::No);
        assert_eq!(seen, in_memory(&Plan::new(seed), Broken::No));
        match seen {
            Ok(seen) => all.extend(seen),
            Err(error) => panic!("ESKER_SEED={seed}: {error}"),
        }
    }
    for path in [
        "path: a crash",
        "path: compaction",
        "path: a snapshot is installed",
    ] {
        assert!(all.contains_key(path), "{path} never happened");
    }
}

#[test]
fn machines_that_break_their_contract_are_found() {
    for (broken, what) in [
        (Broken::Answers, "SM1"),
        (Broken::Holds, "SM1"),
        (Broken::Durable, "SM3"),
        (Broken::Install, "installed a snapshot"),
        (Broken::Rule, "n1 is too large"),
    ] {
        let found = (0..20).find_map(|seed| in_memory(&Plan::new(seed), broken).err());
        let found = found.unwrap_or_else(|| panic!("{broken:?} was not found"));
        assert!(found.contains(what), "{broken:?}: {found}");
    }
}

#[test]
fn a_plan_names_its_faults() {
    let plan = Plan::new(1).with([Fault::CutLeader, Fault::Transfer]);
    let seen = in_memory(&plan, Broken::No).unwrap();
    assert!(
        seen.contains_key("fault: the leader is cut off") && seen.contains_key("fault: transfer")
    );
    for other in ["path: a crash", "message lost", "fault: pause"] {
        assert!(!seen.contains_key(other), "{other}: {seen:?}");
    }
}

#[cfg(feature = "lsm")]
mod on_the_store {
    use super::*;
    use esker_lsm::StoreOptions;
    use esker_raft::machine::{Application, Effects, LsmMachine, StateReader};
    use esker_wal::Workers;
    use esker_wal::media::clock::ManualClock;
    use esker_wal::media::sim::SimMedia;
    use std::path::Path;

    /// As [`MemoryMachine`]: `key=value`, `+key`.
    struct App;

    impl Application for App {
        fn apply(&mut self, c: Command, state: &mut Effects<'_>) -> Result<Bytes, MachineError> {
            let text = String::from_utf8(c.payload.to_vec()).expect("of the test");
            if let Some((key, value)) = text.split_once('=') {
                state.put(key.as_bytes(), value.repeat(10).as_bytes());
                return Ok(Bytes::new());
            }
            let before = state.get(text.as_bytes())?.unwrap_or_default();
            let n: u64 = String::from_utf8_lossy(&before).parse().unwrap_or(0);
            state.put(text.as_bytes(), (n + 1).to_string().as_bytes());
            Ok(before)
        }
    }

    #[derive(Default)]
    struct Stores(BTreeMap<NodeId, (SimMedia, Option<StateReader>)>);

    impl Subject for Stores {
        fn open(&mut self, node: NodeId) -> Result<Box<dyn StateMachine>, MachineError> {
            let new = || (SimMedia::new(node.0), None);
            let (media, reader) = self.0.entry(node).or_insert_with(new);
            let mut options = StoreOptions {
                memtable_bytes: 4 << 10,
                block_bytes: 256,
                table_bytes: 2 << 10,
                ..StoreOptions::default()
            };
            options.log.media = Arc::new(media.clone());
            options.log.clock = Arc::new(ManualClock::default());
            options.log.workers = Workers::Stepped;
            let id = esker_wal::LogId(5);
            let machine = LsmMachine::open(Path::new("state"), id, options, App)?;
            *reader = Some(machine.reader());
            Ok(Box::new(machine))
        }
        fn power_cut(&mut self, node: NodeId, random: u64) {
            let (media, reader) = self.0.get_mut(&node).expect("it was open");
            *reader = None;
            media.power_cut(random);
        }
        fn command(&mut self, random: u64) -> Bytes {
            command(random)
        }
        fn digest(&mut self, node: NodeId) -> Option<u64> {
            let state = self.0[&node].1.as_ref().expect("it is open").snapshot();
            let rows: Result<Vec<_>, _> = state.scan(b"", None).ok()?.collect();
            Some(digest(rows.expect("readable")))
        }
    }

    /// SM1 to SM3, C4, L3.
    #[test]
    fn the_machine_on_the_store_keeps_its_contract() {
        for seed in seeds(6) {
            if let Err(violation) = run(&Plan::new(seed), Stores::default()) {
                panic!("ESKER_SEED={seed}: {violation}");
            }
        }
    }
}
