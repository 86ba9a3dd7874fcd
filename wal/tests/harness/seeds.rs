//! Many seeds, several at a time, with a watch over those that hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// A number from the environment.
pub(crate) fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

/// The seeds to run: `ESKER_SEED` alone, or `ESKER_SEEDS` of them from `ESKER_FROM` on, or `default`.
pub(crate) fn chosen(default: u64) -> std::ops::Range<u64> {
    match from_env("ESKER_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let from = from_env("ESKER_FROM").unwrap_or(0);
            from..from + from_env("ESKER_SEEDS").unwrap_or(default)
        }
    }
}

/// What became of a seed.
pub(crate) struct Outcome<T> {
    pub(crate) seed: u64,
    pub(crate) result: Result<T, String>,
}

/// Runs `seeds` on all cores until one fails, and returns what succeeded and the failure with the
/// lowest seed that was seen. A seed that takes a minute counts as hanging.
pub(crate) fn run<T: Send + 'static>(
    seeds: std::ops::Range<u64>,
    run_one: impl Fn(u64) -> Result<T, String> + Send + Sync + 'static,
) -> (Vec<T>, Option<(u64, String)>) {
    let next = Arc::new(AtomicU64::new(seeds.start));
    let run_one = Arc::new(run_one);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (send, receive) = channel();
    let current: Vec<Arc<AtomicU64>> = (0..cores).map(|_| Arc::default()).collect();
    for current in &current {
        let (next, run_one, send, current) =
            (next.clone(), run_one.clone(), send.clone(), current.clone());
        let end = seeds.end;
        std::thread::spawn(move || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return;
                }
                current.store(seed, Ordering::Relaxed);
                let run = std::panic::AssertUnwindSafe(|| run_one(seed));
                let result = std::panic::catch_unwind(run).unwrap_or_else(|panic| {
                    let text = panic
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or_else(|| panic.downcast_ref::<&str>().copied());
                    Err(format!("panicked: {}", text.unwrap_or("?")))
                });
                let failed = result.is_err();
                if send.send(Outcome { seed, result }).is_err() || failed {
                    next.store(end, Ordering::Relaxed);
                    return;
                }
            }
        });
    }
    drop(send);
    let (mut done, mut failure) = (Vec::new(), None::<(u64, String)>);
    loop {
        match receive.recv_timeout(Duration::from_secs(60)) {
            Ok(Outcome { result: Ok(it), .. }) => done.push(it),
            Ok(Outcome {
                seed,
                result: Err(e),
            }) => {
                if failure.as_ref().is_none_or(|(other, _)| seed < *other) {
                    failure = Some((seed, e));
                }
            }
            Err(RecvTimeoutError::Disconnected) => return (done, failure),
            Err(RecvTimeoutError::Timeout) => {
                let seeds: Vec<u64> = current.iter().map(|c| c.load(Ordering::Relaxed)).collect();
                let failure = failure.unwrap_or((seeds[0], format!("one of {seeds:?} hangs")));
                return (done, Some(failure));
            }
        }
    }
}
