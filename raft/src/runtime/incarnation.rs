//! Which life of its cluster a node belongs to.
//!
//! A cluster that lost a majority for good and was recovered from one node ([`super::Recovery`]) goes on as another *incarnation*. Members that
//! were given up may hold what the recovered one has not, vote for each other, and lead a term of any number; no term, disk number or epoch of
//! theirs tells that apart from a rightful leader. So the two do not speak:
//!
//! - IN1: every packet carries the cluster's number with the incarnation folded in ([`on_wire`]); both sides drop what bears another (TR2).
//! - IN2: the incarnation stands in the membership, in the log and in snapshots, and so is every member's for ever; a node that is a member
//!   follows its log, whatever its options say. Options say it to a node that joins, which has no log yet.
//! - IN3: a disk that was a member of one incarnation never speaks in another: it is refused at the start.
//!
//! ```text
//! membership, what is known of node 0 (the cluster): kind u8 (2), incarnation u64; absent: 0, the first
//! ```

use super::about::About;
use super::error::StartError;
use crate::codec::{Decoder, Malformed};
use crate::core::{Membership, NodeId};
use bytes::Bytes;

/// The first byte of an [`About`] is 1: the two are not mistaken for each other.
const KIND: u8 = 2;

/// That of a membership.
pub(super) fn of(membership: &Membership) -> Result<u64, Malformed> {
    let Some(bytes) = membership.about.get(&NodeId::CLUSTER) else {
        return Ok(0);
    };
    let mut d = Decoder::new(bytes.clone());
    if d.u8("a kind")? != KIND {
        return Err(d.malformed("what is known of the cluster"));
    }
    let incarnation = d.u64("an incarnation")?;
    d.end()?;
    Ok(incarnation)
}

/// Says it in a membership.
pub(super) fn say(membership: &mut Membership, incarnation: u64) {
    let mut bytes = vec![KIND];
    bytes.extend_from_slice(&incarnation.to_le_bytes());
    membership.about.insert(NodeId::CLUSTER, Bytes::from(bytes));
}

/// IN1. The first incarnation's is the cluster's number; of one cluster no two are the same.
pub(super) fn on_wire(cluster: u64, incarnation: u64) -> u64 {
    // An odd factor: one to one, and 0 stays 0.
    cluster ^ incarnation.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// IN2, IN3: of a node that starts with this membership in its log, this disk, and these options.
pub(super) fn at_start(
    membership: &Membership,
    me: NodeId,
    disk: u64,
    asked: u64,
) -> Result<u64, StartError> {
    let damaged = |e: Malformed| StartError::Mismatch(format!("the membership in the log: {e}"));
    let found = of(membership).map_err(damaged)?;
    let known = (membership.about.get(&me)).and_then(|about| About::decode(about).ok());
    // Another disk was the member of this name in a log that is being caught up with.
    let mine = known.is_none_or(|about| about.disk == 0 || about.disk == disk);
    if !(membership.contains(me) && mine) {
        return Ok(asked);
    }
    if asked != 0 && asked != found {
        return Err(StartError::Mismatch(format!(
            "this node is a member of incarnation {found} of its cluster, not of {asked}: it was given up when the cluster was recovered from another \
             node. Empty its directory, and let it join anew"
        )));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(disk: u64, incarnation: Option<u64>) -> Membership {
        let mut membership = Membership::of([NodeId(1), NodeId(2)]);
        let mut about = About::at("tcp://h:1", "");
        about.disk = disk;
        membership.about.insert(NodeId(1), about.encode());
        if let Some(incarnation) = incarnation {
            say(&mut membership, incarnation);
        }
        membership
    }

    /// IN2, IN3.
    #[test]
    fn a_member_follows_its_log_and_a_joiner_its_options() {
        let start = |m: &Membership, node, asked| at_start(m, NodeId(node), 7, asked).ok();
        for (name, m, node, asked, expected) in [
            ("of the first", membership(7, None), 1, 0, Some(0)),
            ("recovered", membership(7, Some(5)), 1, 0, Some(5)),
            ("recovered and told", membership(7, Some(5)), 1, 5, Some(5)),
            ("unbound", membership(0, Some(5)), 1, 0, Some(5)),
            ("given up", membership(7, None), 1, 5, None),
            ("of another", membership(7, Some(4)), 1, 5, None),
            ("no address known", membership(7, None), 2, 5, None),
            ("joins", Membership::default(), 3, 5, Some(5)),
            ("catches up", membership(7, None), 3, 5, Some(5)),
            ("under a lost name", membership(8, None), 1, 5, Some(5)),
        ] {
            assert_eq!(start(&m, node, asked), expected, "{name}");
        }
    }

    /// E2; and IN1.
    #[test]
    fn it_survives_and_damage_is_refused() {
        assert_eq!(on_wire(7, 0), 7);
        assert_ne!(on_wire(7, 1), on_wire(7, 2));
        let mut m = membership(7, Some(1 << 40));
        assert_eq!(of(&m).unwrap(), 1 << 40);
        let bytes = m.about[&NodeId::CLUSTER].clone();
        assert!(About::decode(&bytes).is_err());
        for len in 0..bytes.len() {
            m.about.insert(NodeId::CLUSTER, bytes.slice(..len));
            assert!(of(&m).is_err(), "{len}");
            assert!(at_start(&m, NodeId(1), 7, 0).is_err());
        }
    }
}
