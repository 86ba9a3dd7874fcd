//! The request parser: RESP2 arrays of bulk strings, and inline commands.
//!
//! It looks at bytes that the caller holds and remembers only offsets, so arguments are slices of the read
//! buffer; nothing is copied (inline arguments apart, which may have to be unquoted).
//!
//! - P1: it is incremental. After `Incomplete` the caller gives the same bytes and more; what was parsed is
//!   not parsed again.
//! - P2: no byte of input panics, and no length in the input sizes an allocation: the table of
//!   arguments grows with the arguments that are there (E2).
//! - P3: a frame is bounded in its arguments, in the bytes of each, and in all its bytes.
//!
//! Limits and error texts are those of Redis 7 where it has them. Unlike Redis, a bulk that is not followed
//! by CR LF is an error: the stream has lost its step.

use memchr::memchr;
use std::fmt;

/// Bounds of one request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one argument.
    pub bulk_bytes_max: usize,
    /// Arguments.
    pub args_max: usize,
    /// Bytes of an inline request, and of a line that announces a length.
    pub inline_bytes_max: usize,
    /// Bytes of a whole request.
    pub request_bytes_max: usize,
    /// The client has not authenticated: errors say so.
    pub unauthenticated: bool,
}

impl Limits {
    /// Of a client that has not authenticated, where others have these: as in Redis, so that who has no password takes no memory.
    #[must_use]
    pub fn unauthenticated(&self) -> Limits {
        Limits {
            bulk_bytes_max: self.bulk_bytes_max.min(16_384),
            args_max: self.args_max.min(10),
            inline_bytes_max: self.inline_bytes_max,
            request_bytes_max: self.request_bytes_max.min(11 * 16_384),
            unauthenticated: true,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            // A frame of the log holds 64 MiB; keys, headers and the batch around a value need room too.
            bulk_bytes_max: (64 << 20) - (64 << 10),
            args_max: 1 << 20,
            inline_bytes_max: 64 << 10,
            request_bytes_max: 128 << 20,
            unauthenticated: false,
        }
    }
}

/// Why a request can't be read. The connection is closed after the reply: where the next one begins is
/// unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// An inline request without end.
    InlineTooBig,
    /// A line with the number of arguments without end.
    MultibulkLineTooBig,
    /// A line with the length of an argument without end.
    BulkLineTooBig,
    /// Not a number, or above the limit.
    MultibulkLength,
    /// Not a number, negative, or above the limit.
    BulkLength,
    /// Something else where `$` was to come.
    ExpectedBulk(u8),
    /// An argument is not followed by CR LF.
    BulkEnd,
    /// Quotes that do not close.
    Quotes,
    /// More arguments than a client may send that has not authenticated.
    UnauthenticatedMultibulk,
    /// A longer argument than a client may send that has not authenticated.
    UnauthenticatedBulk,
    /// The request as a whole is above the limit.
    RequestTooBig(usize),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        match self {
            ProtocolError::InlineTooBig => f.write_str("too big inline request"),
            ProtocolError::MultibulkLineTooBig => f.write_str("too big mbulk count string"),
            ProtocolError::BulkLineTooBig => f.write_str("too big bulk count string"),
            ProtocolError::MultibulkLength => f.write_str("invalid multibulk length"),
            ProtocolError::BulkLength => f.write_str("invalid bulk length"),
            ProtocolError::ExpectedBulk(found) => {
                let shown = if found.is_ascii_graphic() || *found == b' ' {
                    *found as char
                } else {
                    '?'
                };
                write!(f, "expected '$', got '{shown}'")
            }
            ProtocolError::BulkEnd => f.write_str("expected CRLF behind an argument"),
            ProtocolError::Quotes => f.write_str("unbalanced quotes in request"),
            ProtocolError::UnauthenticatedMultibulk => {
                f.write_str("unauthenticated multibulk length")
            }
            ProtocolError::UnauthenticatedBulk => f.write_str("unauthenticated bulk length"),
            ProtocolError::RequestTooBig(max) => write!(f, "request exceeds {max} bytes"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// What a call of [`Parser::parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed; at least `missing` of them are known to be.
    Incomplete {
        /// Bytes that are certainly missing, at least 1.
        missing: usize,
    },
    /// A request of `len` bytes; its arguments are at hand until [`Parser::reset`]. There is at least one.
    Request {
        /// Bytes to drop when it is done.
        len: usize,
    },
    /// `len` bytes that ask for nothing (an empty line, an empty array).
    Nothing {
        /// Bytes to drop.
        len: usize,
    },
}

/// State of one connection's parser. See the module.
#[derive(Debug, Default)]
pub struct Parser {
    /// Start and length of each argument, from the start of the request (or in `inline`).
    args: Vec<(u32, u32)>,
    /// Unquoted arguments of an inline request, one after the other.
    inline: Vec<u8>,
    /// Whether `args` points into `inline`.
    is_inline: bool,
    /// Arguments to come; zero before the header was read.
    expected: usize,
    /// Offset of the next byte to look at.
    at: usize,
    /// Length of the argument whose bytes begin at `at`, once its header was read.
    bulk: Option<usize>,
}

impl Parser {
    /// Looks for a request at the start of `buf`.
    pub fn parse(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        if self.expected == 0 {
            match buf.first() {
                None => return Ok(Parsed::Incomplete { missing: 1 }),
                Some(b'*') => {}
                Some(_) => return self.parse_inline(buf, limits),
            }
            let Some((count, next)) = length_line(buf, 1) else {
                return match line_state(&buf[1..], limits) {
                    Line::Open => Ok(Parsed::Incomplete { missing: 1 }),
                    Line::TooLong => Err(ProtocolError::MultibulkLineTooBig),
                    Line::Bad => Err(ProtocolError::MultibulkLength),
                };
            };
            if count > limits.args_max as i64 {
                if limits.unauthenticated {
                    return Err(ProtocolError::UnauthenticatedMultibulk);
                }
                return Err(ProtocolError::MultibulkLength);
            }
            if count <= 0 {
                return Ok(Parsed::Nothing { len: next });
            }
            self.expected = count as usize;
            self.at = next;
            self.args.clear();
            self.is_inline = false;
        }
        while self.args.len() < self.expected {
            let len = match self.bulk {
                Some(len) => len,
                None => {
                    match buf.get(self.at) {
                        None => return Ok(Parsed::Incomplete { missing: 1 }),
                        Some(b'$') => {}
                        Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
                    }
                    let Some((len, next)) = length_line(buf, self.at + 1) else {
                        return match line_state(&buf[self.at + 1..], limits) {
                            Line::Open => Ok(Parsed::Incomplete { missing: 1 }),
                            Line::TooLong => Err(ProtocolError::BulkLineTooBig),
                            Line::Bad => Err(ProtocolError::BulkLength),
                        };
                    };
                    if limits.unauthenticated && len > limits.bulk_bytes_max as i64 {
                        return Err(ProtocolError::UnauthenticatedBulk);
                    }
                    if len < 0 || len > limits.bulk_bytes_max as i64 {
                        return Err(ProtocolError::BulkLength);
                    }
                    let len = len as usize;
                    if next + len + 2 > limits.request_bytes_max {
                        return Err(ProtocolError::RequestTooBig(limits.request_bytes_max));
                    }
                    self.bulk = Some(len);
                    self.at = next;
                    len
                }
            };
            let end = self.at + len;
            if buf.len() < end + 2 {
                return Ok(Parsed::Incomplete {
                    missing: end + 2 - buf.len(),
                });
            }
            if &buf[end..end + 2] != b"\r\n" {
                return Err(ProtocolError::BulkEnd);
            }
            self.args.push((self.at as u32, len as u32));
            self.at = end + 2;
            self.bulk = None;
        }
        Ok(Parsed::Request { len: self.at })
    }

    /// Arguments of the request found.
    #[must_use]
    pub fn arg_count(&self) -> usize {
        self.args.len()
    }

    /// The arguments of the request found at the start of `buf`, the same bytes as given to `parse`.
    pub fn args<'a>(&'a self, buf: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let from: &[u8] = if self.is_inline { &self.inline } else { buf };
        self.args
            .iter()
            .map(move |&(start, len)| &from[start as usize..start as usize + len as usize])
    }

    /// Forgets the request; the next `parse` looks for another.
    pub fn reset(&mut self) {
        // A client that once sent a huge request does not keep its tables.
        if self.args.capacity() > 1024 {
            self.args = Vec::new();
        }
        if self.inline.capacity() > 4096 {
            self.inline = Vec::new();
        }
        self.args.clear();
        self.inline.clear();
        self.is_inline = false;
        self.expected = 0;
        self.at = 0;
        self.bulk = None;
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.args.capacity() * size_of::<(u32, u32)>() + self.inline.capacity()
    }

    fn parse_inline(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        let window = &buf[..buf.len().min(limits.inline_bytes_max)];
        let Some(end) = memchr(b'\n', window) else {
            if buf.len() >= limits.inline_bytes_max {
                return Err(ProtocolError::InlineTooBig);
            }
            return Ok(Parsed::Incomplete { missing: 1 });
        };
        let line = &buf[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.reset();
        self.is_inline = true;
        split_args(line, &mut self.inline, &mut self.args)?;
        if self.args.is_empty() {
            self.reset();
            return Ok(Parsed::Nothing { len: end + 1 });
        }
        Ok(Parsed::Request { len: end + 1 })
    }
}

/// A decimal number and CR LF at `at`: the number, and the offset behind. `None` when it is not there, be it
/// cut or broken; [`line_state`] tells which.
#[inline]
fn length_line(buf: &[u8], at: usize) -> Option<(i64, usize)> {
    let mut at = at;
    let negative = *buf.get(at)? == b'-';
    if negative {
        at += 1;
    }
    let start = at;
    let mut value: i64 = 0;
    loop {
        match *buf.get(at)? {
            digit @ b'0'..=b'9' => {
                // Eighteen digits fit; no length that is allowed has more.
                if at - start >= 18 {
                    return None;
                }
                value = value * 10 + i64::from(digit - b'0');
                at += 1;
            }
            b'\r' if at > start => break,
            _ => return None,
        }
    }
    (*buf.get(at + 1)? == b'\n').then_some((if negative { -value } else { value }, at + 2))
}

enum Line {
    Open,
    TooLong,
    Bad,
}

/// Why [`length_line`] found nothing in `rest`.
fn line_state(rest: &[u8], limits: &Limits) -> Line {
    match memchr(b'\r', rest) {
        None if rest.len() > limits.inline_bytes_max => Line::TooLong,
        None => Line::Open,
        Some(cr) if cr + 1 == rest.len() => Line::Open,
        Some(_) => Line::Bad,
    }
}

/// Splits a line into arguments as Redis does: blanks between them, `"..."` with `\n \r \t \b \a \xHH` and
/// `\"`, `'...'` with `\'`; a closing quote must be followed by a blank or the end.
fn split_args(
    line: &[u8],
    out: &mut Vec<u8>,
    args: &mut Vec<(u32, u32)>,
) -> Result<(), ProtocolError> {
    let is_blank = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0);
    let mut at = 0;
    loop {
        while at < line.len() && is_blank(line[at]) {
            at += 1;
        }
        if at == line.len() {
            return Ok(());
        }
        let start = out.len();
        let mut quote: Option<u8> = None;
        loop {
            let Some(&byte) = line.get(at) else {
                if quote.is_some() {
                    return Err(ProtocolError::Quotes);
                }
                break;
            };
            match (quote, byte) {
                (Some(b'"'), b'\\') if at + 1 < line.len() => {
                    let hex = line
                        .get(at + 2..at + 4)
                        .filter(|_| line[at + 1] == b'x')
                        .and_then(|digits| std::str::from_utf8(digits).ok())
                        .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
                        .and_then(|digits| u8::from_str_radix(digits, 16).ok());
                    if let Some(value) = hex {
                        out.push(value);
                        at += 4;
                    } else {
                        out.push(match line[at + 1] {
                            b'n' => b'\n',
                            b'r' => b'\r',
                            b't' => b'\t',
                            b'b' => 8,
                            b'a' => 7,
                            other => other,
                        });
                        at += 2;
                    }
                }
                (Some(b'\''), b'\\') if line.get(at + 1) == Some(&b'\'') => {
                    out.push(b'\'');
                    at += 2;
                }
                (Some(open), byte) if byte == open => {
                    at += 1;
                    if line.get(at).is_some_and(|&next| !is_blank(next)) {
                        return Err(ProtocolError::Quotes);
                    }
                    break;
                }
                (Some(_), byte) => {
                    out.push(byte);
                    at += 1;
                }
                (None, byte) if is_blank(byte) => break,
                (None, byte @ (b'"' | b'\'')) => {
                    quote = Some(byte);
                    at += 1;
                }
                (None, byte) => {
                    out.push(byte);
                    at += 1;
                }
            }
        }
        args.push((start as u32, (out.len() - start) as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(Vec<Vec<Vec<u8>>>, usize), ProtocolError>;

    /// Feeds `input` in pieces of `step` bytes; the requests found and the bytes left over.
    fn feed(input: &[u8], step: usize, limits: &Limits) -> Outcome {
        let mut parser = Parser::default();
        let (mut start, mut end) = (0, 0);
        let mut found = Vec::new();
        loop {
            match parser.parse(&input[start..end], limits)? {
                Parsed::Incomplete { missing } => {
                    assert!(missing >= 1);
                    if end == input.len() {
                        return Ok((found, end - start));
                    }
                    end = (end + step).min(input.len());
                }
                Parsed::Request { len } => {
                    found.push(
                        parser
                            .args(&input[start..end])
                            .map(<[u8]>::to_vec)
                            .collect(),
                    );
                    start += len;
                    parser.reset();
                }
                Parsed::Nothing { len } => {
                    start += len;
                    parser.reset();
                }
            }
        }
    }

    fn request(args: &[&[u8]]) -> Vec<Vec<u8>> {
        args.iter().map(|arg| arg.to_vec()).collect()
    }

    #[test]
    fn requests_are_found_however_the_bytes_are_cut() {
        let input = b"*2\r\n$3\r\nGET\r\n$3\r\na\r\n\r\n*0\r\n*-1\r\nPING\r\n\r\n  \r\n*1\r\n$0\r\n\r\nset k \"a\\x41\\n\" 'it\\'s'\n";
        for step in 1..=input.len() {
            let (found, left) = feed(input, step, &Limits::default()).unwrap();
            assert_eq!(left, 0, "step {step}");
            assert_eq!(
                found,
                [
                    request(&[b"GET", b"a\r\n"]),
                    request(&[b"PING"]),
                    request(&[b""]),
                    request(&[b"set", b"k", b"aA\n", b"it's"]),
                ],
                "step {step}"
            );
        }
    }

    #[test]
    fn broken_requests_get_the_errors_of_redis() {
        let small = Limits {
            bulk_bytes_max: 10,
            args_max: 4,
            inline_bytes_max: 32,
            request_bytes_max: 40,
            unauthenticated: false,
        };
        let long = [b'x'; 64];
        let cases: Vec<(&str, Vec<u8>, &str)> = vec![
            (
                "count not a number",
                b"*x\r\n".to_vec(),
                "invalid multibulk length",
            ),
            (
                "count above the limit",
                b"*5\r\n".to_vec(),
                "invalid multibulk length",
            ),
            (
                "count above 64 bits",
                b"*99999999999999999999999\r\n".to_vec(),
                "invalid multibulk length",
            ),
            (
                "no dollar",
                b"*1\r\n:3\r\n".to_vec(),
                "expected '$', got ':'",
            ),
            (
                "dollar missing, byte unprintable",
                b"*1\r\n\x01\r\n".to_vec(),
                "expected '$', got '?'",
            ),
            (
                "length not a number",
                b"*1\r\n$x\r\n".to_vec(),
                "invalid bulk length",
            ),
            (
                "length negative",
                b"*1\r\n$-1\r\n".to_vec(),
                "invalid bulk length",
            ),
            (
                "length above the limit",
                b"*1\r\n$11\r\n".to_vec(),
                "invalid bulk length",
            ),
            (
                "no end behind an argument",
                b"*1\r\n$1\r\nabc".to_vec(),
                "expected CRLF behind an argument",
            ),
            (
                "quotes",
                b"get \"abc\r\n".to_vec(),
                "unbalanced quotes in request",
            ),
            (
                "quote followed by text",
                b"get \"abc\"d\r\n".to_vec(),
                "unbalanced quotes in request",
            ),
            (
                "inline without end",
                long.to_vec(),
                "too big inline request",
            ),
            (
                "count without end",
                [b"*1".as_slice(), &long].concat(),
                "too big mbulk count string",
            ),
            (
                "length without end",
                [b"*1\r\n$1".as_slice(), &long].concat(),
                "too big bulk count string",
            ),
            (
                "all together too big",
                b"*4\r\n$9\r\n123456789\r\n$9\r\n123456789\r\n$9\r\n".to_vec(),
                "request exceeds 40 bytes",
            ),
        ];
        for (name, input, text) in cases {
            let error = feed(&input, 7, &small).expect_err(name);
            assert_eq!(
                error.to_string(),
                format!("Protocol error: {text}"),
                "{name}"
            );
        }
    }

    /// E2: the limits of Redis.
    #[test]
    fn who_has_not_authenticated_announces_little() {
        let limits = Limits::default().unauthenticated();
        let long = format!("*2\r\n$4\r\nAUTH\r\n$16384\r\n{}\r\n", "x".repeat(16_384));
        assert_eq!(feed(long.as_bytes(), 4096, &limits).unwrap().0.len(), 1);
        let ten = format!("*10\r\n{}", "$1\r\na\r\n".repeat(10));
        assert_eq!(feed(ten.as_bytes(), 7, &limits).unwrap().0.len(), 1);
        for (input, text) in [
            ("*11\r\n", "unauthenticated multibulk length"),
            ("*2147483648\r\n", "unauthenticated multibulk length"),
            ("*1\r\n$16385\r\n", "unauthenticated bulk length"),
            ("*1\r\n$-1\r\n", "invalid bulk length"),
        ] {
            let error = feed(input.as_bytes(), 7, &limits).expect_err(input);
            assert_eq!(error.to_string(), format!("Protocol error: {text}"));
        }
    }

    #[test]
    fn a_huge_announced_length_allocates_nothing() {
        let mut parser = Parser::default();
        let limits = Limits::default();
        let parsed = parser.parse(b"*1048576\r\n$67000000\r\n", &limits).unwrap();
        assert!(matches!(parsed, Parsed::Incomplete { missing } if missing > 60_000_000));
        assert!(parser.memory() < 4096);
    }
}
