//! The driver: it owns the core, and carries out what it asks for.
//!
//! - DR1: it never blocks: it does no I/O that waits, and waits for no other thread. What takes time is done by others, who report.
//! - DR2: whatever has gathered is taken together: proposals become one append. While a leader's disk has one group to sync and another to write, and
//!   answers, requests gather: they would be synced no sooner. Where the log never waits they gather while a group is being applied and another waits
//!   for that. Who brings a request meanwhile need not say so: the end of what they gather for is what takes them.
//! - DR3: entries are given to be applied once they are committed and synced here, so that a state machine is never ahead of its own log
//!   (L3), and no more than `apply_bytes_max` at a time.
//! - DR4: each proposal is answered once: applied; refused; superseded; or *unknown*, when its deadline passes, or an election timeout
//!   after this node stopped leading, or where a snapshot covers its place, or at the end. One that was forwarded, when another node is known to lead, too: an
//!   election timeout after that, or at once where nothing was heard of a leader for as long before. What was given to be applied is in the state machine's
//!   hands: where that stands still, who waits ends the wait itself ([`super::PendingReply`]).
//! - DR5: a leader whose disk has not answered within `disk_hang_max`, or whose state machine has waited for room as long (AP4), or has finished nothing within
//!   `apply_hang_max` of what it was given, steps down; a node of which that is so does not campaign, votes, and follows.
//! - DR6: it takes turns in the thread that brings it something, where no other is at it: a client's, the transport's, the disk's. So a request goes
//!   to the disk and to the peers, and an answer of the disk or a peer on its way, without a thread being woken between. Its own thread takes the
//!   turns of the clock, and goes on where others have brought more meanwhile than they should deal with.
//! - DR7: where the membership does not say where clients reach this node, it tells who leads, again and again until the membership does. So a hint
//!   names also a leader that has just been elected.

use super::about::About;
use super::apply::{self, Replier};
use super::clock::{LeaderClock, boot_micros, wall_micros};
use super::disk;
use super::error::{ProposeError, outcome};
use super::files;
use super::heard::Heard;
use super::kept::{self, Kept};
use super::members::{self, Members, Speaker};
use super::options::NodeOptions;
use super::prepare::Purpose;
use super::proposals::{self, Appended, Asked, Proposal};
use super::reads::Reads;
use super::request::{announce, announced, is_request, stamp};
use super::shared::{Event, Request, Shared};
use super::status::Status;
use crate::core::{
    Answer, Body, Core, Entry, Envelope, Index, Input, NodeId, Outputs, Refusal, RoleName,
    SnapshotMeta, Token, Write,
};
use crate::transport::{Content, Packet};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use esker_sync::deadline::after;
use esker_sync::oneshot::Promise;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Taken of each queue in one turn, at most.
const TURN_MAX: usize = 1024;
/// Groups that the disk has not synced, or that are not applied, from which requests gather; and how long they do at most, as for a disk that hangs.
const GATHER_FROM: usize = 2;
const GATHER_TIME_MAX: Duration = Duration::from_millis(2);

/// A proposal that was sent to the leader.
struct Forwarded {
    to: NodeId,
    promise: Promise<super::Outcome>,
    deadline: Instant,
}

/// Entries that are being applied.
struct Applying {
    to: Index,
    bytes: usize,
    since: Instant,
}

pub(super) struct Queues {
    pub(super) events: Receiver<Event>,
    pub(super) requests: Receiver<Request>,
    pub(super) packets: Receiver<Packet>,
    pub(super) disk: disk::Storage,
    pub(super) apply: Sender<apply::Job>,
    pub(super) files: Sender<files::Job>,
}

pub(super) struct Driver {
    core: Core,
    shared: Arc<Shared>,
    options: NodeOptions,
    queues: Queues,
    next_token: Token,
    clock: LeaderClock,
    heard: Heard,
    /// Not answered by the core yet.
    asked: Asked,
    /// In the log, not applied.
    appended: Appended,
    reads: Reads,
    /// At the leader.
    forwarded: HashMap<u64, Forwarded>,
    /// Since it knows no leader it heard of none for an election timeout.
    deserted: bool,
    /// Who puts a request in line before this says nothing (DR2).
    declined: Option<Instant>,
    /// Given to be applied up to here; applied; durable in the machine.
    given: Index,
    applied: Index,
    durable: Index,
    applying: VecDeque<Applying>,
    applying_bytes: usize,
    /// (number, when) of writes that are not stable.
    unsynced: VecDeque<(u64, Instant)>,
    /// Up to here the stages are counted.
    counted_synced: Index,
    counted_committed: Index,
    led: bool,
    /// DR5.
    holds_back: bool,
    /// When proposals of a lost leadership become unknown.
    grace: Option<Instant>,
    arrived: Option<Box<dyn super::Arriving>>,
    members: Members,
    compacted: Index,
    kept: Kept,
    tick: Instant,
    ended: bool,
}

impl Driver {
    pub(super) fn new(
        core: Core,
        shared: Arc<Shared>,
        options: NodeOptions,
        queues: Queues,
        applied: Index,
        durable: Index,
    ) -> Driver {
        let client = options.client.clone();
        let members = Members::new(core.id(), shared.me.disk, client);
        Driver {
            given: applied,
            applied,
            durable,
            compacted: core.base().index,
            core,
            shared,
            options,
            queues,
            next_token: 0,
            clock: LeaderClock::default(),
            heard: Heard::default(),
            asked: Asked::default(),
            appended: Appended::default(),
            reads: Reads::default(),
            forwarded: HashMap::new(),
            deserted: false,
            declined: None,
            applying: VecDeque::new(),
            applying_bytes: 0,
            unsynced: VecDeque::new(),
            counted_synced: Index(0),
            counted_committed: Index(0),
            led: false,
            holds_back: false,
            grace: None,
            arrived: None,
            members,
            kept: Kept::default(),
            tick: Instant::now(),
            ended: false,
        }
    }

    /// Before the first turn.
    pub(super) fn begin(&mut self) {
        self.tick = Instant::now() + self.options.tick;
        self.changed();
        self.give();
    }

    pub(super) fn next_tick(&self) -> Instant {
        self.tick
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Takes what has come; true if there may be more.
    pub(super) fn turn(&mut self) -> bool {
        let mut left = TURN_MAX;
        while left > 0
            && !self.ended
            && let Ok(event) = self.queues.events.try_recv()
        {
            self.event(event);
            left -= 1;
        }
        let mut more = left == 0;
        left = TURN_MAX;
        while left > 0
            && !self.ended
            && let Ok(packet) = self.queues.packets.try_recv()
        {
            self.packet(packet);
            left -= 1;
        }
        more |= left == 0;
        let now = Instant::now();
        if !self.ended && self.gathers(now).is_none() {
            if self.declined.take().is_some() {
                self.shared.wanted.accept();
            }
            if let Ok(request) = self.queues.requests.try_recv() {
                self.requests(request);
            }
        }
        match self.gathers(now) {
            Some(until) if self.declined != Some(until) => {
                self.declined = Some(until);
                self.shared.wanted.decline(self.shared.nanos(until));
            }
            Some(_) => {}
            None => more |= !self.queues.requests.is_empty(),
        }
        if now >= self.tick {
            // One, however many were missed: what was stopped for a while does not know that nobody spoke.
            self.tick = now + self.options.tick;
            self.tick(now);
        }
        more && !self.ended
    }

    /// DR2: whether requests gather, and until when at most. What the disk reports is followed by another turn, and so is what was applied.
    fn gathers(&self, now: Instant) -> Option<Instant> {
        let since = match self.queues.disk.never_waits() {
            true => (self.applying.get(GATHER_FROM - 1)).map(|_| self.applying[0].since),
            false => (self.unsynced.get(GATHER_FROM - 1)).map(|_| self.unsynced[0].1),
        };
        since
            .filter(|_| self.core.role() == RoleName::Leader)
            .map(|since| since + GATHER_TIME_MAX)
            .filter(|until| now < *until)
    }

    fn step(&mut self, input: Input) {
        let out = self.core.step(boot_micros(), input);
        self.carry_out(out);
    }

    fn carry_out(&mut self, out: Outputs) {
        let Outputs {
            writes,
            seq,
            messages,
            committed,
            answers,
            fetches,
            snapshots,
            changed,
        } = out;
        for Envelope { to, message } in messages {
            self.shared.send(to, Content::Raft(message));
        }
        // A follower's membership changes with what is appended to its log, or cut from it.
        let changed = changed || !writes.is_empty() && !self.members.is_at(self.core.membership());
        let mut stored = None;
        if !writes.is_empty() {
            let queued = !self.unsynced.is_empty();
            self.unsynced.push_back((seq, Instant::now()));
            self.kept.wrote(&writes);
            let after = self.installed_by(&writes);
            stored = self.queues.disk.write(seq, writes, after, queued);
        }
        let appended = (answers.iter()).filter_map(|(token, answer)| match answer {
            Answer::Appended(_) => self.asked.started(*token),
            _ => None,
        });
        proposals::record(&self.shared.stages.appended, appended);
        for (token, answer) in answers {
            self.answer(token, answer);
        }
        if changed {
            self.changed();
        }
        if let Some(to) = committed {
            // Its own sync may be what committed them: they are counted for that before they go.
            self.count_synced();
            self.count_committed(to);
            self.give();
        }
        for fetch in fetches {
            let last = self.core.last().index;
            let _ = self.queues.files.send(files::Job::Fetch(fetch, last));
        }
        for to in snapshots {
            self.kept.sending(to, self.applied);
            let term = self.core.term();
            let purpose = Purpose::Offer { to, term };
            let _ = self.queues.apply.send(apply::Job::Snapshot(purpose));
        }
        if let Some(event) = stored {
            self.event(event);
        }
    }

    /// A snapshot that the core took: it is installed before the log says so (DK3).
    fn installed_by(&mut self, writes: &[Write]) -> Option<Receiver<()>> {
        let meta = writes.iter().find_map(|w| match w {
            Write::Snapshot(meta) => Some(meta.clone()),
            _ => None,
        })?;
        let arrived = self.arrived.take()?;
        let (done, after) = crossbeam_channel::bounded(1);
        // DR4: they may be in it.
        for covered in self.appended.take(meta.last.index) {
            let unknown = self.unknown("a snapshot took its place in the log");
            covered.replier.tell(&self.shared, Err(unknown));
        }
        self.given = meta.last.index;
        self.compacted = meta.last.index;
        self.applying.clear();
        self.applying_bytes = 0;
        let _ = self.queues.apply.send(apply::Job::Install {
            arrived,
            meta,
            done,
        });
        Some(after)
    }

    /// DR3.
    fn give(&mut self) {
        let to = self.core.committed().min(self.core.synced());
        while self.given < to && self.applying_bytes < self.options.apply_bytes_max {
            let from = self.given.next();
            let room = self.options.apply_bytes_max - self.applying_bytes;
            let entries = self.core.entries(from, room).map(|mut entries| {
                entries.retain(|e| e.id.index <= to);
                entries
            });
            let (upto, bytes) = match &entries {
                Some(entries) => match entries.last() {
                    Some(last) => {
                        let bytes = entries.iter().map(Entry::weight).sum();
                        (last.id.index, bytes)
                    }
                    None => return,
                },
                // Read from the log, in pieces, by who applies them; nothing else is given meanwhile.
                None => (to, self.options.apply_bytes_max),
            };
            let waiting = self.appended.take(upto);
            self.given = upto;
            self.applying.push_back(Applying {
                to: upto,
                bytes,
                since: Instant::now(),
            });
            self.applying_bytes += bytes;
            let _ = self.queues.apply.send(apply::Job::Apply {
                to: upto,
                entries,
                waiting,
            });
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Synced(seq) => {
                while self.unsynced.front().is_some_and(|(s, _)| *s <= seq) {
                    self.unsynced.pop_front();
                }
                self.step(Input::Synced(seq));
                self.count_synced();
                self.give();
            }
            Event::Applied { to, durable } => {
                self.applied = self.applied.max(to.index);
                self.durable = durable;
                while let Some(group) = self.applying.front()
                    && group.to <= to.index
                {
                    self.applying_bytes -= group.bytes;
                    self.applying.pop_front();
                }
                self.reads.ripen(to.index);
                self.compact();
                self.give();
            }
            Event::Prepared => {
                let _ = self.queues.apply.send(apply::Job::Report);
            }
            Event::Fetched { to, entries } => self.step(Input::Fetched { to, entries }),
            Event::FetchFailed { to } => self.step(Input::FetchFailed { to }),
            Event::SnapshotSent { to, last } => {
                self.kept.sent(to, last.is_some());
                self.step(Input::SnapshotSent { to, last });
            }
            Event::SnapshotArrived {
                from,
                term,
                meta,
                arrived,
            } => {
                self.arrived = Some(arrived);
                let message = crate::core::Message {
                    term,
                    body: Body::Snapshot(meta),
                };
                self.step(Input::Message { from, message });
                // Where it was not taken it is of no use.
                self.arrived = None;
            }
            Event::Failed(why) => {
                tracing::error!(why, node = %self.core.id(), "the node stops");
                *self.shared.down.lock() = Some(why);
                self.ended = true;
            }
            Event::Stop => self.ended = true,
        }
    }

    fn packet(&mut self, packet: Packet) {
        let from = packet.from.node;
        let bytes = super::weight(&packet.content);
        self.shared.packet_bytes.fetch_sub(bytes, Ordering::Relaxed);
        match self.members.speaker(from, packet.from.disk) {
            Speaker::Itself => {}
            Speaker::Unbound => self.bind(from, packet.from.disk),
            Speaker::AnotherDisk => {
                tracing::warn!(%from, "a node speaks under an id that belongs to another disk: remove it and add it anew");
                return;
            }
        }
        match packet.content {
            // It says that a snapshot has arrived here, which nobody else can know.
            Content::Raft(message) if matches!(message.body, Body::Snapshot(_)) => {}
            Content::Raft(message) => self.step(Input::Message { from, message }),
            Content::Forward { id, request } => {
                if let Some(client) = announced(&request) {
                    self.describe(from, |about| client.clone_into(&mut about.client));
                    return;
                }
                let replier = Replier::Remote(from, id);
                let name = (from, packet.from.epoch, id);
                if !is_request(&request) || !self.heard.is_first(name) {
                    return;
                }
                let deadline = after(self.options.request_timeout);
                self.propose(vec![(request.into(), replier, deadline)]);
            }
            Content::Forwarded { id, outcome: bytes } => {
                if let Some(forwarded) = self.forwarded.remove(&id) {
                    forwarded.promise.keep(outcome(bytes).unwrap_or_else(|e| {
                        Err(self.unknown(&format!("the leader's answer makes no sense: {e}")))
                    }));
                }
            }
            _ => {}
        }
    }

    /// On a leader: `node` is known by `disk`, where it was by none (MB1).
    fn bind(&mut self, node: NodeId, disk: u64) {
        self.describe(node, |about| {
            if about.disk == 0 {
                about.disk = disk;
            }
        });
    }

    /// On a leader: changes what the membership says of a member.
    fn describe(&mut self, node: NodeId, change: impl FnOnce(&mut About)) {
        if self.core.role() == RoleName::Leader
            && let Some(change) = members::described(self.core.membership(), node, change)
        {
            let token = self.token();
            // Refused where a change is under way: who wants it tries again.
            self.step(Input::Change(token, change));
        }
    }

    /// DR7.
    fn announce(&mut self, now: Instant) {
        if !(self.members).is_to_announce(now, self.core.membership()) {
            return;
        }
        let me = self.core.id();
        match self.core.leader() {
            Some(leader) if leader == me => {
                let client = self.options.client.clone();
                self.describe(me, |about| about.client = client);
            }
            Some(leader) => {
                let request = announce(&self.options.client);
                self.shared
                    .send(leader, Content::Forward { id: 0, request });
            }
            None => {}
        }
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        self.next_token
    }

    /// DR2.
    fn requests(&mut self, first: Request) {
        let mut proposals = Vec::new();
        let mut next = Some(first);
        for _ in 0..TURN_MAX {
            let Some(request) = next.take() else {
                break;
            };
            match request {
                Request::Propose {
                    request,
                    promise,
                    deadline,
                    forward,
                } => {
                    let leads = self.core.role() == RoleName::Leader;
                    match self.core.leader() {
                        Some(leader) if forward && !leads => {
                            let id = self.token() ^ self.shared.me.epoch;
                            let forwarded = Forwarded {
                                to: leader,
                                promise,
                                deadline,
                            };
                            self.forwarded.insert(id, forwarded);
                            let request = request.into();
                            self.shared.send(leader, Content::Forward { id, request });
                        }
                        _ => proposals.push((request, Replier::Local(promise), deadline)),
                    }
                }
                other => {
                    // In the order in which they came.
                    self.propose(std::mem::take(&mut proposals));
                    self.request(other);
                }
            }
            next = self.queues.requests.try_recv().ok();
        }
        self.propose(proposals);
        if let Some(request) = next {
            self.request_one(request);
        }
    }

    fn request_one(&mut self, request: Request) {
        match request {
            Request::Propose {
                request,
                promise,
                deadline,
                ..
            } => self.propose(vec![(request, Replier::Local(promise), deadline)]),
            other => self.request(other),
        }
    }

    fn propose(&mut self, proposals: Vec<(Vec<u8>, Replier, Instant)>) {
        if proposals.is_empty() {
            return;
        }
        let started = Instant::now();
        // Relaxed: a time that is a little older is made up for by the next.
        let applied = self.shared.time.load(Ordering::Relaxed);
        let term = self.core.term();
        let time = (self.clock).now(term, boot_micros(), wall_micros(), applied);
        let mut commands = Vec::with_capacity(proposals.len());
        for (mut request, replier, deadline) in proposals {
            if request.len() > self.options.command_bytes_max {
                let why = format!(
                    "the command has {} bytes, and may have {}",
                    request.len(),
                    self.options.command_bytes_max
                );
                let leader = None;
                replier.tell(&self.shared, Err(ProposeError::NotAppended { why, leader }));
                continue;
            }
            stamp(&mut request, time);
            let token = self.ask(replier, started, deadline);
            commands.push((token, Bytes::from(request)));
        }
        self.step(Input::Propose(commands));
    }

    /// The token under which the core is asked for what `replier` wants.
    fn ask(&mut self, replier: Replier, started: Instant, deadline: Instant) -> Token {
        let token = self.token();
        let proposal = Proposal {
            replier,
            started,
            deadline,
        };
        self.asked.insert(token, proposal);
        token
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Propose { .. } => unreachable!("taken by the caller"),
            Request::Read { promise, deadline } => {
                let token = self.token();
                self.reads.insert(token, promise, deadline);
                self.step(Input::Read(token));
            }
            Request::Change {
                change,
                promise,
                deadline,
            } => {
                let token = self.ask(Replier::Local(promise), Instant::now(), deadline);
                self.step(Input::Change(token, change));
            }
            Request::AddVoter {
                node,
                about,
                promise,
                deadline,
            } => {
                let token = self.ask(Replier::Local(promise), Instant::now(), deadline);
                self.step(Input::AddVoter(token, node, about.encode()));
            }
            Request::Transfer(to) => self.step(Input::Transfer(to)),
            Request::Campaign => self.step(Input::Campaign),
            Request::Checkpoint(promise) => {
                let purpose = Purpose::Durable(promise);
                let _ = self.queues.apply.send(apply::Job::Snapshot(purpose));
            }
            Request::Status(promise) => promise.keep(self.status()),
        }
    }

    fn answer(&mut self, token: Token, answer: Answer) {
        match answer {
            Answer::Appended(id) => {
                let Some(proposal) = self.asked.remove(token) else {
                    return;
                };
                if id.index <= self.given {
                    // A learner that was one already.
                    let reply = super::Reply {
                        index: id.index,
                        term: id.term,
                        payload: Bytes::new(),
                    };
                    proposal.replier.tell(&self.shared, Ok(reply));
                } else {
                    for before in self.appended.insert(id, proposal) {
                        let unknown = self.unknown("another proposal took its place in the log");
                        before.replier.tell(&self.shared, Err(unknown));
                    }
                }
            }
            Answer::Refused(refusal) => {
                let leader = self.shared.hint();
                let Some(proposal) = self.asked.remove(token) else {
                    return self.reads.refuse(token, leader);
                };
                // Who leads stands beside the reason.
                let why = match refusal {
                    Refusal::NotLeader { .. } => "this node does not lead".to_owned(),
                    refusal => refusal.to_string(),
                };
                let error = ProposeError::NotAppended { why, leader };
                proposal.replier.tell(&self.shared, Err(error));
            }
            Answer::ReadAt(index) => self.reads.confirm(token, index, self.applied),
        }
    }

    fn unknown(&self, why: &str) -> ProposeError {
        ProposeError::Unknown {
            why: why.to_owned(),
            leader: self.shared.hint(),
        }
    }

    /// Role, term, leader or membership changed.
    fn changed(&mut self) {
        let leads = self.core.role() == RoleName::Leader;
        let grace = Instant::now() + self.options.tick * self.options.core.election_ticks;
        if self.led && !leads {
            self.grace = Some(grace);
        }
        match self.core.leader() {
            None => self.deserted |= !self.core.hears_leader(),
            Some(leader) => {
                // Whom it was sent to may be gone. Where it was silent for so long already, its answers would have come.
                let grace = match std::mem::take(&mut self.deserted) {
                    true => Instant::now(),
                    false => grace,
                };
                for forwarded in self.forwarded.values_mut().filter(|f| f.to != leader) {
                    forwarded.deadline = forwarded.deadline.min(grace);
                }
            }
        }
        if leads {
            self.grace = None;
        }
        self.led = leads;
        let membership = self.core.membership();
        self.shared
            .changed(self.core.term(), self.core.leader(), membership);
        tracing::debug!(node = %self.core.id(), what = self.core.explain(), "changed");
        self.follow_membership();
    }

    /// Whoever is in the membership can be reached, and is known by its disk.
    fn follow_membership(&mut self) {
        let Some(followed) = self.members.follow(self.core.membership()) else {
            return;
        };
        if let Some(transport) = self.shared.transport.get() {
            transport.members(&followed.addresses);
        }
        self.step(Input::Stranger(followed.stranger));
        self.bind(self.core.id(), self.shared.me.disk);
    }

    fn tick(&mut self, now: Instant) {
        let hangs = self.disk_hangs(now);
        if hangs && self.core.role() == RoleName::Leader {
            tracing::warn!(node = %self.core.id(), "its disk, or its state machine, does not answer: it gives up leading");
            self.step(Input::StepDown);
        }
        // DR5. Time passes all the same: what it has heard of a leader gets old, and its vote may be needed.
        if hangs != self.holds_back {
            self.holds_back = hangs;
            self.step(Input::HoldBack(hangs));
        }
        self.step(Input::Tick);
        self.follow_membership();
        self.bind(self.core.id(), self.shared.me.disk);
        self.announce(now);
        self.expire(now);
        self.compact();
    }

    fn disk_hangs(&self, now: Instant) -> bool {
        let long = |since: Instant| now.duration_since(since) > self.options.disk_hang_max;
        let full = self.shared.state_full.load(Ordering::Relaxed);
        let state_hangs = |group: &Applying| {
            // One group may be a long part of the log.
            let stands = now.duration_since(group.since.max(self.shared.committed_at()));
            full && long(group.since) || stands > self.options.apply_hang_max
        };
        (self.unsynced.front()).is_some_and(|(_, since)| long(*since))
            || self.applying.front().is_some_and(state_hangs)
    }

    /// DR4.
    fn expire(&mut self, now: Instant) {
        let lost = self.grace.is_some_and(|at| at <= now);
        if lost {
            self.grace = None;
        }
        for proposal in (self.appended).take_late(|p| lost || p.deadline <= now) {
            let unknown = self.unknown(match lost {
                true => "this node stopped leading before it was committed",
                false => "it was not committed in time",
            });
            proposal.replier.tell(&self.shared, Err(unknown));
        }
        let late: Vec<u64> = (self.forwarded.iter())
            .filter(|(_, f)| f.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            let promise = self.forwarded.remove(&id).expect("just seen").promise;
            promise.keep(Err(self.unknown("the leader did not answer in time")));
        }
        self.reads.expire(now);
    }

    /// See `kept`.
    fn compact(&mut self) {
        let state = kept::State {
            role: self.core.role(),
            durable: self.durable.min(self.applied),
            in_memory: self.core.in_memory_from(),
        };
        let core = &self.core;
        let to = (self.kept).upto(&state, || core.peers(), &self.options);
        if !self.kept.is_due(self.compacted, to, &self.options) || to > self.core.synced() {
            return;
        }
        let Some(last) = self.core.id_at(to) else {
            return;
        };
        let membership = self.core.membership_at(to).clone();
        self.compacted = to;
        self.kept.compacted();
        let meta = SnapshotMeta { last, membership };
        self.queues.disk.compact(meta);
        self.step(Input::Compact(to));
    }

    fn count_synced(&mut self) {
        let to = self.core.synced();
        let from = self.counted_synced.min(to).next();
        (self.appended).count(from, to, &self.shared.stages.synced);
        self.counted_synced = to;
    }

    fn count_committed(&mut self, to: Index) {
        let from = self.counted_committed.min(to).next();
        (self.appended).count(from, to, &self.shared.stages.committed);
        self.counted_committed = to;
    }

    fn status(&self) -> Status {
        let now = Instant::now();
        Status {
            node: self.core.id(),
            role: self.core.role(),
            term: self.core.term(),
            leader: self.core.leader(),
            base: self.core.base(),
            durable: self.durable,
            applied: self.applied,
            committed: self.core.committed(),
            synced: self.core.synced(),
            last: self.core.last(),
            incarnation: self.options.incarnation,
            membership: self.core.membership().clone(),
            abstains: self.core.abstains(),
            disk_full: self.shared.disk_full.load(Ordering::Relaxed)
                || self.shared.state_full.load(Ordering::Relaxed),
            disk_hangs: self.disk_hangs(now),
            log_groups: self.shared.groups.load(Ordering::Relaxed),
            log_syncs: self.shared.log.syncs(),
            peers: self.core.peers(),
            explanation: self.core.explain(),
        }
    }

    /// DR4: nobody waits for a node that is gone.
    pub(super) fn end(mut self) {
        let why = (self.shared.down.lock().clone()).unwrap_or_else(|| "the node was closed".into());
        *self.shared.down.lock() = Some(why.clone());
        for proposal in self.appended.take_all() {
            let unknown = self.unknown(&why);
            proposal.replier.tell(&self.shared, Err(unknown));
        }
        for forwarded in std::mem::take(&mut self.forwarded).into_values() {
            forwarded.promise.keep(Err(self.unknown(&why)));
        }
        self.reads.end(&why);
        let error = ProposeError::NotAppended { why, leader: None };
        while let Ok(request) = self.queues.requests.try_recv() {
            match request {
                Request::Propose { promise, .. }
                | Request::Change { promise, .. }
                | Request::AddVoter { promise, .. } => promise.keep(Err(error.clone())),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
