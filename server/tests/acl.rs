//! Users and passwords on the real programs: who is asked, who is let in, what a reload does, what the trail says of it. Promises AU1 to AU3 (`acl`), E2.

use esker_audit::{Keyring, Query, Reader};
use process::{Client, Program, eventually, free_port};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

#[path = "support/process.rs"]
mod process;

const PRIMARY: &str = env!("CARGO_BIN_EXE_primary");
const REPLICA: &str = env!("CARGO_BIN_EXE_replica");
const RAFT_NODE: &str = env!("CARGO_BIN_EXE_raft-node");
const ESKER: &str = env!("CARGO_BIN_EXE_esker");

const USERS: &str = "# who may\nuser default off\n\nuser ann on >pw-ann >pw-two ~* &* +@all\nuser bob on >pw-bob allkeys allcommands\nuser eve off >pw-eve\n";
const NOAUTH: &str = "-NOAUTH Authentication required.";
const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.";
const HELLO_FIRST: &str = "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
const NO_PASSWORD: &str = "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";

struct Place {
    dir: TempDir,
    port: u16,
}

impl Place {
    fn new(users: &str) -> Place {
        let place = Place {
            dir: tempfile::tempdir().unwrap(),
            port: free_port(),
        };
        place.users(users, 0o600);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn users(&self, text: &str, mode: u32) {
        let path = self.path("users.acl");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn command(&self, program: &str, more: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .arg("--data-dir")
            .arg(self.path("data"))
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .args(["--segment-size", "1MiB", "--metrics-listen", "off"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match program {
            PRIMARY => command.args(["--replication-listen", "off"]),
            REPLICA => command.args(["--primary", "tcp://127.0.0.1:1"]),
            _ => command
                .args(["--id", "1", "--bootstrap", "--election-timeout", "200ms"])
                .args(["--cluster", &format!("1=tcp://127.0.0.1:{}", free_port())]),
        };
        command
    }

    fn start(&self, program: &str, more: &[&str]) -> Program {
        let acl = self.path("users.acl").display().to_string();
        let mut command = self.command(program, &[&["--acl-file", &acl], more].concat());
        Program::serving(command.spawn().unwrap(), self.port)
    }
}

impl Client {
    /// The server says nothing more and closes.
    #[track_caller]
    fn is_closed(&mut self) {
        let mut rest = String::new();
        // Either end of the connection may have been the first to go; one that stays open is met by the time that a client is patient.
        if let Err(error) = self.0.read_to_string(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        assert_eq!(rest, "");
    }

    fn logged_in(port: u16, user: &str, password: &str) -> Client {
        let mut client = Client::connect(port).unwrap();
        assert_eq!(client.ask(&format!("AUTH {user} {password}")), "+OK");
        client
    }
}

fn value(info: &str, name: &str) -> u64 {
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("{name} in {info}"))
        .parse()
        .unwrap()
}

/// AU1, in the words of Redis.
fn asks_who_is_there(port: u16) {
    let mut client = Client::connect(port).unwrap();
    for line in [
        "PING",
        "GET a",
        "SET a b",
        "MULTI",
        "EXEC",
        "INFO",
        "CONFIG GET *",
        "ACL WHOAMI",
        "ACL LOAD",
        "ACL",
        "CLIENT LIST",
        "COMMAND",
        "FLUSHALL",
        "SHUTDOWN",
        "NOSUCH",
        "REPLICAOF NO ONE",
        "RAFT.STATUS",
        "RAFT REMOVE 1",
        "RAFT.SNAPSHOT",
        "LOCK.ACQUIRE a b 1000",
        "LOCK.IF a 1 SET a b",
        "CLUSTER NODES",
        "READONLY",
    ] {
        assert_eq!(client.ask(line), NOAUTH, "{line}");
    }
    for (line, answer) in [
        ("AUTH pw-ann", WRONGPASS),
        ("AUTH ann pw-bob", WRONGPASS),
        ("AUTH ann pw-an", WRONGPASS),
        ("AUTH eve pw-eve", WRONGPASS),
        ("AUTH nobody pw-ann", WRONGPASS),
        ("AUTH", "-ERR wrong number of arguments for 'auth' command"),
        ("AUTH a b c", "-ERR syntax error"),
        ("HELLO", HELLO_FIRST),
        ("HELLO 3", HELLO_FIRST),
        ("HELLO 2 SETNAME x", HELLO_FIRST),
        ("HELLO 3 AUTH ann nope", WRONGPASS),
        ("HELLO 3 AUTH ann pw-ann AUTH bob nope", WRONGPASS),
        (
            "HELLO 9 AUTH ann pw-ann",
            "-NOPROTO unsupported protocol version",
        ),
        (
            "HELLO 2 AUTH ann",
            "-ERR Syntax error in HELLO option 'AUTH'",
        ),
        ("RESET", "+RESET"),
        ("PING", NOAUTH),
        ("AUTH ann pw-two", "+OK"),
        ("ACL WHOAMI", "ann"),
        ("PING", "+PONG"),
        ("AUTH bob nope", WRONGPASS),
        ("ACL WHOAMI", "ann"),
        ("AUTH bob pw-bob", "+OK"),
        ("ACL WHOAMI", "bob"),
        ("ACL USERS", "ann\nbob\ndefault\neve"),
        ("ACL CAT", "-ERR unknown subcommand 'CAT'. Try ACL HELP."),
        ("ACL", "-ERR wrong number of arguments for 'acl' command"),
    ] {
        assert_eq!(client.ask(line), answer, "{line}");
    }
    assert!(client.ask("CLIENT INFO").contains(" user=bob "));
    let list = client.ask("ACL LIST");
    let lines: Vec<&str> = list.lines().collect();
    assert!(
        lines[0].starts_with("user ann on #") && lines[0].ends_with(" ~* &* +@all"),
        "{list}"
    );
    assert_eq!(lines[2], "user default off resetchannels -@all");
    assert!(!list.contains("pw-"), "{list}");

    let mut other = Client::connect(port).unwrap();
    assert!(
        other
            .ask("HELLO 2 AUTH ann pw-ann SETNAME till")
            .contains("proto")
    );
    eventually("both in the list", || {
        let list = client.ask("CLIENT LIST");
        (list.contains(" user=ann") && list.contains(" user=bob")).then_some(())
    });
    assert_eq!(
        value(&client.ask("INFO stats"), "acl_access_denied_auth"),
        8
    );
    assert_eq!(other.ask("RESET"), "+RESET");
    assert_eq!(other.ask("ACL WHOAMI"), NOAUTH);
    // What comes together runs in its order.
    other.send("PING\r\nAUTH ann pw-ann\r\nPING\r\nRESET\r\nPING");
    let answers: Vec<String> = (0..5).map(|_| other.reply()).collect();
    assert_eq!(answers, [NOAUTH, "+OK", "+PONG", "+RESET", NOAUTH]);
}

/// E2: who has not authenticated takes no memory.
fn bounds_who_has_no_password(port: u16) {
    for (request, answer) in [
        (
            "*11\r\n",
            "-ERR Protocol error: unauthenticated multibulk length",
        ),
        (
            "*2\r\n$4\r\nAUTH\r\n$16385\r\n",
            "-ERR Protocol error: unauthenticated bulk length",
        ),
    ] {
        let mut client = Client::connect(port).unwrap();
        client.0.get_mut().write_all(request.as_bytes()).unwrap();
        assert_eq!(client.reply(), answer);
        client.is_closed();
    }
    let long = "x".repeat(16_384);
    let mut client = Client::connect(port).unwrap();
    assert_eq!(client.ask_words(&["AUTH", "ann", &long]), WRONGPASS);
    // Behind the password there are the usual ones, in one packet too.
    let value = "v".repeat(100_000);
    client.send_words(&["AUTH", "ann", "pw-ann"]);
    client.send_words(&["ECHO", &value]);
    assert_eq!(client.reply(), "+OK");
    assert_eq!(client.reply(), value);
}

/// AU3.
fn a_reload_takes_the_whole_file_or_nothing(place: &Place, program: &Program) {
    let port = place.port;
    let mut by_ann = Client::logged_in(port, "ann", "pw-ann");
    let mut by_two = Client::logged_in(port, "ann", "pw-two");
    let mut bob = Client::logged_in(port, "bob", "pw-bob");
    let mut waiting = Client::connect(port).unwrap();
    assert_eq!(waiting.ask("PING"), NOAUTH);

    for (text, mode, expected) in [
        (
            "user ann on >pw-ann ~* +@all\nuser bob on >pw-bob ~app:* +@all\n",
            0o600,
            "users.acl, line 2: word 5: Esker gives a user all keys or none; write ~*",
        ),
        (
            "user ann on pw-secret ~* +@all\n",
            0o600,
            "users.acl, line 1: word 4: none of",
        ),
        (
            USERS,
            0o644,
            "users.acl: its mode 0644 lets others read the passwords in it; chmod 600",
        ),
    ] {
        place.users(text, mode);
        let answer = bob.ask("ACL LOAD");
        assert!(
            answer.starts_with("-ERR ") && answer.contains(expected),
            "{answer}"
        );
        assert!(!answer.contains("pw-"), "{answer}");
        assert_eq!(
            Client::logged_in(port, "bob", "pw-bob").ask("PING"),
            "+PONG"
        );
        assert_eq!(by_ann.ask("PING"), "+PONG");
    }
    // bob goes, and so does one of ann's passwords. The one who asked is answered first; what it has sent behind that does not run.
    place.users(
        "user default off\nuser ann on >pw-two >pw-new ~* &* +@all\n",
        0o600,
    );
    bob.send("ACL LOAD\r\nECHO behind");
    assert_eq!(bob.reply(), "+OK");
    bob.is_closed();
    by_ann.is_closed();
    assert_eq!(by_two.ask("ACL WHOAMI"), "ann");
    assert_eq!(waiting.ask("AUTH ann pw-ann"), WRONGPASS);
    assert_eq!(waiting.ask("AUTH ann pw-new"), "+OK");
    // The same by a signal.
    place.users(USERS, 0o600);
    program.signal(Signal::HUP);
    waiting.is_closed();
    eventually("bob is back", || {
        let mut bob = Client::connect(port)?;
        (bob.ask("AUTH bob pw-bob") == "+OK").then_some(())
    });
    assert_eq!(by_two.ask("PING"), "+PONG");
    // Cut short: nobody is let in for that.
    place.users("", 0o600);
    let answer = by_two.ask("ACL LOAD");
    assert!(answer.contains("no line for `default`"), "{answer}");
    // Off, where everybody may come in as default.
    place.users(
        "user ann off >pw-two\nuser default on nopass ~* +@all\n",
        0o600,
    );
    assert_eq!(by_two.ask("ACL LOAD"), "+OK");
    by_two.is_closed();
    let mut anyone = Client::connect(port).unwrap();
    assert_eq!(anyone.ask("ACL WHOAMI"), "default");
    assert_eq!(anyone.ask("AUTH whatever"), NO_PASSWORD);
    assert_eq!(anyone.ask("AUTH default whatever"), "+OK");
    place.users(USERS, 0o600);
    assert_eq!(anyone.ask("ACL LOAD"), "+OK");
    anyone.is_closed();
}

#[test]
fn a_primary_asks_for_a_password_and_lets_nobody_else_in() {
    let place = Place::new(USERS);
    let program = place.start(PRIMARY, &["--io-threads", "2"]);
    asks_who_is_there(place.port);
    bounds_who_has_no_password(place.port);
    a_reload_takes_the_whole_file_or_nothing(&place, &program);

    // As in Redis, AUTH between MULTI and EXEC is one of the commands.
    let mut client = Client::logged_in(place.port, "ann", "pw-ann");
    for (line, answer) in [
        ("MULTI", "+OK"),
        ("AUTH bob nope", "+QUEUED"),
        ("SET a 1", "+QUEUED"),
        ("AUTH bob pw-bob", "+QUEUED"),
        ("EXEC", &*format!("{WRONGPASS}\n+OK\n+OK")),
        ("ACL WHOAMI", "bob"),
        ("MULTI", "+OK"),
        ("ACL LOAD", "-ERR Command not allowed inside a transaction"),
        ("RESET", "+RESET"),
        ("EXEC", NOAUTH),
    ] {
        assert_eq!(client.ask(line), answer, "{line}");
    }
}

#[test]
fn a_replica_asks_for_a_password_also_before_it_met_its_primary() {
    let place = Place::new(USERS);
    let program = place.start(REPLICA, &[]);
    asks_who_is_there(place.port);
    bounds_who_has_no_password(place.port);
    a_reload_takes_the_whole_file_or_nothing(&place, &program);
}

#[test]
fn a_member_of_a_cluster_asks_for_a_password_and_the_tool_has_one() {
    let place = Place::new(USERS);
    let program = place.start(RAFT_NODE, &[]);
    asks_who_is_there(place.port);
    bounds_who_has_no_password(place.port);
    let mut client = Client::logged_in(place.port, "bob", "pw-bob");
    client.until("SET a 1", "+OK");
    assert_eq!(client.ask("GET a"), "1");
    // One that has a thread of its own.
    let mut waits = Client::logged_in(place.port, "ann", "pw-ann");
    assert_eq!(waits.ask("GET a"), "1");
    a_reload_takes_the_whole_file_or_nothing(&place, &program);
    client.is_closed();
    waits.is_closed();

    let file = place.path("password");
    let status = |more: &[&str], variable: Option<&str>| -> Output {
        let mut command = Command::new(ESKER);
        let address = format!("127.0.0.1:{}", place.port);
        command.args(["cluster", "status", &address]).args(more);
        command.env_remove("REDISCLI_AUTH");
        command.envs(variable.map(|value| ("REDISCLI_AUTH", value)));
        command.output().unwrap()
    };
    let said = |output: &Output| {
        let both = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.code(), String::from_utf8(both).unwrap())
    };
    let auth_file = file.to_str().unwrap();
    let secret = |text: &str, mode| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    secret("pw-ann\n", 0o600);
    let with = ["--user", "ann", "--auth-file", auth_file];
    let (code, text) = said(&status(&with, None));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("node 1 leads"), "{text}");
    assert_eq!(said(&status(&["--user", "bob"], Some("pw-bob"))).0, Some(0));
    for (output, expected) in [
        (status(&[], None), "NOAUTH"),
        (status(&["--user", "bob"], Some("pw-ann")), "WRONGPASS"),
        (status(&["--user", "bob"], None), "--user needs a password"),
    ] {
        let (code, text) = said(&output);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(expected) && !text.contains("pw-"), "{text}");
    }
    secret("pw-ann\n", 0o644);
    let (code, text) = said(&status(&with, None));
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("chmod 600"), "{text}");
}

#[test]
fn without_a_file_nobody_is_asked_and_a_file_that_is_not_enforced_does_not_start() {
    let place = Place::new("user ann on >pw ~* +get\n");
    for program in [PRIMARY, REPLICA, RAFT_NODE] {
        let acl = place.path("users.acl").display().to_string();
        let mut command = place.command(program, &["--acl-file", &acl]);
        let output = command.stderr(Stdio::piped()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("users.acl, line 1: word 6: ") && text.contains("+@all"),
            "{text}"
        );
    }
    assert!(!place.path("data").exists());
    let mut command = place.command(PRIMARY, &[]);
    let _primary = Program::serving(command.spawn().unwrap(), place.port);
    let mut client = Client::connect(place.port).unwrap();
    for (line, answer) in [
        ("ACL WHOAMI", "default"),
        ("ACL LIST", "user default on nopass ~* &* +@all"),
        (
            "ACL LOAD",
            "-ERR This instance is not configured to use an ACL file; start it with --acl-file FILE. The users are what they were",
        ),
        ("AUTH pw", NO_PASSWORD),
        ("AUTH default pw", "+OK"),
        ("AUTH ann pw", WRONGPASS),
        ("RESET", "+RESET"),
        ("PING", "+PONG"),
    ] {
        assert_eq!(client.ask(line), answer, "{line}");
    }
}

fn records(dir: &Path, keys: &Path, action: &str) -> Vec<Value> {
    let reader = Reader::open(dir, Keyring::load(keys).unwrap()).unwrap();
    let mut records = reader.query(Query::default()).unwrap();
    let mut found = Vec::new();
    while let Some(record) = records.next().unwrap() {
        if record.fields["event.action"] == action {
            found.push(Value::Object(record.fields));
        }
    }
    found.sort_by_key(|record| record["event.sequence"].as_u64());
    found
}

/// The actor is who has authenticated, on all programs, and bursts of failures have a bound.
#[test]
fn the_trail_names_who_has_authenticated() {
    for program in [PRIMARY, RAFT_NODE] {
        let place = Place::new(USERS);
        let policy = place.path("policy.toml");
        // Logins in two stages, and all that is written.
        std::fs::write(
            &policy,
            "refused-per-second = 3\n[[rule]]\nclass = [\"data\"]\nlevel = \"metadata\"\n[[rule]]\nclass = [\"authentication\"]\nseverity = \"error\"\nlevel = \"metadata\"\n",
        )
        .unwrap();
        let (dir, keys) = (place.path("audit"), place.path("keys"));
        let [policy, dir_text, keys_text] = [&policy, &dir, &keys].map(|p| p.display().to_string());
        let args = [
            "--audit-dir",
            &dir_text,
            "--audit-key-file",
            &keys_text,
            "--audit-policy",
            &policy,
        ];
        let mut running = place.start(program, &args);

        let mut guesser = Client::connect(place.port).unwrap();
        for _ in 0..300 {
            guesser.send("AUTH ann pw-guess");
            guesser.send("AUTH pw-typo pw-ann");
            guesser.send("FLUSHALL");
        }
        for _ in 0..300 {
            assert_eq!([guesser.reply(), guesser.reply()], [WRONGPASS, WRONGPASS]);
            assert_eq!(guesser.reply(), NOAUTH);
        }
        let mut client = Client::logged_in(place.port, "ann", "pw-ann");
        client.until("SET a 1", "+OK");
        assert_eq!(client.ask("AUTH bob pw-bob"), "+OK");
        assert_eq!(client.ask("FLUSHALL"), "+OK");
        assert_eq!(client.ask("ACL LOAD"), "+OK");
        running.signal(Signal::HUP);
        let of = |action: &str| records(&dir, &keys, action);
        let field = |record: &Value, name: &str| record[name].as_str().unwrap_or("-").to_owned();
        eventually("the reload by a signal", || {
            (of("user.reload").len() == 4).then_some(())
        });
        // By a signal too it is the whole file or nothing.
        place.users(
            "user bob on >pw-bob ~* +@all\nuser ann on\nuser default off\n",
            0o600,
        );
        running.signal(Signal::HUP);
        eventually("the reload that fails", || {
            (of("user.reload").len() == 6).then_some(())
        });
        let reloads = of("user.reload");
        for (pair, outcome) in reloads.chunks(2).zip(["success", "success", "failure"]) {
            assert_eq!(field(&pair[0], "esker.stage"), "intent");
            assert_eq!(field(&pair[1], "event.outcome"), outcome);
            assert_eq!(pair[0]["http.request.id"], pair[1]["http.request.id"]);
        }
        assert_eq!(client.ask("ACL WHOAMI"), "bob");
        assert!(client.ask("ACL USERS").contains("ann"));
        assert_eq!(
            client.ask("CONFIG GET aclfile"),
            format!("aclfile\n{}", place.path("users.acl").display())
        );
        let left_out = value(&client.ask("INFO audit"), "audit_left_out");
        client.send("SHUTDOWN");
        running.wait();

        let (failed, logins): (Vec<Value>, Vec<Value>) =
            (of("user.login").into_iter()).partition(|login| login["event.outcome"] == "failure");
        let said: Vec<_> = (logins.iter())
            .map(|l| {
                [
                    field(l, "user.name"),
                    field(l, "esker.auth_method"),
                    field(l, "esker.resource.id"),
                    field(l, "event.outcome"),
                ]
            })
            .collect();
        // An intent, by who the client was; and its outcome, by who it is.
        assert_eq!(
            said,
            [
                ["-", "none", "ann", "unknown"],
                ["ann", "password", "ann", "success"],
                ["ann", "password", "bob", "unknown"],
                ["bob", "password", "bob", "success"],
            ]
        );
        assert!(failed.len() < 300, "{}", failed.len());
        assert!(
            left_out + 3 * (failed.len() as u64) > 600,
            "{left_out} {}",
            failed.len()
        );
        for one in &failed {
            assert_eq!(field(one, "user.name"), "-");
            assert_eq!(field(one, "error.code"), "WRONGPASS");
            assert!(one.get("esker.stage").is_none(), "{one}");
        }
        let typo = failed.iter().find(|one| one["esker.resource.id"] != "ann");
        let typo = typo.expect("one of each");
        assert_eq!(field(typo, "esker.resource.id"), "(no such user)");
        assert!(field(typo, "labels.name").starts_with("hmac:"), "{typo}");

        let refused = of("command.refused");
        assert!(
            refused
                .iter()
                .any(|r| r["error.code"] == "NOAUTH" && r["labels.command"] == "flushall")
        );
        assert_eq!(of("data.flush").len(), 2);
        for record in of("data.flush").iter().chain(&of("user.reload")[..2]) {
            assert_eq!(field(record, "user.name"), "bob", "{record}");
            assert_eq!(field(record, "esker.auth_method"), "password");
        }
        assert!(
            of("data.write")
                .iter()
                .all(|write| write["user.name"] == "ann")
        );
        for entry in std::fs::read_dir(dir.join("live")).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(3).any(|window| window == b"pw-"));
        }
    }
}
