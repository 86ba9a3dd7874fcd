//! A snapshot that takes longer to arrive than the leader's log to be compacted.

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
    /// Snapshots that were taken.
    taken: usize,
}

/// Nothing of a snapshot is read while it is shut.
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
                return;
            }
        }
    }

    fn open(&self) {
        self.0.0.lock().open = true;
        self.0.1.notify_all();
    }
}

struct Gated(MemoryMachine, Gate);
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
    let machine = Gated(cluster.members[&1].machine.clone(), gate.clone());
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
