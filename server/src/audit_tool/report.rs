//! `esker audit verify` and `stats`.

use super::{Filter, Of, Ran, Recorded, Stop, progress, read_checkpoint, stands, view};
use clap::Args;
use esker_audit::{
    Anchored, Checkpoint, Counts, Finding, Keyring, Order, Report, Summary, VerifyOptions,
    printable, time_text,
};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

/// `esker audit verify`.
#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    of: Of,
    /// A checkpoint that was kept elsewhere; of several in the file, the one of the last one's trail that saw most. It shows an old copy put back, and a trail rebuilt.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Threads; default: one per core.
    #[arg(long)]
    threads: Option<usize>,
}

/// `esker audit stats`.
#[derive(Debug, Args)]
pub struct Stats {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    recorded: Recorded,
    /// Names to list, the most frequent first.
    #[arg(long, default_value_t = 10)]
    top: usize,
}

const NOT_ANCHORED: &str = "not anchored: that all of it was replaced by an older copy, or its end cut off with HEAD put back, only a checkpoint kept elsewhere can show (--against FILE)";

fn finding_json(finding: &Finding) -> Value {
    json!({
        "kind": finding.kind.name(),
        "path": finding.path.display().to_string(),
        "sequence": finding.sequence,
        "what": finding.what,
    })
}

fn anchored_name(anchored: Anchored) -> &'static str {
    match anchored {
        Anchored::Not => "not",
        Anchored::Holds => "holds",
        Anchored::TooOld => "too old",
        Anchored::Breaks => "breaks",
    }
}

fn report_json(report: &Report) -> Value {
    json!({
        "whole": report.is_whole(),
        "trail": format!("{:016x}", report.trail),
        "first": report.first,
        "last": report.last,
        "root": report.root.to_string(),
        "entries": report.entries,
        "bytes": report.bytes,
        "closed_files": report.files,
        "dropped": report.dropped,
        "removed_to": report.removed,
        "synced": report.synced,
        "anchored": anchored_name(report.anchored),
        "checkpoint_beside": report.beside,
        "key": report.key.map(|key| key.to_string()),
        "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
    })
}

pub(super) fn verify(out: &mut impl Write, args: &Verify) -> Ran {
    let keys = args.of.keyring()?;
    let mut options = VerifyOptions::default();
    if let Some(path) = &args.against {
        options.against = Some(read_checkpoint(path, &keys)?);
    }
    if let Some(threads) = args.threads {
        options.threads = threads;
    }
    let told = progress::bytes();
    options.progress = told.clone().map(|say| say as esker_audit::OnProgress);
    let report = esker_audit::verify(&args.of.dir, &keys, &options);
    if told.is_some() {
        progress::clear();
    }
    let report = report.map_err(|e| Stop::Failed(e.to_string()))?;
    let said = match args.of.json {
        true => view::json(out, &report_json(&report)).map_err(Stop::from),
        false => say_report(out, &report, &keys, options.against.as_ref()),
    };
    stands(report.is_whole(), said)
}

fn say_report(
    out: &mut impl Write,
    report: &Report,
    keys: &Keyring,
    against: Option<&Checkpoint>,
) -> Result<(), Stop> {
    match report.findings.first() {
        None => write!(out, "whole")?,
        Some(first) => {
            let at = first
                .sequence
                .map_or(String::new(), |n| format!(" at record {n}"));
            writeln!(out, "not whole: first {}{at}", first.kind.name())?;
            for finding in &report.findings {
                writeln!(out, "  {}", printable(&finding.to_string()))?;
            }
            write!(out, "read")?;
        }
    }
    writeln!(
        out,
        ": {} records, {} to {}, {} in {} closed files and the live log; trail {:016x}",
        report.entries,
        report.first,
        report.last,
        view::bytes(report.bytes),
        report.files,
        report.trail
    )?;
    if report.dropped > 0 {
        writeln!(
            out,
            "{} records were dropped, and counted by gaps",
            report.dropped
        )?;
    }
    if report.removed > 0 {
        writeln!(out, "retention removed records up to {}", report.removed)?;
    }
    if let Some(key) = report.key.filter(|key| *key != keys.newest().id()) {
        writeln!(
            out,
            "it ends under the key {key}; the newest of the key file, {}, is not begun in it: if it was once, the trail was cut back by somebody who has the older",
            keys.newest().id()
        )?;
    }
    if let Some(beside) = report.beside {
        writeln!(
            out,
            "CHECKPOINT in the directory is of record {beside}; it was checked, and anchors nothing: who replaces the rest can replace it too"
        )?;
    }
    match (report.anchored, against) {
        (Anchored::Not, _) | (_, None) => writeln!(out, "{NOT_ANCHORED}")?,
        (Anchored::Holds, Some(c)) => writeln!(
            out,
            "anchored: it holds what the checkpoint of {} saw at record {}; of what is behind it, that checkpoint says nothing",
            printable(&c.time),
            c.sequence
        )?,
        (Anchored::TooOld, Some(c)) => writeln!(
            out,
            "not anchored: retention removed record {}, which the checkpoint saw; give a newer one",
            c.sequence
        )?,
        (Anchored::Breaks, Some(c)) => writeln!(
            out,
            "it is not the trail that the checkpoint of {} saw at record {}",
            printable(&c.time),
            c.sequence
        )?,
    }
    Ok(())
}

fn counts_json(counts: &Counts<String>, top: usize) -> Value {
    let all = counts.top();
    let named: Vec<Value> = (all.iter().take(top))
        .map(|(name, n)| json!({ "name": name, "records": n }))
        .collect();
    let rest: u64 = all.iter().skip(top).map(|(_, n)| n).sum();
    json!({ "top": named, "rest": rest + counts.rest() })
}

fn say_counts(
    out: &mut impl Write,
    what: &str,
    counts: &Counts<String>,
    top: usize,
) -> Result<(), Stop> {
    writeln!(out, "{what}")?;
    let all = counts.top();
    for (name, n) in all.iter().take(top) {
        writeln!(out, "{n:>12}  {}", view::word(name))?;
    }
    let rest: u64 = all.iter().skip(top).map(|(_, n)| n).sum::<u64>() + counts.rest();
    if rest > 0 {
        writeln!(out, "{rest:>12}  of others")?;
    }
    Ok(())
}

/// What lies on the disk.
struct Sizes {
    files: usize,
    stored: u64,
    raw: u64,
    /// Whether what was counted is all that the files hold.
    all: bool,
    /// By how many seconds the time that retention by age goes by was behind the wall clock.
    behind: Option<u64>,
}

impl Sizes {
    fn ratio(&self) -> Option<f64> {
        (self.all && self.stored > 0).then(|| self.raw as f64 / self.stored as f64)
    }
}

pub(super) fn stats(out: &mut impl Write, args: &Stats) -> Ran {
    let reader = args.of.reader(&args.recorded, &format!("{args:?}"))?;
    let files = reader.closed_files()?;
    let closed_to = files.last().map_or(0, |f| f.last);
    let closed_entries: u64 = files.iter().map(|f| f.entries).sum();
    let mut records = reader.query(args.filter.query(Order::Oldest, None))?;
    let mut summary = Summary::default();
    let (mut raw, mut counted) = (0, 0);
    let mut shown = progress::Count::of("records");
    while let Some(found) = records.next()? {
        if found.head.sequence <= closed_to {
            raw += found.bytes;
            counted += 1;
        }
        summary.add(&found);
        if let Some(shown) = &mut shown {
            shown.one();
        }
    }
    drop(shown);
    let sizes = Sizes {
        files: files.len(),
        stored: files.iter().map(|f| f.bytes).sum(),
        raw,
        all: counted == closed_entries,
        behind: reader.retention_behind()?.map(|behind| behind.as_secs()),
    };
    match args.of.json {
        true => view::json(out, &stats_json(&summary, &sizes, reader.trail(), args.top))?,
        false => say_stats(out, &summary, &sizes, args.top)?,
    }
    Ok(true)
}

fn stats_json(summary: &Summary, sizes: &Sizes, trail: u64, top: usize) -> Value {
    let hours: Vec<Value> = (summary.hours.iter())
        .map(|(hour, n)| json!({ "hour": time_text(*hour), "records": n }))
        .collect();
    let severities: serde_json::Map<String, Value> = (summary.severities.iter())
        .map(|(severity, n)| (severity.name().to_owned(), n.into()))
        .collect();
    json!({
        "trail": format!("{trail:016x}"),
        "records": summary.records,
        "own": summary.own,
        "bytes": summary.bytes,
        "first": summary.sequences.map(|s| s.0),
        "last": summary.sequences.map(|s| s.1),
        "oldest": summary.times.map(|t| time_text(t.0)),
        "newest": summary.times.map(|t| time_text(t.1)),
        "dropped": summary.dropped,
        "gaps": summary.gaps.iter().map(|(first, last)| json!({"first": first, "last": last})).collect::<Vec<_>>(),
        "closed_files": sizes.files,
        "closed_bytes": sizes.stored,
        "closed_bytes_raw": sizes.all.then_some(sizes.raw),
        "compression": sizes.ratio(),
        "retention_behind_s": sizes.behind,
        "actions": counts_json(&summary.actions, top),
        "outcomes": counts_json(&summary.outcomes, top),
        "actors": counts_json(&summary.actors, top),
        "severities": severities,
        "hours": hours,
    })
}

fn say_stats(
    out: &mut impl Write,
    summary: &Summary,
    sizes: &Sizes,
    top: usize,
) -> Result<(), Stop> {
    write!(
        out,
        "records      {} ({} of the trail itself)",
        summary.records, summary.own
    )?;
    writeln!(out, ", {} as they are stored", view::bytes(summary.bytes))?;
    if let (Some(n), Some(t)) = (summary.sequences, summary.times) {
        let span = format!(
            "{} to {}, {} to {}",
            n.0,
            n.1,
            time_text(t.0),
            time_text(t.1)
        );
        writeln!(out, "span         {span}")?;
    }
    write!(
        out,
        "closed files {}, {}",
        sizes.files,
        view::bytes(sizes.stored)
    )?;
    match sizes.ratio() {
        Some(ratio) => writeln!(out, ", compressed {ratio:.1} to 1")?,
        None => writeln!(out)?,
    }
    if let Some(behind) = sizes.behind.filter(|behind| *behind > 0) {
        writeln!(
            out,
            "retention    by age goes by a time {behind} s behind the wall clock (clock-settles)"
        )?;
    }
    writeln!(
        out,
        "dropped      {} in {} gaps",
        summary.dropped,
        summary.gaps.len()
    )?;
    for (first, last) in summary.gaps.iter().take(top) {
        writeln!(out, "             #{first}..#{last}")?;
    }
    say_counts(out, "by action", &summary.actions, top)?;
    say_counts(out, "by outcome", &summary.outcomes, top)?;
    say_counts(out, "by actor", &summary.actors, top)?;
    writeln!(out, "by hour (UTC)")?;
    let hours = summary.hours.iter();
    let skip = hours.len().saturating_sub(24.max(top));
    if skip > 0 {
        let rest: u64 = summary.hours.iter().take(skip).map(|(_, n)| n).sum();
        writeln!(out, "{rest:>12}  before")?;
    }
    for (hour, n) in hours.skip(skip) {
        writeln!(out, "{n:>12}  {}", &time_text(*hour)[..13])?;
    }
    Ok(())
}
