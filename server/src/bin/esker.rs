//! The program `esker`: looks into an Esker directory without a server, at a cluster from outside (see `esker_server::cluster`), and into an audit trail (see
//! `esker_server::audit_tool`).
//!
//! `esker log ls | dump | verify | salvage | stat DIR`. DIR is a server's data directory, or a log's own. Nothing here takes
//! a lock or writes into DIR: it may be a copy, or a directory that a server has open.
//!
//! Exit codes: 0 all is well; 1 damage was found; 2 it could not run.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use esker_server::audit_tool::{self, AuditCommand};
use esker_server::cluster::{self, ClusterCommand};
use esker_server::progress;
use esker_server::table::{or_dash, table};
use esker_wal::media::real::RealMedia;
use esker_wal::{
    Damage, FileInfo, Kind, Lsn, Piece, Progress, Survey, Verified, VerifyOptions, salvage_to,
    verify,
};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Looks into an Esker directory without a server, and at a cluster from outside.
#[derive(Debug, Parser)]
#[command(name = "esker", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, and it is parsed once"
)]
enum Command {
    /// The write-ahead log: on a copy, or on a live directory; nothing is written there and no lock taken.
    #[command(subcommand)]
    Log(LogCommand),
    /// Makes a pair of keys for a node (CURVE): the secret one goes to a new file that only its owner reads, the public one is printed.
    CurveKeys {
        /// The file, which must not be there yet.
        file: PathBuf,
    },
    /// A cluster of raft-node: who leads, who is up; and the last resort when a majority is lost.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// An audit trail: reads, verifies and exports it.
    #[command(subcommand)]
    Audit(AuditCommand),
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Lists the files and what they hold.
    Ls(Of),
    /// Prints frames.
    Dump(Dump),
    /// Verifies every byte. Exits 0 when clean, 1 on damage, 2 when it could not run.
    Verify(Verify),
    /// Copies all that verifies to a new directory, as a log that opens. Exits 1 when anything is lost.
    Salvage(Salvage),
    /// Identity, positions, epochs, slots.
    Stat(Of),
}

#[derive(Debug, Args)]
struct Of {
    /// A server's data directory, or the log's own.
    dir: PathBuf,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Dump {
    #[command(flatten)]
    of: Of,
    /// First LSN.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Up to this LSN.
    #[arg(long, default_value_t = u64::MAX)]
    to: u64,
    /// At most so many frames.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    count: u64,
    /// Bytes of each payload to show.
    #[arg(long, default_value_t = 32)]
    payload_bytes: usize,
    /// Show payloads in hexadecimal; without, as text with escapes.
    #[arg(long)]
    hex: bool,
}

#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    of: Of,
    /// Threads; default: one per core.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Debug, Args)]
struct Salvage {
    #[command(flatten)]
    of: Of,
    /// The new directory; must be empty, or not there.
    to: PathBuf,
    /// Threads; default: one per core.
    #[arg(long)]
    threads: Option<usize>,
}

/// Why it ended early.
enum Stop {
    /// Nobody reads what it says any more.
    Unread,
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

impl From<esker_wal::OpenError> for Stop {
    fn from(error: esker_wal::OpenError) -> Stop {
        Stop::Failed(error.to_string())
    }
}

/// Whether damage was found.
type Ran = Result<bool, Stop>;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let ran = match command {
        Command::Log(LogCommand::Ls(of)) => ls(&mut out, &of),
        Command::Log(LogCommand::Dump(args)) => dump(&mut out, &args),
        Command::Log(LogCommand::Verify(args)) => run_verify(&mut out, &args),
        Command::Log(LogCommand::Salvage(args)) => salvage(&mut out, &args),
        Command::Log(LogCommand::Stat(of)) => stat(&mut out, &of),
        Command::CurveKeys { file } => curve_keys(&mut out, &file),
        // It writes by itself, on this thread.
        Command::Cluster(command) => return cluster::run(&command),
        Command::Audit(command) => {
            drop(out);
            return audit_tool::run(&command);
        }
    };
    let flushed = out.flush().map_err(Stop::from);
    match ran.and_then(|damaged| flushed.map(|()| damaged)) {
        Ok(false) | Err(Stop::Unread) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(1),
        Err(Stop::Failed(why)) => {
            // Nothing is left to do where this fails too.
            let _ = writeln!(io::stderr(), "esker: {why}");
            ExitCode::from(2)
        }
    }
}

fn curve_keys(out: &mut impl Write, file: &Path) -> Ran {
    use std::os::unix::fs::OpenOptionsExt;
    let (public, secret) =
        esker_raft::transport::zmq::new_keys().map_err(|e| Stop::Failed(e.to_string()))?;
    let made = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    made.and_then(|mut made| writeln!(made, "{secret}").and_then(|()| made.sync_all()))
        .map_err(|e| {
            let file = file.display();
            Stop::Failed(format!(
                "{file}: {e}; name a new file in a directory that is there"
            ))
        })?;
    writeln!(out, "{public}")?;
    Ok(false)
}

/// The log's own directory.
fn log_dir(dir: &Path) -> PathBuf {
    let inside = dir.join("log");
    match dir.join("LOG").exists() || !inside.is_dir() {
        true => dir.to_owned(),
        false => inside,
    }
}

fn survey(of: &Of) -> Result<Survey, Stop> {
    Ok(Survey::of(
        &log_dir(&of.dir),
        Arc::new(RealMedia::default()),
    )?)
}

fn damage_json(damage: &Damage) -> Value {
    json!({
        "kind": damage.kind.name(),
        "path": damage.path.display().to_string(),
        "segment": damage.segment.map(|s| s.to_string()),
        "from": damage.lost.map(|l| l.from.0),
        "to": damage.lost.map(|l| l.to.0),
        "what": damage.what,
        "stored_crc32": format!("{:08x}", damage.stored),
        "computed_crc32": format!("{:08x}", damage.computed),
    })
}

fn say_damage(out: &mut impl Write, damage: &[Damage]) -> io::Result<()> {
    for damage in damage {
        writeln!(out, "damage ({}): {damage}", damage.kind.name())?;
    }
    Ok(())
}

fn ls(out: &mut impl Write, of: &Of) -> Ran {
    let survey = survey(of)?;
    let files = survey.files()?;
    if of.json {
        let file = |f: &FileInfo| {
            json!({
                "name": f.name,
                "state": f.state.name(),
                "bytes": f.bytes,
                "segment": f.segment.map(|s| s.0),
                "base": f.base.map(|l| l.0),
                "end": f.end.map(|l| l.0),
                "frames": f.frames,
                "epoch": f.epoch.map(|e| e.to_string()),
                "slack_given_back": f.punched,
            })
        };
        let all = json!({
            "files": files.iter().map(file).collect::<Vec<_>>(),
            "damage": survey.damage().iter().map(damage_json).collect::<Vec<_>>(),
        });
        writeln!(out, "{all:#}")?;
        return Ok(false);
    }
    let rows: Vec<Vec<String>> = (files.iter())
        .map(|f| {
            vec![
                f.name.clone(),
                f.state.name().to_owned(),
                f.bytes.to_string(),
                or_dash(f.base),
                or_dash(f.end),
                or_dash(f.frames),
                or_dash(f.epoch),
            ]
        })
        .collect();
    table(
        out,
        &["NAME", "STATE", "BYTES", "BASE", "END", "FRAMES", "EPOCH"],
        &rows,
    )?;
    say_damage(out, survey.damage())?;
    Ok(false)
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Data => "data",
        Kind::Control => "control",
        Kind::Void => "void",
    }
}

fn shown(payload: &[u8], args: &Dump) -> String {
    let piece = &payload[..payload.len().min(args.payload_bytes)];
    let mut text = match args.hex {
        true => piece.iter().map(|b| format!("{b:02x}")).collect(),
        false => piece.escape_ascii().to_string(),
    };
    if piece.len() < payload.len() && !args.of.json {
        text += "...";
    }
    text
}

fn dump(out: &mut impl Write, args: &Dump) -> Ran {
    let survey = survey(&args.of)?;
    let from = Lsn(args.from.max(survey.oldest().0));
    let mut pieces = survey.pieces(from);
    let (mut damaged, mut left) = (false, args.count);
    if !args.of.json {
        writeln!(
            out,
            "{:>14}  {:<22}  {:<7}  {:>9}  {:<8}  PAYLOAD",
            "LSN", "EPOCH", "KIND", "LENGTH", "CRC32"
        )?;
    }
    while left > 0 {
        match pieces.next()? {
            None => break,
            Some(Piece::Released(_)) => {}
            Some(Piece::Lost(damage)) => {
                if damage.lost.is_some_and(|lost| lost.from.0 >= args.to) {
                    break;
                }
                damaged = true;
                match args.of.json {
                    true => writeln!(out, "{}", json!({ "damage": damage_json(&damage) }))?,
                    false => say_damage(out, &[damage])?,
                }
            }
            Some(Piece::Frame(frame)) => {
                let header = frame.header;
                if header.lsn.0 >= args.to {
                    break;
                }
                left -= 1;
                let payload = shown(frame.payload, args);
                if args.of.json {
                    let line = json!({
                        "lsn": header.lsn.0,
                        "epoch": frame.epoch.to_string(),
                        "kind": kind_name(header.kind),
                        "length": header.payload_len,
                        "crc32": format!("{:08x}", header.crc),
                        "payload": payload,
                    });
                    writeln!(out, "{line}")?;
                } else {
                    writeln!(
                        out,
                        "{:>14}  {:<22}  {:<7}  {:>9}  {:08x}  {payload}",
                        header.lsn.0,
                        frame.epoch.to_string(),
                        kind_name(header.kind),
                        header.payload_len,
                        header.crc
                    )?;
                }
            }
        }
    }
    Ok(damaged)
}

fn verify_options(threads: Option<usize>) -> VerifyOptions {
    let mut options = VerifyOptions::default();
    if let Some(threads) = threads {
        options.threads = threads;
    }
    if let Some(say) = progress::bytes() {
        options.progress = Some(Arc::new(move |Progress { done, of }| say(done, of)));
    }
    options
}

fn verified_json(v: &Verified) -> Value {
    json!({
        "log": v.log.to_string(),
        "node": v.node.to_string(),
        "oldest": v.oldest.0,
        "synced": v.synced.0,
        "end": v.end.0,
        "segments": v.segments,
        "frames": v.frames,
        "bytes": v.bytes,
        "clean": v.is_clean(),
        "lost": v.lost().iter().map(|l| json!({"from": l.from.0, "to": l.to.0})).collect::<Vec<_>>(),
        "damage": v.damage.iter().map(damage_json).collect::<Vec<_>>(),
    })
}

fn run_verify(out: &mut impl Write, args: &Verify) -> Ran {
    let verified = verify(&log_dir(&args.of.dir), &verify_options(args.threads))?;
    if args.of.json {
        writeln!(out, "{:#}", verified_json(&verified))?;
        return Ok(!verified.is_clean());
    }
    say_damage(out, &verified.damage)?;
    let lost = verified.lost();
    for range in &lost {
        writeln!(out, "lost: LSN {range}, {} bytes", range.bytes())?;
    }
    let first = (verified.damage.iter()).find(|d| d.lost.is_some());
    match first.or(verified.damage.first()) {
        None => write!(out, "clean")?,
        Some(first) => match first.lost {
            Some(lost) => write!(
                out,
                "damaged from LSN {} on ({})",
                lost.from,
                first.kind.name()
            )?,
            None => write!(out, "damaged ({}), no frame is lost", first.kind.name())?,
        },
    }
    writeln!(
        out,
        ": {} frames, {} bytes in {} segments, LSN {}..{}, synced to {}",
        verified.frames,
        verified.bytes,
        verified.segments,
        verified.oldest,
        verified.end,
        verified.synced
    )?;
    Ok(!verified.is_clean())
}

fn salvage(out: &mut impl Write, args: &Salvage) -> Ran {
    let options = verify_options(args.threads);
    let done = salvage_to(&log_dir(&args.of.dir), &args.to, &options)?;
    if args.of.json {
        let all = json!({
            "log": done.log.to_string(),
            "node": done.node.to_string(),
            "oldest": done.oldest.0,
            "end": done.end.0,
            "frames": done.frames,
            "bytes": done.bytes,
            "lost": done.lost.iter().map(|l| json!({"from": l.from.0, "to": l.to.0})).collect::<Vec<_>>(),
            "damage": done.damage.iter().map(damage_json).collect::<Vec<_>>(),
        });
        writeln!(out, "{all:#}")?;
        return Ok(!done.lost.is_empty());
    }
    say_damage(out, &done.damage)?;
    for range in &done.lost {
        writeln!(
            out,
            "lost: LSN {range}, {} bytes; void frames stand there in the copy",
            range.bytes()
        )?;
    }
    writeln!(
        out,
        "copied {} frames, {} bytes, LSN {}..{} to {}: log {}, node {}",
        done.frames,
        done.bytes,
        done.oldest,
        done.end,
        args.to.display(),
        done.log,
        done.node
    )?;
    Ok(!done.lost.is_empty())
}

fn stat(out: &mut impl Write, of: &Of) -> Ran {
    let survey = survey(of)?;
    let files = survey.files()?;
    let count = |state| files.iter().filter(|f| f.state == state).count();
    let segments = count(esker_wal::FileState::Closed) + count(esker_wal::FileState::Open);
    let prepared = count(esker_wal::FileState::Prepared);
    let bytes: u64 = files.iter().map(|f| f.bytes).sum();
    let end = {
        // The newest segment alone is read.
        let newest = files.iter().filter_map(|f| f.base).max();
        let mut pieces = survey.pieces(newest.unwrap_or(survey.oldest()));
        while pieces.next()?.is_some() {}
        pieces.position()
    };
    if of.json {
        let all = json!({
            "log": survey.log_id().to_string(),
            "node": survey.node_id().to_string(),
            "birth": survey.birth().0,
            "oldest": survey.oldest().0,
            "synced": survey.synced().0,
            "end": end.0,
            "clean": survey.clean(),
            "segments": segments,
            "prepared": prepared,
            "file_bytes": bytes,
            "epochs": survey.epochs().iter().map(|e| json!({
                "number": e.epoch.number,
                "id": format!("{:016x}", e.epoch.id),
                "begin": e.begin.0,
            })).collect::<Vec<_>>(),
            "slots": survey.slots().map(|(name, position, lost)| json!({
                "name": name,
                "position": position.0,
                "lost": lost,
            })).collect::<Vec<_>>(),
            "damage": survey.damage().iter().map(damage_json).collect::<Vec<_>>(),
        });
        writeln!(out, "{all:#}")?;
        return Ok(false);
    }
    let rows = [
        ("log", survey.log_id().to_string()),
        ("node", survey.node_id().to_string()),
        ("birth", survey.birth().to_string()),
        ("oldest", survey.oldest().to_string()),
        ("synced", survey.synced().to_string()),
        ("end", end.to_string()),
        ("closed cleanly", survey.clean().to_string()),
        ("segments", segments.to_string()),
        ("prepared", prepared.to_string()),
        ("bytes of files", bytes.to_string()),
    ];
    for (name, value) in rows {
        writeln!(out, "{name:<15} {value}")?;
    }
    for start in survey.epochs() {
        writeln!(
            out,
            "epoch           {} from LSN {}",
            start.epoch, start.begin
        )?;
    }
    for (name, position, lost) in survey.slots() {
        let lost = if lost { ", lost" } else { "" };
        writeln!(out, "slot            {name} at LSN {position}{lost}")?;
    }
    say_damage(out, survey.damage())?;
    Ok(false)
}
