//! Bytes of format 2, computed by another program from docs/formats.md: a build that computes others has another format. W4, R1.

use esker_wal::frame::{
    HEADER_LEN, Header, MARK_LEN, Mark, PAYLOAD_MAX, Seed, checksum, frame_len,
};
use esker_wal::{Epoch, Kind, LogId, Lsn, NodeId};

const LSN: Lsn = Lsn(0x0123_4567_89a8);

fn seed() -> Seed {
    let epoch = Epoch {
        number: 3,
        id: 0x1122_3344_5566_7788,
    };
    Seed::new(LogId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10), epoch)
}

/// By zlib's crc32, begun with the seed, the LSN's hash and length and kind (F5).
#[test]
fn a_frame_has_the_checksum_that_the_format_says() {
    let counted: Vec<u8> = (0..32).collect();
    for (kind, payload, crc) in [
        (Kind::Data, &[][..], 0x298e_1c30),
        (Kind::Data, &b"esker"[..], 0x5746_47cd),
        (Kind::Control, &counted[..], 0x157c_e24d),
        (Kind::Void, &[0; 100][..], 0xd263_d1bc),
    ] {
        assert_eq!(checksum(seed(), LSN, kind, &[payload]), crc, "{kind:?}");
        let (front, back) = payload.split_at(payload.len() / 3);
        assert_eq!(checksum(seed(), LSN, kind, &[front, back]), crc, "{kind:?}");
    }
}

#[test]
fn a_frames_header_has_the_bytes_that_the_format_says() {
    let header = Header {
        payload_len: 5,
        crc: 0x5746_47cd,
        lsn: LSN,
        kind: Kind::Data,
    };
    let mut bytes = [0xee; HEADER_LEN];
    header.encode(&[7; MARK_LEN], &mut bytes);
    let mut expected = vec![5, 0, 0, 0x80, 0xcd, 0x47, 0x46, 0x57];
    expected.extend([0xa8, 0x89, 0x67, 0x45, 0x23, 0x01, 0, 0]);
    expected.extend([7; MARK_LEN]);
    expected.extend([1, 0]);
    assert_eq!(bytes[..], expected);
    assert_eq!(Header::decode(&bytes), Some(header));
    assert_eq!((header.frame_len(), frame_len(5)), (40, 40));
    assert_eq!(header.end(), Lsn(LSN.0 + 40));
}

/// A call may be seen half-done: its bytes arrive in order.
#[test]
fn a_word_whose_length_is_half_written_publishes_nothing() {
    let word = 0x5746_47cd_8012_3405_u64;
    for arrived in 0..8 {
        let seen = word & ((1 << (8 * arrived)) - 1);
        assert_eq!(Header::publishes(seen), arrived >= 4, "{arrived} bytes");
    }
    assert!(Header::publishes(word));
    assert_eq!(Header::span(word), 32 + 0x0012_3408);
}

/// E2: a header that can't be one is none, before anything is sized by it.
#[test]
fn a_header_without_its_bit_or_with_an_impossible_length_is_none() {
    let decoded = |length: u32| {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[30] = 1;
        Header::decode(&bytes).map(|h| h.payload_len as usize)
    };
    let present = 1 << 31;
    assert_eq!(decoded(5), None);
    assert_eq!(decoded(present | 5), Some(5));
    assert_eq!(decoded(present | PAYLOAD_MAX as u32), Some(PAYLOAD_MAX));
    assert_eq!(decoded(present | (PAYLOAD_MAX as u32 + 1)), None);
    assert_eq!(decoded(present | (PAYLOAD_MAX as u32 + 8)), None);
}

/// F3: a mark speaks of what came before it, and stands at ends of frames.
#[test]
fn a_mark_that_speaks_of_what_comes_after_it_is_none() {
    let epoch = Epoch { number: 3, id: 9 };
    let decoded = |synced: u64| {
        let bytes = Mark {
            synced: Lsn(synced),
        }
        .encode(NodeId(2), epoch, LSN);
        Mark::decode(&bytes, NodeId(2), epoch, LSN).map(|m| m.synced.0)
    };
    assert_eq!(decoded(LSN.0), Some(LSN.0));
    assert_eq!(decoded(LSN.0 - 8), Some(LSN.0 - 8));
    assert_eq!(decoded(LSN.0 + 8), None);
    assert_eq!(decoded(LSN.0 - 4), None);
}
