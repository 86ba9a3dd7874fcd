//! A cluster in virtual time under faults, for state machines of one's own: [`run`] one seed after the other.
//!
//! Five nodes, each of the core and a [`StateMachine`], on disks that keep apart what is written from what is synced, clocks that drift and
//! jump, and a network that loses, repeats, delays and reorders. A seed picks kinds of [`Fault`] and rates of everything else, and replays exactly,
//! if the subject does. When the faults end the cluster must get on again.
//!
//! At every step the core is held to C1, C2 and C3 (see the README), and the machines to their contract ([`crate::runtime`]):
//! - SM1: a command is answered alike on all nodes, and at each time that it is applied. With [`Subject::digest`], who applied the same holds the same.
//! - SM2: after a power cut a machine stands behind some commit, and the runtime's records are those of it.
//! - SM3: what it called durable is there after a power cut, and after a snapshot was taken or installed.
//! - What [`Subject::check`] says, behind each commit.
//!
//! Machines are opened, applied to, given snapshots (in pieces, and begun again) and cut from power; logs are compacted behind their checkpoints.
//! What the runtime does around that is not simulated: its threads, client sessions, forwarding and the log's files.
//!
//! ```
//! use bytes::Bytes;
//! use esker_raft::core::NodeId;
//! use esker_raft::runtime::{MachineError, MemoryMachine, StateMachine};
//! use esker_raft::sim::{Plan, Subject, run};
//! use std::collections::BTreeMap;
//!
//! /// The disks of all nodes.
//! #[derive(Default)]
//! struct Counters(BTreeMap<NodeId, MemoryMachine>);
//!
//! impl Subject for Counters {
//!     fn open(&mut self, node: NodeId) -> Result<Box<dyn StateMachine>, MachineError> {
//!         Ok(Box::new(self.0.entry(node).or_default().clone()))
//!     }
//!
//!     fn power_cut(&mut self, node: NodeId, _random: u64) {
//!         let machine = self.0.entry(node).or_default();
//!         *machine = machine.after_power_loss();
//!     }
//!
//!     fn command(&mut self, random: u64) -> Bytes {
//!         format!("+{}", random % 5).into()
//!     }
//! }
//!
//! for seed in 0..3 {
//!     run(&Plan::new(seed), Counters::default()).unwrap();
//! }
//! ```

// The core's own scenarios play on it; not for others.
#[doc(hidden)]
pub mod cluster;
mod machines;

pub use cluster::swarm::Fault;

use crate::core::{Index, NodeId};
use crate::runtime::{MachineError, StateMachine};
use bytes::Bytes;
use cluster::Cluster;
use machines::Machines;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How often what happened: a path never taken is a hole in the test.
pub type Coverage = BTreeMap<&'static str, u64>;

/// What a run does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// Kinds of fault; `None` (the default): the seed picks some. Who is down starts again and links are healed in any case. Syncs that take
    /// longer than others, late messages, and damage of the log found at a crash are not asked for.
    pub faults: Option<BTreeSet<Fault>>,
}

impl Plan {
    /// Of this seed, which picks the faults.
    #[must_use]
    pub fn new(seed: u64) -> Plan {
        Plan { seed, faults: None }
    }

    /// With these kinds of fault.
    #[must_use]
    pub fn with(mut self, faults: impl IntoIterator<Item = Fault>) -> Plan {
        self.faults = Some(faults.into_iter().collect());
        self
    }
}

/// What is simulated: the state machines of all nodes, their disks, and what clients want of them.
pub trait Subject {
    /// The machine of a node, from what its disk holds: nothing at first. Called at each start.
    fn open(&mut self, node: NodeId) -> Result<Box<dyn StateMachine>, MachineError>;

    /// The power of a running node goes: its disk keeps what was durable, and of the rest what `random` decides. Its machine is dropped behind this
    /// call, without being closed, and must change nothing any more.
    fn power_cut(&mut self, node: NodeId, random: u64);

    /// A command that a client proposes next.
    fn command(&mut self, random: u64) -> Bytes;

    /// What must hold of a node that has just committed up to `applied`.
    fn check(&mut self, node: NodeId, applied: Index) -> Result<(), String> {
        let _ = (node, applied);
        Ok(())
    }

    /// Stands for all that a node's machine holds, as of its last commit; `None`: is not compared. Asked for behind each commit.
    fn digest(&mut self, node: NodeId) -> Option<u64> {
        let _ = node;
        None
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}: {what}")]
pub struct Violation {
    /// Under which seed.
    pub seed: u64,
    /// Which, by which node, or the text of a panic.
    pub what: String,
}

/// Runs a plan over a subject: ten seconds of virtual time, six of them with faults.
pub fn run(plan: &Plan, subject: impl Subject + 'static) -> Result<Coverage, Violation> {
    let all = || {
        let mut cluster = Cluster::over(plan, Some(Machines::new(Box::new(subject))));
        cluster.run().map(|()| cluster.coverage)
    };
    let outcome = catch_unwind(AssertUnwindSafe(all)).unwrap_or_else(|panic| {
        Err(match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => (panic.downcast_ref::<&str>()).map_or("panic".into(), |s| (*s).into()),
        })
    });
    let seed = plan.seed;
    outcome.map_err(|what| Violation { seed, what })
}
