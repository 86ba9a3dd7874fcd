//! A seam for the fuzzer (`fuzz/`) to what is nobody else's business: the sectors of a segment.

use crate::ids::{ChainHash, Epoch, EpochStart, LogId, Lsn, NodeId, SegmentId};
use crate::segment::{Activation, Footer, Identity, SECTOR, SectorMark, SegmentHeader};

const ID: SegmentId = SegmentId(7);
const NODE: NodeId = NodeId(9);
const BASE: Lsn = Lsn(4096);

/// A sector of each kind, by name.
#[must_use]
pub fn sectors() -> Vec<(&'static str, [u8; SECTOR])> {
    let identity = Identity {
        log: LogId(5),
        node: NODE,
        id: ID,
        bytes: 16 << 10,
    };
    let prepared = SegmentHeader {
        identity,
        active: None,
        chain: None,
    };
    let epoch = Epoch { number: 1, id: 2 };
    let active = SegmentHeader {
        active: Some(Activation {
            base: BASE,
            epoch: EpochStart { epoch, begin: BASE },
        }),
        chain: Some(ChainHash(3)),
        ..prepared
    };
    let mark = SectorMark {
        sequence: 4,
        synced: Lsn(4160),
        clean: true,
        writer: false,
    };
    let footer = Footer {
        base: BASE,
        end: Lsn(8192),
        chain: ChainHash(3),
        frames: 12,
        punched: false,
    };
    vec![
        ("prepared", prepared.encode()),
        ("active", active.encode()),
        ("mark", mark.encode(ID, NODE)),
        ("footer", footer.encode(ID)),
    ]
}

/// Decodes `data` as each kind of sector, cut or filled with zeros to its length. What decodes must encode to what
/// decodes to the same.
///
/// # Panics
/// When it does not.
pub fn segment(data: &[u8]) {
    let mut sector = [0; SECTOR];
    let len = data.len().min(SECTOR);
    sector[..len].copy_from_slice(&data[..len]);
    if let Ok(header) = SegmentHeader::decode(&sector) {
        assert_eq!(SegmentHeader::decode(&header.encode()).ok(), Some(header));
    }
    if let Some(mark) = SectorMark::decode(&sector, ID, NODE) {
        assert_eq!(
            SectorMark::decode(&mark.encode(ID, NODE), ID, NODE),
            Some(mark)
        );
        assert!(SectorMark::decode(&sector, SegmentId(8), NODE).is_none());
        assert!(SectorMark::decode(&sector, ID, NodeId(8)).is_none());
    }
    if let Some(footer) = Footer::decode(&sector, ID, BASE) {
        assert_eq!(Footer::decode(&footer.encode(ID), ID, BASE), Some(footer));
        assert!(Footer::decode(&sector, SegmentId(8), BASE).is_none());
        assert!(footer.end >= BASE);
    }
}
