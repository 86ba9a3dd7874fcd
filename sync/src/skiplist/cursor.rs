//! A place in a list: a version of a key.

use super::node::{Node, NodeRef, Probe, Version, VersionRef};
use super::{Found, SkipList, versions_around};
use crate::shim::Arc;
use std::fmt;
use std::ptr::null_mut;

/// Walks a list's versions, both ways: keys ascending, the versions of a key from the newest to the oldest.
///
/// It owns its list, so the list lives as long as it does. What is inserted while it walks may be met or missed. It stands on
/// a version or on none; from there only the seeks lead on.
pub struct Cursor<L> {
    list: Arc<SkipList<L>>,
    /// Null, or a node of `list`.
    node: *mut Node<L>,
    /// Null exactly if `node` is, else one of its versions.
    version: *mut Version<L>,
}

// SAFETY: as a borrow of its list; the pointers lead into what the list keeps for as long as the cursor has it.
unsafe impl<L: Send + Sync> Send for Cursor<L> {}
// SAFETY: as above.
unsafe impl<L: Send + Sync> Sync for Cursor<L> {}

impl<L> fmt::Debug for Cursor<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("key", &self.key())
            .finish_non_exhaustive()
    }
}

impl<L> Cursor<L> {
    /// On nothing.
    #[must_use]
    pub fn new(list: Arc<SkipList<L>>) -> Cursor<L> {
        Cursor {
            list,
            node: null_mut(),
            version: null_mut(),
        }
    }

    /// The list.
    #[must_use]
    pub fn list(&self) -> &Arc<SkipList<L>> {
        &self.list
    }

    #[inline]
    fn node(&self) -> Option<NodeRef<'_, L>> {
        // SAFETY: null, or a node that this cursor found in its list, which lives as long as `self`.
        unsafe { NodeRef::from_ptr(self.node) }
    }

    #[inline]
    fn version(&self) -> Option<VersionRef<'_, L>> {
        // SAFETY: null, or a version that this cursor found in its list, which lives as long as `self`.
        unsafe { VersionRef::from_ptr(self.version) }
    }

    /// On a version?
    #[must_use]
    #[inline]
    pub fn valid(&self) -> bool {
        !self.node.is_null()
    }

    /// The key it stands on.
    #[must_use]
    #[inline]
    pub fn key(&self) -> Option<&[u8]> {
        self.node().map(NodeRef::key)
    }

    /// The version it stands on.
    #[must_use]
    #[inline]
    pub fn entry(&self) -> Option<Found<'_, L>> {
        self.version().map(Found::of)
    }

    /// SeqNo of the version it stands on.
    #[must_use]
    #[inline]
    pub fn seqno(&self) -> Option<u64> {
        self.version().map(VersionRef::seqno)
    }

    #[inline]
    fn place(
        node: Option<NodeRef<'_, L>>,
        version: Option<VersionRef<'_, L>>,
    ) -> (*mut Node<L>, *mut Version<L>) {
        match (node, version) {
            (Some(node), Some(version)) => (node.as_ptr(), version.as_ptr()),
            _ => (null_mut(), null_mut()),
        }
    }

    /// A node's newest version.
    #[inline]
    fn newest(node: Option<NodeRef<'_, L>>) -> (*mut Node<L>, *mut Version<L>) {
        Self::place(node, node.and_then(NodeRef::newest))
    }

    /// A node's oldest version.
    fn oldest(node: Option<NodeRef<'_, L>>) -> (*mut Node<L>, *mut Version<L>) {
        Self::place(
            node,
            node.and_then(|node| versions_around(node, |_| true).0),
        )
    }

    /// To none.
    pub fn reset(&mut self) {
        (self.node, self.version) = (null_mut(), null_mut());
    }

    /// To the first.
    pub fn seek_to_first(&mut self) {
        (self.node, self.version) = Self::newest(self.list.head().next(0));
    }

    /// To the last.
    pub fn seek_to_last(&mut self) {
        (self.node, self.version) = Self::oldest(self.list.last());
    }

    /// To the first at or behind a place: the newest version of `key` at or below `seqno`, or the next key's newest.
    pub fn seek(&mut self, key: &[u8], seqno: u64) {
        let probe = Probe::new(key);
        let (_, behind) = self.list.around(&probe);
        let same = behind.filter(|node| probe.is(*node));
        let version = same.and_then(|node| versions_around(node, |of| of > seqno).1);
        (self.node, self.version) = match (same, version) {
            (Some(_), Some(_)) => Self::place(same, version),
            (Some(node), None) => Self::newest(node.next(0)),
            (None, _) => Self::newest(behind),
        };
    }

    /// To the last at or before a place: the oldest version of `key` at or above `seqno`, or the oldest of the key before.
    pub fn seek_for_prev(&mut self, key: &[u8], seqno: u64) {
        let probe = Probe::new(key);
        let (before, behind) = self.list.around(&probe);
        let same = behind.filter(|node| probe.is(*node));
        let version = same.and_then(|node| versions_around(node, |of| of >= seqno).0);
        (self.node, self.version) = match version {
            Some(_) => Self::place(same, version),
            None => Self::oldest(before),
        };
    }

    /// To the following one; does nothing on none.
    #[inline]
    pub fn next(&mut self) {
        let (Some(node), Some(version)) = (self.node(), self.version()) else {
            return;
        };
        (self.node, self.version) = match version.next() {
            older @ Some(_) => Self::place(Some(node), older),
            None => Self::newest(node.next(0)),
        };
    }

    /// To the newest version of the following key; does nothing on none.
    #[inline]
    pub fn next_key(&mut self) {
        if let Some(node) = self.node() {
            (self.node, self.version) = Self::newest(node.next(0));
        }
    }

    /// To the preceding one; does nothing on none.
    pub fn prev(&mut self) {
        let (Some(node), Some(version)) = (self.node(), self.version()) else {
            return;
        };
        let seqno = version.seqno();
        let newer = versions_around(node, |of| of > seqno).0;
        (self.node, self.version) = match newer {
            Some(_) => Self::place(Some(node), newer),
            None => {
                let probe = Probe::new(node.key());
                Self::oldest(self.list.around(&probe).0)
            }
        };
    }
}
