//! fjall's batches: a store, whose journal is the log. It keeps a memtable besides, which a log alone has no use for.

use crate::rival::{Engine, Failure, LogRival, Mode, Plan, locked};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

struct Store {
    database: Database,
    keyspace: Keyspace,
    next: AtomicU64,
}

impl Store {
    fn append(&self, payload: &[u8], mode: PersistMode) -> Result<(), Failure> {
        let key = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut batch = self.database.batch().durability(Some(mode));
        batch.insert(&self.keyspace, key, payload);
        batch.commit()?;
        Ok(())
    }
}

impl LogRival for Store {
    fn append_synced(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        self.append(payload, PersistMode::SyncData)
    }

    fn append_buffered(&self, _thread: usize, payload: &[u8]) -> Result<(), Failure> {
        self.append(payload, PersistMode::Buffer)
    }

    fn sync(&self) -> Result<(), Failure> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}

fn store(dir: &Path, plan: &Plan) -> Result<Store, Failure> {
    let database = Database::builder(dir).max_journaling_size(8 << 30).open()?;
    let memtable = match plan.mode {
        Mode::Synced | Mode::Sustained => 64 << 20,
        Mode::Burst | Mode::Replay => 2 << 30,
    };
    let keyspace = database.keyspace("log", || {
        KeyspaceCreateOptions::default().max_memtable_size(memtable)
    })?;
    Ok(Store {
        database,
        keyspace,
        next: AtomicU64::new(0),
    })
}

fn replay(dir: &Path, plan: &Plan, each: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
    let store = store(dir, plan)?;
    for item in store.keyspace.iter() {
        each(&item.value()?);
    }
    Ok(())
}

/// It.
pub(crate) fn engine() -> Engine {
    Engine {
        name: "fjall",
        version: locked("fjall"),
        floor: false,
        modes: &[Mode::Synced, Mode::Burst, Mode::Sustained, Mode::Replay],
        threads_max: usize::MAX,
        settings: "a batch of one key per append, PersistMode::SyncData or Buffer; no compression; memtable of 64 MiB, in bursts and replay large enough for all; replay: open and iterate",
        open: |dir, plan| Ok(Box::new(store(dir, plan)?)),
        replay: Some(replay),
    }
}
