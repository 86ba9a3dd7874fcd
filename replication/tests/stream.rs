//! A primary and replicas over real sockets, each with a real store: following, resuming, refusals,
//! credit, promotion.

mod common;

use common::*;
use esker_replication::datadir::{DataDir, Role};
use esker_replication::protocol::{self, FrameIter, Hello, Message, Reason};
use esker_replication::{Ack, FollowState, Primary, PrimaryOptions, ReplicationError};
use esker_wal::{Lsn, NodeId};
use std::time::{Duration, Instant};

#[test]
fn r1_an_empty_replica_follows_from_the_beginning_and_holds_the_same_bytes() {
    let dir = TempDir::new();
    let node = Node::open(&dir.path("p"));
    node.write("before", 500);
    let replica = replica(&dir.path("r"), &node.primary.endpoint());
    let end = node.write("after", 500);
    caught_up(&replica, end);
    assert_equal(&node.store, &replica.store().unwrap());
    let status = &node.primary.replicas()[0];
    assert!(status.connected);
    assert_eq!(status.node, replica.store().unwrap().log().node_id());
    assert_eq!(replica.status().state, FollowState::Following);
    replica.close().unwrap();
    node.close();
}

#[test]
fn r1_a_restarted_replica_resumes_where_it_was_and_adds_no_epoch() {
    let dir = TempDir::new();
    let node = Node::open(&dir.path("p"));
    let end = node.write("one", 300);
    let first = replica(&dir.path("r"), &node.primary.endpoint());
    caught_up(&first, end);
    first.close().unwrap();
    drop(first);
    let end = node.write("two", 300);
    let again = replica(&dir.path("r"), &node.primary.endpoint());
    // Served from the first moment, before the primary is heard.
    assert!(again.store().is_some());
    caught_up(&again, end);
    assert_equal(&node.store, &again.store().unwrap());
    assert_eq!(node.store.log().epochs().len(), 1);
    again.close().unwrap();
    node.close();
}

#[test]
fn r1_a_crashed_replica_resumes_and_adds_no_epoch() {
    let dir = TempDir::new();
    let node = Node::open(&dir.path("p"));
    let end = node.write("one", 300);
    let first = replica(&dir.path("r"), &node.primary.endpoint());
    caught_up(&first, end);
    copy_dir(&dir.path("r"), &dir.path("crashed"));
    first.close().unwrap();
    let end = node.write("two", 300);
    let again = replica(&dir.path("crashed"), &node.primary.endpoint());
    assert!(!again.recovered().unwrap().log.clean);
    caught_up(&again, end);
    assert_equal(&node.store, &again.store().unwrap());
    assert_eq!(again.store().unwrap().log().epochs().len(), 1);
    again.close().unwrap();
    node.close();
}

#[test]
fn r1_a_replica_follows_a_primary_that_was_restarted_cleanly_or_crashed() {
    let dir = TempDir::new();
    let node = Node::open(&dir.path("p"));
    let endpoint = node.primary.endpoint();
    let replica = replica(&dir.path("r"), &endpoint);
    let end = node.write("one", 300);
    caught_up(&replica, end);
    node.close();

    let node = Node::open_at(&dir.path("p"), &endpoint);
    let end = node.write("two", 300);
    caught_up(&replica, end);
    assert_equal(&node.store, &replica.store().unwrap());
    assert_eq!(
        node.store.log().epochs().len(),
        1,
        "a clean restart adds no epoch"
    );

    copy_dir(&dir.path("p"), &dir.path("crashed"));
    node.close();
    let node = Node::open_at(&dir.path("crashed"), &endpoint);
    assert_eq!(node.store.log().epochs().len(), 2);
    let end = node.write("three", 300);
    caught_up(&replica, end);
    assert_equal(&node.store, &replica.store().unwrap());
    replica.close().unwrap();
    node.close();
}

#[test]
fn r1_other_stores_and_histories_that_part_are_refused_by_name() {
    let dir = TempDir::new();
    let node = Node::open(&dir.path("p"));
    let end = node.write("one", 100);
    let other = Node::open(&dir.path("other"));
    other.write("other", 10);

    let follower = replica(&dir.path("r"), &node.primary.endpoint());
    caught_up(&follower, end);
    follower.close().unwrap();
    drop(follower);

    // Another store's primary.
    let lost = replica(&dir.path("r"), &other.primary.endpoint());
    let refusal = refused(&lost);
    assert_eq!(refusal.reason, Reason::OtherStore);
    assert!(
        lost.store()
            .unwrap()
            .get(b"one000001")
            .unwrap()
            .value
            .is_some()
    );
    lost.close().unwrap();
    drop(lost);

    // Promoted behind the primary's back.
    let a = replica(&dir.path("r"), &node.primary.endpoint());
    let fork = node.end();
    caught_up(&a, fork);
    a.promote().unwrap();
    let a_store = a.store().unwrap();
    a.close().unwrap();
    drop(a);
    write(&a_store, "a", 10);
    let mut options = PrimaryOptions::new(a_store.clone());
    options.listen = "tcp://127.0.0.1:*".into();
    options.timing = timing();
    let a_primary = Primary::start(options).unwrap();
    assert_eq!(
        a_store.log().epoch().number,
        node.store.log().epoch().number + 1
    );

    // The old primary went on writing: it and the promoted node have parted.
    node.write("lost", 10);
    node.primary.close();
    node.store.close().unwrap();
    let old = dir.path("p");
    drop(node);
    std::fs::remove_file(old.join("role")).unwrap();
    let back = replica(&old, &a_primary.endpoint());
    let refusal = refused(&back);
    assert_eq!((refusal.reason, refusal.at), (Reason::RewindNeeded, fork));
    back.close().unwrap();

    a_primary.close();
    a_store.close().unwrap();
    other.close();
}

#[test]
fn r1_a_primary_that_was_replaced_is_told_so_by_a_replica_of_the_newer_epoch() {
    let dir = TempDir::new();
    let node = Node::open(&dir.path("p"));
    let end = node.write("one", 50);
    let replica_a = replica(&dir.path("r"), &node.primary.endpoint());
    caught_up(&replica_a, end);
    replica_a.promote().unwrap();
    let store = replica_a.store().unwrap();
    write(&store, "new", 10);
    store.close().unwrap();
    drop(replica_a);
    drop(store);
    std::fs::remove_file(dir.path("r").join("role")).unwrap();
    let back = replica(&dir.path("r"), &node.primary.endpoint());
    assert_eq!(refused(&back).reason, Reason::StalePrimary);
    assert_eq!(
        node.primary.replaced_by(),
        Some(node.store.log().epoch().number + 1)
    );
    back.close().unwrap();
    node.close();
}

#[test]
fn r1_log_that_is_no_longer_held_is_refused_with_the_oldest_lsn() {
    let dir = TempDir::new();
    let mut options = store_options();
    options.log.keep_bytes = 0;
    options.log.segment_bytes = 64 << 10;
    options.log.payload_bytes_max = 16 << 10;
    let node = Node::open_with(&dir.path("p"), "tcp://127.0.0.1:*", options, |_| {});
    node.write("much", 5000);
    node.store.flush().unwrap();
    node.write("more", 1000);
    wait_for(
        "the log to be released",
        || node.store.log().oldest() > Lsn::ZERO,
        || format!("{:?}", node.store.log().stats()),
    );
    let empty = replica(&dir.path("r"), &node.primary.endpoint());
    let refusal = refused(&empty);
    assert_eq!(refusal.reason, Reason::Released);
    // The log may have been released further since.
    assert!(refusal.at > Lsn::ZERO && refusal.at <= node.store.log().oldest());
    assert!(empty.store().is_none());
    assert!(matches!(
        empty.promote(),
        Err(ReplicationError::NothingToPromote)
    ));
    empty.close().unwrap();
    node.close();
}

#[test]
fn a_second_live_node_under_one_name_is_refused_and_a_limit_of_replicas_kept() {
    let dir = TempDir::new();
    let node = Node::open_with(&dir.path("p"), "tcp://127.0.0.1:*", store_options(), |o| {
        o.replicas_max = 2;
    });
    let end = node.write("one", 10);
    let endpoint = node.primary.endpoint();
    let named = |n: &str, name: &'static str| {
        replica_with(&dir.path(n), &endpoint, |o| o.name = name.into())
    };
    let first = named("r1", "alpha");
    caught_up(&first, end);
    let second = named("r2", "alpha");
    assert_eq!(refused(&second).reason, Reason::NameInUse);
    first.close().unwrap();
    // The name is free again, without anybody's doing.
    caught_up(&second, end);
    let third = named("r3", "gamma");
    assert_eq!(refused(&third).reason, Reason::TooMany);
    let gone = node
        .primary
        .replicas()
        .into_iter()
        .find(|r| !r.connected)
        .unwrap();
    assert!(node.primary.forget(gone.node).unwrap());
    caught_up(&third, end);
    second.close().unwrap();
    third.close().unwrap();
    node.close();
}

#[test]
fn promotion_makes_the_role_durable_and_begins_a_higher_epoch_that_others_follow() {
    let dir = TempDir::new();
    let node = Node::open(&dir.path("p"));
    let end = node.write("one", 200);
    let a = replica(&dir.path("a"), &node.primary.endpoint());
    let b = replica(&dir.path("b"), &node.primary.endpoint());
    caught_up(&a, end);
    caught_up(&b, end);
    let before = node.store.log().epoch();
    node.close();
    let start = a.promote().unwrap();
    assert_eq!(start.epoch.number, before.number + 1);
    assert_eq!(a.status().state, FollowState::Promoted);
    assert!(matches!(a.promote(), Err(ReplicationError::NotFollowing)));
    let store = a.store().unwrap();
    a.close().unwrap();
    drop(a);
    let end = write(&store, "two", 200);
    assert!(store.get(b"two000001").unwrap().value.is_some());
    store.close().unwrap();
    drop(store);

    let data = DataDir::open(&dir.path("a")).unwrap();
    let role = data.role().unwrap();
    assert_eq!((role.role, role.epoch), (Role::Primary, start.epoch.number));
    drop(data);
    let node = Node::open(&dir.path("a"));
    assert_eq!(node.end(), end, "a promotion is not repeated");
    b.close().unwrap();
    drop(b);
    let b = replica(&dir.path("b"), &node.primary.endpoint());
    caught_up(&b, node.end());
    assert_equal(&node.store, &b.store().unwrap());
    b.close().unwrap();
    node.close();
}

#[test]
fn a_promotion_cut_short_after_its_role_is_finished_at_the_next_start() {
    let dir = TempDir::new();
    let node = Node::open(&dir.path("p"));
    let end = node.write("one", 20);
    let a = replica(&dir.path("a"), &node.primary.endpoint());
    caught_up(&a, end);
    a.close().unwrap();
    drop(a);
    let number = node.store.log().epoch().number;
    node.close();
    let data = DataDir::open(&dir.path("a")).unwrap();
    data.set_role(esker_replication::datadir::RoleRecord {
        role: Role::Primary,
        epoch: number + 1,
    })
    .unwrap();
    drop(data);
    let promoted = Node::open(&dir.path("a"));
    assert_eq!(promoted.store.log().epoch().number, number + 1);
    let end = promoted.write("two", 20);
    assert!(promoted.store.visible() >= end);
    promoted.close();
}

#[test]
fn r3_positions_are_those_of_the_nth_most_advanced_node() {
    let dir = TempDir::new();
    let node = Node::open(&dir.path("p"));
    let end = node.write("one", 100);
    assert_eq!(node.primary.position(Ack::Durable, 1), Lsn::ZERO);
    assert_eq!(node.primary.position(Ack::Durable, 0), Lsn::MAX);
    let a = replica(&dir.path("a"), &node.primary.endpoint());
    caught_up(&a, end);
    wait_for(
        "one durable acknowledgement",
        || node.primary.position(Ack::Durable, 1) >= end,
        || format!("{:?}", node.primary.replicas()),
    );
    assert_eq!(node.primary.position(Ack::Durable, 2), Lsn::ZERO);
    let b = replica(&dir.path("b"), &node.primary.endpoint());
    caught_up(&b, end);
    wait_for(
        "two of each",
        || {
            [Ack::Received, Ack::Durable, Ack::Applied]
                .into_iter()
                .all(|ack| node.primary.position(ack, 2) >= end)
        },
        || format!("{:?}", node.primary.replicas()),
    );
    assert_eq!(node.primary.connected(), 2);
    b.close().unwrap();
    wait_for("b to go", || node.primary.connected() == 1, String::new);
    // What it acknowledged as durable stays so, and counts (PE3).
    assert_eq!(node.primary.count_at(Ack::Durable, end), 2);
    let end = node.write("two", 100);
    wait_for(
        "one more",
        || node.primary.position(Ack::Durable, 1) >= end,
        String::new,
    );
    assert!(node.primary.position(Ack::Durable, 2) < end);
    a.close().unwrap();
    node.close();
    // And it is remembered by its slot.
    let node = Node::open(&dir.path("p"));
    assert_eq!(node.primary.replicas().len(), 2);
    assert!(node.primary.position(Ack::Durable, 2) > Lsn::ZERO);
    node.close();
}

/// A replica by hand: says what the test wants it to say.
struct Puppet {
    socket: zmq::Socket,
    session: u64,
}

impl Puppet {
    fn connect(context: &zmq::Context, endpoint: &str) -> Puppet {
        let socket = context.socket(zmq::DEALER).unwrap();
        socket.set_linger(0).unwrap();
        socket.set_rcvtimeo(300).unwrap();
        socket.connect(endpoint).unwrap();
        Puppet {
            socket,
            session: 99,
        }
    }
    fn say(&self, message: &Message<'_>) {
        self.socket
            .send(protocol::encode(self.session, message), 0)
            .unwrap();
    }
    fn hello(&self, node: &Node, node_id: u128) {
        self.say(&Message::Hello(Hello {
            protocols: (1, 1),
            log: Some(node.store.log().log_id()),
            node: NodeId(node_id),
            end: Lsn::ZERO,
            chain: node.store.log().chain_at(Lsn::ZERO).unwrap_or_default(),
            name: format!("puppet{node_id}"),
            epochs: vec![],
        }));
    }
    /// End of the frames that came: all that the credit allows up to `last`, and nothing for a while after.
    fn drain(&self, from: Lsn, granted: Lsn, last: Lsn) -> Lsn {
        let mut end = from;
        let mut deadline = Instant::now() + Duration::from_secs(20);
        let mut enough = false;
        while Instant::now() < deadline {
            if !enough && end >= granted.min(last) {
                enough = true;
                deadline = Instant::now() + Duration::from_millis(300);
            }
            let Ok(bytes) = self.socket.recv_bytes(0) else {
                continue;
            };
            if let Ok((99, Message::Frames { first, frames, .. })) = protocol::decode(&bytes) {
                assert_eq!(first, end, "no gap, no reorder");
                for frame in FrameIter::new(first, frames) {
                    let frame = frame.unwrap();
                    assert!(frame.header.lsn < granted, "beyond the credit");
                    end = frame.header.end();
                }
            }
        }
        end
    }
    fn ack(&self, at: Lsn, granted: Lsn) {
        self.say(&Message::Ack(protocol::Ack {
            received: at,
            durable: at,
            applied: at,
            granted,
        }));
    }
}

#[test]
fn r2_a_slow_replica_is_held_by_credit_and_does_not_slow_another() {
    let dir = TempDir::new();
    let node = Node::open_with(&dir.path("p"), "tcp://127.0.0.1:*", store_options(), |o| {
        // The puppet says little, and is not dead for that.
        o.timing.dead_after = Duration::from_secs(60);
    });
    let context = zmq::Context::new();
    let slow = Puppet::connect(&context, &node.primary.endpoint());
    slow.hello(&node, 5);
    let fast = replica(&dir.path("r"), &node.primary.endpoint());
    let end = node.write("much", 3000);
    caught_up(&fast, end);
    assert_eq!(
        slow.drain(Lsn::ZERO, Lsn::ZERO, end),
        Lsn::ZERO,
        "no credit, no frames"
    );
    let mut at = Lsn::ZERO;
    for step in [4096, 8192, 100_000] {
        let granted = Lsn(at.0 + step);
        slow.ack(at, granted);
        at = slow.drain(at, granted, end);
        assert!(
            at >= granted.min(end),
            "credit is used up: {at} of {granted}"
        );
    }
    let known = node.primary.replicas();
    let slow_status = known.iter().find(|r| r.node == NodeId(5)).unwrap();
    assert!(slow_status.connected && slow_status.received < end);
    // Its slot keeps what it still needs.
    assert!(node.store.log().oldest() <= slow_status.durable);
    fast.close().unwrap();
    node.close();
}

#[test]
fn an_acknowledgement_beyond_what_was_sent_ends_the_session_and_counts_nothing() {
    let dir = TempDir::new();
    let node = Node::open(&dir.path("p"));
    let end = node.write("one", 100);
    let context = zmq::Context::new();
    let liar = Puppet::connect(&context, &node.primary.endpoint());
    liar.hello(&node, 6);
    liar.ack(end, end);
    liar.drain(Lsn::ZERO, Lsn::ZERO, end);
    assert_eq!(node.primary.position(Ack::Durable, 1), Lsn::ZERO);
    assert_eq!(node.primary.connected(), 0);
    node.close();
}

#[test]
fn a_replica_that_falls_silent_is_taken_for_dead() {
    let dir = TempDir::new();
    let node = Node::open(&dir.path("p"));
    let context = zmq::Context::new();
    let puppet = Puppet::connect(&context, &node.primary.endpoint());
    puppet.hello(&node, 7);
    wait_for(
        "it to follow",
        || node.primary.connected() == 1,
        String::new,
    );
    wait_for(
        "it to be dead",
        || node.primary.connected() == 0,
        String::new,
    );
    node.close();
}

#[test]
fn frames_published_and_not_synced_by_anybody_reach_a_waiting_replica_soon() {
    let dir = TempDir::new();
    let mut options = store_options();
    options.log.sync_policy = esker_wal::SyncPolicy::Interval(Duration::from_secs(3600));
    let node = Node::open_with(&dir.path("p"), "tcp://127.0.0.1:*", options, |_| {});
    let end = node.write("one", 10);
    let replica = replica(&dir.path("r"), &node.primary.endpoint());
    caught_up(&replica, end);
    let mut batch = esker_lsm::WriteBatch::new();
    batch.put(b"lone", b"write");
    let begun = Instant::now();
    let end = node.store.write(&batch).unwrap().end;
    caught_up(&replica, end);
    assert!(begun.elapsed() < Duration::from_secs(5));
    replica.close().unwrap();
    node.close();
}

#[test]
fn the_expiry_clock_and_the_safe_position_reach_the_replica() {
    let dir = TempDir::new();
    let node = Node::open_with(&dir.path("p"), "tcp://127.0.0.1:*", store_options(), |o| {
        o.expiry_clock = Some(std::sync::Arc::new(|| 1_234_567_890_123));
    });
    let end = node.write("one", 10);
    let heard = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
    let listener = heard.clone();
    let replica = replica_with(&dir.path("r"), &node.primary.endpoint(), |o| {
        o.expiry_listener = Some(std::sync::Arc::new(move |ms| {
            listener.store(ms, std::sync::atomic::Ordering::Relaxed);
        }));
    });
    caught_up(&replica, end);
    wait_for(
        "what is synced to count as safe",
        || replica.status().primary_safe == end,
        String::new,
    );
    assert_eq!(
        heard.load(std::sync::atomic::Ordering::Relaxed),
        1_234_567_890_123
    );
    node.primary.set_safe(Lsn(8));
    wait_for(
        "the safe position",
        || replica.status().primary_safe == Lsn(8),
        String::new,
    );
    replica.close().unwrap();
    node.close();
}
