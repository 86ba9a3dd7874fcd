//! A server without a store, and connections to it byte by byte.

use esker_server::{NetLimits, Node, Promise, Server, ServerOptions};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

pub(crate) fn start(limits: NetLimits, io_threads: usize) -> Server {
    let node = Node::replica(Promise::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = ServerOptions {
        limits,
        io_threads,
        ..ServerOptions::default()
    };
    Server::start(node, listener, options).unwrap()
}

pub(crate) fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.addr()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

#[track_caller]
pub(crate) fn read_exactly(stream: &mut TcpStream, expected: &[u8]) {
    let mut found = vec![0; expected.len()];
    stream.read_exact(&mut found).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&found),
        String::from_utf8_lossy(expected)
    );
}
