//! After `close`: no thread, descriptor or mapping is left (E1). Alone in its process, because it looks at all of it.

use esker_server::metrics::Metrics;
use esker_server::{Node, Promise, Server, ServerOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

fn threads() -> Vec<String> {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("esker-"))
        .collect()
}

fn descriptors() -> Vec<String> {
    let mut all: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.display().to_string())
        .filter(|target| !target.starts_with("/proc/"))
        .collect();
    all.sort();
    all
}

fn mappings(of: &str) -> usize {
    std::fs::read_to_string("/proc/self/maps")
        .unwrap()
        .lines()
        .filter(|line| line.contains(of))
        .count()
}

#[test]
fn a_closed_server_leaves_no_thread_descriptor_or_mapping() {
    let before = descriptors();
    let dir = tempfile::tempdir().unwrap();
    let mut options = esker_lsm::StoreOptions::default();
    options.log.segment_bytes = 1 << 20;
    options.log.create = Some(esker_wal::Create {
        log: esker_wal::LogId::random(),
        node: esker_wal::NodeId::random(),
        base: esker_wal::Lsn::ZERO,
    });
    for _ in 0..3 {
        let (store, _) = esker_lsm::Store::open(dir.path(), options.clone()).unwrap();
        let node = Node::primary(store.clone(), Promise::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut server = Server::start(
            std::sync::Arc::clone(&node),
            listener,
            ServerOptions {
                io_threads: 2,
                ..ServerOptions::default()
            },
        )
        .unwrap();
        let mut metrics =
            Metrics::start(TcpListener::bind("127.0.0.1:0").unwrap(), server.shared()).unwrap();
        for page in ["metrics", "healthz", "readyz", "nothing"] {
            let mut http = TcpStream::connect(metrics.addr()).unwrap();
            write!(http, "GET /{page} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut text = String::new();
            http.read_to_string(&mut text).unwrap();
            let expected = if page == "nothing" { "404" } else { "200" };
            assert!(text.starts_with(&format!("HTTP/1.1 {expected}")), "{text}");
            if page == "metrics" {
                assert!(
                    text.contains("esker_log_synced_lsn") && text.ends_with("# EOF\n"),
                    "{text}"
                );
            }
        }
        let mut clients: Vec<TcpStream> = (0..5)
            .map(|_| TcpStream::connect(server.addr()).unwrap())
            .collect();
        for client in &mut clients {
            client.write_all(b"SET a 1\r\n").unwrap();
            let mut reply = [0; 5];
            client.read_exact(&mut reply).unwrap();
            assert_eq!(&reply, b"+OK\r\n");
        }
        // One is left waiting, one in the middle of a request.
        clients[0].write_all(b"WAIT 1 0\r\n").unwrap();
        clients[1].write_all(b"*2\r\n$3\r\nGET").unwrap();
        assert!(threads().iter().any(|name| name.starts_with("esker-io-")));
        server.close(true);
        server.close(true);
        metrics.close();
        node.engine().unwrap().close();
        store.close().unwrap();
        drop((server, metrics, node, store));
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    // A thread that was joined may show in /proc for a moment longer.
    while !threads().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(threads(), Vec::<String>::new());
    assert_eq!(mappings(dir.path().to_str().unwrap()), 0);
    drop(dir);
    assert_eq!(descriptors(), before);
}
