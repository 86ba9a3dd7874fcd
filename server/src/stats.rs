//! Counters of the network side, shared by its threads.

use crate::net::Tally;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// All since the start (or CONFIG RESETSTAT), relaxed: nothing is ordered by them.
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) started: Instant,
    pub(crate) commands: AtomicU64,
    pub(crate) held: AtomicU64,
    pub(crate) turns: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) protocol_errors: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
    /// A gauge: bytes of input and output buffers.
    pub(crate) client_memory: AtomicUsize,
    rate: Mutex<Rate>,
}

#[derive(Debug)]
struct Rate {
    at: Instant,
    commands: u64,
    bytes_in: u64,
    bytes_out: u64,
    per_second: Rates,
}

/// What happened per second lately.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) commands: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl Stats {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Stats {
            started: now,
            commands: AtomicU64::new(0),
            held: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            protocol_errors: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
            client_memory: AtomicUsize::new(0),
            rate: Mutex::new(Rate {
                at: now,
                commands: 0,
                bytes_in: 0,
                bytes_out: 0,
                per_second: Rates::default(),
            }),
        }
    }

    /// Adds what one turn of a loop did.
    pub(crate) fn add(&self, tally: &Tally) {
        let add = |counter: &AtomicU64, n: u64| {
            if n > 0 {
                counter.fetch_add(n, Ordering::Relaxed);
            }
        };
        add(&self.turns, 1);
        add(&self.commands, tally.commands);
        add(&self.held, tally.held);
        add(&self.bytes_in, tally.bytes_in);
        add(&self.bytes_out, tally.bytes_out);
        add(&self.protocol_errors, tally.protocol_errors);
    }

    /// Called about every 100 ms; refreshes the rates every second or so.
    pub(crate) fn sample(&self, now: Instant) {
        let mut rate = self.rate.lock();
        let passed = now.saturating_duration_since(rate.at);
        if passed < Duration::from_secs(1) {
            return;
        }
        let commands = self.commands.load(Ordering::Relaxed);
        let bytes_in = self.bytes_in.load(Ordering::Relaxed);
        let bytes_out = self.bytes_out.load(Ordering::Relaxed);
        let per_second = |now: u64, then: u64| {
            (now.saturating_sub(then) as f64 / passed.as_secs_f64()).round() as u64
        };
        rate.per_second = Rates {
            commands: per_second(commands, rate.commands),
            bytes_in: per_second(bytes_in, rate.bytes_in),
            bytes_out: per_second(bytes_out, rate.bytes_out),
        };
        rate.at = now;
        rate.commands = commands;
        rate.bytes_in = bytes_in;
        rate.bytes_out = bytes_out;
    }

    pub(crate) fn rates(&self) -> Rates {
        self.rate.lock().per_second
    }

    pub(crate) fn reset(&self) {
        for counter in [
            &self.commands,
            &self.held,
            &self.turns,
            &self.bytes_in,
            &self.bytes_out,
            &self.protocol_errors,
            &self.connections,
            &self.rejected,
            &self.accept_errors,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        let mut rate = self.rate.lock();
        rate.commands = 0;
        rate.bytes_in = 0;
        rate.bytes_out = 0;
    }
}
