//! Many clients, and nodes that lose power, links and packets: the store takes the writes of one holder at a time, tokens grow, the queue keeps its
//! order, nobody who waits is lost.

use super::b;
use crate::cluster::{Cluster, Up, history, three};
use esker_raft::core::NodeId;
use esker_raft::lock::{
    Acquire, AcquireError, Guard, GuardAnswer, How, LockAnswer, LockCommand, Refusal, guarded,
};
use esker_raft::runtime::ProposeError;
use esker_wal::media::sim::SimRng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LOCKS: u64 = 20;
const TTL: u64 = 2_000_000;
const WAIT: u64 = 60_000_000;

fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[derive(Default)]
struct Seen {
    /// (lock, token, ticket)
    grants: Vec<(String, u64, u64)>,
    written: BTreeSet<String>,
    counts: BTreeMap<&'static str, u64>,
}

struct World {
    cluster: Cluster,
    seen: Mutex<Seen>,
    stop: AtomicBool,
    /// What the test is about, and should not have happened.
    wrong: Mutex<Vec<String>>,
    serial: AtomicU64,
}

impl World {
    fn saw(&self, what: &'static str) {
        *self.seen.lock().unwrap().counts.entry(what).or_insert(0) += 1;
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
        self.stop.store(true, Ordering::SeqCst);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn any(&self, rng: &mut SimRng) -> Arc<Up> {
        loop {
            if let Some(up) = self.cluster.up(rng.below(3) as usize) {
                return up;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn granted(&self, name: &str, token: u64, ticket: u64) {
        let grant = (name.to_owned(), token, ticket);
        self.seen.lock().unwrap().grants.push(grant);
    }

    /// Writes under a token through any node; `valid` says whether the holder may think so.
    fn write(&self, rng: &mut SimRng, guard: &Guard, valid: &dyn Fn() -> bool) {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let name = String::from_utf8_lossy(&guard.name).into_owned();
        let text = format!("{name} {} {serial}", guard.token);
        let command = guarded(std::slice::from_ref(guard), text.as_bytes());
        match self.any(rng).node.handle().propose_anywhere(command) {
            Ok(reply) => match GuardAnswer::decode(reply.payload) {
                Ok(GuardAnswer::Passed(_)) => {
                    self.saw("write");
                    self.seen.lock().unwrap().written.insert(text);
                }
                // K7.
                Ok(GuardAnswer::Stale { .. }) if valid() => {
                    self.wrong(format!("the holder of {text} was not told that it is over"));
                }
                Ok(GuardAnswer::Stale { .. }) => self.saw("write refused"),
                other => self.wrong(format!("{other:?}")),
            },
            Err(ProposeError::NotAppended { .. }) => self.saw("write not appended"),
            Err(_) => self.saw("write unknown"),
        }
    }

    /// A client with a handle, bound to a node; it is renewed by itself.
    fn with_handle(&self, rng: &mut SimRng, name: &str) {
        let up = self.any(rng);
        let how = Acquire {
            ttl: Duration::from_micros(TTL),
            wait: Duration::from_micros(WAIT),
            ..Acquire::default()
        };
        match up.beside.acquire(b(name), &how) {
            Ok(held) => {
                self.saw("grant to a handle");
                if held.ticket() > 0 {
                    self.granted(name, held.token(), held.ticket());
                }
                for _ in 0..=rng.below(3) {
                    self.write(rng, &held.guard(), &|| held.is_valid());
                }
                match rng.chance(2) {
                    true => drop(held),
                    false => drop(held.release(Duration::from_secs(2))),
                }
            }
            // It was granted, and the answer took longer than it lives: no node was heard for so long.
            Err(AcquireError::Ended(How::Expired)) => self.saw("a grant that came too late"),
            // Its node is down, or alone.
            Err(AcquireError::Lock(_) | AcquireError::Cancelled) => self.saw("no answer"),
            Err(error) => self.wrong(format!("a handle: {error}")),
        }
    }

    /// A client that goes from node to node with one claim: it must get the lock, at its place.
    fn with_claim(&self, rng: &mut SimRng, name: &str) {
        let id = format!("c{}", self.serial.fetch_add(1, Ordering::Relaxed));
        let command = LockCommand::Acquire {
            name: b(name),
            id: b(&id),
            ttl: TTL,
            wait: WAIT,
            priority: 0,
            attempt: 0,
        };
        let mut place = 0;
        let (token, left, asked) = loop {
            let up = self.any(rng);
            let asked = Instant::now();
            match up.beside.ask(&command, Duration::from_millis(500)) {
                Ok(LockAnswer::Acquired {
                    token,
                    ticket,
                    left,
                }) => {
                    if place != 0 && place != ticket {
                        self.wrong(format!("{id} waited at {place} and got {ticket}"));
                    }
                    self.granted(name, token, ticket);
                    break (token, left, asked);
                }
                Ok(LockAnswer::Queued { ticket, .. }) => {
                    if place != 0 && place != ticket {
                        self.wrong(format!("{id} lost its place {place}, and has {ticket}"));
                    }
                    place = ticket;
                }
                // The answer with the grant was lost, and its time to live passed meanwhile.
                Ok(LockAnswer::Refused(Refusal::Ended { token, .. })) if token > 0 => {
                    return self.saw("a grant that was never heard of");
                }
                Ok(other) => return self.wrong(format!("{id} waited at {place}: {other:?}")),
                Err(_) => self.saw("no answer"),
            }
            if self.stopped() {
                // So that others need not wait for its time.
                let (name, id) = (b(name), b(&id));
                let cancel = LockCommand::Cancel { name, id };
                let _ = up.beside.ask(&cancel, Duration::from_secs(2));
                return;
            }
            std::thread::sleep(Duration::from_millis(100 + rng.below(200)));
        };
        self.saw("grant to a claim");
        let end = asked + Duration::from_micros(left / 8 * 7);
        let guard = Guard {
            name: b(name),
            token,
        };
        for _ in 0..=rng.below(3) {
            self.write(rng, &guard, &|| Instant::now() < end);
        }
        if rng.chance(12) {
            // Its client dies.
            self.saw("left behind");
            if rng.chance(2) {
                // Or comes back from a long pause.
                std::thread::sleep(Duration::from_micros(TTL + TTL / 2));
                self.write(rng, &guard, &|| Instant::now() < end);
            }
            return;
        }
        let release = LockCommand::Release {
            name: b(name),
            token,
            forced: false,
        };
        // Sent again where it is not known.
        let _ = (self.any(rng).beside).ask(&release, Duration::from_secs(2));
    }

    fn client(&self, seed: u64) {
        let mut rng = SimRng::new(seed);
        while !self.stopped() {
            let name = format!("lock-{}", rng.below(LOCKS));
            match seed.is_multiple_of(2) {
                true => self.with_handle(&mut rng, &name),
                false => self.with_claim(&mut rng, &name),
            }
            std::thread::sleep(Duration::from_millis(rng.below(20)));
        }
    }

    fn faults(&self, rng: &mut SimRng, end: Instant) {
        while Instant::now() < end && !self.stopped() {
            std::thread::sleep(Duration::from_millis(300 + rng.below(700)));
            let leader = self.cluster.leader();
            let at = match rng.chance(2) {
                true => leader,
                false => rng.below(3) as usize,
            };
            let node = NodeId(at as u64 + 1);
            let other = NodeId((at as u64 + 1) % 3 + 1);
            let pause = Duration::from_millis(200 + rng.below(1500));
            match rng.below(6) {
                0 | 1 => {
                    self.saw(if at == leader {
                        "leader killed"
                    } else {
                        "follower killed"
                    });
                    self.cluster.power_cut(at, rng.next_u64());
                    std::thread::sleep(pause);
                    self.cluster.start(at);
                }
                2 => {
                    self.saw(if at == leader {
                        "leader alone"
                    } else {
                        "follower alone"
                    });
                    self.cluster.network.isolate(node);
                    std::thread::sleep(pause);
                }
                3 => {
                    self.saw("one way");
                    self.cluster.network.cut(node, other);
                    std::thread::sleep(pause);
                }
                4 => {
                    self.saw("loss and repetition");
                    self.cluster.network.disturb(20, 10);
                    std::thread::sleep(pause);
                    self.cluster.network.disturb(0, 0);
                }
                _ => {
                    self.saw("snapshot");
                    if let Some(up) = self.cluster.up(at) {
                        let _ = up.node.handle().checkpoint();
                    }
                }
            }
            self.cluster.network.heal();
        }
    }
}

/// Done when 8 of the lock service.
#[test]
fn clients_under_kills_and_partitions_never_write_beside_each_other_and_keep_their_order() {
    let clients = number("ESKER_CLIENTS", 200);
    let seconds = number("ESKER_SECONDS", 6);
    let seed = number("ESKER_SEED", 1);
    let world = World {
        cluster: three(200),
        seen: Mutex::default(),
        stop: false.into(),
        wrong: Mutex::default(),
        serial: 0.into(),
    };
    world.cluster.leader();
    let end = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        for client in 0..clients {
            let world = &world;
            scope.spawn(move || world.client(seed * 100_000 + client));
        }
        world.faults(&mut SimRng::new(seed), end);
        // All get what they wait for once the faults are over.
        world.cluster.leader();
        std::thread::sleep(Duration::from_secs(1));
        world.stop.store(true, Ordering::SeqCst);
    });
    let wrong = world.wrong.lock().unwrap().clone();
    assert!(wrong.is_empty(), "ESKER_SEED={seed}: {wrong:?}");
    let history = history(&world.cluster);
    let seen = world.seen.lock().unwrap();
    eprintln!(
        "{seconds} s, {clients} clients, {} writes in the store: {:?}",
        history.len(),
        seen.counts
    );
    // K1: once a token has written, none before it does.
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for row in &history {
        let mut words = row.split(' ');
        let (name, token) = (words.next().unwrap(), words.next().unwrap());
        let token: u64 = token.parse().unwrap();
        let before = last.insert(name, token).unwrap_or(0);
        assert!(token >= before, "K1: {name}: {token} behind {before}");
    }
    let stored: BTreeSet<&String> = history.iter().collect();
    assert_eq!(stored.len(), history.len(), "a write took effect twice");
    let lost: Vec<_> = seen
        .written
        .iter()
        .filter(|w| !stored.contains(w))
        .collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
    // K2, K3: of each lock, who came first was served first.
    let mut tokens = BTreeSet::new();
    let mut by_lock: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for (name, token, ticket) in &seen.grants {
        assert!(tokens.insert(*token), "K2: token {token} was granted twice");
        by_lock.entry(name).or_default().push((*token, *ticket));
    }
    for (name, mut grants) in by_lock {
        grants.sort_unstable();
        for pair in grants.windows(2) {
            assert!(pair[0].1 < pair[1].1, "K3: {name}: {pair:?}");
        }
    }
    let saw = |what: &str| seen.counts.get(what).copied().unwrap_or(0);
    for what in ["grant to a handle", "grant to a claim", "write"] {
        assert!(saw(what) > clients / 4, "hardly any {what}");
    }
    if seconds >= 60 {
        for what in [
            "leader killed",
            "follower killed",
            "leader alone",
            "one way",
            "loss and repetition",
            "snapshot",
            "write refused",
            "left behind",
        ] {
            assert!(saw(what) > 0, "never seen: {what}");
        }
    }
}
