//! The server on a real store: several threads, little room, a log that is slow or gone.

use esker_lsm::{Store, StoreOptions};
use esker_server::{Durability, Node, Promise, Server, ServerOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

struct Running {
    server: Server,
    node: Arc<Node>,
    store: Store,
    _dir: tempfile::TempDir,
}

impl Running {
    fn start(io_threads: usize, promise: Promise, change: impl FnOnce(&mut StoreOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = StoreOptions::default();
        options.log.segment_bytes = 1 << 20;
        options.log.sync_policy = promise.durability.sync_policy(Duration::from_millis(100));
        options.log.create = Some(esker_wal::Create {
            log: esker_wal::LogId::random(),
            node: esker_wal::NodeId::random(),
            base: esker_wal::Lsn::ZERO,
        });
        change(&mut options);
        let (store, _) = Store::open(dir.path(), options).unwrap();
        let node = Node::primary(store.clone(), promise);
        let server = Server::start(
            Arc::clone(&node),
            TcpListener::bind("127.0.0.1:0").unwrap(),
            ServerOptions {
                io_threads,
                ..ServerOptions::default()
            },
        )
        .unwrap();
        Running {
            server,
            node,
            store,
            _dir: dir,
        }
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(self.server.addr()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        BufReader::new(stream)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.close(true);
        if let Some(engine) = self.node.engine() {
            engine.close();
        }
        let _ = self.store.close();
    }
}

fn line(client: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[test]
fn increments_from_many_threads_are_all_counted_once() {
    for (io_threads, durability) in [
        (1, Durability::Always),
        (3, Durability::Always),
        (3, Durability::No),
    ] {
        let promise = Promise {
            durability,
            ..Promise::default()
        };
        let running = Running::start(io_threads, promise, |_| {});
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let mut client = running.connect();
                    let mut last = 0;
                    for _ in 0..10 {
                        client
                            .get_mut()
                            .write_all(&b"INCR n\r\n".repeat(50))
                            .unwrap();
                        for _ in 0..50 {
                            let now: u64 = line(&mut client)[1..].parse().unwrap();
                            assert!(now > last, "a client's replies came out of order");
                            last = now;
                        }
                    }
                });
            }
        });
        let mut client = running.connect();
        client.get_mut().write_all(b"GET n\r\n").unwrap();
        assert_eq!(line(&mut client), "$4");
        assert_eq!(line(&mut client), "3000");
    }
}

#[test]
fn writers_are_parked_while_there_is_no_room_and_go_on_in_order() {
    let running = Running::start(2, Promise::default(), |options| {
        options.memtable_bytes = 64 << 10;
        options.memtables_max = 1;
        options.log.unsynced_bytes_max = 64 << 10;
    });
    let value = "v".repeat(2000);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (running, value) = (&running, &value);
            scope.spawn(move || {
                let mut client = running.connect();
                let mut sender = client.get_ref().try_clone().unwrap();
                scope.spawn(move || {
                    for at in 0..400 {
                        let text =
                            format!("SET {writer}-{at} {value}{at}\r\nGET {writer}-{at}\r\n");
                        sender.write_all(text.as_bytes()).unwrap();
                    }
                });
                for at in 0..400 {
                    assert_eq!(line(&mut client), "+OK");
                    let expected = format!("{value}{at}");
                    assert_eq!(line(&mut client), format!("${}", expected.len()));
                    let mut found = vec![0; expected.len() + 2];
                    client.read_exact(&mut found).unwrap();
                    assert_eq!(&found[..expected.len()], expected.as_bytes());
                }
            });
        }
    });
}

/// Each value names its write, so the log tells afterwards where its frame ended; `synced` as read right after a value
/// came must have passed that. Fails at once when replies are not held.
#[test]
fn neither_reader_nor_writer_is_told_what_is_not_synced_yet() {
    let running = Running::start(1, Promise::default(), |_| {});
    let log = running.store.log().clone();
    let mut told: Vec<(String, esker_wal::Lsn)> = Vec::new();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = running.connect();
            let mut told = Vec::new();
            for at in 0..1000 {
                let value = format!("write-{at:06}");
                let request = format!("SET a {value}\r\n");
                client.get_mut().write_all(request.as_bytes()).unwrap();
                assert_eq!(line(&mut client), "+OK");
                told.push((value, log.synced()));
            }
            told
        });
        let mut reader = running.connect();
        while !writer.is_finished() {
            reader.get_mut().write_all(b"GET a\r\n").unwrap();
            if line(&mut reader) != "$-1" {
                let value = line(&mut reader);
                told.push((value, log.synced()));
            }
        }
        told.extend(writer.join().unwrap());
    });
    let mut ends = std::collections::HashMap::new();
    let mut frames = log
        .reader(log.oldest(), esker_wal::ReadLimit::Published)
        .unwrap();
    while let Some(frame) = frames.next().unwrap() {
        let payload = &frame.payload[..];
        if let Some(at) = payload.windows(6).position(|bytes| bytes == b"write-") {
            let value = String::from_utf8(payload[at..at + 12].to_vec()).unwrap();
            ends.insert(value, frames.position());
        }
    }
    assert_eq!(ends.len(), 1000);
    for (value, synced) in told {
        assert!(
            synced >= ends[&value],
            "{value} was told before it was synced"
        );
    }
}

#[test]
fn transactions_of_many_clients_do_not_interleave() {
    let running = Running::start(3, Promise::default(), |_| {});
    std::thread::scope(|scope| {
        for writer in 0..6 {
            let running = &running;
            scope.spawn(move || {
                let mut client = running.connect();
                for at in 0..40 {
                    let text = format!(
                        "MULTI\r\nSET x {writer}-{at}\r\nSET y {writer}-{at}\r\nGET x\r\nGET y\r\nEXEC\r\n"
                    );
                    client.get_mut().write_all(text.as_bytes()).unwrap();
                    let replies: Vec<String> = (0..12).map(|_| line(&mut client)).collect();
                    assert_eq!(replies[5..8], ["*4", "+OK", "+OK"], "{replies:?}");
                    assert_eq!(replies[9], format!("{writer}-{at}"));
                    assert_eq!(replies[9], replies[11]);
                }
            });
        }
    });
}
