//! Clients that write down what they did and saw, and the application that serves them.

use crate::history::{Done, Event};
use crate::nodes::{Cluster, Up};
use bytes::Bytes;
use esker_raft::machine::{Application, Effects};
use esker_raft::runtime::{Command, MachineError, ProposeError, Session, SessionError};
use esker_wal::media::sim::SimRng;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Keys are used for so long: what has no answer stays open in a key's history, and each doubles the orders that may explain it.
const KEYS_FOR: Duration = Duration::from_secs(2);

/// `=key value` sets, `+key` counts up and answers the number.
#[derive(Clone, Copy, Debug)]
pub struct App;

/// The number that a value begins with; zero stands for nothing there.
pub fn number(value: Option<&Bytes>) -> u64 {
    let text = value.map(|v| String::from_utf8_lossy(v).into_owned());
    let digits = text.as_deref().and_then(|t| t.split(' ').next());
    digits.map_or(0, |digits| digits.parse().unwrap_or(u64::MAX))
}

impl Application for App {
    fn apply(&mut self, command: Command, state: &mut Effects<'_>) -> Result<Bytes, MachineError> {
        let text = String::from_utf8(command.payload.to_vec()).expect("of the test");
        let Some(key) = text.strip_prefix('+') else {
            let (key, value) = text[1..].split_once(' ').expect("of the test");
            // Longer than the number, so that tables fill.
            state.put(
                key.as_bytes(),
                format!("{value} {}", "v".repeat(200)).as_bytes(),
            );
            return Ok(Bytes::new());
        };
        let n = number(state.get(key.as_bytes())?.as_ref()) + 1;
        state.put(key.as_bytes(), n.to_string().as_bytes());
        Ok(n.to_string().into())
    }
}

/// What all clients share.
pub struct World {
    pub cluster: Cluster,
    pub began: Instant,
    pub events: Mutex<Vec<Event>>,
    pub counts: Mutex<BTreeMap<&'static str, u64>>,
    /// When the latest write began that was acknowledged.
    pub wrote: AtomicI64,
    pub stop: AtomicBool,
}

impl World {
    pub fn now(&self) -> i64 {
        self.began.elapsed().as_nanos() as i64
    }

    pub fn saw(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_insert(0) += 1;
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn any(&self, rng: &mut SimRng) -> Option<Arc<Up>> {
        self.cluster
            .up(rng.below(self.cluster.len() as u64) as usize)
    }
}

struct Client<'a> {
    world: &'a World,
    id: u32,
    rng: SimRng,
    session: Option<Session>,
}

/// What became of a command. `None`: it took no effect.
type Became = Option<(Done, bool)>;

impl Client<'_> {
    fn write(&self, up: &Up, command: String, done: Done) -> Became {
        match up.node.handle().propose_anywhere(command) {
            Ok(reply) => Some((counted(done, &reply.payload), true)),
            Err(ProposeError::NotAppended { .. }) => {
                self.world.saw("refused as not executed");
                None
            }
            Err(ProposeError::Committed { .. }) => {
                self.world.saw("committed, without the reply");
                // It took effect before now: only the number is not known.
                Some((done, true))
            }
            Err(_) => {
                self.world.saw("outcome not known");
                Some((done, false))
            }
        }
    }

    /// Under a session, from node to node until it is known: it takes effect once (C5).
    fn count_once(&mut self, key: &str) -> Became {
        let short = Duration::from_millis(300);
        let (world, done) = (self.world, Done::Counted(None));
        let mut session = match self.session.take() {
            Some(session) => session,
            None => {
                let up = world.any(&mut self.rng)?;
                (up.node.handle().open_session(Duration::from_secs(600))).ok()?
            }
        };
        let mut outcome = session.execute(format!("+{key}"), short);
        loop {
            match outcome {
                Ok(reply) => {
                    self.session = Some(session);
                    return Some((counted(done, &reply.payload), true));
                }
                Err(ProposeError::Session(SessionError::TooMany)) => return None,
                Err(ProposeError::Session(_) | ProposeError::Committed { .. }) => {
                    return Some((done, false));
                }
                Err(_) if world.stopped() => return Some((done, false)),
                Err(_) => world.saw("tried again under a session"),
            }
            std::thread::sleep(Duration::from_millis(10));
            if let Some(up) = world.any(&mut self.rng) {
                session = session.at(&up.node.handle());
            }
            outcome = session.retry(format!("+{key}"), short);
        }
    }

    fn read(&mut self, up: &Up, key: &str) -> Became {
        let barrier = up.node.handle().read_barrier(Duration::from_millis(700));
        let value = barrier
            .ok()
            .and_then(|_| up.reader.get(key.as_bytes()).ok());
        if value.is_none() {
            self.world.saw("read without an answer");
        }
        Some((Done::Read(number(value?.as_ref())), true))
    }

    fn run(&mut self) -> Vec<Event> {
        let world = self.world;
        let mut events = Vec::new();
        let mut n = 0;
        while !world.stopped() {
            std::thread::sleep(Duration::from_micros(self.rng.below(6_000)));
            let Some(up) = world.any(&mut self.rng) else {
                continue;
            };
            let epoch = world.began.elapsed().as_millis() / KEYS_FOR.as_millis();
            n += 1;
            let value = u64::from(self.id) * 1_000_000_000 + n;
            let register = format!("r{epoch}.{}", self.rng.below(5));
            let counter = format!("c{epoch}.{}", self.rng.below(2));
            let what = self.rng.below(12);
            let key = if matches!(what, 4..=7) {
                counter
            } else {
                register
            };
            let began = world.now();
            let became = match what {
                0..=3 => self.write(&up, format!("={key} {value}"), Done::Wrote(value)),
                4 => self.write(&up, format!("+{key}"), Done::Counted(None)),
                5 | 6 => {
                    drop(up);
                    self.count_once(&key)
                }
                _ => self.read(&up, &key),
            };
            let Some((done, known)) = became else {
                continue;
            };
            if known && !matches!(done, Done::Read(_)) {
                world.wrote.fetch_max(began, Ordering::Relaxed);
            }
            events.push(Event {
                client: self.id,
                key,
                done,
                began,
                ended: known.then(|| world.now()),
            });
        }
        events
    }
}

fn counted(done: Done, reply: &Bytes) -> Done {
    match done {
        Done::Counted(_) => Done::Counted(Some(number(Some(reply)))),
        done => done,
    }
}

/// Runs until it is told to stop.
pub fn run(world: &World, id: u32, seed: u64) {
    let mut client = Client {
        world,
        id,
        rng: SimRng::new(seed.wrapping_mul(1_000) + u64::from(id)),
        session: None,
    };
    let events = client.run();
    world.events.lock().unwrap().extend(events);
}
