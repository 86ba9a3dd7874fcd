//! `MULTI`, `WATCH`, `EXEC` and what members know of each other, over processes.

use super::{Client, Cluster, eventually};

fn three(more: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(3);
    for at in 0..3 {
        cluster.start(at, 3, &[&["--bootstrap"], more].concat());
    }
    cluster
}

#[test]
fn a_transaction_is_one_through_any_node() {
    let cluster = three(&[]);
    let leader = cluster.leader(0);
    for at in [leader, (leader + 1) % 3] {
        let mut client = cluster.client(at);
        client.says("FLUSHALL", "+OK");
        let reply = client.exec(&[
            "SET a x",
            "PING",
            "INCR a",
            "APPEND a y",
            "GET a",
            "ECHO hi",
            "KEYS *",
            "DEL a",
            "GET a",
            "SET b 1",
        ]);
        let error = "-ERR value is not an integer or out of range";
        let expected = [
            "+OK", "+PONG", error, ":2", "xy", "hi", "a", ":1", "nil", "+OK",
        ];
        assert_eq!(reply.lines().collect::<Vec<_>>(), expected);
        // One that only reads, one that does not even, and none at all.
        assert_eq!(client.exec(&["GET b", "EXISTS a b", "TTL b"]), "1\n:1\n:-1");
        assert_eq!(client.exec(&["PING"]), "+PONG");
        assert_eq!(client.exec(&[]), "");
        client.says("EXEC", "-ERR EXEC without MULTI");
        client.says("DISCARD", "-ERR DISCARD without MULTI");
        client.says("MULTI", "+OK");
        client.says("SET b 2", "+QUEUED");
        client.says("MULTI", "-ERR MULTI calls can not be nested");
        client.says("WATCH b", "-ERR WATCH inside MULTI is not allowed");
        let list = cluster.client(at).ask("CLIENT LIST");
        let (me, multi) = (format!("addr={} ", client.address()), "multi=1");
        assert!(
            list.lines().any(|l| l.contains(&me) && l.contains(multi)),
            "{list}"
        );
        client.says("DISCARD", "+OK");
        let list = cluster.client(at).ask("CLIENT LIST");
        assert!(!list.contains(multi), "{list}");
        client.says("GET b", "1");
        for refused in [
            "NOSUCH",
            "GET",
            "SCAN 0",
            "RANDOMKEY",
            "HELLO 3",
            "WAIT 1 0",
            "SHUTDOWN",
            "LOCK.LIST",
            "LOCK.IF a 1 SET b 3",
            "LOCK.IF a 0 EXEC",
            "RAFT.STATUS",
            "CLUSTER SLOTS",
        ] {
            client.says("MULTI", "+OK");
            client.says("SET b 3", "+QUEUED");
            let reply = client.ask(refused);
            assert!(reply.starts_with("-ERR"), "{refused}: {reply}");
            client.says(
                "EXEC",
                "-EXECABORT Transaction discarded because of previous errors.",
            );
            client.says("GET b", "1");
        }
        // All of it is sent at once, and what comes behind sees it.
        for line in [
            "SET p 1", "MULTI", "INCR p", "INCR p", "EXEC", "GET p", "WATCH p", "MULTI", "GET p",
            "EXEC", "DEL p",
        ] {
            client.send(line);
        }
        for expected in [
            "+OK", "+OK", "+QUEUED", "+QUEUED", ":2\n:3", "3", "+OK", "+OK", "+QUEUED", "3", ":1",
        ] {
            assert_eq!(client.reply(), expected);
        }
        // W7.
        let long = "x".repeat(7 << 20);
        client.says("MULTI", "+OK");
        client.says(&format!("SET long {long}"), "+QUEUED");
        let reply = client.ask_words(&["SET", "long2", &long]);
        assert!(
            reply.starts_with("-ERR a transaction holds at most 12582912 bytes"),
            "{reply}"
        );
        client.says(
            "EXEC",
            "-EXECABORT Transaction discarded because of previous errors.",
        );
        assert_eq!(
            client.exec(&[&format!("SET long {long}"), "STRLEN long"]),
            "+OK\n:7340032"
        );
        // RT3.
        let reply = client.exec(&[
            "SET b 4", "GET long", "GET long", "GET long", "GET long", "GET long",
        ]);
        assert!(
            reply.starts_with("-EXECABORT") && reply.contains("send it in parts"),
            "{reply}"
        );
        client.says("GET b", "1");
        // Nothing is another thing in RESP3.
        client.says("WATCH b", "+OK");
        assert!(client.ask("HELLO 3").ends_with("modules\n"));
        cluster.client(at).says("SET b 1", "+OK");
        assert_eq!(client.exec(&["GET nosuch"]), "_");
        assert_eq!(client.exec(&["GET nosuch", "PING"]), "_\n+PONG");
    }
}

#[test]
fn an_exec_with_arguments_ends_the_transaction_of_a_member_s_client_too() {
    const DISCARDED: &str =
        "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command";
    let mut cluster = Cluster::new(1);
    cluster.start(0, 1, &["--bootstrap"]);
    let (mut client, mut other) = (cluster.client(0), cluster.client(0));
    client.says("SET k 1", "+OK");
    client.says("MULTI", "+OK");
    client.says("SET k 2", "+QUEUED");
    client.says("EXEC now", DISCARDED);
    client.says("EXEC", "-ERR EXEC without MULTI");
    client.says("WATCH k", "+OK");
    client.says("EXEC now", DISCARDED);
    other.says("SET k 3", "+OK");
    assert_eq!(client.exec(&["GET k"]), "3");
}

/// As in Redis: who gets a connection of a pool, and says RESET, does not inherit it.
#[test]
fn reset_ends_readonly() {
    let cluster = three(&["--on-follower", "redirect"]);
    let leader = cluster.leader(0);
    let mut client = cluster.client((leader + 1) % 3);
    let moved = format!("-MOVED 12182 127.0.0.1:{}", cluster.clients[leader]);
    eventually("where the leader is", || {
        (client.ask("GET foo") == moved).then_some(())
    });
    let hello = client.ask("HELLO 2");
    assert!(
        hello.contains("mode") && hello.contains("cluster"),
        "{hello}"
    );
    client.says("READONLY", "+OK");
    client.says("GET foo", "nil");
    client.says("RESET", "+RESET");
    client.says("GET foo", &moved);
}

/// C3: connections on different nodes.
#[test]
fn c3_watch_notices_a_write_through_another_node() {
    let cluster = three(&[]);
    let leader = cluster.leader(0);
    let (mut on_follower, mut on_leader) =
        (cluster.client((leader + 1) % 3), cluster.client(leader));
    let mut other = cluster.client((leader + 2) % 3);
    for (at, client) in [&mut on_follower, &mut on_leader].into_iter().enumerate() {
        for (write, seen) in [
            // The same value again.
            ("SET k 1", true),
            ("EXPIRE k 100", true),
            ("DEL k", true),
            ("FLUSHALL", true),
            ("RENAME k l", true),
            ("GETDEL k", true),
            ("SET none 1", true),
            ("SET other 1", false),
            ("SETNX k 2", false),
            ("DEL nosuch", false),
            ("GET k", false),
        ] {
            for reads in [false, true] {
                other.says("SET k 1", "+OK");
                other.ask("DEL none");
                client.says("WATCH k none", "+OK");
                other.ask(write);
                let lines: &[&str] = if reads { &["GET k"] } else { &["SET mine 1"] };
                let reply = client.exec(lines);
                assert_eq!(reply == "nil", seen, "{at} {write} {reads}: {reply}");
                // It is over with EXEC.
                assert_eq!(client.exec(&["SET mine 1"]), "+OK");
            }
        }
        // Gone and there again; and what is forgotten is not noticed.
        other.says("SET k 1", "+OK");
        client.says("WATCH k", "+OK");
        other.says("DEL k", ":1");
        other.says("SET k 1", "+OK");
        assert_eq!(client.exec(&["PING"]), "nil");
        for forget in ["UNWATCH", "MULTI", "RESET"] {
            client.says("WATCH k", "+OK");
            other.says("SET k 1", "+OK");
            assert!(client.ask(forget).starts_with('+'));
            if forget == "MULTI" {
                client.says("DISCARD", "+OK");
            }
            assert_eq!(client.exec(&["GET k"]), "1");
        }
        // A deadline passes.
        let mut millis = 100;
        loop {
            other.says(&format!("SET short 1 PX {millis}"), "+OK");
            client.says("WATCH short", "+OK");
            if client.ask("GET short") == "1" {
                break;
            }
            // It was too late to watch it.
            client.says("UNWATCH", "+OK");
            millis *= 2;
        }
        eventually("the deadline", || {
            (other.ask("GET short") == "nil").then_some(())
        });
        assert_eq!(client.exec(&["SET mine 2"]), "nil");
        // Not by itself.
        client.says("WATCH k", "+OK");
        client.says("SET k 3", "+OK");
        assert_eq!(client.exec(&["GET k"]), "nil");
        let many = (0..20).map(|n| format!("{n}{}", "x".repeat(60_000)));
        let many: Vec<String> = std::iter::once("WATCH".into()).chain(many).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let refused = client.ask_words(&many);
        assert!(
            refused.starts_with("-ERR the keys that are watched"),
            "{refused}"
        );
        client.says("UNWATCH", "+OK");
    }
    // TX4.
    on_leader.says("SET k 1", "+OK");
    let reply = on_leader.ask("LOCK.ACQUIRE door id 60000");
    let token = reply
        .lines()
        .next()
        .and_then(|line| line.strip_prefix(':'))
        .expect("a token")
        .to_owned();
    let under = |client: &mut Client, token: &str, line: &str| {
        client.says("MULTI", "+OK");
        client.says(line, "+QUEUED");
        client.ask(&format!("LOCK.IF door {token} EXEC"))
    };
    assert_eq!(under(&mut on_follower, &token, "INCR k"), ":2");
    assert_eq!(under(&mut on_follower, &token, "GET k"), "2");
    let fenced = under(&mut on_follower, "999999", "INCR k");
    assert!(fenced.starts_with("-FENCED"), "{fenced}");
    on_follower.says("WATCH k", "+OK");
    on_leader.says("INCR k", ":3");
    assert_eq!(under(&mut on_follower, &token, "INCR k"), "nil");
    on_follower.says("GET k", "3");
}

/// TX1, TX3: between WATCH, MULTI and EXEC leaders go, nodes start again, and snapshots are taken.
#[test]
fn c3_what_is_watched_survives_leaders_restarts_and_snapshots() {
    let mut cluster = three(&[]);
    let first = cluster.leader(0);
    let through = (first + 1) % 3;
    let third = (first + 2) % 3;
    let mut client = cluster.client(through);
    client.says("MSET k 1 l 1", "+OK");
    client.says("WATCH k", "+OK");
    client.says("MULTI", "+OK");
    client.says("INCR k", "+QUEUED");
    client.says("INCR l", "+QUEUED");
    cluster.kill(first);
    // As long as nobody can say whether it was executed, both are as they were, or both are not; and never twice.
    let mut reply = client.ask("EXEC");
    while reply != ":2\n:2" {
        let known = reply == "nil" || reply.starts_with("-CLUSTERDOWN");
        assert!(known || reply.starts_with("-UNKNOWNOUTCOME"), "{reply}");
        let found = eventually("a leader", || {
            client.says("WATCH k", "+OK");
            Some(client.ask("MGET k l")).filter(|found| !found.starts_with("-CLUSTERDOWN"))
        });
        if found == "2\n2" {
            break;
        }
        assert_eq!(found, "1\n1");
        reply = client.exec(&["INCR k", "INCR l"]);
    }
    client.says("UNWATCH", "+OK");
    client.says("MGET k l", "2\n2");
    // All others start again, from what they have on disk, behind a snapshot of their states.
    for changed in [false, true] {
        client.says("WATCH k none", "+OK");
        cluster.start(first, 3, &[]);
        eventually("a snapshot", || {
            let mut other = cluster.client(first);
            let has = other.ask("GET k") == "2" && other.ask("RAFT.SNAPSHOT").starts_with(':');
            has.then_some(())
        });
        assert!(cluster.client(third).ask("RAFT.SNAPSHOT").starts_with(':'));
        if changed {
            // The same value.
            cluster.client(third).says("SET k 2", "+OK");
        }
        cluster.kill(third);
        cluster.start(third, 3, &[]);
        cluster.client(third).says("GET k", "2");
        assert_eq!(
            client.exec(&["APPEND none x"]),
            if changed { "nil" } else { ":1" }
        );
        client.says("DEL none", if changed { ":0" } else { ":1" });
        cluster.kill(first);
    }
}

/// CL3, DR7: what members know of each other's addresses, and what clients of Redis Cluster are told.
#[test]
fn cluster_clients_are_sent_away_and_every_member_is_named_though_it_never_led() {
    let mut cluster = three(&["--on-follower", "redirect"]);
    let leader = cluster.leader(0);
    let (follower, third) = ((leader + 1) % 3, (leader + 2) % 3);
    for at in 0..3 {
        let mut client = cluster.client(at);
        eventually("all addresses", || {
            let slots = client.ask("CLUSTER SLOTS");
            let port = |at: &usize| slots.contains(&format!(":{}\n", cluster.clients[*at]));
            [0, 1, 2].iter().all(port).then_some(())
        });
    }
    let address = |at: usize| format!("127.0.0.1:{}", cluster.clients[at]);
    let (mut leading, mut other) = (cluster.client(leader), cluster.client(follower));
    let moved = format!("-MOVED 12182 {}", address(leader));
    other.says("WATCH foo", &moved);
    other.says("MULTI", "+OK");
    other.says("SET foo 1", &moved);
    other.says(
        "EXEC",
        "-EXECABORT Transaction discarded because of previous errors.",
    );
    // Said READONLY, what only reads is done where it is.
    other.says("READONLY", "+OK");
    other.says("WATCH foo", "+OK");
    assert_eq!(other.exec(&["GET foo"]), "nil");
    other.says("MULTI", "+OK");
    other.says("GET foo", "+QUEUED");
    other.says("SET foo 1", &moved);
    other.says("DISCARD", "+OK");
    leading.says("WATCH foo", "+OK");
    leading.says("MULTI", "+OK");
    leading.says("SET foo 1", "+QUEUED");
    leading.says("PING", "+QUEUED");
    eventually("a transfer", || {
        let order = format!("RAFT.TRANSFER {}", follower + 1);
        (cluster.client(leader).ask(&order) == "+OK").then_some(())
    });
    let moved = format!("-MOVED 12182 {}", address(follower));
    assert_eq!(leading.ask("EXEC"), moved);
    leading.says("EXEC", "-ERR EXEC without MULTI");
    // Another address, of one that does not lead, at its next start.
    cluster.kill(third);
    let elsewhere = "localhost:7";
    cluster.start(
        third,
        3,
        &["--on-follower", "redirect", "--advertise", elsewhere],
    );
    let mut client = cluster.client(follower);
    eventually("the other address", || {
        let status = client.ask("RAFT.STATUS");
        status
            .contains(&format!("client={elsewhere},"))
            .then_some(())
    });
}
