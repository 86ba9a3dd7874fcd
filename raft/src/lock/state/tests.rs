//! The locks beside a model that knows no index, only a list of claims: `ESKER_SEEDS=5000 cargo test -p esker-raft lock::state`; `ESKER_SEED=17`
//! replays one.

use super::*;
use crate::lock::{ID_MAX, NAME_MAX};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn b(text: impl AsRef<str>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref().as_bytes())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Waits,
    Holds,
    Ended(How),
}

#[derive(Clone, Debug)]
struct Row {
    name: Bytes,
    id: Bytes,
    ticket: u64,
    priority: u8,
    token: u64,
    ttl: u64,
    wait: u64,
    until: u64,
    term: u64,
    phase: Phase,
    /// `None`: one has no name, or there are too many.
    attempts: Option<BTreeSet<u64>>,
}

#[derive(Default)]
struct Model {
    rows: Vec<Row>,
    term: u64,
    began: u64,
    time: u64,
    token: u64,
    ticket: u64,
}

impl Model {
    fn at(&self, name: &Bytes, phase: Phase) -> Vec<usize> {
        let all = self.rows.iter().enumerate();
        all.filter(|(_, r)| r.name == *name && r.phase == phase)
            .map(|(at, _)| at)
            .collect()
    }

    fn holder(&self, name: &Bytes) -> Option<usize> {
        let all = self.at(name, Phase::Holds);
        assert!(all.len() < 2, "K1");
        all.first().copied()
    }

    fn given(&self, row: &Row) -> u64 {
        let span = match row.phase {
            Phase::Holds => row.ttl,
            _ => row.wait,
        };
        match row.term < self.term {
            true => row.until.max(self.began + span),
            false => row.until,
        }
    }

    /// Of those that are due, who has more time gets it; the others, in order.
    fn due(&mut self, phase: Phase) -> Vec<usize> {
        let mut due = Vec::new();
        for at in 0..self.rows.len() {
            let row = &self.rows[at];
            if row.phase != phase || row.until > self.time {
                continue;
            }
            let given = self.given(row);
            if given > self.time {
                let term = self.term;
                let row = &mut self.rows[at];
                (row.until, row.term) = (given, term);
            } else {
                due.push(at);
            }
        }
        due.sort_by_key(|at| (self.rows[*at].until, self.rows[*at].name.clone()));
        due
    }

    fn advance(&mut self, term: u64, time: u64) {
        self.time = self.time.max(time);
        if term > self.term {
            (self.term, self.began) = (term, self.time);
        }
        for at in self.due(Phase::Waits) {
            self.rows[at].phase = Phase::Ended(How::WaitedTooLong);
        }
        for at in self.due(Phase::Holds) {
            self.finish(at, How::Expired);
        }
    }

    fn grant(&mut self, at: usize) {
        self.token += 1;
        let row = &mut self.rows[at];
        row.phase = Phase::Holds;
        row.token = self.token;
        row.until = self.time + row.ttl;
        row.term = self.term;
    }

    fn finish(&mut self, at: usize, how: How) {
        let name = self.rows[at].name.clone();
        self.rows[at].phase = Phase::Ended(how);
        let next = self.at(&name, Phase::Waits);
        let next = next.into_iter().min_by_key(|at| {
            let row = &self.rows[*at];
            (u8::MAX - row.priority, row.ticket)
        });
        if let Some(next) = next {
            self.grant(next);
        }
    }

    fn busy(&self, holder: usize) -> LockAnswer {
        let row = &self.rows[holder];
        LockAnswer::Busy {
            token: row.token,
            left: self.given(row) - self.time,
        }
    }

    fn run(&mut self, command: &LockCommand) -> LockAnswer {
        match command {
            LockCommand::Acquire {
                name,
                id,
                ttl,
                wait,
                priority,
                attempt,
            } => {
                let known = (self.rows.iter()).position(|r| r.name == *name && r.id == *id);
                let holder = self.holder(name);
                let at = match known {
                    Some(at) => match self.rows[at].phase {
                        Phase::Ended(how) => {
                            let token = self.rows[at].token;
                            return LockAnswer::Refused(Refusal::Ended { how, token });
                        }
                        Phase::Waits if *wait == 0 => {
                            return self.busy(holder.expect("somebody waits for it"));
                        }
                        Phase::Waits => {
                            let (time, term) = (self.time, self.term);
                            let row = &mut self.rows[at];
                            row.wait = *wait;
                            row.until = row.until.max(time + wait);
                            row.term = term;
                            at
                        }
                        Phase::Holds => at,
                    },
                    None => {
                        if let Some(holder) = holder
                            && *wait == 0
                        {
                            return self.busy(holder);
                        }
                        self.ticket += 1;
                        self.rows.push(Row {
                            name: name.clone(),
                            id: id.clone(),
                            ticket: self.ticket,
                            priority: *priority,
                            token: 0,
                            ttl: *ttl,
                            wait: *wait,
                            until: self.time + wait,
                            term: self.term,
                            phase: Phase::Waits,
                            attempts: Some(BTreeSet::new()),
                        });
                        let at = self.rows.len() - 1;
                        if holder.is_none() {
                            self.grant(at);
                        }
                        at
                    }
                };
                let attempts = &mut self.rows[at].attempts;
                if let Some(all) = attempts {
                    all.insert(*attempt);
                    if *attempt == 0 || all.len() > ATTEMPTS_MAX {
                        *attempts = None;
                    }
                }
                let row = &self.rows[at];
                match row.phase {
                    Phase::Holds => LockAnswer::Acquired {
                        token: row.token,
                        ticket: row.ticket,
                        left: self.given(row) - self.time,
                    },
                    _ => {
                        let place = |r: &Row| (u8::MAX - r.priority, r.ticket);
                        let waiting = self.at(name, Phase::Waits);
                        let ahead = waiting
                            .iter()
                            .filter(|at| place(&self.rows[**at]) < place(row));
                        LockAnswer::Queued {
                            ticket: row.ticket,
                            ahead: ahead.count() as u32,
                        }
                    }
                }
            }
            LockCommand::Renew(locks) => {
                let mut lefts = Vec::new();
                for (name, token, ttl) in locks {
                    match self
                        .holder(name)
                        .filter(|at| self.rows[*at].token == *token)
                    {
                        Some(at) => {
                            let (time, term) = (self.time, self.term);
                            let row = &mut self.rows[at];
                            if *ttl > 0 {
                                row.ttl = *ttl;
                            }
                            (row.until, row.term) = (time + row.ttl, term);
                            lefts.push(row.ttl);
                        }
                        None => lefts.push(0),
                    }
                }
                LockAnswer::Renewed(lefts)
            }
            LockCommand::Release {
                name,
                token,
                forced,
            } => {
                let holder = self.holder(name);
                let at = holder.filter(|at| self.rows[*at].token == *token);
                if let Some(at) = at {
                    let how = if *forced { How::Forced } else { How::Released };
                    self.finish(at, how);
                }
                LockAnswer::Released(at.is_some())
            }
            LockCommand::Cancel { name, id } => {
                let known = (self.rows.iter()).position(|r| r.name == *name && r.id == *id);
                LockAnswer::Cancelled(match known {
                    Some(at) => match self.rows[at].phase {
                        Phase::Holds => {
                            self.finish(at, How::Cancelled);
                            Cancelled::Held
                        }
                        Phase::Waits => {
                            self.rows[at].phase = Phase::Ended(How::Cancelled);
                            Cancelled::Waited
                        }
                        Phase::Ended(_) => Cancelled::Ended,
                    },
                    None => {
                        self.rows.push(Row {
                            name: name.clone(),
                            id: id.clone(),
                            ticket: 0,
                            priority: 0,
                            token: 0,
                            ttl: 0,
                            wait: 0,
                            until: 0,
                            term: 0,
                            phase: Phase::Ended(How::Cancelled),
                            attempts: None,
                        });
                        Cancelled::Unknown
                    }
                })
            }
            LockCommand::Leave { name, id, attempt } => {
                let known = (self.rows.iter()).position(|r| r.name == *name && r.id == *id);
                let Some(at) = known else {
                    return LockAnswer::Cancelled(Cancelled::Unknown);
                };
                let row = &mut self.rows[at];
                if matches!(row.phase, Phase::Ended(_)) {
                    return LockAnswer::Cancelled(Cancelled::Ended);
                }
                let last = (row.attempts.as_mut())
                    .is_some_and(|all| all.remove(attempt) && all.is_empty());
                LockAnswer::Cancelled(match row.phase {
                    _ if !last => Cancelled::Kept,
                    Phase::Holds => {
                        self.finish(at, How::Cancelled);
                        Cancelled::Held
                    }
                    _ => {
                        self.rows.remove(at);
                        Cancelled::Waited
                    }
                })
            }
        }
    }
}

#[derive(Default)]
struct World {
    locks: Locks,
    kept: BTreeMap<Vec<u8>, Vec<u8>>,
    model: Model,
    last_token: u64,
    granted: BTreeSet<(Bytes, Bytes)>,
    seen: BTreeMap<&'static str, u64>,
}

fn kept(world: &World) -> impl Iterator<Item = (Bytes, Bytes)> {
    let all = world.kept.clone().into_iter();
    all.map(|(key, value)| (key.into(), value.into()))
}

impl World {
    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_insert(0) += 1;
    }

    fn take(&mut self, changes: Changes) {
        for (key, value) in changes.records {
            match value {
                Some(value) => self.kept.insert(key, value),
                None => self.kept.remove(&key),
            };
        }
        for event in changes.events {
            match event {
                LockEvent::Granted { name, id, token } => {
                    assert!(token > self.last_token, "K2: {token}");
                    self.last_token = token;
                    assert!(self.granted.insert((name, id)), "K4: granted twice");
                }
                LockEvent::Ended { how, .. } => self.saw(match how {
                    How::Released => "released",
                    How::Expired => "expired",
                    How::Forced => "forced",
                    How::Cancelled => "cancelled",
                    How::WaitedTooLong => "waited too long",
                }),
                LockEvent::Queued { .. } => self.saw("queued"),
                LockEvent::Replaced => {}
            }
        }
    }

    fn told(&mut self, command: &LockCommand) -> LockAnswer {
        self.step(1, 1, command)
    }

    fn step(&mut self, term: u64, time: u64, command: &LockCommand) -> LockAnswer {
        let mut changes = Changes::default();
        // Through its bytes.
        let command = LockCommand::decode(command.encode()).expect("a command");
        self.locks.advance(Term(term), time, &mut changes);
        let answer = self.locks.run(&command, &mut changes);
        self.take(changes);
        self.model.advance(term, time);
        let expected = self.model.run(&command);
        assert_eq!(answer, expected, "{command:?}");
        if let LockCommand::Leave { .. } = command {
            self.saw(match answer {
                LockAnswer::Cancelled(Cancelled::Waited) => "the last attempt leaves the queue",
                LockAnswer::Cancelled(Cancelled::Held) => "the last attempt leaves what it holds",
                _ => "an attempt leaves",
            });
        }
        if matches!(answer, LockAnswer::Refused(Refusal::Ended { .. })) {
            self.saw("a claim that has ended comes again");
        }
        assert_eq!(LockAnswer::decode(answer.encode()), Ok(expected));
        answer
    }

    /// K1: guards, and what is shown.
    fn compare(&self, names: &[Bytes]) {
        for name in names {
            let shown = self.locks.inspect(name, self.model.time, usize::MAX);
            let holder = self.model.holder(name).map(|at| &self.model.rows[at]);
            let token = holder.map_or(0, |row| row.token);
            for guess in [0, token.saturating_sub(1), token, token + 1] {
                let guard = Guard {
                    name: name.clone(),
                    token: guess,
                };
                let passes = self.locks.stale(&[guard]).is_none();
                assert_eq!(
                    passes,
                    guess > 0 && guess == token,
                    "K1: {guess} of {token}"
                );
            }
            let Some((info, waiters)) = shown else {
                assert!(holder.is_none());
                continue;
            };
            let row = holder.expect("held");
            assert_eq!((info.token, &info.id), (row.token, &row.id));
            let left = self.model.given(row) - self.model.time;
            assert_eq!(info.left, Duration::from_micros(left));
            let mut queue: Vec<&Row> = self
                .model
                .at(name, Phase::Waits)
                .iter()
                .map(|at| &self.model.rows[*at])
                .collect();
            queue.sort_by_key(|row| (u8::MAX - row.priority, row.ticket));
            let ids: Vec<&Bytes> = queue.iter().map(|row| &row.id).collect();
            assert_eq!(waiters.iter().map(|w| &w.id).collect::<Vec<_>>(), ids, "K3");
        }
    }
}

fn run(seed: u64) -> BTreeMap<&'static str, u64> {
    let mut rng = Rng(seed);
    let mut world = World::default();
    let names: Vec<Bytes> = (0..3).map(|n| b(format!("lock {n}"))).collect();
    let (mut term, mut time) = (1, 1_000_000);
    for step in 0..300 {
        if rng.one_in(25) {
            term += 1;
            world.saw("a new term");
            if rng.one_in(2) {
                time += rng.below(400_000);
            }
        }
        time += match rng.below(10) {
            0..3 => 0,
            3..9 => rng.below(20_000),
            _ => rng.below(150_000),
        };
        let name = names[rng.below(3) as usize].clone();
        let id = b(match rng.one_in(3) {
            true => format!("{}", rng.below(30)),
            false => format!("new {step}"),
        });
        let token = match rng.one_in(6) {
            true => rng.below(world.last_token + 2),
            false => world.locks.current(&name),
        };
        let ttl = 10_000 + rng.below(90_000);
        let command = match rng.below(15) {
            0..6 => LockCommand::Acquire {
                name,
                id,
                ttl,
                wait: [0, 30_000, 200_000][rng.below(3) as usize],
                priority: if rng.one_in(4) { rng.below(3) as u8 } else { 0 },
                attempt: [rng.below(3), 1 + rng.below(12)][rng.below(2) as usize],
            },
            6 | 7 => LockCommand::Renew(vec![
                (name.clone(), token, if rng.one_in(3) { ttl } else { 0 }),
                (names[0].clone(), rng.below(9), 0),
            ]),
            8 | 9 => LockCommand::Release {
                name,
                token,
                forced: rng.one_in(4),
            },
            10 => LockCommand::Cancel { name, id },
            11 => LockCommand::Renew(Vec::new()),
            _ => {
                // One that is there, if any.
                let (id, attempt) = match world.locks.attempts.iter().nth(rng.below(4) as usize) {
                    Some(((_, id), all)) => (id.clone(), all.first().copied().unwrap_or(1)),
                    None => (id, 1),
                };
                LockCommand::Leave { name, id, attempt }
            }
        };
        world.step(term, time, &command);
        world.compare(&names);
        if rng.one_in(10) {
            world.saw("a restart");
            let loaded = Locks::load(kept(&world)).expect("records");
            // Its time is that of the last change.
            let mut changes = Changes::default();
            let mut again = loaded;
            again.advance(Term(term), time, &mut changes);
            assert!(changes.records.is_empty(), "K8: a deadline passed again");
            assert_eq!(again, world.locks, "K8");
            world.locks = again;
        }
    }
    world.seen
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
}

/// K1 to K6 and K8.
#[test]
fn the_locks_do_what_a_list_of_claims_says_and_come_back_from_their_records() {
    let one = number("ESKER_SEED");
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 0..number("ESKER_SEEDS").unwrap_or(300),
    };
    let mut seen = BTreeMap::new();
    for seed in seeds {
        let run = catch_unwind(AssertUnwindSafe(|| run(seed)));
        let run = run.unwrap_or_else(|_| panic!("ESKER_SEED={seed} replays it"));
        for (what, n) in run {
            *seen.entry(what).or_insert(0) += n;
        }
    }
    let rare = [
        "released",
        "expired",
        "forced",
        "cancelled",
        "waited too long",
        "queued",
        "a claim that has ended comes again",
        "a new term",
        "a restart",
        "an attempt leaves",
        "the last attempt leaves the queue",
        "the last attempt leaves what it holds",
    ];
    for what in rare.iter().filter(|_| one.is_none()) {
        assert!(seen.contains_key(what), "never seen: {what}");
    }
}

/// Each broken build is found by the test above.
#[cfg(feature = "sabotage")]
#[test]
fn each_broken_build_of_the_locks_is_found_within_50_seeds() {
    for sabotage in crate::sabotage::LOCKS {
        if *sabotage == Sabotage::LocksNotLoaded {
            continue;
        }
        Sabotage::set(Some(*sabotage));
        let found = (0..50).any(|seed| catch_unwind(|| run(seed)).is_err());
        Sabotage::set(None);
        assert!(found, "{sabotage:?}");
    }
}

fn acquire(name: &str, id: &str, ttl: u64, wait: u64) -> LockCommand {
    LockCommand::Acquire {
        name: b(name),
        id: b(id),
        ttl,
        wait,
        priority: 0,
        attempt: 0,
    }
}

fn tries(id: &str, attempt: u64) -> LockCommand {
    let mut command = acquire("a", id, 50_000, 900_000);
    if let LockCommand::Acquire { attempt: named, .. } = &mut command {
        *named = attempt;
    }
    command
}

/// K4: an attempt that leaves takes nothing from another that asks for the same claim, whether it waits or holds.
#[test]
fn k4_a_claim_ends_with_the_last_attempt_that_asks_for_it() {
    use Cancelled::{Ended, Held, Kept, Unknown, Waited};
    let mut world = World::default();
    let leave = |world: &mut World, id: &str, attempt, expected| {
        let (name, id) = (b("a"), b(id));
        let command = LockCommand::Leave { name, id, attempt };
        assert_eq!(world.told(&command), LockAnswer::Cancelled(expected));
    };
    leave(&mut world, "2", 7, Unknown);
    world.told(&tries("1", 5));
    world.told(&tries("2", 7));
    world.told(&tries("2", 8));
    leave(&mut world, "2", 7, Kept);
    leave(&mut world, "2", 7, Kept);
    leave(&mut world, "2", 8, Waited);
    // It never held, and may begin again.
    assert!(matches!(
        world.told(&tries("2", 9)),
        LockAnswer::Queued { .. }
    ));
    // Who does not wait takes nobody's place, and is nobody who waits.
    assert!(matches!(
        world.told(&acquire("a", "2", 50_000, 0)),
        LockAnswer::Busy { token: 1, .. }
    ));
    leave(&mut world, "2", 9, Waited);
    world.told(&tries("2", 9));
    // One without a name leaves never.
    world.told(&tries("3", 1));
    world.told(&tries("3", 0));
    leave(&mut world, "3", 1, Kept);
    // Who has asked is known of a grant too, and over a restart.
    world.told(&tries("1", 6));
    world.locks = Locks::load(kept(&world)).expect("records");
    leave(&mut world, "1", 5, Kept);
    leave(&mut world, "1", 6, Held);
    leave(&mut world, "1", 6, Ended);
    assert!(matches!(
        world.told(&tries("2", 9)),
        LockAnswer::Acquired { token: 2, .. }
    ));
    // So many that they are not told apart any more.
    for attempt in 20..20 + ATTEMPTS_MAX as u64 {
        world.told(&tries("2", attempt));
    }
    leave(&mut world, "2", 9, Kept);
    assert!(world.locks.attempts.is_empty());
}

/// K6: over a fail-over nobody loses what it could not renew, nor its place.
#[test]
fn k6_a_new_term_gives_holder_and_waiter_their_whole_time_again() {
    let mut world = World::default();
    world.step(1, 1_000_000, &acquire("a", "holds", 50_000, 0));
    world.step(1, 1_000_000, &acquire("a", "waits", 50_000, 30_000));
    // The clock of another leader, an hour ahead.
    let hour = 3_600_000_000;
    let renew = LockCommand::Renew(vec![(b("a"), 1, 0)]);
    world.step(2, hour, &LockCommand::Renew(Vec::new()));
    world.step(2, hour + 29_999, &LockCommand::Renew(Vec::new()));
    let (info, waiters) = world.locks.inspect(b"a", hour + 29_999, 9).expect("held");
    assert_eq!((info.token, info.left), (1, Duration::from_micros(20_001)));
    assert_eq!(waiters.len(), 1);
    world.step(2, hour + 49_999, &renew);
    assert_eq!(world.locks.current(b"a"), 1);
    // And no longer than that.
    world.step(2, hour + 99_999, &LockCommand::Renew(Vec::new()));
    assert_eq!(world.locks.current(b"a"), 0);
    assert_eq!(world.locks.next_due(), u64::MAX);
}

/// Renewals do not keep the time: a snapshot's is that of the last grant.
#[test]
fn no_more_is_left_than_a_whole_time_to_live() {
    let mut world = World::default();
    world.step(1, 1_000, &acquire("a", "holds", 50_000, 0));
    world.step(1, 1_000, &acquire("a", "waits", 50_000, 60_000));
    for time in 1..1_000 {
        let renew = LockCommand::Renew(vec![(b("a"), 1, 0)]);
        world.step(1, time * 40_000, &renew);
        world.step(1, time * 40_000, &acquire("a", "waits", 50_000, 60_000));
    }
    let locks = Locks::load(kept(&world)).expect("records");
    assert!(locks.time() < 40_000_000, "{}", locks.time());
    let (info, waiters) = locks.inspect(b"a", locks.time(), 9).expect("held");
    assert_eq!(info.left, Duration::from_micros(50_000));
    assert_eq!(waiters[0].left, Duration::from_micros(60_000));
}

/// K9.
#[test]
fn k9_what_is_too_much_is_refused_by_its_bound() {
    let mut locks = Locks::default();
    let mut run = |command: &LockCommand| {
        let mut changes = Changes::default();
        locks.advance(Term(1), 1, &mut changes);
        locks.run(command, &mut changes)
    };
    let long = "n".repeat(NAME_MAX + 1);
    let day = micros(TTL_MAX);
    for (command, refusal) in [
        (acquire("", "1", day, 0), Refusal::Name),
        (acquire(&long, "1", day, 0), Refusal::Name),
        (acquire("a", "", day, 0), Refusal::Id),
        (acquire("a", &long[..ID_MAX + 1], day, 0), Refusal::Id),
        (acquire("a", "1", 9_999, 0), Refusal::Ttl),
        (acquire("a", "1", day + 1, 0), Refusal::Ttl),
        (acquire("a", "1", day, day + 1), Refusal::Wait),
        (LockCommand::Renew(vec![(b("a"), 1, 1)]), Refusal::Ttl),
        (
            LockCommand::Cancel {
                name: b("a"),
                id: b(""),
            },
            Refusal::Id,
        ),
    ] {
        assert_eq!(run(&command), LockAnswer::Refused(refusal));
    }
    for n in 0..LOCKS_MAX {
        let answer = run(&acquire(&format!("{n}"), "1", day, 0));
        assert!(matches!(answer, LockAnswer::Acquired { .. }));
    }
    let full = LockAnswer::Refused(Refusal::TooManyLocks);
    assert_eq!(run(&acquire("one more", "1", day, 0)), full);
    for lock in 0..WAITING_MAX / WAITERS_MAX {
        for n in 0..WAITERS_MAX {
            let answer = run(&acquire(&format!("{lock}"), &format!("w{n}"), day, day));
            assert!(matches!(answer, LockAnswer::Queued { .. }));
        }
        let full = LockAnswer::Refused(Refusal::TooManyWaiters);
        assert_eq!(run(&acquire(&format!("{lock}"), "x", day, day)), full);
    }
    let full = LockAnswer::Refused(Refusal::TooManyWaiting);
    assert_eq!(run(&acquire("1000", "x", day, day)), full);
    // LS3: no entry of the log does more than so much, and all of it comes about.
    let mut passed = 0;
    while locks.next_due() < u64::MAX {
        let mut changes = Changes::default();
        locks.advance(Term(1), 1 + 2 * day, &mut changes);
        assert!(changes.records.len() < 20 * PASSED_MAX);
        passed += 1;
        assert!(passed < 100);
    }
    assert!(passed > 10);
    assert!(locks.ended.len() <= ENDED_MAX);
}

/// K4: at least so long, and of so many.
#[test]
fn k4_ended_claims_are_forgotten_by_age_and_number() {
    let mut world = World::default();
    let kept_for = micros(ENDED_KEPT);
    let cancel = |id: &str| LockCommand::Cancel {
        name: b("a"),
        id: b(id),
    };
    world.step(1, 1, &cancel("first"));
    let mut changes = Changes::default();
    world.locks.advance(Term(1), kept_for, &mut changes);
    world.locks.run(&cancel("second"), &mut changes);
    assert_eq!(world.locks.ended.len(), 2);
    world.locks.advance(Term(1), kept_for + 1, &mut changes);
    world.locks.run(&cancel("third"), &mut changes);
    assert_eq!(world.locks.ended.len(), 2);
    for n in 0..ENDED_MAX + 3 {
        world.locks.run(&cancel(&format!("{n}")), &mut changes);
    }
    assert_eq!(world.locks.ended.len(), ENDED_MAX);
    assert_eq!(world.locks.claims.len(), ENDED_MAX);
}

/// E2.
#[test]
fn e2_records_that_are_damaged_are_an_error() {
    let mut world = World::default();
    world.step(1, 1, &acquire("a", "1", 50_000, 0));
    world.step(1, 1, &tries("2", 7));
    world.step(
        1,
        1,
        &LockCommand::Cancel {
            name: b("b"),
            id: b("3"),
        },
    );
    let whole: Vec<(Bytes, Bytes)> = kept(&world).collect();
    assert_eq!(whole.len(), 5);
    for at in 0..whole.len() {
        let numbers = match whole[at].0[0] {
            b'h' => 49,
            b'w' => 32,
            _ => whole[at].1.len(),
        };
        for len in 0..numbers {
            let mut cut = whole.clone();
            cut[at].1.truncate(len);
            assert!(Locks::load(cut).is_err(), "{at} {len}");
        }
    }
    let orphan = whole.iter().filter(|(key, _)| key[0] != b'h').cloned();
    assert!(Locks::load(orphan).is_err());
}

/// E2: any bytes are a command or none; what is one takes effect without a panic, and says the same again in bytes.
#[test]
fn any_bytes_are_a_command_or_refused() {
    let mut commands = 0;
    for seed in 0..20_000u64 {
        let mut rng = Rng(seed);
        let mut locks = Locks::default();
        let (mut time, mut out) = (1, Changes::default());
        for _ in 0..4 {
            let number = |rng: &mut Rng| match rng.below(4) {
                0 => u64::MAX - rng.below(3),
                1 => rng.next() >> rng.below(64),
                _ => rng.below(5),
            };
            let name = b(format!("{}", rng.below(2)));
            let mut bytes = match rng.below(4) {
                0 => LockCommand::Renew(vec![(name, number(&mut rng), number(&mut rng))]),
                1 => LockCommand::Release {
                    name,
                    token: number(&mut rng),
                    forced: rng.one_in(2),
                },
                2 if rng.one_in(2) => LockCommand::Leave {
                    name,
                    id: b("id"),
                    attempt: number(&mut rng),
                },
                2 => LockCommand::Cancel { name, id: b("id") },
                _ => LockCommand::Acquire {
                    name,
                    id: b(format!("{}", rng.below(3))),
                    ttl: number(&mut rng),
                    wait: number(&mut rng),
                    priority: rng.next() as u8,
                    attempt: number(&mut rng),
                },
            }
            .encode()
            .to_vec();
            for _ in 0..rng.below(3) {
                let at = rng.below(bytes.len() as u64) as usize;
                match rng.below(3) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes[at] = rng.next() as u8,
                    _ => bytes.insert(at, rng.next() as u8),
                }
            }
            let bytes = Bytes::from(bytes);
            let Ok(command) = LockCommand::decode(bytes.clone()) else {
                continue;
            };
            commands += 1;
            assert_eq!(command.encode()[1..], bytes[1..], "seed {seed}");
            time += rng.below(100_000);
            locks.advance(Term(1), time, &mut out);
            locks.run(&command, &mut out);
        }
        locks.advance(Term(2), time + (1 << 50), &mut out);
    }
    assert!(commands > 20_000, "{commands}");
}

/// E2: records that are not what was written are refused, or are other locks.
#[test]
fn any_records_load_or_are_refused() {
    let (mut loaded, mut refused) = (0, 0);
    for seed in 0..20_000u64 {
        let mut rng = Rng(seed);
        let (mut locks, mut out) = (Locks::default(), Changes::default());
        for n in 0..5 {
            let command = LockCommand::Acquire {
                name: b(format!("{}", n / 3)),
                id: b(format!("{n}")),
                ttl: 1_000_000,
                wait: n % 3 * 1_000_000,
                priority: 1,
                attempt: n,
            };
            locks.run(&command, &mut out);
        }
        let cancel = LockCommand::Cancel {
            name: b("2"),
            id: b("none"),
        };
        locks.run(&cancel, &mut out);
        let mut kept: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (key, value) in out.records {
            match value {
                Some(value) => kept.insert(key, value),
                None => kept.remove(&key),
            };
        }
        let nth = rng.below(kept.len() as u64) as usize;
        let (key, value) = kept.iter().nth(nth).expect("counted");
        let (mut key, mut value) = (key.clone(), value.clone());
        kept.remove(&key);
        let bytes = if rng.one_in(2) { &mut key } else { &mut value };
        let at = rng.below(bytes.len() as u64) as usize;
        match rng.below(3) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << rng.below(8),
            _ => bytes.insert(at, rng.next() as u8),
        }
        if !key.is_empty() {
            kept.insert(key, value);
        }
        let records = kept.into_iter().map(|(k, v)| (k.into(), v.into()));
        match Locks::load(records) {
            Ok(locks) => {
                loaded += 1;
                for name in [b("0"), b("1"), b("2")] {
                    locks.inspect(&name, 7, 10);
                }
            }
            Err(_) => refused += 1,
        }
    }
    assert!(loaded > 1_000 && refused > 1_000, "{loaded} {refused}");
}
