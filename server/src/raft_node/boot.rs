//! From the command line to a running member and back.

use super::{Begin, MembersOver, OnFollower, RaftOptions, RaftServer, ReadMode};
use crate::audit::Program;
use crate::boot::{
    Failure, SignalThread, bind, close_audit, hang_up, open_audit, program, say, start_tracing,
    warn_open,
};
use crate::config::{
    self, AddrOrOff, ServerArgs, SizeArgs, parse_addr, parse_addr_or_off, parse_duration,
    parse_size,
};
use clap::Parser;
use crossbeam_channel::select;
use signal_hook::consts::SIGINT;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Where metrics are served when nothing is said of it.
const METRICS: &str = "127.0.0.1:9191";

/// A member of a cluster that elects its leader itself: a replicated store for Redis clients.
#[derive(Parser, Clone, Debug)]
#[command(name = "raft-node", disable_version_flag = true)]
pub struct RaftNodeArgs {
    /// Directory of the data
    #[arg(
        long,
        env = "ESKER_DATA_DIR",
        value_name = "DIR",
        default_value = "./esker-raft"
    )]
    pub data_dir: PathBuf,

    /// This node's id, from 1 on; the directory is bound to it
    #[arg(long, env = "ESKER_ID", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub id: Option<u64>,

    /// Where members reach each other. This node's own is where it listens; the others count with --bootstrap alone, later the cluster knows its members
    #[arg(long, env = "ESKER_CLUSTER", value_name = "N=tcp://ADDR:PORT", value_delimiter = ',', value_parser = parse_member)]
    pub cluster: Vec<(u64, String)>,

    /// Where this node listens for members, if that is not its own address in --cluster: behind a proxy, or an address that is translated
    #[arg(long, env = "ESKER_MEMBER_LISTEN", value_name = "tcp://ADDR:PORT")]
    pub member_listen: Option<String>,

    /// Number of the cluster, the same on all members: keeps clusters apart
    #[arg(long, env = "ESKER_CLUSTER_ID", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub cluster_id: u64,

    /// First start of a new cluster, once on each of the members that --cluster names; refused where there is a log already
    #[arg(long, conflicts_with = "join", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    pub bootstrap: bool,

    /// On an empty directory: wait until a leader adds this node (RAFT.ADD)
    #[arg(long, num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    pub join: bool,

    /// To join a cluster that was recovered from a lost majority: its incarnation, which `esker cluster recover` and RAFT.STATUS say
    #[arg(
        long,
        env = "ESKER_INCARNATION",
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub incarnation: u64,

    /// Where clients connect
    #[arg(long, env = "ESKER_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:6391", value_parser = parse_addr)]
    pub listen: SocketAddr,

    /// What others are told of where this node's clients connect; where it listens if not given
    #[arg(long, env = "ESKER_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,

    /// Where metrics are served over HTTP; `off` for nowhere. Not given: 127.0.0.1:9191, and nowhere, with a warning, where another program has that port
    #[arg(long, env = "ESKER_METRICS_LISTEN", value_name = "ADDR:PORT", value_parser = parse_addr_or_off)]
    pub metrics_listen: Option<AddrOrOff>,

    /// What a read answers
    #[arg(
        long,
        env = "ESKER_READ",
        value_enum,
        value_name = "HOW",
        default_value = "linearizable"
    )]
    pub read: ReadMode,

    /// With --read lease: how much faster one node's clock may run than another's, per mille
    #[arg(long, env = "ESKER_CLOCK_DRIFT_MAX", value_name = "PER MILLE", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=500))]
    pub clock_drift_max: u32,

    /// What a node that does not lead does with a command on keys
    #[arg(
        long,
        env = "ESKER_ON_FOLLOWER",
        value_enum,
        value_name = "HOW",
        default_value = "forward"
    )]
    pub on_follower: OnFollower,

    /// Without a leader for so long, up to twice that, a node campaigns; from 50ms on
    #[arg(long, env = "ESKER_ELECTION_TIMEOUT", value_name = "TIME", default_value = "500ms", value_parser = parse_duration)]
    pub election_timeout: Duration,

    /// How long a command may take before it is answered with an error
    #[arg(long, env = "ESKER_REQUEST_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub request_timeout: Duration,

    /// Secret key of this node (CURVE): a file with 40 characters of Z85, as `esker curve-keys` makes it
    #[arg(long, env = "ESKER_CURVE_SECRET_FILE", value_name = "FILE")]
    pub curve_secret_file: Option<PathBuf>,

    /// Public keys of all members, this one too (CURVE, Z85): nobody else is let in
    #[arg(long, env = "ESKER_CURVE_MEMBERS", value_name = "N=KEY", value_delimiter = ',', value_parser = parse_key)]
    pub curve_members: Vec<(u64, String)>,

    /// How members speak where there are no keys, the same on all of them
    #[arg(
        long,
        env = "ESKER_MEMBERS_OVER",
        value_enum,
        value_name = "WHAT",
        default_value = "tcp"
    )]
    pub members_over: MembersOver,

    /// Let members connect from beyond loopback: whoever reaches the port can speak as a member
    #[arg(long, env = "ESKER_ALLOW_REMOTE_PLAINTEXT", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    pub allow_remote_plaintext: bool,

    /// Clients at once; each that reads has a thread
    #[arg(long, env = "ESKER_MAX_CLIENTS", value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_clients: u32,

    #[command(flatten)]
    #[allow(missing_docs, reason = "doc comments become help text")]
    pub sizes: SizeArgs,

    /// Bytes of snapshots that this node sends in a second, to all new members together, at most; from 1MiB on
    #[arg(long, env = "ESKER_SNAPSHOT_RATE_MAX", value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    pub snapshot_rate_max: u64,

    #[command(flatten)]
    #[allow(missing_docs, reason = "doc comments become help text")]
    pub server: ServerArgs,
}

/// `1=tcp://127.0.0.1:5571`
fn parse_member(text: &str) -> Result<(u64, String), String> {
    let parsed = text.split_once('=').and_then(|(id, address)| {
        let id = id.trim().parse().ok().filter(|id| *id > 0)?;
        address
            .starts_with("tcp://")
            .then(|| (id, address.to_owned()))
    });
    parsed.ok_or_else(|| "use ID=tcp://ADDRESS:PORT, as in 1=tcp://127.0.0.1:5571".into())
}

/// `1=KEY`
fn parse_key(text: &str) -> Result<(u64, String), String> {
    let parsed = text.split_once('=').and_then(|(id, key)| {
        let id = id.trim().parse().ok().filter(|id| *id > 0)?;
        (key.len() == 40).then(|| (id, key.to_owned()))
    });
    parsed.ok_or_else(|| "use ID=KEY with the 40 characters of a public key in Z85".into())
}

/// What is given for each node.
fn by_node(flag: &str, given: &[(u64, String)]) -> Result<BTreeMap<u64, String>, Failure> {
    let mut map = BTreeMap::new();
    for (id, text) in given {
        if map.insert(*id, text.clone()).is_some() {
            return Err(Failure(format!(
                "{flag} names node {id} twice; name each once"
            )));
        }
    }
    Ok(map)
}

impl RaftNodeArgs {
    fn options(&self) -> Result<RaftOptions, Failure> {
        let id = self.id.ok_or_else(|| {
            Failure("--id is missing: the number of this node in the cluster, from 1 on".into())
        })?;
        let keys = match (&self.curve_secret_file, self.curve_members.is_empty()) {
            (None, true) => None,
            (Some(file), false) => Some((
                config::read_key(file).map_err(Failure)?,
                by_node("--curve-members", &self.curve_members)?,
            )),
            _ => {
                return Err(Failure(
                    "CURVE needs both --curve-secret-file and --curve-members".into(),
                ));
            }
        };
        if self.election_timeout < Duration::from_millis(50) || self.request_timeout.is_zero() {
            return Err(Failure(
                "--election-timeout must be at least 50ms, and --request-timeout more than 0"
                    .into(),
            ));
        }
        Ok(RaftOptions {
            dir: self.data_dir.clone(),
            cluster: self.cluster_id,
            id,
            members: by_node("--cluster", &self.cluster)?,
            begin: match (self.bootstrap, self.join) {
                (true, _) => Begin::Bootstrap,
                (false, true) => Begin::Join,
                _ => Begin::No,
            },
            member_listen: self.member_listen.clone(),
            incarnation: self.incarnation,
            advertise: self.advertise.clone(),
            read: self.read,
            clock_drift_max: self.clock_drift_max,
            on_follower: self.on_follower,
            keys,
            election_timeout: self.election_timeout,
            request_timeout: self.request_timeout,
            members_over: self.members_over,
            allow_remote_plaintext: self.allow_remote_plaintext,
            clients_max: self.max_clients as usize,
            segment_bytes: self.sizes.segment_size,
            memtable_bytes: usize::try_from(self.sizes.memtable_size).unwrap_or(usize::MAX),
            cache_bytes: self.sizes.cache_size,
            snapshot_rate_max: self.snapshot_rate_max,
            audit: None,
            acl: self.server.acl.load()?,
        })
    }
}

/// The program `raft-node`.
#[must_use]
pub fn main() -> ExitCode {
    program("raft-node", |args: &RaftNodeArgs| &args.server, run)
}

/// An address that was asked for has to be free. The default one goes to the first of several nodes on a machine; the others say that they
/// have none.
fn bind_metrics(asked: Option<AddrOrOff>) -> Result<Option<TcpListener>, Failure> {
    if let Some(AddrOrOff(asked)) = asked {
        return asked
            .map(|addr| bind("metrics", "--metrics-listen", addr))
            .transpose();
    }
    match TcpListener::bind(METRICS) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => {
            tracing::warn!(addr = METRICS, %error, "this node serves no metrics: give it an address of its own with --metrics-listen, or off");
            Ok(None)
        }
    }
}

fn run(args: &RaftNodeArgs) -> Result<(), Failure> {
    start_tracing(&args.server)?;
    let mut options = args.options()?;
    // Two each: who has sent what ends a connection from another thread.
    options.clients_max = crate::descriptors::clients(options.clients_max, 2);
    let acl = options.acl.clone();
    let signals = SignalThread::start(args.server.hears_hangups())?;
    let listener = bind("clients", "--listen", args.listen)?;
    let metrics = bind_metrics(args.metrics_listen)?;
    let begin = options.begin;
    let audit = open_audit(
        &args.server.audit,
        options.id.to_string(),
        Program::Raft,
        &acl,
    )?;
    options.audit.clone_from(&audit);
    let mut server =
        RaftServer::start(listener, options).map_err(|error| Failure(error.to_string()))?;
    let metrics = metrics
        .map(|listener| server.serve_metrics(listener))
        .transpose()
        .map_err(|error| Failure(format!("starting to serve metrics: {error}")))?;
    say(&format!(
        "Esker {} raft-node {}, data in {}",
        env!("CARGO_PKG_VERSION"),
        args.id.unwrap_or_default(),
        args.data_dir.display()
    ));
    if begin == Begin::Bootstrap {
        say("cluster:    founded; start this node without --bootstrap from now on");
    }
    say(&format!("members:    {}", server.endpoint()));
    let addr = server.addr();
    say(&format!(
        "clients:    {addr}; try redis-cli -h {} -p {}",
        addr.ip(),
        addr.port()
    ));
    if let Some(addr) = metrics {
        say(&format!("metrics:    http://{addr}/metrics"));
    }
    warn_open(addr, &acl);
    let (mut now, mut failed) = (false, None);
    loop {
        select! {
            recv(signals.received) -> signal => {
                let name = if signal == Ok(SIGINT) { "SIGINT" } else { "SIGTERM" };
                say(&format!("{name}: draining; once more stops at once"));
                break;
            }
            recv(signals.hangups) -> _ => hang_up(audit.as_deref(), &acl),
            recv(server.asked()) -> asked => {
                say("SHUTDOWN: draining");
                now = asked.unwrap_or(true);
                break;
            }
            default(Duration::from_millis(200)) => {
                failed = server.handle().down();
                if failed.is_some() {
                    break;
                }
            }
        }
    }
    server.close(now);
    let closed = close_audit(audit.as_deref());
    match failed {
        Some(why) => Err(Failure(format!("the node failed: {why}"))),
        None => {
            closed?;
            say("closed:     what was acknowledged is on stable storage of a quorum");
            Ok(())
        }
    }
}
