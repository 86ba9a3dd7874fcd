//! Configuration: flags, environment, a TOML file, defaults; in this order of precedence.
//!
//! The file has the flags' long names as keys (`data-dir = "/var/lib/esker"`). Its entries are put through the
//! flags' own parser, behind those that were given, so there is one set of names, checks and messages.

use crate::Acl;
use crate::control::Ack;
use crate::net::NetLimits;
use crate::node::{Durability, Promise};
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, ValueEnum};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// As [`Ack`], on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "named as in Ack")]
pub enum AckArg {
    Received,
    Durable,
    Applied,
}

impl From<AckArg> for Ack {
    fn from(arg: AckArg) -> Ack {
        match arg {
            AckArg::Received => Ack::Received,
            AckArg::Durable => Ack::Durable,
            AckArg::Applied => Ack::Applied,
        }
    }
}

/// What is recorded of what clients do; all programs take these.
#[derive(Args, Clone, Debug, Default)]
pub struct AuditArgs {
    /// Record who did what in an audit trail in this directory, made where there is none; without it nothing is recorded
    #[arg(long, env = "ESKER_AUDIT_DIR", value_name = "DIR")]
    pub audit_dir: Option<PathBuf>,

    /// What is recorded and how (TOML); without it: logins, connections, configuration, administration, refused and slow
    /// commands, and no data commands
    #[arg(long, env = "ESKER_AUDIT_POLICY", value_name = "FILE")]
    pub audit_policy: Option<PathBuf>,

    /// Keys of the audit trail, made where there are none; keep them where who can write the trail can't read them.
    /// Without it: DIR.keys beside the directory
    #[arg(long, env = "ESKER_AUDIT_KEY_FILE", value_name = "FILE")]
    pub audit_key_file: Option<PathBuf>,
}

impl AuditArgs {
    /// The trail that they ask for, of a node of that name.
    #[must_use]
    pub fn setup(
        &self,
        node: String,
        program: crate::audit::Program,
        acl: Arc<Acl>,
    ) -> Option<crate::audit::Setup> {
        Some(crate::audit::Setup {
            dir: self.audit_dir.clone()?,
            policy: self.audit_policy.clone(),
            keys: self.audit_key_file.clone(),
            node,
            program,
            acl,
        })
    }
}

/// Who may connect; all programs take these.
#[derive(Args, Clone, Debug, Default)]
pub struct AclArgs {
    /// Users and their passwords, a line for each as in Redis: `user NAME on #SHA-256 ~* &* +@all`. Without it whoever connects may do everything
    #[arg(long, env = "ESKER_ACL_FILE", value_name = "FILE")]
    pub acl_file: Option<PathBuf>,
}

impl AclArgs {
    /// The users that they ask for.
    pub fn load(&self) -> Result<Arc<Acl>, String> {
        let acl = match &self.acl_file {
            Some(path) => Acl::load(path).map_err(|error| format!("--acl-file {error}"))?,
            None => Acl::default(),
        };
        Ok(Arc::new(acl))
    }
}

/// How large the store's files are, and what it keeps in memory.
#[derive(Args, Clone, Debug)]
pub struct SizeArgs {
    /// Bytes of a segment file of the log
    #[arg(long, env = "ESKER_SEGMENT_SIZE", value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    pub segment_size: u64,

    /// Bytes of a memtable
    #[arg(long, env = "ESKER_MEMTABLE_SIZE", value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    pub memtable_size: u64,

    /// Bytes of block cache
    #[arg(long, env = "ESKER_CACHE_SIZE", value_name = "SIZE", default_value = "256MiB", value_parser = parse_size)]
    pub cache_size: u64,
}

/// What every server takes: who may come, what is recorded, what it says of itself.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "doc comments become help text")]
    pub acl: AclArgs,

    #[command(flatten)]
    #[allow(missing_docs, reason = "doc comments become help text")]
    pub audit: AuditArgs,

    /// How log lines look
    #[arg(
        long,
        env = "ESKER_LOG_FORMAT",
        value_enum,
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,

    /// Which log lines: error, warn, info, debug, trace, or a filter of tracing-subscriber
    #[arg(
        long,
        env = "ESKER_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log_level: String,

    /// TOML file with any of these names as keys; flags and environment outrank it
    #[arg(long, env = "ESKER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print version
    #[arg(long, short = 'V')]
    pub version: bool,
}

impl ServerArgs {
    /// Whether SIGHUP asks for anything.
    #[must_use]
    pub fn hears_hangups(&self) -> bool {
        self.audit.audit_dir.is_some() || self.acl.acl_file.is_some()
    }
}

/// What `primary` and `replica` take.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Directory of the data; made where there is none
    #[arg(
        long,
        env = "ESKER_DATA_DIR",
        value_name = "DIR",
        default_value = "./esker-data"
    )]
    pub data_dir: PathBuf,

    /// When a write is answered: `always` once it is on stable storage, `interval` and `no` at once (a kill
    /// loses nothing, a power cut the bytes not yet synced)
    #[arg(
        long,
        env = "ESKER_DURABILITY",
        value_enum,
        value_name = "WHEN",
        default_value = "always"
    )]
    pub durability: Durability,

    /// With `--durability interval`: longest time between syncs
    #[arg(long, env = "ESKER_SYNC_INTERVAL", value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub sync_interval: Duration,

    /// Replicas that must have a write before it is acknowledged
    #[arg(
        long,
        env = "ESKER_MIN_SYNC_REPLICAS",
        value_name = "N",
        default_value_t = 0
    )]
    pub min_sync_replicas: usize,

    /// What counts as having it
    #[arg(
        long,
        env = "ESKER_ACK",
        value_enum,
        value_name = "WHAT",
        default_value = "durable"
    )]
    pub ack: AckArg,

    /// How long a reply is held before it becomes UNKNOWNOUTCOME
    #[arg(long, env = "ESKER_ACK_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub ack_timeout: Duration,

    /// Log kept for replicas still to come
    #[arg(long, env = "ESKER_LOG_KEEP", value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    pub log_keep: u64,

    /// Most log that a replica which is away may hold back; beyond it, it must be rebuilt
    #[arg(long, env = "ESKER_LOG_KEEP_MAX", value_name = "SIZE", default_value = "64GiB", value_parser = parse_size)]
    pub log_keep_max: u64,

    #[command(flatten)]
    #[allow(missing_docs, reason = "doc comments become help text")]
    pub sizes: SizeArgs,

    /// Threads that serve clients
    #[arg(long, env = "ESKER_IO_THREADS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub io_threads: u16,

    /// Clients at once
    #[arg(long, env = "ESKER_MAX_CLIENTS", value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_clients: u32,

    /// Secret key of this node for replication (CURVE): a file with 40 characters of Z85
    #[arg(long, env = "ESKER_CURVE_SECRET_FILE", value_name = "FILE")]
    pub curve_secret_file: Option<PathBuf>,

    /// Public keys of replicas that may connect (CURVE), Z85
    #[arg(
        long,
        env = "ESKER_CURVE_ALLOW",
        value_name = "KEY",
        value_delimiter = ','
    )]
    pub curve_allow: Vec<String>,

    /// Let replication listen beyond loopback without keys: whoever reaches the port may read everything
    #[arg(long, env = "ESKER_ALLOW_REMOTE_PLAINTEXT", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    pub allow_remote_plaintext: bool,

    #[command(flatten)]
    #[allow(missing_docs, reason = "doc comments become help text")]
    pub server: ServerArgs,
}

/// Serves a durable store to Redis clients, and streams its log to replicas.
#[derive(Parser, Clone, Debug)]
#[command(name = "primary", disable_version_flag = true)]
pub struct PrimaryArgs {
    /// Where clients connect
    #[arg(long, env = "ESKER_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:6380", value_parser = parse_addr)]
    pub listen: SocketAddr,

    /// Where replicas connect; `off` for none
    #[arg(long, env = "ESKER_REPLICATION_LISTEN", value_name = "tcp://ADDR:PORT", default_value = "tcp://127.0.0.1:5560", value_parser = parse_endpoint)]
    pub replication_listen: Endpoint,

    /// Where metrics are served over HTTP; `off` for nowhere
    #[arg(long, env = "ESKER_METRICS_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:9180", value_parser = parse_addr_or_off)]
    pub metrics_listen: AddrOrOff,

    #[command(flatten)]
    #[allow(missing_docs, reason = "doc comments become help text")]
    pub common: Common,
}

/// Follows a primary: holds the same data and serves reads.
#[derive(Parser, Clone, Debug)]
#[command(name = "replica", disable_version_flag = true)]
pub struct ReplicaArgs {
    /// The primary's replication endpoint
    #[arg(
        long,
        env = "ESKER_PRIMARY",
        value_name = "tcp://HOST:PORT",
        default_value = "tcp://127.0.0.1:5560"
    )]
    pub primary: String,

    /// Label of this replica
    #[arg(long, env = "ESKER_NAME", value_name = "NAME", default_value = "")]
    pub name: String,

    /// Where clients connect
    #[arg(long, env = "ESKER_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:6381", value_parser = parse_addr)]
    pub listen: SocketAddr,

    /// Where replicas connect once this one was promoted; `off` for none
    #[arg(long, env = "ESKER_REPLICATION_LISTEN", value_name = "tcp://ADDR:PORT", default_value = "off", value_parser = parse_endpoint)]
    pub replication_listen: Endpoint,

    /// Where metrics are served over HTTP; `off` for nowhere
    #[arg(long, env = "ESKER_METRICS_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:9181", value_parser = parse_addr_or_off)]
    pub metrics_listen: AddrOrOff,

    /// Public key of this replica (CURVE), Z85
    #[arg(long, env = "ESKER_CURVE_PUBLIC", value_name = "KEY")]
    pub curve_public: Option<String>,

    /// Public key of the primary (CURVE), Z85
    #[arg(long, env = "ESKER_CURVE_PRIMARY", value_name = "KEY")]
    pub curve_primary: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "doc comments become help text")]
    pub common: Common,
}

/// An address, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddrOrOff(pub Option<SocketAddr>);

/// A ZeroMQ endpoint, or `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(pub Option<String>);

impl Common {
    /// What a reply waits for.
    #[must_use]
    pub fn promise(&self) -> Promise {
        Promise {
            durability: self.durability,
            min_sync_replicas: self.min_sync_replicas,
            ack: self.ack.into(),
            ack_timeout: self.ack_timeout,
        }
    }

    /// Bounds of the network side.
    #[must_use]
    pub fn limits(&self) -> NetLimits {
        NetLimits {
            clients_max: self.max_clients as usize,
            ..NetLimits::default()
        }
    }

    /// Options of the store, without what creating one needs.
    #[must_use]
    pub fn store_options(&self) -> esker_lsm::StoreOptions {
        esker_lsm::StoreOptions {
            log: esker_wal::LogOptions {
                segment_bytes: self.sizes.segment_size,
                sync_policy: self.durability.sync_policy(self.sync_interval),
                keep_bytes: self.log_keep,
                slot_bytes_max: self.log_keep_max,
                ..esker_wal::LogOptions::default()
            },
            memtable_bytes: usize::try_from(self.sizes.memtable_size).unwrap_or(usize::MAX),
            cache_bytes: self.sizes.cache_size,
            ..esker_lsm::StoreOptions::default()
        }
    }
}

/// Arguments as given, or why not: text for standard error (or output, for help) and the exit code.
pub struct Exit {
    /// What to print.
    pub text: String,
    /// Process exit code.
    pub code: u8,
}

impl std::fmt::Debug for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit {}: {}", self.code, self.text)
    }
}

impl From<clap::Error> for Exit {
    fn from(error: clap::Error) -> Exit {
        Exit {
            text: error.render().to_string(),
            code: u8::try_from(error.exit_code()).unwrap_or(2),
        }
    }
}

/// Reads the command line, the environment and the file.
pub fn load<T: FromArgMatches + CommandFactory>(args: Vec<OsString>) -> Result<T, Exit> {
    let command = T::command();
    let given = command.clone().try_get_matches_from(&args)?;
    let Some(path) = given.get_one::<PathBuf>("config").cloned() else {
        return Ok(T::from_arg_matches(&given)?);
    };
    let fail = |what: String| Exit {
        text: format!("error: {}: {what}\n", path.display()),
        code: 2,
    };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| fail(format!("{error}; name a readable file with --config")))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| fail(error.to_string().trim_end().to_owned()))?;
    let mut more = args.clone();
    for (key, value) in &table {
        let known: Vec<&str> = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .filter(|name| !matches!(*name, "config" | "help" | "version"))
            .collect();
        let Some(arg) = command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(key) && known.contains(&key.as_str()))
        else {
            let near = nearest(key, &known)
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            return Err(fail(format!("unknown key `{key}`{near}")));
        };
        let outranked = matches!(
            given.value_source(arg.get_id().as_str()),
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        );
        if outranked {
            continue;
        }
        for value in flat(value) {
            let value = value.ok_or_else(|| {
                fail(format!(
                    "key `{key}`: a string, a number or true/false is expected"
                ))
            })?;
            more.push(format!("--{key}={value}").into());
        }
    }
    let all = command.try_get_matches_from(more).map_err(|error| {
        let text = error.render().to_string();
        fail(text.trim_start_matches("error: ").trim_end().to_owned())
    })?;
    Ok(T::from_arg_matches(&all)?)
}

/// The values of a TOML entry as the command line would have them.
fn flat(value: &toml::Value) -> Vec<Option<String>> {
    match value {
        toml::Value::Array(values) => values.iter().flat_map(flat).collect(),
        toml::Value::String(text) => vec![Some(text.clone())],
        toml::Value::Integer(number) => vec![Some(number.to_string())],
        toml::Value::Boolean(flag) => vec![Some(flag.to_string())],
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => vec![None],
    }
}

/// The known name that is most like `word`, if one is at all.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.replace('_', "-");
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(&word, name), *name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, name)| name)
}

/// `64MiB`, `1GiB`, `512K`, `100` (bytes).
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err("use bytes with KiB, MiB, GiB or TiB, as in 64MiB".into()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| "use a whole number with KiB, MiB, GiB or TiB, as in 64MiB".into())
}

/// `500ms`, `1s`, `2m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let millis: u64 = match unit.to_ascii_lowercase().as_str() {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err("use a number with ms, s, m or h, as in 500ms".into()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(millis))
        .filter(|millis| *millis <= 7 * 24 * 3_600_000)
        .map(Duration::from_millis)
        .ok_or_else(|| "use a whole number with ms, s, m or h, up to a week, as in 500ms".into())
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (&text[..at], text[at..].trim())
}

/// `127.0.0.1:6380`, `[::1]:6380`, `localhost:6380`, or a port alone, on loopback.
pub(crate) fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.trim_start_matches(':').parse::<u16>() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    let text = text
        .strip_prefix("localhost:")
        .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    text.parse()
        .map_err(|_| "use ADDRESS:PORT, as in 127.0.0.1:6380 or [::]:6380".into())
}

pub(crate) fn parse_addr_or_off(text: &str) -> Result<AddrOrOff, String> {
    if text == "off" {
        return Ok(AddrOrOff(None));
    }
    parse_addr(text).map(|addr| AddrOrOff(Some(addr)))
}

fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    if text == "off" {
        return Ok(Endpoint(None));
    }
    if !text.starts_with("tcp://") || !text[6..].contains(':') {
        return Err("use tcp://ADDRESS:PORT, as in tcp://127.0.0.1:5560, or off".into());
    }
    Ok(Endpoint(Some(text.to_owned())))
}

/// Reads a key file.
pub fn read_key(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!(
            "--curve-secret-file {}: {error}; name a readable file with the key",
            path.display()
        )
    })?;
    let key = text.trim().to_owned();
    if key.len() != 40 {
        return Err(format!(
            "--curve-secret-file {}: {} characters, but a key has 40 (Z85)",
            path.display(),
            key.len()
        ));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn args(list: &[&str]) -> Vec<OsString> {
        std::iter::once("primary")
            .chain(list.iter().copied())
            .map(OsString::from)
            .collect()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn without_arguments_a_primary_serves_esker_data_and_syncs_always() {
        let primary: PrimaryArgs = load(args(&[])).unwrap();
        assert_eq!(primary.common.data_dir, PathBuf::from("./esker-data"));
        assert_eq!(primary.common.durability, Durability::Always);
        assert_eq!(primary.listen.to_string(), "127.0.0.1:6380");
        assert_eq!(primary.common.log_keep, 1 << 30);
        assert_eq!(primary.common.ack_timeout, Duration::from_secs(5));
    }

    #[test]
    fn flags_outrank_the_file_and_the_file_outranks_defaults() {
        let file = file(
            "durability = \"no\"\nlisten = \"127.0.0.1:7000\"\nmin-sync-replicas = 2\nlog-keep = \"2GiB\"\nallow-remote-plaintext = true\ncurve-allow = [\"a\", \"b\"]\n",
        );
        let path = file.path().to_str().unwrap();
        let primary: PrimaryArgs =
            load(args(&["--config", path, "--listen", "127.0.0.1:7001"])).unwrap();
        assert_eq!(primary.listen.port(), 7001);
        assert_eq!(primary.common.durability, Durability::No);
        assert_eq!(primary.common.min_sync_replicas, 2);
        assert_eq!(primary.common.log_keep, 2 << 30);
        assert!(primary.common.allow_remote_plaintext);
        assert_eq!(primary.common.curve_allow, ["a", "b"]);
    }

    #[test]
    fn a_wrong_key_or_value_is_named_with_the_nearest_valid_one() {
        let cases = [
            (
                "durabilty = \"no\"",
                "unknown key `durabilty`; did you mean `durability`?",
            ),
            ("min_sync_replicas = 1", "did you mean `min-sync-replicas`?"),
            ("durability = \"alway\"", "'alway'"),
            ("ack-timeout = 5", "as in 500ms"),
            ("listen = [", "TOML"),
            ("log-keep = { a = 1 }", "key `log-keep`"),
        ];
        for (text, expected) in cases {
            let file = file(text);
            let path = file.path().to_str().unwrap();
            let exit = load::<PrimaryArgs>(args(&["--config", path])).unwrap_err();
            assert_eq!(exit.code, 2, "{text}");
            assert!(exit.text.contains(expected), "{text}: {}", exit.text);
            assert!(exit.text.contains(path), "{text}: {}", exit.text);
        }
        let exit = load::<PrimaryArgs>(args(&["--durabilty", "no"])).unwrap_err();
        assert!(exit.text.contains("--durability"), "{}", exit.text);
    }

    #[test]
    fn sizes_and_times_have_units() {
        for (text, expected) in [
            ("100", Some(100)),
            ("64MiB", Some(64 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("2k", Some(2048)),
            ("x", None),
            ("1.5G", None),
            ("99999999999999TiB", None),
        ] {
            assert_eq!(parse_size(text).ok(), expected, "{text}");
        }
        for (text, expected) in [
            ("500ms", Some(500)),
            ("1s", Some(1000)),
            ("2m", Some(120_000)),
            ("5", None),
            ("-1s", None),
        ] {
            assert_eq!(
                parse_duration(text).ok(),
                expected.map(Duration::from_millis),
                "{text}"
            );
        }
    }
}
