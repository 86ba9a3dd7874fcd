//! `esker audit` as an operator meets it: on a trail, on a damaged copy, on a trail that is being written, with values that mean harm.

use esker_audit::{Keyring, Options, Record, Severity, Trail};
use said::{json, said};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[path = "support/said.rs"]
mod said;

struct Place {
    scratch: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Place { scratch }
    }

    fn dir(&self) -> PathBuf {
        self.scratch.path().join("audit")
    }

    /// Beside the directory, where the tool looks for it.
    fn key_file(&self) -> PathBuf {
        self.scratch.path().join("audit.keys")
    }

    fn open(&self) -> Trail {
        let keys = Keyring::load_or_create(&self.key_file()).unwrap();
        Trail::open(&self.dir(), keys, Options::default())
            .unwrap()
            .0
    }

    fn run(&self, args: &[&str]) -> Output {
        esker(args, &self.dir())
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_esker"));
    command.arg("audit").env_remove("ESKER_AUDIT_KEYS");
    command
}

fn esker(args: &[&str], last: &Path) -> Output {
    command().args(args).arg(last).output().unwrap()
}

fn login(n: usize) -> Record {
    let record = Record::new(["user.login", "user.logout"][n % 2])
        .severity(Severity::Notice)
        .actor(n.to_string(), ["ann", "bob", "cid"][n % 3])
        .origin("10.0.0.1:99", "")
        .resource("keyspace", "accounts");
    match n % 5 {
        4 => record
            .severity(Severity::Warning)
            .failure("WRONGPASS", "no such user"),
        _ => record.success(),
    }
}

/// 90 records in three closed files, and ten in the live log; with that it was opened and closed, 102.
fn filled() -> Place {
    let place = Place::new();
    let trail = place.open();
    for n in 0..100 {
        trail.record(login(n)).unwrap();
        if n % 30 == 29 {
            trail.rotate().unwrap().unwrap();
        }
    }
    trail.checkpoint().unwrap();
    trail.close().unwrap();
    place
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    all.retain(|path| path.extension().is_some_and(|e| e == "trail"));
    all.sort();
    all
}

fn sequences(text: &str) -> Vec<u64> {
    let of = |line: &str| line.rsplit_once('#').unwrap().1.parse().unwrap();
    text.lines().map(of).collect()
}

#[test]
fn a_whole_trail_verifies_and_is_not_anchored_without_a_checkpoint() {
    let place = filled();
    let text = said(&place.run(&["verify"]), 0);
    assert!(text.starts_with("whole: 102 records, 1 to 102, "), "{text}");
    assert!(text.contains("\nnot anchored: "), "{text}");
    let report = json(&place.run(&["verify", "--json"]), 0);
    assert_eq!(report["whole"], true);
    assert_eq!(report["anchored"], "not");
    assert_eq!(report["checkpoint_beside"], 102);
    assert_eq!(report["entries"], 102);
    assert_eq!(report["closed_files"], 3);
    assert_eq!(report["findings"], Value::Array(Vec::new()));
}

#[test]
fn a_damaged_copy_is_not_whole_and_the_first_bad_record_is_named() {
    let place = filled();
    let second = &files(&place.dir())[1];
    let mut bytes = fs::read(second).unwrap();
    // What the header of its first block says of the last record in it.
    bytes[128 + 16] ^= 1;
    fs::write(second, bytes).unwrap();
    let text = said(&place.run(&["verify"]), 1);
    // The file begins behind the opening and thirty records.
    assert!(
        text.starts_with("not whole: first damaged at record 32\n"),
        "{text}"
    );
    assert!(text.contains(".trail: damaged at record 32: "), "{text}");
    let report = json(&place.run(&["verify", "--json"]), 1);
    assert_eq!(report["whole"], false);
    assert_eq!(report["findings"][0]["sequence"], 32);
    assert_eq!(report["findings"][0]["kind"], "damaged");
    // Who reads over it hears of it, after what is before it.
    let read = place.run(&["query"]);
    assert_eq!(sequences(&said(&read, 1)), (1..=31).collect::<Vec<u64>>());
    assert!(!read.stderr.is_empty());
    fs::remove_file(second).unwrap();
    let report = json(&place.run(&["verify", "--json"]), 1);
    assert_eq!(report["findings"][0]["sequence"], 32);
    assert_eq!(report["findings"][0]["kind"], "missing");
}

/// AT3: nothing of a finding is lost with who reads it.
#[test]
fn what_verify_found_is_its_exit_code_although_nobody_reads_what_it_says() {
    let place = filled();
    let code = |args: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command();
        command.arg("verify").args(args).arg(place.dir());
        let child = command.stdout(writer).stderr(Stdio::null()).spawn();
        child.unwrap().wait().unwrap().code()
    };
    assert_eq!([code(&[]), code(&["--json"])], [Some(0); 2]);
    let second = &files(&place.dir())[1];
    fs::remove_file(second).unwrap();
    assert_eq!([code(&[]), code(&["--json"])], [Some(1); 2]);
    // Nor where it can't be written for another reason.
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut verify = command();
    verify.arg("verify").arg(place.dir()).stdout(full);
    let output = verify.stderr(Stdio::piped()).output().unwrap();
    said(&output, 1);
    assert!(!output.stderr.is_empty());
}

#[test]
fn an_old_copy_shows_against_a_checkpoint_alone() {
    let place = filled();
    let copy = place.scratch.path().join("copy");
    let copied = |from: &Path, to: &Path| {
        let done = Command::new("cp").arg("-a").arg(from).arg(to).status();
        assert!(done.unwrap().success());
    };
    copied(&place.dir(), &copy);
    let trail = place.open();
    trail.record(login(0)).unwrap();
    trail.close().unwrap();
    let note = said(&place.run(&["checkpoint", "--new"]), 0);
    let kept = place.scratch.path().join("kept");
    fs::write(&kept, &note).unwrap();
    let against = ["verify", "--against", kept.to_str().unwrap()];
    let text = said(&place.run(&against), 0);
    assert!(
        text.contains("\nanchored: it holds what the checkpoint of "),
        "{text}"
    );
    fs::remove_dir_all(place.dir()).unwrap();
    copied(&copy, &place.dir());
    assert_eq!(
        json(&place.run(&["verify", "--json"]), 0)["anchored"],
        "not"
    );
    let text = said(&place.run(&against), 1);
    assert!(
        text.starts_with("not whole: first old copy at record "),
        "{text}"
    );
    // What nobody signed could not be verified against: that is no verdict.
    fs::write(&kept, note.replace("time 2", "time 1")).unwrap();
    said(&place.run(&against), 2);
}

#[test]
fn what_can_not_run_exits_2_and_says_what_to_do() {
    let place = Place::new();
    let cases: [(&str, &[&str], &str); 4] = [
        ("no trail", &["verify"], "no audit trail in"),
        ("no trail to read", &["query"], "no audit trail in"),
        (
            "no checkpoint",
            &["verify", "--against", "/nowhere"],
            "no audit trail in",
        ),
        (
            "no time",
            &["query", "--since", "yesterdayish"],
            "not RFC 3339",
        ),
    ];
    for (name, args, expected) in cases {
        let output = place.run(args);
        said(&output, 2);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(err.contains(expected), "{name}: {err}");
    }
    let place = filled();
    fs::remove_file(place.dir().join("CHECKPOINT")).unwrap();
    let output = place.run(&["checkpoint"]);
    said(&output, 2);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        err.contains("no checkpoint yet") && err.contains("--new"),
        "{err}"
    );
    fs::rename(place.key_file(), place.scratch.path().join("elsewhere")).unwrap();
    let output = place.run(&["verify"]);
    said(&output, 2);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(err.contains("--keys FILE or ESKER_AUDIT_KEYS"), "{err}");
    let elsewhere = place.scratch.path().join("elsewhere");
    said(
        &place.run(&["verify", "--keys", elsewhere.to_str().unwrap()]),
        0,
    );
    let by_environment = command()
        .arg("verify")
        .arg(place.dir())
        .env("ESKER_AUDIT_KEYS", &elsewhere)
        .output();
    said(&by_environment.unwrap(), 0);
    // The keys of another trail.
    said(&esker(&["keys", "new"], &place.key_file()), 0);
    said(&place.run(&["verify"]), 2);
}

#[test]
fn a_query_answers_by_field_order_limit_and_cursor() {
    let place = filled();
    let all = said(&place.run(&["query", "--without-own"]), 0);
    assert_eq!(sequences(&all), (2..=101).collect::<Vec<u64>>());
    let first = all.lines().next().unwrap();
    let (time, rest) = first.split_once(' ').unwrap();
    assert!(time.ends_with('Z'), "{first}");
    assert_eq!(
        rest,
        "notice   user.login success ann@10.0.0.1:99 keyspace:accounts #2"
    );
    assert!(!all.contains('\u{1b}'), "no colours but on a terminal");
    let count = |args: &[&str]| {
        let args = [&["query", "--json", "--without-own"], args].concat();
        let text = said(&place.run(&args), 0);
        let lines = text
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap());
        lines
            .filter(|l| l["@timestamp"].is_string() && l["event.sequence"].is_u64())
            .count()
    };
    assert_eq!(count(&["--actor", "ann"]), 34);
    assert_eq!(count(&["--actor", "7"]), 1);
    assert_eq!(count(&["--action", "user.logout"]), 50);
    assert_eq!(count(&["--action", "user.*"]), 100);
    assert_eq!(count(&["--outcome", "failure"]), 20);
    assert_eq!(count(&["--severity", "warning"]), 20);
    assert_eq!(count(&["--resource", "keyspace:accounts"]), 100);
    assert_eq!(count(&["--address", "10.0.0.1*"]), 100);
    assert_eq!(count(&["--text", "no such user"]), 20);
    assert_eq!(count(&["--since", "1h"]), 100);
    assert_eq!(
        count(&["--since", "2020-01-01T00:00:00Z", "--until", "2h"]),
        0
    );
    assert_eq!(count(&["--until", "1w"]), 0);
    assert_eq!(count(&["--until", "2020-01-01"]), 0);
    // By pages, the newest first.
    let (mut cursor, mut pages) = (None, Vec::new());
    loop {
        let mut args = vec![
            "query".to_owned(),
            "--newest".into(),
            "--limit".into(),
            "30".into(),
        ];
        if let Some(cursor) = cursor {
            args.extend(["--cursor".to_owned(), format!("{cursor}")]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = place.run(&args);
        let page = sequences(&said(&output, 0));
        let Some(last) = page.last().copied() else {
            break;
        };
        let more = String::from_utf8_lossy(&output.stderr).contains(&format!("--cursor {last}"));
        assert_eq!(more, last > 1, "after {last}");
        (cursor, pages) = (Some(last), [pages, page].concat());
    }
    assert_eq!(pages, (1..=102).rev().collect::<Vec<u64>>());
}

#[test]
fn tail_follows_what_is_written_and_rotated_meanwhile() {
    let place = filled();
    let last = said(&place.run(&["tail", "-n", "3"]), 0);
    assert_eq!(sequences(&last), [100, 101, 102]);
    let trail = place.open();
    let mut child = command()
        .args(["tail", "-n", "1", "-f", "--action", "watched"])
        .arg(place.dir())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in out.lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let within = std::time::Duration::from_secs(60);
    let mut expected = Vec::new();
    let mut seen = Vec::new();
    for n in 0..40u64 {
        trail.record(login(n as usize)).unwrap();
        let watched = trail.record(Record::new("watched").with("n", n)).unwrap();
        expected.push(watched.sequence.unwrap());
        if n % 4 == 1 {
            trail.rotate().unwrap();
        }
        // The first one may be the one it begins with.
        if n % 8 == 7 {
            while seen.last() != expected.last() {
                let line = lines
                    .recv_timeout(within)
                    .unwrap_or_else(|e| panic!("{e}: {seen:?} of {expected:?}"));
                seen.extend(sequences(&line));
            }
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    // With `-n 1` it began with the newest that was there then, and left nothing out since.
    let begun = expected.iter().position(|n| *n == seen[0]).unwrap();
    assert_eq!(seen, expected[begun..]);
    assert!(begun < 8, "{begun}");
    trail.close().unwrap();
}

#[test]
fn at2_no_value_reaches_a_terminal_or_begins_a_line_as_it_is() {
    let place = Place::new();
    let trail = place.open();
    let nasty = "x\r\n2026-01-01T00:00:00Z critical all.lost success root #99\n\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{2028}";
    let record = Record::new(nasty)
        .severity(Severity::Critical)
        .actor(nasty, nasty)
        .origin(nasty, nasty)
        .resource(nasty, nasty)
        .failure(nasty, nasty)
        .with(nasty, nasty);
    trail.record(record).unwrap();
    trail.close().unwrap();
    // A file's name is a value too.
    fs::write(place.dir().join("x\u{1b}[2J\n0 whole.trail"), b"?").unwrap();
    let clean = |output: &Output, but: &str| {
        for bytes in [&output.stdout, &output.stderr] {
            let text = String::from_utf8(bytes.clone()).unwrap();
            let bad =
                |c: char| (c.is_control() || "\u{202e}\u{2028}".contains(c)) && !but.contains(c);
            assert_eq!(text.chars().find(|c| bad(*c)), None, "{text:?}");
        }
    };
    let report = place.run(&["verify"]);
    assert_eq!(report.status.code(), Some(1));
    clean(&report, "\n");
    clean(&place.run(&["verify", "--json"]), "\n");
    let refused = place.run(&["query"]);
    clean(&refused, "\n");
    fs::remove_file(place.dir().join("x\u{1b}[2J\n0 whole.trail")).unwrap();
    for args in [
        &["tail"][..],
        &["query"],
        &["query", "--json"],
        &["export"],
        &["export", "--format", "syslog"],
    ] {
        let output = place.run(args);
        clean(&output, "\n");
        assert_eq!(said(&output, 0).lines().count(), 3, "{args:?}");
    }
    let output = place.run(&["export", "--format", "csv"]);
    clean(&output, "\r\n");
    assert_eq!(said(&output, 0).lines().count(), 4);
    for args in [&["stats"][..], &["stats", "--json"]] {
        let output = place.run(args);
        clean(&output, "\n");
        assert!(
            !said(&output, 0)
                .lines()
                .any(|line| line.starts_with("2026-01-01"))
        );
    }
}

#[test]
fn stats_count_what_is_there() {
    let place = filled();
    let stats = json(&place.run(&["stats", "--json"]), 0);
    assert_eq!((&stats["records"], &stats["own"]), (&102.into(), &2.into()));
    assert_eq!(stats["actions"]["top"][0]["name"], "user.login");
    assert_eq!(stats["actions"]["top"][0]["records"], 50);
    assert_eq!(stats["actors"]["top"][0]["name"], "ann");
    assert_eq!(stats["outcomes"]["top"][1]["records"], 20);
    assert_eq!(stats["severities"]["warning"], 20);
    assert_eq!(stats["closed_files"], 3);
    let stored: u64 = files(&place.dir())
        .iter()
        .map(|f| f.metadata().unwrap().len())
        .sum();
    assert_eq!(stats["closed_bytes"], stored);
    let raw = stats["closed_bytes_raw"].as_u64().unwrap();
    let ratio = stats["compression"].as_f64().unwrap();
    assert!((ratio - raw as f64 / stored as f64).abs() < 1e-9);
    assert_eq!(stats["dropped"], 0);
    assert!(stats["retention_behind_s"].is_u64());
    assert_eq!(
        stats["hours"]
            .as_array()
            .unwrap()
            .iter()
            .map(|h| h["records"].as_u64().unwrap())
            .sum::<u64>(),
        102
    );
    // Of a part of the records no ratio is said.
    let stats = json(
        &place.run(&["stats", "--json", "--actor", "ann", "--top", "1"]),
        0,
    );
    assert_eq!(stats["records"], 34);
    assert!(stats["compression"].is_null());
    assert_eq!(stats["actions"]["top"].as_array().unwrap().len(), 1);
    assert_eq!(stats["actions"]["rest"], 17);
    let text = said(&place.run(&["stats"]), 0);
    assert!(
        text.contains("records      102 (2 of the trail itself)"),
        "{text}"
    );
}

#[test]
fn an_export_goes_to_a_new_file_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = filled();
    let to = place.scratch.path().join("out.csv");
    let args = [
        "export",
        "--format",
        "csv",
        "--to",
        to.to_str().unwrap(),
        "--actor",
        "ann",
    ];
    assert!(said(&place.run(&args), 0).starts_with("34 records to "));
    assert_eq!(fs::read_to_string(&to).unwrap().lines().count(), 35);
    assert_eq!(to.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // It overwrites nothing.
    said(&place.run(&args), 2);
    let framed = said(
        &place.run(&["export", "--format", "syslog", "--framing", "octet"]),
        0,
    );
    let (length, rest) = framed.split_once(' ').unwrap();
    let next = rest[length.parse::<usize>().unwrap()..]
        .split_once(' ')
        .unwrap();
    assert!(rest.starts_with('<') && next.1.starts_with('<'), "{framed}");
    said(&place.run(&["export", "--framing", "octet"]), 2);
}

#[test]
fn at4_keys_are_made_listed_and_rotated_and_no_secret_is_printed() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let file = place.key_file();
    let beside = place.scratch.path().join("audit.tmp");
    fs::write(&beside, "somebody else's").unwrap();
    let mut printed = said(&esker(&["keys", "new"], &file), 0);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // A key file that is there is never replaced.
    let before = fs::read(&file).unwrap();
    said(&esker(&["keys", "new"], &file), 2);
    assert_eq!(fs::read(&file).unwrap(), before);
    let trail = place.open();
    trail.record(login(1)).unwrap();
    trail.close().unwrap();
    printed += &said(&esker(&["keys", "rotate"], &file), 0);
    let listed = json(&esker(&["keys", "list", "--json"], &file), 0);
    let keys = listed["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(
        (&keys[0]["writes"], &keys[1]["writes"]),
        (&false.into(), &true.into())
    );
    let id = keys[1]["id"].as_str().unwrap();
    let verifier = keys[1]["verifier"].as_str().unwrap();
    assert!(
        verifier.starts_with(&format!("esker-audit/{id}+")),
        "{verifier}"
    );
    printed += &said(&esker(&["keys", "list"], &file), 0);
    for line in fs::read_to_string(&file)
        .unwrap()
        .lines()
        .filter(|l| !l.starts_with('#'))
    {
        let secret = line.split_once(' ').unwrap().1;
        assert!(!printed.contains(secret));
    }
    // Both write into one trail, one after the other, and it verifies.
    let trail = place.open();
    trail.record(login(2)).unwrap();
    trail.close().unwrap();
    said(&place.run(&["verify"]), 0);
    let last = said(&place.run(&["tail", "-n", "1", "--json"]), 0);
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["esker.key"], *id);
    assert_eq!(fs::read_to_string(&beside).unwrap(), "somebody else's");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    said(&place.run(&["verify"]), 2);
}

#[test]
fn a_reading_is_recorded_before_it_or_does_not_happen() {
    let place = filled();
    let output = place.run(&["query", "--record-reading", "--actor", "ann", "--json"]);
    said(&output, 0);
    let read = said(
        &place.run(&["query", "--action", "esker.audit.read", "--json"]),
        0,
    );
    let read: Vec<Value> = read
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    // One reading, one record; the reading just now asked for none.
    assert_eq!(read.len(), 1);
    assert_eq!(read[0]["esker.stage"], "intent");
    assert!(read[0]["labels.asked"].as_str().unwrap().contains("ann"));
    said(&place.run(&["verify"]), 0);
    let trail = place.open();
    let output = place.run(&["query", "--record-reading"]);
    assert_eq!(said(&output, 2), "");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(err.contains("so nothing was read"), "{err}");
    trail.close().unwrap();
}

#[test]
fn a_checkpoint_is_printed_as_it_was_signed_or_not_at_all() {
    let place = filled();
    let note = said(&place.run(&["checkpoint"]), 0);
    assert_eq!(
        note,
        fs::read_to_string(place.dir().join("CHECKPOINT")).unwrap()
    );
    let parsed = json(&place.run(&["checkpoint", "--json"]), 0);
    assert_eq!(parsed["sequence"], 102);
    assert_eq!(parsed["note"], note);
    let newer = json(&place.run(&["checkpoint", "--new", "--json"]), 0);
    assert!(newer["sequence"].as_u64() > Some(102));
    fs::write(
        place.dir().join("CHECKPOINT"),
        note.replace("\n102\n", "\n100\n"),
    )
    .unwrap();
    said(&place.run(&["checkpoint"]), 1);
    fs::remove_file(place.dir().join("CHECKPOINT")).unwrap();
    said(&place.run(&["checkpoint"]), 2);
}
