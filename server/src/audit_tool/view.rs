//! Records and values as a person reads them (AT2).

use esker_audit::{Found, Severity, printable};
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// Whether standard output shows colours.
pub(super) fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// A value of a record as a word of a line: what is no plain word stands in quotes, with escapes.
pub(super) fn word(text: &str) -> String {
    word_before(text, None)
}

/// A word that `separator` comes behind.
fn word_before(text: &str, separator: Option<char>) -> String {
    let plain = |c: char| {
        (c.is_alphanumeric() || "-_.:/+@#%&*,;=!?()[]{}<>~^$|".contains(c)) && Some(c) != separator
    };
    match text {
        "" => "-".to_owned(),
        "-" => "\"-\"".to_owned(),
        text if text.chars().all(plain) => text.to_owned(),
        text => printable(&Value::from(text).to_string()).into_owned(),
    }
}

fn colour(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "\x1b[2m",
        Severity::Notice => "",
        Severity::Warning => "\x1b[33m",
        Severity::Error => "\x1b[31m",
        Severity::Critical => "\x1b[1;31m",
    }
}

/// Time, severity, action, outcome, actor@address, resource; then the error, where there is one, and the sequence.
pub(super) fn line(out: &mut impl Write, found: &Found, colours: bool) -> io::Result<()> {
    let text = |name: &str| {
        found
            .fields
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let severity = found.head.severity;
    let (begin, end) = match colours && !colour(severity).is_empty() {
        true => (colour(severity), "\x1b[0m"),
        false => ("", ""),
    };
    let actor = match text("user.name") {
        "" => text("user.id"),
        name => name,
    };
    let mut line = format!(
        "{} {begin}{:<8}{end} {} {} {}",
        word(text("@timestamp")),
        severity.name(),
        word(text("event.action")),
        match text("esker.stage") {
            "intent" => "intent".to_owned(),
            _ => word(text("event.outcome")),
        },
        word_before(actor, Some('@')),
    );
    if !text("source.address").is_empty() {
        line += &format!("@{}", word(text("source.address")));
    }
    match (text("esker.resource.type"), text("esker.resource.id")) {
        ("", "") => line.push_str(" -"),
        (kind, id) => line += &format!(" {}:{}", word_before(kind, Some(':')), word(id)),
    }
    if !text("error.message").is_empty() || !text("error.code").is_empty() {
        line += &format!(
            " error {} {}",
            word(text("error.code")),
            word(text("error.message"))
        );
    }
    let number = |name: &str| found.fields.get(name).and_then(Value::as_u64);
    if let (Some(first), Some(last)) = (number("esker.gap.first"), number("esker.gap.last")) {
        line += &format!(" dropped #{first}..#{last}");
    }
    writeln!(out, "{line} #{}", found.head.sequence)
}

/// Bytes as a person counts them.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{n} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// A JSON value over several lines, safe to print.
pub(super) fn json(out: &mut impl Write, value: &Value) -> io::Result<()> {
    let text = format!("{value:#}");
    for line in text.lines() {
        writeln!(out, "{}", printable(line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at2_a_word_is_one_word_whatever_it_holds() {
        let cases = [
            ("user.login", "user.login"),
            ("", "-"),
            ("-", "\"-\""),
            ("a b", "\"a b\""),
            ("a\nb", "\"a\\nb\""),
            ("\u{1b}[2J", "\"\\u001b[2J\""),
            ("\u{9b}2J\u{202e}", "\"\\u009b2J\\u202e\""),
            ("say \"x\"", "\"say \\\"x\\\"\""),
            ("ann\u{e9}", "ann\u{e9}"),
        ];
        for (text, expected) in cases {
            assert_eq!(word(text), expected);
        }
        assert_eq!(word_before("ann@10.0.0.1", Some('@')), "\"ann@10.0.0.1\"");
    }
}
