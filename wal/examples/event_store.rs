//! An event store on the log alone: streams of events, a projection that is replayed, subscribers that follow the tail.
//!
//! Events that belong together are one frame: after a crash all of them are there or none. A stream has a version, the
//! count of its events; who appends says which version it expects, so two who decide on the same state can't both win. The
//! index is in memory and is rebuilt by reading the log once.
//!
//! `cargo run -p esker-wal --example event_store -- DIR`
#![allow(clippy::print_stdout, reason = "a program that tells what it did")]

use esker_wal::{Create, Kind, Log, LogError, LogId, LogOptions, Lsn, NodeId, ReadLimit, Reader};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What happened in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    stream: String,
    kind: String,
    data: Vec<u8>,
}

impl Event {
    fn new(stream: &str, kind: &str, data: &[u8]) -> Event {
        Event {
            stream: stream.to_owned(),
            kind: kind.to_owned(),
            data: data.to_vec(),
        }
    }

    /// Each field behind its length, a u32.
    fn encode(&self, out: &mut Vec<u8>) {
        for field in [self.stream.as_bytes(), self.kind.as_bytes(), &self.data] {
            out.extend_from_slice(&(field.len() as u32).to_le_bytes());
            out.extend_from_slice(field);
        }
    }

    fn decode(from: &mut &[u8]) -> Option<Event> {
        let mut field = || {
            let (len, rest) = from.split_first_chunk()?;
            let (field, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            *from = rest;
            Some(field.to_vec())
        };
        Some(Event {
            stream: String::from_utf8(field()?).ok()?,
            kind: String::from_utf8(field()?).ok()?,
            data: field()?,
        })
    }
}

struct Store {
    log: Log,
    /// By stream: its version. Held while appending, so that versions and the log agree in their order.
    versions: Mutex<HashMap<String, u64>>,
}

impl Store {
    fn open(dir: &Path, options: LogOptions) -> Result<Store, Failure> {
        let create = Create {
            log: LogId::random(),
            node: NodeId::random(),
            base: Lsn::ZERO,
        };
        let options = LogOptions {
            create: Some(create),
            ..options
        };
        let (log, _) = Log::open(dir, options)?;
        let store = Store {
            log,
            versions: Mutex::default(),
        };
        let mut versions = HashMap::new();
        store.replay(|event| *versions.entry(event.stream.clone()).or_default() += 1)?;
        *store.versions.lock().expect("not poisoned") = versions;
        Ok(store)
    }

    /// Appends `events` as one, if `stream` still is at `expected`; on return they survive power loss.
    fn append(&self, stream: &str, expected: u64, events: &[Event]) -> Result<(), Failure> {
        let mut payload = Vec::new();
        events.iter().for_each(|event| event.encode(&mut payload));
        let appended = {
            let mut versions = self.versions.lock().expect("not poisoned");
            let found = versions.get(stream).copied().unwrap_or(0);
            if found != expected {
                return Err(format!("{stream} is at version {found}, not {expected}").into());
            }
            let appended = self.log.append(&[&payload])?;
            for event in events {
                *versions.entry(event.stream.clone()).or_default() += 1;
            }
            appended
        };
        // Not under the lock: those who wait share a sync.
        self.log.sync_up_to(appended.end)?;
        Ok(())
    }

    /// Hands over every event, oldest first.
    fn replay(&self, mut each: impl FnMut(&Event)) -> Result<(), Failure> {
        let mut all = self.subscribe(self.log.oldest())?;
        while let Some(events) = all.next(Duration::ZERO)? {
            events.iter().for_each(&mut each);
        }
        Ok(())
    }

    /// Events from `from` on, and all to come.
    fn subscribe(&self, from: Lsn) -> Result<Subscriber, LogError> {
        Ok(Subscriber(self.log.reader(from, ReadLimit::Synced)?))
    }
}

struct Subscriber(Reader);

impl Subscriber {
    /// The events of the next append; `None` at the timeout, an error when the store closes.
    fn next(&mut self, timeout: Duration) -> Result<Option<Vec<Event>>, Failure> {
        while let Some(frame) = self.0.next_wait(Some(timeout))? {
            if frame.header.kind != Kind::Data {
                continue;
            }
            let mut rest = &frame.payload[..];
            let mut events = Vec::new();
            while !rest.is_empty() {
                events.push(Event::decode(&mut rest).ok_or("a frame that is no events")?);
            }
            return Ok(Some(events));
        }
        Ok(None)
    }
}

/// A projection: how much is in each account.
#[derive(Debug, Default, PartialEq, Eq)]
struct Balances(HashMap<String, i64>);

impl Balances {
    fn apply(&mut self, event: &Event) {
        let amount = event.data[..].try_into().map_or(0, i64::from_le_bytes);
        let sign = if event.kind == "deposited" { 1 } else { -1 };
        *self.0.entry(event.stream.clone()).or_default() += sign * amount;
    }
}

fn transfer(amount: i64) -> [Event; 2] {
    let data = amount.to_le_bytes();
    [
        Event::new("alice", "withdrawn", &data),
        Event::new("bob", "deposited", &data),
    ]
}

/// Accounts that are paid into and from, watched by a subscriber, then rebuilt from the log.
fn demo(dir: &Path) -> Result<(), Failure> {
    const TRANSFERS: u64 = 100;
    let store = Store::open(dir, LogOptions::default())?;
    let mut known = Balances::default();
    store.replay(|event| known.apply(event))?;
    println!("found {known:?}");
    let mut tail = store.subscribe(store.log.synced())?;
    let watching = std::thread::spawn(move || -> Result<Balances, Failure> {
        let mut balances = known;
        let mut seen = 0;
        while seen < 1 + TRANSFERS {
            let events = tail
                .next(Duration::from_secs(10))?
                .ok_or("no news for ten seconds")?;
            events.iter().for_each(|event| balances.apply(event));
            seen += 1;
        }
        Ok(balances)
    });
    let version = |stream: &str| {
        store
            .versions
            .lock()
            .expect("not poisoned")
            .get(stream)
            .copied()
            .unwrap_or(0)
    };
    let deposit = Event::new("alice", "deposited", &1000_i64.to_le_bytes());
    store.append("alice", version("alice"), &[deposit])?;
    for _ in 0..TRANSFERS {
        store.append("alice", version("alice"), &transfer(10))?;
    }
    let refused = store
        .append("alice", 0, &transfer(10))
        .expect_err("decided on an old state");
    println!("refused: {refused}");
    let watched = watching.join().map_err(|_| "the subscriber panicked")??;
    store.log.close()?;

    let store = Store::open(dir, LogOptions::default())?;
    let mut replayed = Balances::default();
    store.replay(|event| replayed.apply(event))?;
    println!("replayed {replayed:?}");
    if replayed != watched {
        return Err(format!("watched {watched:?}, replayed {replayed:?}").into());
    }
    Ok(store.log.close()?)
}

fn main() -> Result<(), Failure> {
    let dir = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("target/event-store"), PathBuf::from);
    demo(&dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use esker_wal::media::sim::SimMedia;
    use std::sync::Arc;

    #[test]
    fn a_subscriber_and_a_replay_agree_twice() {
        let dir = tempfile::tempdir().expect("a directory");
        demo(dir.path()).expect("a new store");
        demo(dir.path()).expect("a store with events");
    }

    /// Two threads move money; the power goes at any moment: what comes back adds up, and every answered transfer is in it.
    #[test]
    fn a_transfer_is_there_whole_or_not_at_all_after_a_power_cut() {
        for seed in 0..20 {
            let media = SimMedia::new(seed);
            let options = || LogOptions {
                segment_bytes: 16 << 10,
                media: Arc::new(media.clone()),
                ..LogOptions::default()
            };
            let dir = Path::new("events");
            let store = Store::open(dir, options()).expect("a new store");
            media.cut_at_call(10 + 13 * seed);
            let answered = (0..200)
                .take_while(|n| store.append("alice", *n, &transfer(1)).is_ok())
                .count() as i64;
            media.power_cut(seed);
            drop(store);

            let store = Store::open(dir, options()).expect("it opens again");
            let mut balances = Balances::default();
            store
                .replay(|event| balances.apply(event))
                .expect("a replay");
            let of = |name: &str| balances.0.get(name).copied().unwrap_or(0);
            assert_eq!(of("alice"), -of("bob"), "seed {seed}: half a transfer");
            assert!(
                of("bob") >= answered,
                "seed {seed}: {answered} answered, {} there",
                of("bob")
            );
        }
    }
}
