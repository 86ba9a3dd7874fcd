//! T1, CL1: a process is killed while it writes, closes, compresses and removes files; what it said was synced is there, and the trail is whole.

mod support;

use esker_audit::{Options, Query, Reader, Trail, VerifyOptions, verify};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{keys, login};

const CHILD: &str = "ESKER_AUDIT_CHILD";

/// What the killed process does: writes from three threads, says each sequence that was synced.
fn child(dir: &Path) {
    let options = Options {
        rotate_bytes: 64 << 10,
        keep_bytes: Some(64 << 10),
        interval: Duration::from_millis(10),
        checkpoint_entries: 50,
        ..Options::default()
    };
    let (trail, opened) = Trail::open(dir, keys(), options).unwrap();
    assert_eq!(opened.findings, []);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for n in 0.. {
                    let receipt = trail.record(login(n).with("pad", "z".repeat(300))).unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "synced {}", receipt.sequence.unwrap()).unwrap();
                }
            });
        }
    });
}

#[test]
fn t1_a_killed_process_leaves_a_whole_trail_with_all_that_it_acknowledged() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return child(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("audit");
    let mut acknowledged = BTreeSet::new();
    for round in 0..8_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--nocapture", "t1_a_killed_process"])
            .env(CHILD, &at)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        let mut lines = BufReader::new(out).lines();
        let wanted = 40 + round * 190;
        let mut seen = 0;
        let mut killed = false;
        for line in lines.by_ref().map_while(Result::ok) {
            let Some(sequence) = line.strip_prefix("synced ") else {
                continue;
            };
            acknowledged.insert(sequence.parse::<u64>().unwrap());
            seen += 1;
            if seen == wanted {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(
            killed,
            "round {round}: it ended by itself after {seen} records"
        );
        let report = verify(&at, &keys(), &VerifyOptions::default()).unwrap();
        assert_eq!(report.findings, [], "round {round}");
        let reader = Reader::open(&at, keys()).unwrap();
        let mut records = reader.query(Query::default()).unwrap();
        let mut found = BTreeSet::new();
        while let Some(record) = records.next().unwrap() {
            found.insert(record.head.sequence);
        }
        for sequence in acknowledged.range(report.removed + 1..) {
            assert!(
                found.contains(sequence),
                "round {round}: {sequence} was acknowledged"
            );
        }
    }
}
