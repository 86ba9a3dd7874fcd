//! `esker log` as an operator meets it: on a copy, on a damaged copy, on a directory that is being written.

use esker_wal::{Create, Log, LogId, LogOptions, Lsn, NodeId, SyncPolicy};
use said::{json, said};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[path = "support/said.rs"]
mod said;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn options() -> LogOptions {
    LogOptions {
        create: Some(Create {
            log: LogId(7),
            node: NodeId(9),
            base: Lsn::ZERO,
        }),
        segment_bytes: 64 << 10,
        sync_policy: SyncPolicy::Manual,
        ..LogOptions::default()
    }
}

/// A log of several segments in `dir`, closed; where its frames begin.
fn write(dir: &Path, frames: u32) -> Vec<Lsn> {
    let (log, _) = Log::open(dir, options()).unwrap();
    let lsns = (0..frames)
        .map(|n| {
            let payload = format!("frame {n}: {}", "x".repeat(n as usize % 500));
            log.append(&[payload.as_bytes()]).unwrap().lsn
        })
        .collect();
    log.set_slot("a replica", log.oldest()).unwrap();
    log.close().unwrap();
    lsns
}

fn esker(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_esker"))
        .arg("log")
        .args(args)
        .arg(dir)
        .output()
        .unwrap()
}

/// The files of `dir` but for the lock.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    all.sort();
    all
}

/// The file that holds `lsn`, and where in it.
fn place(dir: &Path, lsn: Lsn) -> (PathBuf, u64) {
    let all = json(&esker(&["ls", "--json"], dir), 0);
    let file = all["files"].as_array().unwrap().iter().find(|f| {
        let at = |name: &str| f[name].as_u64();
        at("base").is_some_and(|base| base <= lsn.0) && at("end").is_none_or(|end| lsn.0 < end)
    });
    let file = file.expect("a segment holds it");
    let base = file["base"].as_u64().unwrap();
    (
        dir.join(file["name"].as_str().unwrap()),
        4096 + lsn.0 - base,
    )
}

#[test]
fn a_closed_log_is_listed_counted_dumped_and_found_clean() {
    let dir = dir();
    let log = dir.path().join("log");
    let lsns = write(&log, 1000);
    let before = files(&log);
    // The data directory, and the log's own.
    for of in [dir.path(), &log] {
        let text = said(&esker(&["verify"], of), 0);
        // With the control frame.
        assert!(text.starts_with("clean: 1001 frames"), "{text}");
    }
    let v = json(&esker(&["verify", "--json", "--threads", "3"], &log), 0);
    assert_eq!(v["clean"], Value::Bool(true));
    assert!(v["segments"].as_u64().unwrap() > 3);
    let stat = json(&esker(&["stat", "--json"], &log), 0);
    assert_eq!(stat["clean"], Value::Bool(true));
    assert_eq!(stat["end"], v["end"]);
    assert_eq!(stat["slots"][0]["name"], "a replica");
    assert!(said(&esker(&["stat"], &log), 0).contains("closed cleanly  true"));
    let table = said(&esker(&["ls"], &log), 0);
    assert!(table.contains("LOG") && table.contains("closed") && table.contains("open"));
    // From the 500th on, three of them.
    let from = lsns[500].0.to_string();
    let text = said(
        &esker(&["dump", "--json", "--from", &from, "--count", "3"], &log),
        0,
    );
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(line["lsn"].as_u64(), Some(lsns[500 + n].0));
        assert_eq!(line["kind"], "data");
        let payload = line["payload"].as_str().unwrap();
        assert!(
            payload.starts_with(&format!("frame {}: ", 500 + n)),
            "{payload}"
        );
    }
    let text = said(
        &esker(&["dump", "--hex", "--to", &lsns[1].0.to_string()], &log),
        0,
    );
    assert!(
        text.contains("control") && text.contains("6672616d6520303a20"),
        "{text}"
    );
    assert!(files(&log) == before, "something was written");
}

#[test]
fn damage_is_named_to_the_frame_and_what_is_whole_can_be_carried_away() {
    let dir = dir();
    let log = dir.path().join("log");
    let lsns = write(&log, 1000);
    let (path, at) = place(&log, lsns[200]);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at as usize + 35] ^= 1;
    fs::write(&path, bytes).unwrap();
    let before = files(&log);
    let text = said(&esker(&["verify"], dir.path()), 1);
    let first = format!("damaged from LSN {} on (frames)", lsns[200]);
    assert!(text.contains(&first), "{text}");
    let v = json(&esker(&["verify", "--json"], dir.path()), 1);
    assert_eq!(v["lost"][0]["from"].as_u64(), Some(lsns[200].0));
    assert_eq!(v["lost"][0]["to"].as_u64(), Some(lsns[201].0));
    let text = said(&esker(&["dump"], dir.path()), 1);
    assert_eq!(text.matches("damage (frames)").count(), 1);
    let to = dir.path().join("copy");
    let salvage = || {
        Command::new(env!("CARGO_BIN_EXE_esker"))
            .args(["log", "salvage"])
            .args([dir.path(), &to])
            .output()
            .unwrap()
    };
    let text = said(&salvage(), 1);
    assert!(text.contains("copied 1000 frames"), "{text}");
    assert!(files(&log) == before, "something was written");
    said(&esker(&["verify"], &to), 0);
    let (copy, _) = Log::open(&to, LogOptions::default()).unwrap();
    assert_ne!(copy.log_id(), LogId(7));
    drop(copy);
    // A second time, the directory is not empty.
    said(&salvage(), 2);
}

#[test]
fn what_is_no_log_is_said_so_and_exits_2() {
    let dir = dir();
    for command in ["ls", "dump", "verify", "stat"] {
        let output = esker(&[command], dir.path());
        said(&output, 2);
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(err.contains("no log in"), "{err}");
    }
    said(&esker(&["verify"], &dir.path().join("nowhere")), 2);
}

/// Frames in the making, rotation and recycling meanwhile are no damage, and nothing stands in the writer's way.
#[test]
fn a_log_that_is_being_written_is_verified_clean() {
    let dir = dir();
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut appended = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let payload = vec![appended as u8; 100 + appended as usize % 3000];
                let end = log.append(&[&payload]).unwrap().end;
                appended += 1;
                if appended.is_multiple_of(50) {
                    log.sync_up_to(end).unwrap();
                    log.release(Lsn(end.0.saturating_sub(1 << 20)));
                }
            }
            appended
        });
        let checked = std::panic::catch_unwind(|| {
            for _ in 0..25 {
                said(&esker(&["verify"], dir.path()), 0);
                said(&esker(&["stat"], dir.path()), 0);
                said(&esker(&["ls"], dir.path()), 0);
            }
            // The log may be released under it, which ends it early, but is no damage.
            said(&esker(&["dump", "--count", "1000"], dir.path()), 0);
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0);
        if let Err(panic) = checked {
            std::panic::resume_unwind(panic);
        }
    });
    log.close().unwrap();
}
