//! Requests from arbitrary bytes: whole, and in pieces.

use esker_server::resp::{Limits, Parsed, Parser, ProtocolError};

const LIMITS: Limits = Limits {
    bulk_bytes_max: 1 << 10,
    args_max: 64,
    inline_bytes_max: 256,
    request_bytes_max: 4 << 10,
    unauthenticated: false,
};

/// Requests, as lists of arguments, and how it ended.
type Found = (Vec<Vec<Vec<u8>>>, Option<ProtocolError>);

/// Parses `data`, of which at most `step` more bytes arrive at a time.
fn parse(data: &[u8], step: usize) -> Found {
    let mut parser = Parser::default();
    let mut requests = Vec::new();
    let (mut start, mut end) = (0, 0);
    loop {
        let buf = &data[start..end];
        match parser.parse(buf, &LIMITS) {
            Err(error) => return (requests, Some(error)),
            Ok(Parsed::Incomplete { missing }) => {
                assert!(missing >= 1);
                if end == data.len() {
                    return (requests, None);
                }
                end = data.len().min(end + step);
            }
            Ok(Parsed::Nothing { len }) => {
                assert!(len >= 1 && len <= buf.len());
                start += len;
                parser.reset();
            }
            Ok(Parsed::Request { len }) => {
                assert!(len >= 1 && len <= buf.len());
                let args: Vec<Vec<u8>> = parser.args(buf).map(<[u8]>::to_vec).collect();
                assert_eq!(args.len(), parser.arg_count());
                assert!(!args.is_empty());
                assert!(args.iter().map(Vec::len).sum::<usize>() <= LIMITS.request_bytes_max);
                requests.push(args);
                start += len;
                parser.reset();
            }
        }
        assert!(
            parser.memory() <= 64 << 10,
            "{} bytes held",
            parser.memory()
        );
    }
}

/// See fuzz/README.md.
pub(crate) fn check(data: &[u8]) {
    let (whole, error) = parse(data, usize::MAX / 2);
    for step in [1, 7] {
        let (pieces, other) = parse(data, step);
        assert_eq!(whole, pieces, "in pieces of {step}");
        assert_eq!(error, other, "in pieces of {step}");
    }
}

/// Where a corpus begins.
#[allow(dead_code, reason = "the fuzzer reads files")]
pub(crate) fn start() -> Vec<(String, Vec<u8>)> {
    let all: [(&str, &[u8]); 12] = [
        ("set", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n"),
        (
            "two-requests",
            b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        ),
        ("inline", b"PING hello\r\n"),
        ("inline-quotes", b"SET \"a\\x41\\n b\" 'c \\' d'\r\n"),
        ("inline-quotes-open", b"SET \"a\r\n"),
        ("nothing", b"\r\n*0\r\n*-1\r\n\n"),
        ("count-too-large", b"*65\r\n"),
        ("count-no-number", b"*1x\r\n"),
        ("length-negative", b"*1\r\n$-1\r\n"),
        ("length-too-large", b"*1\r\n$99999999999999999999\r\n"),
        ("no-crlf-behind", b"*1\r\n$1\r\nab\r\n"),
        ("cut-short", b"*2\r\n$3\r\nGET\r\n$1"),
    ];
    all.map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
        .into()
}
