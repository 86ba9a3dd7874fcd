//! What is replicated: the contract between the runtime and a state machine, and one in memory.
//!
//! - SM1 (C1): deterministic. What a command does, and answers, depends on the commands before it alone: not on this node's clock, its
//!   disk, random numbers or the order of a hash map. Replicated time comes with the command.
//! - SM2: what [`StateMachine::commit`] was given becomes visible and durable as one: the effects of the commands since the last
//!   one, and the runtime's records. After a restart the machine is as of some commit; everything behind it is applied again.
//! - SM3: [`StateMachine::durable`] never says more than what a power cut leaves. The log is not compacted beyond it (L3).
//! - SM4: an error is not an answer. It stops the node: a node that can't apply a command has no state any more. What a client did wrong
//!   is answered in the reply's bytes.
//! - SM5 (W8): a commit that finds no room is waited for, and not the end: it says so ([`MachineError::full`]), has done nothing, and is tried again.

use crate::core::{Index, LogId, SnapshotMeta, Term};
use crate::transport::SnapshotFile;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Why a state machine can't go on.
#[derive(Debug, thiserror::Error)]
#[error("the state machine failed while {doing}: {source}")]
pub struct MachineError {
    /// What it was about.
    pub doing: &'static str,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
    full: bool,
}

impl MachineError {
    /// With its cause.
    pub fn new(
        doing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> MachineError {
        let source = source.into();
        MachineError {
            doing,
            source,
            full: false,
        }
    }

    /// There is no room: of a commit nothing was done (SM5).
    pub fn full(
        doing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> MachineError {
        MachineError {
            full: true,
            ..MachineError::new(doing, source)
        }
    }

    /// Whether it is for lack of room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }
}

/// A command to apply.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its place in the log.
    pub index: Index,
    /// The term of the leader that took it.
    pub term: Term,
    /// Replicated time in microseconds since 1970: of the leader that took it, and never less than that of the command before.
    pub time: u64,
    /// What a client proposed.
    pub payload: Bytes,
}

/// A record of the runtime (who is in a session, what is applied): kept with the effects, out of the sight of clients. `None` removes it.
pub type Record = (Bytes, Option<Bytes>);

/// A replicated state machine. One thread calls it. See the module.
pub trait StateMachine: Send + 'static {
    /// All records, at open.
    fn records(&mut self) -> Result<Vec<(Bytes, Bytes)>, MachineError>;

    /// Applies a command, and answers it. It need not be visible to readers before [`StateMachine::commit`], but is to the next command.
    fn apply(&mut self, command: Command) -> Result<Bytes, MachineError>;

    /// Replicated time is at least this: deadlines up to it have passed. Called between commands, on all nodes at the same place.
    fn time(&mut self, at: LogId, time: u64) -> Result<(), MachineError> {
        let _ = (at, time);
        Ok(())
    }

    /// Ends a batch: everything applied since the last, and `records`, as one (SM2). `applied` is the last entry in it.
    fn commit(&mut self, applied: Index, records: Vec<Record>) -> Result<(), MachineError>;

    /// Tries the last commit again, which found no room; nothing else is called between the two but this (SM5), and [`StateMachine::close`].
    fn commit_again(&mut self) -> Result<(), MachineError> {
        let why = "it never says that it has no room";
        Err(MachineError::new("trying a commit again", why))
    }

    /// Bytes that the next [`StateMachine::commit`] will write of what was applied: beyond a bound the commit comes before the next command, so that
    /// what short commands do to large values is not in memory all at once. Asked after each entry. 0: not known, and not bounded.
    fn pending_bytes(&self) -> usize {
        0
    }

    /// Everything up to here survives a power cut (SM3).
    fn durable(&self) -> Index;

    /// The state as of the last commit, or of a later one until the source is prepared; then for as long as the source lives, while the machine goes
    /// on. Nothing is applied while this runs: what takes long is [`SnapshotSource::prepare`]'s.
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError>;

    /// Where snapshots from others arrive; used by another thread.
    fn staging(&self) -> Arc<dyn Staging>;

    /// The state becomes that of a snapshot that has arrived whole: atomically, and durable when this returns. A crash before that leaves
    /// the state as it was. The records are the snapshot's.
    fn install(
        &mut self,
        arrived: Box<dyn Arriving>,
        meta: &SnapshotMeta,
    ) -> Result<(), MachineError>;

    /// Ends it. What was committed may be made durable; it need not.
    fn close(&mut self) -> Result<(), MachineError> {
        Ok(())
    }
}

/// A snapshot on its way out. Used by other threads than the machine, which goes on.
pub trait SnapshotSource: Send {
    /// Comes first, once: everything up to the commit that it stands for is durable when this returns. Answers the runtime's record under
    /// `record` as of that commit; `None` where that is the one before [`StateMachine::snapshot`].
    fn prepare(&mut self, record: &[u8]) -> Result<Option<Bytes>, MachineError> {
        let _ = record;
        Ok(None)
    }

    /// Comes next, for one that is sent: reads what is in it, for [`SnapshotFile::check`], say. Ends early, with an error, when `go_on` says no.
    fn look_through(&mut self, go_on: &dyn Fn() -> bool) -> Result<(), MachineError> {
        let _ = go_on;
        Ok(())
    }

    /// Its files.
    fn files(&self) -> Vec<SnapshotFile>;

    /// Fills `into` from a file's `offset` on.
    fn read(&mut self, file: usize, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// Takes snapshots in.
pub trait Staging: Send + Sync {
    /// A snapshot with these files begins to arrive. What was begun before and not installed is resumed where it serves, and dropped
    /// where it doesn't. `go_on` is asked time and again while this lasts: it ends early, with an error, when that says no.
    fn begin(
        &self,
        files: &[SnapshotFile],
        go_on: &dyn Fn() -> bool,
    ) -> io::Result<Box<dyn Arriving>>;
}

/// A snapshot on its way in.
pub trait Arriving: Send {
    /// How much of a file is here already; all of it where an equal file was found.
    fn held(&self, file: usize) -> u64;

    /// The next piece of a file, at [`Arriving::held`]. `go_on` as for [`Staging::begin`]: the last piece may have the file looked through.
    fn write(&mut self, file: usize, bytes: &[u8], go_on: &dyn Fn() -> bool) -> io::Result<()>;

    /// All files are whole. Checks what can be checked. `go_on` as for [`Staging::begin`].
    fn finish(&mut self, go_on: &dyn Fn() -> bool) -> io::Result<()>;

    /// For the machine that made it.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any>;
}

/// What survives the process of a [`MemoryMachine`].
#[derive(Clone, Debug, Default)]
struct MemoryState {
    content: BTreeMap<Bytes, Bytes>,
    records: BTreeMap<Bytes, Bytes>,
    applied: Index,
}

/// A small state machine in memory, for tests and benchmarks: a command `key=value` sets, `+key` counts up, and any other reads; each
/// answers the value of before.
#[derive(Clone, Debug, Default)]
pub struct MemoryMachine {
    state: Arc<Mutex<MemoryState>>,
    durable: Arc<Mutex<MemoryState>>,
}

impl MemoryMachine {
    /// An empty one. Clones share its state: one is given to a node, another reads.
    #[must_use]
    pub fn new() -> MemoryMachine {
        MemoryMachine::default()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.state.lock().content.get(key).cloned()
    }

    /// Everything in it.
    #[must_use]
    pub fn content(&self) -> BTreeMap<Bytes, Bytes> {
        self.state.lock().content.clone()
    }

    /// What it has applied.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.state.lock().applied
    }

    /// All that is committed becomes durable: what a flush would do.
    pub fn flush(&self) {
        let state = self.state.lock().clone();
        *self.durable.lock() = state;
    }

    /// Power is lost: what is left is what was durable. For the next life of a node.
    #[must_use]
    pub fn after_power_loss(&self) -> MemoryMachine {
        let durable = self.durable.lock().clone();
        MemoryMachine {
            state: Arc::new(Mutex::new(durable.clone())),
            durable: Arc::new(Mutex::new(durable)),
        }
    }
}

fn put_all(out: &mut Vec<u8>, map: &BTreeMap<Bytes, Bytes>) {
    out.extend_from_slice(&(map.len() as u32).to_le_bytes());
    for (key, value) in map {
        crate::codec::put_blob(out, key);
        crate::codec::put_blob(out, value);
    }
}

impl StateMachine for MemoryMachine {
    fn records(&mut self) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
        Ok(self.state.lock().records.clone().into_iter().collect())
    }

    fn apply(&mut self, command: Command) -> Result<Bytes, MachineError> {
        let mut state = self.state.lock();
        let payload = command.payload;
        let answer = if let Some(key) = payload.strip_prefix(b"+") {
            let key = Bytes::copy_from_slice(key);
            let before = state.content.get(&key).cloned().unwrap_or_default();
            let count: u64 = String::from_utf8_lossy(&before).parse().unwrap_or(0);
            (state.content).insert(key, Bytes::from((count + 1).to_string()));
            Some(before)
        } else if let Some(at) = payload.iter().position(|b| *b == b'=') {
            (state.content).insert(payload.slice(..at), payload.slice(at + 1..))
        } else {
            state.content.get(&payload).cloned()
        };
        Ok(answer.unwrap_or_default())
    }

    fn commit(&mut self, applied: Index, records: Vec<Record>) -> Result<(), MachineError> {
        let mut state = self.state.lock();
        state.applied = applied;
        for (key, value) in records {
            match value {
                Some(value) => state.records.insert(key, value),
                None => state.records.remove(&key),
            };
        }
        Ok(())
    }

    fn durable(&self) -> Index {
        self.durable.lock().applied
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        self.flush();
        let state = self.state.lock();
        let (mut content, mut records) = (Vec::new(), Vec::new());
        put_all(&mut content, &state.content);
        put_all(&mut records, &state.records);
        records.extend_from_slice(&state.applied.0.to_le_bytes());
        Ok(Box::new(MemorySnapshot(vec![content, records])))
    }

    fn staging(&self) -> Arc<dyn Staging> {
        Arc::new(MemoryStaging)
    }

    fn install(
        &mut self,
        arrived: Box<dyn Arriving>,
        _: &SnapshotMeta,
    ) -> Result<(), MachineError> {
        let doing = "installing a snapshot";
        let arrived = (arrived.into_any().downcast::<MemoryArriving>())
            .map_err(|_| MachineError::new(doing, "it is not of this machine"))?;
        let files: Vec<Bytes> = arrived.0.into_iter().map(|(b, _)| Bytes::from(b)).collect();
        let state = MemoryState::decode(&files).map_err(|e| MachineError::new(doing, e))?;
        *self.durable.lock() = state.clone();
        *self.state.lock() = state;
        Ok(())
    }
}

impl MemoryState {
    fn decode(files: &[Bytes]) -> Result<MemoryState, crate::codec::Malformed> {
        let mut maps = Vec::new();
        let mut applied = 0;
        for (at, file) in files.iter().enumerate() {
            let mut decoder = crate::codec::Decoder::new(file.clone());
            let mut map = BTreeMap::new();
            for _ in 0..decoder.count(8, "a count")? {
                map.insert(decoder.blob("a key")?, decoder.blob("a value")?);
            }
            if at == 1 {
                applied = decoder.u64("an index")?;
            }
            decoder.end()?;
            maps.push(map);
        }
        let mut maps = maps.into_iter();
        Ok(MemoryState {
            content: maps.next().unwrap_or_default(),
            records: maps.next().unwrap_or_default(),
            applied: Index(applied),
        })
    }
}

struct MemorySnapshot(Vec<Vec<u8>>);

impl SnapshotSource for MemorySnapshot {
    fn files(&self) -> Vec<SnapshotFile> {
        (self.0.iter().enumerate())
            .map(|(at, bytes)| SnapshotFile {
                name: at.to_string(),
                len: bytes.len() as u64,
                check: 0,
            })
            .collect()
    }

    fn read(&mut self, file: usize, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let at = offset as usize;
        let bytes = self.0.get(file).and_then(|b| b.get(at..at + into.len()));
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

struct MemoryStaging;

impl Staging for MemoryStaging {
    fn begin(&self, files: &[SnapshotFile], _: &dyn Fn() -> bool) -> io::Result<Box<dyn Arriving>> {
        let files = files.iter().map(|f| (Vec::new(), f.len)).collect();
        Ok(Box::new(MemoryArriving(files)))
    }
}

struct MemoryArriving(Vec<(Vec<u8>, u64)>);

impl Arriving for MemoryArriving {
    fn held(&self, file: usize) -> u64 {
        self.0[file].0.len() as u64
    }

    fn write(&mut self, file: usize, bytes: &[u8], _: &dyn Fn() -> bool) -> io::Result<()> {
        self.0[file].0.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self, _: &dyn Fn() -> bool) -> io::Result<()> {
        match self.0.iter().all(|(b, len)| b.len() as u64 == *len) {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}
