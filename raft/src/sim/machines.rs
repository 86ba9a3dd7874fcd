//! The state machines of a simulated cluster: as the runtime's apply thread treats them, and held to their contract.
//!
//! Records: `a`, what is applied (see `codec`); `n`, its index as u64.

use super::Subject;
use super::cluster::node::{Disk, Rng};
use crate::codec::{Decoder, put_snapshot_meta};
use crate::core::{Entry, EntryKind, HardState, Index, LogId, NodeId, SnapshotMeta};
use crate::runtime::{Command, MachineError, SnapshotSource, StateMachine};
use crate::transport::SnapshotFile;
use bytes::Bytes;
use std::collections::BTreeMap;

const APPLIED: &[u8] = b"a";
const NUMBER: &[u8] = b"n";
/// Microseconds of replicated time from one entry to the next.
const PACE: u64 = 1_000;

struct Held {
    machine: Box<dyn StateMachine>,
    applied: SnapshotMeta,
}

pub(super) struct Machines {
    subject: Box<dyn Subject>,
    held: BTreeMap<u64, Held>,
    /// What each called durable.
    promised: BTreeMap<u64, Index>,
    /// What was answered at each index, and what stood behind it.
    replies: BTreeMap<Index, Bytes>,
    digests: BTreeMap<Index, u64>,
    /// The files of the newest snapshot at each index.
    sent: BTreeMap<Index, Vec<(SnapshotFile, Vec<u8>)>>,
}

impl std::fmt::Debug for Machines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.held.keys()).finish()
    }
}

fn failed(id: u64) -> impl Fn(MachineError) -> String {
    move |error| format!("node {id}: {error}")
}

/// What a machine's records say; nothing where it is empty.
fn applied_of(id: u64, machine: &mut dyn StateMachine) -> Result<Option<SnapshotMeta>, String> {
    let records: BTreeMap<Bytes, Bytes> =
        (machine.records().map_err(failed(id))?.into_iter()).collect();
    if records.is_empty() {
        return Ok(None);
    }
    let both = records.get(APPLIED).zip(records.get(NUMBER));
    let Some((applied, number)) = both.filter(|_| records.len() == 2) else {
        return Err(format!("SM2: node {id} has other records: {records:?}"));
    };
    let applied = (Decoder::new(applied.clone()).snapshot_meta())
        .map_err(|e| format!("SM2: node {id} has a damaged record: {e}"))?;
    match number[..] == applied.last.index.0.to_le_bytes() {
        true => Ok(Some(applied)),
        false => Err(format!("SM2: node {id} has records of several commits")),
    }
}

/// A snapshot that can be sent; it stands for what is applied, by its own words.
fn prepared(
    machine: &mut dyn StateMachine,
    applied: &SnapshotMeta,
) -> Result<Box<dyn SnapshotSource>, MachineError> {
    const DOING: &str = "preparing a snapshot";
    let mut source = machine.snapshot()?;
    let record = source.prepare(APPLIED)?;
    source.look_through(&|| true)?;
    let Some(record) = record else {
        return Ok(source);
    };
    let said = (Decoder::new(record).snapshot_meta()).map_err(|e| MachineError::new(DOING, e))?;
    match said == *applied {
        true => Ok(source),
        false => {
            let why = format!(
                "PR1: it says {}, and stands for {}",
                said.last, applied.last
            );
            Err(MachineError::new(DOING, why))
        }
    }
}

impl Machines {
    pub(super) fn new(subject: Box<dyn Subject>) -> Machines {
        Machines {
            subject,
            held: BTreeMap::new(),
            promised: BTreeMap::new(),
            replies: BTreeMap::new(),
            digests: BTreeMap::new(),
            sent: BTreeMap::new(),
        }
    }

    fn held(&mut self, id: u64) -> &mut Held {
        self.held.get_mut(&id).expect("it is up")
    }

    pub(super) fn applied(&self, id: u64) -> Index {
        self.held[&id].applied.last.index
    }

    pub(super) fn command(&mut self, random: u64) -> Bytes {
        self.subject.command(random)
    }

    /// A node starts. Its log begins anew where it does not hold what the machine has applied, as `runtime` has it.
    ///
    /// # Panics
    /// When the machine broke its contract.
    pub(super) fn open(&mut self, id: u64, truth: &[Entry], disk: &mut Disk) {
        if let Err(error) = self.try_open(id, truth, disk) {
            panic!("{error}");
        }
    }

    fn try_open(&mut self, id: u64, truth: &[Entry], disk: &mut Disk) -> Result<(), String> {
        let mut machine = self.subject.open(NodeId(id)).map_err(failed(id))?;
        let applied = applied_of(id, &mut *machine)?.unwrap_or_else(|| SnapshotMeta {
            last: LogId::default(),
            membership: disk.snapshot.membership.clone(),
        });
        let last = applied.last;
        let known = (last.index.0.checked_sub(1)).and_then(|at| truth.get(at as usize));
        if known.map_or(LogId::default(), |entry| entry.id) != last {
            return Err(format!("SM2: node {id} says it applied {last}"));
        }
        let promised = self.promised.get(&id).copied().unwrap_or_default();
        if last.index < promised || last.index < disk.snapshot.last.index {
            return Err(format!(
                "SM3: node {id} is back at {last}, and had called {promised} durable"
            ));
        }
        let held = disk.snapshot.last == last || disk.entries.iter().any(|e| e.id == last);
        if !held {
            if disk.hard.term < last.term {
                disk.hard = HardState {
                    term: last.term,
                    vote: None,
                };
            }
            disk.snapshot = applied.clone();
            disk.entries.clear();
        }
        self.held.insert(id, Held { machine, applied });
        Ok(())
    }

    pub(super) fn power_cut(&mut self, id: u64, random: u64) {
        if let Some(held) = self.held.remove(&id) {
            self.subject.power_cut(NodeId(id), random);
            drop(held);
        }
    }

    /// Applies what is committed up to `to`, in batches.
    pub(super) fn apply(
        &mut self,
        id: u64,
        truth: &[Entry],
        to: Index,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let from = self.applied(id).0 as usize;
        for entry in &truth[from..to.0 as usize] {
            let (index, time) = (entry.id.index, entry.id.index.0 * PACE);
            let held = self.held(id);
            let reply = match &entry.kind {
                EntryKind::Noop => None,
                EntryKind::Membership(membership) => {
                    held.applied.membership = (**membership).clone();
                    None
                }
                EntryKind::Command(payload) => {
                    held.machine.time(entry.id, time).map_err(failed(id))?;
                    let command = Command {
                        index,
                        term: entry.id.term,
                        time,
                        payload: payload.clone(),
                    };
                    Some(held.machine.apply(command).map_err(failed(id))?)
                }
            };
            held.applied.last = entry.id;
            if let Some(reply) = reply {
                let known = self.replies.entry(index).or_insert_with(|| reply.clone());
                if *known != reply {
                    return Err(format!(
                        "SM1: node {id} answers {reply:?} at {index}, and another, or it before, {known:?}"
                    ));
                }
            }
            if index == to || rng.one_in(4) {
                self.commit(id)?;
            }
        }
        Ok(())
    }

    fn commit(&mut self, id: u64) -> Result<(), String> {
        let held = self.held(id);
        let index = held.applied.last.index;
        let mut applied = Vec::new();
        put_snapshot_meta(&mut applied, &held.applied);
        let number = Bytes::copy_from_slice(&index.0.to_le_bytes());
        let records = vec![
            (Bytes::from_static(APPLIED), Some(applied.into())),
            (Bytes::from_static(NUMBER), Some(number)),
        ];
        (held.machine.commit(index, records)).map_err(failed(id))?;
        self.stands(id)
    }

    /// What holds behind a commit, and behind an installation.
    fn stands(&mut self, id: u64) -> Result<(), String> {
        let held = self.held(id);
        let (index, durable) = (held.applied.last.index, held.machine.durable());
        if durable > index {
            return Err(format!(
                "SM3: node {id} calls {durable} durable and applied {index}"
            ));
        }
        let promised = self.promised.entry(id).or_default();
        *promised = durable.max(*promised);
        if let Some(digest) = self.subject.digest(NodeId(id)) {
            let known = *self.digests.entry(index).or_insert(digest);
            if known != digest {
                return Err(format!(
                    "SM1: node {id} holds another state behind {index} than the first that got there"
                ));
            }
        }
        (self.subject.check(NodeId(id), index)).map_err(|error| format!("node {id}: {error}"))
    }

    /// What is applied becomes durable, so that the log can be compacted.
    pub(super) fn checkpoint(&mut self, id: u64) -> Result<(), String> {
        let held = self.held(id);
        let source = prepared(&mut *held.machine, &held.applied).map_err(failed(id))?;
        let (index, durable) = (held.applied.last.index, held.machine.durable());
        drop(source);
        self.promised.insert(id, index);
        match durable == index {
            true => Ok(()),
            false => Err(format!(
                "SM3: a snapshot of node {id} at {index} left it durable up to {durable}"
            )),
        }
    }

    /// A snapshot of what is applied is on its way.
    pub(super) fn send(&mut self, id: u64, index: Index) -> Result<(), String> {
        let held = self.held(id);
        assert_eq!(held.applied.last.index, index);
        let mut source = prepared(&mut *held.machine, &held.applied).map_err(failed(id))?;
        let mut files = Vec::new();
        for (at, file) in source.files().into_iter().enumerate() {
            let len = usize::try_from(file.len).map_err(|e| e.to_string())?;
            let mut bytes = vec![0; len];
            for (n, piece) in bytes.chunks_mut(512).enumerate() {
                (source.read(at, n as u64 * 512, piece))
                    .map_err(|e| format!("node {id}: reading its snapshot: {e}"))?;
            }
            files.push((file, bytes));
        }
        self.promised.insert(id, index);
        self.sent.insert(index, files);
        Ok(())
    }

    /// A snapshot arrives in pieces, perhaps in two attempts, and takes the state's place.
    pub(super) fn install(
        &mut self,
        id: u64,
        meta: &SnapshotMeta,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let files = self.sent[&meta.last.index].clone();
        let wrong = |e| format!("node {id}: a snapshot arriving: {e}");
        let held = self.held(id);
        let staging = held.machine.staging();
        let list: Vec<SnapshotFile> = files.iter().map(|(file, _)| file.clone()).collect();
        let mut stops = rng.one_in(3);
        let arrived = 'again: loop {
            let mut arriving = staging.begin(&list, &|| true).map_err(wrong)?;
            for (at, (_, bytes)) in files.iter().enumerate() {
                while let Some(rest) = bytes.get(arriving.held(at) as usize..)
                    && !rest.is_empty()
                {
                    if stops && rng.one_in(3) {
                        stops = false;
                        continue 'again;
                    }
                    let piece = 1 + rng.below(600) as usize;
                    (arriving.write(at, &rest[..piece.min(rest.len())], &|| true))
                        .map_err(wrong)?;
                }
            }
            arriving.finish(&|| true).map_err(wrong)?;
            break arriving;
        };
        held.machine.install(arrived, meta).map_err(failed(id))?;
        let applied = applied_of(id, &mut *held.machine)?;
        if applied.as_ref().map(|a| a.last) != Some(meta.last) {
            return Err(format!(
                "node {id} installed a snapshot of {} and holds {applied:?}",
                meta.last
            ));
        }
        held.applied = meta.clone();
        let (index, durable) = (meta.last.index, held.machine.durable());
        if durable != index {
            return Err(format!(
                "SM3: node {id} installed {index} and is durable up to {durable}"
            ));
        }
        self.stands(id)
    }
}
