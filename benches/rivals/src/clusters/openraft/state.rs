//! The state machine: a map in memory.

use crate::{Put, Types};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use std::collections::BTreeMap;
use std::io;

/// A whole state.
pub(crate) type Content = BTreeMap<Bytes, Bytes>;
type Snapshot = SnapshotOf<Types, Content>;

#[derive(Clone, Default)]
pub(crate) struct Machine {
    content: Content,
    applied: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
    snapshot: Option<Snapshot>,
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = Content;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        Ok(Snapshot {
            meta: SnapshotMetaOf::<Types> {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
            },
            snapshot: self.content.clone(),
        })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Content;
    type SnapshotBuilder = Machine;

    async fn applied_state(
        &mut self,
    ) -> io::Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(Put { key, value }) => drop(self.content.insert(key, value)),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembershipOf::<Types>::new(self.applied, membership);
                }
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        let built = self.clone().build_snapshot().await;
        self.snapshot = built.ok();
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        snapshot: Content,
    ) -> io::Result<()> {
        self.content = snapshot.clone();
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        let meta = meta.clone();
        self.snapshot = Some(Snapshot { meta, snapshot });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshot.clone())
    }
}
