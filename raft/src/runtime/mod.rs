//! A node: the core carried out by threads.
//!
//! ```text
//! clients ──requests──▶ driver (owns the core) ──▶ disk: writes and syncs the log
//! transport ─packets──▶        │    ▲           ──▶ apply: owns the state machine, replies
//!                              ▼    │                  │ orders
//!                          transport │                  ▼
//!                                    │              snap: prepares snapshots
//!                                    │                  │ offers
//!                                    │                  ▼
//!                                    └─reports───── files: old entries, snapshots in and out
//! ```
//! - RT1: what a caller is told is certain: *not appended*, *unknown*, or a reply ([`ProposeError`]).
//! - RT2: every queue has a bound ([`NodeOptions`]); slow apply or a slow disk on one node slows its own replies and nobody else's.
//! - RT3 (E1): [`Node::close`] stops and joins every thread, and ends every wait. Dropping does the same.
//! - RT4: a thread that panics stops the node, which says so ([`NodeHandle::down`]): no part of it is missing while the others go on.
//!
//! A [`Node`] is made of a log ([`crate::log::LogStore`]), a [`StateMachine`] and a [`Transport`]; a [`NodeHandle`] is for
//! clients and administration.

mod about;
mod apply;
mod clock;
mod disk;
mod driver;
mod error;
mod files;
mod handle;
mod heard;
mod incarnation;
mod kept;
mod machine;
mod members;
mod options;
mod prepare;
mod proposals;
mod reads;
mod recover;
mod request;
mod session;
mod shared;
mod status;

pub use crate::core::PeerStatus;
pub use about::About;
#[cfg(feature = "lsm")]
pub(crate) use apply::{APPLIED, time_of};
#[cfg(feature = "lsm")]
pub(crate) use clock::boot_micros;
pub use error::{LeaderHint, Outcome, ProposeError, ReadError, Reply, SessionError, StartError};
pub(crate) use files::{FILES_MAX, PIECE_MAX};
pub use handle::{NodeHandle, PendingReply, Proposal, Session, SessionId};
pub use machine::{
    Arriving, Command, MachineError, MemoryMachine, Record, SnapshotSource, Staging, StateMachine,
};
pub use options::{NodeConfig, NodeOptions};
pub use recover::{RecoverError, Recovery};
pub use session::{REPLIES_KEPT_MAX, REPLY_KEPT_MAX, SERIALS_MAX, SESSIONS_MAX, WINDOW};
pub use status::{StageCounts, Status};

use crate::core::{
    Abstain, Body, Core, Entry, HardState, Index, LogView, Restored, SnapshotMeta, Write,
};
use crate::log::{LogStore, Recovered};
use crate::transport::{Content, Inbound, Sender, Transport};
use apply::Applier;
use crossbeam_channel::{TrySendError, bounded, unbounded};
use driver::{Driver, Queues};
use esker_sync::stop::StopToken;
use esker_sync::workers::Workers;
use files::Files;
use parking_lot::Mutex;
use shared::{Event, Shared};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Packets that wait for the driver, at most.
const PACKETS_MAX: usize = 65_536;
/// Pieces of snapshots that wait to be written or answered, at most.
const PIECES_MAX: usize = 64;

/// Bytes that a packet counts with.
fn weight(content: &Content) -> usize {
    let bytes = match content {
        Content::Raft(message) => match &message.body {
            Body::Append { entries, .. } => entries.iter().map(Entry::weight).sum(),
            _ => 0,
        },
        Content::Forward { request: bytes, .. } | Content::Forwarded { outcome: bytes, .. } => {
            bytes.len()
        }
        _ => 0,
    };
    64 + bytes
}

/// A node that runs. See the module.
#[derive(Debug)]
pub struct Node {
    handle: NodeHandle,
    workers: Workers,
}

/// Log and state machine as one: what the core starts from.
fn restore(
    config: &NodeConfig,
    log: &mut dyn LogStore,
    mut recovered: Recovered,
    applied: &SnapshotMeta,
    durable: Index,
) -> Result<Restored, StartError> {
    let tail = config.options.core.tail_bytes_max;
    let mut hard = recovered.hard;
    let mut view = recovered.log;
    let (base, last) = (view.base().index, view.last().index);
    if applied.last.index < base {
        return Err(StartError::Mismatch(format!(
            "the state machine holds entries up to {} and the log begins behind {base}: its directory is older than the log's, or was emptied. \
             Empty the log's too and add the node anew",
            applied.last.index
        )));
    }
    if applied.last.index > last || !view.holds(applied.last) {
        // A crash between the installation of a snapshot and the log's note of it (DK3). The log must not begin behind a state that the next loss of
        // power takes back.
        if durable < applied.last.index {
            return Err(StartError::Mismatch(format!(
                "the state machine holds entries up to {}, of which those up to {durable} are durable, and the log must begin anew behind it: make room on its disk",
                applied.last.index
            )));
        }
        tracing::info!(applied = %applied.last, "the log begins anew behind the state machine");
        let mut writes = vec![Write::Snapshot(applied.clone())];
        if hard.term < applied.last.term {
            hard = HardState {
                term: applied.last.term,
                vote: None,
            };
            writes.insert(0, Write::HardState(hard));
        }
        log.write(&writes)?;
        log.sync()?;
        view = LogView::new(applied.clone(), tail);
        // What was lost is in the state, and the log says so itself from here on.
        if let Abstain::Until(index) = recovered.abstain
            && index <= applied.last.index
        {
            recovered.abstain = Abstain::No;
        }
    }
    Ok(Restored {
        hard,
        log: view,
        committed: applied.last.index,
        abstain: recovered.abstain,
    })
}

impl Node {
    /// Starts a node on a log that was just opened and a state machine; `connect` makes its transport, which gives what arrives to the
    /// [`Inbound`].
    pub fn start(
        mut config: NodeConfig,
        mut log: Box<dyn LogStore>,
        mut recovered: Recovered,
        machine: Box<dyn StateMachine>,
        connect: impl FnOnce(Sender, Inbound) -> Result<Arc<dyn Transport>, StartError>,
    ) -> Result<Node, StartError> {
        config.options.check()?;
        if let (Some(first), true) = (&config.first, recovered.empty) {
            let meta = SnapshotMeta {
                last: recovered.log.base(),
                membership: first.clone(),
            };
            log.write(&[Write::Snapshot(meta.clone())])?;
            log.sync()?;
            recovered.log = LogView::new(meta, config.options.core.tail_bytes_max);
        }
        let asked = config.options.incarnation;
        let incarnation = |log: &LogView, disk| {
            incarnation::at_start(log.membership().1, config.node, disk, asked)
        };
        let (disk, chosen) = (recovered.disk, incarnation(&recovered.log, recovered.disk)?);
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        let me = Sender {
            cluster: incarnation::on_wire(config.cluster, chosen),
            group: config.group,
            node: config.node,
            disk,
            epoch: started.map_or(1, |d| d.as_nanos() as u64),
        };
        let (events, events_in) = unbounded();
        let (requests, requests_in) = bounded(config.options.requests_max);
        let (packets, packets_in) = bounded(PACKETS_MAX);
        let (disk, disk_in) = unbounded();
        let (apply, apply_in) = unbounded();
        let (files, files_in) = unbounded();
        let (snapshots, snapshots_in) = unbounded();
        let reader = log.reader();
        let shared = Arc::new(Shared::new(me, events, requests, reader.clone()));
        let first = SnapshotMeta {
            last: Default::default(),
            membership: recovered.log.membership_at(Default::default()).clone(),
        };
        let applier = Applier::new(machine, shared.clone(), reader.clone(), &first)?;
        let (applied, durable) = (applier.applied.clone(), applier.durable());
        let restored = restore(&config, &mut *log, recovered, &applied, durable)?;
        // The log may have begun anew, behind a snapshot that was installed.
        if incarnation(&restored.log, me.disk)? != chosen {
            return Err(StartError::Mismatch(format!(
                "the state is of another incarnation of its cluster than {chosen}"
            )));
        }
        config.options.incarnation = chosen;
        let seed = me.epoch ^ me.node.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let core = Core::new(me.node, config.options.core.clone(), restored, seed)?;

        let staging = applier.machine().staging();
        let rate = config.options.snapshot_rate_max;
        let stop = StopToken::new();
        let files_work = Files::new(shared.clone(), reader, staging, rate, stop.clone());
        let inbound = inbound(
            &shared,
            packets,
            files.clone(),
            config.options.packet_bytes_max,
        );
        let transport = connect(me, inbound)?;
        let fits = config.options.check_messages(transport.message_bytes_max());
        if let Err(error) = fits {
            transport.close();
            return Err(error.into());
        }
        let most = config
            .options
            .reply_bytes_max(transport.message_bytes_max());
        let _ = shared.reply_bytes_max.set(most);
        let _ = shared.transport.set(transport);

        let log = Arc::new(Mutex::new(log));
        let disk = disk::Storage::new(&log, disk);
        let queues = Queues {
            events: events_in,
            requests: requests_in,
            packets: packets_in,
            disk,
            apply,
            files: files.clone(),
        };
        let index = applied.last.index;
        let timeout = config.options.request_timeout;
        let driver = Driver::new(core, shared.clone(), config.options, queues, index, durable);
        let workers = Workers::new(stop);
        let node = Node {
            handle: NodeHandle::new(shared.clone(), timeout),
            workers,
        };
        // It goes before the node where a thread can't be started: the others end with its queues, and the node waits for them.
        let driver = driver;
        let spawn = |name: &'static str, work: Box<dyn FnOnce(StopToken) + Send>| {
            let ends = EndsIfPanics(shared.clone(), name);
            let work = move |stop| {
                let _ends = ends;
                work(stop);
            };
            (node.workers.spawn(name, crate::sabotage::handed_on(work))).map_err(|e| {
                StartError::System {
                    doing: "starting a thread",
                    why: e.to_string(),
                }
            })
        };
        let disk_shared = shared.clone();
        spawn(
            "esker-rf-disk",
            Box::new(move |stop| disk::run(&log, &disk_in, &disk_shared, &stop)),
        )?;
        spawn(
            "esker-rf-apply",
            Box::new(move |stop| applier.run(&apply_in, &snapshots, &stop)),
        )?;
        let preparing = shared.clone();
        spawn(
            "esker-rf-snap",
            Box::new(move |stop| prepare::run(&snapshots_in, &files, &preparing, &stop)),
        )?;
        spawn(
            "esker-rf-files",
            Box::new(move |_| files_work.run(&files_in)),
        )?;
        let driving = shared.clone();
        spawn(
            "esker-rf-core",
            Box::new(move |_| driving.run_driver(driver)),
        )?;
        Ok(node)
    }

    /// For clients and administration. Clones serve any thread, and outlive the node: then they answer that it is down.
    #[must_use]
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Stops the node and joins its threads. What was proposed and not answered ends as *unknown*. A second time it does nothing.
    ///
    /// It waits for a sync that hangs: the disk's thread can't be left behind.
    pub fn close(&self) {
        let shared = self.handle.shared();
        if let Some(transport) = shared.transport.get() {
            transport.close();
        }
        shared.report(Event::Stop);
        if let Err(panic) = self.workers.join() {
            tracing::error!(%panic, "a thread of the node panicked");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.close();
    }
}

/// RT4.
struct EndsIfPanics(Arc<Shared>, &'static str);

impl Drop for EndsIfPanics {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = self.1;
            let why = format!("a defect: its thread {thread} panicked; the panic is in the log");
            self.0.report(Event::Failed(why));
        }
    }
}

/// TR2: what is for this node goes to who deals with it; what there is no room for is lost.
fn inbound(
    shared: &Arc<Shared>,
    packets: crossbeam_channel::Sender<crate::transport::Packet>,
    files: crossbeam_channel::Sender<files::Job>,
    bytes_max: usize,
) -> Inbound {
    // The transport is owned by what is shared.
    let shared = Arc::downgrade(shared);
    let told = AtomicBool::new(false);
    Arc::new(move |packet| {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let (me, from) = (&shared.me, &packet.from);
        if from.cluster != me.cluster && packet.to == me.node && !told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                from = %from.node,
                "what members of another cluster, or of another incarnation of this one, send here is dropped; this is said once"
            );
        }
        if (from.cluster, from.group, packet.to) != (me.cluster, me.group, me.node)
            || from.node == me.node
        {
            return;
        }
        match packet.content {
            Content::Raft(_) | Content::Forward { .. } | Content::Forwarded { .. } => {
                let bytes = weight(&packet.content);
                // Relaxed: a bound, not an order.
                if shared.packet_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > bytes_max {
                    shared.packet_bytes.fetch_sub(bytes, Ordering::Relaxed);
                } else if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
                    packets.try_send(packet)
                {
                    shared.packet_bytes.fetch_sub(bytes, Ordering::Relaxed);
                } else {
                    shared.drive();
                }
            }
            _ if files.len() < PIECES_MAX => {
                let _ = files.send(files::Job::Packet(packet));
            }
            _ => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{LogId, Membership, NodeId, Term};
    use crate::log::MemoryDisk;

    /// A state that the next loss of power may take back is nothing for a log to begin behind.
    #[test]
    fn the_log_begins_anew_only_behind_a_durable_state() {
        let applied = SnapshotMeta {
            last: LogId {
                term: Term(1),
                index: Index(9),
            },
            membership: Membership::of([NodeId(1)]),
        };
        let disk = MemoryDisk::new();
        let begin = |durable| {
            let (mut log, recovered) = disk.open(1 << 20);
            let config = NodeConfig {
                cluster: 1,
                group: 1,
                node: NodeId(1),
                first: None,
                options: NodeOptions::default(),
            };
            restore(&config, &mut log, recovered, &applied, Index(durable))
        };
        let refused = begin(8);
        assert!(matches!(refused, Err(StartError::Mismatch(_))));
        assert_eq!(disk.open(1 << 20).1.log.base(), LogId::default());
        assert!(begin(9).is_ok());
        disk.lose_power();
        assert_eq!(disk.open(1 << 20).1.log.base(), applied.last);
    }

    /// What was lost is behind the state machine: nobody has to wait for it, as the log does not any more.
    #[test]
    fn a_log_that_begins_anew_behind_what_was_lost_abstains_no_more() {
        let begun = |lost: u64, abstain: Option<Abstain>| {
            let id = |index| LogId {
                term: Term(1),
                index: Index(index),
            };
            let entries = (1..=lost).map(|index| Entry {
                id: id(index),
                kind: crate::core::EntryKind::Noop,
            });
            let membership = Membership::of([NodeId(1), NodeId(2)]);
            let first = SnapshotMeta {
                last: LogId::default(),
                membership: membership.clone(),
            };
            let disk = MemoryDisk::new();
            let (mut log, _) = disk.open(1 << 20);
            log.write(&[Write::Snapshot(first), Write::Append(entries.collect())])
                .unwrap();
            log.sync().unwrap();
            assert!(disk.lose_entries(Index(60)));
            let (mut log, mut recovered) = disk.open(1 << 20);
            assert_eq!(recovered.abstain, Abstain::Until(Index(lost)));
            recovered.abstain = abstain.unwrap_or(recovered.abstain);
            let config = NodeConfig {
                cluster: 1,
                group: 1,
                node: NodeId(1),
                first: None,
                options: NodeOptions::default(),
            };
            let applied = SnapshotMeta {
                last: id(100),
                membership,
            };
            let restored = restore(&config, &mut log, recovered, &applied, Index(100)).unwrap();
            (restored.abstain, disk.open(1 << 20).1.abstain)
        };
        assert_eq!(begun(100, None), (Abstain::No, Abstain::No));
        let until = Abstain::Until(Index(101));
        assert_eq!(begun(101, None), (until, until));
        // A vote may be lost.
        assert_eq!(begun(100, Some(Abstain::Always)).0, Abstain::Always);
    }
}
