//! Members over plain TCP, without keys.
//!
//! A packet goes from the thread that sends it into its socket, and from the socket into the thread that reads it, with nobody between: each thread
//! that a packet is handed to would cost it a wake-up. Each node listens, and dials every member that it knows; it speaks on the connection that it
//! dialed or, to one whose address it does not know, or that can't be reached there, on the one on which it was last heard.
//!
//! ```text
//! connection  "EKT1" in both directions, then packets
//! packet      length u32, little-endian; then so many bytes (see `wire`)
//! ```
//! - TP1: nobody who sends waits: what a socket does not take at once is kept, up to `queue_bytes_max` for each connection, and written by a thread
//!   that waits for the socket; more is lost (TR1), always whole packets.
//! - TP2 (E2): memory for a packet grows with the bytes that have come; a length beyond `message_bytes_max`, a packet that can't be read, or other
//!   bytes than the four at its beginning end the connection. No more than 256 connections are taken.
//! - TP3 (R6): there are no keys here, so nothing listens beyond loopback unless that was said explicitly.
//! - TP4 (E1): closing ends every connection and joins every thread.

use super::{Inbound, Packet, Sender, Transport, check_endpoint, failed, wire};
use crate::core::NodeId;
use crate::runtime::StartError;
use bytes::Bytes;
use esker_sync::stop::StopToken;
use esker_sync::workers::Workers;
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, sockopt};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

const MAGIC: [u8; 4] = *b"EKT1";
/// Memory that a thread keeps for the packets that it sends, at most.
const SENDING_BYTES: usize = 2 << 20;

thread_local! {
    static SENDING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}
/// Connections taken from others, at most.
const CONNECTIONS_MAX: usize = 256;
/// Read at once.
const READ_BYTES: usize = 64 << 10;
/// How often who waits for a socket looks around.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_SPEC: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// Options of the transport.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    /// Where to listen: `tcp://ADDRESS:PORT`; port `*` takes a free one.
    pub listen: String,
    /// Listen beyond loopback, where whoever reaches the port can speak as a member.
    pub allow_remote_plaintext: bool,
    /// Longest message, in bytes; more than the longest command and `append_bytes_max`. Default 64 MiB.
    pub message_bytes_max: usize,
    /// Bytes that wait for one connection, at most. Default 64 MiB.
    pub queue_bytes_max: usize,
    /// A connection that takes nothing for so long is closed and made anew. Default 3 s.
    pub dead_after: Duration,
    /// First pause before a lost connection is tried again; doubles up to `reconnect_max`. Default 20 ms.
    pub reconnect_min: Duration,
    /// See above. Default 1 s.
    pub reconnect_max: Duration,
}

impl TcpOptions {
    /// With defaults.
    #[must_use]
    pub fn new(listen: &str) -> TcpOptions {
        TcpOptions {
            listen: listen.to_owned(),
            allow_remote_plaintext: false,
            message_bytes_max: 64 << 20,
            queue_bytes_max: 64 << 20,
            dead_after: Duration::from_secs(3),
            reconnect_min: Duration::from_millis(20),
            reconnect_max: Duration::from_secs(1),
        }
    }
}

/// `HOST:PORT` of an endpoint, as the standard library has it.
fn host_and_port(endpoint: &str) -> String {
    let rest = endpoint.strip_prefix("tcp://").unwrap_or(endpoint);
    rest.strip_suffix(":*")
        .map_or_else(|| rest.to_owned(), |host| format!("{host}:0"))
}

/// Listens already; delivers once it is [started](PlainListener::start).
#[derive(Debug)]
pub struct PlainListener {
    listener: TcpListener,
    endpoint: String,
    options: TcpOptions,
}

impl PlainListener {
    /// Takes the port.
    pub fn bind(options: TcpOptions) -> Result<PlainListener, StartError> {
        let (loopback, _) = check_endpoint(&options.listen)?;
        if !loopback && !options.allow_remote_plaintext {
            return Err(failed(
                "listening for members",
                format!(
                    "{} is not a loopback address, and without keys anybody who reaches it could speak as a member; use the transport with keys, \
                     listen on 127.0.0.1, or allow plaintext explicitly",
                    options.listen
                ),
            ));
        }
        let bound = TcpListener::bind(host_and_port(&options.listen));
        let listening =
            |e: io::Error| failed("listening for members", format!("{}: {e}", options.listen));
        let listener = bound.map_err(listening)?;
        listener.set_nonblocking(true).map_err(listening)?;
        let endpoint = format!("tcp://{}", listener.local_addr().map_err(listening)?);
        Ok(PlainListener {
            listener,
            endpoint,
            options,
        })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Starts to take connections.
    pub fn start(self, me: Sender, inbound: Inbound) -> Result<Arc<PlainTransport>, StartError> {
        let shared = Arc::new(Shared {
            me,
            inbound,
            options: self.options,
            peers: Mutex::default(),
            heard: Mutex::default(),
            full: Mutex::default(),
            more: Condvar::new(),
            taken: AtomicUsize::new(0),
            workers: Workers::new(StopToken::new()),
        });
        let spawn = |name, work: Box<dyn FnOnce(StopToken) + Send>| {
            (shared.workers.spawn(name, work)).map_err(|e| failed("starting a thread", e))
        };
        let (accepting, flushing) = (Arc::downgrade(&shared), shared.clone());
        let listener = self.listener;
        spawn(
            "esker-rf-listen",
            Box::new(move |stop| accept(&listener, &accepting, &stop)),
        )?;
        // It holds what is shared until `close`, which joins it.
        spawn(
            "esker-rf-flush",
            Box::new(move |stop| flushing.flush(&stop)),
        )?;
        Ok(Arc::new(PlainTransport { shared }))
    }
}

/// A connection in either direction.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// What the socket did not take: whole packets, but for the first, which may have begun.
    kept: Mutex<Vec<u8>>,
    /// Nothing more goes out.
    broken: AtomicBool,
}

impl Connection {
    fn new(stream: TcpStream, options: &TcpOptions) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, options.dead_after)?;
        sockopt::set_tcp_keepintvl(&stream, options.dead_after.max(Duration::from_secs(1)))?;
        sockopt::set_tcp_keepcnt(&stream, 3)?;
        let dead_after = u32::try_from(options.dead_after.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(&stream, dead_after.max(1))?;
        let connection = Connection {
            stream,
            kept: Mutex::new(Vec::new()),
            broken: AtomicBool::new(false),
        };
        connection.put(&MAGIC, usize::MAX);
        Ok(connection)
    }

    /// How much of `bytes` the socket takes now.
    fn push(&self, bytes: &[u8]) -> usize {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            return match rustix::net::send(&self.stream, bytes, flags) {
                Ok(n) => n,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => 0,
                Err(_) => {
                    self.end();
                    0
                }
            };
        }
    }

    /// Sends or keeps a packet: whether something waits now. `None` where it is lost.
    fn put(&self, packet: &[u8], kept_max: usize) -> Option<bool> {
        if self.is_broken() {
            return None;
        }
        let mut kept = self.kept.lock();
        let sent = match kept.is_empty() {
            true => self.push(packet),
            false => 0,
        };
        if sent == packet.len() {
            return Some(false);
        }
        // One that has begun is finished whatever the bound.
        if sent == 0 && kept.len() + packet.len() > kept_max {
            return None;
        }
        kept.extend_from_slice(&packet[sent..]);
        Some(true)
    }

    /// Sends what was kept; true if something is left.
    fn go_on(&self) -> bool {
        let mut kept = self.kept.lock();
        let sent = self.push(&kept);
        kept.drain(..sent);
        !kept.is_empty() && !self.is_broken()
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.broken.store(true, Ordering::Release);
        // It fails where it has ended.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// A member that is dialed.
struct Peer {
    address: String,
    connection: Mutex<Option<Arc<Connection>>>,
    /// It is no member there any more.
    gone: AtomicBool,
}

impl Peer {
    fn end(&self) {
        self.gone.store(true, Ordering::Release);
        if let Some(connection) = self.connection.lock().take() {
            connection.end();
        }
    }
}

/// Locks are taken alone.
struct Shared {
    me: Sender,
    inbound: Inbound,
    options: TcpOptions,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    /// The connection that a node was last heard on, of those that were taken.
    heard: Mutex<BTreeMap<NodeId, Weak<Connection>>>,
    /// Connections that something waits for.
    full: Mutex<Vec<Arc<Connection>>>,
    more: Condvar,
    /// Connections taken.
    taken: AtomicUsize,
    workers: Workers,
}

/// The transport of one node. See the module.
pub struct PlainTransport {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for PlainTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PlainTransport")
    }
}

impl Transport for PlainTransport {
    fn send(&self, packet: Packet) {
        let mut bytes = SENDING.take();
        bytes.clear();
        bytes.extend_from_slice(&[0; 4]);
        wire::encode_into(&mut bytes, &packet);
        self.shared.send(packet.to, &mut bytes);
        if bytes.capacity() <= SENDING_BYTES {
            SENDING.set(bytes);
        }
    }

    fn message_bytes_max(&self) -> usize {
        self.shared.options.message_bytes_max
    }

    fn members(&self, addresses: &BTreeMap<NodeId, String>) {
        let shared = &self.shared;
        if shared.workers.stop_token().is_stopped() {
            return;
        }
        shared.workers.reap();
        let mut peers = shared.peers.lock();
        peers.retain(|node, peer| {
            let stays = addresses.get(node) == Some(&peer.address);
            if !stays {
                peer.end();
            }
            stays
        });
        for (node, address) in addresses {
            if *node == shared.me.node || address.is_empty() || peers.contains_key(node) {
                continue;
            }
            let peer = Arc::new(Peer {
                address: address.clone(),
                connection: Mutex::default(),
                gone: AtomicBool::new(false),
            });
            let dialing = (Arc::downgrade(shared), peer.clone());
            let spawned = shared.workers.spawn("esker-rf-dial", move |stop| {
                dial(&dialing.0, &dialing.1, &stop);
            });
            match spawned {
                Ok(()) => drop(peers.insert(*node, peer)),
                Err(error) => tracing::warn!(%error, %node, "no connection to a member"),
            }
        }
    }

    fn close(&self) {
        let shared = &self.shared;
        shared.workers.stop_token().stop();
        shared.more.notify_all();
        for peer in std::mem::take(&mut *shared.peers.lock()).into_values() {
            peer.end();
        }
        if let Err(panic) = shared.workers.join() {
            tracing::error!(%panic, "a thread of the transport panicked");
        }
    }
}

impl Drop for PlainTransport {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// `bytes` begin with room for their length.
    fn send(&self, to: NodeId, bytes: &mut [u8]) {
        let Ok(len) = u32::try_from(bytes.len() - 4) else {
            return;
        };
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        let peer = self.peers.lock().get(&to).cloned();
        let dialed = peer.and_then(|peer| peer.connection.lock().clone());
        if dialed.is_some_and(|connection| self.put(&connection, bytes)) {
            return;
        }
        let heard = self.heard.lock().get(&to).and_then(Weak::upgrade);
        if let Some(connection) = heard {
            // What is not taken here either is lost.
            self.put(&connection, bytes);
        }
    }

    fn put(&self, connection: &Arc<Connection>, packet: &[u8]) -> bool {
        match connection.put(packet, self.options.queue_bytes_max) {
            None => false,
            Some(false) => true,
            Some(true) => {
                let mut full = self.full.lock();
                if !full.iter().any(|other| Arc::ptr_eq(other, connection)) {
                    full.push(connection.clone());
                    self.more.notify_one();
                }
                true
            }
        }
    }

    /// TP1.
    fn flush(&self, stop: &StopToken) {
        while !stop.is_stopped() {
            let waiting = {
                let mut full = self.full.lock();
                if full.is_empty() {
                    self.more.wait_for(&mut full, LOOK * 10);
                }
                full.clone()
            };
            if waiting.is_empty() {
                continue;
            }
            let mut fds: Vec<PollFd<'_>> = (waiting.iter())
                .map(|c| PollFd::new(&c.stream, PollFlags::OUT))
                .collect();
            // An interrupted poll is a turn like any other.
            let _ = poll(&mut fds, Some(&LOOK_SPEC));
            // What is put while this goes on is put into what is kept, and found by the next turn.
            self.full.lock().retain(|connection| {
                let mine = waiting.iter().any(|other| Arc::ptr_eq(other, connection));
                !mine || connection.go_on()
            });
        }
    }

    /// Reads packets until the connection ends.
    fn read(&self, connection: &Arc<Connection>, taken: bool, stop: &StopToken) -> io::Result<()> {
        let mut stream = &connection.stream;
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut buf: Vec<u8> = Vec::new();
        let mut scratch = vec![0; READ_BYTES];
        let mut begun = false;
        while !stop.is_stopped() && !connection.is_broken() {
            let n = match stream.read(&mut scratch) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            buf.extend_from_slice(&scratch[..n]);
            if !begun {
                if buf.len() < MAGIC.len() {
                    continue;
                }
                if buf[..4] != MAGIC {
                    return Err(bad("no member speaks there, or one with another transport"));
                }
                buf.drain(..4);
                begun = true;
            }
            let mut at = 0;
            while let Some(head) = buf[at..].first_chunk::<4>() {
                let len = u32::from_le_bytes(*head) as usize;
                if len > self.options.message_bytes_max {
                    return Err(bad("a packet that is longer than may be"));
                }
                let Some(bytes) = buf[at + 4..].get(..len) else {
                    break;
                };
                let packet =
                    wire::decode(Bytes::copy_from_slice(bytes)).map_err(|e| bad(&e.to_string()))?;
                at += 4 + len;
                if taken {
                    self.heard_on(packet.from.node, connection);
                }
                (self.inbound)(packet);
            }
            buf.drain(..at);
            if buf.is_empty() && buf.capacity() > 16 * READ_BYTES {
                buf = Vec::new();
            }
        }
        Ok(())
    }

    fn heard_on(&self, node: NodeId, connection: &Arc<Connection>) {
        let mut heard = self.heard.lock();
        let known = heard
            .get(&node)
            .is_some_and(|on| Weak::as_ptr(on) == Arc::as_ptr(connection));
        if !known {
            if heard.len() >= CONNECTIONS_MAX {
                heard.retain(|_, on| on.strong_count() > 0);
            }
            if heard.len() < CONNECTIONS_MAX {
                heard.insert(node, Arc::downgrade(connection));
            }
        }
    }
}

/// Waits until there is something to read, or a stop; true for the first.
fn readable(fd: &impl std::os::fd::AsFd, stop: &StopToken) -> bool {
    while !stop.is_stopped() {
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        if poll(&mut fds, Some(&LOOK_SPEC)).is_ok_and(|n| n > 0) {
            return true;
        }
    }
    false
}

fn accept(listener: &TcpListener, shared: &Weak<Shared>, stop: &StopToken) {
    // Those that were taken, so that a stop can end them.
    let mut open: Vec<Weak<Connection>> = Vec::new();
    while readable(listener, stop) {
        let Some(shared) = shared.upgrade() else {
            break;
        };
        let Ok((stream, addr)) = listener.accept() else {
            // Out of file descriptors, say.
            stop.sleep(LOOK);
            continue;
        };
        open.retain(|connection| connection.strong_count() > 0);
        shared.workers.reap();
        // Relaxed: a count.
        if shared.taken.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            tracing::warn!(%addr, "too many connections on the members' port");
            continue;
        }
        let made =
            (stream.set_nonblocking(false)).and_then(|()| Connection::new(stream, &shared.options));
        let Ok(connection) = made.map(Arc::new) else {
            continue;
        };
        open.push(Arc::downgrade(&connection));
        shared.taken.fetch_add(1, Ordering::Relaxed);
        let reading = Arc::downgrade(&shared);
        let spawned = shared.workers.spawn("esker-rf-read", move |stop| {
            if let Some(shared) = reading.upgrade() {
                if let Err(error) = shared.read(&connection, true, &stop) {
                    tracing::debug!(%addr, %error, "a connection on the members' port ended");
                }
                connection.end();
                shared.taken.fetch_sub(1, Ordering::Relaxed);
            }
        });
        if let Err(error) = spawned {
            shared.taken.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(%error, "a member can't be heard");
        }
    }
    for connection in open.iter().filter_map(Weak::upgrade) {
        connection.end();
    }
}

/// Keeps a connection to a member.
fn dial(shared: &Weak<Shared>, peer: &Peer, stop: &StopToken) {
    let Some(options) = shared.upgrade().map(|shared| shared.options.clone()) else {
        return;
    };
    let mut pause = options.reconnect_min;
    while !stop.is_stopped() && !peer.gone.load(Ordering::Acquire) {
        let connected = connect(&peer.address, options.dead_after)
            .and_then(|stream| Connection::new(stream, &options));
        match connected {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *peer.connection.lock() = Some(connection.clone());
                // It may have gone meanwhile.
                if peer.gone.load(Ordering::Acquire) || stop.is_stopped() {
                    connection.end();
                }
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                match shared.read(&connection, false, stop) {
                    // Who answered nothing sensible is not asked again in a hurry.
                    Ok(()) => pause = options.reconnect_min,
                    Err(error) => {
                        tracing::debug!(address = peer.address, %error, "a connection to a member ended")
                    }
                }
                connection.end();
                *peer.connection.lock() = None;
            }
            Err(error) => {
                tracing::debug!(address = peer.address, %error, "no connection to a member")
            }
        }
        stop.sleep(pause);
        pause = (pause * 2).min(options.reconnect_max);
    }
}

fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for addr in host_and_port(address).to_socket_addrs()? {
        match TcpStream::connect_timeout(&addr, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
