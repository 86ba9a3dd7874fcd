//! The log on fjall: an entry per key, all appends that gather while it syncs behind one `persist(SyncAll)`.

use crate::{Failure, Types};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use openraft::OptionalSend;
use openraft::alias::{LogIdOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::mpsc;

type Entry = openraft::alias::EntryOf<Types>;

#[derive(Clone)]
pub(crate) struct Store {
    database: Database,
    entries: Keyspace,
    about: Keyspace,
    /// To the thread that syncs.
    appended: mpsc::Sender<IOFlushed<Types>>,
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}

fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    rmp_serde::to_vec(value).map_err(failed)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(bytes).map_err(failed)
}

impl Store {
    pub(crate) fn open(dir: &Path) -> Result<Store, Failure> {
        let database = Database::builder(dir).open()?;
        let entries = database.keyspace("entries", KeyspaceCreateOptions::default)?;
        let about = database.keyspace("about", KeyspaceCreateOptions::default)?;
        let (appended, gathered) = mpsc::channel::<IOFlushed<Types>>();
        let syncing = database.clone();
        std::thread::Builder::new()
            .name("sync".into())
            .spawn(move || {
                while let Ok(first) = gathered.recv() {
                    let mut group = vec![first];
                    group.extend(gathered.try_iter());
                    let result = syncing.persist(PersistMode::SyncAll);
                    for one in group {
                        one.io_completed(match &result {
                            Ok(()) => Ok(()),
                            Err(error) => Err(failed(error.to_string())),
                        });
                    }
                }
            })?;
        Ok(Store {
            database,
            entries,
            about,
            appended,
        })
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let found = self.about.get(name).map_err(failed)?;
        found.map(|bytes| decode(&bytes)).transpose()
    }

    fn put<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        (self.about.insert(name, encode(value)?)).map_err(failed)
    }

    fn remove(&self, range: impl RangeBounds<u64>) -> io::Result<()> {
        let bound = |bound: Bound<&u64>| bound.map(|index| index.to_be_bytes());
        let range = (bound(range.start_bound()), bound(range.end_bound()));
        let mut batch = self.database.batch();
        for item in self.entries.range(range) {
            batch.remove(&self.entries, item.key().map_err(failed)?);
        }
        batch.commit().map_err(failed)
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let bound = |bound: Bound<&u64>| bound.map(|index| index.to_be_bytes());
        let range = (bound(range.start_bound()), bound(range.end_bound()));
        (self.entries.range(range))
            .map(|item| decode(&item.value().map_err(failed)?))
            .collect()
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Types>>> {
        self.get("vote")
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let purged: Option<LogIdOf<Types>> = self.get("purged")?;
        let last = match self.entries.last_key_value() {
            Some(item) => Some(decode::<Entry>(&item.value().map_err(failed)?)?.log_id()),
            None => purged,
        };
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last,
        })
    }

    async fn get_log_reader(&mut self) -> Store {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> io::Result<()> {
        self.put("vote", vote)?;
        self.database.persist(PersistMode::SyncAll).map_err(failed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = self.database.batch();
        for entry in entries {
            let key = entry.log_id().index.to_be_bytes();
            batch.insert(&self.entries, key, encode(&entry)?);
        }
        batch.commit().map_err(failed)?;
        self.appended
            .send(callback)
            .map_err(|_| failed("the thread that syncs has ended"))
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> io::Result<()> {
        self.remove(last.map_or(0, |id| id.index + 1)..)
    }

    async fn purge(&mut self, id: LogIdOf<Types>) -> io::Result<()> {
        self.put("purged", &id)?;
        self.remove(..=id.index)
    }
}
