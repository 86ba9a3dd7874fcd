//! A snapshot that takes longer to arrive than the leader's log to be compacted, or long to be installed.

use crate::common::{Cluster, eventually, options, put};
use bytes::Bytes;
use esker_raft::core::{Index, NodeId, SnapshotMeta};
use esker_raft::runtime::*;
use esker_raft::transport::SnapshotFile;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
struct State {
    open: bool,
    /// Somebody stood before it.
    reached: bool,
    /// Went through though it was shut, after a long time.
    gave_up: bool,
    /// Snapshots that were taken.
    taken: usize,
}

/// Nothing goes through while it is shut.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

impl Gate {
    fn pass(&self) {
        let mut state = self.0.0.lock();
        state.reached = true;
        while !state.open {
            // A test that failed meanwhile ends.
            if (self.0.1)
                .wait_for(&mut state, Duration::from_secs(20))
                .timed_out()
            {
                state.gave_up = true;
                return;
            }
        }
    }

    pub(crate) fn shut(&self) {
        self.0.0.lock().open = false;
    }

    pub(crate) fn open(&self) {
        self.0.0.lock().open = true;
        self.0.1.notify_all();
    }
}

/// With gates before its commits, its snapshots' being prepared, what is read of them, and what it installs.
pub(crate) struct Gated {
    machine: MemoryMachine,
    pub(crate) commit: Gate,
    prepare: Gate,
    read: Gate,
    install: Gate,
}

impl Gated {
    /// All are open.
    pub(crate) fn new(machine: MemoryMachine) -> Gated {
        Gated {
            machine,
            commit: Gate::opened(),
            prepare: Gate::opened(),
            read: Gate::opened(),
            install: Gate::opened(),
        }
    }
}

impl Gate {
    pub(crate) fn opened() -> Gate {
        let gate = Gate::default();
        gate.open();
        gate
    }
}

struct Source {
    source: Box<dyn SnapshotSource>,
    prepare: Gate,
    read: Gate,
}

impl SnapshotSource for Source {
    fn prepare(&mut self, record: &[u8]) -> Result<Option<Bytes>, MachineError> {
        self.prepare.pass();
        self.source.prepare(record)
    }
    fn look_through(&mut self, go_on: &dyn Fn() -> bool) -> Result<(), MachineError> {
        self.source.look_through(go_on)
    }
    fn files(&self) -> Vec<SnapshotFile> {
        self.source.files()
    }
    fn read(&mut self, file: usize, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.read.pass();
        self.source.read(file, offset, into)
    }
}

impl StateMachine for Gated {
    fn records(&mut self) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
        self.machine.records()
    }
    fn apply(&mut self, command: Command) -> Result<Bytes, MachineError> {
        self.machine.apply(command)
    }
    fn commit(&mut self, applied: Index, records: Vec<Record>) -> Result<(), MachineError> {
        self.commit.pass();
        self.machine.commit(applied, records)
    }
    fn durable(&self) -> Index {
        self.machine.durable()
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        self.read.0.0.lock().taken += 1;
        Ok(Box::new(Source {
            source: self.machine.snapshot()?,
            prepare: self.prepare.clone(),
            read: self.read.clone(),
        }))
    }
    fn staging(&self) -> Arc<dyn Staging> {
        self.machine.staging()
    }
    fn install(
        &mut self,
        arrived: Box<dyn Arriving>,
        meta: &SnapshotMeta,
    ) -> Result<(), MachineError> {
        self.install.pass();
        self.machine.install(arrived, meta)
    }
}

/// KP2. Without it the learner would need another snapshot when it has this one, and so on while there are writes.
#[test]
fn one_snapshot_serves_however_much_is_written_and_compacted_while_it_is_sent() {
    let mut few = options();
    few.log_entries_kept = 0;
    few.compact_entries_min = 1;
    let mut cluster = Cluster::new(1, few);
    cluster.stop(1);
    let gate = Gate::default();
    let machine = cluster.members[&1].machine.clone();
    let machine = Gated {
        read: gate.clone(),
        ..Gated::new(machine)
    };
    cluster.start_with(1, Box::new(machine));
    cluster.leader();
    let compacted = |cluster: &Cluster| {
        put(cluster, 1, "last=1");
        let to = cluster.handle(1).checkpoint().unwrap();
        eventually("a durable state", || {
            let status = cluster.handle(1).status()?;
            (status.durable >= to).then_some(status)
        })
    };
    for n in 0..50 {
        put(&cluster, 1, &format!("k{n}=1"));
    }
    let before = compacted(&cluster);
    assert_eq!(before.base.index, before.durable, "what is durable went");
    cluster.add(2);
    (cluster.handle(1))
        .add_learner(NodeId(2), &Cluster::about(2))
        .unwrap();
    eventually("a snapshot on its way", || {
        gate.0.0.lock().reached.then_some(())
    });
    for n in 50..150 {
        put(&cluster, 1, &format!("k{n}=1"));
    }
    let meanwhile = compacted(&cluster);
    assert!(meanwhile.durable > Index(before.durable.0 + 100));
    assert!(
        meanwhile.base.index < Index(before.durable.0 + 10),
        "{meanwhile:?}"
    );
    gate.open();
    eventually("it has caught up", || {
        (cluster.members[&2].machine.content().len() == 151).then_some(())
    });
    assert_eq!(gate.0.0.lock().taken, 3, "two of them for the log's sake");
    // The log waits no longer.
    eventually("the log is compacted", || {
        let status = compacted(&cluster);
        (status.base.index > meanwhile.durable).then_some(())
    });
}

/// DR1, DK4: a node whose state machine takes long to install a snapshot goes on with whatever else there is, though a write waits for that, and what
/// it promises meanwhile stands behind it.
#[test]
fn a_node_that_installs_a_snapshot_goes_on() {
    for volatile in [false, true] {
        let mut few = options();
        few.log_entries_kept = 0;
        few.compact_entries_min = 1;
        let mut cluster = Cluster::of(3, few, volatile);
        let leader = cluster.leader();
        for n in 0..20 {
            put(&cluster, leader, &format!("k{n}=1"));
        }
        cluster.handle(leader).checkpoint().expect("a snapshot");
        cluster.add(4);
        cluster.stop(4);
        let gate = Gate::default();
        let machine = cluster.members[&4].machine.clone();
        let machine = Gated {
            install: gate.clone(),
            ..Gated::new(machine)
        };
        cluster.start_with(4, Box::new(machine));
        let about = Cluster::about(4);
        eventually("added", || {
            let leader = cluster.leader_of(&[1, 2, 3]);
            cluster.handle(leader).add_learner(NodeId(4), &about).ok()
        });
        eventually("a snapshot to be installed", || {
            gate.0.0.lock().reached.then_some(())
        });
        let term = cluster.handle(4).status().expect("it is up").term;
        // A new term is a promise, and has to be written.
        let to = leader % 3 + 1;
        eventually("another leader", || {
            let _ = cluster
                .handle(cluster.leader_of(&[1, 2, 3]))
                .transfer(NodeId(to));
            let status = cluster.handle(to).status()?;
            (status.term > term).then_some(())
        });
        eventually("it hears of it", || {
            let status = cluster.handle(4).status()?;
            (status.term > term).then_some(())
        });
        assert!(!gate.0.0.lock().gave_up, "it waited for the installation");
        gate.open();
        put(&cluster, to, "last=1");
        cluster.agree();
    }
}

/// PR1. Entries are applied and proposals answered while a snapshot is prepared, and what the log holds is sent to who is behind.
#[test]
fn a_leader_that_prepares_a_snapshot_goes_on() {
    let mut cluster = Cluster::new(1, options());
    cluster.stop(1);
    let gate = Gate::default();
    let machine = Gated {
        prepare: gate.clone(),
        ..Gated::new(cluster.members[&1].machine.clone())
    };
    cluster.start_with(1, Box::new(machine));
    cluster.leader();
    for n in 0..50 {
        put(&cluster, 1, &format!("k{n}=1"));
    }
    // Its order for the log's sake is prepared once the gate opens.
    let handle = cluster.handle(1).clone();
    let ordered = std::thread::spawn(move || handle.checkpoint());
    eventually("a snapshot is prepared", || {
        gate.0.0.lock().reached.then_some(())
    });
    for n in 50..100 {
        put(&cluster, 1, &format!("k{n}=1"));
    }
    cluster.add(2);
    (cluster.handle(1))
        .add_learner(NodeId(2), &Cluster::about(2))
        .unwrap();
    eventually("the learner has it all from the log", || {
        (cluster.members[&2].machine.content().len() == 100).then_some(())
    });
    assert!(!ordered.is_finished());
    assert!(!gate.0.0.lock().gave_up, "it waited for the snapshot");
    gate.open();
    let durable = ordered.join().unwrap().unwrap();
    assert!(durable >= Index(50), "{durable:?}");
    eventually("it is known to be durable", || {
        let status = cluster.handle(1).status()?;
        (status.durable >= durable).then_some(())
    });
}
