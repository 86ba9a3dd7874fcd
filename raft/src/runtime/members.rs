//! What the membership says of the members, and what it should say of this one: disks and addresses.
//!
//! - MB1 (C2): a member is known by its disk. Who speaks under its id from another is not heard; one whose disk is not known yet is bound to that
//!   from which it speaks first, this node by itself where it leads.
//! - MB2 (C2): a node whose id the membership knows by another disk has promised what it does not know. It votes for nobody, and takes entries, or it
//!   would never come to know that it was added anew: then the membership knows its id by no disk, or by its own.
//! - MB3: where the membership does not say where clients reach this node, it says so to who leads, from time to time until it does (DR7).

use super::about::About;
use crate::core::{Change, Membership, NodeId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often a node looks whether the cluster knows where clients reach it (MB3).
const ANNOUNCE_EVERY: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct Members {
    me: NodeId,
    disk: u64,
    /// Where clients reach this node; empty where they do not.
    client: String,
    /// The membership that the rest is of.
    at: Option<Membership>,
    /// The identity of a disk by which a peer is known.
    disks: BTreeMap<NodeId, u64>,
    /// When to look again (MB3).
    announce: Instant,
}

/// Who speaks under an id (MB1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// The member, or one of whom the membership says nothing.
    Itself,
    /// The member, whose disk is to be bound.
    Unbound,
    /// A wiped node that came back under its id.
    AnotherDisk,
}

/// What a new membership asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Followed {
    /// Where the others are reached.
    pub(super) addresses: BTreeMap<NodeId, String>,
    /// MB2.
    pub(super) stranger: bool,
}

impl Members {
    pub(super) fn new(me: NodeId, disk: u64, client: String) -> Members {
        Members {
            me,
            disk,
            client,
            at: None,
            disks: BTreeMap::new(),
            announce: Instant::now(),
        }
    }

    /// Whether `membership` is the one that was followed last.
    pub(super) fn is_at(&self, membership: &Membership) -> bool {
        self.at.as_ref() == Some(membership)
    }

    /// From now on what is known is that of `membership`; none where it was already.
    pub(super) fn follow(&mut self, membership: &Membership) -> Option<Followed> {
        if self.is_at(membership) {
            return None;
        }
        self.at = Some(membership.clone());
        let mut abouts: BTreeMap<NodeId, About> = (membership.about.keys())
            .filter_map(|node| Some((*node, about(membership, *node)?)))
            .collect();
        abouts.remove(&self.me);
        self.disks = abouts.iter().map(|(n, about)| (*n, about.disk)).collect();
        Some(Followed {
            addresses: (abouts.into_iter())
                .map(|(n, about)| (n, about.address))
                .collect(),
            stranger: is_another_disk(membership, self.me, self.disk),
        })
    }

    /// Who speaks under the id `node`, from `disk`.
    pub(super) fn speaker(&self, node: NodeId, disk: u64) -> Speaker {
        match self.disks.get(&node) {
            Some(0) => Speaker::Unbound,
            Some(known) if *known != disk => Speaker::AnotherDisk,
            _ => Speaker::Itself,
        }
    }

    /// Whether it is time to say where clients reach this node, and `membership` does not (MB3).
    pub(super) fn is_to_announce(&mut self, now: Instant, membership: &Membership) -> bool {
        if self.client.is_empty() || now < self.announce {
            return false;
        }
        self.announce = now + ANNOUNCE_EVERY;
        about(membership, self.me).is_some_and(|about| about.client != self.client)
    }
}

fn about(membership: &Membership, node: NodeId) -> Option<About> {
    About::decode(membership.about.get(&node)?).ok()
}

/// The change after which `membership` says of `node` what `change` makes of it; none where it says so already, or nothing of that node.
pub(super) fn described(
    membership: &Membership,
    node: NodeId,
    change: impl FnOnce(&mut About),
) -> Option<Change> {
    let before = about(membership, node)?;
    let mut after = before.clone();
    change(&mut after);
    (after != before).then(|| Change::Describe(node, after.encode()))
}

/// Whether the membership knows this node's id by another disk than its own (MB2).
pub(super) fn is_another_disk(membership: &Membership, me: NodeId, disk: u64) -> bool {
    about(membership, me).is_some_and(|about| about.disk != 0 && about.disk != disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const DISK: u64 = 11;

    /// Of these disks, one a member.
    fn membership(disks: [u64; 3]) -> Membership {
        let ids = (1..).map(NodeId);
        let mut membership = Membership::of(ids.clone().take(3));
        for (node, disk) in ids.zip(disks) {
            let mut about = About::at(&format!("host:{}", node.0), "");
            about.disk = disk;
            membership.about.insert(node, about.encode());
        }
        membership
    }

    fn members() -> Members {
        Members::new(ME, DISK, "client:1".into())
    }

    #[test]
    fn mb1_who_speaks_under_an_id_from_another_disk_is_told_from_the_member() {
        let mut members = members();
        assert_eq!(members.speaker(NodeId(2), 22), Speaker::Itself, "unknown");
        members.follow(&membership([DISK, 22, 0]));
        assert_eq!(members.speaker(NodeId(2), 22), Speaker::Itself);
        assert_eq!(members.speaker(NodeId(2), 23), Speaker::AnotherDisk);
        assert_eq!(members.speaker(NodeId(3), 33), Speaker::Unbound);
        assert_eq!(members.speaker(NodeId(4), 44), Speaker::Itself, "no member");
        members.follow(&membership([DISK, 0, 33]));
        assert_eq!(members.speaker(NodeId(2), 23), Speaker::Unbound);
        assert_eq!(members.speaker(NodeId(3), 34), Speaker::AnotherDisk);
    }

    #[test]
    fn a_membership_is_followed_once_and_names_the_addresses_of_the_others() {
        let mut members = members();
        let first = membership([DISK, 22, 33]);
        assert!(!members.is_at(&first));
        let followed = members.follow(&first).expect("it is new");
        let names = [(NodeId(2), "host:2".into()), (NodeId(3), "host:3".into())];
        assert_eq!(followed.addresses, BTreeMap::from(names));
        assert!(members.is_at(&first));
        assert_eq!(members.follow(&first), None);
        assert!(members.follow(&membership([DISK, 22, 34])).is_some());
    }

    #[test]
    fn mb2_only_who_is_known_by_another_disk_is_a_stranger() {
        let mut members = members();
        for (known, stranger) in [(12, true), (0, false), (13, true), (DISK, false)] {
            let followed = members.follow(&membership([known, 22, 33])).unwrap();
            assert_eq!(followed.stranger, stranger, "{known}");
        }
        members.follow(&membership([12, 22, 33]));
        let nobody = Membership::of([NodeId(2)]);
        assert!(!members.follow(&nobody).unwrap().stranger);
    }

    #[test]
    fn mb3_a_node_is_announced_now_and_then_until_the_membership_has_its_address() {
        let mut members = members();
        let mut current = membership([DISK, 22, 33]);
        let start = Instant::now();
        assert!(members.is_to_announce(start, &current));
        assert!(!members.is_to_announce(start, &current), "it was just now");
        let next = start + ANNOUNCE_EVERY;
        assert!(members.is_to_announce(next, &current));
        let change = described(&current, ME, |about| about.client = "client:1".into());
        let Some(Change::Describe(ME, about)) = change else {
            panic!("{change:?}");
        };
        current.about.insert(ME, about);
        let next = next + ANNOUNCE_EVERY;
        assert!(!members.is_to_announce(next, &current), "it is known");
        let nobody = Membership::of([NodeId(2)]);
        let next = next + ANNOUNCE_EVERY;
        assert!(!members.is_to_announce(next, &nobody), "it is no member");
    }

    #[test]
    fn what_the_membership_says_already_is_no_change() {
        let current = membership([0, 22, 33]);
        let bind = |about: &mut About| about.disk = 22;
        assert!(described(&current, ME, bind).is_some());
        assert!(described(&current, NodeId(2), bind).is_none());
        assert!(described(&current, NodeId(9), bind).is_none(), "no member");
    }
}
