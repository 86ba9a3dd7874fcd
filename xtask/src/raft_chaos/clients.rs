//! Clients that write down what they did and saw.
//!
//! Two keys together are an account: by WATCH, GET, MULTI, EXEC one is set to a value and the other to minus the same. Who reads both as at one moment
//! always sees the sum 0, and the first is a register whose writes name what they read.

use super::history::{Done, Event};
use crate::resp::{Client, Reply};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than a node takes to answer with an error.
const REPLY_MAX: Duration = Duration::from_secs(6);
/// Keys are used for so long: what has no answer stays open in a key's history, and each doubles the orders that may explain it.
const KEYS_FOR: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Seen {
    pub(super) began: Instant,
    pub(super) events: Mutex<Vec<Event>>,
    /// When the latest write began that was acknowledged.
    pub(super) wrote: AtomicI64,
    /// Certainly not executed; nobody knows; could not connect.
    pub(super) refused: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) away: AtomicU64,
    /// Transactions that were executed; that were not, as a watched key had changed.
    pub(super) moved: AtomicU64,
    pub(super) changed: AtomicU64,
    /// An answer that is wrong whatever happened.
    pub(super) wrong: Mutex<Option<String>>,
    ports: Vec<u16>,
    stop: AtomicBool,
}

impl Seen {
    pub(super) fn now(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }
}

#[derive(Debug)]
pub(super) struct Clients {
    pub(super) seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    pub(super) fn start(count: u32, ports: &[u16], seed: u64) -> Clients {
        let seen = Arc::new(Seen {
            began: Instant::now(),
            events: Mutex::default(),
            wrote: AtomicI64::new(0),
            refused: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            away: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            changed: AtomicU64::new(0),
            wrong: Mutex::default(),
            ports: ports.to_vec(),
            stop: AtomicBool::new(false),
        });
        let threads = (1..=count)
            .map(|client| {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || run(&seen, client, seed))
            })
            .collect();
        Clients { seen, threads }
    }

    pub(super) fn stop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(seen: &Seen, client: u32, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(client.into()));
    let mut connection: Option<Client> = None;
    let mut number = 0_u64;
    let mut events = Vec::new();
    while !seen.stop.load(Ordering::Relaxed) {
        // From time to time it goes elsewhere.
        if connection.is_none() || rng.random_range(0..200) == 0 {
            let port = seen.ports[rng.random_range(0..seen.ports.len())];
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            connection = Client::connect(address, REPLY_MAX).ok();
        }
        let Some(open) = &mut connection else {
            seen.away.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let epoch = seen.began.elapsed().as_millis() / KEYS_FOR.as_millis();
        number += 1;
        let value = u64::from(client) * 1_000_000_000 + number;
        let kind = rng.random_range(0..14);
        if kind >= 10 {
            let key = format!("t{epoch}.{}", rng.random_range(0..2));
            let moves = kind < 12;
            let met = match moves {
                true => transfer(seen, open, &key, value),
                false => both(seen, open, &key, kind == 12),
            };
            let (done, began, known) = match met {
                Met::Done(done, began) => (done, began, true),
                Met::Unknown(done, began) => {
                    seen.unknown.fetch_add(1, Ordering::Relaxed);
                    (done, began, false)
                }
                Met::Nothing => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
                Met::Gone => {
                    connection = None;
                    continue;
                }
                Met::Wrong(wrong) => {
                    *seen.wrong.lock().unwrap_or_else(|p| p.into_inner()) = Some(wrong);
                    return;
                }
            };
            if !known {
                connection = None;
            } else if moves {
                seen.wrote.fetch_max(began, Ordering::Relaxed);
            }
            events.push(Event {
                client,
                key,
                done,
                began,
                ended: known.then(|| seen.now()),
            });
            std::thread::sleep(Duration::from_micros(rng.random_range(0..8_000)));
            continue;
        }
        let (key, line, done) = match kind {
            0..=3 => {
                let key = format!("r{epoch}.{}", rng.random_range(0..6));
                (
                    key.clone(),
                    format!("SET {key} {value}"),
                    Done::Wrote(value),
                )
            }
            4 => {
                let key = format!("c{epoch}.{}", rng.random_range(0..2));
                (key.clone(), format!("INCR {key}"), Done::Counted(None))
            }
            5 => {
                let key = format!("c{epoch}.{}", rng.random_range(0..2));
                (key.clone(), format!("GET {key}"), Done::Read(0))
            }
            _ => {
                let key = format!("r{epoch}.{}", rng.random_range(0..6));
                (key.clone(), format!("GET {key}"), Done::Read(0))
            }
        };
        let began = seen.now();
        let reply = open.line(&line);
        let mut event = Event {
            client,
            key,
            done,
            began,
            ended: Some(seen.now()),
        };
        match (reply, done) {
            (Ok(reply), Done::Wrote(_)) if reply.is_ok() => {}
            (Ok(Reply::Int(n)), Done::Counted(_)) => {
                event.done = Done::Counted(u64::try_from(n).ok())
            }
            (Ok(Reply::Bulk(None)), Done::Read(_)) => {}
            (Ok(Reply::Bulk(Some(bytes))), Done::Read(_)) => {
                let value = std::str::from_utf8(&bytes)
                    .ok()
                    .and_then(|text| text.parse().ok());
                event.done = Done::Read(value.unwrap_or(u64::MAX));
            }
            (Ok(Reply::Error(error)), _) if error.starts_with("CLUSTERDOWN") => {
                seen.refused.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            (Ok(Reply::Error(error)), _) if !error.starts_with("UNKNOWNOUTCOME") => {
                let wrong = format!("{line}: {error}");
                *seen.wrong.lock().unwrap_or_else(|p| p.into_inner()) = Some(wrong);
                return;
            }
            (answer, _) => {
                if answer.is_err() {
                    connection = None;
                }
                seen.unknown.fetch_add(1, Ordering::Relaxed);
                if matches!(done, Done::Read(_)) {
                    continue;
                }
                event.ended = None;
            }
        }
        if event.ended.is_some() && !matches!(done, Done::Read(_)) {
            seen.wrote.fetch_max(began, Ordering::Relaxed);
        }
        events.push(event);
        // Slow enough that a history can be searched.
        std::thread::sleep(Duration::from_micros(rng.random_range(0..8_000)));
    }
    seen.events
        .lock()
        .unwrap_or_else(|p| p.into_inner())
        .extend(events);
}

/// What a transaction met with; when what counts of it began.
enum Met {
    Done(Done, i64),
    Unknown(Done, i64),
    /// Certainly not executed, or refused.
    Nothing,
    /// The connection ended before anything could have been executed.
    Gone,
    Wrong(String),
}

/// A number, or nothing there, which is 0.
fn number(reply: &Reply) -> Option<i64> {
    match reply {
        Reply::Bulk(None) => Some(0),
        Reply::Bulk(Some(bytes)) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

/// Moves an account to `value`.
fn transfer(seen: &Seen, open: &mut Client, key: &str, value: u64) -> Met {
    let mut found = [0; 2];
    for (at, line) in [
        format!("WATCH {key} {key}b"),
        format!("GET {key}"),
        format!("GET {key}b"),
    ]
    .iter()
    .enumerate()
    {
        match (open.line(line), at) {
            (Ok(reply), 0) if reply.is_ok() => {}
            (Ok(Reply::Error(error)), _) if error.starts_with("CLUSTERDOWN") => {
                seen.refused.fetch_add(1, Ordering::Relaxed);
                return Met::Gone;
            }
            (Ok(reply), _) => match number(&reply) {
                Some(number) if at > 0 => found[at - 1] = number,
                _ => return Met::Wrong(format!("{line}: {}", reply.text())),
            },
            (Err(_), _) => return Met::Gone,
        }
    }
    for line in [
        "MULTI".to_owned(),
        format!("SET {key} {value}"),
        format!("SET {key}b -{value}"),
    ] {
        match open.line(&line) {
            Ok(Reply::Simple(_)) => {}
            Ok(reply) => return Met::Wrong(format!("{line}: {}", reply.text())),
            Err(_) => return Met::Gone,
        }
    }
    let from = u64::try_from(found[0]).unwrap_or(u64::MAX);
    let began = seen.now();
    match open.line("EXEC") {
        Ok(Reply::Array(Some(replies)))
            if replies.len() == 2 && replies.iter().all(Reply::is_ok) =>
        {
            seen.moved.fetch_add(1, Ordering::Relaxed);
            match found[0] + found[1] {
                0 => Met::Done(Done::Moved(from, value), began),
                _ => Met::Wrong(format!(
                    "EXEC over {key}, which was read as {found:?} behind WATCH"
                )),
            }
        }
        Ok(Reply::Array(None)) => {
            seen.changed.fetch_add(1, Ordering::Relaxed);
            Met::Nothing
        }
        Ok(Reply::Error(error)) if error.starts_with("CLUSTERDOWN") => {
            seen.refused.fetch_add(1, Ordering::Relaxed);
            Met::Nothing
        }
        Ok(reply) if !reply.text().starts_with("UNKNOWNOUTCOME") => {
            Met::Wrong(format!("EXEC: {}", reply.text()))
        }
        // Where the two were read at two moments, a watched key has changed, and nothing is executed.
        _ if found[0] + found[1] != 0 => Met::Gone,
        _ => Met::Unknown(Done::MayMove(from, value), began),
    }
}

/// Reads both keys of an account as at one moment.
fn both(seen: &Seen, open: &mut Client, key: &str, multi: bool) -> Met {
    let began = seen.now();
    let reply = match multi {
        false => open.line(&format!("MGET {key} {key}b")),
        true => (|| {
            for line in [
                "MULTI".to_owned(),
                format!("GET {key}"),
                format!("GET {key}b"),
            ] {
                open.line(&line)?;
            }
            open.line("EXEC")
        })(),
    };
    let reply = match reply {
        Ok(reply) => reply,
        Err(_) => return Met::Gone,
    };
    let found = match &reply {
        Reply::Array(Some(parts)) => parts.iter().map(number).collect::<Option<Vec<_>>>(),
        Reply::Error(error) if error.starts_with("CLUSTERDOWN") => {
            seen.refused.fetch_add(1, Ordering::Relaxed);
            return Met::Nothing;
        }
        _ => None,
    };
    match found.as_deref() {
        Some([a, b]) if a + b == 0 => {
            Met::Done(Done::Read(u64::try_from(*a).unwrap_or(u64::MAX)), began)
        }
        _ => Met::Wrong(format!("{key} read as at one moment: {}", reply.text())),
    }
}
