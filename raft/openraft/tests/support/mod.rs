//! What the tests share: types, and a log on the simulated medium.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use esker_openraft::{LogStore, LogStoreOptions};
use esker_wal::media::clock::ManualClock;
use esker_wal::media::sim::SimMedia;
use openraft::alias::EntryOf;
use openraft::alias::{CommittedLeaderIdOf, LogIdOf};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, LogId, Vote};
use std::io;
use std::sync::Arc;

openraft::declare_raft_types!(pub Config: D = String, R = String);

pub type Store = LogStore<Config>;

pub const DIR: &str = "/raft";

pub fn options(media: &SimMedia) -> LogStoreOptions {
    let mut options = LogStoreOptions::new(DIR, 1, 3);
    options.log.media = Arc::new(media.clone());
    options.log.clock = Arc::new(ManualClock::default());
    options.log.segment_bytes = 16 << 10;
    options
}

pub fn medium() -> SimMedia {
    use esker_wal::media::Media;
    let media = SimMedia::new(1);
    media.create_dir_all(DIR.as_ref()).unwrap();
    media
}

pub fn open(media: &SimMedia) -> Store {
    LogStore::open(options(media)).unwrap()
}

pub fn id(term: u64, index: u64) -> LogIdOf<Config> {
    let leader = CommittedLeaderIdOf::<Config>::new(term, 1);
    LogId::new(leader, index)
}

pub fn entry(term: u64, index: u64, text: &str) -> EntryOf<Config> {
    EntryOf::<Config>::new(id(term, index), EntryPayload::Normal(text.to_owned()))
}

/// Appends, and waits until it is synced.
pub async fn append(store: &mut Store, entries: Vec<EntryOf<Config>>) -> io::Result<()> {
    let (tell, told) = Config::oneshot();
    store.append(entries, IOFlushed::signal(tell)).await?;
    told.await.expect("the callback is called")
}

/// Indexes and texts of all that is there.
pub async fn all(store: &mut Store) -> Vec<(u64, String)> {
    let entries = store.try_get_log_entries(..).await.unwrap();
    (entries.into_iter())
        .map(|entry| match entry.payload {
            EntryPayload::Normal(text) => (entry.log_id.index, text),
            other => panic!("{other:?}"),
        })
        .collect()
}

pub fn vote(term: u64) -> Vote<openraft::alias::LeaderIdOf<Config>> {
    Vote::new(term, 1)
}
