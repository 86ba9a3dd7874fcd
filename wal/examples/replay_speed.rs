//! How fast is a log read back, and opened? `cargo run --release -p esker-wal --example replay_speed [MiB] [payload bytes]`.
//!
//! Replay: frames through [`Reader::next_ref`] and [`Reader::next`], beside the plainest loop over the same files: reads of 256 KiB,
//! one crc32fast per payload. Rounds take turns; medians are printed. Open: after a clean close, and after none.

#![allow(clippy::print_stdout, reason = "an example")]

use esker_wal::frame::frame_len;
use esker_wal::{
    Create, Log, LogId, LogOptions, Lsn, NodeId, ReadLimit, SyncPolicy, VerifyOptions, verify,
};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const ROUNDS: usize = 9;
const WINDOW: usize = 256 << 10;

fn options() -> LogOptions {
    LogOptions {
        create: Some(Create {
            log: LogId(1),
            node: NodeId(1),
            base: Lsn::ZERO,
        }),
        sync_policy: SyncPolicy::Manual,
        ..LogOptions::default()
    }
}

fn timed(f: impl FnOnce() -> u64) -> f64 {
    let begun = Instant::now();
    let bytes = f();
    bytes as f64 / begun.elapsed().as_secs_f64() / 1e9
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Frames of one length, from 4096 on in each file, summed payload by payload.
fn plain(dir: &Path, payload: usize, mut left: u64) -> u64 {
    let frame = frame_len(payload);
    let per_read = WINDOW / frame * frame;
    let mut files: Vec<_> = (std::fs::read_dir(dir).expect("there"))
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .collect();
    files.sort();
    let (mut buf, mut read, mut sum) = (vec![0; per_read], 0, 0);
    for path in files {
        let file = File::open(path).expect("opens");
        let len = file.metadata().expect("a length").len() - 4096 - 512;
        let end = 4096 + len / frame as u64 * frame as u64;
        let mut at = 4096;
        while at < end && left > 0 {
            let want = (per_read as u64).min(end - at).min(left) as usize;
            file.read_exact_at(&mut buf[..want], at).expect("reads");
            for frame in buf[..want].chunks_exact(frame) {
                sum ^= crc32fast::hash(&frame[32..32 + payload]);
            }
            at += want as u64;
            read += want as u64;
            left -= want as u64;
        }
    }
    std::hint::black_box(sum);
    read
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mib: u64 = args.next().map_or(Ok(512), |a| a.parse())?;
    let payload: usize = args.next().map_or(Ok(256), |a| a.parse())?;
    let dir = tempfile::tempdir_in(".")?;
    let bytes = vec![7; payload];
    let (log, _) = Log::open(dir.path(), options())?;
    while log.reserved().0 < mib << 20 {
        log.append(&[&bytes])?;
    }
    log.sync_up_to(log.published())?;
    let (mut by_ref, mut by_bytes, mut by_hand) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        by_ref.push(timed(|| {
            let mut reader = log.reader(Lsn::ZERO, ReadLimit::Synced).expect("a reader");
            let mut sum = 0;
            while let Some(frame) = reader.next_ref().expect("intact") {
                sum += frame.header.frame_len() as u64;
            }
            sum
        }));
        by_bytes.push(timed(|| {
            let mut reader = log.reader(Lsn::ZERO, ReadLimit::Synced).expect("a reader");
            let mut sum = 0;
            while let Some(frame) = reader.next().expect("intact") {
                sum += frame.header.frame_len() as u64;
            }
            sum
        }));
        by_hand.push(timed(|| plain(dir.path(), payload, log.synced().0)));
    }
    println!(
        "replay of {payload} B, {mib} MiB, GB/s: next_ref {:.2}, next {:.2}, read + crc32fast {:.2}",
        median(by_ref),
        median(by_bytes),
        median(by_hand)
    );
    let verified = timed(|| {
        verify(dir.path(), &VerifyOptions::default())
            .expect("runs")
            .bytes
    });
    println!("verify, all cores: {verified:.2} GB/s");
    // A process that was killed: the log is forgotten, the lock let go by hand.
    let unclean = copy(dir.path())?;
    log.close()?;
    drop(log);
    let open = |dir: &Path| -> Result<Duration, Box<dyn std::error::Error>> {
        let begun = Instant::now();
        let (log, _) = Log::open(dir, options())?;
        let took = begun.elapsed();
        log.close()?;
        Ok(took)
    };
    println!(
        "open: unclean {:?}, clean {:?}",
        open(unclean.path())?,
        open(dir.path())?
    );
    Ok(())
}

fn copy(from: &Path) -> std::io::Result<tempfile::TempDir> {
    let to = tempfile::tempdir_in(".")?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.path().join(entry.file_name()))?;
    }
    Ok(to)
}
