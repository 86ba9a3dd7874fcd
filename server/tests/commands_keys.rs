//! Keys: names of any bytes, deadlines and the clock, walks over all keys.

mod support;

use esker_server::engine::ExpiryPlace;
use esker_server::engine::clock::ManualTimeSource;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::sync::Arc;
use support::{Client, Db, seeds};

fn bulks(reply: &[u8]) -> Vec<Vec<u8>> {
    let mut at = 0;
    let mut found = Vec::new();
    while at < reply.len() {
        let end = at
            + reply[at..]
                .windows(2)
                .position(|pair| pair == b"\r\n")
                .expect("a line");
        let number: i64 = std::str::from_utf8(&reply[at + 1..end])
            .expect("text")
            .parse()
            .unwrap_or(0);
        let kind = reply[at];
        at = end + 2;
        if kind == b'$' && number >= 0 {
            found.push(reply[at..at + number as usize].to_vec());
            at += number as usize + 2;
        }
    }
    found
}

/// All keys by SCAN, with how many calls it took.
fn scan_all(client: &mut Client<'_>, count: usize) -> (Vec<Vec<u8>>, usize) {
    let (mut cursor, mut keys, mut calls) = (b"0".to_vec(), Vec::new(), 0);
    loop {
        let mut found =
            bulks(&client.raw(&[b"SCAN", &cursor, b"COUNT", count.to_string().as_bytes()]));
        calls += 1;
        cursor = found.remove(0);
        keys.append(&mut found);
        if cursor == b"0" {
            return (keys, calls);
        }
    }
}

#[test]
fn a_key_may_be_any_bytes_and_the_systems_own_are_not_seen() {
    let db = Db::timed(1_000_000);
    let mut a = db.client();
    let keys: [&[u8]; 7] = [
        b"",
        b"\0",
        b"\0\0",
        b"\0\0clock",
        b"\0\x01",
        b"\xff\xfe",
        b"plain",
    ];
    for key in keys {
        assert_eq!(a.raw(&[b"SET", key, key]), b"+OK\r\n");
    }
    // A deadline that passes makes the engine keep its clock in the store.
    a.says("SET gone 1 PX 1", "+OK");
    db.time.as_ref().expect("clock").advance_millis(5);
    a.says("GET gone", "$-1");
    assert!(db.engine.clock().kept() >= 1_000_005);
    for key in keys {
        assert_eq!(bulks(&a.raw(&[b"GET", key])), [key.to_vec()]);
    }
    a.says("DBSIZE", ":7");
    let all: BTreeSet<Vec<u8>> = bulks(&a.raw(&[b"KEYS", b"*"])).into_iter().collect();
    assert_eq!(all, keys.iter().map(|key| key.to_vec()).collect());
    let (scanned, _) = scan_all(&mut a, 2);
    assert_eq!(scanned.into_iter().collect::<BTreeSet<_>>(), all);
    a.says("FLUSHALL", "+OK");
    a.says("DBSIZE", ":0");
    for key in keys {
        assert_eq!(a.raw(&[b"EXISTS", key]), b":0\r\n");
    }
}

#[test]
fn scan_returns_every_key_that_stays_once_whatever_else_changes() {
    for seed in seeds(6) {
        let mut rng = StdRng::seed_from_u64(seed);
        let db = Db::new();
        let mut a = db.client();
        let stay: BTreeSet<Vec<u8>> = (0..300)
            .map(|_| format!("stay:{}", rng.random_range(0..100_000)).into_bytes())
            .collect();
        for key in &stay {
            a.raw(&[b"SET", key, b"1"]);
        }
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut cursor = b"0".to_vec();
        loop {
            let count = rng.random_range(1..40).to_string();
            let mut found = bulks(&a.raw(&[
                b"SCAN",
                &cursor,
                b"COUNT",
                count.as_bytes(),
                b"MATCH",
                b"stay:*",
            ]));
            cursor = found.remove(0);
            seen.append(&mut found);
            for _ in 0..5 {
                let key = format!("come:{}", rng.random_range(0..500));
                a.run(&if rng.random_bool(0.5) {
                    format!("SET {key} 1")
                } else {
                    format!("DEL {key}")
                });
            }
            if cursor == b"0" {
                break;
            }
        }
        let set: BTreeSet<Vec<u8>> = seen.iter().cloned().collect();
        assert_eq!(set.len(), seen.len(), "ESKER_SEED={seed}: a key twice");
        assert_eq!(set, stay, "ESKER_SEED={seed}");
    }
}

#[test]
fn a_cursor_that_is_not_known_is_refused() {
    let db = Db::new();
    let mut a = db.client();
    a.says("SET k 1", "+OK");
    assert!(a.run("SCAN 12345").starts_with("-ERR invalid cursor"));
    assert!(
        a.run("SCAN 99999999999999999999")
            .starts_with("-ERR invalid cursor")
    );
}

#[test]
fn randomkey_reaches_every_key_and_only_those_that_are_there() {
    let db = Db::timed(1_000_000);
    let mut a = db.client();
    a.says("RANDOMKEY", "$-1");
    let keys: BTreeSet<String> = (0..20).map(|n| format!("key:{n}")).collect();
    for key in &keys {
        a.run(&format!("SET {key} 1"));
    }
    a.says("SET passed 1 PX 1", "+OK");
    db.time.as_ref().expect("clock").advance_millis(1);
    let mut seen = BTreeSet::new();
    for _ in 0..2000 {
        seen.insert(String::from_utf8(bulks(&a.raw(&[b"RANDOMKEY"])).remove(0)).expect("text"));
    }
    assert_eq!(seen, keys);
}

#[test]
fn a_passed_deadline_reads_as_missing_everywhere() {
    let db = Db::timed(1_000_000);
    let mut a = db.client();
    let set = |a: &mut Client<'_>| {
        a.says("SET k 5 PX 10", "+OK");
        db.time.as_ref().expect("clock").advance_millis(10);
    };
    for (line, reply) in [
        ("GET k", "$-1"),
        ("EXISTS k", ":0"),
        ("TTL k", ":-2"),
        ("TYPE k", "+none"),
        ("STRLEN k", ":0"),
        ("DEL k", ":0"),
        ("INCR k", ":1"),
        ("APPEND k ab", ":2"),
        ("SETNX k 1", ":1"),
        ("SET k 1 XX", "$-1"),
        ("PERSIST k", ":0"),
        ("EXPIRE k 100", ":0"),
        ("RENAME k j", "-ERR no such key"),
        ("COPY k j", ":0"),
        ("KEYS k", "*0"),
        ("DBSIZE", ":0"),
        ("SCAN 0", "*2~$1~0~*0"),
        ("GETEX k PERSIST", "$-1"),
        ("MGET k k", "*2~$-1~$-1"),
        ("OBJECT ENCODING k", "$-1"),
    ] {
        set(&mut a);
        a.says(line, reply);
        a.run("FLUSHALL");
    }
}

#[test]
fn a_key_once_missing_is_not_there_again_after_a_restart_with_the_clock_set_back() {
    let db = Db::timed(1_000_000);
    let mut a = db.client();
    a.says("SET k 1 PX 1000", "+OK");
    a.says("SET longer 1 PX 5000", "+OK");
    db.time.as_ref().expect("clock").advance_millis(2000);
    a.says("GET k", "$-1");
    assert!(
        a.session.touched.0 > 0,
        "the reply waits for the clock that was kept"
    );
    drop(a);
    let time = Arc::new(ManualTimeSource::at(500_000));
    let db = db.reopen(Some(time.clone()));
    let mut a = db.client();
    a.says("GET k", "$-1");
    a.says("PTTL longer", ":3000");
    time.advance_millis(3000);
    a.says("GET longer", "$-1");
}

#[test]
fn active_expiry_deletes_what_has_passed_and_nothing_else() {
    for seed in seeds(6) {
        let mut rng = StdRng::seed_from_u64(seed);
        let db = Db::timed(1_000_000);
        let mut a = db.client();
        let mut left = 0;
        for n in 0..2500 {
            match rng.random_range(0..3) {
                0 => a.run(&format!("SET k{n} v")),
                1 => a.run(&format!("SET k{n} v PX 100000")),
                _ => {
                    a.run(&format!("SET k{n} v PX 10"));
                    if rng.random_bool(0.5) {
                        continue;
                    }
                    a.run(&format!("PERSIST k{n}"))
                }
            };
            left += 1;
        }
        db.time.as_ref().expect("clock").advance_millis(50);
        let mut place = ExpiryPlace::default();
        let mut deleted = 0;
        for _ in 0..4 {
            deleted += db.engine.expire_step(&mut place).expect("deletes");
        }
        assert_eq!(deleted, 2500 - left, "ESKER_SEED={seed}");
        assert_eq!(db.engine.stats().expired, deleted);
        a.says("DBSIZE", &format!(":{left}"));
    }
}

#[test]
fn a_node_that_follows_deletes_nothing() {
    let db = Db::timed(1_000_000);
    let mut a = db.client();
    a.says("SET k 1 PX 1", "+OK");
    db.time.as_ref().expect("clock").advance_millis(50);
    let follower = esker_server::engine::Engine::stepped(
        db.engine.store().clone(),
        false,
        db.time.clone().expect("clock"),
    );
    assert_eq!(
        follower
            .expire_step(&mut ExpiryPlace::default())
            .expect("nothing"),
        0
    );
    follower.set_writer();
    assert_eq!(
        follower
            .expire_step(&mut ExpiryPlace::default())
            .expect("deletes"),
        1
    );
}

#[test]
fn a_follower_is_not_behind_the_clock_it_heard() {
    let db = Db::timed(2_000_000);
    let mut a = db.client();
    a.says("SET gone 1 PX 1", "+OK");
    a.says("SET k 1 PX 900", "+OK");
    let slow = Arc::new(ManualTimeSource::at(1_000_000));
    let follower = esker_server::engine::Engine::stepped(db.engine.store().clone(), false, slow);
    db.time.as_ref().expect("clock").advance_millis(1000);
    a.says("GET k", "$-1");
    let mut txn = follower.begin(None, esker_server::engine::Locking::None);
    assert!(txn.get(b"k").expect("reads").is_none());
}

#[test]
fn flushall_is_one_tombstone() {
    let db = Db::new();
    let mut a = db.client();
    for n in 0..100 {
        a.run(&format!("SET k{n} v"));
    }
    let before = db.engine.store().log().stats().appended_bytes;
    a.says("FLUSHALL", "+OK");
    assert!(db.engine.store().log().stats().appended_bytes - before < 100);
    a.says("DBSIZE", ":0");
}

#[test]
fn command_describes_itself() {
    let db = Db::new();
    let mut a = db.client();
    let count = esker_server::commands::COMMANDS.len();
    a.says("COMMAND COUNT", &format!(":{count}"));
    assert!(a.run("COMMAND").starts_with(&format!("*{count}\r\n")));
    assert!(
        a.run("COMMAND DOCS")
            .starts_with(&format!("*{}\r\n", 2 * count))
    );
    assert!(
        a.run("COMMAND DOCS get")
            .contains("Returns the string value of a key.")
    );
    let info = a.run("COMMAND INFO get");
    assert!(
        info.starts_with(
            "*1\r\n*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n"
        ),
        "{info}"
    );
    a.run("HELLO 3");
    for what in ["DOCS", "INFO"] {
        let many = format!("COMMAND {what}{}", " get".repeat(4097));
        assert_eq!(a.run(&many), "-ERR at most 4096 commands at once\r\n");
    }
    assert!(a.run("COMMAND DOCS").starts_with(&format!("%{count}\r\n")));
}
