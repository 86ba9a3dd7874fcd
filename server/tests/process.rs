//! The programs as a person runs them: starts, stops, bad input, a replica and its promotion.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::{PATIENCE, Program, free_port};

const PRIMARY: &str = env!("CARGO_BIN_EXE_primary");
const REPLICA: &str = env!("CARGO_BIN_EXE_replica");

#[path = "support/process.rs"]
mod support;

fn command(program: &str, dir: &Path, port: u16, more: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .arg("--data-dir")
        .arg(dir)
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .args(["--metrics-listen", "off", "--segment-size", "1MiB"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn start(program: &str, dir: &Path, port: u16, more: &[&str]) -> Program {
    let child = command(program, dir, port, more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let program = Program::serving(child, port);
    // Somebody else may have taken the port between the probe and the start.
    let info = program.client().ask("INFO server");
    let own = format!("process_id:{}\r", program.child.id());
    assert!(info.contains(&own), "another program has port {port}");
    program
}

fn fails(program: &str, dir: &Path, port: u16, more: &[&str]) -> String {
    let Output { status, stderr, .. } = command(program, dir, port, more).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert!(!status.success(), "{text}");
    assert!(text.starts_with("error: "), "{text}");
    text
}

#[test]
fn version_names_libzmq_and_whether_curve_is_there() {
    for program in [PRIMARY, REPLICA] {
        let output = Command::new(program).arg("--version").output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("libzmq 4.") && text.contains("with CURVE"),
            "{text}"
        );
    }
}

#[test]
fn sigterm_drains_and_ends_well_and_what_was_acknowledged_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let off = ["--replication-listen", "off"];
    for round in 0..3 {
        let mut primary = start(PRIMARY, dir.path(), port, &off);
        let mut client = primary.client();
        for earlier in 0..round {
            assert_eq!(
                client.ask(&format!("GET k{earlier}")),
                format!("v{earlier}")
            );
        }
        assert_eq!(client.ask(&format!("SET k{round} v{round}")), "+OK");
        primary.signal(if round == 1 {
            Signal::INT
        } else {
            Signal::TERM
        });
        assert_eq!(primary.wait().code(), Some(0));
    }
    let leftovers: Vec<_> = std::fs::read_dir(dir.path().join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".tmp"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[test]
fn a_second_signal_stops_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut primary = start(
        PRIMARY,
        dir.path(),
        free_port(),
        &["--replication-listen", "off"],
    );
    let mut client = primary.client();
    assert_eq!(client.ask("SET a 1"), "+OK");
    // It drains for as long as somebody waits, up to ten seconds.
    client.send("WAIT 1 0");
    std::thread::sleep(Duration::from_millis(200));
    primary.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    assert!(primary.child.try_wait().unwrap().is_none());
    let begin = Instant::now();
    primary.signal(Signal::TERM);
    let status = primary.wait();
    assert_eq!(status.code(), Some(128 + 15));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn shutdown_ends_the_server_and_answers_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut primary = start(
        PRIMARY,
        dir.path(),
        free_port(),
        &["--replication-listen", "off"],
    );
    let mut client = primary.client();
    client.send("SHUTDOWN");
    let mut rest = Vec::new();
    client.0.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!(primary.wait().code(), Some(0));
}

#[test]
fn bad_input_gets_one_clear_line_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let off = ["--replication-listen", "off"];

    let foreign = path.join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("photo.jpg"), "x").unwrap();
    let text = fails(PRIMARY, &foreign, free_port(), &off);
    assert!(
        text.contains("photo.jpg") && text.contains("choose an empty directory"),
        "{text}"
    );
    assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1);

    let file = path.join("file");
    std::fs::write(&file, "x").unwrap();
    let text = fails(PRIMARY, &file, free_port(), &off);
    assert!(text.contains("--data-dir"), "{text}");

    let used = path.join("used");
    let primary = start(PRIMARY, &used, free_port(), &off);
    let text = fails(PRIMARY, &used, free_port(), &off);
    assert!(text.contains("in use by another process"), "{text}");
    let text = fails(PRIMARY, &path.join("other"), primary.port, &off);
    assert!(text.contains("--listen"), "{text}");
    assert!(
        !path.join("other").exists(),
        "the port is looked at before the data"
    );
    assert_eq!(primary.client().ask("PING"), "+PONG");

    let text = fails(
        PRIMARY,
        &path.join("other"),
        free_port(),
        &["--durabilty", "no"],
    );
    assert!(text.contains("--durability"), "{text}");
    let config = path.join("esker.toml");
    std::fs::write(&config, "listne = \"127.0.0.1:1\"\n").unwrap();
    let text = fails(
        PRIMARY,
        &path.join("other"),
        free_port(),
        &["--config", config.to_str().unwrap()],
    );
    assert!(text.contains("did you mean `listen`"), "{text}");
    let text = fails(
        PRIMARY,
        &path.join("other"),
        free_port(),
        &["--replication-listen", "tcp://0.0.0.0:0"],
    );
    assert!(
        text.contains("--allow-remote-plaintext") || text.contains("keys"),
        "{text}"
    );
}

#[test]
fn a_replica_follows_refuses_writes_and_stays_primary_once_promoted() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("tcp://127.0.0.1:{}", free_port());
    let (ours, theirs) = (dir.path().join("primary"), dir.path().join("replica"));
    let port = free_port();
    let follow = ["--primary", endpoint.as_str(), "--name", "one"];

    // Started first: it has no store yet and says so.
    let mut replica = start(REPLICA, &theirs, port, &follow);
    let mut reader = replica.client();
    let text = reader.ask("GET a");
    assert!(text.starts_with("-LOADING"), "{text}");
    assert!(reader.ask("INFO replication").contains("role:slave"));

    let primary = start(
        PRIMARY,
        &ours,
        free_port(),
        &["--replication-listen", &endpoint],
    );
    let mut writer = primary.client();
    assert_eq!(writer.ask("SET a 1"), "+OK");
    assert_eq!(writer.ask("WAIT 1 30000"), ":1");
    reader.until("GET a", "1");
    assert_eq!(writer.ask("WAITAOF 1 1 30000"), ":1\n:1");
    assert!(reader.ask("SET b 1").starts_with("-READONLY"));
    let role = writer.ask("ROLE");
    assert!(role.starts_with("master\n"), "{role}");
    assert!(
        writer
            .ask("INFO replication")
            .contains("connected_slaves:1")
    );

    drop(primary);
    assert_eq!(reader.ask("REPLICAOF NO ONE"), "+OK");
    assert_eq!(reader.ask("SET b 2"), "+OK");
    assert_eq!(reader.ask("GET a"), "1");
    assert!(reader.ask("INFO replication").contains("role:master"));
    replica.signal(Signal::TERM);
    assert_eq!(replica.wait().code(), Some(0));

    let mut again = start(REPLICA, &theirs, port, &follow);
    let mut client = again.client();
    assert!(client.ask("INFO replication").contains("role:master"));
    assert_eq!(client.ask("GET b"), "2");
    assert_eq!(client.ask("SET c 3"), "+OK");
    again.signal(Signal::TERM);
    assert_eq!(again.wait().code(), Some(0));
}

#[test]
fn without_enough_replicas_a_write_is_refused_or_its_outcome_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("tcp://127.0.0.1:{}", free_port());
    let primary = start(
        PRIMARY,
        &dir.path().join("primary"),
        free_port(),
        &[
            "--replication-listen",
            &endpoint,
            "--min-sync-replicas",
            "1",
            "--ack-timeout",
            "700ms",
        ],
    );
    let mut client = primary.client();
    assert!(client.ask("SET a 0").starts_with("-NOREPLICAS"));
    assert_eq!(client.ask("GET a"), "nil");

    let replica = start(
        REPLICA,
        &dir.path().join("replica"),
        free_port(),
        &["--primary", &endpoint],
    );
    client.until("SET a 1", "+OK");
    replica.signal(Signal::STOP);
    let begin = Instant::now();
    let text = client.ask("SET a 2");
    assert!(text.starts_with("-UNKNOWNOUTCOME"), "{text}");
    assert!(begin.elapsed() >= Duration::from_millis(600));
    // What nobody acknowledged is not shown as if it were.
    let text = client.ask("GET a");
    assert!(text == "1" || text.starts_with("-UNKNOWNOUTCOME"), "{text}");
    replica.signal(Signal::CONT);
    client.until("GET a", "2");
    client.until("SET a 3", "+OK");
}

/// A failed sync poisons the log (W6): what was acknowledged before stays readable, writes are refused with MISCONF,
/// and a restart finds what was acknowledged.
#[test]
fn a_failed_sync_refuses_writes_and_loses_nothing_acknowledged() {
    if Command::new("strace").arg("-V").output().is_err() {
        writeln!(std::io::stderr(), "skipped: strace is not installed").unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut traced = command(PRIMARY, dir.path(), port, &["--replication-listen", "off"]);
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=msync"])
        .args(["-e", "inject=msync:error=EIO:when=30+"])
        .arg(traced.get_program())
        .args(traced.get_args())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    traced.stdin(Stdio::null());
    let mut program = Program {
        child: strace.spawn().unwrap(),
        port,
    };
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if program.child.try_wait().unwrap().is_some() {
            writeln!(std::io::stderr(), "skipped: strace can't trace here").unwrap();
            return;
        }
        assert!(Instant::now() < deadline, "it did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut client = program.client();
    let mut acknowledged = 0;
    loop {
        let text = client.ask(&format!("SET k{acknowledged} v{acknowledged}"));
        if text != "+OK" {
            assert!(text.starts_with("-MISCONF"), "{text}");
            break;
        }
        acknowledged += 1;
        assert!(acknowledged < 100, "no sync failed");
    }
    assert!(client.ask("SET k0 other").starts_with("-MISCONF"));
    assert!(client.ask("DEL k0").starts_with("-MISCONF"));
    assert_eq!(client.ask("GET k0"), "v0");
    let process = client.ask("INFO server");
    let process = process
        .lines()
        .find_map(|line| line.strip_prefix("process_id:"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
    program.wait();

    let again = start(PRIMARY, dir.path(), port, &["--replication-listen", "off"]);
    let mut client = again.client();
    for at in 0..acknowledged {
        assert_eq!(client.ask(&format!("GET k{at}")), format!("v{at}"));
    }
    assert_eq!(client.ask("SET k0 other"), "+OK");
}
