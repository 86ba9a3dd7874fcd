//! Logs that end with their processes.

use crate::common::{Cluster, LONG, eventually, options, put};
use esker_raft::core::{NodeId, RoleName};
use esker_raft::runtime::Proposal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Tells clients to stop, also where the test fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// DK4, DR2: commands of many threads, with leaders replaced; each takes effect once. Meanwhile a new member takes in a snapshot, behind which
/// entries wait to be written.
#[test]
fn commands_take_effect_once_while_leaders_change_and_a_member_takes_in_a_snapshot() {
    let mut few = options();
    few.log_entries_kept = 0;
    few.compact_entries_min = 1;
    // What is given to be applied is read from the log as often as not.
    few.core.tail_bytes_max = 512;
    let mut cluster = Cluster::of(3, few, true);
    let leader = cluster.leader();
    let big = "x".repeat(200_000);
    for n in 0..20 {
        put(&cluster, leader, &format!("k{n}={big}"));
    }
    cluster.handle(leader).checkpoint().expect("a snapshot");
    cluster.add(4);
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let stops = Stops(&stop);
        for n in 0..4 {
            let handle = cluster.handle(n % 3 + 1);
            let (stop, done) = (&stop, &done);
            scope.spawn(move || {
                let mut session = eventually("a session", || handle.open_session(LONG).ok());
                while !stop.load(Ordering::Relaxed) {
                    session.execute("+count", LONG).expect("executed");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        eventually("added", || {
            let leader = cluster.leader_of(&[1, 2, 3]);
            let about = Cluster::about(4);
            cluster.handle(leader).add_voter(NodeId(4), &about).ok()
        });
        eventually("it votes", || {
            let status = cluster.handle(cluster.leader()).status()?;
            status.membership.voters.contains(&NodeId(4)).then_some(())
        });
        for _ in 0..4 {
            let leader = cluster.leader();
            let to = leader % 4 + 1;
            eventually("another leader", || {
                let _ = cluster.handle(cluster.leader()).transfer(NodeId(to));
                let status = cluster.handle(to).status()?;
                (status.role == RoleName::Leader).then_some(())
            });
        }
        drop(stops);
    });
    cluster.agree();
    let done = done.load(Ordering::Relaxed);
    assert!(done > 0, "the clients were served");
    let member = &cluster.members[&4];
    assert_eq!(member.machine.get(b"count"), Some(done.to_string().into()));
    assert_eq!(member.machine.get(b"k7"), Some(big.into()));
}

/// DR2: who comes while requests gather wakes nobody; the end of what they gather for is what takes them. There is no tick that would help.
#[test]
fn what_gathers_is_taken_without_the_clock() {
    let mut still = options();
    still.tick = Duration::from_secs(3600);
    still.disk_hang_max = still.tick;
    still.apply_hang_max = still.tick;
    let cluster = Cluster::of(1, still, true);
    let handle = cluster.handle(1);
    handle.campaign().expect("asked for");
    cluster.leader();
    for threads in [1, 3] {
        let (done, all_done) = std::sync::mpsc::channel();
        for _ in 0..threads {
            let (handle, done) = (handle.clone(), done.clone());
            // It is left behind where it is never answered.
            std::thread::spawn(move || {
                for _ in 0..2_000 {
                    let some: Vec<_> = (0..8)
                        .map(|_| handle.submit(Proposal::new("key=value")))
                        .collect();
                    for one in some {
                        one.wait().expect("applied");
                    }
                }
                let _ = done.send(());
            });
        }
        for _ in 0..threads {
            all_done.recv_timeout(LONG).expect("all are answered");
        }
    }
}

/// VL1: a node that starts anew is another disk under an old id: its acknowledgement counts for nothing.
#[test]
fn c2_a_node_that_starts_anew_has_no_voice_until_it_is_added_anew() {
    let mut cluster = Cluster::of(3, options(), true);
    let leader = cluster.leader();
    put(&cluster, leader, "a=1");
    let handle = cluster.handle(leader);
    crate::disks_are_known(&handle);
    cluster.agree();
    let (anew, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.stop(anew);
    cluster.add(anew);
    cluster.stop(other);
    let submitted = handle.submit(Proposal {
        timeout: Some(Duration::from_millis(600)),
        ..Proposal::new("b=2")
    });
    assert!(submitted.wait().is_err(), "it acknowledged");
}
