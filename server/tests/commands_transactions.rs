//! MULTI, EXEC, WATCH, and commands from several threads.

mod support;

use esker_server::engine::ExpiryPlace;
use esker_server::{Flow, WriteRefusal};
use std::sync::atomic::{AtomicU64, Ordering};
use support::Db;

#[test]
fn exec_reads_what_it_wrote_and_nobody_sees_a_part_of_it() {
    let db = Db::new();
    let (mut a, mut b) = (db.client(), db.client());
    a.says("SET k 1", "+OK");
    a.says("MULTI", "+OK");
    for line in [
        "INCR k",
        "GET k",
        "DEL k",
        "EXISTS k",
        "SET k 7",
        "APPEND k x",
        "FLUSHALL",
        "DBSIZE",
        "SET z 1",
        "KEYS *",
    ] {
        a.says(line, "+QUEUED");
    }
    b.says("GET k", "$1~1");
    a.says("EXEC", "*10~:2~$1~2~:1~:0~+OK~:2~+OK~:0~+OK~*1~$1~z");
    b.says("GET k", "$-1");
    b.says("GET z", "$1~1");
}

#[test]
fn exec_is_one_frame() {
    let db = Db::new();
    let mut a = db.client();
    a.says("MULTI", "+OK");
    for n in 0..10 {
        a.says(&format!("SET k{n} v"), "+QUEUED");
    }
    let before = db.engine.store().log().stats().appends;
    a.run("EXEC");
    assert_eq!(db.engine.store().log().stats().appends, before + 1);
}

/// As in Redis: one that can't be run is an end all the same.
#[test]
fn an_exec_with_arguments_ends_the_transaction_and_its_watches() {
    const DISCARDED: &str =
        "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command";
    let db = Db::new();
    let (mut a, mut b) = (db.client(), db.client());
    a.says("MULTI", "+OK");
    a.says("SET k 1", "+QUEUED");
    a.says("EXEC now", DISCARDED);
    a.says("EXEC", "-ERR EXEC without MULTI");
    a.says("GET k", "$-1");
    a.says("WATCH k", "+OK");
    a.says("EXEC now", DISCARDED);
    b.says("SET k 2", "+OK");
    a.says("MULTI", "+OK");
    a.says("GET k", "+QUEUED");
    a.says("EXEC", "*1~$1~2");
}

#[test]
fn a_refused_command_aborts_exec() {
    let db = Db::new();
    let mut a = db.client();
    a.says("MULTI", "+OK");
    a.says("SET k 1", "+QUEUED");
    assert!(a.run("NOSUCH").starts_with("-ERR unknown command 'NOSUCH'"));
    a.says(
        "EXEC",
        "-EXECABORT Transaction discarded because of previous errors.",
    );
    a.says("GET k", "$-1");
    a.says("EXEC", "-ERR EXEC without MULTI");
}

#[test]
fn a_write_refused_at_exec_discards_the_transaction() {
    let db = Db::new();
    let mut a = db.client();
    a.says("MULTI", "+OK");
    a.says("SET k 1", "+QUEUED");
    *db.server.refusal.lock().expect("lock") = Some(WriteRefusal::ReadOnly);
    a.says(
        "EXEC",
        "-EXECABORT Transaction discarded because of: READONLY You can't write against a read only replica.",
    );
    a.says(
        "SET k 1",
        "-READONLY You can't write against a read only replica.",
    );
    a.says("MULTI", "+OK");
    a.says("GET k", "+QUEUED");
    a.says("EXEC", "*1~$-1");
}

#[test]
fn watch_notices_a_write_by_anybody() {
    let db = Db::new();
    let (mut a, mut b) = (db.client(), db.client());
    for write in [
        "SET k 2",
        "DEL k",
        "EXPIRE k 100",
        "APPEND k x",
        "RENAME k other",
        "FLUSHALL",
        "MSET x 1 k 1",
        "GETDEL k",
    ] {
        b.says("SET k 1", "+OK");
        a.says("WATCH k", "+OK");
        b.run(write);
        a.says("MULTI", "+OK");
        a.says("PING", "+QUEUED");
        a.says("EXEC", "*-1");
    }
    // EXEC ended the watch.
    a.says("MULTI", "+OK");
    a.says("EXEC", "*0");
}

#[test]
fn watch_does_not_mind_what_leaves_its_key_alone() {
    let db = Db::new();
    let (mut a, mut b) = (db.client(), db.client());
    a.says("SET k 1", "+OK");
    for write in [
        "SET other 2",
        "DEL nokey",
        "SETNX k 5",
        "GET k",
        "PERSIST k",
        "SET k 5 NX",
        "MSETNX k 1 j 2",
    ] {
        a.says("WATCH k missing", "+OK");
        b.run(write);
        a.says("MULTI", "+OK");
        a.says("PING", "+QUEUED");
        assert_eq!(a.run("EXEC"), "*1\r\n+PONG\r\n", "{write}");
    }
    // A flush over a key that is not there.
    a.says("WATCH missing", "+OK");
    b.says("FLUSHALL", "+OK");
    a.says("MULTI", "+OK");
    a.says("EXEC", "*0");
    assert!(!db.engine.watches().any());
}

#[test]
fn a_deadline_that_passes_while_watched_aborts_exec() {
    let db = Db::timed(1_000_000);
    let time = db.time.clone().expect("a manual clock");
    let mut a = db.client();
    a.says("SET k 1 PX 50", "+OK");
    a.says("WATCH k", "+OK");
    time.advance_millis(50);
    a.says("MULTI", "+OK");
    a.says("PING", "+QUEUED");
    a.says("EXEC", "*-1");
    // Passed before the watch: nothing changes when it is deleted.
    a.says("WATCH k", "+OK");
    assert_eq!(
        db.engine
            .expire_step(&mut ExpiryPlace::default())
            .expect("deletes"),
        1
    );
    a.says("MULTI", "+OK");
    a.says("PING", "+QUEUED");
    a.says("EXEC", "*1~+PONG");
}

#[test]
fn a_client_that_goes_takes_its_watches_along() {
    let db = Db::new();
    let mut a = db.client();
    a.says("WATCH a b c", "+OK");
    assert!(db.engine.watches().any());
    drop(a);
    assert!(!db.engine.watches().any());
}

#[test]
fn increments_from_several_threads_all_count() {
    let db = Db::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let db = &db;
            scope.spawn(move || {
                let mut client = db.client();
                for n in 0..500 {
                    client.run("INCR shared");
                    client.run(&format!("INCRBY own{thread} 2"));
                    if n % 5 == 0 {
                        client.run("MULTI");
                        client.run("INCR shared2");
                        client.run("INCR shared");
                        assert!(client.run("EXEC").starts_with("*2\r\n:"));
                    }
                }
            });
        }
    });
    let mut client = db.client();
    client.says(
        "MGET shared shared2 own0 own3",
        "*4~$4~2400~$3~400~$4~1000~$4~1000",
    );
}

#[test]
fn watch_makes_a_lost_update_impossible() {
    let db = Db::new();
    let retries = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = db.client();
                for _ in 0..150 {
                    loop {
                        client.run("WATCH n");
                        let read = client.run("GET n");
                        let old: u64 = read
                            .split("\r\n")
                            .nth(1)
                            .and_then(|n| n.parse().ok())
                            .unwrap_or(0);
                        client.run("MULTI");
                        client.run(&format!("SET n {}", old + 1));
                        if client.run("EXEC") == "*1\r\n+OK\r\n" {
                            break;
                        }
                        retries.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    db.client().says("GET n", "$3~600");
}

#[test]
fn several_keys_are_read_as_at_one_moment() {
    let db = Db::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = db.client();
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    client.run(&format!("MSET a {n} b {n} c {n}"));
                }
            });
        }
        let mut client = db.client();
        for _ in 0..2000 {
            let reply = client.run("MGET a b c");
            let values: Vec<&str> = reply.split("\r\n").skip(2).step_by(2).take(3).collect();
            if values.len() == 3 {
                assert!(values.iter().all(|value| *value == values[0]), "{reply}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_reply_says_how_far_the_safe_position_must_be() {
    let db = Db::new();
    let (mut a, mut b) = (db.client(), db.client());
    b.says("GET k", "$-1");
    assert_eq!(b.session.touched.0, 0, "nothing was ever there");
    a.says("SET k 1", "+OK");
    assert!(a.session.wrote);
    let end = a.session.touched;
    assert_eq!(end, a.session.last_write);
    b.says("GET k", "$1~1");
    assert!(!b.session.wrote);
    assert!(b.session.touched.0 > 0 && b.session.touched <= end);
    a.says("DEL k", ":1");
    b.says("GET k", "$-1");
    assert!(
        b.session.touched > end,
        "the tombstone behind a miss counts"
    );
    a.says("SET k x", "+OK");
    b.says("INCR k", "-ERR value is not an integer or out of range");
    assert!(b.session.touched.0 > 0, "an error reveals what was read");
    a.says("FLUSHALL", "+OK");
    b.says("KEYS *", "*0");
    assert!(b.session.touched >= a.session.last_write.min(b.session.touched));
    b.says("GET k", "$-1");
    assert!(b.session.touched > end, "a range tombstone counts");
    b.says("PING", "+PONG");
    assert_eq!(b.session.touched.0, 0);
}

#[test]
fn while_the_safe_position_stands_reads_run_at_it() {
    let db = Db::new();
    let mut a = db.client();
    a.says("SET k old", "+OK");
    let safe = a.session.last_write;
    db.engine.store().keep_from(safe);
    a.says("SET k new", "+OK");
    *db.server.read_at.lock().expect("lock") = Some(safe);
    a.says("GET k", "$3~old");
    assert_eq!(a.session.touched.0, 0);
    a.says("MGET k k", "*2~$3~old~$3~old");
    a.says("KEYS *", "*1~$1~k");
    a.says("MULTI", "+OK");
    a.says("GET k", "+QUEUED");
    a.says("EXEC", "*1~$3~old");
    *db.server.read_at.lock().expect("lock") = None;
    a.says("GET k", "$3~new");
}

#[test]
fn a_value_that_no_frame_holds_is_refused_and_changes_nothing() {
    let db = Db::new();
    let mut a = db.client();
    let big = vec![b'x'; 9 << 20];
    let text = "-ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    assert_eq!(
        String::from_utf8_lossy(&a.raw(&[b"SET", b"k", &big])).trim_end(),
        text
    );
    a.says("GET k", "$-1");
    a.says("SETRANGE k 536870911 x", text);
    a.says("SET k v", "+OK");
    a.says("MULTI", "+OK");
    a.says("SET k w", "+QUEUED");
    a.raw(&[b"SET", b"j", &big]);
    a.says("EXEC", text);
    a.says("GET k", "$1~v");
    a.says("EXEC", "-ERR EXEC without MULTI");
}

#[test]
fn what_the_event_loop_must_do_is_said() {
    let db = Db::new();
    let mut a = db.client();
    assert_eq!(a.run("WAIT 1 10"), "");
    assert!(matches!(a.flow, Flow::Wait(_)));
    assert_eq!(a.run("WAITAOF 1 0 0"), "");
    assert!(matches!(a.flow, Flow::Wait(_)));
    a.says(
        "WAITAOF 2 0 0",
        "-ERR value is out of range, must between 0 and 1",
    );
    assert_eq!(a.run("SHUTDOWN NOW"), "");
    assert!(matches!(a.flow, Flow::Shutdown { now: true }));
    a.says("QUIT", "+OK");
    assert!(matches!(a.flow, Flow::Close));
    a.says("MULTI", "+OK");
    a.says("WAIT 1 0", "+QUEUED");
    a.says("WAITAOF 1 1 0", "+QUEUED");
    a.says("EXEC", "*2~:0~*2~:1~:0");
}
