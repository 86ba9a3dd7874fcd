//! How many proposals per second three cores commit by function calls alone, no threads and no disk: `core_alone [SECONDS]`.
//!
//! A window of proposals is kept under way. What a core asks to be written counts as synced at once, but is reported as a step of its own, as a
//! disk would; messages are handed over in the order in which they were sent.
#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use bytes::Bytes;
use esker_raft::core::{
    Core, Envelope, Input, LogView, Membership, NodeId, Options, Outputs, Restored, RoleName,
    SnapshotMeta,
};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const PAYLOAD: &[u8] = &[b'x'; 128];

struct Cluster {
    cores: Vec<Core>,
    /// (from, message) on their way.
    wire: VecDeque<(NodeId, Envelope)>,
    leader: usize,
    /// At the leader.
    committed: u64,
}

impl Cluster {
    fn new() -> Cluster {
        let first = SnapshotMeta {
            membership: Membership::of((1..=3).map(NodeId)),
            ..SnapshotMeta::default()
        };
        let core = |id| {
            let restored = Restored {
                log: LogView::new(first.clone(), 1 << 20),
                ..Restored::default()
            };
            let options = Options::default();
            Core::new(NodeId(id), options, restored, id).expect("options are right")
        };
        Cluster {
            cores: (1..=3).map(core).collect(),
            wire: VecDeque::new(),
            leader: 0,
            committed: 0,
        }
    }

    fn step(&mut self, at: usize, input: Input) {
        let out = self.cores[at].step(0, input);
        let seq = self.carry_out(at, out);
        if seq > 0 {
            let out = self.cores[at].step(0, Input::Synced(seq));
            assert_eq!(self.carry_out(at, out), 0, "a sync makes nothing to write");
        }
    }

    fn carry_out(&mut self, at: usize, out: Outputs) -> u64 {
        let from = self.cores[at].id();
        self.wire
            .extend(out.messages.into_iter().map(|m| (from, m)));
        if let Some(to) = out.committed
            && at == self.leader
        {
            self.committed = to.0;
        }
        out.seq
    }

    fn deliver(&mut self) {
        while let Some((from, Envelope { to, message })) = self.wire.pop_front() {
            let at = to.0 as usize - 1;
            self.step(at, Input::Message { from, message });
        }
    }

    fn elect(&mut self) {
        let leads = |core: &Core| core.role() == RoleName::Leader;
        while !self.cores.iter().any(leads) {
            for at in 0..3 {
                self.step(at, Input::Tick);
                self.deliver();
            }
        }
        self.leader = self.cores.iter().position(leads).expect("just seen");
        self.committed = self.cores[self.leader].committed().0;
    }

    /// As a runtime does now and then.
    fn compact(&mut self) {
        for core in &mut self.cores {
            let to = core.committed();
            let _ = core.step(0, Input::Compact(to));
        }
    }
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|s| s.parse().ok());
    let each = Duration::from_secs(seconds.unwrap_or(3));
    for window in [1, 64, 1024] {
        let mut cluster = Cluster::new();
        cluster.elect();
        let first = cluster.committed;
        let (mut proposed, mut compacted) = (first, first);
        let begun = Instant::now();
        while begun.elapsed() < each {
            let room = window - (proposed - cluster.committed);
            let batch = (0..room).map(|n| (n, Bytes::from_static(PAYLOAD)));
            cluster.step(cluster.leader, Input::Propose(batch.collect()));
            proposed += room;
            cluster.deliver();
            if cluster.committed > compacted + 10_000 {
                compacted = cluster.committed;
                cluster.compact();
            }
        }
        let rate = (cluster.committed - first) as f64 / begun.elapsed().as_secs_f64();
        println!("{window:>5} under way: {rate:>9.0} proposals/s");
    }
}
