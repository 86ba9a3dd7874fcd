//! A state machine on `esker-lsm`: the store under Raft, which keeps no log of its own (C4).
//!
//! - LM1: the operations of the command at `index` have the SeqNos from `index << 20` on, the same on all nodes. What a commit holds is applied as
//!   one, with the runtime's records, so that after a restart the state is as of some commit (SM2).
//! - LM2: a snapshot is a checkpoint (links of the tables, which never change); one that arrives gathers in the directory of the store to be, and is
//!   installed by one durable change of the file `STORE`, which names the directory. Before that the state is the old one, behind it the new
//!   one, whole.
//! - LM3: the runtime hands in only entries that its own log has synced; so no table is ever ahead of that log (L3).
//! - LM4: which store is the state stands on the disk before anything is done on account of it: a process that was killed may have left a `STORE` that
//!   the next loss of power takes back, and with it what replaced the other store. So an open syncs the directory before it reads it; and where
//!   it is not known which of the two `STORE` names, nothing gathers in either until the next open.
//!
//! ```text
//! DIR/STORE           "store-a" or "store-b", a blank, the crc32 of the name as 8 hex digits, a newline
//! DIR/store-a/        a store with an external log; the other is where snapshots arrive
//! DIR/snapshot-<n>/   checkpoints on their way out; removed at open
//! keys of the store: 0 and a record's key; 1 and a key of the application; 2 and a key of the locks (`crate::lock`)
//! ```

mod batch;
mod effects;
mod snapshot;

pub use batch::{BatchAnswer, Batches, encode_batch};
pub use effects::Effects;

use crate::core::{Index, LogId as RaftId, SnapshotMeta, Term};
use crate::runtime::{
    APPLIED, Arriving, Command, MachineError, Record, SnapshotSource, Staging, StateMachine,
    time_of,
};
use crate::sabotage::{self, Sabotage};
use arc_swap::ArcSwap;
use bytes::Bytes;
use effects::Overlay;
use esker_lsm::{
    EntryBatch, ExternalLog, SeqNo, Snapshot, Store, StoreError, StoreOptions, remove_checkpoint,
};
use esker_wal::LogId;
use esker_wal::media::{LockGuard, Media};
use parking_lot::Mutex;
use snapshot::{Hashes, Incoming, Outgoing, Places, Slot, StagingDir};
use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// Operations that one command may do.
pub const OPS_MAX: usize = 1 << 19;
const SHIFT: u32 = 20;
const _: () = assert!(OPS_MAX < 1 << SHIFT);

const RECORD: u8 = 0;
pub(crate) const USER: u8 = 1;
/// Of [`crate::lock`].
const LOCKS: u8 = 2;

const STORE: &str = "STORE";
const NAMES: [&str; 2] = ["store-a", "store-b"];

fn key_of(space: u8, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 1);
    out.push(space);
    out.extend_from_slice(key);
    out
}

/// SeqNo of the first operation at `index`.
fn place(index: Index) -> Result<SeqNo, MachineError> {
    if index.0 >= 1 << (64 - SHIFT) {
        return Err(MachineError::new(
            "placing an entry",
            "the log is longer than this state machine can tell apart",
        ));
    }
    Ok(SeqNo(index.0 << SHIFT))
}

/// The entry whose operation has this SeqNo.
fn index_of(seqno: SeqNo) -> Index {
    Index(seqno.0 >> SHIFT)
}

/// What commands mean. Deterministic (SM1).
pub trait Application: Send + 'static {
    /// Applies a command, and answers it.
    fn apply(&mut self, command: Command, state: &mut Effects<'_>) -> Result<Bytes, MachineError>;

    /// Replicated time is at least this, by a leader of `term`.
    fn time(&mut self, term: Term, time: u64, state: &mut Effects<'_>) -> Result<(), MachineError> {
        let _ = (term, time, state);
        Ok(())
    }

    /// The state is another one now, a snapshot's: whatever was remembered of it is wrong. Also called at open.
    fn replaced(&mut self, state: &mut Effects<'_>) -> Result<(), MachineError> {
        let _ = state;
        Ok(())
    }
}

/// Reads the committed state, from any thread. Follows when a snapshot is installed.
#[derive(Clone, Debug)]
pub struct StateReader(Arc<ArcSwap<Store>>);

/// The state behind one commit, for as long as it lives. Owned.
#[derive(Clone, Debug)]
pub struct StateSnapshot {
    store: Arc<Store>,
    at: Snapshot,
}

impl StateReader {
    /// The value of a key, as of the last commit.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.snapshot().get(key) {
            // A snapshot was installed meanwhile.
            Err(StoreError::Closed) => self.snapshot().get(key),
            found => found,
        }
    }

    /// The state behind the last commit.
    #[must_use]
    pub fn snapshot(&self) -> StateSnapshot {
        let store = self.0.load_full();
        let at = store.snapshot();
        StateSnapshot { store, at }
    }

    /// What is applied and visible.
    #[must_use]
    pub fn applied(&self) -> Index {
        Index((self.0.load().visible().0 >> SHIFT).saturating_sub(1))
    }

    /// Numbers of the store.
    #[must_use]
    pub fn stats(&self) -> esker_lsm::StoreStats {
        self.0.load().stats()
    }
}

impl StateSnapshot {
    /// Replicated time as of this state, in microseconds since 1970; 0 before the first command.
    pub fn time(&self) -> Result<u64, StoreError> {
        let found = self.store.get_at(&self.at, &key_of(RECORD, APPLIED))?;
        Ok(found.value.and_then(|record| time_of(&record)).unwrap_or(0))
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.store.get_at(&self.at, &key_of(USER, key))?;
        Ok(found.value)
    }

    /// The entry that set a key last, as [`Effects::written`] says it; `None` where the key is not there.
    pub fn written(&self, key: &[u8]) -> Result<Option<Index>, StoreError> {
        let found = self.store.get_at(&self.at, &key_of(USER, key))?;
        Ok(found.value.map(|_| index_of(found.seqno)))
    }

    /// Keys from `start` on and below `end` (none: to the last), in order, with their values.
    pub fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<(Bytes, Bytes), StoreError>> + use<>, StoreError> {
        let start = key_of(USER, start);
        let end = end.map_or(effects::USER_END.to_vec(), |end| key_of(USER, end));
        let bounds = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
        let scan = self.store.scan(&self.at, bounds.0, bounds.1)?;
        Ok(scan.map(|entry| entry.map(|e| (e.key.slice(1..), e.value))))
    }
}

/// The machine. See the module.
pub struct LsmMachine<A> {
    app: A,
    dir: PathBuf,
    options: StoreOptions,
    id: LogId,
    store: Arc<ArcSwap<Store>>,
    overlay: Overlay,
    places: Arc<Mutex<Places>>,
    slots: Arc<Mutex<BTreeSet<usize>>>,
    /// What was being installed when `STORE` could not be replaced, or perhaps was (LM4).
    doubtful: Option<Box<Incoming>>,
    _lock: Box<dyn LockGuard>,
}

impl<A> std::fmt::Debug for LsmMachine<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LsmMachine")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

fn failed<E>(doing: &'static str) -> impl FnOnce(E) -> MachineError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |error| MachineError::new(doing, error)
}

/// The store's name that `STORE` says; `None` where there is no such file yet.
fn read_name(media: &dyn Media, dir: &Path) -> Result<Option<&'static str>, MachineError> {
    const DOING: &str = "reading which store is the state";
    let path = dir.join(STORE);
    if !media.exists(&path).map_err(failed(DOING))? {
        return Ok(None);
    }
    let file = media.open(&path).map_err(failed(DOING))?;
    let len = file.len().map_err(failed(DOING))?.min(64);
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).map_err(failed(DOING))?;
    let known = |name: &&&str| line_of(name).as_bytes() == bytes;
    let damaged = || {
        format!(
            "{} is damaged; restore this node from its peers",
            path.display()
        )
    };
    let name = NAMES.iter().find(known).copied();
    name.map(Some)
        .ok_or_else(|| MachineError::new(DOING, damaged()))
}

fn line_of(name: &str) -> String {
    format!("{name} {:08x}\n", crc32fast::hash(name.as_bytes()))
}

/// Replaces `STORE`; durable on return.
fn write_name(media: &dyn Media, dir: &Path, name: &str) -> io::Result<()> {
    let tmp = dir.join("STORE.tmp");
    match media.remove(&tmp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = media.create(&tmp, 0)?;
    file.write_all_at(line_of(name).as_bytes(), 0)?;
    file.sync()?;
    media.sync_dir(dir)?;
    media.rename(&tmp, &dir.join(STORE))?;
    match sabotage::on(Sabotage::NameNotSynced) {
        true => Ok(()),
        false => media.sync_dir(dir),
    }
}

fn other(name: &str) -> &'static str {
    match name == NAMES[0] {
        true => NAMES[1],
        false => NAMES[0],
    }
}

impl<A: Application> LsmMachine<A> {
    /// Opens or creates the state in `dir`. `id` is the same on all nodes (of the cluster). Of `options.log` media, clock and workers
    /// are used.
    pub fn open(
        dir: &Path,
        id: LogId,
        options: StoreOptions,
        app: A,
    ) -> Result<LsmMachine<A>, MachineError> {
        const DOING: &str = "opening the state";
        let media = options.log.media.clone();
        media.create_dir_all(dir).map_err(failed(DOING))?;
        let lock = media.lock(&dir.join("LOCK")).map_err(failed(DOING))?;
        if !sabotage::on(Sabotage::FoundNotSynced) {
            media.sync_dir(dir).map_err(failed(DOING))?;
        }
        let name = match read_name(&*media, dir)? {
            Some(name) => name,
            None => {
                write_name(&*media, dir, NAMES[0]).map_err(failed(DOING))?;
                NAMES[0]
            }
        };
        for entry in media.list(dir).map_err(failed(DOING))? {
            if entry.is_dir && entry.name.starts_with("snapshot-") {
                remove_checkpoint(&*media, &dir.join(entry.name)).map_err(failed(DOING))?;
            }
        }
        let (current, staging) = (dir.join(name), dir.join(other(name)));
        snapshot::leave_nothing_of_a_replaced_store(&*media, &current, &staging)?;
        let store = open_store(&current, id, &options)?;
        let mut machine = LsmMachine {
            app,
            dir: dir.to_owned(),
            options,
            id,
            store: Arc::new(ArcSwap::from_pointee(store)),
            overlay: Overlay::default(),
            places: Arc::new(Mutex::new(Places {
                current,
                staging,
                hashes: Hashes::default(),
                taken: Weak::new(),
            })),
            slots: Arc::default(),
            doubtful: None,
            _lock: lock,
        };
        machine.replaced()?;
        Ok(machine)
    }

    /// Reads the state beside the machine.
    #[must_use]
    pub fn reader(&self) -> StateReader {
        StateReader(self.store.clone())
    }

    /// The store, for numbers and stepped workers.
    #[must_use]
    pub fn store(&self) -> Store {
        Store::clone(&self.store.load())
    }

    fn with<R>(
        &mut self,
        index: Index,
        run: impl FnOnce(&mut A, &mut Effects<'_>) -> Result<R, MachineError>,
    ) -> Result<R, MachineError> {
        let store = self.store.load();
        let mut effects = Effects {
            store: &store,
            overlay: &mut self.overlay,
            index,
        };
        run(&mut self.app, &mut effects)
    }

    fn replaced(&mut self) -> Result<(), MachineError> {
        self.overlay.clear();
        let applied = self.reader().applied();
        self.with(applied, |app, state| app.replaced(state))?;
        match self.overlay.entries.is_empty() {
            true => Ok(()),
            false => Err(MachineError::new(
                "taking up a state",
                "the application wrote where it may only read",
            )),
        }
    }
}

fn open_store(dir: &Path, id: LogId, options: &StoreOptions) -> Result<Store, MachineError> {
    let base = place(Index(1))?;
    Store::open_external(dir, options.clone(), ExternalLog { id, base })
        .map_err(failed("opening the store of the state"))
}

impl<A: Application> StateMachine for LsmMachine<A> {
    fn records(&mut self) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
        const DOING: &str = "reading the runtime's records";
        let store = self.store.load();
        let (start, end) = ([RECORD], [RECORD + 1]);
        let bounds = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
        let scan = store.scan(&store.snapshot(), bounds.0, bounds.1);
        scan.map_err(failed(DOING))?
            .map(|entry| {
                let entry = entry.map_err(failed(DOING))?;
                Ok((entry.key.slice(1..), entry.value))
            })
            .collect()
    }

    fn apply(&mut self, command: Command) -> Result<Bytes, MachineError> {
        self.with(command.index, |app, state| app.apply(command, state))
    }

    fn time(&mut self, at: RaftId, time: u64) -> Result<(), MachineError> {
        self.with(at.index, |app, state| app.time(at.term, time, state))
    }

    fn commit(&mut self, applied: Index, records: Vec<Record>) -> Result<(), MachineError> {
        let batch = self.overlay.batch(applied);
        for (key, value) in &records {
            let key = key_of(RECORD, key);
            match value {
                Some(value) => batch.put(&key, value),
                None => batch.delete(&key),
            }
        }
        // LM3.
        (self.store.load()).note_log_synced(place(applied.next())?);
        self.commit_again()
    }

    fn commit_again(&mut self) -> Result<(), MachineError> {
        const DOING: &str = "committing to the store";
        let mut entries = Vec::with_capacity(self.overlay.entries.len());
        for at in &self.overlay.entries {
            entries.push(EntryBatch {
                first: place(at.index)?,
                end: place(at.index.next())?,
                batch: &at.batch,
            });
        }
        let store = self.store.load();
        match sabotage::on(Sabotage::CommitSplit) {
            true => entries.iter().try_for_each(|e| store.apply_entries(&[*e])),
            false => store.apply_entries(&entries),
        }
        .map_err(|error| match error.heals() {
            // SM5: it comes before anything is applied.
            true => MachineError::full(DOING, error),
            false => MachineError::new(DOING, error),
        })?;
        drop(entries);
        self.overlay.clear();
        Ok(())
    }

    fn pending_bytes(&self) -> usize {
        self.overlay.bytes
    }

    fn durable(&self) -> Index {
        Index((self.store.load().durable().0 >> SHIFT).saturating_sub(1))
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let slot = Slot::take(&self.slots);
        let dir = self.dir.join(format!("snapshot-{}", slot.number));
        Ok(Box::new(Outgoing::new(
            self.options.log.media.clone(),
            self.store(),
            dir,
            self.places.lock().hashes.clone(),
            slot,
        )))
    }

    fn staging(&self) -> Arc<dyn Staging> {
        Arc::new(StagingDir {
            media: self.options.log.media.clone(),
            places: self.places.clone(),
        })
    }

    fn install(
        &mut self,
        arrived: Box<dyn Arriving>,
        meta: &SnapshotMeta,
    ) -> Result<(), MachineError> {
        const DOING: &str = "installing a snapshot";
        let arrived = (arrived.into_any().downcast::<Incoming>())
            .map_err(|_| MachineError::new(DOING, "it is not of this machine"))?;
        let (current, staging) = {
            let places = self.places.lock();
            (places.current.clone(), places.staging.clone())
        };
        if !arrived.whole || arrived.dir != staging {
            return Err(MachineError::new(DOING, "it is not whole"));
        }
        let next = open_store(&staging, self.id, &self.options)?;
        if next.durable() < place(meta.last.index.next())? {
            let why = format!(
                "it stands for {}, and holds entries below SeqNo {} durably",
                meta.last,
                next.durable()
            );
            return Err(MachineError::new(DOING, why));
        }
        let name = staging.file_name().unwrap_or_default().to_string_lossy();
        if let Err(error) = write_name(&*self.options.log.media, &self.dir, &name) {
            self.doubtful = Some(arrived);
            return Err(MachineError::new(DOING, error));
        }
        snapshot::is_installed(&*self.options.log.media, &staging);
        let before = self.store.swap(Arc::new(next));
        {
            let mut places = self.places.lock();
            places.current = staging;
            places.staging.clone_from(&current);
            places.hashes = Hashes::default();
        }
        // Scans that still read it keep its files open.
        if let Err(error) = before.close() {
            tracing::debug!(%error, "closing the store that a snapshot replaced");
        }
        if let Err(error) = remove_checkpoint(&*self.options.log.media, &current) {
            tracing::debug!(%error, "the store that a snapshot replaced is left behind");
        }
        // SN5: from here on another may gather where the old store was.
        drop(arrived);
        self.replaced()
    }

    fn close(&mut self) -> Result<(), MachineError> {
        self.store
            .load()
            .close()
            .map_err(failed("closing the store"))
    }
}
