//! Progress, on a terminal alone.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(100);

/// Is told how many bytes of how many are done.
pub type OnBytes = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Shows bytes and their rate on standard error; `None` where that is no terminal.
#[must_use]
pub fn bytes() -> Option<OnBytes> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let begun = Instant::now();
    let said = AtomicU64::new(0);
    Some(Arc::new(move |done, of| {
        let now = begun.elapsed();
        // Relaxed: a line too many or too few.
        let last = Duration::from_millis(said.load(Ordering::Relaxed));
        if now < last + EVERY && done < of {
            return;
        }
        said.store(now.as_millis() as u64, Ordering::Relaxed);
        let rate = done as f64 / now.as_secs_f64().max(1e-9) / 1e6;
        let percent = done.saturating_mul(100) / of.max(1);
        // A terminal that is gone is no reason to stop.
        let _ = write!(io::stderr(), "\r{percent:3}% {done} bytes, {rate:.0} MB/s ");
        if done >= of {
            clear();
        }
    }))
}

/// Takes the line away.
pub fn clear() {
    let _ = write!(io::stderr(), "\r\x1b[K");
}

/// Counts on standard error; the line goes with it.
#[derive(Debug)]
pub struct Count {
    what: &'static str,
    done: u64,
    said: Instant,
}

impl Count {
    /// `None` where standard error is no terminal.
    #[must_use]
    pub fn of(what: &'static str) -> Option<Count> {
        io::stderr().is_terminal().then(|| Count {
            what,
            done: 0,
            said: Instant::now(),
        })
    }

    /// One more.
    pub fn one(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(1024) && self.said.elapsed() >= EVERY {
            self.said = Instant::now();
            let _ = write!(io::stderr(), "\r{} {} ", self.done, self.what);
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        clear();
    }
}
