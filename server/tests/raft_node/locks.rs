//! Locks for Redis clients, and `SET ... NX PX`, over processes.

use super::{Client, Cluster, eventually};
use std::time::{Duration, Instant};

impl Client {
    /// An answer to words with blanks between them; without a leader it is asked again.
    fn line(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        eventually("an answer", || {
            Some(self.ask_words(&words)).filter(|reply| !reply.starts_with("-CLUSTERDOWN"))
        })
    }

    /// The token of an ACQUIRE.
    fn acquire(&mut self, line: &str) -> Option<u64> {
        let reply = self.line(&format!("LOCK.ACQUIRE {line}"));
        let token = reply.lines().next()?.strip_prefix(':')?;
        token.parse().ok()
    }

    fn field(&mut self, lock: &str, name: &str) -> Option<String> {
        let reply = self.line(&format!("LOCK.INFO {lock}"));
        let mut lines = reply.lines();
        lines.find(|line| *line == name)?;
        lines.next().map(str::to_owned)
    }
}

#[test]
fn locks_are_served_to_redis_clients_and_their_keys_are_nobodys() {
    let mut cluster = Cluster::new(1);
    cluster.start(0, 1, &["--bootstrap"]);
    let (mut one, mut two) = (cluster.client(0), cluster.client(0));
    let token = eventually("a lock", || one.acquire("door r1 60000"));
    // K4: sent again.
    assert_eq!(one.acquire("door r1 60000"), Some(token));
    assert_eq!(two.acquire("door r2 60000"), None);
    // LK2: under a token.
    one.says(&format!("LOCK.IF door {token} SET k v"), "+OK");
    let refused = two.line(&format!("LOCK.IF door {} SET k w", token + 1));
    assert!(
        refused.starts_with("-FENCED") && refused.contains(&format!("token {token} does")),
        "{refused}"
    );
    for (line, error) in [
        (format!("LOCK.IF door {token} GET k"), "writes a key"),
        (format!("LOCK.IF door {token} LOCK.LIST"), "unknown command"),
        (format!("LOCK.IF door {token}"), "ERR use LOCK.IF"),
        // No lock has such a name; an answer would repeat it.
        (
            format!("LOCK.IF {} 1 SET k v", "n".repeat(256)),
            "ERR the name of a lock has from 1 to 255 bytes",
        ),
        ("LOCK.ACQUIRE door".into(), "ERR use LOCK.ACQUIRE"),
        ("LOCK.ACQUIRE door r9 1".into(), "time to live"),
        ("LOCK.RELEASE door 0".into(), "ERR use"),
        (
            "LOCK.ACQUIRE door r9 1000 WAIT 86400001".into(),
            "a wait is at most",
        ),
        ("LOCK.WATCH door WAIT 86400001".into(), "a wait is at most"),
        ("LOCK.NOSUCH".into(), "ERR use"),
    ] {
        let reply = one.line(&line);
        assert!(
            reply.starts_with('-') && reply.contains(error),
            "{line}: {reply}"
        );
    }
    // In a pipeline, with guards that change.
    for (guard, key) in [(token, "a"), (token, "b"), (token + 9, "c")] {
        one.send_words(&["LOCK.IF", "door", &guard.to_string(), "SET", key, "1"]);
    }
    one.send_words(&["SET", "d", "1"]);
    let replies: Vec<String> = (0..4).map(|_| one.reply()).collect();
    assert_eq!(
        (&replies[0][..], &replies[1][..], &replies[3][..]),
        ("+OK", "+OK", "+OK")
    );
    assert!(replies[2].starts_with("-FENCED"), "{replies:?}");
    // K8: users' commands do not reach the locks.
    one.says("DBSIZE", ":4");
    assert_eq!(one.line("KEYS *").lines().count(), 4);
    one.says("FLUSHALL", "+OK");
    one.says("DBSIZE", ":0");
    assert_eq!(two.field("door", "id").as_deref(), Some("r1"));
    assert_eq!(
        two.line("LOCK.LIST MATCH d* COUNT 5").lines().nth(1),
        Some("door")
    );
    assert_eq!(two.line("LOCK.LIST AFTER door"), "");
    one.says(&format!("LOCK.RENEW door {token} 50000"), ":50000");
    // Who waits gets it when it is released.
    two.send_words(&[
        "LOCK.ACQUIRE",
        "door",
        "r3",
        "60000",
        "WAIT",
        "60000",
        "PRIORITY",
        "7",
    ]);
    eventually("a waiter", || {
        (one.field("door", "waiters")? == ":1").then_some(())
    });
    one.says(&format!("LOCK.RELEASE door {token}"), ":1");
    let second: u64 = two.reply().lines().next().unwrap()[1..].parse().unwrap();
    assert!(second > token, "K2");
    one.says(&format!("LOCK.RELEASE door {token}"), ":0");
    let lost = one.line(&format!("LOCK.RENEW door {token}"));
    assert!(lost.starts_with("-LOCKLOST"), "{lost}");
    // A watcher, and an operator.
    two.send_words(&["LOCK.WATCH", "door", &second.to_string()]);
    one.says(&format!("LOCK.RELEASE door {second} FORCE"), ":1");
    // That it is free is not what is answered when nothing has happened.
    let free = two.reply();
    let free: Vec<&str> = free.lines().collect();
    assert_eq!(free[..4], ["name", "door", "token", ":0"], "{free:?}");
    assert_eq!(two.line("LOCK.WATCH door 0 WAIT 30"), "nil");
    two.says("LOCK.INFO door", "nil");
    // A claim that is cancelled before it comes does not begin.
    one.says("LOCK.RELEASE door ID r4", ":0");
    let ended = two.line("LOCK.ACQUIRE door r4 1000");
    assert!(ended.contains("cancelled"), "{ended}");
    // K5: nobody writes, and a dead client's lock goes to who waits.
    let third = one.acquire("door r5 300").expect("free");
    let fourth = two.acquire("door r6 60000 WAIT 60000").expect("it expires");
    assert!(fourth > third);
    // LK3: who hangs up does not wait.
    let mut gone = cluster.client(0);
    gone.send_words(&["LOCK.ACQUIRE", "door", "r7", "60000", "WAIT", "60000"]);
    eventually("a waiter", || {
        (one.field("door", "waiters")? == ":1").then_some(())
    });
    // Nobody reads it yet.
    gone.send_words(&["PING"]);
    drop(gone);
    eventually("no waiter", || {
        (one.field("door", "waiters")? == ":0").then_some(())
    });
    // K8: over kill -9.
    cluster.kill(0);
    cluster.start(0, 1, &[]);
    let mut one = cluster.client(0);
    assert_eq!(one.field("door", "token"), Some(format!(":{fourth}")));
}

/// `SET key value NX PX` decides where it stands in the log, whichever node is asked, and who has the answer is seen by all.
#[test]
fn c3_set_nx_px_has_one_winner_on_whatever_node_and_over_a_fail_over() {
    let mut cluster = Cluster::new(3);
    for at in 0..3 {
        cluster.start(at, 3, &["--bootstrap"]);
    }
    let leader = cluster.leader(0);
    let nodes: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    for round in 0..30 {
        if round == 10 {
            cluster.kill(leader);
        }
        let key = format!("lock {round}");
        // Whoever asks sees no other winner once one is known.
        let race = |at: usize, who: String| {
            let mut client = cluster.client(at);
            let mut unknown = false;
            let won = loop {
                let reply = client.ask_words(&["SET", &key, &who, "NX", "PX", "60000"]);
                match reply.as_str() {
                    "+OK" => break true,
                    // An earlier try of its own may have won.
                    "nil" => break unknown && client.ask_words(&["GET", &key]) == who,
                    error if error.starts_with("-UNKNOWNOUTCOME") => unknown = true,
                    error => assert!(error.starts_with("-CLUSTERDOWN"), "{error}"),
                }
            };
            let seen = eventually("a reading", || {
                Some(client.ask_words(&["GET", &key])).filter(|reply| !reply.starts_with('-'))
            });
            (won, who, seen)
        };
        let all: Vec<(bool, String, String)> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..4)
                .map(|n| {
                    let at = nodes[n % nodes.len()];
                    scope.spawn(move || race(at, format!("client {n}")))
                })
                .collect();
            racers
                .into_iter()
                .map(|racer| racer.join().unwrap())
                .collect()
        });
        let winners: Vec<&String> = all
            .iter()
            .filter(|(won, ..)| *won)
            .map(|(_, who, _)| who)
            .collect();
        assert_eq!(winners.len(), 1, "{all:?}");
        assert!(all.iter().all(|(_, _, seen)| seen == winners[0]), "{all:?}");
    }
    // It ends, and not before its time.
    let mut client = cluster.client(nodes[0]);
    let begun = Instant::now();
    client.says("SET short one NX PX 400", "+OK");
    let mut other = cluster.client(nodes[1]);
    eventually("the end", || {
        (other.line("SET short two NX PX 60000") == "+OK").then_some(())
    });
    // The leader's clock runs at most a tenth too fast.
    assert!(begun.elapsed() >= Duration::from_millis(360));
    client.says("GET short", "two");
}
