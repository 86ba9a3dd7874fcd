//! A state machine that fails.

use crate::common::{Cluster, eventually, options};
use bytes::Bytes;
use esker_raft::core::{Index, Membership, NodeId, SnapshotMeta};
use esker_raft::log::MemoryDisk;
use esker_raft::runtime::*;
use esker_raft::transport::MemoryNetwork;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A command that it panics at.
const PANIC: &[u8] = b"panic=1";

/// Applies nothing while it is told to fail.
struct Failing(MemoryMachine, Arc<AtomicBool>);

impl StateMachine for Failing {
    fn records(&mut self) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
        self.0.records()
    }
    fn apply(&mut self, command: Command) -> Result<Bytes, MachineError> {
        assert_ne!(command.payload, PANIC, "it was told to panic");
        match self.1.load(Ordering::Relaxed) {
            true => Err(MachineError::new("applying", "it was told to fail")),
            false => self.0.apply(command),
        }
    }
    fn commit(&mut self, applied: Index, records: Vec<Record>) -> Result<(), MachineError> {
        self.0.commit(applied, records)
    }
    fn durable(&self) -> Index {
        self.0.durable()
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        self.0.snapshot()
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

fn start(disk: &MemoryDisk, machine: &MemoryMachine, fails: &Arc<AtomicBool>) -> Node {
    let mut first = Membership::of([NodeId(1)]);
    first.about.insert(NodeId(1), Cluster::about(1).encode());
    let options = options();
    let (log, recovered) = disk.open(options.core.tail_bytes_max);
    let config = NodeConfig {
        cluster: 77,
        group: 1,
        node: NodeId(1),
        first: Some(first),
        options,
    };
    let machine = Failing(machine.clone(), Arc::clone(fails));
    let network = MemoryNetwork::new();
    let join = |me: esker_raft::transport::Sender, inbound| {
        Ok(Arc::new(network.join(me.node, inbound)) as Arc<dyn esker_raft::transport::Transport>)
    };
    Node::start(config, Box::new(log), recovered, Box::new(machine), join).expect("it starts")
}

/// C1, AP1: what can't be applied is not skipped, and nothing behind it is applied; once the machine is well it is.
#[test]
fn c1_an_error_of_the_state_machine_stops_the_node_and_the_index_stays() {
    let (disk, machine) = (MemoryDisk::new(), MemoryMachine::new());
    let fails = Arc::new(AtomicBool::new(false));
    let node = start(&disk, &machine, &fails);
    let handle = node.handle();
    eventually("a first command", || handle.propose("a=1").ok());
    fails.store(true, Ordering::Relaxed);
    // Committed or not, it is not said to have been done.
    assert!(handle.propose("b=2").is_err());
    let why = eventually("it is down", || handle.down());
    assert!(why.to_string().contains("told to fail"), "{why}");
    fails.store(false, Ordering::Relaxed);
    assert!(handle.propose("c=3").is_err());
    assert_eq!((machine.get(b"b"), machine.get(b"c")), (None, None));
    drop(node);
    let node = start(&disk, &machine, &fails);
    let handle = node.handle();
    eventually("another command", || handle.propose("d=4").ok());
    let value = |key: &[u8]| machine.get(key);
    assert_eq!(value(b"b"), Some("2".into()), "it was skipped");
    assert_eq!(value(b"d"), Some("4".into()));
}

/// RT4: what one thread of a node can't go on with ends the others too, and callers hear of it.
#[test]
fn a_state_machine_that_panics_stops_the_node() {
    let (disk, machine) = (MemoryDisk::new(), MemoryMachine::new());
    let node = start(&disk, &machine, &Arc::default());
    let handle = node.handle();
    eventually("a first command", || handle.propose("a=1").ok());
    let told = handle.propose(PANIC);
    assert!(
        matches!(told, Err(ProposeError::Unknown { .. })),
        "{told:?}"
    );
    let why = eventually("it is down", || handle.down());
    assert!(why.contains("esker-rf-apply"), "{why}");
    assert!(matches!(
        handle.propose("c=3"),
        Err(ProposeError::NotAppended { .. })
    ));
}
