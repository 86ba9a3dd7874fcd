//! The server: event loops and control thread around a node, and what commands may ask of it.
//!
//! The control thread does what blocks (promotion), what is periodic, and tells the owner when somebody asked
//! for the end. Threads: `esker-io-N`, `esker-control`; `close` joins them.

use crate::acl::Acl;
use crate::audit::{Audit, STOPPING, Ticket};
use crate::control::{Ack, ClientInfo, RoleView, ServerControl, WriteRefusal};
use crate::net::registry::Registry;
use crate::net::{Net, NetLimits, Request};
use crate::node::Node;
use crate::session::Session;
use crate::stats::Stats;
use crate::status;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use esker_wal::Lsn;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the control thread looks around.
const TICK: Duration = Duration::from_millis(100);

/// Options of [`Server::start`].
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Bounds.
    pub limits: NetLimits,
    /// Threads that serve clients. Default (0) is one.
    pub io_threads: usize,
    /// What CONFIG GET shows beside what the server knows itself.
    pub shown: Vec<(String, String)>,
    /// Where `CONFIG GET dir` points.
    pub data_dir: String,
    /// Where what clients do is recorded. Default: nowhere.
    pub audit: Option<Arc<Audit>>,
    /// The users. Default: nobody is asked who they are.
    pub acl: Arc<Acl>,
}

/// What all threads of a server share.
pub struct Shared {
    pub(crate) node: Arc<Node>,
    pub(crate) limits: NetLimits,
    pub(crate) registry: Registry,
    pub(crate) stats: Stats,
    pub(crate) run_id: String,
    pub(crate) addr: SocketAddr,
    pub(crate) config: RwLock<BTreeMap<String, String>>,
    pub(crate) audit: Option<Arc<Audit>>,
    pub(crate) acl: Arc<Acl>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("node", &self.node)
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

/// Somebody asked for the end over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopAsked {
    /// Without waiting for held replies.
    pub now: bool,
}

/// A running server. Dropped, it closes.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    net: Arc<Mutex<Net>>,
    control: Option<JoinHandle<()>>,
    stop_control: Sender<()>,
    asked: Receiver<StopAsked>,
}

impl Server {
    /// Serves `node` to the clients of `listener`.
    pub fn start(
        node: Arc<Node>,
        listener: TcpListener,
        options: ServerOptions,
    ) -> io::Result<Server> {
        let mut limits = options.limits;
        limits.ack_timeout = node.promise().ack_timeout;
        let addr = listener.local_addr()?;
        let mut config = status::initial_config(&node, &limits, addr, &options.data_dir);
        config.insert("aclfile".into(), options.acl.shown());
        config.extend(options.shown);
        let shared = Arc::new(Shared {
            node,
            limits,
            registry: Registry::default(),
            stats: Stats::new(),
            run_id: status::random_hex_40(),
            addr,
            config: RwLock::new(config),
            audit: options.audit,
            acl: options.acl,
        });
        let (requests, incoming) = crossbeam_channel::unbounded();
        let (stop_control, stopped) = crossbeam_channel::bounded(1);
        let (ask, asked) = crossbeam_channel::unbounded();
        let net = Arc::new(Mutex::new(Net::start(
            listener,
            options.io_threads,
            &shared,
            &requests,
        )?));
        let control = std::thread::Builder::new()
            .name("esker-control".into())
            .spawn({
                let (shared, net) = (Arc::clone(&shared), Arc::clone(&net));
                move || control_loop(&shared, &net, &incoming, &stopped, &ask)
            });
        let control = match control {
            Ok(control) => control,
            Err(error) => {
                let mut net = net.lock();
                net.stop(true);
                net.join();
                return Err(error);
            }
        };
        Ok(Server {
            shared,
            net,
            control: Some(control),
            stop_control,
            asked,
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// What its threads share; for metrics.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Tells when a client asked for the end (SHUTDOWN).
    #[must_use]
    pub fn asked(&self) -> &Receiver<StopAsked> {
        &self.asked
    }

    /// Stops: no new clients, no new requests; held replies and slow readers are waited for (bounded by
    /// `drain_timeout`) unless `now`; then every thread is joined. The node stays open.
    pub fn close(&mut self, now: bool) {
        let Some(control) = self.control.take() else {
            return;
        };
        let mut well = {
            // The loops do not take this lock, and the control thread takes it only for an answer.
            let mut net = self.net.lock();
            net.stop(now);
            net.join()
        };
        let _ = self.stop_control.send(());
        well &= control.join().is_ok();
        self.shared.node.unwatch();
        if !well {
            tracing::error!("a thread of the server panicked; see above");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close(true);
    }
}

fn control_loop(
    shared: &Arc<Shared>,
    net: &Mutex<Net>,
    incoming: &Receiver<Request>,
    stopped: &Receiver<()>,
    ask: &Sender<StopAsked>,
) {
    loop {
        match incoming.recv_timeout(TICK) {
            Ok(Request::Promote {
                thread,
                client,
                ticket,
            }) => {
                let result = shared.node.promote();
                match &result {
                    Ok(()) => tracing::info!("promoted: this node is the primary now"),
                    Err(error) => tracing::warn!(%error, "promotion failed"),
                }
                // While the server closes, nobody waits for the answer any more.
                let mailbox = net.try_lock().map(|net| net.mailbox(thread));
                record_promotion(shared.audit.as_deref(), ticket, result, move |result| {
                    if let Some(mailbox) = mailbox {
                        mailbox.answer(client, result);
                    }
                });
            }
            Ok(Request::Shutdown { now }) => {
                let _ = ask.send(StopAsked { now });
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if stopped.try_recv().is_ok() {
            break;
        }
        shared.stats.sample(Instant::now());
        shared.node.look_behind();
        if let Some(engine) = shared.node.engine()
            && !shared.node.is_replica()
        {
            // What a stuck safe position still shows must survive compaction.
            let safe = shared.node.safe();
            engine.store().keep_from(safe);
            if let Some(peers) = shared.node.peers() {
                peers.set_safe(safe);
            }
        }
    }
    // Whoever could ask is gone.
    for request in incoming.try_iter() {
        if let (Request::Promote { ticket, .. }, Some(audit)) = (request, &shared.audit)
            && let Some(ticket) = ticket
        {
            audit.not_executed(&ticket, STOPPING);
        }
    }
}

/// Records how a promotion went, whether its client is still there or not; then has it answered.
fn record_promotion(
    audit: Option<&Audit>,
    ticket: Option<Ticket>,
    result: Result<(), String>,
    answer: impl FnOnce(Result<(), String>) + Send + 'static,
) {
    let (Some(audit), Some(ticket)) = (audit, ticket) else {
        return answer(result);
    };
    let reply = match &result {
        Ok(()) => "+OK\r\n".to_owned(),
        Err(text) => format!("-{text}\r\n"),
    };
    let due = audit.finish_elsewhere(ticket, reply.as_bytes());
    match due.is_empty() {
        true => answer(result),
        false => audit.ask(due, move |_| answer(result)),
    }
}

impl ServerControl for Shared {
    fn write_gate(&self) -> Result<(), WriteRefusal> {
        self.node.write_gate()
    }

    fn read_at(&self) -> Option<Lsn> {
        self.node.read_at()
    }

    fn role(&self) -> RoleView {
        self.node.role()
    }

    fn is_replica(&self) -> bool {
        self.node.is_replica()
    }

    fn replicas_at(&self, ack: Ack, lsn: Lsn) -> usize {
        self.node
            .peers()
            .map_or(0, |peers| peers.count_at(ack, lsn))
    }

    fn synced(&self) -> Lsn {
        self.node
            .engine()
            .map_or(Lsn::ZERO, |engine| engine.store().log().synced())
    }

    fn info(&self, sections: &[&[u8]]) -> String {
        status::info(self, sections)
    }

    fn clients(&self) -> Vec<ClientInfo> {
        let now = Instant::now();
        self.registry
            .all()
            .iter()
            .map(|entry| ClientInfo {
                line: entry.line(now),
            })
            .collect()
    }

    fn client_line(&self, session: &Session) -> String {
        let now = Instant::now();
        self.registry.get(session.id).map_or_else(
            || format!("id={} addr={}", session.id, session.addr),
            |entry| {
                entry.refresh(session, 0, now);
                entry.line(now)
            },
        )
    }

    fn config_get(&self, patterns: &[&[u8]]) -> Vec<(String, String)> {
        self.config
            .read()
            .iter()
            .filter(|(name, _)| {
                patterns
                    .iter()
                    .any(|pattern| status::glob(&pattern.to_ascii_lowercase(), name.as_bytes()))
            })
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    fn config_set(&self, pairs: &[(&[u8], &[u8])]) -> Result<(), String> {
        status::config_set(self, pairs)
    }

    fn acl(&self) -> &Acl {
        &self.acl
    }

    fn reset_stats(&self) {
        self.stats.reset();
        if let Some(engine) = self.node.engine() {
            engine.reset_stats();
        }
    }

    fn run_id(&self) -> &str {
        &self.run_id
    }
}
