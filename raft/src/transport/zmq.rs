//! Members over ZeroMQ.
//!
//! Each node listens on one ROUTER and has one DEALER for each member that it knows. It speaks on its own connection to a member; to one
//! whose address it does not know, or that can't be reached there yet, on the connection on which it was last heard.
//!
//! - ZM1: the sockets belong to one thread; others hand packets over and ring its bell.
//! - ZM2: nothing is queued for a member that is not connected: what can't be sent now is lost (TR1). Queues have bounds in packets
//!   and bytes, sockets a bound for the size of a message.
//! - ZM3 (R6): with keys every connection is CURVE, and a packet counts only when the key of its connection is that of the node that
//!   it names. Without keys nothing listens beyond loopback unless that was said explicitly.

use super::{Inbound, Packet, Sender, Transport, check_endpoint, failed, wire};
use crate::core::NodeId;
use crate::runtime::StartError;
use bytes::Bytes;
use crossbeam_channel::{Receiver, TrySendError, bounded};
use esker_sync::workers::Workers;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Packets that wait for the sockets' thread, at most.
const QUEUE_MAX: usize = 16_384;
/// Packets read or sent before the other side gets its turn.
const TURN_MAX: usize = 1024;
/// How long a closed socket may go on sending.
const LINGER_MS: i32 = 100;
/// How often the thread looks around though nothing happens.
const IDLE_MS: i64 = 500;
/// Nodes whose connections are remembered.
const HEARD_MAX: usize = 1024;

/// Keys of a node (CURVE), in Z85, 40 characters each.
#[derive(Clone)]
pub struct Keys {
    /// Its own.
    pub public: String,
    /// Its own.
    pub secret: String,
    /// The public keys of all members, this one's too; who joins later must be here already. Nobody else is let in.
    pub members: BTreeMap<NodeId, String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("public", &self.public)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

/// Options of the transport.
#[derive(Clone, Debug)]
pub struct ZmqOptions {
    /// Where to listen: `tcp://ADDRESS:PORT`; port `*` takes a free one.
    pub listen: String,
    /// Keys; without them nothing is encrypted, and anybody who reaches the port can speak.
    pub keys: Option<Keys>,
    /// Listen beyond loopback without keys.
    pub allow_remote_plaintext: bool,
    /// Longest message, in bytes; more than the longest command and `append_bytes_max`. Default 64 MiB.
    pub message_bytes_max: usize,
    /// Bytes that wait for the sockets' thread, at most. Default 128 MiB.
    pub queue_bytes_max: usize,
    /// A connection that is silent for so long is closed and made anew. Default 3 s.
    pub dead_after: Duration,
    /// First pause before a lost connection is tried again; doubles up to `reconnect_max`. Default 50 ms.
    pub reconnect_min: Duration,
    /// See above. Default 1 s.
    pub reconnect_max: Duration,
}

impl ZmqOptions {
    /// With defaults.
    #[must_use]
    pub fn new(listen: &str) -> ZmqOptions {
        ZmqOptions {
            listen: listen.to_owned(),
            keys: None,
            allow_remote_plaintext: false,
            message_bytes_max: 64 << 20,
            queue_bytes_max: 128 << 20,
            dead_after: Duration::from_secs(3),
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(1),
        }
    }
}

fn zmq_failed(doing: &'static str) -> impl Fn(zmq::Error) -> StartError {
    move |error| failed(doing, error)
}

fn key(which: &'static str, text: &str) -> Result<Vec<u8>, StartError> {
    match text.len() {
        40 => zmq::z85_decode(text)
            .map_err(|_| failed("reading a key", format!("{which} is not in Z85"))),
        _ => Err(failed(
            "reading a key",
            format!("{which} has to have 40 characters in Z85"),
        )),
    }
}

/// Makes a pair of keys, public and secret, in Z85.
pub fn new_keys() -> Result<(String, String), StartError> {
    let pair = zmq::CurveKeyPair::new().map_err(zmq_failed("making keys"))?;
    let text = |key: &[u8]| zmq::z85_encode(key).map_err(|e| failed("making keys", e));
    Ok((text(&pair.public_key)?, text(&pair.secret_key)?))
}

fn set_common(socket: &zmq::Socket, options: &ZmqOptions) -> zmq::Result<()> {
    let ms = |d: Duration| i32::try_from(d.as_millis()).unwrap_or(i32::MAX).max(1);
    socket.set_linger(LINGER_MS)?;
    socket.set_immediate(true)?;
    socket.set_maxmsgsize(i64::try_from(options.message_bytes_max).unwrap_or(i64::MAX))?;
    socket.set_handshake_ivl(ms(options.dead_after))?;
    socket.set_connect_timeout(ms(options.dead_after))?;
    socket.set_heartbeat_ivl(ms(options.dead_after / 3))?;
    socket.set_heartbeat_timeout(ms(options.dead_after))?;
    socket.set_heartbeat_ttl(ms(options.dead_after))?;
    socket.set_reconnect_ivl(ms(options.reconnect_min))?;
    socket.set_reconnect_ivl_max(ms(options.reconnect_max))?;
    socket.set_tcp_keepalive(1)
}

/// Listens already; delivers once it is [started](ZmqListener::start).
pub struct ZmqListener {
    context: zmq::Context,
    router: zmq::Socket,
    zap: Option<zmq::Socket>,
    endpoint: String,
    options: ZmqOptions,
}

impl std::fmt::Debug for ZmqListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ZmqListener({})", self.endpoint)
    }
}

impl ZmqListener {
    /// Takes the port.
    pub fn bind(options: ZmqOptions) -> Result<ZmqListener, StartError> {
        let (loopback, ipv6) = check_endpoint(&options.listen)?;
        if options.keys.is_none() && !loopback && !options.allow_remote_plaintext {
            return Err(failed(
                "listening for members",
                format!(
                    "{} is not a loopback address, and without keys anybody who reaches it could speak as a member; configure keys, listen on \
                     127.0.0.1, or allow plaintext explicitly",
                    options.listen
                ),
            ));
        }
        let context = zmq::Context::new();
        let making = zmq_failed("making a socket");
        let router = context.socket(zmq::ROUTER).map_err(&making)?;
        let mut zap = None;
        if let Some(keys) = &options.keys {
            if !zmq::has("curve").unwrap_or(false) {
                return Err(failed(
                    "using keys",
                    "the libzmq that is linked has no CURVE; build with Esker's own zmq-sys",
                ));
            }
            let secret = key("the node's secret key", &keys.secret)?;
            key("the node's public key", &keys.public)?;
            for member in keys.members.values() {
                key("a member's public key", member)?;
            }
            // Bound first: the library asks nobody, and lets everybody in, where no such socket is.
            let socket = context.socket(zmq::REP).map_err(&making)?;
            (socket.set_linger(0))
                .and_then(|()| socket.bind("inproc://zeromq.zap.01"))
                .map_err(zmq_failed("binding the authenticator"))?;
            zap = Some(socket);
            (router.set_zap_domain("esker"))
                .and_then(|()| router.set_curve_server(true))
                .and_then(|()| router.set_curve_secretkey(&secret))
                .map_err(zmq_failed("setting the node's key"))?;
        }
        set_common(&router, &options)
            .and_then(|()| router.set_ipv6(ipv6))
            .map_err(zmq_failed("setting socket options"))?;
        router.bind(&options.listen).map_err(|error| {
            failed(
                "listening for members",
                format!("{}: {error}", options.listen),
            )
        })?;
        let endpoint = match router.get_last_endpoint() {
            Ok(Ok(bound)) => bound,
            _ => options.listen.clone(),
        };
        Ok(ZmqListener {
            context,
            router,
            zap,
            endpoint,
            options,
        })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Starts the thread that owns the sockets.
    pub fn start(self, me: Sender, inbound: Inbound) -> Result<Arc<ZmqTransport>, StartError> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| failed("making an eventfd", e))?;
        let (queue, waiting) = bounded(QUEUE_MAX);
        let shared = Arc::new(Shared {
            bell,
            rung: AtomicBool::new(false),
            bytes: AtomicUsize::new(0),
            members: Mutex::new(None),
        });
        let sockets = Sockets {
            me,
            inbound,
            shared: shared.clone(),
            waiting,
            peers: BTreeMap::new(),
            heard: BTreeMap::new(),
            listener: self,
        };
        let options = &sockets.listener.options;
        let (queue_bytes_max, message_bytes_max) =
            (options.queue_bytes_max, options.message_bytes_max);
        let workers = Workers::default();
        (workers.spawn("esker-rf-net", move |stop| sockets.run(&stop)))
            .map_err(|e| failed("starting a thread", e))?;
        Ok(Arc::new(ZmqTransport {
            shared,
            queue,
            queue_bytes_max,
            message_bytes_max: message_bytes_max.min(queue_bytes_max),
            workers,
        }))
    }
}

struct Shared {
    bell: OwnedFd,
    /// The bell was rung and not heard yet: ringing again is not needed.
    rung: AtomicBool,
    /// Bytes in the queue.
    bytes: AtomicUsize,
    /// New addresses.
    members: Mutex<Option<BTreeMap<NodeId, String>>>,
}

impl Shared {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // A full counter has rung already.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    /// Before the queue is looked at: what is put there later rings again.
    fn clear(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
        self.rung.store(false, Ordering::Release);
    }
}

/// The transport of one node. See the module.
pub struct ZmqTransport {
    shared: Arc<Shared>,
    queue: crossbeam_channel::Sender<Packet>,
    queue_bytes_max: usize,
    message_bytes_max: usize,
    workers: Workers,
}

impl std::fmt::Debug for ZmqTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ZmqTransport")
    }
}

impl Transport for ZmqTransport {
    fn send(&self, packet: Packet) {
        let bytes = wire::size_hint(&packet);
        // Relaxed: a bound, not an order.
        if self.shared.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.queue_bytes_max {
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return;
        }
        match self.queue.try_send(packet) {
            Ok(()) => self.shared.ring(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
    }

    fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    fn members(&self, addresses: &BTreeMap<NodeId, String>) {
        *self.shared.members.lock() = Some(addresses.clone());
        self.shared.ring();
    }

    fn close(&self) {
        self.workers.stop_token().stop();
        self.shared.rung.store(false, Ordering::Release);
        self.shared.ring();
        if let Err(panic) = self.workers.join() {
            tracing::error!(%panic, "the transport's thread panicked");
        }
    }
}

impl Drop for ZmqTransport {
    fn drop(&mut self) {
        self.close();
    }
}

struct Peer {
    address: String,
    socket: zmq::Socket,
}

/// What the thread owns.
struct Sockets {
    me: Sender,
    inbound: Inbound,
    shared: Arc<Shared>,
    waiting: Receiver<Packet>,
    peers: BTreeMap<NodeId, Peer>,
    /// The connection that a node was last heard on.
    heard: BTreeMap<NodeId, Vec<u8>>,
    listener: ZmqListener,
}

/// A message's bytes, shared without a copy.
struct Owned(zmq::Message);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Sockets {
    fn run(mut self, stop: &esker_sync::stop::StopToken) {
        let mut more = false;
        while !stop.is_stopped() {
            self.poll(more);
            self.shared.clear();
            let addresses = self.shared.members.lock().take();
            if let Some(addresses) = addresses {
                self.connect(&addresses);
            }
            self.authenticate();
            let unread = self.read();
            let unsent = self.send();
            more = unread || unsent;
        }
    }

    fn poll(&self, more: bool) {
        use std::os::fd::AsFd;
        let mut items = vec![
            self.listener.router.as_poll_item(zmq::POLLIN),
            zmq::PollItem::from_fd(self.shared.bell.as_fd().as_raw_fd(), zmq::POLLIN),
        ];
        items.extend(
            self.listener
                .zap
                .iter()
                .map(|zap| zap.as_poll_item(zmq::POLLIN)),
        );
        items.extend(
            self.peers
                .values()
                .map(|p| p.socket.as_poll_item(zmq::POLLIN)),
        );
        // An interrupted poll is a turn like any other.
        let _ = zmq::poll(&mut items, if more { 0 } else { IDLE_MS });
    }

    /// Connects to those that are new or have moved, and lets the others go.
    fn connect(&mut self, addresses: &BTreeMap<NodeId, String>) {
        self.peers
            .retain(|node, peer| addresses.get(node) == Some(&peer.address));
        for (node, address) in addresses {
            if *node == self.me.node || address.is_empty() || self.peers.contains_key(node) {
                continue;
            }
            match self.dealer(*node, address) {
                Ok(socket) => {
                    let address = address.clone();
                    self.peers.insert(*node, Peer { address, socket });
                }
                Err(error) => tracing::warn!(%error, %node, address, "no connection to a member"),
            }
        }
    }

    fn dealer(&self, node: NodeId, address: &str) -> Result<zmq::Socket, StartError> {
        let (_, ipv6) = check_endpoint(address)?;
        let options = &self.listener.options;
        let socket =
            (self.listener.context.socket(zmq::DEALER)).map_err(zmq_failed("making a socket"))?;
        if let Some(keys) = &options.keys {
            let theirs = keys.members.get(&node).ok_or_else(|| {
                failed(
                    "connecting to a member",
                    format!("no key of node {node} is configured"),
                )
            })?;
            let (theirs, public, secret) = (
                key("a member's public key", theirs)?,
                key("the node's public key", &keys.public)?,
                key("the node's secret key", &keys.secret)?,
            );
            (socket.set_curve_serverkey(&theirs))
                .and_then(|()| socket.set_curve_publickey(&public))
                .and_then(|()| socket.set_curve_secretkey(&secret))
                .map_err(zmq_failed("setting the node's keys"))?;
        }
        set_common(&socket, options)
            .and_then(|()| socket.set_ipv6(ipv6))
            .map_err(zmq_failed("setting socket options"))?;
        socket
            .connect(address)
            .map_err(zmq_failed("connecting to a member"))?;
        Ok(socket)
    }

    /// Answers the library's questions who may connect: those whose key is listed, each under its node's id.
    fn authenticate(&self) {
        let (Some(zap), Some(keys)) = (&self.listener.zap, &self.listener.options.keys) else {
            return;
        };
        while let Ok(request) = zap.recv_multipart(zmq::DONTWAIT) {
            // version, request id, domain, address, identity, mechanism, credentials
            let id = request.get(1).cloned().unwrap_or_default();
            let key = (request.len() == 7 && request[5] == b"CURVE")
                .then(|| zmq::z85_encode(&request[6]).ok())
                .flatten();
            let node = key.and_then(|key| {
                let known = keys.members.iter().find(|(_, k)| **k == key);
                known.map(|(node, _)| node.to_string())
            });
            let (code, text): (&[u8], &[u8]) = match node {
                Some(_) => (b"200", b"OK"),
                None => (b"400", b"key is not listed"),
            };
            if node.is_none() {
                let address = request
                    .get(3)
                    .map(|a| String::from_utf8_lossy(a).into_owned());
                tracing::warn!(?address, "an unknown key was turned away");
            }
            let user = node.unwrap_or_default();
            let reply = [b"1.0", id.as_slice(), code, text, user.as_bytes(), b""];
            let _ = zap.send_multipart(reply, zmq::DONTWAIT);
        }
    }

    /// Reads what members sent; true when there may be more.
    fn read(&mut self) -> bool {
        let mut left = TURN_MAX;
        while left > 0 {
            let Ok(routing) = self.listener.router.recv_bytes(zmq::DONTWAIT) else {
                break;
            };
            left -= 1;
            let mut body = zmq::Message::new();
            let mut parts = 1;
            while self.listener.router.get_rcvmore().unwrap_or(false) {
                parts += 1;
                let mut part = zmq::Message::new();
                if self.listener.router.recv(&mut part, zmq::DONTWAIT).is_err() {
                    break;
                }
                if parts == 2 {
                    body = part;
                }
            }
            if parts != 2 {
                continue;
            }
            let checked = self.listener.options.keys.is_some();
            let user = checked.then(|| body.gets("User-Id").unwrap_or_default().to_owned());
            if let Some(packet) = decode(body)
                && user.is_none_or(|user| user == packet.from.node.to_string())
            {
                let from = packet.from.node;
                if self.heard.len() >= HEARD_MAX {
                    self.heard.clear();
                }
                self.heard.insert(from, routing);
                (self.inbound)(packet);
            }
        }
        for (node, peer) in &self.peers {
            for _ in 0..TURN_MAX {
                let mut body = zmq::Message::new();
                if peer.socket.recv(&mut body, zmq::DONTWAIT).is_err() {
                    break;
                }
                while peer.socket.get_rcvmore().unwrap_or(false) {
                    let _ = peer.socket.recv_bytes(zmq::DONTWAIT);
                }
                if let Some(packet) = decode(body).filter(|p| p.from.node == *node) {
                    (self.inbound)(packet);
                }
            }
        }
        left == 0
    }

    /// Sends what waits; true when there may be more.
    fn send(&mut self) -> bool {
        for _ in 0..TURN_MAX {
            let Ok(packet) = self.waiting.try_recv() else {
                return false;
            };
            let bytes = wire::size_hint(&packet);
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            let to = packet.to;
            let bytes = wire::encode(&packet);
            if let Some(peer) = self.peers.get(&to)
                && peer.socket.send(bytes.as_slice(), zmq::DONTWAIT).is_ok()
            {
                continue;
            }
            // What is not taken here either is lost (ZM2).
            if let Some(routing) = self.heard.get(&to) {
                let parts = [routing, &bytes];
                let _ = self.listener.router.send_multipart(parts, zmq::DONTWAIT);
            }
        }
        true
    }
}

fn decode(message: zmq::Message) -> Option<Packet> {
    match wire::decode(Bytes::from_owner(Owned(message))) {
        Ok(packet) => Some(packet),
        Err(error) => {
            tracing::debug!(%error, "bytes on the members' port are ignored");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r6_without_keys_nothing_listens_beyond_loopback_unless_told() {
        let mut options = ZmqOptions::new("tcp://0.0.0.0:*");
        let error = ZmqListener::bind(options.clone()).err().unwrap();
        assert!(error.to_string().contains("configure keys"), "{error}");
        options.allow_remote_plaintext = true;
        assert!(ZmqListener::bind(options).is_ok());
        for bad in [
            "127.0.0.1:1",
            "tcp://127.0.0.1",
            "tcp://:1",
            "tcp://a:99999",
            "",
        ] {
            assert!(ZmqListener::bind(ZmqOptions::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_that_are_none_are_named() {
        let mut options = ZmqOptions::new("tcp://127.0.0.1:*");
        options.keys = Some(Keys {
            public: "short".into(),
            secret: "short".into(),
            members: BTreeMap::new(),
        });
        let error = ZmqListener::bind(options).err().unwrap();
        assert!(
            error.to_string().contains("the node's secret key"),
            "{error}"
        );
    }
}
