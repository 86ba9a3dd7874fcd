//! What the threads of a node share, and say to each other.
//!
//! Queues: clients' requests and packets are bounded and refuse or lose what is too much; what the node's own threads say to each other is
//! bounded by what the driver lets be on its way (uncommitted bytes, bytes being applied, one fetch and one snapshot per peer).

use super::about::About;
use super::driver::Driver;
use super::error::{LeaderHint, Outcome, ReadError};
use super::machine::Arriving;
use super::status::{Stages, Status};
use crate::core::{Change, Entry, Index, LogId, Membership, NodeId, SnapshotMeta, Term};
use crate::log::LogReader;
use crate::transport::{Content, Packet, Sender, Transport};
use crossbeam_channel::Sender as Channel;
use esker_sync::baton::Baton;
use esker_sync::bell::Bell;
use esker_sync::oneshot::Promise;
use esker_sync::wanted::Wanted;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What clients ask for.
pub(super) enum Request {
    Propose {
        request: Vec<u8>,
        promise: Promise<Outcome>,
        deadline: Instant,
        /// Send it to the leader where this node is none.
        forward: bool,
    },
    Read {
        promise: Promise<Result<Index, ReadError>>,
        deadline: Instant,
    },
    Change {
        change: Change,
        promise: Promise<Outcome>,
        deadline: Instant,
    },
    AddVoter {
        node: NodeId,
        about: About,
        promise: Promise<Outcome>,
        deadline: Instant,
    },
    Transfer(NodeId),
    Campaign,
    Checkpoint(Promise<Result<Index, String>>),
    Status(Promise<Status>),
}

/// What the node's own threads report to the driver.
pub(super) enum Event {
    Synced(u64),
    Applied {
        to: LogId,
        durable: Index,
    },
    Fetched {
        to: NodeId,
        entries: Vec<Entry>,
    },
    FetchFailed {
        to: NodeId,
    },
    /// A snapshot, or that there is none: more may be durable now.
    Prepared,
    SnapshotSent {
        to: NodeId,
        last: Option<Index>,
    },
    SnapshotArrived {
        from: NodeId,
        term: Term,
        meta: SnapshotMeta,
        arrived: Box<dyn Arriving>,
    },
    /// The log or the state machine can't go on.
    Failed(String),
    Stop,
}

/// Turns that who brings something takes; then the driver's thread goes on.
const TURNS_MAX: usize = 2;

/// Who drives (DR6).
#[derive(Default)]
struct Wheel {
    baton: Baton,
    /// Taken by who holds the baton; the driver's thread looks into it. Empty before the start and behind the end.
    driver: Mutex<Option<Driver>>,
    /// The baton was left to the driver's thread.
    handed: AtomicBool,
    bell: Bell,
}

pub(super) struct Shared {
    wheel: Wheel,
    pub(super) me: Sender,
    pub(super) transport: OnceLock<Arc<dyn Transport>>,
    /// Longer replies are not sent to other nodes.
    pub(super) reply_bytes_max: OnceLock<usize>,
    pub(super) events: Channel<Event>,
    pub(super) requests: Channel<Request>,
    /// Whether who has put a request in line has it taken (DR2).
    pub(super) wanted: Wanted,
    started: Instant,
    /// Bytes of packets that wait for the driver.
    pub(super) packet_bytes: AtomicUsize,
    pub(super) disk_full: AtomicBool,
    /// The same of the state machine's (AP4).
    pub(super) state_full: AtomicBool,
    /// When the state machine's last commit ended, as `nanos` has it (DR5).
    committed: AtomicU64,
    /// Groups of writes that the log was synced for (DK1).
    pub(super) groups: AtomicU64,
    pub(super) log: Arc<dyn LogReader>,
    term: AtomicU64,
    /// Replicated time, as far as it is applied.
    pub(super) time: AtomicU64,
    leader: Mutex<Option<LeaderHint>>,
    pub(super) stages: Stages,
    /// Why the node has stopped.
    pub(super) down: Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn new(
        me: Sender,
        events: Channel<Event>,
        requests: Channel<Request>,
        log: Arc<dyn LogReader>,
    ) -> Shared {
        Shared {
            wheel: Wheel::default(),
            me,
            transport: OnceLock::new(),
            reply_bytes_max: OnceLock::new(),
            events,
            requests,
            wanted: Wanted::default(),
            started: Instant::now(),
            packet_bytes: AtomicUsize::new(0),
            disk_full: AtomicBool::new(false),
            state_full: AtomicBool::new(false),
            committed: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            log,
            term: AtomicU64::new(0),
            time: AtomicU64::new(0),
            leader: Mutex::new(None),
            stages: Stages::default(),
            down: Mutex::new(None),
        }
    }

    /// To the driver; nobody listens any more when it has ended.
    pub(super) fn report(&self, event: Event) {
        let _ = self.events.send(event);
        self.drive();
    }

    /// Time as `wanted` has it.
    pub(super) fn nanos(&self, at: Instant) -> u64 {
        at.duration_since(self.started).as_nanos() as u64
    }

    /// The state machine has ended a commit.
    pub(super) fn commit_ended(&self) {
        // Relaxed, here and below: a time that says nothing of anything else.
        (self.committed).store(self.nanos(Instant::now()), Ordering::Relaxed);
    }

    pub(super) fn committed_at(&self) -> Instant {
        self.started + Duration::from_nanos(self.committed.load(Ordering::Relaxed))
    }

    /// Requests were put in line just before `now`: they are taken, unless the driver takes them later with those that come until then (DR2).
    pub(super) fn drive_requests(&self, now: Instant) {
        if self.wanted.is(self.nanos(now)) {
            self.drive();
        }
    }

    /// Something was put into one of the driver's queues: it is taken at once, by this thread where no other is at it (DR6).
    pub(super) fn drive(&self) {
        if self.wheel.baton.arrive() {
            self.turns(TURNS_MAX);
        }
    }

    /// The same for requests, by the driver's thread: for who has more to bring.
    pub(super) fn have_requests_driven(&self, now: Instant) {
        if self.wanted.is(self.nanos(now)) && self.wheel.baton.arrive() {
            self.hand_on();
        }
    }

    fn hand_on(&self) {
        self.wheel.handed.store(true, Ordering::Release);
        self.wheel.bell.ring();
    }

    /// For who holds the baton.
    fn turns(&self, turns_max: usize) {
        let ends = EndsIfPanics(self);
        let laid_down = self.wheel.baton.run(turns_max, || {
            let mut driver = self.wheel.driver.lock();
            let more = driver.as_mut().is_some_and(Driver::turn);
            if driver.as_ref().is_some_and(Driver::is_ended) {
                // Its queues end with it, and by them the other threads.
                let ended = driver.take();
                drop(driver);
                ended.into_iter().for_each(Driver::end);
                self.wheel.bell.ring();
            }
            more
        });
        std::mem::forget(ends);
        if !laid_down {
            self.hand_on();
        }
    }

    /// The driver's thread: takes turns that are left to it, and one at each tick.
    pub(super) fn run_driver(&self, mut driver: Driver) {
        driver.begin();
        *self.wheel.driver.lock() = Some(driver);
        // What came before there was one.
        let mut held = self.wheel.baton.arrive();
        loop {
            if held {
                self.turns(usize::MAX);
            }
            let Some(tick) = self.wheel.driver.lock().as_ref().map(Driver::next_tick) else {
                return;
            };
            let rang = self.wheel.bell.wait(Some(tick));
            held = self.wheel.handed.swap(false, Ordering::AcqRel)
                || (!rang && self.wheel.baton.arrive());
        }
    }

    pub(super) fn send(&self, to: NodeId, content: Content) {
        if let Some(transport) = self.transport.get() {
            let from = self.me;
            transport.send(Packet { from, to, content });
        }
    }

    pub(super) fn term(&self) -> Term {
        // Relaxed: a newer term reaches whoever it matters to in a message.
        Term(self.term.load(Ordering::Relaxed))
    }

    /// Who leads, as far as the driver knew a moment ago.
    pub(super) fn hint(&self) -> Option<LeaderHint> {
        self.leader.lock().clone()
    }

    pub(super) fn changed(&self, term: Term, leader: Option<NodeId>, membership: &Membership) {
        self.term.store(term.0, Ordering::Relaxed);
        *self.leader.lock() = leader.map(|node| LeaderHint {
            node,
            client: (membership.about.get(&node))
                .and_then(|about| About::decode(about).ok())
                .map_or_else(String::new, |about| about.client),
        });
    }
}

/// A driver that panics ends the node, whoever's thread it was. Forgotten where it does not.
struct EndsIfPanics<'a>(&'a Shared);

impl Drop for EndsIfPanics<'_> {
    fn drop(&mut self) {
        *self.0.down.lock() = Some("a defect; the panic is in the log".into());
        let driver = self.0.wheel.driver.lock().take();
        drop(driver);
        self.0.wheel.bell.ring();
    }
}
