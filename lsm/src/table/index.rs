//! The index of an open table: its block, and beside it eight bytes of each key for the search.
//!
//! A search by halves through the block itself misses the processor's cache twice at each step. The eight bytes behind
//! what all keys have in common nearly always decide, and lie side by side.

use super::KeyRef;
use super::block::{Block, Hit, Malformed, common};
use bytes::Bytes;

#[derive(Debug)]
pub(crate) struct Index {
    block: Block,
    /// Front that all keys have in common.
    shared: Bytes,
    /// Of each key, eight bytes behind the front, filled up with zeros, as a big-endian number: in order where they differ.
    heads: Vec<u64>,
}

impl Index {
    pub(crate) fn new(block: Block) -> Result<Index, Malformed> {
        let count = block.restarts();
        let first = block.restart_user(0)?;
        let last = block.restart_user(count - 1)?;
        let shared = Bytes::copy_from_slice(&first[..common(first, last)]);
        let mut heads = Vec::with_capacity(count);
        for n in 0..count {
            let user = block.restart_user(n)?;
            let rest = user.strip_prefix(&shared[..]);
            heads.push(head(rest.ok_or("index keys out of order")?));
        }
        if !heads.is_sorted() {
            return Err("index keys out of order");
        }
        Ok(Index {
            block,
            shared,
            heads,
        })
    }

    pub(crate) fn block(&self) -> &Block {
        &self.block
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.block.memory_bytes() + self.shared.len() + self.heads.len() * 8
    }

    /// The number of the first entry at or behind `target`: of the only data block that may hold it. As many as there are
    /// when it is behind all.
    pub(crate) fn position(&self, target: KeyRef<'_>) -> Result<usize, Malformed> {
        let n = common(&self.shared, target.user);
        if n < self.shared.len() {
            // The target differs from all keys alike.
            let before = target.user.get(n).is_none_or(|byte| *byte < self.shared[n]);
            return Ok(if before { 0 } else { self.heads.len() });
        }
        let wanted = head(&target.user[n..]);
        let low = self.heads.partition_point(|head| *head < wanted);
        let equal = self.heads[low..].partition_point(|head| *head == wanted);
        self.block.restarts_before_within(target, low, low + equal)
    }

    /// The entry of that number, `None` behind the last.
    pub(crate) fn seek(&self, target: KeyRef<'_>) -> Result<Option<Hit>, Malformed> {
        let n = self.position(target)?;
        if n == self.heads.len() {
            return Ok(None);
        }
        self.block.restart_hit(n).map(Some)
    }
}

#[inline]
fn head(rest: &[u8]) -> u64 {
    if let Some(bytes) = rest.first_chunk::<8>() {
        return u64::from_be_bytes(*bytes);
    }
    let mut bytes = [0; 8];
    bytes[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(bytes)
}
