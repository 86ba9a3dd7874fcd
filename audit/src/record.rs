//! What a record says: who did what to what, from where, and how it ended.
//!
//! - RE1: the body is one JSON object with the field names of the Elastic Common Schema (ECS 8), flat and dotted, in a fixed order, without
//!   fields that are not known; what ECS has no name for stands below `esker.` and `labels.`.
//! - RE2: no text in it holds a control character (ASCII, C1, or a line or paragraph separator) unescaped, so that no reader that prints it or splits it into lines
//!   can be led astray.
//! - RE3: its texts and the names of its free fields are cut to [`Limits`], and where all of them together are too much for an entry, to half of that and so on; one that was cut
//!   ends with `...`, and the record counts how many were.

use serde_json::Value;
use std::borrow::Cow;

/// A short text of a record.
pub type Text = Cow<'static, str>;

/// Largest body; what the trail adds to it, and what an entry is besides, have room behind it.
const BODY_MAX: usize = crate::entry::ENTRY_MAX - (64 << 10);

/// Version of the fields, in every record as `esker.schema`.
pub const SCHEMA: u32 = 1;

/// How grave it is; policies go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Severity {
    /// Day-to-day use: reads, writes.
    Info = 0,
    /// Normal but worth a look: sessions, configuration read.
    Notice = 1,
    /// Refused or failed.
    Warning = 2,
    /// Administration and security: configuration, promotion, keys, removal.
    Error = 3,
    /// The trail or the data are in danger.
    Critical = 4,
}

impl Severity {
    /// All, least first.
    pub const ALL: [Severity; 5] = [
        Severity::Info,
        Severity::Notice,
        Severity::Warning,
        Severity::Error,
        Severity::Critical,
    ];

    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["info", "notice", "warning", "error", "critical"][self as usize]
    }

    /// That of RFC 5424: 6 informational to 2 critical.
    #[must_use]
    pub fn syslog(self) -> u8 {
        6 - self as u8
    }

    pub(crate) fn of(byte: u8) -> Option<Severity> {
        Severity::ALL.get(usize::from(byte)).copied()
    }
}

impl std::str::FromStr for Severity {
    type Err = String;

    fn from_str(text: &str) -> Result<Severity, String> {
        let found = Severity::ALL.into_iter().find(|s| s.name() == text);
        found.ok_or_else(|| format!("{text}: not info, notice, warning, error or critical"))
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Outcome {
    /// It was done.
    Success,
    /// It was not.
    Failure,
    /// Not known, or not yet: an intent.
    #[default]
    Unknown,
}

impl Outcome {
    /// In a word, as ECS has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Failure => "failure",
            Outcome::Unknown => "unknown",
        }
    }
}

impl std::str::FromStr for Outcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Outcome, String> {
        [Outcome::Success, Outcome::Failure, Outcome::Unknown]
            .into_iter()
            .find(|o| o.name() == text)
            .ok_or_else(|| format!("{text}: not success, failure or unknown"))
    }
}

/// Bounds of what a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one text. Default 1,024.
    pub text_bytes: usize,
    /// Metadata fields; what is beyond is left out and counted. Default 32.
    pub metadata: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            text_bytes: 1024,
            metadata: 32,
        }
    }
}

/// A value of free metadata.
#[derive(Clone, Debug, PartialEq)]
enum Meta {
    Plain(Value),
    Secret(Vec<u8>),
}

/// A record to be written. Sequence, id, time, node and key are the trail's to give.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub(crate) action: Text,
    pub(crate) severity: Severity,
    outcome: Outcome,
    intent: bool,
    actor_id: Option<Text>,
    actor_name: Option<Text>,
    method: Option<Text>,
    address: Option<Text>,
    client: Option<Text>,
    tenant: Option<Text>,
    resource_type: Option<Text>,
    resource_id: Option<Text>,
    error_code: Option<Text>,
    error_message: Option<Text>,
    request: Option<Text>,
    epoch: Option<u64>,
    lsn: Option<u64>,
    index: Option<u64>,
    durability: Option<Text>,
    metadata: Vec<(Text, Meta)>,
}

impl Record {
    /// That `action` (a dotted word: `user.login`) happened; severity info, outcome unknown until something else is said.
    pub fn new(action: impl Into<Text>) -> Record {
        Record {
            action: action.into(),
            severity: Severity::Info,
            outcome: Outcome::Unknown,
            intent: false,
            actor_id: None,
            actor_name: None,
            method: None,
            address: None,
            client: None,
            tenant: None,
            resource_type: None,
            resource_id: None,
            error_code: None,
            error_message: None,
            request: None,
            epoch: None,
            lsn: None,
            index: None,
            durability: None,
            metadata: Vec::new(),
        }
    }

    /// How grave it is (`event.severity`, `log.level`).
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Record {
        self.severity = severity;
        self
    }

    /// How it ended (`event.outcome`).
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Record {
        self.outcome = outcome;
        self
    }

    /// It succeeded.
    #[must_use]
    pub fn success(self) -> Record {
        self.outcome(Outcome::Success)
    }

    /// It failed, and why (`error.code`, `error.message`).
    #[must_use]
    pub fn failure(mut self, code: impl Into<Text>, message: impl Into<Text>) -> Record {
        self.error_code = Some(code.into());
        self.error_message = Some(message.into());
        self.outcome(Outcome::Failure)
    }

    /// It is about to be done: the first of two stages; another record with the same request id says how it ended.
    #[must_use]
    pub fn intent(mut self) -> Record {
        self.intent = true;
        self
    }

    /// Who did it: an id and a name (`user.id`, `user.name`).
    #[must_use]
    pub fn actor(mut self, id: impl Into<Text>, name: impl Into<Text>) -> Record {
        self.actor_id = Some(id.into());
        self.actor_name = Some(name.into());
        self
    }

    /// How the actor was authenticated (`esker.auth_method`).
    #[must_use]
    pub fn method(mut self, method: impl Into<Text>) -> Record {
        self.method = Some(method.into());
        self
    }

    /// From where: an address, and what the client calls itself (`source.address`, `user_agent.original`).
    #[must_use]
    pub fn origin(mut self, address: impl Into<Text>, client: impl Into<Text>) -> Record {
        self.address = Some(address.into());
        self.client = Some(client.into()).filter(|c: &Text| !c.is_empty());
        self
    }

    /// For whom (`organization.id`).
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<Text>) -> Record {
        self.tenant = Some(tenant.into());
        self
    }

    /// To what: its type and id (`esker.resource.type`, `esker.resource.id`).
    #[must_use]
    pub fn resource(mut self, kind: impl Into<Text>, id: impl Into<Text>) -> Record {
        self.resource_type = Some(kind.into());
        self.resource_id = Some(id.into());
        self
    }

    /// Which request it belongs to (`http.request.id`).
    #[must_use]
    pub fn request(mut self, id: impl Into<Text>) -> Record {
        self.request = Some(id.into());
        self
    }

    /// Where in which log its effect stands (`esker.epoch`, `esker.lsn`).
    #[must_use]
    pub fn effect(mut self, epoch: u64, lsn: u64) -> Record {
        self.epoch = Some(epoch);
        self.lsn = Some(lsn);
        self
    }

    /// The entry of a consensus log that has its effect: its term, where that is known, and its index (`esker.epoch`, `esker.index`).
    #[must_use]
    pub fn entry(mut self, term: Option<u64>, index: u64) -> Record {
        self.epoch = term.or(self.epoch);
        self.index = Some(index);
        self
    }

    /// How durable the effect was when this was written: `buffered`, `synced`, ... (`esker.durability`).
    #[must_use]
    pub fn durability(mut self, reached: impl Into<Text>) -> Record {
        self.durability = Some(reached.into());
        self
    }

    /// A free field (`labels.NAME`).
    #[must_use]
    pub fn with(mut self, name: impl Into<Text>, value: impl Into<Value>) -> Record {
        self.label(name.into(), Meta::Plain(value.into()));
        self
    }

    /// A free field whose value must not be readable: what is written is a keyed hash of it ([`crate::Key::redact`]).
    #[must_use]
    pub fn secret(mut self, name: impl Into<Text>, value: impl AsRef<[u8]>) -> Record {
        let value = value.as_ref().to_vec();
        self.label(name.into(), Meta::Secret(value));
        self
    }

    /// Once by each name: the last value stands.
    fn label(&mut self, name: Text, value: Meta) {
        self.metadata.retain(|(other, _)| *other != name);
        self.metadata.push((name, value));
    }

    /// Its body but for the closing brace, which the trail's own fields come before (RE1).
    pub(crate) fn body(&self, limits: &Limits, redact: impl Fn(&[u8]) -> String) -> Vec<u8> {
        let mut limits = *limits;
        loop {
            let body = self.body_within(&limits, &redact);
            if body.len() <= BODY_MAX || limits.text_bytes <= 16 {
                return body;
            }
            limits.text_bytes /= 2;
        }
    }

    fn body_within(&self, limits: &Limits, redact: impl Fn(&[u8]) -> String) -> Vec<u8> {
        let mut out = Out {
            bytes: Vec::with_capacity(320),
            limit: limits.text_bytes,
            cut: 0,
        };
        out.bytes.push(b'{');
        out.text("event.action", &self.action);
        out.text("event.outcome", self.outcome.name());
        out.number("event.severity", self.severity as u64);
        out.text("log.level", self.severity.name());
        if self.intent {
            out.text("esker.stage", "intent");
        }
        let texts = [
            ("user.id", &self.actor_id),
            ("user.name", &self.actor_name),
            ("esker.auth_method", &self.method),
            ("source.address", &self.address),
            ("user_agent.original", &self.client),
            ("organization.id", &self.tenant),
            ("esker.resource.type", &self.resource_type),
            ("esker.resource.id", &self.resource_id),
            ("error.code", &self.error_code),
            ("error.message", &self.error_message),
            ("http.request.id", &self.request),
            ("esker.durability", &self.durability),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                out.text(name, text);
            }
        }
        for (name, number) in [
            ("esker.epoch", self.epoch),
            ("esker.lsn", self.lsn),
            ("esker.index", self.index),
        ] {
            if let Some(number) = number {
                out.number(name, number);
            }
        }
        for (name, value) in self.metadata.iter().take(limits.metadata) {
            let whole = name.len() <= limits.text_bytes;
            let end = name.floor_char_boundary(limits.text_bytes);
            let mut label = String::with_capacity(7 + end);
            label.push_str("labels.");
            label.push_str(&name[..end]);
            if !whole {
                label.push_str("...");
                out.cut += 1;
            }
            match value {
                Meta::Plain(Value::String(text)) => out.text(&label, text),
                Meta::Plain(value) => out.text_or_value(&label, value),
                Meta::Secret(value) => out.text(&label, &redact(value)),
            }
        }
        let left_out = self.metadata.len().saturating_sub(limits.metadata);
        if left_out > 0 {
            out.number("esker.left_out", left_out as u64);
        }
        if out.cut > 0 {
            out.number("esker.cut", out.cut);
        }
        out.bytes
    }
}

/// Writes the fields of a body.
pub(crate) struct Out {
    pub(crate) bytes: Vec<u8>,
    limit: usize,
    cut: u64,
}

impl Out {
    /// A body without fields yet.
    pub(crate) fn bare() -> Out {
        Out {
            bytes: vec![b'{'],
            limit: 4096,
            cut: 0,
        }
    }

    /// The body of one of the trail's own records.
    pub(crate) fn begin(action: &str, severity: Severity) -> Out {
        let mut out = Out::bare();
        out.text("event.action", action);
        out.text("event.outcome", Outcome::Success.name());
        out.number("event.severity", severity as u64);
        out.text("log.level", severity.name());
        out
    }

    fn name(&mut self, name: &str) {
        if self.bytes.len() > 1 {
            self.bytes.push(b',');
        }
        escape(&mut self.bytes, name);
        self.bytes.push(b':');
    }

    pub(crate) fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        if text.len() <= self.limit {
            return escape(&mut self.bytes, text);
        }
        let end = text.floor_char_boundary(self.limit);
        self.cut += 1;
        escape(&mut self.bytes, &format!("{}...", &text[..end]));
    }

    pub(crate) fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        self.bytes.extend_from_slice(number.to_string().as_bytes());
    }

    fn text_or_value(&mut self, name: &str, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                self.name(name);
                self.bytes.extend_from_slice(value.to_string().as_bytes());
            }
            // ECS labels are flat.
            other => self.text(name, &other.to_string()),
        }
    }
}

/// Whether a character must not reach a terminal, a line or a cell as it is: control characters, separators of lines, and what turns the direction of text (RE2).
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{feff}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` as a JSON string, without a control character in it (RE2).
fn escape(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let plain = |b: u8| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\';
    if text.bytes().all(plain) {
        out.extend_from_slice(text.as_bytes());
    } else {
        for c in text.chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                c if is_unsafe(c) => {
                    out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes());
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(record: &Record, limits: &Limits) -> Value {
        let mut body = record.body(limits, |_| "hidden".to_owned());
        body.push(b'}');
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn re1_the_fields_have_the_names_of_ecs() {
        let record = Record::new("user.login")
            .severity(Severity::Notice)
            .actor("17", "ann")
            .method("password")
            .origin("10.0.0.1:99", "cli")
            .tenant("north")
            .resource("keyspace", "accounts")
            .request("r-1")
            .effect(3, 4096)
            .durability("synced")
            .failure("WRONGPASS", "no such user")
            .with("attempt", 2)
            .with("attempt", 3)
            .secret("password", "hunter2");
        let body = record.body(&Limits::default(), |_| String::new());
        let body = String::from_utf8(body).unwrap();
        assert_eq!(body.matches("labels.attempt").count(), 1, "{body}");
        let fields = fields(&record, &Limits::default());
        let expected = serde_json::json!({
            "event.action": "user.login", "event.outcome": "failure", "event.severity": 1, "log.level": "notice",
            "user.id": "17", "user.name": "ann", "esker.auth_method": "password",
            "source.address": "10.0.0.1:99", "user_agent.original": "cli", "organization.id": "north",
            "esker.resource.type": "keyspace", "esker.resource.id": "accounts",
            "error.code": "WRONGPASS", "error.message": "no such user", "http.request.id": "r-1",
            "esker.durability": "synced", "esker.epoch": 3, "esker.lsn": 4096,
            "labels.attempt": 3, "labels.password": "hidden",
        });
        assert_eq!(fields, expected);
    }

    #[test]
    fn re2_no_text_holds_a_control_character_unescaped() {
        let nasty = "a\r\nfake \u{1b}[2J \u{9b}31m \u{2028} \u{202e} \0 \"quoted\" \\ é";
        let record = Record::new(nasty).with(nasty, nasty);
        let body = record.body(&Limits::default(), |_| String::new());
        let text = std::str::from_utf8(&body).unwrap();
        assert!(!text.chars().any(char::is_control), "{text}");
        assert!(!text.contains(['\u{2028}', '\u{202e}']), "{text}");
        let fields = fields(&record, &Limits::default());
        assert_eq!(fields["event.action"], nasty);
        assert_eq!(fields[format!("labels.{nasty}")], nasty);
    }

    #[test]
    fn re3_texts_and_fields_are_cut_and_counted() {
        let limits = Limits {
            text_bytes: 10,
            metadata: 2,
        };
        let mut record = Record::new("a.b").actor("ä".repeat(30), "short");
        for n in 0..5 {
            record = record.with(format!("n{n}"), n);
        }
        let fields = fields(&record, &limits);
        assert_eq!(fields["user.id"], format!("{}...", "ä".repeat(5)));
        assert_eq!(fields["esker.cut"], 1);
        assert_eq!(fields["esker.left_out"], 3);
        assert_eq!(fields["labels.n1"], 1);
        assert!(fields.get("labels.n2").is_none());
    }
}
