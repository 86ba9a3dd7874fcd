//! Whole nodes on disks in memory: the log on `esker-wal`, the state on `esker-lsm`, real threads.

use crate::world::{App, ID, Map, Todo, content, options};
use esker_raft::core::{Membership, NodeId, Options};
use esker_raft::log::{Identity, WalLog, WalLogOptions};
use esker_raft::machine::{LsmMachine, StateReader};
use esker_raft::runtime::*;
use esker_raft::transport::MemoryNetwork;
use esker_wal::Workers;
use esker_wal::media::sim::{SimMedia, SimRng};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Member {
    id: u64,
    media: SimMedia,
    node: Option<Node>,
    reader: Option<StateReader>,
}

fn eventually<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = get() {
            return value;
        }
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(3));
    }
}

impl Member {
    fn start(&mut self, network: &MemoryNetwork) {
        let id = NodeId(self.id);
        let mut first = Membership::of((1..=3).map(NodeId));
        for n in 1..=3 {
            let about = About::at(&format!("mem://{n}"), "");
            first.about.insert(NodeId(n), about.encode());
        }
        let config = NodeConfig {
            cluster: 7,
            group: 1,
            node: id,
            first: Some(first),
            options: NodeOptions {
                core: Options::default(),
                tick: Duration::from_millis(15),
                compact_entries_min: 50,
                ..NodeOptions::default()
            },
        };
        let state = options(&self.media, Workers::Threads);
        let who = Identity {
            cluster: 7,
            group: 1,
            node: id,
        };
        let mut log = WalLogOptions::default();
        log.log.segment_bytes = 64 << 10;
        log.log.media = Arc::new(self.media.clone());
        let (log, recovered) = WalLog::open(Path::new("log"), who, log).expect("the log opens");
        let machine =
            LsmMachine::open(Path::new("state"), ID, state, App).expect("the state opens");
        self.reader = Some(machine.reader());
        let network = network.clone();
        let node = Node::start(
            config,
            Box::new(log),
            recovered,
            Box::new(machine),
            |me, inbound| Ok(Arc::new(network.join(me.node, inbound))),
        );
        self.node = Some(node.expect("it starts"));
    }

    fn power_cut(&mut self, seed: u64) {
        self.media.power_cut(seed);
        self.node = None;
        self.reader = None;
    }
}

#[test]
fn what_was_acknowledged_survives_power_cuts_and_snapshots_on_log_and_store() {
    let network = MemoryNetwork::new();
    let mut rng = SimRng::new(3);
    let mut members: Vec<Member> = (1..=3)
        .map(|id| Member {
            id,
            media: SimMedia::new(id),
            node: None,
            reader: None,
        })
        .collect();
    for member in &mut members {
        member.start(&network);
    }
    let mut model = Map::new();
    let mut counted = 0u64;
    for round in 0..4 {
        for n in 0..120u64 {
            let todo = match n % 3 {
                0 => Todo::Put(
                    format!("k{:02}", n % 40),
                    format!("{round}-{n}-{}", "v".repeat(90)),
                ),
                _ => Todo::Count("n".to_owned()),
            };
            let up: Vec<_> = members.iter().filter(|m| m.node.is_some()).collect();
            let at = up[rng.below(up.len() as u64) as usize];
            let handle = at.node.as_ref().unwrap().handle();
            let end = Instant::now() + Duration::from_secs(30);
            loop {
                match handle.propose_anywhere(todo.encode()) {
                    Ok(_) => break,
                    // Only what is certain not to have happened is tried again: counting is not idempotent.
                    Err(ProposeError::NotAppended { .. }) => {}
                    // It may have been; the end tells how often.
                    Err(_) if matches!(todo, Todo::Count(_)) => {
                        counted += 1;
                        break;
                    }
                    Err(_) => {}
                }
                assert!(Instant::now() < end, "no leader");
                std::thread::sleep(Duration::from_millis(5));
            }
            todo.apply(&mut model);
        }
        match round {
            0 => {
                // Behind by more than the log keeps: it gets a snapshot when it is back.
                let seed = rng.next_u64();
                members[2].power_cut(seed);
            }
            1 => {
                for member in &members[..2] {
                    member.node.as_ref().unwrap().handle().checkpoint().unwrap();
                }
                members[2].start(&network);
            }
            2 => {
                for member in &mut members {
                    let seed = rng.next_u64();
                    member.power_cut(seed);
                }
                for member in &mut members {
                    member.start(&network);
                }
            }
            _ => {}
        }
    }
    let number = |map: &Map| -> u64 {
        let n = map.get(&b"n"[..]).cloned().unwrap_or_default();
        String::from_utf8_lossy(&n).parse().unwrap_or(0)
    };
    let found = eventually("agreement", || {
        let mut all: Vec<Map> = Vec::new();
        for member in &members {
            all.push(content(member.reader.as_ref().unwrap()).ok()?);
        }
        let same = all.iter().all(|m| *m == all[0]);
        (same && number(&all[0]) + counted >= number(&model)).then(|| all.remove(0))
    });
    assert!(
        number(&found) <= number(&model),
        "a command took effect twice"
    );
    let others = |map: &Map| -> Map {
        let mut map = map.clone();
        map.remove(&b"n"[..]);
        map
    };
    assert_eq!(others(&found), others(&model));
}
