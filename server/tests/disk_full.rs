//! A full disk: writes are refused with a clear error, reads go on, and writes resume when there is room (W8).
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a skipped test says why"
)]

use std::time::{Duration, Instant};
use xtask::disk::Disk;
use xtask::node::{Binaries, Node, Setup};
use xtask::resp::Reply;

fn set(node: &Node, key: &str, value: &[u8]) -> Reply {
    node.client()
        .unwrap()
        .command(&[b"SET", key.as_bytes(), value])
        .unwrap()
}

fn get(node: &Node, key: &str) -> Reply {
    node.client().unwrap().line(&format!("GET {key}")).unwrap()
}

/// Writes `k{written}` and so on until that is refused for want of room.
fn write_until_refused(node: &Node, value: &[u8], written: &mut usize) {
    let refusal = loop {
        match set(node, &format!("k{written}"), value) {
            Reply::Error(error) => break error,
            reply => assert!(reply.is_ok(), "{}", reply.text()),
        }
        *written += 1;
        assert!(*written < 4000, "a gigabyte went into a full disk");
    };
    assert!(refusal.starts_with("MISCONF"), "{refusal}");
    assert!(refusal.to_lowercase().contains("space"), "{refusal}");
}

/// Fills the disk until not one block is left, with one file more each time.
fn fill(disk: &Disk) {
    let path = |n: usize| disk.path().join(format!("filler-{n}"));
    for n in (0..).skip_while(|n| path(*n).exists()) {
        let mut block = vec![7_u8; 1 << 20];
        let mut file = std::fs::File::create(path(n)).unwrap();
        while !block.is_empty() {
            if std::io::Write::write_all(&mut file, &block).is_err() || file.sync_data().is_err() {
                block.truncate(block.len() / 4);
            }
        }
        let probe = disk.path().join("probe");
        let full = std::fs::write(&probe, b"x").is_err();
        let _ = std::fs::remove_file(&probe);
        if full {
            return;
        }
    }
}

fn empty(disk: &Disk) {
    for entry in std::fs::read_dir(disk.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("filler") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn writes_fail_clearly_reads_go_on_and_writes_resume() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = match Disk::new(dir.path(), 900) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: this machine does not let us mount a disk: {why}"),
    };
    let binaries = Binaries {
        primary: env!("CARGO_BIN_EXE_primary").into(),
        replica: env!("CARGO_BIN_EXE_replica").into(),
    };
    let setup = Setup::primary(
        &binaries,
        &disk.path().join("data"),
        &dir.path().join("out"),
    );
    let mut node = setup.start().unwrap();
    assert!(set(&node, "before", b"there").is_ok());
    std::thread::sleep(Duration::from_secs(2));
    fill(&disk);

    // What is prepared is used up; then the answer is an error, not silence.
    let value = vec![b'v'; 256 << 10];
    let mut written = 0;
    write_until_refused(&node, &value, &mut written);
    assert_eq!(get(&node, "before").text(), "there");
    assert_eq!(
        get(&node, &format!("k{}", written - 1)).bytes(),
        Some(value.as_slice())
    );

    // Killed on the full disk it starts again and serves reads; the first time in the reserve, from then on without a
    // segment to write to, if need be. It says why writes are refused.
    for start in 1..=3 {
        node.kill().unwrap();
        fill(&disk);
        node = setup
            .start()
            .unwrap_or_else(|refusal| panic!("start {start} on a full disk: {refusal}"));
        assert_eq!(get(&node, "before").text(), "there");
        assert_eq!(
            get(&node, &format!("k{}", written - 1)).bytes(),
            Some(value.as_slice())
        );
        write_until_refused(&node, &value, &mut written);
    }
    empty(&disk);

    let began = Instant::now();
    while !set(&node, "after", b"room").is_ok() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "writes do not resume: {}",
            set(&node, "after", b"room").text()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(
        node.terminate(Duration::from_secs(30)).unwrap().success(),
        "{}",
        node.tail()
    );
}
