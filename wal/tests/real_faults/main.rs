//! Files of the operating system whose n-th call fails, is interrupted, or writes less than it was asked to: nothing
//! acknowledged is lost, nothing is acknowledged falsely (W1, W6, W8).
//!
//! A library of C, loaded in front of libc, does the failing (`shim.c`), in a process of its own: this test binary again, with
//! the script below. The script prints what the log told it; the parent opens what is left and compares. What a power cut adds is
//! tested in memory (`failing_calls.rs`) and on ext4 (`cargo xtask crash --kind power`).
#![allow(
    clippy::print_stdout,
    reason = "the script tells its parent what it was told"
)]

use esker_wal::*;
use std::path::{Path, PathBuf};
use std::process::Command;

const EINTR: &str = "4";
const EIO: &str = "5";
const ENOSPC: &str = "28";

fn options() -> LogOptions {
    LogOptions {
        create: Some(Create {
            log: LogId(3),
            node: NodeId(4),
            base: Lsn::ZERO,
        }),
        segment_bytes: 16 << 10,
        // So that a call has the same number in each run.
        workers: Workers::Stepped,
        ..LogOptions::default()
    }
}

fn payload(n: u32) -> Vec<u8> {
    let mut payload = vec![n as u8; 300 + (n as usize % 5) * 400];
    payload[..4].copy_from_slice(&n.to_le_bytes());
    payload
}

/// Segments that are written back while their zeros are written.
const LARGE: &str = "4194304";

/// Rotates, sets a slot, releases, recycles, closes; goes on after errors as a stubborn user would.
fn script(dir: &Path) {
    let mut options = options();
    if let Ok(bytes) = std::env::var("ESKER_SHIM_SEGMENT") {
        options.segment_bytes = bytes.parse().unwrap();
    }
    let Ok((log, _)) = Log::open(dir, options) else {
        return;
    };
    let mut last = None;
    for n in 0..40 {
        let before = log.reserved();
        let appended = log.append(&[&payload(n)]);
        if log.reserved() > before {
            println!("appended {n}");
            last = Some(n);
        }
        if let Ok(appended) = appended {
            if n % 3 == 0 && log.sync_up_to(appended.end).is_ok() {
                println!("synced {n}");
            }
            if n == 20 {
                let _ = log.set_slot("s", appended.lsn);
                log.release(appended.lsn);
                println!("released {n}");
            }
        }
        while log.step() {}
    }
    if let (Ok(()), Some(last)) = (log.close(), last) {
        println!("synced {last}");
    }
}

#[test]
#[ignore = "the script, run by the tests below in a process of its own"]
fn child() {
    script(&PathBuf::from(std::env::var_os("ESKER_SHIM_DIR").unwrap()));
}

#[test]
#[ignore = "run by the test of it in a process of its own"]
fn makes_directories() {
    let dir = PathBuf::from(std::env::var_os("ESKER_SHIM_DIR").unwrap());
    let media = media::real::RealMedia::default();
    media::Media::create_dir_all(&media, &dir.join("a/b/c")).unwrap();
}

/// The shim, built once per test.
fn shim(dir: &Path) -> Result<PathBuf, String> {
    let out = dir.join("shim.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real_faults/shim.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([out.as_os_str(), source.as_os_str(), "-ldl".as_ref()])
        .output()
        .map_err(|error| format!("no C compiler: {error}"))?;
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    Ok(out)
}

/// What a run was told, and how many calls of the kind it made.
struct Run {
    appended: Vec<u32>,
    synced: Option<u32>,
    released: u32,
    calls: u64,
}

/// This binary again, with one of its ignored tests, behind the shim.
fn behind(shim: &Path, test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", test, "--nocapture"])
        .env("LD_PRELOAD", shim);
    command
}

fn run(shim: &Path, dir: &Path, call: &str, how: &str, nth: u64, times: u64) -> Run {
    let count = dir.with_extension("count");
    let mut command = behind(shim, "child");
    if call == "sync_file_range" {
        command.env("ESKER_SHIM_SEGMENT", LARGE);
    }
    let output = command
        .env("ESKER_SHIM_DIR", dir)
        .env("ESKER_SHIM_CALL", call)
        .env("ESKER_SHIM_HOW", how)
        .env("ESKER_SHIM_NTH", nth.to_string())
        .env("ESKER_SHIM_TIMES", times.to_string())
        .env("ESKER_SHIM_COUNT", &count)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{call} {nth} {how}: {said}");
    let numbers = |what: &str| -> Vec<u32> {
        said.lines()
            .filter_map(|line| line.strip_prefix(what)?.trim().parse().ok())
            .collect()
    };
    Run {
        appended: numbers("appended"),
        synced: numbers("synced").last().copied(),
        released: numbers("released").last().copied().unwrap_or(0),
        calls: std::fs::read_to_string(&count).unwrap().parse().unwrap(),
    }
}

/// Opens what a run left and holds it against what the run was told.
fn check(dir: &Path, run: &Run) -> Result<(), String> {
    for life in 0..2 {
        let (log, _) = Log::open(dir, options()).map_err(|e| format!("life {life}: {e}"))?;
        let mut found = Vec::new();
        let mut reader = log
            .reader(log.oldest(), ReadLimit::Synced)
            .map_err(|e| e.to_string())?;
        while let Some(frame) = reader.next().map_err(|e| e.to_string())? {
            if frame.header.kind == Kind::Data && frame.payload.len() >= 300 {
                let n = u32::from_le_bytes(frame.payload[..4].try_into().expect("four bytes"));
                if frame.payload != payload(n) {
                    return Err(format!("frame {n} has other bytes"));
                }
                found.push(n);
            }
        }
        let at = (found.first()).and_then(|n| run.appended.iter().position(|other| other == n));
        let stretch = at.and_then(|at| run.appended.get(at..at + found.len()));
        if !found.is_empty() && stretch != Some(&found[..]) {
            return Err(format!("{found:?} is no stretch of {:?}", run.appended));
        }
        if found.first().is_some_and(|n| *n > run.released) {
            return Err(format!("begins at {found:?}, released {}", run.released));
        }
        if let Some(synced) = run.synced
            && found.last().is_none_or(|last| *last < synced)
        {
            return Err(format!("{synced} was synced, there is {found:?}"));
        }
        let appended = log.append(&[b"on"]).map_err(|e| e.to_string())?;
        log.sync_up_to(appended.end).map_err(|e| e.to_string())?;
        if life == 0 {
            log.close().map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// Each call of these kinds, one after the other, goes wrong in this way.
fn each(calls: &[&str], how: &str, times: u64, harmless: bool) {
    let home = tempfile::tempdir().unwrap();
    let shim = match shim(home.path()) {
        Ok(shim) => shim,
        Err(why) => return println!("skipped: {why}"),
    };
    for call in calls {
        let dir = home.path().join(format!("{call}-0"));
        let whole = run(&shim, &dir, call, how, 0, 1);
        assert_eq!((whole.appended.len(), whole.synced), (40, Some(39)));
        assert!(whole.calls > 0, "no {call} was seen");
        // At most 40 of them, evenly: a file's zeros are many calls of one kind.
        let step = whole.calls.div_ceil(40);
        for nth in (1..=whole.calls).step_by(step as usize) {
            let dir = home.path().join(format!("{call}-{nth}"));
            let run = run(&shim, &dir, call, how, nth, times);
            if harmless {
                assert_eq!(
                    (run.appended.len(), run.synced),
                    (40, Some(39)),
                    "{call} {nth}: {how} was not taken as what it is"
                );
            }
            if let Err(error) = check(&dir, &run) {
                panic!("{call} {nth} {how}: {error}");
            }
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }
}

#[test]
fn a_call_that_fails_on_a_real_file_loses_nothing_acknowledged() {
    each(
        &[
            "pwrite",
            "msync",
            "fsync",
            "sync_file_range",
            "open",
            "rename",
            "unlink",
        ],
        EIO,
        1,
        false,
    );
}

#[test]
fn a_real_device_that_fails_for_good_loses_nothing_acknowledged() {
    each(
        &["pwrite", "msync", "fsync", "sync_file_range"],
        EIO,
        1 << 40,
        false,
    );
}

#[test]
fn a_real_file_without_space_loses_nothing_acknowledged() {
    each(&["pwrite", "msync", "open"], ENOSPC, 1 << 40, false);
}

#[test]
fn an_interrupted_call_is_repeated() {
    each(
        &["pwrite", "msync", "fsync", "sync_file_range"],
        EINTR,
        3,
        true,
    );
}

#[test]
fn a_short_write_is_completed() {
    each(&["pwrite"], "short", 3, true);
}

#[test]
fn w6_a_segment_whose_zeros_could_not_be_written_back_is_not_used() {
    let home = tempfile::tempdir().unwrap();
    let shim = match shim(home.path()) {
        Ok(shim) => shim,
        Err(why) => return println!("skipped: {why}"),
    };
    // No later sync would tell of it.
    let dir = home.path().join("log");
    let run = run(&shim, &dir, "sync_file_range", EIO, 1, 1 << 40);
    assert!(run.calls > 0 && run.appended.is_empty());
}

/// One that was there may have been made by a process that ended before it synced the entry, and all that comes to lie in it goes with it.
#[test]
fn m7_the_entry_of_a_directory_found_on_the_way_is_synced_too() {
    let home = tempfile::tempdir().unwrap();
    let shim = match shim(home.path()) {
        Ok(shim) => shim,
        Err(why) => return println!("skipped: {why}"),
    };
    let (dir, count) = (home.path().join("d"), home.path().join("count"));
    std::fs::create_dir_all(dir.join("a")).unwrap();
    let ended = behind(&shim, "makes_directories")
        .env("ESKER_SHIM_DIR", &dir)
        .env("ESKER_SHIM_CALL", "fsync")
        .env("ESKER_SHIM_COUNT", &count)
        .status();
    assert!(ended.unwrap().success() && dir.join("a/b/c").is_dir());
    // Those of `a`, `b` and `c`.
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "3");
}
