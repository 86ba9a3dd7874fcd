//! How many proposals per second three nodes of one process commit, with everything in memory: `in_memory [SECONDS [UNDER_WAY ...]]`.
#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use esker_raft::core::{Membership, NodeId, RoleName};
use esker_raft::log::VolatileLog;
use esker_raft::runtime::{MemoryMachine, Node, NodeConfig, NodeHandle, NodeOptions};
use esker_raft::transport::MemoryNetwork;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn start(id: u64, network: &MemoryNetwork, machine: &MemoryMachine) -> Node {
    let config = NodeConfig {
        cluster: 1,
        group: 1,
        node: NodeId(id),
        first: Some(Membership::of((1..=3).map(NodeId))),
        options: NodeOptions::default(),
    };
    let (log, recovered) = VolatileLog::new(1 << 20);
    let node = Node::start(
        config,
        Box::new(log),
        recovered,
        Box::new(machine.clone()),
        |me, inbound| Ok(Arc::new(network.join(me.node, inbound))),
    );
    node.expect("a node in memory starts")
}

fn leader(nodes: &[Node]) -> NodeHandle {
    loop {
        for node in nodes {
            let handle = node.handle();
            if handle.status().is_some_and(|s| s.role == RoleName::Leader) {
                return handle;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn main() {
    let mut numbers = (std::env::args().skip(1)).filter_map(|s| s.parse::<usize>().ok());
    let each = Duration::from_secs(numbers.next().unwrap_or(5) as u64);
    let mut under_way: Vec<_> = numbers.collect();
    if under_way.is_empty() {
        under_way = vec![1, 64, 1024];
    }
    let network = MemoryNetwork::new();
    let machines = [(); 3].map(|()| MemoryMachine::new());
    let nodes: Vec<_> = (1..)
        .zip(&machines)
        .map(|(id, machine)| start(id, &network, machine))
        .collect();
    // Clients are proposals under way; a few threads keep them so.
    for clients in under_way {
        let threads = clients.min(2);
        let handle = leader(&nodes);
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut under_way = std::collections::VecDeque::new();
                    while !stop.load(Ordering::Relaxed) {
                        while under_way.len() < clients / threads {
                            let proposal = esker_raft::runtime::Proposal::new("key=value");
                            under_way.push_back(handle.submit(proposal));
                        }
                        if under_way.pop_front().is_some_and(|one| one.wait().is_ok()) {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            while begun.elapsed() < each {
                // As a store does by itself: the log is compacted behind it.
                machines.iter().for_each(MemoryMachine::flush);
                std::thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let rate = done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
        println!("{clients:>5} under way: {rate:>9.0} proposals/s");
    }
}
