//! R6: who may connect is decided by keys.

mod common;

use common::*;
use esker_replication::transport::new_keys;
use esker_replication::{FollowState, PrimaryKeys, ReplicaKeys};
use std::time::Duration;

#[test]
fn r6_with_keys_the_listed_replica_follows_and_others_are_never_heard() {
    let dir = TempDir::new();
    let (primary_public, primary_secret) = new_keys().unwrap();
    let (public, secret) = new_keys().unwrap();
    let node = Node::open_with(&dir.path("p"), "tcp://127.0.0.1:*", store_options(), |o| {
        o.keys = Some(PrimaryKeys {
            secret: primary_secret,
            replicas: vec![public.clone()],
        });
    });
    let end = node.write("one", 100);
    let endpoint = node.primary.endpoint();
    let keys = ReplicaKeys {
        public,
        secret,
        primary: primary_public.clone(),
    };
    assert_eq!(format!("{keys:?}"), "ReplicaKeys { .. }");
    let listed = replica_with(&dir.path("listed"), &endpoint, |o| o.keys = Some(keys));
    caught_up(&listed, end);

    let (public, secret) = new_keys().unwrap();
    let stranger = replica_with(&dir.path("stranger"), &endpoint, |o| {
        o.keys = Some(ReplicaKeys {
            public,
            secret,
            primary: primary_public,
        });
    });
    let plain = replica(&dir.path("plain"), &endpoint);
    std::thread::sleep(Duration::from_millis(800));
    for outsider in [&stranger, &plain] {
        assert_ne!(outsider.status().state, FollowState::Following);
        assert!(outsider.store().is_none());
    }
    assert_eq!(node.primary.replicas().len(), 1);
    let end = node.write("two", 100);
    caught_up(&listed, end);
    for replica in [listed, stranger, plain] {
        replica.close().unwrap();
    }
    node.close();
}
