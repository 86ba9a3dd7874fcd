//! The binaries as an operator meets them: how they end, what they leave behind, and what they say to bad input.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a skipped test says why"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use xtask::node::{Binaries, Node, Setup};

const PATIENCE: Duration = Duration::from_secs(30);

fn binaries() -> Binaries {
    Binaries {
        primary: env!("CARGO_BIN_EXE_primary").into(),
        replica: env!("CARGO_BIN_EXE_replica").into(),
    }
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn primary(dir: &Path) -> Setup {
    Setup::primary(&binaries(), &dir.join("primary"), &dir.join("primary.out"))
}

fn replica(dir: &Path, name: &str, of: &Setup) -> Setup {
    Setup::replica(
        &binaries(),
        &dir.join(name),
        &dir.join(format!("{name}.out")),
        of,
    )
}

/// Runs a binary that must refuse to start: a failure status and one clear message, soon.
fn refused(setup: &Setup) -> String {
    let mut node = setup.spawn().unwrap();
    let status = node.wait_exit(PATIENCE).unwrap();
    let said = fs::read_to_string(&setup.output).unwrap();
    assert!(!status.success(), "it ended well:\n{said}");
    assert!(
        status.code().is_some(),
        "it was killed by a signal, {status}:\n{said}"
    );
    assert!(!said.contains("panicked"), "it panicked:\n{said}");
    said
}

#[track_caller]
fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(
            said.to_lowercase().contains(&word.to_lowercase()),
            "{word:?} is not in:\n{said}"
        );
    }
}

fn set(node: &Node, key: &str, value: &str) {
    let reply = node
        .client()
        .unwrap()
        .line(&format!("SET {key} {value}"))
        .unwrap();
    assert!(reply.is_ok(), "SET answered {}", reply.text());
}

fn get(node: &Node, key: &str) -> String {
    node.client()
        .unwrap()
        .line(&format!("GET {key}"))
        .unwrap()
        .text()
}

/// Files below `dir`, relative.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path)
            } else {
                found.push(path)
            }
        }
    }
    found
}

#[test]
fn sigterm_ends_both_cleanly_and_leaves_nothing_behind() {
    let dir = dir();
    let primary = primary(dir.path());
    let replica = replica(dir.path(), "replica", &primary);
    let mut primary_node = primary.start().unwrap();
    let mut replica_node = replica.start().unwrap();
    set(&primary_node, "k", "v");
    xtask::demo::wait_equal(&primary_node, &replica_node, PATIENCE).unwrap();
    // A client that stays connected does not hold up the end.
    let _idle = primary_node.client().unwrap();
    for node in [&mut replica_node, &mut primary_node] {
        let task = PathBuf::from(format!("/proc/{}/task", node.pid()));
        let unnamed: Vec<String> = fs::read_dir(&task)
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("comm")).ok())
            .map(|name| name.trim().to_owned())
            .filter(|name| {
                !["esker", "primary", "replica", "ZMQbg"]
                    .iter()
                    .any(|ours| name.starts_with(ours))
            })
            .collect();
        assert!(
            unnamed.is_empty(),
            "threads without a name of ours: {unnamed:?}"
        );
        let status = node.terminate(PATIENCE).unwrap();
        assert!(status.success(), "{status}\n{}", node.tail());
    }
    for path in files(dir.path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            !name.ends_with(".tmp"),
            "a temporary file is left: {}",
            path.display()
        );
    }
    for setup in [&primary, &replica] {
        std::net::TcpListener::bind(setup.listen).expect("the client port is free again");
        std::net::TcpListener::bind(setup.metrics).expect("the metrics port is free again");
    }
    // A clean end is a quick start with everything there.
    let node = primary.start().unwrap();
    assert_eq!(get(&node, "k"), "v");
}

#[test]
fn sigterm_during_load_loses_nothing_that_was_answered() {
    let dir = dir();
    let setup = primary(dir.path());
    let mut node = setup.start().unwrap();
    let mut client = node.client().unwrap();
    let writer = std::thread::spawn(move || {
        (0_u32..)
            .take_while(|n| {
                client
                    .line(&format!("SET n {n}"))
                    .is_ok_and(|reply| reply.is_ok())
            })
            .last()
    });
    std::thread::sleep(Duration::from_millis(200));
    assert!(
        node.terminate(PATIENCE).unwrap().success(),
        "{}",
        node.tail()
    );
    let last = writer.join().unwrap().expect("something was written");
    let node = setup.start().unwrap();
    let found: u32 = get(&node, "n").parse().unwrap();
    assert!(
        found == last || found == last + 1,
        "answered up to {last}, found {found}"
    );
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let dir = dir();
    let mut node = primary(dir.path()).start().unwrap();
    node.signal(rustix::process::Signal::TERM).unwrap();
    // The first may already have been enough.
    let _ = node.signal(rustix::process::Signal::INT);
    let began = Instant::now();
    node.wait_exit(Duration::from_secs(10)).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_port_in_use_is_named() {
    let dir = dir();
    let first = primary(dir.path());
    let _node = first.start().unwrap();
    let cases = [
        (
            "client",
            Setup {
                listen: first.listen,
                ..primary(dir.path())
            },
            first.listen.to_string(),
        ),
        (
            "metrics",
            Setup {
                metrics: first.metrics,
                ..primary(dir.path())
            },
            first.metrics.to_string(),
        ),
        (
            "replication",
            Setup {
                replication: first.replication.clone(),
                ..primary(dir.path())
            },
            first.replication.trim_start_matches("tcp://").to_owned(),
        ),
    ];
    for (name, setup, taken) in cases {
        let setup = Setup {
            dir: dir.path().join(name),
            output: dir.path().join(format!("{name}.out")),
            ..setup
        };
        let said = refused(&setup);
        assert_says(&said, &[&taken, "choose another"]);
    }
}

#[test]
fn a_locked_directory_is_refused() {
    let dir = dir();
    let first = primary(dir.path());
    let node = first.start().unwrap();
    let second = Setup {
        dir: first.dir.clone(),
        output: dir.path().join("second.out"),
        ..primary(dir.path())
    };
    let said = refused(&second);
    assert_says(&said, &[&first.dir.to_string_lossy(), "another process"]);
    set(&node, "k", "served");
    assert_eq!(get(&node, "k"), "served");
}

#[test]
fn a_bad_flag_names_the_nearest_one() {
    for (binary, flag) in [
        (binaries().primary, "--durabilty"),
        (binaries().replica, "--primry"),
    ] {
        let output = Command::new(&binary)
            .args([flag, "always"])
            .output()
            .unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let nearest = if flag == "--primry" {
            "--primary"
        } else {
            "--durability"
        };
        assert_says(&said, &[flag, nearest]);
    }
}

#[test]
fn a_bad_value_names_the_possible_ones() {
    let output = Command::new(binaries().primary)
        .args(["--durability", "sometimes"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert_says(
        &String::from_utf8_lossy(&output.stderr),
        &["sometimes", "always", "interval", "no"],
    );
}

#[test]
fn a_bad_config_key_names_the_nearest_one() {
    let dir = dir();
    let config = dir.path().join("esker.toml");
    fs::write(&config, "durabilty = \"always\"\n").unwrap();
    let said = refused(&primary(dir.path()).with(&["--config", &config.to_string_lossy()]));
    assert_says(&said, &["esker.toml", "durabilty", "durability"]);
}

#[test]
fn a_directory_of_another_kind_is_refused_and_not_touched() {
    let dir = dir();
    let foreign = dir.path().join("primary");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("PG_VERSION"), "15\n").unwrap();
    let before = files(&foreign);
    let said = refused(&primary(dir.path()));
    assert_says(&said, &[&foreign.to_string_lossy()]);
    assert_eq!(files(&foreign), before, "something was written into it");
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() {
    let dir = dir();
    fs::write(dir.path().join("primary"), "not a directory").unwrap();
    let said = refused(&primary(dir.path()));
    assert_says(&said, &["primary"]);
}

#[test]
fn a_read_only_directory_is_refused() {
    let dir = dir();
    let setup = primary(dir.path());
    setup.start().unwrap().terminate(PATIENCE).unwrap();
    let shut = |mode| fs::set_permissions(&setup.dir, fs::Permissions::from_mode(mode)).unwrap();
    if rustix::process::geteuid().is_root() {
        // Modes do not bind root; a mount does.
        let mounted = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "mount --bind '{0}' '{0}' && mount -o remount,ro,bind '{0}'",
                setup.dir.display()
            ))
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: this machine does not let us mount");
            return;
        }
        let outcome = std::panic::catch_unwind(|| refused(&setup));
        Command::new("umount")
            .arg("-l")
            .arg(&setup.dir)
            .status()
            .unwrap();
        assert_says(&outcome.unwrap(), &["read-only"]);
    } else {
        shut(0o555);
        let outcome = std::panic::catch_unwind(|| refused(&setup));
        shut(0o755);
        assert_says(&outcome.unwrap(), &["permission"]);
    }
    setup.start().expect("nothing was harmed");
}

#[test]
fn a_replica_of_another_store_is_refused_and_keeps_its_data() {
    let dir = dir();
    let first = primary(dir.path());
    let second = Setup {
        dir: dir.path().join("second"),
        output: dir.path().join("second.out"),
        ..primary(dir.path())
    };
    let first_node = first.start().unwrap();
    let second_node = second.start().unwrap();
    set(&first_node, "whose", "first");
    set(&second_node, "whose", "second");
    let follower = replica(dir.path(), "replica", &first);
    let mut node = follower.start().unwrap();
    xtask::demo::wait_equal(&first_node, &node, PATIENCE).unwrap();
    node.terminate(PATIENCE).unwrap();

    // Pointed at the other store: it says so, in its log or by ending; it never takes the other's data.
    let turned = Setup {
        replication: second.replication.clone(),
        ..follower.clone()
    };
    fs::write(&turned.output, "").unwrap();
    let mut node = turned.spawn().unwrap();
    let began = Instant::now();
    loop {
        let said = fs::read_to_string(&turned.output).unwrap().to_lowercase();
        if said.contains("refused") && said.contains("point the replica at its own primary") {
            break;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "it never says why it does not follow:\n{said}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    node.kill().unwrap();
    let node = follower.start().unwrap();
    xtask::demo::wait_equal(&first_node, &node, PATIENCE).unwrap();
    assert_eq!(get(&node, "whose"), "first");
}

#[test]
fn a_replica_directory_does_not_start_as_a_primary_by_mistake() {
    let dir = dir();
    let first = primary(dir.path());
    let first_node = first.start().unwrap();
    let follower = replica(dir.path(), "replica", &first);
    let mut node = follower.start().unwrap();
    xtask::demo::wait_equal(&first_node, &node, PATIENCE).unwrap();
    node.terminate(PATIENCE).unwrap();
    let wrong = Setup {
        dir: follower.dir.clone(),
        output: dir.path().join("wrong.out"),
        ..primary(dir.path())
    };
    assert_says(&refused(&wrong), &["replica"]);
}

#[test]
fn a_newer_format_is_refused_and_nothing_changes() {
    let dir = dir();
    let setup = primary(dir.path());
    setup.start().unwrap().terminate(PATIENCE).unwrap();
    let marker = setup.dir.join("kind");
    let text = fs::read_to_string(&marker).expect("the marker of the directory's kind and format");
    assert!(text.starts_with("esker-data store 1 "), "{text:?}");
    let line = "esker-data store 99";
    let newer = format!("{line} {:08x}\n", crc32fast::hash(line.as_bytes()));
    fs::write(&marker, &newer).unwrap();
    assert_says(&refused(&setup), &["format"]);
    assert_eq!(fs::read_to_string(&marker).unwrap(), newer);
    fs::write(&marker, text).unwrap();
    setup.start().expect("nothing was harmed");
}

#[test]
fn the_start_says_what_was_recovered_and_where_it_listens() {
    let dir = dir();
    let setup = primary(dir.path());
    let mut node = setup.start().unwrap();
    set(&node, "k", "v");
    node.kill().unwrap();
    fs::write(&setup.output, "").unwrap();
    let _node = setup.start().unwrap();
    // It serves a moment before it has said all of it.
    let end = Instant::now() + Duration::from_secs(30);
    let mut said = String::new();
    while !said.contains("redis-cli") && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
        said = fs::read_to_string(&setup.output).unwrap();
    }
    assert_says(
        &said,
        &["recovered", &setup.listen.to_string(), "redis-cli"],
    );
}

/// Where the limit of open files can't be raised to what `--max-clients` needs there are fewer.
#[test]
fn fewer_clients_are_let_in_where_the_limit_of_open_files_is_low() {
    let dir = dir();
    let limited = |mut setup: Setup| {
        let limit = "ulimit -n 300; exec \"$0\" \"$@\"";
        setup.prefix = ["sh", "-c", limit].map(str::to_owned).into();
        setup
    };
    let primary = limited(primary(dir.path()));
    let primary_node = primary.start().unwrap();
    let replica = limited(replica(dir.path(), "replica", &primary));
    let replica_node = replica.start().unwrap();
    for node in [primary_node, replica_node] {
        let clients = node.info("maxclients").unwrap();
        assert_eq!(clients.as_deref(), Some("150"));
        let said = fs::read_to_string(&node.setup().output).unwrap();
        assert_says(&said, &["--max-clients", "raise the hard limit"]);
    }
}

#[test]
fn the_version_names_libzmq_and_curve() {
    let output = Command::new(binaries().primary)
        .arg("--version")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_says(
        &String::from_utf8_lossy(&output.stdout),
        &["4.3.5", "curve"],
    );
}
