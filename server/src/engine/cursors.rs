//! SCAN's cursors: integers that stand for a place in the key order.
//!
//! A cursor that was used forgets the one it came from, so a scan holds two places however long it is; a client
//! may ask with its newest cursor again. The table is bounded in entries and bytes; the oldest go first, and
//! their scans must begin anew.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};

const CURSORS_MAX: usize = 16_384;
const BYTES_MAX: usize = 16 << 20;

#[derive(Debug)]
struct Place {
    /// The last key that was returned, as stored.
    after: Box<[u8]>,
    /// The cursor that led here.
    came_from: u64,
}

#[derive(Debug)]
struct Table {
    /// Tables begin far apart, at random: a cursor of another node, or of this one's process before, is no cursor of this table.
    next: u64,
    bytes: usize,
    places: BTreeMap<u64, Place>,
}

impl Default for Table {
    fn default() -> Self {
        // Below 2^63: some clients read it as a signed number.
        let random = RandomState::new().build_hasher().finish() >> 33;
        Table {
            next: random << 32,
            bytes: 0,
            places: BTreeMap::new(),
        }
    }
}

impl Table {
    fn remove(&mut self, cursor: u64) {
        if let Some(place) = self.places.remove(&cursor) {
            self.bytes -= place.after.len();
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Cursors(Mutex<Table>);

impl Cursors {
    /// The place that `cursor` stands for: the last key returned. `None`: unknown, or too old.
    #[must_use]
    pub fn place(&self, cursor: u64) -> Option<Box<[u8]>> {
        let mut table = self.0.lock();
        let place = table.places.get(&cursor)?;
        let (after, came_from) = (place.after.clone(), place.came_from);
        table.remove(came_from);
        Some(after)
    }

    /// A new cursor that stands behind `after`; `came_from` is the one that was asked with.
    #[must_use]
    pub fn add(&self, after: &[u8], came_from: u64) -> u64 {
        let mut table = self.0.lock();
        table.next += 1;
        let cursor = table.next;
        table.bytes += after.len();
        table.places.insert(
            cursor,
            Place {
                after: after.into(),
                came_from,
            },
        );
        while table.places.len() > 1
            && (table.places.len() > CURSORS_MAX || table.bytes > BYTES_MAX)
        {
            let Some(&oldest) = table.places.keys().next() else {
                break;
            };
            table.remove(oldest);
        }
        cursor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_holds_two_places_and_its_newest_can_be_asked_again() {
        let cursors = Cursors::default();
        let mut cursor = 0;
        for n in 0..1000_u32 {
            let next = cursors.add(&n.to_be_bytes(), cursor);
            if cursor != 0 {
                assert!(cursors.place(cursor).is_some());
            }
            assert!(cursors.0.lock().places.len() <= 3);
            cursor = next;
        }
        assert_eq!(cursors.place(cursor), cursors.place(cursor));
        assert!(cursors.place(cursor).is_some());
        assert!(cursors.place(1).is_none());
        // Another node's, or those of the process before.
        let others = Cursors::default();
        for n in 0..2000_u32 {
            let _ = others.add(&n.to_be_bytes(), 0);
        }
        assert!(others.place(cursor).is_none());
    }

    #[test]
    fn the_table_is_bounded_in_entries_and_bytes() {
        let cursors = Cursors::default();
        for n in 0..20_000_u32 {
            let _ = cursors.add(&n.to_be_bytes(), 0);
        }
        assert_eq!(cursors.0.lock().places.len(), CURSORS_MAX);
        for _ in 0..40 {
            let _ = cursors.add(&vec![7; 1 << 20], 0);
        }
        assert!(cursors.0.lock().bytes <= BYTES_MAX);
    }
}
