//! [`esker_wal`]'s log as the log storage of [openraft](openraft) 0.10: one log, one sync for whatever gathers.
//!
//! ```no_run
//! # openraft::declare_raft_types!(pub Config: D = String, R = String);
//! # async fn run() -> std::io::Result<()> {
//! use esker_openraft::{LogStore, LogStoreOptions};
//!
//! let options = LogStoreOptions::new("data/log", /* cluster */ 1, /* node */ 3);
//! let log: LogStore<Config> = LogStore::open(options)?;
//! // Raft::new(3, config, network, log.clone(), state_machine)
//! log.close()?;
//! # Ok(()) }
//! ```
//!
//! - OR1: entries, votes, truncations and purges stand in one stream of frames, in the order in which openraft asked for them; each frame has a
//!   checksum that is bound to the log's identity and its place.
//! - OR2: [`save_vote`](openraft::storage::RaftLogStorage::save_vote) and `purge` return once they are synced; an append calls its callback then, and appends that
//!   come while a sync runs share the next. What is truncated comes back only with a power cut before the next sync.
//! - OR3: an entry that is superseded can't come back: a truncation stands before whatever replaces it.
//! - OR4: a purge writes vote and committed index again before it, so that the files below can go: they are recycled once no entry in them is needed
//!   and no reader is at work there.
//! - OR5: damage below what was synced is reported by open and by reads, with its place; a torn tail after a crash is cut.
//! - OR6: a failed sync ends the log: everything fails until it is opened again.
//!
//! Memory: a log id and a position per entry that is not purged. Entries are read from the mapped file; there is no cache.
//! What is written stands in the source of `record`.

mod record;

use esker_wal::{
    Create, Frame, Log, LogError, LogId as WalId, LogOptions, Lsn, NodeId as Disk, ReadLimit,
    Reader,
};
use openraft::alias::{LogIdOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{OptionalSend, RaftTypeConfig};
use parking_lot::Mutex;
use record::{Garbled, Kind, Record, write};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of entries that [`RaftLogReader::limited_get_log_entries`] returns at most; one entry always.
const READ_BYTES: usize = 1 << 20;

/// Where the log is, and whose.
#[derive(Clone, Debug)]
pub struct LogStoreOptions {
    /// Its directory; made where there is none.
    pub dir: PathBuf,
    /// The cluster's number.
    pub cluster: u64,
    /// The node's. A directory is bound to cluster and node: others are refused.
    pub node: u64,
    /// Of the log below: bytes of a segment, the bound of what is not synced, media. Who may create, and what is done about damage
    /// (refused), are decided here.
    pub log: LogOptions,
}

impl LogStoreOptions {
    /// With the log's defaults.
    pub fn new(dir: impl Into<PathBuf>, cluster: u64, node: u64) -> LogStoreOptions {
        LogStoreOptions {
            dir: dir.into(),
            cluster,
            node,
            log: LogOptions::default(),
        }
    }
}

/// A log store of openraft. Clones share it. See the crate.
pub struct LogStore<C: RaftTypeConfig> {
    shared: Arc<Shared<C>>,
}

impl<C: RaftTypeConfig> Clone for LogStore<C> {
    fn clone(&self) -> Self {
        let shared = self.shared.clone();
        LogStore { shared }
    }
}

impl<C: RaftTypeConfig> Debug for LogStore<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore")
            .field("dir", &self.shared.dir)
            .finish_non_exhaustive()
    }
}

struct Shared<C: RaftTypeConfig> {
    dir: PathBuf,
    log: Log,
    /// Held while a frame is appended: the order of frames is that of what they say.
    state: Mutex<State<C>>,
}

/// What the log says.
struct State<C: RaftTypeConfig> {
    vote: Option<VoteOf<C>>,
    committed: Option<LogIdOf<C>>,
    purged: Option<LogIdOf<C>>,
    /// Entries behind `purged`, without a gap, and where they stand.
    entries: VecDeque<(LogIdOf<C>, Lsn)>,
    /// While the log is read: entries below this index did not come. A purge further on says that they are not needed.
    missing_below: Option<u64>,
}

impl<C: RaftTypeConfig> State<C> {
    fn next_index(&self) -> Option<u64> {
        let last = self.entries.back().map(|(id, _)| id);
        last.or(self.purged.as_ref()).map(|id| id.index() + 1)
    }

    /// Entries from `index` on are gone.
    fn truncate(&mut self, index: u64) {
        while self
            .entries
            .back()
            .is_some_and(|(id, _)| id.index() >= index)
        {
            self.entries.pop_back();
        }
    }

    /// Entries up to `id` are gone.
    fn purge(&mut self, id: LogIdOf<C>) {
        let through = id.index();
        while self
            .entries
            .front()
            .is_some_and(|(id, _)| id.index() <= through)
        {
            self.entries.pop_front();
        }
        self.purged = Some(id);
        self.missing_below = self.missing_below.filter(|below| *below > through + 1);
    }

    /// Takes a frame found at `at`.
    fn replay(&mut self, at: Lsn, payload: &[u8]) -> Result<(), Garbled>
    where
        C::Entry: DeserializeOwned,
    {
        let record = Record::read(payload)?;
        match record.kind {
            Kind::Vote => self.vote = Some(record.body()?),
            Kind::Committed => self.committed = record.body()?,
            Kind::Truncated => self.truncate(record.number),
            Kind::Purged => self.purge(record.body()?),
            Kind::Entry => {
                let id = record.body::<C::Entry>()?.log_id();
                let next = self.next_index().unwrap_or(id.index());
                if id.index() < next || id.index() != record.number {
                    return Err(Garbled::Record(
                        "an entry that does not follow the one before",
                    ));
                }
                if id.index() > next {
                    // The files of what was purged are gone up to somewhere.
                    self.entries.clear();
                    self.missing_below = Some(id.index());
                }
                self.entries.push_back((id, at));
            }
        }
        Ok(())
    }
}

fn failed(error: LogError) -> io::Error {
    let kind = match error {
        LogError::NoSpace { .. } => io::ErrorKind::StorageFull,
        LogError::Corrupt { .. } => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

fn garbled(dir: &Path, at: Lsn, why: Garbled) -> io::Error {
    let text = format!("{}: frame at LSN {at}: {why}", dir.display());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl<C> LogStore<C>
where
    C: RaftTypeConfig,
    C::Entry: Serialize + DeserializeOwned,
    VoteOf<C>: Serialize + DeserializeOwned,
    LogIdOf<C>: Serialize + DeserializeOwned,
{
    /// Opens the log, or makes one where there is none. Reads all of it.
    pub fn open(options: LogStoreOptions) -> io::Result<LogStore<C>> {
        let LogStoreOptions {
            dir,
            cluster,
            node,
            log: mut log_options,
        } = options;
        let id = WalId(u128::from(cluster) << 64 | u128::from(node));
        log_options.create = Some(Create {
            log: id,
            node: Disk::random(),
            base: Lsn::ZERO,
        });
        log_options.expect_log = Some(id);
        let (log, _) = Log::open(&dir, log_options)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut state = State {
            vote: None,
            committed: None,
            purged: None,
            entries: VecDeque::new(),
            missing_below: None,
        };
        let mut reader = log
            .reader(log.oldest(), ReadLimit::Published)
            .map_err(failed)?;
        while let Some(frame) = reader.next().map_err(failed)? {
            if frame.header.kind == esker_wal::Kind::Data {
                let at = frame.header.lsn;
                (state.replay(at, &frame.payload)).map_err(|why| garbled(&dir, at, why))?;
            }
        }
        drop(reader);
        if let Some(below) = state.missing_below {
            let text = format!(
                "{}: entries below {below} are missing, and were not purged; restore the node from its peers",
                dir.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(LogStore {
            shared: Arc::new(Shared {
                dir,
                log,
                state: Mutex::new(state),
            }),
        })
    }

    /// Syncs, and ends the log's threads. Afterwards everything fails; a second time it does nothing.
    pub fn close(&self) -> io::Result<()> {
        self.shared.log.close().map_err(failed)
    }
}

impl<C: RaftTypeConfig> Shared<C> {
    /// Appends a frame: where it begins and ends.
    fn put<T: Serialize>(
        &self,
        kind: Kind,
        number: u64,
        body: Option<&T>,
    ) -> io::Result<(Lsn, Lsn)> {
        let payload = write(kind, number, body)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let appended = self.log.append(&[&payload]).map_err(failed)?;
        Ok((appended.lsn, appended.end))
    }

    async fn synced(&self, end: Lsn) -> io::Result<()> {
        self.log.until_synced(end).await.map_err(failed)
    }

    /// The entries of a range that are there, at most `bytes_max` of them but at least one.
    fn entries(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> io::Result<Vec<C::Entry>>
    where
        C::Entry: DeserializeOwned,
    {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(from) => from.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(to) => to.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        let (places, mut reader): (Vec<Lsn>, Reader) = {
            let state = self.state.lock();
            let Some(first) = state.entries.front().map(|(id, _)| id.index()) else {
                return Ok(Vec::new());
            };
            let end = first + state.entries.len() as u64;
            let (from, to) = (from.max(first), to.min(end));
            if from >= to {
                return Ok(Vec::new());
            }
            let range = (from - first) as usize..(to - first) as usize;
            let places: Vec<Lsn> = state.entries.range(range).map(|(_, at)| *at).collect();
            // It keeps the files from being recycled, so what is read is as of now.
            let reader = self.log.reader(places[0], ReadLimit::Published);
            (places, reader.map_err(failed)?)
        };
        let mut out = Vec::new();
        let mut bytes = 0;
        for at in places {
            let frame = self.at(&mut reader, at)?;
            let entry = Record::read(&frame.payload).and_then(|record| record.body());
            out.push(entry.map_err(|why| garbled(&self.dir, at, why))?);
            bytes += frame.payload.len();
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(out)
    }

    /// The frame at `at`, which is at or behind the reader's place.
    fn at(&self, reader: &mut Reader, at: Lsn) -> io::Result<Frame> {
        while let Some(frame) = reader.next().map_err(failed)? {
            if frame.header.lsn == at {
                return Ok(frame);
            }
        }
        Err(garbled(&self.dir, at, Garbled::Record("it is not there")))
    }
}

impl<C> RaftLogReader<C> for LogStore<C>
where
    C: RaftTypeConfig,
    C::Entry: Serialize + DeserializeOwned,
    VoteOf<C>: Serialize + DeserializeOwned,
    LogIdOf<C>: Serialize + DeserializeOwned,
{
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<C::Entry>, io::Error> {
        self.shared.entries(range, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<C>>, io::Error> {
        Ok(self.shared.state.lock().vote.clone())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<C::Entry>, io::Error> {
        self.shared.entries(start..end, READ_BYTES)
    }
}

impl<C> RaftLogStorage<C> for LogStore<C>
where
    C: RaftTypeConfig,
    C::Entry: Serialize + DeserializeOwned,
    VoteOf<C>: Serialize + DeserializeOwned,
    LogIdOf<C>: Serialize + DeserializeOwned,
{
    type LogReader = LogStore<C>;

    async fn get_log_state(&mut self) -> Result<LogState<C>, io::Error> {
        let state = self.shared.state.lock();
        let last = state.entries.back().map(|(id, _)| id);
        Ok(LogState {
            last_purged_log_id: state.purged.clone(),
            last_log_id: last.or(state.purged.as_ref()).cloned(),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore<C> {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<C>) -> Result<(), io::Error> {
        let end = {
            let mut state = self.shared.state.lock();
            let (_, end) = self.shared.put(Kind::Vote, 0, Some(vote))?;
            state.vote = Some(vote.clone());
            end
        };
        self.shared.synced(end).await
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        let mut state = self.shared.state.lock();
        self.shared.put(Kind::Committed, 0, Some(&committed))?;
        state.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<C>>, io::Error> {
        Ok(self.shared.state.lock().committed.clone())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = C::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut upto = None;
        {
            let mut state = self.shared.state.lock();
            for entry in entries {
                let id = entry.log_id();
                if state.next_index().is_some_and(|next| next != id.index()) {
                    let text = format!("entry {id} would leave a hole in the log");
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                }
                let (at, end) = self.shared.put(Kind::Entry, id.index(), Some(&entry))?;
                state.entries.push_back((id, at));
                upto = Some(end);
            }
        }
        let Some(end) = upto else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let synced = self.shared.log.until_synced(end);
        // Nobody waits for the task: it ends with the sync.
        drop(C::spawn(async move {
            callback.io_completed(synced.await.map_err(failed));
        }));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        let index = last.map_or(0, |id| id.index() + 1);
        let mut state = self.shared.state.lock();
        self.shared.put::<()>(Kind::Truncated, index, None)?;
        state.truncate(index);
        Ok(())
    }

    async fn purge(&mut self, id: LogIdOf<C>) -> Result<(), io::Error> {
        let (first, end) = {
            let mut state = self.shared.state.lock();
            if state.purged.as_ref().is_some_and(|purged| *purged >= id) {
                return Ok(());
            }
            // OR4.
            let (first, mut end) = self.shared.put(Kind::Purged, 0, Some(&id))?;
            if let Some(vote) = &state.vote {
                (_, end) = self.shared.put(Kind::Vote, 0, Some(vote))?;
            }
            if state.committed.is_some() {
                (_, end) = self
                    .shared
                    .put(Kind::Committed, 0, Some(&state.committed))?;
            }
            state.purge(id);
            let entry = state.entries.front().map(|(_, at)| *at);
            (entry.map_or(first, |at| at.min(first)), end)
        };
        self.shared.synced(end).await?;
        self.shared.log.release(first);
        Ok(())
    }
}
