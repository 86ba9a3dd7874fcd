//! The files thread: reads old entries for peers that are behind, sends snapshots and takes them in.
//!
//! The receiver asks for every piece: so a transfer needs no more memory on either side than the pieces on their way, goes at the
//! receiver's pace, and goes on where it stopped when pieces or the link are lost. A file that the receiver has is never asked for.
//!
//! - FI1: a piece is written only at the end of what is held, and only with its checksum intact.
//! - FI2: nothing is waited for without an end: what is not answered is asked for again, and given up after [`IDLE_MAX`].
//! - FI3: what is sent keeps to `snapshot_rate_max`, over all peers; what is asked for meanwhile waits, once each, and does not hold up the entries that
//!   other peers are sent from here.
//! - FI5: who takes a snapshot in says so while it looks through files that it has, however long that lasts; and the end of the node ends that.
//! - FI4 (C1): an offer bears the term whose leader ordered it, however much later it is made: a follower obeys it as that leader's.

use super::machine::{Arriving, SnapshotSource, Staging};
use super::prepare::Prepared;
use super::shared::{Event, Shared};
use crate::core::{Fetch, NodeId, SnapshotMeta, Term};
use crate::log::LogReader;
use crate::transport::{Content, Packet, SnapshotFile};
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use esker_sync::stop::StopToken;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a piece: what is written back at once, too.
const PIECE: u32 = 128 << 10;
/// Larger ones are not sent.
pub(crate) const PIECE_MAX: u32 = 256 << 10;
/// Pieces on their way.
const AHEAD: u64 = 16;
/// Asked for again after this.
const AGAIN: Duration = Duration::from_millis(500);
/// Given up after this without a sign of the other side.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// A piece of this file is never asked for: what asks for one says that the receiver is at work (FI5).
const AT_WORK: u32 = u32::MAX;
/// Files of a snapshot, at most.
pub(crate) const FILES_MAX: usize = 65_536;

/// A piece that a peer asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Want {
    from: NodeId,
    id: u64,
    file: u32,
    offset: u64,
    len: u32,
}

/// What keeps to the rate (FI3).
#[derive(Debug)]
struct Pace {
    bytes_per_second: u64,
    waiting: VecDeque<Want>,
    /// The next piece goes then.
    next: Instant,
}

impl Pace {
    /// Pieces that wait, at most; more are asked for again.
    const WAITING_MAX: usize = 1024;
    /// What was not used goes no further back.
    const BURST: Duration = Duration::from_millis(20);

    fn ask(&mut self, want: Want) {
        if self.waiting.len() < Pace::WAITING_MAX && !self.waiting.contains(&want) {
            self.waiting.push_back(want);
        }
    }

    /// A piece that may go now.
    fn take(&mut self, now: Instant) -> Option<Want> {
        if self.next > now {
            return None;
        }
        let want = self.waiting.pop_front()?;
        let takes = u64::from(want.len) * 1_000_000_000 / self.bytes_per_second;
        let from = now
            .checked_sub(Pace::BURST)
            .map_or(now, |since| self.next.max(since));
        self.next = from + Duration::from_nanos(takes);
        Some(want)
    }

    /// How long there is nothing to do.
    fn rest(&self, now: Instant) -> Duration {
        match self.waiting.is_empty() {
            true => AGAIN / 4,
            false => self.next.saturating_duration_since(now).min(AGAIN / 4),
        }
    }
}

pub(super) enum Job {
    Fetch(Fetch, crate::core::Index),
    /// By the leader of this term (FI4).
    Offer {
        to: NodeId,
        term: Term,
        taken: Option<Prepared>,
    },
    Packet(Packet),
}

struct Outgoing {
    id: u64,
    term: Term,
    source: Box<dyn SnapshotSource>,
    meta: SnapshotMeta,
    files: Vec<SnapshotFile>,
    heard: Instant,
    offered: Instant,
}

struct Incoming {
    from: NodeId,
    id: u64,
    term: Term,
    meta: SnapshotMeta,
    files: Vec<SnapshotFile>,
    arriving: Box<dyn Arriving>,
    file: usize,
    /// Asked for up to here, of that file.
    asked: u64,
    heard: Instant,
    asked_at: Instant,
}

pub(super) struct Files {
    shared: Arc<Shared>,
    reader: Arc<dyn LogReader>,
    staging: Arc<dyn Staging>,
    outgoing: BTreeMap<NodeId, Outgoing>,
    incoming: Option<Incoming>,
    /// The last transfer that arrived: an offer of it that comes late begins nothing.
    done: Option<(NodeId, u64)>,
    next_id: u64,
    pace: Pace,
    stop: StopToken,
}

impl Files {
    pub(super) fn new(
        shared: Arc<Shared>,
        reader: Arc<dyn LogReader>,
        staging: Arc<dyn Staging>,
        bytes_per_second: u64,
        stop: StopToken,
    ) -> Files {
        let next_id = shared.me.epoch;
        Files {
            shared,
            reader,
            staging,
            outgoing: BTreeMap::new(),
            incoming: None,
            done: None,
            next_id,
            pace: Pace {
                bytes_per_second,
                waiting: VecDeque::new(),
                next: Instant::now(),
            },
            stop,
        }
    }

    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        while !self.stop.is_stopped() {
            match jobs.recv_timeout(self.pace.rest(Instant::now())) {
                Ok(Job::Fetch(fetch, last)) => {
                    let entries = self.reader.entries(fetch.from, last, fetch.bytes);
                    let to = fetch.to;
                    self.shared.report(match entries {
                        Ok(entries) => Event::Fetched { to, entries },
                        Err(error) => {
                            tracing::warn!(%error, %to, "entries for a peer can't be read: it is offered a snapshot");
                            Event::FetchFailed { to }
                        }
                    });
                }
                Ok(Job::Offer { to, term, taken }) => self.offer(to, term, taken),
                Ok(Job::Packet(packet)) => self.packet(packet),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Some(want) = self.pace.take(Instant::now()) {
                self.serve(want);
            }
            self.tick();
        }
    }

    fn offer(&mut self, to: NodeId, term: Term, taken: Option<Prepared>) {
        let Some((source, meta)) = taken else {
            return self.shared.report(Event::SnapshotSent { to, last: None });
        };
        self.next_id += 1;
        let files = source.files();
        let now = Instant::now();
        let outgoing = Outgoing {
            id: self.next_id,
            term,
            source,
            meta,
            files,
            heard: now,
            offered: now,
        };
        self.shared.send(to, outgoing.offer());
        self.outgoing.insert(to, outgoing);
    }

    fn packet(&mut self, packet: Packet) {
        let from = packet.from.node;
        match packet.content {
            Content::Offer {
                term,
                id,
                meta,
                files,
            } => self.on_offer(from, term, id, meta, files),
            Content::Want {
                id,
                file,
                offset,
                len,
            } => self.on_want(Want {
                from,
                id,
                file,
                offset,
                len,
            }),
            Content::Chunk {
                id,
                file,
                offset,
                crc,
                bytes,
            } => self.on_chunk(from, id, file, offset, crc, &bytes),
            Content::End { id, whole } => self.on_end(from, id, whole),
            _ => {}
        }
    }

    fn on_offer(
        &mut self,
        from: NodeId,
        term: Term,
        id: u64,
        meta: SnapshotMeta,
        files: Vec<SnapshotFile>,
    ) {
        if self.done == Some((from, id)) {
            return self.shared.send(from, Content::End { id, whole: true });
        }
        let older = |i: &Incoming| i.term > term || (i.from, i.id) == (from, id);
        if self.incoming.as_ref().is_some_and(older) || files.len() > FILES_MAX {
            return;
        }
        // What was begun is resumed by the machine where files are the same.
        self.incoming = None;
        let begun = (self.staging).begin(&files, &at_work(&self.shared, &self.stop, (from, id)));
        let arriving = match begun {
            Ok(arriving) => arriving,
            Err(error) => {
                tracing::warn!(%error, "a snapshot can't be taken in");
                return self.shared.send(from, Content::End { id, whole: false });
            }
        };
        let now = Instant::now();
        self.incoming = Some(Incoming {
            from,
            id,
            term,
            meta,
            files,
            arriving,
            file: 0,
            asked: 0,
            heard: now,
            asked_at: now,
        });
        tracing::info!(%from, "a snapshot begins to arrive");
        self.advance(true);
    }

    /// Asks for what comes next; `anew`: also for what was asked for and did not come.
    fn advance(&mut self, anew: bool) {
        let Some(incoming) = &mut self.incoming else {
            return;
        };
        let mut first = anew;
        while let Some(file) = incoming.files.get(incoming.file) {
            let held = incoming.arriving.held(incoming.file);
            if held >= file.len {
                incoming.file += 1;
                incoming.asked = 0;
                first = true;
                continue;
            }
            if first {
                incoming.asked = held;
                incoming.asked_at = Instant::now();
            }
            while incoming.asked < file.len && incoming.asked < held + AHEAD * u64::from(PIECE) {
                let len = (file.len - incoming.asked).min(u64::from(PIECE));
                let want = Content::Want {
                    id: incoming.id,
                    file: incoming.file as u32,
                    offset: incoming.asked,
                    len: len as u32,
                };
                incoming.asked += len;
                self.shared.send(incoming.from, want);
            }
            return;
        }
        let mut incoming = self.incoming.take().expect("just seen");
        let (from, id) = (incoming.from, incoming.id);
        let go_on = at_work(&self.shared, &self.stop, (from, id));
        if let Err(error) = incoming.arriving.finish(&go_on) {
            tracing::warn!(%error, "a snapshot arrived and is not whole");
            return self.shared.send(from, Content::End { id, whole: false });
        }
        self.done = Some((from, id));
        self.shared.report(Event::SnapshotArrived {
            from,
            term: incoming.term,
            meta: incoming.meta,
            arrived: incoming.arriving,
        });
        self.shared.send(from, Content::End { id, whole: true });
    }

    fn on_want(&mut self, want: Want) {
        let Want {
            from,
            id,
            file,
            offset,
            len,
        } = want;
        let Some(outgoing) = self.outgoing.get_mut(&from).filter(|o| o.id == id) else {
            return self.shared.send(from, Content::End { id, whole: false });
        };
        outgoing.heard = Instant::now();
        let fits = (outgoing.files.get(file as usize)).is_some_and(|f| {
            len <= PIECE_MAX
                && offset
                    .checked_add(u64::from(len))
                    .is_some_and(|end| end <= f.len)
        });
        if fits {
            self.pace.ask(want);
        }
    }

    fn serve(&mut self, want: Want) {
        let Want {
            from,
            id,
            file,
            offset,
            len,
        } = want;
        // It may have been given up meanwhile.
        let Some(outgoing) = self.outgoing.get_mut(&from).filter(|o| o.id == id) else {
            return;
        };
        let mut bytes = vec![0; len as usize];
        match outgoing.source.read(file as usize, offset, &mut bytes) {
            Ok(()) => {
                let crc = crc32fast::hash(&bytes);
                let bytes = Bytes::from(bytes);
                let chunk = Content::Chunk {
                    id,
                    file,
                    offset,
                    crc,
                    bytes,
                };
                self.shared.send(from, chunk);
            }
            Err(error) => {
                tracing::warn!(%error, to = %from, "a snapshot can't be read; it is given up");
                self.outgoing.remove(&from);
                self.shared.send(from, Content::End { id, whole: false });
                let (to, last) = (from, None);
                self.shared.report(Event::SnapshotSent { to, last });
            }
        }
    }

    fn on_chunk(&mut self, from: NodeId, id: u64, file: u32, offset: u64, crc: u32, bytes: &[u8]) {
        let Some(incoming) = &mut self.incoming else {
            return;
        };
        if (incoming.from, incoming.id, incoming.file) != (from, id, file as usize) {
            return;
        }
        incoming.heard = Instant::now();
        let held = incoming.arriving.held(incoming.file);
        let room = incoming.files[incoming.file].len - held;
        // FI1. What is refused here is asked for again.
        if offset != held || bytes.len() as u64 > room || crc32fast::hash(bytes) != crc {
            return;
        }
        let go_on = at_work(&self.shared, &self.stop, (from, id));
        let written = (incoming.arriving).write(incoming.file, bytes, &go_on);
        drop(go_on);
        if let Err(error) = written {
            tracing::warn!(%error, "a snapshot can't be written; it is given up");
            self.incoming = None;
            return self.shared.send(from, Content::End { id, whole: false });
        }
        incoming.asked_at = incoming.heard;
        self.advance(false);
    }

    fn on_end(&mut self, from: NodeId, id: u64, whole: bool) {
        if let Some(outgoing) = self.outgoing.get(&from).filter(|o| o.id == id) {
            let last = whole.then_some(outgoing.meta.last.index);
            self.outgoing.remove(&from);
            let to = from;
            self.shared.report(Event::SnapshotSent { to, last });
        } else if !whole && (self.incoming.as_ref()).is_some_and(|i| (i.from, i.id) == (from, id)) {
            self.incoming = None;
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let idle = |heard: Instant| now.duration_since(heard) > IDLE_MAX;
        if let Some(incoming) = &self.incoming {
            if idle(incoming.heard) {
                self.incoming = None;
            } else if now.duration_since(incoming.asked_at) > AGAIN {
                self.advance(true);
            }
        }
        let gone: Vec<NodeId> = (self.outgoing.iter())
            .filter(|(_, o)| idle(o.heard))
            .map(|(to, _)| *to)
            .collect();
        for to in gone {
            self.outgoing.remove(&to);
            self.shared.report(Event::SnapshotSent { to, last: None });
        }
        for (to, outgoing) in &mut self.outgoing {
            if now.duration_since(outgoing.offered.max(outgoing.heard)) > AGAIN {
                outgoing.offered = now;
                self.shared.send(*to, outgoing.offer());
            }
        }
    }
}

/// FI5. Whether to go on with what is taken in from there.
fn at_work<'a>(
    shared: &'a Shared,
    stop: &'a StopToken,
    (from, id): (NodeId, u64),
) -> impl Fn() -> bool + 'a {
    let said = Cell::new(Instant::now());
    move || {
        if said.get().elapsed() > AGAIN / 2 {
            said.set(Instant::now());
            let want = Content::Want {
                id,
                file: AT_WORK,
                offset: 0,
                len: 0,
            };
            shared.send(from, want);
        }
        !stop.is_stopped()
    }
}

impl Outgoing {
    fn offer(&self) -> Content {
        Content::Offer {
            term: self.term,
            id: self.id,
            meta: self.meta.clone(),
            files: self.files.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::{MemoryMachine, StateMachine};
    use super::super::prepare::{self, Purpose};
    use super::*;
    use crate::core::Membership;
    use crate::log::{LogStore, VolatileLog};
    use crate::transport::{Sender as Me, Transport};
    use crossbeam_channel::unbounded;
    use parking_lot::Mutex;

    #[derive(Default)]
    struct Sent(Mutex<Vec<Content>>);

    impl Transport for Sent {
        fn send(&self, packet: Packet) {
            self.0.lock().push(packet.content);
        }
        fn members(&self, _: &BTreeMap<NodeId, String>) {}
        fn close(&self) {}
    }

    fn files(staging: Arc<dyn Staging>, stop: &StopToken) -> (Files, Arc<Sent>) {
        let (log, _) = VolatileLog::new(0);
        let (events, _) = unbounded();
        let (requests, _) = unbounded();
        let shared = Arc::new(Shared::new(Me::default(), events, requests, log.reader()));
        let sent = Arc::new(Sent::default());
        let transport: Arc<dyn Transport> = sent.clone();
        assert!(shared.transport.set(transport).is_ok());
        let files = Files::new(shared, log.reader(), staging, 1 << 20, stop.clone());
        (files, sent)
    }

    /// Taking it lasts; meanwhile another leads.
    #[test]
    fn fi4_an_offer_bears_the_term_of_who_ordered_it() {
        let mut machine = MemoryMachine::new();
        let stop = StopToken::new();
        let (mut files, sent) = files(machine.staging(), &stop);
        let shared = files.shared.clone();
        let (jobs, orders) = unbounded();
        let (offers, ordered) = unbounded();
        shared.changed(Term(3), Some(NodeId(1)), &Membership::default());
        let order = prepare::Job {
            taken: machine.snapshot(),
            applied: SnapshotMeta::default(),
            purpose: Purpose::Offer {
                to: NodeId(2),
                term: Term(3),
            },
        };
        jobs.send(order).unwrap();
        drop(jobs);
        shared.changed(Term(5), Some(NodeId(3)), &Membership::default());
        prepare::run(&orders, &offers, &shared, &stop);
        let Ok(Job::Offer { to, term, taken }) = ordered.try_recv() else {
            panic!("a snapshot is taken");
        };
        files.offer(to, term, taken);
        let sent = sent.0.lock();
        assert!(matches!(sent[..], [Content::Offer { term: Term(3), .. }]));
    }

    /// Looks through what it has until it is told not to go on.
    struct Endless;

    impl Staging for Endless {
        fn begin(
            &self,
            _: &[SnapshotFile],
            go_on: &dyn Fn() -> bool,
        ) -> std::io::Result<Box<dyn Arriving>> {
            while go_on() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(std::io::Error::other("stopped"))
        }
    }

    /// Who hears nothing for long gives a transfer up.
    #[test]
    fn fi5_who_looks_through_its_files_says_so_and_stops_when_told() {
        let stop = StopToken::new();
        let (mut receiver, said) = files(Arc::new(Endless), &stop);
        let offered = std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                receiver.on_offer(NodeId(1), Term(3), 7, SnapshotMeta::default(), Vec::new());
            });
            while said.0.lock().len() < 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.stop();
            work.join()
        });
        offered.expect("it ends");
        let mut said = said.0.lock();
        assert!(matches!(
            said.pop(),
            Some(Content::End {
                id: 7,
                whole: false
            })
        ));
        // The sender takes each for a sign of life, and sends nothing for it.
        let mut machine = MemoryMachine::new();
        let (mut sender, sent) = files(machine.staging(), &StopToken::new());
        sender.next_id = 6;
        let source = machine.snapshot().unwrap();
        let meta = SnapshotMeta::default();
        sender.offer(NodeId(2), Term(3), Some((source, meta)));
        let long_ago = Instant::now() - IDLE_MAX - AGAIN;
        for content in said.drain(..) {
            sender.outgoing.get_mut(&NodeId(2)).unwrap().heard = long_ago;
            let from = Me {
                node: NodeId(2),
                ..Me::default()
            };
            sender.packet(Packet {
                from,
                to: NodeId(1),
                content,
            });
            sender.tick();
            assert!(sender.outgoing[&NodeId(2)].heard > long_ago);
        }
        assert!(sender.pace.waiting.is_empty());
        assert!(matches!(sent.0.lock()[..], [Content::Offer { id: 7, .. }]));
    }
}
