//! From the command line to a running server and back: what the binaries do.
//!
//! Order of a start: arguments, log lines, signals, ports (so that a port in use is told before anything else
//! happens), data directory, store, replication, clients. A stop goes the other way.

use crate::acl::Acl;
use crate::audit::{Audit, Program};
use crate::config::{
    self, AuditArgs, Common, Exit, LogFormat, PrimaryArgs, ReplicaArgs, ServerArgs,
};
use crate::control::RoleView;
use crate::metrics::Metrics;
use crate::node::{Durability, Node};
use crate::roles::{Following, ReplicationSide};
use crate::server::{Server, ServerOptions};
use clap::{CommandFactory, FromArgMatches};
use crossbeam_channel::{Receiver, select};
use esker_lsm::{OpenError, Store, StoreRecovered};
use esker_replication::datadir::{DataDir, DataDirError, Role, RoleRecord};
use esker_replication::{Replica, ReplicaKeys, ReplicaOptions, ReplicationError};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Why a start failed, in one line with the remedy.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl From<DataDirError> for Failure {
    fn from(error: DataDirError) -> Failure {
        let remedy = match &error {
            DataDirError::Io { source, .. } => remedy(source),
            _ => "",
        };
        Failure(format!("{error}{remedy}"))
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        let remedy = match &error {
            OpenError::Io { source, .. }
            | OpenError::Log(esker_wal::OpenError::Io { source, .. }) => remedy(source),
            _ => "",
        };
        Failure(format!("{error}{remedy}"))
    }
}

impl From<ReplicationError> for Failure {
    fn from(error: ReplicationError) -> Failure {
        Failure(error.to_string())
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure(text)
    }
}

/// What a person can do about an error of the system.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; make it writable for this user, or choose another directory with --data-dir"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space there, or choose another directory with --data-dir"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "; choose a directory with --data-dir"
        }
        _ => "",
    }
}

/// The program `primary`.
#[must_use]
pub fn primary() -> ExitCode {
    program(
        "primary",
        |args: &PrimaryArgs| &args.common.server,
        run_primary,
    )
}

/// The program `replica`.
#[must_use]
pub fn replica() -> ExitCode {
    program(
        "replica",
        |args: &ReplicaArgs| &args.common.server,
        run_replica,
    )
}

/// A program of this name: takes its arguments and runs.
pub(crate) fn program<A: FromArgMatches + CommandFactory>(
    name: &str,
    server: impl FnOnce(&A) -> &ServerArgs,
    run: impl FnOnce(&A) -> Result<(), Failure>,
) -> ExitCode {
    let args = match config::load(std::env::args_os().collect()) {
        Ok(args) => args,
        Err(exit) => return leave(&exit),
    };
    match server(&args).version {
        true => print_version(name),
        false => finish(run(&args)),
    }
}

fn leave(exit: &Exit) -> ExitCode {
    if exit.code == 0 {
        say(exit.text.trim_end());
    } else {
        complain(exit.text.trim_end());
    }
    ExitCode::from(exit.code)
}

fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(text)) => {
            complain(&format!("error: {}", text.replace('\n', " ")));
            ExitCode::FAILURE
        }
    }
}

fn print_version(program: &str) -> ExitCode {
    say(&format!(
        "{program} {} ({})",
        env!("CARGO_PKG_VERSION"),
        esker_replication::transport::zmq_version()
    ));
    ExitCode::SUCCESS
}

/// A line for the person who started it. Where nobody listens, nothing is lost.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

pub(crate) fn start_tracing(args: &ServerArgs) -> Result<(), Failure> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_new(&args.log_level).map_err(|error| {
        Failure(format!(
            "--log-level {}: {error}; use error, warn, info, debug or trace",
            args.log_level
        ))
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    // It fails only where a subscriber is set already, which then serves.
    let _ = match args.log_format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
            .try_init(),
    };
    Ok(())
}

/// Turns SIGTERM and SIGINT into messages; a second one ends the process at once. SIGHUP is one too where there is somebody for it.
pub(crate) struct SignalThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    pub(crate) received: Receiver<i32>,
    pub(crate) hangups: Receiver<()>,
}

impl SignalThread {
    pub(crate) fn start(hangups_too: bool) -> Result<Self, Failure> {
        let fail = |error: io::Error| Failure(format!("watching for signals: {error}"));
        let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(fail)?;
        if hangups_too {
            signals.add_signal(SIGHUP).map_err(fail)?;
        }
        let handle = signals.handle();
        let (sender, received) = crossbeam_channel::unbounded();
        let (hung_up, hangups) = crossbeam_channel::bounded(1);
        let thread = std::thread::Builder::new()
            .name("esker-signals".into())
            .spawn(move || {
                let mut seen = false;
                for signal in signals.forever() {
                    if signal == SIGHUP {
                        // One that waits already does for this one too.
                        let _ = hung_up.try_send(());
                        continue;
                    }
                    if seen {
                        complain("stopping at once: a second signal came");
                        signal_hook::low_level::exit(128 + signal);
                    }
                    seen = true;
                    let _ = sender.send(signal);
                }
            })
            .map_err(fail)?;
        Ok(SignalThread {
            handle,
            thread: Some(thread),
            received,
            hangups,
        })
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn bind(what: &str, flag: &str, addr: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(addr).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("another program listens there; stop it, or choose another with {flag}")
            }
            io::ErrorKind::PermissionDenied => {
                format!("ports below 1024 are for root; choose another with {flag}")
            }
            _ => format!("choose an address of this machine with {flag}"),
        };
        Failure(format!(
            "can't listen for {what} on {addr}: {error}; {remedy}"
        ))
    })
}

/// The ports that are bound before anything else.
struct Ports {
    clients: TcpListener,
    metrics: Option<TcpListener>,
}

impl Ports {
    fn bind(clients: SocketAddr, metrics: Option<SocketAddr>) -> Result<Self, Failure> {
        Ok(Ports {
            clients: bind("clients", "--listen", clients)?,
            metrics: metrics
                .map(|addr| bind("metrics", "--metrics-listen", addr))
                .transpose()?,
        })
    }
}

/// A node that serves clients.
struct Running {
    node: Arc<Node>,
    server: Server,
    metrics: Option<Metrics>,
}

impl Running {
    fn start(
        node: Arc<Node>,
        ports: Ports,
        common: &Common,
        audit: Option<Arc<Audit>>,
        acl: Arc<Acl>,
    ) -> Result<Self, Failure> {
        let mut limits = common.limits();
        limits.clients_max = crate::descriptors::clients(limits.clients_max, 1);
        let options = ServerOptions {
            limits,
            io_threads: usize::from(common.io_threads),
            data_dir: common.data_dir.display().to_string(),
            audit,
            acl,
            shown: vec![
                ("io-threads".into(), common.io_threads.to_string()),
                ("log-keep".into(), common.log_keep.to_string()),
                ("segment-size".into(), common.sizes.segment_size.to_string()),
                (
                    "min-sync-replicas".into(),
                    common.min_sync_replicas.to_string(),
                ),
                (
                    "ack-timeout".into(),
                    common.ack_timeout.as_millis().to_string(),
                ),
            ],
        };
        let server = Server::start(Arc::clone(&node), ports.clients, options)
            .map_err(|error| Failure(format!("starting to serve clients: {error}")))?;
        let metrics = ports
            .metrics
            .map(|listener| Metrics::start(listener, server.shared()))
            .transpose()
            .map_err(|error| Failure(format!("starting to serve metrics: {error}")))?;
        Ok(Running {
            node,
            server,
            metrics,
        })
    }

    fn say_ports(&self) {
        let addr = self.server.addr();
        if addr.ip().is_loopback() {
            say(&format!(
                "clients:    {addr}; try redis-cli -p {}",
                addr.port()
            ));
        } else {
            say(&format!(
                "clients:    {addr}; try redis-cli -h {} -p {}",
                addr.ip(),
                addr.port()
            ));
        }
        warn_open(addr, &self.server.shared().acl);
        if let Some(metrics) = &self.metrics {
            say(&format!("metrics:    http://{}/metrics", metrics.addr()));
        }
    }

    /// Stops serving. `now` waits for nothing.
    fn stop(&mut self, now: bool) {
        self.server.close(now);
        if let Some(metrics) = &mut self.metrics {
            metrics.close();
        }
        if let Some(peers) = self.node.peers() {
            peers.close();
        }
        if let Some(engine) = self.node.engine() {
            engine.close();
        }
    }
}

/// Says what speaks against serving these clients there.
pub(crate) fn warn_open(addr: SocketAddr, acl: &Acl) {
    if let Some(why) = acl.warning() {
        tracing::warn!("{why}");
    }
    if addr.ip().is_loopback() {
        return;
    }
    if acl.is_open() {
        tracing::warn!(%addr, "clients beyond this machine may connect without a password: keep the port behind a firewall, or give --acl-file");
    } else {
        tracing::warn!(%addr, "clients beyond this machine may connect, and passwords go over the network as they are: keep the port on a trusted network, or behind TLS");
    }
}

/// What SIGHUP asks for: another file of the trail, and the users read anew.
pub(crate) fn hang_up(audit: Option<&Audit>, acl: &Acl) {
    if let Some(audit) = audit {
        audit.rotate();
    }
    if acl.enforced().is_none() {
        return;
    }
    let reloaded = match audit {
        Some(audit) => audit.reload(|| acl.reload()),
        None => Ok(acl.reload()),
    };
    match reloaded {
        Ok(Ok(users)) => {
            tracing::info!(users, "the ACL file was read anew");
            if let Some(why) = acl.warning() {
                tracing::warn!("{why}");
            }
        }
        Ok(Err(error)) => tracing::error!(%error, "the users are what they were"),
        Err(why) => {
            tracing::error!(
                why,
                "the ACL file was not read anew: the users are what they were"
            );
        }
    }
}

/// Waits for a reason to stop; whether held replies are not to be waited for. `tick` is run now and then.
fn wait_for_end(
    signals: &SignalThread,
    server: &Server,
    audit: Option<&Audit>,
    acl: &Acl,
    mut tick: impl FnMut(),
) -> bool {
    loop {
        select! {
            recv(signals.received) -> signal => {
                let name = if signal == Ok(SIGINT) { "SIGINT" } else { "SIGTERM" };
                say(&format!("{name}: draining; once more stops at once"));
                return false;
            }
            recv(signals.hangups) -> _ => hang_up(audit, acl),
            recv(server.asked()) -> asked => {
                say("SHUTDOWN: draining");
                return asked.is_ok_and(|asked| asked.now);
            }
            default(Duration::from_millis(50)) => tick(),
        }
    }
}

/// Opens the audit trail, where one is asked for.
pub(crate) fn open_audit(
    args: &AuditArgs,
    node: String,
    program: Program,
    acl: &Arc<Acl>,
) -> Result<Option<Arc<Audit>>, Failure> {
    let Some(setup) = args.setup(node, program, acl.clone()) else {
        return match (&args.audit_policy, &args.audit_key_file) {
            (None, None) => Ok(None),
            _ => Err(Failure(
                "--audit-policy and --audit-key-file are about an audit trail: say where it is with --audit-dir".into(),
            )),
        };
    };
    let audit = Audit::open(&setup).map_err(|error| Failure(error.to_string()))?;
    let policy = match &setup.policy {
        Some(path) => path.display().to_string(),
        None => "the default policy".to_owned(),
    };
    say(&format!("audit:      {}, by {policy}", setup.dir.display()));
    Ok(Some(audit))
}

/// Closes it, behind all that may be recorded.
pub(crate) fn close_audit(audit: Option<&Audit>) -> Result<(), Failure> {
    let closed = audit.map_or(Ok(()), Audit::close);
    closed.map_err(|error| Failure(format!("closing the audit trail: {error}")))
}

fn say_recovered(recovered: &StoreRecovered, took: Duration) {
    let log = &recovered.log;
    if log.created {
        say("recovered:  nothing, a new store was made");
        return;
    }
    let closed = if log.clean {
        "closed cleanly"
    } else {
        "not closed cleanly"
    };
    say(&format!(
        "recovered:  {closed}; log from LSN {} to {}, {} tables, {} frames replayed, {} ms",
        log.oldest,
        log.end,
        recovered.tables,
        recovered.replayed_frames,
        took.as_millis()
    ));
    if let Some(why) = &log.reading_only {
        say(&format!(
            "            for reading only, {why}; free some space, writes resume by themselves"
        ));
    }
    if log.cut_bytes > 0 {
        say(&format!(
            "            {} bytes of a torn tail were cut; they were never synced, so no write answered as durable is in them",
            log.cut_bytes
        ));
    }
}

fn say_durability(common: &Common) {
    let text = match common.durability {
        Durability::Always => "always: a write is answered once it is on stable storage".to_owned(),
        Durability::Interval => format!(
            "interval: a write is answered at once and synced within {} ms; a power cut may take what is younger",
            common.sync_interval.as_millis()
        ),
        Durability::No => {
            "no: a write is answered at once; a kill loses nothing, a power cut may".to_owned()
        }
    };
    say(&format!("durability: {text}"));
    if common.min_sync_replicas > 0 {
        say(&format!(
            "            and once {} replica(s) have it ({:?}), else UNKNOWNOUTCOME after {} ms",
            common.min_sync_replicas,
            common.ack,
            common.ack_timeout.as_millis()
        ));
    }
}

fn say_node(program: &str, dir: &std::path::Path, store: &Store) {
    let log = store.log();
    let shown = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    say(&format!(
        "Esker {} {program}, data in {}",
        env!("CARGO_PKG_VERSION"),
        shown.display()
    ));
    say(&format!(
        "node:       {}, store {}, epoch {}",
        log.node_id(),
        log.log_id(),
        log.epoch()
    ));
}

/// Closes the store and says what is safe.
fn close_store(store: &Store) -> Result<(), Failure> {
    let closed = store.close();
    let synced = store.log().synced();
    match closed {
        Ok(()) => {
            say(&format!(
                "closed:     everything below LSN {synced} is on stable storage"
            ));
            Ok(())
        }
        Err(error) => Err(Failure(format!(
            "closing the store: {error}; what was acknowledged is kept, the next start recovers it"
        ))),
    }
}

fn run_primary(args: &PrimaryArgs) -> Result<(), Failure> {
    let common = &args.common;
    start_tracing(&common.server)?;
    let signals = SignalThread::start(common.server.hears_hangups())?;
    let acl = common.server.acl.load()?;
    let ports = Ports::bind(args.listen, args.metrics_listen.0)?;
    let side = ReplicationSide::new(&args.replication_listen, common)?;
    let data = DataDir::open(&common.data_dir)?;
    if data
        .role()
        .is_some_and(|record| record.role == Role::Replica)
    {
        return Err(Failure(format!(
            "{} belongs to a replica; start `replica --data-dir {}` and promote it with REPLICAOF NO ONE, or choose another directory with --data-dir",
            common.data_dir.display(),
            common.data_dir.display()
        )));
    }
    serve_as_primary("primary", &signals, ports, &side, &data, common, &acl)
}

fn serve_as_primary(
    program: &str,
    signals: &SignalThread,
    ports: Ports,
    side: &ReplicationSide,
    data: &DataDir,
    common: &Common,
    acl: &Arc<Acl>,
) -> Result<(), Failure> {
    let audit = open_audit(
        &common.server.audit,
        data.node().to_string(),
        Program::Store,
        acl,
    )?;
    let begin = Instant::now();
    let mut options = common.store_options();
    if !data.has_store()? {
        options.log.create = Some(esker_wal::Create {
            log: esker_wal::LogId::random(),
            node: data.node(),
            base: esker_wal::Lsn::ZERO,
        });
    }
    let (store, recovered) = Store::open(data.path(), options)?;
    let took = begin.elapsed();
    let served = (|| {
        esker_replication::resume_promotion(data, &store)?;
        data.set_role(RoleRecord {
            role: Role::Primary,
            epoch: store.log().epoch().number,
        })?;
        let node = Node::primary(store.clone(), common.promise());
        if let Some(serving) = side.start(&store, &Arc::downgrade(&node))? {
            node.set_peers(serving);
        }
        let mut running =
            Running::start(Arc::clone(&node), ports, common, audit.clone(), acl.clone())?;
        say_node(program, data.path(), &store);
        say_recovered(&recovered, took);
        say_durability(common);
        running.say_ports();
        match node.peers().and_then(|peers| peers.endpoint()) {
            Some(endpoint) => say(&format!(
                "replicas:   {endpoint}; try replica --data-dir ./esker-replica --primary {endpoint}"
            )),
            None => say("replicas:   none can connect (--replication-listen off)"),
        }
        let now = wait_for_end(signals, &running.server, audit.as_deref(), acl, || {});
        running.stop(now);
        Ok(())
    })();
    let closed = close_store(&store);
    served.and(closed).and(close_audit(audit.as_deref()))
}

fn run_replica(args: &ReplicaArgs) -> Result<(), Failure> {
    let common = &args.common;
    start_tracing(&common.server)?;
    let signals = SignalThread::start(common.server.hears_hangups())?;
    let acl = common.server.acl.load()?;
    let ports = Ports::bind(args.listen, args.metrics_listen.0)?;
    let side = ReplicationSide::new(&args.replication_listen, common)?;
    let data = Arc::new(DataDir::open(&common.data_dir)?);
    if data
        .role()
        .is_some_and(|record| record.role == Role::Primary)
    {
        say(&format!(
            "{} belongs to a primary (a replica that was promoted stays one): serving as primary, not following {}",
            common.data_dir.display(),
            args.primary
        ));
        let program = "replica, as primary";
        return serve_as_primary(program, &signals, ports, &side, &data, common, &acl);
    }
    let keys = match (
        &common.curve_secret_file,
        &args.curve_public,
        &args.curve_primary,
    ) {
        (Some(secret), Some(public), Some(primary)) => Some(ReplicaKeys {
            public: public.clone(),
            secret: config::read_key(secret)?,
            primary: primary.clone(),
        }),
        (None, None, None) => None,
        _ => {
            return Err(Failure(
                "CURVE needs all three of --curve-secret-file, --curve-public and --curve-primary"
                    .into(),
            ));
        }
    };
    let audit = open_audit(
        &common.server.audit,
        data.node().to_string(),
        Program::Store,
        &acl,
    )?;
    let node = Node::replica(common.promise());
    let mut options = ReplicaOptions::new(Arc::clone(&data), &args.primary);
    options.name.clone_from(&args.name);
    options.keys = keys;
    options.store = common.store_options();
    let clock = Arc::downgrade(&node);
    // A replica's clock is never behind what it heard (design 7).
    options.expiry_listener = Some(Arc::new(move |millis| {
        if let Some(node) = clock.upgrade()
            && let Some(engine) = node.engine()
        {
            engine.clock().observe(millis);
        }
    }));
    let begin = Instant::now();
    let replica = Replica::start(options)?;
    let served = (|| {
        let following = Following::new(replica.clone(), Arc::downgrade(&node), side);
        node.set_upstream(Arc::clone(&following) as Arc<dyn crate::Upstream>);
        let ring = Arc::downgrade(&node);
        let _guard = replica.watch(Arc::new(move || {
            if let Some(node) = ring.upgrade() {
                node.ring();
            }
        }));
        if let Some(store) = replica.store() {
            say_node("replica", data.path(), &store);
            if let Some(recovered) = replica.recovered() {
                say_recovered(&recovered, begin.elapsed());
            }
            node.install(store);
        } else {
            say(&format!(
                "Esker {} replica, data in {}",
                env!("CARGO_PKG_VERSION"),
                data.path().display()
            ));
            say("recovered:  nothing, waiting for the primary to say which store this is");
        }
        let mut running =
            Running::start(Arc::clone(&node), ports, common, audit.clone(), acl.clone())?;
        say(&format!("primary:    {}", args.primary));
        running.say_ports();
        let now = wait_for_end(&signals, &running.server, audit.as_deref(), &acl, || {
            if node.engine().is_none()
                && let Some(store) = replica.store()
            {
                node.install(store);
            }
            following.tell_state();
        });
        running.stop(now);
        Ok(())
    })();
    // A promoted replica's store is ours to close, else the replica closes it.
    let promoted = matches!(node.role(), RoleView::Primary { .. });
    let store = replica.store();
    let closed = replica.close().map_err(Failure::from);
    let store_closed = match store {
        Some(store) => {
            if promoted {
                close_store(&store)
            } else {
                if closed.is_ok() {
                    say(&format!(
                        "closed:     everything below LSN {} is on stable storage",
                        store.log().synced()
                    ));
                }
                Ok(())
            }
        }
        None => Ok(()),
    };
    let audit_closed = close_audit(audit.as_deref());
    served.and(closed).and(store_closed).and(audit_closed)
}
