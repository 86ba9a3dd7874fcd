//! Export: records as lines for other programs, one record in memory at a time.
//!
//! - EX1: a record is one line, whatever its fields hold: control characters, separators of lines and marks of direction leave as `\u001b` (RE2), in every format.
//! - EX2: nothing is lost: where a format has no place for a field, the whole record goes along as JSON.
//! - EX3: a spreadsheet that opens the CSV runs nothing: a cell that begins, spaces aside, with `=`, `+`, `-`, `@`, tab, carriage return, line feed
//!   or the full-width forms of these begins with `'` instead, as OWASP advises (CSV injection), and so does one that begins with `'` already: who takes one `'`
//!   off the front of each cell has what was written.
//!
//! *JSON lines*: a JSON object per line, with the names of [`crate::Entry::fields`].
//!
//! *CSV*, RFC 4180: a head; every cell in quotes; lines end with CR LF. The columns of [`COLUMNS`] are those names, with `timestamp` for `@timestamp`; the last, `other`, is a JSON object
//! of the fields that have no column. Control characters stand as `\u001b`, and a backslash as two.
//!
//! *Syslog*, RFC 5424: facility 13 (log audit), the severity of [`crate::Severity::syslog`]; HOSTNAME is the node, APP-NAME `esker-audit`, MSGID the action; the time has
//! microseconds, as the RFC allows no more. Known fields stand in one element of structured data; the message is the record as a JSON line. In a stream each ends with LF
//! (RFC 6587, non-transparent framing: no message holds one), or has its length before it ([`Framing::Octets`]).

use crate::error::Error;
use crate::read::{Found, Records};
use crate::record::is_unsafe;
use serde::Serialize as _;
use serde_json::ser::Formatter;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::io::{self, Write};

/// Columns of the CSV between the time and the others, by name of the field.
pub const COLUMNS: [&str; 22] = [
    "event.sequence",
    "event.id",
    "log.level",
    "event.action",
    "event.outcome",
    "esker.stage",
    "user.id",
    "user.name",
    "esker.auth_method",
    "source.address",
    "user_agent.original",
    "organization.id",
    "esker.resource.type",
    "esker.resource.id",
    "error.code",
    "error.message",
    "http.request.id",
    "esker.epoch",
    "esker.lsn",
    "esker.durability",
    "service.node.name",
    "esker.clock",
];
const TIME: &str = "@timestamp";
/// Facility 13 of RFC 5424: log audit.
const FACILITY: u16 = 13;
/// The number that RFC 5612 reserves for examples; see [`Format::Syslog`].
pub const ENTERPRISE: u32 = 32473;

/// As what records leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object per line.
    JsonLines,
    /// RFC 4180, made safe for spreadsheets.
    Csv,
    /// RFC 5424.
    Syslog {
        /// Names the structured data, `esker@NUMBER`: the private enterprise number of who runs this; [`ENTERPRISE`] where there is none.
        enterprise: u32,
    },
}

/// How messages of syslog follow one another in a stream (RFC 6587).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Framing {
    /// Each ends with a line feed.
    #[default]
    Newline,
    /// Before each stand its bytes as a decimal number, and a space: octet counting, which RFC 5425 (TLS) demands.
    Octets,
}

/// Writes records; see the module.
#[derive(Debug)]
pub struct Export<W: Write> {
    out: W,
    format: Format,
    framing: Framing,
    line: Vec<u8>,
    begun: bool,
    written: u64,
}

impl<W: Write> Export<W> {
    /// To `out`, which should be buffered.
    pub fn new(out: W, format: Format) -> Export<W> {
        Export {
            out,
            format,
            framing: Framing::default(),
            line: Vec::with_capacity(1024),
            begun: false,
            written: 0,
        }
    }

    /// With another framing, of syslog; other formats have none.
    #[must_use]
    pub fn framed(mut self, framing: Framing) -> Export<W> {
        self.framing = framing;
        self
    }

    /// Writes a record.
    pub fn put(&mut self, found: &Found) -> io::Result<()> {
        self.begin()?;
        self.line.clear();
        match self.format {
            Format::JsonLines => json(&mut self.line, &found.fields),
            Format::Csv => csv(&mut self.line, &found.fields),
            Format::Syslog { enterprise } => syslog(&mut self.line, found, enterprise),
        }
        let end: &[u8] = match (self.format, self.framing) {
            (Format::Csv, _) => b"\r\n",
            (Format::Syslog { .. }, Framing::Octets) => {
                write!(self.out, "{} ", self.line.len())?;
                b""
            }
            _ => b"\n",
        };
        self.line.extend_from_slice(end);
        self.written += 1;
        self.out.write_all(&self.line)
    }

    fn begin(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) && self.format == Format::Csv {
            let names = COLUMNS.map(|name| format!(",\"{name}\"")).concat();
            write!(self.out, "\"timestamp\"{names},\"other\"\r\n")?;
        }
        Ok(())
    }

    /// Writes what belongs to the end, flushes, and says how many records were written.
    pub fn finish(mut self) -> io::Result<u64> {
        self.begin()?;
        self.out.flush()?;
        Ok(self.written)
    }
}

/// Writes all that `records` has left; how many.
pub fn export(records: &mut Records, out: impl Write, format: Format) -> Result<u64, Error> {
    let failed = crate::error::io_error("writing", std::path::Path::new("the export"));
    let mut export = Export::new(out, format);
    while let Some(found) = records.next()? {
        export.put(&found).map_err(&failed)?;
    }
    export.finish().map_err(&failed)
}

/// A JSON line without a character that must not be in one (EX1); serde_json lets DEL, C1 and U+2028 pass.
struct Safe;

impl Formatter for Safe {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        mut rest: &str,
    ) -> io::Result<()> {
        while let Some(at) = rest.find(is_unsafe) {
            let c = rest[at..].chars().next().expect("one was found there");
            write!(writer, "{}\\u{:04x}", &rest[..at], c as u32)?;
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

fn json(out: &mut Vec<u8>, fields: &Map<String, Value>) {
    let mut writer = serde_json::Serializer::with_formatter(out, Safe);
    let written = fields.serialize(&mut writer);
    written.expect("a vector takes it, and its keys are texts");
}

/// One JSON object in one line, safe to print (EX1).
#[must_use]
pub fn json_line(fields: &Map<String, Value>) -> String {
    let mut out = Vec::new();
    json(&mut out, fields);
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// `text` for a person to read: what must not reach a terminal stands as `\u001b`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::new();
    let written = Safe.write_string_fragment(&mut out, text);
    written.expect("a vector takes it");
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

fn text_of(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn cell(out: &mut Vec<u8>, text: &str, raw: &str) {
    let first = raw.trim_start_matches(' ').chars().next();
    let runs = "=+-@\t\r\n'\u{ff1d}\u{ff0b}\u{ff0d}\u{ff20}";
    out.push(b'"');
    if first.is_some_and(|c| runs.contains(c)) {
        out.push(b'\'');
    }
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

fn csv(out: &mut Vec<u8>, fields: &Map<String, Value>) {
    for (at, name) in [TIME].iter().chain(&COLUMNS).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let raw = text_of(fields.get(*name));
        cell(out, &printable(&raw.replace('\\', "\\\\")), &raw);
    }
    let known = |name: &str| name == TIME || COLUMNS.contains(&name);
    let other = fields.iter().filter(|(name, _)| !known(name));
    let other = other.map(|(n, v)| (n.clone(), v.clone())).collect();
    out.push(b',');
    let other = json_line(&other);
    cell(out, &other, &other);
}

/// A word of the head: printable ASCII, at most `max` of it; a dash where there is none.
fn word(text: &str, max: usize) -> String {
    let printable = |c: char| match c {
        '!'..='~' => c,
        _ => '_',
    };
    match text.chars().map(printable).take(max).collect::<String>() {
        word if word.is_empty() => "-".to_owned(),
        word => word,
    }
}

fn syslog(out: &mut Vec<u8>, found: &Found, enterprise: u32) {
    let (fields, severity) = (&found.fields, found.head.severity);
    let priority = FACILITY * 8 + u16::from(severity.syslog());
    let time = text_of(fields.get(TIME));
    // Nine digits, of which the RFC takes six.
    let time = match (time.strip_suffix('Z'), time.split_once('.')) {
        (Some(whole), Some((_, fraction))) if fraction.len() == 10 => {
            format!("{}Z", &whole[..whole.len() - 3])
        }
        _ => "-".to_owned(),
    };
    let host = word(&text_of(fields.get("service.node.name")), 255);
    let action = word(&text_of(fields.get("event.action")), 32);
    let head = format!("<{priority}>1 {time} {host} esker-audit - {action} [esker@{enterprise}");
    out.extend_from_slice(head.as_bytes());
    for name in COLUMNS {
        let Some(value) = fields.get(name) else {
            continue;
        };
        out.extend_from_slice(format!(" {name}=\"").as_bytes());
        // What is made printable has its backslash escaped like any other.
        for byte in printable(&text_of(Some(value))).bytes() {
            if matches!(byte, b'"' | b'\\' | b']') {
                out.push(b'\\');
            }
            out.push(byte);
        }
        out.push(b'"');
    }
    out.extend_from_slice(b"] ");
    json(out, fields);
}
