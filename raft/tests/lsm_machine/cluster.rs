//! Whole nodes: what was acknowledged is found again.

use crate::nodes::{Cluster, LONG, Made, eventually};
use crate::world::{App, ID, Map, Todo, content, options};
use esker_raft::machine::LsmMachine;
use esker_raft::runtime::*;
use esker_wal::Workers;
use esker_wal::media::sim::{SimMedia, SimRng};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[test]
fn what_was_acknowledged_survives_power_cuts_and_snapshots_on_log_and_store() {
    let mut rng = SimRng::new(3);
    let kept = NodeOptions {
        tick: Duration::from_millis(15),
        log_entries_kept: 20,
        compact_entries_min: 50,
        ..NodeOptions::default()
    };
    let cluster: Cluster = Cluster::new(3, kept, 64 << 10, |media| {
        let state = options(media, Workers::Threads);
        let machine = LsmMachine::open(Path::new("state"), ID, state, App)?;
        Ok(Made {
            reader: machine.reader(),
            machine: Box::new(machine),
            beside: Box::new(|_| ()),
        })
    });
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
            let up: Vec<_> = (0..3).filter_map(|at| cluster.up(at)).collect();
            let handle = up[rng.below(up.len() as u64) as usize].node.handle();
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
                cluster.power_cut(2, rng.next_u64());
            }
            1 => {
                for at in 0..2 {
                    cluster.up(at).unwrap().node.handle().checkpoint().unwrap();
                }
                cluster.start(2);
            }
            2 => {
                (0..3).for_each(|at| cluster.power_cut(at, rng.next_u64()));
                (0..3).for_each(|at| cluster.start(at));
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
        for at in 0..3 {
            all.push(content(&cluster.up(at)?.reader).ok()?);
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

/// DR5, AP4: nobody would be answered while a leader waits for room, and the others have some.
#[test]
fn a_leader_whose_state_has_no_room_gives_up_and_the_others_go_on() {
    let kept = NodeOptions {
        tick: Duration::from_millis(15),
        disk_hang_max: Duration::from_millis(200),
        ..NodeOptions::default()
    };
    // In the order in which they start.
    let disks: Arc<Mutex<Vec<SimMedia>>> = Arc::default();
    let made = disks.clone();
    let cluster: Cluster = Cluster::new(3, kept, 1 << 20, move |_| {
        let disk = SimMedia::new(9);
        made.lock().unwrap().push(disk.clone());
        let state = options(&disk, Workers::Threads);
        let machine = LsmMachine::open(Path::new("state"), ID, state, App)?;
        Ok(Made {
            reader: machine.reader(),
            machine: Box::new(machine),
            beside: Box::new(|_| ()),
        })
    });
    let leader = cluster.leader();
    let handle = cluster.up(leader).unwrap().node.handle();
    let put = || Todo::Put("k".into(), "v".repeat(500)).encode();
    let disk = disks.lock().unwrap()[leader].clone();
    disk.set_capacity(Some(disk.used_bytes()));
    eventually("another leader", || {
        drop(handle.submit(Proposal::new(put())));
        std::thread::sleep(Duration::from_millis(2));
        cluster.leads().filter(|other| *other != leader)
    });
    assert_eq!(handle.down(), None);
    eventually("it goes on", || {
        let other = cluster.leads().filter(|other| *other != leader)?;
        let other = cluster.up(other)?.node.handle();
        other.propose(put()).ok()
    });
    disk.set_capacity(None);
    eventually("it is there again", || {
        let status = handle.status()?;
        (!status.disk_full && !status.disk_hangs).then_some(())
    });
}

/// W8, AP4: the disk of the state is full, and that of the log is not.
#[test]
fn a_full_disk_of_the_state_is_waited_out_and_holds_no_close_up() {
    let kept = NodeOptions {
        tick: Duration::from_millis(15),
        request_timeout: LONG,
        ..NodeOptions::default()
    };
    let disk = SimMedia::new(9);
    let of_state = disk.clone();
    let cluster: Cluster = Cluster::new(1, kept, 1 << 20, move |_| {
        let state = options(&of_state, Workers::Threads);
        let machine = LsmMachine::open(Path::new("state"), ID, state, App)?;
        Ok(Made {
            reader: machine.reader(),
            machine: Box::new(machine),
            beside: Box::new(|_| ()),
        })
    });
    cluster.leader();
    let handle = cluster.up(0).unwrap().node.handle();
    let mut model = Map::new();
    let mut number = 0;
    let mut submit = || {
        number += 1;
        let todo = Todo::Put(format!("k{number}"), "v".repeat(500));
        todo.apply(&mut model);
        handle.submit(Proposal::new(todo.encode()))
    };
    let until_full = |submit: &mut dyn FnMut() -> PendingReply| {
        disk.set_capacity(Some(disk.used_bytes()));
        let mut waiting = Vec::new();
        eventually("no room", || {
            waiting.push(submit());
            std::thread::sleep(Duration::from_millis(5));
            let status = handle.status().expect("it is up");
            status.disk_full.then_some(())
        });
        waiting
    };
    let waiting = until_full(&mut submit);
    // It is tried again and again.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(handle.down(), None);
    disk.set_capacity(None);
    for reply in waiting {
        reply.wait().expect("executed once there is room");
    }
    submit().wait().expect("it goes on");
    assert!(!handle.status().unwrap().disk_full);
    assert_eq!(content(&cluster.up(0).unwrap().reader).unwrap(), model);
    let waiting = until_full(&mut || {
        handle.submit(Proposal::new(
            Todo::Put("x".into(), "y".repeat(500)).encode(),
        ))
    });
    let up = cluster.up(0).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        up.node.close();
        tell.send(()).unwrap();
    });
    told.recv_timeout(LONG).expect("it closes");
    let unknown = waiting
        .into_iter()
        .map(PendingReply::wait)
        .filter(Result::is_err);
    assert!(unknown.count() > 0, "all were executed");
}
