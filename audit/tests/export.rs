//! Records leave as JSON lines, CSV and syslog, and no value of theirs breaks out of its line, cell or element (EX1 to EX3).

use esker_audit::{
    COLUMNS, ENTERPRISE, Export, Format, Framing, Key, Keyring, Options, Order, Query, Reader,
    Record, Severity, Summary, Trail, export,
};
use serde_json::{Map, Value};
use std::path::Path;

const HOSTILE: [&str; 14] = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "  =1+1",
    "\u{ff1d}1",
    "'quoted",
    "a\r\nfake,line\n<13>1 - - - - - -",
    "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m",
    "a]\"b\\c [x@1 y=\"z\"]",
    "\u{202e}dlo\u{2028}\u{2029}\u{feff}\0\u{7f}",
    "\"\"\",\"=1",
];

fn keys() -> Keyring {
    Keyring::of(Key::from_secret([1; 32]))
}

fn hostile(text: &str) -> Record {
    let text = text.to_owned();
    Record::new(text.clone())
        .severity(Severity::Error)
        .actor(text.clone(), text.clone())
        .origin(text.clone(), text.clone())
        .resource(text.clone(), text.clone())
        .tenant(text.clone())
        .failure(text.clone(), text.clone())
        .request(text.clone())
        .with(text.clone(), text)
        .with("n", 7)
}

/// A trail of which half is closed; `node` too is hostile.
fn trail(dir: &Path) -> Reader {
    let options = Options {
        node: "node\n1 \u{e9}".to_owned(),
        ..Options::default()
    };
    let (trail, _) = Trail::open(dir, keys(), options).unwrap();
    for (at, text) in HOSTILE.iter().enumerate() {
        trail.record(hostile(text)).unwrap();
        if at == 6 {
            trail.rotate().unwrap().unwrap();
        }
    }
    trail.close().unwrap();
    Reader::open(dir, keys()).unwrap()
}

fn exported(reader: &Reader, format: Format) -> String {
    let mut out = Vec::new();
    let query = Query {
        without_own: true,
        ..Query::default()
    };
    let mut records = reader.query(query).unwrap();
    let written = export(&mut records, &mut out, format).unwrap();
    assert_eq!(written, HOSTILE.len() as u64);
    String::from_utf8(out).unwrap()
}

fn all_fields(reader: &Reader) -> Vec<Map<String, Value>> {
    let query = Query {
        without_own: true,
        ..Query::default()
    };
    let mut records = reader.query(query).unwrap();
    let mut all = Vec::new();
    while let Some(found) = records.next().unwrap() {
        all.push(found.fields);
    }
    all
}

fn no_unsafe(text: &str, but: &[char]) {
    let bad = |c: &char| {
        (c.is_control() || "\u{2028}\u{2029}\u{202e}\u{feff}".contains(*c)) && !but.contains(c)
    };
    assert_eq!(text.chars().find(bad), None, "{text:?}");
}

#[test]
fn a_json_line_is_one_line_and_says_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let reader = trail(dir.path());
    let text = exported(&reader, Format::JsonLines);
    no_unsafe(&text, &['\n']);
    let read: Vec<Map<String, Value>> = (text.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(read, all_fields(&reader));
    for (fields, text) in read.iter().zip(HOSTILE) {
        assert_eq!(fields["user.name"], text);
    }
}

#[test]
fn a_cell_neither_runs_nor_breaks_out_and_says_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let reader = trail(dir.path());
    let text = exported(&reader, Format::Csv);
    no_unsafe(&text, &['\r', '\n']);
    // A head, a line for each, and none besides.
    assert_eq!(text.matches('\n').count(), HOSTILE.len() + 1);
    assert_eq!(text.matches("\r\n").count(), HOSTILE.len() + 1);
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    let head = rows.headers().unwrap().clone();
    assert_eq!(head.len(), COLUMNS.len() + 2);
    let written = all_fields(&reader);
    for (at, row) in rows.records().enumerate() {
        let row = row.unwrap();
        let mut other: Map<String, Value> = serde_json::from_str(&row[head.len() - 1]).unwrap();
        for (name, cell) in head.iter().zip(&row).take(head.len() - 1) {
            let first = cell.trim_start_matches(' ').chars().next();
            let runs =
                first.is_some_and(|c| "=+-@\t\r\n\u{ff1d}\u{ff0b}\u{ff0d}\u{ff20}".contains(c));
            assert!(!runs, "{name} of row {at} runs: {cell:?}");
            let cell = cell.strip_prefix('\'').unwrap_or(cell);
            let plain: String =
                serde_json::from_str(&format!("\"{}\"", cell.replace('"', "\\\""))).unwrap();
            let name = name.replace("timestamp", "@timestamp");
            match &written[at].get(&name) {
                None => assert_eq!(plain, "", "{name}"),
                Some(Value::String(text)) => assert_eq!(plain, *text, "{name}"),
                Some(number) => assert_eq!(plain, number.to_string(), "{name}"),
            }
            if let Some(value) = written[at].get(&name) {
                other.insert(name, value.clone());
            }
        }
        assert_eq!(
            other, written[at],
            "row {at}: columns and others are not all"
        );
    }
}

/// RFC 6587, octet counting: the same messages, each behind the count of its bytes, and nothing between them.
#[test]
fn a_syslog_message_may_stand_behind_its_length() {
    let dir = tempfile::tempdir().unwrap();
    let reader = trail(dir.path());
    let format = Format::Syslog {
        enterprise: ENTERPRISE,
    };
    let query = Query {
        without_own: true,
        ..Query::default()
    };
    let mut records = reader.query(query).unwrap();
    let mut out = Vec::new();
    let mut framed = Export::new(&mut out, format).framed(Framing::Octets);
    while let Some(found) = records.next().unwrap() {
        framed.put(&found).unwrap();
    }
    framed.finish().unwrap();
    let (mut rest, mut messages) = (&out[..], Vec::new());
    while !rest.is_empty() {
        let space = rest.iter().position(|b| *b == b' ').unwrap();
        let len: usize = str::from_utf8(&rest[..space]).unwrap().parse().unwrap();
        let message = &rest[space + 1..][..len];
        messages.push(str::from_utf8(message).unwrap().to_owned());
        rest = &rest[space + 1 + len..];
    }
    let lines = exported(&reader, format);
    assert_eq!(messages, lines.lines().collect::<Vec<_>>());
}

#[test]
fn a_syslog_line_has_the_fields_of_rfc_5424_and_no_value_ends_its_element() {
    let dir = tempfile::tempdir().unwrap();
    let reader = trail(dir.path());
    let format = Format::Syslog {
        enterprise: ENTERPRISE,
    };
    let text = exported(&reader, format);
    no_unsafe(&text, &['\n']);
    assert_eq!(text.lines().count(), HOSTILE.len());
    for (line, fields) in text.lines().zip(all_fields(&reader)) {
        // log audit (13), error (3).
        let words: Vec<&str> = line.splitn(7, ' ').collect();
        assert_eq!(words[0], "<107>1");
        let time: jiff::Timestamp = words[1].parse().unwrap();
        assert!(
            fields["@timestamp"]
                .as_str()
                .unwrap()
                .starts_with(words[1].trim_end_matches('Z'))
        );
        assert_eq!(time.as_nanosecond() % 1000, 0);
        assert_eq!(words[2..5], ["node_1__", "esker-audit", "-"]);
        assert!(words[5].len() <= 32 && words[5].is_ascii(), "{}", words[5]);
        let mut rest = words[6]
            .strip_prefix(&format!("[esker@{ENTERPRISE}"))
            .unwrap();
        let mut named = Vec::new();
        while let Some(parameter) = rest.strip_prefix(' ') {
            let (name, value) = parameter.split_once("=\"").unwrap();
            assert!(name.len() <= 32, "{name}");
            let mut end = None;
            let mut escaped = false;
            for (at, c) in value.char_indices() {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    '"' => {
                        end = Some(at);
                        break;
                    }
                    ']' => panic!("a bracket that is not escaped: {line}"),
                    _ => {}
                }
            }
            named.push(name.to_owned());
            rest = &value[end.unwrap() + 1..];
        }
        let expected: Vec<&str> = (COLUMNS.into_iter())
            .filter(|name| fields.contains_key(*name))
            .collect();
        assert_eq!(named, expected);
        let message = rest.strip_prefix("] ").unwrap();
        let message: Map<String, Value> = serde_json::from_str(message).unwrap();
        assert_eq!(message, fields);
    }
}

#[test]
fn an_export_of_nothing_is_a_head_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let reader = trail(dir.path());
    for (format, lines) in [(Format::Csv, 1), (Format::JsonLines, 0)] {
        let query = Query {
            actor: Some("nobody".to_owned()),
            ..Query::default()
        };
        let mut out = Vec::new();
        let written = export(&mut reader.query(query).unwrap(), &mut out, format).unwrap();
        assert_eq!(written, 0);
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), lines);
    }
}

#[test]
fn a_summary_counts_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (trail, _) = Trail::open(dir.path(), keys(), Options::default()).unwrap();
    for n in 0..30 {
        let record = Record::new(["user.login", "user.logout"][n % 2]).actor("7", "ann");
        trail.record(record.success()).unwrap();
    }
    trail.rotate().unwrap().unwrap();
    trail
        .record(Record::new("user.login").failure("NO", "no"))
        .unwrap();
    trail.close().unwrap();
    let reader = Reader::open(dir.path(), keys()).unwrap();
    let mut summary = Summary::default();
    let mut records = reader.query(Query::default()).unwrap();
    while let Some(found) = records.next().unwrap() {
        summary.add(&found);
    }
    // Opened, closed.
    assert_eq!((summary.records, summary.own, summary.dropped), (33, 2, 0));
    assert_eq!(summary.sequences, Some((1, 33)));
    let top = summary.actions.top();
    assert_eq!(top[0], ("user.login".to_owned(), 16));
    assert_eq!(top[1], ("user.logout".to_owned(), 15));
    assert_eq!(summary.actors.top()[0], ("ann".to_owned(), 30));
    let outcomes: Vec<_> = summary.outcomes.iter().collect();
    assert_eq!(
        outcomes,
        [(&"failure".to_owned(), 1), (&"success".to_owned(), 32)]
    );
    assert_eq!(summary.hours.iter().map(|(_, n)| n).sum::<u64>(), 33);
    let files = reader.closed_files().unwrap();
    assert_eq!(files.len(), 1);
    assert_eq!((files[0].first, files[0].last), (1, 31));
}

#[test]
fn rd5_who_follows_gets_every_record_once_over_rotations_restarts_and_new_keys() {
    let dir = tempfile::tempdir().unwrap();
    let mut ring = keys();
    ring.add(Key::from_secret([2; 32]));
    ring.add(Key::from_secret([3; 32]));
    ring.add(Key::from_secret([1; 32]));
    let mut following: Option<esker_audit::Records> = None;
    let mut seen = Vec::new();
    let look = |following: &mut Option<esker_audit::Records>, seen: &mut Vec<u64>| {
        let records = following.get_or_insert_with(|| {
            let reader = Reader::open(dir.path(), ring.clone()).unwrap();
            reader.query(Query::default()).unwrap()
        });
        records.renew().unwrap();
        while let Some(found) = records.next().unwrap() {
            seen.push(found.head.sequence);
        }
    };
    let mut last = 0;
    for life in 0..3u64 {
        let (trail, _) = Trail::open(dir.path(), ring.clone(), Options::default()).unwrap();
        for n in 0..60u64 {
            last = trail
                .record(Record::new("a.b").with("n", n))
                .unwrap()
                .sequence
                .unwrap();
            if n % 7 == life {
                look(&mut following, &mut seen);
                assert_eq!(seen.last(), Some(&last), "life {life}, record {n}");
            }
            if n % 20 == 13 {
                trail.rotate().unwrap().unwrap();
            }
            if n == 40 {
                trail
                    .rotate_key(Key::from_secret([2 + (life % 2) as u8; 32]))
                    .unwrap();
            }
        }
        trail.close().unwrap();
    }
    look(&mut following, &mut seen);
    let expected: Vec<u64> = (1..=last + 1).collect();
    assert_eq!(seen, expected);
    // The other way, and from a cursor in the middle of a closed file.
    let reader = Reader::open(dir.path(), ring.clone()).unwrap();
    for (order, after) in [
        (Order::Newest, None),
        (Order::Newest, Some(95)),
        (Order::Oldest, Some(95)),
    ] {
        let query = Query {
            order,
            after,
            ..Query::default()
        };
        let mut records = reader.query(query).unwrap();
        let mut read = Vec::new();
        while let Some(found) = records.next().unwrap() {
            read.push(found.head.sequence);
        }
        let mut wanted = expected.clone();
        if order == Order::Newest {
            wanted.reverse();
            wanted.retain(|n| after.is_none_or(|after| *n < after));
        } else {
            wanted.retain(|n| after.is_none_or(|after| *n > after));
        }
        assert_eq!(read, wanted, "{order:?} {after:?}");
    }
}
