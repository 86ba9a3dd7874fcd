//! `esker audit`: reads, verifies and exports an audit trail from outside.
//!
//! - AT1: but for `keys`, `checkpoint --new` and `--record-reading`, nothing is written into the trail's directory and no lock is taken: it may be a copy, or one
//!   that a server writes meanwhile.
//! - AT2: no byte of a record, of a file's name or of an error reaches the terminal, or begins a line, that could lead it astray: such characters stand as `\u001b`,
//!   and a value with spaces or quotes in it stands in quotes.
//! - AT3: exit codes: 0 all is well; 1 the trail is not what was written; 2 it could not run. Whoever stops reading what is said ends the saying, and no finding.
//! - AT4: a secret is never printed.
//!
//! A reading is recorded by who has the trail open (`Trail::read_by`); this tool has not. With `--record-reading` it opens the trail for a moment, writes the record before
//! it reads anything, and closes it; where a server has it open that can't be, and it does not read.

mod keys;
mod report;
mod view;

use crate::progress;
use clap::{Args, Subcommand, ValueEnum};
use esker_audit::{
    CHECKPOINT, Checkpoint, ENTERPRISE, Error, Export, Format, Found, Framing, Key, Keyring,
    Options, Order, Outcome, Query, Reader, Record, Severity, Trail, json_line, printable,
};
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp, civil};
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Between two looks for new records.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// Looks that may fail in a row while a server moves files.
const FOLLOW_TRIES: u32 = 10;

/// What `esker audit` does.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Prints the last records, and with -f those that follow.
    Tail(Tail),
    /// Prints the records that are asked for.
    Query(Ask),
    /// Verifies that nothing was changed, removed or cut off. Exits 0 when whole, 1 when not, 2 when it could not run.
    Verify(report::Verify),
    /// Writes records as JSON lines, CSV or syslog.
    Export(ExportTo),
    /// Counts: by action, outcome, actor and hour; sizes, compression, gaps.
    Stats(report::Stats),
    /// Key files: makes, lists and rotates keys. Secrets are never printed.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Prints the newest checkpoint, to be kept elsewhere.
    Checkpoint(PrintCheckpoint),
}

/// A trail and its keys.
#[derive(Debug, Args)]
struct Of {
    /// The directory of the trail.
    dir: PathBuf,
    /// The key file. Default: DIR.keys, beside the directory.
    #[arg(long, value_name = "FILE", env = "ESKER_AUDIT_KEYS")]
    keys: Option<PathBuf>,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

/// That the reading is itself recorded.
#[derive(Debug, Args)]
struct Recorded {
    /// Write into the trail that it is read, and what is asked for, before anything is read. Nobody else may have the trail open.
    #[arg(long)]
    record_reading: bool,
}

/// Which records. Texts are compared whole, but where they end with `*`: then by what is before it.
#[derive(Debug, Args)]
struct Filter {
    /// Not before: RFC 3339, a date, or so long ago (15m, 2h, 3d).
    #[arg(long, value_name = "TIME", value_parser = nanos)]
    since: Option<u64>,
    /// Before: RFC 3339, a date, or so long ago (15m, 2h, 3d).
    #[arg(long, value_name = "TIME", value_parser = nanos)]
    until: Option<u64>,
    /// Id or name of who did it.
    #[arg(long)]
    actor: Option<String>,
    /// What was done.
    #[arg(long)]
    action: Option<String>,
    /// To what: ID, or TYPE:ID.
    #[arg(long)]
    resource: Option<String>,
    /// From where.
    #[arg(long)]
    address: Option<String>,
    /// For whom.
    #[arg(long)]
    tenant: Option<String>,
    /// Which request.
    #[arg(long)]
    request: Option<String>,
    /// success, failure or unknown.
    #[arg(long)]
    outcome: Option<Outcome>,
    /// At least so grave: info, notice, warning, error or critical.
    #[arg(long)]
    severity: Option<Severity>,
    /// Somewhere in the record, as it is stored.
    #[arg(long)]
    text: Option<String>,
    /// Without the trail's own records.
    #[arg(long)]
    without_own: bool,
}

impl Filter {
    fn query(&self, order: Order, after: Option<u64>) -> Query {
        Query {
            order,
            since: self.since,
            until: self.until,
            after,
            actor: self.actor.clone(),
            action: self.action.clone(),
            resource: self.resource.clone(),
            address: self.address.clone(),
            tenant: self.tenant.clone(),
            request: self.request.clone(),
            outcome: self.outcome,
            severity: self.severity,
            text: self.text.clone(),
            without_own: self.without_own,
        }
    }
}

/// `esker audit tail`.
#[derive(Debug, Args)]
pub struct Tail {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    recorded: Recorded,
    /// How many.
    #[arg(short = 'n', long, default_value_t = 20)]
    lines: usize,
    /// Go on with what follows, until it is interrupted.
    #[arg(short, long)]
    follow: bool,
}

/// `esker audit query`.
#[derive(Debug, Args)]
pub struct Ask {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    recorded: Recorded,
    /// The newest first; without, the oldest.
    #[arg(long)]
    newest: bool,
    /// At most so many.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Go on behind the record of this sequence, in the order asked for.
    #[arg(long, value_name = "SEQUENCE")]
    cursor: Option<u64>,
}

/// As what records leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// A JSON object per line.
    Jsonl,
    /// RFC 4180; cells that a spreadsheet would run begin with a quote.
    Csv,
    /// RFC 5424, facility 13.
    Syslog,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FramingName {
    /// A line feed behind each.
    Newline,
    /// Octet counting.
    Octet,
}

/// `esker audit export`.
#[derive(Debug, Args)]
pub struct ExportTo {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    recorded: Recorded,
    /// As what.
    #[arg(long, value_enum, default_value = "jsonl")]
    format: FormatName,
    /// Your private enterprise number, which names the structured data of syslog. Default: the one for examples.
    #[arg(long, value_name = "NUMBER", default_value_t = ENTERPRISE)]
    enterprise: u32,
    /// How messages of syslog follow one another (RFC 6587): each behind its length, as receivers over TLS demand, or each ended by a line feed.
    #[arg(long, value_enum, default_value = "newline")]
    framing: FramingName,
    /// Into a new file, which its owner alone may read. Default: standard output.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// `esker audit checkpoint`.
#[derive(Debug, Args)]
pub struct PrintCheckpoint {
    #[command(flatten)]
    of: Of,
    /// Make one now, of all that is there. Nobody else may have the trail open.
    #[arg(long)]
    new: bool,
}

/// Why it ended early.
enum Stop {
    /// Nobody reads what it says any more.
    Unread,
    /// The trail is not what was written.
    Tampered(String),
    Failed(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Stop::Unread,
            _ => Stop::Failed(error.to_string()),
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        match error {
            Error::Tampered { .. } => Stop::Tampered(error.to_string()),
            other => Stop::Failed(other.to_string()),
        }
    }
}

impl From<esker_audit::KeyError> for Stop {
    fn from(error: esker_audit::KeyError) -> Stop {
        Stop::Failed(error.to_string())
    }
}

/// Whether all is well.
type Ran = Result<bool, Stop>;

/// Runs it.
#[must_use]
pub fn run(command: &AuditCommand) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let ran = match command {
        AuditCommand::Tail(args) => tail(&mut out, args),
        AuditCommand::Query(args) => query(&mut out, args),
        AuditCommand::Verify(args) => report::verify(&mut out, args),
        AuditCommand::Export(args) => export(&mut out, args),
        AuditCommand::Stats(args) => report::stats(&mut out, args),
        AuditCommand::Keys(command) => keys::run(&mut out, command),
        AuditCommand::Checkpoint(args) => checkpoint(&mut out, args),
    };
    let flushed = out.flush().map_err(Stop::from);
    let (why, code) = match ran.and_then(|well| stands(well, flushed)) {
        Ok(true) | Err(Stop::Unread) => return ExitCode::SUCCESS,
        Ok(false) => return ExitCode::from(1),
        Err(Stop::Tampered(why)) => (why, 1),
        Err(Stop::Failed(why)) => (why, 2),
    };
    // Nothing is left to do where this fails too.
    let _ = writeln!(io::stderr(), "esker: {}", printable(&why));
    ExitCode::from(code)
}

/// What was found stands, also where it could not be said (AT3).
fn stands(well: bool, said: Result<(), Stop>) -> Ran {
    match said {
        Ok(()) | Err(Stop::Unread) => Ok(well),
        Err(Stop::Failed(why)) if !well => Err(Stop::Tampered(why)),
        Err(stop) => Err(stop),
    }
}

/// A moment, as nanoseconds since 1970.
fn nanos(text: &str) -> Result<u64, String> {
    let time = if let Ok(time) = text.parse::<Timestamp>() {
        time
    } else if let Ok(date) = text.parse::<civil::Date>() {
        let midnight = date.to_zoned(TimeZone::UTC).map_err(|e| e.to_string())?;
        midnight.timestamp()
    } else if let Ok(span) = text.parse::<Span>() {
        let days = SpanRelativeTo::days_are_24_hours();
        let ago = span.to_duration(days).map_err(|e| e.to_string())?;
        let then = Timestamp::now().checked_sub(ago.abs());
        then.map_err(|e| e.to_string())?
    } else {
        return Err(
            "not RFC 3339 (2026-01-31T12:00:00Z), no date, and no time ago (15m, 2h, 3d)"
                .to_owned(),
        );
    };
    u64::try_from(time.as_nanosecond()).map_err(|_| "before 1970 or after 2554".to_owned())
}

impl Of {
    fn key_file(&self) -> PathBuf {
        if let Some(keys) = &self.keys {
            return keys.clone();
        }
        let whole = match self.dir.file_name() {
            Some(_) => self.dir.clone(),
            // `.` has a name after all.
            None => self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone()),
        };
        let mut name = whole.file_name().unwrap_or_default().to_owned();
        name.push(".keys");
        whole.with_file_name(name)
    }

    fn keyring(&self) -> Result<Keyring, Stop> {
        // Else what is missing would be said to be the key.
        if !self.dir.is_dir() {
            let dir = self.dir.clone();
            return Err(Error::NotFound { dir }.into());
        }
        let file = self.key_file();
        let named = self.keys.is_some() || file.exists();
        Keyring::load(&file).map_err(|e| match named {
            true => e.into(),
            false => Stop::Failed(format!(
                "no key file {}: name it with --keys FILE or ESKER_AUDIT_KEYS",
                file.display()
            )),
        })
    }

    fn reader(&self, recorded: &Recorded, asked: &str) -> Result<Reader, Stop> {
        let keys = self.keyring()?;
        if recorded.record_reading {
            self.record_reading(&keys, asked)?;
        }
        Ok(Reader::open(&self.dir, keys)?)
    }

    /// Opens the trail for a moment.
    fn trail(&self, keys: &Keyring) -> Result<Trail, Stop> {
        if !self.dir.join("TRAIL").exists() {
            let dir = self.dir.clone();
            return Err(Error::NotFound { dir }.into());
        }
        let opened = Trail::open(&self.dir, keys.clone(), Options::default());
        Ok(opened.map(|(trail, _)| trail)?)
    }

    fn record_reading(&self, keys: &Keyring, asked: &str) -> Result<(), Stop> {
        let trail = self.trail(keys).map_err(|stop| match stop {
            Stop::Failed(why) => Stop::Failed(format!(
                "the reading can't be recorded, so nothing was read: {why}"
            )),
            other => other,
        })?;
        let uid = rustix::process::getuid().as_raw();
        let record = Record::new("esker.audit.read")
            .intent()
            .actor(uid.to_string(), "")
            .method("os")
            .origin("local", "esker audit")
            .resource("audit-trail", format!("{:016x}", trail.id()))
            .with("asked", asked);
        trail.read_by(record)?;
        trail.close()?;
        Ok(())
    }
}

/// Prints records, for a person or as JSON lines.
fn show(out: &mut impl Write, json: bool, colour: bool, found: &Found) -> io::Result<()> {
    match json {
        true => writeln!(out, "{}", json_line(&found.fields)),
        false => view::line(out, found, colour),
    }
}

fn tail(out: &mut impl Write, args: &Tail) -> Ran {
    let (json, colour) = (args.of.json, view::colours());
    let reader = args.of.reader(&args.recorded, &format!("{args:?}"))?;
    let any = Query {
        order: Order::Newest,
        ..Query::default()
    };
    let end = (reader.query(any)?.next()?).map_or(0, |found| found.head.sequence);
    let mut newest = reader.query(args.filter.query(Order::Newest, None))?;
    let mut last = VecDeque::new();
    while last.len() < args.lines {
        match newest.next()? {
            Some(found) => last.push_front(found),
            None => break,
        }
    }
    let after = last
        .back()
        .map_or(end, |found| found.head.sequence.max(end));
    for found in &last {
        show(out, json, colour, found)?;
    }
    if !args.follow {
        return Ok(true);
    }
    out.flush()?;
    let mut records = reader.query(args.filter.query(Order::Oldest, Some(after)))?;
    let mut failed = 0;
    loop {
        while let Some(found) = records.next()? {
            show(out, json, colour, &found)?;
        }
        out.flush()?;
        std::thread::sleep(FOLLOW_EVERY);
        match records.renew() {
            Ok(()) => failed = 0,
            Err(e) => {
                failed += 1;
                if failed == FOLLOW_TRIES {
                    return Err(e.into());
                }
            }
        }
    }
}

fn query(out: &mut impl Write, args: &Ask) -> Ran {
    let (json, colour) = (args.of.json, view::colours());
    let reader = args.of.reader(&args.recorded, &format!("{args:?}"))?;
    let order = match args.newest {
        true => Order::Newest,
        false => Order::Oldest,
    };
    let mut records = reader.query(args.filter.query(order, args.cursor))?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut last = None;
    while left > 0 {
        let Some(found) = records.next()? else {
            return Ok(true);
        };
        show(out, json, colour, &found)?;
        last = Some(found.head.sequence);
        left -= 1;
    }
    if let (Some(last), true) = (last, records.next()?.is_some()) {
        out.flush()?;
        // Not among the answers.
        let _ = writeln!(
            io::stderr(),
            "esker: there are more; go on with --cursor {last}"
        );
    }
    Ok(true)
}

fn export(out: &mut impl Write, args: &ExportTo) -> Ran {
    let format = match args.format {
        FormatName::Jsonl => Format::JsonLines,
        FormatName::Csv => Format::Csv,
        FormatName::Syslog => Format::Syslog {
            enterprise: args.enterprise,
        },
    };
    let framing = match args.framing {
        FramingName::Newline => Framing::Newline,
        FramingName::Octet if args.format == FormatName::Syslog => Framing::Octets,
        FramingName::Octet => {
            let why = "--framing octet is of syslog: give --format syslog, or leave it out";
            return Err(Stop::Failed(why.to_owned()));
        }
    };
    let format = (format, framing);
    let reader = args.of.reader(&args.recorded, &format!("{args:?}"))?;
    let mut records = reader.query(args.filter.query(Order::Oldest, None))?;
    let Some(to) = &args.to else {
        write_all(out, &mut records, format, io::stdout().is_terminal())?;
        return Ok(true);
    };
    let failed = |e: io::Error| {
        let to = to.display();
        Stop::Failed(format!(
            "{to}: {e}; name a new file in a directory that is there"
        ))
    };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(to).map_err(failed)?;
    let written = write_all(io::BufWriter::new(&file), &mut records, format, false)?;
    file.sync_all().map_err(failed)?;
    writeln!(
        out,
        "{written} records to {}",
        printable(&to.display().to_string())
    )?;
    Ok(true)
}

fn write_all(
    out: impl Write,
    records: &mut esker_audit::Records,
    (format, framing): (Format, Framing),
    silent: bool,
) -> Result<u64, Stop> {
    let mut export = Export::new(out, format).framed(framing);
    let mut counted = progress::Count::of("records").filter(|_| !silent);
    while let Some(found) = records.next()? {
        export.put(&found)?;
        if let Some(counted) = &mut counted {
            counted.one();
        }
    }
    Ok(export.finish()?)
}

fn checkpoint(out: &mut impl Write, args: &PrintCheckpoint) -> Ran {
    let keys = args.of.keyring()?;
    let checkpoint = match args.new {
        true => {
            let trail = args.of.trail(&keys)?;
            let made = trail.checkpoint()?;
            trail.close()?;
            made
        }
        false => {
            let path = args.of.dir.join(CHECKPOINT);
            read_checkpoint(&path, &keys).map_err(|stop| match stop {
                Stop::Failed(why) if path.exists() => Stop::Tampered(why),
                Stop::Failed(_) if args.of.dir.is_dir() => Stop::Failed(format!(
                    "{} has no checkpoint yet: who writes makes one within a minute of a record (by default) and at its end, or \
                     --new while nobody writes",
                    args.of.dir.display()
                )),
                other => other,
            })?
        }
    };
    if args.of.json {
        view::json(
            out,
            &serde_json::json!({
                "trail": format!("{:016x}", checkpoint.trail),
                "sequence": checkpoint.sequence,
                "root": checkpoint.root.to_string(),
                "time": checkpoint.time,
                "key": checkpoint.key.to_string(),
                "note": checkpoint.to_string(),
            }),
        )?;
        return Ok(true);
    }
    // It is signed by a key of the keyring: what it says is what a trail wrote.
    write!(out, "{checkpoint}")?;
    Ok(true)
}

fn read_checkpoint(path: &Path, keys: &Keyring) -> Result<Checkpoint, Stop> {
    /// More than ten thousand of them.
    const NOTES_MAX: u64 = 16 << 20;
    let failed = |why: String| Stop::Failed(format!("the checkpoint {}: {why}", path.display()));
    let length = std::fs::metadata(path)
        .map_err(|e| failed(e.to_string()))?
        .len();
    if length > NOTES_MAX {
        return Err(failed(format!(
            "it has {length} bytes; give its last note alone"
        )));
    }
    let note = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    Checkpoint::parse(&note, keys).map_err(failed)
}
