//! Requests and replies against a well-kept codec, by seed.

use esker_server::resp::{Limits, Parsed, Parser};
use esker_server::{Protocol, Reply};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use redis_protocol::resp2::types::{OwnedFrame as Frame2, Resp2Frame};
use redis_protocol::resp3::types::OwnedFrame as Frame3;

fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let first = number("ESKER_SEED").unwrap_or(0);
    first..first + number("ESKER_SEEDS").unwrap_or(default)
}

fn bytes(rng: &mut StdRng, max: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..=max)];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// What our parser makes of `input`, fed in pieces: requests, bytes used, and whether it gave up.
fn ours(input: &[u8], rng: &mut StdRng) -> (Vec<Vec<Vec<u8>>>, usize, bool) {
    let limits = Limits::default();
    let mut parser = Parser::default();
    let (mut start, mut end) = (0, 0);
    let mut found = Vec::new();
    loop {
        match parser.parse(&input[start..end], &limits) {
            Ok(Parsed::Incomplete { missing }) => {
                if end == input.len() {
                    return (found, start, false);
                }
                assert!(missing >= 1);
                end = (end + rng.random_range(1..64)).min(input.len());
            }
            Ok(Parsed::Request { len }) => {
                found.push(
                    parser
                        .args(&input[start..end])
                        .map(<[u8]>::to_vec)
                        .collect(),
                );
                start += len;
                parser.reset();
            }
            Ok(Parsed::Nothing { len }) => {
                start += len;
                parser.reset();
            }
            Err(_) => return (found, start, true),
        }
    }
}

fn args_of(frame: &Frame2) -> Option<Vec<Vec<u8>>> {
    let Frame2::Array(items) = frame else {
        return None;
    };
    items
        .iter()
        .map(|item| match item {
            Frame2::BulkString(bytes) => Some(bytes.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn what_the_codec_encodes_is_parsed_as_it_was() {
    for seed in seeds(2000) {
        let mut rng = StdRng::seed_from_u64(seed);
        let requests: Vec<Vec<Vec<u8>>> = (0..rng.random_range(1..5))
            .map(|_| {
                (0..rng.random_range(1..6))
                    .map(|_| bytes(&mut rng, 40))
                    .collect()
            })
            .collect();
        let mut input = Vec::new();
        for request in &requests {
            let frame = Frame2::Array(request.iter().cloned().map(Frame2::BulkString).collect());
            let mut piece = vec![0; frame.encode_len(false)];
            let len = redis_protocol::resp2::encode::encode(&mut piece, &frame, false).unwrap();
            input.extend_from_slice(&piece[..len]);
        }
        let cut = input.len() - rng.random_range(0..2) * rng.random_range(0..input.len().min(20));
        let (found, used, failed) = ours(&input[..cut], &mut rng);
        assert!(!failed, "seed {seed}");
        assert_eq!(found, requests[..found.len()], "seed {seed}");
        if cut == input.len() {
            assert_eq!(
                (found.len(), used),
                (requests.len(), input.len()),
                "seed {seed}"
            );
        }
    }
}

/// Valid requests with bytes changed: where both read a request of bulks, they read the same.
#[test]
fn on_damaged_input_parser_and_codec_never_read_different_requests() {
    let mut agreed = 0;
    let range = seeds(5000);
    let count = range.end - range.start;
    for seed in range {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut input = Vec::new();
        for _ in 0..rng.random_range(1..4) {
            let args = rng.random_range(1..4);
            input.extend_from_slice(format!("*{args}\r\n").as_bytes());
            for _ in 0..args {
                let value = bytes(&mut rng, 12);
                input.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
                input.extend_from_slice(&value);
                input.extend_from_slice(b"\r\n");
            }
        }
        for _ in 0..rng.random_range(0..3) {
            let at = rng.random_range(0..input.len());
            input[at] = match rng.random_range(0..3) {
                0 => rng.random(),
                1 => b'0' + rng.random_range(0..10),
                _ => input[rng.random_range(0..input.len())],
            };
        }
        let (found, _, _) = ours(&input, &mut rng);
        let mut rest: &[u8] = &input;
        let mut theirs = Vec::new();
        while let Ok(Some((frame, len))) = redis_protocol::resp2::decode::decode(rest) {
            match args_of(&frame) {
                Some(args) if args.is_empty() => {}
                Some(args) => theirs.push(args),
                None => break,
            }
            rest = &rest[len..];
        }
        let both = found.len().min(theirs.len());
        // What ours reads beyond theirs is inline, which the codec does not know.
        assert_eq!(found[..both], theirs[..both], "seed {seed}: {input:?}");
        agreed += u64::from(both > 0);
    }
    assert!(agreed > count / 3, "{agreed} of {count} compared anything");
}

#[derive(Clone, Debug)]
enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Value>),
    Boolean(bool),
    Double(f64),
    Verbatim(Vec<u8>),
    Map(Vec<(Value, Value)>),
}

fn value(rng: &mut StdRng, depth: usize) -> Value {
    let word = |rng: &mut StdRng| -> String {
        (0..rng.random_range(1..12))
            .map(|_| rng.random_range(b'a'..=b'z') as char)
            .collect()
    };
    match rng.random_range(0..if depth == 0 { 8 } else { 10 }) {
        0 => Value::Simple(word(rng)),
        1 => Value::Error(format!("ERR {}", word(rng))),
        2 => Value::Integer(rng.random()),
        3 => Value::Bulk(bytes(rng, 30)),
        4 => Value::Null,
        5 => Value::Boolean(rng.random()),
        6 => Value::Double(f64::from(rng.random::<i32>()) / 8.0),
        7 => Value::Verbatim(word(rng).into_bytes()),
        8 => Value::Array(
            (0..rng.random_range(0..4))
                .map(|_| value(rng, depth - 1))
                .collect(),
        ),
        _ => Value::Map(
            (0..rng.random_range(0..3))
                .map(|at| (Value::Bulk(vec![at]), value(rng, depth - 1)))
                .collect(),
        ),
    }
}

fn write(out: &mut Reply, value: &Value) {
    match value {
        Value::Simple(text) => out.simple(text),
        Value::Error(text) => out.error(text),
        Value::Integer(number) => out.integer(*number),
        Value::Bulk(bytes) => out.bulk(bytes),
        Value::Null => out.null(),
        Value::Boolean(flag) => out.boolean(*flag),
        Value::Double(number) => out.double(*number),
        Value::Verbatim(text) => out.verbatim("txt", text),
        Value::Array(items) => {
            out.array(items.len());
            items.iter().for_each(|item| write(out, item));
        }
        Value::Map(pairs) => {
            out.map(pairs.len());
            for (key, value) in pairs {
                write(out, key);
                write(out, value);
            }
        }
    }
}

fn is_same2(value: &Value, frame: &Frame2) -> bool {
    match (value, frame) {
        (Value::Simple(text), Frame2::SimpleString(found)) => text.as_bytes() == found,
        (Value::Error(text), Frame2::Error(found)) => text == found,
        (Value::Integer(number), Frame2::Integer(found)) => number == found,
        (Value::Bulk(bytes) | Value::Verbatim(bytes), Frame2::BulkString(found)) => bytes == found,
        (Value::Null, Frame2::Null) => true,
        (Value::Boolean(flag), Frame2::Integer(found)) => i64::from(*flag) == *found,
        (Value::Double(number), Frame2::BulkString(found)) => {
            std::str::from_utf8(found)
                .ok()
                .and_then(|text| text.parse().ok())
                == Some(*number)
        }
        (Value::Array(items), Frame2::Array(found)) => {
            items.len() == found.len() && items.iter().zip(found).all(|(a, b)| is_same2(a, b))
        }
        (Value::Map(pairs), Frame2::Array(found)) => {
            2 * pairs.len() == found.len()
                && pairs
                    .iter()
                    .flat_map(|(key, value)| [key, value])
                    .zip(found)
                    .all(|(a, b)| is_same2(a, b))
        }
        _ => false,
    }
}

fn is_same3(value: &Value, frame: &Frame3) -> bool {
    match (value, frame) {
        (Value::Simple(text), Frame3::SimpleString { data, .. }) => text.as_bytes() == data,
        (Value::Error(text), Frame3::SimpleError { data, .. }) => text == data,
        (Value::Integer(number), Frame3::Number { data, .. }) => number == data,
        (Value::Bulk(bytes), Frame3::BlobString { data, .. }) => bytes == data,
        (Value::Verbatim(text), Frame3::VerbatimString { data, .. }) => text == data,
        (Value::Null, Frame3::Null) => true,
        (Value::Boolean(flag), Frame3::Boolean { data, .. }) => flag == data,
        (Value::Double(number), Frame3::Double { data, .. }) => number == data,
        (Value::Array(items), Frame3::Array { data, .. }) => {
            items.len() == data.len() && items.iter().zip(data).all(|(a, b)| is_same3(a, b))
        }
        (Value::Map(pairs), Frame3::Map { data, .. }) => {
            pairs.len() == data.len()
                && pairs.iter().all(|(key, value)| {
                    data.iter()
                        .any(|(k, v)| is_same3(key, k) && is_same3(value, v))
                })
        }
        _ => false,
    }
}

#[test]
fn the_codec_reads_what_replies_say_in_both_protocols() {
    for seed in seeds(3000) {
        let mut rng = StdRng::seed_from_u64(seed);
        let value = value(&mut rng, 3);
        let mut two = Reply::new(Protocol::Resp2);
        write(&mut two, &value);
        let (frame, len) = redis_protocol::resp2::decode::decode(two.as_bytes())
            .unwrap_or_else(|error| panic!("seed {seed}: {error}: {value:?}"))
            .unwrap_or_else(|| panic!("seed {seed}: cut: {value:?}"));
        assert_eq!(len, two.len(), "seed {seed}: {value:?}");
        assert!(is_same2(&value, &frame), "seed {seed}: {value:?} {frame:?}");
        let mut three = Reply::new(Protocol::Resp3);
        write(&mut three, &value);
        let (frame, len) = redis_protocol::resp3::decode::complete::decode(three.as_bytes())
            .unwrap_or_else(|error| panic!("seed {seed}: {error}: {value:?}"))
            .unwrap_or_else(|| panic!("seed {seed}: cut: {value:?}"));
        assert_eq!(len, three.len(), "seed {seed}: {value:?}");
        assert!(is_same3(&value, &frame), "seed {seed}: {value:?} {frame:?}");
    }
}

#[test]
fn no_bytes_make_the_parser_panic() {
    for seed in seeds(5000) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut input = bytes(&mut rng, 200);
        const ALPHABET: &[u8] = b"*$\r\n0123456789-\"'\\x+:";
        for byte in &mut input {
            if rng.random_range(0..4) > 0 {
                *byte = ALPHABET[rng.random_range(0..ALPHABET.len())];
            }
        }
        let _ = ours(&input, &mut rng);
    }
}
