use super::*;
use esker_wal::frame::{Seed, checksum};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

fn frame(seed: Seed, lsn: Lsn, payload: &[u8]) -> Header {
    Header {
        payload_len: payload.len() as u32,
        crc: checksum(seed, lsn, Kind::Data, &[payload]),
        lsn,
        kind: Kind::Data,
    }
}

fn samples() -> Vec<Message<'static>> {
    let positions = PrimaryPositions {
        synced: Lsn(4096),
        safe: Lsn(4088),
        expiry_ms: -5,
        sync_now: true,
    };
    let epochs = vec![
        EpochStart {
            epoch: Epoch { number: 1, id: 77 },
            begin: Lsn(0),
        },
        EpochStart {
            epoch: Epoch { number: 2, id: 78 },
            begin: Lsn(800),
        },
    ];
    vec![
        Message::Hello(Hello {
            protocols: (1, 3),
            log: Some(LogId(9)),
            node: NodeId(10),
            end: Lsn(1600),
            chain: ChainHash(11),
            name: "näme".into(),
            epochs,
        }),
        Message::Hello(Hello {
            protocols: (1, 1),
            log: None,
            node: NodeId(10),
            end: Lsn(0),
            chain: ChainHash(0),
            name: String::new(),
            epochs: vec![],
        }),
        Message::Welcome(Welcome {
            protocol: 1,
            log: LogId(9),
            primary: NodeId(3),
            start: Lsn(1600),
            epoch: 2,
            positions,
            heartbeat_ms: 1000,
        }),
        Message::Refused(Refused {
            reason: Reason::Diverged,
            at: Lsn(808),
            text: "rebuild".into(),
        }),
        Message::Ack(Ack {
            received: Lsn(24),
            durable: Lsn(16),
            applied: Lsn(8),
            granted: Lsn(4096),
        }),
        Message::Heartbeat(positions),
        Message::Goodbye,
        Message::Reset,
    ]
}

#[test]
fn every_message_comes_back_as_it_was() {
    for message in samples() {
        let bytes = encode(42, &message);
        assert_eq!(decode(&bytes), Ok((42, message)));
        assert!(bytes.len() <= REPLICA_MESSAGE_BYTES_MAX);
    }
}

#[test]
fn the_bytes_of_an_ack_are_frozen() {
    let ack = Message::Ack(Ack {
        received: Lsn(24),
        durable: Lsn(16),
        applied: Lsn(8),
        granted: Lsn(4096),
    });
    let bytes: String = encode(0x0102, &ack)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(
        bytes,
        concat!(
            "454b5231",
            "05",
            "00",
            "2000",
            "0201000000000000",
            "efd5ddc2",
            "1800000000000000",
            "1000000000000000",
            "0800000000000000",
            "0010000000000000",
        )
    );
}

#[test]
fn frames_travel_with_zero_marks_and_come_back_whole() {
    let seed = Seed::new(LogId(1), Epoch { number: 1, id: 2 });
    let payloads: [&[u8]; 3] = [b"one", b"", b"three, eight-aligned..."];
    let mut builder = FramesBuilder::new(Lsn(80));
    let mut at = Lsn(80);
    for payload in payloads {
        let header = frame(seed, at, payload);
        builder.push(&header, payload);
        at = header.end();
    }
    assert_eq!(builder.frame_bytes() as u64, at.since(Lsn(80)));
    let bytes = builder.finish(5, &PrimaryPositions::default());
    let Ok((5, Message::Frames { first, frames, .. })) = decode(&bytes) else {
        panic!("not frames");
    };
    let back: Vec<_> = FrameIter::new(first, frames).map(Result::unwrap).collect();
    assert_eq!(back.len(), 3);
    for (frame, payload) in back.iter().zip(payloads) {
        assert_eq!(frame.payload, payload);
        assert_eq!(
            frame.header.crc,
            checksum(seed, frame.header.lsn, Kind::Data, &[payload])
        );
    }
    assert_eq!(encode(5, &decode(&bytes).unwrap().1), bytes);
}

#[test]
fn a_history_too_long_for_a_hello_is_cut_to_its_newest_part() {
    let epochs: Vec<EpochStart> = (0..3000)
        .map(|n| EpochStart {
            epoch: Epoch { number: 1, id: n },
            begin: Lsn(n * 8),
        })
        .collect();
    let Message::Hello(mut hello) = samples().remove(0) else {
        unreachable!()
    };
    hello.epochs = epochs.clone();
    hello.name = "é".repeat(60);
    let bytes = encode(1, &Message::Hello(hello));
    assert!(bytes.len() <= REPLICA_MESSAGE_BYTES_MAX);
    let Ok((_, Message::Hello(back))) = decode(&bytes) else {
        panic!("not a hello");
    };
    assert_eq!(back.epochs, epochs[3000 - EPOCHS_MAX..]);
    assert_eq!(back.name, "é".repeat(32));
}

#[test]
fn a_name_that_would_begin_a_line_of_its_own_is_no_name() {
    let Message::Hello(mut hello) = samples().remove(0) else {
        unreachable!()
    };
    hello.name = "a\r\nrole:master".into();
    let bytes = encode(1, &Message::Hello(hello));
    assert_eq!(decode(&bytes), Err(DecodeError::Field("name")));
}

/// 10,000 seeds: random bytes, cut messages, flipped bits, huge lengths. Decoding answers, whatever it is.
#[test]
fn garbage_never_panics_the_decoder_nor_makes_it_allocate() {
    let first: u64 = std::env::var("ESKER_SEED").map_or(0, |s| s.parse().unwrap());
    let seeds: u64 = std::env::var("ESKER_SEEDS").map_or(10_000, |s| s.parse().unwrap());
    let samples: Vec<Vec<u8>> = samples().iter().map(|m| encode(7, m)).collect();
    let seed = Seed::new(LogId(1), Epoch { number: 1, id: 2 });
    for n in first..first + seeds {
        let mut rng = StdRng::seed_from_u64(n);
        let mut bytes = samples[rng.random_range(0..samples.len())].clone();
        match rng.random_range(0..5) {
            0 => {
                bytes = vec![0; rng.random_range(0..300)];
                rng.fill_bytes(&mut bytes);
            }
            1 => bytes.truncate(rng.random_range(0..=bytes.len())),
            2 => {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
            3 => {
                // The head is garbage, the checksum is right: field checks have to do it.
                for _ in 0..rng.random_range(1..20) {
                    let at = rng.random_range(HEAD_AT.min(bytes.len() - 1)..bytes.len());
                    bytes[at] = rng.random();
                }
                bytes[TYPE_AT] = rng.random_range(0..10);
                bytes[FLAGS_AT] = rng.random();
                let head_len = bytes.len() - HEAD_AT;
                let (kind, flags) = (bytes[TYPE_AT], bytes[FLAGS_AT]);
                seal(&mut bytes, rng.random(), kind, flags, head_len);
            }
            _ => {
                let mut builder = FramesBuilder::new(Lsn(0));
                let payload = vec![7; rng.random_range(0..100)];
                builder.push(&frame(seed, Lsn(0), &payload), &payload);
                builder.push(&frame(seed, Lsn(rng.random()), b"x"), b"x");
                bytes = builder.finish(7, &PrimaryPositions::default());
                for _ in 0..rng.random_range(0..4) {
                    let at = rng.random_range(HEAD_AT + FRAMES_HEAD..bytes.len());
                    bytes[at] = rng.random();
                }
                bytes.truncate(rng.random_range(HEAD_AT + FRAMES_HEAD..=bytes.len()));
            }
        }
        if let Ok((_, Message::Frames { first, frames, .. })) = decode(&bytes) {
            let mut walked = 0;
            for frame in FrameIter::new(first, frames) {
                let Ok(frame) = frame else { break };
                walked += frame.header.frame_len();
                assert!(walked <= frames.len(), "seed {n}");
            }
        }
    }
}
