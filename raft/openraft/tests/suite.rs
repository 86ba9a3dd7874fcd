//! openraft's own suite for storage: `openraft::testing::log::Suite`.

mod support;

use esker_openraft::{LogStore, LogStoreOptions};
use futures_util::{Stream, StreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, OptionalSend, StorageError};
use std::io;
use std::sync::{Arc, Mutex};
use support::Config;

/// A state machine that only counts: the suite is about the log.
#[derive(Clone, Default)]
struct Machine(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    applied: Option<LogIdOf<Config>>,
    membership: StoredMembershipOf<Config>,
    snapshot: Option<SnapshotMetaOf<Config>>,
}

impl RaftSnapshotBuilder<Config> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Config, ()>, io::Error> {
        let mut state = self.0.lock().unwrap();
        let meta = SnapshotMetaOf::<Config> {
            last_log_id: state.applied,
            last_membership: state.membership.clone(),
        };
        state.snapshot = Some(meta.clone());
        Ok(SnapshotOf::<Config, ()> { meta, snapshot: () })
    }
}

impl RaftStateMachine<Config> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Machine;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Config>>, StoredMembershipOf<Config>), io::Error> {
        let state = self.0.lock().unwrap();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Config>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let mut state = self.0.lock().unwrap();
            state.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                state.membership =
                    StoredMembershipOf::<Config>::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(String::new());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Config>,
        (): (),
    ) -> Result<(), io::Error> {
        let mut state = self.0.lock().unwrap();
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        state.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Config, ()>>, io::Error> {
        let meta = self.0.lock().unwrap().snapshot.clone();
        Ok(meta.map(|meta| SnapshotOf::<Config, ()> { meta, snapshot: () }))
    }
}

struct Builder;

impl StoreBuilder<Config, LogStore<Config>, Machine, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore<Config>, Machine), StorageError<Config>> {
        let dir = tempfile::tempdir().unwrap();
        let mut options = LogStoreOptions::new(dir.path().join("log"), 1, 1);
        options.log.segment_bytes = 1 << 20;
        Ok((dir, LogStore::open(options).unwrap(), Machine::default()))
    }
}

/// On real files.
#[tokio::test(flavor = "multi_thread")]
async fn openraft_s_suite_holds() {
    Suite::test_all(Builder).await.unwrap();
}
