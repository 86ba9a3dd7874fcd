//! Frames and marks from arbitrary bytes.

use esker_wal::frame::{self, HEADER_LEN, Header, Kind, MARK_LEN, Mark, Seed};
use esker_wal::{Epoch, LogId, Lsn, NodeId};

const EPOCH: Epoch = Epoch { number: 3, id: 77 };

/// Whether `bytes` is the frame at `lsn`, as a reader decides it.
fn passes(bytes: &[u8], lsn: Lsn, seed: Seed) -> bool {
    let Some(header) = bytes.first_chunk().and_then(Header::decode) else {
        return false;
    };
    let Some(frame) = bytes.get(..header.frame_len()) else {
        return false;
    };
    let (payload, padding) = frame[HEADER_LEN..].split_at(header.payload_len as usize);
    header.lsn == lsn
        && padding.iter().all(|b| *b == 0)
        && frame::checksum(seed, lsn, header.kind, &[payload]) == header.crc
}

/// See fuzz/README.md.
pub(crate) fn check(data: &[u8]) {
    let seed = Seed::new(LogId(5), EPOCH);
    let mut cuts = data.chunks(8).map(|chunk| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(bytes)
    });

    if let Some(bytes) = data.first_chunk::<HEADER_LEN>()
        && let Some(header) = Header::decode(bytes)
    {
        assert!(header.payload_len as usize <= frame::PAYLOAD_MAX);
        assert!(Header::publishes(header.word()));
        assert_eq!(Header::span(header.word()), header.frame_len() as u64);
        let mark: [u8; MARK_LEN] = bytes[16..30].try_into().expect("14 bytes");
        let mut again = [0; HEADER_LEN];
        header.encode(&mark, &mut again);
        assert_eq!(again, *bytes);
        if let Some(mark) = Mark::decode(&mark, NodeId(9), EPOCH, header.lsn) {
            assert!(mark.synced <= header.lsn);
        }
        passes(data, header.lsn, seed);
    }

    // A frame with this payload passes; another bit, another place, another epoch does not.
    let (flip, place) = (cuts.next().unwrap_or(1), cuts.next().unwrap_or(0));
    let lsn = Lsn(place >> 1 & !7);
    let payload = &data[..data.len().min(4096)];
    let kind = [Kind::Data, Kind::Control, Kind::Void][flip as usize % 3];
    let header = Header {
        payload_len: payload.len() as u32,
        crc: frame::checksum(seed, lsn, kind, &[payload]),
        lsn,
        kind,
    };
    let half = payload.len() / 2;
    let parts = [&payload[..half], &payload[half..]];
    assert_eq!(frame::checksum(seed, lsn, kind, &parts), header.crc);
    let synced = Lsn((flip % (lsn.0 + 1)) & !7);
    let mark = Mark { synced }.encode(NodeId(9), EPOCH, lsn);
    let mut bytes = vec![0; header.frame_len()];
    let head: &mut [u8; HEADER_LEN] = bytes.first_chunk_mut().expect("a header");
    header.encode(&mark, head);
    bytes[HEADER_LEN..HEADER_LEN + payload.len()].copy_from_slice(payload);
    assert!(passes(&bytes, lsn, seed));
    assert!(!passes(&bytes, Lsn(lsn.0 + 8), seed));
    let other = Epoch { id: 78, ..EPOCH };
    assert!(!passes(&bytes, lsn, Seed::new(LogId(5), other)));
    assert_eq!(
        Mark::decode(&mark, NodeId(9), EPOCH, lsn),
        Some(Mark { synced })
    );
    assert_eq!(Mark::decode(&mark, NodeId(9), EPOCH, Lsn(lsn.0 + 8)), None);
    assert_eq!(Mark::decode(&mark, NodeId(8), EPOCH, lsn), None);

    let bit = (flip >> 2) as usize % (bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    let in_mark = (16..30).contains(&(bit / 8));
    assert_eq!(passes(&bytes, lsn, seed), in_mark, "bit {bit} flipped");
}

/// Where a corpus begins.
#[allow(dead_code, reason = "the fuzzer reads files")]
pub(crate) fn start() -> Vec<(String, Vec<u8>)> {
    let mut all = vec![("empty".to_owned(), Vec::new())];
    for (len, kind) in [
        (0, Kind::Data),
        (5, Kind::Data),
        (64, Kind::Control),
        (40, Kind::Void),
    ] {
        let payload = vec![if kind == Kind::Void { 0 } else { 0xa5 }; len];
        let lsn = Lsn(4096);
        let seed = Seed::new(LogId(5), EPOCH);
        let header = Header {
            payload_len: len as u32,
            crc: frame::checksum(seed, lsn, kind, &[&payload]),
            lsn,
            kind,
        };
        let mut bytes = vec![0; header.frame_len()];
        let mark = Mark { synced: Lsn(4000) }.encode(NodeId(9), EPOCH, lsn);
        let head: &mut [u8; HEADER_LEN] = bytes.first_chunk_mut().expect("a header");
        header.encode(&mark, head);
        bytes[HEADER_LEN..HEADER_LEN + len].copy_from_slice(&payload);
        all.push((format!("{kind:?}-{len}").to_lowercase(), bytes));
    }
    all.push(("length-beyond-the-largest".to_owned(), [0xff; 48].to_vec()));
    all
}
