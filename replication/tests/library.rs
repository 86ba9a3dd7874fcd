//! The libzmq that is linked has what replication relies on. One test: it looks at all descriptors of
//! the process.

use rustix::io::FdFlags;
use rustix::net::sockopt;
use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, RawFd};

fn descriptors() -> BTreeSet<RawFd> {
    let listed: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    // Without the one that did the listing.
    listed
        .into_iter()
        .filter(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok())
        .collect()
}

#[test]
fn version_curve_keep_alive_and_close_on_exec_are_real() {
    let library = esker_replication::transport::zmq_version();
    assert_eq!(library.version, (4, 3, 5));
    assert!(library.curve);
    assert_eq!(library.to_string(), "libzmq 4.3.5, with CURVE");

    let before = descriptors();
    let context = zmq::Context::new();
    let server = context.socket(zmq::ROUTER).unwrap();
    let client = context.socket(zmq::DEALER).unwrap();
    for socket in [&server, &client] {
        socket.set_tcp_keepalive(1).unwrap();
        socket.set_tcp_keepalive_idle(7).unwrap();
        socket.set_tcp_keepalive_intvl(3).unwrap();
        socket.set_tcp_keepalive_cnt(4).unwrap();
        socket.set_linger(0).unwrap();
    }
    server.bind("tcp://127.0.0.1:*").unwrap();
    let endpoint = server.get_last_endpoint().unwrap().unwrap();
    client.connect(&endpoint).unwrap();
    client.send("hello", 0).unwrap();
    let got = server.recv_multipart(0).unwrap();
    assert_eq!(got[1], b"hello");

    let (mut connected, mut eventfds) = (0, 0);
    for fd in descriptors().difference(&before) {
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        let link = link.to_str().unwrap();
        eventfds += usize::from(link.contains("eventfd"));
        // SAFETY: libzmq keeps its descriptors open until the sockets are closed, below.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        let flags = rustix::io::fcntl_getfd(fd).unwrap();
        assert!(flags.contains(FdFlags::CLOEXEC), "{link} is inherited");
        if link.starts_with("socket:") && rustix::net::getpeername(fd).is_ok() {
            connected += 1;
            assert!(sockopt::socket_keepalive(fd).unwrap());
            assert_eq!(sockopt::tcp_keepidle(fd).unwrap().as_secs(), 7);
            assert_eq!(sockopt::tcp_keepintvl(fd).unwrap().as_secs(), 3);
            assert_eq!(sockopt::tcp_keepcnt(fd).unwrap(), 4);
        }
    }
    assert_eq!(
        connected, 2,
        "both ends of the connection are in this process"
    );
    assert!(eventfds > 0, "libzmq's threads wake each other by eventfd");

    drop((client, server));
    drop(context);
    assert_eq!(descriptors(), before, "everything is closed again");
}
