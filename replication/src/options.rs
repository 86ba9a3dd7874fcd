//! Options of both sides.

use esker_lsm::{Store, StoreOptions};
use std::sync::Arc;
use std::time::Duration;

use crate::datadir::DataDir;

/// How often the sides speak, and when one takes the other for dead.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Something is said at least this often. Default 500 ms.
    pub heartbeat: Duration,
    /// A side that was silent this long is dead. Several heartbeats. Default 5 s.
    pub dead_after: Duration,
    /// First pause before a replica tries again; doubles up to `reconnect_max`, with jitter. Default 100 ms.
    pub reconnect_min: Duration,
    /// Longest pause before a replica tries again. Default 5 s.
    pub reconnect_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            heartbeat: Duration::from_millis(500),
            dead_after: Duration::from_secs(5),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(5),
        }
    }
}

/// Keys of a primary (CURVE, R6). Keys are in Z85, 40 characters.
#[derive(Clone)]
pub struct PrimaryKeys {
    /// Its secret key.
    pub secret: String,
    /// Public keys of the replicas that may connect.
    pub replicas: Vec<String>,
}

/// Keys of a replica (CURVE, R6). Keys are in Z85, 40 characters.
#[derive(Clone)]
pub struct ReplicaKeys {
    /// Its public key, which the primary must list.
    pub public: String,
    /// Its secret key.
    pub secret: String,
    /// Public key of the primary.
    pub primary: String,
}

macro_rules! hide {
    ($($name:ident)*) => {
        $(impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                // Secrets stay out of logs.
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        })*
    };
}
hide! { PrimaryKeys ReplicaKeys PrimaryOptions ReplicaOptions }

/// Gives the primary's expiry clock, in milliseconds since 1970.
pub type ExpiryClock = Arc<dyn Fn() -> i64 + Send + Sync>;
/// Told the primary's expiry clock. Runs on a replication thread: it must not block.
pub type ExpiryListener = Arc<dyn Fn(i64) + Send + Sync>;

/// Options of [`crate::Primary::start`].
#[derive(Clone)]
pub struct PrimaryOptions {
    /// Where to listen: `tcp://ADDRESS:PORT`; port `*` takes a free one. Default `tcp://127.0.0.1:5560`.
    pub listen: String,
    /// Listen beyond loopback without keys (R6). Default: no.
    pub allow_remote_plaintext: bool,
    /// Keys; `None` talks in the clear. Default: none.
    pub keys: Option<PrimaryKeys>,
    /// The store whose log is streamed.
    pub store: Store,
    /// Replicas accepted, and slots kept. Default 16.
    pub replicas_max: usize,
    /// Somebody always waits for durable acknowledgements: replicas sync at once. Default: no.
    pub sync_now: bool,
    /// The expiry clock to send along; zero says nothing. Default: zero.
    pub expiry_clock: Option<ExpiryClock>,
    /// Heartbeats and deadlines.
    pub timing: Timing,
}

impl PrimaryOptions {
    /// Defaults, for `store`.
    #[must_use]
    pub fn new(store: Store) -> PrimaryOptions {
        PrimaryOptions {
            listen: "tcp://127.0.0.1:5560".into(),
            allow_remote_plaintext: false,
            keys: None,
            store,
            replicas_max: 16,
            sync_now: false,
            expiry_clock: None,
            timing: Timing::default(),
        }
    }
}

/// Options of [`crate::Replica::start`].
#[derive(Clone)]
pub struct ReplicaOptions {
    /// The data directory; the store is opened in it, or made in it once a primary said whose it is.
    pub data: Arc<DataDir>,
    /// The primary: `tcp://ADDRESS:PORT`.
    pub primary: String,
    /// Label of this node, at most 64 bytes; empty: the node id's first 8 digits.
    pub name: String,
    /// Keys; `None` talks in the clear. Default: none.
    pub keys: Option<ReplicaKeys>,
    /// Options of the store; log role, identity and creation are set by the replica.
    pub store: StoreOptions,
    /// Bytes of log on their way or not yet applied: the credit. More hides longer round trips and costs
    /// memory. Default 16 MiB.
    pub window_bytes: u64,
    /// Told the primary's expiry clock whenever it was heard.
    pub expiry_listener: Option<ExpiryListener>,
    /// Heartbeats and deadlines.
    pub timing: Timing,
}

impl ReplicaOptions {
    /// Defaults, for a directory and a primary.
    #[must_use]
    pub fn new(data: Arc<DataDir>, primary: &str) -> ReplicaOptions {
        ReplicaOptions {
            data,
            primary: primary.into(),
            name: String::new(),
            keys: None,
            store: StoreOptions::default(),
            window_bytes: 16 << 20,
            expiry_listener: None,
            timing: Timing::default(),
        }
    }
}
