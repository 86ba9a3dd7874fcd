//! `redis-benchmark` beside the clients whose histories are checked: load that asks nothing of what it is answered.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Requests of a run, of each of its commands.
const REQUESTS: u64 = 500;
const COMMANDS: [&str; 3] = ["set", "get", "incr"];
/// A run that takes longer hangs at a node that is stopped, or has no leader.
const RUN_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    /// Requests of runs that came to their end.
    answered: AtomicU64,
    /// Runs that did not.
    ended: AtomicU64,
}

/// Runs of it, one after the other, each at another node. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Background {
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(super) fn start(ports: &[u16], seed: u64) -> Background {
        let counts: Arc<Counts> = Arc::default();
        let (mine, ports) = (Arc::clone(&counts), ports.to_vec());
        let thread = std::thread::spawn(move || run(&mine, &ports, seed));
        Background {
            counts,
            thread: Some(thread),
        }
    }

    pub(super) fn stop(&mut self) {
        self.counts.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Requests that were answered in whole runs; runs that ended early.
    pub(super) fn counts(&self) -> (u64, u64) {
        let counts = &self.counts;
        (
            counts.answered.load(Ordering::Relaxed),
            counts.ended.load(Ordering::Relaxed),
        )
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(port: u16) -> std::io::Result<Child> {
    Command::new("redis-benchmark")
        .args(["-p", &port.to_string(), "-t", &COMMANDS.join(",")])
        .args(["-c", "4", "-d", "64", "-r", "10000", "-q"])
        .args(["-n", &REQUESTS.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn run(counts: &Counts, ports: &[u16], seed: u64) {
    let mut rng = StdRng::seed_from_u64(!seed);
    while !counts.stop.load(Ordering::Relaxed) {
        let Ok(mut child) = spawn(ports[rng.random_range(0..ports.len())]) else {
            return;
        };
        let end = Instant::now() + RUN_MAX;
        let whole = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status.success(),
                _ if Instant::now() > end || counts.stop.load(Ordering::Relaxed) => break false,
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        // It may have ended.
        let _ = child.kill();
        let _ = child.wait();
        match whole {
            true => counts
                .answered
                .fetch_add(REQUESTS * COMMANDS.len() as u64, Ordering::Relaxed),
            false => counts.ended.fetch_add(1, Ordering::Relaxed),
        };
    }
}
