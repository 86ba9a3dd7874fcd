//! Replies, encoded straight into the client's output buffer.
//!
//! One call writes one value; an aggregate writes its header and the caller the elements that it announced.
//! What RESP2 has no type for falls back as Redis does it: a map is a flat array, a set an array, a double
//! and a big number bulk strings, a boolean an integer, null a null bulk, verbatim text a bulk.

/// Which protocol a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2, what a connection starts in.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

impl Protocol {
    /// The number that `HELLO` and `CLIENT INFO` show.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        }
    }
}

/// A reply, and what stands before it in its buffer, has no more bytes of values: the longest value of Redis.
const BYTES_MAX: usize = 512 << 20;

/// An encoder of replies.
#[derive(Debug, Default)]
pub struct Reply {
    buf: Vec<u8>,
    protocol: Protocol,
    /// What is to hold no more says so by [`Reply::has_room`].
    bytes_max: usize,
    over: bool,
}

impl Reply {
    /// An empty one.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Reply {
            buf: Vec::new(),
            protocol,
            bytes_max: BYTES_MAX,
            over: false,
        }
    }

    /// The same, of so many bytes at most for those who ask [`Reply::has_room`].
    #[must_use]
    pub fn at_most(self, bytes_max: usize) -> Self {
        Reply { bytes_max, ..self }
    }

    /// Asked by what may be of any length before it goes on: whether so many bytes of values have room. If not, the reply is an error.
    pub fn has_room(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.bytes_max.saturating_sub(self.buf.len());
        self.over |= !fits;
        fits
    }

    /// Whether something had no room.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The error reply of what has no room.
    #[must_use]
    pub fn no_room(&self) -> String {
        format!(
            "ERR the reply would be longer than {} bytes; ask for less at once",
            self.bytes_max
        )
    }

    /// The protocol that is encoded.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Encodes in `protocol` from the next value on (`HELLO`; set the session's too).
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// Bytes encoded so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Bytes of memory it holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    /// Nothing yet?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Takes back everything behind `len`, as if it had not been written.
    pub fn truncate(&mut self, len: usize) {
        self.buf.truncate(len);
    }

    /// The encoded bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.buf
    }

    /// Appends values that were encoded before (in the same protocol).
    pub fn raw(&mut self, encoded: &[u8]) {
        self.buf.extend_from_slice(encoded);
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.buf.extend_from_slice(b"+OK\r\n");
    }

    /// A simple string. Line breaks in it become spaces.
    pub fn simple(&mut self, text: &str) {
        self.buf.push(b'+');
        self.line(text);
    }

    /// An error: its code first, as in `ERR syntax error`. Line breaks in it become spaces.
    pub fn error(&mut self, text: &str) {
        self.buf.push(b'-');
        self.line(text);
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        self.header(b':', value);
    }

    /// A bulk string.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.buf.reserve(bytes.len() + 16);
        self.header(b'$', bytes.len() as i64);
        self.buf.extend_from_slice(bytes);
        self.buf.extend_from_slice(b"\r\n");
    }

    /// A bulk string where there is one, else null.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// Null where RESP2 uses a null bulk.
    pub fn null(&mut self) {
        self.buf.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// Null where RESP2 uses a null array (`EXEC` that was aborted).
    pub fn null_array(&mut self) {
        self.buf.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// An array of `len` values, which follow.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }

    /// A map of `len` pairs: `2 * len` values follow.
    pub fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', 2 * len as i64),
            Protocol::Resp3 => self.header(b'%', len as i64),
        }
    }

    /// A set of `len` values, which follow.
    pub fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', len as i64),
            Protocol::Resp3 => self.header(b'~', len as i64),
        }
    }

    /// A push message of `len` values, which follow. RESP2 has an array in its place.
    pub fn push(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', len as i64),
            Protocol::Resp3 => self.header(b'>', len as i64),
        }
    }

    /// A double.
    pub fn double(&mut self, value: f64) {
        let text = if value.is_nan() {
            "nan".to_owned()
        } else if value == f64::INFINITY {
            "inf".to_owned()
        } else if value == f64::NEG_INFINITY {
            "-inf".to_owned()
        } else {
            format!("{value}")
        };
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.buf.push(b',');
                self.line(&text);
            }
        }
    }

    /// A boolean.
    pub fn boolean(&mut self, value: bool) {
        self.buf.extend_from_slice(match (self.protocol, value) {
            (Protocol::Resp2, true) => b":1\r\n",
            (Protocol::Resp2, false) => b":0\r\n",
            (Protocol::Resp3, true) => b"#t\r\n",
            (Protocol::Resp3, false) => b"#f\r\n",
        });
    }

    /// A number too big for 64 bits, in decimal digits.
    pub fn big_number(&mut self, digits: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(digits.as_bytes()),
            Protocol::Resp3 => {
                self.buf.push(b'(');
                self.line(digits);
            }
        }
    }

    /// Text for a person (`INFO`), `txt` or `mkd`.
    pub fn verbatim(&mut self, format: &str, text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => {
                debug_assert_eq!(format.len(), 3, "a verbatim format has three characters");
                self.header(b'=', text.len() as i64 + 4);
                self.buf.extend_from_slice(format.as_bytes());
                self.buf.push(b':');
                self.buf.extend_from_slice(text);
                self.buf.extend_from_slice(b"\r\n");
            }
        }
    }

    fn header(&mut self, kind: u8, value: i64) {
        let mut digits = itoa::Buffer::new();
        self.buf.push(kind);
        self.buf.extend_from_slice(digits.format(value).as_bytes());
        self.buf.extend_from_slice(b"\r\n");
    }

    fn line(&mut self, text: &str) {
        let start = self.buf.len();
        self.buf.extend_from_slice(text.as_bytes());
        for byte in &mut self.buf[start..] {
            if matches!(*byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.buf.extend_from_slice(b"\r\n");
    }

    /// The buffer itself, for the event loop.
    pub(crate) fn buf_mut(&mut self) -> &mut Vec<u8> {
        &mut self.buf
    }
}
