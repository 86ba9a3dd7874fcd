//! Messages between nodes from arbitrary bytes; the checksum may be made right first.

use esker_replication::protocol::{
    Ack, FrameIter, FramesBuilder, Hello, Message, PrimaryPositions, decode, encode, is_hello,
};
use esker_wal::frame::{self, Header, Kind, Seed};
use esker_wal::{ChainHash, Epoch, EpochStart, LogId, Lsn, NodeId};

/// Makes magic, head length and checksum right (docs/protocols.md).
fn reseal(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.to_vec();
    let room = bytes.len().checked_sub(20)?;
    bytes[..4].copy_from_slice(b"EKR1");
    let len = usize::from(u16::from_le_bytes([bytes[6], bytes[7]])).min(room);
    bytes[6..8].copy_from_slice(&(len as u16).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..16]);
    hasher.update(&bytes[20..20 + len]);
    bytes[16..20].copy_from_slice(&hasher.finalize().to_le_bytes());
    Some(bytes)
}

fn look(data: &[u8]) {
    let _ = is_hello(data);
    let Ok((session, message)) = decode(data) else {
        return;
    };
    if let Message::Frames { first, frames, .. } = &message {
        let mut next = *first;
        for frame in FrameIter::new(*first, frames) {
            let Ok(frame) = frame else { break };
            assert_eq!(frame.header.lsn, next);
            assert_eq!(frame.payload.len(), frame.header.payload_len as usize);
            next = frame.header.end();
        }
    }
    let again = encode(session, &message);
    let twice = decode(&again).expect("a message of our own making");
    assert_eq!(twice, (session, message));
}

/// See fuzz/README.md.
pub(crate) fn check(data: &[u8]) {
    look(data);
    if let Some(resealed) = reseal(data) {
        look(&resealed);
    }
}

/// Where a corpus begins.
#[allow(dead_code, reason = "the fuzzer reads files")]
pub(crate) fn start() -> Vec<(String, Vec<u8>)> {
    let epoch = Epoch { number: 1, id: 77 };
    let positions = PrimaryPositions {
        synced: Lsn(4096),
        safe: Lsn(4088),
        expiry_ms: -5,
        sync_now: true,
    };
    let hello = Hello {
        protocols: (1, 3),
        log: Some(LogId(9)),
        node: NodeId(10),
        end: Lsn(1600),
        chain: ChainHash(11),
        name: "replica".into(),
        epochs: vec![EpochStart {
            epoch,
            begin: Lsn(0),
        }],
    };
    let ack = Ack {
        received: Lsn(64),
        durable: Lsn(56),
        applied: Lsn(48),
        granted: Lsn(4096),
    };
    let mut frames = FramesBuilder::new(Lsn(1600));
    let mut at = Lsn(1600);
    for payload in [&b"one"[..], b"", b"three, which is longer"] {
        let header = Header {
            payload_len: payload.len() as u32,
            crc: frame::checksum(Seed::new(LogId(9), epoch), at, Kind::Data, &[payload]),
            lsn: at,
            kind: Kind::Data,
        };
        frames.push(&header, payload);
        at = header.end();
    }
    vec![
        ("hello".to_owned(), encode(7, &Message::Hello(hello))),
        ("ack".to_owned(), encode(7, &Message::Ack(ack))),
        (
            "heartbeat".to_owned(),
            encode(7, &Message::Heartbeat(positions)),
        ),
        ("goodbye".to_owned(), encode(7, &Message::Goodbye)),
        ("reset".to_owned(), encode(7, &Message::Reset)),
        ("frames".to_owned(), frames.finish(7, &positions)),
        ("short".to_owned(), b"EKR1".to_vec()),
    ]
}
