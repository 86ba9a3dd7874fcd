//! Primaries and replicas in temporary directories, with short deadlines.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]

use esker_lsm::{Store, StoreOptions, WriteBatch};
use esker_replication::datadir::{DataDir, Role, RoleRecord};
use esker_replication::{FollowState, Primary, PrimaryOptions, Replica, ReplicaOptions, Timing};
use esker_wal::{Create, LogId, Lsn, OpenRole};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("esker-repl-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        TempDir(dir)
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn timing() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(50),
        dead_after: Duration::from_millis(1500),
        reconnect_min: Duration::from_millis(20),
        reconnect_max: Duration::from_millis(200),
    }
}

pub fn store_options() -> StoreOptions {
    let mut options = StoreOptions {
        memtable_bytes: 1 << 20,
        cache_bytes: 4 << 20,
        ..StoreOptions::default()
    };
    options.log.segment_bytes = 256 << 10;
    options.log.payload_bytes_max = 128 << 10;
    options.log.keep_bytes = 1 << 40;
    options
}

/// A primary with its data directory and store.
pub struct Node {
    pub data: Arc<DataDir>,
    pub store: Store,
    pub primary: Primary,
}

impl Node {
    pub fn open(dir: &Path) -> Node {
        Self::open_at(dir, "tcp://127.0.0.1:*")
    }

    pub fn open_at(dir: &Path, listen: &str) -> Node {
        Self::open_with(dir, listen, store_options(), |_| {})
    }

    pub fn open_with(
        dir: &Path,
        listen: &str,
        mut options: StoreOptions,
        change: impl FnOnce(&mut PrimaryOptions),
    ) -> Node {
        let data = Arc::new(DataDir::open(dir).unwrap());
        options.log.role = OpenRole::Writer;
        if !data.has_store().unwrap() {
            options.log.create = Some(Create {
                log: LogId::random(),
                node: data.node(),
                base: Lsn::ZERO,
            });
        }
        let (store, _) = Store::open(dir, options).unwrap();
        if data.role().is_none() {
            data.set_role(RoleRecord {
                role: Role::Primary,
                epoch: 0,
            })
            .unwrap();
        }
        esker_replication::resume_promotion(&data, &store).unwrap();
        let mut options = PrimaryOptions::new(store.clone());
        options.listen = listen.into();
        options.timing = timing();
        change(&mut options);
        let primary = Primary::start(options).unwrap();
        Node {
            data,
            store,
            primary,
        }
    }

    /// Writes `keys` keys, each synced with the last.
    pub fn write(&self, prefix: &str, keys: usize) -> Lsn {
        write(&self.store, prefix, keys)
    }

    pub fn end(&self) -> Lsn {
        self.store.log().published()
    }

    pub fn close(self) {
        self.primary.close();
        self.store.close().unwrap();
    }
}

pub fn write(store: &Store, prefix: &str, keys: usize) -> Lsn {
    let mut end = Lsn::ZERO;
    let mut batch = WriteBatch::new();
    for n in 0..keys {
        batch.clear();
        let value = format!("value of {prefix}{n} ").repeat(1 + n % 7);
        batch.put(format!("{prefix}{n:06}").as_bytes(), value.as_bytes());
        end = store.write(&batch).unwrap().end;
    }
    store.log().sync_up_to(end).unwrap();
    end
}

pub fn replica(dir: &Path, endpoint: &str) -> Replica {
    replica_with(dir, endpoint, |_| {})
}

pub fn replica_with(
    dir: &Path,
    endpoint: &str,
    change: impl FnOnce(&mut ReplicaOptions),
) -> Replica {
    let data = Arc::new(DataDir::open(dir).unwrap());
    let mut options = ReplicaOptions::new(data, endpoint);
    options.store = store_options();
    options.timing = timing();
    change(&mut options);
    Replica::start(options).unwrap()
}

/// Waits until `done`, or fails with `what` and what `state` says.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool, state: impl Fn() -> String) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "waited for {what}; {}", state());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a replica has everything below `end` applied and durable.
pub fn caught_up(replica: &Replica, end: Lsn) {
    wait_for(
        "the replica to catch up",
        || {
            let status = replica.status();
            status.applied >= end && status.durable >= end
        },
        || format!("{end}: {:?}", replica.status()),
    );
}

pub fn refused(replica: &Replica) -> esker_replication::Refusal {
    wait_for(
        "a refusal",
        || matches!(replica.status().state, FollowState::Refused(_)),
        || format!("{:?}", replica.status()),
    );
    match replica.status().state {
        FollowState::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

/// Both hold the same keys, and logs that are the same bytes (R1).
pub fn assert_equal(a: &Store, b: &Store) {
    let end = a.log().published();
    assert_eq!(end, b.log().published());
    assert_eq!(
        a.log().chain_at(end).unwrap(),
        b.log().chain_at(end).unwrap()
    );
    assert_eq!(a.log().epochs(), b.log().epochs());
    assert_eq!(a.log().log_id(), b.log().log_id());
    assert_ne!(a.log().node_id(), b.log().node_id());
    let all = |store: &Store| -> Vec<_> {
        let snapshot = store.snapshot();
        store
            .scan(&snapshot, Bound::Unbounded, Bound::Unbounded)
            .unwrap()
            .map(|e| e.map(|e| (e.key, e.value, e.seqno)).unwrap())
            .collect()
    };
    let (left, right) = (all(a), all(b));
    assert_eq!(left.len(), right.len());
    assert!(left == right, "the stores differ");
}

/// Copies a data directory as a crash would leave it: what is there now, without locks.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
