//! The network side: event loops and their connections.
//!
//! Each I/O thread owns an epoll instance and its clients; thread 0 also owns the listener and hands new
//! clients to the thread with the fewest. A turn of a loop: wait; read, parse and run what came; ask the log
//! once for the sync that all of it needs; then send each client what may leave, in one write. While the log
//! syncs the loop goes on gathering, so one sync serves what came during the one before.

pub mod bell;
mod conn;
mod event_loop;
mod input;
mod outbox;
pub(crate) mod registry;

pub(crate) use conn::Tally;
pub(crate) use input::Input;

use crate::audit::Ticket;
use crate::resp::Limits;
use crossbeam_channel::{Receiver, Sender};
use event_loop::{EventLoop, Inbox};
use mio::net::TcpStream;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bounds of the network side.
#[derive(Clone, Debug)]
pub struct NetLimits {
    /// Of one request.
    pub request: Limits,
    /// Of one request of a client that has not authenticated.
    pub unauthenticated: Limits,
    /// Clients at once.
    pub clients_max: usize,
    /// Bytes of replies waiting for one client above which it is not read from.
    pub output_soft: usize,
    /// Bytes of replies waiting for one client above which it is cut off.
    pub output_hard: usize,
    /// Bytes held for all clients (input and output) above which those that hold most are cut off.
    pub memory_max: usize,
    /// Held replies of one client above which it is not read from.
    pub gates_max: usize,
    /// Commands of one client per turn.
    pub turn_commands: usize,
    /// Bytes read from one client per turn.
    pub turn_bytes: usize,
    /// New clients per turn.
    pub turn_accepts: usize,
    /// Capacity of an empty output buffer that is kept.
    pub keep_bytes: usize,
    /// When a held reply becomes an error.
    pub ack_timeout: Duration,
    /// How long a stop waits for held replies and slow readers.
    pub drain_timeout: Duration,
}

impl Default for NetLimits {
    fn default() -> Self {
        NetLimits {
            request: Limits::default(),
            unauthenticated: Limits::default().unauthenticated(),
            clients_max: 10_000,
            output_soft: 1 << 20,
            output_hard: 256 << 20,
            memory_max: 1 << 30,
            gates_max: 16 << 10,
            turn_commands: 1024,
            turn_bytes: 256 << 10,
            turn_accepts: 128,
            keep_bytes: 64 << 10,
            ack_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// What an I/O thread asks of the server's control thread.
#[derive(Debug)]
pub(crate) enum Request {
    /// Promote, record how that went, then give the answer to the client.
    Promote {
        thread: usize,
        client: u64,
        ticket: Option<Ticket>,
    },
    /// Stop.
    Shutdown { now: bool },
}

/// The running I/O threads.
#[derive(Debug)]
pub(crate) struct Net {
    inboxes: Vec<Mailbox>,
    threads: Vec<JoinHandle<()>>,
}

/// Where an I/O thread is told things.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    sender: Sender<Inbox>,
    bell: Arc<bell::Bell>,
}

impl Mailbox {
    /// Answers a client that waits for another thread.
    pub(crate) fn answer(&self, client: u64, result: Result<(), String>) {
        self.send(Inbox::Answer { client, result });
    }

    fn send(&self, message: Inbox) {
        // It fails when the thread has ended; then nobody needs it.
        let _ = self.sender.send(message);
        self.bell.wake();
    }
}

impl Net {
    /// Starts `threads` I/O threads on a listener that is bound already.
    pub(crate) fn start(
        listener: TcpListener,
        threads: usize,
        shared: &Arc<crate::server::Shared>,
        requests: &Sender<Request>,
    ) -> io::Result<Net> {
        listener.set_nonblocking(true)?;
        // The standard library's backlog is 128; a second listen() on the same socket raises it.
        rustix::net::listen(&listener, 1024)?;
        let mut listener = Some(mio::net::TcpListener::from_std(listener));
        let mut loops = Vec::new();
        let mut inboxes = Vec::new();
        for number in 0..threads.max(1) {
            let (sender, receiver): (_, Receiver<Inbox>) = crossbeam_channel::unbounded();
            let one = EventLoop::new(
                number,
                listener.take(),
                receiver,
                Arc::clone(shared),
                requests.clone(),
            )?;
            inboxes.push(Mailbox {
                sender,
                bell: one.bell(),
            });
            loops.push(one);
        }
        for one in &loops {
            shared.node.add_bell(one.bell());
            let bell = Arc::downgrade(&one.bell());
            shared.acl.tell(move || {
                if let Some(bell) = bell.upgrade() {
                    bell.wake();
                }
            });
        }
        let mut net = Net {
            inboxes: inboxes.clone(),
            threads: Vec::new(),
        };
        for mut one in loops {
            one.set_peers(inboxes.clone());
            match std::thread::Builder::new()
                .name(format!("esker-io-{}", one.number()))
                .spawn(move || one.run())
            {
                Ok(thread) => net.threads.push(thread),
                Err(error) => {
                    net.stop(true);
                    let _ = net.join();
                    return Err(error);
                }
            }
        }
        Ok(net)
    }

    /// Where a thread is told things.
    pub(crate) fn mailbox(&self, thread: usize) -> Mailbox {
        self.inboxes[thread].clone()
    }

    /// Begins to stop: no new clients, no new requests; what is held is waited for unless `now`.
    pub(crate) fn stop(&self, now: bool) {
        for inbox in &self.inboxes {
            inbox.send(Inbox::Stop { now });
        }
    }

    /// Waits for the threads to end. False when one of them panicked.
    pub(crate) fn join(&mut self) -> bool {
        let mut well = true;
        for thread in self.threads.drain(..) {
            well &= thread.join().is_ok();
        }
        well
    }
}

/// How long a loop sleeps at most while new clients can't be accepted for want of descriptors.
pub(crate) const ACCEPT_TICK: Duration = Duration::from_millis(100);

/// What to do where no client was accepted.
pub(crate) enum NotAccepted {
    /// There is none.
    Nobody,
    /// This one has gone already.
    Next,
    /// Out of descriptors, most likely: the others go on, and it is tried again in [`ACCEPT_TICK`]. No event announces it.
    Later,
}

impl NotAccepted {
    /// Counts what the operator has to know, and says it now and then.
    pub(crate) fn of(error: &io::Error, errors: &AtomicU64) -> NotAccepted {
        match error.kind() {
            io::ErrorKind::WouldBlock => NotAccepted::Nobody,
            io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => NotAccepted::Next,
            _ => {
                // Relaxed: a count.
                if errors.fetch_add(1, Ordering::Relaxed).is_multiple_of(100) {
                    tracing::warn!(%error, "accepting a client failed; raise the limit of open files (ulimit -n)");
                }
                NotAccepted::Later
            }
        }
    }
}

/// A client on its way to its thread.
#[derive(Debug)]
pub(crate) struct NewClient {
    pub(crate) stream: TcpStream,
    pub(crate) addr: SocketAddr,
}
