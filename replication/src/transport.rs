//! What both sides need of ZeroMQ: which library it is, sockets with every limit set, keys, and a bell
//! that wakes the thread that owns them.
//!
//! - T1: a socket belongs to the thread that uses it; it is made before that thread starts and moved
//!   into it. Other threads ring the `Waker`, which is polled beside the sockets.
//! - T2: every socket has a bound for the size of a message, for lingering, for connecting and for the
//!   handshake; none waits for ever.
//! - T3: without keys nothing listens beyond loopback unless it was said explicitly (R6).

use crate::error::ReplicationError;
use crate::options::{PrimaryKeys, ReplicaKeys, Timing};
use esker_wal::Watcher;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The libzmq this process runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZmqVersion {
    /// Major, minor, patch.
    pub version: (i32, i32, i32),
    /// Whether it was built with CURVE, without which keys can't be used (R6).
    pub curve: bool,
}

impl std::fmt::Display for ZmqVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor, patch) = self.version;
        let curve = if self.curve { "with" } else { "without" };
        write!(f, "libzmq {major}.{minor}.{patch}, {curve} CURVE")
    }
}

/// Asks the library that is linked.
#[must_use]
pub fn zmq_version() -> ZmqVersion {
    ZmqVersion {
        version: zmq::version(),
        curve: zmq::has("curve").unwrap_or(false),
    }
}

/// A bell that a poll can wait for: an eventfd.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(crate) fn new() -> Result<Waker, ReplicationError> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| {
            ReplicationError::Io {
                doing: "making an eventfd",
                source: e.into(),
            }
        })?;
        Ok(Waker(Arc::new(fd)))
    }

    /// Wakes the owner of the sockets. Never blocks: a full counter has woken it already.
    pub(crate) fn ring(&self) {
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Takes all rings so far.
    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0u8; 8]);
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A random number: names a session, spreads retries. Needs no secrecy, so the clock will do where the
/// system has no randomness to give.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |d| d.as_nanos() as u64)
    })
}

/// A random number from 0 to 1.
pub(crate) fn random_unit() -> f64 {
    (random() >> 11) as f64 / (1u64 << 53) as f64
}

/// Who wants to be called when something moved.
#[derive(Default)]
pub(crate) struct Watchers(Mutex<WatcherList>);

#[derive(Default)]
struct WatcherList {
    next: u64,
    list: Vec<(u64, Watcher)>,
}

impl std::fmt::Debug for Watchers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watchers({})", self.0.lock().list.len())
    }
}

impl Watchers {
    pub(crate) fn add(self: &Arc<Self>, watcher: Watcher) -> WatcherGuard {
        let mut list = self.0.lock();
        list.next += 1;
        let id = list.next;
        list.list.push((id, watcher));
        WatcherGuard {
            id,
            watchers: Arc::downgrade(self),
        }
    }

    /// Calls all, without the lock.
    pub(crate) fn call(&self) {
        let list: Vec<Watcher> = self.0.lock().list.iter().map(|(_, w)| w.clone()).collect();
        for watcher in list {
            watcher();
        }
    }
}

/// Takes its watcher off the list when dropped.
#[derive(Debug)]
pub(crate) struct WatcherGuard {
    id: u64,
    watchers: Weak<Watchers>,
}

impl Drop for WatcherGuard {
    fn drop(&mut self) {
        if let Some(watchers) = self.watchers.upgrade() {
            watchers.0.lock().list.retain(|(id, _)| *id != self.id);
        }
    }
}

/// Looks at an endpoint before the library does: `tcp://HOST:PORT`, and whether HOST is loopback.
pub(crate) fn check_endpoint(endpoint: &str) -> Result<Endpoint, ReplicationError> {
    let bad = |why: &str| ReplicationError::Endpoint {
        endpoint: endpoint.to_string(),
        why: why.to_string(),
    };
    let rest = endpoint
        .strip_prefix("tcp://")
        .ok_or_else(|| bad("an endpoint is written tcp://ADDRESS:PORT"))?;
    let (host, port) = rest
        .rsplit_once(':')
        .ok_or_else(|| bad("the port is missing; an endpoint is written tcp://ADDRESS:PORT"))?;
    if port != "*" && port.parse::<u16>().is_err() {
        return Err(bad("the port is not a number from 0 to 65535"));
    }
    if host.is_empty() {
        return Err(bad("the address is missing"));
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>().ok();
    Ok(Endpoint {
        loopback: address.map_or(host == "localhost", |a| a.is_loopback()),
        ipv6: address.is_some_and(|a| a.is_ipv6()),
    })
}

/// What matters of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) loopback: bool,
    pub(crate) ipv6: bool,
}

/// How long a closed socket may go on sending its goodbye.
const LINGER: Duration = Duration::from_millis(100);

fn ms(d: Duration) -> i32 {
    i32::try_from(d.as_millis()).unwrap_or(i32::MAX)
}

fn doing(doing: &'static str) -> impl Fn(zmq::Error) -> ReplicationError {
    move |source| ReplicationError::Zmq { doing, source }
}

/// Sets what every socket has (T2).
fn set_common(socket: &zmq::Socket, message_bytes_max: usize, timing: &Timing) -> zmq::Result<()> {
    socket.set_linger(ms(LINGER))?;
    socket.set_immediate(true)?;
    socket.set_maxmsgsize(message_bytes_max as i64)?;
    socket.set_handshake_ivl(ms(timing.dead_after))?;
    socket.set_connect_timeout(ms(timing.dead_after))?;
    // The library's own heartbeat closes a dead connection, and frees what is queued for it.
    socket.set_heartbeat_ivl(ms(timing.heartbeat))?;
    socket.set_heartbeat_timeout(ms(timing.dead_after))?;
    socket.set_heartbeat_ttl(ms(timing.dead_after))?;
    socket.set_tcp_keepalive(1)?;
    socket.set_tcp_keepalive_idle(30)?;
    socket.set_tcp_keepalive_intvl(10)?;
    socket.set_tcp_keepalive_cnt(3)
}

/// A bound ROUTER, its endpoint with the real port, and with keys the socket that is asked who may connect.
pub(crate) struct Listening {
    pub(crate) router: zmq::Socket,
    pub(crate) zap: Option<zmq::Socket>,
    pub(crate) endpoint: String,
}

/// Makes the primary's sockets.
pub(crate) fn listen(
    context: &zmq::Context,
    endpoint: &str,
    allow_remote_plaintext: bool,
    keys: Option<&PrimaryKeys>,
    timing: &Timing,
) -> Result<Listening, ReplicationError> {
    let parsed = check_endpoint(endpoint)?;
    if keys.is_none() && !parsed.loopback && !allow_remote_plaintext {
        return Err(ReplicationError::PlaintextBeyondLoopback {
            endpoint: endpoint.to_string(),
        });
    }
    let router = context
        .socket(zmq::ROUTER)
        .map_err(doing("making a socket"))?;
    let mut zap = None;
    if let Some(keys) = keys {
        need_curve()?;
        let secret = key("the primary's secret key", &keys.secret)?;
        for replica in &keys.replicas {
            key("a replica's public key", replica)?;
        }
        // Bound first: the library asks nobody, and lets everybody in, where no such socket is.
        let socket = context.socket(zmq::REP).map_err(doing("making a socket"))?;
        socket
            .set_linger(0)
            .and_then(|()| socket.bind("inproc://zeromq.zap.01"))
            .map_err(doing("binding the authenticator"))?;
        zap = Some(socket);
        router
            .set_zap_domain("esker")
            .and_then(|()| router.set_curve_server(true))
            .and_then(|()| router.set_curve_secretkey(&secret))
            .map_err(doing("setting the primary's key"))?;
    }
    set_common(&router, crate::protocol::REPLICA_MESSAGE_BYTES_MAX, timing)
        .and_then(|()| router.set_router_mandatory(true))
        .and_then(|()| router.set_ipv6(parsed.ipv6))
        // Replicas speak little; what they may have queued here is this many small messages each.
        .and_then(|()| router.set_rcvhwm(64))
        .map_err(doing("setting socket options"))?;
    router.bind(endpoint).map_err(|source| match source {
        zmq::Error::EADDRINUSE => ReplicationError::Endpoint {
            endpoint: endpoint.to_string(),
            why: "another process listens there; stop it or choose another port".into(),
        },
        zmq::Error::EADDRNOTAVAIL | zmq::Error::ENODEV | zmq::Error::EACCES => {
            ReplicationError::Endpoint {
                endpoint: endpoint.to_string(),
                why: format!("can't listen there: {source}"),
            }
        }
        source => ReplicationError::Zmq {
            doing: "binding the replication port",
            source,
        },
    })?;
    let endpoint = match router.get_last_endpoint() {
        Ok(Ok(bound)) => bound,
        _ => endpoint.to_string(),
    };
    Ok(Listening {
        router,
        zap,
        endpoint,
    })
}

/// Looks at what [`connect`] will be given, before anything is made.
pub(crate) fn check_connect(
    endpoint: &str,
    keys: Option<&ReplicaKeys>,
) -> Result<(), ReplicationError> {
    check_endpoint(endpoint)?;
    if let Some(keys) = keys {
        need_curve()?;
        key("the primary's public key", &keys.primary)?;
        key("the replica's public key", &keys.public)?;
        key("the replica's secret key", &keys.secret)?;
    }
    Ok(())
}

/// Makes the replica's socket and starts connecting. `jitter` is from 0 to 1.
pub(crate) fn connect(
    context: &zmq::Context,
    endpoint: &str,
    keys: Option<&ReplicaKeys>,
    timing: &Timing,
    jitter: f64,
) -> Result<zmq::Socket, ReplicationError> {
    let parsed = check_endpoint(endpoint)?;
    let socket = context
        .socket(zmq::DEALER)
        .map_err(doing("making a socket"))?;
    if let Some(keys) = keys {
        need_curve()?;
        let primary = key("the primary's public key", &keys.primary)?;
        let public = key("the replica's public key", &keys.public)?;
        let secret = key("the replica's secret key", &keys.secret)?;
        socket
            .set_curve_serverkey(&primary)
            .and_then(|()| socket.set_curve_publickey(&public))
            .and_then(|()| socket.set_curve_secretkey(&secret))
            .map_err(doing("setting the replica's keys"))?;
    }
    // The library doubles its pause by itself; jitter comes from where each socket starts and ends.
    let stretched = |d: Duration| ms(d.mul_f64(0.75 + 0.5 * jitter)).max(1);
    set_common(&socket, crate::protocol::PRIMARY_MESSAGE_BYTES_MAX, timing)
        .and_then(|()| socket.set_ipv6(parsed.ipv6))
        .and_then(|()| socket.set_reconnect_ivl(stretched(timing.reconnect_min)))
        .and_then(|()| socket.set_reconnect_ivl_max(stretched(timing.reconnect_max)))
        .map_err(doing("setting socket options"))?;
    socket
        .connect(endpoint)
        .map_err(|source| ReplicationError::Endpoint {
            endpoint: endpoint.to_string(),
            why: format!("can't connect there: {source}"),
        })?;
    Ok(socket)
}

fn need_curve() -> Result<(), ReplicationError> {
    let library = zmq_version();
    if library.curve {
        return Ok(());
    }
    let (major, minor, patch) = library.version;
    Err(ReplicationError::NoCurve {
        version: format!("{major}.{minor}.{patch}"),
    })
}

fn key(which: &'static str, text: &str) -> Result<Vec<u8>, ReplicationError> {
    if text.len() != 40 {
        return Err(ReplicationError::Key {
            which,
            why: "it has 40 characters in Z85",
        });
    }
    zmq::z85_decode(text).map_err(|_| ReplicationError::Key {
        which,
        why: "it is not in Z85",
    })
}

/// Makes a pair of keys, public and secret, in Z85.
pub fn new_keys() -> Result<(String, String), ReplicationError> {
    need_curve()?;
    let pair = zmq::CurveKeyPair::new().map_err(doing("making a key pair"))?;
    let text = |key: &[u8]| zmq::z85_encode(key).expect("32 bytes are a multiple of 4");
    Ok((text(&pair.public_key), text(&pair.secret_key)))
}

/// Answers the library's questions who may connect: those whose key is listed.
pub(crate) fn answer_zap(socket: &zmq::Socket, allowed: &[String]) {
    while let Ok(request) = socket.recv_multipart(zmq::DONTWAIT) {
        // version, request id, domain, address, identity, mechanism, credentials
        let id = request.get(1).cloned().unwrap_or_default();
        let known = request.len() == 7
            && request[5] == b"CURVE"
            && zmq::z85_encode(&request[6]).is_ok_and(|key| allowed.contains(&key));
        let (code, text): (&[u8], &[u8]) = if known {
            (b"200", b"OK")
        } else {
            (b"400", b"key is not listed")
        };
        if !known {
            let address = request
                .get(3)
                .map(|a| String::from_utf8_lossy(a).into_owned());
            tracing::warn!(?address, "a replica with an unknown key was turned away");
        }
        let _ = socket.send_multipart([b"1.0", id.as_slice(), code, text, b"", b""], zmq::DONTWAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_looked_at_before_the_library_sees_them() {
        for (endpoint, loopback) in [
            ("tcp://127.0.0.1:5560", true),
            ("tcp://localhost:*", true),
            ("tcp://[::1]:5560", true),
            ("tcp://0.0.0.0:5560", false),
            ("tcp://*:5560", false),
            ("tcp://10.0.0.7:5560", false),
            ("tcp://db.example.org:5560", false),
        ] {
            assert_eq!(
                check_endpoint(endpoint).unwrap().loopback,
                loopback,
                "{endpoint}"
            );
        }
        for endpoint in [
            "127.0.0.1:5560",
            "tcp://127.0.0.1",
            "tcp://:1",
            "tcp://a:99999",
            "",
        ] {
            assert!(check_endpoint(endpoint).is_err(), "{endpoint}");
        }
    }

    #[test]
    fn r6_without_keys_nothing_listens_beyond_loopback_unless_told() {
        let context = zmq::Context::new();
        let timing = Timing::default();
        let listen = |explicit| listen(&context, "tcp://0.0.0.0:*", explicit, None, &timing);
        assert!(matches!(
            listen(false),
            Err(ReplicationError::PlaintextBeyondLoopback { .. })
        ));
        assert!(listen(true).is_ok());
    }

    #[test]
    fn keys_that_are_none_are_named() {
        let context = zmq::Context::new();
        let keys = PrimaryKeys {
            secret: "short".into(),
            replicas: vec![],
        };
        let error = listen(
            &context,
            "tcp://127.0.0.1:*",
            false,
            Some(&keys),
            &Timing::default(),
        )
        .err()
        .unwrap();
        assert!(
            error
                .to_string()
                .starts_with("the primary's secret key is not")
        );
    }
}
