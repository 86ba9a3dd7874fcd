//! Three `raft-node` processes: the leader is killed under writes, nothing acknowledged is lost, every node serves.

use process::{Client, PATIENCE, eventually, free_port};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[path = "raft_node/locks.rs"]
mod locks;
#[path = "support/process.rs"]
mod process;
#[path = "raft_node/transactions.rs"]
mod transactions;

const RAFT_NODE: &str = env!("CARGO_BIN_EXE_raft-node");
struct Cluster {
    dir: tempfile::TempDir,
    clients: Vec<u16>,
    members: Vec<u16>,
    children: Vec<Option<Child>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Cluster {
    fn new(n: usize) -> Cluster {
        Cluster {
            dir: tempfile::tempdir().unwrap(),
            clients: (0..n).map(|_| free_port()).collect(),
            members: (0..n).map(|_| free_port()).collect(),
            children: (0..n).map(|_| None).collect(),
        }
    }

    fn dir(&self, at: usize) -> std::path::PathBuf {
        self.dir.path().join(format!("n{}", at + 1))
    }

    fn command(&self, at: usize, members: usize, more: &[&str]) -> Command {
        let cluster: Vec<String> = (0..members)
            .map(|at| format!("{}=tcp://127.0.0.1:{}", at + 1, self.members[at]))
            .chain(
                (at >= members).then(|| format!("{}=tcp://127.0.0.1:{}", at + 1, self.members[at])),
            )
            .collect();
        let mut command = Command::new(RAFT_NODE);
        command
            .args([
                "--id",
                &(at + 1).to_string(),
                "--cluster",
                &cluster.join(","),
            ])
            .args(["--listen", &format!("127.0.0.1:{}", self.clients[at])])
            .args([
                "--election-timeout",
                "1s",
                "--segment-size",
                "1MiB",
                "--memtable-size",
                "1MiB",
                "--request-timeout",
                "3s",
            ])
            .arg("--data-dir")
            .arg(self.dir(at))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn start(&mut self, at: usize, members: usize, more: &[&str]) {
        let child = self
            .command(at, members, more)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.children[at] = Some(child);
    }

    fn kill(&mut self, at: usize) {
        let mut child = self.children[at].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn client(&self, at: usize) -> Client {
        eventually("a connection", || Client::connect(self.clients[at]))
    }

    /// Why a start fails.
    fn refused(&self, at: usize, members: usize, more: &[&str]) -> String {
        let mut child = self.command(at, members, more).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > PATIENCE {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        assert!(!status.success(), "{text}");
        text
    }

    /// A node that leads, by the words of one that is up.
    fn leader(&self, asked: usize) -> usize {
        let mut client = self.client(asked);
        eventually("a leader", || {
            let info = client.ask_words(&["INFO", "raft"]);
            let line = info
                .lines()
                .find_map(|line| line.strip_prefix("raft_leader:"))?;
            let node: usize = line.trim().parse().ok()?;
            self.children[node - 1].is_some().then_some(node - 1)
        })
    }
}

impl Client {
    fn says(&mut self, line: &str, expected: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        // Certainly not executed, without a leader say.
        let reply = eventually("an answer", || {
            Some(self.ask_words(&words)).filter(|reply| !reply.starts_with("-CLUSTERDOWN"))
        });
        assert_eq!(reply, expected, "{line}");
    }
}

/// Keys `k0..` with what was acknowledged.
fn write(client: &mut Client, from: usize, to: usize) {
    for n in from..to {
        let (key, value) = (format!("k{n}"), format!("v{n}"));
        eventually("a write", || {
            match client.ask_words(&["SET", &key, &value]).as_str() {
                "+OK" => Some(()),
                // The same value again changes nothing.
                error
                    if error.starts_with("-CLUSTERDOWN")
                        || error.starts_with("-UNKNOWNOUTCOME") =>
                {
                    None
                }
                other => panic!("{other}"),
            }
        });
    }
}

fn all_there(client: &mut Client, to: usize) {
    for n in 0..to {
        client.says(&format!("GET k{n}"), &format!("v{n}"));
    }
    client.says("DBSIZE", &format!(":{}", to + 1));
}

#[test]
fn a_killed_leader_loses_nothing_acknowledged_and_every_node_serves() {
    let mut cluster = Cluster::new(3);
    let refused = cluster.refused(0, 3, &[]);
    assert!(
        refused.contains("--bootstrap") && refused.contains("--join"),
        "{refused}"
    );
    for at in 0..3 {
        cluster.start(at, 3, &["--bootstrap"]);
    }
    let first = cluster.leader(0);
    let through = (first + 1) % 3;
    // Through a follower, which forwards.
    let mut client = cluster.client(through);
    write(&mut client, 0, 50);
    client.says("PING", "+PONG");
    client.says("SET once 1 NX", "+OK");
    client.says("SET once 2 NX", "nil");
    client.says("INCRBY once 41", ":42");
    client.says("MGET k0 nosuch once", "v0\nnil\n42");
    client.says("EXISTS k0 k1 nosuch", ":2");
    client.says("SET short 1 PX 60", "+OK");
    eventually("the deadline", || {
        (client.ask_words(&["GET", "short"]) == "nil").then_some(())
    });
    client.says("DEL short", ":0");
    let refused = client.ask_words(&["WAIT", "1", "0"]);
    assert!(
        refused.starts_with("-ERR 'wait' is not served"),
        "{refused}"
    );
    // What is sent together is answered in its order.
    for words in [
        &["SET", "p", "1"][..],
        &["INCR", "p"],
        &["GET", "p"],
        &["NOSUCH"],
        &["DEL", "p"],
    ] {
        client.send_words(words);
    }
    for expected in ["+OK", ":2", "2", "-ERR unknown command", ":1"] {
        let reply = client.reply();
        assert!(reply.starts_with(expected), "{reply}");
    }

    cluster.kill(first);
    write(&mut client, 50, 100);
    let second = cluster.leader(through);
    assert_ne!(second, first);
    // It is refused as the founder of its cluster, and comes back as what it was.
    let refused = cluster.refused(first, 3, &["--bootstrap"]);
    assert!(refused.contains("without --bootstrap"), "{refused}");
    cluster.start(first, 3, &[]);
    for at in 0..3 {
        all_there(&mut cluster.client(at), 100);
    }
    // An order at a follower names the leader's address for clients.
    let follower = (second + 1) % 3;
    let address = format!("127.0.0.1:{}", cluster.clients[second]);
    let mut other = cluster.client(follower);
    eventually("the leader's address", || {
        other
            .ask_words(&["RAFT.TRANSFER", &(follower + 1).to_string()])
            .contains(&address)
            .then_some(())
    });
    let mut leading = cluster.client(second);
    eventually("a transfer", || {
        (leading.ask_words(&["RAFT.TRANSFER", &(follower + 1).to_string()]) == "+OK").then_some(())
    });
    assert_eq!(cluster.leader(second), follower);
    other.says("SET after transfer", "+OK");
    other.says("GET after", "transfer");
    // A clean end.
    other.send_words(&["SHUTDOWN"]);
    let mut child = cluster.children[follower].take().unwrap();
    assert!(child.wait().unwrap().success());
    client = cluster.client(second);
    client.says("GET after", "transfer");
}

/// C2: a node whose directory was emptied is not started as what it was. Members speak ZeroMQ here.
#[test]
fn c2_a_single_node_grows_to_two_and_a_wiped_one_comes_back_only_when_it_is_added_anew() {
    let mut cluster = Cluster::new(2);
    cluster.start(0, 1, &["--bootstrap", "--members-over", "zmq"]);
    let mut client = cluster.client(0);
    write(&mut client, 0, 20);
    client.says("SET last 1", "+OK");
    cluster.start(1, 1, &["--join", "--members-over", "zmq"]);
    let address = format!("tcp://127.0.0.1:{}", cluster.members[1]);
    // Refused while the node tells the cluster its address for clients.
    eventually("a member", || {
        (client.ask_words(&["RAFT.ADD", "2", &address]) == "+OK").then_some(())
    });
    let voters = |client: &mut Client, expected: &str| {
        let line = format!("raft_voters:{expected}\r\n");
        eventually("voters", || {
            let info = client.ask_words(&["INFO", "raft"]);
            (info.contains(&line) && info.contains("raft_outgoing_voters:\r\n")).then_some(())
        });
    };
    voters(&mut client, "1,2");
    all_there(&mut cluster.client(1), 20);
    eventually("removal", || {
        (client.ask_words(&["RAFT", "remove", "2"]) == "+OK").then_some(())
    });
    voters(&mut client, "1");
    cluster.kill(1);
    std::fs::remove_dir_all(cluster.dir(1)).unwrap();
    let refused = cluster.refused(1, 1, &[]);
    assert!(refused.contains("holds no Raft log"), "{refused}");
    cluster.start(1, 1, &["--join", "--members-over", "zmq"]);
    eventually("a member again", || {
        (client.ask_words(&["RAFT.ADD", "2", &address]) == "+OK").then_some(())
    });
    voters(&mut client, "1,2");
    all_there(&mut cluster.client(1), 20);
    // Only the log is lost: the state does not vouch for what was promised.
    let durable = cluster.client(1).ask_words(&["RAFT.SNAPSHOT"]);
    assert!(durable.starts_with(':') && durable != ":0", "{durable}");
    cluster.kill(1);
    std::fs::remove_dir_all(cluster.dir(1).join("log")).unwrap();
    for more in [&["--join"][..], &["--bootstrap"], &[]] {
        let refused = cluster.refused(1, 1, more);
        assert!(refused.contains("no Raft log any more"), "{refused}");
    }
    assert!(Path::new(&cluster.dir(1)).join("state").exists());
}

/// A key pair made by the tool: the file of the secret one, and the public one.
fn key(dir: &Path, node: usize) -> (String, String) {
    let file = dir.join(format!("key{node}")).display().to_string();
    let made = Command::new(env!("CARGO_BIN_EXE_esker"))
        .args(["curve-keys", &file])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let public = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    (file, public)
}

/// R6; and what a client of Redis Cluster is told.
#[test]
fn members_with_keys_send_cluster_clients_to_the_leader() {
    let mut cluster = Cluster::new(3);
    let keys: Vec<_> = (1..=3).map(|n| key(cluster.dir.path(), n)).collect();
    let publics: Vec<String> = (keys.iter().zip(1..))
        .map(|((_, public), n)| format!("{n}={public}"))
        .collect();
    let publics = publics.join(",");
    let refused = cluster.refused(0, 3, &["--bootstrap", "--curve-members", &publics]);
    assert!(refused.contains("needs both"), "{refused}");
    for at in 0..3 {
        let more = [
            "--bootstrap",
            "--on-follower",
            "redirect",
            "--read",
            "lease",
        ];
        let keys = [
            "--curve-secret-file",
            &keys[at].0,
            "--curve-members",
            &publics,
        ];
        cluster.start(at, 3, &[&more[..], &keys[..]].concat());
    }
    let leader = cluster.leader(0);
    let mut leading = cluster.client(leader);
    let mut other = cluster.client((leader + 1) % 3);
    let address = format!("127.0.0.1:{}", cluster.clients[leader]);
    other.says("SET foo 1", &format!("-MOVED 12182 {address}"));
    other.says("GET foo", &format!("-MOVED 12182 {address}"));
    leading.says("SET foo 1", "+OK");
    leading.says("GET foo", "1");
    // Said READONLY, it reads where it is, and nothing older.
    other.says("READONLY", "+OK");
    other.says("GET foo", "1");
    other.says("SET foo 2", &format!("-MOVED 12182 {address}"));
    other.says("READWRITE", "+OK");
    other.says("GET foo", &format!("-MOVED 12182 {address}"));
    // What has no key is answered here.
    other.says("DBSIZE", ":1");
    other.says("CLUSTER KEYSLOT foo", ":12182");
    for client in [&mut leading, &mut other] {
        let slots = client.ask_words(&["CLUSTER", "SLOTS"]);
        let slots: Vec<&str> = slots.lines().collect();
        let port = format!(":{}", cluster.clients[leader]);
        assert_eq!(slots[..4], [":0", ":16383", "127.0.0.1", &port]);
        let shards = client.ask_words(&["CLUSTER", "SHARDS"]);
        assert!(
            shards.starts_with("slots\n:0\n:16383\nnodes\nid"),
            "{shards}"
        );
        let nodes = client.ask_words(&["CLUSTER", "NODES"]);
        assert!(
            nodes.contains(" 0-16383\n") && nodes.contains("myself,"),
            "{nodes}"
        );
        let info = client.ask_words(&["CLUSTER", "INFO"]);
        assert!(info.contains("cluster_state:ok"), "{info}");
    }
}

/// RF1, WR1, WR2: what a client sends at once runs in its order, whichever thread serves it, and all of it is answered though the client sends
/// no more; many clients at once as well.
#[test]
fn what_is_sent_at_once_is_answered_in_order_also_to_one_that_hangs_up() {
    let mut cluster = Cluster::new(1);
    cluster.start(0, 1, &["--bootstrap"]);
    cluster.client(0).says("SET warm 1", "+OK");
    let mut all: Vec<Client> = (0..40).map(|_| cluster.client(0)).collect();
    for (n, client) in all.iter_mut().enumerate() {
        let key = format!("k{n}");
        for round in 0..300 {
            client.send_words(&["INCR", &key]);
            if round % 100 == 99 {
                client.send_words(&["PING"]);
            }
        }
        client.send_words(&["NOSUCH"]);
        if n % 2 == 0 {
            client.send_words(&["GET", &key]);
            client.send_words(&["INCR", &key]);
        }
        let stream = client.0.get_mut();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
    for (n, client) in all.iter_mut().enumerate() {
        for round in 0..300 {
            assert_eq!(client.reply(), format!(":{}", round + 1));
            if round % 100 == 99 {
                assert_eq!(client.reply(), "+PONG");
            }
        }
        assert!(client.reply().starts_with("-ERR unknown command"));
        if n % 2 == 0 {
            assert_eq!(client.reply(), "300");
            assert_eq!(client.reply(), ":301");
        }
        let mut rest = Vec::new();
        client.0.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }
}

/// AS2: nobody writes, so replicated time stands still; what is left of a key's time does not.
#[test]
fn what_is_left_of_a_keys_time_falls_though_nobody_writes() {
    let mut cluster = Cluster::new(3);
    for at in 0..3 {
        cluster.start(at, 3, &["--bootstrap"]);
    }
    let leader = cluster.leader(0);
    cluster.client(leader).says("SET k v PX 600000", "+OK");
    for at in 0..3 {
        let mut client = cluster.client(at);
        let mut left = |transaction: bool| {
            let reply = match transaction {
                false => client.ask("PTTL k"),
                true => client.exec(&["PTTL k"]),
            };
            reply.trim_start_matches(':').parse::<i64>().unwrap()
        };
        let first = left(false);
        assert!((1..=600_000).contains(&first), "{first}");
        std::thread::sleep(Duration::from_millis(20));
        for transaction in [false, true] {
            let now = left(transaction);
            assert!(now <= first - 20, "{first} ms, and 20 ms later {now}");
        }
    }
}

/// JN1: what writes a whole value anew is not refused for what else is sent with it.
#[test]
fn deadlines_of_large_values_are_set_all_at_once() {
    let mut cluster = Cluster::new(1);
    cluster.start(0, 1, &["--bootstrap"]);
    let mut client = cluster.client(0);
    let value = "v".repeat(4 << 20);
    let keys: Vec<String> = (0..10).map(|n| format!("k{n}")).collect();
    for key in &keys {
        client.send_words(&["SET", key, &value]);
        assert_eq!(client.reply(), "+OK");
    }
    for command in ["EXPIRE", "PERSIST"] {
        for key in &keys {
            match command {
                "EXPIRE" => client.send_words(&[command, key, "100"]),
                _ => client.send_words(&[command, key]),
            }
        }
        for _ in &keys {
            assert_eq!(client.reply(), ":1", "{command}");
        }
    }
}

/// WR1: a request that comes a few bytes at a time is one all the same, and so is what stands behind it.
#[test]
fn a_request_that_comes_in_pieces_is_read_on_where_it_was() {
    let mut cluster = Cluster::new(1);
    cluster.start(0, 1, &["--bootstrap"]);
    let mut client = cluster.client(0);
    client.says("SET warm 1", "+OK");
    let mut sent = String::from("*6001\r\n$4\r\nMSET\r\n");
    for n in 0..3000 {
        sent += &format!("$5\r\nk{n:04}\r\n$2\r\n{:02}\r\n", n % 100);
    }
    sent += "*2\r\n$3\r\nGET\r\n$5\r\nk2999\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n";
    for piece in sent.as_bytes().chunks(97) {
        client.0.get_mut().write_all(piece).unwrap();
        std::thread::sleep(Duration::from_micros(50));
    }
    assert_eq!(client.reply(), "+OK");
    assert_eq!(client.reply(), "99");
    assert_eq!(client.reply(), ":1");
}

/// WR4: out of descriptors the clients that are there are served, those that go make room, and others come in then.
#[test]
fn a_node_out_of_descriptors_serves_its_clients_and_takes_others_once_some_have_gone() {
    let mut cluster = Cluster::new(1);
    cluster.start(0, 1, &["--bootstrap"]);
    cluster.leader(0);
    let mut client = cluster.client(0);
    client.says("SET k 0", "+OK");
    let pid = Pid::from_child(cluster.children[0].as_ref().unwrap());
    let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
    let open = open.count() as u64;
    let idle = || TcpStream::connect(("127.0.0.1", cluster.clients[0])).unwrap();
    // A client has two: out of descriptors is the node with the first of one, or with the second.
    for spare in [140, 141] {
        let limit = Rlimit {
            current: Some(open + spare),
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        prlimit(Some(pid), Resource::Nofile, limit).unwrap();
        let mut all: Vec<TcpStream> = (0..100).map(|_| idle()).collect();
        for n in 0..20 {
            client.says(&format!("SET k {n}"), "+OK");
        }
        all.drain(..50);
        // What comes with the last descriptor but one is let go.
        let late = eventually("a further client", || {
            let mut late = Client::connect(cluster.clients[0])?;
            late.send("PING");
            let mut pong = [0; 7];
            late.0.read_exact(&mut pong).ok()?;
            Some(late)
        });
        drop(late);
    }
}

/// The limit of open files is raised to what the clients need; where it can't be there are fewer clients.
#[test]
fn a_node_raises_its_limit_of_open_files_or_takes_fewer_clients() {
    for (limit, soft, clients, says) in [
        ("ulimit -Sn 300", "3072", "1024", "raised the limit"),
        ("ulimit -n 300", "300", "75", "raise the hard limit"),
    ] {
        let mut cluster = Cluster::new(1);
        let node = cluster.command(0, 1, &["--bootstrap"]);
        let err = cluster.dir.path().join("err");
        let child = Command::new("sh")
            .args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")])
            .arg(node.get_program())
            .args(node.get_args())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&err).unwrap())
            .spawn()
            .unwrap();
        let limits = format!("/proc/{}/limits", child.id());
        cluster.children[0] = Some(child);
        let info = cluster.client(0).ask("INFO clients");
        assert!(info.contains(&format!("maxclients:{clients}\r")), "{info}");
        let limits = std::fs::read_to_string(limits).unwrap();
        let open = limits.lines().find(|line| line.starts_with("Max open"));
        let is = open.and_then(|line| line.split_whitespace().nth(3));
        assert_eq!(is, Some(soft));
        let err = std::fs::read_to_string(&err).unwrap();
        assert!(err.contains(says), "{err}");
    }
}

/// JN2, JN3, RF1: what many clients write at once may stand in one entry of the log; each is answered what it asked.
#[test]
fn clients_that_write_at_once_are_answered_their_own() {
    const CLIENTS: usize = 24;
    const ROUNDS: usize = 60;
    let mut cluster = Cluster::new(1);
    cluster.start(0, 1, &["--bootstrap"]);
    cluster.leader(0);
    let won = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|me| {
                let mut client = cluster.client(0);
                scope.spawn(move || {
                    let none = match me % 2 {
                        0 => "nil",
                        _ => {
                            let hello = client.ask("HELLO 3");
                            assert!(hello.contains("proto\n:3"), "{hello}");
                            "_"
                        }
                    };
                    let mut won = 0;
                    for round in 1..=ROUNDS {
                        let turn = format!("turn-{round}");
                        client.send(&format!("INCR n-{me}"));
                        client.send_words(&["SET", &turn, "x", "NX"]);
                        client.send(&format!("INCR {turn}"));
                        client.send(&format!("DEL {me}-a {me}-b"));
                        client.send(&format!("MSET {me}-a 1 {me}-b 2"));
                        assert_eq!(client.reply(), format!(":{round}"));
                        match client.reply() {
                            first if first == "+OK" => won += 1,
                            other => assert_eq!(other, none),
                        }
                        let error = client.reply();
                        assert!(error.starts_with("-ERR value is not an integer"), "{error}");
                        assert_eq!(client.reply(), if round == 1 { ":0" } else { ":2" });
                        assert_eq!(client.reply(), "+OK");
                        if round % 7 == 0 {
                            // What writes a value anew goes alone.
                            client.send(&format!("EXPIRE n-{me} 1000"));
                            client.send(&format!("SETEX {me}-c 100 1"));
                            assert_eq!(client.reply(), ":1");
                            assert_eq!(client.reply(), "+OK");
                        }
                    }
                    won
                })
            })
            .collect();
        (clients.into_iter())
            .map(|client| client.join().unwrap())
            .sum::<usize>()
    });
    assert_eq!(won, ROUNDS);
}
