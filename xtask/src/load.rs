//! Load whose outcome can be judged after a crash.
//!
//! Each worker owns keys of its own and writes on one connection, pipelined. It knows what was acknowledged (`state`) and
//! which operations were on their way (`in_flight`, in order). After a crash the server must hold, for some `p`, exactly the
//! state after the first `p` operations in flight: nothing acknowledged is missing, nothing came out of order, no
//! batch is half there. A watcher reads the workers' counters on other connections: what it has seen must not go back.

use crate::node::REPLY_MAX;
use crate::resp::{Client, Reply};
use crate::{Outcome, ctx};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

type Bytes = Vec<u8>;
type State = BTreeMap<Bytes, Bytes>;

/// Keys of a worker, besides its counter.
const KEYS: u32 = 300;
/// Most operations in one pipelined send.
const PIPELINE_MAX: usize = 16;

#[derive(Clone, Debug)]
enum Op {
    Set(Vec<(Bytes, Bytes)>),
    Del(Bytes),
    Incr(Bytes),
    Append(Bytes, Bytes),
    Get(Bytes),
}

impl Op {
    fn apply(&self, state: &mut State) {
        match self {
            Op::Set(pairs) => state.extend(pairs.iter().cloned()),
            Op::Del(key) => drop(state.remove(key)),
            Op::Incr(key) => {
                let now = state.get(key).map_or(0, |value| counter(value));
                state.insert(key.clone(), (now + 1).to_string().into_bytes());
            }
            Op::Append(key, more) => state
                .entry(key.clone())
                .or_default()
                .extend_from_slice(more),
            Op::Get(_) => {}
        }
    }

    fn keys(&self) -> Vec<&Bytes> {
        match self {
            Op::Set(pairs) => pairs.iter().map(|pair| &pair.0).collect(),
            Op::Del(key) | Op::Incr(key) | Op::Append(key, _) => vec![key],
            Op::Get(_) => vec![],
        }
    }

    fn queue(&self, client: &mut Client) {
        match self {
            Op::Set(pairs) => {
                let mut argv: Vec<&[u8]> = vec![if pairs.len() == 1 { b"SET" } else { b"MSET" }];
                for (key, value) in pairs {
                    argv.extend([key.as_slice(), value.as_slice()]);
                }
                client.queue(&argv);
            }
            Op::Del(key) => client.queue(&[b"DEL", key]),
            Op::Incr(key) => client.queue(&[b"INCR", key]),
            Op::Append(key, more) => client.queue(&[b"APPEND", key, more]),
            Op::Get(key) => client.queue(&[b"GET", key]),
        }
    }
}

fn counter(value: &[u8]) -> i64 {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// How a stretch of load ended.
#[derive(Debug)]
pub enum Ended {
    /// It was told to stop; nothing is in flight.
    Stopped,
    /// The connection broke.
    Broken,
    /// The server answered with an error.
    Refused(String),
}

/// A writer and what it knows.
#[derive(Debug)]
pub struct Worker {
    id: usize,
    rng: StdRng,
    state: State,
    in_flight: Vec<Op>,
    issued: u64,
    /// Write operations acknowledged.
    pub acknowledged: u64,
    /// The highest counter that the watcher saw.
    pub seen: Arc<AtomicI64>,
}

impl Worker {
    /// Workers `0..n`.
    pub fn several(n: usize, seed: u64) -> Vec<Worker> {
        (0..n)
            .map(|id| Worker {
                id,
                rng: StdRng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(id as u64)),
                state: State::new(),
                in_flight: Vec::new(),
                issued: 0,
                acknowledged: 0,
                seen: Arc::default(),
            })
            .collect()
    }

    fn counter_key(&self) -> Bytes {
        format!("w{}:counter", self.id).into_bytes()
    }

    fn key(&self, n: u32) -> Bytes {
        format!("w{}:{n:04}", self.id).into_bytes()
    }

    fn value(&mut self) -> Bytes {
        self.issued += 1;
        let len = match self.rng.random_range(0..100) {
            0..60 => self.rng.random_range(0..128),
            60..95 => self.rng.random_range(128..2048),
            _ => self.rng.random_range(2048..20_000),
        };
        let mut value = format!("{}.{}.", self.id, self.issued).into_bytes();
        let fill = b'a' + (self.issued % 26) as u8;
        value.resize(value.len() + len, fill);
        value
    }

    fn op(&mut self) -> Op {
        let n = self.rng.random_range(0..KEYS);
        let key = self.key(n);
        match self.rng.random_range(0..100) {
            0..55 => Op::Set(vec![(key, self.value())]),
            55..65 => {
                let pairs = (0..self.rng.random_range(2..6))
                    .map(|i| (self.key((n + i * 7) % KEYS), self.value()));
                // A key twice in one MSET would be its last value; the steps of 7 keep them apart.
                Op::Set(pairs.collect())
            }
            65..75 => Op::Del(key),
            75..88 => Op::Incr(self.counter_key()),
            88..92 => Op::Append(self.key(KEYS), self.id.to_string().into_bytes()),
            _ => Op::Get(key),
        }
    }

    /// Writes until told to stop or until the server is gone.
    pub fn run(&mut self, addr: SocketAddr, stop: &AtomicBool) -> Outcome<Ended> {
        assert!(
            self.in_flight.is_empty(),
            "judged before it is loaded again"
        );
        let Ok(mut client) = Client::connect(addr, REPLY_MAX) else {
            return Ok(Ended::Broken);
        };
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..self.rng.random_range(1..=PIPELINE_MAX) {
                let op = self.op();
                op.queue(&mut client);
                self.in_flight.push(op);
            }
            if client.flush().is_err() {
                return Ok(Ended::Broken);
            }
            let sent = self.in_flight.len();
            for done in 0..sent {
                let reply = match client.reply() {
                    Ok(reply) => reply,
                    Err(error) => {
                        self.in_flight.drain(..done);
                        if matches!(
                            error.kind(),
                            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                        ) {
                            return Err(format!(
                                "worker {}: no reply within {REPLY_MAX:?}",
                                self.id
                            ));
                        }
                        return Ok(Ended::Broken);
                    }
                };
                if let Reply::Error(error) = reply {
                    self.in_flight.drain(..done);
                    return Ok(Ended::Refused(error));
                }
                let op = &self.in_flight[done];
                if let Op::Get(key) = op {
                    let expected = self.state.get(key).map(Vec::as_slice);
                    if reply.bytes() != expected {
                        return Err(format!(
                            "worker {}: {} read {:.60?} behind its own write of {:.60?}",
                            self.id,
                            show(key),
                            reply.text(),
                            expected.map(show),
                        ));
                    }
                } else {
                    self.acknowledged += 1;
                }
                op.apply(&mut self.state);
            }
            self.in_flight.clear();
        }
        Ok(Ended::Stopped)
    }

    /// Compares what the server holds with what it must hold, and takes that as the new state.
    pub fn judge(&mut self, client: &mut Client) -> Outcome {
        let found = self.read(client)?;
        let mut affected: Vec<&Bytes> = self.in_flight.iter().flat_map(Op::keys).collect();
        affected.sort();
        affected.dedup();
        for (key, value) in &found {
            if affected.binary_search(&key).is_err() && value.as_ref() != self.state.get(key) {
                return Err(self.difference(
                    key,
                    value.as_ref(),
                    "acknowledged, and nothing was on its way",
                ));
            }
        }
        let wanted = |state: &State| {
            affected
                .iter()
                .all(|key| found[*key].as_ref() == state.get(*key))
        };
        let mut state: State = affected
            .iter()
            .filter_map(|key| Some(((*key).clone(), self.state.get(*key)?.clone())))
            .collect();
        let mut fits = wanted(&state);
        for op in &self.in_flight {
            if fits {
                break;
            }
            op.apply(&mut state);
            fits = wanted(&state);
        }
        if !fits {
            let key = affected
                .iter()
                .find(|key| found[**key].as_ref() != self.state.get(**key));
            let key = (*key.unwrap_or(&affected[0])).clone();
            return Err(self.difference(
                &key,
                found[&key].as_ref(),
                "acknowledged; what is there is no prefix of what was on its way",
            ));
        }
        let now = found[&self.counter_key()].as_deref().map_or(0, counter);
        let seen = self.seen.load(Ordering::Relaxed);
        if now < seen {
            return Err(format!(
                "worker {}: another client had read counter {seen}; now it is {now}",
                self.id
            ));
        }
        self.in_flight.clear();
        self.state = found
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect();
        Ok(())
    }

    /// Compares another node with the state; nothing may be in flight.
    pub fn judge_copy(&self, client: &mut Client) -> Outcome {
        assert!(self.in_flight.is_empty(), "judged on the primary first");
        for (key, value) in self.read(client)? {
            if value.as_ref() != self.state.get(&key) {
                return Err(self.difference(&key, value.as_ref(), "on the primary"));
            }
        }
        Ok(())
    }

    fn difference(&self, key: &[u8], found: Option<&Bytes>, what: &str) -> String {
        format!(
            "worker {}: {} holds {:.60?}; {:.60?} was {what} ({} in flight)",
            self.id,
            show(key),
            found.map(|value| show(value)),
            self.state.get(key).map(|value| show(value)),
            self.in_flight.len(),
        )
    }

    fn read(&self, client: &mut Client) -> Outcome<BTreeMap<Bytes, Option<Bytes>>> {
        let mut keys: Vec<Bytes> = (0..=KEYS).map(|n| self.key(n)).collect();
        keys.push(self.counter_key());
        for key in &keys {
            client.queue(&[b"GET", key]);
        }
        ctx(client.flush(), "reading back")?;
        keys.into_iter()
            .map(|key| match ctx(client.reply(), "reading back")? {
                Reply::Bulk(value) => Ok((key, value)),
                other => Err(format!("GET {} answered {}", show(&key), other.text())),
            })
            .collect()
    }
}

fn show(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
    format!("{text} ({} bytes)", bytes.len())
}

/// Reads the workers' counters until told to stop: what it sees must survive.
pub fn watch(addr: SocketAddr, seen: &[Arc<AtomicI64>], stop: &AtomicBool) {
    let Ok(mut client) = Client::connect(addr, REPLY_MAX) else {
        return;
    };
    for at in (0..seen.len()).cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("w{at}:counter");
        match client.command(&[b"GET", key.as_bytes()]) {
            Ok(Reply::Bulk(Some(value))) => {
                let _ = seen[at].fetch_max(counter(&value), Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
