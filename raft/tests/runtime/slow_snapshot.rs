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

/// Nothing of a snapshot is read, or installed, while it is shut.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<State>, Condvar)>);

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

    fn open(&self) {
        self.0.0.lock().open = true;
        self.0.1.notify_all();
    }
}

/// With a gate before what is read of its snapshots, and one before what it installs.
struct Gated(MemoryMachine, Gate, Gate);

impl Gate {
    fn opened() -> Gate {
        let gate = Gate::default();
        gate.open();
        gate
    }
}

struct Source(Box<dyn SnapshotSource>, Gate);

impl SnapshotSource for Source {
    fn files(&self) -> Vec<SnapshotFile> {
        self.0.files()
    }
    fn read(&mut self, file: usize, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.1.pass();
        self.0.read(file, offset, into)
    }
}

impl StateMachine for Gated {
    fn records(&mut self) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
        self.0.records()
    }
    fn apply(&mut self, command: Command) -> Result<Bytes, MachineError> {
        self.0.apply(command)
    }
    fn commit(&mut self, applied: Index, records: Vec<Record>) -> Result<(), MachineError> {
        self.0.commit(applied, records)
    }
    fn durable(&self) -> Index {
        self.0.durable()
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        self.1.0.0.lock().taken += 1;
        Ok(Box::new(Source(self.0.snapshot()?, self.1.clone())))
    }
    fn staging(&self) -> Arc<dyn Staging> {
        self.0.staging()
    }
    fn install(
        &mut self,
        arrived: Box<dyn Arriving>,
        meta: &SnapshotMeta,
    ) -> Result<(), MachineError> {
        self.2.pass();
        self.0.install(arrived, meta)
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
    let machine = Gated(machine, gate.clone(), Gate::opened());
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
        cluster.start_with(4, Box::new(Gated(machine, Gate::opened(), gate.clone())));
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
