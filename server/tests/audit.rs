//! What the programs record in an audit trail, on real processes: each class with its fields, secrets in no byte, refusal, kills.
#![allow(clippy::print_stdout, reason = "a skipped test says why")]

use esker_audit::{Keyring, Query, Reader, VerifyOptions, verify};
use process::{Client, Program, eventually, free_port};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use xtask::disk::Disk;

#[path = "support/process.rs"]
mod process;

const PRIMARY: &str = env!("CARGO_BIN_EXE_primary");
const REPLICA: &str = env!("CARGO_BIN_EXE_replica");
const RAFT_NODE: &str = env!("CARGO_BIN_EXE_raft-node");

/// A directory with a node's data, its trail and its policy.
struct Place {
    dir: TempDir,
    port: u16,
    audit: PathBuf,
}

impl Place {
    fn new(policy: &str) -> Place {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("policy.toml"), policy).unwrap();
        Place {
            port: free_port(),
            audit: dir.path().join("audit"),
            dir,
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn command(&self, program: &str, more: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(["--data-dir", &self.path("data")])
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .args(["--segment-size", "1MiB"])
            .arg("--audit-dir")
            .arg(&self.audit)
            .args(["--audit-key-file", &self.path("keys")])
            .args(["--audit-policy", &self.path("policy.toml")]);
        if !more.contains(&"--metrics-listen") {
            command.args(["--metrics-listen", "off"]);
        }
        command.args(more).stdin(Stdio::null());
        command
    }

    fn start(&self, program: &str, more: &[&str]) -> Program {
        let mut command = self.command(program, more);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Program::serving(command.spawn().unwrap(), self.port)
    }

    fn primary(&self) -> Program {
        self.start(PRIMARY, &["--replication-listen", "off"])
    }

    fn keys(&self) -> Keyring {
        Keyring::load(Path::new(&self.path("keys"))).unwrap()
    }

    /// All records but the trail's own, in order.
    fn records(&self) -> Vec<Value> {
        let reader = Reader::open(&self.audit, self.keys()).unwrap();
        let query = Query {
            without_own: true,
            ..Query::default()
        };
        let mut records = reader.query(query).unwrap();
        let mut found = Vec::new();
        while let Some(record) = records.next().unwrap() {
            found.push(Value::Object(record.fields));
        }
        found.sort_by_key(|record| record["event.sequence"].as_u64());
        found
    }

    fn of(&self, action: &str) -> Vec<Value> {
        let mut records = self.records();
        records.retain(|record| record["event.action"] == action);
        records
    }

    /// Intent and outcome of the only action of that name.
    #[track_caller]
    fn staged(&self, action: &str) -> [Value; 2] {
        let found = self.of(action);
        let [intent, outcome] = &found[..] else {
            panic!("{action}: {found:#?}");
        };
        assert_eq!(intent["esker.stage"], "intent");
        assert_eq!(intent["event.outcome"], "unknown");
        assert_eq!(intent["log.level"], "error");
        assert!(outcome.get("esker.stage").is_none(), "{outcome}");
        let request = intent["http.request.id"].as_str().unwrap();
        assert!(!request.is_empty());
        assert_eq!(outcome["http.request.id"], request);
        [intent.clone(), outcome.clone()]
    }

    #[track_caller]
    fn verifies(&self) {
        let report = verify(&self.audit, &self.keys(), &VerifyOptions::default()).unwrap();
        assert!(report.is_whole(), "{:?}", report.findings);
    }

    /// No byte of the trail's files holds `secret`.
    #[track_caller]
    fn never_says(&self, secret: &str) {
        let mut files = vec![self.audit.clone()];
        while let Some(path) = files.pop() {
            if path.is_dir() {
                files.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "{secret} stands in {}", path.display());
        }
    }
}

impl Program {
    fn ends(&mut self) {
        let status = self.wait();
        assert!(status.success(), "{status}");
    }

    fn terminate(mut self) {
        self.signal(Signal::TERM);
        self.ends();
    }
}

impl Client {
    fn info(&mut self, name: &str) -> u64 {
        let text = self.ask("INFO audit");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("audit_{name}:")));
        line.unwrap_or_else(|| panic!("{name} in {text}"))
            .parse()
            .unwrap()
    }
}

fn text<'a>(record: &'a Value, name: &str) -> &'a str {
    record[name]
        .as_str()
        .unwrap_or_else(|| panic!("{name} in {record}"))
}

#[test]
fn a2_every_class_leaves_its_records_and_secrets_stand_in_no_byte() {
    let place = Place::new("");
    let mut primary = place.primary();
    let mut client = primary.client();
    let from = client.address();
    client.ask("CLIENT SETNAME teller-7");
    assert!(
        client
            .ask("HELLO 2 AUTH default hunter2-ok")
            .contains("proto")
    );
    assert!(
        client
            .ask("HELLO 2 AUTH ann hunter2-bad")
            .starts_with("-WRONGPASS")
    );
    assert!(
        client
            .ask("AUTH hunter2-auth")
            .starts_with("-ERR AUTH <password> called without")
    );
    client.ask("CONFIG GET max*");
    assert!(
        client
            .ask("CONFIG SET requirepass hunter2-conf")
            .starts_with("-ERR")
    );
    assert!(
        client
            .ask("CONFIG SET maxclients other-value")
            .starts_with("-ERR")
    );
    assert_eq!(client.ask("SET secret-key secret-value"), "+OK");
    assert_eq!(client.ask("FLUSHALL"), "+OK");
    assert!(
        client
            .ask("NOSUCH secret-arg")
            .starts_with("-ERR unknown command")
    );
    assert!(client.ask("REPLICAOF there 7").starts_with("-ERR"));
    let addr = from.as_str();

    let logins = place.of("user.login");
    let said: Vec<_> = (logins.iter())
        .map(|l| {
            (
                text(l, "user.name"),
                text(l, "event.outcome"),
                text(l, "log.level"),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("default", "success", "notice"),
            ("default", "failure", "warning"),
            ("default", "failure", "warning")
        ]
    );
    assert_eq!(logins[1]["error.code"], "WRONGPASS");
    assert_eq!(logins[2]["error.code"], "ERR");
    let named: Vec<_> = logins
        .iter()
        .map(|l| text(l, "esker.resource.id"))
        .collect();
    assert_eq!(named, ["default", "(no such user)", "default"]);
    for record in &logins {
        assert_eq!(record["source.address"], addr);
        assert_eq!(record["user_agent.original"], "teller-7");
        assert!(!text(record, "service.node.name").is_empty());
    }
    let sessions = place.of("session.open");
    assert!(sessions.iter().any(|s| s["source.address"] == addr));
    let read = &place.of("config.read")[0];
    assert_eq!(
        (text(read, "esker.resource.id"), text(read, "labels.arg1")),
        ("max*", "max*")
    );

    let changes = place.of("config.change");
    assert_eq!(changes.len(), 4);
    assert_eq!(text(&changes[0], "esker.resource.id"), "requirepass");
    assert_eq!(text(&changes[0], "labels.arg2"), "(not recorded)");
    assert_eq!(text(&changes[1], "event.outcome"), "failure");
    assert!(text(&changes[2], "labels.arg2").starts_with("hmac:"));

    let [_, flushed] = place.staged("data.flush");
    assert_eq!(text(&flushed, "event.outcome"), "success");
    assert_eq!(text(&flushed, "labels.command"), "flushall");
    assert!(flushed["esker.lsn"].as_u64().unwrap() > 0);
    assert!(flushed["esker.epoch"].as_u64().unwrap() > 0);
    let [intent, refused] = place.staged("node.promote");
    assert_eq!(text(&intent, "labels.arg1"), "there");
    assert_eq!(text(&refused, "error.code"), "ERR");
    let unknown = place.of("command.refused");
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    assert_eq!(
        (
            text(&unknown[0], "error.code"),
            text(&unknown[0], "labels.command")
        ),
        ("UNKNOWN", "nosuch")
    );
    assert!(place.of("data.write").is_empty() && place.of("data.read").is_empty());

    client.send("SHUTDOWN");
    primary.ends();
    let [_, ended] = place.staged("node.shutdown");
    assert_eq!(text(&ended, "event.outcome"), "success");
    assert!(
        place
            .of("session.close")
            .iter()
            .any(|s| s["source.address"] == addr)
    );
    for secret in [
        "hunter2",
        "secret-key",
        "secret-value",
        "secret-arg",
        "other-value",
    ] {
        place.never_says(secret);
    }
    place.verifies();
}

/// What is written wrongly may have a password anywhere.
#[test]
fn of_a_malformed_command_no_word_stands_in_clear_that_may_be_a_value() {
    let members = format!("1=tcp://127.0.0.1:{}", free_port());
    let raft = ["--id", "1", "--cluster", &members, "--bootstrap"];
    for (program, args) in [
        (PRIMARY, &["--replication-listen", "off"][..]),
        (RAFT_NODE, &raft),
    ] {
        let place = Place::new("[[rule]]\nclass = [\"write\"]\nlevel = \"request\"\n");
        let node = place.start(program, args);
        let mut client = node.client();
        client.until("SET acct:1 ready", "+OK");
        for line in [
            "CONFIG SET requirepass correct hunter2-horse battery",
            "CONFIG SET requirepass correct hunter2-horse",
            "CONFIG SET maxclients requirepass hunter2-conf",
            "CONFIG SET hunter2-name hunter2-value",
            "CONFIG SET hunter2-alone",
            "EXPIRE acct:1 10 hunter2-option",
            "EXPIRE acct:1 hunter2-time",
            "SET acct:1 x hunter2-option",
            "GETEX acct:1 hunter2-option",
        ] {
            assert!(client.ask(line).starts_with("-ERR"), "{line}");
        }
        assert_eq!(
            client.ask("EXPIRE acct:1 10 hunter2-option"),
            "-ERR Unsupported option hunter2-option"
        );
        // Of what CONFIG has the names are told.
        let parameters = client.ask("CONFIG GET *");
        let names: Vec<&str> = parameters.lines().step_by(2).collect();
        assert!(
            names.contains(&"maxclients") && names.len() >= 5,
            "{names:?}"
        );
        for name in &names {
            client.ask_words(&["CONFIG", "SET", name, "hunter2-new"]);
        }
        node.terminate();
        place.never_says("hunter2");
        place.never_says("battery");
        let mut changes = place.of("config.change");
        changes.retain(|change| change["esker.stage"] == "intent");
        let told: Vec<_> = (changes.iter())
            .map(|change| text(change, "esker.resource.id"))
            .collect();
        assert_eq!(told[told.len() - names.len()..], names[..]);
        assert_eq!(told[..3], ["requirepass", "", ""]);
        let failed = place.of("data.write");
        let message = |w: &&Value| w["error.message"] == "Unsupported option";
        assert_eq!(failed.iter().filter(message).count(), 2, "{failed:?}");
        place.verifies();
    }
}

#[test]
fn refused_commands_are_bounded_and_counted() {
    let place = Place::new("refused-per-second = 3\n");
    let primary = place.primary();
    let mut client = primary.client();
    for _ in 0..500 {
        client.send("GUESS admin");
    }
    for _ in 0..500 {
        assert!(client.reply().starts_with("-ERR unknown"));
    }
    let left_out = client.info("left_out");
    assert!(left_out > 400, "{left_out}");
    // What was left out is said once its second is over, whether more comes or not.
    eventually("the number left out", || {
        let records = place.of("command.refused");
        let said: u64 = (records.iter())
            .filter_map(|r| r["labels.left_out_before"].as_u64())
            .sum();
        (said == left_out).then_some(())
    });
    assert_eq!(client.ask("SET a 1"), "+OK");
    primary.terminate();
    place.verifies();
}

const BY_PREFIX: &str = r#"
    [[rule]]
    class = ["write"]
    key-prefix = ["acct:tmp:"]
    level = "none"
    [[rule]]
    class = ["data"]
    key-prefix = ["acct:"]
    level = "request"
    [[rule]]
    command = ["del"]
    level = "metadata"
    keys = "hmac"
"#;

#[test]
fn data_commands_are_recorded_by_key_prefix_and_values_are_hashed() {
    let place = Place::new(BY_PREFIX);
    let primary = place.primary();
    let mut client = primary.client();
    assert_eq!(client.ask("SET acct:1 hidden-value"), "+OK");
    assert_eq!(client.ask("SET acct:2 hidden-value"), "+OK");
    assert_eq!(client.ask("SET acct:tmp:1 hidden-value"), "+OK");
    assert_eq!(client.ask("SET other hidden-value"), "+OK");
    assert_eq!(client.ask("GET acct:1"), "hidden-value");
    assert_eq!(client.ask("MSET x 1 acct:3 hidden-value"), "+OK");
    assert_eq!(client.ask("INCR acct:1").split(' ').next(), Some("-ERR"));
    assert_eq!(client.ask("DEL some-key"), ":0");
    let reply = client.exec(&[
        "SET acct:4 1",
        "SET plain 2",
        "INCR acct:1",
        "FLUSHALL",
        "GET acct:4",
    ]);
    assert!(reply.starts_with("+OK\n+OK\n-ERR"), "{reply}");
    eventually("the queue to be written", || {
        (client.info("queue_depth") == 0).then_some(())
    });
    primary.terminate();

    let writes = place.of("data.write");
    let said: Vec<_> = (writes.iter())
        .map(|w| {
            (
                text(w, "labels.command"),
                text(w, "esker.resource.id"),
                text(w, "event.outcome"),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("set", "acct:1", "success"),
            ("set", "acct:2", "success"),
            ("mset", "x", "success"),
            ("incr", "acct:1", "failure"),
            ("del", "", "success"),
            ("set", "acct:4", "success"),
            ("incr", "acct:1", "failure"),
        ]
    );
    // Equal values are seen to be equal; only who has the key can say of which value a hash is.
    let hash = text(&writes[0], "labels.arg2");
    assert!(hash.starts_with("hmac:"));
    assert_eq!(text(&writes[1], "labels.arg2"), hash);
    assert_eq!(place.keys().newest().redact(b"hidden-value"), hash);
    assert!(text(&writes[4], "labels.key1").starts_with("hmac:"));
    let reads = place.of("data.read");
    assert_eq!(reads.len(), 2, "{reads:?}");
    let [_, flushed] = place.staged("data.flush");
    assert_eq!(text(&flushed, "event.outcome"), "success");
    place.never_says("hidden-value");
    place.never_says("some-key");
    place.verifies();
}

/// AS1: of a synced policy too, replies keep their order, and what was acknowledged was recorded.
#[test]
fn a_client_that_waits_for_its_records_gets_its_replies_in_order() {
    let policy = "[write]\ninfo = { mode = \"sync\", on-failure = \"block\" }\nnotice = { mode = \"sync\", on-failure = \"block\" }\n".to_owned() + BY_PREFIX;
    let place = Place::new(&policy);
    let primary = place.primary();
    let mut client = primary.client();
    for n in 0..40 {
        client.send(&format!("SET acct:{n} {n}"));
        client.send(&format!("GET other{n}"));
        client.send(&format!("GET acct:{n}"));
    }
    for n in 0..40 {
        assert_eq!(client.reply(), "+OK");
        assert_eq!(client.reply(), "nil");
        assert_eq!(client.reply(), n.to_string());
    }
    let writes = place.of("data.write");
    assert_eq!(writes.len(), 80);
    for pair in writes.chunks(2) {
        assert_eq!(pair[0]["esker.stage"], "intent");
        assert_eq!(pair[0]["http.request.id"], pair[1]["http.request.id"]);
        assert_eq!(pair[1]["event.outcome"], "success");
    }
    primary.terminate();
    place.verifies();
}

#[test]
fn slow_commands_are_recorded() {
    let place = Place::new("slow = \"1ms\"\n");
    let primary = place.primary();
    let mut client = primary.client();
    // The clock of slow commands is coarse: some of many are long enough on any machine.
    let found = eventually("a slow command", || {
        for round in 0..20 {
            let pairs: Vec<String> = (0..2000).map(|n| format!("k{round}-{n} v")).collect();
            assert_eq!(client.ask(&format!("MSET {}", pairs.join(" "))), "+OK");
        }
        client.ask("DBSIZE");
        place.of("command.slow").into_iter().next()
    });
    assert!(
        found["labels.duration_us"].as_u64().unwrap() >= 1000,
        "{found}"
    );
    assert!(
        ["mset", "dbsize"].contains(&text(&found, "labels.command")),
        "{found}"
    );
    primary.terminate();
}

/// A1: what was acknowledged is in the trail after kill -9, and nothing else is wrong with it.
#[test]
fn a1_kill_9_keeps_what_was_acknowledged() {
    let policy =
        "[write]\ninfo = { mode = \"interval\", on-failure = \"drop\" }\n".to_owned() + BY_PREFIX;
    let place = Place::new(&policy);
    let (mut flushed, mut written) = (0, 0);
    for round in 0..4 {
        let mut primary = place.primary();
        let mut client = primary.client();
        for n in 0..=round * 5 {
            assert_eq!(client.ask(&format!("SET acct:{n} x")), "+OK");
            written += 1;
            assert_eq!(client.ask("FLUSHALL"), "+OK");
            flushed += 1;
        }
        client.send("FLUSHALL");
        primary.child.kill().unwrap();
        primary.child.wait().unwrap();
        place.verifies();
        let outcomes = |action| {
            let all = place.of(action);
            let intents = all
                .iter()
                .filter(|r| r.get("esker.stage").is_some())
                .count();
            (intents, all.len() - intents)
        };
        let (intents, done) = outcomes("data.flush");
        // The last of a round may or may not have been reached.
        assert!(
            (flushed..=flushed + round + 1).contains(&done),
            "{flushed} acknowledged, {done} recorded"
        );
        assert!(intents >= done, "{intents} {done}");
        assert_eq!(outcomes("data.write"), (0, written));
    }
}

/// A place whose trail has a disk of 24 MiB for itself, and how it is written there; `None` where this machine does not let us mount one.
fn on_a_small_disk(write: &str) -> Option<(TempDir, Disk, Place)> {
    let here = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = match Disk::new(here.path(), 24) {
        Ok(disk) => disk,
        Err(why) => {
            println!("skipped: this machine does not let us mount a disk: {why}");
            return None;
        }
    };
    let policy =
        format!("[write]\n{write}\nreserve = \"64KiB\"\n[rotation]\nsize = \"1MiB\"\n{BY_PREFIX}");
    let mut place = Place::new(&policy);
    place.audit = disk.path().join("audit");
    Some((here, disk, place))
}

/// Fills the disk at `dir` to its last byte.
fn fill(dir: &Path) {
    let mut file = std::fs::File::create(dir.join("filler")).unwrap();
    let mut block = vec![7_u8; 1 << 20];
    while !block.is_empty() {
        if file.write_all(&block).is_err() || file.sync_data().is_err() {
            block.truncate(block.len() / 4);
        }
    }
}

/// A2, AS1: of a pipeline whose intents share a sync those that can't be recorded are refused; what nothing is to be recorded of is executed.
#[test]
fn a2_of_a_raft_batch_what_can_not_be_recorded_is_refused_and_the_rest_executed() {
    let Some((_here, disk, place)) =
        on_a_small_disk(r#"info = { mode = "sync", on-failure = "refuse" }"#)
    else {
        return;
    };
    let members = format!("1=tcp://127.0.0.1:{}", free_port());
    let args = ["--id", "1", "--cluster", &members, "--election-timeout"];
    let node = place.start(RAFT_NODE, &[&args[..], &["200ms", "--bootstrap"]].concat());
    let mut client = node.client();
    eventually("a leader", || {
        (client.ask("SET ready 1") == "+OK").then_some(())
    });
    let mut round = |number: u64| {
        for line in [
            format!("SET acct:1 {number}"),
            format!("SET other {number}"),
            format!("SET acct:2 {number} {}", "v".repeat(200)),
            format!("INCR other:{number}"),
        ] {
            client.send(&line);
        }
        [0; 4].map(|_| client.reply())
    };
    let [first, other, failed, count] = round(0);
    assert_eq!((&*first, &*other, &*count), ("+OK", "+OK", ":1"));
    assert!(failed.starts_with("-ERR"), "{failed}");
    fill(disk.path());
    let number = (1..100_000).find(|number| {
        // They may come in several parts, and so the first be taken yet.
        let [_, other, refused, count] = round(*number);
        assert_eq!((&*other, &*count), ("+OK", ":1"), "{number}");
        refused.starts_with("-AUDITREFUSED not executed: ")
    });
    let number = number.expect("24 MiB took all of it");
    assert_eq!(client.ask("GET other"), number.to_string());
    std::fs::remove_file(disk.path().join("filler")).unwrap();
    eventually("room", || {
        (client.ask("SET acct:1 again") == "+OK").then_some(())
    });
    assert!(client.info("refused_operations") > 0);
    node.terminate();
    place.verifies();
}

/// A2: where the trail takes no record, nothing is done; and it goes on by itself.
#[test]
fn a2_what_can_not_be_recorded_is_refused_and_not_executed() {
    let write = r#"
        info = { mode = "interval", on-failure = "refuse" }
        error = { mode = "sync", on-failure = "refuse" }
    "#;
    let Some((_here, disk, place)) = on_a_small_disk(write) else {
        return;
    };
    let primary = place.primary();
    let mut client = primary.client();
    assert_eq!(client.ask("SET acct:before 1"), "+OK");
    fill(disk.path());

    let mut acknowledged = 0;
    let why = loop {
        let reply = client.ask(&format!("SET acct:{acknowledged} {}", "v".repeat(200)));
        if reply != "+OK" {
            break reply;
        }
        acknowledged += 1;
        assert!(acknowledged < 100_000, "24 MiB took all of it");
    };
    assert!(why.starts_with("-AUDITREFUSED not executed: "), "{why}");
    assert_eq!(client.ask("GET other"), "nil");
    assert_eq!(client.ask("SET other 1"), "+OK");
    // What is graver may use the reserve, until that is gone too; long ones take it sooner.
    let long = format!("FLUSHALL {}", "x".repeat(1000));
    let mut tries = 0;
    while client.ask(&long).starts_with("-ERR syntax error") {
        tries += 1;
        assert!(tries < 100_000, "the reserve took all of it");
    }
    let refused = loop {
        assert_eq!(client.ask("SET keeps 1"), "+OK");
        let reply = client.ask("FLUSHALL");
        if reply != "+OK" {
            break reply;
        }
    };
    assert!(
        refused.starts_with("-AUDITREFUSED not executed: "),
        "{refused}"
    );
    assert_eq!(client.ask("GET keeps"), "1");
    assert!(client.exec(&["FLUSHALL"]).starts_with("-AUDITREFUSED"));
    assert!(client.ask("EXEC").starts_with("-ERR EXEC without MULTI"));
    assert_eq!(client.ask("GET keeps"), "1");
    assert!(client.info("refused_operations") >= 3);

    std::fs::remove_file(disk.path().join("filler")).unwrap();
    eventually("room", || (client.ask("FLUSHALL") == "+OK").then_some(()));
    assert_eq!(client.ask("GET keeps"), "nil");
    eventually("room", || {
        (client.ask("SET acct:after 1") == "+OK").then_some(())
    });
    primary.terminate();
    place.verifies();
    let writes = place.of("data.write");
    let done = writes
        .iter()
        .filter(|w| w["event.outcome"] == "success")
        .count();
    assert!(done > acknowledged, "{acknowledged} {done}");
}

/// A2, AS1: also what a signal asks for.
#[test]
fn a2_users_are_not_read_anew_where_that_can_not_be_recorded() {
    let write = r#"error = { mode = "sync", on-failure = "refuse" }"#;
    let Some((_here, disk, place)) = on_a_small_disk(write) else {
        return;
    };
    let users = |password: &str| {
        let text =
            format!("user default on nopass ~* &* +@all\nuser ann on >{password} ~* &* +@all\n");
        std::fs::write(place.path("users.acl"), text).unwrap();
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(place.path("users.acl"), mode).unwrap();
    };
    users("one");
    let file = place.path("users.acl");
    let primary = place.start(
        PRIMARY,
        &["--replication-listen", "off", "--acl-file", &file],
    );
    let mut client = primary.client();
    assert_eq!(client.ask("AUTH ann one"), "+OK");
    fill(disk.path());
    let long = format!("FLUSHALL {}", "x".repeat(1000));
    for line in [&long, "FLUSHALL x"] {
        let refused = (0..100_000).any(|_| client.ask(line).starts_with("-AUDITREFUSED"));
        assert!(refused, "the reserve took all of it");
    }
    // Their records are shorter.
    let mut hung_up = || {
        let numbers = ["refused_operations", "records"].map(|name| client.info(name));
        primary.signal(Signal::HUP);
        eventually("a record that is taken or is not", || {
            let now = ["refused_operations", "records"].map(|name| client.info(name));
            (now != numbers).then_some(now[0] > numbers[0])
        })
    };
    let refused = (0..1000).any(|_| hung_up());
    assert!(refused, "the reserve took all of it");

    users("two");
    let refused = (0..10).any(|_| hung_up());
    assert!(refused, "room came back");
    assert_eq!(client.ask("AUTH ann one"), "+OK");
    assert!(client.ask("AUTH ann two").starts_with("-WRONGPASS"));

    std::fs::remove_file(disk.path().join("filler")).unwrap();
    eventually("room", || (client.ask("FLUSHALL") == "+OK").then_some(()));
    primary.signal(Signal::HUP);
    let mut other = primary.client();
    eventually("the new users", || {
        (other.ask("AUTH ann two") == "+OK").then_some(())
    });
    primary.terminate();
    place.verifies();
    let reloads = place.of("user.reload");
    let [.., intent, outcome] = &reloads[..] else {
        panic!("{reloads:#?}");
    };
    assert_eq!(intent["esker.stage"], "intent");
    assert_eq!(text(outcome, "event.outcome"), "success");
    assert_eq!(outcome["http.request.id"], intent["http.request.id"]);
    assert_eq!(text(outcome, "labels.by"), "SIGHUP");
    assert_eq!(outcome["labels.users"], 2);
}

#[test]
fn sighup_closes_a_file_and_metrics_tell_how_the_trail_stands() {
    let place = Place::new("");
    let metrics = format!("127.0.0.1:{}", free_port());
    let primary = place.start(
        PRIMARY,
        &["--replication-listen", "off", "--metrics-listen", &metrics],
    );
    let mut client = primary.client();
    assert_eq!(client.ask("FLUSHALL"), "+OK");
    for round in 1..=2 {
        primary.signal(Signal::HUP);
        eventually("a closed file", || {
            (client.info("closed_files") == round).then_some(())
        });
        assert_eq!(client.ask("FLUSHALL"), "+OK");
    }
    let mut stream = TcpStream::connect(&metrics).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    for name in [
        "queue_depth 0",
        "dropped_total 0",
        "refused_total 0",
        "last_written_seconds ",
        "last_checkpoint ",
        "free_bytes ",
        "live_bytes ",
        "closed_files 2",
        "down 0",
        "short 0",
        "rotations_total 2",
    ] {
        assert!(
            page.contains(&format!("\nesker_audit_{name}")),
            "{name}: {page}"
        );
    }
    assert!(client.ask("INFO").contains("audit_enabled:1"));
    primary.terminate();
    place.verifies();
    assert_eq!(place.of("data.flush").len(), 6);
}

#[test]
fn a_start_is_refused_by_a_bad_policy_and_without_the_keys() {
    let place = Place::new("slow = \"1s\"\n[[rule]]\nlevel = \"some\"\n");
    let fails = |more: &[&str]| {
        let mut command =
            place.command(PRIMARY, &[&["--replication-listen", "off"], more].concat());
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = fails(&[]);
    assert!(
        said.contains("policy.toml, line 3: ") && said.contains("`some`"),
        "{said}"
    );
    std::fs::write(place.path("policy.toml"), "").unwrap();
    place.primary().terminate();
    // New keys would make all that was written before unreadable.
    std::fs::remove_file(place.path("keys")).unwrap();
    let said = fails(&[]);
    assert!(said.contains("--audit-key-file"), "{said}");
    let data = place.path("other");
    let args = [
        "--audit-policy",
        "x",
        "--data-dir",
        &data,
        "--listen",
        "127.0.0.1:0",
    ];
    let more = ["--replication-listen", "off", "--metrics-listen", "off"];
    let output = Command::new(PRIMARY)
        .args(args)
        .args(more)
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--audit-dir"));
}

#[test]
fn a_replica_records_its_promotion_and_what_it_refuses() {
    let (above, place) = (Place::new(""), Place::new(""));
    let endpoint = format!("tcp://127.0.0.1:{}", free_port());
    let primary = above.start(PRIMARY, &["--replication-listen", &endpoint]);
    let replica = place.start(REPLICA, &["--primary", &endpoint]);
    let mut client = replica.client();
    assert_eq!(primary.client().ask("SET a 1"), "+OK");
    eventually("the replica to follow", || {
        (client.ask("GET a") == "1").then_some(())
    });
    assert!(client.ask("SET a 2").starts_with("-READONLY"));
    drop(primary);
    assert_eq!(client.ask("REPLICAOF NO ONE"), "+OK");
    assert_eq!(client.ask("SET a 2"), "+OK");
    let [_, promoted] = place.staged("node.promote");
    assert_eq!(text(&promoted, "event.outcome"), "success");
    let refused = place.of("command.refused");
    let readonly = refused
        .iter()
        .find(|r| r["error.code"] == "READONLY")
        .unwrap();
    assert_eq!(text(readonly, "labels.command"), "set");
    replica.terminate();
    place.verifies();
}

/// Each intent of that action has an outcome; errors that those have.
fn outcomes(place: &Place, action: &str) -> Option<Vec<String>> {
    let (intents, outcomes): (Vec<Value>, Vec<Value>) =
        (place.of(action).into_iter()).partition(|record| record["esker.stage"] == "intent");
    let ids = |records: &[Value]| -> BTreeSet<String> {
        let ids = records
            .iter()
            .map(|r| text(r, "http.request.id").to_owned());
        ids.collect()
    };
    let error = |r: &Value| r["error.message"].as_str().unwrap_or_default().to_owned();
    (ids(&intents) == ids(&outcomes) && intents.len() == outcomes.len())
        .then(|| outcomes.iter().map(error).collect())
}

/// AS1: who asked for it may be gone before it is over.
#[test]
fn a_promotion_has_an_outcome_although_its_client_hung_up() {
    let intervals = "[write]\nerror = { mode = \"interval\", on-failure = \"refuse\" }\n";
    for (policy, pause) in [(intervals, 1), (intervals, 3), ("", 1), ("", 0)] {
        let (above, place) = (Place::new(""), Place::new(policy));
        let endpoint = format!("tcp://127.0.0.1:{}", free_port());
        let primary = above.start(PRIMARY, &["--replication-listen", &endpoint]);
        let replica = place.start(REPLICA, &["--primary", &endpoint]);
        let mut client = replica.client();
        assert_eq!(primary.client().ask("SET a 1"), "+OK");
        client.until("GET a", "1");
        let mut gone = replica.client();
        gone.send("REPLICAOF NO ONE");
        std::thread::sleep(Duration::from_millis(pause));
        drop(gone);
        let errors = eventually("the outcome", || {
            outcomes(&place, "node.promote").filter(|errors| !errors.is_empty())
        });
        // It may have gone before its intent was there.
        let error = match client.ask("SET a 2").as_str() {
            "+OK" => "",
            _ => "not executed: the client was gone",
        };
        assert_eq!(errors, [error], "{policy} {pause}");
        replica.terminate();
        place.staged("node.promote");
        place.verifies();
    }
}

/// AS1: what was not executed, as its client had gone while its intent was written, is said to be not executed.
#[test]
fn an_intent_of_a_client_that_is_gone_has_an_outcome() {
    let place = Place::new("");
    let primary = place.primary();
    let mut client = primary.client();
    let mut flushed = 0;
    for round in 0..150_u64 {
        let mut gone = primary.client();
        gone.send("FLUSHALL");
        std::thread::sleep(Duration::from_micros(round * 10));
        drop(gone);
        flushed += 1;
    }
    assert_eq!(client.ask("FLUSHALL"), "+OK");
    let errors = eventually("all outcomes", || {
        outcomes(&place, "data.flush").filter(|errors| errors.len() == flushed + 1)
    });
    let gone = |error: &&String| *error == "not executed: the client was gone";
    assert!(errors.iter().any(|error| gone(&error)), "{errors:?}");
    assert!(errors.iter().all(|error| error.is_empty() || gone(&error)));
    primary.terminate();
    place.verifies();
}

/// A2, AS1: of a transaction of which one record is refused nothing is executed, and those that are in the trail say so.
#[test]
fn a2_of_a_transaction_that_is_refused_no_intent_is_left_open() {
    for (mode, program) in [
        ("sync", PRIMARY),
        ("interval", PRIMARY),
        ("sync", RAFT_NODE),
    ] {
        let write = format!(
            "info = {{ mode = \"interval\", on-failure = \"refuse\" }}\nerror = {{ mode = \"{mode}\", on-failure = \"refuse\" }}\n"
        );
        let Some((_here, disk, place)) = on_a_small_disk(&write) else {
            return;
        };
        let members = format!("1=tcp://127.0.0.1:{}", free_port());
        let node = match program {
            PRIMARY => place.primary(),
            _ => place.start(
                RAFT_NODE,
                &["--id", "1", "--cluster", &members, "--bootstrap"],
            ),
        };
        let mut client = node.client();
        client.until("SET keeps 1", "+OK");
        fill(disk.path());
        // Until nothing is left but the reserve, which is for what is graver.
        for length in [200, 1] {
            let line = format!("SET acct:1 {}", "v".repeat(length));
            let refused = (0..100_000).any(|_| client.ask(&line).starts_with("-AUDITREFUSED"));
            assert!(refused, "24 MiB took all of it");
        }
        let reply = client.exec(&["FLUSHALL", "SET acct:1 v"]);
        assert!(reply.starts_with("-AUDITREFUSED not executed: "), "{reply}");
        assert_eq!(client.ask("GET keeps"), "1");
        let errors = eventually("the outcome", || {
            outcomes(&place, "data.flush").filter(|errors| !errors.is_empty())
        });
        assert_eq!(
            errors,
            ["not executed: a record that goes with this one was refused"]
        );
        std::fs::remove_file(disk.path().join("filler")).unwrap();
        eventually("room", || {
            (client.ask("SET acct:1 v") == "+OK").then_some(())
        });
        node.terminate();
        place.verifies();
    }
}

/// AS1: nobody has to ask whether the keys were flushed.
#[test]
fn what_exec_did_not_execute_as_a_watched_key_had_changed_is_recorded_as_that() {
    let members = format!("1=tcp://127.0.0.1:{}", free_port());
    let raft = ["--id", "1", "--cluster", &members, "--bootstrap"];
    for (program, args) in [
        (PRIMARY, &["--replication-listen", "off"][..]),
        (RAFT_NODE, &raft),
    ] {
        let place = Place::new("");
        let node = place.start(program, args);
        let (mut client, mut other) = (node.client(), node.client());
        client.until("SET k 1", "+OK");
        assert_eq!(client.ask("WATCH k"), "+OK");
        assert_eq!(other.ask("SET k 2"), "+OK");
        assert_eq!(client.ask("MULTI"), "+OK");
        assert_eq!(client.ask("FLUSHALL"), "+QUEUED");
        assert_eq!(client.ask("EXEC"), "nil");
        assert_eq!(client.ask("GET k"), "2");
        node.terminate();
        let [_, outcome] = place.staged("data.flush");
        assert_eq!(text(&outcome, "event.outcome"), "failure");
        assert_eq!(text(&outcome, "error.code"), "EXECABORT");
    }
}

/// A record names the entry that its own command is in, and no other.
#[test]
fn on_a_raft_node_a_record_has_no_entry_of_an_earlier_transaction() {
    let place = Place::new("");
    let members = format!("1=tcp://127.0.0.1:{}", free_port());
    let args = ["--id", "1", "--cluster", &members, "--bootstrap"];
    let node = place.start(RAFT_NODE, &args);
    let mut client = node.client();
    client.until("SET ready 1", "+OK");
    // Nothing is recorded of data.
    assert_eq!(client.exec(&["SET a 1"]), "+OK");
    assert!(client.ask("CONFIG SET maxclients 7").starts_with("-ERR"));
    assert_eq!(client.exec(&["SET a 2", "FLUSHALL"]), "+OK\n+OK");
    assert_eq!(client.exec(&["SET a 3"]), "+OK");
    assert_eq!(client.exec(&["CONFIG GET maxclients"]), "maxclients\n1024");
    node.terminate();
    for record in [place.staged("config.change"), place.staged("data.flush")].concat() {
        let within =
            text(&record, "event.action") == "data.flush" && record.get("esker.stage").is_none();
        assert_eq!(record.get("esker.index").is_some(), within, "{record}");
        assert_eq!(record.get("esker.epoch").is_some(), within, "{record}");
    }
    let [read] = &place.of("config.read")[..] else {
        panic!("one of a read");
    };
    assert!(read.get("esker.index").is_none(), "{read}");
}

#[test]
fn a_raft_node_records_its_cluster_and_commands_in_batches() {
    let place = Place::new(BY_PREFIX);
    let members = format!("1=tcp://127.0.0.1:{}", free_port());
    let args = [
        "--id",
        "1",
        "--cluster",
        &members,
        "--election-timeout",
        "200ms",
    ];
    let mut node = place.start(RAFT_NODE, &[&args[..], &["--bootstrap"]].concat());
    let mut client = node.client();
    eventually("a leader", || {
        (client.ask("SET ready 1") == "+OK").then_some(())
    });
    // Written together, recorded one by one.
    let mut writer = node.client();
    for line in [
        "SET acct:1 hidden-value",
        "SET other 1",
        "INCR acct:1",
        "SET acct:2 hidden-value",
    ] {
        writer.send(line);
    }
    assert_eq!(writer.reply(), "+OK");
    assert_eq!(writer.reply(), "+OK");
    assert!(writer.reply().starts_with("-ERR"));
    assert_eq!(writer.reply(), "+OK");
    assert_eq!(client.ask("GET acct:1"), "hidden-value");
    assert_eq!(client.ask("FLUSHALL"), "+OK");
    assert_eq!(client.ask("GET acct:1"), "nil");
    // Of a transaction, each command has its record, and all the same entry.
    let reply = client.exec(&[
        "SET acct:3 x",
        "PING",
        "INCR acct:3",
        "SET acct:4 hidden-value",
    ]);
    assert!(reply.starts_with("+OK\n+PONG\n-ERR"), "{reply}");
    assert!(client.ask("RAFT.SNAPSHOT").starts_with(':'));
    assert!(client.ask("RAFT.PROMOTE 9").starts_with("-ERR"));
    assert!(client.ask("RAFT.STATUS").contains("raft_node"));
    assert!(client.ask("CONFIG SET maxclients 7").starts_with("-ERR"));
    assert!(client.ask("NOSUCH x").starts_with("-ERR"));
    assert!(
        client
            .ask("HELLO 2 AUTH ann hunter2")
            .starts_with("-WRONGPASS")
    );
    assert_eq!(client.info("refused"), 0);
    client.send("SHUTDOWN");
    node.ends();

    let writes = place.of("data.write");
    let said: Vec<_> = (writes.iter())
        .map(|w| (text(w, "esker.resource.id"), text(w, "event.outcome")))
        .collect();
    assert_eq!(
        said,
        [
            ("acct:1", "success"),
            ("acct:1", "failure"),
            ("acct:2", "success"),
            ("acct:3", "success"),
            ("acct:3", "failure"),
            ("acct:4", "success")
        ]
    );
    // Where in the Raft log they are.
    let index = |w: &Value| w["esker.index"].as_u64().unwrap();
    assert!(writes.iter().all(|w| index(w) > 1), "{writes:?}");
    let term = |w: &Value| w["esker.epoch"].as_u64().unwrap();
    assert!(writes.iter().all(|w| term(w) > 0), "{writes:?}");
    assert!(writes.is_sorted_by_key(index));
    assert_eq!(index(&writes[3]), index(&writes[5]));
    assert_eq!(place.of("data.read").len(), 2);
    for (action, object, outcome) in [
        ("data.flush", "", "success"),
        ("cluster.snapshot", "", "success"),
        ("cluster.promote-member", "9", "failure"),
        ("config.change", "maxclients", "failure"),
        ("node.shutdown", "", "success"),
    ] {
        let [_, done] = place.staged(action);
        assert_eq!(text(&done, "event.outcome"), outcome, "{action}");
        assert_eq!(text(&done, "esker.resource.id"), object, "{action}");
    }
    let login = &place.of("user.login")[0];
    assert_eq!(text(login, "esker.resource.id"), "(no such user)");
    assert_eq!(text(login, "user.name"), "default");
    assert_eq!(
        text(&place.of("command.refused")[0], "labels.command"),
        "nosuch"
    );
    let (opened, closed) = (
        place.of("session.open").len(),
        place.of("session.close").len(),
    );
    assert_eq!(opened, closed);
    for secret in ["hidden-value", "hunter2"] {
        place.never_says(secret);
    }
    place.verifies();
}
