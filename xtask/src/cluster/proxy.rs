//! The network between the members: each is reached through a proxy, which knows who has connected and holds back, direction by
//! direction, what a partition keeps from arriving.
//!
//! Held back is not lost: when the link is there again what waited arrives, late. A link that is *reset* loses what was under way.

use crate::node::free_port;
use crate::{Outcome, ctx};
use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(3);

#[derive(Debug, Default)]
struct State {
    /// (from, to) over which nothing goes.
    cut: Mutex<BTreeSet<(usize, usize)>>,
    /// Members from and to which no connection is let through.
    refused: Mutex<BTreeSet<usize>>,
    /// Process of each member.
    pids: Mutex<Vec<u32>>,
    /// Who connected to whom, and both ends.
    connections: Mutex<Vec<(usize, usize, TcpStream, TcpStream)>>,
    pumps: Mutex<Vec<JoinHandle<()>>>,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The links between the members of a cluster. Dropped, all connections end.
#[derive(Debug)]
pub(crate) struct Network {
    state: Arc<State>,
    listeners: Vec<JoinHandle<()>>,
    /// Where members find each other.
    pub(crate) public: Vec<u16>,
    /// Where each listens itself.
    pub(crate) own: Vec<u16>,
}

impl Network {
    pub(crate) fn new(members: usize) -> Outcome<Network> {
        let state = Arc::new(State::default());
        *lock(&state.pids) = vec![0; members];
        let own: Vec<u16> = (0..members).map(|_| free_port()).collect();
        let mut public = Vec::new();
        let mut listeners = Vec::new();
        for (to, port) in own.iter().copied().enumerate() {
            let listener = ctx(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)), "proxy")?;
            public.push(ctx(listener.local_addr(), "proxy")?.port());
            ctx(listener.set_nonblocking(true), "proxy")?;
            let state = Arc::clone(&state);
            listeners.push(std::thread::spawn(move || {
                accept(&state, &listener, to, port)
            }));
        }
        Ok(Network {
            state,
            listeners,
            public,
            own,
        })
    }

    /// A member runs as this process.
    pub(crate) fn runs(&self, member: usize, pid: u32) {
        lock(&self.state.pids)[member] = pid;
    }

    /// Nothing goes from one to the other any more.
    pub(crate) fn cut(&self, links: impl IntoIterator<Item = (usize, usize)>) {
        lock(&self.state.cut).extend(links);
    }

    /// A member loses its connections, and gets no other.
    pub(crate) fn refuse(&self, member: usize) {
        lock(&self.state.refused).insert(member);
        self.reset(member);
    }

    /// Ends the connections of this member, in both directions; what is under way is lost.
    pub(crate) fn reset(&self, member: usize) {
        for (from, to, one, other) in lock(&self.state.connections).iter() {
            if *from == member || *to == member {
                // They may have ended.
                let _ = one.shutdown(Shutdown::Both);
                let _ = other.shutdown(Shutdown::Both);
            }
        }
    }

    /// Everything goes everywhere.
    pub(crate) fn heal(&self) {
        lock(&self.state.cut).clear();
        lock(&self.state.refused).clear();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        for (_, _, one, other) in lock(&self.state.connections).iter() {
            let _ = one.shutdown(Shutdown::Both);
            let _ = other.shutdown(Shutdown::Both);
        }
        for thread in self.listeners.drain(..) {
            let _ = thread.join();
        }
        let pumps = std::mem::take(&mut *lock(&self.state.pumps));
        for thread in pumps {
            let _ = thread.join();
        }
    }
}

fn accept(state: &Arc<State>, listener: &TcpListener, to: usize, port: u16) {
    while !state.stop.load(Ordering::Relaxed) {
        let Ok((inward, peer)) = listener.accept() else {
            std::thread::sleep(PAUSE);
            continue;
        };
        // Who dies before it is found out who it is has nothing to say.
        let pids = lock(&state.pids).clone();
        let here = listener.local_addr().map(|here| here.port());
        let Some(from) = here.ok().and_then(|here| owner(peer, here, &pids)) else {
            continue;
        };
        // Held while it is joined, or it would miss a reset.
        let refused = lock(&state.refused);
        if refused.contains(&from) || refused.contains(&to) {
            continue;
        }
        let Ok(outward) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
            continue;
        };
        if let Err(error) = join(state, from, to, inward, outward) {
            eprintln!("proxy: {error}");
        }
    }
}

fn join(
    state: &Arc<State>,
    from: usize,
    to: usize,
    inward: TcpStream,
    outward: TcpStream,
) -> std::io::Result<()> {
    for stream in [&inward, &outward] {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    }
    let there = (inward.try_clone()?, outward.try_clone()?);
    let back = (outward.try_clone()?, inward.try_clone()?);
    {
        let mut connections = lock(&state.connections);
        connections.retain(|(_, _, stream, _)| stream.peer_addr().is_ok());
        connections.push((from, to, inward, outward));
    }
    let mut pumps = lock(&state.pumps);
    pumps.retain(|pump| !pump.is_finished());
    for (link, (source, sink)) in [((from, to), there), ((to, from), back)] {
        let state = Arc::clone(state);
        pumps.push(std::thread::spawn(move || pump(&state, link, source, sink)));
    }
    Ok(())
}

fn pump(state: &State, link: (usize, usize), mut source: TcpStream, mut sink: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while !state.stop.load(Ordering::Relaxed) {
        let read = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        while lock(&state.cut).contains(&link) && !state.stop.load(Ordering::Relaxed) {
            // It may end meanwhile: then what it held is lost.
            if sink.take_error().ok().flatten().is_some() || sink.peer_addr().is_err() {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        if sink.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = source.shutdown(Shutdown::Both);
    let _ = sink.shutdown(Shutdown::Both);
}

/// Whose process has the other end of a connection to `here`, as the kernel tells it. One that has ended can have had the same port for another.
fn owner(peer: SocketAddr, here: u16, pids: &[u32]) -> Option<usize> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let wanted = [peer.port(), here].map(|port| format!("0100007F:{port:04X}"));
    let inode = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1..3)? == wanted).then(|| fields.get(9).map(|i| (*i).to_owned()))?
    })?;
    let socket = format!("socket:[{inode}]");
    pids.iter().position(|pid| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy() == socket))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_link_holds_back_one_direction_and_what_waited_arrives_late() {
        let network = Network::new(2).unwrap();
        for member in 0..2 {
            network.runs(member, std::process::id());
        }
        // This process is member 0 as far as the kernel can tell.
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, network.own[1])).unwrap();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, network.public[1])).unwrap();
        let (mut served, _) = server.accept().unwrap();
        let soon = Some(Duration::from_millis(300));
        client.set_read_timeout(soon).unwrap();
        served.set_read_timeout(soon).unwrap();
        let mut byte = [0];
        network.cut([(0, 1)]);
        client.write_all(b"a").unwrap();
        assert!(served.read(&mut byte).is_err(), "the link is cut");
        served.write_all(b"b").unwrap();
        client.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b");
        network.heal();
        served
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        served.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"a");
    }
}
