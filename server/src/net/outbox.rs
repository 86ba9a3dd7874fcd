//! What leaves to one client: its replies in order, those that have to wait behind gates.
//!
//! - OB1: bytes leave in the order in which they were written. `bytes[written..released]` may be sent, and what follows is behind the first
//!   gate: `written <= released <= bytes.len()`, and gates lie behind `released`, in order and apart.
//! - OB2: a gate's reply is not released before the safe position has reached what it touched, unless an error took its place. What was
//!   written since the last `settle` is not released yet, so that it can still be gated or taken back.
//! - OB3: memory that was sent is given back, and what waits is counted whether it is behind a gate or not. Its owner stops adding to it, and
//!   cuts the client off, by that count.

use super::NetLimits;
use crate::resp::Reply;
use esker_wal::Lsn;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::Instant;

/// A reply that must wait.
#[derive(Debug)]
struct Gate {
    /// Where its bytes are.
    start: usize,
    end: usize,
    /// The position that must be safe.
    lsn: Lsn,
    /// Whether the command wrote.
    wrote: bool,
    /// When it becomes an error.
    deadline: Instant,
}

impl Gate {
    /// What it says when it is over without an answer.
    fn error(&self, failure: Option<&str>, out: &mut Reply) {
        match (failure, self.wrote) {
            (Some(why), true) => out.error(&format!(
                "MISCONF the log failed behind this write, which may or may not be found after a restart: {why}"
            )),
            (Some(why), false) => out.error(&format!(
                "MISCONF this read saw a write whose outcome is unknown since the log failed: {why}"
            )),
            (None, true) => out.error(
                "UNKNOWNOUTCOME this write is in the log but was not acknowledged as the durability asks within ack-timeout; it may survive or not",
            ),
            (None, false) => out.error(
                "UNKNOWNOUTCOME this read saw a write that was not acknowledged as the durability asks within ack-timeout",
            ),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Reply,
    written: usize,
    released: usize,
    gates: VecDeque<Gate>,
}

impl Outbox {
    /// Where the next reply is written. Only `take_back` takes something away.
    #[inline]
    pub(super) fn reply(&mut self) -> &mut Reply {
        &mut self.bytes
    }

    /// Where the next reply begins, until something is sent or expires.
    #[inline]
    pub(super) fn end(&self) -> usize {
        self.bytes.len()
    }

    /// What was written from `start` on.
    #[inline]
    pub(super) fn since(&self, start: usize) -> &[u8] {
        &self.bytes.as_bytes()[start..]
    }

    /// Takes back what was written from `start` on, since the last `settle`.
    #[inline]
    pub(super) fn take_back(&mut self, start: usize) {
        debug_assert!(self.released <= start && self.gates.back().is_none_or(|g| g.end <= start));
        self.bytes.truncate(start);
    }

    /// Holds what was written from `start` on until `lsn` is safe.
    #[inline]
    pub(super) fn hold(&mut self, start: usize, lsn: Lsn, wrote: bool, deadline: Instant) {
        debug_assert!(start < self.bytes.len(), "nobody waits for no reply");
        debug_assert!(self.released <= start && self.gates.back().is_none_or(|g| g.end <= start));
        self.gates.push_back(Gate {
            start,
            end: self.bytes.len(),
            lsn,
            wrote,
            deadline,
        });
    }

    /// Releases what the safe position allows.
    #[inline]
    pub(super) fn settle(&mut self, safe: Lsn) {
        while let Some(gate) = self.gates.front() {
            if gate.lsn > safe {
                self.released = gate.start;
                return;
            }
            self.gates.pop_front();
        }
        self.released = self.bytes.len();
    }

    /// Releases what the safe position allows. Where the first gate has then waited too long, or `failure` says why nothing will come, puts
    /// errors in the place of held replies that are not safe: of all for a failure, else of those past their deadline (OB2). `told` is shown each.
    pub(super) fn expire(
        &mut self,
        safe: Lsn,
        now: Instant,
        failure: Option<&str>,
        mut told: impl FnMut(&[u8]),
    ) {
        self.settle(safe);
        let is_over = |gate: &Gate| gate.lsn > safe && (failure.is_some() || now >= gate.deadline);
        if !self.gates.front().is_some_and(is_over) {
            return;
        }
        let old = std::mem::take(self.bytes.buf_mut());
        let gates = std::mem::take(&mut self.gates);
        self.bytes.raw(&old[self.written..self.released]);
        let mut copied = self.released;
        self.written = 0;
        for mut gate in gates {
            self.bytes.raw(&old[copied..gate.start]);
            copied = gate.end;
            let start = self.bytes.len();
            if is_over(&gate) {
                gate.error(failure, &mut self.bytes);
                told(self.since(start));
            } else {
                self.bytes.raw(&old[gate.start..gate.end]);
                gate.start = start;
                gate.end = self.bytes.len();
                self.gates.push_back(gate);
            }
        }
        self.bytes.raw(&old[copied..]);
        self.settle(safe);
    }

    /// Sends what is released, in one call if the other side takes it, and counts it in `sent`.
    #[inline]
    pub(super) fn send(&mut self, to: &mut impl Write, sent: &mut u64) -> io::Result<()> {
        while self.written < self.released {
            match to.write(&self.bytes.as_bytes()[self.written..self.released]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.written += n;
                    *sent += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives back what was sent (OB3).
    #[inline]
    pub(super) fn trim(&mut self, limits: &NetLimits) {
        if self.written == self.bytes.len() {
            self.bytes.truncate(0);
            self.written = 0;
            self.released = 0;
            if self.bytes.capacity() > limits.keep_bytes {
                *self.bytes.buf_mut() = Vec::new();
            }
        } else if self.written > limits.output_soft {
            // The front was sent, the rest waits.
            self.bytes.buf_mut().drain(..self.written);
            let gone = self.written;
            self.written = 0;
            self.released -= gone;
            for gate in &mut self.gates {
                gate.start -= gone;
                gate.end -= gone;
            }
        }
    }

    /// Bytes that are not sent, held or not.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Replies that are held.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.gates.len()
    }

    /// Whether something may be sent.
    #[inline]
    pub(super) fn has_released(&self) -> bool {
        self.written < self.released
    }

    /// Bytes of memory.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use std::time::Duration;

    /// A socket that takes so many bytes and no more.
    struct Socket {
        got: Vec<u8>,
        room: usize,
    }

    impl Write for Socket {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.got.extend_from_slice(&bytes[..n]);
            self.room -= n;
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `outbox` sends to who takes `room` bytes.
    fn sent(outbox: &mut Outbox, room: usize) -> String {
        let mut socket = Socket {
            got: Vec::new(),
            room,
        };
        let mut count = 0;
        let all = outbox.send(&mut socket, &mut count);
        assert_eq!(count, socket.got.len() as u64);
        assert_eq!(all.is_ok(), !outbox.has_released());
        String::from_utf8(socket.got).expect("replies are text here")
    }

    fn free(outbox: &mut Outbox, text: &str) {
        outbox.reply().simple(text);
    }

    fn held(outbox: &mut Outbox, text: &str, lsn: u64, wrote: bool, deadline: Instant) {
        let start = outbox.end();
        outbox.reply().simple(text);
        outbox.hold(start, Lsn(lsn), wrote, deadline);
    }

    #[test]
    fn ob1_a_reply_whose_position_is_safe_waits_for_the_gate_before_it() {
        let late = Instant::now() + Duration::from_secs(9);
        let mut outbox = Outbox::default();
        free(&mut outbox, "a");
        held(&mut outbox, "b", 10, true, late);
        held(&mut outbox, "c", 5, false, late);
        free(&mut outbox, "d");
        assert_eq!(sent(&mut outbox, 99), "", "nothing before it is settled");
        outbox.settle(Lsn(7));
        assert_eq!(sent(&mut outbox, 99), "+a\r\n");
        assert_eq!((outbox.held(), outbox.waiting()), (2, 12));
        outbox.settle(Lsn(10));
        assert_eq!(sent(&mut outbox, 99), "+b\r\n+c\r\n+d\r\n");
        assert_eq!((outbox.held(), outbox.waiting()), (0, 0));
    }

    #[test]
    fn ob2_what_is_taken_back_never_leaves() {
        let late = Instant::now() + Duration::from_secs(9);
        let mut outbox = Outbox::default();
        held(&mut outbox, "a", 10, true, late);
        let start = outbox.end();
        free(&mut outbox, "back");
        assert_eq!(outbox.since(start), b"+back\r\n");
        outbox.take_back(start);
        free(&mut outbox, "b");
        outbox.settle(Lsn(10));
        assert_eq!(sent(&mut outbox, 99), "+a\r\n+b\r\n");
    }

    #[test]
    fn ob2_only_the_replies_past_their_deadline_become_errors() {
        let now = Instant::now();
        let late = now + Duration::from_secs(9);
        let mut outbox = Outbox::default();
        free(&mut outbox, "a");
        held(&mut outbox, "b", 10, true, now);
        free(&mut outbox, "c");
        held(&mut outbox, "d", 20, false, now);
        held(&mut outbox, "e", 30, true, late);
        free(&mut outbox, "f");
        outbox.settle(Lsn(0));
        assert_eq!(sent(&mut outbox, 2), "+a", "the rest of it stays");
        let mut told = Vec::new();
        outbox.expire(Lsn(0), now, None, |error| {
            told.push(String::from_utf8_lossy(error).into_owned())
        });
        assert!(told[0].starts_with("-UNKNOWNOUTCOME this write "));
        assert!(told[1].starts_with("-UNKNOWNOUTCOME this read "));
        assert_eq!((told.len(), outbox.held()), (2, 1));
        let expected = format!("\r\n{}+c\r\n{}", told[0], told[1]);
        assert_eq!(sent(&mut outbox, 999), expected);
        outbox.settle(Lsn(29));
        assert_eq!(sent(&mut outbox, 999), "");
        outbox.settle(Lsn(30));
        assert_eq!(sent(&mut outbox, 999), "+e\r\n+f\r\n");
    }

    #[test]
    fn ob2_a_reply_that_is_safe_behind_one_that_is_late_is_no_error() {
        let now = Instant::now();
        for failure in [None, Some("EIO")] {
            let mut outbox = Outbox::default();
            held(&mut outbox, "late", 10, true, now);
            held(&mut outbox, "safe", 5, false, now);
            let mut told = String::new();
            outbox.expire(Lsn(7), now, failure, |error| {
                told += &String::from_utf8_lossy(error)
            });
            assert!(told.lines().count() == 1 && told.contains("this write"));
            assert_eq!(sent(&mut outbox, 999), format!("{told}+safe\r\n"));
            assert_eq!(outbox.held(), 0);
        }
    }

    #[test]
    fn ob2_a_failure_ends_every_held_reply_whatever_its_deadline() {
        let now = Instant::now();
        let late = now + Duration::from_secs(9);
        let mut outbox = Outbox::default();
        held(&mut outbox, "a", 10, true, late);
        held(&mut outbox, "b", 20, false, late);
        free(&mut outbox, "c");
        outbox.expire(Lsn(0), now, None, |_| panic!("nothing is late"));
        assert_eq!(outbox.held(), 2);
        let mut told = 0;
        outbox.expire(Lsn(0), now, Some("EIO"), |_| told += 1);
        let text = sent(&mut outbox, 999);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("-MISCONF the log failed behind this write"));
        assert!(lines[1].starts_with("-MISCONF this read "));
        assert!(lines[..2].iter().all(|line| line.ends_with(": EIO")));
        assert_eq!((lines[2], told, outbox.held()), ("+c", 2, 0));
    }

    #[test]
    fn ob3_the_sent_part_is_given_back_and_the_gates_move_with_their_replies() {
        let now = Instant::now();
        let limits = NetLimits {
            output_soft: 4,
            ..NetLimits::default()
        };
        let mut outbox = Outbox::default();
        free(&mut outbox, "long");
        held(&mut outbox, "a", 10, true, now);
        free(&mut outbox, "b");
        held(&mut outbox, "c", 20, true, now + Duration::from_secs(9));
        outbox.settle(Lsn(0));
        assert_eq!(sent(&mut outbox, 4), "+lon");
        outbox.trim(&limits);
        assert_eq!(
            outbox.end(),
            19,
            "no more than the bound was sent: it stays"
        );
        assert_eq!(sent(&mut outbox, 99), "g\r\n");
        outbox.trim(&limits);
        assert_eq!((outbox.end(), outbox.waiting()), (12, 12));
        // Both ends of a gate moved: its reply is replaced whole, and its neighbours stay.
        let mut told = String::new();
        outbox.expire(Lsn(0), now, None, |error| {
            told = String::from_utf8_lossy(error).into_owned()
        });
        assert_eq!(sent(&mut outbox, 999), format!("{told}+b\r\n"));
        outbox.settle(Lsn(20));
        assert_eq!(sent(&mut outbox, 999), "+c\r\n");
        outbox.trim(&limits);
        assert_eq!(outbox.end(), 0);
    }

    #[test]
    fn ob3_an_empty_outbox_keeps_a_small_buffer_and_gives_back_a_large_one() {
        let limits = NetLimits {
            keep_bytes: 1 << 10,
            ..NetLimits::default()
        };
        let mut outbox = Outbox::default();
        for (bytes, keeps) in [(100, true), (2 << 10, false)] {
            outbox.reply().raw(&vec![b'x'; bytes]);
            outbox.settle(Lsn(0));
            assert_eq!(sent(&mut outbox, bytes).len(), bytes);
            outbox.trim(&limits);
            assert_eq!(outbox.memory() > 0, keeps, "{bytes} bytes");
        }
    }

    #[test]
    fn ob3_what_is_held_waits_like_what_the_client_does_not_take() {
        let late = Instant::now() + Duration::from_secs(9);
        let mut outbox = Outbox::default();
        free(&mut outbox, "a");
        held(&mut outbox, "b", 10, true, late);
        outbox.settle(Lsn(0));
        assert_eq!(outbox.waiting(), 8);
        assert_eq!(sent(&mut outbox, 1), "+");
        assert_eq!(outbox.waiting(), 7, "what was sent does not wait");
    }

    /// What becomes of a reply.
    struct Expected {
        bytes: Vec<u8>,
        gate: Option<(u64, Instant)>,
    }

    /// OB1, OB2: whatever is written, settled, sent in pieces, trimmed and expired, the client reads the replies in order, each once, and none before
    /// its position was safe.
    #[test]
    fn ob1_ob2_a_client_reads_each_reply_once_in_order_and_none_early() {
        let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
        let seeds = match number("ESKER_SEED") {
            Some(seed) => seed..seed + 1,
            None => 0..number("ESKER_SEEDS").unwrap_or(300),
        };
        let begin = Instant::now();
        let limits = NetLimits {
            output_soft: 24,
            ..NetLimits::default()
        };
        for seed in seeds {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut now, mut safe, mut newest) = (begin, 0, 0);
            let mut outbox = Outbox::default();
            let mut expected: Vec<Expected> = Vec::new();
            // Of those in `expected`, so many are released.
            let mut released = 0;
            let mut got = Vec::new();
            for step in 0..200 {
                let at = format!("ESKER_SEED={seed} step {step}");
                match rng.random_range(0..10) {
                    0..=4 => {
                        let start = outbox.end();
                        outbox.reply().simple(&step.to_string());
                        let bytes = outbox.since(start).to_vec();
                        newest += 1;
                        // Some see an older write than the one before did.
                        let lsn = newest - rng.random_range(0..3u64).min(newest);
                        let deadline = now + Duration::from_secs(3);
                        let gate = (lsn > safe && rng.random()).then_some((lsn, deadline));
                        if gate.is_some() {
                            outbox.hold(start, Lsn(lsn), true, deadline);
                        }
                        expected.push(Expected { bytes, gate });
                    }
                    5 => {
                        safe = rng.random_range(safe..=newest);
                        outbox.settle(Lsn(safe));
                        let free = |e: &Expected| e.gate.is_none_or(|(lsn, _)| lsn <= safe);
                        released += expected[released..].iter().take_while(|e| free(e)).count();
                    }
                    6 | 7 => {
                        let room = rng.random_range(0..30);
                        got.extend(sent(&mut outbox, room).into_bytes());
                    }
                    8 => outbox.trim(&limits),
                    _ => {
                        now += Duration::from_secs(rng.random_range(0..3));
                        let mut errors = Vec::new();
                        outbox.expire(Lsn(safe), now, None, |error| errors.push(error.to_vec()));
                        let mut errors = errors.into_iter();
                        let free = |e: &Expected| e.gate.is_none_or(|(lsn, _)| lsn <= safe);
                        released += expected[released..].iter().take_while(|e| free(e)).count();
                        for late in &mut expected[released..] {
                            if late.gate.is_some_and(|(lsn, by)| lsn > safe && by <= now) {
                                late.bytes = errors.next().expect(&at);
                                late.gate = None;
                            }
                        }
                        assert_eq!(errors.next(), None, "{at}");
                        released += expected[released..].iter().take_while(|e| free(e)).count();
                    }
                }
                let whole: Vec<u8> = expected.iter().flat_map(|e| e.bytes.clone()).collect();
                let allowed: usize = expected[..released].iter().map(|e| e.bytes.len()).sum();
                assert!(whole.starts_with(&got), "{at}: out of order");
                assert!(got.len() <= allowed, "{at}: too early");
                assert_eq!(outbox.waiting(), whole.len() - got.len(), "{at}");
            }
            outbox.settle(Lsn(newest));
            got.extend(sent(&mut outbox, usize::MAX).into_bytes());
            let whole: Vec<u8> = expected.iter().flat_map(|e| e.bytes.clone()).collect();
            assert_eq!(got, whole, "ESKER_SEED={seed}");
        }
    }
}
